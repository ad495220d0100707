/* batch.c - which products of many rows are ours. Rows are quantized once for
 * all products that want them in one format, then each format is one launch;
 * what is left goes to gemm.h.
 *
 * Ours: FP4 and MXFP8 on Blackwell workstation cards, whose scales cuBLASLt
 * would want rearranged (and MXFP4's codes expanded) every time; E4M3 in blocks
 * on Ada and there, which cuBLASLt has not; E4M3 with factors per row where a
 * gated unit wants halfs, or where cuBLASLt has none. */
#include "kernels/cuda/batch.h"

#include "base/sl_assert.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/lt.h"
#include "kernels/cuda/matmul_fp4.h"
#include "kernels/cuda/rows.h"

#define PRODUCTS_MAX 4
#define ROWS_BYTES ((size_t)64 << 20) /* of scratch: quantized rows */
#define SUMS_BYTES ((size_t)64 << 20) /* and gate and up, on their way through the L2 */
#define ALIGN 64                      /* elements between the beginnings of the two */

size_t sl_cuda_batch_scratch(const struct sl_backend_limits *l)
{
    return SL_MAX(ROWS_BYTES + SUMS_BYTES, sl_cuda_gemm_scratch(l));
}

static const struct sl_cuda_weight *packed(const struct sl_weight *w)
{
    return w->packed;
}

/* How many rows fit when quantized: their parts are 256-byte pieces, and no
 * format has more bytes than the product rows. */
static int rows_at_once(int n, int64_t cols)
{
    int64_t most = (int64_t)(ROWS_BYTES - 1024) / sl_cuda_row_stride(cols);
    SL_ASSERT(most > 0);
    return (int)SL_MIN(most, n);
}

/* The multiply-accumulate that a product gets here, or -1. */
static int own(const struct sl_cuda *c, const struct sl_cuda_weight *w)
{
    int kind = sl_cuda_mma_choose(c->cc, w, 0);
    if (kind == SL_MMA_FP8 && w->scale_kind == SL_CUDA_SCALE_NONE && w->rows % 16 == 0 && c->lt &&
        sl_lt_can(c->lt, SL_LT_FP8, SL_LT_F32))
        return -1;
    return kind;
}

/* ---- products
 * --------------------------------------------------------------------------------
 */

/* All products that want rows of this kind. */
static void own_products(struct sl_cuda *c, enum sl_mma_kind kind, const char *x, int n,
                         const struct sl_product *p, int n_products)
{
    int64_t cols = packed(p->w)->cols;
    int most = rows_at_once(n, cols);
    for (int at = 0; at < n; at += most) {
        int now = SL_MIN(most, n - at);
        struct sl_product q[PRODUCTS_MAX];
        for (int i = 0; i < n_products; i++) {
            q[i] = p[i];
            q[i].out += (int64_t)at * packed(p[i].w)->rows;
        }
        struct sl_mma_rows r = sl_cuda_mma_rows_at(kind, now, cols, c->scratch);
        sl_cuda_mma_rows(c, x + at * sl_cuda_row_stride(cols), now, &r);
        sl_cuda_mma_matmul(c, &r, now, q, n_products);
    }
}

void sl_cuda_batch_matmul(struct sl_cuda *c, const void *x, int n, const struct sl_product *p,
                          int n_products)
{
    struct sl_product same[PRODUCTS_MAX];
    SL_ASSERT(n >= 0 && n_products >= 0 && n_products <= PRODUCTS_MAX);
    SL_ASSERT(c->scratch_bytes >= ROWS_BYTES + SUMS_BYTES);
    for (int kind = -1; kind < SL_MMA_KINDS; kind++) {
        int count = 0;
        for (int i = 0; i < n_products; i++)
            if (own(c, packed(p[i].w)) == kind) same[count++] = p[i];
        if (count == 0) continue;
        if (kind < 0)
            sl_cuda_gemm(c, x, n, same, count);
        else
            own_products(c, (enum sl_mma_kind)kind, x, n, same, count);
    }
}

/* ---- gated units
 * -----------------------------------------------------------------------------
 */

void sl_cuda_batch_gate_up(struct sl_cuda *c, enum sl_act act, const void *x, int n,
                           const struct sl_weight *gate, const float *gate_bias,
                           const struct sl_weight *up, const float *up_bias, void *out)
{
    int kind = sl_cuda_mma_choose(c->cc, packed(gate), 0);
    SL_ASSERT(n >= 0 && gate->rows == up->rows && gate->cols == up->cols);
    if (kind < 0 || kind != sl_cuda_mma_choose(c->cc, packed(up), 0)) {
        sl_cuda_gemm_gate_up(c, act, x, n, gate, gate_bias, up, up_bias, out);
        return;
    }
    SL_ASSERT(c->scratch_bytes >= ROWS_BYTES + SUMS_BYTES);
    float *sums = (float *)(void *)((char *)c->scratch + ROWS_BYTES);
    int64_t units = gate->rows, fit = (int64_t)(SUMS_BYTES / sizeof *sums - ALIGN) / (2 * units);
    int most = (int)SL_MIN(fit, rows_at_once(n, gate->cols));
    SL_ASSERT(fit > 0);
    for (int at = 0; at < n; at += most) {
        int now = SL_MIN(most, n - at);
        const struct sl_product p[2] = {
            {.w = gate, .bias = gate_bias, .out = sums},
            {.w = up, .bias = up_bias, .out = sums + (now * units + ALIGN - 1) / ALIGN * ALIGN},
        };
        own_products(c, (enum sl_mma_kind)kind,
                     (const char *)x + at * sl_cuda_row_stride(gate->cols), now, p, 2);
        sl_cuda_glu(c, act, p[0].out, p[1].out, now, units,
                    (char *)out + at * sl_cuda_row_stride(units));
    }
}
