/* moe_stream.cuh - experts that meet few rows: their weights are streamed once (matmul_core.cuh). A
 * block takes 16 (gate and up) or 16 * DOWN_TILES rows (down) of one expert's weights and one tile
 * of its rows; blocks of tiles that the routing did not fill end at once.
 *
 * A row's sums have the same bits in any tile, so tiles are as wide as the rows that an expert is
 * likely to get: a wide tile saves nothing when it is empty. */
#ifndef SL_KERNELS_CUDA_MOE_STREAM_CUH
#define SL_KERNELS_CUDA_MOE_STREAM_CUH

#include "kernels/cuda/act.cuh"
#include "kernels/cuda/matmul_core.cuh"
#include "kernels/cuda/moe_plan.cuh"
#include "kernels/cuda/row.cuh"

#define SL_MOE_DOWN_TILES 2 /* of 16 weight rows */

/* Halfs of the tile's rows and their scales. */
template <int NT> struct sl_moe_rows {
    const char *half[8 * NT];
    float scale[8 * NT];
};

template <class F, int NT>
static __global__ void __launch_bounds__(SL_STREAM_THREADS)
    sl_moe_stream_up(const __grid_constant__ sl_moe_product m,
                     const __grid_constant__ sl_moe_plan p)
{
    extern __shared__ __align__(1024) char smem[];
    __shared__ sl_moe_rows<NT> rows;
    sl_next();
    sl_wait();
    if ((int)blockIdx.y >= *p.n_tiles) return;
    sl_moe_tile tile = p.tiles[blockIdx.y];
    const sl_cuda_weight &gate = m.gate[tile.expert], &up = m.up[tile.expert];
    int row0 = blockIdx.x * 16;
    sl_stream<F, 2, NT, 2> s;
    s.begin(0, gate, row0);
    s.begin(1, up, row0);
    s.prefetch(gate.cols_padded);
    if ((int)threadIdx.x < tile.n) {
        const float *head = sl_row_head(m.x, p.pair[tile.first + threadIdx.x] / m.n_used, m.cols);
        rows.half[threadIdx.x] = (const char *)sl_row_halfs(head);
        rows.scale[threadIdx.x] = *head * F::UNIT;
    }
    __syncthreads();
    s.run([&](int i) { return rows.half[i]; }, tile.n, smem);
    s.gather(smem, tile.n);
    for (int at = threadIdx.x; at < 16 * tile.n; at += SL_STREAM_THREADS) {
        int i = at / 16, r = at % 16, row = row0 + r;
        float h = 0; /* padding */
        if (row < m.rows) {
            int64_t b = (int64_t)tile.expert * m.rows + row;
            float g = s.total(smem, tile.n, r, i) * (gate.row[row] * rows.scale[i]);
            float u = s.total(smem, tile.n, 16 + r, i) * (up.row[row] * rows.scale[i]);
            if (m.gate_bias) g += m.gate_bias[b];
            if (m.up_bias) u += m.up_bias[b];
            h = sl_glu_half_range(sl_gated(m.act, g, u));
        }
        float *head = sl_row_head(p.hidden, tile.first + i, m.rows);
        sl_row_halfs(head)[row] = __float2half_rn(h);
        if (row == 0) *head = SL_CUDA_GLU_SCALE;
    }
}

