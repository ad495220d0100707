/* head_matmul.cu - one product per head: the halves of kv_b in absorbed multi-head latent attention
 * (DeepSeek-V2, 2024), 16 to 128 matrices of 128 x 512.
 *
 * A block has 64 or 128 rows of one head's matrix, 16 or 32 a warp, and up to 64 inputs, and goes
 * along k in steps of CHUNK columns. Halfs go through matrix products, inputs brought between 1 and
 * 2 by a power of two per chunk; every other form of weights is decoded plainly, a thread per row,
 * in float. Which of the two is in the descriptor, on the device. The first weights are read before
 * the inputs are waited for. */
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/element.cuh"

#define WARPS 4
#define CHUNK 128 /* columns */

struct job {
    const struct sl_cuda_weight *w;
    int rows, cols, n;
    const float *x;
    int64_t x_stride, x_head;
    float *out;
    int64_t out_stride, out_head;
    int aligned; /* inputs are at multiples of 16 bytes */
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
    const float *from = x + row * j.x_stride;
    int at = k + 4 * (threadIdx.x % 32);
    if (row < j.n && j.aligned && !order && at + 4 <= j.cols)
        return *reinterpret_cast<const float4 *>(from + at);
    float v[4];
#pragma unroll
    for (int i = 0; i < 4; i++, at++)
        v[i] = row < j.n && at < j.cols ? from[order ? order[at] : at] : 0;
    return make_float4(v[0], v[1], v[2], v[3]);
}

/* ---- halfs ----------------------------------------------------------------------------------- */

/* A lane's weights of a chunk: 8 halfs of rows g and g + 8 in each 32 columns. Columns are dealt to
 * the places of a fragment so that a lane reads 16 bytes at once; inputs are dealt alike. */
struct weights {
    uint4 w[CHUNK / 32][2];
};

static __device__ __forceinline__ void fetch(struct weights &to, const char *code, int64_t stride,
                                             int cols, int rows, int row, int k)
{
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < CHUNK / 32; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int r = row + g + 8 * h, at = k + 32 * i + 8 * t;
            to.w[i][h] = make_uint4(0, 0, 0, 0);
            if (r < rows && at < cols)
                to.w[i][h] = *reinterpret_cast<const uint4 *>(code + r * stride + 2 * at);
        }
}

template <int NB, int MT>
static __device__ void halfs(const struct job &j, const struct sl_cuda_weight &w,
                             union inputs<NB> &in, int row, int first, const float *x)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const char *code = (const char *)w.code; /* stores could change what w points to */
    const int64_t stride = w.code_stride;
    const int32_t *order = w.order;
    int padded = w.cols_padded;
    struct weights a[MT];
    float sum[MT][NB / 8][4] = {};
    row += 16 * MT * warp;
#pragma unroll
    for (int m = 0; m < MT; m++) fetch(a[m], code, stride, padded, j.rows, row + 16 * m, 0);
    sl_wait();
    for (int k = 0; k < j.cols; k += CHUNK) {
        __syncthreads();
#pragma unroll 8
        for (int i = warp; i < NB; i += WARPS) {
            float4 v = input(j, order, x, first + i, k);
            float top = fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
            float size = magnitude(lanes_max<32>(top)), inverse = 1 / size;
            *reinterpret_cast<uint2 *>(&in.h.x[i][4 * lane]) =
                make_uint2(pack(v.x * inverse, v.y * inverse), pack(v.z * inverse, v.w * inverse));
            if (lane == 0) in.h.scale[i] = size;
        }
        __syncthreads();
#pragma unroll
        for (int n = 0; n < NB / 8; n++) {
            float d[MT][4] = {};
#pragma unroll
            for (int i = 0; i < CHUNK / 32; i++) {
                uint4 b = *reinterpret_cast<const uint4 *>(&in.h.x[8 * n + g][32 * i + 8 * t]);
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    const uint4 &u = a[m].w[i][0], &v = a[m].w[i][1];
                    const uint32_t low[4] = {u.x, v.x, u.y, v.y}, high[4] = {u.z, v.z, u.w, v.w};
                    multiply(d[m], low, b.x, b.y);
                    multiply(d[m], high, b.z, b.w);
                }
            }
            float s0 = in.h.scale[8 * n + 2 * t], s1 = in.h.scale[8 * n + 2 * t + 1];
#pragma unroll
            for (int m = 0; m < MT; m++) {
                sum[m][n][0] += d[m][0] * s0, sum[m][n][1] += d[m][1] * s1;
                sum[m][n][2] += d[m][2] * s0, sum[m][n][3] += d[m][3] * s1;
            }
        }
        if (k + CHUNK >= j.cols) break;
