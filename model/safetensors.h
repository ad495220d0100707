/* safetensors.h - one safetensors file's header, checked; private to model/ (hf*.c joins shards).
 *
 * Format: https://huggingface.co/docs/safetensors (u64 length, JSON, tensors' bytes). The header is
 * read with pread; the descriptor is closed again, and opened anew when the first tensor of the
 * file is wanted, so a stage holds only the shards of its own layers. */
#ifndef SL_MODEL_SAFETENSORS_H
#define SL_MODEL_SAFETENSORS_H

#include <sys/types.h>

#include "base/arena.h"
#include "model/weights_reader.h"

#define SL_ST_HEADER_MAX 100000000u /* bytes of JSON: the reference parser's limit */
#define SL_ST_TENSORS_MAX 1000000u  /* tensors of one file; the largest models have 200,000 */
#define SL_ST_PREFIX 8              /* bytes of the length field */

struct sl_safetensors {
    char *path;
    int fd;             /* -1 while closed */
    const uint8_t *mem; /* the whole file, or NULL */
    uint64_t size;      /* bytes, when its header was read */
    dev_t dev;          /* with ino: which file it was */
    ino_t ino;
    struct sl_arena names;
    struct sl_entry *entries; /* in the order of their data */
    size_t n;
};

/* Reads the header of f, whose path (and mem, size when in memory) are set and whose rest is zero.
 * `file` goes into the tensors. SL_ENOTFOUND, SL_EINPUT, SL_EUNSUPPORTED, SL_EIO or SL_ENOMEM.
 * Call sl_safetensors_close in any case. */
int sl_safetensors_read(struct sl_safetensors *f, int file, struct sl_err *err);

/* Makes f->fd valid again. SL_EINPUT when the file is no longer the one whose header was read. */
int sl_safetensors_open(struct sl_safetensors *f, struct sl_err *err);

/* Reads n bytes at `at` of the open file, which lay inside it when its header was read. SL_EIO, or
 * SL_EINPUT when it has shrunk. */
int sl_safetensors_pread(const struct sl_safetensors *f, void *out, size_t n, uint64_t at,
                         struct sl_err *err);

void sl_safetensors_close(struct sl_safetensors *f); /* path stays the caller's */

#endif
