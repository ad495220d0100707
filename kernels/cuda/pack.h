/* pack.h - the form a matrix takes in device memory: what the packing kernels (pack.cu) fill in.
 * Private to the pack files. */
#ifndef SL_KERNELS_CUDA_PACK_H
#define SL_KERNELS_CUDA_PACK_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Tables of a packed weight, one behind the other in its memory. */
enum sl_pack_part {
    SL_PACK_CODE,
    SL_PACK_HIGH,
    SL_PACK_SCALE,
    SL_PACK_SUPER,
    SL_PACK_MIN,
    SL_PACK_SUPMIN,
    SL_PACK_ROW,
    SL_PACK_ORDER,
    SL_PACK_PARTS
};

struct sl_pack_form {
    struct sl_cuda_weight w;           /* pointers NULL */
    int row_scale;                     /* planar: the scale is one per row and joins w.row */
    int64_t scale_rows;                /* rows that share a row of the raw table */
    float factor;                      /* of every row: the matrix's, and the codebook's */
    uint64_t at[SL_PACK_PARTS], bytes; /* offsets, total; 256-byte pieces */
    int has[SL_PACK_PARTS];
};

/* 0, or -1 when no form of cuda.h holds m. */
int sl_pack_form(const struct sl_matrix *m, struct sl_pack_form *f);

#ifdef __cplusplus
}
#endif
#endif
