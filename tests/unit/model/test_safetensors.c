/* test_safetensors.c - safetensors files and Hugging Face folders: what must open, what is mapped,
 * and the one line that each bad one gets. */
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
#include "model/weights.h"
#include "tests/lib/hf_writer.h"

#define MEMORY "small.safetensors"

static void expect(int r, const struct sl_err *err, int code, const char *says)
{
    if (r != code || !strstr(err->msg, says))
        fail_msg("wanted %d \"%s\", got %d \"%s\"", code, says, r, r ? err->msg : "");
    assert_int_equal(err->code, code);
}

/* Opens and closes; the line must be there exactly when it fails. */
static int try_memory(const void *data, size_t n, struct sl_err *err)
{
    struct sl_weights *w = NULL;
    *err = (struct sl_err){0};
    int r = sl_weights_open_memory(MEMORY, data, n, &w, err);
    assert_int_equal(r == 0, w != NULL);
    assert_int_equal(err->code, r);
    assert_int_equal(r == 0, err->msg[0] == 0);
    if (w) {
        volatile unsigned sum = 0;
        for (size_t i = 0; i < sl_weights_count(w); i++) {
            const struct sl_tensor *t = sl_weights_at(w, i);
            const uint8_t *p = sl_weights_map(w, t, err);
            assert_non_null(p);
            for (uint64_t j = 0; j < t->bytes; j++) sum += p[j];
            sl_weights_unmap(w, t);
        }
    }
    sl_weights_close(w);
    return r;
}

static void opens_small_file(void **state)
{
    (void)state;
    struct hf_writer f;
    struct sl_weights *w;
    struct sl_err err = {0};
    size_t n;
    hf_init(&f);
    hf_tensor(&f, "a", "F32", 2, (int64_t[]){2, 3}, (float[]){1, 2, 3, 4, 5, 6}, 24);
    hf_tensor(&f, "scalar", "F32", 0, NULL, (float[]){7}, 4);
    hf_tensor(&f, "empty", "BF16", 2, (int64_t[]){0, 5}, NULL, 0);
    hf_tensor(&f, "packed", "F4", 2, (int64_t[]){2, 8}, NULL, 8);
    hf_tensor(&f, "odd", "F8_E4M3FNUZ", 1, (int64_t[]){3}, NULL, 3);
    hf_tensor(&f, "new", "F5_E2M2", 1, (int64_t[]){8}, NULL, 5);
    uint8_t *file = hf_build(&f, &n);
    hf_close(&f);
    assert_int_equal(sl_weights_open_memory(MEMORY, file, n, &w, &err), 0);
    assert_int_equal(sl_weights_count(w), 6);
    assert_null(sl_weights_dir(w));
    assert_null(sl_weights_json(w, SL_JSON_CONFIG));
    assert_int_equal(sl_weights_meta_count(w), 0);
    const struct sl_tensor *t = sl_weights_find(w, "a");
    assert_non_null(t);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->ne[0], 3); /* the row length comes first */
    assert_int_equal(t->ne[1], 2);
    assert_int_equal(t->ne[2], 1);
    assert_true(t->known && t->type == SL_F32);
    assert_memory_equal(sl_weights_map(w, t, &err), ((float[]){1, 2, 3, 4, 5, 6}), 24);
    assert_true(*(const float *)sl_weights_map(w, sl_weights_find(w, "scalar"), &err) == 7);
    assert_int_equal(sl_weights_find(w, "scalar")->n_dims, 0);
    assert_int_equal(sl_weights_find(w, "empty")->bytes, 0);
    assert_int_equal(sl_weights_find(w, "packed")->ne[0], 8); /* logical elements */
    assert_int_equal(sl_weights_find(w, "odd")->known, 0);
    assert_string_equal(sl_weights_find(w, "odd")->type_name, "F8_E4M3FNUZ");
    assert_int_equal(sl_weights_find(w, "new")->known, 0);
    sl_weights_close(w);
    free(file);
}

/* ---- headers that must be refused ------------------------------------------------------------ */

#define T(dtype, shape, offsets)                                                                   \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define A(rest) "{\"a\":" rest "}"

