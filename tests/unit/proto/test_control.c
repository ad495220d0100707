/* test_control.c - control messages: every kind there and back, framing byte by byte, unknown
 * kinds, hostile lengths. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "base/env.h"
#include "base/sl_assert.h"
#include "proto/control.h"

static const struct sl_ctl_port ports[] = {{"local", "\0\1\2", 3}, {"ucx-tcp", "abc", 3}};
static const struct sl_ctl_peer peers[] = {{1, "ucx-shm", "\0x", 2, "nccl", "\0id", 3, SL_BF16},
                                           {SL_CTL_COORD, "local", "", 0, "", "", 0, SL_F32}};
static const struct sl_ctl_link links[] = {{3, 4, 5, 6, "local"}};
static const struct sl_ctl_step steps[] = {{1, 2, 3, 4, 5, 6}, {1ull << 60, 20, 30, 40, 50, 60}};

static const struct sl_ctl messages[] = {
    {.kind = SL_CTL_HELLO,
     .hello = {SL_CTL_VERSION, "0.1", "key", "alpha/0", "host", "process", "cpu", "avx512", "GPU-1",
               42, 8, 1ull << 40, 2.5e11, 2, ports}},
    {.kind = SL_CTL_LOAD, .load = {1, 4, "/m.gguf", "f16", 10, 20, 16, 1000, 64, 512, 1ull << 35}},
    {.kind = SL_CTL_PROGRESS, .progress = {5, 1ull << 33}},
    {.kind = SL_CTL_READY, .ready = {7, 1, 2, 3, 4}},
    {.kind = SL_CTL_WIRE, .wire = {9, 1, 2, peers}},
    {.kind = SL_CTL_WIRED, .wired = {9}},
    {.kind = SL_CTL_REPORT, .report = {1, 2, 3, 4, 6, 5, 1, 2, links, steps}},
    {.kind = SL_CTL_FAIL, .fail = {SL_ENOMEM, "no memory"}},
    {.kind = SL_CTL_DRAIN},
    {.kind = SL_CTL_PING},
    {.kind = SL_CTL_REOPEN},
    {.kind = SL_CTL_PORTS, .ports = {2, ports}},
};
#define N_MESSAGES SL_ARRAY_LEN(messages)

static void pack_all(struct sl_buf *b)
{
    sl_buf_init(b, 16 << 20);
    for (size_t i = 0; i < N_MESSAGES; i++) assert_int_equal(sl_ctl_pack(&messages[i], b), 0);
}

/* Packing what was decoded gives the bytes it was decoded from: nothing was lost on the way. */
static void expect_same(const struct sl_ctl *m, const struct sl_ctl *expected)
{
    struct sl_buf a, b;
    sl_buf_init(&a, SL_CTL_MESSAGE_MAX + 4);
    sl_buf_init(&b, SL_CTL_MESSAGE_MAX + 4);
    assert_int_equal(m->kind, expected->kind);
    assert_int_equal(sl_ctl_pack(m, &a), 0);
    assert_int_equal(sl_ctl_pack(expected, &b), 0);
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.data, b.data, a.len);
    sl_buf_close(&a);
    sl_buf_close(&b);
}

static void test_every_kind(void **state)
{
    (void)state;
    struct sl_buf b;
    struct sl_ctl m;
    size_t used, at = 0;
    pack_all(&b);
    for (size_t i = 0; i < N_MESSAGES; i++) {
        assert_int_equal(sl_ctl_unpack(b.data + at, b.len - at, &m, &used, NULL), 0);
        expect_same(&m, &messages[i]);
        sl_ctl_free(&m);
        at += used;
    }
    assert_int_equal(at, b.len);
    sl_buf_close(&b);
}

