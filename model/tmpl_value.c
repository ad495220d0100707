/* tmpl_value.c - values of a chat template: building, iterating and printing them as Python does.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "model/tmpl.h"

const char *sl_tv_type_name(const struct sl_tv *v)
{
    static const char *const names[] = {
        "nothing", "Undefined", "NoneType", "bool",        "int",       "float",
        "str",     "list",      "tuple",    "range",       "dict view", "generator",
        "dict",    "Namespace", "Macro",    "LoopContext", "method",    "function",
    };
    SL_ASSERT(v->type < SL_ARRAY_LEN(names));
    return names[v->type];
}

int sl_tv_is_list(const struct sl_tv *v)
{
    return v->type >= TV_LIST && v->type <= TV_GEN;
}

int sl_tv_is_number(const struct sl_tv *v)
{
    return v->type >= TV_BOOL && v->type <= TV_FLOAT;
}

double sl_tv_number(const struct sl_tv *v)
{
    return v->type == TV_FLOAT ? v->u.f : (double)v->u.i;
}

int sl_tv_truth(const struct sl_tv *v)
{
    switch (v->type) {
    case TV_ABSENT:
    case TV_UNDEF:
    case TV_NONE:
        return 0;
    case TV_BOOL:
    case TV_INT:
        return v->u.i != 0;
    case TV_FLOAT:
        return v->u.f != 0;
    case TV_STR:
        return v->n != 0;
    case TV_LIST:
    case TV_TUPLE:
    case TV_RANGE:
    case TV_VIEW:
        return v->u.list->n != 0;
    case TV_DICT:
        return v->u.dict->n != 0;
    }
    return 1;
}

/* ---- lists ----------------------------------------------------------------------------------- */

int sl_tv_list_new(struct sl_tmpl_run *r, int type, size_t cap, struct sl_tv *out)
{
    struct sl_tv_list *l = sl_tmpl_alloc(r, sizeof *l);
    if (!l) return SL_EINPUT;
    if (cap > TMPL_RENDER_BYTES_MAX / sizeof *l->v) return sl_tmpl_fail(r, "a list is too large");
    if (cap && !(l->v = sl_tmpl_alloc(r, cap * sizeof *l->v))) return SL_EINPUT;
    l->cap = cap;
    *out = (struct sl_tv){.type = (uint8_t)type, .u.list = l};
    return 0;
}

int sl_tv_list_add(struct sl_tmpl_run *r, struct sl_tv *list, const struct sl_tv *v)
{
    struct sl_tv_list *l = list->u.list;
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 4;
        struct sl_tv *p = sl_tmpl_alloc(r, cap * sizeof *p);
        if (!p) return SL_EINPUT;
        if (l->n) memcpy(p, l->v, l->n * sizeof *p);
        l->v = p;
        l->cap = cap;
    }
    l->v[l->n++] = *v;
    return 0;
}

/* ---- dicts ----------------------------------------------------------------------------------- */

int sl_tv_dict_new(struct sl_tmpl_run *r, int type, size_t cap, struct sl_tv *out)
{
    struct sl_tv_dict *d = sl_tmpl_alloc(r, sizeof *d);
    if (!d || (cap && !(d->p = sl_tmpl_alloc(r, cap * sizeof *d->p)))) return SL_EINPUT;
    d->cap = cap;
    *out = (struct sl_tv){.type = (uint8_t)type, .u.dict = d};
    return 0;
}

static int key_equal(const struct sl_tv *a, const struct sl_tv *b)
{
    if (a->type == TV_STR)
        return b->type == TV_STR && a->n == b->n &&
               (a->n == 0 || memcmp(a->u.s, b->u.s, a->n) == 0);
    if (sl_tv_is_number(a)) {
        if (!sl_tv_is_number(b)) return 0;
        if (a->type != TV_FLOAT && b->type != TV_FLOAT) return a->u.i == b->u.i;
        return sl_tv_number(a) == sl_tv_number(b);
    }
    if (a->type != b->type) return 0;
    if (a->type == TV_NONE || a->type == TV_UNDEF) return 1;
    if (a->type == TV_TUPLE) {
        if (a->u.list->n != b->u.list->n) return 0;
        for (size_t i = 0; i < a->u.list->n;
             i++) /* a tuple key holds no tuple: see sl_tv_dict_set */
            if (!key_equal(&a->u.list->v[i], &b->u.list->v[i])) return 0;
        return 1;
    }
    return a->u.p == b->u.p;
}

