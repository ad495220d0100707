/* control.c - control messages: plain structs to packed protobuf and back.
 *
 * protobuf-c lives here only. Both directions take their memory from a capped arena: a short
 * message cannot be blown up into much memory (an empty repeated entry is 2 bytes on the wire and a
 * hundred in memory), and there is nothing to free piece by piece. One pair of functions per kind;
 * the table at the end binds them. */
#include "proto/control.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/sl_assert.h"
#include "proto/batch.h"
#include "proto/control.pb-c.h"
#include "proto/wire.h"

#define LENGTH_BYTES 4
#define ARENA_MAX (8u << 20) /* bytes one message may take in memory, in either direction */

typedef Sluice__Ctl__Message pb_message;

/* ---- plain struct -> protobuf struct --------------------------------------------------------- */

static char *text(const char *s)
{
    return (char *)(s ? s : ""); /* protobuf-c only reads it */
}

static ProtobufCBinaryData bytes(const void *data, size_t n)
{
    ProtobufCBinaryData b = {n, (uint8_t *)data};
    return b;
}

/* An array of n pointers to n items behind it; NULL when memory is out. */
static void *pointers(struct sl_arena *a, size_t n, size_t size)
{
    size_t head = (n * sizeof(void *) + 15) & ~(size_t)15;
    char **list = sl_arena_alloc(a, head + n * size);
    for (size_t i = 0; list && i < n; i++) list[i] = (char *)list + head + i * size;
    return list;
}

static int address_ok(const void *address, size_t n)
{
    return n <= SL_CTL_ADDRESS_MAX && (address || n == 0);
}

/* The ports of a Hello or a Ports: a new array of *n. */
static int ports_to(const struct sl_ctl_port *from, size_t n, Sluice__Ctl__Port ***out,
                    size_t *n_out, struct sl_arena *a)
{
    if (n > SL_CTL_PORTS_MAX) return SL_ELIMIT;
    Sluice__Ctl__Port **to = pointers(a, n, sizeof **to);
    if (!to) return SL_ENOMEM;
    for (size_t i = 0; i < n; i++) {
        if (!address_ok(from[i].address, from[i].address_len)) return SL_ELIMIT;
        sluice__ctl__port__init(to[i]);
        to[i]->transport = text(from[i].transport);
        to[i]->address = bytes(from[i].address, from[i].address_len);
    }
    *out = to;
    *n_out = n;
    return 0;
}

static int hello_out(const struct sl_ctl *m, pb_message *to, struct sl_arena *a)
{
    const struct sl_ctl_hello *h = &m->hello;
    Sluice__Ctl__Hello *p = to->hello;
    sluice__ctl__hello__init(p);
    p->version = h->version;
    p->program = text(h->program);
    p->key = text(h->key);
    p->device = text(h->device);
    p->pid = h->pid;
    p->host_id = text(h->host_id);
    p->process_id = text(h->process_id);
    p->cpu = text(h->cpu);
    p->backend = text(h->backend);
    p->threads = h->threads;
    p->memory_bytes = h->memory_bytes;
    p->bandwidth = h->bandwidth;
    p->gpu = text(h->gpu);
    return ports_to(h->ports, h->n_ports, &p->ports, &p->n_ports, a);
}

static int load_out(const struct sl_ctl *m, pb_message *to, struct sl_arena *a)
{
    const struct sl_ctl_load *l = &m->load;
    Sluice__Ctl__Load *p = to->load;
    (void)a;
    sluice__ctl__load__init(p);
    p->stage = l->stage;
    p->n_stages = l->n_stages;
    p->model = text(l->model);
    p->layer_from = l->layer_from;
    p->layer_to = l->layer_to;
    p->block_tokens = l->block_tokens;
    p->n_blocks = l->n_blocks;
    p->max_seqs = l->max_seqs;
    p->max_rows = l->max_rows;
    p->kv_type = text(l->kv_type);
    p->memory_bytes = l->memory_bytes;
    p->n_adapters = l->n_adapters;
    p->adapters = (char **)(uintptr_t)l->adapters; /* only read */
    return 0;
}

