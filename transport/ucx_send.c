/* ucx_send.c - links over UCX: a window of frames inside UCX, a queue before it, and how links end.
 *
 * A frame leaves as one active message: its 128-byte header as the message's header, its body as
 * the data, from where it lies. Numbers `link` and `seq` in the header let the receiver put frames
 * back into order, for large bodies are fetched while small ones overtake.
 *
 * Ends of a link:
 * - closed by the user: waiting frames are dropped; the link is parked until UCX has given back its
 * window and flushed and closed the endpoint;
 * - the peer dies, ucx-tcp: UCX reports it, requests fail, on_down is called; closing cuts the
 * endpoint (FORCE);
 * - the peer dies, ucx-shm: UCX never notices. The queue fills (SL_EBUSY); once closed, the link
 * stays parked with at most UCX_WINDOW frames until its port closes, for UCX cannot be told to
 * forget them. The port is closed soon, as it may be blocked itself (ucx.c). */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "transport/ucx.h"

/* UCX trusts the addresses it is given, so ours are wrapped: magic, length, sum. */
#define ADDRESS_MAGIC 0x31584355u /* "UCX1" in memory order */
struct address_head {
    uint32_t magic;
    uint32_t peer_errors; /* shm and tcp ports do not mix */
    uint32_t length;
    uint32_t sum; /* XXH32 of what follows */
};

int sl_ucx_address(const struct sl_port *port, struct sl_buf *out)
{
    const struct ucx_port *p = sl_container_of(port, struct ucx_port, port);
    ucp_address_t *address;
    size_t n;
    if (ucp_worker_get_address(p->worker, &address, &n) != UCS_OK) return SL_ENOMEM;
    struct address_head head = {ADDRESS_MAGIC, (uint32_t)p->kind->peer_errors, (uint32_t)n,
                                XXH32(address, n, 0)};
    int rc =
        sizeof head + n > SL_PORT_ADDRESS_MAX ? SL_ELIMIT : sl_buf_reserve(out, sizeof head + n);
    if (rc == 0) rc = sl_buf_add(out, &head, sizeof head);
    if (rc == 0) rc = sl_buf_add(out, address, n);
    ucp_worker_release_address(p->worker, address);
    return rc;
}

static int address_check(const struct ucx_port *p, const void *address, size_t n,
                         struct sl_err *err)
{
    struct address_head head;
    const char *name = p->kind->transport->name;
    if (n <= sizeof head)
        return sl_err_set(err, SL_EINPUT, "%s address of %zu bytes is too short", name, n);
    memcpy(&head, address, sizeof head);
    const char *rest = (const char *)address + sizeof head;
    if (head.magic != ADDRESS_MAGIC || head.peer_errors != (uint32_t)p->kind->peer_errors ||
        head.length != n - sizeof head || head.sum != XXH32(rest, head.length, 0))
        return sl_err_set(err, SL_EINPUT, "not an address of a %s port", name);
    return 0;
}

/* ---- sending --------------------------------------------------------------------------------- */

static void link_failed(struct ucx_link *l, ucs_status_t status)
{
    if (l->failed.code) return;
    int code = status == UCS_ERR_UNREACHABLE ? SL_EUNREACHABLE : SL_ECLOSED;
    sl_err_set(&l->failed, code, "%s link: %s", l->port->kind->transport->name,
               ucs_status_string(status));
    sl_ucx_port_kick(l->port);
}

/* Over shared memory large bodies go one at a time: when their sender dies while one is read,
 * UCX 1.13 frees the endpoint, and asserts when it meets another announcement that names it. (The
 * threshold is below any of UCX's for announcing.) */
#define LARGE_BYTES 4096

static int is_large(const struct ucx_link *l, const struct sl_frame *f)
{
    return !l->port->kind->peer_errors && sl_frame_body_bytes(&f->head) > LARGE_BYTES;
}

static void tx_done(struct ucx_tx *tx, ucs_status_t status)
{
    struct ucx_link *l = tx->link;
    sl_meter_end(&l->meter, SL_FRAME_HEAD_BYTES + sl_frame_body_bytes(&tx->frame->head),
                 status == UCS_OK);
    l->large -= is_large(l, tx->frame);
    sl_frame_free(tx->frame);
    tx->frame = NULL;
    tx->next = l->free;
    l->free = tx;
    l->inside--;
    if (status != UCS_OK) link_failed(l, status);
}

