/* arch.h - model families; private to model/. One file per family, data first: the names of its
 * tensors in both containers and a read() for the keys that only it has. docs/recipes/
 * add-a-family.md tells how to add one; config.c has the list. */
#ifndef SL_MODEL_ARCH_H
#define SL_MODEL_ARCH_H

#include "model/config.h"
#include "model/config_read.h"

/* Which rows of what is stored a role takes. */
enum sl_cut {
    SL_PART_WHOLE,
    SL_PART_QKV_Q, /* q, k and v stacked */
    SL_PART_QKV_K,
    SL_PART_QKV_V,
    SL_PART_GROUP_Q, /* for each KV head: its q heads, then k, then v (InternLM2) */
    SL_PART_GROUP_K,
    SL_PART_GROUP_V,
    SL_PART_FIRST, /* the first or second half of the rows */
    SL_PART_SECOND,
    SL_PART_EVEN, /* every other row */
    SL_PART_ODD,
    SL_PART_LATENT, /* latent and rotating part of the key, stacked */
    SL_PART_PE,
    SL_PART_KVB_K, /* head by head: k turned, then v */
    SL_PART_KVB_V,
    SL_PART_PER_HEAD, /* a 3-D tensor, one matrix per head */
};

/* Inside layers, what follows "blk.N." or "layers.N."; outside, the whole name (HF: after the
 * prefix). Stems for matrices, full names for vectors; '*' stands for the number of an expert. */
struct sl_source {
    const char *name;
    enum sl_cut part;
};

#define SL_SOURCES 2 /* ways to keep a role in one container; the first that exists is taken */

struct sl_names {
    struct sl_source gguf[SL_SOURCES], hf[SL_SOURCES];
};

/* A number that the family's class in transformers assumes when config.json lacks the key. */
struct sl_hf_default {
    const char *key;
    double value;
};

struct sl_arch {
    const char *name;                /* shown, and listed as known */
    const char *gguf;                /* general.architecture and prefix of keys; NULL: none */
    const char *hf[3];               /* model_type, NULL-filled */
    enum sl_rope_kind rope, rope_hf; /* as the containers keep q and k */
    int latent;                      /* attention over latents: read() reads its sizes */
    float hf_norm_offset;            /* HF files keep gains less this */
    const struct sl_hf_default *hf_defaults; /* ended by a NULL key; or NULL */
    const char *const *hf_ignored;           /* keys of config.json that change nothing; or NULL */
    const struct sl_names *names;            /* [SL_ROLE_COUNT] */
    const char *const *ignored; /* prefixes of tensors that text does not need; or NULL */
    /* Called after the shared keys are in *r->c. 0 or an error. */
    int (*read)(struct sl_reader *r);
};

extern const struct sl_arch sl_arch_llama, sl_arch_mistral, sl_arch_mixtral, sl_arch_internlm2,
    sl_arch_qwen2, sl_arch_qwen2_moe, sl_arch_qwen2_vl, sl_arch_qwen3, sl_arch_qwen3_moe,
    sl_arch_phi3, sl_arch_gemma2, sl_arch_gemma3, sl_arch_gpt_oss, sl_arch_deepseek,
    sl_arch_granite;

/* Rows and columns of a role, and which rows of what source `s` names they are; p->name and
 * p->expert are left alone. */
void sl_arch_slice(const struct sl_config *c, const struct sl_source *s, enum sl_role role,
                   int slot, struct sl_place *p);

const struct sl_arch *sl_arch_find(const char *name); /* by `name`; NULL when unknown */

/* Parts of read() that several families share. */
int sl_arch_read_biases(struct sl_reader *r); /* attention_bias and mlp_bias, or the tensors */
/* A mixture of experts in every layer; names of the keys in config.json (ff NULL: n_ff). Nothing
 * when the file has no such keys and `required` is 0. */
int sl_arch_read_experts(struct sl_reader *r, int required, const char *count, const char *used,
                         const char *ff);
int sl_arch_read_window(struct sl_reader *r, int pattern); /* sliding_window and the layers */
/* mlp_only_layers and decoder_sparse_step: layers without experts (Qwen). */
int sl_arch_read_sparse(struct sl_reader *r);
/* use_sliding_window and the layers; `slides` tells when config.json does not (Qwen). */
int sl_arch_read_optional_window(struct sl_reader *r,
                                 int (*slides)(int layer, int max_window_layers));

/* Does a tensor name (in a layer: what follows its number; outside, layer -1: what follows the
 * prefix) belong to a role that the model has? */
int sl_arch_explains(const struct sl_arch *a, const struct sl_config *c, const char *name,
                     int layer);
/* Sets prefix and head_prefix of an HF folder by where the embedding lies. */
int sl_arch_find_prefix(const struct sl_arch *a, const struct sl_weights *w, struct sl_config *c,
                        struct sl_err *err);
