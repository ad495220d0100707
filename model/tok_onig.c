/* tok_onig.c - regular expressions of tokenizer.json, written in Oniguruma's dialect (Ruby syntax),
 * spelled for PCRE2.
 *
 * The two agree on most; what differs is rewritten here: the classes \s \w \h and their negations,
 * \v, \uXXXX, (?m), classes inside classes and &&, {,n}, {n,m}+ (which is no possessive
 * quantifier), names of properties. ^ and $ match at every line, which the compiler's MULTILINE
 * does. What PCRE2 does not know either is an error when it compiles. */
#include "model/tok_regex.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/sl_assert.h"
#include "base/text.h"

#define GROUPS_MAX 64 /* groups inside each other */
#define CLASSES_MAX 8 /* classes inside each other */
#define NO_ATOM SIZE_MAX

#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define HEX "0-9A-Fa-f"

struct onig {
    const char *p, *end;
    struct sl_buf *out;
    size_t atom; /* where the last atom begins in out; NO_ATOM when a quantifier has none */
    size_t groups[GROUPS_MAX];
    int n_groups;
    char *why;
};

static int no(struct onig *o, const char *why)
{
    snprintf(o->why, 160, "%s", why);
    return SL_EUNSUPPORTED;
}

/* ---- properties ------------------------------------------------------------------------------ */

/* Names that the two spell differently. Scripts need sc:, since PCRE2's bare names mean script
 * extensions. */
static const char *const properties[][2] = {
    {"Letter", "L"},
    {"Uppercase_Letter", "Lu"},
    {"Lowercase_Letter", "Ll"},
    {"Titlecase_Letter", "Lt"},
    {"Modifier_Letter", "Lm"},
    {"Other_Letter", "Lo"},
    {"Mark", "M"},
    {"Nonspacing_Mark", "Mn"},
    {"Spacing_Mark", "Mc"},
    {"Enclosing_Mark", "Me"},
    {"Number", "N"},
    {"Decimal_Number", "Nd"},
    {"Letter_Number", "Nl"},
    {"Other_Number", "No"},
    {"Punctuation", "P"},
    {"Connector_Punctuation", "Pc"},
    {"Dash_Punctuation", "Pd"},
    {"Open_Punctuation", "Ps"},
    {"Close_Punctuation", "Pe"},
    {"Initial_Punctuation", "Pi"},
    {"Final_Punctuation", "Pf"},
    {"Other_Punctuation", "Po"},
    {"Symbol", "S"},
    {"Math_Symbol", "Sm"},
    {"Currency_Symbol", "Sc"},
    {"Modifier_Symbol", "Sk"},
    {"Other_Symbol", "So"},
    {"Separator", "Z"},
    {"Space_Separator", "Zs"},
    {"Line_Separator", "Zl"},
    {"Paragraph_Separator", "Zp"},
    {"Other", "C"},
    {"Control", "Cc"},
    {"Format", "Cf"},
    {"Alpha", "Alphabetic"},
    {"Digit", "Nd"},
    {"Lower", "Lowercase"},
    {"Upper", "Uppercase"},
    {"Cntrl", "Cc"},
    {"Space", "White_Space"},
};
static const char *const scripts[] = {
    "Han",       "Hiragana",  "Katakana", "Hangul",   "Bopomofo",   "Latin",    "Greek",
    "Cyrillic",  "Arabic",    "Hebrew",   "Thai",     "Lao",        "Khmer",    "Myanmar",
    "Tibetan",   "Mongolian", "Armenian", "Georgian", "Ethiopic",   "Common",   "Inherited",
    "Bengali",   "Tamil",     "Telugu",   "Kannada",  "Gujarati",   "Gurmukhi", "Oriya",
    "Malayalam", "Sinhala",   "Cherokee", "Yi",       "Devanagari",
};

