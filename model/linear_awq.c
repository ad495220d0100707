/* linear_awq.c - AWQ: 4-bit codes with a zero point per group, transposed and interleaved.
 *
 * "gemm": words of eight outputs for one input, [in, out/8], where nibble i of a word is output
 * 0 2 4 6 1 3 5 7 [i] of its eight; zero points alike, [groups, out/8]; scales [groups, out]. All
 * are brought into rows. "gemv": [out, in/8] in natural order, which is used as it is; only its
 * padded scales and zero points are copied. w = (q - z) * s, nothing added to z. (Lin et al. 2023;
 * layout of AutoAWQ.) */
#include <inttypes.h>
#include <string.h>

#include "base/sl_assert.h"
#include "model/linear_part.h"

#define BITS 4
#define PER_WORD 8
#define TILE_WORDS 16 /* a cache line of each input */
#define TILE_COLS 128 /* a cache line of each output */

static const int output_of_nibble[PER_WORD] = {0, 2, 4, 6, 1, 3, 5, 7};

/* Codes of `n` inputs from k on, for `nw` words from w on; tiles of our own on both sides, because
 * rows lie powers of two apart and would share one set of the cache. */
static void turn_tile(const uint32_t *in, int64_t words, int64_t w, int64_t nw, int64_t k,
                      int64_t n, int64_t cols, uint8_t *out)
{
    uint32_t from[TILE_COLS][TILE_WORDS], to[TILE_WORDS * PER_WORD][TILE_COLS / PER_WORD];
    for (int64_t i = 0; i < n; i++)
        memcpy(from[i], in + (k + i) * words + w, (size_t)nw * sizeof from[i][0]);
    for (int64_t i = 0; i < n; i += PER_WORD)
        for (int64_t c = 0; c < nw; c++) {
            uint32_t v[PER_WORD];
            for (int e = 0; e < PER_WORD; e++) v[e] = from[i + e][c];
            sl_turn_nibbles(v);
            for (int e = 0; e < PER_WORD; e++)
                to[c * PER_WORD + output_of_nibble[e]][i / PER_WORD] = v[e];
        }
    for (int64_t r = 0; r < nw * PER_WORD; r++)
        memcpy(out + ((w * PER_WORD + r) * cols + k) / 2, to[r], (size_t)n / 2);
}

static void turn_codes(const uint32_t *in, int64_t rows, int64_t cols, uint8_t *out)
{
    int64_t words = rows / PER_WORD;
    for (int64_t k = 0; k < cols; k += TILE_COLS)
        for (int64_t w = 0; w < words; w += TILE_WORDS)
            turn_tile(in, words, w, SL_MIN(TILE_WORDS, words - w), k, SL_MIN(TILE_COLS, cols - k),
                      cols, out);
}

/* [groups, rows/8] words to [rows, groups] bytes; without the tensor the middle, 8. */
static int turn_zeros(struct sl_linear_job *j, int64_t groups, uint8_t *out)
{
    struct sl_piece z;
    int64_t words = j->rows / PER_WORD;
    int r = sl_job_take(j, ".qzeros", 1, &z);
    if (!r && z.t) r = sl_job_shape(j, &z, groups, words);
    if (!r && z.t && z.type != SL_I32)
        r = sl_job_bad(j, z.t, SL_EINPUT, "zero points of type %s, I32 is wanted", z.t->type_name);
    if (r) return r;
    const uint32_t *in = (const uint32_t *)z.data;
    for (int64_t g = 0; g < groups; g++)
        for (int64_t w = 0; w < words; w++)
            for (int i = 0; i < PER_WORD; i++) {
                int64_t row = w * PER_WORD + output_of_nibble[i];
                out[row * groups + g] = in ? in[g * words + w] >> BITS * i & 15 : PER_WORD;
            }
    sl_job_drop(j, &z);
    return 0;
}

static int open_gemm(struct sl_linear_job *j, struct sl_piece *q)
{
    struct sl_piece s;
    int64_t groups = 0, size = j->cols;
    int r = sl_job_shape(j, q, j->cols, j->rows / PER_WORD);
    if (!r) r = sl_job_group_scales(j, &s, &groups, &size);
    if (r) return r;
    uint8_t *codes = sl_job_alloc(j, (uint64_t)(j->rows * j->cols / 2));
    uint8_t *zeros = codes ? sl_job_alloc(j, (uint64_t)(j->rows * groups)) : NULL;
    void *scales = zeros ? sl_job_alloc(j, s.bytes) : NULL;
    if (!scales) return SL_ENOMEM;
    r = turn_zeros(j, groups, zeros);
    if (r) return r;
    turn_codes((const uint32_t *)q->data, j->rows, j->cols, codes);
    sl_transpose(s.data, scales, groups, j->rows, sl_dtype_block_bytes(s.type));
    j->out->m = sl_job_matrix(j, SL_U4, codes);
    j->out->m.zeros = zeros;
    j->out->m.scales = scales;
    j->out->m.scale_type = s.type;
    j->out->m.scale_cols = size;
    sl_job_drop(j, q);
    sl_job_drop(j, &s);
    return 0;
}