static void on_sent(void *request, ucs_status_t status, void *arg)
{
    struct ucx_tx *tx = arg;
    struct ucx_port *p = tx->link->port;
    tx_done(tx, status);
    ucp_request_free(request);
    sl_ucx_port_kick(p); /* the window has room */
}

static void submit(struct ucx_link *l)
{
    while (l->first && l->free && !l->failed.code) {
        struct sl_frame *f = l->first;
        if (l->large && is_large(l, f)) return; /* on_sent comes back */
        l->large += is_large(l, f);
        l->first = f->next;
        if (!l->first) l->last = &l->first;
        struct ucx_tx *tx = l->free;
        l->free = tx->next;
        tx->frame = f;
        l->inside++;
        f->head.link = l->id;
        f->head.seq = l->seq++;
        sl_frame_head_pack(&f->head, tx->head);
        ucp_request_param_t param = {.op_attr_mask =
                                         UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
                                     .cb.send = on_sent,
                                     .user_data = tx};
        ucs_status_ptr_t request =
            ucp_am_send_nbx(l->ep, UCX_AM_ID, tx->head, SL_FRAME_HEAD_BYTES, f->body,
                            (size_t)sl_frame_body_bytes(&f->head), &param);
        if (request == NULL)
            tx_done(tx, UCS_OK);
        else if (UCS_PTR_IS_ERR(request))
            tx_done(tx, UCS_PTR_STATUS(request));
    }
}

static void drop_waiting(struct ucx_link *l)
{
    while (l->first) {
        struct sl_frame *f = l->first;
        l->first = f->next;
        sl_meter_end(&l->meter, 0, 0);
        sl_frame_free(f);
    }
    l->last = &l->first;
}

int sl_ucx_link_send(struct sl_link *link, struct sl_frame *f)
{
    struct ucx_link *l = sl_container_of(link, struct ucx_link, link);
    if (l->failed.code) { /* on_down is due */
        sl_frame_free(f);
        return SL_ECLOSED;
    }
    f->next = NULL;
    *l->last = f;
    l->last = &f->next;
    sl_meter_begin(&l->meter);
    submit(l);
    sl_ucx_port_kick(l->port);
    return 0;
}

void sl_ucx_link_stats(const struct sl_link *link, struct sl_link_stats *out)
{
    *out = sl_meter_read(&sl_container_of(link, struct ucx_link, link)->meter);
}

/* ---- opening and closing --------------------------------------------------------------------- */

static void on_ep_error(void *arg, ucp_ep_h ep, ucs_status_t status)
{
    (void)ep;
    link_failed(arg, status);
}

int sl_ucx_link_open(struct sl_port *port, const void *address, size_t n, struct sl_link **out,
                     struct sl_err *err)
{
    struct ucx_port *p = sl_container_of(port, struct ucx_port, port);
    int rc = address_check(p, address, n, err);
    if (rc) return rc;
    struct ucx_link *l = calloc(1, sizeof *l);
    if (!l) return sl_err_set(err, SL_ENOMEM, "%s link: out of memory", p->kind->transport->name);
    l->port = p;
    l->last = &l->first;
    while (l->id == 0) sl_env_random(&l->id, sizeof l->id);
    for (int i = 0; i < UCX_WINDOW; i++) {
        l->tx[i].link = l;
        l->tx[i].next = l->free;
        l->free = &l->tx[i];
    }
    ucp_ep_params_t params = {
        .field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      (p->kind->peer_errors ? UCP_EP_PARAM_FIELD_ERR_HANDLER : 0),
        .address = (const ucp_address_t *)((const char *)address + sizeof(struct address_head)),
        .err_mode = p->kind->peer_errors ? UCP_ERR_HANDLING_MODE_PEER : UCP_ERR_HANDLING_MODE_NONE,
        .err_handler = {on_ep_error, l},
    };
    ucs_status_t status = ucp_ep_create(p->worker, &params, &l->ep);
    if (status != UCS_OK) {
        free(l);
        return sl_err_set(err, SL_EUNREACHABLE, "%s link: %s", p->kind->transport->name,
                          ucs_status_string(status));
    }
    sl_ucx_port_kick(p);
    *out = &l->link;
    return 0;
}

