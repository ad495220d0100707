/* config_place.c - which weights a layer has, how large they are, and where each lies in the file:
 * roles to names, slices of fused tensors included. */
#include <stdio.h>
#include <string.h>

#include "base/sl_assert.h"
#include "model/arch.h"
#include "model/linear.h"

int sl_config_slots(const struct sl_config *c, enum sl_role role, int layer)
{
    int moe = role < SL_ROLE_LAYER_COUNT && (c->layer_flags[layer] & SL_LAYER_MOE);
    int mla = c->kv_lora > 0, low_q = mla && c->q_lora > 0;
    switch (role) {
    case SL_ROLE_Q_BIAS:
    case SL_ROLE_K_BIAS:
    case SL_ROLE_V_BIAS:
        return c->qkv_bias && !mla;
    case SL_ROLE_O_BIAS:
        return c->o_bias != 0;
    case SL_ROLE_Q_NORM:
    case SL_ROLE_K_NORM:
        return c->qk_norm != 0;
    case SL_ROLE_SINKS:
        return c->sinks != 0;
    case SL_ROLE_POST_ATTN_NORM:
    case SL_ROLE_POST_FFN_NORM:
        return c->post_norms != 0;
    case SL_ROLE_GATE_BIAS:
    case SL_ROLE_UP_BIAS:
    case SL_ROLE_DOWN_BIAS:
        return c->mlp_bias && !moe;
    case SL_ROLE_GATE:
    case SL_ROLE_UP:
    case SL_ROLE_DOWN:
        return !moe;
    case SL_ROLE_ROUTER_BIAS:
        return moe && c->router_bias;
    case SL_ROLE_CORRECTION:
        return moe && c->router_correction;
    case SL_ROLE_GATE_EXPS_BIAS:
    case SL_ROLE_UP_EXPS_BIAS:
    case SL_ROLE_DOWN_EXPS_BIAS:
        return moe && c->expert_bias;
    case SL_ROLE_SHARED_GATE:
        return moe && c->shared_gate;
    case SL_ROLE_GATE_SHARED:
    case SL_ROLE_UP_SHARED:
    case SL_ROLE_DOWN_SHARED:
        return moe && c->n_ff_shared;
    case SL_ROLE_ROUTER:
        return moe != 0;
    case SL_ROLE_GATE_EXPS:
    case SL_ROLE_UP_EXPS:
    case SL_ROLE_DOWN_EXPS:
        return moe ? c->n_experts : 0;
    case SL_ROLE_Q:
        return !low_q;
    case SL_ROLE_K:
    case SL_ROLE_V:
        return !mla;
    case SL_ROLE_Q_A_NORM:
    case SL_ROLE_Q_A:
    case SL_ROLE_Q_B:
        return low_q;
    case SL_ROLE_KV_A_NORM:
    case SL_ROLE_KV_A:
    case SL_ROLE_K_PE:
        return mla;
    case SL_ROLE_K_B:
    case SL_ROLE_V_B:
        return mla ? c->n_heads : 0;
    case SL_ROLE_OUTPUT:
        return !c->tied;
    default:
        return 1;
    }
}

