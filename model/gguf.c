/* gguf.c - the GGUF header parser: bytes in, metadata and tensor descriptions out.
 *
 * Reading goes strictly forward. Every count is checked against the bytes that are left before
 * anything is allocated for it, so memory stays below a small multiple of the header's own size,
 * and all work is linear (n log n for the search for duplicates). See gguf.h for who owns what. */
#include "model/gguf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "model/gguf_cursor.h"
#include "model/json_read.h"

#define MAGIC "GGUF"
#define ALIGN_MIN 8 /* bytes, as the specification has it: no element of a tensor is misaligned */
#define KEY_BYTES_MIN 13 /* smallest metadata entry: key length, value type, one byte of value */
#define TENSOR_BYTES_MIN                                                                           \
    33 /* smallest tensor: a name of one byte, n_dims, a dimension, format, offset */

/* Sets the size in bytes from type and dimensions. */
static int check_tensor(struct sl_gguf_cursor *p, struct sl_tensor *t, uint64_t at)
{
    int block, block_bytes;
    int64_t n = 1;
    for (int i = 0; i < t->n_dims; i++) {
        if (t->ne[i] < 1)
            return sl_gguf_bad(p, SL_EINPUT, at, "dimension %d is %" PRId64 "%s", i, t->ne[i],
                               SL_GGUF_DAMAGED);
        if (__builtin_mul_overflow(n, t->ne[i], &n))
            return sl_gguf_bad(p, SL_EINPUT, at,
                               "its dimensions multiply to more than 2^63 elements%s",
                               SL_GGUF_DAMAGED);
    }
    static const uint8_t retired[] = {4, 5, 31, 32, 33, 36, 37, 38};
    for (size_t i = 0; i < sizeof retired; i++)
        if (t->ggml_type == retired[i])
            return sl_gguf_bad(
                p, SL_EUNSUPPORTED, at,
                "tensor format id %u was retired from GGUF; convert the original model again",
                t->ggml_type);
    if (sl_dtype_ggml_size(t->ggml_type, &block, &block_bytes) < 0)
        return sl_gguf_bad(p, SL_EUNSUPPORTED, at,
                           "tensor format id %u is unknown here; use a file in one of GGUF's "
                           "common formats (Q4_K_M, Q8_0, F16 ...)",
                           t->ggml_type);
    if (t->ne[0] % block)
        return sl_gguf_bad(p, SL_EINPUT, at,
                           "rows of %" PRId64 " elements do not divide into %s blocks of %d%s",
                           t->ne[0], sl_dtype_ggml_name(t->ggml_type), block, SL_GGUF_DAMAGED);
    if (__builtin_mul_overflow((uint64_t)(n / block), (uint64_t)block_bytes, &t->bytes) ||
        t->bytes > INT64_MAX)
        return sl_gguf_bad(p, SL_EINPUT, at, "it would have more than 2^63 bytes%s",
                           SL_GGUF_DAMAGED);
    int known = sl_dtype_from_ggml(t->ggml_type);
    t->known = known >= 0;
    t->type_name = sl_dtype_ggml_name(t->ggml_type);
    t->type = t->known ? (enum sl_dtype)known : SL_F32;
    return 0;
}

static int take_tensor(struct sl_gguf_cursor *p, struct sl_entry *e)
{
    struct sl_tensor *t = &e->t;
    e->at = p->pos;
    int r = sl_gguf_name(p, "a tensor name", SL_GGUF_TENSOR_NAME_MAX, &t->name);
    if (r) return r;
    p->kind = "tensor";
    p->subject = t->name;
    uint32_t n_dims;
    uint64_t at = p->pos;
    r = sl_gguf_take(p, &n_dims, 4, "its number of dimensions");
    if (r) return r;
    if (n_dims < 1 || n_dims > SL_GGUF_DIMS_MAX)
        return sl_gguf_bad(p, SL_EINPUT, at, "%u dimensions, 1 to %d are allowed%s", n_dims,
                           SL_GGUF_DIMS_MAX, SL_GGUF_DAMAGED);
    t->n_dims = (int)n_dims;
    for (int i = 0; i < SL_TENSOR_DIMS_MAX; i++) t->ne[i] = 1;
    r = sl_gguf_take(p, t->ne, n_dims * sizeof t->ne[0], "its dimensions");
    if (!r) r = sl_gguf_take(p, &t->ggml_type, 4, "its format");
    if (!r) r = sl_gguf_take(p, &t->offset, 8, "its offset");
    return r ? r : check_tensor(p, t, at);
}

static int read_align(struct sl_gguf_cursor *p, uint64_t *align)
{
    const struct sl_meta *m = sl_gguf_find(p->f, "general.alignment");
    *align = SL_GGUF_ALIGN_DEFAULT;
    if (!m) return 0;
    if (m->type != SL_META_INT || m->i < ALIGN_MIN || m->i > SL_GGUF_ALIGN_MAX ||
        (m->i & (m->i - 1)))
        return sl_gguf_bad(p, SL_EINPUT, sl_container_of(m, struct sl_gguf_meta, m)->at,
                           "general.alignment must be a power of two from %d to %u%s", ALIGN_MIN,
                           SL_GGUF_ALIGN_MAX, SL_GGUF_DAMAGED);
    *align = (uint64_t)m->i;
    return 0;
}

/* Tensors must lie one after another, each padded to the alignment: so none can overlap another or
 * the header. */
