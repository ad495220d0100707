/* test_rows.c - the operations over rows against the reference backend, on odd shapes: norms,
 * copies into product rows, gated units, scaled sums, gathered rows. "bench" prints what they take.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "kernels/cuda/rows.h"
#include "tests/gpu/gpu.h"

#define HALF_ERROR                                                                                 \
    5e-4 /* 2^-11: what rounding to a half may cost, where one element is the row                  \
          */
#define FLOAT_ERROR 1e-6
#define GUARD 64 /* elements behind each output, which must stay */

static const int row_counts[] = {0, 1, 2, 7, 16, 31, 64, 65, 257};
static const int dims[] = {1,    2,    15,   64,   80,   576,   1000,  2880, 4096,
                           4097, 5120, 7168, 8192, 8193, 16384, 18432, 53248};
static struct sl_backend *ref;
static const struct sl_backend_ops *ops;
static int failures;

static void expect(int ok, const char *what, int n, int cols, double value)
{
    if (ok) return;
    printf("FAILED %s, %d rows of %d: %g\n", what, n, cols, value);
    failures++;
}

static float *numbers(uint64_t seed, int64_t n, float size)
{
    float *x = malloc(sizeof *x * (size_t)(n + 1));
    for (int64_t i = 0; i < n; i++) x[i] = size * gpu_normal(&seed);
    return x;
}

/* ---- norms and product rows ------------------------------------------------------------------ */

/* The largest excess of |got - want| over what rounding to halfs of this scale may cost, relative.
 */
static double half_excess(const float *got, const float *want, int n, float scale)
{
    double worst = 0;
    for (int k = 0; k < n; k++) {
        double may = HALF_ERROR * fabs((double)want[k]) + 0x1p-24 * (double)scale;
        worst = fmax(worst, fabs((double)got[k] - (double)want[k]) / may);
    }
    return worst;
}

/* Product rows on the host: scales are powers of two, padding is zero, elements as wanted. */
static void check_rows(const char *what, const char *rows, const float *want, int n, int cols)
{
    int64_t stride = sl_cuda_row_stride(cols), padded = sl_cuda_pad(cols);
    float *got = malloc(sizeof(float) * (size_t)(n * (int64_t)cols + 1));
    gpu_rows_read(rows, n, cols, got);
    for (int i = 0; i < n; i++) {
        const uint16_t *half = (const void *)(rows + i * stride + SL_CUDA_ROW_HEAD);
        float scale;
        int exponent;
        memcpy(&scale, rows + i * stride, sizeof scale);
        expect(frexpf(scale, &exponent) == 0.5f, what, i, cols, (double)scale);
        for (int64_t k = cols; k < padded; k++)
            expect(half[k] == 0, "padding is not zero", i, cols, (double)k);
        double e = half_excess(got + (int64_t)i * cols, want + (int64_t)i * cols, cols, scale);
        expect(e <= 1, what, n, cols, e);
    }
    free(got);
}

