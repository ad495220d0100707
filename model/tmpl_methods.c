/* tmpl_methods.c - methods of Python's strings, dicts and lists, and of the loop object.
 *
 * Methods that would change a value do not exist here (the sandbox is immutable); they are listed
 * so that a key of that name is not found through the attribute either, as in Jinja. */
#include <limits.h>
#include <string.h>
#include <wctype.h>

#include "base/sl_assert.h"
#include "base/text.h"
#include "model/tmpl.h"

typedef struct sl_tmpl_run run;
typedef struct sl_tv tv;

static tv part(const tv *s, size_t from, size_t to)
{
    return (tv){.type = TV_STR, .n = (uint32_t)(to - from), .u.s = s->u.s + from};
}

static int need_str(run *r, const tv *v, const char *what)
{
    if (v->type == TV_STR) return 0;
    return sl_tmpl_fail(r, "%s needs a string, not '%s'", what, sl_tv_type_name(v));
}

/* An optional integer argument. */
static int get_int(run *r, const tv *v, int64_t def, int64_t *out)
{
    *out = def;
    if (v->type == TV_ABSENT || v->type == TV_NONE) return 0;
    if (v->type != TV_INT && v->type != TV_BOOL)
        return sl_tmpl_fail(r, "an integer was expected, not '%s'", sl_tv_type_name(v));
    *out = v->u.i;
    return 0;
}

/* ---- strings: case and stripping ------------------------------------------------------------- */

static int s_upper(run *r, tv *a, tv *out)
{
    return sl_tmpl_case(r, a, CASE_UPPER, out);
}

static int s_lower(run *r, tv *a, tv *out)
{
    return sl_tmpl_case(r, a, CASE_LOWER, out);
}

static int s_title(run *r, tv *a, tv *out)
{
    return sl_tmpl_case(r, a, CASE_TITLE, out);
}

static int s_capitalize(run *r, tv *a, tv *out)
{
    return sl_tmpl_case(r, a, CASE_CAPITAL, out);
}

static int s_swapcase(run *r, tv *a, tv *out)
{
    return sl_tmpl_case(r, a, CASE_SWAP, out);
}

static int strip(run *r, tv *a, int sides, tv *out)
{
    int all = a[1].type == TV_ABSENT || a[1].type == TV_NONE;
    if (!all && need_str(r, &a[1], "strip")) return SL_EINPUT;
    if (sl_tmpl_charge(r, a->n / 8 * (1 + (all ? 0 : a[1].n / 4)))) return SL_EINPUT;
    *out = sl_tmpl_strip(a, all ? NULL : &a[1], sides);
    return 0;
}

static int s_strip(run *r, tv *a, tv *out)
{
    return strip(r, a, 3, out);
}

static int s_lstrip(run *r, tv *a, tv *out)
{
    return strip(r, a, 1, out);
}

static int s_rstrip(run *r, tv *a, tv *out)
{
    return strip(r, a, 2, out);
}

static int remove_affix(run *r, tv *a, int prefix, tv *out)
{
    size_t n = a[1].n;
    if (need_str(r, &a[1], "removeprefix and removesuffix")) return SL_EINPUT;
    if (sl_tmpl_charge(r, n / 256)) return SL_EINPUT;
    *out = *a;
    if (n == 0 || n > a->n || memcmp(a->u.s + (prefix ? 0 : a->n - n), a[1].u.s, n) != 0) return 0;
    *out = prefix ? part(a, n, a->n) : part(a, 0, a->n - n);
    return 0;
}

static int s_removeprefix(run *r, tv *a, tv *out)
{
    return remove_affix(r, a, 1, out);
}

static int s_removesuffix(run *r, tv *a, tv *out)
{
    return remove_affix(r, a, 0, out);
}

/* ---- strings: splitting and joining ---------------------------------------------------------- */

static int add_part(run *r, tv *list, const tv *s, size_t from, size_t to)
{
    tv p = part(s, from, to);
    return sl_tmpl_charge(r, 1) ? SL_EINPUT : sl_tv_list_add(r, list, &p);
}

