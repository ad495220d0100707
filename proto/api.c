/* api.c - messages of the socket API: plain structs to packed protobuf and back.
 *
 * All memory of one message comes from a capped arena, so that a short message cannot be blown up
 * into much memory and there is nothing to free piece by piece. */
#include "proto/api.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/sl_assert.h"
#include "proto/api.pb-c.h"

typedef Sluice__Api__Envelope pb_envelope;
typedef Sluice__Api__Sampling pb_sampling;

static char *text(const char *s)
{
    return (char *)(s ? s : ""); /* protobuf-c only reads it */
}

/* ---- plain struct -> protobuf struct --------------------------------------------------------- */

/* An array of n pointers to n items behind it; NULL when memory is out. */
static void *pointers(struct sl_arena *a, size_t n, size_t size)
{
    size_t head = (n * sizeof(void *) + 15) & ~(size_t)15;
    char **list = sl_arena_alloc(a, head + n * size + 1);
    for (size_t i = 0; list && i < n; i++) list[i] = (char *)list + head + i * size;
    return list;
}

static void hello_out(const struct sl_api_hello *h, Sluice__Api__Hello *p)
{
    sluice__api__hello__init(p);
    p->version = h->version;
    p->key = text(h->key);
    p->program = text(h->program);
    p->model = text(h->model);
}

static int sampling_out(const struct sl_api_generate *g, pb_sampling *p, struct sl_arena *a)
{
    const struct sl_sampling *s = &g->sampling;
    sluice__api__sampling__init(p);
#define GIVE(bit, field)                                                                           \
    if (g->given & (bit)) p->has_##field = 1, p->field = s->field
    GIVE(SL_API_TEMPERATURE, temperature);
    GIVE(SL_API_TOP_K, top_k);
    GIVE(SL_API_TOP_P, top_p);
    GIVE(SL_API_MIN_P, min_p);
    GIVE(SL_API_REPETITION, repetition_penalty);
    GIVE(SL_API_PRESENCE, presence_penalty);
    GIVE(SL_API_FREQUENCY, frequency_penalty);
    GIVE(SL_API_SEED, seed);
#undef GIVE
    if (s->n_bias < 0 || s->n_bias > SL_LOGIT_BIAS_MAX) return SL_ELIMIT;
    p->n_logit_bias = (size_t)s->n_bias;
    p->logit_bias = pointers(a, p->n_logit_bias, sizeof(Sluice__Api__LogitBias));
    if (!p->logit_bias) return SL_ENOMEM;
    for (size_t i = 0; i < p->n_logit_bias; i++) {
        sluice__api__logit_bias__init(p->logit_bias[i]);
        p->logit_bias[i]->token = s->bias[i].token;
        p->logit_bias[i]->bias = s->bias[i].bias;
    }
    return 0;
}

static int generate_out(const struct sl_api_generate *g, Sluice__Api__Generate *p,
                        struct sl_arena *a)
{
    sluice__api__generate__init(p);
    if (g->prompt) {
        p->input_case = SLUICE__API__GENERATE__INPUT_PROMPT;
        p->prompt = text(g->prompt);
    } else if (g->messages_json) {
        p->input_case = SLUICE__API__GENERATE__INPUT_MESSAGES_JSON;
        p->messages_json = text(g->messages_json);
    } else {
        p->input_case = SLUICE__API__GENERATE__INPUT_TOKENS;
        p->tokens = sl_arena_alloc(a, sizeof(*p->tokens));
        if (!p->tokens) return SL_ENOMEM;
        sluice__api__tokens__init(p->tokens);
        p->tokens->n_ids = g->n_tokens;
        p->tokens->ids = (int32_t *)g->tokens;
    }
    p->sampling = sl_arena_alloc(a, sizeof(*p->sampling));
    if (!p->sampling) return SL_ENOMEM;
    p->max_tokens = g->max_tokens;
    p->n_stop = g->n_stops;
    p->stop = (char **)g->stops;
    p->ignore_eos = g->ignore_eos;
    p->want_logprobs = g->want_logprobs;
    p->logprobs = (uint32_t)SL_MAX(g->sampling.n_top, 0);
    p->priority = g->priority;
    p->tools_json = text(g->tools_json);
    p->parse = g->parse;
    p->options_json = text(g->options_json);
    p->model = text(g->model);
    return sampling_out(g, p->sampling, a);
}

