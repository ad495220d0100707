/* pool.c - the backend's threads: run one function on all of them, thousands of times a second.
 *
 * A model step is some three hundred short jobs, so a job may cost a microsecond to start, not
 * fifty: workers spin for SL_POOL_SPIN_NS after a job in the hope of the next one. The process's
 * loop thread may share their cores, so the spinning is bounded by the clock and ends in a futex
 * wait. Every wait here has the same shape: "until this word leaves that value", see wait_change();
 * whoever changes a word wakes sleepers only when there are some.
 *
 * Failures: a thread that cannot be made or pinned fails sl_pool_create; afterwards nothing can
 * fail. */
#include "kernels/cpu/cpu.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <hwloc.h>

#include "base/env.h"
#include "base/sl_assert.h"

#define SPIN_CHECK 64 /* pauses between two looks at the clock */
#define CACHE_LINE 64 /* bytes */
#define POOL_THREADS_MAX 1024

/* A word that threads wait on. */
struct gate {
    _Alignas(CACHE_LINE) atomic_uint word;
    atomic_int sleepers;
};

struct worker {
    struct sl_pool *pool;
    int index;
    pthread_t thread;
};

struct sl_pool {
    struct gate job;                         /* counts jobs: a change means there is one */
    struct gate done;                        /* counts finished jobs */
    struct gate barrier;                     /* counts passed barriers */
    _Alignas(CACHE_LINE) atomic_int pending; /* workers still in the job */
    _Alignas(CACHE_LINE) atomic_int arrived; /* threads at the barrier */
    sl_pool_fn fn;
    void *arg;
    int stop; /* read after a change of `job` */
    int n;
    struct worker *workers;    /* [n], number 0 unused */
    int started;               /* workers that run, besides the caller */
    hwloc_topology_t topology; /* NULL: unpinned */
    int *cpus;                 /* [n], NULL: unpinned */
};

static void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void gate_wait_change(struct gate *g, unsigned old)
{
    uint64_t until = 0;
    for (unsigned i = 1;; i++) {
        if (atomic_load_explicit(&g->word, memory_order_acquire) != old) return;
        cpu_relax();
        if (i % SPIN_CHECK) continue;
        uint64_t now = sl_env_now_ns();
        if (!until) until = now + SL_POOL_SPIN_NS;
        if (now >= until) break;
    }
    /* The sleeper is counted before the kernel compares the word, and gate_open changes the word
     * before it looks for sleepers: one of the two sees the other. */
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(&g->word) == old)
        syscall(SYS_futex, &g->word, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    atomic_fetch_sub(&g->sleepers, 1);
}

static void gate_open(struct gate *g)
{
    atomic_fetch_add(&g->word, 1);
    if (atomic_load(&g->sleepers) > 0)
        syscall(SYS_futex, &g->word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct sl_pool *p = w->pool;
    for (unsigned seen = 0;; seen++) {
        gate_wait_change(&p->job, seen);
        if (p->stop) return NULL;
        p->fn(p->arg, w->index, p->n);
        if (atomic_fetch_sub(&p->pending, 1) == 1) gate_open(&p->done);
    }
}

/* The CPU set of one logical CPU, NULL when memory is out. The caller frees it. */
static hwloc_bitmap_t cpu_set(int cpu)
{
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    if (set) hwloc_bitmap_only(set, (unsigned)cpu);
    return set;
}

static int pin_prepare(struct sl_pool *p, const int *cpus, struct sl_err *err)
{
    p->cpus = malloc(sizeof(int) * (size_t)p->n);
    if (!p->cpus) return sl_err_set(err, SL_ENOMEM, "threads: out of memory");
    memcpy(p->cpus, cpus, sizeof(int) * (size_t)p->n);
    if (hwloc_topology_init(&p->topology)) {
        p->topology = NULL;
        return sl_err_set(err, SL_ESYS, "threads: hwloc cannot start: %s", strerror(errno));
    }
    if (hwloc_topology_load(p->topology))
        return sl_err_set(err, SL_ESYS, "threads: hwloc cannot read this machine: %s",
                          strerror(errno));
    hwloc_const_cpuset_t allowed = hwloc_topology_get_allowed_cpuset(p->topology);
    for (int i = 0; i < p->n; i++) {
        if (cpus[i] >= 0 && hwloc_bitmap_isset(allowed, (unsigned)cpus[i])) continue;
        char have[128];
        hwloc_bitmap_list_snprintf(have, sizeof(have), allowed);
        return sl_err_set(err, SL_EINPUT,
                          "threads: CPU %d is not available to this process; choose from %s",
                          cpus[i], have);
    }
    return 0;
}

static int worker_start(struct sl_pool *p, int i, struct sl_err *err)
{
    p->workers[i] = (struct worker){.pool = p, .index = i};
    int rc = pthread_create(&p->workers[i].thread, NULL, worker_main, &p->workers[i]);
    if (rc)
        return sl_err_set(err, SL_ESYS, "threads: cannot start thread %d of %d: %s", i + 1, p->n,
                          strerror(rc));
    p->started++;
    if (!p->topology) return 0;
    hwloc_bitmap_t set = cpu_set(p->cpus[i]);
    if (!set) return sl_err_set(err, SL_ENOMEM, "threads: out of memory");
    rc = hwloc_set_thread_cpubind(p->topology, p->workers[i].thread, set, 0);
    hwloc_bitmap_free(set);
    if (rc)
        return sl_err_set(err, SL_ESYS, "threads: cannot pin a thread to CPU %d: %s", p->cpus[i],
                          strerror(errno));
    return 0;
}

/* Workers take no signals: those belong to the loop thread. */
static int workers_start(struct sl_pool *p, struct sl_err *err)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = 0;
    for (int i = 1; i < p->n && rc == 0; i++) rc = worker_start(p, i, err);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc;
}

