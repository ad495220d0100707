/* matmul_quant_avx2.c - AVX2: quantizes activations and multiplies tiles of the quantized formats.
 *
 * vpmaddubsw adds two products of an unsigned code and a signed byte into 16 bits. Codes of 4 bits
 * leave room for all 8 quads of a group there, of 5 bits for 4, of 6 bits for 2; codes of 8 bits
 * are multiplied as two nibbles. So nothing saturates and the integers are the exact ones of the
 * other rows; the floats follow in the same order. */
#include <immintrin.h>
#include <string.h>

#include "kernels/cpu/x86/matmul_avx2.h"

#define INLINE static inline __attribute__((always_inline))

enum { HALVES = 2, HALF = 8 }; /* a tile is two vectors of 8 lanes */

/* ---- activations ----------------------------------------------------------------------------- */

INLINE int32_t sum_of(__m256i v)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

INLINE uint32_t max_of(__m256i v)
{
    __m128i s = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_max_epu32(s, _mm_shuffle_epi32(s, 0x4e));
    return (uint32_t)_mm_cvtsi128_si32(_mm_max_epu32(s, _mm_shuffle_epi32(s, 0xb1)));
}

static void quantize(const struct sl_mm_act *a, const float *x, int row, int64_t from, int64_t to)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); /* undoes the packs' lanes */
    for (int64_t g = from; g < to; g++, x += SL_MM_GROUP) {
        int64_t at = g * a->n + row;
        __m256i top = _mm256_setzero_si256(), v[4];
        for (int i = 0; i < 4; i++) /* as integers: magnitudes order like floats, NaN on top */
            top = _mm256_max_epu32(
                top, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + 8 * i)), magnitude));
        float s, inv;
        sl_mm_scale(max_of(top), &s, &inv);
        __m256i keep = _mm256_set1_epi32(inv != 0 ? -1 : 0);
        __m256 k = _mm256_set1_ps(inv);
        for (int i = 0; i < 4; i++)
            v[i] = _mm256_and_si256(
                keep, _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), k)));
        __m256i a16 = _mm256_packs_epi32(v[0], v[1]), b16 = _mm256_packs_epi32(v[2], v[3]);
        const __m256i half = _mm256_set1_epi16(128), low = _mm256_set1_epi16(255);
        __m256i hi = _mm256_packs_epi16(_mm256_srai_epi16(_mm256_add_epi16(a16, half), 8),
                                        _mm256_srai_epi16(_mm256_add_epi16(b16, half), 8));
        __m256i lo = _mm256_packus_epi16(_mm256_and_si256(a16, low), _mm256_and_si256(b16, low));
        __m256i *q = (__m256i *)(a->q + at * SL_MM_Q_BYTES);
        _mm256_store_si256(q, _mm256_permutevar8x32_epi32(hi, order));
        _mm256_store_si256(q + 1, _mm256_permutevar8x32_epi32(lo, order));
        sl_mm_act_store(a, at, s, sum_of(_mm256_add_epi32(v[0], v[1])),
                        sum_of(_mm256_add_epi32(v[2], v[3])));
    }
}

/* ---- codes and scales of a group ------------------------------------------------------------- */

INLINE __m256i load(const uint8_t *p)
{
    return _mm256_load_si256((const __m256i *)p);
}

/* Codes of 8 bits lie as two nibbles: w[0..7] the low ones, w[8..15] the high ones. */
INLINE int two_nibbles(enum sl_mm_codes kind)
{
    return kind == SL_MM_C8 || kind == SL_MM_IQ4;
}

/* Quads 0..7 out of two words that hold 2 bits of each, shifted to bit `to`, ORed into w. */
INLINE void add_pairs(const uint8_t *p, int to, __m256i w[16])
{
    const __m256i bits = _mm256_set1_epi8(3);
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        __m256i pair =
            _mm256_and_si256(_mm256_srli_epi32(load(p + 64 * (j / 4)), 2 * (j % 4)), bits);
        w[j] = _mm256_or_si256(w[j], _mm256_slli_epi32(pair, to));
    }
}

/* The same out of one word that holds one bit of each. */
INLINE void add_bits(const uint8_t *p, int to, __m256i w[16])
{
    const __m256i bit = _mm256_set1_epi8(1);
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        __m256i one = _mm256_and_si256(_mm256_srli_epi32(load(p), j), bit);
        w[j] = _mm256_or_si256(w[j], _mm256_slli_epi32(one, to));
    }
}

