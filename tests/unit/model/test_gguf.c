/* test_gguf.c - the GGUF reader: everything it must read, everything it must refuse, and what it
 * maps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/sl_assert.h"
#include "model/weights.h"
#include "tests/lib/gguf_writer.h"

#define FILE_NAME "small.gguf"

/* Reads all there is to read, as any user of a hostile file might. */
static uint64_t walk(const struct sl_weights *w)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < sl_weights_meta_count(w); i++) {
        const char *key;
        const struct sl_meta *m = sl_weights_meta_nth(w, i, &key);
        assert_ptr_equal(sl_weights_meta(w, key), m);
        for (size_t j = 0; m->type == SL_META_STRING && j < m->len; j++)
            sum += (unsigned char)m->s[j];
        for (size_t j = 0; m->type == SL_META_ARRAY && j < m->len; j++) {
            struct sl_meta v = sl_meta_at(m, j);
            assert_int_equal(v.type, m->elem);
            for (size_t k = 0; v.type == SL_META_STRING && k < v.len; k++)
                sum += (unsigned char)v.s[k];
            sum += (uint64_t)v.i;
        }
    }
    for (size_t i = 0; i < sl_weights_count(w); i++) {
        const struct sl_tensor *t = sl_weights_at(w, i);
        assert_ptr_equal(sl_weights_find(w, t->name), t);
        const unsigned char *p = sl_weights_map((struct sl_weights *)w, t, NULL);
        assert_non_null(p);
        for (uint64_t j = 0; j < t->bytes; j++) sum += p[j];
    }
    return sum;
}

/* The file that the corruptions start from. */
static uint8_t *small_file(size_t *n, size_t *data_at)
{
    struct gguf_writer g;
    gguf_init(&g);
    gguf_u32(&g, "general.alignment", 32);
    gguf_bool(&g, "a.flag", 1);
    gguf_string(&g, "a.name", "abc");
    gguf_array(&g, "a.list", GGUF_I32, 3, (int32_t[]){1, -2, 3});
    gguf_array(&g, "a.word", GGUF_STRING, 2, (const char *[]){"x", "yz"});
    gguf_value(&g, "a.wide", GGUF_U64, &(uint64_t){5});
    gguf_array(&g, "a.bits", GGUF_BOOL, 2, (uint8_t[]){0, 1});
    gguf_array(&g, "a.many", GGUF_U64, 1, (uint64_t[]){7});
    gguf_tensor(&g, "t1", 2, (int64_t[]){32, 2}, 8, NULL, 68);
    gguf_tensor(&g, "t2", 1, (int64_t[]){4}, 0, (float[]){1, 2, 3, 4}, 16);
    uint8_t *data = gguf_build(&g, n, NULL, data_at);
    gguf_close(&g);
    return data;
}

static void opens_small_file(void **state)
{
    (void)state;
    size_t n, data_at;
    uint8_t *data = small_file(&n, &data_at);
    struct sl_weights *w;
    struct sl_err err = {0};
    assert_int_equal(sl_weights_open_memory(FILE_NAME, data, n, &w, &err), 0);
    assert_string_equal(sl_weights_path(w), FILE_NAME);
    assert_int_equal(sl_weights_count(w), 2);
    const struct sl_tensor *t = sl_weights_find(w, "t2");
    assert_non_null(t);
    assert_int_equal(t->n_dims, 1);
    assert_int_equal(t->ne[0], 4);
    assert_int_equal(t->ne[1], 1);
    assert_true(t->known);
    assert_int_equal(t->type, SL_F32);
    assert_int_equal(t->offset, data_at + 96);
    assert_int_equal(t->bytes, 16);
    assert_memory_equal(sl_weights_map(w, t, &err), ((float[]){1, 2, 3, 4}), 16);
    assert_int_equal(sl_weights_at(w, 0)->type, SL_Q8_0);
    assert_int_equal(sl_weights_at(w, 0)->bytes, 68);
    assert_null(sl_weights_find(w, "t3"));
    assert_null(sl_weights_meta(w, "a.absent"));
    walk(w);
    sl_weights_close(w);
    free(data);
}

/* One row: `width` bytes of `value` written `delta` bytes after the end of the text `anchor`, or at
 * `delta`. */
struct corruption {
    const char *anchor;
    int delta, width;
    uint64_t value;
    int code;
    const char *says;
};

