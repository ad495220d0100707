/* gpu.c - see gpu.h. */
#include "tests/gpu/gpu.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "kernels/kernels.h"

static void must(cudaError_t e, const char *what)
{
    if (e == cudaSuccess) return;
    fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(e));
    exit(1);
}

/* Copies from the host's pageable memory and fills may still be under way when their calls return,
 * and the tests' stream does not wait for the default one. */
static void settle(void)
{
    must(cudaStreamSynchronize(cudaStreamLegacy), "cudaStreamSynchronize");
}

void *gpu_alloc(size_t bytes)
{
    void *p;
    must(cudaMalloc(&p, bytes ? bytes : 1), "cudaMalloc");
    must(cudaMemset(p, 0, bytes), "cudaMemset");
    settle();
    return p;
}

void *gpu_copy(const void *host, size_t bytes)
{
    void *p = gpu_alloc(bytes);
    gpu_write(p, host, bytes);
    return p;
}

void gpu_write(void *device, const void *host, size_t bytes)
{
    must(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
    settle();
}

void gpu_free(void *p)
{
    must(cudaFree(p), "cudaFree");
}

struct sl_cuda *gpu_open(size_t scratch, int max_rows, int max_seqs, int max_blocks,
                         int block_tokens)
{
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
        printf("skipped: there is no NVIDIA GPU here\n");
        exit(77);
    }
    struct sl_cuda *c = calloc(1, sizeof *c);
    struct cudaDeviceProp p;
    must(cudaSetDevice(0), "cudaSetDevice");
    must(cudaGetDeviceProperties(&p, 0), "cudaGetDeviceProperties");
    c->cc = p.major * 10 + p.minor;
    c->sms = p.multiProcessorCount;
    c->smem_max = (int)p.sharedMemPerBlockOptin;
    c->l2_bytes = (size_t)p.l2CacheSize;
    must(cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), "cudaStreamCreate");
    c->scratch_bytes = scratch;
    c->scratch = gpu_alloc(scratch);
    size_t rows = (size_t)max_rows;
    struct sl_cuda_step *s = &c->step;
    s->pos = gpu_alloc(rows * 4);
    s->slot = gpu_alloc(rows * 4);
    s->ids = gpu_alloc(rows * 4);
    s->lone = gpu_alloc(rows * 4);
    s->tiles = gpu_alloc(rows * sizeof *s->tiles);
    s->picks = gpu_alloc(rows * 4);
    s->next = gpu_alloc(rows * 4);
    s->draw = gpu_alloc(rows * sizeof *s->draw);
    s->adjust = gpu_alloc(rows * 64 * sizeof *s->adjust);
    s->tables = gpu_alloc((size_t)max_seqs * (size_t)max_blocks * 4);
    s->drawn = gpu_alloc(rows * sizeof *s->drawn);
    s->scored = gpu_alloc(rows * 4);
    s->max_blocks = max_blocks;
    s->block_tokens = block_tokens;
    return c;
}

void gpu_close(struct sl_cuda *c)
{
    struct sl_cuda_step *s = &c->step;
    void *all[] = {c->scratch, s->pos,  s->slot,   s->ids,    s->lone,  s->tiles, s->picks,
                   s->next,    s->draw, s->adjust, s->tables, s->drawn, s->scored};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) gpu_free(all[i]);
    must(cudaStreamDestroy(c->stream), "cudaStreamDestroy");
    free(c);
}

void gpu_sync(struct sl_cuda *c)
{
    must(cudaGetLastError(), "launch");
    must(cudaStreamSynchronize(c->stream), "cudaStreamSynchronize");
}

