/* test_matmul.c - packing and the products that stream weights, against float64 sums over
 * sl_matrix_row: every format, ragged shapes, several products, ADD, bias, gated units; and that a
 * row's bits do not depend on its company. Arguments: formats to test, or "bench" and formats for
 * tables of speeds. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/rows.h"
#include "tests/gpu/matmul_cases.h"

#define ERROR_MAX 1e-3 /* relative, root of mean squares */

static int failed;

static void check(const char *what, const char *name, int n, double error)
{
    if (error <= ERROR_MAX) return; /* a NaN is more than anything */
    printf("FAILED: %s of %s, %d rows: error %.2e\n", what, name, n, error);
    failed++;
}

/* Product rows of random numbers on both sides; x is what the halfs mean. */
struct input {
    int n;
    int64_t cols;
    float *x;
    void *host, *rows;
};

static void input_make(struct input *in, int n, int64_t cols, uint64_t *seed)
{
    *in = (struct input){.n = n, .cols = cols};
    in->x = malloc((size_t)(n * cols) * sizeof(float));
    in->host = calloc(1, (size_t)(n * sl_cuda_row_stride(cols)));
    for (int64_t i = 0; i < n * cols; i++) in->x[i] = gpu_normal(seed);
    for (int64_t k = 0; k < cols; k++) in->x[(n - 1) * cols + k] *= 100; /* scales differ */
    gpu_rows_make(in->x, n, cols, in->host);
    gpu_rows_read(in->host, n, cols, in->x);
    in->rows = gpu_copy(in->host, (size_t)(n * sl_cuda_row_stride(cols)));
}

static void input_free(struct input *in)
{
    free(in->x);
    free(in->host);
    gpu_free(in->rows);
}

/* out [n][rows] = x w^T + bias, summed in double. */
static void expect(const struct input *in, const struct sl_matrix *m, const float *bias, float *out)
{
    float *row = malloc((size_t)m->cols * sizeof *row);
    for (int64_t r = 0; r < m->rows; r++) {
        sl_matrix_row(m, r, row);
        for (int i = 0; i < in->n; i++) {
            double s = bias ? (double)bias[r] : 0;
            const float *x = in->x + i * in->cols;
            for (int64_t k = 0; k < m->cols; k++) s += (double)row[k] * (double)x[k];
            out[i * m->rows + r] = (float)s;
        }
    }
    free(row);
}

static float *random_floats(int64_t n, float scale, uint64_t *seed)
{
    float *f = malloc((size_t)n * sizeof *f);
    for (int64_t i = 0; i < n; i++) f[i] = scale * gpu_normal(seed);
    return f;
}

/* Rows 0 .. n of the input for each n: right, and the same bits as the first n of all. */
static void one_product(struct sl_cuda *c, const char *name, const struct matmul_weight *w,
                        const struct input *in, const float *want)
{
    static const int sizes[] = {64, 31, 16, 8, 7, 2, 1}; /* two classes: over 8, up to 8 */
    int64_t rows = w->m.rows, all = in->n * rows;
    float *first = malloc((size_t)all * 4), *got = malloc((size_t)all * 4),
          *out = gpu_alloc((size_t)all * 4);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int n = sizes[s];
        struct sl_product p = {&w->handle, NULL, out, 0};
        memset(got, 0xff, (size_t)all * 4); /* NaN: what is not written shows */
        gpu_write(out, got, (size_t)all * 4);
        sl_cuda_stream_matmul(c, in->rows, n, &p, 1);
        gpu_read(c, got, out, (size_t)all * 4);
        check("product", name, n, gpu_error(got, want, n * rows));
        if (s == 0 || n == 8) memcpy(first, got, (size_t)all * 4);
        if (memcmp(first, got, (size_t)(n * rows) * 4)) {
            printf("FAILED: %s: %d rows give other bits than the most of their class\n", name, n);
            failed++;
        }
        for (int64_t i = n * rows; i < all; i++)
            if (!isnan(got[i])) {
                printf("FAILED: %s: %d rows write past their end\n", name, n);
                failed++;
                break;
            }
    }
    free(first);
    free(got);
    gpu_free(out);
}