static void check_norms(struct sl_cuda *c, int n, int cols)
{
    int64_t count = (int64_t)n * cols;
    size_t bytes = (size_t)(n * sl_cuda_row_stride(cols));
    float *x = numbers(1, count, 1), *gain = numbers(2, cols, 1);
    for (int i = 0; i < n; i++) { /* rows of all magnitudes */
        float size = exp2f((float)(i * 7 % 100 - 50));
        for (int64_t k = 0; k < cols; k++) x[i * (int64_t)cols + k] *= size;
    }
    float *want = numbers(3, count + GUARD, 1),
          *got = malloc(sizeof(float) * (size_t)(count + GUARD));
    char *rows = malloc(bytes + 1);
    void *dx = gpu_copy(x, sizeof(float) * (size_t)count);
    void *dg = gpu_copy(gain, sizeof(float) * (size_t)cols);
    void *out = gpu_copy(want, sizeof(float) * (size_t)(count + GUARD));
    void *drows = gpu_alloc(bytes);

    ops->rmsnorm(ref, x, gain, 1e-5f, n, cols, want);
    sl_cuda_rmsnorm(c, dx, dg, 1e-5f, n, cols, out);
    gpu_read(c, got, out, sizeof(float) * (size_t)(count + GUARD));
    double e = gpu_error(got, want, count);
    expect(e <= FLOAT_ERROR, "rmsnorm", n, cols, e);
    expect(!memcmp(got + count, want + count, sizeof(float) * GUARD), "guard", n, cols, 0);

    sl_cuda_norm_rows(c, dx, dg, 1e-5f, n, cols, drows);
    gpu_read(c, rows, drows, bytes);
    check_rows("norm_rows", rows, want, n, cols);

    sl_cuda_to_rows(c, dx, n, cols, drows);
    gpu_read(c, rows, drows, bytes);
    check_rows("to_rows", rows, x, n, cols);

    if (n > 1 && n <= SL_DECODE_ROWS_MAX) { /* a row alone, in place: the same bits */
        sl_cuda_rmsnorm(c, (float *)dx + cols, dg, 1e-5f, 1, cols, (float *)dx + cols);
        float *alone = malloc(sizeof(float) * (size_t)cols);
        gpu_read(c, alone, (float *)dx + cols, sizeof(float) * (size_t)cols);
        if ((cols * sizeof(float)) % 16 == 0) /* else it is read in other pieces */
            expect(!memcmp(alone, got + cols, sizeof(float) * (size_t)cols), "row alone", n, cols,
                   0);
        e = gpu_error(alone, want + cols, cols);
        expect(e <= FLOAT_ERROR, "rmsnorm in place", n, cols, e);
        free(alone);
    }
    gpu_free(dx), gpu_free(dg), gpu_free(out), gpu_free(drows);
    free(x), free(gain), free(want), free(got), free(rows);
}

/* What a row can hold at the ends of its range: nothing, the largest floats, the smallest, NaN. */
static void check_ends(struct sl_cuda *c)
{
    enum { N = 6, COLS = 80 };
    float x[N][COLS], got[N][COLS];
    char rows[N * (SL_CUDA_ROW_HEAD + 2 * 128)];
    const float size[N] = {0, 3e38f, 1e-38f, 1e-44f, 1, INFINITY};
    uint64_t seed = 9;
    for (int i = 0; i < N; i++)
        for (int k = 0; k < COLS; k++) x[i][k] = k == 7 ? size[i] : size[i] * gpu_uniform(&seed);
    x[4][3] = NAN;
    for (int k = 0; k < COLS; k++) x[5][k] = k == 7 ? INFINITY : 1;
    void *dx = gpu_copy(x, sizeof x), *out = gpu_alloc(sizeof rows);
    sl_cuda_to_rows(c, dx, N, COLS, out);
    gpu_read(c, rows, out, sizeof rows);
    gpu_rows_read(rows, N, COLS, &got[0][0]);
    for (int i = 0; i < 3; i++) {
        double e = gpu_error(got[i], x[i], COLS);
        expect(e <= HALF_ERROR, "to_rows at the ends", i, COLS, e);
    }
    for (int k = 0; k < COLS; k++) {
        expect(fabsf(got[3][k] - x[3][k]) < 1e-38f, "denormal", 3, k, (double)got[3][k]);
        expect(isnan(got[4][k]) == (k == 3), "NaN", 4, k, (double)got[4][k]);
        expect(isinf(got[5][k]) == (k == 7), "infinity", 5, k, (double)got[5][k]);
    }
    gpu_free(dx), gpu_free(out);
}

/* ---- the others ------------------------------------------------------------------------------ */

