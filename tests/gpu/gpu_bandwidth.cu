/* gpu_bandwidth.cu - reads a buffer far larger than the L2 cache: what reading weights could reach. */
#include "kernels/cuda/launch.cuh"
#include "tests/gpu/gpu.h"

static __global__ void read_all(const uint4 *p, size_t n, uint32_t *out)
{
    sl_wait();
    uint32_t sum = 0;
    size_t step = (size_t)gridDim.x * blockDim.x, i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i + 3 * step < n; i += 4 * step) {
        uint4 a = p[i], b = p[i + step], c = p[i + 2 * step], d = p[i + 3 * step];
        sum ^= a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w ^ c.x ^ c.y ^ c.z ^ c.w ^ d.x ^ d.y ^
               d.z ^ d.w;
    }
    if (sum == 0x12345678) *out = sum; /* keeps the loads */
}

struct job {
    struct sl_cuda *c;
    uint4 *p;
    size_t bytes;
};

static void run(void *arg, int)
{
    struct job *j = (struct job *)arg;
    sl_launch(j->c, read_all, j->c->sms * 8, 512, 0, j->p, j->bytes / 16, (uint32_t *)j->p);
}

extern "C" double gpu_read_bandwidth(struct sl_cuda *c)
{
    struct job j = {c, nullptr, (size_t)4 << 30};
    j.p = (uint4 *)gpu_alloc(j.bytes);
    double s = gpu_time(c, 5, 3, run, &j);
    gpu_free(j.p);
    return (double)j.bytes / s;
}
