/* nccl.c - lanes over NCCL: per edge and epoch a communicator of two ranks, the receiver 0, the
 * sender 1.
 *
 * Everything is non-blocking (config.blocking = 0): a call may answer ncclInProgress, and nothing
 * else may be done with that communicator or its stream until ncclCommGetAsyncError says otherwise.
 * The lane thread asks; a lane is therefore a small state machine:
 *
 *   start    ncclCommInitRankConfig
 *   ready    CONNECTING until the ranks have met; then PROBING: PROBE_BYTES go over, for NCCL
 *            connects two ranks at their first transfer and a lane that cannot carry anything is
 *            better noticed before it is trusted with a payload
 *   begin    ncclSend or ncclRecv; while it is in progress the next begin says SL_EAGAIN
 *   done     the call has gone through: an event behind it in the stream; the event has come to
 * pass stop     ncclCommAbort: kernels that wait for a dead peer give up (NCCL itself has no
 * time-outs and does not notice deaths over NVLink and shared memory; the control plane does)
 *
 * NCCL allows one thread per communicator at a time: the lane thread. Sends and receives of two
 * edges of a card are on two communicators and two streams, and a kernel of NCCL only ever waits
 * for its peer's, which is begun when the frame's descriptor arrives: a chain of stages cannot wait
 * in a circle. max_ctas keeps NCCL from taking multiprocessors away from the layers; two are enough
 * for a decode step's payload, which is a matter of latency. */
#include <cuda_runtime_api.h>
#include <nccl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/sl_assert.h"
#include "transport/gpu.h"
#include "transport/versions.h"

#define GPUS_MAX 16
#define MAX_CTAS 2 /* multiprocessors a transfer may use */
#define PROBE_BYTES 256
/* Two H200s of one host: 65 us one way for payloads up to 128 KiB, of which NCCL's non-blocking
 * calls are most; a frame over shared memory takes 10 to 22 us and two copies of about 10. */
#define LEAST_BYTES (256u << 10)

struct lane_address {
    uint32_t magic, version;
    uint8_t gpu[16]; /* UUID */
    uint8_t zero[20];
    uint32_t sum; /* XXH32 with 0 here */
    ncclUniqueId id;
};
#define ADDRESS_MAGIC 0x314c434eu /* "NCL1" in memory order */
_Static_assert(sizeof(struct lane_address) == 176, "docs/wire.md");
_Static_assert(sizeof(struct lane_address) <= SL_LANE_ADDRESS_MAX, "it fits a port's address");

struct card {
    int gpu;
    struct sl_lane_kind kind;
};

enum phase { CONNECTING, PROBING, UP };

struct nccl_lane {
    struct card *card;
    int sends;
    enum phase phase;
    ncclComm_t comm;
    cudaStream_t stream;
    void *probe;
    cudaEvent_t events[SL_LANE_WINDOW];
    int called[SL_LANE_WINDOW]; /* the call for this place has gone through and its event stands */
    int calling;                /* place whose call is in progress, -1: none */
};

static int nccl_error(struct sl_err *err, const struct nccl_lane *c, const char *what,
                      ncclResult_t r)
{
    const char *more = c && c->comm ? ncclGetLastError(c->comm) : "";
    return sl_err_set(err, r == ncclRemoteError ? SL_ECLOSED : SL_ESYS, "NCCL: %s: %s%s%s", what,
                      ncclGetErrorString(r), more && *more ? "; " : "", more ? more : "");
}

static int cuda_error(struct sl_err *err, const char *what, cudaError_t e)
{
    cudaGetLastError(); /* it has been told */
    return sl_err_set(err, SL_ESYS, "NCCL lane: %s: %s", what, cudaGetErrorString(e));
}

/* ---- addresses ------------------------------------------------------------------------------- */

static uint32_t sum_of(struct lane_address a)
{
    a.sum = 0;
    return XXH32(&a, sizeof a, 0);
}

static int card_uuid(int gpu, uint8_t out[16], struct sl_err *err)
{
    struct cudaDeviceProp p;
    cudaError_t e = cudaGetDeviceProperties(&p, gpu);
    if (e != cudaSuccess) return cuda_error(err, "the card's properties", e);
    memcpy(out, p.uuid.bytes, 16);
    return 0;
}

