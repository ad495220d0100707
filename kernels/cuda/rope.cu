/* rope.cu - rotary positions alone: the parts of multi-head latent attention, and sequences that
 * each have their own frequencies (LongRoPE). A warp turns one head of one row; rows of position -1
 * stay as they are. */
#include "base/sl_assert.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/rope.cuh"

#define PARTS_MAX 4
#define WARPS 4

struct parts {
    struct sl_rope_part p[PARTS_MAX];
    int n, heads; /* parts, heads of all of them */
};

static __global__ void __launch_bounds__(32 * WARPS)
    rope_parts(const struct sl_rope r, const __grid_constant__ struct parts parts,
               const int32_t *pos, int n)
{
    sl_next();
    uint32_t item = blockIdx.x * WARPS + threadIdx.x / 32;
    int row = (int)(item / (uint32_t)parts.heads), head = (int)(item % (uint32_t)parts.heads);
    int part = 0, p = row < n ? pos[row] : -1;
    while (head >= parts.p[part].n_heads && part < parts.n - 1) head -= parts.p[part++].n_heads;
    const struct sl_rope_part &t = parts.p[part];
    float *x = t.x + ((int64_t)row * t.n_heads + head) * t.head_dim + t.offset;
    sl_wait();
    if (p < 0) return;
    for (int i = threadIdx.x % 32; i < r.dims / 2; i += 32) {
        float c, s;
        turn_of(p, r.inv_freq[i], r.scale, &c, &s);
        int ia = pair_first(r.neox, i), ib = pair_second(r.neox, r.dims, i);
        float a = x[ia], b = x[ib];
        x[ia] = a * c - b * s;
        x[ib] = b * c + a * s;
    }
}

extern "C" void sl_cuda_rope(struct sl_cuda *c, const struct sl_rope *r,
                             const struct sl_rope_part *parts, int n_parts, int row, int n)
{
    struct parts all = {};
    SL_ASSERT(n_parts <= PARTS_MAX);
    for (int i = 0; i < n_parts; i++) {
        all.p[i] = parts[i];
        all.heads += parts[i].n_heads;
    }
    all.n = n_parts;
    int64_t items = (int64_t)n * all.heads;
    if (items <= 0) return;
    sl_launch(c, rope_parts, dim3((unsigned)((items + WARPS - 1) / WARPS)), 32 * WARPS, 0, *r, all,
              c->step.pos + row, n);
}
