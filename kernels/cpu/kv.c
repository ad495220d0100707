/* kv.c - new keys and values into the paged cache. */
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

static void put(const struct sl_op_row *vec, const struct sl_kv_view *kv, char *base, int64_t at,
                const float *x)
{
    switch (kv->type) {
    case SL_F16:
        vec->to_f16(x, kv->head_dim, (uint16_t *)base + at);
        break;
    case SL_BF16:
        vec->to_bf16(x, kv->head_dim, (uint16_t *)base + at);
        break;
    default:
        memcpy((float *)base + at, x, sizeof(float) * (size_t)kv->head_dim);
    }
}

static void write_row(const struct job *j, const struct sl_seq_view *s, int i)
{
    const struct sl_kv_view *kv = j->kv;
    int p = s->pos + i;
    int64_t block = s->blocks[p / kv->block_tokens], width = (int64_t)kv->n_kv_heads * kv->head_dim;
    for (int h = 0; h < kv->n_kv_heads; h++) {
        int64_t at =
            ((block * kv->n_kv_heads + h) * kv->block_tokens + p % kv->block_tokens) * kv->head_dim;
        int64_t from = (s->row + i) * width + h * kv->head_dim;
        put(j->vec, kv, kv->k, at, j->k + from);
        put(j->vec, kv, kv->v, at, j->v + from);
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
    SL_ASSERT(kv->type == SL_F32 || kv->type == SL_F16 || kv->type == SL_BF16);
    struct job j = {b->vec, kv, seqs, n_seqs, k, v};
    int64_t rows = 0;
    for (int s = 0; s < n_seqs; s++) rows += seqs[s].n;
    sl_cpu_run(b, rows * kv->n_kv_heads * kv->head_dim * 2, run, &j);
}
