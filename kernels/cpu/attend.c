/* attend.c - the driver of attention over a paged cache: keys in tiles, softmax online. (Dao et al.
 * 2022, Ainslie et al. 2023)
 *
 * A task is one group of query heads of one sequence for some consecutive positions, so that a tile
 * of keys is decoded once for all of them. Expected work: decode of few rows over long contexts
 * (the tile's decoding dominates) and prefill of hundreds of positions (the two products dominate).
 *
 * Bits: keys are taken in tiles of SL_KEY_TILE at absolute positions, tiles in spans of the kind's
 * span_keys; each span starts from nothing and spans are joined in order. A row's arithmetic is
 * therefore a function of its own position and its cache only; where other rows of a task see a
 * tile and a row does not, the row is left alone. Spans exist so that several threads can share one
 * long sequence without changing a bit. A window only leaves out tiles that nobody sees; a sink
 * joins at the very end, once. */
#include "kernels/cpu/attend.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/sl_assert.h"

#define SPLIT_BYTES_MAX                                                                            \
    (128 << 20) /* bytes of partial results when spans are spread over threads                     \
                 */
#define LOG2E 1.44269504088896340736

/* ---- tasks ----------------------------------------------------------------------------------- */

/* The next `floats` of an area that begins at base; NULL while only its size is asked for. */
static float *carve(char *base, size_t *at, size_t floats)
{
    float *p = base ? (float *)(base + *at) : NULL;
    *at += (floats * sizeof(float) + SL_MEM_ALIGN - 1) / SL_MEM_ALIGN * SL_MEM_ALIGN;
    return p;
}

/* Lays the area out from `base`; returns its size in bytes. */
static size_t area_init(const struct sl_attend *j, char *base, struct sl_attend_area *a)
{
    size_t rows = (size_t)(j->tile_q * j->group), at = 0;
    a->work = carve(base, &at, j->kind->work_floats(j));
    a->s = carve(base, &at, rows * SL_KEY_TILE);
    a->c = carve(base, &at, rows);
    a->keys = (int *)carve(base, &at, rows);
    struct sl_attend_state *st[2] = {&a->part, &a->total};
    for (int i = 0; i < 2; i++) {
        st[i]->o = carve(base, &at, rows * (size_t)j->op);
        st[i]->m = carve(base, &at, rows);
        st[i]->l = carve(base, &at, rows);
    }
    return at;
}

/* The first position that position p sees. */
static int first_key(const struct sl_attend *j, int p)
{
    return j->how->window > 0 ? SL_MAX(0, p - j->how->window + 1) : 0;
}

/* The spans [*from, *to) that positions first..first+n-1 of a share need. */
static void spans_of(const struct sl_attend *j, const struct sl_seq_view *s, int first, int n,
                     int *from, int *to)
{
    *from = first_key(j, s->pos + first) / j->kind->span_keys;
    *to = (s->pos + first + n - 1) / j->kind->span_keys + 1;
}

static void task_spans(const struct sl_attend *j, const struct sl_attend_task *t, int *from,
                       int *to)
{
    spans_of(j, t->seq, t->first, t->n, from, to);
}

static int tiles_of(const struct sl_attend *j, const struct sl_seq_view *s)
{
    return (s->n + j->tile_q - 1) / j->tile_q;
}

static void tile_range(const struct sl_attend *j, int tile, struct sl_attend_task *t)
{
    t->first = tile * j->tile_q;
    t->n = SL_MIN(j->tile_q, t->seq->n - t->first);
}

/* Tasks of a sequence for one group of heads. */
static int group_tasks(const struct sl_attend *j, const struct sl_seq_view *s, int split)
{
    if (s->n <= 0) return 0;
    if (!split) return tiles_of(j, s);
    struct sl_attend_task t = {.seq = s};
    int n = 0;
    for (int tile = 0; tile < tiles_of(j, s); tile++) {
        int from, to;
        tile_range(j, tile, &t);
        task_spans(j, &t, &from, &to);
        n += to - from;
    }
    return n;
}

/* Task number i, heaviest first within a sequence so that threads end together. */
static void task_at(const struct sl_attend *j, int i, struct sl_attend_task *t)
{
    int low = 0, high = j->n_seqs, from, to; /* starts[low] <= i < starts[high] */
    while (high - low > 1) {
        int mid = (low + high) / 2;
        if (j->starts[mid] <= i)
            low = mid;
        else
            high = mid;
    }
    const struct sl_seq_view *s = t->seq = &j->seqs[low];
    i -= j->starts[low];
    t->head = i % j->n_groups;
    t->heads = SL_MIN(j->group, j->how->n_heads - t->head * j->group);
    i /= j->n_groups;
    t->span = -1;
    if (!j->split) {
        tile_range(j, tiles_of(j, s) - 1 - i, t);
        return;
    }
    for (int tile = 0;; tile++) {
        tile_range(j, tile, t);
        task_spans(j, t, &from, &to);
        if (i < to - from) break;
        i -= to - from;
    }
    t->span = from + i;
}

