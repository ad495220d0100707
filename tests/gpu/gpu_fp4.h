/* gpu_fp4.h - sl_cuda_mma_matmul() with the emulated multiply-accumulate. */
#ifndef SL_TESTS_GPU_GPU_FP4_H
#define SL_TESTS_GPU_GPU_FP4_H

#include "kernels/cuda/matmul_fp4.h"

#ifdef __cplusplus
extern "C" {
#endif

void gpu_fp4_matmul(struct sl_cuda *c, const struct sl_mma_rows *r, int n,
                    const struct sl_product *p, int n_products);

#ifdef __cplusplus
}
#endif
#endif
