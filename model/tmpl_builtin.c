/* tmpl_builtin.c - how filters, tests, methods and global functions are found and get their
 * arguments, and the global functions themselves. */
#include <jansson.h>
#include <string.h>

#include "base/sl_assert.h"
#include "model/tmpl.h"

const struct sl_tmpl_builtin *sl_tmpl_builtin_in(const struct sl_tmpl_builtin *table, size_t count,
                                                 const char *name, size_t n)
{
    for (size_t i = 0; i < count; i++)
        if (strlen(table[i].name) == n && memcmp(table[i].name, name, n) == 0) return &table[i];
    return NULL;
}

/* Index of the parameter called name in "a,b|c", -1 when there is none. */
static int param_index(const char *params, const char *name, size_t n)
{
    int i = 0;
    for (const char *p = params; *p; i++) {
        p += strspn(p, ",|");
        size_t len = strcspn(p, ",|");
        if (len == 0) break;
        if (len == n && memcmp(p, name, n) == 0) return i;
        p += len;
    }
    return -1;
}

static void param_counts(const char *params, int *required, int *all)
{
    const char *bar = strchr(params, '|');
    *required = *all = 0;
    for (const char *p = params; *p;) {
        p += strspn(p, ",|");
        size_t len = strcspn(p, ",|");
        if (len == 0) break;
        ++*all;
        if (!bar || p < bar) ++*required;
        p += len;
    }
    SL_ASSERT(*all <= TMPL_PARAMS_MAX);
}

int sl_tmpl_builtin_call(struct sl_tmpl_run *r, const struct sl_tmpl_builtin *b,
                         const struct sl_tv *self, const struct sl_tmpl_args *args,
                         struct sl_tv *out)
{
    struct sl_tv a[TMPL_PARAMS_MAX + 1] = {{0}};
    int required, all;
    if (sl_tmpl_charge(r, 1)) return SL_EINPUT;
    if (b->raw) return b->raw(r, self, args, out);
    param_counts(b->params, &required, &all);
    if (args->n > (size_t)all)
        return sl_tmpl_fail(r, "'%s' takes at most %d arguments, got %zu", b->name, all, args->n);
    for (size_t i = 0; i < args->n; i++) a[i + 1] = args->pos[i];
    for (size_t i = 0; i < args->n_kw; i++) {
        int at = param_index(b->params, args->kw[i].name, args->kw[i].n);
        if (at < 0 || a[at + 1].type != TV_ABSENT)
            return sl_tmpl_fail(r, "'%s' %s argument '%.*s'", b->name,
                                at < 0 ? "has no" : "got two values for", (int)args->kw[i].n,
                                args->kw[i].name);
        a[at + 1] = args->kw[i].v;
    }
    for (int i = 1; i <= required; i++)
        if (a[i].type == TV_ABSENT)
            return sl_tmpl_fail(r, "'%s' needs %d argument%s", b->name, required,
                                required > 1 ? "s" : "");
    if (self) a[0] = *self;
    return b->fn(r, a, out);
}

/* ---- global functions ------------------------------------------------------------------------ */

static int raise_exception(struct sl_tmpl_run *r, struct sl_tv *a, struct sl_tv *out)
{
    (void)out;
    struct sl_tv text;
    if (sl_tv_to_str(r, &a[1], &text)) return SL_EINPUT;
    return sl_err_set(r->err, SL_EINPUT, "%.*s", (int)SL_MIN(text.n, (uint32_t)SL_ERR_MSG_MAX),
                      text.n ? text.u.s : "");
}

static int strftime_now(struct sl_tmpl_run *r, struct sl_tv *a, struct sl_tv *out)
{
    if (a[1].type != TV_STR) return sl_tmpl_fail(r, "strftime_now needs a format string");
    return sl_tmpl_strftime(r, &a[1], out);
}

