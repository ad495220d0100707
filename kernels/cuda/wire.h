/* wire.h - activations as they travel from stage to stage (docs/wire.md, "Payload"), in device
 * memory. */
#ifndef SL_KERNELS_CUDA_WIRE_H
#define SL_KERNELS_CUDA_WIRE_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* As the operations pack and unpack of kernels.h. */
void sl_cuda_pack(struct sl_cuda *c, enum sl_dtype type, const float *x, int n, int cols,
                  void *out);
void sl_cuda_unpack(struct sl_cuda *c, enum sl_dtype type, const void *in, int n, int cols,
                    float *x);

#ifdef __cplusplus
}
#endif
#endif
