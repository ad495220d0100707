/* weights.c - the handle of an open model: which reader it is for, its tensors by name, and the
 * mapping of their bytes.
 *
 * Tensors are mapped one by one, each with just the pages it covers, so that a stage never has
 * other layers' bytes in its address space, and what was repacked can be given back alone. */
#include "model/weights.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/sl_assert.h"
#include "model/hf.h"

struct sl_weights {
    const struct sl_weights_reader *reader;
    void *model;               /* the reader's */
    struct sl_entry **tensors; /* in file order */
    struct sl_entry **by_name; /* sorted */
    size_t n_tensors;
};

static int by_name(const void *a, const void *b)
{
    return strcmp((*(struct sl_entry *const *)a)->t.name, (*(struct sl_entry *const *)b)->t.name);
}

/* A name that is there twice, as an error about the second place. */
static int twice(struct sl_weights *w, const struct sl_entry *a, const struct sl_entry *b,
                 struct sl_err *err)
{
    struct sl_weights_part part = {.path = sl_weights_path(w)};
    if (a->t.file > b->t.file || (a->t.file == b->t.file && a->at > b->at)) b = a;
    w->reader->part(w->model, b->t.file, &part, NULL);
    return sl_err_set(err, SL_EINPUT,
                      "%s: byte %" PRIu64 ", tensor %s: this name appears twice; the file is "
                      "damaged, download or convert it again",
                      part.path, b->at, b->t.name);
}

/* Builds the lists over all files. */
static int index_tensors(struct sl_weights *w, struct sl_err *err)
{
    size_t n = w->reader->count(w->model);
    w->tensors = calloc(n + 1, sizeof *w->tensors);
    w->by_name = calloc(n + 1, sizeof *w->by_name);
    if (!w->tensors || !w->by_name)
        return sl_err_set(err, SL_ENOMEM, "%s: out of memory", sl_weights_path(w));
    for (size_t i = 0; i < n; i++) w->tensors[i] = w->by_name[i] = w->reader->at(w->model, i);
    w->n_tensors = n;
    if (n) qsort(w->by_name, n, sizeof *w->by_name, by_name);
    for (size_t i = 1; i < n; i++)
        if (strcmp(w->by_name[i - 1]->t.name, w->by_name[i]->t.name) == 0)
            return twice(w, w->by_name[i - 1], w->by_name[i], err);
    return 0;
}

static int open_with(const struct sl_weights_reader *reader, const char *path, const void *data,
                     size_t n, struct sl_weights **out, struct sl_err *err)
{
    struct sl_weights *w = calloc(1, sizeof *w);
    if (!w) return sl_err_set(err, SL_ENOMEM, "%s: out of memory", path);
    w->reader = reader;
    int r = reader->open(path, data, n, &w->model, err);
    if (r)
        w->model = NULL;
    else
        r = index_tensors(w, err);
    if (r)
        sl_weights_close(w);
    else
        *out = w;
    return r;
}

static int has_suffix(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);
    return n >= m && strcmp(s + n - m, suffix) == 0;
}

int sl_weights_open(const char *path, struct sl_weights **out, struct sl_err *err)
{
    struct stat st;
    int hf = has_suffix(path, ".safetensors") || has_suffix(path, ".safetensors.index.json") ||
             (stat(path, &st) == 0 && S_ISDIR(st.st_mode));
    int r = hf ? 0 : sl_hf_refuse_file(path, err);
    return r ? r
             : open_with(hf ? &sl_weights_reader_hf : &sl_weights_reader_gguf, path, NULL, 0, out,
                         err);
}

int sl_weights_open_memory(const char *name, const void *data, size_t n, struct sl_weights **out,
                           struct sl_err *err)
{
    const struct sl_weights_reader *reader =
        has_suffix(name, ".safetensors") ? &sl_weights_reader_hf : &sl_weights_reader_gguf;
    return open_with(reader, name, data ? data : "", n, out, err);
}

