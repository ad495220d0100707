/* moe_route.cu - the kernels that choose experts (moe_select.cuh) and sort rows by them
 * (moe_sort.cuh). Decode needs both for 64 rows at most: one block does it. */
#include "base/sl_assert.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/moe_select.cuh"
#include "kernels/cuda/moe_sort.cuh"

#define SMEM (48 * 1024) /* bytes of shared memory that need no permission */

/* As many warps as find registers for PER elements a lane. */
static constexpr int warps_max(int per)
{
    return per <= 8 ? 32 : 16;
}

/* ---- kernels --------------------------------------------------------------------------------- */

template <int PER> static __global__ void select_kernel(rules r, sl_moe_plan p, int n)
{
    extern __shared__ __align__(16) char shared[];
    sl_next();
    sl_wait();
    select_rows<PER>(r, p, n, shared);
}

/* Does not call sl_next(): what follows is persistent, and this block would keep one of its blocks
 * from starting with the others. */
static __global__ void sort_kernel(sl_moe_plan p, int n_experts, int tile_rows)
{
    extern __shared__ __align__(16) char shared[];
    sl_wait();
    sort_pairs(p, n_experts, tile_rows, shared);
}

/* Both in one block, for decode. */
template <int PER>
static __global__ void __launch_bounds__(32 * warps_max(PER))
    select_sort_kernel(rules r, sl_moe_plan p, int n, int tile_rows)
{
    extern __shared__ __align__(16) char shared[];
    sl_next();
    sl_wait();
    select_rows<PER>(r, p, n, shared);
    __syncthreads();
    if (n == 1)
        sort_one(p);
    else
        sort_pairs(p, r.n_experts, tile_rows, shared);
}

/* Warps of a block that fit its shared memory. */
static int warps_for(size_t per_warp, size_t fixed, int wanted)
{
    int fit = (int)((SMEM - fixed) / per_warp);
    return SL_MAX(1, SL_MIN(wanted, fit));
}

template <int PER>
static void select(struct sl_cuda *c, const rules &r, int n, int tile_rows, const sl_moe_plan *p)
{
    size_t row = bench_bytes(r), experts = (size_t)r.n_experts * 4;
    int sort_warps = warps_for(experts, 2 * experts, warps_max(PER));
    if (n <= SL_DECODE_ROWS_MAX) {
        int warps = SL_MIN(warps_for(row, 0, n), sort_warps);
        size_t smem = SL_MAX(row * warps, sort_bytes(r.n_experts, warps));
        sl_launch(c, select_sort_kernel<PER>, 1, 32 * warps, smem, r, *p, n, tile_rows);
        return;
    }
    int warps = warps_for(row, 0, 4);
    sl_launch(c, select_kernel<PER>, (n + warps - 1) / warps, 32 * warps, row * warps, r, *p, n);
    sl_launch(c, sort_kernel, 1, 32 * sort_warps, sort_bytes(r.n_experts, sort_warps), *p,
              r.n_experts, tile_rows);
}

void sl_moe_route(struct sl_cuda *c, const struct sl_moe *m, int n, const struct sl_moe_plan *p)
{
    rules r = {m->n_experts, m->n_used, m->n_groups, m->n_groups_used,
               m->normalize, m->gating, m->scale,    m->correction};
    int tile_rows = p->tile_rows;
    if (m->n_experts <= 64)
        select<2>(c, r, n, tile_rows, p);
    else if (m->n_experts <= 128)
        select<4>(c, r, n, tile_rows, p);
    else if (m->n_experts <= 256)
        select<8>(c, r, n, tile_rows, p);
    else if (m->n_experts <= 512)
        select<16>(c, r, n, tile_rows, p);
    else
        select<32>(c, r, n, tile_rows, p);
}