void gpu_read(struct sl_cuda *c, void *host, const void *device, size_t bytes)
{
    gpu_sync(c);
    must(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
}

float gpu_uniform(uint64_t *seed)
{
    *seed = sl_mix64(*seed + 0x9e3779b97f4a7c15u);
    return (float)((double)(*seed >> 11) * 0x1p-52 - 1);
}

float gpu_normal(uint64_t *seed)
{
    double u = 0.5 * ((double)gpu_uniform(seed) + 1), v = gpu_uniform(seed);
    u = u < 1e-12 ? 1e-12 : u > 1 ? 1 : u; /* its logarithm is a number, and not above 0 */
    return (float)(sqrt(-2 * log(u)) * cos(3.14159265358979 * v));
}

void gpu_rows_make(const float *x, int64_t n, int64_t cols, void *rows_host)
{
    memset(rows_host, 0, (size_t)(n * sl_cuda_row_stride(cols)));
    for (int64_t i = 0; i < n; i++) {
        char *row = (char *)rows_host + i * sl_cuda_row_stride(cols);
        uint16_t *half = (uint16_t *)(void *)(row + SL_CUDA_ROW_HEAD);
        float top = 0, scale = 1;
        for (int64_t k = 0; k < cols; k++) top = fmaxf(top, fabsf(x[i * cols + k]));
        if (top > 0) scale = exp2f(floorf(log2f(top)) - 13);
        memcpy(row, &scale, sizeof scale);
        for (int64_t k = 0; k < cols; k++) half[k] = sl_float_to_half(x[i * cols + k] / scale);
    }
}

void gpu_rows_read(const void *rows_host, int64_t n, int64_t cols, float *x)
{
    for (int64_t i = 0; i < n; i++) {
        const char *row = (const char *)rows_host + i * sl_cuda_row_stride(cols);
        const uint16_t *half = (const uint16_t *)(const void *)(row + SL_CUDA_ROW_HEAD);
        float scale;
        memcpy(&scale, row, sizeof scale);
        for (int64_t k = 0; k < cols; k++) x[i * cols + k] = scale * sl_half_to_float(half[k]);
    }
}

double gpu_error(const float *a, const float *b, int64_t n)
{
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++) {
        d += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        s += (double)b[i] * (double)b[i];
    }
    return s > 0 ? sqrt(d / s) : sqrt(d);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double gpu_time(struct sl_cuda *c, int rounds, int calls, void (*fn)(void *arg, int call),
                void *arg)
{
    double t[64];
    cudaEvent_t from, to;
    if (rounds > 64) rounds = 64;
    must(cudaEventCreate(&from), "cudaEventCreate");
    must(cudaEventCreate(&to), "cudaEventCreate");
    for (int i = 0; i < calls; i++) fn(arg, i);
    gpu_sync(c);
    for (int r = 0; r < rounds; r++) {
        float ms;
        must(cudaEventRecord(from, c->stream), "cudaEventRecord");
        for (int i = 0; i < calls; i++) fn(arg, i);
        must(cudaEventRecord(to, c->stream), "cudaEventRecord");
        gpu_sync(c);
        must(cudaEventElapsedTime(&ms, from, to), "cudaEventElapsedTime");
        t[r] = (double)ms * 1e-3 / calls;
    }
    cudaEventDestroy(from);
    cudaEventDestroy(to);
    qsort(t, (size_t)rounds, sizeof *t, by_value);
    return t[rounds / 2];
}

struct replay {
    cudaGraphExec_t exec;
    cudaStream_t stream;
};

static void replay(void *arg, int call)
{
    struct replay *r = arg;
    (void)call;
    must(cudaGraphLaunch(r->exec, r->stream), "cudaGraphLaunch");
}

double gpu_time_graph(struct sl_cuda *c, int rounds, int calls, void (*fn)(void *arg, int call),
                      void *arg)
{
    struct replay r = {.stream = c->stream};
    cudaGraph_t graph;
    fn(arg, 0); /* loads what is loaded at the first launch */
    gpu_sync(c);
    must(cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal), "capture");
    for (int i = 0; i < calls; i++) fn(arg, i);
    must(cudaStreamEndCapture(c->stream, &graph), "cudaStreamEndCapture");
    must(cudaGraphInstantiate(&r.exec, graph, 0), "cudaGraphInstantiate");
    double t = gpu_time(c, rounds, 1, replay, &r);
    cudaGraphExecDestroy(r.exec);
    cudaGraphDestroy(graph);
    return t / calls;
}
