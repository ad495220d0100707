/* matmul_planes_amx.c - AMX BF16: tiles of F16, BF16, FP8 and 4-bit codebooks against activations
 * as planes.
 *
 * An activation is the sum of two BF16 numbers, and so is a weight that one cannot hold (F16
 * exactly, values of a codebook to 2^-16); the tile multiplier adds their products up in fp32, lo *
 * hi, hi * hi and hi * lo of a group of 32 k after the other. No vector instructions give the same
 * sums as cheaply, so all numbers of rows take this path: with few rows operands are low and cost
 * less. One row still reads BF16 and FP8 as fast as vectors do; F16 and codebooks, whose two planes
 * cost as much as the multiplier, at 0.6 of it, and break even at two rows.
 * What a row gets does not depend on the others: neither does hardware mix rows of operand A, nor
 * does the order here know their number. Sums that wait between parts keep all their bits.
 *
 * A part of a tile is decoded once for the rows of a chunk; BF16 lies in memory as operands
 * already. Where there are several scales to a row, the sum of a block of k is scaled and added to
 * the total in fp32. The multiplier neither rounds to subnormal numbers nor reads them (they are
 * zero), which weights are not and activations may be. */
#include <immintrin.h>
#include <string.h>

#include "base/sl_assert.h"
#include "kernels/cpu/x86/matmul_amx.h"
#include "kernels/cpu/x86/matmul_amx_operand.h"
#include "kernels/cpu/x86/matmul_avx512.h"

enum {
    BLOCK = 16,               /* activation rows of one operand */
    PART_BYTES = 12 << 10,    /* of decoded weights: what a first-level cache holds beside A */
    PREFETCH = 4096,          /* bytes ahead in the stream of tiles; past the matrix in vain */
    GROUP_BYTES_MAX = B_BYTES /* of codes */
};

/* Tile registers, as the intrinsics want them: literal numbers. Two tiles of weights, 0 and 1. */
#define C0 0
#define C1 1
#define A_HI 2
#define A_LO 3
#define HI0 4
#define HI1 5
#define LO0 6
#define LO1 7

#define CONFIG(n)                                                                                  \
    {                                                                                              \
        .palette = 1, .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {                     \
            n,                                                                                     \
            n,                                                                                     \
            n,                                                                                     \
            n,                                                                                     \
            ROWS,                                                                                  \
            ROWS,                                                                                  \
            ROWS,                                                                                  \
            ROWS                                                                                   \
        }                                                                                          \
    }
/* For blocks of 1 to 16 rows. */
static const struct sl_amx_config configs[BLOCK] = {
    CONFIG(1), CONFIG(2),  CONFIG(3),  CONFIG(4),  CONFIG(5),  CONFIG(6),  CONFIG(7),  CONFIG(8),
    CONFIG(9), CONFIG(10), CONFIG(11), CONFIG(12), CONFIG(13), CONFIG(14), CONFIG(15), CONFIG(16)};

/* ---- activations ----------------------------------------------------------------------------- */

/* Words k 0 2 1 3 of each quad. */
INLINE __m512i paired(__m512i words)
{
    const __m512i order =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
    return _mm512_shuffle_epi8(words, order);
}

/* Both roundings are to nearest: what is lost is at most 2^-16 of x. Infinity leaves a NaN in the
 * second plane, and so do the last 2^-9 below it. */
void sl_mm_split_amx(const struct sl_mm_act *a, const float *x, int row, int64_t from, int64_t to)
{
    for (int64_t g = from; g < to; g++, x += SL_MM_GROUP) {
        uint16_t *at = a->planes + (g * a->n + row) * (SL_MM_P_BYTES / 2);
        __m512 x0 = _mm512_loadu_ps(x), x1 = _mm512_loadu_ps(x + 16);
        __m512i hi = (__m512i)_mm512_cvtne2ps_pbh(x1, x0);
        x0 = _mm512_sub_ps(x0, wide(_mm512_castsi512_si256(hi)));
        x1 = _mm512_sub_ps(x1, wide(_mm512_extracti64x4_epi64(hi, 1)));
        _mm512_store_si512(at, paired(hi));
        _mm512_store_si512(at + SL_MM_GROUP, paired((__m512i)_mm512_cvtne2ps_pbh(x1, x0)));
    }
}

/* ---- products -------------------------------------------------------------------------------- */

/* Operands B of a part: group g of tile t is at b[t] + g * step, its second plane B_BYTES further.
 */
