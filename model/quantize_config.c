/* quantize_config.c - the small files of the result: config.json with the right
 * quantization_config, the index of shards, and copies of tokenizer and template. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/sl_assert.h"
#include "model/hf.h"
#include "model/quantize_part.h"

#define COPY_MAX ((uint64_t)1 << 30) /* bytes of a file that is copied; vocabularies have 30 MB */

/* Files that belong to the result as they are; a name that ends with '*' is a beginning. */
static const char *const copied[] = {
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template*",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
};

/* What compressed-tensors says of each format. */
static const struct format {
    const char *format, *type, *strategy;
    int bits, group;
    int dynamic; /* activations are quantized per token by engines that can */
} formats[SL_TO_COUNT] = {
    [SL_TO_FP8] = {"float-quantized", "float", "channel", 8, 0, 1},
    [SL_TO_NVFP4] = {"nvfp4-pack-quantized", "float", "tensor_group", 4, 16, 0},
    [SL_TO_MXFP4] = {"mxfp4-pack-quantized", "float", "group", 4, 32, 0},
    [SL_TO_Q8_0] = {"pack-quantized", "int", "group", 8, 32, 0},
    [SL_TO_Q4_0] = {"pack-quantized", "int", "group", 4, 32, 0},
};

static json_t *numbers(const struct format *f, const char *strategy, int group, int dynamic)
{
    return json_pack("{s:i, s:s, s:s, s:b, s:b, s:o}", "num_bits", f->bits, "type", f->type,
                     "strategy", strategy, "symmetric", 1, "dynamic", dynamic, "group_size",
                     group ? json_integer(group) : json_null());
}

static json_t *quantization(const struct sl_out_plan *p, enum sl_quantize_to to)
{
    const struct format *f = &formats[to];
    json_t *input = f->dynamic ? numbers(f, "token", 0, 1) : json_null();
    return json_pack("{s:s, s:s, s:s, s:n, s:O, s:{s:{s:[s], s:s, s:o, s:o, s:n}}}", "quant_method",
                     "compressed-tensors", "format", f->format, "quantization_status", "compressed",
                     "kv_cache_scheme", "ignore", p->ignore, "config_groups", "group_0", "targets",
                     "Linear", "format", f->format, "weights", numbers(f, f->strategy, f->group, 0),
                     "input_activations", input, "output_activations");
}

int sl_out_dump(const json_t *j, const char *dir, const char *name, struct sl_err *err)
{
    char *path = sl_hf_path(dir, name);
    FILE *f = path && j ? fopen(path, "w") : NULL;
    int bad = !f || json_dumpf(j, f, JSON_INDENT(2)) != 0 || fputc('\n', f) == EOF;
    if (f && fclose(f) != 0) bad = 1;
    int r =
        bad ? sl_err_set(err, SL_EIO, "%s/%s: cannot write: %s", dir, name, strerror(errno)) : 0;
    free(path);
    return r;
}

int sl_out_write_config(json_t *c, const struct sl_out_plan *p, enum sl_quantize_to to,
                        const char *dir, struct sl_err *err)
{
    json_object_del(c, "quantization_config");
    json_object_del(json_object_get(c, "text_config"), "quantization_config");
    int bad = 0;
    if (to != SL_TO_BF16) bad = json_object_set_new(c, "quantization_config", quantization(p, to));
    for (int i = 0; i < 2 && to == SL_TO_BF16; i++) { /* only where it is said at all */
        const char *key = i ? "dtype" : "torch_dtype";
        if (json_object_get(c, key)) bad |= json_object_set_new(c, key, json_string("bfloat16"));
    }
    return bad ? sl_err_set(err, SL_ENOMEM, "%s: out of memory", dir)
               : sl_out_dump(c, dir, "config.json", err);
}

int sl_out_index(const struct sl_out_plan *p, const char *dir, struct sl_err *err)
{
    char file[64];
    json_t *map = json_object();
    if (p->n_shards == 1) {
        json_decref(map);
        return 0;
    }
    for (int i = 0; i < p->n_tensors; i++) {
        sl_out_shard_name(p, p->tensors[i].shard, file);
        json_object_set_new(map, p->tensors[i].name, json_string(file));
    }
    json_t *j = json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)p->bytes_out,
                          "weight_map", map);
    int r = json_object_size(map) == (size_t)p->n_tensors
                ? sl_out_dump(j, dir, "model.safetensors.index.json", err)
                : sl_err_set(err, SL_ENOMEM, "%s: out of memory", dir);
    json_decref(j);
    return r;
}

static int is_copied(const char *name)
{
    for (size_t i = 0; i < SL_ARRAY_LEN(copied); i++) {
        size_t n = strlen(copied[i]);
        int prefix = copied[i][n - 1] == '*';
        if (prefix ? strncmp(name, copied[i], n - 1) == 0 : strcmp(name, copied[i]) == 0) return 1;
    }
    return 0;
}

static int copy_file(const char *from, const char *to, struct sl_err *err)
{
    char buffer[65536];
    uint64_t done = 0;
    size_t n = 0;
    int r = 0;
    FILE *in = fopen(from, "rb"), *out = in ? fopen(to, "wb") : NULL;
    if (!out) r = sl_err_set(err, SL_EIO, "%s: cannot copy: %s", in ? to : from, strerror(errno));
    while (!r && (n = fread(buffer, 1, sizeof buffer, in)) > 0) {
        done += n;
        if (done > COPY_MAX) r = sl_err_set(err, SL_EINPUT, "%s: too large to copy", from);
        if (!r && fwrite(buffer, 1, n, out) != n)
            r = sl_err_set(err, SL_EIO, "%s: cannot write: %s", to, strerror(errno));
    }
    if (!r && ferror(in)) r = sl_err_set(err, SL_EIO, "%s: cannot read: %s", from, strerror(errno));
    if (in) fclose(in);
    if (out && fclose(out) != 0 && !r)
        r = sl_err_set(err, SL_EIO, "%s: cannot write: %s", to, strerror(errno));
    return r;
}

static int copy_files(const char *from, const char *dir, struct sl_err *err)
{
    int r = 0;
    DIR *d = opendir(from);
    if (!d) return sl_err_set(err, SL_EIO, "%s: cannot read the folder: %s", from, strerror(errno));
    for (const struct dirent *e; !r && (e = readdir(d));) {
        if (!is_copied(e->d_name) ||
            (e->d_type != DT_REG && e->d_type != DT_LNK && e->d_type != DT_UNKNOWN))
            continue;
        char *a = sl_hf_path(from, e->d_name), *b = sl_hf_path(dir, e->d_name);
        r = a && b ? copy_file(a, b, err) : sl_err_set(err, SL_ENOMEM, "%s: out of memory", dir);
        free(a);
        free(b);
    }
    closedir(d);
    return r;
}

int sl_out_folder_files(const struct sl_weights *w, const struct sl_out_plan *p,
                        enum sl_quantize_to to, const char *dir, struct sl_err *err)
{
    json_t *c = json_deep_copy(sl_weights_json(w, SL_JSON_CONFIG));
    int r = c ? sl_out_write_config(c, p, to, dir, err)
              : sl_err_set(err, SL_ENOMEM, "%s: out of memory", dir);
    json_decref(c);
    return r ? r : copy_files(sl_weights_dir(w), dir, err);
}