static size_t skip_space(const tv *s, size_t i, int want)
{
    while (i < s->n) {
        uint32_t c;
        int len = sl_utf8_get(s->u.s + i, s->n - i, &c);
        if (sl_tmpl_is_space(c) != want) break;
        i += (size_t)len;
    }
    return i;
}

/* Byte offset before the run of (white) space or text that ends at i. */
static size_t skip_space_back(const tv *s, size_t i, int want)
{
    while (i > 0) {
        size_t p = i - 1;
        uint32_t c;
        while (p > 0 && ((unsigned char)s->u.s[p] & 0xc0) == 0x80) p--;
        sl_utf8_get(s->u.s + p, i - p, &c);
        if (sl_tmpl_is_space(c) != want) break;
        i = p;
    }
    return i;
}

static int split_space(run *r, const tv *s, int64_t max, tv *out)
{
    for (size_t i = skip_space(s, 0, 1), e; i < s->n; i = skip_space(s, e, 1)) {
        e = skip_space(s, i, 0);
        if (max-- == 0) e = s->n; /* the rest as it is */
        if (add_part(r, out, s, i, e)) return SL_EINPUT;
    }
    return 0;
}

static int split_space_back(run *r, const tv *s, int64_t max, tv *out)
{
    for (size_t e = skip_space_back(s, s->n, 1), b; e > 0; e = skip_space_back(s, b, 1)) {
        b = skip_space_back(s, e, 0);
        if (max-- == 0) b = 0;
        if (add_part(r, out, s, b, e)) return SL_EINPUT;
    }
    return 0;
}

static int split_text(run *r, const tv *s, const tv *sep, int64_t max, tv *out)
{
    size_t from = 0;
    for (; max != 0; max--) {
        const char *hit = sl_tmpl_search(s->u.s + from, s->n - from, sep->u.s, sep->n);
        if (!hit) break;
        if (add_part(r, out, s, from, (size_t)(hit - s->u.s))) return SL_EINPUT;
        from = (size_t)(hit - s->u.s) + sep->n;
    }
    return add_part(r, out, s, from, s->n);
}

/* Last place of what[0..m) in s[0..n); SIZE_MAX when there is none. */
static size_t search_back(const char *s, size_t n, const char *what, size_t m)
{
    for (size_t i = n + 1; i-- > m;)
        if (m == 0 || memcmp(s + i - m, what, m) == 0) return i - m;
    return SIZE_MAX;
}

static int split_text_back(run *r, const tv *s, const tv *sep, int64_t max, tv *out)
{
    size_t end = s->n;
    for (; max != 0; max--) {
        size_t at = search_back(s->u.s, end, sep->u.s, sep->n);
        if (at == SIZE_MAX) break;
        if (add_part(r, out, s, at + sep->n, end)) return SL_EINPUT;
        end = at;
    }
    return add_part(r, out, s, 0, end);
}

static void turn(struct sl_tv_list *l)
{
    for (size_t i = 0; i < l->n / 2; i++) {
        tv x = l->v[i];
        l->v[i] = l->v[l->n - 1 - i];
        l->v[l->n - 1 - i] = x;
    }
}

static int split(run *r, tv *a, int back, tv *out)
{
    int64_t max;
    int space = a[1].type == TV_ABSENT || a[1].type == TV_NONE, rc;
    if (get_int(r, &a[2], -1, &max) || sl_tmpl_charge(r, a->n / 64)) return SL_EINPUT;
    if (!space && need_str(r, &a[1], "split")) return SL_EINPUT;
    if (!space && a[1].n == 0) return sl_tmpl_fail(r, "split by an empty string");
    if (sl_tv_list_new(r, TV_LIST, 0, out)) return SL_EINPUT;
    if (back) {
        rc = space ? split_space_back(r, a, max, out) : split_text_back(r, a, &a[1], max, out);
        turn(out->u.list);
    } else {
        rc = space ? split_space(r, a, max, out) : split_text(r, a, &a[1], max, out);
    }
    return rc;
}

