/* weights.h - a model as named tensors and metadata: a GGUF file, or a Hugging Face folder
 * (config.json, tokenizer.json, *.safetensors with or without an index).
 *
 * GGUF v3 follows the GGUF specification (ggml docs/gguf.md); see docs/decisions for what we
 * refuse. Opening reads and checks the header only; tensor bytes are mapped one by one, so a stage
 * touches no other layer's bytes. Everything in the header is treated as hostile: counts, lengths,
 * offsets and sums are checked before use, and the first problem found is one SL_EINPUT naming the
 * file, the place (byte offset, key or tensor) and the remedy. Handles are not thread safe; mapped
 * bytes are read-only and may be read from any thread. */
#ifndef SL_MODEL_WEIGHTS_H
#define SL_MODEL_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Limits on what a header may ask of us; a larger one is SL_EINPUT. */
#define SL_GGUF_HEADER_MAX                                                                         \
    (256u << 20) /* bytes of one part before its tensor data (vocabularies take 20 MiB) */
#define SL_GGUF_KEYS_MAX (1u << 16)    /* metadata entries of one part */
#define SL_GGUF_KEY_LEN_MAX 255        /* bytes of a metadata key */
#define SL_GGUF_TENSORS_MAX (1u << 20) /* tensors of one part */
#define SL_GGUF_ALIGN_MAX (2u << 20)   /* bytes: general.alignment, a power of two */
#define SL_GGUF_ALIGN_DEFAULT 32       /* bytes */
#define SL_GGUF_PARTS_MAX 512          /* files of a split model */
#define SL_GGUF_DIMS_MAX 4
#define SL_GGUF_TENSOR_NAME_MAX 127 /* bytes; the specification allows 64 */

#define SL_TENSOR_DIMS_MAX 8    /* GGUF allows 4 */
#define SL_TENSOR_NAME_MAX 1024 /* bytes with NUL; GGUF allows 64 */

struct sl_tensor {
    const char *name;      /* owned by the handle */
    enum sl_dtype type;    /* meaningful only when `known` */
    int known;             /* 0: a type that we have no row for (ggml_type says which) */
    uint32_t ggml_type;    /* SL_GGML_NONE outside GGUF */
    const char *type_name; /* as the file spells it: "F8_E4M3FNUZ", "IQ2_XXS"; never NULL */
    int n_dims;            /* 0.. */
    int64_t ne[SL_TENSOR_DIMS_MAX]; /* ne[0] is the fastest (row length K), as GGUF counts:
                                       safetensors' [N, K] is {K, N}; unused are 1 */
    int file;                       /* which part or shard */
    uint64_t offset, bytes;         /* absolute place in that file */
};

enum sl_meta_type { SL_META_INT, SL_META_FLOAT, SL_META_BOOL, SL_META_STRING, SL_META_ARRAY };

/* One metadata value; strings are not NUL-terminated in the file, hence the length. */
struct sl_meta {
    enum sl_meta_type type;
    int64_t i;              /* INT (u64 above INT64_MAX is refused), BOOL */
    double f;               /* FLOAT; for INT the same number */
    const char *s;          /* STRING: owned by the handle */
    size_t len;             /* STRING: bytes; ARRAY: elements */
    enum sl_meta_type elem; /* ARRAY */
    const void *array;      /* ARRAY: private, read with sl_meta_at */
};

struct sl_weights; /* opaque: an open model file (or the parts of a split one) */

/* Opens a .gguf file (a split file by its first part) or a Hugging Face folder (its path, or that
 * of a .safetensors file or index in it; a shard stands for the whole model). `path` is kept by
 * copy. SL_ENOTFOUND, SL_EINPUT (damaged, hostile or over a limit), SL_EUNSUPPORTED (another
 * container, or a scheme or format version that we do not read), SL_EIO or SL_ENOMEM; *out is
 * written on success only. */
int sl_weights_open(const char *path, struct sl_weights **out, struct sl_err *err);
/* The same from memory (fuzzing, tests): a GGUF file, or one safetensors file without a
 * config.json. `data` must outlive the handle. */
int sl_weights_open_memory(const char *name, const void *data, size_t n, struct sl_weights **out,
                           struct sl_err *err);
void sl_weights_close(struct sl_weights *w); /* NULL is fine; unmaps everything */

/* The JSON files of a Hugging Face folder, parsed on first use and owned by the handle. */
enum sl_json_file {
    SL_JSON_CONFIG,           /* config.json */
    SL_JSON_GENERATION,       /* generation_config.json */
    SL_JSON_TOKENIZER,        /* tokenizer.json */
    SL_JSON_TOKENIZER_CONFIG, /* tokenizer_config.json */
    SL_JSON_QUANT,            /* hf_quant_config.json (ModelOpt) */
    SL_JSON_COUNT
};
struct json_t;
/* NULL when the folder has no such file, and for GGUF. Damaged JSON was refused by sl_weights_open,
 * all but tokenizer.json: it is large, so it is parsed when it is first asked for, and NULL here
 * when it is damaged; sl_weights_json_load says why. */
const struct json_t *sl_weights_json(const struct sl_weights *w, enum sl_json_file which);
/* The same with errors: *out is NULL and the result 0 when there is no such file; SL_EINPUT when
 * it is damaged, SL_EIO, SL_ENOMEM. */
int sl_weights_json_load(const struct sl_weights *w, enum sl_json_file which,
                         const struct json_t **out, struct sl_err *err);
/* The folder, or NULL when the model is a GGUF file. */
const char *sl_weights_dir(const struct sl_weights *w);

const char *sl_weights_path(const struct sl_weights *w);
size_t sl_weights_count(const struct sl_weights *w);
const struct sl_tensor *sl_weights_at(const struct sl_weights *w, size_t i); /* in file order */
const struct sl_tensor *sl_weights_find(const struct sl_weights *w, const char *name);

/* The tensor's bytes, aligned to its element: mapped read-only on first use (MAP_PRIVATE, only the
 * pages it covers), or read into memory when the file has it at an odd place, as safetensors may.
 * Each successful call needs one sl_weights_unmap; closing unmaps all. NULL and err on failure
 * (SL_EINPUT when the file has been truncated since it was opened). */
const void *sl_weights_map(struct sl_weights *w, const struct sl_tensor *t, struct sl_err *err);
/* Ends one use of a mapped tensor; the last one gives its pages back to the kernel and the pointer
 * becomes invalid. Does nothing when the tensor is not mapped. */
void sl_weights_unmap(struct sl_weights *w, const struct sl_tensor *t);

/* Metadata. sl_weights_meta returns NULL when the key is absent. */
const struct sl_meta *sl_weights_meta(const struct sl_weights *w, const char *key);
size_t sl_weights_meta_count(const struct sl_weights *w);
const struct sl_meta *sl_weights_meta_nth(const struct sl_weights *w, size_t i, const char **key);
/* Element i < m->len of an array as a scalar value. */
struct sl_meta sl_meta_at(const struct sl_meta *m, size_t i);
/* Typed access with a default for an absent key; a key of the wrong type or out of range is
 * SL_EINPUT. */
int sl_weights_int(const struct sl_weights *w, const char *key, int64_t def, int64_t min,
                   int64_t max, int64_t *out, struct sl_err *err);
int sl_weights_float(const struct sl_weights *w, const char *key, double def, double *out,
                     struct sl_err *err);
int sl_weights_bool(const struct sl_weights *w, const char *key, int def, int *out,
                    struct sl_err *err);

#ifdef __cplusplus
}
#endif
#endif
