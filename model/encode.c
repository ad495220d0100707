/* encode.c - see encode.h. */
#include "model/encode.h"

#include <math.h>
#include <string.h>

#include "base/sl_assert.h"

#define INT_GROUP_MAX 64

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* |x| as a code of a format with `man` bits of mantissa and this bias, rounded to even; codes grow
 * with the value, so subnormals and carries into the exponent need no case of their own. The
 * smallest steps are 2^(1 - bias - man). */
static uint32_t round_to_code(float x, int man, int bias)
{
    uint32_t u = bits_of(x) & 0x7fffffff;
    int drop = 23 - man;
    if (u < (uint32_t)(127 - bias + 1) << 23) /* subnormal there: whole steps, added and cut off */
        return (uint32_t)lrintf(ldexpf(float_of(u), bias - 1 + man));
    uint32_t rounded = u + ((1u << (drop - 1)) - 1) + (u >> drop & 1);
    return (rounded >> drop) - ((uint32_t)(127 - bias) << man);
}

uint16_t sl_encode_bf16(float x)
{
    uint32_t u = bits_of(x);
    if (isnan(x)) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

uint16_t sl_encode_f16(float x)
{
    uint16_t sign = (uint16_t)(bits_of(x) >> 16 & 0x8000);
    if (isnan(x)) return (uint16_t)(sign | 0x7e00);
    if (fabsf(x) >= 65520.0f) return (uint16_t)(sign | 0x7c00); /* half a step above the largest */
    return (uint16_t)(sign | round_to_code(x, 10, 15));
}

uint8_t sl_encode_e4m3(float x)
{
    uint8_t sign = (uint8_t)(bits_of(x) >> 24 & 0x80);
    if (isnan(x)) return 0x7f;
    if (fabsf(x) >= SL_E4M3_MAX) return sign | 0x7e;
    return (uint8_t)(sign | round_to_code(x, 3, 7));
}

/* By comparing with the middles between 0 .5 1 1.5 2 3 4 6: a middle belongs to its even side. */
uint8_t sl_encode_e2m1(float x)
{
    float a = fabsf(x);
    int code = (a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + (a > 2.5f) + (a >= 3.5f) +
               (a > 5);
    return isnan(x) ? 7 : (uint8_t)(code | (bits_of(x) >> 28 & 8));
}

/* The other way: a code without its sign. */
static float code_value(uint32_t code, int man, int bias)
{
    int e = (int)(code >> man), m = (int)(code & ((1u << man) - 1));
    return e ? ldexpf((float)(m + (1 << man)), e - bias - man) : ldexpf((float)m, 1 - bias - man);
}

float sl_decode_f16(uint16_t h)
{
    float v =
        (h & 0x7c00) == 0x7c00 ? (h & 0x3ff ? NAN : INFINITY) : code_value(h & 0x7fff, 10, 15);
    return h & 0x8000 ? -v : v;
}

float sl_decode_e4m3(uint8_t c)
{
    float v = (c & 0x7f) == 0x7f ? NAN : code_value(c & 0x7f, 3, 7);
    return c & 0x80 ? -v : v;
}

float sl_decode_e2m1(uint8_t c)
{
    static const float values[16] = {0,    0.5f,  1,  1.5f,  2,  3,  4,  6,
                                     -0.f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
    return values[c & 15];
}

static float largest(const float *x, int64_t n)
{
    float a = 0;
    for (int64_t i = 0; i < n; i++) a = fmaxf(a, fabsf(x[i]));
    return a;
}

void sl_encode_row_e4m3(const float *x, int64_t n, uint8_t *codes, float *scale)
{
    float a = largest(x, n);
    *scale = a > 0 ? a / SL_E4M3_MAX : 1; /* of zeros any scale is right */
    if (!(*scale >= 0x1p-126f)) *scale = 0x1p-126f;
    for (int64_t i = 0; i < n; i++) codes[i] = sl_encode_e4m3(x[i] / *scale);
}

static void put_nibble(uint8_t *codes, int i, uint8_t code)
{
    codes[i / 2] = (uint8_t)(i % 2 ? codes[i / 2] | code << 4 : code);
}

void sl_encode_group_nvfp4(const float x[16], float global, uint8_t codes[8], uint8_t *scale)
{
    *scale = sl_encode_e4m3(largest(x, 16) / SL_E2M1_MAX * global);
    float s = sl_decode_e4m3(*scale) / global;
    for (int i = 0; i < 16; i++) put_nibble(codes, i, s > 0 ? sl_encode_e2m1(x[i] / s) : 0);
}

/* Encodes with the scale 2^(e - 127), 0 <= e <= 254; returns the squared error. */
static double try_mxfp4(const float x[32], int e, uint8_t codes[16])
{
    float scale = ldexpf(1, e - 127), inverse = ldexpf(1, 127 - e);
    double error = 0;
    for (int i = 0; i < 32; i++) {
        uint8_t c = sl_encode_e2m1(x[i] * inverse);
        double d = (double)x[i] - (double)sl_decode_e2m1(c) * (double)scale;
        error += d * d;
        put_nibble(codes, i, c);
    }
    return error;
}

void sl_encode_group_mxfp4(const float x[32], uint8_t codes[16], uint8_t *scale)
{
    uint8_t other[16];
    float a = largest(x, 32);
    int exp = a > 0 ? ilogbf(a) : -127; /* floor(log2): the largest element lies in 4 .. 8 */
    int e = SL_MAX(0, SL_MIN(253, exp - 2 + 127));
    double low = try_mxfp4(x, e, codes), high = try_mxfp4(x, e + 1, other);
    if (high < low) memcpy(codes, other, sizeof other);
    *scale = (uint8_t)(high < low ? e + 1 : e);
}

/* Encodes with `scale`; returns the squared error. */
static double try_int(const float *x, int n, int bits, float scale, uint8_t *codes)
{
    int half = 1 << (bits - 1);
    double error = 0;
    for (int i = 0; i < n; i++) {
        float q = rintf(x[i] / scale);
        q = fminf(fmaxf(q, (float)-half), (float)(half - 1));
        double d = (double)x[i] - (double)q * (double)scale;
        error += d * d;
        codes[i] = (uint8_t)((int)q + half);
    }
    return error;
}

void sl_encode_group_int(const float *x, int n, int bits, uint8_t *codes, uint16_t *scale)
{
    /* the largest value at the end of the positive side, of the negative side, or between: a few
     * values that are cut off may cost less than coarser steps for all */
    static const float ends8[] = {127}, ends4[] = {7, 7.25f, 7.5f, 7.75f, 8};
    const float *ends = bits == 8 ? ends8 : ends4;
    int n_ends = bits == 8 ? 1 : 5;
    uint8_t tried[INT_GROUP_MAX];
    float a = largest(x, n);
    double best = INFINITY;
    SL_ASSERT(n <= INT_GROUP_MAX && (bits == 8 || bits == 4));
    for (int i = 0; i < n_ends; i++) {
        uint16_t h = sl_encode_f16(a / ends[i]);
        if (h == 0) h = 1; /* the smallest there is; of zeros any scale is right */
        double error = try_int(x, n, bits, sl_decode_f16(h), tried);
        if (error >= best) continue;
        best = error;
        *scale = h;
        memcpy(codes, tried, (size_t)n);
    }
}