/* \p{...} or \P{...}; p is behind the letter. */
static int property(struct onig *o, char letter)
{
    const char *close =
        o->p < o->end && *o->p == '{' ? memchr(o->p, '}', (size_t)(o->end - o->p)) : NULL;
    if (!close) { /* \pL */
        if (o->p == o->end) return no(o, "it ends in \\p");
        return sl_buf_printf(o->out, "\\%c%c", letter, *o->p++);
    }
    const char *name = o->p + 1;
    int negated = name < close && *name == '^';
    name += negated;
    size_t n = (size_t)(close - name);
    const char *prefix = "";
    char own[64];
    if (n == 0 || n >= sizeof own) return no(o, "a property has no name that is known");
    memcpy(own, name, n);
    own[n] = 0;
    for (size_t i = 0; i < SL_ARRAY_LEN(properties); i++)
        if (strcasecmp(own, properties[i][0]) == 0)
            snprintf(own, sizeof own, "%s", properties[i][1]);
    for (size_t i = 0; i < SL_ARRAY_LEN(scripts); i++)
        if (strcasecmp(own, scripts[i]) == 0) prefix = "sc:";
    o->p = close + 1;
    return sl_buf_printf(o->out, "\\%c{%s%s%s}", letter, negated ? "^" : "", prefix, own);
}

/* ---- escapes --------------------------------------------------------------------------------- */

static int is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* \uXXXX, p is behind the u. */
static int unicode_escape(struct onig *o)
{
    for (int i = 0; i < 4; i++)
        if (o->p + i >= o->end || !is_hex(o->p[i])) return no(o, "\\u without four digits");
    int r = sl_buf_printf(o->out, "\\x{%.4s}", o->p);
    o->p += 4;
    return r;
}

/* What a class escape stands for, inside a class; NULL when PCRE2 means the same. */
static const char *class_escape(char c)
{
    switch (c) {
    case 's':
    case 'S':
        return SL_TOK_WS;
    case 'w':
    case 'W':
        return WORD;
    case 'h':
    case 'H':
        return HEX;
    default:
        return NULL;
    }
}

static int copy_character(struct onig *o)
{
    uint32_t cp;
    int k = sl_utf8_get(o->p, (size_t)(o->end - o->p), &cp);
    int r = sl_buf_add(o->out, o->p, (size_t)k);
    o->p += k;
    return r;
}

/* Escapes that mean one character or one property, the same in a class and outside; p is at the
 * letter. */
static int plain_escape(struct onig *o)
{
    char c = *o->p++;
    if (c == 'p' || c == 'P') return property(o, c);
    if (c == 'u') return unicode_escape(o);
    if (c == 'v') return sl_buf_puts(o->out, "\\x{0b}");
    if ((unsigned char)c >= 0x80) {
        o->p--;
        return copy_character(o);
    }
    return sl_buf_printf(o->out, "\\%c", c);
}

static int escape(struct onig *o)
{
    if (++o->p == o->end) return no(o, "it ends in a backslash");
    char c = *o->p;
    const char *inside = class_escape(c);
    o->atom = o->out->len;
    if (inside) {
        o->p++;
        return sl_buf_printf(o->out, c >= 'a' ? "[%s]" : "[^%s]", inside);
    }
    if (c == 'O') {
        o->p++;
        return sl_buf_puts(o->out, "(?s:.)");
    }
    if (c == 'b' || c == 'B' || c == 'A' || c == 'z' || c == 'Z' || c == 'G') o->atom = NO_ATOM;
    if (c == 'y' || c == 'Y' || c == 'K') return no(o, "it uses an escape that is not known here");
    return plain_escape(o);
}

/* ---- classes --------------------------------------------------------------------------------- */

static int class(struct onig *o, int depth);

