/* api_answer.c - answers of the generation endpoints as JSON: whole, in chunks, log-probabilities,
 * usage. */
#include <math.h>
#include <string.h>

#include "coordinator/api_run.h"

#define LOGPROB_MIN -9999.0 /* JSON has no infinity; OpenAI writes this */

static json_t *logprob(float v)
{
    return json_real(isfinite(v) && v > LOGPROB_MIN ? (double)v : LOGPROB_MIN);
}

/* ---- log-probabilities ----------------------------------------------------------------------- */

json_t *sl_answer_logprobs_new(const struct sl_run *r)
{
    if (r->chat) return json_array();
    return json_pack("{s:[],s:[],s:[],s:[]}", "tokens", "token_logprobs", "top_logprobs",
                     "text_offset");
}

static json_t *chat_entry(struct sl_service *s, int32_t token, float lp)
{
    size_t n = 0;
    const char *piece = sl_tokenizer_piece(sl_service_tokenizer(s), token, &n);
    json_t *bytes = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(bytes, json_integer((unsigned char)piece[i]));
    return json_pack("{s:o,s:o,s:o}", "token", sl_api_text(piece, n), "logprob", logprob(lp),
                     "bytes", bytes);
}

static int add_chat(struct sl_service *s, const struct sl_sampled *v, json_t *into)
{
    json_t *entry = chat_entry(s, v->token, v->logprob), *top = json_array();
    for (int i = 0; i < v->n_top; i++)
        json_array_append_new(top, chat_entry(s, v->top[i].token, v->top[i].logprob));
    if (!entry || json_object_set_new(entry, "top_logprobs", top)) return SL_ENOMEM;
    return json_array_append_new(into, entry) ? SL_ENOMEM : 0;
}

/* One row of the four arrays of a completion; `top` is taken over. */
static int add_row(json_t *into, json_t *token, json_t *lp, json_t *top, size_t offset)
{
    int rc = json_array_append_new(json_object_get(into, "tokens"), token);
    rc |= json_array_append_new(json_object_get(into, "token_logprobs"), lp);
    rc |= json_array_append_new(json_object_get(into, "top_logprobs"), top);
    rc |= json_array_append_new(json_object_get(into, "text_offset"),
                                json_integer((json_int_t)offset));
    return rc ? SL_ENOMEM : 0;
}

static int add_completion(struct sl_service *s, const struct sl_sampled *v, size_t offset,
                          json_t *into)
{
    json_t *top = v->n_top ? json_object() : json_null();
    for (int i = 0; i < v->n_top; i++) {
        json_t *piece = sl_api_piece(s, v->top[i].token);
        if (piece &&
            !json_object_get(
                top, json_string_value(piece))) /* two tokens may read the same once scrubbed */
            json_object_set_new(top, json_string_value(piece), logprob(v->top[i].logprob));
        json_decref(piece);
    }
    return add_row(into, sl_api_piece(s, v->token), logprob(v->logprob), top, offset);
}

int sl_answer_logprob(struct sl_choice *ch, const struct sl_sampled *s, size_t text_chars,
                      json_t *into)
{
    struct sl_service *service = sl_http_api(ch->run->c)->service;
    size_t offset = ch->offset;
    ch->offset += text_chars;
    return ch->run->chat ? add_chat(service, s, into) : add_completion(service, s, offset, into);
}

int sl_answer_prompt_logprobs(struct sl_choice *ch, json_t *into)
{
    struct sl_service *s = sl_http_api(ch->run->c)->service;
    for (size_t i = 0; i < ch->prompt->len; i++) {
        /* The first token has nothing before it; alternatives are not computed for prompts. */
        json_t *lp = i ? logprob(ch->prompt_logprobs[i]) : json_null();
        json_t *piece = sl_api_piece(s, ch->prompt->data[i]);
        size_t n = 0;
        for (const char *p = piece ? json_string_value(piece) : ""; *p; p++)
            n += ((unsigned char)*p & 0xc0) != 0x80;
        int rc = add_row(into, piece, lp, json_null(), ch->offset);
        if (rc) return rc;
        ch->offset += n;
    }
    return 0;
}

