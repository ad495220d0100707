/* linear.h - the weights of one linear layer, whatever the container and the quantization scheme,
 * as a matrix that a backend takes (base/matrix.h).
 *
 * A stem names the layer: "model.layers.0.self_attn.q_proj" (safetensors) or "blk.0.attn_q" (GGUF).
 * What lies beside it decides the scheme: "weight" alone, "weight" with "weight_scale_inv",
 * "weight_packed", "qweight" ...; config.json only settles what the tensors leave open (formats.md
 * section 3). Values are brought to one convention (scales multiply, even element in the low
 * nibble, rows N out by K in); bytes that need no change stay where they are mapped. Schemes that
 * we do not run are SL_EUNSUPPORTED, naming the scheme, the tensor and what to use instead. */
#ifndef SL_MODEL_LINEAR_H
#define SL_MODEL_LINEAR_H

#include "base/err.h"
#include "base/matrix.h"
#include "model/weights.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SL_LINEAR_PARTS 8 /* tensors of a layer, pieces of memory made for it */

struct sl_linear {
    struct sl_matrix m; /* valid until closed */
    uint64_t bytes;     /* in the file: codes, scales, zero points of this layer (or expert) */
    /* private: mapped tensors and what was made of them */
    const struct sl_tensor *mapped[SL_LINEAR_PARTS];
    void *made[SL_LINEAR_PARTS];
};

/* May `rest` follow the stem of a layer in the name of a tensor? */
int sl_linear_is_part(const char *rest);
/* Bytes of the stem when the tensor `name` only goes with codes in another one (a scale, a zero
 * point); else 0. Whether there are such codes, sl_linear_exists says. */
size_t sl_linear_beside(const char *name);

/* Is there a linear layer of this name? */
int sl_linear_exists(const struct sl_weights *w, const char *stem);

/* Bytes in the file, mapping nothing. `expert` < 0: a plain layer; else expert `expert` of
 * `n_experts`, found as GGUF's 3-D tensor ("blk.0.ffn_gate_exps"), as a fused safetensors tensor
 * (gpt-oss "...experts.gate_up_proj[_blocks]"), never as one tensor per expert: for that the caller
 * names the expert in the stem. */
int sl_linear_bytes(const struct sl_weights *w, const char *stem, int expert, int n_experts,
                    uint64_t *bytes, struct sl_err *err);

/* The layer as a matrix of `rows` x `cols`, which must be what the file holds (SL_EINPUT naming the
 * tensor, its shape and the one wanted). Scales with NaN or infinity, zero points out of range and
 * indices out of range are SL_EINPUT too. */
int sl_linear_open(struct sl_weights *w, const char *stem, int expert, int n_experts, int64_t rows,
                   int64_t cols, struct sl_linear *out, struct sl_err *err);
void sl_linear_close(struct sl_weights *w, struct sl_linear *l); /* unmaps and frees; zeroes *l */

/* Rows and columns of a plain layer as its tensors tell them. SL_EINPUT when they do not. */
int sl_linear_shape(struct sl_weights *w, const char *stem, int64_t *rows, int64_t *cols,
                    struct sl_err *err);

/* The scheme of the model in words, for inspect and messages: "nvfp4 (modelopt)", "awq 4-bit g128",
 * "none". Static storage. */
const char *sl_linear_scheme(const struct sl_weights *w);

#ifdef __cplusplus
}
#endif
#endif
