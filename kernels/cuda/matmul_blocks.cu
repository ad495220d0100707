/* matmul_blocks.cu - instances of the streaming product for GGUF's blocks of two levels of scales
 * (k-quants) and of five bits. */
#include "kernels/cuda/matmul_kernel.cuh"

namespace
{

template <int CODE, int SCALE, int MIN, bool PAIR> int go(const sl_cuda *c, sl_stream_job *job)
{
    sl_stream_launch<sl_format<CODE, SCALE, MIN, PAIR>>(c, job);
    return 1;
}

} // namespace

int sl_stream_blocks(const struct sl_cuda *c, struct sl_stream_job *job)
{
    const struct sl_cuda_weight &w = job->part[0].w;
    bool sub = w.min_kind == SL_CUDA_MIN_SUB;
    switch (w.code_kind) {
    case SL_CUDA_U2:
        return go<SL_CUDA_U2, SL_CUDA_SCALE_SUB_U, SL_CUDA_MIN_SUB, true>(c, job);
    case SL_CUDA_U3:
        return go<SL_CUDA_U3, SL_CUDA_SCALE_SUB_I, SL_CUDA_MIN_NONE, true>(c, job);
    case SL_CUDA_U4:
        return sub ? go<SL_CUDA_U4, SL_CUDA_SCALE_SUB_U, SL_CUDA_MIN_SUB, false>(c, job) : 0;
    case SL_CUDA_U5:
        if (sub) return go<SL_CUDA_U5, SL_CUDA_SCALE_SUB_U, SL_CUDA_MIN_SUB, false>(c, job);
        return w.min_kind == SL_CUDA_MIN_F16
                   ? go<SL_CUDA_U5, SL_CUDA_SCALE_F16, SL_CUDA_MIN_F16, false>(c, job)
                   : go<SL_CUDA_U5, SL_CUDA_SCALE_F16, SL_CUDA_MIN_NONE, false>(c, job);
    case SL_CUDA_U6:
        return go<SL_CUDA_U6, SL_CUDA_SCALE_SUB_I, SL_CUDA_MIN_NONE, true>(c, job);
    default:
        return 0;
    }
}
