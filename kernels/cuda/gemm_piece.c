/* gemm_piece.c - which way a product of many rows goes, and the sums of one piece of it.
 *
 *   row    E4M3 weights with factors per row: rows quantized per row, one FP8 product
 *   after  the same where cuBLASLt has no scales per row: raw sums to scratch, then one pass
 *   block  E4M3 weights in blocks of 128 x 128: rows quantized per 128 columns, one FP8 product
 *   mx     MXFP4 and MXFP8 weights on Blackwell: rows to MXFP8, one block-scaled product
 *   nv     NVFP4 weights on Blackwell: rows to NVFP4, as their checkpoints are calibrated for
 *   stored weights that are halfs, where a pass over the sums costs less than one over the weight:
 *          multiplied as they lie, factors of rows afterwards
 *   half   everything else: tiles of the weight decoded to halfs, one product of halfs each
 *   plain  F32 weights, enormously wide ones, and what cuBLASLt refuses
 *
 * Whatever can be a factor of the whole product is one (alpha), what can be a scale of a row goes
 * into the product, so that sums reach `out` in one pass, residual included. Scratch is a fixed
 * budget; what does not fit goes in pieces of rows of the weight, or of activations. */
#include "kernels/cuda/gemm_run.h"

#include "base/sl_assert.h"
#include "kernels/cuda/gemm.h"

/* Bytes of scratch. Sums are written and read again at once: what stays below the L2 cache (50 to
 * 128 MiB) hardly reaches memory. Tiles are large because a product of few rows needs many of the
 * weight's to keep all multiprocessors busy. */
#define ROWS_BYTES ((size_t)64 << 20)
#define TILE_BYTES ((size_t)64 << 20)
#define SCALES_BYTES ((size_t)6 << 20)
#define LEVEL_BYTES ((size_t)4096)
#define ROWS_MAX                                                                                   \
    16384              /* activations taken at once: SCALES_BYTES and the smallest piece suffice   \
                        */
#define PIECE 128      /* pieces of a weight are whole blocks of its rows */
#define COLS_MAX 65536 /* columns up to which the smallest piece fits the scratch */
#define PIECE_MAX 8192 /* rows of a weight in one product; cuBLASLt loses time on taller ones */

size_t sl_cuda_gemm_scratch(const struct sl_backend_limits *l)
{
    (void)l; /* a budget, not a need: pieces get smaller */
    return ROWS_BYTES + TILE_BYTES + SL_GEMM_SUMS_BYTES + SL_GEMM_GRID_BYTES + SCALES_BYTES +
           LEVEL_BYTES;
}

struct sl_gemm_run sl_gemm_run_of(struct sl_cuda *c, const void *x, int n, int64_t cols)
{
    SL_ASSERT(c->scratch_bytes >= sl_cuda_gemm_scratch(NULL));
    struct sl_gemm_run r = {.c = c, .n = n, .n_padded = (int)sl_gemm_round_up(n, 8), .cols = cols};
    r.x = (char *)(uintptr_t)x; /* levelling writes to it */
    r.rows = c->scratch;
    r.tile = r.rows + ROWS_BYTES;
    r.tile_bytes = TILE_BYTES;
    r.sums = r.tile + TILE_BYTES;
    r.grid = (float *)(void *)(r.sums + SL_GEMM_SUMS_BYTES);
    r.scales = r.grid + SL_GEMM_GRID_BYTES / 4;
    r.level = (struct sl_cuda_level *)(void *)(r.scales + SCALES_BYTES / 4);
    return r;
}

struct sl_gemm_run sl_gemm_wide(const struct sl_gemm_run *r)
{
    struct sl_gemm_run wide = *r;
    wide.tile = r->rows; /* the tile's own part follows */
    wide.tile_bytes += ROWS_BYTES;
    return wide;
}

int sl_gemm_rows_at_once(int n, int64_t bytes)
{
    int64_t most = (int64_t)ROWS_BYTES / bytes / PIECE * PIECE;
    SL_ASSERT(most > 0);
    if (most > ROWS_MAX) most = ROWS_MAX;
    return n < most ? n : (int)most;
}

size_t sl_gemm_grid_bytes(const struct sl_cuda_weight *w)
{
    return (size_t)((w->rows + 127) / 128 * sl_gemm_round_up((w->cols + 127) / 128, 4)) * 4;
}

