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

static void small_k_quants(void **state)
{
    (void)state;
    uint8_t b[136] = {0};
    put16(b, 80, HALF_TWO);
    put16(b, 82, HALF_QUARTER);
    b[13] = 0x95;             /* elements 208..223: scale 5, minimum 9 */
    b[16 + 32 + 20] = 3 << 4; /* second half of 128, third 32 of it: element 128 + 64 + 20 */
    expect(SL_Q2_K, b, 212, 2.0f * 5 * 3 - 0.25f * 9);
    expect(SL_Q2_K, b, 211, -0.25f * 9);
    expect(SL_Q2_K, b, 0, 0);

    memset(b, 0, sizeof(b));
    put16(b, 108, HALF_TWO);
    b[96 + 1] = 0xa0;   /* scale 9: low nibble 10 */
    b[96 + 9] = 3 << 4; /* and its high bits: 58 - 32 = 26 */
    b[7] = 1 << 4;      /* third bit of element 128 + 7 */
    b[32 + 32 + 23] = 2;
    b[23] = 1 << 4; /* elements 151 = 128 + 23, and its third bit */
    expect(SL_Q3_K, b, 151, 2.0f * 26 * 2);
    b[23] = 0;
    expect(SL_Q3_K, b, 151, 2.0f * 26 * (2 - 4));
    expect(SL_Q3_K, b, 135, 2.0f * -32 * 0); /* scale 8 is 0 - 32, its value 0 + 4 - 4 */
    expect(SL_Q3_K, b, 136, 2.0f * -32 * -4);

    memset(b, 0, sizeof(b));
    put16(b, 0, HALF_QUARTER);
    put16(b, 2, 2 << 10);     /* high bits of the scale of elements 160..191 */
    b[4 + 2] = 0x70;          /* and its low nibble: 39 - 32 = 7 */
    b[8 + 16 * 5 + 3] = 0xf1; /* elements 163 and 179 */
    expect(SL_IQ4_XS, b, 163, 0.25f * 7 * -104);
    expect(SL_IQ4_XS, b, 179, 0.25f * 7 * 113);
    expect(SL_IQ4_XS, b, 0, 0.25f * -32 * -127);
}

static void tables_of_four_bits(void **state)
{
    (void)state;
    uint8_t b[36] = {0};
    put16(b, 0, HALF_TWO);
    b[2 + 4] = 0x7c; /* elements 4 and 20 */
    expect(SL_IQ4_NL, b, 4, 2.0f * 53);
    expect(SL_IQ4_NL, b, 20, 2.0f * -10);
    expect(SL_IQ4_NL, b, 0, 2.0f * -127);

    memset(b, 0, sizeof(b));
    b[0] = 129;
    b[1 + 9] = 0xb7; /* elements 9 and 25 */
    expect(SL_MXFP4, b, 9, 4 * 6.0f);
    expect(SL_MXFP4, b, 25, 4 * -1.5f);
    b[0] = 0; /* no zero: the smallest scale, a subnormal */
    expect(SL_MXFP4, b, 9, 0x1p-127f * 6);
    b[0] = 1;
    expect(SL_MXFP4, b, 9, 0x1p-126f * 6);
    b[0] = 254;
    expect(SL_MXFP4, b, 0, 0);

    memset(b, 0, sizeof(b));
    b[2] = 0x3c;      /* elements 32..47: 1.5 */
    b[3] = 0x01;      /* elements 48..63: 2^-9 */
    b[20 + 5] = 0xa7; /* elements 37 and 45 */
    b[28 + 7] = 0x16; /* elements 55 and 63 */
    expect(SL_NVFP4, b, 37, 1.5f * 6);
    expect(SL_NVFP4, b, 45, 1.5f * -1);
    expect(SL_NVFP4, b, 55, 0x1p-9f * 4);
    expect(SL_NVFP4, b, 63, 0x1p-9f * 0.5f);
    b[2] = 0x7e;
    expect(SL_NVFP4, b, 37, 448 * 6);
    b[2] = 0x7f; /* NaN, which ggml reads as zero */
    expect(SL_NVFP4, b, 37, 0);
}

/* ---- planar formats: kernels/ref/matrix.c ---------------------------------------------------- */

static void expect_row(const struct sl_matrix *m, int64_t row, const float *want)
{
    float y[8];
    sl_matrix_row(m, row, y);
    for (int64_t k = 0; k < m->cols; k++)
        if (!(y[k] == want[k] || (isnan(y[k]) && isnan(want[k]))))
            fail_msg("%s: row %d, element %d is %g, want %g", sl_dtype_name(m->type), (int)row,
                     (int)k, (double)y[k], (double)want[k]);
}

