/* head_matmul.cu - one product per head: the halves of kv_b in absorbed multi-head latent attention
 * (DeepSeek-V2, 2024), 16 to 128 matrices of 128 x 512.
 *
 * A block has 64 rows of one head's matrix and up to 64 inputs, and goes along k in steps of CHUNK
 * columns. Halfs go through matrix products, inputs brought between 1 and 2 by a power of two per
 * chunk; every other form of weights is decoded plainly, a thread per row, in float. Which of the
 * two is in the descriptor, on the device. The first weights are read before the inputs are waited
 * for. */
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/element.cuh"

#define WARPS 4
#define ROWS 64   /* of a matrix, per block */
#define CHUNK 128 /* columns */

struct job {
    const struct sl_cuda_weight *w;
    int rows, cols, n;
    const float *x;
    int64_t x_stride, x_head;
    float *out;
    int64_t out_stride, out_head;
};

/* Shared memory: inputs as halfs with a scale each, or as floats. */
template <int NB> union inputs {
    struct {
        __half x[NB][CHUNK + SL_SMEM_PAD];
        float scale[NB];
    } h;
    float f[NB][CHUNK];
};

/* Columns [k, k + CHUNK) of input `row` as this lane has them: k + 4 lane .. + 3. */
static __device__ __forceinline__ float4 input(const struct job &j, const int32_t *order,
                                               const float *x, int row, int k)
{
    float v[4];
    const float *from = x + row * j.x_stride;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int at = k + 4 * (threadIdx.x % 32) + i;
        v[i] = row < j.n && at < j.cols ? from[order ? order[at] : at] : 0;
    }
    return make_float4(v[0], v[1], v[2], v[3]);
}

/* ---- halfs ----------------------------------------------------------------------------------- */

/* A lane's weights of a chunk: 8 halfs of rows g and g + 8 in each 32 columns. Columns are dealt to
 * the places of a fragment so that a lane reads 16 bytes at once; inputs are dealt alike. */
struct weights {
    uint4 w[CHUNK / 32][2];
};

static __device__ __forceinline__ void fetch(struct weights &to, const struct sl_cuda_weight &w,
                                             int rows, int row, int k)
{
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < CHUNK / 32; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int r = row + g + 8 * h, at = k + 32 * i + 8 * t;
            to.w[i][h] = make_uint4(0, 0, 0, 0);
            if (r < rows && at < w.cols_padded)
                to.w[i][h] = *reinterpret_cast<const uint4 *>((const char *)w.code +
                                                              r * w.code_stride + 2 * at);
        }
}

template <int NB>
static __device__ void halfs(const struct job &j, const struct sl_cuda_weight &w,
                             union inputs<NB> &in, int row, int first, const float *x)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    struct weights a, next;
    float sum[NB / 8][4] = {};
    row += 16 * warp;
    fetch(next, w, j.rows, row, 0);
    sl_wait();
    for (int k = 0; k < j.cols; k += CHUNK) {
        a = next;
        if (k + CHUNK < j.cols) fetch(next, w, j.rows, row, k + CHUNK);
        __syncthreads();
        for (int i = warp; i < NB; i += WARPS) {
            float4 v = input(j, w.order, x, first + i, k);
            float top = fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
            float size = magnitude(lanes_max<32>(top)), inverse = 1 / size;
            *reinterpret_cast<uint2 *>(&in.h.x[i][4 * lane]) =
                make_uint2(pack(v.x * inverse, v.y * inverse), pack(v.z * inverse, v.w * inverse));
            if (lane == 0) in.h.scale[i] = size;
        }
        __syncthreads();
#pragma unroll
        for (int n = 0; n < NB / 8; n++) {
            float d[4] = {};
#pragma unroll
            for (int i = 0; i < CHUNK / 32; i++) {
                uint4 b = *reinterpret_cast<const uint4 *>(&in.h.x[8 * n + g][32 * i + 8 * t]);
                const uint4 &u = a.w[i][0], &v = a.w[i][1];
                const uint32_t low[4] = {u.x, v.x, u.y, v.y}, high[4] = {u.z, v.z, u.w, v.w};
                multiply(d, low, b.x, b.y);
                multiply(d, high, b.z, b.w);
            }
            float s0 = in.h.scale[8 * n + 2 * t], s1 = in.h.scale[8 * n + 2 * t + 1];
            sum[n][0] += d[0] * s0, sum[n][1] += d[1] * s1;
            sum[n][2] += d[2] * s0, sum[n][3] += d[3] * s1;
        }
    }
    float *out = j.out + blockIdx.y * j.out_head;
