/* pack.cu - matrices as the files have them to the planar form of cuda.h, on the device. Loading
 * waits for the disk, so these kernels are plain: one warp makes the tables of a row, one thread
 * eight codes. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/raw.cuh"

namespace
{

/* The raw matrix and the form it takes; all pointers in device memory. */
struct pack_job {
    struct sl_matrix raw;
    struct sl_pack_form form;
    int64_t raw_stride; /* bytes */
    int raw_scales;     /* entries per row of the raw table */
};

constexpr int THREADS = 256;
constexpr int TOP_BITS_F16 = 15; /* BF16 rows: largest magnitude in [2^14, 2^15) */
constexpr int E8M0_ONE = 127;    /* the byte of 2^0 */

/* ---- codes ----------------------------------------------------------------------------------- */

__device__ void put_codes(const pack_job &j, int64_t row, int64_t k, const unsigned (&code)[8])
{
    const sl_cuda_weight &w = j.form.w;
    uint8_t *to = (uint8_t *)w.code + row * w.code_stride;
    uint32_t low = 0, high = 0;
    switch (w.code_kind) {
    case SL_CUDA_E4M3:
    case SL_CUDA_E5M2:
    case SL_CUDA_I8:
    case SL_CUDA_U8:
        for (int i = 0; i < 4; i++) low |= code[i] << 8 * i, high |= code[4 + i] << 8 * i;
        *(uint2 *)(to + k) = make_uint2(low, high);
        return;
    case SL_CUDA_U2:
    case SL_CUDA_U3:
        for (int i = 0; i < 8; i++) low |= (code[i] & 3) << 2 * i, high |= (code[i] >> 2) << i;
        *(uint16_t *)(to + k / 4) = (uint16_t)low;
        break;
    default:
        for (int i = 0; i < 8; i++) low |= (code[i] & 15) << 4 * i;
        if (w.code_kind == SL_CUDA_U6)
            for (int i = 0; i < 8; i++) high |= (code[i] >> 4) << 2 * i;
        else
            for (int i = 0; i < 8; i++) high |= (code[i] >> 4) << i;
        *(uint32_t *)(to + k / 2) = low;
        break;
    }
    uint8_t *top = (uint8_t *)w.high + row * w.high_stride;
    if (w.code_kind == SL_CUDA_U6)
        *(uint16_t *)(top + k / 4) = (uint16_t)high;
    else if (w.code_kind == SL_CUDA_U3 || w.code_kind == SL_CUDA_U5)
        top[k / 8] = (uint8_t)high;
}

__global__ void pack_codes(const __grid_constant__ pack_job j)
{
    sl_wait();
    const sl_cuda_weight &w = j.form.w;
    int64_t pieces = w.cols_padded / 8, all = pieces * w.rows;
    for (int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x; at < all;
         at += (int64_t)gridDim.x * THREADS) {
        int64_t row = at / pieces, k = at % pieces * 8;
        const uint8_t *from = (const uint8_t *)j.raw.data + row * j.raw_stride;
        unsigned code[8];
        for (int i = 0; i < 8; i++)
            code[i] = k + i < w.cols ? sl_raw_code(j.raw.type, from, k + i) : 0;
        put_codes(j, row, k, code);
    }
}

/* ---- floats: one warp per row ---------------------------------------------------------------- */

__device__ float warp_max(float v)
{
    for (int d = 16; d; d /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, d));
    return v;
}

/* The e for which `max` * 2^e is in [2^(bits-1), 2^bits); 0 where there is nothing to bring. */
__device__ int exponent_to(float max, int bits)
{
    if (!(max > 0)) return 0;
    int e;
    frexpf(max, &e);
    return bits - e;
}

/* |x|, or 0 when it is not finite: those stay what they are and must not move the others. */
__device__ float magnitude(float x)
{
    return isfinite(x) ? fabsf(x) : 0;
}

__device__ float raw_float(const pack_job &j, const void *row, int64_t k)
{
    return sl_raw_scale(row, j.raw.type, k, false);
}

