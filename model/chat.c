/* chat.c - see chat.h. Requests come from anywhere: every field is checked and named in the error.
 */
#include "model/chat.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "model/chat_part.h"
#include "model/template.h"

#define PART_SEPARATOR "\n" /* between the text parts of one message, as other servers have it */

/* ---- variables ------------------------------------------------------------------------------- */

static int out_of_memory(struct sl_err *err)
{
    return sl_err_set(err, SL_ENOMEM, "chat request: out of memory");
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

/* Servers and clients have two names for it, templates a third. */
static int spread_reasoning(json_t *m, struct sl_err *err)
{
    static const char *const names[] = {"reasoning_content", "reasoning", "thinking"};
    json_t *given = NULL;
    for (size_t i = 0; i < SL_ARRAY_LEN(names); i++)
        if (!json_string_length(given)) given = json_object_get(m, names[i]);
    if (!json_string_length(given)) return 0;
    /* gpt-oss's template refuses thinking beside both a text and calls. */
    int full = json_string_length(json_object_get(m, "content")) &&
               json_array_size(json_object_get(m, "tool_calls"));
    for (size_t i = 0; i < SL_ARRAY_LEN(names) - (size_t)full; i++)
        if (!json_string_length(json_object_get(m, names[i])) &&
            json_object_set(m, names[i], given))
            return out_of_memory(err);
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
    if (strcmp(role, "assistant") != 0) return 0;
    int rc = spread_reasoning(m, err);
    if (rc || !calls || json_is_null(calls)) return rc;
    if (!content && json_object_set_new(m, "content", json_null())) return out_of_memory(err);
    return parse_arguments(calls, i, err);
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

/* ---- rendering ------------------------------------------------------------------------------- */

/* The arguments of the first call that has some: an object. NULL: there is none. */
static const json_t *first_arguments(const json_t *messages)
{
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *calls = json_object_get(json_array_get(messages, i), "tool_calls");
        for (size_t k = 0; k < json_array_size(calls); k++) {
            const json_t *f = json_object_get(json_array_get(calls, k), "function");
            const json_t *a = json_object_get(f, "arguments");
            if (json_is_object(a) && json_object_size(a)) return a;
        }
    }
    return NULL;
}

/* Turns all arguments back into JSON text. */
static int arguments_to_text(json_t *messages, struct sl_err *err)
{
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *calls = json_object_get(json_array_get(messages, i), "tool_calls");
        for (size_t k = 0; k < json_array_size(calls); k++) {
            json_t *f = json_object_get(json_array_get(calls, k), "function");
            const json_t *a = json_object_get(f, "arguments");
            if (!json_is_object(a)) continue;
            char *text = json_dumps(a, JSON_PRESERVE_ORDER);
            int rc = text ? json_object_set_new(f, "arguments", json_string(text)) : -1;
            free(text);
            if (rc) return out_of_memory(err);
        }
    }
    return 0;
}

/* Did the template print an object as text, which gives Python's notation with its quotes? */
static int printed_object(const struct sl_buf *out, size_t from, const json_t *arguments)
{
    const char *key = json_object_iter_key(json_object_iter((json_t *)(uintptr_t)arguments));
    char head[128];
    int n = snprintf(head, sizeof head, "{'%s':", key);
    return n < (int)sizeof head && out->len > from && strstr(sl_buf_str(out) + from, head) != NULL;
}

/* Turns the content of answers that have none into empty text. */
static int content_to_text(json_t *messages, struct sl_err *err)
{
    for (size_t i = 0; i < json_array_size(messages); i++) {
        json_t *m = json_array_get(messages, i), *content = json_object_get(m, "content");
        if (content && !json_is_null(content)) continue;
        if (json_object_set_new(m, "content", json_string(""))) return out_of_memory(err);
    }
    return 0;
}

static int has_no_content(const json_t *messages)
{
    for (size_t i = 0; i < json_array_size(messages); i++)
        if (!json_is_string(json_object_get(json_array_get(messages, i), "content"))) return 1;
    return 0;
}

enum { AS_TEXT = 1, NOT_NONE = 2 }; /* arguments as JSON text; content "" instead of none */

/* One way to render; `messages` stay as they are. */
static int render_as(const struct sl_template *t, json_t *vars, json_t *messages, int way,
                     struct sl_buf *out, struct sl_err *err)
{
    json_t *changed = json_deep_copy(messages);
    int rc = !changed || json_object_set_new(vars, "messages", changed) ? out_of_memory(err) : 0;
    if (rc == 0 && (way & AS_TEXT)) rc = arguments_to_text(changed, err);
    if (rc == 0 && (way & NOT_NONE)) rc = content_to_text(changed, err);
    return rc ? rc : sl_template_render(t, vars, out, err);
}

/* Most templates want the arguments of calls as objects (`tojson` prints them); some put them into
 * text as they are and so want JSON text: they error out or print Python's notation otherwise. Most
 * take an answer without content as none, some add to it or search it. Which it is shows only in
 * the rendering, so the ways are tried until one works; an error is that of the first. */
static int render(const struct sl_template *t, json_t *vars, struct sl_buf *out, struct sl_err *err)
{
    json_t *messages = json_object_get(vars, "messages");
    const json_t *arguments = first_arguments(messages);
    int none = has_no_content(messages);
    size_t before = out->len;
    int rc = sl_template_render(t, vars, out, err);
    int printed = rc == 0 && arguments && printed_object(out, before, arguments);
    if (rc == 0 && !printed) return 0;
    json_incref(messages);
    int done = 0;
    for (int way = AS_TEXT; way <= (AS_TEXT | NOT_NONE) && !done; way++) {
        struct sl_err second = {0};
        struct sl_buf text;
        if (((way & AS_TEXT) && !arguments) || ((way & NOT_NONE) && !none)) continue;
        sl_buf_init(&text, SL_TEMPLATE_OUTPUT_MAX);
        if (render_as(t, vars, messages, way, &text, &second) == 0 &&
            ((way & AS_TEXT) || !arguments || !printed_object(&text, 0, arguments))) {
            done = 1;
            out->len = before; /* what the first rendering left */
            rc = sl_buf_add(out, sl_buf_str(&text), text.len) ? out_of_memory(err) : 0;
        }
        sl_buf_close(&text);
    }
    json_decref(messages);
    return rc;
}

int sl_chat_render(const struct sl_chat *c, const json_t *request, struct sl_buf *out,
                   struct sl_err *err)
{
    if (!json_is_object(request))
        return sl_err_set(err, SL_EINPUT, "the request must be a JSON object");
    json_t *vars = json_object();
    if (!vars) return out_of_memory(err);
    int rc = set_messages(vars, request, err);
    if (rc == 0) rc = set_array(vars, request, "tools", err);
    if (rc == 0) rc = set_array(vars, request, "documents", err);
    if (rc == 0) rc = set_options(vars, request, err);
    if (rc == 0) rc = sl_chat_set_tokens(c, vars, err);
    int tools = json_array_size(json_object_get(vars, "tools")) > 0;
    if (rc == 0) rc = render(sl_chat_template(c, tools), vars, out, err);
    json_decref(vars);
    return rc;
}
