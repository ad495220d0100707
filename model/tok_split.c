/* tok_split.c - text is cut into pieces: the pre-tokenizers of tokenizer.json and GGUF.
 *
 * The steps are applied one after the other: each cuts every piece of the one before and sees
 * nothing of the text outside of it. A piece goes through all the steps before the next one is
 * looked for, so one buffer per step is enough for those that rewrite their piece. Recursion is as
 * deep as there are steps. */
#include "model/tok.h"

#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"
#include "model/tok_regex.h"

#define S "[" SL_TOK_WS "]"
#define NOT_S "[^" SL_TOK_WS "]"
const char sl_tok_split_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" SL_TOK_WS
                                 "\\p{L}\\p{N}]+|" S "+(?!" NOT_S ")|" S "+";

struct sl_tok_split_step *sl_tok_split_add(struct sl_tok_split *p, enum sl_tok_split_kind kind,
                                           enum sl_tok_behavior behavior)
{
    if (p->n == SL_TOK_STEPS_MAX) return NULL;
    struct sl_tok_split_step *s = &p->steps[p->n++];
    *s = (struct sl_tok_split_step){.kind = kind, .behavior = behavior};
    return s;
}

void sl_tok_split_close(struct sl_tok_split *p)
{
    for (int i = 0; i < p->n; i++) sl_tok_regex_close(p->steps[i].regex);
    p->n = 0;
}

struct run {
    const struct sl_tok_split *split;
    struct sl_tok_work *work;
    int flags;
    sl_tok_piece_fn fn;
    void *arg;
    struct sl_err *err;
};

static int run_step(const struct run *r, int step, const char *s, size_t n, int first);

/* ---- finding matches ------------------------------------------------------------------------- */

static int next_of_class(const struct sl_tok_split_step *st, const char *s, size_t n, size_t from,
                         size_t *begin, size_t *end)
{
    for (size_t i = from; i < n;) {
        uint32_t cp;
        int k = sl_utf8_get(s + i, n - i, &cp);
        if (st->is(cp)) {
            *begin = i;
            *end = i + (size_t)k;
            return 1;
        }
        i += (size_t)k;
    }
    return 0;
}

static int word_class(const char *s, size_t n, size_t *k)
{
    uint32_t cp;
    *k = (size_t)sl_utf8_get(s, n, &cp);
    return sl_tok_is_word(cp) ? 1 : sl_tok_is_space(cp) ? 0 : 2;
}

static int next_word(const char *s, size_t n, size_t from, size_t *begin, size_t *end)
{
    size_t k;
    int c = 0;
    while (from < n && (c = word_class(s + from, n - from, &k)) == 0) from += k;
    if (from >= n) return 0;
    *begin = *end = from;
    while (*end < n && word_class(s + *end, n - *end, &k) == c) *end += k;
    return 1;
}

/* The next match of the step in s[from..n): 1 and its place, 0 none, or an error. */
static int next_match(const struct run *r, const struct sl_tok_split_step *st, const char *s,
                      size_t n, size_t from, size_t *begin, size_t *end)
{
    const char *hit;
    switch (st->kind) {
    case SL_TOK_SPLIT_REGEX:
        return sl_tok_regex_next(st->regex, r->work, s, n, from, begin, end, r->err);
    case SL_TOK_SPLIT_CLASS:
        return next_of_class(st, s, n, from, begin, end);
    case SL_TOK_SPLIT_WORDS:
        return next_word(s, n, from, begin, end);
    default:
        hit = st->text_n > 0 ? memmem(s + from, n - from, st->text, st->text_n) : NULL;
        if (!hit) return 0;
        *begin = (size_t)(hit - s);
        *end = *begin + st->text_n;
        return 1;
    }
}

/* ---- what becomes of matches and gaps -------------------------------------------------------- */

/* Pieces may grow until it is known that the next stretch does not join them. */
struct joiner {
    const struct run *run;
    int step, first;
    enum sl_tok_behavior behavior;
    int invert;
    const char *s;
    size_t begin, end;   /* the piece that may still grow */
    int held, was_match; /* is there one; was the last stretch a match */
};

static int let_go(struct joiner *j)
{
    if (!j->held) return 0;
    j->held = 0;
    if (j->begin == j->end) return 0;
    return run_step(j->run, j->step + 1, j->s + j->begin, j->end - j->begin,
                    j->first && j->begin == 0);
}

/* Does the stretch join the piece before it? (The rules are those of HF's split.) */
static int joins(const struct joiner *j, int is_match)
{
    switch (j->behavior) {
    case SL_TOK_MERGED_PREVIOUS:
        return is_match && !j->was_match;
    case SL_TOK_MERGED_NEXT:
        return !is_match && j->was_match;
    case SL_TOK_CONTIGUOUS:
        return is_match == j->was_match;
    default:
        return 0;
    }
}

