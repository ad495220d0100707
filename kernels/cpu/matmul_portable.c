/* matmul_portable.c - tiles in plain C: for CPUs without a row of their own, and a second opinion
 * for the tests.
 *
 * Loops run over the 16 lanes innermost, which compilers turn into whatever vectors the target has.
 * Sums are in the order of matmul.h but multiply and add round separately: fmaf without hardware is
 * a library call. */
#include "kernels/cpu/matmul.h"

enum { LANES = SL_MM_LANES };

/* ---- activations ----------------------------------------------------------------------------- */

/* Nearest integer, ties to even, for |f| < 2^22: adding 1.5 * 2^23 leaves it in the low bits. */
static inline int32_t nearest(float f)
{
    float shifted = f + 12582912.0f;
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return bits - 0x4b400000;
}

static void quantize(const struct sl_mm_act *a, const float *x, int row, int64_t from, int64_t to)
{
    for (int64_t g = from; g < to; g++, x += SL_MM_GROUP) {
        int64_t at = g * a->n + row;
        uint32_t top = 0, bits[SL_MM_GROUP];
        memcpy(bits, x, sizeof bits);
        for (int i = 0; i < SL_MM_GROUP; i++) {
            uint32_t m = bits[i] & 0x7fffffff; /* orders like |x|, NaN above infinity */
            top = m > top ? m : top;
        }
        float s, inv;
        sl_mm_scale(top, &s, &inv);
        int8_t *q = a->q + at * SL_MM_Q_BYTES;
        int32_t sum[2] = {0, 0};
        for (int i = 0; i < SL_MM_GROUP; i++) {
            int32_t v = inv != 0 ? nearest(x[i] * inv) : 0;
            int32_t hi = (v + 128) >> 8;
            q[i] = (int8_t)hi;
            q[32 + i] = (int8_t)(v - hi * 256);
            sum[i / 16] += v;
        }
        sl_mm_act_store(a, at, s, sum[0], sum[1]);
    }
}

/* ---- codes and scales of a group ------------------------------------------------------------- */

static const uint8_t e2m1[16] = {SL_MM_E2M1_TABLE};
static const uint8_t iq4[16] = {SL_MM_IQ4_TABLE};

/* The code of quad j, byte b of a lane; p is that byte of the group's first word. */
static inline int code(enum sl_mm_codes kind, const uint8_t *p, int j)
{
    enum { WORD = 64 };
    int nibble = p[WORD * (j & 3)] >> (j & 4) & 15, pair = WORD * (j / 4), bits = 2 * (j & 3);
    switch (kind) {
    case SL_MM_C8:
        return p[WORD * j];
    case SL_MM_C2:
        return p[pair] >> bits & 3;
    case SL_MM_C3:
        return (p[pair] >> bits & 3) | (p[2 * WORD] >> j & 1) << 2;
    case SL_MM_C5:
        return nibble | (p[4 * WORD] >> j & 1) << 4;
    case SL_MM_C6:
        return nibble | (p[4 * WORD + pair] >> bits & 3) << 4;
    case SL_MM_E2M1:
        return e2m1[nibble];
    case SL_MM_IQ4:
        return iq4[nibble];
    default:
        return nibble;
    }
}

/* w[k][lane]: the unsigned codes of a group. */
static inline void unpack(enum sl_mm_codes kind, const uint8_t *p, int16_t w[SL_MM_GROUP][LANES])
{
    for (int j = 0; j < 8; j++)
        for (int b = 0; b < 4; b++)
            for (int i = 0; i < LANES; i++) w[4 * j + b][i] = (int16_t)code(kind, p + 4 * i + b, j);
}

struct factors {
    float scale[2][LANES], min[2][LANES];
};

static float half_at(const uint8_t *p, int lane)
{
    uint16_t h;
    memcpy(&h, p + 2 * lane, sizeof h);
    return sl_half_to_float(h);
}

