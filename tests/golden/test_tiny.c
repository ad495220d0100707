/* test_tiny.c - tiny models in every GGUF format we read, against float32 logits and greedy
 * continuations.
 *
 * usage: test_golden_tiny [ROW]. Random weights make every detail count: leaving one out moves
 * logits by 4 % of their standard deviation and more, and no step of the continuations is a near
 * tie. With a float32 KV cache every row must meet the float32 line, 1e-3 of the standard
 * deviation: the fast rows too, for they hold activations in 16 bits per group of 32. The
 * half-precision cache they use by default costs up to 4e-3 here (11 bits of K and V, peaked
 * attention); twice that is the line for it, and the best token at every position and the
 * continuation stay the same. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/sl_assert.h"
#include "tests/lib/engine.h"
#include "tests/lib/golden.h"
#include "tests/lib/safetensors.h"

#define PROMPTS 3
#define LIMIT_F32 1e-3 /* of the standard deviation of the logits, KV cache in float32 */
#define LIMIT_F16 8e-3 /* in half precision */
#define SKIPPED 77

static const char *row = "cpu";

/* Compares the last n_rows rows; returns the largest difference in standard deviations. */
static double compare(const float *want, int n_rows, int width, const struct engine_answer *a,
                      const char *what)
{
    assert_int_equal(a->n_vocab, width);
    assert_true(a->n_scored >= n_rows);
    const float *got = a->scored + (size_t)(a->n_scored - n_rows) * (size_t)width;
    size_t n = (size_t)n_rows * (size_t)width;
    for (int r = 0; r < n_rows; r++) {
        int top = golden_best(want + (size_t)r * (size_t)width, width);
        if (golden_best(got + (size_t)r * (size_t)width, width) != top)
            fail_msg("%s: row %d has another best token", what, r);
    }
    return golden_difference(want, got, n);
}

/* One prompt of one file: logits of every stored position, and the continuation. */
static double check_prompt(struct engine *e, const struct safetensors *golden, int prompt,
                           const char *type)
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
            fail_msg("%s: token %d of the continuation is %d, should be %d", what, i,
                     answers[1].tokens[i].id, greedy[i]);
    for (int i = 0; i < 2; i++) engine_answer_close(&answers[i]);
    return worst;
}

/* All prompts of one file with one type of KV cache. */
static void check_file(const char *model, const struct safetensors *golden, const char *type,
                       const char *kv, double limit)
{
    struct engine_setup setup = {.session = {.model = model, .backend = row, .kv_format = kv}};
    struct engine *e = engine_open(&setup);
    double worst = 0;
    for (int i = 0; i < PROMPTS; i++) {
        double off = check_prompt(e, golden, i, type);
        if (off > worst) worst = off;
    }
    engine_close(e);
    print_message("%s %s, KV %s: logits off by %.2g standard deviations at most\n", type, row, kv,
                  worst);
    if (!(worst <= limit))
        fail_msg("%s %s, KV %s: off by %.2g standard deviations", type, row, kv, worst);
}

static void test_format(void **state)
{
    const char *type = *state;
    char model[64], file[64];
    snprintf(model, sizeof model, "models/gguf/llama-%s.gguf", type);
    snprintf(file, sizeof file, "models/gguf/llama-%s.golden.safetensors", type);
    const char *path = engine_data(model), *golden_path = engine_data(file);
    if (!path || !golden_path) skip();
    struct safetensors golden;
    assert_int_equal(safetensors_open(golden_path, &golden), 0);
    check_file(path, &golden, type, "f32", LIMIT_F32);
    check_file(path, &golden, type, "f16", LIMIT_F16);
    safetensors_close(&golden);
}

int main(int argc, char **argv)
{
    static char types[][8] = {"Q4_0", "Q4_1", "Q5_0",   "Q5_1",   "Q8_0",   "Q2_K",  "Q3_K", "Q4_K",
                              "Q5_K", "Q6_K", "Q4_K_M", "IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4"};
    struct CMUnitTest tests[SL_ARRAY_LEN(types)];
    if (argc > 1) row = argv[1];
    if (!engine_data("models/gguf/llama-Q4_0.gguf") || !engine_has_row(row)) {
        printf("skipped: no data or no row %s\n", row);
        return SKIPPED;
    }
    for (size_t i = 0; i < SL_ARRAY_LEN(types); i++)
        tests[i] = (struct CMUnitTest){
            .name = types[i], .test_func = test_format, .initial_state = types[i]};
    return cmocka_run_group_tests_name("golden_tiny", tests, NULL, NULL);
}
