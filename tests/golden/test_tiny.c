/* test_tiny.c - tiny models in every GGUF format we read, against float32 logits and greedy continuations.
 *
 * usage: test_golden_tiny [ROW]. Random weights make every detail count: leaving one out moves logits by 4 % of their
 * standard deviation and more, and no step of the continuations is a near tie. So one line holds for every row: 1e-3 of the
 * standard deviation, which is what float32 in another order of sums needs at most. Fast rows keep 16 bits of an
 * activation; LIMIT_FAST says what that costs. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/sl_assert.h"
#include "tests/lib/engine.h"
#include "tests/lib/safetensors.h"

#define PROMPTS 3
#define LIMIT 1e-3 /* of the standard deviation of the logits */
#define SKIPPED 77

static const char *row = "cpu";

static double deviation(const float *x, size_t n)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i];
    for (size_t i = 0; i < n; i++) squares += ((double)x[i] - sum / (double)n) * ((double)x[i] - sum / (double)n);
    return sqrt(squares / (double)n);
}

static int best(const float *x, int n)
{
    int at = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[at]) at = i;
    return at;
}

/* Compares the last n_rows rows; returns the largest difference in standard deviations. */
static double compare(const float *want, int n_rows, int width, const struct engine_answer *a, const char *what)
{
    assert_int_equal(a->n_vocab, width);
    assert_true(a->n_scored >= n_rows);
    const float *got = a->scored + (size_t)(a->n_scored - n_rows) * (size_t)width;
    size_t n = (size_t)n_rows * (size_t)width;
    double worst = 0, unit = deviation(want, n);
    for (size_t i = 0; i < n; i++) {
        double off = fabs((double)want[i] - (double)got[i]) / unit;
        if (!(off <= worst)) worst = off;
    }
    for (int r = 0; r < n_rows; r++) {
        int top = best(want + (size_t)r * (size_t)width, width);
        if (best(got + (size_t)r * (size_t)width, width) != top) fail_msg("%s: row %d has another best token", what, r);
    }
    return worst;
}

/* One prompt of one file: logits of every stored position, and the continuation. */
static double check_prompt(struct engine *e, const struct safetensors *golden, int prompt, const char *type)
{
    char name[64], what[96];
    int ids_shape[2], logits_shape[2], greedy_shape[2];
    snprintf(what, sizeof what, "%s %s prompt %d", type, row, prompt);
    snprintf(name, sizeof name, "prompt%d.input_ids", prompt);
    const int32_t *ids = safetensors_find(golden, name, "I32", ids_shape);
    snprintf(name, sizeof name, "prompt%d.logits", prompt);
    const float *logits = safetensors_find(golden, name, "F32", logits_shape);
    snprintf(name, sizeof name, "prompt%d.greedy", prompt);
    const int32_t *greedy = safetensors_find(golden, name, "I32", greedy_shape);
    assert_true(ids && logits && greedy);
    struct sl_submit requests[2] = {engine_logits(ids, ids_shape[1]),
                                    engine_greedy(ids, ids_shape[1], greedy_shape[1], 0)};
    requests[1].ignore_eos = 1;
    struct engine_answer answers[2];
    engine_ask(e, requests, 2, answers);
    assert_int_equal(answers[0].n_scored, ids_shape[1]);
    double worst = compare(logits, logits_shape[0], logits_shape[1], &answers[0], what);
    assert_int_equal(answers[1].n_tokens, greedy_shape[1]);
    for (int i = 0; i < greedy_shape[1]; i++)
        if (answers[1].tokens[i].id != greedy[i])
            fail_msg("%s: token %d of the continuation is %d, should be %d", what, i, answers[1].tokens[i].id, greedy[i]);
    for (int i = 0; i < 2; i++) engine_answer_close(&answers[i]);
    return worst;
}

static void test_format(void **state)
{
    const char *type = *state;
    char model[64], file[64];
    double worst = 0;
    snprintf(model, sizeof model, "models/gguf/llama-%s.gguf", type);
    snprintf(file, sizeof file, "models/gguf/llama-%s.golden.safetensors", type);
    const char *path = engine_data(model), *golden_path = engine_data(file);
    if (!path || !golden_path) skip();
    struct safetensors golden;
    assert_int_equal(safetensors_open(golden_path, &golden), 0);
    struct engine_setup setup = {.session = {.model = path, .backend = row}};
    struct engine *e = engine_open(&setup);
    for (int i = 0; i < PROMPTS; i++) {
        double off = check_prompt(e, &golden, i, type);
        if (off > worst) worst = off;
    }
    engine_close(e);
    safetensors_close(&golden);
    print_message("%s %s: logits off by %.2g standard deviations at most\n", type, row, worst);
    if (!(worst <= LIMIT)) fail_msg("%s %s: off by %.2g standard deviations", type, row, worst);
}

int main(int argc, char **argv)
{
    static char types[][8] = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "Q4_K_M"};
    struct CMUnitTest tests[SL_ARRAY_LEN(types)];
    if (argc > 1) row = argv[1];
    if (!engine_data("models/gguf/llama-Q4_0.gguf") || !engine_has_row(row)) {
        printf("skipped: no data or no row %s\n", row);
        return SKIPPED;
    }
    for (size_t i = 0; i < SL_ARRAY_LEN(types); i++)
        tests[i] = (struct CMUnitTest){.name = types[i], .test_func = test_format, .initial_state = types[i]};
    return cmocka_run_group_tests_name("golden_tiny", tests, NULL, NULL);
}
