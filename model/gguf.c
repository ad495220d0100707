/* gguf.c - the GGUF header parser: bytes in, metadata and tensor descriptions out.
 *
 * Reading goes strictly forward. Every count is checked against the bytes that are left before
 * anything is allocated for it, so memory stays below a small multiple of the header's own size,
 * and all work is linear (n log n for the search for duplicates). See gguf.h for who owns what. */
#include "model/gguf.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/sl_assert.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF values are copied as they are");

#define MAGIC "GGUF"
#define READ_FIRST (1u << 20) /* bytes of the first read */
#define KEY_BYTES_MIN 13 /* smallest metadata entry: key length, value type, one byte of value */
#define TENSOR_BYTES_MIN                                                                           \
    33 /* smallest description: a name of one byte, n_dims, one dimension, format, offset */

enum {
    T_U8,
    T_I8,
    T_U16,
    T_I16,
    T_U32,
    T_I32,
    T_F32,
    T_BOOL,
    T_STRING,
    T_ARRAY,
    T_U64,
    T_I64,
    T_F64,
    T_COUNT
};

static const struct {
    uint8_t bytes; /* 0: of variable size */
    uint8_t type;  /* enum sl_meta_type */
} kinds[T_COUNT] = {
    [T_U8] = {1, SL_META_INT},      [T_I8] = {1, SL_META_INT},    [T_U16] = {2, SL_META_INT},
    [T_I16] = {2, SL_META_INT},     [T_U32] = {4, SL_META_INT},   [T_I32] = {4, SL_META_INT},
    [T_F32] = {4, SL_META_FLOAT},   [T_BOOL] = {1, SL_META_BOOL}, [T_STRING] = {0, SL_META_STRING},
    [T_ARRAY] = {0, SL_META_ARRAY}, [T_U64] = {8, SL_META_INT},   [T_I64] = {8, SL_META_INT},
    [T_F64] = {8, SL_META_FLOAT},
};

struct parser {
    struct sl_gguf_file *f;
    uint64_t pos;               /* next byte */
    const char *kind, *subject; /* "key" or "tensor" and its name, for messages; NULL outside */
    struct sl_err *err;
};

