/* quantize_gguf.c - the tensors of a Hugging Face folder from those of a GGUF file: which there
 * are, and their rows.
 *
 * Three orders meet. A family's HF names say which roles a tensor of the folder stacks; where
 * converters to GGUF have turned the rows of q and k (neighbouring elements of a head rotate, where
 * HF's are half a head apart), they are turned back; and the file's own names say where a row of a
 * role lies. Norms that HF keeps less one lose it again. Matrices that are not quantized become
 * BF16, vectors and routers F32: what is in the file, exactly. */
#include "model/quantize_gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/sl_assert.h"
#include "model/linear.h"

#define PREFIX "model."

static int no_memory(struct sl_err *err)
{
    return sl_err_set(err, SL_ENOMEM, "quantize: out of memory");
}

/* ---- which tensors --------------------------------------------------------------------------- */

static void spell(const struct sl_source *s, enum sl_role role, int layer, int slot,
                  char out[SL_TENSOR_NAME_MAX])
{
    const char *star = strchr(s->name, '*');
    int head = star ? (int)(star - s->name) : (int)strlen(s->name);
    char in_layer[40] = "", expert[16] = "";
    if (role < SL_ROLE_LAYER_COUNT) snprintf(in_layer, sizeof in_layer, "layers.%d.", layer);
    if (star) snprintf(expert, sizeof expert, "%d", slot);
    snprintf(out, SL_TENSOR_NAME_MAX, "%s%s%.*s%s%s", role == SL_ROLE_OUTPUT ? "" : PREFIX,
             in_layer, head, s->name, expert, star ? star + 1 : "");
}

static const struct sl_source *source_of(const struct sl_out_model *m, enum sl_role role)
{
    return &m->to->names[role].hf[0];
}

/* Do two roles lie in one tensor of the folder? */
static int shares(const struct sl_out_model *m, enum sl_role a, enum sl_role b)
{
    const char *x = source_of(m, a)->name, *y = source_of(m, b)->name;
    return x && y && strcmp(x, y) == 0;
}

static int is_quantized(enum sl_role role)
{
    return sl_role_is_matrix(role) && role != SL_ROLE_EMBED && role != SL_ROLE_OUTPUT &&
           role != SL_ROLE_ROUTER;
}

static int add_matrix(const struct sl_out_model *m, struct sl_out_plan *p,
                      const struct sl_out_step *step, const char *stem, const struct sl_place *at,
                      enum sl_quantize_to to, struct sl_err *err)
{
    enum sl_role role = (enum sl_role)step->role;
    int wanted = is_quantized(role), fits = wanted && at->cols % sl_out_group(to) == 0;
    (void)m;
    if (role == SL_ROLE_ROUTER) {
        int64_t shape[2] = {at->stored_rows, at->cols};
        return json_array_append_new(p->ignore, json_string(stem))
                   ? no_memory(err)
                   : sl_out_add_f32(p, step, stem, ".weight", shape, 2, err);
    }
    if (!fits && role != SL_ROLE_EMBED && json_array_append_new(p->ignore, json_string(stem)))
        return no_memory(err);
    p->layers += fits;
    p->kept += wanted && !fits;
    return sl_out_add_layer(p, step, stem, at->stored_rows, at->cols, fits ? to : SL_TO_BF16, err);
}

