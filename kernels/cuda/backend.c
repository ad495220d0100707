/* backend.c - the table of operations of an NVIDIA card: each one handed to the part that has it.
 */
#include "kernels/cuda/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"
#include "kernels/card.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/batch.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/measure.h"
#include "kernels/cuda/moe.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/wire.h"

#define SL_CUDA_STREAM_HALFS_MAX 16 /* rows up to which weights of halfs are streamed */
#define COPY_THREADS 4              /* that bring weights from the page cache */
#define VOCAB_MAX (1 << 20)         /* draw.cuh */

/* ---- operations ------------------------------------------------------------------------------ */

static void op_embed(struct sl_backend *b, const struct sl_weight *w, const int32_t *ids, int n,
                     float *out)
{
    SL_ASSERT(ids == b->cuda->step->ids);
    sl_cuda_embed(&b->cuda->c, w->packed, b->cuda->c.step.ids, n, out);
}

static void op_rmsnorm(struct sl_backend *b, const float *x, const float *gain, float eps, int n,
                       int dim, float *out)
{
    sl_cuda_rmsnorm(&b->cuda->c, x, gain, eps, n, dim, out);
}

static void op_norm_rows(struct sl_backend *b, const float *x, const float *gain, float eps, int n,
                         int dim, void *out)
{
    sl_cuda_norm_rows(&b->cuda->c, x, gain, eps, n, dim, out);
}

static void op_to_rows(struct sl_backend *b, const float *x, int n, int cols, void *out)
{
    sl_cuda_to_rows(&b->cuda->c, x, n, cols, out);
}

static size_t op_rows_bytes(int64_t n, int64_t cols)
{
    return (size_t)(n * sl_cuda_row_stride(cols));
}

/* Are n rows few enough for the kernels that stream this weight? Halfs need no decoding, so tiles
 * are as fast from about 16 rows on, and faster with more (measured on Hopper). */
static int streams(const struct sl_weight *w, int n)
{
    const struct sl_cuda_weight *packed = w->packed;
    return n <= (packed->code_kind == SL_CUDA_F16 ? SL_CUDA_STREAM_HALFS_MAX : SL_DECODE_ROWS_MAX);
}

static void op_matmul(struct sl_backend *b, const void *x, int n, const struct sl_product *p,
                      int n_products)
{
    int any = n == 0;
    for (int i = 0; i < n_products; i++) {
        sl_cuda_held_read(&b->cuda->held, p[i].w->packed_bytes);
        any |= streams(p[i].w, n);
    }
    if (n <= SL_DECODE_ROWS_MAX && any)
        sl_cuda_stream_matmul(&b->cuda->c, x, n, p, n_products);
    else
        sl_cuda_batch_matmul(&b->cuda->c, x, n, p, n_products);
}

static void op_gate_up(struct sl_backend *b, enum sl_act act, const void *x, int n,
                       const struct sl_weight *gate, const float *gate_bias,
                       const struct sl_weight *up, const float *up_bias, void *out)
{
    sl_cuda_held_read(&b->cuda->held, gate->packed_bytes + up->packed_bytes);
    if (n <= SL_DECODE_ROWS_MAX && (streams(gate, n) || streams(up, n)))
        sl_cuda_stream_gate_up(&b->cuda->c, act, x, n, gate, gate_bias, up, up_bias, out);
    else
        sl_cuda_batch_gate_up(&b->cuda->c, act, x, n, gate, gate_bias, up, up_bias, out);
}

static void op_rope(struct sl_backend *b, const struct sl_rope *r, const struct sl_rope_part *parts,
                    int n_parts, const int32_t *pos, int n)
{
    sl_cuda_rope(&b->cuda->c, r, parts, n_parts, (int)(pos - b->cuda->step->pos), n);
}

static void op_heads(struct sl_backend *b, const struct sl_heads *h, const struct sl_kv_view *kv,
                     const struct sl_seq_view *seqs, int n_seqs, const int32_t *pos, int n)
{
    (void)seqs, (void)n_seqs, (void)pos, (void)n;
    sl_cuda_heads(&b->cuda->c, h, kv);
}

static void op_kv_write(struct sl_backend *b, const struct sl_kv_view *kv,
                        const struct sl_seq_view *seqs, int n_seqs, const float *k, const float *v)
{
    (void)seqs, (void)n_seqs;
    sl_cuda_kv_write(&b->cuda->c, kv, k, v);
}

static void op_attention(struct sl_backend *b, const struct sl_kv_view *kv,
                         const struct sl_seq_view *seqs, int n_seqs, const float *q,
                         const struct sl_attn *a, void *out)
{
    (void)seqs, (void)n_seqs;
    sl_cuda_attention(&b->cuda->c, kv, q, a, out);
}

