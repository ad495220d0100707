/* quantize_mx.cu - operands of block-scaled products on datacenter Blackwell (cuBLASLt, tcgen05):
 * rows and weights as MXFP8 (E4M3 with E8M0 per 32 columns), rows as NVFP4 (E2M1 with UE4M3 per
 * 16), and scales brought from rows to the tiles of 128 x 4 that the tensor cores read (lt.h).
 *
 * OCP Microscaling Formats 1.0 (2023). MXFP4 weights become MXFP8 without loss: every E2M1 is an
 * E4M3, and the groups are the same. Levelled rows are taken: their one scale is the product's.
 * No such card was at hand: what is written here was compared with the host's arithmetic on
 * Hopper, the products that read it were not run; lt_probe.c decides on the card. */
#include <cuda_fp8.h>

#include "base/sl_assert.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/gemm_steps.h"
#include "kernels/cuda/lt.h"
#include "kernels/cuda/row.cuh"

namespace
{

constexpr int THREADS = 256;
constexpr float E4M3_MAX = 448, E2M1_MAX = 6;

struct rows_job {
    const char *x;
    int64_t stride;
    int n, groups; /* of a row */
    uint8_t *codes, *scales;
};

/* The exponent byte of the least power of two not below v; 127 for 0. */
static __device__ __forceinline__ uint32_t e8m0_above(float v)
{
    uint32_t u = __float_as_uint(v);
    uint32_t e = (u >> 23) + ((u & 0x7fffff) != 0);
    return v == 0 ? 127 : e > 254 ? 254 : e;
}

/* Nearest E2M1, ties to even; saturates. */
static __device__ __forceinline__ uint32_t e2m1_of(float v)
{
    float a = fabsf(v);
    uint32_t code = (a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + (a > 2.5f) +
                    (a >= 3.5f) + (a > 5.0f);
    return code | (v < 0 ? 8u : 0u);
}

/* A thread takes GROUP halfs: one scale. GROUP 32: MXFP8; 16: NVFP4, of elements / SL_NVFP4_STEP.
 */
template <int GROUP> __global__ void quantize_groups(const rows_job j)
{
    sl_next();
    sl_wait();
    int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    int64_t row = at / j.groups, group = at % j.groups;
    if (row >= j.n) return;
    const __half *in =
        reinterpret_cast<const __half *>(j.x + row * j.stride + SL_CUDA_ROW_HEAD) + group * GROUP;
    float v[GROUP], top = 0;
#pragma unroll
    for (int i = 0; i < GROUP; i += 8) {
        uint4 q = *reinterpret_cast<const uint4 *>(in + i);
        const __half *h = reinterpret_cast<const __half *>(&q);
#pragma unroll
        for (int e = 0; e < 8; e++) {
            v[i + e] = __half2float(h[e]);
            top = fmaxf(top, fabsf(v[i + e]));
        }
    }
    uint32_t out[GROUP == 32 ? 8 : 2] = {};
    uint8_t *scale = j.scales + sl_lt_scale_at(row, group, j.groups);
    if constexpr (GROUP == 32) {
        uint32_t e = e8m0_above(top / E4M3_MAX);
        float by = __uint_as_float((254 - e) << 23);
        *scale = (uint8_t)e;
#pragma unroll
        for (int i = 0; i < 32; i++)
            out[i / 4] |= (uint32_t)__nv_cvt_float_to_fp8(v[i] * by, __NV_SATFINITE, __NV_E4M3)
                          << i % 4 * 8;
        uint4 *to = reinterpret_cast<uint4 *>(j.codes + at * 32);
        to[0] = make_uint4(out[0], out[1], out[2], out[3]);
        to[1] = make_uint4(out[4], out[5], out[6], out[7]);
    } else {
        float want = top / (E2M1_MAX * SL_NVFP4_STEP);
        uint8_t s = __nv_cvt_float_to_fp8(want, __NV_SATFINITE, __NV_E4M3);
        float got = sl_e4m3_value(s), by = got > 0 ? 1 / (got * SL_NVFP4_STEP) : 0;
        *scale = s;
#pragma unroll
        for (int i = 0; i < 16; i++) out[i / 8] |= e2m1_of(v[i] * by) << i % 8 * 4;
        *reinterpret_cast<uint2 *>(j.codes + at * 8) = make_uint2(out[0], out[1]);
    }
}

struct weight_job {
    const uint8_t *codes, *scales;
    int64_t code_stride;
    int rows, groups;
    const float *row, *top; /* E8M0 scales are multiplied by row / *top, a power of two; or NULL */
    uint8_t *out_codes, *out_scales;
};

/* The byte of scale * by; 255 is NaN, and stays one. */
static __device__ __forceinline__ uint8_t e8m0_times(uint32_t byte, float by)
{
    if (byte == 255 || isnan(by)) return 255;
    int e = (int)byte + (by > 0 ? ilogbf(by) : -255);
    return (uint8_t)(e < 0 ? 0 : e > 254 ? 254 : e);
}

/* Scales of rows to tiles; for E2M1 in groups of 32 also the codes as E4M3. */
__global__ void tile_scales(const weight_job j)
{
    sl_next();
    int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    int64_t row = at / j.groups, group = at % j.groups;
    bool mine = row < j.rows;
    uint8_t scale = mine ? j.scales[at] : 0;
    uint4 q = make_uint4(0, 0, 0, 0);
    if (mine && j.out_codes)
        q = *reinterpret_cast<const uint4 *>(j.codes + row * j.code_stride + group * 16);
    sl_wait();
    if (!mine) return;
    if (j.top) scale = e8m0_times(scale, j.row[row] / *j.top);
    j.out_scales[sl_lt_scale_at(row, group, j.groups)] = scale;
    if (!j.out_codes) return;
    const uint32_t in[4] = {q.x, q.y, q.z, q.w};
    uint32_t out[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        uint32_t four = in[i / 2] >> i % 2 * 16, made = 0;
#pragma unroll
        for (int e = 0; e < 4; e++) { /* 0 .5 1 1.5 2 3 4 6: all but the first two in line */
            uint32_t c = four >> 4 * e & 7;
            uint32_t b = c == 0 ? 0 : c == 1 ? 0x30 : 0x30 + c * 4;
            made |= (b | (four >> 4 * e & 8) << 4) << 8 * e;
        }
        out[i] = made;
    }
    uint4 *to = reinterpret_cast<uint4 *>(j.out_codes + at * 32);
    to[0] = make_uint4(out[0], out[1], out[2], out[3]);
    to[1] = make_uint4(out[4], out[5], out[6], out[7]);
}

unsigned blocks_of(int64_t pieces)
{
    return (unsigned)((pieces + THREADS - 1) / THREADS);
}

} // namespace

extern "C" void sl_cuda_mx_rows(struct sl_cuda *c, const void *x, int n, int64_t cols, int group,
                                void *codes, void *scales)
{
    if (n <= 0) return;
    SL_ASSERT(group == 16 || group == 32);
    rows_job j = {static_cast<const char *>(x),
                  sl_cuda_row_stride(cols),
                  n,
                  (int)(sl_cuda_pad(cols) / group),
                  static_cast<uint8_t *>(codes),
                  static_cast<uint8_t *>(scales)};
    int64_t pieces = (int64_t)n * j.groups;
    sl_launch(c, group == 32 ? quantize_groups<32> : quantize_groups<16>, blocks_of(pieces),
              THREADS, 0, j);
}

extern "C" void sl_cuda_mx_weight(struct sl_cuda *c, const struct sl_cuda_weight *w, int first,
                                  int m, const float *top, void *codes, void *scales)
{
    SL_ASSERT(!top || w->scale_kind == SL_CUDA_SCALE_E8M0);
    SL_ASSERT(!codes || (w->code_kind == SL_CUDA_E2M1 && w->group == 32));
    int groups = (int)sl_cuda_groups(w);
    weight_job j = {static_cast<const uint8_t *>(w->code) + first * w->code_stride,
                    static_cast<const uint8_t *>(w->scale) + (int64_t)first * groups,
                    w->code_stride,
                    m,
                    groups,
                    w->row + first,
                    top,
                    static_cast<uint8_t *>(codes),
                    static_cast<uint8_t *>(scales)};
    sl_launch(c, tile_scales, blocks_of((int64_t)m * groups), THREADS, 0, j);
}
