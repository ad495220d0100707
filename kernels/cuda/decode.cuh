/* decode.cuh - packed weights to fragments of the tensor cores, in registers: every form of codes,
 * scales and minimums of cuda.h to pairs of halfs.
 *
 * A fragment is operand A of mma.m16n8k16 (PTX ISA): 16 rows of the weight by 16 of k. Lane l holds
 * rows g = l / 4 and g + 8; which k its four halfs of a row are does not matter as long as the
 * activations, operand B, come in the same order. So a lane takes *consecutive* codes of its rows,
 * as many as 16 bytes hold (8, 16 or 32: LANE_K), straight from memory; the four lanes of a row
 * take neighbouring pieces, together STEP_K columns, which are LANE_K / 4 products.
 *
 * Scales are multiplied into the weights as halfs, so the accumulator needs no second thought; this
 * is exact for NVFP4 and MXFP4. The others round once to 11 bits, as the row's factor keeps every
 * row at the top of the half's range. A scale GRID (FP8 blocks) multiplies accumulators instead
 * (matmul_core.cuh). What a decoder leaves out as a power of two is UNIT; it joins the row's factor
 * at the end. */
#ifndef SL_KERNELS_CUDA_DECODE_CUH
#define SL_KERNELS_CUDA_DECODE_CUH

#include <cuda_fp16.h>

#include "kernels/cuda/cuda.h"

/* ---- small pieces ---------------------------------------------------------------------------- */

/* Weights pass once: they neither stay in L1 nor wait for one another. */
static __device__ __forceinline__ uint4 sl_load16(const void *p)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

static __device__ __forceinline__ uint2 sl_load8(const void *p)
{
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v2.u32 {%0, %1}, [%2];"
                 : "=r"(v.x), "=r"(v.y)
                 : "l"(p));
    return v;
}

static __device__ __forceinline__ uint32_t sl_bits(__half2 h)
{
    return *reinterpret_cast<uint32_t *>(&h);
}

static __device__ __forceinline__ __half2 sl_pair(uint32_t u)
{
    return *reinterpret_cast<__half2 *>(&u);
}

static __device__ __forceinline__ uint32_t sl_mul(uint32_t a, uint32_t b)
{
    return sl_bits(__hmul2(sl_pair(a), sl_pair(b)));
}

static __device__ __forceinline__ uint32_t sl_add(uint32_t a, uint32_t b)
{
    return sl_bits(__hadd2(sl_pair(a), sl_pair(b)));
}

static __device__ __forceinline__ uint32_t sl_fma(uint32_t a, uint32_t b, uint32_t c)
{
    return sl_bits(__hfma2(sl_pair(a), sl_pair(b), sl_pair(c)));
}

/* A half twice. */
static __device__ __forceinline__ uint32_t sl_twice(uint32_t half_bits)
{
    return __byte_perm(half_bits, 0, 0x1010);
}

/* Two E4M3 in the lower 16 bits to two halfs; exact. */
static __device__ __forceinline__ uint32_t sl_e4m3_pair(uint32_t two)
{
    uint32_t d;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(d) : "h"((unsigned short)two));
    return d;
}

/* ---- formats --------------------------------------------------------------------------------- */

/* What of a descriptor the stream reads again and again, in registers. */
struct sl_weight_view {
    const uint8_t *code, *high, *scale, *min, *super, *supmin;
    int64_t code_stride, high_stride;
    int rows, groups, supers, group_shift; /* a group is 2^group_shift columns, or a whole row */
    int grid_rows, grid_stride;

    __device__ __forceinline__ void open(const sl_cuda_weight &w)
    {
        code = (const uint8_t *)w.code, high = (const uint8_t *)w.high;
        scale = (const uint8_t *)w.scale, min = (const uint8_t *)w.min;
        super = (const uint8_t *)w.super, supmin = (const uint8_t *)w.supmin;
        code_stride = w.code_stride, high_stride = w.high_stride;
        rows = w.rows, groups = (int)sl_cuda_groups(&w), supers = (int)sl_cuda_supers(&w);
        group_shift = groups == 1 ? 31 : 31 - __clz(w.group);
        grid_rows = w.grid_rows, grid_stride = w.grid_stride;
    }
};