#pragma unroll
    for (int n = 0; n < NB / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int r = row + g + i / 2 * 8, at = first + 8 * n + 2 * t + i % 2;
            if (r < j.rows && at < j.n) out[at * j.out_stride + r] = sum[n][i] * w.row[r];
        }
}

/* ---- everything else ------------------------------------------------------------------------- */

/* Thread: row threadIdx.x % 64, every other input. */
template <int NB>
static __device__ void plain(const struct job &j, const struct sl_cuda_weight &w,
                             union inputs<NB> &in, int row, int first, const float *x)
{
    float sum[NB / 2] = {};
    int part = threadIdx.x / ROWS;
    row += threadIdx.x % ROWS;
    sl_wait();
    for (int k = 0; k < j.cols; k += CHUNK) {
        __syncthreads();
        for (int i = threadIdx.x / 32; i < NB; i += WARPS)
            *reinterpret_cast<float4 *>(&in.f[i][4 * (threadIdx.x % 32)]) =
                input(j, w.order, x, first + i, k);
        __syncthreads();
        if (row >= j.rows) continue;
        for (int i = 0; i < CHUNK && k + i < j.cols; i++) {
            float a = sl_cuda_element_unscaled(w, row, k + i);
#pragma unroll
            for (int n = 0; n < NB / 2; n++) sum[n] += a * in.f[2 * n + part][i];
        }
    }
    float *out = j.out + blockIdx.y * j.out_head;
#pragma unroll
    for (int n = 0; n < NB / 2; n++) {
        int at = first + 2 * n + part;
        if (row < j.rows && at < j.n) out[at * j.out_stride + row] = sum[n] * w.row[row];
    }
}

/* Grid: rows / ROWS, heads, inputs / NB. */
template <int NB>
static __global__ void __launch_bounds__(32 * WARPS) per_head(const __grid_constant__ struct job j)
{
    __shared__ __align__(16) union inputs<NB> in;
    sl_next();
    const struct sl_cuda_weight &w = j.w[blockIdx.y];
    int row = blockIdx.x * ROWS, first = blockIdx.z * NB;
    const float *x = j.x + blockIdx.y * j.x_head;
    if (w.code_kind == SL_CUDA_F16 && w.scale_kind == SL_CUDA_SCALE_NONE &&
        w.min_kind == SL_CUDA_MIN_NONE && w.offset == 0)
        halfs<NB>(j, w, in, row, first, x);
    else
        plain<NB>(j, w, in, row, first, x);
}

extern "C" void sl_cuda_head_matmul(struct sl_cuda *c, const struct sl_cuda_weight *weights,
                                    int n_heads, int rows, int cols, const float *x,
                                    int64_t x_stride, int64_t x_head, int n, float *out,
                                    int64_t out_stride, int64_t out_head)
{
    struct job j = {weights, rows, cols, n, x, x_stride, x_head, out, out_stride, out_head};
    if (n <= 0 || n_heads <= 0) return;
    dim3 grid((unsigned)((rows + ROWS - 1) / ROWS), (unsigned)n_heads);
    if (n <= 8) {
        sl_launch(c, per_head<8>, grid, 32 * WARPS, 0, j);
    } else if (n <= 32) {
        sl_launch(c, per_head<32>, grid, 32 * WARPS, 0, j);
    } else {
        grid.z = (unsigned)((n + 63) / 64);
        sl_launch(c, per_head<64>, grid, 32 * WARPS, 0, j);
    }
}
