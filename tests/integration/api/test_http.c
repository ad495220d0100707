/* test_http.c - the HTTP API as ordinary clients use it, byte by byte: framing, keep-alive,
 * streams, endpoints, keys. */
#include "tests/integration/api/api_fixture.h"

static int setup(void **state)
{
    *state = fx_open(NULL, NULL);
    return 0;
}

static int teardown(void **state)
{
    fx_close(*state);
    return 0;
}

#define HELLO "{\"prompt\":\"Hello\"}"

static const char *first_text(json_t *o)
{
    return json_string_value(
        json_object_get(json_array_get(json_object_get(o, "choices"), 0), "text"));
}

static void put_post(struct sl_buf *b, const char *path, const char *body)
{
    sl_buf_printf(b, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s", path,
                  strlen(body), body);
}

static void check_hello(const struct sl_buf *b)
{
    json_t *o = json_loadb(b->data, b->len, 0, NULL);
    assert_non_null(o);
    assert_string_equal(first_text(o), "Hello");
    json_decref(o);
}

static void test_keep_alive(void **state)
{
    struct fx *f = *state;
    struct sl_buf b, q;
    sl_buf_init(&b, 1 << 20);
    sl_buf_init(&q, 1 << 20);
    int fd = fx_connect(f);
    for (int i = 0; i < 50; i++) {
        sl_buf_clear(&q);
        put_post(&q, "/v1/completions", HELLO);
        fx_send(f, fd, q.data, q.len);
        assert_int_equal(fx_answer(f, fd, &b), 200);
        check_hello(&b);
    }
    fx_puts(f, fd, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_int_equal(fx_answer(f, fd, &b), 200);
    assert_string_equal(sl_buf_str(&b), "{\"status\":\"ok\"}");
    sl_buf_clear(&b);
    fx_read_end(f, fd, &b); /* an answer to GET is the last one */
    assert_int_equal(b.len, 0);
    close(fd);
    sl_buf_close(&b);
    sl_buf_close(&q);
}

/* Of requests sent ahead the first is answered and the connection ends in good order: no answer is
 * mixed up, none is cut, whatever their kind and wherever the pieces fall. */
static void test_pipelined(void **state)
{
    struct fx *f = *state;
    struct sl_buf b, q;
    sl_buf_init(&b, 1 << 20);
    sl_buf_init(&q, 1 << 20);
    for (int kind = 0; kind < 12; kind++) {
        sl_buf_clear(&q);
        for (int i = 0; i < 6; i++) {
            if (kind % 3 == 0) put_post(&q, "/tokenize", "{\"content\":\"ab\"}");
            if (kind % 3 == 1) put_post(&q, "/v1/completions", HELLO);
            if (kind % 3 == 2) sl_buf_puts(&q, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
        }
        int fd = fx_connect(f);
        size_t cut = q.len * (size_t)(kind / 3 + 1) / 5; /* the rest a little later */
        fx_send(f, fd, q.data, cut);
        fx_turn(f);
        fx_try_send(fd, q.data + cut, q.len - cut);
        sl_buf_clear(&b);
        fx_read_end(f, fd, &b);
        const char *text = sl_buf_str(&b), *first = strstr(text, "HTTP/1.1 200 OK");
        assert_ptr_equal(first, text);
        assert_non_null(strstr(text, kind % 3 == 0 ? "[97,98]" : kind % 3 == 1 ? "Hello" : "ok"));
        assert_null(strstr(text, "HTTP/1.1 4")); /* nothing was misunderstood */
        close(fd);
    }
    sl_buf_close(&b);
    sl_buf_close(&q);
}

static void test_byte_by_byte(void **state)
{
    struct fx *f = *state;
    struct sl_buf b, q;
    sl_buf_init(&b, 1 << 20);
    sl_buf_init(&q, 1 << 20);
    put_post(&q, "/v1/completions", HELLO);
    int fd = fx_connect(f);
    for (size_t i = 0; i < q.len; i++) {
        fx_send(f, fd, q.data + i, 1);
        fx_turn(f);
    }
    assert_int_equal(fx_answer(f, fd, &b), 200);
    check_hello(&b);
    close(fd);
    sl_buf_close(&b);
    sl_buf_close(&q);
}

static void test_chunked_body(void **state)
{
    struct fx *f = *state;
    struct sl_buf b;
    sl_buf_init(&b, 1 << 20);
    static const char q[] =
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        "5;ext=1\r\n{\"pro\r\n00d\r\nmpt\":\"Hello\"}\r\n0\r\nTrailer: x\r\n\r\n";
    for (size_t step = 1; step < sizeof(q); step = step * 3 + 1) {
        int fd = fx_connect(f);
        for (size_t i = 0; i < sizeof(q) - 1; i += step) {
            fx_send(f, fd, q + i, SL_MIN(step, sizeof(q) - 1 - i));
            fx_turn(f);
        }
        assert_int_equal(fx_answer(f, fd, &b), 200);
        check_hello(&b);
        sl_buf_clear(&b);
        fx_read_end(f, fd, &b); /* such a connection ends with its answer */
        close(fd);
    }
    sl_buf_close(&b);
}

static void test_expect_continue(void **state)
{
    struct fx *f = *state;
    struct sl_buf b;
    sl_buf_init(&b, 1 << 20);
    int fd = fx_connect(f);
    fx_puts(f, fd,
            "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 18\r\nExpect: "
            "100-continue\r\n\r\n");
    fx_read_until(f, fd, &b, "HTTP/1.1 100 Continue\r\n\r\n");
    sl_buf_clear(&b);
    fx_puts(f, fd, HELLO);
    assert_int_equal(fx_answer(f, fd, &b), 200);
    check_hello(&b);
    close(fd);
    sl_buf_close(&b);
}

static void test_stream(void **state)
{
    struct fx *f = *state;
    struct sl_buf b, q;
    sl_buf_init(&b, 1 << 20);
    sl_buf_init(&q, 1 << 20);
    put_post(&q, "/v1/completions", "{\"prompt\":\"Hello\",\"stream\":true,\"stop\":[\"lo\"]}");
    int fd = fx_connect(f);
    for (int i = 0; i < 20; i++) { /* a stream leaves the connection usable */
        sl_buf_clear(&b);
        fx_send(f, fd, q.data, q.len);
        fx_read_until(f, fd, &b, "data: [DONE]\n\n\r\n0\r\n\r\n");
        assert_non_null(strstr(b.data, "Content-Type: text/event-stream"));
        char text[64] = "";
        for (const char *p = b.data; (p = strstr(p, "\"text\":\"")); p++)
            sscanf(p, "\"text\":\"%[^\"]", text + strlen(text));
        assert_string_equal(text, "Hel");
        assert_non_null(strstr(b.data, "\"finish_reason\":\"stop\""));
    }
    close(fd);
    sl_buf_close(&b);
    sl_buf_close(&q);
}

static void test_http10(void **state)
{
    struct fx *f = *state;
    struct sl_buf b;
    sl_buf_init(&b, 1 << 20);
    int fd = fx_connect(f);
    fx_puts(f, fd,
            "POST /v1/completions HTTP/1.0\r\nContent-Length: "
            "32\r\n\r\n{\"prompt\":\"Hello\",\"stream\":true}");
    fx_read_end(f, fd, &b);
    assert_null(strstr(b.data, "chunked"));
    assert_int_equal(strncmp(b.data + b.len - 14, "data: [DONE]\n\n", 14), 0);
    close(fd);
    sl_buf_close(&b);
}

static void test_methods(void **state)
{
    struct fx *f = *state;
    struct sl_buf b;
    sl_buf_init(&b, 1 << 20);
    assert_int_equal(fx_ask(f, "GET", "/v1/completions", NULL, &b), 405);
    assert_int_equal(fx_ask(f, "DELETE", "/health", NULL, &b), 405);
    assert_int_equal(fx_ask(f, "PUT", "/v1/models", "{}", &b), 405);
    assert_int_equal(fx_ask(f, "OPTIONS", "/v1/models", NULL, &b), 204);
    assert_int_equal(fx_ask(f, "POST", "/v1/nothing", "{}", &b), 404);
    assert_int_equal(fx_ask(f, "POST", "/tokenize", NULL, &b), 411);
    int fd = fx_connect(f);
    fx_puts(f, fd, "HEAD /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    sl_buf_clear(&b);
    fx_read_end(f, fd, &b);
    assert_non_null(strstr(b.data, "Content-Length: 15\r\n"));
    assert_int_equal(strcmp(b.data + b.len - 4, "\r\n\r\n"), 0); /* no body */
    close(fd);
    sl_buf_close(&b);
}

/* Wishes to become another protocol are ignored, as HTTP allows. */
static void test_upgrade_ignored(void **state)
{
    struct fx *f = *state;
    struct sl_buf b;
    static const char *const names[] = {"h2c", "websocket", "foo"};
    sl_buf_init(&b, 1 << 20);
    for (size_t i = 0; i < 3; i++) {
        char q[256];
        int fd = fx_connect(f);
        snprintf(q, sizeof(q),
                 "GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n",
                 names[i]);
        fx_puts(f, fd, q);
        if (i < 2)
            assert_int_equal(fx_answer(f, fd, &b), 200);
        else
            fx_read_end(f, fd, &b); /* libwebsockets refuses what it never heard of */
        close(fd);
    }
    sl_buf_close(&b);
}

/* An adapter is one more model: listed, asked for by name, named in the answer. */
static void test_adapters(void **state)
{
    static const char *const paths[] = {"/v1/completions", "/v1/chat/completions"};
    static const char *const bodies[] = {
        "{\"model\":\"%s\",\"prompt\":\"a\",\"max_tokens\":1}",
        "{\"model\":\"%s\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":1}"};
    struct fx *f = *state;
    int status;
    json_t *o = fx_json(f, "GET", "/v1/models", NULL, &status), *second;
    second = json_array_get(json_object_get(o, "data"), 1);
    assert_string_equal(json_string_value(json_object_get(second, "id")), "fake-adapter");
    assert_string_equal(json_string_value(json_object_get(second, "parent")), "Fake Model");
    json_decref(o);
    for (int i = 0; i < 4; i++) {
        char body[256];
        const char *name = i % 2 ? "Fake Model" : "fake-adapter";
        snprintf(body, sizeof body, bodies[i / 2], name);
        o = fx_json(f, "POST", paths[i / 2], body, &status);
        assert_int_equal(status, 200);
        assert_string_equal(json_string_value(json_object_get(o, "model")), name);
        assert_int_equal(fake_last(f->service)->adapter, i % 2 == 0);
        json_decref(o);
    }
}

static void test_endpoints(void **state)
{
    struct fx *f = *state;
    int status;
    struct sl_buf b;
    sl_buf_init(&b, 1 << 20);
    json_t *o = fx_json(f, "GET", "/v1/models", NULL, &status);
    assert_string_equal(
        json_string_value(json_object_get(json_array_get(json_object_get(o, "data"), 0), "id")),
        "Fake Model");
    json_decref(o);
    o = fx_json(f, "POST", "/detokenize", "{\"tokens\":[72,105,258]}", &status);
    assert_string_equal(json_string_value(json_object_get(o, "content")), "Hi<|im_end|>");
    json_decref(o);
    o = fx_json(f, "POST", "/apply-template",
                "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", &status);
    assert_string_equal(json_string_value(json_object_get(o, "prompt")),
                        "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n");
    json_decref(o);
    o = fx_json(f, "POST", "/tokenize",
                "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"return_token_strs\":true}",
                &status);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(o, "tokens"), 0)),
                     FAKE_START);
    json_decref(o);
    o = fx_json(f, "GET", "/cluster", NULL, &status);
    assert_string_equal(json_string_value(json_object_get(o, "name")), "fake");
    json_decref(o);
    assert_int_equal(fx_ask(f, "GET", "/metrics", NULL, &b), 200);
    assert_non_null(strstr(b.data, "sluice:kv_cache_usage_perc{model_name=\"Fake Model\"} 0.25\n"));
    assert_non_null(strstr(b.data,
                           "sluice:link_bytes_total{model_name=\"Fake "
                           "Model\",stage=\"1\",device=\"fake/1\",transport=\"local\"} 4096\n"));
    assert_int_equal(fx_ask(f, "GET", "/", NULL, &b), 200);
    assert_non_null(strstr(b.data, "Fake Model"));
    fake_script(f->service)->loading = 1;
    assert_int_equal(fx_ask(f, "GET", "/health", NULL, &b), 503);
    assert_string_equal(b.data, "{\"status\":\"loading\"}");
    assert_int_equal(fx_ask(f, "POST", "/v1/completions", HELLO, &b), 503);
    sl_buf_close(&b);
}

