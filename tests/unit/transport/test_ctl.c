/* test_ctl.c - a control connection against peers that are slow, broken, deaf or gone. The peer is
 * the other end of a socket pair in this thread; it moves only when the test lets it. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include <cmocka.h>

#include "transport/ctl.h"

struct rig {
    uv_loop_t loop;
    struct sl_ctl_conn *conn;
    int peer;
    int messages, ends, close_at; /* close_at: close from inside this message */
    uint64_t done_bytes;
    struct sl_err why;
};

static void on_message(void *arg, const struct sl_ctl *m)
{
    struct rig *r = arg;
    assert_int_equal(m->kind, SL_CTL_PROGRESS);
    r->messages++;
    r->done_bytes = m->progress.done_bytes;
    if (r->messages != r->close_at) return;
    sl_ctl_conn_close(r->conn);
    r->conn = NULL;
}

static void on_end(void *arg, const struct sl_err *why)
{
    struct rig *r = arg;
    r->ends++;
    r->why = *why;
}

static void rig_open(struct rig *r)
{
    int fds[2];
    struct sl_err e;
    memset(r, 0, sizeof *r);
    uv_loop_init(&r->loop);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    r->peer = fds[1];
    assert_int_equal(sl_ctl_conn_open(&r->loop, fds[0], on_message, on_end, r, &r->conn, &e), 0);
}

static void rig_close(struct rig *r)
{
    sl_ctl_conn_close(r->conn);
    if (r->peer >= 0) close(r->peer);
    uv_run(&r->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&r->loop), 0);
}

static void turn(struct rig *r)
{
    for (int i = 0; i < 3; i++) uv_run(&r->loop, UV_RUN_NOWAIT);
}

static void pack(struct sl_buf *b, uint64_t done)
{
    struct sl_ctl m = {.kind = SL_CTL_PROGRESS,
                       .progress = {.done_bytes = done, .total_bytes = 100}};
    assert_int_equal(sl_ctl_pack(&m, b), 0);
}

static void test_pieces(void **state)
{
    (void)state;
    struct rig r;
    struct sl_buf b;
    rig_open(&r);
    sl_buf_init(&b, 4096);
    pack(&b, 41);
    pack(&b, 42);
    for (size_t i = 0; i < b.len; i++) {
        assert_int_equal(write(r.peer, b.data + i, 1), 1);
        turn(&r);
        assert_int_equal(r.messages, i + 1 == b.len ? 2 : i + 1 >= b.len / 2);
    }
    assert_int_equal(r.done_bytes, 42);
    assert_int_equal(write(r.peer, b.data, b.len), b.len); /* both at once */
    turn(&r);
    assert_int_equal(r.messages, 4);
    assert_int_equal(r.ends, 0);
    sl_buf_close(&b);
    rig_close(&r);
}

static void test_garbage(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r);
    assert_int_equal(write(r.peer, "\xff\xff\xff\xff garbage", 12), 12);
    turn(&r);
    assert_int_equal(r.ends, 1);
    assert_int_equal(r.why.code, SL_EPROTO);
    struct sl_ctl m = {.kind = SL_CTL_PING};
    assert_int_equal(sl_ctl_conn_send(r.conn, &m), SL_ECLOSED);
    assert_true(write(r.peer, "more", 4) == 4);
    turn(&r);
    assert_int_equal(r.ends, 1); /* told once */
    rig_close(&r);
}

static void test_gone(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r);
    close(r.peer);
    r.peer = -1;
    turn(&r);
    assert_int_equal(r.ends, 1);
    assert_int_equal(r.why.code, SL_ECLOSED);
    rig_close(&r);
}

/* Sends until the queue is full or n messages are in it; their count. */
static int fill(struct rig *r, int n, int *code)
{
    static char text[500001];
    memset(text, 'x', sizeof text - 1);
    struct sl_ctl m = {.kind = SL_CTL_FAIL, .fail = {.code = SL_EIO, .message = text}};
    int sent = 0;
    *code = 0;
    while (sent < n && (*code = sl_ctl_conn_send(r->conn, &m)) == 0) sent++;
    return sent;
}

static void test_deaf(void **state)
{
    (void)state;
    struct rig r;
    int code;
    rig_open(&r);
    int sent = fill(&r, 1000, &code);
    assert_int_equal(code, SL_EBUSY);
    assert_in_range(sent, SL_CTL_QUEUE_MAX / 500001 - 1, SL_CTL_QUEUE_MAX / 500001 + 2);
    assert_int_equal(r.ends, 0); /* never from inside our own call */
    turn(&r);
    assert_int_equal(r.ends, 1);
    assert_int_equal(r.why.code, SL_EBUSY);
    rig_close(&r);
}

/* Closing sends what is queued first, when the peer takes it. */
static void test_close_sends(void **state)
{
    (void)state;
    struct rig r;
    int code;
    static char chunk[65536];
    size_t got = 0;
    rig_open(&r);
    assert_int_equal(fill(&r, 4, &code), 4);
    sl_ctl_conn_close(r.conn);
    r.conn = NULL;
    fcntl(r.peer, F_SETFL, O_NONBLOCK);
    for (;;) {
        ssize_t n = read(r.peer, chunk, sizeof chunk);
        if (n > 0) got += (size_t)n;
        if (n == 0) break;
        if (n < 0) assert_int_equal(errno, EAGAIN);
        uv_run(&r.loop, UV_RUN_NOWAIT);
    }
    assert_true(got >= 4 * 500000);
    assert_int_equal(r.ends, 0);
    rig_close(&r);
}

/* A peer that reads nothing does not keep it open. */
static void test_close_deaf(void **state)
{
    (void)state;
    struct rig r;
    int code;
    rig_open(&r);
    assert_int_equal(fill(&r, 4, &code), 4);
    rig_close(&r); /* its loop ends */
    assert_int_equal(r.ends, 0);
}

static void test_close_inside(void **state)
{
    (void)state;
    struct rig r;
    struct sl_buf b;
    rig_open(&r);
    r.close_at = 2;
    sl_buf_init(&b, 4096);
    for (int i = 0; i < 4; i++) pack(&b, (uint64_t)i);
    assert_int_equal(write(r.peer, b.data, b.len), b.len);
    uv_run(&r.loop, UV_RUN_DEFAULT);
    assert_int_equal(r.messages, 2);
    assert_int_equal(r.ends, 0);
    sl_buf_close(&b);
    rig_close(&r);
}

/* What is no socket is refused, and closed all the same. */
static void test_no_socket(void **state)
{
    (void)state;
    struct rig r = {.peer = -1};
    struct sl_err e;
    uv_loop_init(&r.loop);
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    assert_int_equal(sl_ctl_conn_open(&r.loop, fd, on_message, on_end, &r, &r.conn, &e), SL_ESYS);
    assert_null(r.conn);
    assert_int_equal(fcntl(fd, F_GETFD), -1);
    rig_close(&r);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN); /* as every program of ours does */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces),       cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_gone),         cmocka_unit_test(test_deaf),
        cmocka_unit_test(test_close_sends),  cmocka_unit_test(test_close_deaf),
        cmocka_unit_test(test_close_inside), cmocka_unit_test(test_no_socket),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
