/* dequant.c - the one definition of each weight format: bytes to float32, a block at a time, plain
 * C.
 *
 * Slow on purpose: every line can be held against the format's description, and every fast path is
 * tested against this file. `b` is a block's bytes, `i` the element inside it. Blocks are not
 * aligned. */
#include <math.h>
#include <string.h>

#include "base/sl_assert.h"
#include "kernels/kernels.h"

/* ---- 16-bit floats --------------------------------------------------------------------------- */

static float bits_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof(f));
    return f;
}

static uint32_t float_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    return u;
}

float sl_half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = h >> 10 & 31, frac = h & 0x3ff;
    if (exp == 31) return bits_float(sign | 0x7f800000 | frac << 13);
    if (exp == 0) { /* zero or subnormal: frac * 2^-24, exact in float */
        float f = (float)frac * 0x1p-24f;
        return sign ? -f : f;
    }
    return bits_float(sign | (exp + 112) << 23 | frac << 13);
}

uint16_t sl_float_to_half(float f)
{
    uint32_t u = float_bits(f), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
    if (a > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x1ff)); /* NaN stays one */
    if (a >= 0x47800000) return (uint16_t)(sign | 0x7c00);                    /* 65536 and more */
    if (a < 0x38800000) { /* below 2^-14: a multiple of 2^-24; the addition rounds it to even */
        float r = bits_float(a) + 0.5f; /* ulp of 0.5 is 2^-24 */
        return (uint16_t)(sign | (float_bits(r) - 0x3f000000));
    }
    /* A carry into the exponent is right, also up to infinity. */
    uint32_t r = a - 0x38000000 + 0xfff + (a >> 13 & 1);
    return (uint16_t)(sign | r >> 13);
}

float sl_bf16_to_float(uint16_t h)
{
    return bits_float((uint32_t)h << 16);
}

uint16_t sl_float_to_bf16(float f)
{
    uint32_t u = float_bits(f);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 0x40); /* NaN stays one */
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* ---- little-endian fields of a block --------------------------------------------------------- */

static uint16_t u16_at(const uint8_t *b)
{
    return (uint16_t)(b[0] | b[1] << 8);
}

static uint32_t u32_at(const uint8_t *b)
{
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static float half_at(const uint8_t *b)
{
    return sl_half_to_float(u16_at(b));
}

/* Nibble i of 32: the low halves of 16 bytes, then the high halves. */
static int nibble(const uint8_t *q, int i)
{
    return q[i % 16] >> 4 * (i / 16) & 15;
}

/* ---- 32-element blocks ----------------------------------------------------------------------- */

static void q4_0(const uint8_t *b, float *y)
{
    float d = half_at(b);
    for (int i = 0; i < 32; i++) y[i] = d * (float)(nibble(b + 2, i) - 8);
}

static void q4_1(const uint8_t *b, float *y)
{
    float d = half_at(b), m = half_at(b + 2);
    for (int i = 0; i < 32; i++) y[i] = d * (float)nibble(b + 4, i) + m;
}

static void q5_0(const uint8_t *b, float *y)
{
    float d = half_at(b);
    uint32_t high = u32_at(b + 2);
    for (int i = 0; i < 32; i++)
        y[i] = d * (float)((nibble(b + 6, i) | (int)(high >> i & 1) << 4) - 16);
}

static void q5_1(const uint8_t *b, float *y)
{
    float d = half_at(b), m = half_at(b + 2);
    uint32_t high = u32_at(b + 4);
    for (int i = 0; i < 32; i++)
        y[i] = d * (float)(nibble(b + 8, i) | (int)(high >> i & 1) << 4) + m;
}

static void q8_0(const uint8_t *b, float *y)
{
    float d = half_at(b);
    for (int i = 0; i < 32; i++) y[i] = d * (float)(int8_t)b[2 + i];
}

/* OCP E2M1: the values of the eight magnitudes, then the same negated. */
static float e2m1(int code)
{
    static const float magnitude[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    return code & 8 ? -magnitude[code & 7] : magnitude[code & 7];
}

/* The 16 levels of the IQ4 formats. */
static const int8_t iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                               1,    13,   25,  38,  53,  69,  89,  113};

static void iq4_nl(const uint8_t *b, float *y)
{
    float d = half_at(b);
    for (int i = 0; i < 32; i++) y[i] = d * (float)iq4[nibble(b + 2, i)];
}

/* E8M0 has no zero and no sign; 255 is NaN. */
static void mxfp4(const uint8_t *b, float *y)
{
    float d = b[0] == 0xff ? NAN : ldexpf(1, b[0] - 127);
    for (int i = 0; i < 32; i++) y[i] = d * e2m1(nibble(b + 1, i));
}

/* The scale of 16 elements: E4M3 without its sign. ggml reads the byte of NaN as 0. */
static float ue4m3(uint8_t c)
{
    int man = c & 7, exp = c >> 3 & 15;
    if ((c & 0x7f) == 0x7f) return 0;
    return exp ? ldexpf(1 + (float)man / 8, exp - 7) : ldexpf((float)man, -9);
}

static void nvfp4(const uint8_t *b, float *y)
{
    for (int i = 0; i < 64; i++) {
        int s = i / 16, q = b[4 + 8 * s + i % 8] >> 4 * (i % 16 / 8) & 15;
        y[i] = ue4m3(b[s]) * e2m1(q);
    }
}

/* ---- 256-element blocks ---------------------------------------------------------------------- */

/* Scale and minimum, 6 bits each, of sub-block j of 8 out of the 12 packed bytes s. */
static void k_scale(const uint8_t *s, int j, int *scale, int *min)
{
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
        *min = s[j + 4] >> 4 | s[j] >> 6 << 4;
    }
}

