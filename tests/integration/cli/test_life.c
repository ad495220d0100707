/* test_life.c - a session from the inside: starts that fail half way leave nothing behind (the
 * session asserts that its loop is empty, the sanitizers look at the memory), and replies may
 * submit, cancel and stop. */
#include <arpa/inet.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/sl_assert.h"
#include "cli/resolve.h"
#include "cli/session.h"

#define SKIPPED 77

static const struct sl_session_options small = {
    .model = "smollm2", .context = 256, .sequences = 2, .stages = 2};

/* ---- starts that fail ------------------------------------------------------------------------ */

static int fails(struct sl_cluster *c, const char *says)
{
    static struct sl_session s;
    struct sl_err e = {0};
    memset(&s, 0, sizeof s);
    int r = sl_session_open(&s, c, &e);
    assert_true(r < 0);
    assert_int_equal(r, e.code);
    if (!strstr(e.msg, says)) fail_msg("'%s' does not say '%s'", e.msg, says);
    assert_null(s.threads);
    return r;
}

static void make(const struct sl_session_options *o, struct sl_cluster *c)
{
    struct sl_err e;
    if (sl_session_cluster(o, NULL, c, &e)) fail_msg("%s", e.msg);
}

static void test_wrong_options(void **state)
{
    (void)state;
    struct sl_cluster c;
    struct sl_session_options o = small;
    make(&o, &c);
    c.model_path = "/nonexistent.gguf";
    assert_int_equal(sl_err_exit_status(fails(&c, "/nonexistent.gguf")), 2);
    o.cpus = "1000";
    make(&o, &c);
    assert_int_equal(fails(&c, "CPU 1000 does not exist"), SL_EINPUT);
    o = small, o.memory = "1MiB";
    make(&o, &c);
    assert_int_equal(fails(&c, "memory limit"), SL_ELIMIT);
    o.memory = "60MiB";
    make(&o, &c);
    assert_int_equal(fails(&c, "does not fit"), SL_ELIMIT);
    o = small, o.kv_format = "q4_0"; /* the stages find out, when they load */
    make(&o, &c);
    assert_int_equal(fails(&c, "kv_format"), SL_EINPUT);
    o = small, o.backend = "z80";
    make(&o, &c);
    assert_true(fails(&c, "z80") < 0);
}

static void as_processes(struct sl_cluster *c, const char *program)
{
    for (int i = 0; i < c->n_nodes; i++) {
        c->nodes[i].launch = SL_LAUNCH_LOCAL;
        c->nodes[i].program = program;
    }
}

static void test_wrong_program(void **state)
{
    (void)state;
    struct sl_cluster c;
    char path[] = "/tmp/sluice-life-XXXXXX";
    make(&small, &c);
    as_processes(&c, "/nonexistent/sluice");
    fails(&c, "/nonexistent/sluice");
    int fd = mkstemp(path);
    dprintf(fd, "#!/bin/sh\necho what do you want >&2; exit 2\n");
    fchmod(fd, 0700);
    close(fd);
    make(&small, &c);
    as_processes(&c, path);
    assert_int_equal(fails(&c, "what do you want"),
                     SL_EINPUT); /* at once: to try again cannot help */
    unlink(path);
}

/* The control port is taken: everything is open by then, and must be closed through the loop. */
static void test_port_taken(void **state)
{
    (void)state;
    struct sl_cluster c;
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof sa;
    char address[32];
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    snprintf(address, sizeof address, "127.0.0.1:%d", ntohs(sa.sin_port));
    make(&small, &c);
    as_processes(&c, NULL);
    c.control = address;
    assert_int_equal(fails(&c, address), SL_EINPUT);
    close(fd);
}

/* ---- replies that call back ------------------------------------------------------------------ */

static const int32_t prompt[] = {504, 3575, 282, 4649, 314};

struct client {
    struct sl_session *s;
    struct client *next; /* submitted at the first token */
    int cancel_at;       /* cancels itself at that token; 0: does not */
    int stop_at;         /* stops the service at that token */
    int too_long;        /* a request that must be refused */
    int submitted, tokens, done, failed, code;
    uint64_t id;
};

static void on_reply(void *arg, const struct sl_effect *fx);

static int submit(struct client *c)
{
    struct sl_submit req = {
        .tokens = prompt, .n_tokens = SL_ARRAY_LEN(prompt), .max_tokens = 6, .ignore_eos = 1};
    static int32_t many[300];
    struct sl_err e;
    sl_sampling_default(&req.sampling);
    if (c->too_long) {
        req.tokens = many;
        req.n_tokens = SL_ARRAY_LEN(many);
    }
    int r = sl_service_submit(c->s->service, &req, on_reply, c, &c->id, &e);
    c->submitted = r == 0;
    return r;
}

static void on_stopped(void *arg)
{
    struct sl_session *s = arg;
    s->closed = 1;
    uv_stop(&s->loop);
}

static void on_reply(void *arg, const struct sl_effect *fx)
{
    struct client *c = arg;
    if (fx->kind == SL_FX_DONE) c->done++;
    if (fx->kind == SL_FX_FAIL) {
        c->failed++;
        c->code = fx->fail.code;
    }
    if (fx->kind != SL_FX_TOKEN) return;
    c->tokens++;
    if (c->next && c->tokens == 1) assert_int_equal(submit(c->next), 0);
    if (c->tokens == c->cancel_at) sl_service_cancel(c->s->service, c->id);
    if (c->tokens == c->stop_at) sl_service_stop(c->s->service, 1, on_stopped, c->s);
}

