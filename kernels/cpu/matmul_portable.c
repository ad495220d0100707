/* matmul_portable.c - tiles in plain C: for CPUs without a row of their own, and a second opinion
 * for the tests.
 *
 * Loops run over the 16 lanes innermost, which compilers turn into whatever vectors the target has.
 * Sums are in the order of matmul.h but multiply and add round separately: fmaf without hardware is
 * a library call. */
#include "kernels/cpu/matmul.h"

enum { LANES = SL_MM_LANES };

/* ---- activations ----------------------------------------------------------------------------- */

/* Nearest integer, ties to even, for |f| < 2^22: adding 1.5 * 2^23 leaves it in the low bits. */
static inline int32_t nearest(float f)
{
    float shifted = f + 12582912.0f;
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return bits - 0x4b400000;
}

static void quantize(const struct sl_mm_act *a, int row, int64_t from, int64_t to)
{
    const float *x = a->x + row * a->cols + from * SL_MM_GROUP;
    for (int64_t g = from; g < to; g++, x += SL_MM_GROUP) {
        int64_t at = g * a->n + row;
        uint32_t top = 0, bits[SL_MM_GROUP];
        memcpy(bits, x, sizeof bits);
        for (int i = 0; i < SL_MM_GROUP; i++) {
            uint32_t m = bits[i] & 0x7fffffff; /* orders like |x|, NaN above infinity */
            top = m > top ? m : top;
        }
        float s, inv;
        sl_mm_scale(top, &s, &inv);
        int8_t *q = a->q + at * SL_MM_Q_BYTES;
        int32_t sum[2] = {0, 0};
        for (int i = 0; i < SL_MM_GROUP; i++) {
            int32_t v = inv != 0 ? nearest(x[i] * inv) : 0;
            int32_t hi = (v + 128) >> 8;
            q[i] = (int8_t)hi;
            q[32 + i] = (int8_t)(v - hi * 256);
            sum[i / 16] += v;
        }
        sl_mm_act_store(a, at, s, sum[0], sum[1]);
    }
}

/* ---- codes and scales of a group ------------------------------------------------------------- */

/* w[k][lane]: the unsigned codes of a group. */
static inline void unpack(enum sl_mm_codes kind, const uint8_t *p, int16_t w[SL_MM_GROUP][LANES])
{
    for (int j = 0; j < 8; j++)
        for (int b = 0; b < 4; b++) {
            int16_t *to = w[4 * j + b];
            const uint8_t *low = p + 64 * (j & 3) + b, *high = p + 256 + b;
            for (int i = 0; i < LANES; i++) {
                if (kind == SL_MM_C8) {
                    to[i] = p[64 * j + 4 * i + b];
                    continue;
                }
                int v = low[4 * i] >> (j & 4) & 15;
                if (kind == SL_MM_C5) v |= (high[4 * i] >> j & 1) << 4;
                if (kind == SL_MM_C6) v |= (high[64 * (j / 4) + 4 * i] >> 2 * (j & 3) & 3) << 4;
                to[i] = (int16_t)v;
            }
        }
}

struct factors {
    float scale[2][LANES], min[LANES];
};

static float half_at(const uint8_t *p, int lane)
{
    uint16_t h;
    memcpy(&h, p + 2 * lane, sizeof h);
    return sl_half_to_float(h);
}

static void factors_of(enum sl_mm_scales kind, const uint8_t *p, int64_t g, int64_t groups,
                       struct factors *f)
{
    int head = kind == SL_MM_K ? 64 : 32;
    const uint8_t *super = p + g / SL_MM_SUPER * head;
    const uint8_t *sub = p + groups / SL_MM_SUPER * head + g * 32;
    for (int i = 0; i < LANES; i++) {
        switch (kind) {
        case SL_MM_D:
            f->scale[0][i] = half_at(p + g * 32, i);
            break;
        case SL_MM_DM:
            f->scale[0][i] = half_at(p + g * 64, i);
            f->min[i] = half_at(p + g * 64 + 32, i);
            break;
        case SL_MM_K:
            f->scale[0][i] = half_at(super, i) * sub[i];
            f->min[i] = -half_at(super + 32, i) * sub[16 + i];
            break;
        case SL_MM_K16:
            f->scale[0][i] = half_at(super, i) * (int8_t)sub[i];
            f->scale[1][i] = half_at(super, i) * (int8_t)sub[16 + i];
            break;
        case SL_MM_NONE:
            break;
        }
    }
}

/* ---- products -------------------------------------------------------------------------------- */

/* acc += scale*s * (codes [from, to) . v + start) */
static inline void add_dot(int16_t w[SL_MM_GROUP][LANES], int from, int to, const int16_t *v,
                           int32_t start, const float *scale, float s, float *acc)
{
    int32_t sum[LANES];
    for (int i = 0; i < LANES; i++) sum[i] = start;
    for (int k = from; k < to; k++)
        for (int i = 0; i < LANES; i++) sum[i] += (int32_t)w[k][i] * v[k];
    for (int i = 0; i < LANES; i++) acc[i] += scale[i] * s * (float)sum[i];
}