struct part {
    const uint8_t *b[SL_MM_SPAN];
    size_t step;
    int n; /* groups */
};

/* Operands A of a block of rows, from the part's first group on. */
struct rows {
    const uint8_t *x;
    size_t step; /* from one group to the next */
};

/* The sums of a tile start at 0 or where they were. */
INLINE void begin(int tile, int fresh, const float *sums)
{
    if (tile == 0 && fresh)
        _tile_zero(C0);
    else if (tile == 0)
        _tile_loadd(C0, sums, 64);
    else if (fresh)
        _tile_zero(C1);
    else
        _tile_loadd(C1, sums, 64);
}

INLINE void end(int tile, float *sums)
{
    if (tile == 0)
        _tile_stored(C0, sums, 64);
    else
        _tile_stored(C1, sums, 64);
}

/* Operands A of a group, both planes. */
INLINE void load_rows(const uint8_t *x)
{
    _tile_loadd(A_LO, x + SL_MM_P_BYTES / 2, SL_MM_P_BYTES);
    _tile_loadd(A_HI, x, SL_MM_P_BYTES);
}

/* A group of tile 0 or 1 with the loaded rows. An operand B used twice in a row is moved into the
 * multiplier once. */
INLINE void multiply(int planes, int tile, const uint8_t *b)
{
    if (tile == 0) {
        _tile_loadd(HI0, b, 64);
        _tile_dpbf16ps(C0, A_LO, HI0);
        _tile_dpbf16ps(C0, A_HI, HI0);
        if (planes > 1) {
            _tile_loadd(LO0, b + B_BYTES, 64);
            _tile_dpbf16ps(C0, A_HI, LO0);
        }
    } else {
        _tile_loadd(HI1, b, 64);
        _tile_dpbf16ps(C1, A_LO, HI1);
        _tile_dpbf16ps(C1, A_HI, HI1);
        if (planes > 1) {
            _tile_loadd(LO1, b + B_BYTES, 64);
            _tile_dpbf16ps(C1, A_HI, LO1);
        }
    }
}

/* Groups [from, to) of a part. */
INLINE void multiply_part(int planes, int tiles, const struct part *p, const struct rows *rows,
                          int from, int to)
{
    for (int g = from; g < to; g++) {
        load_rows(rows->x + (size_t)g * rows->step);
        for (int t = 0; t < tiles; t++) multiply(planes, t, p->b[t] + (size_t)g * p->step);
    }
}

/* Scales of a span's tiles: n blocks of `per` groups, or n 0: no scale, and one block. */
struct scales {
    const uint8_t *at;
    size_t stride;
    int64_t per, n;
};

/* The sums of a block of k have come to their end: total (+)= scale * sums, of `rows` rows. */
INLINE void finish_block(const struct scales *s, int tile, int64_t block, int rows,
                         const float *sums, float *total)
{
    __m512 f = _mm512_set1_ps(1);
    if (s->n > 0) {
        const uint8_t *at = s->at + (size_t)tile * s->stride + sizeof(struct sl_mm_scale_head);
        f = _mm512_load_ps((const float *)(const void *)at + block * SL_MM_LANES);
    }
    for (int r = 0; r < rows; r++, sums += SL_MM_LANES, total += SL_MM_LANES) {
        __m512 v = _mm512_load_ps(sums);
        v = block == 0 ? _mm512_mul_ps(f, v) : _mm512_fmadd_ps(f, v, _mm512_load_ps(total));
        _mm512_store_ps(total, v);
    }
}

/* A part that begins with group `at` of `groups`, for a block of n rows. sums: those of the block
 * of k under way. */
INLINE void block(int planes, int tiles, const struct part *p, const struct scales *s, int64_t at,
                  int64_t groups, const struct rows *x, int n, float *sums, float *total)
{
    for (int g = 0; g < p->n;) {
        int64_t scale = (at + g) / s->per, end_at = SL_MIN((scale + 1) * s->per, groups);
        int to = (int)SL_MIN((int64_t)p->n, end_at - at);
        for (int t = 0; t < tiles; t++) begin(t, at + g == scale * s->per, sums + t * SL_MM_ACC);
        multiply_part(planes, tiles, p, x, g, to);
        for (int t = 0; t < tiles; t++) end(t, sums + t * SL_MM_ACC);
        if (at + to == end_at)
            for (int t = 0; t < tiles; t++)
                finish_block(s, t, scale, n, sums + t * SL_MM_ACC, total + t * SL_MM_ACC);
        g = to;
    }
}

