/* api_client.c - what the messages of the socket API do: greet, generate, cancel, report. */
#include "coordinator/api_client.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "base/text.h"
#include "coordinator/api_prompt.h"
#include "coordinator/api_tools.h"
#include "coordinator/listen.h"
#include "model/template.h"

#define MESSAGE_OUT_MAX SL_CLIENT_OUT_MAX /* bytes of one message to a client */
#define PIECE_MAX 256                     /* bytes of an alternative's text that are sent */

struct client_request {
    struct sl_client *client;
    uint64_t id, service_id;
    struct sl_track track;
    int want_logprobs, given;
    uint32_t prompt_tokens;
    struct sl_answer *answer; /* with parse: takes the answer apart */
    struct sl_api_tools tools;
    json_t *request;       /* what tools and answer point into */
    struct sl_buf content; /* what the parser told since the last message */
    struct sl_buf reasoning;
    struct sl_buf calls; /* of struct kept_call */
    struct sl_buf texts; /* of the calls */
};

/* A call that is not sent yet: offsets into the texts, which may still move. */
struct kept_call {
    uint32_t index;
    size_t id, name, arguments, arguments_len;
};

static void request_free(struct client_request *r)
{
    sl_answer_close(r->answer);
    json_decref(r->request);
    sl_buf_close(&r->content);
    sl_buf_close(&r->reasoning);
    sl_buf_close(&r->calls);
    sl_buf_close(&r->texts);
    free(r);
}

void sl_client_init(struct sl_client *c, struct sl_service *s, struct sl_keys *keys)
{
    c->service = s;
    c->keys = keys;
    c->metrics = sl_metrics_process();
    sl_map_init(&c->requests);
}

/* ---- out ------------------------------------------------------------------------------------- */

static void send_msg(struct sl_client *c, const struct sl_api_msg *m)
{
    struct sl_buf out;
    if (c->dead) return;
    sl_buf_init(&out, MESSAGE_OUT_MAX);
    if (sl_api_msg_pack(m, &out))
        c->drop(c, "a message to it is too large or memory is out");
    else
        c->send(c, out.data, out.len);
    sl_buf_close(&out);
}

static const char *code_name(int code)
{
    switch (code) {
    case SL_EBUSY:
        return "busy";
    case SL_ERETRY:
        return "retry";
    case SL_ELIMIT:
        return "limit";
    case SL_EAUTH:
        return "auth";
    case SL_EPROTO:
        return "protocol";
    case SL_ECANCELLED:
        return "cancelled";
    case SL_EUNSUPPORTED:
        return "unsupported";
    case SL_EINPUT:
    case SL_EUSAGE:
        return "input";
    default:
        return "server";
    }
}

void sl_client_error(struct sl_client *c, uint64_t id, int code, const char *message)
{
    struct sl_api_msg m = {.kind = SL_API_ERROR, .id = id};
    m.error.code = code_name(code);
    m.error.message = message && *message ? message : sl_strerror(code);
    m.error.retry = code == SL_EBUSY || code == SL_ERETRY;
    send_msg(c, &m);
}

static void send_done(struct client_request *r, const char *reason, const struct sl_timings *t)
{
    struct sl_api_msg m = {.kind = SL_API_DONE, .id = r->id};
    m.done = (struct sl_api_done){reason,      r->prompt_tokens, (uint32_t)r->given,
                                  t->queue_ns, t->prefill_ns,    t->decode_ns};
    send_msg(r->client, &m);
}

/* The text of a token for people, valid UTF-8 and NUL-terminated. */
static const char *piece_text(struct sl_client *c, int32_t id, char out[3 * PIECE_MAX + 1])
{
    size_t n = 0;
    const char *piece = sl_tokenizer_piece(sl_service_tokenizer(c->service), id, &n);
    out[sl_utf8_scrub(piece, SL_MIN(n, (size_t)PIECE_MAX), out)] = 0;
    return out;
}

