/* link.h - frames between processes: one receiving port per process and transport, one sending link
 * per peer.
 *
 * Transports, best first: `local` (two ports in this process: the frame itself changes hands),
 * `ucx-shm` (UCP active messages over shared memory, one host), `ucx-tcp` (UCP over TCP, with peer
 * error reports). The coordinator picks per edge (sl_transport_choose) and carries addresses over
 * the control connection.
 *
 * Everything runs on one libuv loop thread; callbacks come from that loop, never from inside the
 * call that caused them. Idle ports sleep: UCX's wake-up fd is polled by libuv, nothing spins.
 * Frames of one link arrive in order, once. What notices a death is the control connection; on_down
 * is a hint that may come earlier (ucx-tcp) or never. */
#ifndef SL_TRANSPORT_LINK_H
#define SL_TRANSPORT_LINK_H

#include "base/buf.h"
#include "base/dtype.h"
#include "transport/frame.h"

#ifdef __cplusplus
extern "C" {
#endif

struct uv_loop_s;
struct sl_port;
struct sl_link;

#define SL_LINK_QUEUE_MAX 256    /* frames waiting in one link; more is SL_EBUSY */
#define SL_PORT_ADDRESS_MAX 4096 /* bytes */
#define SL_PORT_LINGER_MS 300    /* longest that closing waits for frames under way */

/* A frame for this process; the callee owns it. */
typedef void (*sl_port_frame_fn)(void *arg, struct sl_frame *f);
/* A peer misbehaved (bad header, over a limit); frames from it are dropped. */
typedef void (*sl_port_error_fn)(void *arg, const struct sl_err *err);

/* First thing in main: gives the signals of a crash back to the system (UCX's library takes them
 * when it is loaded, prints pages and waits for a debugger), so that a crash of ours is one at
 * once, with a core. */
void sl_transport_setup(void);

/* `transport` is "local", "ucx-shm" or "ucx-tcp". SLUICE_NET_DEVICE limits ucx-tcp to an interface.
 */
int sl_port_open(struct uv_loop_s *loop, const char *transport, sl_port_frame_fn on_frame,
                 sl_port_error_fn on_error, void *arg, struct sl_port **out, struct sl_err *err);
/* Asynchronous: closes the port's links too; frames still queued are dropped; then calls done(arg),
 * which may be NULL. The loop must run until then. Frames handed to the transport get
 * SL_PORT_LINGER_MS to leave. */
void sl_port_close(struct sl_port *p, void (*done)(void *arg), void *arg);
const char *sl_port_transport(const struct sl_port *p);
/* 1: a peer killed in the middle of a write may have blocked this port for good, unnoticed
 * (ucx-shm). After a death close it, open another and tell the living its address; closing works
 * however it is blocked. */
int sl_port_is_fragile(const struct sl_port *p);
/* Appends opaque bytes for the peer's sl_link_open, at most SL_PORT_ADDRESS_MAX. 0, SL_ELIMIT or
 * SL_ENOMEM. */
int sl_port_address(const struct sl_port *p, struct sl_buf *out);

/* The link failed (SL_ECLOSED, SL_EUNREACHABLE); queued frames are gone. Close it. */
typedef void (*sl_link_down_fn)(void *arg, const struct sl_err *err);

/* SL_EINPUT: not an address of this transport; SL_EUNREACHABLE: nobody there. Connecting goes on in
 * the background. */
int sl_link_open(struct sl_port *p, const void *address, size_t n, sl_link_down_fn on_down,
                 void *arg, struct sl_link **out, struct sl_err *err);
/* Takes the frame in every case. 0, SL_EBUSY (queue full), SL_ECLOSED. Sets head.sent_ns. */
int sl_link_send(struct sl_link *l, struct sl_frame *f);
/* Immediate for the caller: no callback comes afterwards. Frames waiting are dropped, frames the
 * transport has begun to hand over may still arrive. NULL is fine. */
void sl_link_close(struct sl_link *l);

struct sl_link_stats {
    uint64_t frames, bytes; /* handed over completely */
    uint64_t busy_ns;       /* time with at least one frame under way */
    uint32_t queued;        /* frames not yet handed over */
};
void sl_link_get_stats(const struct sl_link *l, struct sl_link_stats *out);

/* The best transport both ends offer: names are space-separated lists, `same_process`/`same_host`
 * what is known of the two. NULL when there is none. Ordered table: first that can connect. */
const char *sl_transport_choose(const char *a, const char *b, int same_process, int same_host);
/* How payloads in device memory travel beside a link of `transport` (docs/wire.md, "Lanes"):
 * "nccl", "device", or "": copied through host memory, with their frames. Ordered table. `gpu_a`
 * and `gpu_b` name the cards of the two ends, "" for none. */
const char *sl_lane_choose(const char *a, const char *b, const char *gpu_a, const char *gpu_b,
                           const char *transport);
/* The format of activations on an edge: the one that was asked for ("f32", "bf16", "fp8"), or with
 * "auto" F32, but BF16 over a network known to be slower than SL_SLOW_LINK (`bandwidth` in bytes
 * per second, 0: unknown). */
#define SL_SLOW_LINK (10e9 / 8)
enum sl_dtype sl_activations_choose(const char *wanted, const char *transport, const char *lane,
                                    double bandwidth);
/* All transports of this build, "local ucx-shm ucx-tcp". */
const char *sl_transport_list(void);

#define SL_ID_MAX 96 /* bytes of a host or process id with its NUL */

/* A name that is equal where shared memory and reading each other's memory work: a hash of the boot
 * and of the IPC, PID and mount namespaces. 0, SL_ELIMIT (cap too small) or SL_ESYS (/proc is not
 * there). */
int sl_host_id(char *out, size_t cap);
/* Equal in one process only: host id, pid and start time. Same errors. */
int sl_process_id(char *out, size_t cap);

#ifdef __cplusplus
}
#endif
#endif