/* One line: file, byte, key or tensor, what is wrong; the format ends with the remedy. */
static int bad(struct parser *p, int code, uint64_t at, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static int bad(struct parser *p, int code, uint64_t at, const char *fmt, ...)
{
    char text[SL_ERR_MSG_MAX], place[SL_GGUF_KEY_LEN_MAX + 16] = "";
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (p->subject) snprintf(place, sizeof place, ", %s %s", p->kind, p->subject);
    return sl_err_set(p->err, code, "%s: byte %" PRIu64 "%s: %s", p->f->path, at, place, text);
}

#define DAMAGED "; the file is damaged, download or convert it again"

static int no_memory(struct parser *p)
{
    return sl_err_set(p->err, SL_ENOMEM, "%s: out of memory while reading the header", p->f->path);
}

/* Reads on until the first `end` bytes are in memory; end <= size and <= SL_GGUF_HEADER_MAX. */
static int fill(struct parser *p, uint64_t end)
{
    struct sl_gguf_file *f = p->f;
    SL_ASSERT(f->fd >= 0);
    size_t cap = SL_MAX((size_t)end, SL_MAX(f->head_cap * 2, READ_FIRST));
    cap = (size_t)SL_MIN(f->size, SL_MIN(cap, SL_GGUF_HEADER_MAX));
    uint8_t *own = realloc(f->own, cap);
    if (!own) return no_memory(p);
    f->own = own;
    f->head = own;
    f->head_cap = cap;
    while (f->head_len < cap) {
        ssize_t n = pread(f->fd, own + f->head_len, cap - f->head_len, (off_t)f->head_len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return sl_err_set(p->err, SL_EIO, "%s: cannot read: %s", f->path, strerror(errno));
        if (n == 0)
            return bad(p, SL_EINPUT, f->head_len, "the file shrank while it was read; try again");
        f->head_len += (size_t)n;
    }
    return 0;
}

/* Makes the next n bytes readable at f->head + pos. */
static int need(struct parser *p, uint64_t n, const char *what)
{
    uint64_t left = p->f->size - p->pos;
    if (n > left)
        return bad(p, SL_EINPUT, p->pos,
                   "%s needs %" PRIu64 " bytes and only %" PRIu64 " are left%s", what, n, left,
                   "; the file is truncated or damaged, download it again");
    if (n > SL_GGUF_HEADER_MAX - p->pos)
        return bad(p, SL_EINPUT, p->pos, "%s would make the header larger than %u bytes%s", what,
                   SL_GGUF_HEADER_MAX, DAMAGED);
    return p->pos + n > p->f->head_len ? fill(p, p->pos + n) : 0;
}

static int take(struct parser *p, void *out, size_t n, const char *what)
{
    int r = need(p, n, what);
    if (r) return r;
    memcpy(out, p->f->head + p->pos, n);
    p->pos += n;
    return 0;
}

/* A length-prefixed string; *at is the place of its bytes. */
static int take_string(struct parser *p, const char *what, uint64_t *at, uint64_t *len)
{
    int r = take(p, len, 8, what);
    if (!r) r = need(p, *len, what);
    if (r) return r;
    *at = p->pos;
    p->pos += *len;
    return 0;
}

/* A string that names something: copied, 1..max bytes, no control characters. */
static int take_name(struct parser *p, const char *what, size_t max, const char **out)
{
    uint64_t start = p->pos, at, len;
    int r = take_string(p, what, &at, &len);
    if (r) return r;
    if (len == 0 || len > max)
        return bad(p, SL_EINPUT, start, "%s has %" PRIu64 " bytes, 1 to %zu are allowed%s", what,
                   len, max, DAMAGED);
    for (const uint8_t *s = p->f->head + at, *end = s + len; s < end; s++)
        if (*s < 0x20 || *s == 0x7f)
            return bad(p, SL_EINPUT, start, "%s holds the control character 0x%02x%s", what, *s,
                       DAMAGED);
    *out = sl_arena_strndup(&p->f->names, (const char *)p->f->head + at, (size_t)len);
    return *out ? 0 : no_memory(p);
}

/* The value of fixed size at `v`. */
static struct sl_meta scalar(uint32_t type, const uint8_t *v)
{
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        int64_t i64;
        float f32;
        double f64;
    } u;
    memcpy(&u, v, kinds[type].bytes);
    struct sl_meta m = {.type = (enum sl_meta_type)kinds[type].type};
    switch (type) {
    case T_U8:
    case T_BOOL:
        m.i = u.u8;
        break;
    case T_I8:
        m.i = u.i8;
        break;
    case T_U16:
        m.i = u.u16;
        break;
    case T_I16:
        m.i = u.i16;
        break;
    case T_U32:
        m.i = u.u32;
        break;
    case T_I32:
        m.i = u.i32;
        break;
    case T_U64:
    case T_I64:
        m.i = u.i64;
        break;
    case T_F32:
        m.f = u.f32;
        return m;
    case T_F64:
        m.f = u.f64;
        return m;
    }
    m.f = (double)m.i;
    return m;
}

/* n values of one fixed-size type: the bytes are there, booleans are 0 or 1, u64 fits int64_t. */
static int check_values(struct parser *p, uint32_t type, uint64_t n)
{
    unsigned size = kinds[type].bytes;
    uint64_t left = p->f->size - p->pos;
    if (n > left / size)
        return bad(p, SL_EINPUT, p->pos,
                   "%" PRIu64 " values of %u bytes need more than the %" PRIu64 " bytes left%s", n,
                   size, left, DAMAGED);
    int r = need(p, n * size, "the value");
    if (r) return r;
    if (type == T_BOOL || type == T_U64)
        for (uint64_t i = 0; i < n; i++) {
            const uint8_t *v = p->f->head + p->pos + i * size;
            if (type == T_BOOL ? *v > 1 : v[7] > 0x7f)
                return bad(p, SL_EINPUT, p->pos + i * size, "%s%s",
                           type == T_BOOL ? "a boolean is neither 0 nor 1"
                                          : "a 64-bit integer is above 2^63-1",
                           DAMAGED);
        }
    p->pos += n * size;
    return 0;
}

static int take_strings(struct parser *p, struct sl_gguf_meta *e, uint64_t n)
{
    if (n > (p->f->size - p->pos) / 8)
        return bad(p, SL_EINPUT, p->pos,
                   "%" PRIu64 " strings need more than the %" PRIu64 " bytes left%s", n,
                   p->f->size - p->pos, DAMAGED);
    if (n > SL_GGUF_HEADER_MAX / 8)
        return bad(p, SL_EINPUT, p->pos,
                   "%" PRIu64 " strings would make the header larger than %u bytes%s", n,
                   SL_GGUF_HEADER_MAX, DAMAGED);
    e->array.index = malloc((size_t)n * sizeof *e->array.index + 1);
    if (!e->array.index) return no_memory(p);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t at, len;
        e->array.index[i] = (uint32_t)p->pos;
        int r = take_string(p, "a string of the array", &at, &len);
        if (r) return r;
    }
    return 0;
}

