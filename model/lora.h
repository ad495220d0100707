/* lora.h - a LoRA adapter (Hu et al. 2021) as PEFT saves it: adapter_config.json and
 * adapter_model.safetensors, read against the configuration of its base model.
 *
 * To the product of a linear layer with weights W an adapter adds scale * B (A x), A [rank, in], B
 * [out, rank], scale = lora_alpha / rank (rsLoRA: / sqrt(rank)). The names in the file are those of
 * the Hugging Face model, whatever container the base model is in: rows of B are brought to the
 * base's own order (GGUF turns the heads of q and k; fused layers are cut into their roles). What
 * would change the answer and is not run (DoRA, trained embeddings, biases, adapted experts) is
 * SL_EUNSUPPORTED, naming the tensor or key. Treats both files as hostile, as weights.h does. */
#ifndef SL_MODEL_LORA_H
#define SL_MODEL_LORA_H

#include "base/matrix.h"
#include "model/config.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SL_LORA_RANK_MAX 512
#define SL_LORA_CONFIG_MAX (1u << 20) /* bytes of adapter_config.json */

struct sl_lora;

/* What the adapter adds to one role of one layer; rank 0: nothing. */
struct sl_lora_pair {
    int rank;
    struct sl_matrix a, b; /* b.factor is the scale */
    void *bytes[2];        /* owned: what the matrices point to */
};

/* Opens the adapter in folder `dir` for a model of configuration `c` (copied) and checks every name
 * and shape. SL_ENOTFOUND, SL_EINPUT, SL_EUNSUPPORTED, SL_EIO, SL_ENOMEM. */
int sl_lora_open(const char *dir, const struct sl_config *c, struct sl_lora **out,
                 struct sl_err *err);
void sl_lora_close(struct sl_lora *l); /* NULL is fine */

/* The largest rank of any layer, and the bytes of the pairs of layers [from, to). */
int sl_lora_rank(const struct sl_lora *l);
uint64_t sl_lora_bytes(const struct sl_lora *l, int from, int to);

/* Reads one pair; close it in every case. SL_EINPUT, SL_EIO or SL_ENOMEM. */
int sl_lora_read(struct sl_lora *l, enum sl_role role, int layer, struct sl_lora_pair *out,
                 struct sl_err *err);
void sl_lora_pair_close(struct sl_lora_pair *p);

#ifdef __cplusplus
}
#endif
#endif
