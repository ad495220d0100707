/* moe.cu - mixtures of experts (Shazeer et al. 2017; DeepSeek-AI 2024) on the device: the plan in
 * scratch memory, and which kernels run it.
 *
 *   router (moe_router.cu)           logits
 *   choice, sorting (moe_route.cu)   pairs by expert, a list of tiles
 *   gate and up                      hidden = act(gate) * up, at each pair's place
 *   down                             y, at each pair's place
 *   sum (moe_plain.cu)               out += weight * y, experts in ascending order; of a single row
 *                                    part of down
 *
 * Few rows for each expert: weights are streamed once (moe_stream.cuh). Many: a grouped product on
 * tensor cores (moe_grouped.cuh). Which of them is decided from sizes alone; what depends on the
 * routing (how many rows an expert has, which weights are read) only the device knows, so grids are
 * as large as they might have to be, or persistent. Up to SL_DECODE_ROWS_MAX rows it is always
 * streaming, whose sums have the same bits for a row whatever else is in the call.
 *
 * Forms without kernels of their own (MXFP8, act-order, F32 ...) go one element at a time. */
#include "base/sl_assert.h"
#include "kernels/cuda/moe_forms.cuh"

#define EXPERTS_MAX 1024 /* as the model's SL_EXPERTS_MAX: scores in registers */
/* Bytes of outputs kept until they are summed; what is more comes in turns of columns. */
#define Y_BYTES (256u << 20)
#define Y_STEP SL_TILE_WEIGHTS
#define ALIGN 256

/* ---- which kernels --------------------------------------------------------------------------- */

extern const sl_moe_form sl_moe_forms_float[], sl_moe_forms_byte[], sl_moe_forms_nibble[],
    sl_moe_forms_five[], sl_moe_forms_super[], sl_moe_forms_table[];
extern const int sl_moe_forms_float_count, sl_moe_forms_byte_count, sl_moe_forms_nibble_count,
    sl_moe_forms_five_count, sl_moe_forms_super_count, sl_moe_forms_table_count;

static const sl_moe_kernels *kernels_for(const struct sl_cuda_weight *w)
{
    const struct {
        const sl_moe_form *forms;
        int count;
    } tables[] = {{sl_moe_forms_float, sl_moe_forms_float_count},
                  {sl_moe_forms_byte, sl_moe_forms_byte_count},
                  {sl_moe_forms_nibble, sl_moe_forms_nibble_count},
                  {sl_moe_forms_five, sl_moe_forms_five_count},
                  {sl_moe_forms_super, sl_moe_forms_super_count},
                  {sl_moe_forms_table, sl_moe_forms_table_count}};
    if (w->order) return &sl_moe_plain;
    for (const auto &t : tables)
        for (const sl_moe_form *f = t.forms; f < t.forms + t.count; f++)
            if (f->code == w->code_kind && f->scale == w->scale_kind && f->min == w->min_kind &&
                (f->scale == SL_CUDA_SCALE_NONE || f->scale == SL_CUDA_SCALE_GRID ||
                 f->pair == (w->group < f->lane_k)))
                return &f->kernels;
    return &sl_moe_plain;
}

static bool same_form(const struct sl_cuda_weight *a, const struct sl_cuda_weight *b)
{
    return a->code_kind == b->code_kind && a->scale_kind == b->scale_kind &&
           a->min_kind == b->min_kind && a->group == b->group && a->offset == b->offset &&
           !a->order == !b->order;
}

/* ---- the plan -------------------------------------------------------------------------------- */

/* Places of a tile: about twice what an expert gets on average, so that most need one tile. A
 * streamed tile's rows, x or hidden, must fit shared memory. */
static int tile_rows(const struct sl_cuda *c, int n, int n_experts, int n_used, int cols)
{
    int mean = (int)((int64_t)n * n_used / n_experts), rows = SL_MOE_STREAM_ROWS_MAX;
    if (n > SL_DECODE_ROWS_MAX && mean > 24) return SL_MOE_GROUPED_ROWS;
    if (mean <= 8) rows = mean <= 3 ? 8 : 16;
    while (rows > 1 && rows * sl_moe_x_stride(cols) > c->smem_max - 2048) rows /= 2;
    return rows;
}

static char *carve(char *base, size_t *at, size_t bytes)
{
    char *p = base + *at;
    *at += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    return p;
}

