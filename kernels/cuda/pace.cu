/* pace.cu - a step takes at least so long: the card's clock is read when it begins, and its last
 * kernel waits. Nothing comes back to the host, so steps can be recorded with it. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/limits.h"

#define NAP_NS 500 /* between looks at the clock */

static __device__ __forceinline__ uint64_t now_ns()
{
    uint64_t t;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t)::"memory");
    return t;
}

static __global__ void pace_begin(uint64_t *began)
{
    sl_wait();
    *began = now_ns();
}

/* sl_next() is not called: what follows begins when this has waited. */
static __global__ void pace_end(const uint64_t *began, uint64_t ns)
{
    sl_wait();
    uint64_t until = *(const volatile uint64_t *)began + ns;
    while (now_ns() < until) __nanosleep(NAP_NS);
}

extern "C" void sl_cuda_pace_begin(struct sl_cuda *c, uint64_t *began)
{
    sl_launch(c, pace_begin, 1, 1, 0, began);
}

extern "C" void sl_cuda_pace_end(struct sl_cuda *c, const uint64_t *began, uint64_t ns)
{
    sl_launch(c, pace_end, 1, 1, 0, began, ns);
}
