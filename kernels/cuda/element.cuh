/* element.cuh - one element of a packed weight, decoded plainly: what embeddings, decoding to halfs
 * and tests read. The definition of every code and scale of kernels/cuda/cuda.h in device code; the
 * fast paths (decode.cuh) must agree with it up to rounding to halfs. */
#ifndef SL_KERNELS_CUDA_ELEMENT_CUH
#define SL_KERNELS_CUDA_ELEMENT_CUH

#include <cuda_fp16.h>

#include "kernels/cuda/cuda.h"

/* Sign, exponent of E bits and mantissa of M bits with the IEEE-like bias; no infinities. */
template <int E, int M> static __device__ inline float sl_small_float(unsigned code)
{
    const int bias = (1 << (E - 1)) - 1;
    int man = (int)(code & ((1u << M) - 1)), exp = (int)(code >> M & ((1u << E) - 1));
    float v =
        exp ? ldexpf((float)(man + (1 << M)), exp - bias - M) : ldexpf((float)man, 1 - bias - M);
    return code >> (E + M) & 1 ? -v : v;
}

static __device__ inline float sl_e4m3_value(unsigned code)
{
    return (code & 0x7f) == 0x7f ? __int_as_float(0x7fc00000) : sl_small_float<4, 3>(code);
}

static __device__ inline float sl_e8m0_value(unsigned code)
{
    if (code == 0xff) return __int_as_float(0x7fc00000);
    return __int_as_float(code ? (int)(code << 23) : 0x00400000);
}

/* `bits` of element k of a row of a plane; bits divides 8. */
static __device__ inline unsigned sl_plane_bits(const void *plane, int64_t stride, int64_t row,
                                                int64_t k, int bits)
{
    const uint8_t *p = (const uint8_t *)plane + row * stride;
    return p[k * bits >> 3] >> (k * bits & 7) & ((1u << bits) - 1);
}

/* The code of (row, k) as a number, before offset and scale. */
static __device__ inline float sl_code_value(const struct sl_cuda_weight &w, int64_t row, int64_t k)
{
    const uint8_t *p = (const uint8_t *)w.code + row * w.code_stride;
    switch (w.code_kind) {
    case SL_CUDA_F16:
        return __half2float(((const __half *)p)[k]);
    case SL_CUDA_F32:
        return ((const float *)p)[k];
    case SL_CUDA_E4M3:
        return sl_e4m3_value(p[k]);
    case SL_CUDA_E5M2: /* the upper byte of a half */
        return __half2float(__ushort_as_half((unsigned short)(p[k] << 8)));
    case SL_CUDA_E2M1:
        return sl_small_float<2, 1>(sl_plane_bits(w.code, w.code_stride, row, k, 4));
    case SL_CUDA_LUT4:
        return w.lut[sl_plane_bits(w.code, w.code_stride, row, k, 4)];
    case SL_CUDA_U2:
        return (float)sl_plane_bits(w.code, w.code_stride, row, k, 2);
    case SL_CUDA_U3:
        return (float)(sl_plane_bits(w.code, w.code_stride, row, k, 2) |
                       sl_plane_bits(w.high, w.high_stride, row, k, 1) << 2);
    case SL_CUDA_U4:
        return (float)sl_plane_bits(w.code, w.code_stride, row, k, 4);
    case SL_CUDA_U5:
        return (float)(sl_plane_bits(w.code, w.code_stride, row, k, 4) |
                       sl_plane_bits(w.high, w.high_stride, row, k, 1) << 4);
    case SL_CUDA_U6:
        return (float)(sl_plane_bits(w.code, w.code_stride, row, k, 4) |
                       sl_plane_bits(w.high, w.high_stride, row, k, 2) << 4);
    case SL_CUDA_I8:
        return (float)(int8_t)p[k];
    case SL_CUDA_U8:
        return (float)p[k];
    default:
        return 0;
    }
}

/* Scale of (row, k), without the row's factor. */
static __device__ inline float sl_scale_value(const struct sl_cuda_weight &w, int64_t row,
                                              int64_t k)
{
    int64_t g = row * sl_cuda_groups(&w) + k / w.group, s = row * sl_cuda_supers(&w) + k / 256;
    switch (w.scale_kind) {
    case SL_CUDA_SCALE_F16:
        return __half2float(((const __half *)w.scale)[g]);
    case SL_CUDA_SCALE_UE4M3:
        return sl_e4m3_value(((const uint8_t *)w.scale)[g]);
    case SL_CUDA_SCALE_E8M0:
        return sl_e8m0_value(((const uint8_t *)w.scale)[g]);
    case SL_CUDA_SCALE_SUB_U:
        return __half2float(((const __half *)w.super)[s]) * (float)((const uint8_t *)w.scale)[g];
    case SL_CUDA_SCALE_SUB_I:
        return __half2float(((const __half *)w.super)[s]) * (float)((const int8_t *)w.scale)[g];
    case SL_CUDA_SCALE_GRID:
        return ((const float *)w.scale)[row / w.grid_rows * w.grid_stride + k / w.grid_cols];
    default:
        return 1;
    }
}

/* Element (row, stored column k) without row[row]; k < cols_padded. */
static __device__ inline float sl_cuda_element_unscaled(const struct sl_cuda_weight &w, int64_t row,
                                                        int64_t k)
{
    float code = sl_code_value(w, row, k) - w.offset;
    int64_t g = row * sl_cuda_groups(&w) + k / w.group, s = row * sl_cuda_supers(&w) + k / 256;
    switch (w.min_kind) {
    case SL_CUDA_MIN_F16:
        return sl_scale_value(w, row, k) * code + __half2float(((const __half *)w.min)[g]);
    case SL_CUDA_MIN_SUB:
        return sl_scale_value(w, row, k) * code -
               __half2float(((const __half *)w.supmin)[s]) * (float)((const uint8_t *)w.min)[g];
    case SL_CUDA_MIN_ZERO_U8:
        return sl_scale_value(w, row, k) * (code - (float)((const uint8_t *)w.min)[g]);
    default:
        return sl_scale_value(w, row, k) * code;
    }
}

/* Element (row, stored column k). With act-order the column belongs to input w.order[k]. */
static __device__ inline float sl_cuda_element(const struct sl_cuda_weight &w, int64_t row,
                                               int64_t k)
{
    return w.row[row] * sl_cuda_element_unscaled(w, row, k);
}

#endif
