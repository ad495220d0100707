/* attention_lone.cu - attention of single query rows over a paged cache: decode.
 *
 * Bound by reading keys and values once. A block has one piece of the keys of one row and KV head;
 * its warps take 16 keys at a time, each on its own, with copies of the next 16 under way. All
 * query heads of the KV head are multiplied together: keys are the 16 rows of a product, heads its
 * 8 columns, so scores are S^T = K Q^T and sums O^T = V^T P^T, and P^T comes from S^T by turning
 * two 8 x 8 matrices in registers. Warps meet only at the end, when their sums are added in order.
 *
 * Keys that earlier steps wrote are copied before the kernels in front are waited for. */
#include "kernels/cuda/attention_job.cuh"

#define WARPS_MAX 4
#define TILE 16 /* keys that a warp takes at a time */

/* Shared memory of a block: warps' stages of raw K and V tiles, a tile of halfs for types that are
 * converted, queries; then in place of the stages the warps' sums. */
struct plan {
    int warps, stages;
    int q_at, bytes; /* offset of the queries, size of all */
};

template <typename KV, int D, int NT> struct shape {
    static const bool converts = KV::bytes != 2 || !__is_same(KV, kv_f16);
    static const int raw_stride = D * KV::bytes + 16;
    static const int half_stride = 2 * (D + SL_SMEM_PAD);
    static const int raw_tile = TILE * raw_stride;
    static const int half_tile = converts ? TILE * half_stride : 0;
    static const int heads = 8 * NT;
    static const int sum_stride = D + 4; /* floats */

    static int warp_bytes(int stages)
    {
        return 2 * stages * raw_tile + half_tile;
    }
    /* The largest plan that fits twice or more, else once. */
    static struct plan plan_for(int smem_max)
    {
        static const int tries[][2] = {{4, 2}, {4, 1}, {2, 1}, {1, 1}};
        struct plan p = {};
        for (const auto &t : tries) {
            int sums = t[0] * heads * (sum_stride + 2) * 4, tiles = t[0] * warp_bytes(t[1]);
            int q_at = ((sums > tiles ? sums : tiles) + 15) / 16 * 16;
            p = {t[0], t[1], q_at, q_at + heads * half_stride + heads * 4};
            if (p.bytes <= smem_max) break;
        }
        return p;
    }
};

/* ---- copies ---------------------------------------------------------------------------------- */

/* What a warp needs to fetch tiles. */
struct source {
    const char *k, *v;
    const int32_t *table;
    struct kv_blocks blocks;
    int n_heads, head, row_bytes, end; /* keys from `end` on are zeros */
};

/* Copies keys [key, key + 16) of K and V to k and v in shared memory, 8 lanes to a row. */
template <int STRIDE>
static __device__ __forceinline__ void fetch(const struct source &s, int key, uint32_t k,
                                             uint32_t v)
{
    const int FULL = STRIDE - 16;
    int lane = threadIdx.x % 8, first = threadIdx.x % 32 / 8;
    if (s.row_bytes == FULL && FULL % 128 == 0) {
#pragma unroll
        for (int r = first; r < TILE; r += 4) {
            bool ok = key + r < s.end;
            int64_t at =
                ok ? (int64_t)kv_row(s.table, s.blocks, s.n_heads, s.head, key + r) * FULL : 0;
            copy_row<FULL>(k + r * STRIDE, s.k + at, FULL, lane, ok);
            copy_row<FULL>(v + r * STRIDE, s.v + at, FULL, lane, ok);
        }
        return;
    }
#pragma unroll 1
    for (int r = first; r < TILE; r += 4) {
        bool ok = key + r < s.end;
        int64_t at = ok ? kv_row(s.table, s.blocks, s.n_heads, s.head, key + r) : 0;
        copy_row<0>(k + r * STRIDE, s.k + at * s.row_bytes, s.row_bytes, lane, ok);
        copy_row<0>(v + r * STRIDE, s.v + at * s.row_bytes, s.row_bytes, lane, ok);
    }
}

/* A warp's raw tile as halfs. */
template <typename KV, int D>
static __device__ __forceinline__ void convert(const char *raw, char *halfs)
{
    typedef shape<KV, D, 1> S;
    if constexpr (S::converts) {
        __syncwarp();
#pragma unroll 2
        for (int i = threadIdx.x % 32; i < TILE * D / 8; i += 32) {
            int r = i / (D / 8), e = i % (D / 8) * 8;
            *reinterpret_cast<uint4 *>(halfs + r * S::half_stride + 2 * e) =
                KV::halfs(raw + r * S::raw_stride + e * KV::bytes);
        }
        __syncwarp();
    }
}

/* ---- one tile -------------------------------------------------------------------------------- */

