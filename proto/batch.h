/* batch.h - a micro-batch as it travels down the pipeline: descriptor in, results out.
 *
 * Plain structs for the two ends and a little-endian byte form for the wire (docs/wire.md). The
 * descriptor carries deltas: a sequence is registered once with its sampling parameters, later
 * micro-batches name it by its slot number and bring new tokens and new KV blocks only. Every stage
 * applies every descriptor, in order, so all of them hold the same block tables. Unpacking treats
 * bytes as hostile: every count is checked against a limit and the length. */
#ifndef SL_PROTO_BATCH_H
#define SL_PROTO_BATCH_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SL_SEQS_MAX 1024          /* sequences registered at one time */
#define SL_BATCH_SEQS_MAX 1024    /* sequences in one micro-batch */
#define SL_BATCH_ROWS_MAX 8192    /* tokens in one micro-batch */
#define SL_BATCH_BLOCKS_MAX 65536 /* new KV blocks in one micro-batch */
#define SL_LOGIT_BIAS_MAX 300     /* entries, as OpenAI allows */
#define SL_TOP_LOGPROBS_MAX 20    /* alternatives, as OpenAI allows */
#define SL_VOCAB_MAX (1 << 20)    /* columns of a row of logits */
#define SL_ADAPTERS_MAX 64        /* LoRA adapters loaded at one time */

struct sl_logit_bias {
    int32_t token;
    float bias;
};

/* How a sequence's tokens are drawn. Defaults: sl_sampling_default. */
struct sl_sampling {
    float temperature;        /* 0 = greedy */
    int32_t top_k;            /* 0 = all */
    float top_p;              /* 1 = all */
    float min_p;              /* 0 = off */
    float repetition_penalty; /* 1 = off; over prompt and answer */
    float presence_penalty,
        frequency_penalty; /* 0 = off; over the answer only, as OpenAI defines them */
    uint64_t seed;
    int32_t n_top; /* alternatives to report, 0..SL_TOP_LOGPROBS_MAX */
    int32_t n_bias;
    struct sl_logit_bias bias[SL_LOGIT_BIAS_MAX];
};
void sl_sampling_default(struct sl_sampling *s); /* greedy, everything off */

enum sl_seq_flags {
    SL_SEQ_REGISTER = 1, /* forget what the slot held; prompt_len and sampling are present */
    SL_SEQ_SAMPLE = 2,   /* draw a token from the last row */
    SL_SEQ_SCORE = 4,    /* report log p(next token) for every row; `next` follows the last one */
    SL_SEQ_LOGITS = 8,   /* report the logits of every row */
    SL_SEQ_FAR = 16      /* with REGISTER: longer than the context that the model was first trained
                            for; LongRoPE has other frequencies for it */
};

/* One sequence's share of a micro-batch. Its rows follow those of the sequence before it. */
struct sl_batch_seq {
    uint32_t seq;          /* slot number, < SL_SEQS_MAX */
    uint32_t flags;        /* enum sl_seq_flags */
    int32_t pos;           /* position of the first token */
    int32_t n_tokens;      /* >= 1 */
    int32_t n_blocks;      /* new blocks appended to its table */
    const int32_t *tokens; /* [n_tokens] */
    const int32_t *blocks; /* [n_blocks] */
    int32_t next;          /* with SCORE: the token after the share, -1: the text ends with it */
    int32_t prompt_len;    /* with REGISTER: positions below it are prompt, not answer */
    int32_t adapter;       /* with REGISTER: 0 the model itself, else 1 + number of the adapter */
    const struct sl_sampling *sampling; /* with REGISTER */
};

struct sl_batch {
    int n_seqs;
    int n_rows; /* sum of n_tokens */
    struct sl_batch_seq *seqs;
};

/* What the last stage answers. */
struct sl_top {
    int32_t token;
    float logprob;
};
struct sl_sampled {
    uint32_t seq;
    int32_t pos; /* position the token will stand at */
    int32_t token;
    float logprob;
    int32_t n_top;
    struct sl_top top[SL_TOP_LOGPROBS_MAX];
};
struct sl_scored { /* one sequence's SCORE or LOGITS rows */
    uint32_t seq;
    int32_t pos;           /* of the first row */
    int32_t n;             /* rows */
    const float *logprobs; /* SCORE: [n], else NULL */
    const float *logits;   /* LOGITS: [n][n_vocab], else NULL */
    int32_t n_vocab;
};
struct sl_results {
    int n_sampled, n_scored;
    struct sl_sampled *sampled;
    struct sl_scored *scored;
};

/* Appends the byte form. 0, SL_ELIMIT (a count or value that unpacking would refuse, or out->max)
 * or SL_ENOMEM; after an error `out` is as before. A batch has at least one sequence; results may
 * be empty. */
int sl_batch_pack(const struct sl_batch *b, struct sl_buf *out);
int sl_results_pack(const struct sl_results *r, struct sl_buf *out);

/* Decoded forms own their arrays; tokens, blocks and logits point into `data`, which must be 4-byte
 * aligned and outlive them. Anything malformed is SL_EPROTO; memory SL_ENOMEM. Start from zeroed
 * storage; after an error the decoded form is empty. Only full storage grows, so the steady state
 * allocates nothing. */
struct sl_batch_in {
    struct sl_batch batch;
    struct sl_sampling *sampling; /* private storage */
    size_t cap_seqs, cap_sampling;
};
int sl_batch_unpack(const void *data, size_t n, struct sl_batch_in *out,
                    struct sl_err *err); /* reuses storage */
void sl_batch_in_close(struct sl_batch_in *b);
struct sl_results_in {
    struct sl_results results;
    size_t cap_sampled, cap_scored;
};
int sl_results_unpack(const void *data, size_t n, struct sl_results_in *out, struct sl_err *err);
void sl_results_in_close(struct sl_results_in *r);

#ifdef __cplusplus
}
#endif
#endif