static int s_split(run *r, tv *a, tv *out)
{
    return split(r, a, 0, out);
}

static int s_rsplit(run *r, tv *a, tv *out)
{
    return split(r, a, 1, out);
}

static int s_splitlines(run *r, tv *a, tv *out)
{
    int keep = sl_tv_truth(&a[1]);
    if (sl_tv_list_new(r, TV_LIST, 0, out)) return SL_EINPUT;
    for (size_t i = 0; i < a->n;) {
        size_t e = i;
        while (e < a->n && a->u.s[e] != '\n' && a->u.s[e] != '\r') e++;
        size_t next = e < a->n ? e + 1 : e;
        if (e + 1 < a->n && a->u.s[e] == '\r' && a->u.s[e + 1] == '\n') next++;
        if (add_part(r, out, a, i, keep ? next : e)) return SL_EINPUT;
        i = next;
    }
    return 0;
}

static int partition(run *r, tv *a, int back, tv *out)
{
    if (need_str(r, &a[1], "partition")) return SL_EINPUT;
    if (a[1].n == 0) return sl_tmpl_fail(r, "partition by an empty string");
    if (sl_tv_list_new(r, TV_TUPLE, 3, out)) return SL_EINPUT;
    const char *hit = sl_tmpl_search(a->u.s, a->n, a[1].u.s, a[1].n);
    size_t none = back ? 0 : a->n, at = hit ? (size_t)(hit - a->u.s) : none,
           end = at + (hit ? a[1].n : 0);
    if (hit && back) {
        at = search_back(a->u.s, a->n, a[1].u.s, a[1].n);
        end = at + a[1].n;
    }
    return add_part(r, out, a, 0, at) || add_part(r, out, a, at, end) ||
                   add_part(r, out, a, end, a->n)
               ? SL_EINPUT
               : 0;
}

static int s_partition(run *r, tv *a, tv *out)
{
    return partition(r, a, 0, out);
}

static int s_rpartition(run *r, tv *a, tv *out)
{
    return partition(r, a, 1, out);
}

static int s_join(run *r, tv *a, tv *out)
{
    tv list;
    size_t mark = r->out.len;
    if (sl_tv_iterate(r, &a[1], &list)) return SL_EINPUT;
    for (size_t i = 0; i < list.u.list->n; i++) {
        const tv *v = &list.u.list->v[i];
        if (need_str(r, v, "join")) return SL_EINPUT;
        if ((i && sl_tmpl_put(r, a->u.s, a->n)) || sl_tmpl_put(r, v->u.s, v->n)) return SL_EINPUT;
    }
    return sl_tmpl_take(r, mark, out);
}

static int s_replace(run *r, tv *a, tv *out)
{
    int64_t count;
    if (need_str(r, &a[1], "replace") || need_str(r, &a[2], "replace") ||
        get_int(r, &a[3], -1, &count))
        return SL_EINPUT;
    return sl_tmpl_replace(r, a, &a[1], &a[2], count, out);
}

/* ---- strings: searching ---------------------------------------------------------------------- */

/* s[start:end] of the arguments at a[0], a[1]. *base: where it begins, in code points. */
static int window(run *r, const tv *s, const tv *a, tv *out, int64_t *base)
{
    tv step = {0};
    int64_t start, n = (int64_t)sl_tmpl_text_len(s->u.s, s->n);
    if (get_int(r, &a[0], 0, &start) || sl_tv_slice(r, s, &a[0], &a[1], &step, out))
        return SL_EINPUT;
    *base = start < 0 ? (start < -n ? 0 : start + n) : start > n ? n : start;
    return 0;
}

