/* config.h - hyperparameters of a decoder model, validated: what exec needs to run it and the
 * planner to size it.
 *
 * A family (arch_*.c) turns metadata into this struct and names the tensors of a layer. Exec is
 * driven by the fields, not by the family's name. Dimensions are element counts. */
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

enum sl_rope_kind {
    SL_ROPE_NORM, /* rotates pairs (2i, 2i+1): GGUF llama */
    SL_ROPE_NEOX  /* rotates pairs (i, i + d/2): HF, GGUF qwen2 */
};

struct sl_config {
    char arch[32]; /* "llama" */
    char name[96]; /* general.name, "" when absent */
    int n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab, n_ctx_train;
    float rms_eps;
    enum sl_rope_kind rope;
    int rope_dims; /* the first rope_dims of each head rotate */
    float rope_base;
    float rope_scale; /* position is divided by it (linear scaling); 1 = none */
    int qkv_bias;     /* q, k, v projections have biases */
    int tied;         /* no output matrix: the embedding is used */
};

/* The tensors of one layer, by role; a role that the family lacks has name NULL. */
enum sl_role {
    SL_ROLE_ATTN_NORM,
    SL_ROLE_Q,
    SL_ROLE_K,
    SL_ROLE_V,
    SL_ROLE_Q_BIAS,
    SL_ROLE_K_BIAS,
    SL_ROLE_V_BIAS,
    SL_ROLE_O,
    SL_ROLE_FFN_NORM,
    SL_ROLE_GATE,
    SL_ROLE_UP,
    SL_ROLE_DOWN,
    SL_ROLE_LAYER_COUNT,
    /* outside the layers */
    SL_ROLE_EMBED = SL_ROLE_LAYER_COUNT,
    SL_ROLE_OUT_NORM,
    SL_ROLE_OUTPUT,
    SL_ROLE_ROPE_FREQS,
    SL_ROLE_COUNT
};

/* Reads and checks the configuration; an unknown architecture is SL_EUNSUPPORTED, listing what is
 * known and the nearest. */
int sl_config_read(const struct sl_weights *w, struct sl_config *out, struct sl_err *err);

/* The tensor for `role` (of `layer`, ignored for roles outside layers), its shape checked against
 * the configuration: matrices are ne = {K in, N out}, vectors ne = {N}. *out is NULL for an
 * optional tensor that is absent (biases when !qkv_bias, OUTPUT when tied, ROPE_FREQS). SL_EINPUT
 * when a required one is missing or has the wrong shape, SL_EUNSUPPORTED when its format has no row
 * in base/dtype.h. */
int sl_config_tensor(const struct sl_weights *w, const struct sl_config *c, enum sl_role role,
                     int layer, const struct sl_tensor **out, struct sl_err *err);

/* Bytes in the file of layer `layer`, and of the parts outside (embedding; final norm + output
 * matrix, the embedding's when tied): what the planner cuts by. Return 0 or an error of
 * sl_config_tensor. */
int sl_config_layer_bytes(const struct sl_weights *w, const struct sl_config *c, int layer,
                          uint64_t *bytes, struct sl_err *err);
int sl_config_edge_bytes(const struct sl_weights *w, const struct sl_config *c, uint64_t *embed,
                         uint64_t *head, struct sl_err *err);

/* KV bytes of one token in one layer, K and V, for elements of `elem_bytes`. */
uint64_t sl_config_kv_bytes(const struct sl_config *c, int elem_bytes);

/* Names of the known architectures, for messages; *n of them. */
const char *const *sl_config_archs(int *n);

#ifdef __cplusplus
}
#endif
#endif
