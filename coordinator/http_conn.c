/* http_conn.c - the life of one HTTP connection between libwebsockets' events and the endpoints.
 *
 * libwebsockets parses heads, counts bodies and watches the socket; we decide what is accepted and
 * lay out the answer's bytes. Habits of its version 4.1 shape this file:
 *   - it does not decode chunked bodies: their raw bytes come as an endless body, http_body.c
 * decodes them, and the connection closes after the answer;
 *   - while an answer is being made it keeps reading, which is how we notice at once that a client
 *     left. Bytes of a further request that come meanwhile it stores and offers again and again
 *     (BODY_COMPLETION once more); a POST that it later parses from that store it confuses with its
 * own head. So a connection is kept only after a request with a counted body and when nothing came
 *     ahead of its time (`ahead`): clients that pipeline get their first answer and must connect
 * again;
 *   - closing with unread bytes makes the kernel reset the connection and the answer may be lost:
 * after an early error we wait a little for the rest of the body (SL_HTTP_LINGERING). */
#include <libwebsockets.h>

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/env.h"
#include "base/log.h"
#include "coordinator/http.h"
#include "coordinator/http_conn.h"
#include "coordinator/http_lws.h"

#define WRITE_MAX 32768 /* bytes given to one lws_write */
#define LINGER_S 2      /* seconds we wait for an unwanted body to end */
#define SPINS_MAX                                                                                  \
    2000 /* empty wake-ups in SPIN_WINDOW_NS before a pipelining client is dropped                 \
          */
#define SPIN_WINDOW_NS 100000000ull
#define DRAIN_MAX (1u << 20) /* bytes read and forgotten before a close */
#define SECOND_NS 1000000000ull

/* ---- life ------------------------------------------------------------------------------------ */

static struct sl_http_conn *conn_new(struct lws *wsi)
{
    struct sl_http_conn *c = calloc(1, sizeof(*c));
    if (!c) return NULL;
    c->http = lws_context_user(lws_get_context(wsi));
    c->wsi = wsi;
    lws_set_opaque_user_data(wsi, c);
    sl_buf_init(&c->in, SL_HTTP_BODY_MAX);
    sl_buf_init(&c->out, SL_HTTP_REPLY_MAX + 4096);
    sl_list_append(sl_http_conns(c->http), &c->node);
    return c;
}

static void tell_gone(struct sl_http_conn *c)
{
    void (*fn)(void *arg) = c->on_gone;
    c->on_gone = NULL;
    if (fn) fn(c->gone_arg);
}

static void conn_free(struct sl_http_conn *c)
{
    if (!c) return;
    lws_set_opaque_user_data(c->wsi, NULL);
    c->dead = 1;
    tell_gone(c);
    sl_list_remove(&c->node);
    sl_buf_close(&c->in);
    sl_buf_close(&c->out);
    free(c);
}

void sl_http_drop(struct sl_http_conn *c, const char *why)
{
    if (c->dead) return;
    sl_log(SL_LOG_INFO, "http", "connection dropped: %s", why);
    c->dead = 1;
    tell_gone(c);
    sl_buf_close(&c->out);
    sl_buf_close(&c->in);
    c->out_pos = 0;
    lws_set_timeout(c->wsi, PENDING_TIMEOUT_USER_OK, LWS_TO_KILL_ASYNC);
}

void sl_http_wake(struct sl_http_conn *c)
{
    if (!c->unsent) c->sent_ns = sl_env_now_ns(); /* until now there was nothing to wait for */
    c->unsent = 1;
    lws_callback_on_writable(c->wsi);
}

void sl_http_conn_tick(struct sl_http_conn *c, uint64_t now_ns)
{
    static const char ping[] = ": ping\n\n";
    if (c->dead) return;
    if (c->out_pos < c->out.len && now_ns - c->sent_ns > SL_HTTP_STALL_S * SECOND_NS)
        sl_http_drop(c, "the client does not read its answer");
    else if (c->streaming && c->state == SL_HTTP_WORKING &&
             now_ns - c->streamed_ns > SL_HTTP_PING_S * SECOND_NS)
        sl_http_stream_text(c, ping, sizeof(ping) - 1);
}