/* One side of && in a class: an alternation of a plain class and of the classes inside. */
static int class_side(struct onig *o, int depth)
{
    size_t start = o->out->len;
    int n = 0, r = sl_buf_puts(o->out, "(?:["); /* the plain items first; nested ones after them */
    struct sl_buf nested, *plain = o->out;
    sl_buf_init(&nested, plain->max);
    while (r == 0) {
        if (o->p == o->end) {
            r = no(o, "a class has no end");
        } else if (*o->p == ']') {
            break;
        } else if (o->end - o->p > 1 && o->p[0] == '&' && o->p[1] == '&') {
            break;
        } else if (o->end - o->p > 1 && o->p[0] == '[' && o->p[1] == ':') {
            const char *close = memchr(o->p + 2, ']', (size_t)(o->end - o->p - 2));
            if (!close) close = o->end - 1;
            r = sl_buf_add(plain, o->p, (size_t)(close + 1 - o->p));
            o->p = close + 1;
            n++;
        } else if (*o->p == '[') {
            o->out = &nested;
            r = sl_buf_putc(&nested, '|');
            if (r == 0) r = class(o, depth + 1);
            o->out = plain;
        } else if (*o->p == '\\' && o->end - o->p > 1) {
            const char *inside = class_escape(*++o->p);
            n++;
            if (!inside) {
                r = *o->p == 'K' || *o->p == 'R' || *o->p == 'X' ? no(o, "an escape in a class")
                                                                 : plain_escape(o);
            } else if (*o->p++ >= 'a') {
                r = sl_buf_puts(plain, inside);
            } else {
                n--;
                r = sl_buf_printf(&nested, "|[^%s]", inside);
            }
        } else {
            n++;
            r = copy_character(o);
        }
    }
    if (r == 0 && n == 0) { /* nothing but classes inside: drop "[" and their first "|" */
        plain->len = start;
        r = nested.len > 0 ? sl_buf_puts(plain, "(?:") : no(o, "a class is empty");
        if (r == 0) r = sl_buf_puts(plain, sl_buf_str(&nested) + 1);
    } else if (r == 0) {
        r = sl_buf_putc(plain, ']');
        if (r == 0) r = sl_buf_puts(plain, sl_buf_str(&nested));
    }
    if (r == 0) r = sl_buf_putc(plain, ')');
    sl_buf_close(&nested);
    return r;
}

/* A class that is no more than a list needs no group. */
static int is_simple(const char *p, const char *end)
{
    for (; p < end && *p != ']'; p++) {
        if (*p == '[' || (*p == '&' && p + 1 < end && p[1] == '&')) return 0;
        if (*p == '\\' && ++p < end && memchr("SWHKRX", *p, 6)) return 0;
    }
    return p < end;
}

static int simple_class(struct onig *o, int negated)
{
    int r = sl_buf_puts(o->out, negated ? "[^" : "[");
    while (r == 0 && *o->p != ']') {
        if (*o->p != '\\') {
            r = copy_character(o);
            continue;
        }
        const char *inside = class_escape(*++o->p);
        if (inside) o->p++;
        r = inside ? sl_buf_puts(o->out, inside) : plain_escape(o);
    }
    o->p++;
    return r ? r : sl_buf_putc(o->out, ']');
}

/* A class; p is at its bracket. The recursion ends at CLASSES_MAX. */
static int class(struct onig *o, int depth)
{
    if (depth == CLASSES_MAX) return no(o, "classes are nested too deeply");
    int negated = ++o->p < o->end && *o->p == '^', r = 0;
    o->p += negated;
    if (o->p < o->end && *o->p == ']') return no(o, "a class is empty");
    if (is_simple(o->p, o->end)) return simple_class(o, negated);
    if (negated) r = sl_buf_puts(o->out, "(?:(?!");
    if (r == 0) r = sl_buf_puts(o->out, "(?:");
    for (;;) { /* all sides but the last are looked at ahead */
        size_t side = o->out->len;
        if (r == 0) r = class_side(o, depth);
        if (r != 0) return r;
        if (*o->p == ']') break;
        o->p += 2;
        struct sl_buf copy;
        sl_buf_init(&copy, o->out->max);
        r = sl_buf_add(&copy, o->out->data + side, o->out->len - side);
        o->out->len = side;
        if (r == 0) r = sl_buf_puts(o->out, "(?=");
        if (r == 0) r = sl_buf_add(o->out, copy.data, copy.len);
        if (r == 0) r = sl_buf_putc(o->out, ')');
        sl_buf_close(&copy);
    }
    o->p++;
    r = sl_buf_putc(o->out, ')');
    if (r == 0 && negated) r = sl_buf_puts(o->out, ")(?s:.))");
    return r;
}

/* ---- groups and quantifiers ------------------------------------------------------------------ */

/* (?imx-imx) or (?imx-imx: ; Ruby's m is PCRE2's s. p is behind "(?". */
static int options(struct onig *o)
{
    int r = 0;
    for (; r == 0 && o->p < o->end && *o->p != ')' && *o->p != ':'; o->p++) {
        if (!memchr("imx-", *o->p, 4)) return no(o, "a group of a kind that is not known here");
        r = sl_buf_putc(o->out, *o->p == 'm' ? 's' : *o->p);
    }
    if (o->p == o->end) return no(o, "a group has no end");
    return r;
}