static void refuses_headers(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        const char *says;
    } bads[] = {
        {"", 0, "does not begin with '{'"},
        {" {}", 0, "does not begin with '{'"},
        {"[]", 0, "does not begin with '{'"},
        {"{", 0, "not valid JSON"},
        {"{}x", 0, "not valid JSON"},
        {"{}", 8, "8 bytes after the last tensor belong to none"},
        {"{\"\xff\":1}", 0, "not valid JSON"}, /* not UTF-8 */
        {"{\"a\xc0\x80\":1}", 0, "not valid JSON"},
        {"{\"a\":1,\"a\":1}", 0, "not valid JSON: duplicate object key"},
        {"{\"a\":1}", 0, "tensor a: its shape is not a list"},
        {"{\"\":{}}", 0, "a tensor name has 0 bytes"},
        {"{\"a\\u0007b\":{}}", 0, "control character 0x07"},
        {"{\"a\\u0000b\":{}}", 0, "not valid JSON"},
        {A("{}"), 0, "its shape is not a list"},
        {A(T("F32", "[1]", "[0]")), 4, "data_offsets are not two numbers"},
        {A(T("F32", "[1]", "[0,4,8]")), 4, "data_offsets are not two numbers"},
        {A(T("F32", "[1]", "[4,0]")), 4, "data_offsets are not two numbers"},
        {A(T("F32", "[1]", "[-4,0]")), 4, "data_offsets are not two numbers"},
        {A(T("F32", "[1]", "[0.0,4.0]")), 4, "data_offsets are not two numbers"},
        {A(T("F32", "[1]", "[0,99999999999999999999]")), 4, "data_offsets are not two numbers"},
        {A("{\"shape\":[1],\"data_offsets\":[0,4]}"), 4, "it has no dtype"},
        {A(T("F32", "[2]", "[0,4]")), 4, "2 elements of F32 are not its 4 bytes"},
        {A(T("F32", "[-1]", "[0,4]")), 4, "dimension 0 is negative"},
        {A(T("F32", "[1.5]", "[0,4]")), 4, "dimension 0 is negative, no whole"},
        {A(T("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]")), 4, "at most 8 numbers"},
        {A(T("F32", "[4294967296,4294967296,1]", "[0,4]")), 4, "or too large"},
        {A(T("F32", "[2305843009213693952,2]", "[0,0]")), 0, "are not its 0 bytes"},
        {A(T("F4", "[3]", "[0,2]")), 2, "3 elements of F4 are not its 2 bytes"},
        {A(T("F4", "[2,3]", "[0,3]")), 3, "rows of 3 F4 values end within a byte"},
        {A(T("F32", "[2]", "[0,8]")), 4, "its data end at byte"},
        {A(T("F32", "[1]", "[4,8]")), 8, "should begin at 0"},
        {"{\"a\":" T("F32", "[1]", "[0,4]") ",\"b\":" T("F32", "[1]", "[8,12]") "}", 12,
         "tensor b: its data should begin at 4"},
        {"{\"a\":" T("F32", "[2]", "[0,8]") ",\"b\":" T("F32", "[1]", "[4,8]") "}", 8,
         "tensor b: its data should begin at 8"},
        {"{\"__metadata__\":[1]}", 0, "__metadata__ does not map names to text"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__ does not map names to text"},
    };
    for (size_t i = 0; i < SL_ARRAY_LEN(bads); i++) {
        struct sl_err err;
        size_t n;
        uint8_t *file = hf_raw(bads[i].header, bads[i].data, &n);
        expect(try_memory(file, n, &err), &err, SL_EINPUT, bads[i].says);
        free(file);
    }
}

/* The length field, and a header as deep as it is long. */
static void refuses_lengths(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {3,          100000000,      100000001,
                                       UINT64_MAX, UINT64_MAX - 7, 1u << 31};
    struct sl_err err;
    size_t n;
    for (size_t i = 0; i < SL_ARRAY_LEN(lengths); i++) {
        uint8_t *file = hf_raw("{}", 0, &n);
        memcpy(file, &lengths[i], 8);
        expect(try_memory(file, n, &err), &err, SL_EINPUT, "byte 0: a header of ");
        free(file);
    }
    for (n = 0; n < 8; n++)
        expect(try_memory("\2\0\0\0\0\0\0\0{}", n, &err), &err, SL_EINPUT, "too few");
    char *deep = malloc(100000);
    memset(deep, '[', 99999);
    memcpy(deep, "{\"a\":", 5);
    deep[99999] = 0;
    uint8_t *file = hf_raw(deep, 0, &n);
    expect(try_memory(file, n, &err), &err, SL_EINPUT, "nested deeper than 64 levels");
    free(file);
    free(deep);
    static const char lfs[] = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    expect(try_memory(lfs, sizeof lfs - 1, &err), &err, SL_EINPUT, "git lfs pull");
}

