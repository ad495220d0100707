/* tmpl_func.c - Jinja's filters on sequences: map, select, sort, groupby, join and their kin. */
#include <string.h>

#include "base/sl_assert.h"
#include "model/tmpl.h"
#include "model/tmpl_filters.h"

typedef struct sl_tmpl_run run;
typedef struct sl_tv tv;

#define ATTR_PARTS_MAX 32 /* dots in an attribute name */

static int absent(const tv *v)
{
    return v->type == TV_ABSENT || v->type == TV_NONE;
}

/* item.a.b.0 for the attribute "a.b.0" (or an integer): items first, then attributes, as v[...]
 * does. `def` (NULL or absent: none) stands for each part that is undefined. */
static int attribute_or(run *r, const tv *item, const tv *path, const tv *def, tv *out)
{
    *out = *item;
    if (def && absent(def)) def = NULL;
    if (path->type == TV_INT) {
        int rc = sl_tv_item(r, item, path, out);
        if (rc == 0 && def && out->type == TV_UNDEF) *out = *def;
        return rc;
    }
    if (path->type != TV_STR) return sl_tmpl_fail(r, "an attribute must be a name");
    const char *p = path->u.s, *end = p + path->n;
    for (int parts = 0; p <= end; parts++) {
        const char *dot = p < end ? memchr(p, '.', (size_t)(end - p)) : NULL;
        size_t n = (size_t)((dot ? dot : end) - p);
        tv from = *out, key = {.type = TV_STR, .n = (uint32_t)n, .u.s = p};
        int64_t i;
        if (parts == ATTR_PARTS_MAX) return sl_tmpl_fail(r, "an attribute has too many dots");
        if (n && p[0] >= '0' && p[0] <= '9' && sl_tmpl_to_int(p, n, 10, &i) == 0)
            key = TV_MAKE_INT(i);
        if (sl_tv_item(r, &from, &key, out)) return SL_EINPUT;
        if (def && out->type == TV_UNDEF) *out = *def;
        p += n + 1;
    }
    return 0;
}

static int attribute(run *r, const tv *item, const tv *path, tv *out)
{
    return attribute_or(r, item, path, NULL, out);
}

/* The attribute where one is asked for, in lower case where that matters. */
static int sort_key(run *r, const tv *item, const tv *attr, int fold, tv *out)
{
    tv v = *item, low;
    if (!absent(attr) && attribute(r, item, attr, &v)) return SL_EINPUT;
    if (fold && v.type == TV_STR) {
        if (sl_tmpl_case(r, &v, CASE_LOWER, &low)) return SL_EINPUT;
        v = low;
    }
    *out = v;
    return 0;
}

/* One key for each item; several attributes ("a,b") give tuples. `tuples`: one attribute does so,
 * too, as in sort(), where items without the attribute are thereby equal instead of an error. */
static int sort_keys(run *r, const tv *list, const tv *attr, int fold, int tuples, tv *keys)
{
    if (sl_tv_list_new(r, TV_LIST, list->u.list->n, keys)) return SL_EINPUT;
    for (size_t i = 0; i < list->u.list->n; i++) {
        const tv *item = &list->u.list->v[i];
        tv k, tuple;
        if (attr->type != TV_STR || !(tuples || memchr(attr->u.s, ',', attr->n))) {
            if (sort_key(r, item, attr, fold, &k) || sl_tv_list_add(r, keys, &k)) return SL_EINPUT;
            continue;
        }
        if (sl_tv_list_new(r, TV_TUPLE, 2, &tuple)) return SL_EINPUT;
        for (size_t p = 0; p <= attr->n;) {
            const char *comma = p < attr->n ? memchr(attr->u.s + p, ',', attr->n - p) : NULL;
            size_t e = comma ? (size_t)(comma - attr->u.s) : attr->n;
            tv one = {.type = TV_STR, .n = (uint32_t)(e - p), .u.s = attr->u.s + p};
            if (sort_key(r, item, &one, fold, &k) || sl_tv_list_add(r, &tuple, &k))
                return SL_EINPUT;
            p = e + 1;
        }
        if (sl_tv_list_add(r, keys, &tuple)) return SL_EINPUT;
    }
    return 0;
}

