/* test_matmul.c - every CPU row x every format against a double-precision sum over sl_dequantize's
 * values, and the promise of kernels.h that a row's bits do not depend on the other rows, on their
 * number or on the threads. Float and block formats; planar ones in test_matmul_planar.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cpu.h"
#include "base/sl_assert.h"
#include "matmul_lib.h"

/* Weights of the largest shape tried. Sanitizers make it all ten times slower, and what they look
 * for shows at the edges, which small shapes have too. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SHAPE_MAX 40000
#else
#define SHAPE_MAX INT64_MAX
#endif

enum { CHECKED = 6 /* rows of x held against the reference */ };

/* ---- weights --------------------------------------------------------------------------------- */

/* A scale: mostly ordinary, sometimes zero, subnormal or negative. */
static void put_half(uint8_t *at)
{
    uint16_t h = sl_float_to_half(0.002f + 0.02f * fabsf(t_normal()));
    switch (t_rnd() % 16) {
    case 0:
        h = 0;
        break;
    case 1:
        h = 1 + t_rnd() % 0x3ff;
        break;
    case 2:
    case 3:
        h |= 0x8000;
        break;
    default:
        break;
    }
    memcpy(at, &h, sizeof h);
}

static void put_block(enum sl_dtype t, uint8_t *b)
{
    float f = t_normal() * 0.05f;
    uint16_t h;
    for (int i = 0; i < sl_dtype_block_bytes(t); i++) b[i] = (uint8_t)t_rnd();
    switch (t) {
    case SL_F32:
        memcpy(b, &f, sizeof f);
        break;
    case SL_F16:
        h = t_rnd() % 50 ? sl_float_to_half(f) : (uint16_t)(t_rnd() % 0x400);
        memcpy(b, &h, sizeof h);
        break;
    case SL_BF16:
        h = sl_float_to_bf16(f);
        memcpy(b, &h, sizeof h);
        break;
    case SL_Q6_K:
        put_half(b + 208);
        break;
    case SL_Q2_K:
        put_half(b + 82);
        put_half(b + 80);
        break;
    case SL_Q3_K:
        put_half(b + 108);
        break;
    case SL_MXFP4: /* 2^-10 .. 2^-3; the smallest now and then */
        b[0] = t_rnd() % 16 ? (uint8_t)(117 + t_rnd() % 8) : (uint8_t)(t_rnd() % 3);
        break;
    case SL_NVFP4: /* all scales but NaN, zero and subnormals too; ggml reads NaN as zero */
        for (int i = 0; i < 4; i++) b[i] &= 0x7f;
        break;
    case SL_Q4_1:
    case SL_Q5_1:
    case SL_Q4_K:
    case SL_Q5_K:
        put_half(b + 2);
        put_half(b);
        break;
    default:
        put_half(b);
    }
}

static uint8_t *make_weights(enum sl_dtype t, int64_t rows, int64_t cols)
{
    int64_t blocks = rows * cols / sl_dtype_block(t);
    uint8_t *b = t_grab((size_t)blocks * (size_t)sl_dtype_block_bytes(t));
    for (int64_t i = 0; i < blocks; i++) put_block(t, b + i * sl_dtype_block_bytes(t));
    return b;
}

static int is_float(enum sl_dtype t)
{
    return sl_dtype_block(t) == 1;
}

/* ---- one CPU row under test ------------------------------------------------------------------ */

static void load(enum sl_dtype t, int64_t rows, int64_t cols, const void *data, struct sl_weight *w)
{
    struct sl_err err = {0};
    const struct sl_matrix m = sl_matrix_plain(t, rows, cols, data);
    if (t_row->load(&m, w, &err) != 0) fail_msg("%s", err.msg);
    assert_null(w->m.data);
    assert_non_null(w->packed);
    int64_t padded = (rows + 15) / 16 * 16;
    uint64_t file = sl_dtype_row_bytes(t, (uint64_t)cols) * (uint64_t)padded;
    if (t == SL_BF16) file = file / (uint64_t)cols * (uint64_t)((cols + 3) / 4 * 4); /* quads */
    if (w->m.type == t)
        assert_true(w->packed_bytes <= file + file / 10 + (uint64_t)padded / 16 * 64);
}

