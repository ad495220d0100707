/* linear_repack.c - weights of AWQ, GPTQ and their like brought into rows: transposition,
 * unpacking, act-order.
 *
 * A model is repacked once, while it is loaded: 35 GB of 4-bit codes for 70 billion weights. So
 * loops go in tiles that stay in the first-level cache, and move words rather than nibbles. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "model/linear_part.h"

#define TILE 32 /* rows and columns of a tile */

/* By way of a tile of our own: rows of real matrices lie powers of two apart, so that a column of
 * them would share one set of the cache. */
#define TRANSPOSE(type)                                                                            \
    static void transpose_##type(const type *in, type *out, int64_t rows, int64_t cols)            \
    {                                                                                              \
        type tile[TILE][TILE];                                                                     \
        for (int64_t r0 = 0; r0 < rows; r0 += TILE)                                                \
            for (int64_t c0 = 0; c0 < cols; c0 += TILE) {                                          \
                int64_t nr = SL_MIN(TILE, rows - r0), nc = SL_MIN(TILE, cols - c0);                \
                for (int64_t r = 0; r < nr; r++)                                                   \
                    memcpy(tile[r], in + (r0 + r) * cols + c0, (size_t)nc * sizeof(type));         \
                for (int64_t c = 0; c < nc; c++)                                                   \
                    for (int64_t r = 0; r < nr; r++) out[(c0 + c) * rows + r0 + r] = tile[r][c];   \
            }                                                                                      \
    }
TRANSPOSE(uint8_t)
TRANSPOSE(uint16_t)
TRANSPOSE(uint32_t)

void sl_transpose(const void *in, void *out, int64_t rows, int64_t cols, int size)
{
    SL_ASSERT(size == 1 || size == 2 || size == 4);
    if (size == 1) transpose_uint8_t(in, out, rows, cols);
    if (size == 2) transpose_uint16_t(in, out, rows, cols);
    if (size == 4) transpose_uint32_t(in, out, rows, cols);
}

int64_t sl_words_of(int bits, int64_t n)
{
    if (bits == 3) return (n + 31) / 32 * 3;
    int64_t per_word = 32 / bits;
    return (n + per_word - 1) / per_word;
}

void sl_unpack_words(const uint32_t *words, int bits, int64_t n, uint8_t *codes)
{
    uint32_t mask = (1u << bits) - 1;
    if (bits == 3) { /* one stream of bits over three words; values 10 and 21 cross */
        for (int64_t i = 0; i < n; i += 32, words += 3) {
            unsigned __int128 v =
                (unsigned __int128)words[2] << 64 | (uint64_t)words[1] << 32 | words[0];
            for (int64_t k = i, end = SL_MIN(i + 32, n); k < end; k++, v >>= 3)
                codes[k] = (uint8_t)((uint32_t)v & mask);
        }
        return;
    }
    int per_word = 32 / bits;
    for (; bits == 4 && n >= 8; n -= 8, codes += 8) { /* by far the most frequent width */
        uint64_t v = *words++;
        v = (v | v << 16) & 0x0000ffff0000ffffu;
        v = (v | v << 8) & 0x00ff00ff00ff00ffu;
        v = (v | v << 4) & 0x0f0f0f0f0f0f0f0fu;
        memcpy(codes, &v, sizeof v);
    }
    for (int64_t i = 0; i < n; i += per_word) {
        uint32_t v = *words++;
        for (int64_t k = i, end = SL_MIN(i + per_word, n); k < end; k++, v >>= bits)
            codes[k] = (uint8_t)(v & mask);
    }
}

void sl_pack_nibbles(const uint8_t *codes, int64_t n, uint8_t *out)
{
    for (int64_t i = 0; i + 1 < n; i += 2) out[i / 2] = (uint8_t)(codes[i] | codes[i + 1] << 4);
    if (n % 2) out[n / 2] = codes[n - 1];
}

/* Swaps, in each pair of words that are `step` apart, the fields of `bits` that are on the wrong
 * side of the diagonal. */
static void swap_fields(uint32_t v[8], int step, int bits, uint32_t mask)
{
    for (int i = 0; i < 8; i++) {
        if (i & step) continue;
        uint32_t t = (v[i] >> bits ^ v[i + step]) & mask;
        v[i + step] ^= t;
        v[i] ^= t << bits;
    }
}

void sl_turn_nibbles(uint32_t v[8])
{
    swap_fields(v, 1, 4, 0x0f0f0f0f);
    swap_fields(v, 2, 8, 0x00ff00ff);
    swap_fields(v, 4, 16, 0x0000ffff);
}

int sl_order_by_group(const struct sl_linear_job *j, const struct sl_tensor *t,
                      const int32_t *group, int64_t n_groups, int64_t size, int32_t *order,
                      int *sorted)
{
    *sorted = 1;
    for (int64_t k = 0; k < j->cols; k++) {
        if (group[k] < 0 || group[k] >= n_groups)
            return sl_job_bad(j, t, SL_EINPUT,
                              "column %" PRId64 " is in group %" PRId32 " of %" PRId64
                              "; the file is damaged, download it again",
                              k, group[k], n_groups);
        if (group[k] != k / size) *sorted = 0;
    }
    if (*sorted) return 0;
    int64_t *next = calloc((size_t)n_groups + 1, sizeof *next);
    if (!next)
        return sl_err_set(j->err, SL_ENOMEM, "%s: layer %s: out of memory", sl_weights_path(j->w),
                          j->stem);
    for (int64_t k = 0; k < j->cols; k++) next[group[k] + 1]++;
    int even = 1;
    for (int64_t g = 0; g < n_groups; g++) {
        int64_t want = SL_MIN(size, j->cols - g * size);
        if (next[g + 1] != want) even = 0;
        next[g + 1] += next[g];
    }
    for (int64_t k = 0; k < j->cols && even; k++) order[next[group[k]]++] = (int32_t)k;
    free(next);
    if (even) return 0;
    return sl_job_bad(j, t, SL_EINPUT,
                      "its groups are not of %" PRId64 " columns each; the file is damaged, "
                      "download it again",
                      size);
}