static uint8_t *two_tensors(size_t *n)
{
    struct hf_writer f;
    hf_init(&f);
    hf_tensor(&f, "a", "F32", 1, (int64_t[]){2}, (float[]){1, 2}, 8);
    hf_tensor(&f, "b", "BF16", 2, (int64_t[]){2, 2}, NULL, 8);
    uint8_t *file = hf_build(&f, n);
    hf_close(&f);
    return file;
}

static void refuses_every_truncation(void **state)
{
    (void)state;
    size_t n;
    uint8_t *file = two_tensors(&n);
    for (size_t len = 0; len < n; len++) {
        struct sl_err err;
        uint8_t *part = malloc(len + 1); /* so that a sanitizer sees the end */
        memcpy(part, file, len);
        assert_int_equal(try_memory(part, len, &err), SL_EINPUT);
        free(part);
    }
    free(file);
}

static void survives_every_changed_byte(void **state)
{
    (void)state;
    size_t n;
    uint8_t *file = two_tensors(&n);
    for (size_t i = 0; i < n; i++)
        for (int v = 0; v < 256; v += i < 8 ? 1 : 5) {
            struct sl_err err;
            uint8_t old = file[i];
            file[i] = (uint8_t)v;
            try_memory(file, n, &err);
            file[i] = old;
        }
    free(file);
}

/* ---- folders --------------------------------------------------------------------------------- */

#define CONFIG "{\"model_type\":\"llama\"}"

static void save(const char *dir, const char *file, const char *tensor, float value)
{
    struct hf_writer f;
    hf_init(&f);
    hf_tensor(&f, tensor, "F32", 1, (int64_t[]){1}, &value, 4);
    assert_int_equal(hf_save(&f, dir, file), 0);
    hf_close(&f);
}

/* A folder with the texts (name, text, ..., NULL) and a file of one tensor for each name in
 * `tensors` (file, tensor, ..., NULL). */
struct folder {
    const char *texts[9], *tensors[13];
};

static char *make_folder(const struct folder *f)
{
    char *dir = hf_folder();
    for (int i = 0; i < 8 && f->texts[i]; i += 2) hf_text(dir, f->texts[i], f->texts[i + 1]);
    for (int i = 0; i < 12 && f->tensors[i]; i += 2)
        save(dir, f->tensors[i], f->tensors[i + 1], (float)i);
    return dir;
}

#define INDEX "model.safetensors.index.json"
#define ONE "model-00001-of-00002.safetensors"
#define TWO "model-00002-of-00002.safetensors"
#define MAP "{\"metadata\":{\"total_size\":8},\"weight_map\":{\"a\":\"" ONE "\",\"b\":\"" TWO "\"}}"