static int stretch(struct joiner *j, size_t begin, size_t end, int is_match)
{
    is_match ^= j->invert;
    if (j->held && joins(j, is_match)) {
        j->end = end;
        j->was_match = is_match;
        return 0;
    }
    int r = let_go(j);
    j->was_match = is_match;
    if (r != 0 || (is_match && j->behavior == SL_TOK_REMOVED)) return r;
    j->begin = begin;
    j->end = end;
    j->held = 1;
    return 0;
}

static int cut(const struct run *r, int step, const char *s, size_t n, int first,
               const struct sl_tok_split_step *st)
{
    struct joiner j = {r, step, first, st->behavior, st->invert, s, 0, 0, 0, 0};
    size_t done = 0, from = 0, b = 0, e = 0;
    int rc = 0, any = 0;
    while (from <= n && (rc = next_match(r, st, s, n, from, &b, &e)) == 1) {
        uint32_t cp;
        from = e;
        if (b == e) { /* an empty match counts, but not where the last match ended */
            from += e < n ? (size_t)sl_utf8_get(s + e, n - e, &cp) : 1;
            if (any && e == done) continue;
        }
        rc = b > done ? stretch(&j, done, b, 0) : 0;
        if (rc == 0) rc = stretch(&j, b, e, 1);
        if (rc != 0) return rc;
        done = e;
        any = 1;
    }
    if (rc >= 0) rc = done < n ? stretch(&j, done, n, 0) : 0;
    return rc ? rc : let_go(&j);
}

/* ---- steps that rewrite ---------------------------------------------------------------------- */

static struct sl_buf *scratch(const struct run *r, int step)
{
    struct sl_buf *b = &r->work->split[step];
    if (b->max == 0) sl_buf_init(b, 2 * SL_TOK_NORMAL_MAX);
    sl_buf_clear(b);
    return b;
}

static int rewritten(const struct run *r, int step, const struct sl_buf *b, int rc, int first)
{
    if (rc == SL_ELIMIT)
        return sl_err_set(r->err, rc, "the text is too long after pre-tokenization");
    return rc ? rc : run_step(r, step + 1, sl_buf_str(b), b->len, first);
}

static int metaspace(const struct run *r, int step, const char *s, size_t n, int first,
                     const struct sl_tok_split_step *st)
{
    struct sl_buf *b = scratch(r, step);
    int starts = s[0] == ' ' || (n >= st->text_n && memcmp(s, st->text, st->text_n) == 0), rc = 0;
    int wants =
        st->scheme == SL_TOK_PREPEND_ALWAYS || (st->scheme == SL_TOK_PREPEND_FIRST && first);
    if (!starts && wants && !(r->flags & SL_TOK_CONTINUES))
        rc = sl_buf_add(b, st->text, st->text_n);
    for (size_t i = 0; i < n && rc == 0;) {
        const char *space = memchr(s + i, ' ', n - i);
        size_t k = space ? (size_t)(space - s) - i : n - i;
        rc = sl_buf_add(b, s + i, k);
        if (rc == 0 && space) rc = sl_buf_add(b, st->text, st->text_n);
        i += k + 1;
    }
    if (rc != 0 || st->behavior == SL_TOK_ISOLATED) return rewritten(r, step, b, rc, first);
    return cut(r, step, sl_buf_str(b), b->len, first, st);
}

static int prefix(const struct run *r, int step, const char *s, size_t n, int first)
{
    if (s[0] == ' ' || (r->flags & SL_TOK_CONTINUES)) return run_step(r, step + 1, s, n, first);
    struct sl_buf *b = scratch(r, step);
    int rc = sl_buf_putc(b, ' ');
    if (rc == 0) rc = sl_buf_add(b, s, n);
    return rewritten(r, step, b, rc, first);
}

static int bytes(const struct run *r, int step, const char *s, size_t n, int first)
{
    struct sl_buf *b = scratch(r, step);
    return rewritten(r, step, b, sl_tok_alphabet_add(b, s, n), first);
}

static int run_step(const struct run *r, int step, const char *s, size_t n, int first)
{
    if (step == r->split->n) return r->fn(r->arg, s, n);
    const struct sl_tok_split_step *st = &r->split->steps[step];
    switch (st->kind) {
    case SL_TOK_SPLIT_METASPACE:
        return metaspace(r, step, s, n, first, st);
    case SL_TOK_SPLIT_PREFIX:
        return prefix(r, step, s, n, first);
    case SL_TOK_SPLIT_BYTES:
        return bytes(r, step, s, n, first);
    default:
        return cut(r, step, s, n, first, st);
    }
}

int sl_tok_split_run(const struct sl_tok_split *p, struct sl_tok_work *w, const char *text,
                     size_t n, int flags, sl_tok_piece_fn fn, void *arg, struct sl_err *err)
{
    struct run r = {p, w, flags, fn, arg, err};
    return n > 0 ? run_step(&r, 0, text, n, flags & SL_TOK_AT_START) : 0;
}
