/* decode_tiles.cu - weights of any form decoded to halfs, for products that multiply halfs.
 *
 * A thread decodes 16 neighbours of one row: they share a scale (groups are 16 columns or more),
 * and 4-bit codes of a warp make 256 contiguous bytes. Arithmetic is float32 and rounds once.
 * Traffic is the codes plus two bytes per element; the instructions (about 8 per element) hide
 * behind it. */
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "base/sl_assert.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gemm_steps.h"
#include "kernels/cuda/launch.cuh"

namespace
{

constexpr int RUN = 16;              /* elements of a thread */
constexpr int ACROSS = 32, ROWS = 8; /* threads of a block: runs of a row, rows */
constexpr int SUPER = 256;           /* columns that share a half in the k-quants */

struct job {
    struct sl_cuda_weight w;
    int first, n; /* rows */
    int runs;     /* of a row */
    int groups, group_shift, supers;
    const float *top; /* row factors are divided by it and multiplied in; NULL: left out */
    uint4 *out;
};

static __device__ __forceinline__ float2 halfs(uint32_t u)
{
    return __half22float2(*reinterpret_cast<__half2 *>(&u));
}

static __device__ __forceinline__ uint32_t pack(float a, float b)
{
    __half2 h = __floats2half2_rn(a, b);
    return *reinterpret_cast<uint32_t *>(&h);
}

/* Integers below 2^23 without the slow conversion: the bits of 2^23 + q. Codes stay so until their
 * zero point is subtracted, exactly, from both at once. */
static __device__ __forceinline__ float raised(uint32_t q)
{
    return __uint_as_float(0x4b000000u | q);
}

static __device__ __forceinline__ float small(uint32_t q)
{
    return raised(q) - 8388608.0f;
}

/* What codes<CODE>() adds to, and divides out of, a code. */
template <int CODE> struct form {
    static constexpr bool whole = CODE >= SL_CUDA_U2;
    static constexpr float base = CODE == SL_CUDA_I8 ? 8388608 + 128 : whole ? 8388608 : 0;
    static constexpr float factor = CODE == SL_CUDA_E2M1 ? 16384 : 1;
};

template <typename T> static __device__ __forceinline__ T at(const void *p, int64_t offset)
{
    return __ldg(reinterpret_cast<const T *>(static_cast<const char *>(p) + offset));
}

/* What a run's codes and tables are in memory: read for several rows before any is decoded. */
template <int CODE> struct raw {
    static constexpr int bytes =
        CODE == SL_CUDA_F32                        ? 64
        : CODE == SL_CUDA_F16                      ? 32
        : CODE == SL_CUDA_U2 || CODE == SL_CUDA_U3 ? 4
        : CODE == SL_CUDA_E4M3 || CODE == SL_CUDA_E5M2 || CODE == SL_CUDA_I8 || CODE == SL_CUDA_U8
            ? 16
            : 8;
    uint32_t u[bytes / 4], h;

    __device__ __forceinline__ void load(const job &j, int64_t r, int run)
    {
        const char *from = static_cast<const char *>(j.w.code) + r * j.w.code_stride + run * bytes;
        if constexpr (bytes >= 16) {
#pragma unroll
            for (int i = 0; i < bytes / 16; i++) {
                uint4 q = at<uint4>(from, 16 * i);
                u[4 * i] = q.x, u[4 * i + 1] = q.y, u[4 * i + 2] = q.z, u[4 * i + 3] = q.w;
            }
        } else if constexpr (bytes == 8) {
            uint2 q = at<uint2>(from, 0);
            u[0] = q.x, u[1] = q.y;
        } else {
            u[0] = at<uint32_t>(from, 0);
        }
        h = 0;
        const char *high = static_cast<const char *>(j.w.high) + r * j.w.high_stride;
        if constexpr (CODE == SL_CUDA_U3 || CODE == SL_CUDA_U5) h = at<uint16_t>(high, run * 2);
        if constexpr (CODE == SL_CUDA_U6) h = at<uint32_t>(high, run * 4);
    }
};

/* The 16 codes of a run as numbers, before offset and zero point. */
template <int CODE>
static __device__ __forceinline__ void codes(const raw<CODE> &q, const float *lut, float *v)
{
    if constexpr (CODE == SL_CUDA_F16) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float2 f = halfs(q.u[i]);
            v[2 * i] = f.x, v[2 * i + 1] = f.y;
        }
    } else if constexpr (CODE == SL_CUDA_F32) {
#pragma unroll
        for (int i = 0; i < 16; i++) v[i] = __uint_as_float(q.u[i]);
    } else if constexpr (raw<CODE>::bytes == 16) {
#pragma unroll
        for (int i = 0; i < 16; i += 2) {
            uint32_t two = q.u[i / 4] >> (i % 4 * 8);
            if constexpr (CODE == SL_CUDA_E4M3) {
                __half2_raw h = __nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)two, __NV_E4M3);
                float2 f = __half22float2(*reinterpret_cast<__half2 *>(&h));
                v[i] = f.x, v[i + 1] = f.y;
            } else if constexpr (CODE == SL_CUDA_E5M2) { /* a half without its last byte */
                float2 f = halfs((two & 0xff) << 8 | (two & 0xff00) << 16);
                v[i] = f.x, v[i + 1] = f.y;
            } else { /* the sign bit of I8 turned over is +128 */
                uint32_t turn = CODE == SL_CUDA_I8 ? 0x80 : 0;
                v[i] = raised((two & 0xff) ^ turn), v[i + 1] = raised((two >> 8 & 0xff) ^ turn);
            }
        }
    } else if constexpr (CODE == SL_CUDA_U2 || CODE == SL_CUDA_U3) {
#pragma unroll
        for (int i = 0; i < 16; i++) v[i] = raised((q.u[0] >> (2 * i) & 3) | (q.h >> i & 1) << 2);
    } else if constexpr (CODE == SL_CUDA_E2M1) {
        /* Exponent and mantissa are the top of a half's, 2^-14 too small; codes 4 apart in a pair.
         */
#pragma unroll
        for (int i = 0; i < 16; i++) {
            if (i & 4) continue;
            uint32_t c = q.u[i / 8] >> (i % 4 * 4);
            float2 f = halfs((c & 0x00070007) << 9 | (c & 0x00080008) << 12);
            v[i] = f.x, v[i + 4] = f.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < 16; i++) {
            uint32_t c = q.u[i / 8] >> (i % 8 * 4) & 15;
            if constexpr (CODE == SL_CUDA_U5) c |= (q.h >> i & 1) << 4;
            if constexpr (CODE == SL_CUDA_U6) c |= (q.h >> (2 * i) & 3) << 4;
            v[i] = CODE == SL_CUDA_LUT4 ? lut[c] : raised(c);
        }
    }
}