size_t sl_tv_dict_cost(const struct sl_tv *d, const struct sl_tv *k)
{
    size_t n = d->u.dict->n, bytes = k->type == TV_STR ? k->n : 0;
    for (size_t i = 0; k->type == TV_TUPLE && i < k->u.list->n; i++)
        if (k->u.list->v[i].type == TV_STR) bytes += k->u.list->v[i].n;
    return n / 16 + n * (bytes / 256);
}

struct sl_tv *sl_tv_dict_get(const struct sl_tv *d, const struct sl_tv *k)
{
    if (k->type == TV_TUPLE)
        for (size_t i = 0; i < k->u.list->n; i++)
            if (k->u.list->v[i].type == TV_TUPLE) return NULL;
    for (size_t i = 0; i < d->u.dict->n; i++)
        if (key_equal(&d->u.dict->p[i].k, k)) return &d->u.dict->p[i].v;
    return NULL;
}

struct sl_tv *sl_tv_dict_text(const struct sl_tv *d, const char *s, size_t n)
{
    struct sl_tv k = {.type = TV_STR, .n = (uint32_t)n, .u.s = s};
    return sl_tv_dict_get(d, &k);
}

static int dict_append(struct sl_tmpl_run *r, struct sl_tv_dict *d, const struct sl_tv *k,
                       const struct sl_tv *v)
{
    if (d->n == d->cap) {
        size_t cap = d->cap ? d->cap * 2 : 4;
        struct sl_tv_pair *p = sl_tmpl_alloc(r, cap * sizeof *p);
        if (!p) return SL_EINPUT;
        if (d->n) memcpy(p, d->p, d->n * sizeof *p);
        d->p = p;
        d->cap = cap;
    }
    d->p[d->n++] = (struct sl_tv_pair){*k, *v};
    return 0;
}

int sl_tv_dict_set(struct sl_tmpl_run *r, struct sl_tv *d, const struct sl_tv *k,
                   const struct sl_tv *v)
{
    if (k->type == TV_LIST || k->type == TV_DICT)
        return sl_tmpl_fail(r, "a %s cannot be the key of a dict", sl_tv_type_name(k));
    if (k->type == TV_TUPLE)
        for (size_t i = 0; i < k->u.list->n; i++)
            if (k->u.list->v[i].type == TV_TUPLE || k->u.list->v[i].type == TV_LIST)
                return sl_tmpl_fail(r, "a tuple of lists or tuples cannot be the key of a dict");
    if (sl_tmpl_charge(r, sl_tv_dict_cost(d, k))) return SL_EINPUT;
    struct sl_tv *old = sl_tv_dict_get(d, k);
    if (old) {
        *old = *v;
        return 0;
    }
    return dict_append(r, d->u.dict, k, v);
}

/* ---- iterating ------------------------------------------------------------------------------- */

static int characters(struct sl_tmpl_run *r, const struct sl_tv *s, struct sl_tv *list)
{
    size_t n = sl_tmpl_text_len(s->u.s, s->n);
    if (sl_tmpl_charge(r, n / 4) || sl_tv_list_new(r, TV_LIST, n, list)) return SL_EINPUT;
    for (size_t from = 0, i = 0; i < n; i++) {
        size_t len = sl_tmpl_text_at(s->u.s + from, s->n - from, 1);
        struct sl_tv c = {.type = TV_STR, .n = (uint32_t)len, .u.s = s->u.s + from};
        if (sl_tv_list_add(r, list, &c)) return SL_EINPUT;
        from += len;
    }
    return 0;
}

