/* attention.c - causal attention over a paged cache, keys in tiles, softmax online. (Dao et al.
 * 2022, Ainslie et al. 2023)
 *
 * A task is one KV head of one sequence with up to TASK_ROWS rows: all query heads of that KV head
 * for some consecutive positions, so that a tile of keys and values is decoded once for all of
 * them. Expected work: decode of few rows over long contexts (the tile's decoding dominates) and
 * prefill of hundreds of positions (the two products dominate).
 *
 * Bits: keys are taken in tiles of SL_KEY_TILE at absolute positions, tiles in spans of SPAN_KEYS;
 * each span starts from nothing and spans are joined in order. A row's arithmetic is therefore a
 * function of its own position and its cache only. Spans exist so that several threads can share
 * one long sequence without changing a bit. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "base/mem.h"
#include "base/sl_assert.h"
#include "kernels/backend.h"

#define SPAN_KEYS 256 /* keys; a multiple of SL_KEY_TILE */
#define TASK_ROWS 96  /* rows of a task: fits its buffers into L2 */
#define SPLIT_BYTES_MAX                                                                            \
    (64 << 20) /* bytes of partial results when spans are spread over threads                      \
                */
#define LOG2E 1.44269504088896340736

struct job {
    const struct sl_op_row *vec;
    const struct sl_kv_view *kv;
    const struct sl_seq_view *seqs;
    int n_seqs, n_heads;
    float scale;
    const float *q;
    float *out;
    int group;  /* query heads of a KV head */
    int dp;     /* head_dim padded */
    int tile_q; /* positions of a task */
    int split;  /* spans are tasks of their own; their results go to `parts` */
    struct sl_pool *pool;
    int n_tasks;
    int *starts; /* [n_seqs + 1] number of each sequence's first task */
    atomic_int next, next_join;
    char *buffers; /* one work area per thread */
    size_t buffer_bytes;
    float *parts; /* [task][rows][dp + 2] */
    int part_rows;
};

/* The running softmax of a task's rows: weighted values, maximum, sum. */
struct state {
    float *o; /* [rows][dp] */
    float *m; /* [rows], in powers of two */
    float *l; /* [rows] */
};

/* One thread's work area. */
struct area {
    float *q, *s, *kt,
        *v;    /* [rows][dp], [rows][SL_KEY_TILE], [dp][SL_KEY_TILE], [SL_KEY_TILE][dp] */
    float *c;  /* [rows] corrections of the softmax */
    int *keys; /* [rows] keys of the tile that a row sees */
    struct state part, total;
};

struct task {
    const struct sl_seq_view *seq;
    int head;     /* KV head */
    int first, n; /* positions first..first+n-1 of the sequence's share, counted from 0 */
    int span;     /* split: the only span to do; else -1 */
};

/* The next `floats` of an area that begins at base; NULL while only its size is asked for. */
static float *carve(char *base, size_t *at, size_t floats)
{
    float *p = base ? (float *)(base + *at) : NULL;
    *at += (floats * sizeof(float) + SL_MEM_ALIGN - 1) / SL_MEM_ALIGN * SL_MEM_ALIGN;
    return p;
}

/* Lays the area out from `base`; returns its size in bytes. */
static size_t area_init(const struct job *j, char *base, struct area *a)
{
    size_t rows = (size_t)(j->tile_q * j->group), dp = (size_t)j->dp, at = 0;
    a->q = carve(base, &at, rows * dp);
    a->s = carve(base, &at, rows * SL_KEY_TILE);
    a->kt = carve(base, &at, dp * SL_KEY_TILE);
    a->v = carve(base, &at, dp * SL_KEY_TILE);
    a->c = carve(base, &at, rows);
    a->keys = (int *)carve(base, &at, rows);
    struct state *st[2] = {&a->part, &a->total};
    for (int i = 0; i < 2; i++) {
        st[i]->o = carve(base, &at, rows * dp);
        st[i]->m = carve(base, &at, rows);
        st[i]->l = carve(base, &at, rows);
    }
    return at;
}

static int spans_of(const struct sl_seq_view *s, int last)
{
    return (s->pos + last) / SPAN_KEYS + 1;
}

static int tiles_of(const struct job *j, const struct sl_seq_view *s)
{
    return (s->n + j->tile_q - 1) / j->tile_q;
}

/* Tasks of a sequence for one KV head. */
static int head_tasks(const struct job *j, const struct sl_seq_view *s)
{
    if (s->n <= 0) return 0;
    if (!j->split) return tiles_of(j, s);
    int n = 0;
    for (int t = 0; t < tiles_of(j, s); t++)
        n += spans_of(s, SL_MIN((t + 1) * j->tile_q, s->n) - 1);
    return n;
}

