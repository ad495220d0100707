/* plan.h - which layers run where: the cut of a model into stages.
 *
 * Pure: sizes and facts in, a plan out, the same for the same input. This version cuts in
 * proportion to measured speed within memory, honouring pinned ranges; embedding and output matrix
 * are costs of the first and last stage. The planner of docs/decisions grows behind this header. */
#ifndef SL_TOPOLOGY_PLAN_H
#define SL_TOPOLOGY_PLAN_H

#include "topology/cluster.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SL_MICRO_BATCHES_MAX 128 /* in flight */

/* The model, in bytes. */
struct sl_plan_model {
    int n_layers;
    const uint64_t *layer_bytes; /* [n_layers] weights of each layer */
    uint64_t embed_bytes;        /* stored by the first stage, hardly read */
    uint64_t head_bytes; /* final norm and output matrix: stored and read by the last stage (may be
                            the embedding again) */
    uint64_t kv_bytes_per_token; /* of one layer, K and V */
};

/* One device as it turned out to be. */
struct sl_plan_device {
    uint64_t memory_bytes;    /* for weights and KV, reserve already taken off */
    double bandwidth;         /* bytes per second, > 0 */
    int layer_from, layer_to; /* pinned, or -1 */
};

/* What the plan must serve. */
struct sl_plan_load {
    int context;       /* tokens of the longest sequence */
    int context_least; /* not 0: when memory is short, plan for a shorter one, down to this */
    int sequences;     /* concurrent */
    int block_tokens;  /* of a KV block */
    int micro_batches; /* 0 = choose */
    int chunk;         /* 0 = choose */
    int max_rows;      /* upper limit for rows of a micro-batch */
};

struct sl_plan_stage {
    int device;               /* index into the devices given */
    int layer_from, layer_to; /* [from, to), never empty */
    uint64_t weight_bytes;    /* with embedding or head */
    uint64_t kv_bytes;        /* for n_blocks */
    double step_ns;           /* predicted time of one decode step */
};

struct sl_plan {
    int n_stages;
    struct sl_plan_stage stages[SL_DEVICES_MAX]; /* in pipeline order */
    int context;                                 /* of the load, or what fits */
    int n_blocks; /* KV blocks on every stage: what the poorest can hold, at most what the load can
                     use */
    int micro_batches; /* in flight */
    int chunk;         /* prefill tokens in one micro-batch */
    int max_rows;
    double tokens_per_s_1,
        tokens_per_s_n; /* predicted decode speed, one sequence and `sequences` */
};

/* 0; SL_EINPUT for contradictory pins (overlap, gap, out of range: names the device); SL_ELIMIT
 * when it does not fit: the message says which device is how many bytes short and what to change.
 * Devices that would get no layer are left out. */
int sl_plan_make(const struct sl_plan_model *m, const struct sl_plan_device *d,
                 const char *const *names, int n_devices, const struct sl_plan_load *load,
                 struct sl_plan *out, struct sl_err *err);

/* The stage table for people: stage, device, layers, weights, KV, predicted step. */
void sl_plan_print(const struct sl_plan *p, const char *const *names, FILE *out);

#ifdef __cplusplus
}
#endif
#endif
