/* tmpl_lex.c - chat template source to tokens, with Jinja's rules for white space.
 *
 * trim_blocks and lstrip_blocks are on: the newline after a block or comment tag goes, and so does
 * the blank space between the start of a line and such a tag; "-" inside a delimiter strips
 * everything blank on that side, "+" keeps it all. Line ends are normalised to \n first and one
 * final newline is dropped. */
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "model/tmpl.h"

#define BRACKETS_MAX 1000 /* open brackets inside one tag */

struct lexer {
    struct sl_arena *mem;
    const char *s;
    size_t n, pos;
    size_t counted; /* line counts the newlines of s[0..counted) */
    uint32_t line;
    int line_start; /* the previous tag ended with a newline, or there was none */
    struct sl_tmpl_token *tokens;
    size_t n_tokens, cap;
    struct sl_err *err;
};

static uint32_t line_at(struct lexer *x, size_t pos)
{
    for (; x->counted < pos; x->counted++)
        if (x->s[x->counted] == '\n') x->line++;
    return x->line;
}

static int fail(struct lexer *x, const char *what)
{
    return sl_err_set(x->err, SL_EINPUT, "chat template, line %u: %s", line_at(x, x->pos), what);
}

static struct sl_tmpl_token *push(struct lexer *x, int type)
{
    if (x->n_tokens == x->cap) {
        size_t cap = x->cap ? x->cap * 2 : 64;
        struct sl_tmpl_token *p = sl_arena_alloc(x->mem, cap * sizeof *p);
        if (!p) {
            fail(x, "the template is too large");
            return NULL;
        }
        if (x->n_tokens) memcpy(p, x->tokens, x->n_tokens * sizeof *p);
        x->tokens = p;
        x->cap = cap;
    }
    struct sl_tmpl_token *t = &x->tokens[x->n_tokens++];
    *t = (struct sl_tmpl_token){.type = (uint8_t)type, .line = line_at(x, x->pos)};
    return t;
}

static int blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static int name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           (unsigned char)c >= 0x80;
}

static int digit(char c)
{
    return c >= '0' && c <= '9';
}

static int at(const struct lexer *x, size_t pos, const char *what)
{
    size_t m = strlen(what);
    return pos + m <= x->n && memcmp(x->s + pos, what, m) == 0;
}

static size_t skip_blank(const struct lexer *x, size_t pos)
{
    while (pos < x->n && blank(x->s[pos])) pos++;
    return pos;
}

/* Emits text [from, to), stripped for the tag that follows it. sign is '-', '+' or 0. */
static int push_data(struct lexer *x, size_t from, size_t to, char sign, int print)
{
    size_t end = to;
    if (sign == '-') {
        while (end > from && blank(x->s[end - 1])) end--;
    } else if (sign != '+' && !print) {
        size_t l = to;
        while (l > from && x->s[l - 1] != '\n' && blank(x->s[l - 1])) l--;
        if (l > from ? x->s[l - 1] == '\n' : x->line_start) end = l;
    }
    if (end == from) return 0;
    size_t pos = x->pos;
    x->pos = from;
    struct sl_tmpl_token *t = push(x, TK_DATA);
    x->pos = pos;
    if (!t) return SL_EINPUT;
    t->val = (struct sl_tv){.type = TV_STR, .n = (uint32_t)(end - from), .u.s = x->s + from};
    return 0;
}

/* After the two characters that close a block or comment: what trim_blocks takes. */
static size_t after_close(const struct lexer *x, size_t pos, char sign)
{
    if (sign == '-') return skip_blank(x, pos);
    if (sign != '+' && pos < x->n && x->s[pos] == '\n') return pos + 1;
    return pos;
}

static void tag_done(struct lexer *x, size_t pos)
{
    x->line_start = pos > 0 && x->s[pos - 1] == '\n';
    x->pos = pos;
}

static int lex_comment(struct lexer *x)
{
    for (size_t p = x->pos; p + 1 < x->n; p++)
        if (x->s[p] == '#' && x->s[p + 1] == '}') {
            char sign = p > x->pos ? x->s[p - 1] : 0;
            tag_done(x, after_close(x, p + 2, sign));
            return 0;
        }
    return fail(x, "a comment is not closed: '#}' is missing");
}

/* At "{%", sign optional: is it `raw` up to its end? Returns the position behind it, 0 when it is
 * something else. */
