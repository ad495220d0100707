/* rig.c - see rig.h. */
#include "tests/link/rig.h"

#include <stdarg.h>
#include <setjmp.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/dtype.h"
#include "base/env.h"
#include "base/sl_assert.h"

/* ---- frames ---------------------------------------------------------------------------------- */

static void fill(uint8_t *body, size_t n, uint64_t slot)
{
    for (size_t i = 0; i < n; i += 8) {
        uint64_t v = sl_mix64(slot * 0x10001 + i);
        memcpy(body + i, &v, SL_MIN(n - i, 8));
    }
}

/* Splits `bytes` into a descriptor of 64-byte multiples and a BF16 payload. */
static struct sl_frame_head shape(uint64_t slot, size_t bytes)
{
    struct sl_frame_head h = {
        .kind = SL_FRAME_BATCH, .epoch = 7, .slot = slot, .dtype = SL_BF16, .n_hops = 1};
    size_t payload = bytes >= 128 ? bytes - 64 : 0;
    h.desc_len = (uint32_t)(bytes - payload);
    h.rows = payload ? 1 : 0;
    h.cols = (uint32_t)(payload / 2);
    return h;
}

struct sl_frame *frame_make(uint64_t slot, size_t bytes)
{
    struct sl_frame_head h = shape(slot, bytes);
    struct sl_frame *f = sl_frame_alloc(&h);
    SL_ASSERT(f);
    fill(f->body, h.desc_len, slot);
    fill(sl_frame_payload(f), (size_t)sl_frame_payload_bytes(&h), slot + 1);
    return f;
}

static int matches(const uint8_t *body, size_t n, uint64_t slot)
{
    for (size_t i = 0; i < n; i += 8) {
        uint64_t v = sl_mix64(slot * 0x10001 + i);
        if (memcmp(body + i, &v, SL_MIN(n - i, 8))) return 0;
    }
    return 1;
}

int frame_is(const struct sl_frame *f, uint64_t slot, size_t bytes)
{
    struct sl_frame_head h = shape(slot, bytes);
    return f->head.slot == slot && f->head.desc_len == h.desc_len && f->head.rows == h.rows &&
           f->head.cols == h.cols && f->head.epoch == 7 && f->head.kind == SL_FRAME_BATCH &&
           f->head.sent_ns != 0 && f->recv_ns != 0 && matches(f->body, h.desc_len, slot) &&
           matches(sl_frame_payload(f), (size_t)sl_frame_payload_bytes(&h), slot + 1);
}

/* ---- rig ------------------------------------------------------------------------------------- */

static void on_frame(void *arg, struct sl_frame *f)
{
    struct rig *r = arg;
    r->received++;
    if (r->on_frame) {
        r->on_frame(r, f);
        return;
    }
    f->next = NULL;
    *r->last = f;
    r->last = &f->next;
}

static void on_error(void *arg, const struct sl_err *err)
{
    struct rig *r = arg;
    r->errors++;
    r->error = *err;
}

static void on_down(void *arg, const struct sl_err *err)
{
    struct rig *r = arg;
    r->downs++;
    r->down = *err;
}

static void on_watchdog(uv_timer_t *t)
{
    const struct rig *r = t->data;
    int status = 0;
    pid_t dead = waitpid(-1, &status, WNOHANG);
    fprintf(stderr,
            "process %d hangs; %d frames received, %d errors (the last: %s), %d links down (the "
            "last: %s); child %d has ended with wait status %d\n",
            (int)getpid(), r->received, r->errors, r->errors ? r->error.msg : "none", r->downs,
            r->downs ? r->down.msg : "none", (int)dead, status);
    abort();
}

/* Segments of shared memory in this process. */
static int shared_segments(void)
{
    char line[512];
    int n = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    SL_ASSERT(maps);
    while (fgets(line, sizeof line, maps)) n += strstr(line, "SYSV") || strstr(line, "ucx_shm");
    fclose(maps);
    return n;
}

