/* heads.cu - what happens to q, k and v between their products and attention, in one short kernel:
 * the norm of each head of q and k (Qwen3, Gemma 3), rotary positions, and the cache.
 *
 * A warp has one head of one row. Its lanes own pairs that turn together, so that nothing is
 * exchanged but the sum of squares; heads of v only go to the cache. All but q, k and v (position,
 * table, frequencies, gains) is read before the products that make them are waited for. */
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/rope.cuh"

#define WARPS 4

struct job {
    struct sl_heads h;
    struct sl_rope r;
    void *k_cache, *v_cache;
    const int32_t *pos, *slot, *tables;
    int max_blocks, n;
    struct kv_blocks blocks;
};

/* A head of q or k: lane has pairs lane + 32 i, i < PAIRS, and walks over what does not turn. `to`:
 * its place in the cache, or NULL. */
template <typename KV, int PAIRS>
static __device__ void norm_turn(const struct job &j, float *x, const float *gain, int pos,
                                 typename KV::type *to)
{
    int lane = threadIdx.x % 32, dims = j.r.dims, dim = j.h.head_dim;
    float c[PAIRS], s[PAIRS], ga[PAIRS], gb[PAIRS], a[PAIRS], b[PAIRS], sum = 0;
    int ia[PAIRS], ib[PAIRS];
#pragma unroll
    for (int k = 0; k < PAIRS; k++) {
        int i = lane + 32 * k;
        ia[k] = pair_first(j.r.neox, i), ib[k] = pair_second(j.r.neox, dims, i);
        ga[k] = gb[k] = 1;
        if (i >= dims / 2) continue;
        turn_of(pos, j.r.inv_freq[i], j.r.scale, &c[k], &s[k]);
        if (gain) ga[k] = gain[ia[k]], gb[k] = gain[ib[k]];
    }
    sl_wait();
#pragma unroll
    for (int k = 0; k < PAIRS; k++) {
        bool mine = lane + 32 * k < dims / 2;
        a[k] = mine ? x[ia[k]] : 0, b[k] = mine ? x[ib[k]] : 0;
        sum += a[k] * a[k] + b[k] * b[k];
    }
    float factor = 1;
    if (gain) {
        for (int i = dims + lane; i < dim; i += 32) sum += x[i] * x[i];
        factor = rsqrtf(lanes_sum<32>(sum) / (float)dim + j.h.eps);
    }
#pragma unroll
    for (int k = 0; k < PAIRS; k++) {
        if (lane + 32 * k >= dims / 2) continue;
        float u = a[k] * factor * ga[k], v = b[k] * factor * gb[k];
        float first = u * c[k] - v * s[k], second = v * c[k] + u * s[k];
        if (to)
            to[ia[k]] = KV::from(first), to[ib[k]] = KV::from(second);
        else
            x[ia[k]] = first, x[ib[k]] = second;
    }
    for (int i = dims + lane; i < dim; i += 32) {
        float u = x[i] * factor * (gain ? gain[i] : 1);
        if (to)
            to[i] = KV::from(u);
        else
            x[i] = u;
    }
}

template <typename KV, int PAIRS>
static __global__ void __launch_bounds__(32 * WARPS)
    heads_kernel(const __grid_constant__ struct job j)
{
    sl_next();
    const struct sl_heads &h = j.h;
    int all = h.n_heads + 2 * h.n_kv_heads;
    uint32_t item = blockIdx.x * WARPS + threadIdx.x / 32;
    int row = (int)(item / (uint32_t)all), head = (int)(item % (uint32_t)all);
    int pos = row < j.n ? j.pos[row] : -1;
    if (pos < 0) {
        sl_wait();
        return;
    }
    typedef typename KV::type T;
    int64_t dim = h.head_dim;
    if (head < h.n_heads) {
        float *x = h.q + ((int64_t)row * h.n_heads + head) * dim;
        norm_turn<KV, PAIRS>(j, x, h.q_gain, pos, (T *)nullptr);
        return;
    }
    bool is_v = head >= h.n_heads + h.n_kv_heads;
    head -= h.n_heads + (is_v ? h.n_kv_heads : 0);
    const int32_t *table = j.tables + (int64_t)j.slot[row] * j.max_blocks;
    int64_t at = (int64_t)kv_row(table, j.blocks, h.n_kv_heads, head, pos) * dim;
    int64_t from = ((int64_t)row * h.n_kv_heads + head) * dim;
    if (!is_v) {
        norm_turn<KV, PAIRS>(j, h.k + from, h.k_gain, pos, (T *)j.k_cache + at);
        return;
    }
    sl_wait();
    for (int i = threadIdx.x % 32; i < dim; i += 32)
        ((T *)j.v_cache)[at + i] = KV::from(h.v[from + i]);
}

extern "C" void sl_cuda_heads(struct sl_cuda *c, const struct sl_heads *h,
                              const struct sl_kv_view *kv)
{
    const struct sl_cuda_step *s = &c->step;
    int64_t items = (int64_t)s->n_rows * (h->n_heads + 2 * h->n_kv_heads);
    if (items <= 0) return;
    struct sl_rope none = {};
    struct job j = {*h,        h->rope ? *h->rope : none,
                    kv->k,     kv->v,
                    s->pos,    s->slot,
                    s->tables, s->max_blocks,
                    s->n_rows, kv_blocks_of(kv->block_tokens)};
    dim3 grid((unsigned)((items + WARPS - 1) / WARPS));
    with_kv_type(kv->type, [&](auto type) {
        typedef decltype(type) KV;
        if (j.r.dims <= 64)
            sl_launch(c, heads_kernel<KV, 1>, grid, 32 * WARPS, 0, j);
        else if (j.r.dims <= 128)
            sl_launch(c, heads_kernel<KV, 2>, grid, 32 * WARPS, 0, j);
        else
            sl_launch(c, heads_kernel<KV, 4>, grid, 32 * WARPS, 0, j);
    });
}