static int take_array(struct parser *p, struct sl_gguf_meta *e)
{
    uint64_t start = p->pos, n;
    int r = take(p, &e->array.type, 4, "the array's element type");
    if (!r) r = take(p, &n, 8, "the array's length");
    if (r) return r;
    if (e->array.type == T_ARRAY)
        return bad(p, SL_EUNSUPPORTED, start, "an array of arrays; convert the model without it");
    if (e->array.type >= T_COUNT)
        return bad(p, SL_EINPUT, start, "element type %u is none of GGUF's 0 to %d%s",
                   e->array.type, T_COUNT - 1, DAMAGED);
    e->array.at = p->pos;
    e->m.len = (size_t)n;
    e->m.elem = (enum sl_meta_type)kinds[e->array.type].type;
    return e->array.type == T_STRING ? take_strings(p, e, n) : check_values(p, e->array.type, n);
}

static int take_meta(struct parser *p, struct sl_gguf_meta *e)
{
    e->at = p->pos;
    int r = take_name(p, "a metadata key", SL_GGUF_KEY_LEN_MAX, &e->key);
    if (r) return r;
    p->kind = "key";
    p->subject = e->key;
    uint32_t type;
    uint64_t start = p->pos, len;
    r = take(p, &type, 4, "the value's type");
    if (r) return r;
    if (type >= T_COUNT)
        return bad(p, SL_EINPUT, start, "value type %u is none of GGUF's 0 to %d%s", type,
                   T_COUNT - 1, DAMAGED);
    e->m.type = (enum sl_meta_type)kinds[type].type;
    start = p->pos;
    if (type == T_ARRAY) {
        r = take_array(p, e);
    } else if (type == T_STRING) {
        r = take_string(p, "the value", &e->string_at, &len);
        if (!r) e->m.len = (size_t)len;
    } else {
        r = check_values(p, type, 1);
        if (!r) e->m = scalar(type, p->f->head + start);
    }
    p->subject = NULL;
    return r;
}

static int by_key(const void *a, const void *b)
{
    return strcmp((*(struct sl_gguf_meta *const *)a)->key, (*(struct sl_gguf_meta *const *)b)->key);
}

static int take_metas(struct parser *p, uint64_t n)
{
    struct sl_gguf_file *f = p->f;
    f->metas = calloc((size_t)n + 1, sizeof *f->metas);
    f->by_key = calloc((size_t)n + 1, sizeof *f->by_key);
    if (!f->metas || !f->by_key) return no_memory(p);
    for (; f->n_metas < n; f->n_metas++) {
        struct sl_gguf_meta *e = f->by_key[f->n_metas] = &f->metas[f->n_metas];
        int r = take_meta(p, e);
        if (r) {
            free(e->array.index);
            return r;
        }
    }
    qsort(f->by_key, f->n_metas, sizeof *f->by_key, by_key);
    for (size_t i = 1; i < f->n_metas; i++)
        if (strcmp(f->by_key[i - 1]->key, f->by_key[i]->key) == 0)
            return bad(p, SL_EINPUT, SL_MAX(f->by_key[i - 1]->at, f->by_key[i]->at),
                       "metadata key %s appears twice%s", f->by_key[i]->key, DAMAGED);
    return 0;
}

