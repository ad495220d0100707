/* tiny.h - a complete model of two layers with random weights in a temporary file, and frames for a
 * stage that runs it. */
#ifndef SL_TESTS_TINY_H
#define SL_TESTS_TINY_H

#include "proto/batch.h"
#include "stage/stage.h"
#include "transport/frame.h"

#define TINY_LAYERS 2
#define TINY_EMBD 8
#define TINY_VOCAB 4
#define TINY_BLOCK 16
#define TINY_PATH_MAX 64

/* Writes a "llama" or "qwen2" model; path[TINY_PATH_MAX] is its name, to be unlinked by the caller.
 */
void tiny_write(const char *arch, char *path);

/* Parameters of stage `stage` of n over the layers of the model in `path`. */
struct sl_stage_params tiny_params(const char *path, int stage, int n_stages);

/* A frame for the first stage. */
struct sl_frame *tiny_frame(const struct sl_batch *b, uint32_t epoch, uint64_t slot);

/* A share that registers sequence `seq` at position 0 with n tokens (of 0, 1, 2, 3, 0 ...) and
 * n_blocks blocks from `block` on. Static storage, good until the next call but one. */
struct sl_batch_seq tiny_share(uint32_t seq, uint32_t flags, int n, int block, int n_blocks);

#endif