int sl_tv_iterate(struct sl_tmpl_run *r, struct sl_tv *v, struct sl_tv *list)
{
    if (v->type == TV_STR) return characters(r, v, list);
    if (v->type == TV_UNDEF) return sl_tv_list_new(r, TV_LIST, 0, list);
    if (v->type == TV_DICT) {
        size_t n = v->u.dict->n;
        if (sl_tmpl_charge(r, n / 4) || sl_tv_list_new(r, TV_LIST, n, list)) return SL_EINPUT;
        for (size_t i = 0; i < n; i++) list->u.list->v[i] = v->u.dict->p[i].k;
        list->u.list->n = n;
        return 0;
    }
    if (!sl_tv_is_list(v))
        return sl_tmpl_fail(r, "'%s' object is not iterable", sl_tv_type_name(v));
    size_t n = v->u.list->n;
    if (sl_tmpl_charge(r, n / 4) || sl_tv_list_new(r, TV_LIST, v->type == TV_GEN ? 0 : n, list))
        return SL_EINPUT;
    if (v->type == TV_GEN) {
        *list->u.list = *v->u.list;
        *v->u.list = (struct sl_tv_list){0};
    } else if (n) {
        memcpy(list->u.list->v, v->u.list->v, n * sizeof *v);
        list->u.list->n = n;
    }
    return 0;
}

int sl_tv_length(struct sl_tmpl_run *r, const struct sl_tv *v, int64_t *n)
{
    if (v->type == TV_STR)
        *n = (int64_t)sl_tmpl_text_len(v->u.s, v->n);
    else if (v->type == TV_UNDEF)
        *n = 0;
    else if (v->type == TV_DICT)
        *n = (int64_t)v->u.dict->n;
    else if (sl_tv_is_list(v) && v->type != TV_GEN)
        *n = (int64_t)v->u.list->n;
    else
        return sl_tmpl_fail(r, "object of type '%s' has no length", sl_tv_type_name(v));
    return sl_tmpl_charge(r, v->type == TV_STR ? v->n / 64 : 0);
}

/* ---- printing -------------------------------------------------------------------------------- */

