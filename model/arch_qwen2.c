/* arch_qwen2.c - Qwen2 and Qwen2.5 (and DeepSeek-R1-Distill-Qwen), their vision models' text part,
 * and Qwen2-MoE: Llama's layer with biases on q, k and v and rotation pairs half a head apart; the
 * small models use the embedding as output matrix.
 *
 * Qwen2-VL turns positions in three sections (time, height, width); the three are equal for text,
 * which makes it plain rotation. Qwen2-MoE adds an expert that every token uses, weighed by a
 * sigmoid. */
#include "model/arch.h"

#define FF_MAX (1 << 20)

static const struct sl_names names[SL_ROLE_COUNT] = {SL_NAMES_EDGES, SL_NAMES_NORMS,
                                                     SL_NAMES_ATTENTION, SL_NAMES_FFN};

static const struct sl_names moe_names[SL_ROLE_COUNT] = {
    SL_NAMES_EDGES,
    SL_NAMES_NORMS,
    SL_NAMES_ATTENTION,
    SL_NAMES_FFN,
    SL_NAMES_EXPERTS,
    SL_NAMES_SHARED("mlp.shared_expert"),
    [SL_ROLE_SHARED_GATE] = SL_NAMED("ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight"),
};

static const struct sl_hf_default defaults[] = {{"rms_norm_eps", 1e-6}, {NULL, 0}};

static int slides_late(int layer, int max_window_layers)
{
    return layer >= max_window_layers;
}

static int slides_early(int layer, int max_window_layers)
{
    return layer % 2 == 0 && layer < max_window_layers;
}

static int read_qwen2(struct sl_reader *r)
{
    r->c->qkv_bias = 1;
    int e = sl_read_act(r, "hidden_act", SL_FFN_SILU);
    return e ? e : sl_arch_read_optional_window(r, slides_late);
}

static int read_qwen2_vl(struct sl_reader *r)
{
    (void)sl_read_has(r, "rope.dimension_sections", NULL);
    return read_qwen2(r);
}

static int read_qwen2_moe(struct sl_reader *r)
{
    struct sl_config *c = r->c;
    int e = sl_read_bool(r, NULL, "qkv_bias", 1, &c->qkv_bias);
    if (!e) e = sl_read_act(r, "hidden_act", SL_FFN_SILU);
    if (!e) e = sl_arch_read_optional_window(r, slides_early);
    if (!e)
        e = sl_arch_read_experts(r, 1, "num_experts", "num_experts_per_tok",
                                 "moe_intermediate_size");
    if (!e) e = sl_arch_read_sparse(r);
    if (!e) e = sl_read_bool(r, "expert_weights_norm", "norm_topk_prob", 0, &c->expert_normalize);
    if (!e)
        e = sl_read_int(r, "expert_shared_feed_forward_length", "shared_expert_intermediate_size",
                        SL_REQUIRED, 1, FF_MAX, &c->n_ff_shared);
    c->shared_gate = 1;
    return e;
}

const struct sl_arch sl_arch_qwen2 = {
    .name = "qwen2",
    .gguf = "qwen2",
    .hf = {"qwen2"},
    .rope = SL_ROPE_NEOX,
    .rope_hf = SL_ROPE_NEOX,
    .hf_defaults = defaults,
    .names = names,
    .read = read_qwen2,
};

static const char *const vl_keys[] = {"vision_start_token_id", "vision_end_token_id",
                                      "vision_token_id",       "image_token_id",
                                      "video_token_id",        NULL};
static const char *const vl_tensors[] = {"visual.", "model.visual.", NULL};

const struct sl_arch sl_arch_qwen2_vl = {
    .name = "qwen2_vl",
    .gguf = "qwen2vl",
    .hf = {"qwen2_vl", "qwen2_5_vl", "qwen2_vl_text"},
    .rope = SL_ROPE_NEOX,
    .rope_hf = SL_ROPE_NEOX,
    .hf_defaults = defaults,
    .hf_ignored = vl_keys,
    .names = names,
    .ignored = vl_tensors,
    .read = read_qwen2_vl,
};

const struct sl_arch sl_arch_qwen2_moe = {
    .name = "qwen2_moe",
    .gguf = "qwen2moe",
    .hf = {"qwen2_moe"},
    .rope = SL_ROPE_NEOX,
    .rope_hf = SL_ROPE_NEOX,
    .hf_defaults = defaults,
    .names = moe_names,
    .read = read_qwen2_moe,
};
