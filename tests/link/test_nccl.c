/* test_nccl.c - links between GPUs: what one card can tell, and with two the suite of every kind of
 * lane over NCCL, between threads and between processes that are killed.
 *
 * test_nccl [pattern]     checks; skipped (77) without a card
 * test_nccl bench         latency and bandwidth between two processes on two cards */
#include <cuda_runtime_api.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "tests/link/lane_suite.h"
#include "transport/gpu.h"

static void must(cudaError_t e)
{
    if (e == cudaSuccess) return;
    fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(e));
    abort();
}

/* ---- the world: party 0 on card 0, party 1 on card 1 ------------------------------------------
 */

static int take_memory(void *arg, size_t bytes, void **out, struct sl_err *err)
{
    (void)err;
    must(cudaSetDevice(*(int *)arg));
    must(cudaMalloc(out, bytes));
    return 0;
}

static void give_memory(void *arg, void *p)
{
    must(cudaSetDevice(*(int *)arg));
    must(cudaFree(p));
}

static const struct sl_berths_memory *memory_of(int party)
{
    static int cards[] = {0, 1};
    static const struct sl_berths_memory m[] = {{take_memory, give_memory, &cards[0]},
                                                {take_memory, give_memory, &cards[1]}};
    return &m[party];
}

static void put(int party, void *device, const void *host, size_t n)
{
    must(cudaSetDevice(party));
    must(cudaMemcpy(device, host, n, cudaMemcpyHostToDevice));
}

static void get(int party, void *host, const void *device, size_t n)
{
    must(cudaSetDevice(party));
    must(cudaMemcpy(host, device, n, cudaMemcpyDeviceToHost));
}

static const struct lane_world nccl_world = {"ucx-shm", sl_nccl_lanes, memory_of, put, get, 3};

/* ---- one card -------------------------------------------------------------------------------- */

static void test_identity(void **state)
{
    (void)state;
    char a[SL_GPU_ID_MAX], b[SL_GPU_ID_MAX];
    struct sl_err err = {0};
    assert_int_equal(sl_gpu_id(0, a, &err), 0);
    assert_int_equal(sl_gpu_id(0, b, &err), 0);
    assert_string_equal(a, b);
    assert_int_equal(strlen(a), 36);
    assert_int_equal(sl_gpu_id(1000, b, &err), SL_EUNSUPPORTED);
    assert_true(err.msg[0]);
}

static void test_berths_on_card(void **state)
{
    (void)state;
    struct sl_err err = {0};
    struct sl_berths *p, *huge;
    char out[1000], in[1000];
    assert_int_equal(sl_gpu_berths(0, 2, sizeof out, &p, &err), 0);
    struct sl_berth *a = sl_berths_take(p), *b = sl_berths_take(p);
    struct cudaPointerAttributes what;
    must(cudaPointerGetAttributes(&what, a->data));
    assert_int_equal(what.type, cudaMemoryTypeDevice);
    for (size_t i = 0; i < sizeof out; i++) out[i] = (char)(i * 7);
    put(0, a->data, out, sizeof out);
    must(cudaMemset(b->data, 0, sizeof out));
    get(0, in, a->data, sizeof in);
    assert_memory_equal(in, out, sizeof in);
    sl_berth_free(a);
    sl_berth_free(b);
    sl_berths_release(p);
    assert_int_equal(sl_gpu_berths(0, 4, (size_t)1 << 40, &huge, &err), SL_ENOMEM);
    assert_int_equal(cudaGetLastError(), cudaSuccess); /* nothing sticks */
}

/* The bodies of frames are memory that the card reads directly. */
static void test_pinned_frames(void **state)
{
    (void)state;
    struct sl_frame_head h = {.kind = SL_FRAME_BATCH, .desc_len = 10, .rows = 100, .cols = 4096};
    struct cudaPointerAttributes what;
    struct sl_frame *before = sl_frame_alloc(&h);
    sl_gpu_pin_frames();
    struct sl_frame *f = sl_frame_alloc(&h);
    must(cudaPointerGetAttributes(&what, f->body));
    assert_int_equal(what.type, cudaMemoryTypeHost);
    assert_int_equal((uintptr_t)f->body % SL_FRAME_ALIGN, 0);
    memset(f->body, 1, (size_t)sl_frame_body_bytes(&h));
    sl_frame_free(f);
    sl_frame_free(before); /* each goes back to where it came from */
    sl_frame_pool_trim();
}

