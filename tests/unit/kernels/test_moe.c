/* test_moe.c - the mixture of experts of every backend against a reference of its own, written in
 * double from the models' definitions: all gatings, groups, ties, NaN, one row and many, experts
 * that nobody chooses. And its bits: a row alone, in batches, on several threads. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/sl_assert.h"
#include "kernels_lib.h"

enum { DIM = 48, FF = 40, EXPERTS_MAX = 32, N_MAX = 150 };

/* The numbers of a mixture; biases and correction are used when the case says so. */
struct numbers {
    float *router, *gate, *up,
        *down; /* [n_experts][dim], [n_experts][ff][dim] x 2, [..][dim][ff] */
    float *router_bias, *correction, *gate_bias, *up_bias, *down_bias;
};

struct mixture {
    const char *name;
    struct sl_moe m; /* without pointers */
    int router_bias, correction, biases;
    int low; /* corrections so low that no expert's choice is above 0 */
};

/* Mixtral, Qwen 3, Qwen 2, gpt-oss, DeepSeek V2 Lite, V2, V3, and the odd ones. */
static const struct mixture mixtures[] = {
    {"mixtral",
     {.n_experts = 8, .n_used = 2, .gating = SL_GATING_SOFTMAX, .normalize = 1, .scale = 1},
     .biases = 0},
    {"qwen3",
     {.n_experts = 32, .n_used = 8, .gating = SL_GATING_SOFTMAX, .normalize = 1, .scale = 1},
     .biases = 0},
    {"qwen2", {.n_experts = 20, .n_used = 4, .gating = SL_GATING_SOFTMAX, .scale = 1}, .biases = 0},
    {"gpt-oss",
     {.n_experts = 32,
      .n_used = 4,
      .gating = SL_GATING_TOPK_SOFTMAX,
      .act = SL_ACT_SWIGLU_OAI,
      .scale = 1},
     .router_bias = 1,
     .biases = 1},
    {"deepseek2",
     {.n_experts = 24,
      .n_used = 6,
      .gating = SL_GATING_SOFTMAX,
      .n_groups = 4,
      .n_groups_used = 2,
      .scale = 16},
     .biases = 0},
    {"deepseek3",
     {.n_experts = 32,
      .n_used = 8,
      .gating = SL_GATING_SIGMOID,
      .normalize = 1,
      .n_groups = 8,
      .n_groups_used = 4,
      .scale = 2.5f},
     .correction = 1},
    {"deepseek3, nobody above zero",
     {.n_experts = 32,
      .n_used = 8,
      .gating = SL_GATING_SIGMOID,
      .n_groups = 8,
      .n_groups_used = 3,
      .scale = 1},
     .correction = 1,
     .low = 1},
    {"deepseek2, fewer in the groups than used",
     {.n_experts = 6,
      .n_used = 5,
      .gating = SL_GATING_SOFTMAX,
      .n_groups = 6,
      .n_groups_used = 3,
      .scale = 1},
     .biases = 1},
    {"sigmoid, one expert a group",
     {.n_experts = 6,
      .n_used = 2,
      .gating = SL_GATING_SIGMOID,
      .n_groups = 6,
      .n_groups_used = 3,
      .act = SL_ACT_GELU,
      .scale = 1},
     .correction = 1},
    {"all experts",
     {.n_experts = 5,
      .n_used = 5,
      .gating = SL_GATING_SOFTMAX,
      .act = SL_ACT_GELU_TANH,
      .scale = 1},
     .router_bias = 1,
     .biases = 1},
    {"one expert",
     {.n_experts = 1, .n_used = 1, .gating = SL_GATING_SIGMOID, .normalize = 1, .scale = 1},
     .biases = 1},
};

static void numbers_init(struct numbers *x, const struct mixture *m)
{
    int experts = m->m.n_experts;
    x->router = t_floats(1, experts * DIM, 0.7f);
    x->gate = t_floats(2, experts * FF * DIM, 0.3f);
    x->up = t_floats(3, experts * FF * DIM, 0.3f);
    x->down = t_floats(4, experts * DIM * FF, 0.3f);
    x->router_bias = t_floats(5, experts, 1);
    x->correction = t_floats(6, experts, 1);
    for (int e = 0; m->low && e < experts; e++) x->correction[e] -= 3;
    x->gate_bias = t_floats(7, experts * FF, 1);
    x->up_bias = t_floats(8, experts * FF, 1);
    x->down_bias = t_floats(9, experts * DIM, 1);
}