/* What the request says is what the service is asked. */
static void test_settings_arrive(void **state)
{
    struct fx *f = *state;
    int status;
    json_decref(fx_json(f, "POST", "/v1/completions",
                        "{\"prompt\":\"ab\",\"temperature\":0.25,\"top_p\":0.5,\"top_k\":7,\"min_"
                        "p\":0.125,\"seed\":42,"
                        "\"presence_penalty\":1.5,\"frequency_penalty\":-1,\"repetition_penalty\":"
                        "1.25,\"ignore_eos\":true,"
                        "\"priority\":-3,\"max_tokens\":9,\"logit_bias\":{\"65\":-100,\"66\":1},"
                        "\"logprobs\":5,\"user\":\"u\"}",
                        &status));
    const struct sl_submit *s = fake_last(f->service);
    assert_int_equal(status, 200);
    assert_true(s->sampling.temperature == 0.25f && s->sampling.top_p == 0.5f &&
                s->sampling.min_p == 0.125f);
    assert_true(s->sampling.presence_penalty == 1.5f && s->sampling.frequency_penalty == -1);
    assert_true(s->sampling.repetition_penalty == 1.25f);
    assert_int_equal(s->sampling.top_k, 7);
    assert_int_equal(s->sampling.seed, 42);
    assert_int_equal(s->sampling.n_bias, 2);
    assert_int_equal(s->sampling.n_top, 5);
    assert_int_equal(s->ignore_eos, 1);
    assert_int_equal(s->priority, -3);
    assert_int_equal(s->max_tokens, 9);
    json_decref(fx_json(f, "POST", "/v1/completions", HELLO, &status));
    uint64_t seed = s->sampling.seed;
    assert_true(s->sampling.temperature == 1 && s->sampling.top_p == 1 && s->sampling.top_k == 0);
    json_decref(fx_json(f, "POST", "/v1/completions", HELLO, &status));
    assert_true(s->sampling.seed != seed); /* drawn anew for each request */
}

