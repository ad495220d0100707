/* rowops.cu - the small things between products: scaled sums, gathered rows, softened logits, and a
 * gate that weighs whole rows. */
#include "kernels/cuda/row.cuh"
#include "kernels/cuda/rows.h"

namespace
{

constexpr int THREADS = 256;
constexpr int GRID_ROWS_MAX = 65535;

dim3 grid_of(int64_t n, int64_t cols, int V)
{
    int64_t blocks = (cols / V + THREADS - 1) / THREADS;
    return dim3((unsigned)blocks, (unsigned)(n < GRID_ROWS_MAX ? n : GRID_ROWS_MAX));
}

/* The first element of this thread's piece of a row. */
template <int V> __device__ __forceinline__ int64_t piece_at()
{
    return ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V;
}

/* ---- mix ------------------------------------------------------------------------------------- */

struct mix_job {
    const float *from;
    int64_t from_stride;
    float *to;
    int64_t to_stride, n, cols;
    float scale;
    int add;
};

template <int V> __global__ void mix(mix_job j)
{
    sl_next();
    sl_wait();
    int64_t at = piece_at<V>();
    if (at >= j.cols) return;
    for (int64_t i = blockIdx.y; i < j.n; i += gridDim.y) {
        float *to = j.to + i * j.to_stride + at;
        sl_piece<V> a = {}, b = {};
        if (j.scale != 0) /* else `from` is not read: 0 times whatever is there is 0 */
            a = sl_piece_load<V>(j.from + i * j.from_stride + at);
        if (j.add) b = sl_piece_load<V>(to);
#pragma unroll
        for (int e = 0; e < V; e++) a.v[e] = fmaf(j.scale, a.v[e], b.v[e]);
        sl_piece_store<V>(to, a);
    }
}

/* ---- pick ------------------------------------------------------------------------------------ */

template <int V>
__global__ void pick(const float *x, const int32_t *picks, int n, int dim, float *out)
{
    sl_next();
    sl_wait();
    int64_t at = piece_at<V>();
    if (at >= dim) return;
    for (int64_t i = blockIdx.y; i < n; i += gridDim.y)
        sl_piece_store<V>(out + i * dim + at, sl_piece_load<V>(x + (int64_t)picks[i] * dim + at));
}

/* ---- soften ---------------------------------------------------------------------------------- */

template <int V> __global__ void soften(float *x, int64_t count, float scale, float cap)
{
    sl_next();
    sl_wait();
    int64_t step = (int64_t)gridDim.x * THREADS * V;
    for (int64_t at = piece_at<V>(); at < count; at += step) {
        sl_piece<V> a = sl_piece_load<V>(x + at);
#pragma unroll
        for (int e = 0; e < V; e++) {
            a.v[e] *= scale;
            if (cap != 0) a.v[e] = cap * tanhf(a.v[e] / cap);
        }
        sl_piece_store<V>(x + at, a);
    }
}

/* ---- weigh_rows ------------------------------------------------------------------------------ */

/* One block per row; only the scale in the head of y changes. */
__global__ void weigh_rows(const float *gain, const void *x, int dim, void *y, int cols)
{
    sl_next();
    sl_wait();
    const float *head = sl_row_head(x, blockIdx.x, dim);
    const __half *from = sl_row_halfs(head);
    sl_sum_max all = {0, 0};
    for (int k = (int)threadIdx.x * 2; k < dim; k += THREADS * 2) { /* padding of x is zero */
        __half2 h = *reinterpret_cast<const __half2 *>(from + k);
        all.sum += gain[k] * __low2float(h);
        if (k + 1 < dim) all.sum += gain[k + 1] * __high2float(h);
    }
    all = sl_block_sum_max(all);
    if (threadIdx.x == 0) *sl_row_head(y, blockIdx.x, cols) /= 1 + expf(-all.sum * *head);
}

} // namespace

void sl_cuda_mix(struct sl_cuda *c, const float *from, int64_t from_stride, float *to,
                 int64_t to_stride, int64_t n, int64_t cols, float scale, int add)
{
    if (n <= 0 || cols <= 0) return;
    mix_job j = {from, from_stride, to, to_stride, n, cols, scale, add};
    if (sl_in_pieces(4, from_stride | to_stride | cols, from, to))
        sl_launch(c, mix<4>, grid_of(n, cols, 4), dim3(THREADS), 0, j);
    else
        sl_launch(c, mix<1>, grid_of(n, cols, 1), dim3(THREADS), 0, j);
}

void sl_cuda_weigh_rows(struct sl_cuda *c, const float *gain, const void *x, int n, int dim,
                        void *y, int cols)
{
    if (n <= 0) return;
    sl_launch(c, weigh_rows, dim3((unsigned)n), dim3(THREADS), 0, gain, x, dim, y, cols);
}

void sl_cuda_pick(struct sl_cuda *c, const float *x, const int32_t *picks, int n, int dim,
                  float *out)
{
    if (n <= 0) return;
    if (sl_in_pieces(4, dim, x, out))
        sl_launch(c, pick<4>, grid_of(n, dim, 4), dim3(THREADS), 0, x, picks, n, dim, out);
    else
        sl_launch(c, pick<1>, grid_of(n, dim, 1), dim3(THREADS), 0, x, picks, n, dim, out);
}

void sl_cuda_soften(struct sl_cuda *c, float *x, int64_t count, float scale, float cap)
{
    if (count <= 0) return;
    int V = sl_in_pieces(4, count, x) ? 4 : 1;
    int64_t blocks = (count / V + THREADS - 1) / THREADS, most = 16 * (int64_t)c->sms;
    dim3 grid((unsigned)(blocks < most ? blocks : most));
    if (V == 4)
        sl_launch(c, soften<4>, grid, dim3(THREADS), 0, x, count, scale, cap);
    else
        sl_launch(c, soften<1>, grid, dim3(THREADS), 0, x, count, scale, cap);
}
