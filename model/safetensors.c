/* safetensors.c - the header of one safetensors file: JSON in, tensor descriptions out.
 *
 * The checks are those of the reference parser (formats: the header ends inside the file, shapes
 * times bits are the bytes of each range, ranges lie one after another without holes or overlaps
 * and end with the file) and limits of our own, so that what a hostile header can cost is bounded
 * by its own size. A dtype that we have no use for is described and only refused when somebody
 * needs that tensor. */
#include "model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "base/sl_assert.h"
#include "model/json_read.h"

#define DAMAGED "; the file is damaged, download it again"

/* dtype strings of the format, their bits and what they are here; -1: nothing we compute with. */
static const struct dtype {
    const char *name;
    int bits, type;
} dtypes[] = {
    {"F32", 32, SL_F32},
    {"F16", 16, SL_F16},
    {"BF16", 16, SL_BF16},
    {"F8_E4M3", 8, SL_F8_E4M3},
    {"F8_E5M2", 8, SL_F8_E5M2},
    {"F8_E8M0", 8, SL_E8M0},
    {"F4", 4, SL_F4},
    {"U8", 8, SL_U8},
    {"I8", 8, SL_I8},
    {"BOOL", 8, SL_BOOL},
    {"I16", 16, SL_I16},
    {"I32", 32, SL_I32},
    {"I64", 64, SL_I64},
    {"F64", 64, SL_F64},
    {"U16", 16, -1},
    {"U32", 32, -1},
    {"U64", 64, -1},
    {"C64", 64, -1},
    {"F6_E2M3", 6, -1},
    {"F6_E3M2", 6, -1},
    {"F8_E4M3FNUZ", 8, -1},
    {"F8_E5M2FNUZ", 8, -1},
};

static const struct dtype *find_dtype(const char *name)
{
    for (size_t i = 0; i < SL_ARRAY_LEN(dtypes); i++)
        if (strcmp(dtypes[i].name, name) == 0) return &dtypes[i];
    return NULL;
}

/* The shape, as GGUF counts: the last dimension first. */
static int read_shape(const struct sl_safetensors *f, struct sl_tensor *t, const json_t *shape,
                      uint64_t *elements, struct sl_err *err)
{
    size_t rank = json_array_size(shape);
    if (!json_is_array(shape) || rank > SL_TENSOR_DIMS_MAX)
        return sl_err_set(err, SL_EINPUT,
                          "%s: tensor %s: its shape is not a list of at most %d numbers" DAMAGED,
                          f->path, t->name, SL_TENSOR_DIMS_MAX);
    *elements = 1;
    t->n_dims = (int)rank;
    for (int i = 0; i < SL_TENSOR_DIMS_MAX; i++) t->ne[i] = 1;
    for (size_t i = 0; i < rank; i++) {
        const json_t *v = json_array_get(shape, i);
        json_int_t n = json_integer_value(v);
        if (!json_is_integer(v) || n < 0 ||
            __builtin_mul_overflow(*elements, (uint64_t)n, elements))
            return sl_err_set(err, SL_EINPUT,
                              "%s: tensor %s: dimension %zu is negative, no whole number or too "
                              "large" DAMAGED,
                              f->path, t->name, i);
        t->ne[rank - 1 - i] = n;
    }
    return 0;
}

static int read_range(const struct sl_safetensors *f, struct sl_tensor *t, const json_t *range,
                      struct sl_err *err)
{
    const json_t *a = json_array_get(range, 0), *b = json_array_get(range, 1);
    json_int_t begin = json_integer_value(a), end = json_integer_value(b);
    if (json_array_size(range) != 2 || !json_is_integer(a) || !json_is_integer(b) || begin < 0 ||
        end < begin)
        return sl_err_set(err, SL_EINPUT,
                          "%s: tensor %s: data_offsets are not two numbers in order" DAMAGED,
                          f->path, t->name);
    t->offset = (uint64_t)begin; /* the start of the data is added once all are sorted */
    t->bytes = (uint64_t)(end - begin);
    return 0;
}

static int read_type(struct sl_safetensors *f, struct sl_tensor *t, const json_t *type,
                     uint64_t elements, struct sl_err *err)
{
    const char *name = json_string_value(type);
    const struct dtype *d = name ? find_dtype(name) : NULL;
    uint64_t bits;
    if (!name)
        return sl_err_set(err, SL_EINPUT, "%s: tensor %s: it has no dtype" DAMAGED, f->path,
                          t->name);
    t->type_name = d ? d->name : sl_arena_strdup(&f->names, name);
    if (!t->type_name) return sl_err_set(err, SL_ENOMEM, "%s: out of memory", f->path);
    t->ggml_type = SL_GGML_NONE;
    t->known = d && d->type >= 0;
    t->type = t->known ? (enum sl_dtype)d->type : SL_F32;
    if (!d) return 0; /* newer than we are: its size cannot be checked, only its place */
    if (__builtin_mul_overflow(elements, (uint64_t)d->bits, &bits) || bits % 8 ||
        bits / 8 != t->bytes)
        return sl_err_set(err, SL_EINPUT,
                          "%s: tensor %s: %" PRIu64 " elements of %s are not its %" PRIu64
                          " bytes" DAMAGED,
                          f->path, t->name, elements, name, t->bytes);
    if (d->type == SL_F4 && t->ne[0] % 2)
        return sl_err_set(err, SL_EINPUT,
                          "%s: tensor %s: rows of %" PRId64 " F4 values end within a byte" DAMAGED,
                          f->path, t->name, t->ne[0]);
    return 0;
}

