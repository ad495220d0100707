/* service.c - see service.h: events in, sl_coord_step, effects out.
 *
 * A reply callback may submit or cancel. The brain's effects are valid until its next step, so an
 * event that comes up while effects are being carried out waits in `deferred` until they are done.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/log.h"
#include "base/sl_assert.h"
#include "base/text.h"
#include "coordinator/internal.h"
#include "model/chat.h"
#include "model/tokenizer.h"

#define LOGIT_ROWS 128 /* rows of logits that a last stage may hold at one time */

/* ---- effects --------------------------------------------------------------------------------- */

static void send_batch(struct sl_service *s, const struct sl_effect *fx)
{
    sl_buf_clear(&s->packed);
    int r = sl_batch_pack(fx->batch.batch, &s->packed);
    SL_ASSERT(r == 0 || r == SL_ENOMEM); /* the scheduler keeps every limit */
    struct sl_frame_head h = {.kind = SL_FRAME_BATCH,
                              .epoch = fx->batch.epoch,
                              .slot = fx->batch.slot,
                              .desc_len = (uint32_t)s->packed.len,
                              .dtype = SL_F32,
                              .n_hops = (uint8_t)s->n_route};
    memcpy(h.route, s->route, sizeof h.route);
    struct sl_frame *f = r ? NULL : sl_frame_alloc(&h);
    const char *why = "no memory for a micro-batch";
    if (f) {
        memcpy(f->body, s->packed.data, s->packed.len);
        r = sl_hub_send(s->hub, 0, f);
        if (r == 0) return;
        why = sl_strerror(r);
    }
    const struct sl_plan *plan = sl_coord_plan(s->coord);
    char text[200];
    snprintf(text, sizeof text, "cannot send it a micro-batch: %s", why);
    sl_control_down(s, plan->stages[0].device, text);
}

static void reply(struct sl_service *s, const struct sl_effect *fx)
{
    struct reply_to *to = sl_map_get(&s->replies, fx->id);
    if (!to) return; /* cancelled meanwhile */
    struct reply_to copy = *to;
    if (fx->kind == SL_FX_DONE || fx->kind == SL_FX_FAIL) {
        sl_map_remove(&s->replies, fx->id);
        free(to);
    }
    copy.fn(copy.arg, fx);
}

static void on_fail(struct sl_service *s, const struct sl_effect *fx)
{
    if (fx->id == 0) {
        struct sl_err e;
        sl_err_set(&e, fx->fail.code, "%s", fx->fail.message);
        sl_service_give_up(s, &e);
        return;
    }
    if (fx->id == s->submitting) { /* its caller gets the refusal as return value, not as a reply */
        sl_err_set(&s->refused, fx->fail.code, "%s", fx->fail.message);
        return;
    }
    reply(s, fx);
}

static void finish_stop(struct sl_service *s);

/* The plan has the last word on a context that nobody asked for. */
static void take_context(struct sl_service *s)
{
    int fits = sl_coord_plan(s->coord)->context;
    if (fits == s->context) return;
    sl_log(SL_LOG_WARN, "coord",
           "context lowered to %d tokens, all that memory holds of the model's %d; set it (-c, "
           "model.context) "
           "to say otherwise",
           fits, s->context);
    s->context = fits;
}

static void perform(struct sl_service *s, const struct sl_effect *fx)
{
    if (s->stopping == 2 || s->failed)
        return; /* all is being closed, or will be; requests have been told */
    switch (fx->kind) {
    case SL_FX_LAUNCH:
        sl_control_launch(s, fx->device);
        break;
    case SL_FX_LOAD:
        take_context(s);
        sl_control_load(s, fx->device, fx);
        break;
    case SL_FX_WIRE:
        sl_control_wire(s, fx->wire.epoch);
        break;
    case SL_FX_BATCH:
        send_batch(s, fx);
        break;
    case SL_FX_TOKEN:
    case SL_FX_SCORED:
    case SL_FX_DONE:
        reply(s, fx);
        break;
    case SL_FX_FAIL:
        on_fail(s, fx);
        break;
    case SL_FX_SERVING:
        sl_log(SL_LOG_INFO, "coord", "serving");
        s->serving = 1;
        s->p.on_state(s->p.on_state_arg, NULL);
        break;
    case SL_FX_BROKEN:
        s->serving = 0;
        break;
    case SL_FX_STALLED:
        sl_control_stalled(s, fx->stalled.slot, fx->stalled.age_ns);
        break;
    case SL_FX_DRAINED:
        finish_stop(s);
        break;
    }
}