template <class F, int NT>
static __global__ void __launch_bounds__(SL_STREAM_THREADS)
    sl_moe_stream_down(const __grid_constant__ sl_moe_product m,
                       const __grid_constant__ sl_moe_plan p)
{
    extern __shared__ __align__(1024) char smem[];
    sl_next();
    sl_wait();
    if ((int)blockIdx.y >= *p.n_tiles) return;
    sl_moe_tile tile = p.tiles[blockIdx.y];
    const sl_cuda_weight &down = m.gate[tile.expert];
    constexpr int ROWS = 16 * SL_MOE_DOWN_TILES;
    int row0 = m.first + blockIdx.x * ROWS, last = min(m.first + p.y_cols, m.rows);
    sl_stream<F, SL_MOE_DOWN_TILES, NT> s;
#pragma unroll
    for (int i = 0; i < SL_MOE_DOWN_TILES; i++) s.begin(i, down, row0 + 16 * i);
    s.prefetch(down.cols_padded);
    int64_t stride = sl_cuda_row_stride(m.cols);
    const char *first = (const char *)m.x + tile.first * stride + SL_CUDA_ROW_HEAD;
    s.run([&](int i) { return first + i * stride; }, tile.n, smem);
    s.gather(smem, tile.n);
    for (int at = threadIdx.x; at < ROWS * tile.n; at += SL_STREAM_THREADS) {
        int i = at / ROWS, row = row0 + at % ROWS;
        if (row >= last) continue;
        float y =
            s.total(smem, tile.n, at % ROWS, i) * (down.row[row] * (SL_CUDA_GLU_SCALE * F::UNIT));
        if (m.gate_bias) y += m.gate_bias[(int64_t)tile.expert * m.rows + row];
        p.y[(int64_t)(tile.first + i) * p.y_cols + row - m.first] = y;
    }
}

/* ---- one row ----------------------------------------------------------------------------------
 *
 * The blocks that multiply the same rows of `down` for the experts of a single row are a cluster:
 * the first adds what all of them have, in the order and with the arithmetic of sl_moe_sum(). */

#define SL_MOE_CLUSTER_MAX 8 /* blocks that any card with clusters grants */

#if __CUDA_ARCH__ >= 900
static __device__ __forceinline__ void sl_cluster_sync()
{
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}

/* What lies at `p` in the shared memory of block `rank` of the cluster. */
static __device__ __forceinline__ float sl_cluster_read(const float *p, int rank)
{
    float v;
    asm volatile("{\n.reg .u32 a;\nmapa.shared::cluster.u32 a, %1, %2;\n"
                 "ld.shared::cluster.f32 %0, [a];\n}"
                 : "=f"(v)
                 : "r"((uint32_t)__cvta_generic_to_shared(p)), "r"(rank)
                 : "memory");
    return v;
}
#endif

template <class F>
static __global__ void __launch_bounds__(SL_STREAM_THREADS)
    sl_moe_one_down(const __grid_constant__ sl_moe_product m, const __grid_constant__ sl_moe_plan p,
                    float *out)
{
#if __CUDA_ARCH__ >= 900
    extern __shared__ __align__(1024) char smem[];
    constexpr int ROWS = 16 * SL_MOE_DOWN_TILES;
    __shared__ float y[ROWS];
    sl_next();
    sl_wait();
    int slot = blockIdx.y, row0 = blockIdx.x * ROWS, row = row0 + threadIdx.x;
    int expert = p.ids[slot];
    const sl_cuda_weight &down = m.gate[expert];
    sl_stream<F, SL_MOE_DOWN_TILES, 1> s;
#pragma unroll
    for (int i = 0; i < SL_MOE_DOWN_TILES; i++) s.begin(i, down, row0 + 16 * i);
    s.prefetch(down.cols_padded);
    bool adds = slot == 0 && threadIdx.x < ROWS && row < m.rows;
    float sum = adds ? out[row] : 0;
    int64_t stride = sl_cuda_row_stride(m.cols);
    const char *half = (const char *)m.x + slot * stride + SL_CUDA_ROW_HEAD;
    s.run([&](int) { return half; }, 1, smem);
    s.gather(smem, 1);
    if (threadIdx.x < ROWS && row < m.rows) {
        float v =
            s.total(smem, 1, threadIdx.x, 0) * (down.row[row] * (SL_CUDA_GLU_SCALE * F::UNIT));
        if (m.gate_bias) v += m.gate_bias[(int64_t)expert * m.rows + row];
        y[threadIdx.x] = v;
    }
    sl_cluster_sync();
    if (adds) {
        for (int o = 0; o < m.n_used; o++)
            sum = fmaf(p.weights[o], sl_cluster_read(y + threadIdx.x, o), sum);
        out[row] = sum;
    }
    sl_cluster_sync(); /* the others' memory is read no more */
#endif
}

