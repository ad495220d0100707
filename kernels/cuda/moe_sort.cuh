/* moe_sort.cuh - pairs by expert and the list of tiles: a stable counting sort in one block. Every
 * warp counts and places a stretch of the pairs of its own, in their order, so the same rows always
 * give the same order. */
#ifndef SL_KERNELS_CUDA_MOE_SORT_CUH
#define SL_KERNELS_CUDA_MOE_SORT_CUH

#include "kernels/cuda/moe_plan.cuh"

#define FULL 0xffffffffu

/* Shared memory of the sort: counts of every warp, then where experts and their tiles begin. */
static __host__ __device__ size_t sort_bytes(int n_experts, int warps)
{
    return (size_t)n_experts * (warps + 2) * 4;
}

/* One warp: starts[e] and first_tile[e] from counts[e], which become running sums. */
static __device__ void scan_experts(int n_experts, int tile_rows, int32_t *count,
                                    int32_t *first_tile, int32_t *n_tiles)
{
    int lane = threadIdx.x % 32, start = 0, tile = 0;
    for (int from = 0; from < n_experts; from += 32) {
        int e = from + lane, own = e < n_experts ? count[e] : 0;
        int tiles = (own + tile_rows - 1) / tile_rows, sum = own, tile_sum = tiles;
        for (int d = 1; d < 32; d *= 2) {
            int a = __shfl_up_sync(FULL, sum, d), t = __shfl_up_sync(FULL, tile_sum, d);
            if (lane >= d) {
                sum += a;
                tile_sum += t;
            }
        }
        if (e < n_experts) {
            count[e] = start + sum - own;
            first_tile[e] = tile + tile_sum - tiles;
        }
        start += __shfl_sync(FULL, sum, 31);
        tile += __shfl_sync(FULL, tile_sum, 31);
    }
    if (lane == 0) *n_tiles = tile;
}

/* Cuts the places of expert e into tiles of about equal size, whole columns of 8 where they are
 * that wide. */
static __device__ void cut_tiles(int e, int first, int n, int tile_rows, sl_moe_tile *tile)
{
    int tiles = (n + tile_rows - 1) / tile_rows;
    if (tiles == 0) return;
    int columns = min(8, tile_rows), rows = (n + tiles - 1) / tiles;
    rows = (rows + columns - 1) / columns * columns;
    for (int i = 0; i < tiles; i++)
        tile[i] = sl_moe_tile{e, first + i * rows, min(rows, n - i * rows)};
}

/* One warp: f(i, expert, lanes with the same expert) for pairs [from, to), 32 at a time in order;
 * past the end the expert is -1. Some are loaded ahead: the order costs no wait for memory. */
template <class F>
static __device__ __forceinline__ void for_each_pair(const sl_moe_plan &p, int from, int to,
                                                     const F &f)
{
    constexpr int AHEAD = 8;
    int lane = threadIdx.x % 32;
    for (; from < to; from += 32 * AHEAD) {
        int e[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            int i = from + 32 * a + lane;
            e[a] = i < to ? p.ids[i] : -1;
        }
#pragma unroll
        for (int a = 0; a < AHEAD; a++)
            if (from + 32 * a < to) f(from + 32 * a + lane, e[a], __match_any_sync(FULL, e[a]));
    }
}

/* One block: pair, place, tiles and n_tiles from ids. */
static __device__ void sort_pairs(const sl_moe_plan &p, int n_experts, int tile_rows, char *shared)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    int32_t *counts = (int32_t *)shared, *start = counts + n_experts * warps;
    int32_t *first_tile = start + n_experts, *own = counts + n_experts * warp;
    int stretch = ((p.n_pairs + warps - 1) / warps + 31) / 32 * 32;
    int from = min(warp * stretch, p.n_pairs), to = min(from + stretch, p.n_pairs);
    for (int i = threadIdx.x; i < n_experts * warps; i += blockDim.x) counts[i] = 0;
    __syncthreads();
    for (int i = from + lane; i < to; i += 32) atomicAdd(&own[p.ids[i]], 1);
    __syncthreads();
    for (int e = threadIdx.x; e < n_experts; e += blockDim.x) {
        int sum = 0;
        for (int w = 0; w < warps; w++) {
            int count = counts[w * n_experts + e];
            counts[w * n_experts + e] = sum;
            sum += count;
        }
        start[e] = sum;
    }
    __syncthreads();
    if (warp == 0) scan_experts(n_experts, tile_rows, start, first_tile, p.n_tiles);
    __syncthreads();
    for (int e = threadIdx.x; e < n_experts; e += blockDim.x) {
        int end = e + 1 < n_experts ? start[e + 1] : p.n_pairs;
        cut_tiles(e, start[e], end - start[e], tile_rows, p.tiles + first_tile[e]);
    }
    for_each_pair(p, from, to, [&](int i, int e, unsigned same) {
        if (e >= 0) {
            int at = start[e] + own[e] + __popc(same & ((1u << lane) - 1));
            p.place[i] = at;
            p.pair[at] = i;
        }
        __syncwarp();
        if (e >= 0 && lane == __ffs(same) - 1) own[e] += __popc(same);
        __syncwarp();
    });
}

/* A single row is sorted already. */
static __device__ void sort_one(const sl_moe_plan &p)
{
    for (int i = threadIdx.x; i < p.n_pairs; i += blockDim.x) {
        p.place[i] = i;
        p.pair[i] = i;
        p.tiles[i] = sl_moe_tile{p.ids[i], i, 1};
    }
    if (threadIdx.x == 0) *p.n_tiles = p.n_pairs;
}

#endif
