/* attention_tile90.cu - flash attention of tiles on Hopper: half caches, head_dim 64, 128 or 256,
 * two or more query heads per KV head. (FlashAttention-3, Shah et al. 2024)
 *
 * A block has a tile of 64 query rows for two query heads of a KV head, a warpgroup each; a third
 * warpgroup copies keys and values through the block table, two pieces ahead. A head's warpgroup
 * scores the next piece while it adds the values of the last one: the tensor cores work through the
 * softmax, which the two warpgroups do at different times. */
#include "kernels/cuda/attention_job.cuh"
#include "kernels/cuda/wgmma.cuh"

#define GROUP 128 /* threads of a warpgroup */
#define STAGES 2
#define HEADS 2 /* query heads of a block */

template <int D> struct shape {
    static const int keys = D == 256 ? 64 : 128; /* of a piece */
    static const int panels = D / 64;
    static const int q_bytes = 64 * D * 2; /* of a head */
    static const int piece_bytes = keys * D * 2;
    static const int panel_bytes = keys * 128;
    static const int k_at = HEADS * q_bytes, v_at = k_at + STAGES * piece_bytes;
    static const int barriers_at = v_at + STAGES * piece_bytes;
    static const int bytes = barriers_at + 4 * STAGES * 8 + 1024; /* and room to align */
};

#ifdef SL_WGMMA

/* ---- barriers -------------------------------------------------------------------------------- */

static __device__ __forceinline__ void barrier_init(uint32_t at, int count)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(at), "r"(count) : "memory");
}

static __device__ __forceinline__ void barrier_arrive(uint32_t at)
{
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(at) : "memory");
}

/* Until the phase of this parity is over. */
static __device__ __forceinline__ void barrier_wait(uint32_t at, int parity)
{
    asm volatile("{.reg .pred p;\n"
                 "again: mbarrier.try_wait.parity.shared.b64 p, [%0], %1;\n"
                 "@!p bra again;\n}" ::"r"(at),
                 "r"(parity)
                 : "memory");
}

/* What ordinary and asynchronous copies wrote is seen by the tensor cores. */
static __device__ __forceinline__ void fence_async()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* Barriers of stage s: keys and values are there (an arrival per copying thread), are free again
 * (an arrival per warp that reads). */
struct barriers {
    uint32_t at;
    __device__ uint32_t full(int value, int s) const
    {
        return at + (uint32_t)(value * STAGES + s) * 8;
    }
    __device__ uint32_t empty(int value, int s) const
    {
        return at + (uint32_t)((2 + value) * STAGES + s) * 8;
    }
};

/* ---- copies ---------------------------------------------------------------------------------- */

/* The copying warpgroup. Keys and values take turns; each is announced when the next copies are
 * under way. 8 threads to a row. */
template <int D>
static __device__ void produce(const struct attention &a, const struct sl_cuda_tile &tile,
                               int kv_head, int from, int end, uint32_t smem, struct barriers bar)
{
    typedef shape<D> S;
    int thread = threadIdx.x % GROUP, r0 = thread / 8, c = thread % 8, pieces = 0;
    const int32_t *table = a.tables + (int64_t)tile.slot * a.max_blocks;
    for (int key = from; key < end; key += S::keys, pieces++) {
        int s = pieces % STAGES, round = pieces / STAGES;
        int64_t at[S::keys / 16];
#pragma unroll
        for (int i = 0; i < S::keys / 16; i++) {
            int k = key + r0 + 16 * i;
            at[i] =
                k < end ? (int64_t)kv_row(table, a.blocks, a.n_kv_heads, kv_head, k) * (2 * D) : -1;
        }
#pragma unroll
        for (int value = 0; value < 2; value++) {
            const char *src = value ? a.v : a.k;
            uint32_t to = smem + (value ? S::v_at : S::k_at) + s * S::piece_bytes;
            if (round > 0) barrier_wait(bar.empty(value, s), (round - 1) & 1);
#pragma unroll
            for (int i = 0; i < S::keys / 16; i++) {
                int r = r0 + 16 * i;
                bool ok = at[i] >= 0;
                const char *row = src + (ok ? at[i] : 0) + 16 * c;
                uint32_t place = to + r * 128 + ((c ^ (r % 8)) << 4);
#pragma unroll
                for (int p = 0; p < S::panels; p++)
                    copy16(place + p * S::panel_bytes, row + 128 * p, ok);
            }
            copies_commit();
            if (value == 0 && pieces == 0) continue;
            copies_wait<1>(); /* the copies before these */
            fence_async();
            barrier_arrive(value ? bar.full(0, s) : bar.full(1, (pieces - 1) % STAGES));
        }
    }
    copies_wait<0>();
    fence_async();
    barrier_arrive(bar.full(1, (pieces - 1) % STAGES));
}

