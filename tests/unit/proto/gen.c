/* gen.c - see gen.h. */
#include "tests/unit/proto/gen.h"

#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/sl_assert.h"

uint64_t gen_next(struct gen *g)
{
    return sl_mix64(g->state++);
}

int gen_below(struct gen *g, int n)
{
    return (int)(gen_next(g) % (uint64_t)n);
}

static void *own(struct gen *g, size_t n)
{
    SL_ASSERT(g->n_owned < (int)SL_ARRAY_LEN(g->owned));
    void *p = calloc(1, n ? n : 1);
    SL_ASSERT(p);
    g->owned[g->n_owned++] = p;
    return p;
}

void gen_close(struct gen *g)
{
    while (g->n_owned) free(g->owned[--g->n_owned]);
}

static float number(struct gen *g, float from, float to)
{
    return from + (to - from) * (float)gen_below(g, 1001) / 1000;
}

static int32_t *words(struct gen *g, int n)
{
    int32_t *v = own(g, (size_t)n * 4);
    for (int i = 0; i < n; i++) v[i] = (int32_t)(gen_next(g) & INT32_MAX);
    return v;
}

static struct sl_sampling *sampling(struct gen *g)
{
    struct sl_sampling *s = own(g, sizeof *s);
    s->temperature = number(g, 0, 2);
    s->top_k = gen_below(g, 100);
    s->top_p = number(g, 0, 1);
    s->min_p = number(g, 0, 1);
    s->repetition_penalty = number(g, 0.5f, 2);
    s->presence_penalty = number(g, -2, 2);
    s->frequency_penalty = number(g, -2, 2);
    s->seed = gen_next(g);
    s->n_top = gen_below(g, SL_TOP_LOGPROBS_MAX + 1);
    s->n_bias = gen_below(g, 4) ? gen_below(g, 5) : SL_LOGIT_BIAS_MAX;
    for (int i = 0; i < s->n_bias; i++) {
        s->bias[i].token = gen_below(g, 50000);
        s->bias[i].bias = number(g, -100, 100);
    }
    return s;
}

struct sl_batch gen_batch(struct gen *g, int seqs_max)
{
    struct sl_batch b = {.n_seqs = 1 + gen_below(g, seqs_max)};
    b.seqs = own(g, (size_t)b.n_seqs * sizeof *b.seqs);
    for (int i = 0; i < b.n_seqs; i++) {
        struct sl_batch_seq *q = &b.seqs[i];
        q->seq = (uint32_t)gen_below(g, SL_SEQS_MAX);
        q->flags = (uint32_t)gen_below(g, 32);
        q->n_tokens = 1 + gen_below(g, 7);
        q->pos = gen_below(g, INT32_MAX - q->n_tokens);
        q->n_blocks = gen_below(g, 4);
        q->tokens = words(g, q->n_tokens);
        q->blocks = words(g, q->n_blocks);
        q->next = q->flags & SL_SEQ_SCORE ? gen_below(g, 50000) - 1 : -1;
        if (q->flags & SL_SEQ_REGISTER) {
            q->prompt_len = gen_below(g, 100000);
            q->adapter = gen_below(g, SL_ADAPTERS_MAX + 1);
            q->sampling = sampling(g);
        }
        b.n_rows += q->n_tokens;
    }
    return b;
}

static float *floats(struct gen *g, int n)
{
    float *v = own(g, (size_t)n * 4);
    for (int i = 0; i < n; i++) v[i] = number(g, -50, 50);
    return v;
}

