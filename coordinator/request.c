/* request.c - see request.h.
 *
 * Stop strings: text that could still become one is held back. Let "held" be all text not shown
 * yet. It is shown up to the earliest place from which everything that follows is the beginning of
 * a stop string; so a match always lies wholly in held text, and the text before the earliest match
 * is what the user sees. Places are starts of characters: a stop string never cuts one. */
#include "coordinator/request.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "coordinator/blocks.h"

/* ---- checking and making --------------------------------------------------------------------- */

static int check_sampling(const struct sl_sampling *p, int n_vocab, struct sl_err *err)
{
    if (!(p->temperature >= 0) || !isfinite(p->temperature))
        return sl_err_set(err, SL_EINPUT, "temperature must be a number from 0 up");
    if (p->top_k < 0)
        return sl_err_set(err, SL_EINPUT, "top_k is %d; give 0 (all) or more", (int)p->top_k);
    if (!(p->top_p > 0 && p->top_p <= 1))
        return sl_err_set(err, SL_EINPUT, "top_p must be above 0 and at most 1");
    if (!(p->min_p >= 0 && p->min_p <= 1))
        return sl_err_set(err, SL_EINPUT, "min_p must be from 0 to 1");
    if (!(p->repetition_penalty > 0) || !isfinite(p->repetition_penalty))
        return sl_err_set(err, SL_EINPUT, "repetition_penalty must be above 0 (1 = off)");
    if (!isfinite(p->presence_penalty) || !isfinite(p->frequency_penalty))
        return sl_err_set(err, SL_EINPUT, "presence_penalty and frequency_penalty must be numbers");
    if (p->n_top < 0 || p->n_top > SL_TOP_LOGPROBS_MAX)
        return sl_err_set(err, SL_EINPUT, "%d alternatives asked for; at most %d", (int)p->n_top,
                          SL_TOP_LOGPROBS_MAX);
    if (p->n_bias < 0 || p->n_bias > SL_LOGIT_BIAS_MAX)
        return sl_err_set(err, SL_EINPUT, "%d logit biases; at most %d", (int)p->n_bias,
                          SL_LOGIT_BIAS_MAX);
    for (int i = 0; i < p->n_bias; i++) {
        if (p->bias[i].token < 0 || p->bias[i].token >= n_vocab)
            return sl_err_set(err, SL_EINPUT,
                              "logit bias for token %d; the model has tokens 0 to %d",
                              (int)p->bias[i].token, n_vocab - 1);
        if (isnan(p->bias[i].bias))
            return sl_err_set(err, SL_EINPUT, "logit bias of token %d is no number",
                              (int)p->bias[i].token);
    }
    return 0;
}

static int check_stops(const struct sl_submit *s, struct sl_err *err)
{
    if (s->n_stops < 0 || s->n_stops > SL_STOPS_MAX)
        return sl_err_set(err, SL_ELIMIT, "%d stop strings; at most %d", s->n_stops, SL_STOPS_MAX);
    for (int i = 0; i < s->n_stops; i++) {
        size_t n = s->stops[i] ? strlen(s->stops[i]) : 0;
        if (n == 0) return sl_err_set(err, SL_EINPUT, "stop string %d is empty; leave it out", i);
        if (n > SL_STOP_LEN_MAX)
            return sl_err_set(err, SL_ELIMIT, "stop string %d has %zu bytes; at most %d", i, n,
                              SL_STOP_LEN_MAX);
    }
    return 0;
}

