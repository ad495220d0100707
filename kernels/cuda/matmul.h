/* matmul.h - weights in device memory, and products of up to SL_DECODE_ROWS_MAX rows that stream
 * them once. */
#ifndef SL_KERNELS_CUDA_MATMUL_H
#define SL_KERNELS_CUDA_MATMUL_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of device memory that m takes as a weight, 256-byte pieces; 0: no kernel for it. m's data
 * pointers are not read. */
uint64_t sl_cuda_weight_bytes(const struct sl_matrix *m);

/* Makes *out of `raw`, whose data, scales, zeros, codebook and order point to device memory (row 0
 * is stored row 0, step 1), in the `bytes` (as sl_cuda_weight_bytes said) at `memory`. Only
 * enqueues; `raw` may be let go of when the stream has run. The codebook must be host memory. */
void sl_cuda_weight_pack(struct sl_cuda *c, const struct sl_matrix *raw, void *memory,
                         struct sl_cuda_weight *out);

/* Scratch bytes of the functions below for inputs of at most max_cols. */
size_t sl_cuda_stream_scratch(int sms, int64_t max_cols);

/* As sl_backend_ops.matmul, for 0 <= n <= SL_DECODE_ROWS_MAX; the weights are
 * p[i].w->packed (struct sl_cuda_weight). A row's bits do not depend on the
 * others, nor on n within n <= 8 (fewer
 * where the rows do not fit into shared memory) and above. */
void sl_cuda_stream_matmul(struct sl_cuda *c, const void *x, int n, const struct sl_product *p,
                           int n_products);
/* As sl_backend_ops.gate_up, for 0 <= n <= SL_DECODE_ROWS_MAX. */
void sl_cuda_stream_gate_up(struct sl_cuda *c, enum sl_act act, const void *x, int n,
                            const struct sl_weight *gate, const float *gate_bias,
                            const struct sl_weight *up, const float *up_bias, void *out);

#ifdef __cplusplus
}
#endif
#endif
