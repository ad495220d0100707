/* tmpl_format.c - Python's text formatting: fmt % values, fmt.format(values), strftime_now(fmt).
 *
 * Format strings are the template's and hence hostile: they are parsed here and nothing of them
 * reaches printf; widths and precisions are bounded. */
#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/env.h"
#include "base/text.h"
#include "model/tmpl.h"

#define WIDTH_MAX 10000   /* code points of one formatted value */
#define PRECISION_MAX 400 /* digits */

struct spec {
    char fill[4], align, sign, type, group; /* align: < > = ^ or 0 */
    int fill_n, alt, width, precision;      /* precision -1: not given */
};

static int pad(struct sl_tmpl_run *r, const struct spec *f, int n)
{
    for (int i = 0; i < n; i++)
        if (sl_tmpl_put(r, f->fill, (size_t)f->fill_n)) return SL_EINPUT;
    return 0;
}

/* Appends prefix (sign, 0x) and text, filled to the width. */
static int put_padded(struct sl_tmpl_run *r, const struct spec *f, const char *prefix,
                      const char *s, size_t n, char align)
{
    size_t len = sl_tmpl_text_len(s, n) + strlen(prefix);
    int room = (size_t)f->width > len ? f->width - (int)len : 0;
    int left = align == '>' ? room : align == '^' ? room / 2 : 0;
    int middle = align == '=' ? room : 0;
    if (pad(r, f, left) || sl_tmpl_put(r, prefix, strlen(prefix)) || pad(r, f, middle) ||
        sl_tmpl_put(r, s, n))
        return SL_EINPUT;
    return pad(r, f, room - left - middle);
}

/* Digits with a separator every three places before the point. */
static size_t group_digits(const char *s, char sep, char *out)
{
    size_t whole = strspn(s, "0123456789"), n = 0;
    for (size_t i = 0; i < whole; i++) {
        if (i && (whole - i) % 3 == 0) out[n++] = sep;
        out[n++] = s[i];
    }
    memcpy(out + n, s + whole, strlen(s + whole) + 1);
    return n + strlen(s + whole);
}

static int put_number_text(struct sl_tmpl_run *r, const struct spec *f, int negative,
                           const char *base, const char *digits)
{
    char prefix[4] = "", grouped[1200];
    size_t k = 0;
    if (negative || f->sign == '+' || f->sign == ' ') prefix[k++] = negative ? '-' : f->sign;
    if (f->alt) memcpy(prefix + k, base, strlen(base) + 1);
    size_t n = strlen(digits);
    if (f->group) {
        n = group_digits(digits, f->group, grouped);
        digits = grouped;
    }
    return put_padded(r, f, prefix, digits, n, f->align ? f->align : '>');
}

static int put_int(struct sl_tmpl_run *r, const struct spec *f, int64_t v)
{
    char digits[72];
    size_t n = sizeof digits - 1;
    int base = f->type == 'x' || f->type == 'X' ? 16 : f->type == 'o' ? 8 : f->type == 'b' ? 2 : 10;
    const char *set = f->type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
    uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    digits[n] = 0;
    do digits[--n] = set[u % (unsigned)base];
    while (u /= (unsigned)base);
    const char *prefix = f->type == 'x'   ? "0x"
                         : f->type == 'X' ? "0X"
                         : f->type == 'o' ? "0o"
                         : f->type == 'b' ? "0b"
                                          : "";
    return put_number_text(r, f, v < 0, prefix, digits + n);
}

static int put_float(struct sl_tmpl_run *r, const struct spec *f, double v)
{
    char digits[1000], fmt[8] = "%.*f";
    double a = fabs(v);
    int precision = f->precision < 0 ? 6 : f->precision, negative = signbit(v) && !isnan(v);
    if (f->type == 0 && f->precision < 0) {
        sl_tv_float_repr(a, digits);
        return put_number_text(r, f, negative, "", digits);
    }
    if (f->type == '%') a *= 100;
    fmt[3] = strchr("eEgGF", f->type) && f->type ? f->type : f->type == 0 ? 'g' : 'f';
    if ((fmt[3] | 32) == 'g' && precision == 0) precision = 1;
    locale_t old = uselocale(sl_tmpl_locale()); /* '.' whatever the program's locale */
    int n = snprintf(digits, sizeof digits - 1, fmt, precision, a);
    uselocale(old);
    if (f->type == '%' && n >= 0 && (size_t)n < sizeof digits - 2) memcpy(digits + n, "%", 2);
    return put_number_text(r, f, negative, "", digits);
}

