/* matmul_quant_amx.c - AMX int8: many activation rows against tiles of the quantized formats.
 *
 * An unpacked group of a weight tile (8 quads x 16 lanes x 4 bytes) is exactly an AMX operand B,
 * and the planes of 16 activation rows are two operands A. Their products are exact integers, so
 * the floats that follow, one group after the other as in matmul_quant_avx512.c, give the same
 * bits. With fewer than AMX_ROWS rows that kernel is the faster one; Q2_K, with a minimum per 16 k,
 * has no other. Where 16 k share a scale a group is two steps of 16 k instead of one of 32.
 *
 * A tile is unpacked once for the rows of a chunk, offsets taken off (so codes are signed here).
 * Then each block of 16 rows walks along the groups with its 16 sums in registers. What bounds this
 * is not the multiplier (2 cycles a row and group; K is only 32, half of an operand) but getting
 * the integers out of it (2 stores) and scaled (6 instructions on two ports). So three groups are
 * under way at once: while one is multiplied, the one before is stored and the one before that is
 * scaled, in small pieces between the tile instructions. */
#include <immintrin.h>
#include <string.h>

#include "base/sl_assert.h"
#include "kernels/cpu/x86/matmul_amx.h"
#include "kernels/cpu/x86/matmul_avx512.h"
#include "kernels/cpu/x86/matmul_avx512_group.h"

enum {
    BLOCK = 16,                  /* activation rows of one operand */
    AMX_ROWS = 12,               /* below this many rows vector instructions win */
    WORDS = BLOCK * SL_MM_LANES, /* of a product */
    PART = 24, /* groups that are unpacked at a time: they and 16 rows of activations fit into L1 */
    B_BYTES = 8 * 64 /* of an unpacked group */
};

/* Tile registers, as the intrinsics want them: literal numbers. Products of even groups go to HI0
 * and LO0, of odd ones to HI1 and LO1. */
#define HI0 0
#define LO0 1
#define HI1 2
#define LO1 3
#define A_HI 4
#define A_LO 5
#define B 6

#define CONFIG(k)                                                                                  \
    {                                                                                              \
        .palette = 1, .row_bytes = {64, 64, 64, 64, k, k, 64}, .rows = {                           \
            BLOCK,                                                                                 \
            BLOCK,                                                                                 \
            BLOCK,                                                                                 \
            BLOCK,                                                                                 \
            BLOCK,                                                                                 \
            BLOCK,                                                                                 \
            (k) / 4                                                                                \
        }                                                                                          \
    }
/* For groups as one step and as two. */
static const struct sl_amx_config configs[2] = {CONFIG(SL_MM_GROUP), CONFIG(SL_MM_GROUP / 2)};

/* Some groups of a tile, ready to be multiplied: B, scale and minimum of each step. */
struct part {
    _Alignas(64) int8_t b[PART * B_BYTES];
    __m512 scale[2 * PART], min[2 * PART];
};

INLINE int steps_of(enum sl_mm_scales kind)
{
    return sl_mm_halves(kind) ? 2 : 1;
}

/* Groups [from, from+n) of tile t. */
INLINE void prepare(enum sl_mm_codes codes, enum sl_mm_scales scales, int shift,
                    const struct sl_mm_span *in, int t, int64_t from, int n, int64_t groups,
                    struct part *p)
{
    struct ahead ahead = ahead_of(codes, in, 1, groups);
    const uint8_t *code = in->codes + t * in->stride, *scale = in->scales + t * in->stride;
    for (int g = 0; g < n; g++) {
        __m512i w[8];
        prefetch(codes, scales, in, t, &ahead, from + g);
        unpack(codes, code + (from + g) * sl_mm_code_bytes(codes), w);
        if (shift != SL_MM_NO_OFFSET)
#pragma GCC unroll 8
            for (int j = 0; j < 8; j++)
                w[j] = _mm512_sub_epi8(w[j], _mm512_set1_epi8((char)(1u << shift)));
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) _mm512_store_si512(p->b + g * B_BYTES + 64 * j, w[j]);
        struct factors f = factors_of(scales, scale, from + g, groups);
        const int steps = steps_of(scales);
#pragma GCC unroll 2
        for (int h = 0; h < steps; h++) {
            p->scale[g * steps + h] = f.scale[h];
            p->min[g * steps + h] = f.min[h];
        }
    }
    __asm__ volatile("" ::: "memory"); /* tile loads do not say that they read memory */
}

/* Where a block of rows finds its activations: the arrays of struct sl_mm_act from the block's
 * first row and the part's first group on, `n` rows from one group to the next. */
struct rows {
    const int8_t *q;
    const float *scale, *sum;
    int64_t n;
};