/* Queries of a head as halfs, times what makes scores of products, by its warpgroup. */
template <int D>
static __device__ void fetch_queries(const struct attention &a, const struct sl_cuda_tile &tile,
                                     int head, bool some, char *to)
{
    float factor = a.scale * (a.softcap != 0 ? 1 : SL_LOG2E);
#pragma unroll 8
    for (int i = threadIdx.x % GROUP; i < 64 * D / 8; i += GROUP) {
        int r = i / (D / 8), c = i % (D / 8);
        float4 x = make_float4(0, 0, 0, 0), y = x;
        if (some && r < tile.n) {
            const float *from = a.q + ((int64_t)(tile.row + r) * a.n_heads + head) * D + 8 * c;
            x = reinterpret_cast<const float4 *>(from)[0];
            y = reinterpret_cast<const float4 *>(from)[1];
        }
        *reinterpret_cast<uint4 *>(to + c / 8 * 64 * 128 + r * 128 + ((c % 8 ^ r % 8) << 4)) =
            make_uint4(pack_saturated(x.x * factor, x.y * factor),
                       pack_saturated(x.z * factor, x.w * factor),
                       pack_saturated(y.x * factor, y.y * factor),
                       pack_saturated(y.z * factor, y.w * factor));
    }
}

/* ---- products -------------------------------------------------------------------------------- */

template <int D>
static __device__ __forceinline__ void score(float (&s)[shape<D>::keys / 2], uint32_t q, uint32_t k)
{
#pragma unroll
    for (int i = 0; i < D / 16; i++)
        wgmma_scores(s, wgmma_operand(q + i / 4 * 64 * 128 + i % 4 * 32, 16),
                     wgmma_operand(k + i / 4 * shape<D>::panel_bytes + i % 4 * 32, 16), i > 0);
}

template <int D> struct sums {
    static const int parts = D > 128 ? D / 128 : 1, width = D > 128 ? 128 : D;
    float x[parts][width / 2];
};

template <int D>
static __device__ __forceinline__ void
add_values(struct sums<D> &o, const uint32_t (&p)[shape<D>::keys / 16][4], uint32_t v)
{
    typedef shape<D> S;
#pragma unroll
    for (int i = 0; i < S::keys / 16; i++)
#pragma unroll
        for (int n = 0; n < sums<D>::parts; n++)
            wgmma_values(o.x[n], p[i],
                         wgmma_operand(v + n * 2 * S::panel_bytes + i * 16 * 128, S::panel_bytes));
}

/* A thread's two rows. */
struct rows {
    float best[2], total[2], shrink[2];
};

/* Scores of keys [key, ...) become weights; `pos`: of row g. */
template <int N>
static __device__ __forceinline__ void
weigh(struct rows &r, float (&s)[N], const struct attention &a, int pos, int key, bool masked)
{
    int t = threadIdx.x % 4;
    if (a.softcap != 0) {
#pragma unroll
        for (int i = 0; i < N; i++) s[i] = softened(s[i], a.softcap) * SL_LOG2E;
    }
    if (masked) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            int j = key + i / 4 * 8 + 2 * t + i % 2, p = pos + i % 4 / 2 * 8;
            if (j > p || (a.window > 0 && j <= p - a.window)) s[i] = -INFINITY;
        }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float top = r.best[h], total = 0;
#pragma unroll
        for (int i = 2 * h; i < N; i += 4) top = fmaxf(top, fmaxf(s[i], s[i + 1]));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        r.shrink[h] = exp2_fast(r.best[h] - top);
        r.best[h] = top;
#pragma unroll
        for (int i = 2 * h; i < N; i += 4) {
            s[i] = exp2_fast(s[i] - top), s[i + 1] = exp2_fast(s[i + 1] - top);
            total += s[i] + s[i + 1];
        }
        r.total[h] = r.total[h] * r.shrink[h] + total;
    }
}

