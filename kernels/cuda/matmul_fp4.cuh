/* matmul_fp4.cuh - the kernel behind matmul_fp4.h and its launcher, for any body of the
 * multiply-accumulate (mma_fp4.cuh): matmul_fp4.cu makes it with the card's instruction,
 * tests/gpu/emulated_fp4.cu with the emulation.
 *
 * A block of eight warps makes 128 weight rows (operand A) x 128 or 32 tokens (operand B). Codes of
 * both go through shared memory in four stages of two k-steps each (cp.async, 16-byte chunks
 * swizzled so that ldmatrix meets no bank twice); they are the operands as they lie, nothing is
 * decoded. Scales are small: one thread per row loads a stage's bytes before a stage is computed
 * and stores them after it. A warp has 2 x 8 (or 2) tiles of 16 x 8; the four lanes of a quad hold
 * the scales of different tiles, so one load per lane serves all (selectors TID_A, TID_B).
 *
 * E4M3 without block scales: tensor cores of these cards add up in less than float (about 14 bits
 * on Hopper; DeepSeek-V3, 2024, section 3.3.2), so sums of 128 columns are added to the real ones,
 * where a weight's own grid of scales comes in for nothing. */
#ifndef SL_KERNELS_CUDA_MATMUL_FP4_CUH
#define SL_KERNELS_CUDA_MATMUL_FP4_CUH

#include <utility>

#include "base/sl_assert.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_fp4.h"

#define SL_MMA_THREADS 256
#define SL_MMA_ROWS 128 /* weight rows of a block */
#define SL_MMA_STEPS 2  /* k-steps of a stage */
#define SL_MMA_STAGES 4
#define SL_MMA_PRODUCTS_MAX 4
#define SL_MMA_PROMOTE 128 /* columns of a partial sum */

/* One weight of a launch; row tiles [first_tile, next one's) are its. */
struct sl_mma_weight {
    const uint8_t *code, *scale;
    const float *row, *bias, *grid;
    float *out;
    int64_t code_stride, scale_stride; /* bytes */
    int rows, first_tile, add;
    int grid_rows, grid_cols, grid_stride;
};

struct sl_mma_products {
    struct sl_mma_weight w[SL_MMA_PRODUCTS_MAX];
    int count;
};

/* Sizes that follow from the kind and the tokens of a tile. */
template <enum sl_mma_kind KIND, int TOKENS> struct sl_mma_shape {
    static constexpr bool a8 = KIND == SL_MMA_MXFP4_A8;
    static constexpr bool promote = KIND == SL_MMA_FP8;
    static constexpr int step_k = KIND == SL_MMA_NVFP4 || KIND == SL_MMA_MXFP4 ? 64 : 32;
    static constexpr int stage_k = step_k * SL_MMA_STEPS;
    static constexpr int a_chunks = a8 ? 2 : 4, b_chunks = 4; /* of 16 bytes, a row's in a stage */
    static constexpr int group = KIND == SL_MMA_NVFP4 ? 16 : 32;
    static constexpr bool scaled = KIND != SL_MMA_FP8;
    static constexpr int piece = 64 / group;               /* scale bytes of SL_CUDA_PAD columns */
    static constexpr int pieces = stage_k / 64;            /* of a stage */
    static constexpr int words = (piece * pieces + 3) / 4; /* registers of a stage's scales */
    static constexpr int tiles = TOKENS / 16;              /* of 8 tokens, a warp's */
    static constexpr int scale_regs = (tiles + 3) / 4;
    static constexpr int a_bytes = SL_MMA_ROWS * a_chunks * 16, b_bytes = TOKENS * b_chunks * 16;
    static constexpr int scale_bytes = scaled ? (SL_MMA_ROWS + TOKENS) * words * 4 : 0;
    static constexpr int stage_bytes = a_bytes + b_bytes + scale_bytes;
    static constexpr int smem = SL_MMA_STAGES * stage_bytes;
    static_assert(SL_MMA_ROWS + TOKENS <= SL_MMA_THREADS, "a thread has one row of scales");
};

/* ---- shared memory -----------------------------------------------------------------------------
 */