/* One value by its spec: what Python's format(value, spec) gives. */
static int put_value(struct sl_tmpl_run *r, struct spec *f, const struct sl_tv *v)
{
    struct sl_tv text;
    if (f->width > WIDTH_MAX || f->precision > PRECISION_MAX)
        return sl_tmpl_fail(r, "a width or precision in a format is too large");
    if (sl_tv_is_number(v) && f->type != 's' && !(v->type == TV_BOOL && f->type == 0)) {
        if (f->type && !strchr("bdoxXeEfFgG%n", f->type))
            return sl_tmpl_fail(r, "unknown format code '%c' for a number", f->type);
        if (v->type == TV_FLOAT || (f->type && strchr("eEfFgG%", f->type))) {
            if (f->type && strchr("bdoxX", f->type))
                return sl_tmpl_fail(r, "format code '%c' needs an integer", f->type);
            return put_float(r, f, sl_tv_number(v));
        }
        return put_int(r, f, v->u.i);
    }
    if (f->type && f->type != 's')
        return sl_tmpl_fail(r, "format code '%c' needs a number, not '%s'",
                            isprint((unsigned char)f->type) ? f->type : '?', sl_tv_type_name(v));
    if (sl_tv_to_str(r, v, &text)) return SL_EINPUT;
    if (f->precision >= 0)
        text.n = (uint32_t)sl_tmpl_text_at(text.u.s, text.n, (size_t)f->precision);
    return put_padded(r, f, "", text.u.s, text.n, f->align && f->align != '=' ? f->align : '<');
}

/* Digits at *s as a number, clipped above every limit. */
static int number(const char **s, const char *end)
{
    int v = 0;
    while (*s < end && isdigit((unsigned char)**s)) {
        if (v <= WIDTH_MAX) v = v * 10 + (**s - '0');
        ++*s;
    }
    return v;
}

/* ---- fmt % values ---------------------------------------------------------------------------- */

static int put_percent(struct sl_tmpl_run *r, struct spec *f, char code, const struct sl_tv *v)
{
    f->type = code == 'i' || code == 'u' ? 'd' : code;
    if (code == 's' || code == 'r' || code == 'a') {
        struct sl_tv text = *v;
        size_t mark = r->out.len;
        if (code != 's' && (sl_tv_put_repr(r, v, 0) || sl_tmpl_take(r, mark, &text)))
            return SL_EINPUT;
        if (sl_tv_to_str(r, &text, &text)) return SL_EINPUT;
        f->type = 's';
        f->align = f->align ? f->align : '>';
        memcpy(f->fill, " ", 2);
        return put_value(r, f, &text);
    }
    if (code == 'c') {
        char c[4];
        struct sl_tv text = *v;
        if (v->type == TV_INT && v->u.i >= 0 && v->u.i < 0x110000) {
            text = (struct sl_tv){
                .type = TV_STR, .n = (uint32_t)sl_utf8_put((uint32_t)v->u.i, c), .u.s = c};
        } else if (v->type != TV_STR || sl_tmpl_text_len(v->u.s, v->n) != 1) {
            return sl_tmpl_fail(r, "%%c needs an integer or one character");
        }
        f->type = 's';
        return put_value(r, f, &text);
    }
    if (!sl_tv_is_number(v))
        return sl_tmpl_fail(r, "%%%c needs a number, not '%s'", code, sl_tv_type_name(v));
    struct sl_tv num = *v;
    if (num.type == TV_BOOL) num.type = TV_INT;
    if (f->type == 'd' && num.type == TV_FLOAT) {
        if (!(fabs(num.u.f) < 9.2e18)) return sl_tmpl_fail(r, "%%d of a number that is too large");
        num = TV_MAKE_INT((int64_t)num.u.f);
    }
    return put_value(r, f, &num);
}

struct values { /* the right side of % */
    const struct sl_tv *v;
    size_t n, used;
    const struct sl_tv *dict;
};

