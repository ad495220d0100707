/* gpu_fp4.cu - the product kernels of matmul_fp4.cuh with the emulated multiply-accumulate: the
 * same loads, swizzles, scale addressing, pipeline and epilogue on a card that lacks the
 * instruction. */
#include "kernels/cuda/matmul_fp4.cuh"
#include "tests/gpu/gpu_fp4.h"

extern "C" void gpu_fp4_matmul(struct sl_cuda *c, const struct sl_mma_rows *r, int n,
                               const struct sl_product *p, int n_products)
{
    sl_mma_launch<sl_mma_emulated>(c, r, n, p, n_products);
}