static __device__ __forceinline__ float scale_of(const job &j, int64_t r, int64_t group,
                                                 int64_t super, int k)
{
    switch (j.w.scale_kind) {
    case SL_CUDA_SCALE_F16:
        return __half2float(at<__half>(j.w.scale, group * 2));
    case SL_CUDA_SCALE_UE4M3: {
        __half_raw h = __nv_cvt_fp8_to_halfraw(at<uint8_t>(j.w.scale, group), __NV_E4M3);
        return __half2float(h);
    }
    case SL_CUDA_SCALE_E8M0: {
        uint32_t e = at<uint8_t>(j.w.scale, group);
        return __uint_as_float(e == 0 ? 0x00400000u : e == 255 ? 0x7fc00000u : e << 23);
    }
    case SL_CUDA_SCALE_SUB_U:
        return small(at<uint8_t>(j.w.scale, group)) *
               __half2float(at<__half>(j.w.super, super * 2));
    case SL_CUDA_SCALE_SUB_I:
        return (float)at<signed char>(j.w.scale, group) *
               __half2float(at<__half>(j.w.super, super * 2));
    case SL_CUDA_SCALE_GRID:
        return at<float>(j.w.scale, 4 * (r / j.w.grid_rows * j.w.grid_stride + k / j.w.grid_cols));
    default:
        return 1;
    }
}