#define MAX64 UINT64_MAX
static const struct corruption corruptions[] = {
    {NULL, 0, 4, 0x46554747 + 1, SL_EINPUT, "byte 0: this is not a GGUF file"},
    {NULL, 4, 4, 0, SL_EINPUT, "byte 4: GGUF version 0"},
    {NULL, 4, 4, 1, SL_EUNSUPPORTED, "version 1 is no longer read"},
    {NULL, 4, 4, 4, SL_EUNSUPPORTED, "GGUF version 4"},
    {NULL, 4, 4, 3u << 24, SL_EUNSUPPORTED, "big-endian"},
    {NULL, 8, 8, 3, SL_EINPUT, "a tensor name has 0 bytes"},
    {NULL, 8, 8, 1u << 21, SL_EINPUT, "byte 8: 2097152 tensors cannot be"},
    {NULL, 8, 8, MAX64, SL_EINPUT, "tensors cannot be"},
    {NULL, 16, 8, 9, SL_EINPUT, "a tensor name needs 562949953421312 bytes"},
    {NULL, 16, 8, 7, SL_EINPUT, "tensor a.many: "},
    {NULL, 16, 8, 1u << 20, SL_EINPUT, "byte 16: 1048576 metadata keys cannot be"},
    {NULL, 16, 8, MAX64, SL_EINPUT, "metadata keys cannot be"},
    {"a.flag", -14, 8, 0, SL_EINPUT, "a metadata key has 0 bytes"},
    {"a.flag", -14, 8, 256, SL_EINPUT, "a metadata key has 256 bytes"},
    {"a.flag", -14, 8, 1ull << 40, SL_EINPUT, "a metadata key needs 1099511627776 bytes"},
    {"a.flag", -14, 8, MAX64, SL_EINPUT, "a metadata key needs"},
    {"a.flag", -3, 1, 0, SL_EINPUT, "control character 0x00"},
    {"a.flag", -3, 1, 0x1b, SL_EINPUT, "control character 0x1b"},
    {"a.flag", 0, 4, 13, SL_EINPUT, "key a.flag: value type 13"},
    {"a.flag", 0, 4, UINT32_MAX, SL_EINPUT, "key a.flag: value type 4294967295"},
    {"a.flag", 4, 1, 2, SL_EINPUT, "key a.flag: a boolean"},
    {"a.bits", 17, 1, 255, SL_EINPUT, "key a.bits: a boolean"},
    {"a.name", 4, 8, 4096, SL_EINPUT, "key a.name: the value needs 4096 bytes"},
    {"a.name", 4, 8, MAX64, SL_EINPUT, "key a.name: the value needs"},
    {"a.wide", 4, 8, MAX64, SL_EINPUT, "key a.wide: a 64-bit integer"},
    {"a.many", 16, 8, 1ull << 63, SL_EINPUT, "key a.many: a 64-bit integer"},
    {"a.list", 4, 4, 9, SL_EUNSUPPORTED, "key a.list: an array of arrays"},
    {"a.list", 4, 4, 13, SL_EINPUT, "key a.list: element type 13"},
    {"a.list", 8, 8, 4000, SL_EINPUT, "key a.list: 4000 values of 4 bytes"},
    {"a.list", 8, 8, 1ull << 62, SL_EINPUT, "key a.list: 4611686018427387904 values"},
    {"a.list", 8, 8, MAX64, SL_EINPUT, "key a.list: 18446744073709551615 values"},
    {"a.word", 8, 8, 3, SL_EINPUT, "byte 218: a metadata key needs 21474836490 bytes"},
    {"a.word", 8, 8, 1ull << 61, SL_EINPUT, "key a.word: 2305843009213693952 strings"},
    {"a.word", 16, 8, MAX64, SL_EINPUT, "key a.word: a string of the array"},
    {"general.alignment", 0, 4, GGUF_F32, SL_EINPUT, "general.alignment must be a power of two"},
    {"general.alignment", 4, 4, 0, SL_EINPUT, "general.alignment must be a power of two"},
    {"general.alignment", 4, 4, 4, SL_EINPUT, "general.alignment must be a power of two from 8"},
    {"general.alignment", 4, 4, 33, SL_EINPUT, "general.alignment must be a power of two"},
    {"general.alignment", 4, 4, 1u << 30, SL_EINPUT, "general.alignment must be a power of two"},
    {"general.alignment", 4, 4, 64, SL_EINPUT, "tensor t2: its data should begin at offset 128"},
    {"a.list", -4, 4, 0x65646977, SL_EINPUT, "metadata key a.wide appears twice"},
    {"t2", -2, 2, 0x3174, SL_EINPUT, "tensor t1: this name appears twice"},
    {"t2", -10, 8, 0, SL_EINPUT, "a tensor name has 0 bytes"},
    {"t2", -10, 8, 70000, SL_EINPUT, "a tensor name needs 70000 bytes"},
    {"t2", -10, 8, 128, SL_EINPUT, "a tensor name has 128 bytes"},
    {"t2", -1, 1, '\n', SL_EINPUT, "control character 0x0a"},
    {"t1", 0, 4, 0, SL_EINPUT, "tensor t1: 0 dimensions"},
    {"t1", 0, 4, 5, SL_EINPUT, "tensor t1: 5 dimensions"},
    {"t1", 0, 4, UINT32_MAX, SL_EINPUT, "tensor t1: 4294967295 dimensions"},
    {"t1", 4, 8, 0, SL_EINPUT, "tensor t1: dimension 0 is 0"},
    {"t1", 12, 8, MAX64, SL_EINPUT, "tensor t1: dimension 1 is -1"},
    {"t1", 4, 8, 33, SL_EINPUT, "tensor t1: rows of 33 elements do not divide into Q8_0 blocks"},
    {"t1", 4, 8, 1ull << 62, SL_EINPUT, "tensor t1: its dimensions multiply"},
    {"t1", 12, 8, 1ull << 40, SL_EINPUT, "tensor t1: its 37383395344384 bytes pass the end"},
    {"t1", 4, 8, 64, SL_EINPUT, "tensor t2: its data should begin at offset 160"},
    {"t1", 20, 4, 4, SL_EUNSUPPORTED, "tensor t1: tensor format id 4 was retired"},
    {"t1", 20, 4, 31, SL_EUNSUPPORTED, "tensor t1: tensor format id 31 was retired"},
    {"t1", 20, 4, 38, SL_EUNSUPPORTED, "tensor t1: tensor format id 38 was retired"},
    {"t1", 20, 4, 133, SL_EUNSUPPORTED, "tensor t1: tensor format id 133 is unknown"},
    {"t1", 20, 4, UINT32_MAX, SL_EUNSUPPORTED, "tensor t1: tensor format id 4294967295 is unknown"},
    {"t1", 20, 4, 12, SL_EINPUT,
     "tensor t1: rows of 32 elements do not divide into Q4_K blocks of 256"},
    {"t1", 24, 8, 32, SL_EINPUT, "tensor t1: its data should begin at offset 0"},
    {"t2", 16, 8, 0, SL_EINPUT, "tensor t2: its data should begin at offset 96"},
    {"t2", 16, 8, 64, SL_EINPUT, "tensor t2: its data should begin at offset 96"},
    {"t2", 16, 8, 97, SL_EINPUT, "tensor t2: its data should begin at offset 96"},
    {"t2", 16, 8, 128, SL_EINPUT, "tensor t2: its data should begin at offset 96"},
    {"t2", 16, 8, MAX64, SL_EINPUT, "tensor t2: its data should begin at offset 96"},
    {"t2", 4, 8, 1ull << 61, SL_EINPUT, "tensor t2: it would have more than 2^63 bytes"},
    {"t2", 4, 8, 9, SL_EINPUT, "tensor t2: its 36 bytes at"},
    {"t2", 4, 8, 1000, SL_EINPUT, "tensor t2: its 4000 bytes pass the end"},
};

