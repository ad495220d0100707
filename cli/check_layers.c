/* check_layers.c - norms and attention for `sluice check --kernels`. */
#include "cli/check_table.h"

#include <math.h>
#include <stdlib.h>

#include "base/sl_assert.h"

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

/* Keys and values of SL_CHECK_ROWS tokens are a window of these pools, another one for each share.
 */
#define TOKEN (KV_HEADS * HEAD_DIM)
#define SHIFT 64 /* elements from one window to the next */
#define SHARES (SL_CHECK_CONTEXT / SL_CHECK_ROWS)
#define POOL (SL_CHECK_ROWS * TOKEN + SL_CHECK_SEQS * SHARES * SHIFT)
#define CACHE_BYTES ((size_t)2 * SL_CHECK_SEQS * SL_CHECK_CONTEXT * TOKEN)

struct writing {
    struct attending *a;
    const float *k, *v; /* of the share */
};

static void run_write(void *arg, int call)
{
    struct writing *w = arg;
    struct sl_check_side *s = w->a->s;
    (void)call;
    s->o->kv_write(s->b, &w->a->kv, s->seqs, 1, w->k, w->v);
}

/* Fills the caches of both sides by their own kv_write: how a cache lies in memory is the backend's
 * matter. k and v are pools on the host, dk and dv the same on the side. */
static int write_caches(struct sl_check_table *t, struct attending *a, struct sl_kv_view *plain,
                        const float *k, const float *v, const float *dk, const float *dv,
                        struct sl_err *err)
{
    struct sl_check_side *s = a->s;
    int decode = a->n <= SL_CHECK_SEQS, r = 0;
    for (int share = 0; share < (decode ? SL_CHECK_SEQS * SHARES : 1) && !r; share++) {
        int seq = share / SHARES, pos = share % SHARES * SL_CHECK_ROWS;
        struct writing w = {a, dk + share * SHIFT, dv + share * SHIFT};
        sl_check_shape(s, SL_CHECK_ROWS);
        s->seqs[0].slot = seq;
        s->seqs[0].pos = pos;
        s->seqs[0].blocks = s->tables + seq * s->seqs[0].n_blocks;
        for (int i = 0; i < SL_CHECK_ROWS; i++) s->pos[i] = pos + i;
        r = sl_check_once(s, run_write, &w, err);
        t->oracle->kv_write(t->ref, plain, s->seqs, 1, k + share * SHIFT, v + share * SHIFT);
    }
    return r;
}

static int attention_error(struct sl_check_table *t, struct attending *a, const float *q,
                           const struct sl_kv_view *plain, double *error, struct sl_err *err)
{
    int64_t count = (int64_t)a->n * HEADS * HEAD_DIM;
    float *got = malloc(sizeof *got * (size_t)count), *want = malloc(sizeof *want * (size_t)count);
    int r = got && want ? 0 : SL_ENOMEM;
    if (!r) r = sl_check_once(a->s, run_attention, a, err);
    if (!r) r = sl_check_once(a->s, run_unit, a, err);
    if (!r) {
        sl_check_get(a->s, got, a->plain, sizeof *got * (size_t)count);
        t->oracle->attention(t->ref, plain, a->s->seqs, a->s->step.n_seqs, q, &a->how, want);
        *error = sl_check_error(got, want, count);
    }
    free(got), free(want);
    return r;
}

/* What the side needs of memory; 0 or an error. */
static int attending_open(struct attending *a, const float *q, const float *k, const float *v,
                          float **dk, float **dv, struct sl_err *err)
{
    struct sl_check_side *s = a->s;
    size_t dim = HEADS * HEAD_DIM, bytes = sizeof *q * (size_t)a->n * dim;
    a->kv.k = sl_check_put(s, NULL, CACHE_BYTES, err);
    a->kv.v = a->kv.k ? sl_check_put(s, NULL, CACHE_BYTES, err) : NULL;
    *dk = a->kv.v ? sl_check_put(s, k, sizeof *k * POOL, err) : NULL;
    *dv = *dk ? sl_check_put(s, v, sizeof *v * POOL, err) : NULL;
    a->q = *dv ? sl_check_put(s, q, bytes, err) : NULL;
    a->out = a->q ? sl_check_put(s, NULL, s->o->rows_bytes(a->n, (int64_t)dim), err) : NULL;
    a->plain = a->out ? sl_check_put(s, NULL, bytes, err) : NULL;
    return a->plain ? 0 : SL_ENOMEM;
}

static void check_attention(struct sl_check_table *t, int n)
{
    struct sl_check_side *s = t->s;
    struct attending a = {.s = s, .n = n, .how = {.n_heads = HEADS, .scale = 0.0883883f}};
    struct sl_err err = {0};
    struct sl_check_speed speed = {0};
    double error = NAN;
    int dim = HEADS * HEAD_DIM, few = n <= SL_CHECK_SEQS;
    float *q = sl_check_numbers(11, (int64_t)n * dim), *unit = unit_matrix(dim);
    float *k = sl_check_numbers(12, POOL), *v = sl_check_numbers(13, POOL), *dk = NULL, *dv = NULL;
    struct sl_kv_view plain = {
        calloc(1, CACHE_BYTES), calloc(1, CACHE_BYTES), SL_F16, SL_CHECK_BLOCK, KV_HEADS, HEAD_DIM};
    const struct sl_matrix m = sl_matrix_plain(SL_F32, dim, dim, unit);
    int r = q && unit && k && v && plain.k && plain.v ? sl_check_fresh(s, &err) : SL_ENOMEM;
    a.kv = (struct sl_kv_view){NULL, NULL, SL_F16, SL_CHECK_BLOCK, KV_HEADS, HEAD_DIM};
    if (!r) r = s->o->load(s->b, SL_USE_MATMUL, &m, &a.unit, &err);
    if (!r) r = attending_open(&a, q, k, v, &dk, &dv, &err);
    if (!r) r = write_caches(t, &a, &plain, k, v, dk, dv, &err);
    sl_check_shape(s, n);
    if (!r) r = attention_error(t, &a, q, &plain, &error, &err);
    if (!r) speed.seconds = sl_check_time(s, run_attention, &a, &err);
    if (few)
        speed.bytes = 2.0 * 2 * n * SL_CHECK_CONTEXT * TOKEN; /* halfs of keys and values */
    else
        speed.flops = 4.0 * n * (n + 1) / 2 * dim;
    if (r && !err.code) sl_err_set(&err, r, "out of memory");
    sl_check_line(t, "attention", "F16", n, few ? "4096 keys each" : "512 keys", error,
                  SL_CHECK_ERROR, speed, &err);
    void *all[] = {a.kv.k, a.kv.v, dk, dv, a.q, a.out, a.plain};
    for (size_t i = 0; i < SL_ARRAY_LEN(all); i++) sl_check_drop(s, all[i]);
    s->o->unload(s->b, &a.unit);
    free(q), free(unit), free(k), free(v), free(plain.k), free(plain.v);
}

void sl_check_attentions(struct sl_check_table *t)
{
    check_attention(t, SL_CHECK_SEQS);
    check_attention(t, SL_CHECK_ROWS);
}