static void small_floats(void **state)
{
    (void)state;
    const uint8_t e4m3[8] = {0x38, 0xb8, 0x01, 0x08, 0x7e, 0xfe, 0x7f, 0x45};
    const float of_e4m3[8] = {1, -1, 0x1p-9f, 0x1p-6f, 448, -448, NAN, 3.25f};
    struct sl_matrix m = sl_matrix_plain(SL_F8_E4M3, 1, 8, e4m3);
    expect_row(&m, 0, of_e4m3);
    const uint8_t e5m2[8] = {0x3c, 0xbc, 0x01, 0x04, 0x7b, 0x7c, 0xfc, 0x7d};
    const float of_e5m2[8] = {1, -1, 0x1p-16f, 0x1p-14f, 57344, INFINITY, -INFINITY, NAN};
    m = sl_matrix_plain(SL_F8_E5M2, 1, 8, e5m2);
    expect_row(&m, 0, of_e5m2);
    const uint8_t e2m1[4] = {0x10, 0x32, 0x54, 0xf6}; /* the even element in the low nibble */
    const float of_e2m1[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, -6};
    m = sl_matrix_plain(SL_F4, 1, 8, e2m1);
    expect_row(&m, 0, of_e2m1);
}

/* Two stored rows of 4, a scale for two elements: each of its types, then zero points. */
static void scales_and_zeros(void **state)
{
    (void)state;
    const uint8_t codes[4] = {0x21, 0x43, 0x65, 0x87}, zeros[4] = {1, 2, 3, 8};
    const uint8_t e8m0[4] = {126, 127, 128, 0}, e4m3[4] = {0x30, 0x38, 0x40, 0x01};
    const uint16_t half[4] = {0x3800, HALF_ONE, HALF_TWO, 0}, bf16[4] = {0x3f00, 0x3f80, 0x4000, 0};
    const float f32[4] = {0.5f, 1, 2, 0}, first[4] = {0.5f, 1, 3, 4};
    const struct {
        enum sl_dtype type;
        const void *scales;
    } kinds[] = {
        {SL_E8M0, e8m0}, {SL_F8_E4M3, e4m3}, {SL_F16, half}, {SL_BF16, bf16}, {SL_F32, f32}};
    struct sl_matrix m = sl_matrix_plain(SL_U4, 2, 4, codes);
    m.scale_cols = 2;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        m.scales = kinds[i].scales;
        m.scale_type = kinds[i].type;
        expect_row(&m, 0, first);
    }
    m.zeros = zeros;
    expect_row(&m, 0, (const float[4]){0.5f * 0, 0.5f * 1, 1, 2});
    expect_row(&m, 1, (const float[4]){2 * 2, 2 * 3, 0, 0});
    m.factor = 3;
    expect_row(&m, 0, (const float[4]){0, 1.5f, 3, 6});
    m.zeros = NULL;
    m.factor = 1;
    m.scale_rows = 2; /* both rows share; the second row of the table is not used */
    expect_row(&m, 1, (const float[4]){2.5f, 3, 7, 8});
}

static void views(void **state)
{
    (void)state;
    const uint8_t bytes[6] = {1, 2, 3, 0x80, 5, 6};
    const float scales[3] = {1, 10, 100}, book[16] = {[1] = 0.25f, [2] = -7};
    struct sl_matrix m = sl_matrix_plain(SL_I8, 1, 2, bytes);
    m.scales = scales;
    expect_row(&m, 0, (const float[2]){1, 2});
    m.row_first = 1;
    expect_row(&m, 0, (const float[2]){30, -1280});
    m.row_first = 0;
    m.row_step = 2;
    m.rows = 2;
    expect_row(&m, 1, (const float[2]){500, 600});
    const int32_t order[2] = {1, 0}; /* stored column 0 belongs to input 1 */
    m.order = order;
    expect_row(&m, 1, (const float[2]){600, 500});
    m = sl_matrix_plain(SL_CB4, 1, 2, (const uint8_t[1]){0x21});
    m.codebook = book;
    expect_row(&m, 0, (const float[2]){0.25f, -7});
    m = sl_matrix_plain(SL_U8, 1, 2, (const uint8_t[2]){200, 100});
    m.zeros = (const uint8_t[1]){128};
    expect_row(&m, 0, (const float[2]){72, -28});
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
        cmocka_unit_test(small_k_quants),
        cmocka_unit_test(tables_of_four_bits),
        cmocka_unit_test(small_floats),
        cmocka_unit_test(scales_and_zeros),
        cmocka_unit_test(views),
        cmocka_unit_test(plain_formats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
