/* test_config_hf.c - configurations of Hugging Face folders: spellings of both major versions of
 * transformers, and every refusal by name. The folders are written here, one layer of zeros. */
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

#include "base/sl_assert.h"
#include "model/config.h"

#define FOLDER_MAX 64
#define HEAD_MAX 8192

static char folder[FOLDER_MAX];

struct shape {
    const char *name;
    int rows, cols; /* cols 0: a vector */
};

/* Hidden 8, 2 heads of 4, 1 KV head, feed-forward 16, vocabulary 4. */
static const struct shape llama[] = {
    {"model.embed_tokens.weight", 4, 8},
    {"model.norm.weight", 8, 0},
    {"lm_head.weight", 4, 8},
    {"model.layers.0.input_layernorm.weight", 8, 0},
    {"model.layers.0.post_attention_layernorm.weight", 8, 0},
    {"model.layers.0.self_attn.q_proj.weight", 8, 8},
    {"model.layers.0.self_attn.k_proj.weight", 4, 8},
    {"model.layers.0.self_attn.v_proj.weight", 4, 8},
    {"model.layers.0.self_attn.o_proj.weight", 8, 8},
    {"model.layers.0.mlp.gate_proj.weight", 16, 8},
    {"model.layers.0.mlp.up_proj.weight", 16, 8},
    {"model.layers.0.mlp.down_proj.weight", 8, 16},
};

static const char base[] =
    "{'architectures':['LlamaForCausalLM'],'model_type':'llama','hidden_size':8,"
    "'num_attention_heads':2,'num_key_value_heads':1,'num_hidden_layers':1,"
    "'intermediate_size':16,'vocab_size':4,'max_position_embeddings':64,'rms_norm_eps':1e-5,"
    "'torch_dtype':'bfloat16','use_cache':true,'_note':7}";

/* JSON with ' for ". */
static json_t *parse(const char *text)
{
    char copy[2048];
    json_error_t e;
    snprintf(copy, sizeof copy, "%s", text);
    for (char *p = copy; *p; p++)
        if (*p == '\'') *p = '"';
    json_t *j = json_loads(copy, JSON_DECODE_ANY, &e);
    if (!j) fail_msg("%s: %s", text, e.text);
    return j;
}

static void path_of(const char *file, char out[FOLDER_MAX + 32])
{
    snprintf(out, FOLDER_MAX + 32, "%s/%s", folder, file);
}

/* All tensors of `llama` but one, and perhaps another, as float32 zeros. */
static void write_weights(const char *without, const struct shape *extra)
{
    char head[HEAD_MAX] = "{", path[FOLDER_MAX + 32];
    size_t n = 1, data = 0, count = SL_ARRAY_LEN(llama) + (extra != NULL);
    for (size_t i = 0; i < count; i++) {
        const struct shape *t = i < SL_ARRAY_LEN(llama) ? &llama[i] : extra;
        if (without && strcmp(without, t->name) == 0) continue;
        size_t bytes = (size_t)t->rows * (size_t)(t->cols ? t->cols : 1) * 4;
        char dims[32];
        snprintf(dims, sizeof dims, t->cols ? "%d,%d" : "%d", t->rows, t->cols);
        n += (size_t)snprintf(
            head + n, sizeof head - n,
            "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
            n > 1 ? "," : "", t->name, dims, data, data + bytes);
        data += bytes;
    }
    n += (size_t)snprintf(head + n, sizeof head - n, "}");
    assert_true(n < sizeof head);
    uint64_t len = n;
    path_of("model.safetensors", path);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(&len, 8, 1, f), 1);
    assert_int_equal(fwrite(head, 1, n, f), n);
    for (size_t i = 0; i < data; i++) fputc(0, f);
    assert_int_equal(fclose(f), 0);
}

/* Writes config.json and reads it back with the weights there. */
static int read_config(const json_t *j, struct sl_config *c, struct sl_err *err)
{
    char path[FOLDER_MAX + 32];
    struct sl_weights *w = NULL;
    path_of("config.json", path);
    assert_int_equal(json_dump_file(j, path, 0), 0);
    int r = sl_weights_open(folder, &w, err);
    if (r) fail_msg("%s", err->msg);
    r = sl_config_read(w, c, err);
    sl_weights_close(w);
    return r;
}

struct row {
    const char *key, *value; /* put into the configuration; value NULL: taken out */
    int code;
    const char *says;
};

