/* chat_peer.c - see chat_peer.h. */
#include "cli/chat_peer.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "base/text.h"
#include "client/sluice_client.h"
#include "cli/session.h"
#include "coordinator/api_prompt.h"
#include "coordinator/api_tools.h"
#include "model/chat.h"
#include "proto/control.h"

#define PROMPT_MAX (64u << 20) /* bytes of a rendered conversation */

struct sl_chat_peer {
    const struct sl_generate_options *g;
    struct sl_remote *remote; /* NULL: the session below */
    struct sl_session session;
};

int sl_chat_peer_connect(const char *address, const char *key, const struct sl_generate_options *g,
                         struct sl_chat_peer **out, struct sl_err *err)
{
    char why[SL_REMOTE_ERROR_MAX];
    struct sl_chat_peer *p = calloc(1, sizeof *p);
    if (!p) return sl_err_set(err, SL_ENOMEM, "no memory for a conversation");
    p->g = g;
    if (sl_remote_connect(address, key ? key : sl_env_get("SLUICE_API_KEY"), &p->remote, why)) {
        free(p);
        return sl_err_set(err, SL_EUNREACHABLE, "%s", why);
    }
    *out = p;
    return 0;
}

int sl_chat_peer_start(const struct sl_session_options *o, const char *yaml,
                       const struct sl_generate_options *g, struct sl_chat_peer **out,
                       struct sl_err *err)
{
    struct sl_cluster cluster;
    struct sl_chat_peer *p = calloc(1, sizeof *p);
    if (!p) return sl_err_set(err, SL_ENOMEM, "no memory");
    p->g = g;
    int r = sl_session_cluster(o, yaml, &cluster, err);
    if (r == 0) r = sl_session_open(&p->session, &cluster, err);
    if (r == 0 && !sl_service_chat(p->session.service)) {
        sl_session_close(&p->session, 1);
        r = sl_err_set(err, SL_EUNSUPPORTED,
                       "the model has no chat template; give one with --chat-template FILE, or use "
                       "`sluice run`");
    }
    if (r) {
        free(p);
        return r;
    }
    *out = p;
    return 0;
}

void sl_chat_peer_close(struct sl_chat_peer *p)
{
    if (!p) return;
    if (p->remote)
        sl_remote_close(p->remote);
    else
        sl_session_close(&p->session, 1);
    free(p);
}

/* ---- in this process ------------------------------------------------------------------------- */

struct local_answer {
    struct sl_chat_peer *peer;
    sl_chat_text_fn fn;
    void *arg;
    struct sl_answer *parser; /* NULL: the text is the answer */
    uint64_t id;
    int ended, stop;
    struct sl_err err;
};

static int on_event(void *arg, const struct sl_answer_event *ev)
{
    struct local_answer *a = arg;
    if (ev->kind != SL_ANSWER_CONTENT && ev->kind != SL_ANSWER_REASONING) return 0;
    if (!a->stop)
        a->stop = a->fn(a->arg, ev->kind == SL_ANSWER_CONTENT ? SL_CHAT_TEXT : SL_CHAT_REASONING,
                        ev->text, ev->n);
    return 0;
}

/* More text, and the end when `last`. */
static void add_text(struct local_answer *a, const char *text, size_t n, int last)
{
    if (!a->parser) {
        if (n && !a->stop) a->stop = a->fn(a->arg, SL_CHAT_TEXT, text, n);
        return;
    }
    int rc = sl_answer_push(a->parser, text, n);
    if (rc == 0 && last) rc = sl_answer_finish(a->parser);
    if (rc) {
        sl_err_set(&a->err, rc, "the answer grew too large");
        a->stop = 1;
    }
}

