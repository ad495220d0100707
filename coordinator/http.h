/* http.h - the OpenAI-compatible HTTP API, on libwebsockets running in our libuv loop.
 *
 * HTTP/1.1, kept alive after requests with a counted body (a client that pipelines gets its first
 * answer); bodies by Content-Length or chunked; answers whole or as server-sent events. No CORS
 * headers are sent: put a proxy in front when browsers of other origins shall use it. Everything
 * runs on the loop thread. */
#ifndef SL_COORDINATOR_HTTP_H
#define SL_COORDINATOR_HTTP_H

#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SL_HTTP_BODY_MAX (16u << 20) /* bytes of a request body; more is 413 */
#define SL_HTTP_HEADER_MAX 16384     /* bytes of a request's headers; more closes the connection */
#define SL_HTTP_REPLY_MAX (128u << 20) /* bytes of one answer that is sent whole */
#define SL_HTTP_STREAM_OUT_MAX                                                                     \
    (4u << 20) /* bytes a stream may wait for its reader; more cancels the request */
#define SL_HTTP_CONNS_MAX 1024 /* connections; more are closed at once */
#define SL_HTTP_IDLE_S 10      /* silence in the middle of a request that ends the connection */
#define SL_HTTP_KEEPALIVE_S 75 /* silence between requests that ends it */
#define SL_HTTP_BODY_S 300     /* longest time a body may take */
#define SL_HTTP_STALL_S 30     /* a reader that takes nothing for so long is dropped */
#define SL_HTTP_PING_S 15      /* a silent stream gets a comment after so long */

struct uv_loop_s;
struct sl_service;
struct sl_keys;
struct sl_http;

/* Listens on "HOST:PORT" (port 0: any free one; empty host: every address). keys may be NULL:
 * everybody may ask; service and keys outlive it. SL_EINPUT: the address is wrong or taken, the
 * message says what to change. */
int sl_http_start(struct uv_loop_s *loop, struct sl_service *s, const char *hostport,
                  struct sl_keys *keys, struct sl_http **out, struct sl_err *err);
int sl_http_port(const struct sl_http *h);
/* Closes everything, cancels what is under way, then calls done(arg) and frees h. */
void sl_http_stop(struct sl_http *h, void (*done)(void *arg), void *arg);

#ifdef __cplusplus
}
#endif
#endif
