/* tok.h - what the parts of the tokenizer share; private to model/tokenizer.c and tok_*.c.
 *
 *   text -> added tokens cut out (tok_added.c) -> normalized (tok_norm.c) -> split into pieces
 *        (tok_split.c) -> each piece to ids (tok_bpe.c, tok_unigram.c, tok_word.c)
 *   ids  -> bytes, by a table made at opening (tok_decode.c)
 *
 * The parts are filled by a reader: tok_json.c (tokenizer.json), tok_gguf.c (tokenizer.ggml.*) or
 * tok_spm.c (tokenizer.model). Nothing here trusts the model file: hash tables are seeded by
 * chance, so that no vocabulary can make them slow, and the expressions that a file brings work
 * under a limit. */
#ifndef SL_MODEL_TOK_H
#define SL_MODEL_TOK_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "model/tokenizer.h"

#define SL_TOK_VOCAB_MAX (1 << 24)        /* tokens; the largest real vocabularies hold 2^18 */
#define SL_TOK_VOCAB_BYTES_MAX (1u << 30) /* bytes of all tokens together */
#define SL_TOK_STEPS_MAX 32               /* normalizers, pre-tokenizers or decoders in a row */
#define SL_TOK_SPM_MAX (128u << 20)       /* bytes of a tokenizer.model; real ones have 5 MB */
#define SL_TOK_NORMAL_MAX                                                                          \
    ((size_t)4 * SL_TOK_TEXT_MAX) /* bytes of normalized text; a space may become 3 bytes */

#define SL_TOK_SPACE "\xe2\x96\x81" /* U+2581, how SentencePiece writes a space */

enum sl_tok_type { /* tokenizer.ggml.token_type */
                   SL_TOK_TYPE_UNDEFINED,
                   SL_TOK_TYPE_NORMAL,
                   SL_TOK_TYPE_UNKNOWN,
                   SL_TOK_TYPE_CONTROL,
                   SL_TOK_TYPE_USER,
                   SL_TOK_TYPE_UNUSED,
                   SL_TOK_TYPE_BYTE,
                   SL_TOK_TYPE_COUNT
};

/* Tokens of these types stand for themselves; all others are written in the file's alphabet. */
static inline int sl_tok_literal(int type)
{
    return type == SL_TOK_TYPE_UNKNOWN || type == SL_TOK_TYPE_CONTROL || type == SL_TOK_TYPE_USER;
}

#define SL_TOK_LITERALS                                                                            \
    (1 << SL_TOK_TYPE_UNKNOWN | 1 << SL_TOK_TYPE_CONTROL | 1 << SL_TOK_TYPE_USER)

/* The printable character that stands for a byte in a GPT-2 vocabulary: printable Latin-1 bytes
 * stand for themselves, the 68 others (controls, space, DEL..U+00A0, soft hyphen) for U+0100,
 * U+0101 ... in order. */
static inline uint32_t sl_tok_alphabet(uint8_t b)
{
    if (b < 33) return 256u + b;
    if (b < 127) return b;
    if (b < 161) return 256u + 33 + (b - 127u);
    return b == 173 ? 256u + 67 : b;
}

/* The byte that a character of that alphabet stands for, -1 for other characters. */
static inline int sl_tok_alphabet_byte(uint32_t cp)
{
    if (cp < 256) return sl_tok_alphabet((uint8_t)cp) == cp ? (int)cp : -1;
    if (cp < 256 + 33) return (int)cp - 256;
    if (cp < 256 + 67) return (int)cp - 256 - 33 + 127;
    return cp == 256 + 67 ? 173 : -1;
}

/* The power of two, 16 or more, that holds at_least. */
static inline size_t sl_tok_capacity(size_t at_least)
{
    size_t c = 16;
    while (c < at_least) c *= 2;
    return c;
}

/* Appends s[0..n), valid or not, in the byte alphabet. 0, SL_ELIMIT or SL_ENOMEM. */
int sl_tok_alphabet_add(struct sl_buf *out, const char *s, size_t n); /* tok_decode.c */

/* ---- vocabulary (tok_vocab.c) ---------------------------------------------------------------- */

