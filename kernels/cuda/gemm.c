/* gemm.c - products of many rows and gated units of them: rows are prepared once for all products
 * that read them in the same form, and each product goes piece by piece to where it is wanted
 * (gemm_run.h says which way and how). */
#include "kernels/cuda/gemm.h"

#include <string.h>

#include "base/sl_assert.h"
#include "kernels/cuda/gemm_run.h"

/* Where sums of a product go first. */
enum way { STRAIGHT, SUMS, SHORT_SUMS };

/* Adding to floats in the product itself stalls on their reading; an FP8 product with few columns
 * to sum is faster with BF16 sums in the cache and a pass that adds them (measured: up to about
 * this many). BF16 rounds to 2^-9, a tenth of what the quantized rows were rounded to. */
#define ADD_COLS_MAX 8192

static enum way way_of(const struct sl_gemm_run *r, enum sl_gemm_path path,
                       const struct sl_cuda_weight *w, const struct sl_product *p)
{
    if (path == SL_PATH_PLAIN) return STRAIGHT;
    if (path == SL_PATH_AFTER || path == SL_PATH_STORED) return SUMS;
    if (w->rows % 8 || (uintptr_t)p->out % 16) return SUMS;
    if (path == SL_PATH_BLOCK && r->n % 8) return SUMS; /* rows are made up to 8 */
    int adds = (p->flags & SL_MATMUL_ADD) || p->bias;
    if (path == SL_PATH_HALF || !adds || w->cols > ADD_COLS_MAX) return STRAIGHT;
    return SHORT_SUMS;
}

static void product(const struct sl_gemm_run *r, enum sl_gemm_path path, const struct sl_product *p,
                    const struct sl_cuda_level *level)
{
    const struct sl_cuda_weight *w = sl_gemm_weight(p->w);
    enum way way = way_of(r, path, w, p);
    int add = p->flags & SL_MATMUL_ADD;
    int piece = sl_gemm_piece(r, path, w, way == SUMS ? 4 : way == SHORT_SUMS ? 2 : 0);
    if (way == STRAIGHT && p->bias) { /* the product then adds to it */
        sl_cuda_bias(r->c, p->bias, r->n, w->rows, p->out, add);
        add = SL_MATMUL_ADD;
    }
    for (int first = 0; first < w->rows; first += piece) {
        int m = w->rows - first < piece ? w->rows - first : piece;
        struct sl_gemm_target t = {p->out + first, w->rows, SL_LT_F32, add};
        if (way != STRAIGHT)
            t = (struct sl_gemm_target){r->sums, sl_gemm_round_up(m, 8),
                                        way == SHORT_SUMS ? SL_LT_BF16 : SL_LT_F32, 0};
        int raw = sl_gemm_multiply(r, path, w, level, first, m, &t);
        if (way == STRAIGHT) continue;
        struct sl_cuda_finish f = {.d = r->sums,
                                   .d_stride = t.stride,
                                   .n = r->n,
                                   .first = first,
                                   .m = m,
                                   .sums = t.sums,
                                   .add = add,
                                   .row = raw ? w->row : NULL,
                                   .scale = raw && path == SL_PATH_AFTER ? r->scales : NULL,
                                   .bias = p->bias,
                                   .out = p->out,
                                   .out_stride = w->rows};
        sl_cuda_finish(r->c, &f);
    }
}

/* Whether a path reads halfs of levelled rows, in their own order of columns or the weight's. */
static int reads_halfs(enum sl_gemm_path path)
{
    return path == SL_PATH_HALF || path == SL_PATH_STORED;
}

/* Halfs: products of rows as they are share one levelling, others have their own. */
static void half_products(const struct sl_gemm_run *r, const enum sl_gemm_path *path,
                          const struct sl_product *p, int count)
{
    const struct sl_cuda_weight *w[SL_GEMM_PRODUCTS_MAX];
    int n = 0;
    for (int i = 0; i < count; i++)
        if (reads_halfs(path[i]) && !sl_gemm_weight(p[i].w)->order) w[n++] = sl_gemm_weight(p[i].w);
    struct sl_gemm_run wide = sl_gemm_wide(r);
    if (n) sl_cuda_level(r->c, r->x, r->n, r->cols, w, n, r->level);
    n = 0;
    for (int i = 0; i < count; i++)
        if (reads_halfs(path[i]) && !sl_gemm_weight(p[i].w)->order)
            product(&wide, path[i], &p[i], &r->level[n++]);
    for (int i = 0; i < count; i++) {
        if (!reads_halfs(path[i]) || !sl_gemm_weight(p[i].w)->order) continue;
        struct sl_gemm_run o = sl_gemm_in_order(r, sl_gemm_weight(p[i].w), r->rows);
        w[0] = sl_gemm_weight(p[i].w);
        sl_cuda_level(o.c, o.x, o.n, o.cols, w, 1, o.level);
        product(&o, path[i], &p[i], o.level);
    }
}

