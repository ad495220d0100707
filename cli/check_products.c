/* check_products.c - products and embeddings of every weight format for `sluice check --kernels`.
 * Weights that are timed rotate through several copies, so that caches do not flatter. */
#include "cli/check_table.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"

#define DIM 4096       /* of the matrices that are timed */
#define RAGGED_ROWS 97 /* of those that are only checked */
#define RAGGED_COLS 1280
#define SAMPLED 48 /* outputs of a row that are compared */
#define COPIES_MAX 24

/* ---- products -------------------------------------------------------------------------------- */

struct product {
    struct sl_check_side *s;
    struct sl_weight w[COPIES_MAX];
    int copies, n;
    float *x_host, *x, *out;
    void *rows;
};

static void run_to_rows(void *arg, int call)
{
    struct product *p = arg;
    (void)call;
    p->s->o->to_rows(p->s->b, p->x, p->n, (int)p->w[0].cols, p->rows);
}

static void run_product(void *arg, int call)
{
    struct product *p = arg;
    const struct sl_product one = {.w = &p->w[call % p->copies], .out = p->out};
    p->s->o->matmul(p->s->b, p->rows, p->n, &one, 1);
}

static int product_open(struct product *p, struct sl_check_side *s, const struct sl_matrix *m,
                        size_t bytes, struct sl_err *err)
{
    *p = (struct product){.s = s};
    int r = sl_check_fresh(s, err);
    if (r) return r;
    int want = (int)SL_MIN(COPIES_MAX, s->weight_bytes / bytes + 1);
    if (m->rows < DIM) want = 1;
    for (; p->copies < want; p->copies++) {
        struct sl_err full = {0};
        r = s->o->load(s->b, SL_USE_MATMUL, m, &p->w[p->copies], &full);
        if (r && !p->copies) return sl_err_set(err, r, "%s", full.msg);
        if (r) break; /* fewer copies do */
    }
    p->x_host = sl_check_numbers(7, (int64_t)SL_CHECK_ROWS * m->cols);
    if (!p->x_host) return sl_err_set(err, SL_ENOMEM, "out of memory");
    size_t in = sizeof(float) * SL_CHECK_ROWS * (size_t)m->cols;
    size_t rows = s->o->rows_bytes(SL_CHECK_ROWS, m->cols);
    p->x = sl_check_put(s, p->x_host, in, err);
    p->rows = p->x ? sl_check_put(s, NULL, rows, err) : NULL;
    p->out = p->rows ? sl_check_put(s, NULL, sizeof(float) * SL_CHECK_ROWS * (size_t)m->rows, err)
                     : NULL;
    return p->out ? 0 : SL_ENOMEM;
}

static void product_close(struct product *p)
{
    for (int i = 0; i < p->copies; i++) p->s->o->unload(p->s->b, &p->w[i]);
    sl_check_drop(p->s, p->x);
    sl_check_drop(p->s, p->rows);
    sl_check_drop(p->s, p->out);
    free(p->x_host);
}

/* Some outputs of every row, the same for all. */
static int product_error(struct product *p, const struct sl_matrix *m, double *error)
{
    int64_t taken = SL_MIN(SAMPLED, m->rows), n_out = p->n * m->rows;
    float *out = malloc((size_t)n_out * sizeof *out), *w = malloc((size_t)m->cols * sizeof *w);
    float *got = malloc((size_t)(p->n * taken) * sizeof *got);
    float *want = malloc((size_t)(p->n * taken) * sizeof *want);
    int ok = out && w && got && want;
    if (ok) sl_check_get(p->s, out, p->out, (size_t)n_out * sizeof *out);
    for (int64_t i = 0; ok && i < taken; i++) {
        int64_t r = m->rows <= SAMPLED ? i : i * (m->rows - 1) / (SAMPLED - 1);
        sl_matrix_row(m, r, w);
        for (int64_t k = 0; k < p->n; k++) {
            const float *x = p->x_host + k * m->cols;
            double sum = 0;
            for (int64_t c = 0; c < m->cols; c++) sum += (double)x[c] * (double)w[c];
            got[i * p->n + k] = out[k * m->rows + r];
            want[i * p->n + k] = (float)sum;
        }
    }
    if (ok) *error = sl_check_error(got, want, p->n * taken);
    free(out), free(w), free(got), free(want);
    return ok ? 0 : SL_ENOMEM;
}

static double allowed(const struct sl_check_side *s, const struct sl_check_format *f, int n)
{
    if (!s->o->alloc || !f->narrow || n <= SL_DECODE_ROWS_MAX) return SL_CHECK_ERROR;
    return f->narrow == 8 ? SL_CHECK_ERROR_8_BITS : SL_CHECK_ERROR_4_BITS;
}

