/* listen.c - accepts connections of the socket API and moves their bytes; api_client.c knows what
 * they mean.
 *
 * Nothing a client does makes us hold more than: one incomplete message (all clients together
 * SL_CLIENT_IN_TOTAL_MAX), its running requests, and SL_CLIENT_OUT_MAX bytes of answers. */
#include "coordinator/listen.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

#include "base/env.h"
#include "base/list.h"
#include "base/log.h"
#include "base/text.h"
#include "coordinator/api_client.h"

#define BACKLOG 128
#define READ_SIZE 65536
#define TICK_MS 500
#define FLUSH_S 2 /* seconds an error may take to reach a client that is being dropped */
#define SECOND_NS 1000000000ull

union stream {
    uv_handle_t handle;
    uv_stream_t stream;
    uv_tcp_t tcp;
    uv_pipe_t pipe;
};

struct sl_listen {
    uv_loop_t *loop;
    union stream server;
    uv_timer_t tick;
    struct sl_service *service;
    struct sl_keys *keys;
    struct sl_list conns;
    int is_path, port, n_conns, handles;
    size_t in_total;       /* bytes of incomplete messages */
    char chunk[READ_SIZE]; /* what uv reads into; used up at once */
    int stopping;
    void (*done)(void *arg);
    void *done_arg;
};

struct conn {
    struct sl_client client;
    struct sl_list node;
    struct sl_listen *l;
    union stream s;
    uv_write_t write;
    int writing;      /* a write is under way: its bytes are `going` */
    int closing;      /* 1: when the write is done, 2: uv_close was called */
    struct sl_buf in; /* an incomplete message */
    struct sl_buf out, going;
    size_t queued;     /* bytes of the write that libuv still had when we last looked ... */
    uint64_t moved_ns; /* ... and since when that many */
    uint64_t since_ns; /* of the connection, or of the incomplete message's first byte */
};

/* ---- closing --------------------------------------------------------------------------------- */

static void maybe_done(struct sl_listen *l)
{
    if (!l->stopping || l->handles || l->n_conns) return;
    if (l->done) l->done(l->done_arg);
    free(l);
}

static void on_conn_closed(uv_handle_t *h)
{
    struct conn *c = h->data;
    struct sl_listen *l = c->l;
    sl_list_remove(&c->node);
    l->n_conns--;
    sl_buf_close(&c->in);
    sl_buf_close(&c->out);
    sl_buf_close(&c->going);
    free(c);
    maybe_done(l);
}

/* Ends the connection now; its requests are cancelled before this returns. */
static void conn_close(struct conn *c)
{
    if (c->closing == 2) return;
    c->closing = 2;
    sl_client_close(&c->client);
    c->l->in_total -= c->in.len;
    sl_buf_close(&c->in);
    uv_close(&c->s.handle, on_conn_closed);
}

static void on_drop(struct sl_client *client, const char *why)
{
    struct conn *c = sl_container_of(client, struct conn, client);
    if (c->closing) return;
    sl_log(SL_LOG_INFO, "listen", "client dropped: %s", why);
    sl_client_close(client);
    if (!c->writing) {
        conn_close(c);
        return;
    }
    c->closing = 1; /* the error is still on its way */
    c->since_ns = sl_env_now_ns();
}

/* ---- writing --------------------------------------------------------------------------------- */

static void write_more(struct conn *c);

static void on_written(uv_write_t *w, int status)
{
    struct conn *c = sl_container_of(w, struct conn, write);
    c->writing = 0;
    sl_buf_clear(&c->going);
    if (c->closing == 2) return;
    if (status < 0)
        conn_close(c);
    else
        write_more(c);
}

static void write_more(struct conn *c)
{
    if (c->writing || c->closing == 2) return;
    if (!c->out.len) {
        if (c->closing == 1) conn_close(c);
        return;
    }
    struct sl_buf full = c->out;
    c->out = c->going;
    c->going = full;
    uv_buf_t b = uv_buf_init(c->going.data, (unsigned)c->going.len);
    c->writing = 1;
    c->queued = 0;
    c->moved_ns = sl_env_now_ns();
    if (uv_write(&c->write, &c->s.stream, &b, 1, on_written)) {
        c->writing = 0;
        conn_close(c);
    }
}

