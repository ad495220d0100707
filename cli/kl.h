/* kl.h - saved log-probabilities of a text, and how another model's differ from them: what `ppl
 * --save-logits` writes and `ppl --kl-base` reads.
 *
 * The file is a safetensors file, so that other programs can read it too: `tokens` I32 [chunks,
 * context]; for each scored row `right` F32 [rows], log p of the token that follows, and `logprobs`
 * U16 [rows, vocab], `low` and `step` F32 [rows]: log p of token v is low + step * code, codes
 * spanning the row's best SL_KL_SPAN nats. Rounding costs less than 1.3e-4 nats a token. The
 * measures are llama.cpp's, so that figures compare. */
#ifndef SL_CLI_KL_H
#define SL_CLI_KL_H

#include <jansson.h>
#include <stdint.h>

#include "base/err.h"

#define SL_KL_SPAN 16.0f /* nats below the likeliest token; what is less likely counts as that */

/* What is scored: rows [first, context - 1) of each chunk. */
struct sl_kl_shape {
    int chunks, context, first, n_vocab;
};

struct sl_kl_file;

/* Creates (overwriting) or opens a file. SL_EINPUT names what does not fit: another vocabulary,
 * another chunk length, fewer chunks; SL_EIO a full disk. `tokens` [chunks][context] are written,
 * or compared with the file's. */
int sl_kl_create(const char *path, const struct sl_kl_shape *s, const int32_t *tokens,
                 struct sl_kl_file **out, struct sl_err *err);
int sl_kl_open(const char *path, const struct sl_kl_shape *s, const int32_t *tokens,
               struct sl_kl_file **out, struct sl_err *err);
/* 0, or SL_EIO when a created file could not be completed (it is removed then). NULL is fine. */
int sl_kl_close(struct sl_kl_file *f, struct sl_err *err);

/* Scored row `row` (over all chunks) as logits [n_vocab], before token `right`: stored. 0 or
 * SL_EIO. */
int sl_kl_put(struct sl_kl_file *f, int64_t row, const float *logits, int32_t right,
              struct sl_err *err);

/* Differences, one per scored row. */
struct sl_kl_stats {
    int64_t n, cap;
    float *kld;                  /* KL(base || this) */
    float *dp;                   /* p(right token) here less in the base */
    double nll, nll2;            /* sums of -log p here and its square */
    double base, base2, product; /* the same of the base; of the product of both */
    int64_t same_top;
};

/* Compares logits of scored row `row` with the file; `right` is the token that follows. 0, SL_EIO
 * or SL_ENOMEM. */
int sl_kl_compare(struct sl_kl_file *f, int64_t row, const float *logits, int32_t right,
                  struct sl_kl_stats *st, struct sl_err *err);
void sl_kl_stats_close(struct sl_kl_stats *st);

/* Means, extremes and percentiles; sorts the arrays. A new reference, NULL when memory is out. */
json_t *sl_kl_stats_json(struct sl_kl_stats *st);
/* The same for people, on stdout. */
void sl_kl_stats_print(const json_t *stats);

#endif
