/* linear_part.h - what the files of the linear layer share; private to linear*.c.
 *
 * A scheme is a row: which tensors beside the stem mean it, and a function that fills the matrix.
 * It takes tensors as pieces (already cut to the expert that is wanted), checks their shapes, makes
 * what must be made, and lets go of what the matrix does not point into. */
#ifndef SL_MODEL_LINEAR_PART_H
#define SL_MODEL_LINEAR_PART_H

#include "model/linear.h"

struct json_t;

struct sl_linear_job {
    struct sl_weights *w;
    const char *stem;
    int expert, n_experts; /* -1, 0: a plain layer */
    int64_t rows, cols;
    struct sl_linear *out;
    struct sl_err *err;
};

/* A tensor, or the part of it that belongs to one expert. */
struct sl_piece {
    const struct sl_tensor *t; /* NULL: there is none of this name */
    enum sl_dtype type;
    int n_dims;
    int64_t ne[SL_TENSOR_DIMS_MAX]; /* without the experts' dimension */
    int64_t count;                  /* elements */
    uint64_t bytes;
    const uint8_t *data; /* aligned to its element */
};

/* A scale table or a scale for all. */
struct sl_scales {
    const void *data; /* NULL: only `factor` */
    enum sl_dtype type;
    int64_t rows, cols; /* that share one */
    float factor;
};

/* ---- linear.c -------------------------------------------------------------------------------- */

const struct sl_tensor *sl_linear_find(const struct sl_weights *w, const char *stem,
                                       const char *suffix);
static inline const struct sl_tensor *sl_job_find(const struct sl_linear_job *j, const char *suffix)
{
    return sl_linear_find(j->w, j->stem, suffix);
}

/* The tensor stem+suffix mapped and cut to the expert. Absent: SL_EINPUT, or p->t = NULL and 0 when
 * `optional`. SL_EUNSUPPORTED when its dtype is none of ours. */
int sl_job_take(struct sl_linear_job *j, const char *suffix, int optional, struct sl_piece *p);
/* The matrix does not point into it. */
void sl_job_drop(struct sl_linear_job *j, struct sl_piece *p);
/* Memory of the layer, freed by sl_linear_close; NULL and j->err when there is none. */
void *sl_job_alloc(struct sl_linear_job *j, uint64_t bytes);

/* One line about tensor t of the job: "FILE: tensor NAME: ...". Returns code. */
int sl_job_bad(const struct sl_linear_job *j, const struct sl_tensor *t, int code, const char *fmt,
               ...) __attribute__((format(printf, 4, 5)));
/* Is the piece [n1, n0] (the file's order; trailing and leading ones are ignored)? SL_EINPUT with
 * both shapes. */
int sl_job_shape(const struct sl_linear_job *j, const struct sl_piece *p, int64_t n1, int64_t n0);
/* Its one element as a finite float. */
int sl_job_scalar(const struct sl_linear_job *j, const struct sl_piece *p, float *out);
/* A matrix over the job's shape: one scale, 1. */
struct sl_matrix sl_job_matrix(const struct sl_linear_job *j, enum sl_dtype type, const void *data);

/* quantization_config of config.json (or "quantization" of hf_quant_config.json); NULL without. */
const struct json_t *sl_linear_config(const struct sl_weights *w);
/* A text of that object, "" when absent. */
const char *sl_linear_config_text(const struct sl_weights *w, const char *key);
/* An integer of it, 0 when absent. */
int64_t sl_linear_config_int(const struct sl_weights *w, const char *key);

/* ---- linear_check.c: bytes that must not be what they are ------------------------------------ */

/* Finite scales of any float type, E8M0 without NaN, E4M3 without NaN and sign. */
int sl_check_scales(const struct sl_linear_job *j, const struct sl_piece *p);
/* Codes of 8-bit floats that are NaN or infinite. */
int sl_check_codes(const struct sl_linear_job *j, const struct sl_piece *p, enum sl_dtype type);
/* Scales inside GGUF blocks. */
int sl_check_blocks(const struct sl_linear_job *j, const struct sl_piece *p);

/* ---- linear_repack.c: memory into another order ---------------------------------------------- */