static int next_value(struct sl_tmpl_run *r, struct values *a, const struct sl_tv **v)
{
    if (a->used >= a->n) return sl_tmpl_fail(r, "not enough values for the format string");
    *v = &a->v[a->used++];
    return 0;
}

static int star_or_number(struct sl_tmpl_run *r, struct values *a, const char **p, const char *end,
                          int *out)
{
    const struct sl_tv *v = NULL;
    if (*p >= end || **p != '*') {
        *out = number(p, end);
        return 0;
    }
    ++*p;
    if (next_value(r, a, &v)) return SL_EINPUT;
    if (v->type != TV_INT || v->u.i < 0 || v->u.i > WIDTH_MAX)
        return sl_tmpl_fail(r, "a width or precision in a format is too large");
    *out = (int)v->u.i;
    return 0;
}

/* One conversion behind its '%'. */
static int conversion(struct sl_tmpl_run *r, struct values *a, const char **pp, const char *end)
{
    struct spec f = {.fill = " ", .fill_n = 1, .precision = -1};
    const char *p = *pp;
    const struct sl_tv *v = NULL;
    if (p < end && *p == '(') {
        const char *close = memchr(p, ')', (size_t)(end - p));
        if (!close || !a->dict) return sl_tmpl_fail(r, "the format string needs a dict");
        v = sl_tv_dict_text(a->dict, p + 1, (size_t)(close - p) - 1);
        if (!v) return sl_tmpl_fail(r, "the format string names a key that is missing");
        p = close + 1;
    }
    int left = 0, zero = 0;
    for (; p < end && *p && strchr("-+ #0", *p); p++) {
        if (*p == '-') left = 1;
        if (*p == '0') zero = 1;
        if (*p == '#') f.alt = 1;
        if (*p == '+' || (*p == ' ' && f.sign != '+')) f.sign = *p;
    }
    if (star_or_number(r, a, &p, end, &f.width)) return SL_EINPUT;
    if (p < end && *p == '.') {
        p++;
        if (star_or_number(r, a, &p, end, &f.precision)) return SL_EINPUT;
    }
    while (p < end && (*p == 'l' || *p == 'h' || *p == 'L')) p++;
    if (p >= end) return sl_tmpl_fail(r, "incomplete format");
    char code = *p++;
    *pp = p;
    if (code == '%') return sl_tmpl_put(r, "%", 1);
    if (!code || !strchr("diouxXeEfFgGcrsa", code))
        return sl_tmpl_fail(r, "unsupported format character '%c'",
                            isprint((unsigned char)code) ? code : '?');
    f.align = left ? '<' : zero && !strchr("srac", code) ? '=' : '>';
    if (f.align == '=') f.fill[0] = '0';
    if (!v && next_value(r, a, &v)) return SL_EINPUT;
    return put_percent(r, &f, code, v);
}

int sl_tmpl_percent(struct sl_tmpl_run *r, const struct sl_tv *fmt, const struct sl_tv *arg,
                    struct sl_tv *out)
{
    struct values a = {.v = arg, .n = 1, .dict = arg->type == TV_DICT ? arg : NULL};
    size_t mark = r->out.len;
    const char *p = fmt->u.s, *end = p + fmt->n;
    if (arg->type == TV_TUPLE) {
        a.v = arg->u.list->v;
        a.n = arg->u.list->n;
    }
    while (p < end) {
        const char *q = memchr(p, '%', (size_t)(end - p));
        if (!q) q = end;
        if (sl_tmpl_put(r, p, (size_t)(q - p)) || sl_tmpl_charge(r, 1)) return SL_EINPUT;
        p = q;
        if (p == end) break;
        p++;
        if (conversion(r, &a, &p, end)) return SL_EINPUT;
    }
    if (a.used < a.n && !a.dict && arg->type != TV_LIST && arg->type != TV_RANGE &&
        arg->type != TV_UNDEF)
        return sl_tmpl_fail(r, "not all values were used by the format string");
    return sl_tmpl_take(r, mark, out);
}

/* ---- fmt.format(values) ---------------------------------------------------------------------- */