static void unmap(struct sl_entry *e)
{
    if (e->map) munmap(e->map, e->map_len);
    free(e->copy);
    e->map = e->copy = NULL;
    e->users = 0;
}

void sl_weights_close(struct sl_weights *w)
{
    if (!w) return;
    for (size_t i = 0; i < w->n_tensors; i++) unmap(w->tensors[i]);
    free(w->tensors);
    free(w->by_name);
    if (w->model) w->reader->close(w->model);
    free(w);
}

int sl_weights_json_load(const struct sl_weights *w, enum sl_json_file which,
                         const struct json_t **out, struct sl_err *err)
{
    SL_ASSERT(which >= 0 && which < SL_JSON_COUNT);
    *out = NULL;
    return w->reader->json ? w->reader->json(w->model, which, out, err) : 0;
}

const struct json_t *sl_weights_json(const struct sl_weights *w, enum sl_json_file which)
{
    const struct json_t *out;
    return sl_weights_json_load(w, which, &out, NULL) == 0 ? out : NULL;
}

const char *sl_weights_dir(const struct sl_weights *w)
{
    return w->reader->dir ? w->reader->dir(w->model) : NULL;
}

const char *sl_weights_path(const struct sl_weights *w)
{
    return w->reader->path(w->model);
}

size_t sl_weights_count(const struct sl_weights *w)
{
    return w->n_tensors;
}

const struct sl_tensor *sl_weights_at(const struct sl_weights *w, size_t i)
{
    SL_ASSERT(i < w->n_tensors);
    return &w->tensors[i]->t;
}

const struct sl_tensor *sl_weights_find(const struct sl_weights *w, const char *name)
{
    struct sl_entry want = {.t.name = name}, *p = &want;
    struct sl_entry **hit = bsearch(&p, w->by_name, w->n_tensors, sizeof *w->by_name, by_name);
    return hit ? &(*hit)->t : NULL;
}

/* Bytes that an element's address must divide by. */
static uint64_t alignment(const struct sl_tensor *t)
{
    return t->known && sl_dtype_block(t->type) == 1 ? (uint64_t)sl_dtype_block_bytes(t->type) : 1;
}

/* Touching pages past the end would be a SIGBUS. */
static int still_there(const struct sl_weights_part *part, const struct sl_tensor *t,
                       struct sl_err *err)
{
    struct stat st;
    if (fstat(part->fd, &st) < 0)
        return sl_err_set(err, SL_EIO, "%s: %s", part->path, strerror(errno));
    if ((uint64_t)st.st_size >= t->offset + t->bytes) return 0;
    return sl_err_set(err, SL_EINPUT,
                      "%s: tensor %s: the file was truncated to %" PRIu64
                      " bytes after it was opened; restore it and start again",
                      part->path, t->name, (uint64_t)st.st_size);
}

/* Reads a tensor that lies at an odd place into memory of its own. */
static int copy_tensor(const struct sl_weights_part *part, struct sl_entry *e, struct sl_err *err)
{
    const struct sl_tensor *t = &e->t;
    char *copy = malloc(t->bytes ? (size_t)t->bytes : 1);
    if (!copy)
        return sl_err_set(err, SL_ENOMEM, "%s: tensor %s: out of memory for %" PRIu64 " bytes",
                          part->path, t->name, t->bytes);
    if (part->fd < 0) memcpy(copy, part->data + t->offset, (size_t)t->bytes);
    for (uint64_t done = 0; part->fd >= 0 && done < t->bytes;) {
        ssize_t n =
            pread(part->fd, copy + done, (size_t)(t->bytes - done), (off_t)(t->offset + done));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            free(copy);
            return sl_err_set(err, SL_EIO, "%s: tensor %s: cannot read: %s", part->path, t->name,
                              n < 0 ? strerror(errno) : "the file shrank");
        }
        done += (uint64_t)n;
    }
    e->copy = copy;
    return 0;
}

