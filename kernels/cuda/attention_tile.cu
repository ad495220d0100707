/* attention_tile.cu - flash attention of tiles of query rows over a paged cache, on any card:
 * prefill. (FlashAttention-2, Dao 2023)
 *
 * A block has a tile, up to 64 rows of one sequence, for one or two query heads of a KV head: both
 * read the same keys. Warps have rows of their own. Scores stay in registers and become the left
 * operand of the product with values; keys and values of the next piece are copied meanwhile. */
#include "kernels/cuda/attention_job.cuh"

#define WARPS 4

template <typename KV, int D, int MT, int BN> struct shape {
    static const int stride = 2 * (D + SL_SMEM_PAD);  /* bytes of a row of halfs */
    static const int q_bytes = 64 * MT * stride;      /* 64 rows of MT heads */
    static const int stage_bytes = 2 * BN * stride;   /* keys and values */
    static const bool copies = __is_same(KV, kv_f16); /* bytes as they are: asynchronously */
};

/* Rows of keys and values [key, key + BN); those from `end` on are zeros. 8 threads to a row. */
template <typename KV, int D, int BN, int STRIDE>
static __device__ __forceinline__ void fetch(const struct attention &a, const int32_t *table,
                                             int kv_head, int key, int end, char *k, char *v)
{
    const int row_bytes = a.head_dim * KV::bytes;
#pragma unroll
    for (int i = 0; i < BN / 16; i++) {
        int r = threadIdx.x / 8 + 16 * i, lane = threadIdx.x % 8;
        bool ok = key + r < end;
        int64_t at = ok ? kv_row(table, a.blocks, a.n_kv_heads, kv_head, key + r) : 0;
        const char *from_k = a.k + at * row_bytes, *from_v = a.v + at * row_bytes;
        if constexpr (__is_same(KV, kv_f16)) {
            copy_row<2 * D>(smem_at(k) + r * STRIDE, from_k, row_bytes, lane, ok);
            copy_row<2 * D>(smem_at(v) + r * STRIDE, from_v, row_bytes, lane, ok);
        } else {
#pragma unroll 1
            for (int e = lane * 8; e < a.head_dim; e += 64) {
                uint4 x = make_uint4(0, 0, 0, 0), y = x;
                if (ok)
                    x = KV::halfs(from_k + e * KV::bytes), y = KV::halfs(from_v + e * KV::bytes);
                *reinterpret_cast<uint4 *>(k + r * STRIDE + 2 * e) = x;
                *reinterpret_cast<uint4 *>(v + r * STRIDE + 2 * e) = y;
            }
        }
    }
}

/* Queries as halfs, times what makes scores of products (without softcap in units of log2(e)). */
template <int D, int MT>
static __device__ void fetch_queries(const struct attention &a, const struct sl_cuda_tile &tile,
                                     int head, int n_heads, char *to)
{
    float factor = a.scale * (a.softcap != 0 ? 1 : SL_LOG2E);
    for (int i = threadIdx.x; i < 64 * MT * D / 4; i += 32 * WARPS) {
        int r = i / (D / 4), e = i % (D / 4) * 4, row = r % 64, h = r / 64;
        float4 x = make_float4(0, 0, 0, 0);
        if (row < tile.n && h < n_heads && e < a.head_dim)
            x = *reinterpret_cast<const float4 *>(
                a.q + ((int64_t)(tile.row + row) * a.n_heads + head + h) * a.head_dim + e);
        *reinterpret_cast<uint2 *>(to + r * 2 * (D + SL_SMEM_PAD) + 2 * e) = make_uint2(
            pack_saturated(x.x * factor, x.y * factor), pack_saturated(x.z * factor, x.w * factor));
    }
}

/* What a warp knows of its rows: lane 4 g + t has rows 16 m + g, + 8 and columns 8 n + 2t, + 1. */
template <int D, int MT> struct state {
    float sum[MT][D / 8][4];
    float best[MT][2], total[MT][2];
};

template <int D, int MT, int BN>
static __device__ __forceinline__ void score(uint32_t q, uint32_t k, float (&s)[MT][BN / 8][4])
{
    const int STRIDE = 2 * (D + SL_SMEM_PAD);
    int lane = threadIdx.x % 32;
    q += lane % 16 * STRIDE + lane / 16 * 16;
    k += (lane % 8 + lane / 16 * 8) * STRIDE + lane / 8 % 2 * 16;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < BN / 8; n++) s[m][n][0] = s[m][n][1] = s[m][n][2] = s[m][n][3] = 0;
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        uint32_t x[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++) load4(x[m], q + 16 * m * STRIDE + 32 * i);
#pragma unroll
        for (int n = 0; n < BN / 16; n++) {
            uint32_t y[4];
            load4(y, k + 16 * n * STRIDE + 32 * i);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                multiply(s[m][2 * n], x[m], y[0], y[1]);
                multiply(s[m][2 * n + 1], x[m], y[2], y[3]);
            }
        }
    }
}

