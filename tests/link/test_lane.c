/* test_lane.c - lanes with a kind that needs no card: the suite of every kind, then what goes
 * wrong.
 *
 * test_lane [pattern] */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/link/lane_fake.h"
#include "tests/link/lane_suite.h"

/* ---- berths -----------------------------------------------------------------------------------
 */

static void count(void *arg)
{
    ++*(int *)arg;
}

static void test_berths(void **state)
{
    (void)state;
    struct sl_berths *p;
    struct sl_berth *s[3];
    int heard = 0, before = fake_allocated;
    assert_int_equal(sl_berths_create(fake_world.memory(0), 3, 1000, &p, NULL), 0);
    assert_int_equal(sl_berths_bytes(p), 1000);
    assert_null(sl_berths_take_out(p)); /* nobody takes payloads in device memory */
    sl_berths_open(p, 1);
    for (int i = 0; i < 3; i++) {
        s[i] = i ? sl_berths_take(p) : sl_berths_take_out(p);
        assert_non_null(s[i]);
        assert_int_equal((uintptr_t)s[i]->data % 256, 0);
        memset(s[i]->data, i, 1000);
    }
    assert_null(sl_berths_take(p));
    assert_null(sl_berths_take_out(p));
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 1000; k++) assert_int_equal(((uint8_t *)s[i]->data)[k], i);
    assert_null(sl_berths_take_for(p, 5000));
    sl_berths_listen(p, count, &heard);
    sl_berth_free(s[1]);
    assert_int_equal(heard, 1);
    sl_berths_set_least(p, 500);
    assert_null(sl_berths_take_for(p, 499));
    assert_ptr_equal(sl_berths_take_for(p, 500), s[1]);
    sl_berths_listen(p, NULL, NULL);
    assert_ptr_equal(sl_berths_share(p), p);
    sl_berths_release(p);
    sl_berths_release(p); /* nobody's any more, but three berths are out */
    assert_int_equal(fake_allocated, before + 1);
    sl_berth_free(s[0]);
    sl_berth_free(s[2]);
    assert_int_equal(fake_allocated, before + 1);
    sl_berth_free(s[1]);
    assert_int_equal(fake_allocated, before);
    assert_int_equal(heard, 1);
    sl_berth_free(NULL);
    sl_berths_release(NULL);
    assert_null(sl_berths_take_for(NULL, 1));
    assert_null(sl_berths_take_out(NULL));
}

/* A frame and its berth are freed together, and a frame that is used again has none. */
static void test_frame_frees_its_berth(void **state)
{
    (void)state;
    struct sl_berths *p;
    struct sl_frame_head h = {
        .kind = SL_FRAME_BATCH, .desc_len = 8, .rows = 2, .cols = 8, .lane = 1};
    assert_int_equal(sl_berths_create(fake_world.memory(0), 1, 64, &p, NULL), 0);
    struct sl_frame *f = sl_frame_alloc(&h);
    assert_null(f->berth);
    assert_true(f->cap >= 64);
    f->berth = sl_berths_take(p);
    sl_frame_free(f);
    f = sl_frame_alloc(&h);
    assert_null(f->berth);
    f->berth = sl_berths_take(p);
    assert_non_null(f->berth);
    sl_berths_release(p);
    sl_frame_free(f);
}

static int bodies; /* from our memory, now */

static void *body_take(size_t bytes)
{
    bodies++;
    return aligned_alloc(SL_FRAME_ALIGN, bytes);
}

static void body_give(void *p)
{
    bodies--;
    free(p);
}

static void *body_refuse(size_t bytes)
{
    (void)bytes;
    return NULL;
}

static void *body_plain(size_t bytes)
{
    return aligned_alloc(SL_FRAME_ALIGN, bytes);
}

/* Bodies come from the memory asked for, and go back to where they came from. */
static void test_frame_memory(void **state)
{
    (void)state;
    struct sl_frame_head h = {.kind = SL_FRAME_BATCH, .desc_len = 100};
    struct sl_frame *before = sl_frame_alloc(&h);
    sl_frame_use_memory(body_take, body_give);
    struct sl_frame *ours = sl_frame_alloc(&h);
    assert_int_equal(bodies, 1);
    sl_frame_use_memory(body_refuse, free);
    assert_null(sl_frame_alloc(&h));
    sl_frame_use_memory(body_plain, free);
    sl_frame_free(ours);
    sl_frame_free(before);
    assert_int_equal(bodies, 1); /* kept, for the next one */
    sl_frame_pool_trim();
    assert_int_equal(bodies, 0);
}

/* ---- faults ---------------------------------------------------------------------------------- */

static int faultless(void **state)
{
    (void)state;
    memset(&fake_faults, 0, sizeof fake_faults);
    return 0;
}

