/* load.c - reads the weights of one stage from the model file.
 *
 * Only tensors of the stage's own layers are mapped; a tensor that the backend repacked is unmapped
 * at once, so loading needs little more memory than the result. */
#include <math.h>

#include "base/sl_assert.h"
#include "stage/internal.h"

struct loader {
    struct sl_stage *s;
    uint64_t done, total;
    struct sl_err *err;
};

static int find(struct loader *l, enum sl_role role, int layer, const struct sl_tensor **t)
{
    return sl_config_tensor(l->s->weights, &l->s->c, role, layer, t, l->err);
}

static int advance(struct loader *l, const struct sl_tensor *t)
{
    const struct sl_stage_params *p = &l->s->p;
    l->done += t->bytes;
    if (p->progress && p->progress(p->progress_arg, l->done, l->total))
        return sl_err_set(l->err, SL_ECANCELLED, "loading was given up");
    return 0;
}

static int load_matrix(struct loader *l, enum sl_role role, int layer, enum sl_use use,
                       struct sl_weight *w)
{
    const struct sl_tensor *t;
    int r = find(l, role, layer, &t);
    if (r) return r;
    if (!t && role == SL_ROLE_OUTPUT) { /* tied: the embedding is the output matrix */
        r = find(l, SL_ROLE_EMBED, 0, &t);
        if (r) return r;
    }
    const void *data = sl_weights_map(l->s->weights, t, l->err);
    if (!data) return l->err ? l->err->code : SL_EIO;
    const struct sl_matrix m = sl_matrix_plain(t->type, t->ne[1], t->ne[0], data);
    r = l->s->ops->load(l->s->b, use, &m, w, l->err);
    if (r) return r;
    if (!w->m.data) sl_weights_unmap(l->s->weights, t);
    return advance(l, t);
}

/* A vector as float32 in the stage's arena; *out is NULL when the model has none. */
static int load_vector(struct loader *l, enum sl_role role, int layer, const float **out)
{
    const struct sl_tensor *t;
    *out = NULL;
    int r = find(l, role, layer, &t);
    if (r || !t) return r;
    const void *data = sl_weights_map(l->s->weights, t, l->err);
    if (!data) return l->err ? l->err->code : SL_EIO;
    float *v = sl_arena_alloc(&l->s->small, (size_t)t->ne[0] * sizeof *v);
    if (!v) return sl_err_set(l->err, SL_ENOMEM, "no memory for tensor %s", t->name);
    sl_dequantize(t->type, data, v, t->ne[0]);
    sl_weights_unmap(l->s->weights, t);
    *out = v;
    return advance(l, t);
}

static int load_layer(struct loader *l, int layer, struct sl_layer *y)
{
    const struct {
        enum sl_role role;
        struct sl_weight *w;
    } matrices[] = {
        {SL_ROLE_Q, &y->q},       {SL_ROLE_K, &y->k},       {SL_ROLE_V, &y->v},
        {SL_ROLE_O, &y->o},       {SL_ROLE_GATE, &y->gate}, {SL_ROLE_UP, &y->up},
        {SL_ROLE_DOWN, &y->down},
    };
    const struct {
        enum sl_role role;
        const float **v;
    } vectors[] = {
        {SL_ROLE_ATTN_NORM, &y->attn_norm}, {SL_ROLE_FFN_NORM, &y->ffn_norm},
        {SL_ROLE_Q_BIAS, &y->q_bias},       {SL_ROLE_K_BIAS, &y->k_bias},
        {SL_ROLE_V_BIAS, &y->v_bias},
    };
    int r = 0;
    for (size_t i = 0; r == 0 && i < SL_ARRAY_LEN(matrices); i++)
        r = load_matrix(l, matrices[i].role, layer, SL_USE_MATMUL, matrices[i].w);
    for (size_t i = 0; r == 0 && i < SL_ARRAY_LEN(vectors); i++)
        r = load_vector(l, vectors[i].role, layer, vectors[i].v);
    return r;
}

/* inv_freq[i] = base^(-2i/dims), divided by the model's own factors and by linear scaling (Su et
 * al. 2021; Llama 3.1). */
static int make_rope(struct loader *l)
{
    const struct sl_config *c = &l->s->c;
    const float *factors;
    int r = load_vector(l, SL_ROLE_ROPE_FREQS, 0, &factors);
    if (r) return r;
    int n = c->rope_dims / 2;
    float *f = sl_arena_alloc(&l->s->small, (size_t)n * sizeof *f);
    if (!f) return sl_err_set(l->err, SL_ENOMEM, "no memory for the rope table");
    for (int i = 0; i < n; i++) {
        double v = pow((double)c->rope_base, -2.0 * i / c->rope_dims) / (double)c->rope_scale;
        f[i] = (float)(factors ? v / (double)factors[i] : v);
    }
    l->s->inv_freq = f;
    return 0;
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
    struct loader l = {.s = s, .err = err, .total = s->info.weight_bytes};
    int n = s->p.layer_to - s->p.layer_from, r = make_rope(&l);
    for (int i = 0; r == 0 && i < n; i++) r = load_layer(&l, s->p.layer_from + i, &s->layers[i]);
    if (r == 0 && sl_stage_is_last(s)) r = load_vector(&l, SL_ROLE_OUT_NORM, 0, &s->out_norm);
    if (r == 0 && sl_stage_is_last(s))
        r = load_matrix(&l, SL_ROLE_OUTPUT, 0, SL_USE_MATMUL, &s->head);
    /* after the head: a tied model repacks and unmaps the same tensor for it, and embed() keeps the
     * mapping */
    if (r == 0 && sl_stage_is_first(s))
        r = load_matrix(&l, SL_ROLE_EMBED, 0, SL_USE_EMBED, &s->embed);
    return r;
}

void sl_stage_unload_weights(struct sl_stage *s)
{
    int n = s->layers ? s->p.layer_to - s->p.layer_from : 0;
    for (int i = 0; i < n; i++) {
        struct sl_layer *y = &s->layers[i];
        struct sl_weight *w[] = {&y->q, &y->k, &y->v, &y->o, &y->gate, &y->up, &y->down};
        for (size_t k = 0; k < SL_ARRAY_LEN(w); k++) s->ops->unload(s->b, w[k]);
    }
    s->ops->unload(s->b, &s->embed);
    s->ops->unload(s->b, &s->head);
}
