/* tokenizer.c - opens a tokenizer through the reader of its file and encodes text with it.
 *
 * Opening checks everything once (one clear line says what is wrong with the file), so that
 * encoding fails only where a file's own expressions backtrack without end or its normalizer
 * swells. Some vocabularies lack tokens for bytes that never occurred in their training text
 * (SmolLM2: a few control characters and bytes that UTF-8 does not use). Such a byte is left out of
 * the encoding, as llama.cpp does; putting the unknown token there would smuggle a control token
 * (SmolLM2: the end of text) into user text. */
#include "model/tokenizer.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"
#include "model/tok.h"
#include "model/tok_regex.h"

/* ---- opening --------------------------------------------------------------------------------- */

static struct sl_tokenizer *create(void)
{
    struct sl_tokenizer *t = calloc(1, sizeof *t);
    if (t) t->bos = t->eos = -1;
    return t;
}

/* Hands the tokenizer out, or closes it. */
static int opened(struct sl_tokenizer *t, int r, struct sl_tokenizer **out)
{
    if (r == 0)
        *out = t;
    else
        sl_tokenizer_close(t);
    return r;
}

/* tokenizer.model, SentencePiece's own file. */
static int open_model_file(const char *dir, const struct sl_tokenizer_json *in,
                           struct sl_tokenizer **out, struct sl_err *err)
{
    char path[PATH_MAX];
    struct sl_buf b;
    sl_buf_init(&b, SL_TOK_SPM_MAX);
    int k = snprintf(path, sizeof path, "%s/tokenizer.model", dir), r = 0;
    FILE *f = k < (int)sizeof path ? fopen(path, "rb") : NULL;
    if (!f)
        return sl_err_set(err, SL_ENOTFOUND,
                          "%s: no tokenizer.json and no tokenizer.model in this folder; fetch them "
                          "with the model",
                          dir);
    r = sl_buf_read(&b, f);
    if (r == SL_EIO)
        sl_err_set(err, r, "%s: reading failed", path);
    else if (r != 0)
        sl_err_set(err, r, "%s: cannot be read: %s", path, sl_strerror(r));
    fclose(f);
    if (r == 0) r = sl_tokenizer_open_spm(path, b.data, b.len, in, out, err);
    sl_buf_close(&b);
    return r;
}

static int open_folder(const struct sl_weights *w, struct sl_tokenizer **out, struct sl_err *err)
{
    struct sl_tokenizer_json in = {0};
    char name[PATH_MAX];
    int r = sl_weights_json_load(w, SL_JSON_TOKENIZER, &in.tokenizer, err);
    if (r == 0) r = sl_weights_json_load(w, SL_JSON_TOKENIZER_CONFIG, &in.config, err);
    if (r == 0) r = sl_weights_json_load(w, SL_JSON_GENERATION, &in.generation, err);
    if (r == 0) r = sl_weights_json_load(w, SL_JSON_CONFIG, &in.model, err);
    if (r != 0) return r;
    if (!in.tokenizer) return open_model_file(sl_weights_dir(w), &in, out, err);
    snprintf(name, sizeof name, "%s/tokenizer.json", sl_weights_dir(w));
    return sl_tokenizer_open_json(name, &in, out, err);
}

int sl_tokenizer_open(const struct sl_weights *w, struct sl_tokenizer **out, struct sl_err *err)
{
    SL_ASSERT(w && out);
    *out = NULL;
    if (sl_weights_dir(w)) return open_folder(w, out, err);
    struct sl_tokenizer *t = create();
    if (!t) return sl_err_set(err, SL_ENOMEM, "out of memory for a tokenizer");
    return opened(t, sl_tok_gguf_read(t, w, err), out);
}

int sl_tokenizer_open_json(const char *name, const struct sl_tokenizer_json *in,
                           struct sl_tokenizer **out, struct sl_err *err)
{
    SL_ASSERT(name && in && in->tokenizer && out);
    *out = NULL;
    struct sl_tokenizer *t = create();
    if (!t) return sl_err_set(err, SL_ENOMEM, "out of memory for a tokenizer");
    return opened(t, sl_tok_json_read(t, name, in, err), out);
}

int sl_tokenizer_open_spm(const char *name, const void *data, size_t n,
                          const struct sl_tokenizer_json *in, struct sl_tokenizer **out,
                          struct sl_err *err)
{
    SL_ASSERT(name && (data || n == 0) && out);
    *out = NULL;
    struct sl_tokenizer *t = create();
    if (!t) return sl_err_set(err, SL_ENOMEM, "out of memory for a tokenizer");
    int r = sl_tok_spm_read(t, name, data, n, err);
    if (r == 0 && in) r = sl_tok_json_ends(t, name, in, err);
    return opened(t, r, out);
}

