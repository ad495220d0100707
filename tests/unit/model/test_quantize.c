/* test_quantize.c - folders written in every format and read back: values as near as the format
 * allows, what must not change is the same bytes, and no half result is ever left. */
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
#include <jansson.h>
#include <math.h>

#include "kernels/kernels.h"
#include "model/linear.h"
#include "model/quantize.h"
#include "tests/lib/hf_writer.h"

#define N 48
#define K 96
#define LAYER "model.layers.0.mlp.up_proj"

static float chance(void)
{
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / 0x1p23f - 1;
}

static float values[N * K];

/* A model with everything that is treated in its own way. */
static char *make_model(const char *dtype)
{
    static const struct {
        const char *name;
        int64_t shape[2];
    } tensors[] = {
        {"model.embed_tokens.weight", {16, K}},
        {LAYER ".weight", {N, K}},
        {"model.layers.0.self_attn.q_proj.weight", {N, 40}}, /* no group divides 40 but 8 */
        {"model.layers.0.mlp.gate.weight", {4, K}},
        {"model.layers.0.input_layernorm.weight", {K, 0}},
        {"lm_head.weight", {16, K}},
    };
    static float data[N * K];
    struct hf_writer f;
    char *dir = hf_folder();
    hf_init(&f);
    for (int i = 0; i < N * K; i++) {
        uint32_t u;
        values[i] = chance() * 0.05f;
        memcpy(&u, &values[i], 4);
        u &= 0xffff0000; /* exact in BF16 */
        memcpy(&values[i], &u, 4);
        memcpy(&data[i], &u, 4);
    }
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        int rank = tensors[i].shape[1] ? 2 : 1;
        size_t n = (size_t)(tensors[i].shape[0] * (rank == 2 ? tensors[i].shape[1] : 1));
        hf_tensor(&f, tensors[i].name, dtype, rank, tensors[i].shape, data, n * 4);
    }
    assert_int_equal(hf_save(&f, dir, "model.safetensors"), 0);
    hf_close(&f);
    hf_text(dir, "config.json",
            "{\"model_type\":\"llama\",\"torch_dtype\":\"float32\",\"hidden_size\":96}");
    hf_text(dir, "tokenizer.json", "{\"x\":1}");
    hf_text(dir, "chat_template.jinja", "{{ x }}");
    hf_text(dir, "README.md", "not copied");
    return dir;
}

static int quantize(const char *dir, const char *out, enum sl_quantize_to to, uint64_t shard,
                    struct sl_err *err)
{
    struct sl_weights *w;
    struct sl_quantize q = {.to = to, .shard_bytes = shard, .row = sl_matrix_row};
    struct sl_quantize_result result;
    int r = sl_weights_open(dir, &w, err);
    if (r) return r;
    r = sl_quantize(w, out, &q, &result, err);
    sl_weights_close(w);
    return r;
}

static char *out_name(const char *dir)
{
    char *out = malloc(strlen(dir) + 8);
    sprintf(out, "%s-out", dir);
    return out;
}

static const double error_max[SL_TO_COUNT] = {0, 0.0322, 0.12, 0.13, 0.005, 0.07};

/* Root mean square error of the layer, relative. */
static double error_of(struct sl_weights *w)
{
    struct sl_linear l;
    struct sl_err err;
    float row[K];
    double e = 0, s = 0;
    if (sl_linear_open(w, LAYER, -1, 0, N, K, &l, &err)) fail_msg("%s", err.msg);
    for (int n = 0; n < N; n++) {
        sl_matrix_row(&l.m, n, row);
        for (int k = 0; k < K; k++) {
            double d = (double)row[k] - (double)values[n * K + k];
            e += d * d;
            s += (double)values[n * K + k] * (double)values[n * K + k];
        }
    }
    sl_linear_close(w, &l);
    return sqrt(e / s);
}

static int exists(const char *dir, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return access(path, F_OK) == 0;
}

