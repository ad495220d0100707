/* arch_gemma.c - Gemma 2 (2024) and the text part of Gemma 3 (2025): norms before and after
 * attention and feed-forward, gates by GELU, embeddings times sqrt(hidden), a sliding window in
 * some layers. Gemma 2 softens logits of attention and output; Gemma 3 norms q and k heads instead,
 * and its sliding layers turn by frequencies of their own.
 *
 * HF files keep all gains less one; converters to GGUF add it. */
#include <math.h>

#include "model/arch.h"

#define SCALAR_MAX 1e6
#define GEMMA2_27B_LAYERS 46 /* the sizes whose attention scale GGUF metadata do not tell */
#define GEMMA3_27B_LAYERS 62

#define GEMMA_NAMES                                                                                \
    SL_NAMES_EDGES, SL_NAMES_ATTENTION, SL_NAMES_FFN,                                              \
        [SL_ROLE_ATTN_NORM] = SL_NAMED("attn_norm.weight", "input_layernorm.weight"),              \
        [SL_ROLE_POST_ATTN_NORM] =                                                                 \
            SL_NAMED("post_attention_norm.weight", "post_attention_layernorm.weight"),             \
        [SL_ROLE_FFN_NORM] = SL_NAMED("ffn_norm.weight", "pre_feedforward_layernorm.weight"),      \
        [SL_ROLE_POST_FFN_NORM] =                                                                  \
            SL_NAMED("post_ffw_norm.weight", "post_feedforward_layernorm.weight")

static const struct sl_names gemma2_names[SL_ROLE_COUNT] = {GEMMA_NAMES};
static const struct sl_names gemma3_names[SL_ROLE_COUNT] = {GEMMA_NAMES, SL_NAMES_QK_NORMS};

static const struct sl_hf_default gemma2_defaults[] = {
    {"head_dim", 256},          {"num_key_value_heads", 4},
    {"rms_norm_eps", 1e-6},     {"query_pre_attn_scalar", 256},
    {"sliding_window", 4096},   {"final_logit_softcapping", 30},
    {"tie_word_embeddings", 1}, {"attn_logit_softcapping", 50},
    {"vocab_size", 256000},     {NULL, 0}};

/* Folders of the vision models leave out what their classes assume. */
static const struct sl_hf_default gemma3_defaults[] = {{"head_dim", 256},
                                                       {"num_attention_heads", 8},
                                                       {"num_key_value_heads", 4},
                                                       {"rms_norm_eps", 1e-6},
                                                       {"query_pre_attn_scalar", 256},
                                                       {"sliding_window", 4096},
                                                       {"sliding_window_pattern", 6},
                                                       {"max_position_embeddings", 131072},
                                                       {"rope_theta", 1e6},
                                                       {"rope_local_base_freq", 1e4},
                                                       {"tie_word_embeddings", 1},
                                                       {"vocab_size", 262208},
                                                       {NULL, 0}};

static int read_gemma(struct sl_reader *r, int pattern, int layers_27b)
{
    struct sl_config *c = r->c;
    float scalar = (float)c->head_dim;
    if (!r->text && c->n_layers == layers_27b) scalar = (float)c->n_embd / (float)c->n_heads;
    int e = sl_read_act(r, "hidden_activation", SL_FFN_GELU_TANH);
    if (!e && r->text && !sl_read_has(r, NULL, "hidden_activation"))
        e = sl_read_act(r, "hidden_act", SL_FFN_GELU_TANH);
    (void)sl_read_has(r, NULL, "hidden_act"); /* older than hidden_activation, which wins */
    if (!e)
        e = sl_read_float(r, NULL, "query_pre_attn_scalar", (double)scalar, 1e-3, SCALAR_MAX,
                          &scalar);
    if (!e) e = sl_arch_read_window(r, pattern);
    if (!e) e = sl_arch_read_biases(r);
    c->post_norms = 1;
    c->embed_scale = sqrtf((float)c->n_embd);
    if (r->text || !sl_read_has(r, "attention.scale", NULL)) c->attn_scale = 1 / sqrtf(scalar);
    return e;
}