/* ---- events ---------------------------------------------------------------------------------- */

static void step_now(struct sl_service *s, struct sl_event *ev)
{
    struct sl_effects fx;
    ev->now_ns = sl_env_now_ns();
    sl_coord_step(s->coord, ev, &fx);
    for (size_t i = 0; i < fx.len; i++) perform(s, &fx.v[i]);
}

static void free_deferred(struct deferred *d)
{
    free(d->tokens);
    for (int i = 0; i < SL_STOPS_MAX; i++) free(d->stops[i]);
    free(d);
}

static int copy_submit(struct deferred *d, const struct sl_submit *from)
{
    d->submit = *from;
    d->ev.submit = &d->submit;
    d->submit.tokens = d->tokens = malloc((size_t)from->n_tokens * sizeof *d->tokens);
    if (!d->tokens) return SL_ENOMEM;
    memcpy(d->tokens, from->tokens, (size_t)from->n_tokens * sizeof *d->tokens);
    for (int i = 0; i < from->n_stops; i++)
        if (!(d->submit.stops[i] = d->stops[i] = strdup(from->stops[i]))) return SL_ENOMEM;
    return 0;
}

/* Keeps a copy of an event that came up in the middle of a step, with what it points to. 0 or, for
 * a SUBMIT, SL_ENOMEM. */
static int defer(struct sl_service *s, const struct sl_event *ev)
{
    struct deferred *d = calloc(1, sizeof *d);
    SL_ASSERT(ev->kind != SL_EV_RESULTS); /* only the loop brings these */
    SL_ASSERT(d || ev->kind == SL_EV_SUBMIT);
    if (!d) return SL_ENOMEM;
    d->ev = *ev;
    if (ev->kind == SL_EV_SUBMIT && copy_submit(d, ev->submit)) {
        free_deferred(d);
        return SL_ENOMEM;
    }
    if (ev->kind == SL_EV_DOWN) d->ev.down.message = s->peers[ev->device].last_error;
    *s->deferred_tail = d;
    s->deferred_tail = &d->next;
    return 0;
}

void sl_service_event(struct sl_service *s, struct sl_event *ev)
{
    if (s->stepping) {
        defer(s, ev);
        return;
    }
    s->stepping = 1;
    step_now(s, ev);
    while (s->deferred) {
        struct deferred *d = s->deferred;
        s->deferred = d->next;
        if (!s->deferred) s->deferred_tail = &s->deferred;
        step_now(s, &d->ev);
        free_deferred(d);
    }
    s->stepping = 0;
}

static void on_tick(uv_timer_t *t)
{
    struct sl_service *s = t->data;
    struct sl_event ev = {.kind = SL_EV_TICK};
    sl_control_tick(s, sl_env_now_ns());
    sl_service_event(s, &ev);
}

static void on_frame(void *arg, struct sl_frame *f)
{
    struct sl_service *s = arg;
    struct sl_err e = {0};
    if (f->head.kind != SL_FRAME_RESULTS ||
        sl_results_unpack(sl_frame_desc(f), f->head.desc_len, &s->results, &e)) {
        sl_log(SL_LOG_ERROR, "coord", "a stage sent a bad frame: %s",
               e.code ? e.msg : "not results");
        sl_frame_free(f);
        return;
    }
    struct sl_event ev = {.kind = SL_EV_RESULTS};
    ev.results.epoch = f->head.epoch;
    ev.results.slot = f->head.slot;
    ev.results.results = &s->results.results;
    sl_service_event(s, &ev);
    sl_frame_free(f);
}

