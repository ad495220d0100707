/* models.h - whole models run stage by stage inside a test, without coordinator or tokenizer: token
 * ids in, logits, continuations and residual streams out. */
#ifndef SL_TESTS_MODELS_H
#define SL_TESTS_MODELS_H

#include "kernels/kernels.h"
#include "model/config.h"
#include "stage/stage.h"

#define MODEL_TOKENS_MAX 320 /* of one sequence */
#define MODEL_STAGES_MAX 64

/* A model cut into stages; they run one after another on one backend, on a card each on its own. */
struct pipeline {
    struct sl_stage *stages[MODEL_STAGES_MAX];
    struct sl_backend *own[MODEL_STAGES_MAX];
    int n;
    uint64_t weight_bytes; /* of all stages together */
    uint64_t slot;         /* micro-batches run */
    int far_from;          /* longer sequences turn by other frequencies; 0: the model has none */
};

/* Cuts the model at even places into n stages; float32 KV cache. Fails the test on errors. */
void pipeline_open(struct pipeline *p, struct sl_backend *b, const char *path, int n);
/* Only a first stage, of layers [0, n_layers) of a model that has more stages behind it. */
void pipeline_open_head(struct pipeline *p, struct sl_backend *b, const char *path, int n_layers);
void pipeline_close(struct pipeline *p);

/* Runs `tokens` from position `pos` of a sequence that is known to have `total` tokens (pos 0
 * starts it over); logits [n][n_vocab] of its rows. */
void pipeline_logits(struct pipeline *p, const int32_t *tokens, int n, int pos, int total,
                     float *logits, int n_vocab);
/* The residual stream [n][n_embd] that a pipeline_open_head hands on. */
void pipeline_hidden(struct pipeline *p, const int32_t *tokens, int n, float *x, int n_embd);

#endif
