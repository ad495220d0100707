/* tok_norm.c - text is rewritten before it is split: the normalizers of tokenizer.json and of
 * SentencePiece.
 *
 * Each step reads one buffer and writes the other; a step that changes nothing (most do nothing to
 * most texts) copies nothing. Every step gives valid UTF-8 from valid UTF-8. The result is bounded
 * by SL_TOK_NORMAL_MAX whatever the file says. */
#include "model/tok.h"

#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"

struct sl_tok_norm_step *sl_tok_norm_add(struct sl_tok_norm *m, enum sl_tok_norm_kind kind,
                                         int flags)
{
    if (m->n == SL_TOK_STEPS_MAX) return NULL;
    struct sl_tok_norm_step *s = &m->steps[m->n++];
    *s = (struct sl_tok_norm_step){.kind = kind, .flags = flags};
    return s;
}

int sl_tok_norm_texts(struct sl_tok_norm_step *s, const char *pattern, size_t pattern_n,
                      const char *content, size_t content_n)
{
    if (pattern && !(s->pattern = malloc(pattern_n + 1))) return SL_ENOMEM;
    if (!(s->content = malloc(content_n + 1))) return SL_ENOMEM;
    if (pattern) memcpy(s->pattern, pattern, pattern_n);
    memcpy(s->content, content, content_n);
    s->pattern_n = pattern ? pattern_n : 0;
    s->content_n = content_n;
    return 0;
}

void sl_tok_norm_close(struct sl_tok_norm *m)
{
    for (int i = 0; i < m->n; i++) {
        free(m->steps[i].pattern);
        free(m->steps[i].content);
        sl_tok_regex_close(m->steps[i].regex);
        sl_tok_charsmap_close(m->steps[i].map);
    }
    m->n = 0;
}

/* ---- replacing ------------------------------------------------------------------------------- */

static int replace_text(const struct sl_tok_norm_step *st, struct sl_buf *out, const char *s,
                        size_t n)
{
    size_t at = 0;
    int r = 0;
    for (const char *hit; r == 0; at = (size_t)(hit - s) + st->pattern_n) {
        hit = st->pattern_n > 0 ? memmem(s + at, n - at, st->pattern, st->pattern_n) : NULL;
        if (!hit) break;
        r = sl_buf_add(out, s + at, (size_t)(hit - s) - at);
        if (r == 0) r = sl_buf_add(out, st->content, st->content_n);
    }
    return r ? r : sl_buf_add(out, s + at, n - at);
}

static int replace_matches(const struct sl_tok_norm_step *st, struct sl_tok_work *w,
                           struct sl_buf *out, const char *s, size_t n, struct sl_err *err)
{
    size_t done = 0, from = 0, b = 0, e = 0;
    int r = 0;
    while (from <= n && (r = sl_tok_regex_next(st->regex, w, s, n, from, &b, &e, err)) == 1) {
        from = e;
        if (b == e) { /* nothing is found between characters, and not where a match ended */
            uint32_t cp;
            if (e == n) break;
            from += (size_t)sl_utf8_get(s + e, n - e, &cp);
            if (e == done && done > 0) continue;
        }
        r = sl_buf_add(out, s + done, b - done);
        if (r == 0) r = sl_buf_add(out, st->content, st->content_n);
        if (r != 0) return r;
        done = e;
    }
    return r < 0 ? r : sl_buf_add(out, s + done, n - done);
}

