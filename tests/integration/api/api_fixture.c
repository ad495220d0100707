/* api_fixture.c - see api_fixture.h. */
#include "tests/integration/api/api_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>

#include "base/env.h"

#define BEAT_MS 2

static void on_beat(uv_timer_t *t)
{
    (void)t;
}

struct fx *fx_open(const char *keys, const char *address)
{
    struct fx *f = calloc(1, sizeof(*f));
    struct sl_err err = {0};
    assert_int_equal(uv_loop_init(&f->loop), 0);
    uv_timer_init(&f->loop, &f->beat);
    uv_timer_start(&f->beat, on_beat, BEAT_MS, BEAT_MS);
    if (keys && sl_keys_parse("keys", keys, strlen(keys), &f->keys, &err)) fail_msg("%s", err.msg);
    f->service = fake_new(&f->loop);
    if (sl_http_start(&f->loop, f->service, "127.0.0.1:0", f->keys, &f->http, &err))
        fail_msg("%s", err.msg);
    f->open = 2;
    if (address) {
        if (sl_listen_start(&f->loop, f->service, address, f->keys, &f->listen, &err))
            fail_msg("%s", err.msg);
        f->open = 3;
    }
    return f;
}

static void on_part_closed(void *arg)
{
    struct fx *f = arg;
    f->open--;
}

static int all_closed(void *arg)
{
    struct fx *f = arg;
    return f->open == 0;
}

static int front_ends_closed(void *arg)
{
    struct fx *f = arg;
    return f->open == 1;
}

void fx_close(struct fx *f)
{
    sl_http_stop(f->http, on_part_closed, f);
    if (f->listen) sl_listen_stop(f->listen, on_part_closed, f);
    fx_until(f, front_ends_closed, f);
    assert_int_equal(fake_counts(f->service)->live, 0); /* what ran was cancelled */
    fake_close(f->service, on_part_closed, f);
    fx_until(f, all_closed, f);
    uv_close((uv_handle_t *)&f->beat, NULL);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    sl_keys_free(f->keys);
    free(f);
}

void fx_turn(struct fx *f)
{
    uv_run(&f->loop, UV_RUN_ONCE);
}

void fx_until(struct fx *f, int (*cond)(void *arg), void *arg)
{
    uint64_t end = sl_env_now_ns() + FX_WAIT_S * 1000000000ull;
    while (!cond(arg)) {
        if (sl_env_now_ns() > end) fail_msg("waited %d s in vain", FX_WAIT_S);
        fx_turn(f);
    }
}

struct live {
    struct fx *f;
    int want;
};

static int is_live(void *arg)
{
    struct live *l = arg;
    return fake_counts(l->f->service)->live == l->want;
}

void fx_until_live(struct fx *f, int live)
{
    struct live l = {f, live};
    fx_until(f, is_live, &l);
}

/* ---- sockets --------------------------------------------------------------------------------- */

int fx_connect_to(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return fd;
}

int fx_connect(struct fx *f)
{
    return fx_connect_to(sl_http_port(f->http));
}

int fx_try_send(int fd, const void *data, size_t n)
{
    ssize_t k = send(fd, data, n, MSG_NOSIGNAL);
    if (k >= 0) return (int)k;
    return errno == EAGAIN || errno == EINTR ? 0 : -1;
}

void fx_send(struct fx *f, int fd, const void *data, size_t n)
{
    uint64_t end = sl_env_now_ns() + FX_WAIT_S * 1000000000ull;
    for (size_t pos = 0; pos < n;) {
        int k = fx_try_send(fd, (const char *)data + pos, SL_MIN(n - pos, (size_t)1 << 20));
        if (k < 0) fail_msg("the server closed the connection after %zu of %zu bytes", pos, n);
        if (k == 0) {
            fx_turn(f);
            assert_true(sl_env_now_ns() < end);
        }
        pos += (size_t)k;
    }
}

void fx_puts(struct fx *f, int fd, const char *s)
{
    fx_send(f, fd, s, strlen(s));
}

/* Appends what has come; 0 at the end of the connection, else 1. */
static int read_some(struct fx *f, int fd, struct sl_buf *b)
{
    char bytes[65536];
    ssize_t k = recv(fd, bytes, sizeof(bytes), 0);
    if (k > 0)
        assert_int_equal(sl_buf_add(b, bytes, (size_t)k), 0);
    else if (k == 0 || (errno != EAGAIN && errno != EINTR))
        return 0;
    else
        fx_turn(f);
    return 1;
}

void fx_read_until(struct fx *f, int fd, struct sl_buf *b, const char *what)
{
    uint64_t end = sl_env_now_ns() + FX_WAIT_S * 1000000000ull;
    while (!strstr(sl_buf_str(b), what)) {
        if (!read_some(f, fd, b) || sl_env_now_ns() > end)
            fail_msg("'%s' did not come, only: %.2000s", what, sl_buf_str(b));
    }
}

void fx_read_end(struct fx *f, int fd, struct sl_buf *b)
{
    uint64_t end = sl_env_now_ns() + FX_WAIT_S * 1000000000ull;
    while (read_some(f, fd, b))
        if (sl_env_now_ns() > end) fail_msg("the server did not close the connection");
}

int fx_answer(struct fx *f, int fd, struct sl_buf *b)
{
    int status = 0;
    sl_buf_clear(b);
    fx_read_until(f, fd, b, "\r\n\r\n");
    assert_int_equal(sscanf(sl_buf_str(b), "HTTP/1.1 %d", &status), 1);
    const char *len = strstr(sl_buf_str(b), "Content-Length: ");
    size_t n = len ? strtoul(len + 16, NULL, 10) : 0;
    size_t head = (size_t)(strstr(b->data, "\r\n\r\n") - b->data) + 4;
    uint64_t end = sl_env_now_ns() + FX_WAIT_S * 1000000000ull;
    while (b->len < head + n)
        if (!read_some(f, fd, b) || sl_env_now_ns() > end)
            fail_msg("the body did not come: %.2000s", sl_buf_str(b));
    assert_int_equal(b->len, head + n); /* callers read one answer at a time */
    sl_buf_consume(b, head);
    return status;
}

int fx_ask(struct fx *f, const char *method, const char *path, const char *body, struct sl_buf *b)
{
    char head[512];
    int fd = fx_connect(f);
    snprintf(head, sizeof(head), "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", method,
             path);
    fx_puts(f, fd, head);
    if (body) {
        snprintf(head, sizeof(head), "Content-Length: %zu\r\n", strlen(body));
        fx_puts(f, fd, head);
    }
    fx_puts(f, fd, "\r\n");
    if (body) fx_puts(f, fd, body);
    int status = fx_answer(f, fd, b);
    close(fd);
    return status;
}

json_t *fx_json(struct fx *f, const char *method, const char *path, const char *body, int *status)
{
    struct sl_buf b;
    json_error_t je;
    sl_buf_init(&b, 64 << 20);
    *status = fx_ask(f, method, path, body, &b);
    json_t *o = json_loadb(b.data, b.len, 0, &je);
    if (!o) fail_msg("no JSON: %s: %.1000s", je.text, sl_buf_str(&b));
    sl_buf_close(&b);
    return o;
}
