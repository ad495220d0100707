/* arch.h - model families; private to model/. One row per family: adding one is a new arch_NAME.c
 * and a line in config.c.
 *
 * The keys that all decoder families share (ARCH.block_count ...) are read by config.c; a family's
 * read() adds its own and refuses the variants of the family that would give wrong answers here. */
#ifndef SL_MODEL_ARCH_H
#define SL_MODEL_ARCH_H

#include "model/config.h"

struct sl_arch {
    const char *name; /* general.architecture, and the prefix of its keys */
    enum sl_rope_kind rope;
    /* Tensor names by role: inside layers what follows "blk.N."; NULL when the family has no such
     * tensor. */
    const char *tensors[SL_ROLE_COUNT];
    /* Called after the shared keys are in *c. 0 or an error. */
    int (*read)(const struct sl_weights *w, struct sl_config *c, struct sl_err *err);
};

extern const struct sl_arch sl_arch_llama, sl_arch_qwen2;

const struct sl_arch *sl_arch_find(const char *name); /* NULL when unknown */

/* Every tensor that the family needs is there and well shaped, and none is there that it does not
 * know. */
int sl_arch_check_tensors(const struct sl_arch *a, const struct sl_weights *w,
                          const struct sl_config *c, struct sl_err *err);

/* The names that GGUF gives to a plain decoder layer: attention and gated feed-forward, both behind
 * an RMS norm. */
#define SL_ARCH_PLAIN_TENSORS                                                                      \
    [SL_ROLE_ATTN_NORM] = "attn_norm.weight", [SL_ROLE_Q] = "attn_q.weight",                       \
    [SL_ROLE_K] = "attn_k.weight", [SL_ROLE_V] = "attn_v.weight",                                  \
    [SL_ROLE_Q_BIAS] = "attn_q.bias", [SL_ROLE_K_BIAS] = "attn_k.bias",                            \
    [SL_ROLE_V_BIAS] = "attn_v.bias", [SL_ROLE_O] = "attn_output.weight",                          \
    [SL_ROLE_FFN_NORM] = "ffn_norm.weight", [SL_ROLE_GATE] = "ffn_gate.weight",                    \
    [SL_ROLE_UP] = "ffn_up.weight", [SL_ROLE_DOWN] = "ffn_down.weight",                            \
    [SL_ROLE_EMBED] = "token_embd.weight", [SL_ROLE_OUT_NORM] = "output_norm.weight",              \
    [SL_ROLE_OUTPUT] = "output.weight"

#endif