static int progress_out(const struct sl_ctl *m, pb_message *to, struct sl_arena *a)
{
    (void)a;
    sluice__ctl__progress__init(to->progress);
    to->progress->done_bytes = m->progress.done_bytes;
    to->progress->total_bytes = m->progress.total_bytes;
    return 0;
}

static int ready_out(const struct sl_ctl *m, pb_message *to, struct sl_arena *a)
{
    (void)a;
    sluice__ctl__ready__init(to->ready);
    to->ready->n_blocks = m->ready.n_blocks;
    to->ready->weight_bytes = m->ready.weight_bytes;
    to->ready->kv_bytes = m->ready.kv_bytes;
    to->ready->workspace_bytes = m->ready.workspace_bytes;
    to->ready->load_ns = m->ready.load_ns;
    return 0;
}

static int wire_out(const struct sl_ctl *m, pb_message *to, struct sl_arena *a)
{
    const struct sl_ctl_wire *w = &m->wire;
    Sluice__Ctl__Wire *p = to->wire;
    sluice__ctl__wire__init(p);
    p->epoch = w->epoch;
    p->lane_in = w->lane_in != 0;
    if (w->n_peers > SL_CTL_PEERS_MAX) return SL_ELIMIT;
    p->n_peers = w->n_peers;
    p->peers = pointers(a, w->n_peers, sizeof(Sluice__Ctl__Peer));
    if (!p->peers) return SL_ENOMEM;
    for (size_t i = 0; i < w->n_peers; i++) {
        const struct sl_ctl_peer *from = &w->peers[i];
        if (!address_ok(from->address, from->address_len) ||
            !address_ok(from->lane_address, from->lane_address_len))
            return SL_ELIMIT;
        sluice__ctl__peer__init(p->peers[i]);
        p->peers[i]->stage = from->stage;
        p->peers[i]->transport = text(from->transport);
        p->peers[i]->address = bytes(from->address, from->address_len);
        p->peers[i]->lane = text(from->lane);
        p->peers[i]->lane_address = bytes(from->lane_address, from->lane_address_len);
        p->peers[i]->activations = sl_frame_dtype_number(from->activations);
    }
    return 0;
}

static int wired_out(const struct sl_ctl *m, pb_message *to, struct sl_arena *a)
{
    (void)a;
    sluice__ctl__wired__init(to->wired);
    to->wired->epoch = m->wired.epoch;
    return 0;
}

static int reopen_out(const struct sl_ctl *m, pb_message *to, struct sl_arena *a)
{
    (void)m, (void)a;
    sluice__ctl__reopen__init(to->reopen);
    return 0;
}

static int ports_out(const struct sl_ctl *m, pb_message *to, struct sl_arena *a)
{
    sluice__ctl__ports__init(to->ports);
    return ports_to(m->ports.ports, m->ports.n_ports, &to->ports->ports, &to->ports->n_ports, a);
}

static void step_out(const struct sl_ctl_step *s, Sluice__Ctl__Step *p)
{
    sluice__ctl__step__init(p);
    p->slot = s->slot;
    p->recv_ns = s->recv_ns;
    p->start_ns = s->start_ns;
    p->end_ns = s->end_ns;
    p->rows = s->rows;
    p->epoch = s->epoch;
}

