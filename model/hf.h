/* hf.h - a Hugging Face folder: which files it is made of; private to model/ (hf_*.c).
 *
 * hf_open.c reads them, hf_files.c chooses them, hf_refuse.c knows the neighbours that look alike
 * and says what to do about each. */
#ifndef SL_MODEL_HF_H
#define SL_MODEL_HF_H

#include "model/safetensors.h"

#define SL_HF_SHARDS_MAX 4096                     /* files of one model */
#define SL_HF_CONFIG_MAX ((uint64_t)16 << 20)     /* bytes of config.json and the small ones */
#define SL_HF_TOKENIZER_MAX ((uint64_t)256 << 20) /* bytes of tokenizer.json */
#define SL_HF_INDEX_MAX ((uint64_t)256 << 20)     /* bytes of model.safetensors.index.json */
#define SL_HF_FOLDER_FILES_MAX 65536              /* names in the folder that we look at */

struct json_t;

/* The weight files of a folder, names without the folder. */
struct sl_hf_files {
    char **names; /* sorted, each once; owned */
    size_t n;
    struct json_t *index; /* parsed; NULL without one; owned */
    char *index_name;     /* owned */
};

/* Chooses the weight files of folder `dir`. `base` is the file that the user named in it, or NULL.
 * Refuses folders of other kinds, each with its own line. Call sl_hf_files_close in any case. */
int sl_hf_files_choose(const char *dir, const char *base, struct sl_hf_files *out,
                       struct sl_err *err);
void sl_hf_files_close(struct sl_hf_files *f);

/* "dir/name", malloc'd, or NULL when memory is out. */
char *sl_hf_path(const char *dir, const char *name);

/* The line for a folder without weights that we read: what it seems to be, and the remedy. names[n]
 * are its files. Always an error. */
int sl_hf_refuse_folder(const char *dir, char *const *names, size_t n, struct sl_err *err);

/* SL_EUNSUPPORTED when config.json or hf_quant_config.json (each may be NULL) says that the weights
 * are in a scheme that we do not run; else 0. */
int sl_hf_refuse_config(const char *where, const struct json_t *config, const struct json_t *quant,
                        struct sl_err *err);

/* SL_EUNSUPPORTED when `path` is a file of another container by its suffix; else 0. */
int sl_hf_refuse_file(const char *path, struct sl_err *err);

#endif
