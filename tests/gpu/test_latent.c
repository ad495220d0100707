/* test_latent.c - attention over latents and the products per head that go with it, on the GPU
 * against the reference. Cache memory that no token owns holds NaN. `bench` prints times. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "kernels/cuda/attention.h"
#include "tests/gpu/gpu_attention.h"

struct shape {
    int heads, dim, v_dim, window, sinks;
    float softcap;
    enum sl_dtype type;
};

#define HEADS_MAX 128
#define ROWS_MAX 4096
#define BLOCKS_MAX 2200

static struct sl_backend *ref;
static const struct sl_backend_ops *ops;
static float sinks_host[HEADS_MAX], *sinks_device;

static struct sl_attn how_of(const struct shape *h, int on_device)
{
    return (struct sl_attn){.n_heads = h->heads,
                            .scale = 1.5f / sqrtf((float)h->dim),
                            .softcap = h->softcap,
                            .window = h->window,
                            .sinks = !h->sinks   ? NULL
                                     : on_device ? sinks_device
                                                 : sinks_host};
}

/* ---- latents --------------------------------------------------------------------------------- */

struct problem {
    struct shape h;
    struct at_step step;
    struct sl_latent_view device, host;
    size_t bytes;
    float *x[AT_SEQS_MAX]; /* [keys][dim] */
};

static void make(struct problem *p, struct sl_cuda *c, const struct shape *h, int n_seqs, int keys)
{
    *p = (struct problem){.h = *h};
    at_deal(&p->step, c, n_seqs, keys, (uint64_t)h->heads);
    size_t elements = (size_t)p->step.n_blocks * (size_t)(c->step.block_tokens * h->dim);
    enum sl_dtype type = h->type == SL_F8_E4M3 ? SL_F32 : h->type;
    int tokens = c->step.block_tokens;
    p->bytes = elements * at_bytes(h->type);
    p->device = (struct sl_latent_view){gpu_alloc(p->bytes), h->type, tokens, h->dim, h->v_dim};
    p->host =
        (struct sl_latent_view){malloc(elements * at_bytes(type)), type, tokens, h->dim, h->v_dim};
    memset(p->host.rows, 0xff, elements * at_bytes(type));
    at_poison(c, p->device.rows, p->bytes);
    for (int i = 0; i < n_seqs; i++)
        p->x[i] = at_floats(50 + (uint64_t)i, (int64_t)keys * h->dim, h->type == SL_F8_E4M3);
}

static void store(struct problem *p, const struct at_share *shares, int n, int padding)
{
    at_fill(&p->step, shares, n, padding);
    size_t dim = (size_t)p->h.dim, rows = (size_t)p->step.c->step.n_rows;
    float *x = calloc(rows * dim + 1, sizeof *x);
    for (int q = 0; q < n; q++) {
        const struct sl_seq_view *s = &p->step.views[q];
        memcpy(x + (size_t)s->row * dim, p->x[q] + (size_t)s->pos * dim,
               sizeof *x * (size_t)s->n * dim);
    }
    float *device = gpu_copy(x, rows * dim * sizeof *x);
    sl_cuda_latent_write(p->step.c, &p->device, device);
    ops->latent_write(ref, &p->host, p->step.views, n, x);
    gpu_sync(p->step.c);
    gpu_free(device);
    free(x);
}

static float *attend(struct problem *p, const float *q)
{
    struct sl_cuda *c = p->step.c;
    size_t rows = (size_t)c->step.n_rows, heads = (size_t)p->h.heads;
    size_t bytes = rows * heads * (size_t)p->h.v_dim * 4;
    float *q_device = gpu_copy(q, rows * heads * (size_t)p->h.dim * 4), *out = gpu_alloc(bytes);
    float *back = malloc(bytes);
    struct sl_attn how = how_of(&p->h, 1);
    at_poison(c, out, bytes);
    sl_cuda_latent_attention(c, &p->device, q_device, &how, out);
    gpu_read(c, back, out, bytes);
    gpu_free(q_device);
    gpu_free(out);
    return back;
}

