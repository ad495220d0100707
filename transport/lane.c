/* lane.c - see lane.h: the loop's side of lanes; the lane thread is lane_thread.c.
 *
 * Order: frames that come while an earlier one waits for its payload queue up behind it, those
 * without a lane too. The thread ends payloads in the order of their frames. */
#include "transport/lane.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/log.h"
#include "base/sl_assert.h"
#include "transport/lane_inside.h"

static void kick(void *arg)
{
    struct sl_lanes *l = arg;
    pthread_mutex_lock(&l->lock);
    l->kicked = 1;
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->lock);
}

static void free_berths(struct sl_berth *s)
{
    while (s) {
        struct sl_berth *next = s->next;
        sl_berth_free(s);
        s = next;
    }
}

/* Begins another generation of a way; address NULL: one that is off. */
static void turn(struct sl_lanes *l, struct way *w, const void *address, size_t n)
{
    struct sl_berth *lost = NULL;
    pthread_mutex_lock(&l->lock);
    w->want++;
    w->on = address != NULL;
    w->address_len = n;
    if (address) memcpy(w->address, address, n);
    w->state = address ? LANE_STARTING : LANE_OFF;
    w->changed = 0;
    for (; w->len; w->len--, w->at = (w->at + 1) % SL_LANE_QUEUE_MAX) {
        struct sl_berth *s = w->queue[w->at].berth;
        if (!s) continue;
        s->next = lost;
        lost = s;
    }
    *w->last = lost; /* those that arrived are lost as well */
    lost = w->arrived;
    w->arrived = NULL;
    w->last = &w->arrived;
    pthread_mutex_unlock(&l->lock);
    free_berths(lost);
    kick(l);
}

/* ---- what arrived ---------------------------------------------------------------------------- */

static void drop_frames(struct sl_lanes *l)
{
    while (l->first) {
        struct sl_frame *f = l->first;
        l->first = f->next;
        sl_frame_free(f);
    }
    l->tail = &l->first;
    l->waiting = 0;
}

static struct sl_berth *fetch_arrived(struct sl_lanes *l)
{
    struct way *w = &l->ways[WAY_IN];
    pthread_mutex_lock(&l->lock);
    struct sl_berth *s = w->arrived;
    if (s) {
        w->arrived = s->next;
        if (!w->arrived) w->last = &w->arrived;
        s->next = NULL;
    }
    pthread_mutex_unlock(&l->lock);
    return s;
}

static int waits(const struct sl_frame *f)
{
    return f->head.lane && !f->berth;
}

/* Hands out every frame whose turn it is. The callback may do anything, drop the lanes too. */
static void deliver(struct sl_lanes *l)
{
    while (l->first && !l->closing) {
        struct sl_frame *f = l->first;
        if (waits(f)) {
            f->berth = fetch_arrived(l);
            if (!f->berth) return;
            f->recv_ns = sl_env_now_ns();
        }
        l->first = f->next;
        if (!l->first) l->tail = &l->first;
        l->waiting--;
        f->next = NULL;
        l->on_frame(l->arg, f);
    }
}

/* Reports a change of one way; 1 when there was one. */
static int report(struct sl_lanes *l, struct way *w)
{
    pthread_mutex_lock(&l->lock);
    int changed = w->changed;
    enum lane_state state = w->state;
    struct sl_err err = w->err;
    w->changed = 0;
    pthread_mutex_unlock(&l->lock);
    if (!changed) return 0;
    if (state == LANE_DEAD && !w->sends) { /* without a loss so far the edge goes on without it */
        l->accepting = 0;
        l->broken = l->first != NULL;
        drop_frames(l);
    }
    l->on_change(l->arg, w->sends, state == LANE_DEAD ? &err : NULL);
    return 1;
}

static void maybe_closed(struct sl_lanes *l);

static void on_async(uv_async_t *a)
{
    struct sl_lanes *l = a->data;
    if (l->closing) {
        maybe_closed(l);
        return;
    }
    deliver(l);
    for (int i = 0; i < WAYS && !l->closing; i++) report(l, &l->ways[i]);
}

/* ---- opening and closing --------------------------------------------------------------------- */

const char *sl_lanes_name(const struct sl_lanes *l)
{
    return l->kind->name;
}

