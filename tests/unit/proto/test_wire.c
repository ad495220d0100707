/* test_wire.c - the frame header: byte positions, round trips, every flipped bit, every limit. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h>

#include "base/dtype.h"
#include "base/env.h"
#include "proto/wire.h"

static struct sl_frame_head example(void)
{
    struct sl_frame_head h = {.kind = SL_FRAME_BATCH,
                              .epoch = 0x01020304,
                              .branch = 5,
                              .slot = 0x1122334455667788,
                              .desc_len = 100,
                              .rows = 3,
                              .cols = 576,
                              .dtype = SL_BF16,
                              .sent_ns = 77,
                              .n_hops = 3,
                              .hop = 1,
                              .route = {0, 1, 255},
                              .link = 9,
                              .seq = 10};
    memset(h.route + 3, SL_ROUTE_COORD, SL_ROUTE_MAX - 3);
    return h;
}

static int equal(const struct sl_frame_head *a, const struct sl_frame_head *b)
{
    return a->kind == b->kind && a->epoch == b->epoch && a->branch == b->branch &&
           a->slot == b->slot && a->desc_len == b->desc_len && a->rows == b->rows &&
           a->cols == b->cols && a->dtype == b->dtype && a->sent_ns == b->sent_ns &&
           a->lane == b->lane && a->n_hops == b->n_hops && a->hop == b->hop && a->link == b->link &&
           a->seq == b->seq && memcmp(a->route, b->route, SL_ROUTE_MAX) == 0;
}

static void test_bytes_are_where_the_table_says(void **state)
{
    (void)state;
    struct sl_frame_head h = example();
    uint8_t out[SL_FRAME_HEAD_BYTES];
    sl_frame_head_pack(&h, out);
    const uint8_t start[] = {
        '1',  'S',  'L',  'C',  1,   0, 1, 0, 4, 3, 2, 1, 5,    0, 0, 0, 0x88, 0x77, 0x66, 0x55,
        0x44, 0x33, 0x22, 0x11, 100, 0, 0, 0, 3, 0, 0, 0, 0x40, 2, 0, 0, 2,    0,    0,    0,
        77,   0,    0,    0,    0,   0, 0, 0, 3, 1, 0, 0, 9,    0, 0, 0, 10,   0,    0,    0};
    assert_memory_equal(out, start, sizeof start);
    assert_int_equal(out[64], 0);
    assert_int_equal(out[65], 1);
    for (int i = 66; i < 128; i++) assert_int_equal(out[i], 255);
}

static void test_sizes(void **state)
{
    (void)state;
    struct sl_frame_head h = example();
    assert_int_equal(sl_frame_payload_bytes(&h), 3 * 576 * 2);
    assert_int_equal(sl_frame_desc_padded(&h), 128);
    assert_int_equal(sl_frame_body_bytes(&h), 128 + 3 * 576 * 2);
    h.desc_len = 0;
    assert_int_equal(sl_frame_desc_padded(&h), 0);
    h.rows = h.cols = UINT32_MAX;
    h.dtype = SL_F32;
    assert_true(sl_frame_payload_bytes(&h) == UINT64_MAX);
    h = example();
    h.dtype = SL_F8_E4M3; /* a scale per row */
    assert_int_equal(sl_frame_payload_bytes(&h), 3 * (576 + 4));
    h.lane = 1; /* elsewhere */
    assert_int_equal(sl_frame_payload_bytes(&h), 3 * (576 + 4));
    assert_int_equal(sl_frame_body_bytes(&h), 128);
    h.rows = h.cols = UINT32_MAX;
    assert_true(sl_frame_payload_bytes(&h) > SL_FRAME_PAYLOAD_MAX);
}

static void test_round_trips(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 2000; i++) {
        struct sl_frame_head h = example(), back;
        uint64_t r = sl_mix64(i);
        uint8_t out[SL_FRAME_HEAD_BYTES];
        h.kind = r & 1 ? SL_FRAME_BATCH : SL_FRAME_RESULTS;
        h.epoch = (uint32_t)(r >> 8);
        h.slot = sl_mix64(r);
        h.desc_len = (uint32_t)(r % (SL_FRAME_DESC_MAX + 1));
        h.rows = h.kind == SL_FRAME_BATCH ? (uint32_t)(r >> 20) % 8193 : 0;
        h.cols = (uint32_t)(r >> 30) % 8193;
        h.dtype = r & 2 ? SL_F32 : r & 4 ? SL_BF16 : SL_F8_E4M3;
        h.lane = (uint16_t)(r >> 63);
        h.n_hops = (uint8_t)(1 + r % SL_ROUTE_MAX);
        h.hop = (uint8_t)((r >> 40) % h.n_hops);
        for (int k = 0; k < SL_ROUTE_MAX; k++)
            h.route[k] = k < h.n_hops ? (uint8_t)sl_mix64(r + (unsigned)k) : 255;
        sl_frame_head_pack(&h, out);
        assert_int_equal(sl_frame_head_unpack(out, &back, NULL), 0);
        assert_true(equal(&h, &back));
    }
}

static void test_every_flipped_bit_is_noticed(void **state)
{
    (void)state;
    struct sl_frame_head h = example(), back;
    uint8_t out[SL_FRAME_HEAD_BYTES];
    sl_frame_head_pack(&h, out);
    for (int bit = 0; bit < SL_FRAME_HEAD_BYTES * 8; bit++) {
        struct sl_err err = {0};
        out[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(sl_frame_head_unpack(out, &back, &err), SL_EPROTO);
        assert_int_equal(back.link, 0);
        assert_true(err.msg[0] != 0);
        out[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

/* Sums that hold do not help values that are over a limit; who sent them stays known. */
static void test_limits(void **state)
{
    (void)state;
    for (int broken = 0; broken < 11; broken++) {
        struct sl_frame_head h = example(), back;
        uint8_t out[SL_FRAME_HEAD_BYTES];
        switch (broken) {
        case 0:
            h.kind = 0;
            break;
        case 1:
            h.kind = 3;
            break;
        case 2:
            h.desc_len = SL_FRAME_DESC_MAX + 1;
            break;
        case 3:
            h.dtype = SL_F16;
            break;
        case 4:
            h.rows = h.cols = UINT32_MAX;
            break;
        case 5:
            h.rows = 1 << 15, h.cols = (1 << 14) + 1, h.dtype = SL_BF16;
            break;
        case 6:
            h.kind = SL_FRAME_RESULTS;
            break; /* with a payload */
        case 7:
            h.n_hops = 0, h.hop = 0;
            break;
        case 8:
            h.n_hops = 65;
            break;
        case 9:
            h.hop = 4; /* 3 = n_hops is the way back to the coordinator */
            break;
        case 10:
            h.lane = 2;
            break;
        }
        sl_frame_head_pack(&h, out);
        assert_int_equal(sl_frame_head_unpack(out, &back, NULL), SL_EPROTO);
        assert_int_equal(back.link, 9);
        assert_int_equal(back.seq, 10);
    }
    /* a format without a number, with a sum that holds */
    struct sl_frame_head h = example(), back;
    uint8_t out[SL_FRAME_HEAD_BYTES];
    sl_frame_head_pack(&h, out);
    out[36] = 1;
    memset(out + 60, 0, 4);
    uint32_t sum = XXH32(out, sizeof out, 0);
    memcpy(out + 60, &sum, 4);
    assert_int_equal(sl_frame_head_unpack(out, &back, NULL), SL_EPROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_are_where_the_table_says),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_every_flipped_bit_is_noticed),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