/* Forms of one code. BITS of the main plane, HIGH of the other; LANE_K codes a lane takes at once;
 * ORDER of the pairs that leave a word of nibbles: 0 natural, 1 (k, k+4). */
template <int CODE> struct sl_code_form {
    static constexpr int BITS =
        CODE == SL_CUDA_F16 ? 16
        : CODE == SL_CUDA_E4M3 || CODE == SL_CUDA_E5M2 || CODE == SL_CUDA_I8 || CODE == SL_CUDA_U8
            ? 8
        : CODE == SL_CUDA_U2 || CODE == SL_CUDA_U3 ? 2
                                                   : 4;
    static constexpr int HIGH = CODE == SL_CUDA_U3 || CODE == SL_CUDA_U5 ? 1
                                : CODE == SL_CUDA_U6                     ? 2
                                                                         : 0;
    static constexpr int LANE_K = BITS == 16 ? 8 : BITS == 8 ? 16 : 32;
    static constexpr int ORDER = BITS >= 8 || CODE == SL_CUDA_LUT4 ? 0 : 1;
};

/* Exponent field of the half that stands for E8M0's 2^0. The pack brings a row's largest scale to
 * 2^0 and raises those below what code * scale can hold exactly as a half to that (pack.cu), so
 * that the whole range of halfs is used: 24 binades of scales for E2M1, 20 for E4M3, 13 for E5M2.
 */
template <int CODE>
static constexpr int sl_e8m0_field = CODE == SL_CUDA_E2M1   ? 30
                                     : CODE == SL_CUDA_E4M3 ? 21
                                                            : 14;

/* One combination. PAIR: groups of 16 where a lane takes 32 codes, so it meets two of them. */
template <int CODE_, int SCALE_, int MIN_, bool PAIR_> struct sl_format {
    static constexpr int CODE = CODE_, SCALE = SCALE_, MIN = MIN_;
    using form = sl_code_form<CODE>;
    static constexpr bool PAIR = PAIR_;
    static_assert(!PAIR || form::LANE_K == 32, "a lane meets two groups only with 32 codes");
    static constexpr int LANE_K = form::LANE_K, STEP_K = 4 * LANE_K, ORDER = form::ORDER;
    static constexpr int CODE_WORDS = LANE_K * form::BITS / 32, HIGH_WORDS = form::HIGH;
    static constexpr bool GRID = SCALE == SL_CUDA_SCALE_GRID;
    static constexpr bool SUB = SCALE == SL_CUDA_SCALE_SUB_U || SCALE == SL_CUDA_SCALE_SUB_I;
    static constexpr bool GROUPS = SCALE != SL_CUDA_SCALE_NONE && !GRID;
    static constexpr int SCALES = PAIR ? 2 : 1;
    static constexpr float UNIT =
        (CODE == SL_CUDA_E2M1 ? 16384.0f : 1.0f) * (SCALE == SL_CUDA_SCALE_UE4M3  ? 1.0f / 128
                                                    : SCALE != SL_CUDA_SCALE_E8M0 ? 1.0f
                                                    : CODE == SL_CUDA_E2M1        ? 1.0f / 32768
                                                    : CODE == SL_CUDA_E4M3        ? 1.0f / 64
                                                                                  : 2.0f);

    /* What a lane loads of one row for one step; unused words cost nothing. */
    struct raw {
        uint32_t code[CODE_WORDS];
        uint32_t high[HIGH_WORDS ? HIGH_WORDS : 1];
        uint32_t scale, min, super;
    };
    /* What is the same for the whole matrix: offsets of magic numbers, or the table by bytes. */
    struct constant {
        uint32_t near, far;
        uint32_t low[4], high[4];
    };
    /* Scales of a step, as pairs of one half. */
    struct scales {
        uint32_t mul[SCALES], add[SCALES], near[SCALES], far[SCALES];
    };

    static __device__ __forceinline__ constant prepare(const sl_cuda_weight &w);
    static __device__ __forceinline__ void load(raw &r, const sl_weight_view &w,
                                                const uint8_t *code_row, int row, int k);
    static __device__ __forceinline__ scales unpack(const raw &r, const constant &c);
    /* Halfs of product q < LANE_K / 4: its first and second eight of k. */
    static __device__ __forceinline__ void
    fragment(const raw &r, const scales &s, const constant &c, int q, uint32_t &a, uint32_t &b);
};

