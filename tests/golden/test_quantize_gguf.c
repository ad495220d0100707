/* test_quantize_gguf.c - GGUF files written as Hugging Face folders answer as before.
 *
 * The twins in data/models hold BF16 numbers under GGUF names, so their folders in bf16 must meet
 * the float32 line of their families against transformers' logits and continuations: a row of q
 * left turned, a norm off by one or a key forgotten in config.json moves logits by per cents.
 * Families that are not written are refused by name and leave nothing. Quantized files
 * (data/models/gguf) become what BF16 holds of them. */
#include <glob.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/sl_assert.h"
#include "model/quantize.h"
#include "tests/golden/models.h"
#include "tests/lib/engine.h"
#include "tests/lib/golden.h"
#include "tests/lib/safetensors.h"

#define PROMPTS 3
#define LIMIT 1e-3     /* of the standard deviation of the logits: numbers that BF16 holds */
#define LIMIT_BF16 0.1 /* 8 bits of each weight; random weights feel them */
#define MODELS_MAX 64
#define SKIPPED 77

struct model {
    char path[512], golden[560], name[64];
    int exact;
};

static struct sl_backend *backend;
static struct model models[MODELS_MAX];
static int n_models;
static char folder[] = "/tmp/sluice-quantize-XXXXXX";

static void remove_folder(const char *dir)
{
    glob_t g;
    char pattern[640];
    snprintf(pattern, sizeof pattern, "%s/*", dir);
    if (glob(pattern, 0, NULL, &g) == 0)
        for (size_t i = 0; i < g.gl_pathc; i++) unlink(g.gl_pathv[i]);
    globfree(&g);
    rmdir(dir);
}

static int quantize(const char *path, const char *out, enum sl_quantize_to to, struct sl_err *err)
{
    struct sl_weights *w;
    struct sl_quantize q = {.to = to, .shard_bytes = 20000, .row = sl_matrix_row};
    struct sl_quantize_result result;
    if (sl_weights_open(path, &w, err)) fail_msg("%s", err->msg);
    int r = sl_quantize(w, out, &q, &result, err);
    sl_weights_close(w);
    return r;
}

/* The largest difference in standard deviations; with `exact`, the best tokens too. */
static double compare(const struct model *m, const float *want, const float *got, int rows, int n)
{
    for (int r = 0; m->exact && r < rows; r++)
        if (golden_best(want + (size_t)r * (size_t)n, n) !=
            golden_best(got + (size_t)r * (size_t)n, n))
            fail_msg("%s: row %d has another best token", m->name, r);
    return golden_difference(want, got, (size_t)rows * (size_t)n);
}

/* Logits of a prompt, and, where the numbers are exact, its continuation. */
static double check_prompt(const struct model *m, struct pipeline *p, const struct safetensors *g,
                           int at)
{
    char name[64];
    int shape[2], rows[2], greedy_shape[2];
    snprintf(name, sizeof name, "prompt%d.input_ids", at);
    const int32_t *ids = safetensors_find(g, name, "I32", shape);
    snprintf(name, sizeof name, "prompt%d.logits", at);
    const float *want = safetensors_find(g, name, "F32", rows);
    snprintf(name, sizeof name, "prompt%d.greedy", at);
    const int32_t *greedy = safetensors_find(g, name, "I32", greedy_shape);
    assert_true(ids && want && greedy);
    int n = shape[1], vocab = rows[1];
    float *logits = malloc((size_t)MODEL_TOKENS_MAX * (size_t)vocab * sizeof *logits);
    assert_non_null(logits);
    pipeline_logits(p, ids, n, 0, n, logits, vocab);
    double worst = compare(m, want, logits + (size_t)(n - rows[0]) * (size_t)vocab, rows[0], vocab);
    int32_t token = golden_best(logits + (size_t)(n - 1) * (size_t)vocab, vocab);
    for (int i = 0; m->exact && !p->far_from && i < greedy_shape[1]; i++) {
        if (token != greedy[i])
            fail_msg("%s: token %d of the continuation is %d, should be %d", m->name, i, token,
                     greedy[i]);
        pipeline_logits(p, &token, 1, n + i, n + i + 1, logits, vocab);
        token = golden_best(logits, vocab);
    }
    free(logits);
    return worst;
}

static int is_refused(const char *name)
{
    return strncmp(name, "deepseek", 8) == 0 || strncmp(name, "gpt_oss", 7) == 0;
}

