/* quantize_gguf.h - a GGUF file written as a Hugging Face folder; private to quantize*.c.
 *
 * Every tensor of the folder is named by the roles it holds (model/config.h): its rows are looked
 * up role by role in the file, so fused and separate, permuted and plain layouts meet in one
 * place. */
#ifndef SL_MODEL_QUANTIZE_GGUF_H
#define SL_MODEL_QUANTIZE_GGUF_H

#include "model/arch.h"
#include "model/quantize_part.h"
#include "model/tokenizer.h"

#define SL_OUT_ROLES 3 /* roles that one tensor of a folder holds at most: q, k, v */

enum sl_out_file {
    SL_OUT_CONFIG,
    SL_OUT_GENERATION,
    SL_OUT_TOKENIZER,
    SL_OUT_TOKENIZER_CONFIG,
    SL_OUT_FILES
};

/* The model in the file, the family of transformers that it is written as, and the small files of
 * the folder, made before any tensor is written; NULL for one that there is not. */
struct sl_out_model {
    struct sl_config c;
    const struct sl_arch *from, *to;
    const char *type, *class; /* model_type and architectures[0] */
    struct json_t *files[SL_OUT_FILES];
};

/* Reads the model, chooses the family and makes the files. SL_EUNSUPPORTED, naming it, for a family
 * that cannot be written, for settings that its class in transformers has no key for, and for a
 * tokenizer that tokenizer.json is not written of. Close it in any case. */
int sl_out_model_read(struct sl_weights *w, struct sl_out_model *m, struct sl_err *err);
void sl_out_model_close(struct sl_out_model *m);

/* The number with the fewest digits that is this float. */
struct json_t *sl_out_real(float v);

/* quantize_gguf_rope.c: rope_theta and rope_scaling into files[SL_OUT_CONFIG]: frequencies equal to
 * the file's. SL_EUNSUPPORTED when no setting of transformers gives them. */
int sl_out_model_rope(struct sl_weights *w, struct sl_out_model *m, struct sl_err *err);
/* quantize_gguf_tok.c: tokenizer.json and tokenizer_config.json, when the file has a tokenizer.
 * What is written has been read back. */
int sl_out_model_tokenizer(const struct sl_weights *w, struct sl_out_model *m, struct sl_err *err);
/* Fills files[SL_OUT_TOKENIZER_CONFIG]; `unk`: the tokenizer has an unknown token to name. */
int sl_out_tokenizer_config(const struct sl_weights *w, const struct sl_tokenizer *t, int unk,
                            struct sl_out_model *m, struct sl_err *err);

/* Steps of the plan for all tensors of the folder; the plan keeps *m. */
int sl_out_gguf_plan(struct sl_weights *w, const struct sl_out_model *m, enum sl_quantize_to to,
                     struct sl_out_plan *p, struct sl_err *err);
/* The bytes of one step: data[i] has room for its tensor i. */
int sl_out_gguf_step(struct sl_weights *w, const struct sl_quantize *q, const struct sl_out_plan *p,
                     const struct sl_out_step *s, void *const data[SL_OUT_TENSORS],
                     struct sl_err *err);
/* All small files of the folder. */
int sl_out_gguf_files(const struct sl_out_plan *p, enum sl_quantize_to to, const char *dir,
                      struct sl_err *err);

#endif