static int read_gemma2(struct sl_reader *r)
{
    struct sl_config *c = r->c;
    int e = read_gemma(r, 2, GEMMA2_27B_LAYERS);
    double caps[2] = {r->text ? 0 : 50, r->text ? 0 : 30};
    if (!e)
        e = sl_read_float(r, "attn_logit_softcapping", "attn_logit_softcapping", caps[0], 0,
                          SCALAR_MAX, &c->attn_softcap);
    if (!e)
        e = sl_read_float(r, "final_logit_softcapping", "final_logit_softcapping", caps[1], 0,
                          SCALAR_MAX, &c->logit_softcap);
    return e;
}

static int read_gemma3(struct sl_reader *r)
{
    struct sl_config *c = r->c;
    int pattern = 6, e = 0;
    const char *per_layer = "attention.sliding_window_pattern"; /* GGUF: a number, or a list */
    const struct sl_meta *given = sl_weights_meta(r->w, "gemma3.attention.sliding_window_pattern");
    int is_list = !r->text && given && given->type == SL_META_ARRAY;
    if (!is_list)
        e = sl_read_int(r, per_layer, "sliding_window_pattern", 6, 1, SL_LAYERS_MAX, &pattern);
    if (!e) e = read_gemma(r, pattern, GEMMA3_27B_LAYERS);
    if (!e)
        e = sl_read_float(r, "attn_logit_softcapping", "attn_logit_softcapping", 0, 0, SCALAR_MAX,
                          &c->attn_softcap);
    if (!e)
        e = sl_read_float(r, "final_logit_softcapping", "final_logit_softcapping", 0, 0, SCALAR_MAX,
                          &c->logit_softcap);
    for (int i = 0; !e && is_list && i < c->n_layers; i++) {
        int slides = 0;
        size_t n;
        e = sl_read_entry(r, per_layer, NULL, (size_t)i, &slides, &n);
        c->layer_flags[i] &= (uint8_t)~SL_LAYER_WINDOW;
        if (slides && c->window) c->layer_flags[i] |= SL_LAYER_WINDOW;
    }
    c->qk_norm = 1;
    if (!e && !r->text) {
        c->ropes[1] = (struct sl_rope_spec){.factor = 1, .magnitude = 1, .n_ctx_orig = 1};
        e = sl_read_float(r, "rope.freq_base_swa", NULL, 1e4, 1, 1e12, &c->ropes[1].base);
    }
    for (int i = 0; i < c->n_layers; i++)
        if (c->layer_flags[i] & SL_LAYER_WINDOW) c->layer_flags[i] |= SL_LAYER_LOCAL_ROPE;
    return e;
}

static const char *const gemma2_keys[] = {"sliding_window_size", NULL}; /* says it twice */

const struct sl_arch sl_arch_gemma2 = {
    .name = "gemma2",
    .gguf = "gemma2",
    .hf = {"gemma2"},
    .rope = SL_ROPE_NEOX,
    .rope_hf = SL_ROPE_NEOX,
    .hf_norm_offset = 1,
    .hf_defaults = gemma2_defaults,
    .hf_ignored = gemma2_keys,
    .names = gemma2_names,
    .read = read_gemma2,
};

static const char *const gemma3_tensors[] = {"vision_tower.", "multi_modal_projector.",
                                             "model.vision_tower.", "model.multi_modal_projector.",
                                             NULL};

const struct sl_arch sl_arch_gemma3 = {
    .name = "gemma3",
    .gguf = "gemma3",
    .hf = {"gemma3", "gemma3_text"},
    .rope = SL_ROPE_NEOX,
    .rope_hf = SL_ROPE_NEOX,
    .hf_norm_offset = 1,
    .hf_defaults = gemma3_defaults,
    .names = gemma3_names,
    .ignored = gemma3_tensors,
    .read = read_gemma3,
};
