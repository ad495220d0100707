/* gpu_limits.cu - see gpu_limits.h. */
#include "tests/gpu/gpu_limits.h"
#include "kernels/cuda/launch.cuh"

#define BLOCKS 4096
#define BUSY_NS 2000 /* long enough that blocks spread over all there is */

static __global__ void visit(int32_t *seen)
{
    sl_wait();
    uint32_t sm;
    uint64_t from, now;
    asm volatile("mov.u32 %0, %%smid;" : "=r"(sm));
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(from));
    do asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    while (now < from + BUSY_NS);
    if (sm < GPU_SMS_MAX) seen[sm] = 1;
}

extern "C" void gpu_limits_visit(struct sl_cuda *c, int32_t *seen)
{
    sl_launch(c, visit, BLOCKS, 256, 0, seen);
}
