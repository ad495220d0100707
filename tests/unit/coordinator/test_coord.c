/* test_coord.c - sl_coord_step by hand: start, deaths, refusals, draining; and what a whole step
 * costs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "coordinator/coord.h"
#include "tests/unit/coordinator/toy.h"

#define MS 1000000ull

static uint64_t layer_bytes[] = {1000, 1000, 1000, 1000};
static const char *const names[] = {"alpha/0", "alpha/1", "beta/0"};
static struct sl_plan_device hints[3];
static unsigned char restartable[3];
static struct sl_coord *C;
static struct sl_effects fx;
static uint64_t now;

static void open_coord(int n_devices, int n_layers, int sequences, int queue)
{
    for (int i = 0; i < 3; i++) {
        hints[i] = (struct sl_plan_device){.layer_from = -1, .layer_to = -1};
        restartable[i] = 1;
    }
    struct sl_coord_params p = {
        .model = {.n_layers = n_layers, .layer_bytes = layer_bytes, .kv_bytes_per_token = 1},
        .n_vocab = TOY_VOCAB,
        .n_devices = n_devices,
        .names = names,
        .hints = hints,
        .restartable = restartable,
        .load = {.context = 2048, .sequences = sequences, .block_tokens = 16, .max_rows = 1024},
        .queue_max = queue,
        .tokenizer = toy_tokenizer(),
    };
    now = 0;
    assert_int_equal(sl_coord_create(&p, &C, NULL), 0);
}

static void step(struct sl_event e)
{
    e.now_ns = now;
    sl_coord_step(C, &e, &fx);
    sl_coord_audit(C);
}

static void tick(uint64_t at_ns)
{
    now = at_ns;
    step((struct sl_event){.kind = SL_EV_TICK});
}

static void joined(int device)
{
    step((struct sl_event){.kind = SL_EV_JOINED, .device = device, .joined = {1u << 24, 1000}});
}

static void ready(int device, uint32_t n_blocks)
{
    step((struct sl_event){.kind = SL_EV_READY, .device = device, .ready = {n_blocks}});
}

static void wired(int device, uint32_t epoch)
{
    step((struct sl_event){.kind = SL_EV_WIRED, .device = device, .wired = {epoch}});
}

static void down(int device)
{
    step((struct sl_event){.kind = SL_EV_DOWN, .device = device, .down = {"killed by signal 9"}});
}

static void submit(uint64_t id, int n_tokens, int max_tokens)
{
    static const int32_t tokens[2048];
    struct sl_submit s = {.id = id,
                          .tokens = tokens,
                          .n_tokens = n_tokens,
                          .max_tokens = max_tokens,
                          .ignore_eos = 1};
    sl_sampling_default(&s.sampling);
    step((struct sl_event){.kind = SL_EV_SUBMIT, .submit = &s});
}

/* The effects of the last step, in words. */
static const char *effects(void)
{
    static const char *const kinds[] = {"launch",  "load",   "wire",    "batch",
                                        "token",   "scored", "done",    "fail",
                                        "serving", "broken", "drained", "stalled"};
    static char text[1024];
    text[0] = 0;
    for (size_t i = 0; i < fx.len; i++) {
        char one[64];
        const struct sl_effect *e = &fx.v[i];
        if (e->id)
            snprintf(one, sizeof one, "%s#%llu ", kinds[e->kind], (unsigned long long)e->id);
        else if (e->device >= 0)
            snprintf(one, sizeof one, "%s@%d ", kinds[e->kind], e->device);
        else
            snprintf(one, sizeof one, "%s ", kinds[e->kind]);
        strcat(text, one);
    }
    return text;
}

/* As the service does: a tick every now and then. */
static void ticks_until(uint64_t at_ns)
{
    while (at_ns - now > 1000 * MS) {
        tick(now + 1000 * MS);
        assert_string_equal(effects(), "");
    }
    tick(at_ns);
}

static struct sl_coord_status status(void)
{
    struct sl_coord_status st;
    sl_coord_get_status(C, now, &st);
    return st;
}

static void serve(int n_devices, uint32_t n_blocks)
{
    tick(0);
    for (int i = 0; i < n_devices; i++) joined(i);
    for (int i = 0; i < n_devices; i++) ready(i, n_blocks);
    for (int i = 0; i < n_devices; i++) wired(i, 1);
    assert_true(status().serving);
}

