/* quantize.cu - product rows made ready for the tensor cores: as E4M3 with a scale per row or per
 * 128 columns, and with their columns in the order of a GPTQ act-order weight.
 *
 * One block per row keeps the row in registers between the search for its largest element and the
 * conversion, so rows are read once: 3 bytes of traffic per element. */
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "base/sl_assert.h"
#include "kernels/cuda/gemm_steps.h"
#include "kernels/cuda/launch.cuh"

#define E4M3_MAX 448.0f
#define PIECE 8 /* halfs of one 16-byte load */

static __device__ __forceinline__ const uint4 *row_halfs(const void *x, int64_t stride, int64_t i)
{
    return reinterpret_cast<const uint4 *>(static_cast<const char *>(x) + i * stride +
                                           SL_CUDA_ROW_HEAD);
}

static __device__ __forceinline__ float row_scale(const void *x, int64_t stride, int64_t i)
{
    return *reinterpret_cast<const float *>(static_cast<const char *>(x) + i * stride);
}

static __device__ __forceinline__ __half2 as_half2(uint32_t u)
{
    return *reinterpret_cast<__half2 *>(&u);
}

/* The largest magnitude of eight halfs, in both halves of the result's maximum so far. */
static __device__ __forceinline__ __half2 largest(uint4 v, __half2 top)
{
    top = __hmax2(top, __habs2(as_half2(v.x)));
    top = __hmax2(top, __habs2(as_half2(v.y)));
    top = __hmax2(top, __habs2(as_half2(v.z)));
    return __hmax2(top, __habs2(as_half2(v.w)));
}

static __device__ __forceinline__ uint32_t codes4(uint32_t lo, uint32_t hi, float by)
{
    float2 a = __half22float2(as_half2(lo)), b = __half22float2(as_half2(hi));
    uint32_t p =
        __nv_cvt_float2_to_fp8x2(make_float2(a.x * by, a.y * by), __NV_SATFINITE, __NV_E4M3);
    uint32_t q =
        __nv_cvt_float2_to_fp8x2(make_float2(b.x * by, b.y * by), __NV_SATFINITE, __NV_E4M3);
    return p | q << 16;
}

static __device__ __forceinline__ uint2 codes8(uint4 v, float by)
{
    return make_uint2(codes4(v.x, v.y, by), codes4(v.z, v.w, by));
}

/* One block per row; a thread holds N pieces of it. */
template <int N>
static __global__ void quantize_row(const void *x, int64_t stride, int pieces, uint2 *codes,
                                    float *scales)
{
    __shared__ float tops[32];
    sl_next();
    sl_wait();
    int64_t i = blockIdx.x;
    const uint4 *in = row_halfs(x, stride, i);
    uint4 v[N];
    __half2 top2 = __float2half2_rn(0);
#pragma unroll
    for (int j = 0; j < N; j++) {
        int p = j * blockDim.x + threadIdx.x;
        v[j] = p < pieces ? in[p] : make_uint4(0, 0, 0, 0);
        top2 = largest(v[j], top2);
    }
    float top = fmaxf(__low2float(top2), __high2float(top2));
#pragma unroll
    for (int s = 16; s; s >>= 1) top = fmaxf(top, __shfl_xor_sync(~0u, top, s));
    if (threadIdx.x % 32 == 0) tops[threadIdx.x / 32] = top;
    __syncthreads();
    for (int w = 0; w < blockDim.x / 32; w++) top = fmaxf(top, tops[w]);
    float by = top > 0 ? E4M3_MAX / top : 0;
    if (threadIdx.x == 0) scales[i] = top > 0 ? row_scale(x, stride, i) * (top / E4M3_MAX) : 0;
#pragma unroll
    for (int j = 0; j < N; j++) {
        int p = j * blockDim.x + threadIdx.x;
        if (p < pieces) codes[i * pieces + p] = codes8(v[j], by);
    }
}

extern "C" void sl_cuda_quantize_rows(struct sl_cuda *c, const void *x, int n, int64_t cols,
                                      void *codes, float *scales)
{
    if (n <= 0) return;
    int64_t stride = sl_cuda_row_stride(cols);
    int pieces = (int)(sl_cuda_pad(cols) / PIECE);
    uint2 *out = static_cast<uint2 *>(codes);
    int threads = pieces <= 256 ? 128 : pieces <= 1024 ? 256 : pieces <= 4096 ? 512 : 1024;
    int each = (pieces + threads - 1) / threads;
    SL_ASSERT(each <= 16);
    auto kernel = each <= 2   ? quantize_row<2>
                  : each <= 4 ? quantize_row<4>
                  : each <= 8 ? quantize_row<8>
                              : quantize_row<16>;
    sl_launch(c, kernel, n, threads, 0, x, stride, pieces, out, scales);
}