/* One plane of a step, multiplied with signed codes or with unsigned ones. */
#define MULTIPLY(shift, c, a)                                                                      \
    do {                                                                                           \
        if ((shift) == SL_MM_NO_OFFSET)                                                            \
            _tile_dpbsud(c, a, B);                                                                 \
        else                                                                                       \
            _tile_dpbssd(c, a, B);                                                                 \
    } while (0)

/* Rows [from, from+4) of a block: sums += factor * integers (+ minimum * sum) of step g, in the
 * order of scale_rows() in matmul_quant_avx512.c. */
INLINE void scale4(enum sl_mm_scales kind, __m512 factor, __m512 min, const struct rows *x, int g,
                   const int32_t *in, int from, __m512 sums[BLOCK])
{
    const float *s = x->scale + g / steps_of(kind) * x->n;
    const float *sum = x->sum + g / steps_of(kind) * x->n;
    in += (g & 3) * 2 * WORDS;
#pragma GCC unroll 4
    for (int r = from; r < from + 4; r++) {
        __m512i hi = _mm512_slli_epi32(_mm512_load_si512(in + r * SL_MM_LANES), 8);
        __m512i v = _mm512_add_epi32(hi, _mm512_load_si512(in + WORDS + r * SL_MM_LANES));
        sums[r] = _mm512_fmadd_ps(_mm512_mul_ps(factor, _mm512_set1_ps(s[r])),
                                  _mm512_cvtepi32_ps(v), sums[r]);
        if (sl_mm_has_min(kind)) sums[r] = _mm512_fmadd_ps(min, _mm512_set1_ps(sum[r]), sums[r]);
    }
}

/* Asks for four rows of the group after the one at q. */
INLINE void ask4(const struct rows *x, const int8_t *q, int from)
{
    q += (x->n + from) * SL_MM_Q_BYTES;
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) _mm_prefetch((const char *)q + r * SL_MM_Q_BYTES, _MM_HINT_T0);
}

/* Step g's operands: B, and A of the rows whose first group is at q. */
INLINE const int8_t *b_of(enum sl_mm_scales kind, const struct part *p, int g)
{
    return p->b + g * (B_BYTES / steps_of(kind));
}

INLINE const int8_t *a_of(enum sl_mm_scales kind, const struct rows *x, int g)
{
    return sl_mm_halves(kind) ? x->q + (g / 2) * x->n * SL_MM_Q_BYTES + (g & 1) * 16
                              : x->q + g * x->n * SL_MM_Q_BYTES;
}

/* Starts the products of step `to` of the rows at q in tiles (hi1, lo1), stores those of step g
 * from (hi, lo) and scales step g-1. */
#define STEP(g, to, q, hi, lo, hi1, lo1)                                                           \
    do {                                                                                           \
        int32_t *out = ints + ((g)&3) * 2 * WORDS;                                                 \
        __m512 factor = p->scale[(g) ? (g)-1 : 0], min = p->min[(g) ? (g)-1 : 0];                  \
        _tile_loadd(B, b_of(kind, p, to), 64);                                                     \
        _tile_loadd(A_HI, q, SL_MM_Q_BYTES);                                                       \
        _tile_zero(hi1);                                                                           \
        MULTIPLY(shift, hi1, A_HI);                                                                \
        ask4(x, q, 0);                                                                             \
        if (g) scale4(kind, factor, min, x, (g)-1, ints, 0, sums);                                 \
        _tile_loadd(A_LO, (q) + 32, SL_MM_Q_BYTES);                                                \
        _tile_zero(lo1);                                                                           \
        MULTIPLY(shift, lo1, A_LO);                                                                \
        ask4(x, q, 4);                                                                             \
        if (g) scale4(kind, factor, min, x, (g)-1, ints, 4, sums);                                 \
        _tile_stored(hi, out, SL_MM_LANES * 4);                                                    \
        ask4(x, q, 8);                                                                             \
        if (g) scale4(kind, factor, min, x, (g)-1, ints, 8, sums);                                 \
        _tile_stored(lo, out + WORDS, SL_MM_LANES * 4);                                            \
        ask4(x, q, 12);                                                                            \
        if (g) scale4(kind, factor, min, x, (g)-1, ints, 12, sums);                                \
    } while (0)

/* Starts the products of the first step. */
INLINE void begin(int shift, const struct part *p, const int8_t *q)
{
    _tile_loadd(B, p->b, 64);
    _tile_loadd(A_HI, q, SL_MM_Q_BYTES);
    _tile_loadd(A_LO, q + 32, SL_MM_Q_BYTES);
    _tile_zero(HI0);
    _tile_zero(LO0);
    MULTIPLY(shift, HI0, A_HI);
    MULTIPLY(shift, LO0, A_LO);
}

/* Adds n steps to 16 rows of sums. The products of the first step are under way in (HI0, LO0),
 * with `odd` in (HI1, LO1); those of the rows at `next` are when it ends, in the tiles that follow.
 * Rows past the last one are computed from whatever lies there (inside the scratch) and never
 * looked at. */
