/* matmul_fp4.cu - products with the card's own 4- and 8-bit multiply-accumulate: see matmul_fp4.h
 * for what, matmul_fp4.cuh for how. For cards without an instruction its kernels are empty. */
#include "kernels/cuda/matmul_fp4.cuh"

static bool is_aligned(const struct sl_cuda_weight *w)
{
    return w->code_stride % 16 == 0 && w->cols_padded % SL_CUDA_PAD == 0;
}

/* 4-bit codes with block scales as files have them. */
static int choose4(const struct sl_cuda_weight *w, int narrow)
{
    if (w->scale_kind == SL_CUDA_SCALE_UE4M3 && w->group == 16) return SL_MMA_NVFP4;
    if (w->scale_kind == SL_CUDA_SCALE_E8M0 && w->group == 32)
        return narrow ? SL_MMA_MXFP4 : SL_MMA_MXFP4_A8;
    return -1;
}

extern "C" int sl_cuda_mma_choose(int cc, const struct sl_cuda_weight *w, int narrow)
{
    bool blocks = cc == 120 || cc == 121;
    if (!blocks && cc != 89) return -1;
    if (w->min_kind != SL_CUDA_MIN_NONE || w->offset != 0 || w->order || !is_aligned(w)) return -1;
    if (w->code_kind == SL_CUDA_E2M1) return blocks ? choose4(w, narrow) : -1;
    if (w->code_kind != SL_CUDA_E4M3) return -1;
    if (w->scale_kind == SL_CUDA_SCALE_E8M0 && w->group == 32) return blocks ? SL_MMA_MXFP8 : -1;
    if (w->scale_kind == SL_CUDA_SCALE_NONE) return SL_MMA_FP8;
    if (w->scale_kind == SL_CUDA_SCALE_GRID && w->grid_cols % SL_MMA_PROMOTE == 0)
        return SL_MMA_FP8;
    return -1;
}

extern "C" void sl_cuda_mma_matmul(struct sl_cuda *c, const struct sl_mma_rows *r, int n,
                                   const struct sl_product *p, int n_products)
{
    sl_mma_launch<sl_mma_card>(c, r, n, p, n_products);
}
