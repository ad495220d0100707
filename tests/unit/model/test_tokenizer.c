/* test_tokenizer.c - ids against published vectors, and hostile vocabularies and texts.
 *
 * The vocabularies of real models come from the shared data, SmolLM2's from its model file (skipped
 * when absent); a toy vocabulary built here holds the awkward cases and is compared with a merger
 * that is slow and plain. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "base/text.h"
#include "model/tokenizer.h"
#include "model/weights.h"

#define DATA SLUICE_SHARED "/data/tokenizers/"
#define SKIPPED 77

static int n_skipped;

/* ---- helpers --------------------------------------------------------------------------------- */

struct fixture {
    struct sl_weights *w;
    struct sl_tokenizer *t;
};

static void open_file(struct fixture *f, const char *path)
{
    struct sl_err err;
    if (access(path, R_OK) != 0) {
        print_message("absent: %s\n", path);
        n_skipped++;
        skip();
    }
    if (sl_weights_open(path, &f->w, &err) != 0) fail_msg("%s", err.msg);
    if (sl_tokenizer_open(f->w, &f->t, &err) != 0) fail_msg("%s", err.msg);
}

static void close_file(struct fixture *f)
{
    sl_tokenizer_close(f->t);
    sl_weights_close(f->w);
}

static struct sl_ids encode(const struct sl_tokenizer *t, const char *text, size_t n, int flags)
{
    struct sl_ids ids = {0};
    struct sl_err err;
    if (sl_tokenizer_encode(t, text, n, flags, &ids, &err) != 0) fail_msg("%s", err.msg);
    return ids;
}

/* Do the pieces of the ids give the text, and do streamed pieces give it with invalid bytes
 * replaced, every push ending on a character boundary? */
static void check_decode(const struct sl_tokenizer *t, const struct sl_ids *ids, const char *text,
                         size_t n)
{
    struct sl_buf out;
    struct sl_detok d = {0}, whole = {0};
    char *want = malloc(3 * n + 1);
    sl_buf_init(&out, 4 * n + 64);
    size_t pos = 0, shown = 0;
    for (size_t i = 0; i < ids->len; i++) {
        size_t len;
        const char *piece = sl_detok_bytes(&whole, t, ids->data[i], &len);
        assert_true((len > 0 || i == 0) && pos + len <= n && memcmp(text + pos, piece, len) == 0);
        pos += len;
        assert_int_equal(sl_detok_push(&d, t, ids->data[i], 1, &out), 0);
        assert_int_equal(sl_utf8_whole(out.data + shown, out.len - shown), out.len - shown);
        shown = out.len;
    }
    assert_int_equal(pos, n);
    assert_int_equal(sl_detok_finish(&d, &out), 0);
    size_t want_n = sl_utf8_scrub(text, n, want);
    assert_int_equal(out.len, want_n);
    if (want_n > 0) assert_memory_equal(out.data, want, want_n);
    free(want);
    sl_buf_close(&out);
}

static void check_ids(const struct sl_ids *got, const int32_t *want, size_t n, const char *text)
{
    int same = got->len == n && (n == 0 || memcmp(got->data, want, n * sizeof *want) == 0);
    if (same) return;
    for (size_t i = 0; i < got->len; i++) print_error("%d ", got->data[i]);
    print_error("<- got, want -> ");
    for (size_t i = 0; i < n; i++) print_error("%d ", want[i]);
    fail_msg("ids differ for '%s'", text);
}

/* ---- vectors --------------------------------------------------------------------------------- */

static char *read_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("cannot read %s", path);
    char *data = calloc(1, 1 << 20);
    size_t n = fread(data, 1, (1 << 20) - 1, f);
    assert_true(n > 0 && feof(f));
    fclose(f);
    return data;
}

