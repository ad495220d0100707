/* ucx.h - the UCX transports' inside: what ucx.c (port, sleeping and waking), ucx_send.c (links)
 * and ucx_recv.c (frames coming in) share. Private to transport/.
 *
 * UCX calls back from inside ucp_worker_progress. Such callbacks only write down what happened; the
 * user's callbacks are called by the pump in ucx.c after progress has returned, so they may close
 * anything. */
#ifndef SL_TRANSPORT_UCX_H
#define SL_TRANSPORT_UCX_H

#include <ucp/api/ucp.h>
#include <uv.h>

#include "base/map.h"
#include "transport/ops.h"

#define UCX_AM_ID 29 /* active message number of a frame; any, but equal everywhere */
#define UCX_WINDOW                                                                                 \
    16 /* frames of one link inside UCX; the rest waits with us and can be dropped at once */
#define UCX_SENDERS_MAX 1024 /* links into one port that are remembered */
#define UCX_ACTIVE_BYTES_MAX                                                                       \
    (64u << 20) /* bytes of one sender's bodies received at a time (or one frame, if larger) */

struct ucx_kind {
    const struct sl_transport *transport;
    const char *tls;         /* UCX names of what it may use */
    const char *rndv_scheme; /* how large bodies travel */
    int peer_errors; /* UCP_ERR_HANDLING_MODE_PEER: a death is reported, a link can be cut off */
};

struct ucx_port {
    struct sl_port port;
    const struct ucx_kind *kind;
    ucp_context_h context;
    ucp_worker_h worker;
    uv_poll_t poll;
    uv_prepare_t prepare;
    uv_idle_t idle;        /* started: the loop does not sleep */
    uv_timer_t tick;       /* deadlines; also wakes us when UCX cannot (see ucx.c) */
    int handles;           /* of the four above, still open */
    unsigned stalls;       /* times in a row that UCX had work but did none */
    struct sl_list parked; /* links closed by the user, not yet by UCX */
    uint64_t close_ns;     /* closing: when patience ends */

    struct sl_map senders;          /* link number -> struct sender */
    struct sl_list active;          /* struct rx with UCX */
    struct sl_list due;             /* struct sender with bodies to fetch */
    struct sl_frame *first, **last; /* complete and in order, for on_frame */
    size_t ready;                   /* their number */
    struct sl_err refusal;          /* for on_error; code 0: none */
    uint64_t refused;               /* messages dropped for being wrong */
};

struct ucx_link;
struct ucx_tx {
    struct ucx_link *link;
    struct ucx_tx *next; /* free */
    struct sl_frame *frame;
    uint8_t head[SL_FRAME_HEAD_BYTES]; /* UCX reads it until the send completes */
};

struct ucx_link {
    struct sl_link link;
    struct ucx_port *port;
    struct sl_list node; /* in port->parked */
    ucp_ep_h ep;
    /* the end, once parked: window empty, flush, close */
    int flushing, flushed, closing, gone;
    uint64_t park_ns;     /* when patience ends */
    struct sl_err failed; /* code 0: it works */
    uint32_t id, seq;
    struct sl_frame *first, **last; /* waiting for the window */
    struct ucx_tx tx[UCX_WINDOW], *free;
    int inside; /* frames UCX has */
    int large;  /* of them those that is_large */
    struct sl_meter meter;
};

/* ucx.c */
void sl_ucx_port_kick(struct ucx_port *p); /* pump before the loop sleeps */

/* ucx_send.c */
int sl_ucx_link_open(struct sl_port *port, const void *address, size_t n, struct sl_link **out,
                     struct sl_err *err);
int sl_ucx_link_send(struct sl_link *link, struct sl_frame *f);
void sl_ucx_link_close(struct sl_link *link);
void sl_ucx_link_stats(const struct sl_link *link, struct sl_link_stats *out);
int sl_ucx_address(const struct sl_port *port, struct sl_buf *out);
void sl_ucx_links_pump(
    struct ucx_port *p); /* hands on what waits, reports failures, advances parked links */
void sl_ucx_links_release(
    struct ucx_port *p); /* the worker is gone: frees what it never gave back */
int sl_ucx_links_pending(const struct ucx_port *p); /* parked links whose patience has not ended */

/* ucx_recv.c */
ucs_status_t sl_ucx_recv_start(struct ucx_port *p); /* installs the handler */
int sl_ucx_recv_fetch(struct ucx_port *p); /* starts fetches that are due; 1 when there were any */
void sl_ucx_recv_pump(struct ucx_port *p); /* calls on_frame and on_error */
void sl_ucx_recv_release(struct ucx_port *p); /* the worker is gone */

#endif
