/* rope.c - rotary positions. (Su et al. 2021)
 *
 * Angles are computed in double precision: at position 100000 a float angle is already wrong in the
 * third digit. The table of one batch is kept, because every layer of a step asks for the same
 * positions and frequencies. */
#include <math.h>
#include <string.h>

#include "base/sl_assert.h"
#include "kernels/backend.h"

struct fill_job {
    float *cs; /* [n][2 * half]: cosines, then sines */
    const float *inv_freq;
    const int32_t *pos;
    int n, half;
};

static void fill(void *arg, int thread, int n_threads)
{
    const struct fill_job *j = arg;
    int64_t from, to;
    sl_pool_share(j->n, 1, thread, n_threads, &from, &to);
    for (int64_t r = from; r < to; r++) {
        float *cs = j->cs + r * 2 * j->half;
        for (int i = 0; i < j->half; i++) {
            double a = (double)j->pos[r] * (double)j->inv_freq[i];
            cs[i] = (float)cos(a);
            cs[j->half + i] = (float)sin(a);
        }
    }
}

#define SINCOS_WORK 32 /* one angle costs about as much as this many elements of other work */

/* The table for these positions: the kept one when nothing changed. */
static const float *table(struct sl_backend *b, const float *inv_freq, const int32_t *pos, int n,
                          int half)
{
    struct sl_rope_table *t = &b->rope;
    size_t pos_bytes = sizeof(*pos) * (size_t)n, freq_bytes = sizeof(*inv_freq) * (size_t)half;
    char *key = t->key.ptr;
    if (t->n == n && t->half == half && key && memcmp(key, pos, pos_bytes) == 0 &&
        memcmp(key + pos_bytes, inv_freq, freq_bytes) == 0)
        return t->cs.ptr;
    key = sl_scratch_get(&t->key, pos_bytes + freq_bytes);
    float *cs = sl_scratch_get(&t->cs, 2 * sizeof(float) * (size_t)n * (size_t)half);
    SL_ASSERT(key && cs);
    memcpy(key, pos, pos_bytes);
    memcpy(key + pos_bytes, inv_freq, freq_bytes);
    t->n = n;
    t->half = half;
    struct fill_job j = {cs, inv_freq, pos, n, half};
    sl_cpu_run(b, (int64_t)n * half * SINCOS_WORK, fill, &j);
    return cs;
}

void sl_rope_table_close(struct sl_rope_table *t)
{
    sl_scratch_close(&t->cs);
    sl_scratch_close(&t->key);
    t->n = t->half = 0;
}

struct job {
    void (*turn)(float *x, const float *cs, int half);
    float *q, *k;
    int n_heads, n_kv_heads, head_dim, half, n;
    const float *cs;
};

static void run(void *arg, int thread, int n_threads)
{
    const struct job *j = arg;
    int64_t from, to;
    sl_pool_share(j->n, 1, thread, n_threads, &from, &to);
    for (int64_t r = from; r < to; r++) {
        const float *cs = j->cs + r * 2 * j->half;
        float *q = j->q + r * j->n_heads * j->head_dim, *k = j->k + r * j->n_kv_heads * j->head_dim;
        for (int h = 0; h < j->n_heads; h++) j->turn(q + h * j->head_dim, cs, j->half);
        for (int h = 0; h < j->n_kv_heads; h++) j->turn(k + h * j->head_dim, cs, j->half);
    }
}

void sl_cpu_rope(struct sl_backend *b, float *q, int n_heads, float *k, int n_kv_heads,
                 int head_dim, int dims, int neox, const float *inv_freq, const int32_t *pos, int n)
{
    SL_ASSERT(dims % 2 == 0 && dims <= head_dim);
    if (n <= 0 || dims <= 0) return;
    struct job j = {.turn = neox ? b->vec->rope_neox : b->vec->rope_pairs,
                    .q = q,
                    .k = k,
                    .n_heads = n_heads,
                    .n_kv_heads = n_kv_heads,
                    .head_dim = head_dim,
                    .half = dims / 2,
                    .n = n,
                    .cs = table(b, inv_freq, pos, n, dims / 2)};
    sl_cpu_run(b, (int64_t)n * (n_heads + n_kv_heads) * dims, run, &j);
}