/* Scores become weights. `pos`: of the lane's row g of the first 16; keys [key, key + BN). */
template <int D, int MT, int BN>
static __device__ __forceinline__ void weigh(struct state<D, MT> &st, float (&s)[MT][BN / 8][4],
                                             const struct attention &a, int pos, int key,
                                             bool masked)
{
    int t = threadIdx.x % 4;
    if (a.softcap != 0) {
#pragma unroll
        for (int i = 0; i < MT * BN / 2; i++) {
            float &x = s[i / (BN / 2)][i % (BN / 2) / 4][i % 4];
            x = softened(x, a.softcap) * SL_LOG2E;
        }
    }
    if (masked) {
#pragma unroll
        for (int i = 0; i < MT * BN / 2; i++) {
            int n = i % (BN / 2) / 4, p = pos + i / (BN / 2) * 16 + i % 4 / 2 * 8;
            int j = key + 8 * n + 2 * t + i % 2;
            if (j > p || (a.window > 0 && j <= p - a.window)) s[i / (BN / 2)][n][i % 4] = -INFINITY;
        }
    }
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float top = st.best[m][h];
#pragma unroll
            for (int n = 0; n < BN / 8; n++)
                top = fmaxf(top, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
            float shrink = exp2_fast(st.best[m][h] - top), total = 0;
            st.best[m][h] = top;
#pragma unroll
            for (int n = 0; n < BN / 8; n++)
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    float &x = s[m][n][2 * h + c];
                    x = exp2_fast(x - top);
                    total += x;
                }
            st.total[m][h] = st.total[m][h] * shrink + total;
#pragma unroll
            for (int n = 0; n < D / 8; n++)
                st.sum[m][n][2 * h] *= shrink, st.sum[m][n][2 * h + 1] *= shrink;
        }
}

template <int D, int MT, int BN>
static __device__ __forceinline__ void add_values(struct state<D, MT> &st, uint32_t v,
                                                  const float (&s)[MT][BN / 8][4])
{
    const int STRIDE = 2 * (D + SL_SMEM_PAD);
    int lane = threadIdx.x % 32;
    v += lane % 16 * STRIDE + lane / 16 * 16;
#pragma unroll
    for (int i = 0; i < BN / 16; i++) {
        uint32_t p[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++) {
            const float(&x)[4] = s[m][2 * i], (&y)[4] = s[m][2 * i + 1];
            p[m][0] = pack(x[0], x[1]), p[m][1] = pack(x[2], x[3]);
            p[m][2] = pack(y[0], y[1]), p[m][3] = pack(y[2], y[3]);
        }
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            uint32_t y[4];
            load4_turned(y, v + 16 * i * STRIDE + 32 * n);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                multiply(st.sum[m][2 * n], p[m], y[0], y[1]);
                multiply(st.sum[m][2 * n + 1], p[m], y[2], y[3]);
            }
        }
    }
}

/* A warp's rows, row `first` of the tile and on, of query head `head`. */
template <int D, int MT>
static __device__ __forceinline__ void put_rows(struct state<D, MT> &st, const struct attention &a,
                                                const struct sl_cuda_tile &tile, int first,
                                                int head)
{
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    float sink = a.sinks ? a.sinks[head] * SL_LOG2E : -INFINITY;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int row = first + 16 * m + 8 * h + g;
            float total = st.total[m][h], best = fmaxf(st.best[m][h], sink);
            total += __shfl_xor_sync(~0u, total, 1);
            total += __shfl_xor_sync(~0u, total, 2);
            float shrink = exp2_fast(st.best[m][h] - best);
            shrink /= total * shrink + exp2_fast(sink - best);
            if (row >= tile.n) continue;
            __half *to = reinterpret_cast<__half *>(a.out + (tile.row + row) * a.row_bytes +
                                                    SL_CUDA_ROW_HEAD) +
                         (int64_t)head * a.head_dim;
#pragma unroll
            for (int n = 0; n < D / 8; n++)
                if (8 * n < a.head_dim)
                    *reinterpret_cast<uint32_t *>(to + 8 * n + 2 * t) = pack_saturated(
                        st.sum[m][n][2 * h] * shrink, st.sum[m][n][2 * h + 1] * shrink);
        }
}