/* [[fill]align][sign][#][0][width][,|_][.precision][type] */
static int parse_spec(struct sl_tmpl_run *r, const char *p, const char *end, struct spec *f)
{
    *f = (struct spec){.fill = " ", .fill_n = 1, .precision = -1};
    size_t one = sl_tmpl_text_at(p, (size_t)(end - p), 1);
    if (one && one <= 4 && p + one < end && strchr("<>=^", p[one]) && p[one]) {
        memcpy(f->fill, p, one);
        f->fill_n = (int)one;
        f->align = p[one];
        p += one + 1;
    } else if (p < end && *p && strchr("<>=^", *p)) {
        f->align = *p++;
    }
    if (p < end && *p && strchr("+- ", *p)) f->sign = *p++;
    if (p < end && *p == '#') {
        f->alt = 1;
        p++;
    }
    if (p < end && *p == '0' && !f->align) {
        f->fill[0] = '0';
        f->align = '=';
        p++;
    }
    f->width = number(&p, end);
    if (p < end && (*p == ',' || *p == '_')) f->group = *p++;
    if (p < end && *p == '.') {
        p++;
        if (p >= end || !isdigit((unsigned char)*p))
            return sl_tmpl_fail(r, "a format specifier lacks its precision");
        f->precision = number(&p, end);
    }
    if (p < end) f->type = *p++;
    return p == end ? 0 : sl_tmpl_fail(r, "invalid format specifier");
}

/* The value of a field name: number or name, then .attributes and [items]. */
static int field(struct sl_tmpl_run *r, const struct sl_tmpl_args *args, const char *p,
                 const char *end, size_t *automatic, struct sl_tv *out)
{
    const char *q = p;
    while (q < end && *q != '.' && *q != '[') q++;
    if (q == p || isdigit((unsigned char)*p)) {
        size_t i = q == p ? (*automatic)++ : (size_t)number(&p, q);
        if (p != q && q != p)
            return sl_tmpl_fail(r, "a field name in a format string is malformed");
        if (i >= args->n) return sl_tmpl_fail(r, "not enough arguments for the format string");
        *out = args->pos[i];
    } else {
        size_t i = 0, n = (size_t)(q - p);
        while (i < args->n_kw && (args->kw[i].n != n || memcmp(args->kw[i].name, p, n) != 0)) i++;
        if (i == args->n_kw) return sl_tmpl_fail(r, "an argument of the format string is missing");
        *out = args->kw[i].v;
    }
    while (q < end) {
        struct sl_tv v = *out, key;
        const char *s = q + 1;
        if (*q == '.') {
            for (q = s; q < end && *q != '.' && *q != '['; q++) {
            }
            if (sl_tv_attr(r, &v, s, (size_t)(q - s), out)) return SL_EINPUT;
        } else if (*q == '[' && (q = memchr(s, ']', (size_t)(end - s))) != NULL) {
            key = (struct sl_tv){.type = TV_STR, .n = (uint32_t)(q - s), .u.s = s};
            if (q > s && isdigit((unsigned char)*s)) key = TV_MAKE_INT(number(&s, q));
            if (sl_tv_item(r, &v, &key, out)) return SL_EINPUT;
            q++;
        } else {
            return sl_tmpl_fail(r, "a field name in a format string is malformed");
        }
    }
    return 0;
}

/* The inside of {...}: field [!conversion] [:spec] */
static int replacement(struct sl_tmpl_run *r, const struct sl_tmpl_args *args, const char *p,
                       const char *end, size_t *automatic)
{
    struct spec f;
    struct sl_tv v;
    size_t n = (size_t)(end - p);
    const char *colon = memchr(p, ':', n), *name_end = colon ? colon : end;
    const char *bang = memchr(p, '!', (size_t)(name_end - p));
    if (memchr(p, '{', n)) return sl_tmpl_fail(r, "nested fields in a format string");
    if (field(r, args, p, bang ? bang : name_end, automatic, &v)) return SL_EINPUT;
    if (bang) {
        size_t mark = r->out.len;
        if (bang + 2 != name_end || !strchr("sra", bang[1]))
            return sl_tmpl_fail(r, "unknown conversion in a format string");
        int rc = bang[1] == 's' ? sl_tv_put_str(r, &v) : sl_tv_put_repr(r, &v, 0);
        if (rc || sl_tmpl_take(r, mark, &v)) return SL_EINPUT;
    }
    if (parse_spec(r, colon ? colon + 1 : end, end, &f)) return SL_EINPUT;
    return put_value(r, &f, &v);
}

