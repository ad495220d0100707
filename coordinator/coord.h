/* coord.h - the coordinator's brain: one pure step, event in, effects out.
 *
 * No I/O, no clock, no chance of its own: the loop (service.c) and the simulator drive the same
 * code. It binds members  which stages live, are loading, wired (members.c)       blocks  KV block
 * allocator (blocks.c) request  life of one request: tokens, text, stop rules (request.c)   sched
 * which sequences form the next micro-batch (sched.c) A stage number is an index into the devices
 * of the topology file until the plan leaves some out; "stage" below means the device index, the
 * plan gives its place in the pipeline. */
#ifndef SL_COORDINATOR_COORD_H
#define SL_COORDINATOR_COORD_H

#include <stdint.h>

#include "base/err.h"
#include "proto/batch.h"
#include "topology/plan.h"

#ifdef __cplusplus
extern "C" {
#endif

struct sl_tokenizer;
struct sl_coord;

#define SL_STOPS_MAX 16     /* stop strings of one request */
#define SL_STOP_LEN_MAX 256 /* bytes of one stop string */
#define SL_MARKS_MAX 16     /* special tokens of one request whose text is shown */
/* A stage that dies more often than this within the window takes the cluster with it. */
#define SL_RESTARTS_MAX 5
#define SL_RESTART_WINDOW_NS 60000000000ull
/* A micro-batch that has been on its way for longer than all three of these is overdue: the service
 * then looks for the stage that neither answers nor moves (control.c). The last two grow with slow
 * devices and large models: times the longest that any micro-batch of this pipeline took, and times
 * the plan's decode step (weights read once) for every row in flight, as if one by one. */
#define SL_STALL_NS 30000000000ull
#define SL_STALL_LONGEST 4
#define SL_STALL_PREDICTED 1

struct sl_coord_params {
    struct sl_plan_model model;
    int n_vocab;
    int far_from;   /* longer sequences use LongRoPE's far frequencies; 0: the model has none */
    int n_adapters; /* LoRA adapters that every stage loads */
    int n_devices;
    const char *const *names; /* [n_devices] for messages */
    const struct sl_plan_device
        *hints; /* [n_devices] what the file says: 0 = take what the stage measured */
    const unsigned char
        *restartable;         /* [n_devices] 1 = we can start it again (local, ssh, thread) */
    struct sl_plan_load load; /* context is resolved already (> 0) */
    int queue_max;            /* requests waiting beyond the running ones: more is SL_EBUSY */
    const struct sl_tokenizer
        *tokenizer; /* for text and stop strings; NULL: ids only (simulator) */
};

/* ---- events ---------------------------------------------------------------------------------- */

enum sl_finish { SL_FINISH_STOP, SL_FINISH_LENGTH, SL_FINISH_CANCELLED };

struct sl_submit {
    uint64_t id;           /* unique, not 0 */
    const int32_t *tokens; /* copied */
    int n_tokens;          /* >= 1 */
    int max_tokens; /* answer tokens, 0 = to the end of the context or of the cache, whichever comes
                       first */
    struct sl_sampling sampling;
    const char *stops[SL_STOPS_MAX]; /* copied */
    int n_stops;
    int32_t marks[SL_MARKS_MAX]; /* special tokens whose text is part of the answer's: the marks of
                                    tool calls and reasoning; the others stay hidden */
    int n_marks;
    int ignore_eos;
    int priority; /* higher first */
    int adapter;  /* 0 the model itself, else 1 + number of a LoRA adapter */
    int score;    /* no generation: report log p of every prompt token but the first */
    int logits;   /* no generation: report logits of every prompt position */
};

enum sl_event_kind {
    SL_EV_JOINED, /* device: a stage process said hello; facts */
    SL_EV_READY,  /* device: weights loaded, n_blocks reserved */
    SL_EV_WIRED,  /* device: links open under `epoch` */
    SL_EV_DOWN,   /* device: connection lost, process gone or heartbeat silent; message why */
    SL_EV_SUBMIT,
    SL_EV_CANCEL,  /* id */
    SL_EV_RESULTS, /* the last stage's answer to micro-batch `slot` of `epoch` */
    SL_EV_TICK,    /* time passes (timeouts, restarts); every 100 ms or so */
    SL_EV_DRAIN    /* no new requests; SL_FX_DRAINED when the last one has ended */
};

struct sl_event {
    enum sl_event_kind kind;
    uint64_t now_ns; /* monotonic, never goes back */
    int device;
    union {
        struct {
            uint64_t memory_bytes;
            double bandwidth;
        } joined;
        struct {
            uint32_t n_blocks;
        } ready;
        struct {
            uint32_t epoch;
        } wired;
        struct {
            const char *message;
        } down;
        const struct sl_submit *submit;
        uint64_t cancel_id;
        struct {
            uint32_t epoch;
            uint64_t slot;
            const struct sl_results *results;
        } results;
    };
};

/* ---- effects --------------------------------------------------------------------------------- */

struct sl_timings {
    uint64_t queue_ns, prefill_ns,
        decode_ns; /* submitted -> first chunk sent -> first token -> end */
};

enum sl_effect_kind {
    SL_FX_LAUNCH, /* device: start the stage process (again) */
    SL_FX_LOAD,   /* device: tell it to load load.stage, layers ... */
    SL_FX_WIRE, /* all planned stages (one effect, device -1): open links, epoch `wire.epoch`, route
                   in plan order */
    SL_FX_BATCH,   /* send micro-batch to the first stage */
    SL_FX_TOKEN,   /* request: one more token and the text that may be shown (may be empty; is, for
                      the token that ends) */
    SL_FX_SCORED,  /* request: log-probabilities or logits of prompt rows, in order, each row once;
                      DONE (STOP) follows the last */
    SL_FX_DONE,    /* request ended well */
    SL_FX_FAIL,    /* request or (id 0) the whole cluster failed */
    SL_FX_SERVING, /* the pipeline works (again) */
    SL_FX_BROKEN,  /* the pipeline stopped: a stage died; device, fail.code and fail.message; its
                      requests' FAILs follow */
    SL_FX_DRAINED,
    SL_FX_STALLED /* micro-batch stalled.slot of stalled.epoch is overdue: find out which stage has
                   * not done it and say DOWN for it; repeated with every TICK until that, or the
                   * answer, comes */
};

struct sl_effect {
    enum sl_effect_kind kind;
    int device;
    uint64_t id; /* request */
    union {
        struct {
            int stage, n_stages, layer_from, layer_to;
            uint32_t n_blocks;
            uint64_t memory_bytes;
        } load;
        struct {
            uint32_t epoch;
        } wire;
        struct {
            uint32_t epoch;
            uint64_t slot;
            const struct sl_batch *batch;
        } batch;
        struct {
            int32_t token;
            const char *text;
            size_t text_len;
            const struct sl_sampled *sampled;
        } token;
        const struct sl_scored *scored;
        struct {
            enum sl_finish reason;
            int prompt_tokens, completion_tokens;
            const char *text;
            size_t text_len; /* held-back rest */
            struct sl_timings timings;
        } done;
        struct {
            int code;
            const char *message;
        } fail;
        struct {
            uint32_t epoch;
            uint64_t slot, age_ns;
        } stalled;
    };
};

/* Effects of one step; valid until the next step (the batch, texts and messages too). The arrays of
 * `scored` are those of the event's results and live as long as these. */
struct sl_effects {
    struct sl_effect *v;
    size_t len;
};

int sl_coord_create(const struct sl_coord_params *p, struct sl_coord **out, struct sl_err *err);
void sl_coord_destroy(struct sl_coord *c);

/* Call once with SL_EV_TICK to begin: it asks for every device's launch. Always fills *out. A
 * SUBMIT that is refused (queue full SL_EBUSY, too long SL_ELIMIT, draining or cluster failed
 * SL_ERETRY) is an SL_FX_FAIL for its id. */
void sl_coord_step(struct sl_coord *c, const struct sl_event *in, struct sl_effects *out);

/* ---- state for people ------------------------------------------------------------------------ */

enum sl_member_state {
    SL_MEMBER_ABSENT,
    SL_MEMBER_JOINED,
    SL_MEMBER_LOADING,
    SL_MEMBER_READY,
    SL_MEMBER_WIRED,
    SL_MEMBER_LEFT_OUT
};
const char *sl_member_state_name(enum sl_member_state s);

struct sl_coord_status {
    int serving, draining, failed;
    uint32_t epoch;
    int running, waiting; /* requests */
    int blocks_total, blocks_free;
    int in_flight; /* micro-batches */
    uint64_t
        work_ns; /* time with at least one request running: what a bubble is measured against */
    uint64_t prompt_tokens, generated_tokens, batches, preemptions, finished, failed_requests,
        cancelled, refused;
    enum sl_member_state members[SL_DEVICES_MAX];
    int restarts[SL_DEVICES_MAX];
};
void sl_coord_get_status(const struct sl_coord *c, uint64_t now_ns, struct sl_coord_status *out);
/* The current plan; NULL before all stages have joined. */
const struct sl_plan *sl_coord_plan(const struct sl_coord *c);

/* Checks every invariant that can be seen from the inside, by assertion; slow, for tests. */
void sl_coord_audit(const struct sl_coord *c);

#ifdef __cplusplus
}
#endif
#endif
