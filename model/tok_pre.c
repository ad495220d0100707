/* tok_pre.c - what happens to text before merging: special tokens are found, the rest is split into
 * pieces.
 *
 * A pre-tokenizer is one or more regular expressions applied one after the other: each splits every
 * piece of the one before into its matches and the gaps between them, and sees nothing of the text
 * outside the piece. The expressions are part of the models they come with (published in their
 * tokenizer files); they are spelled here for PCRE2.
 *
 * Failures: a text can make PCRE2's JIT run out of its machine stack; the interpreter, which keeps
 * its state on the heap, then takes over. The match limit is off, since every expression here does
 * linear work on any text: greedy repeats of one class give back one character at a time at most
 * once per run. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "model/tok.h"

#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"

/* ---- expressions ----------------------------------------------------------------------------- */

/* Unicode's White_Space. PCRE2's own \s has U+180E besides, which stopped being a space in
 * Unicode 6.3. */
#define WS "\\t-\\r\\x{85}\\p{Z}"
#define S "[" WS "]"
#define NOT_S "[^" WS "]"

/* Space runs leave their last character to the word behind them. */
#define SPACES S "+(?!" NOT_S ")|" S "+"
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|" SPACES
#define LLAMA3(digits)                                                                             \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^" WS                \
    "\\p{L}\\p{N}]+[\\r\\n]*|" S "*[\\r\\n]+|" SPACES

/* The letters of DeepSeek LLM's expression: scripts with case, as its tokenizer file lists them. */
#define CASED                                                                                      \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}"                 \
    "\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}"                          \
    "\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}"                  \
    "\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}"                         \
    "\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}"                 \
    "\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}"                 \
    "\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}"                 \
    "\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}"                            \
    "\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}"                           \
    "\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}"                 \
    "\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}"                  \
    "\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}"                   \
    "\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}"                  \
    "\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}"                  \
    "\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}"                  \
    "\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}"                 \
    "\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}"               \
    "\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}"                              \
    "\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"

#define STEPS_MAX 6

struct pre_row {
    const char *
        names; /* values of tokenizer.ggml.pre, separated by spaces; the first is the one to show */
    int whole_words, adds_bos;
    const char *steps[STEPS_MAX];
};

static const struct pre_row pre_rows[] = {
    {"gpt-2 phi-2 modern-bert mellum gigachat", 0, 0, {GPT2}},
    {"llama-bpe llama3 llama-v3 falcon3 pixtral", 1, 1, {LLAMA3("\\p{N}{1,3}")}},
    {"qwen2 deepseek-r1-qwen", 0, 0, {LLAMA3("\\p{N}")}},
    {"smollm starcoder refact command-r codeshell", 0, 0, {"\\p{N}", GPT2}},
    {"default", 0, 0, {"[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {"deepseek-llm",
     0,
     0,
     {"[\\r\\n]", S "?[" CASED "]+",
      S "?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
      /* spaces at the end of a piece; (*SKIP) keeps a long run elsewhere from being tried at each
         of its places */
      S "++(?:\\z|(*SKIP)(*FAIL))", "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+",
      "\\p{N}+"}},
};

struct sl_tok_pre {
    const struct pre_row *row;
    int n_steps;
    pcre2_code *steps[STEPS_MAX];
    pcre2_match_context *context;
};

static const struct pre_row *find_row(const char *name, size_t n)
{
    for (size_t i = 0; i < SL_ARRAY_LEN(pre_rows); i++) {
        for (const char *p = pre_rows[i].names; *p;) {
            size_t len = strcspn(p, " ");
            if (len == n && memcmp(p, name, n) == 0) return &pre_rows[i];
            p += len;
            p += strspn(p, " ");
        }
    }
    return NULL;
}

static int unknown_pre(const char *name, size_t n, const char *where, struct sl_err *err)
{
    char known[SL_ERR_MSG_MAX / 2] = "", shown[3 * 32 + 1];
    size_t w = 0;
    for (size_t i = 0; i < SL_ARRAY_LEN(pre_rows); i++) {
        size_t len = strcspn(pre_rows[i].names, " ");
        if (w + len + 3 > sizeof known) break;
        if (i > 0) w += (size_t)sl_utf8_put(' ', known + w);
        memcpy(known + w, pre_rows[i].names, len + 1);
        w += len;
    }
    known[w] = 0;
    shown[sl_utf8_scrub(name, SL_MIN(n, (size_t)32), shown)] = 0;
    return sl_err_set(
        err, SL_EUNSUPPORTED,
        "%s: tokenizer.ggml.pre '%s' is a pre-tokenizer that is not known here (known: "
        "%s); its text would be split wrongly",
        where, shown, known);
}

static pcre2_code *compile(const char *expression)
{
    int code;
    PCRE2_SIZE at;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)expression, PCRE2_ZERO_TERMINATED,
                                   PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    /* the expressions are ours: only memory can be wrong */
    SL_ASSERT(re || code == PCRE2_ERROR_HEAP_FAILED);
    if (re) (void)pcre2_jit_compile(re, PCRE2_JIT_COMPLETE); /* without JIT it is only slower */
    return re;
}