static void refuses_corruptions(void **state)
{
    (void)state;
    size_t n;
    for (size_t i = 0; i < SL_ARRAY_LEN(corruptions); i++) {
        const struct corruption *c = &corruptions[i];
        uint8_t *data = small_file(&n, NULL);
        uint8_t *at = data;
        if (c->anchor) {
            at = memmem(data, n, c->anchor, strlen(c->anchor));
            assert_non_null(at);
            at += strlen(c->anchor);
        }
        memcpy(at + c->delta, &c->value, (size_t)c->width);
        struct sl_weights *w = NULL;
        struct sl_err err = {0};
        int r = sl_weights_open_memory(FILE_NAME, data, n, &w, &err);
        if (r != c->code || err.code != r || !strstr(err.msg, c->says) ||
            strncmp(err.msg, FILE_NAME ": ", 12) != 0 || !strstr(err.msg, "byte "))
            fail_msg("row %zu: got %d '%s', wanted %d '%s'", i, r, err.msg, c->code, c->says);
        assert_null(w);
        free(data);
    }
}

static void refuses_every_truncation(void **state)
{
    (void)state;
    size_t n, data_at;
    uint8_t *data = small_file(&n, &data_at);
    for (size_t len = 0; len <= n; len++) {
        uint8_t *part =
            malloc(len ? len : 1); /* its own block, so that a sanitizer sees one byte too far */
        memcpy(part, data, len);
        struct sl_weights *w = NULL;
        struct sl_err err = {0};
        int r = sl_weights_open_memory(FILE_NAME, part, len, &w, &err);
        int whole = len >= data_at + 96 + 16; /* only padding may be missing */
        if (r != (whole ? 0 : SL_EINPUT))
            fail_msg("length %zu of %zu: %d '%s'", len, n, r, err.msg);
        if (!whole) assert_non_null(strstr(err.msg, "byte "));
        sl_weights_close(w);
        free(part);
    }
    free(data);
}

