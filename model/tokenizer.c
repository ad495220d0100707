/* tokenizer.c - opens a vocabulary from a model file's metadata and encodes text with it.
 *
 * Opening checks everything once (one clear line says what is wrong with the file), so that
 * encoding cannot fail on any text: tokens, types and merges must fit together and ids lie in
 * range. Some vocabularies lack tokens for bytes that never occurred in their training text
 * (SmolLM2: a few control characters and bytes that UTF-8 does not use). Such a byte is left out of
 * the encoding, as llama.cpp does; putting the unknown token there would smuggle a control token
 * (SmolLM2: the end of text) into user text. */
#include "model/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"
#include "model/tok.h"

struct sl_tokenizer {
    struct sl_tok_vocab vocab;
    struct sl_tok_bpe bpe;
    struct sl_tok_specials specials;
    struct sl_tok_pre *pre;
    uint8_t *ends; /* (n) 1: ends generation */
    int32_t bos, eos;
    int adds_bos;
};

/* ---- opening --------------------------------------------------------------------------------- */

#define KEY(name) "tokenizer.ggml." name

/* The array `key` of `elem`s; SL_EINPUT when it is absent or something else. */
static int get_array(const struct sl_weights *w, const char *key, enum sl_meta_type elem,
                     const struct sl_meta **out, struct sl_err *err)
{
    const struct sl_meta *m = sl_weights_meta(w, key);
    if (!m)
        return sl_err_set(err, SL_EINPUT,
                          "%s: %s is missing; convert the model again with its tokenizer",
                          sl_weights_path(w), key);
    if (m->type != SL_META_ARRAY || (m->len > 0 && m->elem != elem))
        return sl_err_set(err, SL_EINPUT, "%s: %s is not an array of %s", sl_weights_path(w), key,
                          elem == SL_META_STRING ? "strings" : "integers");
    *out = m;
    return 0;
}

/* The string `key`, `def` when it is absent. */
static int get_string(const struct sl_weights *w, const char *key, const char *def, const char **s,
                      size_t *n, struct sl_err *err)
{
    const struct sl_meta *m = sl_weights_meta(w, key);
    if (m && m->type != SL_META_STRING)
        return sl_err_set(err, SL_EINPUT, "%s: %s is not a string", sl_weights_path(w), key);
    *s = m ? m->s : def;
    *n = m ? m->len : strlen(def);
    return 0;
}

static int check_model(const struct sl_weights *w, struct sl_err *err)
{
    const char *s;
    size_t n;
    if (!sl_weights_meta(w, KEY("model")))
        return sl_err_set(err, SL_EINPUT, "%s: no tokenizer in this file (%s is missing)",
                          sl_weights_path(w), KEY("model"));
    int r = get_string(w, KEY("model"), "", &s, &n, err);
    if (r != 0 || (n == 4 && memcmp(s, "gpt2", 4) == 0)) return r;
    char shown[3 * 32 + 1];
    shown[sl_utf8_scrub(s, SL_MIN(n, (size_t)32), shown)] = 0;
    return sl_err_set(
        err, SL_EUNSUPPORTED,
        "%s: %s is '%s'; byte-level BPE ('gpt2') is the only kind of tokenizer that works here",
        sl_weights_path(w), KEY("model"), shown);
}

static int read_tokens(struct sl_tok_vocab *v, const struct sl_weights *w, struct sl_err *err)
{
    const char *path = sl_weights_path(w);
    const struct sl_meta *tokens, *types = NULL;
    int r = get_array(w, KEY("tokens"), SL_META_STRING, &tokens, err);
    if (r == 0 && sl_weights_meta(w, KEY("token_type"))) /* without it all tokens are normal ones */
        r = get_array(w, KEY("token_type"), SL_META_INT, &types, err);
    if (r != 0) return r;
    size_t n = tokens->len, bytes = 0;
    if (n == 0) return sl_err_set(err, SL_EINPUT, "%s: %s is empty", path, KEY("tokens"));
    if (types && types->len != n)
        return sl_err_set(err, SL_EINPUT, "%s: %s has %zu entries for %zu tokens", path,
                          KEY("token_type"), types->len, n);
    for (size_t i = 0; i < n && bytes <= SL_TOK_VOCAB_BYTES_MAX; i++)
        bytes += sl_meta_at(tokens, i).len;
    if (n > SL_TOK_VOCAB_MAX || bytes > SL_TOK_VOCAB_BYTES_MAX)
        return sl_err_set(err, SL_ELIMIT,
                          "%s: %s has %zu tokens; at most %d and %u MiB are possible", path,
                          KEY("tokens"), n, SL_TOK_VOCAB_MAX, SL_TOK_VOCAB_BYTES_MAX >> 20);
    if (sl_tok_vocab_init(v, (int)n, bytes) != 0)
        return sl_err_set(err, SL_ENOMEM, "%s: out of memory for %zu tokens", path, n);
    for (size_t i = 0; i < n; i++) {
        struct sl_meta text = sl_meta_at(tokens, i);
        int64_t type = types ? sl_meta_at(types, i).i : SL_TOK_TYPE_NORMAL;
        if (type < 0 || type >= SL_TOK_TYPE_COUNT)
            return sl_err_set(err, SL_EINPUT, "%s: %s[%zu] is %lld, not a token type (0 to %d)",
                              path, KEY("token_type"), i, (long long)type, SL_TOK_TYPE_COUNT - 1);
        sl_tok_vocab_put(v, (int)i, text.s, text.len, (int)type);
    }
    return 0;
}

