/* exec.c - what a stage does before and after its layers: embeddings in, tokens out. The layers are
 * exec_layer.c; what is asked for, step.c. */
#include <math.h>
#include <string.h>

#include "base/sl_assert.h"
#include "stage/internal.h"

void sl_exec_embed(struct sl_stage *s, float *x)
{
    int n = s->step.run_rows, width = s->c.n_embd;
    s->ops->embed(s->b, &s->embed, s->step.ids, n, x);
    if (s->c.embed_scale != 1) s->ops->mix(s->b, x, width, x, width, n, width, s->c.embed_scale, 0);
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

/* What the host makes of the logits of one row. */
static void use_logits(struct sl_stage *s, const struct sl_batch *b, int pick, const float *logits)
{
    const struct sl_pick *p = &s->picks[pick];
    const struct sl_batch_seq *in = &b->seqs[p->share];
    if (p->logits) memcpy(p->logits, logits, (size_t)s->c.n_vocab * sizeof *logits);
    if (p->score) *p->score = (float)sl_logprob(logits, s->c.n_vocab, s->nexts[pick]);
    if ((in->flags & SL_SEQ_SAMPLE) && p->row == in->n_tokens - 1) {
        const struct sl_stage_seq *q = &s->seqs[in->seq];
        struct sl_sampled *out = &s->results.sampled[s->results.n_sampled++];
        sl_sample(s->sampler, logits, &q->sampling, q->history, in->pos + in->n_tokens, out);
        out->seq = in->seq;
        out->pos = in->pos + in->n_tokens;
    }
}

/* Rows of logits that the host wants, of picks [first, first + n). */
static void to_host(struct sl_stage *s, const struct sl_batch *b, int first, int n)
{
    size_t width = (size_t)s->c.n_vocab;
    for (int i = 0; i < n; i++) {
        const float *row = s->logits + (size_t)i * width;
        if (!s->picks[first + i].host) continue;
        if (s->ops->download) {
            s->ops->download(s->b, s->logits_host, row, width * sizeof *row);
            row = s->logits_host;
        }
        use_logits(s, b, first + i, row);
    }
}

void sl_exec_head(struct sl_stage *s, const struct sl_batch *b, const float *x)
{
    const struct sl_config *c = &s->c;
    const struct sl_product head = {&s->head, NULL, s->logits, 0};
    for (int i = 0, n; i < s->step.run_picks; i += n) {
        n = SL_MIN(s->logit_rows, s->step.run_picks - i);
        s->ops->pick(s->b, x, s->step.picks + i, n, c->n_embd, s->picked);
        s->ops->norm_rows(s->b, s->picked, s->out_norm, c->rms_eps, n, c->n_embd, s->picked_rows);
        s->ops->matmul(s->b, s->picked_rows, n, &head, 1);
        if (c->logit_scale != 1 || c->logit_softcap > 0)
            s->ops->soften(s->b, s->logits, (int64_t)n * c->n_vocab, c->logit_scale,
                           c->logit_softcap);
        to_host(s, b, i, SL_MIN(n, s->step.n_picks - i));
        if (s->ops->draw) s->ops->draw(s->b, s->logits, i, n, c->n_vocab);
    }
}