/* llama.cpp's vectors: texts between separators, one line of ids for each. */
static void check_vectors(const char *name, size_t n_texts)
{
    static const char separator[] = "\n__ggml_vocab_test__\n";
    char path[512];
    struct fixture f;
    snprintf(path, sizeof path, DATA "ggml-vocab-%s.gguf", name);
    open_file(&f, path);
    snprintf(path, sizeof path, DATA "ggml-vocab-%s.gguf.inp", name);
    char *texts = read_file(path), *text = texts;
    snprintf(path, sizeof path, DATA "ggml-vocab-%s.gguf.out", name);
    char *lines = read_file(path), *line = lines;
    size_t n = 0;
    for (char *end; (end = strstr(text, separator)); text = end + strlen(separator), n++) {
        int32_t want[4096];
        size_t n_want = 0;
        char *eol = strchr(line, '\n');
        assert_non_null(eol);
        *eol = *end = 0;
        for (char *p = line, *q; (void)strtol(p, &q, 10), q != p; p = q)
            want[n_want++] = (int32_t)strtol(p, NULL, 10);
        line = eol + 1;
        struct sl_ids ids = encode(f.t, text, (size_t)(end - text), 0);
        check_ids(&ids, want, n_want, text);
        check_decode(f.t, &ids, text, (size_t)(end - text));
        free(ids.data);
    }
    assert_int_equal(n, n_texts);
    free(texts);
    free(lines);
    close_file(&f);
}

static void test_gpt2(void **state)
{
    (void)state;
    check_vectors("gpt-2", 46);
}

static void test_llama3(void **state)
{
    (void)state;
    check_vectors("llama-bpe", 46);
}

static void test_qwen2(void **state)
{
    (void)state;
    check_vectors("qwen2", 46);
}

static void test_llama2(void **state)
{
    (void)state;
    check_vectors("llama-spm", 46);
}

static void test_deepseek(void **state)
{
    (void)state;
    check_vectors("deepseek-llm", 46);
}

static void open_smollm2(struct fixture *f)
{
    char path[1024];
    const char *file = sl_env_get("SLUICE_MODEL_SMOLLM2"), *cache = sl_env_get("XDG_CACHE_HOME");
    const char *home = sl_env_get("HOME");
    if (file)
        snprintf(path, sizeof path, "%s", file);
    else
        snprintf(path, sizeof path, "%s%s/sluice/SmolLM2-135M-Instruct.Q4_1.gguf",
                 cache  ? cache
                 : home ? home
                        : "",
                 cache ? "" : "/.cache");
    open_file(f, path);
}

static void check_json_ids(const struct sl_tokenizer *t, const json_t *ids, const char *text,
                           size_t n, int flags)
{
    int32_t want[4096];
    size_t i;
    json_t *v;
    json_array_foreach(ids, i, v) want[i] = (int32_t)json_integer_value(v);
    struct sl_ids got = encode(t, text, n, flags);
    check_ids(&got, want, json_array_size(ids), text);
    check_decode(t, &got, text, n);
    free(got.data);
}

static void test_smollm2(void **state)
{
    (void)state;
    struct fixture f;
    open_smollm2(&f);
    FILE *in = fopen(DATA "smollm2.jsonl", "r");
    if (!in) in = fopen(SLUICE_GOLDEN "/data/tokenizers/smollm2.jsonl", "r");
    if (!in) {
        n_skipped++;
        close_file(&f);
        skip();
    }
    char *line = NULL;
    size_t cap = 0, n = 0;
    while (getline(&line, &cap, in) > 0) {
        json_error_t je;
        json_t *v = json_loads(line, JSON_ALLOW_NUL, &je);
        assert_non_null(v);
        json_t *text = json_object_get(v, "text"), *plain = json_object_get(v, "ids_no_special");
        json_t *ids = json_object_get(v, "ids");
        const char *s = json_string_value(text);
        check_json_ids(f.t, ids, s, json_string_length(text), SL_TOK_SPECIAL);
        check_json_ids(f.t, plain ? plain : ids, s, json_string_length(text), 0);
        json_decref(v);
        n++;
    }
    assert_int_equal(n, 140);
    free(line);
    fclose(in);
    assert_int_equal(sl_tokenizer_size(f.t), 49152);
    assert_int_equal(sl_tokenizer_bos(f.t), 1);
    assert_int_equal(sl_tokenizer_eos(f.t), 2);
    assert_false(sl_tokenizer_adds_bos(f.t));
    assert_true(sl_tokenizer_is_end(f.t, 0) && sl_tokenizer_is_end(f.t, 2));
    assert_false(sl_tokenizer_is_end(f.t, 1) || sl_tokenizer_is_end(f.t, 17));
    assert_true(sl_tokenizer_is_special(f.t, 16) && !sl_tokenizer_is_special(f.t, 17));
    assert_int_equal(sl_tokenizer_find(f.t, "<|im_start|>", 12), 1);
    struct sl_ids the = encode(f.t, " the", 4, 0);
    assert_int_equal(the.len, 1);
    assert_int_equal(sl_tokenizer_find(f.t, " the", 4), the.data[0]);
    free(the.data);
    close_file(&f);
}

