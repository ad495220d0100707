/* ref.h - the operations of the reference that have a file of their own; contracts in kernels.h.
 * Private to kernels/ref. */
#ifndef SL_KERNELS_REF_REF_H
#define SL_KERNELS_REF_REF_H

#include "kernels/backend.h"

void sl_ref_kv_write(struct sl_backend *b, const struct sl_kv_view *kv,
                     const struct sl_seq_view *seqs, int n_seqs, const float *k, const float *v);
void sl_ref_attention(struct sl_backend *b, const struct sl_kv_view *kv,
                      const struct sl_seq_view *seqs, int n_seqs, const float *q,
                      const struct sl_attn *a, void *out);
void sl_ref_latent_write(struct sl_backend *b, const struct sl_latent_view *kv,
                         const struct sl_seq_view *seqs, int n_seqs, const float *x);
void sl_ref_latent_attention(struct sl_backend *b, const struct sl_latent_view *kv,
                             const struct sl_seq_view *seqs, int n_seqs, const float *q,
                             const struct sl_attn *a, float *out);

#endif
