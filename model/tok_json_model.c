/* tok_json_model.c - `model` and `added_tokens` of tokenizer.json: the vocabulary and how pieces
 * become ids.
 *
 * The file is hostile: ids may repeat, leave holes or be huge, merges may name what is not there.
 * Ids must be nearly dense, so that what is allocated is in proportion to what is in the file. */
#include "model/tok_json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"

#define HOLES_MAX 65536 /* ids without a token, besides as many as there are tokens */
#define LONG_TOKENS                                                                                \
    256 /* with more tokens of several characters than this, there must be merges                  \
         */

/* What is known of an id before the vocabulary is made; texts belong to the JSON. */
struct entry {
    const char *text;
    size_t len;
    uint8_t type, in_model, normalized, flags;
};

struct table {
    struct entry *at;
    size_t n, bytes;
};

/* ---- collecting ------------------------------------------------------------------------------ */

static int note(const struct sl_tok_source *in, struct table *t, size_t n_tokens, int64_t id,
                const char *text, size_t len)
{
    char shown[120];
    if (id < 0 || (uint64_t)id > 2 * n_tokens + HOLES_MAX || id >= SL_TOK_VOCAB_MAX) {
        snprintf(shown, sizeof shown, "id %lld is out of range for %zu tokens", (long long)id,
                 n_tokens);
        return sl_tok_json_bad(in, "model.vocab:", shown);
    }
    if ((size_t)id >= t->n) {
        size_t n = sl_tok_capacity((size_t)id + 1);
        struct entry *at = realloc(t->at, n * sizeof *at);
        if (!at) return sl_tok_json_memory(in);
        memset(at + t->n, 0, (n - t->n) * sizeof *at);
        t->at = at;
        t->n = n;
    }
    struct entry *e = &t->at[id];
    if (e->text && (e->len != len || memcmp(e->text, text, len) != 0)) {
        snprintf(shown, sizeof shown, "id %lld belongs to two different tokens", (long long)id);
        return sl_tok_json_bad(in, "model.vocab:", shown);
    }
    if (!e->text) t->bytes += len;
    e->text = text;
    e->len = len;
    if (!e->type) e->type = SL_TOK_TYPE_NORMAL;
    return t->bytes > SL_TOK_VOCAB_BYTES_MAX
               ? sl_err_set(in->err, SL_ELIMIT, "%s: the tokens have more than %u MiB together",
                            in->name, SL_TOK_VOCAB_BYTES_MAX >> 20)
               : 0;
}

static int collect_object(const struct sl_tok_source *in, struct table *t, const json_t *vocab,
                          size_t n_tokens)
{
    int r = 0;
    void *it = json_object_iter((json_t *)vocab);
    for (; it && r == 0; it = json_object_iter_next((json_t *)vocab, it)) {
        const json_t *v = json_object_iter_value(it);
        if (!json_is_integer(v))
            return sl_tok_json_bad(in, "model.vocab", "has an id that is none");
        const char *key = json_object_iter_key(it);
        r = note(in, t, n_tokens, json_integer_value(v), key, json_object_iter_key_len(it));
        if (r == 0) t->at[json_integer_value(v)].in_model = 1;
    }
    return r;
}

/* Unigram: [["text", score], ...]. */
static int collect_array(const struct sl_tok_source *in, struct table *t, const json_t *vocab,
                         size_t n_tokens)
{
    int r = 0;
    for (size_t i = 0; i < json_array_size(vocab) && r == 0; i++) {
        const json_t *s = json_array_get(json_array_get(vocab, i), 0);
        if (!json_is_string(s) || !json_is_number(json_array_get(json_array_get(vocab, i), 1)))
            return sl_tok_json_bad(in, "model.vocab", "has an entry that is no [text, score]");
        r = note(in, t, n_tokens, (int64_t)i, json_string_value(s), json_string_length(s));
        if (r == 0) t->at[i].in_model = 1;
    }
    return r;
}

