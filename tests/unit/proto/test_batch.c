/* test_batch.c - descriptors and results: round trips, every truncation, bit flips, limits. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/sl_assert.h"
#include "proto/batch.h"
#include "tests/unit/proto/gen.h"

/* The bytes in memory of exactly their length, so that a sanitizer sees a read past them. */
static void *exact(const void *data, size_t n)
{
    void *p = malloc(n ? n : 1);
    assert_non_null(p);
    memcpy(p, data, n);
    return p;
}

static void test_batch_round_trips(void **state)
{
    (void)state;
    struct sl_batch_in in = {0};
    struct sl_buf b;
    sl_buf_init(&b, 64 << 20);
    for (uint64_t seed = 0; seed < 300; seed++) {
        struct gen g = {.state = seed << 32};
        struct sl_batch batch = gen_batch(&g, seed % 50 == 0 ? SL_BATCH_SEQS_MAX : 12);
        sl_buf_clear(&b);
        assert_int_equal(sl_batch_pack(&batch, &b), 0);
        void *bytes = exact(b.data, b.len);
        assert_int_equal(sl_batch_unpack(bytes, b.len, &in, NULL), 0);
        assert_true(batch_equal(&batch, &in.batch));
        free(bytes);
        gen_close(&g);
    }
    sl_buf_close(&b);
    sl_batch_in_close(&in);
}

static void test_results_round_trips(void **state)
{
    (void)state;
    struct sl_results_in in = {0};
    struct sl_buf b;
    sl_buf_init(&b, 64 << 20);
    for (uint64_t seed = 0; seed < 300; seed++) {
        struct gen g = {.state = seed << 32};
        struct sl_results r = gen_results(&g, 10);
        sl_buf_clear(&b);
        assert_int_equal(sl_results_pack(&r, &b), 0);
        void *bytes = exact(b.data, b.len);
        assert_int_equal(sl_results_unpack(bytes, b.len, &in, NULL), 0);
        assert_true(results_equal(&r, &in.results));
        free(bytes);
        gen_close(&g);
    }
    sl_buf_close(&b);
    sl_results_in_close(&in);
}

/* Storage is reused: the same arrays serve a second, not larger batch. */
static void test_storage_is_reused(void **state)
{
    (void)state;
    struct gen g = {.state = 11};
    struct sl_batch batch = gen_batch(&g, 30);
    struct sl_batch_in in = {0};
    struct sl_buf b;
    sl_buf_init(&b, 1 << 20);
    assert_int_equal(sl_batch_pack(&batch, &b), 0);
    assert_int_equal(sl_batch_unpack(b.data, b.len, &in, NULL), 0);
    struct sl_batch_in before = in;
    assert_int_equal(sl_batch_unpack(b.data, b.len, &in, NULL), 0);
    assert_ptr_equal(before.batch.seqs, in.batch.seqs);
    assert_ptr_equal(before.sampling, in.sampling);
    sl_buf_close(&b);
    sl_batch_in_close(&in);
    gen_close(&g);
}

static void test_every_truncation(void **state)
{
    (void)state;
    struct gen g = {.state = 99};
    struct sl_batch batch = gen_batch(&g, 6);
    struct sl_results r = gen_results(&g, 6);
    struct sl_batch_in bin = {0};
    struct sl_results_in rin = {0};
    struct sl_buf b;
    sl_buf_init(&b, 1 << 20);
    assert_int_equal(sl_batch_pack(&batch, &b), 0);
    for (size_t n = 0; n < b.len; n++) {
        void *bytes = exact(b.data, n);
        struct sl_err err = {0};
        assert_int_equal(sl_batch_unpack(bytes, n, &bin, &err), SL_EPROTO);
        assert_true(err.msg[0] != 0);
        assert_int_equal(bin.batch.n_seqs, 0);
        free(bytes);
    }
    sl_buf_putc(&b, 0); /* and one byte too many */
    assert_int_equal(sl_batch_unpack(b.data, b.len, &bin, NULL), SL_EPROTO);
    sl_buf_clear(&b);
    assert_int_equal(sl_results_pack(&r, &b), 0);
    for (size_t n = 0; n < b.len; n++) {
        void *bytes = exact(b.data, n);
        assert_int_equal(sl_results_unpack(bytes, n, &rin, NULL), SL_EPROTO);
        assert_int_equal(rin.results.n_sampled, 0);
        free(bytes);
    }
    sl_buf_putc(&b, 0);
    assert_int_equal(sl_results_unpack(b.data, b.len, &rin, NULL), SL_EPROTO);
    sl_buf_close(&b);
    sl_batch_in_close(&bin);
    sl_results_in_close(&rin);
    gen_close(&g);
}

