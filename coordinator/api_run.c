/* api_run.c - submits the choices of a request, takes the service's replies, ends with an answer.
 */
#include "coordinator/api_run.h"

#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/text.h"
#include "coordinator/http.h"

/* ---- life ------------------------------------------------------------------------------------ */

struct sl_run *sl_run_new(struct sl_http_conn *c, struct sl_api_request *req, int chat)
{
    struct sl_run *r = calloc(1, sizeof(*r));
    uint64_t rnd[2];
    int prompts = chat ? 1 : req->n_prompts;
    if (r) {
        r->req = *req;
        r->prompts = calloc((size_t)prompts, sizeof(*r->prompts));
        r->texts = calloc((size_t)prompts, sizeof(*r->texts));
        r->choices = calloc((size_t)(prompts * req->n), sizeof(*r->choices));
    }
    if (!r || !r->prompts || !r->texts || !r->choices) {
        sl_api_request_close(r ? &r->req : req);
        if (r) free(r->prompts), free(r->texts), free(r->choices);
        free(r);
        return NULL;
    }
    r->c = c;
    r->chat = chat;
    r->req.n_prompts = prompts;
    r->n_choices = prompts * req->n;
    r->created_s = sl_env_wall_ms() / 1000;
    sl_env_random(rnd, sizeof(rnd));
    snprintf(r->id, sizeof(r->id), "%s-%016llx%08llx", chat ? "chatcmpl" : "cmpl",
             (unsigned long long)rnd[0], (unsigned long long)(rnd[1] & 0xffffffffu));
    for (int i = 0; i < prompts; i++) sl_buf_init(&r->texts[i], SL_HTTP_REPLY_MAX);
    for (int i = 0; i < r->n_choices; i++) {
        struct sl_choice *ch = &r->choices[i];
        ch->run = r;
        ch->index = i;
        ch->prompt = &r->prompts[i / req->n];
        sl_buf_init(&ch->text, SL_HTTP_REPLY_MAX);
        sl_buf_init(&ch->reasoning, SL_HTTP_REPLY_MAX);
    }
    return r;
}

void sl_run_free(struct sl_run *r)
{
    for (int i = 0; i < r->n_choices; i++) {
        sl_buf_close(&r->choices[i].text);
        sl_buf_close(&r->choices[i].reasoning);
        sl_answer_close(r->choices[i].answer);
        json_decref(r->choices[i].calls);
        json_decref(r->choices[i].deltas);
        free(r->choices[i].prompt_logprobs);
        json_decref(r->choices[i].logprobs);
    }
    for (int i = 0; i < r->req.n_prompts; i++) {
        free(r->prompts[i].data);
        sl_buf_close(&r->texts[i]);
    }
    free(r->prompts);
    free(r->texts);
    free(r->choices);
    sl_api_request_close(&r->req);
    free(r);
}

static void cancel_all(struct sl_run *r)
{
    struct sl_http_api *api = sl_http_api(r->c);
    for (int i = 0; i < r->n_choices; i++) {
        struct sl_choice *ch = &r->choices[i];
        if (!ch->id) continue;
        sl_service_cancel(api->service, ch->id);
        sl_track_cancel(api->metrics, &ch->track);
        ch->id = 0;
    }
}

static void on_gone(void *arg)
{
    struct sl_run *r = arg;
    cancel_all(r);
    if (r->starting)
        r->failed = 1, r->c = NULL;
    else
        sl_run_free(r);
}

/* ---- the end --------------------------------------------------------------------------------- */

void sl_run_fail(struct sl_run *r, const struct sl_api_error *e)
{
    struct sl_api_error copy = *e;
    struct sl_http_conn *c = r->c;
    cancel_all(r);
    sl_http_on_gone(c, NULL, NULL);
    sl_run_free(r);
    if (!c->streaming) {
        sl_http_reply_error(c, &copy);
    } else if (sl_http_stream_json(c, sl_api_error_json(&copy)) == 0) {
        sl_http_stream_end(c, 0);
    }
}

static void finish_run(struct sl_run *r)
{
    struct sl_http_conn *c = r->c;
    if (!r->req.stream) {
        json_t *whole = sl_answer_whole(r);
        sl_http_on_gone(c, NULL, NULL);
        sl_run_free(r);
        sl_http_reply_json(c, 200, whole);
        return;
    }
    if (r->req.include_usage && sl_http_stream_json(c, sl_answer_usage_chunk(r)))
        return; /* dropped: the run is gone */
    sl_http_on_gone(c, NULL, NULL);
    sl_run_free(r);
    sl_http_stream_end(c, 1);
}

/* What a reply may have brought about; the run may be gone afterwards. */
static void settle(struct sl_run *r)
{
    if (r->starting) return;
    if (r->failed) {
        struct sl_api_error e = r->error;
        sl_run_fail(r, &e);
    } else if (r->left == 0) {
        finish_run(r);
    }
}

static void fail_later(struct sl_run *r, int code, const char *message)
{
    if (!r->failed) sl_api_from_code(&r->error, code, message);
    r->failed = 1;
}

