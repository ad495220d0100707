/* lane_rig.h - what the tests of lanes share, whatever moves the payloads: a hub with lanes and
 * berths on a loop of its own, frames whose payloads can be checked, a second process that is this
 * program again. */
#ifndef SL_TESTS_LINK_LANE_RIG_H
#define SL_TESTS_LINK_LANE_RIG_H

#include <sys/types.h>
#include <uv.h>

#include "transport/hub.h"

/* What moves payloads and where they lie. Party 0 and 1 may sit on different cards. */
struct lane_world {
    const char *transport; /* of the link */
    const struct sl_lane_kind *(*kind)(int party);
    const struct sl_berths_memory *(*memory)(int party);
    void (*write)(int party, void *device, const void *host, size_t n);
    void (*read)(int party, void *host, const void *device, size_t n);
    int deaths; /* processes to kill in a test of that */
};
extern const struct lane_world *world;

#define PARTY_BERTHS 6
#define PARTY_BYTES (4u << 20) /* of a berth */
#define PARTY_PATIENCE_MS 120000

struct party {
    int number;
    uv_loop_t loop;
    uv_timer_t watchdog;
    struct sl_hub *hub;
    struct sl_berths *berths;
    uint32_t epoch;
    uint64_t next;       /* frame that must come next */
    int received, wrong; /* frames; those that were not what they should be */
    int with_berth;      /* of them, with the payload in a berth */
    int echo;            /* frames go back as they came */
    int quiet;           /* frames are only counted */
    int keep;            /* frames are kept instead of freed */
    struct sl_frame *kept[64];
    int n_kept, closed;
    uint8_t *scratch;
};

void party_open(struct party *p, int number);
void party_close(struct party *p);
void party_turn(struct party *p);  /* one round of its loop, without waiting */
void party_sleep(struct party *p); /* the same, waiting for something to happen */
/* Turns both (b may be NULL) until *value >= at_least. */
void party_wait(struct party *a, struct party *b, const int *value, int at_least);
/* Turns both until frames that leave a may be in berths; 0 when that takes longer than ms. */
int party_wait_up(struct party *a, struct party *b, int ms);
void party_spin(struct party *a, struct party *b, int ms);
void party_forget(struct party *p); /* frees what was kept */

/* Wires a to b for a new epoch; b is ready to receive. */
void party_wire(struct party *a, struct party *b, uint32_t epoch);

/* Sends frame number `slot` of a's epoch with a payload of rows x 64 floats: in a berth when one
 * can be had and `lane` is set, else in its body. 1 when it was in a berth. *rc: of the send. */
int party_send(struct party *a, uint64_t slot, uint32_t rows, int lane, int *rc);
uint32_t frame_rows(uint64_t slot); /* a size for it, small ones more often than large ones */

/* The other process: party 1. What it does: `mode` "send" (frames for ever), "receive", "echo". */
struct other {
    pid_t pid;
    int to, from;
};
void other_start(struct other *o, struct party *p, const char *mode, uint32_t epoch);
void other_kill(struct other *o);
int other_main(const char *mode);

#endif
