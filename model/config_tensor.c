/* config_tensor.c - are the tensors of a configuration there, all of them, well shaped, and no
 * others? A tensor that no role explains means that the model computes something we do not know of:
 * refused. And how many bytes they take. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/sl_assert.h"
#include "model/arch.h"
#include "model/linear.h"

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

/* The plain tensor behind a place, NULL when the numbers are kept otherwise. */
static const struct sl_tensor *plain_tensor(const struct sl_weights *w, enum sl_role role,
                                            const struct sl_place *p)
{
    char name[SL_TENSOR_NAME_MAX + 8];
    if (!sl_role_is_matrix(role)) return sl_weights_find(w, p->name);
    snprintf(name, sizeof name, "%s.weight", p->name);
    const struct sl_tensor *t = sl_weights_find(w, name);
    return t && t->known && sl_dtype_kind(t->type) == SL_KIND_PLANAR ? NULL : t;
}

static int is_run(const struct sl_tensor *t)
{
    return t->known && sl_dtype_kind(t->type) != SL_KIND_STORAGE;
}

static int unknown_format(const struct sl_weights *w, const struct sl_tensor *t, struct sl_err *err)
{
    const char *name = t->known ? sl_dtype_name(t->type) : sl_dtype_ggml_name(t->ggml_type);
    return refuse(w, err, SL_EUNSUPPORTED,
                  "tensor %s: the format %s is not run here; use a file in Q4_K_M, Q8_0 or F16",
                  t->name, name ? name : "?");
}

static int check_shape(const struct sl_weights *w, enum sl_role role, const struct sl_place *p,
                       const struct sl_tensor *t, struct sl_err *err)
{
    int64_t ne[3] = {p->cols, p->stored_rows, p->expert >= 0 ? p->n_experts : 1}, rest = 1;
    if (!sl_role_is_matrix(role)) { /* vectors may be kept as rows */
        ne[0] = t->n_dims > 0 ? t->ne[0] : 1;
        ne[1] = ne[0] > 0 && p->stored_rows % ne[0] == 0 ? p->stored_rows / ne[0] : -1;
        if (ne[1] < 0) ne[0] = p->stored_rows, ne[1] = 1;
    }
    for (int i = 3; i < SL_TENSOR_DIMS_MAX; i++) rest *= t->ne[i];
    if (t->ne[0] == ne[0] && t->ne[1] == ne[1] && t->ne[2] == ne[2] && rest == 1) return 0;
    if (!sl_role_is_matrix(role)) ne[0] = p->stored_rows, ne[1] = 1;
    return refuse(w, err, SL_EINPUT,
                  "tensor %s has %" PRId64 " x %" PRId64 " elements, the metadata want %" PRId64
                  " x %" PRId64 "; convert the model again",
                  t->name, t->ne[0], t->ne[1], ne[0], ne[1]);
}

/* One role of one layer: each slot is there. */
static int check_role(const struct sl_weights *w, const struct sl_config *c, enum sl_role role,
                      int layer, struct sl_err *err)
{
    struct sl_place p = {.expert = -1};
    int n = sl_config_slots(c, role, layer), e = 0;
    for (int slot = 0; slot < n && !e; slot++) {
        e = sl_config_place(w, c, role, layer, slot, &p, err);
        const struct sl_tensor *t = e || !p.name[0] ? NULL : plain_tensor(w, role, &p);
        if (t) e = check_shape(w, role, &p, t, err);
        if (p.expert >= 0) break; /* the rest is in the same tensor */
    }
    return e;
}

/* What follows the number of layer *layer in `name`; NULL when it names none. */
static const char *layer_part(const struct sl_config *c, const char *name, int *layer)
{
    const char *word = c->hf ? "layers." : "blk.";
    size_t n = strlen(c->prefix), digits = 0;
    if (strncmp(name, c->prefix, n) != 0 || strncmp(name + n, word, strlen(word)) != 0) return NULL;
    name += n + strlen(word);
    *layer = 0;
    while (name[digits] >= '0' && name[digits] <= '9' && digits < 5)
        *layer = *layer * 10 + name[digits++] - '0';
    if (digits == 0 || name[digits] != '.' || (digits > 1 && name[0] == '0')) return NULL;
    return name + digits + 1;
}

