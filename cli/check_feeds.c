/* check_feeds.c - gated units, mixtures of experts and the draw of tokens for
 * `sluice check --kernels`. */
#include "cli/check_table.h"

#include <math.h>
#include <stdlib.h>

#include "base/sl_assert.h"
#include "stage/sample.h"

#define DIM 1024
#define N_FF 1024
#define EXPERTS 8
#define USED 2

/* ---- mixtures of experts --------------------------------------------------------------------- */

struct mixture {
    struct sl_check_side *s;
    struct sl_weight router, gate[EXPERTS], up[EXPERTS], down[EXPERTS];
    int loaded; /* of the arrays */
    struct sl_moe moe;
    float *x, *out;
    void *rows;
    int n;
};

static void run_mixture(void *arg, int call)
{
    struct mixture *m = arg;
    struct sl_backend *b = m->s->b;
    (void)call;
    m->s->o->mix(b, m->out, DIM, m->out, DIM, m->n, DIM, 0, 0); /* the mixture is added */
    m->s->o->to_rows(b, m->x, m->n, DIM, m->rows);
    m->s->o->moe(b, &m->moe, m->rows, m->n, DIM, m->out);
}

/* The four kinds of matrices of a layer, in the memory of the caller. */
struct layer {
    struct sl_matrix router, gate[EXPERTS], up[EXPERTS], down[EXPERTS];
    float *router_numbers;
    uint16_t *numbers[3 * EXPERTS]; /* halfs, as experts are */
};

static int layer_make(struct layer *l)
{
    int64_t n = (int64_t)DIM * N_FF;
    l->router_numbers = sl_check_numbers(40, EXPERTS * DIM);
    if (!l->router_numbers) return SL_ENOMEM;
    for (int i = 0; i < EXPERTS * DIM; i++) l->router_numbers[i] *= 0.1f;
    for (int i = 0; i < 3 * EXPERTS; i++) {
        float *x = sl_check_numbers((uint64_t)(41 + i), n);
        l->numbers[i] = malloc((size_t)n * sizeof *l->numbers[i]);
        for (int64_t k = 0; x && l->numbers[i] && k < n; k++)
            l->numbers[i][k] = sl_float_to_half(0.03f * x[k]);
        int ok = x && l->numbers[i];
        free(x);
        if (!ok) return SL_ENOMEM;
    }
    l->router = sl_matrix_plain(SL_F32, EXPERTS, DIM, l->router_numbers);
    for (int e = 0; e < EXPERTS; e++) {
        l->gate[e] = sl_matrix_plain(SL_F16, N_FF, DIM, l->numbers[3 * e]);
        l->up[e] = sl_matrix_plain(SL_F16, N_FF, DIM, l->numbers[3 * e + 1]);
        l->down[e] = sl_matrix_plain(SL_F16, DIM, N_FF, l->numbers[3 * e + 2]);
    }
    return 0;
}

static int mixture_load(struct mixture *m, const struct layer *l, struct sl_err *err)
{
    const struct sl_backend_ops *o = m->s->o;
    struct sl_backend *b = m->s->b;
    int r = o->load(b, SL_USE_MATMUL, &l->router, &m->router, err);
    for (int e = 0; e < EXPERTS && !r; e++) {
        r = o->load(b, SL_USE_MATMUL, &l->gate[e], &m->gate[e], err);
        if (!r) r = o->load(b, SL_USE_MATMUL, &l->up[e], &m->up[e], err);
        if (!r) r = o->load(b, SL_USE_MATMUL, &l->down[e], &m->down[e], err);
        m->loaded = e + 1;
    }
    struct sl_weight *all[] = {m->gate, m->up, m->down};
    for (int i = 0; i < 3 && !r && o->group; i++) r = o->group(b, all[i], EXPERTS, err);
    m->moe = (struct sl_moe){.n_experts = EXPERTS,
                             .n_used = USED,
                             .n_ff = N_FF,
                             .gating = SL_GATING_SOFTMAX,
                             .normalize = 1,
                             .n_groups = 1,
                             .n_groups_used = 1,
                             .scale = 1,
                             .act = SL_ACT_SILU,
                             .router = &m->router,
                             .gate = m->gate,
                             .up = m->up,
                             .down = m->down};
    return r;
}

static void mixture_close(struct mixture *m)
{
    for (int e = m->loaded - 1; e >= 0; e--) {
        m->s->o->unload(m->s->b, &m->down[e]);
        m->s->o->unload(m->s->b, &m->up[e]);
        m->s->o->unload(m->s->b, &m->gate[e]);
    }
    m->s->o->unload(m->s->b, &m->router);
    sl_check_drop(m->s, m->x);
    sl_check_drop(m->s, m->rows);
    sl_check_drop(m->s, m->out);
}

static int mixture_open(struct mixture *m, struct sl_check_side *s, const struct layer *l,
                        const float *x, int n, struct sl_err *err)
{
    size_t bytes = sizeof(float) * (size_t)n * DIM;
    *m = (struct mixture){.s = s, .n = n};
    int r = mixture_load(m, l, err);
    if (r) return r;
    m->x = sl_check_put(s, x, bytes, err);
    m->rows = m->x ? sl_check_put(s, NULL, s->o->rows_bytes(n, DIM), err) : NULL;
    m->out = m->rows ? sl_check_put(s, NULL, bytes, err) : NULL;
    return m->out ? 0 : SL_ENOMEM;
}