static int add_role(const struct sl_out_model *m, enum sl_role role, int layer,
                    enum sl_quantize_to to, struct sl_out_plan *p, struct sl_err *err)
{
    int n = sl_config_slots(&m->c, role, layer);
    const struct sl_source *s = source_of(m, role);
    char name[SL_TENSOR_NAME_MAX];
    struct sl_place at;
    if (n == 0 || role >= SL_ROLE_ROPE_FREQS) return 0; /* frequencies go into config.json */
    if (!s->name)
        return sl_err_set(err, SL_EUNSUPPORTED,
                          "a '%s' model with what %s has no place for cannot be written", m->c.arch,
                          m->class);
    for (int r = 0; r < (int)role; r++) /* written with the first that shares it */
        if (shares(m, (enum sl_role)r, role)) return 0;
    int e = 0;
    for (int slot = 0; slot < n && !e; slot++) {
        struct sl_out_step step = {.role = (int)role, .layer = layer, .slot = slot};
        sl_arch_slice(&m->c, s, role, slot, &at);
        spell(s, role, layer, slot, name);
        if (sl_role_is_matrix(role)) {
            e = add_matrix(m, p, &step, name, &at, to, err);
            continue;
        }
        int flat = role != SL_ROLE_SHARED_GATE; /* which is a layer of one row to transformers */
        int64_t shape[2] = {1, at.stored_rows};
        e = sl_out_add_f32(p, &step, name, "", shape + flat, 2 - flat, err);
    }
    return e;
}