static void test_failures(void **state)
{
    struct fx *f = *state;
    struct sl_buf b, q;
    int status;
    sl_buf_init(&b, 1 << 20);
    sl_buf_init(&q, 1 << 20);
    fake_script(f->service)->fail_after = 2;
    json_t *o = fx_json(f, "POST", "/v1/completions", HELLO, &status);
    assert_int_equal(status, 503);
    assert_string_equal(json_string_value(json_object_get(json_object_get(o, "error"), "message")),
                        "stage 1 was lost; try again");
    json_decref(o);
    put_post(&q, "/v1/completions", "{\"prompt\":\"Hello\",\"stream\":true,\"n\":3}");
    int fd = fx_connect(f);
    fx_send(f, fd, q.data, q.len);
    fx_read_until(f, fd, &b, "\r\n0\r\n\r\n");
    assert_non_null(
        strstr(b.data, "data: {\"error\":{\"message\":\"stage 1 was lost; try again\""));
    assert_null(strstr(b.data, "[DONE]"));
    close(fd);
    fx_until_live(f, 0); /* the other two answers were cancelled */
    fake_script(f->service)->fail_after = -1;
    fake_script(f->service)->limit = 2;
    assert_int_equal(fx_ask(f, "POST", "/v1/completions", "{\"prompt\":\"Hello\",\"n\":3}", &b),
                     429);
    assert_int_equal(fake_counts(f->service)->live, 0);
    sl_buf_close(&b);
    sl_buf_close(&q);
}

