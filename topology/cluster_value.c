/* cluster_value.c - single values of the topology file: words, numbers, units, CPU lists. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/sl_assert.h"
#include "base/text.h"
#include "topology/cluster_file.h"

#define WORDS_TEXT_MAX 200 /* bytes of a list of words in a message */
#define LAYER_MAX 100000   /* number of a layer */

const char *sl_yaml_kind_name(enum sl_yaml_kind kind)
{
    return kind == SL_YAML_MAP ? "a mapping" : kind == SL_YAML_LIST ? "a list" : "one value";
}

static int want_scalar(struct sl_cluster_file *f, const struct sl_yaml *v)
{
    if (v->kind == SL_YAML_SCALAR) return 0;
    return SL_FAIL(f, v, "is %s; give one value", sl_yaml_kind_name(v->kind));
}

int sl_value_text(struct sl_cluster_file *f, const struct sl_yaml *v, const struct sl_field *field,
                  void *at)
{
    (void)field;
    if (want_scalar(f, v)) return SL_EINPUT;
    if (!*v->text) return SL_FAIL(f, v, "is empty; give a value or leave the key out");
    *(const char **)at = v->text;
    return 0;
}

int sl_value_word(struct sl_cluster_file *f, const struct sl_yaml *v, const struct sl_field *field,
                  void *at)
{
    size_t n = 0;
    struct sl_buf all;
    char shown[SL_YAML_EXCERPT + 4];
    if (want_scalar(f, v)) return SL_EINPUT;
    for (; field->words[n]; n++) {
        if (strcmp(v->text, field->words[n]) != 0) continue;
        *(const char **)at = field->words[n];
        return 0;
    }
    const char *near = sl_nearest(v->text, field->words, n);
    sl_buf_init(&all, WORDS_TEXT_MAX);
    for (size_t i = 0; i < n; i++) sl_buf_printf(&all, "%s%s", i ? ", " : "", field->words[i]);
    int r =
        SL_FAIL(f, v, "'%s' is none of %s%s%s%s", sl_yaml_excerpt(v->text, shown), sl_buf_str(&all),
                near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
    sl_buf_close(&all);
    return r;
}

/* A whole number written in decimal digits; 0, or -1 for anything else. */
static int parse_int(const char *s, long *out)
{
    char *end;
    if (strspn(s, "-0123456789") != strlen(s)) return -1;
    errno = 0;
    *out = strtol(s, &end, 10);
    return end == s || *end || errno ? -1 : 0;
}

static int int_between(struct sl_cluster_file *f, const struct sl_yaml *v, long min, long max,
                       int *out)
{
    long n;
    char shown[SL_YAML_EXCERPT + 4];
    if (want_scalar(f, v)) return SL_EINPUT;
    if (parse_int(v->text, &n) || n < min || n > max)
        return SL_FAIL(f, v, "'%s' is no whole number from %ld to %ld",
                       sl_yaml_excerpt(v->text, shown), min, max);
    *out = (int)n;
    return 0;
}

int sl_value_int(struct sl_cluster_file *f, const struct sl_yaml *v, const struct sl_field *field,
                 void *at)
{
    return int_between(f, v, field->min, field->max, at);
}

int sl_value_percent(struct sl_cluster_file *f, const struct sl_yaml *v,
                     const struct sl_field *field, void *at)
{
    char digits[8], shown[SL_YAML_EXCERPT + 4];
    long n;
    (void)field;
    if (want_scalar(f, v)) return SL_EINPUT;
    size_t length = strlen(v->text);
    if (length < 2 || length > sizeof digits || v->text[length - 1] != '%')
        length = 1; /* no number is left */
    memcpy(digits, v->text, length - 1);
    digits[length - 1] = 0;
    if (parse_int(digits, &n) || n < 1 || n > 100)
        return SL_FAIL(f, v, "'%s' is no share; write it like 40%%, from 1%% to 100%%",
                       sl_yaml_excerpt(v->text, shown));
    *(int *)at = (int)n;
    return 0;
}

int sl_value_bytes(struct sl_cluster_file *f, const struct sl_yaml *v, const struct sl_field *field,
                   void *at)
{
    char shown[SL_YAML_EXCERPT + 4];
    if (want_scalar(f, v)) return SL_EINPUT;
    if (sl_parse_bytes(v->text, at))
        return SL_FAIL(f, v, "'%s' is no size; write it like 96GiB or 512MB",
                       sl_yaml_excerpt(v->text, shown));
    if (*(uint64_t *)at < (uint64_t)field->min)
        return SL_FAIL(f, v, "is 0; leave the key out to use what is there");
    return 0;
}

int sl_value_bandwidth(struct sl_cluster_file *f, const struct sl_yaml *v,
                       const struct sl_field *field, void *at)
{
    char shown[SL_YAML_EXCERPT + 4];
    (void)field;
    if (want_scalar(f, v)) return SL_EINPUT;
    if (sl_parse_bandwidth(v->text, at))
        return SL_FAIL(f, v, "'%s' is no bandwidth; write it like 25Gbit/s or 1.5GB/s",
                       sl_yaml_excerpt(v->text, shown));
    if (!(*(double *)at > 0)) return SL_FAIL(f, v, "is 0; leave the key out to have it measured");
    return 0;
}

int sl_value_latency(struct sl_cluster_file *f, const struct sl_yaml *v,
                     const struct sl_field *field, void *at)
{
    char shown[SL_YAML_EXCERPT + 4];
    (void)field;
    if (want_scalar(f, v)) return SL_EINPUT;
    if (sl_parse_duration(v->text, at))
        return SL_FAIL(f, v, "'%s' is no time; write it like 40us or 2ms",
                       sl_yaml_excerpt(v->text, shown));
    return 0;
}

int sl_value_layers(struct sl_cluster_file *f, const struct sl_yaml *v,
                    const struct sl_field *field, void *at)
{
    int *range = at, first, last;
    (void)field;
    if (v->kind != SL_YAML_LIST || v->n != 2)
        return SL_FAIL(f, v, "is not the first and the last layer; write layers: [0, 9]");
    if (int_between(f, v->first, 0, LAYER_MAX, &first) ||
        int_between(f, v->last, 0, LAYER_MAX, &last))
        return SL_EINPUT;
    if (last < first)
        return SL_FAIL(f, v, "the last layer, %d, is before the first, %d; write layers: [%d, %d]",
                       last, first, last, first);
    range[0] = first;
    range[1] = last + 1;
    return 0;
}

/* ---- CPU lists ------------------------------------------------------------------------------- */

struct cpu_list {
    int cpus[SL_CPUS_MAX + 1];
    int n;
};

static int add_cpus(struct sl_cluster_file *f, const struct sl_yaml *v, struct cpu_list *list)
{
    struct sl_err why;
    char shown[SL_YAML_EXCERPT + 4];
    if (want_scalar(f, v)) return SL_EINPUT;
    int had = list->n;
    int n = sl_cpus_parse(v->text, list->cpus + had, SL_CPUS_MAX - had, &why);
    if (n < 0)
        return SL_FAIL(f, v, "'%s' is no list of at most %d CPUs; write it like 0-3,8",
                       sl_yaml_excerpt(v->text, shown), SL_CPUS_MAX);
    list->n += n;
    return 0;
}

static int by_number(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

/* Sorted, since the order of CPUs means nothing and twins then stand side by side. */
static int keep_cpus(struct sl_cluster_file *f, const struct sl_yaml *v, struct cpu_list *list,
                     const int **at)
{
    qsort(list->cpus, (size_t)list->n, sizeof *list->cpus, by_number);
    for (int i = 1; i < list->n; i++)
        if (list->cpus[i] == list->cpus[i - 1])
            return SL_FAIL(f, v, "CPU %d stands there twice", list->cpus[i]);
    list->cpus[list->n] = -1;
    size_t bytes = (size_t)(list->n + 1) * sizeof *list->cpus;
    int *copy = sl_arena_alloc(&f->c->arena, bytes);
    if (!copy) return sl_err_set(f->err, SL_ENOMEM, "%s: no memory", f->name);
    memcpy(copy, list->cpus, bytes);
    *at = copy;
    return 0;
}

int sl_value_cpus(struct sl_cluster_file *f, const struct sl_yaml *v, const struct sl_field *field,
                  void *at)
{
    struct cpu_list list = {.n = 0};
    (void)field;
    if (sl_yaml_is_null(v) || (v->kind == SL_YAML_SCALAR && strcmp(v->text, "all") == 0)) {
        *(const int **)at = NULL;
        return 0;
    }
    if (v->kind == SL_YAML_SCALAR) {
        if (add_cpus(f, v, &list)) return SL_EINPUT;
        return keep_cpus(f, v, &list, at);
    }
    if (v->kind == SL_YAML_MAP || !v->n)
        return SL_FAIL(f, v, "is no list of CPUs; write it like 0-3,8, or all");
    for (const struct sl_yaml *i = v->first; i; i = i->next)
        if (add_cpus(f, i, &list)) return SL_EINPUT;
    return keep_cpus(f, v, &list, at);
}

int sl_value_unsupported(struct sl_cluster_file *f, const struct sl_yaml *v,
                         const struct sl_field *field, void *at)
{
    (void)at;
    return sl_yaml_error(f->name, v, SL_EUNSUPPORTED, f->err, "%s", field->remedy);
}