#pragma unroll
        for (int m = 0; m < MT; m++)
            fetch(a[m], code, stride, padded, j.rows, row + 16 * m, k + CHUNK);
    }
    float *out = j.out + blockIdx.y * j.out_head;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int r = row + 16 * m + g + 8 * h;
            if (r >= j.rows) continue;
            float factor = w.row[r];
#pragma unroll
            for (int n = 0; n < NB / 8; n++)
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    int at = first + 8 * n + 2 * t + c;
                    if (at < j.n) out[at * j.out_stride + r] = sum[m][n][2 * h + c] * factor;
                }
        }
}

/* ---- everything else ------------------------------------------------------------------------- */

/* A thread has one row, and every PARTS-th input. */
template <int NB, int MT>
static __device__ void plain(const struct job &j, const struct sl_cuda_weight &w,
                             union inputs<NB> &in, int row, int first, const float *x)
{
    const int ROWS = 16 * WARPS * MT, PARTS = 32 * WARPS / ROWS;
    float sum[NB / PARTS] = {};
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
            for (int n = 0; n < NB / PARTS; n++) sum[n] += a * in.f[PARTS * n + part][i];
        }
    }
    float *out = j.out + blockIdx.y * j.out_head;
#pragma unroll
    for (int n = 0; n < NB / PARTS; n++) {
        int at = first + PARTS * n + part;
        if (row < j.rows && at < j.n) out[at * j.out_stride + row] = sum[n] * w.row[row];
    }
}

/* Grid: rows / (64 MT), heads, inputs / NB. */
template <int NB, int MT>
static __global__ void __launch_bounds__(32 * WARPS) per_head(const __grid_constant__ struct job j)
{
    __shared__ __align__(16) union inputs<NB> in;
    sl_next();
    const struct sl_cuda_weight &w = j.w[blockIdx.y];
    int row = blockIdx.x * 16 * WARPS * MT, first = blockIdx.z * NB;
    const float *x = j.x + blockIdx.y * j.x_head;
    if (w.code_kind == SL_CUDA_F16 && w.scale_kind == SL_CUDA_SCALE_NONE &&
        w.min_kind == SL_CUDA_MIN_NONE && w.offset == 0)
        halfs<NB, MT>(j, w, in, row, first, x);
    else
        plain<NB, MT>(j, w, in, row, first, x);
}

template <int NB, int MT> static void launch(struct sl_cuda *c, const struct job *j, int n_heads)
{
    const int rows = 16 * WARPS * MT;
    dim3 grid((unsigned)((j->rows + rows - 1) / rows), (unsigned)n_heads,
              (unsigned)((j->n + NB - 1) / NB));
    sl_launch(c, per_head<NB, MT>, grid, 32 * WARPS, 0, *j);
}

extern "C" void sl_cuda_head_matmul(struct sl_cuda *c, const struct sl_cuda_weight *weights,
                                    int n_heads, int rows, int cols, const float *x,
                                    int64_t x_stride, int64_t x_head, int n, float *out,
                                    int64_t out_stride, int64_t out_head)
{
    struct job j = {weights, rows, cols, n, x, x_stride, x_head, out, out_stride, out_head, 0};
    j.aligned = x_stride % 4 == 0 && x_head % 4 == 0 && (uintptr_t)x % 16 == 0;
    if (n <= 0 || n_heads <= 0) return;
    if (n <= 8)
        launch<8, 1>(c, &j, n_heads);
    else if (n <= 32)
        launch<32, 1>(c, &j, n_heads);
    else
        launch<64, 2>(c, &j, n_heads);
}