static void op_latent_write(struct sl_backend *b, const struct sl_latent_view *kv,
                            const struct sl_seq_view *seqs, int n_seqs, const float *x)
{
    (void)seqs, (void)n_seqs;
    sl_cuda_latent_write(&b->cuda->c, kv, x);
}

static void op_latent_attention(struct sl_backend *b, const struct sl_latent_view *kv,
                                const struct sl_seq_view *seqs, int n_seqs, const float *q,
                                const struct sl_attn *a, float *out)
{
    (void)seqs, (void)n_seqs;
    sl_cuda_latent_attention(&b->cuda->c, kv, q, a, out);
}

static void op_head_matmul(struct sl_backend *b, const struct sl_weight *w, int n_heads,
                           const float *x, int64_t x_stride, int64_t x_head, int n, float *out,
                           int64_t out_stride, int64_t out_head)
{
    SL_ASSERT(w->group);
    for (int i = 0; i < n_heads; i++) sl_cuda_held_read(&b->cuda->held, w[i].packed_bytes);
    sl_cuda_head_matmul(&b->cuda->c, w->group, n_heads, (int)w->rows, (int)w->cols, x, x_stride,
                        x_head, n, out, out_stride, out_head);
}

static void op_glu(struct sl_backend *b, enum sl_act act, const float *gate, const float *up,
                   int64_t n, int64_t cols, void *out)
{
    sl_cuda_glu(&b->cuda->c, act, gate, up, n, cols, out);
}

static const struct sl_cuda_weight *form(const struct sl_weight *w)
{
    return w->packed;
}

/* Bytes of the experts that n rows are expected to reach, routed evenly. */
static uint64_t expected_bytes(const struct sl_moe *m, int n)
{
    double missed = 1,
           each = (double)(m->gate->packed_bytes + m->up->packed_bytes + m->down->packed_bytes);
    for (int i = 0; i < n; i++) missed *= 1 - (double)m->n_used / m->n_experts;
    return (uint64_t)(each * m->n_experts * (1 - missed)) + m->router->packed_bytes;
}

static void op_moe(struct sl_backend *b, const struct sl_moe *m, const void *x, int n, int dim,
                   float *out)
{
    SL_ASSERT(m->gate->group && m->up->group && m->down->group);
    const struct sl_cuda_experts e = {.gate = m->gate->group,
                                      .up = m->up->group,
                                      .down = m->down->group,
                                      .gate_form = *form(m->gate),
                                      .up_form = *form(m->up),
                                      .down_form = *form(m->down)};
    sl_cuda_held_read(&b->cuda->held, expected_bytes(m, n));
    sl_cuda_moe(&b->cuda->c, m, &e, x, n, dim, out);
}

static void op_mix(struct sl_backend *b, const float *from, int64_t from_stride, float *to,
                   int64_t to_stride, int64_t n, int64_t cols, float scale, int add)
{
    sl_cuda_mix(&b->cuda->c, from, from_stride, to, to_stride, n, cols, scale, add);
}

static void op_weigh_rows(struct sl_backend *b, const float *gain, const void *x, int n, int dim,
                          void *y, int cols)
{
    sl_cuda_weigh_rows(&b->cuda->c, gain, x, n, dim, y, cols);
}

static void op_pick(struct sl_backend *b, const float *x, const int32_t *picks, int n, int dim,
                    float *out)
{
    sl_cuda_pick(&b->cuda->c, x, b->cuda->c.step.picks + (picks - b->cuda->step->picks), n, dim,
                 out);
}

static void op_soften(struct sl_backend *b, float *x, int64_t count, float scale, float cap)
{
    sl_cuda_soften(&b->cuda->c, x, count, scale, cap);
}

static void op_pack(struct sl_backend *b, enum sl_dtype type, const float *x, int n, int cols,
                    void *out)
{
    sl_cuda_pack(&b->cuda->c, type, x, n, cols, out);
}

static void op_unpack(struct sl_backend *b, enum sl_dtype type, const void *in, int n, int cols,
                      float *x)
{
    sl_cuda_unpack(&b->cuda->c, type, in, n, cols, x);
}

static void op_draw(struct sl_backend *b, float *logits, int first, int n, int n_vocab)
{
    sl_cuda_draw(&b->cuda->c, logits, first, n, n_vocab);
}

/* ---- reserving ------------------------------------------------------------------------------- */

