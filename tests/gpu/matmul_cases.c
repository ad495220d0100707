/* matmul_cases.c - see matmul_cases.h. */
#include "tests/gpu/matmul_cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/matmul.h"

#define PLAIN(name, type)                                                                          \
    {                                                                                              \
        name, type, SL_F32, 0, 0, 0, 0, 1                                                          \
    }

const struct matmul_case matmul_cases[] = {
    PLAIN("F32", SL_F32),
    PLAIN("F16", SL_F16),
    PLAIN("BF16", SL_BF16),
    PLAIN("Q4_0", SL_Q4_0),
    PLAIN("Q4_1", SL_Q4_1),
    PLAIN("Q5_0", SL_Q5_0),
    PLAIN("Q5_1", SL_Q5_1),
    PLAIN("Q8_0", SL_Q8_0),
    PLAIN("Q2_K", SL_Q2_K),
    PLAIN("Q3_K", SL_Q3_K),
    PLAIN("Q4_K", SL_Q4_K),
    PLAIN("Q5_K", SL_Q5_K),
    PLAIN("Q6_K", SL_Q6_K),
    PLAIN("IQ4_NL", SL_IQ4_NL),
    PLAIN("IQ4_XS", SL_IQ4_XS),
    PLAIN("MXFP4 of GGUF", SL_MXFP4),
    PLAIN("NVFP4 of GGUF", SL_NVFP4),
    {"E4M3, factor", SL_F8_E4M3, SL_F32, 0, 0, 0, 0, 0.013f},
    {"E4M3, tensor", SL_F8_E4M3, SL_F32, -1, -1, 0, 0, 1},
    {"E4M3, rows BF16", SL_F8_E4M3, SL_BF16, 1, -1, 0, 0, 1},
    {"E4M3, 128x128", SL_F8_E4M3, SL_F32, 128, 128, 0, 0, 1},
    {"E4M3, 128x128 BF16", SL_F8_E4M3, SL_BF16, 128, 128, 0, 0, 3},
    {"E4M3, 64x64", SL_F8_E4M3, SL_F32, 64, 64, 0, 0, 1},
    {"E4M3, 24x128", SL_F8_E4M3, SL_F32, 24, 128, 0, 0, 1},
    {"E4M3, 1x128", SL_F8_E4M3, SL_F16, 1, 128, 0, 0, 1},
    {"MXFP8", SL_F8_E4M3, SL_E8M0, 1, 32, 0, 0, 1},
    {"MXFP8 E5M2", SL_F8_E5M2, SL_E8M0, 1, 32, 0, 0, 1},
    {"E5M2, tensor", SL_F8_E5M2, SL_F32, -1, -1, 0, 0, 1},
    {"E5M2, 128x128", SL_F8_E5M2, SL_F32, 128, 128, 0, 0, 1},
    {"E5M2, 1x64", SL_F8_E5M2, SL_F32, 1, 64, 0, 0, 1},
    {"NVFP4", SL_F4, SL_F8_E4M3, 1, 16, 0, 0, 0.00021f},
    {"MXFP4", SL_F4, SL_E8M0, 1, 32, 0, 0, 1},
    {"F4, 1x16 F32", SL_F4, SL_F32, 1, 16, 0, 0, 1},
    {"F4, 1x64 F16", SL_F4, SL_F16, 1, 64, 0, 0, 1},
    {"F4, tensor", SL_F4, SL_F32, -1, -1, 0, 0, 1},
    {"AWQ", SL_U4, SL_F16, 1, 128, 1, 0, 1},
    {"GPTQ act-order", SL_U4, SL_F16, 1, 128, 1, 1, 1},
    {"U4, 1x32 BF16", SL_U4, SL_BF16, 1, 32, 1, 0, 1},
    {"U4, 1x16", SL_U4, SL_F16, 1, 16, 1, 0, 1},
    {"U4, 1x16 no zeros", SL_U4, SL_F16, 1, 16, 0, 0, 1},
    {"U4, rows", SL_U4, SL_F32, 1, -1, 1, 0, 1},
    {"U4, 1x256", SL_U4, SL_F16, 1, 256, 0, 0, 1},
    {"GPTQ 8 bits", SL_U8, SL_F16, 1, 128, 1, 0, 1},
    {"U8, rows", SL_U8, SL_F32, 1, -1, 1, 0, 1},
    {"I8, rows", SL_I8, SL_F32, 1, -1, 0, 0, 1},
    {"I8, 1x128", SL_I8, SL_BF16, 1, 128, 0, 0, 1},
    {"NF4", SL_CB4, SL_F32, 1, 64, 0, 0, 1},
    {"CB4, 1x16", SL_CB4, SL_F16, 1, 16, 0, 0, 1},
    {"CB4, rows", SL_CB4, SL_F32, 1, -1, 0, 0, 1},
};
const int matmul_cases_n = sizeof matmul_cases / sizeof *matmul_cases;

