/* test_coord_sim.c - the coordinator against a toy cluster in one thread, under a seed.
 *
 * A virtual clock and a heap of events drive sl_coord_step. The stages are independent checkers
 * (toy_stage.c) with random service times; links keep their order. Requests arrive, are cancelled,
 * are too long; the KV cache is tiny, so that answers are preempted; stages die and come back,
 * results of dead epochs and duplicates are thrown in. After every event the coordinator audits
 * itself; at the end every request must have ended once, with exactly the tokens, text and scores
 * that the toy model gives a request that is alone in the world, and all blocks must be free.
 *
 * SLUICE_SIM_SEEDS says how many seeds (default 2000), SLUICE_SIM_SEED runs one and prints what
 * happens. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "coordinator/coord.h"
#include "tests/unit/coordinator/toy.h"
#include "tests/unit/coordinator/toy_stage.h"

#define STAGES_MAX 5
#define REQUESTS_MAX 60
#define PROMPT_MAX 60
#define CONTEXT 80
#define MS 1000000ull
#define SIM_END (3600ull * 1000 * MS) /* a run that is not over by then is stuck */

static uint64_t seed;
static int verbose;

static void die(const char *what)
{
    fprintf(stderr, "coord_sim: seed %llu: %s (run again with SLUICE_SIM_SEED=%llu)\n",
            (unsigned long long)seed, what, (unsigned long long)seed);
    _exit(1);
}

static void on_abort(int sig)
{
    (void)sig;
    die("an assertion failed");
}

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x)) die("not true: " #x);                                                            \
    } while (0)

/* ---- the world ------------------------------------------------------------------------------- */

enum what {
    W_ARRIVE,
    W_CANCEL,
    W_TICK,
    W_JOIN,
    W_READY,
    W_WIRED,
    W_DIE,
    W_FRAME,
    W_DONE,
    W_RESULTS,
    W_DRAIN
};

struct frame { /* a micro-batch as the wire would carry it: a copy */
    uint32_t epoch;
    uint64_t slot;
    struct sl_batch batch;
    struct sl_results *results;
};

struct event {
    uint64_t at, order;
    enum what what;
    int device;      /* or request */
    int incarnation; /* of the device: events of the dead are void */
    uint32_t number; /* epoch or blocks */
    struct frame *frame;
};

struct device {
    int alive, incarnation, stage, busy;
    uint32_t epoch, n_blocks;
    struct toy_stage *toy;
    struct frame *queue[64];
    int n_queue;
    uint64_t last_frame; /* arrival of the last one sent to it: links keep order */
};

struct want { /* a request and what must come of it */
    struct sl_submit submit;
    int32_t tokens[PROMPT_MAX];
    char stop[2][8];
    uint64_t cancel_at;
    /* the answer of a model that is alone */
    int32_t answer[CONTEXT];
    int n_answer;
    enum sl_finish reason;
    char text[CONTEXT * 8];
    /* what came */
    int submitted, ended, cancelled, n_got, n_scored;
    char got[CONTEXT * 8];
    size_t got_len;
};

static struct {
    uint64_t rng, now, order, n_steps;
    struct event heap[4096];
    int n_heap;
    struct sl_coord *c;
    struct sl_coord_params p;
    int n_devices, n_stages, faults, faults_left, deaths, broken, failed, drained, serving;
    int n_blocks_cap;
    struct device d[STAGES_MAX];
    struct want w[REQUESTS_MAX];
    int n_wants;
    uint64_t preemptions;
} S;

static uint64_t rnd(uint64_t n)
{
    S.rng += 0x9e3779b97f4a7c15u;
    return sl_mix64(S.rng) % n;
}

