/* tmpl_filters.c - Jinja's filters on single values; those on sequences are in tmpl_func.c. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"
#include "model/tmpl.h"
#include "model/tmpl_filters.h"

typedef struct sl_tmpl_run run;
typedef struct sl_tv tv;

static int absent(const tv *v)
{
    return v->type == TV_ABSENT;
}

static int integer(run *r, const tv *v, int64_t def, int64_t *out)
{
    *out = def;
    if (absent(v)) return 0;
    if (v->type != TV_INT && v->type != TV_BOOL)
        return sl_tmpl_fail(r, "an integer was expected, not '%s'", sl_tv_type_name(v));
    *out = v->u.i;
    return 0;
}

/* The value as text, in place; then the string method of the same kind. */
static int by_method(run *r, tv *a, const char *name, tv *out)
{
    int blocked;
    tv s;
    if (sl_tv_to_str(r, &a[0], &s)) return SL_EINPUT;
    a[0] = s;
    return sl_tmpl_method_find(&s, name, strlen(name), &blocked)->fn(r, a, out);
}

static int f_upper(run *r, tv *a, tv *out)
{
    return by_method(r, a, "upper", out);
}

static int f_lower(run *r, tv *a, tv *out)
{
    return by_method(r, a, "lower", out);
}

static int f_capitalize(run *r, tv *a, tv *out)
{
    return by_method(r, a, "capitalize", out);
}

static int f_trim(run *r, tv *a, tv *out)
{
    return by_method(r, a, "strip", out);
}

static int f_center(run *r, tv *a, tv *out)
{
    if (absent(&a[1])) a[1] = TV_MAKE_INT(80);
    return by_method(r, a, "center", out);
}

static int f_replace(run *r, tv *a, tv *out)
{
    for (int i = 1; i <= 2; i++) {
        tv s;
        if (sl_tv_to_str(r, &a[i], &s)) return SL_EINPUT;
        a[i] = s;
    }
    return by_method(r, a, "replace", out);
}

/* Words begin after white space and after - ( { [ <. */
static int f_title(run *r, tv *a, tv *out)
{
    tv s, word, text;
    size_t mark = r->out.len, i = 0;
    if (sl_tv_to_str(r, &a[0], &s)) return SL_EINPUT;
    while (i < s.n) {
        size_t from = i;
        uint32_t c = 0;
        for (; i < s.n; i += (size_t)sl_utf8_get(s.u.s + i, s.n - i, &c)) {
            sl_utf8_get(s.u.s + i, s.n - i, &c);
            if (sl_tmpl_is_space(c) || (c < 0x80 && strchr("-({[<", (int)c) && c)) break;
        }
        word = (tv){.type = TV_STR, .n = (uint32_t)(i - from), .u.s = s.u.s + from};
        if (sl_tmpl_case(r, &word, CASE_CAPITAL, &text) || sl_tmpl_put(r, text.u.s, text.n))
            return SL_EINPUT;
        if (i < s.n) {
            size_t len = (size_t)sl_utf8_get(s.u.s + i, s.n - i, &c);
            if (sl_tmpl_put(r, s.u.s + i, len)) return SL_EINPUT;
            i += len;
        }
    }
    return sl_tmpl_take(r, mark, out);
}

static int f_default(run *r, tv *a, tv *out)
{
    tv empty = TV_TEXT("");
    (void)r;
    int use = a->type == TV_UNDEF || (sl_tv_truth(&a[2]) && !sl_tv_truth(a));
    *out = !use ? a[0] : absent(&a[1]) ? empty : a[1];
    return 0;
}

static int f_length(run *r, tv *a, tv *out)
{
    int64_t n;
    if (sl_tv_length(r, a, &n)) return SL_EINPUT;
    *out = TV_MAKE_INT(n);
    return 0;
}

static int f_string(run *r, tv *a, tv *out)
{
    return sl_tv_to_str(r, a, out);
}

static int f_safe(run *r, tv *a, tv *out)
{
    if (sl_tv_to_str(r, a, out)) return SL_EINPUT;
    out->flag = TV_STR_SAFE;
    return 0;
}

static int f_forceescape(run *r, tv *a, tv *out)
{
    tv s;
    size_t mark = r->out.len;
    if (sl_tv_to_str(r, a, &s)) return SL_EINPUT;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.u.s[i];
        const char *e = c == '&'    ? "&amp;"
                        : c == '<'  ? "&lt;"
                        : c == '>'  ? "&gt;"
                        : c == '"'  ? "&#34;"
                        : c == '\'' ? "&#39;"
                                    : NULL;
        if (e ? sl_tmpl_put(r, e, strlen(e)) : sl_tmpl_put(r, &c, 1)) return SL_EINPUT;
    }
    if (sl_tmpl_charge(r, s.n / 16) || sl_tmpl_take(r, mark, out)) return SL_EINPUT;
    out->flag = TV_STR_SAFE;
    return 0;
}

