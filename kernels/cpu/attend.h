/* attend.h - the seam between the driver of attention (tasks, spans, softmax, windows, threads) and
 * the two kinds of cache it runs over: keys and values (attention.c), latents (latent.c).
 *
 * A kind knows how to load queries and how to make the scores of one tile of keys; the driver does
 * everything else, so both follow the same rule for bits (attend.c). Private to kernels/cpu. */
#ifndef SL_KERNELS_CPU_ATTEND_H
#define SL_KERNELS_CPU_ATTEND_H

#include <stdatomic.h>

#include "kernels/backend.h"

struct sl_attend;

/* The running softmax of a task's rows: weighted values, maximum, sum. */
struct sl_attend_state {
    float *o; /* [rows][op] */
    float *m; /* [rows], in powers of two */
    float *l; /* [rows] */
};

/* One thread's work area. */
struct sl_attend_area {
    float *work; /* the kind's own: queries, decoded tiles */
    float *s;    /* [rows][SL_KEY_TILE] scores */
    float *c;    /* [rows] corrections of the softmax */
    int *keys;   /* [rows] keys of the tile that a row sees */
    struct sl_attend_state part, total;
};

/* Rows (position, head), heads running fastest: `heads` query heads from head * group on, for
 * positions first..first+n-1 of the sequence's share, counted from 0. */
struct sl_attend_task {
    const struct sl_seq_view *seq;
    int head, heads;
    int first, n;
    int span; /* split: the only span to do; else -1 */
};

/* Which positions of a task see which keys of a tile: [none, gone) see some; of those, [none, part)
 * lack its end (the diagonal) and [cut, gone) its beginning (the window). */
struct sl_attend_sight {
    int base; /* position of the tile's first key */
    int n;    /* keys of the tile that any of them sees, counted from the first */
    int none, part, cut, gone;
};

struct sl_attend_kind {
    int span_keys; /* a multiple of SL_KEY_TILE: what a thread does at least of a long sequence */
    size_t (*work_floats)(const struct sl_attend *j);
    void (*load_q)(const struct sl_attend *j, const struct sl_attend_task *t,
                   struct sl_attend_area *a);
    void (*tile)(const struct sl_attend *j, const struct sl_attend_task *t,
                 struct sl_attend_area *a, const struct sl_attend_sight *v);
};

/* One call. The entry fills the first part, sl_attend_run the rest. */
struct sl_attend {
    const struct sl_attend_kind *kind;
    const void *cache; /* the kind's view */
    const struct sl_op_row *vec;
    const struct sl_seq_view *seqs;
    const struct sl_attn *how;
    const float *q;
    float *out;
    int n_seqs;
    int n_groups, group; /* groups of query heads that share a tile; heads of a group */
    int q_dim, v_dim;    /* elements of a head of q and of out */
    int tile_q;          /* positions of a task */

    int op; /* v_dim padded */
    struct sl_pool *pool;
    int split; /* spans are tasks of their own; their results go to `parts` */
    int n_tasks;
    int *starts; /* [n_seqs + 1] number of each sequence's first task */
    atomic_int next, next_join;
    char *buffers; /* one work area per thread */
    size_t buffer_bytes;
    float *parts; /* [task][rows][op + 2] */
    int part_rows;
};

void sl_attend_run(struct sl_backend *b, struct sl_attend *j);
/* How many tasks there would be with spans as tasks of their own. */
int sl_attend_span_tasks(const struct sl_attend *j);

/* For kinds. Softens the scores of `rows` rows from row `row` on (nothing without a cap). */
void sl_attend_soften(const struct sl_attend *j, struct sl_attend_area *a, int row, int rows);
/* Scores of the tile, already made for the rows of positions [none, gone), to weights, and their
 * values v [keys][ldv] to a->part. */
void sl_attend_weigh(const struct sl_attend *j, const struct sl_attend_task *t,
                     struct sl_attend_area *a, const struct sl_attend_sight *v, const float *values,
                     int ldv);
/* The keys [*from, *to) of the tile that position i of the task sees. */
void sl_attend_keys(const struct sl_attend *j, const struct sl_attend_task *t,
                    const struct sl_attend_sight *v, int i, int *from, int *to);
/* What q is multiplied by, so that scores are powers of two. */
float sl_attend_scale(const struct sl_attend *j);

#endif
