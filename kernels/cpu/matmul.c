/* matmul.c - products of activations with packed weights: the rows there are, formats, and the work
 * of one call.
 *
 * A call takes up to four matrices with one input (q, k, v; gate, up), so a thread pool is woken
 * once for all of them. Units of work are (chunk of activation rows, tile of 16 output rows); each
 * thread has one contiguous run of them, always the same for the same shapes. The kernels proper
 * know only one tile and one chunk (matmul.h). */
#include "kernels/cpu/matmul.h"

#include <string.h>

#include "base/cpu.h"
#include "base/sl_assert.h"

#define MAX_PRODUCTS 4
/* Below this many values the caller quantizes alone: waking the others costs more than it saves. */
#define QUANTIZE_ALONE 4096

const struct sl_mm_format *sl_mm_format(int layout)
{
    static const struct sl_mm_format formats[SL_TILE_COUNT] = {
#define X(layout, codes, scales, shift) [layout] = {codes, scales, shift},
        SL_MM_FORMATS(X)
#undef X
#define X(layout, codes) [layout] = {codes, SL_MM_NONE, SL_MM_NO_OFFSET},
            SL_MM_FLOAT_FORMATS(X)
#undef X
#define X(layout, codes) [layout] = {codes, SL_MM_S, SL_MM_NO_OFFSET},
                SL_MM_SMALL_FORMATS(X)
#undef X
    };
    SL_ASSERT(layout >= 0 && layout < SL_TILE_COUNT);
    return &formats[layout];
}

const struct sl_matmul_ops *const *sl_matmul_rows(int *n)
{
    static const struct sl_matmul_ops *const rows[] = {
        &sl_matmul_portable,
#if defined(SL_KERNELS_X86)
        &sl_matmul_avx2,
        &sl_matmul_avx512,
        &sl_matmul_amx,
#endif
    };
    *n = (int)SL_ARRAY_LEN(rows);
    return rows;
}

/* ---- one call -------------------------------------------------------------------------------- */

struct call {
    const struct sl_mm_kernels *k;
    struct sl_pool *pool;
    const struct sl_product *p;
    int n_products;
    struct sl_mm_act act;
    struct sl_mm_tiles tiles[MAX_PRODUCTS];
    int64_t n_tiles;      /* of all products */
    const int32_t *order; /* of the input, or NULL: act-order */
    int quantize;         /* the threads quantize the input first */
};

static int is_float(const struct sl_product *p)
{
    return sl_mm_is_float(sl_mm_format(p->w->layout)->codes);
}

/* Cuts the scratch into the arrays of act. */
static void lay_out(struct sl_mm_act *act, struct sl_scratch *scratch)
{
    size_t items = (size_t)act->n * (size_t)act->groups;
    size_t words = (items * 4 + 63) & ~(size_t)63;
    uint8_t *at = sl_scratch_get(scratch, items * SL_MM_Q_BYTES + 5 * words + SL_MM_Q_SLACK);
    SL_ASSERT(at != NULL);
    act->q = (int8_t *)at;
    at += items * SL_MM_Q_BYTES;
    act->scale = (float *)at;
    act->sum = (float *)(at + words);
    act->neg = (int32_t *)(at + 2 * words);
    act->neg16 = (int32_t *)(at + 3 * words);
}

/* Groups [from, to) of a row whose elements must first be brought into order, or whose last group
 * is not full. */
static void quantize_gathered(const struct call *c, const float *x, int row, int64_t from,
                              int64_t to)
{
    enum { AT_ONCE = 16 }; /* groups */
    _Alignas(64) float v[AT_ONCE * SL_MM_GROUP];
    for (; from < to; from += AT_ONCE) {
        int64_t end = SL_MIN(to, from + AT_ONCE), k0 = from * SL_MM_GROUP;
        int64_t n = SL_MIN(end * SL_MM_GROUP, c->act.cols) - k0;
        for (int64_t i = 0; i < n; i++) v[i] = x[c->order ? c->order[k0 + i] : k0 + i];
        for (int64_t i = n; i < (end - from) * SL_MM_GROUP; i++) v[i] = 0;
        c->k->quantize(&c->act, v, row, from, end);
    }
}

/* Items [from, to) of all (row, group) pairs. */
static void quantize(const struct call *c, int64_t from, int64_t to)
{
    int64_t groups = c->act.groups, full = c->order ? 0 : c->act.cols / SL_MM_GROUP;
    while (from < to) {
        int64_t row = from / groups, first = from % groups;
        int64_t end = SL_MIN(groups, first + to - from), plain = SL_MAX(first, SL_MIN(end, full));
        const float *x = c->act.x + row * c->act.cols;
        if (first < plain) c->k->quantize(&c->act, x + first * SL_MM_GROUP, (int)row, first, plain);
        quantize_gathered(c, x, (int)row, plain, end);
        from += end - first;
    }
}

/* One row of one tile: sum[16] to out[lanes]. */
static void finish_row(const float *restrict sum, const float *bias, int flags, int lanes,
                       float *restrict out)
{
    if (!bias && !(flags & SL_MATMUL_ADD) && lanes == SL_MM_LANES) {
        memcpy(out, sum, SL_MM_LANES * sizeof *out);
        return;
    }
    float v[SL_MM_LANES];
    memcpy(v, sum, sizeof v);
    for (int i = 0; bias && i < lanes; i++) v[i] += bias[i];
    if (lanes == SL_MM_LANES && flags & SL_MATMUL_ADD)
        for (int i = 0; i < SL_MM_LANES; i++) out[i] += v[i];
    else
        for (int i = 0; i < lanes; i++) out[i] = flags & SL_MATMUL_ADD ? out[i] + v[i] : v[i];
}

