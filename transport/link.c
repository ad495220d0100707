/* link.c - ports and links of any transport: the table to choose from, argument checks, bounds and
 * counters. */
#include "transport/link.h"

#include <string.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "transport/ops.h"

/* Best first: the order is the preference of sl_transport_choose. */
static const struct sl_transport *const transports[] = {&sl_transport_local, &sl_transport_ucx_shm,
                                                        &sl_transport_ucx_tcp};

const char *sl_transport_list(void)
{
    return "local ucx-shm ucx-tcp";
}

static int listed(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = list; p && *p;) {
        size_t word = strcspn(p, " ");
        if (word == n && memcmp(p, name, n) == 0) return 1;
        p += word;
        p += strspn(p, " ");
    }
    return 0;
}

const char *sl_transport_choose(const char *a, const char *b, int same_process, int same_host)
{
    for (size_t i = 0; i < SL_ARRAY_LEN(transports); i++) {
        const struct sl_transport *t = transports[i];
        if (t->same_process && !same_process) continue;
        if (t->same_host && !same_host && !same_process) continue;
        if (listed(a, t->name) && listed(b, t->name)) return t->name;
    }
    return NULL;
}

/* Best first. A lane over UCX with CUDA memory would be a row between these two and copying through
 * the host, which needs no row: it always works (docs/decisions/2026-11-21-lanes.md). */
static const struct lane_row {
    const char *name;
    const char *port;      /* that both ends list, or NULL */
    const char *transport; /* that the link must have, or NULL */
    int same_gpu;
} lane_rows[] = {{"nccl", "nccl", NULL, 0}, {"device", NULL, "local", 1}};

const char *sl_lane_choose(const char *a, const char *b, const char *gpu_a, const char *gpu_b,
                           const char *transport)
{
    if (!*gpu_a || !*gpu_b) return "";
    int same_gpu = strcmp(gpu_a, gpu_b) == 0;
    for (size_t i = 0; i < SL_ARRAY_LEN(lane_rows); i++) {
        const struct lane_row *r = &lane_rows[i];
        if (r->same_gpu != same_gpu) continue;
        if (r->transport && strcmp(transport, r->transport) != 0) continue;
        if (!r->port || (listed(a, r->port) && listed(b, r->port))) return r->name;
    }
    return "";
}

enum sl_dtype sl_activations_choose(const char *wanted, const char *transport, const char *lane,
                                    double bandwidth)
{
    static const struct {
        const char *word;
        enum sl_dtype dtype;
    } words[] = {{"f32", SL_F32}, {"bf16", SL_BF16}, {"fp8", SL_F8_E4M3}};
    for (size_t i = 0; i < SL_ARRAY_LEN(words); i++)
        if (strcmp(wanted, words[i].word) == 0) return words[i].dtype;
    int slow = bandwidth > 0 && bandwidth < SL_SLOW_LINK;
    return slow && !*lane && strcmp(transport, "ucx-tcp") == 0 ? SL_BF16 : SL_F32;
}

/* ---- ports ----------------------------------------------------------------------------------- */

int sl_port_open(struct uv_loop_s *loop, const char *transport, sl_port_frame_fn on_frame,
                 sl_port_error_fn on_error, void *arg, struct sl_port **out, struct sl_err *err)
{
    SL_ASSERT(loop && on_frame);
    const struct sl_transport *t = NULL;
    for (size_t i = 0; i < SL_ARRAY_LEN(transports); i++)
        if (strcmp(transports[i]->name, transport) == 0) t = transports[i];
    if (!t)
        return sl_err_set(err, SL_EINPUT, "transport \"%s\" does not exist; this program has: %s",
                          transport, sl_transport_list());
    struct sl_port *p;
    int rc = t->port_open(loop, &p, err);
    if (rc) return rc;
    p->transport = t;
    p->on_frame = on_frame;
    p->on_error = on_error;
    p->arg = arg;
    sl_list_init(&p->links);
    *out = p;
    return 0;
}

void sl_port_close(struct sl_port *p, void (*done)(void *arg), void *arg)
{
    SL_ASSERT(!p->closing);
    while (!sl_list_empty(&p->links))
        sl_link_close(sl_container_of(p->links.next, struct sl_link, node));
    p->closing = 1;
    p->done = done;
    p->done_arg = arg;
    p->transport->port_close(p);
}

void sl_port_finish(struct sl_port *p)
{
    SL_ASSERT(p->closing);
    if (p->done) p->done(p->done_arg);
}

const char *sl_port_transport(const struct sl_port *p)
{
    return p->transport->name;
}

int sl_port_is_fragile(const struct sl_port *p)
{
    return p->transport->fragile;
}

int sl_port_address(const struct sl_port *p, struct sl_buf *out)
{
    return p->transport->address(p, out);
}

/* ---- links ----------------------------------------------------------------------------------- */

int sl_link_open(struct sl_port *p, const void *address, size_t n, sl_link_down_fn on_down,
                 void *arg, struct sl_link **out, struct sl_err *err)
{
    SL_ASSERT(!p->closing);
    if (!address || n == 0 || n > SL_PORT_ADDRESS_MAX)
        return sl_err_set(err, SL_EINPUT, "%s address of %zu bytes, expected 1 to %d",
                          p->transport->name, n, SL_PORT_ADDRESS_MAX);
    struct sl_link *l;
    int rc = p->transport->link_open(p, address, n, &l, err);
    if (rc) return rc;
    l->port = p;
    l->on_down = on_down;
    l->arg = arg;
    sl_list_append(&p->links, &l->node);
    *out = l;
    return 0;
}

int sl_link_send(struct sl_link *l, struct sl_frame *f)
{
    struct sl_link_stats now;
    int rc = 0;
    if (l->down) {
        rc = SL_ECLOSED;
    } else {
        l->port->transport->link_stats(l, &now);
        if (now.queued >= SL_LINK_QUEUE_MAX) rc = SL_EBUSY;
    }
    if (rc) {
        sl_frame_free(f);
        return rc;
    }
    SL_ASSERT(sl_frame_body_bytes(&f->head) <= f->cap);
    f->head.sent_ns = sl_env_now_ns();
    return l->port->transport->link_send(l, f);
}

void sl_link_close(struct sl_link *l)
{
    if (!l) return;
    sl_list_remove(&l->node);
    l->on_down = NULL;
    l->port->transport->link_close(l);
}

void sl_link_get_stats(const struct sl_link *l, struct sl_link_stats *out)
{
    l->port->transport->link_stats(l, out);
}

/* ---- counters -------------------------------------------------------------------------------- */

void sl_meter_begin(struct sl_meter *m)
{
    if (m->s.queued++ == 0) m->since_ns = sl_env_now_ns();
}

void sl_meter_end(struct sl_meter *m, uint64_t bytes, int delivered)
{
    SL_ASSERT(m->s.queued > 0);
    if (delivered) {
        m->s.frames++;
        m->s.bytes += bytes;
    }
    if (--m->s.queued == 0) m->s.busy_ns += sl_env_now_ns() - m->since_ns;
}

struct sl_link_stats sl_meter_read(const struct sl_meter *m)
{
    struct sl_link_stats s = m->s;
    if (s.queued) s.busy_ns += sl_env_now_ns() - m->since_ns;
    return s;
}
