/* moe_plan.cuh - what the steps of a mixture of experts hand to one another in scratch memory, and
 * the steps. Private to moe*.cu.
 *
 * A *pair* is one row with one of its experts: pair row * n_used + slot, slots in ascending order
 * of expert. *Places* are the pairs sorted by expert (then by row): every product of the experts
 * works on places, so that the rows of one expert lie together. */
#ifndef SL_KERNELS_CUDA_MOE_PLAN_CUH
#define SL_KERNELS_CUDA_MOE_PLAN_CUH

#include "kernels/cuda/moe.h"

/* Places [first, first + n), all of one expert: what one block multiplies at a time. */
struct sl_moe_tile {
    int32_t expert, first, n;
};

struct sl_moe_plan {
    float *logits;             /* [n][n_experts] */
    int32_t *ids;              /* [pairs] expert */
    float *weights;            /* [pairs] */
    int32_t *place;            /* [pairs] */
    int32_t *pair;             /* [places] */
    struct sl_moe_tile *tiles; /* [tiles_max] */
    int32_t *n_tiles;          /* how many there are */
    void *hidden;              /* product rows [places][n_ff] */
    float *y;                  /* [places][y_cols] outputs of `down`, y_cols of dim at a time */
    int n_pairs, tiles_max, tile_rows, y_cols;
};

/* Tiles of more rows than this are multiplied by the grouped product, others stream weights. */
#define SL_MOE_STREAM_ROWS_MAX 32
#define SL_MOE_GROUPED_ROWS 128

/* Product of every tile's rows with its expert's weights. UP: rows x of the pairs, gate and up with
 * their activation, into hidden. DOWN: hidden, into y: columns [first, first + y_cols) of dim. */
struct sl_moe_product {
    const struct sl_cuda_weight *gate, *up; /* device [n_experts]; of DOWN: gate is `down` */
    const float *gate_bias, *up_bias;       /* [n_experts][rows] or NULL */
    enum sl_act act;
    int rows, cols; /* of one weight */
    int n_used;     /* UP: pair / n_used is the row of x */
    const void *x;  /* product rows [..][cols] */
    int first;      /* DOWN */
};

/* Kernels of one form of weights. */
struct sl_moe_kernels {
    typedef void launch(struct sl_cuda *c, const struct sl_moe_product *m,
                        const struct sl_moe_plan *p);
    launch *stream_up, *stream_down, *grouped_up, *grouped_down;
    /* stream_down and sl_moe_sum() in one, where it returns 1; may be NULL. */
    int (*one_down)(struct sl_cuda *c, const struct sl_moe_product *m, const struct sl_moe_plan *p,
                    float *out);
};

/* Those that take any form, slowly. */
extern const struct sl_moe_kernels sl_moe_plain;

/* logits [n][n_experts] of m's router for product rows x, bias included. */
void sl_moe_router(struct sl_cuda *c, const struct sl_moe *m, const void *x, int n, float *logits);

/* Choice and sorting: fills all of the plan behind logits but hidden and y. */
void sl_moe_route(struct sl_cuda *c, const struct sl_moe *m, int n, const struct sl_moe_plan *p);

/* out[i][first + d] += the sum over slots, ascending, of weight * y[place][d], d < cols. */
void sl_moe_sum(struct sl_cuda *c, const struct sl_moe_plan *p, int n, int n_used, int dim,
                int first, int cols, float *out);

#endif
