/* stage.h - one stage: weights and KV cache of layers [from, to), and the step that runs a
 * micro-batch through them.
 *
 * It makes no policy: block tables and sampling parameters come with the descriptors. The step is
 * called by one thread (the compute thread) at a time; the same frames in the same order give the
 * same bits out. */
#ifndef SL_STAGE_STAGE_H
#define SL_STAGE_STAGE_H

#include "base/err.h"
#include "kernels/kernels.h"
#include "transport/frame.h"

#ifdef __cplusplus
extern "C" {
#endif

struct sl_stage;

struct sl_stage_params {
    const char *model;          /* path of the weights */
    int stage, n_stages;        /* place in the pipeline; the first embeds, the last samples */
    int layer_from, layer_to;   /* [from, to) */
    int block_tokens, n_blocks; /* KV blocks wanted */
    int max_seqs, max_rows;
    const char *kv_type;         /* "auto", "f32", "f16", "bf16" */
    uint64_t memory_bytes;       /* limit for weights + KV + workspace; 0 = none */
    const char *const *adapters; /* [n_adapters] folders of LoRA adapters */
    int n_adapters;
    /* Bytes of weights loaded so far; may be NULL. Not 0: give loading up (SL_ECANCELLED). */
    int (*progress)(void *arg, uint64_t done, uint64_t total);
    void (*moved)(void *arg); /* after each layer of a step: a long step that moves is not a hang;
                                 may be NULL */
    void *progress_arg;
};

struct sl_stage_info {
    int n_blocks; /* reserved; <= wanted when memory is short */
    uint64_t weight_bytes, kv_bytes, workspace_bytes;
    struct sl_berths *berths; /* the stage's; NULL: payloads are never in a device's memory */
};

/* Reserves KV and workspace first, then loads. SL_ELIMIT when not even one sequence of one block
 * fits, saying how many bytes are missing. `b` must outlive the stage. */
int sl_stage_create(struct sl_backend *b, const struct sl_stage_params *p, struct sl_stage **out,
                    struct sl_err *err);
void sl_stage_destroy(struct sl_stage *s);
void sl_stage_get_info(const struct sl_stage *s, struct sl_stage_info *out);

/* A new epoch: forgets all sequences (the KV memory stays). Activations are sent on as F32, BF16 or
 * F8_E4M3. */
void sl_stage_reset(struct sl_stage *s, enum sl_dtype send_as);

/* Runs one micro-batch. Takes `in`; *out is the frame for the next hop (BATCH with activations, or
 * RESULTS from the last stage). SL_EPROTO when the descriptor contradicts what the stage knows
 * (unknown sequence, block out of range, position not continuing): the stage has failed then. *rows
 * is the number of rows run. */
int sl_stage_step(struct sl_stage *s, struct sl_frame *in, struct sl_frame **out, uint32_t *rows,
                  struct sl_err *err);

#ifdef __cplusplus
}
#endif
#endif
