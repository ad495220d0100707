/* matmul_wide.cuh - the streaming product for more than a few rows: there the activations that
 * blocks read are as many bytes as the weights, and a tile has to be tall.
 *
 * A cluster of SL_SLICES blocks has SL_WIDE_ROWS weight rows, every block one slice of K. The warps
 * of a block stand side by side over rows and share one ring of activations, so each is read once
 * per SL_WIDE_ROWS weights. Sums meet through distributed shared memory: block r of the cluster
 * adds the eight slices of its share of the rows, in the order of matmul_core.cuh, and so to the
 * same bits. */
#ifndef SL_KERNELS_CUDA_MATMUL_WIDE_CUH
#define SL_KERNELS_CUDA_MATMUL_WIDE_CUH

#include "kernels/cuda/act.cuh"
#include "kernels/cuda/matmul_core.cuh"
#include "kernels/cuda/matmul_job.h"

enum {
    SL_WIDE_TILES = 2, /* of 16 rows, per warp */
    SL_WIDE_ROWS = 16 * SL_WIDE_TILES * SL_SLICES,
    SL_WIDE_PITCH = SL_WIDE_ROWS + 4,
    SL_WIDE_SHARE = SL_WIDE_ROWS / SL_SLICES /* rows that one block of the cluster finishes */
};

/* Bytes of shared memory for n rows and `stages` of activations. */
static inline size_t sl_wide_smem(int n, int stages)
{
    size_t x = (size_t)stages * (size_t)n * SL_STAGE_BYTES;
    size_t sums = (size_t)n * SL_WIDE_PITCH * sizeof(float);
    return x > sums ? x : sums;
}

#define SL_WIDE_SMEM_MAX (112 << 10) /* bytes: two blocks share a multiprocessor */

static __device__ __forceinline__ void sl_cluster_arrive()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.aligned;" ::: "memory");
#endif
}

static __device__ __forceinline__ void sl_cluster_wait()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
#endif
}

/* A float of the shared memory of block `rank` of the cluster. */
static __device__ __forceinline__ float sl_cluster_float(uint32_t shared, int rank)
{
    float v = 0;
#if __CUDA_ARCH__ >= 900
    uint32_t at;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"(shared), "r"(rank));
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(at) : "memory");
#endif
    return v;
}

/* Row r, column i of the cluster's tile: all slices. */
static __device__ __forceinline__ float sl_wide_total(uint32_t sums, int r, int i)
{
    float part[SL_SLICES];
#pragma unroll
    for (int s = 0; s < SL_SLICES; s++)
        part[s] = sl_cluster_float(sums + (uint32_t)(i * SL_WIDE_PITCH + r) * 4, s);
#pragma unroll
    for (int s = 1; s < SL_SLICES; s++) part[0] += part[s];
    return part[0];
}

/* Lays down a block's sums of its slice: [n][SL_WIDE_PITCH], warp by warp. */
template <class F, int NT, class S>
static __device__ __forceinline__ void sl_wide_put(const S &s, float *sums, int n)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < SL_WIDE_TILES; i++)
#pragma unroll
        for (int c = 0; c < NT; c++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int column = 8 * c + 2 * t + e % 2;
                int r = (warp * SL_WIDE_TILES + i) * 16 + g + e / 2 * 8;
                float v = s.acc[i][c][e];
                if constexpr (F::GRID) v = s.sum[i][c][e];
                if (column < n) sums[column * SL_WIDE_PITCH + r] = v;
            }
}

/* One output, or one pair of a gated unit: opened before its sums are there. */
template <bool GLU> struct sl_output {
    const sl_stream_part *part;
    float factor, bias, up_factor, up_bias, before;
    int row, column;

    __device__ __forceinline__ void open(const sl_stream_job &job, const sl_stream_part &of,
                                         int row_, int column_, bool wanted)
    {
        part = &of, row = row_, column = column_;
        factor = bias = up_factor = up_bias = before = 0;
        if (!wanted || row >= of.w.rows) return;
        factor = __ldg(of.w.row + row);
        if (of.bias) bias = __ldg(of.bias + row);
        if constexpr (GLU) {
            up_factor = __ldg(job.part[1].w.row + row);
            if (job.part[1].bias) up_bias = __ldg(job.part[1].bias + row);
        } else if (of.flags & SL_MATMUL_ADD) {
            before = __ldcg(of.out + (int64_t)column * of.w.rows + row);
        }
    }

    __device__ __forceinline__ void close(const sl_stream_job &job, float scale, float sum,
                                          float up) const
    {
        int rows = part->w.rows;
        float v = sum * factor * scale + bias;
        if constexpr (!GLU) {
            if (row < rows)
                part->out[(int64_t)column * rows + row] =
                    part->flags & SL_MATMUL_ADD ? before + v : v;
        } else { /* rows past the last become the zeros up to a whole SL_CUDA_PAD */
            char *out = (char *)job.rows + column * sl_cuda_row_stride(rows);
            float u = up * up_factor * scale + up_bias;
            float y = row < rows ? sl_glu_half_range(sl_gated(job.act, v, u)) : 0;
            if (row < sl_cuda_pad(rows))
                ((__half *)(out + SL_CUDA_ROW_HEAD))[row] = __float2half_rn(y);
            if (row == 0) *(float *)out = SL_CUDA_GLU_SCALE;
        }
    }
};

