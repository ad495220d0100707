/* matmul_bulk.cuh - products of few rows where the card has a copy engine for shared memory (Hopper
 * and later: cp.async.bulk, PTX ISA): a block for each place of the card stays, and one warp keeps
 * a ring of weights filled while eight others multiply.
 *
 * What this is for: at one to eight rows a matrix takes a few microseconds, as long as it takes to
 * get a stream of loads going. The ring needs no registers, so much more is under way than loads to
 * registers allow; it is filled before sl_wait(), while earlier kernels still run; and it goes on
 * being filled while slices are added at the end of a tile.
 *
 * A tile is 16 rows of the weight, or 8 of gate and the same 8 of up. A stage of the ring holds
 * SL_BULK_BYTES of codes of each of its rows; warp w takes the w-th eighth of a stage's columns, of
 * all stages, and the sum of a row is ((warp 0 + warp 1) + warp 2) + ... */
#ifndef SL_KERNELS_CUDA_MATMUL_BULK_CUH
#define SL_KERNELS_CUDA_MATMUL_BULK_CUH

#include "kernels/cuda/act.cuh"
#include "kernels/cuda/matmul_core.cuh"
#include "kernels/cuda/matmul_job.h"

enum {
    SL_BULK_WARPS = 8, /* that multiply */
    SL_BULK_THREADS = 32 * (SL_BULK_WARPS + 1),
    SL_BULK_BYTES = 1024,               /* of codes of a row in one stage */
    SL_BULK_PITCH = SL_BULK_BYTES + 64, /* rows that are read together meet all banks */
    SL_BULK_ROWS_MAX = 8,               /* product rows */
    SL_BULK_STAGES_MAX = 6,
    SL_BULK_SMEM_PAIR = 112 << 10, /* bytes of a block when two kernels' blocks share a place */
    SL_BULK_SUMS = SL_BULK_WARPS * SL_BULK_ROWS_MAX * 17 /* floats of the slices of a tile */
};

struct sl_bulk_plan {
    int stages, tiles,
        x_pitch; /* x_pitch: bytes from product row to product row in shared memory */
};

static __device__ __forceinline__ void sl_barrier_init(uint32_t bar, int count)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}

static __device__ __forceinline__ void sl_barrier_arrive(uint32_t bar)
{
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(bar) : "memory");
}

static __device__ __forceinline__ void sl_barrier_expect(uint32_t bar, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
                 : "memory");
}

static __device__ __forceinline__ void sl_barrier_wait(uint32_t bar, uint32_t parity)
{
    asm volatile("{\n\t.reg .pred p;\n"
                 "again:\n\tmbarrier.try_wait.parity.shared.b64 p, [%0], %1;\n\t"
                 "@!p bra again;\n\t}" ::"r"(bar),
                 "r"(parity)
                 : "memory");
}

/* Memory to shared memory by the copy engine; size and both addresses are multiples of 16. Weights
 * pass once, so they are the first that L2 lets go of. */
static __device__ __forceinline__ void sl_bulk_copy(uint32_t to, const void *from, int bytes,
                                                    uint32_t bar, uint64_t policy)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1], %2, [%3], %4;" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(bar), "l"(policy)
                 : "memory");
}

static __device__ __forceinline__ uint32_t sl_shared4(uint32_t at)
{
    uint32_t v;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at));
    return v;
}

static __device__ __forceinline__ uint32_t sl_shared2(uint32_t at)
{
    unsigned short v;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(at));
    return v;
}

static __device__ __forceinline__ uint32_t sl_shared1(uint32_t at)
{
    uint32_t v;
    asm volatile("ld.shared.u8 %0, [%1];" : "=r"(v) : "r"(at));
    return v;
}

/* The formats it takes: codes of one plane; scales none, per grid block, or a byte or half per
 * group. */
template <class F>
static constexpr bool sl_bulk_has = F::form::HIGH == 0 && F::MIN == SL_CUDA_MIN_NONE && !F::SUB;

