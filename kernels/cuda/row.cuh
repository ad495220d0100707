/* row.cuh - what kernels over whole rows share: pieces of floats, sums over a block, the scale and
 * the halfs of a product row (cuda.h). */
#ifndef SL_KERNELS_CUDA_ROW_CUH
#define SL_KERNELS_CUDA_ROW_CUH

#include <cuda_fp16.h>
#include <stdint.h>

#include "kernels/cuda/launch.cuh"

/* ---- pieces: V floats that one thread moves at once ------------------------------------------ */

template <int V> struct sl_piece {
    float v[V];
};

/* p + V*i, 16-byte aligned when V is more than 1. Written by an earlier kernel perhaps: no
 * read-only path. */
template <int V> static __device__ __forceinline__ sl_piece<V> sl_piece_load(const float *p)
{
    sl_piece<V> r;
    if constexpr (V % 4 == 0) {
#pragma unroll
        for (int i = 0; i < V; i += 4) {
            float4 f = *reinterpret_cast<const float4 *>(p + i);
            r.v[i] = f.x, r.v[i + 1] = f.y, r.v[i + 2] = f.z, r.v[i + 3] = f.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) r.v[i] = p[i];
    }
    return r;
}

template <int V>
static __device__ __forceinline__ void sl_piece_store(float *p, const sl_piece<V> &a)
{
    if constexpr (V % 4 == 0) {
#pragma unroll
        for (int i = 0; i < V; i += 4)
            *reinterpret_cast<float4 *>(p + i) =
                make_float4(a.v[i], a.v[i + 1], a.v[i + 2], a.v[i + 3]);
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) p[i] = a.v[i];
    }
}

/* The same as halfs; p is aligned to the 2*V bytes. */
template <int V>
static __device__ __forceinline__ void sl_piece_store_half(__half *p, const sl_piece<V> &a)
{
    if constexpr (V == 1) {
        *p = __float2half_rn(a.v[0]);
    } else {
        static_assert(V == 4 || V == 8, "8 or 16 bytes are stored at once");
        uint32_t w[V / 2];
#pragma unroll
        for (int i = 0; i < V; i += 2) {
            __half2 h = __floats2half2_rn(a.v[i], a.v[i + 1]);
            w[i / 2] = *reinterpret_cast<uint32_t *>(&h);
        }
        if constexpr (V == 4)
            *reinterpret_cast<uint2 *>(p) = make_uint2(w[0], w[1]);
        else
            *reinterpret_cast<uint4 *>(p) = make_uint4(w[0], w[1], w[2], w[3]);
    }
}

/* Whether rows of `stride` floats from each pointer can be moved in pieces of V. */
template <typename... P> static inline bool sl_in_pieces(int V, int64_t stride, P... pointers)
{
    uintptr_t all = 0;
    for (const void *p : {static_cast<const void *>(pointers)...}) all |= (uintptr_t)p;
    return stride % V == 0 && all % 16 == 0;
}

/* ---- sums over a block ----------------------------------------------------------------------- */

struct sl_sum_max {
    float sum, max;
};

static __device__ __forceinline__ sl_sum_max sl_warp_sum_max(sl_sum_max a)
{
#pragma unroll
    for (int d = 16; d; d /= 2) {
        a.sum += __shfl_xor_sync(~0u, a.sum, d);
        a.max = fmaxf(a.max, __shfl_xor_sync(~0u, a.max, d));
    }
    return a;
}

/* Sum and maximum over all threads of the block, the same bits in every thread: each warp adds the
 * warps' sums again in the same order, which saves a second barrier. Once per kernel. */
static __device__ __forceinline__ sl_sum_max sl_block_sum_max(sl_sum_max a)
{
    __shared__ sl_sum_max part[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    a = sl_warp_sum_max(a);
    if (lane == 0) part[warp] = a;
    __syncthreads();
    a = lane < (int)blockDim.x / 32 ? part[lane] : sl_sum_max{0, 0};
    return sl_warp_sum_max(a);
}

/* ---- product rows ---------------------------------------------------------------------------- */

/* The power of two by which a row with this largest magnitude is divided: halfs then stay below
 * 2^14, two bits under their limit, and what is 2^-27 of the largest still has all its bits. */
struct sl_row_scale {
    float scale, inverse;
};

static __device__ __forceinline__ sl_row_scale sl_row_scale_of(float max)
{
    int e = (int)(__float_as_uint(max) >> 23 & 0xff) - 13;
    if (max == 0) e = 127; /* 1: nothing to scale */
    if (e < 1) e = 1;      /* the smallest normal one */
    return {__uint_as_float((uint32_t)e << 23), __uint_as_float((uint32_t)(254 - e) << 23)};
}

static __device__ __forceinline__ float *sl_row_head(void *rows, int64_t row, int64_t cols)
{
    return reinterpret_cast<float *>((char *)rows + row * sl_cuda_row_stride(cols));
}

static __device__ __forceinline__ const float *sl_row_head(const void *rows, int64_t row,
                                                           int64_t cols)
{
    return reinterpret_cast<const float *>((const char *)rows + row * sl_cuda_row_stride(cols));
}

static __device__ __forceinline__ __half *sl_row_halfs(float *head)
{
    return reinterpret_cast<__half *>((char *)head + SL_CUDA_ROW_HEAD);
}

static __device__ __forceinline__ const __half *sl_row_halfs(const float *head)
{
    return reinterpret_cast<const __half *>((const char *)head + SL_CUDA_ROW_HEAD);
}

#endif
