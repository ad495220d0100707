/* answer_json.c - calls that are written as JSON: where a value ends while it is still coming in,
 * and the call that an object describes.
 *
 * The arguments are passed on as the model wrote them, not parsed and printed again: numbers keep
 * their digits and keys their order. jansson only judges whether the text is JSON at all. */
#include <string.h>

#include "base/sl_assert.h"
#include "model/answer_part.h"

size_t sl_answer_json_end(struct sl_answer *a, size_t from)
{
    struct sl_answer_scan *c = &a->scan;
    if (c->from != from || c->at < from) *c = (struct sl_answer_scan){.from = from, .at = from};
    while (c->at < a->in.len) {
        char ch = a->in.data[c->at++];
        if (c->in_string) {
            if (c->escaped)
                c->escaped = 0;
            else if (ch == '\\')
                c->escaped = 1;
            else if (ch == '"')
                c->in_string = 0;
        } else if (ch == '"') {
            c->in_string = 1;
        } else if (ch == '{' || ch == '[') {
            c->depth++;
        } else if ((ch == '}' || ch == ']') && --c->depth <= 0) {
            size_t end = c->at--; /* the same answer when asked again */
            c->depth++;
            return end;
        }
    }
    return 0;
}

/* ---- parts of a text that is known to be JSON --------------------------------------------------
 */

/* A place in the text; s[at..n) is still to be read. */
struct reader {
    const char *s;
    size_t n, at;
};

struct part {
    const char *s;
    size_t n;
};

/* One value; the text is valid, so only strings and brackets need care. */
static struct part read_value(struct reader *r)
{
    r->at = sl_answer_skip_space(r->s, r->n, r->at);
    struct part p = {r->s + r->at, 0};
    size_t begin = r->at;
    int depth = 0, in_string = 0;
    for (; r->at < r->n; r->at++) {
        char ch = r->s[r->at];
        if (in_string) {
            if (ch == '\\')
                r->at++;
            else if (ch == '"' && (in_string = 0, depth == 0)) {
                r->at++;
                break;
            }
        } else if (ch == '"') {
            in_string = 1;
        } else if (ch == '{' || ch == '[') {
            depth++;
        } else if (ch == '}' || ch == ']') {
            if (depth == 0) break; /* of what contains us */
            if (--depth == 0) {
                r->at++;
                break;
            }
        } else if (depth == 0 && (ch == ',' || ch == ':' || strchr(" \t\r\n", ch))) {
            break;
        }
    }
    p.n = r->at - begin;
    return p;
}

/* Steps over one of the characters of `any` (and white space); 0 when something else comes. */
static int read_char(struct reader *r, const char *any)
{
    r->at = sl_answer_skip_space(r->s, r->n, r->at);
    if (r->at >= r->n || !strchr(any, r->s[r->at])) return 0;
    r->at++;
    return 1;
}

/* The value of the first of the keys (`|` between them) in an object. n 0: it has none. */
static struct part member(struct part object, const char *keys)
{
    struct reader r = {object.s, object.n, 1};
    struct part found = {NULL, 0};
    for (;;) {
        struct part key = read_value(&r);
        if (key.n < 2 || !read_char(&r, ":")) break;
        struct part value = read_value(&r);
        for (const char *k = keys; *k && !found.n;) {
            size_t n = strcspn(k, "|");
            if (n == key.n - 2 && memcmp(k, key.s + 1, n) == 0) found = value;
            k += n + (k[n] != 0);
        }
        if (!read_char(&r, ",")) break;
    }
    return found;
}

int sl_answer_is_object(const char *s, size_t n)
{
    json_t *v = json_loadb(s, n, JSON_ALLOW_NUL, NULL);
    int is = json_is_object(v);
    json_decref(v);
    return is;
}

/* ---- calls ----------------------------------------------------------------------------------- */

const json_t *sl_answer_tool(const struct sl_answer *a, const char *name, size_t n)
{
    for (size_t i = 0; i < json_array_size(a->p.tools); i++) {
        const json_t *t = json_array_get(a->p.tools, i), *f = json_object_get(t, "function");
        const json_t *known = json_object_get(f ? f : t, "name");
        if (json_string_length(known) == n && memcmp(json_string_value(known), name, n) == 0)
            return f ? f : t;
    }
    return NULL;
}

static int is_string(struct part p)
{
    return p.n >= 2 && p.s[0] == '"';
}

/* A JSON string's characters into the scratch buffer. 0, TAKE_BAD, or an error in a->rc. */
static int unescape(struct sl_answer *a, struct part string, struct part *out)
{
    json_t *v = json_loadb(string.s, string.n, JSON_DECODE_ANY, NULL);
    if (!v) return TAKE_BAD;
    size_t at = a->scratch.len;
    a->rc = sl_buf_add(&a->scratch, json_string_value(v), json_string_length(v));
    *out = (struct part){sl_buf_str(&a->scratch) + at, json_string_length(v)};
    json_decref(v);
    return a->rc;
}

/* The arguments' text: an object, or a string that holds one; absent and null are no arguments. */
static int read_arguments(struct sl_answer *a, struct part value, struct part *out)
{
    if (value.n == 0 || (value.n == 4 && memcmp(value.s, "null", 4) == 0)) {
        *out = (struct part){"{}", 2};
        return 0;
    }
    *out = value;
    if (value.s[0] == '{') return 0;
    if (!is_string(value)) return TAKE_BAD;
    int rc = unescape(a, value, out);
    return rc ? rc : sl_answer_is_object(out->s, out->n) ? 0 : TAKE_BAD;
}

/* One call; announced only when `send`. */
static int read_call(struct sl_answer *a, struct part object, int known, int send)
{
    struct part inner = member(object, "function"), name, id, arguments;
    sl_buf_clear(&a->scratch);
    if (object.n == 0 || object.s[0] != '{') return TAKE_BAD;
    if (inner.n && inner.s[0] == '{') object = inner; /* {"type", "function": {...}} */
    name = member(object, "name|tool_name");
    if (!name.n && is_string(inner)) name = inner;
    arguments = member(object, "arguments|parameters");
    id = member(object, "id|tool_call_id");
    if (!is_string(name) || name.n == 2) return TAKE_BAD;
    if (memchr(name.s, '\\', name.n) || name.n - 2 >= SL_ANSWER_NAME_MAX) return TAKE_BAD;
    if (known && !sl_answer_tool(a, name.s + 1, name.n - 2)) return TAKE_BAD;
    int rc = read_arguments(a, arguments, &arguments);
    if (rc || !send) return rc;
    int has_id = is_string(id) && !memchr(id.s, '\\', id.n);
    return sl_answer_call(a, name.s + 1, name.n - 2, has_id ? id.s + 1 : NULL,
                          has_id ? id.n - 2 : 0, arguments.s, arguments.n);
}

static int each_call(struct sl_answer *a, const char *s, size_t n, int known, int send)
{
    struct reader r = {s, n, 0};
    if (!read_char(&r, "[")) return read_call(a, (struct part){s, n}, known, send);
    do {
        int rc = read_call(a, read_value(&r), known, send);
        if (rc) return rc;
    } while (read_char(&r, ","));
    return 0;
}

int sl_answer_json_calls(struct sl_answer *a, const char *s, size_t n, int known)
{
    json_t *v = json_loadb(s, n, JSON_ALLOW_NUL, NULL);
    int valid = json_is_object(v) || json_array_size(v) > 0;
    json_decref(v);
    if (!valid) return TAKE_BAD;
    int rc = each_call(a, s, n, known, 0); /* all or none */
    return rc ? rc : each_call(a, s, n, known, 1);
}
