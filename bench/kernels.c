/* kernels.c - times every operation of every row on the shapes of two real models, one line each.
 *
 *   sluice-bench-kernels [THREADS [ROW [OP]]]
 *
 * Each line is the best of several runs: microseconds a call, and what limits the operation: GB/s
 * of memory it must touch, or GFLOPS. Inputs are random and weights differ from run to run of one
 * call only in that caches may hold them; decode of a small matrix is therefore a cache number (the
 * column says how many bytes one call reads). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "kernels/kernels.h"

#define RUN_NS 100000000u /* how long one line is measured */
#define VOCAB_ROWS 4096   /* of an embedding table: enough for random access */

static const struct model {
    const char *name;
    int dim, ffn, n_heads, n_kv_heads, head_dim;
    enum sl_dtype type;
} models[] = {
    {"SmolLM2-135M", 576, 1536, 9, 3, 64, SL_Q4_1},
    {"Llama-8B", 4096, 14336, 32, 8, 128, SL_Q8_0},
};

static const char *only; /* operations whose name holds it; NULL: all */

struct bench {
    struct sl_backend *b;
    const struct sl_backend_ops *ops;
    const struct model *m;
    int n;       /* rows */
    int context; /* keys before them */
    int window;  /* of attention; 0: none */
    float *x, *y, *z, *gain;
    int32_t *pos, *ids;
    struct sl_kv_view kv;
    struct sl_seq_view seq;
    struct sl_weight w;
};

static float *floats(int64_t n)
{
    float *x = aligned_alloc(64, ((size_t)n * sizeof(float) / 64 + 1) * 64);
    SL_ASSERT(x);
    for (int64_t i = 0; i < n; i++) x[i] = (float)(sl_mix64((uint64_t)i) >> 40) * 0x1p-23f - 1.0f;
    return x;
}

/* One line: fn's best time; `bytes` and `flops` are those of one call, 0 when they say nothing. */
static void measure(struct bench *s, const char *op, void (*fn)(struct bench *), double bytes,
                    double flops)
{
    double best = INFINITY;
    if (only && !strstr(op, only)) return;
    fn(s); /* scratch, page faults, frequency */
    uint64_t start = sl_env_now_ns(), now = start;
    do {
        uint64_t t0 = now;
        fn(s);
        now = sl_env_now_ns();
        best = fmin(best, (double)(now - t0));
    } while (now - start < RUN_NS);
    printf("%-13s %-9s %-14s %5d %7d %11.1f", s->m->name, sl_backend_row(s->b), op, s->n,
           s->context, best / 1e3);
    if (bytes > 0) printf(" %9.1f GB/s", bytes / best);
    if (flops > 0) printf(" %9.1f GFLOPS", flops / best);
    printf("\n");
    fflush(stdout);
}

static void run_rmsnorm(struct bench *s)
{
    s->ops->rmsnorm(s->b, s->x, s->gain, 1e-5f, s->n, s->m->dim, s->y);
}

static void run_swiglu(struct bench *s)
{
    s->ops->glu(s->b, SL_ACT_SILU, s->x, s->y, s->n, s->m->ffn, s->z);
}

/* Positions stay, so this is the cost of a layer after the first of a step. */
static void run_rope(struct bench *s)
{
    const struct sl_rope how = {s->m->head_dim, 1, 1, s->gain};
    const struct sl_rope_part parts[] = {{s->x, s->m->n_heads, s->m->head_dim, 0},
                                         {s->y, s->m->n_kv_heads, s->m->head_dim, 0}};
    s->ops->rope(s->b, &how, parts, 2, s->pos, s->n);
}

/* New positions each call: the first layer of a step. */
static void run_rope_first(struct bench *s)
{
    s->pos[0]++;
    run_rope(s);
}

static void run_kv_write(struct bench *s)
{
    s->ops->kv_write(s->b, &s->kv, &s->seq, 1, s->x, s->y);
}

static void run_attention(struct bench *s)
{
    const struct sl_attn how = {
        .n_heads = s->m->n_heads, .scale = 1 / sqrtf((float)s->m->head_dim), .window = s->window};
    s->ops->attention(s->b, &s->kv, &s->seq, 1, s->x, &how, s->y);
}