static size_t scratch_of(const struct sl_cuda *c, const struct sl_backend_limits *l)
{
    size_t most = sl_cuda_stream_scratch(c->sms, l->max_cols);
    most = SL_MAX(most, sl_cuda_batch_scratch(l));
    most = SL_MAX(most, sl_cuda_attention_scratch(l, l->n_heads, l->head_dim));
    if (l->n_experts)
        most = SL_MAX(most, sl_cuda_moe_scratch(l, l->n_experts, l->n_used, l->n_ff, l->n_embd));
    if (l->n_vocab) most = SL_MAX(most, sl_cuda_draw_scratch(l));
    return (most + 255) / 256 * 256;
}

/* Lets go of what an earlier load reserved. */
static void unreserve(struct sl_cuda_backend *g)
{
    struct sl_backend b = {.cuda = g};
    if (!g->arena.base) return;
    cudaStreamSynchronize(g->c.stream);
    sl_cuda_step_close(g);
    sl_cuda_free(&b, g->c.scratch);
    g->c.scratch = NULL;
    sl_cuda_arena_close(g);
}

static int op_reserve(struct sl_backend *b, const struct sl_backend_limits *l,
                      uint64_t *scratch_bytes, struct sl_err *err)
{
    struct sl_cuda_backend *g = b->cuda;
    if (l->n_vocab > VOCAB_MAX)
        return sl_err_set(err, SL_EUNSUPPORTED,
                          "no GPU kernels draw from a vocabulary of %d tokens, over %d", l->n_vocab,
                          VOCAB_MAX);
    unreserve(g);
    g->limits = *l;
    g->c.scratch_bytes = scratch_of(&g->c, l);
    *scratch_bytes = g->c.scratch_bytes + sl_cuda_step_bytes(l);
    size_t unused, all;
    if (cudaMemGetInfo(&unused, &all) != cudaSuccess) return sl_cuda_check("free memory", err);
    uint64_t bytes = l->memory_bytes ? l->memory_bytes : unused / 2;
    if (bytes < *scratch_bytes) {
        char want[32], have[32];
        return sl_err_set(err, SL_ELIMIT,
                          "the kernels alone need %s of card %d, whose limit is %s; allow it more "
                          "memory, or fewer rows a micro-batch",
                          sl_format_bytes(*scratch_bytes, want), g->c.device,
                          sl_format_bytes(bytes, have));
    }
    int r = sl_cuda_arena_open(g, bytes, err);
    if (r) return r;
    g->c.scratch = sl_cuda_alloc(b, g->c.scratch_bytes, err);
    return g->c.scratch ? sl_cuda_step_open(g, err) : SL_ENOMEM;
}

static const struct sl_backend_ops cuda_ops = {
    .name = "cuda",
    .load = sl_cuda_load,
    .unload = sl_cuda_unload,
    .group = sl_cuda_group,
    .embed = op_embed,
    .rmsnorm = op_rmsnorm,
    .norm_rows = op_norm_rows,
    .to_rows = op_to_rows,
    .rows_bytes = op_rows_bytes,
    .matmul = op_matmul,
    .rope = op_rope,
    .kv_write = op_kv_write,
    .attention = op_attention,
    .latent_write = op_latent_write,
    .latent_attention = op_latent_attention,
    .head_matmul = op_head_matmul,
    .glu = op_glu,
    .moe = op_moe,
    .mix = op_mix,
    .weigh_rows = op_weigh_rows,
    .pick = op_pick,
    .soften = op_soften,
    .reserve = op_reserve,
    .left = sl_cuda_left,
    .alloc = sl_cuda_alloc,
    .free = sl_cuda_free,
    .upload = sl_cuda_upload,
    .download = sl_cuda_download,
    .pack = op_pack,
    .unpack = op_unpack,
    .begin = sl_cuda_begin,
    .replay = sl_cuda_replay,
    .recorded = sl_cuda_recorded,
    .end = sl_cuda_end,
    .gate_up = op_gate_up,
    .heads = op_heads,
    .draw = op_draw,
    .drawn = sl_cuda_drawn,
    .scored = sl_cuda_scored,
};

/* ---- life ------------------------------------------------------------------------------------ */

int sl_cuda_devices(void)
{
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess) {
        cudaGetLastError();
        return 0;
    }
    return n;
}