static void pair(struct party *a, struct party *b)
{
    party_open(a, 0);
    party_open(b, 1);
    party_wire(a, b, 1);
}

static void host_frames_flow(struct party *a, struct party *b, uint64_t from, uint64_t n)
{
    int rc, want = b->received + (int)n;
    for (uint64_t i = from; i < from + n; i++) {
        assert_int_equal(party_send(a, i, frame_rows(i), 1, &rc), 0); /* not in a berth */
        assert_int_equal(rc, 0);
        party_wait(a, b, &b->received, b->received + (i % 8 == 7));
    }
    party_wait(a, b, &b->received, want);
    assert_int_equal(b->wrong, 0);
}

/* A lane that cannot start: the edge works without. */
static void test_start_fails(void **state)
{
    (void)state;
    struct party a, b;
    fake_faults.start = 1;
    pair(&a, &b);
    assert_false(party_wait_up(&a, &b, 50));
    host_frames_flow(&a, &b, 0, 30);
    party_close(&a);
    party_close(&b);
}

/* The receiving side gives up before anything came: likewise, and the sender is never up. */
static void test_receiver_gives_up(void **state)
{
    (void)state;
    struct party a, b;
    fake_faults.ready_in = 1;
    pair(&a, &b);
    assert_false(party_wait_up(&a, &b, 50));
    host_frames_flow(&a, &b, 0, 30);
    party_close(&a);
    party_close(&b);
}

/* A lane that fails in the middle: what came is right and in order, nothing comes after the loss;
 * the next epoch works. */
static void test_fails_in_the_middle(void **state)
{
    (void)state;
    struct party a, b;
    struct sl_err err = {0};
    fake_faults.begin_after = 7;
    pair(&a, &b);
    assert_true(party_wait_up(&a, &b, 5000));
    for (uint64_t i = 0; i < 40; i++) {
        party_send(&a, i, frame_rows(i), 1, NULL);
        party_spin(&a, &b, 1);
    }
    party_wait(&a, &b, &b.received, 1);
    party_spin(&a, &b, 20);
    assert_true(b.received < 40);
    assert_int_equal(b.wrong, 0);
    memset(&fake_faults, 0, sizeof fake_faults);
    assert_int_equal(sl_hub_reopen(a.hub, &err), 0);
    assert_int_equal(sl_hub_reopen(b.hub, &err), 0);
    b.received = 0;
    party_wire(&a, &b, 2);
    assert_true(party_wait_up(&a, &b, 5000));
    for (uint64_t i = 0; i < 5; i++) assert_int_equal(party_send(&a, i, 9, 1, NULL), 1);
    party_wait(&a, &b, &b.received, 5);
    assert_int_equal(b.wrong, 0);
    party_close(&a);
    party_close(&b);
}

/* A payload larger than any berth: no memory is written, the lane ends. */
static void test_too_large(void **state)
{
    (void)state;
    struct party a, b;
    struct sl_berths *tiny;
    pair(&a, &b);
    assert_int_equal(sl_berths_create(fake_world.memory(1), 2, 256, &tiny, NULL), 0);
    sl_hub_use_berths(b.hub, tiny);
    sl_berths_release(tiny);
    assert_true(party_wait_up(&a, &b, 5000));
    assert_int_equal(party_send(&a, 0, 1, 1, NULL), 1); /* 256 bytes */
    party_wait(&a, &b, &b.received, 1);
    assert_int_equal(b.with_berth, 1);
    assert_int_equal(party_send(&a, 1, 2, 1, NULL), 1);
    party_send(&a, 2, 1, 0, NULL);
    party_spin(&a, &b, 50);
    assert_int_equal(b.received, 1);
    assert_int_equal(b.wrong, 0);
    party_close(&a);
    party_close(&b);
}

static void test_bad_addresses(void **state)
{
    (void)state;
    struct party a, b;
    struct sl_err err = {0};
    static const char garbage[SL_LANE_ADDRESS_MAX + 1] = "garbage";
    pair(&a, &b);
    sl_hub_disconnect_all(a.hub);
    assert_int_equal(sl_hub_add_lane(a.hub, 1, "fake", garbage, 8, &err), SL_EPROTO); /* no link */
    const struct sl_ctl_port *ports;
    assert_int_equal(sl_hub_ports(b.hub, &ports), 2);
    assert_string_equal(sl_hub_transports(b.hub), "ucx-shm fake");
    assert_int_equal(
        sl_hub_connect(a.hub, 1, "ucx-shm", ports[0].address, ports[0].address_len, &err), 0);
    assert_int_equal(sl_hub_add_lane(a.hub, 1, "nccl", garbage, 8, &err), SL_EUNSUPPORTED);
    assert_int_equal(sl_hub_add_lane(a.hub, 1, "fake", garbage, 8, &err), SL_EINPUT);
    assert_int_equal(sl_hub_add_lane(a.hub, 1, "fake", garbage, 0, &err), SL_EINPUT);
    assert_int_equal(sl_hub_add_lane(a.hub, 1, "fake", garbage, sizeof garbage, &err), SL_EINPUT);
    host_frames_flow(&a, &b, 0, 5);
    party_close(&a);
    party_close(&b);
}