/* Tokens as the file writes them (`text`, found by hash) and as the bytes they stand for. */
struct sl_tok_vocab {
    int n;
    char *text, *bytes;           /* all tokens, one after the other */
    uint32_t *text_at, *bytes_at; /* n + 1 offsets */
    uint8_t *type;                /* enum sl_tok_type */
    int32_t *slots;               /* open addressing; -1 is empty */
    size_t mask;
    uint64_t seed;
    size_t text_max; /* bytes of the longest text */
};

/* Room for n tokens of `text_bytes` bytes together. 0 or SL_ENOMEM; free with sl_tok_vocab_close in
 * either case. */
int sl_tok_vocab_init(struct sl_tok_vocab *v, int n, size_t text_bytes);
/* Token `id` (to be called for 0, 1, 2 ...). Only tokens `in_model` are found by their text; a
 * repeated text belongs to the last id. */
void sl_tok_vocab_put(struct sl_tok_vocab *v, int id, const char *text, size_t len, int type,
                      int in_model);
void sl_tok_vocab_close(struct sl_tok_vocab *v);
int32_t sl_tok_vocab_find(const struct sl_tok_vocab *v, const char *text,
                          size_t len); /* -1: none */
const char *sl_tok_vocab_text(const struct sl_tok_vocab *v, int32_t id, size_t *len);

/* ---- regular expressions (tok_regex.c) ------------------------------------------------------- */

struct sl_tok_regex; /* compiled; immutable */

/* Compiles an expression of Oniguruma's dialect (tokenizer.json) or, when `ours`, one of PCRE2 that
 * does linear work on any text and is matched without a limit. 0, SL_EUNSUPPORTED or SL_ENOMEM; the
 * message begins with `where`. */
int sl_tok_regex_open(const char *pattern, size_t n, int ours, const char *where,
                      struct sl_tok_regex **out, struct sl_err *err);
void sl_tok_regex_close(struct sl_tok_regex *re);

struct sl_tok_work;
/* The next match in s[from..n), valid UTF-8; it sees s[0..from) behind it. 1 and its place, 0 for
 * none, SL_ELIMIT when the expression backtracks without end, or SL_ENOMEM. */
int sl_tok_regex_next(const struct sl_tok_regex *re, struct sl_tok_work *w, const char *s, size_t n,
                      size_t from, size_t *begin, size_t *end, struct sl_err *err);

/* ---- characters (tok_unicode.c) -------------------------------------------------------------- */

enum sl_tok_form { SL_TOK_NFC, SL_TOK_NFD, SL_TOK_NFKC, SL_TOK_NFKD };
/* Appends s[0..n), valid UTF-8, in a normalization form. */
int sl_tok_unicode_form(struct sl_buf *out, const char *s, size_t n, enum sl_tok_form form);
int sl_tok_unicode_lower(struct sl_buf *out, const char *s, size_t n);
/* Bytes of the first grapheme cluster of s[0..n), n > 0. */
size_t sl_tok_unicode_grapheme(const char *s, size_t n);
int sl_tok_is_space(uint32_t cp);                /* White_Space */
int sl_tok_is_number(uint32_t cp);               /* N */
int sl_tok_is_mark(uint32_t cp, int nonspacing); /* M, or only Mn */
int sl_tok_is_punct(uint32_t cp);                /* P or ASCII punctuation */
int sl_tok_is_word(uint32_t cp);                 /* what \w means to Rust's expressions */
int sl_tok_is_control(uint32_t cp);              /* C but for tab, newline and carriage return */
int sl_tok_is_han(uint32_t cp);                  /* the ideographs that BERT sets apart */

/* ---- normalizers (tok_norm.c) ---------------------------------------------------------------- */

