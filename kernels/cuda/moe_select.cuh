/* moe_select.cuh - which experts a row meets, with which weights.
 *
 * The rules are those of kernels/moe.c, which is the definition: ties go to the lower index, a NaN
 * is never the better one, and reaches the output through the weights. One warp chooses for one
 * row, its scores in registers. */
#ifndef SL_KERNELS_CUDA_MOE_SELECT_CUH
#define SL_KERNELS_CUDA_MOE_SELECT_CUH

#include <math.h>

#include "kernels/cuda/moe_plan.cuh"

#define FULL 0xffffffffu
#define SUM_MIN 1e-20f /* added to a sum of sigmoids before it divides, as DeepSeek-V3 does */
#define GROUPS_PER_LANE (SL_MOE_GROUPS_MAX / 32)

/* The gating of struct sl_moe, for kernels. */
struct rules {
    int n_experts, n_used, n_groups, n_groups_used, normalize;
    enum sl_gating gating;
    float scale;
    const float *correction;
};

/* ---- order of floats ------------------------------------------------------------------------- */

#define TAKEN 0u /* below every key */

/* An unsigned number in the order of v, both zeros equal and NaN as -infinity. */
static __device__ __forceinline__ uint32_t key_of(float v)
{
    if (!(v > -INFINITY)) v = -INFINITY;
    if (v == 0) v = 0;
    uint32_t u = __float_as_uint(v);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* The largest of v[PER] over the warp that is not NaN; element 0 when there is none. Element i of
 * lane l is number 32 i + l. */
template <int PER> static __device__ float best_of(const float (&v)[PER])
{
    uint32_t top = TAKEN;
#pragma unroll
    for (int i = 0; i < PER; i++) top = max(top, key_of(v[i]));
    top = __reduce_max_sync(FULL, top);
    float first = __shfl_sync(FULL, v[0], 0);
    if (top == key_of(-INFINITY)) return first;
    return __uint_as_float(top & 0x80000000u ? top & 0x7fffffffu : ~top);
}

/* Takes `count` keys, largest first and of equals the lowest number; take(c, i, at) is called in
 * the lane that owns the c-th, its element i and number `at`. */
template <int PER, class F>
static __device__ __forceinline__ void choose(uint32_t (&key)[PER], int count, F take)
{
    int lane = threadIdx.x % 32;
    for (int c = 0; c < count; c++) {
        uint32_t best = TAKEN, at = ~0u;
#pragma unroll
        for (int i = 0; i < PER; i++)
            if (key[i] > best) {
                best = key[i];
                at = 32 * i + lane;
            }
        uint32_t top = __reduce_max_sync(FULL, best);
        at = __reduce_min_sync(FULL, best == top ? at : ~0u);
#pragma unroll
        for (int i = 0; i < PER; i++)
            if (at == 32 * i + lane) {
                key[i] = TAKEN;
                take(c, i, (int)at);
            }
    }
}

/* ---- the choice of one row ------------------------------------------------------------------- */

/* Shared memory of one warp. */
struct bench {
    int32_t *ids;   /* [n_used], as chosen */
    float *weights; /* [n_used] */
    float *choice;  /* [n_experts], only with groups */
    uint8_t *keep;  /* [SL_MOE_GROUPS_MAX], only with groups */
};

static __host__ __device__ size_t bench_bytes(const rules &r)
{
    size_t bytes = (size_t)r.n_used * 8;
    if (r.n_groups_used < r.n_groups) bytes += (size_t)r.n_experts * 4 + SL_MOE_GROUPS_MAX;
    return (bytes + 15) / 16 * 16;
}

static __device__ bench bench_at(const rules &r, char *shared)
{
    bench b;
    shared += threadIdx.x / 32 * bench_bytes(r);
    b.ids = (int32_t *)shared;
    b.weights = (float *)(b.ids + r.n_used);
    b.choice = b.weights + r.n_used;
    b.keep = (uint8_t *)(b.choice + r.n_experts);
    return b;
}

template <int PER> static __device__ void softmax(float (&v)[PER], int n)
{
    float top = best_of(v), sum = 0;
#pragma unroll
    for (int i = 0; i < PER; i++) {
        v[i] = 32 * i + threadIdx.x % 32 < n ? expf(v[i] - top) : 0;
        sum += v[i];
    }
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(FULL, sum, d);
#pragma unroll
    for (int i = 0; i < PER; i++) v[i] /= sum;
}

/* What a group counts: its best expert, or the sum of its two best. */
static __device__ float group_score(const float *choice, int n, bool two)
{
    int best = 0;
    float top = -INFINITY, second = -INFINITY;
    for (int i = 0; i < n; i++)
        if (choice[i] > top) {
            top = choice[i];
            best = i;
        }
    if (!two || n < 2) return choice[best];
    for (int i = 0; i < n; i++)
        if (i != best && choice[i] > second) second = choice[i];
    return choice[best] + second;
}

/* Takes the experts of all groups but the best out of the choice. */
template <int PER>
static __device__ void keep_groups(const rules &r, const bench &b, float (&score)[PER],
                                   float (&choice)[PER])
{
    int lane = threadIdx.x % 32, size = r.n_experts / r.n_groups;
    uint32_t group[GROUPS_PER_LANE];
#pragma unroll
    for (int i = 0; i < PER; i++)
        if (32 * i + lane < r.n_experts) b.choice[32 * i + lane] = choice[i];
    for (int g = lane; g < r.n_groups; g += 32) b.keep[g] = 0;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < GROUPS_PER_LANE; i++) {
        int g = 32 * i + lane;
        group[i] = TAKEN;
        if (g < r.n_groups)
            group[i] =
                key_of(group_score(b.choice + g * size, size, r.gating == SL_GATING_SIGMOID));
    }
    choose(group, r.n_groups_used, [&](int, int, int g) { b.keep[g] = 1; });
    __syncwarp();
#pragma unroll
    for (int i = 0; i < PER; i++) {
        int e = 32 * i + lane;
        if (e >= r.n_experts || b.keep[e / size]) continue;
        choice[i] = r.gating == SL_GATING_SOFTMAX ? 0 : -INFINITY;
        if (r.gating == SL_GATING_SOFTMAX) score[i] = 0;
    }
}

