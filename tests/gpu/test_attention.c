/* test_attention.c - caches, rotary positions, heads and attention on the GPU against the reference
 * backend. Cache memory that no token owns holds NaN, so a stray read shows; tables are shuffled,
 * lone rows, tiles and padding rows come mixed. `bench` prints times. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "kernels/cuda/attention.h"
#include "tests/gpu/gpu_attention.h"

struct shape {
    int heads, kv_heads, dim, window, sinks;
    float softcap;
    enum sl_dtype type;
};

#define HEADS_MAX 128
#define ROWS_MAX 8192
#define KEYS_MAX 40960
#define BLOCKS_MAX (KEYS_MAX / 16)

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

/* ---- a problem: caches, queries, what comes out ---------------------------------------------- */

struct problem {
    struct shape h;
    struct at_step step;
    struct sl_kv_view device, host; /* host: the reference's layout; F32 where it lacks the type */
    size_t cache_bytes;
    float *k[AT_SEQS_MAX], *v[AT_SEQS_MAX]; /* host: [keys][kv_heads * dim] */
    int keys;
    float *q, *q_device;
    float *k_device, *v_device; /* new rows */
    void *out_device;
};

static void make(struct problem *p, struct sl_cuda *c, const struct shape *h, int n_seqs, int keys,
                 uint64_t seed)
{
    *p = (struct problem){.h = *h, .keys = keys};
    at_deal(&p->step, c, n_seqs, keys, seed);
    int64_t width = h->kv_heads * h->dim;
    int64_t elements = (int64_t)p->step.n_blocks * c->step.block_tokens * width;
    enum sl_dtype type = h->type == SL_F8_E4M3 ? SL_F32 : h->type;
    p->host = (struct sl_kv_view){.type = type};
    p->host.k = malloc((size_t)elements * at_bytes(type));
    p->host.v = malloc((size_t)elements * at_bytes(type));
    memset(p->host.k, 0xff, (size_t)elements * at_bytes(type));
    memset(p->host.v, 0xff, (size_t)elements * at_bytes(type));
    p->cache_bytes = (size_t)elements * at_bytes(h->type);
    p->device.k = gpu_alloc(p->cache_bytes);
    p->device.v = gpu_alloc(p->cache_bytes);
    p->device.type = h->type;
    at_poison(c, p->device.k, p->cache_bytes);
    at_poison(c, p->device.v, p->cache_bytes);
    p->host.block_tokens = p->device.block_tokens = c->step.block_tokens;
    p->host.n_kv_heads = p->device.n_kv_heads = h->kv_heads;
    p->host.head_dim = p->device.head_dim = h->dim;
    for (int i = 0; i < n_seqs; i++) {
        p->k[i] = at_floats(seed + 10 + (uint64_t)i, keys * width, h->type == SL_F8_E4M3);
        p->v[i] = at_floats(seed + 90 + (uint64_t)i, keys * width, h->type == SL_F8_E4M3);
    }
}

static void unmake(struct problem *p)
{
    for (int i = 0; i < p->step.n_seqs; i++) free(p->k[i]), free(p->v[i]);
    free(p->host.k);
    free(p->host.v);
    gpu_free(p->device.k);
    gpu_free(p->device.v);
    at_free(&p->step);
}

/* Rows of the step's tokens of k or v, on the device and (returned) on the host. */
static float *new_rows(const struct problem *p, float *const *from, float **device)
{
    size_t width = (size_t)(p->h.kv_heads * p->h.dim);
    size_t rows = (size_t)p->step.c->step.n_rows;
    float *x = calloc(rows * width + 1, sizeof *x);
    for (int q = 0; q < p->step.n_seqs; q++) {
        const struct sl_seq_view *s = &p->step.views[q];
        memcpy(x + (size_t)s->row * width, from[q] + (size_t)s->pos * width,
               sizeof *x * (size_t)s->n * width);
    }
    *device = gpu_copy(x, rows * width * sizeof *x);
    return x;
}

/* Stores the shares' keys and values in both caches. */
static void store(struct problem *p, const struct at_share *shares, int n, int padding)
{
    float *k_device, *v_device;
    at_fill(&p->step, shares, n, padding);
    float *k = new_rows(p, p->k, &k_device), *v = new_rows(p, p->v, &v_device);
    sl_cuda_kv_write(p->step.c, &p->device, k_device, v_device);
    ops->kv_write(ref, &p->host, p->step.views, n, k, v);
    gpu_sync(p->step.c);
    free(k);
    free(v);
    gpu_free(k_device);
    gpu_free(v_device);
}