/* Which tensors a folder has: those of the files that belong to the model, and no others. */
static void opens_folders(void **state)
{
    (void)state;
    static const struct {
        struct folder folder;
        const char *base; /* what is opened in it; NULL: the folder */
        size_t count;     /* tensors, among them "a" */
    } folders[] = {
        {{{"config.json", CONFIG}, {"model.safetensors", "a"}}, NULL, 1},
        {{{"config.json", CONFIG}, {"model.safetensors", "a", "golden.safetensors", "x"}}, NULL, 1},
        {{{"config.json", CONFIG},
          {"model.safetensors", "a", "model-00001-of-00009.safetensors", "x"}},
         NULL,
         1},
        {{{"config.json", CONFIG, INDEX, MAP}, {ONE, "a", TWO, "b"}}, NULL, 2},
        {{{"config.json", CONFIG, INDEX, MAP}, {ONE, "a", TWO, "b"}}, ONE, 2},
        {{{"config.json", CONFIG, INDEX, MAP}, {ONE, "a", TWO, "b"}}, INDEX, 2},
        {{{"config.json", CONFIG, INDEX, MAP},
          {ONE, "a", TWO, "b", "consolidated.safetensors", "a"}},
         NULL,
         2},
        {{{"config.json", CONFIG}, {ONE, "a", TWO, "b"}}, NULL, 2},
        {{{"config.json", CONFIG},
          {ONE, "a", TWO, "b", "consolidated-00001-of-00001.safetensors", "a"}},
         NULL,
         2},
        {{{"config.json", CONFIG}, {"gptq_model-4bit-128g.safetensors", "a"}}, NULL, 1},
        {{{"config.json", CONFIG}, {"model.safetensors", "x", "other.safetensors", "a"}},
         "other.safetensors",
         1},
        {{{"config.json", CONFIG, "x.bin", "", "x.gguf", ""}, {"model.safetensors", "a"}}, NULL, 1},
        {{{"config.json", CONFIG, "weights.safetensors.index.json",
           "{\"weight_map\":{\"a\":\"w.safetensors\"}}"},
          {"w.safetensors", "a"}},
         NULL,
         1},
    };
    for (size_t i = 0; i < SL_ARRAY_LEN(folders); i++) {
        char path[512], *dir = make_folder(&folders[i].folder);
        struct sl_weights *w;
        struct sl_err err;
        snprintf(path, sizeof path, "%s%s%s", dir, folders[i].base ? "/" : "",
                 folders[i].base ? folders[i].base : "");
        if (sl_weights_open(path, &w, &err)) fail_msg("folder %zu: %s", i, err.msg);
        assert_int_equal(sl_weights_count(w), folders[i].count);
        const struct sl_tensor *t = sl_weights_find(w, "a");
        assert_non_null(t);
        assert_non_null(sl_weights_map(w, t, &err));
        assert_string_equal(sl_weights_dir(w), dir);
        assert_string_equal(sl_weights_path(w), path);
        assert_non_null(sl_weights_json(w, SL_JSON_CONFIG));
        assert_null(sl_weights_json(w, SL_JSON_TOKENIZER));
        sl_weights_close(w);
        hf_folder_remove(dir);
        free(dir);
    }
}

#define LFS "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 5000\n"
#define QUANT(rest) "{\"quantization_config\":{" rest "}}"

