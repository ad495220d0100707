/* tok_added.c - tokens that are looked for in the text before anything else: special ones and those
 * that were added to a vocabulary later.
 *
 * Leftmost first, of those that begin at one place the longest, as HF tokenizers does. A token may
 * want to stand alone (single_word) and may take the spaces around it (lstrip, rstrip). */
#include "model/tok.h"

#include <stdlib.h>
#include <string.h>

#include "base/text.h"

static int32_t real(const struct sl_tok_added *a, int32_t id)
{
    return a->real ? a->real[id] : id;
}

int sl_tok_added_init(struct sl_tok_added *a, const struct sl_tok_vocab *v, const uint8_t *flags,
                      const int32_t *ids, int n)
{
    a->flags = flags;
    if (sl_tok_sorted_init(&a->sorted, v, ids, n) != 0) return SL_ENOMEM;
    for (int i = 0; i < a->sorted.n; i++) {
        int32_t id = a->sorted.ids[i];
        int special = flags[real(a, id)] & SL_TOK_ADDED_SPECIAL;
        a->begins[(uint8_t)v->text[v->text_at[id]]] |= special ? 2 : 3;
    }
    return 0;
}

void sl_tok_added_close(struct sl_tok_added *a)
{
    sl_tok_sorted_close(&a->sorted);
    sl_tok_vocab_close(&a->own);
    free(a->real);
    a->real = NULL;
}

/* The length of the character that ends text[0..n), n > 0. */
static size_t last_character(const char *text, size_t n, uint32_t *cp)
{
    size_t k = 1;
    while (k < 4 && k < n && ((unsigned char)text[n - k] & 0xc0) == 0x80) k++;
    if ((size_t)sl_utf8_get(text + n - k, k, cp) != k) {
        *cp = 0xfffd;
        return 1;
    }
    return k;
}

static int stands_alone(const char *text, size_t at, size_t end, size_t n)
{
    uint32_t cp;
    if (at > 0 && (last_character(text, at, &cp), sl_tok_is_word(cp))) return 0;
    return end == n || (sl_utf8_get(text + end, n - end, &cp), !sl_tok_is_word(cp));
}

/* With the spaces around it that it takes, but none before `from`. */
static void take_spaces(int flags, const char *text, size_t from, size_t n, size_t *at, size_t *len)
{
    size_t begin = *at, end = *at + *len;
    uint32_t cp;
    while ((flags & SL_TOK_ADDED_LSTRIP) && begin > from) {
        size_t k = last_character(text + from, begin - from, &cp);
        if (!sl_tok_is_space(cp)) break;
        begin -= k;
    }
    while ((flags & SL_TOK_ADDED_RSTRIP) && end < n) {
        size_t k = (size_t)sl_utf8_get(text + end, n - end, &cp);
        if (!sl_tok_is_space(cp)) break;
        end += k;
    }
    *at = begin;
    *len = end - begin;
}

int32_t sl_tok_added_next(const struct sl_tok_added *a, const char *text, size_t from, size_t n,
                          int all, size_t *at, size_t *len)
{
    uint8_t mask = all || a->hides ? 2 : 1;
    for (size_t i = from; i < n; i++) {
        if (!(a->begins[(uint8_t)text[i]] & mask)) continue;
        struct sl_tok_prefixes p = {0};
        int32_t found = -1;
        for (int32_t id; (id = sl_tok_sorted_next(&a->sorted, &p, text + i, n - i)) >= 0;) {
            if (!all && !a->hides && (a->flags[real(a, id)] & SL_TOK_ADDED_SPECIAL)) continue;
            found = real(a, id);
            *len = p.depth;
        }
        if (found < 0) continue;
        int flags = a->flags[found];
        if ((!all && (flags & SL_TOK_ADDED_SPECIAL)) ||
            ((flags & SL_TOK_ADDED_WORD) && !stands_alone(text, i, i + *len, n))) {
            i += *len - 1; /* HF goes on behind it */
            continue;
        }
        *at = i;
        take_spaces(flags, text, from, n, at, len);
        return found;
    }
    return -1;
}
