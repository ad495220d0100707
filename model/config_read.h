/* config_read.h - typed access to the keys of a model, in either container; private to model/.
 *
 * Every function takes the GGUF name (after "ARCH.") and the name in config.json; NULL where a
 * container has no such key. What was asked for is remembered: a key that nobody asked for and that
 * may change the answer is refused at the end (sl_read_leftovers). */
#ifndef SL_MODEL_CONFIG_READ_H
#define SL_MODEL_CONFIG_READ_H

#include "model/config.h"

#define SL_KEYS_SEEN_MAX 160
#define SL_KEY_MAX 96          /* bytes of "ARCH.key" */
#define SL_REQUIRED INT64_MIN  /* default of an integer that must be there */
#define SL_REQUIRED_F (-1e300) /* of a number */

struct sl_arch;
struct json_t;

struct sl_reader {
    const struct sl_weights *w;
    const struct sl_arch *arch;
    struct sl_config *c;
    struct sl_err *err;
    const struct json_t *text; /* HF: the object that describes the text model */
    const char *hf_type;       /* HF: model_type, as the family lists it */
    const char *seen[SL_KEYS_SEEN_MAX];
    int n_seen;
    char key[SL_KEY_MAX]; /* the last one asked for, for messages */
};

/* One line, with the model's path in front. */
int sl_read_refuse(struct sl_reader *r, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

int sl_read_has(struct sl_reader *r, const char *gguf,
                const char *hf); /* 1 when there (not null) */
/* An integer min..max; GGUF arrays (one value per layer) are accepted when all their values agree.
 */
int sl_read_int(struct sl_reader *r, const char *gguf, const char *hf, int64_t def, int64_t min,
                int64_t max, int *out);
int sl_read_float(struct sl_reader *r, const char *gguf, const char *hf, double def, double min,
                  double max, float *out);
int sl_read_bool(struct sl_reader *r, const char *gguf, const char *hf, int def, int *out);
/* "" when absent. */
int sl_read_string(struct sl_reader *r, const char *gguf, const char *hf, char *out, size_t cap);
/* Entry `i` of an array of numbers or booleans; *out keeps its value when the array is absent or
 * shorter. *n: its length, 0 when absent. */
int sl_read_entry(struct sl_reader *r, const char *gguf, const char *hf, size_t i, int *out,
                  size_t *n);
/* A key that is understood only at one value. */
int sl_read_only(struct sl_reader *r, const char *gguf, const char *hf, double value,
                 const char *what);
/* HF: an activation by name, one of those in enum sl_ffn_act. */
int sl_read_act(struct sl_reader *r, const char *hf, enum sl_ffn_act def);

/* layer_types of config.json when given, else `pattern`: layer i slides unless (i + 1) % pattern is
 * 0 (1: none slides, 0: all do). Clears the flags when there is no window. */
int sl_read_layer_types(struct sl_reader *r, int pattern);

/* Rotary positions of heads of `dims` elements, after n_ctx_train: into ropes[0], and ropes[1] when
 * config.json has tables for sliding layers. */
int sl_read_rope(struct sl_reader *r, int dims);
/* Refuses a key that nobody asked for, unless it is known to be harmless or says nothing. */
int sl_read_leftovers(struct sl_reader *r);

#endif
