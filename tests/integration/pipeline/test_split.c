/* test_split.c - the split never changes the answer.
 *
 * One stage with everything at its default answers first; then the same questions go through other
 * numbers of stages, links, lengths of chunks, threads, company and shortages of memory. Logits,
 * tokens, log-probabilities and texts must be the same to the last bit: the same rows pass through
 * the same arithmetic in the same order, whoever computes them.
 *
 * usage: test_pipeline_split [tiny]: with a two-layer model instead of the real one. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/sl_assert.h"
#include "model/config.h"
#include "model/tokenizer.h"
#include "tests/lib/engine.h"

#define SKIPPED 77
#define LOGIT_TOKENS 200 /* length of the prompt whose logits are compared */
#define ANSWER_TOKENS 16
#define TOP 5
#define COMPANY 8 /* requests at once */
#define SHORT_CONTEXT 512

enum { ASK_LOGITS, ASK_GREEDY_SHORT, ASK_GREEDY_LONG, ASK_SAMPLED, ASK_PENALTIES, QUESTIONS };

static const char *const names[QUESTIONS] = {"logits", "short prompt", "long prompt", "sampled",
                                             "with penalties"};

static const char *model;
static int layers;
static int32_t text[4 * LOGIT_TOKENS]; /* token ids of a text */
static struct sl_submit questions[QUESTIONS];
static struct engine_answer expected[QUESTIONS];

/* ---- the questions --------------------------------------------------------------------------- */

/* Ids of real text where the model has a real vocabulary, else of anything: a fixed mixture. */
static void make_text(const struct engine *e)
{
    const struct sl_service *s = e->session.service;
    struct sl_ids ids = {0};
    struct sl_err err = {0};
    static const char words[] =
        "When in the Course of human events, it becomes necessary for one people to dissolve the "
        "political bands which have connected them with another, and to assume among the powers of "
        "the earth, the separate and equal station, a decent respect requires that they should "
        "declare the causes which impel them to the separation. ";
    for (int n = 0; n < (int)SL_ARRAY_LEN(text);) {
        ids.len = 0;
        assert_int_equal(
            sl_tokenizer_encode(sl_service_tokenizer(s), words, sizeof words - 1, 0, &ids, &err),
            0);
        for (size_t i = 0; i < ids.len && n < (int)SL_ARRAY_LEN(text); i++, n++)
            text[n] = ids.data[i];
    }
    free(ids.data);
    layers = sl_service_config(s)->n_layers;
}

static struct sl_submit sampled(int from, int n, uint64_t seed)
{
    struct sl_submit req = engine_greedy(text + from, n, ANSWER_TOKENS, TOP);
    req.sampling.temperature = 0.9f;
    req.sampling.top_p = 0.95f;
    req.sampling.seed = seed;
    req.ignore_eos = 1;
    return req;
}

static void make_questions(void)
{
    questions[ASK_LOGITS] = engine_logits(text, LOGIT_TOKENS);
    questions[ASK_GREEDY_SHORT] = engine_greedy(text + 3, 5, ANSWER_TOKENS, TOP);
    questions[ASK_GREEDY_LONG] = engine_greedy(text + 40, 171, ANSWER_TOKENS, TOP);
    questions[ASK_SAMPLED] = sampled(11, 33, 42);
    questions[ASK_PENALTIES] = sampled(64, 64, 7);
    questions[ASK_PENALTIES].sampling.repetition_penalty = 1.3f;
    questions[ASK_PENALTIES].sampling.presence_penalty = 0.5f;
    for (int i = ASK_GREEDY_SHORT; i <= ASK_GREEDY_LONG; i++) questions[i].ignore_eos = 1;
}

static int set_up(void **state)
{
    (void)state;
    struct engine_setup setup = {.session = {.model = model}};
    struct engine *e = engine_open(&setup);
    make_text(e);
    make_questions();
    for (int i = 0; i < QUESTIONS; i++)
        engine_ask(e, &questions[i], 1, &expected[i]); /* one after the other: alone */
    assert_int_equal(expected[ASK_LOGITS].n_scored, LOGIT_TOKENS);
    for (int i = ASK_GREEDY_SHORT; i < QUESTIONS; i++)
        assert_int_equal(expected[i].n_tokens, ANSWER_TOKENS);
    engine_close(e);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (int i = 0; i < QUESTIONS; i++) engine_answer_close(&expected[i]);
    return 0;
}

/* All questions at once. */
static void compare(struct engine *e, const char *variant)
{
    struct engine_answer answers[QUESTIONS];
    char what[160];
    engine_ask(e, questions, QUESTIONS, answers);
    for (int i = 0; i < QUESTIONS; i++) {
        snprintf(what, sizeof what, "%s, %s", variant, names[i]);
        engine_assert_same(&expected[i], &answers[i], what);
        engine_answer_close(&answers[i]);
    }
}

