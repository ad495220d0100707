/* matmul_quant_avx512.c - AVX-512 VNNI: quantizes activations and multiplies tiles of the quantized
 * formats.
 *
 * A 64-byte word of codes is 16 output rows x 4 k, so vpdpbusd against a broadcast of 4 activations
 * adds 4 k to 16 outputs and no sum ever crosses lanes. Kernels are instantiated per format with
 * constant arguments and keep all sums in registers: one or two rows with two tiles, which share
 * the broadcasts (decode: memory is the limit), four or eight rows with one tile, which share the
 * unpacked codes (the two vector ports are the limit, 22 instructions a row and group).
 * Integer sums are exact, so the kernels differ in nothing but speed. */
#include <immintrin.h>
#include <string.h>

#include "kernels/cpu/x86/matmul_avx512.h"
#include "kernels/cpu/x86/matmul_avx512_group.h"

/* ---- activations ----------------------------------------------------------------------------- */

void sl_mm_quantize_avx512(const struct sl_mm_act *a, const float *x, int row, int64_t from,
                           int64_t to)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    for (int64_t g = from; g < to; g++, x += SL_MM_GROUP) {
        int64_t at = g * a->n + row;
        __m512 x0 = _mm512_loadu_ps(x), x1 = _mm512_loadu_ps(x + 16);
        /* As integers, magnitudes order like the floats, with NaN above infinity: neither gets
         * lost. */
        __m512i top = _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(x0), magnitude),
                                       _mm512_and_si512(_mm512_castps_si512(x1), magnitude));
        float s, inv;
        sl_mm_scale((uint32_t)_mm512_reduce_max_epu32(top), &s, &inv);
        __m512 k = _mm512_set1_ps(inv);
        __mmask16 keep = inv != 0 ? 0xffff : 0;
        __m512i v0 = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(x0, k));
        __m512i v1 = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(x1, k));
        const __m512i half = _mm512_set1_epi32(128);
        int8_t *q = a->q + at * SL_MM_Q_BYTES;
        __m128i h0 = _mm512_cvtepi32_epi8(_mm512_srai_epi32(_mm512_add_epi32(v0, half), 8));
        __m128i h1 = _mm512_cvtepi32_epi8(_mm512_srai_epi32(_mm512_add_epi32(v1, half), 8));
        _mm_store_si128((__m128i *)q, h0);
        _mm_store_si128((__m128i *)(q + 16), h1);
        _mm_store_si128((__m128i *)(q + 32), _mm512_cvtepi32_epi8(v0)); /* keeps the low byte */
        _mm_store_si128((__m128i *)(q + 48), _mm512_cvtepi32_epi8(v1));
        int32_t sum0 = _mm512_reduce_add_epi32(v0), sum1 = _mm512_reduce_add_epi32(v1);
        sl_mm_act_store(a, at, s, sum0, sum1);
    }
}

/* ---- products -------------------------------------------------------------------------------- */

INLINE __m512i quad(const int8_t *q)
{
    int32_t v;
    memcpy(&v, q, sizeof v);
    return _mm512_set1_epi32(v);
}

/* Quads [from, to) of both planes for `tiles` tiles: 256*hi + lo, plus what the offset of the codes
 * takes away. */
INLINE void dot(int tiles, __m512i w[][8], int from, int to, const int8_t *q, const int32_t *neg,
                int shift, __m512 out[])
{
    __m512i hi[SL_MM_SPAN], lo[SL_MM_SPAN], start = _mm512_setzero_si512();
    if (shift != SL_MM_NO_OFFSET)
        start = _mm512_slli_epi32(_mm512_set1_epi32(*neg), (unsigned)shift);
#pragma GCC unroll 2
    for (int t = 0; t < tiles; t++) {
        hi[t] = _mm512_setzero_si512();
        lo[t] = start;
    }
#pragma GCC unroll 8
    for (int j = from; j < to; j++) {
        __m512i xh = quad(q + 4 * j), xl = quad(q + 32 + 4 * j);
#pragma GCC unroll 2
        for (int t = 0; t < tiles; t++) {
            hi[t] = _mm512_dpbusd_epi32(hi[t], w[t][j], xh);
            lo[t] = _mm512_dpbusd_epi32(lo[t], w[t][j], xl);
        }
    }
#pragma GCC unroll 2
    for (int t = 0; t < tiles; t++)
        out[t] = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(hi[t], 8), lo[t]));
}