enum sl_tok_norm_kind {
    SL_TOK_NORM_FORM,       /* flags: enum sl_tok_form */
    SL_TOK_NORM_LOWER,      /* lower case */
    SL_TOK_NORM_STRIP,      /* flags: 1 left, 2 right */
    SL_TOK_NORM_MARKS,      /* combining marks go; flags: 1 only those that take no room */
    SL_TOK_NORM_REPLACE,    /* pattern or regex -> content */
    SL_TOK_NORM_PREPEND,    /* content */
    SL_TOK_NORM_CHARSMAP,   /* flags: 1 by grapheme (HF), 0 longest match (SentencePiece) */
    SL_TOK_NORM_NMT,        /* controls go, odd spaces become spaces */
    SL_TOK_NORM_BYTE_LEVEL, /* bytes in the byte alphabet */
    SL_TOK_NORM_CLEAN,      /* BERT: controls go, spaces are spaces */
    SL_TOK_NORM_HAN,        /* BERT: spaces around ideographs */
    SL_TOK_NORM_SQUEEZE     /* SentencePiece: outer spaces go, runs become one */
};

struct sl_tok_charsmap;
struct sl_tok_norm_step {
    enum sl_tok_norm_kind kind;
    int flags;
    char *pattern, *content; /* owned */
    size_t pattern_n, content_n;
    struct sl_tok_regex *regex;
    struct sl_tok_charsmap *map;
};

struct sl_tok_norm {
    struct sl_tok_norm_step steps[SL_TOK_STEPS_MAX];
    int n;
};

/* A new step of that kind, NULL when there are SL_TOK_STEPS_MAX. */
struct sl_tok_norm_step *sl_tok_norm_add(struct sl_tok_norm *m, enum sl_tok_norm_kind kind,
                                         int flags);
/* Copies of pattern (may be NULL) and content into the step. 0 or SL_ENOMEM. */
int sl_tok_norm_texts(struct sl_tok_norm_step *s, const char *pattern, size_t pattern_n,
                      const char *content, size_t content_n);
void sl_tok_norm_close(struct sl_tok_norm *m);
/* Normalizes *s of *n bytes, valid UTF-8; the result lives in w until the next call. `begins`: 0
 * for a text that goes on where another ended, which gets no prefix. */
int sl_tok_norm_run(const struct sl_tok_norm *m, struct sl_tok_work *w, const char **s, size_t *n,
                    int begins, struct sl_err *err);

/* SentencePiece's precompiled_charsmap (tok_charsmap.c): a double-array trie of byte strings and
 * what replaces them. 0, SL_EINPUT (damaged) or SL_ENOMEM. */
int sl_tok_charsmap_open(const void *blob, size_t n, const char *where,
                         struct sl_tok_charsmap **out, struct sl_err *err);
void sl_tok_charsmap_close(struct sl_tok_charsmap *m);
/* The key at the beginning of s[0..n), the longest or the shortest: its length, 0 for none, and
 * what replaces it, a string with a NUL, perhaps no valid UTF-8. */
size_t sl_tok_charsmap_find(const struct sl_tok_charsmap *m, const char *s, size_t n, int longest,
                            const char **to);

/* ---- pre-tokenizers (tok_split.c) ------------------------------------------------------------ */

enum sl_tok_split_kind {
    SL_TOK_SPLIT_REGEX,
    SL_TOK_SPLIT_TEXT,      /* an exact string */
    SL_TOK_SPLIT_CLASS,     /* single characters of a class */
    SL_TOK_SPLIT_WORDS,     /* runs of word characters, runs of others that are no spaces */
    SL_TOK_SPLIT_METASPACE, /* spaces become `text`, words begin with it */
    SL_TOK_SPLIT_PREFIX,    /* a space before each piece that has none */
    SL_TOK_SPLIT_BYTES      /* the byte alphabet */
};

enum sl_tok_behavior { /* what becomes of a match: HF's names */
                       SL_TOK_ISOLATED,
                       SL_TOK_REMOVED,
                       SL_TOK_MERGED_PREVIOUS,
                       SL_TOK_MERGED_NEXT,
                       SL_TOK_CONTIGUOUS
};

enum sl_tok_scheme { SL_TOK_PREPEND_ALWAYS, SL_TOK_PREPEND_FIRST, SL_TOK_PREPEND_NEVER };