/* No single changed byte may crash the reader or what uses the result. */
static void survives_every_changed_byte(void **state)
{
    (void)state;
    size_t n, opened = 0, refused = 0;
    static const uint8_t values[] = {0x00, 0x01, 0x02, 0x09, 0x20, 0x7f, 0x80, 0xff};
    uint8_t *data = small_file(&n, NULL);
    for (size_t i = 0; i < n; i++) {
        uint8_t was = data[i];
        for (size_t v = 0; v < sizeof values; v++) {
            data[i] = values[v];
            struct sl_weights *w = NULL;
            struct sl_err err = {0};
            int r = sl_weights_open_memory(FILE_NAME, data, n, &w, &err);
            if (r == 0) {
                walk(w);
                opened++;
            } else {
                assert_true(r == SL_EINPUT || r == SL_EUNSUPPORTED);
                assert_true(err.msg[0] != 0);
                refused++;
            }
            sl_weights_close(w);
        }
        data[i] = was;
    }
    assert_true(opened > 0 && refused > 0);
    free(data);
}

static void reads_every_type(void **state)
{
    (void)state;
    struct gguf_writer g;
    gguf_init(&g);
    g.version = 2; /* the same layout */
    gguf_value(&g, "u8", GGUF_U8, &(uint8_t){200});
    gguf_value(&g, "i8", GGUF_I8, &(int8_t){-100});
    gguf_value(&g, "u16", GGUF_U16, &(uint16_t){60000});
    gguf_value(&g, "i16", GGUF_I16, &(int16_t){-30000});
    gguf_value(&g, "u32", GGUF_U32, &(uint32_t){4000000000u});
    gguf_value(&g, "i32", GGUF_I32, &(int32_t){-2000000000});
    gguf_value(&g, "u64", GGUF_U64, &(uint64_t){INT64_MAX});
    gguf_value(&g, "i64", GGUF_I64, &(int64_t){INT64_MIN});
    gguf_value(&g, "f32", GGUF_F32, &(float){0.5f});
    gguf_value(&g, "f64", GGUF_F64, &(double){-1e300});
    gguf_bool(&g, "bool", 1);
    gguf_string(&g, "string", "h\xc3\xa9 \n");
    gguf_array(&g, "[u8", GGUF_U8, 2, (uint8_t[]){1, 255});
    gguf_array(&g, "[i8", GGUF_I8, 2, (int8_t[]){1, -128});
    gguf_array(&g, "[u16", GGUF_U16, 2, (uint16_t[]){1, 65535});
    gguf_array(&g, "[i16", GGUF_I16, 2, (int16_t[]){1, -32768});
    gguf_array(&g, "[u32", GGUF_U32, 2, (uint32_t[]){1, UINT32_MAX});
    gguf_array(&g, "[i32", GGUF_I32, 2, (int32_t[]){1, INT32_MIN});
    gguf_array(&g, "[u64", GGUF_U64, 2, (uint64_t[]){1, INT64_MAX});
    gguf_array(&g, "[i64", GGUF_I64, 2, (int64_t[]){1, INT64_MIN});
    gguf_array(&g, "[f32", GGUF_F32, 2, (float[]){1, -0.25f});
    gguf_array(&g, "[f64", GGUF_F64, 2, (double[]){1, 1e-300});
    gguf_array(&g, "[bool", GGUF_BOOL, 2, (uint8_t[]){1, 0});
    gguf_array(&g, "[string", GGUF_STRING, 3, (const char *[]){"", "two", "\xff"});
    gguf_array(&g, "[empty", GGUF_STRING, 0, NULL);
    size_t n;
    uint8_t *data = gguf_build(&g, &n, NULL, NULL);
    gguf_close(&g);
    struct sl_weights *w;
    assert_int_equal(sl_weights_open_memory(FILE_NAME, data, n, &w, NULL), 0);
    static const struct {
        const char *key;
        enum sl_meta_type type;
        int64_t i;
        double f;
        int64_t last_i;
        double last_f;
    } want[] = {
        {"u8", SL_META_INT, 200, 200, 255, 255},
        {"i8", SL_META_INT, -100, -100, -128, -128},
        {"u16", SL_META_INT, 60000, 60000, 65535, 65535},
        {"i16", SL_META_INT, -30000, -30000, -32768, -32768},
        {"u32", SL_META_INT, 4000000000, 4e9, UINT32_MAX, UINT32_MAX},
        {"i32", SL_META_INT, -2000000000, -2e9, INT32_MIN, INT32_MIN},
        {"u64", SL_META_INT, INT64_MAX, 9223372036854775807.0, INT64_MAX, 9223372036854775807.0},
        {"i64", SL_META_INT, INT64_MIN, -9223372036854775808.0, INT64_MIN, -9223372036854775808.0},
        {"f32", SL_META_FLOAT, 0, 0.5, 0, -0.25},
        {"f64", SL_META_FLOAT, 0, -1e300, 0, 1e-300},
        {"bool", SL_META_BOOL, 1, 1, 0, 0},
    };
    for (size_t i = 0; i < SL_ARRAY_LEN(want); i++) {
        char key[16];
        const struct sl_meta *m = sl_weights_meta(w, want[i].key);
        assert_int_equal(m->type, want[i].type);
        assert_true(m->i == want[i].i && m->f == want[i].f);
        snprintf(key, sizeof key, "[%s", want[i].key);
        m = sl_weights_meta(w, key);
        assert_int_equal(m->type, SL_META_ARRAY);
        assert_int_equal(m->elem, want[i].type);
        assert_int_equal(m->len, 2);
        struct sl_meta last = sl_meta_at(m, 1), first = sl_meta_at(m, 0);
        assert_true(first.type == want[i].type && first.f == 1);
        assert_true(last.i == want[i].last_i && last.f == want[i].last_f);
    }
    const struct sl_meta *m = sl_weights_meta(w, "string");
    assert_int_equal(m->type, SL_META_STRING);
    assert_int_equal(m->len, 5);
    assert_memory_equal(m->s, "h\xc3\xa9 \n", 5);
    m = sl_weights_meta(w, "[string");
    assert_int_equal(m->len, 3);
    assert_int_equal(sl_meta_at(m, 0).len, 0);
    assert_memory_equal(sl_meta_at(m, 1).s, "two", 3);
    assert_int_equal(sl_meta_at(m, 2).len, 1);
    assert_int_equal(sl_weights_meta(w, "[empty")->len, 0);
    assert_int_equal(sl_weights_meta(w, "[empty")->elem, SL_META_STRING);
    const char *key;
    sl_weights_meta_nth(w, 0, &key);
    assert_string_equal(key, "u8");
    sl_weights_close(w);
    free(data);
}

