/* results.c - what the last stage answers, as bytes and back (docs/wire.md).
 *
 * Same rules as batch.c: 4-byte words, float arrays used in place, one set of limits for both
 * directions. */
#include <stdlib.h>

#include "base/sl_assert.h"
#include "proto/batch.h"
#include "proto/bytes.h"

#define HEAD_WORDS 2    /* n_sampled, n_scored */
#define SAMPLED_WORDS 5 /* seq, pos, token, logprob, n_top */
#define SCORED_WORDS 5  /* seq, pos, n, n_vocab, has */

enum scored_has { HAS_LOGPROBS = 1, HAS_LOGITS = 2 };

static const char *sampled_flaw(const struct sl_sampled *s)
{
    if (s->seq >= SL_SEQS_MAX) return "slot number";
    if (s->pos < 0) return "position";
    if (s->token < 0) return "token";
    if (s->n_top < 0 || s->n_top > SL_TOP_LOGPROBS_MAX) return "number of alternatives";
    for (int i = 0; i < s->n_top; i++)
        if (s->top[i].token < 0) return "alternative";
    return NULL;
}

static const char *scored_flaw(const struct sl_scored *s)
{
    if (s->seq >= SL_SEQS_MAX) return "slot number";
    if (s->n < 0 || s->n > SL_BATCH_ROWS_MAX) return "number of rows";
    if (s->pos < 0 || s->pos > INT32_MAX - s->n) return "position";
    if (s->n_vocab < 0 || s->n_vocab > SL_VOCAB_MAX) return "vocabulary size";
    return NULL;
}

static int results_fit(const struct sl_results *r, size_t *words)
{
    int64_t rows = 0;
    *words = HEAD_WORDS;
    if (r->n_sampled < 0 || r->n_sampled > SL_BATCH_SEQS_MAX) return 0;
    if (r->n_scored < 0 || r->n_scored > SL_BATCH_SEQS_MAX) return 0;
    for (int i = 0; i < r->n_sampled; i++) {
        if (sampled_flaw(&r->sampled[i])) return 0;
        *words += SAMPLED_WORDS + 2 * (size_t)r->sampled[i].n_top;
    }
    for (int i = 0; i < r->n_scored; i++) {
        const struct sl_scored *s = &r->scored[i];
        if (scored_flaw(s)) return 0;
        rows += s->n;
        *words += SCORED_WORDS;
        if (s->logprobs) *words += (size_t)s->n;
        if (s->logits) *words += (size_t)s->n * (size_t)s->n_vocab;
    }
    return rows <= SL_BATCH_ROWS_MAX;
}

static char *put_sampled(char *p, const struct sl_sampled *s)
{
    p = put32(p, s->seq);
    p = put32(p, (uint32_t)s->pos);
    p = put32(p, (uint32_t)s->token);
    p = put_f32(p, s->logprob);
    p = put32(p, (uint32_t)s->n_top);
    for (int i = 0; i < s->n_top; i++)
        p = put_f32(put32(p, (uint32_t)s->top[i].token), s->top[i].logprob);
    return p;
}

static char *put_scored(char *p, const struct sl_scored *s)
{
    p = put32(p, s->seq);
    p = put32(p, (uint32_t)s->pos);
    p = put32(p, (uint32_t)s->n);
    p = put32(p, (uint32_t)s->n_vocab);
    p = put32(p, (s->logprobs ? HAS_LOGPROBS : 0) | (s->logits ? HAS_LOGITS : 0));
    if (s->logprobs) p = put_words(p, s->logprobs, (size_t)s->n);
    if (s->logits) p = put_words(p, s->logits, (size_t)s->n * (size_t)s->n_vocab);
    return p;
}

int sl_results_pack(const struct sl_results *r, struct sl_buf *out)
{
    size_t words;
    if (!results_fit(r, &words)) return SL_ELIMIT;
    int rc = sl_buf_reserve(out, words * 4);
    if (rc) return rc;
    char *start = out->data + out->len, *p = start;
    p = put32(p, (uint32_t)r->n_sampled);
    p = put32(p, (uint32_t)r->n_scored);
    for (int i = 0; i < r->n_sampled; i++) p = put_sampled(p, &r->sampled[i]);
    for (int i = 0; i < r->n_scored; i++) p = put_scored(p, &r->scored[i]);
    SL_ASSERT((size_t)(p - start) == words * 4);
    *p = 0;
    out->len += words * 4;
    return 0;
}

