/* quantize.c - carries a plan out: reads, encodes and writes one tensor after another.
 *
 * What can go wrong: the disk is full (asked before, and each write is checked), the result exists
 * (refused), a layer is damaged (its line), a signal (the ".part" folder stays, the result does not
 * exist). Whatever the error, what was written is removed. */
#include "model/quantize.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/sl_assert.h"
#include "base/text.h"
#include "model/hf.h"
#include "model/linear.h"
#include "model/quantize_gguf.h"
#include "model/quantize_part.h"
#include "model/safetensors.h"

#define SMALL_FILES ((uint64_t)64 << 20) /* bytes asked for beside the tensors */

static const char *const names[SL_TO_COUNT] = {"bf16", "fp8", "nvfp4", "mxfp4", "q8_0", "q4_0"};

struct run {
    struct sl_weights *w;
    const struct sl_quantize *q;
    struct sl_out_plan plan;
    char *dir; /* the folder in the making */
    int *fds;  /* of shards; -1 closed */
    struct sl_err *err;
};

const char *sl_quantize_name(enum sl_quantize_to to)
{
    return names[to];
}

int sl_quantize_find(const char *name)
{
    for (int i = 0; i < SL_TO_COUNT; i++)
        if (strcasecmp(names[i], name) == 0) return i;
    return -1;
}

/* ---- files ----------------------------------------------------------------------------------- */

static int write_at(struct run *r, int shard, const void *data, uint64_t n, uint64_t at)
{
    for (uint64_t done = 0; done < n;) {
        ssize_t k = pwrite(r->fds[shard], (const char *)data + done, (size_t)(n - done),
                           (off_t)(at + done));
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0)
            return sl_err_set(r->err, SL_EIO, "%s: cannot write: %s", r->dir, strerror(errno));
        done += (uint64_t)k;
    }
    return 0;
}

static int write_tensor(struct run *r, const struct sl_out_tensor *t, const void *data)
{
    return write_at(r, t->shard, data, t->bytes, SL_ST_PREFIX + r->plan.head[t->shard] + t->offset);
}

static int open_shards(struct run *r)
{
    const struct sl_out_plan *p = &r->plan;
    r->fds = malloc((size_t)p->n_shards * sizeof *r->fds);
    if (!r->fds) return sl_err_set(r->err, SL_ENOMEM, "%s: out of memory", r->dir);
    for (int i = 0; i < p->n_shards; i++) r->fds[i] = -1;
    for (int i = 0; i < p->n_shards; i++) {
        char name[64];
        sl_out_shard_name(p, i, name);
        char *path = sl_hf_path(r->dir, name);
        r->fds[i] = path ? open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644) : -1;
        free(path);
        if (r->fds[i] < 0)
            return sl_err_set(r->err, SL_EIO, "%s/%s: cannot create: %s", r->dir, name,
                              strerror(errno));
        uint64_t n = p->head[i];
        int e = write_at(r, i, &n, sizeof n, 0);
        if (!e) e = write_at(r, i, p->heads[i], n, SL_ST_PREFIX);
        if (e) return e;
    }
    return 0;
}

/* All bytes on the disk before the folder gets its name. */
static int close_shards(struct run *r, int sync)
{
    int e = 0;
    for (int i = 0; r->fds && i < r->plan.n_shards; i++) {
        if (r->fds[i] < 0) continue;
        if (sync && !e && fsync(r->fds[i]) != 0)
            e = sl_err_set(r->err, SL_EIO, "%s: cannot write: %s", r->dir, strerror(errno));
        if (close(r->fds[i]) != 0 && sync && !e)
            e = sl_err_set(r->err, SL_EIO, "%s: cannot write: %s", r->dir, strerror(errno));
    }
    free(r->fds);
    r->fds = NULL;
    return e;
}

static void remove_folder(const char *dir)
{
    DIR *d = opendir(dir);
    for (const struct dirent *e; d && (e = readdir(d));) {
        char *path = sl_hf_path(dir, e->d_name);
        if (path && e->d_name[0] != '.') unlink(path);
        free(path);
    }
    if (d) closedir(d);
    rmdir(dir);
}

static int make_folder(struct run *r, const char *out)
{
    struct stat st;
    struct statvfs fs;
    char need[32], have[32];
    if (lstat(out, &st) == 0)
        return sl_err_set(r->err, SL_EINPUT, "%s: exists already; remove it or name another folder",
                          out);
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/') n--;
    r->dir = malloc(n + sizeof ".part");
    if (!r->dir) return sl_err_set(r->err, SL_ENOMEM, "%s: out of memory", out);
    snprintf(r->dir, n + sizeof ".part", "%.*s.part", (int)n, out);
    if (mkdir(r->dir, 0755) != 0) {
        int e = sl_err_set(r->err, errno == EEXIST ? SL_EINPUT : SL_EIO,
                           "%s: cannot create the folder: %s%s", r->dir, strerror(errno),
                           errno == EEXIST ? "; an earlier run left it, remove it" : "");
        free(r->dir);
        r->dir = NULL; /* not ours to remove */
        return e;
    }
    if (statvfs(r->dir, &fs) == 0 &&
        (uint64_t)fs.f_bavail * fs.f_frsize < r->plan.bytes_out + SMALL_FILES)
        return sl_err_set(r->err, SL_EIO, "%s: the disk has %s free, %s are needed", out,
                          sl_format_bytes((uint64_t)fs.f_bavail * fs.f_frsize, have),
                          sl_format_bytes(r->plan.bytes_out + SMALL_FILES, need));
    return 0;
}

