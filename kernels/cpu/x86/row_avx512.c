/* row_avx512.c - the vector kernels for AVX-512 (F, BW, DQ, VL). Compiled with those flags, called
 * only where base/cpu.h found them.
 *
 * Tails are masked, never a second code path, so that an element's bits do not depend on where it
 * stands. */
#include <immintrin.h>
#include <math.h>

#include "base/cpu.h"
#include "base/sl_assert.h"
#include "kernels/cpu/ops.h"

#define INLINE static inline __attribute__((always_inline))

INLINE __mmask16 mask_of(int64_t n)
{
    return n >= 16 ? (__mmask16)0xffff : n <= 0 ? (__mmask16)0 : (__mmask16)((1u << n) - 1);
}

/* ---- the vector of vec_math.inc --------------------------------------------------------------- */

#define VEC __m512
#define VEC_LANES 16
#define V(name) _mm512_##name
#include "kernels/cpu/x86/vec_x86.inc"

INLINE VEC v_div(VEC a, VEC b)
{
    __m512 r = _mm512_rcp14_ps(b); /* one Newton step makes 14 bits 27 */
    return _mm512_mul_ps(a, _mm512_mul_ps(r, _mm512_fnmadd_ps(b, r, _mm512_set1_ps(2.0f))));
}

INLINE VEC v_abs(VEC a)
{
    return _mm512_abs_ps(a);
}

INLINE VEC v_below(VEC a, VEC b, VEC x, VEC y)
{
    return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), x);
}

INLINE VEC v_sign(VEC x, VEC s)
{
    return _mm512_or_ps(_mm512_abs_ps(x), _mm512_and_ps(_mm512_set1_ps(-0.0f), s));
}

#include "kernels/cpu/vec_math.inc"

#define POW2_MIN -126.0f /* smaller results are zero: subnormals would be slow */

INLINE VEC v_exp2(VEC x)
{
    __mmask16 keep = _mm512_cmp_ps_mask(x, _mm512_set1_ps(POW2_MIN), _CMP_NLT_UQ);
    x = _mm512_max_ps(_mm512_set1_ps(POW2_MIN), x); /* NaN comes second and so survives */
    __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm512_maskz_scalef_ps(keep, v_exp2_part(_mm512_sub_ps(x, n)), n);
}

INLINE void glu_span(enum sl_act act, const float *gate, const float *up, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 k = mask_of(n - i);
        __m512 g = _mm512_maskz_loadu_ps(k, gate + i), u = _mm512_maskz_loadu_ps(k, up + i);
        _mm512_mask_storeu_ps(out + i, k, v_glu(act, g, u));
    }
}

static void rmsnorm(const float *x, const float *gain, float eps, int dim, float *out)
{
    __m512 acc[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                     _mm512_setzero_ps()};
    for (int i = 0; i < dim; i += 64)
        for (int u = 0; u < 4; u++) {
            __m512 v = _mm512_maskz_loadu_ps(mask_of(dim - i - 16 * u), x + i + 16 * u);
            acc[u] = _mm512_fmadd_ps(v, v, acc[u]);
        }
    float sum = _mm512_reduce_add_ps(
        _mm512_add_ps(_mm512_add_ps(acc[0], acc[1]), _mm512_add_ps(acc[2], acc[3])));
    __m512 r = _mm512_set1_ps(1.0f / sqrtf(sum / (float)dim + eps));
    for (int i = 0; i < dim; i += 16) {
        __mmask16 k = mask_of(dim - i);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(k, x + i), r);
        _mm512_mask_storeu_ps(out + i, k, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(k, gain + i)));
    }
}

static void rope_neox(float *x, const float *cs, int half)
{
    for (int i = 0; i < half; i += 16) {
        __mmask16 k = mask_of(half - i);
        __m512 a = _mm512_maskz_loadu_ps(k, x + i), b = _mm512_maskz_loadu_ps(k, x + half + i);
        __m512 c = _mm512_maskz_loadu_ps(k, cs + i), s = _mm512_maskz_loadu_ps(k, cs + half + i);
        _mm512_mask_storeu_ps(x + i, k, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
        _mm512_mask_storeu_ps(x + half + i, k, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
    }
}

static void rope_pairs(float *x, const float *cs, int half)
{
    const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    for (int i = 0; i < half; i += 8) {
        __mmask16 k1 = mask_of(SL_MIN(half - i, 8)), k2 = mask_of(2 * (half - i));
        __m512 c = _mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(k1, cs + i));
        __m512 s = _mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(k1, cs + half + i));
        __m512 v = _mm512_maskz_loadu_ps(k2, x + 2 * i);
        __m512 w = _mm512_mul_ps(_mm512_permute_ps(v, 0xb1), s); /* neighbours swapped */
        _mm512_mask_storeu_ps(x + 2 * i, k2, _mm512_fmaddsub_ps(v, c, w));
    }
}

