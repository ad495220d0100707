/* matmul_kernel.cuh - the kernel around matmul_core.cuh for dense layers, and how a format's
 * instances are launched. One file per family of formats includes it (matmul_fp8.cu ...). */
#ifndef SL_KERNELS_CUDA_MATMUL_KERNEL_CUH
#define SL_KERNELS_CUDA_MATMUL_KERNEL_CUH

#include "kernels/cuda/matmul_bulk.cuh"
#include "kernels/cuda/matmul_core.cuh"
#include "kernels/cuda/matmul_job.h"
#include "kernels/cuda/matmul_wide.cuh"

#define SL_NARROW_MAX 8 /* rows up to which blocks hold all activations, if they fit */
#define SL_NARROW_SMEM_MAX (72 << 10) /* bytes: three blocks share a multiprocessor */

/* Where this block's work begins: the part and the tile of it. */
static __device__ __forceinline__ int sl_stream_part_of(const sl_stream_job &job, int &block)
{
    int p = 0;
    while (p + 1 < job.n_parts && block >= job.part[p].blocks) block -= job.part[p++].blocks;
    return p;
}

/* Tile i of the MT of a block's turn: gate in the first half, up in the second. */
template <int MT, bool GLU> static __device__ __forceinline__ int sl_tile_row(int turn, int i)
{
    return GLU ? (turn * (MT / 2) + i % (MT / 2)) * 16 : (turn * MT + i) * 16;
}

/* Few rows: all activations of a slice stay in shared memory, and the block takes tile after tile;
 * the next one's weights are on their way while the last one's slices are added. */
template <class F, int MT, bool GLU>
__global__ void __launch_bounds__(SL_STREAM_THREADS, MT == 1 ? 3 : 2)
    sl_narrow_kernel(const __grid_constant__ sl_stream_job job)
{
    extern __shared__ __align__(16) char smem[];
    using S = sl_stream<F, MT, 1, GLU ? 2 : 1>;
    S s;
    int turn = blockIdx.x, p = GLU ? 0 : sl_stream_part_of(job, turn), n = job.n;
    const sl_stream_part &part = job.part[p];
    sl_next();
#pragma unroll
    for (int i = 0; i < MT; i++)
        s.begin(i, GLU ? job.part[i / (MT / 2)].w : part.w, sl_tile_row<MT, GLU>(turn, i));
    s.prefetch(part.w.cols_padded);
    if (job.ahead) s.ahead();
    uint32_t bytes = (uint32_t)(sl_slice_stages(part.w.cols_padded) * n * SL_STAGE_BYTES),
             x = (uint32_t)__cvta_generic_to_shared(smem) + threadIdx.x / 32 * bytes;
    char *sums = smem + SL_SLICES * bytes;
    /* one output of each tile per thread; what it needs is asked for early, it comes from memory */
    constexpr int ROWS = GLU ? 8 * MT : 16 * MT;
    static_assert(SL_STREAM_THREADS / ROWS >= 8, "a thread per output");
    int r = threadIdx.x % ROWS, column = threadIdx.x / ROWS;
    sl_wait();
    s.hold([&](int i) { return part.x + i * job.x_stride + SL_CUDA_ROW_HEAD; }, n, x);
    float scale = F::UNIT;
    if (column < n) scale *= __ldcg((const float *)(part.x + column * job.x_stride));
    for (bool more = true; more; turn += gridDim.x) {
        typename S::place next[MT];
        more = turn + (int)gridDim.x < part.blocks;
#pragma unroll
        for (int i = 0; i < MT; i++)
            next[i] = more ? s.find(i, sl_tile_row<MT, GLU>(turn + gridDim.x, i)) : s.at[i];
        sl_output<GLU> out;
        out.open(job, part, turn * ROWS + r, column, column < n);
        s.pass(n, x, next, more);
        s.put(sums, n);
        __syncthreads();
        if (column < n)
            out.close(job, scale, S::total(sums, n, r, column),
                      GLU ? S::total(sums, n, r + ROWS, column) : 0);
        /* the tile after the next one finds these sums read: a barrier is between */
        sums =
            sums == smem + SL_SLICES * bytes ? sums + S::SUMS_BYTES(n) : smem + SL_SLICES * bytes;
#pragma unroll
        for (int i = 0; i < MT; i++) s.at[i] = next[i];
    }
}

/* Where neither that fits nor a cluster can share the work (matmul_wide.cuh): activations pass
 * through a ring. */