static void check(struct sl_cuda *c, const struct shape *h, const struct at_share *shares, int n,
                  int padding)
{
    struct problem p;
    char what[160];
    int keys = 0, wide = h->heads * h->v_dim;
    for (int i = 0; i < n; i++) keys = SL_MAX(keys, shares[i].pos + shares[i].n);
    make(&p, c, h, n, keys);
    for (int from = 0; from < keys; from += 256) {
        struct at_share part[AT_SEQS_MAX];
        for (int i = 0; i < n; i++)
            part[i] = (struct at_share){from, SL_MIN(256, SL_MAX(0, shares[i].pos - from))};
        store(&p, part, n, 1);
    }
    store(&p, shares, n, padding);
    snprintf(what, sizeof what, "latents: %d heads, %d/%d, type %d, window %d, cap %g, sinks %d",
             h->heads, h->dim, h->v_dim, (int)h->type, h->window, (double)h->softcap, h->sinks);
    if (h->type != SL_F8_E4M3) {
        char *cache = malloc(p.bytes);
        gpu_read(c, cache, p.device.rows, p.bytes);
        at_same(what, cache, p.host.rows, p.bytes);
        free(cache);
    }
    int rows = c->step.n_rows, real = p.step.n_rows;
    float *q = at_floats(3, (int64_t)rows * h->heads * h->dim, 0);
    float *want = calloc((size_t)rows * (size_t)wide + 1, 4);
    struct sl_attn how = how_of(h, 0);
    ops->latent_attention(ref, &p.host, p.step.views, n, q, &how, want);
    float *got = attend(&p, q), *again = attend(&p, q);
    at_expect(what, gpu_error(got, want, (int64_t)real * wide), 2e-3);
    at_same(what, got, again, (size_t)real * (size_t)wide * 4);
    for (int s = 0, row = 0; s < n; row += shares[s++].n) { /* alone: the same bits */
        if (shares[s].n > SL_CUDA_LONE_MAX || shares[s].n == 0) continue;
        struct at_share alone[AT_SEQS_MAX] = {{0, 0}};
        alone[s] = shares[s];
        at_fill(&p.step, alone, n, s % 3);
        float *single = attend(&p, q + (int64_t)row * h->heads * h->dim);
        at_same("latents alone or in a batch", single, got + (int64_t)row * wide,
                4 * (size_t)(shares[s].n * wide));
        free(single);
    }
    free(q);
    free(want);
    free(got);
    free(again);
    for (int i = 0; i < n; i++) free(p.x[i]);
    free(p.host.rows);
    gpu_free(p.device.rows);
    at_free(&p.step);
}

static void check_latents(struct sl_cuda *c)
{
    static const struct at_share mixed[] = {{0, 1}, {130, 1}, {0, 30}, {100, 3}, {200, 17}};
    static const struct at_share decode[] = {{0, 1}, {63, 1}, {64, 1}, {4500, 1}};
    static const struct shape shapes[] = {
        {1, 576, 512, 0, 0, 0, SL_F16},     {2, 24, 16, 0, 0, 0, SL_F16},
        {16, 576, 512, 0, 0, 0, SL_F16},    {16, 576, 512, 0, 0, 0, SL_BF16},
        {5, 40, 32, 20, 1, 0, SL_F32},      {128, 576, 512, 0, 0, 0, SL_F16},
        {20, 576, 512, 100, 1, 30, SL_F16}, {7, 20, 12, 0, 0, 0, SL_BF16},
        {40, 136, 128, 0, 0, 0, SL_F32},    {3, 1024, 1024, 0, 0, 0, SL_F16},
        {16, 576, 512, 0, 0, 0, SL_F8_E4M3}};
    for (size_t i = 0; i < SL_ARRAY_LEN(shapes); i++) {
        check(c, &shapes[i], mixed, (int)SL_ARRAY_LEN(mixed), i % 2 ? 4 : 0);
        check(c, &shapes[i], decode, (int)SL_ARRAY_LEN(decode), i % 2 ? 0 : 4);
    }
}

/* ---- products per head ----------------------------------------------------------------------- */

