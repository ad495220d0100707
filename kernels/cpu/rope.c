/* rope.c - rotary positions. (Su et al. 2021)
 *
 * Angles are computed in double precision: at position 100000 a float angle is already wrong in the
 * third digit. Tables are kept, because the layers of a step ask for the same positions and for few
 * kinds of frequencies, in turns (Gemma 3: one for local, one for global layers). */
#include <math.h>
#include <string.h>

#include "base/sl_assert.h"
#include "kernels/backend.h"

struct fill_job {
    float *cs; /* [n][2 * half]: cosines, then sines */
    const struct sl_rope *rope;
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
            double a = (double)j->pos[r] * (double)j->rope->inv_freq[i];
            cs[i] = (float)(cos(a) * (double)j->rope->scale);
            cs[j->half + i] = (float)(sin(a) * (double)j->rope->scale);
        }
    }
}

#define SINCOS_WORK 32 /* one angle costs about as much as this many elements of other work */

static int is_of(const struct sl_rope_table *t, const struct sl_rope *r, const int32_t *pos, int n)
{
    size_t pos_bytes = sizeof(*pos) * (size_t)n;
    const char *key = t->key.ptr;
    return key && t->n == n && t->half == r->dims / 2 && t->scale == r->scale &&
           memcmp(key, pos, pos_bytes) == 0 &&
           memcmp(key + pos_bytes, r->inv_freq, sizeof(float) * (size_t)t->half) == 0;
}

/* The table for these positions: a kept one, or a new one in the place of the longest unused. */
static const float *table(struct sl_backend *b, const struct sl_rope *r, const int32_t *pos, int n)
{
    struct sl_rope_table *t = &b->rope[0];
    int half = r->dims / 2;
    b->rope_uses++;
    for (int i = 0; i < SL_ROPE_TABLES; i++) {
        if (is_of(&b->rope[i], r, pos, n)) {
            b->rope[i].used = b->rope_uses;
            return b->rope[i].cs.ptr;
        }
        if (b->rope[i].used < t->used) t = &b->rope[i];
    }
    size_t pos_bytes = sizeof(*pos) * (size_t)n, freq_bytes = sizeof(float) * (size_t)half;
    char *key = sl_scratch_get(&t->key, pos_bytes + freq_bytes);
    float *cs = sl_scratch_get(&t->cs, 2 * sizeof(float) * (size_t)n * (size_t)half);
    SL_ASSERT(key && cs);
    memcpy(key, pos, pos_bytes);
    memcpy(key + pos_bytes, r->inv_freq, freq_bytes);
    t->n = n;
    t->half = half;
    t->scale = r->scale;
    t->used = b->rope_uses;
    struct fill_job j = {cs, r, pos, n, half};
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
    const struct sl_rope_part *parts;
    int n_parts, half, n;
    const float *cs;
};

static void run(void *arg, int thread, int n_threads)
{
    const struct job *j = arg;
    int64_t from, to;
    sl_pool_share(j->n, 1, thread, n_threads, &from, &to);
    for (int64_t r = from; r < to; r++) {
        const float *cs = j->cs + r * 2 * j->half;
        for (const struct sl_rope_part *p = j->parts; p < j->parts + j->n_parts; p++)
            for (int h = 0; h < p->n_heads; h++)
                j->turn(p->x + (r * p->n_heads + h) * p->head_dim + p->offset, cs, j->half);
    }
}

void sl_cpu_rope(struct sl_backend *b, const struct sl_rope *r, const struct sl_rope_part *parts,
                 int n_parts, const int32_t *pos, int n)
{
    SL_ASSERT(r->dims % 2 == 0);
    if (n <= 0 || r->dims <= 0) return;
    int heads = 0;
    for (int i = 0; i < n_parts; i++) {
        SL_ASSERT(parts[i].offset + r->dims <= parts[i].head_dim);
        heads += parts[i].n_heads;
    }
    struct job j = {.turn = r->neox ? b->vec->rope_neox : b->vec->rope_pairs,
                    .parts = parts,
                    .n_parts = n_parts,
                    .half = r->dims / 2,
                    .n = n,
                    .cs = table(b, r, pos, n)};
    sl_cpu_run(b, (int64_t)n * heads * r->dims, run, &j);
}
