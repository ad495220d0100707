/* tok_gguf.c - a tokenizer from a GGUF file's tokenizer.ggml.* metadata (GGUF specification).
 *
 * tokenizer.ggml.model says which kind: `gpt2` is BPE over the byte alphabet, split as
 * tokenizer.ggml.pre says; `llama` is SentencePiece BPE, merging by scores; `t5` is unigram. */
#include "model/tok.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/sl_assert.h"
#include "base/text.h"

#define KEY(name) "tokenizer.ggml." name

struct source {
    const struct sl_weights *w;
    const char *path;
    struct sl_err *err;
};

static int no_memory(const struct source *in)
{
    return sl_err_set(in->err, SL_ENOMEM, "%s: out of memory for the tokenizer", in->path);
}

/* The array `key` of `elem`s; SL_EINPUT when it is absent or something else. */
static int get_array(const struct source *in, const char *key, enum sl_meta_type elem,
                     const struct sl_meta **out)
{
    const struct sl_meta *m = sl_weights_meta(in->w, key);
    if (!m)
        return sl_err_set(in->err, SL_EINPUT,
                          "%s: %s is missing; convert the model again with its tokenizer", in->path,
                          key);
    if (m->type != SL_META_ARRAY || (m->len > 0 && m->elem != elem))
        return sl_err_set(in->err, SL_EINPUT, "%s: %s is not an array of %s", in->path, key,
                          elem == SL_META_STRING ? "strings"
                          : elem == SL_META_INT  ? "integers"
                                                 : "numbers");
    *out = m;
    return 0;
}

/* The string `key`, `def` when it is absent. */
static int get_string(const struct source *in, const char *key, const char *def, const char **s,
                      size_t *n)
{
    const struct sl_meta *m = sl_weights_meta(in->w, key);
    if (m && m->type != SL_META_STRING)
        return sl_err_set(in->err, SL_EINPUT, "%s: %s is not a string", in->path, key);
    *s = m ? m->s : def;
    *n = m ? m->len : strlen(def);
    return 0;
}

