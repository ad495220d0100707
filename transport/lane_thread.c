/* lane_thread.c - the lane thread: follows what the loop wants of the two ways, moves payloads.
 *
 * It sleeps when there is nothing to do. While payloads are under way it asks for their end again
 * and again, for a payload of a decode step takes some ten microseconds and waking a thread takes
 * as long; after LANE_SPIN_NS without any end it naps in between. Nothing of the pool of berths is
 * called with `lock` held: the pool calls us under its own. */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "transport/lane_inside.h"

#define LANE_SPIN_NS 300000      /* of asking without a pause */
#define LANE_NAP_NS 50000        /* between two questions later on */
#define LANE_START_NAP_NS 500000 /* while a lane comes up */

static struct payload *active(struct way *w, unsigned i)
{
    SL_ASSERT(i < w->active_len);
    return &w->active[(w->active_at + i) % SL_LANE_WINDOW];
}

static int place(const struct way *w, unsigned i)
{
    return (int)((w->active_at + i) % SL_LANE_WINDOW);
}

static void let_go(struct sl_lanes *l, struct way *w)
{
    if (w->conn) l->kind->stop(w->conn);
    w->conn = NULL;
    w->up = 0;
    for (unsigned i = 0; i < w->active_len; i++) sl_berth_free(active(w, i)->berth);
    w->active_at = w->active_len = w->begun = 0;
}

/* Tells the loop, unless it has begun another generation meanwhile. */
static void tell(struct sl_lanes *l, struct way *w, enum lane_state state, const struct sl_err *err)
{
    pthread_mutex_lock(&l->lock);
    if (w->have == w->want) {
        w->state = state;
        w->changed = 1;
        if (err) w->err = *err;
        uv_async_send(&l->async);
    }
    pthread_mutex_unlock(&l->lock);
}

static void fail(struct sl_lanes *l, struct way *w, const struct sl_err *err)
{
    let_go(l, w);
    tell(l, w, LANE_DEAD, err);
}

/* Ends the old generation and begins the one wanted. 1 when there was something to do. */
static int follow(struct sl_lanes *l, struct way *w)
{
    uint8_t address[SL_LANE_ADDRESS_MAX];
    pthread_mutex_lock(&l->lock);
    int old = w->have != w->want, on = w->on && !l->unusable;
    unsigned want = w->want;
    size_t n = w->address_len;
    memcpy(address, w->address, n);
    pthread_mutex_unlock(&l->lock);
    if (!old) return 0;
    let_go(l, w);
    w->have = want;
    if (!on) return 1;
    struct sl_err err = {0};
    w->since_ns = sl_env_now_ns();
    if (l->kind->start(l->kind->arg, address, n, w->sends, &w->conn, &err)) {
        w->conn = NULL;
        fail(l, w, &err);
    }
    return 1;
}

/* A lane that is coming up. 1 when it is decided. */
static int come_up(struct sl_lanes *l, struct way *w)
{
    struct sl_err err = {0};
    int r = l->kind->ready(w->conn, &err);
    if (r == 0 && sl_env_now_ns() - w->since_ns > SL_LANE_START_MS * 1000000ull)
        r = sl_err_set(&err, SL_ETIMEOUT, "%s: the other side did not come within %d s",
                       l->kind->name, SL_LANE_START_MS / 1000);
    if (r == 0) return 0;
    if (r < 0) {
        fail(l, w, &err);
    } else {
        w->up = 1;
        tell(l, w, LANE_UP, NULL);
    }
    return 1;
}

/* Moves what is queued into the window. */
static void fill(struct sl_lanes *l, struct way *w)
{
    pthread_mutex_lock(&l->lock);
    while (w->have == w->want && w->len && w->active_len < SL_LANE_WINDOW) {
        w->active[(w->active_at + w->active_len++) % SL_LANE_WINDOW] = w->queue[w->at];
        w->at = (w->at + 1) % SL_LANE_QUEUE_MAX;
        w->len--;
    }
    pthread_mutex_unlock(&l->lock);
}

/* Somewhere to receive to; NULL: when one comes back we are woken. */
static struct sl_berth *find_berth(struct sl_lanes *l, size_t bytes, struct sl_err *err)
{
    struct sl_berth *s = NULL;
    pthread_mutex_lock(&l->berths_lock);
    size_t room = l->berths ? sl_berths_bytes(l->berths) : 0;
    if (!l->berths || bytes > room)
        sl_err_set(err, SL_ELIMIT, "%s: a payload of %zu bytes comes, there is room for %zu",
                   l->kind->name, bytes, room);
    else
        s = sl_berths_take(l->berths);
    pthread_mutex_unlock(&l->berths_lock);
    return s;
}

