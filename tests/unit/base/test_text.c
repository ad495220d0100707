/* test_text.c - UTF-8 in all its broken forms, nearest names, sizes, durations, addresses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/sl_assert.h"
#include "base/text.h"

static void round_trips_every_codepoint(void **state)
{
    (void)state;
    for (uint32_t cp = 0; cp <= 0x10ffff; cp++) {
        char s[4];
        uint32_t back;
        if (cp == 0xd800) cp = 0xe000; /* surrogates are no characters */
        int n = sl_utf8_put(cp, s);
        if (sl_utf8_get(s, (size_t)n, &back) != n || back != cp) fail_msg("U+%04X", cp);
        if (sl_utf8_whole(s, (size_t)n) != (size_t)n) fail_msg("U+%04X is whole", cp);
        for (int k = 1; k < n; k++) {
            if (sl_utf8_whole(s, (size_t)k) != 0) fail_msg("%d bytes of U+%04X", k, cp);
            if (sl_utf8_get(s, (size_t)k, &back) != 1 || back != 0xfffd)
                fail_msg("%d bytes of U+%04X", k, cp);
        }
    }
}

/* Invalid texts: what scrubbing makes of them ('?' for U+FFFD) and how many bytes may be sent. */
static void handles_invalid_bytes(void **state)
{
    (void)state;
    static const struct {
        const char *in, *scrubbed;
        size_t whole;
    } rows[] = {
        {"", "", 0},
        {"abc", "abc", 3},
        {"a\xff"
         "b",
         "a?b", 3},
        {"\x80", "?", 1},      /* a continuation alone */
        {"\xc0\xaf", "??", 2}, /* overlong */
        {"\xc1\xbf", "??", 2},
        {"\xe0\x80\x80", "???", 3}, /* overlong */
        {"\xe0\x80", "??", 2},      /* can become nothing valid: not held back */
        {"\xed\xa0\x80", "???", 3}, /* a surrogate */
        {"\xed\xa0", "??", 2},
        {"\xf0\x8f\xbf\xbf", "????", 4}, /* overlong */
        {"\xf4\x90\x80\x80", "????", 4}, /* above U+10FFFF */
        {"\xf5\x80\x80\x80", "????", 4},
        {"x\xe2", "x?", 1}, /* halves are held back */
        {"x\xe2\x82", "x??", 1},
        {"x\xf0\x9f\x98", "x???", 1},
        {"x\xc3", "x?", 1},
        {"\xe2\x82"
         "a",
         "??a", 3},            /* broken off, then text */
        {"\xe2\xc3", "??", 1}, /* broken off, then a new half */
        {"\x80\x80\x80\x80", "????", 4},
        {"\xf0\x9f\x98\x80\xf0\x9f", "\xf0\x9f\x98\x80??", 4},
    };
    for (size_t i = 0; i < SL_ARRAY_LEN(rows); i++) {
        char want[64] = "", got[64];
        size_t n = strlen(rows[i].in);
        for (const char *p = rows[i].scrubbed; *p; p++)
            snprintf(want + strlen(want), sizeof want - strlen(want),
                     *p == '?' ? "\xef\xbf\xbd" : "%c", *p);
        size_t len = sl_utf8_scrub(rows[i].in, n, got);
        if (len != strlen(want) || memcmp(got, want, len) != 0) fail_msg("row %zu: scrub", i);
        assert_true(len <= 3 * n);
        if (sl_utf8_whole(rows[i].in, n) != rows[i].whole)
            fail_msg("row %zu: whole is %zu", i, sl_utf8_whole(rows[i].in, n));
    }
}

/* A stream cut at any place: what is sent piece by piece is the text, and no piece ends inside a
 * character. */
static void streams_in_any_cut(void **state)
{
    (void)state;
    static const char text[] = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z\xff\xe2\x82\x7f";
    size_t n = sizeof text - 1;
    for (unsigned cuts = 0; cuts < 1u << (sizeof text - 2); cuts++) {
        char pending[32], sent[32];
        size_t n_pending = 0, n_sent = 0;
        for (size_t i = 0; i < n; i++) {
            pending[n_pending++] = text[i];
            if (i + 1 < n && !(cuts >> i & 1)) continue;
            size_t whole = sl_utf8_whole(pending, n_pending);
            memcpy(sent + n_sent, pending, whole);
            n_sent += whole;
            n_pending -= whole;
            memmove(pending, pending + whole, n_pending);
            if (n_pending > 3) fail_msg("%zu bytes held back", n_pending);
        }
        if (n_pending != 0 || n_sent != n || memcmp(sent, text, n) != 0) fail_msg("cuts %x", cuts);
    }
}