int sl_request_check(const struct sl_submit *s, int n_vocab, int n_adapters, int context,
                     struct sl_err *err)
{
    SL_ASSERT(s->id != 0);
    if (s->n_tokens < 1 || !s->tokens)
        return sl_err_set(err, SL_EINPUT, "the prompt is empty; give at least one token");
    if (s->max_tokens < 0)
        return sl_err_set(err, SL_EINPUT, "max_tokens is %d; give 0 (no limit) or more",
                          s->max_tokens);
    if (s->score && s->logits)
        return sl_err_set(err, SL_EINPUT, "score and logits cannot be asked for together");
    int no_answer = s->score || s->logits;
    if (s->n_tokens > context - !no_answer)
        return sl_err_set(err, SL_ELIMIT,
                          "the prompt has %d tokens and the context is %d%s; shorten the prompt or "
                          "raise the context",
                          s->n_tokens, context, no_answer ? "" : " with the answer");
    if (s->adapter < 0 || s->adapter > n_adapters)
        return sl_err_set(err, SL_EINPUT, "adapter %d; %d are loaded", s->adapter, n_adapters);
    for (int i = 0; i < s->n_tokens; i++)
        if (s->tokens[i] < 0 || s->tokens[i] >= n_vocab)
            return sl_err_set(err, SL_EINPUT,
                              "token %d at position %d; the model has tokens 0 to %d",
                              (int)s->tokens[i], i, n_vocab - 1);
    if (s->n_marks < 0 || s->n_marks > SL_MARKS_MAX)
        return sl_err_set(err, SL_ELIMIT, "%d special tokens to be shown; at most %d", s->n_marks,
                          SL_MARKS_MAX);
    int rc = check_sampling(&s->sampling, n_vocab, err);
    return rc ? rc : check_stops(s, err);
}

static int copy_stops(struct sl_request *r, const struct sl_submit *s)
{
    size_t n = 0;
    for (int i = 0; i < s->n_stops; i++) n += strlen(s->stops[i]) + 1;
    if (n == 0) return 0;
    char *p = r->stop_text = malloc(n);
    if (!p) return SL_ENOMEM;
    for (int i = 0; i < s->n_stops; i++) {
        size_t len = strlen(s->stops[i]) + 1;
        memcpy(p, s->stops[i], len);
        r->stops[i] = p;
        p += len;
    }
    r->n_stops = s->n_stops;
    return 0;
}

int sl_request_create(const struct sl_submit *s, int context, int block_tokens, uint64_t now_ns,
                      struct sl_request **out)
{
    struct sl_request *r = calloc(1, sizeof *r);
    if (!r) return SL_ENOMEM;
    r->id = s->id;
    r->sampling = s->sampling;
    r->score = s->score;
    r->logits = s->logits;
    r->ignore_eos = s->ignore_eos;
    r->max_tokens = s->max_tokens;
    r->n_marks = s->n_marks;
    memcpy(r->marks, s->marks, sizeof r->marks);
    r->adapter = s->adapter;
    r->n_prompt = r->n_tokens = s->n_tokens;
    r->seq = -1;
    r->submit_ns = now_ns;
    sl_list_init(&r->link);
    sl_buf_init(&r->text, SL_REQUEST_TEXT_MAX);
    if (s->score || s->logits)
        r->n_limit = s->n_tokens;
    else
        r->n_limit = s->max_tokens == 0 || s->max_tokens > context - s->n_tokens
                         ? context
                         : s->n_tokens + s->max_tokens;
    /* All it will ever need is taken now, so that no step of a running request can fail for want of
     * memory. The pages are touched only as the log grows. */
    r->tokens = malloc(sizeof *r->tokens * (size_t)r->n_limit);
    r->blocks = malloc(sizeof *r->blocks * (size_t)sl_blocks_for(r->n_limit, block_tokens));
    if (!r->tokens || !r->blocks || copy_stops(r, s) != 0) {
        sl_request_destroy(r);
        return SL_ENOMEM;
    }
    memcpy(r->tokens, s->tokens, sizeof *r->tokens * (size_t)s->n_tokens);
    *out = r;
    return 0;
}

void sl_request_destroy(struct sl_request *r)
{
    if (!r) return;
    SL_ASSERT(r->n_blocks == 0);
    free(r->tokens);
    free(r->blocks);
    free(r->stop_text);
    sl_buf_close(&r->text);
    free(r);
}

