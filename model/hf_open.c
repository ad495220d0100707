/* hf_open.c - a Hugging Face folder as the row of the reader table: config.json and its like, and
 * the tensors of its safetensors files.
 *
 * Opening reads the small JSON files and the header of every shard, and closes them again; a shard
 * is opened anew when one of its tensors is mapped. tokenizer.json, by far the largest, is parsed
 * when it is asked for: stages never do. */
#include "model/hf.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <jansson.h>

#include "base/sl_assert.h"
#include "model/json_read.h"

static const struct {
    const char *name;
    uint64_t max;
} json_files[SL_JSON_COUNT] = {
    [SL_JSON_CONFIG] = {"config.json", SL_HF_CONFIG_MAX},
    [SL_JSON_GENERATION] = {"generation_config.json", SL_HF_CONFIG_MAX},
    [SL_JSON_TOKENIZER] = {"tokenizer.json", SL_HF_TOKENIZER_MAX},
    [SL_JSON_TOKENIZER_CONFIG] = {"tokenizer_config.json", SL_HF_CONFIG_MAX},
    [SL_JSON_QUANT] = {"hf_quant_config.json", SL_HF_CONFIG_MAX},
};

struct hf_model {
    char *path, *dir; /* dir is NULL in memory */
    json_t *json[SL_JSON_COUNT];
    char tried[SL_JSON_COUNT]; /* looked for already */
    struct sl_safetensors *files;
    size_t n_files, n_tensors;
};

static int no_memory(const char *path, struct sl_err *err)
{
    return sl_err_set(err, SL_ENOMEM, "%s: out of memory", path);
}

static void hf_close(void *model)
{
    struct hf_model *m = model;
    for (size_t i = 0; i < m->n_files; i++) {
        sl_safetensors_close(&m->files[i]);
        free(m->files[i].path);
    }
    for (int i = 0; i < SL_JSON_COUNT; i++) json_decref(m->json[i]);
    free(m->files);
    free(m->path);
    free(m->dir);
    free(m);
}

static int hf_json(void *model, enum sl_json_file which, const struct json_t **out,
                   struct sl_err *err)
{
    struct hf_model *m = model;
    int r = 0;
    if (m->dir && !m->tried[which]) {
        char *path = sl_hf_path(m->dir, json_files[which].name);
        if (!path) return no_memory(m->dir, err);
        r = sl_json_file_read(path, json_files[which].max, &m->json[which], err);
        if (!r && !json_is_object(m->json[which])) {
            json_decref(m->json[which]);
            m->json[which] = NULL;
            r = sl_err_set(err, SL_EINPUT, "%s: not a JSON object; download it again", path);
        }
        free(path);
        if (r == SL_ENOTFOUND) r = 0;
        m->tried[which] = r == 0;
    }
    *out = m->json[which];
    return r;
}

/* The small files, and what config.json says that we do not run. */
static int read_json(struct hf_model *m, struct sl_err *err)
{
    const json_t *config = NULL, *other;
    int r = hf_json(m, SL_JSON_CONFIG, &config, err);
    for (int i = 0; i < SL_JSON_COUNT && !r; i++)
        if (i != SL_JSON_TOKENIZER) r = hf_json(m, (enum sl_json_file)i, &other, err);
    if (!r && !config)
        r = sl_err_set(err, SL_EINPUT, "%s: no config.json beside the weights; download it too",
                       m->dir);
    return r ? r : sl_hf_refuse_config(m->dir, config, m->json[SL_JSON_QUANT], err);
}

/* Every tensor of the index must be in the file that it names. */
static int check_index(const struct hf_model *m, const struct sl_hf_files *files,
                       struct sl_err *err)
{
    size_t found = 0;
    const json_t *map = json_object_get(files->index, "weight_map");
    for (size_t i = 0; i < m->n_files; i++)
        for (size_t j = 0; j < m->files[i].n; j++) {
            const char *name = m->files[i].entries[j].t.name;
            const json_t *v = json_object_get(map, name);
            if (!v) continue; /* the index may leave out what nobody needs */
            if (strcmp(json_string_value(v), files->names[i]) != 0)
                return sl_err_set(err, SL_EINPUT,
                                  "%s/%s: tensor %s should be in %s and is in %s; index and shards "
                                  "are of different versions, download them again",
                                  m->dir, files->index_name, name, json_string_value(v),
                                  files->names[i]);
            found++;
        }
    if (found == json_object_size(map)) return 0;
    return sl_err_set(err, SL_EINPUT,
                      "%s/%s: %zu of its %zu tensors are not in the files it names; index and "
                      "shards are of different versions, download them again",
                      m->dir, files->index_name, json_object_size(map) - found,
                      json_object_size(map));
}

