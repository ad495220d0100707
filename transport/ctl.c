/* ctl.c - see ctl.h. Failure list: peer closes (EOF), peer resets, bad message, peer does not read
 * (queue over its limit), no memory: each becomes one on_end with the reason. */
#include "transport/ctl.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "base/sl_assert.h"

#define READ_CHUNK (64 * 1024) /* bytes */
#define CLOSE_GRACE_MS 1000    /* how long a closing connection may take to flush */

struct sl_ctl_conn {
    union {
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } io;
    uv_timer_t grace;
    uv_shutdown_t shutdown;
    int open_handles;
    int ended, closing;
    int fault; /* why we cut the connection off ourselves, 0: we did not */
    sl_ctl_message_fn on_message;
    sl_ctl_end_fn on_end;
    void *arg;
    struct sl_buf in;
};

struct write_req {
    uv_write_t req;
    struct sl_buf out;
};

static void on_handle_closed(uv_handle_t *h)
{
    struct sl_ctl_conn *c = h->data;
    if (--c->open_handles > 0) return;
    sl_buf_close(&c->in);
    free(c);
}

static void close_handles(struct sl_ctl_conn *c)
{
    if (!uv_is_closing((uv_handle_t *)&c->io.stream))
        uv_close((uv_handle_t *)&c->io.stream, on_handle_closed);
    if (!uv_is_closing((uv_handle_t *)&c->grace))
        uv_close((uv_handle_t *)&c->grace, on_handle_closed);
}

/* The connection is of no use any more: tell the owner once; the handles go when he closes it. */
static void end(struct sl_ctl_conn *c, int code, const char *why)
{
    if (c->ended || c->closing) return;
    c->ended = 1;
    uv_read_stop(&c->io.stream);
    struct sl_err e;
    if (c->fault) /* what we see now is our own doing */
        sl_err_set(&e, c->fault, "%s",
                   c->fault == SL_EBUSY ? "the peer does not read" : sl_strerror(c->fault));
    else
        sl_err_set(&e, code, "%s", why);
    c->on_end(c->arg, &e);
}

static void on_alloc(uv_handle_t *h, size_t hint, uv_buf_t *buf)
{
    struct sl_ctl_conn *c = h->data;
    (void)hint;
    *buf = sl_buf_reserve(&c->in, READ_CHUNK) ? uv_buf_init(NULL, 0)
                                              : uv_buf_init(c->in.data + c->in.len, READ_CHUNK);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct sl_ctl_conn *c = stream->data;
    (void)buf;
    if (n < 0) {
        end(c, SL_ECLOSED,
            n == UV_EOF ? "the peer closed the control connection" : uv_strerror((int)n));
        return;
    }
    c->in.len += (size_t)n;
    size_t at = 0;
    while (!c->ended && !c->closing) {
        struct sl_ctl m;
        struct sl_err e = {0};
        size_t used = 0;
        int r = sl_ctl_unpack(c->in.data + at, c->in.len - at, &m, &used, &e);
        at += used; /* also without a message: what was skipped */
        if (r == SL_EAGAIN) break;
        if (r) {
            end(c, r, e.msg);
            return;
        }
        c->on_message(c->arg, &m);
        sl_ctl_free(&m);
    }
    sl_buf_consume(&c->in, at);
}

static void on_written(uv_write_t *req, int status)
{
    struct write_req *w = sl_container_of(req, struct write_req, req);
    struct sl_ctl_conn *c = req->handle->data;
    sl_buf_close(&w->out);
    free(w);
    if (status < 0 && status != UV_ECANCELED) end(c, SL_ECLOSED, uv_strerror(status));
}

int sl_ctl_conn_send(struct sl_ctl_conn *c, const struct sl_ctl *m)
{
    if (c->ended || c->closing) return SL_ECLOSED;
    struct write_req *w = calloc(1, sizeof *w);
    if (!w) return SL_ENOMEM;
    sl_buf_init(&w->out, SL_CTL_MESSAGE_MAX + 4);
    int r = sl_ctl_pack(m, &w->out);
    if (r == 0 && uv_stream_get_write_queue_size(&c->io.stream) + w->out.len > SL_CTL_QUEUE_MAX)
        r = SL_EBUSY;
    if (r == 0) {
        uv_buf_t b = uv_buf_init(w->out.data, (unsigned)w->out.len);
        if (uv_write(&w->req, &c->io.stream, &b, 1, on_written) == 0) return 0;
        r = SL_ECLOSED;
    }
    sl_buf_close(&w->out);
    free(w);
    /* make the loop see the end: the owner must not be called from inside his own send */
    c->fault = r;
    uv_os_fd_t fd;
    if (uv_fileno((uv_handle_t *)&c->io.stream, &fd) == 0) shutdown(fd, SHUT_RDWR);
    return r;
}

static void on_grace(uv_timer_t *t)
{
    close_handles(t->data);
}

static void on_shutdown(uv_shutdown_t *req, int status)
{
    (void)status;
    close_handles(req->handle->data);
}

void sl_ctl_conn_close(struct sl_ctl_conn *c)
{
    if (!c || c->closing) return;
    c->closing = 1;
    uv_read_stop(&c->io.stream);
    if (!c->ended && uv_shutdown(&c->shutdown, &c->io.stream, on_shutdown) == 0)
        uv_timer_start(&c->grace, on_grace, CLOSE_GRACE_MS, 0);
    else
        close_handles(c);
}

int sl_ctl_conn_open(struct uv_loop_s *loop, int fd, sl_ctl_message_fn on_message,
                     sl_ctl_end_fn on_end, void *arg, struct sl_ctl_conn **out, struct sl_err *err)
{
    struct sl_ctl_conn *c = calloc(1, sizeof *c);
    int domain = 0, r;
    socklen_t len = sizeof domain;
    if (!c || getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len)) {
        r = sl_err_set(err, c ? SL_ESYS : SL_ENOMEM, "cannot use the control socket: %s",
                       strerror(errno));
        close(fd);
        free(c);
        return r;
    }
    c->on_message = on_message;
    c->on_end = on_end;
    c->arg = arg;
    sl_buf_init(&c->in, SL_CTL_MESSAGE_MAX + 4 + READ_CHUNK);
    uv_timer_init(loop, &c->grace);
    if (domain == AF_UNIX) {
        uv_pipe_init(loop, &c->io.pipe, 0);
        r = uv_pipe_open(&c->io.pipe, fd);
    } else {
        uv_tcp_init(loop, &c->io.tcp);
        r = uv_tcp_open(&c->io.tcp, fd);
        if (r == 0) uv_tcp_nodelay(&c->io.tcp, 1);
    }
    c->open_handles = 2;
    c->io.stream.data = c->grace.data = c;
    if (r)
        close(fd); /* the handle did not take it */
    else
        r = uv_read_start(&c->io.stream, on_alloc, on_read);
    if (r) {
        c->closing = 1;
        close_handles(c);
        return sl_err_set(err, SL_ESYS, "cannot use the control socket: %s", uv_strerror(r));
    }
    *out = c;
    return 0;
}
