/* formats.c - times the matmul of every weight format on every row, one line each.
 *
 *   sluice-bench-formats [THREADS [ROW [FORMAT]]]
 *
 * Each number is the best call of several: GB/s of the file's bytes with one activation row (what
 * decoding reads), GFLOPS with 8, 64 and 512. Three copies of the matrix take turns, so that the
 * small caches hold none of them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "kernels/kernels.h"

#define RUN_NS 60000000u /* how long one number is measured */
#define WHOLE_ROW 0      /* columns that share a scale */

enum { ROWS = 2048, COLS = 4096, COPIES = 3, N_MAX = 512 };

static const struct format {
    const char *name;
    enum sl_dtype type, scale_type;
    int64_t scale_cols;
    int zeros;
} formats[] = {
    {"F32", SL_F32, SL_F32, WHOLE_ROW, 0},       {"F16", SL_F16, SL_F32, WHOLE_ROW, 0},
    {"BF16", SL_BF16, SL_F32, WHOLE_ROW, 0},     {"Q4_0", SL_Q4_0, SL_F32, WHOLE_ROW, 0},
    {"Q4_1", SL_Q4_1, SL_F32, WHOLE_ROW, 0},     {"Q5_0", SL_Q5_0, SL_F32, WHOLE_ROW, 0},
    {"Q5_1", SL_Q5_1, SL_F32, WHOLE_ROW, 0},     {"Q8_0", SL_Q8_0, SL_F32, WHOLE_ROW, 0},
    {"Q2_K", SL_Q2_K, SL_F32, WHOLE_ROW, 0},     {"Q3_K", SL_Q3_K, SL_F32, WHOLE_ROW, 0},
    {"Q4_K", SL_Q4_K, SL_F32, WHOLE_ROW, 0},     {"Q5_K", SL_Q5_K, SL_F32, WHOLE_ROW, 0},
    {"Q6_K", SL_Q6_K, SL_F32, WHOLE_ROW, 0},     {"IQ4_NL", SL_IQ4_NL, SL_F32, WHOLE_ROW, 0},
    {"IQ4_XS", SL_IQ4_XS, SL_F32, WHOLE_ROW, 0}, {"MXFP4", SL_MXFP4, SL_F32, WHOLE_ROW, 0},
    {"NVFP4", SL_NVFP4, SL_F32, WHOLE_ROW, 0},   {"MXFP4-hf", SL_F4, SL_E8M0, 32, 0},
    {"NVFP4-hf", SL_F4, SL_F8_E4M3, 16, 0},      {"FP8-row", SL_F8_E4M3, SL_F32, WHOLE_ROW, 0},
    {"FP8-128", SL_F8_E4M3, SL_F32, 128, 0},     {"E5M2-row", SL_F8_E5M2, SL_F32, WHOLE_ROW, 0},
    {"AWQ-128", SL_U4, SL_F16, 128, 1},          {"GPTQ8-128", SL_U8, SL_F16, 128, 1},
    {"W8A8", SL_I8, SL_F32, WHOLE_ROW, 0},       {"NF4", SL_CB4, SL_F32, 64, 0},
};

/* Bytes whose floats, halves and scales are ordinary numbers: subnormals would be timed instead. */
static uint8_t *codes(enum sl_dtype type, uint64_t bytes)
{
    uint8_t *b = malloc(bytes);
    SL_ASSERT(b);
    uint64_t block = (uint64_t)sl_dtype_block_bytes(type);
    for (uint64_t i = 0; i < bytes; i++) b[i] = (uint8_t)(sl_mix64(i) & 0x3b);
    if (sl_dtype_kind(type) == SL_KIND_FLOAT) memset(b, 0x3c, bytes);
    /* FP8 without zeros and subnormals, which are rare in matrices and slow on AMX */
    for (uint64_t i = 0; i < bytes && (type == SL_F8_E4M3 || type == SL_F8_E5M2); i++) b[i] |= 0x20;
    for (uint64_t i = 0; i < bytes && type == SL_MXFP4; i += block) b[i] = 120;
    for (uint64_t i = 0; i < bytes && type == SL_NVFP4; i += block) memset(b + i, 0x30, 4);
    return b;
}

struct run {
    struct sl_backend *b;
    const struct sl_backend_ops *ops;
    struct sl_weight w[COPIES];
    float *x, *out;
};

