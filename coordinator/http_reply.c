/* http_reply.c - answers: status line, headers, body, and server-sent events. */
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "coordinator/http.h"
#include "coordinator/http_conn.h"

static const char *reason(int status)
{
    switch (status) {
    case 200:
        return "OK";
    case 204:
        return "No Content";
    case 400:
        return "Bad Request";
    case 401:
        return "Unauthorized";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 408:
        return "Request Timeout";
    case 411:
        return "Length Required";
    case 413:
        return "Content Too Large";
    case 429:
        return "Too Many Requests";
    case 500:
        return "Internal Server Error";
    case 501:
        return "Not Implemented";
    case 503:
        return "Service Unavailable";
    default:
        return "Unknown";
    }
}

static int put_head(struct sl_http_conn *c, int status, const char *type, const char *extra)
{
    int rc = sl_buf_printf(&c->out, "HTTP/1.1 %d %s\r\nConnection: ", status, reason(status));
    c->connection_at = c->keep ? c->out.len : 0; /* may have to be unsaid */
    rc |= sl_buf_puts(&c->out, c->keep ? "keep-alive\r\n" : "close\r\n");
    if (type) rc |= sl_buf_printf(&c->out, "Content-Type: %s\r\n", type);
    rc |= sl_buf_puts(&c->out, extra ? extra : "");
    return rc;
}

void sl_http_reply(struct sl_http_conn *c, int status, const char *type, const char *extra,
                   const void *body, size_t n)
{
    c->on_gone = NULL;
    if (c->dead) return;
    SL_ASSERT(c->state == SL_HTTP_BODY || c->state == SL_HTTP_WORKING);
    if (c->has_body && (c->state == SL_HTTP_BODY || c->chunked_in))
        c->keep = 0; /* we do not read on to where the next request begins */
    int rc = put_head(c, status, type, extra);
    if (status != 204) rc |= sl_buf_printf(&c->out, "Content-Length: %zu\r\n", n);
    rc |= sl_buf_puts(&c->out, "\r\n");
    if (c->method != SL_HTTP_HEAD && n) rc |= sl_buf_add(&c->out, body, n);
    if (rc) {
        sl_http_drop(c, "the answer is larger than SL_HTTP_REPLY_MAX or memory is out");
        return;
    }
    c->state = SL_HTTP_SENDING;
    sl_buf_close(&c->in);
    sl_http_wake(c);
}

void sl_http_reply_json(struct sl_http_conn *c, int status, json_t *o)
{
    char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(o);
    if (text) {
        sl_http_reply(c, status, "application/json", NULL, text, strlen(text));
    } else {
        static const char oom[] =
            "{\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\","
            "\"param\":null,\"code\":null}}";
        sl_http_reply(c, 500, "application/json", NULL, oom, sizeof(oom) - 1);
    }
    free(text);
}

void sl_http_reply_error(struct sl_http_conn *c, const struct sl_api_error *e)
{
    const char *extra = NULL;
    if (e->status == 429 || e->status == 503)
        extra = "Retry-After: 1\r\n";
    else if (e->status == 401)
        extra = "WWW-Authenticate: Bearer\r\n";
    json_t *o = sl_api_error_json(e);
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    sl_http_reply(c, e->status, "application/json", extra, text ? text : "",
                  text ? strlen(text) : 0);
    free(text);
}

/* ---- streams --------------------------------------------------------------------------------- */

void sl_http_stream_begin(struct sl_http_conn *c)
{
    if (c->dead) return;
    SL_ASSERT(c->state == SL_HTTP_WORKING && !c->streaming);
    c->streaming = 1;
    c->chunked_out = !c->http10;
    if (c->http10 || c->chunked_in) c->keep = 0;
    c->streamed_ns = sl_env_now_ns();
    sl_buf_close(&c->in);
    if (put_head(c, 200, "text/event-stream; charset=utf-8",
                 c->chunked_out ? "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
                                : "Cache-Control: no-cache\r\n\r\n"))
        sl_http_drop(c, "out of memory");
    else
        sl_http_wake(c);
}

int sl_http_stream_text(struct sl_http_conn *c, const char *text, size_t n)
{
    if (c->dead) return SL_ECLOSED;
    SL_ASSERT(c->streaming && c->state == SL_HTTP_WORKING);
    if (c->out.len - c->out_pos + n > SL_HTTP_STREAM_OUT_MAX) {
        sl_http_drop(c, "the client does not read its stream");
        return SL_ECLOSED;
    }
    int rc = 0;
    if (c->chunked_out) rc |= sl_buf_printf(&c->out, "%zx\r\n", n);
    rc |= sl_buf_add(&c->out, text, n);
    if (c->chunked_out) rc |= sl_buf_puts(&c->out, "\r\n");
    if (rc) {
        sl_http_drop(c, "out of memory");
        return SL_ECLOSED;
    }
    c->streamed_ns = sl_env_now_ns();
    sl_http_wake(c);
    return 0;
}

int sl_http_stream_json(struct sl_http_conn *c, json_t *o)
{
    char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    struct sl_buf line;
    json_decref(o);
    sl_buf_init(&line, SL_HTTP_STREAM_OUT_MAX);
    int rc = !text || sl_buf_puts(&line, "data: ") || sl_buf_puts(&line, text) ||
             sl_buf_puts(&line, "\n\n");
    free(text);
    if (rc) {
        sl_http_drop(c, "out of memory");
        rc = SL_ECLOSED;
    } else {
        rc = sl_http_stream_text(c, line.data, line.len);
    }
    sl_buf_close(&line);
    return rc;
}

void sl_http_stream_end(struct sl_http_conn *c, int done)
{
    static const char last[] = "data: [DONE]\n\n";
    c->on_gone = NULL;
    if (c->dead || (done && sl_http_stream_text(c, last, sizeof(last) - 1))) return;
    if (c->chunked_out && sl_buf_puts(&c->out, "0\r\n\r\n")) {
        sl_http_drop(c, "out of memory");
        return;
    }
    c->state = SL_HTTP_SENDING;
    sl_http_wake(c);
}

void sl_http_on_gone(struct sl_http_conn *c, void (*fn)(void *arg), void *arg)
{
    c->on_gone = fn;
    c->gone_arg = arg;
}
