/* matmul_codes.c - moves the codes of a row into a tile: layouts in matmul.h, blocks of the files
 * in kernels/ref/dequant.c.
 *
 * Two steps, so that a format says only what it is: the file's codes of 32 elements, one byte each,
 * and from there to the words of a tile. */
#include "base/sl_assert.h"
#include "kernels/cpu/matmul_pack.h"

enum { WORD = 64 }; /* bytes: 16 lanes x 4 */

/* ---- codes of one group, one byte per element, as the file holds them ------------------------ */

static uint32_t load32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static void store32(void *p, uint32_t v)
{
    memcpy(p, &v, sizeof v);
}

static void nibbles(const uint8_t *b, uint8_t out[SL_MM_GROUP])
{
    for (int i = 0; i < 16; i++) {
        out[i] = b[i] & 15;
        out[i + 16] = b[i] >> 4;
    }
}

static void fifth_bits(uint32_t bits, uint8_t out[SL_MM_GROUP])
{
    for (int i = 0; i < SL_MM_GROUP; i++) out[i] |= (uint8_t)((bits >> i & 1) << 4);
}

/* Group g (of the row) of a row of blocks. */
static void block_codes(enum sl_dtype type, const uint8_t *row, int64_t g, uint8_t out[SL_MM_GROUP])
{
    int block = sl_dtype_block(type), j = (int)(g % (block / SL_MM_GROUP));
    const uint8_t *b = row + g * SL_MM_GROUP / block * sl_dtype_block_bytes(type);
    switch (type) {
    case SL_Q4_0:
        nibbles(b + 2, out);
        break;
    case SL_Q4_1:
        nibbles(b + 4, out);
        break;
    case SL_Q5_0:
        nibbles(b + 6, out);
        fifth_bits(load32(b + 2), out);
        break;
    case SL_Q5_1:
        nibbles(b + 8, out);
        fifth_bits(load32(b + 4), out);
        break;
    case SL_Q8_0:
        for (int i = 0; i < SL_MM_GROUP; i++) out[i] = b[2 + i] ^ 0x80;
        break;
    case SL_IQ4_NL:
        nibbles(b + 2, out);
        break;
    case SL_IQ4_XS:
        nibbles(b + 8 + 16 * j, out);
        break;
    case SL_MXFP4:
        nibbles(b + 1, out);
        break;
    case SL_NVFP4: /* elements i and i + 8 of 16 share a byte */
        for (int i = 0; i < SL_MM_GROUP; i++)
            out[i] = b[4 + 8 * (2 * j + i / 16) + i % 8] >> 4 * (i % 16 / 8) & 15;
        break;
    case SL_Q2_K:
        for (int i = 0; i < SL_MM_GROUP; i++) out[i] = b[16 + 32 * (j / 4) + i] >> 2 * (j % 4) & 3;
        break;
    case SL_Q3_K:
        for (int i = 0; i < SL_MM_GROUP; i++)
            out[i] =
                (uint8_t)((b[32 + 32 * (j / 4) + i] >> 2 * (j % 4) & 3) | (b[i] >> j & 1) << 2);
        break;
    case SL_Q4_K:
    case SL_Q5_K: {
        const uint8_t *qs = b + (type == SL_Q4_K ? 16 : 48) + 32 * (j / 2);
        for (int i = 0; i < SL_MM_GROUP; i++) out[i] = qs[i] >> (j & 1) * 4 & 15;
        if (type == SL_Q5_K)
            for (int i = 0; i < SL_MM_GROUP; i++) out[i] |= (uint8_t)((b[16 + i] >> j & 1) << 4);
        break;
    }
    case SL_Q6_K: {
        int half = j / 4, quarter = j % 4; /* of 128 elements */
        const uint8_t *ql = b + 64 * half + 32 * (quarter & 1), *qh = b + 128 + 32 * half;
        for (int i = 0; i < SL_MM_GROUP; i++)
            out[i] =
                (uint8_t)((ql[i] >> (quarter >> 1) * 4 & 15) | (qh[i] >> quarter * 2 & 3) << 4);
        break;
    }
    default:
        SL_ASSERT(!"a quantized format");
    }
}

/* Group g of a row of a planar matrix; what lies past the row is zero. */
static void planar_codes(const struct sl_matrix *m, int layout, const uint8_t *row, int64_t g,
                         uint8_t out[SL_MM_GROUP])
{
    int64_t k0 = g * SL_MM_GROUP, n = SL_MIN(m->cols - k0, (int64_t)SL_MM_GROUP);
    uint8_t flip = m->type == SL_I8 ? 0x80 : 0; /* two's complement to value + 128 */
    memset(out, 0, SL_MM_GROUP);
    SL_ASSERT(sl_mm_code_k(sl_mm_format(layout)->codes) == SL_MM_GROUP);
    for (int64_t i = 0; i < n; i++)
        out[i] = sl_dtype_block(m->type) == 2 ? row[(k0 + i) / 2] >> 4 * (i & 1) & 15
                                              : row[k0 + i] ^ flip;
}

