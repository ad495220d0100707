/* cuda.h - what the parts of the CUDA backend share: the device, the form of product rows, the form
 * of weights in its memory, the step's descriptor. Read by C11 and by CUDA C++. Private to kernels/.
 *
 * Every launcher takes raw pointers and sizes, puts its kernels on c->stream and returns: it
 * neither allocates, copies to or from the host, nor waits, so that any of them can be captured in
 * a graph. Launch errors are sticky in the runtime and come out of sl_cuda_check(). */
#ifndef SL_KERNELS_CUDA_CUDA_H
#define SL_KERNELS_CUDA_CUDA_H

#include <cuda_runtime_api.h>

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- product rows ---------------------------------------------------------------------------- */

/* A product row of `cols` elements: SL_CUDA_ROW_HEAD bytes whose first four are a float, the row's
 * scale, then halfs (IEEE binary16), filled up with zeros to a multiple of SL_CUDA_PAD elements.
 * element(k) = scale * half(k). Whoever makes rows chooses scales (powers of two) so that nothing
 * overflows: rows are as good as 11 bits of mantissa at any magnitude. */
#define SL_CUDA_PAD 64 /* elements of K that kernels may read as one piece */
#define SL_CUDA_ROW_HEAD 32

static inline
#ifdef __CUDACC__
    __host__ __device__
#endif
    int64_t
    sl_cuda_pad(int64_t cols)
{
    return (cols + SL_CUDA_PAD - 1) / SL_CUDA_PAD * SL_CUDA_PAD;
}

/* Bytes from one product row to the next. */
static inline
#ifdef __CUDACC__
    __host__ __device__
#endif
    int64_t
    sl_cuda_row_stride(int64_t cols)
{
    return SL_CUDA_ROW_HEAD + 2 * sl_cuda_pad(cols);
}

/* Scale of the rows that gated units make: |act(gate) * up| below 2^22 does not overflow. */
#define SL_CUDA_GLU_SCALE 64.0f

/* ---- weights --------------------------------------------------------------------------------- */

/* What a code means. Planes of b-bit codes are little-endian in natural order of k: code k is at
 * bit k*b of its row. U3, U5, U6 are two planes: `code` holds the low 2, 4, 4 bits, `high` the
 * upper 1, 1, 2. */
enum sl_cuda_code {
    SL_CUDA_F16,  /* binary16; F16 files, and BF16 files with a power of two per row taken out */
    SL_CUDA_F32,  /* plain kernels only */
    SL_CUDA_E4M3, /* 8 bits, as in the file */
    SL_CUDA_E5M2,
    SL_CUDA_E2M1, /* 4 bits */
    SL_CUDA_LUT4, /* 4 bits: lut[code] (NF4, IQ4_NL, IQ4_XS) */
    SL_CUDA_U2,
    SL_CUDA_U3,
    SL_CUDA_U4,
    SL_CUDA_U5,
    SL_CUDA_U6,
    SL_CUDA_I8, /* signed */
    SL_CUDA_U8,
    SL_CUDA_CODES
};

enum sl_cuda_scale {
    SL_CUDA_SCALE_NONE,  /* 1 */
    SL_CUDA_SCALE_F16,   /* half per group */
    SL_CUDA_SCALE_UE4M3, /* byte per group (NVFP4), sign bit clear */
    SL_CUDA_SCALE_E8M0,  /* byte per group (MXFP4): 2^(b-127), b <= 127: the row's factor has the
                            rest; the least b of a code is decode.cuh's affair */
    SL_CUDA_SCALE_SUB_U, /* unsigned byte per group times a half per 256 (k-quants) */
    SL_CUDA_SCALE_SUB_I, /* signed byte */
    SL_CUDA_SCALE_GRID   /* float per grid_rows x grid_cols block */
};

enum sl_cuda_min {
    SL_CUDA_MIN_NONE,
    SL_CUDA_MIN_F16,  /* half per group, added */
    SL_CUDA_MIN_SUB,  /* unsigned byte per group times a half per 256, subtracted (Q2_K, Q4_K, Q5_K) */
    SL_CUDA_MIN_ZERO_U8 /* byte per group, subtracted from the code before the scale (AWQ, GPTQ) */
};

