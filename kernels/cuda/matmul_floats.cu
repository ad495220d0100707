/* matmul_floats.cu - instances of the streaming product for F16 and 8-bit floats. */
#include "kernels/cuda/matmul_kernel.cuh"

namespace
{

template <int CODE, int SCALE> using plain = sl_format<CODE, SCALE, SL_CUDA_MIN_NONE, false>;

template <int CODE> int fp8(const sl_cuda *c, sl_stream_job *job)
{
    switch (job->part[0].w.scale_kind) {
    case SL_CUDA_SCALE_NONE:
        sl_stream_launch<plain<CODE, SL_CUDA_SCALE_NONE>>(c, job);
        return 1;
    case SL_CUDA_SCALE_GRID:
        sl_stream_launch<plain<CODE, SL_CUDA_SCALE_GRID>>(c, job);
        return 1;
    case SL_CUDA_SCALE_F16:
        sl_stream_launch<plain<CODE, SL_CUDA_SCALE_F16>>(c, job);
        return 1;
    case SL_CUDA_SCALE_E8M0:
        sl_stream_launch<plain<CODE, SL_CUDA_SCALE_E8M0>>(c, job);
        return 1;
    default:
        return 0;
    }
}

} // namespace

int sl_stream_floats(const struct sl_cuda *c, struct sl_stream_job *job)
{
    switch (job->part[0].w.code_kind) {
    case SL_CUDA_F16:
        sl_stream_launch<plain<SL_CUDA_F16, SL_CUDA_SCALE_NONE>>(c, job);
        return 1;
    case SL_CUDA_E4M3:
        return fp8<SL_CUDA_E4M3>(c, job);
    case SL_CUDA_E5M2:
        return fp8<SL_CUDA_E5M2>(c, job);
    default:
        return 0;
    }
}