/* ---- the head of a request ------------------------------------------------------------------- */

static enum sl_http_method method_of(struct lws *wsi)
{
    char *uri;
    int n;
    switch (lws_http_get_uri_and_method(wsi, &uri, &n)) {
    case LWSHUMETH_GET:
        return SL_HTTP_GET;
    case LWSHUMETH_POST:
        return SL_HTTP_POST;
    case LWSHUMETH_HEAD:
        return SL_HTTP_HEAD;
    case LWSHUMETH_OPTIONS:
        return SL_HTTP_OPTIONS;
    default:
        return SL_HTTP_OTHER;
    }
}

/* Copies a header; -1 when it is absent or longer than out. */
static int header(struct lws *wsi, enum lws_token_indexes which, char *out, int cap)
{
    int n = lws_hdr_total_length(wsi, which);
    if (n <= 0 || n >= cap || lws_hdr_copy(wsi, out, cap, which) != n) return -1;
    return n;
}

/* The same rule as libwebsockets', which decides by it whether it waits for another request. */
static void read_connection(struct sl_http_conn *c)
{
    char v[64];
    int n = header(c->wsi, WSI_TOKEN_HTTP, v, sizeof(v));
    c->http10 = !(n > 7 && v[5] == '1' && v[7] == '1');
    c->keep = !c->http10;
    if (header(c->wsi, WSI_TOKEN_CONNECTION, v, sizeof(v)) > 0) {
        if (!strcasecmp(v, "keep-alive"))
            c->keep = 1;
        else if (!strcasecmp(v, "close"))
            c->keep = 0;
    }
}

/* What body follows: sets has_body, chunked_in, body_left. -1 with *e for a head that does not say
 * so clearly. */
static int read_framing(struct sl_http_conn *c, struct sl_api_error *e)
{
    char v[64];
    int len = lws_hdr_total_length(c->wsi, WSI_TOKEN_HTTP_CONTENT_LENGTH);
    int te = lws_hdr_total_length(c->wsi, WSI_TOKEN_HTTP_TRANSFER_ENCODING);
    c->has_body = len > 0 || te > 0;
    c->body_left = UINT64_MAX;
    if (te > 0) {
        if (len > 0)
            return sl_api_bad(
                e, NULL,
                "the request has both Content-Length and Transfer-Encoding; send one of them");
        if (header(c->wsi, WSI_TOKEN_HTTP_TRANSFER_ENCODING, v, sizeof(v)) < 0 ||
            strcasecmp(v, "chunked") != 0)
            return sl_api_fail(
                e, 501, "invalid_request_error", NULL, NULL,
                "this Transfer-Encoding is not supported; send a plain or a chunked body");
        if (c->method != SL_HTTP_POST) /* libwebsockets would take the body for the next request */
            return sl_api_bad(e, NULL, "only POST can have a chunked body here");
        c->chunked_in = 1;
        sl_http_chunks_init(&c->chunks);
        return 0;
    }
    if (len > 0) {
        int n = header(c->wsi, WSI_TOKEN_HTTP_CONTENT_LENGTH, v, 20);
        if (n < 0 || strspn(v, "0123456789") != (size_t)n)
            return sl_api_bad(e, NULL, "the Content-Length is not a number");
        c->body_left = strtoull(v, NULL, 10);
        c->has_body = c->body_left > 0;
        if (c->body_left > SL_HTTP_BODY_MAX)
            return sl_api_fail(e, 413, "invalid_request_error", NULL, NULL,
                               "the body has %s bytes; at most %u are accepted", v,
                               SL_HTTP_BODY_MAX);
        return 0;
    }
    if (c->method == SL_HTTP_GET || c->method == SL_HTTP_HEAD || c->method == SL_HTTP_OPTIONS) {
        c->body_left = 0;
        c->keep = 0; /* we should not notice what comes ahead */
        return 0;
    }
    c->has_body =
        1; /* libwebsockets waits for one, so the connection cannot go on after the answer */
    c->keep = 0;
    if (c->method == SL_HTTP_OTHER) return 0; /* 405 says more */
    return sl_api_fail(
        e, 411, "invalid_request_error", NULL, NULL,
        "the request has neither Content-Length nor a chunked body; send one of them");
}

