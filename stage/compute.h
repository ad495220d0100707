/* compute.h - the compute thread of a stage: it owns the backend and the weights and runs steps in
 * the order given.
 *
 * The loop thread puts work in and takes outcomes out; `wake` is called from the compute thread
 * whenever there is something to take (the loop points it at uv_async_send). Both queues are
 * bounded. */
#ifndef SL_STAGE_COMPUTE_H
#define SL_STAGE_COMPUTE_H

#include "proto/control.h"
#include "stage/stage.h"

#ifdef __cplusplus
extern "C" {
#endif

struct sl_compute;

enum sl_outcome_kind {
    SL_OUTCOME_PROGRESS, /* bytes of weights loaded so far */
    SL_OUTCOME_LOADED,
    SL_OUTCOME_FRAME, /* a step is done: send it on; the taker owns it */
    SL_OUTCOME_FAILED /* load or step failed: the stage is of no more use */
};

struct sl_outcome {
    enum sl_outcome_kind kind;
    uint64_t done, total;
    struct sl_stage_info info; /* berths: shared, the taker releases them */
    uint64_t load_ns;
    struct sl_frame *frame;
    struct sl_err err;
};

/* Frees what the outcome holds. */
void sl_outcome_drop(const struct sl_outcome *o);

struct sl_compute_stats {
    uint64_t busy_ns, steps, rows;
    uint64_t layers; /* run in all steps, also of the one under way */
    uint32_t queued; /* micro-batches waiting */
};

/* Takes the backend over: it is destroyed with the thread. */
int sl_compute_start(struct sl_backend *b, void (*wake)(void *arg), void *arg,
                     struct sl_compute **out, struct sl_err *err);
/* Waits for the step under way, gives a load under way up; queued work is dropped. */
void sl_compute_stop(struct sl_compute *c);

/* Loads (again: a loaded stage is dropped first). Strings are copied. 0, SL_EBUSY or SL_ENOMEM. */
int sl_compute_load(struct sl_compute *c, const struct sl_stage_params *p);
/* Takes the frame in every case. 0, or SL_EBUSY when SL_STAGE_QUEUE_MAX micro-batches wait already.
 */
int sl_compute_step(struct sl_compute *c, struct sl_frame *f);
/* From here on only frames of `epoch` are run, all sequences are forgotten, and activations are
 * sent on as `send_as`. */
int sl_compute_reset(struct sl_compute *c, uint32_t epoch, enum sl_dtype send_as);

/* One outcome, if there is one: 1, else 0. */
int sl_compute_take(struct sl_compute *c, struct sl_outcome *out);
void sl_compute_get_stats(struct sl_compute *c, struct sl_compute_stats *out);
/* Moves the step records made since the last call to out, oldest first, at most max; returns the
 * count. */
int sl_compute_take_steps(struct sl_compute *c, struct sl_ctl_step *out, int max);

#ifdef __cplusplus
}
#endif
#endif