static void on_send(struct sl_client *client, const char *bytes, size_t n)
{
    struct conn *c = sl_container_of(client, struct conn, client);
    if (c->closing) return;
    if (c->out.len + c->going.len + n > SL_CLIENT_OUT_MAX || sl_buf_add(&c->out, bytes, n)) {
        sl_log(SL_LOG_INFO, "listen", "client dropped: it does not read its answers");
        conn_close(c);
        return;
    }
    write_more(c);
}

/* ---- reading --------------------------------------------------------------------------------- */

static void on_alloc(uv_handle_t *h, size_t n, uv_buf_t *buf)
{
    struct conn *c = h->data;
    (void)n;
    *buf = uv_buf_init(c->l->chunk, sizeof(c->l->chunk));
}

/* Takes whole messages from bytes[0..n) and returns how many bytes they had. Stops when the
 * connection ends. */
static size_t take_messages(struct conn *c, const char *bytes, size_t n)
{
    size_t pos = 0, len, used;
    while (!c->closing) {
        struct sl_err err = {0};
        struct sl_api_msg m;
        size_t max = c->client.greeted ? SL_API_MESSAGE_MAX : SL_CLIENT_HELLO_MAX;
        int rc = sl_api_msg_length(bytes + pos, n - pos, max, &len, &err);
        if (rc == 0) rc = sl_api_msg_unpack(bytes + pos, n - pos, &m, &used, &err);
        if (rc == SL_EAGAIN) break;
        if (rc == 0) {
            sl_client_message(&c->client, &m);
            sl_api_msg_free(&m);
        } else {
            sl_client_error(&c->client, rc == SL_EUNSUPPORTED ? m.id : 0, rc,
                            rc == SL_EUNSUPPORTED ? "this server does not know this kind of message"
                                                  : err.msg);
            if (rc != SL_EUNSUPPORTED) {
                on_drop(&c->client, err.msg);
                break;
            }
        }
        pos += used;
    }
    return pos;
}

/* Keeps bytes for later. */
static void keep(struct conn *c, const char *bytes, size_t n)
{
    if (!n || c->closing) return;
    if (!c->in.len) c->since_ns = sl_env_now_ns();
    if (c->l->in_total + n > SL_CLIENT_IN_TOTAL_MAX || sl_buf_add(&c->in, bytes, n)) {
        sl_client_error(&c->client, 0, SL_EBUSY,
                        "all clients together are sending too much at once; try again later");
        on_drop(&c->client, "too many bytes of incomplete messages");
        return;
    }
    c->l->in_total += n;
}

static void take_bytes(struct conn *c, const char *bytes, size_t n)
{
    size_t used;
    if (!c->in.len) { /* the usual case: whole messages, nothing is copied */
        used = take_messages(c, bytes, n);
        keep(c, bytes + used, n - used);
        return;
    }
    keep(c, bytes, n);
    if (c->closing) return;
    /* Before the announced length is there it is no use to look again: a large message comes in a
     * thousand pieces. */
    size_t len = 0;
    int rc = sl_api_msg_length(c->in.data, c->in.len, SL_API_MESSAGE_MAX, &len, NULL);
    if (rc == SL_EAGAIN || (rc == 0 && c->client.greeted && c->in.len < SL_API_LENGTH_BYTES + len))
        return;
    used = take_messages(c, c->in.data, c->in.len);
    if (c->closing || !used) return;
    sl_buf_consume(&c->in, used);
    c->l->in_total -= used;
    c->since_ns = sl_env_now_ns();
    if (!c->in.len) sl_buf_close(&c->in);
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    struct conn *c = s->data;
    if (n < 0)
        conn_close(c); /* gone: everything of it is cancelled now */
    else if (n > 0 && !c->closing)
        take_bytes(c, buf->base, (size_t)n);
}

/* Whether the client has taken nothing of a write under way for SL_CLIENT_STALL_S. */
static int is_stalled(struct conn *c, uint64_t now)
{
    size_t queued = uv_stream_get_write_queue_size(&c->s.stream);
    if (c->writing && queued == c->queued) return now - c->moved_ns > SL_CLIENT_STALL_S * SECOND_NS;
    c->queued = queued;
    c->moved_ns = now;
    return 0;
}