__global__ void pack_floats(const __grid_constant__ pack_job j)
{
    sl_wait();
    const sl_cuda_weight &w = j.form.w;
    int lane = threadIdx.x % 32;
    int64_t row = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32;
    if (row >= w.rows) return;
    const char *from = (const char *)j.raw.data + row * j.raw_stride;
    char *to = (char *)w.code + row * w.code_stride;
    int e = 0;
    if (j.raw.type == SL_BF16) {
        float max = 0;
        for (int64_t k = lane; k < w.cols; k += 32)
            max = fmaxf(max, magnitude(raw_float(j, from, k)));
        e = exponent_to(warp_max(max), TOP_BITS_F16);
    }
    for (int64_t k = lane; k < w.cols_padded; k += 32) {
        float v = k < w.cols ? raw_float(j, from, k) : 0;
        if (w.code_kind == SL_CUDA_F32)
            ((float *)to)[k] = v;
        else
            ((__half *)to)[k] = __float2half_rn(ldexpf(v, e));
    }
    if (lane == 0) ((float *)w.row)[row] = ldexpf(j.form.factor, -e);
}

/* ---- scales: one warp per row ---------------------------------------------------------------- */

/* Entry of the raw tables for column k of a row. */
__device__ int64_t table_entry(const pack_job &j, int64_t row, int64_t k)
{
    return row / j.form.scale_rows * j.raw_scales + k / j.raw.scale_cols;
}

__device__ sl_raw_group group_at(const pack_job &j, int64_t row, int64_t k)
{
    bool bytes =
        j.form.w.scale_kind == SL_CUDA_SCALE_E8M0 || j.form.w.scale_kind == SL_CUDA_SCALE_UE4M3;
    if (!j.raw.scales && !j.raw.zeros)
        return sl_raw_block_group(j.raw.type, (const uint8_t *)j.raw.data + row * j.raw_stride, k);
    sl_raw_group g = {1, 0, 1, 1};
    int64_t i = table_entry(j, row, k);
    if (j.raw.scales) g.scale = sl_raw_scale(j.raw.scales, j.raw.scale_type, i, bytes);
    if (j.raw.zeros) g.min = (float)j.raw.zeros[i];
    return g;
}

/* Bits below which a row's largest scale is brought, so that scale * code stays a half: 7 for codes
 * of up to 9 bits; E2M1's decoder leaves out 2^14. */
__device__ int scale_bits(enum sl_cuda_code code)
{
    return code == SL_CUDA_E2M1 ? 15 : code == SL_CUDA_E5M2 ? 0 : 7;
}

__device__ uint16_t half_bits(float v)
{
    return __half_as_ushort(__float2half_rn(v));
}

/* Scales, minimums and supers that are numbers. */
__device__ int pack_numbers(const pack_job &j, int64_t row, int lane)
{
    const sl_cuda_weight &w = j.form.w;
    int64_t groups = sl_cuda_groups(&w), supers = sl_cuda_supers(&w);
    bool f16 = w.scale_kind == SL_CUDA_SCALE_F16, sub = j.form.has[SL_PACK_SUPER];
    float max = 0, most = (float)(1 << 7);
    for (int64_t g = lane; g * w.group < w.cols; g += 32) {
        sl_raw_group r = group_at(j, row, g * w.group);
        max = fmaxf(max, magnitude(r.scale * r.super));
        if (w.min_kind == SL_CUDA_MIN_F16 || w.min_kind == SL_CUDA_MIN_SUB)
            max = fmaxf(max, magnitude(r.min * r.supmin) / most);
    }
    int e = exponent_to(warp_max(max), scale_bits(w.code_kind));
    for (int64_t g = lane; g < groups; g += 32) {
        sl_raw_group r = {0, 0, 1, 1};
        if (g * w.group < w.cols) r = group_at(j, row, g * w.group);
        int64_t at = row * groups + g;
        if (f16) ((uint16_t *)w.scale)[at] = half_bits(ldexpf(r.scale, e));
        if (sub) ((uint8_t *)w.scale)[at] = (uint8_t)(int)r.scale;
        if (w.min_kind == SL_CUDA_MIN_F16)
            ((uint16_t *)w.min)[at] = half_bits(ldexpf(r.min, e));
        else if (w.min_kind != SL_CUDA_MIN_NONE)
            ((uint8_t *)w.min)[at] = (uint8_t)(int)r.min;
    }
    if (!sub) return e;
    for (int64_t s = lane; s < supers; s += 32) {
        sl_raw_group r = group_at(j, row, s * 256);
        /* a super of which all scales are zero may be anything: it must not become infinite */
        float top = 65504, super = ldexpf(r.super, e), supmin = ldexpf(r.supmin, e);
        super = super > top ? top : super < -top ? -top : super;
        supmin = supmin > top ? top : supmin < -top ? -top : supmin;
        ((uint16_t *)w.super)[row * supers + s] = half_bits(super);
        if (w.min_kind == SL_CUDA_MIN_SUB)
            ((uint16_t *)w.supmin)[row * supers + s] = half_bits(supmin);
    }
    return e;
}