/* One merge, "left right": no token has a space inside, the byte alphabet writes it as U+0120. */
static int read_merge(struct sl_tokenizer *t, const struct sl_meta *m, size_t i, char *joined,
                      const char *path, struct sl_err *err)
{
    const char *space = m->len > 1 ? memchr(m->s + 1, ' ', m->len - 1) : NULL;
    size_t left_n = space ? (size_t)(space - m->s) : 0, right_n = space ? m->len - left_n - 1 : 0;
    if (right_n == 0)
        return sl_err_set(err, SL_EINPUT, "%s: %s[%zu] is not two tokens with a space between them",
                          path, KEY("merges"), i);
    int32_t merged = -1, left = sl_tok_vocab_find(&t->vocab, m->s, left_n);
    int32_t right = sl_tok_vocab_find(&t->vocab, space + 1, right_n);
    if (left_n + right_n <= t->vocab.text_max) {
        memcpy(joined, m->s, left_n);
        memcpy(joined + left_n, space + 1, right_n);
        merged = sl_tok_vocab_find(&t->vocab, joined, left_n + right_n);
    }
    if (left < 0 || right < 0 || merged < 0)
        return sl_err_set(err, SL_EINPUT, "%s: %s[%zu]: the %s of this merge is not in %s", path,
                          KEY("merges"), i,
                          left < 0    ? "left token"
                          : right < 0 ? "right token"
                                      : "result",
                          KEY("tokens"));
    sl_tok_bpe_put(&t->bpe, left, right, (uint32_t)i, merged);
    return 0;
}

static int read_merges(struct sl_tokenizer *t, const struct sl_weights *w, struct sl_err *err)
{
    const char *path = sl_weights_path(w);
    const struct sl_meta *merges;
    int r = get_array(w, KEY("merges"), SL_META_STRING, &merges, err);
    if (r != 0) return r;
    if (merges->len > SL_TOK_VOCAB_MAX)
        return sl_err_set(err, SL_ELIMIT, "%s: %s has %zu entries; at most %d are possible", path,
                          KEY("merges"), merges->len, SL_TOK_VOCAB_MAX);
    char *joined = malloc(t->vocab.text_max + 1);
    if (!joined || sl_tok_bpe_init(&t->bpe, &t->vocab, merges->len) != 0) {
        free(joined);
        return sl_err_set(err, SL_ENOMEM, "%s: out of memory for %zu merges", path, merges->len);
    }
    for (size_t i = 0; i < merges->len && r == 0; i++) {
        struct sl_meta m = sl_meta_at(merges, i);
        r = read_merge(t, &m, i, joined, path, err);
    }
    free(joined);
    return r;
}

static int read_id(const struct sl_tokenizer *t, const struct sl_weights *w, const char *key,
                   int32_t *id, struct sl_err *err)
{
    int64_t v = -1;
    int r = sl_weights_int(w, key, -1, 0, t->vocab.n - 1, &v, err);
    *id = (int32_t)v;
    return r;
}

/* Names of tokens that end a turn or a text, whatever the file's eos id is: chat models have more
 * than one. */
/* clang-format off */
static const char *const end_names[] = {
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|end|>", "<|end_of_text|>",
    "<|endoftext|>", "<|return|>", "<|call|>", "<end_of_turn>", "<end_of_utterance>", "<EOT>", "</s>",
    "<\xef\xbd\x9c" "end\xe2\x96\x81" "of\xe2\x96\x81sentence\xef\xbd\x9c>", /* DeepSeek */
};
/* clang-format on */

