/* http_lws.h - the side of a connection that faces libwebsockets (private to http.c and
 * http_conn.c). */
#ifndef SL_COORDINATOR_HTTP_LWS_H
#define SL_COORDINATOR_HTTP_LWS_H

#include <libwebsockets.h>

/* The protocol callback; its user data has sl_http_session_size() bytes, the context's user pointer
 * is struct sl_http. */
int sl_http_on_event(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                     size_t len);
size_t sl_http_session_size(void);

#endif
