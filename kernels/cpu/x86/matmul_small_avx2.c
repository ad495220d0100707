/* matmul_small_avx2.c - AVX2: tiles of FP8 and of 4-bit codebooks against float activations.
 *
 * The order of sums is that of matmul_small_avx512.c, so both rows give the same bits; a tile is
 * two halves of 8 lanes. */
#include <immintrin.h>

#include "kernels/cpu/x86/matmul_avx2.h"

#define INLINE static inline __attribute__((always_inline))

enum { CHAINS = 4, ROWS = 2, HALF = 8, STEP = 4 };

INLINE __m256i load(const uint8_t *p)
{
    return _mm256_load_si256((const __m256i *)p);
}

/* 4 k of 8 lanes; p is the lanes' place. k is that of the first: codebooks hold 8 k in a word. */
INLINE void decode(enum sl_mm_codes kind, const uint8_t *p, int64_t k, const float *codebook,
                   __m256 w[STEP])
{
    if (kind == SL_MM_CB4) {
        __m256 low = _mm256_loadu_ps(codebook), high = _mm256_loadu_ps(codebook + 8);
        __m256i b = _mm256_srli_epi32(load(p), k & 4 ? 8 : 0);
#pragma GCC unroll 4
        for (int i = 0; i < STEP; i++) { /* bit 3 of an index goes to the sign, which chooses */
            __m256i at = _mm256_srli_epi32(b, 4 * (i & 1) + 8 * (i & 2));
            w[i] = _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, at),
                                    _mm256_permutevar8x32_ps(high, at),
                                    _mm256_castsi256_ps(_mm256_slli_epi32(at, 28)));
        }
        return;
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++, p += 32) { /* k i, i + 2 */
        __m128i b = _mm_load_si128((const __m128i *)p), even, odd;
        if (kind == SL_MM_E5M2) {
            even = _mm_slli_epi16(b, 8);
            odd = _mm_and_si128(b, _mm_set1_epi16((short)0xff00));
        } else {
            const __m128i bits = _mm_set1_epi16((short)0xbf80); /* sign, 7 bits one further */
            even = _mm_and_si128(_mm_srai_epi16(_mm_slli_epi16(b, 8), 1), bits);
            odd = _mm_and_si128(_mm_srai_epi16(b, 1), bits);
        }
        w[i] = _mm256_cvtph_ps(even);
        w[i + 2] = _mm256_cvtph_ps(odd);
    }
}

/* sum[row][k mod 4] += w * x for n <= STEP columns. */
INLINE void add(int rows, const __m256 w[STEP], const float *x, int64_t cols, int n,
                __m256 sum[ROWS][CHAINS])
{
#pragma GCC unroll 4
    for (int i = 0; i < STEP; i++) {
        if (i >= n) break;
#pragma GCC unroll 2
        for (int r = 0; r < rows; r++)
            sum[r][i] = _mm256_fmadd_ps(w[i], _mm256_set1_ps(x[r * cols + i]), sum[r][i]);
    }
}

/* Half `h` of a tile for `rows` activation rows. */
INLINE void half(enum sl_mm_codes kind, int rows, int h, const uint8_t *c,
                 const struct sl_mm_scale_head *t, const float *x, int64_t cols, float *acc)
{
    const int piece = sl_mm_code_k(kind), bytes = sl_mm_code_bytes(kind);
    __m256 total[ROWS], w[STEP];
    c += h * HALF * (kind == SL_MM_CB4 ? 4 : 2);
#pragma GCC unroll 2
    for (int r = 0; r < rows; r++) total[r] = _mm256_setzero_ps();
    for (int64_t k = 0, block = 0; k < cols; block++) {
        int64_t to = cols - k < t->cols ? cols : k + t->cols;
        __m256 sum[ROWS][CHAINS];
#pragma GCC unroll 2
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (int i = 0; i < CHAINS; i++) sum[r][i] = _mm256_setzero_ps();
        for (; k < to; k += STEP) {
            decode(kind, c + k / piece * SL_MM_LANES * bytes, k, t->codebook, w);
            add(rows, w, x + k, cols, (int)(to - k < STEP ? to - k : STEP), sum);
        }
        k = to;
        __m256 f = sl_mm_table_avx2(t, block, h);
#pragma GCC unroll 2
        for (int r = 0; r < rows; r++)
            total[r] = _mm256_fmadd_ps(f,
                                       _mm256_add_ps(_mm256_add_ps(sum[r][0], sum[r][1]),
                                                     _mm256_add_ps(sum[r][2], sum[r][3])),
                                       total[r]);
    }
#pragma GCC unroll 2
    for (int r = 0; r < rows; r++) _mm256_store_ps(acc + r * SL_MM_LANES + h * HALF, total[r]);
}

INLINE void tile(enum sl_mm_codes kind, const uint8_t *c, const uint8_t *p,
                 const struct sl_mm_act *a, int row, int rows, float *acc)
{
    const struct sl_mm_scale_head *t = sl_mm_scale_head(p);
    const float *x = a->x + row * a->cols;
    for (; rows >= ROWS; rows -= ROWS, x += ROWS * a->cols, acc += ROWS * SL_MM_LANES)
        for (int h = 0; h < 2; h++) half(kind, ROWS, h, c, t, x, a->cols, acc);
    for (int h = 0; rows > 0 && h < 2; h++) half(kind, 1, h, c, t, x, a->cols, acc);
}

#define X(type, kind)                                                                              \
    void sl_mm_tile_avx2_##type(const struct sl_mm_span *w, const struct sl_mm_act *a, int row,    \
                                int rows, float *acc)                                              \
    {                                                                                              \
        for (int i = 0; i < w->tiles; i++)                                                         \
            tile(kind, w->codes + i * w->stride, w->scales + i * w->stride, a, row, rows,          \
                 acc + i * SL_MM_ACC);                                                             \
    }
SL_MM_SMALL_FORMATS(X)
#undef X