static void check_mixture(struct sl_check_table *t, const struct layer *l, int n)
{
    struct sl_check_side host = {.kind = "ref", .b = t->ref, .o = t->oracle};
    struct mixture m = {0}, want = {0};
    struct sl_err err = {0};
    struct sl_check_speed v = {0};
    double error = NAN;
    int64_t count = (int64_t)n * DIM;
    float *x = sl_check_numbers(39, count), *got = malloc(sizeof *got * (size_t)count);
    int r = x && got ? sl_check_fresh(t->s, &err) : SL_ENOMEM;
    if (!r) r = mixture_open(&m, t->s, l, x, n, &err);
    if (!r) r = mixture_open(&want, &host, l, x, n, &err);
    sl_check_shape(t->s, n);
    if (!r) r = sl_check_once(t->s, run_mixture, &m, &err);
    if (!r) {
        run_mixture(&want, 0);
        sl_check_get(t->s, got, m.out, sizeof *got * (size_t)count);
        error = sl_check_error(got, want.out, count);
        v.seconds = sl_check_time(t->s, run_mixture, &m, &err);
    }
    if (n > SL_CHECK_SEQS) v.flops = 6.0 * n * USED * DIM * N_FF;
    if (r && !err.code) sl_err_set(&err, r, "out of memory");
    sl_check_line(t, "experts", "F16", n, "2 of 8, 1024", error, SL_CHECK_ERROR, v, &err);
    if (want.s) mixture_close(&want);
    if (m.s) mixture_close(&m);
    free(x), free(got);
}

void sl_check_feeds(struct sl_check_table *t)
{
    struct layer *l = calloc(1, sizeof *l);
    int r = l ? layer_make(l) : SL_ENOMEM;
    struct sl_err err = {0};
    if (!r) {
        check_mixture(t, l, SL_CHECK_SEQS);
        check_mixture(t, l, SL_CHECK_ROWS);
    } else {
        sl_err_set(&err, r, "out of memory");
        sl_check_line(t, "experts", "F16", 0, "", NAN, 0, (struct sl_check_speed){0}, &err);
    }
    for (int i = 0; l && i < 3 * EXPERTS; i++) free(l->numbers[i]);
    if (l) free(l->router_numbers);
    free(l);
}

/* ---- drawing --------------------------------------------------------------------------------- */

struct drawing {
    struct sl_check_side *s;
    float *logits;
    struct sl_draw draw[SL_CHECK_SEQS];
    int32_t next[SL_CHECK_SEQS];
};

static void run_draw(void *arg, int call)
{
    struct drawing *d = arg;
    (void)call;
    d->s->o->draw(d->s->b, d->logits, 0, d->s->step.run_picks, SL_CHECK_VOCAB);
}

/* Tokens that differ from the host's, of n. */
static int draw_differences(struct drawing *d, const float *logits, const struct sl_sampling *p)
{
    struct sl_sampler *host = sl_sampler_create(SL_CHECK_VOCAB);
    const struct sl_drawn *got = d->s->o->drawn(d->s->b);
    int wrong = host ? 0 : SL_CHECK_SEQS;
    for (int i = 0; host && i < SL_CHECK_SEQS; i++) {
        struct sl_sampled want;
        sl_sample(host, logits + (int64_t)i * SL_CHECK_VOCAB, p, NULL, i, &want);
        wrong += got[i].token != want.token || fabsf(got[i].logprob - want.logprob) > 1e-4f;
    }
    sl_sampler_destroy(host);
    return wrong;
}

static void check_draw(struct sl_check_table *t, const char *name, float temperature, float top_p)
{
    struct sl_check_side *s = t->s;
    if (!s->o->draw) return;
    struct drawing d = {.s = s};
    struct sl_err err = {0};
    struct sl_check_speed v = {0};
    struct sl_sampling p;
    int wrong = SL_CHECK_SEQS;
    int64_t count = (int64_t)SL_CHECK_SEQS * SL_CHECK_VOCAB;
    float *x = sl_check_numbers(21, count);
    sl_sampling_default(&p);
    p.temperature = temperature;
    p.top_p = top_p;
    for (int64_t i = 0; x && i < count; i++) x[i] *= 3;
    d.logits =
        x && !sl_check_fresh(s, &err) ? sl_check_put(s, x, sizeof *x * (size_t)count, &err) : NULL;
    sl_check_shape(s, SL_CHECK_SEQS);
    for (int i = 0; i < SL_CHECK_SEQS; i++) {
        d.draw[i] = (struct sl_draw){
            .temperature = temperature, .top_p = top_p, .chance = sl_sample_chance(p.seed, i)};
        d.next[i] = -1;
    }
    s->step.n_picks = SL_CHECK_SEQS;
    s->step.picks = s->picks;
    s->step.draw = d.draw;
    s->step.next = d.next;
    if (d.logits && !sl_check_once(s, run_draw, &d, &err)) {
        wrong = draw_differences(&d, x, &p);
        v.seconds = sl_check_time(s, run_draw, &d, &err);
    }
    sl_check_line(t, "draw", name, SL_CHECK_SEQS, "128256 logits", wrong, 0, v, &err);
    sl_check_drop(s, d.logits);
    free(x);
}

void sl_check_draws(struct sl_check_table *t)
{
    check_draw(t, "greedy", 0, 1);
    check_draw(t, "top-p", 1, 0.95f);
}