/* A few fields by name, so that two fields swapped in both directions do not pass. */
static void test_fields(void **state)
{
    (void)state;
    struct sl_buf b;
    struct sl_ctl m;
    size_t used;
    sl_buf_init(&b, 1 << 16);
    assert_int_equal(sl_ctl_pack(&messages[0], &b), 0);
    assert_int_equal(sl_ctl_unpack(b.data, b.len, &m, &used, NULL), 0);
    assert_string_equal(m.hello.program, "0.1");
    assert_string_equal(m.hello.key, "key");
    assert_string_equal(m.hello.device, "alpha/0");
    assert_string_equal(m.hello.host_id, "host");
    assert_string_equal(m.hello.process_id, "process");
    assert_string_equal(m.hello.cpu, "cpu");
    assert_string_equal(m.hello.backend, "avx512");
    assert_string_equal(m.hello.gpu, "GPU-1");
    assert_int_equal(m.hello.pid, 42);
    assert_int_equal(m.hello.threads, 8);
    assert_true(m.hello.memory_bytes == 1ull << 40 && m.hello.bandwidth == 2.5e11);
    assert_int_equal(m.hello.n_ports, 2);
    assert_string_equal(m.hello.ports[0].transport, "local");
    assert_int_equal(m.hello.ports[0].address_len, 3);
    assert_memory_equal(m.hello.ports[0].address, "\0\1\2", 3);
    sl_ctl_free(&m);
    sl_buf_clear(&b);
    assert_int_equal(sl_ctl_pack(&messages[1], &b), 0);
    assert_int_equal(sl_ctl_unpack(b.data, b.len, &m, &used, NULL), 0);
    assert_true(m.load.stage == 1 && m.load.n_stages == 4 && m.load.layer_from == 10 &&
                m.load.layer_to == 20);
    assert_true(m.load.block_tokens == 16 && m.load.n_blocks == 1000 && m.load.max_seqs == 64);
    assert_true(m.load.max_rows == 512 && m.load.memory_bytes == 1ull << 35);
    assert_string_equal(m.load.model, "/m.gguf");
    assert_string_equal(m.load.kv_type, "f16");
    sl_ctl_free(&m);
    sl_buf_clear(&b);
    assert_int_equal(sl_ctl_pack(&messages[4], &b), 0);
    assert_int_equal(sl_ctl_unpack(b.data, b.len, &m, &used, NULL), 0);
    assert_true(m.wire.epoch == 9 && m.wire.lane_in && m.wire.n_peers == 2);
    assert_string_equal(m.wire.peers[0].transport, "ucx-shm");
    assert_string_equal(m.wire.peers[0].lane, "nccl");
    assert_int_equal(m.wire.peers[0].lane_address_len, 3);
    assert_memory_equal(m.wire.peers[0].lane_address, "\0id", 3);
    assert_int_equal(m.wire.peers[0].activations, SL_BF16);
    assert_string_equal(m.wire.peers[1].lane, "");
    sl_ctl_free(&m);
    sl_buf_clear(&b);
    assert_int_equal(sl_ctl_pack(&messages[6], &b), 0);
    assert_int_equal(sl_ctl_unpack(b.data, b.len, &m, &used, NULL), 0);
    assert_true(m.report.now_ns == 1 && m.report.busy_ns == 2 && m.report.steps == 3 &&
                m.report.rows == 4);
    assert_true(m.report.layers == 6 && m.report.queued == 5 && m.report.n_links == 1 &&
                m.report.n_recent == 2);
    assert_memory_equal(&m.report.recent[1], &steps[1], sizeof steps[1]);
    assert_true(m.report.links[0].stage == 3 && m.report.links[0].frames == 4 &&
                m.report.links[0].bytes == 5 && m.report.links[0].busy_ns == 6);
    sl_ctl_free(&m);
    sl_buf_clear(&b);
    assert_int_equal(sl_ctl_pack(&messages[11], &b), 0);
    assert_int_equal(sl_ctl_unpack(b.data, b.len, &m, &used, NULL), 0);
    assert_int_equal(m.ports.n_ports, 2);
    assert_string_equal(m.ports.ports[1].transport, "ucx-tcp");
    assert_int_equal(m.ports.ports[1].address_len, 3);
    assert_memory_equal(m.ports.ports[1].address, "abc", 3);
    sl_ctl_free(&m);
    sl_buf_close(&b);
}

static void test_byte_by_byte(void **state)
{
    (void)state;
    struct sl_buf b;
    struct sl_ctl m;
    size_t used, from = 0, found = 0;
    pack_all(&b);
    for (size_t n = 0; n <= b.len; n++) {
        void *bytes =
            malloc(n - from + 1); /* of exactly that length and one more that nobody may look at */
        memcpy(bytes, b.data + from, n - from);
        int rc = sl_ctl_unpack(bytes, n - from, &m, &used, NULL);
        if (rc == 0) {
            expect_same(&m, &messages[found++]);
            sl_ctl_free(&m);
            assert_int_equal(from + used, n); /* not earlier, not later */
            from = n;
        } else {
            assert_int_equal(rc, SL_EAGAIN);
            assert_int_equal(used, 0);
            assert_null(m.storage);
        }
        free(bytes);
    }
    assert_int_equal(found, N_MESSAGES);
    sl_buf_close(&b);
}

static void test_unknown_kind_is_skipped(void **state)
{
    (void)state;
    /* field 15, length 2; then an empty message; then a Ping */
    const char bytes[] = {4, 0, 0, 0, 0x7a, 2, 8, 1, 0, 0, 0, 0, 2, 0, 0, 0, 0x52, 0};
    struct sl_ctl m;
    size_t used;
    assert_int_equal(sl_ctl_unpack(bytes, sizeof bytes, &m, &used, NULL), 0);
    assert_int_equal(m.kind, SL_CTL_PING);
    assert_int_equal(used, sizeof bytes);
    sl_ctl_free(&m);
    assert_int_equal(sl_ctl_unpack(bytes, 8, &m, &used, NULL), SL_EAGAIN);
    assert_int_equal(used, 8);
}

