/* chat.c - see chat.h. Requests come from anywhere: every field is checked and named in the error.
 */
#include "model/chat.h"

#include <jansson.h>
#include <string.h>

#include "model/template.h"
#include "model/weights.h"

#define PART_SEPARATOR "\n" /* between the text parts of one message, as other servers have it */

int sl_chat_template(const struct sl_weights *w, struct sl_template **out, struct sl_err *err)
{
    const struct sl_meta *m = sl_weights_meta(w, "tokenizer.chat_template");
    *out = NULL;
    if (!m)
        return sl_err_set(
            err, SL_EUNSUPPORTED,
            "%s has no chat template (metadata tokenizer.chat_template): send plain prompts to it",
            sl_weights_path(w));
    if (m->type != SL_META_STRING)
        return sl_err_set(err, SL_EINPUT, "%s: metadata tokenizer.chat_template is not a string",
                          sl_weights_path(w));
    return sl_template_compile(m->s, m->len, out, err);
}

/* ---- variables ------------------------------------------------------------------------------- */

static int out_of_memory(struct sl_err *err)
{
    return sl_err_set(err, SL_ENOMEM, "chat request: out of memory");
}

static int set_token(const struct sl_weights *w, json_t *vars, const char *var, const char *id_key,
                     struct sl_err *err)
{
    const struct sl_meta *tokens = sl_weights_meta(w, "tokenizer.ggml.tokens");
    int64_t id;
    if (json_object_get(vars, var)) return 0;
    int rc = sl_weights_int(w, id_key, -1, -1, INT32_MAX, &id, err);
    if (rc || id < 0) return rc;
    if (!tokens || tokens->type != SL_META_ARRAY || tokens->elem != SL_META_STRING ||
        (size_t)id >= tokens->len)
        return sl_err_set(err, SL_EINPUT,
                          "%s: metadata %s is %lld, which is no token of the vocabulary",
                          sl_weights_path(w), id_key, (long long)id);
    struct sl_meta token = sl_meta_at(tokens, (size_t)id);
    json_t *text = json_stringn(token.s, token.len);
    if (!text)
        return sl_err_set(err, SL_EINPUT, "%s: the token of metadata %s is not UTF-8 text",
                          sl_weights_path(w), id_key);
    return json_object_set_new(vars, var, text) ? out_of_memory(err) : 0;
}

int sl_chat_set_tokens(const struct sl_weights *w, json_t *vars, struct sl_err *err)
{
    int rc = set_token(w, vars, "bos_token", "tokenizer.ggml.bos_token_id", err);
    return rc ? rc : set_token(w, vars, "eos_token", "tokenizer.ggml.eos_token_id", err);
}

int sl_chat_merge_kwargs(json_t *vars, struct sl_err *err)
{
    json_t *kwargs = json_object_get(vars, "chat_template_kwargs"), *v;
    const char *key;
    if (kwargs && !json_is_object(kwargs) && !json_is_null(kwargs))
        return sl_err_set(err, SL_EINPUT, "chat_template_kwargs must be an object");
    json_incref(kwargs);
    json_object_del(vars, "chat_template_kwargs");
    int rc = 0;
    json_object_foreach(kwargs, key, v)
    {
        if (strcmp(key, "messages") == 0)
            rc = sl_err_set(err, SL_EINPUT, "chat_template_kwargs cannot replace the messages");
        else if (json_object_set(vars, key, v))
            rc = out_of_memory(err);
        if (rc) break;
    }
    json_decref(kwargs);
    return rc;
}

/* ---- messages -------------------------------------------------------------------------------- */

/* The text parts of a content array as one new string. */
static int flatten(const json_t *parts, size_t message, json_t **out, struct sl_err *err)
{
    struct sl_buf b;
    int rc = 0;
    sl_buf_init(&b, SL_TEMPLATE_OUTPUT_MAX);
    for (size_t i = 0; rc == 0 && i < json_array_size(parts); i++) {
        const json_t *part = json_array_get(parts, i), *text = json_object_get(part, "text");
        const char *type = json_string_value(json_object_get(part, "type"));
        if (!type)
            rc = sl_err_set(err, SL_EINPUT,
                            "messages[%zu].content[%zu] must be an object with a type, like "
                            "{\"type\": \"text\", \"text\": \"...\"}",
                            message, i);
        else if (strcmp(type, "text") != 0)
            rc = sl_err_set(
                err, SL_EINPUT,
                "messages[%zu].content[%zu] has type '%.40s': this model takes only 'text'",
                message, i, type);
        else if (!json_is_string(text))
            rc = sl_err_set(err, SL_EINPUT, "messages[%zu].content[%zu].text must be a string",
                            message, i);
        else if ((i && sl_buf_puts(&b, PART_SEPARATOR)) ||
                 sl_buf_add(&b, json_string_value(text), json_string_length(text)))
            rc = sl_err_set(err, SL_EINPUT, "messages[%zu].content is too large", message);
    }
    if (rc == 0 && !(*out = json_stringn_nocheck(sl_buf_str(&b), b.len))) rc = out_of_memory(err);
    sl_buf_close(&b);
    return rc;
}