/* A flipped bit is refused, or gives another valid batch: one that packs into the very same bytes.
 */
static void test_bit_flips(void **state)
{
    (void)state;
    struct gen g = {.state = 5};
    struct sl_batch batch = gen_batch(&g, 5);
    struct sl_results r = gen_results(&g, 5);
    struct sl_batch_in bin = {0};
    struct sl_results_in rin = {0};
    struct sl_buf b, again;
    int refused = 0;
    sl_buf_init(&b, 1 << 20);
    sl_buf_init(&again, 1 << 20);
    assert_int_equal(sl_batch_pack(&batch, &b), 0);
    for (size_t bit = 0; bit < b.len * 8; bit++) {
        b.data[bit / 8] ^= (char)(1 << bit % 8);
        int rc = sl_batch_unpack(b.data, b.len, &bin, NULL);
        assert_true(rc == 0 || rc == SL_EPROTO);
        refused += rc != 0;
        sl_buf_clear(&again);
        if (rc == 0) {
            assert_int_equal(sl_batch_pack(&bin.batch, &again), 0);
            assert_int_equal(again.len, b.len);
            assert_memory_equal(again.data, b.data, b.len);
        }
        b.data[bit / 8] ^= (char)(1 << bit % 8);
    }
    assert_true(refused > 100);
    sl_buf_clear(&b);
    assert_int_equal(sl_results_pack(&r, &b), 0);
    for (size_t bit = 0; bit < b.len * 8; bit++) {
        b.data[bit / 8] ^= (char)(1 << bit % 8);
        int rc = sl_results_unpack(b.data, b.len, &rin, NULL);
        assert_true(rc == 0 || rc == SL_EPROTO);
        b.data[bit / 8] ^= (char)(1 << bit % 8);
    }
    sl_buf_close(&b);
    sl_buf_close(&again);
    sl_batch_in_close(&bin);
    sl_results_in_close(&rin);
    gen_close(&g);
}

/* Each named limit and rule, broken one at a time: packing refuses, and so does unpacking of the
 * same bytes. */
