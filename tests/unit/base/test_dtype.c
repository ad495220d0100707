/* test_dtype.c - names, ids and sizes of formats; bits per weight as the GGUF format tables give
 * them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "base/sl_assert.h"

static void agrees_with_the_format_tables(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint32_t ggml;
        double bits;
    } rows[] = {
        {"F32", 0, 32},       {"F16", 1, 16},      {"BF16", 30, 16},     {"Q4_0", 2, 4.5},
        {"Q4_1", 3, 5},       {"Q5_0", 6, 5.5},    {"Q5_1", 7, 6},       {"Q8_0", 8, 8.5},
        {"Q4_K", 12, 4.5},    {"Q5_K", 13, 5.5},   {"Q6_K", 14, 6.5625}, {"Q2_K", 10, 2.625},
        {"Q3_K", 11, 3.4375}, {"IQ4_NL", 20, 4.5}, {"IQ4_XS", 23, 4.25}, {"MXFP4", 39, 4.25},
        {"NVFP4", 40, 4.5},   {"I8", 24, 8},       {"I16", 25, 16},      {"I32", 26, 32},
        {"I64", 27, 64},      {"F64", 28, 64}};
    static const enum sl_dtype no_gguf[] = {SL_F8_E4M3, SL_F8_E5M2, SL_F4,   SL_U4,
                                            SL_U8,      SL_CB4,     SL_E8M0, SL_BOOL};
    assert_int_equal(SL_ARRAY_LEN(rows) + SL_ARRAY_LEN(no_gguf), SL_DTYPE_COUNT);
    for (size_t i = 0; i < SL_ARRAY_LEN(rows); i++) {
        int t = sl_dtype_from_name(rows[i].name), block, bytes;
        assert_true(t >= 0);
        assert_string_equal(sl_dtype_name((enum sl_dtype)t), rows[i].name);
        assert_int_equal(sl_dtype_from_ggml(rows[i].ggml), t);
        assert_true(sl_dtype_row_bytes((enum sl_dtype)t, 256) * 8 == 256 * rows[i].bits);
        assert_int_equal(sl_dtype_ggml_size(rows[i].ggml, &block, &bytes), 0);
        assert_int_equal(block, sl_dtype_block((enum sl_dtype)t));
        assert_int_equal(bytes, sl_dtype_block_bytes((enum sl_dtype)t));
    }
    assert_int_equal(sl_dtype_from_name("q4_k"), SL_Q4_K);
    assert_int_equal(sl_dtype_from_name("Q9"), -1);
}

static void names_formats_it_cannot_run(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint32_t ggml;
        double bits;
    } rows[] = {{"IQ2_XXS", 16, 2.0625}, {"Q8_K", 15, 9.125}, {"Q8_1", 9, 9}};
    for (size_t i = 0; i < SL_ARRAY_LEN(rows); i++) {
        int block, bytes;
        assert_string_equal(sl_dtype_ggml_name(rows[i].ggml), rows[i].name);
        assert_int_equal(sl_dtype_ggml_size(rows[i].ggml, &block, &bytes), 0);
        assert_true(bytes * 8 == block * rows[i].bits);
    }
    static const uint32_t none[] = {4, 5, 31, 32, 33, 36, 37, 38, 43, 133, UINT32_MAX};
    for (size_t i = 0; i < SL_ARRAY_LEN(none); i++) {
        int block, bytes;
        assert_null(sl_dtype_ggml_name(none[i]));
        assert_int_equal(sl_dtype_from_ggml(none[i]), -1);
        assert_int_equal(sl_dtype_ggml_size(none[i], &block, &bytes), -1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(agrees_with_the_format_tables),
                                       cmocka_unit_test(names_formats_it_cannot_run)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