static int f_escape(run *r, tv *a, tv *out)
{
    if (a->type != TV_STR || !(a->flag & TV_STR_SAFE)) return f_forceescape(r, a, out);
    *out = *a;
    return 0;
}

static int f_int(run *r, tv *a, tv *out)
{
    int64_t base, i = 0;
    double f = 0;
    int rc = 1;
    if (integer(r, &a[2], 10, &base)) return SL_EINPUT;
    if (base != 0 && (base < 2 || base > 36))
        return sl_tmpl_fail(r, "int: the base must be 2 to 36, or 0");
    if (a->type == TV_UNDEF) return sl_tmpl_fail_undef(r, a);
    if (a->type == TV_INT || a->type == TV_BOOL) {
        i = a->u.i;
        rc = 0;
    } else if (a->type == TV_STR) {
        rc = sl_tmpl_to_int(a->u.s, a->n, (int)base, &i);
    }
    if (rc == 1 && (a->type == TV_FLOAT || a->type == TV_STR)) {
        if (a->type == TV_FLOAT) f = a->u.f;
        if ((a->type == TV_FLOAT || sl_tmpl_to_float(a->u.s, a->n, &f) == 0) && isfinite(f)) {
            rc = fabs(f) < 9.2e18 ? 0 : 2;
            if (rc == 0) i = (int64_t)f;
        }
    }
    if (rc == 2) return sl_tmpl_fail(r, "int: the number does not fit in 64 bits");
    *out = rc == 0 ? TV_MAKE_INT(i) : absent(&a[1]) ? TV_MAKE_INT(0) : a[1];
    return 0;
}

static int f_float(run *r, tv *a, tv *out)
{
    double f = 0;
    int rc = 1;
    if (a->type == TV_UNDEF) return sl_tmpl_fail_undef(r, a);
    if (sl_tv_is_number(a)) {
        f = sl_tv_number(a);
        rc = 0;
    } else if (a->type == TV_STR) {
        rc = sl_tmpl_to_float(a->u.s, a->n, &f);
    }
    *out = rc == 0 ? TV_MAKE_FLOAT(f) : absent(&a[1]) ? TV_MAKE_FLOAT(0.0) : a[1];
    return 0;
}

static int f_abs(run *r, tv *a, tv *out)
{
    if (!sl_tv_is_number(a)) return sl_tmpl_fail(r, "abs of a '%s'", sl_tv_type_name(a));
    *out = a->type == TV_FLOAT ? TV_MAKE_FLOAT(fabs(a->u.f)) : TV_MAKE_INT(a->u.i);
    if (out->type == TV_INT && out->u.i < 0 && __builtin_sub_overflow(0, out->u.i, &out->u.i))
        return sl_tmpl_fail(r, "the result of abs does not fit in 64 bits");
    return 0;
}

static int is_word(const tv *v, const char *s)
{
    return v->type == TV_STR && v->n == strlen(s) && memcmp(v->u.s, s, v->n) == 0;
}

static int f_round(run *r, tv *a, tv *out)
{
    int64_t digits;
    int common = absent(&a[2]) || is_word(&a[2], "common");
    if (integer(r, &a[1], 0, &digits)) return SL_EINPUT;
    if (!common && !is_word(&a[2], "ceil") && !is_word(&a[2], "floor"))
        return sl_tmpl_fail(r, "round: the method must be common, ceil or floor");
    if (!sl_tv_is_number(a)) return sl_tmpl_fail(r, "round of a '%s'", sl_tv_type_name(a));
    double f = sl_tv_number(a), scale = pow(10, (double)digits);
    *out = *a;
    if (common && a->type != TV_FLOAT && digits >= 0) {
        out->type = TV_INT;
        return 0;
    }
    if (!isfinite(f)) return 0;
    if (!common) {
        f = (is_word(&a[2], "ceil") ? ceil(f * scale) : floor(f * scale)) / scale;
    } else if (digits >= 0 && digits <= 300) {
        char text[700]; /* printf rounds the exact value, ties to even, as Python does */
        snprintf(text, sizeof text, "%.*f", (int)digits, f);
        f = strtod(text, NULL);
    } else if (digits < 0) {
        f = digits < -300 ? 0 : nearbyint(f * scale) / scale;
    }
    *out = a->type == TV_FLOAT || !common ? TV_MAKE_FLOAT(f) : TV_MAKE_INT((int64_t)f);
    return 0;
}