/* Lowest byte of a group's scale whose products with codes are exact halfs, as decode.cuh makes
 * them: the smallest E2M1 there is 2^-15 and 2^0 is 2^15; of 8-bit floats 2^0 is 2^6 and 2^-1, and
 * the scale itself must be normal. */
__device__ int e8m0_least(enum sl_cuda_code code)
{
    return E8M0_ONE - (code == SL_CUDA_E2M1 ? 24 : code == SL_CUDA_E4M3 ? 20 : 13);
}

__device__ float nan_value()
{
    return __int_as_float(0x7fc00000);
}

/* E8M0: the largest becomes 2^0, the rest goes to the row's factor. A NaN scale makes the row NaN,
 * as it would make every product with the row. */
__device__ float pack_e8m0(const pack_job &j, int64_t row, int lane)
{
    const sl_cuda_weight &w = j.form.w;
    int64_t groups = sl_cuda_groups(&w);
    float max = 0, nan = 0;
    for (int64_t g = lane; g * w.group < w.cols; g += 32) {
        float b = group_at(j, row, g * w.group).scale;
        if (b == 255)
            nan = 1;
        else
            max = fmaxf(max, b);
    }
    max = warp_max(max), nan = warp_max(nan);
    int least = e8m0_least(w.code_kind);
    for (int64_t g = lane; g < groups; g += 32) {
        int b = E8M0_ONE;
        if (g * w.group < w.cols)
            b = (int)group_at(j, row, g * w.group).scale - (int)max + E8M0_ONE;
        ((uint8_t *)w.scale)[row * groups + g] = (uint8_t)(b > E8M0_ONE ? E8M0_ONE
                                                           : b < least  ? least
                                                                        : b);
    }
    return nan > 0 ? nan_value() : ldexpf(1, (int)max - E8M0_ONE);
}

__global__ void pack_scales(const __grid_constant__ pack_job j)
{
    sl_wait();
    const sl_cuda_weight &w = j.form.w;
    int lane = threadIdx.x % 32;
    int64_t row = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32, groups = sl_cuda_groups(&w);
    if (row >= w.rows) return;
    float factor = j.form.factor;
    if (j.form.row_scale && j.raw.scales)
        factor *= sl_raw_scale(j.raw.scales, j.raw.scale_type, table_entry(j, row, 0), false);
    switch (w.scale_kind) {
    case SL_CUDA_SCALE_UE4M3:
        for (int64_t g = lane; g < groups; g += 32)
            ((uint8_t *)w.scale)[row * groups + g] =
                g * w.group < w.cols ? (uint8_t)(int)group_at(j, row, g * w.group).scale : 0;
        break;
    case SL_CUDA_SCALE_E8M0:
        factor *= pack_e8m0(j, row, lane);
        break;
    case SL_CUDA_SCALE_F16:
    case SL_CUDA_SCALE_SUB_U:
    case SL_CUDA_SCALE_SUB_I:
        factor = ldexpf(factor, -pack_numbers(j, row, lane));
        break;
    default: /* zero points alone */
        if (w.min_kind == SL_CUDA_MIN_ZERO_U8)
            for (int64_t g = lane; g < groups; g += 32)
                ((uint8_t *)w.min)[row * groups + g] =
                    g * w.group < w.cols ? j.raw.zeros[table_entry(j, row, g * w.group)] : 0;
        break;
    }
    if (lane == 0) ((float *)w.row)[row] = factor;
}

