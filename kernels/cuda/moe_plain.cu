/* moe_plain.cu - experts of any form of weights, one element at a time (element.cuh): F32 weights,
 * GPTQ act-order, gate and up of different forms; and the last step of every mixture, the weighted
 * sum. Rare forms must work, not fly: one warp takes one row of weights and one place. */
#include "base/sl_assert.h"
#include "kernels/cuda/act.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/moe_plan.cuh"
#include "kernels/cuda/row.cuh"

namespace
{

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int GRID_ROWS_MAX = 65535;

/* Row `row` of w times a product row, in every lane. */
__device__ float dot(const sl_cuda_weight &w, int row, const float *head)
{
    const __half *x = sl_row_halfs(head);
    float sum = 0;
    for (int k = threadIdx.x % 32; k < w.cols; k += 32)
        sum += sl_cuda_element(w, row, k) * __half2float(x[w.order ? w.order[k] : k]);
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    return sum * *head;
}

/* Rows of a block's warps: blockIdx.x * WARPS + warp; places: blockIdx.y and its like. */
__global__ void plain_up(const __grid_constant__ sl_moe_product m,
                         const __grid_constant__ sl_moe_plan p)
{
    sl_next();
    sl_wait();
    int row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= sl_cuda_pad(m.rows)) return;
    for (int at = blockIdx.y; at < p.n_pairs; at += gridDim.y) {
        int pair = p.pair[at], expert = p.ids[pair];
        float *head = sl_row_head(p.hidden, at, m.rows), h = 0;
        if (row < m.rows) {
            const float *x = sl_row_head(m.x, pair / m.n_used, m.cols);
            int64_t b = (int64_t)expert * m.rows + row;
            float gate = dot(m.gate[expert], row, x), up = dot(m.up[expert], row, x);
            if (m.gate_bias) gate += m.gate_bias[b];
            if (m.up_bias) up += m.up_bias[b];
            h = sl_glu_half_range(sl_gated(m.act, gate, up));
        }
        if (threadIdx.x % 32) continue;
        sl_row_halfs(head)[row] = __float2half_rn(h);
        if (row == 0) *head = SL_CUDA_GLU_SCALE;
    }
}

__global__ void plain_down(const __grid_constant__ sl_moe_product m,
                           const __grid_constant__ sl_moe_plan p)
{
    sl_next();
    sl_wait();
    int row = m.first + blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= min(m.first + p.y_cols, m.rows)) return;
    for (int at = blockIdx.y; at < p.n_pairs; at += gridDim.y) {
        int expert = p.ids[p.pair[at]];
        float y = dot(m.gate[expert], row, sl_row_head(m.x, at, m.cols));
        if (m.gate_bias) y += m.gate_bias[(int64_t)expert * m.rows + row];
        if (threadIdx.x % 32 == 0) p.y[(int64_t)at * p.y_cols + row - m.first] = y;
    }
}

dim3 grid_of(int64_t rows, int places)
{
    return dim3((unsigned)((rows + WARPS - 1) / WARPS), SL_MIN(places, GRID_ROWS_MAX));
}

void up_launch(struct sl_cuda *c, const sl_moe_product *m, const sl_moe_plan *p)
{
    sl_launch(c, plain_up, grid_of(sl_cuda_pad(m->rows), p->n_pairs), THREADS, 0, *m, *p);
}

void down_launch(struct sl_cuda *c, const sl_moe_product *m, const sl_moe_plan *p)
{
    sl_launch(c, plain_down, grid_of(p->y_cols, p->n_pairs), THREADS, 0, *m, *p);
}

/* V columns of one row in every thread. */
template <int V>
__global__ void sum_places(const __grid_constant__ sl_moe_plan p, int n, int n_used, int dim,
                           int first, int cols, float *out)
{
    sl_next();
    sl_wait();
    int d = (blockIdx.x * THREADS + threadIdx.x) * V;
    if (d >= cols) return;
    for (int64_t i = blockIdx.y; i < n; i += gridDim.y) {
        sl_piece<V> sum = sl_piece_load<V>(out + i * dim + first + d);
        for (int s = 0; s < n_used; s++) {
            float weight = p.weights[i * n_used + s];
            int64_t place = p.place[i * n_used + s];
            sl_piece<V> y = sl_piece_load<V>(p.y + place * p.y_cols + d);
#pragma unroll
            for (int e = 0; e < V; e++) sum.v[e] = fmaf(weight, y.v[e], sum.v[e]);
        }
        sl_piece_store<V>(out + i * dim + first + d, sum);
    }
}

template <int V>
void sum_launch(struct sl_cuda *c, const sl_moe_plan *p, int n, int n_used, int dim, int first,
                int cols, float *out)
{
    dim3 grid((cols + V * THREADS - 1) / (V * THREADS), SL_MIN(n, GRID_ROWS_MAX));
    sl_launch(c, sum_places<V>, grid, THREADS, 0, *p, n, n_used, dim, first, cols, out);
}

} // namespace

const struct sl_moe_kernels sl_moe_plain = {up_launch, down_launch, up_launch, down_launch, NULL};

void sl_moe_sum(struct sl_cuda *c, const struct sl_moe_plan *p, int n, int n_used, int dim,
                int first, int cols, float *out)
{
    if (n > SL_DECODE_ROWS_MAX && dim % 4 == 0 && cols % 4 == 0 && p->y_cols % 4 == 0)
        sum_launch<4>(c, p, n, n_used, dim, first, cols, out);
    else
        sum_launch<1>(c, p, n, n_used, dim, first, cols, out);
}
