/* memory.c - one allocation per device, decided before anything is loaded, and copies to and from
 * it. Nothing else of this backend allocates device memory, so a stage that is ready stays so. */
#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"
#include "kernels/cuda/backend.h"

#define ALIGN 256 /* bytes */

static size_t align_up(size_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

int sl_cuda_check(const char *what, struct sl_err *err)
{
    cudaError_t e = cudaGetLastError();
    if (e == cudaSuccess) return 0;
    if (e == cudaErrorNoKernelImageForDevice)
        return sl_err_set(err, SL_EUNSUPPORTED,
                          "%s: this sluice has no kernels for cards of this compute capability "
                          "(`sluice check` shows it); build it with SLUICE_CUDA_ARCHS for it",
                          what);
    return sl_err_set(err, e == cudaErrorMemoryAllocation ? SL_ENOMEM : SL_ESYS, "%s: CUDA: %s",
                      what, cudaGetErrorString(e));
}

int sl_cuda_arena_open(struct sl_cuda_backend *g, uint64_t bytes, struct sl_err *err)
{
    size_t unused = 0, all = 0;
    char want[32], have[32];
    bytes -= bytes % ALIGN; /* what is left() can then be had in one piece */
    if (cudaMalloc((void **)&g->arena.base, bytes) == cudaSuccess) {
        g->arena.bytes = bytes;
        return 0;
    }
    cudaGetLastError(); /* said here */
    cudaMemGetInfo(&unused, &all);
    return sl_err_set(err, SL_ENOMEM,
                      "card %d cannot give %s: %s are free; lower the device's memory, or end what "
                      "else uses the card",
                      g->c.device, sl_format_bytes(bytes, want), sl_format_bytes(unused, have));
}

void sl_cuda_arena_close(struct sl_cuda_backend *g)
{
    cudaFree(g->arena.base);
    g->arena = (struct sl_cuda_arena){0};
}

void *sl_cuda_alloc(struct sl_backend *b, size_t bytes, struct sl_err *err)
{
    struct sl_cuda_arena *a = &b->cuda->arena;
    size_t n = align_up(bytes ? bytes : 1);
    if (n > a->bytes - a->used) {
        char want[32], have[32];
        sl_err_set(
            err, SL_ELIMIT,
            "the memory of card %d is used up: %s more are wanted, %s are left of its limit; "
            "give the device fewer layers or more memory",
            b->cuda->c.device, sl_format_bytes(n, want), sl_format_bytes(a->bytes - a->used, have));
        return NULL;
    }
    void *p = a->base + a->used;
    a->used += n;
    a->live++;
    cudaMemsetAsync(p, 0, n, b->cuda->c.stream);
    return p;
}

void sl_cuda_free(struct sl_backend *b, void *p)
{
    struct sl_cuda_arena *a = &b->cuda->arena;
    if (!p) return;
    SL_ASSERT(a->live > 0);
    if (--a->live == 0) a->used = 0;
}

uint64_t sl_cuda_left(struct sl_backend *b)
{
    const struct sl_cuda_arena *a = &b->cuda->arena;
    return a->bytes - a->used;
}

void sl_cuda_upload(struct sl_backend *b, void *dst, const void *src, size_t n)
{
    /* from pageable memory CUDA has copied `src` when the call returns */
    cudaMemcpyAsync(dst, src, n, cudaMemcpyHostToDevice, b->cuda->c.stream);
}

void sl_cuda_download(struct sl_backend *b, void *dst, const void *src, size_t n)
{
    cudaMemcpyAsync(dst, src, n, cudaMemcpyDeviceToHost, b->cuda->c.stream);
    cudaStreamSynchronize(b->cuda->c.stream);
}
