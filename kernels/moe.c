/* moe.c - mixture of experts: routing, rows gathered per expert, weighted sums. (Shazeer et al.
 * 2017; Fedus et al. 2021; DeepSeek-AI 2024)
 *
 * One file for every backend: the arithmetic is the backend's own matmul and glu, and the rest is
 * cheap. Rows are sorted by expert, experts are taken in ascending order in batches of some rows,
 * and a row adds its experts' outputs in that order, so its result does not depend on the other
 * rows. Expected work: decode, where a row meets n_used experts once, so that one job over all of
 * them beats a job each; and prefill, where each expert meets dozens of rows.
 *
 * Logits may be NaN (damaged weights): they are never the largest of anything, so the choice stays
 * in range, and the NaN reaches the output through the weights. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/sl_assert.h"
#include "kernels/backend.h"

#define BATCH_ROWS 64  /* rows of a batch of experts, at least: decode is one batch */
#define SUM_MIN 1e-20f /* added to a sum of sigmoids before it divides, as DeepSeek-V3 does */

struct job {
    struct sl_backend *b;
    const struct sl_moe *m;
    const float *x;
    int n, dim;
    float *out;
    int64_t capacity; /* rows of a batch */

    float *logits;            /* [n][n_experts], then the scores made of them */
    float *choice;            /* [n][n_experts]: what the experts are chosen by */
    int32_t *ids;             /* [n][n_used] */
    float *weights;           /* [n][n_used] */
    int64_t *starts;          /* [n_experts + 1]: where an expert's rows begin in `pairs` */
    int32_t *pairs;           /* [n * n_used]: row * n_used + slot, by expert, then by row */
    float *in, *gate, *up;    /* [capacity][dim], [capacity][n_ff] twice */
    float *y;                 /* [capacity][dim] */
    struct sl_mm_item *items; /* [2 * n_experts]: the products of a batch */
    int64_t first, last;      /* the batch: pairs [first, last) */
};

/* ---- routing of one row ---------------------------------------------------------------------- */

/* The largest of v[n] that is not NaN, the first of equals; 0 when there is none. */
static int best_of(const float *v, int n)
{
    int best = 0;
    float top = -INFINITY;
    for (int i = 0; i < n; i++)
        if (v[i] > top) {
            top = v[i];
            best = i;
        }
    return best;
}

static void softmax(float *v, int n)
{
    float top = v[best_of(v, n)], sum = 0;
    for (int i = 0; i < n; i++) sum += v[i] = expf(v[i] - top);
    for (int i = 0; i < n; i++) v[i] /= sum;
}

/* The `count` largest of v[n] in falling order, lower index first among equals; NaN counts as
 * -infinity. v is spoiled. */
static void choose(float *v, int n, int count, int32_t *ids)
{
    for (int i = 0; i < n; i++)
        if (!(v[i] > -INFINITY)) v[i] = -INFINITY;
    for (int c = 0; c < count; c++) {
        int best = -1;
        for (int i = 0; i < n; i++)
            if (!isnan(v[i]) && (best < 0 || v[i] > v[best])) best = i;
        ids[c] = best;
        v[best] = NAN; /* taken */
    }
}

/* What a group counts: its best expert, or the sum of its two best. */
static float group_score(const float *choice, int n, int two)
{
    int best = best_of(choice, n);
    if (!two || n < 2) return choice[best];
    float second = -INFINITY;
    for (int i = 0; i < n; i++)
        if (i != best && choice[i] > second) second = choice[i];
    return choice[best] + second;
}

/* Takes the experts of all groups but the best n_groups_used out of the choice. With softmax their
 * probability becomes 0 (DeepSeek-V2), else they lie below everything (V3). */
static void keep_groups(const struct sl_moe *m, float *scores, float *choice)
{
    float group[SL_MOE_GROUPS_MAX];
    int32_t kept[SL_MOE_GROUPS_MAX];
    char keep[SL_MOE_GROUPS_MAX] = {0};
    int size = m->n_experts / m->n_groups;
    for (int g = 0; g < m->n_groups; g++)
        group[g] = group_score(choice + g * size, size, m->gating == SL_GATING_SIGMOID);
    choose(group, m->n_groups, m->n_groups_used, kept);
    for (int g = 0; g < m->n_groups_used; g++) keep[kept[g]] = 1;
    for (int e = 0; e < m->n_experts; e++) {
        if (keep[e / size]) continue;
        choice[e] = m->gating == SL_GATING_SOFTMAX ? 0 : -INFINITY;
        if (m->gating == SL_GATING_SOFTMAX) scores[e] = 0;
    }
}

