/* weights.c - the handle of an open model: its files, its tensors by name, and the mapping of their
 * bytes.
 *
 * A split model is opened by its first part, which holds the metadata; every part describes and
 * holds its own tensors. Tensors are mapped one by one, each with just the pages it covers, so that
 * a stage never has other layers' bytes in its address space, and what was repacked can be given
 * back alone. */
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
#include "model/gguf.h"

#define PART_SUFFIX_LEN 20 /* characters of "-00001-of-00003.gguf" */

struct sl_weights {
    struct sl_gguf_file *parts;
    unsigned n_parts;
    struct sl_gguf_tensor **tensors; /* in file order */
    struct sl_gguf_tensor **by_name; /* sorted */
    size_t n_tensors;
};

static int open_part(struct sl_gguf_file *f, const char *path, struct sl_err *err)
{
    struct stat st;
    f->fd = -1;
    f->path = strdup(path);
    if (!f->path) return sl_err_set(err, SL_ENOMEM, "%s: out of memory", path);
    f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us */
    if (f->fd < 0)
        return sl_err_set(err, errno == ENOENT ? SL_ENOTFOUND : SL_EIO,
                          "%s: cannot open the model: %s", path, strerror(errno));
    if (fstat(f->fd, &st) < 0) return sl_err_set(err, SL_EIO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return sl_err_set(err, SL_EINPUT, "%s: not a file; give the path of a .gguf file", path);
    f->size = (uint64_t)st.st_size;
    return sl_gguf_parse(f, err);
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(struct sl_gguf_tensor *const *)a)->t.name,
                  (*(struct sl_gguf_tensor *const *)b)->t.name);
}

/* Builds the lists over all parts; a name in two places is refused. */
static int index_tensors(struct sl_weights *w, struct sl_err *err)
{
    size_t n = 0;
    for (unsigned i = 0; i < w->n_parts; i++) n += w->parts[i].n_tensors;
    w->tensors = calloc(n + 1, sizeof *w->tensors);
    w->by_name = calloc(n + 1, sizeof *w->by_name);
    if (!w->tensors || !w->by_name)
        return sl_err_set(err, SL_ENOMEM, "%s: out of memory", w->parts[0].path);
    for (unsigned i = 0; i < w->n_parts; i++)
        for (size_t j = 0; j < w->parts[i].n_tensors; j++) {
            struct sl_gguf_tensor *t = &w->parts[i].tensors[j];
            t->part = i;
            w->tensors[w->n_tensors] = w->by_name[w->n_tensors] = t;
            w->n_tensors++;
        }
    if (n) qsort(w->by_name, n, sizeof *w->by_name, by_name);
    for (size_t i = 1; i < n; i++) {
        const struct sl_gguf_tensor *a = w->by_name[i - 1], *b = w->by_name[i];
        if (strcmp(a->t.name, b->t.name) != 0) continue;
        if (a->part > b->part || (a->part == b->part && a->at > b->at)) b = a;
        return sl_err_set(err, SL_EINPUT,
                          "%s: byte %" PRIu64 ", tensor %s: this name appears twice; the file is "
                          "damaged, download or convert it again",
                          w->parts[b->part].path, b->at, b->t.name);
    }
    return 0;
}

/* split.* of one part; absent keys leave the values of a file that is not split. */
static int read_split(const struct sl_gguf_file *f, int64_t *no, int64_t *count, int64_t *tensors,
                      struct sl_err *err)
{
    static const char *const keys[] = {"split.no", "split.count", "split.tensors.count"};
    int64_t *out[] = {no, count, tensors};
    *no = 0;
    *count = 1;
    *tensors = -1;
    for (int i = 0; i < 3; i++) {
        const struct sl_meta *m = sl_gguf_find(f, keys[i]);
        if (!m) continue;
        if (m->type != SL_META_INT || m->i < 0 || m->i > INT32_MAX)
            return sl_err_set(err, SL_EINPUT,
                              "%s: key %s is no count; the file is damaged, download it again",
                              f->path, keys[i]);
        *out[i] = m->i;
    }
    if (*count == 0) *count = 1; /* written by tools that joined the parts again */
    if (*count > SL_GGUF_PARTS_MAX)
        return sl_err_set(err, SL_EINPUT,
                          "%s: key split.count says %" PRId64
                          " parts, at most %d are read; merge the "
                          "parts into fewer files",
                          f->path, *count, SL_GGUF_PARTS_MAX);
    return 0;
}

