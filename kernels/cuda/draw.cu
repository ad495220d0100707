/* draw.cu - tokens drawn from logits, and log-probabilities of given ones: one kernel, a cluster of
 * blocks per row. Semantics are those of stage/sample.h, arithmetic as near to sample.c as order
 * lets it be: weights are the same to the bit, their sums are exact here and in double there.
 *
 * All truncations are cuts in the order of logits (draw_find.cuh): top-k keeps the elements up to
 * the k-th, top-p up to the one that completes the mass, and the draw looks for the element that
 * completes chance * what is left. Nothing is ever sorted. */
#include "base/sl_assert.h"
#include "kernels/cuda/draw_find.cuh"
#include "kernels/cuda/rows.h"

using namespace sl_draw_device;

namespace
{

struct job {
    float *logits;
    int n_vocab, per_warp, in_shared;
    const struct sl_draw *draw;
    const struct sl_adjust *adjust;
    const int32_t *next;
    struct sl_drawn *drawn;
    float *scored;
};

/* ---- maximum and mass ------------------------------------------------------------------------ */

/* Largest logit, its lowest id, and the sum of exp(x - max) as it was streamed (Milakov &
 * Gimelshein 2018). */
struct stats {
    float max, sum;
    int id;

    static __device__ __forceinline__ stats none()
    {
        return {-INFINITY, 0, INT_MAX};
    }
    static __device__ __forceinline__ float share(float x, float max)
    {
        return x == max ? 1 : exp2f((x - max) * LOG2E);
    }
    static __device__ __forceinline__ stats join(stats a, stats b)
    {
        stats r = a.max > b.max || (a.max == b.max && a.id < b.id) ? a : b;
        r.sum =
            __fadd_rn(__fmul_rn(a.sum, share(a.max, r.max)), __fmul_rn(b.sum, share(b.max, r.max)));
        return r;
    }
    __device__ __forceinline__ void add(float4 v, int at)
    {
        float top = fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w));
        if (top > max) {
            sum *= share(max, top);
            max = top;
            id = at + (v.x == top ? 0 : v.y == top ? 1 : v.z == top ? 2 : 3);
        }
        sum += share(v.x, max) + share(v.y, max) + share(v.z, max) + share(v.w, max);
    }
};

/* The slice from global memory, its statistics on the way. */
template <bool VECTOR> __device__ stats read_slice(row &r, const float *from)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    stats st = stats::none();
    int begin = warp * r.per_warp,
        end = r.in_shared ? begin + r.per_warp : min(begin + r.per_warp, r.n);
#pragma unroll 4
    for (int i = begin + lane * 4; i < end; i += STRIDE) {
        float v[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
        if (VECTOR && i + 3 < r.n) {
            float4 f = *reinterpret_cast<const float4 *>(from + i);
            v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
        } else {
            for (int e = 0; e < 4; e++)
                if (i + e < r.n) v[e] = from[i + e];
        }
        float4 f = make_float4(clean(v[0]), clean(v[1]), clean(v[2]), clean(v[3]));
        if (r.in_shared) *reinterpret_cast<float4 *>(r.x + i) = f;
        st.add(f, r.first + i);
    }
    return st;
}

__device__ stats read_again(row &r)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int end = min((warp + 1) * r.per_warp, r.n);
    stats st = stats::none();
    for (int i = warp * r.per_warp + lane * 4; i < end; i += STRIDE)
        st.add(load4(r, i), r.first + i);
    return st;
}

/* Each token at most once (sl_sample_adjustments); each block changes those of its slice. */
__device__ void adjust_slice(row &r, const struct sl_adjust *a, int n)
{
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += THREADS) {
        int at = a[i].token - r.first;
        if (at < 0 || at >= r.n) continue;
        float x = r.x[at];
        x = x > 0 ? __fdiv_rn(x, a[i].divide) : __fmul_rn(x, a[i].divide);
        r.x[at] = clean(__fadd_rn(x, a[i].add));
    }
    __syncthreads();
}

/* log softmax of a logit x. */
__device__ float log_share(const stats &st, float x)
{
    float d = x == st.max ? 0 : x - st.max; /* not inf - inf */
    return (float)((double)d - log((double)st.sum));
}

/* ---- the draw -------------------------------------------------------------------------------- */

/* The sum of weights of the elements up to `cut` that weigh at least min_p. */
__device__ uint64_t mass_of(row &r, place cut, float min_p)
{
    uint64_t sum = 0;
    each(r, [&](float x, int i) {
        float w = weight_of(r, x);
        if (w >= min_p && place_of(key_of(x), r.first + i) >= cut) sum += fixed_of(w);
    });
    return reduce(r, sum64{sum}).sum;
}

__device__ uint64_t part_of(double share, uint64_t mass)
{
    double part = ceil(share * (double)mass);
    return part >= (double)mass ? mass : part >= 1 ? (uint64_t)part : 1;
}

/* A token drawn from the row, and its logit. */
__device__ int draw_token(row &r, const struct sl_draw &d, int n_vocab, float *x)
{
    float min_p = fminf(d.min_p, 1);
    int top_k = d.top_k > 0 && d.top_k < n_vocab, top_p = d.top_p < 1;
    found f = {0, 0}; /* cut and mass of what is kept */
    if (top_k) f.cut = find(r, COUNT, (uint64_t)d.top_k).cut;
    if (top_p) {
        uint64_t all = top_k ? mass_of(r, f.cut, 0) : find(r, MASS, ~0ull).upto;
        f = find(r, MASS, part_of((double)d.top_p, all));
    }
    uint64_t mass = top_p && !(min_p > 0) ? f.upto : mass_of(r, f.cut, min_p);
    uint64_t want = (uint64_t)(d.chance * (double)mass) + 1; /* the first sum above it */
    want = want < mass ? want : mass;
    if (top_k || top_p) {
        place p = find(r, MASS, want).cut;
        *x = logit_of((uint32_t)(p >> 32));
        return id_of(p);
    }
    int id = walk(r, want, [&](float y) {
        float w = weight_of(r, y);
        return w >= min_p ? fixed_of(w) : 0;
    });
    int owner = id / (r.per_warp * WARPS); /* the block whose slice it is in */
    *x = r.in_shared ? of_block(r, r.x, owner)[id - owner * r.per_warp * WARPS]
                     : clean(r.x[id - r.first]);
    return id;
}

