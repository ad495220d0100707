/* matmul_float_avx2.c - AVX2: tiles of F32, F16 and BF16 weights against float activations.
 *
 * The order of sums is that of matmul_float_avx512.c, so both rows give the same bits; a tile is
 * two halves of 8 lanes. */
#include <immintrin.h>

#include "kernels/cpu/x86/matmul_avx2.h"

#define INLINE static inline __attribute__((always_inline))

enum { CHAINS = 4, ROWS = 2, HALF = 8 };

/* 8 lanes of k i of the quad at p, which is the lanes' place. */
INLINE __m256 lanes(enum sl_mm_codes kind, const uint8_t *p, int i)
{
    switch (kind) {
    case SL_MM_F32:
        return _mm256_load_ps((const float *)(const void *)(p + i * 64));
    case SL_MM_F16:
        return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(p + i * 32)));
    default:
        break;
    }
    __m256i pair = _mm256_load_si256((const __m256i *)(p + (i & 1) * 64)); /* k i, i + 2 */
    return _mm256_castsi256_ps(i & 2 ? _mm256_and_si256(pair, _mm256_set1_epi32((int)0xffff0000))
                                     : _mm256_slli_epi32(pair, 16));
}

/* Half h of a tile for `rows` activation rows. */
INLINE void half(enum sl_mm_codes kind, int rows, int h, const uint8_t *p, const float *x,
                 int64_t cols, float *acc)
{
    const int quad = CHAINS * SL_MM_LANES * (kind == SL_MM_F32 ? 4 : 2); /* bytes */
    p += h * HALF * (kind == SL_MM_F16 ? 2 : 4);
    acc += h * HALF;
    __m256 sum[ROWS][CHAINS];
#pragma GCC unroll 2
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int i = 0; i < CHAINS; i++) sum[r][i] = _mm256_setzero_ps();
    int64_t k = 0;
    for (; k + CHAINS <= cols; k += CHAINS, p += quad) {
#pragma GCC unroll 4
        for (int i = 0; i < CHAINS; i++) {
            __m256 w = lanes(kind, p, i);
#pragma GCC unroll 2
            for (int r = 0; r < rows; r++)
                sum[r][i] = _mm256_fmadd_ps(w, _mm256_set1_ps(x[r * cols + k + i]), sum[r][i]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < CHAINS - 1; i++) /* constant index: the sums stay in registers */
        if (k + i < cols)
#pragma GCC unroll 2
            for (int r = 0; r < rows; r++)
                sum[r][i] = _mm256_fmadd_ps(lanes(kind, p, i), _mm256_set1_ps(x[r * cols + k + i]),
                                            sum[r][i]);
#pragma GCC unroll 2
    for (int r = 0; r < rows; r++)
        _mm256_store_ps(acc + r * SL_MM_LANES, _mm256_add_ps(_mm256_add_ps(sum[r][0], sum[r][1]),
                                                             _mm256_add_ps(sum[r][2], sum[r][3])));
}

INLINE void tile(enum sl_mm_codes kind, const uint8_t *p, const struct sl_mm_act *a, int row,
                 int rows, float *acc)
{
    const float *x = a->x + row * a->cols;
    for (; rows >= ROWS; rows -= ROWS, x += ROWS * a->cols, acc += ROWS * SL_MM_LANES)
        for (int h = 0; h < 2; h++) half(kind, ROWS, h, p, x, a->cols, acc);
    for (int h = 0; rows > 0 && h < 2; h++) half(kind, 1, h, p, x, a->cols, acc);
}

#define X(type, kind)                                                                              \
    void sl_mm_tile_avx2_##type(const struct sl_mm_span *w, const struct sl_mm_act *a, int row,    \
                                int rows, float *acc)                                              \
    {                                                                                              \
        for (int i = 0; i < w->tiles; i++)                                                         \
            tile(kind, w->codes + i * w->stride, a, row, rows, acc + i * SL_MM_ACC);               \
    }
SL_MM_FLOAT_FORMATS(X)
#undef X
