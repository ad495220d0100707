/* test_ops.c - every vector row against the reference on odd shapes, and its bits against itself:
 * alone or in a batch, on one thread or three. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/sl_assert.h"
#include "kernels_lib.h"

static const int row_counts[] = {0, 1, 2, 7, 31, 33, 64, 65, 1000};
static const int dims[] = {1, 2, 15, 16, 64, 80, 128, 256, 576, 1000};

/* Calls fn for each vector row with a backend of 1, 2 and 3 threads beside the reference. */
static void each_backend(void (*fn)(struct sl_backend *b, struct sl_backend *ref))
{
    const struct sl_op_row *rows[T_ROWS_MAX];
    int n = t_rows(rows);
    struct sl_backend *ref = t_reference();
    for (int i = 0; i < n; i++)
        for (int threads = 1; threads <= 3; threads++) {
            struct sl_backend *b = t_backend(rows[i], threads);
            fn(b, ref);
            sl_backend_destroy(b);
        }
    sl_backend_destroy(ref);
}

static void check_rmsnorm(struct sl_backend *b, struct sl_backend *ref)
{
    for (size_t d = 0; d < SL_ARRAY_LEN(dims); d++)
        for (size_t r = 0; r < SL_ARRAY_LEN(row_counts); r++) {
            int dim = dims[d], n = row_counts[r];
            int64_t count = (int64_t)n * dim;
            float *x = t_floats(1, count + 1, 3), *gain = t_floats(2, dim, 2);
            float *want = t_floats(3, count + 1, 1), *y = t_floats(3, count + 1, 1);
            ref->ops->rmsnorm(ref, x, gain, 1e-5f, n, dim, want);
            b->ops->rmsnorm(b, x, gain, 1e-5f, n, dim, y);
            t_near(b->row, y, want, count + 1, 1e-7f, 3e-6f); /* and the guard behind */
            for (int i = 0; i < n; i += 13) {                 /* alone, and in place */
                memcpy(want, x + (int64_t)i * dim, sizeof(float) * (size_t)dim);
                b->ops->rmsnorm(b, want, gain, 1e-5f, 1, dim, want);
                t_same(b->row, want, y + (int64_t)i * dim, sizeof(float) * (size_t)dim);
            }
            free(x);
            free(gain);
            free(want);
            free(y);
        }
}

static void rmsnorm(void **state)
{
    (void)state;
    each_backend(check_rmsnorm);
}

struct rope_shape {
    int n_heads, n_kv_heads, head_dim, dims;
};

static void check_rope_shape(struct sl_backend *b, struct sl_backend *ref, struct rope_shape s,
                             int neox, int n)
{
    int64_t nq = (int64_t)n * s.n_heads * s.head_dim, nk = (int64_t)n * s.n_kv_heads * s.head_dim;
    float *q = t_floats(4, nq + 1, 1), *k = t_floats(5, nk + 1, 1);
    float *q2 = t_floats(4, nq + 1, 1), *k2 = t_floats(5, nk + 1, 1);
    float *inv = t_floats(6, s.dims / 2 + 1, 1);
    int32_t *pos = malloc(sizeof(*pos) * (size_t)(n + 1));
    for (int i = 0; i < s.dims / 2; i++) inv[i] = powf(10000.0f, -2.0f * (float)i / (float)s.dims);
    for (int i = 0; i < n; i++) pos[i] = (i * 7919) % 131072;
    const struct sl_rope how = {s.dims, neox, 1.25f, inv};
    const struct sl_rope_part want[] = {{q2, s.n_heads, s.head_dim, 0},
                                        {k2, s.n_kv_heads, s.head_dim, s.head_dim - s.dims}};
    const struct sl_rope_part got[] = {{q, s.n_heads, s.head_dim, 0},
                                       {k, s.n_kv_heads, s.head_dim, s.head_dim - s.dims}};
    ref->ops->rope(ref, &how, want, 2, pos, n);
    b->ops->rope(b, &how, got, 2, pos, n);
    t_near(b->row, q, q2, nq + 1, 1e-6f, 0);
    t_near(b->row, k, k2, nk + 1, 1e-6f, 0);
    for (int i = n - 1; i >= 0; i -= 11) { /* one row alone has the same bits */
        int64_t wq = (int64_t)s.n_heads * s.head_dim, wk = (int64_t)s.n_kv_heads * s.head_dim;
        float *q3 = t_floats(4, nq + 1, 1), *k3 = t_floats(5, nk + 1, 1);
        const struct sl_rope_part one[] = {
            {q3 + i * wq, s.n_heads, s.head_dim, 0},
            {k3 + i * wk, s.n_kv_heads, s.head_dim, s.head_dim - s.dims}};
        b->ops->rope(b, &how, one, 2, pos + i, 1);
        t_same(b->row, q3 + i * wq, q + i * wq, sizeof(float) * (size_t)wq);
        t_same(b->row, k3 + i * wk, k + i * wk, sizeof(float) * (size_t)wk);
        free(q3);
        free(k3);
    }
    free(q);
    free(k);
    free(q2);
    free(k2);
    free(inv);
    free(pos);
}