static void on_tick(uv_timer_t *t)
{
    struct sl_listen *l = sl_container_of(t, struct sl_listen, tick);
    struct sl_list *it, *tmp;
    uint64_t now = sl_env_now_ns();
    sl_list_each(it, tmp, &l->conns)
    {
        struct conn *c = sl_container_of(it, struct conn, node);
        uint64_t age = now - c->since_ns;
        if (c->closing == 1 && age > FLUSH_S * SECOND_NS) {
            conn_close(c);
        } else if (!c->closing && !c->client.greeted && age > SL_CLIENT_HELLO_S * SECOND_NS) {
            sl_client_error(&c->client, 0, SL_ETIMEOUT, "no Hello came in time");
            on_drop(&c->client, "no Hello in time");
        } else if (!c->closing && c->in.len && age > SL_CLIENT_MESSAGE_S * SECOND_NS) {
            sl_client_error(&c->client, 0, SL_ETIMEOUT, "a message was not completed in time");
            on_drop(&c->client, "an incomplete message");
        } else if (!c->closing && is_stalled(c, now)) {
            sl_log(SL_LOG_INFO, "listen", "client dropped: it does not read its answers");
            conn_close(c);
        }
    }
}

/* ---- accepting ------------------------------------------------------------------------------- */

static void stream_init(struct sl_listen *l, union stream *s)
{
    if (l->is_path)
        uv_pipe_init(l->loop, &s->pipe, 0);
    else
        uv_tcp_init(l->loop, &s->tcp);
}

static void on_refused_closed(uv_handle_t *h)
{
    struct conn *c = h->data;
    c->l->n_conns--;
    maybe_done(c->l);
    free(c);
}

static void on_connection(uv_stream_t *server, int status)
{
    struct sl_listen *l = server->data;
    struct conn *c = status < 0 || l->stopping ? NULL : calloc(1, sizeof(*c));
    if (!c) return;
    c->l = l;
    stream_init(l, &c->s);
    c->s.handle.data = c;
    l->n_conns++;
    if (uv_accept(server, &c->s.stream) || l->n_conns > SL_CLIENTS_MAX) {
        sl_log(SL_LOG_WARN, "listen", "connection refused: %d are open already", l->n_conns - 1);
        uv_close(&c->s.handle, on_refused_closed);
        return;
    }
    if (!l->is_path) uv_tcp_nodelay(&c->s.tcp, 1);
    sl_buf_init(&c->in, SL_API_MESSAGE_MAX + SL_API_LENGTH_BYTES + READ_SIZE);
    sl_buf_init(&c->out, SL_CLIENT_OUT_MAX);
    sl_buf_init(&c->going, SL_CLIENT_OUT_MAX);
    sl_client_init(&c->client, l->service, l->keys);
    c->client.send = on_send;
    c->client.drop = on_drop;
    c->since_ns = sl_env_now_ns();
    sl_list_append(&l->conns, &c->node);
    uv_read_start(&c->s.stream, on_alloc, on_read);
}

/* ---- the address ----------------------------------------------------------------------------- */

/* Makes room for a socket file: removes one that nobody listens on. 0 or an error that says who is
 * in the way. */
static int clear_path(const char *path, struct sl_err *err)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct stat st;
    if (strlen(path) >= sizeof(a.sun_path))
        return sl_err_set(err, SL_EINPUT,
                          "socket: the path '%s' is longer than %zu bytes; choose a shorter one",
                          path, sizeof(a.sun_path) - 1);
    if (lstat(path, &st)) return 0;
    if (!S_ISSOCK(st.st_mode))
        return sl_err_set(err, SL_EINPUT,
                          "socket: %s exists and is no socket; remove it or choose another path",
                          path);
    strcpy(a.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return sl_err_set(err, SL_ESYS, "socket: %s", strerror(errno));
    int alive = connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 || errno != ECONNREFUSED;
    close(fd);
    if (alive)
        return sl_err_set(
            err, SL_EINPUT,
            "socket: another program listens on %s; stop it or choose another path with --socket",
            path);
    unlink(path);
    return 0;
}

