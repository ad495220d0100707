/* arch_qwen3.c - Qwen3 and Qwen3-MoE (2025): q and k heads through RMS norms of their own before
 * they turn, heads wider than hidden / heads, no biases. */
#include "model/arch.h"

static const struct sl_names names[SL_ROLE_COUNT] = {
    SL_NAMES_EDGES, SL_NAMES_NORMS, SL_NAMES_ATTENTION, SL_NAMES_QK_NORMS, SL_NAMES_FFN};

static const struct sl_names moe_names[SL_ROLE_COUNT] = {SL_NAMES_EDGES,     SL_NAMES_NORMS,
                                                         SL_NAMES_ATTENTION, SL_NAMES_QK_NORMS,
                                                         SL_NAMES_FFN,       SL_NAMES_EXPERTS};

static const struct sl_hf_default defaults[] = {
    {"rms_norm_eps", 1e-6}, {"head_dim", 128}, {NULL, 0}};
static const struct sl_hf_default moe_defaults[] = {{"rms_norm_eps", 1e-6}, {NULL, 0}};

static int slides_late(int layer, int max_window_layers)
{
    return layer >= max_window_layers;
}

static int slides_always(int layer, int max_window_layers)
{
    (void)layer;
    (void)max_window_layers;
    return 1;
}

static int read_common(struct sl_reader *r, int (*slides)(int, int))
{
    struct sl_config *c = r->c;
    int e = sl_read_bool(r, NULL, "attention_bias", 0, &c->qkv_bias);
    c->o_bias = c->qkv_bias;
    c->qk_norm = 1;
    if (!e) e = sl_read_act(r, "hidden_act", SL_FFN_SILU);
    return e ? e : sl_arch_read_optional_window(r, slides);
}

static int read_qwen3(struct sl_reader *r)
{
    return read_common(r, slides_late);
}

static int read_qwen3_moe(struct sl_reader *r)
{
    int e = read_common(r, slides_always);
    if (!e)
        e = sl_arch_read_experts(r, 1, "num_experts", "num_experts_per_tok",
                                 "moe_intermediate_size");
    if (!e) e = sl_arch_read_sparse(r);
    /* the class assumes no; converters to GGUF leave the key out and mean yes */
    if (!e)
        e = sl_read_bool(r, "expert_weights_norm", "norm_topk_prob", r->text == NULL,
                         &r->c->expert_normalize);
    return e;
}

const struct sl_arch sl_arch_qwen3 = {
    .name = "qwen3",
    .gguf = "qwen3",
    .hf = {"qwen3"},
    .rope = SL_ROPE_NEOX,
    .rope_hf = SL_ROPE_NEOX,
    .hf_defaults = defaults,
    .names = names,
    .read = read_qwen3,
};

const struct sl_arch sl_arch_qwen3_moe = {
    .name = "qwen3_moe",
    .gguf = "qwen3moe",
    .hf = {"qwen3_moe"},
    .rope = SL_ROPE_NEOX,
    .rope_hf = SL_ROPE_NEOX,
    .hf_defaults = moe_defaults,
    .names = moe_names,
    .read = read_qwen3_moe,
};