/* out[c][r] = in[r][c] for elements of `size` 1, 2 or 4 bytes. */
void sl_transpose(const void *in, void *out, int64_t rows, int64_t cols, int size);
/* Integers of `bits` in 32-bit words, low bits first; n values from words[0..): codes[i]. With 3
 * bits 32 values span three words; otherwise a value never crosses a word. */
void sl_unpack_words(const uint32_t *words, int bits, int64_t n, uint8_t *codes);
/* 32-bit words that n such values take. */
int64_t sl_words_of(int bits, int64_t n);
/* Two codes to a byte, the even one low. */
void sl_pack_nibbles(const uint8_t *codes, int64_t n, uint8_t *out);
/* Half a row in each nibble of eight words turned: word i of out holds nibble i of in[0..8), in[0]
 * lowest. */
void sl_turn_nibbles(uint32_t v[8]);
/* Act-order: columns sorted by their group, stably. group[cols] in 0..n_groups-1; each group must
 * have `size` columns (the last may have fewer). order[cols]; *sorted says that nothing moves. 0 or
 * SL_EINPUT about tensor t. */
int sl_order_by_group(const struct sl_linear_job *j, const struct sl_tensor *t,
                      const int32_t *group, int64_t n_groups, int64_t size, int32_t *order,
                      int *sorted);

/* ---- linear_ct.c: what other integer schemes use too ------------------------------------------
 */

/* Columns of a group when a row has `groups` scales, from config.json or by division. */
int sl_job_group(const struct sl_linear_job *j, const struct sl_tensor *t, int64_t groups,
                 int64_t *size);
/* The tensor ".scales", one row of outputs a group (AWQ, GPTQ), checked; and its groups. */
int sl_job_group_scales(struct sl_linear_job *j, struct sl_piece *s, int64_t *groups,
                        int64_t *size);
/* The order that an index of groups means; NULL when it is absent or changes nothing. */
int sl_job_order(struct sl_linear_job *j, const char *suffix, int64_t groups, int64_t size,
                 int32_t **order);
/* Rows of words to rows of U4 (up to 4 bits) or U8, columns in `order` (may be NULL). */
int sl_job_unpack(struct sl_linear_job *j, const uint32_t *words, int bits, const int32_t *order,
                  uint8_t **out);

/* ---- the schemes ----------------------------------------------------------------------------- */

int sl_linear_plain(struct sl_linear_job *j);  /* floats and GGUF blocks */
int sl_linear_fused(struct sl_linear_job *j);  /* gpt-oss: floats of all experts, [E, in, out] */
int sl_linear_fp8(struct sl_linear_job *j);    /* 8-bit floats of every maker */
int sl_linear_nvfp4(struct sl_linear_job *j);  /* ModelOpt and compressed-tensors */
int sl_linear_mxfp4(struct sl_linear_job *j);  /* compressed-tensors and others */
int sl_linear_blocks(struct sl_linear_job *j); /* gpt-oss MXFP4 */
int sl_linear_packed(struct sl_linear_job *j); /* compressed-tensors integers in words */
int sl_linear_int8(struct sl_linear_job *j);   /* compressed-tensors and ModelOpt I8 */
int sl_linear_awq(struct sl_linear_job *j);    /* gemm and gemv */
int sl_linear_gptq(struct sl_linear_job *j);   /* v1 and v2 */
int sl_linear_bnb4(struct sl_linear_job *j);   /* bitsandbytes NF4 and FP4 */
int sl_linear_bnb8(struct sl_linear_job *j);   /* bitsandbytes LLM.int8 */

/* A scale table over [j->rows, j->cols] whatever its granularity: one for all, per row, per group
 * of a row, per 128x128 block or the block that config.json names. Checked. */
int sl_job_scales(struct sl_linear_job *j, struct sl_piece *p, struct sl_scales *out);
void sl_job_use_scales(struct sl_matrix *m, const struct sl_scales *s);
/* Sets rows and columns of a block of scales that config.json names; 0 when it names none. */
int sl_config_block(const struct sl_weights *w, int64_t *rows, int64_t *cols);

#endif
