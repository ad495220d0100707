/* batch.c - the micro-batch descriptor as bytes and back (docs/wire.md).
 *
 * All words are 4 bytes, so token and block arrays are used where they lie in the frame. What
 * packing refuses and what unpacking refuses is decided by the same functions: a frame of ours can
 * never be malformed for its receiver. */
#include "proto/batch.h"

#include <math.h>
#include <stdlib.h>

#include "base/sl_assert.h"
#include "proto/bytes.h"

#define SEQ_FLAGS_ALL (SL_SEQ_REGISTER | SL_SEQ_SAMPLE | SL_SEQ_SCORE | SL_SEQ_LOGITS | SL_SEQ_FAR)
#define HEAD_WORDS 2      /* n_seqs, n_rows */
#define SEQ_WORDS 5       /* seq, flags, pos, n_tokens, n_blocks */
#define SAMPLING_WORDS 13 /* prompt_len, adapter, then sampling without its bias entries */

void sl_sampling_default(struct sl_sampling *s)
{
    s->temperature = 0;
    s->top_k = 0;
    s->top_p = 1;
    s->min_p = 0;
    s->repetition_penalty = 1;
    s->presence_penalty = s->frequency_penalty = 0;
    s->seed = 0;
    s->n_top = 0;
    s->n_bias = 0;
    memset(s->bias, 0, sizeof s->bias);
}

static const char *sampling_flaw(const struct sl_sampling *s)
{
    if (!isfinite(s->temperature) || s->temperature < 0) return "temperature";
    if (s->top_k < 0) return "top_k";
    if (!(s->top_p >= 0 && s->top_p <= 1)) return "top_p";
    if (!(s->min_p >= 0 && s->min_p <= 1)) return "min_p";
    if (!isfinite(s->repetition_penalty) || s->repetition_penalty <= 0) return "repetition_penalty";
    if (!isfinite(s->presence_penalty)) return "presence_penalty";
    if (!isfinite(s->frequency_penalty)) return "frequency_penalty";
    if (s->n_top < 0 || s->n_top > SL_TOP_LOGPROBS_MAX) return "number of alternatives";
    if (s->n_bias < 0 || s->n_bias > SL_LOGIT_BIAS_MAX) return "number of logit biases";
    for (int i = 0; i < s->n_bias; i++)
        if (s->bias[i].token < 0 || isnan(s->bias[i].bias)) return "logit bias";
    return NULL;
}

/* The fields of a share, but for the arrays' contents. */
static const char *seq_flaw(const struct sl_batch_seq *q)
{
    if (q->seq >= SL_SEQS_MAX) return "slot number";
    if (q->flags & ~(uint32_t)SEQ_FLAGS_ALL) return "flags";
    if (q->n_tokens < 1 || q->n_tokens > SL_BATCH_ROWS_MAX) return "number of tokens";
    if (q->pos < 0 || q->pos > INT32_MAX - q->n_tokens) return "position";
    if (q->n_blocks < 0 || q->n_blocks > SL_BATCH_BLOCKS_MAX) return "number of blocks";
    if ((q->flags & SL_SEQ_SCORE) && q->next < -1) return "next token";
    if (!(q->flags & SL_SEQ_REGISTER)) return NULL;
    if (q->prompt_len < 0) return "prompt length";
    if (q->adapter < 0 || q->adapter > SL_ADAPTERS_MAX) return "adapter";
    return NULL;
}

static int any_negative(const int32_t *v, size_t n)
{
    int32_t all = 0;
    for (size_t i = 0; i < n; i++) all |= v[i];
    return all < 0;
}

static int batch_fits(const struct sl_batch *b, size_t *words)
{
    int64_t rows = 0, blocks = 0;
    *words = HEAD_WORDS;
    if (b->n_seqs < 1 || b->n_seqs > SL_BATCH_SEQS_MAX) return 0;
    for (int i = 0; i < b->n_seqs; i++) {
        const struct sl_batch_seq *q = &b->seqs[i];
        if (seq_flaw(q)) return 0;
        rows += q->n_tokens;
        blocks += q->n_blocks;
        if (any_negative(q->tokens, (size_t)q->n_tokens) ||
            any_negative(q->blocks, (size_t)q->n_blocks))
            return 0;
        *words += SEQ_WORDS + (size_t)q->n_tokens + (size_t)q->n_blocks +
                  ((q->flags & SL_SEQ_SCORE) != 0);
        if (q->flags & SL_SEQ_REGISTER) {
            SL_ASSERT(q->sampling);
            if (sampling_flaw(q->sampling)) return 0;
            *words += SAMPLING_WORDS + 2 * (size_t)q->sampling->n_bias;
        }
    }
    return rows <= SL_BATCH_ROWS_MAX && rows == b->n_rows && blocks <= SL_BATCH_BLOCKS_MAX;
}