static void check_glu(struct sl_cuda *c, int n, int cols)
{
    int64_t count = (int64_t)n * cols;
    size_t bytes = (size_t)(n * sl_cuda_row_stride(cols));
    float *gate = numbers(4, count, 4), *up = numbers(5, count, 4);
    float *want = malloc(sizeof(float) * (size_t)(count + 1));
    for (int64_t i = 0; i < count; i += 101) gate[i] *= 100; /* where exp leaves its range */
    void *dg = gpu_copy(gate, sizeof(float) * (size_t)count);
    void *du = gpu_copy(up, sizeof(float) * (size_t)count), *out = gpu_alloc(bytes);
    char *rows = malloc(bytes + 1);
    for (int act = SL_ACT_SILU; act <= SL_ACT_SWIGLU_OAI; act++) {
        ops->glu(ref, (enum sl_act)act, gate, up, n, cols, want);
        sl_cuda_glu(c, (enum sl_act)act, dg, du, n, cols, out);
        gpu_read(c, rows, out, bytes);
        check_rows("glu", rows, want, n, cols);
    }
    gpu_free(dg), gpu_free(du), gpu_free(out);
    free(gate), free(up), free(want), free(rows);
}

/* The fixed scale holds 2^22 and stays at its end beyond. */
static void check_glu_saturates(struct sl_cuda *c)
{
    float gate[8] = {4e6f, 5e6f, 1e30f, -1e30f, 1e30f, NAN, 1e-3f, 0};
    float up[8] = {1, 1, 1e30f, 1, -1, 1, 1, 1};
    const float want[8] = {4e6f,
                           65504 * SL_CUDA_GLU_SCALE,
                           65504 * SL_CUDA_GLU_SCALE,
                           0,
                           -65504 * SL_CUDA_GLU_SCALE,
                           NAN,
                           0.5e-3f,
                           0};
    char rows[SL_CUDA_ROW_HEAD + 2 * SL_CUDA_PAD];
    float got[8];
    void *dg = gpu_copy(gate, sizeof gate), *du = gpu_copy(up, sizeof up);
    void *out = gpu_alloc(sizeof rows);
    sl_cuda_glu(c, SL_ACT_SILU, dg, du, 1, 8, out);
    gpu_read(c, rows, out, sizeof rows);
    gpu_rows_read(rows, 1, 8, got);
    for (int i = 0; i < 8; i++)
        expect(isnan(want[i]) ? isnan(got[i])
                              : fabsf(got[i] - want[i]) <= 1e-3f * fabsf(want[i]) + 1e-6f,
               "glu at the ends", i, 8, (double)got[i]);
    gpu_free(dg), gpu_free(du), gpu_free(out);
}

static void check_mix(struct sl_cuda *c, int n, int cols, int from_more, int to_more)
{
    int64_t from_stride = cols + from_more, to_stride = cols + to_more;
    int64_t nf = n * from_stride, nt = n * to_stride;
    static const float scales[] = {1, -0.37f, 0};
    for (int how = 0; how < 6; how++) {
        float *from = numbers(6, nf, 1), *to = numbers(7, nt, 1);
        float *got = malloc(sizeof(float) * (size_t)(nt + 1)), scale = scales[how / 2];
        void *df = gpu_copy(from, sizeof(float) * (size_t)nf);
        void *dt = gpu_copy(to, sizeof(float) * (size_t)nt);
        ops->mix(ref, from, from_stride, to, to_stride, n, cols, scale, how % 2);
        sl_cuda_mix(c, df, from_stride, dt, to_stride, n, cols, scale, how % 2);
        gpu_read(c, got, dt, sizeof(float) * (size_t)nt);
        double e = gpu_error(got, to, nt);
        expect(e <= FLOAT_ERROR, "mix", n, cols, e);
        gpu_free(df), gpu_free(dt);
        free(from), free(to), free(got);
    }
}