static void send_token(struct client_request *r, const struct sl_api_token *t,
                       const struct sl_sampled *v)
{
    char pieces[SL_TOP_LOGPROBS_MAX][3 * PIECE_MAX + 1];
    struct sl_api_top top[SL_TOP_LOGPROBS_MAX];
    struct sl_api_msg m = {.kind = SL_API_TOKEN, .id = r->id};
    m.token = *t;
    m.token.top = top;
    if (v && r->want_logprobs) {
        m.token.logprob = v->logprob;
        m.token.n_top = (size_t)v->n_top;
        for (int i = 0; i < v->n_top; i++)
            top[i] = (struct sl_api_top){v->top[i].token, v->top[i].logprob,
                                         piece_text(r->client, v->top[i].token, pieces[i])};
    }
    send_msg(r->client, &m);
}

/* ---- answers taken apart -----------------------------------------------------------------------
 */

/* Appends s[0..n) and a NUL to the texts; *at is where. */
static int keep_text(struct client_request *r, const char *s, size_t n, size_t *at)
{
    *at = r->texts.len;
    int rc = sl_buf_add(&r->texts, s, n);
    return rc ? rc : sl_buf_putc(&r->texts, 0);
}

static int on_event(void *arg, const struct sl_answer_event *ev)
{
    struct client_request *r = arg;
    struct kept_call *last, call = {.index = (uint32_t)ev->index};
    int rc;
    switch (ev->kind) {
    case SL_ANSWER_CONTENT:
        return sl_buf_add(&r->content, ev->text, ev->n);
    case SL_ANSWER_REASONING:
        return r->tools.include_reasoning ? sl_buf_add(&r->reasoning, ev->text, ev->n) : 0;
    case SL_ANSWER_CALL:
        rc = keep_text(r, ev->id, strlen(ev->id), &call.id);
        if (!rc) rc = keep_text(r, ev->name, strlen(ev->name), &call.name);
        return rc ? rc : sl_buf_add(&r->calls, &call, sizeof call);
    case SL_ANSWER_ARGUMENTS: /* they come in one piece */
        last = (struct kept_call *)(r->calls.data + r->calls.len - sizeof *last);
        last->arguments_len = ev->n;
        return keep_text(r, ev->text, ev->n, &last->arguments);
    default:
        return 0;
    }
}

/* What the parser told, with token `id`, or -1: then only when there is something. */
static void send_parsed(struct client_request *r, int32_t id, const struct sl_sampled *v)
{
    /* r may be gone once it is sent */
    struct sl_buf content = r->content, reasoning = r->reasoning, list = r->calls, texts = r->texts;
    const struct kept_call *kept = (const struct kept_call *)list.data;
    size_t n = list.len / sizeof *kept;
    struct sl_api_call *calls = calloc(n + 1, sizeof *calls);
    sl_buf_init(&r->content, content.max);
    sl_buf_init(&r->reasoning, reasoning.max);
    sl_buf_init(&r->calls, list.max);
    sl_buf_init(&r->texts, texts.max);
    for (size_t i = 0; calls && i < n; i++)
        calls[i] =
            (struct sl_api_call){kept[i].index, texts.data + kept[i].id, texts.data + kept[i].name,
                                 texts.data + kept[i].arguments, kept[i].arguments_len};
    struct sl_api_token t = {.id = id,
                             .text = sl_buf_str(&content),
                             .text_len = content.len,
                             .reasoning = sl_buf_str(&reasoning),
                             .reasoning_len = reasoning.len,
                             .n_calls = n,
                             .calls = calls};
    if (!calls)
        r->client->drop(r->client, "memory is out");
    else if (id >= 0 || t.text_len || t.reasoning_len || n)
        send_token(r, &t, v);
    free(calls);
    sl_buf_close(&content);
    sl_buf_close(&reasoning);
    sl_buf_close(&list);
    sl_buf_close(&texts);
}

/* ---- requests -------------------------------------------------------------------------------- */

static void forget(struct client_request *r)
{
    sl_map_remove(&r->client->requests, r->id);
    request_free(r);
}