/* All keys before the shares. */
static void store_before(struct problem *p, const struct at_share *shares, int n)
{
    for (int from = 0; from < p->keys; from += 64) {
        struct at_share part[AT_SEQS_MAX];
        for (int q = 0; q < n; q++) {
            int left = SL_MAX(0, shares[q].pos - from);
            part[q] = (struct at_share){from, SL_MIN(64, left)};
        }
        store(p, part, n, 1);
    }
}

/* Attends the step's rows; returns product rows on the host. */
static char *attend(struct problem *p, const float *q)
{
    struct sl_cuda *c = p->step.c;
    size_t cols = (size_t)(p->h.heads * p->h.dim), rows = (size_t)c->step.n_rows;
    size_t bytes = rows * (size_t)sl_cuda_row_stride((int64_t)cols);
    float *q_device = gpu_copy(q, rows * cols * 4);
    void *out = gpu_alloc(bytes);
    char *back = malloc(bytes);
    struct sl_attn how = how_of(&p->h, 1);
    at_poison(c, out, bytes);
    sl_cuda_attention(c, &p->device, q_device, &how, out);
    gpu_read(c, back, out, bytes);
    gpu_free(q_device);
    gpu_free(out);
    return back;
}

static void describe(char *to, size_t room, const struct shape *h, const char *more)
{
    snprintf(to, room, "%s: %d/%d heads of %d, type %d, window %d, cap %g, sinks %d", more,
             h->heads, h->kv_heads, h->dim, (int)h->type, h->window, (double)h->softcap, h->sinks);
}

/* The caches hold the same: each K of the device's against the turned one of the reference. */
static void compare_caches(struct problem *p, const char *what)
{
    struct sl_cuda *c = p->step.c;
    int dim = p->h.dim, tokens = c->step.block_tokens;
    size_t size = at_bytes(p->h.type), planes = p->cache_bytes / size / (size_t)(dim * tokens);
    char *k = malloc(p->cache_bytes), *v = malloc(p->cache_bytes);
    char *want = malloc(p->cache_bytes);
    gpu_read(c, k, p->device.k, p->cache_bytes);
    gpu_read(c, v, p->device.v, p->cache_bytes);
    for (size_t b = 0; b < planes; b++)
        for (int t = 0; t < tokens; t++)
            for (int e = 0; e < dim; e++) {
                size_t plane = b * (size_t)(dim * tokens);
                memcpy(want + (plane + (size_t)(t * dim + e)) * size,
                       (char *)p->host.k + (plane + (size_t)(e * tokens + t)) * size, size);
            }
    at_same(what, k, want, p->cache_bytes);
    at_same(what, v, p->host.v, p->cache_bytes);
    free(k);
    free(v);
    free(want);
}

static void check(struct sl_cuda *c, const struct shape *h, const struct at_share *shares, int n,
                  int padding)
{
    struct problem p;
    char what[160];
    int keys = 0, cols = h->heads * h->dim;
    for (int q = 0; q < n; q++) keys = SL_MAX(keys, shares[q].pos + shares[q].n);
    make(&p, c, h, n, keys, (uint64_t)(h->dim * 100 + h->heads));
    store_before(&p, shares, n);
    store(&p, shares, n, padding);
    if (h->type != SL_F8_E4M3) {
        describe(what, sizeof what, h, "cache");
        compare_caches(&p, what);
    }
    int rows = c->step.n_rows, real = p.step.n_rows;
    float *q = at_floats(7, (int64_t)rows * cols, 0);
    float *want = calloc((size_t)rows * (size_t)cols, 4), *got = malloc(4 * (size_t)(rows * cols));
    struct sl_attn how = how_of(h, 0);
    ops->attention(ref, &p.host, p.step.views, n, q, &how, want);
    char *out = attend(&p, q), *again = attend(&p, q);
    size_t bytes = (size_t)rows * (size_t)sl_cuda_row_stride(cols);
    gpu_rows_read(out, rows, cols, got);
    describe(what, sizeof what, h, "attention");
    at_expect(what, gpu_error(got, want, (int64_t)real * cols), 2e-3);
    int64_t after = (int64_t)real * cols; /* padding rows: zeros */
    at_expect("padding", gpu_error(got + after, want + after, (int64_t)rows * cols - after), 0);
    at_same(what, out, again, bytes);
    /* each lone sequence by itself: the same bits */
    for (int s = 0, row = 0; s < n; row += shares[s++].n) {
        if (shares[s].n > SL_CUDA_LONE_MAX || shares[s].n == 0) continue;
        struct at_share alone[AT_SEQS_MAX] = {{0, 0}};
        alone[s] = shares[s];
        at_fill(&p.step, alone, n, s % 3);
        char *single = attend(&p, q + (int64_t)row * cols);
        size_t stride = (size_t)sl_cuda_row_stride(cols), head = SL_CUDA_ROW_HEAD;
        for (int i = 0; i < shares[s].n; i++)
            at_same("alone or in a batch", single + (size_t)i * stride + head,
                    out + (size_t)(row + i) * stride + head, stride - head);
        free(single);
    }
    free(out);
    free(again);
    free(q);
    free(want);
    free(got);
    unmake(&p);
}

