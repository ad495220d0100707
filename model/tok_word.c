/* tok_word.c - vocabularies of whole words: WordLevel, and WordPiece, which takes the longest piece
 * from the left, all but the first with a prefix. */
#include "model/tok.h"

#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"

#define PIECE_MAX 1024 /* bytes of a piece with its prefix; longer ones are no tokens */

/* The longest token at the beginning of s[0..n), `inside` a word: its id and length, or -1. */
static int32_t longest(const struct sl_tok_word *m, const char *s, size_t n, int inside,
                       size_t *len)
{
    char text[PIECE_MAX];
    size_t k = inside ? strlen(m->prefix) : 0;
    memcpy(text, m->prefix, k);
    size_t room = SL_MIN(n, sizeof text - k);
    memcpy(text + k, s, room);
    for (size_t end = room; end > 0; end--) {
        if (end < n && ((unsigned char)s[end] & 0xc0) == 0x80) continue;
        int32_t id = sl_tok_vocab_find(m->vocab, text, k + end);
        if (id >= 0) {
            *len = end;
            return id;
        }
    }
    return -1;
}

static int unknown(const struct sl_tok_word *m, struct sl_ids *ids)
{
    return m->unk >= 0 ? sl_ids_push(ids, m->unk) : 0;
}

int sl_tok_word_encode(const struct sl_tok_word *m, const char *piece, size_t n, struct sl_ids *ids)
{
    if (!m->pieces) {
        int32_t id = sl_tok_vocab_find(m->vocab, piece, n);
        return id >= 0 ? sl_ids_push(ids, id) : unknown(m, ids);
    }
    size_t before = ids->len, chars = 0;
    for (size_t i = 0; i < n; i++) chars += ((unsigned char)piece[i] & 0xc0) != 0x80;
    if (chars > (size_t)m->chars_max) return unknown(m, ids);
    for (size_t at = 0, len = 0; at < n; at += len) {
        int32_t id = longest(m, piece + at, n - at, at > 0, &len);
        if (id < 0) { /* a word with any unknown part is unknown as a whole */
            ids->len = before;
            return unknown(m, ids);
        }
        int r = sl_ids_push(ids, id);
        if (r != 0) return r;
    }
    return 0;
}
