/* lane_suite.c - see lane_suite.h. Two parties are threads of one process, on one card or two, or
 * two processes, of which one is killed. */
#include "tests/link/lane_suite.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/env.h"

#define UP_MS 60000 /* patience with a lane that comes up */

static void open_pair(struct party *a, struct party *b)
{
    party_open(a, 0);
    party_open(b, 1);
}

static void close_pair(struct party *a, struct party *b)
{
    party_close(a);
    party_close(b);
}

/* Sends frames [from, to), a few at a time. Returns how many had their payload in a berth. */
static int send_all(struct party *a, struct party *b, uint64_t from, uint64_t to, int every)
{
    int in_berths = 0, rc;
    int before = b->received - (int)from;
    for (uint64_t i = from; i < to; i++) {
        while ((int)i - (b->received - before) >= 8) {
            party_turn(a);
            party_turn(b);
        }
        in_berths += party_send(a, i, frame_rows(i), every && i % (uint64_t)every == 0, &rc);
        assert_int_equal(rc, 0);
    }
    party_wait(a, b, &b->received, before + (int)to);
    return in_berths;
}

/* Frames before the lane is up, with and without it afterwards: all whole and in order. */
static void test_order(void **state)
{
    (void)state;
    struct party a, b;
    open_pair(&a, &b);
    party_wire(&a, &b, 1);
    send_all(&a, &b, 0, 10, 1);
    assert_true(party_wait_up(&a, &b, UP_MS));
    int in_berths = send_all(&a, &b, 10, 200, 1);
    assert_true(in_berths > 0);
    assert_true(b.with_berth >= in_berths);
    send_all(&a, &b, 200, 300, 3); /* those without must not overtake */
    assert_int_equal(b.wrong, 0);
    struct sl_ctl_link st = {0};
    while (st.frames < 300) { /* UCX tells the sender a little later */
        party_turn(&a);
        assert_true(sl_hub_link_stats(a.hub, 1, &st));
    }
    assert_non_null(strchr(st.transport, '/'));
    assert_int_equal(st.frames, 300);
    assert_true(st.bytes > (uint64_t)in_berths * 256);
    close_pair(&a, &b);
}

/* A receiver that keeps its frames runs out of berths; what follows waits, and comes later. */
static void test_no_berth_free(void **state)
{
    (void)state;
    struct party a, b;
    open_pair(&a, &b);
    party_wire(&a, &b, 1);
    assert_true(party_wait_up(&a, &b, UP_MS));
    b.keep = 1;
    uint64_t n = 0;
    while (b.received < PARTY_BERTHS) {
        party_send(&a, n, 3, 1, NULL);
        n++;
        party_spin(&a, &b, 5);
        assert_true(n < 64);
    }
    assert_int_equal(party_send(&a, n, 3, 1, NULL), 1);
    n++;
    party_send(&a, n, 5, 0, NULL); /* would be there already if it did not keep the order */
    n++;
    party_spin(&a, &b, 50);
    assert_int_equal(b.received, PARTY_BERTHS);
    b.keep = 0;
    party_forget(&b);
    party_wait(&a, &b, &b.received, (int)n);
    assert_int_equal(b.wrong, 0);
    close_pair(&a, &b);
}

/* A new epoch: what is under way is lost, nothing of it is taken for anything new. */
static void test_new_epochs(void **state)
{
    (void)state;
    struct party a, b;
    struct sl_err err = {0};
    open_pair(&a, &b);
    for (uint32_t epoch = 1; epoch <= 4; epoch++) {
        b.next = 0;
        b.received = 0;
        party_wire(&a, &b, epoch);
        if (epoch != 3) { /* once: given up while it still comes up */
            assert_true(party_wait_up(&a, &b, UP_MS));
            assert_true(send_all(&a, &b, 0, 20, 1) > 0);
            for (uint64_t i = 20; i < 40; i++) party_send(&a, i, frame_rows(i), 1, NULL);
        }
        sl_hub_disconnect_all(a.hub);
        sl_hub_disconnect_all(b.hub);
        assert_null(sl_berths_take_out(a.berths));
        party_spin(&a, &b, (int)epoch); /* frames that were inside the link may still come */
        assert_int_equal(sl_hub_reopen(a.hub, &err), 0);
        assert_int_equal(sl_hub_reopen(b.hub, &err), 0);
        party_spin(&a, &b, 30);
        assert_int_equal(b.wrong, 0);
    }
    close_pair(&a, &b);
}