int sl_tmpl_format(struct sl_tmpl_run *r, const struct sl_tv *fmt, const struct sl_tmpl_args *args,
                   struct sl_tv *out)
{
    size_t mark = r->out.len, automatic = 0;
    const char *p = fmt->u.s, *end = p + fmt->n;
    while (p < end) {
        if (sl_tmpl_charge(r, 1)) return SL_EINPUT;
        const char *q = p;
        while (q < end && *q != '{' && *q != '}') q++;
        if (sl_tmpl_put(r, p, (size_t)(q - p))) return SL_EINPUT;
        if (q == end) break;
        p = q + 1;
        if (p < end && *p == *q) {
            if (sl_tmpl_put(r, p++, 1)) return SL_EINPUT;
            continue;
        }
        q = *q == '{' ? memchr(p, '}', (size_t)(end - p)) : NULL;
        if (!q) return sl_tmpl_fail(r, "a single brace in a format string");
        if (replacement(r, args, p, q, &automatic)) return SL_EINPUT;
        p = q + 1;
    }
    return sl_tmpl_take(r, mark, out);
}

/* ---- strftime_now(fmt) ----------------------------------------------------------------------- */

/* The caller's "now" or the local time. */
static int get_now(struct sl_tmpl_run *r, struct tm *t, int *us)
{
    const char *now = json_string_value(json_object_get(r->vars, "now"));
    *t = (struct tm){0};
    *us = 0;
    if (!now) {
        uint64_t ms = sl_env_wall_ms();
        time_t s = (time_t)(ms / 1000);
        *us = (int)(ms % 1000) * 1000;
        localtime_r(&s, t);
        return 0;
    }
    char sep = 'T';
    int n = sscanf(now, "%4d-%2d-%2d%c%2d:%2d:%2d", &t->tm_year, &t->tm_mon, &t->tm_mday, &sep,
                   &t->tm_hour, &t->tm_min, &t->tm_sec);
    if ((n != 3 && n < 6) || (sep != 'T' && sep != ' ') || t->tm_mon < 1 || t->tm_mon > 12 ||
        t->tm_mday < 1 || t->tm_mday > 31 || t->tm_hour < 0 || t->tm_hour > 23 || t->tm_min < 0 ||
        t->tm_min > 59 || t->tm_sec < 0 || t->tm_sec > 60 || t->tm_year < 1)
        return sl_tmpl_fail(r, "'now' must be a time like 2025-08-06T14:30:05");
    t->tm_year -= 1900;
    t->tm_mon -= 1;
    struct tm full = *t;
    timegm(&full); /* fills in the days of week and year */
    t->tm_wday = full.tm_wday;
    t->tm_yday = full.tm_yday;
    return 0;
}

int sl_tmpl_strftime(struct sl_tmpl_run *r, const struct sl_tv *fmt, struct sl_tv *out)
{
    struct tm t;
    int us;
    size_t mark = r->out.len;
    if (get_now(r, &t, &us)) return SL_EINPUT;
    for (size_t i = 0; i < fmt->n; i++) {
        char one[8] = {fmt->u.s[i]}, text[128];
        if (one[0] != '%' || i + 1 >= fmt->n) {
            if (sl_tmpl_put(r, one, 1)) return SL_EINPUT;
            continue;
        }
        size_t k = 1;
        one[k++] = fmt->u.s[++i];
        if (strchr("-_0^#", one[1]) && one[1] && i + 1 < fmt->n) one[k++] = fmt->u.s[++i];
        char code = one[k - 1];
        if (code == 'f') {
            if (sl_tmpl_putf(r, "%06d", us)) return SL_EINPUT;
        } else if (code == 'z' || code == 'Z') {
            continue; /* a time without zone, as in Python */
        } else if (code && strchr("aAbBcCdDeFgGhHIjklmMnpPrRsSTtuUVwWxXyY%", code)) {
            size_t n = strftime_l(text, sizeof text, one, &t, sl_tmpl_locale());
            if (sl_tmpl_put(r, text, n)) return SL_EINPUT;
        } else if (sl_tmpl_put(r, one, k)) {
            return SL_EINPUT;
        }
        if (sl_tmpl_charge(r, 1)) return SL_EINPUT;
    }
    return sl_tmpl_take(r, mark, out);
}