struct sl_tok_split_step {
    enum sl_tok_split_kind kind;
    enum sl_tok_behavior behavior;
    int invert;
    struct sl_tok_regex *regex;
    char text[256]; /* TEXT: what to look for; METASPACE: the sign */
    size_t text_n;
    int (*is)(uint32_t cp); /* CLASS */
    enum sl_tok_scheme scheme;
};

struct sl_tok_split {
    struct sl_tok_split_step steps[SL_TOK_STEPS_MAX];
    int n;
};

struct sl_tok_split_step *sl_tok_split_add(struct sl_tok_split *p, enum sl_tok_split_kind kind,
                                           enum sl_tok_behavior behavior); /* NULL: too many */
void sl_tok_split_close(struct sl_tok_split *p);

enum { SL_TOK_AT_START = 1, SL_TOK_CONTINUES = 2 };
typedef int (*sl_tok_piece_fn)(void *arg, const char *piece, size_t n);
/* Calls fn for the pieces of text[0..n), valid UTF-8, in order. `flags`: the text is the first of
 * all; it goes on where another ended. Returns 0, fn's first nonzero value, or an error. */
int sl_tok_split_run(const struct sl_tok_split *p, struct sl_tok_work *w, const char *text,
                     size_t n, int flags, sl_tok_piece_fn fn, void *arg, struct sl_err *err);

/* The expression that GPT-2 splits by, in PCRE2's dialect. */
extern const char sl_tok_split_gpt2[];

/* ---- the pre-tokenizers of GGUF (tok_pre.c) -------------------------------------------------- */

struct sl_tok_pre {
    int whole_words; /* a piece that is a token is taken without merging */
    int adds_bos;    /* when the file does not say */
    int raw;         /* spaces are U+2581, characters are themselves: no byte alphabet */
};

/* `name` is tokenizer.ggml.pre; SL_EUNSUPPORTED for one that we do not know. `where` begins the
 * message. Adds the steps to *split. */
int sl_tok_pre_open(const char *name, size_t n, const char *where, struct sl_tok_split *split,
                    struct sl_tok_pre *out, struct sl_err *err);
/* The expressions of a pre-tokenizer that sl_tok_pre_open takes, in PCRE2's dialect; *n of them. */
const char *const *sl_tok_pre_steps(const char *name, size_t len, int *n);

/* ---- models ---------------------------------------------------------------------------------- */

struct sl_tok_pair;
struct sl_tok_bpe {
    const struct sl_tok_vocab *vocab;
    struct sl_tok_pair *slots; /* (left id, right id) -> rank, merged id */
    size_t mask;
    uint64_t seed;
    const float *scores;  /* (n) SentencePiece: any two that make a token merge, best score first */
    int32_t direct[512];  /* ids of the first characters, -1 for none */
    int32_t byte_id[256]; /* the token of one byte, -1 for none */
    int byte_fallback;    /* an unknown character is its bytes, when all of them have tokens */
    int32_t unk;          /* -1: an unknown character is left out */
    int fuse_unk, whole_words;
    int blocks;            /* an unknown character keeps its neighbours from merging (llama.cpp) */
    char *prefix, *suffix; /* of pieces that go on or end a word; NULL for none; owned */
};

/* `v` is filled. Fills direct and byte_id (a token <0x0A>, or the byte alphabet's). 0 or SL_ENOMEM;
 * close in either case. */
int sl_tok_bpe_init(struct sl_tok_bpe *b, const struct sl_tok_vocab *v, size_t n_merges,
                    int byte_level);
/* The merge of rank `rank`; of two merges of one pair the lower rank counts. At most n_merges
 * calls. */
void sl_tok_bpe_put(struct sl_tok_bpe *b, int32_t left, int32_t right, uint32_t rank,
                    int32_t merged);
void sl_tok_bpe_close(struct sl_tok_bpe *b);
/* Many tokens of several characters and no merge that makes them: a file that lost its merges. */
int sl_tok_lacks_merges(const struct sl_tok_vocab *v, size_t n_merges);
/* Appends the ids of one piece. 0 or SL_ENOMEM. */
int sl_tok_bpe_encode(const struct sl_tok_bpe *b, struct sl_tok_work *w, const char *piece,
                      size_t n, struct sl_ids *ids);

