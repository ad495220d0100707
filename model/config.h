/* config.h - hyperparameters of a decoder model, validated: what exec needs to run it and the
 * planner to size it; and where each weight lies in the file.
 *
 * A family (arch_*.c) turns metadata (GGUF keys or config.json) into this struct and names its
 * tensors by role. Exec is driven by the fields, not by the family's name. Dimensions are element
 * counts. */
#ifndef SL_MODEL_CONFIG_H
#define SL_MODEL_CONFIG_H

#include <stdint.h>

#include "base/err.h"
#include "model/weights.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SL_LAYERS_MAX 1024
#define SL_HEAD_DIM_MAX 512
#define SL_ROPE_PAIRS_MAX (SL_HEAD_DIM_MAX / 2)
#define SL_EXPERTS_MAX 1024

enum sl_rope_kind {
    SL_ROPE_NORM, /* rotates pairs (2i, 2i+1): GGUF llama, DeepSeek */
    SL_ROPE_NEOX  /* rotates pairs (i, i + d/2): HF, most others in GGUF */
};

enum sl_rope_scaling {
    SL_ROPE_PLAIN,
    SL_ROPE_LINEAR, /* positions divided by `factor` (Chen et al. 2023) */
    SL_ROPE_LLAMA3, /* low frequencies divided by `factor` (Llama 3.1) */
    SL_ROPE_YARN,   /* Peng et al. 2023 */
    SL_ROPE_LONG    /* LongRoPE (Ding et al. 2024): a divisor per pair, one set up to n_ctx_orig
                       tokens, another beyond */
};

/* How a table of frequencies is made; sl_config_rope makes it. */
struct sl_rope_spec {
    enum sl_rope_scaling scaling;
    float base, factor;
    float magnitude;           /* multiplies cosine and sine */
    float low_freq, high_freq; /* LLAMA3 */
    float beta_fast, beta_slow;
    int truncate;     /* YARN: the corrected range is rounded to whole pairs */
    float mscale_all; /* YARN in DeepSeek: attention is scaled by its mscale, squared; 0: not */
    int n_ctx_orig;
};

/* Gated feed-forward: down(act(gate) * up); GELU exact or by tanh; OAI: gpt-oss's clamped one. */
enum sl_ffn_act { SL_FFN_SILU, SL_FFN_GELU, SL_FFN_GELU_TANH, SL_FFN_SWIGLU_OAI };

/* How the router's logits choose experts; see enum sl_gating in kernels.h, which has the same. */
enum sl_router_kind { SL_ROUTER_SOFTMAX, SL_ROUTER_TOPK_SOFTMAX, SL_ROUTER_SIGMOID };

/* What is special about one layer. */
enum sl_layer_flag {
    SL_LAYER_WINDOW = 1,     /* attends to `window` keys */
    SL_LAYER_LOCAL_ROPE = 2, /* turns by ropes[1] */
    SL_LAYER_MOE = 4         /* a mixture of experts in place of the feed-forward */
};

struct sl_config {
    char arch[32]; /* the family: "llama" */
    char name[96]; /* general.name, "" when absent */
    int hf;        /* a Hugging Face folder: names and conventions of its tensors */
    char prefix[32] /* HF: before "layers.N." */, head_prefix[32] /* before "lm_head" */;
    int n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab, n_ctx_train;
    int n_layers_extra; /* after them in the file: for predicting further tokens, not run */
    int n_ctx_limit;    /* answers beyond so many tokens would be wrong here; 0: no such limit */
    float rms_eps;
    float norm_offset; /* added to the gains of all norms (Gemma in HF folders: 1) */
    uint8_t layer_flags[SL_LAYERS_MAX];

    enum sl_rope_kind rope;
    int rope_dims;                /* the first rope_dims of each head rotate */
    float rope_base, rope_scale;  /* of ropes[0]: base, linear scale (1: none) */
    struct sl_rope_spec ropes[2]; /* all layers; those with LOCAL_ROPE */
    float rope_short[SL_ROPE_PAIRS_MAX], rope_long[SL_ROPE_PAIRS_MAX]; /* LONG, from config.json */