static int ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

static int is_known(const struct sl_arch *a, const struct sl_config *c, const char *name)
{
    int layer = -1;
    const char *in = layer_part(c, name, &layer);
    if (in && layer < c->n_layers && sl_arch_explains(a, c, in, layer)) return 1;
    if (in && layer >= c->n_layers && layer < c->n_layers + c->n_layers_extra) return 1;
    for (const char *const *p = a->ignored; p && *p; p++)
        if (strncmp(name, *p, strlen(*p)) == 0) return 1;
    if (in) return c->hf && ends_with(in, "rotary_emb.inv_freq");
    size_t head = strlen(c->head_prefix), body = strlen(c->prefix);
    if (c->hf && c->tied && strncmp(name, c->head_prefix, head) == 0 &&
        strcmp(name + head, "lm_head.weight") == 0)
        return 1; /* a copy of the embedding */
    if (strncmp(name, c->prefix, body) == 0 && sl_arch_explains(a, c, name + body, -1)) return 1;
    return strncmp(name, c->head_prefix, head) == 0 && sl_arch_explains(a, c, name + head, -1);
}

int sl_arch_check_tensors(const struct sl_arch *a, const struct sl_weights *w,
                          const struct sl_config *c, struct sl_err *err)
{
    for (int layer = 0; layer < c->n_layers; layer++)
        for (int role = 0; role < SL_ROLE_LAYER_COUNT; role++) {
            int e = check_role(w, c, (enum sl_role)role, layer, err);
            if (e) return e;
        }
    for (int role = SL_ROLE_LAYER_COUNT; role < SL_ROLE_COUNT; role++) {
        int e = check_role(w, c, (enum sl_role)role, 0, err);
        if (e) return e;
    }
    for (size_t i = 0; i < sl_weights_count(w); i++) {
        const char *name = sl_weights_at(w, i)->name;
        if (!is_known(a, c, name))
            return refuse(w, err, SL_EUNSUPPORTED,
                          "tensor %s: a '%s' model with this tensor is a variant that is not run "
                          "here; use another model",
                          name, a->name);
    }
    return 0;
}

int sl_arch_find_prefix(const struct sl_arch *a, const struct sl_weights *w, struct sl_config *c,
                        struct sl_err *err)
{
    static const char *const prefixes[] = {"model.", "model.language_model.",
                                           "language_model.model.", "language_model.", ""};
    static const char *const heads[] = {"", "language_model.", "model."};
    const char *embed = a->names[SL_ROLE_EMBED].hf[0].name;
    const char *output = a->names[SL_ROLE_OUTPUT].hf[0].name;
    char name[SL_TENSOR_NAME_MAX];
    for (size_t i = 0; i < SL_ARRAY_LEN(heads); i++) {
        snprintf(name, sizeof name, "%s%s", heads[i], output);
        if (!sl_linear_exists(w, name)) continue;
        snprintf(c->head_prefix, sizeof c->head_prefix, "%s", heads[i]);
        break;
    }
    for (size_t i = 0; i < SL_ARRAY_LEN(prefixes); i++) {
        snprintf(name, sizeof name, "%s%s", prefixes[i], embed);
        if (!sl_linear_exists(w, name)) continue;
        snprintf(c->prefix, sizeof c->prefix, "%s", prefixes[i]);
        return 0;
    }
    return refuse(w, err, SL_EINPUT,
                  "tensor model.%s.weight is missing; this folder has no complete model", embed);
}