static void test_start(void **state)
{
    (void)state;
    open_coord(3, 2, 4, 8);
    tick(0);
    assert_string_equal(effects(), "launch@0 launch@1 launch@2 ");
    joined(2);
    joined(0);
    assert_string_equal(effects(), "");
    assert_null(sl_coord_plan(C));
    submit(7, 4, 4); /* before there is a pipeline: it waits */
    assert_string_equal(effects(), "");
    joined(1);
    assert_string_equal(effects(), "load@0 load@1 "); /* two layers, three devices */
    assert_true(fx.v[1].load.stage == 1 && fx.v[1].load.n_stages == 2 &&
                fx.v[1].load.layer_from == 1 && fx.v[1].load.layer_to == 2);
    assert_int_equal(status().members[2], SL_MEMBER_LEFT_OUT);
    ready(1, 200);
    ready(0, 300);
    assert_string_equal(effects(), "wire ");
    assert_int_equal(fx.v[0].wire.epoch, 1);
    wired(0, 1);
    wired(1, 1);
    assert_string_equal(effects(), "serving batch@0 ");
    assert_int_equal(status().blocks_total, 200); /* the poorest decides */
    assert_int_equal(fx.v[1].batch.batch->seqs[0].flags, SL_SEQ_REGISTER | SL_SEQ_SAMPLE);
    sl_coord_destroy(C);
}

static void test_death(void **state)
{
    (void)state;
    open_coord(2, 4, 1, 8);
    serve(2, 500);
    submit(1, 4, 4);
    assert_string_equal(effects(), "batch@0 ");
    submit(2, 4, 4);
    now = 1000 * MS;
    down(1);
    assert_string_equal(effects(),
                        "broken@1 fail#1 "); /* the running one; the waiting one waits on */
    assert_int_equal(fx.v[1].fail.code, SL_ERETRY);
    assert_non_null(strstr(fx.v[1].fail.message, "alpha/1"));
    assert_non_null(strstr(fx.v[1].fail.message, "signal 9"));
    down(1);
    assert_string_equal(effects(), ""); /* told twice */
    struct sl_sampled sampled = {.seq = 0, .pos = 4, .token = 7};
    struct sl_results results = {.n_sampled = 1, .sampled = &sampled};
    struct sl_event late = {.kind = SL_EV_RESULTS, .results = {1, 1, &results}};
    step(late);
    assert_string_equal(effects(), "");
    tick(1050 * MS);
    assert_string_equal(effects(), ""); /* a pause first */
    tick(1100 * MS);
    assert_string_equal(effects(), "launch@1 ");
    joined(1);
    assert_string_equal(effects(), "load@1 ");
    ready(1, 500);
    assert_string_equal(effects(), "wire ");
    assert_int_equal(fx.v[0].wire.epoch, 2);
    wired(0, 1); /* of the old epoch */
    wired(0, 2);
    wired(1, 2);
    assert_string_equal(effects(), "serving batch@0 ");
    assert_int_equal(fx.v[1].batch.epoch, 2);
    late.results.slot = fx.v[1].batch.slot;
    step(late);
    assert_string_equal(effects(), ""); /* right number, wrong epoch */
    late.results.epoch = 2;
    step(late);
    assert_string_equal(effects(), "token#2 batch@0 ");
    assert_int_equal(status().restarts[1], 1);
    sl_coord_destroy(C);
}

static void test_given_up(void **state)
{
    (void)state;
    open_coord(2, 4, 1, 8);
    serve(2, 500);
    for (int i = 1; i <= SL_RESTARTS_MAX; i++) {
        now += 1;
        down(0);
        tick(now + ((100 * MS) << (i - 1)) - 1);
        assert_string_equal(effects(), "");
        tick(now + 1);
        assert_string_equal(effects(), "launch@0 ");
    }
    submit(5, 4, 4);
    down(0);
    assert_string_equal(effects(), "fail#5 fail ");
    assert_non_null(strstr(fx.v[1].fail.message, "alpha/0 died 6 times"));
    assert_true(status().failed);
    submit(6, 4, 4);
    assert_string_equal(effects(), "fail#6 ");
    assert_int_equal(fx.v[0].fail.code, SL_ERETRY);
    sl_coord_destroy(C);
}

/* An external stage is waited for, however often it leaves. */
static void test_external(void **state)
{
    (void)state;
    open_coord(2, 4, 1, 8);
    restartable[1] = 0;
    serve(2, 500);
    for (uint32_t i = 0; i < 10; i++) {
        down(1);
        tick(now + 100 * MS);
        assert_string_equal(effects(), "");
        joined(1);
        assert_string_equal(effects(), "load@1 ");
        ready(1, 500);
        wired(0, i + 2);
        wired(1, i + 2);
        assert_string_equal(effects(), "serving ");
    }
    sl_coord_destroy(C);
}

