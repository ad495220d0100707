/* moe_forms.cuh - the kernels of one form of weights as a row of a table; moe_forms_*.cu hold the
 * rows, a few forms each, so that they compile side by side. */
#ifndef SL_KERNELS_CUDA_MOE_FORMS_CUH
#define SL_KERNELS_CUDA_MOE_FORMS_CUH

#include "kernels/cuda/moe_grouped.cuh"
#include "kernels/cuda/moe_stream.cuh"

/* Which weights a row is for. `pair`: groups narrower than the columns that a lane takes. */
struct sl_moe_form {
    enum sl_cuda_code code;
    enum sl_cuda_scale scale;
    enum sl_cuda_min min;
    bool pair;
    int lane_k;
    sl_moe_kernels kernels;
};

template <class F> static constexpr sl_moe_form sl_moe_form_of()
{
    return {(enum sl_cuda_code)F::CODE,
            (enum sl_cuda_scale)F::SCALE,
            (enum sl_cuda_min)F::MIN,
            F::PAIR,
            F::LANE_K,
            {sl_moe_stream_up_launch<F>, sl_moe_stream_down_launch<F>,
             sl_moe_grouped_launch<F, true>, sl_moe_grouped_launch<F, false>,
             sl_moe_one_down_launch<F>}};
}

/* A row without minimum and pairs, and with them. */
#define SL_MOE_FORM(code, scale)                                                                   \
    sl_moe_form_of<sl_format<SL_CUDA_##code, SL_CUDA_SCALE_##scale, SL_CUDA_MIN_NONE, false>>()
#define SL_MOE_FORM_MIN(code, scale, min)                                                          \
    sl_moe_form_of<sl_format<SL_CUDA_##code, SL_CUDA_SCALE_##scale, SL_CUDA_MIN_##min, false>>()
#define SL_MOE_FORM_PAIR(code, scale, min)                                                         \
    sl_moe_form_of<sl_format<SL_CUDA_##code, SL_CUDA_SCALE_##scale, SL_CUDA_MIN_##min, true>>()

#endif
