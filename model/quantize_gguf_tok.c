/* quantize_gguf_tok.c - the tokenizer of a GGUF file as tokenizer.json and tokenizer_config.json.
 *
 * Every token keeps its id: all of them are in model.vocab, and those that stand for themselves are
 * added tokens too. Byte-level BPE brings its merges and a pre-tokenizer that we know the
 * expressions of. SentencePiece BPE has scores instead of merges; two tokens merge where their
 * joined text is a token, best score first, so that list is its merges. What was made is read back
 * and tried on a text before it is believed. */
#include "model/quantize_gguf.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/sl_assert.h"
#include "model/tok.h"
#include "model/tok_regex.h"

#define KEY(name) "tokenizer.ggml." name

/* Words, numbers, quotes, runs of spaces, lines, other scripts: what pre-tokenizers differ in. */
static const char probe[] =
    " Hello  world, it's 2026: 1234567.89!\n\n\tdef f(x):\n        return x+1  # caf\xc3\xa9 \n"
    "THEY'LL go\r\n\xe4\xb8\xad\xe6\x96\x87\xe3\x81\x8b\xe3\x81\xaa "
    "\xd0\x9f\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82 \xf0\x9f\x98\x80\xf0\x9f\x91\xa8 camelCase "
    "HTTPServer ///--- $5 <b>x</b>  ";

struct writer {
    const struct sl_weights *w;
    struct sl_tokenizer *t; /* as read from the file */
    struct sl_err *err;
    json_t *json;
    int spm; /* SentencePiece BPE, else byte-level */
};

static int no_memory(const struct writer *x)
{
    return sl_err_set(x->err, SL_ENOMEM, "%s: out of memory for the tokenizer",
                      sl_weights_path(x->w));
}

static int refuse(const struct writer *x, const char *what)
{
    return sl_err_set(
        x->err, SL_EUNSUPPORTED,
        "%s: %s cannot be written as tokenizer.json; use the folder that the file was "
        "made from",
        sl_weights_path(x->w), what);
}

static json_t *token_text(const struct writer *x, int32_t id)
{
    size_t n;
    const char *s = sl_tok_vocab_text(&x->t->vocab, id, &n);
    return json_stringn(s, n);
}

static int is_word(const struct sl_meta *m, const char *word)
{
    return m && m->type == SL_META_STRING && m->len == strlen(word) &&
           memcmp(m->s, word, m->len) == 0;
}

/* ---- vocabulary ------------------------------------------------------------------------------ */

static json_t *make_vocab(const struct writer *x)
{
    json_t *vocab = json_object();
    for (int i = 0; i < x->t->vocab.n; i++) {
        size_t n;
        const char *s = sl_tok_vocab_text(&x->t->vocab, i, &n);
        if (json_object_setn_new(vocab, s, n, json_integer(i)) == 0) continue;
        sl_err_set(x->err, SL_EUNSUPPORTED,
                   "%s: token %d is no UTF-8 and cannot be written as tokenizer.json",
                   sl_weights_path(x->w), i);
        json_decref(vocab);
        return NULL;
    }
    return vocab;
}

static json_t *make_added(const struct writer *x)
{
    json_t *list = json_array();
    for (int i = 0; i < x->t->vocab.n; i++) {
        int f = x->t->flags[i];
        if (!sl_tok_literal(x->t->vocab.type[i])) continue;
        json_t *o = json_pack("{s:i, s:o, s:b, s:b, s:b, s:b, s:b}", "id", i, "content",
                              token_text(x, i), "single_word", f & SL_TOK_ADDED_WORD, "lstrip",
                              f & SL_TOK_ADDED_LSTRIP, "rstrip", f & SL_TOK_ADDED_RSTRIP,
                              "normalized", 0, "special", f & SL_TOK_ADDED_SPECIAL);
        if (json_array_append_new(list, o) == 0) continue;
        json_decref(list);
        return NULL;
    }
    return list;
}

/* ---- merges ---------------------------------------------------------------------------------- */

