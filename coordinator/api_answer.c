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
    return json_pack("{s:s,s:s,s:I,s:o,s:s,s:o}", "id", r->id, "object", object, "created",
                     (json_int_t)r->created_s, "model",
                     sl_api_text(sl_service_model_name(sl_http_api(r->c)->service),
                                 strlen(sl_service_model_name(sl_http_api(r->c)->service))),
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

json_t *sl_answer_chunk(const struct sl_choice *ch, const char *text, size_t n, json_t *logprobs,
                        const char *finish, int first)
{
    const struct sl_run *r = ch->run;
    json_t *choice = json_pack("{s:i,s:o,s:s?}", "index", ch->index, "logprobs",
                               wrap_logprobs(r, logprobs), "finish_reason", finish);
    json_t *t = sl_api_text(text, n);
    if (r->chat) {
        json_t *delta = json_object();
        if (first) json_object_set_new(delta, "role", json_string("assistant"));
        if (first || n || !finish) json_object_set(delta, "content", t);
        json_object_set_new(choice, "delta", delta);
    } else {
        json_object_set(choice, "text", t);
    }
    json_decref(t);
    json_t *o = choice ? envelope(r, chunk_object(r), json_pack("[o]", choice)) : NULL;
    if (o && r->req.include_usage) json_object_set_new(o, "usage", json_null());
    return o;
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
        json_t *text = sl_api_text(ch->text.data, ch->text.len);
        json_t *lp = wrap_logprobs(r, ch->logprobs ? json_incref(ch->logprobs) : NULL);
        json_t *c =
            json_pack("{s:i,s:o,s:s}", "index", i, "logprobs", lp, "finish_reason", ch->finish);
        if (r->chat)
            json_object_set_new(
                c, "message",
                json_pack("{s:s,s:o,s:n}", "role", "assistant", "content", text, "refusal"));
        else
            json_object_set_new(c, "text", text);
        if (!c || json_array_append_new(choices, c)) {
            json_decref(choices);
            return NULL;
        }
    }
    json_t *o = envelope(r, r->chat ? "chat.completion" : "text_completion", choices);
    if (o) json_object_set_new(o, "usage", usage(r));
    return o;
}
