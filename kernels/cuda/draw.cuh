/* draw.cuh - what drawing a token stands on: the blocks that share a row of logits, passes over
 * their elements, sums over all of them.
 *
 * A row belongs to a cluster of blocks (Hopper and later), each with a slice of it in its shared
 * memory, so that every pass but the first runs there and blocks meet at cluster barriers instead
 * of kernel boundaries. Without clusters one block has the whole row; slices that do not fit stay
 * in global memory. Sums of weights are integers, so no order of additions changes a bit. */
#ifndef SL_KERNELS_CUDA_DRAW_CUH
#define SL_KERNELS_CUDA_DRAW_CUH

#include <cooperative_groups.h>
#include <stdint.h>

#include "kernels/cuda/launch.cuh"

namespace sl_draw_device
{

constexpr int THREADS = 512, WARPS = THREADS / 32;
constexpr int CLUSTER = 8;     /* blocks of a row; the most that every card with clusters has */
constexpr int STRIDE = 32 * 4; /* elements that a warp loads at once */
constexpr int BINS = 1024;     /* of a histogram */
constexpr int LIST = 256;      /* candidates that are put in order by comparing each with each */
constexpr int PART_WORDS = 4;  /* the largest T of reduce() */
constexpr int VOCAB_MAX = 1 << 20; /* such that sums of weights fit in 64 bits */
constexpr float LOG2E = 1.44269504f;

/* An element to be placed: bits of the logit in an order that integers have, then the id turned, so
 * that the larger number comes first: greater logits, of equal ones the lower id. */
typedef uint64_t place;

/* A word of 64 bits in two halves, which shared memory can add to by themselves. */
struct alignas(8) halves {
    uint32_t low, high;
};

struct shared {
    halves mine[BINS];      /* this block's histogram */
    uint64_t bins[2][BINS]; /* the row's: of the first digit, and of later ones */
    place list[LIST], merged[LIST];
    uint64_t value[LIST];
    uint64_t warp_sum[WARPS];
    uint32_t warp_part[2][WARPS][PART_WORDS];
    uint32_t part[2][CLUSTER][PART_WORDS]; /* written by the blocks */
    int listed[CLUSTER];                   /* length of each block's list; written by the blocks */
    uint64_t above;                        /* results that one thread finds for its block */
    place cut;
    int n_list, bin, cell;
};

/* One row as one thread sees it. */
struct row {
    shared *s;
    float *x;         /* this block's slice, in shared or global memory */
    int in_shared;    /* filled up with minus infinity to whole strides */
    int n;            /* elements of the slice */
    int first;        /* id of its element 0 */
    int per_warp;     /* elements, whole strides */
    int rank, blocks; /* of the cluster */
    int parity;       /* which of two places reduce() uses next */
    float max, by;    /* of weights: largest logit, log2(e) / temperature */
    int binned;       /* enum measure whose first digits are in bins[0], or -1 */
};

/* ---- the cluster ----------------------------------------------------------------------------- */

static __device__ __forceinline__ void meet(const row &r)
{
#if __CUDA_ARCH__ >= 900
    if (r.blocks > 1) {
        cooperative_groups::this_cluster().sync();
        return;
    }
#endif
    __syncthreads();
}

/* p, in this block's shared memory, as it is in block `rank`. */
template <typename T> static __device__ __forceinline__ T *of_block(const row &r, T *p, int rank)
{
#if __CUDA_ARCH__ >= 900
    if (r.blocks > 1) return cooperative_groups::this_cluster().map_shared_rank(p, (unsigned)rank);
#endif
    return p;
}

/* Values that are reduced: whole words. */
template <typename T> struct words {
    static constexpr int N = sizeof(T) / 4;
    static_assert(sizeof(T) % 4 == 0 && N <= PART_WORDS, "whole words, not too many");
    uint32_t w[N];
};

template <typename T> static __device__ __forceinline__ words<T> to_words(const T &v)
{
    words<T> r;
    memcpy(r.w, &v, sizeof v);
    return r;
}

template <typename T> static __device__ __forceinline__ T from_words(const words<T> &r)
{
    T v;
    memcpy(&v, r.w, sizeof v);
    return v;
}

/* T::join must not care which of the two comes first, to the bit. */
template <typename T> static __device__ __forceinline__ T warp_reduce(T v)
{
#pragma unroll
    for (int d = 16; d; d /= 2) {
        words<T> r = to_words(v);
#pragma unroll
        for (int i = 0; i < words<T>::N; i++) r.w[i] = __shfl_xor_sync(~0u, r.w[i], d);
        v = T::join(v, from_words(r));
    }
    return v;
}

template <typename T>
static __device__ __forceinline__ T load_part(const uint32_t (*parts)[PART_WORDS], int n)
{
    int lane = threadIdx.x % 32;
    if (lane >= n) return T::none();
    words<T> r;
#pragma unroll
    for (int i = 0; i < words<T>::N; i++) r.w[i] = parts[lane][i];
    return from_words(r);
}

/* All threads' v joined, the same bits in every thread of the cluster: warps write to their block,
 * blocks to all blocks, so that nobody waits for an answer over the cluster's network. Two places
 * are used in turn: whoever writes one again has met everybody since it was read. */
template <typename T> static __device__ T reduce(row &r, T v)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    shared *s = r.s;
    v = warp_reduce(v);
    words<T> mine = to_words(v);
    if (lane < words<T>::N) {
#pragma unroll
        for (int i = 0; i < words<T>::N; i++)
            if (lane == i) s->warp_part[r.parity][warp][i] = mine.w[i];
    }
    __syncthreads();
    if (r.blocks == 1 || warp == 0) v = warp_reduce(load_part<T>(s->warp_part[r.parity], WARPS));
    if (r.blocks > 1) {
        if (warp == 0 && lane < r.blocks) {
            mine = to_words(v);
            uint32_t *to = of_block(r, s->part[r.parity][r.rank], lane);
#pragma unroll
            for (int i = 0; i < words<T>::N; i++) to[i] = mine.w[i];
        }
        meet(r);
        v = warp_reduce(load_part<T>(s->part[r.parity], r.blocks));
    }
    r.parity ^= 1;
    return v;
}

