/* template.c - see template.h: compiling, rendering, and the bounds and errors of one rendering. */
#include "model/template.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"
#include "model/tmpl.h"

int sl_template_compile(const char *source, size_t n, struct sl_template **out, struct sl_err *err)
{
    *out = NULL;
    if (n > SL_TEMPLATE_SOURCE_MAX)
        return sl_err_set(err, SL_EINPUT, "chat template: %zu bytes, more than the maximum of %u",
                          n, SL_TEMPLATE_SOURCE_MAX);
    struct sl_template *t = calloc(1, sizeof *t);
    if (!t) return sl_err_set(err, SL_ENOMEM, "chat template: out of memory");
    sl_arena_init(&t->mem, TMPL_COMPILE_BYTES_MAX);
    int rc = 0;
    char *copy = sl_arena_alloc(&t->mem, n + 1);
    if (copy) {
        memcpy(copy, source, n);
        t->source = copy;
        t->n_source = n;
        rc = sl_tmpl_parse(t, source, n, err);
    } else {
        rc = sl_err_set(err, SL_ENOMEM, "chat template: out of memory");
    }
    if (rc) {
        sl_template_free(t);
        return rc;
    }
    *out = t;
    return 0;
}

void sl_template_free(struct sl_template *t)
{
    if (!t) return;
    sl_arena_close(&t->mem);
    free(t);
}

const char *sl_template_source(const struct sl_template *t, size_t *n)
{
    *n = t->n_source;
    return t->source;
}

int sl_template_render(const struct sl_template *t, const struct json_t *vars, struct sl_buf *out,
                       struct sl_err *err)
{
    struct sl_tmpl_run r = {.t = t, .vars = vars, .line = 1, .err = err};
    if (!json_is_object(vars))
        return sl_err_set(err, SL_EINPUT, "chat template: the variables must be a JSON object");
    sl_arena_init(&r.mem, TMPL_RENDER_BYTES_MAX);
    sl_buf_init(&r.out, SL_TEMPLATE_OUTPUT_MAX);
    r.globals = sl_tmpl_alloc(&r, t->n_names * sizeof *r.globals);
    int rc = r.globals ? sl_tmpl_exec(&r) : SL_EINPUT;
    if (rc == 0 && sl_buf_add(out, r.out.data, r.out.len))
        rc = sl_err_set(err, SL_EINPUT, "chat template: the prompt of %zu bytes is over the limit",
                        r.out.len);
    sl_buf_close(&r.out);
    sl_arena_close(&r.mem);
    return rc;
}

/* ---- bounds and errors of a rendering -------------------------------------------------------- */

int sl_tmpl_fail(struct sl_tmpl_run *r, const char *fmt, ...)
{
    char what[SL_ERR_MSG_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return sl_err_set(r->err, SL_EINPUT, "chat template, line %u: %s", r->line, what);
}

int sl_tmpl_fail_undef(struct sl_tmpl_run *r, const struct sl_tv *v)
{
    int n = (int)SL_MIN(v->n, 100u);
    struct sl_tv of = {.type = v->of};
    if (v->flag == TV_UNDEF_ATTR)
        return sl_tmpl_fail(r, "'%s' has no '%.*s'", sl_tv_type_name(&of), n, v->u.s);
    if (v->flag == TV_UNDEF_NAME) return sl_tmpl_fail(r, "'%.*s' is undefined", n, v->u.s);
    return sl_tmpl_fail(r, "an undefined value is used");
}

int sl_tmpl_charge(struct sl_tmpl_run *r, size_t steps)
{
    if (steps > SL_TEMPLATE_STEPS_MAX - r->steps)
        return sl_tmpl_fail(r, "rendering takes too long (more than %u steps)",
                            SL_TEMPLATE_STEPS_MAX);
    r->steps += (uint32_t)steps;
    return 0;
}

void *sl_tmpl_alloc(struct sl_tmpl_run *r, size_t n)
{
    void *p = sl_arena_alloc(&r->mem, n ? n : 1);
    if (!p)
        sl_tmpl_fail(r, "rendering needs too much memory (more than %u MiB)",
                     TMPL_RENDER_BYTES_MAX >> 20);
    return p;
}

static int put_failed(struct sl_tmpl_run *r)
{
    return sl_tmpl_fail(r, "the output is too large (more than %u MiB)",
                        SL_TEMPLATE_OUTPUT_MAX >> 20);
}

int sl_tmpl_put(struct sl_tmpl_run *r, const char *s, size_t n)
{
    return sl_buf_add(&r->out, s, n) ? put_failed(r) : sl_tmpl_charge(r, n / 256);
}

int sl_tmpl_putf(struct sl_tmpl_run *r, const char *fmt, ...)
{
    char text[400]; /* callers print numbers and short names */
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return sl_tmpl_put(r, text, n < 0 ? 0 : SL_MIN((size_t)n, sizeof text - 1));
}

int sl_tmpl_put_cp(struct sl_tmpl_run *r, uint32_t cp)
{
    char c[4];
    return sl_tmpl_put(r, c, (size_t)sl_utf8_put(cp, c));
}

int sl_tmpl_take(struct sl_tmpl_run *r, size_t mark, struct sl_tv *out)
{
    size_t n = r->out.len - mark;
    char *s = sl_tmpl_alloc(r, n + 1);
    if (!s) return SL_EINPUT;
    if (n) memcpy(s, r->out.data + mark, n);
    r->out.len = mark;
    *out = (struct sl_tv){.type = TV_STR, .n = (uint32_t)n, .u.s = s};
    return 0;
}