static void open_port(struct rig *r)
{
    struct sl_err err = {0};
    if (sl_port_open(&r->loop, r->transport, on_frame, on_error, r, &r->port, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        abort();
    }
    r->opened++;
}

static void on_closed(void *arg)
{
    ((struct rig *)arg)->closed++;
}

void rig_open(struct rig *r, const char *transport)
{
    memset(r, 0, sizeof *r);
    r->last = &r->first;
    r->transport = transport;
    SL_ASSERT(uv_loop_init(&r->loop) == 0);
    SL_ASSERT(uv_timer_init(&r->loop, &r->watchdog) == 0);
    r->watchdog.data = r;
    uv_timer_start(&r->watchdog, on_watchdog, RIG_PATIENCE_MS, 0);
    SL_ASSERT(shared_segments() == 0);
    open_port(r);
    SL_ASSERT((shared_segments() > 0) == (strcmp(transport, "ucx-shm") == 0));
}

void rig_reopen(struct rig *r)
{
    if (!sl_port_is_fragile(r->port)) return;
    sl_port_close(r->port, on_closed, r);
    open_port(r);
}

void rig_address(struct rig *r, struct sl_buf *out)
{
    sl_buf_init(out, SL_PORT_ADDRESS_MAX);
    SL_ASSERT(sl_port_address(r->port, out) == 0);
}

struct sl_link *rig_link(struct rig *r, const struct sl_buf *address)
{
    struct sl_link *l;
    struct sl_err err = {0};
    if (sl_link_open(r->port, address->data, address->len, on_down, r, &l, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        abort();
    }
    return l;
}

void rig_close(struct rig *r)
{
    for (struct sl_frame *f; (f = rig_take(r));) sl_frame_free(f);
    int received = r->received;
    sl_port_close(r->port, on_closed, r);
    rig_wait(r, &r->closed, r->opened);
    SL_ASSERT(received == r->received); /* no callback after closing */
    uv_close((uv_handle_t *)&r->watchdog, NULL);
    uv_run(&r->loop, UV_RUN_DEFAULT);
    SL_ASSERT(uv_loop_close(&r->loop) == 0); /* no handle is left */
    sl_frame_pool_trim();
    SL_ASSERT(shared_segments() == 0);
}

void rig_run_until(struct rig *r, int (*done)(void *arg), void *arg)
{
    uv_timer_start(&r->watchdog, on_watchdog, RIG_PATIENCE_MS, 0);
    while (!done(arg)) uv_run(&r->loop, UV_RUN_ONCE);
}

void rig_wait(struct rig *r, const int *value, int at_least)
{
    uv_timer_start(&r->watchdog, on_watchdog, RIG_PATIENCE_MS, 0);
    while (*value < at_least) uv_run(&r->loop, UV_RUN_ONCE);
}

static void on_spun(uv_timer_t *t)
{
    *(int *)t->data = 1;
}

void rig_spin(struct rig *r, int ms)
{
    int over = 0;
    uv_timer_t t;
    uv_timer_init(&r->loop, &t);
    t.data = &over;
    uv_timer_start(&t, on_spun, (uint64_t)ms, 0);
    rig_wait(r, &over, 1);
    uv_close((uv_handle_t *)&t, NULL);
    uv_run(&r->loop, UV_RUN_NOWAIT);
}

struct sl_frame *rig_take(struct rig *r)
{
    struct sl_frame *f = r->first;
    if (!f) return NULL;
    r->first = f->next;
    if (!r->first) r->last = &r->first;
    return f;
}

/* ---- the second process ---------------------------------------------------------------------- */

static void write_all(int fd, const void *data, size_t n)
{
    const char *p = data;
    while (n) {
        ssize_t w = write(fd, p, n);
        SL_ASSERT(w > 0);
        p += w;
        n -= (size_t)w;
    }
}

static void read_all(int fd, void *data, size_t n)
{
    char *p = data;
    while (n) {
        ssize_t r = read(fd, p, n);
        SL_ASSERT(r > 0);
        p += r;
        n -= (size_t)r;
    }
}

static void send_address(int fd, const struct sl_buf *a)
{
    uint32_t n = (uint32_t)a->len;
    write_all(fd, &n, sizeof n);
    write_all(fd, a->data, n);
}

static void receive_address(int fd, struct sl_buf *a)
{
    uint32_t n;
    char bytes[SL_PORT_ADDRESS_MAX];
    read_all(fd, &n, sizeof n);
    SL_ASSERT(n <= sizeof bytes);
    read_all(fd, bytes, n);
    sl_buf_init(a, SL_PORT_ADDRESS_MAX);
    SL_ASSERT(sl_buf_add(a, bytes, n) == 0);
}

void child_start_for(struct child *c, const struct sl_buf *mine, const char *transport,
                     const char *mode)
{
    int to[2], from[2];
    SL_ASSERT(pipe2(to, O_CLOEXEC) == 0 && pipe2(from, O_CLOEXEC) == 0);
    c->pid = fork();
    SL_ASSERT(c->pid >= 0);
    if (c->pid == 0) {
        /* above the numbers they are to get, so that neither overwrites the other */
        int in = fcntl(to[0], F_DUPFD, 10), out = fcntl(from[1], F_DUPFD, 10);
        if (dup2(in, 3) < 0 || dup2(out, 4) < 0) _exit(99);
        close(in);
        close(out);
        execl("/proc/self/exe", "child", "--child", transport, mode, (char *)NULL);
        _exit(98);
    }
    close(to[0]);
    close(from[1]);
    c->to = to[1];
    c->from = from[0];
    send_address(c->to, mine);
    receive_address(c->from, &c->address);
}

void child_start(struct child *c, struct rig *r, const char *transport, const char *mode)
{
    struct sl_buf mine;
    rig_address(r, &mine);
    child_start_for(c, &mine, transport, mode);
    sl_buf_close(&mine);
}

static int reap(struct child *c)
{
    int status;
    SL_ASSERT(waitpid(c->pid, &status, 0) == c->pid);
    close(c->from);
    sl_buf_close(&c->address);
    return status;
}

void child_kill(struct child *c)
{
    kill(c->pid, SIGKILL);
    close(c->to);
    reap(c);
}

int child_end(struct child *c)
{
    close(c->to);
    int status = reap(c);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void child_meet(struct rig *r, struct sl_buf *parent)
{
    struct sl_buf mine;
    receive_address(3, parent);
    rig_address(r, &mine);
    send_address(4, &mine);
    sl_buf_close(&mine);
}
