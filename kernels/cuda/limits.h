/* limits.h - a card that plays a lesser one, so that equal cards can stand for unlike ones in
 * tests: a share of its multiprocessors, and a bound on the speed of its memory. */
#ifndef SL_KERNELS_CUDA_LIMITS_H
#define SL_KERNELS_CUDA_LIMITS_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

struct sl_cuda_limits {
    int sm_percent;   /* of the multiprocessors, 1 to 100; 0: all */
    double bandwidth; /* bytes per second at which a step may read weights; 0: the card's */
};

/* What follows the number in a backend's name: "", ",sm=40", ",bandwidth=1.2e12", or both. */
int sl_cuda_limits_read(const char *text, struct sl_cuda_limits *out, struct sl_err *err);

struct sl_cuda_held {
    double bandwidth;
    uint64_t *began; /* device: when the step under way began, nanoseconds */
    uint64_t read;   /* bytes that the operations since begin() read */
    void *share;     /* the green context, or NULL */
};

/* Makes c->stream, with this priority, and holds what runs on it to l; c->sms becomes the share.
 * SL_EUNSUPPORTED when the driver has no green contexts (before CUDA 12.5). */
int sl_cuda_held_open(struct sl_cuda_held *h, struct sl_cuda *c, const struct sl_cuda_limits *l,
                      int priority, struct sl_err *err);
/* Destroys c->stream too. */
void sl_cuda_held_close(struct sl_cuda_held *h, struct sl_cuda *c);

/* Around the operations of a step. The end is one of them: recorded in a graph, it is replayed with
 * what was counted when it was recorded. */
void sl_cuda_held_begin(struct sl_cuda_held *h, struct sl_cuda *c);
static inline void sl_cuda_held_read(struct sl_cuda_held *h, uint64_t bytes)
{
    h->read += bytes;
}
void sl_cuda_held_end(struct sl_cuda_held *h, struct sl_cuda *c);

/* pace.cu: *began = now; waits on the device until `ns` after *began. */
void sl_cuda_pace_begin(struct sl_cuda *c, uint64_t *began);
void sl_cuda_pace_end(struct sl_cuda *c, const uint64_t *began, uint64_t ns);

#ifdef __cplusplus
}
#endif
#endif
