/* toy_stage.h - an independent checker in the shape of a stage: it knows the descriptors alone.
 *
 * It keeps block tables and a KV "memory" of tokens as a real stage would, verifies every rule of
 * proto/batch.h and of block ownership, and answers from the tokens it finds through its tables, so
 * that any mix-up changes the answer. */
#ifndef SL_TESTS_TOY_STAGE_H
#define SL_TESTS_TOY_STAGE_H

#include "proto/batch.h"

struct toy_stage;

struct toy_stage *toy_stage_new(int n_slots, int n_blocks, int block_tokens, int max_rows);
void toy_stage_free(struct toy_stage *s);
void toy_stage_reset(struct toy_stage *s); /* a new epoch */

/* NULL when the micro-batch obeys all rules, else what it breaks. */
const char *toy_stage_run(struct toy_stage *s, const struct sl_batch *b);
/* After run, on the last stage: the results, one malloc'ed piece to be freed with free(). */
struct sl_results *toy_stage_answer(const struct toy_stage *s, const struct sl_batch *b);

#endif