/* Integers become halfs by or-ing them into the mantissa of 1024: 0x6400 | code is 1024 + code. A
 * nibble that sits four bits higher counts 16 times: its pair is divided by 16 with the offset in
 * one exact fma. `near` and `far` are what is added in both cases. */
static constexpr uint32_t SL_MAGIC = 0x64006400, SL_SIXTEENTH = 0x2c002c00;

template <int CODE, int SCALE, int MIN, bool PAIR>
__device__ __forceinline__ typename sl_format<CODE, SCALE, MIN, PAIR>::constant
sl_format<CODE, SCALE, MIN, PAIR>::prepare(const sl_cuda_weight &w)
{
    constant c = {};
    if constexpr (CODE == SL_CUDA_LUT4) {
#pragma unroll
        for (int i = 0; i < 16; i++) {
            uint32_t h = __half_as_ushort(__float2half_rn(w.lut[i]));
            c.low[i / 4] |= (h & 0xff) << 8 * (i % 4);
            c.high[i / 4] |= (h >> 8) << 8 * (i % 4);
        }
    } else {
        float offset = w.offset + (CODE == SL_CUDA_I8 ? 128.0f : 0.0f);
        c.near = sl_bits(__float2half2_rn(-1024.0f - offset));
        c.far = sl_bits(__float2half2_rn(-64.0f - offset));
    }
    return c;
}

template <int CODE, int SCALE, int MIN, bool PAIR>
__device__ __forceinline__ void
sl_format<CODE, SCALE, MIN, PAIR>::load(raw &r, const sl_weight_view &w, const uint8_t *code_row,
                                        int row, int k)
{
    if constexpr (CODE_WORDS == 4) {
        uint4 v = sl_load16(code_row + (size_t)k * form::BITS / 8);
        r.code[0] = v.x, r.code[1] = v.y, r.code[2] = v.z, r.code[3] = v.w;
    } else {
        uint2 v = sl_load8(code_row + (size_t)k * form::BITS / 8);
        r.code[0] = v.x, r.code[1] = v.y;
    }
    if constexpr (HIGH_WORDS == 1) {
        r.high[0] = __ldg((const uint32_t *)(w.high + row * w.high_stride + k / 8));
    } else if constexpr (HIGH_WORDS == 2) {
        uint2 v = sl_load8(w.high + row * w.high_stride + k / 4);
        r.high[0] = v.x, r.high[1] = v.y;
    }
    if constexpr (GROUPS || MIN != SL_CUDA_MIN_NONE) {
        size_t at = (size_t)row * (uint32_t)w.groups + (k >> w.group_shift);
        if constexpr (SCALE == SL_CUDA_SCALE_F16)
            r.scale = PAIR ? __ldg((const uint32_t *)w.scale + at / 2)
                           : __ldg((const unsigned short *)w.scale + at);
        else if constexpr (GROUPS)
            r.scale = PAIR ? __ldg((const unsigned short *)w.scale + at / 2)
                           : __ldg((const uint8_t *)w.scale + at);
        if constexpr (MIN == SL_CUDA_MIN_F16)
            r.min = PAIR ? __ldg((const uint32_t *)w.min + at / 2)
                         : __ldg((const unsigned short *)w.min + at);
        else if constexpr (MIN != SL_CUDA_MIN_NONE)
            r.min = PAIR ? __ldg((const unsigned short *)w.min + at / 2)
                         : __ldg((const uint8_t *)w.min + at);
    }
    if constexpr (SUB) {
        size_t at = (size_t)row * (uint32_t)w.supers + (k >> 8);
        r.super = __ldg((const unsigned short *)w.super + at);
        if constexpr (MIN == SL_CUDA_MIN_SUB)
            r.super |= (uint32_t)__ldg((const unsigned short *)w.supmin + at) << 16;
    }
}