static void test_addresses(void **state)
{
    (void)state;
    const struct sl_lane_kind *k = sl_nccl_lanes(0);
    uint8_t a[SL_LANE_ADDRESS_MAX], b[SL_LANE_ADDRESS_MAX];
    struct sl_err err = {0};
    assert_int_equal(k->make_address(k->arg, a, &err), 176);
    assert_int_equal(k->make_address(k->arg, b, &err), 176);
    assert_true(memcmp(a, b, 176) != 0); /* an id serves once */
    assert_int_equal(k->check_address(k->arg, a, 176, &err), SL_EUNSUPPORTED); /* one card */
    assert_non_null(strstr(err.msg, "two cards"));
    assert_int_equal(k->check_address(k->arg, a, 175, &err), SL_EINPUT);
    for (int i = 0; i < 176; i++) {
        a[i] ^= 4;
        assert_int_equal(k->check_address(k->arg, a, 176, &err), SL_EINPUT);
        a[i] ^= 4;
    }
    assert_null(sl_nccl_lanes(-1));
    assert_null(sl_nccl_lanes(99));
}

static uint64_t ms_since(uint64_t ns)
{
    return (sl_env_now_ns() - ns) / 1000000;
}

/* Nobody comes: it is not up, and it can be given up at any moment. */
static void test_alone(void **state)
{
    (void)state;
    const struct sl_lane_kind *k = sl_nccl_lanes(0);
    uint8_t a[SL_LANE_ADDRESS_MAX];
    struct sl_err err = {0};
    void *lane;
    must(cudaSetDevice(0));
    for (int sends = 0; sends < 2; sends++) {
        assert_int_equal(k->make_address(k->arg, a, &err), 176);
        assert_int_equal(k->start(k->arg, a, 176, sends, &lane, &err), 0);
        uint64_t from = sl_env_now_ns();
        while (ms_since(from) < 500) assert_int_equal(k->ready(lane, &err), 0);
        from = sl_env_now_ns();
        k->stop(lane);
        printf("gave up a lane as rank %d in %llu ms\n", sends, (unsigned long long)ms_since(from));
        assert_true(ms_since(from) < SL_LANE_STOP_MS);
    }
}

/* Two ranks on one card: NCCL refuses, both sides hear of it, nothing hangs. */
static void test_same_card(void **state)
{
    (void)state;
    const struct sl_lane_kind *k = sl_nccl_lanes(0);
    uint8_t a[SL_LANE_ADDRESS_MAX];
    struct sl_err err = {0}, errs[2] = {{0}};
    void *lanes[2];
    int r[2] = {0, 0};
    must(cudaSetDevice(0));
    assert_int_equal(k->make_address(k->arg, a, &err), 176);
    for (int i = 0; i < 2; i++) assert_int_equal(k->start(k->arg, a, 176, i, &lanes[i], &err), 0);
    uint64_t from = sl_env_now_ns();
    while ((!r[0] || !r[1]) && ms_since(from) < 20000)
        for (int i = 0; i < 2; i++)
            if (!r[i]) r[i] = k->ready(lanes[i], &errs[i]);
    for (int i = 0; i < 2; i++) {
        printf("rank %d of two on one card after %llu ms: %s\n", i,
               (unsigned long long)ms_since(from), errs[i].msg);
        assert_true(r[i] < 0);
        k->stop(lanes[i]);
    }
    void *p;
    must(cudaMalloc(&p, 1 << 20)); /* the card is still ours */
    must(cudaMemset(p, 0, 1 << 20));
    must(cudaDeviceSynchronize());
    must(cudaFree(p));
}

