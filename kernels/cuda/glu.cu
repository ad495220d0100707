/* glu.cu - gated linear units (Shazeer 2020) into product rows of the fixed scale
 * SL_CUDA_GLU_SCALE. A fixed scale makes the unit a matter of single elements, so that products can
 * have it as their last step too; what it cannot hold (from 2^22) saturates. */
#include "kernels/cuda/act.cuh"
#include "kernels/cuda/row.cuh"
#include "kernels/cuda/rows.h"

namespace
{

constexpr int THREADS = 256;
constexpr int GRID_ROWS_MAX = 65535;

template <int V>
__global__ void glu(enum sl_act act, const float *gate, const float *up, int64_t n, int64_t cols,
                    void *out)
{
    sl_next();
    sl_wait();
    int64_t at = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V;
    if (at >= sl_cuda_pad(cols)) return;
    for (int64_t i = blockIdx.y; i < n; i += gridDim.y) {
        float *head = sl_row_head(out, i, cols);
        sl_piece<V> y = {};
        if (at < cols) {
            sl_piece<V> g = sl_piece_load<V>(gate + i * cols + at);
            sl_piece<V> u = sl_piece_load<V>(up + i * cols + at);
#pragma unroll
            for (int e = 0; e < V; e++) y.v[e] = sl_glu_half_range(sl_gated(act, g.v[e], u.v[e]));
        }
        sl_piece_store_half<V>(sl_row_halfs(head) + at, y);
        if (at == 0) *head = SL_CUDA_GLU_SCALE;
    }
}

template <int V>
void start(struct sl_cuda *c, enum sl_act act, const float *gate, const float *up, int64_t n,
           int64_t cols, void *out)
{
    int64_t blocks = (sl_cuda_pad(cols) / V + THREADS - 1) / THREADS;
    dim3 grid((unsigned)blocks, (unsigned)(n < GRID_ROWS_MAX ? n : GRID_ROWS_MAX));
    sl_launch(c, glu<V>, grid, dim3(THREADS), 0, act, gate, up, n, cols, out);
}

} // namespace

void sl_cuda_glu(struct sl_cuda *c, enum sl_act act, const float *gate, const float *up, int64_t n,
                 int64_t cols, void *out)
{
    if (n <= 0) return;
    if (sl_in_pieces(8, cols, gate, up, out))
        start<8>(c, act, gate, up, n, cols, out);
    else
        start<1>(c, act, gate, up, n, cols, out);
}
