/* test_batch.c - which products of many rows are our own kernels', and what comes of them when a
 * call mixes them with others. A Hopper card plays an Ada one here: its E4M3 products run there. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "kernels/cuda/batch.h"
#include "kernels/cuda/mma_fp4.cuh"
#include "tests/gpu/gpu.h"

#define FP8_ERROR 0.04 /* rows keep 4 bits */
#define HALF_ERROR 2e-3

enum form { FACTORS, BLOCKS, HALFS, FORMS }; /* E4M3 with factors per row, in blocks; binary16 */

static struct sl_cuda *gpu;
static uint64_t seed = 3;
static int failures;

static void expect(int ok, const char *what, int n, double value)
{
    if (ok) return;
    printf("FAILED %s, %d rows: %g\n", what, n, value);
    failures++;
}

struct weight {
    float *value; /* [rows][cols] */
    struct sl_cuda_weight on;
    struct sl_weight w;
};

static void *device(const void *host, size_t bytes)
{
    return gpu_copy(host, bytes);
}

static void weight_make(struct weight *w, enum form form, int rows, int cols)
{
    int padded = (int)sl_cuda_pad(cols), across = (padded + 127) / 128, high = (rows + 127) / 128;
    size_t count = (size_t)rows * (size_t)padded;
    uint8_t *bytes = calloc(count, 1);
    uint16_t *halfs = calloc(count, 2);
    float *row = malloc(sizeof *row * (size_t)rows),
          *grid = malloc(sizeof *grid * (size_t)high * (size_t)(across + 3));
    int stride = (across + 3) / 4 * 4;
    w->value = calloc((size_t)rows * (size_t)cols, sizeof *w->value);
    for (int i = 0; i < high * stride && i < high * (across + 3); i++)
        grid[i] = 0.5f + 0.5f * fabsf(gpu_uniform(&seed));
    for (int r = 0; r < rows; r++) {
        row[r] = 0.01f * (1 + fabsf(gpu_uniform(&seed)));
        for (int k = 0; k < cols; k++) {
            float *v = &w->value[(size_t)r * (size_t)cols + (size_t)k];
            size_t at = (size_t)r * (size_t)padded + (size_t)k;
            bytes[at] = (uint8_t)(sl_mix64(seed + at) % 0x70 | (sl_mix64(at) & 1) << 7);
            *v = (float)sl_mma_e4m3(bytes[at]) * row[r];
            halfs[at] = sl_float_to_half((float)sl_mma_e4m3(bytes[at]));
            if (form == BLOCKS) *v *= grid[r / 128 * stride + k / 128];
        }
    }
    w->on = (struct sl_cuda_weight){.code_kind = form == HALFS ? SL_CUDA_F16 : SL_CUDA_E4M3,
                                    .scale_kind =
                                        form == BLOCKS ? SL_CUDA_SCALE_GRID : SL_CUDA_SCALE_NONE,
                                    .rows = rows,
                                    .cols = cols,
                                    .cols_padded = padded,
                                    .group = padded,
                                    .grid_rows = 128,
                                    .grid_cols = 128,
                                    .grid_stride = stride,
                                    .code_stride = padded * (form == HALFS ? 2 : 1)};
    w->on.code = form == HALFS ? device(halfs, 2 * count) : device(bytes, count);
    w->on.row = device(row, sizeof *row * (size_t)rows);
    if (form == BLOCKS) w->on.scale = device(grid, sizeof *grid * (size_t)(high * stride));
    w->w = (struct sl_weight){.rows = rows, .cols = cols, .packed = &w->on};
    free(bytes);
    free(halfs);
    free(row);
    free(grid);
}

static void weight_free(struct weight *w)
{
    gpu_free((void *)(uintptr_t)w->on.code);
    gpu_free((void *)(uintptr_t)w->on.row);
    gpu_free((void *)(uintptr_t)w->on.scale);
    free(w->value);
}

static float *product(const struct weight *w, const float *x, int n, const float *bias)
{
    int rows = w->on.rows, cols = w->on.cols;
    float *out = malloc(sizeof *out * (size_t)n * (size_t)rows);
    for (int i = 0; i < n; i++)
        for (int r = 0; r < rows; r++) {
            double sum = bias ? (double)bias[r] : 0;
            for (int k = 0; k < cols; k++)
                sum += (double)w->value[(size_t)r * (size_t)cols + (size_t)k] *
                       (double)x[(size_t)i * (size_t)cols + (size_t)k];
            out[(size_t)i * (size_t)rows + (size_t)r] = (float)sum;
        }
    return out;
}

