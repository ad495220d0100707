/* tok_json.h - what the readers of tokenizer.json share (tok_json*.c). */
#ifndef SL_MODEL_TOK_JSON_H
#define SL_MODEL_TOK_JSON_H

#include <jansson.h>

#include "model/tok.h"

struct sl_tok_source {
    const char *name; /* of the file, for messages */
    struct sl_tokenizer *t;
    struct sl_err *err;
};

/* "NAME: PLACE WHAT": SL_EINPUT. */
int sl_tok_json_bad(const struct sl_tok_source *in, const char *place, const char *what);
int sl_tok_json_memory(const struct sl_tok_source *in);
/* A member that may be absent or null (then *out stays as it is); of another type it is SL_EINPUT.
 */
int sl_tok_json_bool(const struct sl_tok_source *in, const json_t *o, const char *place,
                     const char *key, int *out);
int sl_tok_json_int(const struct sl_tok_source *in, const json_t *o, const char *place,
                    const char *key, int64_t min, int64_t max, int64_t *out);
int sl_tok_json_text(const struct sl_tok_source *in, const json_t *o, const char *place,
                     const char *key, const char **s, size_t *n);

/* A component type and what reads it; a part is one component or a Sequence of them. */
typedef int (*sl_tok_part_fn)(const struct sl_tok_source *in, const json_t *o, const char *place);
struct sl_tok_row {
    const char *type;
    sl_tok_part_fn read;
};
struct sl_tok_part {
    const char *name, *members; /* "normalizer" holds "normalizers" in a sequence */
    const struct sl_tok_row *rows;
    size_t n_rows;
};
/* Reads o, which may be null or absent. */
int sl_tok_json_part(const struct sl_tok_source *in, const struct sl_tok_part *part,
                     const json_t *o, int depth);
/* {"String": ...} to *text, or {"Regex": ...} compiled to *regex. */
int sl_tok_json_pattern(const struct sl_tok_source *in, const json_t *o, const char *place,
                        const char **text, size_t *text_n, struct sl_tok_regex **regex);
/* How a Metaspace puts its sign before words. */
int sl_tok_json_scheme(const struct sl_tok_source *in, const json_t *o, const char *place,
                       enum sl_tok_scheme *out);

/* The parts; each may be null or absent. */
int sl_tok_json_normalizer(const struct sl_tok_source *in, const json_t *o);
int sl_tok_json_pre_tokenizer(const struct sl_tok_source *in, const json_t *o);
int sl_tok_json_decoder(const struct sl_tok_source *in, const json_t *o);

/* `model` and `added_tokens`: fills the vocabulary, then the model. */
int sl_tok_json_model(const struct sl_tok_source *in, const json_t *model, const json_t *added);

#endif