static int collect_added(const struct sl_tok_source *in, struct table *t, const json_t *model_vocab,
                         const json_t *a, size_t n_tokens)
{
    static const char place[] = "added_tokens:";
    static const struct {
        const char *key;
        int flag;
    } flags[] = {{"special", SL_TOK_ADDED_SPECIAL},
                 {"single_word", SL_TOK_ADDED_WORD},
                 {"lstrip", SL_TOK_ADDED_LSTRIP},
                 {"rstrip", SL_TOK_ADDED_RSTRIP}};
    const char *text = NULL;
    size_t len = 0;
    int64_t id = -1;
    int r = sl_tok_json_text(in, a, place, "content", &text, &len), all = 0, normalized = 0;
    if (r == 0) r = sl_tok_json_int(in, a, place, "id", 0, SL_TOK_VOCAB_MAX, &id);
    if (r == 0 && (!text || id < 0)) return sl_tok_json_bad(in, place, "one has no content or id");
    for (size_t i = 0; i < SL_ARRAY_LEN(flags) && r == 0; i++) {
        int on = 0;
        r = sl_tok_json_bool(in, a, place, flags[i].key, &on);
        if (on) all |= flags[i].flag;
    }
    if (r == 0) {
        normalized = !(all & SL_TOK_ADDED_SPECIAL);
        r = sl_tok_json_bool(in, a, place, "normalized", &normalized);
    }
    if (r != 0) return r;
    /* a token that the model has keeps the model's id, as HF does */
    const json_t *own =
        json_is_object(model_vocab) ? json_object_getn(model_vocab, text, len) : NULL;
    if (json_is_integer(own)) id = json_integer_value(own);
    r = note(in, t, n_tokens, id, text, len);
    if (r != 0) return r;
    t->at[id].type = all & SL_TOK_ADDED_SPECIAL ? SL_TOK_TYPE_CONTROL : SL_TOK_TYPE_USER;
    t->at[id].flags = (uint8_t)all;
    t->at[id].normalized = (uint8_t)normalized;
    return 0;
}

static int collect(const struct sl_tok_source *in, struct table *t, const json_t *vocab,
                   const json_t *added)
{
    size_t n = json_is_object(vocab) ? json_object_size(vocab) : json_array_size(vocab);
    size_t n_tokens = n + json_array_size(added);
    int r = 0;
    if (!json_is_object(vocab) && !json_is_array(vocab))
        return sl_tok_json_bad(in, "model.vocab", "is missing");
    if (added && !json_is_null(added) && !json_is_array(added))
        return sl_tok_json_bad(in, "added_tokens", "is not an array");
    if (n_tokens == 0) return sl_tok_json_bad(in, "model.vocab", "is empty");
    r = json_is_object(vocab) ? collect_object(in, t, vocab, n_tokens)
                              : collect_array(in, t, vocab, n_tokens);
    for (size_t i = 0; i < json_array_size(added) && r == 0; i++)
        r = collect_added(in, t, vocab, json_array_get(added, i), n_tokens);
    while (t->n > 0 && !t->at[t->n - 1].text) t->n--;
    return r;
}

/* ---- added tokens ---------------------------------------------------------------------------- */

/* Tokens that are looked for in the normalized text are normalized themselves: a small vocabulary
 * of its own holds what they become. */
static int index_cooked(const struct sl_tok_source *in, const struct table *tab, const int32_t *ids,
                        int n)
{
    struct sl_tokenizer *t = in->t;
    struct sl_tok_work w = {0};
    struct sl_buf all;
    size_t *ends = calloc((size_t)n + 1, sizeof *ends);
    int32_t *places = calloc((size_t)n + 1, sizeof *places);
    int r = ends && places ? 0 : sl_tok_json_memory(in);
    sl_buf_init(&all, SL_TOK_VOCAB_BYTES_MAX);
    for (int i = 0; i < n && r == 0; i++) {
        const char *s = tab->at[ids[i]].text;
        size_t len = tab->at[ids[i]].len;
        r = sl_tok_norm_run(&t->norm, &w, &s, &len, 1, in->err);
        if (r == 0 && (r = sl_buf_add(&all, s, len)) != 0) r = sl_tok_json_memory(in);
        if (r == 0) ends[i + 1] = all.len;
        if (r == 0) places[i] = i;
    }
    if (r == 0 && n > 0) {
        t->cooked.real = malloc((size_t)n * sizeof *t->cooked.real);
        if (!t->cooked.real || sl_tok_vocab_init(&t->cooked.own, n, all.len) != 0)
            r = sl_tok_json_memory(in);
        for (int i = 0; i < n && r == 0; i++) {
            t->cooked.real[i] = ids[i];
            sl_tok_vocab_put(&t->cooked.own, i, sl_buf_str(&all) + ends[i], ends[i + 1] - ends[i],
                             SL_TOK_TYPE_USER, 0);
        }
        if (r == 0 && sl_tok_added_init(&t->cooked, &t->cooked.own, t->flags, places, n) != 0)
            r = sl_tok_json_memory(in);
    }
    sl_tok_work_close(&w);
    sl_buf_close(&all);
    free(ends);
    free(places);
    return r;
}