template <int CODE, int SCALE, int MIN, bool PAIR>
__device__ __forceinline__ typename sl_format<CODE, SCALE, MIN, PAIR>::scales
sl_format<CODE, SCALE, MIN, PAIR>::unpack(const raw &r, const constant &c)
{
    scales s = {};
#pragma unroll
    for (int i = 0; i < SCALES; i++) {
        s.near[i] = c.near, s.far[i] = c.far;
        if constexpr (SCALE == SL_CUDA_SCALE_F16) {
            s.mul[i] = __byte_perm(r.scale, 0, i ? 0x3232 : 0x1010);
        } else if constexpr (SCALE == SL_CUDA_SCALE_UE4M3) {
            /* times 2^7: what is not a normal half then is still exact */
            s.mul[i] =
                __byte_perm(sl_mul(sl_e4m3_pair(r.scale), 0x58005800), 0, i ? 0x3232 : 0x1010);
        } else if constexpr (SCALE == SL_CUDA_SCALE_E8M0) {
            s.mul[i] = sl_twice((r.scale >> 8 * i & 0xff) - (127 - sl_e8m0_field<CODE>) << 10);
        } else if constexpr (SUB) {
            /* (scale, minimum) as one pair times (super, super minimum): one rounding. */
            uint32_t scale = r.scale >> 8 * i & 0xff, zero = 1024;
            if constexpr (SCALE == SL_CUDA_SCALE_SUB_I) scale ^= 0x80, zero = 1024 + 128;
            uint32_t both = 0x64006400 | scale;
            if constexpr (MIN == SL_CUDA_MIN_SUB) both |= (r.min >> 8 * i & 0xff) << 16;
            both = sl_add(both, sl_bits(__floats2half2_rn(-(float)zero, -1024.0f)));
            both = sl_mul(both, r.super);
            s.mul[i] = sl_twice(both);
            if constexpr (MIN == SL_CUDA_MIN_SUB)
                s.add[i] = __byte_perm(both, 0, 0x3232) ^ 0x80008000;
        }
        if constexpr (MIN == SL_CUDA_MIN_F16) s.add[i] = __byte_perm(r.min, 0, i ? 0x3232 : 0x1010);
        if constexpr (MIN == SL_CUDA_MIN_ZERO_U8) {
            /* -(1024 + z) has z in its mantissa, too; the rest of the offset is added to it. */
            uint32_t z = sl_twice(r.min >> 8 * i & 0xff);
            __half2 number = __hsub2(sl_pair(z | SL_MAGIC), sl_pair(SL_MAGIC));
            s.near[i] = sl_bits(__hsub2(sl_pair(c.near), number));
            s.far[i] = sl_bits(__hsub2(sl_pair(c.far), number));
        }
    }
    return s;
}

/* Lookup of four codes, the low 16 bits of `codes`, in a table of halfs: the permute instruction
 * picks among 8 bytes, so both halves of the table are asked and bit 3 chooses. */
static __device__ __forceinline__ void sl_lookup(uint32_t codes, const uint32_t (&low)[4],
                                                 const uint32_t (&high)[4], uint32_t &a,
                                                 uint32_t &b)
{
    uint32_t pick = codes & 0x7777, upper = __byte_perm(0, 0xffffffff, codes >> 1 & 0x4444);
    uint32_t l =
        (__byte_perm(low[0], low[1], pick) & ~upper) | (__byte_perm(low[2], low[3], pick) & upper);
    uint32_t h = (__byte_perm(high[0], high[1], pick) & ~upper) |
                 (__byte_perm(high[2], high[3], pick) & upper);
    a = __byte_perm(l, h, 0x5140);
    b = __byte_perm(l, h, 0x7362);
}

/* Pair p of 4 of a word of eight integers, (k, k + 4) for k = p, as 1024 + code, or as
 * 1024 + 16 * code where p is odd and `far` says so. */
