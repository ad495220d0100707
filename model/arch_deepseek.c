/* arch_deepseek.c - DeepSeek V2, V3 and R1 (2024, 2025): attention over one latent per token, run
 * in the absorbed form (exec never expands keys and values); leading dense layers, then experts in
 * groups and experts that every token uses.
 *
 * V2 chooses by softmax, V3 by sigmoid with a learned correction. Layers behind the last one
 * predict further tokens and are left alone. Rotation pairs are neighbours in both containers. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/arch.h"

#define DIM_MAX (1 << 16)
#define FF_MAX (1 << 20)
#define SCALE_MAX 1e4
#define GATING_SOFTMAX 1 /* expert_gating_func */
#define GATING_SIGMOID 2
#define V3_EXPERTS 256 /* old files do not tell V3's groups */
#define V3_GROUPS 8
#define V3_GROUPS_USED 4

static const struct sl_names names[SL_ROLE_COUNT] = {
    SL_NAMES_EDGES,
    SL_NAMES_NORMS,
    SL_NAMES_FFN,
    SL_NAMES_EXPERTS,
    SL_NAMES_SHARED("mlp.shared_experts"),
    [SL_ROLE_CORRECTION] = SL_NAMED("exp_probs_b.bias", "mlp.gate.e_score_correction_bias"),
    [SL_ROLE_Q] = SL_NAMED("attn_q", "self_attn.q_proj"),
    [SL_ROLE_O] = SL_NAMED("attn_output", "self_attn.o_proj"),
    [SL_ROLE_Q_A] = SL_NAMED("attn_q_a", "self_attn.q_a_proj"),
    [SL_ROLE_Q_A_NORM] = SL_NAMED("attn_q_a_norm.weight", "self_attn.q_a_layernorm.weight"),
    [SL_ROLE_Q_B] = SL_NAMED("attn_q_b", "self_attn.q_b_proj"),
    [SL_ROLE_KV_A] = {{{"attn_kv_a_mqa", SL_PART_LATENT}},
                      {{"self_attn.kv_a_proj_with_mqa", SL_PART_LATENT}}},
    [SL_ROLE_K_PE] = {{{"attn_kv_a_mqa", SL_PART_PE}},
                      {{"self_attn.kv_a_proj_with_mqa", SL_PART_PE}}},
    [SL_ROLE_KV_A_NORM] = SL_NAMED("attn_kv_a_norm.weight", "self_attn.kv_a_layernorm.weight"),
    [SL_ROLE_K_B] = {{{"attn_k_b", SL_PART_PER_HEAD}, {"attn_kv_b", SL_PART_KVB_K}},
                     {{"self_attn.kv_b_proj", SL_PART_KVB_K}}},
    [SL_ROLE_V_B] = {{{"attn_v_b", SL_PART_PER_HEAD}, {"attn_kv_b", SL_PART_KVB_V}},
                     {{"self_attn.kv_b_proj", SL_PART_KVB_V}}},
};

static int is_v3(const struct sl_reader *r)
{
    return r->hf_type && strcmp(r->hf_type, "deepseek_v3") == 0;
}

static int read_latent(struct sl_reader *r)
{
    struct sl_config *c = r->c;
    int e = sl_read_int(r, "attention.q_lora_rank", "q_lora_rank", 0, 0, DIM_MAX, &c->q_lora);
    if (!e)
        e = sl_read_int(r, "attention.kv_lora_rank", "kv_lora_rank", SL_REQUIRED, 2, DIM_MAX,
                        &c->kv_lora);
    if (e) return e;
    (void)sl_read_has(r, "attention.head_count_kv", "num_key_value_heads");
    (void)sl_read_has(r, NULL, "head_dim");
    (void)sl_read_has(r, NULL, "qk_head_dim");
    if (r->text) {
        e = sl_read_int(r, NULL, "qk_nope_head_dim", SL_REQUIRED, 1, DIM_MAX, &c->qk_nope);
        if (!e) e = sl_read_int(r, NULL, "qk_rope_head_dim", SL_REQUIRED, 2, DIM_MAX, &c->qk_rope);
        if (!e) e = sl_read_int(r, NULL, "v_head_dim", SL_REQUIRED, 1, DIM_MAX, &c->v_dim);
    } else {
        /* new files: key_length is the latent row's, key_length_mla the head's */
        int key, value;
        e = sl_read_int(r, "attention.key_length", NULL, SL_REQUIRED, 1, DIM_MAX, &key);
        if (!e) e = sl_read_int(r, "attention.value_length", NULL, SL_REQUIRED, 1, DIM_MAX, &value);
        if (!e) e = sl_read_int(r, "attention.key_length_mla", NULL, key, 1, DIM_MAX, &key);
        if (!e)
            e = sl_read_int(r, "attention.value_length_mla", NULL, value, 1, DIM_MAX, &c->v_dim);
        if (!e)
            e = sl_read_int(r, "rope.dimension_count", NULL, SL_REQUIRED, 2, DIM_MAX, &c->qk_rope);
        c->qk_nope = key - c->qk_rope;
    }
    if (e) return e;
    if (c->qk_nope < 1 || c->qk_rope % 2 || c->qk_nope + c->qk_rope > SL_HEAD_DIM_MAX ||
        c->v_dim > SL_HEAD_DIM_MAX)
        return sl_read_refuse(r, SL_EINPUT,
                              "keys of %d plain and %d turning elements cannot be; convert the "
                              "model again",
                              c->qk_nope, c->qk_rope);
    c->n_kv_heads = 1;
    c->head_dim = c->qk_nope + c->qk_rope;
    return sl_read_rope(r, c->qk_rope);
}