static float bits_float(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Half of an E8M0 scale: the table is doubled. */
static float e8m0(uint8_t b)
{
    return 0.5f * bits_float(b ? (uint32_t)b << 23 : 0x00400000);
}

static float ue4m3(uint8_t b)
{
    return bits_float((uint32_t)b << 20) * 0x1p119f;
}

/* Block i of a table of kind S. */
static float table_at(const uint8_t *p, int64_t i, int lane)
{
    const struct sl_mm_scale_head *h = sl_mm_scale_head(p);
    uint16_t v;
    float f;
    i = i * LANES + lane;
    p += sizeof *h;
    if (h->type == SL_F32) {
        memcpy(&f, p + 4 * i, sizeof f);
        return f;
    }
    memcpy(&v, p + 2 * i, sizeof v);
    return h->type == SL_F16 ? sl_half_to_float(v) : sl_bf16_to_float(v);
}

static float zero_at(const uint8_t *p, int64_t i, int lane)
{
    const struct sl_mm_scale_head *h = sl_mm_scale_head(p);
    return p[sizeof *h + (size_t)(h->n * LANES * (h->type == SL_F32 ? 4 : 2) + i * LANES + lane)];
}

static void factors_of(enum sl_mm_scales kind, const uint8_t *p, int64_t g, int64_t groups,
                       struct factors *f)
{
    int head = kind == SL_MM_K || kind == SL_MM_K2 ? 64 : 32;
    const uint8_t *super = p + g / SL_MM_SUPER * head;
    const uint8_t *sub = p + groups / SL_MM_SUPER * head + g * (kind == SL_MM_K32 ? 16 : 32);
    int64_t block = kind == SL_MM_S || kind == SL_MM_SZ ? g >> sl_mm_scale_head(p)->shift : 0;
    for (int i = 0; i < LANES; i++) {
        switch (kind) {
        case SL_MM_D:
            f->scale[0][i] = half_at(p + g * 32, i);
            break;
        case SL_MM_DM:
            f->scale[0][i] = half_at(p + g * 64, i);
            f->min[0][i] = half_at(p + g * 64 + 32, i);
            break;
        case SL_MM_K:
            f->scale[0][i] = half_at(super, i) * sub[i];
            f->min[0][i] = -half_at(super + 32, i) * sub[16 + i];
            break;
        case SL_MM_K2:
            for (int h = 0; h < 2; h++) {
                f->scale[h][i] = half_at(super, i) * (float)(sub[16 * h + i] & 15);
                f->min[h][i] = -half_at(super + 32, i) * (float)(sub[16 * h + i] >> 4);
            }
            break;
        case SL_MM_K16:
            f->scale[0][i] = half_at(super, i) * (int8_t)sub[i];
            f->scale[1][i] = half_at(super, i) * (int8_t)sub[16 + i];
            break;
        case SL_MM_K32:
            f->scale[0][i] = half_at(super, i) * (int8_t)sub[i];
            break;
        case SL_MM_E32:
            f->scale[0][i] = e8m0(p[g * 16 + i]);
            break;
        case SL_MM_E16:
            f->scale[0][i] = ue4m3(p[g * 32 + i]);
            f->scale[1][i] = ue4m3(p[g * 32 + 16 + i]);
            break;
        case SL_MM_S:
        case SL_MM_SZ:
            f->scale[0][i] = table_at(p, block, i);
            if (kind == SL_MM_SZ) f->min[0][i] = -f->scale[0][i] * zero_at(p, block, i);
            break;
        case SL_MM_NONE:
            break;
        }
    }
}

/* ---- products -------------------------------------------------------------------------------- */

/* acc += scale*s * (codes [from, to) . v + start) */
static inline void add_dot(int16_t w[SL_MM_GROUP][LANES], int from, int to, const int16_t *v,
                           int32_t start, const float *scale, float s, float *acc)
{
    int32_t sum[LANES];
    for (int i = 0; i < LANES; i++) sum[i] = start;
    for (int k = from; k < to; k++)
        for (int i = 0; i < LANES; i++) sum[i] += (int32_t)w[k][i] * v[k];
    for (int i = 0; i < LANES; i++) acc[i] += scale[i] * s * (float)sum[i];
}

static inline void tile(enum sl_mm_codes codes, enum sl_mm_scales scales, int shift,
                        const uint8_t *c, const uint8_t *p, const struct sl_mm_act *a, int row,
                        int rows, float *acc)
{
    int64_t groups = a->groups;
    int bytes = sl_mm_code_bytes(codes), offset = shift == SL_MM_NO_OFFSET ? 0 : 1 << shift;
    memset(acc, 0, (size_t)rows * LANES * sizeof *acc);
    for (int64_t g = 0; g < groups; g++, c += bytes) {
        int16_t w[SL_MM_GROUP][LANES];
        struct factors f;
        unpack(codes, c, w);
        factors_of(scales, p, g, groups, &f);
        for (int r = 0; r < rows; r++) {
            int64_t at = g * a->n + row + r;
            const int8_t *q = a->q + at * SL_MM_Q_BYTES;
            float *sum = acc + r * LANES, s = a->scale[at];
            int16_t v[SL_MM_GROUP];
            for (int k = 0; k < SL_MM_GROUP; k++) v[k] = (int16_t)(q[k] * 256 + q[32 + k]);
            if (!sl_mm_halves(scales)) {
                add_dot(w, 0, 32, v, a->neg[at] * offset, f.scale[0], s, sum);
                if (sl_mm_has_min(scales))
                    for (int i = 0; i < LANES; i++) sum[i] += f.min[0][i] * a->sum[at];
                continue;
            }
            for (int h = 0; h < 2; h++) {
                int32_t neg = a->neg16[2 * at + h];
                add_dot(w, 16 * h, 16 * h + 16, v, neg * offset, f.scale[h], s, sum);
                if (sl_mm_has_min(scales))
                    for (int i = 0; i < LANES; i++) sum[i] += f.min[h][i] * (s * (float)-neg);
            }
        }
    }
}

#define X(type, kind, scale, shift)                                                                \
    static void tile_##type(const struct sl_mm_span *w, const struct sl_mm_act *a, int row,        \
                            int rows, float *acc)                                                  \
    {                                                                                              \
        for (int i = 0; i < w->tiles; i++)                                                         \
            tile(kind, scale, shift, w->codes + i * w->stride, w->scales + i * w->stride, a, row,  \
                 rows, acc + i * SL_MM_ACC);                                                       \
    }
