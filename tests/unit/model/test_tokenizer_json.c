/* test_tokenizer_json.c - tokenizer.json and tokenizer.model against what HF tokenizers and
 * SentencePiece make of them (tests/golden/make_tokenizers.py): ids with special tokens and
 * without, what is put around a text, and the text back, streamed. */
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

#include "base/sl_assert.h"
#include "base/text.h"
#include "model/tokenizer.h"
#include "model/weights.h"

#define DATA SLUICE_GOLDEN "/data/tokenizers/"
#define SKIPPED 77

static int n_skipped;

static json_t *load(const char *path)
{
    json_error_t je;
    json_t *v = json_load_file(path, JSON_ALLOW_NUL | JSON_DECODE_ANY, &je);
    if (!v) fail_msg("%s: %s", path, je.text);
    return v;
}

static struct sl_tokenizer *open_json(const char *path)
{
    struct sl_tokenizer *t;
    struct sl_err err;
    json_t *v = load(path);
    struct sl_tokenizer_json in = {.tokenizer = v};
    if (sl_tokenizer_open_json(path, &in, &t, &err) != 0) fail_msg("%s", err.msg);
    json_decref(v);
    return t;
}

static struct sl_tokenizer *open_model(const char *path)
{
    struct sl_tokenizer *t;
    struct sl_err err;
    static char data[1 << 20];
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(data, 1, sizeof data, f);
    fclose(f);
    if (sl_tokenizer_open_spm(path, data, n, NULL, &t, &err) != 0) fail_msg("%s", err.msg);
    return t;
}

/* ---- comparing ------------------------------------------------------------------------------- */

static void show(const char *what, const int32_t *ids, size_t n)
{
    print_error("%s", what);
    for (size_t i = 0; i < n; i++) print_error(" %d", ids[i]);
    print_error("\n");
}

static int32_t *to_ids(const json_t *v, size_t *n)
{
    int32_t *ids = malloc((json_array_size(v) + 1) * sizeof *ids);
    *n = json_array_size(v);
    for (size_t i = 0; i < *n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(v, i));
    return ids;
}

static int check_ids(const struct sl_tokenizer *t, const char *name, const json_t *text,
                     const json_t *want, int flags, const json_t *before, const json_t *after)
{
    struct sl_ids got = {0};
    struct sl_err err;
    json_t *all = json_array();
    json_array_extend(all, (json_t *)before);
    json_array_extend(all, (json_t *)want);
    json_array_extend(all, (json_t *)after);
    size_t n;
    int32_t *ids = to_ids(all, &n);
    if (sl_tokenizer_encode(t, json_string_value(text), json_string_length(text), flags, &got,
                            &err) != 0)
        fail_msg("%s", err.msg);
    int same = got.len == n && (n == 0 || memcmp(got.data, ids, n * sizeof *ids) == 0);
    if (!same) {
        char *shown = json_dumps(text, JSON_ENCODE_ANY);
        print_error("%s: flags %d, text %s\n", name, flags, shown);
        show("  got ", got.data, got.len);
        show("  want", ids, n);
        free(shown);
    }
    free(got.data);
    free(ids);
    json_decref(all);
    return same;
}

static int check_text(const struct sl_tokenizer *t, const char *name, const json_t *ids,
                      const json_t *want, int special)
{
    struct sl_detok d = {0};
    struct sl_buf out;
    size_t shown = 0;
    sl_buf_init(&out, 1 << 20);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        int32_t id = (int32_t)json_integer_value(json_array_get(ids, i));
        assert_int_equal(sl_detok_push(&d, t, id, special, &out), 0);
        if (out.len > shown)
            assert_int_equal(sl_utf8_whole(out.data + shown, out.len - shown), out.len - shown);
        shown = out.len;
    }
    assert_int_equal(sl_detok_finish(&d, &out), 0);
    int same = out.len == json_string_length(want) &&
               memcmp(sl_buf_str(&out), json_string_value(want), out.len) == 0;
    if (!same)
        print_error("%s: decoded '%s', not '%s'\n", name, sl_buf_str(&out),
                    json_string_value(want));
    sl_buf_close(&out);
    return same;
}

static int check_row(const struct sl_tokenizer *t, const char *name, const json_t *text,
                     const json_t *row, const json_t *around, int all)
{
    const json_t *ids = json_object_get(row, "ids"), *plain = json_object_get(row, "plain");
    const json_t *back = json_object_get(row, "text"), *hidden = json_object_get(row, "hidden");
    const json_t *before = json_object_get(around, "before");
    const json_t *after = json_object_get(around, "after");
    if (json_is_null(ids)) return 1; /* not compared */
    int same = check_ids(t, name, text, ids, all ? SL_TOK_SPECIAL : 0, NULL, NULL);
    if (all) {
        same &= check_ids(t, name, text, ids, SL_TOK_SPECIAL | SL_TOK_BOS, before, after);
        if (!json_is_null(plain))
            same &= check_ids(t, name, text, plain ? plain : ids, 0, NULL, NULL);
        same &= check_text(t, name, ids, hidden ? hidden : back ? back : text, 0);
    }
    return json_is_null(back) ? same : same & check_text(t, name, ids, back ? back : text, 1);
}

