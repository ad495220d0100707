/* api_json.c - reads the bodies of /v1/chat/completions and /v1/completions. */
#include "coordinator/api_json.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *type_name(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    default:
        return "null";
    }
}

/* ---- typed access ---------------------------------------------------------------------------- */

/* The field, NULL when absent or null. */
static json_t *field(const json_t *o, const char *name)
{
    json_t *v = json_object_get(o, name);
    return v && !json_is_null(v) ? v : NULL;
}

static int wrong_type(struct sl_api_error *e, const char *name, const char *want, const json_t *got)
{
    return sl_api_bad(e, name, "'%s' must be %s, not %s", name, want, type_name(got));
}

int sl_api_get_bool(const json_t *o, const char *name, int *out, struct sl_api_error *e)
{
    const json_t *v = field(o, name);
    if (!v) return 0;
    if (!json_is_boolean(v)) return wrong_type(e, name, "true or false", v);
    *out = json_is_true(v);
    return 0;
}

int sl_api_get_int(const json_t *o, const char *name, int64_t min, int64_t max, int64_t *out,
                   struct sl_api_error *e)
{
    const json_t *v = field(o, name);
    if (!v) return 0;
    if (!json_is_integer(v)) return wrong_type(e, name, "an integer", v);
    json_int_t i = json_integer_value(v);
    if (i < min || i > max)
        return sl_api_bad(e, name, "'%s' is %lld; it must be between %lld and %lld", name,
                          (long long)i, (long long)min, (long long)max);
    *out = i;
    return 0;
}

int sl_api_get_float(const json_t *o, const char *name, double min, double max, float *out,
                     struct sl_api_error *e)
{
    const json_t *v = field(o, name);
    if (!v) return 0;
    if (!json_is_number(v)) return wrong_type(e, name, "a number", v);
    double x = json_number_value(v);
    if (!(x >= min && x <= max))
        return sl_api_bad(e, name, "'%s' is %g; it must be between %g and %g", name, x, min, max);
    *out = (float)x;
    return 0;
}

int sl_api_get_string(const json_t *o, const char *name, const char **out, struct sl_api_error *e)
{
    const json_t *v = field(o, name);
    if (!v) return 0;
    if (!json_is_string(v)) return wrong_type(e, name, "a string", v);
    *out = json_string_value(v);
    return 0;
}

json_t *sl_api_object(const char *body, size_t n, struct sl_api_error *e)
{
    json_error_t je;
    if (n == 0) {
        sl_api_bad(e, NULL, "the request has no body; send a JSON object");
        return NULL;
    }
    json_t *root = json_loadb(body, n, 0, &je);
    if (!root) {
        sl_api_bad(e, NULL, "the body is not valid JSON: line %d, column %d: %s", je.line,
                   je.column, je.text);
        return NULL;
    }
    if (!json_is_object(root)) {
        sl_api_bad(e, NULL, "the body must be a JSON object, not %s", type_name(root));
        json_decref(root);
        return NULL;
    }
    return root;
}

/* ---- fields both endpoints know -------------------------------------------------------------- */

static int read_stops(struct sl_api_request *r, struct sl_api_error *e)
{
    const json_t *v = field(r->root, "stop");
    if (!v) return 0;
    if (!json_is_string(v) && !json_is_array(v))
        return wrong_type(e, "stop", "a string or an array of strings", v);
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (n > SL_STOPS_MAX)
        return sl_api_bad(e, "stop", "'stop' has %zu strings; at most %d are allowed", n,
                          SL_STOPS_MAX);
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_string(s))
            return sl_api_bad(e, "stop", "'stop[%zu]' must be a string, not %s", i, type_name(s));
        size_t len = json_string_length(s);
        if (len == 0 || len > SL_STOP_LEN_MAX)
            return sl_api_bad(e, "stop", "'stop[%zu]' has %zu bytes; 1 to %d are allowed", i, len,
                              SL_STOP_LEN_MAX);
        r->stops[r->n_stops++] = json_string_value(s);
    }
    return 0;
}

static int read_bias(struct sl_api_request *r, struct sl_api_error *e)
{
    json_t *v = field(r->root, "logit_bias");
    const char *key;
    json_t *val;
    if (!v) return 0;
    if (!json_is_object(v))
        return wrong_type(e, "logit_bias", "an object of token id to number", v);
    if (json_object_size(v) > SL_LOGIT_BIAS_MAX)
        return sl_api_bad(e, "logit_bias", "'logit_bias' has %zu entries; at most %d are allowed",
                          json_object_size(v), SL_LOGIT_BIAS_MAX);
    json_object_foreach(v, key, val)
    {
        char *end;
        long id = strtol(key, &end, 10);
        if (!*key || strspn(key, "0123456789") != strlen(key) || *end || id < 0 || id > INT_MAX)
            return sl_api_bad(e, "logit_bias",
                              "'logit_bias' has the key '%.40s', which is no token id", key);
        if (!json_is_number(val) || !(fabs(json_number_value(val)) <= 100))
            return sl_api_bad(e, "logit_bias",
                              "'logit_bias[\"%s\"]' must be a number between -100 and 100", key);
        struct sl_logit_bias *b = &r->sampling.bias[r->sampling.n_bias++];
        b->token = (int32_t)id;
        b->bias = (float)json_number_value(val);
    }
    return 0;
}