static const struct row rows[] = {
    /* understood, or harmless */
    {"rope_scaling", "null", 0, NULL},
    {"rope_parameters", "{'rope_type':'default','rope_theta':5e5}", 0, NULL},
    {"rope_scaling", "{'type':'linear','factor':2.0}", 0, NULL},
    {"rope_scaling", "{'rope_type':'dynamic','factor':2.0}", 0, NULL},
    {"hidden_act", "'silu'", 0, NULL},
    {"some_new_switch", "false", 0, NULL},
    {"some_new_list", "[]", 0, NULL},
    {"quantization_config", "{}", 0, NULL},
    {"num_key_value_heads", "1.0", 0, NULL},
    {"architectures", "null", 0, NULL},
    /* what we do not run */
    {"some_new_switch", "true", SL_EUNSUPPORTED, "key some_new_switch: a 'llama' model"},
    {"some_new_number", "3", SL_EUNSUPPORTED, "key some_new_number: "},
    {"some_new_object", "{'a':1}", SL_EUNSUPPORTED, "key some_new_object: "},
    {"hidden_act", "'relu2'", SL_EUNSUPPORTED, "key hidden_act: the activation 'relu2'"},
    {"rope_scaling", "{'type':'ntk','factor':2.0}", SL_EUNSUPPORTED, "'ntk' scaling"},
    {"rope_scaling", "{'type':'linear','factor':2.0,'secret':4}", SL_EUNSUPPORTED, "key secret: "},
    {"sliding_window", "8", SL_EUNSUPPORTED, "key sliding_window: "},
    {"model_type", "'lamma'", SL_EUNSUPPORTED,
     "architecture 'lamma' is not run here; known: llama, mistral"},
    {"model_type", "'qwen3_next'", SL_EUNSUPPORTED, "known: llama, mistral"},
    {"architectures", "['LlamaForSequenceClassification']", SL_EUNSUPPORTED,
     "a LlamaForSequenceClassification does not continue text"},
    /* what cannot be */
    {"model_type", "7", SL_EUNSUPPORTED, "architecture 'LlamaForCausalLM'"},
    {"hidden_size", NULL, SL_EINPUT, "key hidden_size is missing; download config.json again"},
    {"hidden_size", "'8'", SL_EINPUT, "key hidden_size should be an integer"},
    {"hidden_size", "8.5", SL_EINPUT, "key hidden_size should be an integer"},
    {"hidden_size", "1e300", SL_EINPUT, "key hidden_size should be an integer"},
    {"hidden_size", "16", SL_EINPUT, "the metadata want"},
    {"num_hidden_layers", "2", SL_EINPUT,
     "tensor model.layers.1.input_layernorm.weight is missing"},
    {"num_hidden_layers", "100000", SL_EINPUT, "key num_hidden_layers should be"},
    {"num_attention_heads", "3", SL_EINPUT, "3 heads do not divide 8 elements"},
    {"num_key_value_heads", "[1]", SL_EINPUT, "key num_key_value_heads should be an integer"},
    {"head_dim", "5", SL_EUNSUPPORTED, "heads of 5 elements"},
    {"vocab_size", "5", SL_EINPUT, "4 rows for a vocabulary of 5"},
    {"rms_norm_eps", "-1", SL_EINPUT, "key rms_norm_eps is -1"},
    {"attention_bias", "true", SL_EINPUT, "tensor model.layers.0.self_attn.q_proj.bias is missing"},
    {"attention_bias", "'yes'", SL_EINPUT, "key attention_bias should be true or false"},
    {"rope_scaling", "{'rope_type':'llama3','factor':8.0}", SL_EINPUT,
     "key low_freq_factor is missing"},
    {"rope_scaling", "{'rope_type':'llama3','factor':8.0,'low_freq_factor':4,'high_freq_factor':1}",
     SL_EINPUT, "high_freq_factor should be above"},
    {"rope_scaling", "{'rope_type':'longrope','short_factor':[1],'long_factor':[1,2]}", SL_EINPUT,
     "rope_scaling.short_factor should list 2 numbers"},
    {"rope_scaling", "{'rope_type':'longrope','short_factor':[1,1],'long_factor':[1,0]}", SL_EINPUT,
     "rope_scaling.long_factor: entry 1"},
    {"rope_scaling", "{'rope_type':'yarn','factor':0.5}", SL_EINPUT, "key factor is 0.5"},
    {"partial_rotary_factor", "0.1", SL_EINPUT, "0 of 4 elements cannot rotate"},
    {"rope_theta", "0", SL_EINPUT, "key rope_theta is 0"},
};

