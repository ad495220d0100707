/* test_models.c - every tiny model, folder or GGUF, against float32 logits, greedy continuations
 * and residual streams computed elsewhere; and cut into two and three stages against itself.
 *
 * usage: test_golden_models [ROW [MODEL]]. Random weights make every detail count: leaving one out
 * moves logits by 4 % of their standard deviation and more. With a float32 KV cache `ref` must meet
 * the float32 line: 1e-3 of the standard deviation, the same best token at every stored position,
 * the same continuation. The other rows hold activations of integer formats in 16 bits with a scale
 * per 32, which costs up to 1.1e-3 here (AWQ, attention as peaked as random weights make it; half
 * precision would cost 4e-3): they are given twice the line, and the same tokens. `cuda`
 * multiplies halfs: it must meet the line for those (data/models/README.md: the root mean square of
 * a row, at the median row, since a mixture changes experts at a few; the best token where its
 * margin is not small), and more than SL_DECODE_ROWS_MAX rows of an FP8 model the line for
 * quantized activations. Models:
 * SLUICE_SHARED/data/models and the ones that this tree keeps itself (make_models.py). */
#include <glob.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/sl_assert.h"
#include "tests/golden/models.h"
#include "tests/lib/engine.h"
#include "tests/lib/golden.h"
#include "tests/lib/safetensors.h"

#define PROMPTS 3
#define LIMIT_REF 1e-3   /* of the standard deviation */
#define LIMIT_FAST 2e-3  /* with activations in 16 bits */
#define LIMIT_HALF 8e-3  /* root mean square with halfs */
#define LIMIT_FP8 0.25   /* and with FP8 activations, of these random models */
#define MARGIN_HALF 0.05 /* of a best token that halfs must find */
#define STAGES_MAX 3
#define MODELS_MAX 256
#define SKIPPED 77

struct model {
    char path[512], golden[560], name[64];
};

static const char *row = "cpu";
static struct sl_backend *backend;
static struct model models[MODELS_MAX];
static int n_models;

static int on_card(void)
{
    return strcmp(row, "cuda") == 0;
}

static double limit(void)
{
    return on_card() ? LIMIT_HALF : strcmp(row, "ref") == 0 ? LIMIT_REF : LIMIT_FAST;
}

struct prompt {
    const int32_t *ids, *greedy;
    const float *logits; /* of the last n_logits positions */
    int n, n_greedy, n_logits, n_vocab;
};

