/* row_avx2.c - the vector kernels for AVX2 with FMA and F16C. Compiled with those flags, called
 * only where base/cpu.h found them.
 *
 * The last elements of an array go through the same vector code by way of a padded copy where their
 * place could differ from call to call (glu); where it cannot (a row's own length), plain code
 * finishes the row. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "base/cpu.h"
#include "base/sl_assert.h"
#include "kernels/cpu/ops.h"

#define INLINE static inline __attribute__((always_inline))
#define LANES 8

INLINE float sum_of(__m256 v)
{
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps(h, h, 1)));
}

INLINE float max_of(__m256 v)
{
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_shuffle_ps(h, h, 1)));
}

/* ---- the vector of vec_math.inc --------------------------------------------------------------- */

#define VEC __m256
#define VEC_LANES 8
#define V(name) _mm256_##name
#include "kernels/cpu/x86/vec_x86.inc"

INLINE VEC v_div(VEC a, VEC b)
{
    return _mm256_div_ps(a, b);
}

INLINE VEC v_abs(VEC a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}

INLINE VEC v_below(VEC a, VEC b, VEC x, VEC y)
{
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}

INLINE VEC v_sign(VEC x, VEC s)
{
    return _mm256_or_ps(v_abs(x), _mm256_and_ps(_mm256_set1_ps(-0.0f), s));
}

#include "kernels/cpu/vec_math.inc"

#define POW2_MIN -126.0f /* smaller results are zero */

INLINE VEC v_exp2(VEC x)
{
    const __m256 low = _mm256_set1_ps(POW2_MIN);
    __m256 zero = _mm256_cmp_ps(x, low, _CMP_LT_OQ);
    x = _mm256_max_ps(low, x); /* NaN comes second and so survives */
    __m256 n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    __m256 p = v_exp2_part(_mm256_sub_ps(x, n));
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(e, 23)));
    return _mm256_andnot_ps(zero, p);
}

INLINE void glu_span(enum sl_act act, const float *gate, const float *up, int64_t n, float *out)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        _mm256_storeu_ps(out + i, v_glu(act, _mm256_loadu_ps(gate + i), _mm256_loadu_ps(up + i)));
    if (i == n) return;
    float g[LANES] = {0}, u[LANES] = {0}, y[LANES];
    size_t rest = sizeof(float) * (size_t)(n - i);
    memcpy(g, gate + i, rest);
    memcpy(u, up + i, rest);
    _mm256_storeu_ps(y, v_glu(act, _mm256_loadu_ps(g), _mm256_loadu_ps(u)));
    memcpy(out + i, y, rest);
}

static void rmsnorm(const float *x, const float *gain, float eps, int dim, float *out)
{
    __m256 acc[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                     _mm256_setzero_ps()};
    int i = 0;
    for (; i + 4 * LANES <= dim; i += 4 * LANES)
        for (int u = 0; u < 4; u++) {
            __m256 v = _mm256_loadu_ps(x + i + LANES * u);
            acc[u] = _mm256_fmadd_ps(v, v, acc[u]);
        }
    float sum = sum_of(_mm256_add_ps(_mm256_add_ps(acc[0], acc[1]), _mm256_add_ps(acc[2], acc[3])));
    for (; i < dim; i++) sum += x[i] * x[i];
    float r = 1.0f / sqrtf(sum / (float)dim + eps);
    __m256 by = _mm256_set1_ps(r);
    for (i = 0; i + LANES <= dim; i += LANES)
        _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), by),
                                                _mm256_loadu_ps(gain + i)));
    for (; i < dim; i++) out[i] = x[i] * r * gain[i];
}

static void rope_neox(float *x, const float *cs, int half)
{
    int i = 0;
    for (; i + LANES <= half; i += LANES) {
        __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + half + i);
        __m256 c = _mm256_loadu_ps(cs + i), s = _mm256_loadu_ps(cs + half + i);
        _mm256_storeu_ps(x + i, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
        _mm256_storeu_ps(x + half + i, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)));
    }
    for (; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cs[i] - b * cs[half + i];
        x[i + half] = b * cs[i] + a * cs[half + i];
    }
}

