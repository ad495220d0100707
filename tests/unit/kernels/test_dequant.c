/* test_dequant.c - formats on blocks worked out by hand, 16-bit floats on every value. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/kernels.h"

#define HALF_ONE 0x3c00
#define HALF_TWO 0x4000
#define HALF_QUARTER 0x3400

static void put16(uint8_t *b, int at, unsigned v)
{
    b[at] = (uint8_t)v;
    b[at + 1] = (uint8_t)(v >> 8);
}

static void expect(enum sl_dtype type, const uint8_t *b, int i, float want)
{
    float y[256];
    sl_dequantize(type, b, y, sl_dtype_block(type));
    if (y[i] != want)
        fail_msg("%s: element %d is %g, want %g", sl_dtype_name(type), i, (double)y[i],
                 (double)want);
}

static void halves_round_trip(void **state)
{
    (void)state;
    for (unsigned h = 0; h < 0x10000; h++) {
        float f = sl_half_to_float((uint16_t)h);
        if ((h & 0x7fff) > 0x7c00) {
            assert_true(isnan(f));
            assert_true(isnan(sl_half_to_float(sl_float_to_half(f))));
            continue;
        }
        assert_int_equal(sl_float_to_half(f), h);
        int exp = (int)(h >> 10 & 31), frac = (int)(h & 0x3ff);
        double want = exp == 31 ? INFINITY : exp ? ldexp(1024 + frac, exp - 25) : ldexp(frac, -24);
        assert_true((double)f == (h & 0x8000 ? -want : want));
    }
}

/* Between two neighbours: below the middle goes down, above up, the middle to the even one. */
static void halves_round_to_even(void **state)
{
    (void)state;
    for (unsigned h = 0; h < 0x7bff; h++) {
        float a = sl_half_to_float((uint16_t)h), b = sl_half_to_float((uint16_t)(h + 1));
        float mid = (float)(((double)a + (double)b) / 2);
        assert_int_equal(sl_float_to_half(mid), h + (h & 1));
        assert_int_equal(sl_float_to_half(nextafterf(mid, 0)), h);
        assert_int_equal(sl_float_to_half(-nextafterf(mid, 1e9f)), 0x8000 | (h + 1));
    }
    assert_int_equal(sl_float_to_half(65519.0f), 0x7bff);
    assert_int_equal(sl_float_to_half(65520.0f), 0x7c00);
    assert_int_equal(sl_float_to_half(1e30f), 0x7c00);
    assert_int_equal(sl_float_to_half(0x1p-26f), 0);
}

static void bf16_rounds_to_even(void **state)
{
    (void)state;
    for (unsigned h = 0; h < 0x7f7f; h++) {
        float a = sl_bf16_to_float((uint16_t)h), b = sl_bf16_to_float((uint16_t)(h + 1));
        assert_int_equal(sl_float_to_bf16(a), h);
        float mid = (float)(((double)a + (double)b) / 2);
        assert_int_equal(sl_float_to_bf16(mid), h + (h & 1));
        assert_int_equal(sl_float_to_bf16(-nextafterf(mid, INFINITY)), 0x8000 | (h + 1));
    }
    assert_true(isnan(sl_bf16_to_float(sl_float_to_bf16(NAN))));
    assert_int_equal(sl_float_to_bf16(INFINITY), 0x7f80);
}

static void blocks_of_32(void **state)
{
    (void)state;
    uint8_t b[34] = {0};
    put16(b, 0, HALF_TWO);
    b[2 + 3] = 0xf1; /* elements 3 and 19 */
    expect(SL_Q4_0, b, 3, 2.0f * (1 - 8));
    expect(SL_Q4_0, b, 19, 2.0f * (15 - 8));
    expect(SL_Q4_0, b, 0, -16.0f);

    memset(b, 0, sizeof(b));
    put16(b, 0, HALF_TWO);
    put16(b, 2, HALF_ONE);
    b[4 + 15] = 0x5a; /* elements 15 and 31 */
    expect(SL_Q4_1, b, 15, 21.0f);
    expect(SL_Q4_1, b, 31, 11.0f);

    memset(b, 0, sizeof(b));
    put16(b, 0, HALF_ONE);
    b[2] = 2;        /* fifth bit of element 1 */
    b[5] = 0x80;     /* and of element 31 */
    b[6 + 1] = 0x03; /* elements 1 and 17 */
    expect(SL_Q5_0, b, 1, 3.0f + 16 - 16);
    expect(SL_Q5_0, b, 17, -16.0f);
    expect(SL_Q5_0, b, 31, 0.0f);

    memset(b, 0, sizeof(b));
    put16(b, 0, HALF_ONE);
    put16(b, 2, HALF_QUARTER);
    b[4 + 2] = 1; /* fifth bit of element 16 */
    b[8] = 0x90;  /* elements 0 and 16 */
    expect(SL_Q5_1, b, 16, 25.25f);
    expect(SL_Q5_1, b, 0, 0.25f);

    memset(b, 0, sizeof(b));
    put16(b, 0, HALF_QUARTER);
    b[2 + 31] = 0x80;
    b[2] = 127;
    expect(SL_Q8_0, b, 31, -32.0f);
    expect(SL_Q8_0, b, 0, 31.75f);
}