template <class F> struct sl_bulk_form {
    static constexpr int COLUMNS = SL_BULK_BYTES * 8 / F::form::BITS; /* of a stage */
    static constexpr int WARP_COLUMNS = COLUMNS / SL_BULK_WARPS;
    static constexpr int STEPS = WARP_COLUMNS / F::STEP_K;
    static constexpr int SCALE_BYTES = F::SCALE == SL_CUDA_SCALE_F16 ? 2 : 1;
    /* bytes of a row's scales in one stage, groups of 16 at least; and from row to row */
    static constexpr int SCALES_MAX = F::GROUPS ? COLUMNS / 16 * SCALE_BYTES : 0;
    static constexpr int SCALE_PITCH = F::GROUPS ? SCALES_MAX + 16 : 0;
    static constexpr int STAGE = 16 * (SL_BULK_PITCH + SCALE_PITCH);
    static_assert(STEPS >= 1, "a warp has whole steps");
};

/* Row r of 16 of a tile: which weight, which row of it. */
template <bool GLU>
static __device__ __forceinline__ const sl_cuda_weight &
sl_bulk_row(const sl_stream_job &job, int part, int tile, int r, int &row)
{
    const sl_cuda_weight &w = job.part[GLU ? r / 8 : part].w;
    row = min(GLU ? tile * 8 + r % 8 : tile * 16 + r, w.rows - 1);
    return w;
}

/* Keeps the ring filled: lane r copies codes of row r, lane 16 + r its scales. */
template <class F, bool GLU>
static __device__ __forceinline__ void sl_bulk_fill(const sl_stream_job &job,
                                                    const sl_bulk_plan &plan, uint32_t ring,
                                                    uint32_t full, uint32_t empty)
{
    using B = sl_bulk_form<F>;
    int lane = threadIdx.x % 32, r = lane % 16, at = 0;
    uint32_t turn = 0;
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    for (int t = blockIdx.x; t < plan.tiles; t += gridDim.x) {
        int tile = t, part = 0, row;
        while (!GLU && part + 1 < job.n_parts && tile >= job.part[part].blocks)
            tile -= job.part[part++].blocks;
        const sl_cuda_weight &w = sl_bulk_row<GLU>(job, part, tile, r, row);
        int group = w.group, cols = w.cols_padded;
        const uint8_t *codes = (const uint8_t *)w.code + row * w.code_stride;
        const uint8_t *scales =
            (const uint8_t *)w.scale + (int64_t)row * sl_cuda_groups(&w) * B::SCALE_BYTES;
        for (int k = 0; k < cols; k += B::COLUMNS) {
            int n = min(cols - k, (int)B::COLUMNS), bytes = n * F::form::BITS / 8;
            int scale_bytes = F::GROUPS ? n / group * B::SCALE_BYTES : 0;
            uint32_t stage = ring + at * B::STAGE, bar = full + 8 * at;
            if (turn > 0) sl_barrier_wait(empty + 8 * at, (turn - 1) & 1);
            if (lane == 0) sl_barrier_expect(bar, 16 * (bytes + scale_bytes));
            __syncwarp();
            if (lane < 16)
                sl_bulk_copy(stage + r * SL_BULK_PITCH, codes + (int64_t)k * F::form::BITS / 8,
                             bytes, bar, policy);
            else if (F::GROUPS)
                sl_bulk_copy(stage + 16 * SL_BULK_PITCH + r * B::SCALE_PITCH,
                             scales + k / group * B::SCALE_BYTES, scale_bytes, bar, policy);
            if (++at == plan.stages) at = 0, turn++;
        }
    }
}