/* NF4 (Dettmers et al. 2023), to three digits. */
static const float codebook[16] = {-1,     -0.696f, -0.525f, -0.395f, -0.284f, -0.185f, -0.091f, 0,
                                   0.080f, 0.161f,  0.246f,  0.338f,  0.441f,  0.563f,  0.723f,  1};

static float positive(uint64_t *seed)
{
    return 0.002f * (1.2f + gpu_uniform(seed));
}

static uint8_t byte(uint64_t *seed)
{
    return (uint8_t)(int)(128 + 128 * gpu_uniform(seed));
}

static void put_half(uint8_t *b, float f)
{
    uint16_t h = sl_float_to_half(f);
    memcpy(b, &h, sizeof h);
}

/* Random bits, then the block's own scales at sensible values. */
static void fill_block(enum sl_dtype t, uint8_t *b, uint64_t *seed)
{
    static const struct {
        int d, min; /* where the halfs lie; -1: none */
        float scale;
    } at[SL_DTYPE_COUNT] = {
        [SL_Q4_0] = {0, -1, 1},       [SL_Q4_1] = {0, 2, 1},       [SL_Q5_0] = {0, -1, 1},
        [SL_Q5_1] = {0, 2, 1},        [SL_Q8_0] = {0, -1, 0.1f},   [SL_Q2_K] = {80, 82, 1},
        [SL_Q3_K] = {108, -1, 0.1f},  [SL_Q4_K] = {0, 2, 0.1f},    [SL_Q5_K] = {0, 2, 0.1f},
        [SL_Q6_K] = {208, -1, 0.01f}, [SL_IQ4_NL] = {0, -1, 0.1f}, [SL_IQ4_XS] = {0, -1, 0.01f},
    };
    if (t == SL_MXFP4) {
        b[0] = (uint8_t)(118 + byte(seed) % 6);
    } else if (t == SL_NVFP4) {
        for (int i = 0; i < 4; i++) b[i] = (uint8_t)(byte(seed) % 0x60);
    } else {
        put_half(b + at[t].d, at[t].scale * positive(seed));
        if (at[t].min >= 0) /* Q4_1 and Q5_1 add it, k-quants subtract it */
            put_half(b + at[t].min,
                     (t == SL_Q4_1 || t == SL_Q5_1 ? -8 : 1) * at[t].scale * positive(seed));
    }
}

static void fill_codes(enum sl_dtype t, uint8_t *data, uint64_t bytes, uint64_t *seed)
{
    int block = sl_dtype_block_bytes(t);
    if (sl_dtype_kind(t) == SL_KIND_FLOAT) {
        for (uint64_t i = 0; i < bytes; i += (uint64_t)block) {
            float f = 0.02f * gpu_normal(seed);
            uint16_t h = t == SL_F16 ? sl_float_to_half(f) : sl_float_to_bf16(f);
            memcpy(data + i, t == SL_F32 ? (void *)&f : (void *)&h, (size_t)block);
        }
        return;
    }
    for (uint64_t i = 0; i < bytes; i++) {
        data[i] = byte(seed);
        if (t == SL_F8_E4M3 && (data[i] & 0x7f) == 0x7f) data[i] ^= 1; /* NaN */
        if (t == SL_F8_E5M2) data[i] &= 0xbf;                          /* below 2 */
    }
    if (sl_dtype_kind(t) == SL_KIND_BLOCK)
        for (uint64_t i = 0; i < bytes; i += (uint64_t)block) fill_block(t, data + i, seed);
}

static void fill_scales(struct sl_matrix *m, int64_t n, uint8_t *at, uint64_t *seed)
{
    for (int64_t i = 0; i < n; i++) {
        float f = positive(seed);
        uint16_t h = m->scale_type == SL_F16 ? sl_float_to_half(f) : sl_float_to_bf16(f);
        if (m->scale_type == SL_F32)
            memcpy(at + 4 * i, &f, 4);
        else if (m->scale_type == SL_E8M0)
            at[i] = (uint8_t)(115 + byte(seed) % 8);
        else if (m->scale_type == SL_F8_E4M3)
            at[i] = (uint8_t)(byte(seed) % 0x7f);
        else
            memcpy(at + 2 * i, &h, 2);
    }
}

