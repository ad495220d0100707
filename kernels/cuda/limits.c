/* limits.c - holding a card back.
 *
 * Multiprocessors: a green context of the driver (CUDA driver API, "Green Contexts") with a stream
 * of its own; kernels launched there, also from recorded graphs, stay on its share. Shares are cut
 * from the front of a card: two shares of one card overlap. The driver rounds a share up to whole
 * groups (8 multiprocessors on Hopper).
 *
 * Memory: operations tell how many bytes of weights they read, and a step's last kernel waits until
 * those would have come at the wanted speed. Caches are not counted, they are the smaller part of
 * what tests do. */
#include "kernels/cuda/limits.h"

#include <cuda.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"

#define GREEN_VERSION 12050 /* CUDA that has all of this */

/* ---- the words ------------------------------------------------------------------------------- */

int sl_cuda_limits_read(const char *text, struct sl_cuda_limits *out, struct sl_err *err)
{
    const char *at = text;
    *out = (struct sl_cuda_limits){0};
    while (*at == ',') {
        char *end;
        if (strncmp(at, ",sm=", 4) == 0) {
            long v = strtol(at + 4, &end, 10);
            if (end == at + 4 || v < 1 || v > 100) break;
            out->sm_percent = (int)v;
        } else if (strncmp(at, ",bandwidth=", 11) == 0) {
            double v = strtod(at + 11, &end);
            if (end == at + 11 || !(v >= 1e6 && v <= 1e15)) break;
            out->bandwidth = v;
        } else {
            break;
        }
        at = end;
    }
    if (*at == 0) return 0;
    return sl_err_set(err, SL_EINPUT,
                      "'%s' is no limit of a card; write cuda:0,sm=40,bandwidth=1.2e12 (percent of "
                      "the multiprocessors, bytes per second)",
                      text);
}

/* ---- the share ------------------------------------------------------------------------------- */

/* Of libcuda, which is asked through the run-time library: nothing links to the driver itself. */
struct driver {
    CUresult (*resource)(CUdevice, CUdevResource *, CUdevResourceType);
    CUresult (*split)(CUdevResource *, unsigned *, const CUdevResource *, CUdevResource *, unsigned,
                      unsigned);
    CUresult (*describe)(CUdevResourceDesc *, CUdevResource *, unsigned);
    CUresult (*create)(CUgreenCtx *, CUdevResourceDesc, CUdevice, unsigned);
    CUresult (*stream)(CUstream *, CUgreenCtx, unsigned, int);
    CUresult (*destroy)(CUgreenCtx);
    CUresult (*words)(CUresult, const char **);
};

static int driver_find(struct driver *d, struct sl_err *err)
{
    const struct {
        const char *name;
        void *to;
    } all[] = {
        {"cuDeviceGetDevResource", &d->resource},
        {"cuDevSmResourceSplitByCount", &d->split},
        {"cuDevResourceGenerateDesc", &d->describe},
        {"cuGreenCtxCreate", &d->create},
        {"cuGreenCtxStreamCreate", &d->stream},
        {"cuGreenCtxDestroy", &d->destroy},
        {"cuGetErrorString", &d->words},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        enum cudaDriverEntryPointQueryResult found;
        void *f = NULL;
        if (cudaGetDriverEntryPointByVersion(all[i].name, &f, GREEN_VERSION, cudaEnableDefault,
                                             &found) != cudaSuccess ||
            found != cudaDriverEntryPointSuccess || !f) {
            cudaGetLastError();
            return sl_err_set(err, SL_EUNSUPPORTED,
                              "this NVIDIA driver cannot give a share of a card's multiprocessors "
                              "(no %s); leave sm out, or install a driver for CUDA 12.5 or later",
                              all[i].name);
        }
        memcpy(all[i].to, &f, sizeof f);
    }
    return 0;
}

static int share_open(struct sl_cuda_held *h, struct sl_cuda *c, int percent, int priority,
                      struct sl_err *err)
{
    struct driver d;
    CUdevResource all, share, rest;
    CUdevResourceDesc desc;
    CUgreenCtx context;
    CUstream stream;
    unsigned groups = 1;
    const char *words = "";
    int rc = driver_find(&d, err);
    if (rc) return rc;
    CUresult r = d.resource(c->device, &all, CU_DEV_RESOURCE_TYPE_SM);
    if (r == CUDA_SUCCESS) {
        unsigned want = (all.sm.smCount * (unsigned)percent + 99) / 100;
        r = d.split(&share, &groups, &all, &rest, 0, want);
    }
    if (r == CUDA_SUCCESS) r = d.describe(&desc, &share, 1);
    if (r == CUDA_SUCCESS) r = d.create(&context, desc, c->device, CU_GREEN_CTX_DEFAULT_STREAM);
    if (r == CUDA_SUCCESS) {
        h->share = context;
        r = d.stream(&stream, context, CU_STREAM_NON_BLOCKING, priority);
    }
    if (r == CUDA_SUCCESS) {
        c->stream = stream;
        c->sms = (int)share.sm.smCount;
        return 0;
    }
    d.words(r, &words);
    return sl_err_set(err, SL_EUNSUPPORTED,
                      "card %d gives no share of %d %% of its multiprocessors: %s", c->device,
                      percent, words);
}

/* ---- life ------------------------------------------------------------------------------------ */

int sl_cuda_held_open(struct sl_cuda_held *h, struct sl_cuda *c, const struct sl_cuda_limits *l,
                      int priority, struct sl_err *err)
{
    *h = (struct sl_cuda_held){.bandwidth = l->bandwidth};
    cudaFree(NULL); /* the card's context must be there before the driver is asked */
    if (l->sm_percent > 0 && l->sm_percent < 100) {
        int r = share_open(h, c, l->sm_percent, priority, err);
        if (r) return r;
    } else {
        cudaStreamCreateWithPriority(&c->stream, cudaStreamNonBlocking, priority);
    }
    if (h->bandwidth > 0) cudaMalloc((void **)&h->began, sizeof *h->began);
    return sl_cuda_check("opening the card", err);
}

void sl_cuda_held_close(struct sl_cuda_held *h, struct sl_cuda *c)
{
    struct driver d;
    if (c->stream) cudaStreamDestroy(c->stream);
    c->stream = NULL;
    cudaFree(h->began);
    if (h->share && driver_find(&d, NULL) == 0) d.destroy(h->share);
    *h = (struct sl_cuda_held){0};
}

/* ---- steps ----------------------------------------------------------------------------------- */

void sl_cuda_held_begin(struct sl_cuda_held *h, struct sl_cuda *c)
{
    h->read = 0;
    if (h->began) sl_cuda_pace_begin(c, h->began);
}

void sl_cuda_held_end(struct sl_cuda_held *h, struct sl_cuda *c)
{
    if (h->began) sl_cuda_pace_end(c, h->began, (uint64_t)((double)h->read / h->bandwidth * 1e9));
}
