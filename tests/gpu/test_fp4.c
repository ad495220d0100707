/* test_fp4.c - products on 4- and 8-bit codes with block scales. The kernels run with the emulated
 * multiply-accumulate on any card, and with the card's own where it has one: everything but the
 * instruction is thereby tested on a Hopper card. Quantized rows are compared byte for byte with
 * plain C.
 *
 * Exact data (codes 0, +-0.5, +-1, +-2, scales and factors powers of two): every partial sum fits a
 * float, so results are compared bit for bit. Any data: within a bound on the sum of magnitudes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "tests/gpu/gpu.h"
#include "tests/gpu/gpu_fp4.h"

#define SAMPLES_MAX 20000 /* outputs looked at */
#define EMULATED_ERROR 0x1p-18
#define CARD_ERROR 0x1p-12 /* adds in few bits */

static const char *const kind_names[] = {"nvfp4", "mxfp4", "mxfp4 x mxfp8", "mxfp8", "fp8"};
static struct sl_cuda *gpu;
static uint64_t seed = 7;
static int failures, small;

static unsigned draw(unsigned n)
{
    seed = sl_mix64(seed + 0x9e3779b97f4a7c15u);
    return (unsigned)(seed >> 33) % n;
}

static void expect(int ok, const char *what, enum sl_mma_kind kind, int64_t rows, int64_t cols,
                   int n)
{
    if (ok) return;
    if (failures++ < 40)
        printf("FAILED %s: %s, %lld x %lld, %d rows\n", what, kind_names[kind], (long long)rows,
               (long long)cols, n);
}

/* ---- codes and scales ------------------------------------------------------------------------ */

static int wide(enum sl_mma_kind kind, int is_weight)
{
    return kind == SL_MMA_MXFP4_A8 ? !is_weight : kind >= SL_MMA_MXFP8;
}

static uint8_t code(int is_wide, int any)
{
    static const uint8_t narrow[8] = {0, 1, 2, 4, 8, 9, 10, 12},
                         byte[8] = {0, 0x30, 0x38, 0x40, 0x80, 0xb0, 0xb8, 0xc0};
    if (any) return (uint8_t)(is_wide ? draw(0x7f) | draw(2) << 7 : draw(16));
    return (is_wide ? byte : narrow)[draw(8)];
}

static uint8_t scale_byte(enum sl_mma_kind kind, int any)
{
    if (kind == SL_MMA_NVFP4) return (uint8_t)(any ? draw(0x7f) : 0x30 + 8 * draw(3));
    return (uint8_t)(any ? 110 + draw(30) : 126 + draw(3));
}

static double scale_value(enum sl_mma_kind kind, int byte)
{
    return kind == SL_MMA_NVFP4 ? sl_mma_e4m3((uint32_t)byte) : sl_mma_e8m0((uint32_t)byte);
}

/* Where column k lies in a row of codes that meets unpacked nibbles. */
static int64_t apart(int64_t k)
{
    int64_t in = k % 32;
    return k - in + 16 * (in % 2) + in / 8 * 4 + in % 8 / 2;
}

/* Codes [rows][stride] of `cols`, what they mean without row factors in value [rows][cols], and
 * scales. Padding of weights is rubbish that decodes to finite numbers, of rows zeros. */
struct plane {
    enum sl_mma_kind kind;
    int is_weight;
    int64_t rows, cols, stride, scale_stride;
    uint8_t *code, *scale;
    float *value;
};

static struct plane plane_make(enum sl_mma_kind kind, int is_weight, int64_t rows, int64_t cols,
                               int64_t stride, int64_t scale_stride, int any)
{
    struct plane p = {.kind = kind, .is_weight = is_weight, .rows = rows, .cols = cols};
    int64_t padded = sl_cuda_pad(cols);
    int group = sl_mma_group(kind), is_wide = wide(kind, is_weight);
    p.stride = stride, p.scale_stride = scale_stride;
    p.code = calloc((size_t)(rows * stride + 1), 1);
    p.scale = calloc((size_t)(rows * scale_stride + 1), 1);
    p.value = calloc((size_t)(rows * cols + 1), sizeof(float));
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < scale_stride; i++)
            p.scale[r * scale_stride + i] = scale_byte(kind, any);
        for (int64_t k = 0; k < padded; k++) {
            uint8_t v = k < cols || is_weight ? code(is_wide, any) : 0;
            int64_t at = kind == SL_MMA_MXFP4_A8 && !is_weight ? apart(k) : k;
            if (is_wide)
                p.code[r * stride + at] = v;
            else
                p.code[r * stride + at / 2] |= (uint8_t)(v << 4 * (at % 2));
            if (k >= cols) continue;
            double x = is_wide ? sl_mma_e4m3(v) : sl_mma_e2m1(v);
            if (kind != SL_MMA_FP8) x *= scale_value(kind, p.scale[r * scale_stride + k / group]);
            p.value[r * cols + k] = (float)x;
        }
    }
    return p;
}

