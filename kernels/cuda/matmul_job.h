/* matmul_job.h - one launch of the streaming product, as the dispatcher (matmul.cu) gives it to the
 * files of instances. Private to the matmul files. */
#ifndef SL_KERNELS_CUDA_MATMUL_JOB_H
#define SL_KERNELS_CUDA_MATMUL_JOB_H

#include "kernels/cuda/cuda.h"

#define SL_STREAM_PARTS 4    /* products of one launch */
#define SL_STREAM_DEVICES 64 /* cards of one process */

struct sl_stream_part {
    struct sl_cuda_weight w;
    const char *x; /* product rows */
    float *out;
    const float *bias;
    int flags, blocks; /* blocks: filled in by the launcher */
};

/* Up to four products of weights of one form; or, with `rows`, gate and up of a gated unit. */
struct sl_stream_job {
    struct sl_stream_part part[SL_STREAM_PARTS];
    int n_parts, n;
    int64_t x_stride;
    enum sl_act act;
    void *rows;
    int ahead; /* filled in by the launcher: L2 may be asked for all of a block's weights */
    int whole; /* the same: activations of a slice fit in shared memory */
};

/* Launches the instance for the form of part[0].w; 0 when the file has none. */
int sl_stream_floats(const struct sl_cuda *c, struct sl_stream_job *job);   /* F16, FP8 */
int sl_stream_fp4(const struct sl_cuda *c, struct sl_stream_job *job);      /* E2M1 */
int sl_stream_tables(const struct sl_cuda *c, struct sl_stream_job *job);   /* LUT4 */
int sl_stream_integers(const struct sl_cuda *c, struct sl_stream_job *job); /* U4, U8, I8 */
int sl_stream_blocks(const struct sl_cuda *c, struct sl_stream_job *job);   /* GGUF's others */
/* F32 weights: plain arithmetic. */
int sl_stream_plain(const struct sl_cuda *c, struct sl_stream_job *job);

#endif