static int index_added(const struct sl_tok_source *in, const struct table *tab)
{
    struct sl_tokenizer *t = in->t;
    int n_raw = 0, n_cooked = 0;
    int32_t *raw = malloc((tab->n + 1) * sizeof *raw), *cooked = malloc((tab->n + 1) * sizeof *raw);
    t->flags = calloc(tab->n + 1, 1);
    int r = raw && cooked && t->flags ? 0 : sl_tok_json_memory(in);
    for (size_t i = 0; i < tab->n && r == 0; i++) {
        const struct entry *e = &tab->at[i];
        t->flags[i] = e->flags;
        if (e->type != SL_TOK_TYPE_CONTROL && e->type != SL_TOK_TYPE_USER) continue;
        if (e->normalized)
            cooked[n_cooked++] = (int32_t)i;
        else
            raw[n_raw++] = (int32_t)i;
    }
    if (r == 0 && sl_tok_added_init(&t->raw, &t->vocab, t->flags, raw, n_raw) != 0)
        r = sl_tok_json_memory(in);
    if (r == 0) r = index_cooked(in, tab, cooked, n_cooked);
    t->raw.hides = t->cooked.hides = 1;
    free(raw);
    free(cooked);
    return r;
}

/* ---- BPE ------------------------------------------------------------------------------------- */

struct merge {
    const char *left, *right;
    size_t left_n, right_n;
};

/* "left right" or ["left", "right"]. */
static int get_merge(const json_t *v, struct merge *m)
{
    if (json_is_array(v) && json_array_size(v) == 2) {
        const json_t *a = json_array_get(v, 0), *b = json_array_get(v, 1);
        if (!json_is_string(a) || !json_is_string(b)) return 0;
        *m = (struct merge){json_string_value(a), json_string_value(b), json_string_length(a),
                            json_string_length(b)};
        return 1;
    }
    if (!json_is_string(v)) return 0;
    const char *s = json_string_value(v);
    size_t n = json_string_length(v);
    const char *space = memchr(s, ' ', n);
    if (!space || memchr(space + 1, ' ', n - (size_t)(space + 1 - s))) return 0;
    *m = (struct merge){s, space + 1, (size_t)(space - s), n - (size_t)(space + 1 - s)};
    return 1;
}

static int put_merge(const struct sl_tok_source *in, const json_t *v, size_t i, char *joined)
{
    struct sl_tok_bpe *b = &in->t->bpe;
    const struct sl_tok_vocab *vocab = &in->t->vocab;
    struct merge m;
    char what[96];
    if (!get_merge(v, &m)) {
        snprintf(what, sizeof what, "%zu is not two tokens", i);
        return sl_tok_json_bad(in, "model.merges:", what);
    }
    size_t cut = b->prefix ? strlen(b->prefix) : 0; /* a piece inside a word carries a prefix */
    int32_t merged = -1, left = sl_tok_vocab_find(vocab, m.left, m.left_n);
    int32_t right = sl_tok_vocab_find(vocab, m.right, m.right_n);
    if (cut <= m.right_n && m.left_n + m.right_n - cut <= vocab->text_max) {
        memcpy(joined, m.left, m.left_n);
        memcpy(joined + m.left_n, m.right + cut, m.right_n - cut);
        merged = sl_tok_vocab_find(vocab, joined, m.left_n + m.right_n - cut);
    }
    if (left < 0 || right < 0 || merged < 0) {
        snprintf(what, sizeof what, "the %s of %zu is not in the vocabulary",
                 left < 0    ? "left token"
                 : right < 0 ? "right token"
                             : "result",
                 i);
        return sl_tok_json_bad(in, "model.merges:", what);
    }
    sl_tok_bpe_put(b, left, right, (uint32_t)i, merged);
    return 0;
}