static void q2_k(const uint8_t *b, float *y)
{
    float d = half_at(b + 80), dmin = half_at(b + 82);
    for (int i = 0; i < 256; i++) {
        int s = b[i / 16], q = b[16 + 32 * (i / 128) + i % 32] >> 2 * (i % 128 / 32) & 3;
        y[i] = d * (float)(s & 15) * (float)q - dmin * (float)(s >> 4);
    }
}

/* Sixteen scales of 6 bits in 12 bytes: low nibbles in the first 8, pairs of high bits after. */
static int q3_scale(const uint8_t *s, int t)
{
    return ((s[t % 8] >> 4 * (t / 8) & 15) | (s[8 + t % 4] >> 2 * (t / 4) & 3) << 4) - 32;
}

static void q3_k(const uint8_t *b, float *y)
{
    float d = half_at(b + 108);
    for (int i = 0; i < 256; i++) {
        int n = i / 128, r = i % 128 / 32, l = i % 32;
        int q = b[32 + 32 * n + l] >> 2 * r & 3;
        if (!(b[l] >> (4 * n + r) & 1)) q -= 4;
        y[i] = d * (float)q3_scale(b + 96, i / 16) * (float)q;
    }
}

static void iq4_xs(const uint8_t *b, float *y)
{
    float d = half_at(b);
    for (int i = 0; i < 256; i++) {
        int k = i / 32;
        int scale = (b[4 + k / 2] >> 4 * (k & 1) & 15) | (u16_at(b + 2) >> 2 * k & 3) << 4;
        y[i] = d * (float)(scale - 32) * (float)iq4[nibble(b + 8 + 16 * k, i % 32)];
    }
}

static void q4_k(const uint8_t *b, float *y)
{
    float d = half_at(b), dmin = half_at(b + 2);
    for (int i = 0; i < 256; i++) {
        int j = i / 32, l = i % 32, scale, min;
        k_scale(b + 4, j, &scale, &min);
        int q = b[16 + 32 * (j / 2) + l] >> 4 * (j & 1) & 15;
        y[i] = d * (float)scale * (float)q - dmin * (float)min;
    }
}

static void q5_k(const uint8_t *b, float *y)
{
    float d = half_at(b), dmin = half_at(b + 2);
    for (int i = 0; i < 256; i++) {
        int j = i / 32, l = i % 32, scale, min;
        k_scale(b + 4, j, &scale, &min);
        int q = b[48 + 32 * (j / 2) + l] >> 4 * (j & 1) & 15;
        q |= (b[16 + l] >> j & 1) << 4;
        y[i] = d * (float)scale * (float)q - dmin * (float)min;
    }
}

static void q6_k(const uint8_t *b, float *y)
{
    float d = half_at(b + 208);
    for (int i = 0; i < 256; i++) {
        int n = i / 128, g = i % 128 / 32, l = i % 32;
        int low = b[64 * n + 32 * (g & 1) + l] >> 4 * (g >> 1) & 15;
        int high = b[128 + 32 * n + l] >> 2 * g & 3;
        y[i] = d * (float)(int8_t)b[192 + i / 16] * (float)((low | high << 4) - 32);
    }
}

/* ---- dispatch -------------------------------------------------------------------------------- */

static void plain_row(enum sl_dtype type, const uint8_t *src, float *dst, int64_t n)
{
    if (type == SL_F32) {
        if (n) memcpy(dst, src, (size_t)n * sizeof(float));
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        uint16_t h = u16_at(src + 2 * i);
        dst[i] = type == SL_F16 ? sl_half_to_float(h) : sl_bf16_to_float(h);
    }
}

void sl_dequantize(enum sl_dtype type, const void *src, float *dst, int64_t n)
{
    static void (*const decode[SL_DTYPE_COUNT])(const uint8_t *, float *) = {
        [SL_Q4_0] = q4_0,   [SL_Q4_1] = q4_1,   [SL_Q5_0] = q5_0,     [SL_Q5_1] = q5_1,
        [SL_Q8_0] = q8_0,   [SL_Q2_K] = q2_k,   [SL_Q3_K] = q3_k,     [SL_Q4_K] = q4_k,
        [SL_Q5_K] = q5_k,   [SL_Q6_K] = q6_k,   [SL_IQ4_NL] = iq4_nl, [SL_IQ4_XS] = iq4_xs,
        [SL_MXFP4] = mxfp4, [SL_NVFP4] = nvfp4,
    };
    SL_ASSERT((int)type >= 0 && type < SL_DTYPE_COUNT && n >= 0);
    if (sl_dtype_kind(type) == SL_KIND_FLOAT) {
        plain_row(type, src, dst, n);
        return;
    }
    int block = sl_dtype_block(type), bytes = sl_dtype_block_bytes(type);
    SL_ASSERT(decode[type] && n % block == 0);
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i += block, b += bytes) decode[type](b, dst + i);
}