/* Every tensor that the family needs is there and well shaped, and none is there that it does not
 * know. */
int sl_arch_check_tensors(const struct sl_arch *a, const struct sl_weights *w,
                          const struct sl_config *c, struct sl_err *err);

#define SL_NAMED(g, h)                                                                             \
    {                                                                                              \
        .gguf = {{g, SL_PART_WHOLE}}, .hf = { {h, SL_PART_WHOLE} }                                 \
    }

/* Embedding, last norm and output matrix under their common names. */
#define SL_NAMES_EDGES                                                                             \
    [SL_ROLE_EMBED] = SL_NAMED("token_embd", "embed_tokens"),                                      \
    [SL_ROLE_OUT_NORM] = SL_NAMED("output_norm.weight", "norm.weight"),                            \
    [SL_ROLE_OUTPUT] = SL_NAMED("output", "lm_head"),                                              \
    [SL_ROLE_ROPE_FREQS] = SL_NAMED("rope_freqs.weight", NULL)

#define SL_NAMES_NORMS                                                                             \
    [SL_ROLE_ATTN_NORM] = SL_NAMED("attn_norm.weight", "input_layernorm.weight"),                  \
    [SL_ROLE_FFN_NORM] = SL_NAMED("ffn_norm.weight", "post_attention_layernorm.weight")

#define SL_NAMES_ATTENTION                                                                         \
    [SL_ROLE_Q] = SL_NAMED("attn_q", "self_attn.q_proj"),                                          \
    [SL_ROLE_K] = SL_NAMED("attn_k", "self_attn.k_proj"),                                          \
    [SL_ROLE_V] = SL_NAMED("attn_v", "self_attn.v_proj"),                                          \
    [SL_ROLE_O] = SL_NAMED("attn_output", "self_attn.o_proj"),                                     \
    [SL_ROLE_Q_BIAS] = SL_NAMED("attn_q.bias", "self_attn.q_proj.bias"),                           \
    [SL_ROLE_K_BIAS] = SL_NAMED("attn_k.bias", "self_attn.k_proj.bias"),                           \
    [SL_ROLE_V_BIAS] = SL_NAMED("attn_v.bias", "self_attn.v_proj.bias"),                           \
    [SL_ROLE_O_BIAS] = SL_NAMED("attn_output.bias", "self_attn.o_proj.bias")

#define SL_NAMES_QK_NORMS                                                                          \
    [SL_ROLE_Q_NORM] = SL_NAMED("attn_q_norm.weight", "self_attn.q_norm.weight"),                  \
    [SL_ROLE_K_NORM] = SL_NAMED("attn_k_norm.weight", "self_attn.k_norm.weight")

#define SL_NAMES_FFN                                                                               \
    [SL_ROLE_GATE] = SL_NAMED("ffn_gate", "mlp.gate_proj"),                                        \
    [SL_ROLE_UP] = SL_NAMED("ffn_up", "mlp.up_proj"),                                              \
    [SL_ROLE_DOWN] = SL_NAMED("ffn_down", "mlp.down_proj"),                                        \
    [SL_ROLE_GATE_BIAS] = SL_NAMED("ffn_gate.bias", "mlp.gate_proj.bias"),                         \
    [SL_ROLE_UP_BIAS] = SL_NAMED("ffn_up.bias", "mlp.up_proj.bias"),                               \
    [SL_ROLE_DOWN_BIAS] = SL_NAMED("ffn_down.bias", "mlp.down_proj.bias")

/* Experts as Qwen and DeepSeek name them. */
#define SL_NAMES_EXPERTS                                                                           \
    [SL_ROLE_ROUTER] = SL_NAMED("ffn_gate_inp", "mlp.gate"),                                       \
    [SL_ROLE_GATE_EXPS] = {.gguf = {{"ffn_gate_exps", SL_PART_WHOLE},                              \
                                    {"ffn_gate_up_exps", SL_PART_FIRST}},                          \
                           .hf = {{"mlp.experts.*.gate_proj", SL_PART_WHOLE}}},                    \
    [SL_ROLE_UP_EXPS] = {.gguf = {{"ffn_up_exps", SL_PART_WHOLE},                                  \
                                  {"ffn_gate_up_exps", SL_PART_SECOND}},                           \
                         .hf = {{"mlp.experts.*.up_proj", SL_PART_WHOLE}}},                        \
    [SL_ROLE_DOWN_EXPS] = SL_NAMED("ffn_down_exps", "mlp.experts.*.down_proj")

#define SL_NAMES_SHARED(h)                                                                         \
    [SL_ROLE_GATE_SHARED] = SL_NAMED("ffn_gate_shexp", h ".gate_proj"),                            \
    [SL_ROLE_UP_SHARED] = SL_NAMED("ffn_up_shexp", h ".up_proj"),                                  \
    [SL_ROLE_DOWN_SHARED] = SL_NAMED("ffn_down_shexp", h ".down_proj")

#endif