/* What a lane takes of one row for one step, out of a stage; k: the lane's first column in it. */
template <class F>
static __device__ __forceinline__ void sl_bulk_load(typename F::raw &raw, uint32_t stage, int r,
                                                    int k, int group_shift)
{
    using B = sl_bulk_form<F>;
    uint4 v = sl_shared16(stage + r * SL_BULK_PITCH + k * F::form::BITS / 8);
    raw.code[0] = v.x, raw.code[1] = v.y, raw.code[2] = v.z, raw.code[3] = v.w;
    if constexpr (F::GROUPS) {
        uint32_t at =
            stage + 16 * SL_BULK_PITCH + r * B::SCALE_PITCH + (k >> group_shift) * B::SCALE_BYTES;
        if constexpr (F::SCALE == SL_CUDA_SCALE_F16)
            raw.scale = F::PAIR ? sl_shared4(at) : sl_shared2(at);
        else
            raw.scale = F::PAIR ? sl_shared2(at) : sl_shared1(at);
    }
}

/* Product rows into shared memory, all of them: [n][x_pitch] bytes of halfs. */
static __device__ __forceinline__ void sl_bulk_rows(const sl_stream_job &job, const char *x, int n,
                                                    int cols, int pitch, char *to)
{
    for (int i = 0; i < n; i++)
        for (int u = threadIdx.x; u < cols / 8; u += 32 * SL_BULK_WARPS)
            *(uint4 *)(to + i * pitch + 16 * u) =
                __ldcg((const uint4 *)(x + i * job.x_stride + SL_CUDA_ROW_HEAD) + u);
}

/* The slices' sum of row r and product row i. */
static __device__ __forceinline__ float sl_bulk_total(const float *sums, int r, int i)
{
    float v = sums[i * 17 + r];
#pragma unroll
    for (int w = 1; w < SL_BULK_WARPS; w++) v += sums[(w * SL_BULK_ROWS_MAX + i) * 17 + r];
    return v;
}

template <bool GLU>
static __device__ __forceinline__ void sl_bulk_store(const sl_stream_job &job,
                                                     const sl_stream_part &part, int tile, int n,
                                                     float unit, const float *sums)
{
    constexpr int ROWS = GLU ? 8 : 16;
    int i = threadIdx.x / ROWS, r = threadIdx.x % ROWS, row = tile * ROWS + r;
    if (i >= n) return;
    float scale = __ldcg((const float *)(part.x + i * job.x_stride));
    if constexpr (GLU) {
        const sl_stream_part &up = job.part[1];
        int cols = part.w.rows;
        char *out = (char *)job.rows + i * sl_cuda_row_stride(cols);
        float y = 0; /* rows past the last become the zeros up to a whole SL_CUDA_PAD */
        if (row < cols) {
            float g = sl_bulk_total(sums, r, i) * __ldg(part.w.row + row) * unit * scale;
            float u = sl_bulk_total(sums, r + 8, i) * __ldg(up.w.row + row) * unit * scale;
            if (part.bias) g += __ldg(part.bias + row);
            if (up.bias) u += __ldg(up.bias + row);
            y = sl_glu_half_range(sl_gated(job.act, g, u));
        }
        if (row < sl_cuda_pad(cols)) ((__half *)(out + SL_CUDA_ROW_HEAD))[row] = __float2half_rn(y);
        if (row == 0) *(float *)out = SL_CUDA_GLU_SCALE;
    } else if (row < part.w.rows) {
        float v = sl_bulk_total(sums, r, i) * __ldg(part.w.row + row) * unit * scale;
        if (part.bias) v += __ldg(part.bias + row);
        float *out = part.out + (int64_t)i * part.w.rows + row;
        *out = part.flags & SL_MATMUL_ADD ? __ldcg(out) + v : v;
    }
}