static void numbers_close(struct numbers *x)
{
    float *all[] = {x->router,     x->gate,      x->up,      x->down,     x->router_bias,
                    x->correction, x->gate_bias, x->up_bias, x->down_bias};
    for (size_t i = 0; i < SL_ARRAY_LEN(all); i++) free(all[i]);
}

/* ---- the reference --------------------------------------------------------------------------- */

static double act_of(enum sl_act act, double g, double u)
{
    const double root = 0.70710678118654752, k = 0.79788456080286536;
    if (act == SL_ACT_GELU) return g * (1 + erf(g * root)) / 2 * u;
    if (act == SL_ACT_GELU_TANH) return g * (1 + tanh(k * (g + 0.044715 * pow(g, 3)))) / 2 * u;
    if (act == SL_ACT_SILU) return g / (1 + exp(-g)) * u;
    g = fmin(g, 7);
    u = fmax(fmin(u, 7), -7);
    return (u + 1) * g / (1 + exp(-1.702 * g));
}

static void mat_vec(const float *w, const float *bias, const double *x, int rows, int cols,
                    double *y)
{
    for (int r = 0; r < rows; r++) {
        y[r] = bias ? (double)bias[r] : 0;
        for (int c = 0; c < cols; c++) y[r] += (double)w[r * cols + c] * x[c];
    }
}

/* The place of v[i] when v is sorted from the largest down, equal ones by index. */
static int rank_of(const double *v, int n, int i)
{
    int rank = 0;
    for (int k = 0; k < n; k++) rank += v[k] > v[i] || (v[k] == v[i] && k < i);
    return rank;
}

/* The weight of each expert, 0 for those not chosen. */
static void weights_of(const struct sl_moe *m, const double *logits, const float *correction,
                       double *weight)
{
    double score[EXPERTS_MAX], choice[EXPERTS_MAX], top = -INFINITY, sum = 0;
    int n = m->n_experts, size = n / m->n_groups;
    for (int e = 0; e < n; e++) top = fmax(top, logits[e]);
    for (int e = 0; e < n; e++) sum += exp(logits[e] - top);
    for (int e = 0; e < n; e++) {
        score[e] = logits[e];
        if (m->gating == SL_GATING_SOFTMAX) score[e] = exp(logits[e] - top) / sum;
        if (m->gating == SL_GATING_SIGMOID) score[e] = 1 / (1 + exp(-logits[e]));
        choice[e] = score[e] + (correction ? (double)correction[e] : 0);
    }
    double group[EXPERTS_MAX];
    for (int g = 0; g < m->n_groups; g++) {
        group[g] = 0;
        for (int e = g * size; e < (g + 1) * size; e++) {
            int rank = rank_of(choice + g * size, size, e - g * size);
            if (rank == 0 || (rank == 1 && m->gating == SL_GATING_SIGMOID)) group[g] += choice[e];
        }
    }
    for (int e = 0; e < n; e++) {
        if (rank_of(group, m->n_groups, e / size) < m->n_groups_used) continue;
        choice[e] = -1e30;
        if (m->gating == SL_GATING_SOFTMAX) score[e] = 0;
    }
    sum = 0;
    for (int e = 0; e < n; e++) {
        weight[e] = rank_of(choice, n, e) < m->n_used ? score[e] : 0;
        if (m->gating == SL_GATING_TOPK_SOFTMAX)
            weight[e] = rank_of(choice, n, e) < m->n_used ? exp(score[e] - top) : 0;
        sum += weight[e];
    }
    for (int e = 0; e < n; e++)
        weight[e] *=
            (m->normalize || m->gating == SL_GATING_TOPK_SOFTMAX ? 1 / sum : 1) * (double)m->scale;
}