static void checks_rows(void **state)
{
    (void)state;
    static struct sl_config c;
    write_weights(NULL, NULL);
    for (size_t i = 0; i < SL_ARRAY_LEN(rows); i++) {
        const struct row *v = &rows[i];
        struct sl_err err = {0};
        json_t *j = parse(base);
        if (v->value)
            json_object_set_new(j, v->key, parse(v->value));
        else
            json_object_del(j, v->key);
        int r = read_config(j, &c, &err);
        if (r != v->code || (v->says && !strstr(err.msg, v->says)))
            fail_msg("row %zu (%s): got %d '%s', wanted %d '%s'", i, v->key, r, err.msg, v->code,
                     v->says ? v->says : "");
        json_decref(j);
    }
}

static void checks_tensors(void **state)
{
    (void)state;
    static const struct {
        const char *without;
        struct shape extra;
        int code;
        const char *says;
    } cases[] = {
        {NULL, {"model.layers.0.self_attn.rotary_emb.inv_freq", 2, 0}, 0, NULL},
        {"lm_head.weight", {NULL, 0, 0}, 0, NULL}, /* not said: tied */
        {NULL,
         {"model.layers.0.self_attn.q_norm.weight", 4, 0},
         SL_EUNSUPPORTED,
         "tensor model.layers.0.self_attn.q_norm.weight: "},
        {NULL,
         {"model.layers.1.input_layernorm.weight", 8, 0},
         SL_EUNSUPPORTED,
         "tensor model.layers.1.input_layernorm.weight: "},
        {NULL, {"vision_tower.x", 8, 0}, SL_EUNSUPPORTED, "tensor vision_tower.x: "},
        {"model.norm.weight", {NULL, 0, 0}, SL_EINPUT, "tensor model.norm.weight is missing"},
        {"model.embed_tokens.weight",
         {NULL, 0, 0},
         SL_EINPUT,
         "tensor model.embed_tokens.weight is missing"},
        {"model.layers.0.mlp.up_proj.weight",
         {"model.layers.0.mlp.up_proj.weight ", 16, 8},
         SL_EINPUT,
         "tensor model.layers.0.mlp.up_proj.weight is missing"},
    };
    static struct sl_config c;
    for (size_t i = 0; i < SL_ARRAY_LEN(cases); i++) {
        struct sl_err err = {0};
        json_t *j = parse(base);
        write_weights(cases[i].without, cases[i].extra.name ? &cases[i].extra : NULL);
        int r = read_config(j, &c, &err);
        if (r != cases[i].code || (cases[i].says && !strstr(err.msg, cases[i].says)))
            fail_msg("case %zu: got %d '%s'", i, r, err.msg);
        if (cases[i].without && r == 0) assert_true(c.tied);
        json_decref(j);
    }
}

static void reads_both_spellings(void **state)
{
    (void)state;
    static struct sl_config c;
    struct sl_err err = {0};
    write_weights(NULL, NULL);
    json_t *j = parse(base);
    json_object_set_new(j, "rope_theta", json_integer(1000000));
    json_object_set_new(j, "rope_scaling",
                        parse("{'type':'yarn','factor':4,'original_max_position_embeddings':16}"));
    assert_int_equal(read_config(j, &c, &err), 0);
    const struct sl_rope_spec old = c.ropes[0];
    json_object_del(j, "rope_theta");
    json_object_del(j, "rope_scaling");
    json_object_del(j, "torch_dtype");
    json_object_set_new(j, "dtype", json_string("bfloat16"));
    json_object_set_new(j, "rope_parameters",
                        parse("{'rope_type':'yarn','factor':4.0,'rope_theta':1e6,"
                              "'original_max_position_embeddings':16}"));
    assert_int_equal(read_config(j, &c, &err), 0);
    assert_memory_equal(&old, &c.ropes[0], sizeof old);
    assert_int_equal(old.scaling, SL_ROPE_YARN);
    assert_int_equal(old.n_ctx_orig, 16);
    assert_true(old.base == 1e6f && old.factor == 4 && old.truncate);
    assert_true(old.magnitude > 1.1386f && old.magnitude < 1.1387f); /* 0.1 ln 4 + 1 */
    assert_true(c.hf && !c.tied && c.rope == SL_ROPE_NEOX);
    json_object_set_new(j, "rope_parameters", parse("{'rope_type':'dynamic','factor':2.0}"));
    assert_int_equal(read_config(j, &c, &err), 0);
    assert_int_equal(c.n_ctx_limit, 64);
    json_decref(j);
}

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/sluice-config-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    char path[FOLDER_MAX + 32];
    (void)state;
    path_of("config.json", path);
    unlink(path);
    path_of("model.safetensors", path);
    unlink(path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checks_rows),
        cmocka_unit_test(checks_tensors),
        cmocka_unit_test(reads_both_spellings),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
