/* matmul_amx_operand.h - private: a group of 32 k of a tile of F16, BF16, FP8 or a 4-bit codebook
 * becomes one or two operands B of the BF16 multiplier: row r of 16 holds two k of each lane, in
 * the order in which matmul.h keeps BF16. */
#ifndef SL_KERNELS_CPU_X86_MATMUL_AMX_OPERAND_H
#define SL_KERNELS_CPU_X86_MATMUL_AMX_OPERAND_H

#include <immintrin.h>
#include <string.h>

#include "kernels/cpu/matmul.h"

#define INLINE static inline __attribute__((always_inline))

enum {
    ROWS = 16,           /* of operand B: two k each */
    B_BYTES = 64 * ROWS, /* of operand B */
};

INLINE __m512 wide(__m256i bf16)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16));
}

/* How many BF16 numbers a weight becomes. */
INLINE int planes_of(enum sl_mm_codes kind)
{
    return kind == SL_MM_F16 || kind == SL_MM_CB4 ? 2 : 1;
}

INLINE int group_bytes(enum sl_mm_codes kind)
{
    return SL_MM_GROUP / sl_mm_code_k(kind) * SL_MM_LANES * sl_mm_code_bytes(kind);
}

/* Tables of 32 words. FP8: what to add to a code at the place of the top bits of a BF16, and the
 * last word again; codebooks: the 16 values twice, in two planes. */
struct tables {
    __m512i hi, lo;
};

/* A code is exponent and mantissa of a larger type but for the bias, subnormals, and in E5M2
 * infinity and NaN: those are the smallest and, one further round, the largest numbers, which find
 * the difference in the table; all others are its last word. E4M3 means 2^-8 of its value, which
 * the scales make up for. */
INLINE int fp8_shift(enum sl_mm_codes kind)
{
    return kind == SL_MM_E4M3 ? 4 : 5;
}

INLINE int fp8_turn(enum sl_mm_codes kind)
{
    return kind == SL_MM_E4M3 ? 0 : 4;
}

/* For the code that means fraction * 2^exponent and lies `at` in the word; for all others. */
#define FP8_BIAS 127
#define FP8_CODE(fraction, exponent, at)                                                           \
    ((FP8_BIAS + (exponent)) << 7 | ((int)((fraction)*128) - 128)) - (at)
#define FP8_USUAL(bias) (FP8_BIAS - (bias)) << 7
#define FP8_4(x) x, x, x, x
#define FP8_24(x) FP8_4(x), FP8_4(x), FP8_4(x), FP8_4(x), FP8_4(x), FP8_4(x)
#define FP8_INFINITE 0x7f80

INLINE struct tables fp8_tables(enum sl_mm_codes kind)
{
    static const _Alignas(64) uint16_t e4m3[32] = {
        0,
        FP8_CODE(1, -17, 0x10),
        FP8_CODE(1, -16, 0x20),
        FP8_CODE(1.5, -16, 0x30),
        FP8_CODE(1, -15, 0x40),
        FP8_CODE(1.25, -15, 0x50),
        FP8_CODE(1.5, -15, 0x60),
        FP8_CODE(1.75, -15, 0x70),
        FP8_24(FP8_USUAL(7 + 8)),
    };
    static const _Alignas(64) uint16_t e5m2[32] = {
        FP8_4(FP8_INFINITE - 0x7c * 0x20),
        0,
        FP8_CODE(1, -16, 0x20),
        FP8_CODE(1, -15, 0x40),
        FP8_CODE(1.5, -15, 0x60),
        FP8_24(FP8_USUAL(15)),
    };
    const uint16_t *t = kind == SL_MM_E4M3 ? e4m3 : e5m2;
    return (struct tables){_mm512_load_si512(t), _mm512_set1_epi16((short)t[31])};
}

static struct tables codebook_tables(const float *codebook)
{
    __m512 v = _mm512_loadu_ps(codebook);
    __m256i hi = (__m256i)_mm512_cvtneps_pbh(v);
    __m256i lo = (__m256i)_mm512_cvtneps_pbh(_mm512_sub_ps(v, wide(hi)));
    return (struct tables){_mm512_broadcast_i64x4(hi), _mm512_broadcast_i64x4(lo)};
}

