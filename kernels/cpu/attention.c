/* attention.c - attention over a paged cache of keys and values: the tiles of one KV head. (Ainslie
 * et al. 2023)
 *
 * A task (attend.c) is one KV head with up to TASK_ROWS rows: all query heads of that KV head for
 * some consecutive positions. Prefill decodes a tile of keys and values once for all of them;
 * decode multiplies straight out of the cache where the row of kernels can. */
#include <string.h>

#include "base/sl_assert.h"
#include "kernels/cpu/attend.h"

#define SPAN_KEYS 256
#define TASK_ROWS 96 /* rows of a task: fits its buffers into L2 */

/* The parts of an area's work: queries [rows][dp], K of a tile [dp][SL_KEY_TILE], V of it
 * [SL_KEY_TILE][dp]; dp is head_dim padded, which is op. */
struct work {
    float *q, *kt, *v;
};

static struct work work_at(const struct sl_attend *j, const struct sl_attend_area *a)
{
    size_t rows = (size_t)(j->tile_q * j->group), dp = (size_t)j->op;
    return (struct work){a->work, a->work + rows * dp, a->work + (rows + SL_KEY_TILE) * dp};
}

static size_t work_floats(const struct sl_attend *j)
{
    return (size_t)(j->tile_q * j->group + 2 * SL_KEY_TILE) * (size_t)j->op;
}

/* Query rows of the task, scaled. */
static void load_q(const struct sl_attend *j, const struct sl_attend_task *t,
                   struct sl_attend_area *a)
{
    int d = j->q_dim, dp = j->op;
    float *q = work_at(j, a).q;
    for (int i = 0; i < t->n; i++) {
        const float *x =
            j->q +
            ((int64_t)(t->seq->row + t->first + i) * j->how->n_heads + t->head * j->group) * d;
        for (int g = 0; g < t->heads; g++, q += dp, x += d) {
            memcpy(q, x, sizeof(float) * (size_t)d);
            for (int e = d; e < dp; e++) q[e] = 0;
            j->vec->scale(q, sl_attend_scale(j), dp);
        }
    }
}

/* Where n keys from position p on begin: `step` elements from one to the next inside a block. */
static void find_keys(const struct sl_attend *j, const struct sl_attend_task *t, const void *cache,
                      int p, int n, int step, const void **at)
{
    const struct sl_kv_view *kv = j->cache;
    size_t size = kv->type == SL_F32 ? 4 : 2, head = (size_t)(kv->block_tokens * kv->head_dim);
    int block = p / kv->block_tokens, in = p % kv->block_tokens;
    for (int i = 0; i < n; block++, in = 0) {
        size_t index = (size_t)t->seq->blocks[block] * (size_t)kv->n_kv_heads + (size_t)t->head;
        const char *from = (const char *)cache + (index * head + (size_t)(in * step)) * size;
        int to = SL_MIN(n, i + kv->block_tokens - in);
        for (; i < to; i++, from += (size_t)step * size) at[i] = from;
    }
}

/* Decodes the tile of n keys from position `base`. */
static void load_tile(const struct sl_attend *j, const struct sl_attend_task *t,
                      const struct work *w, int base, int n)
{
    const struct sl_kv_view *kv = j->cache;
    const void *at[SL_KEY_TILE];
    find_keys(j, t, kv->k, base, n, 1, at);
    j->vec->pack_k(kv->type, at, n, kv->head_dim, kv->block_tokens, w->kt);
    find_keys(j, t, kv->v, base, n, kv->head_dim, at);
    j->vec->pack_v(kv->type, at, n, kv->head_dim, j->op, w->v);
}

#define DIRECT_ROWS_MAX 12 /* more rows are worth a decoded copy of the tile */

/* A task of one position goes straight to the cache when the row has kernels for that. */
static int is_direct(const struct sl_attend *j, const struct sl_attend_task *t)
{
    const struct sl_kv_view *kv = j->cache;
    return j->vec->mad_keys && t->n == 1 && t->heads <= DIRECT_ROWS_MAX && kv->head_dim % 16 == 0 &&
           kv->block_tokens % 16 == 0;
}

static void tile_direct(const struct sl_attend *j, const struct sl_attend_task *t,
                        struct sl_attend_area *a, const struct sl_attend_sight *v)
{
    const struct sl_kv_view *kv = j->cache;
    const void *at[SL_KEY_TILE];
    int d = kv->head_dim, rows = t->heads, from, to;
    sl_attend_keys(j, t, v, 0, &from, &to);
    find_keys(j, t, kv->k, v->base, to, 1, at);
    j->vec->mad_keys(kv->type, work_at(j, a).q, j->op, at, to, d, kv->block_tokens, a->s, rows);
    sl_attend_soften(j, a, 0, rows);
    for (int r = 0; r < rows; r++) a->keys[r] = to - from;
    j->vec->softmax(a->s + from, rows, a->keys, a->part.m, a->part.l, a->c);
    for (int r = 0; r < rows; r++)
        if (a->c[r] != 1.0f) j->vec->scale(a->part.o + (int64_t)r * j->op, a->c[r], j->op);
    find_keys(j, t, kv->v, v->base, to, d, at);
    j->vec->mad_values(kv->type, a->s + from, at + from, to - from, d, a->part.o, j->op, rows);
}

static void tile(const struct sl_attend *j, const struct sl_attend_task *t,
                 struct sl_attend_area *a, const struct sl_attend_sight *v)
{
    if (is_direct(j, t)) {
        tile_direct(j, t, a, v);
        return;
    }
    const struct work w = work_at(j, a);
    int row = v->none * t->heads, rows = (v->gone - v->none) * t->heads;
    load_tile(j, t, &w, v->base, v->n);
    j->vec->mad_tile(w.q + (int64_t)row * j->op, j->op, w.kt, SL_KEY_TILE,
                     a->s + (int64_t)row * SL_KEY_TILE, SL_KEY_TILE, rows, j->q_dim,
                     (v->n + 15) / 16 * 16, 0);
    sl_attend_weigh(j, t, a, v, w.v, j->op);
}

void sl_cpu_attention(struct sl_backend *b, const struct sl_kv_view *kv,
                      const struct sl_seq_view *seqs, int n_seqs, const float *q,
                      const struct sl_attn *a, void *out)
{
    static const struct sl_attend_kind kind = {SPAN_KEYS, work_floats, load_q, tile};
    SL_ASSERT(kv->head_dim > 0 && kv->head_dim <= SL_HEAD_DIM_MAX);
    SL_ASSERT(a->n_heads % kv->n_kv_heads == 0);
    SL_ASSERT(kv->type == SL_F32 || kv->type == SL_F16 || kv->type == SL_BF16);
    struct sl_attend j = {.kind = &kind,
                          .cache = kv,
                          .seqs = seqs,
                          .how = a,
                          .q = q,
                          .out = out,
                          .n_seqs = n_seqs,
                          .n_groups = kv->n_kv_heads,
                          .group = a->n_heads / kv->n_kv_heads,
                          .q_dim = kv->head_dim,
                          .v_dim = kv->head_dim};
    j.tile_q = SL_MAX(1, TASK_ROWS / j.group);
    sl_attend_run(b, &j);
}