/* Grid: KV heads x groups of MT query heads, tiles (the last first: it has the most keys). */
template <typename KV, int D, int MT, int BN>
static __global__ void __launch_bounds__(32 * WARPS)
    attend_tile(const __grid_constant__ struct attention a, int stages, int padding)
{
    typedef shape<KV, D, MT, BN> S;
    extern __shared__ __align__(16) char smem[];
    sl_next();
    const struct sl_cuda_tile tile = a.tiles[gridDim.y - 1 - blockIdx.y];
    int per = (a.group + MT - 1) / MT;
    int kv_head = blockIdx.x / per, in_group = blockIdx.x % per * MT;
    int head = kv_head * a.group + in_group, n_heads = min(MT, a.group - in_group);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int32_t *table = a.tables + (int64_t)tile.slot * a.max_blocks;
    char *pieces = smem + S::q_bytes;
    int end = tile.pos + tile.n, from = a.window > 0 ? max(0, tile.pos - a.window + 1) : 0;
    from = from / BN * BN;
    if (a.head_dim < D) { /* columns that no copy reaches */
        for (int i = threadIdx.x; i < stages * S::stage_bytes / 16; i += 32 * WARPS)
            reinterpret_cast<uint4 *>(pieces)[i] = make_uint4(0, 0, 0, 0);
        __syncthreads();
    }
    sl_wait();
    if (padding)
        zero_padding_rows(a.pos, blockIdx.y * gridDim.x + blockIdx.x, gridDim.x * gridDim.y,
                          a.n_rows, a.out, a.row_bytes);

    struct state<D, MT> st;
#pragma unroll
    for (int m = 0; m < MT; m++) {
        st.best[m][0] = st.best[m][1] = -1e30f; /* finite: differences are numbers */
        st.total[m][0] = st.total[m][1] = 0;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            st.sum[m][n][0] = st.sum[m][n][1] = st.sum[m][n][2] = st.sum[m][n][3] = 0;
    }
    int first = warp * 16 * MT % 64, pos = tile.pos + first; /* the warp's rows */
    int last = min(pos + 16 * MT, end) - 1;
    if (stages > 1) {
        fetch<KV, D, BN, S::stride>(a, table, kv_head, from, end, pieces, pieces + BN * S::stride);
        copies_commit();
    }
    fetch_queries<D, MT>(a, tile, head, n_heads, smem);
    for (int key = from, stage = 0; key < end; key += BN) {
        char *k = pieces + stage * S::stage_bytes, *v = k + BN * S::stride;
        if (stages > 1) {
            copies_wait<0>();
            __syncthreads(); /* this piece is there, and the other has been read */
            char *next = pieces + (stage ^ 1) * S::stage_bytes;
            if (key + BN < end)
                fetch<KV, D, BN, S::stride>(a, table, kv_head, key + BN, end, next,
                                            next + BN * S::stride);
            copies_commit();
            stage ^= 1;
        } else {
            __syncthreads();
            fetch<KV, D, BN, S::stride>(a, table, kv_head, key, end, k, v);
            copies_commit();
            copies_wait<0>();
            __syncthreads();
        }
        if (key > last || (a.window > 0 && key + BN <= pos - a.window + 1)) continue;
        bool masked = key + BN - 1 > pos || (a.window > 0 && key < pos + 16 * MT - a.window);
        float s[MT][BN / 8][4];
        score<D, MT, BN>(smem_at(smem + warp * 16 * MT * S::stride), smem_at(k), s);
        weigh<D, MT, BN>(st, s, a, pos + lane / 4, key, masked);
        add_values<D, MT, BN>(st, smem_at(v), s);
    }
    copies_wait<0>();
    int h = warp * 16 * MT / 64;
    if (h < n_heads) put_rows<D, MT>(st, a, tile, first, head + h);
    if (blockIdx.x > 0) return;
    int cols = a.n_heads * a.head_dim;
    for (int r = threadIdx.x; r < tile.n; r += 32 * WARPS) {
        char *row = a.out + (tile.row + r) * a.row_bytes;
        *reinterpret_cast<float *>(row) = 1;
        for (int e = cols; e < sl_cuda_pad(cols); e++)
            reinterpret_cast<__half *>(row + SL_CUDA_ROW_HEAD)[e] = __float2half(0);
    }
}

template <typename KV, int D, int MT, int BN>
static void launch(struct sl_cuda *c, const struct attention *a, int padding)
{
    typedef shape<KV, D, MT, BN> S;
    int stages = S::q_bytes + 2 * S::stage_bytes <= c->smem_max ? 2 : 1;
    int bytes = S::q_bytes + stages * S::stage_bytes;
    int per = (a->group + MT - 1) / MT;
    claim_smem(attend_tile<KV, D, MT, BN>, bytes);
    sl_launch(c, attend_tile<KV, D, MT, BN>, dim3(a->n_kv_heads * per, c->step.n_tiles), 32 * WARPS,
              bytes, *a, stages, padding);
}

template <typename KV, int D>
static void launch_heads(struct sl_cuda *c, const struct attention *a, int padding)
{
    if (a->group == 1)
        launch<KV, D, 1, 64>(c, a, padding);
    else
        launch<KV, D, 2, 64>(c, a, padding);
}

void sl_cuda_attention_tiles(struct sl_cuda *c, const struct attention *a, int padding)
{
    with_kv_type(a->type, [&](auto type) {
        typedef decltype(type) KV;
        if (a->head_dim <= 64)
            launch_heads<KV, 64>(c, a, padding);
        else if (a->head_dim <= 96)
            launch_heads<KV, 96>(c, a, padding);
        else if (a->head_dim <= 128)
            launch_heads<KV, 128>(c, a, padding);
        else
            launch<KV, 256, 1, 32>(c, a, padding);
    });
}
