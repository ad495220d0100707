/* conf.c - see conf.h. */
#include "base/conf.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"

#define CONF_NAMES_MAX 256 /* names one table may hold, for suggestions */
#define HELP_COLUMN 30     /* where the help text begins */

/* Does the space-separated list contain the n bytes at s? */
static int has_name(const char *names, const char *s, size_t n)
{
    for (const char *p = names; *p;) {
        size_t len = strcspn(p, " ");
        if (len == n && memcmp(p, s, n) == 0) return 1;
        p += len;
        p += strspn(p, " ");
    }
    return 0;
}

static const struct sl_conf_row *find(const struct sl_conf_row *rows, size_t n_rows, const char *s,
                                      size_t n, int *negated)
{
    *negated = 0;
    for (size_t i = 0; i < n_rows; i++)
        if (rows[i].type != SL_CONF_HEADING && has_name(rows[i].names, s, n)) return &rows[i];
    if (n <= 5 || strncmp(s, "--no-", 5) != 0) return NULL;
    char plain[128];
    snprintf(plain, sizeof plain, "--%.*s", (int)(n - 5), s + 5);
    for (size_t i = 0; i < n_rows; i++) {
        if (rows[i].type == SL_CONF_FLAG && has_name(rows[i].names, plain, strlen(plain))) {
            *negated = 1;
            return &rows[i];
        }
    }
    return NULL;
}

static int unknown(const struct sl_conf_row *rows, size_t n_rows, const char *arg, size_t len,
                   struct sl_err *err)
{
    char word[128]; /* without "=value" */
    snprintf(word, sizeof word, "%.*s", (int)len, arg);
    char *copies[CONF_NAMES_MAX];
    const char *names[CONF_NAMES_MAX];
    size_t n = 0, c = 0;
    for (size_t i = 0; i < n_rows && c < CONF_NAMES_MAX; i++) {
        if (rows[i].type == SL_CONF_HEADING) continue;
        char *copy = strdup(rows[i].names), *save = NULL;
        if (!copy) break;
        copies[c++] = copy;
        for (char *t = strtok_r(copy, " ", &save); t && n < CONF_NAMES_MAX;
             t = strtok_r(NULL, " ", &save))
            names[n++] = t;
    }
    const char *near = sl_nearest(word, names, n);
    int r = near ? sl_err_set(err, SL_EUSAGE, "unknown option %s; did you mean %s?", word, near)
                 : sl_err_set(err, SL_EUSAGE, "unknown option %s; --help lists them", word);
    while (c) free(copies[--c]);
    return r;
}

static int store(const struct sl_conf_row *row, void *settings, const char *name, const char *value,
                 struct sl_err *err)
{
    char *at = (char *)settings + row->offset, *end = NULL;
    if (row->type == SL_CONF_STRING) {
        memcpy(at, &value, sizeof value);
        return 0;
    }
    if (row->type == SL_CONF_LIST) {
        struct sl_conf_list *l = (struct sl_conf_list *)(void *)at;
        if (l->n == SL_CONF_LIST_MAX)
            return sl_err_set(err, SL_EUSAGE, "%s is given more than %d times", name,
                              SL_CONF_LIST_MAX);
        l->v[l->n++] = value;
        return 0;
    }
    errno = 0;
    double d;
    int64_t i = 0;
    if (row->type == SL_CONF_INT) {
        i = strtoll(value, &end, 10);
        d = (double)i;
    } else {
        d = strtod(value, &end);
    }
    if (end == value || *end || errno || !isfinite(d))
        return sl_err_set(err, SL_EUSAGE, "%s wants a number, not '%s'", name, value);
    if ((row->min != 0 || row->max != 0) && (d < row->min || d > row->max))
        return sl_err_set(err, SL_EUSAGE, "%s must lie between %g and %g, not %s", name, row->min,
                          row->max, value);
    if (row->type == SL_CONF_INT)
        memcpy(at, &i, sizeof i);
    else
        memcpy(at, &d, sizeof d);
    return 0;
}

int sl_conf_parse(const struct sl_conf_row *rows, size_t n_rows, void *settings, int argc,
                  char **argv, const char **positional, int max_positional, int *n_positional,
                  int *help, struct sl_err *err)
{
    int only_words = 0;
    *n_positional = 0;
    *help = 0;
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (only_words || arg[0] != '-' || arg[1] == 0) {
            if (*n_positional == max_positional)
                return sl_err_set(err, SL_EUSAGE, "unexpected argument '%s'", arg);
            positional[(*n_positional)++] = arg;
            continue;
        }
        if (strcmp(arg, "--") == 0) {
            only_words = 1;
            continue;
        }
        if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            *help = 1;
            continue;
        }
        const char *eq = arg[1] == '-' ? strchr(arg, '=') : NULL;
        size_t len = eq ? (size_t)(eq - arg) : strlen(arg);
        int negated;
        const struct sl_conf_row *row = find(rows, n_rows, arg, len, &negated);
        if (!row) return unknown(rows, n_rows, arg, len, err);
        if (row->type == SL_CONF_FLAG) {
            if (eq) return sl_err_set(err, SL_EUSAGE, "%.*s takes no value", (int)len, arg);
            int v = !negated;
            memcpy((char *)settings + row->offset, &v, sizeof v);
            continue;
        }
        const char *value = eq ? eq + 1 : i + 1 < argc ? argv[++i] : NULL;
        if (!value) return sl_err_set(err, SL_EUSAGE, "%s needs a value (%s)", arg, row->value);
        int r = store(row, settings, arg, value, err);
        if (r) return r;
    }
    return 0;
}

void sl_conf_help(const struct sl_conf_row *rows, size_t n_rows)
{
    for (size_t i = 0; i < n_rows; i++) {
        const struct sl_conf_row *r = &rows[i];
        if (r->type == SL_CONF_HEADING) {
            printf("\n%s\n", r->help);
            continue;
        }
        char left[160] = "  ";
        size_t n = 2;
        for (const char *p = r->names; *p && n < sizeof left - 2; p++)
            n += (size_t)snprintf(left + n, sizeof left - n, *p == ' ' ? ", " : "%c", *p);
        if (r->value && n < sizeof left) snprintf(left + n, sizeof left - n, " %s", r->value);
        if (strlen(left) >= HELP_COLUMN)
            printf("%s\n%*s%s\n", left, HELP_COLUMN, "", r->help);
        else
            printf("%-*s%s\n", HELP_COLUMN, left, r->help);
    }
}