/* Texts that a slow tokenizer would need hours for: nothing here measures time, quadratic work
 * would not end. */
static void check_hostile(const struct sl_tokenizer *t, int all, int lossless)
{
    size_t n = 1 << 20;
    char *text = malloc(n + 1);
    static const char *const fill[] = {
        "a",  " ",    "\n",       " \t",          "1",    "'",
        "<",  "<|",   "\xc3\xa9", "\xe4\xb8\xad", "\xff", "\xf0\x9f\x98\x80",
        "x ", " \n ", "\xc2\x85", "!?",           "a1"};
    for (size_t k = 0; k < SL_ARRAY_LEN(fill) + 1; k++) {
        if (!all && k >= 2 && k < SL_ARRAY_LEN(fill)) continue;
        uint64_t x = k;
        for (size_t i = 0; i < n; i++)
            text[i] = k < SL_ARRAY_LEN(fill) ? fill[k][i % strlen(fill[k])]
                                             : (char)((x = sl_mix64(x)) & 0xff);
        text[n] = 'b'; /* what stands behind a run of spaces matters */
        struct sl_ids ids = encode(t, text, n + 1, SL_TOK_SPECIAL);
        if (lossless) check_decode(t, &ids, text, n + 1);
        assert_true(ids.len > 0);
        free(ids.data);
    }
    free(text);
}

static void test_hostile_texts(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt-2", "llama-bpe", "qwen2", "llama-spm", "deepseek-llm"};
    for (size_t i = 0; i < SL_ARRAY_LEN(names); i++) {
        char path[512];
        struct fixture f;
        snprintf(path, sizeof path, DATA "ggml-vocab-%s.gguf", names[i]);
        open_file(&f, path);
        check_hostile(f.t, i >= 2,
                      i < 4); /* DeepSeek's and SmolLM2's vocabularies lack some bytes */
        close_file(&f);
    }
}

static void test_hostile_smollm2(void **state)
{
    (void)state;
    struct fixture f;
    open_smollm2(&f);
    check_hostile(f.t, 0, 0);
    close_file(&f);
}

/* ---- a toy vocabulary ------------------------------------------------------------------------ */

/* A GGUF file of metadata only, built in memory. */
struct blob {
    unsigned char data[1 << 16];
    size_t len;
    uint64_t n_keys;
};

static void put(struct blob *b, const void *p, size_t n)
{
    assert_true(b->len + n <= sizeof b->data);
    memcpy(b->data + b->len, p, n);
    b->len += n;
}

static void put_number(struct blob *b, uint64_t v, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++, v >>= 8) put(b, &(unsigned char){(unsigned char)v}, 1);
}

static void put_string(struct blob *b, const char *s)
{
    put_number(b, strlen(s), 8);
    put(b, s, strlen(s));
}

enum { TYPE_U32 = 4, TYPE_I32 = 5, TYPE_STRING = 8, TYPE_ARRAY = 9 };

static void put_key(struct blob *b, const char *key, uint32_t type)
{
    if (b->n_keys++ == 0) b->len = 24; /* magic, version and counts come last */
    put_string(b, key);
    put_number(b, type, 4);
}

static void put_text(struct blob *b, const char *key, const char *value)
{
    put_key(b, key, TYPE_STRING);
    put_string(b, value);
}