static void check_shapes(struct sl_cuda *c)
{
    static const struct at_share mixed[] = {{0, 1},   {130, 1}, {0, 70},   {100, 3},
                                            {37, 64}, {15, 1},  {255, 15}, {90, 17}};
    static const struct at_share decode[] = {{0, 1}, {1, 1}, {127, 1}, {128, 1}, {300, 1}, {64, 2}};
    static const struct at_share chunk[] = {{150, 200}, {0, 31}};
    static const struct shape shapes[] = {
        {8, 2, 128, 0, 0, 0, SL_F16},      {8, 8, 64, 0, 0, 0, SL_F16},
        {5, 5, 80, 0, 0, 0, SL_F16},       {10, 2, 96, 100, 0, 0, SL_F16},
        {8, 1, 256, 0, 0, 50, SL_F16},     {16, 1, 128, 40, 1, 0, SL_F16},
        {16, 2, 64, 128, 1, 0, SL_BF16},   {4, 2, 32, 0, 0, 0, SL_F16},
        {8, 2, 128, 0, 0, 0, SL_BF16},     {8, 2, 128, 0, 0, 0, SL_F32},
        {8, 2, 128, 0, 0, 0, SL_F8_E4M3},  {20, 1, 256, 50, 1, 30, SL_F8_E4M3},
        {6, 2, 40, 0, 0, 0, SL_F8_E4M3},   {3, 3, 256, 0, 0, 0, SL_F32},
        {32, 2, 128, 0, 0, 0, SL_F8_E4M3}, {12, 6, 72, 17, 0, 20, SL_BF16},
        {24, 1, 192, 0, 1, 0, SL_F16},     {9, 3, 64, 33, 0, 10, SL_F16}};
    for (size_t i = 0; i < SL_ARRAY_LEN(shapes); i++) {
        check(c, &shapes[i], mixed, (int)SL_ARRAY_LEN(mixed), i % 2 ? 5 : 0);
        check(c, &shapes[i], decode, (int)SL_ARRAY_LEN(decode), i % 2 ? 0 : 9);
        check(c, &shapes[i], chunk, (int)SL_ARRAY_LEN(chunk), i % 3 ? 0 : 70);
    }
}

/* Thousands of keys: some rows of a long prompt and long lone rows. */
static void check_long(struct sl_cuda *c, int n, int window)
{
    struct shape h = {8, 2, 128, window, 0, 0, SL_F16};
    struct at_share share = {0, n};
    struct problem p;
    char what[80];
    int cols = h.heads * h.dim;
    make(&p, c, &h, 1, n, 5);
    float *q = at_floats(8, (int64_t)n * cols, 0);
    for (int from = 0; from < n; from += 1000)
        store(&p, &(struct at_share){from, SL_MIN(1000, n - from)}, 1, 0);
    struct sl_attn how = how_of(&h, 0);
    float *want = malloc(4 * (size_t)cols), *got = malloc(4 * (size_t)cols);
    size_t stride = (size_t)sl_cuda_row_stride(cols);
    char *out = NULL;
    if (n <= ROWS_MAX) {
        at_fill(&p.step, &share, 1, 0);
        out = attend(&p, q);
    }
    for (int i = 0; i < 12; i++) {
        int row = i == 0 ? n - 1 : (int)((int64_t)n * i / 12) + i;
        at_fill(&p.step, &(struct at_share){row, 1}, 1, 0);
        ops->attention(ref, &p.host, p.step.views, 1, q + (int64_t)row * cols, &how, want);
        char *lone = attend(&p, q + (int64_t)row * cols);
        gpu_rows_read(lone, 1, cols, got);
        snprintf(what, sizeof what, "row %d of %d alone, window %d", row, n, window);
        at_expect(what, gpu_error(got, want, cols), 2e-3);
        free(lone);
        if (!out) continue;
        gpu_rows_read(out + (size_t)row * stride, 1, cols, got);
        snprintf(what, sizeof what, "row %d of %d, window %d", row, n, window);
        at_expect(what, gpu_error(got, want, cols), 2e-3);
    }
    free(out);
    free(q);
    free(want);
    free(got);
    unmake(&p);
}