/* ---- replies --------------------------------------------------------------------------------- */

static size_t chars(const char *s, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((unsigned char)s[i] & 0xc0) != 0x80;
    return count;
}

/* Sends what the parser told; the first chunk has the log-probabilities, the last one the reason.
 * As add_text. */
static int send_deltas(struct sl_choice *ch, json_t *lp, const char *finish)
{
    json_t *deltas = ch->deltas;
    size_t n = json_array_size(deltas);
    if (n == 0 && !lp && !finish) return 0;
    ch->deltas = NULL; /* ch is gone when the client is */
    int rc = 0;
    for (size_t i = 0; rc == 0 && (i < n || (i == 0 && (lp || finish))); i++) {
        json_t *delta = i < n ? json_incref(json_array_get(deltas, i)) : json_object();
        rc = sl_http_stream_json(ch->run->c,
                                 sl_answer_delta_chunk(ch, delta, lp, i + 1 >= n ? finish : NULL));
        lp = NULL;
    }
    json_decref(deltas);
    return rc;
}

/* add_text for an answer that is taken apart; lp is taken over. */
static int add_parsed(struct sl_choice *ch, const char *text, size_t n, json_t *lp,
                      const char *finish)
{
    struct sl_run *r = ch->run;
    int rc = sl_answer_push(ch->answer, text, n);
    if (!rc && finish) rc = sl_answer_finish(ch->answer);
    if (rc) {
        json_decref(lp);
        fail_later(r, rc, "the answer grew too large");
        return 0;
    }
    if (finish && strcmp(finish, "stop") == 0 && sl_answer_calls(ch->answer))
        ch->finish = finish = "tool_calls";
    if (r->req.stream) return send_deltas(ch, lp, finish);
    json_decref(lp);
    return 0;
}

/* Adds text, and a token's log-probabilities when s is given. 0, or SL_ECLOSED: the run is gone; or
 * the run has failed. */
static int add_text(struct sl_choice *ch, const char *text, size_t n, const struct sl_sampled *s,
                    const char *finish)
{
    struct sl_run *r = ch->run;
    json_t *lp = NULL;
    if (s && r->req.logprobs) {
        lp = r->req.stream ? sl_answer_logprobs_new(r) : json_incref(ch->logprobs);
        if (!lp || sl_answer_logprob(ch, s, chars(text, n), lp)) {
            json_decref(lp);
            fail_later(r, SL_ENOMEM, NULL);
            return 0;
        }
    }
    if (ch->answer) return add_parsed(ch, text, n, lp, finish);
    if (r->req.stream)
        return n || lp || finish
                   ? sl_http_stream_json(r->c, sl_answer_chunk(ch, text, n, lp, finish, 0))
                   : 0;
    json_decref(lp);
    int rc = sl_buf_add(&ch->text, text, n);
    if (rc) fail_later(r, rc, "the answer grew too large");
    return 0;
}

static int submit(struct sl_choice *ch);

static void on_scored(struct sl_choice *ch, const struct sl_scored *v)
{
    for (int i = 0; i < v->n && v->logprobs; i++) {
        int64_t pos = (int64_t)v->pos + 1 + i; /* row i tells about the token after it */
        if (pos > 0 && pos < (int64_t)ch->prompt->len) ch->prompt_logprobs[pos] = v->logprobs[i];
    }
}

/* The prompt that is echoed, with its log-probabilities when they were asked for. As add_text. */
static int add_echo(struct sl_choice *ch)
{
    struct sl_run *r = ch->run;
    json_t *lp = NULL;
    if (r->req.logprobs) {
        lp = r->req.stream ? sl_answer_logprobs_new(r) : json_incref(ch->logprobs);
        if (!lp || sl_answer_prompt_logprobs(ch, lp)) {
            json_decref(lp);
            fail_later(r, SL_ENOMEM, NULL);
            return 0;
        }
    }
    if (r->req.stream)
        return sl_http_stream_json(
            r->c, sl_answer_chunk(ch, ch->prompt_text, ch->prompt_text_len, lp, NULL, 0));
    json_decref(lp);
    return add_text(ch, ch->prompt_text, ch->prompt_text_len, NULL, NULL);
}

static int end_choice(struct sl_choice *ch, const char *finish, const char *text, size_t n)
{
    ch->finish = finish;
    ch->id = 0;
    ch->run->left--;
    return add_text(ch, text, n, NULL, finish);
}

/* One call was all the client wants: the model need not go on. */
static int end_after_call(struct sl_choice *ch)
{
    struct sl_http_api *api = sl_http_api(ch->run->c);
    if (!ch->answer || !ch->run->req.tools.one || !sl_answer_calls(ch->answer) || !ch->id) return 0;
    sl_service_cancel(api->service, ch->id);
    sl_track_cancel(api->metrics, &ch->track);
    return end_choice(ch, "stop", "", 0);
}

/* The prompt is scored: show it, then generate when there is something to generate. */
static int after_score(struct sl_choice *ch)
{
    struct sl_run *r = ch->run;
    ch->id = 0;
    ch->scoring = 0;
    if (add_echo(ch)) return SL_ECLOSED;
    if (r->failed) return 0;
    return r->req.max_tokens == 0 ? end_choice(ch, "length", "", 0) : submit(ch);
}

