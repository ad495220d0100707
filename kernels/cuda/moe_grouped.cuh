/* moe_grouped.cuh - experts that meet many rows: a grouped product on tensor cores. Persistent
 * blocks walk over (tile of rows of one expert, 256 weight rows) as the device's own list has them.
 *
 * A step is 64 columns. Activations are gathered by cp.async into a ring of stages; weights go from
 * memory to registers two steps ahead and are decoded (decode.cuh) into one of two tiles of halfs
 * while the tensor cores multiply the other: each thread works on half a weight row.
 *
 * Gate and up are one product: of 16 rows of its tile the first 8 are gate's, the others up's, so
 * that a lane holds both sums of a unit. */
#ifndef SL_KERNELS_CUDA_MOE_GROUPED_CUH
#define SL_KERNELS_CUDA_MOE_GROUPED_CUH

#include "kernels/cuda/act.cuh"
#include "kernels/cuda/decode.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/moe_mma.cuh"
#include "kernels/cuda/moe_plan.cuh"
#include "kernels/cuda/row.cuh"

/* Stages of activations: fewer where shared memory is small. Host and device must agree. */
static constexpr __host__ __device__ int sl_grouped_ring(int cc)
{
    return cc >= 90 && cc < 120 ? 4 : 2;
}
#ifdef __CUDA_ARCH__
#define SL_GROUPED_RING sl_grouped_ring(__CUDA_ARCH__ / 10)
#else
#define SL_GROUPED_RING 4 /* device code, read by the host's compiler */
#endif

#define SL_GROUPED_WEIGHT_BYTES (SL_TILE_WEIGHTS * 2 * SL_TILE_K)
#define SL_GROUPED_STAGE_BYTES (SL_MOE_GROUPED_ROWS * 2 * SL_TILE_K)
#define SL_GROUPED_COPIES (SL_MOE_GROUPED_ROWS * 8 / SL_TILE_THREADS) /* per thread and stage */

/* A grid's scale is multiplied in as a half: 2^10 times it, to stay clear of subnormals. */
#define SL_GROUPED_GRID_UNIT 1024.0f
#define SL_GROUPED_GRID_COLS 128 /* the one width of blocks (pack_form.c) */

/* ---- weights: half a row's step in each thread ----------------------------------------------- */

template <class F> struct sl_grouped_weights {
    static constexpr int OWN_K = SL_TILE_K / 2, PIECES = OWN_K / F::LANE_K, CHUNKS = F::LANE_K / 8;
    sl_weight_view w;
    const uint8_t *code;
    const float *grid_row;
    int row, steps; /* of the matrix */
    typename F::raw raw[2][PIECES];
    typename F::constant constant;
    float grid[2];

    __device__ __forceinline__ void begin(const sl_cuda_weight &weight, int row_)
    {
        w.open(weight);
        row = min(row_, w.rows - 1);
        steps = weight.cols_padded / SL_TILE_K;
        code = w.code + row * w.code_stride;
        constant = F::prepare(weight);
        if constexpr (F::GRID)
            grid_row = (const float *)w.scale + row / w.grid_rows * (int64_t)w.grid_stride;
    }

    template <int BUFFER> __device__ __forceinline__ void load(int step)
    {
        if (step >= steps) return;
        int k = step * SL_TILE_K + threadIdx.x % 2 * OWN_K;
#pragma unroll
        for (int i = 0; i < PIECES; i++) F::load(raw[BUFFER][i], w, code, row, k + i * F::LANE_K);
        if constexpr (F::GRID) grid[BUFFER] = __ldg(grid_row + k / SL_GROUPED_GRID_COLS);
    }

    /* The loaded step as this thread's half of a row of the tile at `shared`. */
    template <int BUFFER> __device__ __forceinline__ void decode(uint32_t shared) const
    {
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const typename F::raw &r = raw[BUFFER][i];
            typename F::scales s = F::unpack(r, constant);
#pragma unroll
            for (int j = 0; j < CHUNKS; j++) {
                uint32_t p[4];
                F::fragment(r, s, constant, 2 * j, p[0], p[1]);
                F::fragment(r, s, constant, 2 * j + 1, p[2], p[3]);
                if constexpr (F::GRID) {
                    uint32_t g = sl_bits(__float2half2_rn(grid[BUFFER] * SL_GROUPED_GRID_UNIT));
#pragma unroll
                    for (int e = 0; e < 4; e++) p[e] = sl_mul(p[e], g);
                }
                store(shared + sl_tile_at(threadIdx.x / 2, threadIdx.x % 2 * 4 + i * CHUNKS + j),
                      p);
            }
        }
    }

    /* 8 halfs, in natural order. */
    static __device__ __forceinline__ void store(uint32_t shared, const uint32_t (&p)[4])
    {
        uint32_t v[4] = {p[0], p[1], p[2], p[3]};
        if constexpr (F::ORDER == 1) { /* (0, 4) (1, 5) (2, 6) (3, 7) */
            v[0] = __byte_perm(p[0], p[1], 0x5410), v[1] = __byte_perm(p[2], p[3], 0x5410);
            v[2] = __byte_perm(p[0], p[1], 0x7632), v[3] = __byte_perm(p[2], p[3], 0x7632);
        } else if constexpr (F::ORDER == 2) { /* (0, 2) (4, 6) (1, 3) (5, 7) */
            v[0] = __byte_perm(p[0], p[2], 0x5410), v[1] = __byte_perm(p[0], p[2], 0x7632);
            v[2] = __byte_perm(p[1], p[3], 0x5410), v[3] = __byte_perm(p[1], p[3], 0x7632);
        }
        asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(v[0]), "r"(v[1]),
                     "r"(v[2]), "r"(v[3])
                     : "memory");
    }

    static constexpr float UNIT = F::UNIT * (F::GRID ? 1 / SL_GROUPED_GRID_UNIT : 1);
};

