/* matmul_scales.c - moves the scales of a row into a tile: layouts in matmul.h, blocks of the files
 * in kernels/ref/dequant.c. */
#include "base/sl_assert.h"
#include "kernels/cpu/matmul_pack.h"
#include "kernels/ref/formats.h"

enum { L = SL_MM_LANES, H = 2 * SL_MM_LANES }; /* bytes of 16 bytes, of 16 halves */

static int64_t groups_of(int64_t cols)
{
    return (cols + SL_MM_GROUP - 1) / SL_MM_GROUP;
}

static size_t blocks_of(int64_t cols, int64_t block)
{
    return (size_t)((cols + block - 1) / block);
}

size_t sl_mm_scale_bytes(enum sl_mm_scales s, int64_t cols, enum sl_dtype type, int64_t block)
{
    size_t g = (size_t)groups_of(cols), super = g / SL_MM_SUPER;
    size_t table = sizeof(struct sl_mm_scale_head);
    switch (s) {
    case SL_MM_NONE:
        break;
    case SL_MM_D:
        return g * H;
    case SL_MM_DM:
        return g * 2 * H;
    case SL_MM_K:
    case SL_MM_K2:
        return super * 2 * H + g * 2 * L;
    case SL_MM_K16:
        return super * H + g * 2 * L;
    case SL_MM_K32:
        return super * H + g * L;
    case SL_MM_E32:
        return g * L;
    case SL_MM_E16:
        return g * 2 * L;
    case SL_MM_S:
        return table + blocks_of(cols, block) * (L * (size_t)sl_dtype_block_bytes(type));
    case SL_MM_SZ:
        return table + blocks_of(cols, block) * (L * (size_t)(sl_dtype_block_bytes(type) + 1));
    }
    return 0;
}

/* ---- blocks of GGUF -------------------------------------------------------------------------- */

/* The 6-bit scale and minimum of sub-block j of Q4_K and Q5_K; s is the 12-byte table. */
static void k_scale(const uint8_t *s, int j, uint8_t *scale, uint8_t *min)
{
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (uint8_t)((s[j + 4] & 15) | s[j - 4] >> 6 << 4);
        *min = (uint8_t)(s[j + 4] >> 4 | s[j] >> 6 << 4);
    }
}

/* The 6-bit scale t of 16 of Q3_K, minus 32; s is the 12-byte table. */
static int q3_scale(const uint8_t *s, int t)
{
    return ((s[t % 8] >> 4 * (t / 8) & 15) | (s[8 + t % 4] >> 2 * (t / 4) & 3) << 4) - 32;
}

/* Of a super-block b: its halves to `super`, its scales and minima of 8 groups to `sub`. */
static void put_super(enum sl_dtype type, const uint8_t *b, uint8_t *super, uint8_t *sub)
{
    switch (type) {
    case SL_Q4_K:
    case SL_Q5_K:
        memcpy(super, b, 2);
        memcpy(super + H, b + 2, 2);
        for (int j = 0; j < 8; j++) k_scale(b + 4, j, sub + j * 2 * L, sub + j * 2 * L + L);
        break;
    case SL_Q2_K:
        memcpy(super, b + 80, 2);
        memcpy(super + H, b + 82, 2);
        for (int j = 0; j < 16; j++) sub[j * L] = b[j];
        break;
    case SL_Q3_K:
        memcpy(super, b + 108, 2);
        for (int j = 0; j < 16; j++) sub[j * L] = (uint8_t)q3_scale(b + 96, j);
        break;
    case SL_Q6_K:
        memcpy(super, b + 208, 2);
        for (int j = 0; j < 16; j++) sub[j * L] = b[192 + j];
        break;
    case SL_IQ4_XS:
        memcpy(super, b, 2);
        for (int j = 0; j < 8; j++)
            sub[j * L] = (uint8_t)(((b[4 + j / 2] >> 4 * (j & 1) & 15) |
                                    ((b[2 + j / 4] >> 2 * (j % 4) & 3) << 4)) -
                                   32);
        break;
    default:
        SL_ASSERT(!"a format of 256");
    }
}

static void put_supers(enum sl_dtype type, enum sl_mm_scales kind, const uint8_t *row,
                       int64_t groups, int lane, uint8_t *at)
{
    int64_t supers = groups / SL_MM_SUPER, bytes = sl_dtype_block_bytes(type);
    int64_t head = kind == SL_MM_K || kind == SL_MM_K2 ? 2 * H : H;
    int64_t tail = SL_MM_SUPER * (kind == SL_MM_K32 ? L : 2 * L);
    for (int64_t s = 0; s < supers; s++)
        put_super(type, row + s * bytes, at + s * head + lane * 2,
                  at + supers * head + s * tail + lane);
}