static void check_rope(struct sl_backend *b, struct sl_backend *ref)
{
    static const struct rope_shape shapes[] = {
        {9, 3, 64, 64}, {2, 2, 2, 2},     {4, 1, 80, 80},
        {3, 1, 96, 48}, {8, 2, 128, 128}, {1, 1, 160, 10},
    };
    for (size_t i = 0; i < SL_ARRAY_LEN(shapes); i++)
        for (int neox = 0; neox < 2; neox++) {
            check_rope_shape(b, ref, shapes[i], neox, 0);
            check_rope_shape(b, ref, shapes[i], neox, 1);
            check_rope_shape(b, ref, shapes[i], neox, 33);
            check_rope_shape(b, ref, shapes[i], neox, 130);
        }
}

static void rope(void **state)
{
    (void)state;
    each_backend(check_rope);
}

/* The kept table must notice new positions and new frequencies behind the same pointers. */
static void rope_table_is_not_stale(void **state)
{
    (void)state;
    const struct sl_op_row *rows[T_ROWS_MAX];
    t_rows(rows);
    struct sl_backend *b = t_backend(rows[0], 1), *ref = t_reference();
    float inv[1] = {1}, k[2], k2[2];
    int32_t pos[1] = {1};
    for (int i = 0; i < 6; i++) {
        float q[2] = {1, 2}, q2[2] = {1, 2};
        memset(k, 0, sizeof(k));
        memset(k2, 0, sizeof(k2));
        const struct sl_rope how = {2, 1, i == 3 ? 2 : 1, inv};
        const struct sl_rope_part got[] = {{q, 1, 2, 0}, {k, 1, 2, 0}};
        const struct sl_rope_part want[] = {{q2, 1, 2, 0}, {k2, 1, 2, 0}};
        b->ops->rope(b, &how, got, 2, pos, 1);
        ref->ops->rope(ref, &how, want, 2, pos, 1);
        t_near("rope", q, q2, 2, 1e-6f, 0);
        if (i % 2)
            pos[0] += 5;
        else
            inv[0] *= 0.5f;
    }
    sl_backend_destroy(b);
    sl_backend_destroy(ref);
}

