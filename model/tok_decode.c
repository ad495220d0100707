/* tok_decode.c - what bytes each token stands for: the decoders of tokenizer.json and of GGUF.
 *
 * Every decoder that real models use works on one token at a time, but for the spaces that the
 * beginning of a text loses; so the bytes are made once, at opening, and streaming is a matter of
 * putting them one after the other (detok.c). */
#include "model/tok.h"

#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"

int sl_tok_alphabet_add(struct sl_buf *out, const char *s, size_t n)
{
    if (sl_buf_reserve(out, n) != 0 && out->len + n > out->max) return SL_ELIMIT;
    for (size_t i = 0; i < n; i++) {
        char c[4];
        uint8_t b = (uint8_t)s[i];
        int r = b >= 33 && b < 127 ? sl_buf_putc(out, s[i])
                                   : sl_buf_add(out, c, (size_t)sl_utf8_put(sl_tok_alphabet(b), c));
        if (r != 0) return r;
    }
    return 0;
}

static int replace(struct sl_buf *out, const char *s, size_t n, const char *from, size_t from_n,
                   const char *to, size_t to_n)
{
    size_t at = 0;
    int r = 0;
    for (const char *hit; r == 0 && from_n > 0; at = (size_t)(hit - s) + from_n) {
        hit = memmem(s + at, n - at, from, from_n);
        if (!hit) break;
        r = sl_buf_add(out, s + at, (size_t)(hit - s) - at);
        if (r == 0) r = sl_buf_add(out, to, to_n);
    }
    return r ? r : sl_buf_add(out, s + at, n - at);
}

static int hex(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int byte_token(struct sl_buf *out, const char *s, size_t n)
{
    if (n == 6 && memcmp(s, "<0x", 3) == 0 && s[5] == '>' && hex(s[3]) >= 0 && hex(s[4]) >= 0)
        return sl_buf_putc(out, (char)(hex(s[3]) << 4 | hex(s[4])));
    return sl_buf_add(out, s, n);
}

/* All characters are of the byte alphabet, or the token is taken as it is written. */
static int alphabet_token(struct sl_buf *out, const char *s, size_t n)
{
    size_t before = out->len;
    int r = sl_buf_reserve(out, n);
    for (size_t i = 0; i < n && r == 0;) {
        uint32_t cp;
        int k = sl_utf8_get(s + i, n - i, &cp), byte = sl_tok_alphabet_byte(cp);
        if (byte < 0 || (k == 1 && cp == 0xfffd)) {
            out->len = before;
            return sl_buf_add(out, s, n);
        }
        r = sl_buf_putc(out, (char)byte);
        i += (size_t)k;
    }
    return r;
}

/* The spellings that WordPiece's `cleanup` undoes. */
static int cleanup(struct sl_buf *out, size_t before)
{
    static const char *const pairs[][2] = {
        {" .", "."},   {" ?", "?"},     {" !", "!"},     {" ,", ","},
        {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},   {" do not", " don't"},
        {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
    };
    char text[256], to[512];
    size_t n = out->len - before;
    if (n >= sizeof text) return 0;
    memcpy(text, out->data + before, n);
    for (size_t i = 0; i < SL_ARRAY_LEN(pairs); i++) {
        struct sl_buf b;
        sl_buf_init(&b, sizeof to - 1);
        int r = replace(&b, text, n, pairs[i][0], strlen(pairs[i][0]), pairs[i][1],
                        strlen(pairs[i][1]));
        if (r == 0 && b.len < sizeof text) memcpy(text, sl_buf_str(&b), n = b.len);
        sl_buf_close(&b);
        if (r == SL_ENOMEM) return r;
    }
    out->len = before;
    return sl_buf_add(out, text, n);
}

static int run_step(const struct sl_tok_decode_step *st, struct sl_buf *out, const char *s,
                    size_t n)
{
    int r = 0;
    size_t before = out->len;
    switch (st->kind) {
    case SL_TOK_DECODE_REPLACE:
        return replace(out, s, n, st->from, st->from_n, st->to, st->to_n);
    case SL_TOK_DECODE_BYTES:
        return byte_token(out, s, n);
    case SL_TOK_DECODE_ALPHABET:
        return alphabet_token(out, s, n);
    case SL_TOK_DECODE_STRIP:
        for (int i = 0; i < st->count; i++) {
            if (n < st->from_n || memcmp(s, st->from, st->from_n) != 0) break;
            s += st->from_n;
            n -= st->from_n;
        }
        return sl_buf_add(out, s, n);
    case SL_TOK_DECODE_WORDPIECE:
        if (st->from_n > 0 && n >= st->from_n && memcmp(s, st->from, st->from_n) == 0) {
            s += st->from_n;
            n -= st->from_n;
        } else {
            r = sl_buf_putc(out, ' ');
        }
        if (r == 0) r = sl_buf_add(out, s, n);
        return r == 0 && st->cleanup ? cleanup(out, before) : r;
    default:
        r = sl_buf_putc(out, ' ');
        return r ? r : sl_buf_add(out, s, n);
    }
}

/* One token through all the steps, appended to *out; a and b are scratch. */
static int decode(const struct sl_tok_decode *d, const char *s, size_t n, struct sl_buf *a,
                  struct sl_buf *b, struct sl_buf *out)
{
    for (int i = 0; i < d->n; i++) {
        struct sl_buf *to = i % 2 ? b : a;
        sl_buf_clear(to);
        int r = run_step(&d->steps[i], to, s, n);
        if (r != 0) return r;
        s = sl_buf_str(to);
        n = to->len;
    }
    return sl_buf_add(out, s, n);
}

int sl_tok_decode_run(const struct sl_tok_decode *d, struct sl_tok_vocab *v,
                      const struct sl_tok_added *cooked)
{
    struct sl_buf a, b, out;
    int r = 0, k = 0;
    sl_buf_init(&a, SL_TOK_VOCAB_BYTES_MAX);
    sl_buf_init(&b, SL_TOK_VOCAB_BYTES_MAX);
    sl_buf_init(&out, SL_TOK_VOCAB_BYTES_MAX);
    for (int i = 0; i < v->n && r == 0; i++) {
        size_t n;
        const char *text = sl_tok_vocab_text(v, i, &n);
        if (cooked && k < cooked->own.n && cooked->real[k] == i)
            text = sl_tok_vocab_text(&cooked->own, k++, &n);
        if (d->literal >> v->type[i] & 1)
            r = sl_buf_add(&out, text, n);
        else
            r = decode(d, text, n, &a, &b, &out);
        v->bytes_at[i + 1] = (uint32_t)out.len;
    }
    sl_buf_close(&a);
    sl_buf_close(&b);
    if (r == 0) r = sl_buf_reserve(&out, 1);
    if (r == 0)
        v->bytes = out.data;
    else
        sl_buf_close(&out);
    return r;
}
