/* matmul_quant_amx.c - AMX int8: many activation rows against tiles of the quantized formats.
 *
 * An unpacked group of a weight tile (8 quads x 16 lanes x 4 bytes) is exactly an AMX operand B,
 * and the planes of 16 activation rows are two operands A. Their products are exact integers, so
 * the floats that follow, one group after the other as in matmul_quant_avx512.c, give the same
 * bits. With fewer than AMX_ROWS rows, and for Q6_K with its scale per 16 k, that kernel is the
 * faster one.
 *
 * What bounds this kernel is not the multiplier (K is only 32, half of an operand) but getting 4 x
 * 16 vectors of integers out of it and scaled for each group. So the products of the next block are
 * issued before the scaling of the last: both then run at the same time. */
#include <immintrin.h>
#include <string.h>

#include "base/sl_assert.h"
#include "kernels/cpu/x86/matmul_avx512.h"
#include "kernels/cpu/x86/matmul_avx512_group.h"

enum {
    BLOCK = 16,                  /* activation rows of one operand */
    AMX_ROWS = 12,               /* below this many rows vector instructions win */
    WORDS = BLOCK * SL_MM_LANES, /* of a product */
};

/* Tile registers, as the intrinsics want them: literal numbers. */
#define HI0 0
#define LO0 1
#define HI1 2
#define LO1 3
#define A_HI 4
#define A_LO 5
#define B0 6
#define B1 7

/* The operand of ldtilecfg. A constant, because the compiler does not
 * know that the instruction reads all 64 bytes and would drop stores to a local one. */
struct config {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
_Static_assert(sizeof(struct config) == 64, "the layout of ldtilecfg");

static const struct config config = {
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, SL_MM_GROUP, SL_MM_GROUP, 64, 64},
    .rows = {BLOCK, BLOCK, BLOCK, BLOCK, BLOCK, BLOCK, SL_MM_GROUP / 4, SL_MM_GROUP / 4},
};

/* Starts the products of 16 rows at q (plane hi; lo lies 32 bytes on) with weight tile t. A stays
 * for t = 1. */
INLINE void products(int t, const int8_t *q)
{
    if (t == 0) {
        _tile_zero(HI0);
        _tile_zero(LO0);
        _tile_loadd(A_HI, q, SL_MM_Q_BYTES);
        _tile_loadd(A_LO, q + 32, SL_MM_Q_BYTES);
        _tile_dpbsud(HI0, A_HI, B0);
        _tile_dpbsud(LO0, A_LO, B0);
    } else {
        _tile_zero(HI1);
        _tile_zero(LO1);
        _tile_dpbsud(HI1, A_HI, B1);
        _tile_dpbsud(LO1, A_LO, B1);
    }
}

/* Stores the products with tile t: out[16 rows][16] of plane hi, then of lo. */
INLINE void take(int t, int32_t *out)
{
    if (t == 0) {
        _tile_stored(HI0, out, SL_MM_LANES * 4);
        _tile_stored(LO0, out + WORDS, SL_MM_LANES * 4);
    } else {
        _tile_stored(HI1, out, SL_MM_LANES * 4);
        _tile_stored(LO1, out + WORDS, SL_MM_LANES * 4);
    }
}

/* A block whose integers wait to be scaled. */
struct pending {
    int first, rows;         /* its rows within the chunk */
    int64_t at;              /* g*n + row of its first row */
    const struct factors *f; /* [tiles] */
};

/* acc += scale * integers (+ minimum * sum) for tile t, in the order of step() in
 * matmul_quant_avx512.c. */
INLINE void scale(enum sl_mm_scales kind, int shift, int t, const struct pending *p,
                  const int32_t *in, const struct sl_mm_act *a, float *acc)
{
    __m512 factor = p->f[t].scale[0], min = p->f[t].min[0];
    const int32_t *neg = a->neg + p->at;
    const float *s = a->scale + p->at, *sum = a->sum + p->at;
    acc += t * SL_MM_ACC + p->first * SL_MM_LANES;
    for (int r = 0; r < p->rows; r++, in += SL_MM_LANES, acc += SL_MM_LANES) {
        __m512i lo = _mm512_load_si512(in + WORDS);
        if (shift != SL_MM_NO_OFFSET) {
            __m512i n = _mm512_set1_epi32(neg[r]);
            lo = _mm512_add_epi32(lo, _mm512_slli_epi32(n, (unsigned)shift));
        }
        __m512i hi = _mm512_slli_epi32(_mm512_load_si512(in), 8);
        __m512 v =
            _mm512_fmadd_ps(_mm512_mul_ps(factor, _mm512_set1_ps(s[r])),
                            _mm512_cvtepi32_ps(_mm512_add_epi32(hi, lo)), _mm512_load_ps(acc));
        if (sl_mm_has_min(kind)) v = _mm512_fmadd_ps(min, _mm512_set1_ps(sum[r]), v);
        _mm512_store_ps(acc, v);
    }
}

