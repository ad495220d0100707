/* test_hub.c - all data connections of one party over every transport: fresh ports after a death.
 *
 * test_hub local | ucx-shm | ucx-tcp */
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/sl_assert.h"
#include "tests/link/rig.h"
#include "transport/hub.h"

static const char *transport;

struct party {
    uv_loop_t loop;
    uv_timer_t watchdog;
    struct sl_hub *hub;
    int received, wrong, downs, closed;
    uint64_t next; /* slot due from the echo, from FIRST on */
    size_t bytes;  /* of each of its frames */
};

#define FIRST 5000u /* slots of our own frames; a flooding child counts its own from 0 */
#define MIRROR 3    /* peers' numbers */
#define TALKER 4

static void on_frame(void *arg, struct sl_frame *f)
{
    struct party *p = arg;
    p->received++;
    if (f->head.slot >= FIRST && f->head.slot < FIRST * 1000) {
        p->wrong += !frame_is(f, p->next, p->bytes);
        p->next++;
    }
    sl_frame_free(f);
}

static void on_down(void *arg, int peer, const struct sl_err *err)
{
    struct party *p = arg;
    (void)peer, (void)err;
    p->downs++;
}

static void on_watchdog(uv_timer_t *t)
{
    (void)t;
    fprintf(stderr, "the test hangs\n");
    abort();
}

static void party_open(struct party *p)
{
    struct sl_err err = {0};
    memset(p, 0, sizeof *p);
    assert_int_equal(uv_loop_init(&p->loop), 0);
    uv_timer_init(&p->loop, &p->watchdog);
    uv_timer_start(&p->watchdog, on_watchdog, RIG_PATIENCE_MS, 0);
    assert_int_equal(sl_hub_open(&p->loop, transport, on_frame, on_down, p, &p->hub, &err), 0);
}

static void on_closed(void *arg)
{
    ((struct party *)arg)->closed++;
}

static void party_close(struct party *p)
{
    sl_hub_close(p->hub, on_closed, p);
    while (!p->closed) uv_run(&p->loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&p->watchdog, NULL);
    uv_run(&p->loop, UV_RUN_DEFAULT);
    assert_int_equal(p->closed, 1);
    assert_int_equal(uv_loop_close(&p->loop), 0); /* no port is left, retired ones neither */
    sl_frame_pool_trim();
}

static struct sl_buf address_of(const struct party *p)
{
    const struct sl_ctl_port *ports;
    struct sl_buf a;
    assert_int_equal(sl_hub_ports(p->hub, &ports), 1);
    assert_string_equal(ports[0].transport, transport);
    assert_string_equal(sl_hub_transports(p->hub), transport);
    sl_buf_init(&a, SL_PORT_ADDRESS_MAX);
    assert_int_equal(sl_buf_add(&a, ports[0].address, ports[0].address_len), 0);
    return a;
}

static void connect_to(struct party *p, int peer, const struct sl_buf *address)
{
    struct sl_err err = {0};
    assert_int_equal(sl_hub_connect(p->hub, peer, transport, address->data, address->len, &err), 0);
}

/* `n` frames of `bytes` each there and back, in order and whole. */
static void exchange(struct party *p, int n, size_t bytes)
{
    p->next = FIRST;
    p->bytes = bytes;
    for (int i = 0; i < n; i++)
        assert_int_equal(sl_hub_send(p->hub, MIRROR, frame_make(FIRST + (uint64_t)i, bytes)), 0);
    uv_timer_again(&p->watchdog);
    while (p->next < FIRST + (uint64_t)n) uv_run(&p->loop, UV_RUN_ONCE);
    assert_int_equal(p->wrong, 0);
}

/* Links are gone; the address is another where a death can block the port, and else the same; the
 * port works; nothing of the old ones is left in the end, however many there were. */
