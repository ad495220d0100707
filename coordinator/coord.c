/* coord.c - see coord.h: one event in, its effects out.
 *
 * Every step: forget what ended in the step before, apply the event to members or requests, then
 * fill the pipeline while it serves. Requests that end in a step live until the next one, because
 * the effects point into them. */
#include "coordinator/coord.h"

#include <stdlib.h>
#include <string.h>

#include "base/list.h"
#include "base/map.h"
#include "base/sl_assert.h"
#include "coordinator/effects.h"
#include "coordinator/members.h"
#include "coordinator/request.h"
#include "coordinator/sched.h"

#define NO_RESULT (-1)
#define SLEPT_NS 3000000000ull /* between two ticks: we ourselves did not run */

struct sl_coord {
    struct sl_coord_params p;
    struct sl_members members;
    struct sl_sched sched;
    struct sl_map requests; /* id -> waiting or running request */
    struct sl_list ended;   /* in this step */
    struct sl_sink fx;
    struct sl_err refusal;     /* of this step's submit */
    int *sample_of, *score_of; /* [sequences] scratch: index into the results, by sequence slot */
    int draining, drained;
    uint64_t last_ns, work_ns;
    uint64_t longest_ns;        /* that a micro-batch was on its way */
    uint64_t tick_ns, awake_ns; /* the last tick; since when we have run without a break */
    uint64_t generated_tokens, finished, failed, cancelled, refused;
};

/* ---- life ------------------------------------------------------------------------------------ */

static int check_params(const struct sl_coord_params *p, struct sl_err *err)
{
    SL_ASSERT(p->n_devices > 0 && p->n_devices <= SL_DEVICES_MAX && p->names && p->hints &&
              p->restartable);
    SL_ASSERT(p->load.context > 0 && p->load.block_tokens > 0 && p->n_vocab > 0 &&
              p->queue_max >= 0);
    if (p->load.sequences < 1 || p->load.sequences > SL_SEQS_MAX)
        return sl_err_set(err, SL_ELIMIT, "sequences is %d; give 1 to %d", p->load.sequences,
                          SL_SEQS_MAX);
    if (p->load.max_rows < 1 || p->load.max_rows > SL_BATCH_ROWS_MAX)
        return sl_err_set(err, SL_ELIMIT, "rows of a micro-batch are %d; give 1 to %d",
                          p->load.max_rows, SL_BATCH_ROWS_MAX);
    return 0;
}

int sl_coord_create(const struct sl_coord_params *p, struct sl_coord **out, struct sl_err *err)
{
    int rc = check_params(p, err);
    if (rc) return rc;
    struct sl_coord *c = calloc(1, sizeof *c);
    if (!c) return sl_err_set(err, SL_ENOMEM, "no memory for the coordinator");
    c->p = *p;
    size_t n = (size_t)p->load.sequences;
    sl_list_init(&c->ended);
    sl_members_init(&c->members, &c->p);
    /* The worst step: a result for each sequence (TOKEN or SCORED, and its end), or the end of
     * every request there can be; a load for each device; a micro-batch for each place in flight;
     * and a handful of single ones. */
    c->fx.cap = 2 * n + (size_t)p->queue_max + 2 * SL_DEVICES_MAX + SL_MICRO_BATCHES_MAX + 8;
    c->fx.v = malloc(c->fx.cap * sizeof *c->fx.v);
    c->sample_of = malloc(n * sizeof *c->sample_of);
    c->score_of = malloc(n * sizeof *c->score_of);
    rc = sl_sched_init(&c->sched, p->load.sequences, p->load.block_tokens, p->n_vocab);
    c->sched.far_from = p->far_from;
    if (rc || !c->fx.v || !c->sample_of || !c->score_of) {
        if (rc) memset(&c->sched, 0, sizeof c->sched);
        sl_coord_destroy(c);
        return sl_err_set(err, SL_ENOMEM, "no memory for the coordinator");
    }
    *out = c;
    return 0;
}

