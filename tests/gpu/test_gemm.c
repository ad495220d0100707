/* test_gemm.c - products of many rows against float64 sums, for every form of weight; the decoding
 * of tiles; gated units. "bench" prints how fast they are beside cuBLASLt alone. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gemm_steps.h"
#include "kernels/cuda/lt.h"
#include "tests/gpu/gemm_bench.h"
#include "tests/gpu/gpu_form.h"

/* E4M3 has 4 bits of mantissa: rounding each input costs 2.6 % (rms), and so does their sum. */
#define FP8_ERROR 3.2e-2
#define HALF_ERROR 1e-3
#define GLU_FACTOR 2.5 /* a product of two such numbers, and the unit's slope */
#define SAMPLED 12     /* rows whose sums are compared */

static int failures;

static void check(int ok, const char *what, const char *form, int rows, int cols, int n, double e)
{
    if (ok) return;
    failures++;
    printf("FAILED %s: %s [%d, %d], n %d: error %.3e\n", what, form, rows, cols, n, e);
}

/* Activations whose rows differ in size by powers of two; the last but one is zero. */
static float *make_x(int n, int cols, uint64_t seed)
{
    float *x = malloc(sizeof *x * (size_t)n * (size_t)cols);
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < cols; k++)
            x[i * cols + k] = i == n - 2 ? 0 : ldexpf(gpu_normal(&seed), (int)((i * 5) % 13) - 6);
    return x;
}

/* Product rows of x in device memory; x becomes what they hold. */
static void *send_rows(float *x, int n, int cols)
{
    size_t bytes = (size_t)(n * sl_cuda_row_stride(cols));
    void *host = malloc(bytes);
    gpu_rows_make(x, n, cols, host);
    gpu_rows_read(host, n, cols, x);
    void *rows = gpu_copy(host, bytes);
    free(host);
    return rows;
}

static int sampled_row(int i, int n)
{
    return n <= SAMPLED ? i : (int)((int64_t)i * (n - 1) / (SAMPLED - 1));
}

static double sum_at(const struct gpu_weight *w, int row, const float *x)
{
    double s = 0;
    for (int k = 0; k < w->w.cols; k++)
        s += gpu_weight_at(w, row, k) * (double)x[w->order ? w->order[k] : k];
    return s;
}

/* The error (rms) of the rows sampled, each compared with its own size; NaN when anything is one.
 */
static double error_of(const struct gpu_weight *w, const float *x, int n, const float *out,
                       const float *before, const float *bias)
{
    double all = 0;
    int rows = w->w.rows, compared = n < SAMPLED ? n : SAMPLED;
    for (int64_t i = 0; i < (int64_t)n * rows; i++)
        if (!isfinite(out[i])) return NAN;
    for (int i = 0; i < compared; i++) {
        int r = sampled_row(i, n);
        double d = 0, s = 0;
        for (int j = 0; j < rows; j++) {
            int64_t at = (int64_t)r * rows + j;
            double want = sum_at(w, j, x + (int64_t)r * w->w.cols);
            double rest = (before ? before[at] : 0) + (bias ? bias[j] : 0);
            d += (out[at] - rest - want) * (out[at] - rest - want);
            s += want * want;
        }
        all += s > 0 ? d / s : d * 1e6; /* a row of zeros: its sums are exact */
    }
    return sqrt(all / compared);
}

static int is_fp8(const struct sl_cuda *c, const struct gpu_form *f)
{
    (void)c;
    return f->code == SL_CUDA_E4M3 &&
           (f->scale == SL_CUDA_SCALE_NONE || f->scale == SL_CUDA_SCALE_GRID);
}