static int report_out(const struct sl_ctl *m, pb_message *to, struct sl_arena *a)
{
    const struct sl_ctl_report *r = &m->report;
    Sluice__Ctl__Report *p = to->report;
    sluice__ctl__report__init(p);
    p->now_ns = r->now_ns;
    p->busy_ns = r->busy_ns;
    p->steps = r->steps;
    p->rows = r->rows;
    p->queued = r->queued;
    p->layers = r->layers;
    if (r->n_links > SL_CTL_PEERS_MAX || r->n_recent > SL_CTL_STEPS_MAX) return SL_ELIMIT;
    p->n_links = r->n_links;
    p->links = pointers(a, r->n_links, sizeof(Sluice__Ctl__LinkStat));
    p->n_recent = r->n_recent;
    p->recent = pointers(a, r->n_recent, sizeof(Sluice__Ctl__Step));
    if (!p->links || !p->recent) return SL_ENOMEM;
    for (size_t i = 0; i < r->n_links; i++) {
        sluice__ctl__link_stat__init(p->links[i]);
        p->links[i]->stage = r->links[i].stage;
        p->links[i]->frames = r->links[i].frames;
        p->links[i]->bytes = r->links[i].bytes;
        p->links[i]->busy_ns = r->links[i].busy_ns;
        p->links[i]->transport = text(r->links[i].transport);
    }
    for (size_t i = 0; i < r->n_recent; i++) step_out(&r->recent[i], p->recent[i]);
    return 0;
}

static int fail_out(const struct sl_ctl *m, pb_message *to, struct sl_arena *a)
{
    (void)a;
    sluice__ctl__fail__init(to->fail);
    to->fail->code = m->fail.code;
    to->fail->message = text(m->fail.message);
    return 0;
}

static int drain_out(const struct sl_ctl *m, pb_message *to, struct sl_arena *a)
{
    (void)m, (void)a;
    sluice__ctl__drain__init(to->drain);
    return 0;
}

static int ping_out(const struct sl_ctl *m, pb_message *to, struct sl_arena *a)
{
    (void)m, (void)a;
    sluice__ctl__ping__init(to->ping);
    return 0;
}

/* ---- protobuf struct -> plain struct; strings and bytes stay where protobuf-c put them ------- */

static int ports_from(Sluice__Ctl__Port *const *from, size_t n, const struct sl_ctl_port **out,
                      size_t *n_out, struct sl_arena *a)
{
    if (n > SL_CTL_PORTS_MAX) return SL_ELIMIT;
    struct sl_ctl_port *to = sl_arena_alloc(a, (n + 1) * sizeof *to);
    if (!to) return SL_ENOMEM;
    for (size_t i = 0; i < n; i++) {
        if (from[i]->address.len > SL_CTL_ADDRESS_MAX) return SL_ELIMIT;
        to[i].transport = from[i]->transport;
        to[i].address = from[i]->address.data;
        to[i].address_len = from[i]->address.len;
    }
    *out = to;
    *n_out = n;
    return 0;
}

static int hello_in(const pb_message *from, struct sl_ctl *m, struct sl_arena *a)
{
    const Sluice__Ctl__Hello *p = from->hello;
    struct sl_ctl_hello *h = &m->hello;
    h->version = p->version;
    h->program = p->program;
    h->key = p->key;
    h->device = p->device;
    h->pid = p->pid;
    h->host_id = p->host_id;
    h->process_id = p->process_id;
    h->cpu = p->cpu;
    h->backend = p->backend;
    h->threads = p->threads;
    h->memory_bytes = p->memory_bytes;
    h->bandwidth = p->bandwidth;
    h->gpu = p->gpu;
    return ports_from(p->ports, p->n_ports, &h->ports, &h->n_ports, a);
}

static int load_in(const pb_message *from, struct sl_ctl *m, struct sl_arena *a)
{
    const Sluice__Ctl__Load *p = from->load;
    (void)a;
    m->load = (struct sl_ctl_load){.stage = p->stage,
                                   .n_stages = p->n_stages,
                                   .model = p->model,
                                   .kv_type = p->kv_type,
                                   .layer_from = p->layer_from,
                                   .layer_to = p->layer_to,
                                   .block_tokens = p->block_tokens,
                                   .n_blocks = p->n_blocks,
                                   .max_seqs = p->max_seqs,
                                   .max_rows = p->max_rows,
                                   .memory_bytes = p->memory_bytes,
                                   .adapters = (const char *const *)p->adapters,
                                   .n_adapters = p->n_adapters};
    return p->n_adapters > SL_ADAPTERS_MAX ? SL_EPROTO : 0;
}