/* Cases `only`, or all. */
static void each_format(struct sl_cuda *c, char **only, int n_only, int64_t rows, int64_t cols)
{
    uint64_t seed = 1;
    for (int i = 0; i < matmul_cases_n; i++) {
        const struct matmul_case *k = &matmul_cases[i];
        int wanted = n_only == 0;
        for (int j = 0; j < n_only; j++) wanted |= !strcmp(only[j], k->name);
        if (!wanted) continue;
        struct matmul_weight w;
        struct input in;
        int64_t block = sl_dtype_block(k->type), width = (cols + block - 1) / block * block;
        matmul_weight_make(c, k, rows, width, &seed, &w);
        input_make(&in, 64, width, &seed);
        float *want = malloc((size_t)(64 * rows) * 4);
        expect(&in, &w.m, NULL, want);
        one_product(c, k->name, &w, &in, want);
        free(want);
        input_free(&in);
        matmul_weight_free(&w);
    }
}

static const struct matmul_case *find(const char *name)
{
    for (int i = 0; i < matmul_cases_n; i++)
        if (!strcmp(matmul_cases[i].name, name)) return &matmul_cases[i];
    printf("no case %s\n", name);
    exit(1);
}

/* Four products of one call: two of one form, two of others; with and without ADD and bias. */
static void several(struct sl_cuda *c, const char *const names[4], int n)
{
    uint64_t seed = 7;
    const int64_t rows[4] = {96, 40, 33, 128}, cols = 512;
    struct matmul_weight w[4];
    struct sl_product p[4];
    struct input in;
    float *bias[4], *before[4], *want[4];
    input_make(&in, n, cols, &seed);
    for (int i = 0; i < 4; i++) {
        matmul_weight_make(c, find(names[i]), rows[i], cols, &seed, &w[i]);
        bias[i] = random_floats(rows[i], 0.5f, &seed);
        before[i] = random_floats(n * rows[i], 0.5f, &seed);
        want[i] = malloc((size_t)(n * rows[i]) * 4);
        expect(&in, &w[i].m, i % 2 ? bias[i] : NULL, want[i]);
        if (i >= 2)
            for (int64_t j = 0; j < n * rows[i]; j++) want[i][j] += before[i][j];
        p[i] = (struct sl_product){
            &w[i].handle, i % 2 ? gpu_copy(bias[i], (size_t)rows[i] * 4) : NULL,
            gpu_copy(before[i], (size_t)(n * rows[i]) * 4), i >= 2 ? SL_MATMUL_ADD : 0};
    }
    sl_cuda_stream_matmul(c, in.rows, n, p, 4);
    for (int i = 0; i < 4; i++) {
        float *got = malloc((size_t)(n * rows[i]) * 4);
        gpu_read(c, got, p[i].out, (size_t)(n * rows[i]) * 4);
        check("one of four", names[i], n, gpu_error(got, want[i], n * rows[i]));
        free(got);
        free(bias[i]);
        free(before[i]);
        free(want[i]);
        gpu_free(p[i].out);
        if (p[i].bias) gpu_free((void *)p[i].bias);
        matmul_weight_free(&w[i]);
    }
    input_free(&in);
}

static double gated(enum sl_act act, double g, double u)
{
    if (act == SL_ACT_GELU) return 0.5 * g * erfc(-g * sqrt(0.5)) * u;
    if (act == SL_ACT_GELU_TANH)
        return 0.5 * g * (1 + tanh(0.7978845608028654 * (g + 0.044715 * g * g * g))) * u;
    if (act == SL_ACT_SWIGLU_OAI) {
        g = fmin(g, 7);
        u = fmax(fmin(u, 7), -7);
        return (u + 1) * g / (1 + exp(-1.702 * g));
    }
    return g / (1 + exp(-g)) * u;
}

