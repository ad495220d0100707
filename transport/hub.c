/* hub.c - see hub.h. */
#include "transport/hub.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/sl_assert.h"

#define HUB_PEERS (SL_CTL_COORD + 1)

struct peer {
    struct sl_hub *hub;
    int number;
    struct sl_link *link; /* NULL: none */
    const char *transport;
    enum { NO_LANE, LANE_OF_KIND, LANE_DEVICE } lane;
    char shown[32];              /* transport with lane */
    struct sl_link_stats before; /* of earlier links */
};

struct sl_hub {
    struct uv_loop_s *loop;
    int n_ports;
    struct sl_port *ports[SL_HUB_PORTS_MAX];
    struct sl_buf addresses[SL_HUB_PORTS_MAX];
    struct sl_ctl_port described[SL_HUB_PORTS_MAX]; /* the ports, then the lanes' */
    int n_described;
    char names[64];
    struct sl_lanes *lanes;   /* NULL: none */
    struct sl_berths *berths; /* NULL: none; shared */
    struct peer peers[HUB_PEERS];
    sl_port_frame_fn on_frame;
    sl_hub_down_fn on_down;
    void *arg;
    int closing;
    int unclosed; /* ports told to close that have not ended yet */
    void (*done)(void *arg);
    void *done_arg;
};

static void deliver(void *arg, struct sl_frame *f)
{
    struct sl_hub *h = arg;
    if (h->closing)
        sl_frame_free(f);
    else
        h->on_frame(h->arg, f);
}

static void on_frame(void *arg, struct sl_frame *f)
{
    struct sl_hub *h = arg;
    if (h->lanes && !h->closing)
        sl_lanes_receive(h->lanes, f); /* it may have to wait for its payload, or for another's */
    else if (f->head.lane && !f->berth)
        sl_frame_free(f); /* nobody has told its sender that there is a lane */
    else
        deliver(h, f);
}

static void on_port_error(void *arg, const struct sl_err *err)
{
    (void)arg;
    sl_log(SL_LOG_WARN, "link", "dropped a bad frame: %s", err->msg);
}

/* ---- ports ----------------------------------------------------------------------------------- */

static void maybe_done(struct sl_hub *h)
{
    if (!h->closing || h->unclosed > 0) return;
    sl_berths_release(h->berths);
    void (*done)(void *) = h->done;
    void *done_arg = h->done_arg;
    free(h);
    if (done) done(done_arg);
}

static void on_port_closed(void *arg)
{
    struct sl_hub *h = arg;
    h->unclosed--;
    maybe_done(h);
}

static void close_port(struct sl_hub *h, int i)
{
    h->unclosed++;
    sl_port_close(h->ports[i], on_port_closed, h);
    sl_buf_close(&h->addresses[i]);
}

/* Opens a port in place `i`, which is empty. */
static int open_port(struct sl_hub *h, int i, const char *name, struct sl_err *err)
{
    int r = sl_port_open(h->loop, name, on_frame, on_port_error, h, &h->ports[i], err);
    if (r) return r;
    sl_buf_init(&h->addresses[i], SL_PORT_ADDRESS_MAX);
    r = sl_port_address(h->ports[i], &h->addresses[i]);
    if (r == 0) return 0;
    close_port(h, i);
    return sl_err_set(err, r, "transport %s has no address", name);
}

static void describe_port(struct sl_hub *h, const char *name, const void *address, size_t len)
{
    h->described[h->n_described++] =
        (struct sl_ctl_port){.transport = name, .address = address, .address_len = len};
    size_t n = strlen(h->names);
    snprintf(h->names + n, sizeof h->names - n, "%s%s", n ? " " : "", name);
}

/* The lists that others see follow from the ports. */
static void describe(struct sl_hub *h)
{
    struct sl_err err = {0};
    const void *address;
    size_t n;
    h->names[0] = 0;
    h->n_described = 0;
    for (int i = 0; i < h->n_ports; i++)
        describe_port(h, sl_port_transport(h->ports[i]), h->addresses[i].data, h->addresses[i].len);
    if (!h->lanes) return;
    if (sl_lanes_address(h->lanes, &address, &n, &err))
        sl_log(SL_LOG_WARN, "link", "no %s here any more: %s", sl_lanes_name(h->lanes), err.msg);
    else
        describe_port(h, sl_lanes_name(h->lanes), address, n);
}

/* A hub without ports; NULL when memory is out. */
static struct sl_hub *create(struct uv_loop_s *loop, sl_port_frame_fn frame_fn,
                             sl_hub_down_fn down_fn, void *arg)
{
    struct sl_hub *h = calloc(1, sizeof *h);
    if (!h) return NULL;
    h->loop = loop;
    h->on_frame = frame_fn;
    h->on_down = down_fn;
    h->arg = arg;
    for (int i = 0; i < HUB_PEERS; i++) h->peers[i] = (struct peer){.hub = h, .number = i};
    return h;
}