/* The parser gave up: so does the request. */
static void fail_request(struct client_request *r, int code)
{
    struct sl_client *c = r->client;
    uint64_t id = r->id;
    sl_service_cancel(c->service, r->service_id);
    sl_track_cancel(c->metrics, &r->track);
    forget(r);
    sl_client_error(c, id, code, "the answer grew too large");
}

static void end_request(struct client_request *r, const char *reason, const struct sl_timings *t)
{
    struct sl_client *c = r->client;
    sl_map_remove(&c->requests, r->id);
    if (r->answer) {
        int rc = sl_answer_finish(r->answer);
        if (rc == 0 && sl_answer_calls(r->answer) && !strcmp(reason, "stop")) reason = "tool_calls";
        send_parsed(r, -1, NULL);
    }
    send_done(r, reason, t);
    request_free(r);
}

static void on_token(struct client_request *r, const struct sl_effect *fx)
{
    static const struct sl_timings none;
    struct sl_client *c = r->client;
    uint64_t id = r->id;
    r->given++;
    if (!r->answer) {
        struct sl_api_token t = {
            .id = fx->token.token, .text = fx->token.text, .text_len = fx->token.text_len};
        send_token(r, &t, fx->token.sampled);
        return; /* r may be gone: a client that does not read is dropped */
    }
    int rc = sl_answer_push(r->answer, fx->token.text, fx->token.text_len);
    if (rc) {
        fail_request(r, rc);
        return;
    }
    send_parsed(r, fx->token.token, fx->token.sampled);
    if (c->dead || sl_map_get(&c->requests, id) != r) return;
    if (!r->tools.one || !sl_answer_calls(r->answer)) return;
    sl_service_cancel(c->service, r->service_id); /* one call was all it wants */
    sl_track_cancel(c->metrics, &r->track);
    end_request(r, "stop", &none);
}

static void on_done(struct client_request *r, const struct sl_effect *fx)
{
    if (fx->done.text_len && r->answer) {
        int rc = sl_answer_push(r->answer, fx->done.text, fx->done.text_len);
        if (rc) {
            uint64_t id = r->id;
            struct sl_client *c = r->client;
            forget(r);
            sl_client_error(c, id, rc, "the answer grew too large");
            return;
        }
    } else if (fx->done.text_len) { /* held-back text belongs to no token */
        struct sl_api_token t = {.id = -1, .text = fx->done.text, .text_len = fx->done.text_len};
        sl_map_remove(&r->client->requests, r->id); /* dropping the client must not free it */
        send_token(r, &t, NULL);
    }
    end_request(r, fx->done.reason == SL_FINISH_LENGTH ? "length" : "stop", &fx->done.timings);
}

static void on_reply(void *arg, const struct sl_effect *fx)
{
    struct client_request *r = arg;
    struct sl_client *c = r->client;
    sl_track_reply(c->metrics, &r->track, fx, sl_env_now_ns());
    switch (fx->kind) {
    case SL_FX_TOKEN:
        on_token(r, fx);
        break;
    case SL_FX_DONE:
        on_done(r, fx);
        break;
    case SL_FX_FAIL: {
        uint64_t id = r->id;
        forget(r);
        sl_client_error(c, id, fx->fail.code, fx->fail.message);
        break;
    }
    default:
        break;
    }
}

/* A JSON text of the client; `is` checks its type. NULL with *e. */
static json_t *read_json(const char *text, const char *name, int array, struct sl_api_error *e)
{
    json_error_t je;
    json_t *v = json_loads(text, 0, &je);
    if (!v) {
        sl_api_bad(e, name, "%s is not valid JSON: column %d: %s", name, je.column, je.text);
    } else if (array ? !json_is_array(v) : !json_is_object(v)) {
        sl_api_bad(e, name, "%s must be %s", name, array ? "an array" : "an object");
        json_decref(v);
        v = NULL;
    }
    return v;
}

