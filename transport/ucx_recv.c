/* ucx_recv.c - frames coming in over UCX, from peers that are not trusted.
 *
 * Small bodies arrive with the message and are copied into a frame; large ones are announced
 * (rendezvous) and fetched straight into the frame's body. Both are checked by their header before
 * memory is set aside. Fetching takes time and small frames overtake it, so each sending link has a
 * queue sorted by `seq`; frames leave it when all before them are complete. A sender's announced
 * bodies beyond UCX_ACTIVE_BYTES_MAX wait as announcements: nothing is allocated for them, and
 * their sender's window fills.
 *
 * Misbehaviour - bad header, wrong length, numbers twice or far ahead, a fetch that fails - is
 * reported once, and every later frame of that link is dropped. A message too garbled to name its
 * link is dropped alone. */
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "transport/ucx.h"

#define AHEAD_MAX (2 * SL_LINK_QUEUE_MAX) /* a seq this far ahead cannot be honest */

/* One link into this port, by the number its sender chose. */
struct sender {
    uint32_t id;
    uint32_t next;    /* seq due */
    int bad;          /* drop everything */
    struct rx *first; /* sorted by seq */
    uint64_t active_bytes;
    int active;         /* fetches under way */
    struct sl_list due; /* in port->due: there is something to fetch */
    uint64_t used_ns;
};

/* A frame that is not delivered yet. */
struct rx {
    struct rx *next;
    struct sl_list node; /* in port->active while UCX writes into the frame */
    struct ucx_port *port;
    struct sender *from;
    struct sl_frame *frame; /* NULL while only announced */
    struct sl_frame_head head;
    void *announced; /* UCX's descriptor */
    int done;
};

static void refuse(struct ucx_port *p, struct sender *s, const struct sl_err *err)
{
    p->refused++;
    if (s && s->bad) return;
    if (s) s->bad = 1;
    if (!p->refusal.code) p->refusal = *err;
}

/* ---- senders --------------------------------------------------------------------------------- */

/* Drops what is complete or only announced; fetches under way end by themselves. */
static void sender_drop(struct sender *s)
{
    struct rx **at = &s->first;
    while (*at) {
        struct rx *r = *at;
        if (!r->done && !r->announced) { /* being fetched */
            at = &r->next;
            continue;
        }
        *at = r->next;
        if (r->announced) ucp_am_data_release(r->port->worker, r->announced);
        sl_frame_free(r->frame);
        free(r);
    }
}

static void sender_fail(struct ucx_port *p, struct sender *s, const struct sl_err *err)
{
    refuse(p, s, err);
    sender_drop(s);
}

/* Makes room when the map is full: forgets the sender longest silent that has nothing pending. */
static void sender_evict(struct ucx_port *p)
{
    struct sender *oldest = NULL;
    size_t pos = 0;
    for (struct sender *s; (s = sl_map_next(&p->senders, &pos, NULL));)
        if (!s->first && sl_list_empty(&s->due) && (!oldest || s->used_ns < oldest->used_ns))
            oldest = s;
    if (!oldest) return;
    sl_map_remove(&p->senders, oldest->id);
    free(oldest);
}

static struct sender *sender_find(struct ucx_port *p, uint32_t id)
{
    struct sender *s = sl_map_get(&p->senders, id);
    if (!s) {
        if (p->senders.len >= UCX_SENDERS_MAX) sender_evict(p);
        if (p->senders.len >= UCX_SENDERS_MAX) return NULL;
        s = calloc(1, sizeof *s);
        if (!s) return NULL;
        s->id = id;
        sl_list_init(&s->due);
        if (sl_map_put(&p->senders, id, s)) {
            free(s);
            return NULL;
        }
    }
    s->used_ns = sl_env_now_ns();
    return s;
}

/* ---- order ----------------------------------------------------------------------------------- */

/* 0, or SL_EPROTO when the number is taken. */
static int insert(struct sender *s, struct rx *r)
{
    struct rx **at = &s->first;
    uint32_t distance = r->head.seq - s->next;
    while (*at && (*at)->head.seq - s->next < distance) at = &(*at)->next;
    if (*at && (*at)->head.seq == r->head.seq) return SL_EPROTO;
    r->next = *at;
    *at = r;
    return 0;
}

/* Moves what is complete and in order to the port's queue. */
static void deliver_ready(struct ucx_port *p, struct sender *s)
{
    while (s->first && s->first->done && s->first->head.seq == s->next) {
        struct rx *r = s->first;
        s->first = r->next;
        s->next++;
        r->frame->next = NULL;
        *p->last = r->frame;
        p->last = &r->frame->next;
        p->ready++;
        free(r);
    }
}

