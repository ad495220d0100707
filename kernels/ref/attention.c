/* attention.c - the caches and attention as their definitions read, in double: the oracle.
 *
 * Attention over keys and values and attention over latents differ only in where an element of a
 * key or a value lies; scores, softmax and sums are one function. */
#include <math.h>

#include "base/sl_assert.h"
#include "kernels/ref/ref.h"

/* ---- where elements lie ---------------------------------------------------------------------- */

/* Index in the cache of element e of a head at a position, in V and in K. */
static int64_t v_at(const struct sl_kv_view *kv, const struct sl_seq_view *s, int head, int pos,
                    int e)
{
    int64_t block = s->blocks[pos / kv->block_tokens], in = pos % kv->block_tokens;
    return ((block * kv->n_kv_heads + head) * kv->block_tokens + in) * kv->head_dim + e;
}

static int64_t k_at(const struct sl_kv_view *kv, const struct sl_seq_view *s, int head, int pos,
                    int e)
{
    int64_t block = s->blocks[pos / kv->block_tokens], in = pos % kv->block_tokens;
    return ((block * kv->n_kv_heads + head) * kv->head_dim + e) * kv->block_tokens + in;
}

static int64_t latent_at(const struct sl_latent_view *kv, const struct sl_seq_view *s, int pos,
                         int e)
{
    int64_t block = s->blocks[pos / kv->block_tokens], in = pos % kv->block_tokens;
    return (block * kv->block_tokens + in) * kv->dim + e;
}

static void cache_put(enum sl_dtype type, void *cache, int64_t at, float x)
{
    if (type == SL_F16)
        ((uint16_t *)cache)[at] = sl_float_to_half(x);
    else if (type == SL_BF16)
        ((uint16_t *)cache)[at] = sl_float_to_bf16(x);
    else
        ((float *)cache)[at] = x;
}

static double cache_get(enum sl_dtype type, const void *cache, int64_t at)
{
    if (type == SL_F16) return (double)sl_half_to_float(((const uint16_t *)cache)[at]);
    if (type == SL_BF16) return (double)sl_bf16_to_float(((const uint16_t *)cache)[at]);
    return (double)((const float *)cache)[at];
}

void sl_ref_kv_write(struct sl_backend *b, const struct sl_kv_view *kv,
                     const struct sl_seq_view *seqs, int n_seqs, const float *k, const float *v)
{
    (void)b;
    int64_t width = (int64_t)kv->n_kv_heads * kv->head_dim;
    for (const struct sl_seq_view *s = seqs; s < seqs + n_seqs; s++)
        for (int i = 0; i < s->n; i++)
            for (int64_t e = 0; e < width; e++) {
                int head = (int)(e / kv->head_dim), in = (int)(e % kv->head_dim), p = s->pos + i;
                int64_t from = (s->row + i) * width + e;
                cache_put(kv->type, kv->k, k_at(kv, s, head, p, in), k[from]);
                cache_put(kv->type, kv->v, v_at(kv, s, head, p, in), v[from]);
            }
}

void sl_ref_latent_write(struct sl_backend *b, const struct sl_latent_view *kv,
                         const struct sl_seq_view *seqs, int n_seqs, const float *x)
{
    (void)b;
    for (const struct sl_seq_view *s = seqs; s < seqs + n_seqs; s++)
        for (int i = 0; i < s->n; i++)
            for (int e = 0; e < kv->dim; e++)
                cache_put(kv->type, kv->rows, latent_at(kv, s, s->pos + i, e),
                          x[(int64_t)(s->row + i) * kv->dim + e]);
}

/* ---- attention ------------------------------------------------------------------------------- */

struct job {
    const struct sl_kv_view *kv; /* one of the two is given */
    const struct sl_latent_view *latent;
    const struct sl_seq_view *seq;
    const struct sl_attn *how;
    const float *q;
    float *out;
    int q_dim, v_dim; /* elements of a head of q and of out */
    double *work;     /* per thread: `stride` of them, for scores and sums */
    int64_t stride;
};

