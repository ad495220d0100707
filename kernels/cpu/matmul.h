/* matmul.h - private to kernels/cpu: the packed weights, the packed activations and the seam to
 * each CPU row.
 *
 * Weights. A tile is 16 output rows ("lanes"); all CPU rows read the same tiles. Quants keep the
 * file's values and are only permuted; scales and minima keep their precision. A tile is its codes,
 * group after group, then its scales, in one of the layouts of the format table below. Codes of a
 * group (32 k), as 64-byte words of 16 lanes x 4 bytes; quad j is k = 4j..4j+3:
 *     C2:    2 words, whose byte b of a lane holds in bits 2i, 2i+1 k = 4(4h+i)+b (word h)
 *     C3:    C2, then one word whose byte b of a lane holds in bit j the third bit of k = 4j+b
 *     C4:    4 words, word j: low nibbles quad j, high nibbles quad j+4
 *     C5:    C4, then one word with the fifth bits, as in C3
 *     C6:    C4, then two words with the high two bits, as in C2
 *     C8:    8 words, word j: quad j, as unsigned value + 128
 *     E2M1:  C4, indices into the values of E2M1, doubled, + 16
 *     IQ4:   C4, indices into the levels of IQ4, + 128
 *   floats, no groups:
 *     F32, F16: for each k the 16 lanes in the file's own element type
 *     BF16:  for each quad of k, 16 lanes x k 4j, 4j+2, then 16 lanes x k 4j+1, 4j+3
 *     E4M3, E5M2: the same in bytes
 *     CB4:   for each 8 k, 16 lanes x 4 bytes, nibbles of k 0 1 4 5 2 3 6 7, the low one first;
 *            indices into the codebook
 *   scales (u8, half, float: of 16 lanes):
 *     D:     per group half d                     DM: per group half d, half m
 *     K:     per 256 k half d, half dmin, then per group of the tile u8 scale, u8 min
 *     K16:   per 256 k half d, then per group of the tile int8 scale of k<16, of k>=16
 *     K2:    per 256 k half d, half dmin, then per group u8 of k<16, of k>=16: scale | min << 4
 *     K32:   per 256 k half d, then per group of the tile int8 scale
 *     E32:   per group u8, E8M0                   E16: per group u8 of k<16, of k>=16, UE4M3
 *     S:     struct sl_mm_scale_head, then per block of it a scale of the matrix's scale type
 *     SZ:    S, then per block u8 zero points
 * Planar matrices whose scales fit none of these are packed as F32.
 *
 * Activations. Eight bits would cost 0.4 % perplexity, so a group of 32 is held as 16-bit integers
 * v = 256*hi + lo with one fp32 scale, in two planes of signed bytes: both meet the unsigned codes
 * in exact int32 dot products. What a group adds to an output is a*s * float(sum code*v -
 * offset*sum v)  +  b * float(s * sum v)        (a, b: the weights' scale and minimum) in this
 * order of fp32 operations, whatever the number of rows: that makes results independent of the
 * batch. Where 16 k share a scale, the halves of a group follow each other so. A last group that
 * is not full has zeros in v; activations of an act-order matrix are permuted on the way.
 * Float layouts take the activations as they are or, where the row multiplies BF16 in tiles, as the
 * sum of two BF16 numbers (planes; at most 2^-16 of an element is lost). */
#ifndef SL_KERNELS_CPU_MATMUL_H
#define SL_KERNELS_CPU_MATMUL_H

#include <string.h>

#include "kernels/cpu/cpu.h"

