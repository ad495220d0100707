/* matmul_pack.c - turns a matrix of the file into tiles (layouts: matmul.h).
 *
 * Nothing is requantized: codes are moved, scales are moved or, for the K formats, unpacked from
 * six bits to a byte. A matrix whose scales no layout can hold (groups of 48, act-order of floats)
 * becomes F32: right, but as large as that. */
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "kernels/cpu/matmul_pack.h"

/* How a matrix is packed. */
struct plan {
    int layout;
    int wide;             /* decoded to F32 first, in input order and with its factor */
    enum sl_dtype scales; /* of kinds S and SZ: their type, and the k that share one */
    int64_t block;
};

/* ---- sizes ----------------------------------------------------------------------------------- */

static void shape(const struct plan *p, int64_t rows, int64_t cols, struct sl_mm_tiles *t)
{
    const struct sl_mm_format *f = sl_mm_format(p->layout);
    int64_t k = sl_mm_code_k(f->codes), pieces = (cols + k - 1) / k;
    size_t bytes = (size_t)sl_mm_code_bytes(f->codes);
    if (sl_mm_is_float(f->codes)) bytes *= SL_MM_LANES;
    t->n = (rows + SL_MM_LANES - 1) / SL_MM_LANES;
    t->scales_at = ((size_t)pieces * bytes + 63) & ~(size_t)63;
    t->bytes = t->scales_at + sl_mm_scale_bytes(f->scales, cols, p->scales, p->block);
    t->bytes = (t->bytes + 63) & ~(size_t)63;
}

void sl_mm_tiles(const struct sl_weight *w, struct sl_mm_tiles *t)
{
    const struct plan p = {w->layout, 0, w->m.scale_type, w->m.scale_cols};
    shape(&p, w->rows, w->cols, t);
    t->data = w->packed;
}

/* ---- which layout ---------------------------------------------------------------------------- */

static int plain_layout(enum sl_dtype type)
{
    switch (type) {
#define X(name)                                                                                    \
    case SL_##name:                                                                                \
        return SL_TILE_##name;
        X(F32)
        X(F16)
        X(BF16) X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K)
            X(IQ4_NL) X(IQ4_XS) X(MXFP4) X(NVFP4)
#undef X
                default : return -1;
    }
}

/* All zero points are `zero`. */
static int zeros_are(const struct sl_matrix *m, uint8_t zero)
{
    int64_t per_row = sl_matrix_scales_per_row(m);
    for (int64_t r = 0; m->zeros && r < m->rows; r++) {
        const uint8_t *z = m->zeros + sl_matrix_stored_row(m, r) / m->scale_rows * per_row;
        for (int64_t i = 0; i < per_row; i++)
            if (z[i] != zero) return 0;
    }
    return m->zeros != NULL;
}

/* The layout of a planar format whose scales lie in a table of kind S or SZ. */
static int table_layout(const struct sl_matrix *m)
{
    switch (m->type) {
    case SL_F8_E4M3:
        return SL_TILE_E4M3;
    case SL_F8_E5M2:
        return SL_TILE_E5M2;
    case SL_CB4:
        return SL_TILE_CB4;
    case SL_F4:
        return SL_TILE_F4;
    case SL_I8:
        return SL_TILE_I8;
    case SL_U4:
        return zeros_are(m, 8) ? SL_TILE_I4 : SL_TILE_U4;
    case SL_U8:
        return zeros_are(m, 128) ? SL_TILE_I8 : SL_TILE_U8;
    default:
        return -1;
    }
}

/* Whether a layout of kind S can have a scale every `block` k. */
static int block_fits(enum sl_mm_codes codes, int64_t block)
{
    if (sl_mm_is_float(codes)) return block % SL_MM_SMALL_K == 0;
    return block >= SL_MM_GROUP && (block & (block - 1)) == 0;
}

static struct plan plan_table(const struct sl_matrix *m)
{
    const struct plan wide = {.layout = SL_TILE_F32, .wide = 1, .block = 1};
    struct plan p = {.layout = table_layout(m), .block = m->scale_cols};
    if (p.layout < 0) return wide;
    const struct sl_mm_format *f = sl_mm_format(p.layout);
    int is_float = sl_mm_is_float(f->codes), has_zeros = m->type == SL_U4 || m->type == SL_U8;
    if ((is_float && m->order) || (m->zeros && !has_zeros)) return wide;
    if (m->scale_cols >= m->cols) { /* one for the row; a power of two of groups */
        p.block = SL_MM_GROUP;
        while (p.block < m->cols) p.block *= 2;
    }
    if (!block_fits(f->codes, p.block)) return wide;
    int narrow = m->scales && !is_float && m->type != SL_F4 &&
                 (m->scale_type == SL_F16 || m->scale_type == SL_BF16);
    p.scales = narrow ? m->scale_type : SL_F32;
    return p;
}