static size_t raw_word(const struct lexer *x, size_t pos, const char *word, char *sign,
                       char *end_sign)
{
    pos += 2;
    *sign = *end_sign = 0;
    if (pos < x->n && (x->s[pos] == '-' || x->s[pos] == '+')) *sign = x->s[pos++];
    pos = skip_blank(x, pos);
    if (!at(x, pos, word)) return 0;
    pos = skip_blank(x, pos + strlen(word));
    if (pos < x->n && (x->s[pos] == '-' || x->s[pos] == '+')) *end_sign = x->s[pos++];
    return at(x, pos, "%}") ? pos + 2 : 0;
}

static int lex_raw(struct lexer *x, size_t body)
{
    x->line_start = 0;
    for (size_t p = body; p + 1 < x->n; p++) {
        char sign, end_sign;
        if (x->s[p] != '{' || x->s[p + 1] != '%') continue;
        size_t end = raw_word(x, p, "endraw", &sign, &end_sign);
        if (!end) continue;
        int rc = push_data(x, body, p, sign, 0);
        tag_done(x, after_close(x, end, end_sign));
        return rc;
    }
    return fail(x, "a raw block is not closed: '{% endraw %}' is missing");
}

/* ---- inside a tag ---------------------------------------------------------------------------- */

static unsigned hex_value(const char *s, int n, int *ok)
{
    unsigned v = 0;
    *ok = 1;
    for (int i = 0; i < n; i++) {
        char c = s[i];
        unsigned d = digit(c)               ? (unsigned)(c - '0')
                     : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a' + 10)
                     : c >= 'A' && c <= 'F' ? (unsigned)(c - 'A' + 10)
                                            : 99;
        if (d == 99) {
            *ok = 0;
            return 0;
        }
        v = v * 16 + d;
    }
    return v;
}

/* One escape at s[0] == '\\', n >= 2: writes its text to out, returns the bytes read, 0 when it is
 * malformed. */
static size_t unescape_one(const char *s, size_t n, char *out, size_t *written)
{
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    *written = 0;
    const char *f = memchr(from, s[1], sizeof from - 1);
    if (f) {
        out[(*written)++] = to[f - from];
        return 2;
    }
    if (s[1] == '\n') return 2;
    if (s[1] >= '0' && s[1] <= '7') {
        unsigned v = 0;
        size_t i = 1;
        for (; i < n && i < 4 && s[i] >= '0' && s[i] <= '7'; i++)
            v = v * 8 + (unsigned)(s[i] - '0');
        *written = (size_t)sl_utf8_put(v, out);
        return i;
    }
    int digits = s[1] == 'x' ? 2 : s[1] == 'u' ? 4 : s[1] == 'U' ? 8 : 0, ok;
    if (digits) {
        if (n < (size_t)digits + 2) return 0;
        unsigned v = hex_value(s + 2, digits, &ok);
        if (!ok || v > 0x10ffff) return 0;
        *written = (size_t)sl_utf8_put(v >= 0xd800 && v < 0xe000 ? 0xfffd : v, out);
        return (size_t)digits + 2;
    }
    out[0] = '\\'; /* Python keeps what it does not know */
    *written = 1;
    return 1;
}

static int lex_string(struct lexer *x)
{
    char quote = x->s[x->pos];
    size_t p = x->pos + 1;
    int escapes = 0;
    while (p < x->n && x->s[p] != quote) {
        if (x->s[p] == '\\') {
            escapes = 1;
            p++;
        }
        p++;
    }
    if (p >= x->n) return fail(x, "a string is not closed");
    const char *s = x->s + x->pos + 1;
    size_t n = (size_t)(x->s + p - s), len = 0;
    struct sl_tmpl_token *t = push(x, TK_STR);
    if (!t) return SL_EINPUT;
    if (!escapes) {
        t->val = (struct sl_tv){.type = TV_STR, .n = (uint32_t)n, .u.s = s};
    } else {
        char *d = sl_arena_alloc(x->mem, n + 4);
        if (!d) return fail(x, "the template is too large");
        for (size_t i = 0, w, step; i < n; i += step) {
            if (s[i] != '\\') {
                d[len++] = s[i];
                step = 1;
                continue;
            }
            step = unescape_one(s + i, n - i, d + len, &w);
            if (!step) return fail(x, "a string has a malformed \\x, \\u or \\U escape");
            len += w;
        }
        t->val = (struct sl_tv){.type = TV_STR, .n = (uint32_t)len, .u.s = d};
    }
    x->pos = p + 1;
    return 0;
}

