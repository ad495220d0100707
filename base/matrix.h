/* matrix.h - a weight matrix as a file gives it: what model/ hands to kernels/, whatever the
 * scheme.
 *
 * Element (n, k) of the matrix is
 *
 *     factor * value(r, k)                                    block and float formats
 *     factor * scale(r, k) * (value(r, k) - zero(r, k))       planar formats
 *
 * with the stored row r = row_first + n * row_step, so that a slice of a fused matrix (q, k, v in
 * one) and interleaved halves (gate, up of gpt-oss) are views that copy nothing. `value` of a
 * planar format: the float that the bits of F8_E4M3, F8_E5M2 or F4 mean, the integer of U4, U8 or
 * I8, codebook[index] of CB4. The scale of (r, k) is entry (r / scale_rows, k / scale_cols) of a
 * row-major table of ceil(cols / scale_cols) columns; without a table it is 1. Zero points have the
 * same table shape.
 *
 * Act-order (GPTQ): stored column k belongs to input order[k]; groups of scales go by the stored
 * column. All pointers belong to whoever made the matrix and hold for the whole stored matrix, not
 * the slice. Bits of every format: the formats' documents named in kernels/ref/dequant.c. */
#ifndef SL_BASE_MATRIX_H
#define SL_BASE_MATRIX_H

#include <stdint.h>

#include "base/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

struct sl_matrix {
    enum sl_dtype type;             /* FLOAT, BLOCK or PLANAR kind */
    int64_t rows, cols;             /* N out, K in: of this view */
    int64_t row_first, row_step;    /* stored row of row n; step 1 for a plain matrix */
    const void *data;               /* stored rows, sl_dtype_row_bytes(type, cols) each */
    const void *scales;             /* planar formats; NULL: all 1 */
    enum sl_dtype scale_type;       /* F32, F16, BF16, E8M0 or F8_E4M3 (NVFP4: sign bit clear) */
    int64_t scale_rows, scale_cols; /* rows and columns that share a scale, >= 1 */
    const uint8_t *zeros;           /* U4, U8: one byte per scale; NULL: none */
    const float *codebook;          /* CB4: 16 values */
    const int32_t *order;           /* [cols], or NULL */
    float factor;                   /* 1 unless the scheme has a scale for the whole matrix */
};

/* A plain matrix of a float or block format. */
static inline struct sl_matrix sl_matrix_plain(enum sl_dtype type, int64_t rows, int64_t cols,
                                               const void *data)
{
    return (struct sl_matrix){.type = type,
                              .rows = rows,
                              .cols = cols,
                              .row_step = 1,
                              .data = data,
                              .scale_rows = 1,
                              .scale_cols = cols > 0 ? cols : 1,
                              .factor = 1};
}

static inline int64_t sl_matrix_stored_row(const struct sl_matrix *m, int64_t row)
{
    return m->row_first + row * m->row_step;
}

/* Bytes of `row` of the view. */
static inline const void *sl_matrix_row_data(const struct sl_matrix *m, int64_t row)
{
    return (const char *)m->data +
           (uint64_t)sl_matrix_stored_row(m, row) * sl_dtype_row_bytes(m->type, (uint64_t)m->cols);
}

/* Scales of a stored row, counted in entries. */
static inline int64_t sl_matrix_scales_per_row(const struct sl_matrix *m)
{
    return (m->cols + m->scale_cols - 1) / m->scale_cols;
}

#ifdef __cplusplus
}
#endif
#endif