size_t sl_lanes_least(const struct sl_lanes *l)
{
    return l->kind->least;
}

static int start_thread(struct sl_lanes *l)
{
    sigset_t all, old; /* signals belong to the loop thread */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = pthread_create(&l->thread, NULL, sl_lane_thread, l);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return r;
}

int sl_lanes_open(struct uv_loop_s *loop, const struct sl_lane_kind *kind, sl_lanes_frame_fn frame,
                  sl_lanes_change_fn change, void *arg, struct sl_lanes **out, struct sl_err *err)
{
    struct sl_lanes *l = calloc(1, sizeof *l);
    if (!l) return sl_err_set(err, SL_ENOMEM, "no memory for %s", kind->name);
    l->kind = kind;
    l->on_frame = frame;
    l->on_change = change;
    l->arg = arg;
    l->tail = &l->first;
    for (int i = 0; i < WAYS; i++) {
        l->ways[i].sends = i == WAY_OUT;
        l->ways[i].last = &l->ways[i].arrived;
    }
    const void *address;
    size_t n;
    int r = sl_lanes_address(l, &address, &n, err);
    if (r) {
        free(l);
        return r;
    }
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&l->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&l->lock, NULL);
    pthread_mutex_init(&l->berths_lock, NULL);
    uv_async_init(loop, &l->async, on_async);
    uv_timer_init(loop, &l->patience);
    l->async.data = l->patience.data = l;
    l->handles = 2;
    r = start_thread(l);
    if (r) {
        l->joined = 1;
        sl_lanes_close(l, NULL, NULL);
        return sl_err_set(err, SL_ESYS, "cannot start the %s thread: %s", kind->name, strerror(r));
    }
    *out = l;
    return 0;
}

static void on_handle_closed(uv_handle_t *h)
{
    struct sl_lanes *l = h->data;
    if (--l->handles) return;
    void (*done)(void *) = l->done;
    void *arg = l->done_arg;
    pthread_mutex_destroy(&l->lock);
    pthread_mutex_destroy(&l->berths_lock);
    pthread_cond_destroy(&l->wake);
    free(l);
    if (done) done(arg);
}

static void close_handles(struct sl_lanes *l)
{
    uv_close((uv_handle_t *)&l->async, on_handle_closed);
    uv_close((uv_handle_t *)&l->patience, on_handle_closed);
}

static void maybe_closed(struct sl_lanes *l)
{
    pthread_mutex_lock(&l->lock);
    int ended = l->ended;
    pthread_mutex_unlock(&l->lock);
    if (!ended || l->joined) return;
    pthread_join(l->thread, NULL);
    l->joined = 1;
    close_handles(l);
}

/* The library does not let go. We do: the thread and what it uses stay until the process ends,
 * which this must not hinder. */
static void on_impatient(uv_timer_t *t)
{
    struct sl_lanes *l = t->data;
    sl_log(SL_LOG_WARN, "link", "%s did not end within %d s; left behind", l->kind->name,
           SL_LANE_STOP_MS / 1000);
    pthread_detach(l->thread);
    void (*done)(void *) = l->done;
    l->done = NULL;
    uv_timer_stop(t);
    uv_unref((uv_handle_t *)&l->async);
    uv_unref((uv_handle_t *)t);
    if (done) done(l->done_arg);
}

void sl_lanes_close(struct sl_lanes *l, void (*done)(void *arg), void *arg)
{
    SL_ASSERT(!l->closing);
    sl_lanes_drop(l);
    sl_lanes_use(l, NULL);
    l->closing = 1;
    l->done = done;
    l->done_arg = arg;
    if (l->joined) {
        close_handles(l);
        return;
    }
    pthread_mutex_lock(&l->lock);
    l->stopping = 1;
    pthread_mutex_unlock(&l->lock);
    kick(l);
    uv_timer_start(&l->patience, on_impatient, SL_LANE_STOP_MS, 0);
}

/* ---- in use ---------------------------------------------------------------------------------- */

