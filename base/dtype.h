/* dtype.h - element and block formats of tensors: one row per format.
 *
 * A format stores `block` consecutive elements of a row in `bytes` bytes. Layouts: docs of GGUF
 * (ggml) blocks; decoding lives in kernels/, this table is only about sizes and names. */
#ifndef SL_BASE_DTYPE_H
#define SL_BASE_DTYPE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* name in GGUF/HF, enum, elements per block, bytes per block, ggml type id */
#define SL_DTYPES(X)                                                                               \
    X(F32, 1, 4, 0)                                                                                \
    X(F16, 1, 2, 1)                                                                                \
    X(BF16, 1, 2, 30)                                                                              \
    X(Q4_0, 32, 18, 2)                                                                             \
    X(Q4_1, 32, 20, 3)                                                                             \
    X(Q5_0, 32, 22, 6)                                                                             \
    X(Q5_1, 32, 24, 7)                                                                             \
    X(Q8_0, 32, 34, 8)                                                                             \
    X(Q4_K, 256, 144, 12)                                                                          \
    X(Q5_K, 256, 176, 13)                                                                          \
    X(Q6_K, 256, 210, 14)

enum sl_dtype {
#define X(name, block, bytes, ggml) SL_##name,
    SL_DTYPES(X)
#undef X
        SL_DTYPE_COUNT
};

const char *sl_dtype_name(enum sl_dtype t); /* "Q4_1" */
int sl_dtype_block(enum sl_dtype t);        /* elements per block */
int sl_dtype_block_bytes(enum sl_dtype t);
int sl_dtype_from_ggml(uint32_t ggml_type); /* enum sl_dtype, or -1 when we have no row for it */
int sl_dtype_from_name(const char *name);   /* case-insensitive; -1 when unknown */

/* The ggml name of a type id that we know but cannot run ("IQ2_XXS"), NULL for ids that do not
 * exist. For errors. */
const char *sl_dtype_ggml_name(uint32_t ggml_type);

/* Elements and bytes per block of any ggml type that sl_dtype_ggml_name knows. 0, or -1 for other
 * ids. */
int sl_dtype_ggml_size(uint32_t ggml_type, int *block, int *bytes);

/* Bytes of `n` consecutive elements; n must be a multiple of the block. */
uint64_t sl_dtype_row_bytes(enum sl_dtype t, uint64_t n);

#ifdef __cplusplus
}
#endif
#endif
