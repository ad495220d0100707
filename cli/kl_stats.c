/* kl_stats.c - how one model's probabilities differ from another's, row by row and in sum. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/sl_assert.h"
#include "cli/kl_part.h"

void sl_kl_log_softmax(const float *logits, int n, float *out)
{
    float top = -INFINITY;
    for (int i = 0; i < n; i++)
        if (logits[i] > top) top = logits[i];
    double sum = 0;
    for (int i = 0; i < n; i++) sum += exp((double)logits[i] - (double)top);
    double base = (double)top + log(sum);
    for (int i = 0; i < n; i++) out[i] = (float)((double)logits[i] - base);
}

static int grow(struct sl_kl_stats *st, struct sl_err *err)
{
    if (st->n < st->cap) return 0;
    int64_t cap = SL_MAX(1024, st->cap * 2);
    float *kld = realloc(st->kld, (size_t)cap * sizeof *kld);
    if (kld) st->kld = kld;
    float *dp = realloc(st->dp, (size_t)cap * sizeof *dp);
    if (dp) st->dp = dp;
    if (!kld || !dp) return sl_err_set(err, SL_ENOMEM, "out of memory");
    st->cap = cap;
    return 0;
}

int sl_kl_compare(struct sl_kl_file *f, int64_t row, const float *logits, int32_t right,
                  struct sl_kl_stats *st, struct sl_err *err)
{
    int n = f->shape.n_vocab, top = 0, base_top = 0;
    float low, step, base_right;
    int r = grow(st, err);
    if (r == 0) r = sl_kl_read(f, &base_right, 4, f->right_at + row * 4, err);
    if (r == 0) r = sl_kl_read(f, &low, 4, f->low_at + row * 4, err);
    if (r == 0) r = sl_kl_read(f, &step, 4, f->step_at + row * 4, err);
    if (r == 0)
        r = sl_kl_read(f, f->codes, (size_t)n * sizeof *f->codes, f->codes_at + row * n * 2, err);
    if (r) return r;
    sl_kl_log_softmax(logits, n, f->logp);
    double kld = 0;
    for (int i = 0; i < n; i++) {
        double base = (double)low + (double)step * f->codes[i];
        if (f->codes[i]) kld += exp(base) * (base - (double)f->logp[i]);
        if (f->codes[i] > f->codes[base_top]) base_top = i;
        if (f->logp[i] > f->logp[top]) top = i;
    }
    double here = -(double)f->logp[right], there = -(double)base_right;
    st->kld[st->n] = (float)kld;
    st->dp[st->n++] = (float)(exp(-here) - exp(-there));
    st->nll += here;
    st->nll2 += here * here;
    st->base += there;
    st->base2 += there * there;
    st->product += here * there;
    /* several tokens may share the base's best code */
    st->same_top += f->codes[top] == f->codes[base_top];
    return 0;
}

void sl_kl_stats_close(struct sl_kl_stats *st)
{
    free(st->kld);
    free(st->dp);
    *st = (struct sl_kl_stats){0};
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* Mean, its standard error, and percentiles of v[n], which is sorted. */
static json_t *summary(float *v, int64_t n)
{
    static const struct {
        const char *name;
        double at;
    } marks[] = {{"min", 0},  {"p1", .01},  {"p5", .05},  {"p10", .1},     {"median", .5},
                 {"p90", .9}, {"p95", .95}, {"p99", .99}, {"p99.9", .999}, {"max", 1}};
    double sum = 0, squares = 0;
    qsort(v, (size_t)n, sizeof *v, by_value);
    for (int64_t i = 0; i < n; i++) {
        sum += (double)v[i];
        squares += (double)v[i] * (double)v[i];
    }
    double mean = sum / (double)n, var = squares / (double)n - mean * mean;
    json_t *j = json_pack("{s:f, s:f, s:f}", "mean", mean, "error",
                          n > 1 && var > 0 ? sqrt(var / (double)(n - 1)) : 0.0, "rms",
                          sqrt(squares / (double)n));
    for (size_t i = 0; j && i < SL_ARRAY_LEN(marks); i++) {
        double at = marks[i].at * (double)(n - 1);
        int64_t k = (int64_t)at;
        double part = at - (double)k, next = (double)v[SL_MIN(k + 1, n - 1)];
        json_object_set_new(j, marks[i].name, json_real((1 - part) * (double)v[k] + part * next));
    }
    return j;
}

json_t *sl_kl_stats_json(struct sl_kl_stats *st)
{
    double n = (double)st->n, a = st->nll / n, b = st->base / n;
    double var_a = st->nll2 / n - a * a, var_b = st->base2 / n - b * b,
           cov = st->product / n - a * b;
    double diff = var_a + var_b - 2 * cov; /* variance of log p here less log p there */
    double same = (double)st->same_top / n;
    return json_pack("{s:I, s:f, s:f, s:f, s:f, s:f, s:o, s:o, s:f, s:f}", "tokens",
                     (json_int_t)st->n, "ppl", exp(a), "ppl_base", exp(b), "correlation",
                     var_a > 0 && var_b > 0 ? cov / sqrt(var_a * var_b) : 1.0, "log_ppl_ratio",
                     a - b, "log_ppl_ratio_error",
                     st->n > 1 && diff > 0 ? sqrt(diff / (n - 1)) : 0.0, "kld",
                     summary(st->kld, st->n), "delta_p", summary(st->dp, st->n), "same_top", same,
                     "same_top_error", st->n > 1 ? sqrt(same * (1 - same) / (n - 1)) : 0.0);
}

static double value(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

static void print_summary(const json_t *o, const char *name, double scale, const char *unit)
{
    static const char *const marks[] = {"max",    "p99.9", "p99", "p95", "p90",
                                        "median", "p10",   "p5",  "p1",  "min"};
    printf("Mean    %-4s: %10.6f +/- %.6f%s\n", name, scale * value(o, "mean"),
           scale * value(o, "error"), unit);
    for (size_t i = 0; i < SL_ARRAY_LEN(marks); i++)
        printf("%-7s %-4s: %10.6f%s\n", marks[i], name, scale * value(o, marks[i]), unit);
}

void sl_kl_stats_print(const json_t *j)
{
    const json_t *dp = json_object_get(j, "delta_p");
    printf("\nPerplexity: %.6f, of the base %.6f; their logarithms correlate by %.2f %%\n",
           value(j, "ppl"), value(j, "ppl_base"), 100 * value(j, "correlation"));
    printf("ln(PPL / PPL of the base) = %.6f +/- %.6f\n\n", value(j, "log_ppl_ratio"),
           value(j, "log_ppl_ratio_error"));
    print_summary(json_object_get(j, "kld"), "KLD", 1, "");
    printf("\n");
    print_summary(dp, "dp", 100, " %");
    printf("RMS     dp  : %10.6f %%\n", 100 * value(dp, "rms"));
    printf("Same best token: %.3f +/- %.3f %%\n", 100 * value(j, "same_top"),
           100 * value(j, "same_top_error"));
}