/* Two kinds of layers in turns: each keeps its table (the same memory), and the right one. */
static void rope_tables_alternate(void **state)
{
    (void)state;
    const struct sl_op_row *rows[T_ROWS_MAX];
    t_rows(rows);
    struct sl_backend *b = t_backend(rows[0], 1), *ref = t_reference();
    float local[2] = {1, 0.1f}, global[2] = {0.5f, 0.01f};
    int32_t pos[3] = {4, 5, 6};
    for (int layer = 0; layer < 8; layer++) {
        if (layer == 5) pos[1] = 77;
        const struct sl_rope how = {4, 1, 1, layer % 3 ? local : global};
        float x[12], want[12];
        for (int i = 0; i < 12; i++) x[i] = want[i] = (float)i;
        const struct sl_rope_part got = {x, 1, 4, 0}, wanted = {want, 1, 4, 0};
        b->ops->rope(b, &how, &got, 1, pos, 3);
        ref->ops->rope(ref, &how, &wanted, 1, pos, 3);
        t_near("rope", x, want, 12, 1e-6f, 1e-6f);
        if (layer != 2) continue;
        for (int i = 0; i < 2; i++) /* spoil both: a table that is used again shows it */
            for (int k = 0; k < 12; k++) ((float *)b->rope[i].cs.ptr)[k] = NAN;
        for (int i = 0; i < 2; i++) {
            const struct sl_rope again = {4, 1, 1, i ? local : global};
            b->ops->rope(b, &again, &got, 1, pos, 3);
            assert_true(isnan(x[0]));
            memset(x, 0, sizeof(x));
        }
        for (int i = 0; i < 2; i++) sl_rope_table_close(&b->rope[i]);
    }
    sl_backend_destroy(b);
    sl_backend_destroy(ref);
}

static const enum sl_act acts[] = {SL_ACT_SILU, SL_ACT_GELU, SL_ACT_GELU_TANH, SL_ACT_SWIGLU_OAI};

static void check_glu(struct sl_backend *b, struct sl_backend *ref)
{
    static const int64_t counts[] = {0, 1, 2, 7, 31, 33, 64, 65, 1000, 70001};
    for (size_t a = 0; a < SL_ARRAY_LEN(acts); a++)
        for (size_t c = 0; c < SL_ARRAY_LEN(counts); c++) {
            int64_t n = counts[c];
            float *g = t_floats(7, n + 1, 30), *u = t_floats(8, n + 1, 12);
            float *want = t_floats(9, n + 1, 1), *y = t_floats(9, n + 1, 1);
            for (int64_t i = 0; i < n; i += 2) g[i] *= 0.1f;
            ref->ops->glu(ref, acts[a], g, u, 1, n, want);
            b->ops->glu(b, acts[a], g, u, 1, n, y);
            t_near(b->row, y, want, n + 1, 1e-9f, 4e-6f);
            for (int64_t i = 0; i < n; i += 17) {
                float one;
                b->ops->glu(b, acts[a], g + i, u + i, 1, 1, &one);
                t_same(b->row, &one, y + i, sizeof(one));
            }
            b->ops->glu(b, acts[a], g, u, 1, n, g); /* in place */
            t_same(b->row, g, y, sizeof(float) * (size_t)n);
            free(g);
            free(u);
            free(want);
            free(y);
        }
}

static void glu(void **state)
{
    (void)state;
    each_backend(check_glu);
}