static void to_f16(const float *x, int n, uint16_t *out)
{
    for (int i = 0; i < n; i += 16) {
        __mmask16 k = mask_of(n - i);
        __m256i h = _mm512_cvtps_ph(_mm512_maskz_loadu_ps(k, x + i),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm256_mask_storeu_epi16(out + i, k, h);
    }
}

/* By hand: the BF16 instruction treats subnormals as zero. */
static void to_bf16(const float *x, int n, uint16_t *out)
{
    for (int i = 0; i < n; i += 16) {
        __mmask16 k = mask_of(n - i);
        __m512 f = _mm512_maskz_loadu_ps(k, x + i);
        __m512i u = _mm512_castps_si512(f), high = _mm512_srli_epi32(u, 16);
        __m512i even = _mm512_and_si512(high, _mm512_set1_epi32(1));
        __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
        r = _mm512_srli_epi32(r, 16);
        __m512i nan = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
        r = _mm512_mask_mov_epi32(r, _mm512_cmp_ps_mask(f, f, _CMP_UNORD_Q), nan);
        _mm256_mask_storeu_epi16(out + i, k, _mm512_cvtepi32_epi16(r));
    }
}

/* ---- attention ------------------------------------------------------------------------------- */

/* Sixteen elements from e on. */
INLINE __m512 load16(enum sl_dtype type, const void *at, int64_t e)
{
    if (type == SL_F32) return _mm512_loadu_ps((const float *)at + e);
    __m256i h = _mm256_loadu_si256((const __m256i *)((const uint16_t *)at + e));
    if (type == SL_F16) return _mm512_cvtph_ps(h);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

/* Those of mask k, others zero. */
INLINE __m512 load_some(enum sl_dtype type, const void *at, int64_t e, __mmask16 k)
{
    if (type == SL_F32) return _mm512_maskz_loadu_ps(k, (const float *)at + e);
    __m256i h = _mm256_maskz_loadu_epi16(k, (const uint16_t *)at + e);
    if (type == SL_F16) return _mm512_cvtph_ps(h);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

/* Blocks of odd sizes: element by element. */
INLINE void pack_k_slowly(enum sl_dtype type, const void *const *at, int n, int d, int stride,
                          float *kt)
{
    for (int key = 0; key < (n + 15) / 16 * 16; key++)
        for (int e = 0; e < d; e++) {
            __m512 x =
                key < n ? load_some(type, at[key], (int64_t)e * stride, 1) : _mm512_setzero_ps();
            kt[e * SL_KEY_TILE + key] = _mm512_cvtss_f32(x);
        }
}

INLINE void pack_k_typed(enum sl_dtype type, const void *const *at, int n, int d, int stride,
                         float *kt)
{
    if (stride % 16) {
        pack_k_slowly(type, at, n, d, stride, kt);
        return;
    }
    for (int key = 0; key < n; key += 16)
        for (int e = 0; e < d; e++)
            _mm512_storeu_ps(kt + e * SL_KEY_TILE + key,
                             load16(type, at[key], (int64_t)e * stride));
}

INLINE void pack_v_typed(enum sl_dtype type, const void *const *at, int n, int d, int dp, float *v)
{
    int whole = d / 16 * 16;
    __mmask16 k = mask_of(d - whole);
    for (int key = 0; key < n; key++, v += dp) {
        for (int e = 0; e < whole; e += 16) _mm512_storeu_ps(v + e, load16(type, at[key], e));
        if (k) _mm512_storeu_ps(v + whole, load_some(type, at[key], whole, k));
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

static void pack_v(enum sl_dtype type, const void *const *at, int n, int d, int dp, float *v)
{
    if (type == SL_F16)
        pack_v_typed(SL_F16, at, n, d, dp, v);
    else if (type == SL_BF16)
        pack_v_typed(SL_BF16, at, n, d, dp, v);
    else
        pack_v_typed(SL_F32, at, n, d, dp, v);
}

/* R rows times V vectors of c, kept in registers over the whole depth. */
INLINE void mad_block(const float *a, int lda, const float *b, int ldb, float *c, int ldc,
                      int depth, int add, const int R, const int V)
{
    __m512 acc[6][4];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++)
            acc[r][v] = add ? _mm512_loadu_ps(c + (int64_t)r * ldc + 16 * v) : _mm512_setzero_ps();
    for (int k = 0; k < depth; k++, b += ldb) {
        __m512 x[4];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) x[v] = _mm512_loadu_ps(b + 16 * v);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            __m512 y = _mm512_set1_ps(a[(int64_t)r * lda + k]);
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) acc[r][v] = _mm512_fmadd_ps(y, x[v], acc[r][v]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) _mm512_storeu_ps(c + (int64_t)r * ldc + 16 * v, acc[r][v]);
}

/* All rows of a strip of V vectors. */
INLINE void mad_strip(const float *a, int lda, const float *b, int ldb, float *c, int ldc, int rows,
                      int depth, int add, const int V)
{
    int r = 0;
    for (; r + 6 <= rows; r += 6)
        mad_block(a + (int64_t)r * lda, lda, b, ldb, c + (int64_t)r * ldc, ldc, depth, add, 6, V);
    a += (int64_t)r * lda;
    c += (int64_t)r * ldc;
    switch (rows - r) {
    case 5:
        mad_block(a, lda, b, ldb, c, ldc, depth, add, 5, V);
        break;
    case 4:
        mad_block(a, lda, b, ldb, c, ldc, depth, add, 4, V);
        break;
    case 3:
        mad_block(a, lda, b, ldb, c, ldc, depth, add, 3, V);
        break;
    case 2:
        mad_block(a, lda, b, ldb, c, ldc, depth, add, 2, V);
        break;
    case 1:
        mad_block(a, lda, b, ldb, c, ldc, depth, add, 1, V);
        break;
    default:
        break;
    }
}

static void mad_tile(const float *a, int lda, const float *b, int ldb, float *c, int ldc, int rows,
                     int depth, int cols, int add)
{
    int col = 0;
    for (; col + 64 <= cols; col += 64)
        mad_strip(a, lda, b + col, ldb, c + col, ldc, rows, depth, add, 4);
    b += col;
    c += col;
    switch ((cols - col) / 16) {
    case 3:
        mad_strip(a, lda, b, ldb, c, ldc, rows, depth, add, 3);
        break;
    case 2:
        mad_strip(a, lda, b, ldb, c, ldc, rows, depth, add, 2);
        break;
    case 1:
        mad_strip(a, lda, b, ldb, c, ldc, rows, depth, add, 1);
        break;
    default:
        break;
    }
}

/* R rows of scores over the tile; groups beyond n repeat the first and are not looked at. */
INLINE void keys_block(enum sl_dtype type, const float *q, int ldq, const void *const *at, int n,
                       int d, int stride, float *s, const int R)
{
    __m512 acc[6][4];
    const void *group[4];
    for (int g = 0; g < 4; g++) group[g] = at[16 * g < n ? 16 * g : 0];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++) acc[r][g] = _mm512_setzero_ps();
    for (int e = 0; e < d; e++) {
        __m512 x[4];
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++) x[g] = load16(type, group[g], (int64_t)e * stride);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            __m512 y = _mm512_set1_ps(q[(int64_t)r * ldq + e]);
#pragma GCC unroll 4
            for (int g = 0; g < 4; g++) acc[r][g] = _mm512_fmadd_ps(y, x[g], acc[r][g]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++) _mm512_storeu_ps(s + r * SL_KEY_TILE + 16 * g, acc[r][g]);
}

/* R rows times V vectors of output. */
INLINE void values_block(enum sl_dtype type, const float *s, const void *const *at, int n, int e,
                         float *o, int ldo, const int R, const int V)
{
    __m512 acc[6][4];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) acc[r][v] = _mm512_loadu_ps(o + (int64_t)r * ldo + e + 16 * v);
    for (int key = 0; key < n; key++) {
        __m512 x[4];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) x[v] = load16(type, at[key], e + 16 * v);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            __m512 y = _mm512_set1_ps(s[r * SL_KEY_TILE + key]);
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) acc[r][v] = _mm512_fmadd_ps(y, x[v], acc[r][v]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) _mm512_storeu_ps(o + (int64_t)r * ldo + e + 16 * v, acc[r][v]);
}

