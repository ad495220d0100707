/* matmul_core.cuh - the device code of every product that streams weights: a block's tile of
 * MT * 16 weight rows times up to NT * 8 activation rows.
 *
 * Shape of the work. The K dimension is cut into SL_SLICES slices, one per warp of the block. Each
 * warp streams its slice of all the tile's weight rows from memory to registers (several steps in
 * flight), decodes them in place as operand A of mma.m16n8k16, and multiplies product rows, operand
 * B, which it copies with cp.async into a ring of its own in shared memory. Warps meet only at the
 * end, when the slices are added. So no barrier stands in the stream, and:
 *
 *   the sum of a row is  ((slice 0 + slice 1) + slice 2) + ...  with slices that depend on K alone.
 *
 * Whatever MT, NT, number of rows or place in the batch, a result has the same bits.
 *
 * Use, in a kernel of SL_STREAM_THREADS threads (matmul_kernel.cuh, moe*.cu):
 *
 *     sl_stream<F, MT, NT> s;
 *     s.begin(i, w, row0) for every tile i of 16 rows, then s.prefetch(cols_padded);
 *     sl_wait();
 *     s.run(rows, n, smem);    rows(i): where the halfs of product row i begin
 *     s.gather(smem, n);
 *     s.total(smem, n, r, i)   for rows r < 16 * MT and i < n, whoever wants them
 *
 * with sl_stream_smem<MT, NT>(n) bytes of dynamic shared memory, aligned to 16. The totals lack
 * F::UNIT, w.row[] and the product row's scale. A tile's rows past the end of the matrix repeat its
 * last row. W: how many different weights the tiles are of, MT / W of each in order; they have one
 * form, one number of columns, one table (LUT4) and one offset. SHARED: all warps of the block take
 * the same slice, of different rows, and one ring serves them all (matmul_wide.cuh). */
#ifndef SL_KERNELS_CUDA_MATMUL_CORE_CUH
#define SL_KERNELS_CUDA_MATMUL_CORE_CUH

#include "kernels/cuda/decode.cuh"
#include "kernels/cuda/launch.cuh"

enum {
    SL_SLICES = 8, /* of K: warps of a block */
    SL_STREAM_THREADS = 32 * SL_SLICES,
    SL_STAGE_K = 128,                     /* columns of a stage of the activations' ring */
    SL_STAGE_BYTES = 2 * SL_STAGE_K,      /* of one product row */
    SL_STAGE_UNITS = SL_STAGE_BYTES / 16, /* pieces of 16 bytes */
    SL_RING_SHARED = 6,                   /* stages of a ring that a block shares */
    SL_AHEAD_BYTES = 512                  /* of a row's slice, asked for beyond what is loaded */
};

/* Stages of the ring: as many as leave room for a second block where there are few rows. */
template <int NT> static constexpr int sl_ring = NT == 1 ? 4 : 3;

/* Steps of weights in flight per warp: 8 or 16 loads of 16 bytes per lane, as registers allow. */
template <class F, int MT, int NT, bool SHARED>
static constexpr int sl_depth = F::LANE_K == 8 || MT == 1                       ? 4
                                : F::LANE_K == 16 && (SHARED ? NT < 4 : MT < 4) ? 4
                                                                                : 2;

/* D += A * B of one warp: A 16 x 16, B 16 x 8 halfs, D 16 x 8 floats. */
static __device__ __forceinline__ void sl_mma(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                              uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* 16 bytes of global memory to shared memory, through L1: the blocks of a multiprocessor want the
 * same ones. Zeros when not `valid`. */
static __device__ __forceinline__ void sl_copy16(uint32_t shared, const void *global, bool valid)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

static __device__ __forceinline__ uint4 sl_shared16(uint32_t shared)
{
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(shared)
                 : "memory");
    return v;
}

/* Operand B of two products out of 8 consecutive halfs of a row, in the order of the decoder. */
template <int ORDER>
static __device__ __forceinline__ void sl_order(const uint4 &x, uint32_t (&b)[2][2])
{
    if constexpr (ORDER == 0) {
        b[0][0] = x.x, b[0][1] = x.y, b[1][0] = x.z, b[1][1] = x.w;
    } else { /* (0, 4) (1, 5), (2, 6) (3, 7) */
        b[0][0] = __byte_perm(x.x, x.z, 0x5410), b[0][1] = __byte_perm(x.x, x.z, 0x7632);
        b[1][0] = __byte_perm(x.y, x.w, 0x5410), b[1][1] = __byte_perm(x.y, x.w, 0x7632);
    }
}

