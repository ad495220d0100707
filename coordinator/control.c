/* control.c - the stages as the coordinator sees them: started, connected, told what to do, heard,
 * lost.
 *
 * Failure list: a child exits, its connection ends, it is silent for SL_CTL_DEAD_MS, it says Fail,
 * its link dies: all end in sl_control_down, once per life. A stage that cannot ever work (its
 * configuration is refused) before the first time the pipeline served gives the whole service up
 * instead of being started again. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
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

/* ---- leaving --------------------------------------------------------------------------------- */

static void forget_facts(struct stage_peer *p)
{
    char **strings[] = {&p->host_id, &p->process_id, &p->cpu, &p->backend, &p->transports};
    for (size_t i = 0; i < SL_ARRAY_LEN(strings); i++) {
        free(*strings[i]);
        *strings[i] = NULL;
    }
    for (int i = 0; i < p->n_ports; i++) {
        free((void *)(uintptr_t)p->ports[i].address);
        free((void *)(uintptr_t)p->ports[i].transport);
    }
    p->n_ports = 0;
}

void sl_peer_close(struct stage_peer *p)
{
    forget_facts(p);
    free(p->timeline);
    p->timeline = NULL;
}

/* The next process of this device counts from 0 again. */
static void keep_counts(struct stage_peer *p)
{
    p->before.busy_ns += p->now.busy_ns;
    p->before.steps += p->now.steps;
    p->before.rows += p->now.rows;
    p->before.link_frames += p->now.link_frames;
    p->before.link_bytes += p->now.link_bytes;
    p->before.link_busy_ns += p->now.link_busy_ns;
    p->now = (struct stage_counts){0};
}

void sl_control_down(struct sl_service *s, int device, const char *why)
{
    struct stage_peer *p = &s->peers[device];
    if (!p->ctl && !p->child) return;
    if (why != p->last_error) snprintf(p->last_error, sizeof p->last_error, "%s", why);
    sl_ctl_conn_close(p->ctl);
    free(p->link_end);
    p->ctl = NULL;
    p->link_end = NULL;
    if (p->child) { /* alive or not, it is of no use any more */
        sl_child_abandon(p->child, 0);
        p->child = NULL;
    }
    forget_facts(p);
    keep_counts(p);
    sl_log(SL_LOG_WARN, "coord", "stage %s is down: %s", s->names[device], p->last_error);
    struct sl_event ev = {.kind = SL_EV_DOWN, .device = device};
    ev.down.message = p->last_error;
    sl_service_event(s, &ev);
}

/* Starting again cannot help: what it was told is wrong (2), or the program is not there or no
 * program (127, 126). */
static int cannot_ever_start(const struct sl_service *s, int status)
{
    struct sl_coord_status st;
    sl_service_get_status(s, &st);
    return st.epoch == 0 && (status == 2 || status == 126 || status == 127);
}

static void on_child_exit(void *arg, int status, const char *last_line)
{
    struct stage_peer *p = arg;
    struct sl_service *s = p->svc;
    int connected = p->ctl != NULL;
    p->child = NULL;
    if (status < 0)
        snprintf(p->last_error, sizeof p->last_error, "its process was killed by signal %d%s%s",
                 -status, last_line && *last_line ? "; it said: " : "", last_line ? last_line : "");
    else
        snprintf(p->last_error, sizeof p->last_error, "its process ended with status %d%s%s",
                 status, last_line && *last_line ? ": " : "", last_line ? last_line : "");
    if (connected) {
        sl_control_down(s, p->device, p->last_error);
        return;
    }
    if (cannot_ever_start(s, status)) {
        struct sl_err e;
        sl_err_set(&e, SL_EINPUT, "%s: %s", s->names[p->device], p->last_error);
        sl_service_give_up(s, &e);
        return;
    }
    sl_log(SL_LOG_WARN, "coord", "stage %s did not join: %s", s->names[p->device], p->last_error);
    struct sl_event ev = {.kind = SL_EV_DOWN, .device = p->device};
    ev.down.message = p->last_error;
    sl_service_event(s, &ev);
}

/* ---- joining --------------------------------------------------------------------------------- */

static int is_here(const struct sl_node *n)
{
    return n->launch == SL_LAUNCH_LOCAL || n->launch == SL_LAUNCH_THREAD;
}

/* What a stage may use of `free_bytes`, which every stage of its host sees alike: those without a
 * limit of their own share it equally, less a part for everybody else. One that comes back gets
 * what it had: its host's memory is now full of its neighbours, and the plan counts on it. */