static void test_refusals(void **state)
{
    (void)state;
    open_coord(1, 4, 2, 1);
    submit(1, 10, 2000); /* the size of the cache is not known yet */
    serve(1, 20);
    assert_string_equal(effects(), "serving fail#1 ");
    assert_int_equal(fx.v[1].fail.code, SL_ELIMIT);
    submit(2, 10, 2000);
    assert_int_equal(fx.v[0].fail.code, SL_ELIMIT);
    assert_non_null(strstr(fx.v[0].fail.message, "126 KV blocks"));
    submit(3, 2048, 0);
    assert_int_equal(fx.v[0].fail.code, SL_ELIMIT);
    submit(4, 10, 10);
    submit(5, 10, 10);
    submit(6, 10, 10);
    assert_string_equal(effects(), "");
    submit(7, 10, 10);
    assert_string_equal(effects(), "fail#7 ");
    assert_int_equal(fx.v[0].fail.code, SL_EBUSY);
    step((struct sl_event){.kind = SL_EV_CANCEL, .cancel_id = 5});
    assert_string_equal(effects(), "");
    step((struct sl_event){.kind = SL_EV_DRAIN});
    assert_string_equal(effects(), "");
    submit(8, 10, 10);
    assert_int_equal(fx.v[0].fail.code, SL_ERETRY);
    step((struct sl_event){.kind = SL_EV_CANCEL, .cancel_id = 4});
    step((struct sl_event){.kind = SL_EV_CANCEL, .cancel_id = 4});
    step((struct sl_event){.kind = SL_EV_CANCEL, .cancel_id = 6});
    assert_string_equal(effects(), "drained ");
    tick(now);
    assert_string_equal(effects(), "");
    struct sl_coord_status st = status();
    assert_true(st.cancelled == 3 && st.refused == 4 && st.failed_requests == 1 &&
                st.blocks_free == 20);
    sl_coord_destroy(C);
}

static void test_no_plan(void **state)
{
    (void)state;
    open_coord(1, 4, 2, 1);
    tick(0);
    step((struct sl_event){.kind = SL_EV_JOINED, .device = 0, .joined = {3000, 1000}});
    assert_string_equal(effects(), "fail ");
    assert_int_equal(fx.v[0].fail.code, SL_ELIMIT);
    assert_true(status().failed);
    sl_coord_destroy(C);
}

/* A last stage that answers nonsense fails the request it concerns and nothing else. */
static void test_bad_answers(void **state)
{
    (void)state;
    open_coord(1, 4, 2, 1);
    serve(1, 500);
    submit(1, 4, 4);
    struct sl_sampled sampled = {.seq = 0, .pos = 4, .token = TOY_VOCAB};
    struct sl_results results = {.n_sampled = 1, .sampled = &sampled};
    step((struct sl_event){.kind = SL_EV_RESULTS, .results = {1, 1, &results}});
    assert_string_equal(effects(), "fail#1 ");
    assert_int_equal(fx.v[0].fail.code, SL_EPROTO);
    submit(2, 4, 4);
    results.n_sampled = 0;
    step((struct sl_event){.kind = SL_EV_RESULTS, .results = {1, 2, &results}});
    assert_string_equal(effects(), "fail#2 ");
    sampled.seq = 4000000000u; /* not one of ours: not looked at */
    results.n_sampled = 1;
    submit(3, 4, 4);
    step((struct sl_event){.kind = SL_EV_RESULTS, .results = {1, 3, &results}});
    assert_string_equal(effects(), "fail#3 ");
    assert_int_equal(status().blocks_free, status().blocks_total);
    sl_coord_destroy(C);
}

/* A stage that lives and never answers: overdue after SL_STALL_NS, or later where micro-batches
 * have been slow; told with every tick until a stage is declared down. */
static void test_stall(void **state)
{
    (void)state;
    open_coord(2, 4, 1, 8);
    serve(2, 500);
    ticks_until(3 * SL_STALL_NS);
    assert_string_equal(effects(), ""); /* nothing is on its way */
    uint64_t sent = now;
    submit(1, 4, 3);
    assert_string_equal(effects(), "batch@0 ");
    uint64_t slot = fx.v[0].batch.slot;
    ticks_until(sent + SL_STALL_NS);
    assert_string_equal(effects(), "");
    now = sent + SL_STALL_NS; /* late, yet it comes */
    struct sl_sampled sampled = {.seq = 0, .pos = 4, .token = 7};
    struct sl_results results = {.n_sampled = 1, .sampled = &sampled};
    step((struct sl_event){.kind = SL_EV_RESULTS, .results = {1, slot, &results}});
    assert_string_equal(effects(), "token#1 batch@0 ");
    slot = fx.v[1].batch.slot;
    sent = now;
    uint64_t limit = SL_STALL_LONGEST * SL_STALL_NS; /* this pipeline is slow, we have seen */
    ticks_until(sent + limit);
    assert_string_equal(effects(), "");
    for (int i = 0; i < 2; i++) {
        tick(sent + limit + 1);
        assert_string_equal(effects(), "stalled ");
        assert_true(fx.v[0].stalled.slot == slot && fx.v[0].stalled.epoch == 1 &&
                    fx.v[0].stalled.age_ns == limit + 1);
    }
    down(1);
    assert_string_equal(effects(), "broken@1 fail#1 ");
    tick(now + 50 * MS);
    assert_string_equal(effects(), "");
    sl_coord_destroy(C);
}