/* ---- activations: chunk threadIdx.x % 8 of every 32nd row ------------------------------------ */

struct sl_grouped_rows {
    const char *from[SL_GROUPED_COPIES];
    int copies; /* up to whole 32 rows: what is not read may be anything */

    template <class ROW> __device__ __forceinline__ void begin(const ROW &row, int n)
    {
        copies = (n + 31) / 32;
#pragma unroll
        for (int i = 0; i < SL_GROUPED_COPIES; i++) {
            const float *head = row(min((int)threadIdx.x / 8 + 32 * i, n - 1));
            from[i] = (const char *)sl_row_halfs(head) + threadIdx.x % 8 * 16;
        }
    }

    __device__ __forceinline__ void copy(uint32_t stage, int step) const
    {
        uint32_t at = stage + sl_tile_at(threadIdx.x / 8, threadIdx.x % 8);
#pragma unroll
        for (int i = 0; i < SL_GROUPED_COPIES; i++)
            if (i < copies)
                asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at + i * 32 * 128),
                             "l"(from[i] + (int64_t)step * 2 * SL_TILE_K)
                             : "memory");
    }
};

/* ---- the product of one tile ----------------------------------------------------------------- */

static __device__ __forceinline__ void sl_grouped_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* `tiles`: shared memory, two tiles of weights and the ring. The caller has passed a barrier
 * since anybody read it. */
template <class F>
static __device__ __forceinline__ void sl_grouped_multiply(sl_grouped_weights<F> &w,
                                                           const sl_grouped_rows &x, int n,
                                                           uint32_t tiles, sl_tile_sums &sums)
{
    constexpr int RING = SL_GROUPED_RING;
    uint32_t ring = tiles + 2 * SL_GROUPED_WEIGHT_BYTES;
    const int steps = w.steps;
    w.template load<0>(0);
    w.template load<1>(1);
#pragma unroll
    for (int i = 0; i < RING - 1; i++) {
        if (i < steps) x.copy(ring + i * SL_GROUPED_STAGE_BYTES, i);
        sl_grouped_commit();
    }
    w.template decode<0>(tiles);
    w.template load<0>(2);
    auto step =
        [&](int i,
            auto next) { /* next: the buffer of step i + 1 */
                         asm volatile("cp.async.wait_group %0;" ::"n"(RING - 2) : "memory");
                         sl_tile_publish();
                         __syncthreads(); /* step i is here, and what step i - 1 read is free */
                         sums.start(tiles + (1 - next()) * SL_GROUPED_WEIGHT_BYTES,
                                    ring + i % RING * SL_GROUPED_STAGE_BYTES, n, i > 0);
                         int ahead = i + RING - 1;
                         if (ahead < steps)
                             x.copy(ring + ahead % RING * SL_GROUPED_STAGE_BYTES, ahead);
                         sl_grouped_commit();
                         if (i + 1 < steps)
                             w.template decode<next()>(tiles + next() * SL_GROUPED_WEIGHT_BYTES);
                         w.template load<next()>(i + 3);
                         sums.finish();
        };
    for (int i = 0; i < steps; i += 2) {
        step(i, std::integral_constant<int, 1>());
        if (i + 1 < steps) step(i + 1, std::integral_constant<int, 0>());
    }
}

/* Transposes 8 x 8 halfs over the warp: lane 4g + t gives row g, columns 2t and 2t + 1. */
static __device__ __forceinline__ uint32_t sl_transpose(uint32_t v)
{
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(v) : "r"(v));
    return v;
}