static void gate_up(struct sl_cuda *c, const char *gate, const char *up, int64_t n_ff, int n,
                    enum sl_act act, int with_bias)
{
    uint64_t seed = 11;
    const int64_t cols = 768;
    struct matmul_weight g, u;
    struct input in;
    size_t all = (size_t)(n * n_ff), bytes = (size_t)(n * sl_cuda_row_stride(n_ff));
    float *want_g = malloc(all * 4), *want_u = malloc(all * 4), *got = malloc(all * 4);
    char *rows = malloc(bytes);
    memset(rows, 0xff, bytes);
    input_make(&in, n, cols, &seed);
    matmul_weight_make(c, find(gate), n_ff, cols, &seed, &g);
    matmul_weight_make(c, find(up), n_ff, cols, &seed, &u);
    float *bg = random_floats(n_ff, 0.5f, &seed), *bu = random_floats(n_ff, 0.5f, &seed);
    float *dg = gpu_copy(bg, (size_t)n_ff * 4), *du = gpu_copy(bu, (size_t)n_ff * 4);
    void *out = gpu_copy(rows, bytes);
    expect(&in, &g.m, with_bias ? bg : NULL, want_g);
    expect(&in, &u.m, with_bias ? bu : NULL, want_u);
    for (size_t i = 0; i < all; i++)
        want_g[i] = (float)gated(act, (double)want_g[i], (double)want_u[i]);
    sl_cuda_stream_gate_up(c, act, in.rows, n, &g.handle, with_bias ? dg : NULL, &u.handle,
                           with_bias ? du : NULL, out);
    gpu_read(c, rows, out, bytes);
    gpu_rows_read(rows, n, n_ff, got);
    check("gated unit", gate, n, gpu_error(got, want_g, (int64_t)all));
    for (int i = 0; i < n; i++) {
        const uint16_t *half =
            (const uint16_t *)(const void *)(rows + i * sl_cuda_row_stride(n_ff) +
                                             SL_CUDA_ROW_HEAD);
        for (int64_t k = n_ff; k < sl_cuda_pad(n_ff); k++)
            if (half[k]) {
                printf("FAILED: gated unit of %s: padding is not zero\n", gate);
                failed++;
                return;
            }
    }
    free(want_g), free(want_u), free(got), free(rows), free(bg), free(bu);
    gpu_free(dg), gpu_free(du), gpu_free(out);
    input_free(&in);
    matmul_weight_free(&g);
    matmul_weight_free(&u);
}

/* Inputs that another kernel writes just before, again and again at one address: what a product
 * reads is what was written last, though it may begin before that. */
static void fresh_inputs(struct sl_cuda *c, const char *name, int n)
{
    enum { TURNS = 24, ROWS = 4096, COLS = 2048 };
    uint64_t seed = 13;
    struct matmul_weight w;
    matmul_weight_make(c, find(name), ROWS, COLS, &seed, &w);
    size_t out = (size_t)n * ROWS * 4, in = (size_t)n * COLS * 4;
    float *x = random_floats((int64_t)TURNS * n * COLS, 1, &seed), *dx = gpu_copy(x, TURNS * in);
    char *chained = gpu_alloc(TURNS * out), *alone = gpu_alloc(TURNS * out);
    char *a = malloc(TURNS * out), *b = malloc(TURNS * out);
    void *rows = gpu_alloc((size_t)(n * sl_cuda_row_stride(COLS)));
    for (int chain = 0; chain < 2; chain++)
        for (int i = 0; i < TURNS; i++) {
            float *to = (float *)(void *)((chain ? chained : alone) + (size_t)i * out);
            struct sl_product p = {&w.handle, NULL, to, 0};
            sl_cuda_to_rows(c, dx + (size_t)i * (size_t)n * COLS, n, COLS, rows);
            if (!chain) gpu_sync(c);
            sl_cuda_stream_matmul(c, rows, n, &p, 1);
            if (!chain) gpu_sync(c);
        }
    gpu_read(c, a, chained, TURNS * out);
    gpu_read(c, b, alone, TURNS * out);
    if (memcmp(a, b, TURNS * out)) {
        printf("FAILED: %s, %d rows: a chain of kernels gives other bits than one at a time\n",
               name, n);
        failed++;
    }
    free(x), free(a), free(b);
    gpu_free(dx), gpu_free(chained), gpu_free(alone), gpu_free(rows);
    matmul_weight_free(&w);
}

