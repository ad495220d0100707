/* tok_json.c - a tokenizer from tokenizer.json (HF tokenizers) and the files beside it.
 *
 * The parts are read in the order in which text goes through them; what is put around a text comes
 * from the post_processor, unless tokenizer_config.json says add_bos_token or add_eos_token, which
 * then replaces it (as transformers does). */
#include "model/tok_json.h"

#include <stdio.h>
#include <string.h>

#include "base/sl_assert.h"

#define DEPTH_MAX 8 /* sequences of post-processors inside each other */

int sl_tok_json_bad(const struct sl_tok_source *in, const char *place, const char *what)
{
    return sl_err_set(in->err, SL_EINPUT, "%s: %s %s; the file is damaged, fetch it again",
                      in->name, place, what);
}

int sl_tok_json_memory(const struct sl_tok_source *in)
{
    return sl_err_set(in->err, SL_ENOMEM, "%s: out of memory for the tokenizer", in->name);
}

static int wrong(const struct sl_tok_source *in, const char *place, const char *key,
                 const char *wanted)
{
    char what[96];
    snprintf(what, sizeof what, "%s is not %s", key, wanted);
    return sl_tok_json_bad(in, place, what);
}

int sl_tok_json_bool(const struct sl_tok_source *in, const json_t *o, const char *place,
                     const char *key, int *out)
{
    const json_t *v = json_object_get(o, key);
    if (!v || json_is_null(v)) return 0;
    if (!json_is_boolean(v)) return wrong(in, place, key, "true or false");
    *out = json_is_true(v);
    return 0;
}

int sl_tok_json_int(const struct sl_tok_source *in, const json_t *o, const char *place,
                    const char *key, int64_t min, int64_t max, int64_t *out)
{
    const json_t *v = json_object_get(o, key);
    if (!v || json_is_null(v)) return 0;
    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max)
        return wrong(in, place, key, "a number in range");
    *out = json_integer_value(v);
    return 0;
}

int sl_tok_json_text(const struct sl_tok_source *in, const json_t *o, const char *place,
                     const char *key, const char **s, size_t *n)
{
    const json_t *v = json_object_get(o, key);
    if (!v || json_is_null(v)) return 0;
    if (!json_is_string(v)) return wrong(in, place, key, "a string");
    *s = json_string_value(v);
    *n = json_string_length(v);
    return 0;
}

/* ---- what is put around a text --------------------------------------------------------------- */

static int put_around(const struct sl_tok_source *in, int after, int64_t id)
{
    struct sl_tokenizer *t = in->t;
    int32_t *list = after ? t->after : t->before;
    int *n = after ? &t->n_after : &t->n_before;
    if (id < 0 || id >= t->vocab.n)
        return sl_tok_json_bad(in, "post_processor:", "a special token is not in the vocabulary");
    if (*n == SL_TOK_AROUND_MAX)
        return sl_tok_json_bad(in, "post_processor:", "it puts too many tokens around a text");
    /* processors in a row put theirs outside of those before */
    if (after) {
        list[(*n)++] = (int32_t)id;
        return 0;
    }
    memmove(list + 1, list, (size_t)*n * sizeof *list);
    list[0] = (int32_t)id;
    ++*n;
    return 0;
}

/* One SpecialToken of a template: its ids, forwards or (before the text) backwards. */
static int put_special(const struct sl_tok_source *in, const json_t *o, const json_t *special,
                       int after)
{
    const char *name = json_string_value(json_object_get(special, "id"));
    const json_t *ids =
        name ? json_object_get(json_object_get(json_object_get(o, "special_tokens"), name), "ids")
             : NULL;
    size_t n = json_array_size(ids);
    int r = 0;
    if (n == 0) return sl_tok_json_bad(in, "post_processor:", "a special token has no ids");
    for (size_t i = 0; i < n && r == 0; i++) {
        const json_t *id = json_array_get(ids, after ? i : n - 1 - i);
        r = put_around(in, after, json_is_integer(id) ? json_integer_value(id) : -1);
    }
    return r;
}

static int read_template(const struct sl_tok_source *in, const json_t *o)
{
    const json_t *single = json_object_get(o, "single");
    size_t n = json_array_size(single), text = n;
    int r = 0;
    for (size_t i = 0; i < n; i++)
        if (json_object_get(json_array_get(single, i), "Sequence")) text = i;
    if (text == n) return sl_tok_json_bad(in, "post_processor:", "its template has no text");
    for (size_t i = text; i-- > 0 && r == 0;)
        r = put_special(in, o, json_object_get(json_array_get(single, i), "SpecialToken"), 0);
    for (size_t i = text + 1; i < n && r == 0; i++)
        r = put_special(in, o, json_object_get(json_array_get(single, i), "SpecialToken"), 1);
    return r;
}

/* ["[CLS]", 101] */
static int put_pair(const struct sl_tok_source *in, const json_t *o, const char *key, int after)
{
    const json_t *id = json_array_get(json_object_get(o, key), 1);
    return put_around(in, after, json_is_integer(id) ? json_integer_value(id) : -1);
}

