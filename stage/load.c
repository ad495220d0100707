/* load.c - the weights of one stage: which, in which order, and the tables made of them.
 *
 * Only tensors of the stage's own layers are mapped (load_matrix.c does each). */
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "stage/internal.h"

struct loader {
    struct sl_stage *s;
    struct sl_matrix_loader matrices;
    uint64_t done, total;
    struct sl_err *err;
};

static int advance(struct loader *l, uint64_t bytes)
{
    const struct sl_stage_params *p = &l->s->p;
    l->done += bytes;
    if (p->progress && p->progress(p->progress_arg, l->done, l->total))
        return sl_err_set(l->err, SL_ECANCELLED, "loading was given up");
    return 0;
}

static int load_matrix(struct loader *l, enum sl_role role, int layer, int slot, enum sl_use use,
                       struct sl_weight *w)
{
    uint64_t bytes;
    int r = sl_matrix_load(&l->matrices, role, layer, slot, use, w, &bytes, l->err);
    return r ? r : bytes ? advance(l, bytes) : 0;
}

/* Norm gains that the file keeps less one (Gemma in HF folders). */
static int is_norm(enum sl_role role)
{
    return role == SL_ROLE_ATTN_NORM || role == SL_ROLE_POST_ATTN_NORM ||
           role == SL_ROLE_FFN_NORM || role == SL_ROLE_POST_FFN_NORM || role == SL_ROLE_Q_NORM ||
           role == SL_ROLE_K_NORM || role == SL_ROLE_OUT_NORM;
}

/* Numbers of the arena to where the kernels find them: a copy on a device, else themselves. */
static int hand_over(struct loader *l, const float *v, size_t n, const float **out)
{
    struct sl_stage *s = l->s;
    *out = v;
    if (!s->ops->alloc) return 0;
    float *copy = s->ops->alloc(s->b, n * sizeof *copy, l->err);
    if (!copy) return l->err ? l->err->code : SL_ENOMEM;
    s->ops->upload(s->b, copy, v, n * sizeof *copy);
    *out = copy;
    return 0;
}

/* A vector as float32 in the stage's arena; *out is NULL when the layer has none. */
static int load_vector(struct loader *l, enum sl_role role, int layer, const float **out)
{
    struct sl_stage *s = l->s;
    struct sl_place p;
    *out = NULL;
    int r = sl_config_place(s->weights, &s->c, role, layer, 0, &p, l->err);
    if (r || !p.name[0]) return r;
    const struct sl_tensor *t = sl_weights_find(s->weights, p.name);
    if (!t->known || sl_dtype_kind(t->type) != SL_KIND_FLOAT)
        return sl_err_set(l->err, SL_EUNSUPPORTED,
                          "%s: tensor %s: norms and biases are read in F32, F16 and BF16 only",
                          sl_weights_path(s->weights), p.name);
    const char *data = sl_weights_map(s->weights, t, l->err);
    if (!data) return l->err ? l->err->code : SL_EIO;
    float *v = sl_arena_alloc(&s->small, (size_t)p.rows * sizeof *v);
    if (!v) return sl_err_set(l->err, SL_ENOMEM, "no memory for tensor %s", t->name);
    size_t one = (size_t)sl_dtype_row_bytes(t->type, 1);
    for (int64_t i = 0; i < p.rows; i++) {
        sl_dequantize(t->type, data + (size_t)sl_place_row(&p, i) * one, &v[i], 1);
        if (is_norm(role)) v[i] += s->c.norm_offset;
    }
    sl_weights_unmap(s->weights, t);
    r = hand_over(l, v, (size_t)p.rows, out);
    if (r) return r;
    return p.first == 0 ? advance(l, t->bytes) : 0; /* slices: counted with the first */
}

static int group(struct loader *l, struct sl_weight *w, int n)
{
    struct sl_stage *s = l->s;
    return s->ops->group ? s->ops->group(s->b, w, n, l->err) : 0;
}

static int load_slots(struct loader *l, enum sl_role role, int layer, struct sl_layer *y)
{
    int n = sl_config_slots(&l->s->c, role, layer), r = 0;
    if (!n) return 0;
    y->many[role] = calloc((size_t)n, sizeof *y->many[role]);
    if (!y->many[role]) return sl_err_set(l->err, SL_ENOMEM, "no memory for %d weights", n);
    for (int i = 0; r == 0 && i < n; i++)
        r = load_matrix(l, role, layer, i, SL_USE_MATMUL, &y->many[role][i]);
    return r ? r : group(l, y->many[role], n);
}

