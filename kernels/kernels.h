/* kernels.h - every operation once: arguments, shapes, contract. Raw pointers and sizes; no engine
 * types.
 *
 * Three backends fill the same table: `ref` (plain float C, slow and right, the oracle), `cpu`
 * (the best row this CPU has: portable, AVX2, AVX-512 VNNI/BF16, AMX) and `cuda` (an NVIDIA card).
 * All matrices are row-major, activations are float32, except *product rows* (`void *`): what
 * matmul, moe and the like read. Their form is the backend's own (ref, cpu: float32, n rows of
 * cols; cuda: kernels/cuda/cuda.h); norm_rows, to_rows, attention, glu and gate_up make them;
 * rows_bytes() says how much room they take.
 *
 * Memory: where `alloc` is NULL the backend works on the caller's own memory. Otherwise every
 * pointer given to an operation (gains, biases, activations, caches, tables) came from alloc() and
 * only upload() and download() reach it; exceptions are what a load() reads, and `ids`, `pos`,
 * `seqs` and `picks`, which are host arrays: those of the sl_step given to begin(), or pointers
 * into them.
 *
 * Contract of ref and cpu: a row's result does not depend on the other rows of the call, on their
 * number, or on the number of threads: a prompt gives the same bits alone, in a batch, in chunks
 * and on any number of stages. cuda: the same sequence of calls gives the same bits, on one stage
 * or several; up to SL_DECODE_ROWS_MAX rows a row's result does not depend on the others' content
 * (kernels change with the number of rows: kernels/cuda/README.md). Of every
 * backend:
 *  - no allocation after sl_backend_create / load except a scratch that grows to the largest call
 * seen (cuda: never; what it needs is in scratch_bytes);
 *  - pointers of activations are 64-byte aligned; row strides equal the row length unless a stride
 * is passed;
 *  - calls come from one thread at a time per backend. */
#ifndef SL_KERNELS_KERNELS_H
#define SL_KERNELS_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/err.h"
#include "base/matrix.h"

