/* wiring.c - who sends frames to whom, over which transport, and to which of their ports.
 *
 * A process that dies may leave a port it was writing to blocked for good (link.h:
 * sl_port_is_fragile). So ports serve until the first death and no longer: when a stage of the
 * pipeline dies, we and all others that were wired open fresh ones, and the next epoch is wired
 * when every stage has said where its own are. What a dead process has touched is never used again.
 */
#include <stdlib.h>
#include <string.h>

#include "base/dtype.h"
#include "base/log.h"
#include "coordinator/internal.h"

/* ---- ports ----------------------------------------------------------------------------------- */

void sl_peer_drop_ports(struct stage_peer *p)
{
    for (int i = 0; i < p->n_ports; i++) {
        free((void *)(uintptr_t)p->ports[i].address);
        free((void *)(uintptr_t)p->ports[i].transport);
    }
    free(p->transports);
    p->transports = NULL;
    p->n_ports = p->used = p->reopening = 0;
}

int sl_peer_take_ports(struct stage_peer *p, const struct sl_ctl_port *ports, size_t n)
{
    struct sl_buf names;
    sl_peer_drop_ports(p);
    sl_buf_init(&names, 256);
    for (size_t i = 0; i < n && p->n_ports < SL_HUB_PORTS_MAX; i++) {
        void *address = malloc(ports[i].address_len ? ports[i].address_len : 1);
        char *transport = strdup(ports[i].transport);
        if (!address || !transport) {
            free(address);
            free(transport);
            break;
        }
        memcpy(address, ports[i].address, ports[i].address_len);
        p->ports[p->n_ports++] = (struct sl_ctl_port){transport, address, ports[i].address_len};
        sl_buf_printf(&names, "%s%s", names.len ? " " : "", transport);
    }
    p->transports = strdup(sl_buf_str(&names));
    sl_buf_close(&names);
    if (!p->transports) return SL_ENOMEM;
    return p->n_ports ? 0 : SL_EINPUT;
}

/* Fresh ports in the place of all that have been part of an epoch. */
static void reopen(struct sl_service *s)
{
    struct sl_err err = {0};
    if (s->stopping == 2) return; /* all of it is being closed */
    if (s->used && sl_hub_reopen(s->hub, &err)) {
        sl_service_give_up(s, &err);
        return;
    }
    s->used = 0;
    for (int i = 0; i < s->cluster->n_devices; i++) {
        struct stage_peer *p = &s->peers[i];
        struct sl_ctl m = {.kind = SL_CTL_REOPEN};
        if (!p->ctl || !p->used) continue;
        sl_peer_drop_ports(p);
        p->reopening = 1;
        sl_ctl_conn_send(p->ctl, &m);
    }
}

/* ---- transports ------------------------------------------------------------------------------ */

/* Names that could not be found out are equal to none. */
static int is_same(const char *a, const char *b)
{
    return *a && strcmp(a, b) == 0;
}

/* What the topology file says of the link between two nodes (-1: the coordinator's), or NULL. */
static const struct sl_link_spec *spec_of(const struct sl_cluster *c, int a, int b)
{
    for (int i = 0; i < c->n_links; i++) {
        const struct sl_link_spec *l = &c->links[i];
        if ((l->node_a == a && l->node_b == b) || (l->node_a == b && l->node_b == a)) return l;
    }
    return NULL;
}

