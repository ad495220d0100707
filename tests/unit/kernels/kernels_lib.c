/* kernels_lib.c - see kernels_lib.h. */
#include "kernels_lib.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "base/cpu.h"
#include "base/env.h"

int t_rows(const struct sl_op_row *out[T_ROWS_MAX])
{
    int n, k = 0;
    const struct sl_op_row *const *rows = sl_op_rows(&n);
    for (int i = 0; i < n; i++)
        if ((rows[i]->caps & ~sl_cpu_caps()) == 0) out[k++] = rows[i];
    assert_true(k >= 1);
    return k;
}

struct sl_backend *t_backend(const struct sl_op_row *row, int n_threads)
{
    struct sl_backend *b = calloc(1, sizeof(*b));
    assert_non_null(b);
    b->ops = &sl_cpu_ops;
    b->row = row->name;
    b->vec = row;
    assert_int_equal(sl_pool_create(NULL, n_threads, &b->pool, NULL), 0);
    return b;
}

struct sl_backend *t_reference(void)
{
    struct sl_backend *b;
    struct sl_backend_params p = {.kind = "ref", .n_threads = 1};
    assert_int_equal(sl_backend_create(&p, &b, NULL), 0);
    return b;
}

float *t_floats(uint64_t seed, int64_t n, float scale)
{
    float *x = aligned_alloc(64, ((size_t)n * sizeof(float) + 64) / 64 * 64);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) {
        uint64_t u = sl_mix64(seed * 0x10001 + (uint64_t)i);
        x[i] = ((float)(u >> 40) * 0x1p-23f - 1.0f) * scale;
    }
    return x;
}

void t_near(const char *what, const float *a, const float *b, int64_t n, float abs, float rel)
{
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(a[i] - b[i]) <= abs + rel * fabsf(b[i])))
            fail_msg("%s: element %lld is %.9g, want %.9g", what, (long long)i, (double)a[i],
                     (double)b[i]);
}

void t_same(const char *what, const void *a, const void *b, size_t bytes)
{
    const unsigned char *x = a, *y = b;
    for (size_t i = 0; i < bytes; i++)
        if (x[i] != y[i]) fail_msg("%s: byte %zu of %zu differs", what, i, bytes);
}
