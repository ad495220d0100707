/* test_link.c - one suite over every transport: test_link local | ucx-shm | ucx-tcp [pattern]. */
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "tests/link/hostile.h"
#include "tests/link/rig.h"

static const char *transport;

/* Around the places where UCX changes its protocol (short, copied, zero-copy, rendezvous) and
 * 64-byte padding. */
static const size_t sizes[] = {0,      1,      63,     64,      65,      90,      128,   256,
                               1000,   2300,   4096,   8190,    8192,    8256,    8320,  9000,
                               16382,  16384,  16448,  32768,   65536,   65600,   99998, 131072,
                               262144, 300000, 524288, 1048576, 4194304, 16777216};
#define N_SIZES ((int)SL_ARRAY_LEN(sizes))

static void expect_frame(struct rig *r, uint64_t slot, size_t bytes)
{
    struct sl_frame *f = rig_take(r);
    assert_non_null(f);
    assert_true(frame_is(f, slot, bytes));
    sl_frame_free(f);
}

static struct sl_link *link_between(struct rig *from, struct rig *to)
{
    struct sl_buf a;
    rig_address(to, &a);
    struct sl_link *l = rig_link(from, &a);
    sl_buf_close(&a);
    return l;
}

static struct sl_link_stats stats_of(const struct sl_link *l)
{
    struct sl_link_stats s;
    sl_link_get_stats(l, &s);
    return s;
}

struct drained {
    struct sl_link *link;
};

static int is_drained(void *arg)
{
    return stats_of(((struct drained *)arg)->link).queued == 0;
}

/* Every size, sent at once: whole, in order, counted. */
static void test_sizes_in_order(void **state)
{
    (void)state;
    struct rig a;
    uint64_t bytes = 0;
    rig_open(&a, transport);
    struct sl_link *l = link_between(&a, &a);
    for (int i = 0; i < N_SIZES; i++) {
        struct sl_frame *f = frame_make((uint64_t)i, sizes[i]);
        bytes += sl_frame_body_bytes(&f->head);
        assert_int_equal(sl_link_send(l, f), 0);
    }
    assert_int_equal(a.received, 0); /* never from inside a send */
    rig_wait(&a, &a.received, N_SIZES);
    for (int i = 0; i < N_SIZES; i++) expect_frame(&a, (uint64_t)i, sizes[i]);
    rig_run_until(&a, is_drained, &(struct drained){l});
    struct sl_link_stats s = stats_of(l);
    assert_int_equal(s.frames, N_SIZES);
    assert_true(s.bytes >= bytes);
    assert_true(s.busy_ns > 0);
    assert_int_equal(a.errors, 0);
    rig_close(&a);
}

/* Two ports on one loop, many links into one of them: each link's frames stay in order. */
static void test_many_links_into_one_port(void **state)
{
    (void)state;
    enum { LINKS = 12, FRAMES = 40 };
    struct rig to;
    struct sl_link *links[LINKS];
    uint64_t next[LINKS] = {0};
    rig_open(&to, transport);
    for (int i = 0; i < LINKS; i++) links[i] = link_between(&to, &to);
    for (int n = 0; n < FRAMES; n++)
        for (int i = 0; i < LINKS; i++)
            assert_int_equal(sl_link_send(links[i], frame_make((uint64_t)(i * 1000 + n),
                                                               sizes[(n * 7 + i) % 26])),
                             0);
    rig_wait(&to, &to.received, LINKS * FRAMES);
    for (struct sl_frame *f; (f = rig_take(&to));) {
        int i = (int)(f->head.slot / 1000);
        assert_in_range(i, 0, LINKS - 1);
        assert_int_equal(f->head.slot % 1000, next[i]);
        assert_true(frame_is(f, f->head.slot, sizes[(next[i] * 7 + (unsigned)i) % 26]));
        next[i]++;
        sl_frame_free(f);
    }
    for (int i = 0; i < LINKS; i++) assert_int_equal(next[i], FRAMES);
    assert_int_equal(to.errors, 0);
    rig_close(&to);
}

/* SL_EBUSY at the bound, nothing lost before it, and sending works again afterwards. */
static void test_back_pressure(void **state)
{
    (void)state;
    struct rig a;
    int sent = 0;
    rig_open(&a, transport);
    struct sl_link *l = link_between(&a, &a);
    int rc;
    while ((rc = sl_link_send(l, frame_make((uint64_t)sent, 200000))) == 0) {
        sent++;
        assert_in_range(
            sent, 1,
            SL_LINK_QUEUE_MAX); /* large bodies wait for their receiver, which has not run */
    }
    assert_int_equal(rc, SL_EBUSY);
    assert_int_equal(sent, SL_LINK_QUEUE_MAX);
    assert_int_equal(stats_of(l).queued, SL_LINK_QUEUE_MAX);
    rig_wait(&a, &a.received, sent);
    for (int i = 0; i < sent; i++) expect_frame(&a, (uint64_t)i, 200000);
    rig_run_until(&a, is_drained, &(struct drained){l});
    assert_int_equal(sl_link_send(l, frame_make(5, 100)), 0);
    rig_wait(&a, &a.received, sent + 1);
    expect_frame(&a, 5, 100);
    rig_close(&a);
}

