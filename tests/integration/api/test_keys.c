/* test_keys.c - key files and the comparison of keys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "coordinator/keys.h"

static struct sl_keys *parse(const char *text)
{
    struct sl_keys *k = NULL;
    struct sl_err err;
    if (sl_keys_parse("keys.txt", text, strlen(text), &k, &err)) fail_msg("%s", err.msg);
    return k;
}

static int has(const struct sl_keys *k, const char *key)
{
    return sl_keys_check(k, key, strlen(key));
}

static void test_file(void **state)
{
    (void)state;
    struct sl_keys *k = parse("# who\n\n  sk-one \t\r\nsk-two\n#sk-three\nlast");
    assert_int_equal(sl_keys_count(k), 3);
    assert_true(has(k, "sk-one") && has(k, "sk-two") && has(k, "last"));
    assert_false(has(k, "sk-three") || has(k, "#sk-three") || has(k, "") || has(k, "sk-on") ||
                 has(k, "sk-one1"));
    assert_false(sl_keys_check(k, "sk-one\0x", 8)); /* a NUL hides nothing */
    sl_keys_free(k);
    sl_keys_free(NULL);
}

static void test_longest(void **state)
{
    (void)state;
    char key[SL_KEY_LEN_MAX + 2];
    memset(key, 'k', sizeof(key));
    key[SL_KEY_LEN_MAX] = 0;
    struct sl_keys *k = parse(key);
    assert_true(has(k, key));
    assert_false(sl_keys_check(k, key, SL_KEY_LEN_MAX - 1));
    key[SL_KEY_LEN_MAX] = 'k';
    assert_false(sl_keys_check(k, key, SL_KEY_LEN_MAX + 1)); /* its first bytes are the key */
    sl_keys_free(k);
}

static void test_bearer(void **state)
{
    (void)state;
    struct sl_keys *k = parse("sk-one");
    static const struct {
        const char *h;
        int ok;
    } cases[] = {
        {"Bearer sk-one", 1}, {"bearer  sk-one ", 1},
        {"BEARER sk-one", 1}, {"Bearersk-one", 0},
        {"Bearer", 0},        {"", 0},
        {"Bearer ", 0},       {"Basic sk-one", 0},
        {"sk-one", 0},        {"Bearer sk-one,sk-two", 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        assert_int_equal(sl_keys_check_bearer(k, cases[i].h, strlen(cases[i].h)), cases[i].ok);
    assert_true(sl_keys_check_bearer(NULL, "", 0)); /* no keys are asked for */
    sl_keys_free(k);
}

static void test_wrong_files(void **state)
{
    (void)state;
    struct sl_keys *k = NULL;
    struct sl_err err;
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "no key"},
        {"# only\n\n", "no key"},
        {"good\ntwo words\n", "keys.txt:2"},
        {"a\nb\nschl\xc3\xbcssel\n", "keys.txt:3"},
        {"a\x01b", "keys.txt:1"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        assert_int_equal(sl_keys_parse("keys.txt", cases[i].text, strlen(cases[i].text), &k, &err),
                         SL_EINPUT);
        if (!strstr(err.msg, cases[i].says)) fail_msg("%s", err.msg);
        assert_null(k);
    }
    char line[SL_KEY_LEN_MAX + 3];
    memset(line, 'k', sizeof(line));
    assert_int_equal(sl_keys_parse("keys.txt", line, sizeof(line), &k, &err), SL_EINPUT);
    assert_int_equal(sl_keys_read("./no/such/keys.txt", &k, &err), SL_EINPUT);
    assert_non_null(strstr(err.msg, "no/such/keys.txt"));
    assert_int_equal(sl_keys_read(".", &k, &err), SL_EINPUT); /* a folder */
}

static void test_read(void **state)
{
    (void)state;
    char path[] = "./test_keys.XXXXXX";
    struct sl_keys *k = NULL;
    struct sl_err err;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "sk-file\n", 8), 8);
    close(fd);
    assert_int_equal(sl_keys_read(path, &k, &err), 0);
    assert_true(has(k, "sk-file"));
    sl_keys_free(k);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file),   cmocka_unit_test(test_longest),
        cmocka_unit_test(test_bearer), cmocka_unit_test(test_wrong_files),
        cmocka_unit_test(test_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