/* ---- one tile -------------------------------------------------------------------------------- */

float sl_attend_scale(const struct sl_attend *j)
{
    return (float)((double)j->how->scale * LOG2E);
}

static int clamp(int64_t x, int low, int high)
{
    return x < low ? low : x > high ? high : (int)x;
}

static struct sl_attend_sight sight_of(const struct sl_attend *j, const struct sl_attend_task *t,
                                       int base)
{
    int first = t->seq->pos + t->first, last = first + t->n - 1;
    int64_t window = j->how->window > 0 ? j->how->window : INT64_MAX / 2;
    struct sl_attend_sight v = {.base = base, .n = SL_MIN(SL_KEY_TILE, last - base + 1)};
    v.none = SL_MAX(0, base - first);
    v.part = clamp((int64_t)base + SL_KEY_TILE - 1 - first, v.none, t->n);
    v.cut = clamp(window + base - first, v.none, t->n);
    v.gone = clamp(window + base - first + SL_KEY_TILE - 1, v.none, t->n);
    return v;
}

void sl_attend_keys(const struct sl_attend *j, const struct sl_attend_task *t,
                    const struct sl_attend_sight *v, int i, int *from, int *to)
{
    int p = t->seq->pos + t->first + i;
    *from = SL_MAX(0, first_key(j, p) - v->base);
    *to = SL_MIN(SL_KEY_TILE, p - v->base + 1);
}

void sl_attend_soften(const struct sl_attend *j, struct sl_attend_area *a, int row, int rows)
{
    if (j->how->softcap == 0) return;
    j->vec->softcap(a->s + (int64_t)row * SL_KEY_TILE, (float)((double)j->how->softcap * LOG2E),
                    rows * SL_KEY_TILE);
}

/* Scores to weights; what was summed before shrinks where the maximum grew. */
static void weigh(const struct sl_attend *j, const struct sl_attend_task *t,
                  struct sl_attend_area *a, const struct sl_attend_sight *v)
{
    int heads = t->heads, row = v->none * heads, from, to;
    for (int i = v->none; i < v->gone; i++) {
        sl_attend_keys(j, t, v, i, &from, &to);
        for (int h = 0; h < heads; h++) a->keys[i * heads + h] = to - from;
    }
    j->vec->softmax(a->s + (int64_t)row * SL_KEY_TILE, (v->cut - v->none) * heads, a->keys + row,
                    a->part.m + row, a->part.l + row, a->c + row);
    for (int i = v->cut; i < v->gone; i++) { /* a row's keys must be neighbours */
        sl_attend_keys(j, t, v, i, &from, &to);
        int r = i * heads;
        j->vec->softmax(a->s + (int64_t)r * SL_KEY_TILE + from, heads, a->keys + r, a->part.m + r,
                        a->part.l + r, a->c + r);
    }
    for (int r = row; r < v->gone * heads; r++)
        if (a->c[r] != 1.0f) j->vec->scale(a->part.o + (int64_t)r * j->op, a->c[r], j->op);
}

/* Adds the values of keys [from, to), weighted, to positions [i, i + n). */
static void add_values(const struct sl_attend *j, const struct sl_attend_task *t,
                       struct sl_attend_area *a, int i, int n, int from, int to,
                       const float *values, int ldv)
{
    int64_t row = (int64_t)i * t->heads;
    j->vec->mad_tile(a->s + row * SL_KEY_TILE + from, SL_KEY_TILE, values + (int64_t)from * ldv,
                     ldv, a->part.o + row * j->op, j->op, n * t->heads, to - from, j->op, 1);
}

/* A row multiplies only the values it may see: another token's infinity must not reach it as 0 *
 * inf. */
void sl_attend_weigh(const struct sl_attend *j, const struct sl_attend_task *t,
                     struct sl_attend_area *a, const struct sl_attend_sight *v, const float *values,
                     int ldv)
{
    int from, to;
    sl_attend_soften(j, a, v->none * t->heads, (v->gone - v->none) * t->heads);
    weigh(j, t, a, v);
    for (int i = v->none; i < v->gone; i++) {
        if (i == v->part && i < v->cut) { /* those that see all of it, at once */
            add_values(j, t, a, i, v->cut - i, 0, SL_KEY_TILE, values, ldv);
            i = v->cut - 1;
            continue;
        }
        sl_attend_keys(j, t, v, i, &from, &to);
        add_values(j, t, a, i, 1, from, to, values, ldv);
    }
}

