/* tok.h - what the parts of the tokenizer share; private to model/tokenizer.c and tok_*.c.
 *
 *   text -> tok_pre.c: special tokens cut out, the rest split into pieces -> tok_bpe.c: pieces
 * merged to ids
 *
 * Nothing here trusts the model file: hash tables are seeded by chance, so that no vocabulary can
 * make them slow, and no input text makes the work more than O(n log n). */
#ifndef SL_MODEL_TOK_H
#define SL_MODEL_TOK_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "model/tokenizer.h"

#define SL_TOK_VOCAB_MAX (1 << 24)        /* tokens; the largest real vocabularies hold 2^18 */
#define SL_TOK_VOCAB_BYTES_MAX (1u << 30) /* bytes of all tokens together */

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

/* Tokens of these types stand for themselves; all others are written in the byte alphabet. */
static inline int sl_tok_literal(int type)
{
    return type == SL_TOK_TYPE_UNKNOWN || type == SL_TOK_TYPE_CONTROL || type == SL_TOK_TYPE_USER;
}

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

/* The power of two, 16 or more, that holds at_least. */
static inline size_t sl_tok_capacity(size_t at_least)
{
    size_t c = 16;
    while (c < at_least) c *= 2;
    return c;
}

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
/* Token `id` (to be called for 0, 1, 2 ...); a repeated text belongs to the last id. */
void sl_tok_vocab_put(struct sl_tok_vocab *v, int id, const char *text, size_t len, int type);
void sl_tok_vocab_close(struct sl_tok_vocab *v);
int32_t sl_tok_vocab_find(const struct sl_tok_vocab *v, const char *text,
                          size_t len); /* -1: none */
/* The same for bytes, which are put into the byte alphabet first. */
int32_t sl_tok_vocab_find_bytes(const struct sl_tok_vocab *v, const char *bytes, size_t len);

/* ---- merges (tok_bpe.c) ---------------------------------------------------------------------- */

struct sl_tok_pair;
struct sl_tok_bpe {
    struct sl_tok_pair *slots; /* (left id, right id) -> rank, merged id */
    size_t mask;
    uint64_t seed;
    int32_t byte_id[256]; /* -1: the vocabulary has no token for this byte */
};

int sl_tok_bpe_init(struct sl_tok_bpe *b, const struct sl_tok_vocab *v, size_t n_merges);
/* The merge of rank `rank`; of two merges of one pair the lower rank counts. At most n_merges
 * calls. */
void sl_tok_bpe_put(struct sl_tok_bpe *b, int32_t left, int32_t right, uint32_t rank,
                    int32_t merged);
void sl_tok_bpe_close(struct sl_tok_bpe *b);

/* Working memory of one encoding; zero-initialise. */
struct sl_tok_symbol;
struct sl_tok_work {
    struct sl_tok_symbol *symbols;
    uint64_t *heap;
    size_t symbols_cap, heap_len, heap_cap;
};
void sl_tok_work_close(struct sl_tok_work *w);

/* Appends the ids of one piece. Bytes without a token are left out (see byte_id). 0 or SL_ENOMEM.
 */
int sl_tok_bpe_encode(const struct sl_tok_bpe *b, struct sl_tok_work *w, const char *piece,
                      size_t n, struct sl_ids *ids);

/* ---- special tokens and splitting (tok_pre.c) ------------------------------------------------ */

/* Literal tokens, sorted by their bytes, so that the longest one at a place is found by narrowing a
 * range. */
struct sl_tok_specials {
    const struct sl_tok_vocab *vocab;
    int32_t *ids;
    int n;
    int first[257];      /* first[b]..first[b + 1]: those that begin with byte b */
    uint8_t begins[256]; /* bit 0: a user-defined one begins with it, bit 1: any one */
};

int sl_tok_specials_init(struct sl_tok_specials *s, const struct sl_tok_vocab *v);
void sl_tok_specials_close(struct sl_tok_specials *s);
/* The first special token in text[from..n): its id, its place in *at and length in *len; the
 * longest of those that begin there. User-defined ones always count, control and unknown ones when
 * `all`. -1 when there is none. */
int32_t sl_tok_specials_next(const struct sl_tok_specials *s, const char *text, size_t from,
                             size_t n, int all, size_t *at, size_t *len);

struct sl_tok_pre; /* compiled expressions; immutable */

/* `name` is tokenizer.ggml.pre; SL_EUNSUPPORTED for one that we do not know. `where` begins the
 * message. */
int sl_tok_pre_open(const char *name, size_t n, const char *where, struct sl_tok_pre **out,
                    struct sl_err *err);
void sl_tok_pre_close(struct sl_tok_pre *p);
int sl_tok_pre_whole_words(
    const struct sl_tok_pre *p); /* a piece that is a token is taken without merging */
int sl_tok_pre_adds_bos(const struct sl_tok_pre *p); /* when the file does not say */

typedef int (*sl_tok_piece_fn)(void *arg, const char *piece, size_t n);
/* Calls fn for the pieces of text[0..n), which is valid UTF-8, in order; they cover it. Returns 0,
 * fn's first nonzero value, or SL_ENOMEM. */
int sl_tok_pre_split(const struct sl_tok_pre *p, const char *text, size_t n, sl_tok_piece_fn fn,
                     void *arg, struct sl_err *err);

#endif