/* Big matrices, which are only timed, repeat their first rows. */
#define ROWS_RANDOM 1024

static uint64_t random_part(const struct sl_matrix *m, uint64_t bytes)
{
    return m->rows > ROWS_RANDOM ? bytes / (uint64_t)m->rows * 64 : bytes;
}

static void repeat(uint8_t *at, uint64_t part, uint64_t bytes)
{
    for (uint64_t i = part; i < bytes; i += part)
        memcpy(at + i, at, (size_t)(bytes - i < part ? bytes - i : part));
}

static void *room(struct matmul_weight *w, int i, uint64_t bytes)
{
    w->host[i] = calloc(1, bytes);
    if (!w->host[i]) exit(1);
    return w->host[i];
}

static void fill(struct matmul_weight *w, const struct matmul_case *k, uint64_t *seed)
{
    struct sl_matrix *m = &w->m;
    uint64_t bytes = (uint64_t)m->rows * sl_dtype_row_bytes(m->type, (uint64_t)m->cols);
    m->data = room(w, 0, bytes);
    fill_codes(m->type, w->host[0], random_part(m, bytes), seed);
    repeat(w->host[0], random_part(m, bytes), bytes);
    w->device[0] = gpu_copy(m->data, bytes);
    if (sl_dtype_kind(m->type) == SL_KIND_PLANAR && k->scale_cols) {
        m->scale_type = k->scale_type;
        m->scale_rows = k->scale_rows < 0 ? m->rows : k->scale_rows;
        m->scale_cols = k->scale_cols < 0 ? m->cols : k->scale_cols;
        int64_t n = (m->rows + m->scale_rows - 1) / m->scale_rows * sl_matrix_scales_per_row(m);
        bytes = (uint64_t)n * sl_dtype_row_bytes(m->scale_type, 1);
        m->scales = room(w, 1, bytes);
        uint64_t part = m->scale_rows > 1 ? bytes : random_part(m, bytes);
        fill_scales(m, (int64_t)(part / sl_dtype_row_bytes(m->scale_type, 1)), w->host[1], seed);
        repeat(w->host[1], part, bytes);
        w->device[1] = gpu_copy(m->scales, bytes);
        if (k->zeros) {
            m->zeros = room(w, 2, (uint64_t)n);
            int top = m->type == SL_U4 ? 16 : 256;
            for (int64_t i = 0; i < n; i++)
                ((uint8_t *)w->host[2])[i] = (uint8_t)(byte(seed) % top);
            w->device[2] = gpu_copy(m->zeros, (size_t)n);
        }
    }
    if (k->order) {
        int32_t *order = room(w, 3, (uint64_t)m->cols * 4);
        for (int i = 0; i < m->cols; i++) order[i] = i;
        for (int i = (int)m->cols - 1; i > 0; i--) {
            int j = (int)((0.5f + 0.5f * gpu_uniform(seed)) * (float)i), t = order[i];
            order[i] = order[j], order[j] = t;
        }
        m->order = order;
        w->device[3] = gpu_copy(order, (size_t)m->cols * 4);
    }
    m->codebook = codebook;
}

void matmul_weight_make(struct sl_cuda *c, const struct matmul_case *k, int64_t rows, int64_t cols,
                        uint64_t *seed, struct matmul_weight *w)
{
    *w = (struct matmul_weight){.m = sl_matrix_plain(k->type, rows, cols, NULL)};
    w->m.factor = k->factor;
    fill(w, k, seed);
    struct sl_matrix raw = w->m;
    raw.data = w->device[0];
    raw.scales = w->device[1];
    raw.zeros = w->device[2];
    raw.order = w->device[3];
    w->bytes = sl_cuda_weight_bytes(&raw);
    if (!w->bytes) {
        printf("%s: %lld x %lld cannot be packed\n", k->name, (long long)rows, (long long)cols);
        exit(1);
    }
    w->device[4] = gpu_alloc(w->bytes);
    sl_cuda_weight_pack(c, &raw, w->device[4], &w->packed);
    gpu_sync(c);
    w->handle = (struct sl_weight){.rows = rows, .cols = cols, .packed = &w->packed};
}

void matmul_weight_free(struct matmul_weight *w)
{
    for (int i = 0; i < 5; i++) free(w->host[i]);
    for (int i = 0; i < 6; i++)
        if (w->device[i]) gpu_free(w->device[i]);
}