/* A weight matrix [rows][cols] in device memory, codes unchanged and in natural order:
 *
 *     element(n, k) = row[n] * (scale(n, k) * (code(n, k) - offset - zero(n, k)) + min(n, k))
 *
 * Rows of every plane and table are padded to whole SL_CUDA_PAD elements of k; padding decodes to
 * finite numbers (product rows are zero there). All pointers are 256-byte aligned, strides of
 * planes multiples of 8 bytes (16 for codes of 8 bits and more). `order`: stored column k meets
 * input order[k] (GPTQ act-order); NULL: k. */
struct sl_cuda_weight {
    enum sl_cuda_code code_kind;
    enum sl_cuda_scale scale_kind;
    enum sl_cuda_min min_kind;
    int32_t rows, cols, cols_padded;
    int32_t group;                /* columns of a group: 16, 32, 64, 128 or cols_padded */
    int32_t grid_rows, grid_cols; /* of SCALE_GRID */
    int32_t grid_stride;          /* floats from one row of the grid to the next, a multiple of 4 */
    float offset;
    int64_t code_stride, high_stride; /* bytes from row to row */
    const void *code, *high;
    const void *scale;  /* [rows][ceil(cols_padded / group)], or the grid */
    const void *super;  /* SUB: half [rows][ceil(cols / 256)] */
    const void *min;    /* [rows][ceil(cols_padded / group)] */
    const void *supmin; /* MIN_SUB: half [rows][ceil(cols / 256)] */
    const float *row;   /* [rows] */
    const int32_t *order;
    float lut[16]; /* LUT4 */
};

/* Groups of a row, whole or not; entries per row of `scale` (but GRID) and `min`. */
static inline
#ifdef __CUDACC__
    __host__ __device__
#endif
    int64_t
    sl_cuda_groups(const struct sl_cuda_weight *w)
{
    return (w->cols_padded + w->group - 1) / w->group;
}

/* Entries per row of `super` and `supmin`. */
static inline
#ifdef __CUDACC__
    __host__ __device__
#endif
    int64_t
    sl_cuda_supers(const struct sl_cuda_weight *w)
{
    return (w->cols + 255) / 256;
}

/* ---- the step -------------------------------------------------------------------------------- */

#define SL_CUDA_TILE_ROWS 64 /* query rows of one sequence that prefill attention takes together */
#define SL_CUDA_LONE_MAX 15  /* a share of at most so many rows is attended row by row */

/* Rows [row, row + n) of the step: positions pos.. of the sequence in `slot`. */
struct sl_cuda_tile {
    int32_t row, n, slot, pos;
};

/* The descriptor in device memory; addresses never change. Rows are filled up to `n_rows` with
 * rows of position -1 (no sequence: they write nothing to caches, and zeros as attention). */
struct sl_cuda_step {
    int n_rows;  /* padded: what the operations are given */
    int n_lone;  /* padded: entries of `lone`; one of -1 has no row */
    int n_tiles; /* of prefill attention; 0 in decode steps */
    int n_picks; /* padded */
    int max_len; /* no sequence of a lone row is longer (kept when a step is replayed) */
    int32_t *pos, *slot, *ids;  /* [max_rows]; slot of a padding row is 0 */
    int32_t *lone;              /* [max_rows] rows */
    struct sl_cuda_tile *tiles; /* [max_rows] */
    int32_t *picks, *next;      /* [max_rows] */
    struct sl_draw *draw;       /* [max_rows] */
    struct sl_adjust *adjust;
    int32_t *tables; /* [max_seqs][max_blocks] block tables */
    int max_blocks, block_tokens;
    struct sl_drawn *drawn; /* [max_rows] results, copied to the host by end() */
    float *scored;          /* [max_rows] */
};

/* ---- the device ------------------------------------------------------------------------------ */

#define SL_CUDA_LT_WORKSPACE (64u << 20) /* bytes that cuBLASLt may use */

struct sl_cuda_lt; /* gemm.h */

struct sl_cuda {
    int device, cc; /* cc: 89, 90, 100, 120 ... */
    int sms;        /* multiprocessors that may be used */
    int smem_max;   /* bytes of shared memory a block may opt in to */
    size_t l2_bytes;
    cudaStream_t stream;
    void *scratch; /* of one operation at a time; never smaller than the *_scratch() functions said */
    size_t scratch_bytes;
    struct sl_cuda_lt *lt;
    struct sl_cuda_step step;
};

/* The first error since the last call, 0 or SL_ESYS with CUDA's words and `what` was done. */
int sl_cuda_check(const char *what, struct sl_err *err);

#ifdef __cplusplus
}
#endif
#endif