static float *numbers(size_t n, float size)
{
    float *x = malloc(sizeof *x * n);
    for (size_t i = 0; i < n; i++) x[i] = size * gpu_normal(&seed);
    return x;
}

/* Three weights of different forms share their rows; the second adds. */
static void check_products(int n, int cols, const void *x_on, const float *x)
{
    static const int rows[FORMS] = {200, 392, 120};
    struct weight w[FORMS];
    struct sl_product p[FORMS];
    float *bias = numbers(200, 1), *old = numbers((size_t)n * 392, 1);
    for (int f = 0; f < FORMS; f++) {
        weight_make(&w[f], (enum form)f, rows[f], cols);
        p[f] = (struct sl_product){.w = &w[f].w,
                                   .out = gpu_copy(old, sizeof(float) * (size_t)(n * rows[f])),
                                   .flags = f == BLOCKS ? SL_MATMUL_ADD : 0};
    }
    p[0].bias = gpu_copy(bias, sizeof(float) * 200);
    sl_cuda_batch_matmul(gpu, x_on, n, p, FORMS);
    for (int f = 0; f < FORMS; f++) {
        size_t count = (size_t)n * (size_t)rows[f];
        float *want = product(&w[f], x, n, f == 0 ? bias : NULL),
              *got = malloc(sizeof(float) * count);
        if (f == BLOCKS)
            for (size_t i = 0; i < count; i++) want[i] += old[i];
        gpu_read(gpu, got, p[f].out, sizeof(float) * count);
        double e = gpu_error(got, want, (int64_t)count);
        expect(e <= (f == HALFS ? HALF_ERROR : FP8_ERROR), "product", n, e);
        free(want);
        free(got);
        gpu_free(p[f].out);
        weight_free(&w[f]);
    }
    gpu_free((void *)(uintptr_t)p[0].bias);
    free(bias);
    free(old);
}

static void check_unit(enum form form, int n, int cols, const void *x_on, const float *x)
{
    enum { ROWS = 300 };
    struct weight w[2];
    float *bias = numbers(ROWS, 1);
    size_t bytes = (size_t)(n * sl_cuda_row_stride(ROWS));
    void *bias_on = gpu_copy(bias, sizeof(float) * ROWS), *out = gpu_alloc(bytes);
    for (int i = 0; i < 2; i++) weight_make(&w[i], form, ROWS, cols);
    sl_cuda_batch_gate_up(gpu, SL_ACT_SILU, x_on, n, &w[0].w, bias_on, &w[1].w, NULL, out);
    float *gate = product(&w[0], x, n, bias), *up = product(&w[1], x, n, NULL);
    float *got = malloc(sizeof(float) * (size_t)n * ROWS);
    void *rows = malloc(bytes);
    gpu_read(gpu, rows, out, bytes);
    gpu_rows_read(rows, n, ROWS, got);
    for (int i = 0; i < n * ROWS; i++) gate[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
    double e = gpu_error(got, gate, (int64_t)n * ROWS);
    expect(e <= 2 * FP8_ERROR, "gated unit", n, e);
    gpu_free(bias_on);
    gpu_free(out);
    for (int i = 0; i < 2; i++) weight_free(&w[i]);
    free(bias);
    free(gate);
    free(up);
    free(got);
    free(rows);
}

int main(void)
{
    static const int counts[] = {0, 1, 65, 200};
    struct sl_backend_limits l = {.max_rows = 512, .max_cols = 1024};
    gpu = gpu_open(sl_cuda_batch_scratch(&l), 512, 1, 1, 16);
    if (gpu->cc < 120) gpu->cc = 89;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        int n = counts[i], cols = 1000 - 320 * (int)(i % 2);
        float *x = numbers((size_t)(n * cols + 1), 3);
        size_t bytes = (size_t)(n * sl_cuda_row_stride(cols));
        void *rows = malloc(bytes + 1);
        gpu_rows_make(x, n, cols, rows);
        void *x_on = gpu_copy(rows, bytes);
        check_products(n, cols, x_on, x);
        check_unit(FACTORS, n, cols, x_on, x);
        check_unit(BLOCKS, n, cols, x_on, x);
        gpu_free(x_on);
        free(rows);
        free(x);
    }
    gpu_close(gpu);
    printf("%s\n", failures ? "FAILED" : "passed");
    return failures != 0;
}