/* Decodes group `at` of a tile to b. The last group of a row may be short: what follows in memory
 * are not codes. */
INLINE void prepare(enum sl_mm_codes kind, const uint8_t *tile, int64_t cols, int64_t at,
                    const struct tables *tables, uint8_t *b)
{
    const int bytes = group_bytes(kind), k = sl_mm_code_k(kind);
    const uint8_t *codes = tile + (size_t)at * (size_t)bytes;
    if (cols - at * SL_MM_GROUP < SL_MM_GROUP) {
        _Alignas(64) uint8_t last[GROUP_BYTES_MAX] = {0};
        int64_t pieces = (cols - at * SL_MM_GROUP + k - 1) / k;
        memcpy(last, codes, (size_t)(pieces * SL_MM_LANES * sl_mm_code_bytes(kind)));
        decode(kind, last, tables, b);
        return;
    }
#pragma GCC unroll 16
    for (int i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)codes + PREFETCH + i, _MM_HINT_T0);
    decode(kind, codes, tables, b);
}

/* Whether group `at` lies in memory as an operand. */
INLINE int is_ready(enum sl_mm_codes kind, int64_t cols, int64_t at)
{
    return kind == SL_MM_BF16 && cols - at * SL_MM_GROUP >= SL_MM_GROUP;
}

/* Operand B of group `at` of a tile, asked for ahead, decoded to `room` unless it is ready. */
INLINE const uint8_t *operand(enum sl_mm_codes kind, const uint8_t *tile, int64_t cols, int64_t at,
                              const struct tables *tables, uint8_t *room)
{
    if (!is_ready(kind, cols, at)) {
        prepare(kind, tile, cols, at, tables, room);
        return room;
    }
    const uint8_t *b = tile + (size_t)at * B_BYTES;
#pragma GCC unroll 16
    for (int i = 0; i < B_BYTES; i += 64) _mm_prefetch((const char *)b + PREFETCH + i, _MM_HINT_T0);
    return b;
}

/* One block of rows: while a group of one tile is decoded, the one before it (of the other tile, if
 * there are two) is multiplied, and sums stay in their registers. */
INLINE void stream(enum sl_mm_codes kind, const int tiles, const struct sl_mm_span *w,
                   const struct scales *s, const struct sl_mm_act *a, int row, int n,
                   const struct tables *tables, float *acc)
{
    /* Two rooms 2048 bytes apart: loads wait for stores whose addresses differ by 4096. */
    _Alignas(4096) uint8_t room[2][2 * B_BYTES];
    _Alignas(64) float sums[SL_MM_SPAN][BLOCK * SL_MM_LANES];
    const uint8_t *x = (const uint8_t *)a->planes + (size_t)row * SL_MM_P_BYTES, *b = NULL;
    int64_t scale[SL_MM_SPAN] = {0}, until[SL_MM_SPAN] = {s->per, s->per};
    for (int t = 0; t < tiles; t++) begin(t, 1, NULL);
    for (int64_t g = 0; g <= a->groups; g++)
#pragma GCC unroll 2
        for (int t = 0; t < tiles; t++) {
            const int before = (t + 1) % tiles;          /* the tile of the last step */
            int64_t last = before == 0 && t ? g : g - 1; /* and its group */
            const uint8_t *next = NULL;
            if (g < a->groups)
                next = operand(kind, w->codes + (size_t)t * w->stride, a->cols, g, tables,
                               room[tiles > 1 ? t : g & 1]);
            __asm__ volatile("" ::: "memory"); /* tile loads do not say that they read memory */
            if (b) {
                if (before == 0) {
                    load_rows(x);
                    x += (size_t)a->n * SL_MM_P_BYTES;
                }
                multiply(planes_of(kind), before, b);
                if (++last == until[before] || last == a->groups) {
                    end(before, sums[before]);
                    begin(before, 1, NULL);
                    finish_block(s, before, scale[before]++, n, sums[before],
                                 acc + before * SL_MM_ACC);
                    until[before] += s->per;
                }
            }
            b = next;
        }
}