/* Stable merge sort of the items by their keys. */
static int sort_items(run *r, tv *items, tv *keys, int reverse)
{
    struct sl_tv_list *l = items->u.list, *k = keys->u.list;
    size_t n = l->n;
    tv *li = l->v, *ki = k->v;
    tv *lo = sl_tmpl_alloc(r, n * sizeof *lo), *ko = lo ? sl_tmpl_alloc(r, n * sizeof *ko) : NULL;
    if (!ko) return SL_EINPUT;
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t from = 0; from < n; from += 2 * width) {
            size_t mid = SL_MIN(from + width, n), end = SL_MIN(from + 2 * width, n);
            for (size_t a = from, b = mid, o = from; o < end; o++) {
                int second = a == mid;
                if (a < mid && b < end &&
                    sl_tv_order(r, reverse ? OP_GT : OP_LT, &ki[b], &ki[a], 0, &second))
                    return SL_EINPUT;
                size_t from_i = second ? b++ : a++;
                lo[o] = li[from_i];
                ko[o] = ki[from_i];
            }
        }
        tv *t = li;
        li = lo;
        lo = t;
        t = ki;
        ki = ko;
        ko = t;
    }
    l->v = li;
    k->v = ki;
    return 0;
}

/* sort(reverse, case_sensitive, attribute) */
static int f_sort(run *r, tv *a, tv *out)
{
    tv keys;
    if (sl_tv_iterate(r, a, out) || sort_keys(r, out, &a[3], !sl_tv_truth(&a[2]), 1, &keys))
        return SL_EINPUT;
    return sort_items(r, out, &keys, sl_tv_truth(&a[1]));
}

static int pairs_of(run *r, const tv *d, int type, tv *out)
{
    if (sl_tv_list_new(r, type, d->u.dict->n, out)) return SL_EINPUT;
    for (size_t i = 0; i < d->u.dict->n; i++) {
        tv pair;
        if (sl_tv_list_new(r, TV_TUPLE, 2, &pair) || sl_tv_list_add(r, &pair, &d->u.dict->p[i].k) ||
            sl_tv_list_add(r, &pair, &d->u.dict->p[i].v) || sl_tv_list_add(r, out, &pair))
            return SL_EINPUT;
    }
    return sl_tmpl_charge(r, d->u.dict->n / 4);
}

/* dictsort(case_sensitive, by, reverse) */
static int f_dictsort(run *r, tv *a, tv *out)
{
    tv keys, at = TV_MAKE_INT(0);
    if (a->type != TV_DICT)
        return sl_tmpl_fail(r, "dictsort needs a dict, not '%s'", sl_tv_type_name(a));
    if (a[2].type == TV_STR && a[2].n == 5 && memcmp(a[2].u.s, "value", 5) == 0)
        at.u.i = 1;
    else if (a[2].type != TV_ABSENT &&
             (a[2].type != TV_STR || a[2].n != 3 || memcmp(a[2].u.s, "key", 3) != 0))
        return sl_tmpl_fail(r, "dictsort: by must be 'key' or 'value'");
    if (pairs_of(r, a, TV_LIST, out) || sort_keys(r, out, &at, !sl_tv_truth(&a[1]), 0, &keys))
        return SL_EINPUT;
    return sort_items(r, out, &keys, sl_tv_truth(&a[3]));
}

static int f_items(run *r, tv *a, tv *out)
{
    if (a->type == TV_UNDEF) return sl_tv_list_new(r, TV_GEN, 0, out);
    if (a->type != TV_DICT)
        return sl_tmpl_fail(r, "items needs a dict, not '%s'", sl_tv_type_name(a));
    return pairs_of(r, a, TV_GEN, out);
}

/* unique(case_sensitive, attribute) */
static int f_unique(run *r, tv *a, tv *out)
{
    tv list, keys, seen, yes = TV_MAKE_BOOL(1);
    if (sl_tv_iterate(r, a, &list) || sort_keys(r, &list, &a[2], !sl_tv_truth(&a[1]), 0, &keys) ||
        sl_tv_dict_new(r, TV_DICT, 0, &seen) || sl_tv_list_new(r, TV_GEN, 0, out))
        return SL_EINPUT;
    for (size_t i = 0; i < list.u.list->n; i++) {
        size_t had = seen.u.dict->n;
        if (sl_tv_dict_set(r, &seen, &keys.u.list->v[i], &yes)) return SL_EINPUT;
        if (seen.u.dict->n > had && sl_tv_list_add(r, out, &list.u.list->v[i])) return SL_EINPUT;
    }
    return 0;
}

/* min and max (case_sensitive, attribute) */
static int extreme(run *r, tv *a, int op, tv *out)
{
    tv list, keys;
    size_t best = 0;
    if (sl_tv_iterate(r, a, &list) || sort_keys(r, &list, &a[2], !sl_tv_truth(&a[1]), 0, &keys))
        return SL_EINPUT;
    *out = TV_MAKE_UNDEF;
    for (size_t i = 1; i < list.u.list->n; i++) {
        int better;
        if (sl_tv_order(r, op, &keys.u.list->v[i], &keys.u.list->v[best], 0, &better))
            return SL_EINPUT;
        if (better) best = i;
    }
    if (list.u.list->n) *out = list.u.list->v[best];
    return 0;
}