static struct prompt find_prompt(const struct safetensors *g, int i)
{
    struct prompt p;
    char name[64];
    int shape[2];
    snprintf(name, sizeof name, "prompt%d.input_ids", i);
    p.ids = safetensors_find(g, name, "I32", shape);
    p.n = shape[1];
    snprintf(name, sizeof name, "prompt%d.greedy", i);
    p.greedy = safetensors_find(g, name, "I32", shape);
    p.n_greedy = shape[1];
    snprintf(name, sizeof name, "prompt%d.logits", i);
    p.logits = safetensors_find(g, name, "F32", shape);
    p.n_logits = shape[0];
    p.n_vocab = shape[1];
    assert_true(p.ids && p.greedy && p.logits);
    assert_true(p.n + p.n_greedy <= MODEL_TOKENS_MAX && p.n_logits <= p.n);
    return p;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Does a card multiply this prompt with activations in FP8? */
static int quantizes(const struct model *m, const struct prompt *p)
{
    return on_card() && p->n > SL_DECODE_ROWS_MAX && strstr(m->path, "fp8");
}

/* As check_logits, by the lines for halfs: the median row's root mean square. */
static double check_halfs(const struct model *m, const struct prompt *p, int at, const float *got)
{
    static double rms[MODEL_TOKENS_MAX];
    int quantized = quantizes(m, p);
    for (int r = 0; r < p->n_logits; r++) {
        const float *want = p->logits + (size_t)r * (size_t)p->n_vocab;
        const float *have = got + (size_t)r * (size_t)p->n_vocab;
        rms[r] = golden_rms(want, have, (size_t)p->n_vocab);
        if (!quantized && rms[r] < 10 * LIMIT_HALF &&
            golden_margin(want, p->n_vocab) > MARGIN_HALF &&
            golden_best(have, p->n_vocab) != golden_best(want, p->n_vocab))
            fail_msg("%s %s prompt %d: row %d has another best token (off by %.2g)", m->name, row,
                     at, r, rms[r]);
    }
    qsort(rms, (size_t)p->n_logits, sizeof *rms, by_value);
    double median = rms[p->n_logits / 2];
    if (!(median <= (quantized ? LIMIT_FP8 : LIMIT_HALF)))
        fail_msg("%s %s prompt %d: off by %.2g standard deviations", m->name, row, at, median);
    return quantized ? 0 : median;
}

static double check_logits(const struct model *m, const struct prompt *p, int at, const float *got)
{
    got += (size_t)(p->n - p->n_logits) * (size_t)p->n_vocab;
    if (on_card()) return check_halfs(m, p, at, got);
    for (int r = 0; r < p->n_logits; r++) {
        size_t from = (size_t)r * (size_t)p->n_vocab;
        if (golden_best(got + from, p->n_vocab) != golden_best(p->logits + from, p->n_vocab))
            fail_msg("%s %s prompt %d: row %d has another best token (off by %.2g)", m->name, row,
                     at, r,
                     golden_difference(p->logits, got, (size_t)p->n_logits * (size_t)p->n_vocab));
    }
    return golden_difference(p->logits, got, (size_t)p->n_logits * (size_t)p->n_vocab);
}

/* The continuation, one token at a time behind the prompt that has just run; all again where a
 * sequence becomes a long one. */
static void check_greedy(const struct model *m, struct pipeline *one, const struct prompt *p,
                         int at, float *logits)
{
    if (quantizes(m, p)) return; /* the cache holds what quantized activations gave */
    int32_t token = golden_best(logits + (size_t)(p->n - 1) * (size_t)p->n_vocab, p->n_vocab);
    int32_t all[MODEL_TOKENS_MAX];
    const float *last = logits + (size_t)(p->n - 1) * (size_t)p->n_vocab;
    memcpy(all, p->ids, (size_t)p->n * sizeof *all);
    for (int i = 0; i < p->n_greedy; i++) {
        int n = p->n + i + 1, again = p->n <= one->far_from && n == one->far_from + 1;
        /* a near tie that halfs decide otherwise: what follows is another text */
        if (on_card() && token != p->greedy[i] && golden_margin(last, p->n_vocab) < MARGIN_HALF)
            return;
        if (token != p->greedy[i])
            fail_msg("%s %s prompt %d: token %d of the continuation is %d, should be %d", m->name,
                     row, at, i, token, p->greedy[i]);
        all[n - 1] = token;
        if (again)
            pipeline_logits(one, all, n, 0, n, logits, p->n_vocab);
        else
            pipeline_logits(one, &token, 1, n - 1, n, logits, p->n_vocab);
        last = logits + (again ? (size_t)(n - 1) * (size_t)p->n_vocab : 0);
        token = golden_best(last, p->n_vocab);
    }
}

/* The same bits from n stages, and from a prompt in two pieces. */
static void check_cuts(const struct model *m, struct pipeline *cuts, int n_cuts,
                       const struct prompt *p, const float *want, float *got)
{
    size_t bytes = (size_t)p->n * (size_t)p->n_vocab * sizeof *want;
    int first = p->n / 3;
    for (int i = 0; i < n_cuts; i++) {
        pipeline_logits(&cuts[i], p->ids, p->n, 0, p->n, got, p->n_vocab);
        if (memcmp(want, got, bytes) != 0)
            fail_msg("%s %s: %d stages answer otherwise than one", m->name, row, cuts[i].n);
    }
    if (on_card()) return; /* pieces of other sizes run other kernels */
    pipeline_logits(&cuts[0], p->ids, first, 0, p->n, got, p->n_vocab);
    pipeline_logits(&cuts[0], p->ids + first, p->n - first, first, p->n,
                    got + (size_t)first * (size_t)p->n_vocab, p->n_vocab);
    if (memcmp(want, got, bytes) != 0)
        fail_msg("%s %s: a prompt in two pieces gives another answer", m->name, row);
}

/* What a stage hands on after each layer. */
static double check_hidden(const struct model *m, const struct safetensors *g,
                           const struct prompt *p)
{
    int shape[2];
    const float *hidden = safetensors_find(g, "prompt0.hidden", "F32", shape);
    double worst = 0;
    assert_non_null(hidden);
    size_t rows = (size_t)p->n * (size_t)shape[1];
    float *x = malloc(rows * sizeof *x);
    assert_non_null(x);
    for (int k = 1; k < shape[0] / p->n; k++) {
        struct pipeline head;
        pipeline_open_head(&head, backend, m->path, k);
        pipeline_hidden(&head, p->ids, p->n, x, shape[1]);
        const float *want = hidden + (size_t)k * rows;
        double off = on_card() ? golden_rms(want, x, rows) : golden_difference(want, x, rows);
        pipeline_close(&head);
        if (!(off <= limit()))
            fail_msg("%s %s: after layer %d the residual stream is off by %.2g standard deviations",
                     m->name, row, k - 1, off);
        if (off > worst) worst = off;
    }
    free(x);
    return worst;
}

static void test_model(void **state)
{
    const struct model *m = *state;
    struct safetensors g;
    struct pipeline cuts[STAGES_MAX];
    double worst = 0;
    assert_int_equal(safetensors_open(m->golden, &g), 0);
    struct prompt p = find_prompt(&g, 0);
    double hidden = check_hidden(m, &g, &p);
    int shape[2], n_cuts = 0;
    safetensors_find(&g, "prompt0.hidden", "F32", shape);
    int layers = shape[0] / p.n - 1;
    for (; n_cuts < STAGES_MAX && n_cuts < layers; n_cuts++)
        pipeline_open(&cuts[n_cuts], backend, m->path, n_cuts + 1);
    size_t cells = (size_t)MODEL_TOKENS_MAX * (size_t)p.n_vocab;
    float *logits = malloc(2 * cells * sizeof *logits);
    assert_non_null(logits);
    for (int i = 0; i < PROMPTS; i++) {
        p = find_prompt(&g, i);
        pipeline_logits(&cuts[0], p.ids, p.n, 0, p.n, logits, p.n_vocab);
        double off = check_logits(m, &p, i, logits);
        if (!(off <= worst)) worst = off;
        check_cuts(m, cuts, n_cuts, &p, logits, logits + cells);
        check_greedy(m, &cuts[0], &p, i, logits);
    }
    /* the stages share nothing but what the model itself uses twice */
    for (int i = 1; i < n_cuts; i++) assert_int_equal(cuts[i].weight_bytes, cuts[0].weight_bytes);
    for (int i = 0; i < n_cuts; i++) pipeline_close(&cuts[i]);
    free(logits);
    safetensors_close(&g);
    print_message("%s %s: logits off by %.2g, residual stream by %.2g standard deviations\n",
                  m->name, row, worst, hidden);
    if (!(worst <= limit()))
        fail_msg("%s %s: off by %.2g standard deviations", m->name, row, worst);
}

/* ---- which models ---------------------------------------------------------------------------- */

/* Paths that match root/pattern; the model's own path is what stands before `end`. */
static void find_models(const char *root, const char *pattern, const char *end, const char *ext,
                        const char *only)
{
    char text[512];
    glob_t found;
    snprintf(text, sizeof text, "%s/%s", root, pattern);
    if (glob(text, 0, NULL, &found) != 0) return;
    for (size_t i = 0; i < found.gl_pathc && n_models < MODELS_MAX; i++) {
        struct model *m = &models[n_models];
        size_t n = strlen(found.gl_pathv[i]) - strlen(end);
        snprintf(m->golden, sizeof m->golden, "%s", found.gl_pathv[i]);
        snprintf(m->path, sizeof m->path, "%.*s%s", (int)n, found.gl_pathv[i], ext);
        const char *name = m->path + n;
        while (name > m->path && name[-1] != '/') name--;
        snprintf(m->name, sizeof m->name, "%s", name);
        if (!only || strcmp(only, m->name) == 0) n_models++;
    }
    globfree(&found);
}

/* The same numbers under GGUF names, beside a folder's own. */
static void find_twins(const char *root, const char *only)
{
    int from = n_models;
    find_models(root, "*/twin.gguf", "/twin.gguf", "", NULL);
    for (int i = from, n = n_models; i < n; i++) {
        struct model m = models[i];
        size_t len = strlen(m.name);
        snprintf(m.golden, sizeof m.golden, "%.500s/golden.safetensors", models[i].path);
        strncat(m.path, "/twin.gguf", sizeof m.path - strlen(m.path) - 1);
        snprintf(m.name + len, sizeof m.name - len, ".gguf");
        if (i == from) n_models = from;
        if (!only || strcmp(only, m.name) == 0) models[n_models++] = m;
    }
}

int main(int argc, char **argv)
{
    static struct CMUnitTest tests[MODELS_MAX];
    static const char *const roots[] = {SLUICE_SHARED "/data/models", SLUICE_GOLDEN "/data/models"};
    if (argc > 1) row = argv[1];
    for (size_t i = 0; i < SL_ARRAY_LEN(roots); i++) {
        const char *only = argc > 2 ? argv[2] : NULL;
        find_models(roots[i], "*/golden.safetensors", "/golden.safetensors", "", only);
        find_models(roots[i], "gguf/*.golden.safetensors", ".golden.safetensors", ".gguf", only);
        find_twins(roots[i], only);
    }
    if (n_models == 0 || !engine_has_row(row)) {
        printf("skipped: no models or no row %s\n", row);
        return SKIPPED;
    }
    struct sl_backend_params p = {.kind = row, .n_threads = 2};
    struct sl_err e = {0};
    if (sl_backend_create(&p, &backend, &e)) {
        printf("%s\n", e.msg);
        return 1;
    }
    for (int i = 0; i < n_models; i++)
        tests[i] = (struct CMUnitTest){
            .name = models[i].name, .test_func = test_model, .initial_state = &models[i]};
    int r = _cmocka_run_group_tests("golden_models", tests, (size_t)n_models, NULL, NULL);
    sl_backend_destroy(backend);
    sl_frame_pool_trim();
    return r;
}