/* Byte offset of a 16-byte chunk: eight rows of one chunk number fall into different banks. */
template <int CHUNKS> static __device__ __forceinline__ uint32_t sl_mma_at(int row, int chunk)
{
    constexpr int rows = 8 / CHUNKS; /* rows in 128 bytes */
    return (uint32_t)(row * CHUNKS + (chunk ^ (row / rows) % CHUNKS)) * 16;
}

/* Copies 16 bytes, or fills with zeros. */
static __device__ __forceinline__ void sl_mma_copy(uint32_t to, const uint8_t *from, bool there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(there ? 16 : 0)
                 : "memory");
}

static __device__ __forceinline__ void sl_mma_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int LEFT> static __device__ __forceinline__ void sl_mma_arrived()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

static __device__ __forceinline__ void sl_mma_fetch(uint32_t *r, uint32_t from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
}

/* ---- the block ---------------------------------------------------------------------------------
 */

template <enum sl_mma_kind KIND, int TOKENS, typename MMA> struct sl_mma_block {
    using S = sl_mma_shape<KIND, TOKENS>;

    const struct sl_mma_weight &w;
    const struct sl_mma_rows &x;
    uint8_t *smem;
    uint32_t smem_at; /* the same as a shared address */
    int row0, token0, n, padded;
    int lane, warp_row, warp_token; /* of this warp's tiles in the block */
    float sum[2][S::tiles][4];

    __device__ __forceinline__ sl_mma_block(const struct sl_mma_weight &weight,
                                            const struct sl_mma_rows &rows, uint8_t *memory,
                                            int n_tokens)
        : w(weight), x(rows), smem(memory), smem_at((uint32_t)__cvta_generic_to_shared(memory)),
          row0(((int)blockIdx.y - weight.first_tile) * SL_MMA_ROWS),
          token0((int)blockIdx.x * TOKENS), n(n_tokens), padded((int)sl_cuda_pad(rows.cols)),
          lane((int)threadIdx.x % 32), warp_row((int)threadIdx.x / 64 * 32),
          warp_token((int)threadIdx.x / 32 % 2 * (TOKENS / 2)), sum()
    {
    }

    __device__ __forceinline__ int stages() const
    {
        return (padded + S::stage_k - 1) / S::stage_k;
    }

    /* Rows [first, first + ROWS) of a plane, its columns of `stage`; what is not there is zero. */
    template <int ROWS, int CHUNKS>
    __device__ __forceinline__ void load(uint32_t to, const uint8_t *plane, int64_t stride,
                                         int first, int rows, int stage)
    {
        int bytes =
            padded / S::stage_k * CHUNKS * 16 + padded % S::stage_k * CHUNKS * 16 / S::stage_k;
#pragma unroll
        for (int i = 0; i < ROWS * CHUNKS; i += SL_MMA_THREADS) {
            int at = i + (int)threadIdx.x, row = at / CHUNKS, chunk = at % CHUNKS;
            if (ROWS * CHUNKS % SL_MMA_THREADS && at >= ROWS * CHUNKS) break;
            int offset = (stage * CHUNKS + chunk) * 16;
            bool there = first + row < rows && offset < bytes;
            sl_mma_copy(to + sl_mma_at<CHUNKS>(row, chunk),
                        plane + (there ? (first + row) * stride + offset : 0), there);
        }
    }

    __device__ __forceinline__ void load_a(int stage)
    {
        load<SL_MMA_ROWS, S::a_chunks>(smem_at + stage % SL_MMA_STAGES * S::stage_bytes, w.code,
                                       w.code_stride, row0, w.rows, stage);
    }

    __device__ __forceinline__ void load_b(int stage)
    {
        load<TOKENS, S::b_chunks>(smem_at + stage % SL_MMA_STAGES * S::stage_bytes + S::a_bytes,
                                  x.code, x.code_stride, token0, n, stage);
    }

    /* This thread's row of scales: the first 128 have a weight row each, then come tokens. Rows of
     * scales begin at multiples of 4 bytes (NVFP4) or 2. */
    __device__ __forceinline__ void load_scales(int stage, uint32_t *r)
    {
        int i = (int)threadIdx.x;
        bool is_a = i < SL_MMA_ROWS;
        int row = is_a ? row0 + i : token0 + i - SL_MMA_ROWS;
        bool there = i < SL_MMA_ROWS + TOKENS && row < (is_a ? w.rows : n);
        const uint8_t *from =
            is_a ? w.scale + row * w.scale_stride : x.scale + row * x.scale_stride;
#pragma unroll
        for (int p = 0; p < S::pieces; p++) {
            int k = stage * S::stage_k + 64 * p;
            uint32_t v = 0;
            if (there && k < padded) {
                const uint8_t *at = from + k / S::group;
                v = S::piece == 4 ? *reinterpret_cast<const uint32_t *>(at)
                                  : *reinterpret_cast<const uint16_t *>(at);
            }
            if (S::piece == 4)
                r[p] = v;
            else
                r[0] = p ? r[0] | v << 16 : v;
        }
    }

    __device__ __forceinline__ uint32_t *scales(int stage)
    {
        return reinterpret_cast<uint32_t *>(smem + stage % SL_MMA_STAGES * S::stage_bytes +
                                            S::a_bytes + S::b_bytes);
    }

    __device__ __forceinline__ void store_scales(int stage, const uint32_t *r)
    {
        if ((int)threadIdx.x >= SL_MMA_ROWS + TOKENS) return;
#pragma unroll
        for (int i = 0; i < S::words; i++) scales(stage)[threadIdx.x * S::words + i] = r[i];
    }

    /* Operand A of k-step STEP: two tiles of 16 rows. A8: sixteen bytes of nibbles come apart, a
     * byte each, code << 2. */
    template <int STEP> __device__ __forceinline__ void fetch_a(uint32_t at, uint32_t (*a)[4])
    {
        if constexpr (S::a8) {
            uint32_t r[4];
            sl_mma_fetch(r, at + sl_mma_at<S::a_chunks>(warp_row + lane, STEP));
#pragma unroll
            for (int i = 0; i < 4; i++) {
                a[i / 2][i % 2] = r[i] << 2 & 0x3c3c3c3c;
                a[i / 2][i % 2 + 2] = r[i] >> 2 & 0x3c3c3c3c;
            }
        } else {
#pragma unroll
            for (int m = 0; m < 2; m++)
                sl_mma_fetch(a[m], at + sl_mma_at<S::a_chunks>(warp_row + 16 * m + lane % 16,
                                                               2 * STEP + lane / 16));
        }
    }

    template <int STEP> __device__ __forceinline__ void fetch_b(uint32_t at, uint32_t (*b)[2])
    {
#pragma unroll
        for (int t = 0; t < S::tiles; t += 2)
            sl_mma_fetch(b[t],
                         at + sl_mma_at<S::b_chunks>(warp_token + 8 * t + lane % 8 + lane / 16 * 8,
                                                     2 * STEP + lane / 8 % 2));
    }

    /* All tiles of k-step STEP; tile I is A's I%2 with B's I/2. */
    template <int STEP, int... I>
    __device__ __forceinline__ void multiply(float (*to)[S::tiles][4], const uint32_t (*a)[4],
                                             const uint32_t (*b)[2], const uint32_t *scale_a,
                                             const uint32_t (*scale_b)[S::words],
                                             std::integer_sequence<int, I...>)
    {
        constexpr int word = S::words == 2 ? STEP : 0;
        constexpr int bid = S::scaled && S::words == 1 ? STEP * S::step_k / S::group : 0;
        (MMA::template step<KIND, bid, I % 2, I / 2 % 4>(to[I % 2][I / 2], a[I % 2], b[I / 2],
                                                         scale_a[word], scale_b[I / 8][word]),
         ...);
    }

    template <int STEP>
    __device__ __forceinline__ void step(float (*to)[S::tiles][4], uint32_t at,
                                         const uint32_t *scale_a,
                                         const uint32_t (*scale_b)[S::words])
    {
        uint32_t a[2][4], b[S::tiles][2];
        fetch_a<STEP>(at, a);
        fetch_b<STEP>(at + S::a_bytes, b);
        multiply<STEP>(to, a, b, scale_a, scale_b, std::make_integer_sequence<int, 2 * S::tiles>());
    }

    /* Adds the products of a stage to `to`. Lane 4g+t holds the scales of A's row g + 8 (t%2) of
     * tile t/2, and of B's column g of tile t (and t+4). */
    __device__ __forceinline__ void compute(int stage, float (*to)[S::tiles][4])
    {
        uint32_t scale_a[S::words] = {}, scale_b[S::scale_regs][S::words] = {};
        if (S::scaled) {
            const uint32_t *all = scales(stage);
            int g = lane / 4, t = lane % 4;
            int row = warp_row + 16 * (t / 2) + 8 * (t % 2) + g;
#pragma unroll
            for (int i = 0; i < S::words; i++) {
                scale_a[i] = all[row * S::words + i];
#pragma unroll
                for (int j = 0; j < S::scale_regs; j++)
                    scale_b[j][i] =
                        all[(SL_MMA_ROWS + warp_token + g + 8 * ((4 * j + t) % S::tiles)) *
                                S::words +
                            i];
            }
        }
        uint32_t at = smem_at + (uint32_t)(stage % SL_MMA_STAGES) * S::stage_bytes;
        step<0>(to, at, scale_a, scale_b);
        step<1>(to, at, scale_a, scale_b);
    }

    /* Partial sums of SL_MMA_PROMOTE columns join the sums, times the grid's scale, and begin
     * anew. */
    __device__ __forceinline__ void promote(int stage, float (*part)[S::tiles][4])
    {
        int k = stage * S::stage_k;
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int row = min(row0 + warp_row + 16 * m + 8 * h + lane / 4, w.rows - 1);
                float f =
                    w.grid ? w.grid[(int64_t)(row / w.grid_rows) * w.grid_stride + k / w.grid_cols]
                           : 1.0f;
#pragma unroll
                for (int t = 0; t < S::tiles; t++)
#pragma unroll
                    for (int i = 2 * h; i < 2 * h + 2; i++) {
                        sum[m][t][i] += f * part[m][t][i];
                        part[m][t][i] = 0;
                    }
            }
    }

    __device__ __forceinline__ void multiply_all()
    {
        float part[2][S::tiles][4] = {}; /* used where sums are promoted */
        uint32_t next[S::words] = {};
        int count = stages();
        for (int s = 0; s < SL_MMA_STAGES - 1; s++)
            if (s < count) load_a(s);
        sl_wait(); /* weights do not depend on the kernel before, rows do */
        sl_next();
        for (int s = 0; s < SL_MMA_STAGES - 1; s++) {
            if (s < count) {
                load_b(s);
                if (S::scaled) {
                    load_scales(s, next);
                    store_scales(s, next);
                }
            }
            sl_mma_commit();
        }
        for (int s = 0; s < count; s++) {
            int ahead = s + SL_MMA_STAGES - 1;
            sl_mma_arrived<SL_MMA_STAGES - 2>();
            __syncthreads(); /* stage s is there for all, and all are done with s - 1 */
            if (ahead < count) {
                load_a(ahead);
                load_b(ahead);
                if (S::scaled) load_scales(ahead, next);
            }
            sl_mma_commit();
            compute(s, S::promote ? part : sum);
            if (S::promote && ((s + 1) * S::stage_k % SL_MMA_PROMOTE == 0 || s + 1 == count))
                promote(s, part);
            if (S::scaled && ahead < count) store_scales(ahead, next);
        }
    }

    /* out[token][row] (+)= sum * row factor * token's factor + bias. */
    __device__ __forceinline__ void store()
    {
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int row = row0 + warp_row + 16 * m + 8 * h + lane / 4;
                if (row >= w.rows) continue;
                float factor = w.row[row], bias = w.bias ? w.bias[row] : 0.0f;
#pragma unroll
                for (int t = 0; t < S::tiles; t++)
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        int token = token0 + warp_token + 8 * t + 2 * (lane % 4) + i;
                        if (token >= n) continue;
                        float *out = w.out + (int64_t)token * w.rows + row;
                        float v = sum[m][t][2 * h + i] * factor * x.row[token] + bias;
                        *out = w.add ? *out + v : v;
                    }
            }
    }
};