static void open_small(struct sl_session *s)
{
    struct sl_cluster c;
    struct sl_err e;
    memset(s, 0, sizeof *s);
    make(&small, &c);
    if (sl_session_open(s, &c, &e)) fail_msg("%s", e.msg);
}

static void test_calls_inside(void **state)
{
    (void)state;
    static struct sl_session s;
    open_small(&s);
    struct client last = {.s = &s}, refused = {.s = &s, .too_long = 1},
                  withdrawn = {.s = &s, .next = &refused, .cancel_at = 2},
                  first = {.s = &s, .next = &withdrawn}, other = {.s = &s, .next = &last};
    assert_int_equal(submit(&first), 0);
    assert_int_equal(submit(&other), 0);
    struct client at_once = {.s = &s, .too_long = 1};
    assert_int_equal(submit(&at_once), SL_ELIMIT);
    while (!first.done || !other.done || !last.done || !refused.failed || withdrawn.tokens < 2)
        uv_run(&s.loop, UV_RUN_ONCE);
    assert_int_equal(refused.code, SL_ELIMIT); /* from inside a reply, a refusal is a reply */
    assert_int_equal(first.tokens, 6);
    assert_int_equal(last.tokens, 6);
    struct client after = {.s = &s};
    assert_int_equal(submit(&after), 0);
    while (!after.done) uv_run(&s.loop, UV_RUN_ONCE);
    assert_int_equal(withdrawn.tokens, 2); /* nothing came after its cancel */
    assert_int_equal(withdrawn.done + withdrawn.failed, 0);
    assert_int_equal(at_once.failed, 0);
    struct sl_coord_status st;
    sl_service_get_status(s.service, &st);
    assert_int_equal(st.running + st.waiting, 0);
    assert_int_equal(st.blocks_free, st.blocks_total);
    sl_session_close(&s, 1);
}

/* A request submitted and withdrawn within one reply never begins. */
static void withdraw_at_once(void *arg, const struct sl_effect *fx)
{
    struct client *c = arg;
    on_reply(c, fx);
    if (fx->kind != SL_FX_TOKEN || c->tokens != 1) return;
    struct client *n = c->next;
    assert_true(n->submitted);
    sl_service_cancel(c->s->service, n->id);
}

static void test_withdrawn_inside(void **state)
{
    (void)state;
    static struct sl_session s;
    open_small(&s);
    struct client never = {.s = &s}, first = {.s = &s, .next = &never};
    struct sl_submit req = {
        .tokens = prompt, .n_tokens = SL_ARRAY_LEN(prompt), .max_tokens = 4, .ignore_eos = 1};
    struct sl_err e;
    sl_sampling_default(&req.sampling);
    assert_int_equal(sl_service_submit(s.service, &req, withdraw_at_once, &first, &first.id, &e),
                     0);
    while (!first.done) uv_run(&s.loop, UV_RUN_ONCE);
    assert_int_equal(never.tokens + never.done + never.failed, 0);
    sl_session_close(&s, 1);
}

static void test_stop_inside(void **state)
{
    (void)state;
    static struct sl_session s;
    open_small(&s);
    struct client stops = {.s = &s, .stop_at = 2}, other = {.s = &s};
    assert_int_equal(submit(&stops), 0);
    assert_int_equal(submit(&other), 0);
    while (!s.closed) uv_run(&s.loop, UV_RUN_DEFAULT);
    assert_int_equal(stops.failed, 1);
    assert_int_equal(other.failed, 1);
    assert_int_equal(other.code, SL_ERETRY);
    sl_session_close(&s, 1);
}

/* ---- a context nobody asked for -------------------------------------------------------------- */

static void test_context(void **state)
{
    (void)state;
    static struct sl_session s;
    struct sl_session_options o = small;
    struct sl_cluster c;
    struct sl_err e;
    o.context = 0;
    o.stages = 1;
    o.memory = "200MiB";
    memset(&s, 0, sizeof s);
    make(&o, &c);
    if (sl_session_open(&s, &c, &e)) fail_msg("%s", e.msg);
    int context = sl_service_context(s.service);
    assert_in_range(context, 512, 8191);
    struct client one = {.s = &s, .too_long = 1}; /* 300 tokens */
    assert_int_equal(submit(&one), 0);
    while (!one.done) uv_run(&s.loop, UV_RUN_ONCE);
    sl_session_close(&s, 1);

    o.context = 8192; /* asked for: an error */
    make(&o, &c);
    assert_int_equal(fails(&c, "8192 tokens"), SL_ELIMIT);
}

int main(void)
{
    char path[4096];
    struct sl_err e;
    signal(SIGPIPE, SIG_IGN);
    if (sl_model_resolve("smollm2", path, sizeof path, &e)) return SKIPPED;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_options),    cmocka_unit_test(test_wrong_program),
        cmocka_unit_test(test_port_taken),       cmocka_unit_test(test_calls_inside),
        cmocka_unit_test(test_withdrawn_inside), cmocka_unit_test(test_stop_inside),
        cmocka_unit_test(test_context),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