/* The client's three texts as one OpenAI request. NULL with *e. */
static json_t *chat_request(const struct sl_api_generate *g, struct sl_api_error *e)
{
    json_t *o = g->options_json ? read_json(g->options_json, "options_json", 0, e) : json_object();
    json_t *messages = o ? read_json(g->messages_json, "messages_json", 1, e) : NULL;
    int rc = !messages || json_object_set_new(o, "messages", messages);
    if (!rc && g->tools_json) {
        json_t *tools = read_json(g->tools_json, "tools_json", 1, e);
        rc = !tools || json_object_set_new(o, "tools", tools);
    }
    if (!rc) rc = sl_api_check_messages(messages, e);
    if (!rc) return o;
    json_decref(o);
    return NULL;
}

/* r's request, rendered; its parser is opened when one is wanted. */
static int messages_to_ids(struct client_request *r, const struct sl_api_generate *g,
                           struct sl_ids *ids, struct sl_api_error *e)
{
    struct sl_service *s = r->client->service;
    struct sl_buf text, forced;
    if (!(r->request = chat_request(g, e)) || sl_api_read_tools(r->request, &r->tools, e))
        return -1;
    sl_buf_init(&text, SL_TEMPLATE_OUTPUT_MAX);
    sl_buf_init(&forced, SL_TEMPLATE_OUTPUT_MAX);
    int rc = sl_api_render(s, r->request, &text, e);
    if (!rc) rc = sl_api_force(s, &r->tools, &text, &forced, e);
    if (!rc && g->parse)
        rc = sl_api_answer_open(s, r->request, &r->tools, &text, &forced, on_event, r, &r->answer,
                                e);
    if (!rc) rc = sl_api_encode_chat(s, sl_buf_str(&text), text.len, ids, e);
    sl_buf_close(&text);
    sl_buf_close(&forced);
    return rc;
}

static int input_to_ids(struct client_request *r, const struct sl_api_generate *g,
                        struct sl_ids *ids, struct sl_api_error *e)
{
    struct sl_client *c = r->client;
    if (g->messages_json) return messages_to_ids(r, g, ids, e);
    if (g->prompt)
        return sl_api_encode(c->service, g->prompt, strlen(g->prompt), SL_TOK_SPECIAL | SL_TOK_BOS,
                             ids, e);
    int n_vocab = sl_tokenizer_size(sl_service_tokenizer(c->service));
    for (size_t i = 0; i < g->n_tokens; i++) {
        if (g->tokens[i] < 0 || g->tokens[i] >= n_vocab)
            return sl_api_bad(e, "tokens", "token id %d is not in the vocabulary of %d tokens",
                              g->tokens[i], n_vocab);
        if (sl_ids_push(ids, g->tokens[i])) return sl_api_from_code(e, SL_ENOMEM, NULL);
    }
    return 0;
}

static int in_range(float v, float min, float max)
{
    return v >= min && v <= max; /* false for NaN */
}

/* Server defaults where the client said nothing, and the ranges of the HTTP API. */
static int fill_sampling(struct sl_client *c, const struct sl_api_generate *g,
                         struct sl_sampling *s, struct sl_api_error *e)
{
    *s = g->sampling;
    if (!(g->given & SL_API_TEMPERATURE)) s->temperature = 1;
    if (!(g->given & SL_API_SEED)) sl_env_random(&s->seed, sizeof(s->seed));
    if (s->top_k < 0) s->top_k = 0;
    if (!in_range(s->temperature, 0, 100))
        return sl_api_bad(e, "temperature", "temperature must be between 0 and 100");
    if (!in_range(s->top_p, 0, 1) || !in_range(s->min_p, 0, 1))
        return sl_api_bad(e, "top_p", "top_p and min_p must be between 0 and 1");
    if (!in_range(s->repetition_penalty, 0.01f, 100))
        return sl_api_bad(e, "repetition_penalty",
                          "repetition_penalty must be between 0.01 and 100");
    if (!in_range(s->presence_penalty, -2, 2) || !in_range(s->frequency_penalty, -2, 2))
        return sl_api_bad(e, "presence_penalty",
                          "presence_penalty and frequency_penalty must be between -2 and 2");
    for (int i = 0; i < s->n_bias; i++)
        if (!in_range(s->bias[i].bias, -100, 100))
            return sl_api_bad(e, "logit_bias", "a logit_bias must be between -100 and 100");
    return sl_api_check_bias(c->service, s, e);
}

