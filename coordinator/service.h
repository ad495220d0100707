/* service.h - the coordinator at work: it owns the brain (coord.h), the stages' control
 * connections, the data port and the processes, and turns libuv's events into steps and effects
 * into I/O. Front ends (socket API, HTTP, the command line) use only this header. Everything runs
 * on one loop thread. */
#ifndef SL_COORDINATOR_SERVICE_H
#define SL_COORDINATOR_SERVICE_H

#include <stdint.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/err.h"
#include "coordinator/coord.h"
#include "topology/cluster.h"

#ifdef __cplusplus
extern "C" {
#endif

struct uv_loop_s;
struct json_t;
struct sl_service;
struct sl_tokenizer;
struct sl_chat;
struct sl_config;
struct sl_weights;

struct sl_service_params {
    const struct sl_cluster *cluster; /* outlives the service */
    const char *program;              /* path of this executable, for children */
    /* Starts a stage inside this process (launch: thread) that speaks control over `fd`; the
     * command line supplies it, since the coordinator knows no stages. */
    int (*start_thread)(void *arg, struct uv_loop_s *loop, const struct sl_device *device,
                        const char *join_key, int fd, struct sl_err *err);
    void *start_thread_arg;
    /* The pipeline serves for the first time, or has failed for good (err != NULL). */
    void (*on_state)(void *arg, const struct sl_err *err);
    void *on_state_arg;
};

int sl_service_start(struct uv_loop_s *loop, const struct sl_service_params *p,
                     struct sl_service **out, struct sl_err *err);
/* Refuses new requests, lets the running ones end, tells the stages to leave, closes everything,
 * calls done(arg). With now != 0 running requests are failed at once. */
void sl_service_stop(struct sl_service *s, int now, void (*done)(void *arg), void *arg);
void sl_service_destroy(struct sl_service *s); /* after done */

/* ---- requests -------------------------------------------------------------------------------- */

/* A reply is an effect of kind TOKEN, SCORED, DONE or FAIL; DONE and FAIL are the last. Pointers
 * are valid during the call. The callee may call sl_service_submit and sl_service_cancel. */
typedef void (*sl_reply_fn)(void *arg, const struct sl_effect *reply);

/* req->id is ignored. The id comes back in *id, before any reply. A refusal comes as return value
 * (SL_EBUSY ...), without a reply. */
int sl_service_submit(struct sl_service *s, const struct sl_submit *req, sl_reply_fn reply,
                      void *arg, uint64_t *id, struct sl_err *err);
/* No reply comes after this returns. */
void sl_service_cancel(struct sl_service *s, uint64_t id);

/* ---- facts ----------------------------------------------------------------------------------- */

int sl_service_is_serving(const struct sl_service *s);
const char *sl_service_model_name(const struct sl_service *s); /* general.name or the file's name */
/* Number of a LoRA adapter by name, from 1; 0: it is none (name may be NULL). */
int sl_service_find_adapter(const struct sl_service *s, const char *name);
const struct sl_config *sl_service_config(const struct sl_service *s);
const struct sl_tokenizer *sl_service_tokenizer(const struct sl_service *s);
/* Templates and answer style; NULL: the model has no chat template. */
const struct sl_chat *sl_service_chat(const struct sl_service *s);
const struct sl_weights *sl_service_weights(const struct sl_service *s); /* metadata of the model */
int sl_service_context(const struct sl_service *s);                      /* tokens */
const struct sl_cluster *sl_service_cluster(const struct sl_service *s);
void sl_service_get_status(const struct sl_service *s, struct sl_coord_status *out);

/* One stage as it reports itself. */
struct sl_stage_status {
    const char *device, *cpu, *backend, *transport_out;
    const char *activations;         /* format of what it sends on; NULL: results */
    int stage, layer_from, layer_to; /* stage -1: left out */
    enum sl_member_state state;
    int pid, restarts;
    uint32_t threads;
    uint64_t weight_bytes, kv_bytes, steps, rows, busy_ns, link_frames, link_bytes, link_busy_ns;
    double busy_ratio, bubble_ratio; /* of the time the pipeline had work */
    const char *last_error;          /* NULL when it never failed */
};
int sl_service_stages(const struct sl_service *s, struct sl_stage_status *out,
                      int max); /* count, pipeline order */
/* Recent micro-batches of one pipeline stage, oldest first: the timeline. */
struct sl_ctl_step;
int sl_service_timeline(const struct sl_service *s, int stage, struct sl_ctl_step *out, int max);

/* The /cluster document: name, model, plan, stages, links, requests. New reference. */
struct json_t *sl_service_cluster_json(const struct sl_service *s);
/* The plan as it was made: stage, device, layers, weights, KV, predicted step. Nothing before all
 * stages have joined. */
void sl_service_print_plan(const struct sl_service *s, FILE *out);
/* The stage table for people: layers, memory, busy, bubble. Its head and one row, for those who
 * print it from /cluster: stage, device, state, layers, weights, kv, steps, busy and bubble in
 * percent, bytes sent, transport. */
#define SL_STAGE_HEAD                                                                              \
    "stage  device          state      layers     weights     kv            steps    busy  "       \
    "bubble        sent  link\n"
#define SL_STAGE_ROW "%-5d  %-14s  %-9s  %-9s  %-10s  %-10s  %7llu  %5.1f%%  %5.1f%%  %10s  %s\n"
void sl_service_print(const struct sl_service *s, FILE *out);

#ifdef __cplusplus
}
#endif
#endif
