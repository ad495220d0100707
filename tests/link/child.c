/* child.c - what the second process of a link test does. It lives until its pipe from the parent
 * closes. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/sl_assert.h"
#include "tests/link/rig.h"

struct actor {
    struct sl_link *link;
    uint64_t sent;
    int over; /* the parent closed the pipe */
    uv_poll_t pipe;
};

static void on_pipe(uv_poll_t *poll, int status, int events)
{
    (void)status, (void)events;
    ((struct actor *)poll->data)->over = 1;
    uv_poll_stop(poll);
}

/* Sends every frame back. */
static void echo(struct rig *r, struct sl_frame *f)
{
    struct actor *a = r->user;
    if (sl_link_send(a->link, f)) fprintf(stderr, "echo: frame lost\n");
}

static void sink(struct rig *r, struct sl_frame *f)
{
    (void)r;
    sl_frame_free(f);
}

/* Frames as fast as they go, for ever: of all sizes, or large ones. */
static void flood(struct actor *a, int large)
{
    static const size_t sizes[] = {100, 3000, 20000, 300000, 4000000};
    struct sl_link_stats s;
    for (;;) {
        sl_link_get_stats(a->link, &s);
        if (s.queued > 8) return;
        uint64_t slot = a->sent++;
        size_t bytes = large ? 8000000 : sizes[slot % SL_ARRAY_LEN(sizes)];
        if (sl_link_send(a->link, frame_make(slot, bytes))) return;
    }
}

int child_main(const char *transport, const char *mode)
{
    struct rig r;
    struct actor a = {0};
    struct sl_buf parent;
    rig_open(&r, transport);
    r.user = &a;
    r.on_frame = strcmp(mode, "echo") == 0 ? echo : sink;
    child_meet(&r, &parent);
    if (strcmp(mode, "deaf") == 0) { /* never looks at its port: a receiver that does not drain */
        char c;
        while (read(3, &c, 1) > 0) {
        }
        _exit(0);
    }
    a.link = rig_link(&r, &parent);
    uv_poll_init(&r.loop, &a.pipe, 3);
    a.pipe.data = &a;
    uv_poll_start(&a.pipe, UV_READABLE | UV_DISCONNECT, on_pipe);
    while (!a.over) {
        if (strncmp(mode, "flood", 5) == 0) flood(&a, strcmp(mode, "flood-large") == 0);
        uv_timer_again(&r.watchdog);
        uv_run(&r.loop, UV_RUN_ONCE);
    }
    uv_close((uv_handle_t *)&a.pipe, NULL);
    sl_buf_close(&parent);
    rig_close(&r);
    return 0;
}
