/* matmul_avx2.h - private: the AVX2 kernels by name. */
#ifndef SL_KERNELS_CPU_X86_MATMUL_AVX2_H
#define SL_KERNELS_CPU_X86_MATMUL_AVX2_H

#include <immintrin.h>

#include "base/cpu.h"
#include "kernels/cpu/matmul.h"

/* sl_mm_tile_avx2_SL_TILE_F32 and so on, one sl_mm_tile_fn per float layout. */
#define X(type, ...)                                                                               \
    void sl_mm_tile_avx2_##type(const struct sl_mm_span *w, const struct sl_mm_act *a, int row,    \
                                int rows, float *acc);
SL_MM_FLOAT_FORMATS(X)
SL_MM_SMALL_FORMATS(X)
#undef X

/* Half h (8 lanes) of block i of a table of kind S. */
static inline __m256 sl_mm_table_avx2(const struct sl_mm_scale_head *t, int64_t i, int h)
{
    const uint8_t *p = (const uint8_t *)(t + 1);
    if (t->type == SL_F32) return _mm256_load_ps((const float *)(const void *)p + 16 * i + 8 * h);
    __m128i v = _mm_load_si128((const __m128i *)(p + 32 * i + 16 * h));
    if (t->type == SL_F16) return _mm256_cvtph_ps(v);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
}

#endif