/* ---- unpacking ------------------------------------------------------------------------------- */

static const char *read_sampled(struct reader *r, struct sl_sampled *s)
{
    s->seq = read32(r);
    s->pos = read_i32(r);
    s->token = read_i32(r);
    s->logprob = read_f32(r);
    s->n_top = read_i32(r);
    if (s->n_top < 0 || s->n_top > SL_TOP_LOGPROBS_MAX) return "number of alternatives";
    for (int i = 0; i < s->n_top; i++) {
        s->top[i].token = read_i32(r);
        s->top[i].logprob = read_f32(r);
    }
    return r->short_of ? "length" : sampled_flaw(s);
}

static const char *read_scored(struct reader *r, struct sl_scored *s)
{
    s->seq = read32(r);
    s->pos = read_i32(r);
    s->n = read_i32(r);
    s->n_vocab = read_i32(r);
    uint32_t has = read32(r);
    s->logprobs = s->logits = NULL;
    if (r->short_of) return "length";
    if (has & ~(uint32_t)(HAS_LOGPROBS | HAS_LOGITS)) return "flags";
    const char *what = scored_flaw(s);
    if (what) return what;
    if (has & HAS_LOGPROBS) s->logprobs = read_words(r, (size_t)s->n);
    if (has & HAS_LOGITS) s->logits = read_words(r, (size_t)s->n * (size_t)s->n_vocab);
    return r->short_of ? "length" : NULL;
}

/* Room for n entries of `size` bytes in *array. */
static int reserve(void **array, size_t *cap, size_t n, size_t size)
{
    if (n <= *cap) return 0;
    void *grown = realloc(*array, n * size);
    if (!grown) return SL_ENOMEM;
    *array = grown;
    *cap = n;
    return 0;
}

static int reserve_results(struct sl_results_in *out, size_t n_sampled, size_t n_scored)
{
    void *sampled = out->results.sampled, *scored = out->results.scored;
    int rc = reserve(&sampled, &out->cap_sampled, n_sampled, sizeof(struct sl_sampled));
    out->results.sampled = sampled;
    if (rc == 0) rc = reserve(&scored, &out->cap_scored, n_scored, sizeof(struct sl_scored));
    out->results.scored = scored;
    return rc;
}

int sl_results_unpack(const void *data, size_t n, struct sl_results_in *out, struct sl_err *err)
{
    SL_ASSERT(((uintptr_t)data & 3) == 0);
    struct reader r = {data, (const uint8_t *)data + n, 0};
    out->results.n_sampled = out->results.n_scored = 0;
    uint32_t n_sampled = read32(&r), n_scored = read32(&r);
    if (r.short_of || n_sampled > SL_BATCH_SEQS_MAX || n_scored > SL_BATCH_SEQS_MAX ||
        ((size_t)n_sampled * SAMPLED_WORDS + (size_t)n_scored * SCORED_WORDS) * 4 > read_left(&r))
        return sl_err_set(err, SL_EPROTO, "results: %u sampled, %u scored in %zu bytes", n_sampled,
                          n_scored, n);
    if (reserve_results(out, n_sampled, n_scored))
        return sl_err_set(err, SL_ENOMEM, "results: out of memory");

    int64_t rows = 0;
    for (uint32_t i = 0; i < n_sampled; i++) {
        const char *what = read_sampled(&r, &out->results.sampled[i]);
        if (what) return sl_err_set(err, SL_EPROTO, "results: sampled %u: bad %s", i, what);
    }
    for (uint32_t i = 0; i < n_scored; i++) {
        const char *what = read_scored(&r, &out->results.scored[i]);
        if (what) return sl_err_set(err, SL_EPROTO, "results: scored %u: bad %s", i, what);
        rows += out->results.scored[i].n;
    }
    if (rows > SL_BATCH_ROWS_MAX || read_left(&r))
        return sl_err_set(err, SL_EPROTO, "results: %lld scored rows, %zu bytes left over",
                          (long long)rows, read_left(&r));
    out->results.n_sampled = (int)n_sampled;
    out->results.n_scored = (int)n_scored;
    return 0;
}

void sl_results_in_close(struct sl_results_in *r)
{
    free(r->results.sampled);
    free(r->results.scored);
    memset(r, 0, sizeof *r);
}