static void rope_pairs(float *x, const float *cs, int half)
{
    const __m256i twice = _mm256_set_epi32(3, 3, 2, 2, 1, 1, 0, 0);
    int i = 0;
    for (; i + 4 <= half; i += 4) {
        __m256 c = _mm256_castps128_ps256(_mm_loadu_ps(cs + i));
        __m256 s = _mm256_castps128_ps256(_mm_loadu_ps(cs + half + i));
        c = _mm256_permutevar8x32_ps(c, twice);
        s = _mm256_permutevar8x32_ps(s, twice);
        __m256 v = _mm256_loadu_ps(x + 2 * i);
        __m256 w = _mm256_mul_ps(_mm256_permute_ps(v, 0xb1), s); /* neighbours swapped */
        _mm256_storeu_ps(x + 2 * i, _mm256_fmaddsub_ps(v, c, w));
    }
    for (; i < half; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cs[i] - b * cs[half + i];
        x[2 * i + 1] = b * cs[i] + a * cs[half + i];
    }
}

static void to_f16(const float *x, int n, uint16_t *out)
{
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        __m128i h =
            _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm_storeu_si128((__m128i *)(out + i), h);
    }
    for (; i < n; i++) out[i] = sl_float_to_half(x[i]);
}

static void to_bf16(const float *x, int n, uint16_t *out)
{
    for (int i = 0; i < n; i++) out[i] = sl_float_to_bf16(x[i]); /* the compiler's vectors do */
}

/* ---- attention ------------------------------------------------------------------------------- */

