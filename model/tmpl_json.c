/* tmpl_json.c - JSON in (the caller's variables) and out (the filter tojson, laid out as Python's
 * json.dumps). */
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "base/text.h"
#include "model/tmpl.h"

#define INDENT_MAX 64 /* spaces or bytes of one level */

int sl_tv_from_json(struct sl_tmpl_run *r, const json_t *j, int depth, struct sl_tv *out)
{
    size_t n, i;
    if (depth > TMPL_VALUE_DEPTH_MAX) return sl_tmpl_fail(r, "a variable is nested too deeply");
    if (sl_tmpl_charge(r, 1)) return SL_EINPUT;
    switch (json_typeof(j)) {
    case JSON_NULL:
        *out = TV_MAKE_NONE;
        return 0;
    case JSON_TRUE:
    case JSON_FALSE:
        *out = TV_MAKE_BOOL(json_is_true(j));
        return 0;
    case JSON_INTEGER:
        *out = TV_MAKE_INT(json_integer_value(j));
        return 0;
    case JSON_REAL:
        *out = TV_MAKE_FLOAT(json_real_value(j));
        return 0;
    case JSON_STRING:
        n = json_string_length(j);
        if (n > SL_TEMPLATE_OUTPUT_MAX) return sl_tmpl_fail(r, "a variable is too large");
        *out = (struct sl_tv){.type = TV_STR, .n = (uint32_t)n, .u.s = json_string_value(j)};
        return 0;
    case JSON_ARRAY:
        n = json_array_size(j);
        if (sl_tv_list_new(r, TV_LIST, n, out)) return SL_EINPUT;
        for (i = 0; i < n; i++, out->u.list->n++)
            if (sl_tv_from_json(r, json_array_get(j, i), depth + 1, &out->u.list->v[i]))
                return SL_EINPUT;
        return 0;
    case JSON_OBJECT:
        break;
    }
    if (sl_tv_dict_new(r, TV_DICT, json_object_size(j), out)) return SL_EINPUT;
    for (void *it = json_object_iter((json_t *)(uintptr_t)j); it;
         it = json_object_iter_next((json_t *)(uintptr_t)j, it)) {
        struct sl_tv_pair *p = &out->u.dict->p[out->u.dict->n++]; /* keys are unique already */
        const char *key = json_object_iter_key(it);
        p->k = (struct sl_tv){.type = TV_STR, .n = (uint32_t)strlen(key), .u.s = key};
        if (sl_tv_from_json(r, json_object_iter_value(it), depth + 1, &p->v)) return SL_EINPUT;
    }
    return 0;
}

struct writer {
    struct sl_tmpl_run *r;
    int ascii, sort, pretty;
    char indent[INDENT_MAX + 1];
    const char *item, *key; /* separators */
    size_t n_item, n_key;
};

static int put_string(struct writer *w, const char *s, size_t n)
{
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    int rc = sl_tmpl_put(w->r, "\"", 1);
    size_t plain = 0;
    for (size_t i = 0; rc == 0 && i < n;) {
        unsigned char c = (unsigned char)s[i];
        const char *esc = c ? memchr(from, c, sizeof from - 1) : NULL;
        if (!esc && c >= 0x20 && !(w->ascii && c >= 0x7f)) {
            i++;
            continue;
        }
        if (i > plain) rc = sl_tmpl_put(w->r, s + plain, i - plain);
        uint32_t cp;
        int len = sl_utf8_get(s + i, n - i, &cp);
        if (rc == 0 && esc)
            rc = sl_tmpl_putf(w->r, "\\%c", to[esc - from]);
        else if (rc == 0 && cp >= 0x10000)
            rc = sl_tmpl_putf(w->r, "\\u%04x\\u%04x", 0xd800 + ((cp - 0x10000) >> 10),
                              0xdc00 + ((cp - 0x10000) & 0x3ff));
        else if (rc == 0)
            rc = sl_tmpl_putf(w->r, "\\u%04x", cp);
        i += (size_t)len;
        plain = i;
    }
    if (rc == 0 && n > plain) rc = sl_tmpl_put(w->r, s + plain, n - plain);
    return rc ? rc : sl_tmpl_put(w->r, "\"", 1);
}

static int newline(struct writer *w, int depth)
{
    if (!w->pretty) return 0;
    int rc = sl_tmpl_put(w->r, "\n", 1);
    for (int i = 0; rc == 0 && i < depth; i++) rc = sl_tmpl_put(w->r, w->indent, strlen(w->indent));
    return rc;
}

static int put_number(struct writer *w, const struct sl_tv *v)
{
    char f[40];
    if (v->type == TV_INT) return sl_tmpl_putf(w->r, "%lld", (long long)v->u.i);
    if (isnan(v->u.f) || isinf(v->u.f))
        return sl_tmpl_putf(w->r, "%s",
                            isnan(v->u.f) ? "NaN"
                            : v->u.f < 0  ? "-Infinity"
                                          : "Infinity");
    sl_tv_float_repr(v->u.f, f);
    return sl_tmpl_put(w->r, f, strlen(f));
}

static int put(struct writer *w, const struct sl_tv *v, int depth);

static int put_key(struct writer *w, const struct sl_tv *k)
{
    if (k->type == TV_STR) return put_string(w, k->u.s, k->n);
    if (!sl_tv_is_number(k) && k->type != TV_NONE)
        return sl_tmpl_fail(w->r, "tojson: a '%s' cannot be a key", sl_tv_type_name(k));
    return sl_tmpl_put(w->r, "\"", 1) || put(w, k, 0) ? SL_EINPUT : sl_tmpl_put(w->r, "\"", 1);
}

