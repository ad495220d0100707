/* moe.h - mixtures of experts on the device: routing, gathered decode, grouped prefill; nothing
 * comes back to the host. */
#ifndef SL_KERNELS_CUDA_MOE_H
#define SL_KERNELS_CUDA_MOE_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Descriptors of the experts' weights, all of one form per role: device arrays [n_experts]. */
struct sl_cuda_experts {
    const struct sl_cuda_weight *gate, *up, *down; /* device */
    struct sl_cuda_weight gate_form, up_form, down_form; /* host: of expert 0 */
};

size_t sl_cuda_moe_scratch(const struct sl_backend_limits *l, int n_experts, int n_used, int n_ff,
                           int dim);
/* As sl_backend_ops.moe; m's gate, up and down are not read. */
void sl_cuda_moe(struct sl_cuda *c, const struct sl_moe *m, const struct sl_cuda_experts *e,
                 const void *x, int n, int dim, float *out);

#ifdef __cplusplus
}
#endif
#endif