static void scaled_products(const struct sl_gemm_run *r, const enum sl_gemm_path *path,
                            const struct sl_product *p, int count, enum sl_gemm_path which)
{
    const struct sl_cuda_weight *w[SL_GEMM_PRODUCTS_MAX];
    int n = 0;
    for (int i = 0; i < count; i++)
        if (path[i] == which) w[n++] = sl_gemm_weight(p[i].w);
    if (!n) return;
    sl_cuda_level(r->c, r->x, r->n, r->cols, w, n, r->level);
    sl_cuda_mx_rows(r->c, r->x, r->n, r->cols, which == SL_PATH_MX ? 32 : 16, r->rows, r->scales);
    n = 0;
    for (int i = 0; i < count; i++)
        if (path[i] == which) product(r, which, &p[i], &r->level[n++]);
}

static void run_products(const struct sl_gemm_run *r, const struct sl_product *p, int count)
{
    enum sl_gemm_path path[SL_GEMM_PRODUCTS_MAX];
    int quantized = 0;
    for (int i = 0; i < count; i++)
        path[i] = sl_gemm_path_of(r->c, sl_gemm_weight(p[i].w), r->n, 0);
    for (int i = 0; i < count; i++) {
        if (path[i] != SL_PATH_ROW && path[i] != SL_PATH_AFTER) continue;
        if (!quantized++) sl_cuda_quantize_rows(r->c, r->x, r->n, r->cols, r->rows, r->scales);
        product(r, path[i], &p[i], NULL);
    }
    quantized = 0;
    for (int i = 0; i < count; i++) {
        if (path[i] != SL_PATH_BLOCK) continue;
        if (!quantized++)
            sl_cuda_quantize_blocks(r->c, r->x, r->n, r->n_padded, r->cols, r->rows, r->scales);
        sl_cuda_grid(r->c, sl_gemm_weight(p[i].w), r->grid);
        product(r, SL_PATH_BLOCK, &p[i], NULL);
    }
    scaled_products(r, path, p, count, SL_PATH_MX);
    scaled_products(r, path, p, count, SL_PATH_NV);
    half_products(r, path, p, count);
    for (int i = 0; i < count; i++)
        if (path[i] == SL_PATH_PLAIN) product(r, SL_PATH_PLAIN, &p[i], NULL);
}

void sl_cuda_gemm(struct sl_cuda *c, const void *x, int n, const struct sl_product *p,
                  int n_products)
{
    SL_ASSERT(n >= 0 && n_products >= 0 && n_products <= SL_GEMM_PRODUCTS_MAX);
    if (n == 0 || n_products == 0) return;
    int64_t cols = sl_gemm_weight(p[0].w)->cols, stride = sl_cuda_row_stride(cols), bytes = 1;
    for (int i = 0; i < n_products; i++) {
        enum sl_gemm_path path = sl_gemm_path_of(c, sl_gemm_weight(p[i].w), n, 0);
        SL_ASSERT(sl_gemm_weight(p[i].w)->cols == cols);
        if (path == SL_PATH_PLAIN) continue; /* reads the rows as they are */
        if (!reads_halfs(path) && bytes < sl_cuda_pad(cols)) bytes = sl_cuda_pad(cols);
        if (sl_gemm_weight(p[i].w)->order) bytes = stride;
    }
    int most = sl_gemm_rows_at_once(n, bytes);
    for (int at = 0; at < n; at += most) {
        struct sl_gemm_run r =
            sl_gemm_run_of(c, (const char *)x + at * stride, n - at < most ? n - at : most, cols);
        struct sl_product q[SL_GEMM_PRODUCTS_MAX];
        memcpy(q, p, sizeof *p * (size_t)n_products);
        for (int i = 0; i < n_products; i++) q[i].out += at * sl_gemm_weight(p[i].w)->rows;
        run_products(&r, q, n_products);
    }
}

/* ---- gated units ----------------------------------------------------------------------------- */

struct unit {
    enum sl_act act;
    const struct sl_cuda_weight *w[2]; /* gate, up */
    const float *bias[2];
    enum sl_gemm_path path[2];
    void *out;
};

