/* effects.h - where one step collects its effects: a fixed array, sized at creation for the worst
 * step.
 *
 * Private to the coordinator's core. A step that overflows it is a bug in the sizing (coord.c),
 * hence the assertion. */
#ifndef SL_COORDINATOR_EFFECTS_H
#define SL_COORDINATOR_EFFECTS_H

#include <string.h>

#include "base/sl_assert.h"
#include "coordinator/coord.h"

struct sl_sink {
    struct sl_effect *v;
    size_t len, cap;
};

/* One more effect, zeroed but for its kind; device -1. */
static inline struct sl_effect *sl_sink_add(struct sl_sink *s, enum sl_effect_kind kind)
{
    SL_ASSERT(s->len < s->cap);
    struct sl_effect *e = &s->v[s->len++];
    memset(e, 0, sizeof *e);
    e->kind = kind;
    e->device = -1;
    return e;
}

#endif