/* All the rows of NAME.jsonl; those of SentencePiece know no special tokens in a text. */
static void check_file(const char *name)
{
    char path[1024], line[1 << 16];
    snprintf(path, sizeof path, DATA "%s.model", name);
    FILE *f = fopen(path, "rb"), *texts = fopen(DATA "texts.jsonl", "r");
    int spm = f != NULL;
    if (f) fclose(f);
    snprintf(path, sizeof path, DATA "%s.%s", name, spm ? "model" : "json");
    struct sl_tokenizer *t = spm ? open_model(path) : open_json(path);
    snprintf(path, sizeof path, DATA "%s.jsonl", name);
    f = fopen(path, "r");
    assert_true(f && texts);
    assert_non_null(fgets(line, sizeof line, f));
    json_t *around = json_loads(line, 0, NULL);
    size_t n = 0, bad = 0;
    for (; fgets(line, sizeof line, f); n++) {
        json_t *row = json_loads(line, JSON_ALLOW_NUL, NULL);
        assert_non_null(fgets(line, sizeof line, texts));
        json_t *text = json_loads(line, JSON_ALLOW_NUL | JSON_DECODE_ANY, NULL);
        assert_true(row && text);
        bad += !check_row(t, name, text, row, around, !spm);
        json_decref(row);
        json_decref(text);
    }
    fclose(f);
    fclose(texts);
    json_decref(around);
    sl_tokenizer_close(t);
    assert_true(n >= 100);
    if (bad > 0) fail_msg("%s: %zu of %zu texts differ", name, bad, n);
}

static void test_vectors(void **state)
{
    static const char *const names[] = {
        "gpt2",   "llama3", "qwen2",   "deepseek3",   "deepseek-coder", "o200k",
        "tekken", "smollm", "cl100k",  "falcon",      "roberta",        "bytes-normalizer",
        "added",  "llama2", "mistral", "llama-split", "gemma",          "phi3",
        "legacy", "unk",    "t5",      "bert",        "unigram-bytes",  "words",
        "suffix", "prefix", "spm-bpe", "spm-unigram",
    };
    (void)state;
    const char *only = *state;
    for (size_t i = 0; i < SL_ARRAY_LEN(names); i++)
        if (!only || strcmp(only, names[i]) == 0) check_file(names[i]);
}

/* One model as a folder and as a GGUF file: the same ids and the same ends. */
static void test_sources(void **state)
{
    (void)state;
    char line[1 << 12];
    struct sl_weights *w[2];
    struct sl_tokenizer *t[2];
    struct sl_err err;
    static const char *const paths[] = {SLUICE_SHARED "/data/models/llama",
                                        SLUICE_SHARED "/data/models/gguf/llama-Q8_0.gguf"};
    for (int i = 0; i < 2; i++) {
        if (access(paths[i], R_OK) != 0) {
            n_skipped++;
            skip();
        }
        if (sl_weights_open(paths[i], &w[i], &err) != 0) fail_msg("%s", err.msg);
        if (sl_tokenizer_open(w[i], &t[i], &err) != 0) fail_msg("%s", err.msg);
    }
    assert_int_equal(sl_tokenizer_size(t[0]), sl_tokenizer_size(t[1]));
    assert_int_equal(sl_tokenizer_bos(t[0]), sl_tokenizer_bos(t[1]));
    assert_int_equal(sl_tokenizer_eos(t[0]), sl_tokenizer_eos(t[1]));
    assert_int_equal(sl_tokenizer_adds_bos(t[0]), sl_tokenizer_adds_bos(t[1]));
    for (int id = 0; id < sl_tokenizer_size(t[0]); id++)
        assert_int_equal(sl_tokenizer_is_end(t[0], id), sl_tokenizer_is_end(t[1], id));
    FILE *texts = fopen(DATA "texts.jsonl", "r");
    assert_non_null(texts);
    while (fgets(line, sizeof line, texts)) {
        json_t *text = json_loads(line, JSON_ALLOW_NUL | JSON_DECODE_ANY, NULL);
        for (int flags = 0; flags < 4; flags++) {
            struct sl_ids ids[2] = {{0}, {0}};
            for (int i = 0; i < 2; i++)
                assert_int_equal(sl_tokenizer_encode(t[i], json_string_value(text),
                                                     json_string_length(text), flags, &ids[i],
                                                     &err),
                                 0);
            assert_int_equal(ids[0].len, ids[1].len);
            if (ids[0].len > 0)
                assert_memory_equal(ids[0].data, ids[1].data, ids[0].len * sizeof *ids[0].data);
            free(ids[0].data);
            free(ids[1].data);
        }
        json_decref(text);
    }
    fclose(texts);
    for (int i = 0; i < 2; i++) {
        sl_tokenizer_close(t[i]);
        sl_weights_close(w[i]);
    }
}

/* Without an argument the vectors of this tree; `sources` needs the shared data. */
int main(int argc, char **argv)
{
    const struct CMUnitTest vectors[] = {
        cmocka_unit_test_prestate(test_vectors, argc > 2 ? argv[2] : NULL),
    };
    const struct CMUnitTest sources[] = {
        cmocka_unit_test(test_sources),
    };
    int failed = argc > 1 && strcmp(argv[1], "sources") == 0
                     ? cmocka_run_group_tests(sources, NULL, NULL)
                     : cmocka_run_group_tests(vectors, NULL, NULL);
    return failed ? failed : n_skipped ? SKIPPED : 0;
}