template <class F, int NT, bool GLU>
__global__ void __launch_bounds__(SL_STREAM_THREADS, NT <= 4 ? 2 : 1)
    sl_wide_kernel(const __grid_constant__ sl_stream_job job)
{
#if __CUDA_ARCH__ >= 900
    extern __shared__ __align__(16) char smem[];
    using S = sl_stream<F, SL_WIDE_TILES, NT, GLU ? 2 : 1, true>;
    S s;
    int p = 0, block = blockIdx.x / SL_SLICES, rank = blockIdx.x % SL_SLICES;
    int warp = threadIdx.x / 32, row0;
    sl_next();
    if constexpr (GLU) {
        row0 = block * (SL_WIDE_ROWS / 2);
        s.begin(0, job.part[0].w, row0 + 16 * warp);
        s.begin(1, job.part[1].w, row0 + 16 * warp);
    } else {
        while (p + 1 < job.n_parts && block >= job.part[p].blocks) block -= job.part[p++].blocks;
        row0 = block * SL_WIDE_ROWS;
#pragma unroll
        for (int i = 0; i < SL_WIDE_TILES; i++)
            s.begin(i, job.part[p].w, row0 + (warp * SL_WIDE_TILES + i) * 16);
    }
    const sl_stream_part &part = job.part[p];
    s.prefetch(part.w.cols_padded, rank);
    if (job.ahead) s.ahead();
    /* This block finishes a share of the rows: lane by lane a row, warp by warp a column. Of a
     * gated unit the share's first 16 rows are gate, the others up: one warp of each block had
     * them. */
    constexpr int SHARE = GLU ? SL_WIDE_SHARE / 2 : SL_WIDE_SHARE;
    constexpr int COLUMNS = SL_STREAM_THREADS / SHARE, MINE = (8 * NT + COLUMNS - 1) / COLUMNS;
    int r = threadIdx.x % SHARE, column = threadIdx.x / SHARE;
    sl_output<GLU> out[MINE];
    float scale[MINE];
    sl_wait();
    const char *x = part.x + SL_CUDA_ROW_HEAD;
    auto rows = [&](int i) { return x + i * job.x_stride; };
    if (job.whole) {
        uint32_t held = (uint32_t)__cvta_generic_to_shared(smem);
        s.hold(rows, job.n, held);
        s.pass(job.n, held, s.at, false);
    } else {
        s.run(rows, job.n, smem);
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads(); /* the ring is done with */
    sl_wide_put<F, NT>(s, reinterpret_cast<float *>(smem), job.n);
    sl_cluster_arrive();
#pragma unroll
    for (int m = 0; m < MINE; m++) { /* they come while the others arrive */
        int i = column + m * COLUMNS;
        out[m].open(job, part, row0 + rank * SHARE + r, i, i < job.n);
        scale[m] = i < job.n ? __ldcg((const float *)(part.x + i * job.x_stride)) * F::UNIT : 0;
    }
    sl_cluster_wait();
    uint32_t sums = (uint32_t)__cvta_generic_to_shared(smem);
#pragma unroll
    for (int m = 0; m < MINE; m++) {
        int i = column + m * COLUMNS, at = rank * SL_WIDE_SHARE + r;
        if (i < job.n)
            out[m].close(job, scale[m], sl_wide_total(sums, at, i),
                         GLU ? sl_wide_total(sums, at + 16, i) : 0);
    }
    sl_cluster_arrive(); /* nobody leaves while others read its sums */
    sl_cluster_wait();
#endif
}

template <class F, int NT, bool GLU>
static void sl_wide_start(const struct sl_cuda *c, sl_stream_job *job)
{
    int clusters = 0, n_parts = GLU ? 1 : job->n_parts;
    for (int p = 0; p < n_parts; p++) {
        int64_t rows = GLU ? 2 * sl_cuda_pad(job->part[0].w.rows) : job->part[p].w.rows;
        job->part[p].blocks = (int)((rows + SL_WIDE_ROWS - 1) / SL_WIDE_ROWS);
        clusters += job->part[p].blocks;
    }
    auto kernel = sl_wide_kernel<F, NT, GLU>;
    static bool opened[SL_STREAM_DEVICES]; /* the same value is written whoever is first */
    if (!opened[c->device]) {
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SL_WIDE_SMEM_MAX);
        opened[c->device] = true;
    }
    int stages = sl_slice_stages(job->part[0].w.cols_padded);
    job->whole = sl_wide_smem(job->n, stages) <= SL_WIDE_SMEM_MAX;
    if (!job->whole) stages = SL_RING_SHARED;
    job->ahead = clusters * SL_SLICES <= 2 * c->sms;
    cudaLaunchAttribute attribute[2] = {};
    attribute[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute[0].val.programmaticStreamSerializationAllowed = 1;
    attribute[1].id = cudaLaunchAttributeClusterDimension;
    attribute[1].val.clusterDim.x = SL_SLICES;
    attribute[1].val.clusterDim.y = attribute[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)clusters * SL_SLICES);
    config.blockDim = dim3(SL_STREAM_THREADS);
    config.dynamicSmemBytes = sl_wide_smem(job->n, stages);
    config.stream = c->stream;
    config.attrs = attribute;
    config.numAttrs = 2;
    cudaLaunchKernelEx(&config, kernel, *job);
}

#endif
