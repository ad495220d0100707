/* spread.cu - the words of a step's descriptor, sent in one piece, go to their fixed places, where
 * recorded operations look for them. */
#include "kernels/cuda/backend.h"
#include "kernels/cuda/launch.cuh"

#define THREADS 256

namespace {

struct part {
    int32_t *to;
    int32_t words; /* from the blob to `to`, in order */
};

#define PARTS 9

struct parts {
    part p[PARTS];
    int32_t blocks; /* then so many (sequence, place, block) */
    int32_t *tables;
    int32_t max_blocks;
};

__global__ void spread(const int32_t *blob, parts all)
{
    sl_wait();
    int i = blockIdx.x * THREADS + threadIdx.x, step = gridDim.x * THREADS;
    const int32_t *from = blob + SL_CUDA_BLOB_HEAD;
#pragma unroll
    for (int k = 0; k < PARTS; k++) {
        for (int w = i; w < all.p[k].words; w += step) all.p[k].to[w] = from[w];
        from += all.p[k].words;
    }
    for (int e = i; e < all.blocks; e += step)
        all.tables[(int64_t)from[3 * e] * all.max_blocks + from[3 * e + 1]] = from[3 * e + 2];
    sl_next();
}

} // namespace

extern "C" void sl_cuda_spread(struct sl_cuda *c, const int32_t *blob,
                               const struct sl_cuda_blob_head *h)
{
    const struct sl_cuda_step *s = &c->step;
    const int32_t draw = sizeof(struct sl_draw) / 4;
    const parts all = {{{s->pos, h->rows},
                        {s->slot, h->rows},
                        {s->ids, h->has_ids ? h->rows : 0},
                        {s->lone, h->lone},
                        {(int32_t *)s->tiles, 4 * h->tiles},
                        {s->picks, h->picks},
                        {s->next, h->picks},
                        {(int32_t *)s->draw, draw * h->picks},
                        {(int32_t *)s->adjust, 3 * h->adjusts}},
                       h->blocks,
                       s->tables,
                       s->max_blocks};
    int most = h->rows + draw * h->picks + h->adjusts + h->blocks;
    sl_launch(c, spread, 1 + (most - 1) / THREADS / 8, THREADS, 0, blob, all);
}