/* FP8 blocks: the grid as it is, with columns told in blocks of 128. */
__global__ void pack_grid(const __grid_constant__ pack_job j)
{
    sl_wait();
    const sl_cuda_weight &w = j.form.w;
    int64_t rows = (w.rows - 1) / w.grid_rows + 1, all = rows * w.grid_stride;
    for (int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x; at < all;
         at += (int64_t)gridDim.x * THREADS) {
        int64_t k = at % w.grid_stride * w.grid_cols;
        int64_t entry = at / w.grid_stride * j.raw_scales + k / j.raw.scale_cols;
        ((float *)w.scale)[at] =
            k < w.cols ? sl_raw_scale(j.raw.scales, j.raw.scale_type, entry, false) : 0;
    }
}

unsigned blocks_for(const struct sl_cuda *c, int64_t threads)
{
    int64_t n = (threads + THREADS - 1) / THREADS, most = (int64_t)c->sms * 64;
    return (unsigned)(n < most ? n : most);
}

} // namespace

void sl_cuda_weight_pack(struct sl_cuda *c, const struct sl_matrix *raw, void *memory,
                         struct sl_cuda_weight *out)
{
    pack_job j = {};
    *out = {};
    if (sl_pack_form(raw, &j.form)) return;
    struct sl_cuda_weight *w = &j.form.w;
    void *part[SL_PACK_PARTS];
    for (int i = 0; i < SL_PACK_PARTS; i++)
        part[i] = j.form.has[i] ? (char *)memory + j.form.at[i] : nullptr;
    w->code = part[SL_PACK_CODE], w->high = part[SL_PACK_HIGH], w->scale = part[SL_PACK_SCALE];
    w->super = part[SL_PACK_SUPER], w->min = part[SL_PACK_MIN], w->supmin = part[SL_PACK_SUPMIN];
    w->row = (const float *)part[SL_PACK_ROW], w->order = (const int32_t *)part[SL_PACK_ORDER];
    j.raw = *raw;
    j.raw_stride = (int64_t)sl_dtype_row_bytes(raw->type, (uint64_t)raw->cols);
    j.raw_scales = (int)sl_matrix_scales_per_row(raw);
    unsigned warps = (unsigned)(((int64_t)w->rows * 32 + THREADS - 1) / THREADS);
    if (sl_dtype_kind(raw->type) == SL_KIND_FLOAT) {
        sl_launch(c, pack_floats, dim3(warps), dim3(THREADS), 0, j);
    } else {
        int64_t pieces = (int64_t)w->rows * (w->cols_padded / 8);
        sl_launch(c, pack_codes, dim3(blocks_for(c, pieces)), dim3(THREADS), 0, j);
        sl_launch(c, pack_scales, dim3(warps), dim3(THREADS), 0, j);
        if (w->scale_kind == SL_CUDA_SCALE_GRID) {
            int64_t all = ((w->rows - 1) / w->grid_rows + 1) * (int64_t)w->grid_stride;
            sl_launch(c, pack_grid, dim3(blocks_for(c, all)), dim3(THREADS), 0, j);
        }
    }
    if (raw->order)
        cudaMemcpyAsync(part[SL_PACK_ORDER], raw->order, (size_t)raw->cols * sizeof(int32_t),
                        cudaMemcpyDeviceToDevice, c->stream);
    *out = *w;
}