static int map_tensor(const struct sl_weights_part *part, struct sl_entry *e, uint64_t from,
                      struct sl_err *err)
{
    const struct sl_tensor *t = &e->t;
    size_t len = (size_t)(t->offset + t->bytes - from);
    if (len == 0) len = 1; /* an empty tensor at the start of a page */
    void *map = mmap(NULL, len, PROT_READ, MAP_PRIVATE, part->fd, (off_t)from);
    if (map == MAP_FAILED)
        return sl_err_set(err, errno == ENOMEM ? SL_ENOMEM : SL_EIO,
                          "%s: tensor %s: cannot map %" PRIu64 " bytes: %s", part->path, t->name,
                          t->bytes, strerror(errno));
    e->map = map;
    e->map_len = len;
    return 0;
}

const void *sl_weights_map(struct sl_weights *w, const struct sl_tensor *t, struct sl_err *err)
{
    struct sl_entry *e = sl_container_of(t, struct sl_entry, t);
    struct sl_weights_part part;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), from = t->offset & ~(page - 1);
    int r = w->reader->part(w->model, t->file, &part, err);
    if (r) return NULL;
    const uint8_t *mem = part.fd < 0 ? part.data + t->offset : NULL;
    int odd = (mem ? (uintptr_t)mem : t->offset) % alignment(t) != 0;
    if (!e->map && !e->copy && !(mem && !odd)) {
        if (!mem) r = still_there(&part, t, err);
        if (!r) r = odd ? copy_tensor(&part, e, err) : map_tensor(&part, e, from, err);
        if (r) return NULL;
    }
    e->users++;
    if (e->copy) return e->copy;
    return mem ? mem : (const uint8_t *)e->map + (t->offset - from);
}

void sl_weights_unmap(struct sl_weights *w, const struct sl_tensor *t)
{
    struct sl_entry *e = sl_container_of(t, struct sl_entry, t);
    (void)w;
    if (e->users > 1)
        e->users--;
    else
        unmap(e);
}

const struct sl_meta *sl_weights_meta(const struct sl_weights *w, const char *key)
{
    return w->reader->meta ? w->reader->meta(w->model, key) : NULL;
}

size_t sl_weights_meta_count(const struct sl_weights *w)
{
    return w->reader->meta_count ? w->reader->meta_count(w->model) : 0;
}

const struct sl_meta *sl_weights_meta_nth(const struct sl_weights *w, size_t i, const char **key)
{
    SL_ASSERT(i < sl_weights_meta_count(w));
    return w->reader->meta_nth(w->model, i, key);
}

/* What a key should have been, as one error line. */
static int wrong(const struct sl_weights *w, const char *key, const char *want, struct sl_err *err)
{
    return sl_err_set(err, SL_EINPUT, "%s: key %s should be %s; convert the model again",
                      sl_weights_path(w), key, want);
}

int sl_weights_int(const struct sl_weights *w, const char *key, int64_t def, int64_t min,
                   int64_t max, int64_t *out, struct sl_err *err)
{
    const struct sl_meta *m = sl_weights_meta(w, key);
    if (m && (m->type != SL_META_INT || m->i < min || m->i > max)) {
        char want[80];
        snprintf(want, sizeof want, "an integer from %" PRId64 " to %" PRId64, min, max);
        return wrong(w, key, want, err);
    }
    *out = m ? m->i : def;
    return 0;
}

int sl_weights_float(const struct sl_weights *w, const char *key, double def, double *out,
                     struct sl_err *err)
{
    const struct sl_meta *m = sl_weights_meta(w, key);
    if (m && ((m->type != SL_META_FLOAT && m->type != SL_META_INT) || !isfinite(m->f)))
        return wrong(w, key, "a finite number", err);
    *out = m ? m->f : def;
    return 0;
}

int sl_weights_bool(const struct sl_weights *w, const char *key, int def, int *out,
                    struct sl_err *err)
{
    const struct sl_meta *m = sl_weights_meta(w, key);
    if (m && m->type != SL_META_BOOL) return wrong(w, key, "true or false", err);
    *out = m ? m->i != 0 : def;
    return 0;
}
