/* step.c - what a micro-batch asks of the kernels, and what is answered: which rows need logits,
 * how tokens are drawn from them, where scores and logits go.
 *
 * On the host the last stage draws from the logits itself (exec.c, sample.c). A device draws by
 * itself as told here and only tokens come back, except where the host wants the logits. */
#include <stdlib.h>

#include "base/sl_assert.h"
#include "stage/internal.h"

static int scored_rows(const struct sl_batch_seq *in)
{
    return in->n_tokens - (in->next < 0);
}

/* Which rows of a share need logits: [from, to). SCORE leaves out the last row of a text, which has
 * no next token. */
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

/* Adjustments of a draw go to the end of the step's; 0, or -1 when there is no room. */
static int adjust(struct sl_stage *s, const struct sl_stage_seq *q, struct sl_draw *d)
{
    int n = sl_sample_adjustments(&q->sampling, q->history, s->c.n_vocab,
                                  s->adjusts + s->step.n_adjust, SL_ADJUSTS_MAX - s->step.n_adjust);
    if (n < 0) return -1;
    d->first_adjust = s->step.n_adjust;
    d->n_adjust = n;
    s->step.n_adjust += n;
    return 0;
}

static void plan_pick(struct sl_stage *s, const struct sl_batch_seq *in, struct sl_pick p)
{
    int i = s->step.n_picks++;
    struct sl_draw *d = &s->draws[i];
    const struct sl_stage_seq *q = &s->seqs[in->seq];
    int drawn = (in->flags & SL_SEQ_SAMPLE) && p.row == in->n_tokens - 1;
    s->pick_rows[i] = s->views[p.share].row + p.row;
    s->nexts[i] = -1;
    if (p.score) s->nexts[i] = p.row + 1 < in->n_tokens ? in->tokens[p.row + 1] : in->next;
    *d = (struct sl_draw){.n_top = -1};
    p.host = !s->ops->draw || p.logits;
    if (drawn && !p.host) {
        *d = (struct sl_draw){.temperature = q->sampling.temperature,
                              .top_k = q->sampling.top_k,
                              .top_p = q->sampling.top_p,
                              .min_p = q->sampling.min_p,
                              .chance = sl_sample_chance(q->sampling.seed, in->pos + in->n_tokens),
                              .n_top = q->sampling.n_top};
        if (adjust(s, q, d)) {
            d->n_top = -1;
            p.host = 1;
        }
    }
    s->picks[i] = p;
    if (p.host || p.score) s->step.steady = 0;
}

/* Where the scores or logits of a share are reported; NULL when it asks for none. */
static struct sl_scored *place(struct sl_stage *s, const struct sl_batch_seq *in, float **scores,
                               float **logits)
{
    if (!(in->flags & (SL_SEQ_SCORE | SL_SEQ_LOGITS))) return NULL;
    struct sl_scored *o = &s->results.scored[s->results.n_scored++];
    int whole = (in->flags & SL_SEQ_LOGITS) != 0;
    *o = (struct sl_scored){
        .seq = in->seq, .pos = in->pos, .n = whole ? in->n_tokens : scored_rows(in)};
    if (whole) {
        o->logits = *logits;
        o->n_vocab = s->c.n_vocab;
        *logits += (size_t)in->n_tokens * (size_t)s->c.n_vocab;
    } else {
        o->logprobs = *scores;
        *scores += in->n_tokens;
    }
    return o;
}

static int make_room(struct sl_stage *s, const struct sl_batch *b, struct sl_err *err)
{
    size_t rows = 0;
    for (int i = 0; i < b->n_seqs; i++)
        if (b->seqs[i].flags & SL_SEQ_LOGITS) rows += (size_t)b->seqs[i].n_tokens;
    free(s->all_logits); /* of a step that failed */
    s->all_logits = NULL;
    if (!rows) return 0; /* only the `logits` command pays for this */
    s->all_logits = malloc(rows * (size_t)s->c.n_vocab * sizeof *s->all_logits);
    if (s->all_logits) return 0;
    return sl_err_set(err, SL_ENOMEM, "no memory for the logits of %zu rows", rows);
}

static void plan_picks(struct sl_stage *s, const struct sl_batch *b)
{
    float *scores = s->scores, *logits = s->all_logits;
    s->results.n_sampled = s->results.n_scored = 0;
    for (int i = 0; i < b->n_seqs; i++) {
        const struct sl_batch_seq *in = &b->seqs[i];
        const struct sl_scored *o = place(s, in, &scores, &logits);
        float *score = o ? (float *)(uintptr_t)o->logprobs : NULL;
        float *rows = o ? (float *)(uintptr_t)o->logits : NULL;
        int from, to;
        wanted_rows(in, &from, &to);
        for (int r = from; r < to; r++)
            plan_pick(
                s, in,
                (struct sl_pick){.share = i,
                                 .row = r,
                                 .score = score && r < o->n ? score + r : NULL,
                                 .logits = rows ? rows + (size_t)r * (size_t)s->c.n_vocab : NULL});
    }
}

int sl_stage_plan(struct sl_stage *s, const struct sl_batch *b, struct sl_err *err)
{
    int row = 0, last = sl_stage_is_last(s);
    s->step = (struct sl_step){.n_rows = b->n_rows,
                               .n_seqs = b->n_seqs,
                               .pos = s->pos,
                               .ids = sl_stage_is_first(s) ? s->ids : NULL,
                               .seqs = s->views,
                               .picks = s->pick_rows,
                               .draw = s->draws,
                               .next = s->nexts,
                               .adjust = s->adjusts,
                               .steady = b->n_rows == b->n_seqs && s->n_runs == 0 &&
                                         s->c.ropes[0].scaling != SL_ROPE_LONG};
    for (int i = 0; i < b->n_seqs; i++)
        for (int k = 0; k < b->seqs[i].n_tokens; k++) s->ids[row++] = b->seqs[i].tokens[k];
    int r = last ? make_room(s, b, err) : 0;
    if (r == 0 && last) plan_picks(s, b);
    s->step.run_rows = s->step.n_rows;
    s->step.run_picks = s->step.n_picks;
    return r;
}

/* What the device drew and scored. */
static void collect(struct sl_stage *s, const struct sl_batch *b)
{
    const struct sl_drawn *drawn = s->ops->drawn(s->b);
    const float *scored = s->ops->scored(s->b);
    for (int i = 0; i < s->step.n_picks; i++) {
        const struct sl_pick *p = &s->picks[i];
        const struct sl_batch_seq *in = &b->seqs[p->share];
        if (p->host) continue;
        if (p->score) *p->score = scored[i];
        if (s->draws[i].n_top < 0) continue;
        struct sl_sampled *out = &s->results.sampled[s->results.n_sampled++];
        out->seq = in->seq;
        out->pos = in->pos + in->n_tokens;
        out->token = drawn[i].token;
        out->logprob = drawn[i].logprob;
        out->n_top = drawn[i].n_top;
        for (int k = 0; k < out->n_top; k++)
            out->top[k] = (struct sl_top){drawn[i].top[k], drawn[i].top_logprob[k]};
    }
}

int sl_stage_answer(struct sl_stage *s, const struct sl_batch *b, struct sl_err *err)
{
    if (s->ops->draw && s->step.n_picks) collect(s, b);
    sl_buf_clear(&s->packed);
    int r = sl_results_pack(&s->results, &s->packed);
    free(s->all_logits);
    s->all_logits = NULL;
    if (r)
        return sl_err_set(err, r, "the results of a micro-batch of %d rows are too large",
                          b->n_rows);
    return 0;
}
