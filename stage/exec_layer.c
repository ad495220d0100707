/* exec_layer.c - the layers of a decoder, top to bottom, as the fields of the configuration say.
 *
 *   x += r * O(attention(rope(QKV(norm(x)))))      x += r * down(act(gate(norm(x))) * up(norm(x)))
 *
 * (Touvron et al. 2023) with what families add: norms of q and k heads, norms behind each half
 * (Gemma 2), experts in place of the second half, attention over latents (DeepSeek-V2). x is the
 * residual stream, [n_rows][n_embd], computed in place in the frame that carried it here. */
#include <math.h>
#include <string.h>

#include "base/sl_assert.h"
#include "stage/internal.h"

/* A product by role: what is multiplied, what is added, and where it goes. */
struct product {
    enum sl_role role, bias; /* bias: SL_ROLE_COUNT for none */
    float *out;
    int flags;
};

#define PRODUCTS_MAX 4
#define NO_BIAS SL_ROLE_COUNT

/* Every product of a layer with its own matrices goes through here. */
static void products(struct sl_stage *s, const struct sl_layer *y, const void *x, int n,
                     const struct product *p, int n_products)
{
    struct sl_product ops[PRODUCTS_MAX] = {0};
    SL_ASSERT(n_products <= PRODUCTS_MAX);
    for (int i = 0; i < n_products; i++)
        ops[i] = (struct sl_product){
            &y->w[p[i].role], p[i].bias == NO_BIAS ? NULL : y->v[p[i].bias], p[i].out, p[i].flags};
    s->ops->matmul(s->b, x, n, ops, n_products);
    for (int i = 0; s->n_runs && i < n_products; i++)
        sl_stage_lora_add(s, y, p[i].role, x, p[i].out);
}

static void norm(struct sl_stage *s, const float *x, const float *gain, int n, int dim, float *out)
{
    s->ops->rmsnorm(s->b, x, gain, s->c.rms_eps, n, dim, out);
}

/* The same into what products read. */
static void norm_rows(struct sl_stage *s, const float *x, const float *gain, int n, int dim,
                      void *out)
{
    s->ops->norm_rows(s->b, x, gain, s->c.rms_eps, n, dim, out);
}

/* ---- what a half layer adds ------------------------------------------------------------------ */

/* Does a half layer add straight onto the residual stream? Else what it gives is normed or scaled
 * first, in `half`. */
static int direct(const struct sl_stage *s)
{
    return !s->c.post_norms && s->c.residual_scale == 1;
}

static float *target(struct sl_stage *s, float *x)
{
    return direct(s) ? x : s->half;
}

static void add(struct sl_stage *s, float *from, const float *gain, int n, float *x)
{
    int width = s->c.n_embd;
    if (from == x) return;
    if (gain) norm(s, from, gain, n, width, from);
    s->ops->mix(s->b, from, width, x, width, n, width, s->c.residual_scale, 1);
}

/* ---- positions ------------------------------------------------------------------------------- */

/* Turns the parts. Under LongRoPE each sequence has the frequencies of its length. */
static void turn(struct sl_stage *s, const struct sl_layer *y, const struct sl_batch *b,
                 const struct sl_rope_part *parts, int n_parts)
{
    const struct sl_rope *r = &s->ropes[y->flags & SL_LAYER_LOCAL_ROPE ? 1 : 0];
    if (s->c.ropes[0].scaling != SL_ROPE_LONG) {
        s->ops->rope(s->b, r, parts, n_parts, s->pos, s->step.run_rows);
        return;
    }
    for (int i = 0; i < b->n_seqs; i++) {
        const struct sl_seq_view *v = &s->views[i];
        struct sl_rope_part own[2];
        SL_ASSERT(n_parts <= 2);
        for (int k = 0; k < n_parts; k++) {
            own[k] = parts[k];
            own[k].x += (size_t)v->row * (size_t)(parts[k].n_heads * parts[k].head_dim);
        }
        int far = s->seqs[b->seqs[i].seq].far;
        s->ops->rope(s->b, far ? &s->far : r, own, n_parts, s->pos + v->row, v->n);
    }
}

static struct sl_attn how(const struct sl_stage *s, const struct sl_layer *y)
{
    const struct sl_config *c = &s->c;
    return (struct sl_attn){.n_heads = c->n_heads,
                            .scale = c->attn_scale,
                            .softcap = c->attn_softcap,
                            .window = y->flags & SL_LAYER_WINDOW ? c->window : 0,
                            .sinks = y->v[SL_ROLE_SINKS]};
}

/* ---- attention ------------------------------------------------------------------------------- */