static int read_tensor(struct sl_safetensors *f, struct sl_entry *e, const char *name,
                       const json_t *v, struct sl_err *err)
{
    size_t len = strlen(name);
    uint64_t elements = 0;
    if (len == 0 || len >= SL_TENSOR_NAME_MAX)
        return sl_err_set(err, SL_EINPUT,
                          "%s: a tensor name has %zu bytes, 1 to %d are allowed" DAMAGED, f->path,
                          len, SL_TENSOR_NAME_MAX - 1);
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            return sl_err_set(err, SL_EINPUT,
                              "%s: a tensor name holds the control character 0x%02x" DAMAGED,
                              f->path, (unsigned char)name[i]);
    e->t.name = sl_arena_strndup(&f->names, name, len);
    if (!e->t.name) return sl_err_set(err, SL_ENOMEM, "%s: out of memory", f->path);
    int r = read_shape(f, &e->t, json_object_get(v, "shape"), &elements, err);
    if (!r) r = read_range(f, &e->t, json_object_get(v, "data_offsets"), err);
    return r ? r : read_type(f, &e->t, json_object_get(v, "dtype"), elements, err);
}

static int by_place(const void *a, const void *b)
{
    const struct sl_tensor *x = &((const struct sl_entry *)a)->t,
                           *y = &((const struct sl_entry *)b)->t;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1; /* empty ones first */
    return strcmp(x->name, y->name);
}

/* Ranges must follow one another from the first byte of the data to the last of the file. */
static int check_ranges(struct sl_safetensors *f, uint64_t data, struct sl_err *err)
{
    uint64_t next = 0, have = f->size - data;
    if (f->n) qsort(f->entries, f->n, sizeof *f->entries, by_place);
    for (size_t i = 0; i < f->n; i++) {
        struct sl_tensor *t = &f->entries[i].t;
        if (t->offset != next)
            return sl_err_set(err, SL_EINPUT,
                              "%s: tensor %s: its data should begin at %" PRIu64
                              ", the end of the tensor before, not at %" PRIu64
                              ": ranges overlap or leave a hole" DAMAGED,
                              f->path, t->name, next, t->offset);
        next += t->bytes;
        if (next > have)
            return sl_err_set(err, SL_EINPUT,
                              "%s: tensor %s: its data end at byte %" PRIu64
                              ", the file at %" PRIu64 "; the file is truncated, download it again",
                              f->path, t->name, data + next, f->size);
        t->offset += data;
    }
    if (next != have)
        return sl_err_set(err, SL_EINPUT,
                          "%s: %" PRIu64 " bytes after the last tensor belong to none" DAMAGED,
                          f->path, have - next);
    return 0;
}

static int check_metadata(const struct sl_safetensors *f, json_t *meta, struct sl_err *err)
{
    const char *key;
    json_t *v;
    int ok = json_is_object(meta);
    json_object_foreach(meta, key, v) ok = ok && json_is_string(v);
    if (ok) return 0;
    return sl_err_set(err, SL_EINPUT, "%s: __metadata__ does not map names to text" DAMAGED,
                      f->path);
}

static int read_tensors(struct sl_safetensors *f, int file, json_t *head, struct sl_err *err)
{
    const char *name;
    json_t *v;
    size_t n = json_object_size(head);
    if (!json_is_object(head))
        return sl_err_set(err, SL_EINPUT, "%s: its header is not a JSON object" DAMAGED, f->path);
    if (n > SL_ST_TENSORS_MAX)
        return sl_err_set(err, SL_EINPUT, "%s: %zu tensors, at most %u are read" DAMAGED, f->path,
                          n, SL_ST_TENSORS_MAX);
    f->entries = calloc(n + 1, sizeof *f->entries);
    if (!f->entries) return sl_err_set(err, SL_ENOMEM, "%s: out of memory", f->path);
    json_object_foreach(head, name, v)
    {
        int r;
        if (strcmp(name, "__metadata__") == 0) {
            r = check_metadata(f, v, err);
        } else {
            struct sl_entry *e = &f->entries[f->n++];
            e->at = SL_ST_PREFIX;
            e->t.file = file;
            r = read_tensor(f, e, name, v, err);
        }
        if (r) return r;
    }
    return 0;
}