/* ---- heads and rope -------------------------------------------------------------------------- */

static void check_heads(struct sl_cuda *c, const struct shape *h, int dims, int neox, int norm,
                        int n)
{
    struct problem p;
    char what[160];
    struct at_share shares[] = {{3, n}, {70, 1}};
    make(&p, c, h, 2, n + 80, 11);
    at_fill(&p.step, shares, 2, 3);
    int rows = c->step.n_rows, real = p.step.n_rows;
    int64_t wq = h->heads * h->dim, wk = h->kv_heads * h->dim;
    float *q = at_floats(1, rows * wq, 0), *k = at_floats(2, rows * wk, 0);
    float *v = at_floats(3, rows * wk, 0), *gain = at_floats(4, 2 * h->dim, 0);
    float freq[128], *got = malloc(4 * (size_t)(rows * wq));
    for (int i = 0; i < dims / 2; i++) freq[i] = powf(500000, -2.0f * (float)i / (float)dims);
    float *dq = gpu_copy(q, 4 * (size_t)(rows * wq)), *dk = gpu_copy(k, 4 * (size_t)(rows * wk));
    float *dv = gpu_copy(v, 4 * (size_t)(rows * wk)), *dg = gpu_copy(gain, 8 * (size_t)h->dim);
    float *df = gpu_copy(freq, sizeof freq);
    struct sl_rope r = {dims, neox, 1.1f, freq}, rd = {dims, neox, 1.1f, df};
    struct sl_heads heads = {
        dq,    dk, dv, h->heads, h->kv_heads, h->dim, norm ? dg : NULL, norm ? dg + h->dim : NULL,
        1e-5f, &rd};
    sl_cuda_heads(c, &heads, &p.device);
    gpu_read(c, got, dq, 4 * (size_t)(rows * wq));
    int32_t pos[ROWS_MAX];
    gpu_read(c, pos, c->step.pos, 4 * (size_t)rows);
    snprintf(what, sizeof what, "heads %d/%d of %d, dims %d, neox %d, norm %d, %d rows", h->heads,
             h->kv_heads, h->dim, dims, neox, norm, n);
    at_same(what, got + real * wq, q + real * wq, 4 * (size_t)((rows - real) * wq));
    if (norm) {
        ops->rmsnorm(ref, q, gain, 1e-5f, real * h->heads, h->dim, q);
        ops->rmsnorm(ref, k, gain + h->dim, 1e-5f, real * h->kv_heads, h->dim, k);
    }
    struct sl_rope_part parts[] = {{q, h->heads, h->dim, 0}, {k, h->kv_heads, h->dim, 0}};
    ops->rope(ref, &r, parts, 2, pos, real);
    at_expect(what, gpu_error(got, q, real * wq), 2e-6);
    /* what the cache holds, fetched by attention of one key: a query that sees only itself gets v;
     * k is compared where the type is plain */
    ops->kv_write(ref, &p.host, p.step.views, 2, k, v);
    if (h->type == SL_F32) {
        size_t count = p.cache_bytes / 4, used = 0;
        float *ck = malloc(p.cache_bytes), *a = malloc(p.cache_bytes), *b = malloc(p.cache_bytes);
        gpu_read(c, ck, p.device.k, p.cache_bytes);
        int plane = h->dim * c->step.block_tokens;
        for (size_t i = 0; i < count; i++) {
            size_t in = i % (size_t)plane, t = in / (size_t)h->dim, e = in % (size_t)h->dim;
            float x = ((float *)p.host.k)[i - in + e * (size_t)c->step.block_tokens + t];
            if (isnan(x) != isnan(ck[i])) at_expect("a key where there is none", 1, 0);
            if (!isnan(x)) a[used] = ck[i], b[used++] = x;
        }
        at_expect(what, gpu_error(a, b, (int64_t)used), 2e-6);
        gpu_read(c, ck, p.device.v, p.cache_bytes);
        at_same(what, ck, p.host.v, p.cache_bytes);
        free(ck);
        free(a);
        free(b);
    }
    free(q);
    free(k);
    free(v);
    free(gain);
    free(got);
    gpu_free(dq);
    gpu_free(dk);
    gpu_free(dv);
    gpu_free(dg);
    gpu_free(df);
    unmake(&p);
}