static int read_dense_layers(struct sl_reader *r)
{
    struct sl_config *c = r->c;
    int dense, every;
    int e = sl_read_int(r, "leading_dense_block_count", "first_k_dense_replace", 0, 0,
                        SL_LAYERS_MAX, &dense);
    if (!e) e = sl_read_int(r, NULL, "moe_layer_freq", 1, 1, SL_LAYERS_MAX, &every);
    for (int i = 0; !e && i < c->n_layers; i++)
        if (i < dense || i % every) c->layer_flags[i] &= (uint8_t)~SL_LAYER_MOE;
    return e;
}

static int read_router_gguf(struct sl_reader *r)
{
    struct sl_config *c = r->c;
    int func;
    char name[64];
    snprintf(name, sizeof name, "blk.%d.exp_probs_b.bias", c->n_layers - 1);
    c->router_correction = sl_weights_find(r->w, name) != NULL;
    int e = sl_read_int(r, "expert_gating_func", NULL,
                        c->router_correction ? GATING_SIGMOID : GATING_SOFTMAX, 0, 8, &func);
    if (e) return e;
    if (func != 0 && func != GATING_SOFTMAX && func != GATING_SIGMOID)
        return sl_read_refuse(r, SL_EUNSUPPORTED,
                              "key %s: gating %d is not run here, softmax (1) and sigmoid (2) are",
                              r->key, func);
    c->router = func == GATING_SIGMOID ? SL_ROUTER_SIGMOID : SL_ROUTER_SOFTMAX;
    if (c->router == SL_ROUTER_SIGMOID && c->n_experts == V3_EXPERTS) {
        c->n_groups = V3_GROUPS;
        c->n_groups_used = V3_GROUPS_USED;
    }
    return 0;
}

static int read_router_hf(struct sl_reader *r)
{
    struct sl_config *c = r->c;
    char method[40], scoring[40];
    int e = sl_read_string(r, NULL, "topk_method", method, sizeof method);
    if (!e) e = sl_read_string(r, NULL, "scoring_func", scoring, sizeof scoring);
    if (e) return e;
    const char *want = is_v3(r) ? "noaux_tc" : "group_limited_greedy";
    int greedy = !is_v3(r) && (!method[0] || strcmp(method, "greedy") == 0);
    if (!greedy && method[0] && strcmp(method, want) != 0)
        return sl_read_refuse(r, SL_EUNSUPPORTED,
                              "key topk_method: '%s' is not run here; use another model", method);
    if (scoring[0] && strcmp(scoring, is_v3(r) ? "sigmoid" : "softmax") != 0)
        return sl_read_refuse(r, SL_EUNSUPPORTED,
                              "key scoring_func: '%s' is not run here; use another model", scoring);
    c->router = is_v3(r) ? SL_ROUTER_SIGMOID : SL_ROUTER_SOFTMAX;
    c->router_correction = is_v3(r);
    c->n_groups_used = greedy ? -1 : 0; /* -1: the groups are not looked at */
    return 0;
}