/* ---- chunks and answers ---------------------------------------------------------------------- */

static json_t *envelope(const struct sl_run *r, const char *object, json_t *choices)
{
    const struct sl_service *s = sl_http_api(r->c)->service;
    const char *name =
        sl_service_find_adapter(s, r->req.model) ? r->req.model : sl_service_model_name(s);
    return json_pack("{s:s,s:s,s:I,s:o,s:s,s:o}", "id", r->id, "object", object, "created",
                     (json_int_t)r->created_s, "model", sl_api_text(name, strlen(name)),
                     "system_fingerprint", "sluice-" SLUICE_VERSION, "choices", choices);
}

static json_t *usage(const struct sl_run *r)
{
    size_t prompt = 0, answer = 0;
    for (int i = 0; i < r->req.n_prompts; i++) prompt += r->prompts[i].len;
    for (int i = 0; i < r->n_choices; i++) answer += (size_t)r->choices[i].completion_tokens;
    return json_pack("{s:I,s:I,s:I}", "prompt_tokens", (json_int_t)prompt, "completion_tokens",
                     (json_int_t)answer, "total_tokens", (json_int_t)(prompt + answer));
}

static const char *chunk_object(const struct sl_run *r)
{
    return r->chat ? "chat.completion.chunk" : "text_completion";
}

/* chat: {"content": [...]}; completions: the arrays; null when there is none. Takes lp over. */
static json_t *wrap_logprobs(const struct sl_run *r, json_t *lp)
{
    if (!lp) return json_null();
    return r->chat ? json_pack("{s:o,s:n}", "content", lp, "refusal") : lp;
}

/* Puts a choice into a chunk; the choice is taken over. */
static json_t *chunk(const struct sl_run *r, json_t *choice)
{
    json_t *o = choice ? envelope(r, chunk_object(r), json_pack("[o]", choice)) : NULL;
    if (o && r->req.include_usage) json_object_set_new(o, "usage", json_null());
    return o;
}

static json_t *chunk_choice(const struct sl_choice *ch, json_t *logprobs, const char *finish)
{
    return json_pack("{s:i,s:o,s:s?}", "index", ch->index, "logprobs",
                     wrap_logprobs(ch->run, logprobs), "finish_reason", finish);
}

json_t *sl_answer_delta_chunk(const struct sl_choice *ch, json_t *delta, json_t *logprobs,
                              const char *finish)
{
    json_t *choice = chunk_choice(ch, logprobs, finish);
    json_object_set_new(choice, "delta", delta);
    return chunk(ch->run, choice);
}

json_t *sl_answer_chunk(const struct sl_choice *ch, const char *text, size_t n, json_t *logprobs,
                        const char *finish, int first)
{
    json_t *t = sl_api_text(text, n);
    if (ch->run->chat) {
        json_t *delta = json_object();
        if (first) json_object_set_new(delta, "role", json_string("assistant"));
        if (first || n || !finish) json_object_set(delta, "content", t);
        json_decref(t);
        return sl_answer_delta_chunk(ch, delta, logprobs, finish);
    }
    json_t *choice = chunk_choice(ch, logprobs, finish);
    json_object_set_new(choice, "text", t);
    return chunk(ch->run, choice);
}

/* ---- answers taken apart -----------------------------------------------------------------------
 */

/* Clients know it by two names. */
static void set_reasoning(json_t *o, json_t *text)
{
    json_object_set(o, "reasoning_content", text);
    json_object_set_new(o, "reasoning", text);
}