SL_MM_FORMATS(X)
#undef X

/* ---- float formats: four sums by k mod 4, as the vector rows keep them ----------------------- */

enum { CHAINS = 4 };

static inline float element(enum sl_mm_codes kind, const uint8_t *c, int64_t k, int lane)
{
    float f;
    uint16_t h;
    switch (kind) {
    case SL_MM_F32:
        memcpy(&f, c + 64 * k + 4 * lane, sizeof f);
        return f;
    case SL_MM_F16:
        memcpy(&h, c + 32 * k + 2 * lane, sizeof h);
        return sl_half_to_float(h);
    default:
        memcpy(&h, c + k / 4 * 128 + (k & 1) * 64 + 4 * lane + (k & 2), sizeof h);
        return sl_bf16_to_float(h);
    }
}

static inline void float_tile(enum sl_mm_codes kind, const uint8_t *c, const struct sl_mm_act *a,
                              int row, int rows, float *acc)
{
    float sum[SL_MM_CHUNK][CHAINS][LANES];
    memset(sum, 0, (size_t)rows * sizeof sum[0]);
    for (int64_t k = 0; k < a->cols; k++) {
        float w[LANES];
        for (int i = 0; i < LANES; i++) w[i] = element(kind, c, k, i);
        for (int r = 0; r < rows; r++) {
            float x = a->x[(row + r) * a->cols + k], *to = sum[r][k % CHAINS];
            for (int i = 0; i < LANES; i++) to[i] += w[i] * x;
        }
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < LANES; i++)
            acc[r * LANES + i] = (sum[r][0][i] + sum[r][1][i]) + (sum[r][2][i] + sum[r][3][i]);
}