enum sl_gemm_path sl_gemm_path_of(const struct sl_cuda *c, const struct sl_cuda_weight *w, int n,
                                  int unit)
{
    enum sl_lt_sums sums = unit ? SL_LT_F16 : SL_LT_F32;
    if (w->code_kind == SL_CUDA_F32 || w->cols > COLS_MAX || !c->lt) return SL_PATH_PLAIN;
    int fp8 = w->code_kind == SL_CUDA_E4M3 && w->min_kind == SL_CUDA_MIN_NONE && w->offset == 0 &&
              !w->order && w->rows % 16 == 0;
    if (fp8 && w->scale_kind == SL_CUDA_SCALE_NONE) {
        if (sl_lt_can(c->lt, SL_LT_FP8_OUTER, sums)) return SL_PATH_ROW;
        if (!unit && sl_lt_can(c->lt, SL_LT_FP8, 0)) return SL_PATH_AFTER;
    }
    if (fp8 && w->scale_kind == SL_CUDA_SCALE_GRID && w->grid_rows == SL_FP8_BLOCK &&
        w->grid_cols == SL_FP8_BLOCK && sl_gemm_grid_bytes(w) <= SL_GEMM_GRID_BYTES &&
        sl_lt_can(c->lt, SL_LT_FP8_BLOCK, sums))
        return SL_PATH_BLOCK;
    int mx = w->scale_kind == SL_CUDA_SCALE_E8M0 && w->group == 32 &&
             (w->code_kind == SL_CUDA_E2M1 || w->code_kind == SL_CUDA_E4M3);
    int nv = w->scale_kind == SL_CUDA_SCALE_UE4M3 && w->group == 16 && w->code_kind == SL_CUDA_E2M1;
    if (!w->order && w->min_kind == SL_CUDA_MIN_NONE && w->offset == 0 && w->rows % 32 == 0) {
        if (mx && sl_lt_can(c->lt, SL_LT_MXFP8, sums)) return SL_PATH_MX;
        if (nv && sl_lt_can(c->lt, SL_LT_NVFP4, sums)) return SL_PATH_NV;
    }
    if (!sl_lt_can(c->lt, SL_LT_HALF, sums)) return SL_PATH_PLAIN;
    /* Sums are written, read and written again, the last two past the cache: 8 to 12 bytes each; a
     * weight is read and written, 4 bytes. A gated unit passes over its sums anyway. */
    int stored = w->code_kind == SL_CUDA_F16 && !w->order && w->rows % 8 == 0 &&
                 w->scale_kind == SL_CUDA_SCALE_NONE && w->min_kind == SL_CUDA_MIN_NONE;
    return stored && (unit || 10 * (int64_t)n < 4 * (int64_t)w->cols) ? SL_PATH_STORED
                                                                      : SL_PATH_HALF;
}

/* ---- one piece ------------------------------------------------------------------------------- */

/* The product that makes rows [first, first + m) of w, without addresses of activations. */
static struct sl_lt_gemm gemm_of(const struct sl_gemm_run *r, const struct sl_cuda_weight *w,
                                 int first, int m, const struct sl_gemm_target *t)
{
    return (struct sl_lt_gemm){.m = m,
                               .n = r->n,
                               .k = w->cols_padded,
                               .a = (const char *)w->code + first * w->code_stride,
                               .a_stride = w->code_stride,
                               .b = r->rows,
                               .b_stride = w->cols_padded,
                               .b_scale = r->scales,
                               .d = t->d,
                               .d_stride = t->stride,
                               .sums = t->sums,
                               .add = t->add,

                               .alpha = t->sums == SL_LT_F16 ? sl_lt_glu_alpha(r->c->lt) : NULL};
}

static struct sl_lt_gemm stored_gemm(const struct sl_gemm_run *r, const struct sl_cuda_weight *w,
                                     const struct sl_cuda_level *level, int first, int m,
                                     const struct sl_gemm_target *t)
{
    struct sl_lt_gemm g = gemm_of(r, w, first, m, t);
    g.kind = SL_LT_HALF;
    g.a_stride = w->code_stride / 2;
    g.b = r->x + SL_CUDA_ROW_HEAD;
    g.b_stride = sl_cuda_row_stride(r->cols) / 2;
    g.alpha = t->sums == SL_LT_F16 ? &level->glu : &level->common;
    return g;
}

static struct sl_lt_gemm half_gemm(const struct sl_gemm_run *r, const struct sl_cuda_weight *w,
                                   const struct sl_cuda_level *level, int first, int m,
                                   const struct sl_gemm_target *t)
{
    struct sl_lt_gemm g = gemm_of(r, w, first, m, t);
    g.kind = SL_LT_HALF;
    g.m = sl_gemm_round_up(m, 8); /* sums of rows that are none stay in scratch */
    g.a = r->tile;
    g.a_stride = w->cols_padded;
    g.b = r->x + SL_CUDA_ROW_HEAD;
    g.b_stride = sl_cuda_row_stride(r->cols) / 2;
    g.alpha = t->sums == SL_LT_F16 ? &level->glu : &level->alpha;
    return g;
}

/* Block scales: rows are levelled, and factors of the weight's rows either are powers of two, which
 * go into E8M0 scales, or one for all (NVFP4). The weight's scales, and codes if they are not its
 * own, are made in the tile's scratch. */
