/* batch.h - products of more rows than decode's: by our own kernels where the card's tensor cores
 * take the weights' codes as they are (matmul_fp4.h), else by gemm.h. */
#ifndef SL_KERNELS_CUDA_BATCH_H
#define SL_KERNELS_CUDA_BATCH_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Scratch bytes of the functions below. */
size_t sl_cuda_batch_scratch(const struct sl_backend_limits *l);

/* As sl_backend_ops.matmul and gate_up, any n; x may be levelled in place as gemm.h says. */
void sl_cuda_batch_matmul(struct sl_cuda *c, const void *x, int n, const struct sl_product *p,
                          int n_products);
void sl_cuda_batch_gate_up(struct sl_cuda *c, enum sl_act act, const void *x, int n,
                           const struct sl_weight *gate, const float *gate_bias,
                           const struct sl_weight *up, const float *up_bias, void *out);

#ifdef __cplusplus
}
#endif
#endif