static uint64_t share_memory(struct sl_service *s, struct stage_peer *p, uint64_t free_bytes)
{
    const struct sl_cluster *c = s->cluster;
    const struct sl_device *d = &c->devices[p->device];
    const struct sl_node *mine = &c->nodes[d->node];
    if (sl_coord_plan(s->coord) && p->memory_bytes) return p->memory_bytes;
    int same = 0;
    for (int i = 0; i < c->n_devices; i++) {
        const struct sl_node *n = &c->nodes[c->devices[i].node];
        int together = (is_here(n) && is_here(mine)) || strcmp(n->host, mine->host) == 0;
        same += c->devices[i].memory_bytes == 0 && together;
    }
    uint64_t bytes = free_bytes / 100 * SL_FREE_PERCENT;
    if (same > 1) bytes /= (uint64_t)same;
    bytes -= SL_MIN(bytes, d->reserve_bytes + s->workspace_bytes);
    return p->memory_bytes = SL_MAX(bytes, 1);
}

static int keep_facts(struct stage_peer *p, const struct sl_ctl_hello *h)
{
    forget_facts(p);
    p->host_id = strdup(h->host_id);
    p->process_id = strdup(h->process_id);
    p->cpu = strdup(h->cpu);
    p->backend = strdup(h->backend);
    p->pid = (int)h->pid;
    p->threads = h->threads;
    struct sl_buf names;
    sl_buf_init(&names, 256);
    for (size_t i = 0; i < h->n_ports && p->n_ports < SL_HUB_PORTS_MAX; i++) {
        const struct sl_ctl_port *from = &h->ports[i];
        void *address = malloc(from->address_len ? from->address_len : 1);
        char *transport = strdup(from->transport);
        if (!address || !transport) {
            free(address);
            free(transport);
            break;
        }
        memcpy(address, from->address, from->address_len);
        p->ports[p->n_ports++] = (struct sl_ctl_port){transport, address, from->address_len};
        sl_buf_printf(&names, "%s%s", names.len ? " " : "", transport);
    }
    p->transports = strdup(sl_buf_str(&names));
    sl_buf_close(&names);
    return p->host_id && p->process_id && p->cpu && p->backend && p->transports && p->n_ports;
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

static void on_stage_message(struct stage_peer *p, const struct sl_ctl *m);

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
        on_stage_message(e->peer, m);
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

static int add_connection(struct sl_service *s, int fd, int device, struct sl_err *err)
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
    if (copy >= 0 && add_connection(s, copy, -1, &err)) sl_log(SL_LOG_WARN, "coord", "%s", err.msg);
}

/* ---- what a stage says ----------------------------------------------------------------------- */

static void on_report(struct stage_peer *p, const struct sl_ctl_report *r)
{
    p->now.busy_ns = r->busy_ns;
    p->now.steps = r->steps;
    p->now.rows = r->rows;
    if (r->layers != p->layers) p->moved_ns = sl_env_now_ns();
    p->layers = r->layers;
    if (r->n_links) {
        p->now.link_frames = r->links[0].frames;
        p->now.link_bytes = r->links[0].bytes;
        p->now.link_busy_ns = r->links[0].busy_ns;
        snprintf(p->link_transport, sizeof p->link_transport, "%s", r->links[0].transport);
    }
    if (!p->timeline) p->timeline = calloc(SL_TIMELINE_MAX, sizeof *p->timeline);
    for (size_t i = 0; p->timeline && i < r->n_recent; i++) {
        p->timeline[(p->timeline_at + p->timeline_len) % SL_TIMELINE_MAX] = r->recent[i];
        if (p->timeline_len < SL_TIMELINE_MAX)
            p->timeline_len++;
        else
            p->timeline_at = (p->timeline_at + 1) % SL_TIMELINE_MAX;
    }
}

/* Starting again cannot help: the file, the limits or the program are wrong. */
static int is_final(int code)
{
    return code == SL_EINPUT || code == SL_EUNSUPPORTED || code == SL_ELIMIT ||
           code == SL_ENOTFOUND || code == SL_EUSAGE;
}

static void on_stage_fail(struct stage_peer *p, const struct sl_ctl_fail *f)
{
    struct sl_service *s = p->svc;
    struct sl_coord_status st;
    sl_service_get_status(s, &st);
    snprintf(p->last_error, sizeof p->last_error, "%s", f->message);
    if (st.epoch == 0 && is_final(f->code)) {
        struct sl_err e;
        sl_err_set(&e, f->code, "%s: %s", s->names[p->device], f->message);
        sl_service_give_up(s, &e);
        return;
    }
    sl_control_down(s, p->device, p->last_error);
}

