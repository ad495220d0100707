/* test_moe.c - mixtures of experts on the device against the reference backend, all gatings and all
 * forms of weights, from no row to prefill; and their bits: the same again, and a row of decode the
 * same alone as among others. `bench`: tables of speeds. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "tests/gpu/moe_cases.h"

#define N_MAX 1000
#define ERROR_MAX 2e-3 /* rms: weights and hidden values have 11 bits */

static int failures;

static void fail(const char *name, int n, const char *what)
{
    printf("%s, %d rows: %s\n", name, n, what);
    failures++;
}

/* Inputs: normal, rows of unlike magnitude; as product rows hold them. */
static float *inputs(int dim, int louder, void **device)
{
    uint64_t seed = 5;
    size_t bytes = (size_t)(N_MAX * sl_cuda_row_stride(dim));
    float *x = malloc((size_t)N_MAX * (size_t)dim * 4);
    void *rows = malloc(bytes);
    for (int i = 0; i < N_MAX; i++) {
        float size = exp2f((float)louder + 2 * gpu_uniform(&seed));
        for (int k = 0; k < dim; k++) x[i * dim + k] = size * gpu_normal(&seed);
    }
    gpu_rows_make(x, N_MAX, dim, rows);
    gpu_rows_read(rows, N_MAX, dim, x);
    *device = gpu_copy(rows, bytes);
    free(rows);
    return x;
}

/* out = start + the mixture of rows [first, first + n). */
static void device_run(struct sl_cuda *c, const struct moe *m, const void *x, int first, int n,
                       const float *start, float *out)
{
    int dim = m->k->dim;
    size_t bytes = (size_t)n * (size_t)dim * 4;
    float *d = gpu_copy(start + (size_t)first * (size_t)dim, bytes ? bytes : 4);
    struct sl_backend_limits l = {.max_rows = n};
    const struct sl_moe *k = &m->k->m;
    size_t need = sl_cuda_moe_scratch(&l, k->n_experts, k->n_used, k->n_ff, dim),
           had = c->scratch_bytes;
    SL_ASSERT(need <= had);
    c->scratch_bytes = need; /* no more than was asked for */
    cudaMemsetAsync(c->scratch, 0xff, need, c->stream);
    sl_cuda_moe(c, &m->device_m, &m->experts, (const char *)x + first * sl_cuda_row_stride(dim), n,
                dim, d);
    c->scratch_bytes = had;
    gpu_read(c, out, d, bytes);
    gpu_free(d);
}

static void compare(const struct moe_case *k, int n, const float *got, const float *want,
                    const float *start)
{
    double d = 0, s = 0;
    int64_t count = (int64_t)n * k->dim;
    for (int64_t i = 0; i < count; i++) {
        if (isnan(want[i]) != isnan(got[i])) {
            printf("at row %d, column %d: %g, not %g\n", (int)(i / k->dim), (int)(i % k->dim),
                   (double)got[i], (double)want[i]);
            fail(k->name, n, "a NaN more or less");
            return;
        }
        if (isnan(want[i])) continue;
        d += pow((double)got[i] - (double)want[i], 2);
        s += pow((double)want[i] - (double)start[i], 2);
    }
    double error = s > 0 ? sqrt(d / s) : sqrt(d);
    if (!(error <= ERROR_MAX)) {
        int bad = 0, first = -1; /* a row or two: another choice of experts */
        for (int i = 0; i < n; i++) {
            double far = gpu_error(got + i * k->dim, want + i * k->dim, k->dim);
            if (far > ERROR_MAX && !bad++) first = i;
        }
        printf("error %.2e in %d rows from row %d on\n", error, bad, first);
        fail(k->name, n, "not the reference's");
    }
}

static void check_case(struct sl_cuda *c, struct sl_backend *ref, const struct moe_case *k)
{
    static const int rows[] = {0, 1, 2, 7, 16, 31, 64, 65, 128, 1000};
    struct moe m;
    void *x;
    float *host = inputs(k->dim, k->louder, &x);
    size_t count = (size_t)N_MAX * (size_t)k->dim;
    float *start = malloc(count * 4), *want = malloc(count * 4), *got = malloc(count * 4),
          *again = malloc(count * 4);
    uint64_t seed = 3;
    moe_make(c, k, &m);
    for (size_t i = 0; i < count; i++) want[i] = start[i] = gpu_uniform(&seed);
    sl_backend_ops(ref)->moe(ref, &m.host_m, host, N_MAX, k->dim, want);
    for (size_t i = 0; i < SL_ARRAY_LEN(rows); i++) {
        device_run(c, &m, x, 0, rows[i], start, got);
        compare(k, rows[i], got, want, start);
        device_run(c, &m, x, 0, rows[i], start, again);
        if (memcmp(got, again, (size_t)rows[i] * (size_t)k->dim * 4))
            fail(k->name, rows[i], "not the same bits again");
    }
    device_run(c, &m, x, 0, SL_DECODE_ROWS_MAX, start, got);
    for (int first = 0, n = 1; first + n <= SL_DECODE_ROWS_MAX; first += n, n += 2) {
        device_run(c, &m, x, first, n, start, again);
        if (memcmp(got + first * k->dim, again, (size_t)(n * k->dim) * 4))
            fail(k->name, n, "bits that depend on the other rows");
    }
    moe_free(&m);
    free(host), free(start), free(want), free(got), free(again);
    gpu_free(x);
}

int main(int argc, char **argv)
{
    struct sl_cuda *c = gpu_open((size_t)3 << 30, 1, 1, 1, 16);
    struct sl_backend_params how = {.kind = "ref", .n_threads = 4};
    struct sl_backend *ref;
    struct sl_err err;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (sl_backend_create(&how, &ref, &err)) {
        printf("%s\n", err.msg);
        return 1;
    }
    if (argc > 1 && !strcmp(argv[1], "bench"))
        moe_bench(c);
    else
        for (int i = 0; i < moe_cases_n; i++)
            if (argc == 1 || strstr(moe_cases[i].name, argv[1])) check_case(c, ref, &moe_cases[i]);
    sl_backend_destroy(ref);
    gpu_close(c);
    printf("%s\n", failures ? "FAILED" : "ok");
    return failures != 0;
}