static void on_link_down(void *arg, int peer, const struct sl_err *err)
{
    struct sl_service *s = arg;
    const struct sl_plan *plan = sl_coord_plan(s->coord);
    if (plan && peer < plan->n_stages) sl_control_down(s, plan->stages[peer].device, err->msg);
}

/* ---- requests -------------------------------------------------------------------------------- */

int sl_service_submit(struct sl_service *s, const struct sl_submit *req, sl_reply_fn fn, void *arg,
                      uint64_t *id, struct sl_err *err)
{
    if (s->failed || s->stopping)
        return sl_err_set(err, SL_ERETRY,
                          s->failed ? "the cluster has failed" : "the server is shutting down");
    if (req->n_tokens < 1 || req->n_stops < 0 || req->n_stops > SL_STOPS_MAX)
        return sl_err_set(
            err, SL_EINPUT,
            "a request of %d tokens with %d stop strings; give 1 or more, and at most %d",
            req->n_tokens, req->n_stops, SL_STOPS_MAX);
    struct reply_to *to = malloc(sizeof *to);
    if (!to) return sl_err_set(err, SL_ENOMEM, "no memory for a request");
    *to = (struct reply_to){fn, arg};
    struct sl_submit copy = *req;
    copy.id = *id = s->next_id++;
    if (sl_map_put(&s->replies, copy.id, to)) {
        free(to);
        return sl_err_set(err, SL_ENOMEM, "no memory for a request");
    }
    struct sl_event ev = {.kind = SL_EV_SUBMIT, .submit = &copy};
    struct sl_err refused = {0};
    if (s->stepping) { /* from inside a reply: it is answered later, and a refusal is a FAIL reply
                        */
        if (defer(s, &ev)) sl_err_set(&refused, SL_ENOMEM, "no memory for a request");
    } else {
        s->submitting = copy.id;
        s->refused.code = 0;
        sl_service_event(s, &ev);
        s->submitting = 0;
        refused = s->refused;
    }
    if (refused.code == 0) return 0;
    free(sl_map_remove(&s->replies, copy.id));
    if (err) *err = refused;
    return refused.code;
}

void sl_service_cancel(struct sl_service *s, uint64_t id)
{
    struct reply_to *to = sl_map_remove(&s->replies, id);
    if (!to) return;
    free(to);
    struct sl_event ev = {.kind = SL_EV_CANCEL, .cancel_id = id};
    sl_service_event(s, &ev);
}

static void fail_all(struct sl_service *s, const struct sl_err *err)
{
    uint64_t id;
    for (;;) {
        size_t pos = 0;
        struct reply_to *to = sl_map_next(&s->replies, &pos, &id);
        if (!to) return;
        struct reply_to copy = *to;
        free(sl_map_remove(&s->replies, id));
        struct sl_effect fx = {.kind = SL_FX_FAIL, .id = id};
        fx.fail.code = err->code;
        fx.fail.message = err->msg;
        copy.fn(copy.arg, &fx);
    }
}

void sl_service_give_up(struct sl_service *s, const struct sl_err *err)
{
    if (s->failed || s->stopping) return;
    s->failed = 1;
    s->serving = 0;
    sl_log(SL_LOG_INFO, "coord", "giving up: %s", err->msg); /* the command says it aloud */
    fail_all(s, err);
    s->p.on_state(s->p.on_state_arg, err);
}

/* ---- life ------------------------------------------------------------------------------------ */

/* Without a usable template of its own the model still completes plain prompts; what the user set
 * must be right. */
