/* test_overlap.c - the stages work at the same time: from their own records of when they computed
 * which micro-batch.
 *
 * Eight requests decode through two and through three stages. No wall time is judged: only whether
 * intervals of different stages overlap and whether all stages saw the same micro-batches in the
 * same order. A busy machine stretches intervals but does not separate them, since a pipeline that
 * is kept full always has a micro-batch for every stage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/sl_assert.h"
#include "tests/lib/engine.h"

#define SKIPPED 77
#define REQUESTS 8
#define ANSWER_TOKENS 128
#define RECORDS_MAX 4096
#define STAGES_MAX 3

static struct sl_ctl_step records[STAGES_MAX][RECORDS_MAX];
static int n_records[STAGES_MAX];

/* ---- recording ------------------------------------------------------------------------------- */

static void record(const struct engine_setup *setup)
{
    static const int32_t prompt[] = {504, 3575, 282, 4649, 314, 504, 2988, 314, 216, 34};
    struct sl_submit requests[REQUESTS];
    struct engine_answer answers[REQUESTS];
    struct engine *e = engine_open(setup);
    for (int i = 0; i < REQUESTS; i++) {
        requests[i] = engine_greedy(prompt, 3 + i, ANSWER_TOKENS, 0);
        requests[i].ignore_eos = 1;
    }
    engine_ask(e, requests, REQUESTS, answers);
    sl_session_settle(&e->session); /* records come with the heartbeat */
    for (int s = 0; s < setup->session.stages; s++)
        n_records[s] = sl_service_timeline(e->session.service, s, records[s], RECORDS_MAX);
    for (int i = 0; i < REQUESTS; i++) {
        assert_int_equal(answers[i].n_tokens, ANSWER_TOKENS);
        engine_answer_close(&answers[i]);
    }
    engine_close(e);
}

/* ---- judging --------------------------------------------------------------------------------- */

/* Every stage ran every micro-batch once, in one order, one at a time, and none before the stage
 * ahead of it had ended. */
static void check_order(int n_stages)
{
    assert_true(n_records[0] >= ANSWER_TOKENS);
    for (int s = 0; s < n_stages; s++) {
        assert_int_equal(n_records[s], n_records[0]);
        for (int i = 0; i < n_records[s]; i++) {
            const struct sl_ctl_step *r = &records[s][i];
            assert_int_equal(r->slot, records[0][i].slot);
            assert_int_equal(r->rows, records[0][i].rows);
            assert_true(r->start_ns < r->end_ns && r->recv_ns <= r->start_ns);
            assert_true(i == 0 || (r[-1].slot < r->slot && r[-1].end_ns <= r->start_ns));
            assert_true(s == 0 || records[s - 1][i].end_ns <= r->start_ns);
        }
    }
}

static int overlaps(const struct sl_ctl_step *a, const struct sl_ctl_step *b)
{
    return a->start_ns < b->end_ns && b->start_ns < a->end_ns;
}

/* The steady state: every request decodes, so the first fifth (prompts) and the last fifth (the
 * first answers end) do not count. */
static int steady_from(void)
{
    return n_records[0] / 5;
}

static int steady_to(void)
{
    return n_records[0] - n_records[0] / 5;
}

/* Whether a step of stage a overlaps a step of stage b on another micro-batch. */
static int overlaps_stage(int a, int i, int b)
{
    for (int k = 0; k < n_records[b]; k++)
        if (records[a][i].slot != records[b][k].slot && overlaps(&records[a][i], &records[b][k]))
            return 1;
    return 0;
}

/* How many steps of stage a overlap one of stage b. */
static int pair_hits(int a, int b)
{
    int hits = 0;
    for (int i = steady_from(); i < steady_to(); i++) hits += overlaps_stage(a, i, b);
    return hits;
}

/* The share of stage a's steps during which some other stage has another micro-batch in its hands.
 * In a full pipeline the slowest stage never waits, so it is busy during every step of the others,
 * and they work for it during its own. */
