/* moe_stream.cuh - experts that meet few rows: their weights are streamed once, from memory to
 * registers to operand A of mma.m16n8k16 (decode.cuh).
 *
 * An expert's matrix is small, so what counts is that no warp waits for another and that there are
 * many of them: a warp takes 16 weight rows over the whole of K, several steps ahead in flight,
 * then the 16 rows that lie a block further, without a pause in the stream. The tile's activations
 * are in shared memory, in the order of the decoder, before the first product. Of gate and up a
 * warp takes 8 rows each, so that a lane holds both sums of a unit.
 *
 * A row's sums have the same bits in any tile and block, so tiles and blocks are as wide as suits
 * the number of rows. */
#ifndef SL_KERNELS_CUDA_MOE_STREAM_CUH
#define SL_KERNELS_CUDA_MOE_STREAM_CUH

#include "kernels/cuda/act.cuh"
#include "kernels/cuda/matmul_core.cuh"
#include "kernels/cuda/moe_plan.cuh"
#include "kernels/cuda/row.cuh"

#define SL_MOE_WARPS_MAX 8
#define SL_MOE_WARPS_FEW 4
/* Steps of weights in flight per warp, 32 bytes a lane each: where warps are many, and where they
 * are few. */
#define SL_MOE_DEPTH 4
#define SL_MOE_DEPTH_FEW 8
#define SL_MOE_X_STEP 128 /* columns to whole numbers of which activations are filled up */
#define SL_MOE_X_SKEW                                                                              \
    64 /* bytes behind a row of them: the next begins in the other half of the banks */
#define SL_MOE_CLUSTER_MAX 8 /* blocks that any card with clusters grants */

static inline __host__ __device__ int sl_moe_x_stride(int cols)
{
    return (cols + SL_MOE_X_STEP - 1) / SL_MOE_X_STEP * SL_MOE_X_STEP * 2 + SL_MOE_X_SKEW;
}

/* ---- activations ----------------------------------------------------------------------------- */

/* Copies n product rows' halfs to shared memory: 16-byte pieces, those that the four lanes of a row
 * read together side by side, halfs in the order of F's fragments. A warp takes a row, and asks for
 * much of it before it waits: this stands before the first product. */
template <class F, class ROW>
static __device__ __forceinline__ void sl_moe_stage(const ROW &row, int n, int cols, char *smem)
{
    constexpr int U = F::LANE_K / 8, AHEAD = 8; /* pieces of a lane's step; of a lane's requests */
    int stride = sl_moe_x_stride(cols), units = (stride - SL_MOE_X_SKEW) / 16;
    int whole = (int)sl_cuda_pad(cols) / 8, lane = threadIdx.x % 32;
    for (int i = threadIdx.x / 32; i < n; i += blockDim.x / 32) {
        const uint4 *from = (const uint4 *)sl_row_halfs(row(i));
        for (int u0 = lane; u0 < units; u0 += 32 * AHEAD) {
            uint4 v[AHEAD];
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                v[a] = make_uint4(0, 0, 0, 0);
                if (u0 + 32 * a < whole) v[a] = __ldcg(from + u0 + 32 * a);
            }
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                int u = u0 + 32 * a, place = u / (4 * U) * (4 * U) + u % U * 4 + u / U % 4;
                uint32_t b[2][2];
                sl_order<F::ORDER>(v[a], b);
                if (u < units)
                    *(uint4 *)(smem + i * stride + 16 * place) =
                        make_uint4(b[0][0], b[0][1], b[1][0], b[1][1]);
            }
        }
    }
}

/* ---- the stream of one warp ------------------------------------------------------------------ */

/* Rows h = 0: g of the first matrix; h = 1: g of the second (UP), or g + 8 of the same. `lane` are
 * the matrices as seen from this lane's rows, so that a load has no products in its addresses. */
