/* test_greedy.c - the real model's greedy answers, token by token, against float32 arithmetic on
 * the same weights.
 *
 * usage: test_golden_greedy [ROW], a row of kernels ("cpu": the best). All prompts run at the same
 * time. `ref` computes in float32 and must give every id. A fast row rounds activations and the KV
 * cache to 16 bits and may choose the other token where the two best are closer than NEAR_TIE; from
 * there on that prompt tells nothing more.
 *
 * Log-probabilities: a float32 sum in another order moves them by about 1e-5 of their size, five
 * digits were recorded, so 5e-4 leaves room without letting a missing detail through. Half
 * precision keeps 11 bits: errors of 30 layers add up to about 1e-2. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "tests/lib/engine.h"

#define NEAR_TIE 0.15 /* difference of log-probabilities */
#define TOLERANCE_REF 5e-4
#define TOLERANCE_FAST 2e-2
#define PROMPTS_MAX 64
#define STEPS_MAX 48
#define TOP                                                                                        \
    12 /* alternatives asked for: the five recorded are among them unless an error is gross */
#define CHUNK                                                                                      \
    64 /* prompt tokens in a micro-batch: slow rows then answer often enough not to be taken for   \
          hanging */
#define SKIPPED 77

static const char *row = "cpu";
static const char *model, *data;

/* What was compared, for the report. */
struct tally {
    int exact, steps;
    double worst; /* difference of log-probabilities */
};

static int read_ids(const json_t *list, int32_t **ids)
{
    int n = (int)json_array_size(list);
    *ids = malloc((size_t)n * sizeof **ids);
    assert_non_null(*ids);
    for (int i = 0; i < n; i++)
        (*ids)[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    return n;
}

static int read_prompts(json_t **prompts)
{
    char *line = NULL;
    size_t cap = 0;
    int n = 0;
    FILE *f = fopen(data, "r");
    assert_non_null(f);
    while (getline(&line, &cap, f) > 0) {
        assert_true(n < PROMPTS_MAX);
        prompts[n] = json_loads(line, 0, NULL);
        assert_non_null(prompts[n++]);
    }
    free(line);
    fclose(f);
    return n;
}

static double logprob_of(const struct engine_token *t, int32_t id)
{
    for (int i = 0; i < t->n_top; i++)
        if (t->top[i].token == id) return (double)t->top[i].logprob;
    return -INFINITY;
}

/* The five recorded alternatives of one step. */
static void check_step(const json_t *step, const struct engine_token *t, double tolerance,
                       int prompt, int at, struct tally *sum)
{
    const json_t *ids = json_object_get(step, "top"), *values = json_object_get(step, "logprob");
    for (size_t i = 0; i < json_array_size(ids); i++) {
        int32_t id = (int32_t)json_integer_value(json_array_get(ids, i));
        double want = json_real_value(json_array_get(values, i)), got = logprob_of(t, id);
        double off = fabs(want - got);
        if (!(off <= tolerance))
            fail_msg("%s: prompt %d step %d: log p of token %d is %.5f, should be %.5f", row,
                     prompt, at, id, got, want);
        if (off > sum->worst) sum->worst = off;
    }
    assert_float_equal((float)logprob_of(t, t->id), t->logprob, 0);
    sum->steps++;
}

static int near_tie(const json_t *step)
{
    const json_t *values = json_object_get(step, "logprob");
    return json_real_value(json_array_get(values, 0)) - json_real_value(json_array_get(values, 1)) <
           NEAR_TIE;
}

static void check_prompt(const json_t *golden, const struct engine_answer *a, int prompt,
                         struct tally *sum)
{
    const json_t *ids = json_object_get(golden, "greedy_ids"),
                 *steps = json_object_get(golden, "steps");
    int exact = strcmp(row, "ref") == 0, n = (int)json_array_size(ids);
    for (int i = 0; i < n; i++) {
        const json_t *step = json_array_get(steps, (size_t)i);
        int32_t want = (int32_t)json_integer_value(json_array_get(ids, (size_t)i));
        if (i >= a->n_tokens)
            fail_msg("%s: prompt %d ends after %d tokens, should have %d", row, prompt, i, n);
        check_step(step, &a->tokens[i], exact ? TOLERANCE_REF : TOLERANCE_FAST, prompt, i, sum);
        if (a->tokens[i].id == want) continue;
        if (exact || !near_tie(step))
            fail_msg("%s: prompt %d step %d is %d, should be %d", row, prompt, i, a->tokens[i].id,
                     want);
        return;
    }
    assert_int_equal(a->n_tokens, n);
    sum->exact++;
    const char *text = json_string_value(json_object_get(golden, "greedy_text")),
               *end = strstr(text, "<|im_end|>");
    size_t len = end ? (size_t)(end - text) : strlen(text); /* special tokens are not shown */
    assert_int_equal(a->text.len, len);
    assert_memory_equal(sl_buf_str(&a->text), text, len);
    assert_int_equal(a->reason, n < STEPS_MAX ? SL_FINISH_STOP : SL_FINISH_LENGTH);
}

static void test_greedy(void **state)
{
    (void)state;
    json_t *golden[PROMPTS_MAX];
    int32_t *ids[PROMPTS_MAX];
    struct sl_submit requests[PROMPTS_MAX];
    static struct engine_answer answers[PROMPTS_MAX];
    struct tally sum = {0};
    int n = read_prompts(golden);
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        int len = read_ids(json_object_get(golden[i], "prompt_ids"), &ids[i]);
        requests[i] = engine_greedy(ids[i], len, STEPS_MAX, TOP);
    }
    struct engine_setup setup = {
        .session = {.model = model, .backend = row, .context = 1024, .chunk = CHUNK}};
    struct engine *e = engine_open(&setup);
    engine_ask(e, requests, n, answers);
    for (int i = 0; i < n; i++) check_prompt(golden[i], &answers[i], i, &sum);
    print_message(
        "%s: %d of %d prompts exact, %d steps compared, log-probabilities off by %.2g at most\n",
        row, sum.exact, n, sum.steps, sum.worst);
    engine_close(e);
    for (int i = 0; i < n; i++) {
        engine_answer_close(&answers[i]);
        json_decref(golden[i]);
        free(ids[i]);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_greedy)};
    if (argc > 1) row = argv[1];
    model = engine_smollm2();
    data = engine_data("smollm2/greedy.jsonl");
    if (!model || !data || !engine_has_row(row)) {
        printf("skipped: no %s\n", !model ? "model" : !data ? "data" : row);
        return SKIPPED;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
