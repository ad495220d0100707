/* http_lws.h - the side of a connection that faces libwebsockets (private to http.c and
 * http_conn.c). */
#ifndef SL_COORDINATOR_HTTP_LWS_H
#define SL_COORDINATOR_HTTP_LWS_H

#include <libwebsockets.h>

/* What the protocol callback does; the context's user pointer is struct sl_http. */
int sl_http_on_event(struct lws *wsi, enum lws_callback_reasons reason, void *in, size_t len);

#endif