/* A link closed with frames under way: no callback for it, the port goes on. */
static void test_close_link_under_way(void **state)
{
    (void)state;
    struct rig a;
    rig_open(&a, transport);
    for (int round = 0; round < 5; round++) {
        struct sl_link *l = link_between(&a, &a);
        for (int i = 0; i < 60; i++)
            assert_int_equal(sl_link_send(l, frame_make(1000, sizes[i % N_SIZES])), 0);
        if (round > 1) rig_spin(&a, round); /* in the middle of things */
        sl_link_close(l);
    }
    struct sl_link *l = link_between(&a, &a);
    assert_int_equal(sl_link_send(l, frame_make(7, 500)), 0);
    for (int found = 0; !found;) {
        rig_wait(&a, &a.received, 1);
        for (struct sl_frame *f; (f = rig_take(&a));) {
            found |= f->head.slot == 7;
            sl_frame_free(f);
        }
        a.received = 0;
    }
    assert_int_equal(a.downs, 0);
    rig_close(&a);
}

/* A port closed with frames under way in both roles. */
static void test_close_port_under_way(void **state)
{
    (void)state;
    for (int ms = 0; ms < 4; ms++) {
        struct rig a;
        rig_open(&a, transport);
        struct sl_link *l = link_between(&a, &a), *m = link_between(&a, &a);
        for (int i = 0; i < 60; i++) {
            assert_int_equal(sl_link_send(l, frame_make((uint64_t)i, sizes[i % N_SIZES])), 0);
            assert_int_equal(sl_link_send(m, frame_make((uint64_t)i, 2300)), 0);
        }
        if (ms) rig_spin(&a, ms);
        rig_close(&a); /* asserts that nothing arrives while closing */
    }
}

/* Closing what one is called from: the port's callbacks may close its links. */
static void close_in_callback(struct rig *r, struct sl_frame *f)
{
    sl_frame_free(f);
    sl_link_close(r->user);
    r->user = NULL;
}

static void test_close_in_callback(void **state)
{
    (void)state;
    struct rig a;
    rig_open(&a, transport);
    struct sl_link *l = link_between(&a, &a);
    a.user = l;
    a.on_frame = close_in_callback;
    assert_int_equal(sl_link_send(l, frame_make(1, 100000)), 0);
    rig_wait(&a, &a.received, 1);
    rig_close(&a);
}

static void test_bad_addresses(void **state)
{
    (void)state;
    struct rig a;
    struct sl_buf address;
    struct sl_link *l;
    struct sl_err err = {0};
    rig_open(&a, transport);
    rig_address(&a, &address);
    for (size_t n = 0; n < address.len; n++)
        assert_int_equal(sl_link_open(a.port, address.data, n, NULL, NULL, &l, &err), SL_EINPUT);
    for (size_t i = 0; i < address.len; i++) {
        address.data[i] ^= 0x20;
        int rc = sl_link_open(a.port, address.data, address.len, NULL, NULL, &l, &err);
        assert_true(rc == SL_EINPUT ||
                    rc == SL_EUNREACHABLE); /* local: the number of a port that is not there */
        address.data[i] ^= 0x20;
    }
    assert_true(err.msg[0] != 0);
    sl_buf_close(&address);
    rig_close(&a);
}

/* ---- two processes --------------------------------------------------------------------------- */

static int one_process(void)
{
    return strcmp(transport, "local") == 0;
}

/* 10,000 frames there and back, a few at a time. */
static void test_small_frames_both_ways(void **state)
{
    (void)state;
    enum { FRAMES = 10000, WINDOW = 50 };
    struct rig a;
    struct child c;
    rig_open(&a, transport);
    if (!one_process()) child_start(&c, &a, transport, "echo");
    struct sl_link *l = one_process() ? link_between(&a, &a) : rig_link(&a, &c.address);
    int sent = 0, seen = 0;
    while (seen < FRAMES) {
        while (sent < FRAMES && sent - seen < WINDOW) {
            assert_int_equal(sl_link_send(l, frame_make((uint64_t)sent, sizes[sent % 11])), 0);
            sent++;
        }
        rig_wait(&a, &a.received, seen + 1);
        for (; seen < a.received; seen++) expect_frame(&a, (uint64_t)seen, sizes[seen % 11]);
    }
    sl_link_close(l);
    if (!one_process()) assert_int_equal(child_end(&c), 0);
    rig_close(&a);
}

