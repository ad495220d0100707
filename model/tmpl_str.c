/* tmpl_str.c - text as a chat template sees it: code points, case, white space, searching, numbers
 * in text. */
#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <wctype.h>

#include "base/text.h"
#include "model/tmpl.h"

static locale_t text_locale;

static void make_locale(void)
{
    text_locale = newlocale(LC_ALL_MASK, "C.UTF-8", (locale_t)0);
    if (!text_locale) text_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0); /* ASCII case only */
}

locale_t sl_tmpl_locale(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_locale);
    return text_locale;
}

static int continues(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

size_t sl_tmpl_text_len(const char *s, size_t n)
{
    size_t len = 0;
    for (size_t i = 0; i < n; i++) len += !continues(s[i]);
    return len + (n && continues(s[0])); /* broken text: stray bytes at the start count as one */
}

size_t sl_tmpl_text_at(const char *s, size_t n, size_t i)
{
    size_t p = 0;
    for (; i && p < n; i--)
        for (p++; p < n && continues(s[p]);) p++;
    return p;
}

int sl_tmpl_is_space(uint32_t c)
{
    return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x1f) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

/* ---- case ------------------------------------------------------------------------------------ */

static int put_upper(struct sl_tmpl_run *r, uint32_t c, int title)
{
    static const struct {
        uint32_t c;
        const char *upper, *title;
    } wide[] = {
        /* letters whose capital is several letters (Unicode SpecialCasing) */
        {0xdf, "SS", "Ss"},     {0x149, "ʼN", "ʼN"},  {0x1f0, "J̌", "J̌"},    {0x587, "ԵՒ", "Եւ"},
        {0xfb00, "FF", "Ff"},   {0xfb01, "FI", "Fi"}, {0xfb02, "FL", "Fl"}, {0xfb03, "FFI", "Ffi"},
        {0xfb04, "FFL", "Ffl"}, {0xfb05, "ST", "St"}, {0xfb06, "ST", "St"},
    };
    if (c >= 0x80)
        for (size_t i = 0; i < sizeof wide / sizeof *wide; i++)
            if (wide[i].c == c) {
                const char *s = title ? wide[i].title : wide[i].upper;
                return sl_tmpl_put(r, s, strlen(s));
            }
    return sl_tmpl_put_cp(r, (uint32_t)towupper_l((wint_t)c, sl_tmpl_locale()));
}

static int put_lower(struct sl_tmpl_run *r, uint32_t c)
{
    if (c == 0x130) return sl_tmpl_put(r, "i̇", strlen("i̇"));
    return sl_tmpl_put_cp(r, (uint32_t)towlower_l((wint_t)c, sl_tmpl_locale()));
}

static int is_cased(uint32_t c)
{
    return iswupper_l((wint_t)c, sl_tmpl_locale()) || iswlower_l((wint_t)c, sl_tmpl_locale());
}

int sl_tmpl_case(struct sl_tmpl_run *r, const struct sl_tv *s, enum sl_tmpl_case how,
                 struct sl_tv *out)
{
    size_t mark = r->out.len;
    int in_word = 0;
    if (sl_tmpl_charge(r, s->n)) return SL_EINPUT; /* a call for each character */
    for (size_t i = 0; i < s->n;) {
        uint32_t c;
        int len = sl_utf8_get(s->u.s + i, s->n - i, &c), up = how == CASE_UPPER, rc;
        if (how == CASE_TITLE) up = !in_word;
        if (how == CASE_CAPITAL) up = i == 0;
        if (how == CASE_SWAP) up = iswlower_l((wint_t)c, sl_tmpl_locale());
        if (c == 0xfffd) /* as it is, broken or not */
            rc = sl_tmpl_put(r, s->u.s + i, (size_t)len);
        else
            rc = up ? put_upper(r, c, how == CASE_TITLE || how == CASE_CAPITAL) : put_lower(r, c);
        if (rc) return rc;
        in_word = is_cased(c);
        i += (size_t)len;
    }
    return sl_tmpl_take(r, mark, out);
}

/* ---- stripping and replacing ----------------------------------------------------------------- */

static int strips(const char *s, size_t n, const struct sl_tv *chars)
{
    uint32_t c;
    if (!chars) {
        sl_utf8_get(s, n, &c);
        return sl_tmpl_is_space(c);
    }
    for (size_t i = 0; i < chars->n;) {
        size_t len = sl_tmpl_text_at(chars->u.s + i, chars->n - i, 1);
        if (len == n && memcmp(chars->u.s + i, s, n) == 0) return 1;
        i += len;
    }
    return 0;
}

struct sl_tv sl_tmpl_strip(const struct sl_tv *v, const struct sl_tv *chars, int sides)
{
    const char *s = v->u.s;
    size_t b = 0, e = v->n;
    while ((sides & 1) && b < e) {
        size_t len = sl_tmpl_text_at(s + b, e - b, 1);
        if (!strips(s + b, len, chars)) break;
        b += len;
    }
    while ((sides & 2) && e > b) {
        size_t p = e - 1;
        while (p > b && continues(s[p])) p--;
        if (!strips(s + p, e - p, chars)) break;
        e = p;
    }
    return (struct sl_tv){.type = TV_STR, .flag = v->flag, .n = (uint32_t)(e - b), .u.s = s + b};
}

const char *sl_tmpl_search(const char *s, size_t n, const char *what, size_t m)
{
    if (m == 0) return s;
    return n < m ? NULL : memmem(s, n, what, m);
}

int sl_tmpl_replace(struct sl_tmpl_run *r, const struct sl_tv *s, const struct sl_tv *from,
                    const struct sl_tv *to, int64_t count, struct sl_tv *out)
{
    size_t mark = r->out.len, pos = 0;
    if (sl_tmpl_charge(r, s->n / 64)) return SL_EINPUT;
    while (count != 0) {
        const char *hit = sl_tmpl_search(s->u.s + pos, s->n - pos, from->u.s, from->n);
        if (!hit) break;
        size_t at = (size_t)(hit - s->u.s);
        if (sl_tmpl_put(r, s->u.s + pos, at - pos) || sl_tmpl_put(r, to->u.s, to->n) ||
            sl_tmpl_charge(r, 1))
            return SL_EINPUT;
        pos = at + from->n;
        if (count > 0) count--;
        if (from->n) continue;
        if (pos == s->n) break; /* an empty `from` matches between all characters */
        size_t len = sl_tmpl_text_at(s->u.s + pos, s->n - pos, 1);
        if (sl_tmpl_put(r, s->u.s + pos, len)) return SL_EINPUT;
        pos += len;
    }
    if (sl_tmpl_put(r, s->u.s + pos, s->n - pos)) return SL_EINPUT;
    return sl_tmpl_take(r, mark, out);
}

/* ---- repr ------------------------------------------------------------------------------------ */

static int printable(uint32_t c)
{
    if (c < 0x7f) return c >= 0x20;
    if (c < 0xa1 || c == 0xad || c == 0x1680 || (c >= 0x2000 && c <= 0x200f) ||
        (c >= 0x2028 && c <= 0x202f) || (c >= 0x205f && c <= 0x206f) || c == 0x3000 ||
        c == 0xfeff || (c >= 0xe000 && c <= 0xf8ff) || c >= 0xe0000)
        return 0;
    return iswprint_l((wint_t)c, sl_tmpl_locale()) != 0;
}

int sl_tmpl_put_text_repr(struct sl_tmpl_run *r, const char *s, size_t n)
{
    char q = n && memchr(s, '\'', n) && !memchr(s, '"', n) ? '"' : '\'';
    int rc = sl_tmpl_put(r, &q, 1);
    if (rc == 0) rc = sl_tmpl_charge(r, n / 16);
    for (size_t i = 0; rc == 0 && i < n;) {
        uint32_t c;
        int len = sl_utf8_get(s + i, n - i, &c);
        if (c == (uint32_t)q || c == '\\')
            rc = sl_tmpl_putf(r, "\\%c", (char)c);
        else if (c == '\n' || c == '\r' || c == '\t')
            rc = sl_tmpl_putf(r, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        else if (printable(c))
            rc = sl_tmpl_put(r, s + i, (size_t)len);
        else if (c < 0x100)
            rc = sl_tmpl_putf(r, "\\x%02x", c);
        else
            rc = c < 0x10000 ? sl_tmpl_putf(r, "\\u%04x", c) : sl_tmpl_putf(r, "\\U%08x", c);
        i += (size_t)len;
    }
    return rc ? rc : sl_tmpl_put(r, &q, 1);
}

/* ---- numbers in text ------------------------------------------------------------------------- */

static void trim_ascii(const char **s, size_t *n)
{
    while (*n && isspace((unsigned char)**s)) ++*s, --*n;
    while (*n && isspace((unsigned char)(*s)[*n - 1])) --*n;
}

int sl_tmpl_to_float(const char *s, size_t n, double *f)
{
    char b[400], *end;
    size_t m = 0;
    trim_ascii(&s, &n);
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '_' && i && i + 1 < n && isdigit((unsigned char)s[i - 1]) &&
            isdigit((unsigned char)s[i + 1]))
            continue;
        if (m + 1 >= sizeof b || !strchr("0123456789+-.eEinfatyINFATY", s[i]) || !s[i]) return 1;
        b[m++] = s[i];
    }
    b[m] = 0;
    if (m == 0) return 1;
    *f = strtod_l(b, &end, sl_tmpl_locale());
    return *end != 0;
}

int sl_tmpl_to_int(const char *s, size_t n, int base, int64_t *i)
{
    char b[80], *end;
    size_t m = 0, k = 0;
    trim_ascii(&s, &n);
    if (n && (s[0] == '+' || s[0] == '-')) b[m++] = s[k++];
    if (n - k > 2 && s[k] == '0') {
        char p = (char)(s[k + 1] | 32);
        int b2 = p == 'x' ? 16 : p == 'o' ? 8 : p == 'b' ? 2 : 0;
        if (b2 && (base == b2 || base == 0)) {
            base = b2;
            k += 2;
            if (s[k] == '_') k++;
        }
    }
    if (base == 0) base = 10;
    if (k == n) return 1;
    for (size_t first = k; k < n; k++) {
        if (s[k] == '_' && k > first && k + 1 < n && s[k - 1] != '_') continue;
        if (!isalnum((unsigned char)s[k])) return 1;
        if (m + 1 >= sizeof b) return 2;
        b[m++] = s[k];
    }
    b[m] = 0;
    errno = 0;
    *i = strtoll(b, &end, base);
    if (*end || end == b) return 1;
    return errno == ERANGE ? 2 : 0;
}