static int find(run *r, tv *a, int back, int must, tv *out)
{
    tv w;
    int64_t base;
    if (need_str(r, &a[1], "find") || window(r, a, &a[2], &w, &base)) return SL_EINPUT;
    const char *hit = sl_tmpl_search(w.u.s, w.n, a[1].u.s, a[1].n);
    size_t at = hit ? (size_t)(hit - w.u.s) : SIZE_MAX;
    if (hit && back) at = search_back(w.u.s, w.n, a[1].u.s, a[1].n);
    if (!hit && must) return sl_tmpl_fail(r, "the substring was not found");
    *out = TV_MAKE_INT(hit ? base + (int64_t)sl_tmpl_text_len(w.u.s, at) : -1);
    return sl_tmpl_charge(r, w.n / 64);
}

static int s_find(run *r, tv *a, tv *out)
{
    return find(r, a, 0, 0, out);
}

static int s_rfind(run *r, tv *a, tv *out)
{
    return find(r, a, 1, 0, out);
}

static int s_index(run *r, tv *a, tv *out)
{
    return find(r, a, 0, 1, out);
}

static int s_rindex(run *r, tv *a, tv *out)
{
    return find(r, a, 1, 1, out);
}

static int s_count(run *r, tv *a, tv *out)
{
    tv w;
    int64_t base, n = 0;
    if (need_str(r, &a[1], "count") || window(r, a, &a[2], &w, &base)) return SL_EINPUT;
    if (sl_tmpl_charge(r, w.n / 8)) return SL_EINPUT;
    if (a[1].n == 0) {
        *out = TV_MAKE_INT((int64_t)sl_tmpl_text_len(w.u.s, w.n) + 1);
        return 0;
    }
    const char *p = w.u.s, *end = w.u.s + w.n;
    while ((p = sl_tmpl_search(p, (size_t)(end - p), a[1].u.s, a[1].n)) != NULL) {
        n++;
        p += a[1].n;
    }
    *out = TV_MAKE_INT(n);
    return 0;
}

static int has_affix(run *r, tv *a, int prefix, tv *out)
{
    tv w, *list = &a[1];
    int64_t base;
    size_t n = 1, i;
    int yes = 0;
    if (window(r, a, &a[2], &w, &base)) return SL_EINPUT;
    if (a[1].type == TV_TUPLE) {
        list = a[1].u.list->v;
        n = a[1].u.list->n;
    }
    for (i = 0; i < n && !yes; i++) {
        if (need_str(r, &list[i], "startswith and endswith")) return SL_EINPUT;
        size_t m = list[i].n;
        if (sl_tmpl_charge(r, m / 256)) return SL_EINPUT;
        yes = m == 0 || (m <= w.n && memcmp(w.u.s + (prefix ? 0 : w.n - m), list[i].u.s, m) == 0);
    }
    *out = TV_MAKE_BOOL(yes);
    return 0;
}

static int s_startswith(run *r, tv *a, tv *out)
{
    return has_affix(r, a, 1, out);
}

static int s_endswith(run *r, tv *a, tv *out)
{
    return has_affix(r, a, 0, out);
}

/* ---- strings: what they are made of ---------------------------------------------------------- */

enum { IS_DIGIT, IS_ALPHA, IS_ALNUM, IS_SPACE, IS_ASCII };

static int made_of(run *r, tv *a, int what, tv *out)
{
    int yes = a->n > 0 || what == IS_ASCII;
    if (sl_tmpl_charge(r, a->n / 16)) return SL_EINPUT;
    for (size_t i = 0; i < a->n && yes;) {
        uint32_t c;
        locale_t l = sl_tmpl_locale();
        i += (size_t)sl_utf8_get(a->u.s + i, a->n - i, &c);
        int dig = c >= '0' && c <= '9', alpha = !dig && iswalpha_l((wint_t)c, l);
        yes = what == IS_DIGIT   ? dig
              : what == IS_ALPHA ? alpha
              : what == IS_ALNUM ? dig || alpha
              : what == IS_SPACE ? sl_tmpl_is_space(c)
                                 : c < 0x80;
    }
    *out = TV_MAKE_BOOL(yes);
    return 0;
}

static int s_isdigit(run *r, tv *a, tv *out)
{
    return made_of(r, a, IS_DIGIT, out);
}

static int s_isalpha(run *r, tv *a, tv *out)
{
    return made_of(r, a, IS_ALPHA, out);
}

