/* test_client.c - the client library against the socket API: the client in a thread of its own, the
 * server on this one. */
#include "client/sluice_client.h" /* first and alone: it must need nothing else */

#include "tests/integration/api/api_fixture.h"

#include <pthread.h>
#include <stdatomic.h>

#define PATH "./test_client.sock"

struct job {
    struct fx *f;
    void (*run)(struct job *j);
    const char *address, *key;
    atomic_int ended;
    struct sl_remote *remote;
    /* what came out */
    int rc, tokens, stop_at;
    char text[256], error[SL_REMOTE_ERROR_MAX], *json;
    struct sl_remote_result result;
};

static void *thread(void *arg)
{
    struct job *j = arg;
    j->run(j);
    atomic_store(&j->ended, 1);
    return NULL;
}

static int has_ended(void *arg)
{
    struct job *j = arg;
    return atomic_load(&j->ended);
}

static void run(struct fx *f, struct job *j, void (*fn)(struct job *j))
{
    pthread_t t;
    j->f = f;
    j->run = fn;
    atomic_store(&j->ended, 0);
    assert_int_equal(pthread_create(&t, NULL, thread, j), 0);
    fx_until(f, has_ended, j);
    pthread_join(t, NULL);
}

static int on_token(void *arg, const struct sl_remote_token *t)
{
    struct job *j = arg;
    strncat(j->text, t->text, sizeof(j->text) - strlen(j->text) - 1);
    return j->stop_at && ++j->tokens >= j->stop_at;
}

static void whole_session(struct job *j)
{
    struct sl_remote_request q;
    if ((j->rc = sl_remote_connect(j->address, j->key, &j->remote, j->error))) return;
    sl_remote_request_init(&q);
    q.messages_json = "[{\"role\":\"user\",\"content\":\"Hi \u00e9\"}]";
    q.temperature = 0;
    q.max_tokens = 200;
    j->rc = sl_remote_generate(j->remote, &q, on_token, j, &j->result);
    if (!j->rc) j->rc = sl_remote_status(j->remote, &j->json);
    snprintf(j->error, sizeof(j->error), "%s", sl_remote_error(j->remote));
    sl_remote_close(j->remote);
}

static void test_session(void **state)
{
    (void)state;
    struct fx *f = fx_open("sk-1", PATH);
    struct job j = {.address = PATH, .key = "sk-1"};
    run(f, &j, whole_session);
    if (j.rc) fail_msg("%s", j.error);
    assert_string_equal(j.text, "user\nHi \u00e9\nassistant\n");
    assert_string_equal(j.result.finish_reason, "stop");
    assert_int_equal(j.result.prompt_tokens, j.result.completion_tokens);
    assert_int_equal(j.result.queue_ns, 1000000);
    assert_non_null(strstr(j.json, "\"Fake Model\""));
    free(j.json);
    struct job wrong = {.address = PATH, .key = "sk-2"};
    run(f, &wrong, whole_session);
    assert_int_equal(wrong.rc, SL_REMOTE_REFUSED);
    assert_non_null(strstr(wrong.error, "key"));
    struct job nobody = {.address = "./no_such.sock"};
    run(f, &nobody, whole_session);
    assert_int_equal(nobody.rc, SL_REMOTE_LOST);
    assert_non_null(strstr(nobody.error, "no_such.sock"));
    fx_close(f);
}

static int on_part(void *arg, const struct sl_remote_token *t)
{
    struct job *j = arg;
    size_t n = strlen(j->text), room = sizeof(j->text) - n;
    if (t->reasoning_len) snprintf(j->text + n, room, "R%s", t->reasoning);
    if (t->text_len) snprintf(j->text + n, room, "C%s", t->text);
    for (size_t i = 0; i < t->n_calls; i++) {
        n = strlen(j->text);
        snprintf(j->text + n, sizeof(j->text) - n, "T%u(%s %s)", t->calls[i].index,
                 t->calls[i].name, t->calls[i].arguments);
        j->tokens += strlen(t->calls[i].id) > 5;
    }
    return 0;
}