/* Is there such a card? Where there is none at all, why. */
static int find_device(int device, struct sl_err *err)
{
    int driver = 0, n = 0;
    cudaDriverGetVersion(&driver); /* leaves 0 without one, of which CUDA says that it is old */
    if (!driver)
        return sl_err_set(err, SL_EUNSUPPORTED,
                          "card %d: no NVIDIA driver is installed here; install one, or leave "
                          "cards out with --backend cpu",
                          device);
    cudaError_t e = cudaGetDeviceCount(&n);
    cudaGetLastError(); /* said here */
    if (e != cudaSuccess)
        return sl_err_set(err, SL_EUNSUPPORTED,
                          "card %d: the NVIDIA driver (for CUDA %d.%d, we are built with %d.%d) "
                          "says: %s; look at nvidia-smi and CUDA_VISIBLE_DEVICES",
                          device, driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000,
                          CUDART_VERSION % 1000 / 10, cudaGetErrorString(e));
    if (device >= 0 && device < n) return 0;
    return sl_err_set(err, SL_EUNSUPPORTED,
                      "card %d does not exist here: NVIDIA cards that are visible are %d, counted "
                      "from 0; look at nvidia-smi and CUDA_VISIBLE_DEVICES",
                      device, n);
}

static int open_device(struct sl_cuda_backend *g, int device, const struct sl_cuda_limits *limits,
                       struct sl_err *err)
{
    struct cudaDeviceProp p;
    int low, high, r = find_device(device, err);
    if (r) return r;
    if (cudaSetDevice(device) != cudaSuccess || cudaGetDeviceProperties(&p, device) != cudaSuccess)
        return sl_cuda_check("opening the card", err);
    g->c.device = device;
    g->c.cc = p.major * 10 + p.minor;
    g->c.sms = p.multiProcessorCount;
    g->c.smem_max = (int)p.sharedMemPerBlockOptin;
    g->c.l2_bytes = (size_t)p.l2CacheSize;
    if (g->c.cc < SL_CARD_CAPABILITY_LEAST)
        return sl_err_set(err, SL_EUNSUPPORTED,
                          "card %d (%s) has compute capability %d.%d; %d.%d or later is needed; "
                          "leave it out with --backend cpu",
                          device, p.name, p.major, p.minor, SL_CARD_CAPABILITY_LEAST / 10,
                          SL_CARD_CAPABILITY_LEAST % 10);
    cudaDeviceGetStreamPriorityRange(&low, &high);
    r = sl_cuda_held_open(&g->held, &g->c, limits, low, err);
    if (r) return r;
    for (int i = 0; i < 2; i++) {
        cudaMallocHost(&g->pinned[i].data, SL_CUDA_PINNED_BYTES);
        cudaEventCreateWithFlags(&g->pinned[i].free, cudaEventDisableTiming);
    }
    return sl_cuda_check("opening the card", err);
}

int sl_cuda_open(struct sl_backend *b, int device, const char *limits, struct sl_err *err)
{
    struct sl_cuda_limits l;
    if (sl_cuda_limits_read(limits, &l, err)) return SL_EINPUT;
    struct sl_cuda_backend *g = calloc(1, sizeof *g);
    if (!g) return sl_err_set(err, SL_ENOMEM, "kernels: out of memory");
    b->cuda = g;
    b->ops = &cuda_ops;
    b->kv_type = SL_F16;
    b->row = "cuda";
    int r = open_device(g, device, &l, err);
    if (r == 0) r = sl_cuda_lt_create(&g->c, err);
    if (r == 0) r = sl_pool_create(NULL, COPY_THREADS, &g->pool, err);
    return r;
}

void sl_cuda_close(struct sl_backend *b)
{
    struct sl_cuda_backend *g = b->cuda;
    if (!g) return;
    if (g->c.stream) cudaSetDevice(g->c.device); /* any thread may close it */
    unreserve(g);
    if (g->c.lt) sl_cuda_lt_destroy(&g->c);
    for (int i = 0; i < 2; i++) {
        if (g->pinned[i].data) cudaFreeHost(g->pinned[i].data);
        if (g->pinned[i].free) cudaEventDestroy(g->pinned[i].free);
    }
    sl_cuda_held_close(&g->held, &g->c);
    sl_pool_destroy(g->pool);
    free(g);
    b->cuda = NULL;
}

void sl_cuda_enter(struct sl_backend *b)
{
    cudaSetDevice(b->cuda->c.device);
    sl_pool_enter(b->cuda->pool);
}

int sl_cuda_number(const struct sl_backend *b)
{
    return b->cuda->c.device;
}

uint64_t sl_cuda_card_memory(int device)
{
    size_t unused = 0, all = 0;
    cudaSetDevice(device);
    cudaMemGetInfo(&unused, &all);
    cudaGetLastError(); /* a card that cannot say has none */
    return unused > SL_CUDA_RESERVE_BYTES ? unused - SL_CUDA_RESERVE_BYTES : 0;
}

double sl_cuda_bandwidth(struct sl_backend *b)
{
    double can = sl_cuda_measure_bandwidth(&b->cuda->c), may = b->cuda->held.bandwidth;
    return may > 0 && may < can ? may : can;
}