/* Scale, zero point and minimum of a run, and the row's factor. */
struct affine {
    float scale, zero, min, row;
};

template <int CODE>
static __device__ __forceinline__ affine tables(const job &j, int64_t r, int run)
{
    int k = run * RUN;
    int64_t group = r * j.groups + (k >> j.group_shift), super = r * j.supers + k / SUPER;
    affine a = {1, form<CODE>::base + j.w.offset, 0, 1};
    if (j.w.min_kind == SL_CUDA_MIN_ZERO_U8) a.zero += small(at<uint8_t>(j.w.min, group));
    if (j.w.min_kind == SL_CUDA_MIN_F16) a.min = __half2float(at<__half>(j.w.min, group * 2));
    if (j.w.min_kind == SL_CUDA_MIN_SUB)
        a.min =
            -small(at<uint8_t>(j.w.min, group)) * __half2float(at<__half>(j.w.supmin, super * 2));
    a.scale = scale_of(j, r, group, super, k < j.w.cols ? k : j.w.cols - 1);
    if (j.top) a.row = at<float>(j.w.row, r * 4);
    return a;
}

/* element = scale * (code - zero) + min, times `by`, for the 16 of a run. */
template <int CODE>
static __device__ __forceinline__ void decode(const job &j, int64_t r, int run, const affine &a,
                                              float by, float *v)
{
    int k = run * RUN;
    float min = a.min * by;
    by *= form<CODE>::factor;
    if (j.w.scale_kind == SL_CUDA_SCALE_GRID && j.w.grid_cols % RUN != 0) {
#pragma unroll
        for (int i = 0; i < RUN; i++)
            if (k + i < j.w.cols) v[i] = scale_of(j, r, 0, 0, k + i) * by * (v[i] - a.zero) + min;
        return;
    }
    float scale = a.scale * by;
#pragma unroll
    for (int i = 0; i < RUN; i++) v[i] = scale * (v[i] - a.zero) + min;
}

/* Lanes 2i and 2i+1 swap an end of their 32 bytes, so that every store fills whole sectors. */
static __device__ __forceinline__ void store(uint4 *row, int run, const float *v, bool mine)
{
    uint4 a = make_uint4(pack(v[0], v[1]), pack(v[2], v[3]), pack(v[4], v[5]), pack(v[6], v[7]));
    uint4 b =
        make_uint4(pack(v[8], v[9]), pack(v[10], v[11]), pack(v[12], v[13]), pack(v[14], v[15]));
    bool odd = threadIdx.x & 1;
    uint4 give = odd ? a : b, got;
    got.x = __shfl_xor_sync(~0u, give.x, 1), got.y = __shfl_xor_sync(~0u, give.y, 1);
    got.z = __shfl_xor_sync(~0u, give.z, 1), got.w = __shfl_xor_sync(~0u, give.w, 1);
    if (!mine) return;
    uint4 *to = row + (run & ~1) * 2 + odd;
    to[0] = odd ? got : a;
    to[2] = odd ? b : got;
}

/* Rows that a thread decodes: where little is done to a code, more loads have to be on their way;
 * where much is, more threads (measured on an H200). */
constexpr int rows_of(int code)
{
    return code == SL_CUDA_E2M1                                                  ? 4
           : code == SL_CUDA_E4M3 || code == SL_CUDA_E5M2 || code == SL_CUDA_F16 ? 2
                                                                                 : 1;
}