static void reference_row(const struct sl_moe *m, const struct numbers *w, const float *x,
                          float *out)
{
    double in[DIM], logits[EXPERTS_MAX], weight[EXPERTS_MAX], g[FF], u[FF], y[DIM], sum[DIM] = {0};
    for (int i = 0; i < DIM; i++) in[i] = (double)x[i];
    mat_vec(w->router, m->router_bias, in, m->n_experts, DIM, logits);
    weights_of(m, logits, m->correction, weight);
    for (int e = 0; e < m->n_experts; e++) {
        if (weight[e] == 0) continue;
        mat_vec(w->gate + e * FF * DIM, m->gate_bias ? m->gate_bias + e * FF : NULL, in, FF, DIM,
                g);
        mat_vec(w->up + e * FF * DIM, m->up_bias ? m->up_bias + e * FF : NULL, in, FF, DIM, u);
        for (int i = 0; i < FF; i++) g[i] = act_of(m->act, g[i], u[i]);
        mat_vec(w->down + e * DIM * FF, m->down_bias ? m->down_bias + e * DIM : NULL, g, DIM, FF,
                y);
        for (int i = 0; i < DIM; i++) sum[i] += weight[e] * y[i];
    }
    for (int i = 0; i < DIM; i++) out[i] += (float)sum[i];
}

/* ---- a mixture in a backend ------------------------------------------------------------------ */

struct loaded {
    struct sl_backend *b;
    struct sl_weight router, gate[EXPERTS_MAX], up[EXPERTS_MAX], down[EXPERTS_MAX];
    struct sl_moe m;
};

static void put(struct sl_backend *b, const float *data, int rows, int cols, struct sl_weight *w)
{
    const struct sl_matrix m = sl_matrix_plain(SL_F32, rows, cols, data);
    assert_int_equal(b->ops->load(b, SL_USE_MATMUL, &m, w, NULL), 0);
}

static void loaded_init(struct loaded *l, const char *row, int threads, const struct mixture *x,
                        const struct numbers *w)
{
    struct sl_backend_params p = {.kind = row, .n_threads = threads};
    assert_int_equal(sl_backend_create(&p, &l->b, NULL), 0);
    put(l->b, w->router, x->m.n_experts, DIM, &l->router);
    for (int e = 0; e < x->m.n_experts; e++) {
        put(l->b, w->gate + e * FF * DIM, FF, DIM, &l->gate[e]);
        put(l->b, w->up + e * FF * DIM, FF, DIM, &l->up[e]);
        put(l->b, w->down + e * DIM * FF, DIM, FF, &l->down[e]);
    }
    l->m = x->m;
    l->m.n_ff = FF;
    if (!l->m.n_groups) l->m.n_groups = l->m.n_groups_used = 1;
    l->m.router = &l->router;
    l->m.gate = l->gate;
    l->m.up = l->up;
    l->m.down = l->down;
    l->m.router_bias = x->router_bias ? w->router_bias : NULL;
    l->m.correction = x->correction ? w->correction : NULL;
    l->m.gate_bias = x->biases ? w->gate_bias : NULL;
    l->m.up_bias = x->biases ? w->up_bias : NULL;
    l->m.down_bias = x->biases ? w->down_bias : NULL;
}

static void loaded_close(struct loaded *l)
{
    l->b->ops->unload(l->b, &l->router);
    for (int e = 0; e < l->m.n_experts; e++) {
        l->b->ops->unload(l->b, &l->gate[e]);
        l->b->ops->unload(l->b, &l->up[e]);
        l->b->ops->unload(l->b, &l->down[e]);
    }
    sl_backend_destroy(l->b);
}

/* n rows of x onto the same first contents of out, with a guard behind. */
static float *mix(struct loaded *l, const float *x, int n)
{
    float *out = t_floats(12, n * DIM + 1, 1);
    l->b->ops->moe(l->b, &l->m, x, n, DIM, out);
    return out;
}

/* Calls fn with the mixture in every backend, on 1, 2 and 3 threads. */
static void each(const struct mixture *x, const struct numbers *w,
                 void (*fn)(struct loaded *l, const struct numbers *w, const char *what))
{
    int n;
    const char *const *rows = sl_backend_rows(&n);
    for (int r = 0; r < n; r++)
        for (int threads = 1; threads <= 3; threads++) {
            struct loaded l;
            char what[96];
            snprintf(what, sizeof(what), "%s, %s, %d threads", x->name, rows[r], threads);
            loaded_init(&l, rows[r], threads, x, w);
            fn(&l, w, what);
            loaded_close(&l);
        }
}

