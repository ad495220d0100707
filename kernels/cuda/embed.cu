/* embed.cu - rows of a packed weight as float32, by the tokens of the step: the first operation of
 * a model, a few kilobytes, so each element is decoded plainly by a thread of its own. */
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rows.h"

namespace
{

constexpr int THREADS = 256;
constexpr int GRID_ROWS_MAX = 65535;

__global__ void embed(const __grid_constant__ sl_cuda_weight w, const int32_t *ids, int n,
                      float *out)
{
    sl_next();
    sl_wait();
    int k = (int)(blockIdx.x * THREADS + threadIdx.x);
    if (k >= w.cols) return;
    int at = w.order ? w.order[k] : k; /* act-order: stored column k meets this input */
    for (int64_t i = blockIdx.y; i < n; i += gridDim.y) {
        int32_t id = ids[i];
        out[i * w.cols + at] = id >= 0 && id < w.rows ? sl_cuda_element(w, id, k) : 0;
    }
}

} // namespace

void sl_cuda_embed(struct sl_cuda *c, const struct sl_cuda_weight *w, const int32_t *ids, int n,
                   float *out)
{
    if (n <= 0) return;
    dim3 grid((unsigned)((w->cols + THREADS - 1) / THREADS),
              (unsigned)(n < GRID_ROWS_MAX ? n : GRID_ROWS_MAX));
    sl_launch(c, embed, grid, dim3(THREADS), 0, *w, ids, n, out);
}
