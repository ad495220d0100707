/* attention_mma.cuh - the instructions that attention is made of: asynchronous copies into shared
 * memory, matrix fragments, the 16 x 8 x 16 half product (PTX ISA, "Warp Level Matrix"), and the
 * types that caches hold.
 *
 * Everything multiplies halfs: other cache types are brought to halfs on the way into fragments.
 * Keys and values of BF16 and F32 caches beyond 65504 saturate. */
#ifndef SL_KERNELS_CUDA_ATTENTION_MMA_CUH
#define SL_KERNELS_CUDA_ATTENTION_MMA_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "base/sl_assert.h"
#include "kernels/cuda/launch.cuh"

#define SL_LOG2E 1.4426950408889634f
#define SL_HALF_MAX 65504.0f
#define SL_SMEM_PAD 8 /* halfs behind each row of 16-byte pieces: rows begin in different banks */

/* ---- launch ---------------------------------------------------------------------------------- */

/* Lets a kernel have `bytes` of dynamic shared memory, and asks for the split between cache and
 * shared memory that lets most of its blocks live on a multiprocessor. Kernels in a row should ask
 * for the same: another split waits until a multiprocessor is empty. */
template <typename... P> static inline void claim_smem(void (*kernel)(P...), int bytes)
{
    if (bytes > 48 << 10)
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                         cudaSharedmemCarveoutMaxShared);
}

/* ---- copies ---------------------------------------------------------------------------------- */

static __device__ __forceinline__ uint32_t smem_at(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 (or 8) bytes; zeros where !ok (nothing is read then, but src must be an address). */
static __device__ __forceinline__ void copy16(uint32_t dst, const void *src, bool ok)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(src),
                 "r"(ok ? 16 : 0)
                 : "memory");
}

static __device__ __forceinline__ void copy8(uint32_t dst, const void *src, bool ok)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(dst), "l"(src),
                 "r"(ok ? 8 : 0)
                 : "memory");
}

static __device__ __forceinline__ void copies_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until at most n of this thread's groups are under way. */
template <int n> static __device__ __forceinline__ void copies_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

/* ---- fragments ------------------------------------------------------------------------------- */

/* Four 8 x 8 matrices of halfs; lanes 8i..8i+7 give the addresses of matrix i's rows. */
static __device__ __forceinline__ void load4(uint32_t (&r)[4], uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

static __device__ __forceinline__ void load4_turned(uint32_t (&r)[4], uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

/* An 8 x 8 matrix of halfs in a warp's registers, turned. */
static __device__ __forceinline__ uint32_t turned(uint32_t x)
{
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

/* d[16][8] += a[16][16] b[16][8]. */
static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ uint32_t pack(float low, float high)
{
    __half2 h = __floats2half2_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&h);
}

static __device__ __forceinline__ uint32_t pack_saturated(float low, float high)
{
    return pack(fminf(fmaxf(low, -SL_HALF_MAX), SL_HALF_MAX),
                fminf(fmaxf(high, -SL_HALF_MAX), SL_HALF_MAX));
}

/* 2^x, 0 for minus infinity. */
static __device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* cap * tanh(x / cap); good to a few units of float32's last place of cap. */
static __device__ __forceinline__ float softened(float x, float cap)
{
    float e = exp2_fast(2 * SL_LOG2E * x / cap);
    return cap * (1 - __fdividef(2.0f, 1 + fminf(e, 1e30f)));
}

/* The power of two that brings `top` into [1, 2) when divided by it; 1 for 0 and what is not a
 * number. */
static __device__ __forceinline__ float magnitude(float top)
{
    uint32_t bits = __float_as_uint(top) & 0x7f800000u;
    return bits == 0 || bits == 0x7f800000u ? 1.0f : __uint_as_float(bits);
}

template <int lanes> static __device__ __forceinline__ float lanes_max(float x)
{
#pragma unroll
    for (int i = lanes / 2; i; i /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, i));
    return x;
}

template <int lanes> static __device__ __forceinline__ float lanes_sum(float x)
{
#pragma unroll
    for (int i = lanes / 2; i; i /= 2) x += __shfl_xor_sync(~0u, x, i);
    return x;
}

/* ---- cache types ----------------------------------------------------------------------------- */

struct kv_f16 {
    typedef __half type;
    static const int bytes = 2;
    static __device__ type from(float x)
    {
        return __float2half_rn(fminf(fmaxf(x, -SL_HALF_MAX), SL_HALF_MAX));
    }
};

struct kv_bf16 {
    typedef __nv_bfloat16 type;
    static const int bytes = 2;
    static __device__ type from(float x)
    {
        return __float2bfloat16_rn(x);
    }
    /* 8 elements at p as 8 halfs */
    static __device__ uint4 halfs(const char *p)
    {
        uint4 in = *reinterpret_cast<const uint4 *>(p);
        return make_uint4(two(in.x), two(in.y), two(in.z), two(in.w));
    }
    static __device__ uint32_t two(uint32_t x)
    {
        return pack_saturated(__uint_as_float(x << 16), __uint_as_float(x & 0xffff0000u));
    }
};

struct kv_f32 {
    typedef float type;
    static const int bytes = 4;
    static __device__ type from(float x)
    {
        return x;
    }
    static __device__ uint4 halfs(const char *p)
    {
        float4 a = reinterpret_cast<const float4 *>(p)[0],
               b = reinterpret_cast<const float4 *>(p)[1];
        return make_uint4(pack_saturated(a.x, a.y), pack_saturated(a.z, a.w),
                          pack_saturated(b.x, b.y), pack_saturated(b.z, b.w));
    }
};

struct kv_e4m3 {
    typedef uint8_t type;
    static const int bytes = 1;
    static __device__ type from(float x)
    {
        return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
    }
    static __device__ uint4 halfs(const char *p)
    {
        uint2 in = *reinterpret_cast<const uint2 *>(p);
        return make_uint4(two(in.x), two(in.x >> 16), two(in.y), two(in.y >> 16));
    }
    static __device__ uint32_t two(uint32_t x)
    {
        __half2_raw h = __nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)x, __NV_E4M3);
        return h.x | (uint32_t)h.y << 16;
    }
};