/* One product, with a bias and an addend in turn. */
static void test_product(struct sl_cuda *c, const struct gpu_form *f, int rows, int cols, int n,
                         int variant)
{
    struct gpu_weight w;
    gpu_weight_make(f, rows, cols, (uint64_t)(rows + n), &w);
    float *x = make_x(n, cols, 7), *before = malloc(sizeof(float) * (size_t)n * (size_t)rows);
    float *bias = malloc(sizeof *bias * (size_t)rows),
          *out = malloc(sizeof *out * (size_t)n * (size_t)rows);
    uint64_t seed = 5;
    int add = variant & 1, biased = variant & 2;
    for (int64_t i = 0; i < (int64_t)n * rows; i++)
        before[i] =
            add ? (float)((int)(i % 17) - 8) / 8 : NAN; /* NaN: what is not written is seen */
    for (int i = 0; i < rows; i++) bias[i] = ldexpf((float)(int)(gpu_uniform(&seed) * 16), -3);
    void *rows_d = send_rows(x, n, cols);
    float *out_d = gpu_copy(before, sizeof(float) * (size_t)n * (size_t)rows);
    float *bias_d = gpu_copy(bias, sizeof(float) * (size_t)rows);
    struct sl_product p = {&w.handle, biased ? bias_d : NULL, out_d, add ? SL_MATMUL_ADD : 0};
    sl_cuda_gemm(c, rows_d, n, &p, 1);
    gpu_read(c, out, out_d, sizeof(float) * (size_t)n * (size_t)rows);
    double e = error_of(&w, x, n, out, add ? before : NULL, biased ? bias : NULL);
    check(e < (is_fp8(c, f) ? FP8_ERROR : HALF_ERROR), "product", f->name, rows, cols, n, e);
    gpu_free(rows_d), gpu_free(out_d), gpu_free(bias_d);
    free(x), free(before), free(bias), free(out);
    gpu_weight_free(&w);
}

/* Four products of one input, of four forms. */
static void test_group(struct sl_cuda *c, int n)
{
    static const int forms[4] = {2, 3, 14, 16}, rows[4] = {512, 128, 264, 100};
    struct gpu_weight w[4];
    struct sl_product p[4];
    int cols = 448;
    float *x = make_x(n, cols, 3);
    void *rows_d = send_rows(x, n, cols);
    for (int i = 0; i < 4; i++) {
        gpu_weight_make(&gpu_forms[forms[i]], rows[i], cols, (uint64_t)i, &w[i]);
        p[i] = (struct sl_product){&w[i].handle, NULL,
                                   gpu_alloc(sizeof(float) * (size_t)n * (size_t)rows[i]), 0};
    }
    sl_cuda_gemm(c, rows_d, n, p, 4);
    for (int i = 0; i < 4; i++) {
        const struct gpu_form *f = &gpu_forms[forms[i]];
        size_t bytes = sizeof(float) * (size_t)n * (size_t)rows[i];
        float *out = malloc(bytes);
        gpu_read(c, out, p[i].out, bytes);
        double e = error_of(&w[i], x, n, out, NULL, NULL);
        check(e < (is_fp8(c, f) ? FP8_ERROR : HALF_ERROR), "group", f->name, rows[i], cols, n, e);
        free(out);
        gpu_free(p[i].out);
        gpu_weight_free(&w[i]);
    }
    gpu_free(rows_d);
    free(x);
}

static double gated(enum sl_act act, double g, double u)
{
    switch (act) {
    case SL_ACT_GELU:
        return 0.5 * g * (1 + erf(g / sqrt(2))) * u;
    case SL_ACT_GELU_TANH:
        return 0.5 * g * (1 + tanh(sqrt(2 / 3.14159265358979) * (g + 0.044715 * g * g * g))) * u;
    case SL_ACT_SWIGLU_OAI:
        g = fmin(g, 7), u = fmax(fmin(u, 7), -7);
        return (u + 1) * g / (1 + exp(-1.702 * g));
    default:
        return g / (1 + exp(-g)) * u;
    }
}

