/* tok_sorted.c - tokens in the order of their bytes: all those that begin a text are found by
 * narrowing a range byte by byte, with no memory but the order itself. */
#include "model/tok.h"

#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"

static int by_bytes(const void *a, const void *b, void *vocab)
{
    const struct sl_tok_vocab *v = vocab;
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    size_t nx, ny;
    const char *tx = sl_tok_vocab_text(v, x, &nx), *ty = sl_tok_vocab_text(v, y, &ny);
    int c = memcmp(tx, ty, SL_MIN(nx, ny));
    if (c != 0) return c;
    if (nx != ny) return nx < ny ? -1 : 1;
    return x < y ? -1 : x > y;
}

int sl_tok_sorted_init(struct sl_tok_sorted *s, const struct sl_tok_vocab *v, const int32_t *ids,
                       int n)
{
    memset(s, 0, sizeof *s);
    s->vocab = v;
    s->ids = malloc(((size_t)n + 1) * sizeof *s->ids);
    if (!s->ids) return SL_ENOMEM;
    for (int i = 0; i < n; i++) /* an empty one would be found everywhere */
        if (v->text_at[ids[i] + 1] > v->text_at[ids[i]]) s->ids[s->n++] = ids[i];
    qsort_r(s->ids, (size_t)s->n, sizeof *s->ids, by_bytes, (void *)v);
    for (int i = 0; i < s->n; i++) s->first[(uint8_t)v->text[v->text_at[s->ids[i]]] + 1] = i + 1;
    for (int b = 0; b < 256; b++) s->first[b + 1] = SL_MAX(s->first[b], s->first[b + 1]);
    return 0;
}

void sl_tok_sorted_close(struct sl_tok_sorted *s)
{
    free(s->ids);
    memset(s, 0, sizeof *s);
}

/* In ids[lo..hi), which agree in their first `depth` bytes: the first one whose byte `depth` is >=
 * c. The shortest, which has no such byte, comes first. */
static int lower(const struct sl_tok_sorted *s, int lo, int hi, size_t depth, int c)
{
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        size_t len;
        const char *t = sl_tok_vocab_text(s->vocab, s->ids[mid], &len);
        int b = len > depth ? (uint8_t)t[depth] : -1;
        if (b < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

int32_t sl_tok_sorted_next(const struct sl_tok_sorted *s, struct sl_tok_prefixes *at,
                           const char *text, size_t n)
{
    while (at->depth < n) {
        int c = (uint8_t)text[at->depth];
        at->lo = at->depth == 0 ? s->first[c] : lower(s, at->lo, at->hi, at->depth, c);
        at->hi = at->depth == 0 ? s->first[c + 1] : lower(s, at->lo, at->hi, at->depth, c + 1);
        at->depth++;
        if (at->lo >= at->hi) {
            at->depth = n;
            return -1;
        }
        int32_t found = -1;
        size_t len;
        for (int i = at->lo; i < at->hi; i++) {
            (void)sl_tok_vocab_text(s->vocab, s->ids[i], &len);
            if (len != at->depth) break;
            found = s->ids[i];
        }
        if (found >= 0) return found;
    }
    return -1;
}
