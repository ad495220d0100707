/* arch_internlm2.c - InternLM2 (2024): Llama's layer under names of its own; q, k and v are one
 * matrix, cut KV head by KV head: its query heads, then k, then v. Converters to GGUF take them
 * apart and permute q and k as for Llama. */
#include "model/arch.h"

static const struct sl_names names[SL_ROLE_COUNT] = {
    [SL_ROLE_EMBED] = SL_NAMED("token_embd", "tok_embeddings"),
    [SL_ROLE_OUT_NORM] = SL_NAMED("output_norm.weight", "norm.weight"),
    [SL_ROLE_OUTPUT] = SL_NAMED("output", "output"),
    [SL_ROLE_ATTN_NORM] = SL_NAMED("attn_norm.weight", "attention_norm.weight"),
    [SL_ROLE_FFN_NORM] = SL_NAMED("ffn_norm.weight", "ffn_norm.weight"),
    [SL_ROLE_Q] = {{{"attn_q", SL_PART_WHOLE}}, {{"attention.wqkv", SL_PART_GROUP_Q}}},
    [SL_ROLE_K] = {{{"attn_k", SL_PART_WHOLE}}, {{"attention.wqkv", SL_PART_GROUP_K}}},
    [SL_ROLE_V] = {{{"attn_v", SL_PART_WHOLE}}, {{"attention.wqkv", SL_PART_GROUP_V}}},
    [SL_ROLE_O] = SL_NAMED("attn_output", "attention.wo"),
    [SL_ROLE_Q_BIAS] = {{{"attn_q.bias", SL_PART_WHOLE}},
                        {{"attention.wqkv.bias", SL_PART_GROUP_Q}}},
    [SL_ROLE_K_BIAS] = {{{"attn_k.bias", SL_PART_WHOLE}},
                        {{"attention.wqkv.bias", SL_PART_GROUP_K}}},
    [SL_ROLE_V_BIAS] = {{{"attn_v.bias", SL_PART_WHOLE}},
                        {{"attention.wqkv.bias", SL_PART_GROUP_V}}},
    [SL_ROLE_O_BIAS] = SL_NAMED("attn_output.bias", "attention.wo.bias"),
    [SL_ROLE_GATE] = SL_NAMED("ffn_gate", "feed_forward.w1"),
    [SL_ROLE_UP] = SL_NAMED("ffn_up", "feed_forward.w3"),
    [SL_ROLE_DOWN] = SL_NAMED("ffn_down", "feed_forward.w2"),
};

static int read_internlm2(struct sl_reader *r)
{
    struct sl_config *c = r->c;
    if (r->text) {
        int e = sl_read_bool(r, NULL, "bias", 0, &c->qkv_bias);
        c->o_bias = c->qkv_bias;
        return e ? e : sl_read_act(r, "hidden_act", SL_FFN_SILU);
    }
    c->qkv_bias = sl_weights_find(r->w, "blk.0.attn_q.bias") != NULL;
    c->o_bias = sl_weights_find(r->w, "blk.0.attn_output.bias") != NULL;
    return 0;
}

const struct sl_arch sl_arch_internlm2 = {
    .name = "internlm2",
    .gguf = "internlm2",
    .hf = {"internlm2"},
    .rope = SL_ROPE_NORM,
    .rope_hf = SL_ROPE_NEOX,
    .names = names,
    .read = read_internlm2,
};
