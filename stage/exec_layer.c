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
static void products(struct sl_stage *s, const struct sl_layer *y, const float *x, int n,
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

/* ---- what a half layer adds ------------------------------------------------------------------ */

/* Where a half layer writes: straight onto the residual stream, or into `half` when that must be
 * normed or scaled first. */
static float *target(struct sl_stage *s, int n, float *x)
{
    if (!s->c.post_norms && s->c.residual_scale == 1) return x;
    memset(s->half, 0, (size_t)n * (size_t)s->c.n_embd * sizeof *s->half);
    return s->half;
}

static void add(struct sl_stage *s, float *from, const float *gain, int n, float *x)
{
    size_t count = (size_t)n * (size_t)s->c.n_embd;
    if (from == x) return;
    if (gain) norm(s, from, gain, n, s->c.n_embd, from);
    for (size_t i = 0; i < count; i++) x[i] += s->c.residual_scale * from[i];
}

/* ---- positions ------------------------------------------------------------------------------- */

/* Turns the parts. Under LongRoPE each sequence has the frequencies of its length. */
static void turn(struct sl_stage *s, const struct sl_layer *y, const struct sl_batch *b,
                 const struct sl_rope_part *parts, int n_parts)
{
    const struct sl_rope *r = &s->ropes[y->flags & SL_LAYER_LOCAL_ROPE ? 1 : 0];
    if (s->c.ropes[0].scaling != SL_ROPE_LONG) {
        s->ops->rope(s->b, r, parts, n_parts, s->pos, b->n_rows);
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

static void attend(struct sl_stage *s, struct sl_layer *y, const struct sl_batch *b)
{
    const struct sl_config *c = &s->c;
    int n = b->n_rows;
    const struct product qkv[] = {{SL_ROLE_Q, SL_ROLE_Q_BIAS, s->q, 0},
                                  {SL_ROLE_K, SL_ROLE_K_BIAS, s->k, 0},
                                  {SL_ROLE_V, SL_ROLE_V_BIAS, s->v, 0}};
    products(s, y, s->norm, n, qkv, 3);
    if (c->qk_norm) {
        norm(s, s->q, y->v[SL_ROLE_Q_NORM], n * c->n_heads, c->head_dim, s->q);
        norm(s, s->k, y->v[SL_ROLE_K_NORM], n * c->n_kv_heads, c->head_dim, s->k);
    }
    const struct sl_rope_part turned[] = {{s->q, c->n_heads, c->head_dim, 0},
                                          {s->k, c->n_kv_heads, c->head_dim, 0}};
    turn(s, y, b, turned, 2);
    s->ops->kv_write(s->b, &y->kv, s->views, b->n_seqs, s->k, s->v);
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
    norm(s, s->q_a, y->v[SL_ROLE_Q_A_NORM], n, c->q_lora, s->q_a);
    products(s, y, s->q_a, n, &up, 1);
}

/* Copies `dim` floats from each of n rows to another layout. */
static void copy_rows(const float *from, int64_t from_stride, float *to, int64_t to_stride,
                      int64_t n, int dim)
{
    for (int64_t i = 0; i < n; i++)
        memcpy(to + i * to_stride, from + i * from_stride, (size_t)dim * sizeof *to);
}

/* Queries are brought to the latents (k_b turned), attention runs over latents, and what it gives
 * becomes values afterwards (v_b): keys and values are never expanded. */
static void attend_latents(struct sl_stage *s, struct sl_layer *y, const struct sl_batch *b)
{
    const struct sl_config *c = &s->c;
    int n = b->n_rows, dim = c->kv_lora + c->qk_rope, head = c->qk_nope + c->qk_rope;
    int64_t heads = c->n_heads, rows = n * heads;
    const struct product kv[] = {{SL_ROLE_KV_A, NO_BIAS, s->v, 0},
                                 {SL_ROLE_K_PE, NO_BIAS, s->k, 0}};
    products(s, y, s->norm, n, kv, 2);
    latent_queries(s, y, n);
    norm(s, s->v, y->v[SL_ROLE_KV_A_NORM], n, c->kv_lora, s->v);
    const struct sl_rope_part turned[] = {{s->q, c->n_heads, head, c->qk_nope},
                                          {s->k, 1, c->qk_rope, 0}};
    turn(s, y, b, turned, 2);
    copy_rows(s->v, c->kv_lora, s->latent, dim, n, c->kv_lora);
    copy_rows(s->k, c->qk_rope, s->latent + c->kv_lora, dim, n, c->qk_rope);
    s->ops->latent_write(s->b, &y->latent, s->views, b->n_seqs, s->latent);
    s->ops->head_matmul(s->b, y->many[SL_ROLE_K_B], c->n_heads, s->q, heads * head, head, n,
                        s->q_latent, heads * dim, dim);
    copy_rows(s->q + c->qk_nope, head, s->q_latent + c->kv_lora, dim, rows, c->qk_rope);
    const struct sl_attn a = how(s, y);
    s->ops->latent_attention(s->b, &y->latent, s->views, b->n_seqs, s->q_latent, &a, s->o_latent);
    s->ops->head_matmul(s->b, y->many[SL_ROLE_V_B], c->n_heads, s->o_latent, heads * c->kv_lora,
                        c->kv_lora, n, s->attn, heads * c->v_dim, c->v_dim);
}

static void attention(struct sl_stage *s, struct sl_layer *y, const struct sl_batch *b, float *x)
{
    int n = b->n_rows;
    norm(s, x, y->v[SL_ROLE_ATTN_NORM], n, s->c.n_embd, s->norm);
    if (s->c.kv_lora)
        attend_latents(s, y, b);
    else
        attend(s, y, b);
    float *out = target(s, n, x);
    const struct product o = {SL_ROLE_O, SL_ROLE_O_BIAS, out, SL_MATMUL_ADD};
    products(s, y, s->attn, n, &o, 1);
    add(s, out, y->v[SL_ROLE_POST_ATTN_NORM], n, x);
}

/* ---- feed-forward ---------------------------------------------------------------------------- */

static void dense(struct sl_stage *s, struct sl_layer *y, int n, float *out)
{
    const struct product in[] = {{SL_ROLE_GATE, SL_ROLE_GATE_BIAS, s->gate, 0},
                                 {SL_ROLE_UP, SL_ROLE_UP_BIAS, s->up, 0}};
    const struct product down = {SL_ROLE_DOWN, SL_ROLE_DOWN_BIAS, out, SL_MATMUL_ADD};
    products(s, y, s->norm, n, in, 2);
    s->ops->glu(s->b, s->act, s->gate, s->up, n, s->c.n_ff, s->gate);
    products(s, y, s->gate, n, &down, 1);
}

/* Multiplies rows [n][n_ff_shared] by sigmoid(gain . x): the down product is linear, so the weight
 * may come before it. */
static void weigh_shared(struct sl_stage *s, const float *gain, int n)
{
    int dim = s->c.n_embd, ff = s->c.n_ff_shared;
    for (int64_t i = 0; i < n; i++) {
        double dot = 0;
        for (int e = 0; e < dim; e++) dot += (double)gain[e] * (double)s->norm[i * dim + e];
        float w = (float)(1 / (1 + exp(-dot)));
        for (int e = 0; e < ff; e++) s->gate[i * ff + e] *= w;
    }
}

static void experts(struct sl_stage *s, struct sl_layer *y, int n, float *out)
{
    s->ops->moe(s->b, &y->moe, s->norm, n, s->c.n_embd, out);
    if (!s->c.n_ff_shared) return;
    const struct product in[] = {{SL_ROLE_GATE_SHARED, NO_BIAS, s->gate, 0},
                                 {SL_ROLE_UP_SHARED, NO_BIAS, s->up, 0}};
    const struct product down = {SL_ROLE_DOWN_SHARED, NO_BIAS, out, SL_MATMUL_ADD};
    products(s, y, s->norm, n, in, 2);
    s->ops->glu(s->b, s->act, s->gate, s->up, n, s->c.n_ff_shared, s->gate);
    if (s->c.shared_gate) weigh_shared(s, y->v[SL_ROLE_SHARED_GATE], n);
    products(s, y, s->gate, n, &down, 1);
}

static void feed_forward(struct sl_stage *s, struct sl_layer *y, int n, float *x)
{
    norm(s, x, y->v[SL_ROLE_FFN_NORM], n, s->c.n_embd, s->norm);
    float *out = target(s, n, x);
    if (y->flags & SL_LAYER_MOE)
        experts(s, y, n, out);
    else
        dense(s, y, n, out);
    add(s, out, y->v[SL_ROLE_POST_FFN_NORM], n, x);
}

void sl_exec_layers(struct sl_stage *s, const struct sl_batch *b, float *x)
{
    int n_layers = s->p.layer_to - s->p.layer_from;
    sl_stage_lora_begin(s, b);
    for (int i = 0; i < n_layers; i++) {
        attention(s, &s->layers[i], b, x);
        feed_forward(s, &s->layers[i], b->n_rows, x);
        if (s->p.moved) s->p.moved(s->p.progress_arg);
    }
}