/* ---- the tests ------------------------------------------------------------------------------- */

static void check_rows(struct loaded *l, const struct numbers *w, const char *what)
{
    static const int counts[] = {0, 1, 2, 9, 64, N_MAX};
    float *x = t_floats(11, N_MAX * DIM, 1), *want = t_floats(12, N_MAX * DIM + 1, 1);
    for (int i = 0; i < N_MAX; i++) reference_row(&l->m, w, x + i * DIM, want + i * DIM);
    for (size_t c = 0; c < SL_ARRAY_LEN(counts); c++) {
        int n = counts[c];
        float *y = mix(l, x, n), *guard = t_floats(12, n * DIM + 1, 1);
        t_near(what, y, want, n * DIM, 2e-5f, 2e-5f);
        t_same(what, y + n * DIM, guard + n * DIM, sizeof(*y));
        for (int i = 0; i < n; i += 7) { /* alone */
            float one[DIM];
            memcpy(one, guard + i * DIM, sizeof(one));
            l->b->ops->moe(l->b, &l->m, x + i * DIM, 1, DIM, one);
            t_same(what, one, y + i * DIM, sizeof(one));
        }
        free(y);
        free(guard);
    }
    free(x);
    free(want);
}

static void every_mixture(void **state)
{
    (void)state;
    for (size_t i = 0; i < SL_ARRAY_LEN(mixtures); i++) {
        struct numbers w;
        numbers_init(&w, &mixtures[i]);
        each(&mixtures[i], &w, check_rows);
        numbers_close(&w);
    }
}

/* Equal logits: the first experts, of the first groups, are taken. Half of the experts are so
 * unlikely that no row meets them. */
static void check_few(struct loaded *l, const struct numbers *w, const char *what)
{
    float *x = t_floats(13, 40 * DIM, 1), *want = t_floats(12, 40 * DIM, 1);
    for (int i = 0; i < 40; i++) reference_row(&l->m, w, x + i * DIM, want + i * DIM);
    float *y = mix(l, x, 40);
    t_near(what, y, want, 40 * DIM, 2e-5f, 2e-5f);
    free(x);
    free(want);
    free(y);
}

static void ties_and_idle_experts(void **state)
{
    (void)state;
    for (size_t i = 0; i < SL_ARRAY_LEN(mixtures); i++) {
        struct numbers w;
        struct mixture x = mixtures[i];
        int n = x.m.n_experts;
        numbers_init(&w, &x);
        memset(w.router, 0, sizeof(float) * (size_t)(n * DIM));
        for (int e = 0; e < n; e++) {
            w.router_bias[e] = e < n / 2 ? -40 : 1;
            w.correction[e] = 0.25f;
        }
        x.router_bias = 1;
        if (x.m.gating != SL_GATING_SIGMOID) x.correction = 0;
        each(&x, &w, check_few);
        numbers_close(&w);
    }
}

/* A row of NaN spoils itself only, and chooses experts that exist. */
static void check_nan(struct loaded *l, const struct numbers *w, const char *what)
{
    (void)w;
    float *x = t_floats(14, 20 * DIM, 1);
    float *want = mix(l, x, 20);
    x[7 * DIM + 3] = NAN;
    for (int i = 0; i < DIM; i++) x[9 * DIM + i] = i % 2 ? INFINITY : 1e30f;
    float *y = mix(l, x, 20);
    for (int i = 0; i < 20; i++)
        if (i != 7 && i != 9) t_same(what, y + i * DIM, want + i * DIM, sizeof(float) * DIM);
    assert_true(isnan(y[7 * DIM]) && !isfinite(y[9 * DIM]));
    free(x);
    free(want);
    free(y);
}

static void nan_stays_in_its_row(void **state)
{
    (void)state;
    for (size_t i = 0; i < SL_ARRAY_LEN(mixtures); i++) {
        struct numbers w;
        numbers_init(&w, &mixtures[i]);
        each(&mixtures[i], &w, check_nan);
        numbers_close(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_mixture),
        cmocka_unit_test(ties_and_idle_experts),
        cmocka_unit_test(nan_stays_in_its_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