static void check_weigh_rows(struct sl_cuda *c, int n, int dim, int cols)
{
    int64_t nx = (int64_t)n * dim, ny = (int64_t)n * cols;
    size_t bytes_x = (size_t)(n * sl_cuda_row_stride(dim));
    size_t bytes_y = (size_t)(n * sl_cuda_row_stride(cols));
    float *gain = numbers(8, dim, 0.1f), *x = numbers(9, nx, 1), *y = numbers(10, ny, 1);
    char *rows_x = malloc(bytes_x + 1), *rows_y = malloc(bytes_y + 1);
    float *got = malloc(sizeof(float) * (size_t)(ny + 1));
    gpu_rows_make(x, n, dim, rows_x);
    gpu_rows_make(y, n, cols, rows_y);
    gpu_rows_read(rows_x, n, dim, x); /* the reference gets the same numbers */
    gpu_rows_read(rows_y, n, cols, y);
    void *dg = gpu_copy(gain, sizeof(float) * (size_t)dim), *dx = gpu_copy(rows_x, bytes_x);
    void *dy = gpu_copy(rows_y, bytes_y);
    ops->weigh_rows(ref, gain, x, n, dim, y, cols);
    sl_cuda_weigh_rows(c, dg, dx, n, dim, dy, cols);
    gpu_read(c, rows_y, dy, bytes_y);
    gpu_rows_read(rows_y, n, cols, got);
    double e = gpu_error(got, y, ny);
    expect(e <= 1e-5, "weigh_rows", n, dim, e);
    gpu_free(dg), gpu_free(dx), gpu_free(dy);
    free(gain), free(x), free(y), free(rows_x), free(rows_y), free(got);
}

static void check_pick(struct sl_cuda *c, int n, int dim)
{
    enum { OF = 50 };
    float *x = numbers(11, (int64_t)OF * dim, 1), *want = numbers(12, (int64_t)n * dim, 1);
    int32_t *picks = malloc(sizeof *picks * (size_t)(n + 1));
    size_t bytes = sizeof(float) * (size_t)n * (size_t)dim;
    float *got = malloc(bytes + 1);
    for (int i = 0; i < n; i++) picks[i] = i * 37 % OF;
    void *dx = gpu_copy(x, sizeof(float) * OF * (size_t)dim);
    void *dp = gpu_copy(picks, sizeof *picks * (size_t)n), *out = gpu_alloc(bytes);
    ops->pick(ref, x, picks, n, dim, want);
    sl_cuda_pick(c, dx, dp, n, dim, out);
    gpu_read(c, got, out, bytes);
    expect(!memcmp(got, want, bytes), "pick", n, dim, 0);
    gpu_free(dx), gpu_free(dp), gpu_free(out);
    free(x), free(want), free(picks), free(got);
}

static void check_soften(struct sl_cuda *c, int64_t count)
{
    static const float how[][2] = {{0.25f, 0}, {1, 30}, {2.5f, 50}};
    for (size_t i = 0; i < SL_ARRAY_LEN(how); i++) {
        float *x = numbers(13, count, 40), *got = malloc(sizeof(float) * (size_t)(count + 1));
        void *dx = gpu_copy(x, sizeof(float) * (size_t)count);
        ops->soften(ref, x, count, how[i][0], how[i][1]);
        sl_cuda_soften(c, dx, count, how[i][0], how[i][1]);
        gpu_read(c, got, dx, sizeof(float) * (size_t)count);
        double e = gpu_error(got, x, count);
        expect(e <= FLOAT_ERROR, "soften", 1, (int)count, e);
        gpu_free(dx);
        free(x), free(got);
    }
}

/* Half-precision rows with a factor each, columns in another order; how other codes decode is
 * matmul's test. */