INLINE void span(enum sl_mm_codes codes, enum sl_mm_scales scales, int shift, int tiles,
                 const struct sl_mm_span *in, const struct sl_mm_act *a, int row, int rows,
                 float *acc)
{
    _Alignas(1024) int32_t ints[SL_MM_SPAN][2 * WORDS];
    _Alignas(64) uint8_t b[SL_MM_SPAN][8 * 64];
    struct factors f[2][SL_MM_SPAN] = {0};             /* of this group and of the one before */
    struct pending last = {.rows = 0, .f = f[0]}, now; /* at first nothing waits */
    int64_t groups = a->groups;
    struct ahead ahead = ahead_of(codes, in, tiles, groups);
    _tile_loadconfig(&config);
    memset(acc, 0, (size_t)((tiles - 1) * SL_MM_ACC + rows * SL_MM_LANES) * sizeof *acc);
    for (int64_t g = 0; g < groups; g++) {
#pragma GCC unroll 2
        for (int t = 0; t < tiles; t++) {
            __m512i w[8];
            prefetch(codes, scales, in, t, &ahead, g);
            unpack(codes, in->codes + t * in->stride + g * sl_mm_code_bytes(codes), w);
#pragma GCC unroll 8
            for (int j = 0; j < 8; j++) _mm512_store_si512(b[t] + 64 * j, w[j]);
            f[g & 1][t] = factors_of(scales, in->scales + t * in->stride, g, groups);
        }
        __asm__ volatile("" ::: "memory"); /* tile loads do not say that they read memory */
        _tile_loadd(B0, b[0], SL_MM_LANES * 4);
        if (tiles > 1) _tile_loadd(B1, b[1], SL_MM_LANES * 4);
        for (int first = 0; first < rows; first += BLOCK) {
            int64_t at = g * a->n + row + first;
            now = (struct pending){first, SL_MIN(BLOCK, rows - first), at, f[g & 1]};
            products(0, a->q + at * SL_MM_Q_BYTES);
            if (tiles > 1) take(1, ints[1]);
            scale(scales, shift, 0, &last, ints[0], a, acc);
            if (tiles > 1) products(1, NULL);
            take(0, ints[0]);
            if (tiles > 1) scale(scales, shift, 1, &last, ints[1], a, acc);
            last = now;
        }
    }
    if (tiles > 1) take(1, ints[1]);
    scale(scales, shift, 0, &last, ints[0], a, acc);
    if (tiles > 1) scale(scales, shift, 1, &last, ints[1], a, acc);
    _tile_release();
}

#define X(type, kind, factor, shift)                                                               \
    static void tile_##type(const struct sl_mm_span *w, const struct sl_mm_act *a, int row,        \
                            int rows, float *acc)                                                  \
    {                                                                                              \
        if (rows < AMX_ROWS || sl_mm_halves(factor))                                               \
            sl_mm_tile_avx512_##type(w, a, row, rows, acc);                                        \
        else if (w->tiles == 1)                                                                    \
            span(kind, factor, shift, 1, w, a, row, rows, acc);                                    \
        else                                                                                       \
            span(kind, factor, shift, 2, w, a, row, rows, acc);                                    \
    }
SL_MM_FORMATS(X)
#undef X

/* ---- the row --------------------------------------------------------------------------------- */

static const struct sl_mm_kernels kernels = {
    .quantize = sl_mm_quantize_avx512,
    .tile =
        {
#define X(type, ...) [type] = tile_##type,
            SL_MM_FORMATS(X)
#undef X
#define X(type, ...) [type] = sl_mm_tile_avx512_##type,
                SL_MM_FLOAT_FORMATS(X) SL_MM_SMALL_FORMATS(X)
#undef X
        },
};

const struct sl_matmul_ops sl_matmul_amx = {
    .row = "amx",
    .caps = SL_CPU_AVX2 | SL_CPU_AVX512 | SL_CPU_AVX512_VNNI | SL_CPU_AMX_INT8,
    .load = sl_mm_load,
    .unload = sl_mm_unload,
    .kernels = &kernels,
};
