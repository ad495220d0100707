/* test_listen.c - the socket API: messages, many requests on one connection, keys, addresses,
 * hostile clients. */
#include "tests/integration/api/api_fixture.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "proto/api.h"

#define PATH "./test_listen.sock"

static int setup(void **state)
{
    *state = fx_open(NULL, "127.0.0.1:0");
    return 0;
}

static int teardown(void **state)
{
    fx_close(*state);
    return 0;
}

static int join(struct fx *f)
{
    return fx_connect_to(sl_listen_port(f->listen));
}

static void put(struct fx *f, int fd, const struct sl_api_msg *m)
{
    struct sl_buf b;
    sl_buf_init(&b, 1 << 20);
    assert_int_equal(sl_api_msg_pack(m, &b), 0);
    fx_send(f, fd, b.data, b.len);
    sl_buf_close(&b);
}

/* The next message; 0 when the server has closed. Free it. */
static int get(struct fx *f, int fd, struct sl_buf *b, struct sl_api_msg *m)
{
    for (;;) {
        struct sl_err err;
        size_t used;
        char bytes[4096];
        int rc = sl_api_msg_unpack(b->data, b->len, m, &used, &err);
        if (rc == 0) {
            sl_buf_consume(b, used);
            return 1;
        }
        assert_int_equal(rc, SL_EAGAIN);
        ssize_t k = recv(fd, bytes, sizeof(bytes), 0);
        if (k == 0) return 0;
        if (k > 0)
            assert_int_equal(sl_buf_add(b, bytes, (size_t)k), 0);
        else
            fx_turn(f);
    }
}

static void hello(struct fx *f, int fd, struct sl_buf *b)
{
    struct sl_api_msg m = {.kind = SL_API_HELLO, .hello = {SL_API_VERSION, "", "test", ""}};
    put(f, fd, &m);
    assert_int_equal(get(f, fd, b, &m), 1);
    assert_int_equal(m.kind, SL_API_HELLO);
    assert_int_equal(m.hello.version, SL_API_VERSION);
    assert_string_equal(m.hello.model, "Fake Model");
    sl_api_msg_free(&m);
}

static struct sl_api_msg ask(uint64_t id, const char *prompt)
{
    struct sl_api_msg m = {.kind = SL_API_GENERATE, .id = id};
    m.generate.prompt = prompt;
    return m;
}

static void test_generate(void **state)
{
    struct fx *f = *state;
    struct sl_buf b;
    struct sl_api_msg m = ask(7, "Hello");
    char text[64] = "";
    sl_buf_init(&b, 1 << 20);
    int fd = join(f), tokens = 0;
    hello(f, fd, &b);
    m.generate.want_logprobs = 1;
    m.generate.sampling.n_top = 2;
    m.generate.given = SL_API_TEMPERATURE | SL_API_SEED;
    m.generate.sampling.temperature = 0.5f;
    m.generate.sampling.seed = 11;
    put(f, fd, &m);
    for (;;) {
        assert_int_equal(get(f, fd, &b, &m), 1);
        assert_int_equal(m.id, 7);
        if (m.kind != SL_API_TOKEN) break;
        memcpy(text + strlen(text), m.token.text, m.token.text_len);
        assert_int_equal(m.token.id, "Hello"[tokens++]);
        assert_true(m.token.logprob == -0.5f && m.token.n_top == 2);
        assert_int_equal(m.token.top[1].token, m.token.id + 1);
        sl_api_msg_free(&m);
    }
    assert_int_equal(m.kind, SL_API_DONE);
    assert_string_equal(m.done.finish_reason, "stop");
    assert_int_equal(m.done.prompt_tokens, 5);
    assert_int_equal(m.done.completion_tokens, 5);
    assert_string_equal(text, "Hello");
    sl_api_msg_free(&m);
    assert_true(fake_last(f->service)->sampling.temperature == 0.5f);
    assert_int_equal(fake_last(f->service)->sampling.seed, 11);
    close(fd);
    sl_buf_close(&b);
}

/* Prompts of every kind, 100 at once on one connection, one of them cancelled; ids tell the answers
 * apart. */