INLINE void values_rows(enum sl_dtype type, const float *s, const void *const *at, int n, int d,
                        float *o, int ldo, const int R)
{
    int e = 0;
    for (; e + 64 <= d; e += 64) values_block(type, s, at, n, e, o, ldo, R, 4);
    for (; e < d; e += 16) values_block(type, s, at, n, e, o, ldo, R, 1);
}

/* Calls do_it(type, R) for the number of rows at hand, at most six at a time. */
#define BY_ROWS(rows, do_it, type)                                                                 \
    switch (rows) {                                                                                \
    case 1:                                                                                        \
        do_it(type, 1);                                                                            \
        break;                                                                                     \
    case 2:                                                                                        \
        do_it(type, 2);                                                                            \
        break;                                                                                     \
    case 3:                                                                                        \
        do_it(type, 3);                                                                            \
        break;                                                                                     \
    case 4:                                                                                        \
        do_it(type, 4);                                                                            \
        break;                                                                                     \
    case 5:                                                                                        \
        do_it(type, 5);                                                                            \
        break;                                                                                     \
    default:                                                                                       \
        do_it(type, 6);                                                                            \
    }
#define BY_TYPE(rows, do_it)                                                                       \
    if (type == SL_F16) {                                                                          \
        BY_ROWS(rows, do_it, SL_F16)                                                               \
    } else if (type == SL_BF16) {                                                                  \
        BY_ROWS(rows, do_it, SL_BF16)                                                              \
    } else {                                                                                       \
        BY_ROWS(rows, do_it, SL_F32)                                                               \
    }

