/* cmd_inspect.c - `sluice inspect`: what is in a model file: architecture, hyperparameters,
 * tensors, formats, bytes per layer. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/conf.h"
#include "base/sl_assert.h"
#include "base/text.h"
#include "cli/cmd.h"
#include "cli/inspect_config.h"
#include "cli/resolve.h"
#include "model/config.h"
#include "model/linear.h"

struct settings {
    const char *model;
    int json, tensors, metadata;
};

#define AT(m) offsetof(struct settings, m)
static const struct sl_conf_row rows[] = {
    {SL_CONF_STRING, "-m --model", "MODEL", AT(model),
     "a .gguf file, a Hugging Face folder, or smollm2 (or give it as the only word)", 0, 0},
    {SL_CONF_FLAG, "--tensors", NULL, AT(tensors), "list every tensor", 0, 0},
    {SL_CONF_FLAG, "--metadata", NULL, AT(metadata), "list every metadata key", 0, 0},
    {SL_CONF_FLAG, "--json", NULL, AT(json), "one JSON object with everything", 0, 0},
};

#define VALUE_SHOWN_MAX 60 /* bytes of a metadata string that are printed */

static json_t *scalar_json(const struct sl_meta *m)
{
    char *clean;
    json_t *j;
    switch (m->type) {
    case SL_META_INT:
        return json_integer(m->i);
    case SL_META_BOOL:
        return json_boolean(m->i);
    case SL_META_FLOAT:
        return json_real(m->f);
    case SL_META_STRING:
        clean = malloc(3 * m->len + 1);
        j = clean ? json_stringn(clean, sl_utf8_scrub(m->s, m->len, clean)) : json_null();
        free(clean);
        return j;
    case SL_META_ARRAY:
        return json_pack("{s:I}", "elements", (json_int_t)m->len);
    }
    return json_null();
}

static json_t *tensor_json(const struct sl_tensor *t)
{
    json_t *shape = json_array();
    for (int i = t->n_dims - 1; i >= 0; i--)
        json_array_append_new(shape, json_integer(t->ne[i])); /* row-major, as HF */
    return json_pack("{s:s, s:s, s:o, s:i, s:I, s:I}", "name", t->name, "format", t->type_name,
                     "shape", shape, "file", t->file, "offset", (json_int_t)t->offset, "bytes",
                     (json_int_t)t->bytes);
}

/* Bytes by format, as the file spells it. */
static json_t *formats_json(const struct sl_weights *w)
{
    json_t *o = json_object();
    for (size_t i = 0; i < sl_weights_count(w); i++) {
        const struct sl_tensor *t = sl_weights_at(w, i);
        json_t *old = json_object_get(o, t->type_name);
        json_int_t sum = (old ? json_integer_value(old) : 0) + (json_int_t)t->bytes;
        json_object_set_new(o, t->type_name, json_integer(sum));
    }
    return o;
}

static json_t *describe(const struct sl_weights *w, const struct sl_config *c, struct sl_err *err)
{
    json_t *layers = json_array(), *tensors = json_array(), *meta = json_object();
    uint64_t embed = 0, head = 0, bytes = 0;
    int r = sl_config_edge_bytes(w, c, &embed, &head, err);
    for (int i = 0; r == 0 && i < c->n_layers; i++) {
        r = sl_config_layer_bytes(w, c, i, &bytes, err);
        json_array_append_new(layers, json_integer((json_int_t)bytes));
    }
    for (size_t i = 0; i < sl_weights_count(w); i++)
        json_array_append_new(tensors, tensor_json(sl_weights_at(w, i)));
    for (size_t i = 0; i < sl_weights_meta_count(w); i++) {
        const char *key;
        const struct sl_meta *m = sl_weights_meta_nth(w, i, &key);
        json_object_set_new(meta, key, scalar_json(m));
    }
    json_t *j =
        json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:{s:o, s:I, s:I, s:I}, s:o, s:o, s:o}", "file",
                  sl_weights_path(w), "container", sl_weights_dir(w) ? "safetensors" : "gguf",
                  "quantization", sl_linear_scheme(w), "config", sl_inspect_config(c), "parameters",
                  sl_inspect_parameters(w, c), "text", sl_inspect_text(w), "bytes", "layers",
                  layers, "embedding", (json_int_t)embed, "head", (json_int_t)head,
                  "kv_per_token_and_layer_f16", (json_int_t)sl_config_kv_bytes(c, 2), "formats",
                  formats_json(w), "tensors", tensors, "metadata", meta);
    if (r == 0) return j;
    json_decref(j);
    return NULL;
}

