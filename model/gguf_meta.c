/* gguf_meta.c - the metadata of a GGUF header: values of thirteen types, arrays of twelve.
 *
 * Values stay where they are in the header buffer; only strings in arrays get an index (4 bytes
 * each), made while their lengths are checked, so that element access needs no walk. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "model/gguf_cursor.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF values are copied as they are");

/* clang-format off */
enum {
    T_U8, T_I8, T_U16, T_I16, T_U32, T_I32, T_F32, T_BOOL, T_STRING, T_ARRAY, T_U64, T_I64, T_F64,
    T_COUNT
};
/* clang-format on */

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
static int check_values(struct sl_gguf_cursor *p, uint32_t type, uint64_t n)
{
    unsigned size = kinds[type].bytes;
    uint64_t left = p->f->size - p->pos;
    if (n > left / size)
        return sl_gguf_bad(p, SL_EINPUT, p->pos,
                           "%" PRIu64 " values of %u bytes need more than the %" PRIu64
                           " bytes left%s",
                           n, size, left, SL_GGUF_DAMAGED);
    int r = sl_gguf_need(p, n * size, "the value");
    if (r) return r;
    if (type == T_BOOL || type == T_U64)
        for (uint64_t i = 0; i < n; i++) {
            const uint8_t *v = p->f->head + p->pos + i * size;
            if (type == T_BOOL ? *v > 1 : v[7] > 0x7f)
                return sl_gguf_bad(p, SL_EINPUT, p->pos + i * size, "%s%s",
                                   type == T_BOOL ? "a boolean is neither 0 nor 1"
                                                  : "a 64-bit integer is above 2^63-1",
                                   SL_GGUF_DAMAGED);
        }
    p->pos += n * size;
    return 0;
}

static int take_strings(struct sl_gguf_cursor *p, struct sl_gguf_meta *e, uint64_t n)
{
    if (n > (p->f->size - p->pos) / 8)
        return sl_gguf_bad(p, SL_EINPUT, p->pos,
                           "%" PRIu64 " strings need more than the %" PRIu64 " bytes left%s", n,
                           p->f->size - p->pos, SL_GGUF_DAMAGED);
    if (n > SL_GGUF_HEADER_MAX / 8)
        return sl_gguf_bad(p, SL_EINPUT, p->pos,
                           "%" PRIu64 " strings would make the header larger than %u bytes%s", n,
                           SL_GGUF_HEADER_MAX, SL_GGUF_DAMAGED);
    e->array.index = malloc((size_t)n * sizeof *e->array.index + 1);
    if (!e->array.index) return sl_gguf_no_memory(p);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t at, len;
        e->array.index[i] = (uint32_t)p->pos;
        int r = sl_gguf_string(p, "a string of the array", &at, &len);
        if (r) return r;
    }
    return 0;
}

static int take_array(struct sl_gguf_cursor *p, struct sl_gguf_meta *e)
{
    uint64_t start = p->pos, n;
    int r = sl_gguf_take(p, &e->array.type, 4, "the array's element type");
    if (!r) r = sl_gguf_take(p, &n, 8, "the array's length");
    if (r) return r;
    if (e->array.type == T_ARRAY)
        return sl_gguf_bad(p, SL_EUNSUPPORTED, start,
                           "an array of arrays; convert the model without it");
    if (e->array.type >= T_COUNT)
        return sl_gguf_bad(p, SL_EINPUT, start, "element type %u is none of GGUF's 0 to %d%s",
                           e->array.type, T_COUNT - 1, SL_GGUF_DAMAGED);
    e->array.at = p->pos;
    e->m.len = (size_t)n;
    e->m.elem = (enum sl_meta_type)kinds[e->array.type].type;
    return e->array.type == T_STRING ? take_strings(p, e, n) : check_values(p, e->array.type, n);
}

static int take_meta(struct sl_gguf_cursor *p, struct sl_gguf_meta *e)
{
    e->at = p->pos;
    int r = sl_gguf_name(p, "a metadata key", SL_GGUF_KEY_LEN_MAX, &e->key);
    if (r) return r;
    p->kind = "key";
    p->subject = e->key;
    uint32_t type;
    uint64_t start = p->pos, len;
    r = sl_gguf_take(p, &type, 4, "the value's type");
    if (r) return r;
    if (type >= T_COUNT)
        return sl_gguf_bad(p, SL_EINPUT, start, "value type %u is none of GGUF's 0 to %d%s", type,
                           T_COUNT - 1, SL_GGUF_DAMAGED);
    e->m.type = (enum sl_meta_type)kinds[type].type;
    start = p->pos;
    if (type == T_ARRAY) {
        r = take_array(p, e);
    } else if (type == T_STRING) {
        r = sl_gguf_string(p, "the value", &e->string_at, &len);
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

int sl_gguf_metas(struct sl_gguf_cursor *p, uint64_t n)
{
    struct sl_gguf_file *f = p->f;
    f->metas = calloc((size_t)n + 1, sizeof *f->metas);
    f->by_key = calloc((size_t)n + 1, sizeof *f->by_key);
    if (!f->metas || !f->by_key) return sl_gguf_no_memory(p);
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
            return sl_gguf_bad(p, SL_EINPUT, SL_MAX(f->by_key[i - 1]->at, f->by_key[i]->at),
                               "metadata key %s appears twice%s", f->by_key[i]->key,
                               SL_GGUF_DAMAGED);
    return 0;
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