template <class F, int NT, bool UP, int DEPTH> struct sl_moe_warp {
    const sl_cuda_weight *weight[UP ? 2 : 1];
    sl_weight_view lane[2];
    const float *grid_row[2];
    typename F::constant constant;
    typename F::raw raw[DEPTH][2];
    float grid[F::GRID ? DEPTH : 1][2];
    float acc[NT][4], sum[F::GRID ? NT : 1][4];
    int row0, row_step; /* first row of the tile that is loaded; to the next one */
    int cols, steps, turns;

    __device__ __forceinline__ void begin(const sl_cuda_weight &first, const sl_cuda_weight &second,
                                          int row, int step)
    {
        weight[0] = &first;
        if constexpr (UP) weight[1] = &second;
        constant = F::prepare(first);
        row0 = row, row_step = step;
        cols = first.cols_padded;
        steps = (cols + F::STEP_K - 1) / F::STEP_K;
        turns = (steps + DEPTH - 1) / DEPTH;
        aim();
#pragma unroll
        for (int d = 0; d < DEPTH; d++) load(d, d);
    }

    /* Sets `lane` to the rows from row0 on, repeated past the end. */
    __device__ __forceinline__ void aim()
    {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const sl_cuda_weight &w = *weight[UP ? h : 0];
            sl_weight_view &v = lane[h];
            v.open(w);
            int row = min(row0 + (int)threadIdx.x % 32 / 4 + (UP ? 0 : 8 * h), w.rows - 1);
            int64_t groups = row * (int64_t)v.groups, supers = row * (int64_t)v.supers * 2;
            if constexpr (F::GRID)
                grid_row[h] = (const float *)v.scale + row / v.grid_rows * (int64_t)v.grid_stride;
            v.code += row * v.code_stride, v.high += row * v.high_stride;
            v.scale += F::SCALE == SL_CUDA_SCALE_F16 ? 2 * groups : groups;
            v.min += F::MIN == SL_CUDA_MIN_F16 ? 2 * groups : groups;
            v.super += supers, v.supmin += supers;
        }
    }

    /* Step `step` of the rows into buffer d; columns past the end repeat the last ones, which meet
     * zeros. */
    __device__ __forceinline__ void load(int d, int step)
    {
        if (step >= steps) return;
        int k0 = step * F::STEP_K, k = min(k0 + (int)threadIdx.x % 4 * F::LANE_K, cols - F::LANE_K);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            F::load(raw[d][h], lane[h], lane[h].code, 0, k);
            if constexpr (F::GRID) grid[d][h] = __ldg(grid_row[h] + k0 / SL_STAGE_K);
        }
    }

    __device__ __forceinline__ void multiply(int d, int step, int n, uint32_t x, int stride)
    {
        int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        typename F::scales s[2] = {F::unpack(raw[d][0], constant), F::unpack(raw[d][1], constant)};
#pragma unroll
        for (int j = 0; j < F::LANE_K / 8; j++) {
            uint4 b[NT];
#pragma unroll
            for (int c = 0; c < NT; c++)
                if (8 * c < n)
                    b[c] = sl_shared16(x + min(8 * c + g, n - 1) * stride + step * (2 * F::STEP_K) +
                                       j * 64 + t * 16);
#pragma unroll
            for (int q = 0; q < 2; q++) {
                uint32_t a[4];
                F::fragment(raw[d][0], s[0], constant, 2 * j + q, a[0], a[2]);
                F::fragment(raw[d][1], s[1], constant, 2 * j + q, a[1], a[3]);
#pragma unroll
                for (int c = 0; c < NT; c++)
                    if (8 * c < n)
                        sl_mma(acc[c], a[0], a[1], a[2], a[3], q ? b[c].z : b[c].x,
                               q ? b[c].w : b[c].y);
            }
        }
        if constexpr (F::GRID) {
            /* scales are of 128 columns: with each step, or each second one */
#pragma unroll
            for (int c = 0; c < NT; c++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    sum[c][e] = fmaf(acc[c][e], grid[d][e / 2], sum[c][e]);
                    acc[c][e] = 0;
                }
        }
    }

    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int c = 0; c < NT; c++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                acc[c][e] = 0;
                if constexpr (F::GRID) sum[c][e] = 0;
            }
    }

    /* Multiplies the rows that were loaded, and begins to load those row_step further when there
     * are `more`. done(c, sums) for columns 8c.., sums as those of mma.m16n8. */
    template <class DONE>
    __device__ __forceinline__ void run(bool more, int n, uint32_t x, int stride, const DONE &done)
    {
        clear();
        for (int turn = 0; turn < turns; turn++) {
            bool last = turn + 1 == turns;
            if (last && more) {
                row0 += row_step;
                aim();
            }
#pragma unroll
            for (int d = 0; d < DEPTH; d++) {
                int step = turn * DEPTH + d;
                if (step < steps) multiply(d, step, n, x, stride);
                if (!last || more) load(d, last ? d : step + DEPTH);
            }
        }
#pragma unroll
        for (int c = 0; c < NT; c++)
            if (8 * c < n) {
                if constexpr (F::GRID)
                    done(c, sum[c]);
                else
                    done(c, acc[c]);
            }
    }
};