/* Gate and up of an expert may be slices of one tensor: expert by expert, so that it is opened
 * once. */
static int load_experts(struct loader *l, int layer, struct sl_layer *y)
{
    static const enum sl_role roles[] = {SL_ROLE_GATE_EXPS, SL_ROLE_UP_EXPS, SL_ROLE_DOWN_EXPS};
    int n = sl_config_slots(&l->s->c, SL_ROLE_GATE_EXPS, layer), r = 0;
    if (!n) return 0;
    for (size_t k = 0; k < SL_ARRAY_LEN(roles); k++) {
        y->many[roles[k]] = calloc((size_t)n, sizeof(struct sl_weight));
        if (!y->many[roles[k]]) return sl_err_set(l->err, SL_ENOMEM, "no memory for %d experts", n);
    }
    for (int i = 0; r == 0 && i < n; i++)
        for (size_t k = 0; r == 0 && k < SL_ARRAY_LEN(roles); k++)
            r = load_matrix(l, roles[k], layer, i, SL_USE_MATMUL, &y->many[roles[k]][i]);
    for (size_t k = 0; r == 0 && k < SL_ARRAY_LEN(roles); k++) r = group(l, y->many[roles[k]], n);
    return r;
}

static void describe_moe(const struct sl_stage *s, struct sl_layer *y)
{
    const struct sl_config *c = &s->c;
    static const enum sl_gating gatings[] = {[SL_ROUTER_SOFTMAX] = SL_GATING_SOFTMAX,
                                             [SL_ROUTER_TOPK_SOFTMAX] = SL_GATING_TOPK_SOFTMAX,
                                             [SL_ROUTER_SIGMOID] = SL_GATING_SIGMOID};
    y->moe = (struct sl_moe){.n_experts = c->n_experts,
                             .n_used = c->n_experts_used,
                             .n_ff = c->n_ff_expert,
                             .gating = gatings[c->router],
                             .normalize = c->expert_normalize,
                             .n_groups = c->n_groups,
                             .n_groups_used = c->n_groups_used,
                             .scale = c->expert_scale,
                             .act = s->act,
                             .router = &y->w[SL_ROLE_ROUTER],
                             .router_bias = y->v[SL_ROLE_ROUTER_BIAS],
                             .correction = y->v[SL_ROLE_CORRECTION],
                             .gate = y->many[SL_ROLE_GATE_EXPS],
                             .up = y->many[SL_ROLE_UP_EXPS],
                             .down = y->many[SL_ROLE_DOWN_EXPS],
                             .gate_bias = y->v[SL_ROLE_GATE_EXPS_BIAS],
                             .up_bias = y->v[SL_ROLE_UP_EXPS_BIAS],
                             .down_bias = y->v[SL_ROLE_DOWN_EXPS_BIAS]};
}

static int load_layer(struct loader *l, int layer, struct sl_layer *y)
{
    int r = 0;
    y->flags = l->s->c.layer_flags[layer];
    for (int role = 0; r == 0 && role < SL_ROLE_VECTORS; role++)
        r = load_vector(l, (enum sl_role)role, layer, &y->v[role]);
    for (int role = SL_ROLE_VECTORS; r == 0 && role < SL_ROLE_K_B; role++)
        r = load_matrix(l, (enum sl_role)role, layer, 0, SL_USE_MATMUL, &y->w[role]);
    if (r == 0) r = load_slots(l, SL_ROLE_K_B, layer, y);
    if (r == 0) r = load_slots(l, SL_ROLE_V_B, layer, y);
    if (r == 0) r = load_experts(l, layer, y);
    if (r == 0) r = sl_matrix_flush(&l->matrices, l->err);
    uint64_t adapters = 0;
    if (r == 0) r = sl_stage_lora_load(l->s, layer, y, &adapters, l->err);
    if (r == 0 && adapters) r = advance(l, adapters);
    if (y->flags & SL_LAYER_MOE) describe_moe(l->s, y);
    return r;
}

static int make_rope(struct loader *l, int which, int far, struct sl_rope *out)
{
    struct sl_stage *s = l->s;
    float *f = sl_arena_alloc(&s->small, (size_t)s->c.rope_dims / 2 * sizeof *f), magnitude;
    if (!f) return sl_err_set(l->err, SL_ENOMEM, "no memory for the rope table");
    int r = sl_config_rope(s->weights, &s->c, which, far, f, &magnitude, l->err);
    *out = (struct sl_rope){s->c.rope_dims, s->c.rope == SL_ROPE_NEOX, magnitude, f};
    return r ? r : hand_over(l, f, (size_t)s->c.rope_dims / 2, &out->inv_freq);
}