static void on_stage_message(struct stage_peer *p, const struct sl_ctl *m)
{
    struct sl_service *s = p->svc;
    struct sl_event ev = {.device = p->device};
    p->heard_ns = sl_env_now_ns();
    switch (m->kind) {
    case SL_CTL_PROGRESS:
        p->loaded_bytes = m->progress.done_bytes;
        p->total_bytes = m->progress.total_bytes;
        break;
    case SL_CTL_READY:
        p->ready = m->ready;
        ev.kind = SL_EV_READY;
        ev.ready.n_blocks = m->ready.n_blocks;
        sl_service_event(s, &ev);
        break;
    case SL_CTL_WIRED:
        ev.kind = SL_EV_WIRED;
        ev.wired.epoch = m->wired.epoch;
        sl_service_event(s, &ev);
        break;
    case SL_CTL_REPORT:
        on_report(p, &m->report);
        break;
    case SL_CTL_FAIL:
        on_stage_fail(p, &m->fail);
        break;
    default:
        break;
    }
}

/* ---- what a stage is told -------------------------------------------------------------------- */

static void start_failed(struct sl_service *s, int device, const struct sl_err *err)
{
    struct stage_peer *p = &s->peers[device];
    snprintf(p->last_error, sizeof p->last_error, "%s", err->msg);
    if (is_final(err->code)) {
        struct sl_err e = *err;
        sl_err_prefix(&e, "%s: ", s->names[device]);
        sl_service_give_up(s, &e);
        return;
    }
    struct sl_event ev = {.kind = SL_EV_DOWN, .device = device};
    ev.down.message = p->last_error;
    sl_service_event(s, &ev);
}

static void launch_thread(struct sl_service *s, int device)
{
    struct sl_err err = {0};
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds)) {
        sl_err_set(&err, SL_ESYS, "socketpair: %s", strerror(errno));
        start_failed(s, device, &err);
        return;
    }
    int r = add_connection(s, fds[0], device, &err);
    if (r == 0)
        r = s->p.start_thread(s->p.start_thread_arg, s->loop, &s->cluster->devices[device],
                              s->join_key, fds[1], &err);
    else
        close(fds[1]);
    if (r) start_failed(s, device, &err);
}

void sl_control_launch(struct sl_service *s, int device)
{
    const struct sl_device *d = &s->cluster->devices[device];
    const struct sl_node *n = &s->cluster->nodes[d->node];
    struct stage_peer *p = &s->peers[device];
    struct sl_err err = {0};
    if (n->launch == SL_LAUNCH_THREAD) {
        launch_thread(s, device);
        return;
    }
    if (n->launch == SL_LAUNCH_EXTERNAL) {
        sl_log(SL_LOG_INFO, "coord", "waiting for %s: sluice stage --join %s --device %s", d->name,
               s->control, d->name);
        return;
    }
    struct sl_launch_params lp = {.program = s->p.program,
                                  .control = s->control,
                                  .join_key = s->join_key,
                                  .node = n,
                                  .device = d,
                                  .on_exit = on_child_exit,
                                  .arg = p};
    p->launched_ns = sl_env_now_ns();
    if (sl_launch(s->loop, &lp, &p->child, &err)) start_failed(s, device, &err);
}

void sl_control_load(struct sl_service *s, int device, const struct sl_effect *fx)
{
    const struct sl_cluster *c = s->cluster;
    const struct sl_node *n = &c->nodes[c->devices[device].node];
    struct stage_peer *p = &s->peers[device];
    p->plan_stage = fx->load.stage;
    p->loaded_bytes = p->total_bytes = 0;
    struct sl_ctl m = {.kind = SL_CTL_LOAD,
                       .load = {.stage = (uint32_t)fx->load.stage,
                                .n_stages = (uint32_t)fx->load.n_stages,
                                .model = n->model_path ? n->model_path : c->model_path,
                                .layer_from = (uint32_t)fx->load.layer_from,
                                .layer_to = (uint32_t)fx->load.layer_to,
                                .block_tokens = SL_BLOCK_TOKENS,
                                .n_blocks = fx->load.n_blocks,
                                .max_seqs = (uint32_t)(c->sequences ? c->sequences : 16),
                                .max_rows = SL_MAX_ROWS,
                                .kv_type = c->kv_format ? c->kv_format : "auto",
                                .memory_bytes = fx->load.memory_bytes + s->workspace_bytes}};
    if (p->ctl) sl_ctl_conn_send(p->ctl, &m);
}

/* Names that could not be found out are equal to none. */
static int is_same(const char *a, const char *b)
{
    return *a && strcmp(a, b) == 0;
}

