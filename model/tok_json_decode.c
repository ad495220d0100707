/* tok_json_decode.c - the decoder of tokenizer.json, as steps on single tokens (tok_decode.c). What
 * needs the text as a whole, but for the spaces at its beginning, cannot be streamed and is
 * refused. */
#include "model/tok_json.h"

#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"

/* Behind a Fuse (or a ByteLevel, which joins too) the text is one: a Strip there is for its
 * beginning. */
static int is_fused(const struct sl_tok_decode *d)
{
    return d->fused;
}

static struct sl_tok_decode_step *add_decode(const struct sl_tok_source *in,
                                             enum sl_tok_decode_kind kind)
{
    struct sl_tok_decode *d = &in->t->decode;
    if (d->n == SL_TOK_STEPS_MAX) {
        sl_tok_json_bad(in, "decoder", "has too many steps");
        return NULL;
    }
    d->steps[d->n].kind = kind;
    return &d->steps[d->n++];
}

static int decode_texts(const struct sl_tok_source *in, struct sl_tok_decode_step *st,
                        const char *place, const char *from, size_t from_n, const char *to,
                        size_t to_n)
{
    if (from_n > sizeof st->from || to_n > sizeof st->to)
        return sl_tok_json_bad(in, place, "has a text that is too long");
    memcpy(st->from, from, from_n);
    memcpy(st->to, to, to_n);
    st->from_n = from_n;
    st->to_n = to_n;
    return 0;
}

static int decode_bytes(const struct sl_tok_source *in, const json_t *o, const char *place)
{
    (void)o, (void)place;
    in->t->decode.fused = 1;
    return add_decode(in, SL_TOK_DECODE_ALPHABET) ? 0 : SL_EINPUT;
}

static int decode_fallback(const struct sl_tok_source *in, const json_t *o, const char *place)
{
    (void)o, (void)place;
    return add_decode(in, SL_TOK_DECODE_BYTES) ? 0 : SL_EINPUT;
}

static int decode_fuse(const struct sl_tok_source *in, const json_t *o, const char *place)
{
    (void)o, (void)place;
    in->t->decode.fused = 1;
    return 0;
}

static int decode_replace(const struct sl_tok_source *in, const json_t *o, const char *place)
{
    const char *from = NULL, *to = "";
    size_t from_n = 0, to_n = 0;
    uint32_t cp;
    struct sl_tok_regex *regex = NULL;
    int r = sl_tok_json_pattern(in, o, place, &from, &from_n, &regex);
    if (r == 0) r = sl_tok_json_text(in, o, place, "content", &to, &to_n);
    sl_tok_regex_close(regex);
    if (r != 0) return r;
    if (regex || from_n == 0)
        return sl_err_set(in->err, SL_EUNSUPPORTED,
                          "%s: %s with an expression cannot be streamed and is not known here",
                          in->name, place);
    if (is_fused(&in->t->decode) && (size_t)sl_utf8_get(from, from_n, &cp) != from_n)
        return sl_err_set(in->err, SL_EUNSUPPORTED,
                          "%s: %s of a text across tokens cannot be streamed and is not known here",
                          in->name, place);
    struct sl_tok_decode_step *st = add_decode(in, SL_TOK_DECODE_REPLACE);
    return st ? decode_texts(in, st, place, from, from_n, to, to_n) : SL_EINPUT;
}

static int decode_strip(const struct sl_tok_source *in, const json_t *o, const char *place)
{
    const char *s = " ";
    size_t n = 1;
    int64_t start = 0, stop = 0;
    int r = sl_tok_json_text(in, o, place, "content", &s, &n);
    if (r == 0) r = sl_tok_json_int(in, o, place, "start", 0, 1024, &start);
    if (r == 0) r = sl_tok_json_int(in, o, place, "stop", 0, 1024, &stop);
    if (r != 0) return r;
    int fused = is_fused(&in->t->decode);
    if (stop > 0 || (fused && (n != 1 || *s != ' ')))
        return sl_err_set(in->err, SL_EUNSUPPORTED,
                          "%s: %s at the end of a text, or of another character than a space, "
                          "cannot be streamed and is not known here",
                          in->name, place);
    if (fused) {
        in->t->decode.drops = (int)start;
        return 0;
    }
    struct sl_tok_decode_step *st = add_decode(in, SL_TOK_DECODE_STRIP);
    if (!st) return SL_EINPUT;
    st->count = (int)start;
    return decode_texts(in, st, place, s, n, "", 0);
}

static int decode_metaspace(const struct sl_tok_source *in, const json_t *o, const char *place)
{
    const char *sign = SL_TOK_SPACE;
    size_t n = 3;
    enum sl_tok_scheme scheme;
    int r = sl_tok_json_text(in, o, place, "replacement", &sign, &n);
    if (r == 0) r = sl_tok_json_scheme(in, o, place, &scheme);
    if (r != 0) return r;
    if (scheme != SL_TOK_PREPEND_NEVER) in->t->decode.drops = -1;
    struct sl_tok_decode_step *st = add_decode(in, SL_TOK_DECODE_REPLACE);
    return st ? decode_texts(in, st, place, sign, n, " ", 1) : SL_EINPUT;
}

static int decode_wordpiece(const struct sl_tok_source *in, const json_t *o, const char *place)
{
    const char *prefix = "##";
    size_t n = 2;
    int cleanup = 1;
    int r = sl_tok_json_text(in, o, place, "prefix", &prefix, &n);
    if (r == 0) r = sl_tok_json_bool(in, o, place, "cleanup", &cleanup);
    struct sl_tok_decode_step *st = r ? NULL : add_decode(in, SL_TOK_DECODE_WORDPIECE);
    if (!st) return r ? r : SL_EINPUT;
    st->cleanup = cleanup;
    in->t->decode.drops = 1;
    return decode_texts(in, st, place, prefix, n, "", 0);
}

int sl_tok_json_decoder(const struct sl_tok_source *in, const json_t *o)
{
    static const struct sl_tok_row rows[] = {
        {"ByteLevel", decode_bytes},     {"ByteFallback", decode_fallback},
        {"Fuse", decode_fuse},           {"Replace", decode_replace},
        {"Strip", decode_strip},         {"Metaspace", decode_metaspace},
        {"WordPiece", decode_wordpiece},
    };
    static const struct sl_tok_part part = {"decoder", "decoders", rows, SL_ARRAY_LEN(rows)};
    if (o && !json_is_null(o)) return sl_tok_json_part(in, &part, o, 0);
    in->t->decode.drops = 1; /* without one, tokens are words with spaces between them */
    return add_decode(in, SL_TOK_DECODE_SPACE) ? 0 : SL_EINPUT;
}