static void forget_ended(struct sl_coord *c)
{
    struct sl_list *it, *tmp;
    sl_list_each(it, tmp, &c->ended)
    {
        sl_list_remove(it);
        sl_request_destroy(sl_container_of(it, struct sl_request, link));
    }
}

void sl_coord_destroy(struct sl_coord *c)
{
    if (!c) return;
    forget_ended(c);
    sl_sched_close(&c->sched);
    sl_map_close(&c->requests);
    free(c->fx.v);
    free(c->sample_of);
    free(c->score_of);
    free(c);
}

/* ---- the ends of a request ------------------------------------------------------------------- */

/* Out of queue, pipeline and map; kept until the next step. */
static void retire(struct sl_coord *c, struct sl_request *r)
{
    sl_sched_remove(&c->sched, r);
    sl_map_remove(&c->requests, r->id);
    sl_list_append(&c->ended, &r->link);
}

static void fail_request(struct sl_coord *c, struct sl_request *r, int code, const char *message)
{
    struct sl_effect *e = sl_sink_add(&c->fx, SL_FX_FAIL);
    e->id = r->id;
    e->fail.code = code;
    e->fail.message = message;
    c->failed++;
    retire(c, r);
}

static void finish_request(struct sl_coord *c, struct sl_request *r, const struct sl_request_out *o,
                           uint64_t now_ns)
{
    struct sl_effect *e = sl_sink_add(&c->fx, SL_FX_DONE);
    e->id = r->id;
    e->done.reason = o->reason;
    e->done.prompt_tokens = r->n_prompt;
    e->done.completion_tokens = r->n_tokens - r->n_prompt;
    e->done.text = o->rest;
    e->done.text_len = o->rest_len;
    uint64_t first = r->first_token_ns ? r->first_token_ns : now_ns;
    e->done.timings.queue_ns = r->first_chunk_ns - r->submit_ns;
    e->done.timings.prefill_ns = first - r->first_chunk_ns;
    e->done.timings.decode_ns = now_ns - first;
    c->finished++;
    retire(c, r);
}

static void fail_list(struct sl_coord *c, struct sl_list *head, int code, const char *message)
{
    struct sl_list *it, *tmp;
    sl_list_each(it, tmp, head)
        fail_request(c, sl_container_of(it, struct sl_request, link), code, message);
}

static void fail_running(struct sl_coord *c, const char *message)
{
    fail_list(c, &c->sched.prefill, SL_ERETRY, message);
    fail_list(c, &c->sched.ready, SL_ERETRY, message);
    fail_list(c, &c->sched.awaits, SL_ERETRY, message);
    sl_sched_drop_flights(&c->sched);
}

/* ---- members --------------------------------------------------------------------------------- */

/* The waiting ones were taken in when the size of the cache was not known, or another. */
static void recheck_waiting(struct sl_coord *c)
{
    struct sl_list *it, *tmp;
    sl_list_each(it, tmp, &c->sched.waiting)
    {
        struct sl_request *r = sl_container_of(it, struct sl_request, link);
        int rc = sl_request_fit(r, c->members.n_blocks, c->p.load.block_tokens, &r->err);
        if (rc) fail_request(c, r, rc, r->err.msg);
    }
}

static void fail_cluster(struct sl_coord *c)
{
    const char *why = c->members.err.msg;
    fail_running(c, why);
    fail_list(c, &c->sched.waiting, SL_ERETRY, why);
    struct sl_effect *e = sl_sink_add(&c->fx, SL_FX_FAIL);
    e->fail.code = c->members.err.code;
    e->fail.message = why;
}