/* Closing one side with payloads under way, then the other. */
static void test_close_under_way(void **state)
{
    (void)state;
    for (int round = 0; round < 3; round++) {
        struct party a, b;
        open_pair(&a, &b);
        party_wire(&a, &b, 1);
        if (round) assert_true(party_wait_up(&a, &b, UP_MS));
        party_spin(&a, &b, 3); /* UCX leaks what it was preparing for a port that never answered */
        for (uint64_t i = 0; i < 20; i++)
            party_send(&a, i, round && i < PARTY_BERTHS ? PARTY_BYTES / 256 : 8, 1, NULL);
        if (round == 2) party_turn(&b);
        if (round == 1) { /* frames are through, payloads wait for berths */
            b.keep = 1;
            party_spin(&a, &b, 20);
            party_close(&b);
            party_close(&a);
        } else {
            party_close(&a);
            party_close(&b);
        }
    }
}

/* Is somebody else's frame, or one that no lane belongs to, taken for ours? */
static void test_frames_without_lane(void **state)
{
    (void)state;
    struct party a, b;
    open_pair(&a, &b);
    party_wire(&a, &b, 5);
    assert_true(party_wait_up(&a, &b, UP_MS));
    send_all(&a, &b, 0, 5, 1);
    a.epoch = 4; /* says lane, and belongs to an epoch that has none: dropped, its payload too */
    int in_berth = party_send(&a, 5, 3, 1, NULL);
    assert_int_equal(in_berth, 1);
    party_spin(&a, &b, 30);
    assert_int_equal(b.received, 5);
    assert_int_equal(b.wrong, 0);
    close_pair(&a, &b);
}

/* The other process is killed while it sends or receives; everything comes back, and the next one
 * takes over with a new address. */
static void killed(const char *mode)
{
    struct party p;
    struct sl_err err = {0};
    int sends = strcmp(mode, "send") == 0;
    uint64_t through = 0;
    party_open(&p, 0);
    for (int round = 0; round < world->deaths; round++) {
        struct other o;
        int before = p.received;
        other_start(&o, &p, mode, 10 + (uint32_t)round);
        if (sends) {
            int with = p.with_berth;
            party_wait(&p, NULL, &p.received, before + 20);
            party_wait(&p, NULL, &p.with_berth, with + 20);
        } else {
            for (uint64_t i = 0; i < 40; i++) { /* two of three in a berth that has come back */
                if (i % 3) assert_true(party_wait_up(&p, NULL, UP_MS));
                through += (uint64_t)party_send(&p, i, frame_rows(i), i % 3 > 0, NULL);
            }
        }
        other_kill(&o);
        for (uint64_t i = 1000; !sends && i < 1020; i++) { /* into the void */
            party_send(&p, i, frame_rows(i), 1, NULL);
            party_turn(&p);
        }
        party_spin(&p, NULL, 20);
        assert_int_equal(sl_hub_reopen(p.hub, &err), 0);
        party_spin(&p, NULL, 20);
        assert_int_equal(p.wrong, 0);
    }
    if (!sends) assert_true(through > 20 * (uint64_t)world->deaths);
    party_close(&p);
}

static void test_sender_killed(void **state)
{
    (void)state;
    killed("send");
}

static void test_receiver_killed(void **state)
{
    (void)state;
    killed("receive");
}

int lane_suite(const char *name, const char *pattern)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_no_berth_free),
        cmocka_unit_test(test_new_epochs),
        cmocka_unit_test(test_close_under_way),
        cmocka_unit_test(test_frames_without_lane),
        cmocka_unit_test(test_sender_killed),
        cmocka_unit_test(test_receiver_killed),
    };
    if (pattern) cmocka_set_test_filter(pattern);
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}
