/* ops.c - every operation in plain C, as its definition reads: the oracle for all other rows.
 *
 * Sums run in double, everything else in float32. Nothing is packed, blocked or cached. Only the
 * matmul and the attention (attention.c) use threads (whole outputs each), because a whole model is
 * checked with this backend. */
#include <math.h>

#include "base/sl_assert.h"
#include "kernels/backend.h"
#include "kernels/ref/ref.h"

static int ref_load(struct sl_backend *b, enum sl_use use, const struct sl_matrix *m,
                    struct sl_weight *w, struct sl_err *err)
{
    (void)b;
    (void)use;
    (void)err;
    *w = (struct sl_weight){.rows = m->rows, .cols = m->cols, .m = *m};
    return 0;
}

static void ref_unload(struct sl_backend *b, struct sl_weight *w)
{
    (void)b;
    *w = (struct sl_weight){0};
}

static void ref_embed(struct sl_backend *b, const struct sl_weight *w, const int32_t *ids, int n,
                      float *out)
{
    (void)b;
    for (int i = 0; i < n; i++) sl_matrix_row(&w->m, ids[i], out + i * w->cols);
}

static void ref_rmsnorm(struct sl_backend *b, const float *x, const float *gain, float eps, int n,
                        int dim, float *out)
{
    (void)b;
    for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        for (int e = 0; e < dim; e++) sum += (double)x[i * dim + e] * (double)x[i * dim + e];
        float r = (float)(1.0 / sqrt(sum / dim + (double)eps));
        for (int e = 0; e < dim; e++) out[i * dim + e] = x[i * dim + e] * r * gain[e];
    }
}

/* ---- matmul ---------------------------------------------------------------------------------- */

#define SUMS 8 /* partial sums: one alone would wait for each addition */

static double dot(const float *a, const float *b, int64_t n)
{
    double sum[SUMS] = {0}, total = 0;
    int64_t i = 0;
    for (; i + SUMS <= n; i += SUMS)
        for (int l = 0; l < SUMS; l++) sum[l] += (double)a[i + l] * (double)b[i + l];
    for (; i < n; i++) total += (double)a[i] * (double)b[i];
    for (int l = 0; l < SUMS; l++) total += sum[l];
    return total;
}

struct matmul_job {
    const float *x;
    int64_t x_stride;
    int n;
    const struct sl_product *p;
    int64_t out_stride;
    float *rows; /* one decoded row per thread, `stride` apart */
    int64_t stride;
};

static void matmul_run(void *arg, int thread, int n_threads)
{
    const struct matmul_job *j = arg;
    const struct sl_weight *w = j->p->w;
    float *row = j->rows + thread * j->stride;
    int64_t from, to;
    sl_pool_share(w->rows, 1, thread, n_threads, &from, &to);
    for (int64_t o = from; o < to; o++) {
        sl_matrix_row(&w->m, o, row);
        for (int i = 0; i < j->n; i++) {
            double y = dot(j->x + i * j->x_stride, row, w->cols);
            float *out = j->p->out + i * j->out_stride + o;
            if (j->p->bias) y += (double)j->p->bias[o];
            *out = (float)(j->p->flags & SL_MATMUL_ADD ? (double)*out + y : y);
        }
    }
}

static void multiply(struct sl_backend *b, const float *x, int64_t x_stride, int n,
                     const struct sl_product *p, int64_t out_stride)
{
    int64_t stride = (p->w->cols + 15) / 16 * 16;
    float *rows = sl_scratch_get(&b->matmul_scratch,
                                 (size_t)stride * sizeof(float) * (size_t)sl_pool_size(b->pool));
    SL_ASSERT(rows);
    struct matmul_job j = {x, x_stride, n, p, out_stride, rows, stride};
    sl_pool_run(b->pool, matmul_run, &j);
}

static void ref_matmul(struct sl_backend *b, const void *x, int n, const struct sl_product *p,
                       int n_products)
{
    for (int i = 0; i < n_products && n > 0; i++)
        multiply(b, x, p[i].w->cols, n, &p[i], p[i].w->rows);
}

