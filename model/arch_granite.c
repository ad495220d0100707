/* arch_granite.c - Granite 3 (IBM 2024): Llama's layer with four multipliers: of the embeddings, of
 * what each half layer adds to the residual stream, of the attention scores (in place of
 * 1/sqrt(head)), and a divisor of the logits. */
#include "model/arch.h"

#define MULTIPLIER_MAX 1e6

static const struct sl_names names[SL_ROLE_COUNT] = {SL_NAMES_EDGES, SL_NAMES_NORMS,
                                                     SL_NAMES_ATTENTION, SL_NAMES_FFN};

static const struct sl_hf_default defaults[] = {{"rms_norm_eps", 1e-6}, {NULL, 0}};

static int read_granite(struct sl_reader *r)
{
    struct sl_config *c = r->c;
    float divisor;
    int e = sl_arch_read_biases(r);
    if (!e) e = sl_read_act(r, "hidden_act", SL_FFN_SILU);
    if (!e)
        e = sl_read_float(r, "embedding_scale", "embedding_multiplier", 1, 1e-6, MULTIPLIER_MAX,
                          &c->embed_scale);
    if (!e)
        e = sl_read_float(r, "residual_scale", "residual_multiplier", 1, 1e-6, MULTIPLIER_MAX,
                          &c->residual_scale);
    if (!e)
        e = sl_read_float(r, "logit_scale", "logits_scaling", 1, 1e-6, MULTIPLIER_MAX, &divisor);
    if (e) return e;
    c->logit_scale = 1 / divisor;
    if (!r->text) return 0; /* attention.scale is read for all */
    return sl_read_float(r, NULL, "attention_multiplier", 1, 1e-6, MULTIPLIER_MAX, &c->attn_scale);
}

const struct sl_arch sl_arch_granite = {
    .name = "granite",
    .gguf = "granite",
    .hf = {"granite"},
    .rope = SL_ROPE_NORM,
    .rope_hf = SL_ROPE_NEOX,
    .hf_defaults = defaults,
    .names = names,
    .read = read_granite,
};