static int earlier(const struct event *a, const struct event *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void push(struct event e)
{
    CHECK(S.n_heap < (int)SL_ARRAY_LEN(S.heap));
    e.order = ++S.order;
    int i = S.n_heap++;
    for (; i > 0 && earlier(&e, &S.heap[(i - 1) / 2]); i = (i - 1) / 2)
        S.heap[i] = S.heap[(i - 1) / 2];
    S.heap[i] = e;
}

static struct event pop(void)
{
    struct event top = S.heap[0], e = S.heap[--S.n_heap];
    int i = 0;
    for (int k; (k = 2 * i + 1) < S.n_heap; i = k) {
        if (k + 1 < S.n_heap && earlier(&S.heap[k + 1], &S.heap[k])) k++;
        if (!earlier(&S.heap[k], &e)) break;
        S.heap[i] = S.heap[k];
    }
    S.heap[i] = e;
    return top;
}

/* ---- frames ---------------------------------------------------------------------------------- */

static struct frame *copy_frame(const struct sl_effect *e)
{
    const struct sl_batch *b = e->batch.batch;
    size_t blocks = 0;
    for (int i = 0; i < b->n_seqs; i++) blocks += (size_t)b->seqs[i].n_blocks;
    struct frame *f =
        calloc(1, sizeof *f + (size_t)b->n_seqs * (sizeof *b->seqs + sizeof(struct sl_sampling)) +
                      ((size_t)b->n_rows + blocks) * sizeof(int32_t));
    f->epoch = e->batch.epoch;
    f->slot = e->batch.slot;
    f->batch = *b;
    f->batch.seqs = (struct sl_batch_seq *)(f + 1);
    struct sl_sampling *sampling = (struct sl_sampling *)(f->batch.seqs + b->n_seqs);
    int32_t *ids = (int32_t *)(sampling + b->n_seqs);
    for (int i = 0; i < b->n_seqs; i++) {
        struct sl_batch_seq *q = &f->batch.seqs[i];
        *q = b->seqs[i];
        q->tokens = memcpy(ids, q->tokens, (size_t)q->n_tokens * sizeof *ids);
        ids += q->n_tokens;
        q->blocks = memcpy(ids, q->blocks, (size_t)q->n_blocks * sizeof *ids);
        ids += q->n_blocks;
        q->sampling = NULL;
        if (q->flags & SL_SEQ_REGISTER) {
            sampling[i] = *b->seqs[i].sampling;
            q->sampling = &sampling[i];
        } else {
            q->prompt_len = -1; /* not on the wire */
        }
    }
    return f;
}

static void free_frame(struct frame *f)
{
    if (!f) return;
    free(f->results);
    free(f);
}

/* ---- devices --------------------------------------------------------------------------------- */

static void drop_frames(struct device *d)
{
    for (int i = 0; i < d->n_queue; i++) free_frame(d->queue[i]);
    d->n_queue = 0;
}

static void send_frame(int device, struct frame *f)
{
    struct device *d = &S.d[device];
    uint64_t at = S.now + rnd(300000);
    d->last_frame = SL_MAX(d->last_frame, at);
    push((struct event){.at = d->last_frame,
                        .what = W_FRAME,
                        .device = device,
                        .incarnation = d->incarnation,
                        .frame = f});
}

static int device_of_stage(int stage)
{
    for (int i = 0; i < S.n_devices; i++)
        if (S.d[i].alive && S.d[i].stage == stage) return i;
    return -1;
}

static void work(int device)
{
    struct device *d = &S.d[device];
    if (d->busy || d->n_queue == 0) return;
    d->busy = 1;
    push((struct event){.at = S.now + 100000 + rnd(3 * MS),
                        .what = W_DONE,
                        .device = device,
                        .incarnation = d->incarnation});
}

static void frame_in(int device, struct frame *f)
{
    struct device *d = &S.d[device];
    if (f->epoch != d->epoch) {
        free_frame(f);
        return;
    }
    CHECK(d->n_queue < (int)SL_ARRAY_LEN(d->queue));
    d->queue[d->n_queue++] = f;
    work(device);
}

static void run_frame(int device)
{
    struct device *d = &S.d[device];
    struct frame *f = d->n_queue ? d->queue[0] : NULL;
    d->busy = 0;
    if (!f) return; /* a new epoch swept the queue */
    memmove(d->queue, d->queue + 1, (size_t)--d->n_queue * sizeof f);
    const char *bad = toy_stage_run(d->toy, &f->batch);
    for (int i = 0; verbose && i < f->batch.n_seqs; i++)
        fprintf(stderr,
                "    device %d epoch %u micro-batch %llu: slot %u pos %d tokens %d blocks %d flags "
                "%u\n",
                device, f->epoch, (unsigned long long)f->slot, f->batch.seqs[i].seq,
                f->batch.seqs[i].pos, f->batch.seqs[i].n_tokens, f->batch.seqs[i].n_blocks,
                f->batch.seqs[i].flags);
    if (bad) die(bad);
    if (d->stage == S.n_stages - 1) {
        f->results = toy_stage_answer(d->toy, &f->batch);
        push((struct event){.at = S.now + 50000, .what = W_RESULTS, .frame = f});
    } else {
        int next = device_of_stage(d->stage + 1);
        if (next >= 0)
            send_frame(next, f);
        else
            free_frame(f);
    }
    work(device);
}

static void start(int device)
{
    struct device *d = &S.d[device];
    CHECK(!d->alive);
    d->alive = 1;
    d->incarnation++;
    d->epoch = 0;
    push((struct event){.at = S.now + rnd(500 * MS),
                        .what = W_JOIN,
                        .device = device,
                        .incarnation = d->incarnation});
    uint64_t odds = S.faults_left > 4 ? 5 : 2;
    if (S.faults && S.faults_left > 0 && rnd(8) < odds) {
        S.faults_left--;
        push((struct event){.at = S.now + rnd(2000 * MS),
                            .what = W_DIE,
                            .device = device,
                            .incarnation = d->incarnation});
    }
}

/* ---- effects --------------------------------------------------------------------------------- */

static void step(struct sl_event *e);

static struct want *want_of(uint64_t id)
{
    CHECK(id >= 1 && id <= (uint64_t)S.n_wants);
    struct want *w = &S.w[id - 1];
    CHECK(w->submitted && !w->ended && !w->cancelled);
    return w;
}

static void got_text(struct want *w, const char *text, size_t n)
{
    CHECK(w->got_len + n < sizeof w->got);
    memcpy(w->got + w->got_len, text, n);
    w->got_len += n;
}

static void got_token(const struct sl_effect *e)
{
    struct want *w = want_of(e->id);
    CHECK(w->n_got < w->n_answer);
    CHECK(e->token.token == w->answer[w->n_got]);
    CHECK(e->token.sampled->token == e->token.token &&
          e->token.sampled->pos == w->submit.n_tokens + w->n_got);
    w->n_got++;
    got_text(w, e->token.text, e->token.text_len);
}

static void got_scored(const struct sl_effect *e)
{
    struct want *w = want_of(e->id);
    const struct sl_scored *v = e->scored;
    CHECK(v->pos == w->n_scored && v->n > 0);
    uint64_t h = 0;
    for (int i = 0; i < w->submit.n_tokens; i++) {
        h = toy_hash(h, w->tokens[i]);
        if (i < v->pos || i >= v->pos + v->n) continue;
        if (w->submit.score) CHECK(v->logprobs[i - v->pos] == toy_logit(h, w->tokens[i + 1]));
        for (int32_t t = 0; w->submit.logits && t < TOY_VOCAB; t++)
            CHECK(v->logits[(i - v->pos) * TOY_VOCAB + t] == toy_logit(h, t));
    }
    w->n_scored += v->n;
}

static void got_done(const struct sl_effect *e)
{
    struct want *w = want_of(e->id);
    const struct sl_submit *s = &w->submit;
    w->ended = 1;
    CHECK(w->n_got == w->n_answer && e->done.completion_tokens == w->n_answer &&
          e->done.prompt_tokens == s->n_tokens);
    CHECK(e->done.reason == w->reason);
    CHECK(w->n_scored == (s->score ? s->n_tokens - 1 : s->logits ? s->n_tokens : 0));
    got_text(w, e->done.text, e->done.text_len);
    CHECK(w->got_len == strlen(w->text) && memcmp(w->got, w->text, w->got_len) == 0);
}

static int too_long(const struct want *w)
{
    const struct sl_submit *s = &w->submit;
    int kv = s->score || s->logits ? s->n_tokens
             : s->max_tokens       ? SL_MIN(CONTEXT, s->n_tokens + s->max_tokens) - 1
                                   : s->n_tokens;
    return s->n_tokens > CONTEXT - !(s->score || s->logits) ||
           kv > S.n_blocks_cap * S.p.load.block_tokens;
}

static void got_fail(const struct sl_effect *e)
{
    CHECK(e->fail.message && *e->fail.message);
    if (e->id == 0) {
        CHECK(!S.failed && S.deaths > SL_RESTARTS_MAX);
        S.failed = 1;
        return;
    }
    struct want *w = want_of(e->id);
    w->ended = 1;
    switch (e->fail.code) {
    case SL_ELIMIT:
        CHECK(too_long(w) && w->n_got == 0);
        return;
    case SL_EBUSY:
        CHECK(w->n_got == 0);
        return;
    case SL_ERETRY:
        CHECK(S.deaths > 0);
        return;
    default:
        die(e->fail.message);
    }
}

static void load(const struct sl_effect *e)
{
    struct device *d = &S.d[e->device];
    CHECK(d->alive);
    S.n_stages = e->load.n_stages;
    d->stage = e->load.stage;
    d->n_blocks = SL_MIN(e->load.n_blocks, (uint32_t)S.n_blocks_cap);
    toy_stage_free(d->toy);
    d->toy = toy_stage_new(S.p.load.sequences, (int)d->n_blocks, S.p.load.block_tokens,
                           S.p.load.max_rows);
    push((struct event){.at = S.now + rnd(800 * MS),
                        .what = W_READY,
                        .device = e->device,
                        .incarnation = d->incarnation});
}

static void wire(const struct sl_effect *e)
{
    for (int i = 0; i < S.n_devices; i++) {
        struct device *d = &S.d[i];
        if (!d->alive || d->stage < 0) continue;
        CHECK(e->wire.epoch > d->epoch);
        d->epoch = e->wire.epoch;
        drop_frames(d);
        toy_stage_reset(d->toy);
        push((struct event){.at = S.now + rnd(20 * MS),
                            .what = W_WIRED,
                            .device = i,
                            .incarnation = d->incarnation,
                            .number = d->epoch});
    }
}

static void perform(const struct sl_effects *fx)
{
    for (size_t i = 0; i < fx->len; i++) {
        const struct sl_effect *e = &fx->v[i];
        if (verbose)
            fprintf(stderr, "  %10.3f ms  effect %d device %d id %llu\n", (double)S.now / MS,
                    e->kind, e->device, (unsigned long long)e->id);
        CHECK(!S.failed || e->kind == SL_FX_FAIL || e->kind == SL_FX_DRAINED);
        switch (e->kind) {
        case SL_FX_LAUNCH:
            start(e->device);
            break;
        case SL_FX_LOAD:
            load(e);
            break;
        case SL_FX_WIRE:
            wire(e);
            break;
        case SL_FX_BATCH:
            CHECK(S.serving && e->device == device_of_stage(0));
            send_frame(e->device, copy_frame(e));
            break;
        case SL_FX_TOKEN:
            got_token(e);
            break;
        case SL_FX_SCORED:
            got_scored(e);
            break;
        case SL_FX_DONE:
            got_done(e);
            break;
        case SL_FX_FAIL:
            got_fail(e);
            break;
        case SL_FX_SERVING:
            S.serving = 1;
            break;
        case SL_FX_BROKEN:
            CHECK(S.serving && e->fail.message);
            S.serving = 0;
            S.broken++;
            break;
        case SL_FX_STALLED:
            CHECK(!"a stall: the simulated stages answer or die");
            break;
        case SL_FX_DRAINED:
            CHECK(!S.drained);
            S.drained = 1;
            break;
        }
    }
}

static void step(struct sl_event *e)
{
    struct sl_effects fx;
    struct sl_coord_status st;
    e->now_ns = S.now;
    S.n_steps++;
    sl_coord_step(S.c, e, &fx);
    perform(&fx);
    sl_coord_audit(S.c);
    sl_coord_get_status(S.c, S.now, &st);
    CHECK(st.running <= S.p.load.sequences && st.blocks_free >= 0 &&
          st.serving == (S.serving && !S.failed));
    S.preemptions = st.preemptions;
}

/* ---- what must come -------------------------------------------------------------------------- */

static void expect(struct want *w, int cap_tokens)
{
    struct sl_submit *s = &w->submit;
    struct sl_detok detok = {.n_pending = 0};
    struct sl_buf text;
    sl_buf_init(&text, 1 << 20);
    uint64_t h = 0;
    for (int i = 0; i < s->n_tokens; i++) h = toy_hash(h, w->tokens[i]);
    int limit = s->max_tokens ? SL_MIN(CONTEXT, s->n_tokens + s->max_tokens)
                              : SL_MIN(CONTEXT, cap_tokens + 1);
    size_t cut = (size_t)-1;
    w->reason = SL_FINISH_STOP;
    while (!s->score && !s->logits && cut == (size_t)-1) {
        int32_t t = w->answer[w->n_answer++] = toy_draw(h, s->sampling.seed, s->n_tokens);
        h = toy_hash(h, t);
        if (t == TOY_END && !s->ignore_eos) break;
        CHECK(sl_detok_push(&detok, S.p.tokenizer, t, 0, &text) == 0);
        for (int k = 0; k < s->n_stops; k++) {
            const char *at = strstr(sl_buf_str(&text), s->stops[k]);
            if (at) cut = SL_MIN(cut, (size_t)(at - sl_buf_str(&text)));
        }
        if (cut == (size_t)-1 && s->n_tokens + w->n_answer == limit) {
            w->reason = SL_FINISH_LENGTH;
            break;
        }
    }
    if (cut == (size_t)-1)
        CHECK(sl_detok_finish(&detok, &text) == 0);
    else
        text.len = cut;
    memcpy(w->text, sl_buf_str(&text), text.len);
    w->text[text.len] = 0;
    sl_buf_close(&text);
}

static void make_want(struct want *w, uint64_t id, int cap_tokens)
{
    static const char *const stops[] = {"abc",      "aa",         "bab", "ca",
                                        "\xc3\xa9", "cc\xc3\xa9", "aab", "bca"};
    struct sl_submit *s = &w->submit;
    memset(w, 0, sizeof *w);
    s->id = id;
    s->n_tokens = 1 + (int)rnd(rnd(3) ? 12 : PROMPT_MAX);
    for (int i = 0; i < s->n_tokens; i++) w->tokens[i] = (int32_t)rnd(TOY_VOCAB);
    s->tokens = w->tokens;
    s->max_tokens = rnd(4) ? 1 + (int)rnd(30) : 0;
    sl_sampling_default(&s->sampling);
    s->sampling.seed = rnd(1000);
    s->priority = (int)rnd(5) - 2;
    s->ignore_eos = rnd(2) == 0;
    for (int n = (int)rnd(3); s->n_stops < n; s->n_stops++) {
        strcpy(w->stop[s->n_stops], stops[rnd(SL_ARRAY_LEN(stops))]);
        s->stops[s->n_stops] = w->stop[s->n_stops];
    }
    s->score = rnd(12) == 0;
    s->logits = !s->score && rnd(12) == 0;
    if (!too_long(w)) expect(w, cap_tokens);
}

/* ---- one run --------------------------------------------------------------------------------- */

static void make_cluster(void)
{
    static const char *const names[STAGES_MAX] = {"alpha/0", "alpha/1", "beta/0", "beta/1",
                                                  "gamma/0"};
    static uint64_t layer_bytes[12];
    static struct sl_plan_device hints[STAGES_MAX];
    static unsigned char restartable[STAGES_MAX];
    S.n_devices = 1 + (int)rnd(STAGES_MAX);
    S.faults = rnd(2) == 0;
    S.faults_left = rnd(8) == 0 ? 60 : 4; /* now and then until the cluster is given up */
    int n_layers = 3 + (int)rnd(9);
    for (int i = 0; i < n_layers; i++) layer_bytes[i] = 1000;
    for (int i = 0; i < S.n_devices; i++) {
        hints[i] = (struct sl_plan_device){.layer_from = -1, .layer_to = -1};
        restartable[i] = 1;
        S.d[i].stage = -1;
    }
    S.p = (struct sl_coord_params){
        .model = {.n_layers = n_layers, .layer_bytes = layer_bytes, .kv_bytes_per_token = 1},
        .n_vocab = TOY_VOCAB,
        .n_devices = S.n_devices,
        .names = names,
        .hints = hints,
        .restartable = restartable,
        .load = {.context = CONTEXT,
                 .sequences = 1 + (int)rnd(8),
                 .block_tokens = 1 + (int)rnd(6),
                 .max_rows = 20 + (int)rnd(60)},
        .queue_max = 5 + (int)rnd(60),
        .tokenizer = toy_tokenizer(),
    };
    S.p.load.micro_batches = rnd(3) ? 0 : 1 + (int)rnd(5);
    S.p.load.chunk = rnd(3) ? 0 : 4 + (int)rnd(16);
    int whole = (CONTEXT + S.p.load.block_tokens - 1) / S.p.load.block_tokens;
    S.n_blocks_cap = rnd(2) ? whole + (int)rnd(whole) : rnd(4) ? whole : 1 + (int)rnd(whole);
    S.n_blocks_cap = SL_MIN(S.n_blocks_cap, whole * S.p.load.sequences);
    CHECK(sl_coord_create(&S.p, &S.c, NULL) == 0);
}

static void make_load(void)
{
    S.n_wants = 1 + (int)rnd(REQUESTS_MAX);
    uint64_t at = 0, gap = rnd(3) ? 40 * MS : 1 * MS;
    if (rnd(2)) at = 3000 * MS; /* else some come before the pipeline serves */
    for (int i = 0; i < S.n_wants; i++) {
        make_want(&S.w[i], (uint64_t)i + 1, S.n_blocks_cap * S.p.load.block_tokens);
        at += rnd(gap);
        push((struct event){.at = at, .what = W_ARRIVE, .device = i});
        if (rnd(6) == 0)
            push((struct event){.at = at + rnd(60 * MS), .what = W_CANCEL, .device = i});
    }
    for (int k = (int)rnd(4); S.faults && k > 0; k--)
        push((struct event){.at = 2500 * MS + rnd(6000 * MS),
                            .what = W_DIE,
                            .device = (int)rnd((uint64_t)S.n_devices),
                            .incarnation = -1});
}

static void on_die(const struct event *e)
{
    struct device *d = &S.d[e->device];
    if (!d->alive) return;
    d->alive = 0;
    d->busy = 0;
    d->incarnation++;
    d->stage = -1;
    drop_frames(d);
    S.deaths++;
    struct sl_event v = {
        .kind = SL_EV_DOWN, .device = e->device, .down = {"killed by the simulator"}};
    step(&v);
    if (rnd(2)) step(&v); /* told twice */
}

static void on_results(struct event *e)
{
    struct frame *f = e->frame;
    struct sl_event v = {.kind = SL_EV_RESULTS, .results = {f->epoch, f->slot, f->results}};
    step(&v);
    if (e->number == 0 && rnd(10) == 0) { /* again, now and later, perhaps in another epoch */
        step(&v);
        e->number = 1;
        e->at = S.now + rnd(500 * MS);
        push(*e);
        return;
    }
    free_frame(f);
}

static void handle(struct event *e)
{
    struct sl_event v = {.device = e->device};
    struct want *w = &S.w[e->what == W_ARRIVE || e->what == W_CANCEL ? e->device : 0];
    switch (e->what) {
    case W_ARRIVE:
        w->submitted = 1;
        v.kind = SL_EV_SUBMIT;
        v.submit = &w->submit;
        step(&v);
        return;
    case W_CANCEL:
        v.kind = SL_EV_CANCEL;
        v.cancel_id = w->submit.id;
        if (!w->ended) w->cancelled = 1;
        step(&v);
        return;
    case W_TICK:
        v.kind = SL_EV_TICK;
        push((struct event){.at = S.now + 100 * MS, .what = W_TICK});
        step(&v);
        return;
    case W_JOIN:
        v.kind = SL_EV_JOINED;
        v.joined.memory_bytes = 1u << 30;
        v.joined.bandwidth = (double)(1000 + 1000 * e->device);
        step(&v);
        return;
    case W_READY:
        v.kind = SL_EV_READY;
        v.ready.n_blocks = S.d[e->device].n_blocks;
        step(&v);
        return;
    case W_WIRED:
        v.kind = SL_EV_WIRED;
        v.wired.epoch = e->number;
        step(&v);
        return;
    case W_DIE:
        on_die(e);
        return;
    case W_FRAME:
        frame_in(e->device, e->frame);
        return;
    case W_DONE:
        run_frame(e->device);
        return;
    case W_RESULTS:
        on_results(e);
        return;
    case W_DRAIN:
        v.kind = SL_EV_DRAIN;
        step(&v);
        return;
    }
}

static int all_over(void)
{
    for (int i = 0; i < S.n_wants; i++)
        if (!S.w[i].ended && !S.w[i].cancelled) return 0;
    for (int i = 0; i < S.n_heap;
         i++) /* nothing on its way but the clock and what dead devices do */
        if (S.heap[i].what == W_CANCEL || S.heap[i].what == W_FRAME || S.heap[i].what == W_DONE ||
            S.heap[i].what == W_RESULTS)
            return 0;
    return 1;
}

static void run_one(void)
{
    memset(&S, 0, sizeof S);
    S.rng = sl_mix64(seed);
    make_cluster();
    make_load();
    push((struct event){.at = 0, .what = W_TICK});
    while (!all_over()) {
        struct event e = pop();
        if (e.at > SIM_END) die("stuck: requests that never end");
        S.now = e.at;
        int of_process = e.what == W_JOIN || e.what == W_READY || e.what == W_WIRED ||
                         e.what == W_FRAME || e.what == W_DONE || e.what == W_DIE;
        if (of_process && e.incarnation >= 0 && e.incarnation != S.d[e.device].incarnation) {
            free_frame(e.frame);
            continue;
        }
        handle(&e);
    }
    struct event drain = {.what = W_DRAIN};
    handle(&drain);
    CHECK(S.drained);
    struct sl_coord_status st;
    sl_coord_get_status(S.c, S.now, &st);
    CHECK(st.blocks_free == st.blocks_total && st.running == 0 && st.waiting == 0);
    int finished = 0, failed = 0, cancelled = 0;
    for (int i = 0; i < S.n_wants; i++) {
        CHECK(S.w[i].submitted);
        cancelled += S.w[i].cancelled;
    }
    finished = (int)st.finished;
    failed = (int)(st.failed_requests + st.refused);
    CHECK(finished + failed + (int)st.cancelled <= S.n_wants &&
          finished + failed + cancelled == S.n_wants);
    CHECK(S.deaths > 0 || st.failed_requests == 0 ||
          S.n_blocks_cap * S.p.load.block_tokens < CONTEXT);
    for (int i = 0; i < S.n_heap; i++) free_frame(S.heap[i].frame);
    for (int i = 0; i < S.n_devices; i++) {
        drop_frames(&S.d[i]);
        toy_stage_free(S.d[i].toy);
    }
    sl_coord_destroy(S.c);
}

int main(void)
{
    const char *one = sl_env_get("SLUICE_SIM_SEED"), *many = sl_env_get("SLUICE_SIM_SEEDS");
    uint64_t from = one ? strtoull(one, NULL, 10) : 1, n = one    ? 1
                                                           : many ? strtoull(many, NULL, 10)
                                                                  : 2000;
    uint64_t steps = 0, preemptions = 0, broken = 0, deaths = 0, failed = 0;
    verbose = one != NULL;
    signal(SIGABRT, on_abort);
    for (seed = from; seed < from + n; seed++) {
        run_one();
        steps += S.n_steps;
        preemptions += S.preemptions;
        broken += (uint64_t)S.broken;
        deaths += (uint64_t)S.deaths;
        failed += (uint64_t)S.failed;
    }
    printf("%llu seeds: %llu steps, %llu preemptions, %llu deaths, %llu broken pipelines, %llu "
           "clusters given up\n",
           (unsigned long long)n, (unsigned long long)steps, (unsigned long long)preemptions,
           (unsigned long long)deaths, (unsigned long long)broken, (unsigned long long)failed);
    /* A simulation in which nothing goes wrong tests nothing. */
    seed = 0;
    if (n >= 1000) CHECK(preemptions > n / 10 && broken > n / 20 && failed > 0);
    return 0;
}