static void test_keys(void **state)
{
    (void)state;
    struct fx *f = fx_open("# two keys\nsk-one\nsk-two\n", NULL);
    struct sl_buf b;
    sl_buf_init(&b, 1 << 20);
    assert_int_equal(fx_ask(f, "GET", "/v1/models", NULL, &b), 401);
    assert_non_null(strstr(b.data, "invalid_api_key"));
    assert_int_equal(fx_ask(f, "GET", "/health", NULL, &b), 200); /* probes need no key */
    static const struct {
        const char *header;
        int status;
    } cases[] = {
        {"Authorization: Bearer sk-two\r\n", 200}, {"authorization: bearer sk-one\r\n", 200},
        {"Authorization: Bearer sk-on\r\n", 401},  {"Authorization: Bearer sk-one1\r\n", 401},
        {"Authorization: sk-one\r\n", 401},        {"Authorization: Basic c2stb25l\r\n", 401},
        {"Authorization: Bearer \r\n", 401},
    };
    for (size_t i = 0; i < SL_ARRAY_LEN(cases); i++) {
        char q[256];
        int fd = fx_connect(f);
        snprintf(q, sizeof(q), "GET /v1/models HTTP/1.1\r\nHost: x\r\n%s\r\n", cases[i].header);
        fx_puts(f, fd, q);
        assert_int_equal(fx_answer(f, fd, &b), cases[i].status);
        close(fd);
    }
    sl_buf_close(&b);
    fx_close(f);
}

