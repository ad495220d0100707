/* arch_qwen2.c - Qwen2 and Qwen2.5: Llama's layer with biases on q, k and v and rotation pairs half
 * a head apart; the small models use the embedding as output matrix. */
#include "model/arch.h"

static int read_qwen2(const struct sl_weights *w, struct sl_config *c, struct sl_err *err)
{
    (void)w;
    (void)err;
    c->qkv_bias = 1;
    return 0;
}

const struct sl_arch sl_arch_qwen2 = {
    .name = "qwen2",
    .rope = SL_ROPE_NEOX,
    .tensors = {SL_ARCH_PLAIN_TENSORS},
    .read = read_qwen2,
};
