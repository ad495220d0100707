/* internal.h - what service.c, control.c, join.c, wiring.c and status.c share. Private to
 * coordinator/. */
#ifndef SL_COORDINATOR_INTERNAL_H
#define SL_COORDINATOR_INTERNAL_H

#include <uv.h>

#include "base/map.h"
#include "coordinator/launch.h"
#include "coordinator/service.h"
#include "model/config.h"
#include "proto/control.h"
#include "transport/ctl.h"
#include "transport/hub.h"

#define SL_BLOCK_TOKENS 32      /* tokens of a KV block */
#define SL_MAX_ROWS 512         /* rows of a micro-batch on CPUs: they are as fast with few */
#define SL_CARD_ROWS 4096       /* where one card has the whole model, which wants large products */
#define SL_CARD_ROWS_SPLIT 1024 /* where cards share it: a prompt must keep all of them busy */
#define SL_CARD_SCRATCH_BYTES (320ull << 20) /* that a card's kernels take besides activations */
#define SL_TICK_MS 50                        /* the coordinator's clock event */
#define SL_HELLO_MS 5000  /* an accepted connection must say Hello within this time */
#define SL_JOIN_MS 60000  /* and a process we started must have joined, ssh included */
#define SL_PENDING_MAX 64 /* accepted connections that have not said Hello yet */
#define SL_MOVED_NS                                                                                \
    10000000000ull /* a stage that finished no layer for so long does not work on its micro-batch  \
                    */
#define SL_LOAD_STALL_MS                                                                           \
    300000 /* a stage that loads nothing for so long has a dead disk or network share: the largest \
            * tensors, 2.5 GB, come in one piece; at 10 MB/s that is 250 s. SLUICE_LOAD_STALL sets \
            * another */
#define SL_TIMELINE_MAX 4096 /* step records kept per stage */
#define SL_FREE_PERCENT 90   /* of a host's free memory that its stages may share */
#define SL_CONTEXT_LEAST                                                                           \
    512 /* tokens: a context nobody asked for is lowered to what fits, down to this */
#define SL_CHILD_LEAVE_MS 2000 /* how long a stage told to leave may take before it is killed */

/* What a stage has done. */
struct stage_counts {
    uint64_t busy_ns, steps, rows, link_frames, link_bytes, link_busy_ns;
};

/* One device of the topology file and the stage process that stands for it. */
struct stage_peer {
    struct sl_service *svc;
    int device;
    struct sl_ctl_conn *ctl; /* NULL: not connected */
    void *link_end;          /* what ctl's callbacks get; owned */
    struct sl_child *child;  /* NULL: not started by us, or gone */
    uint64_t heard_ns, launched_ns;
    /* facts of Hello; strings are owned */
    char *host_id, *process_id, *cpu, *backend, *gpu, *transports;
    struct sl_ctl_port ports[SL_HUB_PORTS_MAX]; /* owned, as its Hello or its last Ports said */
    int n_ports;
    int used;      /* these ports have been part of an epoch */
    int reopening; /* told to open others, has not said their addresses */
    int pid;
    uint32_t threads;
    /* facts of Ready and Report */
    struct sl_ctl_ready ready;
    uint64_t loaded_bytes, total_bytes;
    uint64_t loading_ns;             /* told to load, or got further with it; 0: it does not load */
    struct stage_counts now, before; /* of this process, as it last said; of those before it */
    uint64_t memory_bytes; /* what it may use; kept when it comes back, for the plan stays */
    char link_transport[32];
    const char *activations; /* format of what it sends on, NULL: it sends results */
    struct sl_ctl_step *timeline;
    unsigned timeline_at, timeline_len;
    uint64_t layers, moved_ns; /* layers it has run, and when that number last grew: whether it
                                  works on something */
    int plan_stage;            /* place in the pipeline, -1 before the plan and when left out */
    char last_error[SL_ERR_MSG_MAX];
};

/* An accepted connection that has not said Hello. */
struct pending {
    struct sl_service *svc;
    struct sl_ctl_conn *ctl;
    uint64_t since_ns;
    int device; /* known for in-process stages, else -1 */
    struct pending *next;
};

struct reply_to {
    sl_reply_fn fn;
    void *arg;
};