/* Length of digits with single underscores between them, 0 when there are none. */
static size_t digits_at(const struct lexer *x, size_t pos)
{
    size_t p = pos;
    while (p < x->n && (digit(x->s[p]) || (x->s[p] == '_' && p > pos && p + 1 < x->n &&
                                           digit(x->s[p + 1]) && x->s[p - 1] != '_')))
        p++;
    return p - pos;
}

static int lex_number(struct lexer *x)
{
    size_t p = x->pos, d = digits_at(x, p), f;
    int is_float = 0, base = 10;
    char c = p + 1 < x->n && x->s[p] == '0' ? (char)(x->s[p + 1] | 32) : 0;
    if (c == 'x' || c == 'o' || c == 'b') {
        base = c == 'x' ? 16 : c == 'o' ? 8 : 2;
        for (p += 2; p < x->n && name_char(x->s[p]);) p++;
    } else {
        p += d;
        int after_dot = x->pos > 0 && x->s[x->pos - 1] == '.';
        if (!after_dot && p < x->n && x->s[p] == '.' && (f = digits_at(x, p + 1)) > 0) {
            is_float = 1;
            p += 1 + f;
        }
        if (!after_dot && p < x->n && (x->s[p] | 32) == 'e') {
            size_t e = p + 1;
            if (e < x->n && (x->s[e] == '+' || x->s[e] == '-')) e++;
            if ((f = digits_at(x, e)) > 0) {
                is_float = 1;
                p = e + f;
            }
        }
    }
    struct sl_tmpl_token *t = push(x, is_float ? TK_FLOAT : TK_INT);
    if (!t) return SL_EINPUT;
    const char *s = x->s + x->pos;
    if (is_float) {
        t->val = TV_MAKE_FLOAT(0);
        if (sl_tmpl_to_float(s, (size_t)(x->s + p - s), &t->val.u.f))
            return fail(x, "malformed number");
    } else {
        t->val = TV_MAKE_INT(0);
        int rc = sl_tmpl_to_int(s, (size_t)(x->s + p - s), base, &t->val.u.i);
        if (rc) return fail(x, rc == 2 ? "an integer does not fit in 64 bits" : "malformed number");
    }
    x->pos = p;
    return 0;
}

