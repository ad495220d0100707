/* rows.h - everything that goes over activations once: norms, gated units, embeddings, copies; and
 * the draw of tokens. As the operations of the same names in kernels.h. */
#ifndef SL_KERNELS_CUDA_ROWS_H
#define SL_KERNELS_CUDA_ROWS_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

void sl_cuda_rmsnorm(struct sl_cuda *c, const float *x, const float *gain, float eps, int n,
                     int dim, float *out);
void sl_cuda_norm_rows(struct sl_cuda *c, const float *x, const float *gain, float eps, int n,
                       int dim, void *out);
void sl_cuda_to_rows(struct sl_cuda *c, const float *x, int n, int cols, void *out);
void sl_cuda_glu(struct sl_cuda *c, enum sl_act act, const float *gate, const float *up, int64_t n,
                 int64_t cols, void *out);
void sl_cuda_mix(struct sl_cuda *c, const float *from, int64_t from_stride, float *to,
                 int64_t to_stride, int64_t n, int64_t cols, float scale, int add);
void sl_cuda_weigh_rows(struct sl_cuda *c, const float *gain, const void *x, int n, int dim,
                        void *y, int cols);
void sl_cuda_pick(struct sl_cuda *c, const float *x, const int32_t *picks, int n, int dim,
                  float *out);
void sl_cuda_soften(struct sl_cuda *c, float *x, int64_t count, float scale, float cap);
/* out[i][cols] = row ids[i] of w (device ids); -1: zeros. */
void sl_cuda_embed(struct sl_cuda *c, const struct sl_cuda_weight *w, const int32_t *ids, int n,
                   float *out);

/* Scratch bytes of draw. */
size_t sl_cuda_draw_scratch(const struct sl_backend_limits *l);
/* Picks [first, first + n) of c->step from logits [n][n_vocab], which are spoiled, into
 * step.drawn and step.scored. The steps are those of stage/sample.h: adjustments, temperature,
 * top-k, top-p, min-p, the draw; ties go to the lower id; NaN counts as minus infinity. A token is
 * adjusted at most once per draw (sl_sample_adjustments); scores are those of the logits before.
 * n_vocab <= 2^20. A pick of n_top < 0 and next < 0 costs and touches nothing. */
void sl_cuda_draw(struct sl_cuda *c, float *logits, int first, int n, int n_vocab);

#ifdef __cplusplus
}
#endif
#endif