static const struct {
    struct folder folder;
    int code;
    const char *says;
} bad_folders[] = {
    {{{NULL}, {NULL}}, SL_EINPUT, "the folder is empty, not a model"},
    {{{"README.md", "x"}, {NULL}}, SL_EINPUT, "no model in this folder"},
    {{{NULL}, {"model.safetensors", "a"}}, SL_EINPUT, "no config.json beside the weights"},
    {{{"config.json", CONFIG}, {NULL}}, SL_EINPUT, "neither .safetensors nor .gguf"},
    {{{"config.json", CONFIG, "pytorch_model.bin", ""}, {NULL}},
     SL_EUNSUPPORTED,
     "PyTorch pickles (.bin)"},
    {{{"config.json", CONFIG, "model.onnx", ""}, {NULL}}, SL_EUNSUPPORTED, "ONNX"},
    {{{"config.json", CONFIG, "tf_model.h5", ""}, {NULL}}, SL_EUNSUPPORTED, "TensorFlow"},
    {{{"params.json", "{}"}, {"consolidated.safetensors", "a"}},
     SL_EUNSUPPORTED,
     "Mistral's own layout"},
    {{{"adapter_config.json", "{}"}, {"adapter_model.safetensors", "a"}},
     SL_EUNSUPPORTED,
     "this is a LoRA adapter, not a model"},
    {{{"model_index.json", "{}"}, {NULL}}, SL_EUNSUPPORTED, "diffusion"},
    {{{"x.gguf", "GGUF"}, {NULL}}, SL_EUNSUPPORTED, "the folder holds GGUF files"},
    {{{"config.json", CONFIG, "model.safetensors", LFS}, {NULL}},
     SL_EINPUT,
     "model.safetensors: this is a git-LFS pointer"},
    {{{"config.json", LFS}, {"model.safetensors", "a"}},
     SL_EINPUT,
     "config.json: this is a git-LFS pointer"},
    {{{"config.json", "{\"a\":1,\"a\":2}"}, {"model.safetensors", "a"}},
     SL_EINPUT,
     "config.json: line 1, byte "},
    {{{"config.json", "[]"}, {"model.safetensors", "a"}},
     SL_EINPUT,
     "config.json: not a JSON object"},
    {{{"config.json", CONFIG, "generation_config.json", "{"}, {"model.safetensors", "a"}},
     SL_EINPUT,
     "generation_config.json: line 1"},
    {{{"config.json", CONFIG, "tokenizer_config.json", ""}, {"model.safetensors", "a"}},
     SL_EINPUT,
     "tokenizer_config.json: line 1"},
    /* shards */
    {{{"config.json", CONFIG}, {ONE, "a"}},
     SL_EINPUT,
     "1 of the 2 shards model-...-of-00002.safetensors"},
    {{{"config.json", CONFIG, INDEX, MAP}, {ONE, "a"}},
     SL_EINPUT,
     "it names " TWO ", which is not in the folder (1 of 2"},
    {{{"config.json", CONFIG, INDEX, MAP}, {NULL}}, SL_EINPUT, "(2 of 2 files are missing)"},
    {{{"config.json", CONFIG, INDEX, MAP}, {ONE, "a", TWO, "c"}},
     SL_EINPUT,
     "1 of its 2 tensors are not in the files"},
    {{{"config.json", CONFIG, INDEX, MAP}, {ONE, "b", TWO, "a"}},
     SL_EINPUT,
     "tensor b should be in " TWO " and is in " ONE},
    {{{"config.json", CONFIG, INDEX, "{\"weight_map\":{\"a\":\"" ONE "\",\"b\":\"" TWO "\"}}"},
      {ONE, "a", TWO, "a"}},
     SL_EINPUT,
     "tensor a should be in " ONE " and is in " TWO},
    {{{"config.json", CONFIG}, {ONE, "a", TWO, "a"}},
     SL_EINPUT,
     TWO ": byte 8, tensor a: this name appears twice"},
    {{{"config.json", CONFIG, INDEX, "{}"}, {ONE, "a"}}, SL_EINPUT, "weight_map is missing"},
    {{{"config.json", CONFIG, INDEX, "{\"weight_map\":{}}"}, {ONE, "a"}},
     SL_EINPUT,
     "weight_map is missing or empty"},
    {{{"config.json", CONFIG, INDEX, "{\"weight_map\":[]}"}, {ONE, "a"}},
     SL_EINPUT,
     "weight_map is missing"},
    {{{"config.json", CONFIG, INDEX, "{\"weight_map\":{\"a\":\"../x.safetensors\"}}"}, {ONE, "a"}},
     SL_EINPUT,
     "the file of tensor a is not the plain name"},
    {{{"config.json", CONFIG, INDEX, "{\"weight_map\":{\"a\":\"/etc/x.safetensors\"}}"},
      {ONE, "a"}},
     SL_EINPUT,
     "not the plain name"},
    {{{"config.json", CONFIG, INDEX, "{\"weight_map\":{\"a\":\"s/x.safetensors\"}}"}, {ONE, "a"}},
     SL_EINPUT,
     "not the plain name"},
    {{{"config.json", CONFIG, INDEX, "{\"weight_map\":{\"a\":\"..\"}}"}, {ONE, "a"}},
     SL_EINPUT,
     "not the plain name"},
    {{{"config.json", CONFIG, INDEX, "{\"weight_map\":{\"a\":7}}"}, {ONE, "a"}},
     SL_EINPUT,
     "not the plain name"},
    {{{"config.json", CONFIG, INDEX, "{\"weight_map\":{\"a\":\"\\u0000.safetensors\"}}"},
      {ONE, "a"}},
     SL_EINPUT,
     "not the plain name"},
    /* schemes */
    {{{"config.json", QUANT("\"quant_method\":\"exl2\"")}, {"model.safetensors", "a"}},
     SL_EUNSUPPORTED,
     "EXL2 weights (exl2) are not run here; use the model in BF16"},
    {{{"config.json", QUANT("\"quant_method\":\"exl3\"")}, {"model.safetensors", "a"}},
     SL_EUNSUPPORTED,
     "EXL3"},
    {{{"config.json", QUANT("\"quant_method\":\"aqlm\"")}, {"model.safetensors", "a"}},
     SL_EUNSUPPORTED,
     "AQLM"},
    {{{"config.json", QUANT("\"quant_method\":\"hqq\"")}, {"model.safetensors", "a"}},
     SL_EUNSUPPORTED,
     "HQQ"},
    {{{"config.json", QUANT("\"quant_method\":\"modelopt\",\"quant_algo\":\"W4A8_AWQ\"")},
      {"model.safetensors", "a"}},
     SL_EUNSUPPORTED,
     "W4A8_AWQ"},
    {{{"config.json", CONFIG, "hf_quant_config.json",
       "{\"quantization\":{\"quant_algo\":\"nvfp4_svd\"}}"},
      {"model.safetensors", "a"}},
     SL_EUNSUPPORTED,
     "nvfp4_svd"},
    {{{"config.json", QUANT("\"format\":\"marlin-24\"")}, {"model.safetensors", "a"}},
     SL_EUNSUPPORTED,
     "marlin-24"},
    {{{"config.json", QUANT("\"sparsity_config\":{\"format\":\"sparse-24-bitmask\"}")},
      {"model.safetensors", "a"}},
     SL_EUNSUPPORTED,
     "sparse-24-bitmask"},
    {{{"config.json", QUANT("\"transform_config\":{\"config_groups\":{\"u\":{}}}")},
      {"model.safetensors", "a"}},
     SL_EUNSUPPORTED,
     "rotations"},
    {{{"config.json", "{\"quantization\":{\"bits\":4,\"group_size\":64}}"},
      {"model.safetensors", "a"}},
     SL_EUNSUPPORTED,
     "MLX"},
};