/* ---- launchers ------------------------------------------------------------------------------- */

typedef void sl_moe_kernel(sl_moe_product, sl_moe_plan);

static inline void sl_moe_start(struct sl_cuda *c, sl_moe_kernel *kernel, dim3 grid, size_t smem,
                                const sl_moe_product *m, const sl_moe_plan *p)
{
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem);
    sl_launch(c, kernel, grid, SL_STREAM_THREADS, smem, *m, *p);
}

template <class F>
static void sl_moe_stream_up_launch(struct sl_cuda *c, const sl_moe_product *m,
                                    const sl_moe_plan *p)
{
    dim3 grid((unsigned)(sl_cuda_pad(m->rows) / 16), p->tiles_max);
    int n = p->tile_rows < p->n_pairs ? p->tile_rows : p->n_pairs;
    if (n <= 8)
        sl_moe_start(c, sl_moe_stream_up<F, 1>, grid, sl_stream_smem<2, 1>(n), m, p);
    else if (n <= 16)
        sl_moe_start(c, sl_moe_stream_up<F, 2>, grid, sl_stream_smem<2, 2>(n), m, p);
    else
        sl_moe_start(c, sl_moe_stream_up<F, 4>, grid, sl_stream_smem<2, 4>(n), m, p);
}

template <class F>
static void sl_moe_stream_down_launch(struct sl_cuda *c, const sl_moe_product *m,
                                      const sl_moe_plan *p)
{
    constexpr int MT = SL_MOE_DOWN_TILES;
    dim3 grid((p->y_cols + 16 * MT - 1) / (16 * MT), p->tiles_max);
    int n = p->tile_rows < p->n_pairs ? p->tile_rows : p->n_pairs;
    if (n <= 8)
        sl_moe_start(c, sl_moe_stream_down<F, 1>, grid, sl_stream_smem<MT, 1>(n), m, p);
    else if (n <= 16)
        sl_moe_start(c, sl_moe_stream_down<F, 2>, grid, sl_stream_smem<MT, 2>(n), m, p);
    else
        sl_moe_start(c, sl_moe_stream_down<F, 4>, grid, sl_stream_smem<MT, 4>(n), m, p);
}

/* 1 when it was done: one row, few enough experts, a card with clusters. */
template <class F>
static int sl_moe_one_down_launch(struct sl_cuda *c, const sl_moe_product *m, const sl_moe_plan *p,
                                  float *out)
{
    constexpr int ROWS = 16 * SL_MOE_DOWN_TILES;
    if (c->cc < 90 || p->n_pairs != m->n_used || m->n_used > SL_MOE_CLUSTER_MAX) return 0;
    cudaLaunchAttribute attribute[2] = {};
    attribute[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute[0].val.programmaticStreamSerializationAllowed = 1;
    attribute[1].id = cudaLaunchAttributeClusterDimension;
    attribute[1].val.clusterDim.x = attribute[1].val.clusterDim.z = 1;
    attribute[1].val.clusterDim.y = (unsigned)m->n_used;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)((m->rows + ROWS - 1) / ROWS), (unsigned)m->n_used);
    config.blockDim = SL_STREAM_THREADS;
    config.dynamicSmemBytes = sl_stream_smem<SL_MOE_DOWN_TILES, 1>(1);
    config.stream = c->stream;
    config.attrs = attribute;
    config.numAttrs = 2;
    cudaLaunchKernelEx(&config, sl_moe_one_down<F>, *m, *p, out);
    return 1;
}

#endif
