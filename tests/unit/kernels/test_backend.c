/* test_backend.c - choosing a row, refusing what is not there, and the reference's matmul. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/kernels.h"

static void every_listed_row_can_be_made(void **state)
{
    (void)state;
    int n;
    const char *const *rows = sl_backend_rows(&n);
    assert_true(n >= 2);
    assert_string_equal(rows[0], "ref");
    assert_string_equal(rows[1], "portable");
    for (int i = 0; i < n; i++) {
        struct sl_backend *b;
        struct sl_err err;
        struct sl_backend_params p = {.kind = rows[i], .n_threads = 2};
        assert_int_equal(sl_backend_create(&p, &b, &err), 0);
        assert_string_equal(sl_backend_row(b), rows[i]);
        assert_string_equal(sl_backend_ops(b)->name, i ? "cpu" : "ref");
        assert_int_equal(sl_backend_kv_type(b), i ? SL_F16 : SL_F32);
        sl_backend_destroy(b);
    }
}

static void cpu_is_the_best_row_unless_overridden(void **state)
{
    (void)state;
    int n;
    const char *const *rows = sl_backend_rows(&n);
    struct sl_backend *b;
    struct sl_err err;
    struct sl_backend_params p = {.kind = "cpu", .n_threads = 1};
    unsetenv("SLUICE_CPU");
    assert_int_equal(sl_backend_create(&p, &b, &err), 0);
    assert_string_equal(sl_backend_row(b), rows[n - 1]);
    assert_true(sl_backend_measure(b) > 1e8);
    sl_backend_destroy(b);
    setenv("SLUICE_CPU", "portable", 1);
    assert_int_equal(sl_backend_create(&p, &b, &err), 0);
    assert_string_equal(sl_backend_row(b), "portable");
    sl_backend_destroy(b);
    setenv("SLUICE_CPU", "mmx", 1);
    assert_int_equal(sl_backend_create(&p, &b, &err), SL_EUNSUPPORTED);
    assert_non_null(strstr(err.msg, "SLUICE_CPU"));
    assert_non_null(strstr(err.msg, "\"mmx\""));
    assert_non_null(strstr(err.msg, "portable"));
    unsetenv("SLUICE_CPU");
    p.kind = "sparc";
    assert_int_equal(sl_backend_create(&p, &b, &err), SL_EUNSUPPORTED);
    p = (struct sl_backend_params){.kind = "cpu", .n_threads = 0};
    assert_int_equal(sl_backend_create(&p, &b, &err), SL_EINPUT);
    sl_backend_destroy(NULL);
}

/* With and without CUDA, with and without cards: one that is not there is told by its number. */
static void a_card_that_is_not_here(void **state)
{
    static const char *const wrong[] = {"cuda:", "cuda:x", "cuda:1x", "cuda:-1", "cuda:1024"};
    char kind[24], number[16];
    struct sl_backend *b;
    struct sl_err err = {0};
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct sl_backend_params p = {.kind = wrong[i], .n_threads = 1};
        assert_int_equal(sl_backend_create(&p, &b, &err), SL_EINPUT);
        assert_non_null(strstr(err.msg, wrong[i]));
    }
    snprintf(kind, sizeof kind, "cuda:%d", sl_backend_cards());
    snprintf(number, sizeof number, "%d", sl_backend_cards());
    struct sl_backend_params p = {.kind = kind, .n_threads = 1};
    assert_int_equal(sl_backend_create(&p, &b, &err), SL_EUNSUPPORTED);
    assert_non_null(strstr(err.msg, number));
    assert_non_null(strstr(err.msg, ";")); /* a remedy follows */
    assert_true(sl_backend_card_memory(sl_backend_cards()) == 0);
}

static int load(struct sl_backend *b, int rows, int cols, const float *data, struct sl_weight *w)
{
    const struct sl_matrix m = sl_matrix_plain(SL_F32, rows, cols, data);
    return sl_backend_ops(b)->load(b, SL_USE_MATMUL, &m, w, NULL);
}

/* ref: 2 products of one input, one with a bias, one added; any number of threads gives the same
 * bits. */
static void reference_matmul(void **state)
{
    (void)state;
    enum { N = 3, K = 37, A = 5, B = 9 };
    float x[N * K], wa[A * K], wb[B * K], bias[A], first_a[N * A];
    for (int i = 0; i < N * K; i++) x[i] = (float)(i % 7 - 3);
    for (int i = 0; i < A * K; i++) wa[i] = (float)(i % 5 - 2);
    for (int i = 0; i < B * K; i++) wb[i] = (float)(i % 11 - 5);
    for (int i = 0; i < A; i++) bias[i] = 0.5f * (float)i;
    for (int threads = 1; threads <= 3; threads++) {
        struct sl_backend *b;
        struct sl_backend_params bp = {.kind = "ref", .n_threads = threads};
        assert_int_equal(sl_backend_create(&bp, &b, NULL), 0);
        const struct sl_backend_ops *ops = sl_backend_ops(b);
        struct sl_weight a, c;
        assert_int_equal(load(b, A, K, wa, &a), 0);
        assert_int_equal(load(b, B, K, wb, &c), 0);
        float ya[N * A], yb[N * B];
        for (int i = 0; i < N * B; i++) yb[i] = 1000;
        struct sl_product p[2] = {{&a, bias, ya, 0}, {&c, NULL, yb, SL_MATMUL_ADD}};
        ops->matmul(b, x, N, p, 2);
        for (int i = 0; i < N; i++) {
            for (int o = 0; o < A; o++) {
                float want = bias[o];
                for (int e = 0; e < K; e++) want += x[i * K + e] * wa[o * K + e];
                assert_true(ya[i * A + o] == want); /* small integers and halves: exact */
            }
            for (int o = 0; o < B; o++) {
                float want = 1000;
                for (int e = 0; e < K; e++) want += x[i * K + e] * wb[o * K + e];
                assert_true(yb[i * B + o] == want);
            }
        }
        if (threads == 1) memcpy(first_a, ya, sizeof(ya));
        assert_memory_equal(first_a, ya, sizeof(ya));
        ops->matmul(b, x, 0, p, 2);
        ops->unload(b, &a);
        ops->unload(b, &c);
        sl_backend_destroy(b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_listed_row_can_be_made),
        cmocka_unit_test(cpu_is_the_best_row_unless_overridden),
        cmocka_unit_test(a_card_that_is_not_here),
        cmocka_unit_test(reference_matmul),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