/* acc[tiles] + one group for one activation row; at = g*n + row. */
INLINE void step(enum sl_mm_scales kind, int shift, int tiles, __m512i w[][8],
                 const struct factors f[], const struct sl_mm_act *a, int64_t at, __m512 acc[])
{
    const int8_t *q = a->q + at * SL_MM_Q_BYTES;
    __m512 s = _mm512_set1_ps(a->scale[at]), d[SL_MM_SPAN];
    int halves16 = sl_mm_halves(kind); /* two scales, each for half of the quads */
    const int32_t *neg = halves16 ? a->neg16 + 2 * at : a->neg + at;
#pragma GCC unroll 2
    for (int h = 0; h <= halves16; h++) {
        dot(tiles, w, 4 * h, halves16 ? 4 * h + 4 : 8, q, neg + h, shift, d);
#pragma GCC unroll 2
        for (int t = 0; t < tiles; t++)
            acc[t] = _mm512_fmadd_ps(_mm512_mul_ps(f[t].scale[h], s), d[t], acc[t]);
        if (!sl_mm_has_min(kind)) continue;
        float sum = halves16 ? a->scale[at] * (float)-neg[h] : a->sum[at];
#pragma GCC unroll 2
        for (int t = 0; t < tiles; t++)
            acc[t] = _mm512_fmadd_ps(f[t].min[h], _mm512_set1_ps(sum), acc[t]);
    }
}

/* One or two rows: two tiles share their broadcasts. */
INLINE void two_tiles(enum sl_mm_codes codes, enum sl_mm_scales scales, int shift, int tiles,
                      const int R, const struct sl_mm_span *in, const struct sl_mm_act *a, int row,
                      float *acc)
{
    int64_t groups = a->groups;
    int bytes = sl_mm_code_bytes(codes);
    __m512i w[SL_MM_SPAN][8];
    struct factors f[SL_MM_SPAN];
    __m512 sum[2][SL_MM_SPAN];
    struct ahead ahead = ahead_of(codes, in, tiles, groups);
#pragma GCC unroll 2
    for (int r = 0; r < R; r++) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++) {
#pragma GCC unroll 2
        for (int t = 0; t < tiles; t++) {
            prefetch(codes, scales, in, t, &ahead, g);
            unpack(codes, in->codes + t * in->stride + g * bytes, w[t]);
            f[t] = factors_of(scales, in->scales + t * in->stride, g, groups);
        }
#pragma GCC unroll 2
        for (int r = 0; r < R; r++) step(scales, shift, tiles, w, f, a, g * a->n + row + r, sum[r]);
    }
#pragma GCC unroll 2
    for (int r = 0; r < R; r++)
        for (int t = 0; t < tiles; t++)
            _mm512_store_ps(acc + t * SL_MM_ACC + r * SL_MM_LANES, sum[r][t]);
}

/* Quads [from, to) of N rows at q, both planes: their chains of sums run side by side. */
INLINE void dot_rows(const int N, const __m512i w[8], int from, int to, const int8_t *q,
                     __m512i v[])
{
    __m512i hi[4], lo[4];
#pragma GCC unroll 4
    for (int r = 0; r < N; r++) hi[r] = lo[r] = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int j = from; j < to; j++)
#pragma GCC unroll 4
        for (int r = 0; r < N; r++) {
            hi[r] = _mm512_dpbusd_epi32(hi[r], w[j], quad(q + r * SL_MM_Q_BYTES + 4 * j));
            lo[r] = _mm512_dpbusd_epi32(lo[r], w[j], quad(q + r * SL_MM_Q_BYTES + 32 + 4 * j));
        }
#pragma GCC unroll 4
    for (int r = 0; r < N; r++) v[r] = _mm512_add_epi32(_mm512_slli_epi32(hi[r], 8), lo[r]);
}

INLINE __m512 to_float(__m512i v, const int32_t *neg, int shift)
{
    if (shift != SL_MM_NO_OFFSET)
        v = _mm512_add_epi32(v, _mm512_slli_epi32(_mm512_set1_epi32(*neg), (unsigned)shift));
    return _mm512_cvtepi32_ps(v);
}

/* Integer sums that wait to be scaled. */
struct waiting {
    __m512i v[2][4]; /* [half][row]: where each half has its scale */
    struct factors f;
    int64_t at; /* g*n + first row */
};

/* sum[r] + one group for N rows. */
INLINE void scale_rows(const int N, enum sl_mm_scales kind, int shift, const struct waiting *p,
                       const struct sl_mm_act *a, __m512 sum[])
{
    const int two = sl_mm_halves(kind);
#pragma GCC unroll 4
    for (int r = 0; r < N; r++) {
        int64_t at = p->at + r;
        __m512 s = _mm512_set1_ps(a->scale[at]);
#pragma GCC unroll 2
        for (int h = 0; h <= two; h++) {
            const int32_t *neg = two ? a->neg16 + 2 * at + h : a->neg + at;
            sum[r] = _mm512_fmadd_ps(_mm512_mul_ps(p->f.scale[h], s),
                                     to_float(p->v[h][r], neg, shift), sum[r]);
            if (!sl_mm_has_min(kind)) continue;
            float of_min = two ? a->scale[at] * (float)-*neg : a->sum[at];
            sum[r] = _mm512_fmadd_ps(p->f.min[h], _mm512_set1_ps(of_min), sum[r]);
        }
    }
}

