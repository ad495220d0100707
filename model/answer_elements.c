/* answer_elements.c - calls written as elements instead of JSON: Qwen3-Coder's
 * <function=NAME><parameter=KEY>VALUE</parameter>... and GLM's NAME<arg_key>KEY</arg_key>
 * <arg_value>VALUE</arg_value>....
 *
 * Values are bare text; the tool's schema says what they are: a parameter of type string, or one
 * that the schema does not know, is that text, any other is JSON when it reads as JSON. */
#include <string.h>

#include "model/answer_part.h"

struct text {
    const char *s;
    size_t n;
};

/* Takes s[..mark) off the front of *t, and the mark. 0: the mark is not there. */
static int until(struct text *t, const char *mark, struct text *out)
{
    size_t m = strlen(mark);
    for (size_t i = 0; i + m <= t->n; i++) {
        if (memcmp(t->s + i, mark, m) != 0) continue;
        *out = (struct text){t->s, i};
        t->s += i + m;
        t->n -= i + m;
        return 1;
    }
    return 0;
}

static struct text trim(struct text t)
{
    size_t at = sl_answer_skip_space(t.s, t.n, 0);
    while (t.n > at && strchr(" \t\r\n", t.s[t.n - 1])) t.n--;
    return (struct text){t.s + at, t.n - at};
}

/* One line break at either end belongs to the layout. */
static struct text unwrap(struct text t)
{
    if (t.n && t.s[0] == '\n') t.s++, t.n--;
    if (t.n && t.s[t.n - 1] == '\n') t.n--;
    return t;
}

static int starts(struct text *t, const char *mark)
{
    struct text rest = {t->s + sl_answer_skip_space(t->s, t->n, 0), 0};
    rest.n = t->n - (size_t)(rest.s - t->s);
    if (sl_answer_begins(rest.s, rest.n, mark) <= 0) return 0;
    t->s = rest.s + strlen(mark);
    t->n = rest.n - strlen(mark);
    return 1;
}

/* ---- arguments ------------------------------------------------------------------------------- */

static int takes_string(const json_t *tool, struct text key)
{
    const json_t *p = json_object_get(json_object_get(tool, "parameters"), "properties");
    const json_t *schema = json_object_getn(p, key.s, key.n),
                 *type = json_object_get(schema, "type");
    if (!schema) return 1;
    if (json_is_string(type)) return strcmp(json_string_value(type), "string") == 0;
    if (!json_is_array(type)) return 0;
    for (size_t i = 0; i < json_array_size(type); i++) {
        const char *one = json_string_value(json_array_get(type, i));
        if (one && strcmp(one, "string") == 0) return 1;
    }
    return 0;
}

static int put_string(struct sl_buf *b, struct text t)
{
    json_t *v = json_stringn(t.s, t.n);
    char *text = v ? json_dumps(v, JSON_ENCODE_ANY) : NULL;
    int rc = text ? sl_buf_puts(b, text) : SL_EINPUT;
    free(text);
    json_decref(v);
    return rc;
}

