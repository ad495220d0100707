/* tmpl_ops.c - operators on the values of a chat template: comparison, arithmetic, attributes,
 * items, slices.
 *
 * Python's rules on 64-bit integers: where Python would go on with a big integer, this is an error.
 */
#include <math.h>
#include <string.h>

#include "base/sl_assert.h"
#include "model/tmpl.h"

static const char *op_text(int op)
{
    static const char *const text[] = {"?",  "+",  "-", "*",  "/", "//", "%",  "**",    "~",
                                       "==", "!=", "<", "<=", ">", ">=", "in", "not in"};
    return op < (int)SL_ARRAY_LEN(text) ? text[op] : "?";
}

/* ---- comparison ------------------------------------------------------------------------------ */

static int lists_equal(struct sl_tmpl_run *r, const struct sl_tv_list *a,
                       const struct sl_tv_list *b, int depth, int *eq)
{
    *eq = a->n == b->n;
    for (size_t i = 0; *eq && i < a->n; i++)
        if (sl_tv_equal(r, &a->v[i], &b->v[i], depth + 1, eq)) return SL_EINPUT;
    return 0;
}

static int dicts_equal(struct sl_tmpl_run *r, const struct sl_tv *a, const struct sl_tv *b,
                       int depth, int *eq)
{
    *eq = a->u.dict->n == b->u.dict->n;
    for (size_t i = 0; *eq && i < a->u.dict->n; i++) {
        const struct sl_tv_pair *p = &a->u.dict->p[i];
        if (sl_tmpl_charge(r, sl_tv_dict_cost(b, &p->k))) return SL_EINPUT;
        const struct sl_tv *v = sl_tv_dict_get(b, &p->k);
        *eq = v != NULL;
        if (v && sl_tv_equal(r, &p->v, v, depth + 1, eq)) return SL_EINPUT;
    }
    return 0;
}

int sl_tv_equal(struct sl_tmpl_run *r, const struct sl_tv *a, const struct sl_tv *b, int depth,
                int *eq)
{
    if (depth > TMPL_VALUE_DEPTH_MAX)
        return sl_tmpl_fail(r, "a value is nested too deeply to compare");
    if (sl_tmpl_charge(r, 1)) return SL_EINPUT;
    if (sl_tv_is_number(a) && sl_tv_is_number(b)) {
        if (a->type != TV_FLOAT && b->type != TV_FLOAT)
            *eq = a->u.i == b->u.i;
        else
            *eq = sl_tv_number(a) == sl_tv_number(b);
        return 0;
    }
    *eq = 0;
    if (a->type != b->type) return 0;
    switch (a->type) {
    case TV_UNDEF:
    case TV_NONE:
        *eq = 1;
        return 0;
    case TV_STR:
        if (sl_tmpl_charge(r, a->n == b->n ? a->n / 256 : 0)) return SL_EINPUT;
        *eq = a->n == b->n && (a->n == 0 || memcmp(a->u.s, b->u.s, a->n) == 0);
        return 0;
    case TV_LIST:
    case TV_TUPLE:
    case TV_RANGE:
        return lists_equal(r, a->u.list, b->u.list, depth, eq);
    case TV_DICT:
        return dicts_equal(r, a, b, depth, eq);
    }
    *eq = a->u.p == b->u.p;
    return 0;
}

static int by_op(int op, int less, int equal)
{
    switch (op) {
    case OP_LT:
        return less;
    case OP_LE:
        return less || equal;
    case OP_GT:
        return !less && !equal;
    }
    return !less;
}

static int text_compare(const struct sl_tv *a, const struct sl_tv *b)
{
    size_t n = SL_MIN(a->n, b->n); /* the order of UTF-8 bytes is the order of code points */
    int c = n ? memcmp(a->u.s, b->u.s, n) : 0;
    return c ? c : (a->n > b->n) - (a->n < b->n);
}

