/* reserve.c - the memory a stage will ever use, taken before its weights are loaded: KV cache and
 * workspace.
 *
 * Both are one mapping each, with huge pages asked for. Pages are touched only when used, but the
 * sizes are decided here: a limit that does not hold weights, workspace and at least one KV block
 * fails now, not under load. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/mem.h"
#include "base/sl_assert.h"
#include "base/text.h"
#include "stage/internal.h"
#include "transport/gpu.h"

#define DEVICE_HEAD_MAX 256 /* elements of a head: kernels/cuda/attention.cu */

static size_t align_up(size_t n)
{
    return (n + SL_MEM_ALIGN - 1) & ~(size_t)(SL_MEM_ALIGN - 1);
}

static void *map_zeroed(size_t n)
{
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    madvise(p, n, MADV_HUGEPAGE); /* a hint: fine when refused */
    return p;
}

static void *get_memory(struct sl_stage *s, size_t n, struct sl_err *err)
{
    if (s->ops->alloc) return s->ops->alloc(s->b, n, err);
    void *p = map_zeroed(n);
    if (!p) {
        char size[32];
        sl_err_set(err, SL_ENOMEM,
                   "no memory for %s of KV cache or workspace; lower context or sequences",
                   sl_format_bytes(n, size));
    }
    return p;
}

static void give_back(struct sl_stage *s, void *p, size_t n)
{
    if (!p) return;
    if (s->ops->free)
        s->ops->free(s->b, p);
    else
        munmap(p, n);
}

/* The activations of the largest micro-batch. Called twice: with base NULL for the size, then to
 * hand out pointers. */
static size_t lay_out_workspace(struct sl_stage *s, char *base)
{
    const struct sl_config *c = &s->c;
    const struct sl_config_widths w = sl_config_row_widths(c);
    size_t rows = (size_t)s->p.max_rows, at = 0;
    size_t (*product)(int64_t, int64_t) = s->ops->rows_bytes;
    int last = sl_stage_is_last(s), direct = !c->post_norms && c->residual_scale == 1;
    int device = s->ops->alloc != NULL, away = device && s->p.n_stages > 1;
    int64_t n = s->p.max_rows, picked = last ? s->logit_rows : 0;
    size_t f = sizeof(float);
    const struct {
        void *to; /* of a pointer */
        size_t bytes;
        void *same; /* on the host: of the pointer that this one is equal to */
    } parts[] = {
        {&s->x, device ? rows * (size_t)c->n_embd * f : 0, NULL},
        {&s->packed_x, away ? rows * ((size_t)c->n_embd * 2 + f) : 0, NULL},
        {&s->norm, product(n, c->n_embd), NULL},
        {&s->q, rows * (size_t)w.q * f, NULL},
        {&s->k, rows * (size_t)w.k * f, NULL},
        {&s->v, rows * (size_t)w.v * f, NULL},
        {&s->attn, product(n, w.attn), NULL},
        {&s->values, c->kv_lora ? rows * (size_t)w.attn * f : 0, &s->attn},
        {&s->gate, rows * (size_t)w.ff * f, NULL},
        {&s->up, rows * (size_t)w.ff * f, NULL},
        {&s->hidden, product(n, w.ff), &s->gate},
        {&s->half, direct ? 0 : rows * (size_t)c->n_embd * f, NULL},
        {&s->latent, rows * (size_t)w.latent * f, NULL},
        {&s->q_latent, rows * (size_t)w.q_latent * f, NULL},
        {&s->o_latent, rows * (size_t)w.o_latent * f, NULL},
        {&s->q_a, rows * (size_t)w.q_a * f, NULL},
        {&s->q_a_rows, w.q_a ? product(n, w.q_a) : 0, &s->q_a},
        {&s->low, rows * (size_t)s->low_rank * f, NULL},
        {&s->low_rows, s->low_rank ? product(n, s->low_rank) : 0, &s->low},
        {&s->picked, (size_t)picked * (size_t)c->n_embd * f, NULL},
        {&s->picked_rows, last ? product(picked, c->n_embd) : 0, &s->picked},
        {&s->logits, (size_t)picked * (size_t)c->n_vocab * f, NULL},
    };
    for (size_t i = 0; i < SL_ARRAY_LEN(parts); i++) {
        int shared = parts[i].same && !device;
        char *p = base ? base + at : NULL;
        if (shared) memcpy(&p, parts[i].same, sizeof p);
        memcpy(parts[i].to, &p, sizeof p);
        if (!shared) at += align_up(parts[i].bytes);
    }
    return at;
}