static void test_gate_up(struct sl_cuda *c, const struct gpu_form *f, int rows, int cols, int n)
{
    enum sl_act act = (enum sl_act)((n + rows) % 4);
    struct gpu_weight w[2];
    for (int i = 0; i < 2; i++) gpu_weight_make(f, rows, cols, (uint64_t)i + 40, &w[i]);
    /* Units overflow at 2^22, and say little where the sigmoid is 0 or 1: sums are made about 2. */
    double square = 0;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < cols; k++)
            square += gpu_weight_at(&w[0], (int)r, (int)k) * gpu_weight_at(&w[0], (int)r, (int)k);
    float size = (float)(2 / sqrt(square / rows));
    float *x = malloc(sizeof *x * (size_t)n * (size_t)cols),
          *bias = malloc(sizeof(float) * (size_t)rows);
    for (int i = 0; i < rows; i++) bias[i] = (float)(i % 9 - 4) / 4;
    uint64_t seed = 9;
    for (int64_t i = 0; i < (int64_t)n * cols; i++)
        x[i] = ldexpf(size * gpu_normal(&seed), -(int)(i / cols % 3));
    float *bias_d = gpu_copy(bias, sizeof(float) * (size_t)rows);
    void *rows_d = send_rows(x, n, cols);
    size_t bytes = (size_t)(n * sl_cuda_row_stride(rows));
    char *out_d = gpu_alloc(bytes), *host = malloc(bytes);
    cudaMemset(out_d, 0xff, bytes);
    sl_cuda_gemm_gate_up(c, act, rows_d, n, &w[0].handle, n & 1 ? bias_d : NULL, &w[1].handle, NULL,
                         out_d);
    gpu_read(c, host, out_d, bytes);
    float *out = malloc(sizeof *out * (size_t)n * (size_t)rows);
    gpu_rows_read(host, n, rows, out);
    double d = 0, s = 0;
    for (int i = 0; i < (n < SAMPLED ? n : SAMPLED); i++) {
        int r = sampled_row(i, n);
        for (int j = 0; j < rows; j++) {
            double gate = sum_at(&w[0], j, x + (int64_t)r * cols) + (n & 1 ? bias[j] : 0);
            double want = gated(act, gate, sum_at(&w[1], j, x + (int64_t)r * cols));
            double got = out[(int64_t)r * rows + j];
            d += (got - want) * (got - want), s += want * want;
        }
        const uint16_t *half =
            (const void *)(host + r * sl_cuda_row_stride(rows) + SL_CUDA_ROW_HEAD);
        for (int64_t j = rows; j < sl_cuda_pad(rows); j++)
            if (half[j]) d = NAN; /* padding is zeros */
    }
    double e = sqrt(d / s);
    check(e < GLU_FACTOR * (is_fp8(c, f) ? FP8_ERROR : HALF_ERROR), "gate_up", f->name, rows, cols,
          n, e);
    gpu_free(rows_d), gpu_free(out_d), gpu_free(bias_d);
    free(x), free(bias), free(host), free(out);
    for (int i = 0; i < 2; i++) gpu_weight_free(&w[i]);
}

static void test_decode(struct sl_cuda *c, const struct gpu_form *f, int rows, int cols)
{
    struct gpu_weight w;
    gpu_weight_make(f, rows, cols, 11, &w);
    int64_t padded = w.w.cols_padded;
    int first = rows / 3, n = rows - first;
    size_t bytes = (size_t)(n * padded) * 2;
    uint16_t *half = malloc(bytes);
    void *out = gpu_alloc(bytes);
    cudaMemset(out, 0xff, bytes);
    sl_cuda_decode(c, &w.w, first, n, out);
    gpu_read(c, half, out, bytes);
    double worst = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < padded; k++) {
            double got = sl_half_to_float(half[i * padded + k]);
            double want = (double)w.value[(first + i) * padded + k];
            double e = k < cols ? fabs(got - want) / (fabs(want) + 1e-3) : isfinite(got) ? 0 : 1;
            if (!(e <= worst)) worst = e;
        }
    check(worst < 0x1p-10, "decode", f->name, rows, cols, n, worst);
    gpu_free(out);
    free(half);
    gpu_weight_free(&w);
}

/* A row of infinities leaves its neighbours alone. */
static void test_infinite_row(struct sl_cuda *c, const struct gpu_form *f)
{
    struct gpu_weight w;
    int n = 70, rows = 128, cols = 256;
    gpu_weight_make(f, rows, cols, 17, &w);
    float *x = make_x(n, cols, 13), *out = malloc(sizeof *out * (size_t)(n * rows));
    for (int k = 0; k < cols; k++) x[3 * cols + k] = ldexpf(1, 127);
    void *rows_d = send_rows(x, n, cols);
    struct sl_product p = {&w.handle, NULL, gpu_alloc(sizeof *out * (size_t)(n * rows)), 0};
    sl_cuda_gemm(c, rows_d, n, &p, 1);
    gpu_read(c, out, p.out, sizeof *out * (size_t)(n * rows));
    double e = error_of(&w, x + 4 * cols, n - 4, out + 4 * rows, NULL, NULL);
    check(e < (is_fp8(c, f) ? FP8_ERROR : HALF_ERROR), "infinite row", f->name, rows, cols, n, e);
    gpu_free(rows_d), gpu_free(p.out);
    free(x), free(out);
    gpu_weight_free(&w);
}