int sl_lanes_address(struct sl_lanes *l, const void **out, size_t *n, struct sl_err *err)
{
    if (l->own_len == 0 || l->own_used) {
        int r = l->kind->make_address(l->kind->arg, l->own, err);
        if (r < 0) return r;
        l->own_len = (size_t)r;
        l->own_used = 0;
    }
    *out = l->own;
    *n = l->own_len;
    return 0;
}

void sl_lanes_use(struct sl_lanes *l, struct sl_berths *berths)
{
    pthread_mutex_lock(&l->berths_lock);
    if (l->berths) sl_berths_listen(l->berths, NULL, NULL);
    sl_berths_release(l->berths);
    l->berths = berths ? sl_berths_share(berths) : NULL;
    if (berths) sl_berths_listen(berths, kick, l);
    pthread_mutex_unlock(&l->berths_lock);
    kick(l);
}

void sl_lanes_accept(struct sl_lanes *l, uint32_t epoch)
{
    drop_frames(l);
    l->epoch = epoch;
    l->accepting = 1;
    l->broken = 0;
    l->own_used = 1;
    turn(l, &l->ways[WAY_IN], l->own, l->own_len);
}

int sl_lanes_connect(struct sl_lanes *l, const void *address, size_t n, struct sl_err *err)
{
    if (n == 0 || n > SL_LANE_ADDRESS_MAX)
        return sl_err_set(err, SL_EINPUT, "%s address of %zu bytes", l->kind->name, n);
    int r = l->kind->check_address(l->kind->arg, address, n, err);
    if (r == 0) turn(l, &l->ways[WAY_OUT], address, n);
    return r;
}

void sl_lanes_drop(struct sl_lanes *l)
{
    for (int i = 0; i < WAYS; i++)
        if (l->ways[i].on) turn(l, &l->ways[i], NULL, 0);
    l->accepting = l->broken = 0;
    drop_frames(l);
}

int sl_lanes_is_up(const struct sl_lanes *l)
{
    struct sl_lanes *m = (struct sl_lanes *)(uintptr_t)l; /* the lock is not part of the answer */
    pthread_mutex_lock(&m->lock);
    int up = l->ways[WAY_OUT].state == LANE_UP;
    pthread_mutex_unlock(&m->lock);
    return up;
}

uint64_t sl_lanes_sent(const struct sl_lanes *l)
{
    struct sl_lanes *m = (struct sl_lanes *)(uintptr_t)l;
    pthread_mutex_lock(&m->lock);
    uint64_t n = l->sent_bytes;
    pthread_mutex_unlock(&m->lock);
    return n;
}

/* 0, or SL_EBUSY. */
static int enqueue(struct sl_lanes *l, struct way *w, struct payload p)
{
    pthread_mutex_lock(&l->lock);
    int full = w->len == SL_LANE_QUEUE_MAX;
    if (!full) w->queue[(w->at + w->len++) % SL_LANE_QUEUE_MAX] = p;
    pthread_mutex_unlock(&l->lock);
    if (!full) kick(l);
    return full ? SL_EBUSY : 0;
}

void sl_lanes_send(struct sl_lanes *l, struct sl_berth *s, size_t n)
{
    SL_ASSERT(n <= sl_berths_bytes(s->pool));
    if (enqueue(l, &l->ways[WAY_OUT], (struct payload){s, n}))
        sl_berth_free(s); /* a pool of more berths than the queue is long: the receiver waits in
                            vain, as after any loss */
}

/* A frame whose payload cannot come. After one of this epoch all that follow are of no use either:
 * a sequence would miss a part. */
static int is_lost(struct sl_lanes *l, const struct sl_frame *f)
{
    if (waits(f) && (!l->accepting || f->head.epoch != l->epoch)) {
        l->broken |= f->head.epoch == l->epoch;
        return 1;
    }
    return l->broken;
}

void sl_lanes_receive(struct sl_lanes *l, struct sl_frame *f)
{
    int lost = is_lost(l, f);
    if (!lost && waits(f))
        lost = enqueue(l, &l->ways[WAY_IN],
                       (struct payload){NULL, (size_t)sl_frame_payload_bytes(&f->head)}) != 0;
    if (lost) {
        sl_frame_free(f);
        return;
    }
    f->next = NULL;
    *l->tail = f;
    l->tail = &f->next;
    l->waiting++;
    deliver(l);
}