static void typed_access_checks(void **state)
{
    (void)state;
    size_t n;
    uint8_t *data = small_file(&n, NULL);
    struct sl_weights *w;
    struct sl_err err;
    int64_t i;
    double f;
    int b;
    assert_int_equal(sl_weights_open_memory(FILE_NAME, data, n, &w, NULL), 0);
    assert_int_equal(sl_weights_int(w, "a.wide", 9, 0, 5, &i, &err), 0);
    assert_int_equal(i, 5);
    assert_int_equal(sl_weights_int(w, "a.none", 9, 0, 5, &i, &err), 0);
    assert_int_equal(i, 9);
    assert_int_equal(sl_weights_int(w, "a.wide", 9, 0, 4, &i, &err), SL_EINPUT);
    assert_string_equal(
        err.msg,
        "small.gguf: key a.wide should be an integer from 0 to 4; convert the model again");
    assert_int_equal(sl_weights_int(w, "a.flag", 9, 0, 4, &i, NULL), SL_EINPUT);
    assert_int_equal(sl_weights_float(w, "a.wide", 0, &f, &err), 0);
    assert_true(f == 5);
    assert_int_equal(sl_weights_float(w, "a.none", 0.5, &f, &err), 0);
    assert_true(f == 0.5);
    assert_int_equal(sl_weights_float(w, "a.name", 0, &f, &err), SL_EINPUT);
    assert_int_equal(sl_weights_bool(w, "a.flag", 0, &b, &err), 0);
    assert_int_equal(b, 1);
    assert_int_equal(sl_weights_bool(w, "a.none", 1, &b, &err), 0);
    assert_int_equal(b, 1);
    assert_int_equal(sl_weights_bool(w, "a.wide", 1, &b, &err), SL_EINPUT);
    sl_weights_close(w);
    free(data);
}