/* Matrices of `kind` with random elements; *values gets them. The array of descriptors. */
static struct sl_cuda_weight *matrices(enum sl_cuda_code kind, int heads, int rows, int cols,
                                       float **values)
{
    int padded = (int)sl_cuda_pad(cols);
    size_t size = kind == SL_CUDA_F32 ? 4 : kind == SL_CUDA_F16 ? 2 : 1;
    size_t plane = (size_t)rows * (size_t)padded;
    struct sl_cuda_weight *w = calloc((size_t)heads, sizeof *w);
    float *row = at_floats(9, rows, 0), *all = *values = malloc(4 * (size_t)(heads * rows * cols));
    uint64_t seed = 77;
    for (int h = 0; h < heads; h++) {
        char *code = calloc(plane, size);
        for (int r = 0; r < rows; r++)
            for (int k = 0; k < cols; k++) {
                size_t at = (size_t)r * (size_t)padded + (size_t)k;
                float x = gpu_normal(&seed), y = x;
                uint16_t half = sl_float_to_half(x);
                uint8_t small = (uint8_t)((unsigned)(fabsf(x) * 29) % 0x70u | (x < 0 ? 0x80 : 0));
                if (kind == SL_CUDA_F32) memcpy(code + 4 * at, &x, 4);
                if (kind == SL_CUDA_F16)
                    memcpy(code + 2 * at, &half, 2), y = sl_half_to_float(half);
                if (kind == SL_CUDA_E4M3) code[at] = (char)small, y = at_e4m3(small);
                all[((int64_t)h * rows + r) * cols + k] = y * row[r];
            }
        w[h] = (struct sl_cuda_weight){.code_kind = kind,
                                       .rows = rows,
                                       .cols = cols,
                                       .cols_padded = padded,
                                       .group = padded,
                                       .code_stride = (int64_t)((size_t)padded * size),
                                       .code = gpu_copy(code, plane * size),
                                       .row = gpu_copy(row, 4 * (size_t)rows)};
        free(code);
    }
    free(row);
    return w;
}

static void free_matrices(struct sl_cuda_weight *w, int heads)
{
    for (int h = 0; h < heads; h++) {
        gpu_free((void *)(uintptr_t)w[h].code);
        gpu_free((void *)(uintptr_t)w[h].row);
    }
    free(w);
}

static void check_heads(struct sl_cuda *c, enum sl_cuda_code kind, int heads, int rows, int cols)
{
    enum { GAP = 5, N_MAX = 130 };
    static const int counts[] = {1, 2, 7, 16, 31, 64, 65, N_MAX};
    float *values, *first = NULL;
    char what[120];
    struct sl_cuda_weight *w = matrices(kind, heads, rows, cols, &values);
    struct sl_cuda_weight *device = gpu_copy(w, sizeof *w * (size_t)heads);
    int64_t xs = heads * (cols + GAP), os = heads * (rows + GAP);
    float *x = at_floats(6, N_MAX * xs, 0), *got = malloc(4 * (size_t)(N_MAX * os));
    float *want = calloc((size_t)(N_MAX * os), 4);
    for (int64_t i = 0; i < N_MAX * xs; i++) x[i] *= exp2f((float)(i / xs % 40 - 20));
    for (int i = 0; i < N_MAX; i++)
        for (int h = 0; h < heads; h++)
            for (int r = 0; r < rows; r++) {
                double s = 0;
                for (int k = 0; k < cols; k++)
                    s += (double)x[i * xs + h * (cols + GAP) + k] *
                         (double)values[((int64_t)h * rows + r) * cols + k];
                want[i * os + h * (rows + GAP) + r] = (float)s;
            }
    float *dx = gpu_copy(x, 4 * (size_t)(N_MAX * xs)), *out = gpu_alloc(4 * (size_t)(N_MAX * os));
    for (size_t i = 0; i < SL_ARRAY_LEN(counts); i++) {
        int n = counts[i];
        SL_ASSERT(!cudaMemset(out, 0, 4 * (size_t)(N_MAX * os)) && !cudaDeviceSynchronize());
        sl_cuda_head_matmul(c, device, heads, rows, cols, dx, xs, cols + GAP, n, out, os,
                            rows + GAP);
        gpu_read(c, got, out, 4 * (size_t)(N_MAX * os));
        snprintf(what, sizeof what, "%d heads of %d x %d, code %d, %d inputs", heads, rows, cols,
                 (int)kind, n);
        for (int k = 0; k < n; k++)
            at_expect(what, gpu_error(got + k * os, want + k * os, os),
                      kind == SL_CUDA_F16 ? 5e-4 : 2e-6);
        for (int64_t k = n * os; k < N_MAX * os; k++)
            if (got[k] != 0) at_expect("a row too many", 1, 0), k = N_MAX * os;
        if (!first) first = memcpy(malloc(4 * (size_t)os), got, 4 * (size_t)os);
        at_same("first input alone or with others", got, first, 4 * (size_t)os);
    }
    sl_cuda_head_matmul(c, device, heads, rows, cols, dx, xs, cols + GAP, 0, out, os, rows + GAP);
    gpu_sync(c);
    gpu_free(dx);
    gpu_free(out);
    gpu_free(device);
    free_matrices(w, heads);
    free(first);
    free(values);
    free(x);
    free(got);
    free(want);
}