static void put_id(struct blob *b, const char *key, uint32_t id)
{
    put_key(b, key, TYPE_U32);
    put_number(b, id, 4);
}

static void put_strings(struct blob *b, const char *key, const char *const *s, size_t n)
{
    put_key(b, key, TYPE_ARRAY);
    put_number(b, TYPE_STRING, 4);
    put_number(b, n, 8);
    for (size_t i = 0; i < n; i++) put_string(b, s[i]);
}

static void put_ints(struct blob *b, const char *key, const int *v, size_t n)
{
    put_key(b, key, TYPE_ARRAY);
    put_number(b, TYPE_I32, 4);
    put_number(b, n, 8);
    for (size_t i = 0; i < n; i++) put_number(b, (uint32_t)v[i], 4);
}

static int open_blob(struct blob *b, struct fixture *f, struct sl_err *err)
{
    size_t len = b->len;
    f->t = NULL;
    b->len = 0;
    put(b, "GGUF", 4);
    put_number(b, 3, 4);
    put_number(b, 0, 8);
    put_number(b, b->n_keys, 8);
    b->len = len;
    assert_int_equal(sl_weights_open_memory("toy.gguf", b->data, b->len, &f->w, err), 0);
    return sl_tokenizer_open(f->w, &f->t, err);
}

#define TOKENS "tokenizer.ggml.tokens"
#define TYPES "tokenizer.ggml.token_type"
#define MERGES "tokenizer.ggml.merges"

/* "\xc4\xa0" is U+0120, a space in the byte alphabet; \xc3\xa9 is U+00E9, the byte e9 (that the toy
 * has no token for as a letter: an "e" with acute is c3 a9, that is U+00C3 U+00A9). */
#define SP "\xc4\xa0"
enum {
    T_A,
    T_B,
    T_C,
    T_SPACE,
    T_AB,
    T_BC,
    T_ABC,
    T_AA,
    T_AAAA,
    T_SP_AB,
    T_C3,
    T_A9,
    T_LT,
    T_BAR,
    T_GT,
    T_END,
    T_ENDS,
    T_USER,
    T_USER2,
    T_UNK,
    T_N
};
static const char *const toy_tokens[T_N] = {
    "a",        "b",        "c", SP,  "ab", "bc",         "abc",          "aa", "aaaa", SP "ab",
    "\xc3\x83", "\xc2\xa9", "<", "|", ">",  "<|im_end|>", "<|im_end|>ab", "<<", "<<|",  "<unk>"};
static const int toy_types[T_N] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 4, 4, 2};
/* the last one repeats the first: the lower rank counts */
static const char *const toy_merges[] = {"b c", "a a", "aa aa", "a b", "a bc", SP " ab", "b c"};

/* The toy with the keys in `without` (one, may be NULL) left out. */
static void toy(struct blob *b, const char *without)
{
    memset(b, 0, sizeof *b);
    if (!without || strcmp(without, "tokenizer.ggml.model") != 0)
        put_text(b, "tokenizer.ggml.model", "gpt2");
    if (!without || strcmp(without, "tokenizer.ggml.pre") != 0)
        put_text(b, "tokenizer.ggml.pre", "gpt-2");
    if (!without || strcmp(without, TOKENS) != 0) put_strings(b, TOKENS, toy_tokens, T_N);
    if (!without || strcmp(without, TYPES) != 0) put_ints(b, TYPES, toy_types, T_N);
    if (!without || strcmp(without, MERGES) != 0)
        put_strings(b, MERGES, toy_merges, SL_ARRAY_LEN(toy_merges));
}

static void check_toy(const struct sl_tokenizer *t, const char *text, int flags,
                      const int32_t *want, size_t n)
{
    struct sl_ids ids = encode(t, text, strlen(text), flags);
    check_ids(&ids, want, n, text);
    free(ids.data);
}

#define CHECK(text, flags, ...)                                                                    \
    do {                                                                                           \
        static const int32_t want_[] = {__VA_ARGS__};                                              \
        check_toy(f.t, text, flags, want_, SL_ARRAY_LEN(want_));                                   \
    } while (0)