#define X(type, kind)                                                                              \
    static void tile_##type(const struct sl_mm_span *w, const struct sl_mm_act *a, int row,        \
                            int rows, float *acc)                                                  \
    {                                                                                              \
        for (int i = 0; i < w->tiles; i++)                                                         \
            float_tile(kind, w->codes + i * w->stride, a, row, rows, acc + i * SL_MM_ACC);         \
    }
SL_MM_FLOAT_FORMATS(X)
#undef X

/* ---- small floats: the same four sums for each block of scales ------------------------------- */

/* Element k of a lane; in E4M3 2^-8 of it, as in the vector rows. */
static inline float small_element(enum sl_mm_codes kind, const uint8_t *c, int64_t k, int lane,
                                  const float *codebook)
{
    if (kind == SL_MM_CB4) /* k 0 1 4 5 of 8, then 2 3 6 7 */
        return codebook[c[k / 8 * 64 + lane * 4 + (k & 2) + (k >> 2 & 1)] >> 4 * (k & 1) & 15];
    uint32_t b = c[k / 4 * 64 + (k & 1) * 32 + lane * 2 + (k >> 1 & 1)];
    return sl_half_to_float(
        (uint16_t)(kind == SL_MM_E5M2 ? b << 8 : (b & 0x80) << 8 | (b & 0x7f) << 7));
}

static inline void small_tile(enum sl_mm_codes kind, const uint8_t *c, const uint8_t *p,
                              const struct sl_mm_act *a, int row, int rows, float *acc)
{
    const struct sl_mm_scale_head *h = sl_mm_scale_head(p);
    const float *x = a->x + row * a->cols;
    memset(acc, 0, (size_t)rows * LANES * sizeof *acc);
    for (int64_t b = 0; b < h->n; b++) {
        int64_t to = (b + 1) * h->cols < a->cols ? (b + 1) * h->cols : a->cols;
        float sum[SL_MM_CHUNK][CHAINS][LANES];
        memset(sum, 0, (size_t)rows * sizeof sum[0]);
        for (int64_t k = b * h->cols; k < to; k++) {
            float w[LANES];
            for (int i = 0; i < LANES; i++) w[i] = small_element(kind, c, k, i, h->codebook);
            for (int r = 0; r < rows; r++)
                for (int i = 0; i < LANES; i++) sum[r][k % CHAINS][i] += w[i] * x[r * a->cols + k];
        }
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < LANES; i++) {
                const float(*s)[LANES] = sum[r];
                acc[r * LANES + i] +=
                    table_at(p, b, i) * ((s[0][i] + s[1][i]) + (s[2][i] + s[3][i]));
            }
    }
}

#define X(type, kind)                                                                              \
    static void tile_##type(const struct sl_mm_span *w, const struct sl_mm_act *a, int row,        \
                            int rows, float *acc)                                                  \
    {                                                                                              \
        for (int i = 0; i < w->tiles; i++)                                                         \
            small_tile(kind, w->codes + i * w->stride, w->scales + i * w->stride, a, row, rows,    \
                       acc + i * SL_MM_ACC);                                                       \
    }
SL_MM_SMALL_FORMATS(X)
#undef X

/* ---- the row --------------------------------------------------------------------------------- */

static const struct sl_mm_kernels kernels = {
    .quantize = quantize,
    .tile =
        {
#define X(type, ...) [type] = tile_##type,
            SL_MM_FORMATS(X) SL_MM_FLOAT_FORMATS(X) SL_MM_SMALL_FORMATS(X)
#undef X
        },
};

const struct sl_matmul_ops sl_matmul_portable = {
    .row = "portable",
    .caps = 0,
    .load = sl_mm_load,
    .unload = sl_mm_unload,
    .kernels = &kernels,
};
