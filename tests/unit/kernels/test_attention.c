/* test_attention.c - attention over the paged cache: against the reference, and bit for bit against
 * itself in chunks, in batches and on several threads. Cache memory that no token owns holds NaN,
 * so a stray read shows. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/sl_assert.h"
#include "kernels_lib.h"

struct shape {
    int n_heads, n_kv_heads, d, block_tokens;
    enum sl_dtype type;
    int window;
    float softcap;
    int sinks; /* one per head, from `sinks` below */
};

#define HEADS_MAX 120
static float sinks[HEADS_MAX]; /* from well below the scores to above them */

static struct sl_attn how_of(const struct shape *h)
{
    return (struct sl_attn){.n_heads = h->n_heads,
                            .scale = 1.0f / sqrtf((float)h->d),
                            .softcap = h->softcap,
                            .window = h->window,
                            .sinks = h->sinks ? sinks : NULL};
}

/* A cache and one or two sequences with scattered blocks. */
struct cache {
    struct sl_kv_view kv;
    int32_t *blocks[2];
};

static void cache_init(struct cache *c, const struct shape *s, int len)
{
    int per = (len + s->block_tokens - 1) / s->block_tokens, n = 2 * per + 1;
    size_t bytes =
        (size_t)n * (size_t)(s->n_kv_heads * s->block_tokens * s->d) * (s->type == SL_F32 ? 4 : 2);
    c->kv = (struct sl_kv_view){malloc(bytes),   malloc(bytes), s->type,
                                s->block_tokens, s->n_kv_heads, s->d};
    memset(c->kv.k, 0xff, bytes);
    memset(c->kv.v, 0xff, bytes);
    for (int q = 0; q < 2; q++) { /* interleaved, the first sequence downwards */
        c->blocks[q] = malloc(sizeof(int32_t) * (size_t)per);
        for (int i = 0; i < per; i++) c->blocks[q][i] = q ? 2 * i + 1 : 2 * (per - i);
    }
}

static void cache_close(struct cache *c)
{
    free(c->kv.k);
    free(c->kv.v);
    free(c->blocks[0]);
    free(c->blocks[1]);
}

/* The tokens of a sequence: q, k, v rows, and what attention makes of them. */
struct seq {
    int len;
    float *q, *k, *v, *out;
    size_t wq, wk; /* floats of a row */
};

static void seq_init(struct seq *s, const struct shape *h, int len, uint64_t seed)
{
    s->len = len;
    s->wq = (size_t)(h->n_heads * h->d);
    s->wk = (size_t)(h->n_kv_heads * h->d);
    s->q = t_floats(seed, (int64_t)(s->wq * (size_t)len), 4);
    s->k = t_floats(seed + 1, (int64_t)(s->wk * (size_t)len), 1);
    s->v = t_floats(seed + 2, (int64_t)(s->wk * (size_t)len), 1);
    s->out = t_floats(seed + 3, (int64_t)(s->wq * (size_t)len), 1);
}

static void seq_close(struct seq *s)
{
    free(s->q);
    free(s->k);
    free(s->v);
    free(s->out);
}

/* Positions from..to of one sequence as a micro-batch of its own. */
static void step(struct sl_backend *b, const struct shape *h, struct cache *c, struct seq *s,
                 int from, int to)
{
    struct sl_seq_view view = {0, to - from, from, c->blocks[0], 0, 0, 0};
    size_t f = (size_t)from;
    b->ops->kv_write(b, &c->kv, &view, 1, s->k + f * s->wk, s->v + f * s->wk);
    const struct sl_attn how = how_of(h);
    b->ops->attention(b, &c->kv, &view, 1, s->q + f * s->wq, &how, s->out + f * s->wq);
}

static void run_chunks(struct sl_backend *b, const struct shape *h, struct seq *s, int chunk)
{
    struct cache c;
    cache_init(&c, h, s->len);
    for (int from = 0; from < s->len; from += chunk)
        step(b, h, &c, s, from, SL_MIN(s->len, from + chunk));
    cache_close(&c);
}

/* s in chunks, each micro-batch shared with a second sequence that is decoded one token at a time
 * in front of it. */