static int progress_in(const pb_message *from, struct sl_ctl *m, struct sl_arena *a)
{
    (void)a;
    m->progress.done_bytes = from->progress->done_bytes;
    m->progress.total_bytes = from->progress->total_bytes;
    return 0;
}

static int ready_in(const pb_message *from, struct sl_ctl *m, struct sl_arena *a)
{
    const Sluice__Ctl__Ready *p = from->ready;
    (void)a;
    m->ready = (struct sl_ctl_ready){.n_blocks = p->n_blocks,
                                     .weight_bytes = p->weight_bytes,
                                     .kv_bytes = p->kv_bytes,
                                     .workspace_bytes = p->workspace_bytes,
                                     .load_ns = p->load_ns};
    return 0;
}

static int wire_in(const pb_message *from, struct sl_ctl *m, struct sl_arena *a)
{
    const Sluice__Ctl__Wire *p = from->wire;
    if (p->n_peers > SL_CTL_PEERS_MAX) return SL_ELIMIT;
    struct sl_ctl_peer *peers = sl_arena_alloc(a, (p->n_peers + 1) * sizeof *peers);
    if (!peers) return SL_ENOMEM;
    for (size_t i = 0; i < p->n_peers; i++) {
        const Sluice__Ctl__Peer *q = p->peers[i];
        int dtype = sl_frame_dtype_of(q->activations);
        if (q->address.len > SL_CTL_ADDRESS_MAX || q->lane_address.len > SL_CTL_ADDRESS_MAX)
            return SL_ELIMIT;
        if (dtype < 0) return SL_EPROTO;
        peers[i] = (struct sl_ctl_peer){.stage = q->stage,
                                        .transport = q->transport,
                                        .address = q->address.data,
                                        .address_len = q->address.len,
                                        .lane = q->lane,
                                        .lane_address = q->lane_address.data,
                                        .lane_address_len = q->lane_address.len,
                                        .activations = (uint32_t)dtype};
    }
    m->wire = (struct sl_ctl_wire){
        .epoch = p->epoch, .lane_in = p->lane_in, .n_peers = p->n_peers, .peers = peers};
    return 0;
}

static int wired_in(const pb_message *from, struct sl_ctl *m, struct sl_arena *a)
{
    (void)a;
    m->wired.epoch = from->wired->epoch;
    return 0;
}

static int ports_in(const pb_message *from, struct sl_ctl *m, struct sl_arena *a)
{
    return ports_from(from->ports->ports, from->ports->n_ports, &m->ports.ports, &m->ports.n_ports,
                      a);
}

static int report_in(const pb_message *from, struct sl_ctl *m, struct sl_arena *a)
{
    const Sluice__Ctl__Report *p = from->report;
    if (p->n_links > SL_CTL_PEERS_MAX || p->n_recent > SL_CTL_STEPS_MAX) return SL_ELIMIT;
    struct sl_ctl_link *links = sl_arena_alloc(a, (p->n_links + 1) * sizeof *links);
    struct sl_ctl_step *recent = sl_arena_alloc(a, (p->n_recent + 1) * sizeof *recent);
    if (!links || !recent) return SL_ENOMEM;
    for (size_t i = 0; i < p->n_links; i++) {
        const Sluice__Ctl__LinkStat *l = p->links[i];
        links[i] = (struct sl_ctl_link){.stage = l->stage,
                                        .frames = l->frames,
                                        .bytes = l->bytes,
                                        .busy_ns = l->busy_ns,
                                        .transport = l->transport};
    }
    for (size_t i = 0; i < p->n_recent; i++) {
        const Sluice__Ctl__Step *s = p->recent[i];
        recent[i] = (struct sl_ctl_step){.slot = s->slot,
                                         .recv_ns = s->recv_ns,
                                         .start_ns = s->start_ns,
                                         .end_ns = s->end_ns,
                                         .rows = s->rows,
                                         .epoch = s->epoch};
    }
    m->report = (struct sl_ctl_report){.now_ns = p->now_ns,
                                       .busy_ns = p->busy_ns,
                                       .steps = p->steps,
                                       .rows = p->rows,
                                       .queued = p->queued,
                                       .layers = p->layers,
                                       .n_links = p->n_links,
                                       .n_recent = p->n_recent,
                                       .links = links,
                                       .recent = recent};
    return 0;
}

