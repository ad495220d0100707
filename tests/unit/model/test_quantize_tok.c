/* test_quantize_tok.c - tokenizers of GGUF files written as tokenizer.json: the same ids for every
 * text of their vectors, and the same bytes back. Files without tensors are enough here.
 *
 * usage: test_quantize_tok; skipped without data. */
#include <glob.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "model/quantize_gguf.h"
#include "model/tokenizer.h"

#define SKIPPED 77
#define FILES_MAX 64
#define SEPARATOR "\n__ggml_vocab_test__\n"

static glob_t files;

static char *read_text(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    size_t n = (size_t)ftell(f);
    rewind(f);
    char *s = malloc(n + 1);
    assert_non_null(s);
    assert_int_equal(fread(s, 1, n, f), n);
    s[n] = 0;
    fclose(f);
    return s;
}

static void compare(const struct sl_tokenizer *a, const struct sl_tokenizer *b, const char *text,
                    size_t n, int flags)
{
    struct sl_ids x = {0}, y = {0};
    struct sl_err err = {0};
    assert_int_equal(sl_tokenizer_encode(a, text, n, flags, &x, &err), 0);
    assert_int_equal(sl_tokenizer_encode(b, text, n, flags, &y, &err), 0);
    if (x.len != y.len || (x.len && memcmp(x.data, y.data, x.len * sizeof *x.data) != 0))
        fail_msg("'%.*s': %zu ids from the file, %zu from tokenizer.json, or others", (int)n, text,
                 x.len, y.len);
    for (size_t i = 0; i < x.len; i++) {
        size_t p, q;
        const char *s = sl_tokenizer_piece(a, x.data[i], &p);
        const char *t = sl_tokenizer_piece(b, x.data[i], &q);
        assert_true(p == q && memcmp(s, t, p) == 0);
    }
    free(x.data);
    free(y.data);
}

static void test_vocabulary(void **state)
{
    const char *path = *state;
    struct sl_weights *w;
    struct sl_tokenizer *a, *b;
    struct sl_err err = {0};
    struct sl_out_model m = {.c = {.n_ctx_train = 4096}};
    char inputs[512];
    if (sl_weights_open(path, &w, &err)) fail_msg("%s", err.msg);
    if (sl_tokenizer_open(w, &a, &err)) { /* not one of ours: no more is asked of it here */
        sl_weights_close(w);
        skip();
    }
    int r = sl_out_model_tokenizer(w, &m, &err);
    if (r == SL_EUNSUPPORTED) {
        print_message("%s\n", err.msg);
        assert_null(strstr(err.msg, "another way"));
    } else {
        if (r) fail_msg("%s", err.msg);
        struct sl_tokenizer_json in = {.tokenizer = m.files[SL_OUT_TOKENIZER],
                                       .config = m.files[SL_OUT_TOKENIZER_CONFIG]};
        if (sl_tokenizer_open_json("written", &in, &b, &err)) fail_msg("%s", err.msg);
        assert_int_equal(sl_tokenizer_size(a), sl_tokenizer_size(b));
        assert_int_equal(sl_tokenizer_bos(a), sl_tokenizer_bos(b));
        assert_int_equal(sl_tokenizer_eos(a), sl_tokenizer_eos(b));
        snprintf(inputs, sizeof inputs, "%s.inp", path);
        char *text = read_text(inputs);
        for (char *s = text, *end; s && *s; s = end ? end + strlen(SEPARATOR) : NULL) {
            end = strstr(s, SEPARATOR);
            size_t n = end ? (size_t)(end - s) : strlen(s);
            compare(a, b, s, n, SL_TOK_BOS);
            compare(a, b, s, n, SL_TOK_SPECIAL);
        }
        free(text);
        sl_tokenizer_close(b);
    }
    sl_out_model_close(&m);
    sl_tokenizer_close(a);
    sl_weights_close(w);
}

int main(void)
{
    static struct CMUnitTest tests[FILES_MAX];
    size_t n = 0;
    if (glob(SLUICE_SHARED "/data/tokenizers/*.gguf", 0, NULL, &files) != 0) return SKIPPED;
    for (; n < files.gl_pathc && n < FILES_MAX; n++) {
        const char *name = strrchr(files.gl_pathv[n], '/') + 1;
        tests[n] = (struct CMUnitTest){
            .name = name, .test_func = test_vocabulary, .initial_state = files.gl_pathv[n]};
    }
    int r = _cmocka_run_group_tests("quantize_tok", tests, n, NULL, NULL);
    globfree(&files);
    return r;
}
