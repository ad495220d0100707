/* test_err.c - messages stay one line and in bounds; codes map to exit statuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/sl_assert.h"

static void writes_one_line(void **state)
{
    (void)state;
    struct sl_err e;
    assert_int_equal(sl_err_set(&e, SL_EINPUT, "a %d\nb\r", 7), SL_EINPUT);
    assert_int_equal(e.code, SL_EINPUT);
    assert_string_equal(e.msg, "a 7 b ");
    assert_int_equal(sl_err_prefix(&e, "%s: ", "file"), SL_EINPUT);
    assert_string_equal(e.msg, "file: a 7 b ");
    sl_err_set(&e, SL_EIO, "again: %s", e.msg); /* an argument inside the target */
    assert_string_equal(e.msg, "again: file: a 7 b ");
    assert_int_equal(sl_err_set(NULL, SL_EIO, "nobody listens"), SL_EIO);
    assert_int_equal(sl_err_prefix(NULL, "x"), 0);
}

static void cuts_long_messages(void **state)
{
    (void)state;
    char big[2000];
    struct sl_err e;
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    sl_err_set(&e, SL_EINPUT, "%s", big);
    assert_int_equal(strlen(e.msg), SL_ERR_MSG_MAX - 1);
    sl_err_prefix(&e, "%s", "ab");
    assert_int_equal(strlen(e.msg), SL_ERR_MSG_MAX - 1);
    assert_memory_equal(e.msg, "abxx", 4);
    sl_err_prefix(&e, "%s", big);
    assert_int_equal(strlen(e.msg), SL_ERR_MSG_MAX - 1);
}

static void knows_every_code(void **state)
{
    (void)state;
    static const int codes[] = {
#define X(name, value, text) name,
        SL_ERRORS(X)
#undef X
    };
    for (size_t i = 0; i < SL_ARRAY_LEN(codes); i++) {
        assert_true(codes[i] < 0);
        assert_string_not_equal(sl_strerror(codes[i]), "unknown error");
        for (size_t j = 0; j < i; j++) assert_int_not_equal(codes[i], codes[j]);
    }
    assert_string_equal(sl_strerror(0), "ok");
    assert_string_equal(sl_strerror(12345), "unknown error");
    assert_int_equal(sl_err_exit_status(0), 0);
    assert_int_equal(sl_err_exit_status(SL_EINPUT), 2);
    assert_int_equal(sl_err_exit_status(SL_EUNSUPPORTED), 2);
    assert_int_equal(sl_err_exit_status(SL_EUSAGE), 2);
    assert_int_equal(sl_err_exit_status(SL_ENOMEM), 1);
    assert_int_equal(sl_err_exit_status(SL_ERETRY), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(writes_one_line),
                                       cmocka_unit_test(cuts_long_messages),
                                       cmocka_unit_test(knows_every_code)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