static struct sl_lt_gemm scaled_gemm(const struct sl_gemm_run *r, enum sl_gemm_path path,
                                     const struct sl_cuda_weight *w,
                                     const struct sl_cuda_level *level, int first, int m,
                                     const struct sl_gemm_target *t)
{
    struct sl_lt_gemm g = gemm_of(r, w, first, m, t);
    int expand = w->code_kind == SL_CUDA_E2M1 && path == SL_PATH_MX;
    char *scales = r->tile + (expand ? sl_gemm_round_up(m * (int64_t)w->cols_padded, 512) : 0);
    sl_cuda_mx_weight(r->c, w, first, m, path == SL_PATH_MX ? &level->top : NULL,
                      expand ? r->tile : NULL, scales);
    g.a_scale = scales;
    if (expand) g.a = r->tile, g.a_stride = w->cols_padded;
    g.kind = path == SL_PATH_MX ? SL_LT_MXFP8 : SL_LT_NVFP4;
    if (path == SL_PATH_NV) {
        g.a_stride = 2 * w->code_stride; /* elements */
        g.alpha = t->sums == SL_LT_F16 ? &level->nv_glu : &level->nv;
    } else {
        g.alpha = t->sums == SL_LT_F16 ? &level->glu : &level->alpha;
    }
    return g;
}

int sl_gemm_multiply(const struct sl_gemm_run *r, enum sl_gemm_path path,
                     const struct sl_cuda_weight *w, const struct sl_cuda_level *level, int first,
                     int m, const struct sl_gemm_target *t)
{
    struct sl_lt_gemm g = gemm_of(r, w, first, m, t);
    switch (path) {
    case SL_PATH_ROW:
        g.kind = SL_LT_FP8_OUTER;
        g.a_scale = w->row + first;
        break;
    case SL_PATH_AFTER:
        g.kind = SL_LT_FP8;
        break;
    case SL_PATH_BLOCK:
        g.kind = SL_LT_FP8_BLOCK;
        g.n = r->n_padded;
        g.a_scale = r->grid + first / SL_FP8_BLOCK * sl_gemm_round_up((w->cols + 127) / 128, 4);
        break;
    case SL_PATH_STORED:
        g = stored_gemm(r, w, level, first, m, t);
        break;
    case SL_PATH_HALF:
        sl_cuda_decode_by(r->c, w, first, m, &level->top, r->tile);
        g = half_gemm(r, w, level, first, m, t);
        break;
    case SL_PATH_MX:
    case SL_PATH_NV:
        g = scaled_gemm(r, path, w, level, first, m, t);
        break;
    case SL_PATH_PLAIN:
        break;
    }
    if (path != SL_PATH_PLAIN && sl_lt_run(r->c, &g) == 0)
        return path == SL_PATH_AFTER || path == SL_PATH_STORED;
    struct sl_cuda_plain p = {.x = r->x,
                              .n = r->n,
                              .first = first,
                              .m = m,
                              .sums = t->sums,
                              .add = t->add,
                              .d = t->d,
                              .d_stride = t->stride};
    struct sl_cuda_weight as_stored = *w;
    if (path != SL_PATH_PLAIN) as_stored.order = NULL; /* the run's rows are in its order */
    sl_cuda_plain(r->c, &as_stored, &p);
    return 0;
}

/* Time of a product of m rows in quarters of a wave: so many tiles of 128 x 256 as there are
 * multiprocessors are multiplied at once, and a product's beginning and end cost about a quarter.
 */
static int64_t cost_of(const struct sl_gemm_run *r, int64_t m)
{
    int64_t tiles = (m + 127) / 128 * ((r->n + 255) / 256);
    return 4 * ((tiles + r->c->sms - 1) / r->c->sms) + 1;
}

/* Of all sizes that fit, the one whose pieces together take least. */
int sl_gemm_piece(const struct sl_gemm_run *r, enum sl_gemm_path path,
                  const struct sl_cuda_weight *w, int sum_bytes)
{
    int64_t most = PIECE_MAX, best = 0, least = INT64_MAX;
    if (path == SL_PATH_HALF) most = (int64_t)(r->tile_bytes / 2) / w->cols_padded;
    if (path == SL_PATH_MX || path == SL_PATH_NV) /* codes and scales, or scales: in whole tiles */
        most = (int64_t)r->tile_bytes / (2 * w->cols_padded);
    if (sum_bytes && most > (int64_t)SL_GEMM_SUMS_BYTES / sum_bytes / r->n_padded)
        most = (int64_t)SL_GEMM_SUMS_BYTES / sum_bytes / r->n_padded;
    most = most / PIECE * PIECE;
    SL_ASSERT(most > 0);
    if (most >= w->rows) return (int)sl_gemm_round_up(w->rows, PIECE);
    for (int64_t m = most; m > 0 && m >= most / 2; m -= PIECE) {
        int64_t whole = w->rows / m, rest = w->rows % m;
        int64_t cost = whole * cost_of(r, m) + (rest ? cost_of(r, rest) : 0);
        if (cost < least) least = cost, best = m;
    }
    return (int)best;
}

struct sl_gemm_run sl_gemm_in_order(const struct sl_gemm_run *r, const struct sl_cuda_weight *w,
                                    char *at)
{
    struct sl_gemm_run o = *r;
    sl_cuda_gather_rows(r->c, r->x, r->n, r->cols, w->order, at);
    o.x = at;
    return o;
}
