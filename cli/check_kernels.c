/* check_kernels.c - every family of kernels on every device here, against kernels/ref: the devices,
 * one after the other, and the lines of the table. */
#include "cli/check_table.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/host.h"
#include "base/sl_assert.h"

void sl_check_line(struct sl_check_table *t, const char *family, const char *format, int n,
                   const char *shape, double error, double allowed, struct sl_check_speed v,
                   const struct sl_err *failed)
{
    int ok = !failed->code && error <= allowed; /* a NaN is not */
    json_t *j = json_pack("{s:s, s:s, s:s, s:i, s:s, s:b}", "device", t->s->kind, "family", family,
                          "format", format, "rows", n, "shape", shape, "ok", ok);
    if (failed->code) {
        json_object_set_new(j, "why", json_string(failed->msg));
    } else {
        json_object_set_new(j, "error", isfinite(error) ? json_real(error) : json_null());
        json_object_set_new(j, "allowed", json_real(allowed));
        if (!ok) json_object_set_new(j, "why", json_string("differs from the reference"));
    }
    if (!failed->code && v.seconds > 0) {
        double rate = v.bytes / v.seconds;
        json_object_set_new(j, "us", json_real(v.seconds * 1e6));
        if (v.flops > 0) json_object_set_new(j, "tflops", json_real(v.flops / v.seconds * 1e-12));
        if (v.bytes > 0) json_object_set_new(j, "gb_s", json_real(rate * 1e-9));
        if (v.bytes > 0 && t->s->bandwidth > 0)
            json_object_set_new(j, "percent", json_real(100 * rate / t->s->bandwidth));
    }
    json_array_append_new(t->lines, j);
    if (t->shown) t->shown(t->arg, j);
}

double sl_check_error(const float *got, const float *want, int64_t n)
{
    double d = 0, r = 0;
    for (int64_t i = 0; i < n; i++) {
        d += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
        r += (double)want[i] * (double)want[i];
    }
    return r > 0 ? sqrt(d / r) : sqrt(d);
}

/* ---- devices --------------------------------------------------------------------------------- */

static void check_device(struct sl_check_table *t)
{
    sl_check_products(t);
    sl_check_embeds(t);
    if (t->format) return;
    sl_check_norms(t);
    sl_check_attentions(t);
    sl_check_feeds(t);
    sl_check_draws(t);
}

/* Whether `device` asks for the backend `kind`: by its name, or "cpu" for all of the host's. */
static int wanted(const char *device, const char *kind)
{
    int card = strncmp(kind, "cuda", 4) == 0;
    return !device || strcmp(device, kind) == 0 || (strcmp(device, "cpu") == 0 && !card) ||
           (strcmp(device, "cuda") == 0 && card);
}

static int check_one(struct sl_check_table *t, const char *kind, struct sl_err *err)
{
    struct sl_check_side s;
    int r = sl_check_side_open(kind, &s, err);
    if (r) return r;
    t->s = &s;
    check_device(t);
    sl_check_side_close(&s);
    return 0;
}

json_t *sl_check_kernels(const char *device, const char *format,
                         void (*shown)(void *arg, const json_t *line), void *arg,
                         struct sl_err *err)
{
    struct sl_check_table t = {.lines = json_array(), .shown = shown, .arg = arg, .format = format};
    int cpus[SL_HOST_CPUS_MAX];
    const struct sl_backend_params how = {.kind = "ref",
                                          .n_threads = sl_host_cpus(cpus, SL_HOST_CPUS_MAX)};
    int n, checked = 0, r = sl_backend_create(&how, &t.ref, err);
    const char *const *rows = sl_backend_rows(&n);
    if (!r) t.oracle = sl_backend_ops(t.ref);
    for (int i = 0; i < n && !r; i++) {
        if (strcmp(rows[i], "ref") == 0 || !wanted(device, rows[i])) continue;
        r = check_one(&t, rows[i], err);
        checked++;
    }
    for (int i = 0; i < sl_backend_cards() && !r; i++) {
        char kind[24];
        snprintf(kind, sizeof kind, "cuda:%d", i);
        if (!wanted(device, kind)) continue;
        r = check_one(&t, kind, err);
        checked++;
    }
    sl_backend_destroy(t.ref);
    if (!r && !checked)
        r = sl_err_set(err, SL_EINPUT, "--device %s: there is none here; `sluice check` lists them",
                       device);
    if (!r && format && json_array_size(t.lines) == 0)
        r = sl_err_set(err, SL_EINPUT, "--format %s: no such format; Q4_K, NVFP4, FP8 row ...",
                       format);
    if (!r) return t.lines;
    json_decref(t.lines);
    return NULL;
}
