/* test_limits.c - a card held to a share of its multiprocessors and to a speed of its memory, with
 * operations as they come and recorded in a graph. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/env.h"
#include "kernels/cuda/limits.h"
#include "tests/gpu/gpu.h"
#include "tests/gpu/gpu_limits.h"

static int failures;

static void expect(int ok, const char *what)
{
    if (ok) return;
    printf("FAILED %s\n", what);
    failures++;
}

static void words(void)
{
    static const char *const wrong[] = {",sm=0",        ",sm=101", ",sm=",        ",sm=4x",
                                        "sm=40",        ",",       ",bandwidth=", ",bandwidth=nan",
                                        ",bandwidth=1", ",sms=4"};
    struct sl_cuda_limits l;
    struct sl_err err;
    expect(sl_cuda_limits_read("", &l, &err) == 0 && l.sm_percent == 0 && l.bandwidth == 0, "none");
    expect(sl_cuda_limits_read(",sm=40", &l, &err) == 0 && l.sm_percent == 40, "sm=40");
    expect(sl_cuda_limits_read(",bandwidth=1.2e12,sm=100", &l, &err) == 0 && l.sm_percent == 100 &&
               l.bandwidth > 1.1e12 && l.bandwidth < 1.3e12,
           "both");
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        expect(sl_cuda_limits_read(wrong[i], &l, &err) == SL_EINPUT && strlen(err.msg) > 20,
               wrong[i]);
}

static struct sl_cuda card(struct sl_cuda_held *h, struct sl_cuda_limits l)
{
    struct cudaDeviceProp p;
    struct sl_err err;
    cudaSetDevice(0);
    cudaGetDeviceProperties(&p, 0);
    struct sl_cuda c = {.cc = p.major * 10 + p.minor, .sms = p.multiProcessorCount};
    if (sl_cuda_held_open(h, &c, &l, 0, &err)) {
        printf("FAILED opening: %s\n", err.msg);
        failures++;
    }
    return c;
}

static int count(struct sl_cuda *c, int32_t *seen, int by_graph)
{
    static int32_t host[GPU_SMS_MAX];
    int n = 0;
    cudaMemsetAsync(seen, 0, sizeof host, c->stream);
    if (by_graph) {
        cudaGraph_t graph;
        cudaGraphExec_t exec;
        cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal);
        gpu_limits_visit(c, seen);
        cudaStreamEndCapture(c->stream, &graph);
        cudaGraphInstantiate(&exec, graph, 0);
        cudaGraphLaunch(exec, c->stream);
        gpu_sync(c);
        cudaGraphExecDestroy(exec);
        cudaGraphDestroy(graph);
    } else {
        gpu_limits_visit(c, seen);
    }
    gpu_read(c, host, seen, sizeof host);
    for (int i = 0; i < GPU_SMS_MAX; i++) n += host[i];
    return n;
}

static void share(int percent)
{
    struct sl_cuda_held h;
    struct cudaDeviceProp p;
    cudaGetDeviceProperties(&p, 0);
    struct sl_cuda c = card(&h, (struct sl_cuda_limits){.sm_percent = percent});
    if (failures) return;
    int32_t *seen = gpu_alloc(GPU_SMS_MAX * sizeof *seen);
    int as_is = count(&c, seen, 0), by_graph = count(&c, seen, 1);
    printf("%3d %%: %d of %d multiprocessors, %d seen, %d from a graph\n", percent, c.sms,
           p.multiProcessorCount, as_is, by_graph);
    expect(c.sms * 100 >= percent * p.multiProcessorCount, "a smaller share than asked for");
    expect(percent == 100 ? c.sms == p.multiProcessorCount
                          : c.sms < p.multiProcessorCount * (percent + 15) / 100,
           "a larger share than asked for");
    expect(as_is == c.sms, "kernels leave their share, or some of it idle");
    expect(by_graph == c.sms, "recorded kernels leave their share, or some of it idle");
    gpu_free(seen);
    sl_cuda_held_close(&h, &c);
}

/* A step that reads 2 GB at 100 GB/s takes 20 ms, also when it is recorded once and replayed. */
static void pace(void)
{
    struct sl_cuda_held h;
    struct sl_cuda c = card(&h, (struct sl_cuda_limits){.bandwidth = 100e9});
    cudaGraph_t graph;
    cudaGraphExec_t exec = NULL;
    if (failures) return;
    for (int round = 0; round < 4; round++) {
        uint64_t from = sl_env_now_ns();
        sl_cuda_held_begin(&h, &c);
        if (round == 2) cudaStreamBeginCapture(c.stream, cudaStreamCaptureModeThreadLocal);
        if (round < 3) {
            sl_cuda_held_read(&h, (uint64_t)1500000000);
            sl_cuda_held_read(&h, (uint64_t)500000000);
            sl_cuda_held_end(&h, &c);
        }
        if (round == 2) {
            cudaStreamEndCapture(c.stream, &graph);
            cudaGraphInstantiate(&exec, graph, 0);
        }
        if (round >= 2) cudaGraphLaunch(exec, c.stream);
        gpu_sync(&c);
        double ms = (double)(sl_env_now_ns() - from) * 1e-6;
        printf("step %d: %.2f ms\n", round, ms);
        expect(ms >= 19.9, "a step was faster than its memory");
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    sl_cuda_held_close(&h, &c);
}

/* The same through the backend's name, as the topology file writes it. */
static void backend(void)
{
    static const char *const wrong[] = {"cuda:0,sm=0", "cuda:0,fast", "cuda:0x", "cuda:"};
    struct sl_backend *b;
    struct sl_err err;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const struct sl_backend_params p = {.kind = wrong[i], .n_threads = 1};
        expect(sl_backend_create(&p, &b, &err) == SL_EINPUT, wrong[i]);
    }
    const struct sl_backend_params p = {.kind = "cuda:0,sm=50,bandwidth=50e9", .n_threads = 1};
    if (sl_backend_create(&p, &b, &err)) {
        printf("FAILED %s: %s\n", p.kind, err.msg);
        failures++;
        return;
    }
    sl_backend_enter(b);
    expect(sl_backend_measure(b) == 50e9, "the bandwidth that a card is held to");
    sl_backend_destroy(b);
}

int main(void)
{
    int n = 0;
    words();
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
        printf("skipped: there is no NVIDIA GPU here\n");
        return failures ? 1 : 77;
    }
    share(100);
    share(40);
    share(10);
    pace();
    backend();
    printf("%s\n", failures ? "FAILED" : "passed");
    return failures != 0;
}