static json_t *copy_merges(const struct writer *x)
{
    const struct sl_meta *m = sl_weights_meta(x->w, KEY("merges")); /* checked by the reader */
    json_t *list = json_array();
    for (size_t i = 0; i < m->len; i++) {
        struct sl_meta s = sl_meta_at(m, i);
        if (json_array_append_new(list, json_stringn(s.s, s.len)) == 0) continue;
        json_decref(list);
        return NULL;
    }
    return list;
}

struct merge {
    int32_t left, right, merged;
    float score;
};

static const struct sl_tok_vocab *sorting; /* qsort has no argument for it */

/* Best score first; of equal ones the longer left part, as transformers' converter does. */
static int by_score(const void *a, const void *b)
{
    const struct merge *x = a, *y = b;
    size_t n, m;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    sl_tok_vocab_text(sorting, x->left, &n);
    sl_tok_vocab_text(sorting, y->left, &m);
    if (n != m) return n > m ? -1 : 1;
    return x->merged != y->merged ? (x->merged < y->merged ? -1 : 1) : 0;
}

static int may_merge(const struct sl_tok_vocab *v, int32_t id)
{
    return id >= 0 && v->type[id] != SL_TOK_TYPE_CONTROL && v->type[id] != SL_TOK_TYPE_UNKNOWN &&
           v->type[id] != SL_TOK_TYPE_BYTE;
}

/* All cuts of token `id` into two tokens. 0 or SL_ENOMEM. */
static int add_cuts(const struct writer *x, int32_t id, struct merge **all, size_t *n, size_t *cap)
{
    const struct sl_tok_vocab *v = &x->t->vocab;
    size_t len;
    const char *s = sl_tok_vocab_text(v, id, &len);
    if (!may_merge(v, id)) return 0;
    for (size_t cut = 1; cut < len; cut++) {
        if (((unsigned char)s[cut] & 0xc0) == 0x80) continue;
        int32_t left = sl_tok_vocab_find(v, s, cut);
        int32_t right = may_merge(v, left) ? sl_tok_vocab_find(v, s + cut, len - cut) : -1;
        if (!may_merge(v, right)) continue;
        if (*n == *cap) {
            size_t more = *cap ? 2 * *cap : 4096;
            struct merge *p = realloc(*all, more * sizeof *p);
            if (!p) return SL_ENOMEM;
            *all = p;
            *cap = more;
        }
        (*all)[(*n)++] = (struct merge){left, right, id, x->t->scores[id]};
    }
    return 0;
}

static json_t *make_merges(const struct writer *x)
{
    struct merge *all = NULL;
    size_t n = 0, cap = 0;
    int bad = 0;
    json_t *list = json_array();
    for (int i = 0; i < x->t->vocab.n && !bad; i++) bad = add_cuts(x, i, &all, &n, &cap);
    sorting = &x->t->vocab;
    if (!bad && n) qsort(all, n, sizeof *all, by_score);
    for (size_t i = 0; i < n && !bad; i++) {
        json_t *pair = json_pack("[o, o]", token_text(x, all[i].left), token_text(x, all[i].right));
        bad = json_array_append_new(list, pair);
    }
    free(all);
    if (!bad) return list;
    json_decref(list);
    return NULL;
}

static int put_model(struct writer *x)
{
    json_t *vocab = make_vocab(x), *merges = NULL, *unk = NULL, *model = NULL;
    if (!vocab) return x->err && x->err->code ? x->err->code : no_memory(x);
    merges = x->spm ? make_merges(x) : copy_merges(x);
    unk = x->spm && x->t->bpe.unk >= 0 ? token_text(x, x->t->bpe.unk) : json_null();
    if (merges && unk)
        model = json_pack("{s:s, s:n, s:O, s:n, s:n, s:b, s:b, s:b, s:O, s:O}", "type", "BPE",
                          "dropout", "unk_token", unk, "continuing_subword_prefix",
                          "end_of_word_suffix", "fuse_unk", x->spm, "byte_fallback", x->spm,
                          "ignore_merges", !x->spm && x->t->bpe.whole_words, "vocab", vocab,
                          "merges", merges);
    json_decref(unk);
    json_decref(vocab);
    json_decref(merges);
    return json_object_set_new(x->json, "model", model) ? no_memory(x) : 0;
}