template <int MT, int NT> static __host__ __device__ constexpr size_t sl_stream_smem(int n)
{
    size_t ring = (size_t)SL_SLICES * sl_ring<NT> * n * SL_STAGE_BYTES;
    size_t sums = (size_t)SL_SLICES * n * (16 * MT + 4) * sizeof(float);
    return ring > sums ? ring : sums;
}

/* Stages of the longest slice of a row. */
static __host__ __device__ inline int sl_slice_stages(int cols_padded)
{
    return ((cols_padded + SL_STAGE_K - 1) / SL_STAGE_K + SL_SLICES - 1) / SL_SLICES;
}

template <class F, int MT, int NT, int W = 1, bool SHARED = false> struct sl_stream {
    static constexpr int TILES = MT, DEPTH = sl_depth<F, MT, NT, SHARED>,
                         RING = SHARED ? SL_RING_SHARED : sl_ring<NT>;
    static constexpr int STAGE_STEPS = SL_STAGE_K / F::STEP_K; /* 1, 2 or 4 */
    static constexpr int PITCH = 16 * MT + 4; /* of sums: a warp's lanes meet 32 banks */
    static_assert(DEPTH % STAGE_STEPS == 0, "whole stages in flight");
    static_assert(MT % W == 0, "as many tiles of each weight");

    static __host__ __device__ constexpr size_t SUMS_BYTES(int n)
    {
        return (size_t)SL_SLICES * n * PITCH * sizeof(float);
    }

    sl_weight_view view[W];
    struct place {
        const uint8_t *code[2]; /* rows g and g + 8 of a tile */
        int row[2];
        const float *grid;
    };
    place at[MT];
    int first, last; /* stages of this warp's slice */
    int cols;        /* padded */
    typename F::raw buffer[DEPTH][MT][2];
    float grid[DEPTH / STAGE_STEPS][MT];
    typename F::constant constant;
    float acc[MT][NT][4], sum[F::GRID ? MT : 1][F::GRID ? NT : 1][4];

    /* Tile i holds rows row0.. of `weight`. */
    __device__ __forceinline__ void begin(int i, const sl_cuda_weight &weight, int row0)
    {
        if (i % (MT / W) == 0) view[i * W / MT].open(weight);
        if (i == 0) constant = F::prepare(weight);
        at[i] = find(i, row0);
    }

    __device__ __forceinline__ place find(int i, int row0) const
    {
        const sl_weight_view &v = view[i * W / MT];
        place p;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            p.row[h] = min(row0 + (int)threadIdx.x % 32 / 4 + 8 * h, v.rows - 1);
            p.code[h] = v.code + p.row[h] * v.code_stride;
        }
        if constexpr (F::GRID) /* blocks have 16, 32 ... rows: a tile has one row of scales */
            p.grid = (const float *)v.scale +
                     min(row0, v.rows - 1) / v.grid_rows * (int64_t)v.grid_stride;
        return p;
    }

    __device__ __forceinline__ int lane_k() const
    {
        return threadIdx.x % 4 * F::LANE_K;
    }

    __device__ __forceinline__ int steps() const
    {
        return (last - first) * STAGE_STEPS;
    }

    /* Loads step j of the slice into buffer d; columns past the end repeat the last ones, which
     * meet zeros. */
    __device__ __forceinline__ void load(int d, int j, const place (&from)[MT])
    {
        int k0 = first * SL_STAGE_K + j * F::STEP_K, k = min(k0 + lane_k(), cols - F::LANE_K);
#pragma unroll
        for (int i = 0; i < MT; i++) {
#pragma unroll
            for (int h = 0; h < 2; h++)
                F::load(buffer[d][i][h], view[i * W / MT], from[i].code[h], from[i].row[h], k);
            if constexpr (F::GRID) /* the stage's last step: the buffer before has been used */
                if (d % STAGE_STEPS == STAGE_STEPS - 1)
                    grid[d / STAGE_STEPS][i] = __ldg(from[i].grid + k0 / SL_STAGE_K);
        }
    }

    /* Starts the stream of a slice, the warp's own: what may happen before sl_wait(). */
    __device__ __forceinline__ void prefetch(int cols_padded)
    {
        prefetch(cols_padded, threadIdx.x / 32);
    }

    __device__ __forceinline__ void prefetch(int cols_padded, int slice)
    {
        int stages = (cols_padded + SL_STAGE_K - 1) / SL_STAGE_K;
        first = stages * slice / SL_SLICES, last = stages * (slice + 1) / SL_SLICES;
        cols = cols_padded;
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
            if (d < steps()) load(d, d, at);
    }

    /* Asks for what follows in each row to come as far as L2, while others still work. */
    __device__ __forceinline__ void ahead()
    {
#if __CUDA_ARCH__ >= 900
        int t = threadIdx.x % 4, from = first * SL_STAGE_K + DEPTH * F::STEP_K;
        int bytes =
            min((min(last * SL_STAGE_K, cols) - from) * F::form::BITS / 8, (int)SL_AHEAD_BYTES);
        if (t < 2 && bytes > 0) {
#pragma unroll
            for (int i = 0; i < MT; i++)
                asm volatile(
                    "cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(
                        (t ? at[i].code[1] : at[i].code[0]) + (int64_t)from * F::form::BITS / 8),
                    "r"(bytes)
                    : "memory");
        }
