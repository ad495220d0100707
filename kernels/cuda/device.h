/* device.h - how kernels/backend.c makes a backend of an NVIDIA card. Private to kernels/. */
#ifndef SL_KERNELS_CUDA_DEVICE_H
#define SL_KERNELS_CUDA_DEVICE_H

#include "kernels/backend.h"

/* NVIDIA cards that are visible here; 0 also without a driver. */
int sl_cuda_devices(void);
/* Fills b for the card, held to `limits` (limits.h: what follows its number); after an error
 * sl_cuda_close lets go of what was made. SL_EUNSUPPORTED, naming what is there, when it does not
 * exist or is too old. */
int sl_cuda_open(struct sl_backend *b, int device, const char *limits, struct sl_err *err);
void sl_cuda_close(struct sl_backend *b);
void sl_cuda_enter(struct sl_backend *b); /* makes it the calling thread's card */
int sl_cuda_number(const struct sl_backend *b);
uint64_t sl_cuda_card_memory(int device);       /* free bytes, less a reserve */
double sl_cuda_bandwidth(struct sl_backend *b); /* of long reads, or its limit; bytes per second */

#endif
