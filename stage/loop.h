/* loop.h - a stage at work: control connection, data ports and links on a libuv loop, the step on a
 * compute thread.
 *
 * Two bounded queues and a uv_async each way join the two threads. */
#ifndef SL_STAGE_LOOP_H
#define SL_STAGE_LOOP_H

#include <stdint.h>

#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

struct uv_loop_s;
struct sl_stage_loop;

#define SL_STAGE_QUEUE_MAX                                                                         \
    256 /* micro-batches waiting for the compute thread; the coordinator keeps far fewer in flight \
         */

struct sl_stage_loop_params {
    const char *device; /* topology name, "" for any */
    const char *join_key;
    const char *backend; /* kernels row, "cpu" by default */
    const int *cpus;     /* logical CPUs of the compute threads; NULL: all this process may use */
    int n_cpus;
    uint64_t memory_bytes; /* limit, 0 = what the host has free */
    const char *ports;     /* transports to offer, NULL = all that work */
    double bandwidth;      /* measured elsewhere; 0 = measure now */
    /* The stage has ended: told to (err NULL), lost its coordinator or failed. */
    void (*on_end)(void *arg, const struct sl_err *err);
    void *arg;
};

/* `fd` is a connected stream socket to the coordinator; the stage owns it from now on. */
int sl_stage_loop_start(struct uv_loop_s *loop, const struct sl_stage_loop_params *p, int fd,
                        struct sl_stage_loop **out, struct sl_err *err);
/* Stops and frees everything; on_end has been called or is not called any more. Asynchronous:
 * done(arg) at the end. */
void sl_stage_loop_stop(struct sl_stage_loop *s, void (*done)(void *arg), void *arg);

#ifdef __cplusplus
}
#endif
#endif
