/* refused.cu - the NVFP4 instruction where no card has it: ptxas must not assemble this for sm_90a. */
#define __CUDA_ARCH_FEAT_SM120_ALL 1 /* pretends that the target is one of those that have it */
#include "kernels/cuda/mma_fp4.cuh"

__global__ void refused(float *out, const uint32_t *in)
{
    float c[4] = {};
    sl_mma_card::step<SL_MMA_NVFP4, 0, 0, 0>(c, in, in + 4, in[6], in[7]);
    out[threadIdx.x] = c[0] + c[1] + c[2] + c[3];
}