    int qkv_bias, o_bias, mlp_bias; /* which projections have biases */
    int qk_norm;                    /* q and k heads go through RMS norms (Qwen3) */
    int post_norms;                 /* norms after attention and feed-forward too (Gemma 2) */
    int sinks;                      /* a learned logit per head joins the softmax (gpt-oss) */
    int tied;                       /* no output matrix: the embedding is used */
    float attn_scale, attn_softcap, logit_softcap; /* caps 0: none */
    int window;                                    /* keys; for layers with WINDOW */
    float embed_scale, residual_scale, logit_scale;
    enum sl_ffn_act act;

    /* mixture of experts; n_experts 0: none */
    int n_experts, n_experts_used, n_ff_expert, n_ff_shared /* 0: no shared expert */;
    int shared_gate; /* the shared expert is weighed by a sigmoid of its own (Qwen2-MoE) */
    enum sl_router_kind router;
    int expert_normalize, n_groups, n_groups_used;
    int router_bias, expert_bias, router_correction;
    float expert_scale;

    /* multi-head latent attention (DeepSeek-V2, 2024); kv_lora 0: none. q_lora 0: no low rank */
    int kv_lora, q_lora, qk_nope, qk_rope, v_dim;
};

/* The weights of a model, by role. A role that a model or a layer lacks has no place. */
enum sl_role {
    /* vectors of a layer */
    SL_ROLE_ATTN_NORM,
    SL_ROLE_Q_BIAS,
    SL_ROLE_K_BIAS,
    SL_ROLE_V_BIAS,
    SL_ROLE_O_BIAS,
    SL_ROLE_Q_NORM,
    SL_ROLE_K_NORM,
    SL_ROLE_SINKS,
    SL_ROLE_POST_ATTN_NORM,
    SL_ROLE_FFN_NORM,
    SL_ROLE_POST_FFN_NORM,
    SL_ROLE_GATE_BIAS,
    SL_ROLE_UP_BIAS,
    SL_ROLE_DOWN_BIAS,
    SL_ROLE_ROUTER_BIAS,
    SL_ROLE_CORRECTION,     /* of the router, for choosing only */
    SL_ROLE_GATE_EXPS_BIAS, /* [n_experts][n_ff_expert] */
    SL_ROLE_UP_EXPS_BIAS,   /* the same */
    SL_ROLE_DOWN_EXPS_BIAS, /* [n_experts][n_embd] */
    SL_ROLE_SHARED_GATE,    /* [n_embd] */
    SL_ROLE_Q_A_NORM,       /* MLA */
    SL_ROLE_KV_A_NORM,
    SL_ROLE_VECTORS,
    /* matrices of a layer */
    SL_ROLE_Q = SL_ROLE_VECTORS,
    SL_ROLE_K,
    SL_ROLE_V,
    SL_ROLE_O,
    SL_ROLE_GATE,
    SL_ROLE_UP,
    SL_ROLE_DOWN,
    SL_ROLE_GATE_SHARED,
    SL_ROLE_UP_SHARED,
    SL_ROLE_DOWN_SHARED,
    SL_ROLE_ROUTER,
    SL_ROLE_Q_A,       /* MLA: into the low rank of q */
    SL_ROLE_Q_B,       /* and out of it */
    SL_ROLE_KV_A,      /* the latent */
    SL_ROLE_K_PE,      /* the rotating part of the key */
    SL_ROLE_K_B,       /* one per head: [kv_lora, qk_nope], turned for the absorbed form */
    SL_ROLE_V_B,       /* one per head: [v_dim, kv_lora] */
    SL_ROLE_GATE_EXPS, /* one per expert */
    SL_ROLE_UP_EXPS,
    SL_ROLE_DOWN_EXPS,
    SL_ROLE_LAYER_COUNT,
    /* outside the layers */
    SL_ROLE_EMBED = SL_ROLE_LAYER_COUNT,
    SL_ROLE_OUTPUT,
    SL_ROLE_OUT_NORM,
    SL_ROLE_ROPE_FREQS, /* GGUF: divisors of the frequencies (Llama 3) */
    SL_ROLE_ROPE_LONG,  /* GGUF: LongRoPE */
    SL_ROLE_ROPE_SHORT,
    SL_ROLE_COUNT
};