enum {
    SL_MM_LANES = 16,   /* output rows of a tile */
    SL_MM_GROUP = 32,   /* k that share an activation scale */
    SL_MM_SMALL_K = 8,  /* blocks of scales of the small floats are multiples of it */
    SL_MM_SUPER = 8,    /* groups that share d and dmin in the K formats */
    SL_MM_Q_BYTES = 64, /* bytes of a packed activation group: 32 hi, 32 lo */
    SL_MM_Q_SLACK =
        15 * 64,         /* bytes that a block of 16 activation rows may reach past the last one */
    SL_MM_P_BYTES = 128, /* bytes of a group of planes: 32 BF16, then what they lack in 32 more */
    SL_MM_P_SLACK = 15 * 128,
    SL_MM_CHUNK = 128, /* activation rows that a tile meets at once, at most */
    SL_MM_SPAN = 2,    /* tiles at once, at most */
    /* floats from one tile's sums to the next one's: not 4096 bytes, which the store buffer would
       confuse with 0 */
    SL_MM_ACC = (128 + 16) * 16,
    SL_MM_V_MAX = 127 * 256 /* largest |v|: hi stays a signed byte after rounding lo */
};

enum sl_mm_codes {
    SL_MM_F32,
    SL_MM_F16,
    SL_MM_BF16,
    SL_MM_E4M3,
    SL_MM_E5M2,
    SL_MM_CB4, /* to here: floats that meet float activations */
    SL_MM_C2,
    SL_MM_C3,
    SL_MM_C4,
    SL_MM_C5,
    SL_MM_C6,
    SL_MM_C8,
    SL_MM_E2M1,
    SL_MM_IQ4
};
enum sl_mm_scales {
    SL_MM_NONE,
    SL_MM_D,
    SL_MM_DM,
    SL_MM_K,
    SL_MM_K16,
    SL_MM_K2,
    SL_MM_K32,
    SL_MM_E32,
    SL_MM_E16,
    SL_MM_S,
    SL_MM_SZ
};

/* Codes are the value plus 1 << offset_shift; without an offset it is SL_MM_NO_OFFSET. */
enum { SL_MM_NO_OFFSET = -1 };

/* The format table, one line per layout, for the tables of kernels: X(layout, codes, scales,
 * offset_shift). struct sl_weight keeps the layout in `layout`. */
#define SL_MM_FORMATS(X)                                                                           \
    X(SL_TILE_Q4_0, SL_MM_C4, SL_MM_D, 3)                                                          \
    X(SL_TILE_Q4_1, SL_MM_C4, SL_MM_DM, SL_MM_NO_OFFSET)                                           \
    X(SL_TILE_Q5_0, SL_MM_C5, SL_MM_D, 4)                                                          \
    X(SL_TILE_Q5_1, SL_MM_C5, SL_MM_DM, SL_MM_NO_OFFSET)                                           \
    X(SL_TILE_Q8_0, SL_MM_C8, SL_MM_D, 7)                                                          \
    X(SL_TILE_Q2_K, SL_MM_C2, SL_MM_K2, SL_MM_NO_OFFSET)                                           \
    X(SL_TILE_Q3_K, SL_MM_C3, SL_MM_K16, 2)                                                        \
    X(SL_TILE_Q4_K, SL_MM_C4, SL_MM_K, SL_MM_NO_OFFSET)                                            \
    X(SL_TILE_Q5_K, SL_MM_C5, SL_MM_K, SL_MM_NO_OFFSET)                                            \
    X(SL_TILE_Q6_K, SL_MM_C6, SL_MM_K16, 5)                                                        \
    X(SL_TILE_IQ4_NL, SL_MM_IQ4, SL_MM_D, 7)                                                       \
    X(SL_TILE_IQ4_XS, SL_MM_IQ4, SL_MM_K32, 7)                                                     \
    X(SL_TILE_MXFP4, SL_MM_E2M1, SL_MM_E32, 4)                                                     \
    X(SL_TILE_NVFP4, SL_MM_E2M1, SL_MM_E16, 4)                                                     \
    X(SL_TILE_F4, SL_MM_E2M1, SL_MM_S, 4)                                                          \
    X(SL_TILE_I4, SL_MM_C4, SL_MM_S, 3)                                                            \
    X(SL_TILE_U4, SL_MM_C4, SL_MM_SZ, SL_MM_NO_OFFSET)                                             \
    X(SL_TILE_I8, SL_MM_C8, SL_MM_S, 7)                                                            \
    X(SL_TILE_U8, SL_MM_C8, SL_MM_SZ, SL_MM_NO_OFFSET)