/* Parts with an offset, positions far away. */
static void check_rope(struct sl_cuda *c, int neox)
{
    enum { N = 9, HEADS = 3, DIM = 192, DIMS = 64, OFFSET = 128 };
    struct at_step s;
    struct at_share shares[] = {{4, 5}, {1000000, 4}};
    at_deal(&s, c, 2, 64, 3);
    at_fill(&s, shares, 2, 2);
    float *x = at_floats(1, (N + 2) * HEADS * DIM, 0), *y = at_floats(2, (N + 2) * DIMS, 0);
    float freq[DIMS / 2], *got = malloc(sizeof *got * (N + 2) * HEADS * DIM);
    for (int i = 0; i < DIMS / 2; i++) freq[i] = powf(10000, -2.0f * (float)i / DIMS);
    float *dx = gpu_copy(x, 4 * (N + 2) * HEADS * DIM), *dy = gpu_copy(y, 4 * (N + 2) * DIMS);
    float *df = gpu_copy(freq, sizeof freq);
    struct sl_rope r = {DIMS, neox, 0.9f, freq}, rd = {DIMS, neox, 0.9f, df};
    struct sl_rope_part on[] = {{dx + HEADS * DIM, HEADS, DIM, OFFSET}, {dy + DIMS, 1, DIMS, 0}};
    sl_cuda_rope(c, &rd, on, 2, 1, N + 1);
    int32_t pos[N];
    for (int i = 0; i < N; i++) pos[i] = i < 5 ? 4 + i : 1000000 + i - 5;
    struct sl_rope_part parts[] = {{x + HEADS * DIM, HEADS, DIM, OFFSET}, {y + DIMS, 1, DIMS, 0}};
    ops->rope(ref, &r, parts, 2, pos + 1, N - 1);
    gpu_read(c, got, dx, 4 * (N + 2) * HEADS * DIM);
    at_expect("rope of a part", gpu_error(got, x, (N + 2) * HEADS * DIM), 2e-6);
    gpu_read(c, got, dy, 4 * (N + 2) * DIMS);
    at_expect("rope", gpu_error(got, y, (N + 2) * DIMS), 2e-6);
    free(x);
    free(y);
    free(got);
    gpu_free(dx);
    gpu_free(dy);
    gpu_free(df);
    at_free(&s);
}

/* ---- times ----------------------------------------------------------------------------------- */

struct timing {
    struct sl_cuda *c;
    struct shape h;
    int caches; /* rotated, together larger than the L2 cache */
    struct sl_kv_view kv[64];
    float *q, *k, *v, *gain, *freq;
    void *out;
};

static void time_attention(void *arg, int call)
{
    struct timing *t = arg;
    struct sl_attn how = how_of(&t->h, 1);
    sl_cuda_attention(t->c, &t->kv[call % t->caches], t->q, &how, t->out);
}

static void time_heads(void *arg, int call)
{
    struct timing *t = arg;
    struct sl_rope r = {t->h.dim, 1, 1, t->freq};
    struct sl_heads h = {t->q,     t->k,    t->v,    t->h.heads, t->h.kv_heads,
                         t->h.dim, t->gain, t->gain, 1e-5f,      &r};
    sl_cuda_heads(t->c, &h, &t->kv[call % t->caches]);
}