static void every_format(void **state)
{
    (void)state;
    for (int to = 0; to < SL_TO_COUNT; to++)
        for (uint64_t shard = 0; shard < 10000; shard += 5000) { /* one file, and several */
            char *dir = make_model("F32"), *out = out_name(dir);
            struct sl_weights *w;
            struct sl_err err = {0};
            if (quantize(dir, out, (enum sl_quantize_to)to, shard, &err)) fail_msg("%s", err.msg);
            if (sl_weights_open(out, &w, &err)) fail_msg("%s", err.msg);
            assert_true(error_of(w) <= error_max[to]);
            assert_int_equal(exists(out, "model.safetensors.index.json"), shard != 0);
            assert_true(exists(out, "tokenizer.json") && exists(out, "chat_template.jinja"));
            assert_false(exists(out, "README.md"));
            /* what is not a layer keeps type and bytes; a row of 40 has no groups of 16 or 32 */
            const struct sl_tensor *t = sl_weights_find(w, "lm_head.weight");
            assert_true(t && t->type == SL_F32);
            assert_memory_equal(sl_weights_map(w, t, &err), values, 16 * K * 4);
            assert_non_null(sl_weights_find(w, "model.layers.0.mlp.gate.weight"));
            t = sl_weights_find(w, "model.layers.0.self_attn.q_proj.weight");
            assert_true(t && t->type == (to == SL_TO_FP8 ? SL_F8_E4M3 : SL_BF16));
            for (size_t i = 0; i < sl_weights_count(w); i++) /* all lie at their alignment */
                assert_int_equal(sl_weights_at(w, i)->offset %
                                     (uint64_t)sl_dtype_block_bytes(sl_weights_at(w, i)->type),
                                 0);
            const json_t *c = sl_weights_json(w, SL_JSON_CONFIG);
            const json_t *q = json_object_get(c, "quantization_config");
            assert_int_equal(q != NULL, to != SL_TO_BF16);
            assert_int_equal(json_integer_value(json_object_get(c, "hidden_size")), 96);
            if (q) {
                const json_t *ignore = json_object_get(q, "ignore");
                assert_int_equal(json_array_size(ignore), to == SL_TO_FP8 ? 2 : 3);
            }
            sl_weights_close(w);
            hf_folder_remove(out);
            hf_folder_remove(dir);
            free(out);
            free(dir);
        }
}

/* A quantized model can be turned into another format; twice the same gives the same bytes. */
static void again(void **state)
{
    (void)state;
    char *dir = make_model("F32"), *fp8 = out_name(dir), *bf16 = out_name(fp8);
    struct sl_weights *w;
    struct sl_err err = {0};
    if (quantize(dir, fp8, SL_TO_FP8, 0, &err)) fail_msg("%s", err.msg);
    if (quantize(fp8, bf16, SL_TO_BF16, 0, &err)) fail_msg("%s", err.msg);
    if (sl_weights_open(bf16, &w, &err)) fail_msg("%s", err.msg);
    assert_string_equal(sl_linear_scheme(w), "none");
    assert_true(error_of(w) <= error_max[SL_TO_FP8] + 0.004);
    assert_null(sl_weights_find(w, LAYER ".weight_scale"));
    sl_weights_close(w);
    hf_folder_remove(dir);
    hf_folder_remove(fp8);
    hf_folder_remove(bf16);
    free(dir);
    free(fp8);
    free(bf16);
}

/* Whatever goes wrong, neither the result nor its unfinished folder is there. */
static void leaves_nothing(void **state)
{
    (void)state;
    char *dir = make_model("F32"), *out = out_name(dir), part[512];
    struct sl_err err = {0};
    struct hf_writer f;
    float bad[N * K] = {0};
    snprintf(part, sizeof part, "%s.part", out);
    bad[5 * K + 7] = INFINITY;
    hf_init(&f);
    hf_tensor(&f, LAYER ".weight", "F32", 2, (int64_t[]){N, K}, bad, sizeof bad);
    assert_int_equal(hf_save(&f, dir, "model.safetensors"), 0);
    hf_close(&f);
    assert_int_equal(quantize(dir, out, SL_TO_NVFP4, 0, &err), SL_EINPUT);
    assert_non_null(strstr(err.msg, "layer " LAYER ": element [5, 7] is not finite"));
    assert_true(access(out, F_OK) != 0 && access(part, F_OK) != 0);
    /* the result exists; or an unfinished one */
    assert_int_equal(quantize(dir, dir, SL_TO_FP8, 0, &err), SL_EINPUT);
    assert_non_null(strstr(err.msg, "exists already"));
    assert_int_equal(mkdir(part, 0700), 0);
    assert_int_equal(quantize(dir, out, SL_TO_FP8, 0, &err), SL_EINPUT);
    assert_non_null(strstr(err.msg, "an earlier run left it"));
    assert_int_equal(access(part, F_OK), 0);
    rmdir(part);
    assert_int_equal(quantize(dir, "/absent/folder/out", SL_TO_FP8, 0, &err), SL_EIO);
    hf_folder_remove(dir);
    free(out);
    free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format),
        cmocka_unit_test(again),
        cmocka_unit_test(leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