#endif
    }

    /* Copies stage c of n product rows to `stage` in shared memory. Pieces of 16 bytes are placed
     * so that the eight lanes that read together touch eight different quarters of the banks. */
    template <class ROWS>
    __device__ __forceinline__ void copy(const ROWS &rows, int n, uint32_t stage, int c)
    {
        constexpr int U = F::LANE_K / 8; /* pieces of a lane */
        constexpr int THREADS = SHARED ? SL_STREAM_THREADS : 32;
        int thread = threadIdx.x % THREADS, limit = cols / 8 - c * SL_STAGE_UNITS;
        for (int i = thread / SL_STAGE_UNITS; i < n; i += THREADS / SL_STAGE_UNITS) {
            int u = thread % SL_STAGE_UNITS, place = u / (4 * U) * (4 * U) + u % U * 4 + u / U % 4;
            const char *from = rows(i) + (int64_t)c * SL_STAGE_BYTES;
            sl_copy16(stage + i * SL_STAGE_BYTES + ((place ^ (i & 1) << 2) << 4),
                      from + (u < limit ? 16 * u : 0), u < limit);
        }
    }

    __device__ __forceinline__ void multiply(int d, uint32_t stage, int step, int n)
    {
        int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        typename F::scales s[MT][2];
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) s[i][h] = F::unpack(buffer[d][i][h], constant);
#pragma unroll
        for (int j = 0; j < F::LANE_K / 8; j++) { /* 8 columns of a lane: two products */
            uint32_t b[NT][2][2];
#pragma unroll
            for (int c = 0; c < NT; c++) {
                int column = min(8 * c + g, n - 1), place = step * (F::LANE_K / 2) + 4 * j + t;
                uint4 x = sl_shared16(stage + column * SL_STAGE_BYTES +
                                      ((place ^ (column & 1) << 2) << 4));
                sl_order<F::ORDER>(x, b[c]);
            }
#pragma unroll
            for (int i = 0; i < MT; i++)
#pragma unroll
                for (int q = 0; q < 2; q++) {
                    uint32_t a[4];
                    F::fragment(buffer[d][i][0], s[i][0], constant, 2 * j + q, a[0], a[2]);
                    F::fragment(buffer[d][i][1], s[i][1], constant, 2 * j + q, a[1], a[3]);
#pragma unroll
                    for (int c = 0; c < NT; c++)
                        sl_mma(acc[i][c], a[0], a[1], a[2], a[3], b[c][q][0], b[c][q][1]);
                }
        }
    }

    /* Takes the accumulators of a stage into the sums, by the stage's scale. */
    __device__ __forceinline__ void promote(int d)
    {
        if constexpr (F::GRID) {
#pragma unroll
            for (int i = 0; i < MT; i++)
#pragma unroll
                for (int c = 0; c < NT; c++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        sum[i][c][e] = fmaf(acc[i][c][e], grid[d / STAGE_STEPS][i], sum[i][c][e]);
                        acc[i][c][e] = 0;
                    }
        }
    }

    /* The slice's steps, from nothing. stage(c): where stage c of the activations lies, when it is
     * there; asked once per stage. after(d, j): buffer d is free, step j of the slice comes next.
     */
    template <class STAGE, class AFTER>
    __device__ __forceinline__ void stream(int n, const STAGE &stage, const AFTER &after)
    {
        constexpr int TURN = DEPTH / STAGE_STEPS; /* stages of a turn of the buffers */
        uint32_t x = 0;
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int c = 0; c < NT; c++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    acc[i][c][e] = 0;
                    if constexpr (F::GRID) sum[i][c][e] = 0;
                }
        for (int c0 = first; c0 < last; c0 += TURN) {
#pragma unroll
            for (int d = 0; d < DEPTH; d++) {
                int c = c0 + d / STAGE_STEPS;
                if (TURN == 1 || c < last) {
                    if (d % STAGE_STEPS == 0) x = stage(c);
                    multiply(d, x, d % STAGE_STEPS, n);
                    if (d % STAGE_STEPS == STAGE_STEPS - 1) promote(d);
                }
                after(d, (c0 - first) * STAGE_STEPS + d + DEPTH);
            }
        }
    }

    /* Multiplies this warp's slice with activations that pass through a ring; smem holds
     * sl_stream_smem bytes. 1 <= n <= 8 * NT. */
    template <class ROWS> __device__ __forceinline__ void run(const ROWS &rows, int n, char *smem)
    {
        uint32_t ring = (uint32_t)__cvta_generic_to_shared(smem), bytes = n * SL_STAGE_BYTES;
        if constexpr (!SHARED) ring += threadIdx.x / 32 * RING * bytes;
#pragma unroll
        for (int r = 0; r < RING - 1; r++) {
            if (first + r < last) copy(rows, n, ring + r * bytes, first + r);
            asm volatile("cp.async.commit_group;" ::: "memory");
        }
        stream(
            n,
            [&](int c) {
                asm volatile("cp.async.wait_group %0;" ::"n"(RING - 2) : "memory");
                /* everybody's pieces are here, and the stage to fill has been read */
                if constexpr (SHARED)
                    __syncthreads();
                else
                    __syncwarp();
                int next = c + RING - 1;
                if (next < last) copy(rows, n, ring + (next - first) % RING * bytes, next);
                asm volatile("cp.async.commit_group;" ::: "memory");
                return ring + (c - first) % RING * bytes;
            },
            [&](int d, int j) {
                if (j < steps()) load(d, j, at);
            });
    }

    /* The same with all the slice's activations in shared memory at once, one wait for all. hold()
     * brings them there, `x` is where this warp's lie; pass() multiplies tile after tile with them.
     * While a tile ends, the `next` one's first steps are on their way. */
    template <class ROWS> __device__ __forceinline__ void hold(const ROWS &rows, int n, uint32_t x)
    {
        for (int c = first; c < last; c++) copy(rows, n, x + (c - first) * n * SL_STAGE_BYTES, c);
        asm volatile("cp.async.wait_all;" ::: "memory");
        if constexpr (SHARED)
            __syncthreads();
        else
            __syncwarp();
    }

    __device__ __forceinline__ void pass(int n, uint32_t x, const place (&next)[MT], bool more)
    {
        stream(
            n, [&](int c) { return x + (c - first) * n * SL_STAGE_BYTES; },
            [&](int d, int j) {
                if (j < steps())
                    load(d, j, at);
                else if (more && j < steps() + DEPTH && d < steps())
                    load(d, d, next);
            });
    }

    /* Lays down the slices' sums for total(), and waits for all warps. */
    __device__ __forceinline__ void gather(char *smem, int n)
    {
        asm volatile("cp.async.wait_all;" ::: "memory");
        __syncthreads(); /* the rings are done with */
        put(smem, n);
        __syncthreads();
    }

    /* This warp's sums into [SL_SLICES][n][PITCH] floats. */
    __device__ __forceinline__ void put(char *smem, int n)
    {
        float *sums = reinterpret_cast<float *>(smem);
        int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int c = 0; c < NT; c++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int column = 8 * c + 2 * t + e % 2, r = 16 * i + g + e / 2 * 8;
                    float v = acc[i][c][e];
                    if constexpr (F::GRID) v = sum[i][c][e];
                    if (column < n) sums[(warp * n + column) * PITCH + r] = v;
                }
    }

    static __device__ __forceinline__ float total(const char *smem, int n, int r, int column)
    {
        const float *sums = reinterpret_cast<const float *>(smem);
        float v = sums[column * PITCH + r];
#pragma unroll
        for (int s = 1; s < SL_SLICES; s++) v += sums[(s * n + column) * PITCH + r];
        return v;
    }
};

#endif