/* The suite with a library that never notices a death, and one that is often busy. */
static int suite_with(const char *name, struct fake_faults f, const char *pattern)
{
    fake_faults = f;
    return lane_suite(name, pattern);
}

/* ---- device lanes: the berth itself changes hands ----------------------------------------------
 */

struct near {
    uv_loop_t loop;
    struct sl_hub *hub;
    int received, closed;
    struct sl_berth *berth;
    uint32_t rows;
};

static void near_frame(void *arg, struct sl_frame *f)
{
    struct near *n = arg;
    n->received++;
    n->berth = f->berth;
    n->rows = f->head.rows;
    sl_frame_free(f);
}

static void near_down(void *arg, int peer, const struct sl_err *err)
{
    (void)arg, (void)peer, (void)err;
}

static void near_closed(void *arg)
{
    ((struct near *)arg)->closed = 1;
}

static void test_device_lane(void **state)
{
    (void)state;
    struct near n = {0};
    struct sl_err err = {0};
    struct sl_berths *berths;
    const struct sl_ctl_port *ports;
    struct sl_ctl_link st;
    assert_int_equal(uv_loop_init(&n.loop), 0);
    assert_int_equal(sl_hub_open(&n.loop, "local", near_frame, near_down, &n, &n.hub, &err), 0);
    assert_int_equal(sl_berths_create(fake_world.memory(0), 2, 4096, &berths, &err), 0);
    sl_hub_use_berths(n.hub, berths);
    sl_hub_ports(n.hub, &ports);
    assert_int_equal(
        sl_hub_connect(n.hub, 3, "local", ports[0].address, ports[0].address_len, &err), 0);
    assert_null(sl_berths_take_out(berths));
    assert_int_equal(sl_hub_add_lane(n.hub, 3, "device", NULL, 0, &err), 0);
    struct sl_frame_head h = {
        .kind = SL_FRAME_BATCH, .desc_len = 8, .rows = 4, .cols = 16, .lane = 1, .n_hops = 1};
    struct sl_frame *f = sl_frame_alloc(&h);
    f->berth = sl_berths_take_out(berths);
    struct sl_berth *sent = f->berth;
    assert_non_null(sent);
    assert_int_equal(sl_hub_send(n.hub, 3, f), 0);
    while (!n.received) uv_run(&n.loop, UV_RUN_ONCE);
    assert_ptr_equal(n.berth, sent);
    assert_true(sl_hub_link_stats(n.hub, 3, &st));
    assert_string_equal(st.transport, "device/local");
    sl_hub_disconnect_all(n.hub);
    assert_null(sl_berths_take_out(berths));
    f = sl_frame_alloc(&h); /* made before, sent after the end of its epoch */
    f->berth = sl_berths_take(berths);
    assert_int_equal(
        sl_hub_connect(n.hub, 3, "local", ports[0].address, ports[0].address_len, &err), 0);
    assert_int_equal(sl_hub_send(n.hub, 3, f), SL_ECLOSED);
    sl_hub_close(n.hub, near_closed, &n);
    while (!n.closed) uv_run(&n.loop, UV_RUN_ONCE);
    assert_int_equal(uv_loop_close(&n.loop), 0);
    sl_berths_release(berths);
    sl_frame_pool_trim();
}

int main(int argc, char **argv)
{
    world = &fake_world;
    if (argc == 3 && strcmp(argv[1], "--other") == 0) return other_main(argv[2]);
    const char *pattern = argc > 1 ? argv[1] : NULL;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_berths),
        cmocka_unit_test(test_frame_frees_its_berth),
        cmocka_unit_test(test_frame_memory),
        cmocka_unit_test_setup(test_start_fails, faultless),
        cmocka_unit_test_setup(test_receiver_gives_up, faultless),
        cmocka_unit_test_setup(test_fails_in_the_middle, faultless),
        cmocka_unit_test_setup(test_too_large, faultless),
        cmocka_unit_test_setup(test_bad_addresses, faultless),
        cmocka_unit_test_setup(test_device_lane, faultless),
    };
    if (pattern) cmocka_set_test_filter(pattern);
    int failed = cmocka_run_group_tests_name("lane", tests, NULL, NULL);
    failed += suite_with("fake", (struct fake_faults){0}, pattern);
    failed += suite_with("fake, blind", (struct fake_faults){.blind = 1}, pattern);
    failed += suite_with("fake, busy", (struct fake_faults){.busy = 1}, pattern);
    return failed;
}
