/* check_side.h - one backend as `sluice check` drives it: its memory, a step around its operations,
 * the time they take. The same code serves host memory and cards. */
#ifndef SL_CLI_CHECK_SIDE_H
#define SL_CLI_CHECK_SIDE_H

#include "kernels/kernels.h"

#define SL_CHECK_ROWS 512     /* of the largest step */
#define SL_CHECK_SEQS 16      /* sequences */
#define SL_CHECK_BLOCK 16     /* tokens of a cache block */
#define SL_CHECK_CONTEXT 4096 /* tokens of a sequence, whole blocks */
#define SL_CHECK_VOCAB 128256

struct sl_check_side {
    const char *kind; /* "avx2", "cuda:0" */
    struct sl_backend *b;
    const struct sl_backend_ops *o;
    double bandwidth; /* measured, bytes per second */
    uint64_t keys;    /* of recorded steps */
    struct sl_step step;
    struct sl_seq_view seqs[SL_CHECK_SEQS];
    int32_t *pos, *ids, *picks, *tables; /* [SL_CHECK_ROWS]; tables [SEQS][CONTEXT / BLOCK] */
    size_t weight_bytes; /* that rotated weights should have in all, to be read from memory */
};

int sl_check_side_open(const char *kind, struct sl_check_side *s, struct sl_err *err);
void sl_check_side_close(struct sl_check_side *s);

/* All of the side's memory free again, for the next thing to check; nothing of before may be used.
 * A card's memory is given out from the front and never piece by piece. */
int sl_check_fresh(struct sl_check_side *s, struct sl_err *err);

/* `bytes` on the side's memory, holding `from` (NULL: zeros). NULL with *err: no room. */
void *sl_check_put(struct sl_check_side *s, const void *from, size_t bytes, struct sl_err *err);
void sl_check_get(struct sl_check_side *s, void *to, const void *from, size_t bytes);
void sl_check_drop(struct sl_check_side *s, void *p);

/* A step of n rows: one of each sequence when n <= SL_CHECK_SEQS, at the end of their context, or
 * all of the first one, from position 0. */
void sl_check_shape(struct sl_check_side *s, int n);

/* One step of run(arg, 0) alone. 0 or what the device says. */
int sl_check_once(struct sl_check_side *s, void (*run)(void *arg, int call), void *arg,
                  struct sl_err *err);
/* Seconds of one call, the best of several runs of many calls each; recorded and replayed where the
 * side can. Negative: failed. */
double sl_check_time(struct sl_check_side *s, void (*run)(void *arg, int call), void *arg,
                     struct sl_err *err);

#endif