static void run_batched(struct sl_backend *b, const struct shape *h, struct seq *s,
                        struct seq *other, int chunk)
{
    struct cache c;
    cache_init(&c, h, SL_MAX(s->len, other->len));
    int pos = 0;
    for (int from = 0; from < s->len; from += chunk, pos++) {
        int n = SL_MIN(chunk, s->len - from), first = pos < other->len;
        size_t rows = (size_t)(n + first), f = (size_t)from;
        struct sl_seq_view views[2] = {{0, first, pos, c.blocks[1], 0, 0, 0},
                                       {first, n, from, c.blocks[0], 0, 0, 0}};
        float *q = malloc(4 * rows * s->wq), *k = malloc(4 * rows * s->wk);
        float *v = malloc(4 * rows * s->wk), *out = malloc(4 * rows * s->wq);
        if (first) {
            memcpy(q, other->q + (size_t)pos * s->wq, 4 * s->wq);
            memcpy(k, other->k + (size_t)pos * s->wk, 4 * s->wk);
            memcpy(v, other->v + (size_t)pos * s->wk, 4 * s->wk);
        }
        memcpy(q + (size_t)first * s->wq, s->q + f * s->wq, 4 * (size_t)n * s->wq);
        memcpy(k + (size_t)first * s->wk, s->k + f * s->wk, 4 * (size_t)n * s->wk);
        memcpy(v + (size_t)first * s->wk, s->v + f * s->wk, 4 * (size_t)n * s->wk);
        b->ops->kv_write(b, &c.kv, views, 2, k, v);
        const struct sl_attn how = how_of(h);
        b->ops->attention(b, &c.kv, views, 2, q, &how, out);
        if (first) memcpy(other->out + (size_t)pos * s->wq, out, 4 * s->wq);
        memcpy(s->out + f * s->wq, out + (size_t)first * s->wq, 4 * (size_t)n * s->wq);
        free(q);
        free(k);
        free(v);
        free(out);
    }
    cache_close(&c);
}

static void expect_same(const char *what, const struct sl_backend *b, const struct seq *s,
                        const float *want)
{
    char text[96];
    snprintf(text, sizeof(text), "%s, %s, %d threads, %d tokens", what, b->row,
             sl_pool_size(b->pool), s->len);
    t_same(text, s->out, want, 4 * s->wq * (size_t)s->len);
}

static void check_shape(const struct sl_op_row *row, struct sl_backend *ref, const struct shape *h,
                        int len)
{
    struct seq s, want, other;
    seq_init(&s, h, len, 20);
    seq_init(&want, h, len, 20);
    seq_init(&other, h, len, 40);
    run_chunks(ref, h, &want, len);
    struct sl_backend *b[3];
    for (int t = 0; t < 3; t++) b[t] = t_backend(row, t + 1);
    run_chunks(b[0], h, &s, len);
    t_near(row->name, s.out, want.out, (int64_t)(s.wq * (size_t)len), 1e-5f, 1e-5f);
    memcpy(want.out, s.out, 4 * s.wq * (size_t)len);
    for (int t = 0; t < 3; t++) {
        run_chunks(b[t], h, &s, len);
        expect_same("whole", b[t], &s, want.out);
        run_chunks(b[t], h, &s, 1);
        expect_same("token by token", b[t], &s, want.out);
        run_chunks(b[t], h, &s, 37);
        expect_same("chunks of 37", b[t], &s, want.out);
        run_batched(b[t], h, &s, &other, 23);
        expect_same("batched", b[t], &s, want.out);
    }
    run_chunks(b[2], h, &other,
               64); /* what the other got, one token at a time, is what it gets alone */
    float *alone = malloc(4 * s.wq * (size_t)len);
    memcpy(alone, other.out, 4 * s.wq * (size_t)len);
    run_batched(b[1], h, &s, &other, 1);
    t_same("the other sequence", other.out, alone, 4 * s.wq * (size_t)len);
    free(alone);
    for (int t = 0; t < 3; t++) sl_backend_destroy(b[t]);
    seq_close(&s);
    seq_close(&want);
    seq_close(&other);
}

