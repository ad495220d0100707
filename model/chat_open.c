/* chat_open.c - where a model's chat templates and special tokens come from, see chat.h. Files of
 * a folder are as hostile as any: sizes are bounded and types are checked. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/chat_part.h"
#include "model/json_read.h"
#include "model/template.h"
#include "model/weights.h"

#define JSON_FILE_MAX (4u << 20)   /* bytes of chat_template.json */
#define TOOL_TEMPLATE "tool_use"   /* the name of the second template */
#define DEFAULT_TEMPLATE "default" /* and of the first one, in a list */
#define META_KEY "tokenizer.chat_template"

/* ---- templates ------------------------------------------------------------------------------- */

static int compile(const char *where, const char *s, size_t n, struct sl_template **out,
                   struct sl_err *err)
{
    int rc = sl_template_compile(s, n, out, err);
    if (rc) sl_err_prefix(err, "%s: ", where);
    return rc;
}

/* SL_ENOTFOUND without a message when there is no such file. */
static int read_file(const char *path, struct sl_template **out, struct sl_err *err)
{
    struct sl_buf b;
    FILE *f = fopen(path, "rb");
    if (!f && (errno == ENOENT || errno == ENOTDIR)) return SL_ENOTFOUND;
    if (!f) return sl_err_set(err, SL_EIO, "%s: cannot be opened: %s", path, strerror(errno));
    sl_buf_init(&b, SL_TEMPLATE_SOURCE_MAX);
    int rc = sl_buf_read(&b, f);
    if (rc == SL_EIO)
        sl_err_set(err, rc, "%s: cannot be read", path);
    else if (rc)
        rc = sl_err_set(err, SL_EINPUT, "%s: more than the %u bytes a chat template may have", path,
                        SL_TEMPLATE_SOURCE_MAX);
    fclose(f);
    if (rc == 0) rc = compile(path, sl_buf_str(&b), b.len, out, err);
    sl_buf_close(&b);
    return rc;
}

/* A file of the model's folder; absent is no error. */
static int read_member(const char *dir, const char *name, struct sl_template **out,
                       struct sl_err *err)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path) return 0;
    int rc = read_file(path, out, err);
    return rc == SL_ENOTFOUND ? 0 : rc;
}

/* The entry of that name in a list of {name, template}. */
static int from_list(const char *where, const json_t *list, const char *name,
                     struct sl_template **out, struct sl_err *err)
{
    for (size_t i = 0; i < json_array_size(list) && !*out; i++) {
        const json_t *o = json_array_get(list, i), *t = json_object_get(o, "template");
        const char *is = json_string_value(json_object_get(o, "name"));
        if (!is || !json_is_string(t))
            return sl_err_set(err, SL_EINPUT,
                              "%s: chat_template[%zu] must be an object with name and template",
                              where, i);
        if (strcmp(is, name) != 0) continue;
        int rc = compile(where, json_string_value(t), json_string_length(t), out, err);
        if (rc) return rc;
    }
    return 0;
}

/* A member chat_template: text, or a list of {name, template}. */
static int from_json(const char *where, const json_t *t, struct sl_chat *c, struct sl_err *err)
{
    if (!t || json_is_null(t)) return 0;
    if (json_is_string(t))
        return compile(where, json_string_value(t), json_string_length(t), &c->plain, err);
    if (!json_is_array(t))
        return sl_err_set(err, SL_EINPUT, "%s: chat_template must be a text or a list of templates",
                          where);
    int rc = from_list(where, t, DEFAULT_TEMPLATE, &c->plain, err);
    return rc ? rc : from_list(where, t, TOOL_TEMPLATE, &c->tools, err);
}

static int from_folder(const struct sl_weights *w, const char *dir, struct sl_chat *c,
                       struct sl_err *err)
{
    char path[PATH_MAX];
    int rc = read_member(dir, "chat_template.jinja", &c->plain, err);
    if (rc == 0 && c->plain)
        return read_member(dir, "additional_chat_templates/" TOOL_TEMPLATE ".jinja", &c->tools,
                           err);
    const json_t *config = sl_weights_json(w, SL_JSON_TOKENIZER_CONFIG);
    if (rc == 0)
        rc = from_json("tokenizer_config.json", json_object_get(config, "chat_template"), c, err);
    if (rc || c->plain || c->tools) return rc;
    json_t *file = NULL;
    if (snprintf(path, sizeof path, "%s/chat_template.json", dir) >= (int)sizeof path) return 0;
    rc = sl_json_file_read(path, JSON_FILE_MAX, &file, err);
    if (rc == 0) rc = from_json(path, json_object_get(file, "chat_template"), c, err);
    json_decref(file);
    return rc == SL_ENOTFOUND ? 0 : rc;
}

static int from_meta(const struct sl_weights *w, const char *key, struct sl_template **out,
                     struct sl_err *err)
{
    const struct sl_meta *m = sl_weights_meta(w, key);
    if (!m) return 0;
    if (m->type != SL_META_STRING)
        return sl_err_set(err, SL_EINPUT, "%s: metadata %s is not a string", sl_weights_path(w),
                          key);
    return compile(sl_weights_path(w), m->s, m->len, out, err);
}

