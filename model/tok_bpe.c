/* tok_bpe.c - byte-pair merging (Sennrich et al. 2016), by ranked merges or by SentencePiece's
 * scores.
 *
 * Merging a piece: its characters are symbols in a linked list; of all neighbouring pairs the one
 * with the lowest rank is merged first, the leftmost of equals. A heap of (rank, left symbol) finds
 * it, so a piece of n bytes costs O(n log n), be it one word or a megabyte of one letter. Heap
 * entries are never removed when a neighbour changes: an entry counts only while its symbol still
 * has that rank with its right neighbour. */
#include "model/tok.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "base/text.h"

#define NO_RANK UINT32_MAX
#define NO_SYMBOL UINT32_MAX

struct sl_tok_pair {
    uint64_t key; /* left id << 32 | right id */
    uint32_t rank;
    int32_t merged; /* -1: empty slot */
};

static uint64_t pair_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static struct sl_tok_pair *pair_slot(const struct sl_tok_bpe *b, uint64_t key)
{
    size_t i = sl_mix64(key ^ b->seed) & b->mask;
    while (b->slots[i].merged >= 0 && b->slots[i].key != key) i = (i + 1) & b->mask;
    return &b->slots[i];
}

/* A token for each single byte: its character in the byte alphabet, or <0x0A>. */
static void find_bytes(struct sl_tok_bpe *b, int byte_level)
{
    for (int i = 0; i < 256; i++) {
        char text[8];
        int n = byte_level ? sl_utf8_put(sl_tok_alphabet((uint8_t)i), text)
                           : snprintf(text, sizeof text, "<0x%02X>", i);
        b->byte_id[i] = sl_tok_vocab_find(b->vocab, text, (size_t)n);
    }
    for (uint32_t cp = 0; cp < SL_ARRAY_LEN(b->direct); cp++) {
        char text[4];
        b->direct[cp] = sl_tok_vocab_find(b->vocab, text, (size_t)sl_utf8_put(cp, text));
    }
    /* in the byte alphabet a literal token U+00F8 (DeepSeek has one) is not the byte f8 */
    for (uint32_t cp = 0; byte_level && cp < SL_ARRAY_LEN(b->direct); cp++) {
        int32_t id = b->direct[cp];
        if (id < 0 || !sl_tok_literal(b->vocab->type[id])) continue;
        int byte = sl_tok_alphabet_byte(cp);
        if (cp >= 128 && byte >= 0) b->direct[cp] = b->byte_id[byte] = -1;
    }
}

int sl_tok_bpe_init(struct sl_tok_bpe *b, const struct sl_tok_vocab *v, size_t n_merges,
                    int byte_level)
{
    b->vocab = v;
    b->unk = -1;
    b->mask = sl_tok_capacity(n_merges * 2) - 1;
    sl_env_random(&b->seed, sizeof b->seed);
    b->slots = malloc((b->mask + 1) * sizeof *b->slots);
    if (!b->slots) return SL_ENOMEM;
    for (size_t i = 0; i <= b->mask; i++) b->slots[i] = (struct sl_tok_pair){0, NO_RANK, -1};
    find_bytes(b, byte_level);
    return 0;
}

void sl_tok_bpe_close(struct sl_tok_bpe *b)
{
    free(b->slots);
    free(b->prefix);
    free(b->suffix);
    b->slots = NULL;
    b->prefix = b->suffix = NULL;
}

void sl_tok_bpe_put(struct sl_tok_bpe *b, int32_t left, int32_t right, uint32_t rank,
                    int32_t merged)
{
    SL_ASSERT(left >= 0 && right >= 0 && merged >= 0 && rank != NO_RANK);
    uint64_t key = pair_key(left, right);
    struct sl_tok_pair *p = pair_slot(b, key);
    if (p->merged >= 0 && p->rank <= rank) return;
    *p = (struct sl_tok_pair){key, rank, merged};
}

/* ---- merging one piece ----------------------------------------------------------------------- */

struct sl_tok_symbol {
    int32_t id; /* -1: an unknown character; pairs with nothing */
    uint32_t
        rank; /* of the pair (this, next); NO_RANK when they do not merge or the symbol is gone */
    int32_t merged;      /* what that pair becomes */
    uint32_t prev, next; /* NO_SYMBOL at the ends */
    uint32_t at, len;    /* its text in the piece */
};