static int read_chat(struct sl_service *s, struct sl_err *err)
{
    const struct sl_chat_options o = {.template_file = s->cluster->chat_template,
                                      .tool_parser = s->cluster->tool_parser,
                                      .reasoning_parser = s->cluster->reasoning_parser};
    struct sl_err e = {0};
    int r = sl_chat_open(s->weights, &o, &s->chat, &e);
    if (r == 0 || r == SL_EUNSUPPORTED) return 0;
    if (o.template_file || r == SL_EUSAGE || r == SL_ENOMEM) {
        if (err) *err = e;
        return r;
    }
    sl_log(SL_LOG_WARN, "coord", "no chat template: %s", e.msg);
    return 0;
}

static int read_model(struct sl_service *s, struct sl_err *err)
{
    int r = sl_weights_open(s->cluster->model_path, &s->weights, err);
    if (r == 0) r = sl_config_read(s->weights, &s->config, err);
    if (r == 0) r = sl_tokenizer_open(s->weights, &s->tokenizer, err);
    if (r) return r;
    r = read_chat(s, err);
    if (r) return r;
    const char *slash = strrchr(s->cluster->model_path, '/');
    snprintf(s->model_name, sizeof s->model_name, "%s",
             s->config.name[0] ? s->config.name
             : slash           ? slash + 1
                               : s->cluster->model_path);
    s->context = s->cluster->context ? s->cluster->context : s->config.n_ctx_train;
    if (s->config.n_ctx_limit && s->context > s->config.n_ctx_limit)
        return sl_err_set(err, SL_EUNSUPPORTED,
                          "context %d: beyond %d tokens this model's positions would have to be "
                          "scaled as it runs, which is not done here; lower it",
                          s->context, s->config.n_ctx_limit);
    if (s->context > s->config.n_ctx_train)
        sl_log(SL_LOG_WARN, "coord", "context %d is beyond the %d tokens the model was trained for",
               s->context, s->config.n_ctx_train);
    return 0;
}

/* About what a stage takes for a micro-batch's activations (it decides exactly, and reserves fewer
 * blocks when it needs more). */
static uint64_t workspace_bytes(const struct sl_config *c, int max_rows)
{
    const struct sl_config_widths w = sl_config_row_widths(c);
    uint64_t row = 2 * (uint64_t)c->n_embd + (uint64_t)w.q + (uint64_t)w.k + (uint64_t)w.v +
                   (uint64_t)w.attn + 2 * (uint64_t)w.ff + (uint64_t)w.latent +
                   (uint64_t)w.q_latent + (uint64_t)w.o_latent + (uint64_t)w.q_a;
    uint64_t logits = (uint64_t)LOGIT_ROWS * (uint64_t)(c->n_vocab + c->n_embd);
    uint64_t scratch = max_rows > SL_MAX_ROWS ? SL_CARD_SCRATCH_BYTES : 0;
    return ((uint64_t)max_rows * row + logits) * sizeof(float) + scratch;
}

/* Rows of a micro-batch. All stages have the same, so one stage of CPUs holds it low. */
static int rows_of(const struct sl_cluster *c)
{
    for (int i = 0; i < c->n_devices; i++)
        if (c->devices[i].gpu < 0) return SL_MAX_ROWS;
    return c->n_devices == 1 ? SL_CARD_ROWS : SL_CARD_ROWS_SPLIT;
}

/* Bytes of an element of the KV cache; "auto" is 16 bits on every device. */
static int kv_element_bytes(const char *format)
{
    if (format && strcmp(format, "f32") == 0) return 4;
    return format && strcmp(format, "fp8") == 0 ? 1 : 2;
}