static void tile_range(const struct job *j, int tile, struct task *t)
{
    t->first = tile * j->tile_q;
    t->n = SL_MIN(j->tile_q, t->seq->n - t->first);
}

/* Task number i, heaviest first within a sequence so that threads end together. */
static void task_at(const struct job *j, int i, struct task *t)
{
    int low = 0, high = j->n_seqs; /* starts[low] <= i < starts[high] */
    while (high - low > 1) {
        int mid = (low + high) / 2;
        if (j->starts[mid] <= i)
            low = mid;
        else
            high = mid;
    }
    const struct sl_seq_view *s = t->seq = &j->seqs[low];
    i -= j->starts[low];
    t->head = i % j->kv->n_kv_heads;
    i /= j->kv->n_kv_heads;
    t->span = -1;
    if (!j->split) {
        tile_range(j, tiles_of(j, s) - 1 - i, t);
        return;
    }
    for (int tile = 0;; tile++) {
        tile_range(j, tile, t);
        int n = spans_of(s, t->first + t->n - 1);
        if (i < n) break;
        i -= n;
    }
    t->span = i;
}

/* Query rows of the task, scaled so that scores are powers of two: row (position, head of the
 * group). */
static void load_q(const struct job *j, const struct task *t, float *q)
{
    int d = j->kv->head_dim, dp = j->dp;
    float by = (float)((double)j->scale * LOG2E);
    for (int i = 0; i < t->n; i++) {
        const float *x = j->q + (int64_t)(t->seq->row + t->first + i) * j->n_heads * d +
                         (int64_t)t->head * j->group * d;
        for (int g = 0; g < j->group; g++, q += dp, x += d) {
            memcpy(q, x, sizeof(float) * (size_t)d);
            for (int e = d; e < dp; e++) q[e] = 0;
            j->vec->scale(q, by, dp);
        }
    }
}