static int is_forced(const struct sl_link_spec *l)
{
    return l && l->transport && strcmp(l->transport, "auto") != 0;
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
    const struct sl_link_spec *spec = spec_of(c, na_index, nb_index);
    if (is_forced(spec)) return sl_transport_choose(list_a, spec->transport, 1, 1);
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

/* How the payloads of stage d's frames travel to stage `next`: their lane, and in which format. */
static void choose_payload(const struct sl_service *s, int d, int next, struct sl_ctl_peer *out)
{
    const struct sl_cluster *c = s->cluster;
    const struct stage_peer *a = &s->peers[d], *b = &s->peers[next];
    const struct sl_link_spec *spec = spec_of(c, c->devices[d].node, c->devices[next].node);
    out->lane = is_forced(spec)
                    ? ""
                    : sl_lane_choose(a->transports, b->transports, a->gpu, b->gpu, out->transport);
    const struct sl_ctl_port *lane = port_of(b->ports, b->n_ports, out->lane);
    if (lane) {
        out->lane_address = lane->address;
        out->lane_address_len = lane->address_len;
    }
    out->activations = sl_activations_choose(spec && spec->activations ? spec->activations : "auto",
                                             out->transport, out->lane, spec ? spec->bandwidth : 0);
}

/* ---- an epoch -------------------------------------------------------------------------------- */

/* Tells device `d` (a stage) where its frames go next: to stage `next`, or to us. *lane: the lane
 * of the edge to it; becomes that of the edge from it. */
static int wire_one(struct sl_service *s, uint32_t epoch, int d, int next, const char **lane,
                    struct sl_err *err)
{
    int lane_in = strcmp(*lane, "nccl") == 0;
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
    s->peers[d].activations = NULL;
    if (next >= 0) {
        choose_payload(s, d, next, &peer);
        *lane = peer.lane;
        s->peers[d].activations = sl_dtype_name(peer.activations);
        sl_log(SL_LOG_INFO, "coord", "%s to %s: %s%s%s, activations %s", s->names[d],
               s->names[next], peer.lane, *peer.lane ? "/" : "", peer.transport,
               s->peers[d].activations);
    }
    struct sl_ctl m = {.kind = SL_CTL_WIRE,
                       .wire = {.epoch = epoch, .lane_in = lane_in, .n_peers = 1, .peers = &peer}};
    sl_ctl_conn_send(s->peers[d].ctl, &m);
    return 0;
}

static void wire_all(struct sl_service *s, uint32_t epoch)
{
    const struct sl_plan *plan = sl_coord_plan(s->coord);
    struct sl_err err = {0};
    sl_hub_disconnect_all(s->hub);
    memset(s->route, SL_ROUTE_COORD, sizeof s->route);
    s->n_route = plan->n_stages;
    int first = plan->stages[0].device, r = 0;
    for (int i = 0; i < plan->n_stages; i++) {
        s->route[i] = (uint8_t)i;
        s->peers[plan->stages[i].device].plan_stage = i;
        s->peers[plan->stages[i].device].used = 1;
    }
    s->used = 1; /* senders' too: receivers write back that they have read */
    const char *lane = "";
    for (int i = 0; r == 0 && i < plan->n_stages; i++)
        r = wire_one(s, epoch, plan->stages[i].device,
                     i + 1 < plan->n_stages ? plan->stages[i + 1].device : -1, &lane, &err);
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

/* Wires the epoch that is due once every stage's ports are known. */
static void wire_when_ready(struct sl_service *s)
{
    const struct sl_plan *plan = sl_coord_plan(s->coord);
    if (!s->wiring || s->failed) return;
    for (int i = 0; i < plan->n_stages; i++) {
        const struct stage_peer *p = &s->peers[plan->stages[i].device];
        if (!p->ctl || p->reopening) return;
    }
    uint32_t epoch = s->wiring;
    s->wiring = 0;
    wire_all(s, epoch);
}

void sl_control_wire(struct sl_service *s, uint32_t epoch)
{
    const struct sl_plan *plan = sl_coord_plan(s->coord);
    for (int i = 0; i < plan->n_stages; i++)
        if (!s->peers[plan->stages[i].device].ctl)
            return; /* died in this very step: its DOWN is on the way */
    s->wiring = epoch;
    reopen(s);
    wire_when_ready(s);
}

void sl_wiring_break(struct sl_service *s)
{
    s->wiring = 0; /* the brain begins another epoch when the dead is back */
    reopen(s);
}

void sl_wiring_ports(struct stage_peer *p, const struct sl_ctl_ports *m)
{
    struct sl_service *s = p->svc;
    if (!p->reopening) return;
    if (sl_peer_take_ports(p, m->ports, m->n_ports)) {
        sl_control_down(s, p->device, "it has no usable port any more");
        return;
    }
    wire_when_ready(s);
}
