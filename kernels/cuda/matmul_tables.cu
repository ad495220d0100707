/* matmul_tables.cu - instances of the streaming product for codes that are looked up: NF4 and FP4
 * of bitsandbytes, IQ4_NL, IQ4_XS. */
#include "kernels/cuda/matmul_kernel.cuh"

namespace
{

template <int SCALE, bool PAIR> using lut4 = sl_format<SL_CUDA_LUT4, SCALE, SL_CUDA_MIN_NONE, PAIR>;

} // namespace

int sl_stream_tables(const struct sl_cuda *c, struct sl_stream_job *job)
{
    const struct sl_cuda_weight &w = job->part[0].w;
    if (w.code_kind != SL_CUDA_LUT4) return 0;
    if (w.scale_kind == SL_CUDA_SCALE_F16 && w.group >= 32)
        sl_stream_launch<lut4<SL_CUDA_SCALE_F16, false>>(c, job);
    else if (w.scale_kind == SL_CUDA_SCALE_F16)
        sl_stream_launch<lut4<SL_CUDA_SCALE_F16, true>>(c, job);
    else if (w.scale_kind == SL_CUDA_SCALE_SUB_I)
        sl_stream_launch<lut4<SL_CUDA_SCALE_SUB_I, false>>(c, job);
    else if (w.scale_kind == SL_CUDA_SCALE_NONE)
        sl_stream_launch<lut4<SL_CUDA_SCALE_NONE, false>>(c, job);
    else
        return 0;
    return 1;
}
