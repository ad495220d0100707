/* lane.h - payloads from one device's memory to another's, beside the frames they belong to.
 *
 * A lane carries one direction of one edge for one epoch. The link of that edge still carries the
 * frames, with head.lane 1 and no payload; the k-th payload of a lane belongs to the k-th such
 * frame. A lane is an extra: an edge whose lane does not come up works without (docs/wire.md).
 *
 * Nothing here waits on the loop thread. Each party has one lane thread, which alone talks to the
 * library that moves the bytes (struct sl_lane_kind; nccl.c fills it, tests bring their own). The
 * loop thread hands it payloads to send and sizes to receive through bounded queues, and hears of
 * what arrived through a uv_async. */
#ifndef SL_TRANSPORT_LANE_H
#define SL_TRANSPORT_LANE_H

#include "transport/frame.h"

#ifdef __cplusplus
extern "C" {
#endif

struct uv_loop_s;
struct sl_lanes;

#define SL_LANE_ADDRESS_MAX 512 /* bytes */
#define SL_LANE_START_MS 30000  /* a lane that is not up by then never will be */
#define SL_LANE_STOP_MS 5000    /* patience with a library that does not let go */
#define SL_LANE_QUEUE_MAX 256   /* payloads waiting in one direction */
#define SL_LANE_WINDOW 4        /* payloads under way in one direction */

/* What moves payloads. All but make_address and check_address are called by the lane thread only.
 * `conn` is one lane; places 0 .. SL_LANE_WINDOW - 1 number the payloads under way. */
struct sl_lane_kind {
    const char *name;
    size_t least; /* bytes from which it is quicker than a copy through the host */
    void *arg;
    /* The lane thread begins; it calls nothing else before. 0 or an error. */
    int (*attach)(void *arg, struct sl_err *err);
    /* Where a sender finds us: at most SL_LANE_ADDRESS_MAX bytes to out, for one lane. Returns
     * their number or an error. */
    int (*make_address)(void *arg, uint8_t *out, struct sl_err *err);
    /* Is this a peer that we can reach? */
    int (*check_address)(void *arg, const uint8_t *address, size_t n, struct sl_err *err);
    /* Begins a lane at `address`, ours unless we send. Does not wait. */
    int (*start)(void *arg, const uint8_t *address, size_t n, int sends, void **conn,
                 struct sl_err *err);
    /* 1: it is up; 0: not yet. */
    int (*ready)(void *conn, struct sl_err *err);
    /* Begins the next payload. 0, SL_EAGAIN (ask again soon) or an error. */
    int (*begin)(void *conn, int place, void *data, size_t n, struct sl_err *err);
    /* 1: this payload is through; 0: not yet. */
    int (*done)(void *conn, int place, struct sl_err *err);
    /* Gives up whatever is under way, wherever it stands, and frees the lane. */
    void (*stop)(void *conn);
};

/* A frame, in order, its payload complete; the callee owns it. */
typedef void (*sl_lanes_frame_fn)(void *arg, struct sl_frame *f);
/* The lane came up, or (err not NULL) it did not or failed and is gone until the next start. */
typedef void (*sl_lanes_change_fn)(void *arg, int sends, const struct sl_err *err);

/* Callbacks come from the loop. `kind` must outlive it. */
int sl_lanes_open(struct uv_loop_s *loop, const struct sl_lane_kind *kind, sl_lanes_frame_fn frame,
                  sl_lanes_change_fn change, void *arg, struct sl_lanes **out, struct sl_err *err);
/* Asynchronous; no other callback than done(arg) comes. */
void sl_lanes_close(struct sl_lanes *l, void (*done)(void *arg), void *arg);
const char *sl_lanes_name(const struct sl_lanes *l);
size_t sl_lanes_least(const struct sl_lanes *l);

/* Where others connect to: a new address when the last one has been used. Lives until the next
 * call. */
int sl_lanes_address(struct sl_lanes *l, const void **out, size_t *n, struct sl_err *err);
/* Payloads are received into berths of this pool (shared; NULL: none any more). */
void sl_lanes_use(struct sl_lanes *l, struct sl_berths *berths);

/* Begins to receive for frames of `epoch`, at the address told last. */
void sl_lanes_accept(struct sl_lanes *l, uint32_t epoch);
/* Begins to send. 0 or what check_address says. */
int sl_lanes_connect(struct sl_lanes *l, const void *address, size_t n, struct sl_err *err);
/* Ends both directions: payloads under way are lost, frames that wait for theirs dropped. */
void sl_lanes_drop(struct sl_lanes *l);

/* The sending lane is up. */
int sl_lanes_is_up(const struct sl_lanes *l);
/* Sends `n` bytes of s, which is given back when they are through, or lost. */
void sl_lanes_send(struct sl_lanes *l, struct sl_berth *s, size_t n);
/* Takes a frame that has come over the link; it comes out of the frame callback when all before it
 * have and its payload is there, perhaps at once. One that no payload can belong to is dropped. */
void sl_lanes_receive(struct sl_lanes *l, struct sl_frame *f);
/* Payload bytes sent so far, over all lanes there were. */
uint64_t sl_lanes_sent(const struct sl_lanes *l);

#ifdef __cplusplus
}
#endif
#endif
