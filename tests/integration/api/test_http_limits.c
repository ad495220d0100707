/* test_http_limits.c - the HTTP API against clients that are wrong, hostile, gone or asleep. After
 * each the server must still answer, hold nothing of them, and have cancelled what they asked for.
 */
#include "tests/integration/api/api_fixture.h"

#include <sys/resource.h>
#include <sys/socket.h>

static int setup(void **state)
{
    *state = fx_open(NULL, NULL);
    return 0;
}

static int teardown(void **state)
{
    struct sl_buf b;
    struct fx *f = *state;
    sl_buf_init(&b, 1 << 20);
    assert_int_equal(fx_ask(f, "GET", "/health", NULL, &b), 200); /* still there */
    sl_buf_close(&b);
    fx_close(f);
    return 0;
}

/* Sends bytes on a fresh connection and reads to its end; the status of the first answer, 0 when
 * there was none. */
static int exchange(struct fx *f, const char *data, size_t n, struct sl_buf *b)
{
    int fd = fx_connect(f), status = 0;
    for (size_t pos = 0; pos < n;) {
        int k = fx_try_send(fd, data + pos, n - pos);
        if (k < 0) break; /* the server has had enough */
        pos += (size_t)k;
        fx_turn(f);
    }
    sl_buf_clear(b);
    fx_read_end(f, fd, b);
    close(fd);
    sscanf(sl_buf_str(b), "HTTP/1.1 %d", &status);
    return status;
}

