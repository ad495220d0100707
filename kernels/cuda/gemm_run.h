/* gemm_run.h - products of many rows, one piece at a time: the way a weight goes on this card,
 * where everything temporary lies, and the sums of some of its rows. Private to gemm*.c. */
#ifndef SL_KERNELS_CUDA_GEMM_RUN_H
#define SL_KERNELS_CUDA_GEMM_RUN_H

#include "kernels/cuda/gemm_steps.h"
#include "kernels/cuda/lt.h"

#define SL_GEMM_SUMS_BYTES ((size_t)64 << 20)
#define SL_GEMM_GRID_BYTES ((size_t)2 << 20)
#define SL_GEMM_PRODUCTS_MAX 4 /* of one call */

enum sl_gemm_path {
    SL_PATH_PLAIN,
    SL_PATH_HALF,
    SL_PATH_STORED,
    SL_PATH_ROW,
    SL_PATH_AFTER,
    SL_PATH_BLOCK,
    SL_PATH_MX,
    SL_PATH_NV
};

/* Rows taken at once, and where their other forms and everything temporary are. */
struct sl_gemm_run {
    struct sl_cuda *c;
    char *x;         /* product rows [n][cols] */
    int n, n_padded; /* n_padded: a multiple of 8 */
    int64_t cols;
    char *rows;    /* codes of quantized rows, or rows in an order of columns */
    float *scales; /* of quantized rows */
    float *grid;   /* SL_GEMM_GRID_BYTES: scales of a weight in blocks */
    char *tile;    /* decoded weights */
    size_t tile_bytes;
    char *sums;                  /* SL_GEMM_SUMS_BYTES */
    struct sl_cuda_level *level; /* [SL_GEMM_PRODUCTS_MAX] */
};

/* Where sums of a piece go: d [n][stride]. F16 are divided by SL_CUDA_GLU_SCALE; only floats add.
 */
struct sl_gemm_target {
    void *d;
    int64_t stride;
    enum sl_lt_sums sums;
    int add;
};

static inline int64_t sl_gemm_round_up(int64_t n, int64_t to)
{
    return (n + to - 1) / to * to;
}

static inline const struct sl_cuda_weight *sl_gemm_weight(const struct sl_weight *w)
{
    return (const struct sl_cuda_weight *)w->packed;
}

/* The way of w with n rows, alone or in a gated unit. */
enum sl_gemm_path sl_gemm_path_of(const struct sl_cuda *c, const struct sl_cuda_weight *w, int n,
                                  int unit);

/* How many of n rows may be taken at once when each needs `bytes` of run.rows. */
int sl_gemm_rows_at_once(int n, int64_t bytes);
struct sl_gemm_run sl_gemm_run_of(struct sl_cuda *c, const void *x, int n, int64_t cols);

/* The run of the same rows with columns in the order of w, made at `at`. */
struct sl_gemm_run sl_gemm_in_order(const struct sl_gemm_run *r, const struct sl_cuda_weight *w,
                                    char *at);

/* The run when nothing is in run.rows: decoded weights may have that too. */
struct sl_gemm_run sl_gemm_wide(const struct sl_gemm_run *r);

/* Bytes of the scales that sl_cuda_grid() makes of w. */
size_t sl_gemm_grid_bytes(const struct sl_cuda_weight *w);

/* Rows of w for one piece, a multiple of 128; `sum_bytes` of run.sums for each element made. */
int sl_gemm_piece(const struct sl_gemm_run *r, enum sl_gemm_path path,
                  const struct sl_cuda_weight *w, int sum_bytes);

/* Sums of rows [first, first + m) of w with all rows of the run, which is prepared for the path:
 * quantized (ROW, AFTER, BLOCK), levelled (HALF, STORED), both (MX, NV). Non-zero: they are raw,
 * without factors of weight rows (STORED to F16: without those divided by level->top), and after
 * AFTER without scales of rows. */
int sl_gemm_multiply(const struct sl_gemm_run *r, enum sl_gemm_path path,
                     const struct sl_cuda_weight *w, const struct sl_cuda_level *level, int first,
                     int m, const struct sl_gemm_target *t);

#endif