/* Makes of the rows what the two products read. */
static void prepare(const struct sl_gemm_run *r, const struct unit *u, struct sl_gemm_run half[2])
{
    const struct sl_cuda_weight *const *w = u->w;
    half[0] = half[1] = *r;
    if (u->path[0] == SL_PATH_ROW)
        sl_cuda_quantize_rows(r->c, r->x, r->n, r->cols, r->rows, r->scales);
    if (u->path[0] == SL_PATH_BLOCK) {
        sl_cuda_quantize_blocks(r->c, r->x, r->n, r->n_padded, r->cols, r->rows, r->scales);
        half[1].grid += sl_gemm_grid_bytes(w[0]) / 4;
        for (int i = 0; i < 2; i++) sl_cuda_grid(r->c, w[i], half[i].grid);
    }
    if (u->path[0] == SL_PATH_PLAIN || u->path[0] == SL_PATH_ROW || u->path[0] == SL_PATH_BLOCK)
        return;
    if (!w[0]->order && !w[1]->order) {
        if (reads_halfs(u->path[0])) half[0] = half[1] = sl_gemm_wide(r);
        sl_cuda_level(r->c, r->x, r->n, r->cols, w, 2, r->level);
        half[1].level = r->level + 1;
        if (!reads_halfs(u->path[0]))
            sl_cuda_mx_rows(r->c, r->x, r->n, r->cols, u->path[0] == SL_PATH_MX ? 32 : 16, r->rows,
                            r->scales);
        return;
    }
    for (int i = 0; i < 2; i++) {
        if (w[i]->order)
            half[i] = sl_gemm_in_order(r, w[i], r->rows + i * r->n * sl_cuda_row_stride(r->cols));
        half[i].level = r->level + i;
        sl_cuda_level(r->c, half[i].x, r->n, r->cols, &w[i], 1, half[i].level);
    }
}

static void run_unit(const struct sl_gemm_run *r, const struct unit *u)
{
    struct sl_gemm_run both[2];
    prepare(r, u, both);
    int rows = u->w[0]->rows, piece = sl_gemm_piece(&both[0], u->path[0], u->w[0], 4);
    for (int first = 0; first < rows; first += piece) {
        int m = rows - first < piece ? rows - first : piece;
        struct sl_cuda_glu_piece g = {.act = u->act,
                                      .sums = {r->sums, r->sums + SL_GEMM_SUMS_BYTES / 2},
                                      .bias = {u->bias[0], u->bias[1]},
                                      .d_stride = sl_gemm_round_up(m, 8),
                                      .n = r->n,
                                      .first = first,
                                      .m = m,
                                      .cols = rows,
                                      .out = u->out};
        for (int i = 0; i < 2; i++) {
            struct sl_gemm_target t = {(void *)(uintptr_t)g.sums[i], g.d_stride, SL_LT_F16, 0};
            int raw = sl_gemm_multiply(&both[i], u->path[i], u->w[i], both[i].level, first, m, &t);
            if (raw) g.row[i] = u->w[i]->row, g.level[i] = both[i].level;
        }
        sl_cuda_glu_piece(r->c, &g);
    }
}

/* Gate and up go the same way: the better one of those that both could. */
static void choose_paths(const struct sl_cuda *c, struct unit *u, int n)
{
    for (int i = 0; i < 2; i++) u->path[i] = sl_gemm_path_of(c, u->w[i], n, 1);
    if (u->path[0] == u->path[1] &&
        (u->path[0] != SL_PATH_BLOCK ||
         sl_gemm_grid_bytes(u->w[0]) + sl_gemm_grid_bytes(u->w[1]) <= SL_GEMM_GRID_BYTES))
        return;
    for (int i = 0; i < 2; i++)
        if (u->path[i] != SL_PATH_PLAIN)
            u->path[i] = sl_lt_can(c->lt, SL_LT_HALF, SL_LT_F16) ? SL_PATH_HALF : SL_PATH_PLAIN;
    if (u->path[0] != u->path[1]) u->path[0] = u->path[1] = SL_PATH_PLAIN;
}

void sl_cuda_gemm_gate_up(struct sl_cuda *c, enum sl_act act, const void *x, int n,
                          const struct sl_weight *gate, const float *gate_bias,
                          const struct sl_weight *up, const float *up_bias, void *out)
{
    struct unit u = {
        act, {sl_gemm_weight(gate), sl_gemm_weight(up)}, {gate_bias, up_bias}, {0, 0}, out};
    SL_ASSERT(n >= 0 && u.w[0]->rows == u.w[1]->rows && u.w[0]->cols == u.w[1]->cols);
    choose_paths(c, &u, n);
    int64_t cols = u.w[0]->cols, stride = sl_cuda_row_stride(cols);
    int ordered = u.w[0]->order || u.w[1]->order, plain = u.path[0] == SL_PATH_PLAIN;
    int most = sl_gemm_rows_at_once(n, plain ? 1 : ordered ? 2 * stride : sl_cuda_pad(cols));
    for (int at = 0; at < n; at += most) {
        struct sl_gemm_run r =
            sl_gemm_run_of(c, (const char *)x + at * stride, n - at < most ? n - at : most, cols);
        u.out = (char *)out + at * sl_cuda_row_stride(u.w[0]->rows);
        run_unit(&r, &u);
    }
}