static void check_shape(enum sl_dtype t, int64_t rows, int64_t cols, const int *ns, int n_ns)
{
    const struct t_bound bound = {.is_float = is_float(t), .loss = t_float_loss(t)};
    int n_max = 0;
    for (int i = 0; i < n_ns; i++) n_max = SL_MAX(n_max, ns[i]);
    uint8_t *file = make_weights(t, rows, cols);
    float *x = t_make_x(n_max, cols), *alone = t_grab((size_t)(n_max * rows) * sizeof *alone);
    float *wide = t_grab((size_t)(rows * cols) * sizeof *wide);
    sl_dequantize(t, file, wide, rows * cols);
    struct sl_weight w = {0};
    load(t, rows, cols, file, &w);
    free(file); /* the packed copy must stand alone */
    for (int i = 0; i < n_max; i++) {
        struct sl_product p = {.w = &w, .out = alone + i * rows};
        t_multiply(1, x + i * cols, 1, &p, 1);
        if (i < CHECKED)
            t_check_row(sl_dtype_name(t), rows, cols, wide, x + i * cols, alone + i * rows, &bound);
    }
    t_check_batches(sl_dtype_name(t), &w, x, alone, ns, n_ns);
    t_row->unload(&w);
    free(x);
    free(alone);
    free(wide);
}

static void test_shapes(void **ctx)
{
    (void)ctx;
    static const int64_t rows[] = {1, 2, 15, 16, 17, 33, 576, 1000};
    static const int64_t cols[] = {32, 64, 256, 288, 576, 1536, 2048};
    static const int many[] = {0, 1, 2, 3, 7, 8, 16, 17, 31, 33, 64, 65}, few[] = {2, 17, 65};
    for (int t = 0; t < SL_F8_E4M3; t++)
        for (size_t r = 0; r < SL_ARRAY_LEN(rows); r++)
            for (size_t c = 0; c < SL_ARRAY_LEN(cols); c++) {
                if (cols[c] % sl_dtype_block(t) != 0 || rows[r] * cols[c] > SHAPE_MAX) continue;
                if (rows[r] * cols[c] <= 20000)
                    check_shape(t, rows[r], cols[c], many, SL_ARRAY_LEN(many));
                else if (rows[r] * cols[c] <= 600000)
                    check_shape(t, rows[r], cols[c], few, SL_ARRAY_LEN(few));
                else
                    check_shape(t, rows[r], cols[c], few, 2);
            }
}

static void test_long_batch(void **ctx)
{
    (void)ctx;
    static const int ns[] = {T_N_MAX, 511, 129};
    for (int t = 0; t < SL_F8_E4M3; t++)
        check_shape(t, 17, 288 % sl_dtype_block(t) ? 512 : 288, ns, SL_ARRAY_LEN(ns));
}

/* Float rows need not be a multiple of anything. */
static void test_odd_columns(void **ctx)
{
    (void)ctx;
    static const int64_t cols[] = {1, 3, 5, 31, 101};
    static const int ns[] = {1, 2, 5, 9};
    for (size_t c = 0; c < SL_ARRAY_LEN(cols); c++) {
        check_shape(SL_F32, 19, cols[c], ns, SL_ARRAY_LEN(ns));
        check_shape(SL_F16, 19, cols[c], ns, SL_ARRAY_LEN(ns));
        check_shape(SL_BF16, 19, cols[c], ns, SL_ARRAY_LEN(ns));
    }
}

/* On ordinary input the quantized paths stay within 2e-5 of sum |w x|. */
static void test_relative_error(void **ctx)
{
    (void)ctx;
    enum { ROWS = 64, COLS = 512 };
    for (int t = 0; t < SL_F8_E4M3; t++) {
        uint8_t *file = make_weights(t, ROWS, COLS);
        float *x = t_make_x(1, COLS), *wide = t_grab(ROWS * COLS * sizeof *wide), out[ROWS];
        sl_dequantize(t, file, wide, ROWS * COLS);
        struct sl_weight w = {0};
        load(t, ROWS, COLS, file, &w);
        struct sl_product p = {.w = &w, .out = out};
        t_multiply(2, x, 1, &p, 1);
        for (int r = 0; r < ROWS; r++) {
            double sum = 0, size = 0;
            for (int k = 0; k < COLS; k++) {
                sum += (double)wide[r * COLS + k] * x[k];
                size += fabs((double)wide[r * COLS + k] * x[k]);
            }
            double limit = is_float(t) ? 1e-6 + t_float_loss(t) : 2e-5;
            assert_true(fabs(sum - out[r]) <= limit * size);
        }
        t_row->unload(&w);
        free(file);
        free(x);
        free(wide);
    }
}