static void start_serving(struct sl_coord *c)
{
    const struct sl_plan *plan = &c->members.plan;
    int rc = 0;
    if (!c->sched.flights)
        rc = sl_sched_set_plan(&c->sched, plan->micro_batches, plan->chunk, plan->max_rows);
    if (!rc) rc = sl_sched_set_blocks(&c->sched, c->members.n_blocks);
    if (rc) {
        sl_err_set(&c->members.err, rc, "no memory for the schedule of %d micro-batches",
                   plan->micro_batches);
        c->members.failed = 1;
        c->members.serving = 0;
        fail_cluster(c);
        return;
    }
    sl_sink_add(&c->fx, SL_FX_SERVING);
    recheck_waiting(c);
}

static void on_news(struct sl_coord *c, enum sl_members_news news, int device)
{
    switch (news) {
    case SL_NEWS_NONE:
        return;
    case SL_NEWS_SERVING:
        start_serving(c);
        return;
    case SL_NEWS_BROKEN: {
        struct sl_effect *e = sl_sink_add(&c->fx, SL_FX_BROKEN);
        e->device = device;
        e->fail.code = c->members.err.code;
        e->fail.message = c->members.err.msg;
        fail_running(c, c->members.err.msg);
        return;
    }
    case SL_NEWS_FAILED:
        fail_cluster(c);
        return;
    }
}

/* ---- requests -------------------------------------------------------------------------------- */

/* The plan may have had to lower it. */
static int context(const struct sl_coord *c)
{
    return c->members.planned ? c->members.plan.context : c->p.load.context;
}

static int may_submit(struct sl_coord *c, const struct sl_submit *s)
{
    struct sl_err *err = &c->refusal;
    if (c->members.failed)
        return sl_err_set(err, SL_ERETRY, "the cluster has failed: %s", c->members.err.msg);
    if (c->draining)
        return sl_err_set(err, SL_ERETRY, "the cluster is shutting down; try again later");
    int rc = sl_request_check(s, c->p.n_vocab, c->p.n_adapters, context(c), err);
    if (rc) return rc;
    int room = c->p.load.sequences + c->p.queue_max;
    if (c->sched.n_running + c->sched.n_waiting >= room)
        return sl_err_set(
            err, SL_EBUSY,
            "%d requests run and %d wait, which is all the queue takes; try again later",
            c->sched.n_running, c->sched.n_waiting);
    return 0;
}

static int submit(struct sl_coord *c, const struct sl_submit *s, uint64_t now_ns)
{
    SL_ASSERT(!sl_map_get(&c->requests, s->id));
    int rc = may_submit(c, s);
    if (rc) return rc;
    struct sl_request *r = NULL;
    rc = sl_request_create(s, context(c), c->p.load.block_tokens, now_ns, &r);
    if (rc) return sl_err_set(&c->refusal, rc, "no memory for the request");
    if (c->members.n_blocks)
        rc = sl_request_fit(r, c->members.n_blocks, c->p.load.block_tokens, &c->refusal);
    if (!rc && sl_map_put(&c->requests, r->id, r) != 0)
        rc = sl_err_set(&c->refusal, SL_ENOMEM, "no memory for the request");
    if (rc) {
        sl_request_destroy(r);
        return rc;
    }
    sl_sched_add(&c->sched, r, s->priority);
    return 0;
}

static void on_submit(struct sl_coord *c, const struct sl_submit *s, uint64_t now_ns)
{
    int rc = submit(c, s, now_ns);
    if (!rc) return;
    struct sl_effect *e = sl_sink_add(&c->fx, SL_FX_FAIL);
    e->id = s->id;
    e->fail.code = rc;
    e->fail.message = c->refusal.msg;
    c->refused++;
}

static void on_cancel(struct sl_coord *c, uint64_t id)
{
    struct sl_request *r = sl_map_get(&c->requests, id);
    if (!r) return; /* ended meanwhile */
    retire(c, r);
    c->cancelled++;
}

/* ---- results --------------------------------------------------------------------------------- */

static void broken_answer(struct sl_coord *c, struct sl_request *r, uint64_t slot, const char *what)
{
    sl_err_set(&r->err, SL_EPROTO,
               "the last stage answered micro-batch %llu %s; this is a bug in sluice",
               (unsigned long long)slot, what);
    fail_request(c, r, SL_EPROTO, r->err.msg);
}

