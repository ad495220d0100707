/* http.c - the HTTP server: listening socket, libwebsockets' context, the clock tick, shutting
 * down.
 *
 * We listen and accept ourselves and hand the sockets to libwebsockets: so an occupied port is an
 * error with a remedy, port 0 works, and the number of connections is ours to limit. */
#include "coordinator/http.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "base/env.h"
#include "base/log.h"
#include "base/text.h"
#include "coordinator/http_conn.h"
#include "coordinator/http_lws.h"

#define BACKLOG 256
#define SEND_BUFFER                                                                                \
    (256 << 10) /* bytes the kernel keeps for a client (Linux doubles it): left alone it takes     \
                   megabytes of a stream that nobody reads before we notice */
#define TICK_MS 1000
#define FLUSH_MS 2000   /* that complete answers get to go out when the server stops */
#define FLUSH_STEP_MS 5 /* between looks whether they have */
#define SPARE_FDS 8     /* descriptors libwebsockets needs beside connections */

struct sl_http {
    uv_loop_t *loop;
    struct lws_context *lws;
    struct lws_vhost *vhost;
    struct lws_protocols protocols[2];
    struct sl_http_api api;
    struct sl_list conns;
    int fd, port, paused;
    uv_poll_t listener;
    uv_timer_t tick;
    uv_idle_t closer;
    int handles; /* of ours that are open */
    uint64_t flush_until_ns;
    int closing; /* 1: to be destroyed, 2: libwebsockets is closing its handles, 3: ours */
    int n_sockets, refused; /* refused: since the last tick */
    void (*done)(void *arg);
    void *done_arg;
};

struct sl_http_api *sl_http_api(struct sl_http_conn *c)
{
    return &c->http->api;
}

struct sl_list *sl_http_conns(struct sl_http *h)
{
    return &h->conns;
}

int sl_http_port(const struct sl_http *h)
{
    return h->port;
}

/* ---- listening ------------------------------------------------------------------------------- */

static int bind_one(const struct addrinfo *ai)
{
    int one = 1,
        fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, ai->ai_protocol);
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0) return fd;
    int e = errno;
    close(fd);
    errno = e;
    return -1;
}

static int open_listener(const char *hostport, int *fd, int *port, struct sl_err *err)
{
    char host[256], service[16];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
    if (sl_parse_hostport(hostport, host, sizeof(host), port))
        return sl_err_set(err, SL_EINPUT,
                          "http: '%s' is no HOST:PORT; write for example 127.0.0.1:8080", hostport);
    snprintf(service, sizeof(service), "%d", *port);
    int rc = getaddrinfo(host[0] ? host : NULL, service, &hints, &list);
    if (rc)
        return sl_err_set(err, SL_EINPUT,
                          "http: cannot resolve '%s': %s; use an address of this machine", host,
                          gai_strerror(rc));
    *fd = -1;
    for (const struct addrinfo *ai = list; ai && *fd < 0; ai = ai->ai_next) *fd = bind_one(ai);
    int e = errno;
    freeaddrinfo(list);
    if (*fd < 0)
        return sl_err_set(
            err, SL_EINPUT, "http: cannot listen on %s: %s; %s", hostport, strerror(e),
            e == EADDRINUSE
                ? "stop the program that uses it or choose another port with --http HOST:PORT"
                : "use an address of this machine and a port you may open");
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);
    if (getsockname(*fd, (struct sockaddr *)&ss, &len) == 0)
        *port = ntohs(ss.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&ss)->sin6_port
                                               : ((struct sockaddr_in *)&ss)->sin_port);
    return 0;
}

