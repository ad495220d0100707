/* kernels.h - every operation once: arguments, shapes, contract. Raw pointers and sizes; no engine
 * types.
 *
 * Two backends fill the same table: `ref` (plain float C, slow and right, the oracle) and `cpu`
 * (the best row this CPU has: portable, AVX2, AVX-512 VNNI/BF16, AMX). All matrices are row-major,
 * activations are float32.
 *
 * Contract of every backend:
 *  - a row's result does not depend on the other rows of the call, on their number, or on the
 * number of threads: a prompt gives the same bits alone, in a batch, in chunks and on any number of
 * stages;
 *  - no allocation after sl_backend_create / load except a scratch that grows to the largest call
 * seen;
 *  - pointers of activations are 64-byte aligned; row strides equal the row length unless a stride
 * is passed;
 *  - calls come from one thread at a time per backend; the backend spreads the work over its own
 * pinned threads. */
#ifndef SL_KERNELS_KERNELS_H
#define SL_KERNELS_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

struct sl_backend; /* opaque: ops, threads, scratch */

/* A matrix [rows N out, cols K in] (or a vector as one row) as the backend keeps it. Filled by
 * sl_weight_load. */
struct sl_weight {
    enum sl_dtype type; /* format in the file */
    int64_t rows, cols;
    const void *data; /* the file's bytes, row-major blocks; NULL when only `packed` is kept */
    void *packed; /* the backend's own layout of the same values (quants unchanged, permuted), or
                     NULL */
    size_t packed_bytes;
    int layout; /* backend-private tag of `packed` */
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

/* One sequence's share of a micro-batch: rows [row, row+n) of the activations, positions
 * pos..pos+n-1. */
struct sl_seq_view {
    int row, n;
    int pos;
    const int32_t *blocks; /* its block table; entry p/block_tokens holds position p */
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

struct sl_backend_ops {
    const char *name; /* "ref", "cpu" */

    /* Makes *w of `data` (file layout). On return w->data is NULL when the bytes were repacked and
     * the caller may unmap them, else it is `data` and must stay. SL_USE_EMBED keeps rows
     * addressable for embed(); SL_USE_MATMUL packs. */
    int (*load)(struct sl_backend *b, enum sl_use use, enum sl_dtype type, int64_t rows,
                int64_t cols, const void *data, struct sl_weight *w, struct sl_err *err);
    void (*unload)(struct sl_backend *b, struct sl_weight *w);

    /* out[i][cols] = row ids[i] of w, i < n. ids are in range (checked by the caller). */
    void (*embed)(struct sl_backend *b, const struct sl_weight *w, const int32_t *ids, int n,
                  float *out);

    /* out[i][dim] = x[i] / sqrt(mean(x[i]^2) + eps) * gain. out may be x. (Zhang & Sennrich 2019)
     */
    void (*rmsnorm)(struct sl_backend *b, const float *x, const float *gain, float eps, int n,
                    int dim, float *out);

    /* Up to 4 products of one input x [n][cols]; n may be 0. */
    void (*matmul)(struct sl_backend *b, const float *x, int n, const struct sl_product *p,
                   int n_products);

    /* Rotates q [n][n_heads*head_dim] and k [n][n_kv_heads*head_dim] in place: pair i of `dims`/2
     * turns by pos[row] * inv_freq[i]. neox: pairs (i, i+dims/2), else (2i, 2i+1). (Su et al. 2021)
     */
    void (*rope)(struct sl_backend *b, float *q, int n_heads, float *k, int n_kv_heads,
                 int head_dim, int dims, int neox, const float *inv_freq, const int32_t *pos,
                 int n);

    /* Stores k, v rows [n][n_kv_heads*head_dim] of all sequences at their positions. */
    void (*kv_write)(struct sl_backend *b, const struct sl_kv_view *kv,
                     const struct sl_seq_view *seqs, int n_seqs, const float *k, const float *v);

    /* Causal attention of rows q [n][n_heads*head_dim] over each sequence's own cache, which
     * already holds this batch's rows: out [n][n_heads*head_dim]. Query head h reads KV head h /
     * (n_heads/n_kv_heads). (Ainslie et al. 2023) */
    void (*attention)(struct sl_backend *b, const struct sl_kv_view *kv,
                      const struct sl_seq_view *seqs, int n_seqs, const float *q, int n_heads,
                      float scale, float *out);

    /* out[i] = silu(gate[i]) * up[i], i < count. out may be gate. (Shazeer 2020) */
    void (*swiglu)(struct sl_backend *b, const float *gate, const float *up, int64_t count,
                   float *out);
};

/* What a backend is made from. */
struct sl_backend_params {
    const char *kind; /* "ref", or "cpu" (the best row), or a forced row: "portable" "avx2" "avx512"
                         "amx" */
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

/* Measures what this backend reads from memory, bytes per second, streaming `bytes` of weights once
 * per thread set: a first number for the plan. Takes about 50 ms. */
double sl_backend_measure(struct sl_backend *b);

/* Reference decode of n elements (a multiple of the block) of any format to float32: the one
 * definition of each format. Lives in kernels/ref; the fast paths are tested against it. */
void sl_dequantize(enum sl_dtype type, const void *src, float *dst, int64_t n);
float sl_half_to_float(uint16_t h);
uint16_t sl_float_to_half(float f); /* round to nearest even */
float sl_bf16_to_float(uint16_t h);
uint16_t sl_float_to_bf16(float f);

#ifdef __cplusplus
}
#endif
#endif
