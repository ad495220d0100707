/* matmul.c - products of activations with packed weights: the rows there are, formats, and the work
 * of one call.
 *
 * A call takes several matrices that share rows of one input (q, k, v; gate, up) or divide them
 * among themselves (experts, heads), so a thread pool is woken once for all of them. Units of work
 * are (item, chunk of its activation rows, tile of 16 output rows); each thread has one contiguous
 * run of them, always the same for the same shapes. The kernels proper know only one tile and one
 * chunk (matmul.h). */
#include "kernels/cpu/matmul.h"

#include <string.h>

#include "base/cpu.h"
#include "base/sl_assert.h"

#define MAX_PRODUCTS 4
#define UNIT_COST 8 /* of a unit besides its rows, in rows: reading and decoding the tile */
/* From this many rows on, groups lie an odd number of rows apart: at a power of two they would
 * compete for the same few places in the caches. */
#define ODD_ROWS 64
/* Bytes of a chunk's packed activations: they stay in a second-level cache of 2 MB. */
#define CHUNK_BYTES (1 << 20)
#define INT_BYTES 2       /* of an activation as an integer */
#define PLANE_BYTES 4     /* as planes */
#define CHUNK_ROWS_MIN 32 /* fewer would decode the weights too often */
/* Below this many values the caller prepares them alone: waking the others costs more than it
 * saves. */
#define PREPARE_ALONE 4096

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
    const struct sl_mm_item *items;
    int n_items;
    struct sl_mm_act act;
    int rows;             /* of the input */
    int64_t cost;         /* of all units */
    int chunk;            /* activation rows that a tile meets at once */
    const int32_t *order; /* of the input, or NULL: act-order */
    int ints, planes;     /* forms of the input that some item wants */
    int prepare;          /* the threads bring the input into these forms first */
};

/* What an item wants of the input besides the floats. */
static void add_form(struct call *c, const struct sl_weight *w)
{
    const struct sl_mm_format *f = sl_mm_format(w->layout);
    if (!sl_mm_is_float(f->codes))
        c->ints = 1;
    else if (c->k->split && sl_mm_takes_planes(f->codes, f->scales, w->m.scale_cols))
        c->planes = 1;
}

/* Cuts the scratch into the arrays of act. */
static void lay_out(struct call *c, struct sl_scratch *scratch)
{
    struct sl_mm_act *act = &c->act;
    size_t items = (size_t)act->n * (size_t)act->groups;
    size_t words = (items * 4 + 63) & ~(size_t)63;
    size_t planes = c->planes ? items * SL_MM_P_BYTES + SL_MM_P_SLACK : 0;
    size_t ints = c->ints ? items * SL_MM_Q_BYTES + 5 * words + SL_MM_Q_SLACK : 0;
    planes = (planes + 63) & ~(size_t)63;
    uint8_t *at = sl_scratch_get(scratch, planes + ints);
    SL_ASSERT(at != NULL);
    act->planes = (uint16_t *)(void *)at;
    at += planes;
    act->q = (int8_t *)at;
    at += items * SL_MM_Q_BYTES;
    act->scale = (float *)at;
    act->sum = (float *)(at + words);
    act->neg = (int32_t *)(at + 2 * words);
    act->neg16 = (int32_t *)(at + 3 * words);
}

/* Groups [from, to) of a row from their elements x. */
static void prepare_groups(const struct call *c, const float *x, int row, int64_t from, int64_t to)
{
    if (c->ints) c->k->quantize(&c->act, x, row, from, to);
    if (c->planes) c->k->split(&c->act, x, row, from, to);
}

/* The same where elements must first be brought into order, or where the last group is not full. */
static void prepare_gathered(const struct call *c, const float *x, int row, int64_t from,
                             int64_t to)
{
    enum { AT_ONCE = 16 }; /* groups */
    _Alignas(64) float v[AT_ONCE * SL_MM_GROUP];
    for (; from < to; from += AT_ONCE) {
        int64_t end = SL_MIN(to, from + AT_ONCE), k0 = from * SL_MM_GROUP;
        int64_t n = SL_MIN(end * SL_MM_GROUP, c->act.cols) - k0;
        for (int64_t i = 0; i < n; i++) v[i] = x[c->order ? c->order[k0 + i] : k0 + i];
        for (int64_t i = n; i < (end - from) * SL_MM_GROUP; i++) v[i] = 0;
        prepare_groups(c, v, row, from, end);
    }
}

