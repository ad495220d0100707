/* arch_gpt_oss.c - gpt-oss 20b and 120b (OpenAI 2025): every other layer attends to a window, a
 * learned sink per head, biases, experts behind a clamped SwiGLU, YaRN without rounding.
 *
 * HF folders keep gate and up of an expert row by row in one tensor, quantized or not; converters
 * to GGUF take them apart. */
#include "model/arch.h"

#define SWIGLU_LIMIT 7 /* what the activation clamps at and its slope, as kernels.h has them */
#define SWIGLU_ALPHA 1.702

static const struct sl_names names[SL_ROLE_COUNT] = {
    SL_NAMES_EDGES,
    SL_NAMES_ATTENTION,
    [SL_ROLE_ATTN_NORM] = SL_NAMED("attn_norm.weight", "input_layernorm.weight"),
    [SL_ROLE_FFN_NORM] = {{{"post_attention_norm.weight", SL_PART_WHOLE},
                           {"ffn_norm.weight", SL_PART_WHOLE}},
                          {{"post_attention_layernorm.weight", SL_PART_WHOLE}}},
    [SL_ROLE_SINKS] = SL_NAMED("attn_sinks.weight", "self_attn.sinks"),
    [SL_ROLE_ROUTER] = SL_NAMED("ffn_gate_inp", "mlp.router"),
    [SL_ROLE_ROUTER_BIAS] = SL_NAMED("ffn_gate_inp.bias", "mlp.router.bias"),
    [SL_ROLE_GATE_EXPS] = {{{"ffn_gate_exps", SL_PART_WHOLE}},
                           {{"mlp.experts.gate_up_proj", SL_PART_EVEN}}},
    [SL_ROLE_UP_EXPS] = {{{"ffn_up_exps", SL_PART_WHOLE}},
                         {{"mlp.experts.gate_up_proj", SL_PART_ODD}}},
    [SL_ROLE_DOWN_EXPS] = SL_NAMED("ffn_down_exps", "mlp.experts.down_proj"),
    [SL_ROLE_GATE_EXPS_BIAS] = {{{"ffn_gate_exps.bias", SL_PART_WHOLE}},
                                {{"mlp.experts.gate_up_proj_bias", SL_PART_EVEN}}},
    [SL_ROLE_UP_EXPS_BIAS] = {{{"ffn_up_exps.bias", SL_PART_WHOLE}},
                              {{"mlp.experts.gate_up_proj_bias", SL_PART_ODD}}},
    [SL_ROLE_DOWN_EXPS_BIAS] = SL_NAMED("ffn_down_exps.bias", "mlp.experts.down_proj_bias"),
};

static const struct sl_hf_default defaults[] = {{"head_dim", 64},       {"rms_norm_eps", 1e-5},
                                                {"rope_theta", 150000}, {"sliding_window", 128},
                                                {"swiglu_limit", 7},    {NULL, 0}};
static const char *const keys[] = {"initial_context_length", "experts_per_token", "hidden_act",
                                   NULL};

static int read_gpt_oss(struct sl_reader *r)
{
    struct sl_config *c = r->c;
    int e = sl_arch_read_experts(r, 1, "num_local_experts", "num_experts_per_tok", NULL);
    if (!e) e = sl_arch_read_window(r, 2);
    if (!e) e = sl_read_only(r, NULL, "swiglu_limit", SWIGLU_LIMIT, "another clamp of SwiGLU");
    if (!e) e = sl_read_only(r, NULL, "swiglu_alpha", SWIGLU_ALPHA, "another slope of SwiGLU");
    if (!e) e = sl_read_bool(r, NULL, "attention_bias", 1, &c->qkv_bias);
    c->o_bias = c->qkv_bias;
    c->sinks = c->router_bias = c->expert_bias = 1;
    c->router = SL_ROUTER_TOPK_SOFTMAX;
    c->act = SL_FFN_SWIGLU_OAI;
    if (!r->text)
        c->ropes[0].truncate = 0; /* as the authors' folder says; GGUF has no key for it */
    return e;
}

const struct sl_arch sl_arch_gpt_oss = {
    .name = "gpt_oss",
    .gguf = "gpt-oss",
    .hf = {"gpt_oss"},
    .rope = SL_ROPE_NEOX,
    .rope_hf = SL_ROPE_NEOX,
    .hf_defaults = defaults,
    .hf_ignored = keys,
    .names = names,
    .read = read_gpt_oss,
};
