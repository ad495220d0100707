/* tokenizer_find.c - the id of a literal text: how chat templates, ends and stop words name tokens.
 */
#include <string.h>

#include "base/sl_assert.h"
#include "model/tok.h"

static int stands_for(const struct sl_tokenizer *t, int32_t id, const char *piece, size_t n)
{
    size_t len;
    const char *bytes = sl_tokenizer_piece(t, id, &len);
    return id >= 0 && len == n && memcmp(bytes, piece, n) == 0;
}

/* A token that was added to the vocabulary and is none of the model's. */
static int32_t find_added(const struct sl_tokenizer *t, const char *piece, size_t n)
{
    for (int i = 0; i < t->vocab.n; i++) {
        size_t len;
        if (!sl_tok_literal(t->vocab.type[i])) continue;
        const char *text = sl_tok_vocab_text(&t->vocab, i, &len);
        if (len == n && memcmp(text, piece, n) == 0) return i;
    }
    return -1;
}

/* The token whose text is the piece in the byte alphabet, or with SentencePiece's spaces. */
static int32_t find_spelled(const struct sl_tokenizer *t, const char *piece, size_t n)
{
    struct sl_buf text;
    int r = 0;
    int32_t id = -1;
    if (n > t->vocab.text_max) return -1;
    sl_buf_init(&text, 3 * n + 1);
    for (int i = 0; i < t->decode.n; i++) {
        const struct sl_tok_decode_step *st = &t->decode.steps[i];
        if (st->kind == SL_TOK_DECODE_ALPHABET) r = sl_tok_alphabet_add(&text, piece, n);
        if (st->kind != SL_TOK_DECODE_REPLACE || st->to_n != 1 || *st->to != ' ' || text.len > 0)
            continue;
        for (size_t k = 0; k < n && r == 0; k++)
            r = piece[k] == ' ' ? sl_buf_add(&text, st->from, st->from_n)
                                : sl_buf_putc(&text, piece[k]);
    }
    if (r == 0 && text.len > 0) id = sl_tok_vocab_find(&t->vocab, text.data, text.len);
    sl_buf_close(&text);
    return id;
}

int32_t sl_tokenizer_find(const struct sl_tokenizer *t, const char *piece, size_t n)
{
    /* a special token is written as it is, others in an alphabet: two tokens may stand for the same
     * bytes */
    int32_t ids[3] = {-1, -1, -1}, added = find_added(t, piece, n);
    if (added >= 0) return added;
    ids[0] = sl_tok_vocab_find(&t->vocab, piece, n);
    ids[1] = find_spelled(t, piece, n);
    if (n == 1 && t->model == SL_TOK_BPE) ids[2] = t->bpe.byte_id[(uint8_t)*piece];
    for (size_t i = 0; i < SL_ARRAY_LEN(ids); i++)
        if (stands_for(t, ids[i], piece, n)) return ids[i];
    return -1;
}