INLINE void look_up(enum sl_mm_codes kind, __m256i w[16])
{
    const __m256i table = _mm256_broadcastsi128_si256(
        kind == SL_MM_E2M1 ? _mm_setr_epi8(SL_MM_E2M1_TABLE) : _mm_setr_epi8(SL_MM_IQ4_TABLE));
    const __m256i low = _mm256_set1_epi8(15);
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        __m256i v = _mm256_shuffle_epi8(table, w[j]);
        w[j] = v;
        if (!two_nibbles(kind)) continue;
        w[j] = _mm256_and_si256(v, low);
        w[j + 8] = _mm256_and_si256(_mm256_srli_epi32(v, 4), low);
    }
}

/* The 8 quads of half h of a group as unsigned bytes, or two_nibbles(). */
INLINE void unpack(enum sl_mm_codes kind, const uint8_t *p, int h, __m256i w[16])
{
    const __m256i low = _mm256_set1_epi8(15);
    p += 32 * h;
    if (kind == SL_MM_C8) {
        for (int j = 0; j < 8; j++) {
            __m256i b = load(p + 64 * j);
            w[j] = _mm256_and_si256(b, low);
            w[j + 8] = _mm256_and_si256(_mm256_srli_epi32(b, 4), low);
        }
        return;
    }
    if (kind == SL_MM_C2 || kind == SL_MM_C3) {
        for (int j = 0; j < 8; j++) w[j] = _mm256_setzero_si256();
        add_pairs(p, 0, w);
        if (kind == SL_MM_C3) add_bits(p + 128, 2, w);
        return;
    }
    for (int j = 0; j < 4; j++) {
        __m256i b = load(p + 64 * j);
        w[j] = _mm256_and_si256(b, low);
        w[j + 4] = _mm256_and_si256(_mm256_srli_epi32(b, 4), low);
    }
    if (kind == SL_MM_C5) add_bits(p + 256, 4, w);
    if (kind == SL_MM_C6) add_pairs(p + 256, 4, w);
    if (kind == SL_MM_E2M1 || kind == SL_MM_IQ4) look_up(kind, w);
}

struct factors {
    __m256 scale[2], min[2]; /* of one half; where 16 k have a scale of their own there are two */
};

INLINE __m256 halves(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)p));
}

INLINE __m256i wide_bytes(const uint8_t *p)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}

INLINE __m256 unsigned_bytes(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(wide_bytes(p));
}

INLINE __m256 signed_bytes(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

INLINE __m256 negated(__m256 x)
{
    return _mm256_sub_ps(_mm256_setzero_ps(), x);
}

/* Half of E8M0: the table of E2M1 is doubled. */
INLINE __m256 e8m0(const uint8_t *p)
{
    __m256i b = _mm256_slli_epi32(wide_bytes(p), 23);
    b = _mm256_max_epu32(b, _mm256_set1_epi32(0x00400000));
    return _mm256_mul_ps(_mm256_castsi256_ps(b), _mm256_set1_ps(0.5f));
}

/* Half of UE4M3, by way of a half that is 2^-8 of it: halves may be subnormal at no cost. */
INLINE __m256 ue4m3(const uint8_t *p)
{
    __m128i b = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)p));
    return _mm256_mul_ps(_mm256_cvtph_ps(_mm_slli_epi16(b, 7)), _mm256_set1_ps(128.0f));
}

/* The K kinds: halves of a super-block, bytes of a group. Products of the two are exact in fp32. */
INLINE struct factors k_factors(enum sl_mm_scales kind, const uint8_t *super, const uint8_t *sub)
{
    struct factors f;
    f.scale[0] = f.scale[1] = f.min[0] = f.min[1] = _mm256_setzero_ps();
    __m256 d = halves(super);
    if (kind == SL_MM_K) {
        f.scale[0] = _mm256_mul_ps(d, unsigned_bytes(sub));
        f.min[0] = _mm256_mul_ps(negated(halves(super + 32)), unsigned_bytes(sub + 16));
    } else if (kind == SL_MM_K2) {
        const __m256i low = _mm256_set1_epi32(15);
        __m256 dmin = negated(halves(super + 32));
        for (int i = 0; i < 2; i++) {
            __m256i b = wide_bytes(sub + 16 * i);
            f.scale[i] = _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_and_si256(b, low)));
            f.min[i] = _mm256_mul_ps(dmin, _mm256_cvtepi32_ps(_mm256_srli_epi32(b, 4)));
        }
    } else {
        f.scale[0] = _mm256_mul_ps(d, signed_bytes(sub));
        if (kind == SL_MM_K16) f.scale[1] = _mm256_mul_ps(d, signed_bytes(sub + 16));
    }
    return f;
}

