/* join.c - how a stage comes to the coordinator: it connects, says Hello, and from then on stands
 * for a device of the topology file.
 *
 * A connection that has not said Hello is pending: there are at most SL_PENDING_MAX of them, for at
 * most SL_HELLO_MS each, and whoever does not know the join key is refused. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/env.h"
#include "base/log.h"
#include "base/sl_assert.h"
#include "base/text.h"
#include "coordinator/internal.h"

/* ---- facts of a stage ------------------------------------------------------------------------ */

void sl_peer_forget(struct stage_peer *p)
{
    char **strings[] = {&p->host_id, &p->process_id, &p->cpu, &p->backend, &p->gpu};
    for (size_t i = 0; i < SL_ARRAY_LEN(strings); i++) {
        free(*strings[i]);
        *strings[i] = NULL;
    }
    sl_peer_drop_ports(p);
}

/* ---- joining --------------------------------------------------------------------------------- */

/* What a stage may use of `free_bytes`, which every stage of its host or card sees alike: those
 * without a limit of their own share it equally, less a part for everybody else. One that comes
 * back gets what it had: the memory is now full of its neighbours, and the plan counts on it. */
static uint64_t share_memory(struct sl_service *s, struct stage_peer *p, uint64_t free_bytes)
{
    const struct sl_device *d = &s->cluster->devices[p->device];
    if (sl_coord_plan(s->coord) && p->memory_bytes) return p->memory_bytes;
    int same = sl_cluster_sharers(s->cluster, p->device);
    uint64_t bytes = free_bytes / 100 * SL_FREE_PERCENT;
    if (same > 1) bytes /= (uint64_t)same;
    bytes -= SL_MIN(bytes, d->reserve_bytes + s->workspace_bytes);
    return p->memory_bytes = SL_MAX(bytes, 1);
}

static int keep_facts(struct stage_peer *p, const struct sl_ctl_hello *h)
{
    sl_peer_forget(p);
    p->host_id = strdup(h->host_id);
    p->process_id = strdup(h->process_id);
    p->cpu = strdup(h->cpu);
    p->backend = strdup(h->backend);
    p->gpu = strdup(h->gpu);
    p->pid = (int)h->pid;
    p->threads = h->threads;
    return p->host_id && p->process_id && p->cpu && p->backend && p->gpu &&
           sl_peer_take_ports(p, h->ports, h->n_ports) == 0;
}

/* The device a Hello stands for: by name, or, without one, the first external device that nobody
 * stands for. -1: none. */
static int find_device(const struct sl_service *s, const struct pending *c, const char *name,
                       struct sl_err *err)
{
    if (c->device >= 0) return c->device;
    for (int i = 0; i < s->cluster->n_devices; i++) {
        int external = s->cluster->nodes[s->cluster->devices[i].node].launch == SL_LAUNCH_EXTERNAL;
        int hit = *name ? strcmp(s->names[i], name) == 0 : external && !s->peers[i].ctl;
        if (!hit) continue;
        if (!s->peers[i].ctl) return i;
        sl_err_set(err, SL_EINPUT, "device %s has joined already", s->names[i]);
        return -1;
    }
    if (*name)
        sl_err_set(err, SL_ENOTFOUND, "the topology has no device %s", name);
    else
        sl_err_set(err, SL_ENOTFOUND, "the topology waits for no further external stage");
    return -1;
}

static int same_key(const char *a, const char *b)
{
    size_t la = strlen(a), lb = strlen(b), n = SL_MAX(la, lb);
    unsigned char diff = la != lb;
    for (size_t i = 0; i < n; i++)
        diff |= (unsigned char)((i < la ? a[i] : 0) ^ (i < lb ? b[i] : 0));
    return diff == 0;
}

static void unlink_pending(struct sl_service *s, struct pending *c)
{
    for (struct pending **at = &s->pending; *at; at = &(*at)->next) {
        if (*at != c) continue;
        *at = c->next;
        s->n_pending--;
        return;
    }
}

static void refuse(struct sl_service *s, struct pending *c, const struct sl_err *err)
{
    sl_log(SL_LOG_WARN, "coord", "refused a stage: %s", err->msg);
    struct sl_ctl m = {.kind = SL_CTL_FAIL, .fail = {.code = err->code, .message = err->msg}};
    sl_ctl_conn_send(c->ctl, &m);
    sl_ctl_conn_close(c->ctl);
    unlink_pending(s, c);
    free(c);
}

/* One connection: first a pending one, after Hello the peer's. The handler's argument stays the
 * pending record, which then only points to the peer. */
struct link_end {
    struct pending c;
    struct stage_peer *peer;
};

