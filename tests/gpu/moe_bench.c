/* moe_bench.c - how long the mixtures of known models take, beside what reading their weights or
 * multiplying would. The experts have the same values in memory of their own; each call of a graph
 * has rows of its own, so that experts change from call to call as between layers. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/gpu/moe_cases.h"

#define CALLS 12
#define ROWS_MAX 4096

struct shape {
    struct moe_case k;
};

static const struct shape shapes[] = {
    {.k = {"Qwen3-30B-A3B MXFP4",
           {128, 8, 768, SL_GATING_SOFTMAX, 1, 1, 1, .scale = 1},
           2048,
           "BF16",
           "MXFP4 of GGUF",
           "MXFP4 of GGUF",
           "MXFP4 of GGUF",
           .special = 0}},
    {.k = {"Qwen3-30B-A3B Q4_K",
           {128, 8, 768, SL_GATING_SOFTMAX, 1, 1, 1, .scale = 1},
           2048,
           "F32",
           "Q4_K",
           "Q4_K",
           "Q6_K",
           .special = 0}},
    {.k = {"gpt-oss-20b MXFP4",
           {32, 4, 2880, SL_GATING_TOPK_SOFTMAX, 0, 1, 1, .scale = 1, .act = SL_ACT_SWIGLU_OAI},
           2880,
           "BF16",
           "MXFP4",
           "MXFP4",
           "MXFP4",
           .router_bias = 1,
           .biases = 1}},
    {.k = {"DeepSeek-V3 FP8",
           {256, 8, 2048, SL_GATING_SIGMOID, 1, 8, 4, .scale = 2.5f},
           7168,
           "BF16",
           "E4M3, 128x128",
           "E4M3, 128x128",
           "E4M3, 128x128",
           .correction = 1}},
};

/* One expert is made, the others are its copies elsewhere. */
struct copies {
    struct matmul_weight first;
    char *memory;
    void *descriptors;
};

static const void *moved(const void *p, const void *from, char *to)
{
    return p ? to + ((const char *)p - (const char *)from) : NULL;
}

static void copies_make(struct sl_cuda *c, const char *name, int n, int64_t rows, int64_t cols,
                        struct copies *x)
{
    uint64_t seed = 3;
    struct sl_cuda_weight *all = calloc((size_t)n, sizeof *all);
    for (int i = 0; i < matmul_cases_n; i++)
        if (!strcmp(matmul_cases[i].name, name))
            matmul_weight_make(c, &matmul_cases[i], rows, cols, &seed, &x->first);
    x->memory = gpu_alloc(x->first.bytes * (size_t)n);
    for (int e = 0; e < n; e++) {
        char *to = x->memory + x->first.bytes * (size_t)e;
        const void *from = x->first.device[4];
        cudaMemcpy(to, from, x->first.bytes, cudaMemcpyDeviceToDevice);
        struct sl_cuda_weight *w = all + e;
        *w = x->first.packed;
        w->code = moved(w->code, from, to), w->high = moved(w->high, from, to);
        w->scale = moved(w->scale, from, to), w->super = moved(w->super, from, to);
        w->min = moved(w->min, from, to), w->supmin = moved(w->supmin, from, to);
        w->row = moved(w->row, from, to), w->order = moved(w->order, from, to);
    }
    x->descriptors = gpu_copy(all, (size_t)n * sizeof *all);
    free(all);
}

static void copies_free(struct copies *x)
{
    matmul_weight_free(&x->first);
    gpu_free(x->memory);
    gpu_free(x->descriptors);
}

struct job {
    struct sl_cuda *c;
    struct sl_moe m;
    struct sl_cuda_experts e;
    const char *x;
    float *out;
    int n, dim;
};

static void run(void *arg, int call)
{
    struct job *j = arg;
    int first = j->n <= SL_DECODE_ROWS_MAX ? call * j->n : 0;
    sl_cuda_moe(j->c, &j->m, &j->e, j->x + first * sl_cuda_row_stride(j->dim), j->n, j->dim,
                j->out);
}

static void bench_shape(struct sl_cuda *c, const struct moe_case *k, double bandwidth)
{
    static const int rows[] = {1, 2, 4, 8, 16, 30, 64, 128, 256, 512, 1024, 4096};
    struct copies router, gate, up, down;
    struct sl_moe m = k->m;
    uint64_t seed = 9;
    int64_t x_bytes = ROWS_MAX * sl_cuda_row_stride(k->dim);
    int sizes[5] = {m.n_experts, m.n_experts, m.n_experts * m.n_ff, m.n_experts * m.n_ff,
                    m.n_experts * k->dim};
    float *x = malloc((size_t)ROWS_MAX * (size_t)k->dim * 4), *bias[5];
    void *host = malloc((size_t)x_bytes);
    for (int i = 0; i < ROWS_MAX * k->dim; i++) x[i] = gpu_normal(&seed);
    gpu_rows_make(x, ROWS_MAX, k->dim, host);
    copies_make(c, k->router, 1, m.n_experts, k->dim, &router);
    copies_make(c, k->gate, m.n_experts, m.n_ff, k->dim, &gate);
    copies_make(c, k->up, m.n_experts, m.n_ff, k->dim, &up);
    copies_make(c, k->down, m.n_experts, k->dim, m.n_ff, &down);
    for (int i = 0; i < 5; i++) bias[i] = gpu_alloc((size_t)sizes[i] * 4);
    m.router = &router.first.handle;
    if (k->router_bias) m.router_bias = bias[0];
    if (k->correction) m.correction = bias[1];
    if (k->biases) m.gate_bias = bias[2], m.up_bias = bias[3], m.down_bias = bias[4];
    struct job j = {c,
                    m,
                    {gate.descriptors, up.descriptors, down.descriptors, gate.first.packed,
                     up.first.packed, down.first.packed},
                    gpu_copy(host, (size_t)x_bytes),
                    gpu_alloc((size_t)ROWS_MAX * (size_t)k->dim * 4),
                    0,
                    k->dim};
    double expert = (double)(gate.first.bytes + up.first.bytes + down.first.bytes);
    printf("%s, %.2f MB an expert\n  rows        us    GB/s     %%   TFLOPS\n", k->name,
           expert / 1e6);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct sl_backend_limits l = {.max_rows = rows[i]};
        if (sl_cuda_moe_scratch(&l, m.n_experts, m.n_used, m.n_ff, k->dim) > c->scratch_bytes)
            continue;
        j.n = rows[i];
        double s = gpu_time_graph(c, 7, rows[i] <= 64 ? CALLS : 2, run, &j);
        double met = m.n_experts * (1 - pow(1 - (double)m.n_used / m.n_experts, rows[i]));
        double rate = met * expert / s;
        double flops = 6.0 * rows[i] * m.n_used * m.n_ff * k->dim;
        printf("%6d %9.2f %7.0f %5.0f %8.1f\n", rows[i], s * 1e6, rate / 1e9,
               100 * rate / bandwidth, flops / s / 1e12);
    }
    copies_free(&router), copies_free(&gate), copies_free(&up), copies_free(&down);
    for (int i = 0; i < 5; i++) gpu_free(bias[i]);
    gpu_free((void *)(uintptr_t)j.x), gpu_free(j.out);
    free(x), free(host);
}

void moe_bench(struct sl_cuda *c)
{
    double bandwidth = gpu_read_bandwidth(c);
    printf("read %.0f GB/s\n", bandwidth / 1e9);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        bench_shape(c, &shapes[i].k, bandwidth);
}
