/* hub.h - all data connections of one party (a stage, the coordinator): a port per transport, a
 * link per peer, and for payloads in device memory a lane beside a link (lane.h).
 *
 * Peers are named by stage number, the coordinator by SL_CTL_COORD. One loop thread. */
#ifndef SL_TRANSPORT_HUB_H
#define SL_TRANSPORT_HUB_H

#include "proto/control.h"
#include "transport/lane.h"
#include "transport/link.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SL_HUB_PORTS_MAX 4 /* with the lanes' */

struct sl_hub;

/* A link reported itself dead. */
typedef void (*sl_hub_down_fn)(void *arg, int peer, const struct sl_err *err);

/* Opens the ports named in `transports` (separated by spaces or commas; NULL: all of this build).
 * One that does not work on this machine is left out with a warning; none at all is an error. */
int sl_hub_open(struct uv_loop_s *loop, const char *transports, sl_port_frame_fn on_frame,
                sl_hub_down_fn on_down, void *arg, struct sl_hub **out, struct sl_err *err);
/* Asynchronous; then done(arg). No other callback comes after the call. */
void sl_hub_close(struct sl_hub *h, void (*done)(void *arg), void *arg);

/* Offers lanes of this kind as one more port, named as the kind. On an error the hub goes on
 * without. Call it before the ports are told to anybody. */
int sl_hub_add_lanes(struct sl_hub *h, const struct sl_lane_kind *kind, struct sl_err *err);
/* Payloads in device memory come from and go to this pool (shared; NULL: none any more). */
void sl_hub_use_berths(struct sl_hub *h, struct sl_berths *berths);

/* After the death of a peer: drops all links, and puts a fresh port with another address in the
 * place of each one that the dead may have blocked (link.h:sl_port_is_fragile); frames still on
 * their way to the old one are lost. One that cannot be opened again is left out with a warning.
 * May be called from the hub's callbacks. 0, or the last error when no port is left. */
int sl_hub_reopen(struct sl_hub *h, struct sl_err *err);

/* The addresses of the open ports: what Hello and Ports carry. They live until the next
 * sl_hub_reopen. */
int sl_hub_ports(const struct sl_hub *h, const struct sl_ctl_port **out);
/* "local ucx-shm": the open ports' names, for sl_transport_choose. */
const char *sl_hub_transports(const struct sl_hub *h);

/* Links to `peer` (replaces an older link to it). */
int sl_hub_connect(struct sl_hub *h, int peer, const char *transport, const void *address, size_t n,
                   struct sl_err *err);
void sl_hub_disconnect_all(struct sl_hub *h);

/* Adds a lane to the link to `peer`: "device", for frames whose berth may change hands, or the name
 * of the kind with the peer's address. While it is not up, berths.h:sl_berths_take_out says no. One
 * lane at a time. An error leaves the link as it was. */
int sl_hub_add_lane(struct sl_hub *h, int peer, const char *name, const void *address, size_t n,
                    struct sl_err *err);
/* Frames of `epoch` may come with a lane. */
void sl_hub_accept_lane(struct sl_hub *h, uint32_t epoch);

/* Takes the frame in every case. SL_ENOTFOUND without a link to the peer, SL_ECLOSED for a frame
 * with a berth when there is no lane any more; else as sl_link_send. */
int sl_hub_send(struct sl_hub *h, int peer, struct sl_frame *f);

/* Totals of all links there have been to `peer`: 1 and *out, or 0 when there is none now. The
 * transport is named "nccl/ucx-shm" while a lane is up. */
int sl_hub_link_stats(const struct sl_hub *h, int peer, struct sl_ctl_link *out);

#ifdef __cplusplus
}
#endif
#endif