/* ---- bench ------------------------------------------------------------------------------------
 */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void ping_pong(struct party *p, uint32_t rows, int lane, uint64_t *slot)
{
    enum { ROUNDS = 200 };
    double us[ROUNDS];
    int with = p->with_berth;
    for (int i = 0; i < ROUNDS + 20; i++) {
        int want = p->received + 1, rc;
        int in_berth = party_send(p, (*slot)++, rows, lane, &rc);
        uint64_t from = sl_env_now_ns();
        SL_ASSERT(rc == 0 && in_berth == lane);
        while (p->received < want) party_sleep(p);
        if (i >= 20) us[i - 20] = (double)(sl_env_now_ns() - from) / 1e3;
    }
    SL_ASSERT(p->with_berth - with == (lane ? ROUNDS + 20 : 0));
    qsort(us, ROUNDS, sizeof *us, by_value);
    printf("  %8u bytes %s: there and back %8.1f us median, %8.1f best, %8.1f at 95 %%\n",
           rows * 256, lane ? "over nccl " : "with frame", us[ROUNDS / 2], us[0],
           us[ROUNDS * 95 / 100]);
}

/* Berths written once and sent again and again, as fast as they go. */
static void stream(struct party *p, uint32_t rows, uint64_t *slot)
{
    enum { FRAMES = 400 };
    uint64_t from = sl_env_now_ns();
    int sent = 0, before = p->received;
    while (p->received - before < FRAMES) {
        while (sent < FRAMES && sent - (p->received - before) < 3) {
            struct sl_berth *s = sl_berths_take_out(p->berths);
            if (!s) break;
            struct sl_frame_head h = {.kind = SL_FRAME_BATCH,
                                      .epoch = p->epoch,
                                      .slot = (*slot)++,
                                      .desc_len = 8,
                                      .rows = rows,
                                      .cols = 64,
                                      .lane = 1,
                                      .n_hops = 1};
            struct sl_frame *f = sl_frame_alloc(&h);
            f->berth = s;
            SL_ASSERT(sl_hub_send(p->hub, 1, f) == 0);
            sent++;
        }
        party_sleep(p);
    }
    double s = (double)(sl_env_now_ns() - from) / 1e9, bytes = (double)FRAMES * rows * 256;
    printf("  %8u bytes, three under way: %6.1f GB/s each way\n", rows * 256, bytes / s / 1e9);
}

static int bench(void)
{
    static const uint32_t rows[] = {16, 64, 512, 4096, 16384};
    struct party p;
    struct other o;
    uint64_t slot = 0;
    party_open(&p, 0);
    uint64_t from = sl_env_now_ns();
    other_start(&o, &p, "echo", 1);
    if (!party_wait_up(&p, NULL, 60000)) return 1;
    printf("two processes, two cards: both lanes up %llu ms after the second process began\n",
           (unsigned long long)ms_since(from));
    p.quiet = 1;
    for (size_t i = 0; i < SL_ARRAY_LEN(rows); i++)
        for (int lane = 1; lane >= 0; lane--) ping_pong(&p, rows[i], lane, &slot);
    for (size_t i = 2; i < SL_ARRAY_LEN(rows); i++) stream(&p, rows[i], &slot);
    other_kill(&o);
    return 0;
}

int main(int argc, char **argv)
{
    int n = 0;
    world = &nccl_world;
    sl_transport_setup();
    if (argc == 3 && strcmp(argv[1], "--other") == 0) return other_main(argv[2]);
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
        printf("skipped: there is no NVIDIA GPU here\n");
        return 77;
    }
    if (argc == 2 && strcmp(argv[1], "bench") == 0) return n > 1 ? bench() : 77;
    const char *pattern = argc > 1 ? argv[1] : NULL;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_identity),  cmocka_unit_test(test_berths_on_card),
        cmocka_unit_test(test_addresses), cmocka_unit_test(test_alone),
        cmocka_unit_test(test_same_card), cmocka_unit_test(test_pinned_frames),
    };
    if (pattern) cmocka_set_test_filter(pattern);
    int failed = cmocka_run_group_tests_name("one card", tests, NULL, NULL);
    if (n < 2) {
        printf("one card only: nothing goes from card to card\n");
        return failed;
    }
    return failed + lane_suite("nccl", pattern);
}
