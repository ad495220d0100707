/* latent.cu - attention over latents: multi-head latent attention in its absorbed form
 * (DeepSeek-V2, 2024). One row per token is key and, its first v_dim elements, value of all heads.
 *
 * A block has one query row, 16 or 32 of its heads, and a piece of the keys. Heads are the rows of
 * the products. 64 latents at a time lie in shared memory and are used twice: warps score 16 keys
 * each, exchange weights, and add a quarter of the values' columns each. The next 64 are copied
 * meanwhile. Lone rows are cut into pieces as in attention_lone.cu; rows of tiles are not. */
#include "base/sl_assert.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_parts.cuh"

#define WARPS 4
#define THREADS (32 * WARPS)

struct job {
    const char *rows;
    struct kv_blocks blocks;
    int dim, v_dim, stride; /* stride: bytes of a row in shared memory */
    int n_heads, window;
    float scale, softcap;
    const float *sinks, *q;
    float *out;
    const int32_t *pos, *slot, *lone, *tables;
    const struct sl_cuda_tile *tiles;
    int max_blocks;
    int keys, stages; /* latents at a time: 16, 32 or 64; 2 stages overlap */
    struct parts parts;
};

/* Shared memory: queries [HEADS][stride], weights [HEADS][keys + 8] halfs, maxima [WARPS][HEADS],
 * totals [WARPS][HEADS], then the stages. */
template <int HEADS> struct layout {
    static __host__ __device__ int weights_at(const struct job &j)
    {
        return HEADS * j.stride;
    }
    static __host__ __device__ int maxima_at(const struct job &j)
    {
        return weights_at(j) + HEADS * 2 * (j.keys + SL_SMEM_PAD);
    }
    static __host__ __device__ int stages_at(const struct job &j)
    {
        return maxima_at(j) + 2 * WARPS * HEADS * 4;
    }
    static __host__ __device__ int bytes(const struct job &j)
    {
        return stages_at(j) + j.stages * j.keys * j.stride;
    }
};

/* Latents [key, key + keys) as halfs; those from `end` on are zeros. 8 threads to a row. */
template <typename KV>
static __device__ __forceinline__ void fetch(const struct job &j, const int32_t *table, int key,
                                             int end, char *to)
{
    typedef typename KV::type T;
    for (int r = threadIdx.x / 8; r < j.keys; r += THREADS / 8) {
        int lane = threadIdx.x % 8;
        bool ok = key + r < end;
        int64_t at = ok ? kv_row(table, j.blocks, 1, 0, key + r) : 0;
        const char *from = j.rows + at * j.dim * KV::bytes;
        char *row = to + r * j.stride;
        if (j.dim % 8) {
            for (int e = lane; e < j.dim; e += 8)
                reinterpret_cast<__half *>(row)[e] =
                    ok ? half_of(reinterpret_cast<const T *>(from)[e]) : __float2half(0);
        } else if constexpr (__is_same(KV, kv_f16)) {
#pragma unroll 3
            for (int c = lane * 16; c < 2 * j.dim; c += 128) copy16(smem_at(row + c), from + c, ok);
        } else {
            for (int e = lane * 8; e < j.dim; e += 64)
                *reinterpret_cast<uint4 *>(row + 2 * e) =
                    ok ? KV::halfs(from + e * KV::bytes) : make_uint4(0, 0, 0, 0);
        }
    }
    copies_commit();
}