static int token_out(const struct sl_api_token *t, Sluice__Api__Token *p, struct sl_arena *a)
{
    sluice__api__token__init(p);
    p->id = t->id;
    p->text.data = (uint8_t *)t->text;
    p->text.len = t->text_len;
    p->logprob = t->logprob;
    p->n_top = t->n_top;
    p->top = pointers(a, t->n_top, sizeof(Sluice__Api__Top));
    if (!p->top) return SL_ENOMEM;
    for (size_t i = 0; i < t->n_top; i++) {
        sluice__api__top__init(p->top[i]);
        p->top[i]->token = t->top[i].token;
        p->top[i]->logprob = t->top[i].logprob;
        p->top[i]->text = text(t->top[i].text);
    }
    p->reasoning.data = (uint8_t *)t->reasoning;
    p->reasoning.len = t->reasoning_len;
    p->n_calls = t->n_calls;
    p->calls = pointers(a, t->n_calls, sizeof(Sluice__Api__Call));
    if (!p->calls) return SL_ENOMEM;
    for (size_t i = 0; i < t->n_calls; i++) {
        sluice__api__call__init(p->calls[i]);
        p->calls[i]->index = t->calls[i].index;
        p->calls[i]->id = text(t->calls[i].id);
        p->calls[i]->name = text(t->calls[i].name);
        p->calls[i]->arguments.data = (uint8_t *)t->calls[i].arguments;
        p->calls[i]->arguments.len = t->calls[i].arguments_len;
    }
    return 0;
}

static int done_out(const struct sl_api_done *d, Sluice__Api__Done *p, struct sl_arena *a)
{
    sluice__api__done__init(p);
    p->finish_reason = text(d->finish_reason);
    p->prompt_tokens = d->prompt_tokens;
    p->completion_tokens = d->completion_tokens;
    p->timings = sl_arena_alloc(a, sizeof(*p->timings));
    if (!p->timings) return SL_ENOMEM;
    sluice__api__timings__init(p->timings);
    p->timings->queue_ns = d->queue_ns;
    p->timings->prefill_ns = d->prefill_ns;
    p->timings->decode_ns = d->decode_ns;
    return 0;
}

/* Fills the envelope; its body comes from the arena. */
static int envelope_out(const struct sl_api_msg *m, pb_envelope *e, struct sl_arena *a)
{
    union {
        Sluice__Api__Hello hello;
        Sluice__Api__Generate generate;
        Sluice__Api__Token token;
        Sluice__Api__Done done;
        Sluice__Api__Error error;
        Sluice__Api__Cancel cancel;
        Sluice__Api__Status status;
        Sluice__Api__Plan plan;
    } *body = sl_arena_alloc(a, sizeof(*body));
    if (!body) return SL_ENOMEM;
    sluice__api__envelope__init(e);
    e->id = m->id;
    e->hello = &body->hello; /* the members of the oneof share their place */
    switch (m->kind) {
    case SL_API_HELLO:
        e->body_case = SLUICE__API__ENVELOPE__BODY_HELLO;
        hello_out(&m->hello, &body->hello);
        return 0;
    case SL_API_GENERATE:
        e->body_case = SLUICE__API__ENVELOPE__BODY_GENERATE;
        return generate_out(&m->generate, &body->generate, a);
    case SL_API_TOKEN:
        e->body_case = SLUICE__API__ENVELOPE__BODY_TOKEN;
        return token_out(&m->token, &body->token, a);
    case SL_API_DONE:
        e->body_case = SLUICE__API__ENVELOPE__BODY_DONE;
        return done_out(&m->done, &body->done, a);
    case SL_API_ERROR:
        e->body_case = SLUICE__API__ENVELOPE__BODY_ERROR;
        sluice__api__error__init(&body->error);
        body->error.code = text(m->error.code);
        body->error.message = text(m->error.message);
        body->error.retry = m->error.retry;
        return 0;
    case SL_API_CANCEL:
        e->body_case = SLUICE__API__ENVELOPE__BODY_CANCEL;
        sluice__api__cancel__init(&body->cancel);
        return 0;
    case SL_API_STATUS:
        e->body_case = SLUICE__API__ENVELOPE__BODY_STATUS;
        sluice__api__status__init(&body->status);
        body->status.json = text(m->document.json);
        return 0;
    case SL_API_PLAN:
        e->body_case = SLUICE__API__ENVELOPE__BODY_PLAN;
        sluice__api__plan__init(&body->plan);
        body->plan.json = text(m->document.json);
        return 0;
    }
    return SL_EINPUT;
}

