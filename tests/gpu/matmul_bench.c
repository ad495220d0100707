/* matmul_bench.c - how close the streaming products come to the bandwidth of reading memory: the
 * shapes of an 8B Llama, alone and as the chain of a layer, in a graph, over weights that rotate
 * through more memory than the L2 cache holds. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "kernels/cuda/matmul.h"
#include "tests/gpu/matmul_cases.h"

#define ROTATE_BYTES ((uint64_t)256 << 20) /* at least so much weight passes before one returns */
#define COPIES_MAX 48

enum { DIM = 4096, FF = 14336, VOCAB = 128256, QKV = 6144 };
enum shape { S_QKV, S_O, S_GATE_UP, S_DOWN, S_HEAD, SHAPES };
static const char *const shape_names[SHAPES] = {"qkv", "o", "gate_up", "down", "head"};

/* One weight's form at many places of memory. */
struct copies {
    struct matmul_weight w;
    struct sl_cuda_weight packed[COPIES_MAX];
    struct sl_weight handle[COPIES_MAX];
    char *memory;
    int n;
};

static const void *moved(const void *p, const void *from, char *to)
{
    return p ? to + ((const char *)p - (const char *)from) : NULL;
}

static void copies_make(struct sl_cuda *c, const struct matmul_case *k, int64_t rows, int64_t cols,
                        uint64_t *seed, struct copies *r)
{
    /* a few rows made on the host, repeated on the device: what is timed does not look at values */
    matmul_weight_make(c, k, rows, cols, seed, &r->w);
    r->n = (int)(ROTATE_BYTES / r->w.bytes) + 2;
    if (r->n > COPIES_MAX) r->n = COPIES_MAX;
    r->memory = gpu_alloc(r->w.bytes * (uint64_t)r->n);
    for (int i = 0; i < r->n; i++) {
        char *to = r->memory + r->w.bytes * (uint64_t)i, *from = r->w.device[4];
        struct sl_cuda_weight *p = &r->packed[i];
        cudaMemcpy(to, from, r->w.bytes, cudaMemcpyDeviceToDevice);
        *p = r->w.packed;
        p->code = moved(p->code, from, to);
        p->high = moved(p->high, from, to);
        p->scale = moved(p->scale, from, to);
        p->super = moved(p->super, from, to);
        p->min = moved(p->min, from, to);
        p->supmin = moved(p->supmin, from, to);
        p->row = moved(p->row, from, to);
        r->handle[i] = (struct sl_weight){.rows = rows, .cols = cols, .packed = p};
    }
}

static void copies_free(struct copies *r)
{
    matmul_weight_free(&r->w);
    gpu_free(r->memory);
}

struct bench {
    struct sl_cuda *c;
    struct copies q, k, o, gate, up, down, head; /* k: also v */
    void *x, *ff;
    float *out;
    int n;
    enum shape shape;
};

static void run_shape(struct bench *b, enum shape s, int i)
{
    const struct sl_weight *down = &b->down.handle[i % b->down.n];
    float *out = b->out;
    switch (s) {
    case S_QKV: {
        struct sl_product p[3] = {{&b->q.handle[i % b->q.n], NULL, out, 0},
                                  {&b->k.handle[2 * i % b->k.n], NULL, out + 64 * DIM, 0},
                                  {&b->k.handle[(2 * i + 1) % b->k.n], NULL, out + 64 * 5120, 0}};
        sl_cuda_stream_matmul(b->c, b->x, b->n, p, 3);
        break;
    }
    case S_O:
        sl_cuda_stream_matmul(
            b->c, b->x, b->n,
            &(struct sl_product){&b->o.handle[i % b->o.n], NULL, out, SL_MATMUL_ADD}, 1);
        break;
    case S_GATE_UP:
        sl_cuda_stream_gate_up(b->c, SL_ACT_SILU, b->x, b->n, &b->gate.handle[i % b->gate.n], NULL,
                               &b->up.handle[i % b->up.n], NULL, b->ff);
        break;
    case S_DOWN:
        sl_cuda_stream_matmul(b->c, b->ff, b->n,
                              &(struct sl_product){down, NULL, out, SL_MATMUL_ADD}, 1);
        break;
    default:
        sl_cuda_stream_matmul(b->c, b->x, b->n,
                              &(struct sl_product){&b->head.handle[i % b->head.n], NULL, out, 0},
                              1);
    }
}

