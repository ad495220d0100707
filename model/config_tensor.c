/* config_tensor.c - the tensors of a configuration: by role, with the shape that the
 * hyperparameters call for.
 *
 * A tensor that no role explains means that the model computes something we do not know of:
 * refused. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/sl_assert.h"
#include "model/arch.h"

static int refuse(const struct sl_weights *w, struct sl_err *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static int refuse(const struct sl_weights *w, struct sl_err *err, int code, const char *fmt, ...)
{
    char text[SL_ERR_MSG_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return sl_err_set(err, code, "%s: %s", sl_weights_path(w), text);
}

/* "blk.3.attn_q.weight"; NULL when the family has no such tensor. */
static const char *tensor_name(const struct sl_arch *a, enum sl_role role, int layer,
                               char out[SL_TENSOR_NAME_MAX])
{
    const char *suffix = a->tensors[role];
    if (!suffix) return NULL;
    if (role >= SL_ROLE_LAYER_COUNT) return suffix;
    snprintf(out, SL_TENSOR_NAME_MAX, "blk.%d.%s", layer, suffix);
    return out;
}

/* ne[0] and ne[1] that a role must have; ne[1] is 1 for vectors. */
static void want_shape(const struct sl_config *c, enum sl_role role, int64_t ne[2])
{
    int q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    const int shapes[SL_ROLE_COUNT][2] = {
        [SL_ROLE_ATTN_NORM] = {c->n_embd, 1},
        [SL_ROLE_Q] = {c->n_embd, q},
        [SL_ROLE_K] = {c->n_embd, kv},
        [SL_ROLE_V] = {c->n_embd, kv},
        [SL_ROLE_Q_BIAS] = {q, 1},
        [SL_ROLE_K_BIAS] = {kv, 1},
        [SL_ROLE_V_BIAS] = {kv, 1},
        [SL_ROLE_O] = {q, c->n_embd},
        [SL_ROLE_FFN_NORM] = {c->n_embd, 1},
        [SL_ROLE_GATE] = {c->n_embd, c->n_ff},
        [SL_ROLE_UP] = {c->n_embd, c->n_ff},
        [SL_ROLE_DOWN] = {c->n_ff, c->n_embd},
        [SL_ROLE_EMBED] = {c->n_embd, c->n_vocab},
        [SL_ROLE_OUT_NORM] = {c->n_embd, 1},
        [SL_ROLE_OUTPUT] = {c->n_embd, c->n_vocab},
        [SL_ROLE_ROPE_FREQS] = {c->rope_dims / 2, 1},
    };
    ne[0] = shapes[role][0];
    ne[1] = shapes[role][1];
}

static int is_bias(enum sl_role role)
{
    return role == SL_ROLE_Q_BIAS || role == SL_ROLE_K_BIAS || role == SL_ROLE_V_BIAS;
}

static int is_optional(const struct sl_config *c, enum sl_role role)
{
    return is_bias(role) ? !c->qkv_bias
                         : role == SL_ROLE_ROPE_FREQS || (role == SL_ROLE_OUTPUT && c->tied);
}

/* Presence and shape; sl_config_tensor adds what can be run. */
static int find_tensor(const struct sl_arch *a, const struct sl_weights *w,
                       const struct sl_config *c, enum sl_role role, int layer,
                       const struct sl_tensor **out, struct sl_err *err)
{
    char buf[SL_TENSOR_NAME_MAX];
    const char *name = tensor_name(a, role, layer, buf);
    const struct sl_tensor *t = name ? sl_weights_find(w, name) : NULL;
    *out = NULL;
    if (!t && is_optional(c, role)) return 0;
    if (!t)
        return refuse(w, err, SL_EINPUT, "tensor %s is missing; this file has no complete model",
                      name ? name : "?");
    if (is_bias(role) && !c->qkv_bias)
        return refuse(w, err, SL_EINPUT,
                      "tensor %s: only some layers have biases; convert the model again", name);
    int64_t ne[2];
    want_shape(c, role, ne);
    if (t->ne[0] != ne[0] || t->ne[1] != ne[1] || t->ne[2] != 1 || t->ne[3] != 1)
        return refuse(w, err, SL_EINPUT,
                      "tensor %s has %" PRId64 " x %" PRId64 " elements, the metadata want %" PRId64
                      " x %" PRId64 "; convert the model again",
                      name, t->ne[0], t->ne[1], ne[0], ne[1]);
    *out = t;
    return 0;
}

/* Does `name` (inside a layer: what follows "blk.N.") belong to a role? Scales beside a weight
 * belong to its format, which sl_config_tensor judges. */
