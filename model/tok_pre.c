/* tok_pre.c - the pre-tokenizers that GGUF files name (tokenizer.ggml.pre).
 *
 * A row is one or more expressions applied one after the other (tok_split.c), each giving its
 * matches and the gaps between them. The expressions are part of the models they come with
 * (published in their tokenizer files); they are spelled here for PCRE2. Each does linear work on
 * any text. */
#include "model/tok.h"

#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"
#include "model/tok_regex.h"

#define WS SL_TOK_WS
#define S "[" WS "]"
#define NOT_S "[^" WS "]"

/* Space runs leave their last character to the word behind them. */
#define SPACES S "+(?!" NOT_S ")|" S "+"
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|" SPACES
#define CONTRACTED "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define NEWLINES "|" S "*[\\r\\n]+|" SPACES
#define LLAMA3(digits)                                                                             \
    CONTRACTED "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^" WS                                 \
               "\\p{L}\\p{N}]+[\\r\\n]*" NEWLINES
#define QWEN35                                                                                     \
    CONTRACTED "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^" WS                             \
               "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" NEWLINES

/* Words with upper case only at their beginning. */
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CAMEL(end)                                                                                 \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" end "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER     \
    "*" end
#define O200K CAMEL(CONTRACTED "?") "|\\p{N}{1,3}| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n/]*" NEWLINES
#define TEKKEN CAMEL("") "|\\p{N}| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n/]*" NEWLINES

#define ASCII_PUNCT "!-/:-@\\[-`{-~"
#define DEEPSEEK3                                                                                  \
    "[" ASCII_PUNCT "][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "                     \
    "?[\\p{P}\\p{S}]+[\\r\\n]*" NEWLINES
#define CJK "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+"
#define IDEOGRAPHS "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"
#define BLOOM " ?[^(" WS "|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+"

/* The letters of DeepSeek LLM's expression: scripts with case, as its tokenizer file lists them. */
#define CASED                                                                                      \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}"                 \
    "\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}"                          \
    "\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}"                  \
    "\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}"                         \
    "\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}"                 \
    "\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}"                 \
    "\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}"                 \
    "\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}"                            \
    "\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}"                           \
    "\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}"                 \
    "\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}"                  \
    "\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}"                   \
    "\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}"                  \
    "\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}"                  \
    "\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}"                  \
    "\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}"                 \
    "\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}"               \
    "\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}"                              \
    "\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"

#define STEPS_MAX 6

struct pre_row {
    const char *
        names; /* values of tokenizer.ggml.pre, separated by spaces; the first is the one to show */
    struct sl_tok_pre is;
    const char *steps[STEPS_MAX];
};

#define WHOLE                                                                                      \
    {                                                                                              \
        1, 0, 0                                                                                    \
    }
#define WHOLE_BOS                                                                                  \
    {                                                                                              \
        1, 1, 0                                                                                    \
    }
#define RAW                                                                                        \
    {                                                                                              \
        0, 0, 1                                                                                    \
    }
#define PLAIN                                                                                      \
    {                                                                                              \
        0                                                                                          \
    }