int sl_hub_open(struct uv_loop_s *loop, const char *transports, sl_port_frame_fn frame_fn,
                sl_hub_down_fn down_fn, void *arg, struct sl_hub **out, struct sl_err *err)
{
    struct sl_hub *h = create(loop, frame_fn, down_fn, arg);
    char *list = strdup(transports ? transports : sl_transport_list()), *save = NULL;
    if (!h || !list) {
        free(h);
        free(list);
        return sl_err_set(err, SL_ENOMEM, "no memory for the data ports");
    }
    struct sl_err last = {0};
    for (char *t = strtok_r(list, " ,", &save); t && h->n_ports < SL_HUB_PORTS_MAX - 1;
         t = strtok_r(NULL, " ,", &save)) {
        if (strcmp(t, "nccl") == 0) continue; /* lanes come later, from who has a card */
        if (open_port(h, h->n_ports, t, &last) == 0)
            h->n_ports++;
        else
            sl_log(SL_LOG_WARN, "link", "no %s here: %s", t, last.msg);
    }
    free(list);
    if (h->n_ports == 0) {
        h->closing = 1;
        maybe_done(h);
        return sl_err_set(err, last.code ? last.code : SL_EINPUT, "no data transport works: %s",
                          last.msg);
    }
    describe(h);
    *out = h;
    return 0;
}

int sl_hub_reopen(struct sl_hub *h, struct sl_err *err)
{
    SL_ASSERT(!h->closing);
    struct sl_err last = {0};
    int kept = 0;
    sl_hub_disconnect_all(h);
    for (int i = 0; i < h->n_ports; i++) {
        const char *name = sl_port_transport(h->ports[i]);
        if (sl_port_is_fragile(h->ports[i])) {
            close_port(h, i);
            if (open_port(h, i, name, &last)) {
                sl_log(SL_LOG_WARN, "link", "%s does not work here any more: %s", name, last.msg);
                continue;
            }
        }
        h->ports[kept] = h->ports[i];
        h->addresses[kept] = h->addresses[i];
        kept++;
    }
    h->n_ports = kept;
    describe(h);
    return kept ? 0 : sl_err_set(err, last.code, "no data transport works any more: %s", last.msg);
}

void sl_hub_close(struct sl_hub *h, void (*done)(void *arg), void *arg)
{
    SL_ASSERT(!h->closing);
    sl_hub_disconnect_all(h);
    h->done = done;
    h->done_arg = arg;
    h->unclosed++; /* ours: no port's end is the last before all have been told */
    h->closing = 1;
    for (int i = 0; i < h->n_ports; i++) close_port(h, i);
    if (h->lanes) {
        h->unclosed++;
        sl_lanes_close(h->lanes, on_port_closed, h);
        h->lanes = NULL;
    }
    on_port_closed(h);
}

int sl_hub_ports(const struct sl_hub *h, const struct sl_ctl_port **out)
{
    *out = h->described;
    return h->n_described;
}

const char *sl_hub_transports(const struct sl_hub *h)
{
    return h->names;
}

static void disconnect(struct peer *p)
{
    if (!p->link) return;
    struct sl_link_stats s;
    sl_link_get_stats(p->link, &s);
    p->before.frames += s.frames;
    p->before.bytes += s.bytes;
    p->before.busy_ns += s.busy_ns;
    sl_link_close(p->link);
    p->link = NULL;
    if (p->lane && p->hub->berths) sl_berths_open(p->hub->berths, 0);
    p->lane = NO_LANE;
}

void sl_hub_disconnect_all(struct sl_hub *h)
{
    for (int i = 0; i < HUB_PEERS; i++) disconnect(&h->peers[i]);
    if (h->lanes) sl_lanes_drop(h->lanes);
}

static void on_link_down(void *arg, const struct sl_err *err)
{
    struct peer *p = arg;
    struct sl_err why = *err; /* it may be the link's */
    disconnect(p);
    if (!p->hub->closing) p->hub->on_down(p->hub->arg, p->number, &why);
}

int sl_hub_connect(struct sl_hub *h, int peer, const char *transport, const void *address, size_t n,
                   struct sl_err *err)
{
    if (peer < 0 || peer >= HUB_PEERS)
        return sl_err_set(err, SL_EPROTO, "there is no peer %d", peer);
    struct peer *p = &h->peers[peer];
    disconnect(p);
    for (int i = 0; i < h->n_ports; i++) {
        if (strcmp(h->described[i].transport, transport) != 0) continue;
        p->transport = h->described[i].transport;
        snprintf(p->shown, sizeof p->shown, "%s", p->transport);
        return sl_link_open(h->ports[i], address, n, on_link_down, p, &p->link, err);
    }
    return sl_err_set(err, SL_EUNSUPPORTED, "transport %s is not open here (have: %s)", transport,
                      h->names);
}

/* ---- lanes ----------------------------------------------------------------------------------- */

/* Which peer the sending lane belongs to; NULL: none. */
static struct peer *lane_peer(struct sl_hub *h)
{
    for (int i = 0; i < HUB_PEERS; i++)
        if (h->peers[i].lane) return &h->peers[i];
    return NULL;
}