/* A coordinator that was stopped has not read what came in the meantime. */
static void test_sleep_is_no_stall(void **state)
{
    (void)state;
    open_coord(2, 4, 1, 8);
    serve(2, 500);
    submit(1, 4, 3);
    ticks_until(2000 * MS);
    tick(10 * SL_STALL_NS);
    assert_string_equal(effects(), "");
    ticks_until(11 * SL_STALL_NS);
    assert_string_equal(effects(), "");
    tick(now + MS);
    assert_string_equal(effects(), "stalled ");
    sl_coord_destroy(C);
}

/* The plan says how slow the devices are: what a large model takes is not taken for a hang. */
static void test_slow_is_no_stall(void **state)
{
    (void)state;
    open_coord(1, 4, 1, 8);
    hints[0].bandwidth = 4000 / 1e3; /* the weights take 1000 s to read */
    serve(1, 500);
    submit(1, 4, 3);
    double step_ns = sl_coord_plan(C)->stages[0].step_ns;
    assert_true(step_ns * 4 > (double)SL_STALL_NS);
    ticks_until((uint64_t)(step_ns * 4));
    assert_string_equal(effects(), "");
    tick((uint64_t)(step_ns * 4) + MS);
    assert_string_equal(effects(), "stalled ");
    sl_coord_destroy(C);
}

/* Results of one of two micro-batches of 256 running sequences in, the next micro-batch out.
 * Printed, not judged. */
#define STEPS 2000
static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void measure_step(void **state)
{
    (void)state;
    open_coord(2, 4, 256, 8);
    serve(2, 100000);
    static struct sl_sampled sampled[256];
    struct {
        uint64_t slot;
        int n;
        uint32_t seq[256];
        int pos[256];
    } flight[2] = {{0}};
    int n_flights = 0, steps = 0;
    static uint64_t times[STEPS];
    uint64_t rows = 0;
    for (uint64_t id = 1; id <= 256 || steps < STEPS;) {
        struct sl_results results = {.sampled = sampled};
        uint64_t from = sl_env_now_ns();
        if (id <= 256) {
            submit(id++, 100, 1900);
        } else {
            for (int i = 0; i < flight[0].n; i++)
                sampled[results.n_sampled++] =
                    (struct sl_sampled){.seq = flight[0].seq[i],
                                        .pos = flight[0].pos[i],
                                        .token = 6 + (int)(now + (uint64_t)i) % 18};
            struct sl_event e = {
                .kind = SL_EV_RESULTS, .now_ns = ++now, .results = {1, flight[0].slot, &results}};
            flight[0] = flight[1];
            n_flights--;
            from = sl_env_now_ns();
            sl_coord_step(C, &e, &fx);
        }
        uint64_t t = sl_env_now_ns() - from;
        for (size_t i = 0; i < fx.len; i++) {
            const struct sl_effect *e = &fx.v[i];
            assert_true(e->kind == SL_FX_TOKEN || e->kind == SL_FX_BATCH);
            if (e->kind != SL_FX_BATCH) continue;
            const struct sl_batch *b = e->batch.batch;
            assert_true(n_flights < 2);
            flight[n_flights].slot = e->batch.slot;
            flight[n_flights].n = 0;
            for (int k = 0; k < b->n_seqs; k++) {
                if (!(b->seqs[k].flags & SL_SEQ_SAMPLE)) continue;
                flight[n_flights].pos[flight[n_flights].n] = b->seqs[k].pos + b->seqs[k].n_tokens;
                flight[n_flights].seq[flight[n_flights].n++] = b->seqs[k].seq;
            }
            n_flights++;
        }
        if (id <= 256 || status().generated_tokens < 256 * 20) continue;
        times[steps++] = t;
        rows += (uint64_t)results.n_sampled;
    }
    qsort(times, STEPS, sizeof *times, by_value);
    printf("one step, 256 sequences running in 2 micro-batches, %.0f tokens in and rows out: "
           "median %.1f us, 90 %% %.1f us\n",
           (double)rows / STEPS, (double)times[STEPS / 2] / 1e3,
           (double)times[STEPS * 9 / 10] / 1e3);
    sl_coord_destroy(C);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start),
        cmocka_unit_test(test_death),
        cmocka_unit_test(test_given_up),
        cmocka_unit_test(test_external),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_no_plan),
        cmocka_unit_test(test_bad_answers),
        cmocka_unit_test(test_stall),
        cmocka_unit_test(test_slow_is_no_stall),
        cmocka_unit_test(test_sleep_is_no_stall),
        cmocka_unit_test(measure_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