void sl_ucx_link_close(struct sl_link *link)
{
    struct ucx_link *l = sl_container_of(link, struct ucx_link, link);
    drop_waiting(l);
    l->park_ns = sl_env_now_ns() + SL_PORT_LINGER_MS * 1000000ull;
    sl_list_append(&l->port->parked, &l->node);
    sl_ucx_port_kick(l->port);
}

/* ---- parked links ---------------------------------------------------------------------------- */

static void on_flushed(void *request, ucs_status_t status, void *arg)
{
    struct ucx_link *l = arg;
    l->flushing = 0;
    l->flushed = 1;
    if (status != UCS_OK) link_failed(l, status);
    ucp_request_free(request);
    sl_ucx_port_kick(l->port);
}

static void on_gone(void *request, ucs_status_t status, void *arg)
{
    struct ucx_link *l = arg;
    (void)status; /* the endpoint is gone either way */
    l->gone = 1;
    ucp_request_free(request);
    sl_ucx_port_kick(l->port);
}

static void begin_flush(struct ucx_link *l)
{
    ucp_request_param_t param = {.op_attr_mask =
                                     UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
                                 .cb.send = on_flushed,
                                 .user_data = l};
    l->flushing = 1;
    ucs_status_ptr_t request = ucp_ep_flush_nbx(l->ep, &param);
    if (request != NULL && !UCS_PTR_IS_ERR(request)) return;
    l->flushing = 0;
    l->flushed = 1;
    if (request != NULL) link_failed(l, UCS_PTR_STATUS(request));
}

static void begin_close(struct ucx_link *l, int force)
{
    ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK |
                                                 UCP_OP_ATTR_FIELD_USER_DATA |
                                                 UCP_OP_ATTR_FIELD_FLAGS,
                                 .flags = force ? UCP_EP_CLOSE_FLAG_FORCE : 0,
                                 .cb.send = on_gone,
                                 .user_data = l};
    l->closing = 1;
    ucs_status_ptr_t request = ucp_ep_close_nbx(l->ep, &param);
    if (request == NULL || UCS_PTR_IS_ERR(request)) l->gone = 1;
}

static void advance(struct ucx_link *l)
{
    if (!l->closing) {
        if (l->port->kind->peer_errors && (l->failed.code || sl_env_now_ns() >= l->park_ns))
            begin_close(l, 1);
        else if (l->inside == 0 && !l->flushing && !l->flushed)
            begin_flush(l);
        if (!l->closing && l->inside == 0 && l->flushed)
            begin_close(l, l->port->kind->peer_errors && l->failed.code);
    }
    if (l->gone && l->inside == 0 && !l->flushing) {
        sl_list_remove(&l->node);
        free(l);
    }
}

/* Tells the user of one failed link; 0 when there is none. */
static int notify_one(struct ucx_port *p)
{
    struct sl_list *it, *tmp;
    sl_list_each(it, tmp, &p->port.links)
    {
        struct ucx_link *l = sl_container_of(it, struct ucx_link, link.node);
        if (!l->failed.code || l->link.down) continue;
        l->link.down = 1;
        drop_waiting(l);
        struct sl_err err = l->failed;
        if (l->link.on_down) l->link.on_down(l->link.arg, &err);
        return 1; /* the callback may have closed any link: start over */
    }
    return 0;
}

void sl_ucx_links_pump(struct ucx_port *p)
{
    struct sl_list *it, *tmp;
    sl_list_each(it, tmp, &p->port.links) submit(sl_container_of(it, struct ucx_link, link.node));
    while (notify_one(p)) {
    }
    sl_list_each(it, tmp, &p->parked) advance(sl_container_of(it, struct ucx_link, node));
}

int sl_ucx_links_pending(const struct ucx_port *p)
{
    struct sl_list *it, *tmp;
    uint64_t now = sl_env_now_ns();
    sl_list_each(it, tmp, &p->parked)
    {
        const struct ucx_link *l = sl_container_of(it, struct ucx_link, node);
        if (p->kind->peer_errors || now < l->park_ns) return 1;
    }
    return 0;
}

void sl_ucx_links_release(struct ucx_port *p)
{
    struct sl_list *it, *tmp;
    sl_list_each(it, tmp, &p->parked)
    {
        struct ucx_link *l = sl_container_of(it, struct ucx_link, node);
        for (int i = 0; i < UCX_WINDOW; i++) sl_frame_free(l->tx[i].frame);
        sl_list_remove(&l->node);
        free(l);
    }
}
