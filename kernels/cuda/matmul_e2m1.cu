/* matmul_e2m1.cu - instances of the streaming product for E2M1: NVFP4, MXFP4 and E2M1 with other
 * scales. */
#include "kernels/cuda/matmul_kernel.cuh"

namespace
{

template <int SCALE, bool PAIR> using e2m1 = sl_format<SL_CUDA_E2M1, SCALE, SL_CUDA_MIN_NONE, PAIR>;

} // namespace

int sl_stream_fp4(const struct sl_cuda *c, struct sl_stream_job *job)
{
    const struct sl_cuda_weight &w = job->part[0].w;
    if (w.code_kind != SL_CUDA_E2M1) return 0;
    if (w.scale_kind == SL_CUDA_SCALE_UE4M3 && w.group == 16)
        sl_stream_launch<e2m1<SL_CUDA_SCALE_UE4M3, true>>(c, job);
    else if (w.scale_kind == SL_CUDA_SCALE_E8M0 && w.group >= 32)
        sl_stream_launch<e2m1<SL_CUDA_SCALE_E8M0, false>>(c, job);
    else if (w.scale_kind == SL_CUDA_SCALE_F16 && w.group >= 32)
        sl_stream_launch<e2m1<SL_CUDA_SCALE_F16, false>>(c, job);
    else if (w.scale_kind == SL_CUDA_SCALE_F16)
        sl_stream_launch<e2m1<SL_CUDA_SCALE_F16, true>>(c, job);
    else if (w.scale_kind == SL_CUDA_SCALE_NONE)
        sl_stream_launch<e2m1<SL_CUDA_SCALE_NONE, false>>(c, job);
    else
        return 0;
    return 1;
}