static int read_shards(struct hf_model *m, const struct sl_hf_files *files, struct sl_err *err)
{
    int r = 0;
    m->files = calloc(files->n, sizeof *m->files);
    if (!m->files) return no_memory(m->dir, err);
    while (m->n_files < files->n && !r) {
        struct sl_safetensors *f = &m->files[m->n_files];
        f->fd = -1;
        f->path = sl_hf_path(m->dir, files->names[m->n_files]);
        r = f->path ? sl_safetensors_read(f, (int)m->n_files, err) : no_memory(m->dir, err);
        m->n_files++;
        m->n_tensors += f->n;
    }
    return r || !files->index ? r : check_index(m, files, err);
}

/* Splits `path` into the folder and, when it names one, the file in it. */
static int split_path(struct hf_model *m, const char **base, struct sl_err *err)
{
    struct stat st;
    *base = NULL;
    m->dir = strdup(m->path);
    if (!m->dir) return no_memory(m->path, err);
    if (stat(m->path, &st) < 0 || S_ISDIR(st.st_mode)) {
        for (size_t n = strlen(m->dir); n > 1 && m->dir[n - 1] == '/'; n--) m->dir[n - 1] = 0;
        return 0;
    }
    char *slash = strrchr(m->dir, '/');
    *base = m->path + (slash ? slash - m->dir + 1 : 0);
    strcpy(slash ? (slash == m->dir ? slash + 1 : slash) : m->dir, slash ? "" : ".");
    return 0;
}

static int open_folder(struct hf_model *m, struct sl_err *err)
{
    const char *base;
    struct sl_hf_files files = {.n = 0};
    int r = split_path(m, &base, err);
    if (!r) r = sl_hf_files_choose(m->dir, base, &files, err);
    if (!r) r = read_json(m, err);
    if (!r) r = read_shards(m, &files, err);
    sl_hf_files_close(&files);
    return r;
}

static int open_memory(struct hf_model *m, const void *data, size_t n, struct sl_err *err)
{
    m->files = calloc(1, sizeof *m->files);
    if (!m->files) return no_memory(m->path, err);
    m->n_files = 1;
    m->files[0] =
        (struct sl_safetensors){.path = strdup(m->path), .fd = -1, .mem = data, .size = n};
    if (!m->files[0].path) return no_memory(m->path, err);
    int r = sl_safetensors_read(&m->files[0], 0, err);
    m->n_tensors = m->files[0].n;
    return r;
}

static int hf_open(const char *path, const void *data, size_t n, void **model, struct sl_err *err)
{
    struct hf_model *m = calloc(1, sizeof *m);
    if (m) m->path = strdup(path);
    if (!m || !m->path) {
        free(m);
        return no_memory(path, err);
    }
    int r = data ? open_memory(m, data, n, err) : open_folder(m, err);
    if (r)
        hf_close(m);
    else
        *model = m;
    return r;
}

static size_t hf_count(const void *model)
{
    return ((const struct hf_model *)model)->n_tensors;
}

static struct sl_entry *hf_at(void *model, size_t i)
{
    struct hf_model *m = model;
    size_t file = 0;
    for (; i >= m->files[file].n; file++) i -= m->files[file].n;
    return &m->files[file].entries[i];
}

static const char *hf_path(const void *model)
{
    return ((const struct hf_model *)model)->path;
}

static int hf_part(void *model, int file, struct sl_weights_part *out, struct sl_err *err)
{
    struct sl_safetensors *f = &((struct hf_model *)model)->files[file];
    int r = f->mem ? 0 : sl_safetensors_open(f, err);
    *out = (struct sl_weights_part){.path = f->path, .fd = f->fd, .data = f->mem, .size = f->size};
    return r;
}

static const char *hf_dir(const void *model)
{
    return ((const struct hf_model *)model)->dir;
}

const struct sl_weights_reader sl_weights_reader_hf = {
    .open = hf_open,
    .close = hf_close,
    .count = hf_count,
    .at = hf_at,
    .path = hf_path,
    .part = hf_part,
    .json = hf_json,
    .dir = hf_dir,
};