static float *device_floats(int64_t n)
{
    enum { UNIQUE = 1 << 20 };
    float *x = at_floats(5, UNIQUE, 0), *to = gpu_alloc(4 * (size_t)n);
    for (int64_t i = 0; i < n; i += UNIQUE)
        SL_ASSERT(
            !cudaMemcpy(to + i, x, 4 * (size_t)SL_MIN(UNIQUE, n - i), cudaMemcpyHostToDevice));
    free(x);
    return to;
}

/* n_seqs sequences of `pos` cached keys, `n` rows each. */
static void bench(struct sl_cuda *c, const char *name, struct shape h, int n_seqs, int pos, int n,
                  double limit)
{
    struct timing t = {.c = c, .h = h};
    struct at_share shares[AT_SEQS_MAX];
    struct at_step s;
    for (int i = 0; i < n_seqs; i++) shares[i] = (struct at_share){pos, n};
    at_deal(&s, c, n_seqs, pos + n, 3);
    at_fill(&s, shares, n_seqs, 0);
    int64_t wide = h.kv_heads * h.dim, rows = c->step.n_rows;
    int64_t elements = s.n_blocks * c->step.block_tokens * wide;
    size_t bytes = (size_t)elements * at_bytes(h.type);
    t.caches = n > 1 ? 1 : (int)SL_MIN(SL_MAX((size_t)(300 << 20) / (2 * bytes), 2), 64);
    uint16_t *random = malloc(2 << 20);
    uint64_t seed = 1;
    for (int i = 0; i < 1 << 20; i++)
        random[i] = h.type == SL_F8_E4M3 ? (uint16_t)((int)(gpu_uniform(&seed) * 127) & 0xb7b7)
                    : h.type == SL_BF16  ? sl_float_to_bf16(gpu_normal(&seed))
                                         : sl_float_to_half(gpu_normal(&seed));
    for (int i = 0; i < 2 * t.caches; i++) {
        char *to = gpu_alloc(bytes);
        for (size_t b = 0; b < bytes; b += 2 << 20)
            SL_ASSERT(!cudaMemcpy(to + b, random, SL_MIN(bytes - b, (size_t)2 << 20),
                                  cudaMemcpyHostToDevice));
        struct sl_kv_view *kv = &t.kv[i / 2];
        if (i % 2)
            kv->v = to;
        else
            *kv = (struct sl_kv_view){to, NULL, h.type, c->step.block_tokens, h.kv_heads, h.dim};
    }
    t.q = device_floats(rows * h.heads * h.dim);
    t.k = device_floats(rows * wide);
    t.v = device_floats(rows * wide);
    t.gain = device_floats(h.dim);
    t.freq = device_floats(h.dim);
    t.out = gpu_alloc((size_t)(rows * sl_cuda_row_stride(h.heads * h.dim)));
    double a = gpu_time_graph(c, 5, n > 1 ? 8 : 64, time_attention, &t);
    double b = gpu_time_graph(c, 5, n > 1 ? 8 : 64, time_heads, &t);
    double keys = 0, read = 2.0 * n_seqs * (pos + n) * (double)wide * (double)at_bytes(h.type);
    for (int i = 0; i < n; i++) keys += h.window ? SL_MIN(h.window, pos + i + 1) : pos + i + 1;
    double flop = 4.0 * n_seqs * keys * h.heads * h.dim;
    printf("%-34s %3d x %5d + %4d: attention %8.2f us %6.0f GB/s (%3.0f %%) %5.0f TFLOPS, heads "
           "%6.2f us\n",
           name, n_seqs, pos, n, a * 1e6, read / a * 1e-9, 100 * read / a / limit, flop / a * 1e-12,
           b * 1e6);
    for (int i = 0; i < t.caches; i++) gpu_free(t.kv[i].k), gpu_free(t.kv[i].v);
    gpu_free(t.q);
    gpu_free(t.k);
    gpu_free(t.v);
    gpu_free(t.gain);
    gpu_free(t.freq);
    gpu_free(t.out);
    free(random);
    at_free(&s);
}

