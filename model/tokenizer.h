/* tokenizer.h - text to token ids and back.
 *
 * Byte-level BPE as GPT-2 introduced it: special tokens are cut out first, the rest is split by a
 * pre-tokenizer regular expression (PCRE2, Unicode properties), each piece's bytes are mapped to
 * printable characters and merged by rank. The vocabulary comes from the model file's
 * tokenizer.ggml.* metadata. Immutable after opening: any thread may use it. */
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
    SL_TOK_BOS = 2      /* add BOS when the model asks for it (tokenizer.ggml.add_bos_token) */
};

#define SL_TOK_TEXT_MAX (64u << 20) /* bytes of one text */

int sl_tokenizer_open(const struct sl_weights *w, struct sl_tokenizer **out, struct sl_err *err);
void sl_tokenizer_close(struct sl_tokenizer *t);

/* Appends the ids of text[0..n) to *ids. Invalid UTF-8 is encoded byte by byte, never refused. */
int sl_tokenizer_encode(const struct sl_tokenizer *t, const char *text, size_t n, int flags,
                        struct sl_ids *ids, struct sl_err *err);
int sl_ids_push(struct sl_ids *ids, int32_t id); /* 0 or SL_ENOMEM */

/* The raw bytes of one token; special (control) tokens give their literal text. "" and 0 for an id
 * out of range. */
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

/* Streaming detokenization: bytes come in tokens, text leaves in whole UTF-8 characters. */
struct sl_detok {
    char pending[4];
    int n_pending;
};
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