static int make_address(void *arg, uint8_t *out, struct sl_err *err)
{
    const struct card *card = arg;
    struct lane_address a = {.magic = ADDRESS_MAGIC};
    int version = 0;
    ncclResult_t r = ncclGetVersion(&version);
    if (r == ncclSuccess) r = ncclGetUniqueId(&a.id);
    if (r != ncclSuccess) return nccl_error(err, NULL, "making an id", r);
    a.version = (uint32_t)version;
    int rc = card_uuid(card->gpu, a.gpu, err);
    if (rc) return rc;
    a.sum = sum_of(a);
    memcpy(out, &a, sizeof a);
    return (int)sizeof a;
}

static int check_address(void *arg, const uint8_t *address, size_t n, struct sl_err *err)
{
    const struct card *card = arg;
    struct lane_address a;
    uint8_t mine[16];
    int version = 0;
    if (n != sizeof a) return sl_err_set(err, SL_EINPUT, "NCCL address of %zu bytes", n);
    memcpy(&a, address, sizeof a);
    if (a.magic != ADDRESS_MAGIC || a.sum != sum_of(a))
        return sl_err_set(err, SL_EINPUT, "not an address of an NCCL lane");
    ncclGetVersion(&version);
    if (a.version != (uint32_t)version)
        return sl_err_set(err, SL_EUNSUPPORTED,
                          "the peer has NCCL version code %u, we have %d; install the same "
                          "everywhere",
                          a.version, version);
    int rc = card_uuid(card->gpu, mine, err);
    if (rc == 0 && memcmp(mine, a.gpu, sizeof mine) == 0)
        rc = sl_err_set(err, SL_EUNSUPPORTED, "NCCL needs two cards, both ends are on one");
    return rc;
}

/* ---- a lane ---------------------------------------------------------------------------------- */

static int attach(void *arg, struct sl_err *err)
{
    const struct card *card = arg;
    cudaError_t e = cudaSetDevice(card->gpu);
    return e == cudaSuccess ? 0 : cuda_error(err, "the card", e);
}

/* Ends the communicator, then waits for what it has left in the stream, and frees the rest. */
static void stop(void *conn)
{
    struct nccl_lane *c = conn;
    if (c->comm) ncclCommAbort(c->comm);
    if (c->stream) {
        cudaStreamSynchronize(c->stream);
        cudaStreamDestroy(c->stream);
    }
    for (int i = 0; i < SL_LANE_WINDOW; i++)
        if (c->events[i]) cudaEventDestroy(c->events[i]);
    cudaFree(c->probe);
    cudaGetLastError();
    free(c);
}

static cudaError_t make_stream(struct nccl_lane *c)
{
    int least, greatest;
    cudaError_t e = cudaDeviceGetStreamPriorityRange(&least, &greatest);
    if (e == cudaSuccess)
        e = cudaStreamCreateWithPriority(&c->stream, cudaStreamNonBlocking, greatest);
    if (e == cudaSuccess) e = cudaMalloc(&c->probe, PROBE_BYTES);
    for (int i = 0; e == cudaSuccess && i < SL_LANE_WINDOW; i++)
        e = cudaEventCreateWithFlags(&c->events[i], cudaEventDisableTiming);
    return e;
}

static int start(void *arg, const uint8_t *address, size_t n, int sends, void **conn,
                 struct sl_err *err)
{
    struct nccl_lane *c = calloc(1, sizeof *c);
    struct lane_address a;
    SL_ASSERT(n == sizeof a);
    memcpy(&a, address, sizeof a);
    if (!c) return sl_err_set(err, SL_ENOMEM, "no memory for an NCCL lane");
    c->card = arg;
    c->sends = sends;
    c->calling = -1;
    cudaError_t e = make_stream(c);
    if (e != cudaSuccess) {
        cuda_error(err, "its stream", e);
        stop(c);
        return SL_ESYS;
    }
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.minCTAs = 1;
    config.maxCTAs = MAX_CTAS;
    ncclResult_t r = ncclCommInitRankConfig(&c->comm, 2, a.id, sends, &config);
    if (r != ncclSuccess && r != ncclInProgress) {
        nccl_error(err, c, "starting a communicator", r);
        stop(c);
        return SL_ESYS;
    }
    *conn = c;
    return 0;
}