static json_t *event_delta(const struct sl_answer_event *ev)
{
    json_t *delta = json_object(), *text;
    switch (ev->kind) {
    case SL_ANSWER_CONTENT:
        json_object_set_new(delta, "content", sl_api_text(ev->text, ev->n));
        break;
    case SL_ANSWER_REASONING:
        set_reasoning(delta, sl_api_text(ev->text, ev->n));
        break;
    case SL_ANSWER_CALL:
        json_object_set_new(delta, "tool_calls",
                            json_pack("[{s:i,s:s,s:s,s:{s:o,s:s}}]", "index", ev->index, "id",
                                      ev->id, "type", "function", "function", "name",
                                      sl_api_text(ev->name, strlen(ev->name)), "arguments", ""));
        break;
    default:
        text = sl_api_text(ev->text, ev->n);
        json_object_set_new(
            delta, "tool_calls",
            json_pack("[{s:i,s:{s:o}}]", "index", ev->index, "function", "arguments", text));
        break;
    }
    return delta;
}

/* To the message of an answer that is sent whole. */
static int add_whole(struct sl_choice *ch, const struct sl_answer_event *ev)
{
    switch (ev->kind) {
    case SL_ANSWER_CONTENT:
        return sl_buf_add(&ch->text, ev->text, ev->n);
    case SL_ANSWER_REASONING:
        return sl_buf_add(&ch->reasoning, ev->text, ev->n);
    case SL_ANSWER_CALL:
        if (!ch->calls && !(ch->calls = json_array())) return SL_ENOMEM;
        return json_array_append_new(ch->calls, json_pack("{s:s,s:s,s:{s:o,s:s}}", "id", ev->id,
                                                          "type", "function", "function", "name",
                                                          sl_api_text(ev->name, strlen(ev->name)),
                                                          "arguments", ""))
                   ? SL_ENOMEM
                   : 0;
    default: { /* arguments come in one piece */
        json_t *f = json_object_get(json_array_get(ch->calls, (size_t)ev->index), "function");
        return json_object_set_new(f, "arguments", sl_api_text(ev->text, ev->n)) ? SL_ENOMEM : 0;
    }
    }
}

int sl_answer_event_add(struct sl_choice *ch, const struct sl_answer_event *ev)
{
    const struct sl_run *r = ch->run;
    if (ev->kind == SL_ANSWER_CALL_END) return 0;
    if (ev->kind == SL_ANSWER_REASONING && !r->req.tools.include_reasoning) return 0;
    if (!r->req.stream) return add_whole(ch, ev);
    if (!ch->deltas && !(ch->deltas = json_array())) return SL_ENOMEM;
    return json_array_append_new(ch->deltas, event_delta(ev)) ? SL_ENOMEM : 0;
}

/* Empty text beside calls or reasoning is no text. */
static json_t *message(const struct sl_choice *ch)
{
    int other = ch->calls || ch->reasoning.len;
    json_t *text = other && !ch->text.len ? json_null() : sl_api_text(ch->text.data, ch->text.len);
    json_t *m = json_pack("{s:s,s:o,s:n}", "role", "assistant", "content", text, "refusal");
    if (ch->reasoning.len) set_reasoning(m, sl_api_text(ch->reasoning.data, ch->reasoning.len));
    if (ch->calls) json_object_set(m, "tool_calls", ch->calls);
    return m;
}

json_t *sl_answer_usage_chunk(const struct sl_run *r)
{
    json_t *o = envelope(r, chunk_object(r), json_array());
    if (o) json_object_set_new(o, "usage", usage(r));
    return o;
}

json_t *sl_answer_whole(struct sl_run *r)
{
    json_t *choices = json_array();
    for (int i = 0; i < r->n_choices; i++) {
        struct sl_choice *ch = &r->choices[i];
        json_t *lp = wrap_logprobs(r, ch->logprobs ? json_incref(ch->logprobs) : NULL);
        json_t *c =
            json_pack("{s:i,s:o,s:s}", "index", i, "logprobs", lp, "finish_reason", ch->finish);
        if (r->chat)
            json_object_set_new(c, "message", message(ch));
        else
            json_object_set_new(c, "text", sl_api_text(ch->text.data, ch->text.len));
        if (!c || json_array_append_new(choices, c)) {
            json_decref(choices);
            return NULL;
        }
    }
    json_t *o = envelope(r, r->chat ? "chat.completion" : "text_completion", choices);
    if (o) json_object_set_new(o, "usage", usage(r));
    return o;
}