static int read_sampling(struct sl_api_request *r, struct sl_api_error *e)
{
    struct sl_sampling *s = &r->sampling;
    int64_t top_k = 0, seed = -1;
    sl_sampling_default(s);
    s->temperature = 1; /* OpenAI's defaults, not the library's greedy one */
    s->top_p = 1;
    if (sl_api_get_float(r->root, "temperature", 0, 100, &s->temperature, e) ||
        sl_api_get_float(r->root, "top_p", 0, 1, &s->top_p, e) ||
        sl_api_get_float(r->root, "min_p", 0, 1, &s->min_p, e) ||
        sl_api_get_int(r->root, "top_k", -1, INT_MAX, &top_k, e) ||
        sl_api_get_float(r->root, "repetition_penalty", 0.01, 100, &s->repetition_penalty, e) ||
        sl_api_get_float(r->root, "presence_penalty", -2, 2, &s->presence_penalty, e) ||
        sl_api_get_float(r->root, "frequency_penalty", -2, 2, &s->frequency_penalty, e) ||
        sl_api_get_int(r->root, "seed", INT64_MIN, INT64_MAX, &seed, e) || read_bias(r, e))
        return -1;
    s->top_k =
        top_k < 0 ? 0 : (int32_t)top_k; /* -1 and 0 both mean all, as vLLM and llama.cpp have it */
    r->has_seed = seed != -1;           /* -1 asks for a random one there as well */
    s->seed = (uint64_t)seed;
    return 0;
}

static int read_max_tokens(struct sl_api_request *r, struct sl_api_error *e)
{
    int64_t v = -1, w = -1;
    if (sl_api_get_int(r->root, "max_tokens", 0, SL_API_TOKENS_MAX, &v, e) ||
        sl_api_get_int(r->root, "max_completion_tokens", 0, SL_API_TOKENS_MAX, &w, e))
        return -1;
    if (v >= 0 && w >= 0 && v != w)
        return sl_api_bad(e, "max_completion_tokens",
                          "'max_tokens' and 'max_completion_tokens' differ; send one of them");
    r->max_tokens = (int)(w >= 0 ? w : v);
    if (r->max_tokens == 0 && !r->echo)
        return sl_api_bad(e, w >= 0 ? "max_completion_tokens" : "max_tokens",
                          "'max_tokens' must be at least 1 (0 only makes sense with 'echo')");
    return 0;
}

static int read_stream(struct sl_api_request *r, struct sl_api_error *e)
{
    if (sl_api_get_bool(r->root, "stream", &r->stream, e)) return -1;
    const json_t *o = field(r->root, "stream_options");
    if (!o) return 0;
    if (!json_is_object(o)) return wrong_type(e, "stream_options", "an object", o);
    if (!r->stream)
        return sl_api_bad(e, "stream_options",
                          "'stream_options' is only allowed together with \"stream\": true");
    return sl_api_get_bool(o, "include_usage", &r->include_usage, e);
}

static int read_common(struct sl_api_request *r, struct sl_api_error *e)
{
    int64_t n = 1, priority = 0, best_of = 0;
    const char *user = NULL;
    if (sl_api_get_string(r->root, "model", &r->model, e) ||
        sl_api_get_string(r->root, "user", &user, e) || read_sampling(r, e) ||
        read_max_tokens(r, e) || read_stops(r, e) || read_stream(r, e) ||
        sl_api_get_int(r->root, "n", 1, SL_API_N_MAX, &n, e) ||
        sl_api_get_int(r->root, "best_of", 1, SL_API_N_MAX, &best_of, e) ||
        sl_api_get_bool(r->root, "ignore_eos", &r->ignore_eos, e) ||
        sl_api_get_int(r->root, "priority", -1000000, 1000000, &priority, e))
        return -1;
    if (best_of && best_of != n)
        return sl_api_bad(e, "best_of", "'best_of' other than 'n' is not supported; leave it out");
    r->n = (int)n;
    r->priority = (int)priority;
    return 0;
}

static int open_request(const char *body, size_t n, struct sl_api_request *r,
                        struct sl_api_error *e)
{
    memset(r, 0, sizeof(*r));
    r->max_tokens = -1;
    r->root = sl_api_object(body, n, e);
    return r->root ? 0 : -1;
}

