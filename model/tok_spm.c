/* tok_spm.c - a tokenizer from SentencePiece's own file, tokenizer.model: a protobuf message
 * (sentencepiece_model.proto).
 *
 *   ModelProto      1 pieces (repeated)  2 trainer_spec  3 normalizer_spec
 *   SentencePiece   1 piece  2 score  3 type
 *   TrainerSpec     3 model_type  24 treat_whitespace_as_suffix  35 byte_fallback  40 unk_id
 *                   41 bos_id  42 eos_id
 *   NormalizerSpec  2 precompiled_charsmap  3 add_dummy_prefix  4 remove_extra_whitespaces
 *                   5 escape_whitespaces
 *
 * The reader knows just these and skips other fields; every length is checked against what is left
 * of the message around it. */
#include "model/tok.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"

struct span {
    const uint8_t *p, *end;
};

struct field {
    uint32_t number;
    uint64_t value; /* a varint, or 4 or 8 bytes as they are */
    struct span bytes;
};

struct source {
    const char *name;
    struct sl_err *err;
    struct span trainer, normalizer;
    int pieces;
    size_t text_bytes;
};

static int bad(const struct source *in, const char *what)
{
    return sl_err_set(in->err, SL_EINPUT, "%s: %s; the file is damaged, fetch it again", in->name,
                      what);
}

static int no_memory(const struct source *in)
{
    return sl_err_set(in->err, SL_ENOMEM, "%s: out of memory for the tokenizer", in->name);
}

/* ---- protobuf -------------------------------------------------------------------------------- */

static int varint(struct span *s, uint64_t *out)
{
    *out = 0;
    for (int shift = 0; shift < 64 && s->p < s->end; shift += 7) {
        uint8_t b = *s->p++;
        *out |= (uint64_t)(b & 127) << shift;
        if (b < 128) return 1;
    }
    return 0;
}

static int fixed(struct span *s, size_t n, uint64_t *out)
{
    *out = 0;
    if ((size_t)(s->end - s->p) < n) return 0;
    for (size_t i = 0; i < n; i++) *out |= (uint64_t)s->p[i] << (8 * i);
    s->p += n;
    return 1;
}

/* The next field: 1, 0 at the end, -1 when the message is damaged. */
static int next_field(struct span *s, struct field *f)
{
    uint64_t key, n;
    if (s->p == s->end) return 0;
    if (!varint(s, &key) || key >> 3 > UINT32_MAX) return -1;
    *f = (struct field){.number = (uint32_t)(key >> 3)};
    switch (key & 7) {
    case 0:
        return varint(s, &f->value) ? 1 : -1;
    case 1:
        return fixed(s, 8, &f->value) ? 1 : -1;
    case 5:
        return fixed(s, 4, &f->value) ? 1 : -1;
    case 2:
        if (!varint(s, &n) || n > (size_t)(s->end - s->p)) return -1;
        f->bytes = (struct span){s->p, s->p + n};
        s->p += n;
        return 1;
    default:
        return -1;
    }
}

/* The number in field `number` of a message, `def` when it has none. The last one counts. */
static int64_t number_of(struct span s, uint32_t number, int64_t def)
{
    struct field f;
    while (next_field(&s, &f) == 1)
        if (f.number == number) def = (int64_t)f.value;
    return def;
}

static struct span bytes_of(struct span s, uint32_t number)
{
    struct field f;
    struct span found = {NULL, NULL};
    while (next_field(&s, &f) == 1)
        if (f.number == number) found = f.bytes;
    return found;
}

/* ---- pieces ---------------------------------------------------------------------------------- */

/* Counts the pieces and finds the other messages. */
static int survey(struct source *in, struct span all)
{
    struct field f;
    int r;
    while ((r = next_field(&all, &f)) == 1) {
        if (f.number == 1) {
            struct span text = bytes_of(f.bytes, 1);
            in->pieces++;
            in->text_bytes += (size_t)(text.end - text.p);
        }
        if (f.number == 2) in->trainer = f.bytes;
        if (f.number == 3) in->normalizer = f.bytes;
        if (in->pieces > SL_TOK_VOCAB_MAX) return bad(in, "it has too many pieces");
    }
    if (r < 0) return bad(in, "it is no SentencePiece model");
    return in->pieces > 0 ? 0 : bad(in, "it has no pieces, so it is no SentencePiece model");
}