static inline int sl_role_is_matrix(enum sl_role r)
{
    return r >= SL_ROLE_VECTORS && r <= SL_ROLE_OUTPUT;
}

/* Where the numbers of a role lie: row r of the role (element, for vectors) is stored row
 * first + r / block * stride + r % block * step of what is stored under `name`. */
struct sl_place {
    char name[SL_TENSOR_NAME_MAX]; /* "": the model has no such role. A matrix: the stem that
                                      sl_linear_open takes; a vector: the tensor */
    int expert, n_experts;         /* what sl_linear_open takes */
    int64_t stored_rows, cols;     /* cols 1 for vectors */
    int64_t rows, first, block, stride, step;
    int turned; /* the role is the transpose of those rows (K_B cut from kv_b) */
};

static inline int64_t sl_place_row(const struct sl_place *p, int64_t r)
{
    return p->first + r / p->block * p->stride + r % p->block * p->step;
}

/* Reads and checks the configuration; an unknown architecture is SL_EUNSUPPORTED, listing what is
 * known and the nearest; so is any key or tensor that would change the answer and is not
 * understood. */
int sl_config_read(const struct sl_weights *w, struct sl_config *out, struct sl_err *err);

/* How many of a role a layer has: experts or heads for those that come in rows, else 1; 0 when the
 * layer has none. */
int sl_config_slots(const struct sl_config *c, enum sl_role role, int layer);

/* The place of a role (of `layer`, ignored outside layers; of expert or head `slot`). SL_EINPUT
 * when a required one is missing. */
int sl_config_place(const struct sl_weights *w, const struct sl_config *c, enum sl_role role,
                    int layer, int slot, struct sl_place *out, struct sl_err *err);

/* The tensor of a role when it is one plain tensor, its shape checked against the configuration:
 * matrices are ne = {K in, N out}, vectors ne = {N}. *out is NULL for a role that the model does
 * not have or that is kept otherwise (fused, quantized in several tensors). Errors of
 * sl_config_place, SL_EINPUT for a wrong shape, SL_EUNSUPPORTED when its format has no row in
 * base/dtype.h. */
int sl_config_tensor(const struct sl_weights *w, const struct sl_config *c, enum sl_role role,
                     int layer, const struct sl_tensor **out, struct sl_err *err);

/* Bytes in the file of layer `layer`, and of the parts outside (embedding; final norm + output
 * matrix, the embedding's when tied): what the planner cuts by, and to the byte what a stage reads.
 * Return 0 or an error of sl_config_place or sl_linear_bytes. */
int sl_config_layer_bytes(const struct sl_weights *w, const struct sl_config *c, int layer,
                          uint64_t *bytes, struct sl_err *err);
int sl_config_edge_bytes(const struct sl_weights *w, const struct sl_config *c, uint64_t *embed,
                         uint64_t *head, struct sl_err *err);

/* KV bytes of one token in one layer for elements of `elem_bytes`: K and V, or the latent. */
uint64_t sl_config_kv_bytes(const struct sl_config *c, int elem_bytes);

/* Widths of the buffers that a row of activations needs, in floats; 0: not needed. */
struct sl_config_widths {
    int q, k, v, attn, ff, latent, q_latent, o_latent, q_a;
};
struct sl_config_widths sl_config_row_widths(const struct sl_config *c);

/* The frequencies [rope_dims/2] of ropes[which] and what multiplies cosine and sine; `far`: for
 * sequences longer than n_ctx_orig (LONG). Maps tensors when the file keeps factors in them. */
int sl_config_rope(struct sl_weights *w, const struct sl_config *c, int which, int far,
                   float *inv_freq, float *magnitude, struct sl_err *err);

/* Names of the known architectures, for messages; *n of them. */
const char *const *sl_config_archs(int *n);

#ifdef __cplusplus
}
#endif
#endif