INLINE struct factors factors_of(enum sl_mm_scales kind, const uint8_t *p, int64_t g,
                                 int64_t groups, int h)
{
    struct factors f;
    const int head = kind == SL_MM_K || kind == SL_MM_K2 ? 64 : 32;
    const int tail = kind == SL_MM_K32 ? 16 : 32;
    f.scale[0] = f.scale[1] = f.min[0] = f.min[1] = _mm256_setzero_ps();
    switch (kind) {
    case SL_MM_D:
        f.scale[0] = halves(p + g * 32 + 16 * h);
        break;
    case SL_MM_DM:
        f.scale[0] = halves(p + g * 64 + 16 * h);
        f.min[0] = halves(p + g * 64 + 32 + 16 * h);
        break;
    case SL_MM_K:
    case SL_MM_K2:
    case SL_MM_K16:
    case SL_MM_K32:
        return k_factors(kind, p + g / SL_MM_SUPER * head + 16 * h,
                         p + groups / SL_MM_SUPER * head + g * tail + 8 * h);
    case SL_MM_E32:
        f.scale[0] = e8m0(p + g * 16 + 8 * h);
        break;
    case SL_MM_E16:
        f.scale[0] = ue4m3(p + g * 32 + 8 * h);
        f.scale[1] = ue4m3(p + g * 32 + 16 + 8 * h);
        break;
    case SL_MM_S:
    case SL_MM_SZ: {
        const struct sl_mm_scale_head *t = sl_mm_scale_head(p);
        int64_t i = g >> t->shift;
        f.scale[0] = sl_mm_table_avx2(t, i, h);
        if (kind == SL_MM_SZ) {
            const uint8_t *zeros = p + sizeof *t + t->n * (t->type == SL_F32 ? 64 : 32);
            f.min[0] = _mm256_mul_ps(negated(f.scale[0]), unsigned_bytes(zeros + 16 * i + 8 * h));
        }
        break;
    }
    case SL_MM_NONE:
        break;
    }
    return f;
}

/* ---- products -------------------------------------------------------------------------------- */

INLINE __m256i quad(const int8_t *q)
{
    int32_t v;
    memcpy(&v, q, sizeof v);
    return _mm256_set1_epi32(v);
}

/* Quads [from, to) of both planes and both halves: out[half] = start + 256*hi + lo. `room`: quads
 * that fit 16 bits. */
INLINE void planes(__m256i w[HALVES][16], int skip, int from, int to, int room, const int8_t *q,
                   __m256i out[HALVES])
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i hi[HALVES], lo[HALVES];
    for (int h = 0; h < HALVES; h++) hi[h] = lo[h] = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int j0 = from; j0 < to; j0 += room) {
        __m256i h16[HALVES], l16[HALVES];
        int end = j0 + room < to ? j0 + room : to;
        for (int h = 0; h < HALVES; h++) h16[h] = l16[h] = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (int j = j0; j < end; j++) {
            __m256i xh = quad(q + 4 * j), xl = quad(q + 32 + 4 * j);
#pragma GCC unroll 2
            for (int h = 0; h < HALVES; h++) {
                h16[h] = _mm256_add_epi16(h16[h], _mm256_maddubs_epi16(w[h][skip + j], xh));
                l16[h] = _mm256_add_epi16(l16[h], _mm256_maddubs_epi16(w[h][skip + j], xl));
            }
        }
#pragma GCC unroll 2
        for (int h = 0; h < HALVES; h++) {
            hi[h] = _mm256_add_epi32(hi[h], _mm256_madd_epi16(h16[h], ones));
            lo[h] = _mm256_add_epi32(lo[h], _mm256_madd_epi16(l16[h], ones));
        }
    }
#pragma GCC unroll 2
    for (int h = 0; h < HALVES; h++) out[h] = _mm256_add_epi32(_mm256_slli_epi32(hi[h], 8), lo[h]);
}

INLINE int room_of(enum sl_mm_codes kind)
{
    return kind == SL_MM_C5 || kind == SL_MM_E2M1 ? 4 : kind == SL_MM_C6 ? 2 : 8;
}