static int kv_type(struct sl_stage *s, struct sl_err *err)
{
    const char *t = s->p.kv_type;
    s->kv_type = sl_backend_kv_type(s->b);
    if (!t || !*t || strcmp(t, "auto") == 0) return 0;
    int d = sl_dtype_from_name(t), fp8 = s->ops->alloc && strcmp(t, "fp8") == 0;
    if (fp8) d = SL_F8_E4M3;
    if (d != SL_F32 && d != SL_F16 && d != SL_BF16 && !fp8)
        return sl_err_set(err, SL_EINPUT,
                          "kv_format '%s' is not known to this device; use auto, f32, f16, bf16%s",
                          t, s->ops->alloc ? " or fp8" : "");
    s->kv_type = (enum sl_dtype)d;
    return 0;
}

/* The cache of one layer: `bytes` from `at`. */
static void set_view(struct sl_stage *s, struct sl_layer *y, char *at, uint64_t bytes)
{
    const struct sl_config *c = &s->c;
    y->kv = (struct sl_kv_view){.k = at,
                                .v = at + bytes / 2,
                                .type = s->kv_type,
                                .block_tokens = s->p.block_tokens,
                                .n_kv_heads = c->n_kv_heads,
                                .head_dim = c->head_dim};
    y->latent = (struct sl_latent_view){.rows = at,
                                        .type = s->kv_type,
                                        .block_tokens = s->p.block_tokens,
                                        .dim = c->kv_lora + c->qk_rope,
                                        .v_dim = c->kv_lora};
}

/* Bytes of one block in one layer: K and V, or latents. */
static uint64_t layer_block(const struct sl_stage *s)
{
    return (uint64_t)s->p.block_tokens *
           sl_config_kv_bytes(&s->c, sl_dtype_block_bytes(s->kv_type));
}

static int n_layers(const struct sl_stage *s)
{
    return s->p.layer_to - s->p.layer_from;
}

/* Has a device kernels for heads, or latents, of this model's sizes? */
static int check_heads(const struct sl_config *c, struct sl_err *err)
{
    int dim = c->kv_lora + c->qk_rope;
    if (c->kv_lora && (dim > SL_LATENT_DIM_MAX || c->kv_lora % 4))
        return sl_err_set(err, SL_EUNSUPPORTED,
                          "no GPU kernels for latents of %d elements, %d of them values (a "
                          "multiple of 4, at most %d in all); run this model on CPUs",
                          dim, c->kv_lora, SL_LATENT_DIM_MAX);
    if (!c->kv_lora && (c->head_dim > DEVICE_HEAD_MAX || c->head_dim % 8))
        return sl_err_set(err, SL_EUNSUPPORTED,
                          "no GPU kernels for heads of %d elements (a multiple of 8, at most %d); "
                          "run this model on CPUs",
                          c->head_dim, DEVICE_HEAD_MAX);
    return 0;
}

/* The device's own needs. */
static int reserve_scratch(struct sl_stage *s, uint64_t *bytes, struct sl_err *err)
{
    const struct sl_config *c = &s->c;
    const struct sl_config_widths w = sl_config_row_widths(c);
    int wide = SL_MAX(SL_MAX(w.attn, w.ff), SL_MAX(c->n_embd, w.q_a));
    const struct sl_backend_limits l = {
        .max_rows = s->p.max_rows,
        .max_seqs = s->p.max_seqs,
        .max_blocks = s->p.n_blocks,
        .block_tokens = s->p.block_tokens,
        .n_embd = c->n_embd,
        .n_vocab = sl_stage_is_last(s) ? c->n_vocab : 0,
        .max_cols = SL_MAX(SL_MAX(wide, c->n_ff_expert), s->low_rank),
        .max_out = SL_MAX(SL_MAX(w.q, w.ff), SL_MAX(c->n_embd, w.q_latent)),
        .logit_rows = s->logit_rows,
        .n_heads = c->n_heads,
        .head_dim = c->kv_lora ? c->kv_lora + c->qk_rope : c->head_dim,
        .n_experts = c->n_experts,
        .n_used = c->n_experts_used,
        .n_ff = c->n_ff_expert,
        .memory_bytes = s->p.memory_bytes};
    *bytes = 0;
    if (!s->ops->reserve) return 0;
    int r = check_heads(c, err);
    return r ? r : s->ops->reserve(s->b, &l, bytes, err);
}