static void test_echo_all_sizes(void **state)
{
    (void)state;
    if (one_process()) skip();
    struct rig a;
    struct child c;
    rig_open(&a, transport);
    child_start(&c, &a, transport, "echo");
    struct sl_link *l = rig_link(&a, &c.address);
    for (int i = 0; i < N_SIZES; i++)
        assert_int_equal(sl_link_send(l, frame_make((uint64_t)i, sizes[i])), 0);
    rig_wait(&a, &a.received, N_SIZES);
    for (int i = 0; i < N_SIZES; i++) expect_frame(&a, (uint64_t)i, sizes[i]);
    assert_int_equal(child_end(&c), 0);
    rig_close(&a);
}

/* A receiver that does not drain: the queue fills, the link still closes, the port still closes. */
static void test_deaf_peer(void **state)
{
    (void)state;
    if (one_process()) skip();
    struct rig a;
    struct child c;
    rig_open(&a, transport);
    child_start(&c, &a, transport, "deaf");
    struct sl_link *l = rig_link(&a, &c.address);
    int rc = 0;
    for (int i = 0; rc == 0; i++) {
        assert_in_range(i, 0, 20000); /* some fit into buffers on the way, not any number */
        rc = sl_link_send(l, frame_make((uint64_t)i, i % 2 ? 60000 : 3000));
        uv_run(&a.loop, UV_RUN_NOWAIT);
    }
    assert_int_equal(rc, SL_EBUSY);
    sl_link_close(l);
    rig_spin(&a, 50);
    assert_int_equal(a.downs, 0);
    rig_close(&a);
    assert_int_equal(child_end(&c), 0);
}

/* kill -9 while frames go both ways, several times; each time a new process takes over, on the same
 * port or, where a death may have blocked that, on a fresh one. */
static void test_killed_and_replaced(void **state)
{
    (void)state;
    if (one_process()) skip();
    struct rig a;
    rig_open(&a, transport);
    for (int round = 0; round < 6; round++) {
        struct child c;
        child_start(&c, &a, transport, round % 2 ? "flood" : "echo");
        struct sl_link *l = rig_link(&a, &c.address);
        for (int i = 0; i < 40; i++)
            assert_int_equal(sl_link_send(l, frame_make((uint64_t)i, sizes[i % N_SIZES])), 0);
        rig_wait(&a, &a.received, 10);
        child_kill(&c);
        for (int i = 0; i < 400; i++) { /* sends to the dead: refused or swallowed, never a crash */
            int rc = sl_link_send(l, frame_make((uint64_t)i, sizes[i % 20]));
            assert_true(rc == 0 || rc == SL_EBUSY || rc == SL_ECLOSED);
            uv_run(&a.loop, UV_RUN_NOWAIT);
        }
        if (strcmp(transport, "ucx-tcp") == 0) rig_wait(&a, &a.downs, round + 1);
        sl_link_close(l);
        rig_reopen(&a);
        for (struct sl_frame *f; (f = rig_take(&a));) sl_frame_free(f);
        a.received = 0;
    }
    struct child c;
    child_start(&c, &a, transport, "echo");
    struct sl_link *l = rig_link(&a, &c.address);
    for (int i = 0; i < N_SIZES; i++)
        assert_int_equal(sl_link_send(l, frame_make((uint64_t)i + 5000, sizes[i])), 0);
    for (int next = 0; next < N_SIZES;) { /* a frame of the dead may still lie before them */
        struct sl_frame *f;
        rig_wait(&a, &a.received, 1);
        a.received = 0;
        while ((f = rig_take(&a))) {
            if (f->head.slot >= 5000) {
                assert_true(frame_is(f, (uint64_t)next + 5000, sizes[next]));
                next++;
            }
            sl_frame_free(f);
        }
    }
    assert_int_equal(child_end(&c), 0);
    rig_close(&a);
}

/* A peer that speaks UCX but not our frames: everything is refused, on_error tells, an honest link
 * is not disturbed. */
