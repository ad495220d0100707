/* ops.h - the seam between the operations (portable C: loops over rows, tasks, threads) and their
 * vector kernels.
 *
 * An operation's file decides what is computed in which order; a row's kernels say how. A kernel's
 * arithmetic for one output never depends on how many others it computes in the same call: that is
 * what makes a prompt's bits the same in chunks and in batches. Different rows (AVX2, AVX-512) may
 * differ in the last bits. Private to kernels/. */
#ifndef SL_KERNELS_CPU_OPS_H
#define SL_KERNELS_CPU_OPS_H

#include "kernels/cpu/cpu.h"

#define SL_HEAD_DIM_MAX 512 /* elements of a head */
#define SL_KEY_TILE                                                                                \
    64                 /* keys attended at a time; tiles lie at absolute positions 0, 64, 128 ...  \
                        */
#define SL_HEAD_PAD 16 /* padded heads are multiples of it, elements */

struct sl_op_row {
    const char *name; /* "portable", "avx2", "avx512" */
    uint32_t caps;    /* enum sl_cpu_cap bits it needs */

    /* One row: out = x / sqrt(mean(x^2) + eps) * gain. out may be x. */
    void (*rmsnorm)(const float *x, const float *gain, float eps, int dim, float *out);
    /* One head in place; cs holds `half` cosines, then `half` sines. */
    void (*rope_neox)(float *x, const float *cs, int half);  /* pairs (i, i + half) */
    void (*rope_pairs)(float *x, const float *cs, int half); /* pairs (2i, 2i + 1) */
    void (*glu)(enum sl_act act, const float *gate, const float *up, int64_t n, float *out);
    void (*to_f16)(const float *x, int n, uint16_t *out); /* round to nearest even */
    void (*to_bf16)(const float *x, int n, uint16_t *out);

    /* Attention over a tile of n <= SL_KEY_TILE keys; at[i] points to key i's first element in the
     * cache, of `type`. pack_k: element e of a key lies e * stride further; when stride is a
     * multiple of 16, so does every sixteenth key begin sixteen readable neighbours.
     * kt[d][SL_KEY_TILE] = the tile; columns beyond n do not matter. pack_v: elements are
     * neighbours. v[n][dp], dp = d rounded up to SL_HEAD_PAD, filled up with zeros. */
    void (*pack_k)(enum sl_dtype type, const void *const *at, int n, int d, int stride, float *kt);
    void (*pack_v)(enum sl_dtype type, const void *const *at, int n, int d, int dp, float *v);
    /* c[rows][cols] (+)= a[rows][depth] * b[depth][cols]; cols a multiple of 16; each c is one
     * chain of additions in order of depth. */
    void (*mad_tile)(const float *a, int lda, const float *b, int ldb, float *c, int ldc, int rows,
                     int depth, int cols, int add);
    void (*softcap)(float *s, float cap, int n); /* s = cap * tanh(s / cap); n a multiple of 16 */
    /* Online softmax in powers of two of `rows` rows of scores, s[r][SL_KEY_TILE], of which row r
     * has the first keys[r] >= 1: they become 2^(s - m'), m' = max(m, max s); c[r] = 2^(m - m');
     * sum[r] = sum[r] * c[r] + their sum; m[r] = m'. */
    void (*softmax)(float *s, int rows, const int *keys, float *m, float *sum, float *c);
    /* The two products of few rows straight from the cache, with the bits of pack_* and mad_tile;
     * NULL when a row lacks them. d and stride are multiples of 16; all rows see all n keys.
     * s[rows][SL_KEY_TILE] = q * keys; o += s * values. */
    void (*mad_keys)(enum sl_dtype type, const float *q, int ldq, const void *const *at, int n,
                     int d, int stride, float *s, int rows);
    void (*mad_values)(enum sl_dtype type, const float *s, const void *const *at, int n, int d,
                       float *o, int ldo, int rows);
    void (*scale)(float *x, float by, int n); /* n a multiple of 16 */
};

/* Worst first, all that were compiled for this architecture; *n of them. cpu/ops.c */
const struct sl_op_row *const *sl_op_rows(int *n);
extern const struct sl_op_row sl_op_row_portable, sl_op_row_avx2, sl_op_row_avx512;

/* Sines and cosines of a batch and one set of frequencies: the same for many layers, so computed
 * once a step. */
#define SL_ROPE_TABLES 2
struct sl_rope_table {
    struct sl_scratch cs, key; /* key: the positions and frequencies that cs was made of */
    int n, half;
    float scale;
    uint64_t used; /* when last, in calls */
};
void sl_rope_table_close(struct sl_rope_table *t);

/* The operations, one file each; contracts in kernels.h. */
void sl_cpu_embed(struct sl_backend *b, const struct sl_weight *w, const int32_t *ids, int n,
                  float *out);
void sl_cpu_rmsnorm(struct sl_backend *b, const float *x, const float *gain, float eps, int n,
                    int dim, float *out);
void sl_cpu_rope(struct sl_backend *b, const struct sl_rope *r, const struct sl_rope_part *parts,
                 int n_parts, const int32_t *pos, int n);
void sl_cpu_kv_write(struct sl_backend *b, const struct sl_kv_view *kv,
                     const struct sl_seq_view *seqs, int n_seqs, const float *k, const float *v);
void sl_cpu_attention(struct sl_backend *b, const struct sl_kv_view *kv,
                      const struct sl_seq_view *seqs, int n_seqs, const float *q,
                      const struct sl_attn *a, void *out);
void sl_cpu_latent_write(struct sl_backend *b, const struct sl_latent_view *kv,
                         const struct sl_seq_view *seqs, int n_seqs, const float *x);
void sl_cpu_latent_attention(struct sl_backend *b, const struct sl_latent_view *kv,
                             const struct sl_seq_view *seqs, int n_seqs, const float *q,
                             const struct sl_attn *a, float *out);
void sl_cpu_head_matmul(struct sl_backend *b, const struct sl_weight *w, int n_heads,
                        const float *x, int64_t x_stride, int64_t x_head, int n, float *out,
                        int64_t out_stride, int64_t out_head);
void sl_cpu_glu(struct sl_backend *b, enum sl_act act, const float *gate, const float *up,
                int64_t n, int64_t cols, void *out);

/* sl_mm_run_items on the backend's threads. */
void sl_cpu_multiply(struct sl_backend *b, const float *x, int n, const struct sl_mm_item *items,
                     int n_items);

/* Runs fn on the pool when `work` (elements, or multiply-adds) is worth waking it for, else on this
 * thread alone. */
#define SL_INLINE_WORK_MAX 32768
void sl_cpu_run(struct sl_backend *b, int64_t work, sl_pool_fn fn, void *arg);

#endif
