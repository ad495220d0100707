/* gguf_writer.h - writes small GGUF files for tests, fuzzing seeds and tools: metadata first, then
 * tensors, then the file.
 *
 * Knows the format only as the specification states it and shares no code with the reader. Values
 * are written as given, sensible or not, so that a test can also write what must be refused. Out of
 * memory aborts. */
#ifndef SL_TESTS_GGUF_WRITER_H
#define SL_TESTS_GGUF_WRITER_H

#include <stddef.h>
#include <stdint.h>

enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64
};

struct gguf_bytes {
    uint8_t *data;
    size_t len, cap;
};

struct gguf_writer {
    struct gguf_bytes metas, infos, data; /* the three parts of the file */
    uint64_t n_metas, n_tensors;
    uint32_t version;
    uint64_t align; /* of tensor data; set it before the first tensor (and add the key
                       general.alignment) */
};

void gguf_init(struct gguf_writer *g); /* version 3, alignment 32 */
void gguf_close(struct gguf_writer *g);

/* Metadata. `v` points at one value of a type of fixed size; gguf_array at n of them, or at n const
 * char * for strings. */
void gguf_value(struct gguf_writer *g, const char *key, enum gguf_type type, const void *v);
void gguf_u32(struct gguf_writer *g, const char *key, uint32_t v);
void gguf_f32(struct gguf_writer *g, const char *key, float v);
void gguf_bool(struct gguf_writer *g, const char *key, int v);
void gguf_string(struct gguf_writer *g, const char *key, const char *s);
void gguf_array(struct gguf_writer *g, const char *key, enum gguf_type elem, uint64_t n,
                const void *v);
/* A key, a type and raw bytes after it, whatever they mean. */
void gguf_raw(struct gguf_writer *g, const char *key, uint32_t type, const void *bytes, size_t n);

/* A tensor of n_dims dimensions; `bytes` of data copied from `data`, or zeros when it is NULL. */
void gguf_tensor(struct gguf_writer *g, const char *name, int n_dims, const int64_t *ne,
                 uint32_t ggml_type, const void *data, size_t bytes);

/* The file; free() it. Where its parts begin is told through the pointers, which may be NULL. */
uint8_t *gguf_build(const struct gguf_writer *g, size_t *len, size_t *infos_at, size_t *data_at);
int gguf_save(const struct gguf_writer *g, const char *path); /* 0 or -1 with errno */

/* Adds metadata and zero F32 tensors of a complete tiny model ("llama" or "qwen2"): n_layers
 * layers, n_embd 8, 2 heads, 1 KV head, n_ff 16, vocabulary 4, output matrix tied. Keys in `skip`
 * (NULL-ended, may be NULL) are left out. */
void gguf_add_model(struct gguf_writer *g, const char *arch, int n_layers, const char *const *skip);

#endif