static int bind_path(struct sl_listen *l, const char *path, struct sl_err *err)
{
    int rc = clear_path(path, err);
    if (rc) return rc;
    rc = uv_pipe_bind(&l->server.pipe, path);
    return rc ? sl_err_set(err, SL_EINPUT,
                           "socket: cannot make %s: %s; choose a path in a folder you may write to",
                           path, uv_strerror(rc))
              : 0;
}

static int bind_port(struct sl_listen *l, const char *address, struct sl_err *err)
{
    char host[256], service[16];
    uv_getaddrinfo_t req;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    int port;
    if (sl_parse_hostport(address, host, sizeof(host), &port))
        return sl_err_set(err, SL_EINPUT,
                          "socket: '%s' is neither a path (with a '/') nor HOST:PORT", address);
    snprintf(service, sizeof(service), "%d", port);
    int rc = uv_getaddrinfo(l->loop, &req, NULL, host[0] ? host : "0.0.0.0", service, &hints);
    if (rc)
        return sl_err_set(err, SL_EINPUT,
                          "socket: cannot resolve '%s': %s; use an address of this machine", host,
                          uv_strerror(rc));
    rc = uv_tcp_bind(&l->server.tcp, req.addrinfo->ai_addr, 0);
    uv_freeaddrinfo(req.addrinfo);
    return rc ? sl_err_set(err, SL_EINPUT,
                           "socket: cannot listen on %s: %s; use an address of this machine",
                           address, uv_strerror(rc))
              : 0;
}

static int listen_now(struct sl_listen *l, const char *address, struct sl_err *err)
{
    struct sockaddr_storage ss;
    int len = sizeof(ss);
    int rc = uv_listen(&l->server.stream, BACKLOG, on_connection);
    if (rc)
        return sl_err_set(
            err, SL_EINPUT, "socket: cannot listen on %s: %s; %s", address, uv_strerror(rc),
            rc == UV_EADDRINUSE
                ? "stop the program that uses it or choose another address with --socket"
                : "use an address of this machine and a port you may open");
    if (!l->is_path && uv_tcp_getsockname(&l->server.tcp, (struct sockaddr *)&ss, &len) == 0)
        l->port = ntohs(ss.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&ss)->sin6_port
                                                 : ((struct sockaddr_in *)&ss)->sin_port);
    return 0;
}

/* ---- start and stop -------------------------------------------------------------------------- */

static void on_handle_closed(uv_handle_t *h)
{
    struct sl_listen *l = h->data;
    l->handles--;
    maybe_done(l);
}

void sl_listen_stop(struct sl_listen *l, void (*done)(void *arg), void *arg)
{
    struct sl_list *it, *tmp;
    SL_ASSERT(!l->stopping);
    l->stopping = 1;
    l->done = done;
    l->done_arg = arg;
    sl_list_each(it, tmp, &l->conns) conn_close(sl_container_of(it, struct conn, node));
    uv_close(&l->server.handle, on_handle_closed); /* removes the socket file */
    uv_close((uv_handle_t *)&l->tick, on_handle_closed);
}

int sl_listen_port(const struct sl_listen *l)
{
    return l->port;
}

int sl_listen_start(struct uv_loop_s *loop, struct sl_service *s, const char *address,
                    struct sl_keys *keys, struct sl_listen **out, struct sl_err *err)
{
    struct sl_listen *l = calloc(1, sizeof(*l));
    if (!l) return sl_err_set(err, SL_ENOMEM, "socket: out of memory");
    signal(SIGPIPE, SIG_IGN); /* libuv's writes to a client that left would end the process */
    l->loop = loop;
    l->service = s;
    l->keys = keys;
    l->is_path = strchr(address, '/') != NULL;
    sl_list_init(&l->conns);
    stream_init(l, &l->server);
    uv_timer_init(loop, &l->tick);
    l->server.handle.data = l->tick.data = l;
    l->handles = 2;
    int rc = l->is_path ? bind_path(l, address, err) : bind_port(l, address, err);
    if (!rc) rc = listen_now(l, address, err);
    if (rc) {
        sl_listen_stop(l, NULL, NULL);
        return rc;
    }
    uv_timer_start(&l->tick, on_tick, TICK_MS, TICK_MS);
    *out = l;
    return 0;
}
