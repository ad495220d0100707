/* tok_unigram.c - the most probable cut of a piece into tokens (unigram language model, Kudo 2018).
 *
 * Viterbi over the bytes of the piece: the best score that ends at each place and the token it ends
 * with. Characters without a token cost more than the worst token; neighbours of them become one
 * unknown token, or their bytes. */
#include "model/tok.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"

#define UNKNOWN_PENALTY 10.0 /* below the lowest score, as in SentencePiece */

static int is_cut(int type)
{
    return type == SL_TOK_TYPE_NORMAL || type == SL_TOK_TYPE_USER || type == SL_TOK_TYPE_UNDEFINED;
}

int sl_tok_unigram_init(struct sl_tok_unigram *u, const struct sl_tok_vocab *v, double *scores,
                        int32_t unk, int byte_fallback)
{
    int n = 0;
    double lowest = 0;
    int32_t *ids = malloc((size_t)v->n * sizeof *ids);
    u->scores = scores;
    u->unk = unk;
    u->byte_fallback = byte_fallback;
    if (!ids) return SL_ENOMEM;
    for (int i = 0; i < v->n; i++) {
        size_t len;
        const char *text = sl_tok_vocab_text(v, i, &len);
        if (!is_cut(v->type[i]) || i == unk || sl_tok_vocab_find(v, text, len) != i) continue;
        ids[n++] = i;
        lowest = SL_MIN(lowest, scores[i]);
    }
    u->unk_score = lowest - UNKNOWN_PENALTY;
    for (int i = 0; i < 256; i++) {
        char text[8];
        int k = snprintf(text, sizeof text, "<0x%02X>", i);
        u->byte_id[i] = sl_tok_vocab_find(v, text, (size_t)k);
        if (u->byte_id[i] < 0) u->byte_fallback = 0;
    }
    int r = sl_tok_sorted_init(&u->sorted, v, ids, n);
    free(ids);
    return r;
}

void sl_tok_unigram_close(struct sl_tok_unigram *u)
{
    sl_tok_sorted_close(&u->sorted);
    free(u->scores);
    u->scores = NULL;
}

struct sl_tok_lattice {
    double score;
    uint32_t from; /* where the token that ends here begins */
    int32_t id;    /* -1: an unknown character */
};

static int reserve(struct sl_tok_work *w, size_t n)
{
    if (n <= w->lattice_cap) return 0;
    size_t cap = sl_tok_capacity(n);
    struct sl_tok_lattice *l = realloc(w->lattice, cap * sizeof *l);
    if (!l) return SL_ENOMEM;
    w->lattice = l;
    w->lattice_cap = cap;
    return 0;
}

static void offer(struct sl_tok_lattice *to, double score, size_t from, int32_t id)
{
    if (to->from != UINT32_MAX && score <= to->score) return;
    *to = (struct sl_tok_lattice){score, (uint32_t)from, id};
}

static void extend(const struct sl_tok_unigram *u, struct sl_tok_lattice *l, const char *piece,
                   size_t n, size_t at, size_t k)
{
    struct sl_tok_prefixes p = {0};
    int single = 0;
    for (int32_t id; (id = sl_tok_sorted_next(&u->sorted, &p, piece + at, n - at)) >= 0;) {
        single |= p.depth == k;
        offer(&l[at + p.depth], l[at].score + u->scores[id], at, id);
    }
    if (!single) offer(&l[at + k], l[at].score + u->unk_score, at, -1);
}

static int push_unknown(const struct sl_tok_unigram *u, const char *s, size_t n, struct sl_ids *ids)
{
    int r = 0;
    if (!u->byte_fallback) return u->unk >= 0 ? sl_ids_push(ids, u->unk) : 0;
    for (size_t i = 0; i < n && r == 0; i++) r = sl_ids_push(ids, u->byte_id[(uint8_t)s[i]]);
    return r;
}

/* The best way, followed from the end: `from` is turned into the way forward. */
static int push_way(const struct sl_tok_unigram *u, struct sl_tok_lattice *l, const char *piece,
                    size_t n, struct sl_ids *ids)
{
    uint32_t next = UINT32_MAX, at = (uint32_t)n;
    while (at != 0) {
        uint32_t from = l[at].from;
        l[at].from = next;
        next = at;
        at = from;
    }
    int r = 0;
    for (uint32_t begin = 0, end = next; r == 0 && end != UINT32_MAX;) {
        int32_t id = l[end].id;
        uint32_t after = l[end].from;
        while (id < 0 && after != UINT32_MAX && l[after].id < 0) { /* unknown ones together */
            end = after;
            after = l[end].from;
        }
        r = id >= 0 ? sl_ids_push(ids, id) : push_unknown(u, piece + begin, end - begin, ids);
        begin = end;
        end = after;
    }
    return r;
}

int sl_tok_unigram_encode(const struct sl_tok_unigram *u, struct sl_tok_work *w, const char *piece,
                          size_t n, struct sl_ids *ids)
{
    SL_ASSERT(n < UINT32_MAX);
    if (n == 0) return 0;
    if (reserve(w, n + 1) != 0) return SL_ENOMEM;
    struct sl_tok_lattice *l = w->lattice;
    for (size_t i = 0; i <= n; i++) l[i] = (struct sl_tok_lattice){0, UINT32_MAX, -1};
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t k = (size_t)sl_utf8_get(piece + i, n - i, &cp);
        extend(u, l, piece, n, i, k);
        i += k;
    }
    return push_way(u, l, piece, n, ids);
}
