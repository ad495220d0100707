/* test_lora.c - LoRA adapters against PEFT's own answers (data/lora, made by make_lora.py): the
 * logits of the last positions and the continuation, on every row of kernels; several adapters at
 * once, cut into stages, give each request the bits it gets alone.
 *
 * usage: test_golden_lora [ROW] */
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

#define LIMIT 1e-3 /* of the standard deviation of the logits, KV cache in float32 */
#define SKIPPED 77

static const char *row = "cpu";

struct golden {
    struct safetensors file;
    const int32_t *ids, *greedy;
    const float *logits;
    int n_ids, n_greedy, n_rows, width;
};

static void golden_open(const char *adapter, struct golden *g)
{
    char path[96];
    int s[2];
    snprintf(path, sizeof path, "lora/%s/golden.safetensors", adapter);
    assert_int_equal(safetensors_open(engine_data(path), &g->file), 0);
    g->ids = safetensors_find(&g->file, "prompt0.input_ids", "I32", s), g->n_ids = s[1];
    g->greedy = safetensors_find(&g->file, "prompt0.greedy", "I32", s), g->n_greedy = s[1];
    g->logits = safetensors_find(&g->file, "prompt0.logits", "F32", s);
    g->n_rows = s[0], g->width = s[1];
    assert_true(g->ids && g->greedy && g->logits);
}

static struct engine *open_with(const char *model, const char *const *adapters, int n, int stages)
{
    struct engine_setup setup = {
        .session = {
            .model = engine_data(model), .backend = row, .kv_format = "f32", .stages = stages}};
    for (int i = 0; i < n; i++) {
        char path[96];
        snprintf(path, sizeof path, "lora/%s", adapters[i]);
        setup.session.lora.v[setup.session.lora.n++] = engine_data(path);
    }
    return engine_open(&setup);
}

static void check_answer(const struct golden *g, const struct engine_answer *logits,
                         const struct engine_answer *greedy)
{
    size_t n = (size_t)g->n_rows * (size_t)g->width;
    const float *got = logits->scored + (size_t)(logits->n_scored - g->n_rows) * (size_t)g->width;
    assert_int_equal(logits->n_vocab, g->width);
    double worst = golden_difference(g->logits, got, n);
    print_message("%s: off by %.2g standard deviations at most\n", row, worst);
    assert_true(worst <= LIMIT);
    assert_int_equal(greedy->n_tokens, g->n_greedy);
    for (int i = 0; i < g->n_greedy; i++) assert_int_equal(greedy->tokens[i].id, g->greedy[i]);
}

/* One adapter alone, as `sluice logits --lora` uses it. */
static void check_adapter(const char *model, const char *adapter)
{
    if (!engine_data(model)) skip();
    struct golden g;
    golden_open(adapter, &g);
    struct engine *e = open_with(model, &adapter, 1, 1);
    struct sl_submit requests[2] = {engine_logits(g.ids, g.n_ids),
                                    engine_greedy(g.ids, g.n_ids, g.n_greedy, 0)};
    struct engine_answer answers[2];
    requests[1].ignore_eos = 1;
    requests[0].adapter = requests[1].adapter = 1;
    engine_ask(e, requests, 2, answers);
    check_answer(&g, &answers[0], &answers[1]);
    for (int i = 0; i < 2; i++) engine_answer_close(&answers[i]);
    engine_close(e);
    safetensors_close(&g.file);
}

static void test_all_layers(void **state)
{
    (void)state;
    check_adapter("models/llama", "all");
}

static void test_rank_stabilized(void **state)
{
    (void)state;
    check_adapter("models/llama", "rs");
}

static void test_base_in_gguf(void **state)
{
    (void)state;
    check_adapter("models/gguf/llama-Q8_0.gguf", "turned");
}

/* Requests with two adapters and without one, together and alone, in one and in two stages. */
static void test_together(void **state)
{
    static const char *const adapters[] = {"all", "rs"};
    enum { N = 6 };
    (void)state;
    if (!engine_data("models/llama")) skip();
    struct golden g;
    struct engine_answer alone[3], together[N];
    struct sl_submit requests[N];
    golden_open("all", &g);
    struct engine *e = open_with("models/llama", adapters, 2, 1);
    for (int i = 0; i < 3; i++) {
        struct sl_submit one = engine_greedy(g.ids, g.n_ids, g.n_greedy, 4);
        one.ignore_eos = 1;
        one.adapter = i;
        engine_ask(e, &one, 1, &alone[i]);
    }
    assert_int_not_equal(alone[0].tokens[0].id, alone[1].tokens[0].id);
    for (int stages = 1; stages <= 2; stages++) {
        if (stages == 2) {
            engine_close(e);
            e = open_with("models/llama", adapters, 2, 2);
        }
        for (int i = 0; i < N; i++) {
            requests[i] = engine_greedy(g.ids, g.n_ids, g.n_greedy, 4);
            requests[i].ignore_eos = 1;
            requests[i].adapter = i % 3;
        }
        engine_ask(e, requests, N, together);
        for (int i = 0; i < N; i++) {
            engine_assert_same(&together[i], &alone[i % 3], "with adapters side by side");
            engine_answer_close(&together[i]);
        }
    }
    for (int i = 0; i < 3; i++) engine_answer_close(&alone[i]);
    engine_close(e);
    safetensors_close(&g.file);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_layers), cmocka_unit_test(test_rank_stabilized),
        cmocka_unit_test(test_base_in_gguf), cmocka_unit_test(test_together)};
    if (argc > 1) row = argv[1];
    if (!engine_data("models/llama") || !engine_has_row(row)) {
        printf("skipped: no data or no row %s\n", row);
        return SKIPPED;
    }
    return cmocka_run_group_tests_name("golden_lora", tests, NULL, NULL);
}