/* Floats as they are: X(layout, codes). */
#define SL_MM_FLOAT_FORMATS(X)                                                                     \
    X(SL_TILE_F32, SL_MM_F32)                                                                      \
    X(SL_TILE_F16, SL_MM_F16)                                                                      \
    X(SL_TILE_BF16, SL_MM_BF16)

/* Small floats with scales of kind S. */
#define SL_MM_SMALL_FORMATS(X)                                                                     \
    X(SL_TILE_E4M3, SL_MM_E4M3)                                                                    \
    X(SL_TILE_E5M2, SL_MM_E5M2)                                                                    \
    X(SL_TILE_CB4, SL_MM_CB4)

enum sl_mm_layout {
#define X(layout, ...) layout,
    SL_MM_FORMATS(X) SL_MM_FLOAT_FORMATS(X) SL_MM_SMALL_FORMATS(X)
#undef X
        SL_TILE_COUNT
};

struct sl_mm_format {
    enum sl_mm_codes codes;
    enum sl_mm_scales scales;
    int offset_shift;
};
const struct sl_mm_format *sl_mm_format(int layout);

static inline int sl_mm_is_float(enum sl_mm_codes c)
{
    return c <= SL_MM_CB4;
}

/* Two scales in a group, each of 16 k. */
static inline int sl_mm_halves(enum sl_mm_scales s)
{
    return s == SL_MM_K16 || s == SL_MM_K2 || s == SL_MM_E16;
}

/* A minimum (or a zero point as one) besides the scale. */
static inline int sl_mm_has_min(enum sl_mm_scales s)
{
    return s == SL_MM_DM || s == SL_MM_K || s == SL_MM_K2 || s == SL_MM_SZ;
}

/* k and bytes of the smallest piece of codes: a group, or of a float layout what one lane holds
 * together. */
static inline int sl_mm_code_k(enum sl_mm_codes c)
{
    return c <= SL_MM_F16 ? 1 : c < SL_MM_CB4 ? 4 : c == SL_MM_CB4 ? 8 : SL_MM_GROUP;
}

static inline int sl_mm_code_bytes(enum sl_mm_codes c)
{
    switch (c) {
    case SL_MM_F32:
    case SL_MM_E4M3:
    case SL_MM_E5M2:
    case SL_MM_CB4:
        return 4;
    case SL_MM_F16:
        return 2;
    case SL_MM_BF16:
        return 8;
    case SL_MM_C2:
        return 128;
    case SL_MM_C3:
        return 192;
    case SL_MM_C4:
    case SL_MM_E2M1:
    case SL_MM_IQ4:
        return 256;
    case SL_MM_C5:
        return 320;
    case SL_MM_C6:
        return 384;
    case SL_MM_C8:
        break;
    }
    return 512;
}

/* Where the scales of S and SZ begin. Block b holds k in [b * cols, (b + 1) * cols); for the
 * integer layouts cols is SL_MM_GROUP << shift. Scales lie behind the head, 16 of `type` per
 * block; in the small formats they are all F32. */
struct sl_mm_scale_head {
    int32_t type;       /* SL_F32, SL_F16 or SL_BF16 */
    int32_t shift;      /* 0..30 */
    int64_t cols, n;    /* n blocks */
    float codebook[16]; /* CB4 */
    uint8_t unused[40];
};
_Static_assert(sizeof(struct sl_mm_scale_head) == 128, "scales stay aligned");

static inline const struct sl_mm_scale_head *sl_mm_scale_head(const uint8_t *p)
{
    return (const struct sl_mm_scale_head *)(const void *)p;
}

/* The table lookups: doubled E2M1 + 16 (its scales are halved) and IQ4 + 128. */
#define SL_MM_E2M1_TABLE 16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4
#define SL_MM_IQ4_TABLE                                                                            \
    1, 24, 45, 63, 79, 93, 106, 118, (char)129, (char)141, (char)153, (char)166, (char)181,        \
        (char)197, (char)217, (char)241