static void on_incoming(uv_poll_t *p, int status, int events)
{
    struct sl_http *h = sl_container_of(p, struct sl_http, listener);
    (void)events;
    if (status < 0) return;
    for (int i = 0; i < BACKLOG; i++) {
        int one = 1, send_buffer = SEND_BUFFER,
            fd = accept4(h->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno == EMFILE ||
                errno == ENFILE) { /* would be called again at once: look next second */
                sl_log(SL_LOG_WARN, "http",
                       "no file descriptor for a new connection; raise ulimit -n");
                uv_poll_stop(&h->listener);
                h->paused = 1;
            }
            return;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one,
                   sizeof(one)); /* tokens are small and shall not wait */
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_buffer, sizeof(send_buffer));
        if (h->n_sockets >= SL_HTTP_CONNS_MAX) {
            if (!h->refused++) /* one line a second */
                sl_log(SL_LOG_WARN, "http", "connections refused: %d are open already",
                       h->n_sockets);
            close(fd);
        } else if (sl_http_conn_adopt(h->vhost, fd)) {
            sl_log(SL_LOG_WARN, "http", "connection refused by libwebsockets");
        }
    }
}

static void on_tick(uv_timer_t *t)
{
    struct sl_http *h = sl_container_of(t, struct sl_http, tick);
    struct sl_list *it, *tmp;
    uint64_t now = sl_env_now_ns();
    sl_list_each(it, tmp, &h->conns)
        sl_http_conn_tick(sl_container_of(it, struct sl_http_conn, node), now);
    h->refused = 0;
    if (h->paused) {
        h->paused = 0;
        uv_poll_start(&h->listener, UV_READABLE, on_incoming);
    }
}

/* ---- libwebsockets' context ------------------------------------------------------------------ */

static void on_lws_log(int level, const char *line)
{
    sl_log(SL_LOG_DEBUG, "http", "libwebsockets (%d): %.*s", level, (int)strcspn(line, "\n"), line);
}

/* Counts sockets before anything else sees the event. */
static int on_event(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                    size_t len)
{
    struct sl_http *h = lws_context_user(lws_get_context(wsi));
    if (reason == LWS_CALLBACK_WSI_CREATE)
        h->n_sockets++;
    else if (reason == LWS_CALLBACK_WSI_DESTROY)
        h->n_sockets--;
    (void)user;
    return sl_http_on_event(wsi, reason, in, len);
}

static int open_context(struct sl_http *h, struct sl_err *err)
{
    void *loops[1] = {h->loop};
    struct lws_context_creation_info info;
    memset(&info, 0, sizeof(info));
    lws_set_log_level(LLL_ERR | LLL_WARN, on_lws_log);
    h->protocols[0].name = "http";
    h->protocols[0].callback = on_event;
    h->protocols[0].per_session_data_size =
        sizeof(void *); /* not used, but without it we are told less */
    info.port = CONTEXT_PORT_NO_LISTEN;
    info.protocols = h->protocols;
    info.options = LWS_SERVER_OPTION_LIBUV | LWS_SERVER_OPTION_EXPLICIT_VHOSTS;
    info.foreign_loops = loops;
    info.user = h;
    info.timeout_secs = SL_HTTP_IDLE_S;
    info.timeout_secs_ah_idle = SL_HTTP_IDLE_S;
    info.keepalive_timeout = SL_HTTP_KEEPALIVE_S;
    info.max_http_header_data = SL_HTTP_HEADER_MAX;
    info.pt_serv_buf_size = 65536;
    info.fd_limit_per_thread =
        SL_HTTP_CONNS_MAX + SPARE_FDS; /* not what ulimit allows: that may be a billion */
    info.gid = info.uid = (gid_t)-1;
    h->lws = lws_create_context(&info);
    if (!h->lws)
        return sl_err_set(
            err, SL_ESYS,
            "http: libwebsockets cannot start with libuv; install libwebsockets-evlib-uv");
    info.options = 0;
    info.vhost_name = "sluice";
    h->vhost = lws_create_vhost(h->lws, &info);
    if (!h->vhost)
        return sl_err_set(err, SL_ESYS, "http: libwebsockets cannot make its virtual host");
    return 0;
}

