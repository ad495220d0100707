/* check_layers.c - norms and attention for `sluice check --kernels`. */
#include "cli/check_table.h"

#include <math.h>
#include <stdlib.h>

#define DIM 4096
#define GAIN_EPS 1e-5f

/* ---- norm ------------------------------------------------------------------------------------ */

struct wide {
    struct sl_check_side *s;
    int n, cols;
    float *x, *gain, *out;
};

static void run_norm(void *arg, int call)
{
    struct wide *w = arg;
    (void)call;
    w->s->o->rmsnorm(w->s->b, w->x, w->gain, GAIN_EPS, w->n, w->cols, w->out);
}

static void check_norm(struct sl_check_table *t, int n)
{
    struct sl_check_side *s = t->s;
    struct wide w = {.s = s, .n = n, .cols = DIM};
    struct sl_err err = {0};
    double error = NAN;
    struct sl_check_speed v = {.bytes = 2.0 * sizeof(float) * n * DIM};
    int64_t count = (int64_t)n * DIM;
    size_t bytes = sizeof(float) * (size_t)count;
    float *x = sl_check_numbers(1, count), *gain = sl_check_numbers(2, DIM);
    float *got = sl_check_numbers(3, count), *want = sl_check_numbers(4, count);
    if (x && gain && got && want && !sl_check_fresh(s, &err)) {
        w.x = sl_check_put(s, x, bytes, &err);
        w.gain = w.x ? sl_check_put(s, gain, sizeof *gain * DIM, &err) : NULL;
        w.out = w.gain ? sl_check_put(s, NULL, bytes, &err) : NULL;
    }
    if (w.out) {
        sl_check_shape(s, n);
        t->oracle->rmsnorm(t->ref, x, gain, GAIN_EPS, n, DIM, want);
        if (!sl_check_once(s, run_norm, &w, &err)) {
            sl_check_get(s, got, w.out, bytes);
            error = sl_check_error(got, want, count);
            v.seconds = sl_check_time(s, run_norm, &w, &err);
        }
    } else if (!err.code) {
        sl_err_set(&err, SL_ENOMEM, "out of memory");
    }
    v.bytes = n > SL_CHECK_SEQS ? v.bytes : 0; /* a few rows stay in the caches */
    sl_check_line(t, "norm", "F32", n, "4096", error, 1e-5, v, &err);
    sl_check_drop(s, w.x), sl_check_drop(s, w.gain), sl_check_drop(s, w.out);
    free(x), free(gain), free(got), free(want);
}

void sl_check_norms(struct sl_check_table *t)
{
    check_norm(t, 1);
    check_norm(t, SL_CHECK_ROWS);
}

/* ---- attention ------------------------------------------------------------------------------- */

#define HEADS 32
#define KV_HEADS 8
#define HEAD_DIM 128

struct attending {
    struct sl_check_side *s;
    struct sl_kv_view kv;
    struct sl_attn how;
    float *q;
    void *out;
    /* the output as floats: through a product with the unit matrix, which every side has */
    struct sl_weight unit;
    float *plain;
    int n;
};

static void run_attention(void *arg, int call)
{
    struct attending *a = arg;
    (void)call;
    a->s->o->attention(a->s->b, &a->kv, a->s->seqs, a->s->step.n_seqs, a->q, &a->how, a->out);
}

static void run_unit(void *arg, int call)
{
    struct attending *a = arg;
    const struct sl_product p = {.w = &a->unit, .out = a->plain};
    (void)call;
    a->s->o->matmul(a->s->b, a->out, a->n, &p, 1);
}

static float *unit_matrix(int dim)
{
    float *u = calloc((size_t)dim * (size_t)dim, sizeof *u);
    for (int i = 0; u && i < dim; i++) u[(int64_t)i * dim + i] = 1;
    return u;
}

/* Halfs of a cache for all sequences. */
static uint16_t *cache(uint64_t seed, int64_t n)
{
    float *x = sl_check_numbers(seed, n);
    uint16_t *h = malloc((size_t)n * sizeof *h);
    for (int64_t i = 0; x && h && i < n; i++) h[i] = sl_float_to_half(x[i]);
    free(x);
    return h;
}

