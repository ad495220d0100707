/* test_latent.c - attention over latents (absorbed MLA) and the products per head that go with it:
 * against the reference, and bit for bit against itself in chunks, in batches and on several
 * threads. Cache memory that no token owns holds NaN, so a stray read shows. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "kernels_lib.h"

struct shape {
    int n_heads, dim, v_dim, block_tokens;
    enum sl_dtype type;
    int len, window;
    float softcap;
    int sinks;
};

#define HEADS_MAX 200
static float sinks[HEADS_MAX];

struct cache {
    struct sl_latent_view kv;
    int32_t *blocks[2];
};

static void cache_init(struct cache *c, const struct shape *s)
{
    int per = (s->len + s->block_tokens - 1) / s->block_tokens, n = 2 * per + 1;
    size_t bytes = (size_t)n * (size_t)(s->block_tokens * s->dim) * (s->type == SL_F32 ? 4 : 2);
    c->kv = (struct sl_latent_view){malloc(bytes), s->type, s->block_tokens, s->dim, s->v_dim};
    memset(c->kv.rows, 0xff, bytes);
    for (int q = 0; q < 2; q++) { /* interleaved, the first sequence downwards */
        c->blocks[q] = malloc(sizeof(int32_t) * (size_t)per);
        for (int i = 0; i < per; i++) c->blocks[q][i] = q ? 2 * i + 1 : 2 * (per - i);
    }
}

static void cache_close(struct cache *c)
{
    free(c->kv.rows);
    free(c->blocks[0]);
    free(c->blocks[1]);
}

/* The tokens of a sequence: queries, latents, and what attention makes of them. */
struct seq {
    float *q, *x, *out;
    size_t wq, wx, wo; /* floats of a row */
    size_t bytes;      /* of out */
};

static void seq_init(struct seq *s, const struct shape *h, uint64_t seed)
{
    s->wq = (size_t)(h->n_heads * h->dim);
    s->wx = (size_t)h->dim;
    s->wo = (size_t)(h->n_heads * h->v_dim);
    s->bytes = s->wo * (size_t)h->len * sizeof(float);
    s->q = t_floats(seed, (int64_t)(s->wq * (size_t)h->len), 2);
    s->x = t_floats(seed + 1, (int64_t)(s->wx * (size_t)h->len), 1);
    s->out = t_floats(seed + 2, (int64_t)(s->wo * (size_t)h->len), 1);
}

static void seq_close(struct seq *s)
{
    free(s->q);
    free(s->x);
    free(s->out);
}

static struct sl_attn how_of(const struct shape *h)
{
    return (struct sl_attn){.n_heads = h->n_heads,
                            .scale = 2.0f / sqrtf((float)h->dim),
                            .softcap = h->softcap,
                            .window = h->window,
                            .sinks = h->sinks ? sinks : NULL};
}

/* s in chunks; in front of each, when `other` is given, one more token of that sequence. */
static void run(struct sl_backend *b, const struct shape *h, struct seq *s, struct seq *other,
                int chunk)
{
    const struct sl_attn how = how_of(h);
    struct cache c;
    cache_init(&c, h);
    int pos = 0;
    for (int from = 0; from < h->len; from += chunk, pos++) {
        int n = SL_MIN(chunk, h->len - from), first = other && pos < h->len;
        size_t f = (size_t)from, rows = (size_t)(n + first), p = (size_t)pos, one = (size_t)first;
        struct sl_seq_view views[2] = {{0, first, pos, c.blocks[1], 0, 0, 0},
                                       {first, n, from, c.blocks[0], 0, 0, 0}};
        float *q = malloc(4 * rows * s->wq), *x = malloc(4 * rows * s->wx);
        float *out = malloc(4 * rows * s->wo);
        if (first) {
            memcpy(q, other->q + p * s->wq, 4 * s->wq);
            memcpy(x, other->x + p * s->wx, 4 * s->wx);
        }
        memcpy(q + one * s->wq, s->q + f * s->wq, 4 * (size_t)n * s->wq);
        memcpy(x + one * s->wx, s->x + f * s->wx, 4 * (size_t)n * s->wx);
        b->ops->latent_write(b, &c.kv, views, 2, x);
        b->ops->latent_attention(b, &c.kv, views, 2, q, &how, out);
        if (first) memcpy(other->out + p * s->wo, out, 4 * s->wo);
        memcpy(s->out + f * s->wo, out + one * s->wo, 4 * (size_t)n * s->wo);
        free(q);
        free(x);
        free(out);
    }
    cache_close(&c);
}

