/* lane_inside.h - what lane.c (the loop's side) and lane_thread.c (the lane thread) share. Private
 * to transport/. */
#ifndef SL_TRANSPORT_LANE_INSIDE_H
#define SL_TRANSPORT_LANE_INSIDE_H

#include <pthread.h>
#include <uv.h>

#include "transport/lane.h"

enum lane_state { LANE_OFF, LANE_STARTING, LANE_UP, LANE_DEAD };

struct payload {
    struct sl_berth *berth; /* receiving: NULL until the thread has found one */
    size_t bytes;
};

/* One direction. Each start and each end makes a new generation; the thread follows. */
struct way {
    int sends;

    /* ---- under the lock ---- */
    unsigned want; /* generation; what follows is of it */
    int on;
    uint8_t address[SL_LANE_ADDRESS_MAX];
    size_t address_len;
    struct payload queue[SL_LANE_QUEUE_MAX];
    unsigned at, len;
    struct sl_berth *arrived, **last; /* received and not yet fetched by the loop, in order */
    enum lane_state state;
    struct sl_err err; /* with LANE_DEAD */
    int changed;       /* the loop has not told of `state` yet */

    /* ---- the lane thread's ---- */
    unsigned have;
    void *conn; /* NULL: none */
    int up;
    uint64_t since_ns; /* start */
    struct payload active[SL_LANE_WINDOW];
    unsigned active_at, active_len, begun; /* the first `begun` of them are under way */
};

enum { WAY_IN, WAY_OUT, WAYS };

struct sl_lanes {
    const struct sl_lane_kind *kind;
    sl_lanes_frame_fn on_frame;
    sl_lanes_change_fn on_change;
    void *arg;

    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct way ways[WAYS];
    pthread_mutex_t berths_lock;           /* pool's lock comes after it, `lock` after the pool's */
    struct sl_berths *berths;              /* under berths_lock; shared */
    int kicked, stopping, ended, unusable; /* under the lock */
    uint64_t sent_bytes;

    /* ---- the loop's ---- */
    uv_async_t async;
    uv_timer_t patience; /* while closing */
    int handles, joined, closing;
    void (*done)(void *arg);
    void *done_arg;
    uint8_t own[SL_LANE_ADDRESS_MAX]; /* address */
    size_t own_len;
    int own_used;
    uint32_t epoch;                 /* that the receiving way is for */
    int accepting, broken;          /* it is wanted; it has failed and its frames are dropped */
    struct sl_frame *first, **tail; /* in order, the first one waits for its payload */
    size_t waiting;
};

/* lane_thread.c */
void *sl_lane_thread(void *lanes);

#endif