void sl_api_request_close(struct sl_api_request *r)
{
    json_decref(r->root);
    memset(r, 0, sizeof(*r));
}

/* ---- chat ------------------------------------------------------------------------------------ */

int sl_api_check_messages(const json_t *messages, struct sl_api_error *e)
{
    size_t i;
    const json_t *m;
    if (!messages)
        return sl_api_bad(e, "messages",
                          "'messages' is missing; send an array of {\"role\", \"content\"}");
    if (!json_is_array(messages)) return wrong_type(e, "messages", "an array", messages);
    if (json_array_size(messages) == 0)
        return sl_api_bad(e, "messages", "'messages' is empty; send at least one message");
    json_array_foreach(messages, i, m)
    {
        if (!json_is_object(m))
            return sl_api_bad(e, "messages", "'messages[%zu]' must be an object, not %s", i,
                              type_name(m));
        if (!json_is_string(json_object_get(m, "role")))
            return sl_api_bad(e, "messages", "'messages[%zu].role' must be a string", i);
        const json_t *content = json_object_get(m, "content");
        if (content && !json_is_string(content) && !json_is_null(content) &&
            !json_is_array(content))
            return sl_api_bad(
                e, "messages",
                "'messages[%zu].content' must be a string or an array of parts, not %s", i,
                type_name(content));
    }
    return 0;
}

static int is_offered(const json_t *tools, const char *name)
{
    size_t i;
    const json_t *t;
    json_array_foreach(tools, i, t)
    {
        const char *is = json_string_value(json_object_get(json_object_get(t, "function"), "name"));
        if (is && strcmp(is, name) == 0) return 1;
    }
    return 0;
}

/* The object form: {"type": "function", "function": {"name": ...}}. */
static int read_named(const json_t *choice, const json_t *tools, struct sl_api_tools *out,
                      struct sl_api_error *e)
{
    const char *type = json_string_value(json_object_get(choice, "type"));
    out->choice = SL_CHOOSE_NAMED;
    out->name = json_string_value(json_object_get(json_object_get(choice, "function"), "name"));
    if (!out->name || !type || strcmp(type, "function") != 0)
        return sl_api_bad(e, "tool_choice",
                          "'tool_choice' must be \"auto\", \"none\", \"required\" or {\"type\": "
                          "\"function\", \"function\": {\"name\": ...}}");
    if (is_offered(tools, out->name)) return 0;
    return sl_api_bad(e, "tool_choice", "'tool_choice' names '%.64s', which is not in 'tools'",
                      out->name);
}

static int read_choice(const json_t *choice, const json_t *tools, struct sl_api_tools *out,
                       struct sl_api_error *e)
{
    const char *word = json_string_value(choice);
    if (!choice || (word && strcmp(word, "auto") == 0)) return 0;
    if (word && strcmp(word, "none") == 0) {
        out->choice = SL_CHOOSE_NONE;
        return 0;
    }
    if (!word || strcmp(word, "required") != 0) return read_named(choice, tools, out, e);
    out->choice = SL_CHOOSE_ANY;
    if (json_array_size(tools)) return 0;
    return sl_api_bad(e, "tool_choice", "'tool_choice' is \"required\" and there are no 'tools'");
}

int sl_api_read_tools(json_t *root, struct sl_api_tools *out, struct sl_api_error *e)
{
    json_t *tools = field(root, "tools");
    size_t i;
    json_t *t;
    int many = 1;
    *out = (struct sl_api_tools){.include_reasoning = 1};
    if (tools && !json_is_array(tools)) return wrong_type(e, "tools", "an array", tools);
    json_array_foreach(tools, i, t) if (!json_is_object(t)) return sl_api_bad(
        e, "tools", "'tools[%zu]' must be an object, not %s", i, type_name(t));
    if (read_choice(field(root, "tool_choice"), tools, out, e) ||
        sl_api_get_bool(root, "parallel_tool_calls", &many, e) ||
        sl_api_get_bool(root, "include_reasoning", &out->include_reasoning, e))
        return -1;
    out->one = !many;
    if (out->choice == SL_CHOOSE_NONE)
        json_object_del(root, "tools"); /* the template shall not offer them */
    return 0;
}

static int read_response_format(const struct sl_api_request *r, struct sl_api_error *e)
{
    const json_t *f = field(r->root, "response_format");
    if (!f) return 0;
    const char *type = json_string_value(json_object_get(f, "type"));
    if (!json_is_object(f) || !type)
        return sl_api_bad(e, "response_format",
                          "'response_format' must be an object with a string 'type'");
    if (strcmp(type, "text") != 0)
        return sl_api_bad(e, "response_format",
                          "'response_format.type' \"%.40s\" is not supported; only \"text\" is",
                          type);
    return 0;
}

