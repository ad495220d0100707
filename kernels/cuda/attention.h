/* attention.h - KV caches in device memory and attention over them. All read c->step.
 *
 * Caches here are [block][kv_head][block_tokens][head_dim] for K and V alike, of F16, BF16, F32 or
 * F8_E4M3 (stored saturated, scale 1). Latents are [block][block_tokens][dim] of the same types.
 *
 * The step's arrays, and keys of positions more than SL_CUDA_LONE_MAX before a lone row's, are read
 * before the kernels in front have ended (launch.cuh): steps must be sent by copies on the stream,
 * and a block of tokens may be shared from the step on that follows the one that filled it. */
#ifndef SL_KERNELS_CUDA_ATTENTION_H
#define SL_KERNELS_CUDA_ATTENTION_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Scratch bytes for partial sums, at most 64 MiB or what one row needs. Over latents head_dim is
 * v_dim. */
size_t sl_cuda_attention_scratch(const struct sl_backend_limits *l, int n_heads, int head_dim);

/* As the operations of the same names (kernels.h). rope's `row` is the first of n rows of the step
 * that the parts hold. */
void sl_cuda_rope(struct sl_cuda *c, const struct sl_rope *r, const struct sl_rope_part *parts,
                  int n_parts, int row, int n);
void sl_cuda_heads(struct sl_cuda *c, const struct sl_heads *h, const struct sl_kv_view *kv);
void sl_cuda_kv_write(struct sl_cuda *c, const struct sl_kv_view *kv, const float *k,
                      const float *v);
/* out: product rows. Lone rows are split over the keys in pieces of a fixed length and combined in
 * order; tiles run flash attention (Dao 2023). */
void sl_cuda_attention(struct sl_cuda *c, const struct sl_kv_view *kv, const float *q,
                       const struct sl_attn *a, void *out);
void sl_cuda_latent_write(struct sl_cuda *c, const struct sl_latent_view *kv, const float *x);
void sl_cuda_latent_attention(struct sl_cuda *c, const struct sl_latent_view *kv, const float *q,
                              const struct sl_attn *a, float *out);
/* weights: device array of n_heads descriptors of one shape. F16 without scales runs on the matrix
 * units; every other form is decoded plainly. */
void sl_cuda_head_matmul(struct sl_cuda *c, const struct sl_cuda_weight *weights, int n_heads,
                         int rows, int cols, const float *x, int64_t x_stride, int64_t x_head,
                         int n, float *out, int64_t out_stride, int64_t out_head);

#ifdef __cplusplus
}
#endif
#endif
