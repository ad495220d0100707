/* linear_scheme.c - the scheme of a whole model in a few words, for people.
 *
 * Taken from the tensors, as the layers are: the first layer that is quantized speaks for all; of a
 * GGUF file, the format with the most bytes. config.json adds bits and group size. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "base/sl_assert.h"
#include "model/linear_part.h"

#define WORDS_MAX 96

static _Thread_local char
    words[WORDS_MAX]; /* one caller at a time per thread is enough for print */

/* bits and group size, wherever the maker's config.json has them. */
static void sizes(const struct sl_weights *w, int64_t *bits, int64_t *group)
{
    const json_t *q = sl_linear_config(w), *groups = json_object_get(q, "config_groups");
    const char *name;
    json_t *g;
    *bits = sl_linear_config_int(w, "bits");
    *group = sl_linear_config_int(w, "group_size");
    json_object_foreach((json_t *)groups, name, g)
    {
        const json_t *c = json_object_get(g, "weights");
        if (!*bits) *bits = json_integer_value(json_object_get(c, "num_bits"));
        if (!*group) *group = json_integer_value(json_object_get(c, "group_size"));
    }
}

static const char *integers(const struct sl_weights *w, const char *name)
{
    int64_t bits, group;
    sizes(w, &bits, &group);
    int n = snprintf(words, sizeof words, "%s", name);
    if (bits > 0) n += snprintf(words + n, sizeof words - (size_t)n, " %" PRId64 "-bit", bits);
    if (group > 0) n += snprintf(words + n, sizeof words - (size_t)n, " g%" PRId64, group);
    if (json_is_true(json_object_get(sl_linear_config(w), "desc_act")))
        snprintf(words + n, sizeof words - (size_t)n, " act-order");
    return words;
}

static const char *fp8(const struct sl_weights *w, const char *stem, const struct sl_tensor *t)
{
    const struct sl_tensor *inv = sl_linear_find(w, stem, ".weight_scale_inv");
    const struct sl_tensor *s = inv ? inv : sl_linear_find(w, stem, ".weight_scale");
    const char *grain = "";
    if (s) {
        int64_t n = s->ne[0] * s->ne[1];
        grain = n == 1 ? " per tensor" : n == t->ne[1] ? " per channel" : " per block";
    }
    snprintf(words, sizeof words, "%s%s", t->type == SL_F8_E5M2 ? "fp8 e5m2" : "fp8", grain);
    return words;
}

/* The layer whose codes are tensor t, called stem + suffix; NULL when it is not quantized. */
static const char *describe(const struct sl_weights *w, const char *stem, const char *suffix,
                            const struct sl_tensor *t)
{
    int modelopt = sl_linear_find(w, stem, ".weight_scale_2") != NULL;
    const struct sl_tensor *scale = sl_linear_find(w, stem, ".weight_scale");
    if (strcmp(suffix, "_blocks") == 0) return "mxfp4 (gpt-oss)";
    if (strcmp(suffix, ".qweight") == 0) {
        int gptq = sl_linear_find(w, stem, ".g_idx") ||
                   strcmp(sl_linear_config_text(w, "quant_method"), "awq") != 0;
        return integers(w, gptq ? "gptq" : "awq");
    }
    if (strcmp(suffix, ".weight_packed") == 0 && t->type == SL_I32)
        return integers(w, "compressed-tensors");
    if (modelopt) return "nvfp4 (modelopt)";
    if (sl_linear_find(w, stem, ".weight_global_scale")) return "nvfp4 (compressed-tensors)";
    if (sl_linear_find(w, stem, ".weight.absmax"))
        return sl_linear_find(w, stem, ".weight.quant_state.bitsandbytes__fp4")
                   ? "bitsandbytes fp4"
                   : "bitsandbytes nf4";
    if (sl_linear_find(w, stem, ".SCB")) return "bitsandbytes int8";
    if (t->type == SL_F8_E4M3 || t->type == SL_F8_E5M2) return fp8(w, stem, t);
    if (t->type == SL_I8 && scale && scale->type != SL_U8) return "int8 (compressed-tensors)";
    if (t->type == SL_U8 || t->type == SL_I8 || t->type == SL_F4) return "mxfp4";
    return NULL;
}

static const char *of_folder(const struct sl_weights *w)
{
    static const char *const codes[] = {".weight_packed", ".qweight", "_blocks", ".weight"};
    char stem[SL_TENSOR_NAME_MAX];
    for (size_t i = 0; i < sl_weights_count(w); i++) {
        const struct sl_tensor *t = sl_weights_at(w, i);
        size_t n = strlen(t->name);
        for (size_t c = 0; c < SL_ARRAY_LEN(codes); c++) {
            size_t m = strlen(codes[c]);
            if (n <= m || strcmp(t->name + n - m, codes[c]) != 0) continue;
            memcpy(stem, t->name, n - m);
            stem[n - m] = 0;
            const char *d = describe(w, stem, codes[c], t);
            if (d) return d;
        }
    }
    return "none";
}

const char *sl_linear_scheme(const struct sl_weights *w)
{
    uint64_t bytes[SL_DTYPE_COUNT] = {0};
    int most = SL_F32, gguf = 0;
    for (size_t i = 0; i < sl_weights_count(w); i++) {
        const struct sl_tensor *t = sl_weights_at(w, i);
        if (t->ggml_type == SL_GGML_NONE) continue;
        gguf = 1;
        if (t->known) bytes[t->type] += t->bytes;
    }
    if (!gguf) return of_folder(w);
    for (int i = 0; i < SL_DTYPE_COUNT; i++)
        if (bytes[i] > bytes[most]) most = i;
    return sl_dtype_kind((enum sl_dtype)most) == SL_KIND_FLOAT ? "none"
                                                               : sl_dtype_name((enum sl_dtype)most);
}
