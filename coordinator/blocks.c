/* blocks.c - see blocks.h. */
#include "coordinator/blocks.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/sl_assert.h"

int sl_blocks_init(struct sl_blocks *b, int n_total)
{
    SL_ASSERT(n_total >= 0);
    memset(b, 0, sizeof *b);
    b->free = malloc(sizeof *b->free * (size_t)SL_MAX(n_total, 1));
    b->used = calloc((size_t)SL_MAX(n_total, 1), 1);
    if (!b->free || !b->used) {
        sl_blocks_close(b);
        return SL_ENOMEM;
    }
    b->n_total = b->n_free = n_total;
    for (int i = 0; i < n_total; i++) b->free[i] = n_total - 1 - i; /* block 0 is given out first */
    return 0;
}

void sl_blocks_close(struct sl_blocks *b)
{
    free(b->free);
    free(b->used);
    memset(b, 0, sizeof *b);
}

void sl_blocks_take(struct sl_blocks *b, int n, int32_t *out)
{
    SL_ASSERT(n >= 0 && n <= b->n_free);
    for (int i = 0; i < n; i++) {
        int32_t v = b->free[--b->n_free];
        SL_ASSERT(!b->used[v]);
        b->used[v] = 1;
        out[i] = v;
    }
}

void sl_blocks_give(struct sl_blocks *b, int n, const int32_t *v)
{
    SL_ASSERT(n >= 0 && b->n_free + n <= b->n_total);
    for (int i = 0; i < n; i++) {
        SL_ASSERT(v[i] >= 0 && v[i] < b->n_total && b->used[v[i]]);
        b->used[v[i]] = 0;
        b->free[b->n_free++] = v[i];
    }
}
