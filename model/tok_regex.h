/* tok_regex.h - what tok_regex.c and tok_onig.c share. */
#ifndef SL_MODEL_TOK_REGEX_H
#define SL_MODEL_TOK_REGEX_H

#include "model/tok.h"

#define SL_TOK_REGEX_MAX (64 << 10) /* bytes of an expression; real ones have 2,000 */

/* Unicode's White_Space inside a PCRE2 class. PCRE2's own \s has U+180E besides, which stopped
 * being a space in Unicode 6.3. */
#define SL_TOK_WS "\\t-\\r\\x{85}\\p{Z}"

/* Translates an expression of Oniguruma's dialect for PCRE2. 0, or SL_EUNSUPPORTED with the reason
 * in why, SL_ELIMIT, SL_ENOMEM. */
int sl_tok_onig(const char *pattern, size_t n, struct sl_buf *out, char why[160]);

void sl_tok_match_close(struct sl_tok_match *m); /* NULL is fine */

#endif