static inline void tile(enum sl_mm_codes codes, enum sl_mm_scales scales, int shift,
                        const uint8_t *c, const uint8_t *p, const struct sl_mm_act *a, int row,
                        int rows, float *acc)
{
    int64_t groups = a->cols / SL_MM_GROUP;
    int bytes = sl_mm_code_bytes(codes), offset = shift == SL_MM_NO_OFFSET ? 0 : 1 << shift;
    memset(acc, 0, (size_t)rows * LANES * sizeof *acc);
    for (int64_t g = 0; g < groups; g++, c += bytes) {
        int16_t w[SL_MM_GROUP][LANES];
        struct factors f;
        unpack(codes, c, w);
        factors_of(scales, p, g, groups, &f);
        for (int r = 0; r < rows; r++) {
            int64_t at = g * a->n + row + r;
            const int8_t *q = a->q + at * SL_MM_Q_BYTES;
            float *sum = acc + r * LANES, s = a->scale[at];
            int16_t v[SL_MM_GROUP];
            for (int k = 0; k < SL_MM_GROUP; k++) v[k] = (int16_t)(q[k] * 256 + q[32 + k]);
            if (scales == SL_MM_K16) {
                add_dot(w, 0, 16, v, a->neg16[2 * at] * offset, f.scale[0], s, sum);
                add_dot(w, 16, 32, v, a->neg16[2 * at + 1] * offset, f.scale[1], s, sum);
                continue;
            }
            add_dot(w, 0, 32, v, a->neg[at] * offset, f.scale[0], s, sum);
            if (scales == SL_MM_DM || scales == SL_MM_K)
                for (int i = 0; i < LANES; i++) sum[i] += f.min[i] * a->sum[at];
        }
    }
}

#define X(type, kind, scale, shift)                                                                \
    static void tile_##type(const struct sl_mm_span *w, const struct sl_mm_act *a, int row,        \
                            int rows, float *acc)                                                  \
    {                                                                                              \
        for (int i = 0; i < w->tiles; i++)                                                         \
            tile(kind, scale, shift, w->codes + i * w->stride, w->scales + i * w->stride, a, row,  \
                 rows, acc + i * SL_MM_ACC);                                                       \
    }
SL_MM_FORMATS(X)
#undef X

/* ---- float formats: four sums by k mod 4, as the vector rows keep them ----------------------- */

enum { CHAINS = 4 };

static inline float element(enum sl_mm_codes kind, const uint8_t *p, int lane)
{
    float f;
    uint16_t h;
    if (kind == SL_MM_F32) {
        memcpy(&f, p + 4 * lane, sizeof f);
        return f;
    }
    memcpy(&h, p + 2 * lane, sizeof h);
    return kind == SL_MM_F16 ? sl_half_to_float(h) : sl_bf16_to_float(h);
}

static inline void float_tile(enum sl_mm_codes kind, const uint8_t *c, const struct sl_mm_act *a,
                              int row, int rows, float *acc)
{
    int bytes = LANES * sl_mm_code_bytes(kind);
    float sum[SL_MM_CHUNK][CHAINS][LANES];
    memset(sum, 0, (size_t)rows * sizeof sum[0]);
    for (int64_t k = 0; k < a->cols; k++, c += bytes) {
        float w[LANES];
        for (int i = 0; i < LANES; i++) w[i] = element(kind, c, i);
        for (int r = 0; r < rows; r++) {
            float x = a->x[(row + r) * a->cols + k], *to = sum[r][k % CHAINS];
            for (int i = 0; i < LANES; i++) to[i] += w[i] * x;
        }
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < LANES; i++)
            acc[r * LANES + i] = (sum[r][0][i] + sum[r][1][i]) + (sum[r][2][i] + sum[r][3][i]);
}

#define X(type, kind)                                                                              \
    static void tile_##type(const struct sl_mm_span *w, const struct sl_mm_act *a, int row,        \
                            int rows, float *acc)                                                  \
    {                                                                                              \
        for (int i = 0; i < w->tiles; i++)                                                         \
            float_tile(kind, w->codes + i * w->stride, a, row, rows, acc + i * SL_MM_ACC);         \
    }
SL_MM_FLOAT_FORMATS(X)
#undef X

/* ---- the row --------------------------------------------------------------------------------- */

static const struct sl_mm_kernels kernels = {
    .quantize = quantize,
    .tile =
        {
#define X(type, ...) [type] = tile_##type,
            SL_MM_FORMATS(X) SL_MM_FLOAT_FORMATS(X)
#undef X
        },
};

static void run(struct sl_pool *pool, struct sl_scratch *scratch, const float *x, int n,
                const struct sl_product *p, int n_products)
{
    sl_mm_run(&kernels, pool, scratch, x, n, p, n_products);
}

const struct sl_matmul_ops sl_matmul_portable = {
    .row = "portable",
    .caps = 0,
    .load = sl_mm_load,
    .unload = sl_mm_unload,
    .run = run,
};