static void accept_hello(struct link_end *e, const struct sl_ctl_hello *h)
{
    struct sl_service *s = e->c.svc;
    struct sl_err err = {0};
    int device = -1;
    if (h->version != SL_CTL_VERSION)
        sl_err_set(
            &err, SL_EPROTO,
            "it speaks control protocol %u, we speak %d; install the same sluice on all hosts",
            h->version, SL_CTL_VERSION);
    else if (!same_key(h->key, s->join_key))
        sl_err_set(&err, SL_EAUTH, "wrong join key; give the stage the topology's join_key");
    else
        device = find_device(s, &e->c, h->device, &err);
    if (device < 0) {
        refuse(s, &e->c, &err);
        return;
    }
    struct stage_peer *p = &s->peers[device];
    if (!keep_facts(p, h)) {
        sl_err_set(&err, SL_EPROTO, "its Hello has no usable address");
        refuse(s, &e->c, &err);
        return;
    }
    unlink_pending(s, &e->c);
    e->peer = p;
    p->ctl = e->c.ctl;
    p->link_end = e;
    p->heard_ns = sl_env_now_ns();
    sl_log(SL_LOG_INFO, "coord", "stage %s joined: %s, %u threads of %s, pid %d", s->names[device],
           p->cpu, p->threads, p->backend, p->pid);
    struct sl_event ev = {.kind = SL_EV_JOINED, .device = device};
    ev.joined.memory_bytes =
        share_memory(s, p, h->memory_bytes); /* unless the topology file gives a limit */
    ev.joined.bandwidth = h->bandwidth;
    sl_service_event(s, &ev);
}

static void on_message(void *arg, const struct sl_ctl *m)
{
    struct link_end *e = arg;
    if (e->peer) {
        sl_control_message(e->peer, m);
        return;
    }
    struct sl_err err;
    if (m->kind == SL_CTL_HELLO) {
        accept_hello(e, &m->hello);
    } else if (m->kind == SL_CTL_FAIL && e->c.device >= 0) {
        return; /* start_thread has returned the same */
    } else if (m->kind == SL_CTL_FAIL) {
        sl_err_set(&err, m->fail.code, "it could not start: %s", m->fail.message);
        refuse(e->c.svc, &e->c, &err);
    } else if (m->kind != SL_CTL_REPORT) {
        sl_err_set(&err, SL_EPROTO, "it did not begin with Hello");
        refuse(e->c.svc, &e->c, &err);
    }
}

static void on_end(void *arg, const struct sl_err *why)
{
    struct link_end *e = arg;
    if (e->peer) {
        sl_control_down(e->peer->svc, e->peer->device, why->msg); /* frees e */
        return;
    }
    sl_ctl_conn_close(e->c.ctl);
    unlink_pending(e->c.svc, &e->c);
    free(e);
}

int sl_join_add(struct sl_service *s, int fd, int device, struct sl_err *err)
{
    struct link_end *e = calloc(1, sizeof *e);
    if (!e) {
        close(fd);
        return sl_err_set(err, SL_ENOMEM, "no memory for a connection");
    }
    e->c = (struct pending){
        .svc = s, .since_ns = sl_env_now_ns(), .device = device, .next = s->pending};
    int r = sl_ctl_conn_open(s->loop, fd, on_message, on_end, e, &e->c.ctl, err);
    if (r) {
        free(e);
        return r;
    }
    s->pending = &e->c;
    s->n_pending++;
    return 0;
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct sl_service *s = listener->data;
    struct sl_err err = {0};
    uv_tcp_t *tcp = status == 0 ? malloc(sizeof *tcp) : NULL;
    if (!tcp) return;
    uv_tcp_init(s->loop, tcp);
    uv_os_fd_t fd;
    int copy = -1;
    if (uv_accept(listener, (uv_stream_t *)tcp) == 0 && uv_fileno((uv_handle_t *)tcp, &fd) == 0 &&
        s->n_pending < SL_PENDING_MAX && s->stopping < 2)
        copy =
            fcntl(fd, F_DUPFD_CLOEXEC,
                  0); /* libuv cannot give a handle's socket away, so the connection keeps a copy */
    uv_close((uv_handle_t *)tcp, (uv_close_cb)free);
    if (copy >= 0 && sl_join_add(s, copy, -1, &err)) sl_log(SL_LOG_WARN, "coord", "%s", err.msg);
}

