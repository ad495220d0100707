/* wiring.c - who sends frames to whom, and over which transport. */
#include <string.h>

#include "coordinator/internal.h"

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