static int read_pieces(struct sl_tokenizer *t, const struct source *in, struct span all)
{
    struct field f;
    if (sl_tok_vocab_init(&t->vocab, in->pieces, in->text_bytes) != 0) return no_memory(in);
    t->scores = calloc((size_t)in->pieces, sizeof *t->scores);
    if (!t->scores) return no_memory(in);
    for (int i = 0; next_field(&all, &f) == 1;) {
        if (f.number != 1) continue;
        struct span text = bytes_of(f.bytes, 1);
        int64_t type = number_of(f.bytes, 3, SL_TOK_TYPE_NORMAL);
        uint32_t bits = (uint32_t)number_of(f.bytes, 2, 0);
        memcpy(&t->scores[i], &bits, sizeof bits);
        if (type < SL_TOK_TYPE_NORMAL || type >= SL_TOK_TYPE_COUNT)
            return bad(in, "a piece has a type that is not known");
        if (!isfinite(t->scores[i])) return bad(in, "a piece has a score that is no number");
        /* the numbers of the types are those that GGUF took over */
        sl_tok_vocab_put(&t->vocab, i++, text.p ? (const char *)text.p : "",
                         (size_t)(text.end - text.p), (int)type, 1);
    }
    return 0;
}

/* ---- the specs ------------------------------------------------------------------------------- */

static int read_normalizer(struct sl_tokenizer *t, const struct source *in)
{
    struct span map = bytes_of(in->normalizer, 2);
    int prefix = number_of(in->normalizer, 3, 1) != 0;
    if (number_of(in->normalizer, 5, 1) == 0 || number_of(in->trainer, 24, 0) != 0)
        return sl_err_set(in->err, SL_EUNSUPPORTED,
                          "%s: spaces that are not escaped, or that end words "
                          "(treat_whitespace_as_suffix), are not known here",
                          in->name);
    if (map.end > map.p) {
        struct sl_tok_norm_step *s = sl_tok_norm_add(&t->norm, SL_TOK_NORM_CHARSMAP, 0);
        int r = sl_tok_charsmap_open(map.p, (size_t)(map.end - map.p), in->name, &s->map, in->err);
        if (r != 0) return r;
    }
    int squeeze = number_of(in->normalizer, 4, 1) != 0;
    if (squeeze) (void)sl_tok_norm_add(&t->norm, SL_TOK_NORM_SQUEEZE, 0);
    int r = sl_tok_spaces(t, prefix);
    if (squeeze) t->decode.drops = INT_MAX - 1;
    return r ? no_memory(in) : 0;
}

static int32_t id_of(const struct sl_tokenizer *t, const struct source *in, uint32_t field,
                     int64_t def)
{
    int64_t id = (int32_t)number_of(in->trainer, field, def);
    return id >= 0 && id < t->vocab.n ? (int32_t)id : -1;
}

static int read_model(struct sl_tokenizer *t, const struct source *in)
{
    int64_t type = number_of(in->trainer, 3, 1);
    int32_t unk = id_of(t, in, 40, 0);
    int fallback = number_of(in->trainer, 35, 0) != 0;
    if (type == 2) {
        if (sl_tok_bpe_init(&t->bpe, &t->vocab, 0, 0) != 0) return no_memory(in);
        t->bpe.scores = t->scores;
        t->bpe.byte_fallback = fallback;
        t->bpe.unk = unk;
        t->bpe.fuse_unk = 1;
        return 0;
    }
    if (type != 1)
        return sl_err_set(in->err, SL_EUNSUPPORTED,
                          "%s: a SentencePiece model of kind %lld (words or characters); known are "
                          "unigram (1) and BPE (2)",
                          in->name, (long long)type);
    double *scores = malloc((size_t)t->vocab.n * sizeof *scores);
    if (!scores) return no_memory(in);
    for (int i = 0; i < t->vocab.n; i++) scores[i] = (double)t->scores[i];
    t->model = SL_TOK_UNIGRAM;
    return sl_tok_unigram_init(&t->unigram, &t->vocab, scores, unk, fallback) ? no_memory(in) : 0;
}

int sl_tok_spm_read(struct sl_tokenizer *t, const char *name, const void *data, size_t n,
                    struct sl_err *err)
{
    struct source in = {.name = name, .err = err};
    struct span all = {data, (const uint8_t *)data + n};
    if (n == 0) return bad(&in, "it is empty");
    int r = survey(&in, all);
    if (r == 0) r = read_pieces(t, &in, all);
    if (r == 0) r = read_normalizer(t, &in);
    if (r == 0) r = read_model(t, &in);
    if (r != 0) return r;
    t->bos = id_of(t, &in, 41, 1);
    t->eos = id_of(t, &in, 42, 2);
    /* what Llama and T5 put around a text when no tokenizer_config.json says */
    if (t->model == SL_TOK_BPE && t->bos >= 0) t->before[t->n_before++] = t->bos;
    if (t->model == SL_TOK_UNIGRAM && t->eos >= 0) t->after[t->n_after++] = t->eos;
    r = sl_tok_decode_run(&t->decode, &t->vocab, NULL);
    if (r == 0) r = sl_tok_add_literals(t, 0);
    if (r == 0) r = sl_tok_mark_ends(t);
    return r ? no_memory(&in) : 0;
}