/* Whether keys [key, key + KEYS) are not all for all rows of the tile. */
template <int KEYS>
static __device__ __forceinline__ bool is_masked(const struct attention &a,
                                                 const struct sl_cuda_tile &tile, int key)
{
    return key + KEYS - 1 > tile.pos || (a.window > 0 && key <= tile.pos + 63 - a.window);
}

template <int N>
static __device__ __forceinline__ void pack_weights(const float (&s)[N], uint32_t (&p)[N / 8][4])
{
#pragma unroll
    for (int i = 0; i < N / 8; i++)
#pragma unroll
        for (int k = 0; k < 4; k++) p[i][k] = pack(s[8 * i + 2 * k], s[8 * i + 2 * k + 1]);
}

template <int D>
static __device__ __forceinline__ void put_rows(const struct sums<D> &o, struct rows &r,
                                                const struct attention &a,
                                                const struct sl_cuda_tile &tile, int head)
{
    int lane = threadIdx.x % 32, first = threadIdx.x % GROUP / 32 * 16 + lane / 4;
    float sink = a.sinks ? a.sinks[head] * SL_LOG2E : -INFINITY;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int row = first + 8 * h;
        float total = r.total[h], best = fmaxf(r.best[h], sink);
        total += __shfl_xor_sync(~0u, total, 1);
        total += __shfl_xor_sync(~0u, total, 2);
        float factor = exp2_fast(r.best[h] - best);
        factor /= total * factor + exp2_fast(sink - best);
        if (row >= tile.n) continue;
        __half *to =
            reinterpret_cast<__half *>(a.out + (tile.row + row) * a.row_bytes + SL_CUDA_ROW_HEAD) +
            (int64_t)head * D + 2 * (lane % 4);
#pragma unroll
        for (int n = 0; n < sums<D>::parts; n++)
#pragma unroll
            for (int i = 0; i < sums<D>::width / 8; i++)
                *reinterpret_cast<uint32_t *>(to + n * 128 + 8 * i) = pack_saturated(
                    o.x[n][4 * i + 2 * h] * factor, o.x[n][4 * i + 2 * h + 1] * factor);
    }
}

/* A warpgroup with one query head. */
template <int D>
static __device__ void consume(const struct attention &a, const struct sl_cuda_tile &tile, int head,
                               bool some, int from, int end, char *smem, struct barriers bar)
{
    typedef shape<D> S;
    int group = threadIdx.x / GROUP, lane = threadIdx.x % 32;
    char *mine = smem + group * S::q_bytes;
    uint32_t q = smem_at(mine), base = smem_at(smem);
    fetch_queries<D>(a, tile, head, some, mine);
    fence_async();
    asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "n"(GROUP) : "memory");

    int pos = tile.pos + threadIdx.x % GROUP / 32 * 16 + lane / 4; /* of row g */
    struct rows r = {{-1e30f, -1e30f}, {0, 0}, {1, 1}}; /* finite: differences are numbers */
    struct sums<D> o;
    float s[S::keys / 2];
    uint32_t p[S::keys / 16][4];
#pragma unroll
    for (int n = 0; n < sums<D>::parts; n++)
#pragma unroll
        for (int i = 0; i < sums<D>::width / 2; i++) o.x[n][i] = 0;

    int pieces = (end - from + S::keys - 1) / S::keys;
    barrier_wait(bar.full(0, 0), 0);
    wgmma_begin();
    score<D>(s, q, base + S::k_at);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_hold(s);
    if (lane == 0) barrier_arrive(bar.empty(0, 0));
    weigh(r, s, a, pos, from, is_masked<S::keys>(a, tile, from));
    pack_weights(s, p);
    for (int i = 1; i < pieces; i++) {
        int stage = i % STAGES, last = (i - 1) % STAGES, key = from + i * S::keys;
        barrier_wait(bar.full(0, stage), i / STAGES & 1);
        wgmma_begin();
        score<D>(s, q, base + S::k_at + stage * S::piece_bytes);
        wgmma_commit();
        barrier_wait(bar.full(1, last), (i - 1) / STAGES & 1);
        add_values<D>(o, p, base + S::v_at + last * S::piece_bytes);
        wgmma_commit();
        wgmma_wait<1>();
        wgmma_hold(s);
        if (lane == 0) barrier_arrive(bar.empty(0, stage));
        weigh(r, s, a, pos, key, is_masked<S::keys>(a, tile, key));
        wgmma_wait<0>();
#pragma unroll
        for (int n = 0; n < sums<D>::parts; n++) wgmma_hold(o.x[n]);
        if (lane == 0) barrier_arrive(bar.empty(1, last));
        pack_weights(s, p);
#pragma unroll
        for (int n = 0; n < sums<D>::parts; n++)
#pragma unroll
            for (int k = 0; k < sums<D>::width / 2; k++) o.x[n][k] *= r.shrink[k % 4 / 2];
    }
    int last = (pieces - 1) % STAGES;
    barrier_wait(bar.full(1, last), (pieces - 1) / STAGES & 1);
    wgmma_begin();
    add_values<D>(o, p, base + S::v_at + last * S::piece_bytes);
    wgmma_commit();
    wgmma_wait<0>();
