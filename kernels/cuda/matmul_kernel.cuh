/* matmul_kernel.cuh - the kernel around matmul_core.cuh for dense layers, and how a format's
 * instances are launched. One file per family of formats includes it (matmul_fp8.cu ...). */
#ifndef SL_KERNELS_CUDA_MATMUL_KERNEL_CUH
#define SL_KERNELS_CUDA_MATMUL_KERNEL_CUH

#include "kernels/cuda/act.cuh"
#include "kernels/cuda/matmul_core.cuh"
#include "kernels/cuda/matmul_job.h"

/* Rows of `out` of one block, which begins at row0. */
template <class S>
static __device__ __forceinline__ void
sl_stream_store(const sl_stream_job &job, const sl_stream_part &part, int row0, int column0, int n,
                const char *x, float factor, char *smem)
{
    constexpr int ROWS = 16 * S::TILES;
    int r = threadIdx.x % ROWS, row = row0 + r; /* the same for all of a thread's elements */
    if (row >= part.w.rows) return;
    float bias = part.bias ? __ldg(part.bias + row) : 0;
    for (int i = threadIdx.x / ROWS; i < n; i += SL_STREAM_THREADS / ROWS) {
        float scale = __ldcg((const float *)(x + i * job.x_stride));
        float v = S::total(smem, n, r, i) * factor * scale + bias;
        float *out = part.out + (int64_t)(column0 + i) * part.w.rows + row;
        *out = part.flags & SL_MATMUL_ADD ? __ldcg(out) + v : v;
    }
}

/* Gate and up of the same rows, act(gate) * up as product rows. */
template <class S>
static __device__ __forceinline__ void sl_stream_gate(const sl_stream_job &job, int row0,
                                                      int column0, int n, const char *x, float unit,
                                                      char *smem)
{
    constexpr int ROWS = 8 * S::TILES;
    const sl_stream_part &gate = job.part[0], &up = job.part[1];
    int r = threadIdx.x % ROWS, row = row0 + r, cols = gate.w.rows;
    int64_t stride = sl_cuda_row_stride(cols);
    float gate_factor = 0, up_factor = 0, gate_bias = 0, up_bias = 0;
    if (row < cols) {
        gate_factor = __ldg(gate.w.row + row) * unit, up_factor = __ldg(up.w.row + row) * unit;
        if (gate.bias) gate_bias = __ldg(gate.bias + row);
        if (up.bias) up_bias = __ldg(up.bias + row);
    }
    for (int i = threadIdx.x / ROWS; i < n; i += SL_STREAM_THREADS / ROWS) {
        float scale = __ldcg((const float *)(x + i * job.x_stride));
        float g = S::total(smem, n, r, i) * gate_factor * scale + gate_bias;
        float u = S::total(smem, n, r + ROWS, i) * up_factor * scale + up_bias;
        char *out = (char *)job.rows + (column0 + i) * stride;
        /* rows past the last become the zeros up to a whole SL_CUDA_PAD */
        float y = row < cols ? sl_glu_half_range(sl_gated(job.act, g, u)) : 0;
        if (row < sl_cuda_pad(cols)) ((__half *)(out + SL_CUDA_ROW_HEAD))[row] = __float2half_rn(y);
        if (row == 0) *(float *)out = SL_CUDA_GLU_SCALE;
    }
}

template <class F, int MT, int NT, bool GLU>
__global__ void __launch_bounds__(SL_STREAM_THREADS, MT *NT == 1    ? 3
                                                     : MT * NT <= 4 ? 2
                                                                    : 1)
    sl_stream_kernel(const __grid_constant__ sl_stream_job job)
{
    extern __shared__ __align__(16) char smem[];
    using S = sl_stream<F, MT, NT, GLU ? 2 : 1>;
    S s;
    int p = 0, block = blockIdx.x;
    sl_next();
    if constexpr (GLU) {
#pragma unroll
        for (int i = 0; i < MT; i++)
            s.begin(i, job.part[i / (MT / 2)].w, (block * (MT / 2) + i % (MT / 2)) * 16);
    } else {
        while (p + 1 < job.n_parts && block >= job.part[p].blocks) block -= job.part[p++].blocks;
#pragma unroll
        for (int i = 0; i < MT; i++) s.begin(i, job.part[p].w, (block * MT + i) * 16);
    }
    const sl_stream_part &part = job.part[p];
    s.prefetch(part.w.cols_padded);
    float factor = 0; /* asked for early: it comes from memory */
    if constexpr (!GLU)
        factor = __ldg(part.w.row +
                       min(block * MT * 16 + (int)threadIdx.x % (16 * MT), part.w.rows - 1)) *
                 F::UNIT;
    int column0 = blockIdx.y * 8 * NT, n = min(job.n - column0, 8 * NT);
    const char *x = part.x + column0 * job.x_stride;
    sl_wait();
    s.run([&](int i) { return x + i * job.x_stride + SL_CUDA_ROW_HEAD; }, n, smem);
    s.gather(smem, n);
    if constexpr (GLU)
        sl_stream_gate<S>(job, block * MT * 8, column0, n, x, F::UNIT, smem);
    else
        sl_stream_store<S>(job, part, block * MT * 16, column0, n, x, factor, smem);
}

/* ---- launching ------------------------------------------------------------------------------- */

template <class F, int MT, int NT, bool GLU>
static void sl_stream_start(const struct sl_cuda *c, sl_stream_job *job)
{
    constexpr int ROWS = GLU ? 8 * MT : 16 * MT;
    int blocks = 0, n_parts = GLU ? 1 : job->n_parts;
    for (int p = 0; p < n_parts; p++) {
        /* a gated unit's blocks also write its padding */
        int64_t rows = GLU ? sl_cuda_pad(job->part[0].w.rows) : job->part[p].w.rows;
        job->part[p].blocks = (int)((rows + ROWS - 1) / ROWS);
        blocks += job->part[p].blocks;
    }
    auto kernel = sl_stream_kernel<F, MT, NT, GLU>;
    static bool opened[SL_STREAM_DEVICES]; /* the same value is written whoever is first */
    if (!opened[c->device]) {
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             (int)sl_stream_smem<MT, NT>(8 * NT));
        opened[c->device] = true;
    }
    int n = job->n < 8 * NT ? job->n : 8 * NT;
    sl_launch(c, kernel, dim3((unsigned)blocks, (unsigned)((job->n + 8 * NT - 1) / (8 * NT))),
              dim3(SL_STREAM_THREADS), sl_stream_smem<MT, NT>(n), *job);
}

/* All instances of a format; what suits n. */
template <class F> static void sl_stream_launch(const struct sl_cuda *c, sl_stream_job *job)
{
    if (job->rows) {
        if (job->n <= 8)
            sl_stream_start<F, 2, 1, true>(c, job);
        else if (job->n <= 16)
            sl_stream_start<F, 2, 2, true>(c, job);
        else
            sl_stream_start<F, 4, 4, true>(c, job);
    } else {
        if (job->n <= 8)
            sl_stream_start<F, 1, 1, false>(c, job);
        else if (job->n <= 16)
            sl_stream_start<F, 2, 2, false>(c, job);
        else
            sl_stream_start<F, 4, 4, false>(c, job);
    }
}

#endif