static int f_min(run *r, tv *a, tv *out)
{
    return extreme(r, a, OP_LT, out);
}

static int f_max(run *r, tv *a, tv *out)
{
    return extreme(r, a, OP_GT, out);
}

/* sum(attribute, start) */
static int f_sum(run *r, tv *a, tv *out)
{
    tv list, v, total = a[2].type == TV_ABSENT ? TV_MAKE_INT(0) : a[2], next;
    if (sl_tv_iterate(r, a, &list)) return SL_EINPUT;
    if (total.type == TV_STR) return sl_tmpl_fail(r, "sum cannot add strings: use join");
    for (size_t i = 0; i < list.u.list->n; i++) {
        v = list.u.list->v[i];
        if (!absent(&a[1]) && attribute(r, &list.u.list->v[i], &a[1], &v)) return SL_EINPUT;
        if (sl_tv_binary(r, OP_ADD, &total, &v, &next)) return SL_EINPUT;
        total = next;
    }
    *out = total;
    return 0;
}

/* groupby(attribute, default, case_sensitive): (grouper, list) tuples in the order of the groupers
 */
static int f_groupby(run *r, tv *a, tv *out)
{
    tv list, keys, fold, group = {0}, members = {0};
    int keep_case = sl_tv_truth(&a[3]);
    if (sl_tv_iterate(r, a, &list) || sl_tv_list_new(r, TV_LIST, 0, &keys) ||
        sl_tv_list_new(r, TV_LIST, 0, out))
        return SL_EINPUT;
    for (size_t i = 0; i < list.u.list->n; i++) {
        tv k;
        if (attribute_or(r, &list.u.list->v[i], &a[1], &a[2], &k)) return SL_EINPUT;
        if (sort_key(r, &k, &(tv){0}, !keep_case, &fold) || sl_tv_list_add(r, &keys, &fold))
            return SL_EINPUT;
    }
    if (sort_items(r, &list, &keys, 0)) return SL_EINPUT;
    for (size_t i = 0; i < list.u.list->n; i++) {
        tv k;
        int same = 0;
        if (i && sl_tv_equal(r, &keys.u.list->v[i], &keys.u.list->v[i - 1], 0, &same))
            return SL_EINPUT;
        if (!same) {
            if (attribute_or(r, &list.u.list->v[i], &a[1], &a[2], &k)) return SL_EINPUT;
            if (sl_tv_list_new(r, TV_TUPLE, 2, &group) || sl_tv_list_new(r, TV_LIST, 0, &members) ||
                sl_tv_list_add(r, &group, &k) || sl_tv_list_add(r, &group, &members))
                return SL_EINPUT;
            group.flag = TV_TUPLE_GROUP;
            if (sl_tv_list_add(r, out, &group)) return SL_EINPUT;
        }
        if (sl_tv_list_add(r, &members, &list.u.list->v[i])) return SL_EINPUT;
    }
    return 0;
}

static int f_list(run *r, tv *a, tv *out)
{
    return sl_tv_iterate(r, a, out);
}

static int f_first(run *r, tv *a, tv *out)
{
    tv list;
    if (sl_tv_iterate(r, a, &list)) return SL_EINPUT;
    *out = list.u.list->n ? list.u.list->v[0] : TV_MAKE_UNDEF;
    return 0;
}

static int f_last(run *r, tv *a, tv *out)
{
    tv list;
    if (a->type == TV_GEN) return sl_tmpl_fail(r, "last needs a sequence, not a generator");
    if (sl_tv_iterate(r, a, &list)) return SL_EINPUT;
    *out = list.u.list->n ? list.u.list->v[list.u.list->n - 1] : TV_MAKE_UNDEF;
    return 0;
}

static int f_reverse(run *r, tv *a, tv *out)
{
    tv step = TV_MAKE_INT(-1), none = {0}, list;
    if (a->type == TV_STR) return sl_tv_slice(r, a, &none, &none, &step, out);
    if (sl_tv_iterate(r, a, &list) || sl_tv_slice(r, &list, &none, &none, &step, out))
        return SL_EINPUT;
    out->type = TV_GEN;
    return 0;
}