static void weigh(const struct sl_moe *m, const float *scores, const int32_t *ids, float *weights)
{
    float sum = 0;
    for (int s = 0; s < m->n_used; s++) weights[s] = scores[ids[s]];
    if (m->gating == SL_GATING_TOPK_SOFTMAX) {
        softmax(weights, m->n_used);
    } else if (m->normalize) {
        for (int s = 0; s < m->n_used; s++) sum += weights[s];
        if (m->gating == SL_GATING_SIGMOID) sum += SUM_MIN;
        for (int s = 0; s < m->n_used; s++) weights[s] /= sum;
    }
    for (int s = 0; s < m->n_used; s++) weights[s] *= m->scale;
}

static void route_row(const struct job *j, int64_t i)
{
    const struct sl_moe *m = j->m;
    int n = m->n_experts;
    float *scores = j->logits + i * n, *choice = j->choice + i * n;
    if (m->gating == SL_GATING_SOFTMAX) softmax(scores, n);
    if (m->gating == SL_GATING_SIGMOID)
        for (int e = 0; e < n; e++) scores[e] = 1 / (1 + expf(-scores[e]));
    for (int e = 0; e < n; e++) choice[e] = scores[e] + (m->correction ? m->correction[e] : 0);
    if (m->n_groups_used < m->n_groups) keep_groups(m, scores, choice);
    choose(choice, n, m->n_used, j->ids + i * m->n_used);
    weigh(m, scores, j->ids + i * m->n_used, j->weights + i * m->n_used);
}

static void route_rows(void *arg, int thread, int n_threads)
{
    const struct job *j = arg;
    int64_t from, to;
    sl_pool_share(j->n, 1, thread, n_threads, &from, &to);
    for (int64_t i = from; i < to; i++) route_row(j, i);
}

/* ---- rows by expert -------------------------------------------------------------------------- */

static void sort_pairs(struct job *j)
{
    int64_t n_pairs = (int64_t)j->n * j->m->n_used;
    int n = j->m->n_experts;
    memset(j->starts, 0, sizeof(*j->starts) * (size_t)(n + 1));
    for (int64_t p = 0; p < n_pairs; p++) j->starts[j->ids[p] + 1]++;
    for (int e = 0; e < n; e++) j->starts[e + 1] += j->starts[e];
    for (int64_t p = 0; p < n_pairs; p++) j->pairs[j->starts[j->ids[p]]++] = (int32_t)p;
    memmove(j->starts + 1, j->starts, sizeof(*j->starts) * (size_t)n);
    j->starts[0] = 0;
}

static void gather(void *arg, int thread, int n_threads)
{
    const struct job *j = arg;
    int64_t from, to;
    sl_pool_share(j->last - j->first, 1, thread, n_threads, &from, &to);
    for (int64_t i = from; i < to; i++)
        memcpy(j->in + i * j->dim, j->x + j->pairs[j->first + i] / j->m->n_used * (int64_t)j->dim,
               sizeof(float) * (size_t)j->dim);
}

/* Threads share the columns, so that each output is one chain of additions. */
static void scatter(void *arg, int thread, int n_threads)
{
    const struct job *j = arg;
    int64_t from, to;
    sl_pool_share(j->dim, SL_MEM_ALIGN / (int)sizeof(float), thread, n_threads, &from, &to);
    for (int64_t i = j->first; i < j->last; i++) {
        float w = j->weights[j->pairs[i]];
        const float *restrict y = j->y + (i - j->first) * j->dim;
        float *restrict out = j->out + j->pairs[i] / j->m->n_used * (int64_t)j->dim;
        for (int64_t e = from; e < to; e++) out[e] += w * y[e];
    }
}

static const float *row_of(const float *rows, int64_t i, int64_t width)
{
    return rows ? rows + i * width : NULL;
}

/* One job where the backend can; the reference takes one product at a time. */
static void multiply(const struct job *j, const float *x, int n, int n_items)
{
    if (j->b->matmul) {
        sl_cpu_multiply(j->b, x, n, j->items, n_items);
        return;
    }
    for (const struct sl_mm_item *it = j->items; it < j->items + n_items; it++)
        j->b->ops->matmul(j->b, x + it->row * it->p.w->cols, it->rows, &it->p, 1);
}

/* Adds the product of one expert's rows of the batch to the job. `row` is their place in the
 * input. */
static void add_item(const struct job *j, int *n_items, int expert, int64_t row,
                     const struct sl_weight *w, const float *bias, float *out)
{
    int64_t at = j->starts[expert] - j->first;
    w += expert;
    j->items[(*n_items)++] = (struct sl_mm_item){
        .p = {w, row_of(bias, expert, w->rows), out + at * w->rows, 0},
        .row = (int)row,
        .rows = (int)(j->starts[expert + 1] - j->starts[expert]),
        .out_stride = w->rows,
    };
}

