/* lt.h - cuBLASLt as sluice uses it: one kind of product per format, what this card does of them,
 * and the choice of algorithm remembered. Private to gemm.c; cublasLt.h is included by lt*.c alone.
 *
 * All products are D [n][m] = alpha * B [n][k] * A [m][k]^T (+ D), row-major: A are weights, B rows
 * of activations. To cuBLASLt, whose matrices are column-major, that is the TN form with m rows and
 * n columns, the only one that FP8 has before Blackwell. */
#ifndef SL_KERNELS_CUDA_LT_H
#define SL_KERNELS_CUDA_LT_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

enum sl_lt_kind {
    SL_LT_HALF,      /* halfs times halfs */
    SL_LT_FP8,       /* E4M3 times E4M3, factors left to a later pass */
    SL_LT_FP8_OUTER, /* E4M3 with a float per row of A and of B (Hopper) */
    SL_LT_FP8_BLOCK, /* E4M3 with floats per 128 x 128 of A and per row and 128 columns of B
                        (Hopper): a_scale [ceil(m/128)][roundup(ceil(k/128), 4)], b_scale
                        [ceil(k/128)][n] */
    SL_LT_MXFP8,     /* E4M3 with E8M0 per 32 columns (Blackwell): scales as sl_lt_scale_at() */
    SL_LT_NVFP4,     /* E2M1 with UE4M3 per 16 columns (Blackwell): likewise */
    SL_LT_KINDS
};

/* What D holds. */
enum sl_lt_sums { SL_LT_F32, SL_LT_F16, SL_LT_BF16, SL_LT_SUMS };

/* Where the scale of (row, group) lies, in bytes, among the scales of a matrix of `groups` groups a
 * row: tiles of 128 rows by 4 groups, in them 32 rows of 16 bytes, four rows 32 apart each
 * (cuBLAS documentation, "1D block scaling factors layout"). */
static inline
#ifdef __CUDACC__
    __host__ __device__
#endif
        int64_t
        sl_lt_scale_at(int64_t row, int64_t group, int64_t groups)
{
    int64_t tile = row / 128 * ((groups + 3) / 4) + group / 4;
    return tile * 512 + row % 32 * 16 + row % 128 / 32 * 4 + group % 4;
}

/* Bytes of such an array. */
static inline
#ifdef __CUDACC__
    __host__ __device__
#endif
        int64_t
        sl_lt_scale_bytes(int64_t rows, int64_t groups)
{
    return (rows + 127) / 128 * ((groups + 3) / 4) * 512;
}

struct sl_lt_gemm {
    enum sl_lt_kind kind;
    int64_t m, n, k;
    const void *a, *b;
    int64_t a_stride, b_stride; /* elements from row to row */
    const void *a_scale, *b_scale;
    void *d;
    int64_t d_stride;
    enum sl_lt_sums sums;
    int add;
    const float *alpha; /* device; NULL: 1 */
};

/* Whether self-tests of this kind passed. */
int sl_lt_can(const struct sl_cuda_lt *lt, enum sl_lt_kind kind, enum sl_lt_sums sums);

/* Whether strides and sizes are such as cuBLASLt takes (cuBLAS documentation; n is free but for
 * FP8_BLOCK: multiples of 8). */
int sl_lt_fits(const struct sl_lt_gemm *g);

/* Enqueues the product. 0, or SL_EUNSUPPORTED when cuBLASLt has no algorithm for it: nothing was
 * enqueued then. */
int sl_lt_run(struct sl_cuda *c, const struct sl_lt_gemm *g);

/* 1/SL_CUDA_GLU_SCALE in device memory, for alpha. */
const float *sl_lt_glu_alpha(const struct sl_cuda_lt *lt);

/* lt_probe.c: runs the small products; fills what sl_lt_can() says and the facts. */
int sl_lt_probe(struct sl_cuda *c, int can[SL_LT_KINDS][SL_LT_SUMS], char *facts, size_t facts_max,
                struct sl_err *err);

#ifdef __cplusplus
}
#endif
#endif
