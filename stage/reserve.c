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

/* The activations of the largest micro-batch. Called twice: with base NULL for the size, then to
 * hand out pointers. */
static size_t lay_out_workspace(struct sl_stage *s, char *base)
{
    const struct sl_config *c = &s->c;
    const struct sl_config_widths w = sl_config_row_widths(c);
    size_t rows = (size_t)s->p.max_rows, at = 0;
    int last = sl_stage_is_last(s), direct = !c->post_norms && c->residual_scale == 1;
    const struct {
        float **to;
        size_t count;
    } parts[] = {
        {&s->norm, rows * (size_t)c->n_embd},
        {&s->q, rows * (size_t)w.q},
        {&s->k, rows * (size_t)w.k},
        {&s->v, rows * (size_t)w.v},
        {&s->attn, rows * (size_t)w.attn},
        {&s->gate, rows * (size_t)w.ff},
        {&s->up, rows * (size_t)w.ff},
        {&s->half, direct ? 0 : rows * (size_t)c->n_embd},
        {&s->latent, rows * (size_t)w.latent},
        {&s->q_latent, rows * (size_t)w.q_latent},
        {&s->o_latent, rows * (size_t)w.o_latent},
        {&s->q_a, rows * (size_t)w.q_a},
        {&s->low, rows * (size_t)s->low_rank},
        {&s->scores, rows},
        {&s->picked, last ? SL_LOGIT_ROWS * (size_t)c->n_embd : 0},
        {&s->logits, last ? SL_LOGIT_ROWS * (size_t)c->n_vocab : 0},
    };
    for (size_t i = 0; i < SL_ARRAY_LEN(parts); i++) {
        if (base) *parts[i].to = (float *)(void *)(base + at);
        at += align_up(parts[i].count * sizeof(float));
    }
    return at;
}

static int kv_type(struct sl_stage *s, struct sl_err *err)
{
    const char *t = s->p.kv_type;
    s->kv_type = sl_backend_kv_type(s->b);
    if (!t || !*t || strcmp(t, "auto") == 0) return 0;
    int d = sl_dtype_from_name(t);
    if (d != SL_F32 && d != SL_F16 && d != SL_BF16)
        return sl_err_set(err, SL_EINPUT, "kv_format '%s' is not known; use auto, f32, f16 or bf16",
                          t);
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

int sl_stage_reserve(struct sl_stage *s, uint64_t weight_bytes, struct sl_err *err)
{
    int r = kv_type(s, err);
    if (r) return r;
    const struct sl_config *c = &s->c;
    int n_layers = s->p.layer_to - s->p.layer_from;
    /* of one block in one layer: K and V, or latents */
    uint64_t layer_block =
        (uint64_t)s->p.block_tokens * sl_config_kv_bytes(c, sl_dtype_block_bytes(s->kv_type));
    uint64_t per_block = layer_block * (uint64_t)n_layers;
    s->workspace_mapped = lay_out_workspace(s, NULL);
    uint64_t n = (uint64_t)s->p.n_blocks, fixed = weight_bytes + s->workspace_mapped;
    if (s->p.memory_bytes) {
        uint64_t left = s->p.memory_bytes > fixed ? s->p.memory_bytes - fixed : 0;
        n = SL_MIN(n, left / per_block);
        if (n == 0) {
            char need[32], have[32];
            return sl_err_set(err, SL_ELIMIT,
                              "layers %d-%d need %s with one KV block, but the memory limit is %s; "
                              "give the device fewer "
                              "layers or more memory",
                              s->p.layer_from, s->p.layer_to - 1,
                              sl_format_bytes(fixed + per_block, need),
                              sl_format_bytes(s->p.memory_bytes, have));
        }
    }
    s->kv_mapped = (size_t)(per_block * n);
    s->kv = map_zeroed(s->kv_mapped);
    s->workspace = s->kv ? map_zeroed(s->workspace_mapped) : NULL;
    if (!s->workspace) {
        char size[32];
        return sl_err_set(err, SL_ENOMEM,
                          "no memory for %s of KV cache and workspace; lower context or sequences",
                          sl_format_bytes(s->kv_mapped + s->workspace_mapped, size));
    }
    lay_out_workspace(s, s->workspace);
    char *at = s->kv;
    for (int i = 0; i < n_layers; i++, at += layer_block * n)
        set_view(s, &s->layers[i], at, layer_block * n);
    s->info = (struct sl_stage_info){.n_blocks = (int)n,
                                     .weight_bytes = weight_bytes,
                                     .kv_bytes = s->kv_mapped,
                                     .workspace_bytes = s->workspace_mapped};
    return 0;
}

void sl_stage_unreserve(struct sl_stage *s)
{
    if (s->kv) munmap(s->kv, s->kv_mapped);
    if (s->workspace) munmap(s->workspace, s->workspace_mapped);
}