template <enum sl_mma_kind KIND, int TOKENS, typename MMA>
static __global__ void __launch_bounds__(SL_MMA_THREADS)
    sl_mma_kernel(const __grid_constant__ struct sl_mma_products p,
                  const __grid_constant__ struct sl_mma_rows x, int n)
{
    if constexpr (!MMA::template has<KIND>::value) {
        __trap(); /* not chosen for this card: sl_cuda_mma_choose */
    } else {
        extern __shared__ __align__(128) uint8_t sl_mma_smem[];
        int i = 0;
        while (i + 1 < p.count && (int)blockIdx.y >= p.w[i + 1].first_tile) i++;
        sl_mma_block<KIND, TOKENS, MMA> block(p.w[i], x, sl_mma_smem, n);
        block.multiply_all();
        block.store();
    }
}

/* ---- launching ---------------------------------------------------------------------------------
 */

#define SL_MMA_NARROW 32 /* tokens of the narrow tile: up to so many rows */

template <enum sl_mma_kind KIND, int TOKENS, typename MMA>
static void sl_mma_put(struct sl_cuda *c, const struct sl_mma_rows *r, int n,
                       const struct sl_mma_products &p, int tiles)
{
    constexpr int smem = sl_mma_shape<KIND, TOKENS>::smem;
    cudaFuncSetAttribute(sl_mma_kernel<KIND, TOKENS, MMA>,
                         cudaFuncAttributeMaxDynamicSharedMemorySize, smem);
    dim3 grid((unsigned)((n + TOKENS - 1) / TOKENS), (unsigned)tiles);
    sl_launch(c, sl_mma_kernel<KIND, TOKENS, MMA>, grid, SL_MMA_THREADS, smem, p, *r, n);
}