template <class F>
static __device__ __forceinline__ void
sl_grouped_up_tile(const sl_moe_product &m, const sl_moe_plan &p, const sl_moe_tile &tile,
                   int column, uint32_t tiles, const float *scale)
{
    sl_grouped_weights<F> w;
    sl_grouped_rows x;
    sl_tile_sums sums;
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int unit0 = column * SL_TILE_WEIGHTS / 2; /* the tile's first unit: row of gate and of up */
    const sl_cuda_weight &gate = m.gate[tile.expert], &up = m.up[tile.expert];
    int r = threadIdx.x / 2; /* the thread's row of the tile */
    w.begin(r & 8 ? up : gate, unit0 + r / 16 * 8 + r % 8);
    x.begin([&](int i) { return sl_row_head(m.x, p.pair[tile.first + i] / m.n_used, m.cols); },
            tile.n);
    sl_grouped_multiply<F>(w, x, tile.n, tiles, sums);
    int padded = (int)sl_cuda_pad(m.rows);
    sums.for_each(tile.n, [&](int row, int i, const float *sum) {
        int unit = unit0 + row / 2 + g, u = min(unit, m.rows - 1);
        float gate_row = gate.row[u] * w.UNIT, up_row = up.row[u] * w.UNIT, h[2];
        int64_t b = (int64_t)tile.expert * m.rows + u;
        float gate_bias = m.gate_bias ? m.gate_bias[b] : 0, up_bias = m.up_bias ? m.up_bias[b] : 0;
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float s = scale[i + 2 * t + e];
            float v = sl_gated(m.act, sum[e] * gate_row * s + gate_bias,
                               sum[e + 2] * up_row * s + up_bias);
            h[e] = unit < m.rows ? sl_glu_half_range(v) : 0;
        }
        uint32_t two = sl_transpose(sl_bits(__floats2half2_rn(h[0], h[1])));
        unit = unit0 + row / 2 + 2 * t;
        if (i + g < tile.n && unit < padded) {
            float *head = sl_row_head(p.hidden, tile.first + i + g, m.rows);
            *(uint32_t *)(sl_row_halfs(head) + unit) = two;
            if (unit == 0) *head = SL_CUDA_GLU_SCALE;
        }
    });
}

template <class F>
static __device__ __forceinline__ void
sl_grouped_down_tile(const sl_moe_product &m, const sl_moe_plan &p, const sl_moe_tile &tile,
                     int column, uint32_t tiles)
{
    sl_grouped_weights<F> w;
    sl_grouped_rows x;
    sl_tile_sums sums;
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int row0 = m.first + column * SL_TILE_WEIGHTS, last = min(m.first + p.y_cols, m.rows);
    const sl_cuda_weight &down = m.gate[tile.expert];
    w.begin(down, row0 + threadIdx.x / 2);
    x.begin([&](int i) { return sl_row_head(m.x, tile.first + i, m.cols); }, tile.n);
    sl_grouped_multiply<F>(w, x, tile.n, tiles, sums);
    sums.for_each(tile.n, [&](int row, int i, const float *sum) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int r = row0 + row + g + e / 2 * 8, at = i + 2 * t + e % 2;
            if (r >= last || at >= tile.n) continue;
            float v = sum[e] * (down.row[r] * (w.UNIT * SL_CUDA_GLU_SCALE));
            if (m.gate_bias) v += m.gate_bias[(int64_t)tile.expert * m.rows + r];
            p.y[(int64_t)(tile.first + at) * p.y_cols + r - m.first] = v;
        }
    });
}

/* ---- kernels --------------------------------------------------------------------------------- */

template <class F, bool UP>
static __global__ void __launch_bounds__(SL_TILE_THREADS, 2)
    sl_moe_grouped(const __grid_constant__ sl_moe_product m, const __grid_constant__ sl_moe_plan p)
{
    extern __shared__ __align__(1024) char smem[];
    __shared__ float scale[SL_MOE_GROUPED_ROWS];
    sl_next();
    sl_wait();
    uint32_t tiles = ((uint32_t)__cvta_generic_to_shared(smem) + 1023) & ~1023u;
    int span = UP ? 2 * m.rows : p.y_cols;
    int columns = (span + SL_TILE_WEIGHTS - 1) / SL_TILE_WEIGHTS, items = *p.n_tiles * columns;
    for (int item = blockIdx.x; item < items; item += gridDim.x) {
        sl_moe_tile tile = p.tiles[item / columns];
        int column = item % columns;
        __syncthreads(); /* shared memory is free */
        if (UP && (int)threadIdx.x < SL_MOE_GROUPED_ROWS) {
            int i = min((int)threadIdx.x, tile.n - 1);
            scale[threadIdx.x] = *sl_row_head(m.x, p.pair[tile.first + i] / m.n_used, m.cols);
        }
        if constexpr (UP)
            sl_grouped_up_tile<F>(m, p, tile, column, tiles, scale);
        else
            sl_grouped_down_tile<F>(m, p, tile, column, tiles);
    }
}

template <class F, bool UP>
static void sl_moe_grouped_launch(struct sl_cuda *c, const sl_moe_product *m, const sl_moe_plan *p)
{
    size_t smem = 2 * SL_GROUPED_WEIGHT_BYTES + sl_grouped_ring(c->cc) * SL_GROUPED_STAGE_BYTES;
    smem += 1024; /* to align */
    auto *kernel = sl_moe_grouped<F, UP>;
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem);
    sl_launch(c, kernel, 2 * c->sms, SL_TILE_THREADS, smem, *m, *p);
}

#endif
