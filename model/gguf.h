/* gguf.h - one GGUF file's header, parsed; private to model/ (gguf_open.c joins the files of a
 * split model).
 *
 * The header is read into memory with pread (never through a mapping), so a file that shrinks under
 * us is an error and not a SIGBUS. Metadata values stay in that buffer; arrays are read element by
 * element on demand. */
#ifndef SL_MODEL_GGUF_H
#define SL_MODEL_GGUF_H

#include "base/arena.h"
#include "model/weights_reader.h"

/* Array values: `data` points at the elements in the header; strings have an index of their places.
 */
struct sl_gguf_array {
    const uint8_t *head; /* the header buffer */
    uint32_t type;       /* GGUF type of the elements */
    uint64_t at;         /* where the first element is in `head` */
    uint32_t *index; /* strings: where each element's length field is in `head`; owned; else NULL */
};

struct sl_gguf_meta {
    const char *key;
    uint64_t at; /* of the key, and of a string's bytes, in the file */
    uint64_t string_at;
    struct sl_meta m;
    struct sl_gguf_array array;
};

struct sl_gguf_file {
    char *path;
    int fd;              /* -1: the whole file is in `head`, which the caller owns */
    uint64_t size;       /* bytes, when opened */
    const uint8_t *head; /* the first head_len bytes */
    uint8_t *own;        /* the same, when we allocated it */
    size_t head_len, head_cap;
    struct sl_arena names;
    struct sl_gguf_meta *metas;
    struct sl_gguf_meta **by_key; /* sorted */
    size_t n_metas;
    struct sl_entry *tensors;
    size_t n_tensors;
};

/* Parses the header of f, whose path, fd, size (and head, head_len when in memory) are set and
 * whose rest is zero. 0, SL_EINPUT, SL_EUNSUPPORTED, SL_EIO or SL_ENOMEM. Call sl_gguf_free in any
 * case. */
int sl_gguf_parse(struct sl_gguf_file *f, struct sl_err *err);

/* Frees what parsing allocated; path and fd stay the caller's. */
void sl_gguf_free(struct sl_gguf_file *f);

/* NULL when the key is absent. */
const struct sl_meta *sl_gguf_find(const struct sl_gguf_file *f, const char *key);

#endif
