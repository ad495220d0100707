/* ops.c - every operation in plain C, as its definition reads: the oracle for all other rows.
 *
 * Sums run in double, everything else in float32. Nothing is packed, blocked or cached. Only the
 * matmul and the attention use threads (whole outputs each), because a whole model is checked with
 * this backend. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "kernels/backend.h"

static int ref_load(struct sl_backend *b, enum sl_use use, const struct sl_matrix *m,
                    struct sl_weight *w, struct sl_err *err)
{
    (void)b;
    (void)use;
    (void)err;
    *w = (struct sl_weight){.rows = m->rows, .cols = m->cols, .m = *m};
    return 0;
}

static void ref_unload(struct sl_backend *b, struct sl_weight *w)
{
    (void)b;
    *w = (struct sl_weight){0};
}

static void ref_embed(struct sl_backend *b, const struct sl_weight *w, const int32_t *ids, int n,
                      float *out)
{
    (void)b;
    for (int i = 0; i < n; i++) sl_matrix_row(&w->m, ids[i], out + i * w->cols);
}

static void ref_rmsnorm(struct sl_backend *b, const float *x, const float *gain, float eps, int n,
                        int dim, float *out)
{
    (void)b;
    for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        for (int e = 0; e < dim; e++) sum += (double)x[i * dim + e] * (double)x[i * dim + e];
        float r = (float)(1.0 / sqrt(sum / dim + (double)eps));
        for (int e = 0; e < dim; e++) out[i * dim + e] = x[i * dim + e] * r * gain[e];
    }
}

/* ---- matmul ---------------------------------------------------------------------------------- */

#define SUMS 8 /* partial sums: one alone would wait for each addition */

static double dot(const float *a, const float *b, int64_t n)
{
    double sum[SUMS] = {0}, total = 0;
    int64_t i = 0;
    for (; i + SUMS <= n; i += SUMS)
        for (int l = 0; l < SUMS; l++) sum[l] += (double)a[i + l] * (double)b[i + l];
    for (; i < n; i++) total += (double)a[i] * (double)b[i];
    for (int l = 0; l < SUMS; l++) total += sum[l];
    return total;
}

struct matmul_job {
    const float *x;
    int n;
    const struct sl_product *p;
    float *rows; /* one decoded row per thread, `stride` apart */
    int64_t stride;
};

static void matmul_run(void *arg, int thread, int n_threads)
{
    const struct matmul_job *j = arg;
    const struct sl_weight *w = j->p->w;
    float *row = j->rows + thread * j->stride;
    int64_t from, to;
    sl_pool_share(w->rows, 1, thread, n_threads, &from, &to);
    for (int64_t o = from; o < to; o++) {
        sl_matrix_row(&w->m, o, row);
        for (int i = 0; i < j->n; i++) {
            double y = dot(j->x + i * w->cols, row, w->cols);
            float *out = j->p->out + i * w->rows + o;
            if (j->p->bias) y += (double)j->p->bias[o];
            *out = (float)(j->p->flags & SL_MATMUL_ADD ? (double)*out + y : y);
        }
    }
}

static void ref_matmul(struct sl_backend *b, const float *x, int n, const struct sl_product *p,
                       int n_products)
{
    for (int i = 0; i < n_products && n > 0; i++) {
        int64_t stride = (p[i].w->cols + 15) / 16 * 16;
        float *rows = sl_scratch_get(&b->matmul_scratch, (size_t)stride * sizeof(float) *
                                                             (size_t)sl_pool_size(b->pool));
        SL_ASSERT(rows);
        struct matmul_job j = {x, n, &p[i], rows, stride};
        sl_pool_run(b->pool, matmul_run, &j);
    }
}

/* ---- positions ------------------------------------------------------------------------------- */

static void turn(float *x, const struct sl_rope *r, int pos)
{
    for (int i = 0; i < r->dims / 2; i++) {
        double angle = (double)pos * (double)r->inv_freq[i];
        float c = (float)(cos(angle) * (double)r->scale),
              s = (float)(sin(angle) * (double)r->scale);
        float *a = r->neox ? &x[i] : &x[2 * i], *b = r->neox ? &x[i + r->dims / 2] : &x[2 * i + 1];
        float a0 = *a, b0 = *b;
        *a = a0 * c - b0 * s;
        *b = b0 * c + a0 * s;
    }
}

static void ref_rope(struct sl_backend *b, const struct sl_rope *r,
                     const struct sl_rope_part *parts, int n_parts, const int32_t *pos, int n)
{
    (void)b;
    for (const struct sl_rope_part *p = parts; p < parts + n_parts; p++)
        for (int64_t i = 0; i < n; i++)
            for (int h = 0; h < p->n_heads; h++)
                turn(p->x + (i * p->n_heads + h) * p->head_dim + p->offset, r, pos[i]);
}

/* ---- attention ------------------------------------------------------------------------------- */

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