int sl_tok_pre_open(const char *name, size_t n, const char *where, struct sl_tok_pre **out,
                    struct sl_err *err)
{
    *out = NULL;
    const struct pre_row *row = find_row(name, n);
    if (!row) return unknown_pre(name, n, where, err);
    struct sl_tok_pre *p = calloc(1, sizeof *p);
    if (!p) goto no_memory;
    p->row = row;
    p->context = pcre2_match_context_create(NULL);
    if (!p->context) goto no_memory;
    pcre2_set_match_limit(p->context, UINT32_MAX);
    while (p->n_steps < STEPS_MAX && row->steps[p->n_steps]) {
        p->steps[p->n_steps] = compile(row->steps[p->n_steps]);
        if (!p->steps[p->n_steps]) goto no_memory;
        p->n_steps++;
    }
    *out = p;
    return 0;
no_memory:
    sl_tok_pre_close(p);
    return sl_err_set(err, SL_ENOMEM, "%s: out of memory for the pre-tokenizer", where);
}

void sl_tok_pre_close(struct sl_tok_pre *p)
{
    if (!p) return;
    for (int i = 0; i < p->n_steps; i++) pcre2_code_free(p->steps[i]);
    pcre2_match_context_free(p->context);
    free(p);
}

int sl_tok_pre_whole_words(const struct sl_tok_pre *p)
{
    return p->row->whole_words;
}

int sl_tok_pre_adds_bos(const struct sl_tok_pre *p)
{
    return p->row->adds_bos;
}

/* ---- splitting ------------------------------------------------------------------------------- */

struct split {
    const struct sl_tok_pre *pre;
    pcre2_match_data *match;
    sl_tok_piece_fn fn;
    void *arg;
    struct sl_err *err;
};

/* The next match of step `step` in s[from..n): 1 and its place, 0 none, or an error. */
static int next_match(const struct split *sp, int step, const char *s, size_t n, size_t from,
                      size_t *begin, size_t *end)
{
    const pcre2_code *re = sp->pre->steps[step];
    int r =
        pcre2_match(re, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, sp->match, sp->pre->context);
    if (r == PCRE2_ERROR_JIT_STACKLIMIT)
        r = pcre2_match(re, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, sp->match,
                        sp->pre->context);
    if (r == PCRE2_ERROR_NOMATCH) return 0;
    if (r < 0) {
        PCRE2_UCHAR text[120];
        pcre2_get_error_message(r, text, sizeof text);
        return sl_err_set(sp->err, SL_ENOMEM, "splitting the text into words failed: %s", text);
    }
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(sp->match);
    *begin = at[0];
    *end = at[1];
    SL_ASSERT(*begin >= from && *end > *begin && *end <= n);
    return 1;
}

/* Steps step.. of the piece s[0..n), n > 0. Recursion is as deep as the table is wide, whatever the
 * text. */
static int split_piece(const struct split *sp, int step, const char *s, size_t n)
{
    if (step == sp->pre->n_steps) return sp->fn(sp->arg, s, n);
    for (size_t pos = 0; pos < n;) {
        size_t begin = n, end = n;
        int r = next_match(sp, step, s, n, pos, &begin, &end);
        if (r < 0) return r;
        if (begin > pos && (r = split_piece(sp, step + 1, s + pos, begin - pos)) != 0) return r;
        if (end > begin && (r = split_piece(sp, step + 1, s + begin, end - begin)) != 0) return r;
        pos = end;
    }
    return 0;
}