int sl_tv_order(struct sl_tmpl_run *r, int op, const struct sl_tv *a, const struct sl_tv *b,
                int depth, int *yes)
{
    if (depth > TMPL_VALUE_DEPTH_MAX)
        return sl_tmpl_fail(r, "a value is nested too deeply to compare");
    if (sl_tmpl_charge(r, 1)) return SL_EINPUT;
    if (sl_tv_is_number(a) && sl_tv_is_number(b)) {
        double x = sl_tv_number(a), y = sl_tv_number(b);
        if (a->type != TV_FLOAT && b->type != TV_FLOAT)
            *yes = by_op(op, a->u.i < b->u.i, a->u.i == b->u.i);
        else
            *yes = !isnan(x) && !isnan(y) && by_op(op, x < y, x == y);
        return 0;
    }
    if (a->type == TV_STR && b->type == TV_STR) {
        if (sl_tmpl_charge(r, SL_MIN(a->n, b->n) / 256)) return SL_EINPUT;
        int c = text_compare(a, b);
        *yes = by_op(op, c < 0, c == 0);
        return sl_tmpl_charge(r, SL_MIN(a->n, b->n) / 256);
    }
    if (a->type == b->type && (a->type == TV_LIST || a->type == TV_TUPLE)) {
        const struct sl_tv_list *x = a->u.list, *y = b->u.list;
        for (size_t i = 0; i < x->n && i < y->n; i++) {
            int eq;
            if (sl_tv_equal(r, &x->v[i], &y->v[i], depth + 1, &eq)) return SL_EINPUT;
            if (!eq) return sl_tv_order(r, op, &x->v[i], &y->v[i], depth + 1, yes);
        }
        *yes = by_op(op, x->n < y->n, x->n == y->n);
        return 0;
    }
    if (a->type == TV_UNDEF) return sl_tmpl_fail_undef(r, a);
    if (b->type == TV_UNDEF) return sl_tmpl_fail_undef(r, b);
    return sl_tmpl_fail(r, "'%s' does not work between '%s' and '%s'", op_text(op),
                        sl_tv_type_name(a), sl_tv_type_name(b));
}

int sl_tv_contains(struct sl_tmpl_run *r, struct sl_tv *box, const struct sl_tv *v, int *yes)
{
    *yes = 0;
    if (box->type == TV_STR) {
        if (v->type != TV_STR)
            return sl_tmpl_fail(r, "'in <string>' requires a string on the left, not %s",
                                sl_tv_type_name(v));
        *yes = sl_tmpl_search(box->u.s, box->n, v->u.s, v->n) != NULL;
        return sl_tmpl_charge(r, box->n / 256);
    }
    if (box->type == TV_DICT) {
        if (v->type == TV_LIST || v->type == TV_DICT)
            return sl_tmpl_fail(r, "a %s cannot be the key of a dict", sl_tv_type_name(v));
        if (sl_tmpl_charge(r, sl_tv_dict_cost(box, v))) return SL_EINPUT;
        *yes = sl_tv_dict_get(box, v) != NULL;
        return 0;
    }
    if (box->type == TV_UNDEF) return 0;
    if (!sl_tv_is_list(box))
        return sl_tmpl_fail(r, "'%s' object cannot be searched with 'in'", sl_tv_type_name(box));
    for (size_t i = 0; !*yes && i < box->u.list->n; i++)
        if (sl_tv_equal(r, &box->u.list->v[i], v, 0, yes)) return SL_EINPUT;
    if (box->type == TV_GEN) *box->u.list = (struct sl_tv_list){0};
    return 0;
}

int sl_tv_compare(struct sl_tmpl_run *r, int op, const struct sl_tv *a, struct sl_tv *b, int *yes)
{
    int rc;
    if (op == OP_IN || op == OP_NOTIN) {
        rc = sl_tv_contains(r, b, a, yes);
        if (op == OP_NOTIN) *yes = !*yes;
        return rc;
    }
    if (op == OP_EQ || op == OP_NE) {
        rc = sl_tv_equal(r, a, b, 0, yes);
        if (op == OP_NE) *yes = !*yes;
        return rc;
    }
    return sl_tv_order(r, op, a, b, 0, yes);
}

/* ---- arithmetic ------------------------------------------------------------------------------ */

static int float_op(struct sl_tmpl_run *r, int op, double a, double b, struct sl_tv *out)
{
    double f = 0, m;
    if (b == 0 && (op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD))
        return sl_tmpl_fail(r, "division by zero");
    switch (op) {
    case OP_ADD:
        f = a + b;
        break;
    case OP_SUB:
        f = a - b;
        break;
    case OP_MUL:
        f = a * b;
        break;
    case OP_DIV:
        f = a / b;
        break;
    case OP_FLOORDIV:
    case OP_MOD:
        m = fmod(a, b);
        if (m != 0 && (m < 0) != (b < 0))
            m += b;
        else if (m == 0)
            m = copysign(0, b);
        f = op == OP_MOD ? m : round((a - m) / b);
        break;
    case OP_POW:
        if ((a == 0 && b < 0) || (a < 0 && b != floor(b)))
            return sl_tmpl_fail(r, "a power has no real value");
        f = pow(a, b);
        if (isinf(f) && !isinf(a) && !isinf(b)) return sl_tmpl_fail(r, "a power is too large");
        break;
    }
    *out = TV_MAKE_FLOAT(f);
    return 0;
}

