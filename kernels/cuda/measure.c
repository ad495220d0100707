/* measure.c - see measure.h. */
#include "kernels/cuda/measure.h"

#define BUFFER_BYTES ((size_t)1 << 30)
#define BUFFER_BYTES_LEAST ((size_t)64 << 20) /* on cards that are nearly full */
#define PASSES 6

static double timed_pass(struct sl_cuda *c, void *p, size_t bytes, cudaEvent_t from, cudaEvent_t to)
{
    float ms = 0;
    cudaEventRecord(from, c->stream);
    sl_cuda_read_all(c, p, bytes, p);
    cudaEventRecord(to, c->stream);
    if (cudaEventSynchronize(to) != cudaSuccess) return 0;
    if (cudaEventElapsedTime(&ms, from, to) != cudaSuccess || !(ms > 0)) return 0;
    return (double)bytes * 1e3 / (double)ms;
}

double sl_cuda_measure_bandwidth(struct sl_cuda *c)
{
    size_t bytes = BUFFER_BYTES;
    void *p = NULL;
    cudaEvent_t from = NULL, to = NULL;
    double best = 0;
    while (cudaMalloc(&p, bytes) != cudaSuccess && (bytes /= 2) >= BUFFER_BYTES_LEAST)
        cudaGetLastError(); /* not enough room is no error of later calls */
    if (!p) {
        cudaGetLastError();
        return 0;
    }
    /* Words that agree cancel in the kernel's exclusive or. */
    if (cudaMemsetAsync(p, 0x5a, bytes, c->stream) == cudaSuccess &&
        cudaEventCreate(&from) == cudaSuccess && cudaEventCreate(&to) == cudaSuccess)
        for (int i = 0; i < PASSES; i++) {
            double rate = timed_pass(c, p, bytes, from, to);
            best = rate > best ? rate : best;
        }
    if (from) cudaEventDestroy(from);
    if (to) cudaEventDestroy(to);
    cudaFree(p);
    cudaGetLastError(); /* a launch that failed will fail again where it is told */
    return best;
}