/* Clients send the arguments of earlier calls as JSON text; templates want the value. Text that is
 * not a JSON object stays as it is. */
static int parse_arguments(json_t *calls, size_t message, struct sl_err *err)
{
    if (!json_is_array(calls))
        return sl_err_set(err, SL_EINPUT, "messages[%zu].tool_calls must be an array", message);
    for (size_t i = 0; i < json_array_size(calls); i++) {
        json_t *f = json_object_get(json_array_get(calls, i), "function");
        const json_t *text = json_object_get(f, "arguments");
        if (!json_is_object(f) || !json_is_string(json_object_get(f, "name")))
            return sl_err_set(
                err, SL_EINPUT,
                "messages[%zu].tool_calls[%zu].function must be an object with a name", message, i);
        json_t *v = json_is_string(text)
                        ? json_loadb(json_string_value(text), json_string_length(text), 0, NULL)
                        : NULL;
        if (json_is_object(v) && json_object_set(f, "arguments", v)) {
            json_decref(v);
            return out_of_memory(err);
        }
        json_decref(v);
    }
    return 0;
}

static int check_message(json_t *m, size_t i, struct sl_err *err)
{
    json_t *content = json_object_get(m, "content"), *calls = json_object_get(m, "tool_calls"),
           *text;
    const char *role = json_string_value(json_object_get(m, "role"));
    if (!json_is_object(m)) return sl_err_set(err, SL_EINPUT, "messages[%zu] must be an object", i);
    if (!role || !*role)
        return sl_err_set(err, SL_EINPUT,
                          "messages[%zu].role must be a string: system, user, assistant or tool",
                          i);
    if (!content && strcmp(role, "assistant") != 0)
        return sl_err_set(err, SL_EINPUT, "messages[%zu].content is missing", i);
    if (json_is_array(content)) {
        int rc = flatten(content, i, &text, err);
        if (rc) return rc;
        if (json_object_set_new(m, "content", text)) return out_of_memory(err);
    } else if (content && !json_is_string(content) && !json_is_null(content)) {
        return sl_err_set(err, SL_EINPUT,
                          "messages[%zu].content must be a string, null or an array of text parts",
                          i);
    }
    return calls && !json_is_null(calls) ? parse_arguments(calls, i, err) : 0;
}

static int set_messages(json_t *vars, const json_t *request, struct sl_err *err)
{
    const json_t *given = json_object_get(request, "messages");
    if (!json_is_array(given) || json_array_size(given) == 0)
        return sl_err_set(err, SL_EINPUT,
                          "messages must be an array of at least one message, like "
                          "[{\"role\": \"user\", \"content\": \"...\"}]");
    json_t *messages = json_deep_copy(given);
    if (!messages || json_object_set_new(vars, "messages", messages)) return out_of_memory(err);
    for (size_t i = 0; i < json_array_size(messages); i++) {
        int rc = check_message(json_array_get(messages, i), i, err);
        if (rc) return rc;
    }
    return 0;
}

/* An array that templates expect to be none when it is empty. */
static int set_array(json_t *vars, const json_t *request, const char *key, struct sl_err *err)
{
    json_t *v = json_object_get(request, key);
    if (v && !json_is_array(v) && !json_is_null(v))
        return sl_err_set(err, SL_EINPUT, "%s must be an array", key);
    int rc = json_array_size(v) ? json_object_set(vars, key, v)
                                : json_object_set_new(vars, key, json_null());
    return rc ? out_of_memory(err) : 0;
}

static int set_options(json_t *vars, const json_t *request, struct sl_err *err)
{
    json_t *prompt = json_object_get(request, "add_generation_prompt");
    json_t *effort = json_object_get(request, "reasoning_effort");
    json_t *kwargs = json_object_get(request, "chat_template_kwargs");
    if (prompt && !json_is_boolean(prompt))
        return sl_err_set(err, SL_EINPUT, "add_generation_prompt must be true or false");
    if (effort && !json_is_string(effort) && !json_is_null(effort))
        return sl_err_set(err, SL_EINPUT, "reasoning_effort must be a string");
    if (json_object_set_new(vars, "add_generation_prompt", json_boolean(!json_is_false(prompt))) ||
        (json_is_string(effort) && json_object_set(vars, "reasoning_effort", effort)) ||
        (kwargs && json_object_set(vars, "chat_template_kwargs", kwargs)))
        return out_of_memory(err);
    return sl_chat_merge_kwargs(vars, err);
}

int sl_chat_prompt(const struct sl_template *t, const struct sl_weights *w, const json_t *request,
                   struct sl_buf *out, struct sl_err *err)
{
    if (!json_is_object(request))
        return sl_err_set(err, SL_EINPUT, "the request must be a JSON object");
    json_t *vars = json_object();
    if (!vars) return out_of_memory(err);
    int rc = set_messages(vars, request, err);
    if (rc == 0) rc = set_array(vars, request, "tools", err);
    if (rc == 0) rc = set_array(vars, request, "documents", err);
    if (rc == 0) rc = set_options(vars, request, err);
    if (rc == 0 && w) rc = sl_chat_set_tokens(w, vars, err);
    if (rc == 0) rc = sl_template_render(t, vars, out, err);
    json_decref(vars);
    return rc;
}