static int range(struct sl_tmpl_run *r, const struct sl_tv *self, const struct sl_tmpl_args *args,
                 struct sl_tv *out)
{
    int64_t v[3] = {0, 0, 1};
    (void)self;
    if (args->n < 1 || args->n > 3 || args->n_kw)
        return sl_tmpl_fail(r, "range takes 1 to 3 integers");
    for (size_t i = 0; i < args->n; i++) {
        if (args->pos[i].type != TV_INT && args->pos[i].type != TV_BOOL)
            return sl_tmpl_fail(r, "range takes integers, not '%s'",
                                sl_tv_type_name(&args->pos[i]));
        v[args->n == 1 ? 1 : i] = args->pos[i].u.i;
    }
    if (v[2] == 0) return sl_tmpl_fail(r, "the step of a range cannot be zero");
    /* unsigned differences: the bounds may be 2^64 apart */
    uint64_t span = v[2] > 0 ? (uint64_t)v[1] - (uint64_t)v[0] : (uint64_t)v[0] - (uint64_t)v[1];
    uint64_t step = v[2] > 0 ? (uint64_t)v[2] : 0 - (uint64_t)v[2], n = 0;
    if (v[2] > 0 ? v[0] < v[1] : v[0] > v[1]) n = (span - 1) / step + 1;
    if (n > TMPL_RANGE_MAX)
        return sl_tmpl_fail(r, "a range of %llu elements is too large (at most %d)",
                            (unsigned long long)n, TMPL_RANGE_MAX);
    if (sl_tmpl_charge(r, n / 8) || sl_tv_list_new(r, TV_RANGE, n, out)) return SL_EINPUT;
    struct sl_tv_list *l = out->u.list;
    for (l->n = 0; l->n < n; l->n++) l->v[l->n] = TV_MAKE_INT(v[0] + (int64_t)l->n * v[2]);
    l->start = v[0];
    l->stop = v[1];
    l->step = v[2];
    return 0;
}

/* dict(...) and namespace(...): a mapping or pairs, then named values. */
static int make_dict(struct sl_tmpl_run *r, int type, const struct sl_tmpl_args *args,
                     struct sl_tv *out)
{
    if (args->n > 1)
        return sl_tmpl_fail(r, "dict and namespace take at most one positional argument");
    if (sl_tv_dict_new(r, type, args->n_kw, out)) return SL_EINPUT;
    if (args->n && args->pos[0].type == TV_DICT) {
        const struct sl_tv_dict *d = args->pos[0].u.dict;
        for (size_t i = 0; i < d->n; i++)
            if (sl_tv_dict_set(r, out, &d->p[i].k, &d->p[i].v)) return SL_EINPUT;
    } else if (args->n) {
        struct sl_tv pairs, pair;
        if (sl_tv_iterate(r, &args->pos[0], &pairs)) return SL_EINPUT;
        for (size_t i = 0; i < pairs.u.list->n; i++) {
            if (sl_tv_iterate(r, &pairs.u.list->v[i], &pair)) return SL_EINPUT;
            if (pair.u.list->n != 2) return sl_tmpl_fail(r, "dict needs pairs");
            if (sl_tv_dict_set(r, out, &pair.u.list->v[0], &pair.u.list->v[1])) return SL_EINPUT;
        }
    }
    for (size_t i = 0; i < args->n_kw; i++) {
        struct sl_tv k = {.type = TV_STR, .n = args->kw[i].n, .u.s = args->kw[i].name};
        if (sl_tv_dict_set(r, out, &k, &args->kw[i].v)) return SL_EINPUT;
    }
    return 0;
}

static int dict(struct sl_tmpl_run *r, const struct sl_tv *self, const struct sl_tmpl_args *args,
                struct sl_tv *out)
{
    (void)self;
    return make_dict(r, TV_DICT, args, out);
}

static int name_space(struct sl_tmpl_run *r, const struct sl_tv *self,
                      const struct sl_tmpl_args *args, struct sl_tv *out)
{
    (void)self;
    return make_dict(r, TV_NS, args, out);
}

const struct sl_tmpl_builtin *sl_tmpl_global_find(const char *name, size_t n)
{
    static const struct sl_tmpl_builtin table[] = {
        {"raise_exception", "message", raise_exception, NULL},
        {"strftime_now", "format", strftime_now, NULL},
        {"range", NULL, NULL, range},
        {"dict", NULL, NULL, dict},
        {"namespace", NULL, NULL, name_space},
    };
    return sl_tmpl_builtin_in(table, SL_ARRAY_LEN(table), name, n);
}
