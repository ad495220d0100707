/* latent.c - attention over latents, absorbed MLA: the tiles of a block of query heads.
 * (DeepSeek-AI 2024)
 *
 * All heads share the keys, and a key's beginning is its value, so a tile is decoded once into rows
 * [key][dim] that serve both products. Scores come out turned, lanes over (position, head): the
 * queries are turned once per task, the tile never, and the scores, which are small beside both,
 * are turned back for the softmax. Expected work: 16 to 128 heads of 576 elements; decode of one
 * position is already a matrix product of as many rows as there are heads. */
#include <string.h>

#include "base/sl_assert.h"
#include "kernels/cpu/attend.h"

#define SPAN_KEYS 512 /* its partial result is as large as 500 latents */
#define TASK_ROWS 128 /* rows of a task: queries, tile and sums of 576 elements stay in L2 */
#define GROUP_MIN                                                                                  \
    32 /* heads of a task, at least: two vectors, which hide the latency of adding                 \
        */
#define LANES 16

/* The parts of an area's work: queries [dim][lanes], scores [SL_KEY_TILE][lanes], the tile
 * [SL_KEY_TILE][dp]. */
struct work {
    float *q, *s, *x;
    int lanes, dp;
};

static int padded(int n)
{
    return (n + LANES - 1) / LANES * LANES;
}

static struct work work_at(const struct sl_attend *j, const struct sl_attend_area *a)
{
    struct work w = {.lanes = padded(j->tile_q * j->group), .dp = padded(j->q_dim)};
    w.q = a->work;
    w.s = w.q + (size_t)j->q_dim * (size_t)w.lanes;
    w.x = w.s + (size_t)SL_KEY_TILE * (size_t)w.lanes;
    return w;
}

static size_t work_floats(const struct sl_attend *j)
{
    size_t lanes = (size_t)padded(j->tile_q * j->group), dp = (size_t)padded(j->q_dim);
    return (size_t)j->q_dim * lanes + SL_KEY_TILE * (lanes + dp);
}

/* to[e][16] = 16 columns from the given rows of n elements, times `by`. */
static void turn(const float *const row[LANES], int n, float by, float *to, int64_t stride)
{
    for (int e = 0; e < n; e++, to += stride)
        for (int l = 0; l < LANES; l++) to[l] = row[l][e] * by;
}

/* The task's queries, scaled and turned; lanes beyond the last row repeat it. */
static void load_q(const struct sl_attend *j, const struct sl_attend_task *t,
                   struct sl_attend_area *a)
{
    const struct work w = work_at(j, a);
    int rows = t->n * t->heads;
    for (int r = 0; r < rows; r += LANES) {
        const float *row[LANES];
        for (int l = 0; l < LANES; l++) {
            int at = SL_MIN(r + l, rows - 1);
            int64_t i = t->seq->row + t->first + at / t->heads;
            row[l] = j->q + (i * j->how->n_heads + t->head * j->group + at % t->heads) * j->q_dim;
        }
        turn(row, j->q_dim, sl_attend_scale(j), w.q + r, w.lanes);
    }
}

static void load_tile(const struct sl_attend *j, const struct sl_attend_task *t,
                      const struct work *w, const struct sl_attend_sight *v)
{
    const struct sl_latent_view *kv = j->cache;
    const void *at[SL_KEY_TILE];
    size_t row = (size_t)kv->dim * (kv->type == SL_F32 ? 4 : 2);
    for (int i = 0; i < v->n; i++) {
        int p = v->base + i;
        size_t block = (size_t)t->seq->blocks[p / kv->block_tokens];
        size_t index = block * (size_t)kv->block_tokens + (size_t)(p % kv->block_tokens);
        at[i] = (const char *)kv->rows + index * row;
    }
    j->vec->pack_v(kv->type, at, v->n, kv->dim, w->dp, w->x);
}

static void tile(const struct sl_attend *j, const struct sl_attend_task *t,
                 struct sl_attend_area *a, const struct sl_attend_sight *v)
{
    const struct work w = work_at(j, a);
    int from = v->none * t->heads, to = v->gone * t->heads, first = from / LANES * LANES;
    load_tile(j, t, &w, v);
    j->vec->mad_tile(w.x, w.dp, w.q + first, w.lanes, w.s + first, w.lanes, v->n, j->q_dim,
                     padded(to) - first, 0);
    for (int r = from; r < to; r++)
        for (int key = 0; key < v->n; key++)
            a->s[(int64_t)r * SL_KEY_TILE + key] = w.s[(int64_t)key * w.lanes + r];
    sl_attend_weigh(j, t, a, v, w.x, w.dp);
}

static void set_group(struct sl_attend *j, int group)
{
    j->group = group;
    j->n_groups = (j->how->n_heads + group - 1) / group;
    j->tile_q = SL_MAX(1, TASK_ROWS / group);
}

/* All heads in one task, unless threads would idle. */
static void choose_group(struct sl_attend *j, const struct sl_backend *b)
{
    int threads = sl_pool_size(b->pool);
    set_group(j, SL_MIN(j->how->n_heads, TASK_ROWS));
    while (threads > 1 && j->group > GROUP_MIN && sl_attend_span_tasks(j) < 2 * threads)
        set_group(j, SL_MAX(GROUP_MIN, padded(j->group / 2)));
}

void sl_cpu_latent_attention(struct sl_backend *b, const struct sl_latent_view *kv,
                             const struct sl_seq_view *seqs, int n_seqs, const float *q,
                             const struct sl_attn *a, float *out)
{
    static const struct sl_attend_kind kind = {SPAN_KEYS, work_floats, load_q, tile};
    SL_ASSERT(kv->dim > 0 && kv->dim <= SL_LATENT_DIM_MAX);
    SL_ASSERT(kv->v_dim > 0 && kv->v_dim <= kv->dim);
    SL_ASSERT(kv->type == SL_F32 || kv->type == SL_F16 || kv->type == SL_BF16);
    struct sl_attend j = {.kind = &kind,
                          .cache = kv,
                          .seqs = seqs,
                          .how = a,
                          .q = q,
                          .out = out,
                          .n_seqs = n_seqs,
                          .q_dim = kv->dim,
                          .v_dim = kv->v_dim};
    choose_group(&j, b);
    sl_attend_run(b, &j);
}