static int work_reserve(struct sl_tok_work *w, size_t n)
{
    if (n > w->symbols_cap) {
        size_t cap = sl_tok_capacity(n);
        struct sl_tok_symbol *s = realloc(w->symbols, cap * sizeof *s);
        if (!s) return SL_ENOMEM;
        w->symbols = s;
        w->symbols_cap = cap;
    }
    /* each of at most n - 1 merges takes one entry out and puts two in */
    if (2 * n > w->heap_cap) {
        size_t cap = sl_tok_capacity(2 * n);
        uint64_t *h = realloc(w->heap, cap * sizeof *h);
        if (!h) return SL_ENOMEM;
        w->heap = h;
        w->heap_cap = cap;
    }
    return 0;
}

static void sift_down(uint64_t *h, size_t n, size_t i)
{
    uint64_t v = h[i];
    for (size_t c; (c = 2 * i + 1) < n; i = c) {
        if (c + 1 < n && h[c + 1] < h[c]) c++;
        if (v <= h[c]) break;
        h[i] = h[c];
    }
    h[i] = v;
}

static void heap_push(struct sl_tok_work *w, uint64_t v)
{
    SL_ASSERT(w->heap_len < w->heap_cap);
    size_t i = w->heap_len++;
    for (; i > 0 && v < w->heap[(i - 1) / 2]; i = (i - 1) / 2) w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = v;
}

static uint64_t heap_pop(struct sl_tok_work *w)
{
    uint64_t top = w->heap[0];
    w->heap[0] = w->heap[--w->heap_len];
    if (w->heap_len > 1) sift_down(w->heap, w->heap_len, 0);
    return top;
}

/* The order of scores, highest first, as a rank. */
static uint32_t score_rank(float score)
{
    uint32_t u;
    memcpy(&u, &score, sizeof u);
    u = u >> 31 ? ~u : u | 0x80000000u; /* in the order of the numbers */
    return SL_MIN(~u, NO_RANK - 1);
}

/* SentencePiece: two symbols merge when their text is a token, but for control tokens. */
static int may_merge(int type)
{
    return type != SL_TOK_TYPE_CONTROL && type != SL_TOK_TYPE_UNKNOWN && type != SL_TOK_TYPE_BYTE;
}

/* Looks up symbol i with its right neighbour; true when they merge. */
static int rank_pair(const struct sl_tok_bpe *b, struct sl_tok_symbol *s, uint32_t i,
                     const char *piece)
{
    uint32_t next = s[i].next;
    s[i].rank = NO_RANK;
    s[i].merged = -1;
    if (next == NO_SYMBOL) return 0;
    if (b->scores) {
        int32_t id = sl_tok_vocab_find(b->vocab, piece + s[i].at, s[i].len + s[next].len);
        if (id < 0 || !may_merge(b->vocab->type[id])) return 0;
        s[i].merged = id;
        s[i].rank = score_rank(b->scores[id]);
        return 1;
    }
    const struct sl_tok_pair *p = pair_slot(b, pair_key(s[i].id, s[next].id));
    s[i].rank = p->rank;
    s[i].merged = p->merged;
    return s[i].rank != NO_RANK;
}

static uint64_t heap_key(const struct sl_tok_symbol *s, uint32_t i)
{
    return (uint64_t)s[i].rank << 32 | i;
}

/* Symbol i swallows its right neighbour. */
static void merge_at(const struct sl_tok_bpe *b, struct sl_tok_work *w, uint32_t i,
                     const char *piece)
{
    struct sl_tok_symbol *s = w->symbols;
    uint32_t gone = s[i].next, after = s[gone].next, before = s[i].prev;
    s[i].id = s[i].merged;
    s[i].len += s[gone].len;
    s[i].next = after;
    s[gone].rank = NO_RANK;
    if (after != NO_SYMBOL) s[after].prev = i;
    if (rank_pair(b, s, i, piece)) heap_push(w, heap_key(s, i));
    if (before != NO_SYMBOL && rank_pair(b, s, before, piece)) heap_push(w, heap_key(s, before));
}

/* ---- the characters of a piece --------------------------------------------------------------- */

struct spelling {
    const struct sl_tok_bpe *b;
    struct sl_tok_symbol *s;
    uint32_t n;
    int unk_waits; /* an unknown character that the next one may join (fuse_unk) */
};

static void spell(struct spelling *sp, int32_t id, size_t at, size_t len)
{
    struct sl_tok_symbol *s = &sp->s[sp->n];
    *s = (struct sl_tok_symbol){.id = id, .at = (uint32_t)at, .len = (uint32_t)len};
    s->prev = sp->n == 0 ? NO_SYMBOL : sp->n - 1;
    s->next = ++sp->n;
}

