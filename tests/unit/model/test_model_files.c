/* test_model_files.c - real files: the tiny models in every format, the vocabularies, and SmolLM2.
 * The argument says which; absent data is status 77 (skipped). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/env.h"
#include "model/config.h"

#define SKIPPED 77
#define SMOLLM2 "SmolLM2-135M-Instruct.Q4_1.gguf"

static glob_t files;
static char smollm2[512];

static const char *base_name(const char *path)
{
    return strrchr(path, '/') + 1;
}

/* Formats of the tiny models that have no row in base/dtype.h. */
static int is_unknown_format(const char *file)
{
    static const char *const names[] = {"Q2_K", "Q3_K", "IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char want[64];
        snprintf(want, sizeof want, "llama-%s.gguf", names[i]);
        if (strcmp(file, want) == 0 && sl_dtype_from_name(names[i]) < 0) return 1;
    }
    return 0;
}

static void reads_all_formats(void **state)
{
    (void)state;
    for (size_t i = 0; i < files.gl_pathc; i++) {
        const char *path = files.gl_pathv[i], *file = base_name(path);
        struct sl_weights *w;
        struct sl_config c;
        struct sl_err err = {0};
        if (sl_weights_open(path, &w, &err) != 0 || sl_config_read(w, &c, &err) != 0)
            fail_msg("%s", err.msg);
        assert_string_equal(c.arch, "llama");
        assert_string_equal(c.name, "tiny llama (random weights)");
        assert_int_equal(c.n_layers, 2);
        assert_int_equal(c.n_embd, 256);
        assert_int_equal(c.n_vocab, 512);
        assert_int_equal(c.head_dim, 64);
        assert_true(c.rope_base == 500000);
        assert_false(c.tied);
        uint64_t bytes, embed, head;
        int r = sl_config_layer_bytes(w, &c, 1, &bytes, &err);
        if (is_unknown_format(file)) {
            char format[32];
            snprintf(format, sizeof format, "%.*s", (int)(strlen(file) - strlen("llama-.gguf")),
                     file + strlen("llama-"));
            assert_int_equal(r, SL_EUNSUPPORTED);
            if (!strstr(err.msg, format)) fail_msg("%s: %s", file, err.msg);
        } else {
            if (r) fail_msg("%s", err.msg);
            assert_int_equal(sl_config_edge_bytes(w, &c, &embed, &head, &err), 0);
            uint64_t sum = bytes + embed + head, size = 0;
            r = sl_config_layer_bytes(w, &c, 0, &bytes, &err);
            assert_int_equal(r, 0);
            for (size_t j = 0; j < sl_weights_count(w); j++) size += sl_weights_at(w, j)->bytes;
            assert_int_equal(sum + bytes + 128, size); /* all but rope_freqs */
        }
        const struct sl_tensor *t;
        assert_int_equal(sl_config_tensor(w, &c, SL_ROLE_ROPE_FREQS, 0, &t, &err), 0);
        const float *f = sl_weights_map(w, t, &err);
        assert_non_null(f);
        assert_true(f[0] >= 1 && f[31] >= 1);
        sl_weights_close(w);
    }
}

static void opens_vocabularies(void **state)
{
    (void)state;
    for (size_t i = 0; i < files.gl_pathc; i++) {
        struct sl_weights *w;
        struct sl_err err = {0};
        if (sl_weights_open(files.gl_pathv[i], &w, &err) != 0) fail_msg("%s", err.msg);
        assert_int_equal(sl_weights_count(w), 0);
        const struct sl_meta *tokens = sl_weights_meta(w, "tokenizer.ggml.tokens");
        assert_non_null(tokens);
        assert_int_equal(tokens->elem, SL_META_STRING);
        assert_true(tokens->len >= 32000);
        size_t bytes = 0;
        for (size_t j = 0; j < tokens->len; j++) bytes += sl_meta_at(tokens, j).len;
        assert_true(bytes > tokens->len);
        struct sl_config c;
        int r = sl_config_read(w, &c, &err); /* no tensors, no model */
        assert_int_equal(r, strstr(files.gl_pathv[i], "gpt-2") ? SL_EUNSUPPORTED : SL_EINPUT);
        sl_weights_close(w);
    }
}