/* Items [from, to) of all (row, group) pairs. */
static void prepare(const struct call *c, int64_t from, int64_t to)
{
    int64_t groups = c->act.groups, full = c->order ? 0 : c->act.cols / SL_MM_GROUP;
    while (from < to) {
        int64_t row = from / groups, first = from % groups;
        int64_t end = SL_MIN(groups, first + to - from), plain = SL_MAX(first, SL_MIN(end, full));
        const float *x = c->act.x + row * c->act.cols;
        if (first < plain) prepare_groups(c, x + first * SL_MM_GROUP, (int)row, first, plain);
        prepare_gathered(c, x, (int)row, plain, end);
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

/* Writes the sums of neighbouring tiles, acc[tile][row][16], to the outputs of the item's rows from
 * `row` on. */
static void finish(const struct sl_mm_item *it, int64_t tile, int tiles, int row, int rows,
                   const float *acc)
{
    const struct sl_product *p = &it->p;
    for (int r = 0; r < rows; r++)
        for (int t = 0; t < tiles; t++) {
            int64_t first = (tile + t) * SL_MM_LANES;
            finish_row(acc + t * SL_MM_ACC + r * SL_MM_LANES, p->bias ? p->bias + first : NULL,
                       p->flags, (int)SL_MIN((int64_t)SL_MM_LANES, p->w->rows - first),
                       p->out + (row + r) * it->out_stride + first);
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
static void prefetch_out(const struct sl_mm_item *it, int64_t tile, int tiles, int row, int rows)
{
    const float *out = it->p.out + row * it->out_stride + tile * SL_MM_LANES;
    for (int r = 0; r < rows; r++, out += it->out_stride)
        for (int t = 0; t < tiles; t++) __builtin_prefetch(out + t * SL_MM_LANES, 1);
}

/* Units of one item: chunks of rows, of each all tiles. */
static int64_t units_of(const struct call *c, const struct sl_mm_item *it,
                        const struct sl_mm_tiles *t)
{
    return (it->rows + c->chunk - 1) / c->chunk * t->n;
}

/* Units [from, to) of one item. */
static void multiply(const struct call *c, const struct sl_mm_item *it, const struct sl_mm_tiles *t,
                     int64_t from, int64_t to)
{
    _Alignas(1024) float acc[SL_MM_SPAN * SL_MM_ACC];
    const struct sl_weight *weight = it->p.w;
    while (from < to) {
        int64_t tile = from % t->n;
        int row = (int)(from / t->n) * c->chunk, rows = SL_MIN(c->chunk, it->rows - row);
        struct sl_mm_span w = {.codes = t->data + (size_t)tile * t->bytes, .stride = t->bytes};
        w.scales = w.codes + t->scales_at;
        w.tiles = (int)SL_MIN(SL_MIN((int64_t)SL_MM_SPAN, t->n - tile), to - from);
        prefetch_out(it, tile, w.tiles, row, rows);
        c->k->tile[weight->layout](&w, &c->act, it->row + row, rows, acc);
        if (weight->m.factor != 1) apply_factor(weight->m.factor, w.tiles, rows, acc);
        finish(it, tile, w.tiles, row, rows, acc);
        from += w.tiles;
    }
}

/* What the units of an item cost, tiles of full chunks and of the rest, in rows. */
static int64_t cost_of(const struct call *c, const struct sl_mm_item *it,
                       const struct sl_mm_tiles *t)
{
    int64_t full = it->rows / c->chunk, rest = it->rows % c->chunk;
    return t->n * (full * (c->chunk + UNIT_COST) + (rest ? rest + UNIT_COST : 0));
}

/* The first unit of an item that begins at this cost or later. */
static int64_t unit_at(const struct call *c, const struct sl_mm_item *it,
                       const struct sl_mm_tiles *t, int64_t cost)
{
    int64_t full = it->rows / c->chunk * t->n, each = c->chunk + UNIT_COST;
    if (cost <= 0) return 0;
    if (cost <= full * each) return (cost + each - 1) / each;
    cost -= full * each;
    each = it->rows % c->chunk + UNIT_COST;
    return SL_MIN(full + (cost + each - 1) / each, units_of(c, it, t));
}

/* A thread's part of all units: an even part of their cost. */
static void multiply_share(const struct call *c, int thread, int n_threads)
{
    int64_t from = c->cost * thread / n_threads, to = c->cost * (thread + 1) / n_threads;
    for (const struct sl_mm_item *it = c->items; it < c->items + c->n_items && to > 0; it++) {
        struct sl_mm_tiles t;
        sl_mm_tiles(it->p.w, &t);
        int64_t cost = cost_of(c, it, &t);
        if (from < cost) multiply(c, it, &t, unit_at(c, it, &t, from), unit_at(c, it, &t, to));
        from -= cost;
        to -= cost;
    }
}

static void work(void *arg, int thread, int n_threads)
{
    const struct call *c = arg;
    if (c->prepare) {
        int64_t from, to;
        sl_pool_share(c->rows * c->act.groups, 8, thread, n_threads, &from, &to);
        prepare(c, from, to);
        sl_pool_barrier(c->pool, thread);
    }
    multiply_share(c, thread, n_threads);
}

/* Items that see the input in one order. */
static void run(const struct sl_mm_kernels *k, struct sl_pool *pool, struct sl_scratch *scratch,
                const float *x, int n, const struct sl_mm_item *items, int n_items)
{
    struct call c = {.k = k, .pool = pool, .items = items, .n_items = n_items};
    int64_t cols = items[0].p.w->cols, groups = (cols + SL_MM_GROUP - 1) / SL_MM_GROUP;
    c.act =
        (struct sl_mm_act){.x = x, .cols = cols, .groups = groups, .n = n < ODD_ROWS ? n : n | 1};
    c.rows = n;
    c.order = items[0].p.w->m.order;
    for (int i = 0; i < n_items; i++) add_form(&c, items[i].p.w);
    int64_t bytes = cols * (c.planes ? PLANE_BYTES : INT_BYTES);
    c.chunk = (int)SL_MIN((int64_t)SL_MM_CHUNK, CHUNK_BYTES / bytes / 16 * 16);
    c.chunk = SL_MAX(c.chunk, CHUNK_ROWS_MIN);
    for (const struct sl_mm_item *it = items; it < items + n_items; it++) {
        struct sl_mm_tiles t;
        SL_ASSERT(it->p.w->packed && it->p.w->cols == cols);
        SL_ASSERT(it->row >= 0 && it->rows >= 0 && it->row + it->rows <= n);
        sl_mm_tiles(it->p.w, &t);
        c.cost += cost_of(&c, it, &t);
    }
    if (c.ints || c.planes) {
        lay_out(&c, scratch);
        c.prepare = n * c.act.cols > PREPARE_ALONE && sl_pool_size(pool) > 1;
        if (!c.prepare) prepare(&c, 0, n * c.act.groups);
    }
    sl_pool_run(pool, work, &c);
}

/* Items that see the input in different orders are calls of their own, each over its own rows. */
static void run_apart(const struct sl_mm_kernels *k, struct sl_pool *pool,
                      struct sl_scratch *scratch, const float *x, const struct sl_mm_item *items,
                      int n_items)
{
    for (struct sl_mm_item it; n_items > 0; items++, n_items--) {
        it = *items;
        it.row = 0;
        if (it.rows > 0) run(k, pool, scratch, x + items->row * it.p.w->cols, it.rows, &it, 1);
    }
}

void sl_mm_run_items(const struct sl_mm_kernels *k, struct sl_pool *pool,
                     struct sl_scratch *scratch, const float *x, int n,
                     const struct sl_mm_item *items, int n_items)
{
    if (n <= 0 || n_items <= 0) return;
    int same = 1;
    while (same < n_items && items[same].p.w->m.order == items[0].p.w->m.order) same++;
    if (same == n_items)
        run(k, pool, scratch, x, n, items, n_items);
    else
        run_apart(k, pool, scratch, x, items, n_items);
}

void sl_mm_run(const struct sl_mm_kernels *k, struct sl_pool *pool, struct sl_scratch *scratch,
               const float *x, int n, const struct sl_product *p, int n_products)
{
    struct sl_mm_item items[MAX_PRODUCTS];
    SL_ASSERT(n >= 0 && n_products >= 0 && n_products <= MAX_PRODUCTS);
    for (int i = 0; i < n_products; i++)
        items[i] = (struct sl_mm_item){p[i], .rows = n, .out_stride = p[i].w->rows};
    sl_mm_run_items(k, pool, scratch, x, n, items, n_products);
}
