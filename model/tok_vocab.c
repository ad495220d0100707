/* tok_vocab.c - the tokens by id and by text.
 *
 * One hash table from the file's texts to ids (open addressing, half full at most) serves the
 * merges at opening and the lookups of characters and whole words while encoding. The bytes that
 * tokens stand for are filled in by tok_decode.c. */
#include "model/tok.h"

#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/sl_assert.h"

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
    v->text = malloc(text_bytes + 1);
    v->text_at = calloc((size_t)n + 1, sizeof *v->text_at);
    v->bytes_at = calloc((size_t)n + 1, sizeof *v->bytes_at);
    v->type = calloc((size_t)n, sizeof *v->type);
    v->slots = malloc((v->mask + 1) * sizeof *v->slots);
    if (!v->text || !v->text_at || !v->bytes_at || !v->type || !v->slots) return SL_ENOMEM;
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

void sl_tok_vocab_put(struct sl_tok_vocab *v, int id, const char *text, size_t len, int type,
                      int in_model)
{
    SL_ASSERT(id == v->n && type >= 0 && type < SL_TOK_TYPE_COUNT);
    char *copy = v->text + v->text_at[id];
    memcpy(copy, text, len);
    v->text_at[id + 1] = v->text_at[id] + (uint32_t)len;
    v->type[id] = (uint8_t)type;
    if (in_model) v->slots[vocab_slot(v, copy, len)] = id;
    v->text_max = SL_MAX(v->text_max, len);
    v->n = id + 1;
}

int32_t sl_tok_vocab_find(const struct sl_tok_vocab *v, const char *text, size_t len)
{
    return len > v->text_max ? -1 : v->slots[vocab_slot(v, text, len)];
}

const char *sl_tok_vocab_text(const struct sl_tok_vocab *v, int32_t id, size_t *len)
{
    *len = v->text_at[id + 1] - v->text_at[id];
    return v->text + v->text_at[id];
}
