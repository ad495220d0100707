/* exec.c - what a stage does before and after its layers: embeddings in, results out. The layers
 * are exec_layer.c. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "stage/internal.h"

void sl_exec_embed(struct sl_stage *s, const struct sl_batch *b, float *x)
{
    size_t width = (size_t)s->c.n_embd, row = 0;
    for (int i = 0; i < b->n_seqs; i++) {
        s->ops->embed(s->b, &s->embed, b->seqs[i].tokens, b->seqs[i].n_tokens, x + row * width);
        row += (size_t)b->seqs[i].n_tokens;
    }
    if (s->c.embed_scale != 1)
        for (size_t i = 0; i < row * width; i++) x[i] *= s->c.embed_scale;
}

static size_t logits_wanted(const struct sl_stage *s, const struct sl_batch *b)
{
    size_t rows = 0;
    for (int i = 0; i < b->n_seqs; i++)
        if (b->seqs[i].flags & SL_SEQ_LOGITS) rows += (size_t)b->seqs[i].n_tokens;
    return rows * (size_t)s->c.n_vocab;
}

int sl_exec_check(const struct sl_stage *s, const struct sl_batch *b, struct sl_err *err)
{
    size_t bytes = logits_wanted(s, b) * sizeof(float);
    if (bytes > SL_FRAME_DESC_MAX)
        return sl_err_set(err, SL_EPROTO,
                          "a micro-batch asks for %zu bytes of logits, over the limit of %u", bytes,
                          SL_FRAME_DESC_MAX);
    for (const struct sl_batch_seq *q = b->seqs; q < b->seqs + b->n_seqs; q++) {
        if ((q->flags & SL_SEQ_SCORE) && (q->flags & SL_SEQ_LOGITS))
            return sl_err_set(err, SL_EPROTO, "sequence %u asks for scores and for logits", q->seq);
        if ((q->flags & SL_SEQ_REGISTER) && q->adapter > s->p.n_adapters)
            return sl_err_set(err, SL_EPROTO, "sequence %u asks for adapter %d of %d", q->seq,
                              (int)q->adapter, s->p.n_adapters);
        if (q->next >= s->c.n_vocab)
            return sl_err_set(err, SL_EPROTO, "sequence %u: token %d after its share", q->seq,
                              (int)q->next);
    }
    return 0;
}

static int scored_rows(const struct sl_batch_seq *in)
{
    return in->n_tokens - (in->next < 0);
}

/* Which rows of a sequence's share need logits: [from, to). SCORE leaves out the last row of a
 * text, which has no next token. */
static void wanted_rows(const struct sl_batch_seq *in, int *from, int *to)
{
    *to = in->n_tokens;
    if (in->flags & SL_SEQ_LOGITS) {
        *from = 0;
    } else if (in->flags & SL_SEQ_SCORE) {
        *from = 0;
        if (!(in->flags & SL_SEQ_SAMPLE)) *to = scored_rows(in);
    } else {
        *from = in->flags & SL_SEQ_SAMPLE ? in->n_tokens - 1 : in->n_tokens;
    }
}

/* One row that needs logits. */
struct pick {
    int seq, row; /* index into the batch's sequences; row within its share */
};

static void use_logits(struct sl_stage *s, const struct sl_batch *b, struct pick p,
                       const float *logits, float *scores, float *all_logits)
{
    const struct sl_batch_seq *in = &b->seqs[p.seq];
    if (in->flags & SL_SEQ_LOGITS)
        memcpy(all_logits, logits, (size_t)s->c.n_vocab * sizeof *logits);
    if ((in->flags & SL_SEQ_SCORE) && p.row < scored_rows(in)) {
        int32_t next = p.row + 1 < in->n_tokens ? in->tokens[p.row + 1] : in->next;
        scores[p.row] = (float)sl_logprob(logits, s->c.n_vocab, next);
    }
    if ((in->flags & SL_SEQ_SAMPLE) && p.row == in->n_tokens - 1) {
        const struct sl_stage_seq *q = &s->seqs[in->seq];
        struct sl_sampled *out = &s->results.sampled[s->results.n_sampled++];
        sl_sample(s->sampler, logits, &q->sampling, q->history, in->pos + in->n_tokens, out);
        out->seq = in->seq;
        out->pos = in->pos + in->n_tokens;
    }
}

