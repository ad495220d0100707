/* linear.c - which scheme a layer is stored in, and the tensors that the schemes work with.
 *
 * The decision goes by what lies beside the stem, one tensor at a time, because mixed checkpoints
 * are the norm; config.json is asked by the schemes where tensors leave doubt. What we cannot run
 * is recognised here too, by the tensor that gives it away. */
#include "model/linear.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/mem.h"
#include "base/sl_assert.h"
#include "model/linear_part.h"

#define INSTEAD "use the model in BF16, FP8, NVFP4, MXFP4, AWQ or GPTQ, or as a GGUF file"

#define BNB ".weight." /* bitsandbytes puts its tables under the tensor's name */

/* Tensors that no scheme of ours has. */
static const struct stranger {
    const char *suffix, *says;
} strangers[] = {
    {".q_weight", "EXL2 weights are not run here; " INSTEAD},
    {".trellis", "EXL3 weights are not run here; " INSTEAD},
    {".codebooks", "AQLM weights are not run here; " INSTEAD},
    {".W_q", "HQQ weights are not run here; " INSTEAD},
    {".Qidxs", "QuIP# weights are not run here; " INSTEAD},
    {".centroids.weight", "VPTQ weights are not run here; " INSTEAD},
    {".dense_weights", "SpQR weights are not run here; " INSTEAD},
    {".meta", "2:4 sparse weights (Marlin 24) are not run here; " INSTEAD},
    {".bitmask", "sparse weights (compressed bitmask) are not run here; " INSTEAD},
    {".B_meta", "2:4 sparse weights (Marlin 24) are not run here; " INSTEAD},
    {".B", "weights in Marlin's layout are not run here; use the GPTQ or AWQ model that it was "
           "made from"},
    {".pre_quant_scale",
     "weights with a scale on the activations (ModelOpt's AWQ and SmoothQuant) are not run here; "
     "use the NVFP4, FP8 or AWQ model of the same name"},
    {".svd_lora_a", "SVDQuant weights are not run here; " INSTEAD},
    {".smooth_scale", "SmoothQuant weights are not run here; " INSTEAD},
    {".lora_A.weight", "the layer carries a LoRA adapter; merge it, or load the base model and the "
                       "adapter"},
};

/* Every tensor that may stand under a layer's stem: whether its bytes are the layer's, and whether
 * it only goes with codes that are another tensor (scales, zero points; also what activations or a
 * quantized KV cache would need, which is not used here). */
static const struct part {
    const char *suffix;
    int counted, beside;
} parts[] = {
    {"", 1, 0},
    {".weight", 1, 0},
    {".weight_packed", 1, 0},
    {".qweight", 1, 0},
    {"_blocks", 1, 0},
    {"_scales", 1, 0},
    {".scale", 1, 0},
    {".scales", 1, 1},
    {".qzeros", 1, 1},
    {".g_idx", 1, 1},
    {".weight_scale", 1, 1},
    {".weight_scale_inv", 1, 1},
    {".weight_scale_2", 1, 1},
    {".weight_global_scale", 1, 1},
    {".weight_zero_point", 1, 1},
    {".weight_g_idx", 1, 1},
    {".weight_shape", 1, 1},
    {".qscale_weight", 1, 1},
    {".SCB", 1, 1},
    {BNB "absmax", 1, 1},
    {BNB "quant_map", 1, 1},
    {BNB "nested_absmax", 1, 1},
    {BNB "nested_quant_map", 1, 1},
    {BNB "quant_state.bitsandbytes__nf4", 1, 1},
    {BNB "quant_state.bitsandbytes__fp4", 1, 1},
    {".weight_format", 0, 1},
    {".input_scale", 0, 1},
    {".input_global_scale", 0, 1},
    {".input_scale_ub", 0, 1},
    {".activation_scale", 0, 1},
    {".qscale_act", 0, 1},
    {".input_zero_point", 0, 0},
    {".pre_quant_scale", 0, 0},
    {".k_scale", 0, 0},
    {".v_scale", 0, 0},
    {".q_scale", 0, 0},
    {".output_scale", 0, 0},
    {".trellis", 0, 0},
    {".suh", 0, 0},
    {".svh", 0, 0},
    {".q_weight", 0, 0},
    {".q_scale_max", 0, 0},
    {".q_groups", 0, 0},
    {".q_invperm", 0, 0},
};

int sl_linear_is_part(const char *rest)
{
    for (size_t i = 0; i < SL_ARRAY_LEN(parts); i++)
        if (strcmp(parts[i].suffix, rest) == 0) return 1;
    return strncmp(rest, BNB, strlen(BNB)) == 0;
}

