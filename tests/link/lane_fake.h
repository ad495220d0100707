/* lane_fake.h - a kind of lane for tests: payloads through Unix sockets, "device memory" from
 * malloc. It behaves as NCCL does: an address serves once, a dead peer is noticed late or never. */
#ifndef SL_TESTS_LINK_LANE_FAKE_H
#define SL_TESTS_LINK_LANE_FAKE_H

#include "tests/link/lane_rig.h"

extern const struct lane_world fake_world;

/* What goes wrong from here on; for all parties of the process. */
struct fake_faults {
    int blind;       /* a dead peer is never noticed */
    int start;       /* starting fails */
    int ready_in;    /* the receiving side does not come up */
    int begin_after; /* not 0: the payload with this number fails */
    int busy;        /* begin says "again" now and then */
};
extern struct fake_faults fake_faults;
extern int fake_allocated; /* blocks of device memory */

#endif