/* join(d, attribute) */
static int f_join(run *r, tv *a, tv *out)
{
    tv list, sep = TV_TEXT(""), v;
    size_t mark = r->out.len;
    if (!absent(&a[1]) && sl_tv_to_str(r, &a[1], &sep)) return SL_EINPUT;
    if (sl_tv_iterate(r, a, &list)) return SL_EINPUT;
    for (size_t i = 0; i < list.u.list->n; i++) {
        v = list.u.list->v[i];
        if (!absent(&a[2])) {
            /* the text so far stays in r->out while the attribute is fetched */
            if (attribute(r, &list.u.list->v[i], &a[2], &v)) return SL_EINPUT;
        }
        if ((i && sl_tmpl_put(r, sep.u.s, sep.n)) || sl_tv_put_str(r, &v)) return SL_EINPUT;
    }
    return sl_tmpl_take(r, mark, out);
}

static int count_arg(run *r, const tv *v, int64_t *n)
{
    if (v->type != TV_INT || v->u.i < 1) return sl_tmpl_fail(r, "a positive integer was expected");
    *n = v->u.i;
    return 0;
}

/* batch(linecount, fill_with): rows of linecount */
static int f_batch(run *r, tv *a, tv *out)
{
    tv list, row = {0};
    int64_t per = 1, used = 0;
    if (count_arg(r, &a[1], &per) || sl_tv_iterate(r, a, &list) ||
        sl_tv_list_new(r, TV_GEN, 0, out))
        return SL_EINPUT;
    for (size_t i = 0; i < list.u.list->n; i++, used++) {
        if (used == per) used = 0;
        if (used == 0 && (sl_tv_list_new(r, TV_LIST, 0, &row) || sl_tv_list_add(r, out, &row)))
            return SL_EINPUT;
        if (sl_tv_list_add(r, &row, &list.u.list->v[i])) return SL_EINPUT;
    }
    for (; !absent(&a[2]) && list.u.list->n && used < per; used++)
        if (sl_tv_list_add(r, &row, &a[2]) || sl_tmpl_charge(r, 1)) return SL_EINPUT;
    return 0;
}

/* slice(slices, fill_with): that many columns */
static int f_slice(run *r, tv *a, tv *out)
{
    tv list, col;
    int64_t cols = 1;
    if (count_arg(r, &a[1], &cols) || sl_tv_iterate(r, a, &list) ||
        sl_tv_list_new(r, TV_GEN, 0, out))
        return SL_EINPUT;
    int64_t n = (int64_t)list.u.list->n, per = n / cols, extra = n % cols, i = 0;
    for (int64_t c = 0; c < cols; c++) {
        if (sl_tmpl_charge(r, 1) || sl_tv_list_new(r, TV_LIST, 0, &col)) return SL_EINPUT;
        for (int64_t end = i + per + (c < extra); i < end; i++)
            if (sl_tv_list_add(r, &col, &list.u.list->v[i])) return SL_EINPUT;
        if (!absent(&a[2]) && extra && c >= extra && sl_tv_list_add(r, &col, &a[2]))
            return SL_EINPUT;
        if (sl_tv_list_add(r, out, &col)) return SL_EINPUT;
    }
    return 0;
}

/* ---- filters that name another filter or test ------------------------------------------------ */

static const tv *keyword(const struct sl_tmpl_args *args, const char *name)
{
    for (size_t i = 0; i < args->n_kw; i++)
        if (args->kw[i].n == strlen(name) && memcmp(args->kw[i].name, name, args->kw[i].n) == 0)
            return &args->kw[i].v;
    return NULL;
}

/* map('filter', args...), map(attribute=..., default=...) */
static int f_map(run *r, const tv *self, const struct sl_tmpl_args *args, tv *out)
{
    tv in = *self, list, v;
    const tv *attr = keyword(args, "attribute"), *def = keyword(args, "default");
    const struct sl_tmpl_builtin *f = NULL;
    struct sl_tmpl_args rest = *args;
    if (attr && (args->n || args->n_kw > 1 + (size_t)(def != NULL)))
        return sl_tmpl_fail(r, "map: attribute and default are the only arguments it takes then");
    if (!attr) {
        if (!args->n || args->pos[0].type != TV_STR)
            return sl_tmpl_fail(r, "map needs a filter's name");
        f = sl_tmpl_filter_find(args->pos[0].u.s, args->pos[0].n);
        if (!f)
            return sl_tmpl_fail(r, "there is no filter '%.*s'", (int)args->pos[0].n,
                                args->pos[0].u.s);
        rest.pos++;
        rest.n--;
    }
    if (!sl_tv_truth(self)) return sl_tv_list_new(r, TV_GEN, 0, out); /* none, too, is no items */
    if (r->frames >= TMPL_FRAMES_MAX) return sl_tmpl_fail(r, "evaluation is nested too deeply");
    if (sl_tv_iterate(r, &in, &list) || sl_tv_list_new(r, TV_GEN, list.u.list->n, out))
        return SL_EINPUT;
    r->frames += 10; /* map('map', 'map', ...) recurses through here */
    for (size_t i = 0; i < list.u.list->n; i++) {
        tv result = {0};
        int rc = attr ? attribute_or(r, &list.u.list->v[i], attr, def, &result)
                      : sl_tmpl_builtin_call(r, f, &list.u.list->v[i], &rest, &result);
        if (rc) return rc;
        v = result;
        if (sl_tv_list_add(r, out, &v)) return SL_EINPUT;
    }
    r->frames -= 10;
    return 0;
}