/* Four matrices of unlike heights and formats share one input; bias and ADD do what they say. */
static void test_groups(void **ctx)
{
    (void)ctx;
    enum { COLS = 256, P = 4, N = 70 };
    static const enum sl_dtype types[P] = {SL_Q4_1, SL_F16, SL_Q6_K, SL_Q8_0};
    static const int64_t rows[P] = {48, 17, 1, 33};
    static const int flags[P] = {0, SL_MATMUL_ADD, SL_MATMUL_ADD, 0};
    struct sl_weight w[P];
    struct sl_product p[P];
    float *x = t_make_x(N, COLS), *bias = t_grab(48 * sizeof *bias), *plain[P];
    for (int i = 0; i < 48; i++) bias[i] = t_normal();
    for (int i = 0; i < P; i++) {
        uint8_t *file = make_weights(types[i], rows[i], COLS);
        load(types[i], rows[i], COLS, file, &w[i]);
        free(file);
        size_t count = (size_t)(N * rows[i]);
        plain[i] = t_grab(count * sizeof(float));
        struct sl_product alone = {.w = &w[i], .out = plain[i]};
        t_multiply(1, x, N, &alone, 1);
        p[i] = (struct sl_product){.w = &w[i], .bias = i & 1 ? NULL : bias, .flags = flags[i]};
        p[i].out = t_grab(count * sizeof(float));
        for (size_t j = 0; j < count; j++) p[i].out[j] = 0.5f;
    }
    t_multiply(3, x, N, p, P);
    for (int i = 0; i < P; i++) {
        for (int64_t j = 0; j < N * rows[i]; j++) {
            float want = plain[i][j] + (p[i].bias ? bias[j % rows[i]] : 0);
            if (flags[i]) want = 0.5f + want;
            assert_true(p[i].out[j] == want);
        }
        t_row->unload(&w[i]);
        free(plain[i]);
        free(p[i].out);
    }
    free(x);
    free(bias);
}

/* Infinity and NaN come out as something that is not finite, and stay in their row. */
static void test_not_finite(void **ctx)
{
    (void)ctx;
    enum { COLS = 256, ROWS = 16, N = 4 };
    static const enum sl_dtype types[] = {SL_Q4_0, SL_Q5_1, SL_Q8_0, SL_Q4_K,
                                          SL_Q6_K, SL_F32,  SL_F16,  SL_BF16};
    float *x = t_make_x(N, COLS), out[N * ROWS];
    x[COLS + 40] = NAN;
    x[2 * COLS + 200] = -INFINITY;
    for (size_t t = 0; t < SL_ARRAY_LEN(types); t++) {
        uint8_t *file = make_weights(types[t], ROWS, COLS);
        struct sl_weight w = {0};
        load(types[t], ROWS, COLS, file, &w);
        struct sl_product p = {.w = &w, .out = out};
        t_multiply(1, x, N, &p, 1);
        for (int i = 0; i < N * ROWS; i++)
            assert_int_equal(isfinite(out[i]) != 0, i / ROWS == 0 || i / ROWS == 3);
        t_row->unload(&w);
        free(file);
    }
    free(x);
}

static void test_bad_shapes(void **ctx)
{
    (void)ctx;
    static const int64_t bad[][2] = {{0, 32}, {4, 0}, {-1, 32}, {4, 48}};
    uint8_t file[1024] = {0};
    for (size_t i = 0; i < SL_ARRAY_LEN(bad); i++) {
        struct sl_weight w = {0};
        struct sl_err err = {0};
        const struct sl_matrix m = sl_matrix_plain(SL_Q4_0, bad[i][0], bad[i][1], file);
        assert_int_equal(t_row->load(&m, &w, &err), SL_EINPUT);
        assert_non_null(strstr(err.msg, "Q4_0"));
        assert_null(w.packed);
    }
}

/* Vector rows keep one order of fp32 operations, so a stage on AVX2 gives the bits of one on
 * AVX-512, and AMX where it multiplies integers. */
static void test_rows_agree(void **ctx)
{
    (void)ctx;
    enum { COLS = 768, ROWS = 40, N = 21 };
    float *x = t_make_x(N, COLS);
    int rows = 0;
    for (int t = 0; t < SL_F8_E4M3; t++) {
        uint8_t *file = make_weights(t, ROWS, COLS);
        const struct sl_matrix m = sl_matrix_plain(t, ROWS, COLS, file);
        rows = t_rows_agree(sl_dtype_name(t), &m, x, N);
        free(file);
    }
    free(x);
    if (rows < 2) skip();
}

/* With an argument, only that CPU row. */
int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),      cmocka_unit_test(test_long_batch),
        cmocka_unit_test(test_odd_columns), cmocka_unit_test(test_relative_error),
        cmocka_unit_test(test_groups),      cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_bad_shapes),
    };
    int failed = t_each_row("matmul", argc > 1 ? argv[1] : NULL, tests, SL_ARRAY_LEN(tests));
    static const struct CMUnitTest across[] = {cmocka_unit_test(test_rows_agree)};
    failed += cmocka_run_group_tests(across, NULL, NULL);
    t_close();
    return failed != 0;
}
