/* gpu_attention.h - what the tests of attention share: steps made of sequences, a reference
 * backend, comparisons. */
#ifndef SL_TESTS_GPU_GPU_ATTENTION_H
#define SL_TESTS_GPU_GPU_ATTENTION_H

#include "tests/gpu/gpu.h"

/* A sequence's share of a step: n rows from position pos on. */
struct at_share {
    int pos, n;
};

#define AT_SEQS_MAX 64

/* Sequences in a step, in device memory and as the reference wants them. Block tables are dealt
 * from a shuffled deck. */
struct at_step {
    struct sl_cuda *c;
    int n_seqs, n_rows;
    struct sl_seq_view views[AT_SEQS_MAX];
    int32_t *tables; /* host: [n_seqs][max_blocks] */
    int n_blocks;    /* of a cache */
};

/* Deals tables for sequences of up to `keys` positions. */
void at_deal(struct at_step *s, struct sl_cuda *c, int n_seqs, int keys, uint64_t seed);
void at_free(struct at_step *s);
/* Makes the step of these shares: rows one behind the other, then `padding` rows without a
 * sequence. Shares of at most SL_CUDA_LONE_MAX rows are lone ones. */
void at_fill(struct at_step *s, const struct at_share *shares, int n_seqs, int padding);

/* A reference backend with all threads of the machine. */
struct sl_backend *at_reference(void);

/* n floats, normal; with `e4m3` such that this type holds them exactly. Freed by the caller. */
float *at_floats(uint64_t seed, int64_t n, int e4m3);
float at_e4m3(int code);
/* NaN in p and in the scratch memory. */
void at_poison(struct sl_cuda *c, void *p, size_t bytes);
/* Bytes of an element of a cache. */
size_t at_bytes(enum sl_dtype type);

/* Says so and counts when error is not at most `limit`. */
void at_expect(const char *what, double error, double limit);
void at_same(const char *what, const void *a, const void *b, size_t bytes);
/* Exit status: 0 when nothing was counted. */
int at_verdict(void);

#endif