/* Scales and softens logits where the model wants it (Granite; Gemma 2). */
static void finish_logits(const struct sl_config *c, float *logits, size_t n)
{
    if (c->logit_scale != 1)
        for (size_t i = 0; i < n; i++) logits[i] *= c->logit_scale;
    if (c->logit_softcap > 0)
        for (size_t i = 0; i < n; i++)
            logits[i] = c->logit_softcap * tanhf(logits[i] / c->logit_softcap);
}

/* Runs up to SL_LOGIT_ROWS picked rows through the last norm and the output matrix. */
static void flush(struct sl_stage *s, const struct sl_batch *b, const struct pick *picks, int n,
                  float *const *scores, float *const *all_logits)
{
    const struct sl_product head = {&s->head, NULL, s->logits, 0};
    s->ops->rmsnorm(s->b, s->picked, s->out_norm, s->c.rms_eps, n, s->c.n_embd, s->picked);
    s->ops->matmul(s->b, s->picked, n, &head, 1);
    finish_logits(&s->c, s->logits, (size_t)n * (size_t)s->c.n_vocab);
    for (int i = 0; i < n; i++)
        use_logits(s, b, picks[i], s->logits + (size_t)i * (size_t)s->c.n_vocab, scores[i],
                   all_logits[i]);
}

/* Places for what SCORE and LOGITS rows report: scores in s->scores, logits in the caller's array
 * (NULL: none wanted). */
static void lay_out_scored(struct sl_stage *s, const struct sl_batch *b, float *logits)
{
    float *score = s->scores;
    for (int i = 0; i < b->n_seqs; i++) {
        const struct sl_batch_seq *in = &b->seqs[i];
        if (!(in->flags & (SL_SEQ_SCORE | SL_SEQ_LOGITS))) continue;
        struct sl_scored *o = &s->results.scored[s->results.n_scored++];
        int whole = (in->flags & SL_SEQ_LOGITS) != 0;
        *o = (struct sl_scored){
            .seq = in->seq, .pos = in->pos, .n = whole ? in->n_tokens : scored_rows(in)};
        if (whole) {
            o->logits = logits;
            o->n_vocab = s->c.n_vocab;
            logits += (size_t)in->n_tokens * (size_t)s->c.n_vocab;
        } else {
            o->logprobs = score;
            score += in->n_tokens;
        }
    }
}

static void run_head(struct sl_stage *s, const struct sl_batch *b, const float *x)
{
    struct pick picks[SL_LOGIT_ROWS];
    float *scores[SL_LOGIT_ROWS], *rows[SL_LOGIT_ROWS];
    int n = 0, scored = 0;
    for (int i = 0; i < b->n_seqs; i++) {
        const struct sl_batch_seq *in = &b->seqs[i];
        const struct sl_scored *o =
            in->flags & (SL_SEQ_SCORE | SL_SEQ_LOGITS) ? &s->results.scored[scored++] : NULL;
        int from, to;
        wanted_rows(in, &from, &to);
        for (int r = from; r < to; r++) {
            memcpy(s->picked + (size_t)n * (size_t)s->c.n_embd,
                   x + (size_t)(s->views[i].row + r) * (size_t)s->c.n_embd,
                   (size_t)s->c.n_embd * sizeof *x);
            picks[n] = (struct pick){i, r};
            scores[n] = o && o->logprobs ? (float *)(uintptr_t)o->logprobs : NULL;
            rows[n] = o && o->logits
                          ? (float *)(uintptr_t)o->logits + (size_t)r * (size_t)s->c.n_vocab
                          : NULL;
            if (++n == SL_LOGIT_ROWS) {
                flush(s, b, picks, n, scores, rows);
                n = 0;
            }
        }
    }
    if (n) flush(s, b, picks, n, scores, rows);
}

int sl_exec_head(struct sl_stage *s, const struct sl_batch *b, const float *x, struct sl_err *err)
{
    s->results.n_sampled = s->results.n_scored = 0;
    size_t n = logits_wanted(s, b);
    float *logits =
        n ? malloc(n * sizeof *logits) : NULL; /* only the `logits` command pays for this */
    if (n && !logits)
        return sl_err_set(err, SL_ENOMEM, "no memory for the logits of %d rows", b->n_rows);
    lay_out_scored(s, b, logits);
    run_head(s, b, x);
    sl_buf_clear(&s->packed);
    int r = sl_results_pack(&s->results, &s->packed);
    free(logits);
    if (r) return sl_err_set(err, r, "the results of a micro-batch are too large (%zu logits)", n);
    return 0;
}