struct sum64 {
    uint64_t sum;
    static __device__ __forceinline__ sum64 none()
    {
        return {0};
    }
    static __device__ __forceinline__ sum64 join(sum64 a, sum64 b)
    {
        return {a.sum + b.sum};
    }
};

/* ---- elements -------------------------------------------------------------------------------- */

/* A NaN counts as minus infinity, and there is one zero only. */
static __device__ __forceinline__ float clean(float x)
{
    return x == x ? x + 0.0f : -INFINITY;
}

static __device__ __forceinline__ float4 load4(const row &r, int i)
{
    if (r.in_shared) return *reinterpret_cast<const float4 *>(r.x + i);
    float v[4];
#pragma unroll
    for (int e = 0; e < 4; e++) v[e] = i + e < r.n ? clean(r.x[i + e]) : -INFINITY;
    return make_float4(v[0], v[1], v[2], v[3]);
}

/* f(logit, place in the slice) for all elements of this thread, ascending. Each warp has one piece
 * of the slice, so that ids ascend from warp to warp and within a warp's loads from lane to lane.
 */
template <typename F> static __device__ __forceinline__ void each(const row &r, F f)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int end = min((warp + 1) * r.per_warp, r.n);
    for (int i = warp * r.per_warp + lane * 4; i < end; i += STRIDE) {
        float4 v = load4(r, i);
        f(v.x, i), f(v.y, i + 1), f(v.z, i + 2), f(v.w, i + 3);
    }
}

static __device__ __forceinline__ uint32_t key_of(float x)
{
    uint32_t u = __float_as_uint(x);
    return u ^ ((uint32_t)((int32_t)u >> 31) | 0x80000000u);
}

static __device__ __forceinline__ float logit_of(uint32_t key)
{
    return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}

static __device__ __forceinline__ place place_of(uint32_t key, int id)
{
    return (uint64_t)key << 32 | (uint32_t)~id;
}

static __device__ __forceinline__ int id_of(place p)
{
    return (int)~(uint32_t)p;
}

/* exp((x - max) * by / log2(e)) by the same operations in the same order as stage/sample.c, so that
 * host and device weigh a logit alike to the bit. */
static __device__ __forceinline__ float weight_of(const row &r, float x)
{
    constexpr float MAGIC = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    if (x == r.max) return 1;
    float d = __fmul_rn(__fsub_rn(x, r.max), r.by);
    bool keep = d > -126.0f;
    d = keep ? d : -126.0f;
    float shifted = __fadd_rn(d, MAGIC), f = __fsub_rn(d, __fsub_rn(shifted, MAGIC));
    float p = 1.54531629e-4f;
    p = __fadd_rn(__fmul_rn(p, f), 1.33908634e-3f);
    p = __fadd_rn(__fmul_rn(p, f), 9.61808256e-3f);
    p = __fadd_rn(__fmul_rn(p, f), 5.55035711e-2f);
    p = __fadd_rn(__fmul_rn(p, f), 2.40226508e-1f);
    p = __fadd_rn(__fmul_rn(p, f), 6.93147188e-1f);
    p = __fadd_rn(__fmul_rn(p, f), 1.0f);
    float w = __fmul_rn(p, __uint_as_float((__float_as_uint(shifted) << 23) + 0x3f800000u));
    return keep ? w : 0;
}

/* A weight as an integer: 1 is 2^43, so that VOCAB_MAX of them add up in 64 bits and weights down
 * to 2^-20 keep all their bits; what is below 2^-43 of the best is never drawn. */
static __device__ __forceinline__ uint64_t fixed_of(float weight)
{
    return __float2ull_rz(weight * 0x1p43f);
}

} // namespace sl_draw_device

#endif