static int through_map(const struct sl_tok_norm_step *st, struct sl_buf *out, const char *s,
                       size_t n)
{
    int r = 0, longest = !st->flags;
    for (size_t i = 0; i < n && r == 0;) {
        uint32_t cp;
        const char *to = NULL;
        size_t k = (size_t)sl_utf8_get(s + i, n - i, &cp), room = n - i, cluster = k, used = 0;
        if (st->flags) { /* HF: a short grapheme cluster by its first key, else each character */
            cluster = sl_tok_unicode_grapheme(s + i, n - i);
            used =
                cluster < 6 && sl_tok_charsmap_find(st->map, s + i, cluster, 0, &to) ? cluster : 0;
            room = k;
        }
        if (!used && cluster != k && st->flags) { /* the characters of a long cluster */
            for (size_t j = 0; j < cluster && r == 0; j += k) {
                k = (size_t)sl_utf8_get(s + i + j, cluster - j, &cp);
                if (sl_tok_charsmap_find(st->map, s + i + j, k, 0, &to))
                    r = sl_buf_puts(out, to);
                else
                    r = sl_buf_add(out, s + i + j, k);
            }
            i += cluster;
            continue;
        }
        if (!used) used = sl_tok_charsmap_find(st->map, s + i, room, longest, &to);
        r = used ? sl_buf_puts(out, to) : sl_buf_add(out, s + i, k);
        i += used ? used : k;
    }
    return r;
}

/* The strings of a damaged map may be no UTF-8. */
static int charsmap(const struct sl_tok_norm_step *st, struct sl_buf *out, const char *s, size_t n)
{
    size_t before = out->len;
    int r = through_map(st, out, s, n);
    for (size_t i = before; r == 0 && i < out->len;) {
        uint32_t cp;
        int k = sl_utf8_get(out->data + i, out->len - i, &cp);
        if (k == 1 && cp == 0xfffd) out->data[i] = '?';
        i += (size_t)k;
    }
    return r;
}

/* ---- characters one by one ------------------------------------------------------------------- */

static int is_nmt_space(uint32_t cp)
{
    return cp == 9 || cp == 10 || cp == 12 || cp == 13 || cp == 0x1680 ||
           (cp >= 0x200b && cp <= 0x200f) || cp == 0x2028 || cp == 0x2029 || cp == 0x2581 ||
           cp == 0xfeff || cp == 0xfffd;
}

static int is_nmt_control(uint32_t cp)
{
    return (cp >= 1 && cp <= 8) || cp == 11 || (cp >= 14 && cp <= 31) || cp == 127 || cp == 0x8f ||
           cp == 0x9f;
}

/* What a step makes of one character: the character, ' ', or nothing; for HAN spaces around it. */
static int one(const struct sl_tok_norm_step *st, struct sl_buf *out, uint32_t cp, const char *s,
               size_t k)
{
    switch (st->kind) {
    case SL_TOK_NORM_MARKS:
        return sl_tok_is_mark(cp, st->flags) ? 0 : sl_buf_add(out, s, k);
    case SL_TOK_NORM_NMT:
        if (is_nmt_control(cp)) return 0;
        return is_nmt_space(cp) ? sl_buf_putc(out, ' ') : sl_buf_add(out, s, k);
    case SL_TOK_NORM_CLEAN:
        if (cp == 0 || cp == 0xfffd || sl_tok_is_control(cp)) return 0;
        return sl_tok_is_space(cp) ? sl_buf_putc(out, ' ') : sl_buf_add(out, s, k);
    default: {
        int han = sl_tok_is_han(cp), r = han ? sl_buf_putc(out, ' ') : 0;
        if (r == 0) r = sl_buf_add(out, s, k);
        return r == 0 && han ? sl_buf_putc(out, ' ') : r;
    }
    }
}

static int each(const struct sl_tok_norm_step *st, struct sl_tok_work *w, struct sl_buf *out,
                const char *s, size_t n)
{
    int r = 0;
    for (size_t i = 0; i < n && r == 0;) {
        uint32_t cp;
        int k = sl_utf8_get(s + i, n - i, &cp);
        r = one(st, out, cp, s + i, (size_t)k);
        w->norm_moved |= i == 0 && out->len == 0;
        i += (size_t)k;
    }
    return r;
}

