/* toy_stage.c - see toy_stage.h. */
#include "tests/unit/coordinator/toy_stage.h"

#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "tests/unit/coordinator/toy.h"

#define TABLE_MAX 256 /* blocks of one sequence */

struct table {
    int registered, n_pos, prompt_len, n_blocks;
    uint64_t seed;
    uint64_t in_batch; /* last micro-batch it had rows in */
    int32_t blocks[TABLE_MAX];
};

struct toy_stage {
    int n_slots, n_blocks, block_tokens, max_rows;
    uint64_t batch;
    struct table *tables;
    int *owner;  /* [n_blocks] slot that was given the block last, -1 */
    int32_t *kv; /* [n_blocks * block_tokens] */
};

struct toy_stage *toy_stage_new(int n_slots, int n_blocks, int block_tokens, int max_rows)
{
    struct toy_stage *s = calloc(1, sizeof *s);
    s->n_slots = n_slots;
    s->n_blocks = n_blocks;
    s->block_tokens = block_tokens;
    s->max_rows = max_rows;
    s->tables = calloc((size_t)n_slots, sizeof *s->tables);
    s->owner = malloc((size_t)n_blocks * sizeof *s->owner);
    s->kv = malloc((size_t)(n_blocks * block_tokens) * sizeof *s->kv);
    toy_stage_reset(s);
    return s;
}

void toy_stage_free(struct toy_stage *s)
{
    if (!s) return;
    free(s->tables);
    free(s->owner);
    free(s->kv);
    free(s);
}

void toy_stage_reset(struct toy_stage *s)
{
    for (int i = 0; i < s->n_slots; i++) s->tables[i].registered = 0;
    for (int i = 0; i < s->n_blocks; i++) s->owner[i] = -1;
}

static void forget(struct toy_stage *s, int slot)
{
    struct table *t = &s->tables[slot];
    for (int i = 0; i < t->n_blocks; i++)
        if (s->owner[t->blocks[i]] == slot) s->owner[t->blocks[i]] = -1;
    t->registered = t->n_blocks = t->n_pos = 0;
}

static const char *give_block(struct toy_stage *s, int slot, int32_t b)
{
    struct table *t = &s->tables[slot];
    if (b < 0 || b >= s->n_blocks) return "a block out of range";
    int old = s->owner[b];
    if (old == slot) return "a block given twice to one sequence";
    if (old >= 0 && s->tables[old].in_batch == s->batch)
        return "a block taken from a sequence of the same micro-batch";
    if (old >= 0)
        s->tables[old].registered = 0; /* it must never be heard of again without REGISTER */
    s->owner[b] = slot;
    if (t->n_blocks == TABLE_MAX) return "too many blocks for one sequence";
    t->blocks[t->n_blocks++] = b;
    return NULL;
}

static const char *run_share(struct toy_stage *s, const struct sl_batch_seq *q)
{
    if (q->seq >= (uint32_t)s->n_slots) return "a sequence slot out of range";
    int slot = (int)q->seq;
    struct table *t = &s->tables[slot];
    if (t->in_batch == s->batch) return "a sequence twice in one micro-batch";
    if (q->flags & SL_SEQ_REGISTER) {
        forget(s, slot);
        t->registered = 1;
        t->prompt_len = q->prompt_len;
        t->seed = q->sampling->seed;
    }
    if (!t->registered)
        return "a sequence that is not registered, or whose blocks were given to others";
    if (q->n_tokens < 1 || q->pos != t->n_pos) return "a position that does not continue";
    t->in_batch = s->batch;
    for (int i = 0; i < q->n_blocks; i++) {
        const char *bad = give_block(s, slot, q->blocks[i]);
        if (bad) return bad;
    }
    t->n_pos += q->n_tokens;
    if (t->n_blocks != (t->n_pos + s->block_tokens - 1) / s->block_tokens)
        return "not as many blocks as the tokens need";
    for (int i = 0; i < t->n_blocks; i++)
        if (s->owner[t->blocks[i]] != slot) return "a block owned by two sequences";
    for (int i = 0; i < q->n_tokens; i++) {
        int pos = q->pos + i;
        s->kv[t->blocks[pos / s->block_tokens] * s->block_tokens + pos % s->block_tokens] =
            q->tokens[i];
    }
    return NULL;
}

const char *toy_stage_run(struct toy_stage *s, const struct sl_batch *b)
{
    int rows = 0;
    s->batch++;
    if (b->n_seqs < 1) return "an empty micro-batch";
    for (int i = 0; i < b->n_seqs; i++) {
        const char *bad = run_share(s, &b->seqs[i]);
        if (bad) return bad;
        rows += b->seqs[i].n_tokens;
    }
    if (rows != b->n_rows) return "a wrong number of rows";
    return rows > s->max_rows ? "more rows than allowed" : NULL;
}

/* The hash of tokens [0, n) as the KV memory has them. */
static uint64_t prefix(const struct toy_stage *s, const struct table *t, int n)
{
    uint64_t h = 0;
    for (int i = 0; i < n; i++)
        h = toy_hash(h,
                     s->kv[t->blocks[i / s->block_tokens] * s->block_tokens + i % s->block_tokens]);
    return h;
}

struct sl_results *toy_stage_answer(const struct toy_stage *s, const struct sl_batch *b)
{
    size_t n = (size_t)b->n_seqs, rows = (size_t)b->n_rows;
    struct sl_results *r = calloc(1, sizeof *r + n * (sizeof *r->sampled + sizeof *r->scored) +
                                         rows * (TOY_VOCAB + 1) * sizeof(float));
    r->scored = (struct sl_scored *)(r + 1); /* before the samples, which are aligned to 4 only */
    r->sampled = (struct sl_sampled *)(r->scored + n);
    float *f = (float *)(r->sampled + n);
    for (int i = 0; i < b->n_seqs; i++) {
        const struct sl_batch_seq *q = &b->seqs[i];
        const struct table *t = &s->tables[q->seq];
        int end = q->pos + q->n_tokens;
        if (q->flags & SL_SEQ_SAMPLE)
            r->sampled[r->n_sampled++] =
                (struct sl_sampled){.seq = q->seq,
                                    .pos = end,
                                    .token = toy_draw(prefix(s, t, end), t->seed, t->prompt_len)};
        if (!(q->flags & (SL_SEQ_SCORE | SL_SEQ_LOGITS))) continue;
        struct sl_scored *v = &r->scored[r->n_scored++];
        *v = (struct sl_scored){.seq = q->seq,
                                .pos = q->pos,
                                .n = q->n_tokens - ((q->flags & SL_SEQ_SCORE) && q->next < 0)};
        v->n_vocab = q->flags & SL_SEQ_LOGITS ? TOY_VOCAB : 0;
        if (q->flags & SL_SEQ_SCORE)
            v->logprobs = f;
        else
            v->logits = f;
        for (int k = 0; k < v->n; k++) {
            uint64_t h = prefix(s, t, q->pos + k + 1);
            if (q->flags & SL_SEQ_SCORE)
                *f++ = toy_logit(h, k + 1 < q->n_tokens ? q->tokens[k + 1] : q->next);
            for (int32_t w = 0; q->flags & SL_SEQ_LOGITS && w < TOY_VOCAB; w++)
                *f++ = toy_logit(h, w);
        }
    }
    return r;
}
