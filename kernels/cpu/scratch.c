/* scratch.c - working memory of an operation: grows to the largest call seen, then never allocates
 * again. */
#include "kernels/cpu/cpu.h"

#include <stdlib.h>

#include "base/mem.h"

#define SCRATCH_GRAIN                                                                              \
    4096 /* bytes: sizes are rounded up to it, so that slow growth does not reallocate each time   \
          */

void *sl_scratch_get(struct sl_scratch *s, size_t bytes)
{
    if (bytes <= s->cap && s->ptr) return s->ptr;
    if (bytes > SIZE_MAX - SCRATCH_GRAIN) return NULL;
    size_t cap = (bytes + SCRATCH_GRAIN) / SCRATCH_GRAIN * SCRATCH_GRAIN;
    void *p = aligned_alloc(SL_MEM_ALIGN, cap);
    if (!p) return NULL;
    free(s->ptr); /* contents need not survive */
    s->ptr = p;
    s->cap = cap;
    return p;
}

void sl_scratch_close(struct sl_scratch *s)
{
    free(s->ptr);
    s->ptr = NULL;
    s->cap = 0;
}
