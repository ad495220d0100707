/* arch_llama.c - Llama 1 to 3, SmolLM2, Yi, DeepSeek-R1-Distill-Llama and, in GGUF, all that is
 * exported under the same name: Mistral, Mixtral.
 *
 * GGUF files of this family have the rows of q and k permuted so that rotation pairs are
 * neighbours. Llama 3's frequency factors come as the tensor rope_freqs.weight there. */
#include "model/arch.h"

static const struct sl_names names[SL_ROLE_COUNT] = {
    SL_NAMES_EDGES, SL_NAMES_NORMS, SL_NAMES_ATTENTION, SL_NAMES_FFN, SL_NAMES_EXPERTS};

static int read_llama(struct sl_reader *r)
{
    int e = sl_arch_read_biases(r);
    if (!e) e = sl_read_act(r, "hidden_act", SL_FFN_SILU);
    if (!e && !r->text) e = sl_arch_read_window(r, 0);
    if (!e && !r->text) e = sl_arch_read_experts(r, 0, NULL, NULL, NULL);
    return e;
}

const struct sl_arch sl_arch_llama = {
    .name = "llama",
    .gguf = "llama",
    .hf = {"llama"},
    .rope = SL_ROPE_NORM,
    .rope_hf = SL_ROPE_NEOX,
    .names = names,
    .read = read_llama,
};