static void on_reply(void *arg, const struct sl_effect *fx)
{
    struct local_answer *a = arg;
    if (fx->kind == SL_FX_TOKEN) add_text(a, fx->token.text, fx->token.text_len, 0);
    if (fx->kind == SL_FX_DONE) add_text(a, fx->done.text, fx->done.text_len, 1);
    if (fx->kind == SL_FX_FAIL) sl_err_set(&a->err, fx->fail.code, "%s", fx->fail.message);
    if (a->stop && fx->kind == SL_FX_TOKEN) sl_service_cancel(a->peer->session.service, a->id);
    if (!a->stop && fx->kind != SL_FX_DONE && fx->kind != SL_FX_FAIL) return;
    a->ended = 1;
    uv_stop(&a->peer->session.loop);
}

/* The prompt's ids, and the parser of its answer. */
static int prepare(struct sl_service *s, const json_t *messages, struct local_answer *a,
                   struct sl_ids *ids, struct sl_submit *submit, struct sl_err *err)
{
    static const struct sl_api_tools none = {.include_reasoning = 1};
    struct sl_api_error e = {0};
    struct sl_buf text, forced;
    sl_buf_init(&text, PROMPT_MAX);
    sl_buf_init(&forced, PROMPT_MAX);
    json_t *req = json_pack("{s:O}", "messages", (json_t *)(uintptr_t)messages);
    int r = sl_api_render(s, req, &text, &e);
    if (r == 0) r = sl_api_answer_open(s, req, &none, &text, &forced, on_event, a, &a->parser, &e);
    if (r == 0) r = sl_api_encode_chat(s, sl_buf_str(&text), text.len, ids, &e);
    sl_api_show_marks(s, submit);
    json_decref(req);
    sl_buf_close(&text);
    sl_buf_close(&forced);
    return r ? sl_err_set(err, SL_EINPUT, "%s", e.message) : 0;
}

static int ask_local(struct sl_chat_peer *p, const json_t *messages, sl_chat_text_fn fn, void *arg,
                     struct sl_err *err)
{
    struct sl_ids ids = {0};
    struct local_answer a = {.peer = p, .fn = fn, .arg = arg};
    struct sl_submit submit = {0};
    int r = prepare(p->session.service, messages, &a, &ids, &submit, err);
    submit.tokens = ids.data;
    submit.n_tokens = (int)ids.len;
    sl_generate_fill(p->g, &submit);
    if (r == 0) r = sl_service_submit(p->session.service, &submit, on_reply, &a, &a.id, err);
    while (r == 0 && !a.ended) uv_run(&p->session.loop, UV_RUN_DEFAULT);
    free(ids.data);
    sl_answer_close(a.parser);
    if (r == 0 && a.err.code) {
        *err = a.err;
        r = a.err.code;
    }
    return r;
}

/* ---- over the socket API --------------------------------------------------------------------- */

struct remote_answer {
    sl_chat_text_fn fn;
    void *arg;
};

static int on_token(void *arg, const struct sl_remote_token *t)
{
    struct remote_answer *a = arg;
    int stop =
        t->reasoning_len ? a->fn(a->arg, SL_CHAT_REASONING, t->reasoning, t->reasoning_len) : 0;
    return !stop && t->text_len ? a->fn(a->arg, SL_CHAT_TEXT, t->text, t->text_len) : stop;
}

static int remote_failed(const struct sl_chat_peer *p, int code, struct sl_err *err)
{
    return sl_err_set(err,
                      code == SL_REMOTE_REFUSED ? SL_EINPUT
                      : code == SL_REMOTE_RETRY ? SL_ERETRY
                                                : SL_ECLOSED,
                      "%s", sl_remote_error(p->remote));
}