static void test_port_in_use(void **state)
{
    struct fx *f = *state;
    struct sl_err err = {0};
    struct sl_http *h = NULL;
    char address[64];
    snprintf(address, sizeof(address), "127.0.0.1:%d", sl_http_port(f->http));
    assert_int_equal(sl_http_start(&f->loop, f->service, address, NULL, &h, &err), SL_EINPUT);
    assert_non_null(strstr(err.msg, address));
    assert_non_null(strstr(err.msg, "--http"));
    assert_int_equal(sl_http_start(&f->loop, f->service, "127.0.0.1", NULL, &h, &err), SL_EINPUT);
    assert_int_equal(sl_http_start(&f->loop, f->service, "203.0.113.7:80", NULL, &h, &err),
                     SL_EINPUT);
    assert_null(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_keep_alive, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pipelined, setup, teardown),
        cmocka_unit_test_setup_teardown(test_byte_by_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(test_chunked_body, setup, teardown),
        cmocka_unit_test_setup_teardown(test_expect_continue, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stream, setup, teardown),
        cmocka_unit_test_setup_teardown(test_http10, setup, teardown),
        cmocka_unit_test_setup_teardown(test_methods, setup, teardown),
        cmocka_unit_test_setup_teardown(test_upgrade_ignored, setup, teardown),
        cmocka_unit_test_setup_teardown(test_adapters, setup, teardown),
        cmocka_unit_test_setup_teardown(test_endpoints, setup, teardown),
        cmocka_unit_test_setup_teardown(test_settings_arrive, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failures, setup, teardown),
        cmocka_unit_test(test_keys),
        cmocka_unit_test_setup_teardown(test_port_in_use, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
