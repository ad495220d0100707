/* quantize_part.h - what the files of quantize*.c share; private to them. */
#ifndef SL_MODEL_QUANTIZE_PART_H
#define SL_MODEL_QUANTIZE_PART_H

#include "base/arena.h"
#include "model/quantize.h"

struct json_t;
struct sl_out_model; /* quantize_gguf.h */

#define SL_OUT_TENSORS 4 /* tensors that one layer becomes, at most */

/* A tensor of the result: what it is and where it goes. */
struct sl_out_tensor {
    const char *name; /* in the plan's arena */
    enum sl_dtype type;
    int n_dims;
    int64_t shape[SL_TENSOR_DIMS_MAX]; /* the file's order */
    uint64_t bytes;
    int shard;
    uint64_t offset; /* in the data of the shard */
};

/* One step: a tensor that is copied, or a layer that is written anew. */
struct sl_out_step {
    const struct sl_tensor *copy; /* NULL: a layer */
    const char *stem;
    int64_t rows, cols;
    enum sl_quantize_to to;
    int role, layer, slot; /* from GGUF: the first role that the tensor holds, and whose */
    int first, n;          /* of the plan's tensors */
};

struct sl_out_plan {
    struct sl_arena names;
    struct sl_out_step *steps;
    int n_steps, cap_steps;
    struct sl_out_tensor *tensors;
    int n_tensors, cap_tensors;
    int *order; /* tensors by shard and offset */
    int n_shards;
    uint64_t *head, *data;            /* bytes of each shard's JSON (padded) and data */
    char **heads;                     /* the JSON */
    struct json_t *ignore;            /* names of matrices that stay as they are */
    const struct sl_out_model *model; /* from GGUF; else NULL */
    uint64_t bytes_in, bytes_out;
    int layers, kept;
};

/* quantize_plan.c: what becomes of each tensor, and where it goes. */
int sl_out_plan_init(struct sl_out_plan *p, struct sl_err *err);
int sl_out_plan_make(struct sl_weights *w, enum sl_quantize_to to, struct sl_out_plan *p,
                     struct sl_err *err);
void sl_out_plan_close(struct sl_out_plan *p);
/* "model.safetensors" or "model-00002-of-00003.safetensors". */
void sl_out_shard_name(const struct sl_out_plan *p, int shard, char out[64]);
/* The tensors of a layer of this shape in format `to`; returns how many. `suffixes` and types. */
int sl_out_layer(enum sl_quantize_to to, int64_t rows, int64_t cols,
                 struct sl_out_tensor out[SL_OUT_TENSORS], const char *suffixes[SL_OUT_TENSORS]);
/* Columns that a group has; rows must divide into them. */
int sl_out_group(enum sl_quantize_to to);
/* Adds a step like *step that writes a layer in format `to`, or one tensor of floats. */
int sl_out_add_layer(struct sl_out_plan *p, const struct sl_out_step *step, const char *stem,
                     int64_t rows, int64_t cols, enum sl_quantize_to to, struct sl_err *err);
int sl_out_add_f32(struct sl_out_plan *p, const struct sl_out_step *step, const char *stem,
                   const char *suffix, const int64_t *shape, int n_dims, struct sl_err *err);
/* Shards, headers and places of all steps. */
int sl_out_plan_place(struct sl_out_plan *p, uint64_t shard_bytes, struct sl_err *err);

/* The rows of a layer, wherever they come from. */
struct sl_out_rows {
    int64_t rows, cols;
    void (*get)(void *arg, int64_t row, float *out); /* [cols] */
    void *arg;
};

/* quantize_layer.c: the bytes of those tensors; data[i] has room for tensor i of the layer. */
int sl_out_encode(const struct sl_out_rows *rows, enum sl_quantize_to to,
                  void *const data[SL_OUT_TENSORS], const char *stem, struct sl_err *err);

/* quantize_config.c: the small files of a result made from a folder: config.json, and those that
 * are copied as they are. */
int sl_out_folder_files(const struct sl_weights *w, const struct sl_out_plan *p,
                        enum sl_quantize_to to, const char *dir, struct sl_err *err);
/* config.json from *c, which gets its quantization_config. */
int sl_out_write_config(struct json_t *c, const struct sl_out_plan *p, enum sl_quantize_to to,
                        const char *dir, struct sl_err *err);
int sl_out_dump(const struct json_t *j, const char *dir, const char *name, struct sl_err *err);
int sl_out_index(const struct sl_out_plan *p, const char *dir, struct sl_err *err);

#endif