/* The most probable cut into tokens (Kudo 2018). */
struct sl_tok_sorted { /* tokens in the order of their bytes: prefixes are found by narrowing */
    const struct sl_tok_vocab *vocab;
    int32_t *ids;
    int n;
    int first[257]; /* first[b]..first[b + 1]: those that begin with byte b */
};
struct sl_tok_unigram {
    struct sl_tok_sorted sorted;
    double *scores; /* (n), owned */
    double unk_score;
    int32_t unk;
    int byte_fallback;
    int32_t byte_id[256];
};
int sl_tok_unigram_init(struct sl_tok_unigram *u, const struct sl_tok_vocab *v, double *scores,
                        int32_t unk, int byte_fallback);
void sl_tok_unigram_close(struct sl_tok_unigram *u);
int sl_tok_unigram_encode(const struct sl_tok_unigram *u, struct sl_tok_work *w, const char *piece,
                          size_t n, struct sl_ids *ids);

/* Whole words: WordLevel, or WordPiece's longest pieces from the left. */
struct sl_tok_word {
    const struct sl_tok_vocab *vocab;
    int32_t unk; /* -1: unknown words are left out */
    int pieces;  /* WordPiece */
    int chars_max;
    char prefix[16];
};
int sl_tok_word_encode(const struct sl_tok_word *m, const char *piece, size_t n,
                       struct sl_ids *ids);

/* Working memory of one encoding; zero-initialise. */
struct sl_tok_symbol;
struct sl_tok_lattice;
struct sl_tok_match;
struct sl_tok_work {
    struct sl_tok_symbol *symbols;
    uint64_t *heap;
    struct sl_tok_lattice *lattice;
    size_t symbols_cap, heap_len, heap_cap, lattice_cap;
    struct sl_tok_match *match;
    int norm_moved; /* the normalizer took away what the text began with */
    struct sl_buf norm[2], split[SL_TOK_STEPS_MAX];
};
void sl_tok_work_close(struct sl_tok_work *w);

/* ---- added tokens (tok_added.c) -------------------------------------------------------------- */

enum { /* flags of an added token */
       SL_TOK_ADDED_SPECIAL = 1,
       SL_TOK_ADDED_WORD = 2,   /* only where no word character is beside it */
       SL_TOK_ADDED_LSTRIP = 4, /* takes the spaces before it */
       SL_TOK_ADDED_RSTRIP = 8  /* ... behind it */
};

/* Sorts ids[0..n) by their bytes into an index of its own. 0 or SL_ENOMEM. */
int sl_tok_sorted_init(struct sl_tok_sorted *s, const struct sl_tok_vocab *v, const int32_t *ids,
                       int n);
void sl_tok_sorted_close(struct sl_tok_sorted *s);
/* The tokens that begin text[0..n), shortest first: start with *lo = *depth = 0; the next id and
 * its length in *depth, or -1. Of equal texts the last. */
struct sl_tok_prefixes {
    int lo, hi;
    size_t depth;
};
int32_t sl_tok_sorted_next(const struct sl_tok_sorted *s, struct sl_tok_prefixes *at,
                           const char *text, size_t n);

struct sl_tok_added {
    struct sl_tok_sorted sorted;
    const uint8_t *flags;    /* (vocabulary) of each id; owned by the tokenizer */
    uint8_t begins[256];     /* bit 0: one that is not special begins with it, bit 1: any one */
    struct sl_tok_vocab own; /* texts to look for that are not those of the tokens; else empty */
    int32_t *real;           /* (own) their ids, rising; NULL when they are the tokens themselves */
    int hides; /* a special one that does not count hides the shorter ones that begin there (HF) */
};
/* `v` is the vocabulary, or a->own. */
int sl_tok_added_init(struct sl_tok_added *a, const struct sl_tok_vocab *v, const uint8_t *flags,
                      const int32_t *ids, int n);
void sl_tok_added_close(struct sl_tok_added *a);
/* The first added token in text[from..n): its id, its place in *at and length in *len (with the
 * spaces it takes); the longest of those that begin there. Special ones count when `all`. -1: none.
 */
