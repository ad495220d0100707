/* gpu.c - see gpu.h. */
#include "transport/gpu.h"

#include <cuda_runtime_api.h>
#include <stdint.h>
#include <stdio.h>

#include "base/sl_assert.h"

static int cuda_error(struct sl_err *err, int gpu, const char *what, cudaError_t e)
{
    int code = e == cudaErrorMemoryAllocation ? SL_ENOMEM : SL_EUNSUPPORTED;
    cudaGetLastError(); /* it has been told */
    return sl_err_set(err, code, "GPU %d: %s: %s", gpu, what, cudaGetErrorString(e));
}

int sl_gpu_id(int gpu, char out[SL_GPU_ID_MAX], struct sl_err *err)
{
    struct cudaDeviceProp p;
    cudaError_t e = cudaGetDeviceProperties(&p, gpu);
    if (e != cudaSuccess) return cuda_error(err, gpu, "reading its properties", e);
    int n = snprintf(out, SL_GPU_ID_MAX, "GPU-");
    for (size_t i = 0; i < sizeof p.uuid.bytes; i++)
        n += snprintf(out + n, (size_t)(SL_GPU_ID_MAX - n), "%02x", (uint8_t)p.uuid.bytes[i]);
    return 0;
}

/* ---- berths -----------------------------------------------------------------------------------
 */

/* Runs with card `gpu` current, and leaves the thread's own as it was. */
static cudaError_t on_card(int gpu, cudaError_t (*fn)(void **p, size_t n), void **p, size_t n)
{
    int before = 0;
    cudaError_t e = cudaGetDevice(&before);
    if (e == cudaSuccess) e = cudaSetDevice(gpu);
    if (e == cudaSuccess) e = fn(p, n);
    cudaSetDevice(before);
    return e;
}

static cudaError_t take(void **p, size_t n)
{
    return cudaMalloc(p, n);
}

static cudaError_t give(void **p, size_t n)
{
    (void)n;
    return cudaFree(*p);
}

static int berths_alloc(void *arg, size_t bytes, void **out, struct sl_err *err)
{
    int gpu = (int)(intptr_t)arg;
    cudaError_t e = on_card(gpu, take, out, bytes);
    return e == cudaSuccess ? 0 : cuda_error(err, gpu, "memory for link buffers", e);
}

static void berths_free(void *arg, void *p)
{
    on_card((int)(intptr_t)arg, give, &p, 0);
}

int sl_gpu_berths(int gpu, int n, size_t bytes, struct sl_berths **out, struct sl_err *err)
{
    struct sl_berths_memory m = {berths_alloc, berths_free, (void *)(intptr_t)gpu};
    return sl_berths_create(&m, n, bytes, out, err);
}

/* ---- host memory ----------------------------------------------------------------------------- */

static void *pinned_alloc(size_t bytes)
{
    void *p = NULL;
    if (cudaHostAlloc(&p, bytes, cudaHostAllocPortable) != cudaSuccess) {
        cudaGetLastError();
        return NULL;
    }
    SL_ASSERT((uintptr_t)p % SL_FRAME_ALIGN == 0);
    return p;
}

static void pinned_free(void *p)
{
    cudaFreeHost(p);
}

void sl_gpu_pin_frames(void)
{
    sl_frame_use_memory(pinned_alloc, pinned_free);
}