/* ---- times ----------------------------------------------------------------------------------- */

struct timing {
    struct sl_cuda *c;
    struct sl_attn how;
    struct sl_latent_view kv[64];
    int caches, rows;
    float *q, *out;
    struct sl_cuda_weight *w[16];
};

static void time_attention(void *arg, int call)
{
    struct timing *t = arg;
    sl_cuda_latent_attention(t->c, &t->kv[call % t->caches], t->q, &t->how, t->out);
}

static void bench(struct sl_cuda *c, int heads, int n_seqs, int pos, int n, double limit)
{
    enum { DIM = 576, V = 512 };
    struct timing t = {.c = c, .how = {.n_heads = heads, .scale = 0.05f}};
    struct at_share shares[AT_SEQS_MAX];
    struct at_step s;
    for (int i = 0; i < n_seqs; i++) shares[i] = (struct at_share){pos, n};
    at_deal(&s, c, n_seqs, pos + n, 3);
    at_fill(&s, shares, n_seqs, 0);
    int64_t rows = c->step.n_rows, elements = (int64_t)s.n_blocks * c->step.block_tokens * DIM;
    t.caches = n > 1 ? 1 : (int)SL_MIN(SL_MAX((200 << 20) / (2 * elements), 2), 64);
    float *x = at_floats(1, elements, 0), *q = at_floats(2, rows * heads * DIM, 0);
    uint16_t *half = malloc(2 * (size_t)elements);
    for (int64_t i = 0; i < elements; i++) half[i] = sl_float_to_half(x[i]);
    for (int i = 0; i < t.caches; i++)
        t.kv[i] = (struct sl_latent_view){gpu_copy(half, 2 * (size_t)elements), SL_F16,
                                          c->step.block_tokens, DIM, V};
    t.q = gpu_copy(q, 4 * (size_t)(rows * heads * DIM));
    t.out = gpu_alloc(4 * (size_t)(rows * heads * V));
    double a = gpu_time_graph(c, 5, n > 1 ? 4 : 64, time_attention, &t), keys = 0;
    for (int i = 0; i < n; i++) keys += pos + i + 1;
    double read = 2.0 * n_seqs * (pos + n) * DIM, flop = 2.0 * (DIM + V) * n_seqs * keys * heads;
    printf("latents, %3d heads, %2d x %5d + %4d: %8.2f us %6.0f GB/s (%3.0f %%) %5.1f TFLOPS\n",
           heads, n_seqs, pos, n, a * 1e6, read / a * 1e-9, 100 * read / a / limit,
           flop / a * 1e-12);
    for (int i = 0; i < t.caches; i++) gpu_free(t.kv[i].rows);
    gpu_free(t.q);
    gpu_free(t.out);
    free(x);
    free(q);
    free(half);
    at_free(&s);
}