static void test_bad_heads(void **state)
{
    struct fx *f = *state;
    struct sl_buf b;
    sl_buf_init(&b, 1 << 20);
    static const struct {
        const char *q;
        int status;
    } cases[] = {
        {"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", 400},
        {"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 5x\r\n\r\nabcde", 400},
        {"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999999\r\n\r\n",
         400},
        {"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 16777217\r\n\r\n", 413},
        {"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: "
         "chunked\r\n\r\n0\r\n\r\n",
         400},
        {"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501},
        {"GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
        {"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
        {"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
         "chunked\r\n\r\nffffffffffffffff\r\n",
         400},
        {"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
         400},
        {"POST /tokenize HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
         400},
        {"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404},
        {"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n", -1},
        {"GET http://x/health HTTP/1.1\r\nHost: x\r\n\r\n", -1},
        {"BREW /pot HTTP/1.1\r\nHost: x\r\n\r\n", -1},
        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", -1},
        {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", -1}, /* TLS to a plain port */
        {"\r\n\r\n\r\n\r\nGET /health HTTP/1.1\r\n\r\n", -1},
        {"GET /health HTTP/9.9\r\nHost: x\r\n\r\n", -1},
        {"GET /health\r\n\r\n", -1},
    };
    for (size_t i = 0; i < SL_ARRAY_LEN(cases); i++) {
        int fd = fx_connect(f), status = 0;
        fx_puts(f, fd, cases[i].q);
        if (cases[i].status < 0) shutdown(fd, SHUT_WR); /* ends what waits for more */
        sl_buf_clear(&b);
        if (cases[i].status > 0) {
            fx_read_until(f, fd, &b, "\r\n\r\n");
            sscanf(b.data, "HTTP/1.1 %d", &status);
            if (status != cases[i].status) fail_msg("case %zu: %.300s", i, b.data);
        } else {
            fx_read_end(f, fd, &b); /* any answer or none, but an end */
        }
        close(fd);
    }
    sl_buf_close(&b);
}

static void test_large_heads(void **state)
{
    struct fx *f = *state;
    struct sl_buf b, q;
    sl_buf_init(&b, 1 << 20);
    sl_buf_init(&q, 4 << 20);
    sl_buf_puts(&q, "GET /health HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ");
    for (int i = 0; i < 2 * SL_HTTP_HEADER_MAX; i++) sl_buf_putc(&q, 'a');
    sl_buf_puts(&q, "\r\n\r\n");
    assert_int_not_equal(exchange(f, q.data, q.len, &b), 200);
    sl_buf_clear(&q);
    sl_buf_puts(&q, "GET /");
    for (int i = 0; i < 2 * SL_HTTP_HEADER_MAX; i++) sl_buf_putc(&q, 'a');
    sl_buf_puts(&q, " HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_int_not_equal(exchange(f, q.data, q.len, &b), 200);
    sl_buf_clear(&q);
    sl_buf_puts(&q, "GET /health HTTP/1.1\r\n"); /* many short ones, which no client needs */
    for (int i = 0; i < 20000; i++) sl_buf_printf(&q, "X-%d: y\r\n", i);
    sl_buf_puts(&q, "\r\n");
    exchange(f, q.data, q.len, &b);
    sl_buf_close(&b);
    sl_buf_close(&q);
}

/* A body over the limit is refused from its head, and also when its length was not announced. The
 * client reads the answer although it is still sending. */
static void test_large_bodies(void **state)
{
    struct fx *f = *state;
    struct sl_buf b;
    sl_buf_init(&b, 1 << 20);
    size_t n = SL_HTTP_BODY_MAX + (1 << 20);
    char *body = malloc(n + 1024), head[256];
    memset(body, ' ', n + 1024);
    int k = snprintf(head, sizeof(head),
                     "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n", n);
    memcpy(body, head, (size_t)k);
    assert_int_equal(exchange(f, body, n + (size_t)k, &b), 413);
    memset(body, ' ', n);
    k = snprintf(head, sizeof(head),
                 "POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%zx\r\n",
                 n);
    memcpy(body, head, (size_t)k);
    assert_int_equal(exchange(f, body, n + (size_t)k, &b), 413);
    /* The largest that is accepted, nothing but blanks. */
    n = SL_HTTP_BODY_MAX;
    memset(body, ' ', n + 1024);
    k = snprintf(
        head, sizeof(head),
        "POST /tokenize HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n",
        n);
    memcpy(body, head, (size_t)k);
    assert_int_equal(exchange(f, body, n + (size_t)k, &b), 400);
    free(body);
    sl_buf_close(&b);
}

static void test_bad_json(void **state)
{
    struct fx *f = *state;
    struct sl_buf b;
    sl_buf_init(&b, 1 << 20);
    static const char *const bodies[] = {
        "",
        " ",
        "{",
        "[]",
        "null",
        "\"x\"",
        "{\"prompt\":\"\xff\xfe\"}",
        "{\"prompt\":\"\\ud800\"}",
        "{\"prompt\":\"a\\u0000b\"}",
        "{\"prompt\":}",
        "{\"prompt\":\"x\",}",
        "{\"prompt\":1e999}",
        "{\"prompt\":[]}",
        "{\"prompt\":[1,\"a\"]}",
        "{\"prompt\":[-1]}",
        "{\"prompt\":[99999999999999999999]}",
        "{\"prompt\":[300]}",
        "{\"prompt\":\"\"}",
        "{\"prompt\":\"x\",\"n\":9}",
        "{\"prompt\":\"x\",\"logit_bias\":{\"400\":1}}",
        "{\"prompt\":\"x\",\"max_tokens\":0}",
    };
    for (size_t i = 0; i < SL_ARRAY_LEN(bodies); i++) {
        int status = fx_ask(f, "POST", "/v1/completions", bodies[i], &b);
        if (status != 400 || !strstr(b.data, "invalid_request_error"))
            fail_msg("%s: %d %s", bodies[i], status, b.data);
    }
    size_t depth = 1 << 20; /* jansson stops at its own limit */
    char *deep = malloc(depth + 64);
    strcpy(deep, "{\"prompt\":");
    memset(deep + strlen(deep), '[', depth);
    deep[10 + depth] = 0;
    assert_int_equal(fx_ask(f, "POST", "/v1/completions", deep, &b), 400);
    free(deep);
    char *many = malloc(8 << 20); /* more ids than any context holds */
    strcpy(many, "{\"prompt\":[");
    char *p = many + strlen(many);
    for (int i = 0; i < 1000000; i++) p += sprintf(p, "%d,", i % 256);
    strcpy(p, "1]}");
    assert_int_equal(fx_ask(f, "POST", "/v1/completions", many, &b), 400);
    assert_non_null(strstr(b.data, "context_length_exceeded"));
    free(many);
    sl_buf_close(&b);
}

static int ask_stream(struct fx *f, const char *extra)
{
    char q[512], body[256];
    int fd = fx_connect(f);
    snprintf(body, sizeof(body), "{\"prompt\":\"Hello\",\"stream\":true,\"max_tokens\":100000%s}",
             extra);
    snprintf(q, sizeof(q),
             "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s",
             strlen(body), body);
    fx_puts(f, fd, q);
    return fd;
}

/* A client that leaves: while it waits for the first token, in the middle of a stream, with several
 * answers. */
static void test_gone(void **state)
{
    struct fx *f = *state;
    struct sl_buf b;
    sl_buf_init(&b, 1 << 20);
    fake_script(f->service)->hold = 1;
    int fd = ask_stream(f, "");
    fx_until_live(f, 1);
    close(fd);
    fx_until_live(f, 0);
    fd = ask_stream(f, ",\"n\":4,\"stream\":false");
    close(fd); /* perhaps before it was read: nothing may stay */
    fx_turn(f);
    fx_until_live(f, 0);
    fake_script(f->service)->hold = 0;
    fd = ask_stream(f, ",\"n\":4,\"ignore_eos\":true");
    fx_until_live(f, 4);
    fx_read_until(f, fd, &b, "\"text\":");
    int cancelled = fake_counts(f->service)->cancelled;
    struct linger hard = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard)); /* a reset instead of a farewell */
    close(fd);
    fx_until_live(f, 0);
    assert_int_equal(fake_counts(f->service)->cancelled, cancelled + 4);
    sl_buf_close(&b);
}

/* Leaves while the next request lies behind the one under way: the server reads no further and
 * still finds out. */
static void test_gone_after_pipelining(void **state)
{
    struct fx *f = *state;
    fake_script(f->service)->hold = 1;
    int fd = ask_stream(f, "");
    fx_until_live(f, 1);
    for (int i = 0; i < 100; i++) {
        fx_puts(f, fd, "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n");
        fx_turn(f);
    }
    close(fd);
    fx_until_live(f, 0);
}

/* A client that never reads has a bounded number of bytes waiting and is dropped, with its request.
 */
static void test_reader_asleep(void **state)
{
    struct fx *f = *state;
    int small = 4096;
    fake_script(f->service)->context = 1 << 30;
    fake_script(f->service)->burst = 500;
    int fd = ask_stream(f, ",\"ignore_eos\":true,\"logprobs\":20");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
    fx_until_live(f, 1);
    fx_until_live(f, 0); /* long before its 100000 tokens: each chunk has 1 KB */
    assert_int_equal(fake_counts(f->service)->cancelled, 1);
    assert_int_equal(fake_counts(f->service)->done, 0);
    close(fd);
}

/* Has the server closed this connection? */
static int is_closed(int fd)
{
    char byte;
    return recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0;
}

struct surplus {
    const int *fds;
    int n, want;
};

static int surplus_closed(void *arg)
{
    struct surplus *s = arg;
    int closed = 0;
    for (int i = 0; i < s->n; i++) closed += is_closed(s->fds[i]);
    return closed == s->want;
}

/* More connections than are allowed: the surplus is closed, the others go on; and when some have
 * left there is room again. */
static void test_many_connections(void **state)
{
    enum { SURPLUS = 20, N = SL_HTTP_CONNS_MAX + SURPLUS };
    struct fx *f = *state;
    struct sl_buf b;
    struct rlimit limit;
    static int fds[N];
    sl_buf_init(&b, 1 << 20);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < 2 * N + 100) skip();
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < N; i++) {
            fds[i] = fx_connect(f);
            fx_turn(f);
        }
        struct surplus s = {fds, N, SURPLUS};
        fx_until(f, surplus_closed, &s);
        for (int i = SL_HTTP_CONNS_MAX - 1; i >= 0; i -= 50) {
            fx_puts(f, fds[i],
                    "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: "
                    "15\r\n\r\n{\"content\":\"a\"}");
            assert_int_equal(fx_answer(f, fds[i], &b), 200);
        }
        for (int i = 0; i < N; i++) close(fds[i]);
        for (int i = 0; i < 50; i++) fx_turn(f); /* let it notice */
    }
    sl_buf_close(&b);
}

/* 200 requests at once against 64 places: each gets its answer or 429, none waits for ever. */
static void test_queue_full(void **state)
{
    struct fx *f = *state;
    struct sl_buf b;
    int fds[200], ok = 0, busy = 0;
    sl_buf_init(&b, 1 << 20);
    fake_script(f->service)->hold = 1;
    for (int i = 0; i < 200; i++) {
        fds[i] = fx_connect(f);
        fx_puts(f, fds[i],
                "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: "
                "18\r\n\r\n{\"prompt\":\"Hello\"}");
        fx_turn(f);
    }
    fx_until_live(f, 64);
    for (int i = 199; i >= 64; i--) {
        int status = fx_answer(f, fds[i], &b);
        busy += status == 429;
    }
    fake_script(f->service)->hold = 0;
    for (int i = 0; i < 64; i++) ok += fx_answer(f, fds[i], &b) == 200;
    assert_int_equal(busy, 136);
    assert_int_equal(ok, 64);
    for (int i = 0; i < 200; i++) close(fds[i]);
    sl_buf_close(&b);
}

/* Stopping the server in the middle of everything leaves nothing behind (fx_close checks). */
static void test_stop_under_load(void **state)
{
    (void)state;
    struct fx *f = fx_open(NULL, NULL);
    int fds[8];
    fake_script(f->service)->context = 1 << 30;
    for (int i = 0; i < 8; i++) fds[i] = ask_stream(f, ",\"ignore_eos\":true");
    fx_until_live(f, 8);
    fx_close(f);
    for (int i = 0; i < 8; i++) close(fds[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_bad_heads, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_heads, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_bodies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_json, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gone_after_pipelining, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reader_asleep, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_connections, setup, teardown),
        cmocka_unit_test_setup_teardown(test_queue_full, setup, teardown),
        cmocka_unit_test(test_stop_under_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