/* Begins what can begin. Returns how many, or an error; *soon: ask again without sleeping. */
static int begin(struct sl_lanes *l, struct way *w, int *soon, struct sl_err *err)
{
    int n = 0;
    while (w->begun < w->active_len) {
        struct payload *p = active(w, w->begun);
        if (!p->berth) {
            p->berth = find_berth(l, p->bytes, err);
            if (!p->berth) return err->code ? err->code : n;
        }
        int r = l->kind->begin(w->conn, place(w, w->begun), p->berth->data, p->bytes, err);
        if (r == SL_EAGAIN) {
            *soon = 1;
            return n;
        }
        if (r) return r;
        w->begun++;
        n++;
    }
    return n;
}

static void finish_first(struct sl_lanes *l, struct way *w)
{
    struct payload p = *active(w, 0);
    w->active_at = (w->active_at + 1) % SL_LANE_WINDOW;
    w->active_len--;
    w->begun--;
    struct sl_berth *spare = p.berth;
    pthread_mutex_lock(&l->lock);
    if (w->sends) {
        l->sent_bytes += p.bytes;
    } else if (w->have == w->want) {
        p.berth->next = NULL;
        *w->last = p.berth;
        w->last = &p.berth->next;
        spare = NULL;
        uv_async_send(&l->async);
    }
    pthread_mutex_unlock(&l->lock);
    sl_berth_free(spare);
}

/* Ends what is through. Returns how many, or an error. */
static int end(struct sl_lanes *l, struct way *w, struct sl_err *err)
{
    int n = 0;
    while (w->begun) {
        int r = l->kind->done(w->conn, place(w, 0), err);
        if (r < 0) return r;
        if (r == 0) return n;
        finish_first(l, w);
        n++;
    }
    return n;
}

/* One round over one way. Returns whether anything moved. */
static int advance(struct sl_lanes *l, struct way *w, int *soon)
{
    struct sl_err err = {0};
    if (follow(l, w)) return 1;
    if (!w->conn) return 0;
    if (!w->up) return come_up(l, w);
    fill(l, w);
    int a = begin(l, w, soon, &err), b = a < 0 ? a : end(l, w, &err);
    if (b < 0) {
        fail(l, w, &err);
        return 1;
    }
    return a + b > 0;
}

static void nap(struct sl_lanes *l, uint64_t ns)
{
    uint64_t until = sl_env_now_ns() + ns;
    struct timespec t = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
    while (!l->kicked && pthread_cond_timedwait(&l->wake, &l->lock, &t) != ETIMEDOUT) {
    }
}

/* Waits for the next thing to do; `idle_ns` since anything moved. Returns 0 at the end. */
static int wait_for_work(struct sl_lanes *l, int soon, uint64_t idle_ns)
{
    int starting = 0;
    for (int i = 0; i < WAYS; i++) {
        soon |= l->ways[i].begun > 0;
        starting |= l->ways[i].conn && !l->ways[i].up;
    }
    if (soon && idle_ns < LANE_SPIN_NS) {
        sched_yield();
        return 1;
    }
    pthread_mutex_lock(&l->lock);
    if (soon)
        nap(l, LANE_NAP_NS);
    else if (starting)
        nap(l, LANE_START_NAP_NS);
    while (!soon && !starting && !l->kicked) pthread_cond_wait(&l->wake, &l->lock);
    l->kicked = 0;
    int stop = l->stopping;
    pthread_mutex_unlock(&l->lock);
    return !stop;
}

void *sl_lane_thread(void *lanes)
{
    struct sl_lanes *l = lanes;
    struct sl_err err = {0};
    uint64_t moved_ns = sl_env_now_ns();
    if (l->kind->attach(l->kind->arg, &err)) {
        pthread_mutex_lock(&l->lock);
        l->unusable = 1;
        pthread_mutex_unlock(&l->lock);
    }
    for (int go_on = 1; go_on;) {
        int soon = 0, moved = 0;
        for (int i = 0; i < WAYS; i++) moved |= advance(l, &l->ways[i], &soon);
        if (moved)
            moved_ns = sl_env_now_ns();
        else
            go_on = wait_for_work(l, soon, sl_env_now_ns() - moved_ns);
    }
    for (int i = 0; i < WAYS; i++) let_go(l, &l->ways[i]);
    pthread_mutex_lock(&l->lock);
    l->ended = 1;
    uv_async_send(&l->async);
    pthread_mutex_unlock(&l->lock);
    return NULL;
}