static void cache_put(const struct sl_kv_view *kv, void *cache, int64_t at, float x)
{
    if (kv->type == SL_F16)
        ((uint16_t *)cache)[at] = sl_float_to_half(x);
    else if (kv->type == SL_BF16)
        ((uint16_t *)cache)[at] = sl_float_to_bf16(x);
    else
        ((float *)cache)[at] = x;
}

static float cache_get(const struct sl_kv_view *kv, const void *cache, int64_t at)
{
    if (kv->type == SL_F16) return sl_half_to_float(((const uint16_t *)cache)[at]);
    if (kv->type == SL_BF16) return sl_bf16_to_float(((const uint16_t *)cache)[at]);
    return ((const float *)cache)[at];
}

static void ref_kv_write(struct sl_backend *b, const struct sl_kv_view *kv,
                         const struct sl_seq_view *seqs, int n_seqs, const float *k, const float *v)
{
    (void)b;
    int64_t width = (int64_t)kv->n_kv_heads * kv->head_dim;
    for (const struct sl_seq_view *s = seqs; s < seqs + n_seqs; s++)
        for (int i = 0; i < s->n; i++)
            for (int64_t e = 0; e < width; e++) {
                int head = (int)(e / kv->head_dim), in = (int)(e % kv->head_dim), p = s->pos + i;
                cache_put(kv, kv->k, k_at(kv, s, head, p, in), k[(s->row + i) * width + e]);
                cache_put(kv, kv->v, v_at(kv, s, head, p, in), v[(s->row + i) * width + e]);
            }
}

struct attention_job {
    const struct sl_kv_view *kv;
    const struct sl_seq_view *seq;
    const float *q;
    int n_heads;
    float scale;
    float *out;
    double *work; /* per thread: `stride` of them, for scores and sums */
    int64_t stride;
};

/* One query head at position p: scores, softmax, weighted sum. score has room for p + 1, sum for
 * head_dim. */
static void attend(const struct attention_job *j, const float *q, int head, int p, double *score,
                   double *sum, float *out)
{
    const struct sl_kv_view *kv = j->kv;
    double best = -INFINITY, total = 0;
    for (int t = 0; t <= p; t++) {
        score[t] = 0;
        for (int e = 0; e < kv->head_dim; e++)
            score[t] += (double)q[e] * (double)cache_get(kv, kv->k, k_at(kv, j->seq, head, t, e));
        score[t] *= (double)j->scale;
        if (score[t] > best) best = score[t];
    }
    for (int e = 0; e < kv->head_dim; e++) sum[e] = 0;
    for (int t = 0; t <= p; t++) {
        double weight = exp(score[t] - best);
        total += weight;
        for (int e = 0; e < kv->head_dim; e++)
            sum[e] += weight * (double)cache_get(kv, kv->v, v_at(kv, j->seq, head, t, e));
    }
    for (int e = 0; e < kv->head_dim; e++) out[e] = (float)(sum[e] / total);
}

static void attention_run(void *arg, int thread, int n_threads)
{
    const struct attention_job *j = arg;
    int d = j->kv->head_dim, group = j->n_heads / j->kv->n_kv_heads;
    double *work = j->work + thread * j->stride;
    for (int64_t t = thread; t < (int64_t)j->seq->n * j->n_heads; t += n_threads) {
        int i = (int)(t / j->n_heads), h = (int)(t % j->n_heads);
        int64_t at = ((int64_t)(j->seq->row + i) * j->n_heads + h) * d;
        attend(j, j->q + at, h / group, j->seq->pos + i, work + d, work, j->out + at);
    }
}

static void ref_attention(struct sl_backend *b, const struct sl_kv_view *kv,
                          const struct sl_seq_view *seqs, int n_seqs, const float *q,
                          const struct sl_attn *a, float *out)
{
    SL_ASSERT(a->window == 0 && a->softcap == 0 && !a->sinks);
    for (const struct sl_seq_view *s = seqs; s < seqs + n_seqs; s++) {
        if (s->n <= 0) continue;
        int64_t stride = kv->head_dim + s->pos + s->n;
        double *work = sl_scratch_get(&b->attention_scratch, sizeof(double) * (size_t)stride *
                                                                 (size_t)sl_pool_size(b->pool));
        SL_ASSERT(work);
        struct attention_job j = {kv, s, q, a->n_heads, a->scale, out, work, stride};
        sl_pool_run(b->pool, attention_run, &j);
    }
}

static void ref_glu(struct sl_backend *b, enum sl_act act, const float *gate, const float *up,
                    int64_t count, float *out)
{
    (void)b;
    SL_ASSERT(act == SL_ACT_SILU);
    for (int64_t i = 0; i < count; i++) out[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

const struct sl_backend_ops sl_ref_ops = {
    .name = "ref",
    .load = ref_load,
    .unload = ref_unload,
    .embed = ref_embed,
    .rmsnorm = ref_rmsnorm,
    .matmul = ref_matmul,
    .rope = ref_rope,
    .kv_write = ref_kv_write,
    .attention = ref_attention,
    .glu = ref_glu,
};
