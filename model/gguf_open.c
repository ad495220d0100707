/* gguf_open.c - a GGUF model as the row of the reader table: one file, or the parts of a split one.
 *
 * A split model is opened by its first part, which holds the metadata; every part describes and
 * holds its own tensors. */
#include "model/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/sl_assert.h"

#define PART_SUFFIX_LEN 20 /* characters of "-00001-of-00003.gguf" */

struct gguf_model {
    struct sl_gguf_file *parts;
    unsigned n_parts;
    size_t n_tensors; /* of all parts */
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
static int open_rest(struct gguf_model *w, int64_t count, int64_t total, struct sl_err *err)
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
static int finish_open(struct gguf_model *w, struct sl_err *err)
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
    for (unsigned i = 0; i < w->n_parts && !r; i++) {
        for (size_t j = 0; j < w->parts[i].n_tensors; j++) w->parts[i].tensors[j].t.file = (int)i;
        w->n_tensors += w->parts[i].n_tensors;
    }
    return r;
}

static void gguf_close(void *model)
{
    struct gguf_model *w = model;
    for (unsigned i = 0; i < w->n_parts; i++) {
        if (w->parts[i].fd >= 0) close(w->parts[i].fd);
        free(w->parts[i].path);
        sl_gguf_free(&w->parts[i]);
    }
    free(w->parts);
    free(w);
}

static int gguf_open(const char *path, const void *data, size_t n, void **model, struct sl_err *err)
{
    struct gguf_model *w = calloc(1, sizeof *w);
    if (w) w->parts = calloc(1, sizeof *w->parts);
    if (!w || !w->parts) {
        free(w);
        return sl_err_set(err, SL_ENOMEM, "%s: out of memory", path);
    }
    struct sl_gguf_file *f = &w->parts[0];
    int r;
    w->n_parts = 1;
    if (data) {
        *f = (struct sl_gguf_file){
            .path = strdup(path), .fd = -1, .size = n, .head = data, .head_len = n};
        r = f->path ? sl_gguf_parse(f, err) : sl_err_set(err, SL_ENOMEM, "%s: out of memory", path);
    } else {
        r = open_part(f, path, err);
    }
    if (!r) r = finish_open(w, err);
    if (r)
        gguf_close(w);
    else
        *model = w;
    return r;
}

static size_t gguf_count(const void *model)
{
    return ((const struct gguf_model *)model)->n_tensors;
}

static struct sl_entry *gguf_at(void *model, size_t i)
{
    struct gguf_model *w = model;
    unsigned part = 0;
    for (; i >= w->parts[part].n_tensors; part++) i -= w->parts[part].n_tensors;
    return &w->parts[part].tensors[i];
}

static const char *gguf_path(const void *model)
{
    return ((const struct gguf_model *)model)->parts[0].path;
}

static int gguf_part(void *model, int file, struct sl_weights_part *out, struct sl_err *err)
{
    const struct sl_gguf_file *f = &((struct gguf_model *)model)->parts[file];
    (void)err; /* all parts are open */
    *out = (struct sl_weights_part){.path = f->path, .fd = f->fd, .data = f->head, .size = f->size};
    return 0;
}

static const struct sl_meta *gguf_meta(const void *model, const char *key)
{
    return sl_gguf_find(&((const struct gguf_model *)model)->parts[0], key);
}

static size_t gguf_meta_count(const void *model)
{
    return ((const struct gguf_model *)model)->parts[0].n_metas;
}

static const struct sl_meta *gguf_meta_nth(const void *model, size_t i, const char **key)
{
    const struct sl_gguf_file *f = &((const struct gguf_model *)model)->parts[0];
    SL_ASSERT(i < f->n_metas);
    if (key) *key = f->metas[i].key;
    return &f->metas[i].m;
}

const struct sl_weights_reader sl_weights_reader_gguf = {
    .open = gguf_open,
    .close = gguf_close,
    .count = gguf_count,
    .at = gguf_at,
    .path = gguf_path,
    .part = gguf_part,
    .meta = gguf_meta,
    .meta_count = gguf_meta_count,
    .meta_nth = gguf_meta_nth,
};