static void check_embed(struct sl_cuda *c, int n, int cols, int ordered)
{
    enum { ROWS = 50 };
    int64_t padded = sl_cuda_pad(cols), count = (int64_t)n * cols;
    uint16_t *half = calloc((size_t)(ROWS * padded), sizeof *half);
    float *factor = numbers(15, ROWS, 1), *want = calloc((size_t)count + 1, sizeof *want);
    float *got = malloc(sizeof *got * (size_t)(count + 1));
    int32_t *ids = malloc(sizeof *ids * (size_t)(n + 1)), *order = calloc((size_t)padded, 4);
    uint64_t seed = 16;
    for (int64_t i = 0; i < ROWS * padded; i++) half[i] = sl_float_to_half(gpu_normal(&seed));
    for (int k = 0; k < cols; k++) order[k] = ordered ? cols - 1 - k : k;
    for (int i = 0; i < n; i++) {
        ids[i] = i % 5 == 3 ? -1 : i * 37 % ROWS;
        for (int k = 0; k < cols && ids[i] >= 0; k++)
            want[i * (int64_t)cols + order[k]] =
                factor[ids[i]] * sl_half_to_float(half[ids[i] * padded + k]);
    }
    struct sl_cuda_weight w = {.code_kind = SL_CUDA_F16,
                               .rows = ROWS,
                               .cols = cols,
                               .cols_padded = (int32_t)padded,
                               .group = (int32_t)padded,
                               .code_stride = 2 * padded};
    w.code = gpu_copy(half, sizeof *half * (size_t)(ROWS * padded));
    w.row = gpu_copy(factor, sizeof *factor * ROWS);
    int32_t *at = gpu_copy(order, (size_t)padded * 4), *di = gpu_copy(ids, (size_t)n * 4);
    w.order = ordered ? at : NULL;
    float *out = gpu_copy(numbers(17, count, 1), sizeof *got * (size_t)count);
    sl_cuda_embed(c, &w, di, n, out);
    gpu_read(c, got, out, sizeof *got * (size_t)count);
    double e = gpu_error(got, want, count);
    expect(e <= FLOAT_ERROR, "embed", n, cols, e);
    gpu_free((void *)w.code), gpu_free((void *)w.row), gpu_free(at), gpu_free(di), gpu_free(out);
    free(half), free(factor), free(want), free(got), free(ids), free(order);
}

static void check_all(struct sl_cuda *c)
{
    for (size_t i = 0; i < SL_ARRAY_LEN(row_counts); i++)
        for (size_t k = 0; k < SL_ARRAY_LEN(dims); k++) {
            int n = row_counts[i], cols = dims[k];
            if ((int64_t)n * cols > 600000) continue; /* the reference has one or two cores */
            check_norms(c, n, cols);
            check_glu(c, n, cols);
            check_mix(c, n, cols, 0, 0);
            check_mix(c, n, cols, 3, 64);
            check_weigh_rows(c, n, cols, dims[(k + 3) % SL_ARRAY_LEN(dims)] % 6000);
            check_pick(c, n, cols);
            check_embed(c, n, cols, (int)(i + k) % 2);
        }
    check_ends(c);
    check_glu_saturates(c);
    check_mix(c, 70000, 3, 0, 0); /* more rows than a grid is high */
    check_soften(c, 0);
    check_soften(c, 1001);
    check_soften(c, 3 * 128256);
}

/* ---- bench ----------------------------------------------------------------------------------- */

struct bench {
    struct sl_cuda *c;
    int n, cols, act, copies;
    char *in, *in2, *out, *gain;
    size_t in_step, out_step;
};

static void bench_norm(void *arg, int call)
{
    struct bench *b = arg;
    size_t i = (size_t)(call % b->copies);
    sl_cuda_norm_rows(b->c, (void *)(b->in + i * b->in_step), (void *)b->gain, 1e-5f, b->n, b->cols,
                      b->out + i * b->out_step);
}

static void bench_rmsnorm(void *arg, int call)
{
    struct bench *b = arg;
    size_t i = (size_t)(call % b->copies);
    sl_cuda_rmsnorm(b->c, (void *)(b->in + i * b->in_step), (void *)b->gain, 1e-5f, b->n, b->cols,
                    (void *)(b->in2 + i * b->in_step));
}

