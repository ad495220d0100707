/* arch_common.c - what several families read alike. */
#include "model/arch.h"

#include "base/sl_assert.h"

#define CTX_MAX (1 << 30) /* tokens */
#define FF_MAX (1 << 20)

int sl_arch_read_biases(struct sl_reader *r)
{
    struct sl_config *c = r->c;
    if (!r->text) {
        c->qkv_bias = sl_weights_find(r->w, "blk.0.attn_q.bias") != NULL;
        c->o_bias = sl_weights_find(r->w, "blk.0.attn_output.bias") != NULL;
        c->mlp_bias = sl_weights_find(r->w, "blk.0.ffn_gate.bias") != NULL;
        return 0;
    }
    int e = sl_read_bool(r, NULL, "attention_bias", 0, &c->qkv_bias);
    c->o_bias = c->qkv_bias;
    return e ? e : sl_read_bool(r, NULL, "mlp_bias", 0, &c->mlp_bias);
}

int sl_arch_read_experts(struct sl_reader *r, int required, const char *count, const char *used,
                         const char *ff)
{
    struct sl_config *c = r->c;
    int64_t none = required ? SL_REQUIRED : 0;
    /* transformers 5 writes one name for most families */
    if (r->text && !sl_read_has(r, NULL, count) && sl_read_has(r, NULL, "num_local_experts"))
        count = "num_local_experts";
    int e = sl_read_int(r, "expert_count", count, none, required, SL_EXPERTS_MAX, &c->n_experts);
    if (!e)
        e = sl_read_int(r, "expert_used_count", used, none, required, SL_EXPERTS_MAX,
                        &c->n_experts_used);
    if (!e && c->n_experts)
        e = sl_read_int(r, "expert_feed_forward_length", ff, c->n_ff, 1, FF_MAX, &c->n_ff_expert);
    if (e || !c->n_experts) return e;
    if (c->n_experts_used < 1 || c->n_experts_used > c->n_experts)
        return sl_read_refuse(r, SL_EINPUT, "key %s: %d of %d experts cannot be used", r->key,
                              c->n_experts_used, c->n_experts);
    c->expert_normalize = 1;
    for (int i = 0; i < c->n_layers; i++) c->layer_flags[i] |= SL_LAYER_MOE;
    return 0;
}

int sl_arch_read_window(struct sl_reader *r, int pattern)
{
    struct sl_config *c = r->c;
    int e = sl_read_int(r, "attention.sliding_window", "sliding_window", 0, 0, CTX_MAX, &c->window);
    return e ? e : sl_read_layer_types(r, pattern);
}

int sl_arch_read_sparse(struct sl_reader *r)
{
    struct sl_config *c = r->c;
    int step, layer = 0;
    size_t n = 0;
    int e = sl_read_int(r, NULL, "decoder_sparse_step", 1, 1, SL_LAYERS_MAX, &step);
    for (int i = 0; !e && i < c->n_layers; i++)
        if ((i + 1) % step != 0) c->layer_flags[i] &= (uint8_t)~SL_LAYER_MOE;
    for (size_t i = 0; !e && (i == 0 || i < n); i++) {
        e = sl_read_entry(r, NULL, "mlp_only_layers", i, &layer, &n);
        if (!e && i < n && layer < c->n_layers) c->layer_flags[layer] &= (uint8_t)~SL_LAYER_MOE;
    }
    return e;
}

int sl_arch_read_optional_window(struct sl_reader *r,
                                 int (*slides)(int layer, int max_window_layers))
{
    struct sl_config *c = r->c;
    int use, window, layers;
    int e = sl_read_bool(r, NULL, "use_sliding_window", 0, &use);
    if (!e)
        e = sl_read_int(r, "attention.sliding_window", "sliding_window", 0, 0, CTX_MAX, &window);
    if (!e) e = sl_read_int(r, NULL, "max_window_layers", 28, 0, CTX_MAX, &layers);
    if (e) return e;
    c->window = use || !r->text ? window : 0;
    e = sl_read_layer_types(r, 0);
    if (e || !c->window || !r->text || sl_read_has(r, NULL, "layer_types")) return e;
    for (int i = 0; i < c->n_layers; i++)
        if (!slides(i, layers)) c->layer_flags[i] &= (uint8_t)~SL_LAYER_WINDOW;
    return 0;
}