/* One element of a cache as a half, for rows that are no multiple of 8 elements. */
static __device__ __forceinline__ __half half_of(float x)
{
    return __float2half_rn(fminf(fmaxf(x, -SL_HALF_MAX), SL_HALF_MAX));
}
static __device__ __forceinline__ __half half_of(__half x)
{
    return x;
}
static __device__ __forceinline__ __half half_of(__nv_bfloat16 x)
{
    return half_of(__bfloat162float(x));
}
static __device__ __forceinline__ __half half_of(uint8_t x)
{
    return __half(__nv_cvt_fp8_to_halfraw(x, __NV_E4M3));
}

/* Calls f(type) with the struct above that stands for a cache's type. */
template <typename F> static inline void with_kv_type(enum sl_dtype type, F f)
{
    switch (type) {
    case SL_F32:
        f(kv_f32());
        break;
    case SL_BF16:
        f(kv_bf16());
        break;
    case SL_F8_E4M3:
        f(kv_e4m3());
        break;
    default:
        f(kv_f16());
    }
}

/* ---- where keys lie -------------------------------------------------------------------------- */

/* Tokens of a block, and 2^32 / tokens rounded up: positions times tokens below 2^32 are divided
 * exactly by one multiplication. */
struct kv_blocks {
    int tokens;
    uint32_t inverse;
};

static inline struct kv_blocks kv_blocks_of(int tokens)
{
    SL_ASSERT(tokens > 1);
    struct kv_blocks b = {
        tokens, (uint32_t)((((uint64_t)1 << 32) + (uint32_t)tokens - 1) / (uint32_t)tokens)};
    return b;
}

/* Row of the cache, in rows of one head, that holds a position. */
static __device__ __forceinline__ uint32_t kv_row(const int32_t *table, struct kv_blocks b,
                                                  int n_heads, int head, int pos)
{
    uint32_t block = __umulhi((uint32_t)pos, b.inverse);
    uint32_t in = (uint32_t)pos - block * (uint32_t)b.tokens;
    return ((uint32_t)table[block] * (uint32_t)n_heads + (uint32_t)head) * (uint32_t)b.tokens + in;
}

/* 8 lanes copy a row of row_bytes, FULL of them where the cache's rows are as long as the kernel's;
 * `lane` is one of the 8, `to` the row's place in shared memory. Zeros where !ok. */
template <int FULL>
static __device__ __forceinline__ void copy_row(uint32_t to, const char *from, int row_bytes,
                                                int lane, bool ok)
{
    if (row_bytes == FULL && FULL % 128 == 0) {
#pragma unroll
        for (int c = 0; c < FULL; c += 128) copy16(to + 16 * lane + c, from + 16 * lane + c, ok);
        return;
    }
    if (row_bytes % 16 == 0) {
#pragma unroll 1
        for (int c = 16 * lane; c < row_bytes; c += 128) copy16(to + c, from + c, ok);
    } else {
#pragma unroll 1
        for (int c = 8 * lane; c < row_bytes; c += 64) copy8(to + c, from + c, ok);
    }
}

/* ---- the rows that come out ------------------------------------------------------------------ */

/* Makes zero rows of those that have no sequence. `part` of `parts` takes its share of the rows;
 * called by all threads of a block. */
static __device__ __forceinline__ void zero_padding_rows(const int32_t *pos, int part, int parts,
                                                         int n_rows, char *out, int64_t row_bytes)
{
    int lane = threadIdx.x % 32, warps = (int)blockDim.x / 32;
    int warp = part * warps + (int)threadIdx.x / 32;
#pragma unroll 1
    for (int first = warp * 32; first < n_rows; first += 32 * warps * parts) {
        bool none = first + lane < n_rows && pos[first + lane] < 0;
        for (uint32_t rest = __ballot_sync(~0u, none); rest; rest &= rest - 1) {
            uint4 *row =
                reinterpret_cast<uint4 *>(out + (first + __ffs((int)rest) - 1) * row_bytes);
#pragma unroll 1
            for (int i = lane; i < row_bytes / 16; i += 32)
                row[i] = make_uint4(i == 0 ? 0x3f800000u : 0, 0, 0, 0); /* scale 1 */
        }
    }
}

#endif
