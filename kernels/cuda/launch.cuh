/* launch.cuh - how kernels are launched and how they follow one another.
 *
 * Programmatic dependent launch (CUDA programming guide): a kernel may begin while the one before
 * it still runs. It may then do what does not depend on it (index arithmetic, loads and prefetch of
 * weights), and must call sl_wait() before it touches anything an earlier kernel wrote, or writes
 * anything an earlier kernel reads. Every kernel calls sl_wait() once in every thread that reaches
 * its end, else the order is lost for those behind it. sl_next() lets the next kernel begin; call
 * it early. Data that an earlier kernel wrote must not be read through __restrict__ const or
 * __ldg: the compiler may move such loads above sl_wait(). */
#ifndef SL_KERNELS_CUDA_LAUNCH_CUH
#define SL_KERNELS_CUDA_LAUNCH_CUH

#include <utility>

#include "kernels/cuda/cuda.h"

static __device__ __forceinline__ void sl_wait()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

static __device__ __forceinline__ void sl_next()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* Launches kernel<<<grid, block, smem, c->stream>>>(args...) so that it may overlap its
 * predecessor. */
template <typename... P, typename... A>
static inline void sl_launch(const struct sl_cuda *c, void (*kernel)(P...), dim3 grid, dim3 block,
                             size_t smem, A &&...args)
{
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = smem;
    config.stream = c->stream;
    config.attrs = &attribute;
    config.numAttrs = c->cc >= 90 ? 1 : 0;
    cudaLaunchKernelEx(&config, kernel, static_cast<P>(std::forward<A>(args))...);
}

#endif