static void on_sampled(struct sl_coord *c, struct sl_request *r, uint64_t slot,
                       const struct sl_share *share, const struct sl_sampled *v, uint64_t now_ns)
{
    if (!v || v->pos != share->pos + share->n_tokens || v->token < 0 || v->token >= c->p.n_vocab) {
        broken_answer(c, r, slot,
                      v ? "with a wrong token or position" : "without a token that was due");
        return;
    }
    SL_ASSERT(v->pos == r->n_tokens); /* the generation says that it is this life of the sequence */
    struct sl_request_out o;
    int rc = sl_request_push(r, c->p.tokenizer, v->token, &o);
    if (rc) {
        sl_err_set(&r->err, rc, "the answer's text could not be kept: %s", sl_strerror(rc));
        fail_request(c, r, rc, r->err.msg);
        return;
    }
    if (!r->first_token_ns) r->first_token_ns = now_ns;
    c->generated_tokens++;
    r->sampled = *v;
    struct sl_effect *e = sl_sink_add(&c->fx, SL_FX_TOKEN);
    e->id = r->id;
    e->token.token = v->token;
    e->token.text = o.text;
    e->token.text_len = o.text_len;
    e->token.sampled = &r->sampled;
    if (o.ended)
        finish_request(c, r, &o, now_ns);
    else
        sl_sched_wake(&c->sched, r);
}

/* Rows of a score or logits request: passed on once and in order, also when the prompt was computed
 * again after a preemption with its chunks cut elsewhere. */
static void on_scored(struct sl_coord *c, struct sl_request *r, uint64_t slot,
                      const struct sl_share *share, const struct sl_scored *v, uint64_t now_ns)
{
    int ends = share->pos + share->n_tokens == r->n_prompt; /* its last row has no next token */
    int due = share->n_tokens - (r->score && ends);
    if (due > 0 && (!v || v->pos != share->pos || v->n != due ||
                    (r->score ? !v->logprobs : !v->logits || v->n_vocab != c->p.n_vocab))) {
        broken_answer(c, r, slot,
                      v ? "with other rows than were due" : "without rows that were due");
        return;
    }
    int known = SL_MAX(0, r->n_scored - share->pos);
    if (due > known) {
        r->scored = *v;
        r->scored.pos += known;
        r->scored.n -= known;
        if (v->logprobs) r->scored.logprobs += known;
        if (v->logits) r->scored.logits += (size_t)known * (size_t)v->n_vocab;
        r->n_scored = share->pos + due;
        struct sl_effect *e = sl_sink_add(&c->fx, SL_FX_SCORED);
        e->id = r->id;
        e->scored = &r->scored;
    }
    if (!ends) return;
    struct sl_request_out o = {.ended = 1, .reason = SL_FINISH_STOP, .rest = ""};
    finish_request(c, r, &o, now_ns);
}

/* Where each sequence's answer lies in the results; answers for sequences that are not in the batch
 * are not looked at. */
static void index_results(struct sl_coord *c, const struct sl_flight *f, const struct sl_results *v)
{
    for (int i = 0; i < f->batch.n_seqs; i++)
        c->sample_of[f->shares[i].seq] = c->score_of[f->shares[i].seq] = NO_RESULT;
    for (int i = 0; i < v->n_sampled; i++)
        if (v->sampled[i].seq < (uint32_t)c->p.load.sequences) c->sample_of[v->sampled[i].seq] = i;
    for (int i = 0; i < v->n_scored; i++)
        if (v->scored[i].seq < (uint32_t)c->p.load.sequences) c->score_of[v->scored[i].seq] = i;
}

