/* matmul_plain.cu - products with F32 weights (routers, small projections): float arithmetic, one
 * warp per weight row, for they are few and their bits matter more than their speed. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_job.h"
#include "kernels/cuda/row.cuh"

namespace
{

constexpr int THREADS = 128, COLUMNS = 8; /* product rows that a warp takes at once */

__global__ void plain(const __grid_constant__ sl_stream_job job)
{
    int p = 0, lane = threadIdx.x % 32, row = (blockIdx.x * THREADS + threadIdx.x) / 32;
    sl_next();
    sl_wait();
    while (p < job.n_parts && row >= job.part[p].w.rows) row -= job.part[p++].w.rows;
    if (p == job.n_parts) return;
    const sl_stream_part &part = job.part[p];
    const sl_cuda_weight &w = part.w;
    const float *code = (const float *)((const char *)w.code + row * w.code_stride);
    int first = blockIdx.y * COLUMNS, n = min(job.n - first, COLUMNS);
    float sum[COLUMNS] = {};
    for (int k = lane; k < w.cols; k += 32) {
        float v = __ldg(code + k);
#pragma unroll
        for (int i = 0; i < COLUMNS; i++)
            if (i < n) {
                const char *x = part.x + (first + i) * job.x_stride + SL_CUDA_ROW_HEAD;
                sum[i] = fmaf(v, __half2float(((const __half *)x)[k]), sum[i]);
            }
    }
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) {
        if (i >= n) break;
        for (int d = 16; d; d /= 2) sum[i] += __shfl_xor_sync(~0u, sum[i], d);
        if (lane) continue;
        float scale = *(const float *)(part.x + (first + i) * job.x_stride);
        float v = sum[i] * __ldg(w.row + row) * scale + (part.bias ? __ldg(part.bias + row) : 0);
        float *out = part.out + (int64_t)(first + i) * w.rows + row;
        *out = part.flags & SL_MATMUL_ADD ? *out + v : v;
    }
}

} // namespace

int sl_stream_plain(const struct sl_cuda *c, struct sl_stream_job *job)
{
    int64_t rows = 0;
    if (job->rows || job->part[0].w.code_kind != SL_CUDA_F32) return 0;
    for (int p = 0; p < job->n_parts; p++) rows += job->part[p].w.rows;
    sl_launch(c, plain,
              dim3((unsigned)((rows * 32 + THREADS - 1) / THREADS),
                   (unsigned)((job->n + COLUMNS - 1) / COLUMNS)),
              dim3(THREADS), 0, *job);
    return 1;
}
