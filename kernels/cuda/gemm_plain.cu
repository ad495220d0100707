/* gemm_plain.cu - the product of many rows without tensor cores: float32 throughout, any form of
 * weight, one element at a time (element.cuh). F32 weights go this way, and whatever cuBLASLt
 * refuses: slow, and always there. */
#include <cuda_bf16.h>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/gemm_steps.h"
#include "kernels/cuda/row.cuh"

namespace
{

/* A block makes TILE x TILE sums, a thread 4 x 4 of them, STEP columns at a time. */
constexpr int TILE = 64, STEP = 16, THREADS = 256, EACH = 4;

__global__ void __launch_bounds__(THREADS)
    plain(const struct sl_cuda_weight w, const struct sl_cuda_plain p)
{
    __shared__ float a[STEP][TILE + 4], b[STEP][TILE + 4];
    sl_next();
    sl_wait();
    int m0 = blockIdx.x * TILE, n0 = blockIdx.y * TILE;
    int tm = threadIdx.x % (TILE / EACH) * EACH, tn = threadIdx.x / (TILE / EACH) * EACH;
    float sum[EACH][EACH] = {};
    for (int k0 = 0; k0 < w.cols; k0 += STEP) {
        for (int i = threadIdx.x; i < TILE * STEP; i += THREADS) {
            int r = i / STEP, k = k0 + i % STEP;
            bool inside = k < w.cols;
            a[i % STEP][r] = inside && m0 + r < p.m ? sl_cuda_element(w, p.first + m0 + r, k) : 0;
            float x = 0;
            if (inside && n0 + r < p.n) {
                const float *head = sl_row_head(p.x, n0 + r, w.cols);
                x = *head * __half2float(sl_row_halfs(head)[w.order ? w.order[k] : k]);
            }
            b[i % STEP][r] = x;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < STEP; k++) {
            float4 u = *reinterpret_cast<float4 *>(&a[k][tm]);
            float4 v = *reinterpret_cast<float4 *>(&b[k][tn]);
            const float us[EACH] = {u.x, u.y, u.z, u.w}, vs[EACH] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int i = 0; i < EACH; i++)
#pragma unroll
                for (int j = 0; j < EACH; j++) sum[i][j] += us[j] * vs[i];
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < EACH; i++)
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            if (n0 + tn + i >= p.n || m0 + tm + j >= p.m) continue;
            int64_t at = (n0 + tn + i) * p.d_stride + m0 + tm + j;
            if (p.sums == SL_LT_F16) {
                static_cast<__half *>(p.d)[at] = __float2half(sum[i][j] * (1 / SL_CUDA_GLU_SCALE));
            } else if (p.sums == SL_LT_BF16) {
                static_cast<__nv_bfloat16 *>(p.d)[at] = __float2bfloat16(sum[i][j]);
            } else {
                float *to = static_cast<float *>(p.d) + at;
                *to = p.add ? *to + sum[i][j] : sum[i][j];
            }
        }
}

} // namespace

extern "C" void sl_cuda_plain(struct sl_cuda *c, const struct sl_cuda_weight *w,
                              const struct sl_cuda_plain *p)
{
    if (p->n <= 0 || p->m <= 0) return;
    dim3 grid((unsigned)((p->m + TILE - 1) / TILE), (unsigned)((p->n + TILE - 1) / TILE));
    sl_launch(c, plain, grid, THREADS, 0, *w, *p);
}
