/* gpu_none.c - gpu.h in a build without CUDA: there is no card. */
#include "transport/gpu.h"

static int none(struct sl_err *err, int gpu)
{
    return sl_err_set(err, SL_EUNSUPPORTED, "GPU %d: this program was built without CUDA", gpu);
}

int sl_gpu_id(int gpu, char out[SL_GPU_ID_MAX], struct sl_err *err)
{
    out[0] = 0;
    return none(err, gpu);
}

int sl_gpu_berths(int gpu, int n, size_t bytes, struct sl_berths **out, struct sl_err *err)
{
    (void)n, (void)bytes, (void)out;
    return none(err, gpu);
}

void sl_gpu_pin_frames(void)
{
}
