/* test_encode.c - the encoders: every code comes back, ties go to even, what is too large
 * saturates; groups are as near as their format allows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "kernels/kernels.h"
#include "model/encode.h"

/* Exhaustive: each code is the nearest to its own value; halfway to the next one the even code
 * wins; a step of a float to either side decides. */
static void check_format(int codes, float (*value)(int), int (*encode)(float))
{
    for (int c = 0; c < codes; c++) {
        float v = value(c);
        assert_int_equal(encode(v), c);
        if (v != 0) assert_true(encode(-v) != c && value(encode(-v)) == v);
        if (c + 1 == codes) break;
        float middle = (v + value(c + 1)) / 2;
        assert_int_equal(encode(middle), c % 2 ? c + 1 : c);
        assert_int_equal(encode(nextafterf(middle, 0)), c);
        assert_int_equal(encode(nextafterf(middle, INFINITY)), c + 1);
    }
}

static float e4m3_value(int c)
{
    return sl_decode_e4m3((uint8_t)(c & 0x7f));
}
static int e4m3_code(float x)
{
    int c = sl_encode_e4m3(x);
    return x < 0 ? (c & 0x80 ? c : -1) : c;
}

static void e4m3(void **state)
{
    (void)state;
    check_format(0x7f, e4m3_value, e4m3_code);
    /* formats' document: 448 .. 464 and all beyond */
    static const float large[] = {448, 449, 464, 465, 1e9f, INFINITY};
    for (int i = 0; i < 6; i++) {
        assert_int_equal(sl_encode_e4m3(large[i]), 0x7e);
        assert_int_equal(sl_encode_e4m3(-large[i]), 0xfe);
    }
    assert_int_equal(sl_encode_e4m3(NAN), 0x7f);
    assert_true(sl_decode_e4m3(0x01) == 0x1p-9f && sl_decode_e4m3(0x08) == 0x1p-6f);
    assert_true(isnan(sl_decode_e4m3(0xff)));
}

static float e2m1_value(int c)
{
    return sl_decode_e2m1((uint8_t)(c & 7));
}
static int e2m1_code(float x)
{
    int c = sl_encode_e2m1(x);
    return x < 0 ? (c & 8 ? c : -1) : c;
}

static void e2m1(void **state)
{
    (void)state;
    static const float values[8] = {0, .5f, 1, 1.5f, 2, 3, 4, 6};
    static const float ties[][2] = {{.25f, 0}, {.75f, 1}, {1.25f, 1}, {1.75f, 2},
                                    {2.5f, 2}, {3.5f, 4}, {5, 4},     {7, 6}};
    check_format(8, e2m1_value, e2m1_code);
    for (int i = 0; i < 8; i++) {
        assert_true(sl_decode_e2m1((uint8_t)i) == values[i]);
        assert_true(sl_decode_e2m1(sl_encode_e2m1(ties[i][0])) == ties[i][1]);
    }
    assert_int_equal(sl_encode_e2m1(-INFINITY), 15);
    assert_int_equal(sl_encode_e2m1(NAN), 7);
    assert_int_equal(sl_encode_e2m1(-0.1f), 8);
}

/* Against the kernels' conversions, which are written another way. */
static void halves(void **state)
{
    (void)state;
    for (int i = 0; i < 0x10000; i++) {
        float f16 = sl_half_to_float((uint16_t)i), bf16 = sl_bf16_to_float((uint16_t)i);
        if (!isnan(f16)) assert_true(sl_decode_f16((uint16_t)i) == f16);
        if (!isnan(f16)) assert_int_equal(sl_encode_f16(f16), i);
        if (!isnan(bf16)) assert_int_equal(sl_encode_bf16(bf16), i);
    }
    for (uint64_t u = 0; u < 0x100000000u; u += 65521) {
        uint32_t bits = (uint32_t)u;
        float f;
        memcpy(&f, &bits, 4);
        if (isnan(f)) continue;
        assert_int_equal(sl_encode_f16(f), sl_float_to_half(f));
        assert_int_equal(sl_encode_bf16(f), sl_float_to_bf16(f));
    }
}

static float chance(void)
{
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / 0x1p23f - 1;
}

/* The worst error of a group, in units of its largest element. */
static void groups(void **state)
{
    (void)state;
    for (int round = 0; round < 2000; round++) {
        float x[32], a = 0, size = ldexpf(1, round % 60 - 30);
        uint8_t codes[32], s8;
        uint16_t s16;
        for (int i = 0; i < 32; i++) {
            x[i] = chance() * size;
            a = fmaxf(a, fabsf(x[i]));
        }
        sl_encode_group_mxfp4(x, codes, &s8);
        for (int i = 0; i < 32; i++) {
            float v = ldexpf(sl_decode_e2m1(codes[i / 2] >> 4 * (i % 2) & 15), s8 - 127);
            assert_true(fabsf(v - x[i]) <= 0.26f * a);
        }
        sl_encode_group_nvfp4(x, 448 * 6 / a, codes, &s8);
        for (int i = 0; i < 16; i++) {
            float v = sl_decode_e2m1(codes[i / 2] >> 4 * (i % 2) & 15) * sl_decode_e4m3(s8) /
                      (448 * 6 / a);
            assert_true(fabsf(v - x[i]) <= 0.18f * a);
        }
        if (a < 0x1p-8f || a > 0x1p12f) continue; /* scales in F16 */
        for (int bits = 4; bits <= 8; bits += 4) {
            sl_encode_group_int(x, 32, bits, codes, &s16);
            for (int i = 0; i < 32; i++) {
                float v = (float)(codes[i] - (1 << (bits - 1))) * sl_decode_f16(s16);
                assert_true(codes[i] < 1 << bits);
                assert_true(fabsf(v - x[i]) <= (bits == 8 ? 0.0041f : 0.13f) * a);
            }
        }
    }
}

static void zeros(void **state)
{
    (void)state;
    float x[32] = {0}, s;
    uint8_t codes[32], s8;
    uint16_t s16;
    sl_encode_row_e4m3(x, 32, codes, &s);
    assert_true(s > 0 && codes[0] == 0 && codes[31] == 0);
    sl_encode_group_nvfp4(x, 1, codes, &s8);
    assert_true(s8 == 0 && codes[7] == 0);
    sl_encode_group_mxfp4(x, codes, &s8);
    assert_true(s8 != 0xff && codes[15] == 0);
    sl_encode_group_int(x, 32, 4, codes, &s16);
    assert_true(codes[0] == 8 && isfinite(sl_decode_f16(s16)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(e4m3),   cmocka_unit_test(e2m1),  cmocka_unit_test(halves),
        cmocka_unit_test(groups), cmocka_unit_test(zeros),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