static int read_experts(struct sl_reader *r)
{
    struct sl_config *c = r->c;
    int shared, groups, used;
    int e = sl_arch_read_experts(r, 1, "n_routed_experts", "num_experts_per_tok",
                                 "moe_intermediate_size");
    if (!e) e = read_dense_layers(r);
    if (!e) e = r->text ? read_router_hf(r) : read_router_gguf(r);
    if (!e)
        e = sl_read_int(r, "expert_group_count", "n_group", c->n_groups, 0, SL_EXPERTS_MAX,
                        &groups);
    if (!e)
        e = sl_read_int(r, "expert_group_used_count", "topk_group",
                        c->n_groups_used > 0 ? c->n_groups_used : 1, 0, SL_EXPERTS_MAX, &used);
    if (!e)
        e = sl_read_bool(r, "expert_weights_norm", "norm_topk_prob", is_v3(r),
                         &c->expert_normalize);
    if (!e)
        e = sl_read_float(r, "expert_weights_scale", "routed_scaling_factor", 1, 0, SCALE_MAX,
                          &c->expert_scale);
    if (!e)
        e = sl_read_int(r, "expert_shared_count", "n_shared_experts", 0, 0, SL_EXPERTS_MAX,
                        &shared);
    if (e) return e;
    if (c->expert_scale == 0) c->expert_scale = 1; /* left out by old converters */
    if (c->n_groups_used < 0 || groups <= 1) groups = used = 1;
    if (c->n_experts % groups || used < 1 || used > groups ||
        c->n_experts_used > c->n_experts / groups * used)
        return sl_read_refuse(r, SL_EINPUT,
                              "%d experts in %d groups, %d groups and %d experts used, cannot be; "
                              "convert the model again",
                              c->n_experts, groups, used, c->n_experts_used);
    if (r->text && !is_v3(r) && c->expert_normalize) /* the two implementations of V2 differ */
        return sl_read_refuse(r, SL_EUNSUPPORTED,
                              "key norm_topk_prob: V2 with normalised weights is not run here; use "
                              "another model");
    c->n_groups = groups;
    c->n_groups_used = used;
    if ((int64_t)shared * c->n_ff_expert > FF_MAX)
        return sl_read_refuse(r, SL_EINPUT, "%d shared experts are too many", shared);
    c->n_ff_shared = shared * c->n_ff_expert;
    return 0;
}

/* Layers that predict further tokens: behind the others, in GGUF perhaps counted among them. */
static int read_extra_layers(struct sl_reader *r)
{
    struct sl_config *c = r->c;
    char name[64];
    int e = sl_read_int(r, "nextn_predict_layers", "num_nextn_predict_layers", 0, 0, SL_LAYERS_MAX,
                        &c->n_layers_extra);
    if (e || r->text || !c->n_layers_extra) return e;
    snprintf(name, sizeof name, "blk.%d.nextn.eh_proj.weight", c->n_layers - 1);
    if (!sl_weights_find(r->w, name) || c->n_layers_extra >= c->n_layers) return 0;
    c->n_layers -= c->n_layers_extra;
    return 0;
}

static int read_deepseek(struct sl_reader *r)
{
    struct sl_config *c = r->c;
    int interleaved = 1;
    int e = read_extra_layers(r);
    if (!e) e = read_latent(r);
    if (!e) e = read_experts(r);
    if (!e) e = sl_read_act(r, "hidden_act", SL_FFN_SILU);
    if (!e) e = sl_read_bool(r, NULL, "rope_interleave", 1, &interleaved);
    if (!e) e = sl_read_only(r, NULL, "attention_bias", 0, "attention with biases");
    if (!e) e = sl_read_only(r, NULL, "mlp_bias", 0, "feed-forward with biases");
    if (!interleaved) c->rope = SL_ROPE_NEOX;
    const struct sl_rope_spec *s = &c->ropes[0];
    double m = s->mscale_all > 0 && s->factor > 1
                   ? 0.1 * (double)s->mscale_all * log((double)s->factor) + 1
                   : 1;
    c->attn_scale = (float)(m * m / sqrt(c->qk_nope + c->qk_rope));
    if (!r->text && s->mscale_all > 0) c->ropes[0].magnitude = 1; /* mscale equals mscale_all_dim */
    return e;
}

const struct sl_arch sl_arch_deepseek = {
    .name = "deepseek",
    .gguf = "deepseek2",
    .hf = {"deepseek_v3", "deepseek_v2"},
    .rope = SL_ROPE_NORM,
    .rope_hf = SL_ROPE_NORM,
    .latent = 1,
    .names = names,
    .read = read_deepseek,
};
