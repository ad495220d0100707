/* quantize_fp4.cu - product rows made ready for tensor cores that multiply 4- and 8-bit floats with
 * block scales: one block a row, sixteen elements a thread. The formats are said in matmul_fp4.h;
 * tests/gpu/test_fp4.c has the same in plain C and compares bytes.
 *
 * Divisions and conversions round to nearest even, as IEEE 754 and OCP Microscaling Formats 1.0
 * say, so that bytes are the same on every card. */
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "base/sl_assert.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_fp4.h"

#define THREADS 256
#define PIECE 16 /* elements of a thread */
#define HALF_INF 0x7c00
#define E2M1_MAX 6.0f
#define E4M3_MAX 448.0f

struct piece {
    __half2 h[PIECE / 2];
};

static __device__ __forceinline__ struct piece piece_read(const char *halfs, int at)
{
    struct piece p;
    uint4 *to = reinterpret_cast<uint4 *>(&p);
    const uint4 *from = reinterpret_cast<const uint4 *>(halfs) + 2 * (int64_t)at;
    to[0] = from[0];
    to[1] = from[1];
    return p;
}

/* The largest magnitude as the bits of a half: a NaN is larger than an infinity. */
static __device__ __forceinline__ uint32_t piece_top(const struct piece &p)
{
    uint32_t top = 0;
#pragma unroll
    for (int i = 0; i < PIECE / 2; i++) {
        uint32_t bits = *reinterpret_cast<const uint32_t *>(&p.h[i]) & 0x7fff7fff;
        top = max(top, max(bits & 0xffff, bits >> 16));
    }
    return top;
}

static __device__ __forceinline__ float half_value(uint32_t bits)
{
    return __half2float(__ushort_as_half((unsigned short)bits));
}

/* The largest of the block's values, in every thread. */
static __device__ uint32_t block_top(uint32_t top)
{
    __shared__ uint32_t tops[THREADS / 32];
    top = __reduce_max_sync(0xffffffff, top);
    if (threadIdx.x % 32 == 0) tops[threadIdx.x / 32] = top;
    __syncthreads();
    for (int i = 0; i < THREADS / 32; i++) top = max(top, tops[i]);
    return top;
}

/* Nearest E2M1; halfway goes to the even code, more than 6 to 6. */
static __device__ __forceinline__ uint32_t to_e2m1(float v)
{
    float m = fabsf(v);
    uint32_t code = (uint32_t)(m > 0.25f) + (m >= 0.75f) + (m > 1.25f) + (m >= 1.75f) + (m > 2.5f) +
                    (m >= 3.5f) + (m > 5.0f);
    return code | (__float_as_uint(v) >> 31 << 3);
}

static __device__ __forceinline__ uint32_t to_e4m3(float v)
{
    return __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3);
}

static __device__ __forceinline__ float from_e4m3(uint32_t code)
{
    return __half2float(__half(__nv_cvt_fp8_to_halfraw((__nv_fp8_storage_t)code, __NV_E4M3)));
}

/* Exponent byte of the least power of two not below top / most; 255 when top is no number. */
static __device__ __forceinline__ uint32_t to_e8m0(uint32_t top, float most)
{
    if (top >= HALF_INF) return 255;
    if (top == 0) return 127;
    uint32_t bits = __float_as_uint(__fdiv_rn(half_value(top), most));
    return (bits >> 23) + ((bits & 0x7fffff) != 0);
}

/* Sixteen elements divided by `by`, as E2M1: 8 bytes; elements of a group without scale are 0. */
static __device__ __forceinline__ uint2 codes4(const struct piece &p, float by)
{
    uint32_t w[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < PIECE / 2; i++) {
        float2 v = __half22float2(p.h[i]);
        uint32_t lo = by > 0 ? to_e2m1(__fdiv_rn(v.x, by)) : 0;
        uint32_t hi = by > 0 ? to_e2m1(__fdiv_rn(v.y, by)) : 0;
        w[i / 4] |= (lo | hi << 4) << 8 * (i % 4);
    }
    return make_uint2(w[0], w[1]);
}

/* Sixteen elements times `by`, as E4M3. */
static __device__ __forceinline__ void codes8(const struct piece &p, float by, uint32_t w[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 a = __half22float2(p.h[2 * i]), b = __half22float2(p.h[2 * i + 1]);
        w[i] = to_e4m3(a.x * by) | to_e4m3(a.y * by) << 8 | to_e4m3(b.x * by) << 16 |
               to_e4m3(b.y * by) << 24;
    }
}

/* A's nibbles of one lane, k 8t..8t+7, come apart into the even ones (register a0, which meets b0)
 * and the odd ones (a2, b1): so the bytes of B lie. `codes`: the row's 32 bytes, `half`: which 16
 * of k these are. */
static __device__ __forceinline__ void store_apart(uint8_t *codes, int half, const uint32_t w[4])
{
    uint2 even = make_uint2(__byte_perm(w[0], w[1], 0x6420), __byte_perm(w[2], w[3], 0x6420));
    uint2 odd = make_uint2(__byte_perm(w[0], w[1], 0x7531), __byte_perm(w[2], w[3], 0x7531));
    *reinterpret_cast<uint2 *>(codes + 8 * half) = even;
    *reinterpret_cast<uint2 *>(codes + 16 + 8 * half) = odd;
}

/* The row's factor from its largest magnitude. */
template <enum sl_mma_kind KIND> static __device__ __forceinline__ float factor(uint32_t top)
{
    if (KIND == SL_MMA_NVFP4) return __fdiv_rn(half_value(top), E2M1_MAX * E4M3_MAX);
    if (KIND == SL_MMA_FP8) return __fdiv_rn(half_value(top), E4M3_MAX);
    return 1;
}

