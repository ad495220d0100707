/* members.h - which stages live, load, are wired; what to do when one joins or dies.
 *
 * A device goes ABSENT -> JOINED -> LOADING -> READY -> WIRED. When the last device has joined the
 * plan is made, once: a device that comes back gets the same layers again. When all planned ones
 * are READY a new epoch begins: all are wired anew; when all are WIRED the pipeline serves. A death
 * takes its device back to ABSENT and the others to READY (they keep their weights and wait); the
 * device is launched again after a pause that doubles with each death of the last minute. */
#ifndef SL_COORDINATOR_MEMBERS_H
#define SL_COORDINATOR_MEMBERS_H

#include <stdint.h>

#include "coordinator/coord.h"
#include "coordinator/effects.h"
#include "topology/plan.h"

#define SL_RELAUNCH_NS                                                                             \
    100000000ull /* pause before the first restart in a row; then twice that, four times ... */

struct sl_member {
    enum sl_member_state state;
    int launched;                         /* a process is on its way or there */
    uint64_t relaunch_ns;                 /* when to launch again; 0 = no need */
    uint64_t deaths[SL_RESTARTS_MAX + 1]; /* times of the last ones, newest last */
    int n_deaths;
    int restarts;                /* in all */
    struct sl_plan_device facts; /* measured, then overridden by the file */
    uint32_t n_blocks;
    int stage; /* place in the pipeline, -1: none */
};

/* What a change means for the requests. */
enum sl_members_news {
    SL_NEWS_NONE,
    SL_NEWS_SERVING, /* all wired: n_blocks is valid */
    SL_NEWS_BROKEN,  /* was serving, a stage died */
    SL_NEWS_FAILED   /* the cluster is given up; err says why */
};

struct sl_members {
    const struct sl_coord_params *p; /* the owner's copy */
    struct sl_member v[SL_DEVICES_MAX];
    int started, planned, wiring, serving, failed;
    uint32_t epoch;
    int n_blocks; /* of the poorest stage in this epoch */
    struct sl_plan plan;
    struct sl_err err; /* why broken or failed */
};

void sl_members_init(struct sl_members *m, const struct sl_coord_params *p);

enum sl_members_news sl_members_tick(struct sl_members *m, uint64_t now_ns, struct sl_sink *fx);
enum sl_members_news sl_members_joined(struct sl_members *m, int device, uint64_t memory_bytes,
                                       double bandwidth, uint64_t now_ns, struct sl_sink *fx);
enum sl_members_news sl_members_ready(struct sl_members *m, int device, uint32_t n_blocks,
                                      struct sl_sink *fx);
enum sl_members_news sl_members_wired(struct sl_members *m, int device, uint32_t epoch);
enum sl_members_news sl_members_down(struct sl_members *m, int device, const char *message,
                                     uint64_t now_ns);

#endif
