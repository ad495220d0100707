/* compute.c - see compute.h. One mutex guards both queues; it is never held while the model
 * computes. */
#include "stage/compute.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "stage/loop.h"

enum job_kind { JOB_LOAD, JOB_STEP, JOB_RESET };

struct job {
    enum job_kind kind;
    struct sl_frame *frame;
    uint32_t epoch;
    enum sl_dtype send_as;
    struct sl_stage_params *load; /* owned, with its strings */
};

#define JOBS_MAX (SL_STAGE_QUEUE_MAX + 16) /* micro-batches, and a few loads and resets */
#define OUTCOMES_MAX (JOBS_MAX + 16)

struct sl_compute {
    struct sl_backend *b;
    struct sl_stage *stage;
    void (*wake)(void *arg);
    void *arg;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work, room;
    int stopping;
    uint32_t epoch; /* compute thread only */

    struct job jobs[JOBS_MAX];
    unsigned jobs_at, jobs_len;
    struct sl_outcome outcomes[OUTCOMES_MAX];
    unsigned outcomes_at, outcomes_len;
    struct sl_ctl_step steps[SL_CTL_STEPS_MAX];
    unsigned steps_at, steps_len;
    struct sl_compute_stats stats;
    _Atomic uint64_t layers; /* counted without the lock: once a layer */
};

static void free_load(struct sl_stage_params *p)
{
    if (!p) return;
    free((char *)(uintptr_t)p->model);
    free((char *)(uintptr_t)p->kv_type);
    for (int i = 0; p->adapters && i < p->n_adapters; i++) free((char *)(uintptr_t)p->adapters[i]);
    free((void *)(uintptr_t)p->adapters);
    free(p);
}

static void drop_job(struct job *j)
{
    sl_frame_free(j->frame);
    free_load(j->load);
}

void sl_outcome_drop(const struct sl_outcome *o)
{
    sl_frame_free(o->frame);
    sl_berths_release(o->info.berths);
}

/* Progress reports may be skipped when the loop is slow; everything else waits for room. */
static void put_outcome(struct sl_compute *c, const struct sl_outcome *o)
{
    pthread_mutex_lock(&c->lock);
    while (c->outcomes_len == OUTCOMES_MAX && !c->stopping && o->kind != SL_OUTCOME_PROGRESS)
        pthread_cond_wait(&c->room, &c->lock);
    int full = c->outcomes_len == OUTCOMES_MAX;
    if (!full) c->outcomes[(c->outcomes_at + c->outcomes_len++) % OUTCOMES_MAX] = *o;
    pthread_mutex_unlock(&c->lock);
    if (full)
        sl_outcome_drop(o);
    else
        c->wake(c->arg);
}

static void on_moved(void *arg)
{
    struct sl_compute *c = arg;
    atomic_fetch_add_explicit(&c->layers, 1, memory_order_relaxed);
}

static int on_progress(void *arg, uint64_t done, uint64_t total)
{
    struct sl_compute *c = arg;
    put_outcome(c, &(struct sl_outcome){.kind = SL_OUTCOME_PROGRESS, .done = done, .total = total});
    pthread_mutex_lock(&c->lock);
    int stop = c->stopping;
    pthread_mutex_unlock(&c->lock);
    return stop;
}

static void do_load(struct sl_compute *c, struct sl_stage_params *p)
{
    struct sl_outcome o = {.kind = SL_OUTCOME_LOADED};
    uint64_t start = sl_env_now_ns();
    sl_stage_destroy(c->stage);
    c->stage = NULL;
    p->progress = on_progress;
    p->moved = on_moved;
    p->progress_arg = c;
    if (sl_stage_create(c->b, p, &c->stage, &o.err)) {
        o.kind = SL_OUTCOME_FAILED;
    } else {
        sl_stage_get_info(c->stage, &o.info);
        if (o.info.berths) sl_berths_share(o.info.berths);
        o.load_ns = sl_env_now_ns() - start;
    }
    put_outcome(c, &o);
}

static void record(struct sl_compute *c, const struct sl_ctl_step *st)
{
    pthread_mutex_lock(&c->lock);
    c->stats.busy_ns += st->end_ns - st->start_ns;
    c->stats.steps++;
    c->stats.rows += st->rows;
    c->steps[(c->steps_at + c->steps_len) % SL_CTL_STEPS_MAX] = *st;
    if (c->steps_len < SL_CTL_STEPS_MAX)
        c->steps_len++;
    else
        c->steps_at = (c->steps_at + 1) % SL_CTL_STEPS_MAX; /* the oldest is lost */
    pthread_mutex_unlock(&c->lock);
}

static void do_step(struct sl_compute *c, struct sl_frame *f)
{
    if (!c->stage ||
        f->head.epoch != c->epoch) { /* stale: the coordinator has given this work up */
        sl_frame_free(f);
        return;
    }
    struct sl_outcome o = {.kind = SL_OUTCOME_FRAME};
    struct sl_ctl_step st = {.slot = f->head.slot, .recv_ns = f->recv_ns, .epoch = f->head.epoch};
    st.start_ns = sl_env_now_ns();
    if (st.recv_ns == 0) st.recv_ns = st.start_ns;
    int r = sl_stage_step(c->stage, f, &o.frame, &st.rows, &o.err);
    st.end_ns = sl_env_now_ns();
    if (r)
        o.kind = SL_OUTCOME_FAILED;
    else
        record(c, &st);
    put_outcome(c, &o);
}