/* The token of one character, which has a prefix inside a word and a suffix at its end. */
static int32_t character(const struct sl_tok_bpe *b, const char *c, size_t k, int first, int last)
{
    if (b->prefix || b->suffix) {
        char text[64];
        int n = snprintf(text, sizeof text, "%s%.*s%s", b->prefix && !first ? b->prefix : "",
                         (int)k, c, b->suffix && last ? b->suffix : "");
        return n < (int)sizeof text ? sl_tok_vocab_find(b->vocab, text, (size_t)n) : -1;
    }
    uint32_t cp;
    if ((unsigned char)*c < 128) return b->direct[(unsigned char)*c];
    (void)sl_utf8_get(c, k, &cp);
    return cp < SL_ARRAY_LEN(b->direct) ? b->direct[cp] : sl_tok_vocab_find(b->vocab, c, k);
}

static int has_bytes(const struct sl_tok_bpe *b, const char *c, size_t k)
{
    for (size_t i = 0; i < k; i++)
        if (b->byte_id[(uint8_t)c[i]] < 0) return 0;
    return b->byte_fallback;
}

static void unknown(struct spelling *sp, size_t at, size_t k)
{
    if (sp->b->unk >= 0 && sp->b->fuse_unk && sp->unk_waits)
        sp->s[sp->n - 1].len += (uint32_t)k;
    else if (sp->b->unk >= 0 || sp->b->blocks)
        spell(sp, sp->b->unk, at, k);
    sp->unk_waits = sp->b->unk >= 0;
}

/* The first symbols of the piece; returns their number. */
static uint32_t spell_piece(const struct sl_tok_bpe *b, struct sl_tok_symbol *s, const char *piece,
                            size_t n)
{
    struct spelling sp = {b, s, 0, 0};
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t k = (unsigned char)piece[i] < 128 ? 1 : (size_t)sl_utf8_get(piece + i, n - i, &cp);
        int32_t id = character(b, piece + i, k, i == 0, i + k == n);
        /* by scores a character without a token may still be part of one: its bytes come last */
        if (id >= 0 && (!b->scores || may_merge(b->vocab->type[id]))) {
            spell(&sp, id, i, k);
            sp.unk_waits = 0;
        } else if (b->scores) {
            spell(&sp, -1, i, k);
        } else if (has_bytes(b, piece + i, k)) {
            for (size_t j = 0; j < k; j++) spell(&sp, b->byte_id[(uint8_t)piece[i + j]], i + j, 1);
        } else {
            unknown(&sp, i, k);
        }
        i += k;
    }
    if (sp.n > 0) s[sp.n - 1].next = NO_SYMBOL;
    return sp.n;
}

/* A symbol that is no token in the end: its bytes, or unknown. */
static int push_unknown(const struct sl_tok_bpe *b, const char *c, size_t k, int after_unknown,
                        struct sl_ids *ids)
{
    int r = 0;
    if (!has_bytes(b, c, k))
        return b->unk < 0 || (after_unknown && b->fuse_unk) ? 0 : sl_ids_push(ids, b->unk);
    for (size_t i = 0; i < k && r == 0; i++) r = sl_ids_push(ids, b->byte_id[(uint8_t)c[i]]);
    return r;
}

int sl_tok_bpe_encode(const struct sl_tok_bpe *b, struct sl_tok_work *w, const char *piece,
                      size_t n, struct sl_ids *ids)
{
    SL_ASSERT(n < UINT32_MAX / 2);
    if (n == 0) return 0;
    if (b->whole_words) {
        int32_t id = sl_tok_vocab_find(b->vocab, piece, n);
        if (id >= 0 && may_merge(b->vocab->type[id])) return sl_ids_push(ids, id);
    }
    if (work_reserve(w, n) != 0) return SL_ENOMEM;
    struct sl_tok_symbol *s = w->symbols;
    uint32_t count = spell_piece(b, s, piece, n);
    w->heap_len = 0;
    for (uint32_t i = 0; i < count; i++)
        if (rank_pair(b, s, i, piece)) w->heap[w->heap_len++] = heap_key(s, i);
    for (size_t i = w->heap_len / 2; i-- > 0;) sift_down(w->heap, w->heap_len, i);
    while (w->heap_len > 0) {
        uint64_t top = heap_pop(w);
        uint32_t i = (uint32_t)top;
        if (s[i].rank == top >> 32) merge_at(b, w, i, piece);
    }
    int r = 0;
    for (uint32_t i = 0; count > 0 && i != NO_SYMBOL && r == 0; i = s[i].next)
        r = s[i].id >= 0 ? sl_ids_push(ids, s[i].id)
                         : push_unknown(b, piece + s[i].at, s[i].len,
                                        s[i].prev != NO_SYMBOL && s[s[i].prev].id < 0, ids);
    return r;
}