template <class F, int MT, int NT, bool GLU>
__global__ void __launch_bounds__(SL_STREAM_THREADS)
    sl_stream_kernel(const __grid_constant__ sl_stream_job job)
{
#if __CUDA_ARCH__ < 900
    extern __shared__ __align__(16) char smem[];
    using S = sl_stream<F, MT, NT, GLU ? 2 : 1>;
    S s;
    int block = blockIdx.x, p = GLU ? 0 : sl_stream_part_of(job, block);
    const sl_stream_part &part = job.part[p];
#pragma unroll
    for (int i = 0; i < MT; i++)
        s.begin(i, GLU ? job.part[i / (MT / 2)].w : part.w, sl_tile_row<MT, GLU>(block, i));
    s.prefetch(part.w.cols_padded);
    int column0 = blockIdx.y * 8 * NT, n = min(job.n - column0, 8 * NT);
    const char *x = part.x + column0 * job.x_stride;
    s.run([&](int i) { return x + i * job.x_stride + SL_CUDA_ROW_HEAD; }, n, smem);
    s.gather(smem, n);
    constexpr int ROWS = GLU ? 8 * MT : 16 * MT;
    int r = threadIdx.x % ROWS;
    for (int i = threadIdx.x / ROWS; i < n; i += SL_STREAM_THREADS / ROWS) {
        sl_output<GLU> out;
        out.open(job, part, block * ROWS + r, column0 + i, true);
        out.close(job, *(const float *)(x + i * job.x_stride) * F::UNIT, S::total(smem, n, r, i),
                  GLU ? S::total(smem, n, r + ROWS, i) : 0);
    }
#endif
}

/* ---- launching ------------------------------------------------------------------------------- */

/* Tiles of the launch, `rows` weight rows of each part (of each half of a gated unit) in one. */
static inline int sl_stream_tiles(sl_stream_job *job, int rows)
{
    int tiles = 0, n_parts = job->rows ? 1 : job->n_parts;
    for (int p = 0; p < n_parts; p++) {
        /* a gated unit's blocks also write its padding */
        int64_t all = job->rows ? sl_cuda_pad(job->part[0].w.rows) : job->part[p].w.rows;
        job->part[p].blocks = (int)((all + rows - 1) / rows);
        tiles += job->part[p].blocks;
    }
    return tiles;
}

/* Bytes of shared memory of the narrow kernel. */
template <class F, int MT, bool GLU> static size_t sl_narrow_smem(const sl_stream_job *job)
{
    size_t x = (size_t)SL_SLICES * (size_t)sl_slice_stages(job->part[0].w.cols_padded) *
               (size_t)job->n * SL_STAGE_BYTES;
    return x + 2 * sl_stream < F, MT, 1, GLU ? 2 : 1 > ::SUMS_BYTES(job->n);
}

template <class F, bool GLU>
static void sl_narrow_start(const struct sl_cuda *c, sl_stream_job *job)
{
    constexpr int MT = GLU ? 2 : 1, RESIDENT = GLU ? 2 : 3;
    int tiles = sl_stream_tiles(job, GLU ? 8 * MT : 16 * MT), slots = c->sms * RESIDENT;
    bool turns = tiles > slots && (GLU || job->n_parts == 1);
    auto kernel = sl_narrow_kernel<F, MT, GLU>;
    static bool opened[SL_STREAM_DEVICES]; /* the same value is written whoever is first */
    if (!opened[c->device]) {
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             SL_NARROW_SMEM_MAX);
        opened[c->device] = true;
    }
    job->ahead = tiles <= slots;
    sl_launch(c, kernel, dim3((unsigned)(turns ? slots : tiles)), dim3(SL_STREAM_THREADS),
              sl_narrow_smem<F, MT, GLU>(job), *job);
}

template <class F, bool GLU> static void sl_ring_start(const struct sl_cuda *c, sl_stream_job *job)
{
    constexpr int MT = 2, NT = 2;
    int tiles = sl_stream_tiles(job, GLU ? 8 * MT : 16 * MT), n = job->n < 8 * NT ? job->n : 8 * NT;
    auto kernel = sl_stream_kernel<F, MT, NT, GLU>;
    static bool opened[SL_STREAM_DEVICES];
    if (!opened[c->device]) {
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             (int)sl_stream_smem<MT, NT>(8 * NT));
        opened[c->device] = true;
    }
    sl_launch(c, kernel, dim3((unsigned)tiles, (unsigned)((job->n + 8 * NT - 1) / (8 * NT))),
              dim3(SL_STREAM_THREADS), sl_stream_smem<MT, NT>(n), *job);
}

/* What suits n. */
template <class F, bool GLU>
static void sl_stream_choose(const struct sl_cuda *c, sl_stream_job *job)
{
    if (sl_bulk_start<F, GLU>(c, job)) return; /* a few rows, where the card can */
    size_t held = sl_narrow_smem<F, GLU ? 2 : 1, GLU>(job);
    if (job->n <= SL_NARROW_MAX && held <= SL_NARROW_SMEM_MAX)
        sl_narrow_start<F, GLU>(c, job);
    else if (c->cc < 90) /* no clusters */
        sl_ring_start<F, GLU>(c, job);
    else if (job->n <= 8)
        sl_wide_start<F, 1, GLU>(c, job);
    else if (job->n <= 16)
        sl_wide_start<F, 2, GLU>(c, job);
    else if (job->n <= 32)
        sl_wide_start<F, 4, GLU>(c, job);
    else
        sl_wide_start<F, 8, GLU>(c, job);
}

template <class F> static void sl_stream_launch(const struct sl_cuda *c, sl_stream_job *job)
{
    if (job->rows)
        sl_stream_choose<F, true>(c, job);
    else
        sl_stream_choose<F, false>(c, job);
}

#endif