/* Square and multiply; nonzero on overflow. */
static int int_power(int64_t base, int64_t exp, int64_t *out)
{
    int64_t v = 1;
    if (base == 0 || base == 1 || base == -1) { /* any exponent will do */
        *out = base == -1 && exp % 2 == 0 ? 1 : exp == 0 ? 1 : base;
        return 0;
    }
    for (int64_t i = 0; i < exp; i++)
        if (__builtin_mul_overflow(v, base, &v)) return 1;
    *out = v;
    return 0;
}

static int int_op(struct sl_tmpl_run *r, int op, int64_t a, int64_t b, struct sl_tv *out)
{
    int64_t v = 0;
    int over = 0;
    if (b == 0 && (op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD))
        return sl_tmpl_fail(r, "division by zero");
    switch (op) {
    case OP_ADD:
        over = __builtin_add_overflow(a, b, &v);
        break;
    case OP_SUB:
        over = __builtin_sub_overflow(a, b, &v);
        break;
    case OP_MUL:
        over = __builtin_mul_overflow(a, b, &v);
        break;
    case OP_DIV:
        return float_op(r, op, (double)a, (double)b, out);
    case OP_FLOORDIV:
        if (b == -1)
            over = __builtin_sub_overflow(0, a, &v);
        else
            v = a / b - (a % b != 0 && (a < 0) != (b < 0));
        break;
    case OP_MOD:
        v = b == -1 ? 0 : a % b;
        if (v != 0 && (v < 0) != (b < 0)) v += b;
        break;
    case OP_POW:
        if (b < 0) return float_op(r, op, (double)a, (double)b, out);
        over = int_power(a, b, &v);
        break;
    }
    if (over) return sl_tmpl_fail(r, "the result of '%s' does not fit in 64 bits", op_text(op));
    *out = TV_MAKE_INT(v);
    return 0;
}

static int repeat(struct sl_tmpl_run *r, const struct sl_tv *v, int64_t times, struct sl_tv *out)
{
    if (times < 0) times = 0;
    if (v->type == TV_STR) {
        if (v->n && times > SL_TEMPLATE_OUTPUT_MAX / v->n)
            return sl_tmpl_fail(r, "a repeated string would be too large");
        size_t n = v->n * (size_t)times;
        char *s = sl_tmpl_alloc(r, n + 1);
        if (!s) return SL_EINPUT;
        for (size_t i = 0; i < n; i += v->n) memcpy(s + i, v->u.s, v->n);
        *out = (struct sl_tv){.type = TV_STR, .n = (uint32_t)n, .u.s = s};
        return sl_tmpl_charge(r, n / 256);
    }
    size_t n = v->u.list->n;
    if (n && times > (int64_t)(TMPL_RENDER_BYTES_MAX / sizeof *v / n))
        return sl_tmpl_fail(r, "a repeated list would be too large");
    n *= (size_t)times;
    if (sl_tmpl_charge(r, n / 8) || sl_tv_list_new(r, v->type, n, out)) return SL_EINPUT;
    for (size_t i = 0; i < n; i++) out->u.list->v[i] = v->u.list->v[i % v->u.list->n];
    out->u.list->n = n;
    return 0;
}

static int join_lists(struct sl_tmpl_run *r, const struct sl_tv *a, const struct sl_tv *b,
                      struct sl_tv *out)
{
    size_t n = a->u.list->n, m = b->u.list->n;
    if (sl_tmpl_charge(r, (n + m) / 8) || sl_tv_list_new(r, a->type, n + m, out)) return SL_EINPUT;
    if (n) memcpy(out->u.list->v, a->u.list->v, n * sizeof *a);
    if (m) memcpy(out->u.list->v + n, b->u.list->v, m * sizeof *a);
    out->u.list->n = n + m;
    return 0;
}