static void ref_head_matmul(struct sl_backend *b, const struct sl_weight *w, int n_heads,
                            const float *x, int64_t x_stride, int64_t x_head, int n, float *out,
                            int64_t out_stride, int64_t out_head)
{
    for (int h = 0; h < n_heads && n > 0; h++) {
        struct sl_product p = {.w = &w[h], .out = out + h * out_head};
        multiply(b, x + h * x_head, x_stride, n, &p, out_stride);
    }
}

/* ---- positions ------------------------------------------------------------------------------- */

static void turn(float *x, const struct sl_rope *r, int pos)
{
    for (int i = 0; i < r->dims / 2; i++) {
        double angle = (double)pos * (double)r->inv_freq[i];
        float c = (float)(cos(angle) * (double)r->scale),
              s = (float)(sin(angle) * (double)r->scale);
        float *a = r->neox ? &x[i] : &x[2 * i], *b = r->neox ? &x[i + r->dims / 2] : &x[2 * i + 1];
        float a0 = *a, b0 = *b;
        *a = a0 * c - b0 * s;
        *b = b0 * c + a0 * s;
    }
}

static void ref_rope(struct sl_backend *b, const struct sl_rope *r,
                     const struct sl_rope_part *parts, int n_parts, const int32_t *pos, int n)
{
    (void)b;
    for (const struct sl_rope_part *p = parts; p < parts + n_parts; p++)
        for (int64_t i = 0; i < n; i++)
            for (int h = 0; h < p->n_heads; h++)
                turn(p->x + (i * p->n_heads + h) * p->head_dim + p->offset, r, pos[i]);
}

/* ---- feed-forward ---------------------------------------------------------------------------- */

static double gated(enum sl_act act, double g, double u)
{
    switch (act) {
    case SL_ACT_SILU:
        break;
    case SL_ACT_GELU:
        return 0.5 * g * erfc(-g * sqrt(0.5)) * u;
    case SL_ACT_GELU_TANH: /* sqrt(2 / pi) */
        return 0.5 * g * (1 + tanh(0.7978845608028654 * (g + 0.044715 * g * g * g))) * u;
    case SL_ACT_SWIGLU_OAI:
        g = g > 7 ? 7 : g;
        u = u > 7 ? 7 : u < -7 ? -7 : u;
        return (u + 1) * g / (1 + exp(-1.702 * g));
    }
    return g / (1 + exp(-g)) * u;
}

static void ref_glu(struct sl_backend *b, enum sl_act act, const float *gate, const float *up,
                    int64_t n, int64_t cols, void *rows)
{
    float *out = rows;
    (void)b;
    for (int64_t i = 0; i < n * cols; i++)
        out[i] = (float)gated(act, (double)gate[i], (double)up[i]);
}

static void ref_norm_rows(struct sl_backend *b, const float *x, const float *gain, float eps, int n,
                          int dim, void *out)
{
    ref_rmsnorm(b, x, gain, eps, n, dim, out);
}

const struct sl_backend_ops sl_ref_ops = {
    .name = "ref",
    .load = ref_load,
    .unload = ref_unload,
    .embed = ref_embed,
    .rmsnorm = ref_rmsnorm,
    .matmul = ref_matmul,
    .rope = ref_rope,
    .kv_write = sl_ref_kv_write,
    .attention = sl_ref_attention,
    .latent_write = sl_ref_latent_write,
    .latent_attention = sl_ref_latent_attention,
    .head_matmul = ref_head_matmul,
    .glu = ref_glu,
    .moe = sl_moe_run,
    .norm_rows = ref_norm_rows,
    .to_rows = sl_floats_to_rows,
    .rows_bytes = sl_floats_rows_bytes,
    .mix = sl_floats_mix,
    .weigh_rows = sl_floats_weigh_rows,
    .pick = sl_floats_pick,
    .soften = sl_floats_soften,
};