/* What a warp knows of its keys so far. Lane l = 4 g + t has heads 8 n + 2t, 2t + 1 and elements
 * 16 m + g, + 8. */
template <int D, int NT> struct state {
    float sum[D / 16][NT][4];
    float best[NT][2], total[NT][2];
};

template <int D, int NT> static __device__ __forceinline__ void begin(struct state<D, NT> &st)
{
#pragma unroll
    for (int n = 0; n < NT; n++) {
        st.best[n][0] = st.best[n][1] = -1e30f; /* finite: differences are numbers */
        st.total[n][0] = st.total[n][1] = 0;
#pragma unroll
        for (int m = 0; m < D / 16; m++)
            st.sum[m][n][0] = st.sum[m][n][1] = st.sum[m][n][2] = st.sum[m][n][3] = 0;
    }
}

/* Scores of 16 keys: s[n][0..1] key g, s[n][2..3] key g + 8. */
template <int D, int NT>
static __device__ __forceinline__ void score(uint32_t k, const uint32_t (&q)[D / 16][NT][2],
                                             float (&s)[NT][4])
{
    int lane = threadIdx.x % 32;
    uint32_t at = k + (uint32_t)(lane % 16 * 2 * (D + SL_SMEM_PAD) + lane / 16 * 16);
#pragma unroll
    for (int n = 0; n < NT; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        uint32_t a[4];
        load4(a, at + 32 * i);
#pragma unroll
        for (int n = 0; n < NT; n++) multiply(s[n], a, q[i][n][0], q[i][n][1]);
    }
}

/* Scores become weights; earlier sums shrink when a larger score comes. */
template <int D, int NT>
static __device__ __forceinline__ void weigh(struct state<D, NT> &st, float (&s)[NT][4],
                                             const float (&factor)[NT][2], float softcap, int left,
                                             uint32_t (&p)[NT][2])
{
    int g = threadIdx.x % 32 / 4;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        float shrink[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float &a = s[n][h], &b = s[n][2 + h];
            a *= factor[n][h], b *= factor[n][h];
            if (softcap != 0)
                a = softened(a, softcap) * SL_LOG2E, b = softened(b, softcap) * SL_LOG2E;
            a = g < left ? a : -INFINITY, b = g + 8 < left ? b : -INFINITY;
            float top = fmaxf(a, b); /* over the 8 lanes that have this head */
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 4));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 8));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 16));
            float best = fmaxf(st.best[n][h], top);
            shrink[h] = exp2_fast(st.best[n][h] - best);
            a = exp2_fast(a - best), b = exp2_fast(b - best);
            st.total[n][h] = st.total[n][h] * shrink[h] + a + b;
            st.best[n][h] = best;
        }
        p[n][0] = turned(pack(s[n][0], s[n][1]));
        p[n][1] = turned(pack(s[n][2], s[n][3]));
#pragma unroll
        for (int m = 0; m < D / 16; m++) {
            st.sum[m][n][0] *= shrink[0], st.sum[m][n][1] *= shrink[1];
            st.sum[m][n][2] *= shrink[0], st.sum[m][n][3] *= shrink[1];
        }
    }
}

template <int D, int NT>
static __device__ __forceinline__ void add_values(struct state<D, NT> &st, uint32_t v,
                                                  const uint32_t (&p)[NT][2])
{
    int lane = threadIdx.x % 32;
    uint32_t at =
        v + (uint32_t)((lane % 8 + lane / 16 * 8) * 2 * (D + SL_SMEM_PAD) + lane / 8 % 2 * 16);
#pragma unroll
    for (int m = 0; m < D / 16; m++) {
        uint32_t a[4];
        load4_turned(a, at + 32 * m);
#pragma unroll
        for (int n = 0; n < NT; n++) multiply(st.sum[m][n], a, p[n][0], p[n][1]);
    }
}

/* ---- a block --------------------------------------------------------------------------------- */

/* Brings the queries of the block's heads to shared memory as halfs between 1 and 2 in magnitude;
 * what is taken out goes, with the scale of scores, into factor[]. A warp per head. */
template <int D, int HEADS>
static __device__ void fetch_queries(const struct attention &a, const float *q, int n_heads,
                                     __half *to, float *factor)
{
    int lane = threadIdx.x % 32, warps = (int)blockDim.x / 32;
#pragma unroll 1
    for (int h = (int)threadIdx.x / 32; h < HEADS; h += warps) {
        const float *from = q + (int64_t)h * a.head_dim;
        float x[D / 32], top = 0;
#pragma unroll
        for (int i = 0; i < D / 32; i++) {
            int e = lane + 32 * i;
            x[i] = h < n_heads && e < a.head_dim ? from[e] : 0;
            top = fmaxf(top, fabsf(x[i]));
        }
        float size = magnitude(lanes_max<32>(top)), inverse = __frcp_rn(size);
#pragma unroll
        for (int i = 0; i < D / 32; i++)
            to[h * (D + SL_SMEM_PAD) + lane + 32 * i] = __float2half_rn(x[i] * inverse);
        if (lane == 0) factor[h] = size * a.scale * (a.softcap != 0 ? 1 : SL_LOG2E);
    }
}

