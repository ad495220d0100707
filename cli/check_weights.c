/* check_weights.c - random matrices of every format: codes are random bits, scales are drawn so
 * that elements have the size of real weights. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "cli/check.h"
#include "kernels/kernels.h"

#define F(t, n)                                                                                    \
    {                                                                                              \
#t, SL_##t, SL_F32, 0, 0, 0, n                                                             \
    }
const struct sl_check_format sl_check_formats[] = {
    F(F32, 0),
    F(F16, 0),
    F(BF16, 0),
    F(Q4_0, 0),
    F(Q4_1, 0),
    F(Q5_0, 0),
    F(Q5_1, 0),
    F(Q8_0, 0),
    F(Q2_K, 0),
    F(Q3_K, 0),
    F(Q4_K, 0),
    F(Q5_K, 0),
    F(Q6_K, 0),
    F(IQ4_NL, 0),
    F(IQ4_XS, 0),
    F(MXFP4, 4),
    F(NVFP4, 4),
    {"FP8 row", SL_F8_E4M3, SL_F32, 1, 0, 0, 8},
    {"FP8 128x128", SL_F8_E4M3, SL_F32, 128, 128, 0, 8},
    {"E5M2 row", SL_F8_E5M2, SL_F32, 1, 0, 0, 8},
    {"FP4 E4M3", SL_F4, SL_F8_E4M3, 1, 16, 0, 4},
    {"FP4 E8M0", SL_F4, SL_E8M0, 1, 32, 0, 4},
    {"AWQ", SL_U4, SL_F16, 1, 128, 1, 0},
    {"GPTQ 8", SL_U8, SL_F16, 1, 128, 1, 0},
    {"INT8 row", SL_I8, SL_F32, 1, 0, 0, 0},
    {"NF4", SL_CB4, SL_F32, 1, 64, 0, 0},
};
#undef F
const int sl_check_n_formats = SL_ARRAY_LEN(sl_check_formats);

/* Where the scales of a block are: up to two halfs, then bytes. */
static const struct block_scales {
    enum sl_dtype type;
    int half[2]; /* offset, or -1 */
    int byte, n_bytes;
    float size; /* of the halfs */
} blocks[] = {
    {SL_Q4_0, {0, -1}, 0, 0, 4e-3f},   {SL_Q4_1, {0, 2}, 0, 0, 4e-3f},
    {SL_Q5_0, {0, -1}, 0, 0, 2e-3f},   {SL_Q5_1, {0, 2}, 0, 0, 2e-3f},
    {SL_Q8_0, {0, -1}, 0, 0, 3e-4f},   {SL_Q2_K, {80, 82}, 0, 0, 2e-3f},
    {SL_Q3_K, {108, -1}, 0, 0, 4e-4f}, {SL_Q4_K, {0, 2}, 0, 0, 1e-4f},
    {SL_Q5_K, {0, 2}, 0, 0, 6e-5f},    {SL_Q6_K, {208, -1}, 0, 0, 2e-5f},
    {SL_IQ4_NL, {0, -1}, 0, 0, 4e-4f}, {SL_IQ4_XS, {0, -1}, 0, 0, 3e-5f},
    {SL_MXFP4, {-1, -1}, 0, 1, 0},     {SL_NVFP4, {-1, -1}, 0, 4, 0},
};

#define CODEBOOK 16

static uint8_t *random_bytes(uint64_t seed, size_t n)
{
    size_t words = n / 8 + 1;
    uint64_t *w = malloc(words * sizeof *w);
    for (size_t i = 0; w && i < words; i++) w[i] = sl_mix64(seed + i);
    return (uint8_t *)w;
}

float *sl_check_numbers(uint64_t seed, int64_t n)
{
    float *x = aligned_alloc(64, ((size_t)n * sizeof *x / 64 + 1) * 64);
    for (int64_t i = 0; x && i < n; i++) { /* the sum of four uniforms */
        uint64_t r = sl_mix64((seed << 40) + (uint64_t)i);
        int sum =
            (int)(r & 0xffff) + (int)(r >> 16 & 0xffff) + (int)(r >> 32 & 0xffff) + (int)(r >> 48);
        x[i] = (float)(sum - 131070) / 37837.0f;
    }
    return x;
}