int sl_tv_concat(struct sl_tmpl_run *r, const struct sl_tv *a, const struct sl_tv *b,
                 struct sl_tv *out)
{
    size_t n = (size_t)a->n + b->n;
    if (n > SL_TEMPLATE_OUTPUT_MAX) return sl_tmpl_fail(r, "a string is too large");
    if (a->n == 0 || b->n == 0) {
        *out = a->n ? *a : *b;
        out->flag = 0;
        return 0;
    }
    /* A string built by appending in a loop grows in place: nobody else has seen the bytes behind
     * it. */
    if (a->u.s + a->n != r->tail || r->tail_room < b->n) {
        size_t cap = n + n / 2 + 16;
        char *s = sl_tmpl_alloc(r, cap);
        if (!s || sl_tmpl_charge(r, a->n / 256)) return SL_EINPUT;
        memcpy(s, a->u.s, a->n);
        out->u.s = s;
        r->tail = s + a->n;
        r->tail_room = cap - a->n;
    } else {
        out->u.s = a->u.s;
    }
    memmove(r->tail, b->u.s, b->n);
    r->tail += b->n;
    r->tail_room -= b->n;
    *out = (struct sl_tv){.type = TV_STR, .n = (uint32_t)n, .u.s = out->u.s};
    return sl_tmpl_charge(r, b->n / 256);
}

int sl_tv_binary(struct sl_tmpl_run *r, int op, struct sl_tv *a, struct sl_tv *b, struct sl_tv *out)
{
    int x = sl_tv_is_number(a), y = sl_tv_is_number(b);
    if (a->type == TV_STR && op == OP_MOD) return sl_tmpl_percent(r, a, b, out);
    if (a->type == TV_UNDEF) return sl_tmpl_fail_undef(r, a);
    if (b->type == TV_UNDEF) return sl_tmpl_fail_undef(r, b);
    if (x && y) {
        if (a->type == TV_FLOAT || b->type == TV_FLOAT)
            return float_op(r, op, sl_tv_number(a), sl_tv_number(b), out);
        return int_op(r, op, a->u.i, b->u.i, out);
    }
    if (op == OP_ADD && a->type == TV_STR && b->type == TV_STR) {
        struct sl_tv v;
        int rc = sl_tv_concat(r, a, b, &v);
        *out = v;
        return rc;
    }
    if (op == OP_ADD && a->type == b->type && (a->type == TV_LIST || a->type == TV_TUPLE))
        return join_lists(r, a, b, out);
    if (op == OP_MUL) {
        if (y && b->type != TV_FLOAT &&
            (a->type == TV_STR || a->type == TV_LIST || a->type == TV_TUPLE))
            return repeat(r, a, b->u.i, out);
        if (x && a->type != TV_FLOAT &&
            (b->type == TV_STR || b->type == TV_LIST || b->type == TV_TUPLE))
            return repeat(r, b, a->u.i, out);
    }
    if (op == OP_ADD && a->type == TV_STR)
        return sl_tmpl_fail(r, "can only add a string to a string, not '%s'", sl_tv_type_name(b));
    return sl_tmpl_fail(r, "'%s' does not work between '%s' and '%s'", op_text(op),
                        sl_tv_type_name(a), sl_tv_type_name(b));
}

/* ---- attributes, items, slices --------------------------------------------------------------- */

static struct sl_tv undef_attr(const struct sl_tv *v, const char *name, size_t n)
{
    return (struct sl_tv){
        .type = TV_UNDEF, .flag = TV_UNDEF_ATTR, .of = v->type, .n = (uint32_t)n, .u.s = name};
}

static int loop_attr(const struct sl_tv *v, const char *name, size_t n, struct sl_tv *out)
{
    const struct sl_tmpl_loop *l = v->u.loop;
    struct sl_tv values[] = {
        TV_MAKE_INT((int64_t)l->i + 1),
        TV_MAKE_INT((int64_t)l->i),
        TV_MAKE_INT((int64_t)(l->n - l->i)),
        TV_MAKE_INT((int64_t)(l->n - l->i) - 1),
        TV_MAKE_BOOL(l->i == 0),
        TV_MAKE_BOOL(l->i + 1 >= l->n),
        TV_MAKE_INT((int64_t)l->n),
        TV_MAKE_INT(l->depth + 1),
        TV_MAKE_INT(l->depth),
        l->i > 0 ? l->items[l->i - 1] : undef_attr(v, "previtem", 8),
        l->i + 1 < l->n ? l->items[l->i + 1] : undef_attr(v, "nextitem", 8),
    };
    static const char *const names[] = {"index",  "index0",   "revindex", "revindex0",
                                        "first",  "last",     "length",   "depth",
                                        "depth0", "previtem", "nextitem"};
    _Static_assert(SL_ARRAY_LEN(names) == SL_ARRAY_LEN(values), "one name for each value");
    for (size_t i = 0; i < SL_ARRAY_LEN(names); i++)
        if (strlen(names[i]) == n && memcmp(names[i], name, n) == 0) {
            *out = values[i];
            return 1;
        }
    return 0;
}