static int ask_remote(struct sl_chat_peer *p, const json_t *messages, sl_chat_text_fn fn, void *arg,
                      struct sl_err *err)
{
    char *text = json_dumps(messages, JSON_COMPACT);
    if (!text) return sl_err_set(err, SL_ENOMEM, "no memory for the conversation");
    const struct sl_generate_options *g = p->g;
    struct sl_remote_request req;
    sl_remote_request_init(&req);
    req.messages_json = text;
    req.parse = 1;
    req.max_tokens = (uint32_t)g->predict;
    req.temperature = (float)g->temp;
    req.top_k = (int32_t)g->top_k;
    req.top_p = (float)g->top_p;
    req.min_p = (float)g->min_p;
    req.repetition_penalty = (float)g->repeat_penalty;
    req.presence_penalty = (float)g->presence_penalty;
    req.frequency_penalty = (float)g->frequency_penalty;
    req.has_seed = g->seed >= 0;
    req.seed = (uint64_t)g->seed;
    req.ignore_eos = g->ignore_eos;
    struct remote_answer a = {fn, arg};
    int r = sl_remote_generate(p->remote, &req, on_token, &a, NULL);
    free(text);
    return r ? remote_failed(p, r, err) : 0;
}

int sl_chat_peer_ask(struct sl_chat_peer *p, const json_t *messages, sl_chat_text_fn fn, void *arg,
                     struct sl_err *err)
{
    return p->remote ? ask_remote(p, messages, fn, arg, err) : ask_local(p, messages, fn, arg, err);
}

static void on_readable(uv_poll_t *h, int status, int events)
{
    (void)status;
    (void)events;
    *(int *)h->data = 1;
    uv_stop(h->loop);
}

void sl_chat_peer_wait(struct sl_chat_peer *p, int fd)
{
    uv_poll_t poll;
    int readable = 0;
    if (p->remote || uv_poll_init(&p->session.loop, &poll, fd))
        return; /* a plain file can always be read */
    poll.data = &readable;
    int r = uv_poll_start(&poll, UV_READABLE, on_readable);
    while (r == 0 && !readable) uv_run(&p->session.loop, UV_RUN_DEFAULT);
    uv_close((uv_handle_t *)&poll, NULL);
    uv_run(&p->session.loop,
           UV_RUN_NOWAIT); /* the closed handle lives on our stack: let go of it now */
}

/* ---- the stage table ------------------------------------------------------------------------- */

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static double number_of(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

static void print_stage(const json_t *o, FILE *out)
{
    char weights[32], kv[32], sent[32], layers[32];
    const json_t *l = json_object_get(o, "layers"), *link = json_object_get(o, "link_out");
    snprintf(layers, sizeof layers, "%d-%d", (int)json_integer_value(json_array_get(l, 0)),
             (int)json_integer_value(json_array_get(l, 1)) - 1);
    fprintf(out, SL_STAGE_ROW, (int)number_of(o, "stage"), text_of(o, "device"),
            text_of(o, "state"), layers,
            sl_format_bytes((uint64_t)number_of(o, "weight_bytes"), weights),
            sl_format_bytes((uint64_t)number_of(o, "kv_bytes"), kv),
            (unsigned long long)number_of(o, "steps"), 100 * number_of(o, "busy"),
            100 * number_of(o, "bubble"), sl_format_bytes((uint64_t)number_of(link, "bytes"), sent),
            text_of(link, "transport"));
}

int sl_chat_peer_table(struct sl_chat_peer *p, FILE *out, struct sl_err *err)
{
    if (!p->remote) {
        sl_session_settle(&p->session);
        sl_service_print(p->session.service, out);
        return 0;
    }
    usleep(SL_CTL_REPORT_MS * 2000); /* the stages' next heartbeat carries what they did for us */
    char *text;
    int r = sl_remote_status(p->remote, &text);
    if (r) return remote_failed(p, r, err);
    json_t *j = json_loads(text, 0, NULL), *stage;
    free(text);
    size_t i;
    fputs(SL_STAGE_HEAD, out);
    json_array_foreach(json_object_get(j, "stages"), i, stage)
    {
        if (number_of(stage, "stage") >= 0) print_stage(stage, out);
    }
    json_decref(j);
    return 0;
}