static int operator_at(const struct lexer *x, size_t pos, size_t *len)
{
    static const struct {
        const char *text;
        int op;
    } table[] = {
        {"//", OP_FLOORDIV}, {"**", OP_POW},     {"==", OP_EQ},      {"!=", OP_NE},
        {">=", OP_GE},       {"<=", OP_LE},      {"+", OP_ADD},      {"-", OP_SUB},
        {"*", OP_MUL},       {"/", OP_DIV},      {"%", OP_MOD},      {"~", OP_TILDE},
        {"<", OP_LT},        {">", OP_GT},       {"=", OP_ASSIGN},   {".", OP_DOT},
        {",", OP_COMMA},     {":", OP_COLON},    {"|", OP_PIPE},     {"(", OP_LPAREN},
        {")", OP_RPAREN},    {"[", OP_LBRACKET}, {"]", OP_RBRACKET}, {"{", OP_LBRACE},
        {"}", OP_RBRACE},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (at(x, pos, table[i].text)) {
            *len = strlen(table[i].text);
            return table[i].op;
        }
    return OP_NONE;
}

/* At the end of the tag? Returns the position behind it, 0 when not. */
static size_t tag_end(const struct lexer *x, size_t pos, int print)
{
    char sign = 0;
    const char *close = print ? "}}" : "%}";
    if (x->s[pos] == '-' || (x->s[pos] == '+' && !print)) sign = x->s[pos++];
    if (!at(x, pos, close)) return 0;
    if (print) return sign == '-' ? skip_blank(x, pos + 2) : pos + 2;
    return after_close(x, pos + 2, sign);
}

static int lex_operator(struct lexer *x, char *open, int *depth)
{
    size_t len;
    int op = operator_at(x, x->pos, &len);
    if (op == OP_NONE) return fail(x, "unexpected character in an expression");
    char c = x->s[x->pos];
    if (op == OP_LPAREN || op == OP_LBRACKET || op == OP_LBRACE) {
        if (*depth == BRACKETS_MAX) return fail(x, "brackets are nested too deeply");
        open[(*depth)++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (op == OP_RPAREN || op == OP_RBRACKET || op == OP_RBRACE) {
        if (*depth == 0 || open[*depth - 1] != c)
            return fail(x, "a closing bracket does not match an opening one");
        --*depth;
    }
    struct sl_tmpl_token *t = push(x, TK_OP);
    if (!t) return SL_EINPUT;
    t->op = (uint8_t)op;
    x->pos += len;
    return 0;
}

static int lex_tag(struct lexer *x, int print)
{
    char open[BRACKETS_MAX];
    int depth = 0;
    for (;;) {
        int rc = 0;
        x->pos = skip_blank(x, x->pos);
        if (x->pos >= x->n) return fail(x, print ? "'}}' is missing" : "'%}' is missing");
        size_t end = depth ? 0 : tag_end(x, x->pos, print);
        if (end) {
            if (!push(x, print ? TK_PRINT_END : TK_BLOCK_END)) return SL_EINPUT;
            tag_done(x, end);
            return 0;
        }
        char c = x->s[x->pos];
        if (digit(c)) {
            rc = lex_number(x);
        } else if (name_char(c)) {
            size_t p = x->pos;
            struct sl_tmpl_token *t = push(x, TK_NAME);
            if (!t) return SL_EINPUT;
            while (p < x->n && name_char(x->s[p])) p++;
            t->val =
                (struct sl_tv){.type = TV_STR, .n = (uint32_t)(p - x->pos), .u.s = x->s + x->pos};
            x->pos = p;
        } else {
            rc = c == '\'' || c == '"' ? lex_string(x) : lex_operator(x, open, &depth);
        }
        if (rc) return rc;
    }
}

/* The next "{{", "{%" or "{#" at or behind pos; n when there is none. */
static size_t next_tag(const struct lexer *x, size_t pos)
{
    for (; pos + 1 < x->n; pos++) {
        const char *b = memchr(x->s + pos, '{', x->n - 1 - pos);
        if (!b) break;
        pos = (size_t)(b - x->s);
        if (b[1] == '{' || b[1] == '%' || b[1] == '#') return pos;
    }
    return x->n;
}

static int lex_all(struct lexer *x)
{
    while (x->pos < x->n) {
        size_t from = x->pos, tag = next_tag(x, from);
        if (tag == x->n) return push_data(x, from, tag, '+', 0);
        char kind = x->s[tag + 1], sign = tag + 2 < x->n ? x->s[tag + 2] : 0, s1, s2;
        if (sign != '-' && sign != '+') sign = 0;
        int rc = push_data(x, from, tag, sign, kind == '{');
        if (rc) return rc;
        x->pos = tag;
        size_t raw = kind == '%' ? raw_word(x, tag, "raw", &s1, &s2) : 0;
        if (raw) {
            rc = lex_raw(x, s2 == '-' ? skip_blank(x, raw) : raw);
        } else if (kind == '#') {
            x->pos = tag + 2 + (sign != 0);
            rc = lex_comment(x);
        } else {
            if (!push(x, kind == '{' ? TK_PRINT_BEGIN : TK_BLOCK_BEGIN)) return SL_EINPUT;
            x->pos = tag + 2 + (sign != 0);
            rc = lex_tag(x, kind == '{');
        }
        if (rc) return rc;
    }
    return 0;
}

int sl_tmpl_lex(struct sl_arena *a, const char *source, size_t n, struct sl_tmpl_token **tokens,
                struct sl_err *err)
{
    struct lexer x = {.mem = a, .line = 1, .line_start = 1, .err = err};
    char *s = sl_arena_alloc(a, n + 1);
    if (!s) return fail(&x, "the template is too large");
    for (size_t i = 0; i < n; i++) {
        if (source[i] == '\r') {
            s[x.n++] = '\n';
            if (i + 1 < n && source[i + 1] == '\n') i++;
        } else {
            s[x.n++] = source[i];
        }
    }
    if (x.n && s[x.n - 1] == '\n') x.n--;
    x.s = s;
    int rc = lex_all(&x);
    if (rc) return rc;
    x.pos = x.n;
    if (!push(&x, TK_EOF)) return SL_EINPUT;
    *tokens = x.tokens;
    return 0;
}
