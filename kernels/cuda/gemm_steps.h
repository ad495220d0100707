/* gemm_steps.h - what happens to activations before and after a product of many rows: quantized to
 * E4M3, put in a weight's column order, and finished where cuBLASLt cannot. Private to gemm.c. */
#ifndef SL_KERNELS_CUDA_GEMM_STEPS_H
#define SL_KERNELS_CUDA_GEMM_STEPS_H

#include "kernels/cuda/lt.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SL_FP8_BLOCK 128 /* columns that share a scale of quantized rows (DeepSeek-V3, 2024) */

/* Product rows x [n][cols] as E4M3 codes [n][sl_cuda_pad(cols)] and a float scale per row: the
 * row's largest element becomes 448, the largest E4M3. */
void sl_cuda_quantize_rows(struct sl_cuda *c, const void *x, int n, int64_t cols, void *codes,
                           float *scales);

/* The same with a scale per row and SL_FP8_BLOCK columns: scales [ceil(cols / 128)][n_padded], rows
 * n .. n_padded are zeros. */
void sl_cuda_quantize_blocks(struct sl_cuda *c, const void *x, int n, int n_padded, int64_t cols,
                             void *codes, float *scales);

/* The halfs of levelled product rows x [n][cols] in groups of 32 as MXFP8, or of 16 as NVFP4 (of
 * elements divided by SL_NVFP4_STEP, so that scales stay within UE4M3): codes
 * [n][sl_cuda_pad(cols)], scales as lt.h has them. */
#define SL_NVFP4_STEP 8.0f
void sl_cuda_mx_rows(struct sl_cuda *c, const void *x, int n, int64_t cols, int group, void *codes,
                     void *scales);

/* Scales of rows [first, first + m) of w, bytes per group, as lt.h has them; with `codes` also E2M1
 * codes of MXFP4 as E4M3 [m][cols_padded]. With `top` E8M0 scales are multiplied by row factor /
 * *top, which must be powers of two. */
void sl_cuda_mx_weight(struct sl_cuda *c, const struct sl_cuda_weight *w, int first, int m,
                       const float *top, void *codes, void *scales);

/* Column k of out = column order[k] of x, both product rows [n][cols]. */
void sl_cuda_gather_rows(struct sl_cuda *c, const void *x, int n, int64_t cols,
                         const int32_t *order, void *out);

/* The grid of scales of w, with its row factor, as cuBLASLt reads it: out [ceil(rows / 128)][the
 * number of column blocks, a multiple of 4]. */
void sl_cuda_grid(struct sl_cuda *c, const struct sl_cuda_weight *w, float *out);

/* What a product of halfs needs to know of its factors, in device memory. */
struct sl_cuda_level {
    float common;     /* the rows' scale */
    float top;        /* the largest row factor of the weight: decoded tiles are divided by it */
    float alpha;      /* top times common: what sums are multiplied by */
    float glu;        /* alpha / SL_CUDA_GLU_SCALE */
    float nv, nv_glu; /* those two times SL_NVFP4_STEP, for rows in NVFP4 */
};

/* Levels product rows x [n][cols] in place: all get the largest scale among them, so that it
 * becomes one factor of the whole product. Elements keep their values down to 2^-24 of that scale;
 * rows that have it already are not touched. level[i] for each of `count` weights, at most 4. */
void sl_cuda_level(struct sl_cuda *c, void *x, int n, int64_t cols,
                   const struct sl_cuda_weight *const *w, int count, struct sl_cuda_level *level);

/* Rows [first, first + n) of w as halfs [n][cols_padded], times row factor / *top; `top` NULL: row
 * factors are left out. */
void sl_cuda_decode_by(struct sl_cuda *c, const struct sl_cuda_weight *w, int64_t first, int64_t n,
                       const float *top, void *out);

/* d [n][d_stride] (+)= product rows x times rows [first, first + m) of w, in plain float32: for F32
 * weights and for whatever cuBLASLt refuses. F16 sums are divided by SL_CUDA_GLU_SCALE. */
struct sl_cuda_plain {
    const void *x;
    int n, first, m, add;
    enum sl_lt_sums sums;
    void *d;
    int64_t d_stride;
};
void sl_cuda_plain(struct sl_cuda *c, const struct sl_cuda_weight *w,
                   const struct sl_cuda_plain *p);

/* out [n][rows] = bias, or += with `add`. */
void sl_cuda_bias(struct sl_cuda *c, const float *bias, int n, int64_t rows, float *out, int add);

/* Sums d [n][d_stride] of columns [first, first + m) of out:
 *     out[i][first + j] (+)= d[i][j] * row[first + j] * scale[i] + bias[first + j]
 * row, scale, bias NULL: 1, 1, 0. Sums are F32 or BF16. */
struct sl_cuda_finish {
    const void *d;
    int64_t d_stride;
    int n, first, m, add;
    enum sl_lt_sums sums;
    const float *row, *scale, *bias;
    float *out;
    int64_t out_stride;
};
void sl_cuda_finish(struct sl_cuda *c, const struct sl_cuda_finish *f);

/* Columns [first, first + m) of a gated unit of `cols`. Sums of gate and up are halfs
 * [n][d_stride], divided by SL_CUDA_GLU_SCALE; where row factors are given, they lack row /
 * level->top. Heads and padding of the product rows `out` come with the first and the last piece.
 * first and d_stride are multiples of 8. */
struct sl_cuda_glu_piece {
    enum sl_act act;
    const void *sums[2]; /* gate, up */
    const float *row[2]; /* [cols] or NULL */
    const struct sl_cuda_level *level[2];
    const float *bias[2]; /* [cols] or NULL */
    int64_t d_stride;
    int n, first, m;
    int64_t cols;
    void *out;
};
void sl_cuda_glu_piece(struct sl_cuda *c, const struct sl_cuda_glu_piece *g);

#ifdef __cplusplus
}
#endif
#endif