/* Norms and turns the heads of q and k; k and v go into the cache. */
static void place_heads(struct sl_stage *s, struct sl_layer *y, const struct sl_batch *b)
{
    const struct sl_config *c = &s->c;
    int n = s->step.run_rows;
    if (s->ops->heads && s->c.ropes[0].scaling != SL_ROPE_LONG) {
        const struct sl_heads h = {.q = s->q,
                                   .k = s->k,
                                   .v = s->v,
                                   .n_heads = c->n_heads,
                                   .n_kv_heads = c->n_kv_heads,
                                   .head_dim = c->head_dim,
                                   .q_gain = c->qk_norm ? y->v[SL_ROLE_Q_NORM] : NULL,
                                   .k_gain = c->qk_norm ? y->v[SL_ROLE_K_NORM] : NULL,
                                   .eps = c->rms_eps,
                                   .rope = &s->ropes[y->flags & SL_LAYER_LOCAL_ROPE ? 1 : 0]};
        s->ops->heads(s->b, &h, &y->kv, s->views, b->n_seqs, s->pos, n);
        return;
    }
    if (c->qk_norm) {
        norm(s, s->q, y->v[SL_ROLE_Q_NORM], n * c->n_heads, c->head_dim, s->q);
        norm(s, s->k, y->v[SL_ROLE_K_NORM], n * c->n_kv_heads, c->head_dim, s->k);
    }
    const struct sl_rope_part turned[] = {{s->q, c->n_heads, c->head_dim, 0},
                                          {s->k, c->n_kv_heads, c->head_dim, 0}};
    turn(s, y, b, turned, 2);
    s->ops->kv_write(s->b, &y->kv, s->views, b->n_seqs, s->k, s->v);
}

static void attend(struct sl_stage *s, struct sl_layer *y, const struct sl_batch *b)
{
    int n = s->step.run_rows;
    const struct product qkv[] = {{SL_ROLE_Q, SL_ROLE_Q_BIAS, s->q, 0},
                                  {SL_ROLE_K, SL_ROLE_K_BIAS, s->k, 0},
                                  {SL_ROLE_V, SL_ROLE_V_BIAS, s->v, 0}};
    products(s, y, s->norm, n, qkv, 3);
    place_heads(s, y, b);
    const struct sl_attn a = how(s, y);
    s->ops->attention(s->b, &y->kv, s->views, b->n_seqs, s->q, &a, s->attn);
}

/* q [n][heads][nope + rope]: from the stream, or through a low rank. */
static void latent_queries(struct sl_stage *s, struct sl_layer *y, int n)
{
    const struct sl_config *c = &s->c;
    if (!c->q_lora) {
        const struct product q = {SL_ROLE_Q, NO_BIAS, s->q, 0};
        products(s, y, s->norm, n, &q, 1);
        return;
    }
    const struct product down = {SL_ROLE_Q_A, NO_BIAS, s->q_a, 0},
                         up = {SL_ROLE_Q_B, NO_BIAS, s->q, 0};
    products(s, y, s->norm, n, &down, 1);
    norm_rows(s, s->q_a, y->v[SL_ROLE_Q_A_NORM], n, c->q_lora, s->q_a_rows);
    products(s, y, s->q_a_rows, n, &up, 1);
}

/* Copies `dim` floats from each of n rows to another layout. */
static void copy_rows(struct sl_stage *s, const float *from, int64_t from_stride, float *to,
                      int64_t to_stride, int64_t n, int dim)
{
    s->ops->mix(s->b, from, from_stride, to, to_stride, n, dim, 1, 0);
}

/* Queries are brought to the latents (k_b turned), attention runs over latents, and what it gives
 * becomes values afterwards (v_b): keys and values are never expanded. */
static void attend_latents(struct sl_stage *s, struct sl_layer *y, const struct sl_batch *b)
{
    const struct sl_config *c = &s->c;
    int n = s->step.run_rows, dim = c->kv_lora + c->qk_rope, head = c->qk_nope + c->qk_rope;
    int64_t heads = c->n_heads, rows = n * heads;
    const struct product kv[] = {{SL_ROLE_KV_A, NO_BIAS, s->v, 0},
                                 {SL_ROLE_K_PE, NO_BIAS, s->k, 0}};
    products(s, y, s->norm, n, kv, 2);
    latent_queries(s, y, n);
    norm(s, s->v, y->v[SL_ROLE_KV_A_NORM], n, c->kv_lora, s->v);
    const struct sl_rope_part turned[] = {{s->q, c->n_heads, head, c->qk_nope},
                                          {s->k, 1, c->qk_rope, 0}};
    turn(s, y, b, turned, 2);
    copy_rows(s, s->v, c->kv_lora, s->latent, dim, n, c->kv_lora);
    copy_rows(s, s->k, c->qk_rope, s->latent + c->kv_lora, dim, n, c->qk_rope);
    s->ops->latent_write(s->b, &y->latent, s->views, b->n_seqs, s->latent);
    s->ops->head_matmul(s->b, y->many[SL_ROLE_K_B], c->n_heads, s->q, heads * head, head, n,
                        s->q_latent, heads * dim, dim);
    copy_rows(s, s->q + c->qk_nope, head, s->q_latent + c->kv_lora, dim, rows, c->qk_rope);
    const struct sl_attn a = how(s, y);
    s->ops->latent_attention(s->b, &y->latent, s->views, b->n_seqs, s->q_latent, &a, s->o_latent);
    s->ops->head_matmul(s->b, y->many[SL_ROLE_V_B], c->n_heads, s->o_latent, heads * c->kv_lora,
                        c->kv_lora, n, s->values, heads * c->v_dim, c->v_dim);
    s->ops->to_rows(s->b, s->values, n, c->n_heads * c->v_dim, s->attn);
}

