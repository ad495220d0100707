/* local.c - links inside one process: the frame itself changes hands.
 *
 * A sender puts the frame into the receiving port's inbox and wakes that port's loop (uv_async), so
 * callbacks never come from inside a send and the two ends may live on different loops in different
 * threads. One process-wide lock guards the registry of ports, all inboxes and all channels: it is
 * held for a few instructions, twice per frame.
 *
 * A channel is what both ends of a link share: it lives until the link is closed and its last frame
 * has left the inbox. Failures: the receiving port closes - its frames are freed, its channels are
 * cut, and the sender's loop is woken to call on_down. Nothing else can fail here. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "transport/ops.h"

#define ADDRESS_MAGIC 0x314c4f4cu /* "LOL1" in memory order */

struct local_address {
    uint32_t magic;
    uint32_t zero;
    uint64_t token; /* random per process: an address of another process is refused */
    uint64_t port;
};

struct local_port {
    struct sl_port port;
    uv_async_t async;
    uint64_t id;
    struct sl_list node;            /* in `ports` */
    struct sl_list channels;        /* that end here */
    struct sl_frame *first, **last; /* inbox, oldest first */
    size_t waiting;                 /* frames in it */
};

struct channel {
    struct local_port *to;   /* NULL once that port is closed */
    struct sl_list node;     /* in to->channels */
    struct local_port *from; /* NULL once the link is closed */
    struct sl_meter meter;
};

struct local_link {
    struct sl_link link;
    struct channel *channel;
};

static pthread_mutex_t lock =
    PTHREAD_MUTEX_INITIALIZER; /* guards everything below and every channel and inbox */
static struct sl_list ports = {&ports, &ports};
static uint64_t next_id = 1, process_token;

static struct local_port *find_port(uint64_t id)
{
    struct sl_list *it, *tmp;
    sl_list_each(it, tmp, &ports)
    {
        struct local_port *p = sl_container_of(it, struct local_port, node);
        if (p->id == id) return p;
    }
    return NULL;
}

/* Frees the channel when nobody needs it any more. */
static void channel_release(struct channel *c)
{
    if (c->from || c->meter.s.queued) return;
    sl_list_remove(&c->node);
    free(c);
}

/* The oldest waiting frame, its channel already told. NULL when there is none. */
static struct sl_frame *inbox_take(struct local_port *p)
{
    pthread_mutex_lock(&lock);
    struct sl_frame *f = p->first;
    if (f) {
        p->first = f->next;
        if (!p->first) p->last = &p->first;
        p->waiting--;
        struct channel *c = f->via;
        sl_meter_end(&c->meter, sl_frame_body_bytes(&f->head), !p->port.closing);
        channel_release(c);
    }
    pthread_mutex_unlock(&lock);
    return f;
}

/* Calls on_down of one link whose receiver has gone. 0 when there is none left. */
static int notify_one(struct local_port *p)
{
    struct sl_list *it, *tmp;
    sl_list_each(it, tmp, &p->port.links)
    {
        struct local_link *l = sl_container_of(it, struct local_link, link.node);
        pthread_mutex_lock(&lock);
        int gone = !l->channel->to;
        pthread_mutex_unlock(&lock);
        if (l->link.down || !gone) continue;
        struct sl_err err;
        sl_err_set(&err, SL_ECLOSED, "the receiving port in this process was closed");
        l->link.down = 1;
        if (l->link.on_down) l->link.on_down(l->link.arg, &err);
        return 1; /* the callback may have closed any link: start over */
    }
    return 0;
}

static void on_async(uv_async_t *async)
{
    struct local_port *p = sl_container_of(async, struct local_port, async);
    pthread_mutex_lock(&lock);
    size_t n = p->waiting; /* those that come while we deliver wake us again */
    pthread_mutex_unlock(&lock);
    while (n-- > 0 && !p->port.closing) {
        struct sl_frame *f = inbox_take(p);
        if (!f) break;
        f->next = NULL;
        f->via = NULL;
        f->recv_ns = sl_env_now_ns();
        p->port.on_frame(p->port.arg, f);
    }
    while (!p->port.closing && notify_one(p)) {
    }
}