int sl_request_kv_tokens(const struct sl_request *r)
{
    return r->score || r->logits ? r->n_prompt : r->n_limit - 1;
}

int sl_request_fit(struct sl_request *r, int n_blocks, int block_tokens, struct sl_err *err)
{
    int64_t room = (int64_t)n_blocks * block_tokens;
    if (r->max_tokens == 0 && !r->score && !r->logits && r->n_prompt <= room &&
        r->n_limit - 1 > room)
        r->n_limit = SL_MAX((int)room + 1, r->n_tokens + 1);
    int need = sl_blocks_for(sl_request_kv_tokens(r), block_tokens);
    if (need <= n_blocks) return 0;
    return sl_err_set(err, SL_ELIMIT,
                      "the request needs %d KV blocks (%d prompt tokens and up to %d more, %d "
                      "tokens a block) and the whole cache has %d; "
                      "ask for fewer tokens or give the stages more memory",
                      need, r->n_prompt, r->n_limit - r->n_prompt, block_tokens, n_blocks);
}

/* ---- text ------------------------------------------------------------------------------------ */

static int is_char_start(char c)
{
    return ((unsigned char)c & 0xc0) != 0x80;
}

/* Where the earliest stop string in s[0..n) begins; n when there is none. */
static size_t find_stop(const struct sl_request *r, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!is_char_start(s[i])) continue;
        for (int k = 0; k < r->n_stops; k++) {
            size_t len = strlen(r->stops[k]);
            if (len <= n - i && memcmp(s + i, r->stops[k], len) == 0) return i;
        }
    }
    return n;
}

/* The length of the part of s[0..n) that can be shown: up to the earliest place where a stop string
 * may have begun. */
static size_t showable(const struct sl_request *r, const char *s, size_t n)
{
    for (size_t i = n > SL_STOP_LEN_MAX ? n - SL_STOP_LEN_MAX : 0; i < n; i++) {
        if (!is_char_start(s[i])) continue;
        for (int k = 0; k < r->n_stops; k++)
            if (strlen(r->stops[k]) > n - i && memcmp(s + i, r->stops[k], n - i) == 0) return i;
    }
    return n;
}

static int is_mark(const struct sl_request *r, int32_t token)
{
    for (int i = 0; i < r->n_marks; i++)
        if (r->marks[i] == token) return 1;
    return 0;
}

int sl_request_push(struct sl_request *r, const struct sl_tokenizer *t, int32_t token,
                    struct sl_request_out *out)
{
    SL_ASSERT(r->n_tokens < r->n_limit);
    memset(out, 0, sizeof *out);
    r->tokens[r->n_tokens++] = token;
    sl_buf_consume(&r->text, r->n_shown);
    r->n_shown = 0;
    int rc = 0;
    int end = t && !r->ignore_eos && sl_tokenizer_is_end(t, token);
    if (t && !end) {
        if ((rc = sl_detok_push(&r->detok, t, token, is_mark(r, token), &r->text)) != 0) return rc;
        size_t stop = r->n_stops ? find_stop(r, sl_buf_str(&r->text), r->text.len) : r->text.len;
        if (stop < r->text.len) {
            out->ended = 1;
            out->reason = SL_FINISH_STOP;
            out->text = sl_buf_str(&r->text);
            out->text_len = stop;
            out->rest = "";
            return 0;
        }
        r->n_shown = r->n_stops ? showable(r, sl_buf_str(&r->text), r->text.len) : r->text.len;
    }
    if (end || r->n_tokens == r->n_limit) {
        out->ended = 1;
        out->reason = end ? SL_FINISH_STOP : SL_FINISH_LENGTH;
        if (t && (rc = sl_detok_finish(&r->detok, &r->text)) != 0) return rc;
    }
    out->text = sl_buf_str(&r->text);
    out->text_len = r->n_shown;
    out->rest = out->text + r->n_shown;
    out->rest_len = out->ended ? r->text.len - r->n_shown : 0;
    return 0;
}