template <class F, bool GLU>
__global__ void __launch_bounds__(SL_BULK_THREADS, 2)
    sl_bulk_kernel(const __grid_constant__ sl_stream_job job, const sl_bulk_plan plan)
{
#if __CUDA_ARCH__ >= 900
    extern __shared__ __align__(128) char smem[];
    using B = sl_bulk_form<F>;
    __shared__ __align__(8) uint64_t bars[2 * SL_BULK_STAGES_MAX];
    uint32_t ring = (uint32_t)__cvta_generic_to_shared(smem);
    uint32_t full = (uint32_t)__cvta_generic_to_shared(bars), empty = full + 8 * SL_BULK_STAGES_MAX;
    float *sums = (float *)(smem + plan.stages * B::STAGE);
    char *rows = (char *)(sums + 2 * SL_BULK_SUMS);
    uint32_t x = (uint32_t)__cvta_generic_to_shared(rows);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, n = job.n;
    if (threadIdx.x == 0) {
        for (int s = 0; s < plan.stages; s++) {
            sl_barrier_init(full + 8 * s, 1);
            sl_barrier_init(empty + 8 * s, SL_BULK_WARPS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    sl_next();
    if (warp == SL_BULK_WARPS) {
        sl_bulk_fill<F, GLU>(job, plan, ring, full, empty);
        sl_wait();
        return;
    }
    const typename F::constant constant = F::prepare(job.part[0].w);
    int cols = job.part[0].w.cols_padded, group = job.part[0].w.group;
    int group_shift = F::GROUPS ? 31 - __clz(group) : 0;
    int k_lane = warp * B::WARP_COLUMNS + lane % 4 * F::LANE_K, column = min(g, n - 1);
    sl_wait();
    sl_bulk_rows(job, job.part[0].x, n, cols, plan.x_pitch, rows);
    asm volatile("bar.sync 1, %0;" ::"n"(32 * SL_BULK_WARPS) : "memory");
    int at = 0;
    uint32_t parity = 0;
    for (int t = blockIdx.x; t < plan.tiles; t += gridDim.x) {
        int tile = t, p = 0;
        while (!GLU && p + 1 < job.n_parts && tile >= job.part[p].blocks)
            tile -= job.part[p++].blocks;
        const sl_stream_part &part = job.part[p];
        float acc[4] = {0, 0, 0, 0}, sum[4] = {0, 0, 0, 0};
        const float *grid[2] = {};
        if constexpr (F::GRID)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int row;
                const sl_cuda_weight &w = sl_bulk_row<GLU>(job, p, tile, 8 * h, row);
                grid[h] = (const float *)w.scale + row / w.grid_rows * (int64_t)w.grid_stride;
            }
        for (int k0 = 0; k0 < cols; k0 += B::COLUMNS) {
            uint32_t stage = ring + at * B::STAGE;
            float by[2] = {1, 1};
            if constexpr (F::GRID) { /* a warp's columns of a stage are one block's */
                int block = (k0 + warp * B::WARP_COLUMNS) / 128;
                if (k0 + warp * B::WARP_COLUMNS < cols)
                    by[0] = __ldg(grid[0] + block), by[1] = __ldg(grid[1] + block);
            }
            sl_barrier_wait(full + 8 * at, parity);
#pragma unroll
            for (int j = 0; j < B::STEPS; j++) {
                int k = k_lane + j * F::STEP_K;
                if (k0 + warp * B::WARP_COLUMNS + j * F::STEP_K < cols) {
                    typename F::raw raw[2];
                    typename F::scales s[2];
#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        sl_bulk_load<F>(raw[h], stage, g + 8 * h, k, group_shift);
                        s[h] = F::unpack(raw[h], constant);
                    }
#pragma unroll
                    for (int e = 0; e < F::LANE_K / 8; e++) {
                        uint32_t b[2][2];
                        sl_order<F::ORDER>(
                            sl_shared16(x + column * plan.x_pitch + 2 * (k0 + k) + 16 * e), b);
#pragma unroll
                        for (int q = 0; q < 2; q++) {
                            uint32_t a[4];
                            F::fragment(raw[0], s[0], constant, 2 * e + q, a[0], a[2]);
                            F::fragment(raw[1], s[1], constant, 2 * e + q, a[1], a[3]);
                            sl_mma(acc, a[0], a[1], a[2], a[3], b[q][0], b[q][1]);
                        }
                    }
                }
            }
            __syncwarp();
            if (lane == 0) sl_barrier_arrive(empty + 8 * at);
            if (++at == plan.stages) at = 0, parity ^= 1;
            if constexpr (F::GRID)
#pragma unroll
                for (int e = 0; e < 4; e++) sum[e] = fmaf(acc[e], by[e / 2], sum[e]), acc[e] = 0;
        }
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int i = 2 * (lane % 4) + e % 2, r = g + e / 2 * 8;
            sums[(warp * SL_BULK_ROWS_MAX + i) * 17 + r] = F::GRID ? sum[e] : acc[e];
        }
        asm volatile("bar.sync 1, %0;" ::"n"(32 * SL_BULK_WARPS) : "memory");
        sl_bulk_store<GLU>(job, part, tile, n, F::UNIT, sums);
        /* the tile after the next one finds these sums read: a barrier is between */
        sums = sums == (float *)(smem + plan.stages * B::STAGE) ? sums + SL_BULK_SUMS
                                                                : sums - SL_BULK_SUMS;
    }
#endif
}