/* ---- kernels --------------------------------------------------------------------------------- */

/* Threads of a block, at most: more registers in flight leave room for fewer. */
static constexpr int sl_moe_threads(int depth)
{
    return 32 * (depth == SL_MOE_DEPTH ? SL_MOE_WARPS_MAX : SL_MOE_WARPS_FEW);
}

/* Blocks: x: `rounds` times as many tiles of 16 rows as warps; y: the plan's tile. */
template <class F, int NT, int DEPTH>
static __global__ void __launch_bounds__(sl_moe_threads(DEPTH), 2)
    sl_moe_stream_up(const __grid_constant__ sl_moe_product m,
                     const __grid_constant__ sl_moe_plan p, int rounds)
{
    extern __shared__ __align__(1024) char smem[];
    __shared__ float scale[8 * NT];
    sl_next();
    sl_wait();
    if ((int)blockIdx.y >= *p.n_tiles) return;
    sl_moe_tile tile = p.tiles[blockIdx.y];
    const sl_cuda_weight &gate = m.gate[tile.expert], &up = m.up[tile.expert];
    int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    int step = blockDim.x / 32 * 8, unit = blockIdx.x * step * rounds + warp * 8 + g;
    sl_moe_warp<F, NT, true, DEPTH> w;
    w.begin(gate, up, unit - g, step);
    auto row = [&](int i) { return sl_row_head(m.x, p.pair[tile.first + i] / m.n_used, m.cols); };
    if ((int)threadIdx.x < tile.n) scale[threadIdx.x] = __ldcg(row(threadIdx.x)) * F::UNIT;
    sl_moe_stage<F>(row, tile.n, m.cols, smem);
    __syncthreads();
    uint32_t x = (uint32_t)__cvta_generic_to_shared(smem);
    int padded = (int)sl_cuda_pad(m.rows);
    for (int r = 0; r < rounds && unit - g < padded; r++, unit += step) {
        float gate_row = 0, up_row = 0, gate_bias = 0, up_bias = 0;
        int64_t b = (int64_t)tile.expert * m.rows + unit;
        if (unit < m.rows) {
            gate_row = __ldg(gate.row + unit), up_row = __ldg(up.row + unit);
            if (m.gate_bias) gate_bias = __ldg(m.gate_bias + b);
            if (m.up_bias) up_bias = __ldg(m.up_bias + b);
        }
        bool more = r + 1 < rounds && unit - g + step < padded;
        w.run(more, tile.n, x, sl_moe_x_stride(m.cols), [&](int c, const float *sum) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int i = 8 * c + 2 * t + e;
                if (i >= tile.n) continue;
                float *head = sl_row_head(p.hidden, tile.first + i, m.rows);
                float h = sl_gated(m.act, sum[e] * (gate_row * scale[i]) + gate_bias,
                                   sum[e + 2] * (up_row * scale[i]) + up_bias);
                sl_row_halfs(head)[unit] =
                    __float2half_rn(unit < m.rows ? sl_glu_half_range(h) : 0);
                if (unit == 0) *head = SL_CUDA_GLU_SCALE;
            }
        });
    }
}