/* Sets the size in bytes from type and dimensions. */
static int check_tensor(struct parser *p, struct sl_tensor *t, uint64_t at)
{
    int block, block_bytes;
    int64_t n = 1;
    for (int i = 0; i < t->n_dims; i++) {
        if (t->ne[i] < 1)
            return bad(p, SL_EINPUT, at, "dimension %d is %" PRId64 "%s", i, t->ne[i], DAMAGED);
        if (__builtin_mul_overflow(n, t->ne[i], &n))
            return bad(p, SL_EINPUT, at, "its dimensions multiply to more than 2^63 elements%s",
                       DAMAGED);
    }
    static const uint8_t retired[] = {4, 5, 31, 32, 33, 36, 37, 38};
    for (size_t i = 0; i < sizeof retired; i++)
        if (t->ggml_type == retired[i])
            return bad(
                p, SL_EUNSUPPORTED, at,
                "tensor format id %u was retired from GGUF; convert the original model again",
                t->ggml_type);
    if (sl_dtype_ggml_size(t->ggml_type, &block, &block_bytes) < 0)
        return bad(p, SL_EUNSUPPORTED, at,
                   "tensor format id %u is unknown here; use a file in one of GGUF's "
                   "common formats (Q4_K_M, Q8_0, F16 ...)",
                   t->ggml_type);
    if (t->ne[0] % block)
        return bad(p, SL_EINPUT, at,
                   "rows of %" PRId64 " elements do not divide into %s blocks of %d%s", t->ne[0],
                   sl_dtype_ggml_name(t->ggml_type), block, DAMAGED);
    if (__builtin_mul_overflow((uint64_t)(n / block), (uint64_t)block_bytes, &t->bytes) ||
        t->bytes > INT64_MAX)
        return bad(p, SL_EINPUT, at, "it would have more than 2^63 bytes%s", DAMAGED);
    int known = sl_dtype_from_ggml(t->ggml_type);
    t->known = known >= 0;
    t->type = t->known ? (enum sl_dtype)known : SL_F32;
    return 0;
}

static int take_tensor(struct parser *p, struct sl_gguf_tensor *e)
{
    struct sl_tensor *t = &e->t;
    e->at = p->pos;
    int r = take_name(p, "a tensor name", SL_TENSOR_NAME_MAX - 1, &t->name);
    if (r) return r;
    p->kind = "tensor";
    p->subject = t->name;
    uint32_t n_dims;
    uint64_t at = p->pos;
    r = take(p, &n_dims, 4, "its number of dimensions");
    if (r) return r;
    if (n_dims < 1 || n_dims > SL_TENSOR_DIMS_MAX)
        return bad(p, SL_EINPUT, at, "%u dimensions, 1 to %d are allowed%s", n_dims,
                   SL_TENSOR_DIMS_MAX, DAMAGED);
    t->n_dims = (int)n_dims;
    for (int i = 0; i < SL_TENSOR_DIMS_MAX; i++) t->ne[i] = 1;
    r = take(p, t->ne, n_dims * sizeof t->ne[0], "its dimensions");
    if (!r) r = take(p, &t->ggml_type, 4, "its format");
    if (!r) r = take(p, &t->offset, 8, "its offset");
    return r ? r : check_tensor(p, t, at);
}

static int read_align(struct parser *p, uint64_t *align)
{
    const struct sl_meta *m = sl_gguf_find(p->f, "general.alignment");
    *align = SL_GGUF_ALIGN_DEFAULT;
    if (!m) return 0;
    if (m->type != SL_META_INT || m->i < 1 || m->i > SL_GGUF_ALIGN_MAX || (m->i & (m->i - 1)))
        return bad(p, SL_EINPUT, sl_container_of(m, struct sl_gguf_meta, m)->at,
                   "general.alignment must be a power of two up to %u%s", SL_GGUF_ALIGN_MAX,
                   DAMAGED);
    *align = (uint64_t)m->i;
    return 0;
}

/* Tensors must lie one after another, each padded to the alignment: so none can overlap another or
 * the header. */