static int fill_submit(struct client_request *r, const struct sl_api_generate *g,
                       struct sl_ids *ids, struct sl_submit *s, struct sl_api_error *e)
{
    struct sl_client *c = r->client;
    if (sl_api_check_ready(c->service, e) || fill_sampling(c, g, &s->sampling, e)) return -1;
    if (g->n_stops > SL_STOPS_MAX)
        return sl_api_bad(e, "stop", "%zu stop strings; at most %d are allowed", g->n_stops,
                          SL_STOPS_MAX);
    for (size_t i = 0; i < g->n_stops; i++) {
        size_t n = strlen(g->stops[i]);
        if (n == 0 || n > SL_STOP_LEN_MAX)
            return sl_api_bad(e, "stop", "a stop string has %zu bytes; 1 to %d are allowed", n,
                              SL_STOP_LEN_MAX);
        s->stops[s->n_stops++] = g->stops[i];
    }
    if (g->max_tokens > SL_API_TOKENS_MAX)
        return sl_api_bad(e, "max_tokens", "max_tokens is %u; at most %d are allowed",
                          g->max_tokens, SL_API_TOKENS_MAX);
    s->max_tokens = (int)g->max_tokens;
    s->ignore_eos = g->ignore_eos;
    s->priority = SL_MAX(-1000000, SL_MIN(1000000, g->priority));
    if (sl_api_check_model(c->service, g->model, e)) return -1;
    s->adapter = sl_service_find_adapter(c->service, g->model);
    if (input_to_ids(r, g, ids, e)) return -1;
    if (r->answer) sl_api_show_marks(c->service, s);
    if (ids->len == 0)
        return sl_api_bad(e, "prompt", "the prompt is empty; send at least one token");
    if (ids->len > INT32_MAX) return sl_api_from_code(e, SL_ELIMIT, "the prompt is too long");
    s->tokens = ids->data;
    s->n_tokens = (int)ids->len;
    return 0;
}

/* The SL_E... code that stands for an API error. */
static int code_of(const struct sl_api_error *e)
{
    switch (e->status) {
    case 400:
        return e->code && !strcmp(e->code, "context_length_exceeded") ? SL_ELIMIT : SL_EINPUT;
    case 429:
        return SL_EBUSY;
    case 503:
        return SL_ERETRY;
    default:
        return SL_ENOMEM;
    }
}

static struct client_request *request_new(struct sl_client *c, const struct sl_api_msg *m)
{
    struct client_request *r = calloc(1, sizeof(*r));
    if (!r) return NULL;
    *r = (struct client_request){
        .client = c, .id = m->id, .want_logprobs = m->generate.want_logprobs};
    sl_buf_init(&r->content, MESSAGE_OUT_MAX);
    sl_buf_init(&r->reasoning, MESSAGE_OUT_MAX);
    sl_buf_init(&r->calls, MESSAGE_OUT_MAX);
    sl_buf_init(&r->texts, MESSAGE_OUT_MAX);
    return r;
}

static void generate(struct sl_client *c, const struct sl_api_msg *m)
{
    struct sl_submit s = {0};
    struct sl_ids ids = {0};
    struct sl_api_error e;
    struct sl_err err = {0};
    if (m->id == 0 || sl_map_get(&c->requests, m->id)) {
        sl_client_error(c, m->id, SL_EINPUT,
                        "this id is 0 or in use on this connection; choose another one");
        return;
    }
    if (c->requests.len >= SL_CLIENT_REQUESTS_MAX) {
        sl_client_error(c, m->id, SL_EBUSY,
                        "too many requests are under way on this connection; wait for some to end");
        return;
    }
    struct client_request *r = request_new(c, m);
    int rc = r ? fill_submit(r, &m->generate, &ids, &s, &e) : sl_api_from_code(&e, SL_ENOMEM, NULL);
    if (rc) {
        free(ids.data);
        if (r) request_free(r);
        sl_client_error(c, m->id, code_of(&e), e.message);
        return;
    }
    r->prompt_tokens = (uint32_t)s.n_tokens;
    sl_track_start(&r->track, sl_env_now_ns());
    rc = sl_map_put(&c->requests, r->id, r);
    if (!rc && (rc = sl_service_submit(c->service, &s, on_reply, r, &r->service_id, &err)))
        sl_map_remove(&c->requests, r->id);
    free(ids.data);
    if (rc) {
        request_free(r);
        c->metrics->refused++;
        sl_client_error(c, m->id, rc, err.msg);
    }
}

