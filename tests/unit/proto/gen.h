/* gen.h - random but valid batches and results, from a seed. */
#ifndef SL_TESTS_PROTO_GEN_H
#define SL_TESTS_PROTO_GEN_H

#include "proto/batch.h"

struct gen {
    uint64_t state;
    void *owned[8192]; /* freed by gen_close */
    int n_owned;
};
uint64_t gen_next(struct gen *g);
int gen_below(struct gen *g, int n); /* 0..n-1 */
struct sl_batch gen_batch(struct gen *g, int seqs_max);
struct sl_results gen_results(struct gen *g, int max);
void gen_close(struct gen *g);

/* Whether two are equal in everything that travels. */
int batch_equal(const struct sl_batch *a, const struct sl_batch *b);
int results_equal(const struct sl_results *a, const struct sl_results *b);

#endif