static void run_matmul(struct bench *s)
{
    struct sl_product p = {.w = &s->w, .out = s->z};
    s->ops->matmul(s->b, s->x, s->n, &p, 1);
}

static void run_embed(struct bench *s)
{
    s->ops->embed(s->b, &s->w, s->ids, s->n, s->y);
}

static void elementwise(struct bench *s)
{
    const struct model *m = s->m;
    double row = 4.0 * s->n * m->dim, wide = 4.0 * s->n * m->ffn;
    double heads = 4.0 * s->n * (m->n_heads + m->n_kv_heads) * m->head_dim;
    measure(s, "rmsnorm", run_rmsnorm, 2 * row, 0);
    measure(s, "swiglu", run_swiglu, 3 * wide, 0);
    measure(s, "rope, first", run_rope_first, 2 * heads, 0);
    measure(s, "rope", run_rope, 2 * heads, 0);
}

static void attention(struct bench *s, int context)
{
    const struct model *m = s->m;
    int bt = 16, total = context + s->n, n_blocks = (total + bt - 1) / bt;
    double keys = (double)s->n * context + (double)s->n * (s->n + 1) / 2;
    if (s->window) keys = fmin(keys, (double)s->n * s->window);
    size_t bytes = (size_t)n_blocks * (size_t)(bt * m->n_kv_heads * m->head_dim) * 2;
    enum sl_dtype type =
        strcmp(sl_backend_row(s->b), "ref") == 0 ? SL_F16 : sl_backend_kv_type(s->b);
    int32_t *blocks = malloc(sizeof(*blocks) * (size_t)n_blocks);
    s->kv = (struct sl_kv_view){malloc(bytes), malloc(bytes), type, bt, m->n_kv_heads, m->head_dim};
    SL_ASSERT(blocks && s->kv.k && s->kv.v);
    memset(s->kv.k, 0x2c,
           bytes); /* 0.065 in F16; also real pages instead of the one page of zeros */
    memset(s->kv.v, 0x2c, bytes);
    for (int i = 0; i < n_blocks; i++) blocks[i] = n_blocks - 1 - i;
    s->context = context;
    s->seq = (struct sl_seq_view){0, s->n, context, blocks, 0, 0, 0};
    if (context == 0)
        measure(s, "kv_write", run_kv_write, 12.0 * s->n * m->n_kv_heads * m->head_dim, 0);
    measure(s, s->window ? "attention win" : "attention", run_attention,
            s->n == 1 && !s->window ? 2.0 * (double)bytes : 0,
            4.0 * keys * m->n_heads * m->head_dim);
    s->context = 0;
    free(blocks);
    free(s->kv.k);
    free(s->kv.v);
}