static void test_hostile_lengths(void **state)
{
    (void)state;
    struct sl_ctl m;
    struct sl_err err = {0};
    size_t used;
    const unsigned char over[] = {1, 0, 16,
                                  0}; /* 1 MiB and a byte: refused before the body comes */
    assert_int_equal(sl_ctl_unpack(over, 4, &m, &used, &err), SL_EPROTO);
    assert_true(err.msg[0] != 0);
    const unsigned char most[] = {0, 0, 16, 0};
    assert_int_equal(sl_ctl_unpack(most, 4, &m, &used, NULL), SL_EAGAIN);
    const unsigned char nonsense[] = {3, 0, 0, 0, 0x0a, 0x7f, 1}; /* inner length past the end */
    assert_int_equal(sl_ctl_unpack(nonsense, sizeof nonsense, &m, &used, &err), SL_EPROTO);
    assert_null(m.storage);
}

/* Half a million empty Steps fit into a message but not into the memory one may take. */
static void test_blow_up_is_refused(void **state)
{
    (void)state;
    const size_t body = 1 << 20, inner = body - 8; /* the outer tag and its 3-byte length take 4 */
    unsigned char *p = malloc(body + 4);
    assert_non_null(p);
    size_t n = inner & ~(size_t)1, total = n + 4;
    memcpy(p, (unsigned char[]){total & 255, (total >> 8) & 255, (total >> 16) & 255, 0}, 4);
    p[4] = 0x3a; /* report */
    p[5] = (unsigned char)(0x80 | (n & 127)), p[6] = (unsigned char)(0x80 | ((n >> 7) & 127)),
    p[7] = (unsigned char)(n >> 14);
    for (size_t i = 0; i < n; i += 2) p[8 + i] = 0x3a, p[9 + i] = 0; /* recent, empty */
    struct sl_ctl m;
    size_t used;
    assert_int_equal(sl_ctl_unpack(p, total + 4, &m, &used, NULL), SL_EPROTO);
    free(p);
}

static void test_limits(void **state)
{
    (void)state;
    struct sl_buf b;
    sl_buf_init(&b, 4 << 20);
    struct sl_ctl m = {.kind = SL_CTL_REPORT};
    struct sl_ctl_step *many = calloc(SL_CTL_STEPS_MAX + 1, sizeof *many);
    m.report.recent = many;
    m.report.n_recent = SL_CTL_STEPS_MAX + 1;
    assert_int_equal(sl_ctl_pack(&m, &b), SL_ELIMIT);
    m.report.n_recent = SL_CTL_STEPS_MAX;
    assert_int_equal(sl_ctl_pack(&m, &b), 0);
    free(many);
    struct sl_ctl_port ports_many[SL_CTL_PORTS_MAX + 1] = {{"local", "x", 1}};
    for (int i = 1; i <= SL_CTL_PORTS_MAX; i++) ports_many[i] = ports_many[0];
    sl_buf_clear(&b);
    m = (struct sl_ctl){.kind = SL_CTL_PORTS, .ports = {SL_CTL_PORTS_MAX + 1, ports_many}};
    assert_int_equal(sl_ctl_pack(&m, &b), SL_ELIMIT);
    m.ports.n_ports = SL_CTL_PORTS_MAX;
    assert_int_equal(sl_ctl_pack(&m, &b), 0);
    ports_many[0].address_len = SL_CTL_ADDRESS_MAX + 1;
    assert_int_equal(sl_ctl_pack(&m, &b), SL_ELIMIT);
    char *text = malloc((2 << 20) + 1);
    memset(text, 'x', 2 << 20);
    text[2 << 20] = 0;
    sl_buf_clear(&b);
    m = (struct sl_ctl){.kind = SL_CTL_FAIL, .fail = {1, text}};
    assert_int_equal(sl_ctl_pack(&m, &b), SL_ELIMIT);
    assert_int_equal(b.len, 0);
    free(text);
    sl_buf_close(&b);
}

/* No flipped bit crashes; what still decodes can be packed again. */
static void test_bit_flips(void **state)
{
    (void)state;
    struct sl_buf b, out;
    sl_buf_init(&out, 4 << 20);
    pack_all(&b);
    for (size_t bit = 0; bit < b.len * 8; bit++) {
        b.data[bit / 8] ^= (char)(1 << bit % 8);
        size_t at = 0, used;
        struct sl_ctl m;
        while (sl_ctl_unpack(b.data + at, b.len - at, &m, &used, NULL) == 0) {
            sl_buf_clear(&out);
            assert_int_equal(sl_ctl_pack(&m, &out), 0);
            sl_ctl_free(&m);
            at += used;
        }
        b.data[bit / 8] ^= (char)(1 << bit % 8);
    }
    sl_buf_close(&b);
    sl_buf_close(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_kind),      cmocka_unit_test(test_fields),
        cmocka_unit_test(test_byte_by_byte),    cmocka_unit_test(test_unknown_kind_is_skipped),
        cmocka_unit_test(test_hostile_lengths), cmocka_unit_test(test_blow_up_is_refused),
        cmocka_unit_test(test_limits),          cmocka_unit_test(test_bit_flips),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