static void bench_all(struct sl_cuda *c)
{
    double limit = gpu_read_bandwidth(c);
    printf("read bandwidth %.0f GB/s\n", limit * 1e-9);
    const struct shape llama = {32, 8, 128, 0, 0, 0, SL_F16};
    struct shape fp8 = llama, bf16 = llama;
    fp8.type = SL_F8_E4M3, bf16.type = SL_BF16;
    static const int lengths[] = {127, 511, 1023, 4095, 32767};
    for (size_t i = 0; i < SL_ARRAY_LEN(lengths); i++) {
        bench(c, "8B, F16", llama, 1, lengths[i], 1, limit);
        bench(c, "8B, E4M3", fp8, 1, lengths[i], 1, limit);
    }
    bench(c, "8B, F16", llama, 8, 1023, 1, limit);
    bench(c, "8B, F16", llama, 30, 1023, 1, limit);
    bench(c, "8B, BF16", bf16, 30, 1023, 1, limit);
    bench(c, "8B, E4M3", fp8, 30, 1023, 1, limit);
    bench(c, "70B, F16", (struct shape){64, 8, 128, 0, 0, 0, SL_F16}, 32, 1023, 1, limit);
    bench(c, "30B-A3B, F16", (struct shape){32, 4, 128, 0, 0, 0, SL_F16}, 30, 1023, 1, limit);
    bench(c, "head_dim 64, F16", (struct shape){64, 8, 64, 0, 1, 0, SL_F16}, 30, 1023, 1, limit);
    bench(c, "head_dim 256, F16", (struct shape){16, 8, 256, 0, 0, 0, SL_F16}, 30, 1023, 1, limit);
    bench(c, "8B, F16", llama, 1, 0, 512, limit);
    bench(c, "8B, F16", llama, 1, 0, 4096, limit);
    bench(c, "8B, F16", llama, 1, 4096, 4096, limit);
    bench(c, "8B, F16", llama, 8, 0, 512, limit);
    bench(c, "8B, E4M3", fp8, 1, 0, 4096, limit);
    bench(c, "8B, BF16", bf16, 1, 0, 4096, limit);
    bench(c, "head_dim 64, F16", (struct shape){64, 8, 64, 0, 1, 0, SL_F16}, 1, 0, 4096, limit);
    bench(c, "head_dim 64, window 128", (struct shape){64, 8, 64, 128, 1, 0, SL_F16}, 1, 0, 4096,
          limit);
    bench(c, "head_dim 256, F16", (struct shape){16, 8, 256, 0, 0, 0, SL_F16}, 1, 0, 4096, limit);
}

/* As on a card with less shared memory and without Hopper's instructions. */
static void check_small(struct sl_cuda *c)
{
    struct sl_cuda card = *c;
    c->cc = 89, c->smem_max = 99 << 10;
    check_shapes(c);
    check_long(c, 1000, 0);
    *c = card;
}

static void check_all(struct sl_cuda *c)
{
    static const struct shape f32 = {6, 2, 64, 0, 0, 0, SL_F32}, odd = {5, 5, 80, 0, 0, 0, SL_F32},
                              big = {3, 1, 256, 0, 0, 0, SL_F32};
    check_shapes(c);
    check_small(c);
    check_long(c, 4096, 0);
    check_long(c, 4096, 1000);
    check_long(c, 20000, 0);
    for (int i = 0; i < 4; i++) {
        check_heads(c, &f32, 64, i & 1, i & 2, 1);
        check_heads(c, &odd, 32, i & 1, i & 2, 65);
        check_heads(c, &odd, 80, i & 1, i & 2, 7);
        check_heads(c, &big, 256, i & 1, i & 2, 16);
    }
    check_rope(c, 0);
    check_rope(c, 1);
}

int main(int argc, char **argv)
{
    struct sl_cuda *c = gpu_open((size_t)64 << 20, ROWS_MAX, AT_SEQS_MAX, BLOCKS_MAX, 16);
    ref = at_reference();
    ops = sl_backend_ops(ref);
    uint64_t seed = 4;
    for (int i = 0; i < HEADS_MAX; i++) sinks_host[i] = gpu_normal(&seed);
    sinks_device = gpu_copy(sinks_host, sizeof sinks_host);
    check_all(c);
    c->step.block_tokens = 48; /* no power of two */
    check(c, &(struct shape){8, 2, 128, 60, 0, 0, SL_F16},
          (struct at_share[]){{200, 1}, {90, 70}, {40, 5}}, 3, 2);
    c->step.block_tokens = 16;
    int verdict = at_verdict();
    fflush(stdout);
    if (argc > 1 && !strcmp(argv[1], "bench")) bench_all(c);
    sl_backend_destroy(ref);
    gpu_free(sinks_device);
    gpu_close(c);
    return verdict;
}
