/* check_links.c - whether frames travel here: for each transport of this build two ports of this
 * process, a link between them and frames over it, as between stages. */
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base/env.h"
#include "cli/check.h"
#include "transport/link.h"

#define FRAMES 64          /* one after the other */
#define FRAME_BYTES 16384u /* a row of 8192 elements of two bytes */
#define PATIENCE_MS 5000

struct trip {
    uv_loop_t loop;
    uv_timer_t watchdog;
    struct sl_port *from, *to;
    struct sl_link *link;
    int sent, arrived, closed;
    uint64_t start_ns, end_ns;
    struct sl_err err;
};

static void finish(struct trip *t)
{
    uv_stop(&t->loop);
}

static void fail(struct trip *t, int code, const char *what)
{
    if (!t->err.code) sl_err_set(&t->err, code, "%s", what);
    finish(t);
}

static void send_one(struct trip *t)
{
    struct sl_frame_head h = {.kind = SL_FRAME_BATCH,
                              .slot = (uint64_t)++t->sent,
                              .dtype = SL_BF16,
                              .rows = 1,
                              .cols = FRAME_BYTES / 2,
                              .n_hops = 1};
    struct sl_frame *f = sl_frame_alloc(&h);
    if (!f) {
        fail(t, SL_ENOMEM, "out of memory");
        return;
    }
    memset(f->body, t->sent, FRAME_BYTES);
    int r = sl_link_send(t->link, f);
    if (r) fail(t, r, sl_strerror(r));
}

static void on_frame(void *arg, struct sl_frame *f)
{
    struct trip *t = arg;
    const uint8_t *body = sl_frame_payload(f);
    int right = sl_frame_body_bytes(&f->head) == FRAME_BYTES && body[0] == (uint8_t)t->sent &&
                body[FRAME_BYTES - 1] == (uint8_t)t->sent;
    sl_frame_free(f);
    if (!right) {
        fail(t, SL_EPROTO, "a frame arrived with other bytes than it was sent with");
        return;
    }
    if (t->arrived++ == 0) t->start_ns = sl_env_now_ns(); /* the first one connects */
    t->end_ns = sl_env_now_ns();
    if (t->arrived < FRAMES)
        send_one(t);
    else
        finish(t);
}

static void on_error(void *arg, const struct sl_err *err)
{
    struct trip *t = arg;
    fail(t, err->code, err->msg);
}

static void on_late(uv_timer_t *timer)
{
    fail(timer->data, SL_ETIMEOUT, "no frame arrived within 5 seconds");
}

static void on_closed(void *arg)
{
    ((struct trip *)arg)->closed++;
}

static int travel(struct trip *t, const char *transport)
{
    struct sl_buf address;
    int r = sl_port_open(&t->loop, transport, on_frame, on_error, t, &t->to, &t->err);
    if (!r) r = sl_port_open(&t->loop, transport, on_frame, on_error, t, &t->from, &t->err);
    if (r) return r;
    sl_buf_init(&address, SL_PORT_ADDRESS_MAX);
    r = sl_port_address(t->to, &address);
    if (!r) r = sl_link_open(t->from, address.data, address.len, on_error, t, &t->link, &t->err);
    sl_buf_close(&address);
    if (r) return r;
    uv_timer_start(&t->watchdog, on_late, PATIENCE_MS, 0);
    send_one(t);
    if (!t->err.code) uv_run(&t->loop, UV_RUN_DEFAULT);
    return t->err.code;
}

static void close_all(struct trip *t)
{
    int open = !!t->from + !!t->to;
    sl_link_close(t->link);
    if (t->from) sl_port_close(t->from, on_closed, t);
    if (t->to) sl_port_close(t->to, on_closed, t);
    while (t->closed < open) uv_run(&t->loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&t->watchdog, NULL);
    uv_run(&t->loop, UV_RUN_DEFAULT);
    uv_loop_close(&t->loop);
}

json_t *sl_check_link(const char *transport)
{
    struct trip *t = calloc(1, sizeof *t);
    if (!t || uv_loop_init(&t->loop)) {
        free(t);
        return json_pack("{s:s, s:b, s:s}", "name", transport, "works", 0, "why", "out of memory");
    }
    uv_timer_init(&t->loop, &t->watchdog);
    t->watchdog.data = t;
    int r = travel(t, transport);
    double us = (double)(t->end_ns - t->start_ns) * 1e-3 / (FRAMES - 1);
    close_all(t);
    json_t *j = json_pack("{s:s, s:b}", "name", transport, "works", r == 0);
    if (r)
        json_object_set_new(j, "why", json_string(t->err.msg));
    else
        json_object_set_new(j, "frame_us", json_real(us));
    free(t);
    return j;
}
