/* detok.c - token ids back to text, one at a time.
 *
 * A token's bytes may begin or end inside a UTF-8 character. What is complete leaves at once, a
 * beginning waits (at most three bytes), bytes that cannot be part of any character become U+FFFD
 * one by one. All pushes and the finish together therefore give exactly sl_utf8_scrub of all the
 * bytes. */
#include "model/tokenizer.h"

#include <limits.h>
#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"

/* Appends s[0..n) with invalid bytes replaced. On failure *out is as before. */
static int add_scrubbed(struct sl_buf *out, const char *s, size_t n)
{
    size_t before = out->len, run = 0;
    int r = 0;
    for (size_t i = 0; i < n && r == 0;) {
        uint32_t cp;
        int k = sl_utf8_get(s + i, n - i, &cp);
        int bad = k == 1 && cp == 0xfffd;
        if (bad && (r = sl_buf_add(out, s + run, i - run)) == 0) {
            r = sl_buf_puts(out, "\xef\xbf\xbd");
            run = i + 1;
        }
        i += (size_t)k;
    }
    if (r == 0) r = sl_buf_add(out, s + run, n - run);
    if (r != 0 && out->data) {
        out->len = before;
        out->data[before] = 0;
    }
    return r;
}

/* The pending bytes with as much of s as may complete their character: at most 4 + 3 bytes decide
 * about it. */
static size_t join(const struct sl_detok *d, const char *s, size_t n, char *out)
{
    size_t take = SL_MIN(n, (size_t)3);
    memcpy(out, d->pending, (size_t)d->n_pending);
    memcpy(out + d->n_pending, s, take);
    return (size_t)d->n_pending + take;
}

const char *sl_detok_bytes(struct sl_detok *d, const struct sl_tokenizer *t, int32_t id,
                           size_t *len)
{
    const char *s = sl_tokenizer_piece(t, id, len);
    if (d->dropped == INT_MAX || *len == 0) return s;
    int drops = sl_tokenizer_drops(t);
    while (*len > 0 && *s == ' ' && (drops < 0 || d->dropped < drops)) {
        s++;
        --*len;
        d->dropped++;
    }
    if (*len > 0 || drops <= 0 || d->dropped >= drops) d->dropped = INT_MAX;
    return s;
}

int sl_detok_push(struct sl_detok *d, const struct sl_tokenizer *t, int32_t id, int show_special,
                  struct sl_buf *out)
{
    SL_ASSERT(d->n_pending >= 0 && d->n_pending <= 3);
    size_t n, used = 0, before = out->len;
    if (sl_tokenizer_is_special(t, id) && !show_special) return 0;
    int dropped = d->dropped;
    const char *s = sl_detok_bytes(d, t, id, &n);
    if (n == 0) return 0;
    if (d->n_pending > 0) {
        char head[3 + 3];
        size_t len = join(d, s, n, head), pos = 0, pending = (size_t)d->n_pending;
        if (sl_utf8_whole(head, len) == 0) { /* still only the beginning of one character */
            memcpy(d->pending, head, len);
            d->n_pending = (int)len;
            return 0;
        }
        /* the character that the pending bytes begin, or they one by one: all but the first are
         * continuations */
        for (uint32_t cp; pos < pending;) pos += (size_t)sl_utf8_get(head + pos, len - pos, &cp);
        int r = add_scrubbed(out, head, pos);
        if (r != 0) return r;
        used = pos - pending;
    }
    size_t whole = sl_utf8_whole(s + used, n - used);
    int r = add_scrubbed(out, s + used, whole);
    if (r != 0) {
        out->len = before;
        d->dropped = dropped;
        if (out->data) out->data[before] = 0;
        return r;
    }
    d->n_pending = (int)(n - used - whole);
    memcpy(d->pending, s + used + whole, (size_t)d->n_pending);
    return 0;
}

int sl_detok_finish(struct sl_detok *d, struct sl_buf *out)
{
    int r = add_scrubbed(out, d->pending, (size_t)d->n_pending);
    if (r == 0) d->n_pending = 0;
    return r;
}