#pragma unroll
    for (int n = 0; n < sums<D>::parts; n++) wgmma_hold(o.x[n]);
    if (some) put_rows<D>(o, r, a, tile, head);
}

#endif

/* Grid: KV heads x pairs of query heads, tiles (the last first: it has the most keys). */
template <int D>
static __global__ void __launch_bounds__((HEADS + 1) * GROUP, 1)
    attend_tile90(const __grid_constant__ struct attention a, int padding)
{
#ifdef SL_WGMMA
    typedef shape<D> S;
    extern __shared__ char raw[];
    char *smem = raw + (1024 - smem_at(raw) % 1024) % 1024;
    sl_next();
    const struct sl_cuda_tile tile = a.tiles[gridDim.y - 1 - blockIdx.y];
    int per = (a.group + HEADS - 1) / HEADS, group = threadIdx.x / GROUP;
    int kv_head = blockIdx.x / per, in_group = blockIdx.x % per * HEADS + group;
    int end = tile.pos + tile.n, from = a.window > 0 ? max(0, tile.pos - a.window + 1) : 0;
    from = from / S::keys * S::keys;
    struct barriers bar = {smem_at(smem + S::barriers_at)};
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++)
            for (int value = 0; value < 2; value++) {
                barrier_init(bar.full(value, s), GROUP);
                barrier_init(bar.empty(value, s), HEADS * GROUP / 32);
            }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    sl_wait();
    if (padding)
        zero_padding_rows(a.pos, blockIdx.y * gridDim.x + blockIdx.x, gridDim.x * gridDim.y,
                          a.n_rows, a.out, a.row_bytes);
    __syncthreads();
    if (group == HEADS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        produce<D>(a, tile, kv_head, from, end, smem_at(smem), bar);
        if (blockIdx.x > 0) return;
        int cols = a.n_heads * D;
        for (int r = threadIdx.x % GROUP; r < tile.n; r += GROUP) {
            char *row = a.out + (tile.row + r) * a.row_bytes;
            *reinterpret_cast<float *>(row) = 1;
            for (int e = cols; e < sl_cuda_pad(cols); e++)
                reinterpret_cast<__half *>(row + SL_CUDA_ROW_HEAD)[e] = __float2half(0);
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        consume<D>(a, tile, kv_head * a.group + in_group, in_group < a.group, from, end, smem, bar);
    }
#endif
}

template <int D> static void launch(struct sl_cuda *c, const struct attention *a, int padding)
{
    int per = (a->group + HEADS - 1) / HEADS;
    claim_smem(attend_tile90<D>, shape<D>::bytes);
    sl_launch(c, attend_tile90<D>, dim3(a->n_kv_heads * per, c->step.n_tiles), (HEADS + 1) * GROUP,
              shape<D>::bytes, *a, padding);
}

bool sl_cuda_attention_tiles90(struct sl_cuda *c, const struct attention *a, int padding)
{
    if (c->cc != 90 || a->type != SL_F16 || a->group < HEADS) return false;
    if (a->head_dim == 64)
        launch<64>(c, a, padding);
    else if (a->head_dim == 128)
        launch<128>(c, a, padding);
    else if (a->head_dim == 256)
        launch<256>(c, a, padding);
    else
        return false;
    return true;
}