static void print_object(const char *title, const json_t *o, int bytes)
{
    const char *key;
    json_t *v;
    printf("\n%s\n", title);
    json_object_foreach((json_t *)(uintptr_t)o, key, v)
    {
        char size[32];
        if (bytes) {
            printf("  %-44s %s\n", key, sl_format_bytes((uint64_t)json_integer_value(v), size));
        } else if (json_is_string(v)) {
            int n = (int)SL_MIN(json_string_length(v), VALUE_SHOWN_MAX);
            int line = (int)strcspn(json_string_value(v), "\n");
            printf("  %-44s %.*s%s\n", key, SL_MIN(n, line), json_string_value(v),
                   SL_MIN(n, line) < (int)json_string_length(v) ? "..." : "");
        } else {
            char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(7));
            printf("  %-44s %s\n", key, text ? text : "?");
            free(text);
        }
    }
}

/* Neighbouring layers of equal size in one line. */
static void print_layers(const json_t *layers)
{
    size_t n = json_array_size(layers);
    for (size_t from = 0, to; from < n; from = to) {
        json_int_t bytes = json_integer_value(json_array_get(layers, from));
        char size[32], range[64];
        for (to = from + 1; to < n; to++)
            if (json_integer_value(json_array_get(layers, to)) != bytes) break;
        snprintf(range, sizeof range, to - from > 1 ? "layers %zu-%zu, each" : "layer %zu", from,
                 to - 1);
        printf("  %-44s %s\n", range, sl_format_bytes((uint64_t)bytes, size));
    }
}

static void print_bytes(const json_t *bytes)
{
    static const char *const keys[] = {"embedding", "head", "kv_per_token_and_layer_f16"};
    printf("\nbytes\n");
    print_layers(json_object_get(bytes, "layers"));
    for (size_t i = 0; i < SL_ARRAY_LEN(keys); i++) {
        char size[32];
        printf(
            "  %-44s %s\n", keys[i],
            sl_format_bytes((uint64_t)json_integer_value(json_object_get(bytes, keys[i])), size));
    }
}

static void print_text(const json_t *j, const struct settings *s)
{
    printf("%s\n%s, quantization: %s\n", json_string_value(json_object_get(j, "file")),
           json_string_value(json_object_get(j, "container")),
           json_string_value(json_object_get(j, "quantization")));
    print_object("config", json_object_get(j, "config"), 0);
    print_object("parameters", json_object_get(j, "parameters"), 0);
    print_object("text", json_object_get(j, "text"), 0);
    print_object("bytes by format", json_object_get(j, "formats"), 1);
    print_bytes(json_object_get(j, "bytes"));
    if (s->metadata) print_object("metadata", json_object_get(j, "metadata"), 0);
    if (!s->tensors) return;
    printf("\ntensors\n");
    size_t i;
    json_t *t;
    json_array_foreach(json_object_get(j, "tensors"), i, t)
    {
        char *shape = json_dumps(json_object_get(t, "shape"), JSON_COMPACT);
        printf("  %-44s %-6s %s\n", json_string_value(json_object_get(t, "name")),
               json_string_value(json_object_get(t, "format")), shape ? shape : "");
        free(shape);
    }
}

static int run(void *settings, const char *const words[], struct sl_err *err)
{
    const char *word = words[0];
    struct settings *s = settings;
    if (word) s->model = word;
    if (!s->model) return sl_err_set(err, SL_EUSAGE, "name a model: sluice inspect MODEL");
    char path[4096];
    struct sl_weights *w = NULL;
    struct sl_config c;
    int r = sl_model_resolve(s->model, path, sizeof path, err);
    if (r == 0) r = sl_weights_open(path, &w, err);
    if (r == 0) r = sl_config_read(w, &c, err);
    json_t *j = r == 0 ? describe(w, &c, err) : NULL;
    if (r == 0 && !j) r = err->code ? err->code : SL_ENOMEM;
    if (j && s->json) {
        json_dumpf(j, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
        putchar('\n');
    } else if (j) {
        print_text(j, s);
    }
    json_decref(j);
    sl_weights_close(w);
    return r;
}

int sl_cmd_inspect(int argc, char **argv)
{
    static const struct sl_cmd cmd = {
        .name = "inspect",
        .usage = "usage: sluice inspect MODEL [options]\n"
                 "\n"
                 "Says what a model file holds.\n"
                 "\n",
        .rows = rows,
        .n_rows = SL_ARRAY_LEN(rows),
        .words = 1,
        .work = run,
    };
    struct settings s = {0};
    return sl_cmd_main(&cmd, &s, argc, argv);
}
