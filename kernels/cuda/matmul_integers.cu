/* matmul_integers.cu - instances of the streaming product for integers with scales beside them,
 * with and without zero points: AWQ, GPTQ, compressed-tensors; Q4_0, Q4_1 and Q8_0 take the same
 * form. */
#include "kernels/cuda/matmul_kernel.cuh"

namespace
{

template <int CODE, int SCALE, int MIN, bool PAIR = false>
int go(const sl_cuda *c, sl_stream_job *job)
{
    sl_stream_launch<sl_format<CODE, SCALE, MIN, PAIR>>(c, job);
    return 1;
}

int nibbles(const sl_cuda *c, sl_stream_job *job)
{
    const struct sl_cuda_weight &w = job->part[0].w;
    bool zeros = w.min_kind == SL_CUDA_MIN_ZERO_U8, pair = w.group == 16;
    switch (w.scale_kind) {
    case SL_CUDA_SCALE_NONE:
        if (zeros && pair)
            return go<SL_CUDA_U4, SL_CUDA_SCALE_NONE, SL_CUDA_MIN_ZERO_U8, true>(c, job);
        if (zeros) return go<SL_CUDA_U4, SL_CUDA_SCALE_NONE, SL_CUDA_MIN_ZERO_U8>(c, job);
        return go<SL_CUDA_U4, SL_CUDA_SCALE_NONE, SL_CUDA_MIN_NONE>(c, job);
    case SL_CUDA_SCALE_F16:
        if (w.min_kind == SL_CUDA_MIN_F16)
            return go<SL_CUDA_U4, SL_CUDA_SCALE_F16, SL_CUDA_MIN_F16>(c, job);
        if (zeros && pair)
            return go<SL_CUDA_U4, SL_CUDA_SCALE_F16, SL_CUDA_MIN_ZERO_U8, true>(c, job);
        if (zeros) return go<SL_CUDA_U4, SL_CUDA_SCALE_F16, SL_CUDA_MIN_ZERO_U8>(c, job);
        if (pair) return go<SL_CUDA_U4, SL_CUDA_SCALE_F16, SL_CUDA_MIN_NONE, true>(c, job);
        return go<SL_CUDA_U4, SL_CUDA_SCALE_F16, SL_CUDA_MIN_NONE>(c, job);
    default:
        return 0;
    }
}

template <int CODE> int bytes(const sl_cuda *c, sl_stream_job *job)
{
    const struct sl_cuda_weight &w = job->part[0].w;
    bool scaled = w.scale_kind == SL_CUDA_SCALE_F16;
    if (!scaled && w.scale_kind != SL_CUDA_SCALE_NONE) return 0;
    if (w.min_kind == SL_CUDA_MIN_ZERO_U8) {
        if constexpr (CODE == SL_CUDA_U8)
            return scaled ? go<CODE, SL_CUDA_SCALE_F16, SL_CUDA_MIN_ZERO_U8>(c, job)
                          : go<CODE, SL_CUDA_SCALE_NONE, SL_CUDA_MIN_ZERO_U8>(c, job);
        return 0;
    }
    return scaled ? go<CODE, SL_CUDA_SCALE_F16, SL_CUDA_MIN_NONE>(c, job)
                  : go<CODE, SL_CUDA_SCALE_NONE, SL_CUDA_MIN_NONE>(c, job);
}

} // namespace

int sl_stream_integers(const struct sl_cuda *c, struct sl_stream_job *job)
{
    switch (job->part[0].w.code_kind) {
    case SL_CUDA_U4:
        return nibbles(c, job);
    case SL_CUDA_U8:
        return bytes<SL_CUDA_U8>(c, job);
    case SL_CUDA_I8:
        return bytes<SL_CUDA_I8>(c, job);
    default:
        return 0;
    }
}