static int group(struct onig *o)
{
    if (o->n_groups == GROUPS_MAX) return no(o, "groups are nested too deeply");
    o->groups[o->n_groups++] = o->out->len;
    o->atom = NO_ATOM;
    o->p++;
    int r = sl_buf_putc(o->out, '(');
    if (r != 0 || o->p == o->end || *o->p != '?') return r;
    o->p++;
    if (r == 0) r = sl_buf_putc(o->out, '?');
    if (r != 0 || o->p == o->end) return r ? r : no(o, "a group has no end");
    if (*o->p == '#') { /* a comment: drop it */
        const char *close = memchr(o->p, ')', (size_t)(o->end - o->p));
        if (!close) return no(o, "a comment has no end");
        o->p = close + 1;
        o->out->len = o->groups[--o->n_groups];
        return 0;
    }
    if (*o->p == '~') return no(o, "absent operators are not known here");
    if (memchr("im x-", *o->p, 5)) {
        r = options(o);
        if (r == 0 && *o->p == ')') return 0; /* the loop closes it */
        o->p++;
        return r ? r : sl_buf_putc(o->out, ':');
    }
    for (int i = 0; i < 2 && o->p < o->end && memchr(":=!><", *o->p, 5); i++) /* (?<! has two */
        r = r ? r : sl_buf_putc(o->out, *o->p++);
    return r;
}

/* {n}, {n,}, {,m} or {n,m}; anything else in braces is text. */
static int interval(struct onig *o)
{
    unsigned low = 0, high = 0;
    int used = 0, n = (int)SL_MIN(o->end - o->p, (ptrdiff_t)16);
    char s[17] = "", text[32];
    memcpy(s, o->p, (size_t)n);
    if (sscanf(s, "{%4u,%4u}%n", &low, &high, &used) == 2 && used > 0)
        snprintf(text, sizeof text, "{%u,%u}", low, high);
    else if (used = 0, sscanf(s, "{%4u,}%n", &low, &used) == 1 && used > 0)
        snprintf(text, sizeof text, "{%u,}", low);
    else if (used = 0, sscanf(s, "{%4u}%n", &low, &used) == 1 && used > 0)
        snprintf(text, sizeof text, "{%u}", low);
    else if (used = 0, sscanf(s, "{,%4u}%n", &high, &used) == 1 && used > 0)
        snprintf(text, sizeof text, "{0,%u}", high);
    else {
        o->atom = o->out->len;
        o->p++;
        return sl_buf_puts(o->out, "\\{");
    }
    if (o->atom == NO_ATOM) return no(o, "an interval has nothing to repeat");
    o->p += used;
    int r = sl_buf_puts(o->out, text);
    int again = o->p < o->end && (*o->p == '+' || (*o->p == '?' && !strchr(text, ',')));
    if (r != 0 || !again) return r;
    /* {2}+ repeats the repetition */
    size_t n_atom = o->out->len - o->atom;
    r = sl_buf_puts(o->out, "(?:)");
    if (r != 0) return r;
    char *at = o->out->data + o->atom;
    memmove(at + 3, at, n_atom);
    memcpy(at, "(?:", 3);
    at[3 + n_atom] = ')';
    return 0;
}

int sl_tok_onig(const char *pattern, size_t n, struct sl_buf *out, char why[160])
{
    struct onig o = {.p = pattern, .end = pattern + n, .out = out, .atom = NO_ATOM, .why = why};
    int r = 0;
    while (r == 0 && o.p < o.end) {
        switch (*o.p) {
        case '\\':
            r = escape(&o);
            break;
        case '[':
            o.atom = out->len;
            r = class(&o, 0);
            break;
        case '(':
            r = group(&o);
            break;
        case ')':
            if (o.n_groups == 0) return no(&o, "a parenthesis closes nothing");
            o.atom = o.groups[--o.n_groups];
            r = sl_buf_putc(out, *o.p++);
            break;
        case '{':
            r = interval(&o);
            break;
        case '|':
        case '^':
        case '$':
            o.atom = NO_ATOM;
            r = sl_buf_putc(out, *o.p++);
            break;
        case '?':
        case '*':
        case '+':
            r = sl_buf_putc(out, *o.p++);
            break;
        default:
            o.atom = out->len;
            r = copy_character(&o);
        }
    }
    return r ? r : o.n_groups > 0 ? no(&o, "a group has no end") : 0;
}
