/* arch_llama.c - Llama 1 to 3, Mistral, SmolLM2 and all that is exported under the same name.
 *
 * GGUF files of this family have the rows of q and k permuted so that rotation pairs are
 * neighbours. Llama 3's frequency factors come as the tensor rope_freqs.weight. Mixtral shares the
 * name, told apart by expert_count (config.c refuses it). */
#include "model/arch.h"

static int read_llama(const struct sl_weights *w, struct sl_config *c, struct sl_err *err)
{
    (void)err;
    /* the few exports with attention_bias: biases of q and k are permuted like their rows */
    c->qkv_bias = sl_weights_find(w, "blk.0.attn_q.bias") != NULL;
    return 0;
}

const struct sl_arch sl_arch_llama = {
    .name = "llama",
    .rope = SL_ROPE_NORM,
    .tensors = {SL_ARCH_PLAIN_TENSORS, [SL_ROLE_ROPE_FREQS] = "rope_freqs.weight"},
    .read = read_llama,
};