/* A thread decodes the same run of EACH rows; all that it reads is on its way before it begins. */
template <int CODE>
__global__ void __launch_bounds__(ACROSS *ROWS) tile(const __grid_constant__ job j)
{
    constexpr int EACH = rows_of(CODE);
    __shared__ float lut[16];
    if (CODE == SL_CUDA_LUT4) {
        if (threadIdx.y == 0 && threadIdx.x < 16) lut[threadIdx.x] = j.w.lut[threadIdx.x];
        __syncthreads();
    }
    sl_next();
    int at_run = blockIdx.x * ACROSS + threadIdx.x, first = blockIdx.y * ROWS * EACH + threadIdx.y;
    int run = at_run < j.runs ? at_run : 0;
    raw<CODE> q[EACH];
    affine a[EACH];
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        int n = first + e * ROWS;
        int64_t row = j.first + (n < j.n ? n : 0);
        q[e].load(j, row, run);
        a[e] = tables<CODE>(j, row, run);
    }
    sl_wait(); /* weights are older than any kernel; the largest row factor and the tile are not */
    float by = j.top ? 1 / *j.top : 1;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        int n = first + e * ROWS;
        float v[RUN];
        codes<CODE>(q[e], lut, v);
        decode<CODE>(j, j.first + (n < j.n ? n : 0), run, a[e], a[e].row * by, v);
        /* runs are even: both lanes of a pair are inside, or none */
        store(j.out + (int64_t)n * j.runs * 2, run, v, n < j.n && at_run < j.runs);
    }
}

typedef void kernel(job);
kernel *const kernels[SL_CUDA_CODES] = {
    [SL_CUDA_F16] = tile<SL_CUDA_F16>,   [SL_CUDA_F32] = tile<SL_CUDA_F32>,
    [SL_CUDA_E4M3] = tile<SL_CUDA_E4M3>, [SL_CUDA_E5M2] = tile<SL_CUDA_E5M2>,
    [SL_CUDA_E2M1] = tile<SL_CUDA_E2M1>, [SL_CUDA_LUT4] = tile<SL_CUDA_LUT4>,
    [SL_CUDA_U2] = tile<SL_CUDA_U2>,     [SL_CUDA_U3] = tile<SL_CUDA_U3>,
    [SL_CUDA_U4] = tile<SL_CUDA_U4>,     [SL_CUDA_U5] = tile<SL_CUDA_U5>,
    [SL_CUDA_U6] = tile<SL_CUDA_U6>,     [SL_CUDA_I8] = tile<SL_CUDA_I8>,
    [SL_CUDA_U8] = tile<SL_CUDA_U8>};

} // namespace

extern "C" void sl_cuda_decode_by(struct sl_cuda *c, const struct sl_cuda_weight *w, int64_t first,
                                  int64_t n, const float *top, void *out)
{
    if (n <= 0) return;
    SL_ASSERT(first >= 0 && first + n <= w->rows);
    SL_ASSERT(w->offset == (float)(int)w->offset); /* 2^23 + offset is exact */
    job j = {};
    j.w = *w;
    j.first = (int)first;
    j.n = (int)n;
    j.runs = w->cols_padded / RUN;
    j.groups = (int)sl_cuda_groups(w);
    j.supers = (int)sl_cuda_supers(w);
    if (j.groups > 1) { /* one group may be of any width, others are powers of two */
        SL_ASSERT((w->group & (w->group - 1)) == 0 && w->group >= RUN);
        j.group_shift = __builtin_ctz((unsigned)w->group);
    } else {
        j.group_shift = 30;
    }
    j.top = top;
    j.out = static_cast<uint4 *>(out);
    int each = rows_of(w->code_kind);
    dim3 grid((unsigned)((j.runs + ACROSS - 1) / ACROSS),
              (unsigned)((n + ROWS * each - 1) / (ROWS * each)));
    sl_launch(c, kernels[w->code_kind], grid, dim3(ACROSS, ROWS), 0, j);
}

extern "C" void sl_cuda_decode(struct sl_cuda *c, const struct sl_cuda_weight *w, int64_t first,
                               int64_t n, void *out)
{
    sl_cuda_decode_by(c, w, first, n, nullptr, out);
}
