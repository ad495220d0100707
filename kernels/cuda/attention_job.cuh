/* attention_job.cuh - what the kernels of attention over keys and values are given, and their
 * launchers, which attention.cu calls. */
#ifndef SL_KERNELS_CUDA_ATTENTION_JOB_CUH
#define SL_KERNELS_CUDA_ATTENTION_JOB_CUH

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_parts.cuh"

struct attention {
    const char *k, *v;
    struct kv_blocks blocks;
    int n_heads, n_kv_heads, group, head_dim; /* group: query heads of a KV head */
    float scale, softcap;                     /* of struct sl_attn */
    int window;
    const float *sinks;
    const float *q;
    char *out;
    int64_t row_bytes; /* of out */
    const int32_t *pos, *slot, *lone, *tables;
    const struct sl_cuda_tile *tiles;
    int max_blocks, n_rows;
    enum sl_dtype type;
};

/* Lone rows [first, first + n) of the step: their pieces, then what these give together. `padding`:
 * also makes the rows without a sequence. attention_lone.cu, attention_join.cu */
void sl_cuda_attention_lone(struct sl_cuda *c, const struct attention *a, int first, int n,
                            const struct parts *p, int padding);
void sl_cuda_attention_join(struct sl_cuda *c, const struct attention *a, int first, int n,
                            const struct parts *p, int padding);

/* All tiles of the step, on any card. attention_tile.cu */
void sl_cuda_attention_tiles(struct sl_cuda *c, const struct attention *a, int padding);
/* The same where Hopper has a kernel for it; else does nothing and says false.
 * attention_tile90.cu */
bool sl_cuda_attention_tiles90(struct sl_cuda *c, const struct attention *a, int padding);

#endif
