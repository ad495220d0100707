/* nccl_none.c - a build without NCCL has no lanes of that kind; edges do without. */
#include "transport/gpu.h"
#include "transport/versions.h"

const struct sl_lane_kind *sl_nccl_lanes(int gpu)
{
    (void)gpu;
    return NULL;
}

int sl_nccl_version(void)
{
    return 0;
}
