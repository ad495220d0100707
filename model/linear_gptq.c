/* linear_gptq.c - GPTQ: codes of 2, 3, 4 or 8 bits packed along the input, transposed.
 *
 * qweight [in*bits/32, out]: a word holds the codes of one output for 32/bits inputs, so 4 and 8
 * bits only need words to change places; 2 and 3 bits are unpacked to 4. qzeros [groups,
 * out*bits/32] stores z - 1 in checkpoints of the first version (the usual one) and z in those of
 * the second; config.json tells. g_idx, when it is not simply k / group, is act-order: inputs are
 * sorted by their group. Widths are read from the shapes, so per-layer overrides ("dynamic") need
 * no look at config.json. (Frantar et al. 2022; layout of AutoGPTQ and GPTQModel.) */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/sl_assert.h"
#include "model/linear_part.h"

/* Is what is stored z - 1? */
static int stores_less_one(const struct sl_linear_job *j, const struct sl_tensor *t, int *less,
                           const char **format)
{
    const char *f = sl_linear_config_text(j->w, "checkpoint_format");
    const char *packing = sl_linear_config_text(j->w, "packing_format");
    if (!*f && strncmp(packing, "auto_round:", 11) == 0) f = packing + 11;
    *format = f;
    *less = 1;
    if (!*f || strcasecmp(f, "gptq") == 0 || strcasecmp(f, "auto_gptq") == 0) return 0;
    *less = 0;
    if (strcasecmp(f, "gptq_v2") == 0 || strcasecmp(f, "gptqmodel") == 0) return 0;
    return sl_job_bad(j, t, SL_EUNSUPPORTED,
                      "GPTQ weights in the layout %s are not run here; use the model in "
                      "checkpoint_format gptq or gptq_v2",
                      f);
}

static int find_bits(const struct sl_linear_job *j, const struct sl_piece *q, int *bits)
{
    static const int known[] = {4, 8, 2, 3};
    for (size_t i = 0; i < SL_ARRAY_LEN(known); i++)
        if (q->ne[1] == sl_words_of(known[i], j->cols)) {
            *bits = known[i];
            return sl_job_shape(j, q, q->ne[1], j->rows);
        }
    return sl_job_bad(j, q->t, SL_EINPUT,
                      "%" PRId64 " words for %" PRId64
                      " inputs: neither 2, 3, 4 nor 8 bits; config.json and weights are of "
                      "different models",
                      q->ne[1], j->cols);
}

/* [groups, words] to [rows, groups] bytes. */
static int turn_zeros(struct sl_linear_job *j, int64_t groups, int bits, uint8_t *out)
{
    struct sl_piece z;
    const char *format;
    int64_t words = sl_words_of(bits, j->rows);
    int less = 1, r = sl_job_take(j, ".qzeros", 0, &z);
    if (!r && z.type != SL_I32)
        r = sl_job_bad(j, z.t, SL_EINPUT, "zero points of type %s, I32 is wanted", z.t->type_name);
    if (!r) r = sl_job_shape(j, &z, groups, words);
    if (!r) r = stores_less_one(j, z.t, &less, &format);
    uint8_t *row = r ? NULL : malloc((size_t)j->rows);
    if (!row)
        return r ? r
                 : sl_err_set(j->err, SL_ENOMEM, "%s: layer %s: out of memory",
                              sl_weights_path(j->w), j->stem);
    for (int64_t g = 0; g < groups; g++) {
        sl_unpack_words((const uint32_t *)z.data + g * words, bits, j->rows, row);
        /* of 8 bits, 255 is the -1 that a zero point of 0 became */
        for (int64_t n = 0; n < j->rows; n++) out[n * groups + g] = (uint8_t)(row[n] + less);
    }
    free(row);
    sl_job_drop(j, &z);
    return 0;
}

/* Words into rows; and codes into another order or width when that is needed. */
static int turn_codes(struct sl_linear_job *j, struct sl_piece *q, int bits, const int32_t *order)
{
    int as_is = !order && (bits == 4 || bits == 8) && j->cols * bits % 32 == 0, r = 0;
    uint32_t *words = as_is ? sl_job_alloc(j, q->bytes) : malloc((size_t)q->bytes + 1);
    uint8_t *codes = (uint8_t *)words;
    if (!words)
        return sl_err_set(j->err, SL_ENOMEM, "%s: layer %s: out of memory", sl_weights_path(j->w),
                          j->stem);
    sl_transpose(q->data, words, q->ne[1], j->rows, sizeof *words);
    sl_job_drop(j, q);
    if (!as_is) {
        r = sl_job_unpack(j, words, bits, order, &codes);
        free(words);
    }
    if (r) return r;
    j->out->m = sl_job_matrix(j, bits > 4 ? SL_U8 : SL_U4, codes);
    j->out->m.order = order;
    return 0;
}

int sl_linear_gptq(struct sl_linear_job *j)
{
    struct sl_piece q, s;
    int64_t groups = 0, size = j->cols;
    int32_t *order = NULL;
    int bits = 4, r = sl_job_take(j, ".qweight", 0, &q);
    if (!r && q.type != SL_I32)
        r = sl_job_bad(j, q.t, SL_EUNSUPPORTED,
                       "GPTQ codes of type %s are not run here; I32 is usual", q.t->type_name);
    if (!r) r = find_bits(j, &q, &bits);
    if (!r && j->cols % 2)
        r = sl_job_bad(j, q.t, SL_EUNSUPPORTED, "an odd number of inputs, %" PRId64, j->cols);
    if (!r) r = sl_job_group_scales(j, &s, &groups, &size);
    if (!r) r = sl_job_order(j, ".g_idx", groups, size, &order);
    if (r) return r;
    uint8_t *zeros = sl_job_alloc(j, (uint64_t)(j->rows * groups));
    void *scales = zeros ? sl_job_alloc(j, s.bytes) : NULL;
    if (!scales) return SL_ENOMEM;
    r = turn_zeros(j, groups, bits, zeros);
    if (!r) r = turn_codes(j, &q, bits, order);
    if (r) return r;
    sl_transpose(s.data, scales, groups, j->rows, sl_dtype_block_bytes(s.type));
    sl_job_drop(j, &s);
    j->out->m.zeros = zeros;
    j->out->m.scales = scales;
    j->out->m.scale_type = s.type;
    j->out->m.scale_cols = size;
    return 0;
}
