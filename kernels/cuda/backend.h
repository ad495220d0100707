/* backend.h - the CUDA backend's own parts: memory, weights, steps, recorded graphs. Private to
 * kernels/cuda. */
#ifndef SL_KERNELS_CUDA_BACKEND_H
#define SL_KERNELS_CUDA_BACKEND_H

#include "kernels/backend.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/limits.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SL_CUDA_GRAPHS_MAX 64            /* shapes of steps that are kept recorded */
#define SL_CUDA_PINNED_BYTES (16u << 20) /* of one of the two buffers that weights come through */
#define SL_CUDA_RESERVE_BYTES                                                                      \
    (512ull << 20) /* of a card that are left to the driver and others                             \
                    */

/* One device allocation, given out from the front; what loading needs for a moment comes from the
 * back. */
struct sl_cuda_arena {
    char *base;
    size_t bytes, used;
    int live; /* allocations: with the last one everything is free again */
};

struct sl_cuda_graph {
    int rows, picks, max_len;
    uint32_t key;
    int seen; /* times; the second time it is recorded */
    uint64_t used;
    cudaGraphExec_t exec;
};

struct sl_cuda_backend {
    struct sl_cuda c;
    struct sl_cuda_held held; /* whether the card plays a lesser one; has the stream */
    struct sl_backend_limits limits;
    struct sl_cuda_arena arena;
    struct sl_pool *pool; /* copies weights into the pinned buffers */
    struct {
        void *data;
        cudaEvent_t free;
    } pinned[2];
    int pinned_next;

    const struct sl_step *step; /* the one under way */
    int32_t *blob_host, *blob;  /* its descriptor, pinned and on the device */
    size_t blob_words;
    struct sl_drawn *drawn_host; /* pinned, [max_rows] */
    float *scored_host;
    void *own[20]; /* fixed arrays, from the arena */
    int n_own;

    struct sl_cuda_graph graphs[SL_CUDA_GRAPHS_MAX];
    struct sl_cuda_graph *recording;
    uint64_t steps;
    struct sl_err failed; /* the first error of the step under way */
};

/* memory.c */
void *sl_cuda_alloc(struct sl_backend *b, size_t bytes, struct sl_err *err);
void sl_cuda_free(struct sl_backend *b, void *p);
uint64_t sl_cuda_left(struct sl_backend *b);
int sl_cuda_arena_open(struct sl_cuda_backend *g, uint64_t bytes, struct sl_err *err);
void sl_cuda_arena_close(struct sl_cuda_backend *g);
void sl_cuda_upload(struct sl_backend *b, void *dst, const void *src, size_t n);
void sl_cuda_download(struct sl_backend *b, void *dst, const void *src, size_t n);

/* weights.c */
int sl_cuda_load(struct sl_backend *b, enum sl_use use, const struct sl_matrix *m,
                 struct sl_weight *w, struct sl_err *err);
void sl_cuda_unload(struct sl_backend *b, struct sl_weight *w);
int sl_cuda_group(struct sl_backend *b, struct sl_weight *w, int n, struct sl_err *err);

/* step.c */
int sl_cuda_step_open(struct sl_cuda_backend *g, struct sl_err *err);
size_t sl_cuda_step_bytes(const struct sl_backend_limits *l);
void sl_cuda_step_close(struct sl_cuda_backend *g);
void sl_cuda_begin(struct sl_backend *b, struct sl_step *s);
int sl_cuda_replay(struct sl_backend *b, uint32_t key);
void sl_cuda_recorded(struct sl_backend *b);
int sl_cuda_end(struct sl_backend *b, struct sl_err *err);
const struct sl_drawn *sl_cuda_drawn(struct sl_backend *b);
const float *sl_cuda_scored(struct sl_backend *b);

/* spread.cu: words of the descriptor to their fixed places. */
struct sl_cuda_blob_head {
    int32_t rows, lone, tiles, picks, adjusts, blocks, has_ids;
};
#define SL_CUDA_BLOB_HEAD 8 /* words before the arrays */
void sl_cuda_spread(struct sl_cuda *c, const int32_t *blob, const struct sl_cuda_blob_head *h);

#ifdef __cplusplus
}
#endif
#endif