static void check_product(struct sl_check_table *t, const struct sl_check_format *f, int64_t rows,
                          int64_t cols, const int *counts, int n_counts)
{
    struct sl_matrix m;
    void *memory[SL_CHECK_PIECES];
    struct product p = {0};
    struct sl_err err = {0};
    char shape[32];
    snprintf(shape, sizeof shape, "%lld x %lld", (long long)rows, (long long)cols);
    size_t bytes = (size_t)rows * (size_t)sl_dtype_row_bytes(f->type, (uint64_t)cols);
    int r = sl_check_matrix(f, rows, cols, &m, memory);
    if (r)
        sl_err_set(&err, r, "out of memory");
    else
        r = product_open(&p, t->s, &m, bytes, &err);
    for (int i = 0; i < n_counts && (i == 0 || !r); i++) {
        struct sl_check_speed v = {0};
        double error = NAN;
        p.n = counts[i];
        if (!r) {
            sl_check_shape(t->s, p.n);
            r = sl_check_once(t->s, run_to_rows, &p, &err);
        }
        if (!r) r = sl_check_once(t->s, run_product, &p, &err);
        if (!r) r = product_error(&p, &m, &error);
        if (!r && rows >= DIM) v.seconds = sl_check_time(t->s, run_product, &p, &err);
        if (p.n <= SL_CHECK_SEQS)
            v.bytes = (double)bytes;
        else
            v.flops = 2.0 * p.n * (double)rows * (double)cols;
        if (r && !err.code) sl_err_set(&err, r, "out of memory");
        sl_check_line(t, "product", f->name, counts[i], shape, error, allowed(t->s, f, p.n), v,
                      &err);
    }
    if (p.s) product_close(&p);
    for (int i = 0; i < SL_CHECK_PIECES; i++) free(memory[i]);
}

void sl_check_products(struct sl_check_table *t)
{
    static const int timed[] = {1, 16, SL_CHECK_ROWS}, ragged[] = {7, 65};
    for (int i = 0; i < sl_check_n_formats; i++) {
        const struct sl_check_format *f = &sl_check_formats[i];
        if (t->format && strcmp(t->format, f->name) != 0) continue;
        check_product(t, f, DIM, DIM, timed, SL_ARRAY_LEN(timed));
        check_product(t, f, RAGGED_ROWS, RAGGED_COLS, ragged, SL_ARRAY_LEN(ragged));
    }
}

/* ---- embeddings ------------------------------------------------------------------------------ */

struct embedding {
    struct sl_check_side *s;
    struct sl_weight w;
    float *out;
};

static void run_embed(void *arg, int call)
{
    struct embedding *e = arg;
    (void)call;
    e->s->o->embed(e->s->b, &e->w, e->s->step.ids, e->s->step.n_rows, e->out);
}

/* Rows SL_CHECK_SEQS of a small table, of one format. */
static int embed_error(struct sl_check_side *s, const struct sl_check_format *f, double *error,
                       struct sl_err *err)
{
    enum { ROWS = 64, N = SL_CHECK_SEQS, COUNT = N * RAGGED_COLS };
    struct embedding e = {.s = s};
    struct sl_matrix m;
    void *memory[SL_CHECK_PIECES];
    float *got = malloc(sizeof *got * COUNT), *want = malloc(sizeof *want * COUNT);
    int r = sl_check_matrix(f, ROWS, RAGGED_COLS, &m, memory);
    if (!got || !want) r = SL_ENOMEM;
    if (!r) r = sl_check_fresh(s, err);
    if (!r) r = s->o->load(s->b, SL_USE_EMBED, &m, &e.w, err);
    if (!r) {
        e.out = sl_check_put(s, NULL, sizeof *got * COUNT, err);
        sl_check_shape(s, N);
        for (int i = 0; i < N; i++) s->ids[i] = i * 37 % ROWS;
        r = e.out ? sl_check_once(s, run_embed, &e, err) : SL_ENOMEM;
        if (!r) sl_check_get(s, got, e.out, sizeof *got * COUNT);
        for (int i = 0; i < N && !r; i++)
            sl_matrix_row(&m, s->ids[i], want + (int64_t)i * RAGGED_COLS);
        if (!r) *error = sl_check_error(got, want, COUNT);
        s->o->unload(s->b, &e.w);
        sl_check_drop(s, e.out);
    }
    for (int i = 0; i < SL_CHECK_PIECES; i++) free(memory[i]);
    free(got), free(want);
    return r && !err->code ? sl_err_set(err, r, "out of memory") : r;
}

void sl_check_embeds(struct sl_check_table *t)
{
    for (int i = 0; i < sl_check_n_formats; i++) {
        const struct sl_check_format *f = &sl_check_formats[i];
        struct sl_err err = {0};
        double error = NAN;
        if (t->format && strcmp(t->format, f->name) != 0) continue;
        embed_error(t->s, f, &error, &err);
        sl_check_line(t, "embed", f->name, SL_CHECK_SEQS, "64 x 1280", error, SL_CHECK_ERROR,
                      (struct sl_check_speed){0}, &err);
    }
}