/* R rows (4 or 8) of tile t, their sums in registers. The integers of a step are scaled after the
 * dot products of the next have been issued: those are chains of instructions that wait for each
 * other, and scaling fills the gaps. */
INLINE void few_rows(enum sl_mm_codes codes, enum sl_mm_scales scales, int shift, const int R,
                     const struct sl_mm_span *in, int t, int ask, const struct sl_mm_act *a,
                     int row, float *acc)
{
    enum { N = 4 };
    const int two = sl_mm_halves(scales);
    int64_t groups = a->groups, n = a->n;
    int bytes = sl_mm_code_bytes(codes);
    const uint8_t *code = in->codes + t * in->stride;
    __m512 sum[8];
    struct waiting last = {0}, now;
    struct ahead ahead = ahead_of(codes, in, 1, groups);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) sum[r] = _mm512_setzero_ps();
    for (int64_t g = 0, at = row; g < groups; g++, at += n, code += bytes) {
        __m512i w[8];
        if (ask) prefetch(codes, scales, in, t, &ahead, g);
        unpack(codes, code, w);
#pragma GCC unroll 2
        for (int r = 0; r < R; r += N) {
            const int8_t *q = a->q + (at + r) * SL_MM_Q_BYTES;
            now.at = at + r;
#pragma GCC unroll 2
            for (int h = 0; h <= two; h++) dot_rows(N, w, 4 * h, two ? 4 * h + 4 : 8, q, now.v[h]);
            if (r == 0)
                now.f = factors_of(scales, in->scales + t * in->stride, g, groups);
            else
                now.f = last.f;
            if (r || g) scale_rows(N, scales, shift, &last, a, sum + (r ? r : R) - N);
            last = now;
        }
    }
    scale_rows(N, scales, shift, &last, a, sum + R - N);
    acc += t * SL_MM_ACC;
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) _mm512_store_ps(acc + r * SL_MM_LANES, sum[r]);
}

/* Eight rows at a time, then four; the last three in two tiles. */
INLINE void tile(enum sl_mm_codes codes, enum sl_mm_scales scales, int shift,
                 const struct sl_mm_span *in, const struct sl_mm_act *a, int row, int rows,
                 float *acc)
{
    int many = rows & ~3, r = 0;
    for (int t = 0; t < in->tiles; t++)
        for (r = 0; r < many;) {
            float *to = acc + r * SL_MM_LANES;
            if (many - r >= 8) {
                few_rows(codes, scales, shift, 8, in, t, r == 0, a, row + r, to);
                r += 8;
            } else {
                few_rows(codes, scales, shift, 4, in, t, r == 0, a, row + r, to);
                r += 4;
            }
        }
    for (r = many; r < rows;) {
        float *to = acc + r * SL_MM_LANES;
        if (in->tiles == 1) {
            two_tiles(codes, scales, shift, 1, 1, in, a, row + r, to);
            r++;
        } else if (rows - r == 1) {
            two_tiles(codes, scales, shift, 2, 1, in, a, row + r, to);
            r++;
        } else {
            two_tiles(codes, scales, shift, 2, 2, in, a, row + r, to);
            r += 2;
        }
    }
}

#define X(type, kind, scale, shift)                                                                \
    void sl_mm_tile_avx512_##type(const struct sl_mm_span *w, const struct sl_mm_act *a, int row,  \
                                  int rows, float *acc)                                            \
    {                                                                                              \
        tile(kind, scale, shift, w, a, row, rows, acc);                                            \
    }
SL_MM_FORMATS(X)
#undef X

/* ---- the row --------------------------------------------------------------------------------- */

static const struct sl_mm_kernels kernels = {
    .quantize = sl_mm_quantize_avx512,
    .tile =
        {
#define X(type, ...) [type] = sl_mm_tile_avx512_##type,
            SL_MM_FORMATS(X) SL_MM_FLOAT_FORMATS(X) SL_MM_SMALL_FORMATS(X)
#undef X
        },
};

const struct sl_matmul_ops sl_matmul_avx512 = {
    .row = "avx512",
    .caps = SL_CPU_AVX2 | SL_CPU_AVX512 | SL_CPU_AVX512_VNNI,
    .load = sl_mm_load,
    .unload = sl_mm_unload,
    .kernels = &kernels,
};