/* Far out every activation but gpt-oss's is 0 or the identity; NaN stays. */
static void check_glu_extremes(struct sl_backend *b, struct sl_backend *ref)
{
    (void)ref;
    const float g[8] = {-1e30f, -100, -88, 88, 100, 1e30f, 0, NAN}, u[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    for (size_t a = 0; a < 3; a++) {
        float y[8];
        b->ops->glu(b, acts[a], g, u, 1, 8, y);
        for (int i = 0; i < 3; i++) assert_true(fabsf(y[i]) < 1e-30f || i == 0);
        assert_true(isfinite(y[0]));
        for (int i = 3; i < 6; i++) assert_true(fabsf(y[i] / g[i] - 1) < 1e-6f);
        assert_true(y[6] == 0 && isnan(y[7]));
    }
    const float g2[8] = {-1e30f, 1e30f, 8, 7, 1, 0, 1, NAN}, u2[8] = {0, 9, 7, 8, -9, 3, NAN, 0};
    float y[8];
    b->ops->glu(b, SL_ACT_SWIGLU_OAI, g2, u2, 1, 8, y);
    assert_true(isfinite(y[0]) && fabsf(y[1] - 55.99963f) < 1e-4f); /* 8 * 7 * sigmoid(11.914) */
    assert_true(y[1] == y[2] && y[1] == y[3]);
    assert_true(fabsf(y[4] + 6 * 0.845795f) < 1e-5f && y[5] == 0); /* sigmoid(1.702) */
    assert_true(isnan(y[6]) && isnan(y[7]));
}

static void glu_extremes(void **state)
{
    (void)state;
    each_backend(check_glu_extremes);
}

static void check_embed(struct sl_backend *b, struct sl_backend *ref)
{
    enum { ROWS = 50, COLS = 512 };
    for (int type = 0; type < SL_DTYPE_COUNT; type++) {
        enum sl_dtype_kind kind = sl_dtype_kind((enum sl_dtype)type);
        if (kind != SL_KIND_FLOAT && kind != SL_KIND_BLOCK)
            continue; /* the others: test_matrix.c */
        size_t bytes = ROWS * (size_t)sl_dtype_row_bytes((enum sl_dtype)type, COLS);
        uint8_t *data = malloc(bytes);
        float *noise = t_floats(10, (int64_t)bytes, 100);
        for (size_t i = 0; i < bytes; i++)
            data[i] = (uint8_t)((int)noise[i] & 0x3b); /* no NaN, no infinity */
        struct sl_weight w, wr;
        const struct sl_matrix m = sl_matrix_plain((enum sl_dtype)type, ROWS, COLS, data);
        assert_int_equal(b->ops->load(b, SL_USE_EMBED, &m, &w, NULL), 0);
        assert_int_equal(ref->ops->load(ref, SL_USE_EMBED, &m, &wr, NULL), 0);
        int32_t ids[200];
        for (int i = 0; i < 200; i++) ids[i] = (i * 31) % ROWS;
        float *y = t_floats(11, 200 * COLS, 1), *want = t_floats(12, 200 * COLS, 1);
        b->ops->embed(b, &w, ids, 200, y);
        ref->ops->embed(ref, &wr, ids, 200, want);
        t_same(sl_dtype_name((enum sl_dtype)type), y, want, sizeof(float) * 200 * COLS);
        b->ops->embed(b, &w, ids, 0, y);
        b->ops->unload(b, &w);
        ref->ops->unload(ref, &wr);
        free(data);
        free(noise);
        free(y);
        free(want);
    }
}

static void embed(void **state)
{
    (void)state;
    each_backend(check_embed);
}

/* The narrow conversions equal the scalar ones on every interesting bit pattern. */
static void check_narrow(struct sl_backend *b, struct sl_backend *ref)
{
    (void)ref;
    float x[37];
    uint16_t h[38];
    for (uint32_t u = 0; u < 0xffff0000u; u += 0x6d71) {
        for (int i = 0; i < 37; i++) {
            uint32_t bits = u + (uint32_t)i * 0x517;
            memcpy(&x[i], &bits, sizeof(bits));
        }
        if (u % 64 > 4) continue;
        h[37] = 0xabcd;
        b->vec->to_f16(x, 37, h);
        for (int i = 0; i < 37; i++)
            if (!isnan(x[i])) assert_int_equal(h[i], sl_float_to_half(x[i]));
        b->vec->to_bf16(x, 37, h);
        for (int i = 0; i < 37; i++) assert_int_equal(h[i], sl_float_to_bf16(x[i]));
        assert_int_equal(h[37], 0xabcd);
    }
}

static void narrow(void **state)
{
    (void)state;
    each_backend(check_narrow);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm),
        cmocka_unit_test(rope),
        cmocka_unit_test(rope_table_is_not_stale),
        cmocka_unit_test(rope_tables_alternate),
        cmocka_unit_test(glu),
        cmocka_unit_test(glu_extremes),
        cmocka_unit_test(embed),
        cmocka_unit_test(narrow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