static int is_byte_level(const struct sl_tokenizer *t)
{
    for (int i = 0; i < t->split.n; i++)
        if (t->split.steps[i].kind == SL_TOK_SPLIT_BYTES) return 1;
    for (int i = 0; i < t->norm.n; i++)
        if (t->norm.steps[i].kind == SL_TOK_NORM_BYTE_LEVEL) return 1;
    return 0;
}

int sl_tok_lacks_merges(const struct sl_tok_vocab *v, size_t n_merges)
{
    int n = 0;
    for (int i = 0; i < v->n && n <= LONG_TOKENS && n_merges == 0; i++) {
        size_t len, chars = 0;
        const char *s = sl_tok_vocab_text(v, i, &len);
        if (v->type[i] != SL_TOK_TYPE_NORMAL || (len == 6 && memcmp(s, "<0x", 3) == 0)) continue;
        for (size_t k = 0; k < len; k++) chars += ((unsigned char)s[k] & 0xc0) != 0x80;
        n += chars > 1;
    }
    return n > LONG_TOKENS;
}

static int read_merges(const struct sl_tok_source *in, const json_t *merges)
{
    int r = 0;
    if (!json_is_array(merges))
        return sl_tok_json_bad(in, "model.merges", "is missing: a BPE tokenizer needs its merges");
    size_t n = json_array_size(merges), first = 0;
    if (sl_tok_lacks_merges(&in->t->vocab, n))
        return sl_tok_json_bad(in, "model.merges",
                               "is empty: this vocabulary cannot be used without its merges");
    if (n > SL_TOK_VOCAB_MAX)
        return sl_err_set(in->err, SL_ELIMIT, "%s: model.merges has %zu entries; at most %d",
                          in->name, n, SL_TOK_VOCAB_MAX);
    char *joined = malloc(in->t->vocab.text_max + 1);
    if (!joined || sl_tok_bpe_init(&in->t->bpe, &in->t->vocab, n, is_byte_level(in->t)) != 0)
        r = sl_tok_json_memory(in);
    const char *s = json_string_value(json_array_get(merges, 0));
    if (s && strncmp(s, "#version", 8) == 0) first = 1; /* a line of merges.txt */
    for (size_t i = first; i < n && r == 0; i++)
        r = put_merge(in, json_array_get(merges, i), i, joined);
    free(joined);
    return r;
}

/* A text that may be null, copied. */
static int get_copy(const struct sl_tok_source *in, const json_t *model, const char *key,
                    char **out)
{
    const char *s = NULL;
    size_t n = 0;
    int r = sl_tok_json_text(in, model, "model:", key, &s, &n);
    if (r != 0 || n == 0) return r;
    if (!(*out = malloc(n + 1))) return sl_tok_json_memory(in);
    memcpy(*out, s, n + 1);
    return 0;
}

static int get_unk(const struct sl_tok_source *in, const json_t *model, int32_t *unk)
{
    const char *s = NULL;
    size_t n = 0;
    int r = sl_tok_json_text(in, model, "model:", "unk_token", &s, &n);
    *unk = r == 0 && s ? sl_tok_vocab_find(&in->t->vocab, s, n) : -1;
    if (r == 0 && s && *unk < 0)
        for (int i = 0; i < in->t->vocab.n && *unk < 0; i++) { /* an added token */
            size_t len;
            const char *text = sl_tok_vocab_text(&in->t->vocab, i, &len);
            if (len == n && memcmp(text, s, n) == 0) *unk = i;
        }
    if (r == 0 && s && *unk < 0) return sl_tok_json_bad(in, "model.unk_token", "is no token");
    return r;
}

static int read_bpe(const struct sl_tok_source *in, const json_t *model)
{
    struct sl_tok_bpe *b = &in->t->bpe;
    int r = get_copy(in, model, "continuing_subword_prefix", &b->prefix);
    if (r == 0) r = get_copy(in, model, "end_of_word_suffix", &b->suffix);
    if (r == 0) r = read_merges(in, json_object_get(model, "merges"));
    if (r == 0) r = get_unk(in, model, &b->unk);
    if (r == 0) r = sl_tok_json_bool(in, model, "model:", "fuse_unk", &b->fuse_unk);
    if (r == 0) r = sl_tok_json_bool(in, model, "model:", "byte_fallback", &b->byte_fallback);
    if (r == 0) r = sl_tok_json_bool(in, model, "model:", "ignore_merges", &b->whole_words);
    return r;
}