static int make_ropes(struct loader *l)
{
    struct sl_stage *s = l->s;
    int r = make_rope(l, 0, 0, &s->ropes[0]);
    if (r == 0 && s->c.ropes[1].base > 0) r = make_rope(l, 1, 0, &s->ropes[1]);
    if (r == 0 && s->c.ropes[0].scaling == SL_ROPE_LONG) r = make_rope(l, 0, 1, &s->far);
    return r;
}

static int load_edges(struct loader *l)
{
    struct sl_stage *s = l->s;
    enum sl_role output = s->c.tied ? SL_ROLE_EMBED : SL_ROLE_OUTPUT;
    int r = 0;
    uint64_t before = l->done;
    if (sl_stage_is_last(s)) {
        r = load_vector(l, SL_ROLE_OUT_NORM, 0, &s->out_norm);
        before = l->done;
        if (r == 0) r = load_matrix(l, output, 0, 0, SL_USE_MATMUL, &s->head);
        if (r == 0) r = sl_matrix_flush(&l->matrices, l->err);
    }
    /* after the head: a tied model repacks and unmaps the same tensor for it, and embed() keeps the
     * mapping */
    if (r == 0 && sl_stage_is_first(s) && sl_stage_is_last(s) && s->c.tied && s->ops->alloc) {
        s->embed = s->head; /* a device has one form for both */
        s->one_edge = 1;
        return advance(l, l->done - before);
    }
    if (r == 0 && sl_stage_is_first(s)) {
        r = load_matrix(l, SL_ROLE_EMBED, 0, 0, SL_USE_EMBED, &s->embed);
        if (s->c.tied && s->head.m.data) l->matrices.keep = 1; /* one mapping serves both */
        if (r == 0) r = sl_matrix_flush(&l->matrices, l->err);
    }
    return r;
}

int sl_stage_weight_bytes(struct sl_stage *s, uint64_t *bytes, struct sl_err *err)
{
    uint64_t sum = 0, embed, head, b;
    int r = sl_config_edge_bytes(s->weights, &s->c, &embed, &head, err);
    for (int i = s->p.layer_from; r == 0 && i < s->p.layer_to; i++) {
        r = sl_config_layer_bytes(s->weights, &s->c, i, &b, err);
        sum += b;
    }
    if (sl_stage_is_first(s)) sum += embed;
    if (sl_stage_is_last(s)) sum += head;
    *bytes = sum;
    return r;
}

int sl_stage_load_weights(struct sl_stage *s, struct sl_err *err)
{
    struct loader *l = calloc(1, sizeof *l);
    if (!l) return sl_err_set(err, SL_ENOMEM, "no memory for loading");
    l->s = l->matrices.s = s;
    l->err = err;
    l->total = s->info.weight_bytes;
    int n = s->p.layer_to - s->p.layer_from, r = make_ropes(l);
    for (int i = 0; r == 0 && i < n; i++) r = load_layer(l, s->p.layer_from + i, &s->layers[i]);
    if (r == 0) r = load_edges(l);
    sl_matrix_flush(&l->matrices, NULL); /* after an error, what was open */
    SL_ASSERT(r || l->done == l->total); /* config_tensor.c counts what we read */
    free(l);
    return r;
}

void sl_stage_unload_weights(struct sl_stage *s)
{
    int n = s->layers ? s->p.layer_to - s->p.layer_from : 0;
    for (int i = 0; i < n; i++) {
        struct sl_layer *y = &s->layers[i];
        for (int role = SL_ROLE_VECTORS; role < SL_ROLE_LAYER_COUNT; role++) {
            int slots =
                y->many[role] ? sl_config_slots(&s->c, (enum sl_role)role, s->p.layer_from + i) : 0;
            s->ops->unload(s->b, &y->w[role]);
            for (int k = 0; k < slots; k++) s->ops->unload(s->b, &y->many[role][k]);
            free(y->many[role]);
        }
        sl_stage_lora_unload(s, y);
    }
    if (!s->one_edge) s->ops->unload(s->b, &s->embed);
    s->ops->unload(s->b, &s->head);
    sl_stage_let_go(s);
}