static void test_toy(void **state)
{
    (void)state;
    struct blob b;
    struct fixture f;
    struct sl_err err;
    toy(&b, NULL);
    put_id(&b, "tokenizer.ggml.bos_token_id", T_C);
    put_id(&b, "tokenizer.ggml.eos_token_id", T_UNK);
    if (open_blob(&b, &f, &err) != 0) fail_msg("%s", err.msg);
    /* lowest rank first, the leftmost of equals */
    CHECK("abc", 0, T_ABC);
    CHECK("abab", 0, T_AB, T_AB);
    CHECK("aaa", 0, T_AA, T_A);
    CHECK("aaaaaaa", 0, T_AAAA, T_AA, T_A);
    CHECK(" ab ab", 0, T_SP_AB, T_SP_AB);
    /* special tokens: plain text without the flag, the longest with it; user-defined ones always */
    CHECK("<|>", 0, T_LT, T_BAR, T_GT);
    CHECK("a<|im_end|>abc", SL_TOK_SPECIAL, T_A, T_ENDS, T_C);
    CHECK("a<|im_end|>a", SL_TOK_SPECIAL, T_A, T_END, T_A);
    CHECK("<|im_end|>", 0, T_LT, T_BAR, T_BAR,
          T_GT); /* and letters that the toy has no tokens for are left out */
    CHECK("<<<|", 0, T_USER, T_LT, T_BAR);
    CHECK("a<<|>", 0, T_A, T_USER2, T_GT);
    CHECK("<unk>", SL_TOK_SPECIAL, T_UNK);
    CHECK("<unk", SL_TOK_SPECIAL, T_LT);
    /* a character of two bytes; the same bytes cut off or swapped; a byte without a token */
    CHECK("\xc3\xa9", 0, T_C3, T_A9);
    CHECK("ab\xc3", 0, T_AB, T_C3);
    CHECK("\xa9\xc3"
          "b",
          0, T_A9, T_C3, T_B);
    CHECK("a\xff"
          "bc\x01"
          "c",
          0, T_A, T_BC, T_C);
    CHECK("ab", SL_TOK_BOS, T_AB); /* the file does not ask for BOS */
    struct sl_ids none = encode(f.t, NULL, 0, SL_TOK_SPECIAL);
    assert_int_equal(none.len, 0);

    assert_int_equal(sl_tokenizer_size(f.t), T_N);
    assert_int_equal(sl_tokenizer_bos(f.t), T_C);
    assert_true(sl_tokenizer_is_end(f.t, T_END) && sl_tokenizer_is_end(f.t, T_UNK));
    assert_false(sl_tokenizer_is_end(f.t, T_ENDS) || sl_tokenizer_is_end(f.t, -1) ||
                 sl_tokenizer_is_end(f.t, T_N));
    assert_true(sl_tokenizer_is_special(f.t, T_UNK) && !sl_tokenizer_is_special(f.t, T_USER));
    assert_int_equal(sl_tokenizer_find(f.t, " ab", 3), T_SP_AB);
    assert_int_equal(sl_tokenizer_find(f.t, "<<|", 3), T_USER2);
    assert_int_equal(sl_tokenizer_find(f.t, SP "ab", 4), -1);
    assert_int_equal(sl_tokenizer_find(f.t, "\xc3", 1), T_C3);
    size_t len = 1;
    assert_string_equal(sl_tokenizer_piece(f.t, T_N, &len), "");
    assert_int_equal(len, 0);
    char *big = calloc(1, SL_TOK_TEXT_MAX + 1);
    struct sl_ids ids = {0};
    assert_int_equal(sl_tokenizer_encode(f.t, big, SL_TOK_TEXT_MAX + 1, 0, &ids, &err), SL_ELIMIT);
    free(big);
    close_file(&f);
}