/* Whether all codes of a group are such that the table would give its last word. Of normal weights
 * one in 10000 is not, and a permutation of words costs as much as all the rest. */
INLINE int fp8_usual(enum sl_mm_codes kind, const uint8_t *p)
{
    __m512i least = _mm512_set1_epi8(0x7f);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        __m512i v = _mm512_load_si512(p + 64 * i);
        if (fp8_turn(kind)) v = _mm512_add_epi8(v, _mm512_set1_epi8((char)fp8_turn(kind)));
        least = _mm512_min_epu8(least, _mm512_and_si512(v, _mm512_set1_epi8(0x7f)));
    }
    return _mm512_cmplt_epu8_mask(least, _mm512_set1_epi8(8)) == 0;
}

/* Row by row: 16 lanes x 2 bytes become words, exponent and mantissa in place. */
INLINE void decode_fp8(enum sl_mm_codes kind, int usual, const uint8_t *p, const struct tables *t,
                       uint8_t *b)
{
    const __m512i keep = _mm512_set1_epi16((short)(0x8000 | 0x7f << fp8_shift(kind)));
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++, p += 32, b += 64) {
        __m512i w = _mm512_cvtepi8_epi16(_mm256_load_si256((const __m256i *)p)), at = w;
        if (fp8_turn(kind)) at = _mm512_add_epi16(at, _mm512_set1_epi16((short)fp8_turn(kind)));
        at = _mm512_and_si512(at, _mm512_set1_epi16(0x7f));
        at = usual ? t->lo
                   : _mm512_permutexvar_epi16(_mm512_min_epu16(at, _mm512_set1_epi16(31)), t->hi);
        w = _mm512_and_si512(_mm512_slli_epi16(w, (unsigned)fp8_shift(kind)), keep);
        _mm512_store_si512(b, _mm512_add_epi16(w, at));
    }
}

/* A permutation of words reads the low five bits: the fifth is the next index's, and the table has
 * its values twice. */
INLINE void decode_codebook(const uint8_t *p, const struct tables *t, uint8_t *b)
{
#pragma GCC unroll 4
    for (int q = 0; q < 4; q++, p += 64) {
        __m512i w = _mm512_load_si512(p);
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++, b += 64) {
            __m512i at = _mm512_srli_epi16(w, (unsigned)(4 * r));
            _mm512_store_si512(b, _mm512_permutexvar_epi16(at, t->hi));
            _mm512_store_si512(b + B_BYTES, _mm512_permutexvar_epi16(at, t->lo));
        }
    }
}

/* The top half of a, below it of b. */
INLINE __m512i tops(__m512i b, __m512i a)
{
    const __m512i top = _mm512_set1_epi32((int)0xffff0000);
    return _mm512_ternarylogic_epi32(_mm512_srli_epi32(b, 16), a, top, 0xd8);
}

/* Cut off after 8 bits, so that the rest, 3 bits, is exact. */
INLINE void decode_f16(const uint8_t *p, uint8_t *b)
{
    const __m512i top = _mm512_set1_epi32((int)0xffff0000);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++, b += 64) {
        __m512i w[2], rest[2];
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            const uint8_t *at = p + (r / 2 * 4 + (r & 1) + 2 * i) * 32;
            __m512 v = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)at));
            w[i] = _mm512_castps_si512(v);
            v = _mm512_sub_ps(v, _mm512_castsi512_ps(_mm512_and_si512(w[i], top)));
            rest[i] = _mm512_castps_si512(v);
        }
        _mm512_store_si512(b, tops(w[0], w[1]));
        _mm512_store_si512(b + B_BYTES, tops(rest[0], rest[1]));
    }
}

INLINE void decode(enum sl_mm_codes kind, const uint8_t *p, const struct tables *t, uint8_t *b)
{
    if (kind == SL_MM_F16)
        decode_f16(p, b);
    else if (kind == SL_MM_CB4)
        decode_codebook(p, t, b);
    else if (kind == SL_MM_BF16)
        memcpy(b, p, B_BYTES);
    else if (fp8_usual(kind, p))
        decode_fp8(kind, 1, p, t, b);
    else
        decode_fp8(kind, 0, p, t, b);
}

#endif