static int create_coord(struct sl_service *s, struct sl_err *err)
{
    const struct sl_cluster *c = s->cluster;
    struct sl_coord_params p = {
        .n_vocab = s->config.n_vocab,
        .far_from = s->config.ropes[0].scaling == SL_ROPE_LONG ? s->config.ropes[0].n_ctx_orig : 0,
        .n_adapters = c->n_adapters,
        .n_devices = c->n_devices,
        .names = s->names,
        .queue_max = c->queue ? c->queue : 64,
        .tokenizer = s->tokenizer};
    s->layer_bytes = calloc((size_t)s->config.n_layers, sizeof *s->layer_bytes);
    if (!s->layer_bytes) return sl_err_set(err, SL_ENOMEM, "no memory for the plan");
    s->max_rows = rows_of(c);
    s->workspace_bytes = workspace_bytes(&s->config, s->max_rows);
    int r = 0;
    for (int i = 0; r == 0 && i < s->config.n_layers; i++)
        r = sl_config_layer_bytes(s->weights, &s->config, i, &s->layer_bytes[i], err);
    p.model.n_layers = s->config.n_layers;
    p.model.layer_bytes = s->layer_bytes;
    if (r == 0)
        r = sl_config_edge_bytes(s->weights, &s->config, &p.model.embed_bytes, &p.model.head_bytes,
                                 err);
    if (r) return r;
    p.model.kv_bytes_per_token = sl_config_kv_bytes(&s->config, kv_element_bytes(c->kv_format));
    for (int i = 0; i < c->n_devices; i++) {
        const struct sl_device *d = &c->devices[i];
        s->hints[i] =
            (struct sl_plan_device){d->memory_bytes, d->bandwidth, d->layer_from, d->layer_to};
        if (d->memory_bytes) { /* not 0: that would be "not said" */
            uint64_t taken = d->reserve_bytes + s->workspace_bytes;
            char need[32], has[32];
            if (d->memory_bytes <= taken)
                return sl_err_set(err, SL_ELIMIT,
                                  "%s: a memory limit of %s does not even hold the %s of "
                                  "activations and reserve; "
                                  "raise it",
                                  d->name, sl_format_bytes(d->memory_bytes, has),
                                  sl_format_bytes(taken, need));
            s->hints[i].memory_bytes = d->memory_bytes - taken;
        }
        s->restartable[i] = c->nodes[d->node].launch != SL_LAUNCH_EXTERNAL;
        s->names[i] = d->name;
    }
    p.hints = s->hints;
    p.restartable = s->restartable;
    p.load = (struct sl_plan_load){.context = s->context,
                                   .context_least =
                                       c->context ? 0 : SL_MIN(s->context, SL_CONTEXT_LEAST),
                                   .sequences = c->sequences ? c->sequences : 16,
                                   .block_tokens = SL_BLOCK_TOKENS,
                                   .micro_batches = c->micro_batches,
                                   .chunk = c->chunk                    ? c->chunk
                                            : s->max_rows > SL_MAX_ROWS ? s->max_rows
                                                                        : 0,
                                   .max_rows = s->max_rows};
    return sl_coord_create(&p, &s->coord, err);
}

static const char *hub_transports(const struct sl_cluster *c)
{
    for (int i = 0; i < c->n_nodes; i++)
        if (c->nodes[i].launch != SL_LAUNCH_THREAD) return sl_env_get("SLUICE_TRANSPORTS");
    const char *forced = sl_env_get("SLUICE_TRANSPORTS");
    return forced ? forced : "local"; /* one process: nothing else is worth opening */
}

int sl_service_start(struct uv_loop_s *loop, const struct sl_service_params *p,
                     struct sl_service **out, struct sl_err *err)
{
    struct sl_service *s = calloc(1, sizeof *s);
    if (!s) return sl_err_set(err, SL_ENOMEM, "no memory for the service");
    s->loop = loop;
    s->p = *p;
    s->cluster = p->cluster;
    s->next_id = 1;
    s->deferred_tail = &s->deferred;
    sl_map_init(&s->replies);
    sl_buf_init(&s->packed, SL_FRAME_DESC_MAX);
    int r = read_model(s, err);
    if (r == 0) r = create_coord(s, err);
    if (r == 0)
        r = sl_hub_open(loop, hub_transports(s->cluster), on_frame, on_link_down, s, &s->hub, err);
    if (r) {
        sl_service_destroy(s);
        return r;
    }
    uv_timer_init(loop, &s->tick);
    s->tick.data = s;
    r = sl_control_start(s, err);
    if (r) { /* handles are open by now: they must be closed through the loop */
        s->failed = 1;
        sl_service_stop(s, 1, NULL, NULL);
        return r;
    }
    uv_timer_start(&s->tick, on_tick, 0, SL_TICK_MS);
    *out = s;
    return 0;
}