static void test_side_by_side(void **state)
{
    struct fx *f = *state;
    struct sl_buf b;
    struct sl_api_msg m;
    static const int32_t ids[] = {97, 98, 99};
    static const char *const stops[] = {"2"};
    int done = 0, cancelled = 0, tokens[101] = {0};
    sl_buf_init(&b, 1 << 20);
    int fd = join(f);
    hello(f, fd, &b);
    fake_script(f->service)->limit = 100;
    fake_script(f->service)->hold = 1;
    for (uint64_t i = 1; i <= 100; i++) {
        m = ask(i, "a12345");
        if (i % 3 == 0) m.generate.prompt = NULL, m.generate.tokens = ids, m.generate.n_tokens = 3;
        if (i % 3 == 1)
            m.generate.prompt = NULL,
            m.generate.messages_json = "[{\"role\":\"user\",\"content\":\"x\"}]";
        if (i % 3 == 2) m.generate.stops = stops, m.generate.n_stops = 1;
        put(f, fd, &m);
    }
    fx_until_live(f, 100);
    m = (struct sl_api_msg){.kind = SL_API_CANCEL, .id = 50};
    put(f, fd, &m);
    fx_until_live(f, 99);
    fake_script(f->service)->hold = 0;
    while (done < 100) {
        assert_int_equal(get(f, fd, &b, &m), 1);
        assert_in_range(m.id, 1, 100);
        if (m.kind == SL_API_TOKEN) tokens[m.id]++;
        if (m.kind == SL_API_DONE) {
            done++;
            cancelled += !strcmp(m.done.finish_reason, "cancelled");
            if (m.id == 50) assert_int_equal(tokens[m.id], 0);
            if (m.id % 3 == 0) assert_int_equal(m.done.completion_tokens, 3);
        }
        assert_int_not_equal(m.kind, SL_API_ERROR);
        sl_api_msg_free(&m);
    }
    assert_int_equal(cancelled, 1);
    close(fd);
    sl_buf_close(&b);
}

static void expect_error(struct fx *f, int fd, struct sl_buf *b, const struct sl_api_msg *q,
                         const char *code, int retry)
{
    struct sl_api_msg m;
    put(f, fd, q);
    assert_int_equal(get(f, fd, b, &m), 1);
    assert_int_equal(m.kind, SL_API_ERROR);
    assert_int_equal(m.id, q->id);
    if (strcmp(m.error.code, code)) fail_msg("%s, not %s: %s", m.error.code, code, m.error.message);
    assert_int_equal(m.error.retry, retry);
    assert_true(strlen(m.error.message) > 10);
    sl_api_msg_free(&m);
}

static void test_wrong_requests(void **state)
{
    struct fx *f = *state;
    struct sl_buf b;
    static const int32_t ids[] = {97, 4000};
    static const char *const stops[] = {""};
    char *big = malloc(1 << 20);
    sl_buf_init(&b, 1 << 20);
    int fd = join(f);
    hello(f, fd, &b);
    struct sl_api_msg m = ask(1, "");
    expect_error(f, fd, &b, &m, "input", 0);
    m = ask(0, "x");
    expect_error(f, fd, &b, &m, "input", 0);
    m = ask(2, "x");
    m.generate.given = SL_API_TEMPERATURE;
    m.generate.sampling.temperature = -1;
    expect_error(f, fd, &b, &m, "input", 0);
    m = ask(3, "x");
    m.generate.stops = stops;
    m.generate.n_stops = 1;
    expect_error(f, fd, &b, &m, "input", 0);
    m = ask(4, NULL);
    m.generate.tokens = ids;
    m.generate.n_tokens = 2;
    expect_error(f, fd, &b, &m, "input", 0);
    m = ask(5, NULL);
    m.generate.messages_json = "[{";
    expect_error(f, fd, &b, &m, "input", 0);
    m.generate.messages_json = "[{\"role\":1}]";
    expect_error(f, fd, &b, &m, "input", 0);
    memset(big, 'x', 1 << 20);
    big[600] = 0;
    m = ask(6, big);
    expect_error(f, fd, &b, &m, "limit", 0);
    fake_script(f->service)->limit = 0;
    m = ask(7, "x");
    expect_error(f, fd, &b, &m, "busy", 1);
    fake_script(f->service)->limit = 64;
    fake_script(f->service)->fail_after = 0;
    expect_error(f, fd, &b, &m, "retry", 1);
    /* After all this the connection still works. */
    m = (struct sl_api_msg){.kind = SL_API_STATUS, .id = 99};
    put(f, fd, &m);
    assert_int_equal(get(f, fd, &b, &m), 1);
    assert_int_equal(m.kind, SL_API_STATUS);
    assert_non_null(strstr(m.document.json, "\"fake\""));
    sl_api_msg_free(&m);
    close(fd);
    free(big);
    sl_buf_close(&b);
}