static void on_results(struct sl_coord *c, const struct sl_event *in)
{
    const struct sl_results *v = in->results.results;
    if (!c->members.serving || in->results.epoch != c->members.epoch)
        return; /* of a pipeline that is no more */
    struct sl_flight *f = sl_sched_land(&c->sched, in->results.slot);
    if (!f) return; /* told twice */
    c->longest_ns = SL_MAX(c->longest_ns, in->now_ns - f->sent_ns);
    index_results(c, f, v);
    for (int i = 0; i < f->batch.n_seqs; i++) {
        const struct sl_share *share = &f->shares[i];
        struct sl_request *r = sl_sched_owner(&c->sched, share);
        if (!r) continue; /* cancelled, failed or preempted since */
        int sample = c->sample_of[share->seq], score = c->score_of[share->seq];
        if (share->flags & SL_SEQ_SAMPLE)
            on_sampled(c, r, in->results.slot, share, sample < 0 ? NULL : &v->sampled[sample],
                       in->now_ns);
        else if (share->flags & (SL_SEQ_SCORE | SL_SEQ_LOGITS))
            on_scored(c, r, in->results.slot, share, score < 0 ? NULL : &v->scored[score],
                      in->now_ns);
    }
}

/* ---- time ------------------------------------------------------------------------------------ */

/* How long a micro-batch may be on its way before we say that a stage hangs. */
static uint64_t stall_limit(const struct sl_coord *c)
{
    const struct sl_plan *plan = &c->members.plan;
    double step_ns = 0;
    int rows = 0;
    for (int i = 0; i < plan->n_stages; i++) step_ns += plan->stages[i].step_ns;
    for (int i = 0; i < c->sched.micro_batches; i++)
        if (c->sched.flights[i].slot) rows += c->sched.flights[i].batch.n_rows;
    uint64_t limit = SL_MAX(SL_STALL_NS, SL_STALL_LONGEST * c->longest_ns);
    double predicted = SL_STALL_PREDICTED * step_ns * rows;
    return predicted < 1e18 ? SL_MAX(limit, (uint64_t)predicted) : UINT64_MAX;
}

/* Deaths are told to us; a stage that lives, says so and never answers is noticed here only. */
static void watch(struct sl_coord *c, uint64_t now_ns)
{
    if (now_ns - c->tick_ns > SLEPT_NS) c->awake_ns = now_ns; /* answers of that time are unread */
    c->tick_ns = now_ns;
    const struct sl_flight *f = c->members.serving ? sl_sched_oldest(&c->sched) : NULL;
    if (!f || now_ns - SL_MAX(f->sent_ns, c->awake_ns) <= stall_limit(c)) return;
    struct sl_effect *e = sl_sink_add(&c->fx, SL_FX_STALLED);
    e->stalled.epoch = c->members.epoch;
    e->stalled.slot = f->slot;
    e->stalled.age_ns = now_ns - f->sent_ns;
}

/* ---- the step -------------------------------------------------------------------------------- */

static void apply(struct sl_coord *c, const struct sl_event *in)
{
    struct sl_members *m = &c->members;
    int d = in->device;
    switch (in->kind) {
    case SL_EV_JOINED:
        on_news(c,
                sl_members_joined(m, d, in->joined.memory_bytes, in->joined.bandwidth, in->now_ns,
                                  &c->fx),
                d);
        return;
    case SL_EV_READY:
        on_news(c, sl_members_ready(m, d, in->ready.n_blocks, &c->fx), d);
        return;
    case SL_EV_WIRED:
        on_news(c, sl_members_wired(m, d, in->wired.epoch), d);
        return;
    case SL_EV_DOWN:
        on_news(c, sl_members_down(m, d, in->down.message, in->now_ns), d);
        return;
    case SL_EV_TICK:
        on_news(c, sl_members_tick(m, in->now_ns, &c->fx), d);
        watch(c, in->now_ns);
        return;
    case SL_EV_SUBMIT:
        on_submit(c, in->submit, in->now_ns);
        return;
    case SL_EV_CANCEL:
        on_cancel(c, in->cancel_id);
        return;
    case SL_EV_RESULTS:
        on_results(c, in);
        return;
    case SL_EV_DRAIN:
        c->draining = 1;
        return;
    }
    SL_ASSERT(!"known event");
}

