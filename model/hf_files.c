/* hf_files.c - which files of a Hugging Face folder hold its weights.
 *
 * In this order: the file or index that the user named, model.safetensors.index.json,
 * model.safetensors, the only other index, the shards of one set (model-00001-of-00003 ...), any
 * other .safetensors. Left out: consolidated*.safetensors (the same weights under other names),
 * adapters and training state. Subfolders (original/, onnx/) are never entered. */
#include "model/hf.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/sl_assert.h"
#include "model/json_read.h"

#define SUFFIX ".safetensors"
#define INDEX_SUFFIX ".safetensors.index.json"
#define SHARD_DIGITS 5    /* of "00001" */
#define SHARD_TAIL_LEN 15 /* characters of "-00001-of-00003" */

static int ends_with(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);
    return n >= m && strcmp(s + n - m, suffix) == 0;
}

static int starts_with(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

char *sl_hf_path(const char *dir, const char *name)
{
    size_t n = strlen(dir);
    char *p = malloc(n + strlen(name) + 2);
    if (p) sprintf(p, "%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name);
    return p;
}

static int no_memory(const char *dir, struct sl_err *err)
{
    return sl_err_set(err, SL_ENOMEM, "%s: out of memory", dir);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void free_names(char **names, size_t n)
{
    for (size_t i = 0; i < n; i++) free(names[i]);
    free(names);
}

/* The names in the folder, sorted. */
static int list(const char *dir, char ***out, size_t *n, struct sl_err *err)
{
    char **names = NULL;
    size_t len = 0, cap = 0;
    int r = 0;
    DIR *d = opendir(dir);
    if (!d)
        return sl_err_set(err, errno == ENOENT ? SL_ENOTFOUND : SL_EIO,
                          "%s: cannot read the folder: %s", dir, strerror(errno));
    for (const struct dirent *e; !r && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        if (len == SL_HF_FOLDER_FILES_MAX) {
            r = sl_err_set(err, SL_EINPUT, "%s: more than %d files; is it a model's folder?", dir,
                           SL_HF_FOLDER_FILES_MAX);
        } else if (len == cap) {
            cap = cap ? 2 * cap : 32;
            char **more = realloc(names, cap * sizeof *names);
            if (more) names = more;
            if (!more) r = no_memory(dir, err);
        }
        if (!r && !(names[len++] = strdup(e->d_name))) {
            len--;
            r = no_memory(dir, err);
        }
    }
    closedir(d);
    if (r) {
        free_names(names, len);
        return r;
    }
    if (len) qsort(names, len, sizeof *names, by_text);
    *out = names;
    *n = len;
    return 0;
}

static const char *find(char *const *names, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0) return names[i];
    return NULL;
}

/* May a file of this name be a part of the model when nothing says which are? */
static int is_weights(const char *name)
{
    static const char *const others[] = {"consolidated", "adapter_", "optimizer", "training_",
                                         "lora",         "mmproj",   "golden"};
    if (!ends_with(name, SUFFIX)) return 0;
    for (size_t i = 0; i < SL_ARRAY_LEN(others); i++)
        if (starts_with(name, others[i])) return 0;
    return 1;
}

static int add(struct sl_hf_files *f, const char *dir, const char *name, struct sl_err *err)
{
    if (f->n == SL_HF_SHARDS_MAX)
        return sl_err_set(err, SL_EINPUT, "%s: more than %d weight files", dir, SL_HF_SHARDS_MAX);
    char **more = realloc(f->names, (f->n + 1) * sizeof *more);
    if (!more) return no_memory(dir, err);
    f->names = more;
    if (!(f->names[f->n] = strdup(name))) return no_memory(dir, err);
    f->n++;
    return 0;
}

/* "x-00002-of-00005.safetensors": 2, with *of = 5 and *stem = length of "x"; 0 for other names. */
static int shard_number(const char *name, int *of, size_t *stem)
{
    size_t n = strlen(name), tail = SHARD_TAIL_LEN + strlen(SUFFIX);
    if (n <= tail || !ends_with(name, SUFFIX)) return 0;
    const char *p = name + n - tail;
    for (int i = 0; i < SHARD_DIGITS; i++)
        if (!isdigit((unsigned char)p[1 + i]) || !isdigit((unsigned char)p[10 + i])) return 0;
    if (p[0] != '-' || strncmp(p + 6, "-of-", 4) != 0) return 0;
    *of = atoi(p + 10);
    *stem = n - tail;
    return atoi(p + 1);
}

/* Without an index a set must be complete; there is no other way to know. */
static int check_set(const char *dir, const struct sl_hf_files *f, struct sl_err *err)
{
    int of = 0, have = 0;
    size_t stem = 0;
    if (f->n == 0 || !shard_number(f->names[0], &of, &stem)) return 0;
    for (size_t i = 0; i < f->n; i++) {
        int total;
        size_t len;
        int no = shard_number(f->names[i], &total, &len);
        if (no && total == of && len == stem && !strncmp(f->names[i], f->names[0], stem)) have++;
    }
    if (have == of) return 0;
    return sl_err_set(err, SL_EINPUT,
                      "%s: %d of the %d shards %.*s-...-of-%05d" SUFFIX
                      " are there and no index; download the missing ones",
                      dir, have, of, (int)stem, f->names[0], of);
}

/* All files that look like weights; those named model* alone when there are such. */
static int choose_loose(const char *dir, char *const *names, size_t n, struct sl_hf_files *f,
                        struct sl_err *err)
{
    int named = 0, r = 0;
    for (size_t i = 0; i < n; i++)
        if (is_weights(names[i]) && starts_with(names[i], "model")) named = 1;
    for (size_t i = 0; i < n && !r; i++)
        if (is_weights(names[i]) && (!named || starts_with(names[i], "model")))
            r = add(f, dir, names[i], err);
    if (!r && f->n == 0) r = sl_hf_refuse_folder(dir, names, n, err);
    return r ? r : check_set(dir, f, err);
}

/* A name from an index must be one of this folder's own files. */
static int check_bare(const char *where, const char *tensor, const json_t *v, struct sl_err *err)
{
    const char *name = json_string_value(v);
    size_t len = json_string_length(v);
    int ok = name && len == strlen(name) && len <= 255 && name[0] != '.' && ends_with(name, SUFFIX);
    for (const char *p = name; ok && *p; p++)
        if (*p == '/' || *p == '\\' || (unsigned char)*p < 0x20) ok = 0;
    if (ok) return 0;
    return sl_err_set(err, SL_EINPUT,
                      "%s: the file of tensor %.200s is not the plain name of a .safetensors file "
                      "of this folder; the index is damaged or hostile, download it again",
                      where, tensor);
}

/* The files that the index names, each once. */
static int files_of_index(const char *dir, const char *where, struct sl_hf_files *f,
                          struct sl_err *err)
{
    const char *tensor, *last = NULL;
    json_t *v, *map = json_object_get(f->index, "weight_map");
    size_t n = 0, total = json_object_size(map);
    int r = 0;
    if (!json_is_object(map) || total == 0)
        return sl_err_set(err, SL_EINPUT,
                          "%s: weight_map is missing or empty; download the index again", where);
    const char **all = malloc(total * sizeof *all);
    if (!all) return no_memory(dir, err);
    json_object_foreach(map, tensor, v)
    {
        r = check_bare(where, tensor, v, err);
        if (r) break;
        all[n++] = json_string_value(v);
    }
    if (!r) qsort(all, n, sizeof *all, by_text);
    for (size_t i = 0; i < n && !r; i++) {
        if (last && strcmp(last, all[i]) == 0) continue;
        last = all[i];
        r = add(f, dir, last, err);
    }
    free(all);
    return r;
}

/* Says at once how many of the files are missing. */
static int check_present(const char *where, char *const *names, size_t n,
                         const struct sl_hf_files *f, struct sl_err *err)
{
    size_t missing = 0;
    const char *first = NULL;
    for (size_t i = 0; i < f->n; i++)
        if (!bsearch(&f->names[i], names, n, sizeof *names, by_text) && missing++ == 0)
            first = f->names[i];
    if (!missing) return 0;
    return sl_err_set(err, SL_EINPUT,
                      "%s: it names %s, which is not in the folder (%zu of %zu files are missing); "
                      "finish the download",
                      where, first, missing, f->n);
}

static int choose_index(const char *dir, const char *index, char *const *names, size_t n,
                        struct sl_hf_files *f, struct sl_err *err)
{
    char *path = sl_hf_path(dir, index);
    f->index_name = strdup(index);
    int r = path && f->index_name ? sl_json_file_read(path, SL_HF_INDEX_MAX, &f->index, err)
                                  : no_memory(dir, err);
    if (!r) r = files_of_index(dir, path, f, err);
    if (!r) r = check_present(path, names, n, f, err);
    free(path);
    return r;
}

/* The index to use, or NULL: the usual one, else the only one that is not of consolidated files. */
static const char *find_index(char *const *names, size_t n)
{
    const char *usual = find(names, n, "model" INDEX_SUFFIX), *only = NULL;
    if (usual || find(names, n, "model" SUFFIX)) return usual;
    for (size_t i = 0; i < n; i++) {
        if (!ends_with(names[i], INDEX_SUFFIX) || starts_with(names[i], "consolidated")) continue;
        if (only) return NULL;
        only = names[i];
    }
    return only;
}

static int holds_gguf(char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (ends_with(names[i], ".gguf")) return 1;
    return 0;
}

int sl_hf_files_choose(const char *dir, const char *base, struct sl_hf_files *out,
                       struct sl_err *err)
{
    char **names = NULL;
    size_t n = 0, stem;
    int of, r = list(dir, &names, &n, err);
    *out = (struct sl_hf_files){.n = 0};
    if (r) return r;
    const char *index = find_index(names, n);
    if (!base && !find(names, n, "config.json") && holds_gguf(names, n)) {
        r = sl_hf_refuse_folder(dir, names, n, err);
    } else if (base && ends_with(base, INDEX_SUFFIX)) {
        r = choose_index(dir, base, names, n, out, err);
    } else if (base && !shard_number(base, &of, &stem)) {
        r = add(out, dir, base, err); /* exactly this one */
    } else if (index) {
        r = choose_index(dir, index, names, n, out, err);
    } else if (find(names, n, "model" SUFFIX)) {
        r = add(out, dir, "model" SUFFIX, err);
    } else {
        r = choose_loose(dir, names, n, out, err);
    }
    free_names(names, n);
    return r;
}

void sl_hf_files_close(struct sl_hf_files *f)
{
    free_names(f->names, f->n);
    free(f->index_name);
    json_decref(f->index);
    *f = (struct sl_hf_files){.n = 0};
}