static int take_tensors(struct parser *p, uint64_t n)
{
    struct sl_gguf_file *f = p->f;
    uint64_t align, next = 0;
    int r = read_align(p, &align);
    if (r) return r;
    f->tensors = calloc((size_t)n + 1, sizeof *f->tensors);
    if (!f->tensors) return no_memory(p);
    for (; f->n_tensors < n; f->n_tensors++) {
        struct sl_gguf_tensor *e = &f->tensors[f->n_tensors];
        r = take_tensor(p, e);
        if (r) return r;
        if (e->t.offset != next)
            return bad(p, SL_EINPUT, e->at,
                       "its data should begin at offset %" PRIu64 ", the end of the tensor before, "
                       "not at %" PRIu64 "%s",
                       next, e->t.offset, DAMAGED);
        if (e->t.bytes > f->size - SL_MIN(next, f->size))
            return bad(p, SL_EINPUT, e->at, "its %" PRIu64 " bytes pass the end of the file%s",
                       e->t.bytes, DAMAGED);
        next = (next + e->t.bytes + align - 1) & ~(align - 1);
    }
    uint64_t data = (p->pos + align - 1) & ~(align - 1);
    for (size_t i = 0; i < n; i++) {
        struct sl_gguf_tensor *e = &f->tensors[i];
        e->t.offset += data;
        p->subject = e->t.name;
        if (e->t.offset > f->size || e->t.bytes > f->size - e->t.offset)
            return bad(p, SL_EINPUT, e->at,
                       "its %" PRIu64 " bytes at %" PRIu64 " pass the end of the file at %" PRIu64
                       "; the file is truncated, download it again",
                       e->t.bytes, e->t.offset, f->size);
    }
    return 0;
}

static int take_header(struct parser *p, uint64_t *n_tensors, uint64_t *n_keys)
{
    char magic[4];
    uint32_t version;
    int r = take(p, magic, 4, "the magic number");
    if (r) return r;
    if (memcmp(magic, MAGIC, 4) != 0)
        return bad(p, SL_EINPUT, 0,
                   "this is not a GGUF file (it does not begin with \"GGUF\"); give a .gguf model");
    r = take(p, &version, 4, "the version");
    if (r) return r;
    if (version != 0 && (version & 0xffff) == 0)
        return bad(p, SL_EUNSUPPORTED, 4,
                   "a big-endian GGUF file; convert the model for little-endian machines");
    if (version == 1)
        return bad(p, SL_EUNSUPPORTED, 4,
                   "GGUF version 1 is no longer read; convert the model again (version 3)");
    if (version != 2 && version != 3)
        return bad(p, version > 3 ? SL_EUNSUPPORTED : SL_EINPUT, 4,
                   "GGUF version %u; versions 2 and 3 are read", version);
    r = take(p, n_tensors, 8, "the number of tensors");
    if (!r) r = take(p, n_keys, 8, "the number of metadata keys");
    if (r) return r;
    uint64_t left = p->f->size - p->pos;
    if (*n_tensors > SL_GGUF_TENSORS_MAX || *n_tensors > left / TENSOR_BYTES_MIN)
        return bad(p, SL_EINPUT, 8,
                   "%" PRIu64 " tensors cannot be: more than fit the file or than %u%s", *n_tensors,
                   SL_GGUF_TENSORS_MAX, DAMAGED);
    if (*n_keys > SL_GGUF_KEYS_MAX || *n_keys > left / KEY_BYTES_MIN)
        return bad(p, SL_EINPUT, 16,
                   "%" PRIu64 " metadata keys cannot be: more than fit the file or than %u%s",
                   *n_keys, SL_GGUF_KEYS_MAX, DAMAGED);
    return 0;
}

int sl_gguf_parse(struct sl_gguf_file *f, struct sl_err *err)
{
    struct parser p = {.f = f, .err = err};
    uint64_t n_tensors = 0, n_keys = 0;
    sl_arena_init(&f->names, 2 * (size_t)SL_GGUF_HEADER_MAX);
    int r = take_header(&p, &n_tensors, &n_keys);
    if (!r) r = take_metas(&p, n_keys);
    if (!r) r = take_tensors(&p, n_tensors);
    if (r) return r;
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

const struct sl_meta *sl_gguf_find(const struct sl_gguf_file *f, const char *key)
{
    struct sl_gguf_meta want = {.key = key}, *w = &want;
    struct sl_gguf_meta **hit = bsearch(&w, f->by_key, f->n_metas, sizeof *f->by_key, by_key);
    return hit ? &(*hit)->m : NULL;
}

struct sl_meta sl_meta_at(const struct sl_meta *m, size_t i)
{
    SL_ASSERT(m->type == SL_META_ARRAY && i < m->len);
    const struct sl_gguf_array *a = m->array;
    if (!a->index) return scalar(a->type, a->head + a->at + i * kinds[a->type].bytes);
    const uint8_t *s = a->head + a->index[i];
    uint64_t len;
    memcpy(&len, s, 8);
    return (struct sl_meta){.type = SL_META_STRING, .s = (const char *)s + 8, .len = (size_t)len};
}