/* The group size that makes `padded` scales of a row, padded to whole words of zero points. */
static int gemv_groups(const struct sl_linear_job *j, const struct sl_piece *s, int64_t *groups,
                       int64_t *size)
{
    static const int sizes[] = {128, 64, 32};
    int64_t named = sl_linear_config_int(j->w, "group_size");
    for (size_t i = 0; i < SL_ARRAY_LEN(sizes); i++) {
        int64_t g = named > 0 ? named : sizes[i], n = (j->cols + g - 1) / g;
        if (s->ne[0] < n || s->ne[0] % PER_WORD) continue;
        if (named <= 0 && s->ne[0] >= n + 4 * PER_WORD) continue; /* too much padding for this g */
        *groups = n;
        *size = g;
        return 0;
    }
    return sl_job_bad(j, s->t, SL_EINPUT,
                      "%" PRId64 " scales to a row of %" PRId64 " columns; config.json and weights "
                      "are of different models",
                      s->ne[0], j->cols);
}

static int open_gemv(struct sl_linear_job *j, struct sl_piece *q)
{
    struct sl_piece s, z;
    int64_t groups = 0, size = 0;
    int r = sl_job_shape(j, q, j->rows, j->cols / PER_WORD);
    if (!r) r = sl_job_take(j, ".scales", 0, &s);
    if (!r) r = sl_job_shape(j, &s, j->rows, s.ne[0]);
    if (!r) r = sl_check_scales(j, &s);
    if (!r) r = gemv_groups(j, &s, &groups, &size);
    if (!r) r = sl_job_take(j, ".qzeros", 0, &z);
    if (!r) r = sl_job_shape(j, &z, j->rows, s.ne[0] / PER_WORD);
    if (!r && z.type != SL_I32)
        r = sl_job_bad(j, z.t, SL_EINPUT, "zero points of type %s, I32 is wanted", z.t->type_name);
    if (r) return r;
    int64_t bytes = sl_dtype_block_bytes(s.type), padded = s.ne[0];
    uint8_t *zeros = sl_job_alloc(j, (uint64_t)(j->rows * groups));
    uint8_t *scales = zeros ? sl_job_alloc(j, (uint64_t)(j->rows * groups * bytes)) : NULL;
    if (!scales) return SL_ENOMEM;
    for (int64_t n = 0; n < j->rows; n++) {
        memcpy(scales + n * groups * bytes, s.data + n * padded * bytes, (size_t)(groups * bytes));
        sl_unpack_words((const uint32_t *)z.data + n * (padded / PER_WORD), BITS, groups,
                        zeros + n * groups);
    }
    sl_job_drop(j, &s);
    sl_job_drop(j, &z);
    j->out->m = sl_job_matrix(j, SL_U4, q->data);
    j->out->m.zeros = zeros;
    j->out->m.scales = scales;
    j->out->m.scale_type = s.type;
    j->out->m.scale_cols = size;
    return 0;
}

int sl_linear_awq(struct sl_linear_job *j)
{
    struct sl_piece q;
    const char *version = sl_linear_config_text(j->w, "version");
    int gemv = strcmp(version, "gemv") == 0 || strcmp(version, "GEMV") == 0;
    int r = sl_job_take(j, ".qweight", 0, &q);
    if (r) return r;
    if (q.type != SL_I32)
        return sl_job_bad(j, q.t, SL_EUNSUPPORTED,
                          "AWQ codes of type %s (gemv_fast or llm-awq) are not run here; use the "
                          "model in AWQ's \"gemm\" version",
                          q.t->type_name);
    if (j->rows % PER_WORD || j->cols % PER_WORD)
        return sl_job_bad(j, q.t, SL_EINPUT,
                          "%" PRId64 " x %" PRId64 " does not divide into words of eight codes",
                          j->rows, j->cols);
    return gemv ? open_gemv(j, &q) : open_gemm(j, &q);
}
