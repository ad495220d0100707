/* matmul_lib.c - see matmul_lib.h. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cpu.h"
#include "base/sl_assert.h"
#include "matmul_lib.h"

enum { STEPS = 127 * 256, POOLS = 3 };

const struct sl_matmul_ops *t_row;
struct sl_scratch t_scratch;
static struct sl_pool *pools[POOLS];
static uint64_t state = 88172645463325252ull;

uint32_t t_rnd(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16);
}

float t_normal(void)
{
    float s = 0;
    for (int i = 0; i < 4; i++) s += (float)(t_rnd() & 0xffffff) / 16777216.0f - 0.5f;
    return s * 1.7f;
}

void *t_grab(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 64) & ~(size_t)63);
    assert_non_null(p);
    return p;
}

float *t_make_x(int n, int64_t cols)
{
    float *x = t_grab((size_t)(n * cols) * sizeof *x);
    for (int64_t i = 0; i < n * cols; i++) x[i] = t_normal();
    if (n > 1) x[cols + (int64_t)(t_rnd() % (uint64_t)cols)] = 1000;
    for (int64_t i = 0; n > 2 && i < cols; i++) x[2 * cols + i] = 0;
    for (int64_t i = 0; n > 3 && i < cols; i++) x[3 * cols + i] *= 1e-25f;
    for (int64_t i = 0; n > 4 && i < SL_MIN(cols, 32); i++) x[4 * cols + i] = 0;
    return x;
}

void t_multiply(int threads, const float *x, int n, const struct sl_product *p, int count)
{
    struct sl_pool **pool = &pools[threads - 1];
    if (!*pool) assert_int_equal(sl_pool_create(NULL, threads, pool, NULL), 0);
    sl_mm_run(t_row->kernels, *pool, &t_scratch, x, n, p, count);
}

double t_float_loss(enum sl_dtype t)
{
    if (strcmp(t_row->row, "amx") != 0) return 0;
    switch (t) {
    case SL_BF16:
    case SL_F8_E4M3:
    case SL_F8_E5M2:
        return 0x1.02p-16;
    case SL_F16: /* cut off, the first plane leaves 2^-7 of the weight, and of x 2^-8 */
    case SL_CB4:
        return 0x1.82p-15;
    default:
        return 0;
    }
}

void t_check_row(const char *name, int64_t rows, int64_t cols, const float *w, const float *x,
                 const float *out, const struct t_bound *b)
{
    double all_x = 0;
    for (int64_t k = 0; k < cols; k++) all_x = fmax(all_x, fabs((double)x[k]));
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0, bound = 1e-37; /* what underflows may be lost */
        for (int64_t k0 = 0; k0 < cols; k0 += T_GROUP) {
            double top_x = b->mixed ? all_x : 0, top_w = b->top_w, sum_x = 0, sum_w = 0;
            for (int64_t k = k0; k < SL_MIN(cols, k0 + T_GROUP); k++) {
                double wk = w[r * cols + k], xk = x[k];
                sum += wk * xk;
                top_x = fmax(top_x, fabs(xk));
                top_w = fmax(top_w, fabs(wk));
                sum_x += fabs(xk);
                sum_w += fabs(wk);
                bound += b->loss * fabs(wk * xk);
            }
            if (!b->is_float) bound += 1.001 * top_x / STEPS / 2 * sum_w + 1e-30 * sum_w;
            bound += 1e-6 * top_w * sum_x;
        }
        if (!(fabs(sum - out[r]) <= bound))
            fail_msg("%s %s %lldx%lld row %lld: %.9g, not %.9g +- %.3g", t_row->row, name,
                     (long long)rows, (long long)cols, (long long)r, (double)out[r], sum, bound);
    }
}

void t_check_batches(const char *name, const struct sl_weight *w, const float *x,
                     const float *alone, const int *ns, int n_ns)
{
    float *out = t_grab((size_t)(T_N_MAX * w->rows) * sizeof *out);
    for (int i = 0; i < n_ns; i++) {
        size_t bytes = (size_t)(ns[i] * w->rows) * sizeof *out;
        memset(out, 0xff, bytes);
        struct sl_product p = {.w = w, .out = out};
        t_multiply(1 + i % 3, x, ns[i], &p, 1);
        if (memcmp(out, alone, bytes) != 0)
            fail_msg("%s %s %lldx%lld: %d rows on %d threads differ from each alone", t_row->row,
                     name, (long long)w->rows, (long long)w->cols, ns[i], 1 + i % 3);
    }
    free(out);
}

int t_each_row(const char *what, const char *only, const struct CMUnitTest *tests, size_t n)
{
    int n_rows, failed = 0;
    const struct sl_matmul_ops *const *rows = sl_matmul_rows(&n_rows);
    for (int i = 0; i < n_rows; i++) {
        if (only && strcmp(only, rows[i]->row) != 0) continue;
        if ((sl_cpu_caps() & rows[i]->caps) != rows[i]->caps) {
            printf("the CPU row %s is not for this CPU\n", rows[i]->row);
            continue;
        }
        t_row = rows[i];
        char name[64];
        snprintf(name, sizeof name, "%s %s", what, t_row->row);
        failed += _cmocka_run_group_tests(name, tests, n, NULL, NULL);
    }
    return failed;
}

int t_rows_agree(const char *name, const struct sl_matrix *m, const float *x, int n)
{
    int n_rows, count = 0;
    const struct sl_matmul_ops *const *rows = sl_matmul_rows(&n_rows);
    size_t bytes = (size_t)(n * m->rows) * sizeof(float);
    float *out[2] = {t_grab(bytes), t_grab(bytes)};
    for (int i = 1; i < n_rows; i++) { /* row 0 is the portable one, without FMA */
        t_row = rows[i];
        if ((sl_cpu_caps() & t_row->caps) != t_row->caps || t_float_loss(m->type) > 0) continue;
        struct sl_weight w = {0};
        assert_int_equal(t_row->load(m, &w, NULL), 0);
        struct sl_product p = {.w = &w, .out = out[count > 0]};
        t_multiply(2, x, n, &p, 1);
        if (count++ > 0 && memcmp(out[0], out[1], bytes) != 0)
            fail_msg("%s: the %s row differs from the %s row", name, t_row->row, rows[1]->row);
        t_row->unload(&w);
    }
    for (int i = 0; i < 2; i++) free(out[i]);
    return count;
}

void t_close(void)
{
    for (int i = 0; i < POOLS; i++) sl_pool_destroy(pools[i]);
    sl_scratch_close(&t_scratch);
}