int32_t sl_tok_added_next(const struct sl_tok_added *a, const char *text, size_t from, size_t n,
                          int all, size_t *at, size_t *len);

/* ---- decoders (tok_decode.c) ----------------------------------------------------------------- */

enum sl_tok_decode_kind {
    SL_TOK_DECODE_REPLACE, /* from -> to */
    SL_TOK_DECODE_BYTES,   /* <0x0A> -> that byte */
    SL_TOK_DECODE_ALPHABET,
    SL_TOK_DECODE_STRIP, /* `from` (one character) up to `count` times at the left of each token */
    SL_TOK_DECODE_WORDPIECE, /* `from` at the beginning goes, else a space comes before */
    SL_TOK_DECODE_SPACE      /* a space before each token */
};
struct sl_tok_decode_step {
    enum sl_tok_decode_kind kind;
    char from[64], to[64];
    size_t from_n, to_n;
    int count, cleanup;
};
struct sl_tok_decode {
    struct sl_tok_decode_step steps[SL_TOK_STEPS_MAX];
    int n;
    int fused;   /* what comes next is about the whole text, not about a token */
    int literal; /* bit set of enum sl_tok_type: these stand for themselves */
    int drops;   /* spaces that a text loses at its beginning; -1: all of its first token */
};
/* Fills v->bytes; tokens of `cooked` (may be NULL) are decoded from what they became when they were
 * normalized. 0, SL_ELIMIT or SL_ENOMEM. */
int sl_tok_decode_run(const struct sl_tok_decode *d, struct sl_tok_vocab *v,
                      const struct sl_tok_added *cooked);

/* ---- the whole (tokenizer.c) ----------------------------------------------------------------- */

enum sl_tok_model { SL_TOK_BPE, SL_TOK_UNIGRAM, SL_TOK_WORD };

#define SL_TOK_AROUND_MAX 16 /* special tokens put before or after a text */

struct sl_tokenizer {
    struct sl_tok_vocab vocab;
    uint8_t *flags;                  /* (n) of added tokens */
    struct sl_tok_added raw, cooked; /* found in the text as it is; in the normalized text */
    struct sl_tok_norm norm;
    struct sl_tok_split split;
    enum sl_tok_model model;
    struct sl_tok_bpe bpe;
    struct sl_tok_unigram unigram;
    struct sl_tok_word word;
    float *scores; /* of a SentencePiece BPE; owned */
    struct sl_tok_decode decode;
    int32_t before[SL_TOK_AROUND_MAX], after[SL_TOK_AROUND_MAX];
    int n_before, n_after;
    uint8_t *ends; /* (n) 1: ends generation */
    int32_t bos, eos;
};

/* The readers fill a zeroed tokenizer whose bos and eos are -1; the caller closes it on failure. */
int sl_tok_gguf_read(struct sl_tokenizer *t, const struct sl_weights *w, struct sl_err *err);
int sl_tok_json_read(struct sl_tokenizer *t, const char *name, const struct sl_tokenizer_json *in,
                     struct sl_err *err);
int sl_tok_spm_read(struct sl_tokenizer *t, const char *name, const void *data, size_t n,
                    struct sl_err *err);
/* What tokenizer_config.json and generation_config.json say beside tokenizer.json or
 * tokenizer.model: BOS, EOS, what is put around a text, ends. */
int sl_tok_json_ends(struct sl_tokenizer *t, const char *name, const struct sl_tokenizer_json *in,
                     struct sl_err *err);
/* Marks the tokens that end a turn in any model by their names, and EOS. 0 or SL_ENOMEM. */
int sl_tok_mark_ends(struct sl_tokenizer *t);
/* SentencePiece's way with spaces: one before the text (`prefix`), all of them U+2581, and back,
 * for a normalizer and a decoder that have no other steps behind these. 0 or SL_ENOMEM. */
int sl_tok_spaces(struct sl_tokenizer *t, int prefix);
/* Makes t->raw of all tokens that stand for themselves, their flags from their types (`rstrip`:
 * more flags of control tokens). 0 or SL_ENOMEM. */
int sl_tok_add_literals(struct sl_tokenizer *t, int rstrip);

#endif