INLINE void block(enum sl_mm_scales kind, int shift, const int odd, const struct part *p, int n,
                  const struct rows *x, const int8_t *next, int first, float *acc)
{
    _Alignas(64) int32_t ints[4 * 2 * WORDS]; /* of four steps, in turn */
    __m512 sums[BLOCK];
#pragma GCC unroll 16
    for (int r = 0; r < BLOCK; r++)
        sums[r] = first ? _mm512_setzero_ps() : _mm512_load_ps(acc + r * SL_MM_LANES);
    for (int g = 0; g < n; g++) {
        int last = g + 1 == n, to = last ? 0 : g + 1;
        const int8_t *q = last ? next : a_of(kind, x, to);
        if (odd)
            STEP(g, to, q, HI1, LO1, HI0, LO0);
        else
            STEP(g, to, q, HI0, LO0, HI1, LO1);
        if (++g == n) break;
        last = g + 1 == n;
        to = last ? 0 : g + 1;
        q = last ? next : a_of(kind, x, to);
        if (odd)
            STEP(g, to, q, HI0, LO0, HI1, LO1);
        else
            STEP(g, to, q, HI1, LO1, HI0, LO0);
    }
#pragma GCC unroll 4
    for (int r = 0; r < BLOCK; r += 4)
        scale4(kind, p->scale[n - 1], p->min[n - 1], x, n - 1, ints, r, sums);
#pragma GCC unroll 16
    for (int r = 0; r < BLOCK; r++) _mm512_store_ps(acc + r * SL_MM_LANES, sums[r]);
}

INLINE void span(enum sl_mm_codes codes, enum sl_mm_scales scales, int shift,
                 const struct sl_mm_span *in, const struct sl_mm_act *a, int row, int rows,
                 float *acc)
{
    struct part p;
    int64_t groups = a->groups;
    int64_t parts = (groups + PART - 1) / PART, most = (groups + parts - 1) / parts;
    _tile_loadconfig(&configs[steps_of(scales) - 1]);
    for (int t = 0; t < in->tiles; t++)
        for (int64_t g = 0; g < groups; g += most) {
            int n = (int)SL_MIN(most, groups - g), steps = n * steps_of(scales), odd = 0;
            int64_t at = g * a->n + row;
            struct rows x = {a->q + at * SL_MM_Q_BYTES, a->scale + at, a->sum + at, a->n};
            float *to = acc + t * SL_MM_ACC;
            prepare(codes, scales, shift, in, t, g, n, groups, &p);
            begin(shift, &p, x.q);
            for (int r = 0; r < rows; r += BLOCK, to += BLOCK * SL_MM_LANES) {
                const int8_t *next = r + BLOCK < rows ? x.q + BLOCK * SL_MM_Q_BYTES : x.q;
                if (odd)
                    block(scales, shift, 1, &p, steps, &x, next, g == 0, to);
                else
                    block(scales, shift, 0, &p, steps, &x, next, g == 0, to);
                odd ^= steps & 1;
                x = (struct rows){next, x.scale + BLOCK, x.sum + BLOCK, x.n};
            }
        }
    _tile_release();
}

#define X(type, kind, factor, shift)                                                               \
    static void tile_##type(const struct sl_mm_span *w, const struct sl_mm_act *a, int row,        \
                            int rows, float *acc)                                                  \
    {                                                                                              \
        if (rows < AMX_ROWS || (sl_mm_halves(factor) && sl_mm_has_min(factor)))                    \
            sl_mm_tile_avx512_##type(w, a, row, rows, acc);                                        \
        else                                                                                       \
            span(kind, factor, shift, w, a, row, rows, acc);                                       \
    }
SL_MM_FORMATS(X)
#undef X

/* ---- the row --------------------------------------------------------------------------------- */

static const struct sl_mm_kernels kernels = {
    .quantize = sl_mm_quantize_avx512,
    .split = sl_mm_split_amx,
    .tile =
        {
#define X(type, ...) [type] = tile_##type,
            SL_MM_FORMATS(X)
#undef X
#define X(type, ...) [type] = sl_mm_tile_amx_##type,
                SL_MM_FLOAT_FORMATS(X) SL_MM_SMALL_FORMATS(X)
#undef X
        },
};

const struct sl_matmul_ops sl_matmul_amx = {
    .row = "amx",
    .caps = SL_CPU_AVX2 | SL_CPU_AVX512 | SL_CPU_AVX512_VNNI | SL_CPU_AVX512_BF16 |
            SL_CPU_AMX_INT8 | SL_CPU_AMX_BF16,
    .load = sl_mm_load,
    .unload = sl_mm_unload,
    .kernels = &kernels,
};