static void test_bos(void **state)
{
    (void)state;
    struct blob b;
    struct fixture f;
    struct sl_err err;
    toy(&b, "tokenizer.ggml.pre");
    put_text(&b, "tokenizer.ggml.pre", "llama-bpe"); /* which adds BOS when the file does not say */
    put_id(&b, "tokenizer.ggml.bos_token_id", T_END);
    if (open_blob(&b, &f, &err) != 0) fail_msg("%s", err.msg);
    assert_true(sl_tokenizer_adds_bos(f.t));
    CHECK("ab", SL_TOK_BOS, T_END, T_AB);
    CHECK("ab", 0, T_AB);
    close_file(&f);
}

/* The slow and plain way: look at all pairs, merge the best, again. */
static size_t merge_plainly(const char *text, size_t n, int32_t *ids)
{
    for (size_t i = 0; i < n; i++) ids[i] = text[i] == ' ' ? T_SPACE : text[i] - 'a';
    for (;;) {
        size_t best = SL_ARRAY_LEN(toy_merges), at = 0;
        int32_t merged = -1;
        for (size_t i = 0; i + 1 < n; i++)
            for (size_t r = 0; r < best; r++) {
                char pair[64], joined[64];
                const char *left = toy_tokens[ids[i]], *right = toy_tokens[ids[i + 1]];
                snprintf(pair, sizeof pair, "%s %s", left, right);
                if (strcmp(pair, toy_merges[r]) != 0) continue;
                snprintf(joined, sizeof joined, "%s%s", left, right);
                for (merged = 0; strcmp(toy_tokens[merged], joined) != 0;) merged++;
                best = r;
                at = i;
            }
        if (best == SL_ARRAY_LEN(toy_merges)) return n;
        ids[at] = merged;
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
        n--;
    }
}

static void test_merging_against_plain(void **state)
{
    (void)state;
    struct blob b;
    struct fixture f;
    struct sl_err err;
    toy(&b, NULL);
    if (open_blob(&b, &f, &err) != 0) fail_msg("%s", err.msg);
    uint64_t x = 1;
    for (int k = 0; k < 3000; k++) {
        char text[65];
        int32_t want[65];
        size_t n = 1 + (x = sl_mix64(x)) % 64;
        for (size_t i = 0; i < n; i++) text[i] = "aaabbc"[(x = sl_mix64(x)) % 6];
        text[n] = 0;
        if (k % 2) text[0] = ' '; /* one piece still */
        check_toy(f.t, text, 0, want, merge_plainly(text, n, want));
    }
    close_file(&f);
}

/* ---- files that must be refused -------------------------------------------------------------- */

static void check_refused(struct blob *b, int code, const char *part)
{
    struct fixture f;
    struct sl_err err = {0};
    assert_int_equal(open_blob(b, &f, &err), code);
    assert_null(f.t);
    if (!strstr(err.msg, part) || !strstr(err.msg, "toy.gguf"))
        fail_msg("'%s' lacks '%s'", err.msg, part);
    sl_weights_close(f.w);
}

/* The toy with another value for one array of strings. */
static void refuse_strings(const char *key, const char *const *s, size_t n, const char *part)
{
    struct blob b;
    toy(&b, key);
    put_strings(&b, key, s, n);
    check_refused(&b, SL_EINPUT, part);
}

static void refuse_text(const char *key, const char *value, int code, const char *part)
{
    struct blob b;
    toy(&b, key);
    put_text(&b, key, value);
    check_refused(&b, code, part);
}