INLINE __m256 load_head(enum sl_dtype type, const void *row, int e)
{
    if (type == SL_F32) return _mm256_loadu_ps((const float *)row + e);
    __m128i h = _mm_loadu_si128((const __m128i *)((const uint16_t *)row + e));
    if (type == SL_F16) return _mm256_cvtph_ps(h);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

INLINE float element(enum sl_dtype type, const void *row, int e)
{
    if (type == SL_F32) return ((const float *)row)[e];
    uint16_t h = ((const uint16_t *)row)[e];
    return type == SL_F16 ? sl_half_to_float(h) : sl_bf16_to_float(h);
}

INLINE void pack_k_typed(enum sl_dtype type, const void *const *at, int n, int d, int stride,
                         float *kt)
{
    if (stride % 16) {
        for (int e = 0; e < d; e++)
            for (int key = 0; key < (n + 15) / 16 * 16; key++)
                kt[e * SL_KEY_TILE + key] = key < n ? element(type, at[key], e * stride) : 0;
        return;
    }
    for (int key = 0; key < n; key += 16)
        for (int e = 0; e < d; e++) {
            float *out = kt + e * SL_KEY_TILE + key;
            _mm256_storeu_ps(out, load_head(type, at[key], e * stride));
            _mm256_storeu_ps(out + LANES, load_head(type, at[key], e * stride + LANES));
        }
}

INLINE void pack_v_typed(enum sl_dtype type, const void *const *rows, int n, int d, int dp,
                         float *v)
{
    for (int key = 0; key < n; key++, v += dp) {
        int e = 0;
        for (; e + LANES <= d; e += LANES) _mm256_storeu_ps(v + e, load_head(type, rows[key], e));
        for (; e < d; e++) v[e] = element(type, rows[key], e);
        for (; e < dp; e++) v[e] = 0;
    }
}

static void pack_k(enum sl_dtype type, const void *const *at, int n, int d, int stride, float *kt)
{
    if (type == SL_F16)
        pack_k_typed(SL_F16, at, n, d, stride, kt);
    else if (type == SL_BF16)
        pack_k_typed(SL_BF16, at, n, d, stride, kt);
    else
        pack_k_typed(SL_F32, at, n, d, stride, kt);
}

static void pack_v(enum sl_dtype type, const void *const *rows, int n, int d, int dp, float *v)
{
    if (type == SL_F16)
        pack_v_typed(SL_F16, rows, n, d, dp, v);
    else if (type == SL_BF16)
        pack_v_typed(SL_BF16, rows, n, d, dp, v);
    else
        pack_v_typed(SL_F32, rows, n, d, dp, v);
}

/* R rows times 16 columns of c, kept in registers over the whole depth. */
INLINE void mad_block(const float *a, int lda, const float *b, int ldb, float *c, int ldc,
                      int depth, int add, const int R)
{
    __m256 acc[6][2];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
        acc[r][0] = add ? _mm256_loadu_ps(c + (int64_t)r * ldc) : _mm256_setzero_ps();
        acc[r][1] = add ? _mm256_loadu_ps(c + (int64_t)r * ldc + LANES) : _mm256_setzero_ps();
    }
    for (int k = 0; k < depth; k++, b += ldb) {
        __m256 x0 = _mm256_loadu_ps(b), x1 = _mm256_loadu_ps(b + LANES);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            __m256 y = _mm256_broadcast_ss(a + (int64_t)r * lda + k);
            acc[r][0] = _mm256_fmadd_ps(y, x0, acc[r][0]);
            acc[r][1] = _mm256_fmadd_ps(y, x1, acc[r][1]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
        _mm256_storeu_ps(c + (int64_t)r * ldc, acc[r][0]);
        _mm256_storeu_ps(c + (int64_t)r * ldc + LANES, acc[r][1]);
    }
}

static void mad_strip(const float *a, int lda, const float *b, int ldb, float *c, int ldc, int rows,
                      int depth, int add)
{
    int r = 0;
    for (; r + 6 <= rows; r += 6)
        mad_block(a + (int64_t)r * lda, lda, b, ldb, c + (int64_t)r * ldc, ldc, depth, add, 6);
    a += (int64_t)r * lda;
    c += (int64_t)r * ldc;
    switch (rows - r) {
    case 5:
        mad_block(a, lda, b, ldb, c, ldc, depth, add, 5);
        break;
    case 4:
        mad_block(a, lda, b, ldb, c, ldc, depth, add, 4);
        break;
    case 3:
        mad_block(a, lda, b, ldb, c, ldc, depth, add, 3);
        break;
    case 2:
        mad_block(a, lda, b, ldb, c, ldc, depth, add, 2);
        break;
    case 1:
        mad_block(a, lda, b, ldb, c, ldc, depth, add, 1);
        break;
    default:
        break;
    }
}

static void mad_tile(const float *a, int lda, const float *b, int ldb, float *c, int ldc, int rows,
                     int depth, int cols, int add)
{
    for (int col = 0; col < cols; col += 2 * LANES)
        mad_strip(a, lda, b + col, ldb, c + col, ldc, rows, depth, add);
}

/* Scores beyond n are made -inf in a copy, so that every vector is whole. */
static float softmax_row(float *s, int n, float *m, float *sum)
{
    float tile[SL_KEY_TILE];
    int padded = (n + LANES - 1) / LANES * LANES;
    memcpy(tile, s, sizeof(float) * (size_t)n);
    for (int i = n; i < padded; i++) tile[i] = -INFINITY;
    __m256 best = _mm256_set1_ps(-INFINITY), total = _mm256_setzero_ps();
    for (int i = 0; i < padded; i += LANES) best = _mm256_max_ps(best, _mm256_loadu_ps(tile + i));
    float top = max_of(best);
    top = top > *m ? top : *m;
    __m256 t = _mm256_set1_ps(top);
    for (int i = 0; i < padded; i += LANES) {
        __m256 x = v_exp2(_mm256_sub_ps(_mm256_loadu_ps(tile + i), t));
        _mm256_storeu_ps(tile + i, x);
        total = _mm256_add_ps(total, x);
    }
    memcpy(s, tile, sizeof(float) * (size_t)n);
    float c = top == *m ? 1.0f : _mm256_cvtss_f32(v_exp2(_mm256_set1_ps(*m - top)));
    *sum = *sum * c + sum_of(total);
    *m = top;
    return c;
}

static void softmax(float *s, int rows, const int *keys, float *m, float *sum, float *c)
{
    for (int r = 0; r < rows; r++) c[r] = softmax_row(s + r * SL_KEY_TILE, keys[r], &m[r], &sum[r]);
}

static void scale(float *x, float by, int n)
{
    __m256 y = _mm256_set1_ps(by);
    for (int i = 0; i < n; i += LANES)
        _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), y));
}

const struct sl_op_row sl_op_row_avx2 = {
    .name = "avx2",
    .caps = SL_CPU_AVX2,
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