static int authorised(struct sl_http_conn *c)
{
    char v[SL_KEY_LEN_MAX + 64];
    struct sl_http_api *api = sl_http_api(c);
    if (!api->keys || c->route->open) return 1;
    int n = header(c->wsi, WSI_TOKEN_HTTP_AUTHORIZATION, v, sizeof(v));
    int ok = n > 0 && sl_keys_check_bearer(api->keys, v, (size_t)n);
    explicit_bzero(v, sizeof(v));
    return ok;
}

static void allow_line(const struct sl_http_route *r, char *out, size_t cap)
{
    snprintf(out, cap, "Allow: %s%sOPTIONS\r\n", r->methods & SL_HTTP_GET ? "GET, HEAD, " : "",
             r->methods & SL_HTTP_POST ? "POST, " : "");
}

static void refuse_method(struct sl_http_conn *c)
{
    struct sl_api_error e;
    char allow[64];
    allow_line(c->route, allow, sizeof(allow));
    sl_api_fail(&e, 405, "invalid_request_error", NULL, NULL,
                "%s does not know this method; the Allow header lists them", c->route->path);
    json_t *o = sl_api_error_json(&e);
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    sl_http_reply(c, 405, "application/json", allow, text ? text : "", text ? strlen(text) : 0);
    free(text);
}

/* Answers what can be answered from the head alone. Returns 1 when it did. */
static int answer_early(struct sl_http_conn *c, const char *path, size_t n)
{
    struct sl_api_error e;
    if (read_framing(c, &e)) {
        c->keep = 0;
        sl_http_reply_error(c, &e);
        return 1;
    }
    c->route = sl_http_find_route(path, n);
    if (!c->route) {
        sl_api_fail(&e, 404, "invalid_request_error", "not_found", NULL, "there is nothing at %.*s",
                    (int)SL_MIN(n, 100), path);
        sl_http_reply_error(c, &e);
        return 1;
    }
    enum sl_http_method m = c->method == SL_HTTP_HEAD ? SL_HTTP_GET : c->method;
    if (m == SL_HTTP_OPTIONS) {
        char allow[64];
        allow_line(c->route, allow, sizeof(allow));
        sl_http_reply(c, 204, NULL, allow, NULL, 0);
        return 1;
    }
    if (!(c->route->methods & (int)m)) {
        refuse_method(c);
        return 1;
    }
    if (!authorised(c)) {
        sl_http_api(c)->metrics->unauthorised++;
        sl_api_from_code(&e, SL_EAUTH,
                         "no valid API key; send the header \"Authorization: Bearer KEY\"");
        sl_http_reply_error(c, &e);
        return 1;
    }
    return 0;
}

static void begin_request(struct sl_http_conn *c)
{
    c->route = NULL;
    c->has_body = c->chunked_in = c->streaming = c->chunked_out = c->ahead = 0;
    c->body_done = 0;
    c->connection_at = 0;
    c->since_ns = sl_env_now_ns();
    c->spins = 0;
    c->state = SL_HTTP_BODY;
    c->method = method_of(c->wsi);
    sl_buf_close(&c->in);
    sl_buf_clear(&c->out);
    c->out_pos = 0;
    c->unsent = 0;
}

