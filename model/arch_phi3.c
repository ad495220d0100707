/* arch_phi3.c - Phi-3, Phi-3.5, Phi-4 and Phi-4-mini (Microsoft 2024): Llama's layer with q, k, v
 * in one matrix and gate, up in another, a sliding window, rotation of a part of each head, and
 * LongRoPE: one set of frequencies up to the original context, another for longer sequences. */
#include "model/arch.h"

static const struct sl_names names[SL_ROLE_COUNT] = {
    SL_NAMES_EDGES,
    SL_NAMES_NORMS,
    [SL_ROLE_ROPE_LONG] = SL_NAMED("rope_factors_long.weight", NULL),
    [SL_ROLE_ROPE_SHORT] = SL_NAMED("rope_factors_short.weight", NULL),
    [SL_ROLE_Q] = {{{"attn_qkv", SL_PART_QKV_Q}, {"attn_q", SL_PART_WHOLE}},
                   {{"self_attn.qkv_proj", SL_PART_QKV_Q}}},
    [SL_ROLE_K] = {{{"attn_qkv", SL_PART_QKV_K}, {"attn_k", SL_PART_WHOLE}},
                   {{"self_attn.qkv_proj", SL_PART_QKV_K}}},
    [SL_ROLE_V] = {{{"attn_qkv", SL_PART_QKV_V}, {"attn_v", SL_PART_WHOLE}},
                   {{"self_attn.qkv_proj", SL_PART_QKV_V}}},
    [SL_ROLE_O] = SL_NAMED("attn_output", "self_attn.o_proj"),
    [SL_ROLE_GATE] = {{{"ffn_up", SL_PART_FIRST}}, {{"mlp.gate_up_proj", SL_PART_FIRST}}},
    [SL_ROLE_UP] = {{{"ffn_up", SL_PART_SECOND}}, {{"mlp.gate_up_proj", SL_PART_SECOND}}},
    [SL_ROLE_DOWN] = SL_NAMED("ffn_down", "mlp.down_proj"),
};

static const struct sl_hf_default defaults[] = {{"rms_norm_eps", 1e-5}, {NULL, 0}};

static int read_phi3(struct sl_reader *r)
{
    struct sl_config *c = r->c;
    int e = sl_read_act(r, "hidden_act", SL_FFN_SILU);
    if (!e) e = sl_arch_read_window(r, 0);
    if (!e) e = sl_read_only(r, NULL, "full_attn_mod", 1, "attention in some layers only");
    if (!e) e = sl_read_only(r, NULL, "interpolate_factor", 1, "interpolated positions");
    if (e || r->text) return e;
    int has_long = sl_weights_find(r->w, "rope_factors_long.weight") != NULL,
        has_short = sl_weights_find(r->w, "rope_factors_short.weight") != NULL;
    if (has_long != has_short || (c->ropes[0].scaling == SL_ROPE_LONG && !has_long))
        return sl_read_refuse(r, SL_EINPUT,
                              "tensor rope_factors_%s.weight is missing; convert the model again",
                              has_long ? "short" : "long");
    if (has_long) c->ropes[0].scaling = SL_ROPE_LONG;
    return 0;
}

const struct sl_arch sl_arch_phi3 = {
    .name = "phi3",
    .gguf = "phi3",
    .hf = {"phi3"},
    .rope = SL_ROPE_NEOX,
    .rope_hf = SL_ROPE_NEOX,
    .hf_defaults = defaults,
    .names = names,
    .read = read_phi3,
};