/* Is `path` a good name for the first of `count` parts? */
static int has_first_name(const char *path, int64_t count)
{
    char want[64];
    size_t len = strlen(path);
    snprintf(want, sizeof want, "-00001-of-%05d.gguf", (int)count);
    return len > PART_SUFFIX_LEN && strcmp(path + len - PART_SUFFIX_LEN, want) == 0;
}

/* Opens parts 1.. of a model whose part 0 is open and says that it has `count`. */
static int open_rest(struct sl_weights *w, int64_t count, int64_t total, struct sl_err *err)
{
    struct sl_gguf_file *first = &w->parts[0];
    if (!has_first_name(first->path, count))
        return sl_err_set(
            err, SL_EINPUT,
            "%s: the first of %d parts must be named ...-00001-of-%05d.gguf, and the others "
            "lie beside it; give the files back their names",
            first->path, (int)count, (int)count);
    struct sl_gguf_file *parts = calloc((size_t)count, sizeof *parts);
    size_t cap = strlen(first->path) + 1;
    char *path = malloc(cap);
    int r = parts && path ? 0 : sl_err_set(err, SL_ENOMEM, "%s: out of memory", first->path);
    if (parts) {
        parts[0] = *first;
        free(w->parts);
        w->parts = parts;
    }
    for (int64_t i = 1; i < count && !r; i++) {
        int64_t no, n, unused;
        snprintf(path, cap, "%.*s-%05d-of-%05d.gguf", (int)(cap - 1 - PART_SUFFIX_LEN),
                 parts[0].path, (int)i + 1, (int)count);
        r = open_part(&parts[w->n_parts++], path, err);
        if (!r) r = read_split(&parts[i], &no, &n, &unused, err);
        if (!r && (no != i || n != count))
            r = sl_err_set(
                err, SL_EINPUT,
                "%s: says it is part %d of %d, its name says %d of %d; download it again", path,
                (int)no + 1, (int)n, (int)i + 1, (int)count);
    }
    free(path);
    int64_t have = 0;
    for (unsigned i = 0; i < w->n_parts; i++) have += (int64_t)w->parts[i].n_tensors;
    if (!r && total >= 0 && have != total)
        r = sl_err_set(err, SL_EINPUT,
                       "%s: key split.tensors.count says %" PRId64
                       " tensors, the %d parts have %" PRId64 "; download them again",
                       w->parts[0].path, total, (int)count, have);
    return r;
}

/* The common end of opening: w->parts[0] is parsed. */
static int finish_open(struct sl_weights *w, struct sl_err *err)
{
    int64_t no, count, total;
    int r = read_split(&w->parts[0], &no, &count, &total, err);
    if (r) return r;
    if (no != 0)
        return sl_err_set(err, SL_EINPUT,
                          "%s: this is part %d of %d; give the first part (...-00001-of-%05d.gguf)",
                          w->parts[0].path, (int)no + 1, (int)count, (int)count);
    if (count > 1 && w->parts[0].fd < 0)
        return sl_err_set(err, SL_EINPUT, "%s: a split model cannot be opened from memory",
                          w->parts[0].path);
    if (count > 1) r = open_rest(w, count, total, err);
    return r ? r : index_tensors(w, err);
}

static struct sl_weights *create(struct sl_err *err)
{
    struct sl_weights *w = calloc(1, sizeof *w);
    if (w) w->parts = calloc(1, sizeof *w->parts);
    if (w && w->parts) {
        w->n_parts = 1;
        return w;
    }
    free(w);
    sl_err_set(err, SL_ENOMEM, "out of memory while opening a model");
    return NULL;
}

int sl_weights_open(const char *path, struct sl_weights **out, struct sl_err *err)
{
    struct sl_weights *w = create(err);
    if (!w) return SL_ENOMEM;
    int r = open_part(&w->parts[0], path, err);
    if (!r) r = finish_open(w, err);
    if (r)
        sl_weights_close(w);
    else
        *out = w;
    return r;
}

