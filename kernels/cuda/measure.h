/* measure.h - what a card's memory gives: the number that plans and percentages are made of. */
#ifndef SL_KERNELS_CUDA_MEASURE_H
#define SL_KERNELS_CUDA_MEASURE_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes per second of long reads of device memory: the best of a few passes over a buffer much
 * larger than the L2 cache, which is taken from the driver for that time. Waits for the stream; a
 * few milliseconds. 0 when there is no room for a buffer. */
double sl_cuda_measure_bandwidth(struct sl_cuda *c);

/* One pass over `bytes`, a multiple of 16, at p; `sink` is never written. measure.cu */
void sl_cuda_read_all(struct sl_cuda *c, const void *p, size_t bytes, uint32_t *sink);

#ifdef __cplusplus
}
#endif
#endif