static struct plan plan_of(const struct sl_matrix *m)
{
    enum sl_dtype_kind kind = sl_dtype_kind(m->type);
    if (kind == SL_KIND_FLOAT && m->order)
        return (struct plan){.layout = SL_TILE_F32, .wide = 1, .block = 1};
    if (kind != SL_KIND_PLANAR) return (struct plan){.layout = plain_layout(m->type), .block = 1};
    if (m->type == SL_F4 && m->scales && !m->zeros) {
        if (m->scale_type == SL_E8M0 && m->scale_cols == 32)
            return (struct plan){.layout = SL_TILE_MXFP4, .block = 1};
        if (m->scale_type == SL_F8_E4M3 && m->scale_cols == 16)
            return (struct plan){.layout = SL_TILE_NVFP4, .block = 1};
    }
    return plan_table(m);
}

/* ---- load ------------------------------------------------------------------------------------ */

static int check(const struct sl_matrix *m, struct sl_err *err)
{
    const char *name = sl_dtype_name(m->type);
    int nvfp4 = m->type == SL_F4 && m->scales && m->scale_type == SL_F8_E4M3;
    int64_t unit = nvfp4 ? m->scale_cols : sl_dtype_block(m->type);
    if (sl_dtype_kind(m->type) == SL_KIND_STORAGE)
        return sl_err_set(err, SL_EUNSUPPORTED, "no kernel for %s matrices", name);
    if (m->scale_rows < 1 || m->scale_cols < 1)
        return sl_err_set(err, SL_EINPUT, "a %s matrix with a scale for %lld x %lld elements", name,
                          (long long)m->scale_rows, (long long)m->scale_cols);
    if (m->rows < 1 || m->cols < 1 || m->cols % unit != 0)
        return sl_err_set(err, SL_EINPUT,
                          "a %s matrix of %lld x %lld: both sizes must be positive and the second "
                          "a multiple of %lld; the model file is damaged",
                          nvfp4 ? "NVFP4" : name, (long long)m->rows, (long long)m->cols,
                          (long long)unit);
    for (int64_t k = 0; m->order && k < m->cols; k++)
        if (m->order[k] < 0 || m->order[k] >= m->cols)
            return sl_err_set(err, SL_EINPUT,
                              "a %s matrix whose column %lld belongs to input %d of %lld; the "
                              "model file is damaged",
                              name, (long long)k, m->order[k], (long long)m->cols);
    return 0;
}

/* All rows of m into tiles at `packed`. */
static void pack(const struct sl_matrix *m, const struct plan *p, const struct sl_mm_tiles *t,
                 uint8_t *packed)
{
    for (int64_t r = 0; r < m->rows; r++) {
        uint8_t *tile = packed + (size_t)(r / SL_MM_LANES) * t->bytes;
        int lane = (int)(r % SL_MM_LANES);
        sl_mm_put_codes(m, p->layout, r, lane, tile);
        sl_mm_put_scales(m, p->layout, p->scales, p->block, r, lane, tile + t->scales_at);
    }
}

/* The same through F32; `row` holds one row. */
static void pack_wide(const struct sl_matrix *m, const struct sl_mm_tiles *t, float *row,
                      uint8_t *packed)
{
    const struct sl_matrix one = sl_matrix_plain(SL_F32, 1, m->cols, row);
    for (int64_t r = 0; r < m->rows; r++) {
        sl_matrix_row(m, r, row);
        sl_mm_put_codes(&one, SL_TILE_F32, 0, (int)(r % SL_MM_LANES),
                        packed + (size_t)(r / SL_MM_LANES) * t->bytes);
    }
}

int sl_mm_load(const struct sl_matrix *m, struct sl_weight *w, struct sl_err *err)
{
    int rc = check(m, err);
    if (rc) return rc;
    const struct plan p = plan_of(m);
    struct sl_mm_tiles t;
    shape(&p, m->rows, m->cols, &t);
    int with_order = m->order && !p.wide;
    size_t tiles = (size_t)t.n * t.bytes, order = with_order ? (size_t)m->cols * 4 : 0;
    float *row = p.wide ? calloc((size_t)m->cols, sizeof *row) : NULL;
    uint8_t *packed = p.wide && !row ? NULL : sl_mm_memory_get(tiles + order);
    if (!packed) {
        free(row);
        return sl_err_set(err, SL_ENOMEM,
                          "no memory for %zu bytes of weights: give this stage fewer layers or the "
                          "host more memory",
                          tiles + order);
    }
    if (p.wide)
        pack_wide(m, &t, row, packed);
    else
        pack(m, &p, &t, packed);
    free(row);
    *w = (struct sl_weight){.rows = m->rows,
                            .cols = m->cols,
                            .m = sl_matrix_plain(m->type, m->rows, m->cols, NULL),
                            .packed = packed,
                            .packed_bytes = tiles + order,
                            .layout = p.layout};
    w->m.scale_type = p.scales;
    w->m.scale_cols = p.block;
    if (!p.wide) w->m.factor = m->factor;
    if (with_order) w->m.order = memcpy(packed + tiles, m->order, order);
    return 0;
}

void sl_mm_unload(struct sl_weight *w)
{
    sl_mm_memory_put(w->packed);
    *w = (struct sl_weight){0};
}