/* Queries as halfs, times what makes scores of products. */
template <int HEADS>
static __device__ void fetch_queries(const struct job &j, const float *q, int n_heads, char *to)
{
    float factor = j.scale * (j.softcap != 0 ? 1 : SL_LOG2E);
    int cols = j.stride / 2 - SL_SMEM_PAD; /* filled up with zeros */
    if (j.dim % 4 == 0) {
        int quads = cols / 4;
#pragma unroll 6
        for (int i = threadIdx.x; i < HEADS * quads; i += THREADS) {
            int h = i / quads, e = i % quads * 4;
            float4 x = make_float4(0, 0, 0, 0);
            if (h < n_heads && e < j.dim)
                x = *reinterpret_cast<const float4 *>(q + (int64_t)h * j.dim + e);
            *reinterpret_cast<uint2 *>(to + h * j.stride + 2 * e) =
                make_uint2(pack_saturated(x.x * factor, x.y * factor),
                           pack_saturated(x.z * factor, x.w * factor));
        }
        return;
    }
    for (int i = threadIdx.x; i < HEADS * cols; i += THREADS) {
        int h = i / cols, e = i % cols;
        float x = h < n_heads && e < j.dim ? q[(int64_t)h * j.dim + e] * factor : 0;
        reinterpret_cast<__half *>(to + h * j.stride)[e] = half_of(x);
    }
}

/* Scores of 16 keys at k: s[m][n][..] of heads 16 m + g, + 8 and keys 8 n + 2t, + 1. */
template <int MT>
static __device__ __forceinline__ void score(const struct job &j, uint32_t q, uint32_t k,
                                             float (&s)[MT][2][4])
{
    int lane = threadIdx.x % 32, steps = j.stride / 32;
    q += lane % 16 * j.stride + lane / 16 * 16;
    k += (lane % 8 + lane / 16 * 8) * j.stride + lane / 8 % 2 * 16;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int i = 0; i < 8; i++) s[m][i / 4][i % 4] = 0;
#pragma unroll 4
    for (int i = 0; i < steps; i++) {
        uint32_t y[4];
        load4(y, k + 32 * i);
#pragma unroll
        for (int m = 0; m < MT; m++) {
            uint32_t x[4];
            load4(x, q + 16 * m * j.stride + 32 * i);
            multiply(s[m][0], x, y[0], y[1]);
            multiply(s[m][1], x, y[2], y[3]);
        }
    }
}

/* What a lane knows: heads 16 m + g, + 8; values of the warp's columns. */
template <int MT, int COLS> struct state {
    float sum[MT][COLS / 8][4];
    float best[MT][2], total[MT][2];
};

/* The warp's scores become weights in shared memory; all warps come to one maximum. */
template <int MT, int COLS>
static __device__ __forceinline__ void weigh(struct state<MT, COLS> &st, const struct job &j,
                                             float (&s)[MT][2][4], bool scored, int left,
                                             float *maxima, __half *weights)
{
    const int HEADS = 16 * MT;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float top = -INFINITY;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float &x = s[m][i / 2][2 * h + i % 2];
                if (j.softcap != 0) x = softened(x, j.softcap) * SL_LOG2E;
                if (!scored || 16 * warp + 8 * (i / 2) + 2 * t + i % 2 >= left) x = -INFINITY;
                top = fmaxf(top, x);
            }
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
            if (t == 0) maxima[warp * HEADS + 16 * m + 8 * h + g] = top;
        }
    __syncthreads();
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int head = 16 * m + 8 * h + g;
            float best = st.best[m][h];
#pragma unroll
            for (int w = 0; w < WARPS; w++) best = fmaxf(best, maxima[w * HEADS + head]);
            float shrink = exp2_fast(st.best[m][h] - best);
            st.best[m][h] = best;
            st.total[m][h] *= shrink;
#pragma unroll
            for (int n = 0; n < COLS / 8; n++)
                st.sum[m][n][2 * h] *= shrink, st.sum[m][n][2 * h + 1] *= shrink;
            if (!scored) continue;
#pragma unroll
            for (int n = 0; n < 2; n++) {
                float x = exp2_fast(s[m][n][2 * h] - best);
                float y = exp2_fast(s[m][n][2 * h + 1] - best);
                st.total[m][h] += x + y;
                *reinterpret_cast<uint32_t *>(weights + head * (j.keys + SL_SMEM_PAD) + 16 * warp +
                                              8 * n + 2 * t) = pack(x, y);
            }
        }
    __syncthreads();
}