static void test_limits(void **state)
{
    (void)state;
    int32_t tokens[2] = {1, 2}, blocks[1] = {3};
    struct sl_sampling s;
    struct sl_batch_seq q;
    struct sl_batch batch = {.n_seqs = 1, .n_rows = 2, .seqs = &q};
    struct sl_batch_in in = {0};
    struct sl_buf b;
    sl_buf_init(&b, 1 << 20);
    for (int broken = 0; broken < 17; broken++) {
        sl_sampling_default(&s);
        q = (struct sl_batch_seq){.seq = 3,
                                  .flags = SL_SEQ_REGISTER | SL_SEQ_SAMPLE,
                                  .n_tokens = 2,
                                  .n_blocks = 1,
                                  .tokens = tokens,
                                  .blocks = blocks,
                                  .prompt_len = 2,
                                  .sampling = &s};
        batch.n_rows = 2;
        tokens[1] = 2;
        blocks[0] = 3;
        /* the word of the byte form that goes with the field */
        int word = 0;
        uint32_t value = 0;
        float f = 0;
        switch (broken) {
        case 0:
            break;
        case 1:
            q.seq = value = SL_SEQS_MAX, word = 2;
            break;
        case 2:
            q.flags = value = 32 | SL_SEQ_REGISTER, word = 3;
            break;
        case 3:
            q.pos = -1, value = (uint32_t)-1, word = 4;
            break;
        case 4:
            q.pos = INT32_MAX - 1, value = INT32_MAX - 1, word = 4;
            break;
        case 5:
            q.n_tokens = 0, value = 0, word = 5;
            break;
        case 6:
            q.n_blocks = -1, value = (uint32_t)-1, word = 6;
            break;
        case 7:
            q.prompt_len = -1, value = (uint32_t)-1, word = 7;
            break;
        case 8:
            s.temperature = f = -1, memcpy(&value, &f, 4), word = 9;
            break;
        case 9:
            s.top_p = f = 1.5f, memcpy(&value, &f, 4), word = 11;
            break;
        case 10:
            s.repetition_penalty = f = 0, memcpy(&value, &f, 4), word = 13;
            break;
        case 11:
            s.n_top = SL_TOP_LOGPROBS_MAX + 1, value = SL_TOP_LOGPROBS_MAX + 1, word = 18;
            break;
        case 12:
            s.n_bias = SL_LOGIT_BIAS_MAX + 1, value = SL_LOGIT_BIAS_MAX + 1, word = 19;
            break;
        case 13:
            tokens[1] = -5, value = (uint32_t)-5, word = 21;
            break;
        case 14:
            blocks[0] = -5, value = (uint32_t)-5, word = 22;
            break;
        case 15:
            batch.n_rows = 3, value = 3, word = 1;
            break;
        case 16:
            q.adapter = SL_ADAPTERS_MAX + 1, value = SL_ADAPTERS_MAX + 1, word = 8;
            break;
        }
        sl_buf_clear(&b);
        int rc = sl_batch_pack(&batch, &b);
        assert_int_equal(rc, broken ? SL_ELIMIT : 0);
        if (!broken) continue;
        assert_int_equal(b.len, 0);
        tokens[1] = 2, blocks[0] = 3, batch.n_rows = 2;
        sl_sampling_default(&s);
        q = (struct sl_batch_seq){.seq = 3,
                                  .flags = SL_SEQ_REGISTER | SL_SEQ_SAMPLE,
                                  .n_tokens = 2,
                                  .n_blocks = 1,
                                  .tokens = tokens,
                                  .blocks = blocks,
                                  .prompt_len = 2,
                                  .sampling = &s};
        assert_int_equal(sl_batch_pack(&batch, &b), 0);
        assert_int_equal(b.len, 23 * 4);
        memcpy(b.data + word * 4, &value, 4);
        assert_int_equal(sl_batch_unpack(b.data, b.len, &in, NULL), SL_EPROTO);
    }
    batch.n_seqs = 0, batch.n_rows = 0;
    assert_int_equal(sl_batch_pack(&batch, &b), SL_ELIMIT);
    sl_buf_close(&b);
    sl_batch_in_close(&in);
}

/* A buffer too small is an error that leaves it as it was. */
static void test_full_buffer(void **state)
{
    (void)state;
    struct gen g = {.state = 3};
    struct sl_batch batch = gen_batch(&g, 4);
    struct sl_buf b;
    sl_buf_init(&b, 30);
    assert_int_equal(sl_buf_puts(&b, "kept"), 0);
    assert_int_equal(sl_batch_pack(&batch, &b), SL_ELIMIT);
    assert_string_equal(sl_buf_str(&b), "kept");
    sl_buf_close(&b);
    gen_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batch_round_trips), cmocka_unit_test(test_results_round_trips),
        cmocka_unit_test(test_storage_is_reused), cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_bit_flips),         cmocka_unit_test(test_limits),
        cmocka_unit_test(test_full_buffer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