int sl_pool_create(const int *cpus, int n_threads, struct sl_pool **out, struct sl_err *err)
{
    if (n_threads < 1 || n_threads > POOL_THREADS_MAX)
        return sl_err_set(err, SL_EINPUT, "threads: %d is not between 1 and %d", n_threads,
                          POOL_THREADS_MAX);
    struct sl_pool *p = aligned_alloc(CACHE_LINE, sizeof(*p));
    if (!p) return sl_err_set(err, SL_ENOMEM, "threads: out of memory");
    memset(p, 0, sizeof(*p));
    p->n = n_threads;
    int rc = 0;
    p->workers = calloc((size_t)n_threads, sizeof(*p->workers));
    if (!p->workers) rc = sl_err_set(err, SL_ENOMEM, "threads: out of memory");
    if (rc == 0 && cpus) rc = pin_prepare(p, cpus, err);
    if (rc == 0) rc = workers_start(p, err);
    if (rc) {
        sl_pool_destroy(p);
        return rc;
    }
    *out = p;
    return 0;
}

void sl_pool_destroy(struct sl_pool *p)
{
    if (!p) return;
    if (p->started) {
        p->stop = 1;
        gate_open(&p->job);
        for (int i = 1; i <= p->started; i++) pthread_join(p->workers[i].thread, NULL);
    }
    if (p->topology) hwloc_topology_destroy(p->topology);
    free(p->cpus);
    free(p->workers);
    free(p);
}

int sl_pool_size(const struct sl_pool *p)
{
    return p->n;
}

void sl_pool_enter(struct sl_pool *p)
{
    if (!p->topology) return;
    hwloc_bitmap_t set = cpu_set(p->cpus[0]);
    if (!set) return; /* unpinned is slower, not wrong */
    hwloc_set_cpubind(p->topology, set, HWLOC_CPUBIND_THREAD);
    hwloc_bitmap_free(set);
}

void sl_pool_run(struct sl_pool *p, sl_pool_fn fn, void *arg)
{
    if (p->n == 1) {
        fn(arg, 0, 1);
        return;
    }
    unsigned before = atomic_load_explicit(&p->done.word, memory_order_relaxed);
    p->fn = fn;
    p->arg = arg;
    atomic_store_explicit(&p->pending, p->n - 1, memory_order_relaxed);
    gate_open(&p->job);
    fn(arg, 0, p->n);
    gate_wait_change(&p->done, before);
}

void sl_pool_barrier(struct sl_pool *p, int thread)
{
    SL_ASSERT(thread >= 0 && thread < p->n);
    if (p->n == 1) return;
    unsigned before = atomic_load_explicit(&p->barrier.word, memory_order_acquire);
    if (atomic_fetch_add(&p->arrived, 1) + 1 < p->n) {
        gate_wait_change(&p->barrier, before);
        return;
    }
    atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
    gate_open(&p->barrier);
}

void sl_pool_share(int64_t n, int64_t grain, int thread, int n_threads, int64_t *from, int64_t *to)
{
    SL_ASSERT(grain > 0 && thread >= 0 && thread < n_threads);
    int64_t units = n > 0 ? (n + grain - 1) / grain : 0;
    int64_t each = units / n_threads, rest = units % n_threads;
    int64_t a = each * thread + SL_MIN(thread, rest), b = a + each + (thread < rest);
    *from = SL_MIN(a * grain, n);
    *to = SL_MIN(b * grain, n);
    if (n <= 0) *from = *to = 0;
}
