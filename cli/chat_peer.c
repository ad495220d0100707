/* chat_peer.c - see chat_peer.h. */
#include "cli/chat_peer.h"

#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "client/sluice_client.h"
#include "cli/session.h"
#include "model/chat.h"

#define PROMPT_MAX (64u << 20) /* bytes of a rendered conversation */

struct sl_chat_peer {
    const struct sl_generate_options *g;
    struct sluice_client *client; /* NULL: the session below */
    struct sl_session session;
};

int sl_chat_peer_connect(const char *address, const char *key, const struct sl_generate_options *g, struct sl_chat_peer **out,
                         struct sl_err *err)
{
    char why[256] = "";
    struct sl_chat_peer *p = calloc(1, sizeof *p);
    if (!p) return sl_err_set(err, SL_ENOMEM, "no memory");
    p->g = g;
    p->client = sluice_connect(address, key ? key : sl_env_get("SLUICE_API_KEY"), why, sizeof why);
    if (!p->client) {
        free(p);
        return sl_err_set(err, SL_EUNREACHABLE, "%s", why);
    }
    *out = p;
    return 0;
}

int sl_chat_peer_start(const struct sl_session_options *o, const char *yaml, const struct sl_generate_options *g,
                       struct sl_chat_peer **out, struct sl_err *err)
{
    struct sl_cluster cluster;
    struct sl_chat_peer *p = calloc(1, sizeof *p);
    if (!p) return sl_err_set(err, SL_ENOMEM, "no memory");
    p->g = g;
    int r = sl_session_cluster(o, yaml, &cluster, err);
    if (r == 0) r = sl_session_open(&p->session, &cluster, err);
    if (r == 0 && !sl_service_template(p->session.service)) {
        sl_session_close(&p->session, 1);
        r = sl_err_set(err, SL_EUNSUPPORTED, "the model has no chat template; use `sluice run`");
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
    if (p->client)
        sluice_close(p->client);
    else
        sl_session_close(&p->session, 1);
    free(p);
}

/* ---- in this process -------------------------------------------------------------------------------------------- */

struct local_answer {
    struct sl_chat_peer *peer;
    sl_chat_text_fn fn;
    void *arg;
    uint64_t id;
    int ended;
    struct sl_err err;
};

static void on_reply(void *arg, const struct sl_effect *fx)
{
    struct local_answer *a = arg;
    const char *text = fx->kind == SL_FX_TOKEN ? fx->token.text : fx->kind == SL_FX_DONE ? fx->done.text : NULL;
    size_t n = fx->kind == SL_FX_TOKEN ? fx->token.text_len : fx->kind == SL_FX_DONE ? fx->done.text_len : 0;
    int stop = n && a->fn(a->arg, text, n);
    if (fx->kind == SL_FX_FAIL) sl_err_set(&a->err, fx->fail.code, "%s", fx->fail.message);
    if (stop && fx->kind == SL_FX_TOKEN) sl_service_cancel(a->peer->session.service, a->id);
    if (!stop && fx->kind != SL_FX_DONE && fx->kind != SL_FX_FAIL) return;
    a->ended = 1;
    uv_stop(&a->peer->session.loop);
}

static int ask_local(struct sl_chat_peer *p, const json_t *messages, sl_chat_text_fn fn, void *arg, struct sl_err *err)
{
    const struct sl_service *s = p->session.service;
    struct sl_ids ids = {0};
    struct sl_buf text;
    sl_buf_init(&text, PROMPT_MAX);
    json_t *req = json_pack("{s:O}", "messages", (json_t *)(uintptr_t)messages);
    int r = sl_chat_prompt(sl_service_template(s), sl_service_weights(s), req, &text, err);
    if (r == 0) r = sl_tokenizer_encode(sl_service_tokenizer(s), sl_buf_str(&text), text.len, SL_TOK_SPECIAL, &ids, err);
    json_decref(req);
    sl_buf_close(&text);
    struct local_answer a = {.peer = p, .fn = fn, .arg = arg};
    struct sl_submit submit = {.tokens = ids.data, .n_tokens = (int)ids.len};
    sl_generate_fill(p->g, &submit);
    if (r == 0) r = sl_service_submit(p->session.service, &submit, on_reply, &a, &a.id, err);
    while (r == 0 && !a.ended) uv_run(&p->session.loop, UV_RUN_DEFAULT);
    free(ids.data);
    if (r == 0 && a.err.code) {
        *err = a.err;
        r = a.err.code;
    }
    return r;
}