static int put_list(struct writer *w, const struct sl_tv_list *l, int depth)
{
    int rc = sl_tmpl_put(w->r, "[", 1);
    for (size_t i = 0; rc == 0 && i < l->n; i++)
        if ((i && sl_tmpl_put(w->r, w->item, w->n_item)) || newline(w, depth + 1) ||
            put(w, &l->v[i], depth + 1))
            return SL_EINPUT;
    if (rc == 0 && l->n) rc = newline(w, depth);
    return rc ? rc : sl_tmpl_put(w->r, "]", 1);
}

/* The pairs in the order of their keys, in new memory. */
static int sorted(struct writer *w, const struct sl_tv_dict *d, struct sl_tv_pair **out)
{
    struct sl_tv_pair *p = sl_tmpl_alloc(w->r, d->n * sizeof *p);
    if (!p) return SL_EINPUT;
    for (size_t i = 0; i < d->n; i++) {
        size_t k = i;
        for (int less; k > 0; k--) {
            if (sl_tv_order(w->r, OP_LT, &d->p[i].k, &p[k - 1].k, 0, &less)) return SL_EINPUT;
            if (!less) break;
            p[k] = p[k - 1];
        }
        p[k] = d->p[i];
    }
    *out = p;
    return 0;
}

static int put_dict(struct writer *w, const struct sl_tv_dict *d, int depth)
{
    struct sl_tv_pair *p = d->p;
    int rc = w->sort && d->n ? sorted(w, d, &p) : 0;
    if (rc == 0) rc = sl_tmpl_put(w->r, "{", 1);
    for (size_t i = 0; rc == 0 && i < d->n; i++)
        if ((i && sl_tmpl_put(w->r, w->item, w->n_item)) || newline(w, depth + 1) ||
            put_key(w, &p[i].k) || sl_tmpl_put(w->r, w->key, w->n_key) ||
            put(w, &p[i].v, depth + 1))
            return SL_EINPUT;
    if (rc == 0 && d->n) rc = newline(w, depth);
    return rc ? rc : sl_tmpl_put(w->r, "}", 1);
}

static int put(struct writer *w, const struct sl_tv *v, int depth)
{
    if (depth > TMPL_VALUE_DEPTH_MAX)
        return sl_tmpl_fail(w->r, "tojson: the value is nested too deeply");
    if (sl_tmpl_charge(w->r, 1)) return SL_EINPUT;
    switch (v->type) {
    case TV_NONE:
        return sl_tmpl_put(w->r, "null", 4);
    case TV_BOOL:
        return v->u.i ? sl_tmpl_put(w->r, "true", 4) : sl_tmpl_put(w->r, "false", 5);
    case TV_INT:
    case TV_FLOAT:
        return put_number(w, v);
    case TV_STR:
        return put_string(w, v->u.s, v->n);
    case TV_LIST:
    case TV_TUPLE:
        return put_list(w, v->u.list, depth);
    case TV_DICT:
        return put_dict(w, v->u.dict, depth);
    }
    return sl_tmpl_fail(w->r, "tojson: object of type '%s' is not JSON serializable",
                        sl_tv_type_name(v));
}

/* a: value, ensure_ascii, indent, separators, sort_keys */
int sl_tv_put_json(struct sl_tmpl_run *r, struct sl_tv *a, struct sl_tv *out)
{
    struct writer w = {.r = r,
                       .ascii = sl_tv_truth(&a[1]),
                       .sort = sl_tv_truth(&a[4]),
                       .item = ", ",
                       .n_item = 2,
                       .key = ": ",
                       .n_key = 2};
    size_t mark = r->out.len;
    if (a[2].type == TV_INT) {
        int64_t n = a[2].u.i < 0 ? 0 : a[2].u.i;
        if (n > INDENT_MAX) return sl_tmpl_fail(r, "tojson: an indent is at most %d", INDENT_MAX);
        memset(w.indent, ' ', (size_t)n);
        w.pretty = 1;
    } else if (a[2].type == TV_STR) {
        if (a[2].n > INDENT_MAX)
            return sl_tmpl_fail(r, "tojson: an indent is at most %d", INDENT_MAX);
        if (a[2].n) memcpy(w.indent, a[2].u.s, a[2].n);
        w.pretty = 1;
    } else if (a[2].type != TV_ABSENT && a[2].type != TV_NONE) {
        return sl_tmpl_fail(r, "tojson: indent must be an integer or a string");
    }
    if (w.pretty) w.n_item = 1;
    if (a[3].type != TV_ABSENT && a[3].type != TV_NONE) {
        const struct sl_tv *s =
            (a[3].type == TV_TUPLE || a[3].type == TV_LIST) && a[3].u.list->n == 2 ? a[3].u.list->v
                                                                                   : NULL;
        if (!s || s[0].type != TV_STR || s[1].type != TV_STR)
            return sl_tmpl_fail(r, "tojson: separators must be two strings");
        w.item = s[0].u.s;
        w.n_item = s[0].n;
        w.key = s[1].u.s;
        w.n_key = s[1].n;
    }
    return put(&w, &a[0], 0) ? SL_EINPUT : sl_tmpl_take(r, mark, out);
}