static void plane_free(struct plane *p)
{
    free(p->code);
    free(p->scale);
    free(p->value);
}

static float *factors(int64_t n, int any)
{
    float *f = malloc(sizeof *f * (size_t)(n + 1));
    for (int64_t i = 0; i < n; i++) f[i] = any ? gpu_normal(&seed) : ldexpf(1, (int)draw(3) - 1);
    return f;
}

/* ---- weights and rows on both sides ---------------------------------------------------------- */

struct weight {
    struct plane p;
    float *row, *bias, *grid; /* host; bias, grid may be NULL */
    struct sl_cuda_weight on;
    struct sl_weight w;
    float *bias_on;
};

static void weight_make(struct weight *w, enum sl_mma_kind kind, int64_t rows, int64_t cols,
                        int with_grid, int any)
{
    int64_t padded = sl_cuda_pad(cols), group = sl_mma_group(kind);
    memset(w, 0, sizeof *w);
    w->p = plane_make(kind, 1, rows, cols, padded / (wide(kind, 1) ? 1 : 2) + 32 * (rows % 2),
                      kind == SL_MMA_FP8 ? 0 : padded / group, any);
    w->row = factors(rows, any);
    w->bias = rows % 3 ? factors(rows, any) : NULL;
    struct sl_cuda_weight *on = &w->on;
    *on = (struct sl_cuda_weight){.code_kind = wide(kind, 1) ? SL_CUDA_E4M3 : SL_CUDA_E2M1,
                                  .scale_kind = kind == SL_MMA_FP8     ? SL_CUDA_SCALE_NONE
                                                : kind == SL_MMA_NVFP4 ? SL_CUDA_SCALE_UE4M3
                                                                       : SL_CUDA_SCALE_E8M0,
                                  .rows = (int32_t)rows,
                                  .cols = (int32_t)cols,
                                  .cols_padded = (int32_t)padded,
                                  .group = kind == SL_MMA_FP8 ? (int32_t)padded : (int32_t)group,
                                  .code_stride = w->p.stride};
    on->code = gpu_copy(w->p.code, (size_t)(rows * w->p.stride));
    on->row = gpu_copy(w->row, sizeof(float) * (size_t)rows);
    if (with_grid) {
        int64_t high = (rows + 127) / 128, across = (padded + 127) / 128;
        on->scale_kind = SL_CUDA_SCALE_GRID;
        on->grid_rows = on->grid_cols = 128;
        on->grid_stride = (int32_t)((across + 3) / 4 * 4);
        w->grid = factors(high * on->grid_stride, any);
        on->scale = gpu_copy(w->grid, sizeof(float) * (size_t)(high * on->grid_stride));
        for (int64_t r = 0; r < rows; r++)
            for (int64_t k = 0; k < cols; k++)
                w->p.value[r * cols + k] *= w->grid[r / 128 * on->grid_stride + k / 128];
    } else if (kind != SL_MMA_FP8) {
        on->scale = gpu_copy(w->p.scale, (size_t)(rows * w->p.scale_stride));
    }
    if (w->bias) w->bias_on = gpu_copy(w->bias, sizeof(float) * (size_t)rows);
    w->w = (struct sl_weight){.rows = rows, .cols = cols, .packed = on};
}

static void weight_free(struct weight *w)
{
    gpu_free((void *)(uintptr_t)w->on.code);
    gpu_free((void *)(uintptr_t)w->on.row);
    gpu_free((void *)(uintptr_t)w->on.scale);
    gpu_free(w->bias_on);
    free(w->row);
    free(w->bias);
    free(w->grid);
    plane_free(&w->p);
}

