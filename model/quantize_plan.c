/* quantize_plan.c - what becomes of each tensor of the model, and its place in the result.
 *
 * All sizes are known before the first byte is read: so headers can be written first and each
 * tensor at its place, in whatever order layers are done. Within a shard tensors lie by falling
 * element size, so that all are aligned. */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/sl_assert.h"
#include "model/linear.h"
#include "model/quantize_part.h"

#define NAMES_MAX ((size_t)512 << 20) /* bytes of names */
#define HEADER_ALIGN 8                /* bytes */

static int no_memory(struct sl_err *err)
{
    return sl_err_set(err, SL_ENOMEM, "quantize: out of memory");
}

/* ---- what a name means ----------------------------------------------------------------------- */

static int ends_with(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);
    return n >= m && strcmp(s + n - m, suffix) == 0;
}

/* Codes of a layer, by name; the stem's length, or 0. */
static size_t stem_of(const char *name)
{
    static const char *const codes[] = {".weight_packed", ".qweight", ".weight"};
    for (size_t i = 0; i < SL_ARRAY_LEN(codes); i++)
        if (ends_with(name, codes[i])) return strlen(name) - strlen(codes[i]);
    return 0;
}

/* Is it part of a layer whose codes are another tensor? Then the layer takes care of it. */
static int is_part(const struct sl_weights *w, const char *name)
{
    char stem[SL_TENSOR_NAME_MAX];
    size_t n = sl_linear_beside(name);
    if (!n) return 0;
    memcpy(stem, name, n);
    stem[n] = 0;
    return sl_linear_exists(w, stem);
}

/* A matrix inside a decoder layer that is no router: what formats of weights are for. */
static int is_wanted(const char *stem)
{
    static const char *const kept[] = {"gate", "router", "shared_expert_gate", "gate_inp"};
    static const char *const towers[] = {"visual.", "vision", "audio", "projector", "embed"};
    const char *layers = strstr(stem, "layers."), *last = strrchr(stem, '.');
    if (!layers || !isdigit((unsigned char)layers[7]) || !last) return 0;
    for (size_t i = 0; i < SL_ARRAY_LEN(kept); i++)
        if (strcmp(last + 1, kept[i]) == 0) return 0;
    for (size_t i = 0; i < SL_ARRAY_LEN(towers); i++)
        if (strstr(stem, towers[i])) return 0;
    return !strstr(last, "norm");
}

/* ---- layers ---------------------------------------------------------------------------------- */

int sl_out_group(enum sl_quantize_to to)
{
    static const int groups[SL_TO_COUNT] = {1, 1, 16, 32, 32, 32};
    return groups[to];
}

static struct sl_out_tensor tensor(enum sl_dtype type, int n_dims, int64_t a, int64_t b)
{
    struct sl_out_tensor t = {.type = type, .n_dims = n_dims, .shape = {a, b}};
    t.bytes = (uint64_t)sl_dtype_block_bytes(type);
    for (int i = 0; i < n_dims; i++) t.bytes *= (uint64_t)t.shape[i];
    return t;
}

int sl_out_layer(enum sl_quantize_to to, int64_t rows, int64_t cols,
                 struct sl_out_tensor out[SL_OUT_TENSORS], const char *suffixes[SL_OUT_TENSORS])
{
    int bits = to == SL_TO_Q8_0 ? 8 : 4;
    suffixes[0] = to == SL_TO_BF16 || to == SL_TO_FP8 ? ".weight" : ".weight_packed";
    suffixes[1] = ".weight_scale";
    suffixes[2] = to == SL_TO_NVFP4 ? ".weight_global_scale" : ".weight_shape";
    switch (to) {
    case SL_TO_BF16:
        out[0] = tensor(SL_BF16, 2, rows, cols);
        return 1;
    case SL_TO_FP8:
        out[0] = tensor(SL_F8_E4M3, 2, rows, cols);
        out[1] = tensor(SL_F32, 2, rows, 1);
        return 2;
    case SL_TO_NVFP4:
        out[0] = tensor(SL_U8, 2, rows, cols / 2);
        out[1] = tensor(SL_F8_E4M3, 2, rows, cols / 16);
        out[2] = tensor(SL_F32, 1, 1, 0);
        return 3;
    case SL_TO_MXFP4:
        out[0] = tensor(SL_U8, 2, rows, cols / 2);
        out[1] = tensor(SL_U8, 2, rows, cols / 32);
        return 2;
    default:
        out[0] = tensor(SL_I32, 2, rows, cols * bits / 32);
        out[1] = tensor(SL_F16, 2, rows, cols / 32);
        out[2] = tensor(SL_I64, 1, 2, 0);
        return 3;
    }
}

/* ---- building -------------------------------------------------------------------------------- */

static void *grow(void *p, int n, int *cap, size_t size)
{
    if (n < *cap) return p;
    *cap = *cap ? 2 * *cap : 64;
    return realloc(p, (size_t)*cap * size);
}