static void compare_setup(const struct engine_setup *setup, const char *variant)
{
    struct engine *e = engine_open(setup);
    compare(e, variant);
    engine_close(e);
}

/* ---- variants -------------------------------------------------------------------------------- */

/* Links really are what was asked for. */
static void assert_transport(const struct engine *e, const char *want)
{
    struct sl_stage_status stages[SL_DEVICES_MAX];
    int n = sl_service_stages(e->session.service, stages, SL_DEVICES_MAX);
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        assert_non_null(stages[i].transport_out);
        assert_string_equal(stages[i].transport_out, want);
    }
}

static void split(const char *transport, int processes)
{
    static const int counts[] = {1, 2, 3, 5};
    for (size_t i = 0; i < SL_ARRAY_LEN(counts) && counts[i] <= layers; i++) {
        struct engine_setup setup = {
            .session = {.model = model, .stages = counts[i], .context = SHORT_CONTEXT},
            .processes = processes,
            .transports = transport};
        char variant[96];
        snprintf(variant, sizeof variant, "%d stages over %s", counts[i], transport);
        struct engine *e = engine_open(&setup);
        compare(e, variant);
        sl_session_settle(&e->session); /* the stages report their links with their heartbeat */
        assert_transport(e, transport);
        engine_close(e);
    }
}

static void test_local(void **state)
{
    (void)state;
    split("local", 0);
}

static void test_shared_memory(void **state)
{
    (void)state;
    split("ucx-shm", 1);
}

static void test_tcp(void **state)
{
    (void)state;
    split("ucx-tcp", 1);
}

static void test_chunks(void **state)
{
    (void)state;
    static const int chunks[] = {7, 32, 64, 512};
    for (size_t i = 0; i < SL_ARRAY_LEN(chunks); i++) {
        struct engine_setup setup = {.session = {.model = model, .stages = 2, .chunk = chunks[i]}};
        char variant[64];
        snprintf(variant, sizeof variant, "chunks of %d", chunks[i]);
        compare_setup(&setup, variant);
    }
}

static void test_threads(void **state)
{
    (void)state;
    for (int n = 1; n <= 2; n++) {
        struct engine_setup setup = {.session = {.model = model, .threads = n}};
        char variant[64];
        snprintf(variant, sizeof variant, "%d threads", n);
        compare_setup(&setup, variant);
    }
}

static void test_micro_batches(void **state)
{
    (void)state;
    for (int n = 1; n <= 9; n += 4) {
        struct engine_setup setup = {.session = {.model = model, .stages = 2, .micro_batches = n}};
        char variant[64];
        snprintf(variant, sizeof variant, "%d micro-batches", n);
        compare_setup(&setup, variant);
    }
}

/* ---- company --------------------------------------------------------------------------------- */

/* Seven other requests of all lengths, longer than the questions. */
static int make_company(struct sl_submit *out)
{
    static const int lengths[COMPANY - 1] = {1, 17, 64, 100, 150, 256, 300};
    for (int i = 0; i < COMPANY - 1; i++) {
        out[i] = engine_greedy(text + 5 * i, lengths[i], 6 * ANSWER_TOKENS - 5 * i, 0);
        out[i].ignore_eos = 1;
    }
    return COMPANY - 1;
}

/* Each question among seven others. */
static void ask_in_company(struct engine *e, const char *variant)
{
    for (int q = 0; q < QUESTIONS; q++) {
        struct sl_submit requests[COMPANY];
        struct engine_answer answers[COMPANY];
        char what[128];
        int n = make_company(requests), at = q % COMPANY;
        requests[n] = requests[at];
        requests[at] = questions[q];
        engine_ask(e, requests, COMPANY, answers);
        snprintf(what, sizeof what, "%s: %s among %d", variant, names[q], COMPANY);
        engine_assert_same(&expected[q], &answers[at], what);
        for (int i = 0; i < COMPANY; i++) engine_answer_close(&answers[i]);
    }
}

static void test_company(void **state)
{
    (void)state;
    struct engine_setup setup = {.session = {.model = model, .stages = 2, .sequences = COMPANY}};
    struct engine *e = engine_open(&setup);
    ask_in_company(e, "company");
    engine_close(e);
}

/* ---- a cache too small for all --------------------------------------------------------------- */

/* A cluster whose only stage has hardly more cache than its longest sequence needs: the limit grows
 * from the weights alone, eight blocks at a time, until the plan is content. */
static struct engine *open_short_of_memory(void)
{
    struct engine_setup setup = {
        .session = {.model = model, .context = SHORT_CONTEXT, .sequences = COMPANY}};
    struct engine *e = engine_open(&setup);
    struct sl_stage_status stage;
    struct sl_coord_status status;
    struct sl_err err = {0};
    char memory[32];
    sl_service_get_status(e->session.service, &status);
    assert_int_equal(sl_service_stages(e->session.service, &stage, 1), 1);
    uint64_t step = 8 * stage.kv_bytes / (uint64_t)status.blocks_total, bytes = stage.weight_bytes;
    engine_close(e);
    setup.session.chunk = 64;
    setup.session.memory = memory;
    for (e = NULL; !e;) {
        bytes += step;
        snprintf(memory, sizeof memory, "%llu", (unsigned long long)bytes);
        e = engine_try_open(&setup, &err);
        if (!e) assert_int_equal(err.code, SL_ELIMIT);
    }
    return e;
}