/* Methods and attributes of the value itself, not its items. 1 found, 0 not, SL_EINPUT. */
static int own_attr(struct sl_tmpl_run *r, const struct sl_tv *v, const char *name, size_t n,
                    struct sl_tv *out)
{
    int blocked = 0;
    if (v->type == TV_LOOP && loop_attr(v, name, n, out)) return 1;
    if (v->type == TV_MACRO && n == 4 && memcmp(name, "name", 4) == 0) {
        *out = v->u.macro->node->val;
        return 1;
    }
    if (v->type == TV_TUPLE && v->flag == TV_TUPLE_GROUP) {
        int list = n == 4 && memcmp(name, "list", 4) == 0;
        if (list || (n == 7 && memcmp(name, "grouper", 7) == 0)) {
            *out = v->u.list->v[list];
            return 1;
        }
    }
    const struct sl_tmpl_builtin *m = sl_tmpl_method_find(v, name, n, &blocked);
    if (blocked) {
        *out = undef_attr(v, name, n);
        return 1;
    }
    if (!m) return 0;
    struct sl_tmpl_bound *b = sl_tmpl_alloc(r, sizeof *b);
    if (!b) return SL_EINPUT;
    *b = (struct sl_tmpl_bound){*v, m};
    *out = (struct sl_tv){.type = TV_METHOD, .u.bound = b};
    return 1;
}

int sl_tv_attr(struct sl_tmpl_run *r, const struct sl_tv *v, const char *name, size_t n,
               struct sl_tv *out)
{
    const struct sl_tv *item = NULL;
    if (v->type == TV_UNDEF) return sl_tmpl_fail_undef(r, v);
    int rc = own_attr(r, v, name, n, out);
    if (rc) return rc < 0 ? rc : 0;
    if (v->type == TV_DICT || v->type == TV_NS) {
        item = sl_tv_dict_text(v, name, n);
        if (sl_tmpl_charge(r, v->u.dict->n / 16)) return SL_EINPUT;
    }
    *out = item ? *item : undef_attr(v, name, n);
    return 0;
}

/* Index i of a sequence of n, negative from the end; n when out of range. */
static size_t place(int64_t i, size_t n)
{
    if (i < 0) i += (int64_t)n;
    return i < 0 || i >= (int64_t)n ? n : (size_t)i;
}

static int is_index(const struct sl_tv *v)
{
    return v->type == TV_INT || v->type == TV_BOOL;
}

int sl_tv_item(struct sl_tmpl_run *r, const struct sl_tv *v, const struct sl_tv *key,
               struct sl_tv *out)
{
    if (v->type == TV_UNDEF) return sl_tmpl_fail_undef(r, v);
    if (v->type == TV_DICT || v->type == TV_NS) {
        if (sl_tmpl_charge(r, sl_tv_dict_cost(v, key))) return SL_EINPUT;
        const struct sl_tv *item = sl_tv_dict_get(v, key);
        if (item) {
            *out = *item;
            return 0;
        }
    } else if (v->type >= TV_LIST && v->type <= TV_RANGE && is_index(key)) {
        size_t i = place(key->u.i, v->u.list->n);
        if (i < v->u.list->n) {
            *out = v->u.list->v[i];
            return 0;
        }
    } else if (v->type == TV_STR && is_index(key)) {
        size_t n = sl_tmpl_text_len(v->u.s, v->n), i = place(key->u.i, n);
        if (sl_tmpl_charge(r, v->n / 64)) return SL_EINPUT;
        if (i < n) {
            size_t from = sl_tmpl_text_at(v->u.s, v->n, i);
            size_t len = sl_tmpl_text_at(v->u.s + from, v->n - from, 1);
            *out = (struct sl_tv){.type = TV_STR, .n = (uint32_t)len, .u.s = v->u.s + from};
            return 0;
        }
    }
    if (key->type == TV_STR) {
        int rc = own_attr(r, v, key->u.s, key->n, out);
        if (rc) return rc < 0 ? rc : 0;
        *out = undef_attr(v, key->u.s, key->n);
    } else {
        *out = undef_attr(v, "that element", 12);
    }
    return 0;
}

