/* gpu_limits.h - a kernel that tells which multiprocessors it ran on. */
#ifndef SL_TESTS_GPU_GPU_LIMITS_H
#define SL_TESTS_GPU_GPU_LIMITS_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Sets seen[i] to 1 for each multiprocessor i that had one of many busy blocks; device, [1024]. */
#define GPU_SMS_MAX 1024
void gpu_limits_visit(struct sl_cuda *c, int32_t *seen);

#ifdef __cplusplus
}
#endif
#endif