/* The transport that two devices share best; a: -1 is the coordinator. */
static const char *choose(const struct sl_service *s, int a, int b)
{
    const struct sl_cluster *c = s->cluster;
    char my_host[SL_ID_MAX] = "", my_process[SL_ID_MAX] = "";
    const char *host_a = my_host, *process_a = my_process, *list_a = sl_hub_transports(s->hub),
               *where_a = "127.0.0.1";
    const struct stage_peer *pb = &s->peers[b];
    const struct sl_node *nb = &c->nodes[c->devices[b].node];
    int na_index = -1, nb_index = c->devices[b].node;
    if (a < 0) {
        sl_host_id(my_host, sizeof my_host);
        sl_process_id(my_process, sizeof my_process);
    } else {
        na_index = c->devices[a].node;
        host_a = s->peers[a].host_id;
        process_a = s->peers[a].process_id;
        list_a = s->peers[a].transports;
        where_a = c->nodes[na_index].host;
    }
    for (int i = 0; i < c->n_links; i++) {
        const struct sl_link_spec *l = &c->links[i];
        int hit = (l->node_a == na_index && l->node_b == nb_index) ||
                  (l->node_a == nb_index && l->node_b == na_index);
        if (hit && l->transport && strcmp(l->transport, "auto") != 0)
            return sl_transport_choose(list_a, l->transport, 1, 1);
    }
    /* two names for one kernel (network namespaces, containers) count as two hosts: the user said
     * so */
    int one_place = strcmp(where_a, nb->host) == 0 || (a < 0 && nb->launch == SL_LAUNCH_LOCAL);
    return sl_transport_choose(list_a, pb->transports, is_same(process_a, pb->process_id),
                               one_place && is_same(host_a, pb->host_id));
}

static const struct sl_ctl_port *port_of(const struct sl_ctl_port *ports, int n,
                                         const char *transport)
{
    for (int i = 0; transport && i < n; i++)
        if (strcmp(ports[i].transport, transport) == 0) return &ports[i];
    return NULL;
}

/* Tells device `d` (a stage) where its frames go next: to stage `next`, or to us. */
static int wire_one(struct sl_service *s, uint32_t epoch, int d, int next, struct sl_err *err)
{
    const struct sl_ctl_port *ours, *port;
    int n_ours = sl_hub_ports(s->hub, &ours);
    if (next < 0)
        port = port_of(ours, n_ours, choose(s, -1, d));
    else
        port = port_of(s->peers[next].ports, s->peers[next].n_ports, choose(s, d, next));
    if (!port)
        return sl_err_set(err, SL_EUNREACHABLE, "%s and %s share no transport", s->names[d],
                          next < 0 ? "the coordinator" : s->names[next]);
    struct sl_ctl_peer peer = {.stage =
                                   next < 0 ? SL_CTL_COORD : (uint32_t)s->peers[next].plan_stage,
                               .transport = port->transport,
                               .address = port->address,
                               .address_len = port->address_len};
    struct sl_ctl m = {.kind = SL_CTL_WIRE, .wire = {.epoch = epoch, .n_peers = 1, .peers = &peer}};
    sl_ctl_conn_send(s->peers[d].ctl, &m);
    return 0;
}

void sl_control_wire(struct sl_service *s, uint32_t epoch)
{
    const struct sl_plan *plan = sl_coord_plan(s->coord);
    struct sl_err err = {0};
    for (int i = 0; i < plan->n_stages; i++)
        if (!s->peers[plan->stages[i].device].ctl)
            return; /* died in this very step: its DOWN is on the way */
    sl_hub_disconnect_all(s->hub);
    memset(s->route, SL_ROUTE_COORD, sizeof s->route);
    s->n_route = plan->n_stages;
    int first = plan->stages[0].device, r = 0;
    for (int i = 0; i < plan->n_stages; i++) {
        s->route[i] = (uint8_t)i;
        s->peers[plan->stages[i].device].plan_stage = i;
    }
    for (int i = 0; r == 0 && i < plan->n_stages; i++)
        r = wire_one(s, epoch, plan->stages[i].device,
                     i + 1 < plan->n_stages ? plan->stages[i + 1].device : -1, &err);
    const struct sl_ctl_port *port =
        port_of(s->peers[first].ports, s->peers[first].n_ports, choose(s, -1, first));
    if (r == 0 && !port)
        r = sl_err_set(&err, SL_EUNREACHABLE, "the coordinator and %s share no transport",
                       s->names[first]);
    if (r) {
        sl_service_give_up(s, &err); /* as it is configured it can never work */
        return;
    }
    if (sl_hub_connect(s->hub, 0, port->transport, port->address, port->address_len, &err))
        sl_control_down(
            s, first, err.msg); /* it died just now; its own end comes too late to be told apart */
}