/* Writes the sums of neighbouring tiles, acc[tile][row][16], to the outputs. */
static void finish(const struct sl_product *p, int64_t tile, int tiles, int row, int rows,
                   const float *acc)
{
    int64_t n_out = p->w->rows;
    for (int r = 0; r < rows; r++)
        for (int t = 0; t < tiles; t++) {
            int64_t first = (tile + t) * SL_MM_LANES;
            finish_row(acc + t * SL_MM_ACC + r * SL_MM_LANES, p->bias ? p->bias + first : NULL,
                       p->flags, (int)SL_MIN((int64_t)SL_MM_LANES, n_out - first),
                       p->out + (row + r) * n_out + first);
        }
}

/* The scale of a whole matrix multiplies its sums. */
static void apply_factor(float factor, int tiles, int rows, float *acc)
{
    for (int t = 0; t < tiles; t++)
        for (int i = 0; i < rows * SL_MM_LANES; i++) acc[t * SL_MM_ACC + i] *= factor;
}

/* Asks for the outputs before the sums are made: rows lie far apart, and the writes would wait for
 * them. */
static void prefetch_out(const struct sl_product *p, int64_t tile, int tiles, int row, int rows)
{
    const float *out = p->out + row * p->w->rows + tile * SL_MM_LANES;
    for (int r = 0; r < rows; r++, out += p->w->rows)
        for (int t = 0; t < tiles; t++) __builtin_prefetch(out + t * SL_MM_LANES, 1);
}

/* Units [from, to) of all (chunk, tile) pairs, tiles running fastest. */
static void multiply(const struct call *c, int64_t from, int64_t to)
{
    _Alignas(1024) float acc[SL_MM_SPAN * SL_MM_ACC];
    while (from < to) {
        int row = (int)(from / c->n_tiles) * SL_MM_CHUNK;
        int rows = SL_MIN(SL_MM_CHUNK, c->act.n - row), i = 0;
        int64_t tile = from % c->n_tiles;
        while (tile >= c->tiles[i].n) tile -= c->tiles[i++].n;
        const struct sl_mm_tiles *t = &c->tiles[i];
        struct sl_mm_span w = {.codes = t->data + (size_t)tile * t->bytes, .stride = t->bytes};
        w.scales = w.codes + t->scales_at;
        w.tiles = (int)SL_MIN(SL_MIN((int64_t)SL_MM_SPAN, t->n - tile), to - from);
        prefetch_out(&c->p[i], tile, w.tiles, row, rows);
        c->k->tile[c->p[i].w->layout](&w, &c->act, row, rows, acc);
        if (c->p[i].w->m.factor != 1) apply_factor(c->p[i].w->m.factor, w.tiles, rows, acc);
        finish(&c->p[i], tile, w.tiles, row, rows, acc);
        from += w.tiles;
    }
}

static void work(void *arg, int thread, int n_threads)
{
    const struct call *c = arg;
    int64_t from, to;
    if (c->quantize) {
        sl_pool_share(c->act.n * c->act.groups, 8, thread, n_threads, &from, &to);
        quantize(c, from, to);
        sl_pool_barrier(c->pool, thread);
    }
    int64_t chunks = (c->act.n + SL_MM_CHUNK - 1) / SL_MM_CHUNK;
    sl_pool_share(chunks * c->n_tiles, 1, thread, n_threads, &from, &to);
    multiply(c, from, to);
}

static void run(const struct sl_mm_kernels *k, struct sl_pool *pool, struct sl_scratch *scratch,
                const float *x, int n, const struct sl_product *p, int n_products)
{
    struct call c = {.k = k, .pool = pool, .p = p, .n_products = n_products};
    int64_t cols = p[0].w->cols, groups = (cols + SL_MM_GROUP - 1) / SL_MM_GROUP;
    c.act = (struct sl_mm_act){.x = x, .cols = cols, .groups = groups, .n = n};
    c.order = p[0].w->m.order;
    int floats = 0;
    for (int i = 0; i < n_products; i++) {
        SL_ASSERT(p[i].w->packed && p[i].w->cols == c.act.cols);
        sl_mm_tiles(p[i].w, &c.tiles[i]);
        c.n_tiles += c.tiles[i].n;
        floats += is_float(&p[i]);
    }
    if (floats < n_products) {
        lay_out(&c.act, scratch);
        c.quantize = n * c.act.cols > QUANTIZE_ALONE && sl_pool_size(pool) > 1;
        if (!c.quantize) quantize(&c, 0, n * c.act.groups);
    }
    sl_pool_run(pool, work, &c);
}

/* Products that see the input in different orders are calls of their own. */
void sl_mm_run(const struct sl_mm_kernels *k, struct sl_pool *pool, struct sl_scratch *scratch,
               const float *x, int n, const struct sl_product *p, int n_products)
{
    SL_ASSERT(n >= 0 && n_products >= 0 && n_products <= MAX_PRODUCTS);
    while (n > 0 && n_products > 0) {
        int same = 1;
        while (same < n_products && p[same].w->m.order == p[0].w->m.order) same++;
        run(k, pool, scratch, x, n, p, same);
        p += same;
        n_products -= same;
    }
}