static int attention_error(struct sl_check_table *t, struct attending *a, const float *q,
                           const uint16_t *k, const uint16_t *v, double *error, struct sl_err *err)
{
    int64_t count = (int64_t)a->n * HEADS * HEAD_DIM;
    struct sl_kv_view kv = a->kv;
    float *got = malloc(sizeof *got * (size_t)count), *want = malloc(sizeof *want * (size_t)count);
    int r = got && want ? 0 : SL_ENOMEM;
    kv.k = (void *)(uintptr_t)k;
    kv.v = (void *)(uintptr_t)v;
    if (!r) r = sl_check_once(a->s, run_attention, a, err);
    if (!r) r = sl_check_once(a->s, run_unit, a, err);
    if (!r) {
        sl_check_get(a->s, got, a->plain, sizeof *got * (size_t)count);
        t->oracle->attention(t->ref, &kv, a->s->seqs, a->s->step.n_seqs, q, &a->how, want);
        *error = sl_check_error(got, want, count);
    }
    free(got), free(want);
    return r;
}

static void check_attention(struct sl_check_table *t, int n)
{
    struct sl_check_side *s = t->s;
    struct attending a = {.s = s, .n = n, .how = {.n_heads = HEADS, .scale = 0.0883883f}};
    struct sl_err err = {0};
    struct sl_check_speed speed = {0};
    double error = NAN;
    int dim = HEADS * HEAD_DIM;
    int64_t count = (int64_t)n * dim;
    int64_t elements = (int64_t)SL_CHECK_SEQS * SL_CHECK_CONTEXT * KV_HEADS * HEAD_DIM;
    float *q = sl_check_numbers(11, count), *unit = unit_matrix(dim);
    uint16_t *k = cache(12, elements), *v = cache(13, elements);
    const struct sl_matrix m = sl_matrix_plain(SL_F32, dim, dim, unit);
    int r = q && unit && k && v ? 0 : sl_err_set(&err, SL_ENOMEM, "out of memory");
    a.kv = (struct sl_kv_view){NULL, NULL, SL_F16, SL_CHECK_BLOCK, KV_HEADS, HEAD_DIM};
    if (!r) r = sl_check_fresh(s, &err);
    if (!r) r = s->o->load(s->b, SL_USE_MATMUL, &m, &a.unit, &err);
    if (!r) {
        size_t bytes = sizeof *k * (size_t)elements, rows = s->o->rows_bytes(n, dim);
        a.kv.k = sl_check_put(s, k, bytes, &err);
        a.kv.v = a.kv.k ? sl_check_put(s, v, bytes, &err) : NULL;
        a.q = a.kv.v ? sl_check_put(s, q, sizeof *q * (size_t)count, &err) : NULL;
        a.out = a.q ? sl_check_put(s, NULL, rows, &err) : NULL;
        a.plain = a.out ? sl_check_put(s, NULL, sizeof *q * (size_t)count, &err) : NULL;
        r = a.plain ? 0 : SL_ENOMEM;
    }
    sl_check_shape(s, n);
    if (!r) r = attention_error(t, &a, q, k, v, &error, &err);
    if (!r) speed.seconds = sl_check_time(s, run_attention, &a, &err);
    if (n <= SL_CHECK_SEQS)
        speed.bytes = 2.0 * sizeof *k * n * SL_CHECK_CONTEXT * KV_HEADS * HEAD_DIM;
    else
        speed.flops = 4.0 * n * (n + 1) / 2 * dim;
    if (r && !err.code) sl_err_set(&err, r, "out of memory");
    sl_check_line(t, "attention", "F16", n, n <= SL_CHECK_SEQS ? "4096 keys each" : "512 keys",
                  error, SL_CHECK_ERROR, speed, &err);
    sl_check_drop(s, a.kv.k), sl_check_drop(s, a.kv.v), sl_check_drop(s, a.q);
    sl_check_drop(s, a.out), sl_check_drop(s, a.plain);
    s->o->unload(s->b, &a.unit);
    free(q), free(unit), free(k), free(v);
}

void sl_check_attentions(struct sl_check_table *t)
{
    check_attention(t, SL_CHECK_SEQS);
    check_attention(t, SL_CHECK_ROWS);
}
