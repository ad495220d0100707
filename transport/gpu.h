/* gpu.h - what links need of a card: memory for payloads on it, host memory that it reads and
 * writes at full speed, its identity. In a build without CUDA there is no card (gpu_none.c). */
#ifndef SL_TRANSPORT_GPU_H
#define SL_TRANSPORT_GPU_H

#include "transport/lane.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SL_GPU_ID_MAX 48 /* bytes of a card's name with its NUL */

/* "GPU-1b0e...": unlike any other card's. SL_EUNSUPPORTED without such a card, in the words of the
 * driver. */
int sl_gpu_id(int gpu, char out[SL_GPU_ID_MAX], struct sl_err *err);

/* n berths in the memory of a card. */
int sl_gpu_berths(int gpu, int n, size_t bytes, struct sl_berths **out, struct sl_err *err);

/* From here on the bodies of frames are pinned, for all threads of the process. Frames are kept and
 * used again (frame.h), so that pinning happens while serving begins. */
void sl_gpu_pin_frames(void);

/* Lanes over NCCL from and to this card: a communicator of two ranks per edge, in streams of their
 * own at high priority. NULL in a build without NCCL. Lives as long as the process. */
const struct sl_lane_kind *sl_nccl_lanes(int gpu);

#ifdef __cplusplus
}
#endif
#endif
