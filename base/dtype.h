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

/* What a format is for. */
enum sl_dtype_kind {
    SL_KIND_FLOAT,  /* each element for itself */
    SL_KIND_BLOCK,  /* GGUF blocks: codes and their scales together */
    SL_KIND_PLANAR, /* codes alone; scales, zero points and codebooks lie beside (base/matrix.h) */
    SL_KIND_STORAGE /* integers and scales in files; never the elements of a matrix */
};

/* name, elements per block, bytes per block, ggml type id, kind. A new format goes to the end of
 * its kind; numbers never leave a process. F8_*: OCP 8-bit floats ("FN": no infinity in E4M3). F4:
 * E2M1. U4, U8: integers with a scale and perhaps a zero point. CB4: index into a codebook of 16.
 * In F4, U4 and CB4 the even element is in the low nibble. */
#define SL_GGML_NONE 0xffffffffu /* no such type in GGUF */
#define SL_DTYPES(X)                                                                               \
    X(F32, 1, 4, 0, FLOAT)                                                                         \
    X(F16, 1, 2, 1, FLOAT)                                                                         \
    X(BF16, 1, 2, 30, FLOAT)                                                                       \
    X(Q4_0, 32, 18, 2, BLOCK)                                                                      \
    X(Q4_1, 32, 20, 3, BLOCK)                                                                      \
    X(Q5_0, 32, 22, 6, BLOCK)                                                                      \
    X(Q5_1, 32, 24, 7, BLOCK)                                                                      \
    X(Q8_0, 32, 34, 8, BLOCK)                                                                      \
    X(Q2_K, 256, 84, 10, BLOCK)                                                                    \
    X(Q3_K, 256, 110, 11, BLOCK)                                                                   \
    X(Q4_K, 256, 144, 12, BLOCK)                                                                   \
    X(Q5_K, 256, 176, 13, BLOCK)                                                                   \
    X(Q6_K, 256, 210, 14, BLOCK)                                                                   \
    X(IQ4_NL, 32, 18, 20, BLOCK)                                                                   \
    X(IQ4_XS, 256, 136, 23, BLOCK)                                                                 \
    X(MXFP4, 32, 17, 39, BLOCK)                                                                    \
    X(NVFP4, 64, 36, 40, BLOCK)                                                                    \
    X(F8_E4M3, 1, 1, SL_GGML_NONE, PLANAR)                                                         \
    X(F8_E5M2, 1, 1, SL_GGML_NONE, PLANAR)                                                         \
    X(F4, 2, 1, SL_GGML_NONE, PLANAR)                                                              \
    X(U4, 2, 1, SL_GGML_NONE, PLANAR)                                                              \
    X(U8, 1, 1, SL_GGML_NONE, PLANAR)                                                              \
    X(I8, 1, 1, 24, PLANAR)                                                                        \
    X(CB4, 2, 1, SL_GGML_NONE, PLANAR)                                                             \
    X(E8M0, 1, 1, SL_GGML_NONE, STORAGE)                                                           \
    X(BOOL, 1, 1, SL_GGML_NONE, STORAGE)                                                           \
    X(I16, 1, 2, 25, STORAGE)                                                                      \
    X(I32, 1, 4, 26, STORAGE)                                                                      \
    X(I64, 1, 8, 27, STORAGE)                                                                      \
    X(F64, 1, 8, 28, STORAGE)

enum sl_dtype {
#define X(name, block, bytes, ggml, kind) SL_##name,
    SL_DTYPES(X)
#undef X
        SL_DTYPE_COUNT
};

const char *sl_dtype_name(enum sl_dtype t); /* "Q4_1" */
enum sl_dtype_kind sl_dtype_kind(enum sl_dtype t);
int sl_dtype_block(enum sl_dtype t); /* elements per block */
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