static void parsed(struct job *j)
{
    struct sl_remote_request q;
    if ((j->rc = sl_remote_connect(j->address, NULL, &j->remote, j->error))) return;
    sl_remote_request_init(&q);
    q.messages_json = "[{\"role\":\"user\",\"content\":\"x\"}]";
    q.tools_json = "[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]";
    q.parse = 1;
    q.options_json = j->stop_at ? "{\"parallel_tool_calls\":false}" : NULL;
    j->rc = sl_remote_generate(j->remote, &q, on_part, j, &j->result);
    q.options_json = "[]";
    if (!j->rc && sl_remote_generate(j->remote, &q, on_part, j, NULL) != SL_REMOTE_REFUSED)
        j->rc = 101;
    sl_remote_close(j->remote);
}

static void test_parsed(void **state)
{
    static const struct sl_chat_options style = {.tool_parser = "hermes",
                                                 .reasoning_parser = "qwen3"};
    struct sl_err err;
    (void)state;
    struct fx *f = fx_open(NULL, PATH);
    assert_int_equal(fake_chat(f->service, &style, &err), 0);
    fake_script(f->service)->answer =
        "<think>a</think>b<tool_call>{\"name\":\"f\",\"arguments\":{\"k\":1}}</tool_call>"
        "<tool_call>{\"name\":\"f\"}</tool_call>";
    struct job j = {.address = PATH};
    run(f, &j, parsed);
    assert_int_equal(j.rc, 0);
    assert_string_equal(j.text, "RaCbT0(f {\"k\":1})T1(f {})");
    assert_string_equal(j.result.finish_reason, "tool_calls");
    assert_int_equal(j.tokens, 2); /* both had ids */
    struct job one = {.address = PATH, .stop_at = 1};
    run(f, &one, parsed);
    assert_int_equal(one.rc, 0);
    assert_string_equal(one.text, "RaCbT0(f {\"k\":1})");
    assert_string_equal(one.result.finish_reason, "tool_calls");
    fx_close(f);
}

static void stops_early(struct job *j)
{
    struct sl_remote_request q;
    if ((j->rc = sl_remote_connect(j->address, NULL, &j->remote, j->error))) return;
    sl_remote_request_init(&q);
    q.prompt = "Hello";
    q.ignore_eos = 1;
    j->stop_at = 3;
    j->rc = sl_remote_generate(j->remote, &q, on_token, j, &j->result);
    if (!j->rc && strcmp(j->result.finish_reason, "cancelled")) j->rc = 100;
    j->stop_at = 0;
    j->text[0] = 0;
    q.ignore_eos = 0;
    if (!j->rc)
        j->rc =
            sl_remote_generate(j->remote, &q, on_token, j, &j->result); /* the connection goes on */
    q.prompt = NULL;
    if (!j->rc && sl_remote_generate(j->remote, &q, on_token, j, NULL) != SL_REMOTE_REFUSED)
        j->rc = 101;
    sl_remote_close(j->remote);
}

static void test_cancel(void **state)
{
    (void)state;
    char address[64];
    struct fx *f = fx_open(NULL, "127.0.0.1:0");
    snprintf(address, sizeof(address), "127.0.0.1:%d", sl_listen_port(f->listen));
    fake_script(f->service)->context = 1 << 30;
    struct job j = {.address = address};
    run(f, &j, stops_early);
    assert_int_equal(j.rc, 0);
    assert_string_equal(j.text, "Hello");
    assert_int_equal(fake_counts(f->service)->cancelled, 1);
    fx_close(f);
}

static void waits(struct job *j)
{
    struct sl_remote_request q;
    if ((j->rc = sl_remote_connect(j->address, NULL, &j->remote, j->error))) return;
    sl_remote_request_init(&q);
    q.prompt = "Hello";
    j->rc = sl_remote_generate(j->remote, &q, NULL, NULL, NULL);
    snprintf(j->error, sizeof(j->error), "%s", sl_remote_error(j->remote));
    sl_remote_close(j->remote);
}

static void test_server_stops(void **state)
{
    (void)state;
    pthread_t t;
    char address[64];
    struct fx *f = fx_open(NULL, "127.0.0.1:0");
    snprintf(address, sizeof(address), "127.0.0.1:%d", sl_listen_port(f->listen));
    fake_script(f->service)->hold = 1;
    struct job j = {.address = address, .run = waits, .f = f};
    assert_int_equal(pthread_create(&t, NULL, thread, &j), 0);
    fx_until_live(f, 1);
    fx_close(f);
    pthread_join(t, NULL);
    assert_int_equal(j.rc, SL_REMOTE_LOST);
    assert_non_null(strstr(j.error, "connect again"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_session),
        cmocka_unit_test(test_parsed),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_server_stops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
