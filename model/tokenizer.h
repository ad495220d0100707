/* tokenizer.h - text to token ids and back.
 *
 * Added and special tokens are cut out first, the rest is normalized, split by a pre-tokenizer
 * (regular expressions on PCRE2, Unicode properties) and each piece becomes ids: by byte-pair
 * merging (byte-level as GPT-2 introduced it, or SentencePiece's with byte fallback), by the most
 * probable cut (unigram), or as whole words. A tokenizer comes from tokenizer.json, from a GGUF
 * file's tokenizer.ggml.* metadata or from SentencePiece's tokenizer.model; all of them give the
 * same ids for the same model. Immutable after opening: any thread may use it. */
#ifndef SL_MODEL_TOKENIZER_H
#define SL_MODEL_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "model/weights.h"

#ifdef __cplusplus
extern "C" {
#endif

struct sl_tokenizer;

/* A growable list of ids; zero-initialise, free data with free(). */
struct sl_ids {
    int32_t *data;
    size_t len, cap;
};

enum {
    SL_TOK_SPECIAL = 1, /* recognise special tokens written in the text (chat prompts); otherwise
                           they are plain text */
    SL_TOK_BOS = 2      /* add what the model puts around a text: BOS with most, EOS with some */
};

#define SL_TOK_TEXT_MAX (64u << 20) /* bytes of one text */

/* The tokenizer of a model: of a GGUF file from its metadata, of a folder from tokenizer.json, else
 * from tokenizer.model. SL_EINPUT for one that is damaged, SL_EUNSUPPORTED for one that has parts
 * not known here, SL_ELIMIT, SL_ENOTFOUND, SL_EIO or SL_ENOMEM. */
int sl_tokenizer_open(const struct sl_weights *w, struct sl_tokenizer **out, struct sl_err *err);

/* The JSON files that describe a tokenizer; all but the first may be NULL. */
struct json_t;
struct sl_tokenizer_json {
    const struct json_t *tokenizer;  /* tokenizer.json */
    const struct json_t *config;     /* tokenizer_config.json */
    const struct json_t *generation; /* generation_config.json: more ends */
    const struct json_t *model; /* config.json: ids of BOS and EOS when no other file has them */
};
/* The same from parsed files, which are not kept; `name` begins the messages. */
int sl_tokenizer_open_json(const char *name, const struct sl_tokenizer_json *in,
                           struct sl_tokenizer **out, struct sl_err *err);
/* The same from the bytes of a tokenizer.model; `in` (its `tokenizer` is not looked at) may be
 * NULL.
 */
int sl_tokenizer_open_spm(const char *name, const void *data, size_t n,
                          const struct sl_tokenizer_json *in, struct sl_tokenizer **out,
                          struct sl_err *err);
void sl_tokenizer_close(struct sl_tokenizer *t);

/* Appends the ids of text[0..n) to *ids. Invalid UTF-8 is encoded byte by byte, never refused.
 * SL_ELIMIT for a text that is too long, or on which an expression of the model's own
 * tokenizer.json backtracks without end; SL_ENOMEM. On failure *ids is as before. */
int sl_tokenizer_encode(const struct sl_tokenizer *t, const char *text, size_t n, int flags,
                        struct sl_ids *ids, struct sl_err *err);
int sl_ids_push(struct sl_ids *ids, int32_t id); /* 0 or SL_ENOMEM */

/* The raw bytes of one token, with the space that its word may begin with; special (control) tokens
 * give their literal text. "" and 0 for an id out of range. */
const char *sl_tokenizer_piece(const struct sl_tokenizer *t, int32_t id, size_t *len);
int sl_tokenizer_is_special(const struct sl_tokenizer *t,
                            int32_t id); /* control or unknown token: not shown to users */
int sl_tokenizer_is_end(const struct sl_tokenizer *t,
                        int32_t id); /* ends generation: EOS, EOT, <|im_end|> ... */
int32_t sl_tokenizer_bos(const struct sl_tokenizer *t); /* -1 when there is none */
int32_t sl_tokenizer_eos(const struct sl_tokenizer *t);
int sl_tokenizer_size(const struct sl_tokenizer *t); /* number of ids */
int sl_tokenizer_adds_bos(const struct sl_tokenizer *t);
int32_t sl_tokenizer_find(const struct sl_tokenizer *t, const char *piece,
                          size_t n); /* id of exact literal text, -1 */

/* Spaces that a text loses at its beginning, since the tokenizer put them there: a number, or -1
 * for all those of its first token. */
int sl_tokenizer_drops(const struct sl_tokenizer *t);

/* Streaming detokenization: bytes come in tokens, text leaves in whole UTF-8 characters. Zero is
 * the beginning of a text. */
struct sl_detok {
    char pending[4];
    int n_pending;
    int dropped; /* spaces of the beginning; INT_MAX once there can be no more */
};
/* The token's bytes without the spaces that the beginning of a text loses. */
const char *sl_detok_bytes(struct sl_detok *d, const struct sl_tokenizer *t, int32_t id,
                           size_t *len);
/* Appends to out what may be shown after token `id`: whole characters only; special tokens add
 * nothing unless `show_special`. Invalid bytes become U+FFFD once they cannot turn into a character
 * any more. */
int sl_detok_push(struct sl_detok *d, const struct sl_tokenizer *t, int32_t id, int show_special,
                  struct sl_buf *out);
/* The end: a half character that never completed becomes U+FFFD. */
int sl_detok_finish(struct sl_detok *d, struct sl_buf *out);

#ifdef __cplusplus
}
#endif
#endif
