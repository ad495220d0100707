/* gemm_bench.c - see gemm_bench.h. */
#include "tests/gpu/gemm_bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gemm_steps.h"
#include "kernels/cuda/lt.h"
#include "tests/gpu/gpu_form.h"

#define BYTES ((size_t)256 << 20) /* of every big buffer: beyond the L2 cache */
#define ROUNDS 5
#define LAYER_ROWS_MAX 4096

struct bench {
    struct sl_cuda *c;
    char *codes;  /* random bytes that are finite as E4M3 and as halfs */
    void *powers; /* E8M0: 2^-7 */
    float *ones;
    void *x; /* product rows */
    float *out;
    double fp8_peak, half_peak; /* FLOP/s */
};

/* Bytes that mean something ordinary in every format: halfs and E4M3 of middling size. */
static void *random_codes(size_t bytes)
{
    uint64_t *p = malloc(bytes), seed = 1;
    for (size_t i = 0; i < bytes / 8; i++)
        p[i] = (sl_mix64(seed += 0x9e3779b97f4a7c15u) & 0xbfbfbfbfbfbfbfbfu) | 0x2020202020202020u;
    void *d = gpu_copy(p, bytes);
    free(p);
    return d;
}

static void *random_rows(int n, int cols)
{
    size_t stride = (size_t)sl_cuda_row_stride(cols);
    char *p = malloc(stride * (size_t)n);
    uint64_t seed = 2;
    for (int i = 0; i < n; i++) {
        float scale = i % 3 ? 0x1p-10f : 0x1p-11f;
        memcpy(p + (size_t)i * stride, &scale, 4);
        for (size_t j = SL_CUDA_ROW_HEAD; j < stride; j += 2) {
            uint16_t h = (uint16_t)((sl_mix64(seed += 0x9e3779b97f4a7c15u) & 0x8fff) | 0x6000);
            memcpy(p + (size_t)i * stride + j, &h, 2);
        }
    }
    void *d = gpu_copy(p, stride * (size_t)n);
    free(p);
    return d;
}

/* ---- cuBLASLt alone -------------------------------------------------------------------------- */

struct raw {
    struct bench *b;
    struct sl_lt_gemm g;
    int refused;
};

static void run_raw(void *arg, int call)
{
    struct raw *r = arg;
    (void)call;
    r->refused |= sl_lt_run(r->b->c, &r->g) != 0;
}

/* FLOP/s of one plain product, 0 when refused. */
static double raw_rate(struct bench *b, enum sl_lt_kind kind, int m, int n, int k,
                       enum sl_lt_sums sums, int add)
{
    struct raw r = {b,
                    {.kind = kind,
                     .m = m,
                     .n = n,
                     .k = k,
                     .a = b->codes,
                     .b = b->codes + (64u << 20),
                     .a_stride = k,
                     .b_stride = k,
                     .a_scale = b->ones,
                     .b_scale = b->ones,
                     .d = b->out,
                     .d_stride = m,
                     .sums = sums,
                     .add = add},
                    0};
    double flop = 2.0 * m * n * k;
    int calls = flop > 1e12 ? 3 : flop > 1e11 ? 10 : 30;
    double s = gpu_time(b->c, ROUNDS, calls, run_raw, &r);
    return r.refused ? 0 : flop / s;
}

static void bench_raw(struct bench *b)
{
    static const struct {
        int m, n, k;
    } shapes[] = {{4096, 4096, 4096},  {4096, 2048, 4096}, {2048, 4096, 4096}, {4096, 4096, 14336},
                  {14336, 4096, 4096}, {8192, 4096, 4096}, {4096, 1024, 4096}, {4096, 128, 4096}};
    b->fp8_peak = raw_rate(b, SL_LT_FP8, 8192, 8192, 8192, 0, 0);
    b->half_peak = raw_rate(b, SL_LT_HALF, 8192, 4096, 8192, 0, 0);
    double half = raw_rate(b, SL_LT_FP8, 8192, 8192, 8192, 1, 0);
    if (half > b->fp8_peak) b->fp8_peak = half;
    printf("cuBLASLt peak: fp8 %.0f TFLOPS, f16 %.0f TFLOPS\n", b->fp8_peak * 1e-12,
           b->half_peak * 1e-12);
    printf("%24s %26s %26s %26s\n", "",
           "fp8 rows f32/f16/+=", "fp8 block f32/f16/+=", "f16 f32/f16/+=");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int m = shapes[i].m, n = shapes[i].n, k = shapes[i].k;
        printf("m %5d n %5d k %5d:  ", m, n, k);
        static const enum sl_lt_kind kinds[] = {SL_LT_FP8_OUTER, SL_LT_FP8_BLOCK, SL_LT_HALF};
        for (int j = 0; j < 3; j++)
            printf(" %8.0f %8.0f %8.0f", raw_rate(b, kinds[j], m, n, k, 0, 0) * 1e-12,
                   raw_rate(b, kinds[j], m, n, k, 1, 0) * 1e-12,
                   raw_rate(b, kinds[j], m, n, k, 0, 1) * 1e-12);
        printf("\n");
    }
}