/* ---- steps around the model ------------------------------------------------------------------ */

/* PCRE2's spelling to Oniguruma's: White_Space is \s there; and what looks for the end of a piece
 * without backing up. */
static json_t *oniguruma(const char *s)
{
    static const char *const from[] = {SL_TOK_WS, "++(?:\\z|(*SKIP)(*FAIL))"};
    static const char *const to[] = {"\\s", "+$"};
    char *out = malloc(2 * strlen(s) + 1), *p = out;
    while (out && *s) {
        size_t i = 0;
        while (i < SL_ARRAY_LEN(from) && strncmp(s, from[i], strlen(from[i])) != 0) i++;
        if (i == SL_ARRAY_LEN(from)) {
            *p++ = *s++;
            continue;
        }
        memcpy(p, to[i], strlen(to[i]));
        p += strlen(to[i]);
        s += strlen(from[i]);
    }
    json_t *j = out ? json_stringn(out, (size_t)(p - out)) : NULL;
    free(out);
    return j;
}

static int put_bytes(struct writer *x)
{
    const struct sl_meta *pre = sl_weights_meta(x->w, KEY("pre"));
    int n, bad = 0;
    const char *const *steps =
        sl_tok_pre_steps(pre ? pre->s : "default", pre ? pre->len : strlen("default"), &n);
    json_t *list = json_array();
    for (int i = 0; i < n; i++)
        bad |= json_array_append_new(list, json_pack("{s:s, s:{s:o}, s:s, s:b}", "type", "Split",
                                                     "pattern", "Regex", oniguruma(steps[i]),
                                                     "behavior", "Isolated", "invert", 0));
    bad |= json_array_append_new(list, json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel",
                                                 "add_prefix_space", 0, "trim_offsets", 1,
                                                 "use_regex", 0));
    bad |= json_object_set_new(x->json, "normalizer", json_null());
    bad |= json_object_set_new(x->json, "pre_tokenizer",
                               json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list));
    bad |= json_object_set_new(x->json, "decoder",
                               json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel",
                                         "add_prefix_space", 1, "trim_offsets", 1, "use_regex", 1));
    return bad ? no_memory(x) : 0;
}

static int put_spaces(struct writer *x)
{
    int prefix = x->t->decode.drops != 0;
    json_t *norm = json_array(), *decode = json_array();
    int bad = 0;
    if (prefix)
        bad |= json_array_append_new(
            norm, json_pack("{s:s, s:s}", "type", "Prepend", "prepend", SL_TOK_SPACE));
    bad |=
        json_array_append_new(norm, json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern",
                                              "String", " ", "content", SL_TOK_SPACE));
    bad |=
        json_array_append_new(decode, json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern",
                                                "String", SL_TOK_SPACE, "content", " "));
    bad |= json_array_append_new(decode, json_pack("{s:s}", "type", "ByteFallback"));
    bad |= json_array_append_new(decode, json_pack("{s:s}", "type", "Fuse"));
    if (prefix)
        bad |= json_array_append_new(decode, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip",
                                                       "content", " ", "start", 1, "stop", 0));
    bad |= json_object_set_new(x->json, "pre_tokenizer", json_null());
    bad |= json_object_set_new(x->json, "normalizer",
                               json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", norm));
    bad |= json_object_set_new(x->json, "decoder",
                               json_pack("{s:s, s:o}", "type", "Sequence", "decoders", decode));
    return bad ? no_memory(x) : 0;
}