static int fail_in(const pb_message *from, struct sl_ctl *m, struct sl_arena *a)
{
    (void)a;
    m->fail.code = from->fail->code;
    m->fail.message = from->fail->message;
    return 0;
}

static int nothing_in(const pb_message *from, struct sl_ctl *m, struct sl_arena *a)
{
    (void)from, (void)m, (void)a;
    return 0;
}

/* ---- one row per kind ------------------------------------------------------------------------ */

static const struct kind {
    enum sl_ctl_kind kind;
    int body;    /* pb body case */
    size_t size; /* of the protobuf struct */
    int (*out)(const struct sl_ctl *m, pb_message *to, struct sl_arena *a);
    int (*in)(const pb_message *from, struct sl_ctl *m, struct sl_arena *a);
} kinds[] = {
    {SL_CTL_HELLO, SLUICE__CTL__MESSAGE__BODY_HELLO, sizeof(Sluice__Ctl__Hello), hello_out,
     hello_in},
    {SL_CTL_LOAD, SLUICE__CTL__MESSAGE__BODY_LOAD, sizeof(Sluice__Ctl__Load), load_out, load_in},
    {SL_CTL_PROGRESS, SLUICE__CTL__MESSAGE__BODY_PROGRESS, sizeof(Sluice__Ctl__Progress),
     progress_out, progress_in},
    {SL_CTL_READY, SLUICE__CTL__MESSAGE__BODY_READY, sizeof(Sluice__Ctl__Ready), ready_out,
     ready_in},
    {SL_CTL_WIRE, SLUICE__CTL__MESSAGE__BODY_WIRE, sizeof(Sluice__Ctl__Wire), wire_out, wire_in},
    {SL_CTL_WIRED, SLUICE__CTL__MESSAGE__BODY_WIRED, sizeof(Sluice__Ctl__Wired), wired_out,
     wired_in},
    {SL_CTL_REPORT, SLUICE__CTL__MESSAGE__BODY_REPORT, sizeof(Sluice__Ctl__Report), report_out,
     report_in},
    {SL_CTL_FAIL, SLUICE__CTL__MESSAGE__BODY_FAIL, sizeof(Sluice__Ctl__Fail), fail_out, fail_in},
    {SL_CTL_DRAIN, SLUICE__CTL__MESSAGE__BODY_DRAIN, sizeof(Sluice__Ctl__Drain), drain_out,
     nothing_in},
    {SL_CTL_PING, SLUICE__CTL__MESSAGE__BODY_PING, sizeof(Sluice__Ctl__Ping), ping_out, nothing_in},
    {SL_CTL_REOPEN, SLUICE__CTL__MESSAGE__BODY_REOPEN, sizeof(Sluice__Ctl__Reopen), reopen_out,
     nothing_in},
    {SL_CTL_PORTS, SLUICE__CTL__MESSAGE__BODY_PORTS, sizeof(Sluice__Ctl__Ports), ports_out,
     ports_in},
};

/* ---- framing --------------------------------------------------------------------------------- */

static int append(const pb_message *message, struct sl_buf *out)
{
    size_t n = protobuf_c_message_get_packed_size(&message->base);
    if (n > SL_CTL_MESSAGE_MAX) return SL_ELIMIT;
    int rc = sl_buf_reserve(out, LENGTH_BYTES + n);
    if (rc) return rc;
    uint8_t *p = (uint8_t *)out->data + out->len;
    for (int i = 0; i < LENGTH_BYTES; i++) p[i] = (uint8_t)(n >> (8 * i));
    protobuf_c_message_pack(&message->base, p + LENGTH_BYTES);
    p[LENGTH_BYTES + n] = 0;
    out->len += LENGTH_BYTES + n;
    return 0;
}

