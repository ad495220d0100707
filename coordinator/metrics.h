/* metrics.h - what the front ends observe, and /metrics as text for Prometheus.
 *
 * Names and the label model_name are vLLM's with the prefix "sluice:", so that existing dashboards
 * need one search and replace. Requests of both front ends are observed here; what the coordinator
 * counts itself (tokens, blocks, stages) is taken from its status when somebody asks. Everything
 * runs on the loop thread. */
#ifndef SL_COORDINATOR_METRICS_H
#define SL_COORDINATOR_METRICS_H

#include <stdint.h>

#include "base/buf.h"
#include "coordinator/coord.h"

#ifdef __cplusplus
extern "C" {
#endif

struct sl_service;

#define SL_HIST_BUCKETS_MAX 24
#define SL_METRICS_MAX (1u << 20) /* bytes of the text */

/* A histogram with fixed upper bounds, in seconds. */
struct sl_hist {
    int n;                                    /* bounds; counts[n] is what is above the last one */
    const double *bounds;                     /* static */
    uint64_t counts[SL_HIST_BUCKETS_MAX + 1]; /* of each bucket alone, not cumulated */
    uint64_t total;
    double sum;
};

struct sl_metrics {
    struct sl_hist ttft, itl, e2e, queue;
    uint64_t success[3]; /* by enum sl_finish: stop, length, cancelled */
    uint64_t failed;     /* ended with an error after being accepted */
    uint64_t refused;    /* not accepted: queue full, too long, not serving */
    uint64_t unauthorised;
};

void sl_metrics_init(struct sl_metrics *m);
void sl_hist_observe(struct sl_hist *h, double seconds);

/* The metrics of this process: both front ends write here, /metrics shows it. */
struct sl_metrics *sl_metrics_process(void);

/* One request under way, as its front end sees it. Times are nanoseconds of base/env.h. */
struct sl_track {
    uint64_t submit_ns, last_ns; /* last_ns 0: no token yet */
};
void sl_track_start(struct sl_track *t, uint64_t now_ns);
/* Observes one reply of the service (TOKEN, DONE, FAIL; others are ignored). */
void sl_track_reply(struct sl_metrics *m, struct sl_track *t, const struct sl_effect *reply,
                    uint64_t now_ns);
/* The front end cancelled it. */
void sl_track_cancel(struct sl_metrics *m, struct sl_track *t);

/* Appends the whole text. 0, SL_ELIMIT or SL_ENOMEM. */
int sl_metrics_write(const struct sl_metrics *m, const struct sl_service *s, struct sl_buf *out);

#ifdef __cplusplus
}
#endif
#endif