static void expect_same(const char *what, const struct sl_backend *b, const struct seq *s,
                        const struct seq *want)
{
    char text[96];
    snprintf(text, sizeof(text), "%s, %s, %d threads", what, b->row, sl_pool_size(b->pool));
    t_same(text, s->out, want->out, s->bytes);
}

static void check_shape(const struct sl_op_row *row, struct sl_backend *ref, const struct shape *h)
{
    struct seq s, want, other;
    seq_init(&s, h, 20);
    seq_init(&want, h, 20);
    seq_init(&other, h, 40);
    run(ref, h, &want, NULL, h->len);
    for (int threads = 1; threads <= 3; threads++) {
        struct sl_backend *b = t_backend(row, threads);
        run(b, h, &s, NULL, h->len);
        if (threads == 1) {
            t_near(row->name, s.out, want.out, (int64_t)(s.bytes / sizeof(float)), 1e-5f, 1e-5f);
            memcpy(want.out, s.out, s.bytes);
        }
        expect_same("whole", b, &s, &want);
        run(b, h, &s, NULL, 1);
        expect_same("token by token", b, &s, &want);
        run(b, h, &s, &other, 23);
        expect_same("batched", b, &s, &want);
        sl_backend_destroy(b);
    }
    seq_close(&s);
    seq_close(&want);
    seq_close(&other);
}

static void shapes_and_bits(void **state)
{
    (void)state;
    static const struct shape cases[] = {
        {4, 40, 32, 16, SL_F16, 1, .window = 0},
        {16, 144, 128, 16, SL_F16, 70, .window = 0},
        {16, 144, 128, 16, SL_BF16, 70, .window = 0},
        {16, 144, 128, 16, SL_F32, 70, .window = 0},
        {3, 19, 7, 5, SL_F16, 140, .window = 0},
        {40, 48, 48, 32, SL_F16, 300, .window = 0},
        {200, 24, 16, 16, SL_F16, 66, .window = 0},
        {128, 576, 512, 64, SL_F16, 3, .window = 0},
        {72, 40, 32, 16, SL_F16, 3, .window = 0}, /* threads share heads: 48 and 24 */
        {2, 1024, 1000, 16, SL_F32, 20, .window = 0},
        {8, 40, 32, 16, SL_F16, 300, .window = 70, .softcap = 2, .sinks = 1},
    };
    const struct sl_op_row *rows[T_ROWS_MAX];
    int n = t_rows(rows);
    struct sl_backend *ref = t_reference();
    for (int r = 0; r < n; r++)
        for (size_t i = 0; i < SL_ARRAY_LEN(cases); i++) check_shape(rows[r], ref, &cases[i]);
    sl_backend_destroy(ref);
}

/* One query at the end of a long cache: spans and heads spread over threads. */
static void long_context(void **state)
{
    (void)state;
    const struct shape h = {64, 72, 64, 16, SL_F16, 3001, .sinks = 1};
    const struct sl_op_row *rows[T_ROWS_MAX];
    int n = t_rows(rows);
    struct sl_backend *ref = t_reference();
    struct seq s;
    struct cache c;
    seq_init(&s, &h, 60);
    cache_init(&c, &h);
    struct sl_seq_view view = {0, h.len, 0, c.blocks[0], 0, 0, 0};
    ref->ops->latent_write(ref, &c.kv, &view, 1, s.x);
    view = (struct sl_seq_view){0, 1, h.len - 1, c.blocks[0], 0, 0, 0};
    float want[64 * 64], first[64 * 64], out[64 * 64];
    const struct sl_attn how = how_of(&h);
    ref->ops->latent_attention(ref, &c.kv, &view, 1, s.q, &how, want);
    for (int r = 0; r < n; r++)
        for (int threads = 1; threads <= 3; threads++) {
            struct sl_backend *b = t_backend(rows[r], threads);
            b->ops->latent_attention(b, &c.kv, &view, 1, s.q, &how, out);
            t_near(rows[r]->name, out, want, 64 * 64, 1e-5f, 1e-5f);
            if (threads == 1) memcpy(first, out, sizeof(out));
            t_same(rows[r]->name, out, first, sizeof(out));
            sl_backend_destroy(b);
        }
    sl_backend_destroy(ref);
    cache_close(&c);
    seq_close(&s);
}

