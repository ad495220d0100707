/* sample.h - logits to a token: greedy, temperature, top-k, top-p, min-p, penalties.
 *
 * Chance is a hash of (seed, position): the same request replayed, on any split, draws the same
 * token. Order of the steps: repetition penalty, presence and frequency penalties, logit bias,
 * temperature, top-k, top-p, min-p, draw. Log-probabilities reported are of the distribution before
 * temperature and truncation (what OpenAI's logprobs mean). */
#ifndef SL_STAGE_SAMPLE_H
#define SL_STAGE_SAMPLE_H

#include "kernels/kernels.h"
#include "proto/batch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* History of a sequence for penalties: counts of tokens seen, kept by the last stage only. */
struct sl_history; /* opaque, hash of token -> (in prompt?, times generated) */
struct sl_history *sl_history_create(void);
void sl_history_destroy(struct sl_history *h);
void sl_history_clear(struct sl_history *h);
int sl_history_add(struct sl_history *h, int32_t token, int generated); /* 0 or SL_ENOMEM */

struct sl_sampler; /* scratch for one vocabulary size */
struct sl_sampler *sl_sampler_create(int n_vocab);
void sl_sampler_destroy(struct sl_sampler *s);

/* Draws the token that will stand at position `pos` from logits [n_vocab] (left unchanged). `h` may
 * be NULL when p has no penalties. Fills token, logprob and the p->n_top best alternatives of *out
 * (out->row and out->seq stay). Ties: the lower id. */
void sl_sample(struct sl_sampler *s, const float *logits, const struct sl_sampling *p,
               const struct sl_history *h, int32_t pos, struct sl_sampled *out);

/* What penalties and bias do to the logits of n_vocab tokens, for a device that draws itself: at
 * most `max` entries, each token once. Their number, or -1 when there are more. */
int sl_sample_adjustments(const struct sl_sampling *p, const struct sl_history *h, int n_vocab,
                          struct sl_adjust *out, int max);
/* The chance in [0, 1) with which the token at `pos` is drawn. */
double sl_sample_chance(uint64_t seed, int32_t pos);

/* log softmax(logits)[token] in double precision. */
double sl_logprob(const float *logits, int n_vocab, int32_t token);

#ifdef __cplusplus
}
#endif
#endif