/* Fragments and factors of the lane's heads. */
template <int D, int NT>
static __device__ __forceinline__ void take_queries(const __half *from, const float *factors,
                                                    uint32_t (&q)[D / 16][NT][2],
                                                    float (&factor)[NT][2])
{
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        const __half *mine = from + (8 * n + g) * (D + SL_SMEM_PAD) + 2 * t;
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            q[i][n][0] = *reinterpret_cast<const uint32_t *>(mine + 16 * i);
            q[i][n][1] = *reinterpret_cast<const uint32_t *>(mine + 16 * i + 8);
        }
        factor[n][0] = factors[8 * n + 2 * t], factor[n][1] = factors[8 * n + 2 * t + 1];
    }
}

/* The warps' sums, added in order, become the piece's part. */
template <int D, int NT>
static __device__ void join(struct state<D, NT> &st, char *smem, const struct parts &parts,
                            int64_t row_head, int n_heads, int piece)
{
    const int HEADS = 8 * NT, STRIDE = D + 4;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    int g = lane / 4, t = lane % 4;
    float *sums = reinterpret_cast<float *>(smem);
    float2 *weights = reinterpret_cast<float2 *>(sums + warps * HEADS * STRIDE);
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int head = 8 * n + 2 * t + h;
            float total = st.total[n][h];
            total += __shfl_xor_sync(~0u, total, 4);
            total += __shfl_xor_sync(~0u, total, 8);
            total += __shfl_xor_sync(~0u, total, 16);
            if (g == 0) weights[warp * HEADS + head] = make_float2(st.best[n][h], total);
            float *to = sums + (warp * HEADS + head) * STRIDE + g;
#pragma unroll
            for (int m = 0; m < D / 16; m++)
                to[16 * m] = st.sum[m][n][h], to[16 * m + 8] = st.sum[m][n][2 + h];
        }
    __syncthreads();
#pragma unroll 1
    for (int h = warp; h < n_heads; h += warps) {
        float best = -INFINITY, total = 0, e[WARPS_MAX];
#pragma unroll
        for (int w = 0; w < WARPS_MAX; w++)
            if (w < warps) best = fmaxf(best, weights[w * HEADS + h].x);
#pragma unroll
        for (int w = 0; w < WARPS_MAX; w++) {
            e[w] = w < warps ? exp2_fast(weights[w * HEADS + h].x - best) : 0;
            if (w < warps) total += e[w] * weights[w * HEADS + h].y;
        }
        int64_t part = (row_head + h) * parts.pieces + piece;
        if (lane == 0) parts.weight[part] = make_float2(best, total);
#pragma unroll 1
        for (int d = 4 * lane; d < parts.dim; d += 128) {
            float4 x = make_float4(0, 0, 0, 0);
#pragma unroll
            for (int w = 0; w < WARPS_MAX; w++) {
                if (w >= warps) continue;
                float4 y = *reinterpret_cast<float4 *>(sums + (w * HEADS + h) * STRIDE + d);
                x.x += e[w] * y.x, x.y += e[w] * y.y, x.z += e[w] * y.z, x.w += e[w] * y.w;
            }
            *reinterpret_cast<float4 *>(parts.sum + part * parts.dim + d) = x;
        }
    }
}

