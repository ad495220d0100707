/* row_portable.c - the vector kernels in plain C: for CPUs without a row of their own.
 *
 * Loops have fixed inner lengths so that a compiler can use whatever vectors the baseline has. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/ops.h"

#define LANES 16

static float bits_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof(f));
    return f;
}

static uint32_t float_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    return u;
}

/* ---- the vector of vec_math.inc is one float --------------------------------------------------- */

#define VEC float
#define VEC_LANES 1
#define INLINE static inline __attribute__((always_inline))

INLINE float v_set(float x)
{
    return x;
}

INLINE float v_add(float a, float b)
{
    return a + b;
}

INLINE float v_sub(float a, float b)
{
    return a - b;
}

INLINE float v_mul(float a, float b)
{
    return a * b;
}

INLINE float v_fma(float a, float b, float c)
{
    return a * b + c;
}

INLINE float v_div(float a, float b)
{
    return a / b;
}

INLINE float v_min(float a, float b)
{
    return a < b ? a : b;
}

INLINE float v_max(float a, float b)
{
    return a > b ? a : b;
}

INLINE float v_abs(float a)
{
    return bits_float(float_bits(a) & 0x7fffffffu);
}

INLINE float v_below(float a, float b, float x, float y)
{
    return a < b ? x : y;
}

INLINE float v_sign(float x, float s)
{
    return bits_float((float_bits(x) & 0x7fffffffu) | (float_bits(s) & 0x80000000u));
}

INLINE float v_load(const float *p)
{
    return *p;
}

INLINE void v_store(float *p, float x)
{
    *p = x;
}

#include "kernels/cpu/vec_math.inc"

#define ROUND_MAGIC                                                                                \
    12582912.0f          /* 1.5 * 2^23: adding it rounds to an integer, kept in the low bits */
#define POW2_MIN -126.0f /* what lies below is zero */

/* 2^x: 2^n times a polynomial of the rest. Never converts a float to an integer, so that a NaN is
 * only a NaN. */
INLINE float v_exp2(float x)
{
    float y = x < POW2_MIN ? POW2_MIN : x, shifted = y + ROUND_MAGIC;
    float p = v_exp2_part(y - (shifted - ROUND_MAGIC));
    p *= bits_float((float_bits(shifted) << 23) + 0x3f800000u);
    return x < POW2_MIN ? 0.0f : p;
}

INLINE void glu_span(enum sl_act act, const float *gate, const float *up, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) out[i] = v_glu(act, gate[i], up[i]);
}

static void rmsnorm(const float *x, const float *gain, float eps, int dim, float *out)
{
    double sum[LANES] = {0}, total = 0;
    int i = 0;
    for (; i + LANES <= dim; i += LANES)
        for (int l = 0; l < LANES; l++) sum[l] += (double)x[i + l] * (double)x[i + l];
    for (int l = 0; l < LANES; l++) total += sum[l];
    for (; i < dim; i++) total += (double)x[i] * (double)x[i];
    float r = (float)(1.0 / sqrt(total / dim + (double)eps));
    for (i = 0; i < dim; i++) out[i] = x[i] * r * gain[i];
}

static void rope_neox(float *x, const float *cs, int half)
{
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cs[i] - b * cs[half + i];
        x[i + half] = b * cs[i] + a * cs[half + i];
    }
}

static void rope_pairs(float *x, const float *cs, int half)
{
    for (int i = 0; i < half; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cs[i] - b * cs[half + i];
        x[2 * i + 1] = b * cs[i] + a * cs[half + i];
    }
}

static void to_f16(const float *x, int n, uint16_t *out)
{
    for (int i = 0; i < n; i++) out[i] = sl_float_to_half(x[i]);
}

static void to_bf16(const float *x, int n, uint16_t *out)
{
    for (int i = 0; i < n; i++) out[i] = sl_float_to_bf16(x[i]);
}

static float element(enum sl_dtype type, const void *row, int i)
{
    if (type == SL_F32) return ((const float *)row)[i];
    uint16_t h = ((const uint16_t *)row)[i];
    return type == SL_F16 ? sl_half_to_float(h) : sl_bf16_to_float(h);
}

static void pack_k(enum sl_dtype type, const void *const *at, int n, int d, int stride, float *kt)
{
    for (int e = 0; e < d; e++)
        for (int key = 0; key < n; key++)
            kt[e * SL_KEY_TILE + key] = element(type, at[key], e * stride);
    for (int key = n; key % 16; key++) /* computed with, never looked at */
        for (int e = 0; e < d; e++) kt[e * SL_KEY_TILE + key] = 0;
}

static void pack_v(enum sl_dtype type, const void *const *at, int n, int d, int dp, float *v)
{
    for (int key = 0; key < n; key++, v += dp) {
        for (int e = 0; e < d; e++) v[e] = element(type, at[key], e);
        for (int e = d; e < dp; e++) v[e] = 0;
    }
}

static void mad_row(const float *a, const float *b, int ldb, float *c, int depth, int add)
{
    float acc[LANES] = {0};
    if (add) memcpy(acc, c, sizeof(acc));
    for (int k = 0; k < depth; k++)
        for (int l = 0; l < LANES; l++) acc[l] += a[k] * b[(int64_t)k * ldb + l];
    memcpy(c, acc, sizeof(acc));
}

static void mad_tile(const float *a, int lda, const float *b, int ldb, float *c, int ldc, int rows,
                     int depth, int cols, int add)
{
    for (int col = 0; col < cols; col += LANES)
        for (int r = 0; r < rows; r++)
            mad_row(a + (int64_t)r * lda, b + col, ldb, c + (int64_t)r * ldc + col, depth, add);
}

static float softmax_row(float *s, int n, float *m, float *sum)
{
    float best = *m, part[LANES] = {0};
    for (int i = 0; i < n; i++) best = s[i] > best ? s[i] : best;
    for (int i = 0; i < n; i++) {
        s[i] = v_exp2(s[i] - best);
        part[i % LANES] += s[i];
    }
    for (int w = LANES / 2; w; w /= 2)
        for (int l = 0; l < w; l++) part[l] += part[l + w];
    float c = v_exp2(*m - best);
    *sum = *sum * c + part[0];
    *m = best;
    return c;
}

static void softmax(float *s, int rows, const int *keys, float *m, float *sum, float *c)
{
    for (int r = 0; r < rows; r++) c[r] = softmax_row(s + r * SL_KEY_TILE, keys[r], &m[r], &sum[r]);
}

static void scale(float *x, float by, int n)
{
    for (int i = 0; i < n; i++) x[i] *= by;
}

const struct sl_op_row sl_op_row_portable = {
    .name = "portable",
    .rmsnorm = rmsnorm,
    .rope_neox = rope_neox,
    .rope_pairs = rope_pairs,
    .glu = glu,
    .to_f16 = to_f16,
    .to_bf16 = to_bf16,
    .pack_k = pack_k,
    .pack_v = pack_v,
    .mad_tile = mad_tile,
    .softcap = softcap,
    .softmax = softmax,
    .scale = scale,
};