struct rows {
    struct plane p;
    float *row;
    void *memory;
    struct sl_mma_rows on;
};

static void rows_make(struct rows *x, enum sl_mma_kind kind, int n, int64_t cols, int any)
{
    size_t bytes = sl_cuda_mma_rows_bytes(kind, n, cols);
    uint8_t *host = calloc(bytes + 1, 1);
    struct sl_mma_rows to = sl_cuda_mma_rows_at(kind, n, cols, host);
    x->p = plane_make(kind, 0, n, cols, to.code_stride, to.scale_stride, any);
    x->row = factors(n, any);
    memcpy(to.row, x->row, sizeof(float) * (size_t)n);
    memcpy(to.scale, x->p.scale, (size_t)(n * to.scale_stride));
    memcpy(to.code, x->p.code, (size_t)(n * to.code_stride));
    x->memory = gpu_copy(host, bytes);
    x->on = sl_cuda_mma_rows_at(kind, n, cols, x->memory);
    free(host);
}

static void rows_free(struct rows *x)
{
    gpu_free(x->memory);
    free(x->row);
    plane_free(&x->p);
}

/* ---- products -------------------------------------------------------------------------------- */

typedef void (*matmul_fn)(struct sl_cuda *, const struct sl_mma_rows *, int,
                          const struct sl_product *, int);

/* Looks at all of out [n][rows], or as many places as SAMPLES_MAX. `before` is what was added to,
 * or NULL; tolerance 0: the same bits. */
static int right(const struct weight *w, const struct rows *x, const float *out,
                 const float *before, double tolerance)
{
    int64_t rows = w->p.rows, cols = w->p.cols, all = rows * x->p.rows, count = all;
    if (count > SAMPLES_MAX) count = SAMPLES_MAX;
    for (int64_t s = 0; s < count; s++) {
        int64_t at = count == all ? s : (int64_t)draw(0x7fffffff) % all;
        int64_t i = at / rows, r = at % rows;
        double sum = 0, size = 0;
        for (int64_t k = 0; k < cols; k++) {
            double v = (double)w->p.value[r * cols + k] * (double)x->p.value[i * cols + k];
            sum += v;
            size += fabs(v);
        }
        double factor = (double)w->row[r] * (double)x->row[i];
        double want =
            sum * factor + (w->bias ? (double)w->bias[r] : 0) + (before ? (double)before[at] : 0);
        size = size * fabs(factor) + fabs(want);
        if (tolerance > 0 ? !(fabs((double)out[at] - want) <= tolerance * size)
                          : out[at] != (float)want)
            return 0;
    }
    return 1;
}

/* Up to three products of one input in one launch, the last adding, guards behind each output. */
static void check_products(matmul_fn matmul, enum sl_mma_kind kind, const int64_t *sizes,
                           int n_sizes, int64_t cols, int n, int with_grid, double tolerance)
{
    struct weight w[3];
    struct rows x;
    struct sl_product p[3];
    float *before[3];
    int any = tolerance > 0;
    rows_make(&x, kind, n, cols, any);
    for (int i = 0; i < n_sizes; i++) {
        weight_make(&w[i], kind, sizes[i], cols, with_grid, any);
        int64_t count = n * sizes[i];
        before[i] = factors(count + 64, any);
        p[i] = (struct sl_product){.w = &w[i].w,
                                   .bias = w[i].bias_on,
                                   .out = gpu_copy(before[i], sizeof(float) * (size_t)(count + 64)),
                                   .flags = i == 2 ? SL_MATMUL_ADD : 0};
    }
    matmul(gpu, &x.on, n, p, n_sizes);
    for (int i = 0; i < n_sizes; i++) {
        int64_t count = n * sizes[i];
        float *out = malloc(sizeof(float) * (size_t)(count + 64));
        gpu_read(gpu, out, p[i].out, sizeof(float) * (size_t)(count + 64));
        expect(right(&w[i], &x, out, i == 2 ? before[i] : NULL, tolerance), "product", kind,
               sizes[i], cols, n);
        expect(!memcmp(out + count, before[i] + count, 64 * sizeof(float)), "writes behind its end",
               kind, sizes[i], cols, n);
        free(out);
        free(before[i]);
        gpu_free(p[i].out);
        weight_free(&w[i]);
    }
    rows_free(&x);
}