int sl_out_gguf_plan(struct sl_weights *w, const struct sl_out_model *m, enum sl_quantize_to to,
                     struct sl_out_plan *p, struct sl_err *err)
{
    int e = 0;
    p->model = m;
    for (size_t i = 0; i < sl_weights_count(w); i++) p->bytes_in += sl_weights_at(w, i)->bytes;
    e = add_role(m, SL_ROLE_EMBED, 0, to, p, err);
    for (int layer = 0; layer < m->c.n_layers && !e; layer++)
        for (int role = 0; role < SL_ROLE_LAYER_COUNT && !e; role++)
            e = add_role(m, (enum sl_role)role, layer, to, p, err);
    if (!e) e = add_role(m, SL_ROLE_OUT_NORM, 0, to, p, err);
    return e ? e : add_role(m, SL_ROLE_OUTPUT, 0, to, p, err);
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* One role of the tensor: where its rows lie in the folder and in the file. */
struct part {
    enum sl_role role;
    struct sl_place to, from;
    struct sl_linear l;
    const struct sl_tensor *mapped; /* vectors */
    struct sl_matrix m;
};

struct rows {
    struct sl_weights *w;
    const struct sl_out_model *model;
    const struct sl_quantize *q;
    struct part parts[SL_OUT_ROLES];
    int n;
};

static int open_part(struct rows *r, struct part *t, const struct sl_out_step *s,
                     struct sl_err *err)
{
    int e = sl_config_place(r->w, &r->model->c, t->role, s->layer, s->slot, &t->from, err);
    if (e) return e;
    SL_ASSERT(t->from.name[0] && !t->from.turned && !t->to.turned); /* sl_out_model_read */
    if (sl_role_is_matrix(t->role)) {
        e = sl_linear_open(r->w, t->from.name, t->from.expert, t->from.n_experts,
                           t->from.stored_rows, t->from.cols, &t->l, err);
        t->m = t->l.m;
        return e;
    }
    t->mapped = sl_weights_find(r->w, t->from.name);
    const void *data = sl_weights_map(r->w, t->mapped, err);
    if (!data) {
        t->mapped = NULL;
        return err && err->code ? err->code : SL_EIO;
    }
    if (!t->mapped->known || sl_dtype_kind(t->mapped->type) != SL_KIND_FLOAT)
        return sl_err_set(err, SL_EUNSUPPORTED, "tensor %s: a vector of %s is not read here",
                          t->mapped->name, t->mapped->type_name);
    t->m = sl_matrix_plain(t->mapped->type, 1, t->from.stored_rows, data);
    return 0;
}

static void close_rows(struct rows *r)
{
    for (int i = 0; i < r->n; i++) {
        sl_linear_close(r->w, &r->parts[i].l);
        if (r->parts[i].mapped) sl_weights_unmap(r->w, r->parts[i].mapped);
    }
    r->n = 0;
}

static int open_rows(struct rows *r, const struct sl_out_step *s, struct sl_err *err)
{
    enum sl_role first = (enum sl_role)s->role;
    int e = 0;
    for (int role = s->role; role < SL_ROLE_COUNT && !e; role++) {
        if (role != s->role && !shares(r->model, first, (enum sl_role)role)) continue;
        SL_ASSERT(r->n < SL_OUT_ROLES);
        struct part *t = &r->parts[r->n++];
        *t = (struct part){.role = (enum sl_role)role};
        sl_arch_slice(&r->model->c, source_of(r->model, t->role), t->role, s->slot, &t->to);
        e = open_part(r, t, s, err);
    }
    return e;
}

/* Which row of the role is row `row` of the tensor? -1: one of another role. */
static int64_t row_of(const struct sl_place *p, int64_t row)
{
    int64_t at = row - p->first, in = at % p->stride;
    if (at < 0 || in % p->step || in / p->step >= p->block) return -1;
    at = at / p->stride * p->block + in / p->step;
    return at < p->rows ? at : -1;
}

/* The file's order of a role: of q and k, elements i and i + d/2 of a head side by side. */
static int64_t turned(const struct sl_out_model *m, enum sl_role role, int64_t row)
{
    int is_qk =
        role == SL_ROLE_Q || role == SL_ROLE_K || role == SL_ROLE_Q_BIAS || role == SL_ROLE_K_BIAS;
    int64_t d = m->c.head_dim, in = row % d;
    if (!is_qk || m->from->rope == m->from->rope_hf) return row;
    return row - in + (in < d / 2 ? 2 * in : 2 * (in - d / 2) + 1);
}

static void get_row(void *arg, int64_t row, float *out)
{
    const struct rows *r = arg;
    for (int i = 0; i < r->n; i++) {
        const struct part *t = &r->parts[i];
        int64_t n = row_of(&t->to, row);
        if (n < 0) continue;
        r->q->row(&t->m, sl_place_row(&t->from, turned(r->model, t->role, n)), out);
        return;
    }
    SL_ASSERT(!"a row that no role holds");
}

static int is_norm(enum sl_role role)
{
    return role == SL_ROLE_ATTN_NORM || role == SL_ROLE_FFN_NORM || role == SL_ROLE_OUT_NORM ||
           role == SL_ROLE_Q_NORM || role == SL_ROLE_K_NORM || role == SL_ROLE_POST_ATTN_NORM ||
           role == SL_ROLE_POST_FFN_NORM;
}

/* All elements of a vector. */
static int get_vector(const struct rows *r, float *out, struct sl_err *err)
{
    const struct part *t = &r->parts[0];
    float *stored = malloc((size_t)t->from.stored_rows * sizeof *stored);
    if (!stored) return no_memory(err);
    r->q->row(&t->m, 0, stored);
    for (int64_t i = 0; i < t->to.stored_rows; i++) {
        int64_t n = row_of(&t->to, i);
        SL_ASSERT(r->n == 1 && n >= 0);
        out[i] = stored[sl_place_row(&t->from, turned(r->model, t->role, n))];
        if (is_norm(t->role)) out[i] -= r->model->to->hf_norm_offset;
    }
    free(stored);
    return 0;
}

int sl_out_gguf_step(struct sl_weights *w, const struct sl_quantize *q, const struct sl_out_plan *p,
                     const struct sl_out_step *s, void *const data[SL_OUT_TENSORS],
                     struct sl_err *err)
{
    struct rows r = {.w = w, .model = p->model, .q = q};
    int e = open_rows(&r, s, err);
    struct sl_out_rows rows = {s->rows, s->cols, get_row, &r};
    if (!e && !sl_role_is_matrix((enum sl_role)s->role))
        e = get_vector(&r, data[0], err);
    else if (!e && p->tensors[s->first].type == SL_F32)
        for (int64_t i = 0; i < s->rows; i++) get_row(&r, i, (float *)data[0] + i * s->cols);
    else if (!e)
        e = sl_out_encode(&rows, s->to, data, s->stem, err);
    close_rows(&r);
    return e;
}