/* Bytes that are no messages, in pieces of every size: the server says why and closes. */
static void test_nonsense(void **state)
{
    struct fx *f = *state;
    struct sl_buf b;
    static const struct {
        const char *bytes;
        size_t n;
    } cases[] = {
        {"\xff\xff\xff\xff", 4},
        {"\x01\x00\x01\x00", 4},
        {"GET / HTTP/1.1\r\n\r\n", 18},
        {"\x05\x00\x00\x00\xff\xff\xff\xff\xff", 9},
        {"\x00\x00\x00\x00", 4},
        {"\x02\x00\x00\x00\x32\x00", 6},
        {"\x04\x00\x00\x00\x12\x02\x08\x09", 8},
    };
    sl_buf_init(&b, 1 << 20);
    for (size_t i = 0; i < SL_ARRAY_LEN(cases); i++) {
        for (int piece = 0; piece < 2; piece++) {
            struct sl_api_msg m;
            int fd = join(f);
            for (size_t k = 0; piece && k < cases[i].n; k++) {
                if (fx_try_send(fd, cases[i].bytes + k, 1) < 0) break;
                fx_turn(f);
            }
            if (!piece) fx_send(f, fd, cases[i].bytes, cases[i].n);
            shutdown(fd, SHUT_WR);
            sl_buf_clear(&b);
            while (get(f, fd, &b, &m)) { /* an error or two, then the end */
                assert_int_equal(m.kind, SL_API_ERROR);
                sl_api_msg_free(&m);
            }
            close(fd);
        }
    }
    sl_buf_close(&b);
}

static void test_gone(void **state)
{
    struct fx *f = *state;
    struct sl_buf b;
    struct sl_api_msg m;
    sl_buf_init(&b, 1 << 20);
    int fd = join(f);
    hello(f, fd, &b);
    fake_script(f->service)->hold = 1;
    for (uint64_t i = 1; i <= 10; i++) {
        m = ask(i, "Hello");
        put(f, fd, &m);
    }
    fx_until_live(f, 10);
    close(fd);
    fx_until_live(f, 0);
    assert_int_equal(fake_counts(f->service)->cancelled, 10);
    sl_buf_close(&b);
}

static void test_reader_asleep(void **state)
{
    struct fx *f = *state;
    struct sl_buf b;
    struct sl_api_msg m = ask(1, "Hello");
    sl_buf_init(&b, 1 << 20);
    int fd = join(f);
    hello(f, fd, &b);
    fake_script(f->service)->context = 1 << 30;
    fake_script(f->service)->burst = 2000;
    m.generate.ignore_eos = 1;
    m.generate.want_logprobs = 1;
    m.generate.sampling.n_top = 20;
    put(f, fd, &m);
    fx_until_live(f, 1);
    fx_until_live(f, 0); /* it would go on for ever */
    assert_int_equal(fake_counts(f->service)->cancelled, 1);
    close(fd);
    sl_buf_close(&b);
}

static void test_large_prompt(void **state)
{
    struct fx *f = *state;
    struct sl_buf b, q;
    size_t n = 40 << 20;
    char *text = malloc(n + 1);
    sl_buf_init(&b, 1 << 20);
    sl_buf_init(&q, SL_API_MESSAGE_MAX);
    memset(text, 'x', n);
    text[n] = 0;
    int fd = join(f);
    hello(f, fd, &b);
    struct sl_api_msg m = ask(1, text);
    assert_int_equal(sl_api_msg_pack(&m, &q), 0);
    fx_send(f, fd, q.data, q.len);
    assert_int_equal(get(f, fd, &b, &m), 1);
    assert_string_equal(m.error.code, "limit");
    sl_api_msg_free(&m);
    close(fd);
    free(text);
    sl_buf_close(&b);
    sl_buf_close(&q);
}

