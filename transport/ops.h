/* ops.h - what a transport implements, and the part of ports and links that all of them share;
 * private to transport/.
 *
 * A transport embeds struct sl_port and struct sl_link at the start of its own. link.c checks
 * arguments, counts frames and keeps the links of a port; the transport moves frames and calls the
 * helpers below. Selection happens when a port is opened, never per frame. */
#ifndef SL_TRANSPORT_OPS_H
#define SL_TRANSPORT_OPS_H

#include "base/list.h"
#include "transport/link.h"

struct sl_transport {
    const char *name;
    int same_process, same_host; /* works only when both ends share this */
    int fragile;                 /* see sl_port_is_fragile */
    int (*port_open)(struct uv_loop_s *loop, struct sl_port **out, struct sl_err *err);
    void (*port_close)(struct sl_port *p); /* links are closed already; ends with sl_port_finish */
    int (*address)(const struct sl_port *p, struct sl_buf *out);
    int (*link_open)(struct sl_port *p, const void *address, size_t n, struct sl_link **out,
                     struct sl_err *err);
    /* Takes the frame; the queue has room and the link is up. 0 or SL_ECLOSED. */
    int (*link_send)(struct sl_link *l, struct sl_frame *f);
    void (*link_close)(struct sl_link *l); /* takes the link */
    void (*link_stats)(const struct sl_link *l, struct sl_link_stats *out);
};

extern const struct sl_transport sl_transport_local, sl_transport_ucx_shm, sl_transport_ucx_tcp;

struct sl_port {
    const struct sl_transport *transport;
    sl_port_frame_fn on_frame;
    sl_port_error_fn on_error;
    void *arg;
    struct sl_list links;
    int closing; /* no callback but `done` any more */
    void (*done)(void *arg);
    void *done_arg;
};

struct sl_link {
    struct sl_port *port;
    struct sl_list node; /* in port->links */
    sl_link_down_fn on_down;
    void *arg;
    int down; /* on_down was called or is due */
};

/* Frames under way on one link: what sl_link_stats reports. */
struct sl_meter {
    struct sl_link_stats s;
    uint64_t since_ns; /* when queued last left 0 */
};
void sl_meter_begin(struct sl_meter *m);
void sl_meter_end(struct sl_meter *m, uint64_t bytes, int delivered);
struct sl_link_stats sl_meter_read(const struct sl_meter *m);

/* The transport has let go of everything but the port itself: calls done. The transport frees the
 * port afterwards. */
void sl_port_finish(struct sl_port *p);

#endif