static int read_ends(struct sl_tokenizer *t, const struct sl_weights *w, struct sl_err *err)
{
    const struct sl_tok_vocab *v = &t->vocab;
    int32_t ids[] = {t->eos, -1, -1};
    int r = read_id(t, w, KEY("eot_token_id"), &ids[1], err);
    if (r == 0) r = read_id(t, w, KEY("eom_token_id"), &ids[2], err);
    if (r != 0) return r;
    t->ends = calloc((size_t)v->n, 1);
    if (!t->ends)
        return sl_err_set(err, SL_ENOMEM, "%s: out of memory for the tokenizer",
                          sl_weights_path(w));
    for (size_t i = 0; i < SL_ARRAY_LEN(end_names); i++) {
        int32_t id = sl_tok_vocab_find(v, end_names[i], strlen(end_names[i]));
        if (id >= 0 && v->type[id] == SL_TOK_TYPE_CONTROL) t->ends[id] = 1;
    }
    /* OpenAI's harmony format: <|end|> ends one of several messages of a turn, <|return|> the turn
     */
    int32_t end = sl_tok_vocab_find(v, "<|end|>", 7);
    if (end >= 0 && sl_tok_vocab_find(v, "<|return|>", 10) >= 0) t->ends[end] = 0;
    for (size_t i = 0; i < SL_ARRAY_LEN(ids); i++)
        if (ids[i] >= 0) t->ends[ids[i]] = 1;
    return 0;
}

static int open_into(struct sl_tokenizer *t, const struct sl_weights *w, struct sl_err *err)
{
    const char *pre = "";
    size_t pre_n = 0;
    int r = check_model(w, err);
    if (r == 0) r = get_string(w, KEY("pre"), "default", &pre, &pre_n, err);
    if (r == 0) r = sl_tok_pre_open(pre, pre_n, sl_weights_path(w), &t->pre, err);
    if (r == 0) r = read_tokens(&t->vocab, w, err);
    if (r == 0) r = read_merges(t, w, err);
    if (r == 0) r = read_id(t, w, KEY("bos_token_id"), &t->bos, err);
    if (r == 0) r = read_id(t, w, KEY("eos_token_id"), &t->eos, err);
    if (r == 0) r = read_ends(t, w, err);
    if (r == 0)
        r = sl_weights_bool(w, KEY("add_bos_token"), sl_tok_pre_adds_bos(t->pre), &t->adds_bos,
                            err);
    if (r == 0 && sl_tok_specials_init(&t->specials, &t->vocab) != 0)
        r = sl_err_set(err, SL_ENOMEM, "%s: out of memory for the tokenizer", sl_weights_path(w));
    return r;
}

int sl_tokenizer_open(const struct sl_weights *w, struct sl_tokenizer **out, struct sl_err *err)
{
    SL_ASSERT(w && out);
    *out = NULL;
    struct sl_tokenizer *t = calloc(1, sizeof *t);
    if (!t) return sl_err_set(err, SL_ENOMEM, "out of memory for a tokenizer");
    int r = open_into(t, w, err);
    if (r == 0)
        *out = t;
    else
        sl_tokenizer_close(t);
    return r;
}

void sl_tokenizer_close(struct sl_tokenizer *t)
{
    if (!t) return;
    sl_tok_specials_close(&t->specials);
    sl_tok_bpe_close(&t->bpe);
    sl_tok_vocab_close(&t->vocab);
    sl_tok_pre_close(t->pre);
    free(t->ends);
    free(t);
}

/* ---- encoding -------------------------------------------------------------------------------- */

int sl_ids_push(struct sl_ids *ids, int32_t id)
{
    if (ids->len == ids->cap) {
        size_t cap = ids->cap ? ids->cap * 2 : 64;
        int32_t *data = realloc(ids->data, cap * sizeof *data);
        if (!data) return SL_ENOMEM;
        ids->data = data;
        ids->cap = cap;
    }
    ids->data[ids->len++] = id;
    return 0;
}

struct encoding {
    const struct sl_tokenizer *t;
    struct sl_tok_work work;
    struct sl_ids *ids;
    struct sl_err *err;
};

static int encode_piece(void *arg, const char *piece, size_t n)
{
    struct encoding *e = arg;
    if (sl_tok_pre_whole_words(e->t->pre)) {
        int32_t id = sl_tok_vocab_find_bytes(&e->t->vocab, piece, n);
        if (id >= 0) return sl_ids_push(e->ids, id);
    }
    return sl_tok_bpe_encode(&e->t->bpe, &e->work, piece, n, e->ids);
}

