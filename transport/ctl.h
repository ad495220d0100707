/* ctl.h - a control connection: messages of proto/control.h over one connected stream socket on a
 * libuv loop.
 *
 * Used by both ends. A peer that sends nonsense or does not read ends the connection; on_end comes
 * once, from the loop. */
#ifndef SL_TRANSPORT_CTL_H
#define SL_TRANSPORT_CTL_H

#include "proto/control.h"

#ifdef __cplusplus
extern "C" {
#endif

struct uv_loop_s;
struct sl_ctl_conn;

#define SL_CTL_QUEUE_MAX                                                                           \
    (8u << 20) /* bytes waiting to be sent; a peer that lets more pile up is cut off */

/* The message and what it points to live until the callback returns. */
typedef void (*sl_ctl_message_fn)(void *arg, const struct sl_ctl *m);
typedef void (*sl_ctl_end_fn)(void *arg, const struct sl_err *why);

/* Takes fd (TCP or Unix, connected) in every case. */
int sl_ctl_conn_open(struct uv_loop_s *loop, int fd, sl_ctl_message_fn on_message,
                     sl_ctl_end_fn on_end, void *arg, struct sl_ctl_conn **out, struct sl_err *err);
/* Queues a message. Failures end the connection (on_end, later); the return value is for those who
 * care. */
int sl_ctl_conn_send(struct sl_ctl_conn *c, const struct sl_ctl *m);
/* Sends what is queued, then closes; no callback comes any more. NULL is fine. The handle frees
 * itself. */
void sl_ctl_conn_close(struct sl_ctl_conn *c);

#ifdef __cplusplus
}
#endif
#endif
