/* attention_parts.cuh - how the keys of a lone row are cut into pieces that blocks take, and how
 * what they found is put together. (flash-decoding, Dao et al. 2023)
 *
 * The cut depends on nothing but the row's own position and window, so a sequence gets the same
 * bits in any batch. Rows have at most PIECES_MAX pieces: very long ones have longer pieces. */
#ifndef SL_KERNELS_CUDA_ATTENTION_PARTS_CUH
#define SL_KERNELS_CUDA_ATTENTION_PARTS_CUH

#include "kernels/cuda/attention_mma.cuh"

#define PIECE 128       /* keys; of one KV head there are n_kv_heads at a time */
#define PIECE_LATENT 64 /* one for all heads */
#define PIECES_MAX 64   /* of a row */

/* Keys [from, end) of a row in `count` pieces of `length`. */
struct span {
    int from, end, length, count;
};

static
#ifdef __CUDACC__
    __host__ __device__
#endif
    inline struct span
    span_of(int pos, int window, int piece)
{
    struct span s;
    s.end = pos + 1;
    s.from = window > 0 && s.end > window ? s.end - window : 0;
    int keys = s.end - s.from, most = piece * PIECES_MAX;
    s.length = piece * ((keys + most - 1) / most);
    s.count = (keys + s.length - 1) / s.length;
    return s;
}

/* Pieces that rows of up to max_len keys can have: shorter ones have shorter pieces, and may have
 * more of them. */
static inline int pieces_of(int max_len, int window, int piece)
{
    struct span span = span_of((max_len > 1 ? max_len : 1) - 1, window, piece);
    return span.length > piece ? PIECES_MAX : span.count;
}

/* Partial results of the lone rows of one launch, in scratch: of (lone row, head, piece) the
 * largest score in units of log2(e), the sum of weights, the weighted sum [dim]. */
struct parts {
    float2 *weight; /* [rows][heads][pieces] */
    float *sum;     /* [rows][heads][pieces][dim] */
    int pieces, dim;
};

static inline int64_t parts_row_bytes(int n_heads, int pieces, int dim)
{
    return (int64_t)n_heads * pieces * (int64_t)(sizeof(float2) + sizeof(float) * (size_t)dim) +
           (int64_t)sizeof(float2);
}

/* For `rows` lone rows at scratch. */
static inline struct parts parts_at(void *scratch, int rows, int n_heads, int pieces, int dim)
{
    struct parts p;
    p.weight = (float2 *)scratch;
    p.sum = (float *)(p.weight + ((int64_t)rows * n_heads * pieces + 1) / 2 * 2); /* 16 bytes */
    p.pieces = pieces;
    p.dim = dim;
    return p;
}

/* A warp puts one head of a row together: lane has elements 4 (lane + 32 i) .. + 3, i < QUADS, in
 * x, divided by the sum of weights. Pieces are added in order. `sink`: score of the sink in units
 * of log2(e), or minus infinity. */
template <int QUADS>
static __device__ __forceinline__ void combine(const struct parts &p, int64_t row_head, int count,
                                               float sink, float4 (&x)[QUADS])
{
    int lane = threadIdx.x % 32;
    const float2 *w = p.weight + row_head * p.pieces;
    float2 none = make_float2(-INFINITY, 0), w0 = none, w1 = none;
    if (lane < count) w0 = w[lane];
    if (lane + 32 < count) w1 = w[lane + 32];
    float best = fmaxf(lanes_max<32>(fmaxf(w0.x, w1.x)), sink);
    float e0 = exp2_fast(w0.x - best), e1 = exp2_fast(w1.x - best);
    float total = lanes_sum<32>(e0 * w0.y + e1 * w1.y) + exp2_fast(sink - best);
    const float *from = p.sum + row_head * p.pieces * p.dim;
#pragma unroll
    for (int i = 0; i < QUADS; i++) x[i] = make_float4(0, 0, 0, 0);
#pragma unroll 8
    for (int k = 0; k < count; k++, from += p.dim) {
        float e = __shfl_sync(~0u, k < 32 ? e0 : e1, k % 32);
#pragma unroll
        for (int i = 0; i < QUADS; i++) {
            int at = 4 * (lane + 32 * i);
            if (at >= p.dim) continue;
            float4 y = *reinterpret_cast<const float4 *>(from + at);
            x[i].x += e * y.x, x[i].y += e * y.y, x[i].z += e * y.z, x[i].w += e * y.w;
        }
    }
    float inverse = 1 / total;
#pragma unroll
    for (int i = 0; i < QUADS; i++)
        x[i].x *= inverse, x[i].y *= inverse, x[i].z *= inverse, x[i].w *= inverse;
}

#endif
