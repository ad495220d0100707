/* canary.h - bugs on purpose: the simulation must find them (canary.c). Force-included into one
 * file of the core each. */
#ifndef SL_TESTS_CANARY_H
#define SL_TESTS_CANARY_H

#include "coordinator/sched.h"

void canary_blocks_give(struct sl_blocks *b, int n, const int32_t *v);
struct sl_request *canary_sched_owner(const struct sl_sched *s, const struct sl_share *share);

#ifdef CANARY_LEAK
#define sl_blocks_give canary_blocks_give
#endif
#ifdef CANARY_STALE
#define sl_sched_owner canary_sched_owner
#endif

#endif