static void products(matmul_fn matmul, enum sl_mma_kind kind, double tolerance)
{
    static const int64_t shapes[][4] = {{1, 1, 1, 1},      {7, 129, 1, 64},
                                        {16, 5, 3, 192},   {127, 128, 33, 320},
                                        {257, 64, 1, 576}, {384, 2, 130, 1088}};
    static const int counts[] = {0, 1, 2, 7, 16, 31, 33, 64, 65, 128, 200};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            if (small && (i + s) % 5) continue;
            check_products(matmul, kind, shapes[s], 3, shapes[s][3], counts[i], 0, 0);
            if (kind == SL_MMA_FP8)
                check_products(matmul, kind, shapes[s], 2, shapes[s][3], counts[i], 1, 0);
            if (i % 3 == 1)
                check_products(matmul, kind, shapes[s], 3, shapes[s][3] - 1, counts[i], 0,
                               tolerance);
        }
    if (small) return;
    static const int64_t large[][4] = {{4097, 0, 0, 2880}, {2049, 0, 0, 4096}, {1023, 0, 0, 3000}};
    static const int large_n[] = {65, 1000, 333};
    for (int s = 0; s < 3; s++) {
        check_products(matmul, kind, large[s], 1, large[s][3], large_n[s], kind == SL_MMA_FP8 && s,
                       0);
        check_products(matmul, kind, large[s], 1, large[s][3], large_n[s], kind == SL_MMA_FP8 && s,
                       tolerance);
    }
}

/* A row alone, among up to 64 others, and in the wide tile: the same bits. */
static void rows_are_independent(matmul_fn matmul, enum sl_mma_kind kind)
{
    enum { ROWS = 200, COLS = 704, N = 65 };
    int step = small ? 16 : 1;
    struct weight w;
    struct rows x;
    float *one = malloc(sizeof(float) * N * ROWS), *all = malloc(sizeof(float) * N * ROWS);
    weight_make(&w, kind, ROWS, COLS, kind == SL_MMA_FP8, 1);
    rows_make(&x, kind, N, COLS, 1);
    float *out = gpu_alloc(sizeof(float) * N * ROWS);
    struct sl_product p = {.w = &w.w, .bias = w.bias_on, .out = out};
    matmul(gpu, &x.on, N, &p, 1);
    gpu_read(gpu, all, out, sizeof(float) * N * ROWS);
    for (int n = 1; n < N; n += step) {
        matmul(gpu, &x.on, n, &p, 1);
        gpu_read(gpu, one, out, sizeof(float) * (size_t)(n * ROWS));
        expect(!memcmp(one, all, sizeof(float) * (size_t)(n * ROWS)), "depends on other rows", kind,
               ROWS, COLS, n);
    }
    gpu_free(out);
    weight_free(&w);
    rows_free(&x);
    free(one);
    free(all);
}

/* ---- quantized rows -------------------------------------------------------------------------- */

