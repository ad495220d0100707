/* tmpl_test.c - Jinja's tests: `x is defined`, `x is divisibleby 3`, `x is in list`. */
#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"
#include "model/tmpl.h"

#include <wctype.h>

typedef struct sl_tmpl_run run;
typedef struct sl_tv tv;

#define YES(name, condition)                                                                       \
    static int name(run *r, tv *a, tv *out)                                                        \
    {                                                                                              \
        (void)r;                                                                                   \
        *out = TV_MAKE_BOOL(condition);                                                            \
        return 0;                                                                                  \
    }

YES(is_defined, a->type != TV_UNDEF)
YES(is_undefined, a->type == TV_UNDEF)
YES(is_none, a->type == TV_NONE)
YES(is_boolean, a->type == TV_BOOL)
YES(is_true, a->type == TV_BOOL && a->u.i)
YES(is_false, a->type == TV_BOOL && !a->u.i)
YES(is_integer, a->type == TV_INT)
YES(is_float, a->type == TV_FLOAT)
YES(is_number, sl_tv_is_number(a))
YES(is_string, a->type == TV_STR)
YES(is_mapping, a->type == TV_DICT)
YES(is_iterable, sl_tv_is_list(a) || a->type == TV_STR || a->type == TV_DICT ||
                     a->type == TV_UNDEF || a->type == TV_LOOP)
YES(is_sequence, a->type == TV_STR || a->type == TV_LIST || a->type == TV_TUPLE ||
                     a->type == TV_RANGE || a->type == TV_DICT || a->type == TV_UNDEF)
YES(is_callable, a->type >= TV_MACRO || a->type == TV_UNDEF)
YES(is_escaped, a->type == TV_STR && (a->flag & TV_STR_SAFE))
YES(is_filter, a->type == TV_STR && sl_tmpl_filter_find(a->u.s, a->n) != NULL)
YES(is_test, a->type == TV_STR && sl_tmpl_test_find(a->u.s, a->n) != NULL)

/* All letters upper (lower), and at least one of them. */
static int all_case(run *r, tv *a, int upper, tv *out)
{
    tv s;
    int some = 0, other = 0;
    if (sl_tv_to_str(r, a, &s) || sl_tmpl_charge(r, s.n / 2)) return SL_EINPUT;
    for (size_t i = 0; i < s.n;) {
        uint32_t c;
        i += (size_t)sl_utf8_get(s.u.s + i, s.n - i, &c);
        int up = iswupper_l((wint_t)c, sl_tmpl_locale()),
            low = iswlower_l((wint_t)c, sl_tmpl_locale());
        some |= upper ? up : low;
        other |= upper ? low : up;
    }
    *out = TV_MAKE_BOOL(some && !other);
    return 0;
}

static int is_upper(run *r, tv *a, tv *out)
{
    return all_case(r, a, 1, out);
}

static int is_lower(run *r, tv *a, tv *out)
{
    return all_case(r, a, 0, out);
}

static int remainder_is(run *r, tv *a, tv by, int64_t want, tv *out)
{
    tv m, w = TV_MAKE_INT(want);
    int eq;
    if (a->type == TV_STR) return sl_tmpl_fail(r, "this test needs a number, not a string");
    if (sl_tv_binary(r, OP_MOD, a, &by, &m) || sl_tv_equal(r, &m, &w, 0, &eq)) return SL_EINPUT;
    *out = TV_MAKE_BOOL(eq);
    return 0;
}

static int is_odd(run *r, tv *a, tv *out)
{
    return remainder_is(r, a, TV_MAKE_INT(2), 1, out);
}

static int is_even(run *r, tv *a, tv *out)
{
    return remainder_is(r, a, TV_MAKE_INT(2), 0, out);
}

static int is_divisible(run *r, tv *a, tv *out)
{
    return remainder_is(r, a, a[1], 0, out);
}

static int compare(run *r, tv *a, int op, tv *out)
{
    int yes;
    if (sl_tv_compare(r, op, &a[0], &a[1], &yes)) return SL_EINPUT;
    *out = TV_MAKE_BOOL(yes);
    return 0;
}

#define COMPARE(name, op)                                                                          \
    static int name(run *r, tv *a, tv *out)                                                        \
    {                                                                                              \
        return compare(r, a, op, out);                                                             \
    }
COMPARE(is_eq, OP_EQ)
COMPARE(is_ne, OP_NE)
COMPARE(is_lt, OP_LT)
COMPARE(is_le, OP_LE)
COMPARE(is_gt, OP_GT)
COMPARE(is_ge, OP_GE)
COMPARE(is_in, OP_IN)

static int is_same(run *r, tv *a, tv *out)
{
    int eq = a[0].type == a[1].type;
    if (eq && a->type >= TV_LIST)
        eq = a[0].u.p == a[1].u.p;
    else if (eq && sl_tv_equal(r, &a[0], &a[1], 0, &eq))
        return SL_EINPUT;
    *out = TV_MAKE_BOOL(eq);
    return 0;
}

const struct sl_tmpl_builtin *sl_tmpl_test_find(const char *name, size_t n)
{
    static const struct sl_tmpl_builtin table[] = {
        {"defined", "", is_defined, NULL},
        {"undefined", "", is_undefined, NULL},
        {"none", "", is_none, NULL},
        {"boolean", "", is_boolean, NULL},
        {"true", "", is_true, NULL},
        {"false", "", is_false, NULL},
        {"integer", "", is_integer, NULL},
        {"float", "", is_float, NULL},
        {"number", "", is_number, NULL},
        {"string", "", is_string, NULL},
        {"mapping", "", is_mapping, NULL},
        {"iterable", "", is_iterable, NULL},
        {"sequence", "", is_sequence, NULL},
        {"callable", "", is_callable, NULL},
        {"escaped", "", is_escaped, NULL},
        {"filter", "", is_filter, NULL},
        {"test", "", is_test, NULL},
        {"upper", "", is_upper, NULL},
        {"lower", "", is_lower, NULL},
        {"odd", "", is_odd, NULL},
        {"even", "", is_even, NULL},
        {"divisibleby", "num", is_divisible, NULL},
        {"sameas", "other", is_same, NULL},
        {"in", "seq", is_in, NULL},
        {"eq", "b", is_eq, NULL},
        {"equalto", "b", is_eq, NULL},
        {"==", "b", is_eq, NULL},
        {"ne", "b", is_ne, NULL},
        {"!=", "b", is_ne, NULL},
        {"lt", "b", is_lt, NULL},
        {"lessthan", "b", is_lt, NULL},
        {"<", "b", is_lt, NULL},
        {"le", "b", is_le, NULL},
        {"<=", "b", is_le, NULL},
        {"gt", "b", is_gt, NULL},
        {"greaterthan", "b", is_gt, NULL},
        {">", "b", is_gt, NULL},
        {"ge", "b", is_ge, NULL},
        {">=", "b", is_ge, NULL},
    };
    return sl_tmpl_builtin_in(table, SL_ARRAY_LEN(table), name, n);
}