/* Starts the kernel for job->part; 0 when this form, shape or number of rows is none for it. */
template <class F, bool GLU> static bool sl_bulk_start(const struct sl_cuda *c, sl_stream_job *job)
{
    if constexpr (!sl_bulk_has<F>) {
        return false;
    } else {
        using B = sl_bulk_form<F>;
        const sl_cuda_weight *w = &job->part[0].w;
        int cols = w->cols_padded, whole = F::GROUPS ? B::COLUMNS : F::STEP_K;
        if (c->cc < 90 || job->n > SL_BULK_ROWS_MAX || cols % whole != 0) return false;
        if (F::GROUPS && (w->group > B::COLUMNS || w->group * 4 < F::LANE_K)) return false;
        if (F::GRID && (w->grid_cols != 128 || w->grid_rows % 16 != 0)) return false;
        int n_parts = GLU ? 2 : job->n_parts;
        for (int p = 0; p < n_parts; p++)
            if (job->part[p].x != job->part[0].x || job->part[p].w.cols_padded != cols ||
                job->part[p].w.group != w->group || job->part[p].w.code_stride % 16 != 0)
                return false;
        sl_bulk_plan plan = {};
        for (int p = 0; p < (GLU ? 1 : job->n_parts); p++) {
            int64_t all = GLU ? sl_cuda_pad(job->part[0].w.rows) : job->part[p].w.rows;
            job->part[p].blocks = (int)((all + (GLU ? 7 : 15)) / (GLU ? 8 : 16));
            plan.tiles += job->part[p].blocks;
        }
        plan.x_pitch = 2 * cols + 16;
        size_t fixed = 2 * SL_BULK_SUMS * sizeof(float) + (size_t)job->n * plan.x_pitch;
        size_t room = SL_BULK_SMEM_PAIR;
        if (fixed + 3 * B::STAGE > room) room = (size_t)c->smem_max - 1024;
        if (fixed + 3 * B::STAGE > room) return false;
        int places = room == (size_t)SL_BULK_SMEM_PAIR ? 2 * c->sms : c->sms;
        plan.stages = (int)((room - fixed) / B::STAGE);
        if (plan.stages > SL_BULK_STAGES_MAX) plan.stages = SL_BULK_STAGES_MAX;
        auto kernel = sl_bulk_kernel<F, GLU>;
        static bool opened[SL_STREAM_DEVICES]; /* the same value is written whoever is first */
        if (!opened[c->device]) {
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 c->smem_max - 1024);
            opened[c->device] = true;
        }
        sl_launch(c, kernel, dim3((unsigned)(plan.tiles < places ? plan.tiles : places)),
                  dim3(SL_BULK_THREADS), fixed + (size_t)plan.stages * B::STAGE, *job, plan);
        return true;
    }
}

#endif
