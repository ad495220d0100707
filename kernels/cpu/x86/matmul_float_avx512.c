/* matmul_float_avx512.c - AVX-512: tiles of F32, F16 and BF16 weights against float activations.
 *
 * Sums go to four accumulators by k mod 4, added at the end as (0+1)+(2+3): enough chains to hide
 * the latency of FMA, and the same order for one row as for four at a time. */
#include <immintrin.h>

#include "kernels/cpu/x86/matmul_avx512.h"

#define INLINE static inline __attribute__((always_inline))

enum { CHAINS = 4, ROWS = 4 };
enum { PREFETCH = 4096 }; /* bytes ahead in the stream of tiles; past the matrix in vain */

/* The 16 lanes of k i of the quad at p. */
INLINE __m512 lanes(enum sl_mm_codes kind, const uint8_t *p, int i)
{
    switch (kind) {
    case SL_MM_F32:
        return _mm512_load_ps(p + i * 64);
    case SL_MM_F16:
        return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(p + i * 32)));
    default:
        break;
    }
    __m512i pair = _mm512_load_si512(p + (i & 1) * 64); /* k i, i + 2 */
    return _mm512_castsi512_ps(i & 2 ? _mm512_and_si512(pair, _mm512_set1_epi32((int)0xffff0000))
                                     : _mm512_slli_epi32(pair, 16));
}

INLINE void rows_of(enum sl_mm_codes kind, int rows, const uint8_t *p, const float *x, int64_t cols,
                    float *acc)
{
    const int quad = CHAINS * SL_MM_LANES * (kind == SL_MM_F32 ? 4 : 2); /* bytes */
    __m512 sum[ROWS][CHAINS];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int i = 0; i < CHAINS; i++) sum[r][i] = _mm512_setzero_ps();
    int64_t k = 0;
    for (; k + CHAINS <= cols; k += CHAINS, p += quad) {
#pragma GCC unroll 4
        for (int i = 0; i < quad; i += 64)
            _mm_prefetch((const char *)p + PREFETCH + i, _MM_HINT_T0);
#pragma GCC unroll 4
        for (int i = 0; i < CHAINS; i++) {
            __m512 w = lanes(kind, p, i);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++)
                sum[r][i] = _mm512_fmadd_ps(w, _mm512_set1_ps(x[r * cols + k + i]), sum[r][i]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < CHAINS - 1; i++) /* constant index: the sums stay in registers */
        if (k + i < cols)
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++)
                sum[r][i] = _mm512_fmadd_ps(lanes(kind, p, i), _mm512_set1_ps(x[r * cols + k + i]),
                                            sum[r][i]);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
        _mm512_store_ps(acc + r * SL_MM_LANES, _mm512_add_ps(_mm512_add_ps(sum[r][0], sum[r][1]),
                                                             _mm512_add_ps(sum[r][2], sum[r][3])));
}

INLINE void tile(enum sl_mm_codes kind, const uint8_t *p, const struct sl_mm_act *a, int row,
                 int rows, float *acc)
{
    const float *x = a->x + row * a->cols;
    for (; rows >= ROWS; rows -= ROWS, x += ROWS * a->cols, acc += ROWS * SL_MM_LANES)
        rows_of(kind, ROWS, p, x, a->cols, acc);
    for (; rows > 0; rows--, x += a->cols, acc += SL_MM_LANES) rows_of(kind, 1, p, x, a->cols, acc);
}

#define X(type, kind)                                                                              \
    void sl_mm_tile_avx512_##type(const struct sl_mm_span *w, const struct sl_mm_act *a, int row,  \
                                  int rows, float *acc)                                            \
    {                                                                                              \
        for (int i = 0; i < w->tiles; i++)                                                         \
            tile(kind, w->codes + i * w->stride, a, row, rows, acc + i * SL_MM_ACC);               \
    }
SL_MM_FLOAT_FORMATS(X)
#undef X
