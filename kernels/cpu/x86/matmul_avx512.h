/* matmul_avx512.h - private: the AVX-512 kernels by name, shared by the avx512 and amx rows. */
#ifndef SL_KERNELS_CPU_X86_MATMUL_AVX512_H
#define SL_KERNELS_CPU_X86_MATMUL_AVX512_H

#include "base/cpu.h"
#include "kernels/cpu/matmul.h"

void sl_mm_quantize_avx512(const struct sl_mm_act *a, const float *x, int row, int64_t from,
                           int64_t to);

/* sl_mm_tile_avx512_SL_Q4_0 and so on, one sl_mm_tile_fn per format. */
#define X(type, ...)                                                                               \
    void sl_mm_tile_avx512_##type(const struct sl_mm_span *w, const struct sl_mm_act *a, int row,  \
                                  int rows, float *acc);
SL_MM_FORMATS(X)
SL_MM_FLOAT_FORMATS(X)
SL_MM_SMALL_FORMATS(X)
#undef X

#endif