static void mad_keys(enum sl_dtype type, const float *q, int ldq, const void *const *at, int n,
                     int d, int stride, float *s, int rows)
{
#define KEYS(t, R) keys_block(t, q, ldq, at, n, d, stride, s, R)
    for (; rows > 0; rows -= 6, q += (int64_t)6 * ldq, s += 6 * SL_KEY_TILE) {
        BY_TYPE(rows, KEYS)
    }
#undef KEYS
}

static void mad_values(enum sl_dtype type, const float *s, const void *const *at, int n, int d,
                       float *o, int ldo, int rows)
{
#define VALUES(t, R) values_rows(t, s, at, n, d, o, ldo, R)
    for (; rows > 0; rows -= 6, s += 6 * SL_KEY_TILE, o += (int64_t)6 * ldo) {
        BY_TYPE(rows, VALUES)
    }
#undef VALUES
}

/* r[i] lane j = what r[j] lane i was. */
INLINE void transpose(__m512 r[16])
{
    __m512 t[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            __m512d a = _mm512_castps_pd(t[i + h]), b = _mm512_castps_pd(t[i + 2 + h]);
            r[i + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            r[i + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
        /* Now 128-bit lane L of r[4 * g + c] holds column 4 * L + c of rows 4 * g .. 4 * g + 3. */
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        __m512 lo01 = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x44);
        __m512 hi01 = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xee);
        __m512 lo23 = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x44);
        __m512 hi23 = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xee);
        t[c] = _mm512_shuffle_f32x4(lo01, lo23, 0x88);
        t[4 + c] = _mm512_shuffle_f32x4(lo01, lo23, 0xdd);
        t[8 + c] = _mm512_shuffle_f32x4(hi01, hi23, 0x88);
        t[12 + c] = _mm512_shuffle_f32x4(hi01, hi23, 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) r[i] = t[i];
}

/* The largest score of a row in each lane. */
INLINE __m512 row_max(const float *s, int n)
{
    const __m512 lowest = _mm512_set1_ps(-INFINITY);
    __m512 best = _mm512_mask_loadu_ps(lowest, mask_of(n), s);
#pragma GCC unroll 3
    for (int v = 1; v < 4; v++)
        best = _mm512_max_ps(best, _mm512_mask_loadu_ps(lowest, mask_of(n - 16 * v), s + 16 * v));
    return best;
}

