/* test_compute.c - the compute thread: order, limits, epochs, and its end at any moment.
 *
 * `wake` is called on the compute thread, so a wake that waits holds the thread where the test
 * wants it. */
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/sl_assert.h"
#include "stage/compute.h"
#include "stage/loop.h"
#include "tests/unit/stage/tiny.h"

static char path[TINY_PATH_MAX];

struct rig {
    struct sl_compute *c;
    sem_t woken, go;
    int hold; /* wakes that wait for `go`; compute thread only, once it runs */
};

static void wake(void *arg)
{
    struct rig *r = arg;
    sem_post(&r->woken);
    if (r->hold == 0) return;
    r->hold--;
    sem_wait(&r->go);
}

static void rig_open(struct rig *r, int hold)
{
    struct sl_backend_params p = {.kind = "ref", .n_threads = 1};
    struct sl_backend *b;
    struct sl_err e = {0};
    memset(r, 0, sizeof *r);
    sem_init(&r->woken, 0, 0);
    sem_init(&r->go, 0, 0);
    r->hold = hold;
    assert_int_equal(sl_backend_create(&p, &b, &e), 0);
    assert_int_equal(sl_compute_start(b, wake, r, &r->c, &e), 0);
}

static void rig_close(struct rig *r)
{
    sl_compute_stop(r->c);
    sem_destroy(&r->woken);
    sem_destroy(&r->go);
}

/* The next outcome that is no progress. */
static struct sl_outcome next(struct rig *r)
{
    struct sl_outcome o;
    for (;;) {
        while (!sl_compute_take(r->c, &o)) sem_wait(&r->woken);
        if (o.kind != SL_OUTCOME_PROGRESS) return o;
    }
}

static void load(struct rig *r)
{
    struct sl_stage_params p = tiny_params(path, 0, 1);
    assert_int_equal(sl_compute_load(r->c, &p), 0);
    struct sl_outcome o = next(r);
    assert_int_equal(o.kind, SL_OUTCOME_LOADED);
    assert_int_equal(o.info.n_blocks, 8);
}

static struct sl_frame *work(uint32_t epoch, uint64_t slot)
{
    struct sl_batch_seq share = tiny_share(0, SL_SEQ_SAMPLE, 3, 0, 1);
    struct sl_batch b = {.n_seqs = 1, .n_rows = 3, .seqs = &share};
    return tiny_frame(&b, epoch, slot);
}

static void test_steps(void **state)
{
    (void)state;
    struct rig r;
    struct sl_compute_stats st;
    struct sl_ctl_step steps[8];
    rig_open(&r, 0);
    load(&r);
    assert_int_equal(sl_compute_reset(r.c, 7, SL_F32), 0);
    for (uint64_t i = 1; i <= 3; i++) assert_int_equal(sl_compute_step(r.c, work(7, i)), 0);
    for (uint64_t i = 1; i <= 3; i++) {
        struct sl_outcome o = next(&r);
        assert_int_equal(o.kind, SL_OUTCOME_FRAME);
        assert_int_equal(o.frame->head.slot, i);
        assert_int_equal(o.frame->head.kind, SL_FRAME_RESULTS);
        sl_frame_free(o.frame);
    }
    sl_compute_get_stats(r.c, &st);
    assert_int_equal(st.steps, 3);
    assert_int_equal(st.rows, 9);
    assert_int_equal(st.queued, 0);
    assert_true(st.busy_ns > 0);
    assert_int_equal(sl_compute_take_steps(r.c, steps, 2), 2);
    assert_int_equal(steps[1].slot, 2);
    assert_int_equal(sl_compute_take_steps(r.c, steps, 8), 1);
    assert_int_equal(steps[0].slot, 3);
    rig_close(&r);
}

/* Frames of another epoch are dropped without an outcome, before and after the reset between them.
 */