template <int MT, int COLS>
static __device__ __forceinline__ void add_values(struct state<MT, COLS> &st, const struct job &j,
                                                  uint32_t weights, uint32_t v)
{
    int lane = threadIdx.x % 32, first = threadIdx.x / 32 * COLS;
    int stride = 2 * (j.keys + SL_SMEM_PAD), cols = j.stride / 2 - SL_SMEM_PAD - first;
    weights += lane % 16 * stride + lane / 16 * 16;
    v += lane % 16 * j.stride + lane / 16 * 16 + 2 * first;
    for (int i = 0; i < j.keys / 16; i++) {
        uint32_t x[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++) load4(x[m], weights + 16 * m * stride + 32 * i);
#pragma unroll
        for (int n = 0; n < COLS / 16; n++) {
            if (16 * n >= cols) continue;
            uint32_t y[4];
            load4_turned(y, v + 16 * i * j.stride + 32 * n);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                multiply(st.sum[m][2 * n], x[m], y[0], y[1]);
                multiply(st.sum[m][2 * n + 1], x[m], y[2], y[3]);
            }
        }
    }
}

/* Sums go to the row's parts, or, where the block had all keys, to the output. */
template <int MT, int COLS>
static __device__ __forceinline__ void put(struct state<MT, COLS> &st, const struct job &j,
                                           float *totals, int row, int head, int n_heads,
                                           int64_t part_row, int piece)
{
    const int HEADS = 16 * MT;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float total = st.total[m][h];
            total += __shfl_xor_sync(~0u, total, 1);
            total += __shfl_xor_sync(~0u, total, 2);
            if (t == 0) totals[warp * HEADS + 16 * m + 8 * h + g] = total;
        }
    __syncthreads();
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int in = 16 * m + 8 * h + g;
            if (in >= n_heads) continue;
            float total = 0, factor = 1;
#pragma unroll
            for (int w = 0; w < WARPS; w++) total += totals[w * HEADS + in];
            int64_t part = (part_row * j.n_heads + head + in) * j.parts.pieces + piece;
            float *to;
            if (j.parts.sum) {
                to = j.parts.sum + part * j.v_dim;
                if (warp == 0 && t == 0) j.parts.weight[part] = make_float2(st.best[m][h], total);
            } else {
                to = j.out + ((int64_t)row * j.n_heads + head + in) * j.v_dim;
                float sink = j.sinks ? j.sinks[head + in] * SL_LOG2E : -INFINITY;
                float best = fmaxf(st.best[m][h], sink);
                factor = exp2_fast(st.best[m][h] - best);
                factor /= total * factor + exp2_fast(sink - best);
            }
#pragma unroll
            for (int n = 0; n < COLS / 8; n++)
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    int e = warp * COLS + 8 * n + 2 * t + c;
                    if (e < j.v_dim) to[e] = st.sum[m][n][2 * h + c] * factor;
                }
        }
}

/* Row of the step that block z has; -1: none. Lone rows with parts, else rows of tiles. */
static __device__ __forceinline__ int row_of(const struct job &j, int first)
{
    if (j.parts.sum) return j.lone[first + blockIdx.z];
    const struct sl_cuda_tile &t = j.tiles[blockIdx.z / SL_CUDA_TILE_ROWS];
    int in = blockIdx.z % SL_CUDA_TILE_ROWS;
    return in < t.n ? t.row + in : -1;
}