template <int CODE, class RAW>
static __device__ __forceinline__ uint32_t sl_integer_pair(const RAW &r, int word, int p)
{
    if constexpr (CODE == SL_CUDA_U2 || CODE == SL_CUDA_U3) {
        uint32_t two = __byte_perm(r.code[word / 2], 0, word % 2 ? 0x4342 : 0x4140);
        uint32_t v = (two >> 2 * p & 0x00030003) | SL_MAGIC;
        if constexpr (CODE == SL_CUDA_U3) {
            uint32_t byte = r.high[0] >> 8 * word & 0xff, y = byte | byte << 12;
            v |= (p < 2 ? y << (2 - p) : y >> (p - 2)) & 0x00040004;
        }
        return v;
    } else {
        uint32_t nibbles = p < 2 ? r.code[word] : r.code[word] >> 8;
        uint32_t v = (nibbles & (p % 2 ? 0x00f000f0 : 0x000f000f)) | SL_MAGIC;
        if constexpr (CODE == SL_CUDA_U5) {
            uint32_t byte = r.high[0] >> 8 * word & 0xff, y = byte | byte << 12;
            v |= y << (p % 2 ? 8 - p : 4 - p) & (p % 2 ? 0x01000100 : 0x00100010);
        }
        if constexpr (CODE == SL_CUDA_U6) {
            uint32_t y = __byte_perm(r.high[word / 2], 0, word % 2 ? 0x4342 : 0x4140);
            int shift = (p % 2 ? 8 : 4) - 2 * p;
            v |= (shift >= 0 ? y << shift : y >> -shift) & (p % 2 ? 0x03000300 : 0x00300030);
        }
        return v;
    }
}

template <int CODE, int SCALE, int MIN, bool PAIR>
__device__ __forceinline__ void
sl_format<CODE, SCALE, MIN, PAIR>::fragment(const raw &r, const scales &s, const constant &c, int q,
                                            uint32_t &a, uint32_t &b)
{
    const int i = PAIR ? q / 4 : 0; /* the group */
    if constexpr (CODE == SL_CUDA_F16) {
        a = r.code[2 * q], b = r.code[2 * q + 1];
    } else if constexpr (CODE == SL_CUDA_E4M3) {
        a = sl_e4m3_pair(r.code[q]), b = sl_e4m3_pair(r.code[q] >> 16);
    } else if constexpr (CODE == SL_CUDA_E5M2) { /* the upper byte of a half */
        a = __byte_perm(r.code[q], 0, 0x1404), b = __byte_perm(r.code[q], 0, 0x3424);
    } else if constexpr (CODE == SL_CUDA_I8 || CODE == SL_CUDA_U8) {
        uint32_t bytes = CODE == SL_CUDA_I8 ? r.code[q] ^ 0x80808080 : r.code[q];
        a = sl_add(__byte_perm(bytes, SL_MAGIC, 0x5150), s.near[i]);
        b = sl_add(__byte_perm(bytes, SL_MAGIC, 0x5352), s.near[i]);
    } else if constexpr (CODE == SL_CUDA_E2M1) {
        /* As halfs less 2^14: sign to bit 15, the rest to the lowest exponent bits. */
        uint32_t word = r.code[q / 2];
        if (q % 2 == 0) {
            a = (word << 12 & 0x80008000) | (word << 9 & 0x0e000e00);
            b = (word << 8 & 0x80008000) | (word << 5 & 0x0e000e00);
        } else {
            a = (word << 4 & 0x80008000) | (word << 1 & 0x0e000e00);
            b = (word & 0x80008000) | (word >> 3 & 0x0e000e00);
        }
    } else if constexpr (CODE == SL_CUDA_LUT4) {
        sl_lookup(q % 2 ? r.code[q / 2] >> 16 : r.code[q / 2], c.low, c.high, a, b);
    } else {
        const int p = q % 2 * 2;
        a = sl_add(sl_integer_pair<CODE>(r, q / 2, p), s.near[i]);
        b = sl_integer_pair<CODE>(r, q / 2, p + 1);
        if constexpr (form::BITS == 4)
            b = sl_fma(b, SL_SIXTEENTH, s.far[i]);
        else
            b = sl_add(b, s.near[i]);
    }
    if constexpr (MIN == SL_CUDA_MIN_F16 || MIN == SL_CUDA_MIN_SUB)
        a = sl_fma(a, s.mul[i], s.add[i]), b = sl_fma(b, s.mul[i], s.add[i]);
    else if constexpr (GROUPS)
        a = sl_mul(a, s.mul[i]), b = sl_mul(b, s.mul[i]);
}

#endif