/* The n best into *out, best first; returns how many there are. */
__device__ int list_top(row &r, const stats &st, int n, struct sl_drawn *out)
{
    place cut = find(r, COUNT, (uint64_t)n).cut;
    gathered g = gather(r, [&](float x, int id) { return place_of(key_of(x), id) >= cut; });
    merge(r, (int)g.n);
    int t = threadIdx.x, before = 0;
    if (r.rank || t >= (int)g.n) return (int)g.n;
    place mine = r.s->merged[t];
    for (int i = 0; i < (int)g.n; i++) before += r.s->merged[i] > mine;
    out->top[before] = id_of(mine);
    out->top_logprob[before] = log_share(st, logit_of((uint32_t)(mine >> 32)));
    return (int)g.n;
}

__device__ void draw_row(row &r, const job &j, const struct sl_draw &d, stats st, int64_t at)
{
    struct sl_drawn *out = &j.drawn[at];
    if (d.n_adjust > 0) {
        adjust_slice(r, j.adjust + d.first_adjust, d.n_adjust);
        st = reduce(r, read_again(r));
    }
    int any = st.max > -INFINITY; /* else nothing but NaN and minus infinity */
    int token = any ? st.id : 0, n_top = min(min(d.n_top, SL_TOP_MAX), j.n_vocab);
    float x = st.max;
    r.max = st.max;
    n_top = any && n_top > 0 ? list_top(r, st, n_top, out) : 0;
    if (any && d.temperature > 0) {
        r.by = (float)(1.44269504088896340736 / (double)d.temperature);
        token = draw_token(r, d, j.n_vocab, &x);
    }
    if (r.rank || threadIdx.x) return;
    out->token = token;
    out->logprob = any ? log_share(st, x) : -INFINITY;
    out->n_top = n_top;
}

__global__ void __launch_bounds__(THREADS, 2) draw(const __grid_constant__ job j)
{
    extern __shared__ __align__(16) char memory[];
    row r = {};
    r.s = (shared *)memory;
    r.blocks = 1;
#if __CUDA_ARCH__ >= 900
    r.blocks = (int)cooperative_groups::this_cluster().num_blocks();
    r.rank = (int)cooperative_groups::this_cluster().block_rank();
#endif
    int64_t at = blockIdx.x / r.blocks;
    float *from = j.logits + at * j.n_vocab;
    r.per_warp = j.per_warp;
    r.first = min(r.rank * j.per_warp * WARPS, j.n_vocab);
    r.n = min(j.per_warp * WARPS, j.n_vocab - r.first);
    r.in_shared = j.in_shared;
    r.x = j.in_shared ? (float *)(memory + sizeof(shared)) : from + r.first;
    r.binned = -1;
    sl_next();
    sl_wait();
    struct sl_draw d = j.draw[at];
    int next = j.next[at];
    if (d.n_top < 0 && next < 0) return; /* the whole cluster */
    float followed = next >= 0 && next < j.n_vocab ? clean(from[next]) : -INFINITY;
    stats st = j.n_vocab % 4 == 0 ? read_slice<true>(r, from + r.first)
                                  : read_slice<false>(r, from + r.first);
    st = reduce(r, st);
    if (next >= 0 && r.rank == 0 && threadIdx.x == 0)
        j.scored[at] = followed > -INFINITY ? log_share(st, followed) : -INFINITY;
    if (d.n_top >= 0) draw_row(r, j, d, st, at);
    meet(r); /* no block leaves while another reads its shared memory */
}

} // namespace

size_t sl_cuda_draw_scratch(const struct sl_backend_limits *l)
{
    (void)l;
    return 0; /* all in shared memory and in the logits themselves */
}

void sl_cuda_draw(struct sl_cuda *c, float *logits, int first, int n, int n_vocab)
{
    if (n <= 0 || n_vocab <= 0) return;
    SL_ASSERT(n_vocab <= VOCAB_MAX);
    const struct sl_cuda_step *s = &c->step;
    int blocks = c->cc >= 90 ? CLUSTER : 1, warps = blocks * WARPS;
    job j = {logits,           n_vocab,          0, 0, s->draw + first, s->adjust, s->next + first,
             s->drawn + first, s->scored + first};
    j.per_warp = (n_vocab + warps * STRIDE - 1) / (warps * STRIDE) * STRIDE;
    size_t smem = sizeof(shared), slice = sizeof(float) * (size_t)j.per_warp * WARPS;
    j.in_shared = smem + slice <= (size_t)c->smem_max;
    if (j.in_shared) smem += slice;
    cudaFuncSetAttribute(draw, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem);
    cudaLaunchAttribute how[2] = {};
    how[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    how[0].val.programmaticStreamSerializationAllowed = 1;
    how[1].id = cudaLaunchAttributeClusterDimension;
    how[1].val.clusterDim.x = (unsigned)blocks;
    how[1].val.clusterDim.y = how[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(n * blocks));
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = smem;
    config.stream = c->stream;
    config.attrs = how;
    config.numAttrs = c->cc >= 90 ? 2 : 0;
    cudaLaunchKernelEx(&config, draw, j);
}