#ifdef __cplusplus
extern "C" {
#endif

struct sl_backend; /* opaque: ops, threads, scratch */

/* A matrix [rows N out, cols K in] (or a vector as one row) as the backend keeps it. Filled by
 * load. */
struct sl_weight {
    int64_t rows, cols;
    struct sl_matrix m; /* as given; m.data NULL when only `packed` is kept */
    void *packed; /* the backend's own layout of the same values (codes unchanged, permuted), or
                     NULL */
    size_t packed_bytes;
    int layout;  /* backend-private tag of `packed` */
    void *group; /* of the first of several: what group() made of them, or NULL */
};

/* KV cache of one layer, of `type` (F32, F16 or BF16): V is
 * [block][kv_head][block_tokens][head_dim], K is stored with its last two turned,
 * [block][kv_head][head_dim][block_tokens], so that one vector load brings a feature of 16 keys.
 * Both take the same number of bytes per block. Vector rows want block_tokens to be a multiple of
 * 16; other sizes work, slowly. */
struct sl_kv_view {
    void *k, *v;
    enum sl_dtype type;
    int block_tokens, n_kv_heads, head_dim;
};

/* MLA (DeepSeek-V2, 2024, absorbed form): one row per token and layer, shared by all heads: the
 * latent of v_dim elements after its norm, then the rotated key part. Rows lie as
 * [block][block_tokens][dim]. */
#define SL_LATENT_DIM_MAX 1024
struct sl_latent_view {
    void *rows;
    enum sl_dtype type; /* F32, F16 or BF16 */
    int block_tokens, dim, v_dim;
};

/* One sequence's share of a micro-batch: rows [row, row+n) of the activations, positions
 * pos..pos+n-1. Entries of all positions up to the last are valid, also those before a window. */
struct sl_seq_view {
    int row, n;
    int pos;
    const int32_t *blocks; /* its block table; entry p/block_tokens holds position p */
    int slot;              /* number of the sequence, < sl_backend_limits.max_seqs */
    int n_blocks;          /* entries of the table */
    int new_blocks;        /* how many of them, the last ones, are new since its last share */
};

#define SL_DECODE_ROWS_MAX 64 /* rows up to which weights are streamed, not multiplied in tiles */

/* How the last stage draws a token from a row of logits; the steps are those of stage/sample.h.
 * `chance` is uniform in [0, 1). Adjustments [first_adjust, + n_adjust) of the step come first:
 * x = x > 0 ? x / divide : x * divide, then x += add. */
struct sl_adjust {
    int32_t token;
    float divide, add;
};
#define SL_TOP_MAX 20 /* alternatives reported */
struct sl_draw {
    float temperature; /* 0: greedy */
    int top_k;         /* 0: all */
    float top_p, min_p;
    double chance;
    int n_top; /* alternatives wanted, <= SL_TOP_MAX */
    int first_adjust, n_adjust;
};
struct sl_drawn {
    int32_t token;
    float logprob; /* after adjustments, before temperature */
    int32_t n_top;
    int32_t top[SL_TOP_MAX];
    float top_logprob[SL_TOP_MAX];
};

#define SL_ADJUSTS_MAX 65536 /* adjustments of one step */

/* What one micro-batch is, given to begin() before its operations. Arrays are the caller's and stay
 * until its results were read. */
struct sl_step {
    int n_rows, n_seqs;
    const int32_t *pos;             /* [n_rows] */
    const int32_t *ids;             /* [n_rows] tokens, first stage; else NULL */
    const struct sl_seq_view *seqs; /* [n_seqs], in the order of their rows */
    /* last stage: rows that go through the output matrix, what is drawn or scored from each */
    int n_picks;
    const int32_t *picks;       /* [n_picks] rows */
    const struct sl_draw *draw; /* [n_picks]; n_top < 0: nothing is drawn from this one */
    const int32_t *next;        /* [n_picks] token whose log-probability is wanted, -1: none */
    const struct sl_adjust *adjust;
    int n_adjust;
    /* the operations depend on nothing but n_rows, n_seqs, n_picks, and every share is one row:
     * they may be recorded and replayed */
    int steady;
    int run_rows, run_picks; /* set by begin(): how many of each to give to the operations (>=) */
};

/* The largest step and the model's measures, told once, before weights are loaded. */
struct sl_backend_limits {
    int max_rows, max_seqs, max_blocks; /* rows of a step; slots; entries of one block table */
    int block_tokens;
    int n_embd, n_vocab;         /* n_vocab 0: not the last stage */
    int max_cols;                /* widest input of any product */
    int max_out;                 /* widest output, the logits left out */
    int logit_rows;              /* rows that go through the output matrix together */
    int n_heads, head_dim;       /* of queries; head_dim: of the cache's rows */
    int n_experts, n_used, n_ff; /* 0: no mixture of experts */
    uint64_t memory_bytes;       /* that this backend may take in all; 0: what is free */
};

enum { SL_MATMUL_ADD = 1 }; /* out += instead of out = */

/* One product of a group that shares its input: out[n][w->rows] (+)= x[n][w->cols] * w^T, plus
 * bias[w->rows] if not NULL. */
struct sl_product {
    const struct sl_weight *w;
    const float *bias;
    float *out;
    int flags;
};

enum sl_use { SL_USE_MATMUL, SL_USE_EMBED };

/* Rotary positions (Su et al. 2021): pair i of `dims`/2 turns by pos * inv_freq[i]; cosine and sine
 * are multiplied by `scale` (1, or YaRN's attention factor). neox: pairs (i, i + dims/2), else
 * (2i, 2i+1). */
struct sl_rope {
    int dims, neox;
    float scale;
    const float *inv_freq; /* [dims/2] */
};

/* What turns: elements [offset, offset + dims) of each head of x [n][n_heads*head_dim]. */
struct sl_rope_part {
    float *x;
    int n_heads, head_dim, offset;
};

/* What `heads` does: q [n][n_heads*head_dim], k and v [n][n_kv_heads*head_dim] of a layer. */
struct sl_heads {
    float *q, *k;
    const float *v;
    int n_heads, n_kv_heads, head_dim;
    const float *q_gain, *k_gain; /* [head_dim] or NULL */
    float eps;
    const struct sl_rope *rope;
};

/* How attention weighs: softmax over keys j of position i of  scale * q.k , softened to
 * cap * tanh(s / cap) when softcap is not 0 (Gemma 2), for j <= i and, with a window, i - j <
 * window (Mistral; Beltagy et al. 2020); sinks[head], when given, joins the softmax as a key
 * without value (gpt-oss; Xiao et al. 2024). */
struct sl_attn {
    int n_heads;
    float scale, softcap;
    int window;         /* keys; 0: all */
    const float *sinks; /* [n_heads] or NULL */
};

/* out[i] of a gated linear unit (Shazeer 2020). SWIGLU_OAI (gpt-oss): g = min(gate, 7), u =
 * clamp(up, -7, 7): (u + 1) * g * sigmoid(1.702 g). GELU is the exact one (erf). */
enum sl_act { SL_ACT_SILU, SL_ACT_GELU, SL_ACT_GELU_TANH, SL_ACT_SWIGLU_OAI };

/* How a mixture of experts chooses and weighs `n_used` of its experts from the router's logits. */
enum sl_gating {
    SL_GATING_SOFTMAX, /* softmax over all, the best, renormalised if `normalize` (Mixtral, Qwen3)
                        */
    SL_GATING_TOPK_SOFTMAX, /* the best logits, softmax over those (gpt-oss) */
    SL_GATING_SIGMOID       /* sigmoid, chosen with `correction`, weighed without (DeepSeek-V3) */
};

#define SL_MOE_GROUPS_MAX 256

/* A mixture of experts; 1 <= n_used <= n_experts. Groups (DeepSeek): experts in n_groups equal
 * groups, at most SL_MOE_GROUPS_MAX, only the best n_groups_used are looked at; a group counts as
 * its best expert (V2, SOFTMAX) or the sum of its two best (V3, SIGMOID). Of equal experts or
 * groups the first is taken; a NaN is never the better one. */
struct sl_moe {
    int n_experts, n_used, n_ff;
    enum sl_gating gating;
    int normalize, n_groups, n_groups_used; /* groups 1, 1: none */
    float scale;                            /* multiplies the weights at the end */
    enum sl_act act;
    const struct sl_weight *router;               /* [n_experts, dim] */
    const float *router_bias;                     /* [n_experts] or NULL: added to the logits */
    const float *correction;                      /* [n_experts] or NULL: added for choosing only */
    const struct sl_weight *gate, *up, *down;     /* [n_experts] */
    const float *gate_bias, *up_bias, *down_bias; /* [n_experts][n_ff], [n_ff], [dim], or NULL */
};

struct sl_backend_ops {
    const char *name; /* "ref", "cpu" */

    /* Makes *w of m. On return w->m.data is NULL when the numbers were repacked and the caller may
     * let go of what m points to, else all of it must stay. SL_USE_EMBED keeps rows addressable for
     * embed(); SL_USE_MATMUL packs. SL_EUNSUPPORTED for a format or shape without a kernel. */
    int (*load)(struct sl_backend *b, enum sl_use use, const struct sl_matrix *m,
                struct sl_weight *w, struct sl_err *err);
    void (*unload)(struct sl_backend *b, struct sl_weight *w);
    /* The n loaded weights at w, all of one shape and format, will be used together: one role of
     * the experts of a layer, or of its heads. Once for each such array; NULL: nothing to do. */
    int (*group)(struct sl_backend *b, struct sl_weight *w, int n, struct sl_err *err);

    /* out[i][cols] = row ids[i] of w, i < n. ids are in range (checked by the caller). */
    void (*embed)(struct sl_backend *b, const struct sl_weight *w, const int32_t *ids, int n,
                  float *out);

    /* out[i][dim] = x[i] / sqrt(mean(x[i]^2) + eps) * gain. out may be x. (Zhang & Sennrich 2019)
     */
    void (*rmsnorm)(struct sl_backend *b, const float *x, const float *gain, float eps, int n,
                    int dim, float *out);

    /* The same into product rows. */
    void (*norm_rows)(struct sl_backend *b, const float *x, const float *gain, float eps, int n,
                      int dim, void *out);
    /* Copies x [n][cols] into product rows. */
    void (*to_rows)(struct sl_backend *b, const float *x, int n, int cols, void *out);
    /* Bytes of n product rows of `cols` elements. */
    size_t (*rows_bytes)(int64_t n, int64_t cols);

    /* Up to 4 products of one input, product rows [n][cols]; n may be 0. */
    void (*matmul)(struct sl_backend *b, const void *x, int n, const struct sl_product *p,
                   int n_products);

    /* Turns the parts in place; row i of each stands at position pos[i]. */
    void (*rope)(struct sl_backend *b, const struct sl_rope *r, const struct sl_rope_part *parts,
                 int n_parts, const int32_t *pos, int n);

    /* Stores k, v rows [n][n_kv_heads*head_dim] of all sequences at their positions. */
    void (*kv_write)(struct sl_backend *b, const struct sl_kv_view *kv,
                     const struct sl_seq_view *seqs, int n_seqs, const float *k, const float *v);

    /* Causal attention of rows q [n][n_heads*head_dim] over each sequence's own cache, which
     * already holds this batch's rows: out [n][n_heads*head_dim], product rows. Query head h reads
     * KV head h / (n_heads/n_kv_heads). (Ainslie et al. 2023) */
    void (*attention)(struct sl_backend *b, const struct sl_kv_view *kv,
                      const struct sl_seq_view *seqs, int n_seqs, const float *q,
                      const struct sl_attn *a, void *out);

    /* The same over latents: x [n][dim] is stored; q [n][n_heads*dim] meets whole rows, out
     * [n][n_heads*v_dim] is the weighted sum of their first v_dim elements. Any number of heads;
     * v_dim <= dim <= SL_LATENT_DIM_MAX; all of struct sl_attn holds. */
    void (*latent_write)(struct sl_backend *b, const struct sl_latent_view *kv,
                         const struct sl_seq_view *seqs, int n_seqs, const float *x);
    void (*latent_attention)(struct sl_backend *b, const struct sl_latent_view *kv,
                             const struct sl_seq_view *seqs, int n_seqs, const float *q,
                             const struct sl_attn *a, float *out);

    /* One product per head: out[i][h] = w[h] * x[i][h], all w of one shape. Head h of row i begins
     * at x + i*x_stride + h*x_head and out + i*out_stride + h*out_head (floats). */
    void (*head_matmul)(struct sl_backend *b, const struct sl_weight *w, int n_heads,
                        const float *x, int64_t x_stride, int64_t x_head, int n, float *out,
                        int64_t out_stride, int64_t out_head);

    /* Product rows out [n][cols] = act(gate) * up; gate and up are [n][cols]. out may be gate where
     * product rows are float32. */
    void (*glu)(struct sl_backend *b, enum sl_act act, const float *gate, const float *up,
                int64_t n, int64_t cols, void *out);

    /* out[i] += the mixture of x[i], product rows of `dim`. Experts are added in ascending order.
     */
    void (*moe)(struct sl_backend *b, const struct sl_moe *m, const void *x, int n, int dim,
                float *out);

    /* to = scale * from (+ to, with `add`) for n rows of cols elements, each matrix with its stride
     * in floats. from may be to. A scale of 0 writes zeros without reading. */
    void (*mix)(struct sl_backend *b, const float *from, int64_t from_stride, float *to,
                int64_t to_stride, int64_t n, int64_t cols, float scale, int add);
    /* Multiplies product rows y [n][cols] by sigmoid(gain . x), x product rows [n][dim]
     * (Qwen2-MoE's shared expert). */
    void (*weigh_rows)(struct sl_backend *b, const float *gain, const void *x, int n, int dim,
                       void *y, int cols);
    /* out[i] = x[picks[i]], rows of dim. */
    void (*pick)(struct sl_backend *b, const float *x, const int32_t *picks, int n, int dim,
                 float *out);
    /* x = scale * x, then cap * tanh(x / cap) when cap is not 0; [count]. */
    void (*soften)(struct sl_backend *b, float *x, int64_t count, float scale, float cap);

    /* ---- what only a device has; all NULL elsewhere ------------------------------------------ */

    /* Takes what the backend itself needs for steps of this size: *scratch_bytes of it. */
    int (*reserve)(struct sl_backend *b, const struct sl_backend_limits *l, uint64_t *scratch_bytes,
                   struct sl_err *err);
    /* Bytes of it that may still be had from alloc and load. */
    uint64_t (*left)(struct sl_backend *b);
    void *(*alloc)(struct sl_backend *b, size_t bytes,
                   struct sl_err *err); /* zeroed, 256-aligned */
    void (*free)(struct sl_backend *b, void *p);
    /* Ordered with the operations. upload: src may be reused on return, pinned memory after end();
     * download waits. */
    void (*upload)(struct sl_backend *b, void *dst, const void *src, size_t n);
    void (*download)(struct sl_backend *b, void *dst, const void *src, size_t n);
    /* Activations x [n][cols] as they travel (docs/wire.md: F32, BF16; F8_E4M3 is n scales, then n
     * rows of codes) and back. Outside of what is recorded. */
    void (*pack)(struct sl_backend *b, enum sl_dtype type, const float *x, int n, int cols,
                 void *out);
    void (*unpack)(struct sl_backend *b, enum sl_dtype type, const void *in, int n, int cols,
                   float *x);

    /* Begins a step: sends the descriptor. Then either replay() returns 1, the recorded operations
     * of an earlier step of the same size and `key` run again, and the caller gives none; or it
     * returns 0, the caller gives them all, and recorded() ends them. end() waits for all of it. An
     * error of the device comes out of end(). */
    void (*begin)(struct sl_backend *b, struct sl_step *s);
    int (*replay)(struct sl_backend *b, uint32_t key);
    void (*recorded)(struct sl_backend *b);
    int (*end)(struct sl_backend *b, struct sl_err *err);

    /* gate, up and glu in one: product rows out [n][n_ff] =
     * act(x gate^T + gate_bias) * (x up^T + up_bias). */
    void (*gate_up)(struct sl_backend *b, enum sl_act act, const void *x, int n,
                    const struct sl_weight *gate, const float *gate_bias,
                    const struct sl_weight *up, const float *up_bias, void *out);
    /* rmsnorm of each head of q and k (gains NULL: none), rope of both, kv_write of k and v. */
    void (*heads)(struct sl_backend *b, const struct sl_heads *h, const struct sl_kv_view *kv,
                  const struct sl_seq_view *seqs, int n_seqs, const int32_t *pos, int n);
    /* Draws and scores picks [first, first + n) of the step from logits [n][n_vocab] (they are
     * spoiled) as the step says. drawn() and scored() read them after end(): [n_picks]. */
    void (*draw)(struct sl_backend *b, float *logits, int first, int n, int n_vocab);
    const struct sl_drawn *(*drawn)(struct sl_backend *b);
    const float *(*scored)(struct sl_backend *b);
};

/* What a backend is made from. */
struct sl_backend_params {
    const char *kind; /* "ref", or "cpu" (the best row), or a forced row: "portable" "avx2" "avx512"
                         "amx"; "cuda:N": NVIDIA card number N */
    const int *cpus;  /* logical CPUs for the threads, pinned one each (hwloc); NULL: no pinning */
    int n_threads; /* >= 1; the calling thread works as thread 0 and is pinned by sl_backend_enter
                    */
};

/* SLUICE_CPU (environment) overrides kind "cpu". A row that this CPU lacks is SL_EUNSUPPORTED,
 * naming what is there. */
int sl_backend_create(const struct sl_backend_params *p, struct sl_backend **out,
                      struct sl_err *err);
void sl_backend_destroy(struct sl_backend *b);
const struct sl_backend_ops *sl_backend_ops(const struct sl_backend *b);
const char *
sl_backend_row(const struct sl_backend *b); /* "ref", "portable", "avx2", "avx512", "amx" */
enum sl_dtype
sl_backend_kv_type(const struct sl_backend *b); /* the KV format it prefers: ref F32, cpu F16 */
/* Pins the calling thread as thread 0. Call once from the thread that will run the ops. */
void sl_backend_enter(struct sl_backend *b);

/* The rows this CPU can run, best last, for `--help`, tests and `inspect`; *n of them. Always holds
 * "ref" and "portable". */
const char *const *sl_backend_rows(int *n);

/* The number of the card it runs on, -1 for the host. */
int sl_backend_card(const struct sl_backend *b);
/* NVIDIA cards that this build and machine can use: kinds "cuda:0" up to one less. */
int sl_backend_cards(void);

/* Free memory of a card in bytes, less what is left to others. */
uint64_t sl_backend_card_memory(int card);

/* Memory in bytes that the backend's device has free for weights, caches and activations. */
uint64_t sl_backend_memory(const struct sl_backend *b);

/* Measures what this backend reads from memory, bytes per second, streaming `bytes` of weights once
 * per thread set: a first number for the plan. Takes about 50 ms. */
double sl_backend_measure(struct sl_backend *b);

/* Reference decode of n elements (a multiple of the block) of a float or block format to float32:
 * the one definition of each format. Lives in kernels/ref; the fast paths are tested against it. */
void sl_dequantize(enum sl_dtype type, const void *src, float *dst, int64_t n);
/* Row `row` of any matrix in input order (act-order undone): out [cols]. */
void sl_matrix_row(const struct sl_matrix *m, int64_t row, float *out);
float sl_half_to_float(uint16_t h);
uint16_t sl_float_to_half(float f); /* round to nearest even */
float sl_bf16_to_float(uint16_t h);
uint16_t sl_float_to_bf16(float f);

#ifdef __cplusplus
}
#endif
#endif
