/* gemm.h - products of many rows: cuBLASLt on the card's tensor cores where it has the format, else
 * weights decoded tile by tile into scratch memory. */
#ifndef SL_KERNELS_CUDA_GEMM_H
#define SL_KERNELS_CUDA_GEMM_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What this card's cuBLASLt really does, found by small products when it is made: FP8 with scales
 * per tensor, per row and column, per block; block-scaled NVFP4 and MXFP8. Takes device memory:
 * SL_CUDA_LT_WORKSPACE and less than 1 MiB. */
int sl_cuda_lt_create(struct sl_cuda *c, struct sl_err *err);
void sl_cuda_lt_destroy(struct sl_cuda *c);

/* What was found, a line for each kind of product with the reason where it is not used; "" without
 * cuBLASLt. Stays until destroy. */
const char *sl_cuda_lt_facts(const struct sl_cuda *c);

/* Scratch bytes of the functions below: decoded tiles and quantized rows, within a fixed budget. */
size_t sl_cuda_gemm_scratch(const struct sl_backend_limits *l);

/* As sl_backend_ops.matmul, any n; meant for n > SL_DECODE_ROWS_MAX. FP8 weights multiply rows
 * quantized to E4M3 (per row, or per 128 columns where weights have blocks); everything else
 * multiplies halfs. For halfs x is levelled in place (const as the elements it stands for): its
 * rows get one common scale, which moves no element by more than 2^-24 of the largest. */
void sl_cuda_gemm(struct sl_cuda *c, const void *x, int n, const struct sl_product *p,
                  int n_products);

/* As sl_backend_ops.gate_up, any n; x as above. */
void sl_cuda_gemm_gate_up(struct sl_cuda *c, enum sl_act act, const void *x, int n,
                          const struct sl_weight *gate, const float *gate_bias,
                          const struct sl_weight *up, const float *up_bias, void *out);

/* Rows [first, first + n) of w decoded to halfs out [n][cols_padded]; *row* factors are left out
 * (they belong to the output). */
void sl_cuda_decode(struct sl_cuda *c, const struct sl_cuda_weight *w, int64_t first, int64_t n,
                    void *out);

#ifdef __cplusplus
}
#endif
#endif