/* 1: the last call has gone through; 0: not yet. */
static int settled(struct nccl_lane *c, struct sl_err *err)
{
    ncclResult_t state = ncclSuccess, r = ncclCommGetAsyncError(c->comm, &state);
    if (r != ncclSuccess) return nccl_error(err, c, "asking for its state", r);
    if (state == ncclInProgress) return 0;
    if (state == ncclSuccess) return 1;
    return nccl_error(err, c, c->phase == CONNECTING ? "meeting the other side" : "in use", state);
}

/* Puts the place's event behind the call that has gone through. */
static int mark(struct nccl_lane *c, int place, struct sl_err *err)
{
    cudaError_t e = cudaEventRecord(c->events[place], c->stream);
    if (e != cudaSuccess) return cuda_error(err, "an event", e);
    c->called[place] = 1;
    c->calling = -1;
    return 0;
}

static int call(struct nccl_lane *c, int place, void *data, size_t n, struct sl_err *err)
{
    int peer = !c->sends;
    ncclResult_t r = c->sends ? ncclSend(data, n, ncclUint8, peer, c->comm, c->stream)
                              : ncclRecv(data, n, ncclUint8, peer, c->comm, c->stream);
    if (r != ncclSuccess && r != ncclInProgress)
        return nccl_error(err, c, c->sends ? "sending" : "receiving", r);
    c->called[place] = 0;
    c->calling = place;
    return r == ncclSuccess ? mark(c, place, err) : 0;
}

/* 1: the call in progress, if there is one, has gone through. */
static int advance(struct nccl_lane *c, struct sl_err *err)
{
    if (c->calling < 0) return 1;
    int r = settled(c, err);
    if (r <= 0) return r;
    r = mark(c, c->calling, err);
    return r ? r : 1;
}

static int done(void *conn, int place, struct sl_err *err)
{
    struct nccl_lane *c = conn;
    int r = advance(c, err);
    if (r < 0 || !c->called[place]) return r < 0 ? r : 0;
    cudaError_t e = cudaEventQuery(c->events[place]);
    if (e == cudaSuccess) return 1;
    if (e != cudaErrorNotReady) return cuda_error(err, "a transfer", e);
    if (r == 0) return 0; /* in progress: asked already */
    r = settled(c, err);
    return r < 0 ? r : 0;
}

static int begin(void *conn, int place, void *data, size_t n, struct sl_err *err)
{
    struct nccl_lane *c = conn;
    int r = advance(c, err);
    if (r <= 0) return r < 0 ? r : SL_EAGAIN;
    return call(c, place, data, n, err);
}

static int ready(void *conn, struct sl_err *err)
{
    struct nccl_lane *c = conn;
    int r;
    if (c->phase == CONNECTING) {
        r = settled(c, err);
        if (r <= 0) return r;
        r = call(c, 0, c->probe, PROBE_BYTES, err);
        if (r) return r;
        c->phase = PROBING;
    }
    r = done(c, 0, err);
    if (r == 1) c->phase = UP;
    return r;
}

static struct card cards[GPUS_MAX];
static pthread_once_t cards_once = PTHREAD_ONCE_INIT;

static void make_cards(void)
{
    for (int i = 0; i < GPUS_MAX; i++)
        cards[i] = (struct card){i,
                                 {.name = "nccl",
                                  .least = LEAST_BYTES,
                                  .arg = &cards[i],
                                  .attach = attach,
                                  .make_address = make_address,
                                  .check_address = check_address,
                                  .start = start,
                                  .ready = ready,
                                  .begin = begin,
                                  .done = done,
                                  .stop = stop}};
}

const struct sl_lane_kind *sl_nccl_lanes(int gpu)
{
    pthread_once(&cards_once, make_cards);
    return gpu >= 0 && gpu < GPUS_MAX ? &cards[gpu].kind : NULL;
}

int sl_nccl_version(void)
{
    int version = 0;
    return ncclGetVersion(&version) == ncclSuccess ? version : 0;
}
