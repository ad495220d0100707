/* tok_json_split.c - the pre_tokenizer of tokenizer.json. */
#include "model/tok_json.h"

#include <string.h>

#include "base/sl_assert.h"

static struct sl_tok_split_step *add_split(const struct sl_tok_source *in,
                                           enum sl_tok_split_kind kind,
                                           enum sl_tok_behavior behavior)
{
    struct sl_tok_split_step *s = sl_tok_split_add(&in->t->split, kind, behavior);
    if (!s) sl_tok_json_bad(in, "pre_tokenizer", "has too many steps");
    return s;
}

static int read_behavior(const struct sl_tok_source *in, const json_t *o, const char *place,
                         enum sl_tok_behavior *out)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *s = NULL;
    size_t n;
    int r = sl_tok_json_text(in, o, place, "behavior", &s, &n);
    if (r != 0 || !s) return r;
    for (int i = 0; i < (int)SL_ARRAY_LEN(names); i++) {
        if (strcmp(s, names[i]) != 0) continue;
        *out = (enum sl_tok_behavior)i;
        return 0;
    }
    return sl_tok_json_bad(in, place, "has a behavior that is not known here");
}

static int split_split(const struct sl_tok_source *in, const json_t *o, const char *place)
{
    const char *text = NULL;
    size_t n = 0;
    struct sl_tok_split_step *st = add_split(in, SL_TOK_SPLIT_REGEX, SL_TOK_ISOLATED);
    if (!st) return SL_EINPUT;
    int r = sl_tok_json_pattern(in, o, place, &text, &n, &st->regex);
    if (r == 0) r = read_behavior(in, o, place, &st->behavior);
    if (r == 0) r = sl_tok_json_bool(in, o, place, "invert", &st->invert);
    if (r != 0 || !text) return r;
    if (n > sizeof st->text) return sl_tok_json_bad(in, place, "has a pattern that is too long");
    st->kind = SL_TOK_SPLIT_TEXT;
    memcpy(st->text, text, n);
    st->text_n = n;
    return 0;
}

static int split_bytes(const struct sl_tok_source *in, const json_t *o, const char *place)
{
    int prefix = 1, regex = 1;
    int r = sl_tok_json_bool(in, o, place, "add_prefix_space", &prefix);
    if (r == 0) r = sl_tok_json_bool(in, o, place, "use_regex", &regex);
    if (r == 0 && prefix && !add_split(in, SL_TOK_SPLIT_PREFIX, SL_TOK_ISOLATED)) r = SL_EINPUT;
    if (r == 0 && regex) {
        struct sl_tok_split_step *st = add_split(in, SL_TOK_SPLIT_REGEX, SL_TOK_ISOLATED);
        if (!st) return SL_EINPUT;
        r = sl_tok_regex_open(sl_tok_split_gpt2, strlen(sl_tok_split_gpt2), 1, in->name, &st->regex,
                              in->err);
    }
    if (r != 0) return r;
    return add_split(in, SL_TOK_SPLIT_BYTES, SL_TOK_ISOLATED) ? 0 : SL_EINPUT;
}

static int split_metaspace(const struct sl_tok_source *in, const json_t *o, const char *place)
{
    const char *sign = SL_TOK_SPACE;
    size_t n = 3;
    int split = 1;
    struct sl_tok_split_step *st = add_split(in, SL_TOK_SPLIT_METASPACE, SL_TOK_MERGED_NEXT);
    if (!st) return SL_EINPUT;
    int r = sl_tok_json_text(in, o, place, "replacement", &sign, &n);
    if (r == 0) r = sl_tok_json_scheme(in, o, place, &st->scheme);
    if (r == 0) r = sl_tok_json_bool(in, o, place, "split", &split);
    if (r != 0) return r;
    if (n == 0 || n > 4) return sl_tok_json_bad(in, place, "has no character as replacement");
    memcpy(st->text, sign, n);
    st->text_n = n;
    if (!split) st->behavior = SL_TOK_ISOLATED;
    return 0;
}

static int add_class(const struct sl_tok_source *in, int (*is)(uint32_t),
                     enum sl_tok_behavior behavior)
{
    struct sl_tok_split_step *st = add_split(in, SL_TOK_SPLIT_CLASS, behavior);
    if (!st) return SL_EINPUT;
    st->is = is;
    return 0;
}

static int split_digits(const struct sl_tok_source *in, const json_t *o, const char *place)
{
    int single = 0;
    int r = sl_tok_json_bool(in, o, place, "individual_digits", &single);
    return r ? r : add_class(in, sl_tok_is_number, single ? SL_TOK_ISOLATED : SL_TOK_CONTIGUOUS);
}

static int split_punctuation(const struct sl_tok_source *in, const json_t *o, const char *place)
{
    enum sl_tok_behavior behavior = SL_TOK_ISOLATED;
    int r = read_behavior(in, o, place, &behavior);
    return r ? r : add_class(in, sl_tok_is_punct, behavior);
}

static int split_words(const struct sl_tok_source *in, const json_t *o, const char *place)
{
    (void)o, (void)place;
    struct sl_tok_split_step *st = add_split(in, SL_TOK_SPLIT_WORDS, SL_TOK_REMOVED);
    if (!st) return SL_EINPUT;
    st->invert = 1;
    return 0;
}

static int split_spaces(const struct sl_tok_source *in, const json_t *o, const char *place)
{
    (void)o, (void)place;
    return add_class(in, sl_tok_is_space, SL_TOK_REMOVED);
}

static int split_bert(const struct sl_tok_source *in, const json_t *o, const char *place)
{
    int r = split_spaces(in, o, place);
    return r ? r : add_class(in, sl_tok_is_punct, SL_TOK_ISOLATED);
}

static int split_delimiter(const struct sl_tok_source *in, const json_t *o, const char *place)
{
    const char *s = "";
    size_t n = 0;
    struct sl_tok_split_step *st = add_split(in, SL_TOK_SPLIT_TEXT, SL_TOK_REMOVED);
    int r = st ? sl_tok_json_text(in, o, place, "delimiter", &s, &n) : SL_EINPUT;
    if (r != 0) return r;
    if (n == 0 || n > 4) return sl_tok_json_bad(in, place, "has no character as delimiter");
    memcpy(st->text, s, n);
    st->text_n = n;
    return 0;
}

int sl_tok_json_pre_tokenizer(const struct sl_tok_source *in, const json_t *o)
{
    static const struct sl_tok_row rows[] = {
        {"Split", split_split},
        {"ByteLevel", split_bytes},
        {"Metaspace", split_metaspace},
        {"Digits", split_digits},
        {"Punctuation", split_punctuation},
        {"Whitespace", split_words},
        {"WhitespaceSplit", split_spaces},
        {"BertPreTokenizer", split_bert},
        {"CharDelimiterSplit", split_delimiter},
    };
    static const struct sl_tok_part part = {"pre_tokenizer", "pretokenizers", rows,
                                            SL_ARRAY_LEN(rows)};
    return sl_tok_json_part(in, &part, o, 0);
}