static void test_refused(void **state)
{
    (void)state;
    struct blob b;
    static const char *const missing[] = {"tokenizer.ggml.model", TOKENS, MERGES};
    for (size_t i = 0; i < SL_ARRAY_LEN(missing); i++) {
        toy(&b, missing[i]);
        check_refused(&b, SL_EINPUT, missing[i]);
    }
    refuse_text("tokenizer.ggml.model", "bert", SL_EUNSUPPORTED, "'bert'");
    refuse_text("tokenizer.ggml.model", "llama", SL_EINPUT, "scores is missing");
    refuse_text("tokenizer.ggml.pre", "marvin", SL_EUNSUPPORTED, "'marvin'");
    refuse_text("tokenizer.ggml.pre", "marvin", SL_EUNSUPPORTED, "llama-bpe");
    refuse_text(TOKENS, "a", SL_EINPUT, "not an array");
    refuse_text(MERGES, "a", SL_EINPUT, "not an array");
    refuse_strings(TYPES, toy_tokens, T_N, "not an array of integers");
    refuse_strings(TOKENS, NULL, 0, "empty");
    refuse_strings(TOKENS, toy_tokens, T_N - 1, "20 entries for 19 tokens");
    static const char *const bad[][2] = {{"x b", "[1]: the left token"},
                                         {"b x", "[1]: the right token"},
                                         {"b a", "[1]: the result"},
                                         {"abc", "[1] is not two tokens"},
                                         {" ", "[1] is not two tokens"},
                                         {"", "[1] is not two tokens"},
                                         {"a ", "[1] is not two tokens"},
                                         {" b", "[1] is not two tokens"},
                                         {"<|im_end|>ab <|im_end|>ab", "[1]: the result"}};
    for (size_t i = 0; i < SL_ARRAY_LEN(bad); i++) {
        const char *merges[] = {"b c", bad[i][0]};
        refuse_strings(MERGES, merges, 2, bad[i][1]);
    }
    static const char *const ids[] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                      "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    for (size_t i = 0; i < SL_ARRAY_LEN(ids); i++) {
        toy(&b, NULL);
        put_id(&b, ids[i], T_N);
        check_refused(&b, SL_EINPUT, ids[i]);
    }
    int types[T_N];
    memcpy(types, toy_types, sizeof types);
    types[3] = 7;
    toy(&b, TYPES);
    put_ints(&b, TYPES, types, T_N);
    check_refused(&b, SL_EINPUT, "token_type[3] is 7");
}

/* Tokens that only look odd are accepted: repeated, empty, broken UTF-8. */
static void test_odd_tokens(void **state)
{
    (void)state;
    static const char *const tokens[] = {"a", "", "b", "b", "\xff\xc4", "\xe4\xb8\xad"};
    struct blob b;
    struct fixture f;
    struct sl_err err;
    memset(&b, 0, sizeof b);
    put_text(&b, "tokenizer.ggml.model", "gpt2");
    put_strings(&b, TOKENS, tokens, SL_ARRAY_LEN(tokens));
    put_strings(&b, MERGES, NULL, 0);
    if (open_blob(&b, &f, &err) != 0) fail_msg("%s", err.msg);
    CHECK("abc", SL_TOK_SPECIAL, 0, 3);
    size_t len;
    assert_memory_equal(sl_tokenizer_piece(f.t, 4, &len), "\xff\xc4", 2);
    assert_int_equal(len, 2);
    assert_memory_equal(sl_tokenizer_piece(f.t, 5, &len), "\xe4\xb8\xad", 3);
    assert_int_equal(sl_tokenizer_eos(f.t), -1);
    close_file(&f);
}

/* ---- streaming ------------------------------------------------------------------------------- */

/* One token for each byte but 4 of UTF-8's bytes that come in pairs: text arrives in pieces of any
 * cut. */
static void test_detok(void **state)
{
    (void)state;
    struct fixture f;
    open_smollm2(&f);
    static const char *const texts[] = {"\xf0\x9f\x98\x80\xe4\xb8\xad\xc3\xa9x",
                                        "\xf0\x9f\x98",
                                        "\xe4\xb8"
                                        "a",
                                        "\xf0\x9f\xe4\xb8\xad",
                                        "\xc3\xc3\xa9",
                                        "\x80\x80",
                                        "\xe0\x80\x80"};
    for (size_t k = 0; k < SL_ARRAY_LEN(texts); k++) {
        size_t n = strlen(texts[k]);
        struct sl_ids ids = {0};
        for (size_t i = 0; i < n; i++) { /* the finest cut */
            int32_t id = sl_tokenizer_find(f.t, texts[k] + i, 1);
            assert_true(id >= 0);
            assert_int_equal(sl_ids_push(&ids, id), 0);
        }
        check_decode(f.t, &ids, texts[k], n);
        free(ids.data);
    }
    struct sl_buf out;
    struct sl_detok d = {0};
    sl_buf_init(&out, 4); /* too small for what comes: nothing is lost or doubled */
    int32_t first = sl_tokenizer_find(f.t, "\xe4", 1), the = sl_tokenizer_find(f.t, " the", 4);
    assert_int_equal(sl_detok_push(&d, f.t, first, 0, &out), 0);
    assert_int_equal(sl_detok_push(&d, f.t, the, 0, &out), SL_ELIMIT);
    assert_true(out.len == 0 && d.n_pending == 1);
    assert_int_equal(sl_detok_push(&d, f.t, 2, 0, &out),
                     0); /* hidden, and does not touch what waits */
    assert_true(out.len == 0 && d.n_pending == 1);
    assert_int_equal(sl_detok_push(&d, f.t, 1 << 30, 0, &out), 0);
    assert_int_equal(sl_detok_finish(&d, &out), 0);
    assert_string_equal(sl_buf_str(&out), "\xef\xbf\xbd");
    sl_buf_close(&out);
    close_file(&f);
}