/* Experts [from, to), whose rows are the batch. All experts of a single row read that row. */
static void run_batch(struct job *j, int from, int to)
{
    const struct sl_moe *m = j->m;
    int64_t rows = j->last - j->first;
    int n_items = 0, one = j->n == 1;
    if (!one) sl_cpu_run(j->b, rows * j->dim, gather, j);
    for (int e = from; e < to; e++) {
        if (j->starts[e + 1] == j->starts[e]) continue;
        int64_t row = one ? 0 : j->starts[e] - j->first;
        add_item(j, &n_items, e, row, m->gate, m->gate_bias, j->gate);
        add_item(j, &n_items, e, row, m->up, m->up_bias, j->up);
    }
    multiply(j, one ? j->x : j->in, one ? 1 : (int)rows, n_items);
    j->b->ops->glu(j->b, m->act, j->gate, j->up, rows, m->n_ff, j->gate);
    n_items = 0;
    for (int e = from; e < to; e++)
        if (j->starts[e + 1] > j->starts[e])
            add_item(j, &n_items, e, j->starts[e] - j->first, m->down, m->down_bias, j->y);
    multiply(j, j->gate, (int)rows, n_items);
    sl_cpu_run(j->b, rows * j->dim, scatter, j);
}

/* As many experts at a time as fit the capacity. */
static void run_experts(struct job *j)
{
    for (int from = 0, to; from < j->m->n_experts; from = to) {
        j->first = j->starts[from];
        for (to = from + 1; to < j->m->n_experts; to++)
            if (j->starts[to + 1] - j->first > j->capacity) break;
        j->last = j->starts[to];
        if (j->last > j->first) run_batch(j, from, to);
    }
}

/* ---- the operation --------------------------------------------------------------------------- */

static void *carve(char *base, size_t *at, size_t bytes)
{
    void *p = base ? base + *at : NULL;
    *at += (bytes + SL_MEM_ALIGN - 1) / SL_MEM_ALIGN * SL_MEM_ALIGN;
    return p;
}

/* Lays the arrays out from `base`; returns their size in bytes. */
static size_t lay_out(struct job *j, char *base)
{
    size_t at = 0, n = (size_t)j->n, experts = (size_t)j->m->n_experts, used = (size_t)j->m->n_used;
    size_t wide = (size_t)j->capacity * (size_t)j->dim * sizeof(float);
    size_t ff = (size_t)j->capacity * (size_t)j->m->n_ff * sizeof(float);
    j->logits = carve(base, &at, n * experts * sizeof(float));
    j->choice = carve(base, &at, n * experts * sizeof(float));
    j->ids = carve(base, &at, n * used * sizeof(int32_t));
    j->weights = carve(base, &at, n * used * sizeof(float));
    j->starts = carve(base, &at, (experts + 1) * sizeof(int64_t));
    j->pairs = carve(base, &at, n * used * sizeof(int32_t));
    j->in = carve(base, &at, wide);
    j->gate = carve(base, &at, ff);
    j->up = carve(base, &at, ff);
    j->y = carve(base, &at, wide);
    j->items = carve(base, &at, 2 * experts * sizeof(*j->items));
    return at;
}

#define ROUTE_WORK 32 /* one expert's score costs about as much as this many elements */

void sl_moe_run(struct sl_backend *b, const struct sl_moe *m, const void *x, int n, int dim,
                float *out)
{
    SL_ASSERT(m->n_used >= 1 && m->n_used <= m->n_experts);
    SL_ASSERT(m->n_groups >= 1 && m->n_groups <= SL_MOE_GROUPS_MAX);
    SL_ASSERT(m->n_experts % m->n_groups == 0);
    SL_ASSERT(m->n_groups_used >= 1 && m->n_groups_used <= m->n_groups);
    if (n <= 0) return;
    struct job j = {.b = b, .m = m, .x = x, .n = n, .dim = dim, .out = out};
    j.capacity = SL_MAX(n, SL_MIN(BATCH_ROWS, (int64_t)n * m->n_used));
    char *base = sl_scratch_get(&b->moe_scratch, lay_out(&j, NULL));
    SL_ASSERT(base);
    lay_out(&j, base);
    const struct sl_product router = {m->router, m->router_bias, j.logits, 0};
    b->ops->matmul(b, x, n, &router, 1);
    sl_cpu_run(b, (int64_t)n * m->n_experts * ROUTE_WORK, route_rows, &j);
    sort_pairs(&j);
    run_experts(&j);
}