static int s_isalnum(run *r, tv *a, tv *out)
{
    return made_of(r, a, IS_ALNUM, out);
}

static int s_isspace(run *r, tv *a, tv *out)
{
    return made_of(r, a, IS_SPACE, out);
}

static int s_isascii(run *r, tv *a, tv *out)
{
    return made_of(r, a, IS_ASCII, out);
}

static int s_isupper(run *r, tv *a, tv *out)
{
    return sl_tmpl_test_find("upper", 5)->fn(r, a, out);
}

static int s_islower(run *r, tv *a, tv *out)
{
    return sl_tmpl_test_find("lower", 5)->fn(r, a, out);
}

/* ---- strings: filling ------------------------------------------------------------------------ */

static int fill(run *r, tv *a, int64_t left, int64_t right, tv *out)
{
    tv space = TV_TEXT(" "), *with = a[2].type == TV_ABSENT ? &space : &a[2];
    size_t mark = r->out.len;
    if (need_str(r, with, "padding")) return SL_EINPUT;
    for (int64_t i = 0; i < left; i++)
        if (sl_tmpl_put(r, with->u.s, with->n) || sl_tmpl_charge(r, 1)) return SL_EINPUT;
    if (sl_tmpl_put(r, a->u.s, a->n)) return SL_EINPUT;
    for (int64_t i = 0; i < right; i++)
        if (sl_tmpl_put(r, with->u.s, with->n) || sl_tmpl_charge(r, 1)) return SL_EINPUT;
    return sl_tmpl_take(r, mark, out);
}

static int room(run *r, tv *a, int64_t *n)
{
    int64_t width;
    if (get_int(r, &a[1], 0, &width)) return SL_EINPUT;
    int64_t len = (int64_t)sl_tmpl_text_len(a->u.s, a->n);
    *n = width > len ? width - len : 0;
    return 0;
}

static int s_ljust(run *r, tv *a, tv *out)
{
    int64_t n;
    return room(r, a, &n) ? SL_EINPUT : fill(r, a, 0, n, out);
}

static int s_rjust(run *r, tv *a, tv *out)
{
    int64_t n;
    return room(r, a, &n) ? SL_EINPUT : fill(r, a, n, 0, out);
}

static int s_center(run *r, tv *a, tv *out)
{
    int64_t n;
    if (room(r, a, &n)) return SL_EINPUT;
    int64_t width = n ? a[1].u.i : 0, left = n / 2 + (n & width & 1); /* CPython's rounding */
    return fill(r, a, left, n - left, out);
}

static int s_zfill(run *r, tv *a, tv *out)
{
    int64_t n;
    size_t mark = r->out.len, sign = a->n && (a->u.s[0] == '-' || a->u.s[0] == '+');
    if (room(r, a, &n) || sl_tmpl_put(r, a->u.s, sign)) return SL_EINPUT;
    for (int64_t i = 0; i < n; i++)
        if (sl_tmpl_put(r, "0", 1) || sl_tmpl_charge(r, 1)) return SL_EINPUT;
    return sl_tmpl_put(r, a->u.s + sign, a->n - sign) ? SL_EINPUT : sl_tmpl_take(r, mark, out);
}

static int s_format(run *r, const tv *self, const struct sl_tmpl_args *args, tv *out)
{
    return sl_tmpl_format(r, self, args, out);
}

/* ---- dicts ----------------------------------------------------------------------------------- */

static int view(run *r, tv *a, int what, tv *out)
{
    const struct sl_tv_dict *d = a->u.dict;
    if (sl_tmpl_charge(r, d->n / 4) || sl_tv_list_new(r, TV_VIEW, d->n, out)) return SL_EINPUT;
    out->flag = (uint8_t)what;
    for (size_t i = 0; i < d->n; i++) {
        tv pair;
        if (what == TV_VIEW_ITEMS) {
            if (sl_tv_list_new(r, TV_TUPLE, 2, &pair) || sl_tv_list_add(r, &pair, &d->p[i].k) ||
                sl_tv_list_add(r, &pair, &d->p[i].v))
                return SL_EINPUT;
        } else {
            pair = what == TV_VIEW_KEYS ? d->p[i].k : d->p[i].v;
        }
        if (sl_tv_list_add(r, out, &pair)) return SL_EINPUT;
    }
    return 0;
}