/* Scores to weights against the maximum `top`; returns their sums by lane. */
INLINE __m512 row_weigh(float *s, int n, float top)
{
    __m512 t = _mm512_set1_ps(top), total = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) {
        __mmask16 k = mask_of(n - 16 * v);
        __m512 x = _mm512_sub_ps(_mm512_mask_loadu_ps(t, k, s + 16 * v), t);
        x = _mm512_maskz_mov_ps(k, v_exp2(x));
        _mm512_mask_storeu_ps(s + 16 * v, k, x);
        total = _mm512_add_ps(total, x);
    }
    return total;
}

/* 2^(m - top); 1 when they are equal, also when both are infinite. */
INLINE __m512 correction(__m512 m, __m512 top)
{
    __mmask16 same = _mm512_cmp_ps_mask(m, top, _CMP_EQ_OQ);
    return _mm512_mask_mov_ps(v_exp2(_mm512_sub_ps(m, top)), same, _mm512_set1_ps(1.0f));
}

/* The new maxima of the rows of mask k; a NaN never is one. */
INLINE __m512 new_max(__m512 best, const float *m, __mmask16 k)
{
    __m512 old = _mm512_maskz_loadu_ps(k, m);
    return _mm512_mask_mov_ps(old, _mm512_cmp_ps_mask(best, old, _CMP_GT_OQ), best);
}

INLINE void finish(__m512 top, __m512 total, __mmask16 k, float *m, float *sum, float *c)
{
    __m512 by = correction(_mm512_maskz_loadu_ps(k, m), top);
    __m512 y = _mm512_add_ps(_mm512_mul_ps(_mm512_maskz_loadu_ps(k, sum), by), total);
    _mm512_mask_storeu_ps(sum, k, y);
    _mm512_mask_storeu_ps(m, k, top);
    _mm512_mask_storeu_ps(c, k, by);
}

/* Combines sixteen lanes of each of sixteen rows; lane r of the result belongs to row r. Pairs up
 * as the reductions of single vectors do ((i, i + 8), (i, i + 4) ...), which gives the same bits.
 */
#define FOLD(r, op)                                                                                \
    for (int w = 8; w; w /= 2)                                                                     \
        for (int i = 0; i < w; i++) (r)[i] = op((r)[i], (r)[i + w])

static void softmax16(float *s, const int *keys, float *m, float *sum, float *c)
{
    __m512 r[16];
    float top[16];
    for (int i = 0; i < 16; i++) r[i] = row_max(s + i * SL_KEY_TILE, keys[i]);
    transpose(r);
    FOLD(r, _mm512_max_ps);
    __m512 t = new_max(r[0], m, 0xffff);
    _mm512_storeu_ps(top, t);
    for (int i = 0; i < 16; i++) r[i] = row_weigh(s + i * SL_KEY_TILE, keys[i], top[i]);
    transpose(r);
    FOLD(r, _mm512_add_ps);
    finish(t, r[0], 0xffff, m, sum, c);
}

static void softmax(float *s, int rows, const int *keys, float *m, float *sum, float *c)
{
    int r = 0;
    for (; r + 16 <= rows; r += 16)
        softmax16(s + (int64_t)r * SL_KEY_TILE, keys + r, m + r, sum + r, c + r);
    for (; r < rows; r++) {
        float *x = s + (int64_t)r * SL_KEY_TILE;
        __m512 best = _mm512_set1_ps(_mm512_reduce_max_ps(row_max(x, keys[r])));
        __m512 t = new_max(best, m + r, 1);
        float total = _mm512_reduce_add_ps(row_weigh(x, keys[r], _mm512_cvtss_f32(t)));
        finish(t, _mm512_set1_ps(total), 1, m + r, sum + r, c + r);
    }
}

static void scale(float *x, float by, int n)
{
    __m512 y = _mm512_set1_ps(by);
    for (int i = 0; i < n; i += 16)
        _mm512_storeu_ps(x + i, _mm512_mul_ps(_mm512_loadu_ps(x + i), y));
}

const struct sl_op_row sl_op_row_avx512 = {
    .name = "avx512",
    .caps = SL_CPU_AVX2 | SL_CPU_AVX512,
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
    .mad_keys = mad_keys,
    .mad_values = mad_values,
    .scale = scale,
};