/* The 12 packed bytes: sub-block 1 has scale 5, minimum 3; sub-block 6 has scale 0x2c, minimum
 * 0x1e. */
static void pack_scales(uint8_t *s)
{
    s[1] = 5;
    s[5] = 3;
    s[2 + 8] = (uint8_t)(0xc | 0xe << 4); /* low nibbles of sub-block 6 */
    s[2] |= (uint8_t)(2 << 6);            /* high bits of its scale */
    s[6] |= (uint8_t)(1 << 6);            /* and of its minimum */
}

static void k_quants(void **state)
{
    (void)state;
    uint8_t b[210] = {0};
    put16(b, 0, HALF_TWO);
    put16(b, 2, HALF_ONE);
    pack_scales(b + 4);
    b[16 + 7] = 0x90; /* sub-block 1 (high nibbles of the first 32 bytes), element 32 + 7 */
    b[16 + 32 * 3 + 9] = 0x04; /* sub-block 6 (low nibbles of the last 32 bytes), element 192 + 9 */
    expect(SL_Q4_K, b, 39, 2.0f * 5 * 9 - 3);
    expect(SL_Q4_K, b, 201, 2.0f * 0x2c * 4 - 0x1e);
    expect(SL_Q4_K, b, 32, -3.0f);

    memset(b, 0, sizeof(b));
    put16(b, 0, HALF_TWO);
    put16(b, 2, HALF_ONE);
    pack_scales(b + 4);
    b[16 + 7] = 1 << 1; /* fifth bit of element 39 */
    b[48 + 7] = 0x90;
    b[48 + 32 * 3 + 9] = 0x04;
    expect(SL_Q5_K, b, 39, 2.0f * 5 * 25 - 3);
    expect(SL_Q5_K, b, 201, 2.0f * 0x2c * 4 - 0x1e);

    memset(b, 0, sizeof(b));
    put16(b, 208, HALF_TWO);
    b[192 + 6] = (uint8_t)-3; /* scale of elements 96..111 */
    b[32 + 5] = 0x70;         /* element 96 + 5: high nibble of ql[32 + 5] */
    b[128 + 5] = 2 << 6;      /* its two high bits */
    expect(SL_Q6_K, b, 101, 2.0f * -3 * ((7 | 2 << 4) - 32));
    b[192 + 8] = 1; /* elements 128..143 */
    b[64 + 2] = 0x0f;
    b[128 + 32 + 2] = 3;
    expect(SL_Q6_K, b, 130, 2.0f * (63 - 32));
}

static void plain_formats(void **state)
{
    (void)state;
    const uint16_t h[3] = {HALF_ONE, 0xc000, HALF_QUARTER}, g[3] = {0x3f80, 0xc000, 0x3e80};
    const float f[3] = {1, -2, 0.25f};
    float y[3];
    sl_dequantize(SL_F16, h, y, 3);
    assert_memory_equal(y, f, sizeof(f));
    sl_dequantize(SL_BF16, g, y, 3);
    assert_memory_equal(y, f, sizeof(f));
    sl_dequantize(SL_F32, f, y, 3);
    assert_memory_equal(y, f, sizeof(f));
    y[0] = 7;
    sl_dequantize(SL_Q4_0, h, y, 0);
    assert_true(y[0] == 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(halves_round_trip),
        cmocka_unit_test(halves_round_to_even),
        cmocka_unit_test(bf16_rounds_to_even),
        cmocka_unit_test(blocks_of_32),
        cmocka_unit_test(k_quants),
        cmocka_unit_test(plain_formats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