/* ---- products per head ----------------------------------------------------------------------- */

enum { HEADS = 5, COLS = 64, ROWS = 24, N_MAX = 70 };

/* Heads inside wider rows, with a guard between and behind them. */
static void head_matmul_of(struct sl_backend *b, const struct sl_weight *w, int n, const float *x,
                           float *out)
{
    b->ops->head_matmul(b, w, HEADS, x + 3, HEADS * (COLS + 8), COLS + 8, n, out + 5,
                        HEADS * (ROWS + 7) + 1, ROWS + 7);
}

static void head_matmul_type(enum sl_dtype type)
{
    int n_rows, counts[] = {0, 1, 2, 33, N_MAX};
    const char *const *rows = sl_backend_rows(&n_rows);
    int64_t nx = N_MAX * HEADS * (COLS + 8) + 3, ny = N_MAX * (HEADS * (ROWS + 7) + 1) + 5;
    size_t bytes = (size_t)sl_dtype_row_bytes(type, (uint64_t)(HEADS * ROWS * COLS));
    uint8_t *data = malloc(bytes);
    float *x = t_floats(1, nx, 1);
    for (size_t i = 0; i < bytes; i++) data[i] = (uint8_t)(sl_mix64(i) & 0x3b);
    for (size_t c = 0; c < SL_ARRAY_LEN(counts); c++) {
        float *want = t_floats(2, ny, 1), *y = t_floats(2, ny, 1);
        for (int r = 0; r < n_rows; r++)
            for (int threads = 1; threads <= 2; threads++) {
                struct sl_backend_params p = {.kind = rows[r], .n_threads = threads};
                struct sl_backend *b;
                struct sl_weight w[HEADS];
                assert_int_equal(sl_backend_create(&p, &b, NULL), 0);
                for (int h = 0; h < HEADS; h++) {
                    const struct sl_matrix m =
                        sl_matrix_plain(type, ROWS, COLS, data + (size_t)h * bytes / HEADS);
                    assert_int_equal(b->ops->load(b, SL_USE_MATMUL, &m, &w[h], NULL), 0);
                }
                float *out = r == 0 ? want : y;
                head_matmul_of(b, w, counts[c], x, out);
                if (r) t_near(rows[r], y, want, ny, 1e-2f, 1e-3f);
                if (r && counts[c]) { /* a row alone has the same bits */
                    float *one = t_floats(2, ny, 1);
                    int last = counts[c] - 1, stride = HEADS * (ROWS + 7) + 1;
                    head_matmul_of(b, w, 1, x + (int64_t)last * HEADS * (COLS + 8), one);
                    for (int h = 0; h < HEADS; h++)
                        t_same(rows[r], one + 5 + h * (ROWS + 7),
                               y + 5 + (int64_t)last * stride + h * (ROWS + 7), 4 * ROWS);
                    free(one);
                }
                for (int h = 0; h < HEADS; h++) b->ops->unload(b, &w[h]);
                sl_backend_destroy(b);
            }
        free(want);
        free(y);
    }
    free(data);
    free(x);
}

static void head_matmul(void **state)
{
    (void)state;
    head_matmul_type(SL_F32);
    head_matmul_type(SL_F16);
    head_matmul_type(SL_Q8_0);
}

int main(void)
{
    for (int i = 0; i < HEADS_MAX; i++) sinks[i] = (float)(i % 9) - 3;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes_and_bits),
        cmocka_unit_test(long_context),
        cmocka_unit_test(head_matmul),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