/* Grid: pieces, groups of 16 MT heads, rows. */
template <typename KV, int MT, int COLS>
static __global__ void __launch_bounds__(THREADS)
    attend_latents(const __grid_constant__ struct job j, int first)
{
    typedef layout<16 * MT> L;
    extern __shared__ __align__(16) char smem[];
    sl_next();
    int row = row_of(j, first), piece = blockIdx.x, pos = row >= 0 ? j.pos[row] : -1;
    struct span span = span_of(pos >= 0 ? pos : 0, j.window, PIECE_LATENT);
    if (!j.parts.sum) span.count = 1, span.length = span.end - span.from;
    if (pos < 0 || piece >= span.count) {
        if (piece == 0) sl_wait(); /* see attention_lone.cu */
        return;
    }
    int head = blockIdx.y * 16 * MT, n_heads = min(16 * MT, j.n_heads - head);
    int from = span.from + piece * span.length, end = min(span.end, from + span.length);
    const int32_t *table = j.tables + (int64_t)j.slot[row] * j.max_blocks;
    char *stages = smem + L::stages_at(j);
    __half *weights = reinterpret_cast<__half *>(smem + L::weights_at(j));
    float *maxima = reinterpret_cast<float *>(smem + L::maxima_at(j));
    if (j.dim % 16) { /* columns that no copy reaches */
        for (int i = threadIdx.x; i < j.stages * j.keys * j.stride / 16; i += THREADS)
            reinterpret_cast<uint4 *>(stages)[i] = make_uint4(0, 0, 0, 0);
        __syncthreads();
    }
    sl_wait();
    fetch<KV>(j, table, from, end, stages);
    fetch_queries<16 * MT>(j, j.q + ((int64_t)row * j.n_heads + head) * j.dim, n_heads, smem);

    struct state<MT, COLS> st;
#pragma unroll
    for (int m = 0; m < MT; m++) {
        st.best[m][0] = st.best[m][1] = -1e30f; /* finite: differences are numbers */
        st.total[m][0] = st.total[m][1] = 0;
#pragma unroll
        for (int n = 0; n < COLS / 8; n++)
            st.sum[m][n][0] = st.sum[m][n][1] = st.sum[m][n][2] = st.sum[m][n][3] = 0;
    }
    int warp = threadIdx.x / 32, stage = 0;
    bool scores = 16 * warp < j.keys;
    for (int key = from; key < end; key += j.keys) {
        copies_wait<0>();
        __syncthreads(); /* these latents are there, and all are done with the others */
        char *now = stages + stage * j.keys * j.stride;
        if (j.stages > 1) {
            stage ^= 1;
            if (key + j.keys < end)
                fetch<KV>(j, table, key + j.keys, end, stages + stage * j.keys * j.stride);
        }
        float s[MT][2][4];
        if (scores) score<MT>(j, smem_at(smem), smem_at(now + 16 * warp * j.stride), s);
        weigh<MT, COLS>(st, j, s, scores, end - key, maxima, weights);
        add_values<MT, COLS>(st, j, smem_at(weights), smem_at(now));
        if (j.stages > 1 || key + j.keys >= end) continue;
        __syncthreads();
        fetch<KV>(j, table, key + j.keys, end, now);
    }
    put<MT, COLS>(st, j, maxima + WARPS * 16 * MT, row, head, n_heads, blockIdx.z, piece);
}

/* A warp per (lone row, head). Grid: heads / WARPS, lone rows. */
template <int QUADS>
static __global__ void __launch_bounds__(THREADS)
    join_latents(const __grid_constant__ struct job j, int first)
{
    sl_next();
    int row = j.lone[first + blockIdx.y], head = blockIdx.x * WARPS + threadIdx.x / 32;
    int pos = row >= 0 ? j.pos[row] : -1, lane = threadIdx.x % 32;
    float sink = j.sinks && head < j.n_heads ? j.sinks[head] * SL_LOG2E : -INFINITY;
    sl_wait();
    if (pos < 0 || head >= j.n_heads) return;
    float4 x[QUADS];
    combine<QUADS>(j.parts, (int64_t)blockIdx.y * j.n_heads + head,
                   span_of(pos, j.window, PIECE_LATENT).count, sink, x);
    float *to = j.out + ((int64_t)row * j.n_heads + head) * j.v_dim;
#pragma unroll
    for (int i = 0; i < QUADS; i++)
        if (4 * (lane + 32 * i) < j.v_dim)
            *reinterpret_cast<float4 *>(to + 4 * (lane + 32 * i)) = x[i];
}

/* ---- launch ---------------------------------------------------------------------------------- */

/* Latents at a time and stages, the most that fit; false: none. `one`: pieces are no longer than
 * the first stage, and a second block beside it is worth more than a second stage. */