static void fill_pipeline(struct sl_coord *c, uint64_t now_ns)
{
    struct sl_flight *f;
    while (c->members.serving && (f = sl_sched_form(&c->sched, now_ns))) {
        struct sl_effect *e = sl_sink_add(&c->fx, SL_FX_BATCH);
        e->device = c->members.plan.stages[0].device;
        e->batch.epoch = c->members.epoch;
        e->batch.slot = f->slot;
        e->batch.batch = &f->batch;
    }
}

void sl_coord_step(struct sl_coord *c, const struct sl_event *in, struct sl_effects *out)
{
    SL_ASSERT(in->now_ns >= c->last_ns);
    forget_ended(c);
    c->fx.len = 0;
    if (c->sched.n_running > 0) c->work_ns += in->now_ns - c->last_ns;
    c->last_ns = in->now_ns;
    apply(c, in);
    fill_pipeline(c, in->now_ns);
    if (c->draining && !c->drained && c->sched.n_running + c->sched.n_waiting == 0) {
        c->drained = 1;
        sl_sink_add(&c->fx, SL_FX_DRAINED);
    }
    out->v = c->fx.v;
    out->len = c->fx.len;
}

/* ---- state for people ------------------------------------------------------------------------ */

const char *sl_member_state_name(enum sl_member_state s)
{
    switch (s) {
    case SL_MEMBER_ABSENT:
        return "absent";
    case SL_MEMBER_JOINED:
        return "joined";
    case SL_MEMBER_LOADING:
        return "loading";
    case SL_MEMBER_READY:
        return "ready";
    case SL_MEMBER_WIRED:
        return "wired";
    case SL_MEMBER_LEFT_OUT:
        return "left out";
    }
    return "unknown";
}

void sl_coord_get_status(const struct sl_coord *c, uint64_t now_ns, struct sl_coord_status *out)
{
    const struct sl_sched *s = &c->sched;
    memset(out, 0, sizeof *out);
    out->serving = c->members.serving;
    out->draining = c->draining;
    out->failed = c->members.failed;
    out->epoch = c->members.epoch;
    out->running = s->n_running;
    out->waiting = s->n_waiting;
    out->blocks_total = s->blocks.n_total;
    out->blocks_free = s->blocks.n_free;
    out->in_flight = s->n_in_flight;
    out->work_ns = c->work_ns + (s->n_running > 0 && now_ns > c->last_ns ? now_ns - c->last_ns : 0);
    out->prompt_tokens = s->prompt_tokens;
    out->generated_tokens = c->generated_tokens;
    out->batches = s->batches;
    out->preemptions = s->preemptions;
    out->finished = c->finished;
    out->failed_requests = c->failed;
    out->cancelled = c->cancelled;
    out->refused = c->refused;
    for (int i = 0; i < c->p.n_devices; i++) {
        out->members[i] = c->members.v[i].state;
        out->restarts[i] = c->members.v[i].restarts;
    }
}

const struct sl_plan *sl_coord_plan(const struct sl_coord *c)
{
    return c->members.planned ? &c->members.plan : NULL;
}

void sl_coord_audit(const struct sl_coord *c)
{
    sl_sched_audit(&c->sched);
    SL_ASSERT(c->requests.len == (size_t)(c->sched.n_running + c->sched.n_waiting));
    SL_ASSERT(c->sched.n_running + c->sched.n_waiting <= c->p.load.sequences + c->p.queue_max);
    SL_ASSERT(c->members.serving || (c->sched.n_running == 0 && c->sched.n_in_flight == 0));
    SL_ASSERT(!c->members.failed || (!c->members.serving && c->requests.len == 0));
    /* A pipeline that serves and has work is working: no wait for an event that does not come. */
    SL_ASSERT(!c->members.serving || c->requests.len == 0 || c->sched.n_in_flight > 0);
}