int sl_weights_open_memory(const char *name, const void *data, size_t n, struct sl_weights **out,
                           struct sl_err *err)
{
    struct sl_weights *w = create(err);
    if (!w) return SL_ENOMEM;
    struct sl_gguf_file *f = &w->parts[0];
    *f = (struct sl_gguf_file){
        .path = strdup(name), .fd = -1, .size = n, .head = data, .head_len = n};
    int r = f->path ? sl_gguf_parse(f, err) : sl_err_set(err, SL_ENOMEM, "%s: out of memory", name);
    if (!r) r = finish_open(w, err);
    if (r)
        sl_weights_close(w);
    else
        *out = w;
    return r;
}

void sl_weights_close(struct sl_weights *w)
{
    if (!w) return;
    for (size_t i = 0; i < w->n_tensors; i++) sl_weights_unmap(w, &w->tensors[i]->t);
    for (unsigned i = 0; i < w->n_parts; i++) {
        if (w->parts[i].fd >= 0) close(w->parts[i].fd);
        free(w->parts[i].path);
        sl_gguf_free(&w->parts[i]);
    }
    free(w->tensors);
    free(w->by_name);
    free(w->parts);
    free(w);
}

const struct json_t *sl_weights_json(const struct sl_weights *w, enum sl_json_file which)
{
    (void)w;
    SL_ASSERT(which >= 0 && which < SL_JSON_COUNT);
    return NULL; /* a GGUF file holds no JSON */
}

const char *sl_weights_dir(const struct sl_weights *w)
{
    (void)w;
    return NULL;
}

const char *sl_weights_path(const struct sl_weights *w)
{
    return w->parts[0].path;
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
    struct sl_gguf_tensor want = {.t.name = name}, *p = &want;
    struct sl_gguf_tensor **hit =
        bsearch(&p, w->by_name, w->n_tensors, sizeof *w->by_name, by_name);
    return hit ? &(*hit)->t : NULL;
}

const void *sl_weights_map(struct sl_weights *w, const struct sl_tensor *t, struct sl_err *err)
{
    struct sl_gguf_tensor *e = sl_container_of(t, struct sl_gguf_tensor, t);
    const struct sl_gguf_file *f = &w->parts[e->part];
    if (f->fd < 0) return f->head + t->offset;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), from = t->offset & ~(page - 1);
    if (!e->map) {
        struct stat st;
        if (fstat(f->fd, &st) < 0) {
            sl_err_set(err, SL_EIO, "%s: %s", f->path, strerror(errno));
            return NULL;
        }
        /* touching pages past the end would be a SIGBUS */
        if ((uint64_t)st.st_size < t->offset + t->bytes) {
            sl_err_set(err, SL_EINPUT,
                       "%s: tensor %s: the file was truncated to %" PRIu64
                       " bytes after it was opened; "
                       "restore it and start again",
                       f->path, t->name, (uint64_t)st.st_size);
            return NULL;
        }
        size_t len = (size_t)(t->offset + t->bytes - from);
        void *map = mmap(NULL, len, PROT_READ, MAP_PRIVATE, f->fd, (off_t)from);
        if (map == MAP_FAILED) {
            sl_err_set(err, errno == ENOMEM ? SL_ENOMEM : SL_EIO,
                       "%s: tensor %s: cannot map %" PRIu64 " bytes: %s", f->path, t->name,
                       t->bytes, strerror(errno));
            return NULL;
        }
        e->map = map;
        e->map_len = len;
    }
    return (const char *)e->map + (t->offset - from);
}

void sl_weights_unmap(struct sl_weights *w, const struct sl_tensor *t)
{
    struct sl_gguf_tensor *e = sl_container_of(t, struct sl_gguf_tensor, t);
    (void)w;
    if (e->map) munmap(e->map, e->map_len);
    e->map = NULL;
}

const struct sl_meta *sl_weights_meta(const struct sl_weights *w, const char *key)
{
    return sl_gguf_find(&w->parts[0], key);
}

size_t sl_weights_meta_count(const struct sl_weights *w)
{
    return w->parts[0].n_metas;
}

const struct sl_meta *sl_weights_meta_nth(const struct sl_weights *w, size_t i, const char **key)
{
    SL_ASSERT(i < w->parts[0].n_metas);
    const struct sl_gguf_meta *e = &w->parts[0].metas[i];
    if (key) *key = e->key;
    return &e->m;
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