static void one(void *arg, int call)
{
    struct bench *b = arg;
    run_shape(b, b->shape, call);
}

static void layer(void *arg, int call)
{
    for (enum shape s = S_QKV; s <= S_DOWN; s++) run_shape(arg, s, call);
}

static uint64_t shape_bytes(const struct bench *b, enum shape s)
{
    switch (s) {
    case S_QKV:
        return b->q.w.bytes + 2 * b->k.w.bytes;
    case S_O:
        return b->o.w.bytes;
    case S_GATE_UP:
        return b->gate.w.bytes + b->up.w.bytes;
    case S_DOWN:
        return b->down.w.bytes;
    default:
        return b->head.w.bytes;
    }
}

static void bench_format(struct sl_cuda *c, const char *label, const struct matmul_case *k,
                         double limit)
{
    static const int sizes[] = {1, 4, 8, 16, 30, 64};
    static struct bench b;
    uint64_t seed = 3;
    b = (struct bench){.c = c};
    copies_make(c, k, DIM, DIM, &seed, &b.q);
    copies_make(c, k, 1024, DIM, &seed, &b.k);
    copies_make(c, k, DIM, DIM, &seed, &b.o);
    copies_make(c, k, FF, DIM, &seed, &b.gate);
    copies_make(c, k, FF, DIM, &seed, &b.up);
    copies_make(c, k, DIM, FF, &seed, &b.down);
    copies_make(c, k, VOCAB, DIM, &seed, &b.head);
    float *x = malloc((size_t)64 * FF * 4);
    void *rows = malloc((size_t)(64 * sl_cuda_row_stride(FF)));
    for (int i = 0; i < 64 * FF; i++) x[i] = gpu_normal(&seed);
    gpu_rows_make(x, 64, DIM, rows);
    b.x = gpu_copy(rows, (size_t)(64 * sl_cuda_row_stride(DIM)));
    gpu_rows_make(x, 64, FF, rows);
    b.ff = gpu_copy(rows, (size_t)(64 * sl_cuda_row_stride(FF)));
    b.out = gpu_alloc((size_t)64 * VOCAB * 4);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint64_t bytes = 0;
        b.n = sizes[i];
        printf("%-10s n %2d |", label, b.n);
        for (b.shape = S_QKV; b.shape < SHAPES; b.shape++) {
            double t = gpu_time_graph(c, 5, b.shape == S_HEAD ? 4 : 24, one, &b);
            double rate = (double)shape_bytes(&b, b.shape) / t;
            printf(" %s %.1f %.0f %.0f%% |", shape_names[b.shape], t * 1e6, rate * 1e-9,
                   100 * rate / limit);
            if (b.shape < S_HEAD) bytes += shape_bytes(&b, b.shape);
        }
        double t = gpu_time_graph(c, 5, 12, layer, &b);
        printf(" layer %.1f %.0f%%\n", t * 1e6, 100 * (double)bytes / t / limit);
    }
    struct copies *all[] = {&b.q, &b.k, &b.o, &b.gate, &b.up, &b.down, &b.head};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) copies_free(all[i]);
    free(x);
    free(rows);
    gpu_free(b.x);
    gpu_free(b.ff);
    gpu_free(b.out);
}

void matmul_bench(struct sl_cuda *c, char **only, int n_only)
{
    static const char *const names[][2] = {
        {"FP8", "E4M3, tensor"}, {"NVFP4", "NVFP4"},
        {"MXFP4", "MXFP4"},      {"FP8 block", "E4M3, 128x128"},
        {"F16", "F16"},          {"Q4_K", "Q4_K"},
        {"Q8_0", "Q8_0"},        {"AWQ", "AWQ"},
    };
    double limit = gpu_read_bandwidth(c);
    printf("read bandwidth %.0f GB/s; %d x %d x %d; us, GB/s, %% of it\n", limit * 1e-9, DIM, FF,
           VOCAB);
    for (size_t f = 0; f < sizeof names / sizeof *names; f++) {
        int wanted = n_only == 0;
        for (int i = 0; i < n_only; i++) wanted |= !strcmp(only[i], names[f][0]);
        for (int i = 0; i < matmul_cases_n; i++)
            if (wanted && !strcmp(matmul_cases[i].name, names[f][1]))
                bench_format(c, names[f][0], &matmul_cases[i], limit);
    }
}