static double key(const struct job *j, int head, int pos, int e)
{
    if (j->latent)
        return cache_get(j->latent->type, j->latent->rows, latent_at(j->latent, j->seq, pos, e));
    return cache_get(j->kv->type, j->kv->k, k_at(j->kv, j->seq, head, pos, e));
}

static double value(const struct job *j, int head, int pos, int e)
{
    if (j->latent) return key(j, head, pos, e);
    return cache_get(j->kv->type, j->kv->v, v_at(j->kv, j->seq, head, pos, e));
}

static double score_of(const struct job *j, const float *q, int head, int pos)
{
    double s = 0, cap = (double)j->how->softcap;
    for (int e = 0; e < j->q_dim; e++) s += (double)q[e] * key(j, head, pos, e);
    s *= (double)j->how->scale;
    return cap != 0 ? cap * tanh(s / cap) : s;
}

/* Query head h of position p over keys from..p: scores, softmax, weighted sum. score has room for
 * p + 1, sum for v_dim. */
static void attend(const struct job *j, const float *q, int h, int p, double *score, double *sum,
                   float *out)
{
    int head = j->kv ? h / (j->how->n_heads / j->kv->n_kv_heads) : 0;
    int from = j->how->window > 0 ? SL_MAX(0, p - j->how->window + 1) : 0;
    double best = j->how->sinks ? (double)j->how->sinks[h] : -INFINITY;
    for (int t = from; t <= p; t++) {
        score[t] = score_of(j, q, head, t);
        if (score[t] > best) best = score[t];
    }
    double total = j->how->sinks ? exp((double)j->how->sinks[h] - best) : 0;
    for (int e = 0; e < j->v_dim; e++) sum[e] = 0;
    for (int t = from; t <= p; t++) {
        double weight = exp(score[t] - best);
        total += weight;
        for (int e = 0; e < j->v_dim; e++) sum[e] += weight * value(j, head, t, e);
    }
    for (int e = 0; e < j->v_dim; e++) out[e] = (float)(sum[e] / total);
}

static void run(void *arg, int thread, int n_threads)
{
    const struct job *j = arg;
    double *work = j->work + thread * j->stride;
    int heads = j->how->n_heads;
    for (int64_t t = thread; t < (int64_t)j->seq->n * heads; t += n_threads) {
        int i = (int)(t / heads), h = (int)(t % heads);
        int64_t at = (int64_t)(j->seq->row + i) * heads + h;
        attend(j, j->q + at * j->q_dim, h, j->seq->pos + i, work + j->v_dim, work,
               j->out + at * j->v_dim);
    }
}

static void run_all(struct sl_backend *b, struct job *j, const struct sl_seq_view *seqs, int n_seqs)
{
    for (j->seq = seqs; j->seq < seqs + n_seqs; j->seq++) {
        if (j->seq->n <= 0) continue;
        j->stride = j->v_dim + j->seq->pos + j->seq->n;
        j->work = sl_scratch_get(&b->attention_scratch, sizeof(double) * (size_t)j->stride *
                                                            (size_t)sl_pool_size(b->pool));
        SL_ASSERT(j->work);
        sl_pool_run(b->pool, run, j);
    }
}

void sl_ref_attention(struct sl_backend *b, const struct sl_kv_view *kv,
                      const struct sl_seq_view *seqs, int n_seqs, const float *q,
                      const struct sl_attn *a, void *out)
{
    struct job j = {
        .kv = kv, .how = a, .q = q, .out = out, .q_dim = kv->head_dim, .v_dim = kv->head_dim};
    run_all(b, &j, seqs, n_seqs);
}

void sl_ref_latent_attention(struct sl_backend *b, const struct sl_latent_view *kv,
                             const struct sl_seq_view *seqs, int n_seqs, const float *q,
                             const struct sl_attn *a, float *out)
{
    struct job j = {
        .latent = kv, .how = a, .q = q, .out = out, .q_dim = kv->dim, .v_dim = kv->v_dim};
    run_all(b, &j, seqs, n_seqs);
}