/* A NaN among the scales of MXFP4 belongs to its row. */
static void bad_scale(struct sl_cuda *c)
{
    uint64_t seed = 5;
    struct matmul_weight w;
    struct input in;
    matmul_weight_make(c, find("MXFP4"), 32, 256, &seed, &w);
    ((uint8_t *)w.host[1])[3 * 8 + 2] = 255;
    gpu_write(w.device[1], w.host[1], 32 * 8);
    struct sl_matrix raw = w.m;
    raw.data = w.device[0];
    raw.scales = w.device[1];
    sl_cuda_weight_pack(c, &raw, w.device[4], &w.packed);
    input_make(&in, 2, 256, &seed);
    float *out = gpu_alloc(64 * 4), got[64];
    struct sl_product p = {&w.handle, NULL, out, 0};
    sl_cuda_stream_matmul(c, in.rows, 2, &p, 1);
    gpu_read(c, got, out, sizeof got);
    for (int i = 0; i < 64; i++)
        if (isnan(got[i]) != (i % 32 == 3)) {
            printf("FAILED: a NaN scale of row 3, output %d is %g\n", i, (double)got[i]);
            failed++;
        }
    gpu_free(out);
    input_free(&in);
    matmul_weight_free(&w);
}

int main(int argc, char **argv)
{
    struct sl_cuda *c = gpu_open(64u << 20, 64, 1, 1, 16);
    if (argc > 1 && !strcmp(argv[1], "bench")) {
        matmul_bench(c, argv + 2, argc - 2);
        gpu_close(c);
        return 0;
    }
    for (int n = 1; n <= 64; n += n < 4 ? 1 : 12) fresh_inputs(c, "E4M3, tensor", n);
    for (int i = 1; i < argc; i++) /* the formats named */
        for (int n = 1; n <= 64; n += 21) gate_up(c, argv[i], argv[i], 200, n, SL_ACT_SILU, 1);
    each_format(c, argv + 1, argc - 1, 77, 712);
    each_format(c, argv + 1, argc - 1, 600, 2304);
    if (argc > 1) {
        printf(failed ? "%d checks failed\n" : "all well\n", failed);
        return failed > 0;
    }
    static const char *const dense[4] = {"E4M3, tensor", "E4M3, tensor", "F16", "E4M3, 128x128"};
    static const char *const mixed[4] = {"Q4_K", "Q4_K", "Q6_K", "F32"};
    static const char *const orders[4] = {"GPTQ act-order", "AWQ", "GPTQ act-order", "NVFP4"};
    for (int n = 1; n <= 64; n += 21) {
        several(c, dense, n);
        several(c, mixed, n);
        several(c, orders, n);
        gate_up(c, "E4M3, tensor", "E4M3, tensor", 77, n, SL_ACT_SILU, 0);
        gate_up(c, "MXFP4", "MXFP4", 192, n, SL_ACT_SWIGLU_OAI, 1);
        gate_up(c, "NVFP4", "NVFP4", 130, n, SL_ACT_SILU, 0);
        gate_up(c, "E4M3, 128x128", "E4M3, 128x128", 256, n, SL_ACT_GELU, 0);
        gate_up(c, "Q4_K", "Q6_K", 100, n, SL_ACT_GELU_TANH, 0);
        gate_up(c, "GPTQ act-order", "GPTQ act-order", 64, n, SL_ACT_SILU, 0);
        gate_up(c, "Q4_K", "Q4_K", 100, n, SL_ACT_GELU_TANH, 1);
    }
    bad_scale(c);
    gpu_close(c);
    printf(failed ? "%d checks failed\n" : "all well\n", failed);
    return failed > 0;
}