static char *put_sampling(char *p, const struct sl_sampling *s)
{
    p = put_f32(p, s->temperature);
    p = put32(p, (uint32_t)s->top_k);
    p = put_f32(p, s->top_p);
    p = put_f32(p, s->min_p);
    p = put_f32(p, s->repetition_penalty);
    p = put_f32(p, s->presence_penalty);
    p = put_f32(p, s->frequency_penalty);
    p = put32(p, (uint32_t)s->seed);
    p = put32(p, (uint32_t)(s->seed >> 32));
    p = put32(p, (uint32_t)s->n_top);
    p = put32(p, (uint32_t)s->n_bias);
    for (int i = 0; i < s->n_bias; i++)
        p = put_f32(put32(p, (uint32_t)s->bias[i].token), s->bias[i].bias);
    return p;
}

int sl_batch_pack(const struct sl_batch *b, struct sl_buf *out)
{
    size_t words;
    if (!batch_fits(b, &words)) return SL_ELIMIT;
    int rc = sl_buf_reserve(out, words * 4);
    if (rc) return rc;
    char *start = out->data + out->len, *p = start;
    p = put32(p, (uint32_t)b->n_seqs);
    p = put32(p, (uint32_t)b->n_rows);
    for (int i = 0; i < b->n_seqs; i++) {
        const struct sl_batch_seq *q = &b->seqs[i];
        p = put32(p, q->seq);
        p = put32(p, q->flags);
        p = put32(p, (uint32_t)q->pos);
        p = put32(p, (uint32_t)q->n_tokens);
        p = put32(p, (uint32_t)q->n_blocks);
        if (q->flags & SL_SEQ_SCORE) p = put32(p, (uint32_t)q->next);
        if (q->flags & SL_SEQ_REGISTER) {
            p = put32(p, (uint32_t)q->prompt_len);
            p = put_sampling(put32(p, (uint32_t)q->adapter), q->sampling);
        }
        p = put_words(p, q->tokens, (size_t)q->n_tokens);
        p = put_words(p, q->blocks, (size_t)q->n_blocks);
    }
    SL_ASSERT((size_t)(p - start) == words * 4);
    *p = 0;
    out->len += words * 4;
    return 0;
}

/* ---- unpacking ------------------------------------------------------------------------------- */

/* A place for one more sl_sampling. The pointers in seqs are set at the end, for this may move
 * them. */
static struct sl_sampling *sampling_slot(struct sl_batch_in *in, size_t n)
{
    if (n == in->cap_sampling) {
        size_t cap = SL_MAX(in->cap_sampling * 2, 8);
        struct sl_sampling *s = realloc(in->sampling, cap * sizeof *s);
        if (!s) return NULL;
        in->sampling = s;
        in->cap_sampling = cap;
    }
    return &in->sampling[n];
}

static const char *read_sampling(struct reader *r, struct sl_sampling *s)
{
    s->temperature = read_f32(r);
    s->top_k = read_i32(r);
    s->top_p = read_f32(r);
    s->min_p = read_f32(r);
    s->repetition_penalty = read_f32(r);
    s->presence_penalty = read_f32(r);
    s->frequency_penalty = read_f32(r);
    s->seed = read32(r);
    s->seed |= (uint64_t)read32(r) << 32;
    s->n_top = read_i32(r);
    s->n_bias = read_i32(r);
    if (s->n_bias < 0 || s->n_bias > SL_LOGIT_BIAS_MAX) return "number of logit biases";
    for (int i = 0; i < s->n_bias; i++) {
        s->bias[i].token = read_i32(r);
        s->bias[i].bias = read_f32(r);
    }
    return r->short_of ? "length" : sampling_flaw(s);
}