size_t sl_linear_beside(const char *name)
{
    const char *bnb = strstr(name, BNB);
    size_t n = strlen(name);
    if (bnb) return (size_t)(bnb - name);
    for (size_t i = 0; i < SL_ARRAY_LEN(parts); i++) {
        size_t k = strlen(parts[i].suffix);
        if (parts[i].beside && n > k && strcmp(name + n - k, parts[i].suffix) == 0) return n - k;
    }
    return 0;
}

const struct sl_tensor *sl_linear_find(const struct sl_weights *w, const char *stem,
                                       const char *suffix)
{
    char name[SL_TENSOR_NAME_MAX];
    int n = snprintf(name, sizeof name, "%s%s", stem, suffix);
    return n > 0 && (size_t)n < sizeof name ? sl_weights_find(w, name) : NULL;
}

/* ---- messages -------------------------------------------------------------------------------- */

int sl_job_bad(const struct sl_linear_job *j, const struct sl_tensor *t, int code, const char *fmt,
               ...)
{
    char text[SL_ERR_MSG_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return sl_err_set(j->err, code, "%s: tensor %s: %s", sl_weights_path(j->w), t->name, text);
}

/* "[4096, 512]" in the file's order, the last dimension fastest. */
static const char *shape_text(const int64_t *ne, int n_dims, char out[128])
{
    size_t n = 0;
    out[n++] = '[';
    for (int i = n_dims - 1; i >= 0 && n < 100; i--)
        n += (size_t)snprintf(out + n, 128 - n, "%" PRId64 "%s", ne[i], i ? ", " : "");
    snprintf(out + n, 128 - n, "]");
    return out;
}

int sl_job_shape(const struct sl_linear_job *j, const struct sl_piece *p, int64_t n1, int64_t n0)
{
    char have[128], want[128];
    int64_t rest = 1;
    for (int i = 2; i < p->n_dims; i++) rest *= p->ne[i];
    if (rest == 1 && p->ne[0] == n0 && p->ne[1] == n1) return 0;
    if (p->n_dims <= 1 && p->count == n1 * n0 && (n1 == 1 || n0 == 1)) return 0;
    return sl_job_bad(j, p->t, SL_EINPUT,
                      "its shape is %s where %s is wanted; config.json and weights are of "
                      "different models, or the file is damaged",
                      shape_text(p->ne, p->n_dims, have), shape_text((int64_t[]){n0, n1}, 2, want));
}

/* ---- tensors of a layer ---------------------------------------------------------------------- */

static int no_memory(const struct sl_linear_job *j)
{
    return sl_err_set(j->err, SL_ENOMEM, "%s: layer %s: out of memory", sl_weights_path(j->w),
                      j->stem);
}

void *sl_job_alloc(struct sl_linear_job *j, uint64_t bytes)
{
    size_t n = ((size_t)bytes + SL_MEM_ALIGN) & ~(size_t)(SL_MEM_ALIGN - 1);
    for (int i = 0; i < SL_LINEAR_PARTS; i++)
        if (!j->out->made[i]) {
            j->out->made[i] = aligned_alloc(SL_MEM_ALIGN, n);
            if (!j->out->made[i]) no_memory(j);
            return j->out->made[i];
        }
    SL_ASSERT(!"room for what a scheme makes");
    return NULL;
}

static int absent(const struct sl_linear_job *j, const char *suffix)
{
    return sl_err_set(j->err, SL_EINPUT,
                      "%s: tensor %s%s is missing; the model is incomplete, download it again",
                      sl_weights_path(j->w), j->stem, suffix);
}

static int unknown_type(const struct sl_linear_job *j, const struct sl_tensor *t)
{
    if (strstr(t->type_name, "FNUZ"))
        return sl_job_bad(j, t, SL_EUNSUPPORTED,
                          "its type %s is of AMD's MI300 only and means other numbers; use the "
                          "model in F8_E4M3, or in BF16",
                          t->type_name);
    return sl_job_bad(j, t, SL_EUNSUPPORTED, "its type %s is not run here; " INSTEAD, t->type_name);
}

/* Cuts the experts' dimension, the slowest, off the piece. */
static int cut_expert(struct sl_linear_job *j, struct sl_piece *p)
{
    char have[128];
    if (j->expert < 0) return 0;
    if (p->n_dims < 1 || p->ne[p->n_dims - 1] != j->n_experts)
        return sl_job_bad(j, p->t, SL_EINPUT,
                          "its shape is %s where the first dimension should be the %d experts; "
                          "config and weights are of different models",
                          shape_text(p->ne, p->n_dims, have), j->n_experts);
    p->n_dims--;
    p->ne[p->n_dims] = 1;
    p->count /= j->n_experts;
    p->bytes /= (uint64_t)j->n_experts; /* each expert has whole rows, so whole bytes */
    p->data += (uint64_t)j->expert * p->bytes;
    return 0;
}

int sl_job_take(struct sl_linear_job *j, const char *suffix, int optional, struct sl_piece *p)
{
    const struct sl_tensor *t = sl_job_find(j, suffix);
    *p = (struct sl_piece){.t = t};
    if (!t) return optional ? 0 : absent(j, suffix);
    if (!t->known) return unknown_type(j, t);
    int slot = 0;
    while (slot < SL_LINEAR_PARTS && j->out->mapped[slot]) slot++;
    SL_ASSERT(slot < SL_LINEAR_PARTS);
    p->data = sl_weights_map(j->w, t, j->err);
    if (!p->data) return j->err && j->err->code ? j->err->code : SL_EIO;
    j->out->mapped[slot] = t;
    p->type = t->type;
    p->n_dims = t->n_dims;
    p->count = 1;
    for (int i = 0; i < SL_TENSOR_DIMS_MAX; i++) {
        p->ne[i] = t->ne[i];
        p->count *= t->ne[i];
    }
    p->bytes = t->bytes;
    return cut_expert(j, p);
}

void sl_job_drop(struct sl_linear_job *j, struct sl_piece *p)
{
    for (int i = 0; p->t && i < SL_LINEAR_PARTS; i++)
        if (j->out->mapped[i] == p->t) {
            sl_weights_unmap(j->w, p->t);
            j->out->mapped[i] = NULL;
            break;
        }
    p->data = NULL;
}

struct sl_matrix sl_job_matrix(const struct sl_linear_job *j, enum sl_dtype type, const void *data)
{
    return sl_matrix_plain(type, j->rows, j->cols, data);
}

/* ---- config.json ----------------------------------------------------------------------------- */

const struct json_t *sl_linear_config(const struct sl_weights *w)
{
    const json_t *c = sl_weights_json(w, SL_JSON_CONFIG);
    const json_t *q = json_object_get(c, "quantization_config");
    if (!q) q = json_object_get(json_object_get(c, "text_config"), "quantization_config");
    if (!q) q = json_object_get(sl_weights_json(w, SL_JSON_QUANT), "quantization");
    return json_is_object(q) ? q : NULL;
}

const char *sl_linear_config_text(const struct sl_weights *w, const char *key)
{
    const char *s = json_string_value(json_object_get(sl_linear_config(w), key));
    return s ? s : "";
}

int64_t sl_linear_config_int(const struct sl_weights *w, const char *key)
{
    return json_integer_value(json_object_get(sl_linear_config(w), key));
}

/* ---- the decision ---------------------------------------------------------------------------- */

typedef int (*open_fn)(struct sl_linear_job *j);

static int is_float(const struct sl_tensor *t)
{
    return t->known && sl_dtype_kind(t->type) == SL_KIND_FLOAT;
}

static int is_type(const struct sl_tensor *t, enum sl_dtype type)
{
    return t && t->known && t->type == type;
}

/* A layer whose codes are called ".weight". */
static open_fn of_weight(const struct sl_weights *w, const char *stem, const struct sl_tensor *t)
{
    const struct sl_tensor *scale = sl_linear_find(w, stem, ".weight_scale");
    if (sl_linear_find(w, stem, ".weight.absmax")) return sl_linear_bnb4;
    if (!t->known || is_float(t) || sl_dtype_kind(t->type) == SL_KIND_BLOCK) return sl_linear_plain;
    if (is_type(t, SL_F8_E4M3) || is_type(t, SL_F8_E5M2)) return sl_linear_fp8;
    if (is_type(t, SL_I8) && sl_linear_find(w, stem, ".SCB")) return sl_linear_bnb8;
    if (is_type(t, SL_U8) || is_type(t, SL_I8) || is_type(t, SL_F4)) {
        if (sl_linear_find(w, stem, ".weight_scale_2") ||
            sl_linear_find(w, stem, ".weight_global_scale") || is_type(scale, SL_F8_E4M3))
            return sl_linear_nvfp4;
        if (is_type(scale, SL_U8) || is_type(scale, SL_E8M0) ||
            is_type(sl_linear_find(w, stem, ".scale"), SL_E8M0) || is_type(t, SL_F4))
            return sl_linear_mxfp4;
    }
    return is_type(t, SL_I8) && scale ? sl_linear_int8 : NULL;
}

/* compressed-tensors: codes are called ".weight_packed". */
static open_fn of_packed(const struct sl_weights *w, const char *stem, const struct sl_tensor *t)
{
    if (is_type(t, SL_I32)) return sl_linear_packed;
    const struct sl_tensor *scale = sl_linear_find(w, stem, ".weight_scale");
    if (sl_linear_find(w, stem, ".weight_global_scale") || is_type(scale, SL_F8_E4M3))
        return sl_linear_nvfp4;
    return sl_linear_mxfp4;
}

/* AWQ's codes are [in, out/8] (or, "gemv", [out, in/8]); GPTQ's are [in/x, out] and come with an
 * index of groups, or config.json says who wrote them. */
static open_fn of_qweight(const struct sl_linear_job *j, const struct sl_tensor *t)
{
    const char *method = sl_linear_config_text(j->w, "quant_method");
    if (sl_job_find(j, ".g_idx")) return sl_linear_gptq;
    if (strcmp(method, "awq") == 0) return sl_linear_awq;
    if (strcmp(method, "gptq") == 0) return sl_linear_gptq;
    return t->ne[1] == j->cols && t->ne[0] != j->rows ? sl_linear_awq : sl_linear_gptq;
}

/* The scheme of the job's layer; NULL and *t (may be NULL) when it is none of ours. */
static open_fn choose(const struct sl_linear_job *j, const struct sl_tensor **t)
{
    if ((*t = sl_job_find(j, ".weight_packed"))) return of_packed(j->w, j->stem, *t);
    if ((*t = sl_job_find(j, ".qweight"))) return of_qweight(j, *t);
    if ((*t = sl_job_find(j, ".weight"))) return of_weight(j->w, j->stem, *t);
    if (j->expert < 0) return NULL;
    if ((*t = sl_job_find(j, "_blocks"))) return sl_linear_blocks;
    if ((*t = sl_job_find(j, ""))) return sl_linear_fused;
    return NULL;
}

/* A layer of a kind that we do not run, or none at all. */
static int refuse(const struct sl_linear_job *j, const struct sl_tensor *t)
{
    if (t)
        return sl_job_bad(j, t, SL_EUNSUPPORTED,
                          "%s values without the scales of any scheme that is run here; " INSTEAD,
                          t->type_name);
    return absent(j, ".weight");
}

static int refuse_strangers(const struct sl_linear_job *j)
{
    for (size_t i = 0; i < SL_ARRAY_LEN(strangers); i++) {
        const struct sl_tensor *t = sl_job_find(j, strangers[i].suffix);
        if (t) return sl_job_bad(j, t, SL_EUNSUPPORTED, "%s", strangers[i].says);
    }
    return 0;
}

/* ---- the door -------------------------------------------------------------------------------- */

int sl_linear_exists(const struct sl_weights *w, const char *stem)
{
    static const char *const codes[] = {".weight", ".weight_packed", ".qweight", "_blocks", ""};
    for (size_t i = 0; i < SL_ARRAY_LEN(codes); i++)
        if (sl_linear_find(w, stem, codes[i])) return 1;
    for (size_t i = 0; i < SL_ARRAY_LEN(strangers); i++)
        if (sl_linear_find(w, stem, strangers[i].suffix)) return 1; /* opening it says why not */
    return 0;
}

int sl_linear_bytes(const struct sl_weights *w, const char *stem, int expert, int n_experts,
                    uint64_t *bytes, struct sl_err *err)
{
    SL_ASSERT(expert < 0 || expert < n_experts);
    uint64_t sum = 0;
    if (!sl_linear_exists(w, stem))
        return sl_err_set(err, SL_EINPUT,
                          "%s: tensor %s.weight is missing; the model is incomplete, download it "
                          "again",
                          sl_weights_path(w), stem);
    for (size_t i = 0; i < SL_ARRAY_LEN(parts); i++) {
        const struct sl_tensor *t =
            parts[i].counted ? sl_linear_find(w, stem, parts[i].suffix) : NULL;
        if (t) sum += t->bytes;
    }
    *bytes = expert < 0 ? sum : sum / (uint64_t)n_experts;
    return 0;
}

int sl_linear_open(struct sl_weights *w, const char *stem, int expert, int n_experts, int64_t rows,
                   int64_t cols, struct sl_linear *out, struct sl_err *err)
{
    SL_ASSERT(rows > 0 && cols > 0 && expert < SL_MAX(n_experts, 1));
    struct sl_err own = {0}; /* schemes pass codes on through it */
    struct sl_linear_job j = {w, stem, expert, n_experts, rows, cols, out, &own};
    const struct sl_tensor *t = NULL;
    *out = (struct sl_linear){.bytes = 0};
    int r = refuse_strangers(&j);
    open_fn open = r ? NULL : choose(&j, &t);
    if (!r) r = open ? open(&j) : refuse(&j, t);
    if (!r) r = sl_linear_bytes(w, stem, expert, n_experts, &out->bytes, &own);
    if (!r) return 0;
    sl_linear_close(w, out);
    return sl_err_set(err, r, "%s", own.msg);
}

void sl_linear_close(struct sl_weights *w, struct sl_linear *l)
{
    for (int i = 0; i < SL_LINEAR_PARTS; i++) {
        if (l->mapped[i]) sl_weights_unmap(w, l->mapped[i]);
        free(l->made[i]);
    }
    *l = (struct sl_linear){.bytes = 0};
}