/* ---- scales that lie beside ------------------------------------------------------------------ */

/* A scale of kind S. In E4M3's tiles the codes are read as halves, 2^8 smaller than they are; the
 * table of E2M1 is doubled. */
static void put_table(const struct sl_matrix *m, int layout, enum sl_dtype type, int64_t block,
                      int64_t row, int lane, uint8_t *at)
{
    int64_t n = (int64_t)blocks_of(m->cols, block), stored = sl_matrix_stored_row(m, row);
    int64_t first = stored / m->scale_rows * sl_matrix_scales_per_row(m);
    int bytes = sl_dtype_block_bytes(type), with_zeros = sl_mm_format(layout)->scales == SL_MM_SZ;
    float unit = layout == SL_TILE_E4M3 ? 256.0f : layout == SL_TILE_F4 ? 0.5f : 1.0f;
    if (lane == 0) {
        struct sl_mm_scale_head head = {.type = type, .cols = block, .n = n};
        while (((int64_t)SL_MM_GROUP << head.shift) < block) head.shift++;
        if (m->codebook) memcpy(head.codebook, m->codebook, sizeof head.codebook);
        memcpy(at, &head, sizeof head);
    }
    at += sizeof(struct sl_mm_scale_head);
    for (int64_t i = 0; i < n; i++) {
        uint8_t *to = at + (i * L + lane) * bytes;
        if (type == SL_F32) {
            float f = m->scales ? sl_matrix_scale(m, first + i) * unit : unit;
            memcpy(to, &f, sizeof f);
        } else {
            memcpy(to, (const uint8_t *)m->scales + (first + i) * bytes, (size_t)bytes);
        }
        if (with_zeros) at[n * L * bytes + i * L + lane] = m->zeros ? m->zeros[first + i] : 0;
    }
}

/* One byte for each `per` k of MXFP4 and NVFP4, from blocks or from a table. The sign of an E4M3
 * scale does not count, and ggml's NVFP4 reads its NaN as 0. */
static void put_bytes(const struct sl_matrix *m, int per, int64_t row, int lane, uint8_t *at)
{
    const uint8_t *data = sl_matrix_row_data(m, row), *table = m->scales;
    int64_t stored = sl_matrix_stored_row(m, row);
    if (table) table += stored / m->scale_rows * sl_matrix_scales_per_row(m);
    for (int64_t i = 0; i * per < m->cols; i++) {
        uint8_t b = table ? table[i] : per == 32 ? data[i * 17] : data[i / 4 * 36 + i % 4];
        if (per == 16) b &= 0x7f;
        if (m->type == SL_NVFP4 && b == 0x7f) b = 0;
        at[i * L + lane] = b;
    }
}

void sl_mm_put_scales(const struct sl_matrix *m, int layout, enum sl_dtype type, int64_t block,
                      int64_t row, int lane, uint8_t *at)
{
    enum sl_mm_scales kind = sl_mm_format(layout)->scales;
    const uint8_t *data = sl_matrix_row_data(m, row);
    int64_t groups = groups_of(m->cols), bytes = sl_dtype_block_bytes(m->type);
    switch (kind) {
    case SL_MM_NONE:
        break;
    case SL_MM_D:
        for (int64_t g = 0; g < groups; g++) memcpy(at + g * H + lane * 2, data + g * bytes, 2);
        break;
    case SL_MM_DM:
        for (int64_t g = 0; g < groups; g++) {
            memcpy(at + g * 2 * H + lane * 2, data + g * bytes, 2);
            memcpy(at + g * 2 * H + H + lane * 2, data + g * bytes + 2, 2);
        }
        break;
    case SL_MM_K:
    case SL_MM_K2:
    case SL_MM_K16:
    case SL_MM_K32:
        put_supers(m->type, kind, data, groups, lane, at);
        break;
    case SL_MM_E32:
    case SL_MM_E16:
        put_bytes(m, kind == SL_MM_E32 ? 32 : 16, row, lane, at);
        break;
    case SL_MM_S:
    case SL_MM_SZ:
        put_table(m, layout, type, block, row, lane, at);
        break;
    }
}