/* One scale, `size` times something between 1 and 2, as entry i of a table of its type. */
static void put_scale(void *table, enum sl_dtype type, int64_t i, float size, uint8_t random)
{
    float x = size * (1 + (float)random / 256);
    uint16_t half = sl_float_to_half(x), brain = sl_float_to_bf16(x);
    if (type == SL_F32)
        memcpy((float *)table + i, &x, sizeof x);
    else if (type == SL_F16)
        memcpy((uint16_t *)table + i, &half, sizeof half);
    else if (type == SL_BF16)
        memcpy((uint16_t *)table + i, &brain, sizeof brain);
    else if (type == SL_E8M0) /* 2^-8 .. 2^-5 */
        ((uint8_t *)table)[i] = (uint8_t)(119 + random % 4);
    else /* E4M3, 2^-6 and more: every element is a normal number */
        ((uint8_t *)table)[i] = (uint8_t)(8 + random % 48);
}

static void fix_floats(enum sl_dtype type, void *data, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint8_t r = ((uint8_t *)data)[i * (type == SL_F32 ? 4 : 2)];
        put_scale(data, type, i, r & 1 ? 0.02f : -0.015f, r);
    }
}

static void fix_blocks(enum sl_dtype type, uint8_t *data, size_t bytes)
{
    size_t step = (size_t)sl_dtype_block_bytes(type);
    for (size_t b = 0; b < SL_ARRAY_LEN(blocks); b++) {
        const struct block_scales *s = &blocks[b];
        if (s->type != type) continue;
        for (uint8_t *p = data; p + step <= data + bytes; p += step) {
            for (int h = 0; h < 2; h++)
                if (s->half[h] >= 0)
                    put_scale(p + s->half[h], SL_F16, 0, h ? s->size * 4 : s->size, p[s->half[h]]);
            for (int i = 0; i < s->n_bytes; i++)
                put_scale(p + s->byte + i, type == SL_MXFP4 ? SL_E8M0 : SL_F8_E4M3, 0, 0,
                          p[s->byte + i]);
        }
    }
}

/* 8-bit floats without the upper half of their exponents: no NaN, no infinity. */
static void fix_bytes(uint8_t *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) data[i] &= 0xbf;
}

static int make_scales(const struct sl_check_format *f, struct sl_matrix *m, void *memory[])
{
    static const float codebook[CODEBOOK] = {-1,    -0.7f, -0.53f, -0.4f, -0.28f, -0.18f, -0.1f, 0,
                                             0.08f, 0.16f, 0.25f,  0.34f, 0.44f,  0.56f,  0.72f, 1};
    int64_t per_row = sl_matrix_scales_per_row(m);
    int64_t n = (m->rows + m->scale_rows - 1) / m->scale_rows * per_row;
    float size = f->type == SL_CB4 ? 0.04f : f->type == SL_U4 ? 4e-3f : 3e-4f;
    uint8_t *scales = malloc((size_t)n * 4), *zeros = f->zeros ? malloc((size_t)n) : NULL;
    memory[1] = scales;
    memory[2] = zeros;
    if (!scales || (f->zeros && !zeros)) return SL_ENOMEM;
    if (f->type == SL_F8_E4M3 || f->type == SL_F8_E5M2) size = 0.03f;
    for (int64_t i = 0; i < n; i++) {
        uint8_t r = (uint8_t)(sl_mix64((uint64_t)i + 99) >> 20);
        put_scale(scales, f->scale_type, i, size, r);
        if (zeros) zeros[i] = f->type == SL_U4 ? r % 16 : (uint8_t)(120 + r % 16);
    }
    m->scales = scales;
    m->scale_type = f->scale_type;
    m->zeros = zeros;
    if (f->type == SL_CB4) m->codebook = codebook;
    return 0;
}

int sl_check_matrix(const struct sl_check_format *f, int64_t rows, int64_t cols,
                    struct sl_matrix *out, void *memory[SL_CHECK_PIECES])
{
    size_t bytes = (size_t)rows * (size_t)sl_dtype_row_bytes(f->type, (uint64_t)cols);
    memset(memory, 0, sizeof *memory * SL_CHECK_PIECES);
    uint8_t *data = random_bytes((uint64_t)f->type << 32, bytes);
    memory[0] = data;
    if (!data) return SL_ENOMEM;
    *out = sl_matrix_plain(f->type, rows, cols, data);
    if (sl_dtype_kind(f->type) == SL_KIND_FLOAT) {
        fix_floats(f->type, data, rows * cols);
        return 0;
    }
    if (sl_dtype_kind(f->type) == SL_KIND_BLOCK) {
        fix_blocks(f->type, data, bytes);
        return 0;
    }
    if (f->type == SL_F8_E4M3 || f->type == SL_F8_E5M2) fix_bytes(data, bytes);
    if (f->scale_type == SL_F8_E4M3 || f->scale_type == SL_E8M0) out->factor = 0.5f;
    out->scale_rows = f->scale_rows;
    out->scale_cols = f->scale_cols ? f->scale_cols : cols;
    return make_scales(f, out, memory);
}
