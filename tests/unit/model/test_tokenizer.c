/* test_tokenizer.c - ids against published vectors, and hostile vocabularies and texts.
 *
 * The vocabularies of real models come from the shared data (skipped when absent); a toy vocabulary
 * built here holds the awkward cases and is compared with a merger that is slow and plain. */
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

/* ---- helpers ---- */

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
    struct sl_detok d = {0};
    char *want = malloc(3 * n + 1);
    sl_buf_init(&out, 4 * n + 64);
    size_t pos = 0, shown = 0;
    for (size_t i = 0; i < ids->len; i++) {
        size_t len;
        const char *piece = sl_tokenizer_piece(t, ids->data[i], &len);
        assert_true(len > 0 && pos + len <= n && memcmp(text + pos, piece, len) == 0);
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

/* ---- vectors ---- */

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
    assert_int_equal(sl_tokenizer_find(f.t, " the", 4), encode(f.t, " the", 4, 0).data[0]);
    close_file(&f);
}

/* Texts that a slow tokenizer would need hours for: nothing here measures time, quadratic work
 * would not end. */
static void check_hostile(const struct sl_tokenizer *t, int lossless)
{
    size_t n = 1 << 20;
    char *text = malloc(n + 1);
    static const char *const fill[] = {
        "a",  " ",    "\n",       " \t",          "1",    "'",
        "<",  "<|",   "\xc3\xa9", "\xe4\xb8\xad", "\xff", "\xf0\x9f\x98\x80",
        "x ", " \n ", "\xc2\x85", "!?",           "a1"};
    for (size_t k = 0; k < SL_ARRAY_LEN(fill) + 1; k++) {
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
    static const char *const names[] = {"gpt-2", "llama-bpe", "qwen2", "deepseek-llm"};
    for (size_t i = 0; i < SL_ARRAY_LEN(names); i++) {
        char path[512];
        struct fixture f;
        snprintf(path, sizeof path, DATA "ggml-vocab-%s.gguf", names[i]);
        open_file(&f, path);
        check_hostile(f.t, i < 3); /* DeepSeek's and SmolLM2's vocabularies lack some bytes */
        close_file(&f);
    }
    struct fixture f;
    open_smollm2(&f);
    check_hostile(f.t, 0);
    close_file(&f);
}
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpt2),    cmocka_unit_test(test_llama3),
        cmocka_unit_test(test_qwen2),   cmocka_unit_test(test_deepseek),
        cmocka_unit_test(test_smollm2), cmocka_unit_test(test_hostile_texts),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return failed ? failed : n_skipped ? SKIPPED : 0;
}
