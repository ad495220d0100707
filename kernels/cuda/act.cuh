/* act.cuh - the gated units of kernels.h (formulas: kernels/ref/ops.c), for whoever applies one to
 * the sums of a product. */
#ifndef SL_KERNELS_CUDA_ACT_CUH
#define SL_KERNELS_CUDA_ACT_CUH

#include "kernels/cuda/cuda.h"

/* x * sigmoid(by * x), also for x of any size: exp overflows to infinity, the quotient to 0. The
 * quick division (2 units in the last place) keeps gated units bound by memory, not arithmetic. */
static __device__ __forceinline__ float sl_swish(float x, float by)
{
    return __fdividef(x, 1 + __expf(-by * x));
}

static __device__ __forceinline__ float sl_gated(enum sl_act act, float gate, float up)
{
    switch (act) {
    case SL_ACT_SILU:
        break;
    case SL_ACT_GELU: /* erfc keeps its bits where 1 + erf would cancel */
        return 0.5f * gate * erfcf(-gate * 0.70710678f) * up;
    case SL_ACT_GELU_TANH: /* (1 + tanh(z)) / 2 = sigmoid(2 z), z = sqrt(2 / pi) (...) */
        return sl_swish(gate, 1.5957691f * (1 + 0.044715f * gate * gate)) * up;
    case SL_ACT_SWIGLU_OAI: /* comparisons, not fminf: a NaN stays one */
        gate = gate > 7 ? 7 : gate;
        up = up > 7 ? 7 : up < -7 ? -7 : up;
        return (up + 1) * sl_swish(gate, 1.702f);
    }
    return sl_swish(gate, 1) * up;
}

/* What a product row of SL_CUDA_GLU_SCALE holds for y: within the halfs' range, NaN kept. */
static __device__ __forceinline__ float sl_glu_half_range(float y)
{
    constexpr float TOP = 65504; /* the largest half */
    y *= 1 / SL_CUDA_GLU_SCALE;
    return y > TOP ? TOP : y < -TOP ? -TOP : y;
}

#endif