/* Keeps the items (or those whose attribute) that pass the named test, or that are true; `want` 0
 * keeps the others. */
static int choose(run *r, const tv *self, const struct sl_tmpl_args *args, int by_attr, int want,
                  tv *out)
{
    tv in = *self, list;
    const struct sl_tmpl_builtin *t = NULL;
    struct sl_tmpl_args rest = *args;
    if (by_attr && args->n == 0)
        return sl_tmpl_fail(r, "selectattr and rejectattr need an attribute");
    if (!sl_tv_truth(self)) return sl_tv_list_new(r, TV_GEN, 0, out); /* none, too, is no items */
    if (by_attr) {
        rest.pos++;
        rest.n--;
    }
    if (rest.n) {
        const tv *name = rest.pos;
        if (name->type == TV_STR) t = sl_tmpl_test_find(name->u.s, name->n);
        if (!t)
            return sl_tmpl_fail(r, "there is no test '%.*s'",
                                name->type == TV_STR ? (int)name->n : 1,
                                name->type == TV_STR ? name->u.s : "?");
        rest.pos++;
        rest.n--;
    }
    if (sl_tv_iterate(r, &in, &list) || sl_tv_list_new(r, TV_GEN, 0, out)) return SL_EINPUT;
    for (size_t i = 0; i < list.u.list->n; i++) {
        tv v = list.u.list->v[i], yes = {0};
        if (by_attr && attribute(r, &list.u.list->v[i], &args->pos[0], &v)) return SL_EINPUT;
        yes = v;
        if (t && sl_tmpl_builtin_call(r, t, &v, &rest, &yes)) return SL_EINPUT;
        if (sl_tv_truth(&yes) == want && sl_tv_list_add(r, out, &list.u.list->v[i]))
            return SL_EINPUT;
    }
    return 0;
}

static int f_select(run *r, const tv *self, const struct sl_tmpl_args *args, tv *out)
{
    return choose(r, self, args, 0, 1, out);
}

static int f_reject(run *r, const tv *self, const struct sl_tmpl_args *args, tv *out)
{
    return choose(r, self, args, 0, 0, out);
}

static int f_selectattr(run *r, const tv *self, const struct sl_tmpl_args *args, tv *out)
{
    return choose(r, self, args, 1, 1, out);
}

static int f_rejectattr(run *r, const tv *self, const struct sl_tmpl_args *args, tv *out)
{
    return choose(r, self, args, 1, 0, out);
}

const struct sl_tmpl_builtin *sl_tmpl_list_filter_find(const char *name, size_t n)
{
    static const struct sl_tmpl_builtin table[] = {
        {"join", "|d,attribute", f_join, NULL},
        {"list", "", f_list, NULL},
        {"first", "", f_first, NULL},
        {"last", "", f_last, NULL},
        {"map", NULL, NULL, f_map},
        {"select", NULL, NULL, f_select},
        {"reject", NULL, NULL, f_reject},
        {"selectattr", NULL, NULL, f_selectattr},
        {"rejectattr", NULL, NULL, f_rejectattr},
        {"items", "", f_items, NULL},
        {"dictsort", "|case_sensitive,by,reverse", f_dictsort, NULL},
        {"sort", "|reverse,case_sensitive,attribute", f_sort, NULL},
        {"reverse", "", f_reverse, NULL},
        {"unique", "|case_sensitive,attribute", f_unique, NULL},
        {"min", "|case_sensitive,attribute", f_min, NULL},
        {"max", "|case_sensitive,attribute", f_max, NULL},
        {"sum", "|attribute,start", f_sum, NULL},
        {"groupby", "attribute|default,case_sensitive", f_groupby, NULL},
        {"batch", "linecount|fill_with", f_batch, NULL},
        {"slice", "slices|fill_with", f_slice, NULL},
    };
    return sl_tmpl_builtin_in(table, SL_ARRAY_LEN(table), name, n);
}
