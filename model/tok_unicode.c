/* tok_unicode.c - what the tokenizer asks about characters, by utf8proc's tables (Unicode 14).
 *
 * Normalization forms: ASCII is the same in all of them, so only the stretches around other
 * characters go through utf8proc. A stretch is cut where more than MARKS_MAX combining marks follow
 * each other (the stream-safe format of UAX #15 allows 30): utf8proc orders marks in quadratic
 * time. */
#include <utf8proc.h>

#include "model/tok.h"

#include <stdlib.h>

#include "base/sl_assert.h"
#include "base/text.h"

#define MARKS_MAX 256

static int category(uint32_t cp)
{
    return utf8proc_category((utf8proc_int32_t)cp);
}

int sl_tok_is_space(uint32_t cp)
{
    int c = category(cp);
    return (cp >= 9 && cp <= 13) || cp == 0x85 || c == UTF8PROC_CATEGORY_ZS ||
           c == UTF8PROC_CATEGORY_ZL || c == UTF8PROC_CATEGORY_ZP;
}

int sl_tok_is_number(uint32_t cp)
{
    int c = category(cp);
    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

int sl_tok_is_mark(uint32_t cp, int nonspacing)
{
    int c = category(cp);
    return c == UTF8PROC_CATEGORY_MN ||
           (!nonspacing && (c == UTF8PROC_CATEGORY_MC || c == UTF8PROC_CATEGORY_ME));
}

int sl_tok_is_punct(uint32_t cp)
{
    if (cp < 128)
        return (cp >= 33 && cp < 48) || (cp >= 58 && cp < 65) || (cp >= 91 && cp < 97) ||
               (cp >= 123 && cp < 127);
    int c = category(cp);
    return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO;
}

int sl_tok_is_word(uint32_t cp)
{
    if (cp < 128)
        return (cp >= '0' && cp <= '9') || (cp >= 'A' && cp <= 'Z') || (cp >= 'a' && cp <= 'z') ||
               cp == '_';
    int c = category(cp);
    if (cp == 0x200c || cp == 0x200d) return 1; /* joiners */
    if (cp >= 0x24b6 && cp <= 0x24e9) return 1; /* circled letters */
    if ((cp >= 0x1f130 && cp <= 0x1f149) || (cp >= 0x1f150 && cp <= 0x1f169) ||
        (cp >= 0x1f170 && cp <= 0x1f189))
        return 1; /* squared letters */
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO) || sl_tok_is_mark(cp, 0) ||
           c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_PC;
}

int sl_tok_is_control(uint32_t cp)
{
    if (cp == '\t' || cp == '\n' || cp == '\r') return 0;
    int c = category(cp);
    return c == UTF8PROC_CATEGORY_CC || c == UTF8PROC_CATEGORY_CF || c == UTF8PROC_CATEGORY_CN ||
           c == UTF8PROC_CATEGORY_CO;
}

int sl_tok_is_han(uint32_t cp)
{
    return (cp >= 0x4e00 && cp <= 0x9fff) || (cp >= 0x3400 && cp <= 0x4dbf) ||
           (cp >= 0x20000 && cp <= 0x2a6df) || (cp >= 0x2a700 && cp <= 0x2b73f) ||
           (cp >= 0x2b740 && cp <= 0x2b81f) || (cp >= 0x2b920 && cp <= 0x2ceaf) ||
           (cp >= 0xf900 && cp <= 0xfaff) || (cp >= 0x2f800 && cp <= 0x2fa1f);
}

size_t sl_tok_unicode_grapheme(const char *s, size_t n)
{
    uint32_t before, cp;
    utf8proc_int32_t state = 0;
    size_t at = (size_t)sl_utf8_get(s, n, &before);
    while (at < n) {
        size_t k = (size_t)sl_utf8_get(s + at, n - at, &cp);
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)before, (utf8proc_int32_t)cp,
                                             &state))
            break;
        before = cp;
        at += k;
    }
    return at;
}

int sl_tok_unicode_lower(struct sl_buf *out, const char *s, size_t n)
{
    int r = 0;
    for (size_t i = 0; i < n && r == 0;) {
        uint32_t cp;
        char c[4];
        i += (size_t)sl_utf8_get(s + i, n - i, &cp);
        if (cp == 0x130) { /* the one letter that becomes two characters */
            r = sl_buf_puts(out, "i\xcc\x87");
            continue;
        }
        int k = sl_utf8_put((uint32_t)utf8proc_tolower((utf8proc_int32_t)cp), c);
        r = sl_buf_add(out, c, (size_t)k);
    }
    return r;
}

/* ---- forms ----------------------------------------------------------------------------------- */

static int add_form(struct sl_buf *out, const char *s, size_t n, enum sl_tok_form form)
{
    static const utf8proc_option_t options[] = {
        [SL_TOK_NFC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE,
        [SL_TOK_NFD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
        [SL_TOK_NFKC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
        [SL_TOK_NFKD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
    };
    utf8proc_uint8_t *to = NULL;
    utf8proc_ssize_t k =
        utf8proc_map((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &to, options[form]);
    if (k < 0) { /* utf8proc refuses nothing that is valid UTF-8 */
        free(to);
        return k == UTF8PROC_ERROR_NOMEM ? SL_ENOMEM : sl_buf_add(out, s, n);
    }
    int r = sl_buf_add(out, to, (size_t)k);
    free(to);
    return r;
}

/* Bytes of s[0..n) up to where the text may be cut: before an ASCII character, or where there have
 * been too many marks. s[0] may be ASCII: a mark behind it composes with it. */
static size_t stretch(const char *s, size_t n)
{
    size_t at = 0, marks = 0;
    while (at < n) {
        uint32_t cp;
        size_t k = (size_t)sl_utf8_get(s + at, n - at, &cp);
        if (at > 0 && cp < 128) break;
        marks = utf8proc_get_property((utf8proc_int32_t)cp)->combining_class ? marks + 1 : 0;
        if (marks > MARKS_MAX) break;
        at += k;
    }
    return at;
}

int sl_tok_unicode_form(struct sl_buf *out, const char *s, size_t n, enum sl_tok_form form)
{
    int r = 0;
    for (size_t i = 0; i < n && r == 0;) {
        size_t ascii = i;
        while (ascii < n && (unsigned char)s[ascii] < 128) ascii++;
        if (ascii == n) return sl_buf_add(out, s + i, n - i);
        if (ascii > i) ascii--; /* the last one may be part of what follows */
        r = sl_buf_add(out, s + i, ascii - i);
        size_t k = stretch(s + ascii, n - ascii);
        if (r == 0) r = add_form(out, s + ascii, k, form);
        i = ascii + k;
    }
    return r;
}
