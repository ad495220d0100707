/* kv.c - new keys, values and latents into the paged caches. */
#include <string.h>

#include "base/sl_assert.h"
#include "kernels/backend.h"

struct job {
    const struct sl_op_row *vec;
    const struct sl_kv_view *kv;
    const struct sl_seq_view *seqs;
    int n_seqs;
    const float *k, *v;
};

/* n elements as they are stored. */
static void narrow(const struct sl_op_row *vec, enum sl_dtype type, const float *x, int n,
                   void *out)
{
    if (type == SL_F16)
        vec->to_f16(x, n, out);
    else if (type == SL_BF16)
        vec->to_bf16(x, n, out);
    else
        memcpy(out, x, sizeof(float) * (size_t)n);
}

/* A head's key into every stride-th element: a column of K. */
static void scatter(const struct job *j, const float *x, char *out, int stride)
{
    int d = j->kv->head_dim;
    if (j->kv->type == SL_F32) {
        for (int e = 0; e < d; e++) ((float *)out)[(int64_t)e * stride] = x[e];
        return;
    }
    uint16_t h[SL_HEAD_DIM_MAX];
    narrow(j->vec, j->kv->type, x, d, h);
    for (int e = 0; e < d; e++) ((uint16_t *)out)[(int64_t)e * stride] = h[e];
}

static void write_row(const struct job *j, const struct sl_seq_view *s, int i)
{
    const struct sl_kv_view *kv = j->kv;
    int p = s->pos + i, bt = kv->block_tokens, d = kv->head_dim;
    int64_t block = s->blocks[p / bt], in = p % bt,
            from = (s->row + i) * (int64_t)kv->n_kv_heads * d;
    int64_t size = kv->type == SL_F32 ? 4 : 2;
    for (int h = 0; h < kv->n_kv_heads; h++, from += d) {
        int64_t head = (block * kv->n_kv_heads + h) * bt * d;
        scatter(j, j->k + from, (char *)kv->k + (head + in) * size, bt);
        narrow(j->vec, kv->type, j->v + from, d, (char *)kv->v + (head + in * d) * size);
    }
}

static void run(void *arg, int thread, int n_threads)
{
    const struct job *j = arg;
    for (int s = 0; s < j->n_seqs; s++) {
        int64_t from, to;
        sl_pool_share(j->seqs[s].n, 1, thread, n_threads, &from, &to);
        for (int64_t i = from; i < to; i++) write_row(j, &j->seqs[s], (int)i);
    }
}

void sl_cpu_kv_write(struct sl_backend *b, const struct sl_kv_view *kv,
                     const struct sl_seq_view *seqs, int n_seqs, const float *k, const float *v)
{
    SL_ASSERT(kv->head_dim > 0 && kv->head_dim <= SL_HEAD_DIM_MAX);
    SL_ASSERT(kv->type == SL_F32 || kv->type == SL_F16 || kv->type == SL_BF16);
    struct job j = {b->vec, kv, seqs, n_seqs, k, v};
    int64_t rows = 0;
    for (int s = 0; s < n_seqs; s++) rows += seqs[s].n;
    sl_cpu_run(b, rows * kv->n_kv_heads * kv->head_dim * 2, run, &j);
}

struct latent_job {
    const struct sl_op_row *vec;
    const struct sl_latent_view *kv;
    const struct sl_seq_view *seqs;
    int n_seqs;
    const float *x;
};

static void run_latent(void *arg, int thread, int n_threads)
{
    const struct latent_job *j = arg;
    const struct sl_latent_view *kv = j->kv;
    int64_t from, to, row_bytes = (int64_t)kv->dim * (kv->type == SL_F32 ? 4 : 2);
    for (const struct sl_seq_view *s = j->seqs; s < j->seqs + j->n_seqs; s++) {
        sl_pool_share(s->n, 1, thread, n_threads, &from, &to);
        for (int64_t i = from; i < to; i++) {
            int64_t p = s->pos + i, block = s->blocks[p / kv->block_tokens];
            int64_t row = block * kv->block_tokens + p % kv->block_tokens;
            narrow(j->vec, kv->type, j->x + (s->row + i) * kv->dim, kv->dim,
                   (char *)kv->rows + row * row_bytes);
        }
    }
}

void sl_cpu_latent_write(struct sl_backend *b, const struct sl_latent_view *kv,
                         const struct sl_seq_view *seqs, int n_seqs, const float *x)
{
    SL_ASSERT(kv->type == SL_F32 || kv->type == SL_F16 || kv->type == SL_BF16);
    struct latent_job j = {b->vec, kv, seqs, n_seqs, x};
    int64_t rows = 0;
    for (int s = 0; s < n_seqs; s++) rows += seqs[s].n;
    sl_cpu_run(b, rows * kv->dim, run_latent, &j);
}