int sl_api_msg_pack(const struct sl_api_msg *m, struct sl_buf *out)
{
    struct sl_arena arena;
    pb_envelope e;
    sl_arena_init(&arena, SL_API_MEMORY_MAX);
    int rc = envelope_out(m, &e, &arena);
    size_t n = rc ? 0 : sluice__api__envelope__get_packed_size(&e);
    if (!rc && n > SL_API_MESSAGE_MAX) rc = SL_ELIMIT;
    if (!rc) rc = sl_buf_reserve(out, SL_API_LENGTH_BYTES + n);
    if (!rc) {
        uint8_t *p = (uint8_t *)out->data + out->len;
        for (int i = 0; i < SL_API_LENGTH_BYTES; i++) p[i] = (uint8_t)(n >> (8 * i));
        sluice__api__envelope__pack(&e, p + SL_API_LENGTH_BYTES);
        out->len += SL_API_LENGTH_BYTES + n;
        out->data[out->len] = 0;
    }
    sl_arena_close(&arena);
    return rc;
}

/* ---- protobuf struct -> plain struct --------------------------------------------------------- */

static int sampling_in(const pb_sampling *p, struct sl_api_generate *g)
{
    struct sl_sampling *s = &g->sampling;
    if (!p) return 0;
#define TAKE(bit, field)                                                                           \
    if (p->has_##field) g->given |= (bit), s->field = p->field
    TAKE(SL_API_TEMPERATURE, temperature);
    TAKE(SL_API_TOP_K, top_k);
    TAKE(SL_API_TOP_P, top_p);
    TAKE(SL_API_MIN_P, min_p);
    TAKE(SL_API_REPETITION, repetition_penalty);
    TAKE(SL_API_PRESENCE, presence_penalty);
    TAKE(SL_API_FREQUENCY, frequency_penalty);
    TAKE(SL_API_SEED, seed);
#undef TAKE
    if (p->n_logit_bias > SL_LOGIT_BIAS_MAX) return SL_EPROTO;
    s->n_bias = (int32_t)p->n_logit_bias;
    for (size_t i = 0; i < p->n_logit_bias; i++)
        s->bias[i] = (struct sl_logit_bias){p->logit_bias[i]->token, p->logit_bias[i]->bias};
    return 0;
}

static int generate_in(const Sluice__Api__Generate *p, struct sl_api_generate *g)
{
    static const int32_t none[1];
    sl_sampling_default(&g->sampling);
    switch (p->input_case) {
    case SLUICE__API__GENERATE__INPUT_PROMPT:
        g->prompt = p->prompt;
        break;
    case SLUICE__API__GENERATE__INPUT_MESSAGES_JSON:
        g->messages_json = p->messages_json;
        break;
    case SLUICE__API__GENERATE__INPUT_TOKENS:
        g->tokens = p->tokens && p->tokens->ids ? p->tokens->ids : none;
        g->n_tokens = p->tokens ? p->tokens->n_ids : 0;
        break;
    default:
        return SL_EPROTO;
    }
    if (p->logprobs > SL_TOP_LOGPROBS_MAX) return SL_EPROTO;
    g->sampling.n_top = (int32_t)p->logprobs;
    g->max_tokens = p->max_tokens;
    g->stops = (const char *const *)p->stop;
    g->n_stops = p->n_stop;
    g->ignore_eos = p->ignore_eos;
    g->want_logprobs = p->want_logprobs;
    g->priority = p->priority;
    g->tools_json = p->tools_json && *p->tools_json ? p->tools_json : NULL;
    g->parse = p->parse;
    g->options_json = p->options_json && *p->options_json ? p->options_json : NULL;
    g->model = p->model && *p->model ? p->model : NULL;
    return sampling_in(p->sampling, g);
}

static const char *bytes(const ProtobufCBinaryData *b)
{
    return b->data ? (const char *)b->data : "";
}

static int token_in(const Sluice__Api__Token *p, struct sl_api_token *t, struct sl_arena *a)
{
    if (p->n_top > SL_TOP_LOGPROBS_MAX) return SL_EPROTO;
    struct sl_api_top *top = sl_arena_alloc(a, p->n_top * sizeof(*top) + 1);
    if (!top) return SL_ENOMEM;
    for (size_t i = 0; i < p->n_top; i++)
        top[i] = (struct sl_api_top){p->top[i]->token, p->top[i]->logprob, text(p->top[i]->text)};
    struct sl_api_call *calls = sl_arena_alloc(a, p->n_calls * sizeof(*calls) + 1);
    if (!calls) return SL_ENOMEM;
    for (size_t i = 0; i < p->n_calls; i++)
        calls[i] =
            (struct sl_api_call){p->calls[i]->index, text(p->calls[i]->id), text(p->calls[i]->name),
                                 bytes(&p->calls[i]->arguments), p->calls[i]->arguments.len};
    *t = (struct sl_api_token){.id = p->id,
                               .text = bytes(&p->text),
                               .text_len = p->text.len,
                               .logprob = p->logprob,
                               .n_top = p->n_top,
                               .top = top,
                               .reasoning = bytes(&p->reasoning),
                               .reasoning_len = p->reasoning.len,
                               .n_calls = p->n_calls,
                               .calls = calls};
    return 0;
}

static void done_in(const Sluice__Api__Done *p, struct sl_api_done *d)
{
    d->finish_reason = text(p->finish_reason);
    d->prompt_tokens = p->prompt_tokens;
    d->completion_tokens = p->completion_tokens;
    if (p->timings) {
        d->queue_ns = p->timings->queue_ns;
        d->prefill_ns = p->timings->prefill_ns;
        d->decode_ns = p->timings->decode_ns;
    }
}

static int envelope_in(const pb_envelope *e, struct sl_api_msg *m, struct sl_arena *a)
{
    switch (e->body_case) {
    case SLUICE__API__ENVELOPE__BODY_HELLO:
        m->kind = SL_API_HELLO;
        m->hello = (struct sl_api_hello){e->hello->version, text(e->hello->key),
                                         text(e->hello->program), text(e->hello->model)};
        return 0;
    case SLUICE__API__ENVELOPE__BODY_GENERATE:
        m->kind = SL_API_GENERATE;
        return generate_in(e->generate, &m->generate);
    case SLUICE__API__ENVELOPE__BODY_TOKEN:
        m->kind = SL_API_TOKEN;
        return token_in(e->token, &m->token, a);
    case SLUICE__API__ENVELOPE__BODY_DONE:
        m->kind = SL_API_DONE;
        done_in(e->done, &m->done);
        return 0;
    case SLUICE__API__ENVELOPE__BODY_ERROR:
        m->kind = SL_API_ERROR;
        m->error =
            (struct sl_api_failure){text(e->error->code), text(e->error->message), e->error->retry};
        return 0;
    case SLUICE__API__ENVELOPE__BODY_CANCEL:
        m->kind = SL_API_CANCEL;
        return 0;
    case SLUICE__API__ENVELOPE__BODY_STATUS:
        m->kind = SL_API_STATUS;
        m->document.json = text(e->status->json);
        return 0;
    case SLUICE__API__ENVELOPE__BODY_PLAN:
        m->kind = SL_API_PLAN;
        m->document.json = text(e->plan->json);
        return 0;
    default:
        return SL_EUNSUPPORTED;
    }
}

static void *arena_alloc(void *arg, size_t n)
{
    return sl_arena_alloc(arg, n ? n : 1);
}

static void arena_free(void *arg, void *p)
{
    (void)arg, (void)p;
}

int sl_api_msg_length(const void *in, size_t n, size_t max, size_t *len, struct sl_err *err)
{
    const uint8_t *p = in;
    if (n < SL_API_LENGTH_BYTES) return SL_EAGAIN;
    *len = (size_t)p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24;
    if (*len > max)
        return sl_err_set(err, SL_EPROTO,
                          "a message of %zu bytes is announced, %zu are accepted here", *len, max);
    return 0;
}

int sl_api_msg_unpack(const void *in, size_t n, struct sl_api_msg *m, size_t *used,
                      struct sl_err *err)
{
    size_t len = 0;
    memset(m, 0, sizeof(*m));
    *used = 0;
    int rc = sl_api_msg_length(in, n, SL_API_MESSAGE_MAX, &len, err);
    if (rc) return rc;
    if (n - SL_API_LENGTH_BYTES < len) return SL_EAGAIN;
    struct sl_arena *arena = malloc(sizeof(*arena));
    if (!arena) return sl_err_set(err, SL_ENOMEM, "no memory for a message");
    sl_arena_init(arena, SL_API_MEMORY_MAX);
    ProtobufCAllocator alloc = {arena_alloc, arena_free, arena};
    pb_envelope *e =
        sluice__api__envelope__unpack(&alloc, len, (const uint8_t *)in + SL_API_LENGTH_BYTES);
    m->storage = arena;
    rc = SL_EPROTO;
    if (e) {
        m->id = e->id;
        rc = envelope_in(e, m, arena);
    }
    if (rc) {
        sl_api_msg_free(m);
        if (rc == SL_EPROTO)
            return sl_err_set(err, SL_EPROTO, "a message of %zu bytes is no valid Envelope", len);
    }
    *used = SL_API_LENGTH_BYTES + len;
    return rc;
}

void sl_api_msg_free(struct sl_api_msg *m)
{
    if (m->storage) {
        sl_arena_close(m->storage);
        free(m->storage);
    }
    m->storage = NULL;
}