static void cancel(struct sl_client *c, uint64_t id)
{
    static const struct sl_timings none;
    struct client_request *r = sl_map_remove(&c->requests, id);
    if (!r) return; /* it has just ended: the client finds Done or Error on its way */
    sl_service_cancel(c->service, r->service_id);
    sl_track_cancel(c->metrics, &r->track);
    send_done(r, "cancelled", &none);
    request_free(r);
}

/* ---- messages -------------------------------------------------------------------------------- */

static void hello(struct sl_client *c, const struct sl_api_msg *m)
{
    if (m->hello.version != SL_API_VERSION) {
        char text[128];
        snprintf(text, sizeof(text),
                 "this server speaks version %d of the socket API, you %u; update the older side",
                 SL_API_VERSION, m->hello.version);
        sl_client_error(c, m->id, SL_EPROTO, text);
        c->drop(c, "another version");
    } else if (!sl_keys_check(c->keys, m->hello.key, strlen(m->hello.key))) {
        c->metrics->unauthorised++;
        sl_client_error(c, m->id, SL_EAUTH,
                        "no valid API key; give one of the keys of the server's key file");
        c->drop(c, "no valid key");
    } else {
        struct sl_api_msg answer = {.kind = SL_API_HELLO, .id = m->id};
        c->greeted = 1;
        answer.hello = (struct sl_api_hello){SL_API_VERSION, "", "sluice " SLUICE_VERSION,
                                             sl_service_model_name(c->service)};
        send_msg(c, &answer);
    }
}

static void document(struct sl_client *c, const struct sl_api_msg *m)
{
    json_t *o = sl_service_cluster_json(c->service);
    json_t *plan = m->kind == SL_API_PLAN ? json_object_get(o, "plan") : o;
    char *text = json_dumps(plan ? plan : json_null(), JSON_COMPACT | JSON_ENCODE_ANY);
    struct sl_api_msg answer = {.kind = m->kind, .id = m->id};
    answer.document.json = text;
    send_msg(c, &answer);
    free(text);
    json_decref(o);
}

void sl_client_message(struct sl_client *c, const struct sl_api_msg *m)
{
    if (c->dead) return;
    if (!c->greeted && m->kind != SL_API_HELLO) {
        sl_client_error(c, m->id, SL_EPROTO, "the first message must be Hello");
        c->drop(c, "no Hello");
        return;
    }
    switch (m->kind) {
    case SL_API_HELLO:
        hello(c, m);
        break;
    case SL_API_GENERATE:
        generate(c, m);
        break;
    case SL_API_CANCEL:
        cancel(c, m->id);
        break;
    case SL_API_STATUS:
    case SL_API_PLAN:
        document(c, m);
        break;
    default:
        sl_client_error(c, m->id, SL_EPROTO, "a client does not send this kind of message");
        c->drop(c, "a server's message");
    }
}

void sl_client_close(struct sl_client *c)
{
    uint64_t id;
    size_t pos;
    struct client_request *r;
    c->dead = 1;
    while (pos = 0, (r = sl_map_next(&c->requests, &pos, &id))) {
        sl_map_remove(&c->requests, id);
        sl_service_cancel(c->service, r->service_id);
        sl_track_cancel(c->metrics, &r->track);
        request_free(r);
    }
    sl_map_close(&c->requests);
    sl_map_init(&c->requests);
}