/* ---- steps ----------------------------------------------------------------------------------- */

struct step {
    struct bench *b;
    int n, cols, which;
    struct sl_cuda_weight w;
    struct sl_cuda_level *level;
};

static void run_step(void *arg, int call)
{
    struct step *s = arg;
    struct sl_cuda *c = s->b->c;
    const struct sl_cuda_weight *w = &s->w;
    (void)call;
    struct sl_cuda_glu_piece g = {.act = SL_ACT_SILU,
                                  .sums = {s->b->codes, s->b->codes + (128u << 20)},
                                  .d_stride = s->cols,
                                  .n = s->n,
                                  .m = s->cols,
                                  .cols = s->cols,
                                  .out = s->b->out};
    if (s->which == 0) sl_cuda_quantize_rows(c, s->b->x, s->n, s->cols, s->b->out, s->b->ones);
    if (s->which == 1)
        sl_cuda_quantize_blocks(c, s->b->x, s->n, s->n, s->cols, s->b->out, s->b->ones);
    if (s->which == 2) sl_cuda_level(c, s->b->x, s->n, s->cols, &w, 1, s->level);
    if (s->which == 3) sl_cuda_glu_piece(c, &g);
    if (s->which == 4) sl_cuda_decode(c, &s->w, 0, s->w.rows, s->b->out);
}

static struct sl_cuda_weight big_weight(struct bench *b, const struct gpu_form *f, int rows,
                                        int cols)
{
    static const int bits[SL_CUDA_CODES] = {16, 32, 8, 8, 4, 4, 2, 2, 4, 4, 4, 8, 8};
    static const int high[SL_CUDA_CODES] = {[SL_CUDA_U3] = 1, [SL_CUDA_U5] = 1, [SL_CUDA_U6] = 2};
    const char *tables = b->codes + BYTES / 2;
    struct sl_cuda_weight w = {.code_kind = f->code,
                               .scale_kind = f->scale,
                               .min_kind = f->min,
                               .rows = rows,
                               .cols = cols,
                               .cols_padded = cols,
                               .group = f->group ? f->group : cols,
                               .grid_rows = 128,
                               .grid_cols = 128,
                               .grid_stride = (cols / 128 + 3) / 4 * 4,
                               .offset = f->offset,
                               .code = b->codes,
                               .high = b->codes,
                               .scale = tables,
                               .super = tables,
                               .min = tables,
                               .supmin = tables,
                               .row = b->ones};
    w.code_stride = (int64_t)cols * bits[f->code] / 8;
    w.high_stride = (int64_t)cols * high[f->code] / 8;
    if (f->scale == SL_CUDA_SCALE_GRID) w.scale = b->ones;
    if (f->scale == SL_CUDA_SCALE_E8M0) w.scale = b->powers;
    return w;
}

static void bench_steps(struct bench *b)
{
    static const char *const names[] = {"rows to E4M3", "blocks to E4M3", "level (all equal)",
                                        "glu piece"};
    struct step s = {.b = b, .n = 4096, .level = gpu_alloc(64)};
    double band = gpu_read_bandwidth(b->c);
    printf("read bandwidth %.0f GB/s\n", band * 1e-9);
    for (s.which = 0; s.which < 4; s.which++)
        for (s.cols = 4096; s.cols <= 14336; s.cols += 10240) {
            s.w = big_weight(b, &gpu_forms[0], 4096, 4096);
            double t = gpu_time(b->c, ROUNDS, 20, run_step, &s);
            double bytes = (double)s.n * s.cols * (s.which < 2 ? 3 : s.which == 2 ? 0 : 6);
            printf("%-20s n 4096 cols %5d: %6.1f us %6.0f GB/s\n", names[s.which], s.cols, t * 1e6,
                   bytes / t * 1e-9);
        }
    s.which = 4;
    for (int f = 0; f < gpu_forms_n; f++) {
        if (gpu_forms[f].ordered || gpu_forms[f].code == SL_CUDA_F32) continue;
        s.w = big_weight(b, &gpu_forms[f], 14336, 4096);
        double t = gpu_time(b->c, ROUNDS, 10, run_step, &s);
        double bytes = 14336.0 * (2 * 4096 + (double)s.w.code_stride + (double)s.w.high_stride);
        if (s.w.group < 4096) bytes += 14336.0 * 4096 / s.w.group;
        printf("decode %-14s: %6.1f us %6.0f GB/s, %2.0f %% of reading\n", gpu_forms[f].name,
               t * 1e6, bytes / t * 1e-9, 100 * bytes / t / band);
    }
    gpu_free(s.level);
}

/* ---- a layer --------------------------------------------------------------------------------- */