/* Operands of Blackwell's block-scaled products: codes and tiled scales, read back on the host. */
static void test_scaled_rows(struct sl_cuda *c, int group, int n, int cols)
{
    static const float LEVELS[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    int64_t padded = sl_cuda_pad(cols), groups = padded / group;
    size_t bytes = (size_t)(n * padded), scales_bytes = (size_t)sl_lt_scale_bytes(n, groups);
    float *x = make_x(n, cols, 21);
    void *rows = send_rows(x, n, cols);
    uint8_t *codes = malloc(bytes), *scales = malloc(scales_bytes);
    void *codes_d = gpu_alloc(bytes), *scales_d = gpu_alloc(scales_bytes);
    char *host = malloc((size_t)(n * sl_cuda_row_stride(cols)));
    gpu_read(c, host, rows, (size_t)(n * sl_cuda_row_stride(cols)));
    sl_cuda_mx_rows(c, rows, n, cols, group, codes_d, scales_d);
    gpu_read(c, codes, codes_d, bytes);
    gpu_read(c, scales, scales_d, scales_bytes);
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < padded; k++) {
            int64_t at = i * padded + k;
            uint16_t h;
            memcpy(&h, host + i * sl_cuda_row_stride(cols) + SL_CUDA_ROW_HEAD + 2 * k, 2);
            uint8_t scale = scales[sl_lt_scale_at(i, k / group, groups)];
            int code = group == 32 ? codes[at] : codes[at / 2] >> at % 2 * 4 & 15;
            double got = group == 32 ? (double)gpu_e4m3(code) * ldexp(1, scale - 127)
                                     : (double)(code & 8 ? -LEVELS[code & 7] : LEVELS[code & 7]) *
                                           (double)gpu_e4m3(scale) * SL_NVFP4_STEP;
            double want = (double)sl_half_to_float(h);
            d += (got - want) * (got - want), s += want * want;
        }
    /* E4M3 as above; E2M1 has two bits of mantissa: a tenth, about. */
    check(sqrt(d / s) < (group == 32 ? FP8_ERROR : 0.13), "scaled rows",
          group == 32 ? "mxfp8" : "nvfp4", n, cols, n, sqrt(d / s));
    gpu_free(rows), gpu_free(codes_d), gpu_free(scales_d);
    free(x), free(codes), free(scales), free(host);
}

/* MXFP4 weights as MXFP8: exact. */
static void test_scaled_weight(struct sl_cuda *c, const struct gpu_form *f, int rows, int cols)
{
    struct gpu_weight w;
    gpu_weight_make(f, rows, cols, 31, &w);
    int64_t padded = w.w.cols_padded, groups = padded / 32;
    int first = 128, m = rows - first;
    float top = 4, *top_d = gpu_copy(&top, sizeof top);
    for (int i = 0; i < rows; i++) w.row[i] = ldexpf(1, i % 5 - 2);
    w.w.row = gpu_copy(w.row, sizeof(float) * (size_t)rows);
    size_t bytes = (size_t)(m * padded), scales_bytes = (size_t)sl_lt_scale_bytes(m, groups);
    uint8_t *codes = malloc(bytes), *scales = malloc(scales_bytes);
    void *codes_d = gpu_alloc(bytes), *scales_d = gpu_alloc(scales_bytes);
    sl_cuda_mx_weight(c, &w.w, first, m, top_d, codes_d, scales_d);
    gpu_read(c, codes, codes_d, bytes);
    gpu_read(c, scales, scales_d, scales_bytes);
    int wrong = 0;
    for (int64_t i = 0; i < m; i++)
        for (int64_t k = 0; k < padded; k++)
            wrong += ldexpf(gpu_e4m3(codes[i * padded + k]),
                            scales[sl_lt_scale_at(i, k / 32, groups)] - 127) !=
                     w.value[(first + i) * padded + k] * w.row[first + i] / top;
    check(wrong == 0, "scaled weight", f->name, rows, cols, m, wrong);
    gpu_free(codes_d), gpu_free(scales_d), gpu_free(top_d), gpu_free((void *)(uintptr_t)w.w.row);
    free(codes), free(scales);
    gpu_weight_free(&w);
}