static void matmul(struct bench *s, const char *op, int64_t rows, int64_t cols)
{
    uint64_t bytes = (uint64_t)rows * sl_dtype_row_bytes(s->m->type, (uint64_t)cols);
    uint8_t *data = aligned_alloc(64, (bytes / 64 + 1) * 64);
    struct sl_err err = {0};
    SL_ASSERT(data);
    for (uint64_t i = 0; i < bytes; i++)
        data[i] = (uint8_t)(sl_mix64(i) & 0x3b); /* no NaN, no infinity */
    const struct sl_matrix m = sl_matrix_plain(s->m->type, rows, cols, data);
    if (s->ops->load(s->b, SL_USE_MATMUL, &m, &s->w, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        exit(1);
    }
    measure(s, op, run_matmul, s->n == 1 ? (double)bytes : 0,
            2.0 * s->n * (double)rows * (double)cols);
    s->ops->unload(s->b, &s->w);
    if (rows == VOCAB_ROWS && s->ops->load(s->b, SL_USE_EMBED, &m, &s->w, &err) == 0) {
        measure(s, "embed", run_embed, 4.0 * s->n * (double)cols, 0);
        s->ops->unload(s->b, &s->w);
    }
    free(data);
}

static void bench_row(const char *row, int threads, const struct model *m)
{
    static const int counts[] = {1, 2, 4, 8, 16, 512};
    struct sl_backend_params p = {.kind = row, .n_threads = threads};
    struct bench s = {.m = m};
    struct sl_err err;
    if (sl_backend_create(&p, &s.b, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        exit(1);
    }
    s.ops = sl_backend_ops(s.b);
    int slow = strcmp(row, "ref") == 0; /* the oracle: decode only, or we wait for minutes */
    int64_t widest = (int64_t)512 * SL_MAX(m->ffn, VOCAB_ROWS);
    s.x = floats(widest);
    s.y = floats(widest);
    s.z = floats(widest);
    s.gain = floats(m->ffn);
    s.pos = calloc(512, sizeof(*s.pos));
    s.ids = calloc(512, sizeof(*s.ids));
    SL_ASSERT(s.pos && s.ids);
    for (int i = 0; i < 512; i++) {
        s.pos[i] = i;
        s.ids[i] = i * 7 % VOCAB_ROWS;
    }
    for (size_t c = 0; c < (slow ? 1 : SL_ARRAY_LEN(counts)); c++) {
        s.n = counts[c];
        elementwise(&s);
        attention(&s, 0);
        if (s.n == 1) attention(&s, 1023);
        if (s.n == 1 && !slow) attention(&s, 16383);
        s.window = 128;
        if (s.n == 1 || s.n == 512) attention(&s, 1023);
        s.window = 0;
        matmul(&s, "matmul ffn", m->ffn, m->dim);
        matmul(&s, "matmul 4096", VOCAB_ROWS, m->dim);
    }
    free(s.x);
    free(s.y);
    free(s.z);
    free(s.gain);
    free(s.pos);
    free(s.ids);
    sl_backend_destroy(s.b);
}

/* ---- absorbed MLA and mixtures of experts, on shapes of their own -----------------------------
 */

static const struct latent {
    const char *name;
    int n_heads, dim, v_dim;
} latents[] = {{"MLA 16 heads", 16, 576, 512}, {"MLA 128 heads", 128, 576, 512}};

static const struct experts {
    const char *name;
    int dim, n_ff, n_experts, n_used;
    enum sl_dtype type;
} experts[] = {{"MoE 32 of 4", 2048, 768, 32, 4, SL_Q4_0}};

struct special {
    struct bench s; /* the common part */
    struct model m; /* a name for the lines */
    const struct latent *latent;
    struct sl_latent_view kv;
    struct sl_moe moe;
    int dim;
};

static void run_latent(struct bench *s)
{
    struct special *p = (struct special *)s;
    const struct sl_attn how = {.n_heads = p->latent->n_heads, .scale = 0.07f};
    s->ops->latent_attention(s->b, &p->kv, &s->seq, 1, s->x, &how, s->y);
}

static void run_moe(struct bench *s)
{
    struct special *p = (struct special *)s;
    s->ops->moe(s->b, &p->moe, s->x, s->n, p->dim, s->y);
}

static void special_open(struct special *p, const char *row, int threads, const char *name, int n,
                         int64_t width)
{
    struct sl_backend_params params = {.kind = row, .n_threads = threads};
    struct sl_err err;
    *p = (struct special){.m = {.name = name}};
    p->s.m = &p->m;
    p->s.n = n;
    if (sl_backend_create(&params, &p->s.b, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        exit(1);
    }
    p->s.ops = sl_backend_ops(p->s.b);
    p->s.x = floats(n * width);
    p->s.y = floats(n * width);
}

static void special_close(struct special *p)
{
    free(p->s.x);
    free(p->s.y);
    sl_backend_destroy(p->s.b);
}

static void bench_latent(const char *row, int threads, const struct latent *l, int n, int context)
{
    struct special p;
    special_open(&p, row, threads, l->name, n, (int64_t)l->n_heads * l->dim);
    int bt = 16, n_blocks = (context + n + bt - 1) / bt;
    size_t bytes = (size_t)n_blocks * (size_t)(bt * l->dim) * 2;
    int32_t *blocks = malloc(sizeof(*blocks) * (size_t)n_blocks);
    p.latent = l;
    p.kv = (struct sl_latent_view){malloc(bytes), SL_F16, bt, l->dim, l->v_dim};
    SL_ASSERT(blocks && p.kv.rows);
    memset(p.kv.rows, 0x2c, bytes);
    for (int i = 0; i < n_blocks; i++) blocks[i] = n_blocks - 1 - i;
    p.s.context = context;
    p.s.seq = (struct sl_seq_view){0, n, context, blocks, 0, 0, 0};
    double keys = (double)n * context + (double)n * (n + 1) / 2;
    measure(&p.s, "latent", run_latent, n == 1 ? (double)bytes : 0,
            2.0 * keys * l->n_heads * (l->dim + l->v_dim));
    free(blocks);
    free(p.kv.rows);
    special_close(&p);
}

static void load(struct special *p, enum sl_dtype type, int64_t rows, int64_t cols,
                 struct sl_weight *w, double *bytes)
{
    uint64_t size = (uint64_t)rows * sl_dtype_row_bytes(type, (uint64_t)cols);
    uint8_t *data = malloc(size);
    struct sl_err err;
    SL_ASSERT(data);
    for (uint64_t i = 0; i < size; i++) data[i] = (uint8_t)(sl_mix64(i) & 0x3b);
    const struct sl_matrix m = sl_matrix_plain(type, rows, cols, data);
    if (p->s.ops->load(p->s.b, SL_USE_MATMUL, &m, w, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        exit(1);
    }
    if (!w->m.data) free(data); /* else the reference reads it; it ends with the process */
    *bytes = (double)size;
}

static void bench_moe(const char *row, int threads, const struct experts *e)
{
    static const int counts[] = {1, 2, 4, 16, 512};
    enum { EXPERTS_MAX = 32 };
    static struct sl_weight w[3 * EXPERTS_MAX + 1];
    struct special p;
    double bytes = 0;
    special_open(&p, row, threads, e->name, 512, e->dim);
    p.dim = e->dim;
    p.moe = (struct sl_moe){.n_experts = e->n_experts,
                            .n_used = e->n_used,
                            .n_ff = e->n_ff,
                            .normalize = 1,
                            .n_groups = 1,
                            .n_groups_used = 1,
                            .scale = 1e-6f,
                            .router = &w[3 * EXPERTS_MAX],
                            .gate = w,
                            .up = w + EXPERTS_MAX,
                            .down = w + 2 * EXPERTS_MAX};
    load(&p, SL_F32, e->n_experts, e->dim, &w[3 * EXPERTS_MAX], &bytes);
    for (int i = 0; i < e->n_experts; i++) {
        load(&p, e->type, e->n_ff, e->dim, &w[i], &bytes);
        load(&p, e->type, e->n_ff, e->dim, &w[EXPERTS_MAX + i], &bytes);
        load(&p, e->type, e->dim, e->n_ff, &w[2 * EXPERTS_MAX + i], &bytes);
    }
    int slow = strcmp(row, "ref") == 0;
    for (size_t c = 0; c < (slow ? 1 : SL_ARRAY_LEN(counts)); c++) {
        p.s.n = counts[c];
        measure(&p.s, "moe", run_moe, p.s.n == 1 ? 3 * e->n_used * bytes : 0,
                6.0 * p.s.n * e->n_used * e->dim * e->n_ff);
    }
    for (size_t i = 0; i < SL_ARRAY_LEN(w); i++) p.s.ops->unload(p.s.b, &w[i]);
    special_close(&p);
}

static void bench_special(const char *row, int threads)
{
    for (size_t i = 0; i < SL_ARRAY_LEN(latents); i++) {
        bench_latent(row, threads, &latents[i], 1, 1023);
        if (strcmp(row, "ref") == 0) continue;
        bench_latent(row, threads, &latents[i], 1, 16383);
        bench_latent(row, threads, &latents[i], 8, 1023);
        bench_latent(row, threads, &latents[i], 256, 0);
    }
    for (size_t i = 0; i < SL_ARRAY_LEN(experts); i++) bench_moe(row, threads, &experts[i]);
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 1, n;
    only = argc > 3 ? argv[3] : NULL;
    const char *const *rows = sl_backend_rows(&n);
    printf("%-13s %-9s %-14s %5s %7s %11s   %d threads\n", "model", "row", "op", "rows", "context",
           "us/call", threads);
    for (size_t m = 0; m < SL_ARRAY_LEN(models); m++)
        for (int i = 0; i < n; i++)
            if (argc < 3 || strcmp(argv[2], rows[i]) == 0) bench_row(rows[i], threads, &models[m]);
    for (int i = 0; i < n; i++)
        if (argc < 3 || strcmp(argv[2], rows[i]) == 0) bench_special(rows[i], threads);
    return 0;
}