void sl_tv_float_repr(double f, char out[40])
{
    if (isnan(f) || isinf(f)) {
        snprintf(out, 40, "%s", isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    char e[40], digits[24];
    int nd = 0, exp, precision = 0;
    do snprintf(e, sizeof e, "%.*e", precision, f);
    while (strtod(e, NULL) != f && ++precision < 17);
    const char *p = e;
    char *o = out;
    if (*p == '-') *o++ = *p++;
    for (; *p != 'e'; p++) /* skips the radix character, whatever the locale */
        if (*p >= '0' && *p <= '9') digits[nd++] = *p;
    exp = atoi(p + 1);
    while (nd > 1 && digits[nd - 1] == '0') nd--;
    if (exp < -4 || exp >= 16) {
        *o++ = digits[0];
        if (nd > 1) *o++ = '.';
        for (int i = 1; i < nd; i++) *o++ = digits[i];
        snprintf(o, 16, "e%c%02d", exp < 0 ? '-' : '+', abs(exp));
        return;
    }
    if (exp < 0) {
        *o++ = '0';
        *o++ = '.';
        for (int i = -1; i > exp; i--) *o++ = '0';
        for (int i = 0; i < nd; i++) *o++ = digits[i];
    } else {
        for (int i = 0; i < nd || i <= exp; i++) {
            if (i == exp + 1) *o++ = '.';
            *o++ = i < nd ? digits[i] : '0';
        }
        if (nd <= exp + 1) {
            *o++ = '.';
            *o++ = '0';
        }
    }
    *o = 0;
}

static int put_items(struct sl_tmpl_run *r, const struct sl_tv *v, const char *open,
                     const char *close, int depth)
{
    int rc = sl_tmpl_put(r, open, strlen(open));
    for (size_t i = 0; rc == 0 && i < v->u.list->n; i++) {
        if (i) rc = sl_tmpl_put(r, ", ", 2);
        if (rc == 0) rc = sl_tv_put_repr(r, &v->u.list->v[i], depth + 1);
    }
    return rc ? rc : sl_tmpl_put(r, close, strlen(close));
}

static int put_dict(struct sl_tmpl_run *r, const struct sl_tv *v, int depth)
{
    int rc = sl_tmpl_put(r, "{", 1);
    for (size_t i = 0; rc == 0 && i < v->u.dict->n; i++) {
        const struct sl_tv_pair *p = &v->u.dict->p[i];
        if ((i && sl_tmpl_put(r, ", ", 2)) || sl_tv_put_repr(r, &p->k, depth + 1) ||
            sl_tmpl_put(r, ": ", 2) || sl_tv_put_repr(r, &p->v, depth + 1))
            return SL_EINPUT;
    }
    return rc ? rc : sl_tmpl_put(r, "}", 1);
}

static int put_list(struct sl_tmpl_run *r, const struct sl_tv *v, int depth)
{
    static const char *const views[] = {"(", "dict_keys([", "dict_values([", "dict_items(["};
    const struct sl_tv_list *l = v->u.list;
    switch (v->type) {
    case TV_LIST:
        return put_items(r, v, "[", "]", depth);
    case TV_TUPLE:
        return put_items(r, v, "(", l->n == 1 ? ",)" : ")", depth);
    case TV_VIEW:
        return put_items(r, v, views[v->flag & 3], "])", depth);
    case TV_RANGE:
        if (l->step == 1)
            return sl_tmpl_putf(r, "range(%lld, %lld)", (long long)l->start, (long long)l->stop);
        return sl_tmpl_putf(r, "range(%lld, %lld, %lld)", (long long)l->start, (long long)l->stop,
                            (long long)l->step);
    }
    return sl_tmpl_putf(r, "<generator object>");
}

int sl_tv_put_repr(struct sl_tmpl_run *r, const struct sl_tv *v, int depth)
{
    char f[40];
    if (depth > TMPL_VALUE_DEPTH_MAX)
        return sl_tmpl_fail(r, "a value is nested too deeply to print");
    if (sl_tmpl_charge(r, 1)) return SL_EINPUT;
    if (sl_tv_is_list(v)) return put_list(r, v, depth);
    switch (v->type) {
    case TV_UNDEF:
        return sl_tmpl_putf(r, "Undefined");
    case TV_NONE:
        return sl_tmpl_putf(r, "None");
    case TV_BOOL:
        return sl_tmpl_putf(r, v->u.i ? "True" : "False");
    case TV_INT:
        return sl_tmpl_putf(r, "%lld", (long long)v->u.i);
    case TV_FLOAT:
        sl_tv_float_repr(v->u.f, f);
        return sl_tmpl_put(r, f, strlen(f));
    case TV_STR:
        return sl_tmpl_put_text_repr(r, v->u.s, v->n);
    case TV_DICT:
        return put_dict(r, v, depth);
    case TV_NS:
        if (sl_tmpl_putf(r, "<Namespace ") || put_dict(r, v, depth)) return SL_EINPUT;
        return sl_tmpl_put(r, ">", 1);
    case TV_MACRO:
        return sl_tmpl_putf(r, "<Macro '%.*s'>", (int)v->u.macro->node->val.n,
                            v->u.macro->node->val.u.s);
    case TV_LOOP:
        return sl_tmpl_putf(r, "<LoopContext %zu/%zu>", v->u.loop->i + 1, v->u.loop->n);
    }
    return sl_tmpl_putf(r, "<%s>", sl_tv_type_name(v));
}

int sl_tv_put_str(struct sl_tmpl_run *r, const struct sl_tv *v)
{
    if (v->type == TV_STR) return sl_tmpl_put(r, v->u.s, v->n);
    if (v->type == TV_UNDEF) return 0;
    return sl_tv_put_repr(r, v, 0);
}

int sl_tv_to_str(struct sl_tmpl_run *r, const struct sl_tv *v, struct sl_tv *out)
{
    if (v->type == TV_STR) {
        *out = *v;
        return 0;
    }
    size_t mark = r->out.len;
    int rc = sl_tv_put_str(r, v);
    return rc ? rc : sl_tmpl_take(r, mark, out);
}