INLINE void dot(enum sl_mm_codes kind, __m256i w[HALVES][16], int from, int to, const int8_t *q,
                const int32_t *neg, int shift, __m256 out[HALVES])
{
    __m256i sum[HALVES], high[HALVES], start = _mm256_setzero_si256();
    if (shift != SL_MM_NO_OFFSET) start = _mm256_slli_epi32(_mm256_set1_epi32(*neg), shift);
    planes(w, 0, from, to, room_of(kind), q, sum);
    if (two_nibbles(kind)) planes(w, 8, from, to, room_of(kind), q, high);
#pragma GCC unroll 2
    for (int h = 0; h < HALVES; h++) {
        sum[h] = _mm256_add_epi32(sum[h], start);
        if (two_nibbles(kind)) sum[h] = _mm256_add_epi32(sum[h], _mm256_slli_epi32(high[h], 4));
        out[h] = _mm256_cvtepi32_ps(sum[h]);
    }
}

/* acc[half] + one group for one activation row; at = g*n + row. */
INLINE void step(enum sl_mm_codes kind, enum sl_mm_scales scales, int shift, __m256i w[HALVES][16],
                 const struct factors f[HALVES], const struct sl_mm_act *a, int64_t at,
                 __m256 acc[HALVES])
{
    const int8_t *q = a->q + at * SL_MM_Q_BYTES;
    __m256 s = _mm256_set1_ps(a->scale[at]), d[HALVES];
    int split = sl_mm_halves(scales); /* two scales, each for half of the quads */
    const int32_t *neg = split ? a->neg16 + 2 * at : a->neg + at;
#pragma GCC unroll 2
    for (int i = 0; i <= split; i++) {
        dot(kind, w, 4 * i, split ? 4 * i + 4 : 8, q, neg + i, shift, d);
#pragma GCC unroll 2
        for (int h = 0; h < HALVES; h++)
            acc[h] = _mm256_fmadd_ps(_mm256_mul_ps(f[h].scale[i], s), d[h], acc[h]);
        if (!sl_mm_has_min(scales)) continue;
        float sum = split ? a->scale[at] * (float)-neg[i] : a->sum[at];
#pragma GCC unroll 2
        for (int h = 0; h < HALVES; h++)
            acc[h] = _mm256_fmadd_ps(f[h].min[i], _mm256_set1_ps(sum), acc[h]);
    }
}

INLINE void tile(enum sl_mm_codes kind, enum sl_mm_scales scales, int shift, const uint8_t *c,
                 const uint8_t *p, const struct sl_mm_act *a, int row, int rows, float *acc)
{
    int64_t groups = a->groups;
    int bytes = sl_mm_code_bytes(kind);
    memset(acc, 0, (size_t)(rows * SL_MM_LANES) * sizeof *acc);
    for (int64_t g = 0; g < groups; g++, c += bytes) {
        __m256i w[HALVES][16];
        struct factors f[HALVES];
        for (int i = 0; i < bytes; i += 64) _mm_prefetch((const char *)c + 2048 + i, _MM_HINT_T0);
        for (int h = 0; h < HALVES; h++) {
            unpack(kind, c, h, w[h]);
            f[h] = factors_of(scales, p, g, groups, h);
        }
        float *at = acc;
        for (int r = 0; r < rows; r++, at += SL_MM_LANES) {
            __m256 sum[HALVES] = {_mm256_load_ps(at), _mm256_load_ps(at + HALF)};
            step(kind, scales, shift, w, f, a, g * a->n + row + r, sum);
            _mm256_store_ps(at, sum[0]);
            _mm256_store_ps(at + HALF, sum[1]);
        }
    }
}

#define X(type, kind, scale, shift)                                                                \
    static void tile_##type(const struct sl_mm_span *w, const struct sl_mm_act *a, int row,        \
                            int rows, float *acc)                                                  \
    {                                                                                              \
        for (int i = 0; i < w->tiles; i++)                                                         \
            tile(kind, scale, shift, w->codes + i * w->stride, w->scales + i * w->stride, a, row,  \
                 rows, acc + i * SL_MM_ACC);                                                       \
    }
SL_MM_FORMATS(X)
#undef X

/* ---- the row --------------------------------------------------------------------------------- */

static const struct sl_mm_kernels kernels = {
    .quantize = quantize,
    .tile =
        {
#define X(type, ...) [type] = tile_##type,
            SL_MM_FORMATS(X)
#undef X
#define X(type, ...) [type] = sl_mm_tile_avx2_##type,
                SL_MM_FLOAT_FORMATS(X) SL_MM_SMALL_FORMATS(X)
#undef X
        },
};

const struct sl_matmul_ops sl_matmul_avx2 = {
    .row = "avx2",
    .caps = SL_CPU_AVX2,
    .load = sl_mm_load,
    .unload = sl_mm_unload,
    .kernels = &kernels,
};