static int put_value(struct sl_buf *b, const json_t *tool, struct text key, struct text value)
{
    struct text t = trim(value);
    if (takes_string(tool, key)) return put_string(b, value);
    if (t.n == 4 && memcmp(t.s, "True", 4) == 0) return sl_buf_puts(b, "true");
    if (t.n == 5 && memcmp(t.s, "False", 5) == 0) return sl_buf_puts(b, "false");
    if (t.n == 4 && memcmp(t.s, "None", 4) == 0) return sl_buf_puts(b, "null");
    json_t *v = json_loadb(t.s, t.n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    int rc = v ? sl_buf_add(b, t.s, t.n) : put_string(b, value);
    json_decref(v);
    return rc;
}

static int put_argument(struct sl_answer *a, const json_t *tool, struct text key, struct text value)
{
    struct sl_buf *b = &a->scratch;
    int rc = b->len > 1 ? sl_buf_puts(b, ", ") : 0;
    if (rc == 0) rc = put_string(b, key);
    if (rc == 0) rc = sl_buf_puts(b, ": ");
    return rc ? rc : put_value(b, tool, key, value);
}

/* ---- calls ----------------------------------------------------------------------------------- */

static int announce(struct sl_answer *a, struct text name)
{
    if (sl_buf_putc(&a->scratch, '}')) return TAKE_BAD;
    return sl_answer_call(a, name.s, name.n, NULL, 0, sl_buf_str(&a->scratch), a->scratch.len);
}

static int begin(struct sl_answer *a, struct text name, const json_t **tool)
{
    sl_buf_clear(&a->scratch);
    if (name.n == 0 || name.n >= SL_ANSWER_NAME_MAX || memchr(name.s, '<', name.n) ||
        memchr(name.s, '\n', name.n))
        return TAKE_BAD;
    *tool = sl_answer_tool(a, name.s, name.n);
    return sl_buf_putc(&a->scratch, '{') ? TAKE_BAD : 0;
}

/* t is what lies between <function= and </function>. */
static int read_function(struct sl_answer *a, struct text t)
{
    const json_t *tool;
    struct text name, key, value;
    if (!until(&t, ">", &name)) return TAKE_BAD;
    name = trim(name);
    if (begin(a, name, &tool)) return TAKE_BAD;
    while (starts(&t, "<parameter=")) {
        if (!until(&t, ">", &key) || !until(&t, "</parameter>", &value)) return TAKE_BAD;
        if (put_argument(a, tool, trim(key), unwrap(value))) return TAKE_BAD;
    }
    return trim(t).n ? TAKE_BAD : announce(a, name);
}

/* t is what lies between <tool_call> and </tool_call>. */
static int read_glm(struct sl_answer *a, struct text t)
{
    const json_t *tool;
    struct text name = t, key, value, rest = t;
    if (until(&rest, "<arg_key>", &name)) {
        rest.s -= strlen("<arg_key>");
        rest.n += strlen("<arg_key>");
    } else {
        rest.n = 0;
    }
    name = trim(name);
    if (begin(a, name, &tool)) return TAKE_BAD;
    while (rest.n && starts(&rest, "<arg_key>")) {
        if (!until(&rest, "</arg_key>", &key) || !starts(&rest, "<arg_value>") ||
            !until(&rest, "</arg_value>", &value) || put_argument(a, tool, trim(key), value))
            return TAKE_BAD;
    }
    return trim(rest).n ? TAKE_BAD : announce(a, name);
}

long sl_answer_read_elements(struct sl_answer *a, int final)
{
    static const char open[] = "<tool_call>", end[] = "</tool_call>",
                      function[] = "<function=", function_end[] = "</function>";
    int glm = a->p.style.tools == SL_TOOLS_GLM;
    const char *s = a->in.data, *stop = glm ? end : function_end;
    size_t n = a->in.len, at = 0;
    if (sl_answer_begins(s, n, open) > 0) at = sl_answer_skip_space(s, n, sizeof open - 1);
    if (!glm) {
        int is = sl_answer_begins(s + at, n - at, function);
        if (is <= 0) return is < 0 ? TAKE_MORE : TAKE_BAD;
        at += sizeof function - 1;
    }
    size_t till = sl_answer_search(a, at, stop);
    if (till == SIZE_MAX) return TAKE_MORE;
    size_t past = till + strlen(stop);
    if (!glm) { /* the closing mark behind it, when it is there */
        size_t p = sl_answer_skip_space(s, n, past);
        int is = sl_answer_begins(s + p, n - p, end);
        if (is < 0 && !final) return TAKE_MORE;
        if (is > 0) past = p + sizeof end - 1;
    }
    struct text t = {s + at, till - at};
    return (glm ? read_glm(a, t) : read_function(a, t)) ? TAKE_BAD : (long)past;
}