static void *compute_main(void *arg)
{
    struct sl_compute *c = arg;
    sl_backend_enter(c->b);
    for (;;) {
        pthread_mutex_lock(&c->lock);
        while (!c->jobs_len && !c->stopping) pthread_cond_wait(&c->work, &c->lock);
        int stop = c->stopping;
        struct job j = {0};
        if (!stop) {
            j = c->jobs[c->jobs_at];
            c->jobs_at = (c->jobs_at + 1) % JOBS_MAX;
            c->jobs_len--;
            if (j.kind == JOB_STEP) c->stats.queued--;
        }
        pthread_mutex_unlock(&c->lock);
        if (stop) return NULL;
        switch (j.kind) {
        case JOB_LOAD:
            do_load(c, j.load);
            free_load(j.load);
            break;
        case JOB_STEP:
            do_step(c, j.frame);
            break;
        case JOB_RESET:
            c->epoch = j.epoch;
            if (c->stage) sl_stage_reset(c->stage, j.send_as);
            break;
        }
    }
}

int sl_compute_start(struct sl_backend *b, void (*wake)(void *arg), void *arg,
                     struct sl_compute **out, struct sl_err *err)
{
    struct sl_compute *c = calloc(1, sizeof *c);
    if (!c) return sl_err_set(err, SL_ENOMEM, "no memory for the compute thread");
    c->b = b;
    c->wake = wake;
    c->arg = arg;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->work, NULL);
    pthread_cond_init(&c->room, NULL);
    sigset_t all, old; /* signals belong to the loop thread */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = pthread_create(&c->thread, NULL, compute_main, c);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r) {
        free(c);
        return sl_err_set(err, SL_ESYS, "cannot start the compute thread: %s", strerror(r));
    }
    *out = c;
    return 0;
}

void sl_compute_stop(struct sl_compute *c)
{
    if (!c) return;
    pthread_mutex_lock(&c->lock);
    c->stopping = 1;
    pthread_cond_broadcast(&c->work);
    pthread_cond_broadcast(&c->room);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
    for (unsigned i = 0; i < c->jobs_len; i++) drop_job(&c->jobs[(c->jobs_at + i) % JOBS_MAX]);
    for (unsigned i = 0; i < c->outcomes_len; i++)
        sl_outcome_drop(&c->outcomes[(c->outcomes_at + i) % OUTCOMES_MAX]);
    sl_stage_destroy(c->stage);
    sl_backend_destroy(c->b);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->work);
    pthread_cond_destroy(&c->room);
    free(c);
}

static int put_job(struct sl_compute *c, struct job j)
{
    pthread_mutex_lock(&c->lock);
    int full =
        c->jobs_len == JOBS_MAX || (j.kind == JOB_STEP && c->stats.queued == SL_STAGE_QUEUE_MAX);
    if (!full) {
        c->jobs[(c->jobs_at + c->jobs_len++) % JOBS_MAX] = j;
        if (j.kind == JOB_STEP) c->stats.queued++;
        pthread_cond_signal(&c->work);
    }
    pthread_mutex_unlock(&c->lock);
    if (full) drop_job(&j);
    return full ? SL_EBUSY : 0;
}

int sl_compute_load(struct sl_compute *c, const struct sl_stage_params *p)
{
    struct sl_stage_params *copy = malloc(sizeof *copy);
    if (!copy) return SL_ENOMEM;
    *copy = *p;
    copy->model = strdup(p->model);
    copy->kv_type = strdup(p->kv_type ? p->kv_type : "auto");
    const char **adapters = calloc((size_t)p->n_adapters + 1, sizeof *adapters);
    int short_of = !copy->model || !copy->kv_type || !adapters;
    for (int i = 0; adapters && i < p->n_adapters; i++) {
        adapters[i] = strdup(p->adapters[i]);
        short_of |= !adapters[i];
    }
    copy->adapters = adapters;
    if (short_of) {
        free_load(copy);
        return SL_ENOMEM;
    }
    return put_job(c, (struct job){.kind = JOB_LOAD, .load = copy});
}

int sl_compute_step(struct sl_compute *c, struct sl_frame *f)
{
    return put_job(c, (struct job){.kind = JOB_STEP, .frame = f});
}

int sl_compute_reset(struct sl_compute *c, uint32_t epoch, enum sl_dtype send_as)
{
    return put_job(c, (struct job){.kind = JOB_RESET, .epoch = epoch, .send_as = send_as});
}

int sl_compute_take(struct sl_compute *c, struct sl_outcome *out)
{
    pthread_mutex_lock(&c->lock);
    int got = c->outcomes_len > 0;
    if (got) {
        *out = c->outcomes[c->outcomes_at];
        c->outcomes_at = (c->outcomes_at + 1) % OUTCOMES_MAX;
        c->outcomes_len--;
        pthread_cond_signal(&c->room);
    }
    pthread_mutex_unlock(&c->lock);
    return got;
}

void sl_compute_get_stats(struct sl_compute *c, struct sl_compute_stats *out)
{
    pthread_mutex_lock(&c->lock);
    *out = c->stats;
    pthread_mutex_unlock(&c->lock);
    out->layers = atomic_load_explicit(&c->layers, memory_order_relaxed);
}

int sl_compute_take_steps(struct sl_compute *c, struct sl_ctl_step *out, int max)
{
    pthread_mutex_lock(&c->lock);
    int n = SL_MIN(max, (int)c->steps_len);
    for (int i = 0; i < n; i++) out[i] = c->steps[(c->steps_at + (unsigned)i) % SL_CTL_STEPS_MAX];
    c->steps_at = (c->steps_at + (unsigned)n) % SL_CTL_STEPS_MAX;
    c->steps_len -= (unsigned)n;
    pthread_mutex_unlock(&c->lock);
    return n;
}
