/* tok_vocab.c - the tokens by id, by text and by bytes.
 *
 * One hash table from the file's texts to ids (open addressing, half full at most) serves the
 * merges at opening and the lookups of whole words; a byte sequence is looked up by its spelling in
 * the byte alphabet. */
#include "model/tok.h"

#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "base/text.h"

static uint64_t hash_text(uint64_t seed, const char *s, size_t n)
{
    uint64_t h = seed ^ n, w;
    for (; n >= 8; s += 8, n -= 8) {
        memcpy(&w, s, 8);
        h = sl_mix64(h ^ w);
    }
    w = 0;
    memcpy(&w, s, n);
    return sl_mix64(h ^ w);
}

int sl_tok_vocab_init(struct sl_tok_vocab *v, int n, size_t text_bytes)
{
    SL_ASSERT(n > 0 && n <= SL_TOK_VOCAB_MAX && text_bytes <= SL_TOK_VOCAB_BYTES_MAX);
    memset(v, 0, sizeof *v);
    v->mask = sl_tok_capacity((size_t)n * 2) - 1;
    sl_env_random(&v->seed, sizeof v->seed);
    v->text = malloc(text_bytes + 1); /* bytes never need more room than the text */
    v->bytes = malloc(text_bytes + 1);
    v->text_at = calloc((size_t)n + 1, sizeof *v->text_at);
    v->bytes_at = calloc((size_t)n + 1, sizeof *v->bytes_at);
    v->type = calloc((size_t)n, sizeof *v->type);
    v->slots = malloc((v->mask + 1) * sizeof *v->slots);
    if (!v->text || !v->bytes || !v->text_at || !v->bytes_at || !v->type || !v->slots)
        return SL_ENOMEM;
    memset(v->slots, 0xff, (v->mask + 1) * sizeof *v->slots);
    return 0;
}

void sl_tok_vocab_close(struct sl_tok_vocab *v)
{
    free(v->text);
    free(v->bytes);
    free(v->text_at);
    free(v->bytes_at);
    free(v->type);
    free(v->slots);
    memset(v, 0, sizeof *v);
}

/* The slot of `text`: the one that holds it, else the empty one where it belongs. */
static size_t vocab_slot(const struct sl_tok_vocab *v, const char *text, size_t len)
{
    for (size_t i = hash_text(v->seed, text, len) & v->mask;; i = (i + 1) & v->mask) {
        int32_t id = v->slots[i];
        if (id < 0) return i;
        size_t at = v->text_at[id];
        if (v->text_at[id + 1] - at == len && memcmp(v->text + at, text, len) == 0) return i;
    }
}

/* Writes the bytes that a token's text stands for; characters outside the byte alphabet stand for
 * themselves. */
static size_t decode_alphabet(const char *text, size_t len, char *out)
{
    size_t w = 0;
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        int k = sl_utf8_get(text + i, len - i, &cp);
        int byte = -1;
        if (cp < 256 && sl_tok_alphabet((uint8_t)cp) == cp)
            byte = (int)cp;
        else if (cp >= 256 && cp < 256 + 33)
            byte = (int)cp - 256;
        else if (cp >= 256 + 33 && cp < 256 + 67)
            byte = (int)cp - 256 - 33 + 127;
        else if (cp == 256 + 67)
            byte = 173;
        if (byte >= 0) {
            out[w++] = (char)byte;
        } else {
            memcpy(out + w, text + i, (size_t)k);
            w += (size_t)k;
        }
        i += (size_t)k;
    }
    return w;
}

void sl_tok_vocab_put(struct sl_tok_vocab *v, int id, const char *text, size_t len, int type)
{
    SL_ASSERT(id == v->n && type >= 0 && type < SL_TOK_TYPE_COUNT);
    char *copy = v->text + v->text_at[id], *bytes = v->bytes + v->bytes_at[id];
    memcpy(copy, text, len);
    size_t n = len;
    if (sl_tok_literal(type))
        memcpy(bytes, text, len);
    else
        n = decode_alphabet(text, len, bytes);
    v->text_at[id + 1] = v->text_at[id] + (uint32_t)len;
    v->bytes_at[id + 1] = v->bytes_at[id] + (uint32_t)n;
    v->type[id] = (uint8_t)type;
    v->slots[vocab_slot(v, copy, len)] = id;
    v->text_max = SL_MAX(v->text_max, len);
    v->n = id + 1;
}

int32_t sl_tok_vocab_find(const struct sl_tok_vocab *v, const char *text, size_t len)
{
    return v->slots[vocab_slot(v, text, len)];
}

int32_t sl_tok_vocab_find_bytes(const struct sl_tok_vocab *v, const char *bytes, size_t len)
{
    char text[1024]; /* longer than any token of a real vocabulary (GPT-2: 256) */
    size_t w = 0;
    if (len > v->text_max || len > sizeof text / 2) return -1;
    for (size_t i = 0; i < len; i++)
        w += (size_t)sl_utf8_put(sl_tok_alphabet((uint8_t)bytes[i]), text + w);
    return sl_tok_vocab_find(v, text, w);
}