/* A vocabulary larger than the first read: the header buffer moves while it grows, the values must
 * follow. */
static void reads_large_header_from_file(void **state)
{
    const char *dir = *state;
    char path[256];
    enum { WORDS = 200000 };
    snprintf(path, sizeof path, "%s/large.gguf", dir);
    char **words = malloc(WORDS * sizeof *words);
    for (int i = 0; i < WORDS; i++) {
        words[i] = malloc(24);
        snprintf(words[i], 24, "word %d", i);
    }
    struct gguf_writer g;
    gguf_init(&g);
    gguf_string(&g, "first", "early");
    gguf_array(&g, "words", GGUF_STRING, WORDS, words);
    gguf_string(&g, "last", "late");
    gguf_tensor(&g, "t", 1, (int64_t[]){4}, 0, (float[]){4, 3, 2, 1}, 16);
    assert_int_equal(gguf_save(&g, path), 0);
    gguf_close(&g);
    struct sl_weights *w;
    struct sl_err err;
    assert_int_equal(sl_weights_open(path, &w, &err), 0);
    assert_memory_equal(sl_weights_meta(w, "first")->s, "early", 5);
    assert_memory_equal(sl_weights_meta(w, "last")->s, "late", 4);
    const struct sl_meta *m = sl_weights_meta(w, "words");
    assert_int_equal(m->len, WORDS);
    for (int i = 0; i < WORDS; i++) {
        struct sl_meta v = sl_meta_at(m, (size_t)i);
        assert_int_equal(v.len, strlen(words[i]));
        assert_memory_equal(v.s, words[i], v.len);
        free(words[i]);
    }
    free(words);
    assert_memory_equal(sl_weights_map(w, sl_weights_at(w, 0), NULL), ((float[]){4, 3, 2, 1}), 16);
    sl_weights_close(w);
}

/* A huge sparse file can promise anything: the header's limit holds, not the file's size. */
static void limits_header_of_huge_file(void **state)
{
    const char *dir = *state;
    static const struct {
        uint32_t elem;
        uint64_t n;
    } claims[] = {{GGUF_STRING, 1ull << 30}, {GGUF_U8, 1ull << 33}, {GGUF_F64, 1ull << 29}};
    char path[256];
    snprintf(path, sizeof path, "%s/sparse.gguf", dir);
    for (size_t i = 0; i < SL_ARRAY_LEN(claims); i++) {
        uint8_t head[12];
        memcpy(head, &claims[i].elem, 4);
        memcpy(head + 4, &claims[i].n, 8);
        struct gguf_writer g;
        gguf_init(&g);
        gguf_raw(&g, "huge", GGUF_ARRAY, head, sizeof head);
        assert_int_equal(gguf_save(&g, path), 0);
        gguf_close(&g);
        if (truncate(path, (off_t)1 << 36) != 0) skip();
        struct sl_weights *w = NULL;
        struct sl_err err;
        assert_int_equal(sl_weights_open(path, &w, &err), SL_EINPUT);
        assert_non_null(strstr(err.msg, "key huge"));
        assert_non_null(strstr(err.msg, "header larger than"));
    }
    unlink(path);
}