/* Tokens cut through characters anywhere, also long ones (literal tokens may hold any bytes). */
static void test_detok_long_tokens(void **state)
{
    (void)state;
    static const char *const tokens[] = {
        "\xf0",  "\x9f\x98\x80x\xe4", "\xb8\xad\xf0\x9f", "\x98\x80\xe4\xb8",
        "x\xc3", "\xa9\xa9\xc3"};
    static const int types[SL_ARRAY_LEN(tokens)] = {4, 4, 4, 4, 4, 4};
    struct blob b;
    struct fixture f;
    struct sl_err err;
    memset(&b, 0, sizeof b);
    put_text(&b, "tokenizer.ggml.model", "gpt2");
    put_strings(&b, TOKENS, tokens, SL_ARRAY_LEN(tokens));
    put_ints(&b, TYPES, types, SL_ARRAY_LEN(tokens));
    put_strings(&b, MERGES, NULL, 0);
    if (open_blob(&b, &f, &err) != 0) fail_msg("%s", err.msg);
    uint64_t x = 1;
    for (int k = 0; k < 2000; k++) {
        char text[128] = "";
        struct sl_ids ids = {0};
        for (size_t i = 0; i < 12; i++) {
            /* half of the time the order in which they make characters */
            size_t id = k % 2 ? i % SL_ARRAY_LEN(tokens) : (x = sl_mix64(x)) % SL_ARRAY_LEN(tokens);
            strcat(text, tokens[id]);
            assert_int_equal(sl_ids_push(&ids, (int32_t)id), 0);
        }
        check_decode(f.t, &ids, text, strlen(text));
        free(ids.data);
    }
    close_file(&f);
}

/* Without an argument what needs no data; else the kind of data: each is a ctest that is skipped
 * without them. */
int main(int argc, char **argv)
{
    const struct CMUnitTest own[] = {
        cmocka_unit_test(test_toy),
        cmocka_unit_test(test_bos),
        cmocka_unit_test(test_merging_against_plain),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_detok),
        cmocka_unit_test(test_odd_tokens),
        cmocka_unit_test(test_detok_long_tokens),
    };
    const struct CMUnitTest smollm2[] = {
        cmocka_unit_test(test_smollm2),
        cmocka_unit_test(test_hostile_smollm2),
    };
    const struct CMUnitTest vocabularies[] = {
        cmocka_unit_test(test_gpt2),   cmocka_unit_test(test_llama3),
        cmocka_unit_test(test_qwen2),  cmocka_unit_test(test_deepseek),
        cmocka_unit_test(test_llama2), cmocka_unit_test(test_hostile_texts),
    };
    int failed;
    if (argc < 2)
        failed = cmocka_run_group_tests(own, NULL, NULL);
    else if (strcmp(argv[1], "smollm2") == 0)
        failed = cmocka_run_group_tests(smollm2, NULL, NULL);
    else
        failed = cmocka_run_group_tests(vocabularies, NULL, NULL);
    return failed ? failed : n_skipped ? SKIPPED : 0;
}
