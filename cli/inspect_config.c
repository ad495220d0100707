/* inspect_config.c - see inspect_config.h. */
#include "cli/inspect_config.h"

#include <string.h>

#include "base/sl_assert.h"
#include "model/chat.h"
#include "model/tokenizer.h"

static void put_int(json_t *o, const char *key, int64_t v)
{
    json_object_set_new(o, key, json_integer(v));
}

static void put_real(json_t *o, const char *key, double v)
{
    json_object_set_new(o, key, json_real(v));
}

static void put_text(json_t *o, const char *key, const char *v)
{
    json_object_set_new(o, key, json_string(v));
}

static int count_flags(const struct sl_config *c, int flag)
{
    int n = 0;
    for (int i = 0; i < c->n_layers; i++) n += (c->layer_flags[i] & flag) != 0;
    return n;
}

static void put_rope(json_t *o, const struct sl_config *c)
{
    static const char *const scalings[] = {[SL_ROPE_PLAIN] = "none",
                                           [SL_ROPE_LINEAR] = "linear",
                                           [SL_ROPE_LLAMA3] = "llama3",
                                           [SL_ROPE_YARN] = "yarn",
                                           [SL_ROPE_LONG] = "longrope"};
    const struct sl_rope_spec *r = &c->ropes[0];
    put_text(o, "rope", c->rope == SL_ROPE_NEOX ? "neox" : "norm");
    put_int(o, "rope_dims", c->rope_dims);
    put_real(o, "rope_base", (double)r->base);
    if (r->scaling == SL_ROPE_PLAIN) return;
    put_text(o, "rope_scaling", scalings[r->scaling]);
    if (r->factor > 0) put_real(o, "rope_factor", (double)r->factor);
    if (r->n_ctx_orig) put_int(o, "rope_original_context", r->n_ctx_orig);
}

static void put_attention(json_t *o, const struct sl_config *c)
{
    put_int(o, "heads", c->n_heads);
    put_int(o, "kv_heads", c->n_kv_heads);
    put_int(o, "head_dim", c->head_dim);
    if (c->kv_lora) {
        put_int(o, "kv_lora_rank", c->kv_lora);
        if (c->q_lora) put_int(o, "q_lora_rank", c->q_lora);
        put_int(o, "qk_nope_dim", c->qk_nope);
        put_int(o, "qk_rope_dim", c->qk_rope);
        put_int(o, "v_dim", c->v_dim);
    }
    if (c->window && count_flags(c, SL_LAYER_WINDOW)) {
        put_int(o, "window", c->window);
        put_int(o, "layers_with_window", count_flags(c, SL_LAYER_WINDOW));
    }
    if (c->attn_softcap > 0) put_real(o, "attention_softcap", (double)c->attn_softcap);
    if (c->sinks) put_text(o, "attention_sinks", "one per head");
    if (c->qk_norm) put_text(o, "qk_norm", "per head");
    if (c->post_norms) put_text(o, "post_norms", "yes");
}

static void put_experts(json_t *o, const struct sl_config *c)
{
    if (!c->n_experts) return;
    put_int(o, "experts", c->n_experts);
    put_int(o, "experts_used", c->n_experts_used);
    put_int(o, "expert_feed_forward", c->n_ff_expert);
    put_int(o, "layers_with_experts", count_flags(c, SL_LAYER_MOE));
    if (c->n_ff_shared) put_int(o, "shared_expert_feed_forward", c->n_ff_shared);
    if (c->n_groups > 1) put_int(o, "expert_groups", c->n_groups);
}

json_t *sl_inspect_config(const struct sl_config *c)
{
    static const char *const acts[] = {[SL_FFN_SILU] = "silu",
                                       [SL_FFN_GELU] = "gelu",
                                       [SL_FFN_GELU_TANH] = "gelu_tanh",
                                       [SL_FFN_SWIGLU_OAI] = "swiglu_oai"};
    json_t *o = json_pack("{s:s, s:s}", "architecture", c->arch, "name", c->name);
    if (!o) return NULL;
    put_int(o, "layers", c->n_layers);
    put_int(o, "hidden", c->n_embd);
    put_attention(o, c);
    put_int(o, "feed_forward", c->n_ff);
    put_text(o, "activation", acts[c->act]);
    put_experts(o, c);
    put_int(o, "vocabulary", c->n_vocab);
    put_int(o, "context", c->n_ctx_train);
    put_real(o, "rms_eps", (double)c->rms_eps);
    put_rope(o, c);
    if (c->logit_softcap > 0) put_real(o, "logit_softcap", (double)c->logit_softcap);
    json_object_set_new(o, "qkv_bias", json_boolean(c->qkv_bias));
    json_object_set_new(o, "tied", json_boolean(c->tied));
    return o;
}

static int is_expert(enum sl_role role)
{
    return role >= SL_ROLE_GATE_EXPS && role <= SL_ROLE_DOWN_EXPS;
}

/* Numbers in one role of one layer, all slots. */
static int64_t role_size(const struct sl_weights *w, const struct sl_config *c, enum sl_role role,
                         int layer)
{
    struct sl_place p;
    int n = sl_config_slots(c, role, layer);
    if (n == 0 || sl_config_place(w, c, role, layer, 0, &p, NULL) || !p.name[0]) return 0;
    return p.rows * p.cols * n;
}

json_t *sl_inspect_parameters(const struct sl_weights *w, const struct sl_config *c)
{
    int64_t total = 0, active = 0, embed = role_size(w, c, SL_ROLE_EMBED, 0);
    for (int layer = 0; layer < c->n_layers; layer++)
        for (int role = 0; role < SL_ROLE_LAYER_COUNT; role++) {
            int64_t n = role_size(w, c, (enum sl_role)role, layer);
            total += n;
            active +=
                n > 0 && is_expert((enum sl_role)role) ? n / c->n_experts * c->n_experts_used : n;
        }
    int64_t edges = role_size(w, c, SL_ROLE_OUTPUT, 0) + role_size(w, c, SL_ROLE_OUT_NORM, 0);
    return json_pack("{s:I, s:I, s:I}", "total", (json_int_t)(total + edges + embed), "active",
                     (json_int_t)(active + edges + (c->tied ? embed : 0)), "embedding",
                     (json_int_t)embed);
}

json_t *sl_inspect_text(const struct sl_weights *w)
{
    struct sl_err err = {0};
    struct sl_tokenizer *t = NULL;
    struct sl_chat *chat = NULL;
    json_t *o = json_object();
    if (!o) return NULL;
    if (sl_tokenizer_open(w, &t, &err)) {
        put_text(o, "tokenizer", err.msg);
    } else {
        put_int(o, "tokens", sl_tokenizer_size(t));
        put_int(o, "bos", sl_tokenizer_bos(t));
        put_int(o, "eos", sl_tokenizer_eos(t));
        json_object_set_new(o, "adds_bos", json_boolean(sl_tokenizer_adds_bos(t)));
    }
    if (sl_chat_open(w, NULL, &chat, &err)) {
        put_text(o, "chat_template", err.code == SL_EUNSUPPORTED ? "none" : err.msg);
    } else {
        struct sl_answer_style style = sl_chat_style(chat);
        put_text(o, "chat_template", "yes");
        put_text(o, "tool_calls", sl_answer_tools_name(style.tools));
        put_text(o, "reasoning", sl_answer_reasoning_name(style.reasoning));
    }
    sl_chat_close(chat);
    sl_tokenizer_close(t);
    return o;
}