static float bits_float(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint8_t nearest_e2m1(float v)
{
    int best = 0;
    for (int c = 1; c < 8; c++) {
        double d = fabs(sl_mma_e2m1((uint32_t)c) - fabs((double)v)),
               b = fabs(sl_mma_e2m1((uint32_t)best) - fabs((double)v));
        if (d < b || (d == b && c % 2 == 0)) best = c;
    }
    return (uint8_t)(best | (signbit(v) ? 8 : 0));
}

static uint8_t nearest_e4m3(float v)
{
    double m = fabs((double)v);
    if (isnan(v)) return 0x7f;
    int low = 0, high = 0x7e;
    while (high - low > 1) {
        int mid = (low + high) / 2;
        if (sl_mma_e4m3((uint32_t)mid) <= m)
            low = mid;
        else
            high = mid;
    }
    double a = m - sl_mma_e4m3((uint32_t)low), b = sl_mma_e4m3((uint32_t)high) - m;
    int best = a < b || (a == b && low % 2 == 0) ? low : high;
    return (uint8_t)(best | (signbit(v) ? 0x80 : 0));
}

static uint8_t exponent_above(float top, float most)
{
    if (top == 0) return 127;
    float q = top / most;
    int e;
    return (uint8_t)(frexpf(q, &e) == 0.5f ? e - 1 + 127 : e + 127);
}

/* One row of halfs' values, as matmul_fp4.h says, into the host's `to`. */
static void quantize_row(const struct sl_mma_rows *to, int64_t i, const float *half, float head)
{
    enum sl_mma_kind kind = to->kind;
    int64_t padded = sl_cuda_pad(to->cols);
    int group = kind == SL_MMA_FP8 ? (int)padded : sl_mma_group(kind);
    uint8_t *codes = to->code + i * to->code_stride, *scales = to->scale + i * to->scale_stride;
    float top = 0, g = 1;
    for (int64_t k = 0; k < padded; k++) top = fmaxf(top, fabsf(half[k]));
    if (kind == SL_MMA_NVFP4) g = top / 2688.0f;
    if (kind == SL_MMA_FP8) g = top / 448.0f;
    to->row[i] = g * head;
    for (int64_t from = 0; from < padded; from += group) {
        float most = 0, by = 0, times = 0;
        for (int64_t k = from; k < from + group; k++) most = fmaxf(most, fabsf(half[k]));
        if (kind == SL_MMA_NVFP4) {
            scales[from / group] = top > 0 ? nearest_e4m3(most / (6.0f * g)) : 0;
            by = g * (float)sl_mma_e4m3(scales[from / group]);
        } else if (kind == SL_MMA_FP8) {
            times = top > 0 ? 448.0f / top : 0;
        } else {
            uint8_t e = exponent_above(most, kind == SL_MMA_MXFP4 ? 6 : 448);
            scales[from / group] = e;
            by = bits_float((uint32_t)e << 23);
            times = bits_float((uint32_t)(254 - e) << 23);
        }
        for (int64_t k = from; k < from + group; k++) {
            if (wide(kind, 0))
                codes[kind == SL_MMA_MXFP4_A8 ? apart(k) : k] = nearest_e4m3(half[k] * times);
            else if (by > 0)
                codes[k / 2] |= (uint8_t)(nearest_e2m1(half[k] / by) << 4 * (k % 2));
        }
    }
}

static void check_quantized(enum sl_mma_kind kind, int n, int64_t cols)
{
    int64_t stride = sl_cuda_row_stride(cols), padded = sl_cuda_pad(cols);
    float *x = malloc(sizeof(float) * (size_t)(n * cols)),
          *half = malloc(sizeof(float) * (size_t)padded);
    char *rows = malloc((size_t)(n * stride));
    for (int64_t i = 0; i < n * cols; i++) {
        float size = i / cols % 4 == 3 ? 0 : ldexpf(1, (int)(i / cols % 9) * 8 - 30);
        x[i] = gpu_normal(&seed) * size * (i / 16 % 7 == 6 ? 0.001f : 1);
    }
    gpu_rows_make(x, n, cols, rows);
    size_t bytes = sl_cuda_mma_rows_bytes(kind, n, cols);
    uint8_t *want = calloc(bytes, 1), *got = calloc(bytes, 1);
    struct sl_mma_rows to = sl_cuda_mma_rows_at(kind, n, cols, want);
    for (int64_t i = 0; i < n; i++) {
        const uint16_t *h = (const void *)(rows + i * stride + SL_CUDA_ROW_HEAD);
        float head;
        memcpy(&head, rows + i * stride, sizeof head);
        for (int64_t k = 0; k < padded; k++) half[k] = sl_half_to_float(h[k]);
        quantize_row(&to, i, half, head);
    }
    void *x_on = gpu_copy(rows, (size_t)(n * stride)), *memory = gpu_alloc(bytes);
    struct sl_mma_rows on = sl_cuda_mma_rows_at(kind, n, cols, memory);
    sl_cuda_mma_rows(gpu, x_on, n, &on);
    gpu_read(gpu, got, memory, bytes);
    /* padding of the scales' stride is nobody's */
    int64_t used = kind == SL_MMA_FP8 ? 0 : padded / sl_mma_group(kind);
    struct sl_mma_rows from = sl_cuda_mma_rows_at(kind, n, cols, got);
    expect(!memcmp(from.row, to.row, sizeof(float) * (size_t)n), "row factors", kind, 0, cols, n);
    expect(!memcmp(from.code, to.code, (size_t)(n * to.code_stride)), "codes", kind, 0, cols, n);
    for (int64_t i = 0; i < n; i++)
        expect(
            !memcmp(from.scale + i * to.scale_stride, to.scale + i * to.scale_stride, (size_t)used),
            "scales", kind, 0, cols, n);
    gpu_free(x_on);
    gpu_free(memory);
    free(x);
    free(half);
    free(rows);
    free(want);
    free(got);
}

/* Rows as given, quantized and multiplied on the card, against float products: what the format
 * costs. A NaN or an infinity spoils its own row only. */
static void check_whole(matmul_fn matmul, enum sl_mma_kind kind, double tolerance)
{
    enum { ROWS = 150, COLS = 1000, N = 35 };
    struct weight w;
    float *x = malloc(sizeof(float) * N * COLS), *out = malloc(sizeof(float) * N * ROWS),
          *want = malloc(sizeof(float) * N * ROWS);
    for (int i = 0; i < N * COLS; i++) x[i] = gpu_normal(&seed) * (float)(1 + i / COLS);
    char *rows = malloc((size_t)(N * sl_cuda_row_stride(COLS)));
    gpu_rows_make(x, N, COLS, rows);
    uint16_t *half = (void *)(rows + 9 * sl_cuda_row_stride(COLS) + SL_CUDA_ROW_HEAD);
    half[500] = 0x7e00; /* NaN in row 9 */
    half = (void *)(rows + 11 * sl_cuda_row_stride(COLS) + SL_CUDA_ROW_HEAD);
    half[7] = 0xfc00; /* -infinity in row 11 */
    weight_make(&w, kind, ROWS, COLS, 0, 0);
    for (int i = 0; i < N; i++)
        for (int r = 0; r < ROWS; r++) {
            double sum = 0;
            for (int k = 0; k < COLS; k++)
                sum += (double)w.p.value[r * COLS + k] * (double)x[i * COLS + k];
            want[i * ROWS + r] = (float)(sum * (double)w.row[r]);
        }
    void *x_on = gpu_copy(rows, (size_t)(N * sl_cuda_row_stride(COLS)));
    void *memory = gpu_alloc(sl_cuda_mma_rows_bytes(kind, N, COLS));
    struct sl_mma_rows on = sl_cuda_mma_rows_at(kind, N, COLS, memory);
    struct sl_product p = {.w = &w.w, .out = gpu_alloc(sizeof(float) * N * ROWS)};
    sl_cuda_mma_rows(gpu, x_on, N, &on);
    matmul(gpu, &on, N, &p, 1);
    gpu_read(gpu, out, p.out, sizeof(float) * N * ROWS);
    for (int i = 0; i < N; i++) {
        int spoiled = 0;
        for (int r = 0; r < ROWS; r++) spoiled += !isfinite(out[i * ROWS + r]);
        if (i == 9 || i == 11) {
            expect(spoiled > 0, "hides a NaN", kind, ROWS, COLS, i);
            memcpy(out + i * ROWS, want + i * ROWS, sizeof(float) * ROWS);
        } else {
            expect(spoiled == 0, "spoils another row", kind, ROWS, COLS, i);
        }
    }
    double e = gpu_error(out, want, N * ROWS);
    printf("%-14s relative error of rows quantized on the fly %.4f\n", kind_names[kind], e);
    expect(e <= tolerance, "quantized rows", kind, ROWS, COLS, N);
    gpu_free(p.out);
    gpu_free(x_on);
    gpu_free(memory);
    weight_free(&w);
    free(x);
    free(out);
    free(want);
    free(rows);
}

/* ---- choice, speed --------------------------------------------------------------------------- */

static void choice(void)
{
    struct sl_cuda_weight w = {.code_kind = SL_CUDA_E2M1,
                               .scale_kind = SL_CUDA_SCALE_UE4M3,
                               .rows = 64,
                               .cols = 64,
                               .cols_padded = 64,
                               .group = 16,
                               .code_stride = 32};
    int ok = sl_cuda_mma_choose(120, &w, 0) == SL_MMA_NVFP4 && sl_cuda_mma_choose(90, &w, 0) < 0 &&
             sl_cuda_mma_choose(89, &w, 0) < 0;
    w.scale_kind = SL_CUDA_SCALE_E8M0, w.group = 32;
    ok &= sl_cuda_mma_choose(120, &w, 0) == SL_MMA_MXFP4_A8;
    ok &= sl_cuda_mma_choose(121, &w, 1) == SL_MMA_MXFP4;
    ok &= sl_cuda_mma_choose(100, &w, 1) < 0;
    w.code_kind = SL_CUDA_E4M3, w.code_stride = 64;
    ok &= sl_cuda_mma_choose(120, &w, 0) == SL_MMA_MXFP8 && sl_cuda_mma_choose(89, &w, 0) < 0;
    w.scale_kind = SL_CUDA_SCALE_NONE;
    ok &= sl_cuda_mma_choose(89, &w, 0) == SL_MMA_FP8 && sl_cuda_mma_choose(90, &w, 0) < 0;
    w.scale_kind = SL_CUDA_SCALE_GRID, w.grid_rows = w.grid_cols = 128;
    ok &= sl_cuda_mma_choose(89, &w, 0) == SL_MMA_FP8;
    w.grid_cols = 64;
    ok &= sl_cuda_mma_choose(89, &w, 0) < 0;
    w.grid_cols = 128;
    int32_t order = 0;
    w.order = &order;
    ok &= sl_cuda_mma_choose(89, &w, 0) < 0;
    expect(ok, "choice", SL_MMA_FP8, 0, 0, 0);
}

struct timed {
    struct weight w;
    struct rows x;
    struct sl_product p;
    int n;
};

static void timed_run(void *arg, int call)
{
    struct timed *t = arg;
    (void)call;
    sl_cuda_mma_matmul(gpu, &t->x.on, t->n, &t->p, 1);
}

static void bench(enum sl_mma_kind kind)
{
    enum { SIDE = 4096 };
    static const int counts[] = {1, 32, 128, 1024, 4096};
    struct timed t;
    weight_make(&t.w, kind, SIDE, SIDE, 0, 1);
    rows_make(&t.x, kind, SIDE, SIDE, 1);
    t.p = (struct sl_product){.w = &t.w.w, .out = gpu_alloc(sizeof(float) * SIDE * SIDE)};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        t.n = counts[i];
        double s = gpu_time(gpu, 5, 10, timed_run, &t);
        printf("%-14s %5d rows x %d x %d: %8.1f us, %7.1f TFLOPS\n", kind_names[kind], t.n, SIDE,
               SIDE, s * 1e6, 2.0 * SIDE * SIDE * t.n / s * 1e-12);
    }
    gpu_free(t.p.out);
    weight_free(&t.w);
    rows_free(&t.x);
}

