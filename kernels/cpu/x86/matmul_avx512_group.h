/* matmul_avx512_group.h - private: one group of a tile in AVX-512 registers, inlined into the
 * avx512 and amx kernels. */
#ifndef SL_KERNELS_CPU_X86_MATMUL_AVX512_GROUP_H
#define SL_KERNELS_CPU_X86_MATMUL_AVX512_GROUP_H

#include <immintrin.h>

#include "kernels/cpu/matmul.h"

#define INLINE static inline __attribute__((always_inline))

/* The 8 quads of a group as unsigned bytes. */
INLINE void unpack(enum sl_mm_codes kind, const uint8_t *p, __m512i w[8])
{
    if (kind == SL_MM_C8) {
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) w[j] = _mm512_load_si512(p + 64 * j);
        return;
    }
    const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m512i b = _mm512_load_si512(p + 64 * j);
        w[j] = _mm512_and_si512(b, low);
        w[j + 4] = _mm512_and_si512(_mm512_srli_epi32(b, 4), low);
    }
    enum { OR_AND = 0xea }; /* ternary logic: a & b | c */
    if (kind == SL_MM_C5) {
        const __m512i bit = _mm512_set1_epi8(16);
        __m512i h = _mm512_load_si512(p + 256);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            w[j] = _mm512_ternarylogic_epi32(_mm512_slli_epi32(h, (unsigned)(4 - j)), bit, w[j],
                                             OR_AND);
#pragma GCC unroll 4
        for (int j = 4; j < 8; j++)
            w[j] = _mm512_ternarylogic_epi32(_mm512_srli_epi32(h, (unsigned)(j - 4)), bit, w[j],
                                             OR_AND);
    }
    if (kind == SL_MM_C6) {
        const __m512i bits = _mm512_set1_epi8(0x30);
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            __m512i h = _mm512_load_si512(p + 256 + 64 * i), *v = w + 4 * i;
            v[0] = _mm512_ternarylogic_epi32(_mm512_slli_epi32(h, 4), bits, v[0], OR_AND);
            v[1] = _mm512_ternarylogic_epi32(_mm512_slli_epi32(h, 2), bits, v[1], OR_AND);
            v[2] = _mm512_ternarylogic_epi32(h, bits, v[2], OR_AND);
            v[3] = _mm512_ternarylogic_epi32(_mm512_srli_epi32(h, 2), bits, v[3], OR_AND);
        }
    }
}

/* scale*code + min of a group; K16 has two scales. */
struct factors {
    __m512 scale[2], min;
};

INLINE __m512 halves(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)p));
}

INLINE struct factors factors_of(enum sl_mm_scales kind, const uint8_t *p, int64_t g,
                                 int64_t groups)
{
    struct factors f = {{_mm512_setzero_ps(), _mm512_setzero_ps()}, _mm512_setzero_ps()};
    const uint8_t *super = p + g / SL_MM_SUPER * (kind == SL_MM_K ? 64 : 32);
    const uint8_t *sub = p + groups / SL_MM_SUPER * (kind == SL_MM_K ? 64 : 32) + g * 32;
    __m128i s0, s1;
    switch (kind) {
    case SL_MM_D:
        f.scale[0] = halves(p + g * 32);
        break;
    case SL_MM_DM:
        f.scale[0] = halves(p + g * 64);
        f.min = halves(p + g * 64 + 32);
        break;
    case SL_MM_K: /* products of a half and a byte are exact in fp32 */
        s0 = _mm_load_si128((const __m128i *)sub);
        s1 = _mm_load_si128((const __m128i *)(sub + 16));
        f.scale[0] = _mm512_mul_ps(halves(super), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(s0)));
        f.min = _mm512_mul_ps(_mm512_sub_ps(_mm512_setzero_ps(), halves(super + 32)),
                              _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(s1)));
        break;
    case SL_MM_K16:
        s0 = _mm_load_si128((const __m128i *)sub);
        s1 = _mm_load_si128((const __m128i *)(sub + 16));
        f.scale[0] = _mm512_mul_ps(halves(super), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(s0)));
        f.scale[1] = _mm512_mul_ps(halves(super), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(s1)));
        break;
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