static int take_tensors(struct sl_gguf_cursor *p, uint64_t n)
{
    struct sl_gguf_file *f = p->f;
    uint64_t align, next = 0;
    int r = read_align(p, &align);
    if (r) return r;
    f->tensors = calloc((size_t)n + 1, sizeof *f->tensors);
    if (!f->tensors) return sl_gguf_no_memory(p);
    for (; f->n_tensors < n; f->n_tensors++) {
        struct sl_entry *e = &f->tensors[f->n_tensors];
        r = take_tensor(p, e);
        if (r) return r;
        if (e->t.offset != next)
            return sl_gguf_bad(p, SL_EINPUT, e->at,
                               "its data should begin at offset %" PRIu64
                               ", the end of the tensor before, "
                               "not at %" PRIu64 "%s",
                               next, e->t.offset, SL_GGUF_DAMAGED);
        if (e->t.bytes > f->size - SL_MIN(next, f->size))
            return sl_gguf_bad(p, SL_EINPUT, e->at,
                               "its %" PRIu64 " bytes pass the end of the file%s", e->t.bytes,
                               SL_GGUF_DAMAGED);
        next = (next + e->t.bytes + align - 1) & ~(align - 1);
    }
    uint64_t data = (p->pos + align - 1) & ~(align - 1);
    for (size_t i = 0; i < n; i++) {
        struct sl_entry *e = &f->tensors[i];
        e->t.offset += data;
        p->subject = e->t.name;
        if (e->t.offset > f->size || e->t.bytes > f->size - e->t.offset)
            return sl_gguf_bad(p, SL_EINPUT, e->at,
                               "its %" PRIu64 " bytes at %" PRIu64
                               " pass the end of the file at %" PRIu64
                               "; the file is truncated, download it again",
                               e->t.bytes, e->t.offset, f->size);
    }
    return 0;
}

static int take_header(struct sl_gguf_cursor *p, uint64_t *n_tensors, uint64_t *n_keys)
{
    char magic[4];
    uint32_t version;
    int r = sl_gguf_take(p, magic, 4, "the magic number");
    if (r) return r;
    if (memcmp(magic, MAGIC, 4) != 0 && sl_is_lfs_pointer(p->f->head, p->f->head_len))
        return sl_gguf_bad(p, SL_EINPUT, 0, SL_LFS_REMEDY);
    if (memcmp(magic, MAGIC, 4) != 0)
        return sl_gguf_bad(
            p, SL_EINPUT, 0,
            "this is not a GGUF file (it does not begin with \"GGUF\"); give a .gguf model");
    r = sl_gguf_take(p, &version, 4, "the version");
    if (r) return r;
    if (version != 0 && (version & 0xffff) == 0)
        return sl_gguf_bad(p, SL_EUNSUPPORTED, 4,
                           "a big-endian GGUF file; convert the model for little-endian machines");
    if (version == 1)
        return sl_gguf_bad(p, SL_EUNSUPPORTED, 4,
                           "GGUF version 1 is no longer read; convert the model again (version 3)");
    if (version != 2 && version != 3)
        return sl_gguf_bad(p, version > 3 ? SL_EUNSUPPORTED : SL_EINPUT, 4,
                           "GGUF version %u; versions 2 and 3 are read", version);
    r = sl_gguf_take(p, n_tensors, 8, "the number of tensors");
    if (!r) r = sl_gguf_take(p, n_keys, 8, "the number of metadata keys");
    if (r) return r;
    uint64_t left = p->f->size - p->pos;
    if (*n_tensors > SL_GGUF_TENSORS_MAX || *n_tensors > left / TENSOR_BYTES_MIN)
        return sl_gguf_bad(p, SL_EINPUT, 8,
                           "%" PRIu64 " tensors cannot be: more than fit the file or than %u%s",
                           *n_tensors, SL_GGUF_TENSORS_MAX, SL_GGUF_DAMAGED);
    if (*n_keys > SL_GGUF_KEYS_MAX || *n_keys > left / KEY_BYTES_MIN)
        return sl_gguf_bad(p, SL_EINPUT, 16,
                           "%" PRIu64
                           " metadata keys cannot be: more than fit the file or than %u%s",
                           *n_keys, SL_GGUF_KEYS_MAX, SL_GGUF_DAMAGED);
    return 0;
}

int sl_gguf_parse(struct sl_gguf_file *f, struct sl_err *err)
{
    struct sl_gguf_cursor p = {.f = f, .err = err};
    uint64_t n_tensors = 0, n_keys = 0;
    sl_arena_init(&f->names, 2 * (size_t)SL_GGUF_HEADER_MAX);
    int r = take_header(&p, &n_tensors, &n_keys);
    if (!r) r = sl_gguf_metas(&p, n_keys);
    if (!r) r = take_tensors(&p, n_tensors);
    if (r) return r;
    if (f->own) { /* give back what was read beyond the header */
        uint8_t *fit = realloc(f->own, (size_t)p.pos);
        if (fit) f->head = f->own = fit;
        f->head_len = (size_t)p.pos;
    }
    /* only now: the buffer moved while it grew */
    for (size_t i = 0; i < f->n_metas; i++) {
        struct sl_gguf_meta *e = &f->metas[i];
        e->array.head = f->head;
        if (e->m.type == SL_META_STRING) e->m.s = (const char *)f->head + e->string_at;
        if (e->m.type == SL_META_ARRAY) e->m.array = &e->array;
    }
    return 0;
}

void sl_gguf_free(struct sl_gguf_file *f)
{
    for (size_t i = 0; i < f->n_metas; i++) free(f->metas[i].array.index);
    free(f->metas);
    free(f->by_key);
    free(f->tensors);
    free(f->own);
    sl_arena_close(&f->names);
}