template <class F, int NT, int DEPTH>
static __global__ void __launch_bounds__(sl_moe_threads(DEPTH), 2)
    sl_moe_stream_down(const __grid_constant__ sl_moe_product m,
                       const __grid_constant__ sl_moe_plan p, int rounds)
{
    extern __shared__ __align__(1024) char smem[];
    sl_next();
    sl_wait();
    if ((int)blockIdx.y >= *p.n_tiles) return;
    sl_moe_tile tile = p.tiles[blockIdx.y];
    const sl_cuda_weight &down = m.gate[tile.expert];
    int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    int step = blockDim.x / 32 * 16, last = min(m.first + p.y_cols, m.rows);
    int row0 = m.first + blockIdx.x * step * rounds + warp * 16;
    sl_moe_warp<F, NT, false, DEPTH> w;
    w.begin(down, down, row0, step);
    sl_moe_stage<F>([&](int i) { return sl_row_head(m.x, tile.first + i, m.cols); }, tile.n, m.cols,
                    smem);
    __syncthreads();
    uint32_t x = (uint32_t)__cvta_generic_to_shared(smem);
    for (int r = 0; r < rounds && row0 < last; r++, row0 += step) {
        float factor[2], bias[2] = {0, 0};
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int row = min(row0 + g + 8 * h, m.rows - 1);
            factor[h] = __ldg(down.row + row) * (SL_CUDA_GLU_SCALE * F::UNIT);
            if (m.gate_bias) bias[h] = __ldg(m.gate_bias + (int64_t)tile.expert * m.rows + row);
        }
        bool more = r + 1 < rounds && row0 + step < last;
        w.run(more, tile.n, x, sl_moe_x_stride(m.cols), [&](int c, const float *sum) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int i = 8 * c + 2 * t + e % 2, row = row0 + g + e / 2 * 8;
                if (i < tile.n && row < last)
                    p.y[(int64_t)(tile.first + i) * p.y_cols + row - m.first] =
                        sum[e] * factor[e / 2] + bias[e / 2];
            }
        });
    }
}

/* ---- one row ----------------------------------------------------------------------------------
 *
 * The blocks that multiply the same rows of `down` for the experts of a single row are a cluster:
 * the first adds what all of them have, in the order and with the arithmetic of sl_moe_sum(). */

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
static __global__ void __launch_bounds__(sl_moe_threads(SL_MOE_DEPTH_FEW), 2)
    sl_moe_one_down(const __grid_constant__ sl_moe_product m, const __grid_constant__ sl_moe_plan p,
                    float *out)
{
#if __CUDA_ARCH__ >= 900
    extern __shared__ __align__(1024) char smem[];
    __shared__ float y[16 * SL_MOE_WARPS_MAX];
    sl_next();
    sl_wait();
    int slot = blockIdx.y, expert = p.ids[slot], rows = blockDim.x / 2;
    int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const sl_cuda_weight &down = m.gate[expert];
    int row0 = blockIdx.x * rows + warp * 16, own = blockIdx.x * rows + threadIdx.x;
    sl_moe_warp<F, 1, false, SL_MOE_DEPTH_FEW> w;
    w.begin(down, down, row0, 0);
    bool adds = slot == 0 && (int)threadIdx.x < rows && own < m.rows;
    float total = adds ? out[own] : 0;
    sl_moe_stage<F>([&](int) { return sl_row_head(m.x, slot, m.cols); }, 1, m.cols, smem);
    __syncthreads();
    uint32_t x = (uint32_t)__cvta_generic_to_shared(smem);
    w.run(false, 1, x, 0, [&](int, const float *sum) {
        for (int h = 0; h < 2; h++) {
            int row = min(row0 + g + 8 * h, m.rows - 1);
            float v = sum[2 * h] * (__ldg(down.row + row) * (SL_CUDA_GLU_SCALE * F::UNIT)) +
                      (m.gate_bias ? __ldg(m.gate_bias + (int64_t)expert * m.rows + row) : 0);
            if (t == 0) y[warp * 16 + g + 8 * h] = v;
        }
    });
    sl_cluster_sync();
    if (adds) {
        for (int o = 0; o < m.n_used; o++)
            total = fmaf(p.weights[o], sl_cluster_read(y + threadIdx.x, o), total);
        out[own] = total;
    }
    sl_cluster_sync(); /* the others' memory is read no more */
#endif
}

/* ---- launchers ------------------------------------------------------------------------------- */

