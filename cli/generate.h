/* generate.h - options and printing that the commands share which generate text. */
#ifndef SL_CLI_GENERATE_H
#define SL_CLI_GENERATE_H

#include <jansson.h>

#include "cli/session.h"
#include "model/tokenizer.h"

struct sl_generate_options {
    int64_t predict, top_k, seed;
    double temp, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty;
    int ignore_eos;
};

#define SL_GENERATE_DEFAULTS                                                                       \
    {                                                                                              \
        .temp = 0, .top_p = 1, .repeat_penalty = 1, .seed = -1                                     \
    }

/* clang-format off */
#define SL_GENERATE_ROWS(T)                                                                        \
    {SL_CONF_HEADING, NULL, NULL, 0, "Generation:", 0, 0},                                         \
    {SL_CONF_INT, "-n --predict --n-predict --max-tokens", "N", offsetof(T, generate.predict),     \
     "tokens to generate (default: until the model ends)", 0, 1 << 24},                            \
    {SL_CONF_FLOAT, "--temp --temperature", "T", offsetof(T, generate.temp),                       \
     "0 is greedy (default)", 0, 100},                                                             \
    {SL_CONF_INT, "--top-k", "K", offsetof(T, generate.top_k),                                     \
     "draw from the K likeliest, 0: all", 0, 1 << 24},                                             \
    {SL_CONF_FLOAT, "--top-p", "P", offsetof(T, generate.top_p),                                   \
     "draw from the likeliest that make up P", 0, 1},                                              \
    {SL_CONF_FLOAT, "--min-p", "P", offsetof(T, generate.min_p),                                   \
     "leave out what is less likely than P times the best", 0, 1},                                 \
    {SL_CONF_FLOAT, "--repeat-penalty", "X", offsetof(T, generate.repeat_penalty), "1 is off",     \
     0.01, 100},                                                                                   \
    {SL_CONF_FLOAT, "--presence-penalty", "X", offsetof(T, generate.presence_penalty),             \
     "0 is off", -100, 100},                                                                       \
    {SL_CONF_FLOAT, "--frequency-penalty", "X", offsetof(T, generate.frequency_penalty),           \
     "0 is off", -100, 100},                                                                       \
    {SL_CONF_INT, "-s --seed", "N", offsetof(T, generate.seed),                                    \
     "makes chance repeatable (default: random)", -1, 9e18},                                       \
    {SL_CONF_FLAG, "--ignore-eos", NULL, offsetof(T, generate.ignore_eos),                         \
     "go on after the end token", 0, 0}
/* clang-format on */

/* Fills sampling and limits of *req. */
void sl_generate_fill(const struct sl_generate_options *o, struct sl_submit *req);

/* "1,2,3" to ids. SL_EUSAGE names what is wrong. */
int sl_generate_parse_ids(const char *text, int n_vocab, struct sl_ids *ids, struct sl_err *err);

/* "stop", "length", "cancelled". */
const char *sl_generate_reason(enum sl_finish f);

/* Per-stage busy and bubble, as run --json and bench report them. */
json_t *sl_generate_stages_json(const struct sl_service *s);

#endif
