/* toy.c - see toy.h. */
#include "tests/unit/coordinator/toy.h"

#include <string.h>

#include "base/env.h"

struct sl_tokenizer {
    const char *pieces[TOY_VOCAB];
};

static const struct sl_tokenizer toy = {
    {"<end>", "<special>", "\xc3", "\xa9", "\xc3\xa9", "\xff", "a", "b", "c", "ab", "ba", "ca",
     "abc",   "aa",        "bb",   "cc",   "aab",      "cab",  "a", "b", "c", "bc", "ac", "bca"}};

const struct sl_tokenizer *toy_tokenizer(void)
{
    return &toy;
}

const char *sl_tokenizer_piece(const struct sl_tokenizer *t, int32_t id, size_t *len)
{
    const char *s = id >= 0 && id < TOY_VOCAB ? t->pieces[id] : "";
    *len = strlen(s);
    return s;
}

int sl_tokenizer_is_special(const struct sl_tokenizer *t, int32_t id)
{
    (void)t;
    return id == 0 || id == 1;
}

int sl_tokenizer_is_end(const struct sl_tokenizer *t, int32_t id)
{
    (void)t;
    return id == TOY_END;
}

int sl_tokenizer_drops(const struct sl_tokenizer *t)
{
    (void)t;
    return 0;
}

uint64_t toy_hash(uint64_t prefix, int32_t token)
{
    return sl_mix64(prefix * 31 + (uint64_t)(uint32_t)token + 1);
}

int32_t toy_draw(uint64_t prefix, uint64_t seed, int prompt_len)
{
    return (int32_t)(sl_mix64(prefix ^ sl_mix64(seed + 1) ^ (uint64_t)prompt_len) % TOY_VOCAB);
}

float toy_logit(uint64_t prefix, int32_t token)
{
    return (float)(sl_mix64(prefix + (uint64_t)token) % 4096);
}