static void refuses_folders(void **state)
{
    (void)state;
    for (size_t i = 0; i < SL_ARRAY_LEN(bad_folders); i++) {
        char *dir = make_folder(&bad_folders[i].folder);
        struct sl_weights *w = NULL;
        struct sl_err err = {0};
        expect(sl_weights_open(dir, &w, &err), &err, bad_folders[i].code, bad_folders[i].says);
        assert_null(strchr(err.msg, '\n'));
        assert_null(w);
        hf_folder_remove(dir);
        free(dir);
    }
}

static void refuses_files(void **state)
{
    (void)state;
    static const char *const names[] = {"pytorch_model.bin", "model.onnx", "model.pth",
                                        "x.llamafile"};
    struct sl_weights *w = NULL;
    struct sl_err err;
    char path[512], *dir = hf_folder();
    for (size_t i = 0; i < SL_ARRAY_LEN(names); i++) {
        hf_text(dir, names[i], "x");
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        assert_int_equal(sl_weights_open(path, &w, &err), SL_EUNSUPPORTED);
        assert_non_null(strstr(err.msg, names[i]));
    }
    hf_text(dir, "m.gguf", LFS);
    snprintf(path, sizeof path, "%s/m.gguf", dir);
    expect(sl_weights_open(path, &w, &err), &err, SL_EINPUT, "git lfs pull");
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(mkfifo(path, 0600), 0); /* and nobody waits for a writer */
    hf_text(dir, "config.json", CONFIG);
    expect(sl_weights_open(dir, &w, &err), &err, SL_EINPUT, "not a regular file");
    snprintf(path, sizeof path, "%s/absent", dir);
    assert_int_equal(sl_weights_open(path, &w, &err), SL_ENOTFOUND);
    assert_null(w);
    hf_folder_remove(dir);
    free(dir);
}

/* tokenizer.json is parsed when it is wanted; integers that pass 64 bits are numbers all the same.
 */