static int explained(const struct sl_arch *a, const char *name, int from, int to)
{
    size_t n = strlen(name);
    for (int role = from; role < to; role++) {
        const char *t = a->tensors[role];
        if (!t) continue;
        if (strcmp(t, name) == 0) return 1;
        size_t stem = strlen(t) - strlen("weight"); /* with the dot */
        int scale = n > stem &&
                    (strcmp(name + stem, "scale") == 0 || strcmp(name + stem, "input_scale") == 0);
        if (scale && strcmp(t + stem, "weight") == 0 && memcmp(t, name, stem) == 0) return 1;
    }
    return 0;
}

/* What follows "blk.N." in the name of a tensor of layer N < n_layers, else NULL. */
static const char *layer_part(const char *name, int n_layers)
{
    char prefix[16];
    int layer;
    if (sscanf(name, "blk.%4d.", &layer) != 1 || layer < 0 || layer >= n_layers) return NULL;
    int n =
        snprintf(prefix, sizeof prefix, "blk.%d.", layer); /* scanf also takes spaces and zeros */
    return strncmp(name, prefix, (size_t)n) == 0 ? name + n : NULL;
}

int sl_arch_check_tensors(const struct sl_arch *a, const struct sl_weights *w,
                          const struct sl_config *c, struct sl_err *err)
{
    const struct sl_tensor *t;
    for (int role = 0; role < SL_ROLE_COUNT; role++) {
        int n = role < SL_ROLE_LAYER_COUNT ? c->n_layers : 1;
        for (int layer = 0; layer < n; layer++) {
            int e = find_tensor(a, w, c, (enum sl_role)role, layer, &t, err);
            if (e) return e;
        }
    }
    for (size_t i = 0; i < sl_weights_count(w); i++) {
        const char *name = sl_weights_at(w, i)->name;
        const char *in_layer = layer_part(name, c->n_layers);
        if (in_layer && explained(a, in_layer, 0, SL_ROLE_LAYER_COUNT)) continue;
        if (!in_layer && explained(a, name, SL_ROLE_LAYER_COUNT, SL_ROLE_COUNT)) continue;
        return refuse(
            w, err, SL_EUNSUPPORTED,
            "tensor %s: a '%s' model with this tensor is a variant that is not run here; use "
            "another model",
            name, a->name);
    }
    return 0;
}

int sl_config_tensor(const struct sl_weights *w, const struct sl_config *c, enum sl_role role,
                     int layer, const struct sl_tensor **out, struct sl_err *err)
{
    SL_ASSERT(role >= 0 && role < SL_ROLE_COUNT);
    SL_ASSERT(role >= SL_ROLE_LAYER_COUNT || (layer >= 0 && layer < c->n_layers));
    const struct sl_arch *a = sl_arch_find(c->arch);
    SL_ASSERT(a != NULL); /* sl_config_read made c */
    int e = find_tensor(a, w, c, role, layer, out, err);
    const struct sl_tensor *t = *out;
    if (e || !t) return e;
    *out = NULL;
    if (!t->known)
        return refuse(w, err, SL_EUNSUPPORTED,
                      "tensor %s: the format %s is not run here; use a file in Q4_K_M, Q8_0 or F16",
                      t->name, sl_dtype_ggml_name(t->ggml_type));
    char scale[SL_TENSOR_NAME_MAX];
    size_t stem = strlen(t->name) - strlen("weight");
    snprintf(scale, sizeof scale, "%.*sscale", (int)stem, t->name);
    if (strcmp(t->name + stem, "weight") == 0 && sl_weights_find(w, scale))
        return refuse(w, err, SL_EUNSUPPORTED,
                      "tensor %s: a scale beside %s weights is not run here; use another file",
                      scale, sl_dtype_name(t->type));
    *out = t;
    return 0;
}

int sl_config_layer_bytes(const struct sl_weights *w, const struct sl_config *c, int layer,
                          uint64_t *bytes, struct sl_err *err)
{
    uint64_t sum = 0;
    for (int role = 0; role < SL_ROLE_LAYER_COUNT; role++) {
        const struct sl_tensor *t;
        int e = sl_config_tensor(w, c, (enum sl_role)role, layer, &t, err);
        if (e) return e;
        if (t) sum += t->bytes;
    }
    *bytes = sum;
    return 0;
}

int sl_config_edge_bytes(const struct sl_weights *w, const struct sl_config *c, uint64_t *embed,
                         uint64_t *head, struct sl_err *err)
{
    const struct sl_tensor *in, *norm, *out;
    int e = sl_config_tensor(w, c, SL_ROLE_EMBED, 0, &in, err);
    if (!e) e = sl_config_tensor(w, c, SL_ROLE_OUT_NORM, 0, &norm, err);
    if (!e) e = sl_config_tensor(w, c, SL_ROLE_OUTPUT, 0, &out, err);
    if (e) return e;
    *embed = in->bytes;
    *head = norm->bytes + (out ? out : in)->bytes;
    return 0;
}

uint64_t sl_config_kv_bytes(const struct sl_config *c, int elem_bytes)
{
    return 2 * (uint64_t)c->n_kv_heads * (uint64_t)c->head_dim * (uint64_t)elem_bytes;
}