static void suggests_the_nearest_name(void **state)
{
    (void)state;
    static const char *const names[] = {"bandwidth", "latency", "memory", "layers"};
    assert_string_equal(sl_nearest("bandwith", names, 4), "bandwidth");
    assert_string_equal(sl_nearest("LAYERS", names, 4), "layers");
    assert_string_equal(sl_nearest("memroy", names, 4), "memory");
    assert_null(sl_nearest("temperature", names, 4));
    assert_null(sl_nearest("x", names, 4));
    assert_null(sl_nearest("bandwidth", names, 0));
    char big[301];
    memset(big, 'a', 300);
    big[300] = 0;
    assert_null(sl_nearest(big, names, 4)); /* far from everything, however long */
}

static void formats_bytes(void **state)
{
    (void)state;
    char s[32];
    assert_string_equal(sl_format_bytes(0, s), "0 B");
    assert_string_equal(sl_format_bytes(1023, s), "1023 B");
    assert_string_equal(sl_format_bytes(1024, s), "1.0 KiB");
    assert_string_equal(sl_format_bytes(4ull << 30, s), "4.0 GiB");
    assert_string_equal(sl_format_bytes(UINT64_MAX, s), "16777216.0 TiB");
}

static void parses_units(void **state)
{
    (void)state;
    static const struct {
        const char *s;
        uint64_t bytes;
    } good[] = {{"1048576", 1048576},
                {"96GiB", 96ull << 30},
                {"512 MiB", 512ull << 20},
                {"2GB", 2000000000},
                {"1.5KiB", 1536},
                {"0", 0},
                {"3b", 3},
                {"1TiB", 1ull << 40}};
    uint64_t v;
    double d;
    for (size_t i = 0; i < SL_ARRAY_LEN(good); i++) {
        assert_int_equal(sl_parse_bytes(good[i].s, &v), 0);
        assert_int_equal(v, good[i].bytes);
    }
    static const char *const bad[] = {"",    "GiB",    "-1",    "+1",   "1 2", "1XB",   "nan",
                                      "inf", "infGiB", "1e999", "1e30", " 1",  "96Gbit"};
    for (size_t i = 0; i < SL_ARRAY_LEN(bad); i++)
        if (sl_parse_bytes(bad[i], &v) != SL_EINPUT) fail_msg("'%s'", bad[i]);
    assert_int_equal(sl_parse_bandwidth("25Gbit/s", &d), 0);
    assert_true(d == 25e9 / 8);
    assert_int_equal(sl_parse_bandwidth("1.5GB/s", &d), 0);
    assert_true(d == 1.5e9);
    assert_int_equal(sl_parse_bandwidth("100 Mbit/s", &d), 0);
    assert_true(d == 12.5e6);
    assert_int_equal(sl_parse_bandwidth("100", &d), SL_EINPUT);
    assert_int_equal(sl_parse_bandwidth("-1GB/s", &d), SL_EINPUT);
    assert_int_equal(sl_parse_duration("40us", &v), 0);
    assert_int_equal(v, 40000);
    assert_int_equal(sl_parse_duration("2ms", &v), 0);
    assert_int_equal(v, 2000000);
    assert_int_equal(sl_parse_duration("1.5 s", &v), 0);
    assert_int_equal(v, 1500000000);
    assert_int_equal(sl_parse_duration("5", &v), SL_EINPUT);
    assert_int_equal(sl_parse_duration("5 min", &v), SL_EINPUT);
}

static void splits_addresses(void **state)
{
    (void)state;
    static const struct {
        const char *s, *host;
        int port;
    } good[] = {{"localhost:80", "localhost", 80},
                {"[::1]:8080", "::1", 8080},
                {":0", "", 0},
                {"10.0.0.1:65535", "10.0.0.1", 65535},
                {"[]:1", "", 1}};
    char host[16];
    int port;
    for (size_t i = 0; i < SL_ARRAY_LEN(good); i++) {
        if (sl_parse_hostport(good[i].s, host, sizeof host, &port) != 0)
            fail_msg("'%s'", good[i].s);
        assert_string_equal(host, good[i].host);
        assert_int_equal(port, good[i].port);
    }
    static const char *const bad[] = {"",
                                      "host",
                                      "host:",
                                      "host:x",
                                      "host:80x",
                                      "host:65536",
                                      "host:-1",
                                      "host:+1",
                                      "host: 1",
                                      "::1:80",
                                      "[::1:80",
                                      "[",
                                      "[:",
                                      "host:99999999999999999999",
                                      "abcdefghijklmnop:80"};
    for (size_t i = 0; i < SL_ARRAY_LEN(bad); i++)
        if (sl_parse_hostport(bad[i], host, sizeof host, &port) != SL_EINPUT)
            fail_msg("'%s'", bad[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trips_every_codepoint),
        cmocka_unit_test(handles_invalid_bytes),
        cmocka_unit_test(streams_in_any_cut),
        cmocka_unit_test(suggests_the_nearest_name),
        cmocka_unit_test(formats_bytes),
        cmocka_unit_test(parses_units),
        cmocka_unit_test(splits_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