static int add_tensor(struct sl_out_plan *p, const char *stem, const char *suffix,
                      struct sl_out_tensor t, struct sl_err *err)
{
    char name[SL_TENSOR_NAME_MAX + 32];
    struct sl_out_tensor *more =
        grow(p->tensors, p->n_tensors, &p->cap_tensors, sizeof *p->tensors);
    snprintf(name, sizeof name, "%s%s", stem, suffix);
    t.name = more ? sl_arena_strdup(&p->names, name) : NULL;
    if (more) p->tensors = more;
    if (!t.name) return no_memory(err);
    p->tensors[p->n_tensors++] = t;
    p->bytes_out += t.bytes;
    return 0;
}

static struct sl_out_step *add_step(struct sl_out_plan *p, struct sl_err *err)
{
    struct sl_out_step *more = grow(p->steps, p->n_steps, &p->cap_steps, sizeof *p->steps);
    if (!more) {
        no_memory(err);
        return NULL;
    }
    p->steps = more;
    p->steps[p->n_steps] = (struct sl_out_step){.first = p->n_tensors};
    return &p->steps[p->n_steps++];
}

static int add_copy(struct sl_out_plan *p, const struct sl_tensor *t, struct sl_err *err)
{
    struct sl_out_tensor o = {.type = t->type, .n_dims = t->n_dims, .bytes = t->bytes};
    struct sl_out_step *s = add_step(p, err);
    if (!s) return SL_ENOMEM;
    if (!t->known)
        return sl_err_set(err, SL_EUNSUPPORTED, "tensor %s: its type %s is not read here", t->name,
                          t->type_name);
    for (int i = 0; i < t->n_dims; i++) o.shape[i] = t->ne[t->n_dims - 1 - i];
    s->copy = t;
    s->n = 1;
    return add_tensor(p, t->name, "", o, err);
}

int sl_out_add_layer(struct sl_out_plan *p, const struct sl_out_step *step, const char *stem,
                     int64_t rows, int64_t cols, enum sl_quantize_to to, struct sl_err *err)
{
    struct sl_out_tensor out[SL_OUT_TENSORS];
    const char *suffixes[SL_OUT_TENSORS];
    struct sl_out_step *s = add_step(p, err);
    if (!s) return SL_ENOMEM;
    *s = *step;
    s->stem = sl_arena_strdup(&p->names, stem);
    if (!s->stem) return no_memory(err);
    s->rows = rows;
    s->cols = cols;
    s->to = to;
    s->first = p->n_tensors;
    s->n = sl_out_layer(to, rows, cols, out, suffixes);
    int r = 0;
    for (int i = 0, n = s->n; i < n && !r; i++) r = add_tensor(p, stem, suffixes[i], out[i], err);
    return r;
}

int sl_out_add_f32(struct sl_out_plan *p, const struct sl_out_step *step, const char *stem,
                   const char *suffix, const int64_t *shape, int n_dims, struct sl_err *err)
{
    struct sl_out_step *s = add_step(p, err);
    if (!s) return SL_ENOMEM;
    *s = *step;
    s->stem = sl_arena_strdup(&p->names, stem);
    if (!s->stem) return no_memory(err);
    s->rows = n_dims > 1 ? shape[0] : 1;
    s->cols = shape[n_dims - 1];
    s->first = p->n_tensors;
    s->n = 1;
    return add_tensor(p, stem, suffix, tensor(SL_F32, n_dims, shape[0], n_dims > 1 ? shape[1] : 0),
                      err);
}

static int add_tensor_of_model(struct sl_weights *w, const struct sl_tensor *t,
                               enum sl_quantize_to to, struct sl_out_plan *p, struct sl_err *err)
{
    char stem[SL_TENSOR_NAME_MAX];
    size_t n = stem_of(t->name);
    int64_t rows = 0, cols = 0;
    p->bytes_in += t->bytes;
    if (is_part(w, t->name)) return 0;
    if (ends_with(t->name, "_blocks") || (t->n_dims == 3 && strstr(t->name, ".experts.")))
        return sl_err_set(err, SL_EUNSUPPORTED,
                          "tensor %s: experts in one tensor (gpt-oss) are not written anew; use "
                          "the model as it is",
                          t->name);
    int plain = t->known && sl_dtype_kind(t->type) == SL_KIND_FLOAT;
    memcpy(stem, t->name, n);
    stem[n] = 0;
    if (!n || (plain && (t->n_dims != 2 || !is_wanted(stem)))) {
        if (plain && n && t->n_dims == 2 && !strstr(stem, "embed") &&
            json_array_append_new(p->ignore, json_string(stem)))
            return no_memory(err);
        return add_copy(p, t, err);
    }
    int r = sl_linear_shape(w, stem, &rows, &cols, err);
    if (r) return r;
    int fits = is_wanted(stem) && cols % sl_out_group(to) == 0;
    if (!fits && json_array_append_new(p->ignore, json_string(stem))) return no_memory(err);
    p->layers += fits;
    p->kept += !fits && is_wanted(stem);
    return sl_out_add_layer(p, &(struct sl_out_step){0}, stem, rows, cols, fits ? to : SL_TO_BF16,
                            err);
}