/* A warp takes 256 columns of one row: each half of it one block of 128. Eight rows a thread block,
 * so that the eight scales of a column block fill a sector. */
#define BLOCK_ROWS 8
static __global__ void quantize_block(const void *x, int64_t stride, int n, int n_padded,
                                      int pieces, uint2 *codes, float *scales)
{
    sl_next();
    sl_wait();
    int i = blockIdx.x * BLOCK_ROWS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (i >= n_padded) return;
    const uint4 *in = row_halfs(x, stride, i);
    float scale = i < n ? row_scale(x, stride, i) : 0;
    for (int p = blockIdx.y * 32 + lane; p - lane < pieces; p += gridDim.y * 32) {
        uint4 v = i < n && p < pieces ? in[p] : make_uint4(0, 0, 0, 0);
        __half2 top2 = largest(v, __float2half2_rn(0));
        float top = fmaxf(__low2float(top2), __high2float(top2));
#pragma unroll
        for (int s = 8; s; s >>= 1) top = fmaxf(top, __shfl_xor_sync(~0u, top, s));
        if (p >= pieces) continue;
        float by = top > 0 ? E4M3_MAX / top : 0;
        codes[static_cast<int64_t>(i) * pieces + p] = codes8(v, by);
        if (p % 16 == 0)
            scales[static_cast<int64_t>(p / 16) * n_padded + i] = scale * (top / E4M3_MAX);
    }
}

extern "C" void sl_cuda_quantize_blocks(struct sl_cuda *c, const void *x, int n, int n_padded,
                                        int64_t cols, void *codes, float *scales)
{
    if (n <= 0) return;
    int pieces = (int)(sl_cuda_pad(cols) / PIECE), across = (pieces + 127) / 128;
    dim3 grid((n_padded + BLOCK_ROWS - 1) / BLOCK_ROWS, across);
    sl_launch(c, quantize_block, grid, BLOCK_ROWS * 32, 0, x, sl_cuda_row_stride(cols), n, n_padded,
              pieces, static_cast<uint2 *>(codes), scales);
}

static __global__ void gather_row(const char *x, int64_t stride, int cols, int padded,
                                  const int32_t *order, char *out)
{
    sl_next();
    sl_wait();
    const char *from = x + blockIdx.x * stride;
    char *to = out + blockIdx.x * stride;
    const __half *in = reinterpret_cast<const __half *>(from + SL_CUDA_ROW_HEAD);
    __half *made = reinterpret_cast<__half *>(to + SL_CUDA_ROW_HEAD);
    if (threadIdx.x == 0) *reinterpret_cast<float *>(to) = *reinterpret_cast<const float *>(from);
    for (int k = threadIdx.x; k < padded; k += blockDim.x)
        made[k] = k < cols ? in[order[k]] : __float2half(0);
}

extern "C" void sl_cuda_gather_rows(struct sl_cuda *c, const void *x, int n, int64_t cols,
                                    const int32_t *order, void *out)
{
    if (n <= 0) return;
    sl_launch(c, gather_row, n, 512, 0, static_cast<const char *>(x), sl_cuda_row_stride(cols),
              (int)cols, (int)sl_cuda_pad(cols), order, static_cast<char *>(out));
}

static __global__ void copy_grid(const float *grid, int stride, int blocks, int padded,
                                 const float *row, float *out)
{
    sl_next();
    sl_wait();
    for (int j = threadIdx.x; j < padded; j += blockDim.x)
        out[blockIdx.x * padded + j] = j < blocks
                                           ? grid[static_cast<int64_t>(blockIdx.x) * stride + j] *
                                                 row[blockIdx.x * SL_FP8_BLOCK]
                                           : 0;
}

extern "C" void sl_cuda_grid(struct sl_cuda *c, const struct sl_cuda_weight *w, float *out)
{
    int blocks = (w->cols + SL_FP8_BLOCK - 1) / SL_FP8_BLOCK;
    sl_launch(c, copy_grid, (w->rows + SL_FP8_BLOCK - 1) / SL_FP8_BLOCK, 64, 0,
              static_cast<const float *>(w->scale), w->grid_stride, blocks, (blocks + 3) / 4 * 4,
              w->row, out);
}
