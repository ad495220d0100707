/* http_conn.h - one HTTP connection as its endpoint sees it (private to http*.c and api_*.c).
 *
 * An endpoint is called once a request has arrived whole. It answers at once with sl_http_reply...,
 * or keeps the connection and answers later, whole or as a stream. While it keeps it, on_gone tells
 * it that the client left (or was dropped because it does not read): after on_gone the connection
 * must not be touched. */
#ifndef SL_COORDINATOR_HTTP_CONN_H
#define SL_COORDINATOR_HTTP_CONN_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/list.h"
#include "coordinator/api_json.h"
#include "coordinator/http_body.h"
#include "coordinator/keys.h"
#include "coordinator/metrics.h"
#include "coordinator/service.h"

struct lws;
struct lws_context;
struct lws_vhost;
struct sl_http_conn;

enum sl_http_method {
    SL_HTTP_GET = 1,
    SL_HTTP_POST = 2,
    SL_HTTP_HEAD = 4,
    SL_HTTP_OPTIONS = 8,
    SL_HTTP_OTHER = 16
};

struct sl_http_route {
    const char *path;
    int methods; /* of enum sl_http_method; HEAD comes with GET, OPTIONS always */
    int open;    /* needs no API key: health probes */
    void (*serve)(struct sl_http_conn *c);
};

enum sl_http_state {
    SL_HTTP_WAITING,  /* for a request */
    SL_HTTP_BODY,     /* a body is coming in */
    SL_HTTP_WORKING,  /* an endpoint has it */
    SL_HTTP_SENDING,  /* the answer is complete and goes out */
    SL_HTTP_LINGERING /* sent, but the client still sends a body we do not want */
};

struct sl_http_conn {
    struct sl_list node; /* in sl_http.conns */
    struct sl_http *http;
    struct lws *wsi;
    enum sl_http_state state;
    enum sl_http_method method;
    const struct sl_http_route *route;
    int http10, keep; /* keep: another request may follow */
    int has_body, body_done;
    int ahead; /* bytes of a further request came before this one was answered */
    int chunked_in;
    struct sl_http_chunks chunks;
    uint64_t body_left; /* Content-Length not yet received */
    struct sl_buf in;   /* the body */
    struct sl_buf out;  /* what is to be sent, from out_pos */
    size_t out_pos;
    size_t connection_at; /* where the head in `out` says keep-alive, 0: nowhere or sent */
    int streaming, chunked_out;
    int dead;             /* being dropped: nothing goes in or out any more */
    uint64_t since_ns;    /* the request began */
    int unsent;           /* `out` holds something; since sent_ns nothing of it went out */
    uint64_t sent_ns;     /* something went out, or there was nothing to send */
    uint64_t streamed_ns; /* last bytes queued on a stream */
    uint64_t spin_ns;     /* pipelining guard: window and count of empty wake-ups */
    unsigned spins;
    void (*on_gone)(void *arg);
    void *gone_arg;
};

/* What the API endpoints need from the server. */
struct sl_http_api {
    struct sl_service *service;
    struct sl_keys *keys;
    struct sl_metrics *metrics;
    size_t
        piece_max; /* bytes of the longest token: bounds what a prompt can be; 0 = not known yet */
};
struct sl_http_api *sl_http_api(struct sl_http_conn *c);

/* ---- for endpoints --------------------------------------------------------------------------- */

/* Whole answers. The connection is given up with the call. `extra` is NULL or complete header
 * lines. */
void sl_http_reply(struct sl_http_conn *c, int status, const char *type, const char *extra,
                   const void *body, size_t n);
void sl_http_reply_json(struct sl_http_conn *c, int status, json_t *o); /* takes the reference */
void sl_http_reply_error(struct sl_http_conn *c, const struct sl_api_error *e);
/* A stream of server-sent events. An event is the JSON object; a stream ends with "data: [DONE]"
 * when `done`. They return SL_ECLOSED when the client was dropped meanwhile (on_gone has been
 * called). */
void sl_http_stream_begin(struct sl_http_conn *c);
int sl_http_stream_json(struct sl_http_conn *c, json_t *o); /* takes the reference */
void sl_http_stream_end(struct sl_http_conn *c, int done);
/* Who is told that the client is gone; NULL for nobody. */
void sl_http_on_gone(struct sl_http_conn *c, void (*fn)(void *arg), void *arg);

/* ---- for http.c and http_conn.c -------------------------------------------------------------- */

int sl_http_stream_text(struct sl_http_conn *c, const char *text, size_t n);
void sl_http_wake(struct sl_http_conn *c); /* there is something to send */
void sl_http_drop(struct sl_http_conn *c, const char *why);
/* Once a second: pings, stalled readers. */
void sl_http_conn_tick(struct sl_http_conn *c, uint64_t now_ns);
int sl_http_conn_adopt(struct lws_vhost *vh, int fd);
struct sl_list *sl_http_conns(struct sl_http *h);
void sl_http_dispatch(struct sl_http_conn *c); /* calls the endpoint */
/* The row for a path, NULL when there is none. */
const struct sl_http_route *sl_http_find_route(const char *path, size_t n);

#endif