static int d_keys(run *r, tv *a, tv *out)
{
    return view(r, a, TV_VIEW_KEYS, out);
}

static int d_values(run *r, tv *a, tv *out)
{
    return view(r, a, TV_VIEW_VALUES, out);
}

static int d_items(run *r, tv *a, tv *out)
{
    return view(r, a, TV_VIEW_ITEMS, out);
}

static int d_get(run *r, tv *a, tv *out)
{
    if (sl_tmpl_charge(r, sl_tv_dict_cost(a, &a[1]))) return SL_EINPUT;
    const tv *v = sl_tv_dict_get(a, &a[1]);
    *out = v ? *v : a[2].type != TV_ABSENT ? a[2] : TV_MAKE_NONE;
    return 0;
}

static int copy(run *r, tv *a, tv *out) /* values do not change, so it may be the same one */
{
    (void)r;
    *out = *a;
    return 0;
}

/* ---- lists, numbers, the loop ---------------------------------------------------------------- */

static int l_index(run *r, tv *a, tv *out)
{
    int eq = 0;
    for (size_t i = 0; i < a->u.list->n; i++) {
        if (sl_tv_equal(r, &a->u.list->v[i], &a[1], 0, &eq)) return SL_EINPUT;
        if (!eq) continue;
        *out = TV_MAKE_INT((int64_t)i);
        return 0;
    }
    return sl_tmpl_fail(r, "the value is not in the list");
}

static int l_count(run *r, tv *a, tv *out)
{
    int64_t n = 0;
    for (size_t i = 0; i < a->u.list->n; i++) {
        int eq;
        if (sl_tv_equal(r, &a->u.list->v[i], &a[1], 0, &eq)) return SL_EINPUT;
        n += eq;
    }
    *out = TV_MAKE_INT(n);
    return 0;
}

static int f_is_integer(run *r, tv *a, tv *out)
{
    (void)r;
    *out = TV_MAKE_BOOL(a->u.f >= -9e18 && a->u.f <= 9e18 ? a->u.f == (double)(int64_t)a->u.f
                                                          : a->u.f - a->u.f == 0);
    return 0;
}

static int loop_cycle(run *r, const tv *self, const struct sl_tmpl_args *args, tv *out)
{
    if (args->n == 0) return sl_tmpl_fail(r, "loop.cycle needs values");
    *out = args->pos[self->u.loop->i % args->n];
    return 0;
}

static int loop_changed(run *r, const tv *self, const struct sl_tmpl_args *args, tv *out)
{
    struct sl_tmpl_loop *l = self->u.loop;
    tv now;
    int same = 0;
    if (sl_tv_list_new(r, TV_TUPLE, args->n, &now)) return SL_EINPUT;
    for (size_t i = 0; i < args->n; i++)
        if (sl_tv_list_add(r, &now, &args->pos[i])) return SL_EINPUT;
    if (l->changed.type != TV_ABSENT && sl_tv_equal(r, &now, &l->changed, 0, &same))
        return SL_EINPUT;
    l->changed = now;
    *out = TV_MAKE_BOOL(!same);
    return 0;
}