/* The card's own instruction, as far as this card has it. Hopper takes FP8 apart into half
 * precision, which is right, if slow. */
static int card_has(enum sl_mma_kind kind)
{
    return gpu->cc == 120 || gpu->cc == 121 || (kind == SL_MMA_FP8 && gpu->cc >= 89);
}

int main(int argc, char **argv)
{
    /* E2M1 and E4M3 keep 2 and 4 bits */
    static const double costs[SL_MMA_KINDS] = {0.12, 0.17, 0.04, 0.04, 0.04};
    gpu = gpu_open(0, 1, 1, 1, 16);
    small = argc > 1 && !strcmp(argv[1], "small"); /* for compute-sanitizer */
    choice();
    for (int k = 0; k < SL_MMA_KINDS; k++) {
        enum sl_mma_kind kind = (enum sl_mma_kind)k;
        if (argc > 1 && !strcmp(argv[1], "bench")) {
            if (card_has(kind)) bench(kind);
            continue;
        }
        for (int64_t cols = 1; cols < 5000; cols = cols * 3 + 61) check_quantized(kind, 37, cols);
        if (!small) check_quantized(kind, 3, 16384);
        products(gpu_fp4_matmul, kind, EMULATED_ERROR);
        rows_are_independent(gpu_fp4_matmul, kind);
        check_whole(gpu_fp4_matmul, kind, costs[kind]);
        if (!card_has(kind)) continue;
        products(sl_cuda_mma_matmul, kind, CARD_ERROR);
        rows_are_independent(sl_cuda_mma_matmul, kind);
        check_whole(sl_cuda_mma_matmul, kind, costs[kind]);
    }
    gpu_close(gpu);
    printf("%s\n", failures ? "FAILED" : "passed");
    return failures != 0;
}