/* Where n keys from position p on begin: `step` elements from one to the next inside a block. */
static void find_keys(const struct job *j, const struct task *t, const void *cache, int p, int n,
                      int step, const void **at)
{
    const struct sl_kv_view *kv = j->kv;
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
static void load_tile(const struct job *j, const struct task *t, struct area *a, int base, int n)
{
    const struct sl_kv_view *kv = j->kv;
    const void *at[SL_KEY_TILE];
    find_keys(j, t, kv->k, base, n, 1, at);
    j->vec->pack_k(kv->type, at, n, kv->head_dim, kv->block_tokens, a->kt);
    find_keys(j, t, kv->v, base, n, kv->head_dim, at);
    j->vec->pack_v(kv->type, at, n, kv->head_dim, j->dp, a->v);
}

/* Adds the tile's values, weighted by the scores of `rows` rows from `row` on, which see its first
 * `keys` keys. */
static void add_values(const struct job *j, struct area *a, int row, int rows, int keys)
{
    j->vec->mad_tile(a->s + (int64_t)row * SL_KEY_TILE, SL_KEY_TILE, a->v, j->dp,
                     a->part.o + (int64_t)row * j->dp, j->dp, rows, keys, j->dp, 1);
}

/* One tile of keys from position `base`, seen by all of the task's rows or, at the diagonal, by
 * some up to some key. There a row multiplies only the values it may see: a later token's infinity
 * must not reach it as 0 * inf. */
static void attend_tile(const struct job *j, const struct task *t, struct area *a, int base)
{
    int first = t->seq->pos + t->first, last = first + t->n - 1, group = j->group, dp = j->dp;
    int n = SL_MIN(SL_KEY_TILE, last - base + 1);
    int none = SL_MAX(0, base - first); /* positions before the tile */
    int part = SL_MIN(SL_MAX(none, base + SL_KEY_TILE - 1 - first), t->n); /* below: see a part */
    int row = none * group, rows = (t->n - none) * group;
    float *s = a->s + (int64_t)row * SL_KEY_TILE;
    load_tile(j, t, a, base, n);
    j->vec->mad_tile(a->q + (int64_t)row * dp, dp, a->kt, SL_KEY_TILE, s, SL_KEY_TILE, rows,
                     j->kv->head_dim, (n + 15) / 16 * 16, 0);
    for (int i = none; i < t->n; i++)
        for (int g = 0; g < group; g++)
            a->keys[i * group + g] = SL_MIN(SL_KEY_TILE, first + i - base + 1);
    j->vec->softmax(s, rows, a->keys + row, a->part.m + row, a->part.l + row, a->c + row);
    for (int r = row; r < row + rows; r++)
        if (a->c[r] != 1.0f) j->vec->scale(a->part.o + (int64_t)r * dp, a->c[r], dp);
    for (int i = none; i < part; i++) add_values(j, a, i * group, group, first + i - base + 1);
    if (part < t->n) add_values(j, a, part * group, (t->n - part) * group, SL_KEY_TILE);
}

#define DIRECT_ROWS_MAX 12 /* more rows are worth a decoded copy of the tile */

/* A task of one position goes straight to the cache when the row has kernels for that. */
static int is_direct(const struct job *j, const struct task *t)
{
    return j->vec->mad_keys && t->n == 1 && j->group <= DIRECT_ROWS_MAX &&
           j->kv->head_dim % 16 == 0 && j->kv->block_tokens % 16 == 0;
}

static void attend_tile_direct(const struct job *j, const struct task *t, struct area *a, int base)
{
    const struct sl_kv_view *kv = j->kv;
    const void *at[SL_KEY_TILE];
    int n = SL_MIN(SL_KEY_TILE, t->seq->pos + t->first - base + 1), d = kv->head_dim;
    find_keys(j, t, kv->k, base, n, 1, at);
    j->vec->mad_keys(kv->type, a->q, j->dp, at, n, d, kv->block_tokens, a->s, j->group);
    for (int r = 0; r < j->group; r++) a->keys[r] = n;
    j->vec->softmax(a->s, j->group, a->keys, a->part.m, a->part.l, a->c);
    for (int r = 0; r < j->group; r++)
        if (a->c[r] != 1.0f) j->vec->scale(a->part.o + (int64_t)r * j->dp, a->c[r], j->dp);
    find_keys(j, t, kv->v, base, n, d, at);
    j->vec->mad_values(kv->type, a->s, at, n, d, a->part.o, j->dp, j->group);
}

/* One span from nothing into a->part. Rows that lie before it end with an empty state. */
static void attend_span(const struct job *j, const struct task *t, struct area *a, int span)
{
    int rows = t->n * j->group, last = t->seq->pos + t->first + t->n - 1;
    memset(a->part.o, 0, sizeof(float) * (size_t)rows * (size_t)j->dp);
    for (int r = 0; r < rows; r++) {
        a->part.m[r] = -INFINITY;
        a->part.l[r] = 0;
    }
    int to = SL_MIN((span + 1) * SPAN_KEYS, last + 1);
    int direct = is_direct(j, t);
    for (int base = span * SPAN_KEYS; base < to; base += SL_KEY_TILE) {
        if (direct)
            attend_tile_direct(j, t, a, base);
        else
            attend_tile(j, t, a, base);
    }
}

/* total = total joined with part, for one row. */
static void join_row(float *to, float *tm, float *tl, const float *po, float pm, float pl, int n)
{
    if (pl == 0) return; /* the row lies before the span */
    float m = *tm > pm ? *tm : pm;
    float a = exp2f(*tm - m), b = exp2f(pm - m);
    for (int i = 0; i < n; i++) to[i] = to[i] * a + po[i] * b;
    *tl = *tl * a + pl * b;
    *tm = m;
}

static void join_span(const struct job *j, const struct task *t, struct state *total,
                      const struct state *part, int span)
{
    int rows = t->n * j->group;
    if (span == 0) {
        memcpy(total->o, part->o, sizeof(float) * (size_t)rows * (size_t)j->dp);
        memcpy(total->m, part->m, sizeof(float) * (size_t)rows);
        memcpy(total->l, part->l, sizeof(float) * (size_t)rows);
        return;
    }
    for (int r = 0; r < rows; r++)
        join_row(total->o + (int64_t)r * j->dp, &total->m[r], &total->l[r],
                 part->o + (int64_t)r * j->dp, part->m[r], part->l[r], j->dp);
}

static void store(const struct job *j, const struct task *t, const struct state *total)
{
    int d = j->kv->head_dim;
    for (int r = 0; r < t->n * j->group; r++) {
        float *y = j->out + (int64_t)(t->seq->row + t->first + r / j->group) * j->n_heads * d +
                   (int64_t)(t->head * j->group + r % j->group) * d;
        float *o = total->o + (int64_t)r * j->dp;
        j->vec->scale(o, 1.0f / total->l[r], j->dp);
        memcpy(y, o, sizeof(float) * (size_t)d);
    }
}

static size_t part_floats(const struct job *j)
{
    return (size_t)j->part_rows * ((size_t)j->dp + 2);
}

/* Where the split task i keeps its result. */
static struct state part_at(const struct job *j, int i)
{
    size_t rows = (size_t)j->part_rows;
    float *p = j->parts + (size_t)i * part_floats(j);
    return (struct state){p, p + rows * (size_t)j->dp, p + rows * ((size_t)j->dp + 1)};
}

static void run_tasks(struct job *j, struct area *a)
{
    int i;
    while ((i = atomic_fetch_add_explicit(&j->next, 1, memory_order_relaxed)) < j->n_tasks) {
        struct task t;
        task_at(j, i, &t);
        load_q(j, &t, a->q);
        if (j->split) {
            a->part = part_at(j, i);
            attend_span(j, &t, a, t.span);
            continue;
        }
        for (int s = 0; s < spans_of(t.seq, t.first + t.n - 1); s++) {
            attend_span(j, &t, a, s);
            if (s == 0) { /* the first span is the total so far */
                struct state first = a->part;
                a->part = a->total;
                a->total = first;
            } else {
                join_span(j, &t, &a->total, &a->part, s);
            }
        }
        store(j, &t, &a->total);
    }
}

/* Split: tasks whose span is the first of their rows gather the others, which follow n_kv_heads
 * apart. */
static void join_tasks(struct job *j, struct area *a)
{
    int i;
    while ((i = atomic_fetch_add_explicit(&j->next_join, 1, memory_order_relaxed)) < j->n_tasks) {
        struct task t;
        task_at(j, i, &t);
        if (t.span) continue;
        for (int s = 0; s < spans_of(t.seq, t.first + t.n - 1); s++) {
            struct state part = part_at(j, i + s * j->kv->n_kv_heads);
            join_span(j, &t, &a->total, &part, s);
        }
        store(j, &t, &a->total);
    }
}

static void run(void *arg, int thread, int n_threads)
{
    struct job *j = arg;
    struct area a;
    area_init(j, j->buffers + (size_t)thread * j->buffer_bytes, &a);
    run_tasks(j, &a);
    if (!j->split) return;
    if (n_threads > 1) sl_pool_barrier(j->pool, thread);
    join_tasks(j, &a);
}

static int count_tasks(const struct job *j)
{
    int n = 0;
    for (int s = 0; s < j->n_seqs; s++) n += head_tasks(j, &j->seqs[s]) * j->kv->n_kv_heads;
    return n;
}

/* Spreads spans over the threads when whole rows would leave some idle and the partial results stay
 * small. */
static void choose_split(struct job *j, int n_threads)
{
    j->n_tasks = count_tasks(j);
    int longest = 0;
    for (int s = 0; s < j->n_seqs; s++) {
        if (j->seqs[s].n > 0) longest = SL_MAX(longest, j->seqs[s].pos + j->seqs[s].n);
        j->part_rows = SL_MAX(j->part_rows, SL_MIN(j->seqs[s].n, j->tile_q) * j->group);
    }
    if (n_threads == 1 || longest <= SPAN_KEYS || j->n_tasks >= 4 * n_threads) return;
    j->split = 1;
    int n = count_tasks(j);
    if ((size_t)n * part_floats(j) * sizeof(float) > SPLIT_BYTES_MAX)
        j->split = 0;
    else
        j->n_tasks = n;
}

static int64_t work_of(const struct job *j)
{
    int64_t keys = 0;
    for (int s = 0; s < j->n_seqs; s++)
        keys += (int64_t)j->seqs[s].n * (j->seqs[s].pos + j->seqs[s].n);
    return keys * j->n_heads * j->kv->head_dim /
           2; /* one multiply-add is about half an element of other work */
}

/* Work areas, partial results and the tasks' numbering, all in the backend's scratch. */
static void prepare(struct job *j, struct sl_backend *b, int n_threads)
{
    struct area a;
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
        j->starts[s + 1] = j->starts[s] + head_tasks(j, &j->seqs[s]) * j->kv->n_kv_heads;
}

void sl_cpu_attention(struct sl_backend *b, const struct sl_kv_view *kv,
                      const struct sl_seq_view *seqs, int n_seqs, const float *q,
                      const struct sl_attn *a, float *out)
{
    SL_ASSERT(kv->head_dim > 0 && kv->head_dim <= SL_HEAD_DIM_MAX);
    SL_ASSERT(a->n_heads % kv->n_kv_heads == 0);
    SL_ASSERT(a->window == 0 && a->softcap == 0 && !a->sinks);
    SL_ASSERT(kv->type == SL_F32 || kv->type == SL_F16 || kv->type == SL_BF16);
    struct job j = {.vec = b->vec,
                    .kv = kv,
                    .seqs = seqs,
                    .n_seqs = n_seqs,
                    .n_heads = a->n_heads,
                    .scale = a->scale,
                    .q = q,
                    .out = out,
                    .pool = b->pool};
    int n_threads = sl_pool_size(b->pool);
    j.group = a->n_heads / kv->n_kv_heads;
    j.dp = (kv->head_dim + SL_HEAD_PAD - 1) / SL_HEAD_PAD * SL_HEAD_PAD;
    j.tile_q = SL_MAX(1, TASK_ROWS / j.group);
    choose_split(&j, n_threads);
    if (j.n_tasks == 0) return;
    prepare(&j, b, n_threads);
    sl_cpu_run(b, work_of(&j), run, &j);
}