int sl_tok_pre_split(const struct sl_tok_pre *p, const char *text, size_t n, sl_tok_piece_fn fn,
                     void *arg, struct sl_err *err)
{
    struct split sp = {p, pcre2_match_data_create(1, NULL), fn, arg, err};
    if (!sp.match) return sl_err_set(err, SL_ENOMEM, "out of memory for splitting the text");
    int r = n > 0 ? split_piece(&sp, 0, text, n) : 0;
    pcre2_match_data_free(sp.match);
    return r;
}

/* ---- special tokens -------------------------------------------------------------------------- */

static const char *literal(const struct sl_tok_vocab *v, int32_t id, size_t *len)
{
    *len = v->text_at[id + 1] - v->text_at[id];
    return v->text + v->text_at[id];
}

static int by_bytes(const void *a, const void *b, void *vocab)
{
    const struct sl_tok_vocab *v = vocab;
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    size_t nx, ny;
    const char *tx = literal(v, x, &nx), *ty = literal(v, y, &ny);
    int c = memcmp(tx, ty, SL_MIN(nx, ny));
    if (c != 0) return c;
    if (nx != ny) return nx < ny ? -1 : 1;
    return x < y ? -1 : 1;
}

int sl_tok_specials_init(struct sl_tok_specials *s, const struct sl_tok_vocab *v)
{
    memset(s, 0, sizeof *s);
    s->vocab = v;
    int n = 0;
    for (int i = 0; i < v->n; i++) n += sl_tok_literal(v->type[i]);
    s->ids = malloc(((size_t)n + 1) * sizeof *s->ids);
    if (!s->ids) return SL_ENOMEM;
    for (int i = 0; i < v->n; i++)
        if (sl_tok_literal(v->type[i]) && v->text_at[i + 1] > v->text_at[i]) s->ids[s->n++] = i;
    qsort_r(s->ids, (size_t)s->n, sizeof *s->ids, by_bytes, (void *)v);
    for (int i = 0; i < s->n; i++) {
        uint8_t b = (uint8_t)v->text[v->text_at[s->ids[i]]];
        s->begins[b] |= v->type[s->ids[i]] == SL_TOK_TYPE_USER ? 3 : 2;
        s->first[b + 1] = i + 1;
    }
    for (int b = 0; b < 256; b++) s->first[b + 1] = SL_MAX(s->first[b], s->first[b + 1]);
    return 0;
}

void sl_tok_specials_close(struct sl_tok_specials *s)
{
    free(s->ids);
    memset(s, 0, sizeof *s);
}

/* In ids[lo..hi), which agree in their first `depth` bytes: the first one whose byte `depth` is >=
 * c. The shortest, which has no such byte, comes first. */
static int lower(const struct sl_tok_specials *s, int lo, int hi, size_t depth, int c)
{
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        size_t len;
        const char *t = literal(s->vocab, s->ids[mid], &len);
        int b = len > depth ? (uint8_t)t[depth] : -1;
        if (b < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The longest special token at the beginning of text[0..n), n > 0. */
static int32_t longest(const struct sl_tok_specials *s, const char *text, size_t n, int all,
                       size_t *len)
{
    uint8_t b = (uint8_t)text[0];
    int lo = s->first[b], hi = s->first[b + 1];
    int32_t found = -1;
    for (size_t depth = 1; lo < hi; depth++) {
        size_t l;
        for (int i = lo; i < hi && (literal(s->vocab, s->ids[i], &l), l == depth); i++) {
            if (!all && s->vocab->type[s->ids[i]] != SL_TOK_TYPE_USER) continue;
            found = s->ids[i];
            *len = depth;
        }
        if (depth == n) break;
        int c = (uint8_t)text[depth];
        lo = lower(s, lo, hi, depth, c);
        hi = lower(s, lo, hi, depth, c + 1);
    }
    return found;
}

int32_t sl_tok_specials_next(const struct sl_tok_specials *s, const char *text, size_t from,
                             size_t n, int all, size_t *at, size_t *len)
{
    uint8_t mask = all ? 2 : 1;
    for (size_t i = from; i < n; i++) {
        if (!(s->begins[(uint8_t)text[i]] & mask)) continue;
        int32_t id = longest(s, text + i, n - i, all, len);
        if (id >= 0) {
            *at = i;
            return id;
        }
    }
    return -1;
}
