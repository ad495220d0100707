/* listen.h - the socket API (proto/api.proto) on libuv: a Unix path or HOST:PORT.
 *
 * A connection begins with Hello within SL_CLIENT_HELLO_S; then any number of requests run on it
 * side by side. A client that leaves has its requests cancelled in the same loop turn; one that
 * does not read is dropped when SL_CLIENT_OUT_MAX bytes wait for it, or after SL_CLIENT_STALL_S.
 * Everything runs on the loop thread. */
#ifndef SL_COORDINATOR_LISTEN_H
#define SL_COORDINATOR_LISTEN_H

#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SL_CLIENT_OUT_MAX (4u << 20) /* bytes that may wait for one client */
#define SL_CLIENT_HELLO_MAX 65536    /* bytes of a message before Hello was accepted */
#define SL_CLIENT_IN_TOTAL_MAX                                                                     \
    (256u << 20)                    /* bytes of incomplete messages of all clients together */
#define SL_CLIENT_REQUESTS_MAX 1024 /* requests under way on one connection */
#define SL_CLIENTS_MAX 1024         /* connections */
#define SL_CLIENT_HELLO_S 10        /* until Hello */
#define SL_CLIENT_STALL_S 30        /* that a client may take nothing of what waits for it */
#define SL_CLIENT_MESSAGE_S 60      /* from a message's first byte to its last */

struct uv_loop_s;
struct sl_service;
struct sl_keys;
struct sl_listen;

/* Listens on a path (it has a '/') or on "HOST:PORT" (port 0: any free one). A socket file that
 * nobody listens on any more is replaced. keys may be NULL: everybody may ask; service and keys
 * outlive it. SL_EINPUT: the address is wrong or taken, the message says what to change. */
int sl_listen_start(struct uv_loop_s *loop, struct sl_service *s, const char *address,
                    struct sl_keys *keys, struct sl_listen **out, struct sl_err *err);
int sl_listen_port(const struct sl_listen *l); /* 0 for a path */
/* Closes everything, cancels what is under way, removes the socket file, then calls done(arg) and
 * frees l. */
void sl_listen_stop(struct sl_listen *l, void (*done)(void *arg), void *arg);

#ifdef __cplusplus
}
#endif
#endif
