/* tok_bpe.c - byte-pair merging.
 *
 * Merging a piece: its bytes are symbols in a linked list; of all neighbouring pairs the one with
 * the lowest rank is merged first, the leftmost of equals. A heap of (rank, left symbol) finds it,
 * so a piece of n bytes costs O(n log n), be it one word or a megabyte of one letter. Heap entries
 * are never removed when a neighbour changes: an entry counts only while its symbol still has that
 * rank with its right neighbour. */
#include "model/tok.h"

#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/sl_assert.h"

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

int sl_tok_bpe_init(struct sl_tok_bpe *b, const struct sl_tok_vocab *v, size_t n_merges)
{
    memset(b, 0, sizeof *b);
    b->mask = sl_tok_capacity(n_merges * 2) - 1;
    sl_env_random(&b->seed, sizeof b->seed);
    b->slots = malloc((b->mask + 1) * sizeof *b->slots);
    if (!b->slots) return SL_ENOMEM;
    for (size_t i = 0; i <= b->mask; i++) b->slots[i] = (struct sl_tok_pair){0, NO_RANK, -1};
    for (int i = 0; i < 256; i++) {
        char byte = (char)i;
        int32_t id = sl_tok_vocab_find_bytes(v, &byte, 1);
        /* DeepSeek has a literal token U+00F8, which is also how the byte f8 would be spelled: not
         * that byte */
        int same = id >= 0 && v->bytes_at[id + 1] - v->bytes_at[id] == 1 &&
                   v->bytes[v->bytes_at[id]] == byte;
        b->byte_id[i] = same ? id : -1;
    }
    return 0;
}

void sl_tok_bpe_close(struct sl_tok_bpe *b)
{
    free(b->slots);
    b->slots = NULL;
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
    int32_t id; /* -1: a byte without a token; pairs with nothing */
    uint32_t
        rank; /* of the pair (this, next); NO_RANK when they do not merge or the symbol is gone */
    int32_t merged;      /* what that pair becomes */
    uint32_t prev, next; /* NO_SYMBOL at the ends */
};

void sl_tok_work_close(struct sl_tok_work *w)
{
    free(w->symbols);
    free(w->heap);
    memset(w, 0, sizeof *w);
}

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

/* Looks up symbol i with its right neighbour; true when they merge. */
static int rank_pair(const struct sl_tok_bpe *b, struct sl_tok_symbol *s, uint32_t i)
{
    const struct sl_tok_pair *p = NULL;
    if (s[i].next != NO_SYMBOL) p = pair_slot(b, pair_key(s[i].id, s[s[i].next].id));
    s[i].rank = p ? p->rank : NO_RANK;
    s[i].merged = p ? p->merged : -1;
    return s[i].rank != NO_RANK;
}

static uint64_t heap_key(const struct sl_tok_symbol *s, uint32_t i)
{
    return (uint64_t)s[i].rank << 32 | i;
}

/* Symbol i swallows its right neighbour. */
static void merge_at(const struct sl_tok_bpe *b, struct sl_tok_work *w, uint32_t i)
{
    struct sl_tok_symbol *s = w->symbols;
    uint32_t gone = s[i].next, after = s[gone].next, before = s[i].prev;
    s[i].id = s[i].merged;
    s[i].next = after;
    s[gone].rank = NO_RANK;
    if (after != NO_SYMBOL) s[after].prev = i;
    if (rank_pair(b, s, i)) heap_push(w, heap_key(s, i));
    if (before != NO_SYMBOL && rank_pair(b, s, before)) heap_push(w, heap_key(s, before));
}

int sl_tok_bpe_encode(const struct sl_tok_bpe *b, struct sl_tok_work *w, const char *piece,
                      size_t n, struct sl_ids *ids)
{
    SL_ASSERT(n <= SL_TOK_TEXT_MAX);
    if (n == 0) return 0;
    if (work_reserve(w, n) != 0) return SL_ENOMEM;
    struct sl_tok_symbol *s = w->symbols;
    for (uint32_t i = 0; i < n; i++) {
        s[i].id = b->byte_id[(uint8_t)piece[i]];
        s[i].prev = i == 0 ? NO_SYMBOL : i - 1;
        s[i].next = i + 1 == n ? NO_SYMBOL : i + 1;
    }
    w->heap_len = 0;
    for (uint32_t i = 0; i < n; i++)
        if (rank_pair(b, s, i)) w->heap[w->heap_len++] = heap_key(s, i);
    for (size_t i = w->heap_len / 2; i-- > 0;) sift_down(w->heap, w->heap_len, i);
    while (w->heap_len > 0) {
        uint64_t top = heap_pop(w);
        uint32_t i = (uint32_t)top;
        if (s[i].rank == top >> 32) merge_at(b, w, i);
    }
    for (uint32_t i = 0; i != NO_SYMBOL; i = s[i].next)
        if (s[i].id >= 0 && sl_ids_push(ids, s[i].id) != 0) return SL_ENOMEM;
    return 0;
}