/* ---- spans ----------------------------------------------------------------------------------- */

/* One span from nothing into a->part. Rows that see none of it end with an empty state. */
static void attend_span(const struct sl_attend *j, const struct sl_attend_task *t,
                        struct sl_attend_area *a, int span)
{
    int rows = t->n * t->heads, first = t->seq->pos + t->first;
    memset(a->part.o, 0, sizeof(float) * (size_t)rows * (size_t)j->op);
    for (int r = 0; r < rows; r++) {
        a->part.m[r] = -INFINITY;
        a->part.l[r] = 0;
    }
    int to = SL_MIN((span + 1) * j->kind->span_keys, first + t->n);
    int from = SL_MAX(span * j->kind->span_keys, first_key(j, first) / SL_KEY_TILE * SL_KEY_TILE);
    for (int base = from; base < to; base += SL_KEY_TILE) {
        const struct sl_attend_sight v = sight_of(j, t, base);
        j->kind->tile(j, t, a, &v);
    }
}

/* total = total joined with part, for one row. */
static void join_row(float *to, float *tm, float *tl, const float *po, float pm, float pl, int n)
{
    if (pl == 0) return; /* the row sees nothing of the span */
    if (*tl == 0) {      /* nor of those before it */
        memcpy(to, po, sizeof(float) * (size_t)n);
        *tl = pl;
        *tm = pm;
        return;
    }
    float m = *tm > pm ? *tm : pm;
    float a = exp2f(*tm - m), b = exp2f(pm - m);
    for (int i = 0; i < n; i++) to[i] = to[i] * a + po[i] * b;
    *tl = *tl * a + pl * b;
    *tm = m;
}

static void join_span(const struct sl_attend *j, const struct sl_attend_task *t,
                      struct sl_attend_state *total, const struct sl_attend_state *part)
{
    for (int r = 0; r < t->n * t->heads; r++)
        join_row(total->o + (int64_t)r * j->op, &total->m[r], &total->l[r],
                 part->o + (int64_t)r * j->op, part->m[r], part->l[r], j->op);
}

/* What a row's sum is multiplied by in the end: the inverse of all weights, the sink's among
 * them. */
static float final_scale(float m, float l, const float *sink)
{
    if (!sink) return 1.0f / l;
    float s = (float)((double)*sink * LOG2E), top = s > m ? s : m, by = exp2f(m - top);
    return by / (l * by + exp2f(s - top));
}

static void store(const struct sl_attend *j, const struct sl_attend_task *t,
                  const struct sl_attend_state *total)
{
    for (int r = 0; r < t->n * t->heads; r++) {
        int64_t row = t->seq->row + t->first + r / t->heads;
        int head = t->head * j->group + r % t->heads;
        float *o = total->o + (int64_t)r * j->op;
        j->vec->scale(
            o, final_scale(total->m[r], total->l[r], j->how->sinks ? &j->how->sinks[head] : NULL),
            j->op);
        memcpy(j->out + (row * j->how->n_heads + head) * j->v_dim, o,
               sizeof(float) * (size_t)j->v_dim);
    }
}

static size_t part_floats(const struct sl_attend *j)
{
    return (size_t)j->part_rows * ((size_t)j->op + 2);
}

/* Where the split task i keeps its result. */
static struct sl_attend_state part_at(const struct sl_attend *j, int i)
{
    size_t rows = (size_t)j->part_rows;
    float *p = j->parts + (size_t)i * part_floats(j);
    return (struct sl_attend_state){p, p + rows * (size_t)j->op, p + rows * ((size_t)j->op + 1)};
}

static void run_tasks(struct sl_attend *j, struct sl_attend_area *a)
{
    int i, from, to;
    while ((i = atomic_fetch_add_explicit(&j->next, 1, memory_order_relaxed)) < j->n_tasks) {
        struct sl_attend_task t;
        task_at(j, i, &t);
        j->kind->load_q(j, &t, a);
        if (j->split) {
            a->part = part_at(j, i);
            attend_span(j, &t, a, t.span);
            continue;
        }
        task_spans(j, &t, &from, &to);
        for (int s = from; s < to; s++) {
            attend_span(j, &t, a, s);
            if (s == from) { /* the first span is the total so far */
                struct sl_attend_state first = a->part;
                a->part = a->total;
                a->total = first;
            } else {
                join_span(j, &t, &a->total, &a->part);
            }
        }
        store(j, &t, &a->total);
    }
}

