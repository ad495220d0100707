/* attention_join.cu - the pieces of lone rows put together into product rows; see
 * attention_parts.cuh. */
#include "kernels/cuda/attention_job.cuh"

#define SUM_WARPS 4

/* A warp per (row, head). Grid: heads / SUM_WARPS, lone rows. */
template <int QUADS>
static __global__ void __launch_bounds__(32 * SUM_WARPS)
    join_pieces(const __grid_constant__ struct attention a, int first, const struct parts parts,
                int padding)
{
    sl_next();
    int row = a.lone[first + blockIdx.y], lane = threadIdx.x % 32;
    int head = blockIdx.x * SUM_WARPS + threadIdx.x / 32;
    int pos = row >= 0 ? a.pos[row] : -1;
    float sink = a.sinks && head < a.n_heads ? a.sinks[head] * SL_LOG2E : -INFINITY;
    sl_wait();
    if (padding)
        zero_padding_rows(a.pos, blockIdx.y * gridDim.x + blockIdx.x, gridDim.x * gridDim.y,
                          a.n_rows, a.out, a.row_bytes);
    if (pos < 0 || head >= a.n_heads) return;
    float4 x[QUADS];
    combine<QUADS>(parts, (int64_t)blockIdx.y * a.n_heads + head,
                   span_of(pos, a.window, PIECE).count, sink, x);
    char *to = a.out + row * a.row_bytes;
    __half *halfs = reinterpret_cast<__half *>(to + SL_CUDA_ROW_HEAD);
#pragma unroll
    for (int i = 0; i < QUADS; i++) {
        int e = 4 * (lane + 32 * i);
        if (e >= a.head_dim) continue;
        uint2 y = make_uint2(pack_saturated(x[i].x, x[i].y), pack_saturated(x[i].z, x[i].w));
        *reinterpret_cast<uint2 *>(halfs + (int64_t)head * a.head_dim + e) = y;
    }
    if (head != a.n_heads - 1) return;
    if (lane == 0) *reinterpret_cast<float *>(to) = 1;
    int cols = a.n_heads * a.head_dim;
    for (int e = cols + lane; e < sl_cuda_pad(cols); e += 32) halfs[e] = __float2half(0);
}

void sl_cuda_attention_join(struct sl_cuda *c, const struct attention *a, int first, int n,
                            const struct parts *p, int padding)
{
    dim3 grid((unsigned)((a->n_heads + SUM_WARPS - 1) / SUM_WARPS), (unsigned)n);
    auto join = a->head_dim <= 128 ? join_pieces<1> : join_pieces<2>;
    claim_smem(join, 0);
    sl_launch(c, join, grid, 32 * SUM_WARPS, 0, *a, first, *p, padding);
}