/* One small shape of each form: for compute-sanitizer, which is slow. */
static void test_few(struct sl_cuda *c)
{
    for (int f = 0; f < gpu_forms_n; f++) {
        test_decode(c, &gpu_forms[f], 50, 328);
        test_product(c, &gpu_forms[f], 251, 328, 65 + f % 3, f);
        test_product(c, &gpu_forms[f], 256, 256, 72, f);
        test_gate_up(c, &gpu_forms[f], 205, 328, 66 + f % 3);
    }
    test_scaled_rows(c, 32, 130, 328), test_scaled_rows(c, 16, 130, 328);
    test_scaled_weight(c, &gpu_forms[7], 300, 328);
}

static void test_forms(struct sl_cuda *c)
{
    static const int n_rows[] = {1, 7, 65, 128, 1000};
    for (int f = 0; f < gpu_forms_n; f++) {
        const struct gpu_form *form = &gpu_forms[f];
        test_decode(c, form, 96, 512);
        test_decode(c, form, 50, 328);
        for (int i = 0; i < 5; i++) {
            test_product(c, form, 256, 512, n_rows[i], i);
            test_product(c, form, 251, 328, n_rows[i], i + 1);
            test_product(c, form, 400, 1000, n_rows[i], i + 2);
        }
        for (int i = 0; i < 4; i++) test_gate_up(c, form, 384, 512, 65 + i);
        test_gate_up(c, form, 205, 328, 129);
    }
}

/* Pieces: weights and rows too large for one trip through the scratch. */
static void test_pieces(struct sl_cuda *c)
{
    static const int forms[] = {0, 2, 3, 14, 16};
    for (int i = 0; i < 5; i++) {
        test_product(c, &gpu_forms[forms[i]], 9216, 2240, 136, i);
        test_product(c, &gpu_forms[forms[i]], 256, 768, 4096, i);
        test_gate_up(c, &gpu_forms[forms[i]], 4360, 512, 4096);
    }
    test_product(c, &gpu_forms[2], 64, 16448, 4100, 1); /* chunks of rows */
    test_product(c, &gpu_forms[16], 64, 16448, 2200, 1);
}

int main(int argc, char **argv)
{
    struct sl_err err;
    struct sl_cuda *c = gpu_open(sl_cuda_gemm_scratch(NULL), 16, 1, 1, 16);
    if (sl_cuda_lt_create(c, &err)) {
        printf("%s\n", err.msg);
        return 1;
    }
    if (argc > 1 && strcmp(argv[1], "bench") == 0) {
        gemm_bench(c);
    } else if (argc > 1 && strcmp(argv[1], "few") == 0) {
        test_few(c);
        printf("%d failures\n", failures);
    } else {
        printf("%s", sl_cuda_lt_facts(c));
        sl_cuda_gemm(c, NULL, 0, NULL, 0); /* nothing is nothing */
        test_forms(c);
        for (int n = 1; n < 300; n += 97) test_group(c, n);
        for (int f = 0; f < gpu_forms_n; f++) test_infinite_row(c, &gpu_forms[f]);
        test_pieces(c);
        test_scaled_rows(c, 32, 130, 328), test_scaled_rows(c, 16, 130, 328);
        test_scaled_rows(c, 32, 300, 1024), test_scaled_rows(c, 16, 300, 1024);
        test_scaled_weight(c, &gpu_forms[7], 300, 328);
        printf("%d failures\n", failures);
    }
    gpu_sync(c);
    sl_cuda_lt_destroy(c);
    gpu_close(c);
    return failures != 0;
}