/* ---- to the words of a tile ------------------------------------------------------------------ */

/* Two bits of each code at bit `from`: 4 quads to a word. */
static void put_pairs(const uint8_t codes[SL_MM_GROUP], int from, uint8_t *at)
{
    for (int h = 0; h < 2; h++) {
        uint32_t word = 0;
        for (int i = 0; i < 4; i++)
            word |= (load32(codes + 16 * h + 4 * i) >> from & 0x03030303) << 2 * i;
        store32(at + h * WORD, word);
    }
}

/* One bit of each code: 8 quads to a word. */
static void put_bits(const uint8_t codes[SL_MM_GROUP], int from, uint8_t *at)
{
    uint32_t word = 0;
    for (int j = 0; j < 8; j++) word |= (load32(codes + 4 * j) >> from & 0x01010101) << j;
    store32(at, word);
}

static void put_nibbles(const uint8_t codes[SL_MM_GROUP], uint8_t *at)
{
    for (int j = 0; j < 4; j++)
        store32(at + j * WORD, (load32(codes + 4 * j) & 0x0f0f0f0f) |
                                   (load32(codes + 16 + 4 * j) & 0x0f0f0f0f) << 4);
}

/* One lane of one group: codes[32] to its 4 bytes of each word. `at` is lane's place in the group's
 * first word. */
static void put_group(enum sl_mm_codes kind, const uint8_t codes[SL_MM_GROUP], uint8_t *at)
{
    switch (kind) {
    case SL_MM_C8:
        for (int j = 0; j < 8; j++) store32(at + j * WORD, load32(codes + 4 * j));
        break;
    case SL_MM_C2:
        put_pairs(codes, 0, at);
        break;
    case SL_MM_C3:
        put_pairs(codes, 0, at);
        put_bits(codes, 2, at + 2 * WORD);
        break;
    case SL_MM_C5:
        put_nibbles(codes, at);
        put_bits(codes, 4, at + 4 * WORD);
        break;
    case SL_MM_C6:
        put_nibbles(codes, at);
        put_pairs(codes, 4, at + 4 * WORD);
        break;
    default:
        put_nibbles(codes, at);
        break;
    }
}

/* Float layouts. The last piece may lack elements; `tile` is zeroed. */
static void put_floats(const struct sl_matrix *m, enum sl_mm_codes kind, const uint8_t *row,
                       int lane, uint8_t *tile)
{
    static const uint8_t nibble_of[8] = {0, 1, 4, 5, 2, 3, 6, 7};
    int64_t n = m->cols;
    switch (kind) {
    case SL_MM_F32:
        for (int64_t k = 0; k < n; k++) memcpy(tile + k * WORD + lane * 4, row + k * 4, 4);
        break;
    case SL_MM_F16:
        for (int64_t k = 0; k < n; k++) memcpy(tile + k * WORD / 2 + lane * 2, row + k * 2, 2);
        break;
    case SL_MM_BF16:
        for (int64_t k = 0; k < n; k++)
            memcpy(tile + (k / 4 * 2 + (k & 1)) * WORD + lane * 4 + (k & 2), row + k * 2, 2);
        break;
    case SL_MM_CB4:
        for (int64_t k = 0; k < n; k++) {
            int code = row[k / 2] >> 4 * (k & 1) & 15, to = nibble_of[k % 8];
            tile[k / 8 * WORD + lane * 4 + to / 2] |= (uint8_t)(code << 4 * (to & 1));
        }
        break;
    default: /* E4M3, E5M2 */
        for (int64_t k = 0; k < n; k++)
            tile[k / 4 * WORD + (k & 1) * WORD / 2 + lane * 2 + (k >> 1 & 1)] = row[k];
        break;
    }
}

void sl_mm_put_codes(const struct sl_matrix *m, int layout, int64_t row, int lane, uint8_t *tile)
{
    enum sl_mm_codes kind = sl_mm_format(layout)->codes;
    const uint8_t *data = sl_matrix_row_data(m, row);
    if (sl_mm_is_float(kind)) {
        put_floats(m, kind, data, lane, tile);
        return;
    }
    for (int64_t g = 0; g * SL_MM_GROUP < m->cols; g++) {
        uint8_t codes[SL_MM_GROUP];
        if (sl_dtype_kind(m->type) == SL_KIND_PLANAR)
            planar_codes(m, layout, data, g, codes);
        else
            block_codes(m->type, data, g, codes);
        put_group(kind, codes, tile + g * sl_mm_code_bytes(kind) + lane * 4);
    }
}
