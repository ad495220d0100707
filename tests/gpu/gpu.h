/* gpu.h - what tests of the CUDA backend share: a device, its memory, random numbers, comparison.
 */
#ifndef SL_TESTS_GPU_GPU_H
#define SL_TESTS_GPU_GPU_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Device 0 with a stream, `scratch` bytes and a step of max_rows rows and max_seqs tables; exits
 * with 77 (skipped) when there is no GPU. cuBLASLt is not made (c->lt is NULL). */
struct sl_cuda *gpu_open(size_t scratch, int max_rows, int max_seqs, int max_blocks,
                         int block_tokens);
void gpu_close(struct sl_cuda *c);

/* Fails the program with CUDA's words when anything went wrong until now; waits. */
void gpu_sync(struct sl_cuda *c);

/* Zeroed device memory, a copy of host memory, host memory into it, and back again; all wait.
 * Failing is fatal. */
void *gpu_alloc(size_t bytes);
void *gpu_copy(const void *host, size_t bytes);
void gpu_write(void *device, const void *host, size_t bytes);
void gpu_read(struct sl_cuda *c, void *host, const void *device, size_t bytes);
void gpu_free(void *p);

/* Reproducible: uniform in [-1, 1), and normal with deviation 1. */
float gpu_uniform(uint64_t *seed);
float gpu_normal(uint64_t *seed);

/* Product rows to and from float32 on the host: [n][cols]. */
void gpu_rows_make(const float *x, int64_t n, int64_t cols, void *rows_host);
void gpu_rows_read(const void *rows_host, int64_t n, int64_t cols, float *x);

/* rms(a - b) / rms(b), NaN when a holds one. */
double gpu_error(const float *a, const float *b, int64_t n);

/* Seconds one call of fn takes: median of `rounds` timed with events, `calls` calls each. */
double gpu_time(struct sl_cuda *c, int rounds, int calls, void (*fn)(void *arg, int call),
                void *arg);
/* The same of `calls` calls recorded in a graph, as decode steps run: without the host's share. */
double gpu_time_graph(struct sl_cuda *c, int rounds, int calls, void (*fn)(void *arg, int call),
                      void *arg);
/* Bytes per second of a long read of device memory: the limit to compare with. */
double gpu_read_bandwidth(struct sl_cuda *c);

#ifdef __cplusplus
}
#endif
#endif