static int on_head(struct lws *wsi, struct sl_http_conn *c, const char *path, size_t n)
{
    char expect[32];
    if (!c && !(c = conn_new(wsi))) return -1;
    if (c->dead) return -1;
    begin_request(c);
    read_connection(c);
    if (answer_early(c, path, n)) return 0;
    if (!c->has_body) {
        if (c->method != SL_HTTP_POST) /* an empty POST still gets its body events */
            sl_http_dispatch(c);
        return 0;
    }
    if (header(wsi, WSI_TOKEN_HTTP_EXPECT, expect, sizeof(expect)) > 0 &&
        !strcasecmp(expect, "100-continue")) {
        if (sl_buf_puts(&c->out, "HTTP/1.1 100 Continue\r\n\r\n")) return -1;
        sl_http_wake(c);
    }
    return 0;
}

/* ---- the body -------------------------------------------------------------------------------- */

static int take_body(struct sl_http_conn *c, const char *in, size_t n)
{
    struct sl_api_error e;
    size_t used = 0;
    int rc;
    if (c->chunked_in) {
        rc = sl_http_chunks_feed(&c->chunks, in, n, &used, &c->in);
    } else {
        rc = sl_buf_add(&c->in, in, n);
    }
    if (rc == 1) {
        c->body_done = 1;
        sl_http_dispatch(c);
        return 0;
    }
    if (rc == 0 && sl_env_now_ns() - c->since_ns > SL_HTTP_BODY_S * SECOND_NS) {
        c->keep = 0;
        sl_api_fail(&e, 408, "invalid_request_error", NULL, NULL,
                    "the body took longer than %d seconds", SL_HTTP_BODY_S);
        sl_http_reply_error(c, &e);
    } else if (rc == SL_ELIMIT) {
        sl_api_fail(&e, 413, "invalid_request_error", NULL, NULL,
                    "the body has more than the %u bytes that are accepted", SL_HTTP_BODY_MAX);
        sl_http_reply_error(c, &e);
    } else if (rc == SL_EPROTO) {
        sl_api_bad(&e, NULL, "the chunked body is malformed");
        sl_http_reply_error(c, &e);
    } else if (rc) {
        return -1;
    }
    return 0;
}

static int on_body(struct sl_http_conn *c, const char *in, size_t n)
{
    if (!c || c->dead) return -1;
    if (c->body_left != UINT64_MAX) c->body_left -= SL_MIN(c->body_left, n);
    switch (c->state) {
    case SL_HTTP_BODY:
        return take_body(c, in, n);
    case SL_HTTP_LINGERING:
        return sl_env_now_ns() - c->sent_ns > LINGER_S * SECOND_NS ? -1 : 0;
    default: /* unwanted: more after a chunked body's end, or after an early answer */
        return 0;
    }
}

/* Forgets what has come already, so that closing does not reset the connection under the answer. */
static void drain(struct sl_http_conn *c)
{
    char bytes[4096];
    int fd = (int)lws_get_socket_fd(c->wsi);
    shutdown(fd, SHUT_WR);
    for (size_t n = 0; n < DRAIN_MAX; n += sizeof(bytes))
        if (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) <= 0) return;
}

static int on_body_end(struct sl_http_conn *c)
{
    if (!c || c->dead) return -1;
    if (c->state == SL_HTTP_LINGERING) {
        drain(c);
        return -1;
    }
    if (!c->body_done && c->state != SL_HTTP_BODY) { /* the end of a body that was refused */
        c->body_done = 1;
        return 0;
    }
    c->body_done = 1;
    if (c->state == SL_HTTP_BODY) {
        sl_http_dispatch(c);
        return 0;
    }
    c->ahead = 1;
    c->keep = 0;
    /* Already at work on this request: the client has sent the next one and libwebsockets keeps its
     * bytes until we are done. When more of them wait in the socket it calls again at once, for
     * ever. */
    uint64_t now = sl_env_now_ns();
    if (now - c->spin_ns > SPIN_WINDOW_NS) {
        c->spin_ns = now;
        c->spins = 0;
    }
    if (++c->spins > SPINS_MAX) {
        sl_log(
            SL_LOG_INFO, "http",
            "connection dropped: the client sends further requests or left while one is running");
        return -1;
    }
    return 0;
}

