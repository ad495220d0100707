/* rig.h - what the link tests share: a loop with a port and what arrived at it, frames whose bodies
 * can be checked, and a second process that is this program again. */
#ifndef SL_TESTS_LINK_RIG_H
#define SL_TESTS_LINK_RIG_H

#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

#include "transport/link.h"

#define RIG_PATIENCE_MS 60000 /* a hang ends the test after this; nothing is measured with it */

struct rig {
    uv_loop_t loop;
    uv_timer_t watchdog;
    const char *transport;
    struct sl_port *port;
    struct sl_frame *first, **last; /* received */
    int received, errors, downs;
    int opened, closed;                                  /* ports */
    struct sl_err error, down;                           /* the last ones */
    void (*on_frame)(struct rig *r, struct sl_frame *f); /* instead of keeping it */
    void *user;
};

void rig_open(struct rig *r, const char *transport);
void rig_address(struct rig *r, struct sl_buf *out);
struct sl_link *rig_link(struct rig *r, const struct sl_buf *address); /* downs are counted */
/* After a death, what sl_hub_reopen does for a port: another one takes the place of one that may be
 * blocked, and the old one closes meanwhile. Its links are closed. */
void rig_reopen(struct rig *r);
void rig_close(struct rig *r); /* runs until everything has ended; no shared memory may be left */
void rig_run_until(struct rig *r, int (*done)(void *arg), void *arg);
void rig_wait(struct rig *r, const int *value, int at_least);
void rig_spin(struct rig *r, int ms); /* lets the loop run */
struct sl_frame *rig_take(struct rig *r);

/* A frame whose body of `bytes` (descriptor and payload) follows from `slot`. */
struct sl_frame *frame_make(uint64_t slot, size_t bytes);
/* Whether it is the frame that frame_make(slot, bytes) made; does not free. */
int frame_is(const struct sl_frame *f, uint64_t slot, size_t bytes);

/* A child process with its own port and a link to ours. */
struct child {
    pid_t pid;
    int to, from;          /* pipes */
    struct sl_buf address; /* of its port */
};
void child_start(struct child *c, struct rig *r, const char *transport, const char *mode);
/* The same for a port that is not a rig's. */
void child_start_for(struct child *c, const struct sl_buf *mine, const char *transport,
                     const char *mode);
void child_kill(struct child *c); /* kill -9 and wait */
int child_end(struct child *c);   /* asks it to end; its exit status */

/* In the child: reads the parent's address, answers with its own. Pipes are fds 3 (in) and 4 (out).
 */
void child_meet(struct rig *r, struct sl_buf *parent);
/* The child's main; modes are in child.c. */
int child_main(const char *transport, const char *mode);

#endif
