/* wire.cu - activations to the format of the wire and back: a block per row, four elements per
 * thread and round where the width allows it.
 *
 * The numbers are those of the stages on CPUs (model/encode.h), bit for bit: BF16 to nearest, ties
 * to even; E4M3 with the scale max / 448, divided exactly. */
#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "base/sl_assert.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/wire.h"

namespace {

constexpr int THREADS = 256;
constexpr float E4M3_MAX = 448;
constexpr float SCALE_MIN = 0x1p-126f; /* the least one whose reciprocal arithmetic is exact */

template <int W> struct piece {
    float v[W];
};

template <int W> static __device__ __forceinline__ piece<W> load(const float *x, int i)
{
    piece<W> p;
    if constexpr (W == 4) {
        float4 f = reinterpret_cast<const float4 *>(x)[i];
        p.v[0] = f.x, p.v[1] = f.y, p.v[2] = f.z, p.v[3] = f.w;
    } else {
        p.v[0] = x[i];
    }
    return p;
}

template <int W> static __device__ __forceinline__ void store(float *x, int i, const piece<W> &p)
{
    if constexpr (W == 4)
        reinterpret_cast<float4 *>(x)[i] = make_float4(p.v[0], p.v[1], p.v[2], p.v[3]);
    else
        x[i] = p.v[0];
}

/* W elements of T at once. */
template <typename T, int W> struct alignas(sizeof(T) * W) group {
    T v[W];
};

template <int W>
static __global__ void pack_bf16(const float *x, int cols, __nv_bfloat16 *out)
{
    sl_wait();
    sl_next();
    const float *from = x + (int64_t)blockIdx.x * cols;
    group<__nv_bfloat16, W> *to =
        reinterpret_cast<group<__nv_bfloat16, W> *>(out + (int64_t)blockIdx.x * cols);
    for (int i = threadIdx.x; i < cols / W; i += THREADS) {
        piece<W> p = load<W>(from, i);
        group<__nv_bfloat16, W> g;
#pragma unroll
        for (int k = 0; k < W; k++) g.v[k] = __float2bfloat16_rn(p.v[k]);
        to[i] = g;
    }
}

template <int W>
static __global__ void unpack_bf16(const __nv_bfloat16 *in, int cols, float *x)
{
    sl_wait();
    sl_next();
    const group<__nv_bfloat16, W> *from =
        reinterpret_cast<const group<__nv_bfloat16, W> *>(in + (int64_t)blockIdx.x * cols);
    float *to = x + (int64_t)blockIdx.x * cols;
    for (int i = threadIdx.x; i < cols / W; i += THREADS) {
        group<__nv_bfloat16, W> g = from[i];
        piece<W> p;
#pragma unroll
        for (int k = 0; k < W; k++) p.v[k] = __bfloat162float(g.v[k]);
        store<W>(to, i, p);
    }
}

/* The largest magnitude of a row, in every thread; NaN counts as nothing. */
template <int W> static __device__ __forceinline__ float row_max(const float *x, int cols)
{
    __shared__ float part[THREADS / 32];
    float top = 0;
    for (int i = threadIdx.x; i < cols / W; i += THREADS) {
        piece<W> p = load<W>(x, i);
#pragma unroll
        for (int k = 0; k < W; k++) top = fmaxf(top, fabsf(p.v[k]));
    }
#pragma unroll
    for (int s = 16; s; s >>= 1) top = fmaxf(top, __shfl_xor_sync(~0u, top, s));
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = top;
    __syncthreads();
    for (int w = 0; w < THREADS / 32; w++) top = fmaxf(top, part[w]);
    return top;
}

template <int W>
static __global__ void pack_e4m3(const float *x, int cols, float *scales, uint8_t *codes)
{
    sl_wait();
    sl_next();
    const float *from = x + (int64_t)blockIdx.x * cols;
    group<uint8_t, W> *to =
        reinterpret_cast<group<uint8_t, W> *>(codes + (int64_t)blockIdx.x * cols);
    float top = row_max<W>(from, cols);
    float scale = top > 0 ? fmaxf(__fdiv_rn(top, E4M3_MAX), SCALE_MIN) : 1;
    if (threadIdx.x == 0) scales[blockIdx.x] = scale;
    for (int i = threadIdx.x; i < cols / W; i += THREADS) {
        piece<W> p = load<W>(from, i);
        group<uint8_t, W> g;
#pragma unroll
        for (int k = 0; k < W; k++)
            g.v[k] = __nv_cvt_float_to_fp8(__fdiv_rn(p.v[k], scale), __NV_SATFINITE, __NV_E4M3);
        to[i] = g;
    }
}

template <int W>
static __global__ void unpack_e4m3(const float *scales, const uint8_t *codes, int cols, float *x)
{
    sl_wait();
    sl_next();
    const group<uint8_t, W> *from =
        reinterpret_cast<const group<uint8_t, W> *>(codes + (int64_t)blockIdx.x * cols);
    float *to = x + (int64_t)blockIdx.x * cols, scale = scales[blockIdx.x];
    for (int i = threadIdx.x; i < cols / W; i += THREADS) {
        group<uint8_t, W> g = from[i];
        piece<W> p;
#pragma unroll
        for (int k = 0; k < W; k++)
            p.v[k] = scale * __half2float(__nv_cvt_fp8_to_halfraw(g.v[k], __NV_E4M3));
        store<W>(to, i, p);
    }
}

} // namespace

void sl_cuda_pack(struct sl_cuda *c, enum sl_dtype type, const float *x, int n, int cols, void *out)
{
    auto launch = [&](auto kernel, auto... args) {
        sl_launch(c, kernel, dim3(n), dim3(THREADS), 0, x, cols, args...);
    };
    int wide = cols % 4 == 0;
    if (n == 0 || cols == 0) return;
    if (type == SL_F32) {
        cudaMemcpyAsync(out, x, sizeof(*x) * (size_t)n * (size_t)cols, cudaMemcpyDeviceToDevice,
                        c->stream);
    } else if (type == SL_BF16) {
        launch(wide ? pack_bf16<4> : pack_bf16<1>, static_cast<__nv_bfloat16 *>(out));
    } else {
        SL_ASSERT(type == SL_F8_E4M3);
        float *scales = static_cast<float *>(out);
        launch(wide ? pack_e4m3<4> : pack_e4m3<1>, scales, reinterpret_cast<uint8_t *>(scales + n));
    }
}

void sl_cuda_unpack(struct sl_cuda *c, enum sl_dtype type, const void *in, int n, int cols,
                    float *x)
{
    auto launch = [&](auto kernel, auto... args) {
        sl_launch(c, kernel, dim3(n), dim3(THREADS), 0, args..., cols, x);
    };
    int wide = cols % 4 == 0;
    if (n == 0 || cols == 0) return;
    if (type == SL_F32) {
        cudaMemcpyAsync(x, in, sizeof(*x) * (size_t)n * (size_t)cols, cudaMemcpyDeviceToDevice,
                        c->stream);
    } else if (type == SL_BF16) {
        launch(wide ? unpack_bf16<4> : unpack_bf16<1>, static_cast<const __nv_bfloat16 *>(in));
    } else {
        SL_ASSERT(type == SL_F8_E4M3);
        const float *scales = static_cast<const float *>(in);
        launch(wide ? unpack_e4m3<4> : unpack_e4m3<1>, scales,
               reinterpret_cast<const uint8_t *>(scales + n));
    }
}