static int too_little(struct sl_stage *s, uint64_t need, uint64_t have, struct sl_err *err)
{
    char a[32], b[32];
    return sl_err_set(err, SL_ELIMIT,
                      "layers %d-%d need %s with one KV block, but the memory limit is %s; "
                      "give the device fewer "
                      "layers or more memory",
                      s->p.layer_from, s->p.layer_to - 1, sl_format_bytes(need, a),
                      sl_format_bytes(have, b));
}

int sl_stage_reserve(struct sl_stage *s, uint64_t weight_bytes, struct sl_err *err)
{
    uint64_t scratch = 0, per_block;
    s->logit_rows = s->ops->alloc ? SL_LOGIT_ROWS_DEVICE : SL_LOGIT_ROWS;
    int r = kv_type(s, err);
    if (r == 0) r = reserve_scratch(s, &scratch, err);
    if (r) return r;
    per_block = layer_block(s) * (uint64_t)n_layers(s);
    s->workspace_mapped = lay_out_workspace(s, NULL);
    uint64_t fixed = weight_bytes + s->workspace_mapped + scratch;
    uint64_t have = s->ops->left ? s->ops->left(s->b) + scratch : s->p.memory_bytes;
    s->kv_wanted = (uint64_t)s->p.n_blocks;
    if (have) {
        uint64_t left = have > fixed ? have - fixed : 0;
        s->kv_wanted = SL_MIN(s->kv_wanted, left / per_block);
        if (s->kv_wanted == 0) return too_little(s, fixed + per_block, have, err);
    }
    s->workspace = get_memory(s, s->workspace_mapped, err);
    if (!s->workspace) return err ? err->code : SL_ENOMEM;
    lay_out_workspace(s, s->workspace);
    s->info = (struct sl_stage_info){.weight_bytes = weight_bytes,
                                     .workspace_bytes = s->workspace_mapped + scratch};
    return s->ops->left ? 0 : sl_stage_reserve_cache(s, err);
}

int sl_stage_reserve_cache(struct sl_stage *s, struct sl_err *err)
{
    if (s->kv) return 0;
    uint64_t bytes = layer_block(s), per_block = bytes * (uint64_t)n_layers(s), n = s->kv_wanted;
    if (s->ops->left) n = SL_MIN((uint64_t)s->p.n_blocks, s->ops->left(s->b) / per_block);
    if (n == 0) return too_little(s, per_block, s->ops->left(s->b), err);
    s->kv_mapped = (size_t)(per_block * n);
    s->kv = get_memory(s, s->kv_mapped, err);
    if (!s->kv) return err ? err->code : SL_ENOMEM;
    char *at = s->kv;
    for (int i = 0; i < n_layers(s); i++, at += bytes * n)
        set_view(s, &s->layers[i], at, bytes * n);
    s->info.n_blocks = (int)n;
    s->info.kv_bytes = s->kv_mapped;
    return 0;
}

int sl_stage_reserve_berths(struct sl_stage *s, struct sl_err *err)
{
    int card = sl_backend_card(s->b);
    size_t bytes = (size_t)s->p.max_rows * (size_t)s->c.n_embd * sizeof(float);
    if (card < 0 || s->p.n_stages == 1) return 0;
    int r = sl_gpu_berths(card, SL_STAGE_BERTHS, bytes, &s->berths, err);
    uint64_t all = (uint64_t)SL_STAGE_BERTHS * bytes;
    if (r == 0 && s->p.memory_bytes) s->p.memory_bytes -= SL_MIN(all, s->p.memory_bytes - 1);
    return r;
}

void sl_stage_unreserve(struct sl_stage *s)
{
    sl_berths_release(s->berths);
    give_back(s, s->kv, s->kv_mapped);
    give_back(s, s->workspace, s->workspace_mapped);
}