/* Groups [at, at+n) of a span, all ready or none. */
INLINE void prepare_part(enum sl_mm_codes kind, int tiles, const struct sl_mm_span *w, int64_t cols,
                         int64_t at, int n, const struct tables *tables, uint8_t *room,
                         struct part *p)
{
    const size_t each = (size_t)planes_of(kind) * B_BYTES, step = (size_t)tiles * each;
    const int ready = is_ready(kind, cols, at);
    *p = (struct part){.step = ready ? B_BYTES : step, .n = n};
    for (int t = 0; t < tiles; t++) {
        const uint8_t *codes = w->codes + (size_t)t * w->stride;
        p->b[t] = ready ? codes + (size_t)at * B_BYTES : room + (size_t)t * each;
        for (int g = 0; g < n && !ready; g++)
            prepare(kind, codes, cols, at + g, tables, room + (size_t)t * each + (size_t)g * step);
    }
    __asm__ volatile("" ::: "memory"); /* tile loads do not say that they read memory */
}

/* Many rows: a part of the span is decoded once for all of them. */
INLINE void span(enum sl_mm_codes kind, int tiles, const struct sl_mm_span *w,
                 const struct scales *s, const struct sl_mm_act *a, int row, int rows,
                 const struct tables *tables, float *acc)
{
    _Alignas(1024) float sums[SL_MM_SPAN * SL_MM_ACC];
    _Alignas(64) uint8_t room[PART_BYTES];
    struct part p;
    const int most = PART_BYTES / B_BYTES / tiles / planes_of(kind);
    const int64_t full = a->cols / SL_MM_GROUP;
    const size_t step = (size_t)a->n * SL_MM_P_BYTES;
    for (int64_t g = 0; g < a->groups; g += p.n) {
        int n = (int)SL_MIN((int64_t)most, g < full ? full - g : 1);
        prepare_part(kind, tiles, w, a->cols, g, n, tables, room, &p);
        const uint8_t *x = (const uint8_t *)a->planes + (size_t)g * step;
        for (int r = 0; r < rows; r += BLOCK) {
            struct rows of = {x + (size_t)(row + r) * SL_MM_P_BYTES, step};
            block(planes_of(kind), tiles, &p, s, g, a->groups, &of, SL_MIN(BLOCK, rows - r),
                  sums + r * SL_MM_LANES, acc + r * SL_MM_LANES);
        }
    }
}

/* Rows past the last one of a block that is not full are computed from whatever lies there (inside
 * the scratch) and never looked at. */
INLINE void tiles_of(enum sl_mm_codes kind, const struct sl_mm_span *w, const struct scales *s,
                     const struct sl_mm_act *a, int row, int rows, const struct tables *tables,
                     float *acc)
{
    _tile_loadconfig(&configs[SL_MIN(rows, BLOCK) - 1]);
    if (rows <= BLOCK && w->tiles > 1)
        stream(kind, 2, w, s, a, row, rows, tables, acc);
    else if (rows <= BLOCK)
        stream(kind, 1, w, s, a, row, rows, tables, acc);
    else if (w->tiles > 1)
        span(kind, 2, w, s, a, row, rows, tables, acc);
    else
        span(kind, 1, w, s, a, row, rows, tables, acc);
    _tile_release();
}

#define X(type, kind)                                                                              \
    void sl_mm_tile_amx_##type(const struct sl_mm_span *w, const struct sl_mm_act *a, int row,     \
                               int rows, float *acc)                                               \
    {                                                                                              \
        if (!sl_mm_takes_planes(kind, SL_MM_NONE, 1)) {                                            \
            sl_mm_tile_avx512_##type(w, a, row, rows, acc);                                        \
            return;                                                                                \
        }                                                                                          \
        const struct scales none = {.per = a->groups};                                             \
        const struct tables tables = {0};                                                          \
        tiles_of(kind, w, &none, a, row, rows, &tables, acc);                                      \
    }
SL_MM_FLOAT_FORMATS(X)
#undef X

#define X(type, kind)                                                                              \
    void sl_mm_tile_amx_##type(const struct sl_mm_span *w, const struct sl_mm_act *a, int row,     \
                               int rows, float *acc)                                               \
    {                                                                                              \
        const struct sl_mm_scale_head *h = sl_mm_scale_head(w->scales);                            \
        if (!sl_mm_takes_planes(kind, SL_MM_S, h->cols)) {                                         \
            sl_mm_tile_avx512_##type(w, a, row, rows, acc);                                        \
            return;                                                                                \
        }                                                                                          \
        const struct scales s = {w->scales, w->stride, h->cols / SL_MM_GROUP, h->n};               \
        const struct tables tables =                                                               \
            kind == SL_MM_CB4 ? codebook_tables(h->codebook) : fp8_tables(kind);                   \
        tiles_of(kind, w, &s, a, row, rows, &tables, acc);                                         \
    }
SL_MM_SMALL_FORMATS(X)
#undef X