static void bench_glu(void *arg, int call)
{
    struct bench *b = arg;
    size_t i = (size_t)(call % b->copies);
    sl_cuda_glu(b->c, (enum sl_act)b->act, (void *)(b->in + i * b->in_step),
                (void *)(b->in2 + i * b->in_step), b->n, b->cols, b->out + i * b->out_step);
}

static void bench_mix(void *arg, int call)
{
    struct bench *b = arg;
    size_t i = (size_t)(call % b->copies);
    sl_cuda_mix(b->c, (void *)(b->in + i * b->in_step), b->cols, (void *)(b->in2 + i * b->in_step),
                b->cols, b->n, b->cols, 0.5f, 1);
}

/* Times fn in a graph over copies of its arrays that together exceed the L2 cache several times. */
static void bench_one(struct sl_cuda *c, const char *what, void (*fn)(void *, int), int n, int cols,
                      int act, double bytes_per_element, double limit)
{
    struct bench b = {.c = c, .n = n, .cols = cols, .act = act};
    b.in_step = sizeof(float) * (size_t)n * (size_t)cols;
    b.out_step = (size_t)(n * sl_cuda_row_stride(cols));
    b.copies = (int)SL_MAX(1, SL_MIN(200, (int64_t)(400 << 20) / (int64_t)b.in_step));
    b.in = gpu_alloc(b.in_step * (size_t)b.copies);
    b.in2 = gpu_alloc(b.in_step * (size_t)b.copies);
    b.out = gpu_alloc(b.out_step * (size_t)b.copies);
    b.gain = gpu_alloc(sizeof(float) * (size_t)cols);
    float *x = numbers(14, (int64_t)n * cols, 1);
    for (size_t i = 0; i < (size_t)b.copies; i++) {
        gpu_write(b.in + i * b.in_step, x, b.in_step);
        gpu_write(b.in2 + i * b.in_step, x, b.in_step);
    }
    double s = gpu_time_graph(c, 9, 200, fn, &b);
    double rate = bytes_per_element * (double)n * (double)cols / s;
    printf("%-10s %5d x %-6d %8.2f us  %7.0f GB/s  %3.0f %%\n", what, n, cols, s * 1e6, rate * 1e-9,
           100 * rate / limit);
    free(x);
    gpu_free(b.in), gpu_free(b.in2), gpu_free(b.out), gpu_free(b.gain);
}

static void bench(struct sl_cuda *c)
{
    static const int counts[] = {1, 8, 64, 512, 4096};
    double limit = gpu_read_bandwidth(c);
    printf("read bandwidth %.0f GB/s; each line: time of one call in a graph\n", limit * 1e-9);
    for (size_t i = 0; i < SL_ARRAY_LEN(counts); i++) {
        int n = counts[i];
        bench_one(c, "norm_rows", bench_norm, n, 4096, 0, 6, limit);
        bench_one(c, "norm_rows", bench_norm, n, 8192, 0, 6, limit);
        bench_one(c, "rmsnorm", bench_rmsnorm, n, 4096, 0, 8, limit);
        bench_one(c, "mix", bench_mix, n, 4096, 0, 12, limit);
        bench_one(c, "glu silu", bench_glu, n, 14336, SL_ACT_SILU, 10, limit);
        bench_one(c, "glu gelu", bench_glu, n, 14336, SL_ACT_GELU, 10, limit);
    }
}

int main(int argc, char **argv)
{
    struct sl_cuda *c = gpu_open(1 << 20, 64, 1, 1, 16);
    const struct sl_backend_params how = {.kind = "ref", .n_threads = 1};
    struct sl_err err = {0};
    if (sl_backend_create(&how, &ref, &err)) {
        printf("%s\n", err.msg);
        return 1;
    }
    ops = sl_backend_ops(ref);
    if (argc > 1 && !strcmp(argv[1], "bench"))
        bench(c);
    else
        check_all(c);
    sl_backend_destroy(ref);
    gpu_close(c);
    printf("%s\n", failures ? "FAILED" : "ok");
    return failures != 0;
}