/* ---- places ---------------------------------------------------------------------------------- */

static const struct sl_out_plan *sorting; /* qsort has no argument for it */

static int by_place(const void *a, const void *b)
{
    const struct sl_out_tensor *x = &sorting->tensors[*(const int *)a],
                               *y = &sorting->tensors[*(const int *)b];
    int sx = sl_dtype_block_bytes(x->type), sy = sl_dtype_block_bytes(y->type);
    if (x->shard != y->shard) return x->shard < y->shard ? -1 : 1;
    if (sx != sy) return sx > sy ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Steps fill shards one after another; tensors of a step stay together. */
static void choose_shards(struct sl_out_plan *p, uint64_t shard_bytes)
{
    uint64_t have = 0;
    for (int i = 0; i < p->n_steps; i++) {
        const struct sl_out_step *s = &p->steps[i];
        uint64_t bytes = 0;
        for (int k = 0; k < s->n; k++) bytes += p->tensors[s->first + k].bytes;
        if (have && have + bytes > shard_bytes) {
            p->n_shards++;
            have = 0;
        }
        have += bytes;
        for (int k = 0; k < s->n; k++) p->tensors[s->first + k].shard = p->n_shards;
    }
    p->n_shards++;
}

static int write_header(struct sl_out_plan *p, int shard, const int *order, int n,
                        struct sl_err *err)
{
    size_t len = 0;
    FILE *f = open_memstream(&p->heads[shard], &len);
    if (!f) return no_memory(err);
    fprintf(f, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < n; i++) {
        struct sl_out_tensor *t = &p->tensors[order[i]];
        json_t *name = json_string(t->name);
        char *quoted = name ? json_dumps(name, JSON_ENCODE_ANY) : NULL;
        const char *type = t->type == SL_E8M0 ? "F8_E8M0" : sl_dtype_name(t->type);
        t->offset = p->data[shard];
        p->data[shard] += t->bytes;
        fprintf(f, ",%s:{\"dtype\":\"%s\",\"shape\":[", quoted ? quoted : "", type);
        for (int d = 0; d < t->n_dims; d++) fprintf(f, "%s%" PRId64, d ? "," : "", t->shape[d]);
        fprintf(f, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", t->offset, p->data[shard]);
        free(quoted);
        json_decref(name);
        if (!quoted) break;
    }
    fputc('}', f);
    fflush(f);
    while (len % HEADER_ALIGN) {
        fputc(' ', f);
        fflush(f);
    }
    p->head[shard] = len;
    return fclose(f) == 0 && p->data[shard] ? 0 : no_memory(err);
}

int sl_out_plan_place(struct sl_out_plan *p, uint64_t shard_bytes, struct sl_err *err)
{
    choose_shards(p, shard_bytes);
    size_t shards = (size_t)p->n_shards;
    p->order = malloc((size_t)p->n_tensors * sizeof *p->order);
    p->head = calloc(shards, sizeof *p->head);
    p->data = calloc(shards, sizeof *p->data);
    p->heads = calloc(shards, sizeof *p->heads);
    if (!p->order || !p->head || !p->data || !p->heads) return no_memory(err);
    for (int i = 0; i < p->n_tensors; i++) p->order[i] = i;
    sorting = p;
    qsort(p->order, (size_t)p->n_tensors, sizeof *p->order, by_place);
    int r = 0;
    for (int i = 0, end; i < p->n_tensors && !r; i = end) {
        int shard = p->tensors[p->order[i]].shard;
        for (end = i; end < p->n_tensors && p->tensors[p->order[end]].shard == shard;) end++;
        r = write_header(p, shard, p->order + i, end - i, err);
    }
    return r;
}

int sl_out_plan_init(struct sl_out_plan *p, struct sl_err *err)
{
    *p = (struct sl_out_plan){.ignore = json_array()};
    sl_arena_init(&p->names, NAMES_MAX);
    return p->ignore ? 0 : no_memory(err);
}

int sl_out_plan_make(struct sl_weights *w, enum sl_quantize_to to, struct sl_out_plan *p,
                     struct sl_err *err)
{
    int r = 0;
    for (size_t i = 0; i < sl_weights_count(w) && !r; i++)
        r = add_tensor_of_model(w, sl_weights_at(w, i), to, p, err);
    if (!r && p->n_tensors == 0)
        r = sl_err_set(err, SL_EINPUT, "%s: no tensors", sl_weights_path(w));
    return r;
}

void sl_out_plan_close(struct sl_out_plan *p)
{
    for (int i = 0; p->heads && i < p->n_shards; i++) free(p->heads[i]);
    free(p->heads);
    free(p->head);
    free(p->data);
    free(p->order);
    free(p->steps);
    free(p->tensors);
    json_decref(p->ignore);
    sl_arena_close(&p->names);
}

void sl_out_shard_name(const struct sl_out_plan *p, int shard, char out[64])
{
    if (p->n_shards == 1)
        snprintf(out, 64, "model.safetensors");
    else
        snprintf(out, 64, "model-%05d-of-%05d.safetensors", shard + 1, p->n_shards);
}