/* One share; *what stays NULL when the failure is memory. */
static int read_seq(struct reader *r, struct sl_batch_in *in, struct sl_batch_seq *q,
                    size_t *n_sampling, const char **what)
{
    q->seq = read32(r);
    q->flags = read32(r);
    q->pos = read_i32(r);
    q->n_tokens = read_i32(r);
    q->n_blocks = read_i32(r);
    q->prompt_len = q->adapter = 0;
    q->sampling = NULL;
    q->next = q->flags & SL_SEQ_SCORE ? read_i32(r) : -1;
    if (q->flags & SL_SEQ_REGISTER) {
        q->prompt_len = read_i32(r);
        q->adapter = read_i32(r);
    }
    *what = r->short_of ? "length" : seq_flaw(q);
    if (*what) return SL_EPROTO;
    if (q->flags & SL_SEQ_REGISTER) {
        struct sl_sampling *s = sampling_slot(in, *n_sampling);
        if (!s) return SL_ENOMEM;
        (*n_sampling)++;
        *what = read_sampling(r, s);
        if (*what) return SL_EPROTO;
    }
    q->tokens = read_words(r, (size_t)q->n_tokens);
    q->blocks = read_words(r, (size_t)q->n_blocks);
    if (r->short_of)
        *what = "length";
    else if (any_negative(q->tokens, (size_t)q->n_tokens))
        *what = "token";
    else if (any_negative(q->blocks, (size_t)q->n_blocks))
        *what = "block";
    return *what ? SL_EPROTO : 0;
}

static int reserve_seqs(struct sl_batch_in *in, size_t n)
{
    if (n <= in->cap_seqs) return 0;
    struct sl_batch_seq *seqs = realloc(in->batch.seqs, n * sizeof *seqs);
    if (!seqs) return SL_ENOMEM;
    in->batch.seqs = seqs;
    in->cap_seqs = n;
    return 0;
}

int sl_batch_unpack(const void *data, size_t n, struct sl_batch_in *out, struct sl_err *err)
{
    SL_ASSERT(((uintptr_t)data & 3) == 0);
    struct reader r = {data, (const uint8_t *)data + n, 0};
    out->batch.n_seqs = out->batch.n_rows = 0;
    uint32_t n_seqs = read32(&r), n_rows = read32(&r);
    if (r.short_of || n_seqs < 1 || n_seqs > SL_BATCH_SEQS_MAX || n_rows > SL_BATCH_ROWS_MAX ||
        n_seqs > read_left(&r) / (SEQ_WORDS * 4))
        return sl_err_set(err, SL_EPROTO, "batch descriptor: %u sequences, %u rows in %zu bytes",
                          n_seqs, n_rows, n);
    if (reserve_seqs(out, n_seqs))
        return sl_err_set(err, SL_ENOMEM, "batch descriptor: out of memory");

    struct sl_batch_seq *seqs = out->batch.seqs;
    size_t n_sampling = 0, rows = 0, blocks = 0;
    for (uint32_t i = 0; i < n_seqs; i++) {
        const char *what = NULL;
        int rc = read_seq(&r, out, &seqs[i], &n_sampling, &what);
        if (rc == SL_ENOMEM) return sl_err_set(err, rc, "batch descriptor: out of memory");
        if (rc) return sl_err_set(err, rc, "batch descriptor: sequence %u: bad %s", i, what);
        rows += (size_t)seqs[i].n_tokens;
        blocks += (size_t)seqs[i].n_blocks;
    }
    if (rows != n_rows || blocks > SL_BATCH_BLOCKS_MAX || read_left(&r))
        return sl_err_set(
            err, SL_EPROTO,
            "batch descriptor: %zu rows (announced %u), %zu blocks, %zu bytes left over", rows,
            n_rows, blocks, read_left(&r));
    n_sampling = 0;
    for (uint32_t i = 0; i < n_seqs; i++)
        if (seqs[i].flags & SL_SEQ_REGISTER) seqs[i].sampling = &out->sampling[n_sampling++];
    out->batch.n_seqs = (int)n_seqs;
    out->batch.n_rows = (int)n_rows;
    return 0;
}

void sl_batch_in_close(struct sl_batch_in *b)
{
    free(b->batch.seqs);
    free(b->sampling);
    memset(b, 0, sizeof *b);
}