static void shapes_and_bits(void **state)
{
    (void)state;
    static const struct {
        struct shape h;
        int len;
    } cases[] = {
        {{9, 3, 64, 16, SL_F16, .window = 0}, 1},
        {{9, 3, 64, 16, SL_F16, .window = 0}, 2},
        {{9, 3, 64, 32, SL_F16, .window = 0}, 65},
        {{9, 3, 64, 32, SL_F16, .window = 0}, 300},
        {{9, 3, 64, 16, SL_BF16, .window = 0}, 130},
        {{9, 3, 64, 16, SL_F32, .window = 0}, 130},
        {{4, 4, 80, 16, SL_F16, .window = 0}, 70},
        {{8, 2, 96, 32, SL_F32, .window = 0}, 100},
        {{8, 1, 128, 16, SL_F16, .window = 0}, 200},
        {{3, 3, 2, 7, SL_F16, .window = 0}, 140},
        {{5, 1, 160, 16, SL_BF16, .window = 0}, 33},
        {{2, 2, 512, 16, SL_F16, .window = 0}, 66},
        {{6, 2, 18, 5, SL_F32, .window = 0}, 64},
        {{120, 1, 8, 16, SL_F16, .window = 0}, 31},
        {{2, 1, 64, 1, SL_F16, .window = 0}, 290},
        /* windows: of one key, within a tile, of a tile, over tiles and spans, longer than all */
        {{4, 2, 32, 16, SL_F16, .window = 1}, 150},
        {{9, 3, 64, 16, SL_F16, .window = 7}, 200},
        {{8, 1, 64, 16, SL_BF16, .window = 64}, 200},
        {{4, 4, 48, 16, SL_F32, .window = 100}, 420},
        {{4, 2, 64, 16, SL_F16, .window = 300}, 700},
        {{4, 2, 18, 5, SL_F32, .window = 65}, 300},
        {{4, 2, 64, 16, SL_F16, .window = 5000}, 130},
        {{8, 2, 64, 16, SL_F16, .softcap = 2}, 130},
        {{3, 3, 2, 7, SL_F16, .softcap = 50}, 70},
        {{8, 2, 64, 16, SL_F16, .sinks = 1}, 600},
        {{64, 8, 64, 16, SL_F16, .window = 128, .sinks = 1}, 200},
        {{6, 2, 32, 16, SL_F32, .window = 20, .softcap = 1, .sinks = 1}, 330},
    };
    const struct sl_op_row *rows[T_ROWS_MAX];
    int n = t_rows(rows);
    struct sl_backend *ref = t_reference();
    for (int r = 0; r < n; r++)
        for (size_t i = 0; i < SL_ARRAY_LEN(cases); i++)
            check_shape(rows[r], ref, &cases[i].h, cases[i].len);
    sl_backend_destroy(ref);
}

/* One query at the end of a long cache: spans spread over threads give the bits of one thread, near
 * the reference. */
static void long_context_of(struct shape h)
{
    const int len = 6001;
    const struct sl_op_row *rows[T_ROWS_MAX];
    int n = t_rows(rows);
    struct sl_backend *ref = t_reference();
    struct seq s;
    struct cache c;
    seq_init(&s, &h, len, 60);
    cache_init(&c, &h, len);
    struct sl_seq_view view = {0, len, 0, c.blocks[0], 0, 0, 0};
    ref->ops->kv_write(ref, &c.kv, &view, 1, s.k, s.v);
    view = (struct sl_seq_view){0, 1, len - 1, c.blocks[0], 0, 0, 0};
    float want[576], first[576], out[576];
    const struct sl_attn how = how_of(&h);
    ref->ops->attention(ref, &c.kv, &view, 1, s.q, &how, want);
    for (int r = 0; r < n; r++)
        for (int threads = 1; threads <= 3; threads++) {
            struct sl_backend *b = t_backend(rows[r], threads);
            b->ops->attention(b, &c.kv, &view, 1, s.q, &how, out);
            t_near(rows[r]->name, out, want, 576, 1e-5f, 1e-5f);
            if (threads == 1) memcpy(first, out, sizeof(out));
            t_same(rows[r]->name, out, first, sizeof(out));
            sl_backend_destroy(b);
        }
    sl_backend_destroy(ref);
    cache_close(&c);
    seq_close(&s);
}