template <int HEADS> static bool plan(struct job *j, int smem_max, bool one)
{
    static const int tries[][2] = {{64, 2}, {64, 1}, {32, 1}, {16, 1}};
    for (const auto &t : tries) {
        if (one && t[1] > 1) continue;
        j->keys = t[0], j->stages = t[1];
        if (layout<HEADS>::bytes(*j) <= smem_max) return true;
    }
    return false;
}

template <typename KV, int MT, int COLS>
static void launch(struct sl_cuda *c, const struct job *j, int first, int rows)
{
    int bytes = layout<16 * MT>::bytes(*j);
    int groups = (j->n_heads + 16 * MT - 1) / (16 * MT);
    claim_smem(attend_latents<KV, MT, COLS>, bytes);
    sl_launch(c, attend_latents<KV, MT, COLS>,
              dim3(j->parts.sum ? j->parts.pieces : 1, groups, rows), THREADS, bytes, *j, first);
}

static void launch_any(struct sl_cuda *c, struct job *j, enum sl_dtype type, int first, int rows)
{
    with_kv_type(type, [&](auto t) {
        typedef decltype(t) KV;
        bool one = j->parts.sum && j->parts.pieces < PIECES_MAX;
        bool wide = j->n_heads > 16 && j->v_dim <= 512 && plan<32>(j, c->smem_max, one);
        if (!wide) SL_ASSERT(plan<16>(j, c->smem_max, one));
        if (j->v_dim <= 128)
            wide ? launch<KV, 2, 32>(c, j, first, rows) : launch<KV, 1, 32>(c, j, first, rows);
        else if (j->v_dim <= 512)
            wide ? launch<KV, 2, 128>(c, j, first, rows) : launch<KV, 1, 128>(c, j, first, rows);
        else
            launch<KV, 1, 256>(c, j, first, rows);
    });
}

extern "C" void sl_cuda_latent_attention(struct sl_cuda *c, const struct sl_latent_view *kv,
                                         const float *q, const struct sl_attn *a, float *out)
{
    const struct sl_cuda_step *s = &c->step;
    SL_ASSERT(kv->dim <= SL_LATENT_DIM_MAX && kv->v_dim <= kv->dim && kv->v_dim % 4 == 0);
    struct job j = {};
    j.rows = (const char *)kv->rows;
    j.blocks = kv_blocks_of(kv->block_tokens);
    j.dim = kv->dim;
    j.v_dim = kv->v_dim;
    j.stride = (kv->dim + 15) / 16 * 32 + 2 * SL_SMEM_PAD;
    j.n_heads = a->n_heads;
    j.window = a->window;
    j.scale = a->scale;
    j.softcap = a->softcap;
    j.sinks = a->sinks;
    j.q = q;
    j.out = out;
    j.pos = s->pos;
    j.slot = s->slot;
    j.lone = s->lone;
    j.tables = s->tables;
    j.tiles = s->tiles;
    j.max_blocks = s->max_blocks;
    if (s->n_tiles > 0) launch_any(c, &j, kv->type, 0, s->n_tiles * SL_CUDA_TILE_ROWS);
    if (s->n_lone <= 0) return;
    int pieces = pieces_of(s->max_len, a->window, PIECE_LATENT);
    int64_t row = parts_row_bytes(a->n_heads, pieces, kv->v_dim);
    int at_once = (int)SL_MIN((int64_t)c->scratch_bytes / row, (int64_t)s->n_lone);
    SL_ASSERT(at_once > 0);
    for (int first = 0; first < s->n_lone; first += at_once) {
        int n = SL_MIN(at_once, s->n_lone - first);
        j.parts = parts_at(c->scratch, n, a->n_heads, pieces, kv->v_dim);
        launch_any(c, &j, kv->type, first, n);
        dim3 grid((unsigned)((a->n_heads + WARPS - 1) / WARPS), (unsigned)n);
        auto join = kv->v_dim <= 128   ? join_latents<1>
                    : kv->v_dim <= 512 ? join_latents<4>
                                       : join_latents<8>;
        claim_smem(join, 0);
        sl_launch(c, join, grid, THREADS, 0, j, first);
    }
}
