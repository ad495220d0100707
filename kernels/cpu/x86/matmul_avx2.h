/* matmul_avx2.h - private: the AVX2 kernels by name. */
#ifndef SL_KERNELS_CPU_X86_MATMUL_AVX2_H
#define SL_KERNELS_CPU_X86_MATMUL_AVX2_H

#include "base/cpu.h"
#include "kernels/cpu/matmul.h"

/* sl_mm_tile_avx2_SL_F32 and so on, one sl_mm_tile_fn per float format. */
#define X(type, ...)                                                                               \
    void sl_mm_tile_avx2_##type(const struct sl_mm_span *w, const struct sl_mm_act *a, int row,    \
                                int rows, float *acc);
SL_MM_FLOAT_FORMATS(X)
#undef X

#endif