/* Length of the longest prefix of s[0..n) that is valid UTF-8. */
static size_t valid_prefix(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n) {
        if ((unsigned char)s[i] < 0x80) {
            i++;
            continue;
        }
        uint32_t cp;
        int k = sl_utf8_get(s + i, n - i, &cp);
        if (k == 1) break;
        i += (size_t)k;
    }
    return i;
}

/* Text without special tokens: valid runs are split and merged, each invalid byte in between is its
 * own token. */
static int encode_plain(struct encoding *e, const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t run = valid_prefix(s + i, n - i);
        int r = run ? sl_tok_pre_split(e->t->pre, s + i, run, encode_piece, e, e->err) : 0;
        if (r != 0) return r;
        i += run;
        if (i == n) break;
        int32_t id = e->t->bpe.byte_id[(uint8_t)s[i++]];
        if (id >= 0 && sl_ids_push(e->ids, id) != 0) return SL_ENOMEM;
    }
    return 0;
}

static int encode_text(struct encoding *e, const char *text, size_t n, int all_specials)
{
    for (size_t pos = 0; pos < n;) {
        size_t at = n, len = 0;
        int32_t id = sl_tok_specials_next(&e->t->specials, text, pos, n, all_specials, &at, &len);
        int r = encode_plain(e, text + pos, at - pos);
        if (r != 0) return r;
        if (id >= 0 && sl_ids_push(e->ids, id) != 0) return SL_ENOMEM;
        pos = at + len;
    }
    return 0;
}

int sl_tokenizer_encode(const struct sl_tokenizer *t, const char *text, size_t n, int flags,
                        struct sl_ids *ids, struct sl_err *err)
{
    SL_ASSERT(t && ids && (text || n == 0));
    if (n > SL_TOK_TEXT_MAX)
        return sl_err_set(err, SL_ELIMIT,
                          "the text has %zu bytes; at most %u MiB can be encoded at once", n,
                          SL_TOK_TEXT_MAX >> 20);
    struct encoding e = {.t = t, .ids = ids, .err = err};
    size_t before = ids->len;
    int r = 0;
    if (err) err->code = 0;
    if ((flags & SL_TOK_BOS) && t->adds_bos && t->bos >= 0) r = sl_ids_push(ids, t->bos);
    if (r == 0) r = encode_text(&e, text, n, flags & SL_TOK_SPECIAL);
    sl_tok_work_close(&e.work);
    if (r == 0) return 0;
    ids->len = before;
    if (err && err->code == 0)
        sl_err_set(err, r, "out of memory while encoding a text of %zu bytes", n);
    return r;
}

/* ---- looking up ------------------------------------------------------------------------------ */

static int in_range(const struct sl_tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->vocab.n;
}

const char *sl_tokenizer_piece(const struct sl_tokenizer *t, int32_t id, size_t *len)
{
    *len = 0;
    if (!in_range(t, id)) return "";
    *len = t->vocab.bytes_at[id + 1] - t->vocab.bytes_at[id];
    return t->vocab.bytes + t->vocab.bytes_at[id];
}

int sl_tokenizer_is_special(const struct sl_tokenizer *t, int32_t id)
{
    return in_range(t, id) &&
           (t->vocab.type[id] == SL_TOK_TYPE_CONTROL || t->vocab.type[id] == SL_TOK_TYPE_UNKNOWN);
}

int sl_tokenizer_is_end(const struct sl_tokenizer *t, int32_t id)
{
    return in_range(t, id) && t->ends[id];
}

int32_t sl_tokenizer_bos(const struct sl_tokenizer *t)
{
    return t->bos;
}

int32_t sl_tokenizer_eos(const struct sl_tokenizer *t)
{
    return t->eos;
}

int sl_tokenizer_size(const struct sl_tokenizer *t)
{
    return t->vocab.n;
}

int sl_tokenizer_adds_bos(const struct sl_tokenizer *t)
{
    return t->adds_bos;
}

int32_t sl_tokenizer_find(const struct sl_tokenizer *t, const char *piece, size_t n)
{
    /* a special token is written as it is, others in the byte alphabet: two tokens may stand for
     * the same bytes */
    int32_t id = sl_tok_vocab_find(&t->vocab, piece, n);
    size_t len = 0;
    const char *bytes = sl_tokenizer_piece(t, id, &len);
    if (id >= 0 && len == n && memcmp(bytes, piece, n) == 0) return id;
    id = sl_tok_vocab_find_bytes(&t->vocab, piece, n);
    bytes = sl_tokenizer_piece(t, id, &len);
    return id >= 0 && len == n && memcmp(bytes, piece, n) == 0 ? id : -1;
}
