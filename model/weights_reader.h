/* weights_reader.h - what weights.c asks of a container; private to model/.
 *
 * A container (a GGUF file, a Hugging Face folder) is one row of functions. It checks headers and
 * describes tensors; names, mapping and reference counts are weights.c's, the same for all. */
#ifndef SL_MODEL_WEIGHTS_READER_H
#define SL_MODEL_WEIGHTS_READER_H

#include "model/weights.h"

/* One tensor: what users see, and what weights.c keeps about its mapping (zero at first). */
struct sl_entry {
    struct sl_tensor t;
    uint64_t at;    /* of its description in the header of its file, for messages */
    unsigned users; /* maps that were not given back */
    void *map;      /* page-aligned mapping, or NULL */
    size_t map_len;
    void *copy; /* instead of a mapping, when the file has the tensor at an odd place */
};

/* Where the bytes of one file are: a descriptor that stays the reader's, or memory. */
struct sl_weights_part {
    const char *path;
    int fd; /* -1: the file is `data`, `size` bytes */
    const uint8_t *data;
    uint64_t size; /* bytes when it was opened */
};

struct sl_weights_reader {
    /* Opens the model at `path`, or the n bytes at `data` when data is not NULL (then path only
     * names them). *model is the reader's own. */
    int (*open)(const char *path, const void *data, size_t n, void **model, struct sl_err *err);
    void (*close)(void *model);
    size_t (*count)(const void *model);
    struct sl_entry *(*at)(void *model, size_t i);
    const char *(*path)(const void *model);
    /* File `file` (struct sl_tensor), opened on first use. */
    int (*part)(void *model, int file, struct sl_weights_part *out, struct sl_err *err);
    /* NULL: the container has no metadata of its own, no JSON, no folder */
    const struct sl_meta *(*meta)(const void *model, const char *key);
    size_t (*meta_count)(const void *model);
    const struct sl_meta *(*meta_nth)(const void *model, size_t i, const char **key);
    int (*json)(void *model, enum sl_json_file which, const struct json_t **out,
                struct sl_err *err);
    const char *(*dir)(const void *model);
};

extern const struct sl_weights_reader sl_weights_reader_gguf; /* gguf_open.c */
extern const struct sl_weights_reader sl_weights_reader_hf;   /* hf_open.c */

#endif