/* ---- start and stop -------------------------------------------------------------------------- */

static void on_handle_closed(uv_handle_t *handle)
{
    struct sl_http *h = handle->data;
    if (--h->handles) return;
    if (h->fd >= 0) close(h->fd);
    if (h->done) h->done(h->done_arg);
    free(h);
}

struct search {
    const void *context;
    int found;
};

/* libwebsockets' long-lived handles carry the context as data; they close after all of its sockets
 * have. */
static void look_for_context(uv_handle_t *handle, void *arg)
{
    struct search *s = arg;
    s->found |= handle->data == s->context;
}

/* Runs once a loop turn, never inside libwebsockets: it tears down in two calls, the second when
 * all its handles are closed. */
static void on_closer(uv_idle_t *i)
{
    struct sl_http *h = sl_container_of(i, struct sl_http, closer);
    if (h->closing == 1) {
        h->closing = 2;
        if (h->lws) lws_context_destroy(h->lws);
        return;
    }
    if (h->lws) {
        struct search s = {h->lws, 0};
        uv_walk(h->loop, look_for_context, &s);
        if (s.found) return;
        lws_context_destroy(h->lws);
        h->lws = NULL;
    }
    h->closing = 3;
    uv_close((uv_handle_t *)&h->listener, on_handle_closed);
    uv_close((uv_handle_t *)&h->tick, on_handle_closed);
    uv_close((uv_handle_t *)&h->closer, on_handle_closed);
}

/* The last answers, "this server shuts down" among them, are still being sent. */
static int is_flushing(struct sl_http *h)
{
    struct sl_list *it, *tmp;
    sl_list_each(it, tmp, &h->conns)
    {
        const struct sl_http_conn *c = sl_container_of(it, struct sl_http_conn, node);
        if (!c->dead && c->state == SL_HTTP_SENDING && c->out_pos < c->out.len) return 1;
    }
    return 0;
}

static void on_flush(uv_timer_t *t)
{
    struct sl_http *h = sl_container_of(t, struct sl_http, tick);
    if (is_flushing(h) && sl_env_now_ns() < h->flush_until_ns) return;
    uv_timer_stop(&h->tick);
    uv_idle_start(&h->closer, on_closer);
}

void sl_http_stop(struct sl_http *h, void (*done)(void *arg), void *arg)
{
    SL_ASSERT(!h->closing);
    h->done = done;
    h->done_arg = arg;
    h->closing = 1;
    uv_poll_stop(&h->listener);
    h->flush_until_ns = sl_env_now_ns() + FLUSH_MS * 1000000ull;
    uv_timer_start(&h->tick, on_flush, 0, FLUSH_STEP_MS);
}

int sl_http_start(struct uv_loop_s *loop, struct sl_service *s, const char *hostport,
                  struct sl_keys *keys, struct sl_http **out, struct sl_err *err)
{
    struct sl_http *h = calloc(1, sizeof(*h));
    if (!h) return sl_err_set(err, SL_ENOMEM, "http: out of memory");
    h->loop = loop;
    h->api.service = s;
    h->api.keys = keys;
    h->api.metrics = sl_metrics_process();
    sl_list_init(&h->conns);
    int rc = open_listener(hostport, &h->fd, &h->port, err);
    if (rc) {
        free(h);
        return rc;
    }
    uv_poll_init(loop, &h->listener, h->fd);
    uv_timer_init(loop, &h->tick);
    uv_idle_init(loop, &h->closer);
    h->listener.data = h->tick.data = h->closer.data = h;
    h->handles = 3;
    rc = open_context(h, err);
    if (rc) {
        sl_http_stop(h, NULL, NULL);
        return rc;
    }
    uv_poll_start(&h->listener, UV_READABLE, on_incoming);
    uv_timer_start(&h->tick, on_tick, TICK_MS, TICK_MS);
    *out = h;
    return 0;
}
