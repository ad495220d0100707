/* matmul_small_avx512.c - AVX-512: tiles of FP8 and of 4-bit codebooks against float activations.
 *
 * A byte of FP8 becomes a half by moving its bits (for E4M3 2^-8 of the value, which the scales
 * make up for), the half a float; an index of a codebook is one permutation of its 16 values. Sums
 * go to four accumulators by k mod 4 for each block of scales, as in matmul_float_avx512.c, and the
 * block's sum is scaled: exact weights, float32 activations, one order for one row and for four. */
#include <immintrin.h>
#include <string.h>

#include "kernels/cpu/x86/matmul_avx512.h"

#define INLINE static inline __attribute__((always_inline))

enum { CHAINS = 4, ROWS = 4, STEP = SL_MM_SMALL_K };
enum { PREFETCH = 4096 }; /* bytes ahead in the stream of tiles */

/* 8 k of 16 lanes. */
INLINE void decode(enum sl_mm_codes kind, const uint8_t *p, __m512 codebook, __m512 w[STEP])
{
    if (kind == SL_MM_CB4) { /* a permutation reads the low four bits only */
        __m512i b = _mm512_load_si512(p);
#pragma GCC unroll 8
        for (int i = 0; i < STEP; i++) { /* of each quad k 0, 1, and 16 bits further 2, 3 */
            unsigned at = (unsigned)(4 * (i & 1) + 2 * (i & 4) + 8 * (i & 2));
            w[i] = _mm512_permutexvar_ps(_mm512_srli_epi32(b, at), codebook);
        }
        return;
    }
#pragma GCC unroll 2
    for (int i = 0; i < STEP; i += 4, p += 64) {
        __m512i b = _mm512_load_si512(p), even, odd; /* k 0, 1 and k 2, 3 of 16 lanes */
        if (kind == SL_MM_E5M2) {
            even = _mm512_slli_epi16(b, 8);
            odd = _mm512_and_si512(b, _mm512_set1_epi16((short)0xff00));
        } else {
            const __m512i bits = _mm512_set1_epi16((short)0xbf80); /* sign, 7 bits one further */
            even = _mm512_and_si512(_mm512_srai_epi16(_mm512_slli_epi16(b, 8), 1), bits);
            odd = _mm512_and_si512(_mm512_srai_epi16(b, 1), bits);
        }
        w[i] = _mm512_cvtph_ps(_mm512_castsi512_si256(even));
        w[i + 2] = _mm512_cvtph_ps(_mm512_castsi512_si256(odd));
        w[i + 1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(even, 1));
        w[i + 3] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(odd, 1));
    }
}

/* sum[row][k mod 4] += w * x for n <= STEP columns. */
INLINE void add(int rows, const __m512 w[STEP], const float *x, int64_t cols, int n,
                __m512 sum[ROWS][CHAINS])
{
#pragma GCC unroll 8
    for (int i = 0; i < STEP; i++) {
        if (i >= n) break;
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
            sum[r][i % CHAINS] =
                _mm512_fmadd_ps(w[i], _mm512_set1_ps(x[r * cols + i]), sum[r][i % CHAINS]);
    }
}

INLINE void rows_of(enum sl_mm_codes kind, int rows, const uint8_t *c,
                    const struct sl_mm_scale_head *h, const float *x, int64_t cols, float *acc)
{
    const int bytes = STEP * SL_MM_LANES * (kind == SL_MM_CB4 ? 1 : 2) / 2;
    const float *scale = (const float *)(const void *)(h + 1);
    __m512 codebook = _mm512_loadu_ps(h->codebook), total[ROWS], w[STEP];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) total[r] = _mm512_setzero_ps();
    for (int64_t k = 0; k < cols; scale += SL_MM_LANES) {
        int64_t to = cols - k < h->cols ? cols : k + h->cols;
        __m512 sum[ROWS][CHAINS];
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (int i = 0; i < CHAINS; i++) sum[r][i] = _mm512_setzero_ps();
        for (; k + STEP <= to; k += STEP, c += bytes) {
#pragma GCC unroll 2
            for (int i = 0; i < bytes; i += 64)
                _mm_prefetch((const char *)c + PREFETCH + i, _MM_HINT_T0);
            decode(kind, c, codebook, w);
            add(rows, w, x + k, cols, STEP, sum);
        }
        if (k < to) { /* only at the row's end: blocks are whole steps */
            decode(kind, c, codebook, w);
            add(rows, w, x + k, cols, (int)(to - k), sum);
            k = to;
        }
        __m512 f = _mm512_load_ps(scale);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
            total[r] = _mm512_fmadd_ps(f,
                                       _mm512_add_ps(_mm512_add_ps(sum[r][0], sum[r][1]),
                                                     _mm512_add_ps(sum[r][2], sum[r][3])),
                                       total[r]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) _mm512_store_ps(acc + r * SL_MM_LANES, total[r]);
}

INLINE void tile(enum sl_mm_codes kind, const uint8_t *c, const uint8_t *p,
                 const struct sl_mm_act *a, int row, int rows, float *acc)
{
    const struct sl_mm_scale_head *h = sl_mm_scale_head(p);
    const float *x = a->x + row * a->cols;
    for (; rows >= ROWS; rows -= ROWS, x += ROWS * a->cols, acc += ROWS * SL_MM_LANES)
        rows_of(kind, ROWS, c, h, x, a->cols, acc);
    for (; rows > 0; rows--, x += a->cols, acc += SL_MM_LANES)
        rows_of(kind, 1, c, h, x, a->cols, acc);
}

#define X(type, kind)                                                                              \
    void sl_mm_tile_avx512_##type(const struct sl_mm_span *w, const struct sl_mm_act *a, int row,  \
                                  int rows, float *acc)                                            \
    {                                                                                              \
        for (int i = 0; i < w->tiles; i++)                                                         \
            tile(kind, w->codes + i * w->stride, w->scales + i * w->stride, a, row, rows,          \
                 acc + i * SL_MM_ACC);                                                             \
    }
SL_MM_SMALL_FORMATS(X)
#undef X