/* ---- steps ----------------------------------------------------------------------------------- */

static int copy_step(struct run *r, const struct sl_out_step *s)
{
    const void *data = sl_weights_map(r->w, s->copy, r->err);
    if (!data) return r->err && r->err->code ? r->err->code : SL_EIO;
    int e = write_tensor(r, &r->plan.tensors[s->first], data);
    sl_weights_unmap(r->w, s->copy);
    return e;
}

struct layer {
    const struct sl_quantize *q;
    const struct sl_matrix *m;
};

static void row_of_layer(void *arg, int64_t row, float *out)
{
    const struct layer *l = arg;
    l->q->row(l->m, row, out);
}

static int layer_step(struct run *r, const struct sl_out_step *s, void *const data[SL_OUT_TENSORS])
{
    struct sl_linear l;
    int e = sl_linear_open(r->w, s->stem, -1, 0, s->rows, s->cols, &l, r->err);
    if (e) return e;
    struct sl_out_rows rows = {s->rows, s->cols, row_of_layer, &(struct layer){r->q, &l.m}};
    e = sl_out_encode(&rows, s->to, data, s->stem, r->err);
    sl_linear_close(r->w, &l);
    return e;
}

static int made_step(struct run *r, const struct sl_out_step *s)
{
    const struct sl_out_tensor *t = &r->plan.tensors[s->first];
    void *data[SL_OUT_TENSORS] = {NULL};
    int e = 0;
    for (int i = 0; i < s->n && !e; i++) {
        data[i] = malloc((size_t)t[i].bytes);
        if (!data[i]) e = sl_err_set(r->err, SL_ENOMEM, "layer %s: out of memory", s->stem);
    }
    if (!e)
        e = r->plan.model ? sl_out_gguf_step(r->w, r->q, &r->plan, s, data, r->err)
                          : layer_step(r, s, data);
    for (int i = 0; i < s->n; i++) {
        if (!e) e = write_tensor(r, &t[i], data[i]);
        free(data[i]);
    }
    return e;
}

static int all_steps(struct run *r)
{
    uint64_t done = 0;
    for (int i = 0; i < r->plan.n_steps; i++) {
        const struct sl_out_step *s = &r->plan.steps[i];
        int e = s->copy ? copy_step(r, s) : made_step(r, s);
        if (e) return e;
        for (int k = 0; k < s->n; k++) done += r->plan.tensors[s->first + k].bytes;
        if (r->q->progress)
            r->q->progress(r->q->arg, done, r->plan.bytes_out, s->copy ? s->copy->name : s->stem);
    }
    return 0;
}

static int finish(struct run *r, const char *out)
{
    int e = close_shards(r, 1);
    if (!e) e = sl_out_index(&r->plan, r->dir, r->err);
    if (!e && r->plan.model)
        e = sl_out_gguf_files(&r->plan, r->q->to, r->dir, r->err);
    else if (!e)
        e = sl_out_folder_files(r->w, &r->plan, r->q->to, r->dir, r->err);
    if (!e && rename(r->dir, out) != 0)
        e = sl_err_set(r->err, SL_EIO, "%s: cannot be renamed to %s: %s", r->dir, out,
                       strerror(errno));
    return e;
}

/* What a GGUF file has and cannot be written is found before the first byte is. */
static int make_plan(struct run *r, struct sl_out_model *model)
{
    int e = sl_out_plan_init(&r->plan, r->err);
    if (e) return e;
    if (sl_weights_dir(r->w)) return sl_out_plan_make(r->w, r->q->to, &r->plan, r->err);
    e = sl_out_model_read(r->w, model, r->err);
    return e ? e : sl_out_gguf_plan(r->w, model, r->q->to, &r->plan, r->err);
}

int sl_quantize(struct sl_weights *w, const char *out, const struct sl_quantize *q,
                struct sl_quantize_result *result, struct sl_err *err)
{
    struct sl_err own = {0};
    struct sl_out_model model = {0};
    struct run r = {.w = w, .q = q, .err = &own};
    uint64_t shard = q->shard_bytes ? q->shard_bytes : SL_QUANTIZE_SHARD_BYTES;
    SL_ASSERT(q->row && q->to >= 0 && q->to < SL_TO_COUNT);
    int e = make_plan(&r, &model);
    if (!e) e = sl_out_plan_place(&r.plan, shard, &own);
    if (!e) e = make_folder(&r, out);
    if (!e) e = open_shards(&r);
    if (!e) e = all_steps(&r);
    if (!e) e = finish(&r, out);
    close_shards(&r, 0);
    if (e && r.dir) remove_folder(r.dir);
    *result =
        (struct sl_quantize_result){r.plan.bytes_in, r.plan.bytes_out, r.plan.layers, r.plan.kept};
    sl_out_plan_close(&r.plan);
    sl_out_model_close(&model);
    free(r.dir);
    return e ? sl_err_set(err, e, "%s", own.msg) : 0;
}
