/* attention.cu - attention over keys and values: which rows take which way, in what portions. */
#include "base/sl_assert.h"
#include "kernels/cuda/attention_job.cuh"

#define SCRATCH_MOST ((size_t)64 << 20) /* bytes; more lone rows are attended in portions */
#define HEAD_DIM_MAX 256

extern "C" size_t sl_cuda_attention_scratch(const struct sl_backend_limits *l, int n_heads,
                                            int head_dim)
{
    int64_t keys = SL_MIN((int64_t)l->max_blocks * l->block_tokens, (int64_t)1 << 24);
    int pieces = pieces_of((int)keys, 0, PIECE_LATENT); /* the most of either kind */
    size_t row = (size_t)parts_row_bytes(n_heads, pieces, head_dim);
    size_t all = row * (size_t)SL_MAX(l->max_rows, 1);
    return SL_MAX(row, SL_MIN(all, SCRATCH_MOST));
}

extern "C" void sl_cuda_attention(struct sl_cuda *c, const struct sl_kv_view *kv, const float *q,
                                  const struct sl_attn *how, void *out)
{
    const struct sl_cuda_step *s = &c->step;
    SL_ASSERT(kv->head_dim <= HEAD_DIM_MAX && kv->head_dim % 8 == 0);
    SL_ASSERT(kv->n_kv_heads > 0 && how->n_heads % kv->n_kv_heads == 0);
    struct attention a = {};
    a.k = (const char *)kv->k;
    a.v = (const char *)kv->v;
    a.type = kv->type;
    a.blocks = kv_blocks_of(kv->block_tokens);
    a.n_heads = how->n_heads;
    a.n_kv_heads = kv->n_kv_heads;
    a.group = how->n_heads / kv->n_kv_heads;
    a.head_dim = kv->head_dim;
    a.scale = how->scale;
    a.softcap = how->softcap;
    a.window = how->window;
    a.sinks = how->sinks;
    a.q = q;
    a.out = (char *)out;
    a.row_bytes = sl_cuda_row_stride((int64_t)how->n_heads * kv->head_dim);
    a.pos = s->pos;
    a.slot = s->slot;
    a.lone = s->lone;
    a.tables = s->tables;
    a.tiles = s->tiles;
    a.max_blocks = s->max_blocks;
    a.n_rows = s->n_rows;
    if (s->n_tiles > 0 && !sl_cuda_attention_tiles90(c, &a, s->n_lone == 0))
        sl_cuda_attention_tiles(c, &a, s->n_lone == 0);
    if (s->n_lone <= 0) return;
    int pieces = pieces_of(s->max_len, how->window, PIECE);
    int64_t row = parts_row_bytes(a.n_heads, pieces, a.head_dim);
    int at_once = (int)SL_MIN((int64_t)c->scratch_bytes / row, (int64_t)s->n_lone);
    SL_ASSERT(at_once > 0);
    for (int first = 0; first < s->n_lone; first += at_once) {
        int n = SL_MIN(at_once, s->n_lone - first);
        struct parts p = parts_at(c->scratch, n, a.n_heads, pieces, a.head_dim);
        sl_cuda_attention_lone(c, &a, first, n, &p, first == 0);
    }
}
