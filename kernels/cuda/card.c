/* card.c - see kernels/card.h. */
#include "kernels/card.h"

#include <cuda_runtime_api.h>
#include <stdio.h>

void sl_cuda_versions(struct sl_cuda_versions *out)
{
    *out = (struct sl_cuda_versions){.built = CUDART_VERSION};
    cudaRuntimeGetVersion(&out->runtime);
    cudaDriverGetVersion(&out->driver); /* leaves 0 without a driver */
    cudaGetLastError();
}

int sl_card_describe(int number, struct sl_card *out, struct sl_err *err)
{
    struct cudaDeviceProp p;
    size_t unused = 0, all = 0;
    cudaError_t e = cudaGetDeviceProperties(&p, number);
    if (e == cudaSuccess) e = cudaSetDevice(number);
    if (e == cudaSuccess) e = cudaMemGetInfo(&unused, &all);
    cudaGetLastError();
    if (e != cudaSuccess)
        return sl_err_set(err, SL_EUNSUPPORTED, "cuda:%d: %s; nvidia-smi shows the cards", number,
                          cudaGetErrorString(e));
    *out = (struct sl_card){.capability = p.major * 10 + p.minor,
                            .multiprocessors = p.multiProcessorCount,
                            .memory_bytes = all,
                            .free_bytes = unused,
                            .l2_bytes = (uint64_t)p.l2CacheSize};
    snprintf(out->name, sizeof out->name, "%.63s", p.name);
    return 0;
}