/* ---- fetching -------------------------------------------------------------------------------- */

static void fetch_ended(struct rx *r, ucs_status_t status)
{
    struct ucx_port *p = r->port;
    struct sender *s = r->from;
    sl_list_remove(&r->node);
    s->active--;
    s->active_bytes -= sl_frame_body_bytes(&r->head);
    r->done = 1;
    if (status == UCS_OK && !s->bad) {
        r->frame->recv_ns = sl_env_now_ns();
        deliver_ready(p, s);
        return;
    }
    if (!s->bad) {
        struct sl_err err;
        sl_err_set(&err, SL_ECLOSED,
                   "%s port: fetching a frame of %llu bytes failed: %s; its sender is gone",
                   p->kind->transport->name, (unsigned long long)sl_frame_body_bytes(&r->head),
                   ucs_status_string(status));
        refuse(p, s, &err);
    }
    sender_drop(s); /* r among them */
}

static void fetch_due(struct ucx_port *p, struct sender *s)
{
    sl_list_remove(&s->due);
    sl_list_append(&p->due, &s->due);
}

static void on_fetched(void *request, ucs_status_t status, size_t length, void *arg)
{
    struct rx *r = arg;
    struct ucx_port *p = r->port;
    struct sender *s = r->from;
    (void)length; /* announced and checked */
    ucp_request_free(request);
    fetch_ended(r, status);
    fetch_due(p, s);
    sl_ucx_port_kick(p);
}

static void fetch(struct rx *r)
{
    struct ucx_port *p = r->port;
    struct sender *s = r->from;
    size_t n = (size_t)sl_frame_body_bytes(&r->head);
    void *announced = r->announced;
    r->announced = NULL;
    s->active++;
    s->active_bytes += n;
    sl_list_append(&p->active, &r->node);
    ucp_request_param_t param = {.op_attr_mask =
                                     UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
                                 .cb.recv_am = on_fetched,
                                 .user_data = r};
    ucs_status_ptr_t request =
        ucp_am_recv_data_nbx(p->worker, announced, r->frame->body, n, &param);
    if (request == NULL)
        fetch_ended(r, UCS_OK);
    else if (UCS_PTR_IS_ERR(request))
        fetch_ended(r, UCS_PTR_STATUS(request));
}

/* Begins fetching announced frames, in order, as far as the sender's share of memory goes. */
static void start_fetches(struct ucx_port *p, struct sender *s)
{
    for (;;) {
        struct rx *r = s->first;
        while (r && !r->announced) r = r->next;
        if (!r || s->bad) return;
        if (s->active && s->active_bytes + sl_frame_body_bytes(&r->head) > UCX_ACTIVE_BYTES_MAX)
            return;
        r->frame = sl_frame_alloc(&r->head);
        if (!r->frame) {
            struct sl_err err;
            sl_err_set(&err, SL_ENOMEM, "%s port: no memory for a frame of %llu bytes",
                       p->kind->transport->name, (unsigned long long)sl_frame_body_bytes(&r->head));
            sender_fail(p, s, &err);
            return;
        }
        fetch(r);
    }
}

int sl_ucx_recv_fetch(struct ucx_port *p)
{
    int any = 0;
    while (!sl_list_empty(&p->due)) {
        struct sender *s = sl_container_of(p->due.next, struct sender, due);
        sl_list_remove(&s->due);
        start_fetches(p, s);
        any = 1;
    }
    return any;
}

/* ---- arrival --------------------------------------------------------------------------------- */

/* The sender of a frame that may be accepted, or NULL. */
static struct sender *check(struct ucx_port *p, const void *header, size_t header_length,
                            size_t length, struct sl_frame_head *head)
{
    struct sl_err err;
    uint8_t copy[SL_FRAME_HEAD_BYTES];
    if (header_length != SL_FRAME_HEAD_BYTES) {
        sl_err_set(&err, SL_EPROTO, "%s port: message with a header of %zu bytes, expected %d",
                   p->kind->transport->name, header_length, SL_FRAME_HEAD_BYTES);
        refuse(p, NULL, &err);
        return NULL;
    }
    memcpy(copy, header, sizeof copy);
    int rc = sl_frame_head_unpack(copy, head, &err);
    struct sender *s = head->link ? sender_find(p, head->link) : NULL;
    if (s && s->bad) {
        p->refused++;
        return NULL;
    }
    if (rc == 0 && !s)
        rc = sl_err_set(&err, SL_ELIMIT, "frame without a link number, or more than %d links",
                        UCX_SENDERS_MAX);
    if (rc == 0 && sl_frame_body_bytes(head) != length)
        rc = sl_err_set(&err, SL_EPROTO, "frame of %zu bytes, its header says %llu", length,
                        (unsigned long long)sl_frame_body_bytes(head));
    if (rc == 0 && head->seq - s->next >= AHEAD_MAX)
        rc = sl_err_set(&err, SL_EPROTO, "frame number %u when %u is due", head->seq, s->next);
    if (rc == 0) return s;
    sl_err_prefix(&err, "%s port: ", p->kind->transport->name);
    if (s)
        sender_fail(p, s, &err);
    else
        refuse(p, NULL, &err);
    return NULL;
}