/* ---- sending --------------------------------------------------------------------------------- */

/* The answer is out: on to the next request, or to the end. Returns what the callback shall. */
static int finish(struct sl_http_conn *c)
{
    if (c->has_body && !c->body_done) {
        c->state = SL_HTTP_LINGERING;
        c->sent_ns = sl_env_now_ns();
        lws_set_timeout(c->wsi, PENDING_TIMEOUT_USER_OK, LINGER_S);
        return 0;
    }
    if (c->keep) {
        c->state = SL_HTTP_WAITING;
        c->streaming = 0;
        return lws_http_transaction_completed(c->wsi) ? -1 : 0;
    }
    drain(c);
    return -1;
}

static int on_writable(struct sl_http_conn *c)
{
    unsigned char bytes[LWS_PRE + WRITE_MAX];
    if (!c) return 0;
    if (c->dead) return -1;
    if (c->connection_at && !c->keep && c->out_pos <= c->connection_at)
        memcpy(c->out.data + c->connection_at, "close     ",
               10); /* learnt since the head was made */
    size_t n = SL_MIN(c->out.len - c->out_pos, (size_t)WRITE_MAX);
    if (n) {
        c->connection_at = 0;
        memcpy(bytes + LWS_PRE, c->out.data + c->out_pos, n);
        if (lws_write(c->wsi, bytes + LWS_PRE, n, LWS_WRITE_HTTP) < (int)n) return -1;
        c->out_pos += n;
        c->sent_ns = sl_env_now_ns();
        if (c->out_pos == c->out.len) {
            sl_buf_clear(&c->out);
            c->out_pos = 0;
            c->unsent = 0;
        } else if (c->out_pos > SL_HTTP_STREAM_OUT_MAX / 4 && c->streaming) {
            sl_buf_consume(&c->out, c->out_pos);
            c->out_pos = 0;
        }
        if (c->out.len || lws_partial_buffered(c->wsi)) {
            lws_callback_on_writable(c->wsi);
            return 0;
        }
    }
    /* At once with the last byte: the client may send its next request as soon as it has that. */
    return c->state == SL_HTTP_SENDING ? finish(c) : 0;
}

/* ---- libwebsockets --------------------------------------------------------------------------- */

int sl_http_on_event(struct lws *wsi, enum lws_callback_reasons reason, void *in, size_t len)
{
    struct sl_http_conn *c = lws_get_opaque_user_data(wsi);
    switch (reason) {
    case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE:
        /* We upgrade to nothing. A server may ignore the wish, but libwebsockets asks only whether
         * to hang up or to grant it: a name that it does not know lets it go on with plain HTTP. */
        *(char *)in = '-';
        return 0;
    case LWS_CALLBACK_HTTP:
        return on_head(wsi, c, in, len);
    case LWS_CALLBACK_HTTP_BODY:
        return on_body(c, in, len);
    case LWS_CALLBACK_HTTP_BODY_COMPLETION:
        return on_body_end(c);
    case LWS_CALLBACK_HTTP_WRITEABLE:
        return on_writable(c);
    case LWS_CALLBACK_HTTP_DROP_PROTOCOL: /* also between two requests */
        if (c && c->state != SL_HTTP_WAITING) conn_free(c);
        return 0;
    case LWS_CALLBACK_CLOSED_HTTP: /* not for every connection that closes ... */
    case LWS_CALLBACK_WSI_DESTROY: /* ... but this, a loop turn later */
        conn_free(c);
        return 0;
    default:
        return 0;
    }
}

int sl_http_conn_adopt(struct lws_vhost *vh, int fd)
{
    lws_sock_file_fd_type u = {.sockfd = fd};
    struct lws *wsi =
        lws_adopt_descriptor_vhost(vh, LWS_ADOPT_SOCKET | LWS_ADOPT_HTTP, u, NULL, NULL);
    return wsi ? 0 : -1;
}