static int local_port_open(struct uv_loop_s *loop, struct sl_port **out, struct sl_err *err)
{
    struct local_port *p = calloc(1, sizeof *p);
    if (!p) return sl_err_set(err, SL_ENOMEM, "local port: out of memory");
    int rc = uv_async_init(loop, &p->async, on_async);
    if (rc) {
        free(p);
        return sl_err_set(err, SL_ESYS, "local port: %s", uv_strerror(rc));
    }
    sl_list_init(&p->channels);
    p->last = &p->first;
    pthread_mutex_lock(&lock);
    if (!process_token) sl_env_random(&process_token, sizeof process_token);
    p->id = next_id++;
    sl_list_append(&ports, &p->node);
    pthread_mutex_unlock(&lock);
    *out = &p->port;
    return 0;
}

static void on_closed(uv_handle_t *h)
{
    struct local_port *p = sl_container_of((uv_async_t *)h, struct local_port, async);
    sl_port_finish(&p->port);
    free(p);
}

static void local_port_close(struct sl_port *port)
{
    struct local_port *p = sl_container_of(port, struct local_port, port);
    pthread_mutex_lock(&lock);
    sl_list_remove(&p->node); /* nobody finds or wakes it from here on */
    pthread_mutex_unlock(&lock);
    for (struct sl_frame *f; (f = inbox_take(p));) sl_frame_free(f);
    pthread_mutex_lock(&lock);
    while (!sl_list_empty(&p->channels)) {
        struct channel *c = sl_container_of(p->channels.next, struct channel, node);
        sl_list_remove(&c->node);
        c->to = NULL;
        SL_ASSERT(c->from); /* else inbox_take would have released it */
        uv_async_send(&c->from->async);
    }
    pthread_mutex_unlock(&lock);
    uv_close((uv_handle_t *)&p->async, on_closed);
}

static int local_address(const struct sl_port *port, struct sl_buf *out)
{
    const struct local_port *p = sl_container_of(port, struct local_port, port);
    struct local_address a = {ADDRESS_MAGIC, 0, process_token, p->id};
    return sl_buf_add(out, &a, sizeof a);
}

static int local_link_open(struct sl_port *port, const void *address, size_t n,
                           struct sl_link **out, struct sl_err *err)
{
    struct local_address a;
    if (n != sizeof a)
        return sl_err_set(err, SL_EINPUT, "local address of %zu bytes, expected %zu", n, sizeof a);
    memcpy(&a, address, sizeof a);
    if (a.magic != ADDRESS_MAGIC || a.zero || a.token != process_token)
        return sl_err_set(err, SL_EINPUT, "not a local address of this process");
    struct local_link *l = calloc(1, sizeof *l);
    struct channel *c = calloc(1, sizeof *c);
    if (!l || !c) {
        free(l);
        free(c);
        return sl_err_set(err, SL_ENOMEM, "local link: out of memory");
    }
    pthread_mutex_lock(&lock);
    c->to = find_port(a.port);
    c->from = sl_container_of(port, struct local_port, port);
    sl_list_init(&c->node);
    if (c->to) sl_list_append(&c->to->channels, &c->node);
    int found = c->to != NULL;
    pthread_mutex_unlock(&lock);
    if (!found) {
        free(l);
        free(c);
        return sl_err_set(err, SL_EUNREACHABLE, "the local port of this address is closed");
    }
    l->channel = c;
    *out = &l->link;
    return 0;
}

static int local_link_send(struct sl_link *link, struct sl_frame *f)
{
    struct channel *c = sl_container_of(link, struct local_link, link)->channel;
    f->next = NULL;
    f->via = c;
    pthread_mutex_lock(&lock);
    struct local_port *to = c->to;
    if (to) {
        sl_meter_begin(&c->meter);
        *to->last = f;
        to->last = &f->next;
        to->waiting++;
        uv_async_send(&to->async);
    }
    pthread_mutex_unlock(&lock);
    if (to) return 0;
    sl_frame_free(f);
    return SL_ECLOSED;
}

static void local_link_close(struct sl_link *link)
{
    struct local_link *l = sl_container_of(link, struct local_link, link);
    pthread_mutex_lock(&lock);
    l->channel->from = NULL;
    channel_release(l->channel);
    pthread_mutex_unlock(&lock);
    free(l);
}

static void local_link_stats(const struct sl_link *link, struct sl_link_stats *out)
{
    const struct local_link *l = sl_container_of(link, struct local_link, link);
    pthread_mutex_lock(&lock);
    *out = sl_meter_read(&l->channel->meter);
    pthread_mutex_unlock(&lock);
}

const struct sl_transport sl_transport_local = {
    .name = "local",
    .same_process = 1,
    .port_open = local_port_open,
    .port_close = local_port_close,
    .address = local_address,
    .link_open = local_link_open,
    .link_send = local_link_send,
    .link_close = local_link_close,
    .link_stats = local_link_stats,
};