struct layer {
    struct bench *b;
    const struct gpu_form *f;
    int n, dim, kv, ff, part;
    void *x, *wide; /* product rows [n][dim], [n][ff] */
};

static void run_part(void *arg, int call)
{
    struct layer *l = arg;
    struct bench *b = l->b;
    int rows[3] = {l->dim, l->kv, l->kv}, cols = l->part == 3 ? l->ff : l->dim, count = 1;
    struct sl_cuda_weight w[3];
    struct sl_weight h[3];
    struct sl_product p[3];
    (void)call;
    if (l->part == 2) rows[0] = rows[1] = l->ff;
    if (l->part == 0) count = 3;
    for (int i = 0; i < 3; i++) {
        w[i] = big_weight(b, l->f, rows[i], cols);
        w[i].code = b->codes + i * (24 << 20);
        h[i] = (struct sl_weight){.rows = rows[i], .cols = cols, .packed = &w[i]};
        p[i] = (struct sl_product){&h[i], NULL, b->out + (size_t)i * (32u << 20),
                                   l->part & 1 ? SL_MATMUL_ADD : 0};
    }
    if (l->part == 2)
        sl_cuda_gemm_gate_up(b->c, SL_ACT_SILU, l->x, l->n, &h[0], NULL, &h[1], NULL, l->wide);
    else
        sl_cuda_gemm(b->c, l->part == 3 ? l->wide : l->x, l->n, p, count);
}

/* Seconds the calling thread needs to enqueue the layer. */
static double enqueue_time(struct layer *l)
{
    gpu_sync(l->b->c);
    uint64_t from = sl_env_now_ns();
    for (int i = 0; i < 20; i++)
        for (l->part = 0; l->part < 4; l->part++) run_part(l, i);
    double t = (double)(sl_env_now_ns() - from) * 1e-9 / 20;
    gpu_sync(l->b->c);
    return t;
}

static void bench_layer(struct bench *b, struct layer l)
{
    double flops[4] = {2.0 * l.n * l.dim * (l.dim + 2 * l.kv), 2.0 * l.n * l.dim * l.dim,
                       4.0 * l.n * l.dim * l.ff, 2.0 * l.n * l.dim * l.ff};
    double all = 0, time = 0;
    double peak = l.f->code == SL_CUDA_E4M3 ? b->fp8_peak : b->half_peak;
    printf("%-10s dim %5d n %5d:", l.f->name, l.dim, l.n);
    for (l.part = 0; l.part < 4; l.part++) {
        double t = gpu_time(b->c, ROUNDS, l.n > 1024 ? 5 : 20, run_part, &l);
        printf(" %7.1f us %5.0f", t * 1e6, flops[l.part] / t * 1e-12);
        all += flops[l.part], time += t;
    }
    printf(" | %8.1f us %5.0f TFLOPS, %3.0f %% of peak; enqueued in %.0f us\n", time * 1e6,
           all / time * 1e-12, 100 * all / time / peak, enqueue_time(&l) * 1e6);
}

/* The layers of one shape, for some of the forms. */
static void bench_shape(struct bench *b, int dim, int ff, const int *forms, int n_forms,
                        const int *n_rows, int n_counts)
{
    void *wide = random_rows(LAYER_ROWS_MAX, ff), *x = random_rows(LAYER_ROWS_MAX, dim);
    for (int f = 0; f < n_forms; f++)
        for (int i = 0; i < n_counts; i++)
            bench_layer(b, (struct layer){.b = b,
                                          .f = &gpu_forms[forms[f]],
                                          .n = n_rows[i],
                                          .dim = dim,
                                          .kv = 1024,
                                          .ff = ff,
                                          .x = x,
                                          .wide = wide});
    gpu_free(wide), gpu_free(x);
}

void gemm_bench(struct sl_cuda *c)
{
    static const int forms[] = {2, 3, 0, 6, 7, 14, 19}, n_rows[] = {4096, 1024, 512, 256, 128};
    static const int few[] = {2, 3, 6};
    struct bench b = {.c = c};
    float *ones = malloc(4 << 20);
    for (int i = 0; i < 1 << 20; i++) ones[i] = 1;
    b.ones = gpu_copy(ones, 4 << 20);
    b.codes = random_codes(2 * BYTES);
    b.powers = gpu_alloc(BYTES);
    cudaMemset(b.powers, 120, BYTES);
    b.x = random_rows(LAYER_ROWS_MAX, 14336);
    b.out = gpu_alloc(4 * BYTES);
    bench_raw(&b);
    bench_steps(&b);
    printf("layers: qkv, o (+=), gate_up, down (+=), each us and TFLOPS\n");
    bench_shape(&b, 4096, 14336, forms, (int)(sizeof forms / sizeof *forms), n_rows, 5);
    bench_shape(&b, 8192, 28672, few, 3, n_rows, 2);
    gpu_free(b.x), gpu_free(b.codes), gpu_free(b.powers), gpu_free(b.out), gpu_free(b.ones);
    free(ones);
}