static void test_folder(void **state)
{
    const struct model *m = *state;
    struct safetensors g;
    struct pipeline p;
    struct sl_err err = {0};
    struct stat st;
    char out[600], part[640];
    snprintf(out, sizeof out, "%s/%s", folder, m->name);
    snprintf(part, sizeof part, "%s.part", out);
    int r = quantize(m->path, out, SL_TO_BF16, &err);
    if (is_refused(m->name)) {
        assert_int_equal(r, SL_EUNSUPPORTED);
        assert_non_null(strstr(err.msg, m->name[0] == 'd' ? "deepseek" : "gpt_oss"));
        assert_true(stat(out, &st) != 0 && stat(part, &st) != 0);
        return;
    }
    if (r) fail_msg("%s", err.msg);
    assert_int_equal(safetensors_open(m->golden, &g), 0);
    pipeline_open(&p, backend, out, 1);
    double worst = 0;
    for (int i = 0; i < PROMPTS; i++) {
        double off = check_prompt(m, &p, &g, i);
        if (!(off <= worst)) worst = off;
    }
    pipeline_close(&p);
    safetensors_close(&g);
    print_message("%s: logits off by %.2g standard deviations\n", m->name, worst);
    if (!(worst <= (m->exact ? LIMIT : LIMIT_BF16)))
        fail_msg("%s: off by %.2g standard deviations", m->name, worst);
    remove_folder(out);
}

/* The other formats load and are as near as they can be. */
static void test_formats(void **state)
{
    static const double limits[SL_TO_COUNT] = {1e-3, 0.6, 1.5, 1.8, 0.06, 1.2};
    const struct model *m = *state;
    for (int to = SL_TO_FP8; to < SL_TO_COUNT; to++) {
        struct safetensors g;
        struct pipeline p;
        struct sl_err err = {0};
        struct model loose = *m;
        char out[600];
        loose.exact = 0;
        snprintf(out, sizeof out, "%s/formats", folder);
        if (quantize(m->path, out, (enum sl_quantize_to)to, &err)) fail_msg("%s", err.msg);
        assert_int_equal(safetensors_open(m->golden, &g), 0);
        pipeline_open(&p, backend, out, 1);
        double off = check_prompt(&loose, &p, &g, 0);
        pipeline_close(&p);
        safetensors_close(&g);
        print_message("%s as %s: logits off by %.2g standard deviations\n", m->name,
                      sl_quantize_name((enum sl_quantize_to)to), off);
        if (!(off <= limits[to]))
            fail_msg("%s as %s: off by %.2g", m->name, sl_quantize_name((enum sl_quantize_to)to),
                     off);
        remove_folder(out);
    }
}

static void find_models(const char *pattern, const char *golden, int exact)
{
    glob_t found;
    if (glob(pattern, 0, NULL, &found) != 0) return;
    for (size_t i = 0; i < found.gl_pathc && n_models < MODELS_MAX; i++) {
        struct model *m = &models[n_models++];
        const char *path = found.gl_pathv[i];
        snprintf(m->path, sizeof m->path, "%s", path);
        m->exact = exact;
        size_t n = strlen(path) - strlen(exact ? "/twin.gguf" : ".gguf");
        snprintf(m->golden, sizeof m->golden, "%.*s%s", (int)n, path, golden);
        size_t from = n;
        while (from > 0 && path[from - 1] != '/') from--;
        snprintf(m->name, sizeof m->name, "%.*s", (int)(n - from), path + from);
    }
    globfree(&found);
}

int main(void)
{
    static struct CMUnitTest tests[MODELS_MAX + 1];
    struct sl_backend_params p = {.kind = "cpu", .n_threads = 2};
    struct sl_err e = {0};
    find_models(SLUICE_GOLDEN "/data/models/*/twin.gguf", "/golden.safetensors", 1);
    find_models(SLUICE_SHARED "/data/models/gguf/*.gguf", ".golden.safetensors", 0);
    if (n_models == 0) {
        printf("skipped: no models\n");
        return SKIPPED;
    }
    if (!mkdtemp(folder) || sl_backend_create(&p, &backend, &e)) {
        printf("%s\n", e.code ? e.msg : folder);
        return 1;
    }
    int n = 0;
    for (; n < n_models; n++)
        tests[n] = (struct CMUnitTest){
            .name = models[n].name, .test_func = test_folder, .initial_state = &models[n]};
    for (int i = 0; i < n_models; i++)
        if (strcmp(models[i].name, "llama-linear") == 0)
            tests[n++] = (struct CMUnitTest){
                .name = "formats", .test_func = test_formats, .initial_state = &models[i]};
    int r = _cmocka_run_group_tests("quantize_gguf", tests, (size_t)n, NULL, NULL);
    sl_backend_destroy(backend);
    sl_frame_pool_trim();
    rmdir(folder);
    return r;
}
