/* test_buf.c - growth, the maximum, and that failure changes nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/err.h"

static void grows_and_terminates(void **state)
{
    (void)state;
    struct sl_buf b;
    sl_buf_init(&b, 100000);
    assert_string_equal(sl_buf_str(&b), "");
    for (int i = 0; i < 10000; i++) {
        assert_int_equal(sl_buf_putc(&b, (char)('a' + i % 26)), 0);
        assert_int_equal(b.data[b.len], 0);
    }
    for (int i = 0; i < 10000; i++) assert_int_equal(b.data[i], 'a' + i % 26);
    sl_buf_clear(&b);
    assert_int_equal(b.len, 0);
    assert_string_equal(sl_buf_str(&b), "");
    assert_int_equal(sl_buf_puts(&b, "abc"), 0);
    assert_int_equal(sl_buf_add(&b, "\0d", 2), 0);
    assert_memory_equal(b.data, "abc\0d", 6);
    assert_int_equal(sl_buf_add(&b, NULL, 0), 0);
    sl_buf_consume(&b, 4);
    assert_string_equal(sl_buf_str(&b), "d");
    sl_buf_consume(&b, 0);
    sl_buf_consume(&b, 1);
    assert_string_equal(sl_buf_str(&b), "");
    sl_buf_close(&b);
    assert_int_equal(sl_buf_puts(&b, "again"), 0);
    sl_buf_close(&b);
}

static void keeps_its_maximum(void **state)
{
    (void)state;
    struct sl_buf b;
    sl_buf_init(&b, 5);
    assert_int_equal(sl_buf_puts(&b, "123"), 0);
    assert_int_equal(sl_buf_puts(&b, "456"), SL_ELIMIT);
    assert_string_equal(sl_buf_str(&b), "123");
    assert_int_equal(sl_buf_printf(&b, "%d", 456), SL_ELIMIT);
    assert_string_equal(sl_buf_str(&b), "123");
    assert_int_equal(sl_buf_reserve(&b, SIZE_MAX), SL_ELIMIT);
    assert_int_equal(sl_buf_puts(&b, "45"), 0);
    assert_int_equal(sl_buf_putc(&b, '6'), SL_ELIMIT);
    assert_string_equal(sl_buf_str(&b), "12345");
    assert_true(b.cap <= 6);
    sl_buf_close(&b);
    sl_buf_init(&b, 0);
    assert_int_equal(sl_buf_putc(&b, 'x'), SL_ELIMIT);
    assert_int_equal(sl_buf_puts(&b, ""), 0);
    sl_buf_close(&b);
}

/* SIZE_MAX as "no maximum" must not wrap around. */
static void takes_no_maximum(void **state)
{
    (void)state;
    struct sl_buf b;
    sl_buf_init(&b, SIZE_MAX);
    assert_int_equal(sl_buf_puts(&b, "x"), 0);
    assert_string_equal(sl_buf_str(&b), "x");
    assert_int_equal(sl_buf_reserve(&b, SIZE_MAX), SL_ELIMIT);
    assert_int_equal(sl_buf_reserve(&b, SIZE_MAX - 2), SL_ELIMIT);
    sl_buf_close(&b);
}

static void prints(void **state)
{
    (void)state;
    struct sl_buf b;
    char want[4096] = "";
    sl_buf_init(&b, 4096);
    for (int i = 0; i < 300; i++) {
        assert_int_equal(sl_buf_printf(&b, "%d,%s;", i, "é"), 0);
        snprintf(want + strlen(want), sizeof want - strlen(want), "%d,%s;", i, "é");
        assert_string_equal(sl_buf_str(&b), want);
    }
    sl_buf_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grows_and_terminates), cmocka_unit_test(keeps_its_maximum),
        cmocka_unit_test(takes_no_maximum), cmocka_unit_test(prints)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