static void attention(struct sl_stage *s, struct sl_layer *y, const struct sl_batch *b, float *x)
{
    int n = s->step.run_rows;
    norm_rows(s, x, y->v[SL_ROLE_ATTN_NORM], n, s->c.n_embd, s->norm);
    if (s->c.kv_lora)
        attend_latents(s, y, b);
    else
        attend(s, y, b);
    float *out = target(s, x);
    const struct product o = {SL_ROLE_O, SL_ROLE_O_BIAS, out, out == x ? SL_MATMUL_ADD : 0};
    products(s, y, s->attn, n, &o, 1);
    add(s, out, y->v[SL_ROLE_POST_ATTN_NORM], n, x);
}

/* ---- feed-forward ---------------------------------------------------------------------------- */

/* out (+)= down(act(gate) * up), by their roles. */
struct gated {
    enum sl_role gate, gate_bias, up, up_bias, down, down_bias;
    int n_ff;
    const float *weigh; /* gain of a weight per row, or NULL */
};

static void gated(struct sl_stage *s, struct sl_layer *y, const struct gated *g, int n, float *out,
                  int flags)
{
    const struct product in[] = {{g->gate, g->gate_bias, s->gate, 0},
                                 {g->up, g->up_bias, s->up, 0}};
    const struct product down = {g->down, g->down_bias, out, flags};
    if (s->ops->gate_up && !s->n_runs) {
        s->ops->gate_up(s->b, s->act, s->norm, n, &y->w[g->gate],
                        g->gate_bias == NO_BIAS ? NULL : y->v[g->gate_bias], &y->w[g->up],
                        g->up_bias == NO_BIAS ? NULL : y->v[g->up_bias], s->hidden);
    } else {
        products(s, y, s->norm, n, in, 2);
        s->ops->glu(s->b, s->act, s->gate, s->up, n, g->n_ff, s->hidden);
    }
    /* the down product is linear, so the weight of a row may come before it */
    if (g->weigh) s->ops->weigh_rows(s->b, g->weigh, s->norm, n, s->c.n_embd, s->hidden, g->n_ff);
    products(s, y, s->hidden, n, &down, 1);
}

static void dense(struct sl_stage *s, struct sl_layer *y, int n, float *out, int flags)
{
    const struct gated g = {SL_ROLE_GATE, SL_ROLE_GATE_BIAS, SL_ROLE_UP, SL_ROLE_UP_BIAS,
                            SL_ROLE_DOWN, SL_ROLE_DOWN_BIAS, s->c.n_ff,  NULL};
    gated(s, y, &g, n, out, flags);
}

static void experts(struct sl_stage *s, struct sl_layer *y, int n, float *out, int flags)
{
    int width = s->c.n_embd;
    if (!flags) s->ops->mix(s->b, out, width, out, width, n, width, 0, 0);
    s->ops->moe(s->b, &y->moe, s->norm, n, width, out);
    if (!s->c.n_ff_shared) return;
    const struct gated g = {
        SL_ROLE_GATE_SHARED, NO_BIAS,
        SL_ROLE_UP_SHARED,   NO_BIAS,
        SL_ROLE_DOWN_SHARED, NO_BIAS,
        s->c.n_ff_shared,    s->c.shared_gate ? y->v[SL_ROLE_SHARED_GATE] : NULL};
    gated(s, y, &g, n, out, SL_MATMUL_ADD);
}

static void feed_forward(struct sl_stage *s, struct sl_layer *y, int n, float *x)
{
    norm_rows(s, x, y->v[SL_ROLE_FFN_NORM], n, s->c.n_embd, s->norm);
    float *out = target(s, x);
    int flags = out == x ? SL_MATMUL_ADD : 0;
    if (y->flags & SL_LAYER_MOE)
        experts(s, y, n, out, flags);
    else
        dense(s, y, n, out, flags);
    add(s, out, y->v[SL_ROLE_POST_FFN_NORM], n, x);
}

void sl_exec_layers(struct sl_stage *s, const struct sl_batch *b, float *x)
{
    int n_layers = s->p.layer_to - s->p.layer_from;
    for (int i = 0; i < n_layers; i++) {
        attention(s, &s->layers[i], b, x);
        feed_forward(s, &s->layers[i], s->step.run_rows, x);
        if (s->p.moved) s->p.moved(s->p.progress_arg);
    }
}