static int get_id(const struct sl_tokenizer *t, const struct source *in, const char *key,
                  int32_t *id)
{
    int64_t v = -1;
    int r = sl_weights_int(in->w, key, -1, 0, t->vocab.n - 1, &v, in->err);
    *id = (int32_t)v;
    return r;
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static int read_tokens(struct sl_tok_vocab *v, const struct source *in)
{
    const struct sl_meta *tokens = NULL, *types = NULL;
    int r = get_array(in, KEY("tokens"), SL_META_STRING, &tokens);
    if (r == 0 && sl_weights_meta(in->w, KEY("token_type"))) /* else all are normal ones */
        r = get_array(in, KEY("token_type"), SL_META_INT, &types);
    if (r != 0) return r;
    size_t n = tokens->len, bytes = 0;
    if (n == 0) return sl_err_set(in->err, SL_EINPUT, "%s: %s is empty", in->path, KEY("tokens"));
    if (types && types->len != n)
        return sl_err_set(in->err, SL_EINPUT, "%s: %s has %zu entries for %zu tokens", in->path,
                          KEY("token_type"), types->len, n);
    for (size_t i = 0; i < n && bytes <= SL_TOK_VOCAB_BYTES_MAX; i++)
        bytes += sl_meta_at(tokens, i).len;
    if (n > SL_TOK_VOCAB_MAX || bytes > SL_TOK_VOCAB_BYTES_MAX)
        return sl_err_set(in->err, SL_ELIMIT,
                          "%s: %s has %zu tokens; at most %d and %u MiB are possible", in->path,
                          KEY("tokens"), n, SL_TOK_VOCAB_MAX, SL_TOK_VOCAB_BYTES_MAX >> 20);
    if (sl_tok_vocab_init(v, (int)n, bytes) != 0) return no_memory(in);
    for (size_t i = 0; i < n; i++) {
        struct sl_meta text = sl_meta_at(tokens, i);
        int64_t type = types ? sl_meta_at(types, i).i : SL_TOK_TYPE_NORMAL;
        if (type < 0 || type >= SL_TOK_TYPE_COUNT)
            return sl_err_set(in->err, SL_EINPUT, "%s: %s[%zu] is %lld, not a token type (0 to %d)",
                              in->path, KEY("token_type"), i, (long long)type,
                              SL_TOK_TYPE_COUNT - 1);
        sl_tok_vocab_put(v, (int)i, text.s, text.len, (int)type, 1);
    }
    return 0;
}

/* ---- BPE by merges --------------------------------------------------------------------------- */

/* One merge, "left right": no token has a space inside, the alphabets write it otherwise. */
static int read_merge(struct sl_tokenizer *t, const struct source *in, const struct sl_meta *m,
                      size_t i, char *joined)
{
    const char *space = m->len > 1 ? memchr(m->s + 1, ' ', m->len - 1) : NULL;
    size_t left_n = space ? (size_t)(space - m->s) : 0, right_n = space ? m->len - left_n - 1 : 0;
    if (right_n == 0)
        return sl_err_set(in->err, SL_EINPUT,
                          "%s: %s[%zu] is not two tokens with a space between them", in->path,
                          KEY("merges"), i);
    int32_t merged = -1, left = sl_tok_vocab_find(&t->vocab, m->s, left_n);
    int32_t right = sl_tok_vocab_find(&t->vocab, space + 1, right_n);
    if (left_n + right_n <= t->vocab.text_max) {
        memcpy(joined, m->s, left_n);
        memcpy(joined + left_n, space + 1, right_n);
        merged = sl_tok_vocab_find(&t->vocab, joined, left_n + right_n);
    }
    if (left < 0 || right < 0 || merged < 0)
        return sl_err_set(in->err, SL_EINPUT, "%s: %s[%zu]: the %s of this merge is not in %s",
                          in->path, KEY("merges"), i,
                          left < 0    ? "left token"
                          : right < 0 ? "right token"
                                      : "result",
                          KEY("tokens"));
    sl_tok_bpe_put(&t->bpe, left, right, (uint32_t)i, merged);
    return 0;
}

static int read_merges(struct sl_tokenizer *t, const struct source *in, int byte_level)
{
    const struct sl_meta *merges = NULL;
    int r = get_array(in, KEY("merges"), SL_META_STRING, &merges);
    if (r != 0) return r;
    if (merges->len > SL_TOK_VOCAB_MAX)
        return sl_err_set(in->err, SL_ELIMIT, "%s: %s has %zu entries; at most %d are possible",
                          in->path, KEY("merges"), merges->len, SL_TOK_VOCAB_MAX);
    if (sl_tok_lacks_merges(&t->vocab, merges->len))
        return sl_err_set(in->err, SL_EINPUT,
                          "%s: %s is empty: this vocabulary cannot be used without its merges; "
                          "convert the model again",
                          in->path, KEY("merges"));
    char *joined = malloc(t->vocab.text_max + 1);
    if (!joined || sl_tok_bpe_init(&t->bpe, &t->vocab, merges->len, byte_level) != 0) {
        free(joined);
        return no_memory(in);
    }
    for (size_t i = 0; i < merges->len && r == 0; i++) {
        struct sl_meta m = sl_meta_at(merges, i);
        r = read_merge(t, in, &m, i, joined);
    }
    free(joined);
    return r;
}

static int read_gpt2(struct sl_tokenizer *t, const struct source *in, const char *def, int *bos)
{
    const char *pre = "";
    size_t n = 0;
    struct sl_tok_pre is;
    int r = get_string(in, KEY("pre"), def, &pre, &n);
    if (r == 0) r = sl_tok_pre_open(pre, n, in->path, &t->split, &is, in->err);
    if (r == 0) r = read_tokens(&t->vocab, in);
    if (r == 0) r = read_merges(t, in, !is.raw);
    if (r != 0) return r;
    t->bpe.whole_words = is.whole_words;
    t->bpe.blocks = 1;
    t->bpe.byte_fallback = is.raw;
    *bos = is.adds_bos;
    if (is.raw) return sl_tok_spaces(t, 0) ? no_memory(in) : 0;
    t->decode.steps[t->decode.n++].kind = SL_TOK_DECODE_ALPHABET;
    t->decode.literal = SL_TOK_LITERALS;
    return 0;
}

/* ---- SentencePiece --------------------------------------------------------------------------- */

static int read_scores(struct sl_tokenizer *t, const struct source *in)
{
    const struct sl_meta *scores = NULL;
    int r = get_array(in, KEY("scores"), SL_META_FLOAT, &scores);
    if (r != 0) return r;
    if (scores->len != (size_t)t->vocab.n)
        return sl_err_set(in->err, SL_EINPUT, "%s: %s has %zu entries for %d tokens", in->path,
                          KEY("scores"), scores->len, t->vocab.n);
    if (!(t->scores = malloc(scores->len * sizeof *t->scores))) return no_memory(in);
    for (size_t i = 0; i < scores->len; i++) {
        t->scores[i] = (float)sl_meta_at(scores, i).f;
        if (!isfinite(t->scores[i]))
            return sl_err_set(in->err, SL_EINPUT, "%s: %s[%zu] is not a finite number", in->path,
                              KEY("scores"), i);
    }
    return 0;
}

/* precompiled_charsmap is an array of bytes. */
static int read_charsmap(struct sl_tokenizer *t, const struct source *in)
{
    const char *key = KEY("precompiled_charsmap");
    const struct sl_meta *m = sl_weights_meta(in->w, key);
    if (!m) return 0;
    int r = get_array(in, key, SL_META_INT, &m);
    if (r != 0 || m->len == 0) return r;
    uint8_t *blob = malloc(m->len);
    if (!blob) return no_memory(in);
    for (size_t i = 0; i < m->len; i++) blob[i] = (uint8_t)sl_meta_at(m, i).i;
    struct sl_tok_norm_step *s = sl_tok_norm_add(&t->norm, SL_TOK_NORM_CHARSMAP, 0);
    r = sl_tok_charsmap_open(blob, m->len, in->path, &s->map, in->err);
    free(blob);
    return r;
}

static int read_spaces(struct sl_tokenizer *t, const struct source *in)
{
    int prefix = 1, squeeze = 0;
    int r = sl_weights_bool(in->w, KEY("add_space_prefix"), 1, &prefix, in->err);
    if (r == 0) r = sl_weights_bool(in->w, KEY("remove_extra_whitespaces"), 0, &squeeze, in->err);
    if (r != 0) return r;
    if (squeeze) (void)sl_tok_norm_add(&t->norm, SL_TOK_NORM_SQUEEZE, 0);
    r = sl_tok_spaces(t, prefix);
    if (squeeze) t->decode.drops = INT_MAX - 1;
    return r ? no_memory(in) : 0;
}

static int read_sentencepiece(struct sl_tokenizer *t, const struct source *in, int unigram)
{
    int32_t unk;
    int r = read_tokens(&t->vocab, in);
    if (r == 0) r = read_scores(t, in);
    if (r == 0 && unigram) r = read_charsmap(t, in);
    if (r == 0) r = read_spaces(t, in);
    if (r == 0) r = get_id(t, in, KEY("unknown_token_id"), &unk);
    if (r != 0) return r;
    if (!unigram) {
        if (sl_tok_bpe_init(&t->bpe, &t->vocab, 0, 0) != 0) return no_memory(in);
        t->bpe.scores = t->scores;
        t->bpe.byte_fallback = 1;
        t->bpe.unk = unk;
        return 0;
    }
    double *scores = malloc((size_t)t->vocab.n * sizeof *scores);
    if (!scores) return no_memory(in);
    for (int i = 0; i < t->vocab.n; i++)
        scores[i] = t->vocab.type[i] == SL_TOK_TYPE_USER ? 0 : (double)t->scores[i];
    t->model = SL_TOK_UNIGRAM;
    return sl_tok_unigram_init(&t->unigram, &t->vocab, scores, unk, 1) ? no_memory(in) : 0;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static int read_model(struct sl_tokenizer *t, const struct source *in, int *adds_bos, int *adds_eos)
{
    const char *s;
    size_t n;
    if (!sl_weights_meta(in->w, KEY("model")))
        return sl_err_set(in->err, SL_EINPUT, "%s: no tokenizer in this file (%s is missing)",
                          in->path, KEY("model"));
    int r = get_string(in, KEY("model"), "", &s, &n);
    if (r != 0) return r;
    if (n == 4 && memcmp(s, "gpt2", 4) == 0) return read_gpt2(t, in, "default", adds_bos);
    if (n == 6 && memcmp(s, "gemma4", 6) == 0) {
        *adds_bos = 1;
        return read_gpt2(t, in, "gemma4", &(int){0});
    }
    if (n == 5 && memcmp(s, "llama", 5) == 0) {
        *adds_bos = 1;
        return read_sentencepiece(t, in, 0);
    }
    if (n == 2 && memcmp(s, "t5", 2) == 0) {
        *adds_eos = 1;
        return read_sentencepiece(t, in, 1);
    }
    char shown[3 * 32 + 1];
    shown[sl_utf8_scrub(s, SL_MIN(n, (size_t)32), shown)] = 0;
    return sl_err_set(in->err, SL_EUNSUPPORTED,
                      "%s: %s is '%s'; the kinds of tokenizers that work here are 'gpt2' "
                      "(byte-level BPE), 'llama' (SentencePiece BPE) and 't5' (unigram)",
                      in->path, KEY("model"), shown);
}

static int read_around(struct sl_tokenizer *t, const struct source *in, int adds_bos, int adds_eos)
{
    int r = get_id(t, in, KEY("bos_token_id"), &t->bos);
    if (r == 0) r = get_id(t, in, KEY("eos_token_id"), &t->eos);
    if (r == 0) r = sl_weights_bool(in->w, KEY("add_bos_token"), adds_bos, &adds_bos, in->err);
    if (r == 0) r = sl_weights_bool(in->w, KEY("add_eos_token"), adds_eos, &adds_eos, in->err);
    if (r != 0) return r;
    if (adds_bos && t->bos >= 0) t->before[t->n_before++] = t->bos;
    if (adds_eos && t->eos >= 0) t->after[t->n_after++] = t->eos;
    return 0;
}

/* Phi-3's special tokens take the spaces behind them; its GGUF files cannot say so, but for their
 * name. */
static int is_phi3(const struct source *in)
{
    const char *name = "";
    size_t n = 0;
    char text[64] = "";
    if (get_string(in, "general.name", "", &name, &n) != 0) return 0;
    memcpy(text, name, SL_MIN(n, sizeof text - 1));
    return strcasestr(text, "phi-3") || strcasestr(text, "phi3");
}

static void keep_spaces(struct sl_tokenizer *t)
{
    static const char *const names[] = {"<unk>", "<s>", "<|endoftext|>"};
    for (size_t i = 0; i < SL_ARRAY_LEN(names); i++) {
        int32_t id = sl_tok_vocab_find(&t->vocab, names[i], strlen(names[i]));
        if (id >= 0) t->flags[id] &= (uint8_t)~SL_TOK_ADDED_RSTRIP;
    }
}

int sl_tok_gguf_read(struct sl_tokenizer *t, const struct sl_weights *w, struct sl_err *err)
{
    struct source in = {w, sl_weights_path(w), err};
    int adds_bos = 0, adds_eos = 0;
    int32_t ends[2] = {-1, -1};
    int r = read_model(t, &in, &adds_bos, &adds_eos);
    if (r == 0) r = read_around(t, &in, adds_bos, adds_eos);
    if (r == 0) r = get_id(t, &in, KEY("eot_token_id"), &ends[0]);
    if (r == 0) r = get_id(t, &in, KEY("eom_token_id"), &ends[1]);
    if (r != 0) return r;
    int phi3 = is_phi3(&in);
    r = sl_tok_decode_run(&t->decode, &t->vocab, NULL);
    if (r == 0) r = sl_tok_add_literals(t, phi3);
    if (r == 0) r = sl_tok_mark_ends(t);
    if (r != 0) return no_memory(&in);
    if (phi3) keep_spaces(t);
    for (size_t i = 0; i < SL_ARRAY_LEN(ends); i++)
        if (ends[i] >= 0) t->ends[ends[i]] = 1;
    return 0;
}