static const struct sl_tmpl_builtin str_methods[] = {
    {"split", "|sep,maxsplit", s_split, NULL},
    {"rsplit", "|sep,maxsplit", s_rsplit, NULL},
    {"strip", "|chars", s_strip, NULL},
    {"lstrip", "|chars", s_lstrip, NULL},
    {"rstrip", "|chars", s_rstrip, NULL},
    {"startswith", "prefix|start,end", s_startswith, NULL},
    {"endswith", "suffix|start,end", s_endswith, NULL},
    {"replace", "old,new|count", s_replace, NULL},
    {"upper", "", s_upper, NULL},
    {"lower", "", s_lower, NULL},
    {"casefold", "", s_lower, NULL},
    {"title", "", s_title, NULL},
    {"capitalize", "", s_capitalize, NULL},
    {"swapcase", "", s_swapcase, NULL},
    {"find", "sub|start,end", s_find, NULL},
    {"rfind", "sub|start,end", s_rfind, NULL},
    {"index", "sub|start,end", s_index, NULL},
    {"rindex", "sub|start,end", s_rindex, NULL},
    {"count", "sub|start,end", s_count, NULL},
    {"join", "iterable", s_join, NULL},
    {"format", NULL, NULL, s_format},
    {"splitlines", "|keepends", s_splitlines, NULL},
    {"partition", "sep", s_partition, NULL},
    {"rpartition", "sep", s_rpartition, NULL},
    {"removeprefix", "prefix", s_removeprefix, NULL},
    {"removesuffix", "suffix", s_removesuffix, NULL},
    {"isdigit", "", s_isdigit, NULL},
    {"isdecimal", "", s_isdigit, NULL},
    {"isnumeric", "", s_isdigit, NULL},
    {"isalpha", "", s_isalpha, NULL},
    {"isalnum", "", s_isalnum, NULL},
    {"isspace", "", s_isspace, NULL},
    {"isascii", "", s_isascii, NULL},
    {"isupper", "", s_isupper, NULL},
    {"islower", "", s_islower, NULL},
    {"ljust", "width|fillchar", s_ljust, NULL},
    {"rjust", "width|fillchar", s_rjust, NULL},
    {"center", "width|fillchar", s_center, NULL},
    {"zfill", "width", s_zfill, NULL},
};

static const struct sl_tmpl_builtin dict_methods[] = {
    {"items", "", d_items, NULL},        {"keys", "", d_keys, NULL}, {"values", "", d_values, NULL},
    {"get", "key|default", d_get, NULL}, {"copy", "", copy, NULL},
};

static const struct sl_tmpl_builtin list_methods[] = {
    {"index", "value", l_index, NULL},
    {"count", "value", l_count, NULL},
    {"copy", "", copy, NULL},
};

static const struct sl_tmpl_builtin loop_methods[] = {
    {"cycle", NULL, NULL, loop_cycle},
    {"changed", NULL, NULL, loop_changed},
};

static const struct sl_tmpl_builtin float_methods[] = {{"is_integer", "", f_is_integer, NULL}};

static int word_in(const char *words, const char *name, size_t n)
{
    while (*words) {
        size_t len = strcspn(words, " ");
        if (len == n && memcmp(words, name, n) == 0) return 1;
        words += len + (words[len] == ' ');
    }
    return 0;
}

const struct sl_tmpl_builtin *sl_tmpl_method_find(const tv *self, const char *name, size_t n,
                                                  int *blocked)
{
    static const char list_blocked[] = "append clear extend insert pop remove reverse sort";
    static const char dict_blocked[] = "clear pop popitem setdefault update";
    *blocked = 0;
    switch (self->type) {
    case TV_STR:
        return sl_tmpl_builtin_in(str_methods, SL_ARRAY_LEN(str_methods), name, n);
    case TV_DICT:
        *blocked = word_in(dict_blocked, name, n);
        return sl_tmpl_builtin_in(dict_methods, SL_ARRAY_LEN(dict_methods), name, n);
    case TV_LIST:
        *blocked = word_in(list_blocked, name, n);
        return sl_tmpl_builtin_in(list_methods, SL_ARRAY_LEN(list_methods), name, n);
    case TV_TUPLE:
    case TV_RANGE:
        return sl_tmpl_builtin_in(list_methods, 2, name, n); /* index and count */
    case TV_LOOP:
        return sl_tmpl_builtin_in(loop_methods, SL_ARRAY_LEN(loop_methods), name, n);
    case TV_FLOAT:
        return sl_tmpl_builtin_in(float_methods, SL_ARRAY_LEN(float_methods), name, n);
    }
    return NULL;
}