/* Our address as a stage on `host` sees it: the local end of a route there (no packet is sent). */
static void own_address(const char *host, char *out, size_t cap)
{
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_DGRAM}, *ai = NULL;
    snprintf(out, cap, "127.0.0.1");
    if (getaddrinfo(host, "9", &hints, &ai) != 0) return;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in me;
    socklen_t len = sizeof me;
    if (fd >= 0 && connect(fd, ai->ai_addr, ai->ai_addrlen) == 0 &&
        getsockname(fd, (struct sockaddr *)&me, &len) == 0)
        inet_ntop(AF_INET, &me.sin_addr, out, (socklen_t)cap);
    if (fd >= 0) close(fd);
    freeaddrinfo(ai);
}

static int listen_for_stages(struct sl_service *s, const char *address, struct sl_err *err)
{
    char host[256], ours[256];
    int port;
    if (sl_parse_hostport(address, host, sizeof host, &port))
        return sl_err_set(err, SL_EINPUT, "control address '%s' is not HOST:PORT", address);
    if (!*host) snprintf(host, sizeof host, "0.0.0.0");
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *ai = NULL;
    int g = getaddrinfo(host, NULL, &hints, &ai);
    if (g) return sl_err_set(err, SL_EINPUT, "control address '%s': %s", address, gai_strerror(g));
    struct sockaddr_in sa;
    memcpy(&sa, ai->ai_addr, sizeof sa);
    freeaddrinfo(ai);
    sa.sin_port = htons((uint16_t)port);
    uv_tcp_init(s->loop, &s->listener);
    s->listener.data = s;
    s->listening = 1;
    int r = uv_tcp_bind(&s->listener, (struct sockaddr *)&sa, 0);
    if (r == 0) r = uv_listen((uv_stream_t *)&s->listener, 64, on_connection);
    if (r)
        return sl_err_set(
            err, SL_EINPUT,
            "cannot listen for stages on %s: %s; set another `control:` in the topology file",
            address, uv_strerror(r));
    int len = sizeof sa;
    uv_tcp_getsockname(&s->listener, (struct sockaddr *)&sa, &len);
    snprintf(ours, sizeof ours, "%s", host);
    if (sa.sin_addr.s_addr ==
        INADDR_ANY) { /* say an address that the stages can use: seen from the first remote one */
        const char *there = "127.0.0.1";
        for (int i = 0; i < s->cluster->n_nodes; i++)
            if (s->cluster->nodes[i].launch == SL_LAUNCH_SSH ||
                s->cluster->nodes[i].launch == SL_LAUNCH_EXTERNAL)
                there = s->cluster->nodes[i].host;
        own_address(there, ours, sizeof ours);
    }
    snprintf(s->control, sizeof s->control, "%s:%d", ours, ntohs(sa.sin_port));
    sl_log(SL_LOG_INFO, "coord", "stages join at %s", s->control);
    return 0;
}

static int is_loopback(const char *host)
{
    return strcmp(host, "localhost") == 0 || strncmp(host, "127.", 4) == 0;
}

int sl_join_start(struct sl_service *s, struct sl_err *err)
{
    const struct sl_cluster *c = s->cluster;
    unsigned char key[sizeof s->join_key / 2];
    sl_env_random(key, sizeof key);
    for (size_t i = 0; i < sizeof key; i++) snprintf(s->join_key + 2 * i, 3, "%02x", key[i]);
    if (c->join_key) {
        if (strlen(c->join_key) >= sizeof s->join_key)
            return sl_err_set(err, SL_EINPUT, "join_key is longer than %zu characters",
                              sizeof s->join_key - 1);
        snprintf(s->join_key, sizeof s->join_key, "%s", c->join_key);
    }
    int own_process = 1, remote = 0;
    for (int i = 0; i < c->n_nodes; i++) {
        own_process &= c->nodes[i].launch == SL_LAUNCH_THREAD;
        remote |= !is_loopback(c->nodes[i].host);
    }
    if (own_process) return 0; /* nobody joins from outside */
    return listen_for_stages(s,
                             c->control ? c->control
                             : remote   ? "0.0.0.0:0"
                                        : "127.0.0.1:0",
                             err);
}

void sl_join_tick(struct sl_service *s, uint64_t now)
{
    for (struct pending *c = s->pending, *next; c; c = next) {
        next = c->next;
        if (c->device >= 0 || now - c->since_ns < (uint64_t)SL_HELLO_MS * 1000000) continue;
        struct sl_err e;
        sl_err_set(&e, SL_ETIMEOUT, "it said nothing for %d ms", SL_HELLO_MS);
        refuse(s, c, &e);
    }
}

void sl_join_close(struct sl_service *s)
{
    while (s->pending) {
        struct pending *c = s->pending;
        s->pending = c->next;
        sl_ctl_conn_close(c->ctl);
        free(c);
    }
    s->n_pending = 0;
}