template <enum sl_mma_kind KIND, typename MMA>
static void sl_mma_put(struct sl_cuda *c, const struct sl_mma_rows *r, int n,
                       const struct sl_mma_products &p, int tiles)
{
    if (n <= SL_MMA_NARROW)
        sl_mma_put<KIND, SL_MMA_NARROW, MMA>(c, r, n, p, tiles);
    else
        sl_mma_put<KIND, 128, MMA>(c, r, n, p, tiles);
}

static inline struct sl_mma_weight sl_mma_weight_of(const struct sl_product *p)
{
    const struct sl_cuda_weight *w = static_cast<const struct sl_cuda_weight *>(p->w->packed);
    struct sl_mma_weight to = {};
    to.code = static_cast<const uint8_t *>(w->code);
    to.row = w->row;
    to.bias = p->bias;
    to.out = p->out;
    to.add = p->flags & SL_MATMUL_ADD;
    to.code_stride = w->code_stride;
    to.rows = w->rows;
    if (w->scale_kind == SL_CUDA_SCALE_GRID) {
        to.grid = static_cast<const float *>(w->scale);
        to.grid_rows = w->grid_rows;
        to.grid_cols = w->grid_cols;
        to.grid_stride = w->grid_stride;
    } else if (w->scale_kind != SL_CUDA_SCALE_NONE) {
        to.scale = static_cast<const uint8_t *>(w->scale);
        to.scale_stride = w->cols_padded / w->group;
    }
    return to;
}

