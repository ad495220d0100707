/* test_pool.c - every thread runs every job once, barriers hold, sleeping threads wake, sharing
 * covers all. */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "kernels/cpu/cpu.h"

#define THREADS_MAX 8

struct count {
    atomic_int runs[THREADS_MAX];
    int plain; /* written before the run by the caller, inside by thread 0 only */
    int n;
    struct sl_pool *pool;
    atomic_int phase;
    atomic_int early;
};

static void count_job(void *arg, int thread, int n_threads)
{
    struct count *c = arg;
    if (n_threads != c->n) return;
    atomic_fetch_add(&c->runs[thread], c->plain);
}

static void each_thread_runs_each_job_once(void **state)
{
    (void)state;
    for (int n = 1; n <= THREADS_MAX; n++) {
        struct count c = {.n = n};
        assert_int_equal(sl_pool_create(NULL, n, &c.pool, NULL), 0);
        assert_int_equal(sl_pool_size(c.pool), n);
        sl_pool_enter(c.pool);
        for (int i = 1; i <= 300; i++) {
            c.plain = i; /* not atomic: the pool must order it (checked by the thread sanitizer) */
            sl_pool_run(c.pool, count_job, &c);
        }
        for (int t = 0; t < n; t++) assert_int_equal(atomic_load(&c.runs[t]), 300 * 301 / 2);
        sl_pool_destroy(c.pool);
    }
}

static void sleeping_workers_wake(void **state)
{
    (void)state;
    struct count c = {.n = 3};
    assert_int_equal(sl_pool_create(NULL, 3, &c.pool, NULL), 0);
    for (int i = 0; i < 5; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 20 * SL_POOL_SPIN_NS}, NULL);
        c.plain = 1;
        sl_pool_run(c.pool, count_job, &c);
    }
    for (int t = 0; t < 3; t++) assert_int_equal(atomic_load(&c.runs[t]), 5);
    sl_pool_destroy(c.pool);
}

/* Between barriers every thread adds one: behind the k-th barrier at least k * n must be there. */
static void barrier_job(void *arg, int thread, int n_threads)
{
    struct count *c = arg;
    for (int k = 1; k <= 200; k++) {
        atomic_fetch_add(&c->phase, 1);
        sl_pool_barrier(c->pool, thread);
        int seen = atomic_load(&c->phase);
        if (seen < k * n_threads || seen > (k + 1) * n_threads) atomic_fetch_add(&c->early, 1);
    }
}

static void barrier_waits_for_all(void **state)
{
    (void)state;
    for (int n = 1; n <= 4; n++) {
        struct count c = {.n = n};
        assert_int_equal(sl_pool_create(NULL, n, &c.pool, NULL), 0);
        sl_pool_run(c.pool, barrier_job, &c);
        assert_int_equal(atomic_load(&c.early), 0);
        assert_int_equal(atomic_load(&c.phase), 200 * n);
        sl_pool_destroy(c.pool);
    }
}

static void sharing_covers_everything_once(void **state)
{
    (void)state;
    static const int64_t sizes[] = {0, 1, 2, 7, 31, 64, 65, 1000};
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++)
        for (int64_t grain = 1; grain <= 64; grain *= 4)
            for (int n = 1; n <= 5; n++) {
                int64_t at = 0;
                for (int t = 0; t < n; t++) {
                    int64_t from, to;
                    sl_pool_share(sizes[s], grain, t, n, &from, &to);
                    assert_int_equal(from, at);
                    assert_true(to >= from && (from % grain == 0 || from == sizes[s]));
                    at = to;
                }
                assert_int_equal(at, sizes[s]);
            }
}

static void where_job(void *arg, int thread, int n_threads)
{
    (void)n_threads;
    atomic_store(&((atomic_int *)arg)[thread], sched_getcpu());
}

static void threads_are_pinned(void **state)
{
    (void)state;
    cpu_set_t before;
    sched_getaffinity(0, sizeof(before), &before);
    int cpus[2], n = 0;
    for (int i = 0; i < CPU_SETSIZE && n < 2; i++)
        if (CPU_ISSET(i, &before)) cpus[n++] = i;
    if (n < 2) cpus[1] = cpus[0];
    struct sl_pool *p;
    struct sl_err err;
    assert_int_equal(sl_pool_create(cpus, 2, &p, &err), 0);
    sl_pool_enter(p);
    atomic_int where[2];
    sl_pool_run(p, where_job, where);
    assert_int_equal(atomic_load(&where[0]), cpus[0]);
    assert_int_equal(atomic_load(&where[1]), cpus[1]);
    sl_pool_destroy(p);
    sched_setaffinity(0, sizeof(before), &before);
}

static void bad_arguments_are_refused(void **state)
{
    (void)state;
    struct sl_pool *p;
    struct sl_err err;
    assert_int_equal(sl_pool_create(NULL, 0, &p, &err), SL_EINPUT);
    int none[2] = {0, 100000};
    assert_int_equal(sl_pool_create(none, 2, &p, &err), SL_EINPUT);
    assert_non_null(strstr(err.msg, "CPU 100000 is not available"));
    sl_pool_destroy(NULL);
}

static void scratch_grows_and_is_aligned(void **state)
{
    (void)state;
    struct sl_scratch s = {0};
    for (size_t n = 1; n < 1 << 20; n = n * 3 + 1) {
        char *p = sl_scratch_get(&s, n);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        memset(p, 1, n);
        assert_ptr_equal(sl_scratch_get(&s, n / 2), p);
    }
    assert_null(sl_scratch_get(&s, SIZE_MAX));
    sl_scratch_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_thread_runs_each_job_once),
        cmocka_unit_test(sleeping_workers_wake),
        cmocka_unit_test(barrier_waits_for_all),
        cmocka_unit_test(sharing_covers_everything_once),
        cmocka_unit_test(threads_are_pinned),
        cmocka_unit_test(bad_arguments_are_refused),
        cmocka_unit_test(scratch_grows_and_is_aligned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