typedef void sl_moe_kernel(sl_moe_product, sl_moe_plan, int rounds);

/* Is there so little to do that every multiprocessor gets a block only if they are small? */
static inline bool sl_moe_few(const struct sl_cuda *c, int64_t tiles)
{
    return tiles < c->sms * 16;
}

static inline void sl_moe_start(struct sl_cuda *c, sl_moe_kernel *kernel, int row_tiles, bool few,
                                const sl_moe_product *m, const sl_moe_plan *p)
{
    int64_t tiles = (int64_t)row_tiles * p->tiles_max;
    int warps = few ? 2 : tiles < c->sms * 48 ? 4 : SL_MOE_WARPS_MAX;
    int rounds = tiles > c->sms * 192 ? 2 : 1;
    int n = p->tile_rows < p->n_pairs ? p->tile_rows : p->n_pairs;
    size_t smem = (size_t)n * sl_moe_x_stride(m->cols);
    dim3 grid((row_tiles + warps * rounds - 1) / (warps * rounds), p->tiles_max);
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem);
    sl_launch(c, kernel, grid, 32 * warps, smem, *m, *p, rounds);
}

template <class F>
static void sl_moe_stream_up_launch(struct sl_cuda *c, const sl_moe_product *m,
                                    const sl_moe_plan *p)
{
    int tiles = (int)(sl_cuda_pad(m->rows) / 8);
    bool few = p->tile_rows <= 8 && sl_moe_few(c, (int64_t)tiles * p->tiles_max);
    sl_moe_start(c,
                 few                  ? sl_moe_stream_up<F, 1, SL_MOE_DEPTH_FEW>
                 : p->tile_rows <= 8  ? sl_moe_stream_up<F, 1, SL_MOE_DEPTH>
                 : p->tile_rows <= 16 ? sl_moe_stream_up<F, 2, SL_MOE_DEPTH>
                                      : sl_moe_stream_up<F, 4, SL_MOE_DEPTH>,
                 tiles, few, m, p);
}

template <class F>
static void sl_moe_stream_down_launch(struct sl_cuda *c, const sl_moe_product *m,
                                      const sl_moe_plan *p)
{
    int tiles = (p->y_cols + 15) / 16;
    sl_moe_start(c,
                 p->tile_rows <= 8    ? sl_moe_stream_down<F, 1, SL_MOE_DEPTH>
                 : p->tile_rows <= 16 ? sl_moe_stream_down<F, 2, SL_MOE_DEPTH>
                                      : sl_moe_stream_down<F, 4, SL_MOE_DEPTH>,
                 tiles, sl_moe_few(c, (int64_t)tiles * p->tiles_max), m, p);
}

/* 1 when it was done: one row, few enough experts, a card with clusters. */
template <class F>
static int sl_moe_one_down_launch(struct sl_cuda *c, const sl_moe_product *m, const sl_moe_plan *p,
                                  float *out)
{
    if (c->cc < 90 || p->n_pairs != m->n_used || m->n_used > SL_MOE_CLUSTER_MAX) return 0;
    int tiles = (m->rows + 15) / 16;
    int warps = sl_moe_few(c, (int64_t)tiles * m->n_used) ? 2 : SL_MOE_WARPS_FEW;
    size_t smem = (size_t)sl_moe_x_stride(m->cols);
    cudaLaunchAttribute attribute[2] = {};
    attribute[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute[0].val.programmaticStreamSerializationAllowed = 1;
    attribute[1].id = cudaLaunchAttributeClusterDimension;
    attribute[1].val.clusterDim.x = attribute[1].val.clusterDim.z = 1;
    attribute[1].val.clusterDim.y = (unsigned)m->n_used;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)((tiles + warps - 1) / warps), (unsigned)m->n_used);
    config.blockDim = 32 * warps;
    config.dynamicSmemBytes = smem;
    config.stream = c->stream;
    config.attrs = attribute;
    config.numAttrs = 2;
    cudaFuncSetAttribute(sl_moe_one_down<F>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         (int)smem);
    cudaLaunchKernelEx(&config, sl_moe_one_down<F>, *m, *p, out);
    return 1;
}

#endif