/* Softmax of w[n], at least one, in shared memory. */
static __device__ void softmax_chosen(float *w, int n)
{
    float top = -INFINITY, sum = 0;
    for (int s = 0; s < n; s++)
        if (w[s] > top) top = w[s];
    if (!(top > -INFINITY)) top = w[0];
    __syncwarp();
    for (int s = threadIdx.x % 32; s < n; s += 32) w[s] = expf(w[s] - top);
    __syncwarp();
    for (int s = 0; s < n; s++) sum += w[s];
    __syncwarp();
    for (int s = threadIdx.x % 32; s < n; s += 32) w[s] /= sum;
    __syncwarp();
}

/* Weights of the chosen, in the order of the choice; then both in ascending order of expert. */
static __device__ void weigh(const rules &r, const bench &b, int32_t *ids, float *weights)
{
    float sum = 1;
    if (r.gating == SL_GATING_TOPK_SOFTMAX) {
        softmax_chosen(b.weights, r.n_used);
    } else if (r.normalize) {
        sum = 0;
#pragma unroll 8
        for (int s = 0; s < r.n_used; s++) sum += b.weights[s];
        if (r.gating == SL_GATING_SIGMOID) sum += SUM_MIN;
    }
    for (int s = threadIdx.x % 32; s < r.n_used; s += 32) {
        int32_t id = b.ids[s];
        int rank = 0;
#pragma unroll 8
        for (int o = 0; o < r.n_used; o++) rank += b.ids[o] < id;
        ids[rank] = id;
        weights[rank] = b.weights[s] / sum * r.scale;
    }
}

/* One warp: the experts of a row, ascending, and their weights. */
template <int PER>
static __device__ void select_row(const rules &r, const bench &b, const float *logits, int32_t *ids,
                                  float *weights)
{
    int lane = threadIdx.x % 32;
    float score[PER], choice[PER];
    uint32_t key[PER];
#pragma unroll
    for (int i = 0; i < PER; i++)
        score[i] = 32 * i + lane < r.n_experts ? logits[32 * i + lane] : -INFINITY;
    if (r.gating == SL_GATING_SOFTMAX) softmax(score, r.n_experts);
#pragma unroll
    for (int i = 0; i < PER; i++) {
        int e = 32 * i + lane;
        if (r.gating == SL_GATING_SIGMOID) score[i] = 1 / (1 + expf(-score[i]));
        choice[i] = score[i];
        if (r.correction && e < r.n_experts) choice[i] += r.correction[e];
    }
    if (r.n_groups_used < r.n_groups) keep_groups(r, b, score, choice);
#pragma unroll
    for (int i = 0; i < PER; i++) key[i] = 32 * i + lane < r.n_experts ? key_of(choice[i]) : TAKEN;
    choose(key, r.n_used, [&](int c, int i, int e) {
        b.ids[c] = e;
        b.weights[c] = score[i];
    });
    __syncwarp();
    weigh(r, b, ids, weights);
    __syncwarp();
}

template <int PER>
static __device__ void select_rows(const rules &r, const sl_moe_plan &p, int n, char *shared)
{
    bench b = bench_at(r, shared);
    int step = gridDim.x * blockDim.x / 32;
    for (int i = (blockIdx.x * blockDim.x + threadIdx.x) / 32; i < n; i += step)
        select_row<PER>(r, b, p.logits + (int64_t)i * r.n_experts, p.ids + (int64_t)i * r.n_used,
                        p.weights + (int64_t)i * r.n_used);
}

#endif