/* ---- the other models ------------------------------------------------------------------------ */

static int read_unigram(const struct sl_tok_source *in, const json_t *model)
{
    const json_t *vocab = json_object_get(model, "vocab");
    int64_t unk = -1;
    int fallback = 0;
    int r = sl_tok_json_int(in, model, "model:", "unk_id", 0, (int64_t)json_array_size(vocab) - 1,
                            &unk);
    if (r == 0) r = sl_tok_json_bool(in, model, "model:", "byte_fallback", &fallback);
    if (r != 0) return r;
    double *scores = calloc((size_t)in->t->vocab.n, sizeof *scores);
    if (!scores) return sl_tok_json_memory(in);
    for (size_t i = 0; i < json_array_size(vocab); i++)
        scores[i] = json_number_value(json_array_get(json_array_get(vocab, i), 1));
    in->t->model = SL_TOK_UNIGRAM;
    if (sl_tok_unigram_init(&in->t->unigram, &in->t->vocab, scores, (int32_t)unk, fallback) != 0)
        return sl_tok_json_memory(in);
    return 0;
}

static int read_word(const struct sl_tok_source *in, const json_t *model, int pieces)
{
    struct sl_tok_word *w = &in->t->word;
    const char *prefix = "##";
    size_t n = 2;
    int64_t chars = 100;
    in->t->model = SL_TOK_WORD;
    w->vocab = &in->t->vocab;
    w->pieces = pieces;
    int r = get_unk(in, model, &w->unk);
    if (r == 0) r = sl_tok_json_text(in, model, "model:", "continuing_subword_prefix", &prefix, &n);
    if (r == 0)
        r = sl_tok_json_int(in, model, "model:", "max_input_chars_per_word", 0, INT32_MAX, &chars);
    if (r == 0 && n >= sizeof w->prefix)
        return sl_tok_json_bad(in, "model.continuing_subword_prefix", "is too long");
    if (r == 0) memcpy(w->prefix, prefix, n);
    w->chars_max = (int)chars;
    return r;
}

static int read_type(const struct sl_tok_source *in, const json_t *model)
{
    const char *type = NULL;
    size_t n;
    int r = sl_tok_json_text(in, model, "model:", "type", &type, &n);
    if (r != 0) return r;
    if (!type) /* older files do not say */
        type = json_object_get(model, "merges")                 ? "BPE"
               : json_is_array(json_object_get(model, "vocab")) ? "Unigram"
                                                                : "WordPiece";
    if ((strcmp(type, "Unigram") == 0) != json_is_array(json_object_get(model, "vocab")))
        return sl_tok_json_bad(in, "model.vocab", "is of another kind than the model");
    if (strcmp(type, "BPE") == 0) return read_bpe(in, model);
    if (strcmp(type, "Unigram") == 0) return read_unigram(in, model);
    if (strcmp(type, "WordPiece") == 0) return read_word(in, model, 1);
    if (strcmp(type, "WordLevel") == 0) return read_word(in, model, 0);
    return sl_err_set(
        in->err, SL_EUNSUPPORTED,
        "%s: model '%.32s' is not known here (known: BPE Unigram WordPiece WordLevel)", in->name,
        type);
}

int sl_tok_json_model(const struct sl_tok_source *in, const json_t *model, const json_t *added)
{
    struct table tab = {0};
    struct sl_tok_vocab *v = &in->t->vocab;
    if (!json_is_object(model)) return sl_tok_json_bad(in, "model", "is missing");
    int r = collect(in, &tab, json_object_get(model, "vocab"), added);
    if (r == 0 && sl_tok_vocab_init(v, (int)tab.n, tab.bytes) != 0) r = sl_tok_json_memory(in);
    for (size_t i = 0; i < tab.n && r == 0; i++) {
        const struct entry *e = &tab.at[i];
        sl_tok_vocab_put(v, (int)i, e->text ? e->text : "", e->len,
                         e->text ? e->type : SL_TOK_TYPE_UNUSED, e->in_model);
    }
    if (r == 0) r = index_added(in, &tab);
    free(tab.at);
    return r ? r : read_type(in, model);
}