static void test_reopen(void **state)
{
    (void)state;
    struct party p;
    struct sl_ctl_link stats;
    struct sl_err err = {0};
    party_open(&p);
    for (int round = 0; round < 5; round++) {
        struct sl_buf before = address_of(&p);
        connect_to(&p, MIRROR, &before); /* to ourselves */
        exchange(&p, 10, round % 2 ? 100 : 200000);
        assert_int_equal(sl_hub_link_stats(p.hub, MIRROR, &stats), 1);
        for (int i = 0; i < 5; i++) /* in the middle of things */
            assert_int_equal(sl_hub_send(p.hub, MIRROR, frame_make(1, 300000)), 0);
        assert_int_equal(sl_hub_reopen(p.hub, &err), 0);
        assert_int_equal(sl_hub_link_stats(p.hub, MIRROR, &stats), 0);
        assert_int_equal(sl_hub_send(p.hub, MIRROR, frame_make(1, 100)), SL_ENOTFOUND);
        struct sl_buf after = address_of(&p);
        int same = after.len == before.len && memcmp(after.data, before.data, after.len) == 0;
        assert_int_equal(same, strcmp(transport, "ucx-shm") != 0);
        sl_buf_close(&before);
        sl_buf_close(&after);
    }
    assert_int_equal(p.downs, 0);
    party_close(&p);
}

/* What a stage lives through: neighbours are killed in the middle of writing to it, again and
 * again; each time new ones take over on fresh ports. */
static void test_killed_neighbours(void **state)
{
    (void)state;
    if (strcmp(transport, "local") == 0) skip();
    struct party p;
    struct sl_err err = {0};
    party_open(&p);
    for (int round = 0; round < 12; round++) {
        struct child echo, flood;
        struct sl_buf mine = address_of(&p);
        child_start_for(&echo, &mine, transport, "echo");
        child_start_for(&flood, &mine, transport, round % 3 ? "flood" : "flood-large");
        sl_buf_close(&mine);
        connect_to(&p, MIRROR, &echo.address);
        connect_to(&p, TALKER, &flood.address);
        exchange(&p, 40, round % 2 ? 3000 : 100000); /* while the other floods */
        p.received = 0;
        for (int i = 0; i < 20; i++) {
            sl_hub_send(p.hub, TALKER, frame_make(FIRST * 2000, 20000));
            sl_hub_send(p.hub, MIRROR, frame_make(FIRST * 2000, 300000));
        }
        while (p.received < 1 + round % 5) uv_run(&p.loop, UV_RUN_ONCE);
        child_kill(&flood);
        if (round % 4 == 3) child_kill(&echo);
        assert_int_equal(sl_hub_reopen(p.hub, &err), 0);
        if (round % 4 != 3) assert_int_equal(child_end(&echo), 0); /* its receiver is gone */
    }
    struct child echo;
    struct sl_buf mine = address_of(&p);
    child_start_for(&echo, &mine, transport, "echo");
    sl_buf_close(&mine);
    connect_to(&p, MIRROR, &echo.address);
    exchange(&p, 100, 20000);
    sl_hub_disconnect_all(p.hub);
    assert_int_equal(child_end(&echo), 0);
    party_close(&p);
}

static void test_bad_lists(void **state)
{
    (void)state;
    struct party p = {0};
    struct sl_err err = {0};
    assert_int_equal(uv_loop_init(&p.loop), 0);
    assert_int_equal(sl_hub_open(&p.loop, "pigeon", on_frame, on_down, &p, &p.hub, &err),
                     SL_EINPUT);
    assert_non_null(strstr(err.msg, "pigeon"));
    assert_int_equal(sl_hub_open(&p.loop, " ,", on_frame, on_down, &p, &p.hub, &err), SL_EINPUT);
    uv_run(&p.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&p.loop), 0);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--child") == 0) return child_main(argv[2], argv[3]);
    if (argc != 2) {
        fprintf(stderr, "usage: test_hub local|ucx-shm|ucx-tcp\n");
        return 2;
    }
    transport = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reopen),
        cmocka_unit_test(test_killed_neighbours),
        cmocka_unit_test(test_bad_lists),
    };
    return cmocka_run_group_tests_name(transport, tests, NULL, NULL);
}