struct deferred {
    struct sl_event ev;
    struct sl_submit submit; /* deep copy when ev.kind is SUBMIT */
    int32_t *tokens;
    char *stops[SL_STOPS_MAX];
    struct deferred *next;
};

struct sl_service {
    uv_loop_t *loop;
    struct sl_service_params p;
    const struct sl_cluster *cluster;
    struct sl_weights *weights;
    struct sl_config config;
    struct sl_tokenizer *tokenizer;
    struct sl_chat *chat; /* NULL: no chat template */
    char model_name[96];
    int context;
    uint64_t workspace_bytes; /* a stage's memory besides weights and KV */
    int max_rows;             /* of a micro-batch */
    uint64_t *layer_bytes;
    struct sl_coord *coord;
    const char *names[SL_DEVICES_MAX];
    struct sl_plan_device hints[SL_DEVICES_MAX]; /* what the topology file says of each */
    unsigned char restartable[SL_DEVICES_MAX];

    struct sl_hub *hub;
    int used;        /* our ports have been part of an epoch */
    uint32_t wiring; /* epoch to wire once all ports are fresh; 0: none */
    uv_tcp_t listener;
    int listening;
    char control[300]; /* "host:port" children join */
    char join_key[65];
    struct pending *pending;
    int n_pending;
    struct stage_peer *peers; /* [n_devices] */
    uv_timer_t tick;
    uint64_t pinged_ns, ticked_ns, load_stall_ns;

    struct sl_map replies; /* request id -> struct reply_to */
    uint64_t next_id;
    int stepping;
    struct deferred *deferred, **deferred_tail;
    struct sl_results_in results;
    struct sl_buf packed;
    uint8_t route[SL_ROUTE_MAX];
    int n_route;

    int serving, failed;
    int stopping;          /* 1: draining, 2: closing */
    uint64_t submitting;   /* request whose SUBMIT is being stepped, 0: none */
    struct sl_err refused; /* why it was refused; code 0 when it was not */
    int open_handles, closed;
    void (*done)(void *arg);
    void *done_arg;
};

/* service.c */
void sl_service_event(struct sl_service *s, struct sl_event *ev); /* stamps the time and steps */
void sl_service_give_up(struct sl_service *s, const struct sl_err *err);

/* control.c: the stages' side of the service. */
int sl_control_start(struct sl_service *s, struct sl_err *err);
void sl_control_close(struct sl_service *s);
void sl_control_tick(struct sl_service *s, uint64_t now_ns);
void sl_control_launch(struct sl_service *s, int device);
void sl_control_load(struct sl_service *s, int device, const struct sl_effect *fx);
/* What a stage that has joined says. */
void sl_control_message(struct stage_peer *p, const struct sl_ctl *m);
/* Micro-batch `slot` is overdue: takes down the first stage, in pipeline order, that has not
 * reported it done. */
void sl_control_stalled(struct sl_service *s, uint64_t slot, uint64_t age_ns);
void sl_control_drain(struct sl_service *s);
/* The stage is gone: forget its connection, kill its process, tell the coordinator's brain. */
void sl_control_down(struct sl_service *s, int device, const char *why);
void sl_peer_close(struct stage_peer *p);

/* join.c: connections that become stages. */
int sl_join_start(struct sl_service *s, struct sl_err *err); /* the join key, and listens */
void sl_join_close(struct sl_service *s);
void sl_join_tick(struct sl_service *s, uint64_t now_ns);
/* Takes the socket in every case. `device` is the one it stands for, -1: its Hello says it. */
int sl_join_add(struct sl_service *s, int fd, int device, struct sl_err *err);
void sl_peer_forget(struct stage_peer *p); /* what its Hello said */

/* wiring.c: links between the stages and us. */
void sl_control_wire(struct sl_service *s, uint32_t epoch);
void sl_wiring_break(struct sl_service *s); /* a stage that was wired, or was about to be, died */
void sl_wiring_ports(struct stage_peer *p, const struct sl_ctl_ports *m); /* a stage's Ports */
/* Copies them in the place of those it had. 0, SL_EINPUT (none) or SL_ENOMEM. */
int sl_peer_take_ports(struct stage_peer *p, const struct sl_ctl_port *ports, size_t n);
void sl_peer_drop_ports(struct stage_peer *p);

#endif