/* Split: tasks whose span is the first of their rows gather the others, which follow n_groups
 * apart. */
static void join_tasks(struct sl_attend *j)
{
    int i, from, to;
    while ((i = atomic_fetch_add_explicit(&j->next_join, 1, memory_order_relaxed)) < j->n_tasks) {
        struct sl_attend_task t;
        task_at(j, i, &t);
        task_spans(j, &t, &from, &to);
        if (t.span != from) continue;
        struct sl_attend_state total = part_at(j, i);
        for (int s = from + 1; s < to; s++) {
            struct sl_attend_state part = part_at(j, i + (s - from) * j->n_groups);
            join_span(j, &t, &total, &part);
        }
        store(j, &t, &total);
    }
}

static void run(void *arg, int thread, int n_threads)
{
    struct sl_attend *j = arg;
    struct sl_attend_area a;
    area_init(j, j->buffers + (size_t)thread * j->buffer_bytes, &a);
    run_tasks(j, &a);
    if (!j->split) return;
    if (n_threads > 1) sl_pool_barrier(j->pool, thread);
    join_tasks(j);
}

/* ---- one call -------------------------------------------------------------------------------- */

static int count_tasks(const struct sl_attend *j, int split)
{
    int n = 0;
    for (int s = 0; s < j->n_seqs; s++) n += group_tasks(j, &j->seqs[s], split) * j->n_groups;
    return n;
}

int sl_attend_span_tasks(const struct sl_attend *j)
{
    return count_tasks(j, 1);
}

/* Spreads spans over the threads when whole rows would leave some idle and the partial results stay
 * small. */
static void choose_split(struct sl_attend *j, int n_threads)
{
    j->n_tasks = count_tasks(j, 0);
    int most = 0, from, to;
    for (int s = 0; s < j->n_seqs; s++) {
        if (j->seqs[s].n <= 0) continue;
        spans_of(j, &j->seqs[s], 0, j->seqs[s].n, &from, &to);
        most = SL_MAX(most, to - from);
        j->part_rows = SL_MAX(j->part_rows, SL_MIN(j->seqs[s].n, j->tile_q) * j->group);
    }
    if (n_threads == 1 || most <= 1 || j->n_tasks >= 4 * n_threads) return;
    int n = count_tasks(j, 1);
    if ((size_t)n * part_floats(j) * sizeof(float) > SPLIT_BYTES_MAX) return;
    j->split = 1;
    j->n_tasks = n;
}

static int64_t work_of(const struct sl_attend *j)
{
    int64_t keys = 0;
    for (const struct sl_seq_view *s = j->seqs; s < j->seqs + j->n_seqs; s++)
        keys += (int64_t)s->n * (s->pos + s->n - first_key(j, s->pos));
    return keys * j->how->n_heads * (j->q_dim + j->v_dim) /
           4; /* one multiply-add is about half an element of other work */
}

/* Work areas, partial results and the tasks' numbering, all in the backend's scratch. */
static void prepare(struct sl_attend *j, struct sl_backend *b, int n_threads)
{
    struct sl_attend_area a;
    j->buffer_bytes = area_init(j, NULL, &a);
    size_t parts = j->split ? (size_t)j->n_tasks * part_floats(j) * sizeof(float) : 0;
    size_t areas = j->buffer_bytes * (size_t)n_threads;
    size_t starts = sizeof(int) * (size_t)(j->n_seqs + 1);
    j->buffers = sl_scratch_get(&b->attention_scratch, areas + parts + starts);
    SL_ASSERT(j->buffers);
    j->parts = (float *)(j->buffers + areas);
    j->starts = (int *)(j->buffers + areas + parts);
    j->starts[0] = 0;
    for (int s = 0; s < j->n_seqs; s++)
        j->starts[s + 1] = j->starts[s] + group_tasks(j, &j->seqs[s], j->split) * j->n_groups;
}

void sl_attend_run(struct sl_backend *b, struct sl_attend *j)
{
    int n_threads = sl_pool_size(b->pool);
    j->vec = b->vec;
    j->pool = b->pool;
    j->op = (j->v_dim + SL_HEAD_PAD - 1) / SL_HEAD_PAD * SL_HEAD_PAD;
    choose_split(j, n_threads);
    if (j->n_tasks == 0) return;
    prepare(j, b, n_threads);
    sl_cpu_run(b, work_of(j), run, j);
}
