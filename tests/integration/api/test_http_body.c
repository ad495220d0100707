/* test_http_body.c - the decoder of chunked bodies: every way to cut the input gives the same,
 * nonsense is found. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "coordinator/http_body.h"

static int feed(const char *in, size_t n, size_t piece, struct sl_buf *out, size_t *total)
{
    struct sl_http_chunks c;
    int rc = 0;
    sl_http_chunks_init(&c);
    sl_buf_clear(out);
    *total = 0;
    for (size_t pos = 0; pos < n && rc == 0; pos += piece) {
        size_t used, k = n - pos < piece ? n - pos : piece;
        rc = sl_http_chunks_feed(&c, in + pos, k, &used, out);
        *total += used;
        if (rc == 0) assert_int_equal(used, k);
    }
    return rc;
}

static void test_good(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"0\r\n\r\n", ""},
        {"5\r\nhello\r\n0\r\n\r\n", "hello"},
        {"00000005\r\nhello\r\n0000\r\n\r\n", "hello"},
        {"A;name=value;x=\"y\"\r\n0123456789\r\n1 \r\n!\r\n0\r\nTrailer: a\r\nOther: b\r\n\r\n",
         "0123456789!"},
        {"2\r\n\r\n\r\n0\r\n\r\n", "\r\n"},
    };
    struct sl_buf out;
    sl_buf_init(&out, 1 << 16);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char in[256];
        size_t n = strlen(cases[i].in), total;
        memcpy(in, cases[i].in, n);
        memcpy(in + n, "NEXT", 4); /* what follows is not eaten */
        for (size_t piece = 1; piece <= n; piece++) {
            assert_int_equal(
                feed(in, piece == n ? n + 4 : n, piece == n ? n + 4 : piece, &out, &total), 1);
            assert_int_equal(total, n);
            assert_string_equal(sl_buf_str(&out), cases[i].out);
        }
        for (size_t k = 0; k < n; k++)
            assert_int_equal(feed(in, k, 1, &out, &total), 0); /* never early */
    }
    sl_buf_close(&out);
}

static void test_bad(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "\r\n",     "g\r\n",       "-1\r\n",
        "5\nhello", "5\r\nhelloX", "5\r\nhello\rX",
        "5\rX",     "5 x\n",       "1111111111111111\r\n",
        "0\r\n\rX", "0\r\na\rX",   ";x\r\n",
        "0x5\r\n",
    };
    struct sl_buf out;
    size_t total;
    sl_buf_init(&out, 1 << 16);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        for (size_t piece = 1; piece < 4; piece++)
            if (feed(cases[i], strlen(cases[i]), piece, &out, &total) != SL_EPROTO)
                fail_msg("case %zu", i);
    char *line = malloc(2 * SL_HTTP_CHUNK_LINE_MAX);
    memset(line, 'x', 2 * SL_HTTP_CHUNK_LINE_MAX);
    memcpy(line, "5;", 2); /* an extension without end */
    assert_int_equal(feed(line, 2 * SL_HTTP_CHUNK_LINE_MAX, 100, &out, &total), SL_EPROTO);
    memcpy(line, "0\r\n", 3); /* trailers without end */
    assert_int_equal(feed(line, 2 * SL_HTTP_CHUNK_LINE_MAX, 100, &out, &total), SL_EPROTO);
    free(line);
    sl_buf_close(&out);
    sl_buf_init(&out, 4);
    assert_int_equal(feed("5\r\nhello", 8, 8, &out, &total), SL_ELIMIT);
    sl_buf_close(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_good), cmocka_unit_test(test_bad)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