struct sl_results gen_results(struct gen *g, int max)
{
    struct sl_results r = {.n_sampled = gen_below(g, max + 1), .n_scored = gen_below(g, max + 1)};
    r.sampled = own(g, (size_t)r.n_sampled * sizeof *r.sampled);
    r.scored = own(g, (size_t)r.n_scored * sizeof *r.scored);
    for (int i = 0; i < r.n_sampled; i++) {
        struct sl_sampled *s = &r.sampled[i];
        s->seq = (uint32_t)gen_below(g, SL_SEQS_MAX);
        s->pos = gen_below(g, INT32_MAX);
        s->token = gen_below(g, 50000);
        s->logprob = number(g, -20, 0);
        s->n_top = gen_below(g, SL_TOP_LOGPROBS_MAX + 1);
        for (int k = 0; k < s->n_top; k++)
            s->top[k] = (struct sl_top){gen_below(g, 50000), number(g, -20, 0)};
    }
    for (int i = 0; i < r.n_scored; i++) {
        struct sl_scored *s = &r.scored[i];
        s->seq = (uint32_t)gen_below(g, SL_SEQS_MAX);
        s->n = gen_below(g, 6);
        s->pos = gen_below(g, 1000000);
        s->n_vocab = gen_below(g, 20);
        if (gen_below(g, 2)) s->logprobs = floats(g, s->n);
        if (gen_below(g, 2)) s->logits = floats(g, s->n * s->n_vocab);
    }
    return r;
}

static int sampling_equal(const struct sl_sampling *a, const struct sl_sampling *b)
{
    return a->temperature == b->temperature && a->top_k == b->top_k && a->top_p == b->top_p &&
           a->min_p == b->min_p && a->repetition_penalty == b->repetition_penalty &&
           a->presence_penalty == b->presence_penalty &&
           a->frequency_penalty == b->frequency_penalty && a->seed == b->seed &&
           a->n_top == b->n_top && a->n_bias == b->n_bias &&
           memcmp(a->bias, b->bias, (size_t)a->n_bias * sizeof *a->bias) == 0;
}

int batch_equal(const struct sl_batch *a, const struct sl_batch *b)
{
    if (a->n_seqs != b->n_seqs || a->n_rows != b->n_rows) return 0;
    for (int i = 0; i < a->n_seqs; i++) {
        const struct sl_batch_seq *p = &a->seqs[i], *q = &b->seqs[i];
        if (p->seq != q->seq || p->flags != q->flags || p->pos != q->pos ||
            p->n_tokens != q->n_tokens || p->n_blocks != q->n_blocks || p->next != q->next ||
            p->adapter != q->adapter || p->prompt_len != q->prompt_len ||
            !p->sampling != !q->sampling)
            return 0;
        if (memcmp(p->tokens, q->tokens, (size_t)p->n_tokens * 4)) return 0;
        if (p->n_blocks && memcmp(p->blocks, q->blocks, (size_t)p->n_blocks * 4)) return 0;
        if (p->sampling && !sampling_equal(p->sampling, q->sampling)) return 0;
    }
    return 1;
}

static int floats_equal(const float *a, const float *b, size_t n)
{
    if (!a != !b) return 0;
    return !a || n == 0 || memcmp(a, b, n * 4) == 0;
}

int results_equal(const struct sl_results *a, const struct sl_results *b)
{
    if (a->n_sampled != b->n_sampled || a->n_scored != b->n_scored) return 0;
    for (int i = 0; i < a->n_sampled; i++) {
        const struct sl_sampled *p = &a->sampled[i], *q = &b->sampled[i];
        if (p->seq != q->seq || p->pos != q->pos || p->token != q->token ||
            p->logprob != q->logprob || p->n_top != q->n_top ||
            memcmp(p->top, q->top, (size_t)p->n_top * sizeof *p->top))
            return 0;
    }
    for (int i = 0; i < a->n_scored; i++) {
        const struct sl_scored *p = &a->scored[i], *q = &b->scored[i];
        if (p->seq != q->seq || p->pos != q->pos || p->n != q->n || p->n_vocab != q->n_vocab ||
            !floats_equal(p->logprobs, q->logprobs, (size_t)p->n) ||
            !floats_equal(p->logits, q->logits, (size_t)p->n * (size_t)p->n_vocab))
            return 0;
    }
    return 1;
}