int sl_safetensors_pread(const struct sl_safetensors *f, void *out, size_t n, uint64_t at,
                         struct sl_err *err)
{
    if (f->mem) {
        memcpy(out, f->mem + at, n);
        return 0;
    }
    for (size_t done = 0; done < n;) {
        ssize_t got = pread(f->fd, (char *)out + done, n - done, (off_t)(at + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return sl_err_set(err, SL_EIO, "%s: cannot read: %s", f->path, strerror(errno));
        if (got == 0)
            return sl_err_set(err, SL_EINPUT, "%s: the file shrank while it was read; try again",
                              f->path);
        done += (size_t)got;
    }
    return 0;
}

static int read_header(struct sl_safetensors *f, int file, struct sl_err *err)
{
    uint8_t prefix[64];
    uint64_t n;
    size_t first = (size_t)SL_MIN(f->size, sizeof prefix);
    int r = sl_safetensors_pread(f, prefix, first, 0, err);
    if (r) return r;
    if (sl_is_lfs_pointer(prefix, first))
        return sl_err_set(err, SL_EINPUT, "%s: %s", f->path, SL_LFS_REMEDY);
    if (f->size < SL_ST_PREFIX)
        return sl_err_set(err, SL_EINPUT,
                          "%s: %" PRIu64 " bytes are too few for a safetensors file; download it "
                          "again",
                          f->path, f->size);
    memcpy(&n, prefix, sizeof n);
    if (n > SL_ST_HEADER_MAX || n > f->size - SL_ST_PREFIX)
        return sl_err_set(err, SL_EINPUT,
                          "%s: byte 0: a header of %" PRIu64
                          " bytes cannot be (the file has %" PRIu64
                          "); the file is truncated or no safetensors file, download it again",
                          f->path, n, f->size);
    char *text = malloc((size_t)n + 1);
    json_t *head = NULL;
    if (!text) return sl_err_set(err, SL_ENOMEM, "%s: out of memory", f->path);
    r = sl_safetensors_pread(f, text, (size_t)n, SL_ST_PREFIX, err);
    if (!r && (n == 0 || text[0] != '{'))
        r = sl_err_set(err, SL_EINPUT,
                       "%s: byte 8: the header does not begin with '{': not a safetensors file, or "
                       "damaged; download it again",
                       f->path);
    if (!r) r = sl_json_parse(f->path, text, (size_t)n, &head, err);
    free(text);
    if (!r) r = read_tensors(f, file, head, err);
    if (!r) r = check_ranges(f, SL_ST_PREFIX + n, err);
    json_decref(head);
    return r;
}

/* Opens the file and looks at it; f->fd is valid on success. */
static int open_file(struct sl_safetensors *f, struct stat *st, struct sl_err *err)
{
    f->fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us */
    if (f->fd < 0)
        return sl_err_set(err, errno == ENOENT ? SL_ENOTFOUND : SL_EIO,
                          "%s: cannot open the weights: %s", f->path, strerror(errno));
    if (fstat(f->fd, st) == 0 && S_ISREG(st->st_mode)) return 0;
    close(f->fd);
    f->fd = -1;
    return sl_err_set(err, SL_EINPUT, "%s: not a regular file", f->path);
}

int sl_safetensors_read(struct sl_safetensors *f, int file, struct sl_err *err)
{
    struct stat st;
    int r = 0;
    f->fd = -1;
    sl_arena_init(&f->names, 2 * (size_t)SL_ST_HEADER_MAX);
    if (!f->mem) {
        r = open_file(f, &st, err);
        if (r) return r;
        f->size = (uint64_t)st.st_size;
        f->dev = st.st_dev;
        f->ino = st.st_ino;
    }
    r = read_header(f, file, err);
    if (f->fd >= 0) close(f->fd);
    f->fd = -1;
    return r;
}

int sl_safetensors_open(struct sl_safetensors *f, struct sl_err *err)
{
    struct stat st;
    SL_ASSERT(!f->mem);
    if (f->fd >= 0) return 0;
    int r = open_file(f, &st, err);
    if (r) return r;
    if (st.st_dev == f->dev && st.st_ino == f->ino) return 0; /* its size: when it is mapped */
    close(f->fd);
    f->fd = -1;
    return sl_err_set(err, SL_EINPUT, "%s: the file was replaced after it was opened; start again",
                      f->path);
}

void sl_safetensors_close(struct sl_safetensors *f)
{
    if (f->fd >= 0) close(f->fd);
    f->fd = -1;
    free(f->entries);
    f->entries = NULL;
    f->n = 0;
    sl_arena_close(&f->names);
}