static void names_files_that_cannot_be_opened(void **state)
{
    const char *dir = *state;
    char path[256];
    struct sl_weights *w = NULL;
    struct sl_err err;
    snprintf(path, sizeof path, "%s/absent.gguf", dir);
    assert_int_equal(sl_weights_open(path, &w, &err), SL_ENOTFOUND);
    assert_non_null(strstr(err.msg, path));
    assert_int_equal(sl_weights_open(dir, &w, &err), SL_EUNSUPPORTED); /* a folder with .gguf */
    assert_non_null(strstr(err.msg, "the folder holds GGUF files"));
    snprintf(path, sizeof path, "%s/fifo.gguf", dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(sl_weights_open(path, &w, &err),
                     SL_EINPUT); /* and does not wait for a writer */
    assert_null(w);
}

/* How many mappings of `path` there are; their bytes go to *bytes. */
static int mappings(const char *path, size_t *bytes)
{
    char line[512];
    int n = 0;
    *bytes = 0;
    FILE *f = fopen("/proc/self/maps", "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        unsigned long from, to;
        if (!strstr(line, path) || sscanf(line, "%lx-%lx", &from, &to) != 2) continue;
        *bytes += to - from;
        n++;
    }
    fclose(f);
    return n;
}

static void maps_only_own_pages(void **state)
{
    const char *dir = *state;
    char path[256];
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes;
    snprintf(path, sizeof path, "%s/pages.gguf", dir);
    float *data = malloc(3 * page);
    struct gguf_writer g;
    gguf_init(&g);
    for (int i = 0; i < 8; i++) {
        char name[16];
        for (size_t j = 0; j < 3 * page / sizeof *data; j++) data[j] = (float)i;
        snprintf(name, sizeof name, "t%d", i);
        gguf_tensor(&g, name, 1, (int64_t[]){(int64_t)(3 * page / sizeof *data)}, 0, data,
                    3 * page);
    }
    assert_int_equal(gguf_save(&g, path), 0);
    gguf_close(&g);
    struct sl_weights *w;
    struct sl_err err;
    assert_int_equal(sl_weights_open(path, &w, &err), 0);
    assert_int_equal(mappings(path, &bytes), 0); /* the header is not mapped */
    for (int i = 2; i < 8; i += 3) {
        const struct sl_tensor *t = sl_weights_at(w, (size_t)i);
        const float *p = sl_weights_map(w, t, &err);
        assert_non_null(p);
        assert_ptr_equal(sl_weights_map(w, t, &err), p);
        for (size_t j = 0; j < 3 * page / sizeof *p; j++) assert_true(p[j] == (float)i);
        assert_int_equal(mappings(path, &bytes), 1);
        assert_int_equal(bytes, t->offset % page ? 4 * page : 3 * page);
        sl_weights_unmap(w, t);
        sl_weights_unmap(w, t);
        assert_int_equal(mappings(path, &bytes), 0);
    }
    assert_non_null(sl_weights_map(w, sl_weights_at(w, 1), &err)); /* close unmaps what is left */
    /* the file shrinks under us: an error, not a SIGBUS */
    const struct sl_tensor *last = sl_weights_at(w, 7);
    assert_int_equal(truncate(path, (off_t)(last->offset + last->bytes - 1)), 0);
    assert_null(sl_weights_map(w, last, &err));
    assert_int_equal(err.code, SL_EINPUT);
    assert_non_null(strstr(err.msg, "tensor t7: the file was truncated"));
    assert_non_null(sl_weights_map(w, sl_weights_at(w, 6), &err));
    sl_weights_close(w);
    assert_int_equal(mappings(path, &bytes), 0);
    free(data);
}

/* Writes part `no` of `count` with two tensors; `total` into split.tensors.count. */
static void write_part(const char *path, int no, int count, int total, const char *tensor)
{
    struct gguf_writer g;
    gguf_init(&g);
    gguf_value(&g, "split.no", GGUF_U16, &(uint16_t){(uint16_t)no});
    gguf_value(&g, "split.count", GGUF_U16, &(uint16_t){(uint16_t)count});
    gguf_value(&g, "split.tensors.count", GGUF_I32, &total);
    if (no == 0) gguf_string(&g, "general.name", "parted");
    gguf_tensor(&g, tensor, 1, (int64_t[]){1}, 0, &(float){(float)no}, 4);
    gguf_tensor(&g,
                no == 0   ? "x"
                : no == 1 ? "y"
                          : "z",
                1, (int64_t[]){1}, 0, &(float){(float)(10 + no)}, 4);
    assert_int_equal(gguf_save(&g, path), 0);
    gguf_close(&g);
}

static void reads_split_files(void **state)
{
    const char *dir = *state;
    char path[3][256];
    static const char *const names[] = {"p0", "p1", "p2"};
    struct sl_weights *w = NULL;
    struct sl_err err;
    for (int i = 0; i < 3; i++) {
        snprintf(path[i], sizeof path[i], "%s/m-%05d-of-00003.gguf", dir, i + 1);
        write_part(path[i], i, 3, 6, names[i]);
    }
    assert_int_equal(sl_weights_open(path[0], &w, &err), 0);
    assert_int_equal(sl_weights_count(w), 6);
    assert_non_null(sl_weights_meta(w, "general.name"));
    for (size_t i = 0; i < 6; i++) {
        const float *v = sl_weights_map(w, sl_weights_at(w, i), &err);
        assert_true(*v == (float)(i % 2 * 10 + i / 2));
    }
    assert_string_equal(sl_weights_at(w, 2)->name, "p1");
    assert_ptr_equal(sl_weights_find(w, "z"), sl_weights_at(w, 5));
    sl_weights_close(w);
    w = NULL;

    assert_int_equal(sl_weights_open(path[1], &w, &err), SL_EINPUT);
    assert_non_null(strstr(err.msg, "this is part 2 of 3; give the first part"));
    write_part(path[2], 1, 3, 6, "p2");
    assert_int_equal(sl_weights_open(path[0], &w, &err), SL_EINPUT);
    assert_non_null(strstr(err.msg, "says it is part 2 of 3, its name says 3 of 3"));
    write_part(path[2], 2, 3, 6, "p1");
    assert_int_equal(sl_weights_open(path[0], &w, &err), SL_EINPUT);
    assert_non_null(strstr(err.msg, "00003-of-00003.gguf: byte"));
    assert_non_null(strstr(err.msg, "tensor p1: this name appears twice"));
    write_part(path[2], 2, 3, 6, "p2");
    write_part(path[0], 0, 3, 7, "p0");
    assert_int_equal(sl_weights_open(path[0], &w, &err), SL_EINPUT);
    assert_non_null(strstr(err.msg, "split.tensors.count says 7 tensors, the 3 parts have 6"));
    write_part(path[0], 0, 3, 6, "p0");
    assert_int_equal(truncate(path[1], 100), 0);
    assert_int_equal(sl_weights_open(path[0], &w, &err), SL_EINPUT);
    assert_non_null(strstr(err.msg, "00002-of-00003.gguf: byte"));
    unlink(path[1]);
    assert_int_equal(sl_weights_open(path[0], &w, &err), SL_ENOTFOUND);
    assert_non_null(strstr(err.msg, "00002-of-00003.gguf"));
    char other[256];
    snprintf(other, sizeof other, "%s/renamed.gguf", dir);
    write_part(other, 0, 3, 6, "p0");
    assert_int_equal(sl_weights_open(other, &w, &err), SL_EINPUT);
    assert_non_null(strstr(err.msg, "must be named ...-00001-of-00003.gguf"));
    write_part(other, 0, 60000, 6, "p0");
    assert_int_equal(sl_weights_open(other, &w, &err), SL_EINPUT);
    assert_non_null(strstr(err.msg, "60000 parts"));
    assert_null(w);
}

static char scratch[] = "/tmp/sluice-gguf-XXXXXX";

static int make_scratch(void **state)
{
    *state = mkdtemp(scratch);
    return *state ? 0 : -1;
}

static int remove_scratch(void **state)
{
    char command[64];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", scratch);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens_small_file),
        cmocka_unit_test(refuses_corruptions),
        cmocka_unit_test(refuses_every_truncation),
        cmocka_unit_test(survives_every_changed_byte),
        cmocka_unit_test(reads_every_type),
        cmocka_unit_test(typed_access_checks),
        cmocka_unit_test(reads_large_header_from_file),
        cmocka_unit_test(limits_header_of_huge_file),
        cmocka_unit_test(names_files_that_cannot_be_opened),
        cmocka_unit_test(maps_only_own_pages),
        cmocka_unit_test(reads_split_files),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