/* Lays the arrays out from `base`; returns their size. `rows` of a tile: fewer need more room. */
static size_t lay_out(sl_moe_plan *p, char *base, int64_t n, int n_experts, int n_used, int n_ff,
                      int dim, int rows)
{
    size_t at = 0, pairs = (size_t)(n * n_used), fit = Y_BYTES / (pairs * sizeof(float));
    *p = sl_moe_plan{};
    SL_ASSERT(pairs <= INT32_MAX);
    p->n_pairs = (int)pairs;
    p->tile_rows = rows;
    p->tiles_max = (int)SL_MIN(pairs, pairs / rows + n_experts);
    p->y_cols = dim;
    if (fit < (size_t)dim) p->y_cols = (int)SL_MAX(fit / Y_STEP * Y_STEP, (size_t)Y_STEP);
    p->y_cols = SL_MIN(p->y_cols, dim);
    p->logits = (float *)carve(base, &at, (size_t)n * n_experts * sizeof(float));
    p->ids = (int32_t *)carve(base, &at, pairs * sizeof(int32_t));
    p->weights = (float *)carve(base, &at, pairs * sizeof(float));
    p->place = (int32_t *)carve(base, &at, pairs * sizeof(int32_t));
    p->pair = (int32_t *)carve(base, &at, pairs * sizeof(int32_t));
    p->tiles = (sl_moe_tile *)carve(base, &at, p->tiles_max * sizeof(sl_moe_tile));
    p->n_tiles = (int32_t *)carve(base, &at, sizeof(int32_t));
    p->hidden = carve(base, &at, pairs * sl_cuda_row_stride(n_ff));
    p->y = (float *)carve(base, &at, pairs * p->y_cols * sizeof(float));
    return at;
}

size_t sl_cuda_moe_scratch(const struct sl_backend_limits *l, int n_experts, int n_used, int n_ff,
                           int dim)
{
    sl_moe_plan p;
    int n = SL_MAX(l->max_rows, 1);
    size_t most = lay_out(&p, nullptr, n, n_experts, n_used, n_ff, dim, 1);
    /* fewer rows may have whole rows of y where more have pieces */
    size_t y = (size_t)p.n_pairs * p.y_cols * sizeof(float);
    return p.y_cols < dim && y < Y_BYTES ? most + Y_BYTES - y : most;
}

void sl_cuda_moe(struct sl_cuda *c, const struct sl_moe *m, const struct sl_cuda_experts *e,
                 const void *x, int n, int dim, float *out)
{
    SL_ASSERT(m->n_experts <= EXPERTS_MAX && m->n_used >= 1 && m->n_used <= m->n_experts);
    SL_ASSERT(m->n_groups >= 1 && m->n_groups <= SL_MOE_GROUPS_MAX);
    SL_ASSERT(m->n_experts % m->n_groups == 0);
    SL_ASSERT(m->n_groups_used >= 1 && m->n_groups_used <= m->n_groups);
    if (n <= 0) return;
    sl_moe_plan p;
    int rows = tile_rows(c, n, m->n_experts, m->n_used, SL_MAX(dim, m->n_ff));
    size_t bytes = lay_out(&p, (char *)c->scratch, n, m->n_experts, m->n_used, m->n_ff, dim, rows);
    SL_ASSERT(bytes <= c->scratch_bytes);
    sl_moe_router(c, m, x, n, p.logits);
    sl_moe_route(c, m, n, &p);

    sl_moe_product up = {e->gate, e->up, m->gate_bias, m->up_bias, m->act,
                         m->n_ff, dim,   m->n_used,    x,          0};
    sl_moe_product down = {e->down, nullptr, m->down_bias, nullptr,  m->act,
                           dim,     m->n_ff, m->n_used,    p.hidden, 0};
    bool same = same_form(&e->gate_form, &e->up_form);
    const sl_moe_kernels *k = same ? kernels_for(&e->gate_form) : &sl_moe_plain;
    bool grouped = rows > SL_MOE_STREAM_ROWS_MAX;
    (grouped ? k->grouped_up : k->stream_up)(c, &up, &p);
    k = kernels_for(&e->down_form);
    if (k->one_down && k->one_down(c, &down, &p, out)) return;
    for (; down.first < dim; down.first += p.y_cols) {
        (grouped ? k->grouped_down : k->stream_down)(c, &down, &p);
        sl_moe_sum(c, &p, n, m->n_used, dim, down.first, SL_MIN(p.y_cols, dim - down.first), out);
    }
}