static int read_chat(struct sl_api_request *r, struct sl_api_error *e)
{
    int64_t top = 0;
    if (sl_api_check_messages(field(r->root, "messages"), e) || read_common(r, e) ||
        sl_api_read_tools(r->root, &r->tools, e) || read_response_format(r, e) ||
        sl_api_get_bool(r->root, "logprobs", &r->logprobs, e) ||
        sl_api_get_int(r->root, "top_logprobs", 0, SL_TOP_LOGPROBS_MAX, &top, e))
        return -1;
    if (top && !r->logprobs)
        return sl_api_bad(e, "top_logprobs", "'top_logprobs' needs \"logprobs\": true");
    r->sampling.n_top = (int32_t)top;
    return 0;
}

int sl_api_read_chat(const char *body, size_t n, struct sl_api_request *out, struct sl_api_error *e)
{
    if (open_request(body, n, out, e)) return -1;
    if (read_chat(out, e)) {
        sl_api_request_close(out);
        return -1;
    }
    return 0;
}

/* ---- completion ------------------------------------------------------------------------------ */

int sl_api_check_ids(const json_t *ids, const char *name, struct sl_api_error *e)
{
    size_t i;
    const json_t *v;
    if (!json_is_array(ids)) return sl_api_bad(e, name, "'%s' must be an array of token ids", name);
    json_array_foreach(ids, i, v) if (
        !json_is_integer(v) || json_integer_value(v) < 0 ||
        json_integer_value(v) >
            INT32_MAX) return sl_api_bad(e, name,
                                         "'%s' has something at index %zu that is no token id",
                                         name, i);
    return 0;
}

static int read_prompt(struct sl_api_request *r, struct sl_api_error *e)
{
    r->prompt = field(r->root, "prompt");
    if (!r->prompt)
        return sl_api_bad(e, "prompt", "'prompt' is missing; send a string, strings or token ids");
    r->n_prompts = 1;
    if (json_is_string(r->prompt)) return 0;
    if (!json_is_array(r->prompt))
        return wrong_type(e, "prompt", "a string, an array of strings or of token ids", r->prompt);
    size_t n = json_array_size(r->prompt);
    const json_t *first = json_array_get(r->prompt, 0);
    if (n == 0)
        return sl_api_bad(e, "prompt", "'prompt' is empty; send at least one string or token id");
    if (json_is_integer(first)) return sl_api_check_ids(r->prompt, "prompt", e);
    if (!json_is_string(first) && !json_is_array(first))
        return sl_api_bad(e, "prompt",
                          "'prompt[0]' must be a string, a token id or an array of ids, not %s",
                          type_name(first));
    if (n > SL_API_PROMPTS_MAX)
        return sl_api_bad(e, "prompt", "'prompt' has %zu prompts; at most %d are allowed", n,
                          SL_API_PROMPTS_MAX);
    for (size_t i = 0; i < n; i++) {
        const json_t *p = json_array_get(r->prompt, i);
        if (json_typeof(p) != json_typeof(first))
            return sl_api_bad(e, "prompt", "'prompt[%zu]' is %s, unlike 'prompt[0]'", i,
                              type_name(p));
        if (json_is_array(p) && sl_api_check_ids(p, "prompt", e)) return -1;
    }
    r->n_prompts = (int)n;
    return 0;
}

void sl_api_prompt(const struct sl_api_request *r, int i, const char **text, size_t *len,
                   const json_t **ids)
{
    const json_t *p = r->prompt;
    if (json_is_array(p) && !json_is_integer(json_array_get(p, 0)))
        p = json_array_get(p, (size_t)i);
    *ids = json_is_array(p) ? p : NULL;
    *text = json_string_value(p);
    *len = json_string_length(p);
}

static int read_completion(struct sl_api_request *r, struct sl_api_error *e)
{
    int64_t top = -1;
    const char *suffix = NULL;
    if (sl_api_get_bool(r->root, "echo", &r->echo, e) || read_prompt(r, e) || read_common(r, e) ||
        sl_api_get_string(r->root, "suffix", &suffix, e) ||
        sl_api_get_int(r->root, "logprobs", 0, SL_TOP_LOGPROBS_MAX, &top, e))
        return -1;
    if (suffix && *suffix)
        return sl_api_bad(e, "suffix", "'suffix' is not supported; leave it out");
    r->logprobs = top >= 0;
    r->sampling.n_top = top > 0 ? (int32_t)top : 0;
    if (r->max_tokens < 0) r->max_tokens = SL_API_TOKENS_DEFAULT;
    return 0;
}

int sl_api_read_completion(const char *body, size_t n, struct sl_api_request *out,
                           struct sl_api_error *e)
{
    if (open_request(body, n, out, e)) return -1;
    if (read_completion(out, e)) {
        sl_api_request_close(out);
        return -1;
    }
    return 0;
}
