/* matmul_fp4.h - products on tensor cores that multiply the weights' own 4- and 8-bit codes: NVFP4,
 * MXFP4 and MXFP8 on Blackwell workstation cards (sm_120a, sm_121a), E4M3 there and on Ada (sm_89).
 * Rows are quantized on the fly into a format that the instruction takes.
 *
 * Elsewhere (Hopper's FP8 is wgmma, datacenter Blackwell's block scales are tcgen05: both through
 * cuBLASLt, gemm.h) sl_cuda_mma_choose() says NONE. */
#ifndef SL_KERNELS_CUDA_MATMUL_FP4_H
#define SL_KERNELS_CUDA_MATMUL_FP4_H

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/mma_fp4.cuh"

#ifdef __cplusplus
extern "C" {
#endif

/* The multiply-accumulate for w, or -1: this card has none for its format. `narrow`: MXFP4 meets
 * rows of MXFP4 (twice as fast) and not of MXFP8; NVFP4 always meets NVFP4, as its checkpoints are
 * calibrated for. */
int sl_cuda_mma_choose(int cc, const struct sl_cuda_weight *w, int narrow);

/* Quantized rows of `cols` in device memory, as sl_cuda_mma_rows() makes them: element (i, k) =
 * row[i] * scale(i, k) * code(i, k). */
struct sl_mma_rows {
    enum sl_mma_kind kind;
    int64_t cols;
    int64_t code_stride, scale_stride; /* bytes from row to row: multiples of 32, of 4 */
    float *row;
    uint8_t *scale, *code;
};

/* Bytes of n such rows; 256-byte pieces. */
size_t sl_cuda_mma_rows_bytes(enum sl_mma_kind kind, int64_t n, int64_t cols);
/* Where the parts of n rows are in `memory`; touches nothing. */
struct sl_mma_rows sl_cuda_mma_rows_at(enum sl_mma_kind kind, int64_t n, int64_t cols,
                                       void *memory);

/* Quantizes product rows x [n][r->cols]:
 *   NVFP4     row = amax / (6 * 448), scale = E4M3(amax16 / (6 row)), code = E2M1(x / (row scale))
 *   MXFP4     row = 1, scale the least power of two not below amax32 / 6
 *   MXFP8(A8) row = 1, scale the least power of two not below amax32 / 448, codes E4M3
 *   FP8       row = amax / 448, codes E4M3
 * all to nearest even, times the product row's own scale in `row`. Columns up to a whole
 * SL_CUDA_PAD are zeros. NaN and infinities make the row's, or the group's, products NaN. A8: the
 * bytes of each 32 lie in the order that unpacked nibbles have, position 4t+j holds k 8t+2j,
 * 16+4t+j the next. */
void sl_cuda_mma_rows(struct sl_cuda *c, const void *x, int n, const struct sl_mma_rows *r);

/* As sl_backend_ops.matmul for weights that sl_cuda_mma_choose() gives the kind of r; any n >= 0. A
 * row's bits do not depend on n. */
void sl_cuda_mma_matmul(struct sl_cuda *c, const struct sl_mma_rows *r, int n,
                        const struct sl_product *p, int n_products);

#ifdef __cplusplus
}
#endif
#endif
