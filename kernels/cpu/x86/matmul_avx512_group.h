/* matmul_avx512_group.h - private: one group of a tile in AVX-512 registers, inlined into the
 * avx512 and amx kernels. */
#ifndef SL_KERNELS_CPU_X86_MATMUL_AVX512_GROUP_H
#define SL_KERNELS_CPU_X86_MATMUL_AVX512_GROUP_H

#include <immintrin.h>

#include "kernels/cpu/matmul.h"

#define INLINE static inline __attribute__((always_inline))

/* Quads 0..7 out of two words that hold 2 bits of each, shifted to bit `to`, ORed into w. */
INLINE void add_pairs(const uint8_t *p, int to, __m512i w[8])
{
    enum { OR_AND = 0xea }; /* ternary logic: a & b | c */
    const __m512i bits = _mm512_set1_epi8((char)(3 << to));
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        __m512i h = _mm512_load_si512(p + 64 * i);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m512i at = 2 * j < to ? _mm512_slli_epi32(h, (unsigned)(to - 2 * j))
                                    : _mm512_srli_epi32(h, (unsigned)(2 * j - to));
            w[4 * i + j] = _mm512_ternarylogic_epi32(at, bits, w[4 * i + j], OR_AND);
        }
    }
}

/* The same out of one word that holds one bit of each. */
INLINE void add_bits(const uint8_t *p, int to, __m512i w[8])
{
    enum { OR_AND = 0xea };
    const __m512i bit = _mm512_set1_epi8((char)(1 << to));
    __m512i h = _mm512_load_si512(p);
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        __m512i at = j < to ? _mm512_slli_epi32(h, (unsigned)(to - j))
                            : _mm512_srli_epi32(h, (unsigned)(j - to));
        w[j] = _mm512_ternarylogic_epi32(at, bit, w[j], OR_AND);
    }
}

/* The 8 quads of a group as unsigned bytes. */
INLINE void unpack(enum sl_mm_codes kind, const uint8_t *p, __m512i w[8])
{
    if (kind == SL_MM_C8) {
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) w[j] = _mm512_load_si512(p + 64 * j);
        return;
    }
    if (kind == SL_MM_C2 || kind == SL_MM_C3) {
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) w[j] = _mm512_setzero_si512();
        add_pairs(p, 0, w);
        if (kind == SL_MM_C3) add_bits(p + 128, 2, w);
        return;
    }
    const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m512i b = _mm512_load_si512(p + 64 * j);
        w[j] = _mm512_and_si512(b, low);
        w[j + 4] = _mm512_and_si512(_mm512_srli_epi32(b, 4), low);
    }
    if (kind == SL_MM_C5) add_bits(p + 256, 4, w);
    if (kind == SL_MM_C6) add_pairs(p + 256, 4, w);
    if (kind == SL_MM_E2M1 || kind == SL_MM_IQ4) {
        const __m512i table = _mm512_broadcast_i32x4(
            kind == SL_MM_E2M1 ? _mm_setr_epi8(SL_MM_E2M1_TABLE) : _mm_setr_epi8(SL_MM_IQ4_TABLE));
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) w[j] = _mm512_shuffle_epi8(table, w[j]);
    }
}

/* scale*code + min of a group; where 16 k have a scale of their own there are two of each. */
struct factors {
    __m512 scale[2], min[2];
};

INLINE __m512 halves(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)p));
}

INLINE __m512 unsigned_bytes(__m128i b)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(b));
}

INLINE __m512 signed_bytes(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_load_si128((const __m128i *)p)));
}

INLINE __m512 negated(__m512 x)
{
    return _mm512_sub_ps(_mm512_setzero_ps(), x);
}

/* Half of E8M0: the table of E2M1 is doubled. */
INLINE __m512 e8m0(const uint8_t *p)
{
    __m512i b = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)p));
    b = _mm512_max_epu32(_mm512_slli_epi32(b, 23), _mm512_set1_epi32(0x00400000));
    return _mm512_mul_ps(_mm512_castsi512_ps(b), _mm512_set1_ps(0.5f));
}

/* Half of UE4M3, by way of a half that is 2^-8 of it: halves may be subnormal at no cost. */
INLINE __m512 ue4m3(const uint8_t *p)
{
    __m256i b = _mm256_cvtepu8_epi16(_mm_load_si128((const __m128i *)p));
    return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_slli_epi16(b, 7)), _mm512_set1_ps(128.0f));
}

