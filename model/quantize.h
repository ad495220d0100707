/* quantize.h - a model written again in another format: Hugging Face folder or GGUF file in, folder
 * out.
 *
 * Layers are read in whatever scheme they are in (model/linear.h), so a quantized model can be
 * turned back into BF16 too. Embeddings, lm_head, norms, routers and vision towers are copied. One
 * layer is in memory at a time; shards are written at their final places, in a folder beside the
 * result that is renamed when all is there, so an interrupted run leaves no half model.
 *
 * Of a GGUF file the whole folder is made anew: tensors under their family's names and in its order
 * of rows, config.json, generation_config.json, tokenizer.json and tokenizer_config.json. Embeddings
 * and lm_head become BF16, norms, biases and routers F32.
 *
 * Written as compressed-tensors (the scheme that other engines read too); bf16 is plain. */
#ifndef SL_MODEL_QUANTIZE_H
#define SL_MODEL_QUANTIZE_H

#include <stdint.h>

#include "base/err.h"
#include "base/matrix.h"
#include "model/weights.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SL_QUANTIZE_SHARD_BYTES ((uint64_t)5000000000u) /* of one file, as hubs like them */

enum sl_quantize_to {
    SL_TO_BF16,  /* plain */
    SL_TO_FP8,   /* E4M3, a scale per row */
    SL_TO_NVFP4, /* E2M1, an E4M3 scale per 16 and one for the matrix */
    SL_TO_MXFP4, /* E2M1, an E8M0 scale per 32 */
    SL_TO_Q8_0,  /* 8-bit integers, a scale per 32 */
    SL_TO_Q4_0,  /* 4-bit integers, a scale per 32 */
    SL_TO_COUNT
};

const char *sl_quantize_name(enum sl_quantize_to to); /* "nvfp4" */
int sl_quantize_find(const char *name);               /* enum sl_quantize_to, or -1 */

struct sl_quantize {
    enum sl_quantize_to to;
    uint64_t shard_bytes; /* 0: SL_QUANTIZE_SHARD_BYTES */
    /* Row `row` of m as float32 (kernels' sl_matrix_row: model/ itself computes nothing). */
    void (*row)(const struct sl_matrix *m, int64_t row, float *out);
    /* Called after each tensor; may be NULL. */
    void (*progress)(void *arg, uint64_t done, uint64_t total, const char *name);
    void *arg;
};

struct sl_quantize_result {
    uint64_t bytes_in, bytes_out; /* of tensors */
    int layers, kept; /* layers that were quantized; matrices of layers that could not */
};

/* Writes w as folder `out`, which must not exist. SL_EUNSUPPORTED for experts in one tensor and
 * for a GGUF file of a family, or with settings or a tokenizer, that a folder is not written of, SL_EINPUT for a damaged model, SL_EIO (disk full ...), SL_ENOMEM; nothing is left
 * behind then. */
int sl_quantize(struct sl_weights *w, const char *out, const struct sl_quantize *q,
                struct sl_quantize_result *result, struct sl_err *err);

#ifdef __cplusplus
}
#endif
#endif