static double accompanied_share(int a, int n_stages)
{
    int hits = 0;
    for (int i = steady_from(); i < steady_to(); i++) {
        int hit = 0;
        for (int b = 0; b < n_stages && !hit; b++) hit = b != a && overlaps_stage(a, i, b);
        hits += hit;
    }
    return (double)hits / (steady_to() - steady_from());
}

/* How many stages compute at `ns`. */
static int busy_at(int n_stages, uint64_t ns)
{
    int busy = 0;
    for (int s = 0; s < n_stages; s++)
        for (int k = 0; k < n_records[s]; k++)
            busy += records[s][k].start_ns <= ns && ns < records[s][k].end_ns;
    return busy;
}

/* The share of the starts of steps, on any stage, at which all stages are computing: they become n
 * at a start. */
static double all_busy_share(int n_stages)
{
    int all = 0, n = 0;
    for (int s = 0; s < n_stages; s++)
        for (int i = steady_from(); i < steady_to(); i++, n++)
            all += busy_at(n_stages, records[s][i].start_ns) == n_stages;
    return (double)all / n;
}

/* The share of the steady time in which stage s computes. */
static double busy_share(int s)
{
    uint64_t from = records[s][steady_from()].start_ns, to = records[s][steady_to() - 1].end_ns,
             busy = 0;
    for (int i = steady_from(); i < steady_to(); i++)
        busy += records[s][i].end_ns - records[s][i].start_ns;
    return (double)busy / (double)(to - from);
}

static void judge(int n_stages, const char *what)
{
    check_order(n_stages);
    print_message("%s: %d micro-batches; all stages computing at %.0f %% of starts;", what,
                  n_records[0], 100 * all_busy_share(n_stages));
    for (int s = 0; s < n_stages; s++)
        print_message(" stage %d accompanied %.0f %% busy %.0f %%%s", s,
                      100 * accompanied_share(s, n_stages), 100 * busy_share(s),
                      s + 1 < n_stages ? "," : "\n");
    for (int a = 0; a < n_stages; a++) {
        assert_true(accompanied_share(a, n_stages) >= 0.5);
        for (int b = 0; b < n_stages; b++) assert_true(a == b || pair_hits(a, b) > 0);
    }
    assert_true(all_busy_share(n_stages) > 0);
}

/* ---- clusters -------------------------------------------------------------------------------- */

static const char *model;

static void run(int stages, int processes, const char *transports, const char *what)
{
    struct engine_setup setup = {
        .session = {.model = model, .stages = stages, .context = 512, .sequences = REQUESTS},
        .processes = processes,
        .transports = transports};
    record(&setup);
    judge(stages, what);
}

static void test_two_threads(void **state)
{
    (void)state;
    run(2, 0, NULL, "two stages in one process");
}

static void test_three_threads(void **state)
{
    (void)state;
    run(3, 0, NULL, "three stages in one process");
}

static void test_three_processes(void **state)
{
    (void)state;
    run(3, 1, "ucx-shm", "three processes");
}

/* One micro-batch at a time cannot overlap: the judge must see that, or its verdict above means
 * nothing. */
static void test_no_overlap(void **state)
{
    (void)state;
    struct engine_setup setup = {.session = {.model = model,
                                             .stages = 3,
                                             .context = 512,
                                             .sequences = REQUESTS,
                                             .micro_batches = 1}};
    record(&setup);
    check_order(3);
    for (int a = 0; a < 3; a++)
        for (int b = 0; b < 3; b++) assert_true(a == b || pair_hits(a, b) == 0);
    assert_true(all_busy_share(3) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_threads),
        cmocka_unit_test(test_three_threads),
        cmocka_unit_test(test_three_processes),
        cmocka_unit_test(test_no_overlap),
    };
    model = engine_smollm2();
    if (!model) {
        printf("skipped: no model\n");
        return SKIPPED;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