void sl_tokenizer_close(struct sl_tokenizer *t)
{
    if (!t) return;
    sl_tok_added_close(&t->raw);
    sl_tok_added_close(&t->cooked);
    sl_tok_norm_close(&t->norm);
    sl_tok_split_close(&t->split);
    sl_tok_bpe_close(&t->bpe);
    sl_tok_unigram_close(&t->unigram);
    sl_tok_vocab_close(&t->vocab);
    free(t->flags);
    free(t->scores);
    free(t->ends);
    free(t);
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

int sl_tok_mark_ends(struct sl_tokenizer *t)
{
    const struct sl_tok_vocab *v = &t->vocab;
    t->ends = calloc((size_t)v->n, 1);
    if (!t->ends) return SL_ENOMEM;
    for (size_t i = 0; i < SL_ARRAY_LEN(end_names); i++) {
        int32_t id = sl_tokenizer_find(t, end_names[i], strlen(end_names[i]));
        if (id >= 0 && v->type[id] == SL_TOK_TYPE_CONTROL) t->ends[id] = 1;
    }
    /* OpenAI's harmony format: <|end|> ends one of several messages of a turn, <|return|> the turn
     */
    int32_t end = sl_tokenizer_find(t, "<|end|>", 7);
    if (end >= 0 && sl_tokenizer_find(t, "<|return|>", 10) >= 0) t->ends[end] = 0;
    if (t->eos >= 0) t->ends[t->eos] = 1;
    return 0;
}

int sl_tok_spaces(struct sl_tokenizer *t, int prefix)
{
    struct sl_tok_norm_step *s;
    struct sl_tok_decode *d = &t->decode;
    if (prefix) {
        s = sl_tok_norm_add(&t->norm, SL_TOK_NORM_PREPEND, 0);
        if (sl_tok_norm_texts(s, NULL, 0, " ", 1) != 0) return SL_ENOMEM;
    }
    s = sl_tok_norm_add(&t->norm, SL_TOK_NORM_REPLACE, 0);
    d->steps[0] = (struct sl_tok_decode_step){
        .kind = SL_TOK_DECODE_REPLACE, .from = SL_TOK_SPACE, .from_n = 3, .to = " ", .to_n = 1};
    d->steps[1] = (struct sl_tok_decode_step){.kind = SL_TOK_DECODE_BYTES};
    d->n = 2;
    d->drops = prefix;
    d->literal = SL_TOK_LITERALS;
    return sl_tok_norm_texts(s, " ", 1, SL_TOK_SPACE, 3);
}

int sl_tok_add_literals(struct sl_tokenizer *t, int rstrip)
{
    const struct sl_tok_vocab *v = &t->vocab;
    int n = 0;
    int32_t *ids = malloc((size_t)v->n * sizeof *ids);
    t->flags = calloc((size_t)v->n, 1);
    if (!ids || !t->flags) {
        free(ids);
        return SL_ENOMEM;
    }
    for (int i = 0; i < v->n; i++) {
        if (!sl_tok_literal(v->type[i])) continue;
        ids[n++] = i;
        if (v->type[i] != SL_TOK_TYPE_USER) t->flags[i] = SL_TOK_ADDED_SPECIAL;
        if (v->type[i] == SL_TOK_TYPE_CONTROL && rstrip) t->flags[i] |= SL_TOK_ADDED_RSTRIP;
    }
    int r = sl_tok_added_init(&t->raw, v, t->flags, ids, n);
    free(ids);
    return r;
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

void sl_tok_work_close(struct sl_tok_work *w)
{
    free(w->symbols);
    free(w->heap);
    free(w->lattice);
    sl_tok_match_close(w->match);
    for (size_t i = 0; i < SL_ARRAY_LEN(w->norm); i++) sl_buf_close(&w->norm[i]);
    for (size_t i = 0; i < SL_ARRAY_LEN(w->split); i++) sl_buf_close(&w->split[i]);
    memset(w, 0, sizeof *w);
}

struct encoding {
    const struct sl_tokenizer *t;
    struct sl_tok_work work;
    int all_specials;
    struct sl_ids *ids;
    struct sl_err *err;
};

static int encode_piece(void *arg, const char *piece, size_t n)
{
    struct encoding *e = arg;
    switch (e->t->model) {
    case SL_TOK_UNIGRAM:
        return sl_tok_unigram_encode(&e->t->unigram, &e->work, piece, n, e->ids);
    case SL_TOK_WORD:
        return sl_tok_word_encode(&e->t->word, piece, n, e->ids);
    default:
        return sl_tok_bpe_encode(&e->t->bpe, &e->work, piece, n, e->ids);
    }
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

/* Valid text without raw added tokens: normalized, cut at the others, split and merged. */
static int encode_valid(struct encoding *e, const char *s, size_t n, int flags)
{
    const struct sl_tokenizer *t = e->t;
    int r = sl_tok_norm_run(&t->norm, &e->work, &s, &n, !(flags & SL_TOK_CONTINUES), e->err);
    if (e->work.norm_moved) flags &= ~SL_TOK_AT_START; /* HF asks where a piece comes from */
    for (size_t pos = 0; r == 0 && pos < n;) {
        size_t at = n, len = 0;
        int32_t id = sl_tok_added_next(&t->cooked, s, pos, n, e->all_specials, &at, &len);
        r = sl_tok_split_run(&t->split, &e->work, s + pos, at - pos,
                             pos == 0 ? flags : flags & ~SL_TOK_AT_START, encode_piece, e, e->err);
        if (r == 0 && id >= 0) r = sl_ids_push(e->ids, id);
        pos = at + len;
    }
    return r;
}

/* A byte that is no UTF-8: its own token, the unknown one, or nothing. */
static int encode_byte(struct encoding *e, uint8_t byte)
{
    const struct sl_tokenizer *t = e->t;
    int32_t id = -1;
    if (t->model == SL_TOK_BPE) id = t->bpe.byte_id[byte] >= 0 ? t->bpe.byte_id[byte] : t->bpe.unk;
    if (t->model == SL_TOK_UNIGRAM)
        id = t->unigram.byte_fallback ? t->unigram.byte_id[byte] : t->unigram.unk;
    if (t->model == SL_TOK_WORD) id = t->word.unk;
    return id >= 0 ? sl_ids_push(e->ids, id) : 0;
}

/* Text without raw added tokens: valid runs, each invalid byte in between is its own token. */
static int encode_plain(struct encoding *e, const char *s, size_t n, int flags)
{
    for (size_t i = 0; i < n;) {
        size_t run = valid_prefix(s + i, n - i);
        int r = run ? encode_valid(e, s + i, run, i == 0 ? flags : SL_TOK_CONTINUES) : 0;
        if (r != 0) return r;
        i += run;
        if (i == n) break;
        if ((r = encode_byte(e, (uint8_t)s[i++])) != 0) return r;
    }
    return 0;
}

static int encode_text(struct encoding *e, const char *text, size_t n)
{
    for (size_t pos = 0; pos < n;) {
        size_t at = n, len = 0;
        int32_t id = sl_tok_added_next(&e->t->raw, text, pos, n, e->all_specials, &at, &len);
        int r = encode_plain(e, text + pos, at - pos, pos == 0 ? SL_TOK_AT_START : 0);
        if (r != 0) return r;
        if (id >= 0 && sl_ids_push(e->ids, id) != 0) return SL_ENOMEM;
        pos = at + len;
    }
    return 0;
}

static int push_all(struct sl_ids *ids, const int32_t *around, int n)
{
    int r = 0;
    for (int i = 0; i < n && r == 0; i++) r = sl_ids_push(ids, around[i]);
    return r;
}

int sl_tokenizer_encode(const struct sl_tokenizer *t, const char *text, size_t n, int flags,
                        struct sl_ids *ids, struct sl_err *err)
{
    SL_ASSERT(t && ids && (text || n == 0));
    if (n > SL_TOK_TEXT_MAX)
        return sl_err_set(err, SL_ELIMIT,
                          "the text has %zu bytes; at most %u MiB can be encoded at once", n,
                          SL_TOK_TEXT_MAX >> 20);
    struct encoding e = {.t = t, .ids = ids, .err = err, .all_specials = flags & SL_TOK_SPECIAL};
    size_t before = ids->len;
    int r = 0;
    if (err) err->code = 0;
    if (flags & SL_TOK_BOS) r = push_all(ids, t->before, t->n_before);
    if (r == 0) r = encode_text(&e, text, n);
    if (r == 0 && (flags & SL_TOK_BOS)) r = push_all(ids, t->after, t->n_after);
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
    return t->bos >= 0 && t->n_before > 0 && t->before[0] == t->bos;
}

int sl_tokenizer_drops(const struct sl_tokenizer *t)
{
    return t->decode.drops;
}