int sl_config_tensor(const struct sl_weights *w, const struct sl_config *c, enum sl_role role,
                     int layer, const struct sl_tensor **out, struct sl_err *err)
{
    struct sl_place p;
    *out = NULL;
    int e = sl_config_place(w, c, role, layer, 0, &p, err);
    if (e || !p.name[0] || p.stored_rows != p.rows || p.turned || p.expert >= 0) return e;
    const struct sl_tensor *t = plain_tensor(w, role, &p);
    if (!t) return 0;
    e = check_shape(w, role, &p, t, err);
    if (e) return e;
    if (!is_run(t)) return unknown_format(w, t, err);
    *out = t;
    return 0;
}

/* ---- bytes ----------------------------------------------------------------------------------- */

/* Of all slots of a role. Slices of a fused tensor: counted with the slice that begins it. */
static int role_bytes(const struct sl_weights *w, const struct sl_config *c, enum sl_role role,
                      int layer, uint64_t *sum, struct sl_err *err)
{
    struct sl_place p;
    int n = sl_config_slots(c, role, layer);
    for (int slot = 0; slot < n; slot++) {
        uint64_t bytes = 0;
        int e = sl_config_place(w, c, role, layer, slot, &p, err);
        if (e) return e;
        if (!p.name[0] || p.first != 0) continue;
        const struct sl_tensor *t = plain_tensor(w, role, &p);
        if (t && !is_run(t)) return unknown_format(w, t, err);
        if (sl_role_is_matrix(role))
            e = sl_linear_bytes(w, p.name, p.expert, p.n_experts, &bytes, err);
        else
            bytes = sl_weights_find(w, p.name)->bytes;
        if (e) return e;
        *sum += bytes;
    }
    return 0;
}

int sl_config_layer_bytes(const struct sl_weights *w, const struct sl_config *c, int layer,
                          uint64_t *bytes, struct sl_err *err)
{
    uint64_t sum = 0;
    for (int role = 0; role < SL_ROLE_LAYER_COUNT; role++) {
        int e = role_bytes(w, c, (enum sl_role)role, layer, &sum, err);
        if (e) return e;
    }
    *bytes = sum;
    return 0;
}

int sl_config_edge_bytes(const struct sl_weights *w, const struct sl_config *c, uint64_t *embed,
                         uint64_t *head, struct sl_err *err)
{
    uint64_t in = 0, out = 0;
    int e = role_bytes(w, c, SL_ROLE_EMBED, 0, &in, err);
    if (!e) e = role_bytes(w, c, SL_ROLE_OUT_NORM, 0, &out, err);
    if (!e) e = role_bytes(w, c, SL_ROLE_OUTPUT, 0, &out, err);
    if (e) return e;
    *embed = in;
    *head = out + (c->tied ? in : 0);
    return 0;
}

uint64_t sl_config_kv_bytes(const struct sl_config *c, int elem_bytes)
{
    if (c->kv_lora) return (uint64_t)(c->kv_lora + c->qk_rope) * (uint64_t)elem_bytes;
    return 2 * (uint64_t)c->n_kv_heads * (uint64_t)c->head_dim * (uint64_t)elem_bytes;
}

struct sl_config_widths sl_config_row_widths(const struct sl_config *c)
{
    int latent = c->kv_lora + c->qk_rope, ff = c->n_ff > c->n_ff_shared ? c->n_ff : c->n_ff_shared;
    if (c->kv_lora)
        return (struct sl_config_widths){.q = c->n_heads * (c->qk_nope + c->qk_rope),
                                         .k = c->qk_rope,
                                         .v = c->kv_lora,
                                         .attn = c->n_heads * c->v_dim,
                                         .ff = ff,
                                         .latent = latent,
                                         .q_latent = c->n_heads * latent,
                                         .o_latent = c->n_heads * c->kv_lora,
                                         .q_a = c->q_lora};
    return (struct sl_config_widths){.q = c->n_heads * c->head_dim,
                                     .k = c->n_kv_heads * c->head_dim,
                                     .v = c->n_kv_heads * c->head_dim,
                                     .attn = c->n_heads * c->head_dim,
                                     .ff = ff};
}