template <typename MMA>
static void sl_mma_launch(struct sl_cuda *c, const struct sl_mma_rows *r, int n,
                          const struct sl_product *p, int n_products)
{
    struct sl_mma_products all = {};
    int tiles = 0;
    SL_ASSERT(n >= 0 && n_products >= 0 && n_products <= SL_MMA_PRODUCTS_MAX);
    for (int i = 0; i < n_products; i++) {
        SL_ASSERT(p[i].w->cols == r->cols);
        if (p[i].w->rows == 0) continue;
        struct sl_mma_weight *w = &all.w[all.count++];
        *w = sl_mma_weight_of(&p[i]);
        w->first_tile = tiles;
        tiles += (w->rows + SL_MMA_ROWS - 1) / SL_MMA_ROWS;
    }
    if (n == 0 || tiles == 0) return;
    switch (r->kind) {
    case SL_MMA_NVFP4:
        sl_mma_put<SL_MMA_NVFP4, MMA>(c, r, n, all, tiles);
        break;
    case SL_MMA_MXFP4:
        sl_mma_put<SL_MMA_MXFP4, MMA>(c, r, n, all, tiles);
        break;
    case SL_MMA_MXFP4_A8:
        sl_mma_put<SL_MMA_MXFP4_A8, MMA>(c, r, n, all, tiles);
        break;
    case SL_MMA_MXFP8:
        sl_mma_put<SL_MMA_MXFP8, MMA>(c, r, n, all, tiles);
        break;
    case SL_MMA_FP8:
        sl_mma_put<SL_MMA_FP8, MMA>(c, r, n, all, tiles);
        break;
    case SL_MMA_KINDS:
        SL_ASSERT(0);
    }
}

#endif