static void reads_smollm2(void **state)
{
    (void)state;
    struct sl_weights *w;
    struct sl_config c;
    struct sl_err err = {0};
    if (sl_weights_open(smollm2, &w, &err) != 0 || sl_config_read(w, &c, &err) != 0)
        fail_msg("%s", err.msg);
    assert_int_equal(sl_weights_count(w), 272);
    assert_int_equal(sl_weights_meta_count(w), 33);
    assert_string_equal(c.arch, "llama");
    assert_int_equal(c.n_layers, 30);
    assert_int_equal(c.n_embd, 576);
    assert_int_equal(c.n_heads, 9);
    assert_int_equal(c.n_kv_heads, 3);
    assert_int_equal(c.head_dim, 64);
    assert_int_equal(c.n_ff, 1536);
    assert_int_equal(c.n_vocab, 49152);
    assert_int_equal(c.n_ctx_train, 8192);
    assert_int_equal(c.rope_dims, 64);
    assert_int_equal(c.rope, SL_ROPE_NORM);
    assert_true(c.rope_base == 100000 && c.rope_scale == 1 && c.rms_eps == 1e-5f);
    assert_true(c.tied && !c.qkv_bias);
    uint64_t layers = 0, bytes, embed, head;
    for (int i = 0; i < c.n_layers; i++) {
        assert_int_equal(sl_config_layer_bytes(w, &c, i, &bytes, &err), 0);
        layers += bytes;
    }
    assert_int_equal(sl_config_edge_bytes(w, &c, &embed, &head, &err), 0);
    assert_int_equal(embed, 49152ull * 576 / 32 * 34);
    assert_int_equal(head, embed + 576 * 4);
    const struct sl_tensor *last = sl_weights_at(w, 271);
    assert_string_equal(last->name, "output_norm.weight");
    assert_int_equal(layers + embed + 576 * 4,
                     last->offset + last->bytes - sl_weights_at(w, 0)->offset);
    sl_weights_close(w);
}

static int find_smollm2(void)
{
    const char *path = sl_env_get("SLUICE_MODEL_SMOLLM2"), *cache = sl_env_get("XDG_CACHE_HOME");
    const char *home = sl_env_get("HOME");
    if (path)
        snprintf(smollm2, sizeof smollm2, "%s", path);
    else if (cache)
        snprintf(smollm2, sizeof smollm2, "%s/sluice/" SMOLLM2, cache);
    else
        snprintf(smollm2, sizeof smollm2, "%s/.cache/sluice/" SMOLLM2, home ? home : "");
    return access(smollm2, R_OK) == 0;
}

int main(int argc, char **argv)
{
    const char *which = argc > 1 ? argv[1] : "smollm2";
    const struct CMUnitTest formats[] = {cmocka_unit_test(reads_all_formats)};
    const struct CMUnitTest vocabularies[] = {cmocka_unit_test(opens_vocabularies)};
    const struct CMUnitTest model[] = {cmocka_unit_test(reads_smollm2)};
    if (strcmp(which, "smollm2") == 0)
        return find_smollm2() ? cmocka_run_group_tests(model, NULL, NULL) : SKIPPED;
    int is_formats = strcmp(which, "formats") == 0;
    const char *pattern = is_formats ? SLUICE_SHARED "/data/models/gguf/*.gguf"
                                     : SLUICE_SHARED "/data/tokenizers/*.gguf";
    if (glob(pattern, 0, NULL, &files) != 0) return SKIPPED;
    int r = is_formats ? cmocka_run_group_tests(formats, NULL, NULL)
                       : cmocka_run_group_tests(vocabularies, NULL, NULL);
    globfree(&files);
    return r;
}