/* Grid: pieces, KV heads x groups of 8 NT query heads, lone rows. */
template <typename KV, int D, int NT>
static __global__ void __launch_bounds__(32 * WARPS_MAX)
    attend_pieces(const __grid_constant__ struct attention a, const struct plan plan, int first,
                  const struct parts parts)
{
    typedef shape<KV, D, NT> S;
    extern __shared__ __align__(16) char smem[];
    sl_next();
    int row = a.lone[first + blockIdx.z];
    int pos = row >= 0 ? a.pos[row] : -1;
    struct span span = pos >= 0 ? span_of(pos, a.window, PIECE) : span_of(0, 0, PIECE);
    int piece = blockIdx.x;
    if (pos < 0 || piece >= span.count) {
        /* the first piece always waits, which is enough to keep the kernels in order */
        if (piece == 0) sl_wait();
        return;
    }
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = plan.warps;
    int per = (a.group + S::heads - 1) / S::heads;
    int kv_head = blockIdx.y / per, in_group = blockIdx.y % per * S::heads;
    int n_heads = min(S::heads, a.group - in_group);
    int head = kv_head * a.group + in_group;

    struct source source = {a.k,
                            a.v,
                            a.tables + (int64_t)a.slot[row] * a.max_blocks,
                            a.blocks,
                            a.n_kv_heads,
                            kv_head,
                            a.head_dim * KV::bytes,
                            0};
    int from = span.from + piece * span.length;
    source.end = min(span.end, from + span.length);
    char *own = smem + warp * (2 * plan.stages * S::raw_tile + S::half_tile);
    char *halfs = own + 2 * plan.stages * S::raw_tile;
    if (a.head_dim < D) { /* columns that no copy reaches */
#pragma unroll 1
        for (int i = lane; i < (2 * plan.stages * S::raw_tile) / 16; i += 32)
            reinterpret_cast<uint4 *>(own)[i] = make_uint4(0, 0, 0, 0);
        __syncwarp();
    }

    __half *q_half = reinterpret_cast<__half *>(smem + plan.q_at);
    float *factors = reinterpret_cast<float *>(smem + plan.q_at + S::heads * S::half_stride);
    /* Rounds -stages .. -1 only copy. Rows of this step's own tokens are written by the kernel in
     * front. */
    int tiles = (source.end - from + TILE - 1) / TILE, old = pos - SL_CUDA_LONE_MAX + 1;
    bool waited = false;
    uint32_t q[D / 16][NT][2];
    float factor[NT][2];
    struct state<D, NT> st;
    begin(st);
    int stage = 0;
#pragma unroll 1
    for (int tile = warp - plan.stages * warps; tile < max(tiles, warps); tile += warps) {
        char *k = own + 2 * stage * S::raw_tile, *v = k + S::raw_tile;
        if (tile >= 0 && tile < warps) {
            if (!waited) sl_wait();
            fetch_queries<D, S::heads>(a, a.q + ((int64_t)row * a.n_heads + head) * a.head_dim,
                                       n_heads, q_half, factors);
            __syncthreads();
            take_queries<D, NT>(q_half, factors, q, factor);
        }
        if (tile >= 0 && tile < tiles) {
            if (plan.stages > 1)
                copies_wait<1>();
            else
                copies_wait<0>();
            __syncwarp();
            float s[NT][4];
            uint32_t p[NT][2];
            convert<KV, D>(k, halfs);
            score<D, NT>(smem_at(S::converts ? halfs : k), q, s);
            weigh<D, NT>(st, s, factor, a.softcap, source.end - (from + tile * TILE), p);
            convert<KV, D>(v, halfs);
            add_values<D, NT>(st, smem_at(S::converts ? halfs : v), p);
            __syncwarp();
        }
        int next = tile + plan.stages * warps, key = from + next * TILE;
        if (next < tiles) {
            if (!waited && min(key + TILE, source.end) > old) {
                sl_wait();
                waited = true;
            }
            fetch<S::raw_stride>(source, key, smem_at(k), smem_at(v));
        }
        copies_commit();
        stage = stage + 1 == plan.stages ? 0 : stage + 1;
    }
    copies_wait<0>();
    __syncthreads();
    join<D, NT>(st, smem, parts, (int64_t)blockIdx.z * a.n_heads + head, n_heads, piece);
}

/* ---- launch ---------------------------------------------------------------------------------- */

template <typename KV, int D, int NT>
static void launch(struct sl_cuda *c, const struct attention *a, int first, int n,
                   const struct parts *p)
{
    struct plan plan = shape<KV, D, NT>::plan_for(c->smem_max);
    int per = (a->group + 8 * NT - 1) / (8 * NT);
    claim_smem(attend_pieces<KV, D, NT>, plan.bytes);
    sl_launch(c, attend_pieces<KV, D, NT>, dim3(p->pieces, a->n_kv_heads * per, n), 32 * plan.warps,
              plan.bytes, *a, plan, first, *p);
}

template <typename KV, int D>
static void launch_heads(struct sl_cuda *c, const struct attention *a, int first, int n,
                         const struct parts *p)
{
    if (a->group <= 8)
        launch<KV, D, 1>(c, a, first, n, p);
    else
        launch<KV, D, 2>(c, a, first, n, p);
}

void sl_cuda_attention_lone(struct sl_cuda *c, const struct attention *a, int first, int n,
                            const struct parts *p, int padding)
{
    with_kv_type(a->type, [&](auto type) {
        typedef decltype(type) KV;
        if (a->head_dim <= 64)
            launch_heads<KV, 64>(c, a, first, n, p);
        else if (a->head_dim <= 96)
            launch_heads<KV, 96>(c, a, first, n, p);
        else if (a->head_dim <= 128)
            launch_heads<KV, 128>(c, a, first, n, p);
        else
            launch_heads<KV, 256>(c, a, first, n, p);
    });
    sl_cuda_attention_join(c, a, first, n, p, padding);
}
