/* quantize_layer.c - one layer's rows into the tensors of the target format. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "model/encode.h"
#include "model/quantize_part.h"

#define INT_GROUP 32

struct layer {
    const struct sl_out_rows *m;
    float *row;
    void *const *data;
    const char *stem;
    struct sl_err *err;
};

/* Reads row n; what is not finite cannot be encoded. */
static int read_row(struct layer *l, int64_t n)
{
    l->m->get(l->m->arg, n, l->row);
    for (int64_t k = 0; k < l->m->cols; k++)
        if (!isfinite(l->row[k]))
            return sl_err_set(l->err, SL_EINPUT,
                              "layer %s: element [%" PRId64 ", %" PRId64
                              "] is not finite; the model is damaged, download it again",
                              l->stem, n, k);
    return 0;
}

static void row_bf16(struct layer *l, int64_t n)
{
    uint16_t *out = (uint16_t *)l->data[0] + n * l->m->cols;
    for (int64_t k = 0; k < l->m->cols; k++) out[k] = sl_encode_bf16(l->row[k]);
}

static void row_fp8(struct layer *l, int64_t n)
{
    sl_encode_row_e4m3(l->row, l->m->cols, (uint8_t *)l->data[0] + n * l->m->cols,
                       (float *)l->data[1] + n);
}

static void row_nvfp4(struct layer *l, int64_t n)
{
    int64_t groups = l->m->cols / 16;
    float global = *(const float *)l->data[2];
    for (int64_t g = 0; g < groups; g++)
        sl_encode_group_nvfp4(l->row + 16 * g, global, (uint8_t *)l->data[0] + (n * groups + g) * 8,
                              (uint8_t *)l->data[1] + n * groups + g);
}

static void row_mxfp4(struct layer *l, int64_t n)
{
    int64_t groups = l->m->cols / 32;
    for (int64_t g = 0; g < groups; g++)
        sl_encode_group_mxfp4(l->row + 32 * g, (uint8_t *)l->data[0] + (n * groups + g) * 16,
                              (uint8_t *)l->data[1] + n * groups + g);
}

/* Little-endian words with the first column low are bytes in order. */
static void row_int(struct layer *l, int64_t n, int bits)
{
    int64_t groups = l->m->cols / INT_GROUP;
    for (int64_t g = 0; g < groups; g++) {
        uint8_t codes[INT_GROUP];
        uint8_t *out = (uint8_t *)l->data[0] + (n * groups + g) * (INT_GROUP * bits / 8);
        sl_encode_group_int(l->row + INT_GROUP * g, INT_GROUP, bits, codes,
                            (uint16_t *)l->data[1] + n * groups + g);
        if (bits == 8)
            memcpy(out, codes, INT_GROUP);
        else
            for (int i = 0; i < INT_GROUP; i += 2)
                out[i / 2] = (uint8_t)(codes[i] | codes[i + 1] << 4);
    }
}

/* NVFP4's scale for the matrix needs the largest element before the first row is written. */
static int global_scale(struct layer *l)
{
    float a = 0;
    for (int64_t n = 0; n < l->m->rows; n++) {
        int r = read_row(l, n);
        if (r) return r;
        for (int64_t k = 0; k < l->m->cols; k++) a = fmaxf(a, fabsf(l->row[k]));
    }
    float s = a > 0 ? SL_E4M3_MAX * SL_E2M1_MAX / a : 1;
    *(float *)l->data[2] = isfinite(s) ? s : 0x1p127f;
    return 0;
}

int sl_out_encode(const struct sl_out_rows *m, enum sl_quantize_to to,
                  void *const data[SL_OUT_TENSORS], const char *stem, struct sl_err *err)
{
    struct layer l = {m, malloc((size_t)m->cols * sizeof(float)), data, stem, err};
    int r = l.row ? 0 : sl_err_set(err, SL_ENOMEM, "layer %s: out of memory", stem);
    if (!r && to == SL_TO_NVFP4) r = global_scale(&l);
    for (int64_t n = 0; n < m->rows && !r; n++) {
        r = read_row(&l, n);
        if (r) break;
        if (to == SL_TO_BF16) row_bf16(&l, n);
        if (to == SL_TO_FP8) row_fp8(&l, n);
        if (to == SL_TO_NVFP4) row_nvfp4(&l, n);
        if (to == SL_TO_MXFP4) row_mxfp4(&l, n);
        if (to == SL_TO_Q8_0) row_int(&l, n, 8);
        if (to == SL_TO_Q4_0) row_int(&l, n, 4);
    }
    if (to == SL_TO_Q8_0 || to == SL_TO_Q4_0)
        memcpy(data[2], (const int64_t[]){m->rows, m->cols}, 2 * sizeof(int64_t));
    free(l.row);
    return r;
}