/* indent(s, width=4, first=False, blank=False) */
static int f_indent(run *r, tv *a, tv *out)
{
    tv s, spaces, four = TV_TEXT("    "), one = TV_TEXT(" ");
    tv width = absent(&a[1]) ? four : a[1];
    size_t mark = r->out.len;
    if (width.type == TV_INT) {
        if (sl_tv_binary(r, OP_MUL, &one, &width, &spaces)) return SL_EINPUT;
        width = spaces;
    }
    if (width.type != TV_STR)
        return sl_tmpl_fail(r, "indent: the width must be an integer or a string");
    if (a->type == TV_UNDEF) return sl_tmpl_fail_undef(r, a);
    if (a->type != TV_STR) return sl_tmpl_fail(r, "indent of a '%s'", sl_tv_type_name(a));
    s = *a;
    int lead = sl_tv_truth(&a[2]), blank = sl_tv_truth(&a[3]);
    for (size_t i = 0, line = 0; i < s.n || line == 0; line++) {
        const char *nl = s.n > i ? memchr(s.u.s + i, '\n', s.n - i) : NULL;
        size_t e = nl ? (size_t)(nl - s.u.s) : s.n;
        int indent = line == 0 ? lead : blank || e > i;
        if ((indent && sl_tmpl_put(r, width.u.s, width.n)) || sl_tmpl_put(r, s.u.s + i, e - i))
            return SL_EINPUT;
        if (!nl) break;
        if (sl_tmpl_put(r, "\n", 1) || sl_tmpl_charge(r, 1)) return SL_EINPUT;
        i = e + 1;
        if (i == s.n && blank && sl_tmpl_put(r, width.u.s, width.n)) return SL_EINPUT;
    }
    return sl_tmpl_take(r, mark, out);
}

/* truncate(s, length=255, killwords=False, end='...', leeway=5) */
static int f_truncate(run *r, tv *a, tv *out)
{
    tv s, end = absent(&a[3]) ? TV_TEXT("...") : a[3];
    int64_t length, leeway;
    size_t mark = r->out.len;
    if (integer(r, &a[1], 255, &length) || integer(r, &a[4], 5, &leeway)) return SL_EINPUT;
    if (end.type != TV_STR) return sl_tmpl_fail(r, "truncate: the end must be a string");
    int64_t n, m = (int64_t)sl_tmpl_text_len(end.u.s, end.n);
    if (sl_tv_length(r, a, &n)) return SL_EINPUT;
    if (length < m || leeway < 0)
        return sl_tmpl_fail(r, "truncate: the length is shorter than the end");
    *out = s = *a;
    if (leeway >= n || length >= n - leeway) return 0;
    if (a->type != TV_STR) return sl_tmpl_fail(r, "truncate of a '%s'", sl_tv_type_name(a));
    size_t cut = sl_tmpl_text_at(s.u.s, s.n, (size_t)(length - m)), c = cut;
    if (!sl_tv_truth(&a[2])) {
        while (c > 0 && s.u.s[c - 1] != ' ') c--;
        if (c > 0) cut = c - 1;
    }
    if (sl_tmpl_put(r, s.u.s, cut) || sl_tmpl_put(r, end.u.s, end.n)) return SL_EINPUT;
    return sl_tmpl_take(r, mark, out);
}

static int f_wordcount(run *r, tv *a, tv *out)
{
    tv s;
    int64_t n = 0;
    int in = 0;
    if (sl_tv_to_str(r, a, &s) || sl_tmpl_charge(r, s.n / 16)) return SL_EINPUT;
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.u.s[i];
        int w =
            c >= 0x80 || c == '_' || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
        n += w && !in;
        in = w;
    }
    *out = TV_MAKE_INT(n);
    return 0;
}

/* `query`: a space is '+', and '/' is quoted. */
static int put_quoted(run *r, const tv *v, int query)
{
    const char *keep = query ? "_.-~" : "_.-~/";
    tv s;
    if (sl_tv_to_str(r, v, &s) || sl_tmpl_charge(r, s.n)) return SL_EINPUT;
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.u.s[i];
        int plain = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z' && c < 0x80) ||
                    (c && strchr(keep, c));
        int rc = plain               ? sl_tmpl_put(r, s.u.s + i, 1)
                 : query && c == ' ' ? sl_tmpl_put(r, "+", 1)
                                     : sl_tmpl_putf(r, "%%%02X", c);
        if (rc) return rc;
    }
    return 0;
}