/* Best nanoseconds of a call with n rows. */
static double best_of(struct run *r, int n)
{
    double best = INFINITY;
    uint64_t start = sl_env_now_ns(), now = start;
    for (int i = 0; i < COPIES + 1 || now - start < RUN_NS; i++) {
        const struct sl_product p = {.w = &r->w[i % COPIES], .out = r->out};
        uint64_t t0 = now;
        r->ops->matmul(r->b, r->x, n, &p, 1);
        now = sl_env_now_ns();
        if (i >= COPIES) best = fmin(best, (double)(now - t0));
    }
    return best;
}

static void bench(struct run *r, const struct format *f)
{
    static const int counts[] = {8, 64, N_MAX};
    static const float codebook[16] = {-1, -0.5f, 0, 0.25f, 0.5f, 0.75f, 1};
    struct sl_matrix m = sl_matrix_plain(f->type, ROWS, COLS, NULL);
    struct sl_err err = {0};
    if (f->scale_cols) m.scale_cols = f->scale_cols;
    uint64_t bytes = ROWS * sl_dtype_row_bytes(f->type, COLS), scales = 0;
    uint8_t *data = codes(f->type, bytes), *table = NULL;
    if (sl_dtype_kind(f->type) == SL_KIND_PLANAR) {
        scales = ROWS * (uint64_t)sl_matrix_scales_per_row(&m);
        table = malloc(scales * 4);
        SL_ASSERT(table);
        memset(table, f->scale_type == SL_E8M0 ? 120 : 0x3c, scales * 4);
        m.zeros = f->zeros ? data : NULL;
    }
    m.data = data;
    m.scales = table;
    m.scale_type = f->scale_type;
    m.codebook = codebook;
    bytes += scales * (uint64_t)(sl_dtype_block_bytes(f->scale_type) + f->zeros);
    for (int i = 0; i < COPIES; i++)
        if (r->ops->load(r->b, SL_USE_MATMUL, &m, &r->w[i], &err)) {
            fprintf(stderr, "%s\n", err.msg);
            exit(1);
        }
    printf("%-10s %-9s %9.1f", f->name, sl_backend_row(r->b), (double)bytes / best_of(r, 1));
    for (size_t i = 0; i < SL_ARRAY_LEN(counts); i++)
        printf(" %9.1f", 2.0 * counts[i] * ROWS * COLS / best_of(r, counts[i]));
    printf(" %8.2f\n", (double)r->w[0].packed_bytes / (double)bytes);
    fflush(stdout);
    for (int i = 0; i < COPIES; i++) r->ops->unload(r->b, &r->w[i]);
    free(data);
    free(table);
}

static void bench_row(const char *row, int threads, const char *only)
{
    struct sl_backend_params p = {.kind = row, .n_threads = threads};
    struct run r = {0};
    struct sl_err err;
    if (sl_backend_create(&p, &r.b, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        exit(1);
    }
    r.ops = sl_backend_ops(r.b);
    r.x = aligned_alloc(64, sizeof(float) * N_MAX * COLS);
    r.out = aligned_alloc(64, sizeof(float) * N_MAX * ROWS);
    SL_ASSERT(r.x && r.out);
    for (int64_t i = 0; i < (int64_t)N_MAX * COLS; i++)
        r.x[i] = (float)(sl_mix64((uint64_t)i) >> 40) * 0x1p-23f - 1.0f;
    for (size_t i = 0; i < SL_ARRAY_LEN(formats); i++)
        if (!only || strcmp(only, formats[i].name) == 0) bench(&r, &formats[i]);
    free(r.x);
    free(r.out);
    sl_backend_destroy(r.b);
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 1, n;
    const char *const *rows = sl_backend_rows(&n);
    printf("%-10s %-9s %9s %9s %9s %9s %8s   %d x %d, %d threads\n", "format", "row", "1: GB/s",
           "8: GFLOPS", "64", "512", "packed", ROWS, COLS, threads);
    for (int i = 1; i < n; i++) /* 0 is the reference, which takes minutes */
        if (argc < 3 || strcmp(argv[2], rows[i]) == 0)
            bench_row(rows[i], threads, argc > 3 ? argv[3] : NULL);
    return 0;
}
