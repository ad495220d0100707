/* seqs.c - the sequences a stage knows: block tables, positions, sampling parameters.
 *
 * A descriptor is believed only after every number in it was checked against what the stage holds:
 * a block table entry is an index into the KV cache, so a wrong one would corrupt somebody else's
 * answer. */
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "stage/internal.h"

void sl_stage_forget(struct sl_stage_seq *q)
{
    q->used = 0;
    q->pos = 0;
    q->n_blocks = 0;
    if (q->history) sl_history_clear(q->history);
}

static int wants_history(const struct sl_sampling *p)
{
    return p->repetition_penalty != 1.0f || p->presence_penalty != 0.0f ||
           p->frequency_penalty != 0.0f;
}

static int do_register(struct sl_stage *s, struct sl_stage_seq *q, const struct sl_batch_seq *in,
                       struct sl_err *err)
{
    sl_stage_forget(q);
    q->used = 1;
    q->prompt_len = in->prompt_len;
    q->adapter = in->adapter;
    q->far = (in->flags & SL_SEQ_FAR) != 0;
    if (!sl_stage_is_last(s)) return 0;
    q->sampling = *in->sampling;
    if (wants_history(&q->sampling)) {
        if (!q->history) q->history = sl_history_create();
        if (!q->history) return sl_err_set(err, SL_ENOMEM, "no memory for a sequence's history");
    } else {
        sl_history_destroy(q->history);
        q->history = NULL;
    }
    return 0;
}

static int add_blocks(struct sl_stage *s, struct sl_stage_seq *q, const struct sl_batch_seq *in,
                      struct sl_err *err)
{
    if (in->n_blocks > s->info.n_blocks - q->n_blocks)
        return sl_err_set(err, SL_EPROTO,
                          "sequence %u would own more blocks than the stage has (%d)", in->seq,
                          s->info.n_blocks);
    if (q->n_blocks + in->n_blocks > q->cap_blocks) {
        int cap = SL_MAX(16, 2 * (q->n_blocks + in->n_blocks));
        int32_t *p = realloc(q->blocks, (size_t)cap * sizeof *p);
        if (!p) return sl_err_set(err, SL_ENOMEM, "no memory for a block table");
        q->blocks = p;
        q->cap_blocks = cap;
    }
    for (int i = 0; i < in->n_blocks; i++) {
        if (in->blocks[i] < 0 || in->blocks[i] >= s->info.n_blocks)
            return sl_err_set(err, SL_EPROTO,
                              "block %d of sequence %u does not exist (the stage has %d)",
                              in->blocks[i], in->seq, s->info.n_blocks);
        q->blocks[q->n_blocks++] = in->blocks[i];
    }
    return 0;
}

static int apply_one(struct sl_stage *s, const struct sl_batch_seq *in, struct sl_err *err)
{
    if (in->seq >= (uint32_t)s->p.max_seqs)
        return sl_err_set(err, SL_EPROTO, "sequence %u is over the limit of %d", in->seq,
                          s->p.max_seqs);
    struct sl_stage_seq *q = &s->seqs[in->seq];
    if (q->batch ==
        s->n_batches) /* two views of one block table: the second may change it under the first */
        return sl_err_set(err, SL_EPROTO, "sequence %u has two shares in one micro-batch", in->seq);
    q->batch = s->n_batches;
    int r = in->flags & SL_SEQ_REGISTER ? do_register(s, q, in, err) : 0;
    if (r) return r;
    if (!q->used) return sl_err_set(err, SL_EPROTO, "sequence %u was never registered", in->seq);
    if (in->pos != q->pos)
        return sl_err_set(err, SL_EPROTO,
                          "sequence %u continues at %d, but the stage holds %d tokens", in->seq,
                          in->pos, q->pos);
    r = add_blocks(s, q, in, err);
    if (r) return r;
    if ((int64_t)in->pos + in->n_tokens > (int64_t)q->n_blocks * s->p.block_tokens)
        return sl_err_set(err, SL_EPROTO, "sequence %u has %d blocks, too few for %d tokens",
                          in->seq, q->n_blocks, in->pos + in->n_tokens);
    for (int i = 0; i < in->n_tokens; i++) {
        if (in->tokens[i] < 0 || in->tokens[i] >= s->c.n_vocab)
            return sl_err_set(err, SL_EPROTO, "token %d is not in the vocabulary of %d",
                              in->tokens[i], s->c.n_vocab);
        if (q->history && sl_history_add(q->history, in->tokens[i], in->pos + i >= q->prompt_len))
            return sl_err_set(err, SL_ENOMEM, "no memory for a sequence's history");
    }
    q->pos += in->n_tokens;
    return 0;
}

int sl_stage_apply(struct sl_stage *s, const struct sl_batch *b, struct sl_err *err)
{
    if (b->n_rows > s->p.max_rows)
        return sl_err_set(err, SL_EPROTO,
                          "a micro-batch of %d rows is over the stage's limit of %d", b->n_rows,
                          s->p.max_rows);
    s->n_batches++;
    int row = 0;
    for (int i = 0; i < b->n_seqs; i++) {
        const struct sl_batch_seq *in = &b->seqs[i];
        int r = apply_one(s, in, err);
        if (r) return r;
        s->views[i] = (struct sl_seq_view){.row = row,
                                           .n = in->n_tokens,
                                           .pos = in->pos,
                                           .blocks = s->seqs[in->seq].blocks,
                                           .slot = (int)in->seq,
                                           .n_blocks = s->seqs[in->seq].n_blocks,
                                           .new_blocks = in->n_blocks};
        for (int k = 0; k < in->n_tokens; k++) s->pos[row++] = in->pos + k;
    }
    return 0;
}