static void long_context(void **state)
{
    (void)state;
    long_context_of((struct shape){9, 3, 64, 16, SL_F16, .window = 0});
    long_context_of((struct shape){9, 3, 64, 16, SL_F16, .sinks = 1});
    long_context_of((struct shape){9, 3, 64, 16, SL_F16, .window = 1500, .softcap = 3, .sinks = 1});
}

/* A window's end: with values that are 1 in one key and 0 elsewhere and equal scores, the output is
 * 1 / (keys + sinks) as long as the key is seen, and keys out of sight may be infinite. */
static void window_and_sinks_by_hand(void **state)
{
    (void)state;
    enum { LEN = 400, WINDOW = 130, MARK = 70 };
    const struct shape h = {4, 2, 16, 16, SL_F32, .window = WINDOW, .sinks = 1};
    const struct sl_op_row *rows[T_ROWS_MAX];
    int n = t_rows(rows);
    for (int r = 0; r <= n; r++) {
        struct sl_backend *b = r < n ? t_backend(rows[r], 2) : t_reference();
        struct seq s;
        seq_init(&s, &h, LEN, 80);
        for (int i = 0; i < LEN; i++)
            for (size_t e = 0; e < s.wk; e++) {
                s.k[(size_t)i * s.wk + e] = 0;
                s.v[(size_t)i * s.wk + e] = i < MARK ? INFINITY : i == MARK;
            }
        run_chunks(b, &h, &s, 50);
        for (int i = MARK; i < LEN; i++)
            for (int q = 0; q < h.n_heads; q++) {
                float y = s.out[(size_t)i * s.wq + (size_t)q * 16];
                if (i - WINDOW < MARK - 1) {
                    assert_false(isfinite(y)); /* still sees an infinite value */
                    continue;
                }
                float want = i - MARK < WINDOW ? 1 / ((float)WINDOW + expf(sinks[q])) : 0;
                assert_true(fabsf(y - want) <= 1e-6f * want);
            }
        seq_close(&s);
        sl_backend_destroy(b);
    }
}

/* A token whose key and value are infinite spoils itself and those after it, never those before. */
static void no_look_ahead(void **state)
{
    (void)state;
    const struct shape h = {4, 2, 32, 16, SL_F32, .window = 0};
    const struct sl_op_row *rows[T_ROWS_MAX];
    int n = t_rows(rows);
    for (int r = 0; r < n; r++) {
        struct sl_backend *b = t_backend(rows[r], 1);
        struct seq s;
        seq_init(&s, &h, 100, 70);
        run_chunks(b, &h, &s, 100);
        float *want = malloc(4 * s.wq * 100);
        memcpy(want, s.out, 4 * s.wq * 100);
        for (size_t e = 0; e < s.wk; e++) s.k[80 * s.wk + e] = s.v[80 * s.wk + e] = INFINITY;
        run_chunks(b, &h, &s, 100);
        t_same(rows[r]->name, s.out, want, 4 * s.wq * 80);
        assert_true(isnan(s.out[80 * s.wq]));
        free(want);
        seq_close(&s);
        sl_backend_destroy(b);
    }
}

static void empty_batches(void **state)
{
    (void)state;
    const struct shape h = {4, 2, 32, 16, SL_F16, .window = 0};
    const struct sl_op_row *rows[T_ROWS_MAX];
    int n = t_rows(rows);
    struct cache c;
    cache_init(&c, &h, 16);
    for (int r = 0; r < n; r++) {
        struct sl_backend *b = t_backend(rows[r], 2);
        struct sl_seq_view view = {0, 0, 5, c.blocks[0], 0, 0, 0};
        float out = 7;
        b->ops->kv_write(b, &c.kv, &view, 1, NULL, NULL);
        const struct sl_attn how = {.n_heads = 4, .scale = 1};
        b->ops->attention(b, &c.kv, &view, 1, NULL, &how, &out);
        b->ops->attention(b, &c.kv, NULL, 0, NULL, &how, &out);
        assert_true(out == 7);
        sl_backend_destroy(b);
    }
    cache_close(&c);
}

int main(void)
{
    for (int i = 0; i < HEADS_MAX; i++) sinks[i] = (float)(i % 9) - 3;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes_and_bits),
        cmocka_unit_test(long_context),
        cmocka_unit_test(window_and_sinks_by_hand),
        cmocka_unit_test(no_look_ahead),
        cmocka_unit_test(empty_batches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