/* Block i of a table of kind S. */
INLINE __m512 table_at(const struct sl_mm_scale_head *h, int64_t i)
{
    const uint8_t *p = (const uint8_t *)(h + 1);
    if (h->type == SL_F32) return _mm512_load_ps(p + 64 * i);
    if (h->type == SL_F16) return halves(p + 32 * i);
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_load_si256((const __m256i *)(p + 32 * i)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

INLINE __m128i zeros_at(const struct sl_mm_scale_head *h, int64_t i)
{
    const uint8_t *p = (const uint8_t *)(h + 1) + h->n * (h->type == SL_F32 ? 64 : 32);
    return _mm_load_si128((const __m128i *)(p + 16 * i));
}

/* The K kinds: halves of a super-block, bytes of a group. Products of the two are exact in fp32. */
INLINE struct factors k_factors(enum sl_mm_scales kind, const uint8_t *super, const uint8_t *sub)
{
    struct factors f;
    f.scale[0] = f.scale[1] = f.min[0] = f.min[1] = _mm512_setzero_ps();
    __m512 d = halves(super);
    if (kind == SL_MM_K) {
        f.scale[0] = _mm512_mul_ps(d, unsigned_bytes(_mm_load_si128((const __m128i *)sub)));
        f.min[0] = _mm512_mul_ps(negated(halves(super + 32)),
                                 unsigned_bytes(_mm_load_si128((const __m128i *)(sub + 16))));
    } else if (kind == SL_MM_K2) {
        __m512 dmin = negated(halves(super + 32));
        const __m128i low = _mm_set1_epi8(15);
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            __m128i b = _mm_load_si128((const __m128i *)(sub + 16 * h));
            f.scale[h] = _mm512_mul_ps(d, unsigned_bytes(_mm_and_si128(b, low)));
            f.min[h] =
                _mm512_mul_ps(dmin, unsigned_bytes(_mm_and_si128(_mm_srli_epi16(b, 4), low)));
        }
    } else {
        f.scale[0] = _mm512_mul_ps(d, signed_bytes(sub));
        if (kind == SL_MM_K16) f.scale[1] = _mm512_mul_ps(d, signed_bytes(sub + 16));
    }
    return f;
}

INLINE struct factors factors_of(enum sl_mm_scales kind, const uint8_t *p, int64_t g,
                                 int64_t groups)
{
    struct factors f;
    f.scale[0] = f.scale[1] = f.min[0] = f.min[1] = _mm512_setzero_ps();
    const int head = kind == SL_MM_K || kind == SL_MM_K2 ? 64 : 32;
    const int tail = kind == SL_MM_K32 ? 16 : 32;
    switch (kind) {
    case SL_MM_D:
        f.scale[0] = halves(p + g * 32);
        break;
    case SL_MM_DM:
        f.scale[0] = halves(p + g * 64);
        f.min[0] = halves(p + g * 64 + 32);
        break;
    case SL_MM_K:
    case SL_MM_K2:
    case SL_MM_K16:
    case SL_MM_K32:
        return k_factors(kind, p + g / SL_MM_SUPER * head,
                         p + groups / SL_MM_SUPER * head + g * tail);
    case SL_MM_E32:
        f.scale[0] = e8m0(p + g * 16);
        break;
    case SL_MM_E16:
        f.scale[0] = ue4m3(p + g * 32);
        f.scale[1] = ue4m3(p + g * 32 + 16);
        break;
    case SL_MM_S:
    case SL_MM_SZ: {
        const struct sl_mm_scale_head *h = sl_mm_scale_head(p);
        int64_t i = g >> h->shift;
        f.scale[0] = table_at(h, i);
        if (kind == SL_MM_SZ)
            f.min[0] = _mm512_mul_ps(negated(f.scale[0]), unsigned_bytes(zeros_at(h, i)));
        break;
    }
    case SL_MM_NONE:
        break;
    }
    return f;
}

/* Asks for what lies PREFETCH_BYTES ahead in the stream of tiles. Tiles are too short for the
 * hardware's prefetchers to be of use: without this a core gets two thirds of what it can read.
 * Past the matrix's end it asks in vain. */
#ifndef PREFETCH_BYTES
#define PREFETCH_BYTES 8192
#endif

struct ahead {
    int64_t groups, group; /* of a tile; how far ahead, within a tile */
    size_t skip, wrap;     /* bytes of whole tiles ahead; of one more when the group wraps */
};

/* `tiles` neighbours are read side by side. */
INLINE struct ahead ahead_of(enum sl_mm_codes kind, const struct sl_mm_span *in, int tiles,
                             int64_t groups)
{
    int64_t far = PREFETCH_BYTES / (sl_mm_code_bytes(kind) * tiles);
    struct ahead a = {.groups = groups, .group = far % groups};
    a.wrap = in->stride * (size_t)tiles;
    a.skip = (size_t)(far / groups) * a.wrap;
    return a;
}

INLINE void prefetch(enum sl_mm_codes kind, enum sl_mm_scales scales, const struct sl_mm_span *in,
                     int t, const struct ahead *a, int64_t g)
{
    int bytes = sl_mm_code_bytes(kind), scale_bytes = scales == SL_MM_DM ? 64 : 32;
    size_t skip = (size_t)t * in->stride + a->skip;
    g += a->group;
    if (g >= a->groups) {
        g -= a->groups;
        skip += a->wrap;
    }
    const uint8_t *c = in->codes + skip + g * bytes;
#pragma GCC unroll 8
    for (int i = 0; i < bytes; i += 64) _mm_prefetch((const char *)c + i, _MM_HINT_T0);
    _mm_prefetch((const char *)in->scales + skip + g * scale_bytes, _MM_HINT_T0);
}

#endif