static void reads_json(void **state)
{
    (void)state;
    struct sl_weights *w;
    struct sl_err err = {0};
    const struct json_t *j;
    char *dir = hf_folder();
    hf_text(dir, "config.json", CONFIG);
    hf_text(dir, "tokenizer.json", "{\"a\":\"\\u0000\", }");
    hf_text(dir, "tokenizer_config.json",
            "{\"m\":9223372036854775807,\"model_max_length\":1000000000000000019884624838656,\"s\":"
            "\"1000000000000000000001\","
            "\"n\":-123456789012345678}");
    save(dir, "model.safetensors", "a", 1);
    assert_int_equal(sl_weights_open(dir, &w, &err), 0);
    j = sl_weights_json(w, SL_JSON_TOKENIZER_CONFIG);
    assert_true(json_real_value(json_object_get(j, "model_max_length")) > 0.99e30);
    assert_true(json_real_value(json_object_get(j, "model_max_length")) < 1.01e30);
    assert_string_equal(json_string_value(json_object_get(j, "s")), "1000000000000000000001");
    assert_true(json_integer_value(json_object_get(j, "n")) == -123456789012345678);
    assert_true(json_integer_value(json_object_get(j, "m")) == INT64_MAX);
    assert_null(sl_weights_json(w, SL_JSON_TOKENIZER));
    expect(sl_weights_json_load(w, SL_JSON_TOKENIZER, &j, &err), &err, SL_EINPUT,
           "tokenizer.json: line 1");
    hf_text(dir, "tokenizer.json", "{\"a\":\"\\u0000\"}"); /* repaired while the model is open */
    assert_int_equal(sl_weights_json_load(w, SL_JSON_TOKENIZER, &j, &err), 0);
    assert_int_equal(json_string_length(json_object_get(j, "a")), 1);
    assert_int_equal(sl_weights_json_load(w, SL_JSON_GENERATION, &j, &err), 0);
    assert_null(j);
    sl_weights_close(w);
    hf_folder_remove(dir);
    free(dir);
}

/* Files change under an open model: a line, never a SIGBUS. */
static void notices_changes(void **state)
{
    (void)state;
    struct sl_weights *w;
    struct sl_err err = {0};
    char path[512], *dir = hf_folder();
    hf_text(dir, "config.json", CONFIG);
    save(dir, ONE, "a", 1);
    save(dir, TWO, "b", 2);
    assert_int_equal(sl_weights_open(dir, &w, &err), 0);
    snprintf(path, sizeof path, "%s/" ONE, dir);
    assert_int_equal(truncate(path, 20), 0);
    assert_null(sl_weights_map(w, sl_weights_find(w, "a"), &err));
    expect(err.code, &err, SL_EINPUT, "tensor a: the file was truncated to 20 bytes");
    snprintf(path, sizeof path, "%s/" TWO, dir);
    char kept[512];
    snprintf(kept, sizeof kept, "%s/kept", dir);
    assert_int_equal(rename(path, kept), 0); /* its inode stays taken */
    save(dir, TWO, "b", 3);
    assert_null(sl_weights_map(w, sl_weights_find(w, "b"), &err));
    expect(err.code, &err, SL_EINPUT, "the file was replaced");
    assert_int_equal(unlink(path), 0);
    assert_null(sl_weights_map(w, sl_weights_find(w, "b"), &err));
    expect(err.code, &err, SL_ENOTFOUND, "cannot open the weights");
    sl_weights_close(w);
    hf_folder_remove(dir);
    free(dir);
}

/* How many descriptors of files in `dir` this process has open. */
static int open_files(const char *dir)
{
    int n = 0;
    for (int fd = 0; fd < 256; fd++) {
        char link[64], path[512];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t len = readlink(link, path, sizeof path - 1);
        if (len > 0) path[len] = 0;
        n += len > 0 && strncmp(path, dir, strlen(dir)) == 0;
    }
    return n;
}

/* A stage opens the shards of its own tensors, and no others. */
static void opens_only_wanted_shards(void **state)
{
    (void)state;
    struct sl_weights *w;
    struct sl_err err = {0};
    char *dir = hf_folder();
    hf_text(dir, "config.json", CONFIG);
    hf_text(dir, INDEX, MAP);
    save(dir, ONE, "a", 1);
    save(dir, TWO, "b", 2);
    assert_int_equal(sl_weights_open(dir, &w, &err), 0);
    assert_int_equal(open_files(dir), 0);
    const float *b = sl_weights_map(w, sl_weights_find(w, "b"), &err);
    assert_true(b && *b == 2);
    assert_int_equal(open_files(dir), 1);
    sl_weights_close(w);
    assert_int_equal(open_files(dir), 0);
    hf_folder_remove(dir);
    free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens_small_file),
        cmocka_unit_test(refuses_headers),
        cmocka_unit_test(refuses_lengths),
        cmocka_unit_test(refuses_every_truncation),
        cmocka_unit_test(survives_every_changed_byte),
        cmocka_unit_test(opens_folders),
        cmocka_unit_test(refuses_folders),
        cmocka_unit_test(refuses_files),
        cmocka_unit_test(reads_json),
        cmocka_unit_test(notices_changes),
        cmocka_unit_test(opens_only_wanted_shards),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
