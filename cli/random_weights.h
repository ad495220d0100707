/* random_weights.h - a model of a real shape with random numbers: speed does not depend on what
 * weights say, so it can be measured before anything is downloaded. */
#ifndef SL_CLI_RANDOM_WEIGHTS_H
#define SL_CLI_RANDOM_WEIGHTS_H

#include "base/err.h"

/* Writes config.json, tokenizer.json (bytes) and model.safetensors of a shape ("llama-8b") in a
 * format ("bf16", "fp8", "fp8-block", "nvfp4", "mxfp4") into the folder, which exists. Embeddings,
 * router and output matrix are BF16, as in such checkpoints. SL_EUSAGE naming what is known; SL_EIO
 * when the disk is full. */
int sl_random_weights_write(const char *shape, const char *format, const char *folder,
                            struct sl_err *err);
const char *sl_random_weights_shapes(void); /* "llama-8b, ..." */
const char *sl_random_weights_formats(void);

#endif