/* A string by itself; a dict or a list of pairs as a query. */
static int f_urlencode(run *r, tv *a, tv *out)
{
    size_t mark = r->out.len;
    tv list, pair;
    if (a->type != TV_DICT && !sl_tv_is_list(a))
        return put_quoted(r, a, 0) ? SL_EINPUT : sl_tmpl_take(r, mark, out);
    tv self = *a;
    if (a->type == TV_DICT && sl_tmpl_filter_find("items", 5)->fn(r, a, &self)) return SL_EINPUT;
    if (sl_tv_iterate(r, &self, &list)) return SL_EINPUT;
    for (size_t i = 0; i < list.u.list->n; i++) {
        if (sl_tv_iterate(r, &list.u.list->v[i], &pair)) return SL_EINPUT;
        if (pair.u.list->n != 2) return sl_tmpl_fail(r, "urlencode needs pairs");
        if ((i && sl_tmpl_put(r, "&", 1)) || put_quoted(r, &pair.u.list->v[0], 1) ||
            sl_tmpl_put(r, "=", 1) || put_quoted(r, &pair.u.list->v[1], 1))
            return SL_EINPUT;
    }
    return sl_tmpl_take(r, mark, out);
}

static int f_format(run *r, const tv *self, const struct sl_tmpl_args *args, tv *out)
{
    tv s, tuple;
    if (sl_tv_to_str(r, self, &s)) return SL_EINPUT;
    if (args->n && args->n_kw)
        return sl_tmpl_fail(r, "format: positional or named values, not both");
    if (args->n_kw) {
        if (sl_tv_dict_new(r, TV_DICT, 0, &tuple)) return SL_EINPUT;
        for (size_t i = 0; i < args->n_kw; i++) {
            tv k = {.type = TV_STR, .n = args->kw[i].n, .u.s = args->kw[i].name};
            if (sl_tv_dict_set(r, &tuple, &k, &args->kw[i].v)) return SL_EINPUT;
        }
    } else {
        if (sl_tv_list_new(r, TV_TUPLE, args->n, &tuple)) return SL_EINPUT;
        for (size_t i = 0; i < args->n; i++)
            if (sl_tv_list_add(r, &tuple, &args->pos[i])) return SL_EINPUT;
    }
    return sl_tmpl_percent(r, &s, &tuple, out);
}

static int f_attr(run *r, tv *a, tv *out)
{
    if (a[1].type != TV_STR) return sl_tmpl_fail(r, "attr needs a name");
    if (a->type != TV_DICT) return sl_tv_attr(r, a, a[1].u.s, a[1].n, out);
    tv none = {.type = TV_DICT}; /* attributes only, never the items */
    if (sl_tv_dict_new(r, TV_DICT, 0, &none)) return SL_EINPUT;
    if (sl_tv_attr(r, &none, a[1].u.s, a[1].n, out)) return SL_EINPUT;
    if (out->type == TV_METHOD) out->u.bound->self = *a;
    return 0;
}

static int f_pprint(run *r, tv *a, tv *out)
{
    size_t mark = r->out.len;
    return sl_tv_put_repr(r, a, 0) ? SL_EINPUT : sl_tmpl_take(r, mark, out);
}

static const struct sl_tmpl_builtin filters[] = {
    {"trim", "|chars", f_trim, NULL},
    {"tojson", "|ensure_ascii,indent,separators,sort_keys", sl_tv_put_json, NULL},
    {"length", "", f_length, NULL},
    {"count", "", f_length, NULL},
    {"default", "|default_value,boolean", f_default, NULL},
    {"d", "|default_value,boolean", f_default, NULL},
    {"string", "", f_string, NULL},
    {"int", "|default,base", f_int, NULL},
    {"float", "|default", f_float, NULL},
    {"abs", "", f_abs, NULL},
    {"round", "|precision,method", f_round, NULL},
    {"upper", "", f_upper, NULL},
    {"lower", "", f_lower, NULL},
    {"title", "", f_title, NULL},
    {"capitalize", "", f_capitalize, NULL},
    {"replace", "old,new|count", f_replace, NULL},
    {"indent", "|width,first,blank", f_indent, NULL},
    {"center", "|width", f_center, NULL},
    {"truncate", "|length,killwords,end,leeway", f_truncate, NULL},
    {"wordcount", "", f_wordcount, NULL},
    {"urlencode", "", f_urlencode, NULL},
    {"escape", "", f_escape, NULL},
    {"e", "", f_escape, NULL},
    {"forceescape", "", f_forceescape, NULL},
    {"safe", "", f_safe, NULL},
    {"format", NULL, NULL, f_format},
    {"attr", "name", f_attr, NULL},
    {"pprint", "", f_pprint, NULL},
};

const struct sl_tmpl_builtin *sl_tmpl_filter_find(const char *name, size_t n)
{
    const struct sl_tmpl_builtin *b = sl_tmpl_builtin_in(filters, SL_ARRAY_LEN(filters), name, n);
    return b ? b : sl_tmpl_list_filter_find(name, n);
}