static int read_processor(const struct sl_tok_source *in, const json_t *o, int depth)
{
    if (!o || json_is_null(o)) return 0;
    const char *type = json_string_value(json_object_get(o, "type"));
    if (!type) return sl_tok_json_bad(in, "post_processor", "has no type");
    if (strcmp(type, "ByteLevel") == 0) return 0; /* changes offsets only */
    if (strcmp(type, "TemplateProcessing") == 0) return read_template(in, o);
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0) {
        int r = put_pair(in, o, "cls", 0);
        return r ? r : put_pair(in, o, "sep", 1);
    }
    if (strcmp(type, "Sequence") == 0) {
        const json_t *members = json_object_get(o, "processors");
        int r =
            depth < DEPTH_MAX ? 0 : sl_tok_json_bad(in, "post_processor", "is nested too deeply");
        for (size_t i = 0; i < json_array_size(members) && r == 0; i++)
            r = read_processor(in, json_array_get(members, i), depth + 1);
        return r;
    }
    return sl_err_set(in->err, SL_EUNSUPPORTED,
                      "%s: post_processor '%.32s' is not known here (known: Sequence ByteLevel "
                      "TemplateProcessing BertProcessing RobertaProcessing)",
                      in->name, type);
}

/* ---- the files beside it --------------------------------------------------------------------- */

/* A special token of tokenizer_config.json: "text" or {"content": "text"}. */
static int32_t find_named(const struct sl_tokenizer *t, const json_t *config, const char *key)
{
    const json_t *v = json_object_get(config, key);
    if (json_is_object(v)) v = json_object_get(v, "content");
    if (!json_is_string(v)) return -1;
    return sl_tokenizer_find(t, json_string_value(v), json_string_length(v));
}

/* The first of an id or a list of ids; each marks an end when `ends`. Ids beyond the tokenizer's
 * belong to no text and are left alone. */
static int32_t take_ids(struct sl_tokenizer *t, const json_t *o, const char *key, int ends)
{
    const json_t *v = json_object_get(o, key);
    int32_t first = -1;
    size_t n = json_is_array(v) ? json_array_size(v) : json_is_integer(v);
    for (size_t i = 0; i < n; i++) {
        const json_t *e = json_is_array(v) ? json_array_get(v, i) : v;
        json_int_t id = json_is_integer(e) ? json_integer_value(e) : -1;
        if (id < 0 || id >= t->vocab.n) continue;
        if (ends) t->ends[id] = 1;
        if (first < 0) first = (int32_t)id;
    }
    return first;
}

static int replace_around(const struct sl_tok_source *in, const json_t *config)
{
    struct sl_tokenizer *t = in->t;
    int bos = -1, eos = -1;
    int r = sl_tok_json_bool(in, config, "tokenizer_config.json:", "add_bos_token", &bos);
    if (r == 0) r = sl_tok_json_bool(in, config, "tokenizer_config.json:", "add_eos_token", &eos);
    if (r != 0 || (bos < 0 && eos < 0)) return r;
    t->n_before = t->n_after = 0;
    if (bos == 1 && t->bos >= 0) t->before[t->n_before++] = t->bos;
    if (eos == 1 && t->eos >= 0) t->after[t->n_after++] = t->eos;
    return 0;
}

int sl_tok_json_ends(struct sl_tokenizer *t, const char *name, const struct sl_tokenizer_json *in,
                     struct sl_err *err)
{
    struct sl_tok_source src = {name, t, err};
    int32_t bos = find_named(t, in->config, "bos_token"), id;
    int32_t eos = find_named(t, in->config, "eos_token");
    if (bos >= 0) t->bos = bos;
    if (eos >= 0) t->eos = eos;
    if (t->bos < 0) t->bos = take_ids(t, in->generation, "bos_token_id", 0);
    if (t->bos < 0) t->bos = take_ids(t, in->model, "bos_token_id", 0);
    if (!t->ends && sl_tok_mark_ends(t) != 0) return sl_tok_json_memory(&src);
    id = take_ids(t, in->generation, "eos_token_id", 1);
    if (t->eos < 0) t->eos = id;
    id = take_ids(t, in->model, "eos_token_id", 1);
    if (t->eos < 0) t->eos = id;
    if (t->eos >= 0) t->ends[t->eos] = 1;
    return replace_around(&src, in->config);
}

int sl_tok_json_read(struct sl_tokenizer *t, const char *name, const struct sl_tokenizer_json *in,
                     struct sl_err *err)
{
    struct sl_tok_source src = {name, t, err};
    const json_t *o = in->tokenizer;
    if (!json_is_object(o)) return sl_tok_json_bad(&src, "tokenizer.json", "is not an object");
    int r = sl_tok_json_normalizer(&src, json_object_get(o, "normalizer"));
    if (r == 0) r = sl_tok_json_pre_tokenizer(&src, json_object_get(o, "pre_tokenizer"));
    if (r == 0)
        r = sl_tok_json_model(&src, json_object_get(o, "model"),
                              json_object_get(o, "added_tokens"));
    if (r == 0) r = sl_tok_json_decoder(&src, json_object_get(o, "decoder"));
    if (r == 0) r = read_processor(&src, json_object_get(o, "post_processor"), 0);
    if (r == 0 && sl_tok_decode_run(&t->decode, &t->vocab, &t->cooked) != 0)
        r = sl_tok_json_memory(&src);
    return r ? r : sl_tok_json_ends(t, name, in, err);
}