int sl_ctl_pack(const struct sl_ctl *m, struct sl_buf *out)
{
    const struct kind *k = NULL;
    for (size_t i = 0; i < SL_ARRAY_LEN(kinds); i++)
        if (kinds[i].kind == m->kind) k = &kinds[i];
    SL_ASSERT(k);
    struct sl_arena arena;
    sl_arena_init(&arena, ARENA_MAX);
    pb_message message;
    sluice__ctl__message__init(&message);
    message.body_case = (Sluice__Ctl__Message__BodyCase)k->body;
    message.hello =
        sl_arena_alloc(&arena, k->size); /* any member: they are pointers in one union */
    int rc = message.hello ? k->out(m, &message, &arena) : SL_ENOMEM;
    if (rc == 0) rc = append(&message, out);
    sl_arena_close(&arena);
    return rc;
}

static void *arena_alloc(void *arena, size_t n)
{
    return sl_arena_alloc(arena, n);
}

static void arena_free(void *arena, void *p)
{
    (void)arena, (void)p; /* all at once, with the arena */
}

/* 0, SL_EAGAIN when the kind is unknown (nothing is kept then), SL_EPROTO or SL_ENOMEM. */
static int decode(const uint8_t *p, size_t n, struct sl_ctl *out, struct sl_err *err)
{
    struct sl_arena *arena = malloc(sizeof *arena);
    if (!arena) return sl_err_set(err, SL_ENOMEM, "control message: out of memory");
    sl_arena_init(arena, ARENA_MAX);
    out->storage = arena;
    ProtobufCAllocator allocator = {arena_alloc, arena_free, arena};
    const pb_message *message = sluice__ctl__message__unpack(&allocator, n, p);
    int rc;
    if (!message) {
        rc = sl_err_set(err, SL_EPROTO, "control message of %zu bytes cannot be decoded", n);
        goto drop;
    }
    rc = SL_EAGAIN;
    for (size_t i = 0; i < SL_ARRAY_LEN(kinds); i++)
        if (kinds[i].body == (int)message->body_case) {
            out->kind = kinds[i].kind;
            rc = kinds[i].in(message, out, arena);
        }
    if (rc == 0) return 0;
    if (rc == SL_ELIMIT)
        rc = sl_err_set(
            err, SL_EPROTO,
            "control message of kind %d has more entries or longer addresses than allowed",
            out->kind);
    else if (rc == SL_ENOMEM)
        sl_err_set(err, rc, "control message: out of memory");
drop:
    sl_ctl_free(out);
    return rc;
}

int sl_ctl_unpack(const void *in, size_t n, struct sl_ctl *out, size_t *used, struct sl_err *err)
{
    const uint8_t *p = in;
    memset(out, 0, sizeof *out);
    *used = 0;
    while (n - *used >= LENGTH_BYTES) {
        const uint8_t *at = p + *used;
        uint32_t length =
            at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
        if (length > SL_CTL_MESSAGE_MAX)
            return sl_err_set(err, SL_EPROTO, "control message of %u bytes, at most %u", length,
                              SL_CTL_MESSAGE_MAX);
        if (n - *used - LENGTH_BYTES < length) break;
        *used += LENGTH_BYTES + length;
        int rc = decode(at + LENGTH_BYTES, length, out, err);
        if (rc != SL_EAGAIN) return rc;
    }
    return SL_EAGAIN;
}

void sl_ctl_free(struct sl_ctl *m)
{
    struct sl_arena *arena = m->storage;
    if (arena) sl_arena_close(arena);
    free(arena);
    memset(m, 0, sizeof *m);
}