static void test_keys(void **state)
{
    (void)state;
    struct fx *f = fx_open("sk-right", "127.0.0.1:0");
    struct sl_buf b;
    struct sl_api_msg m;
    sl_buf_init(&b, 1 << 20);
    static const char *const keys[] = {"", "sk-wrong", "sk-righ"};
    for (size_t i = 0; i < 3; i++) {
        int fd = join(f);
        m = (struct sl_api_msg){.kind = SL_API_HELLO,
                                .hello = {SL_API_VERSION, keys[i], "test", ""}};
        expect_error(f, fd, &b, &m, "auth", 0);
        assert_int_equal(get(f, fd, &b, &m), 0); /* closed */
        close(fd);
    }
    int fd = join(f);
    m = ask(1, "x");
    expect_error(f, fd, &b, &m, "protocol", 0); /* no Hello */
    close(fd);
    fd = join(f);
    m = (struct sl_api_msg){.kind = SL_API_HELLO,
                            .hello = {SL_API_VERSION + 1, "sk-right", "test", ""}};
    expect_error(f, fd, &b, &m, "protocol", 0);
    close(fd);
    fd = join(f);
    m = (struct sl_api_msg){.kind = SL_API_HELLO,
                            .hello = {SL_API_VERSION, "sk-right", "test", ""}};
    put(f, fd, &m);
    assert_int_equal(get(f, fd, &b, &m), 1);
    assert_int_equal(m.kind, SL_API_HELLO);
    sl_api_msg_free(&m);
    close(fd);
    sl_buf_close(&b);
    fx_close(f);
}

static void test_addresses(void **state)
{
    struct fx *f = *state;
    struct sl_listen *l = NULL, *second = NULL;
    struct sl_err err = {0};
    struct stat st;
    char address[64];
    unlink(PATH);
    /* A file that a dead server left behind is replaced. */
    struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = PATH};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    close(fd);
    assert_int_equal(sl_listen_start(&f->loop, f->service, PATH, NULL, &l, &err), 0);
    assert_int_equal(sl_listen_port(l), 0);
    /* One that a living server uses is not. */
    assert_int_equal(sl_listen_start(&f->loop, f->service, PATH, NULL, &second, &err), SL_EINPUT);
    assert_non_null(strstr(err.msg, PATH));
    assert_int_equal(stat(PATH, &st), 0);
    sl_listen_stop(l, NULL, NULL);
    for (int i = 0; i < 10; i++) fx_turn(f);
    assert_int_equal(stat(PATH, &st), -1); /* removed */
    fd = open(PATH, O_CREAT | O_WRONLY, 0600);
    close(fd);
    assert_int_equal(sl_listen_start(&f->loop, f->service, PATH, NULL, &l, &err),
                     SL_EINPUT); /* no socket: not ours */
    assert_int_equal(stat(PATH, &st), 0);
    unlink(PATH);
    snprintf(address, sizeof(address), "127.0.0.1:%d", sl_listen_port(f->listen));
    assert_int_equal(sl_listen_start(&f->loop, f->service, address, NULL, &l, &err), SL_EINPUT);
    assert_non_null(strstr(err.msg, address));
    assert_int_equal(sl_listen_start(&f->loop, f->service, "nonsense", NULL, &l, &err), SL_EINPUT);
    assert_int_equal(sl_listen_start(&f->loop, f->service, "./no/such/folder/s", NULL, &l, &err),
                     SL_EINPUT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_generate, setup, teardown),
        cmocka_unit_test_setup_teardown(test_side_by_side, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_requests, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nonsense, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reader_asleep, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_prompt, setup, teardown),
        cmocka_unit_test(test_keys),
        cmocka_unit_test_setup_teardown(test_addresses, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