static void on_part_closed(struct sl_service *s)
{
    if (--s->open_handles > 0) return;
    s->closed = 1;
    if (s->done)
        s->done(s->done_arg);
    else
        sl_service_destroy(s);
}

static void on_handle_closed(uv_handle_t *h)
{
    on_part_closed(h->data);
}

static void on_hub_closed(void *arg)
{
    struct sl_service *s = arg;
    s->hub = NULL;
    on_part_closed(s);
}

/* Nothing runs any more: stages are told to leave, then every handle is closed. */
static void finish_stop(struct sl_service *s)
{
    if (s->stopping == 2) return;
    s->stopping = 2;
    struct sl_err e;
    sl_err_set(&e, SL_ERETRY, "the server is shutting down");
    fail_all(s, &e);
    sl_control_drain(s);
    sl_control_close(s);
    s->open_handles = 2 + (s->listening ? 1 : 0);
    uv_close((uv_handle_t *)&s->tick, on_handle_closed);
    if (s->listening) uv_close((uv_handle_t *)&s->listener, on_handle_closed);
    sl_hub_close(s->hub, on_hub_closed, s);
}

void sl_service_stop(struct sl_service *s, int now, void (*done)(void *arg), void *arg)
{
    s->done = done ? done : s->done;
    s->done_arg = done ? arg : s->done_arg;
    if (now || s->failed) {
        s->stopping = SL_MAX(s->stopping, 1);
        finish_stop(s);
        return;
    }
    if (s->stopping) return;
    s->stopping = 1;
    struct sl_event ev = {.kind = SL_EV_DRAIN};
    sl_service_event(s, &ev);
}

void sl_service_destroy(struct sl_service *s)
{
    if (!s) return;
    sl_coord_destroy(s->coord);
    sl_chat_close(s->chat);
    sl_tokenizer_close(s->tokenizer);
    sl_weights_close(s->weights);
    sl_results_in_close(&s->results);
    sl_buf_close(&s->packed);
    sl_map_close(&s->replies);
    free(s->layer_bytes);
    while (s->deferred) {
        struct deferred *d = s->deferred;
        s->deferred = d->next;
        free_deferred(d);
    }
    for (int i = 0; s->peers && i < s->cluster->n_devices; i++) sl_peer_close(&s->peers[i]);
    free(s->peers);
    free(s);
}

/* ---- facts ----------------------------------------------------------------------------------- */

int sl_service_is_serving(const struct sl_service *s)
{
    return s->serving && !s->stopping;
}

const char *sl_service_model_name(const struct sl_service *s)
{
    return s->model_name;
}

int sl_service_find_adapter(const struct sl_service *s, const char *name)
{
    for (int i = 0; name && i < s->cluster->n_adapters; i++)
        if (strcmp(s->cluster->adapters[i].name, name) == 0) return i + 1;
    return 0;
}

const struct sl_config *sl_service_config(const struct sl_service *s)
{
    return &s->config;
}

const struct sl_tokenizer *sl_service_tokenizer(const struct sl_service *s)
{
    return s->tokenizer;
}

const struct sl_chat *sl_service_chat(const struct sl_service *s)
{
    return s->chat;
}

const struct sl_weights *sl_service_weights(const struct sl_service *s)
{
    return s->weights;
}

int sl_service_context(const struct sl_service *s)
{
    return s->context;
}

const struct sl_cluster *sl_service_cluster(const struct sl_service *s)
{
    return s->cluster;
}

void sl_service_get_status(const struct sl_service *s, struct sl_coord_status *out)
{
    sl_coord_get_status(s->coord, sl_env_now_ns(), out);
}