/* Rows and columns of a role; cols 1 for vectors. */
static void extent(const struct sl_config *c, enum sl_role role, int64_t *rows, int64_t *cols)
{
    int mla = c->kv_lora > 0;
    int64_t q = (int64_t)c->n_heads * (mla ? c->qk_nope + c->qk_rope : c->head_dim);
    int64_t kv = (int64_t)c->n_kv_heads * c->head_dim, e = c->n_embd, n = c->n_experts;
    int64_t o = (int64_t)c->n_heads * (mla ? c->v_dim : c->head_dim);
    const int64_t sizes[SL_ROLE_COUNT][2] = {
        [SL_ROLE_ATTN_NORM] = {e, 1},
        [SL_ROLE_Q_BIAS] = {q, 1},
        [SL_ROLE_K_BIAS] = {kv, 1},
        [SL_ROLE_V_BIAS] = {kv, 1},
        [SL_ROLE_O_BIAS] = {e, 1},
        [SL_ROLE_Q_NORM] = {c->head_dim, 1},
        [SL_ROLE_K_NORM] = {c->head_dim, 1},
        [SL_ROLE_SINKS] = {c->n_heads, 1},
        [SL_ROLE_POST_ATTN_NORM] = {e, 1},
        [SL_ROLE_FFN_NORM] = {e, 1},
        [SL_ROLE_POST_FFN_NORM] = {e, 1},
        [SL_ROLE_GATE_BIAS] = {c->n_ff, 1},
        [SL_ROLE_UP_BIAS] = {c->n_ff, 1},
        [SL_ROLE_DOWN_BIAS] = {e, 1},
        [SL_ROLE_ROUTER_BIAS] = {n, 1},
        [SL_ROLE_CORRECTION] = {n, 1},
        [SL_ROLE_GATE_EXPS_BIAS] = {n * c->n_ff_expert, 1},
        [SL_ROLE_UP_EXPS_BIAS] = {n * c->n_ff_expert, 1},
        [SL_ROLE_DOWN_EXPS_BIAS] = {n * e, 1},
        [SL_ROLE_SHARED_GATE] = {e, 1},
        [SL_ROLE_Q_A_NORM] = {c->q_lora, 1},
        [SL_ROLE_KV_A_NORM] = {c->kv_lora, 1},
        [SL_ROLE_Q] = {q, e},
        [SL_ROLE_K] = {kv, e},
        [SL_ROLE_V] = {kv, e},
        [SL_ROLE_O] = {e, o},
        [SL_ROLE_GATE] = {c->n_ff, e},
        [SL_ROLE_UP] = {c->n_ff, e},
        [SL_ROLE_DOWN] = {e, c->n_ff},
        [SL_ROLE_GATE_SHARED] = {c->n_ff_shared, e},
        [SL_ROLE_UP_SHARED] = {c->n_ff_shared, e},
        [SL_ROLE_DOWN_SHARED] = {e, c->n_ff_shared},
        [SL_ROLE_ROUTER] = {n, e},
        [SL_ROLE_Q_A] = {c->q_lora, e},
        [SL_ROLE_Q_B] = {q, c->q_lora},
        [SL_ROLE_KV_A] = {c->kv_lora, e},
        [SL_ROLE_K_PE] = {c->qk_rope, e},
        [SL_ROLE_K_B] = {c->kv_lora, c->qk_nope},
        [SL_ROLE_V_B] = {c->v_dim, c->kv_lora},
        [SL_ROLE_GATE_EXPS] = {c->n_ff_expert, e},
        [SL_ROLE_UP_EXPS] = {c->n_ff_expert, e},
        [SL_ROLE_DOWN_EXPS] = {e, c->n_ff_expert},
        [SL_ROLE_EMBED] = {c->n_vocab, e},
        [SL_ROLE_OUTPUT] = {c->n_vocab, e},
        [SL_ROLE_OUT_NORM] = {e, 1},
        [SL_ROLE_ROPE_FREQS] = {c->rope_dims / 2, 1},
        [SL_ROLE_ROPE_LONG] = {c->rope_dims / 2, 1},
        [SL_ROLE_ROPE_SHORT] = {c->rope_dims / 2, 1},
    };
    *rows = sizes[role][0];
    *cols = sizes[role][1];
}

/* ---- names ----------------------------------------------------------------------------------- */

/* The whole name: prefix, layer, and the expert for '*'. */
static void spell(const struct sl_config *c, const char *name, enum sl_role role, int layer,
                  int slot, char out[SL_TENSOR_NAME_MAX])
{
    const char *star = strchr(name, '*');
    int head = star ? (int)(star - name) : (int)strlen(name);
    char in_layer[40] = "", expert[16] = "";
    if (role < SL_ROLE_LAYER_COUNT)
        snprintf(in_layer, sizeof in_layer, c->hf ? "layers.%d." : "blk.%d.", layer);
    if (star) snprintf(expert, sizeof expert, "%d", slot);
    snprintf(out, SL_TENSOR_NAME_MAX, "%s%s%.*s%s%s",
             role == SL_ROLE_OUTPUT ? c->head_prefix : c->prefix, in_layer, head, name, expert,
             star ? star + 1 : "");
}

static int is_per_expert(enum sl_role role)
{
    return role >= SL_ROLE_GATE_EXPS && role <= SL_ROLE_DOWN_EXPS;
}

/* Which rows of the stored ones; p->rows is the role's own count. */
static void cut(const struct sl_config *c, enum sl_cut part, enum sl_role role, int slot,
                struct sl_place *p)
{
    int64_t d = c->head_dim, q = c->n_heads * d, kv = c->n_kv_heads * d;
    int64_t group = c->n_kv_heads ? c->n_heads / c->n_kv_heads : 0, n = p->rows;
    int64_t kv_b = c->qk_nope + c->v_dim;
    /* stacked halves of expert biases are stacked within each expert */
    int64_t unit =
        role == SL_ROLE_GATE_EXPS_BIAS || role == SL_ROLE_UP_EXPS_BIAS ? c->n_ff_expert : n;
    p->block = p->stride = n;
    p->step = 1;
    p->stored_rows = n;
    switch (part) {
    case SL_PART_WHOLE:
    case SL_PART_PER_HEAD:
        break;
    case SL_PART_QKV_Q:
    case SL_PART_QKV_K:
    case SL_PART_QKV_V:
        p->stored_rows = q + 2 * kv;
        p->first = part == SL_PART_QKV_Q ? 0 : part == SL_PART_QKV_K ? q : q + kv;
        break;
    case SL_PART_GROUP_Q:
    case SL_PART_GROUP_K:
    case SL_PART_GROUP_V:
        p->stored_rows = q + 2 * kv;
        p->block = part == SL_PART_GROUP_Q ? group * d : d;
        p->stride = (group + 2) * d;
        p->first = part == SL_PART_GROUP_Q   ? 0
                   : part == SL_PART_GROUP_K ? group * d
                                             : (group + 1) * d;
        break;
    case SL_PART_FIRST:
    case SL_PART_SECOND:
        p->stored_rows = 2 * n;
        p->block = unit;
        p->stride = 2 * unit;
        p->first = part == SL_PART_FIRST ? 0 : unit;
        break;
    case SL_PART_EVEN:
    case SL_PART_ODD:
        p->stored_rows = 2 * n;
        p->stride = 2 * n;
        p->step = 2;
        p->first = part == SL_PART_ODD;
        break;
    case SL_PART_LATENT:
    case SL_PART_PE:
        p->stored_rows = c->kv_lora + c->qk_rope;
        p->first = part == SL_PART_PE ? c->kv_lora : 0;
        break;
    case SL_PART_KVB_K:
    case SL_PART_KVB_V:
        p->stored_rows = c->n_heads * kv_b;
        p->first = slot * kv_b + (part == SL_PART_KVB_V ? c->qk_nope : 0);
        p->turned = part == SL_PART_KVB_K;
        if (p->turned) {
            p->rows = p->block = p->stride = c->qk_nope;
            p->cols = c->kv_lora;
        }
        break;
    }
}