static int find_templates(const struct sl_weights *w, const struct sl_chat_options *o,
                          struct sl_chat *c, struct sl_err *err)
{
    const char *file = o->template_file;
    int rc = 0;
    if (o->template_text)
        return sl_template_compile(o->template_text, strlen(o->template_text), &c->plain, err);
    if (file) {
        rc = read_file(file, &c->plain, err);
        return rc == SL_ENOTFOUND
                   ? sl_err_set(err, rc, "%s: not found; give the path of a Jinja template", file)
                   : rc;
    }
    const char *dir = sl_weights_dir(w);
    if (dir) {
        rc = from_folder(w, dir, c, err);
    } else {
        rc = from_meta(w, META_KEY, &c->plain, err);
        if (rc == 0) rc = from_meta(w, META_KEY "." TOOL_TEMPLATE, &c->tools, err);
    }
    if (rc == 0 && !c->plain && c->tools) { /* a list without "default" */
        c->plain = c->tools;
        c->tools = NULL;
    }
    if (rc || c->plain) return rc;
    return sl_err_set(err, SL_EUNSUPPORTED,
                      "%s has no chat template; give one with --chat-template FILE, or send it "
                      "plain prompts",
                      sl_weights_path(w));
}

/* ---- special tokens -------------------------------------------------------------------------- */

static int token_from_meta(const struct sl_weights *w, const char *key, json_t **out,
                           struct sl_err *err)
{
    const struct sl_meta *tokens = sl_weights_meta(w, "tokenizer.ggml.tokens");
    int64_t id;
    int rc = sl_weights_int(w, key, -1, -1, INT32_MAX, &id, err);
    if (rc || id < 0) return rc;
    if (!tokens || tokens->type != SL_META_ARRAY || tokens->elem != SL_META_STRING ||
        (size_t)id >= tokens->len)
        return sl_err_set(err, SL_EINPUT,
                          "%s: metadata %s is %lld, which is no token of the vocabulary",
                          sl_weights_path(w), key, (long long)id);
    struct sl_meta token = sl_meta_at(tokens, (size_t)id);
    *out = json_stringn(token.s, token.len);
    return *out ? 0
                : sl_err_set(err, SL_EINPUT, "%s: the token of metadata %s is not UTF-8 text",
                             sl_weights_path(w), key);
}

/* A token of tokenizer_config.json: its text, or an object with the text as content. */
static json_t *token_from_json(const json_t *config, const char *name)
{
    json_t *t = json_object_get(config, name);
    if (json_is_object(t)) t = json_object_get(t, "content");
    return json_is_string(t) ? json_incref(t) : NULL;
}

static int find_tokens(const struct sl_weights *w, struct sl_chat *c, struct sl_err *err)
{
    const json_t *config = sl_weights_json(w, SL_JSON_TOKENIZER_CONFIG);
    if (sl_weights_dir(w)) {
        c->bos = token_from_json(config, "bos_token");
        c->eos = token_from_json(config, "eos_token");
        return 0;
    }
    int rc = token_from_meta(w, "tokenizer.ggml.bos_token_id", &c->bos, err);
    return rc ? rc : token_from_meta(w, "tokenizer.ggml.eos_token_id", &c->eos, err);
}

/* ---- life ------------------------------------------------------------------------------------ */

int sl_chat_open(const struct sl_weights *w, const struct sl_chat_options *o, struct sl_chat **out,
                 struct sl_err *err)
{
    static const struct sl_chat_options none;
    struct sl_chat *c = calloc(1, sizeof *c);
    *out = NULL;
    if (!c) return sl_err_set(err, SL_ENOMEM, "chat template: out of memory");
    if (!o) o = &none;
    int rc = find_templates(w, o, c, err);
    if (rc == 0 && w) rc = find_tokens(w, c, err);
    if (rc == 0) {
        c->style = sl_answer_style_of(sl_chat_template(c, 1));
        if (c->style.reasoning == SL_REASONING_NONE)
            c->style.reasoning = sl_answer_style_of(c->plain).reasoning;
        rc = sl_answer_style_name(&c->style, o->tool_parser, o->reasoning_parser, err);
    }
    if (rc) {
        sl_chat_close(c);
        return rc;
    }
    *out = c;
    return 0;
}

void sl_chat_close(struct sl_chat *c)
{
    if (!c) return;
    sl_template_free(c->plain);
    sl_template_free(c->tools);
    json_decref(c->bos);
    json_decref(c->eos);
    free(c);
}

const struct sl_template *sl_chat_template(const struct sl_chat *c, int tools)
{
    return tools && c->tools ? c->tools : c->plain;
}

struct sl_answer_style sl_chat_style(const struct sl_chat *c)
{
    return c->style;
}

int sl_chat_set_tokens(const struct sl_chat *c, json_t *vars, struct sl_err *err)
{
    int rc = 0;
    if (c->bos && !json_object_get(vars, "bos_token"))
        rc = json_object_set(vars, "bos_token", c->bos);
    if (c->eos && !json_object_get(vars, "eos_token"))
        rc |= json_object_set(vars, "eos_token", c->eos);
    return rc ? sl_err_set(err, SL_ENOMEM, "chat request: out of memory") : 0;
}