/* One bound of a slice as Python clips it. */
static int bound(struct sl_tmpl_run *r, const struct sl_tv *v, int64_t n, int64_t step,
                 int is_start, int64_t *out)
{
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n;
    if (v->type == TV_ABSENT || v->type == TV_NONE) {
        *out = (step < 0) == is_start ? high : low;
        return 0;
    }
    if (!is_index(v)) return sl_tmpl_fail(r, "slice bounds must be integers or none");
    int64_t i = v->u.i;
    if (i < 0) i = i < -n ? -1 - n : i; /* no overflow in the sum below */
    if (i < 0) i += n;
    *out = i < low ? low : i > high ? high : i;
    return 0;
}

/* Code points from, from + step, ... of a string of n code points, count of them. */
static int slice_text(struct sl_tmpl_run *r, const struct sl_tv *v, size_t n, int64_t from,
                      int64_t step, int64_t count, struct sl_tv *out)
{
    *out = (struct sl_tv){.type = TV_STR, .u.s = ""};
    if (count == 0) return 0;
    if (step == 1) {
        size_t b = sl_tmpl_text_at(v->u.s, v->n, (size_t)from);
        size_t e = b + sl_tmpl_text_at(v->u.s + b, v->n - b, (size_t)count);
        out->u.s = v->u.s + b;
        out->n = (uint32_t)(e - b);
        return 0;
    }
    uint32_t *at = sl_tmpl_alloc(r, (n + 1) * sizeof *at);
    char *s = at ? sl_tmpl_alloc(r, v->n + 1) : NULL;
    if (!s || sl_tmpl_charge(r, n / 8)) return SL_EINPUT;
    size_t pos = 0, len = 0;
    for (size_t i = 0; i < n; i++) {
        at[i] = (uint32_t)pos;
        pos += sl_tmpl_text_at(v->u.s + pos, v->n - pos, 1);
    }
    at[n] = (uint32_t)pos;
    for (int64_t k = 0, i = from; k < count; k++, i += step) {
        memcpy(s + len, v->u.s + at[i], at[i + 1] - at[i]);
        len += at[i + 1] - at[i];
        if (k + 1 == count) break; /* i + step may overflow */
    }
    out->u.s = s;
    out->n = (uint32_t)len;
    return 0;
}

int sl_tv_slice(struct sl_tmpl_run *r, const struct sl_tv *v, const struct sl_tv *start,
                const struct sl_tv *stop, const struct sl_tv *step_v, struct sl_tv *out)
{
    int64_t step = 1, from = 0, to = 0, n, count = 0;
    if (v->type == TV_UNDEF) return sl_tmpl_fail_undef(r, v);
    if (v->type != TV_STR && v->type != TV_LIST && v->type != TV_TUPLE && v->type != TV_RANGE)
        return sl_tmpl_fail(r, "a '%s' cannot be sliced", sl_tv_type_name(v));
    if (step_v->type != TV_ABSENT && step_v->type != TV_NONE) {
        if (!is_index(step_v)) return sl_tmpl_fail(r, "slice bounds must be integers or none");
        step = step_v->u.i < -INT64_MAX ? -INT64_MAX : step_v->u.i;
        if (step == 0) return sl_tmpl_fail(r, "a slice step cannot be zero");
    }
    if (sl_tv_length(r, v, &n) || bound(r, start, n, step, 1, &from) ||
        bound(r, stop, n, step, 0, &to))
        return SL_EINPUT;
    if (step > 0 && from < to) count = (to - from - 1) / step + 1;
    if (step < 0 && to < from) count = (from - to - 1) / -step + 1;
    if (v->type == TV_STR) return slice_text(r, v, (size_t)n, from, step, count, out);
    if (sl_tmpl_charge(r, (size_t)count / 8) || sl_tv_list_new(r, v->type, (size_t)count, out))
        return SL_EINPUT;
    for (int64_t k = 0; k < count; k++) out->u.list->v[k] = v->u.list->v[from + k * step];
    out->u.list->n = (size_t)count;
    if (v->type != TV_RANGE) return 0;
    struct sl_tv_list *range =
        out->u.list; /* its elements are at most TMPL_RANGE_MAX steps apart */
    const struct sl_tv_list *whole = v->u.list;
    if (__builtin_mul_overflow(whole->step, step, &range->step) ||
        __builtin_mul_overflow(whole->step, from, &range->start) ||
        __builtin_add_overflow(whole->start, range->start, &range->start) ||
        __builtin_mul_overflow(whole->step, to, &range->stop) ||
        __builtin_add_overflow(whole->start, range->stop, &range->stop))
        return sl_tmpl_fail(r, "a slice of a range does not fit in 64 bits");
    return 0;
}