/* What is put around a text: single and pairs. */
static int put_around(struct writer *x)
{
    const struct sl_tokenizer *t = x->t;
    json_t *lists[2] = {json_array(), json_array()}, *specials = json_object();
    int bad = 0;
    for (int k = 0; k < 2; k++)
        for (int text = 0; text <= k; text++) {
            for (int i = 0; i < t->n_before + t->n_after + 1; i++) {
                int32_t id = i < t->n_before   ? t->before[i]
                             : i > t->n_before ? t->after[i - t->n_before - 1]
                                               : -1;
                json_t *name = id >= 0 ? token_text(x, id) : json_string(text ? "B" : "A");
                const char *key = json_string_value(name);
                if (id >= 0)
                    bad |= json_object_set_new(
                        specials, key ? key : "",
                        json_pack("{s:O, s:[i], s:[O]}", "id", name, "ids", id, "tokens", name));
                bad |= json_array_append_new(
                    lists[k], json_pack("{s:{s:o, s:i}}", id >= 0 ? "SpecialToken" : "Sequence",
                                        "id", name, "type_id", text));
            }
        }
    json_t *o = json_null();
    if (t->n_before + t->n_after > 0)
        o = json_pack("{s:s, s:O, s:O, s:O}", "type", "TemplateProcessing", "single", lists[0],
                      "pair", lists[1], "special_tokens", specials);
    else if (!x->spm)
        o = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 1,
                      "trim_offsets", 0, "use_regex", 1);
    for (int k = 0; k < 2; k++) json_decref(lists[k]);
    json_decref(specials);
    bad |= json_object_set_new(x->json, "post_processor", o);
    return bad ? no_memory(x) : 0;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static int read_back(struct writer *x, const struct sl_out_model *m)
{
    struct sl_tokenizer_json in = {.tokenizer = x->json,
                                   .config = m->files[SL_OUT_TOKENIZER_CONFIG],
                                   .generation = m->files[SL_OUT_GENERATION],
                                   .model = m->files[SL_OUT_CONFIG]};
    struct sl_tokenizer *again = NULL;
    struct sl_ids a = {0}, b = {0};
    int flags = SL_TOK_SPECIAL | SL_TOK_BOS;
    int e = sl_tokenizer_open_json("the tokenizer.json made of the file", &in, &again, x->err);
    if (!e) e = sl_tokenizer_encode(x->t, probe, strlen(probe), flags, &a, x->err);
    if (!e) e = sl_tokenizer_encode(again, probe, strlen(probe), flags, &b, x->err);
    if (!e && (a.len != b.len || memcmp(a.data, b.data, a.len * sizeof *a.data) != 0))
        e = refuse(x, "this tokenizer, which cuts text in another way than the file,");
    free(a.data);
    free(b.data);
    sl_tokenizer_close(again);
    return e;
}

int sl_out_model_tokenizer(const struct sl_weights *w, struct sl_out_model *m, struct sl_err *err)
{
    const struct sl_meta *model = sl_weights_meta(w, KEY("model"));
    struct writer x = {.w = w, .err = err, .spm = is_word(model, "llama")};
    int squeeze = 0;
    if (!model || is_word(model, "none") || is_word(model, "no_vocab")) return 0;
    if (!x.spm && !is_word(model, "gpt2"))
        return refuse(&x, "a tokenizer that is neither byte-level nor SentencePiece BPE");
    int e = sl_weights_bool(w, KEY("remove_extra_whitespaces"), 0, &squeeze, err);
    if (!e && x.spm && squeeze) e = refuse(&x, "a tokenizer that removes spaces");
    if (!e) e = sl_tokenizer_open(w, &x.t, err);
    if (e) return e;
    if (!x.spm && x.t->bpe.byte_fallback)
        e = refuse(&x, "a tokenizer of merges without a byte alphabet");
    x.json = m->files[SL_OUT_TOKENIZER] =
        json_pack("{s:s, s:n, s:n}", "version", "1.0", "truncation", "padding");
    json_t *config = m->files[SL_OUT_TOKENIZER_CONFIG] = json_object();
    if (!e && (!x.json || !config || json_object_set_new(x.json, "added_tokens", make_added(&x))))
        e = no_memory(&x);
    if (!e) e = x.spm ? put_spaces(&x) : put_bytes(&x);
    if (!e) e = put_around(&x);
    if (!e) e = put_model(&x);
    if (!e) e = sl_out_tokenizer_config(w, x.t, x.spm, m, err);
    if (!e) e = read_back(&x, m);
    sl_tokenizer_close(x.t);
    return e;
}
