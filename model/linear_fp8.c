/* linear_fp8.c - E4M3 and E5M2 weights of every maker, and scale tables of every granularity.
 *
 * DeepSeek and Qwen ("weight_scale_inv", which multiplies despite its name; 128x128 blocks or one
 * value), compressed-tensors (tensor, channel, block, group), ModelOpt (tensor, channel, pb_wo),
 * fbgemm (channel), Mistral's own names: all are codes times a table (formats' documents: OCP OFP8
 * 2023; DeepSeek-V3 technical report 2024, section 3.3). */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include <jansson.h>

#include "base/sl_assert.h"
#include "model/linear_part.h"

#define BLOCK 128 /* rows and columns of a block when config.json does not say */

/* One scale of a float type; the caller has checked it. */
static float scale_value(const struct sl_piece *p)
{
    uint32_t u;
    uint16_t h;
    float f;
    switch (p->type) {
    case SL_F32:
        memcpy(&f, p->data, 4);
        return f;
    case SL_BF16:
        memcpy(&h, p->data, 2);
        u = (uint32_t)h << 16;
        memcpy(&f, &u, 4);
        return f;
    case SL_F16: {
        memcpy(&h, p->data, 2);
        int exp = h >> 10 & 31;
        f = exp ? ldexpf((float)(h & 0x3ff) + 1024, exp - 25) : ldexpf((float)(h & 0x3ff), -24);
        return h & 0x8000 ? -f : f;
    }
    default: /* E8M0 */
        return ldexpf(1, p->data[0] - 127);
    }
}

int sl_job_scalar(const struct sl_linear_job *j, const struct sl_piece *p, float *out)
{
    struct sl_piece s = *p;
    if (s.type == SL_U8) s.type = SL_E8M0; /* an exponent byte without its own dtype */
    if (s.count != 1 || s.type == SL_F8_E4M3)
        return sl_job_bad(j, p->t, SL_EINPUT,
                          "it should be one float and is %" PRId64 " of %s; the file is damaged or "
                          "of another version",
                          p->count, p->t->type_name);
    int r = sl_check_scales(j, &s);
    if (!r) *out = scale_value(&s);
    return r;
}

static int is_pair(const json_t *v, int64_t *a, int64_t *b)
{
    if (json_array_size(v) != 2) return 0;
    *a = json_integer_value(json_array_get(v, 0));
    *b = json_integer_value(json_array_get(v, 1));
    return *a > 0 && *b > 0;
}

int sl_config_block(const struct sl_weights *w, int64_t *rows, int64_t *cols)
{
    const json_t *q = sl_linear_config(w), *groups = json_object_get(q, "config_groups");
    const char *name;
    json_t *g;
    if (is_pair(json_object_get(q, "weight_block_size"), rows, cols)) return 1;
    json_object_foreach((json_t *)groups, name, g)
    {
        const json_t *weights = json_object_get(g, "weights");
        if (is_pair(json_object_get(weights, "block_structure"), rows, cols)) return 1;
    }
    return 0;
}

/* A grid of gn x gk scales: blocks of the size that config.json names, else of 128x128. */
static int as_blocks(const struct sl_linear_job *j, const struct sl_piece *p, int64_t gn,
                     int64_t gk, struct sl_scales *out)
{
    int64_t n = BLOCK, k = BLOCK;
    sl_config_block(j->w, &n, &k);
    if ((j->rows + n - 1) / n != gn || (j->cols + k - 1) / k != gk)
        return sl_job_bad(j, p->t, SL_EINPUT,
                          "%" PRId64 " x %" PRId64 " scales do not fit a matrix of %" PRId64
                          " x %" PRId64 " in blocks of %" PRId64 " x %" PRId64
                          "; config.json and weights are of different models",
                          gn, gk, j->rows, j->cols, n, k);
    out->rows = n;
    out->cols = k;
    return 0;
}

int sl_job_scales(struct sl_linear_job *j, struct sl_piece *p, struct sl_scales *out)
{
    if (p->type == SL_U8) p->type = SL_E8M0; /* scale_fmt ue8m0 without its own dtype */
    int r = sl_check_scales(j, p);
    if (r) return r;
    *out = (struct sl_scales){
        .data = p->data, .type = p->type, .rows = 1, .cols = j->cols, .factor = 1};
    if (p->count == 1 && p->type != SL_F8_E4M3) {
        out->data = NULL;
        out->factor = scale_value(p);
        sl_job_drop(j, p);
        return 0;
    }
    int64_t gk = p->ne[0], gn = p->ne[1];
    if (p->n_dims == 1 && p->ne[0] == j->rows) { /* [N] */
        gk = 1;
        gn = j->rows;
    }
    if (gn * gk != p->count)
        return sl_job_bad(j, p->t, SL_EINPUT,
                          "%d dimensions of scales, two are read; the file is damaged or of a "
                          "newer version",
                          p->n_dims);
    if (gn == j->rows && j->cols % gk == 0) { /* per row, or per group of a row */
        out->cols = j->cols / gk;
        return 0;
    }
    return as_blocks(j, p, gn, gk, out);
}

void sl_job_use_scales(struct sl_matrix *m, const struct sl_scales *s)
{
    m->scales = s->data;
    m->factor = s->factor;
    if (!s->data) return;
    m->scale_type = s->type;
    m->scale_rows = s->rows;
    m->scale_cols = s->cols;
}

int sl_linear_fp8(struct sl_linear_job *j)
{
    static const char *const names[] = {".weight_scale_inv", ".weight_scale", ".scale",
                                        ".qscale_weight"};
    struct sl_piece w, s = {.t = NULL};
    struct sl_scales scales;
    int r = sl_job_take(j, ".weight", 0, &w);
    if (!r) r = sl_job_shape(j, &w, j->rows, j->cols);
    if (!r) r = sl_check_codes(j, &w, w.type);
    for (size_t i = 0; i < SL_ARRAY_LEN(names) && !r && !s.t; i++)
        r = sl_job_take(j, names[i], 1, &s);
    if (!r && !s.t)
        r = sl_job_bad(j, w.t, SL_EINPUT,
                       "%s without a scale (weight_scale_inv or weight_scale); the model is "
                       "incomplete, download it again",
                       w.t->type_name);
    if (!r) r = sl_job_scales(j, &s, &scales);
    if (r) return r;
    j->out->m = sl_job_matrix(j, w.type, w.data);
    sl_job_use_scales(&j->out->m, &scales);
    return 0;
}