#define BENCH_HEADS 128
static void time_heads(void *arg, int call)
{
    struct timing *t = arg;
    sl_cuda_head_matmul(t->c, t->w[call % 8], BENCH_HEADS, 512, 128, t->q, BENCH_HEADS * 192, 192,
                        t->rows, t->out, BENCH_HEADS * 576, 576);
}

static void bench_heads(struct sl_cuda *c, int rows, double limit)
{
    struct timing t = {.c = c, .rows = rows};
    float *values, *q = at_floats(1, (int64_t)rows * BENCH_HEADS * 192, 0);
    struct sl_cuda_weight *w[8];
    w[0] = matrices(SL_CUDA_F16, BENCH_HEADS, 512, 128, &values);
    size_t bytes = 512 * 128 * 2;
    char *all = gpu_alloc(8 * BENCH_HEADS * bytes); /* copies, to be larger than the L2 cache */
    for (int i = 0; i < 8; i++) {
        struct sl_cuda_weight copy[BENCH_HEADS];
        for (int h = 0; h < BENCH_HEADS; h++) {
            char *to = all + ((size_t)i * BENCH_HEADS + (size_t)h) * bytes;
            SL_ASSERT(!cudaMemcpy(to, w[0][h].code, bytes, cudaMemcpyDeviceToDevice));
            copy[h] = w[0][h], copy[h].code = to;
        }
        t.w[i] = gpu_copy(copy, sizeof copy);
    }
    t.q = gpu_copy(q, 4 * (size_t)rows * BENCH_HEADS * 192);
    t.out = gpu_alloc(4 * (size_t)rows * BENCH_HEADS * 576);
    double a = gpu_time_graph(c, 5, 32, time_heads, &t), read = (double)(BENCH_HEADS * bytes);
    printf("products of %d heads of 512 x 128, %4d inputs: %8.2f us %6.0f GB/s (%3.0f %%) %5.1f "
           "TFLOPS\n",
           BENCH_HEADS, rows, a * 1e6, read / a * 1e-9, 100 * read / a / limit,
           2.0 * rows * BENCH_HEADS * 512 * 128 / a * 1e-12);
    for (int i = 0; i < 8; i++) gpu_free(t.w[i]);
    gpu_free(all);
    gpu_free(t.q);
    gpu_free(t.out);
    free_matrices(w[0], BENCH_HEADS);
    free(values);
    free(q);
}

static void bench_all(struct sl_cuda *c)
{
    double limit = gpu_read_bandwidth(c);
    printf("read bandwidth %.0f GB/s\n", limit * 1e-9);
    for (int heads = 16; heads <= 128; heads *= 8) {
        bench(c, heads, 1, 1023, 1, limit);
        bench(c, heads, 1, 4095, 1, limit);
        bench(c, heads, 30, 1023, 1, limit);
        bench(c, heads, 1, 0, 1024, limit);
    }
    bench_heads(c, 1, limit);
    bench_heads(c, 30, limit);
    bench_heads(c, 1024, limit);
}

int main(int argc, char **argv)
{
    struct sl_cuda *c = gpu_open((size_t)64 << 20, ROWS_MAX, AT_SEQS_MAX, BLOCKS_MAX, 16);
    ref = at_reference();
    ops = sl_backend_ops(ref);
    uint64_t seed = 4;
    for (int i = 0; i < HEADS_MAX; i++) sinks_host[i] = gpu_normal(&seed);
    sinks_device = gpu_copy(sinks_host, sizeof sinks_host);
    check_latents(c);
    check_heads(c, SL_CUDA_F16, 3, 64, 128);
    check_heads(c, SL_CUDA_F16, 2, 70, 200);
    check_heads(c, SL_CUDA_F16, 5, 16, 24);
    check_heads(c, SL_CUDA_F32, 2, 70, 200);
    check_heads(c, SL_CUDA_E4M3, 2, 33, 130);
    int verdict = at_verdict();
    fflush(stdout);
    if (argc > 1 && !strcmp(argv[1], "bench")) bench_all(c);
    sl_backend_destroy(ref);
    gpu_free(sinks_device);
    gpu_close(c);
    return verdict;
}