static void test_hostile_headers(void **state)
{
    (void)state;
    if (one_process()) skip();
    static uint8_t body[300000];
    struct rig a;
    struct hostile h;
    struct sl_buf address;
    uint8_t head[SL_FRAME_HEAD_BYTES];
    rig_open(&a, transport);
    rig_address(&a, &address);
    hostile_open(&h, transport, &address);
    struct sl_link *l = link_between(&a, &a);
    struct sl_frame_head good = {.kind = SL_FRAME_BATCH,
                                 .desc_len = 128,
                                 .n_hops = 1,
                                 .link = 77,
                                 .route = {SL_ROUTE_COORD}};

    memset(head, 0xa5, sizeof head); /* garbage, small and announced */
    hostile_send(&h, &a, head, sizeof head, body, 100);
    rig_wait(&a, &a.errors, 1);
    hostile_send(&h, &a, head, sizeof head, body, sizeof body);
    rig_wait(&a, &a.errors, 2);
    hostile_send(&h, &a, head, 5, body, 100); /* a header of another length */
    rig_wait(&a, &a.errors, 3);
    assert_int_equal(a.error.code, SL_EPROTO);
    assert_int_equal(a.received, 0);

    sl_frame_head_pack(&good, head); /* a good one arrives ... */
    hostile_send(&h, &a, head, sizeof head, body, 128);
    rig_wait(&a, &a.received, 1);
    sl_frame_free(rig_take(&a));
    good.seq = 1;
    sl_frame_head_pack(&good, head); /* ... then one whose length is a lie ... */
    hostile_send(&h, &a, head, sizeof head, body, sizeof body);
    rig_wait(&a, &a.errors, 4);
    hostile_send(&h, &a, head, sizeof head, body,
                 128); /* ... and nothing of that link counts any more */
    good.link = 78;
    good.seq = 5000; /* far ahead */
    sl_frame_head_pack(&good, head);
    hostile_send(&h, &a, head, sizeof head, body, 128);
    rig_wait(&a, &a.errors, 5);
    assert_int_equal(a.received, 1);

    assert_int_equal(sl_link_send(l, frame_make(4, 5000)), 0);
    rig_wait(&a, &a.received, 2);
    expect_frame(&a, 4, 5000);
    hostile_close(&h, &a);
    sl_buf_close(&address);
    rig_close(&a);
}

/* Senders that die while their large bodies are being fetched. What arrives is whole; what does not
 * is an error of the port, not the end of this process; and the port, or the fresh one that takes
 * its place, goes on. */
static void test_senders_killed_in_fetch(void **state)
{
    (void)state;
    if (one_process()) skip();
    struct rig a;
    rig_open(&a, transport);
    for (int round = 0; round < 20; round++) {
        struct child c;
        child_start(&c, &a, transport, "flood-large");
        a.received = 0;
        rig_wait(&a, &a.received, 1 + round % 3);
        child_kill(&c);
        rig_spin(&a, 5);
        rig_reopen(&a);
        for (struct sl_frame *f; (f = rig_take(&a));) {
            assert_true(frame_is(f, f->head.slot, 8000000));
            sl_frame_free(f);
        }
    }
    struct sl_link *l = link_between(&a, &a);
    a.received = 0;
    assert_int_equal(sl_link_send(l, frame_make(3, 300000)), 0);
    rig_wait(&a, &a.received, 1);
    expect_frame(&a, 3, 300000);
    rig_close(&a);
}

static uint64_t cpu_ns(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000u +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000u;
}

/* An idle port sleeps: a second costs next to no CPU time. (CPU time, not the clock: load does not
 * matter.) */
static void test_idle_sleeps(void **state)
{
    (void)state;
    struct rig a;
    struct child c;
    rig_open(&a, transport);
    if (!one_process()) child_start(&c, &a, transport, "echo");
    struct sl_link *l = one_process() ? link_between(&a, &a) : rig_link(&a, &c.address);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(sl_link_send(l, frame_make(1, sizes[i])), 0);
        rig_wait(&a, &a.received, i + 1);
    }
    rig_spin(&a, 100);
    uint64_t before = cpu_ns();
    rig_spin(&a, 1000);
    assert_in_range(cpu_ns() - before, 0, 20000000);
    if (!one_process()) assert_int_equal(child_end(&c), 0);
    rig_close(&a);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--child") == 0) return child_main(argv[2], argv[3]);
    if (argc != 2 && argc != 3) {
        fprintf(stderr, "usage: test_link local|ucx-shm|ucx-tcp [pattern of test names]\n");
        return 2;
    }
    transport = argv[1];
    if (argc == 3) cmocka_set_test_filter(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_in_order),
        cmocka_unit_test(test_many_links_into_one_port),
        cmocka_unit_test(test_back_pressure),
        cmocka_unit_test(test_close_link_under_way),
        cmocka_unit_test(test_close_port_under_way),
        cmocka_unit_test(test_close_in_callback),
        cmocka_unit_test(test_bad_addresses),
        cmocka_unit_test(test_small_frames_both_ways),
        cmocka_unit_test(test_echo_all_sizes),
        cmocka_unit_test(test_deaf_peer),
        cmocka_unit_test(test_killed_and_replaced),
        cmocka_unit_test(test_senders_killed_in_fetch),
        cmocka_unit_test(test_hostile_headers),
        cmocka_unit_test(test_idle_sleeps),
    };
    return cmocka_run_group_tests_name(transport, tests, NULL, NULL);
}