static void test_preemption(void **state)
{
    (void)state;
    struct engine *e = open_short_of_memory();
    struct sl_coord_status status;
    ask_in_company(e, "short of memory");
    sl_service_get_status(e->session.service, &status);
    print_message("%d blocks, %llu preemptions\n", status.blocks_total,
                  (unsigned long long)status.preemptions);
    assert_true(status.preemptions > 0);
    engine_close(e);
}

/* ---- chance ---------------------------------------------------------------------------------- */

static int same_ids(const struct engine_answer *a, const struct engine_answer *b)
{
    if (a->n_tokens != b->n_tokens) return 0;
    for (int i = 0; i < a->n_tokens; i++)
        if (a->tokens[i].id != b->tokens[i].id) return 0;
    return 1;
}

/* Alternatives are sorted, are a part of a distribution, and agree with the token's own figure. */
static void check_logprobs(const struct engine_answer *a)
{
    for (int i = 0; i < a->n_tokens; i++) {
        const struct engine_token *t = &a->tokens[i];
        double mass = 0;
        assert_int_equal(t->n_top, TOP);
        assert_true(t->logprob <= 0);
        for (int k = 0; k < t->n_top; k++) {
            mass += exp((double)t->top[k].logprob);
            assert_true(k == 0 || t->top[k].logprob <= t->top[k - 1].logprob);
            if (t->top[k].token == t->id) assert_float_equal(t->top[k].logprob, t->logprob, 0);
        }
        assert_true(mass <= 1 + 1e-4);
        assert_true(t->logprob <= t->top[0].logprob);
    }
}

static void test_chance(void **state)
{
    (void)state;
    struct sl_submit requests[COMPANY];
    struct engine_answer answers[COMPANY];
    struct engine_setup setup = {.session = {.model = model, .stages = 2}};
    struct engine *e = engine_open(&setup);
    for (int i = 0; i < COMPANY; i++)
        requests[i] = sampled(11, 33, (uint64_t)(42 + i / 2)); /* pairs with one seed */
    engine_ask(e, requests, COMPANY, answers);
    engine_assert_same(&expected[ASK_SAMPLED], &answers[0], "seed 42");
    for (int i = 0; i < COMPANY; i += 2) {
        engine_assert_same(&answers[i], &answers[i + 1], "one seed");
        for (int k = 0; k < i; k += 2) assert_false(same_ids(&answers[i], &answers[k]));
        check_logprobs(&answers[i]);
    }
    for (int i = 0; i < COMPANY; i++) engine_answer_close(&answers[i]);
    for (int i = ASK_GREEDY_SHORT; i < ASK_PENALTIES; i++) check_logprobs(&expected[i]);
    engine_close(e);
}

/* Log-probabilities of scoring and of sampling agree with the logits. */
static void test_scores(void **state)
{
    (void)state;
    struct sl_submit req = {.tokens = text, .n_tokens = LOGIT_TOKENS, .score = 1};
    struct engine_answer scores;
    struct engine_setup setup = {.session = {.model = model, .stages = 2}};
    sl_sampling_default(&req.sampling);
    struct engine *e = engine_open(&setup);
    engine_ask(e, &req, 1, &scores);
    engine_close(e);
    const struct engine_answer *logits = &expected[ASK_LOGITS];
    assert_int_equal(scores.n_scored, LOGIT_TOKENS - 1); /* nothing follows the last */
    for (int t = 0; t < LOGIT_TOKENS - 1; t++) {
        const float *x = logits->scored + (size_t)t * (size_t)logits->n_vocab;
        double sum = 0;
        for (int i = 0; i < logits->n_vocab; i++) sum += exp((double)x[i]);
        assert_float_equal(scores.scored[t], (float)((double)x[text[t + 1]] - log(sum)), 1e-4);
    }
    engine_answer_close(&scores);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_local),   cmocka_unit_test(test_shared_memory),
        cmocka_unit_test(test_tcp),     cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_threads), cmocka_unit_test(test_micro_batches),
        cmocka_unit_test(test_company), cmocka_unit_test(test_preemption),
        cmocka_unit_test(test_chance),  cmocka_unit_test(test_scores),
    };
    int tiny = argc > 1 && strcmp(argv[1], "tiny") == 0;
    model = tiny ? engine_data("models/gguf/llama-Q4_K_M.gguf") : engine_smollm2();
    if (!model) {
        printf("skipped: no model\n");
        return SKIPPED;
    }
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
