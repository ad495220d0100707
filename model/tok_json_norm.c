/* tok_json_norm.c - the normalizer of tokenizer.json. */
#include "model/tok_json.h"

#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"

static struct sl_tok_norm_step *add_norm(const struct sl_tok_source *in, enum sl_tok_norm_kind kind,
                                         int flags)
{
    struct sl_tok_norm_step *s = sl_tok_norm_add(&in->t->norm, kind, flags);
    if (!s) sl_tok_json_bad(in, "normalizer", "has too many steps");
    return s;
}

#define SIMPLE(function, kind, flags)                                                              \
    static int function(const struct sl_tok_source *in, const json_t *o, const char *place)        \
    {                                                                                              \
        (void)o, (void)place;                                                                      \
        return add_norm(in, kind, flags) ? 0 : SL_EINPUT;                                          \
    }
SIMPLE(norm_nfc, SL_TOK_NORM_FORM, SL_TOK_NFC)
SIMPLE(norm_nfd, SL_TOK_NORM_FORM, SL_TOK_NFD)
SIMPLE(norm_nfkc, SL_TOK_NORM_FORM, SL_TOK_NFKC)
SIMPLE(norm_nfkd, SL_TOK_NORM_FORM, SL_TOK_NFKD)
SIMPLE(norm_lower, SL_TOK_NORM_LOWER, 0)
SIMPLE(norm_accents, SL_TOK_NORM_MARKS, 0)
SIMPLE(norm_nmt, SL_TOK_NORM_NMT, 0)
SIMPLE(norm_bytes, SL_TOK_NORM_BYTE_LEVEL, 0)

static int norm_strip(const struct sl_tok_source *in, const json_t *o, const char *place)
{
    int left = 1, right = 1;
    int r = sl_tok_json_bool(in, o, place, "strip_left", &left);
    if (r == 0) r = sl_tok_json_bool(in, o, place, "strip_right", &right);
    if (r != 0) return r;
    return add_norm(in, SL_TOK_NORM_STRIP, left | right << 1) ? 0 : SL_EINPUT;
}

static int norm_prepend(const struct sl_tok_source *in, const json_t *o, const char *place)
{
    const char *s = "";
    size_t n = 0;
    int r = sl_tok_json_text(in, o, place, "prepend", &s, &n);
    struct sl_tok_norm_step *st = r ? NULL : add_norm(in, SL_TOK_NORM_PREPEND, 0);
    if (!st) return r ? r : SL_EINPUT;
    return sl_tok_norm_texts(st, NULL, 0, s, n) ? sl_tok_json_memory(in) : 0;
}

static int norm_replace(const struct sl_tok_source *in, const json_t *o, const char *place)
{
    const char *pattern = NULL, *content = "";
    size_t pattern_n = 0, n = 0;
    struct sl_tok_norm_step *st = add_norm(in, SL_TOK_NORM_REPLACE, 0);
    if (!st) return SL_EINPUT;
    int r = sl_tok_json_pattern(in, o, place, &pattern, &pattern_n, &st->regex);
    if (r == 0) r = sl_tok_json_text(in, o, place, "content", &content, &n);
    if (r != 0) return r;
    return sl_tok_norm_texts(st, pattern, pattern_n, content, n) ? sl_tok_json_memory(in) : 0;
}

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

static int norm_charsmap(const struct sl_tok_source *in, const json_t *o, const char *place)
{
    const char *s = NULL;
    size_t n = 0, w = 0;
    int r = sl_tok_json_text(in, o, place, "precompiled_charsmap", &s, &n);
    if (r != 0 || !s || n == 0) return r;
    struct sl_tok_norm_step *st = add_norm(in, SL_TOK_NORM_CHARSMAP, 1);
    if (!st) return SL_EINPUT;
    uint8_t *blob = malloc(n);
    if (!blob) return sl_tok_json_memory(in);
    uint32_t bits = 0;
    int have = 0;
    for (size_t i = 0; i < n && s[i] != '='; i++) {
        int d = base64_digit(s[i]);
        if (d < 0) {
            free(blob);
            return sl_tok_json_bad(in, place, "precompiled_charsmap is not base64");
        }
        bits = bits << 6 | (uint32_t)d;
        have += 6;
        if (have >= 8) blob[w++] = (uint8_t)(bits >> (have -= 8));
    }
    r = sl_tok_charsmap_open(blob, w, in->name, &st->map, in->err);
    free(blob);
    return r;
}

static int norm_bert(const struct sl_tok_source *in, const json_t *o, const char *place)
{
    int clean = 1, han = 1, lower = 1, accents = -1;
    int r = sl_tok_json_bool(in, o, place, "clean_text", &clean);
    if (r == 0) r = sl_tok_json_bool(in, o, place, "handle_chinese_chars", &han);
    if (r == 0) r = sl_tok_json_bool(in, o, place, "lowercase", &lower);
    if (r == 0) r = sl_tok_json_bool(in, o, place, "strip_accents", &accents);
    if (accents < 0) accents = lower;
    if (r != 0) return r;
    int ok = (!clean || add_norm(in, SL_TOK_NORM_CLEAN, 0)) &&
             (!han || add_norm(in, SL_TOK_NORM_HAN, 0)) &&
             (!accents ||
              (add_norm(in, SL_TOK_NORM_FORM, SL_TOK_NFD) && add_norm(in, SL_TOK_NORM_MARKS, 1))) &&
             (!lower || add_norm(in, SL_TOK_NORM_LOWER, 0));
    return ok ? 0 : SL_EINPUT;
}

int sl_tok_json_normalizer(const struct sl_tok_source *in, const json_t *o)
{
    static const struct sl_tok_row rows[] = {
        {"NFC", norm_nfc},
        {"NFD", norm_nfd},
        {"NFKC", norm_nfkc},
        {"NFKD", norm_nfkd},
        {"Prepend", norm_prepend},
        {"Replace", norm_replace},
        {"Strip", norm_strip},
        {"Lowercase", norm_lower},
        {"StripAccents", norm_accents},
        {"Nmt", norm_nmt},
        {"ByteLevel", norm_bytes},
        {"Precompiled", norm_charsmap},
        {"BertNormalizer", norm_bert},
    };
    static const struct sl_tok_part part = {"normalizer", "normalizers", rows, SL_ARRAY_LEN(rows)};
    return sl_tok_json_part(in, &part, o, 0);
}