template <enum sl_mma_kind KIND>
static __device__ __forceinline__ void quantize(const struct piece &p, int at, float g,
                                                uint32_t top, uint8_t *scale, uint8_t *code)
{
    uint32_t mine = piece_top(p), w[4];
    if (KIND == SL_MMA_FP8) {
        codes8(p, top ? __fdiv_rn(E4M3_MAX, half_value(top)) : 0, w);
        *reinterpret_cast<uint4 *>(code + 16 * (int64_t)at) = make_uint4(w[0], w[1], w[2], w[3]);
        return;
    }
    if (KIND == SL_MMA_NVFP4) {
        uint32_t s = top ? to_e4m3(__fdiv_rn(half_value(mine), E2M1_MAX * g)) : 0;
        scale[at] = (uint8_t)s;
        *reinterpret_cast<uint2 *>(code + 8 * (int64_t)at) = codes4(p, g * from_e4m3(s));
        return;
    }
    uint32_t pair = 3u << (threadIdx.x % 32 & 30); /* two threads have a group */
    mine = max(mine, __shfl_xor_sync(pair, mine, 1));
    uint32_t e = to_e8m0(mine, KIND == SL_MMA_MXFP4 ? E2M1_MAX : E4M3_MAX);
    if (at % 2 == 0) scale[at / 2] = (uint8_t)e;
    if (KIND == SL_MMA_MXFP4) {
        float by = e == 255 ? 0 : __uint_as_float(e << 23);
        *reinterpret_cast<uint2 *>(code + 8 * (int64_t)at) = codes4(p, by);
        return;
    }
    codes8(p, e == 255 ? 0 : __uint_as_float((254 - e) << 23), w);
    if (KIND == SL_MMA_MXFP4_A8) {
        store_apart(code + 32 * (int64_t)(at / 2), at % 2, w);
        return;
    }
    *reinterpret_cast<uint4 *>(code + 16 * (int64_t)at) = make_uint4(w[0], w[1], w[2], w[3]);
}

template <enum sl_mma_kind KIND>
static __global__ void __launch_bounds__(THREADS)
    quantize_kernel(const char *x, int64_t stride, int pieces, struct sl_mma_rows r)
{
    sl_wait();
    sl_next();
    int64_t i = blockIdx.x;
    const char *halfs = x + i * stride + SL_CUDA_ROW_HEAD;
    uint8_t *code = r.code + i * r.code_stride;
    uint8_t *scale = KIND == SL_MMA_FP8 ? nullptr : r.scale + i * r.scale_stride;
    uint32_t top = 0;
    if (KIND == SL_MMA_NVFP4 || KIND == SL_MMA_FP8) {
        for (int at = (int)threadIdx.x; at < pieces; at += THREADS)
            top = max(top, piece_top(piece_read(halfs, at)));
        top = block_top(top);
    }
    float g = factor<KIND>(top);
    for (int at = (int)threadIdx.x; at < pieces; at += THREADS)
        quantize<KIND>(piece_read(halfs, at), at, g, top, scale, code);
    if (threadIdx.x == 0) r.row[i] = g * *reinterpret_cast<const float *>(x + i * stride);
}

/* ---- where rows lie ----------------------------------------------------------------------------
 */

static int64_t pieces256(int64_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

static int bits(enum sl_mma_kind kind)
{
    return kind == SL_MMA_NVFP4 || kind == SL_MMA_MXFP4 ? 4 : 8;
}

extern "C" struct sl_mma_rows sl_cuda_mma_rows_at(enum sl_mma_kind kind, int64_t n, int64_t cols,
                                                  void *memory)
{
    struct sl_mma_rows r = {};
    int64_t padded = sl_cuda_pad(cols);
    r.kind = kind;
    r.cols = cols;
    r.code_stride = padded * bits(kind) / 8;
    r.scale_stride = kind == SL_MMA_FP8 ? 0 : (padded / sl_mma_group(kind) + 3) / 4 * 4;
    uint8_t *at = static_cast<uint8_t *>(memory);
    r.row = reinterpret_cast<float *>(at);
    r.scale = at + pieces256(n * (int64_t)sizeof(float));
    r.code = r.scale + pieces256(n * r.scale_stride);
    return r;
}

extern "C" size_t sl_cuda_mma_rows_bytes(enum sl_mma_kind kind, int64_t n, int64_t cols)
{
    struct sl_mma_rows r = sl_cuda_mma_rows_at(kind, n, cols, nullptr);
    return (size_t)(pieces256(n * (int64_t)sizeof(float)) + pieces256(n * r.scale_stride) +
                    pieces256(n * r.code_stride));
}

extern "C" void sl_cuda_mma_rows(struct sl_cuda *c, const void *x, int n,
                                 const struct sl_mma_rows *r)
{
    static void (*const kernels[SL_MMA_KINDS])(const char *, int64_t, int, struct sl_mma_rows) = {
        quantize_kernel<SL_MMA_NVFP4>, quantize_kernel<SL_MMA_MXFP4>,
        quantize_kernel<SL_MMA_MXFP4_A8>, quantize_kernel<SL_MMA_MXFP8>,
        quantize_kernel<SL_MMA_FP8>};
    SL_ASSERT(n >= 0 && r->kind < SL_MMA_KINDS);
    if (n == 0) return;
    sl_launch(c, kernels[r->kind], (unsigned)n, THREADS, 0, x, sl_cuda_row_stride(r->cols),
              (int)(sl_cuda_pad(r->cols) / PIECE), *r);
}