static const struct pre_row pre_rows[] = {
    {"gpt-2 phi-2 modern-bert mellum gigachat mpt olmo jais trillion granite-docling exaone4 "
     "a.x-4.0 jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe",
     PLAIN,
     {GPT2}},
    {"llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 deepseek-r1-llama",
     WHOLE_BOS,
     {LLAMA3("\\p{N}{1,3}")}},
    {"qwen2 deepseek-r1-qwen stablelm2 hunyuan megrez kormo solar-open grok-2",
     PLAIN,
     {LLAMA3("\\p{N}")}},
    {"qwen35", PLAIN, {QWEN35}},
    {"smollm starcoder refact granite command-r codeshell exaone minerva-7b mellum2",
     PLAIN,
     {"\\p{N}", GPT2}},
    {"tekken", WHOLE_BOS, {TEKKEN}},
    {"gpt-4o o200k llama4 gpt-oss kanana2 minimax-m2", PLAIN, {O200K}},
    {"deepseek-v3 deepseek-r1 hunyuan-dense joyai-llm", PLAIN, {"\\p{N}{1,3}", CJK, DEEPSEEK3}},
    {"deepseek-llm",
     PLAIN,
     {"[\\r\\n]", S "?[" CASED "]+",
      S "?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
      /* spaces at the end of a piece; (*SKIP) keeps a long run elsewhere from being tried at each
         of its places */
      S "++(?:\\z|(*SKIP)(*FAIL))", IDEOGRAPHS, "\\p{N}+"}},
    {"deepseek-coder", PLAIN, {"[\\r\\n]", S "?\\p{L}+", S "?\\p{P}+", IDEOGRAPHS, "\\p{N}"}},
    {"dbrx smaug-bpe chatglm-bpe", PLAIN, {LLAMA3("\\p{N}{1,3}")}},
    {"glm4 glm5", WHOLE, {LLAMA3("\\p{N}{1,3}")}},
    {"falcon", PLAIN, {"[\\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"}},
    {"bloom poro-chat gpt3-finnish", PLAIN, {BLOOM}},
    {"viking", PLAIN, {BLOOM, "\\p{N}"}},
    {"seed-coder",
     PLAIN,
     {CONTRACTED "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" WS "\\p{L}\\p{N}\\r\\n]+" NEWLINES}},
    {"bailingmoe bailingmoe2 llada-moe",
     PLAIN,
     {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^" WS
      "\\p{L}\\p{N}]++[\\r\\n]*|" S "*[\\r\\n]|" SPACES}},
    {"gemma4 gemma", RAW, {"[^\\n]+|\\n+"}},
    {"default", PLAIN, {"[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
};

static const struct pre_row *find_row(const char *name, size_t n)
{
    for (size_t i = 0; i < SL_ARRAY_LEN(pre_rows); i++) {
        for (const char *p = pre_rows[i].names; *p;) {
            size_t len = strcspn(p, " ");
            if (len == n && memcmp(p, name, n) == 0) return &pre_rows[i];
            p += len;
            p += strspn(p, " ");
        }
    }
    return NULL;
}

static int unknown_pre(const char *name, size_t n, const char *where, struct sl_err *err)
{
    char known[SL_ERR_MSG_MAX / 2] = "", shown[3 * 32 + 1];
    size_t w = 0;
    for (size_t i = 0; i < SL_ARRAY_LEN(pre_rows); i++) {
        size_t len = strcspn(pre_rows[i].names, " ");
        if (w + len + 3 > sizeof known) break;
        if (i > 0) known[w++] = ' ';
        memcpy(known + w, pre_rows[i].names, len);
        w += len;
    }
    known[w] = 0;
    shown[sl_utf8_scrub(name, SL_MIN(n, (size_t)32), shown)] = 0;
    return sl_err_set(
        err, SL_EUNSUPPORTED,
        "%s: tokenizer.ggml.pre '%s' is a pre-tokenizer that is not known here (known: "
        "%s); its text would be split wrongly",
        where, shown, known);
}

int sl_tok_pre_open(const char *name, size_t n, const char *where, struct sl_tok_split *split,
                    struct sl_tok_pre *out, struct sl_err *err)
{
    const struct pre_row *row = find_row(name, n);
    if (!row) return unknown_pre(name, n, where, err);
    *out = row->is;
    for (int i = 0; i < STEPS_MAX && row->steps[i]; i++) {
        struct sl_tok_split_step *s = sl_tok_split_add(split, SL_TOK_SPLIT_REGEX, SL_TOK_ISOLATED);
        SL_ASSERT(s);
        int r = sl_tok_regex_open(row->steps[i], strlen(row->steps[i]), 1, where, &s->regex, err);
        if (r != 0) return r;
    }
    if (!row->is.raw) {
        struct sl_tok_split_step *s = sl_tok_split_add(split, SL_TOK_SPLIT_BYTES, SL_TOK_ISOLATED);
        SL_ASSERT(s);
    }
    return 0;
}

const char *const *sl_tok_pre_steps(const char *name, size_t len, int *n)
{
    const struct pre_row *row = find_row(name, len);
    SL_ASSERT(row);
    for (*n = 0; *n < STEPS_MAX && row->steps[*n];) ++*n;
    return row->steps;
}