static struct rx *rx_create(struct ucx_port *p, struct sender *s, const struct sl_frame_head *head,
                            int with_frame)
{
    struct rx *r = calloc(1, sizeof *r);
    struct sl_err err;
    if (r && with_frame) r->frame = sl_frame_alloc(head);
    if (!r || (with_frame && !r->frame)) {
        free(r);
        sl_err_set(&err, SL_ENOMEM, "%s port: no memory for a frame of %llu bytes",
                   p->kind->transport->name, (unsigned long long)sl_frame_body_bytes(head));
        sender_fail(p, s, &err);
        return NULL;
    }
    sl_list_init(&r->node);
    r->port = p;
    r->from = s;
    r->head = *head;
    if (insert(s, r) == 0) return r;
    sl_err_set(&err, SL_EPROTO, "%s port: frame number %u twice", p->kind->transport->name,
               head->seq);
    sl_frame_free(r->frame);
    free(r);
    sender_fail(p, s, &err);
    return NULL;
}

/* UCX's callback. UCS_OK: done with the data (an announced frame is declined); UCS_INPROGRESS: we
 * keep it. */
static ucs_status_t on_message(void *arg, const void *header, size_t header_length, void *data,
                               size_t length, const ucp_am_recv_param_t *param)
{
    struct ucx_port *p = arg;
    struct sl_frame_head head;
    int announced = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
    if (p->port.closing) return UCS_OK;
    struct sender *s = check(p, header, header_length, length, &head);
    struct rx *r = s ? rx_create(p, s, &head, !announced) : NULL;
    sl_ucx_port_kick(p);
    if (!r) return UCS_OK;
    if (announced) {
        r->announced = data;
        fetch_due(p, s); /* after UCX's callback has returned */
        return UCS_INPROGRESS;
    }
    if (length) memcpy(r->frame->body, data, length);
    r->frame->recv_ns = sl_env_now_ns();
    r->done = 1;
    deliver_ready(p, s);
    return UCS_OK;
}

ucs_status_t sl_ucx_recv_start(struct ucx_port *p)
{
    ucp_am_handler_param_t param = {
        .field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                      UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG,
        .id = UCX_AM_ID,
        .flags = UCP_AM_FLAG_WHOLE_MSG,
        .cb = on_message,
        .arg = p};
    return ucp_worker_set_am_recv_handler(p->worker, &param);
}

/* ---- to the user ----------------------------------------------------------------------------- */

static struct sl_frame *take(struct ucx_port *p)
{
    struct sl_frame *f = p->first;
    if (!f) return NULL;
    p->first = f->next;
    if (!p->first) p->last = &p->first;
    p->ready--;
    f->next = NULL;
    return f;
}

static void drop_ready(struct ucx_port *p)
{
    for (struct sl_frame *f; (f = take(p));) sl_frame_free(f);
}

void sl_ucx_recv_pump(struct ucx_port *p)
{
    /* a callback may send to its own port: what that adds waits for the next round */
    for (size_t n = p->ready; n > 0 && !p->port.closing; n--)
        p->port.on_frame(p->port.arg, take(p));
    if (p->refusal.code && !p->port.closing) {
        struct sl_err err = p->refusal;
        p->refusal.code = 0;
        if (p->port.on_error) p->port.on_error(p->port.arg, &err);
    }
    if (p->port.closing) drop_ready(p);
}

void sl_ucx_recv_release(struct ucx_port *p)
{
    size_t pos = 0;
    drop_ready(p);
    for (struct sender *s; (s = sl_map_next(&p->senders, &pos, NULL));) {
        while (s->first) { /* nothing writes into them any more; descriptors went with the worker */
            struct rx *r = s->first;
            s->first = r->next;
            sl_frame_free(r->frame);
            free(r);
        }
        free(s);
    }
    sl_map_close(&p->senders);
}