void sl_arch_slice(const struct sl_config *c, const struct sl_source *s, enum sl_role role,
                   int slot, struct sl_place *p)
{
    p->first = 0;
    p->turned = 0;
    extent(c, role, &p->rows, &p->cols);
    cut(c, s->part, role, slot, p);
}

int sl_config_place(const struct sl_weights *w, const struct sl_config *c, enum sl_role role,
                    int layer, int slot, struct sl_place *out, struct sl_err *err)
{
    SL_ASSERT(role < SL_ROLE_COUNT);
    SL_ASSERT(role >= SL_ROLE_LAYER_COUNT || (layer >= 0 && layer < c->n_layers));
    const struct sl_arch *a = sl_arch_find(c->arch);
    SL_ASSERT(a != NULL); /* sl_config_read made c */
    int optional = role >= SL_ROLE_ROPE_FREQS, matrix = sl_role_is_matrix(role);
    const struct sl_source *s = c->hf ? a->names[role].hf : a->names[role].gguf;
    out->name[0] = 0;
    if (sl_config_slots(c, role, layer) == 0) return 0;
    for (int i = 0; i < SL_SOURCES && s[i].name; i++) {
        spell(c, s[i].name, role, layer, slot, out->name);
        if (!(matrix ? sl_linear_exists(w, out->name) : sl_weights_find(w, out->name) != NULL))
            continue;
        out->expert = -1;
        out->n_experts = 1;
        if (is_per_expert(role) && !strchr(s[i].name, '*')) {
            out->expert = slot;
            out->n_experts = c->n_experts;
        } else if (s[i].part == SL_PART_PER_HEAD) {
            out->expert = slot;
            out->n_experts = c->n_heads;
        }
        sl_arch_slice(c, &s[i], role, slot, out);
        return 0;
    }
    if (!s[0].name) snprintf(out->name, sizeof out->name, "?");
    if (s[0].name) spell(c, s[0].name, role, layer, slot, out->name);
    int e = optional ? 0
                     : sl_err_set(err, SL_EINPUT,
                                  "%s: tensor %s%s is missing; this file has no complete model",
                                  sl_weights_path(w), out->name, matrix ? ".weight" : "");
    out->name[0] = 0;
    return e;
}

/* ---- the other way: does a name belong to the model? ------------------------------------------
 */

/* What is left of `name` behind a pattern with '*', or NULL. */
static const char *match(const char *pattern, const char *name, int n_experts)
{
    const char *star = strchr(pattern, '*');
    size_t head = star ? (size_t)(star - pattern) : strlen(pattern);
    if (strncmp(pattern, name, head) != 0) return NULL;
    name += head;
    if (!star) return name;
    int expert = 0, digits = 0;
    for (; *name >= '0' && *name <= '9' && digits < 6; name++, digits++)
        expert = expert * 10 + *name - '0';
    size_t tail = strlen(star + 1);
    if (!digits || expert >= n_experts || strncmp(star + 1, name, tail) != 0) return NULL;
    return name + tail;
}

int sl_arch_explains(const struct sl_arch *a, const struct sl_config *c, const char *name,
                     int layer)
{
    int from = layer >= 0 ? 0 : SL_ROLE_LAYER_COUNT,
        to = layer >= 0 ? SL_ROLE_LAYER_COUNT : SL_ROLE_COUNT;
    for (int role = from; role < to; role++) {
        const struct sl_source *s = c->hf ? a->names[role].hf : a->names[role].gguf;
        if (!sl_config_slots(c, (enum sl_role)role, layer)) continue;
        for (int i = 0; i < SL_SOURCES && s[i].name; i++) {
            const char *rest = match(s[i].name, name, c->n_experts);
            if (!rest) continue;
            if (sl_role_is_matrix((enum sl_role)role) ? sl_linear_is_part(rest) : *rest == 0)
                return 1;
        }
    }
    return 0;
}