static int strip(struct sl_tok_work *w, struct sl_buf *out, const char *s, size_t n, int sides)
{
    uint32_t cp;
    size_t from = 0, to = n;
    while ((sides & 1) && from < n) {
        int k = sl_utf8_get(s + from, n - from, &cp);
        if (!sl_tok_is_space(cp)) break;
        from += (size_t)k;
    }
    while ((sides & 2) && to > from) {
        size_t k = 1;
        while (k < 4 && k < to - from && ((unsigned char)s[to - k] & 0xc0) == 0x80) k++;
        (void)sl_utf8_get(s + to - k, k, &cp);
        if (!sl_tok_is_space(cp)) break;
        to -= k;
    }
    w->norm_moved |= from > 0;
    return sl_buf_add(out, s + from, to - from);
}

static int squeeze(struct sl_buf *out, const char *s, size_t n)
{
    int r = 0, spaces = 0, any = 0;
    for (;;) { /* what stands for a space goes from the end too */
        if (n >= 1 && s[n - 1] == ' ')
            n--;
        else if (n >= 3 && memcmp(s + n - 3, SL_TOK_SPACE, 3) == 0)
            n -= 3;
        else
            break;
    }
    for (size_t i = 0; i < n && r == 0; i++) {
        if (s[i] == ' ') {
            spaces = 1;
            continue;
        }
        if (spaces && any) r = sl_buf_putc(out, ' ');
        if (r == 0) r = sl_buf_putc(out, s[i]);
        spaces = 0;
        any = 1;
    }
    return r;
}

/* ---- running --------------------------------------------------------------------------------- */

static int run_step(const struct sl_tok_norm_step *st, struct sl_tok_work *w, struct sl_buf *out,
                    const char *s, size_t n, struct sl_err *err)
{
    int r;
    switch (st->kind) {
    case SL_TOK_NORM_FORM:
        return sl_tok_unicode_form(out, s, n, (enum sl_tok_form)st->flags);
    case SL_TOK_NORM_LOWER:
        return sl_tok_unicode_lower(out, s, n);
    case SL_TOK_NORM_STRIP:
        return strip(w, out, s, n, st->flags);
    case SL_TOK_NORM_REPLACE:
        return st->regex ? replace_matches(st, w, out, s, n, err) : replace_text(st, out, s, n);
    case SL_TOK_NORM_PREPEND:
        r = sl_buf_add(out, st->content, st->content_n);
        return r ? r : sl_buf_add(out, s, n);
    case SL_TOK_NORM_CHARSMAP:
        return charsmap(st, out, s, n);
    case SL_TOK_NORM_BYTE_LEVEL:
        return sl_tok_alphabet_add(out, s, n);
    case SL_TOK_NORM_SQUEEZE:
        return squeeze(out, s, n);
    default:
        return each(st, w, out, s, n);
    }
}

/* Does the step leave this text alone? (Only what is cheap to see.) */
static int is_idle(const struct sl_tok_norm_step *st, const char *s, size_t n, int begins)
{
    if (n == 0) return 1;
    if (st->kind == SL_TOK_NORM_PREPEND) return !begins;
    if (st->kind == SL_TOK_NORM_REPLACE && !st->regex)
        return st->pattern_n == 0 || !memmem(s, n, st->pattern, st->pattern_n);
    return 0;
}

int sl_tok_norm_run(const struct sl_tok_norm *m, struct sl_tok_work *w, const char **s, size_t *n,
                    int begins, struct sl_err *err)
{
    int at = 0;
    w->norm_moved = 0;
    for (int i = 0; i < m->n; i++) {
        if (is_idle(&m->steps[i], *s, *n, begins)) continue;
        struct sl_buf *out = &w->norm[at];
        if (out->max == 0) sl_buf_init(out, SL_TOK_NORMAL_MAX);
        sl_buf_clear(out);
        int r = run_step(&m->steps[i], w, out, *s, *n, err);
        if (r == SL_ELIMIT && err && err->code == 0)
            sl_err_set(err, r, "the text has more than %zu MiB after normalization",
                       SL_TOK_NORMAL_MAX >> 20);
        if (r != 0) return r;
        *s = sl_buf_str(out);
        *n = out->len;
        at = !at;
    }
    return 0;
}
