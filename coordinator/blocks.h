/* blocks.h - the KV block allocator: which of the cache's equal blocks are free.
 *
 * One number names a block on every stage, since all stages hold the same tokens; so one free list,
 * here, serves the whole pipeline. A block is given back as soon as its sequence ends or is
 * preempted, even while micro-batches that still read or write it are on their way: every stage
 * runs micro-batches in the order they were sent, so whoever is given the block next writes it in a
 * later micro-batch, after the last use by the former owner, and a former owner's late result is
 * dropped by its generation (sched.c). Within one micro-batch that order does not hold, which is
 * why nobody who has rows in the micro-batch being formed is ever preempted. */
#ifndef SL_COORDINATOR_BLOCKS_H
#define SL_COORDINATOR_BLOCKS_H

#include <stdint.h>

struct sl_blocks {
    int n_total, n_free;
    int32_t *free;       /* [n_free] a stack: the last one given back is the next one given out */
    unsigned char *used; /* [n_total] 1 = given out; catches a block given back twice */
};

int sl_blocks_init(struct sl_blocks *b, int n_total); /* all free; 0 or SL_ENOMEM */
void sl_blocks_close(struct sl_blocks *b);

/* Takes n blocks into out[n]; n <= n_free is the caller's promise. The order depends on the calls
 * alone. */
void sl_blocks_take(struct sl_blocks *b, int n, int32_t *out);
/* Gives v[n] back. */
void sl_blocks_give(struct sl_blocks *b, int n, const int32_t *v);

/* Blocks that hold n_tokens. */
static inline int sl_blocks_for(int n_tokens, int block_tokens)
{
    return (int)(((int64_t)n_tokens + block_tokens - 1) / block_tokens);
}

#endif
