/* toy.h - a vocabulary of 24 tokens and a "model" that is a hash, for tests of the coordinator.
 *
 * toy.c defines the sl_tokenizer_* functions the coordinator and the streaming detokenizer call, so
 * that the linker takes them instead of the real ones. Token 0 ends an answer, 1 is special, 2 and
 * 3 are the two bytes of an e with an accent, 4 is that letter whole, 5 an invalid byte, the others
 * one to three letters of a, b and c. */
#ifndef SL_TESTS_TOY_H
#define SL_TESTS_TOY_H

#include <stdint.h>

#include "model/tokenizer.h"

#define TOY_VOCAB 24
#define TOY_END 0

const struct sl_tokenizer *toy_tokenizer(void);

/* Extends the hash of a prefix by one token. */
uint64_t toy_hash(uint64_t prefix, int32_t token);
/* What the model draws after a prefix. `prompt_len` takes part, so that a wrong one shows. */
int32_t toy_draw(uint64_t prefix, uint64_t seed, int prompt_len);
float toy_logit(uint64_t prefix, int32_t token);

#endif