static void test_epochs(void **state)
{
    (void)state;
    struct rig r;
    struct sl_compute_stats st;
    rig_open(&r, 0);
    load(&r);
    assert_int_equal(sl_compute_reset(r.c, 1, SL_F32), 0);
    assert_int_equal(sl_compute_step(r.c, work(2, 1)), 0);
    assert_int_equal(sl_compute_reset(r.c, 2, SL_F32), 0);
    assert_int_equal(sl_compute_step(r.c, work(1, 2)), 0);
    assert_int_equal(sl_compute_step(r.c, work(2, 3)), 0);
    struct sl_outcome o = next(&r);
    assert_int_equal(o.kind, SL_OUTCOME_FRAME);
    assert_int_equal(o.frame->head.slot, 3);
    sl_frame_free(o.frame);
    assert_int_equal(sl_compute_take(r.c, &o), 0);
    sl_compute_get_stats(r.c, &st);
    assert_int_equal(st.steps, 1);
    rig_close(&r);
}

static void test_full(void **state)
{
    (void)state;
    struct rig r;
    struct sl_compute_stats st;
    rig_open(&r, 1);
    struct sl_stage_params p = tiny_params("/nonexistent.gguf", 0, 1);
    assert_int_equal(sl_compute_load(r.c, &p), 0); /* fails, and then the thread waits in wake */
    sem_wait(&r.woken);
    for (int i = 0; i < SL_STAGE_QUEUE_MAX; i++)
        assert_int_equal(sl_compute_step(r.c, work(0, 1)), 0);
    assert_int_equal(sl_compute_step(r.c, work(0, 1)), SL_EBUSY); /* and the frame is freed */
    assert_int_equal(sl_compute_reset(r.c, 3, SL_F32), 0);                /* control still has room */
    sl_compute_get_stats(r.c, &st);
    assert_int_equal(st.queued, SL_STAGE_QUEUE_MAX);
    sem_post(&r.go);
    struct sl_outcome o = next(&r);
    assert_int_equal(o.kind, SL_OUTCOME_FAILED);
    assert_true(o.err.code < 0);
    rig_close(&r); /* drops what still waits; without a stage nothing could run */
}

static void test_bad_step(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, 0);
    load(&r);
    struct sl_batch_seq share = tiny_share(0, 0, 3, 0, 1);
    share.flags = SL_SEQ_SAMPLE; /* not registered */
    struct sl_batch b = {.n_seqs = 1, .n_rows = 3, .seqs = &share};
    assert_int_equal(sl_compute_step(r.c, tiny_frame(&b, 0, 1)), 0);
    struct sl_outcome o = next(&r);
    assert_int_equal(o.kind, SL_OUTCOME_FAILED);
    assert_int_equal(o.err.code, SL_EPROTO);
    rig_close(&r);
}

static void *stop(void *arg)
{
    sl_compute_stop(arg);
    return NULL;
}

/* Stopped while a load hangs in its first progress report, with more work queued behind it. */
static void test_stop_loading(void **state)
{
    (void)state;
    struct rig r;
    pthread_t t;
    rig_open(&r, 1);
    struct sl_stage_params p = tiny_params(path, 0, 1);
    assert_int_equal(sl_compute_load(r.c, &p), 0);
    sem_wait(&r.woken);
    assert_int_equal(sl_compute_load(r.c, &p), 0);
    assert_int_equal(sl_compute_step(r.c, work(0, 1)), 0);
    assert_int_equal(pthread_create(&t, NULL, stop, r.c), 0);
    sem_post(&r.go);
    pthread_join(t, NULL);
    sem_destroy(&r.woken);
    sem_destroy(&r.go);
}

static int setup(void **state)
{
    (void)state;
    tiny_write("llama", path);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    sl_frame_pool_trim();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps),        cmocka_unit_test(test_epochs),
        cmocka_unit_test(test_full),         cmocka_unit_test(test_bad_step),
        cmocka_unit_test(test_stop_loading),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