/* Whether the stage has reported micro-batch `slot`, or a later one, as done. */
static int has_done(const struct stage_peer *p, uint64_t slot)
{
    if (!p->timeline_len) return 0;
    return p->timeline[(p->timeline_at + p->timeline_len - 1) % SL_TIMELINE_MAX].slot >= slot;
}

void sl_control_stalled(struct sl_service *s, uint64_t slot, uint64_t age_ns)
{
    const struct sl_plan *plan = sl_coord_plan(s->coord);
    int i = 0;
    while (i < plan->n_stages - 1 && has_done(&s->peers[plan->stages[i].device], slot)) i++;
    const struct stage_peer *p = &s->peers[plan->stages[i].device];
    if (sl_env_now_ns() - p->moved_ns < SL_MOVED_NS)
        return; /* slow, not stuck: it finished a layer a moment ago */
    char why[160];
    snprintf(why, sizeof why, "it lives but has not answered micro-batch %llu for %.1f s",
             (unsigned long long)slot, (double)age_ns / 1e9);
    sl_control_down(s, plan->stages[i].device, why);
}

/* ---- time and life --------------------------------------------------------------------------- */

void sl_control_tick(struct sl_service *s, uint64_t now)
{
    int ping = now - s->pinged_ns >= (uint64_t)SL_CTL_REPORT_MS * 1000000;
    if (ping) s->pinged_ns = now;
    /* When we ourselves did not run (stopped, starved), what the stages said in the meantime is
     * still unread: silence counts from now. */
    int slept = s->ticked_ns && now - s->ticked_ns > (uint64_t)SL_CTL_DEAD_MS * 1000000 / 2;
    s->ticked_ns = now;
    for (int i = 0; i < s->cluster->n_devices; i++) {
        struct stage_peer *p = &s->peers[i];
        if (p->child && !p->ctl && now > p->launched_ns &&
            now - p->launched_ns > (uint64_t)SL_JOIN_MS * 1000000) {
            char late[80];
            snprintf(late, sizeof late, "it was started and has not joined for %d s",
                     SL_JOIN_MS / 1000);
            sl_control_down(s, i, late);
        }
        if (!p->ctl) continue;
        struct sl_ctl m = {.kind = SL_CTL_PING};
        if (ping) sl_ctl_conn_send(p->ctl, &m);
        if (slept) p->heard_ns = now;
        if (now > p->heard_ns && now - p->heard_ns > (uint64_t)SL_CTL_DEAD_MS * 1000000) {
            char why[80];
            snprintf(why, sizeof why, "silent for %.1f s", (double)(now - p->heard_ns) / 1e9);
            sl_control_down(s, i, why);
        }
    }
    for (struct pending *c = s->pending, *next; c; c = next) {
        next = c->next;
        if (c->device >= 0 || now - c->since_ns < (uint64_t)SL_HELLO_MS * 1000000) continue;
        struct sl_err e;
        sl_err_set(&e, SL_ETIMEOUT, "it said nothing for %d ms", SL_HELLO_MS);
        refuse(s, c, &e);
    }
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

int sl_control_start(struct sl_service *s, struct sl_err *err)
{
    const struct sl_cluster *c = s->cluster;
    s->peers = calloc((size_t)c->n_devices, sizeof *s->peers);
    if (!s->peers) return sl_err_set(err, SL_ENOMEM, "no memory for %d stages", c->n_devices);
    for (int i = 0; i < c->n_devices; i++)
        s->peers[i] = (struct stage_peer){.svc = s, .device = i, .plan_stage = -1};
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

void sl_control_drain(struct sl_service *s)
{
    for (int i = 0; s->peers && i < s->cluster->n_devices; i++) {
        struct sl_ctl m = {.kind = SL_CTL_DRAIN};
        if (s->peers[i].ctl) sl_ctl_conn_send(s->peers[i].ctl, &m);
    }
}

void sl_control_close(struct sl_service *s)
{
    for (int i = 0; s->peers && i < s->cluster->n_devices; i++) {
        struct stage_peer *p = &s->peers[i];
        if (p->child) sl_child_abandon(p->child, SL_CHILD_LEAVE_MS); /* it was told to leave */
        sl_ctl_conn_close(p->ctl);
        free(p->link_end);
        p->child = NULL;
        p->ctl = NULL;
        p->link_end = NULL;
    }
    while (s->pending) {
        struct pending *c = s->pending;
        s->pending = c->next;
        sl_ctl_conn_close(c->ctl);
        free(c);
    }
    s->n_pending = 0;
}