static void on_reply(void *arg, const struct sl_effect *fx)
{
    struct sl_choice *ch = arg;
    struct sl_run *r = ch->run;
    int rc = 0;
    if (!ch->scoring || fx->kind == SL_FX_FAIL)
        sl_track_reply(sl_http_api(r->c)->metrics, &ch->track, fx, sl_env_now_ns());
    switch (fx->kind) {
    case SL_FX_TOKEN:
        ch->completion_tokens++;
        rc = add_text(ch, fx->token.text, fx->token.text_len, fx->token.sampled, NULL);
        if (rc == 0 && !r->failed) rc = end_after_call(ch);
        break;
    case SL_FX_SCORED:
        on_scored(ch, fx->scored);
        break;
    case SL_FX_DONE:
        rc = ch->scoring ? after_score(ch)
                         : end_choice(ch, fx->done.reason == SL_FINISH_LENGTH ? "length" : "stop",
                                      fx->done.text, fx->done.text_len);
        break;
    case SL_FX_FAIL:
        ch->id = 0;
        fail_later(r, fx->fail.code, fx->fail.message);
        break;
    default:
        break;
    }
    if (rc == 0) settle(r);
}

/* ---- the start ------------------------------------------------------------------------------- */

/* Hands the choice to the service. 0, or an error that is noted in the run; never SL_ECLOSED. */
static int submit(struct sl_choice *ch)
{
    struct sl_run *r = ch->run;
    struct sl_http_api *api = sl_http_api(r->c);
    struct sl_submit s = {.tokens = ch->prompt->data,
                          .n_tokens = (int)ch->prompt->len,
                          .max_tokens = r->req.max_tokens > 0 ? r->req.max_tokens : 0,
                          .sampling = r->req.sampling,
                          .n_stops = r->req.n_stops,
                          .ignore_eos = r->req.ignore_eos,
                          .priority = r->req.priority,
                          .adapter = sl_service_find_adapter(api->service, r->req.model),
                          .score = ch->scoring};
    struct sl_err err = {0};
    memcpy(s.stops, r->req.stops, sizeof(s.stops));
    if (ch->answer) sl_api_show_marks(api->service, &s);
    int k = ch->index % r->req.n; /* several answers to one prompt must differ */
    s.sampling.seed = k ? sl_mix64(r->req.sampling.seed + (uint64_t)k) : r->req.sampling.seed;
    if (!ch->track.submit_ns) sl_track_start(&ch->track, sl_env_now_ns());
    int rc = sl_service_submit(api->service, &s, on_reply, ch, &ch->id, &err);
    if (rc) {
        ch->id = 0;
        api->metrics->refused++;
        fail_later(r, rc, err.msg);
    }
    return 0;
}

/* Fills in what the choice needs and submits it, unless an echo is all that was asked for. */
static void start_choice(struct sl_choice *ch)
{
    struct sl_run *r = ch->run;
    struct sl_buf *text = &r->texts[ch->index / r->req.n];
    ch->prompt_text = sl_buf_str(text);
    ch->prompt_text_len = text->len;
    ch->scoring = r->req.echo && r->req.logprobs;
    if ((r->req.logprobs && !(ch->logprobs = sl_answer_logprobs_new(r))) ||
        (ch->scoring && !(ch->prompt_logprobs = calloc(ch->prompt->len, sizeof(float)))))
        fail_later(r, SL_ENOMEM, NULL);
    else if (ch->scoring || r->req.max_tokens != 0)
        submit(ch);
}

/* The echo of a prompt that is not scored first. As add_text. */
static int start_echo(struct sl_choice *ch)
{
    struct sl_run *r = ch->run;
    if (!r->req.echo || ch->scoring) return 0;
    if (add_echo(ch)) return SL_ECLOSED;
    return r->req.max_tokens == 0 && !r->failed ? end_choice(ch, "length", "", 0) : 0;
}

/* Every choice of a chat stream begins with its role. */
static int open_stream(struct sl_run *r)
{
    sl_http_stream_begin(r->c);
    for (int i = 0; i < r->n_choices && r->chat; i++)
        if (sl_http_stream_json(r->c, sl_answer_chunk(&r->choices[i], "", 0, NULL, NULL, 1)))
            return -1;
    return 0;
}

void sl_run_start(struct sl_run *r)
{
    r->left = r->n_choices;
    r->starting = 1;
    sl_http_on_gone(r->c, on_gone, r);
    for (int i = 0; i < r->n_choices && !r->failed; i++) start_choice(&r->choices[i]);
    /* The head of a stream waits until all choices are accepted, so that a full queue is still a
     * plain 429. */
    int gone = r->req.stream && !r->failed && open_stream(r);
    for (int i = 0; i < r->n_choices && !gone && !r->failed; i++) gone = start_echo(&r->choices[i]);
    r->starting = 0;
    if (!r->c)
        sl_run_free(r); /* the client was dropped meanwhile */
    else
        settle(r);
}
