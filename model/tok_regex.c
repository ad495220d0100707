/* tok_regex.c - regular expressions on PCRE2: ours, and those of tokenizer.json, whose dialect
 * (Oniguruma's, Ruby syntax) tok_onig.c translates.
 *
 * Limits: an expression from a file may backtrack for ever on some text; each attempt at a place
 * has a budget of steps that grows with the text, and running out of it is an error. Ours have
 * none, since each does linear work: greedy repeats of one class give back one character at a time
 * at most once per run. A text can make PCRE2's JIT run out of its machine stack; the interpreter,
 * which keeps its state on the heap, then takes over. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "model/tok_regex.h"

#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"

#define STEPS_BASE 100000u        /* backtracking steps of one attempt ... */
#define STEPS_PER_BYTE 64u        /* ... and for each byte of the text */
#define HEAP_MAX_KIB (512u << 10) /* what one match may hold */

struct sl_tok_regex {
    pcre2_code *code;
    int ours;
    char shown[64]; /* the beginning, for messages */
};

static int refuse(const char *where, const char *pattern, size_t n, int code, const char *what,
                  struct sl_err *err)
{
    char shown[3 * 60 + 1];
    size_t k = n > 60 ? sl_utf8_whole(pattern, 60) : n;
    shown[sl_utf8_scrub(pattern, k, shown)] = 0;
    return sl_err_set(err, code, "%s: the expression '%s%s' cannot be used: %s", where, shown,
                      k < n ? "..." : "", what);
}

/* Newlines and options as Ruby's dialect has them; the same for our own expressions. */
static int compile(struct sl_tok_regex *re, const char *pattern, size_t n, char why[160])
{
    int code = 0;
    PCRE2_SIZE at = 0;
    pcre2_compile_context *c = pcre2_compile_context_create(NULL);
    if (!c) return SL_ENOMEM;
    pcre2_set_newline(c, PCRE2_NEWLINE_LF);
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
    if (!re->ours) options |= PCRE2_MULTILINE;
    re->code = pcre2_compile((PCRE2_SPTR)pattern, n, options, &code, &at, c);
    pcre2_compile_context_free(c);
    if (re->code) {
        (void)pcre2_jit_compile(re->code, PCRE2_JIT_COMPLETE); /* without JIT it is only slower */
        return 0;
    }
    if (code == PCRE2_ERROR_HEAP_FAILED) return SL_ENOMEM;
    pcre2_get_error_message(code, (PCRE2_UCHAR *)why, 160);
    return SL_EUNSUPPORTED;
}

int sl_tok_regex_open(const char *pattern, size_t n, int ours, const char *where,
                      struct sl_tok_regex **out, struct sl_err *err)
{
    char why[160] = "";
    struct sl_buf text;
    *out = NULL;
    if (n > SL_TOK_REGEX_MAX)
        return sl_err_set(err, SL_ELIMIT, "%s: an expression of %zu bytes; at most %d are possible",
                          where, n, SL_TOK_REGEX_MAX);
    struct sl_tok_regex *re = calloc(1, sizeof *re);
    if (!re) return sl_err_set(err, SL_ENOMEM, "%s: out of memory for an expression", where);
    sl_buf_init(&text, 64 * SL_TOK_REGEX_MAX);
    re->ours = ours;
    size_t k = SL_MIN(sl_utf8_whole(pattern, SL_MIN(n, (size_t)60)), sizeof re->shown / 3);
    re->shown[sl_utf8_scrub(pattern, k, re->shown)] = 0;
    int r = ours ? sl_buf_add(&text, pattern, n) : sl_tok_onig(pattern, n, &text, why);
    if (r == 0) r = compile(re, sl_buf_str(&text), text.len, why);
    SL_ASSERT(!ours || r == 0 || r == SL_ENOMEM);
    sl_buf_close(&text);
    if (r == 0) {
        *out = re;
        return 0;
    }
    sl_tok_regex_close(re);
    if (r == SL_ENOMEM) return sl_err_set(err, r, "%s: out of memory for an expression", where);
    return refuse(where, pattern, n, r, *why ? why : "it is too long", err);
}

void sl_tok_regex_close(struct sl_tok_regex *re)
{
    if (!re) return;
    pcre2_code_free(re->code);
    free(re);
}

/* ---- matching -------------------------------------------------------------------------------- */

struct sl_tok_match {
    pcre2_match_data *data;
    pcre2_match_context *context;
};

void sl_tok_match_close(struct sl_tok_match *m)
{
    if (!m) return;
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    free(m);
}

static struct sl_tok_match *match_open(void)
{
    struct sl_tok_match *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    m->data = pcre2_match_data_create(1, NULL);
    m->context = pcre2_match_context_create(NULL);
    if (!m->data || !m->context) {
        sl_tok_match_close(m);
        return NULL;
    }
    pcre2_set_heap_limit(m->context, HEAP_MAX_KIB);
    return m;
}

static int failed(const struct sl_tok_regex *re, int code, struct sl_err *err)
{
    if (code == PCRE2_ERROR_MATCHLIMIT || code == PCRE2_ERROR_DEPTHLIMIT ||
        code == PCRE2_ERROR_HEAPLIMIT)
        return sl_err_set(err, SL_ELIMIT,
                          "splitting the text: the expression '%s...' of this model's tokenizer "
                          "backtracks without end on it",
                          re->shown);
    PCRE2_UCHAR text[120];
    pcre2_get_error_message(code, text, sizeof text);
    return sl_err_set(err, SL_ENOMEM, "splitting the text into words failed: %s", text);
}

int sl_tok_regex_next(const struct sl_tok_regex *re, struct sl_tok_work *w, const char *s, size_t n,
                      size_t from, size_t *begin, size_t *end, struct sl_err *err)
{
    if (!w->match && !(w->match = match_open()))
        return sl_err_set(err, SL_ENOMEM, "out of memory for splitting the text");
    uint64_t steps = re->ours ? UINT32_MAX : STEPS_BASE + (uint64_t)STEPS_PER_BYTE * n;
    pcre2_set_match_limit(w->match->context, (uint32_t)SL_MIN(steps, (uint64_t)UINT32_MAX));
    int r = pcre2_match(re->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, w->match->data,
                        w->match->context);
    if (r == PCRE2_ERROR_JIT_STACKLIMIT)
        r = pcre2_match(re->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                        w->match->data, w->match->context);
    if (r == PCRE2_ERROR_NOMATCH) return 0;
    if (r < 0) return failed(re, r, err);
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(w->match->data);
    *begin = at[0];
    *end = SL_MAX(at[0], at[1]); /* \K in a lookahead may set the end before the beginning */
    if (*begin < from) return failed(re, PCRE2_ERROR_MATCHLIMIT, err);
    return 1;
}