static void lane_is(struct peer *p, int up)
{
    const char *name = p->lane == LANE_DEVICE ? "device" : sl_lanes_name(p->hub->lanes);
    if (p->hub->berths)
        sl_berths_set_least(p->hub->berths,
                            p->lane == LANE_DEVICE ? 0 : sl_lanes_least(p->hub->lanes));
    if (p->hub->berths) sl_berths_open(p->hub->berths, up);
    snprintf(p->shown, sizeof p->shown, "%s%s%s", up ? name : "", up ? "/" : "", p->transport);
}

static void on_lane_change(void *arg, int sends, const struct sl_err *err)
{
    struct sl_hub *h = arg;
    struct peer *p = sends ? lane_peer(h) : NULL;
    if (err)
        sl_log(SL_LOG_WARN, "link", "no lane for payloads %s: %s", sends ? "out" : "in", err->msg);
    else if (p)
        sl_log(SL_LOG_INFO, "link", "payloads to stage %d travel over %s", p->number,
               sl_lanes_name(h->lanes));
    if (p) lane_is(p, err == NULL);
}

int sl_hub_add_lanes(struct sl_hub *h, const struct sl_lane_kind *kind, struct sl_err *err)
{
    SL_ASSERT(!h->lanes && h->n_ports < SL_HUB_PORTS_MAX);
    int r = sl_lanes_open(h->loop, kind, deliver, on_lane_change, h, &h->lanes, err);
    if (r == 0) describe(h);
    return r;
}

void sl_hub_use_berths(struct sl_hub *h, struct sl_berths *berths)
{
    if (h->berths) sl_berths_open(h->berths, 0);
    sl_berths_release(h->berths);
    h->berths = berths ? sl_berths_share(berths) : NULL;
    if (h->lanes) sl_lanes_use(h->lanes, berths);
}

int sl_hub_add_lane(struct sl_hub *h, int peer, const char *name, const void *address, size_t n,
                    struct sl_err *err)
{
    if (peer < 0 || peer >= HUB_PEERS || !h->peers[peer].link || lane_peer(h))
        return sl_err_set(err, SL_EPROTO, "a lane to %d, to which there is no link", peer);
    struct peer *p = &h->peers[peer];
    if (strcmp(name, "device") == 0) {
        p->lane = LANE_DEVICE;
        lane_is(p, 1);
        return 0;
    }
    if (!h->lanes || strcmp(name, sl_lanes_name(h->lanes)) != 0)
        return sl_err_set(err, SL_EUNSUPPORTED, "lanes of kind %s are not open here", name);
    int r = sl_lanes_connect(h->lanes, address, n, err);
    if (r == 0) p->lane = LANE_OF_KIND;
    return r;
}

void sl_hub_accept_lane(struct sl_hub *h, uint32_t epoch)
{
    if (h->lanes) sl_lanes_accept(h->lanes, epoch);
}

/* The frame first: a payload without its frame would be taken for the next one's. */
static int send_with_berth(struct sl_hub *h, struct peer *p, struct sl_frame *f)
{
    if (p->lane == LANE_DEVICE) return sl_link_send(p->link, f);
    struct sl_berth *s = f->berth;
    size_t n = (size_t)sl_frame_payload_bytes(&f->head);
    int up = p->lane == LANE_OF_KIND && sl_lanes_is_up(h->lanes), r = SL_ECLOSED;
    f->berth = NULL;
    if (up)
        r = sl_link_send(p->link, f);
    else
        sl_frame_free(f);
    if (r == 0)
        sl_lanes_send(h->lanes, s, n);
    else
        sl_berth_free(s);
    return r;
}

int sl_hub_send(struct sl_hub *h, int peer, struct sl_frame *f)
{
    if (peer < 0 || peer >= HUB_PEERS || !h->peers[peer].link) {
        sl_frame_free(f);
        return SL_ENOTFOUND;
    }
    return f->berth ? send_with_berth(h, &h->peers[peer], f) : sl_link_send(h->peers[peer].link, f);
}

/* Of the lanes' bytes all count for the peer that has one: the next stage. */
static uint64_t lane_bytes(const struct sl_hub *h, const struct peer *p)
{
    return h->lanes && p->lane == LANE_OF_KIND ? sl_lanes_sent(h->lanes) : 0;
}

int sl_hub_link_stats(const struct sl_hub *h, int peer, struct sl_ctl_link *out)
{
    const struct peer *p = &h->peers[peer];
    if (!p->link) return 0;
    struct sl_link_stats s;
    sl_link_get_stats(p->link, &s);
    *out = (struct sl_ctl_link){.stage = (uint32_t)peer,
                                .frames = p->before.frames + s.frames,
                                .bytes = p->before.bytes + s.bytes + lane_bytes(h, p),
                                .busy_ns = p->before.busy_ns + s.busy_ns,
                                .transport = p->shown};
    return 1;
}