/* A matrix as tiles. */
struct sl_mm_tiles {
    const uint8_t *data;
    int64_t n;        /* n tiles */
    size_t bytes;     /* of a tile, a multiple of 64 */
    size_t scales_at; /* where a tile's scales begin */
};
void sl_mm_tiles(const struct sl_weight *w, struct sl_mm_tiles *t);

/* Packs; see sl_matmul_ops.load and unload. kernels/cpu/matmul_pack.c */
int sl_mm_load(const struct sl_matrix *m, struct sl_weight *w, struct sl_err *err);
void sl_mm_unload(struct sl_weight *w);

/* Activations of n rows. Arrays are [group][row], so that the rows of a group lie side by side. */
struct sl_mm_act {
    const float *x; /* [n][cols] as given, for the float formats */
    int64_t cols, groups;
    int n;          /* rows from one group to the next: those there are, or some more */
    int8_t *q;      /* [group][row][64]: 32 hi, 32 lo */
    float *scale;   /* s */
    float *sum;     /* s * sum v */
    int32_t *neg;   /* -sum v */
    int32_t *neg16; /* [group][row][2]: -sum v of k < 16 and of k >= 16 */
    /* [group][row][2][32]: BF16 of x, and of the rest; of each quad k 0 2 1 3, the order of weights
     */
    uint16_t *planes;
};

/* The scale and its inverse for a group whose largest magnitude has these bits. Infinity and NaN go
 * into the scale and so into every output they touch. Magnitudes below 1e-30 count as zero: their
 * inverse would overflow. inv 0 says that all v are 0. */
static inline void sl_mm_scale(uint32_t top_bits, float *s, float *inv)
{
    float top;
    memcpy(&top, &top_bits, sizeof top);
    int tiny = top < 1e-30f;
    *s = tiny ? 0 : top / SL_MM_V_MAX;
    *inv = tiny || top_bits >= 0x7f800000 ? 0 : SL_MM_V_MAX / top;
}

/* Item `at` of the arrays besides q: the scale and the sums of v over k < 16 and k >= 16. */
static inline void sl_mm_act_store(const struct sl_mm_act *a, int64_t at, float s, int32_t sum0,
                                   int32_t sum1)
{
    a->scale[at] = s;
    a->sum[at] = s * (float)(sum0 + sum1);
    a->neg[at] = -(sum0 + sum1);
    a->neg16[2 * at] = -sum0;
    a->neg16[2 * at + 1] = -sum1;
}

/* One or two neighbouring tiles, `stride` bytes apart; two share the loads of activations. */
struct sl_mm_span {
    const uint8_t *codes, *scales;
    size_t stride;
    int tiles;
};

/* Adds up the span's tiles for rows [row, row+rows) of a, rows <= SL_MM_CHUNK: acc[tiles][rows][16]
 * is overwritten. */
typedef void (*sl_mm_tile_fn)(const struct sl_mm_span *w, const struct sl_mm_act *a, int row,
                              int rows, float *acc);

/* One CPU row. */
struct sl_mm_kernels {
    /* Fills groups [from, to) of activation row `row` from their elements x. All CPU rows give the
     * same bits. */
    void (*quantize)(const struct sl_mm_act *a, const float *x, int row, int64_t from, int64_t to);
    /* The same for planes, where sl_mm_takes_planes() wants them; NULL: a row without. */
    void (*split)(const struct sl_mm_act *a, const float *x, int row, int64_t from, int64_t to);
    sl_mm_tile_fn tile[SL_TILE_COUNT];
};

/* Whether a row with planes multiplies a float layout with them: whenever a scale belongs to whole
 * groups. F32 keeps its precision. `block`: the k that share a scale. */
static inline int sl_mm_takes_planes(enum sl_mm_codes c, enum sl_mm_scales s, int64_t block)
{
    return c != SL_MM_F32 && sl_mm_is_float(c) && (s == SL_MM_NONE || block % SL_MM_GROUP == 0);
}

extern const struct sl_matmul_ops sl_matmul_portable;
#if defined(SL_KERNELS_X86)
extern const struct sl_matmul_ops sl_matmul_avx2, sl_matmul_avx512, sl_matmul_amx;
#endif

#endif
