/* exec.c - walks the recipe of a llama-like decoder: what a stage does with a micro-batch, top to
 * bottom.
 *
 *   x += O(attention(rope(QKV(norm(x)))))      x += down(silu(gate(norm(x))) * up(norm(x)))
 *
 * (Touvron et al. 2023.) x is the residual stream, [n_rows][n_embd], computed in place in the frame
 * that carried it here. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "stage/internal.h"

static void attention(struct sl_stage *s, struct sl_layer *y, const struct sl_batch *b, float *x)
{
    const struct sl_config *c = &s->c;
    const struct sl_backend_ops *op = s->ops;
    int n = b->n_rows;
    op->rmsnorm(s->b, x, y->attn_norm, c->rms_eps, n, c->n_embd, s->norm);
    const struct sl_product qkv[] = {
        {&y->q, y->q_bias, s->q, 0},
        {&y->k, y->k_bias, s->k, 0},
        {&y->v, y->v_bias, s->v, 0},
    };
    op->matmul(s->b, s->norm, n, qkv, 3);
    const struct sl_rope rope = {c->rope_dims, c->rope == SL_ROPE_NEOX, 1, s->inv_freq};
    const struct sl_rope_part turned[] = {{s->q, c->n_heads, c->head_dim, 0},
                                          {s->k, c->n_kv_heads, c->head_dim, 0}};
    op->rope(s->b, &rope, turned, 2, s->pos, n);
    op->kv_write(s->b, &y->kv, s->views, b->n_seqs, s->k, s->v);
    const struct sl_attn how = {.n_heads = c->n_heads, .scale = 1.0f / sqrtf((float)c->head_dim)};
    op->attention(s->b, &y->kv, s->views, b->n_seqs, s->q, &how, s->attn);
    const struct sl_product o = {&y->o, NULL, x, SL_MATMUL_ADD};
    op->matmul(s->b, s->attn, n, &o, 1);
}

static void feed_forward(struct sl_stage *s, struct sl_layer *y, int n, float *x)
{
    const struct sl_config *c = &s->c;
    const struct sl_backend_ops *op = s->ops;
    op->rmsnorm(s->b, x, y->ffn_norm, c->rms_eps, n, c->n_embd, s->norm);
    const struct sl_product gate_up[] = {{&y->gate, NULL, s->gate, 0}, {&y->up, NULL, s->up, 0}};
    op->matmul(s->b, s->norm, n, gate_up, 2);
    op->glu(s->b, SL_ACT_SILU, s->gate, s->up, (int64_t)n * c->n_ff, s->gate);
    const struct sl_product down = {&y->down, NULL, x, SL_MATMUL_ADD};
    op->matmul(s->b, s->gate, n, &down, 1);
}

void sl_exec_layers(struct sl_stage *s, const struct sl_batch *b, float *x)
{
    int n_layers = s->p.layer_to - s->p.layer_from;
    for (int i = 0; i < n_layers; i++) {
        attention(s, &s->layers[i], b, x);
        feed_forward(s, &s->layers[i], b->n_rows, x);
        if (s->p.moved) s->p.moved(s->p.progress_arg);
    }
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

/* Which rows of a sequence's share need logits: [from, to). SCORE leaves out the last row of a text,
 * which has no next token. */
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

/* Runs up to SL_LOGIT_ROWS picked rows through the last norm and the output matrix. */
static void flush(struct sl_stage *s, const struct sl_batch *b, const struct pick *picks, int n,
                  float *const *scores, float *const *all_logits)
{
    const struct sl_product head = {&s->head, NULL, s->logits, 0};
    s->ops->rmsnorm(s->b, s->picked, s->out_norm, s->c.rms_eps, n, s->c.n_embd, s->picked);
    s->ops->matmul(s->b, s->picked, n, &head, 1);
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
