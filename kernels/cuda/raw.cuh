/* raw.cuh - codes, scales and minimums of matrices as the files have them, in device code: what the
 * packing kernels read. Bits: kernels/ref/dequant.c, kernels/ref/matrix.c. */
#ifndef SL_KERNELS_CUDA_RAW_CUH
#define SL_KERNELS_CUDA_RAW_CUH

#include "kernels/cuda/element.cuh"

/* Block k / block of a row, and the place within. */
static __device__ inline const uint8_t *sl_raw_block(const uint8_t *row, int64_t k, int block,
                                                     int bytes)
{
    return row + k / block * bytes;
}

/* Nibble i of 32: the low halves of 16 bytes, then the high halves. */
static __device__ inline unsigned sl_raw_nibble(const uint8_t *q, int i)
{
    return q[i % 16] >> 4 * (i / 16) & 15;
}

static __device__ inline float sl_raw_half(const uint8_t *b)
{
    return __half2float(__ushort_as_half((unsigned short)(b[0] | b[1] << 8)));
}

/* The code of element k of a row: kernels/cuda/cuda.h's meaning of it. */
static __device__ inline unsigned sl_raw_code(enum sl_dtype type, const uint8_t *row, int64_t k)
{
    int i = (int)(k % 32), s = (int)(k % 256);
    const uint8_t *b;
    switch (type) {
    case SL_F8_E4M3:
    case SL_F8_E5M2:
    case SL_U8:
    case SL_I8:
        return row[k];
    case SL_F4:
    case SL_U4:
    case SL_CB4:
        return row[k / 2] >> 4 * (k & 1) & 15;
    case SL_Q4_0:
    case SL_IQ4_NL:
        return sl_raw_nibble(sl_raw_block(row, k, 32, 18) + 2, i);
    case SL_Q4_1:
        return sl_raw_nibble(sl_raw_block(row, k, 32, 20) + 4, i);
    case SL_Q5_0:
        b = sl_raw_block(row, k, 32, 22);
        return sl_raw_nibble(b + 6, i) | (unsigned)(b[2 + i / 8] >> i % 8 & 1) << 4;
    case SL_Q5_1:
        b = sl_raw_block(row, k, 32, 24);
        return sl_raw_nibble(b + 8, i) | (unsigned)(b[4 + i / 8] >> i % 8 & 1) << 4;
    case SL_Q8_0:
        return sl_raw_block(row, k, 32, 34)[2 + i];
    case SL_MXFP4:
        return sl_raw_nibble(sl_raw_block(row, k, 32, 17) + 1, i);
    case SL_NVFP4: /* elements i and i + 8 of 16 share a byte */
        b = sl_raw_block(row, k, 64, 36);
        return b[4 + 8 * (k % 64 / 16) + k % 8] >> 4 * (k % 16 / 8) & 15;
    case SL_Q2_K:
        b = sl_raw_block(row, k, 256, 84);
        return b[16 + 32 * (s / 128) + i] >> 2 * (s % 128 / 32) & 3;
    case SL_Q3_K:
        b = sl_raw_block(row, k, 256, 110);
        return (b[32 + 32 * (s / 128) + i] >> 2 * (s % 128 / 32) & 3) |
               (unsigned)(b[i] >> s / 32 & 1) << 2;
    case SL_Q4_K:
        b = sl_raw_block(row, k, 256, 144);
        return b[16 + 32 * (s / 64) + i] >> 4 * (s / 32 & 1) & 15;
    case SL_Q5_K:
        b = sl_raw_block(row, k, 256, 176);
        return (b[48 + 32 * (s / 64) + i] >> 4 * (s / 32 & 1) & 15) |
               (unsigned)(b[16 + i] >> s / 32 & 1) << 4;
    case SL_Q6_K: {
        int half = s / 128, quarter = s % 128 / 32;
        b = sl_raw_block(row, k, 256, 210);
        return (b[64 * half + 32 * (quarter & 1) + i] >> 4 * (quarter >> 1) & 15) |
               (unsigned)(b[128 + 32 * half + i] >> 2 * quarter & 3) << 4;
    }
    case SL_IQ4_XS:
        return sl_raw_nibble(sl_raw_block(row, k, 256, 136) + 8 + 16 * (s / 32), i);
    default:
        return 0;
    }
}

/* Scale and minimum of a group: scale * super and min * supmin. Where a format has no supers they
 * are 1, and scale and min are the whole of it; bytes of E8M0 and UE4M3 are themselves. */
struct sl_raw_group {
    float scale, min, super, supmin;
};

/* Scale and minimum, 6 bits each, of sub-block j of 8 (Q4_K, Q5_K). */
static __device__ inline void sl_raw_k_scale(const uint8_t *s, int j, sl_raw_group *g)
{
    if (j < 4) {
        g->scale = (float)(s[j] & 63);
        g->min = (float)(s[j + 4] & 63);
    } else {
        g->scale = (float)((s[j + 4] & 15) | s[j - 4] >> 6 << 4);
        g->min = (float)(s[j + 4] >> 4 | s[j] >> 6 << 4);
    }
}

/* The group that holds element k of a row of blocks. */
static __device__ inline sl_raw_group sl_raw_block_group(enum sl_dtype type, const uint8_t *row,
                                                         int64_t k)
{
    sl_raw_group g = {0, 0, 1, 1};
    int s = (int)(k % 256), t = s / 16;
    const uint8_t *b;
    switch (type) {
    case SL_Q4_0:
    case SL_IQ4_NL:
        g.scale = sl_raw_half(sl_raw_block(row, k, 32, 18));
        break;
    case SL_Q4_1:
        b = sl_raw_block(row, k, 32, 20);
        g.scale = sl_raw_half(b), g.min = sl_raw_half(b + 2);
        break;
    case SL_Q5_0:
        g.scale = sl_raw_half(sl_raw_block(row, k, 32, 22));
        break;
    case SL_Q5_1:
        b = sl_raw_block(row, k, 32, 24);
        g.scale = sl_raw_half(b), g.min = sl_raw_half(b + 2);
        break;
    case SL_Q8_0:
        g.scale = sl_raw_half(sl_raw_block(row, k, 32, 34));
        break;
    case SL_MXFP4:
        g.scale = (float)sl_raw_block(row, k, 32, 17)[0];
        break;
    case SL_NVFP4: /* ggml reads the byte of NaN as 0 */
        t = sl_raw_block(row, k, 64, 36)[k % 64 / 16] & 0x7f;
        g.scale = t == 0x7f ? 0 : (float)t;
        break;
    case SL_Q2_K:
        b = sl_raw_block(row, k, 256, 84);
        g.scale = (float)(b[t] & 15), g.min = (float)(b[t] >> 4);
        g.super = sl_raw_half(b + 80), g.supmin = sl_raw_half(b + 82);
        break;
    case SL_Q3_K: { /* low nibbles in the first 8 of 12 bytes, pairs of high bits after */
        b = sl_raw_block(row, k, 256, 110);
        const uint8_t *q = b + 96;
        g.scale =
            (float)((q[t % 8] >> 4 * (t / 8) & 15) | (q[8 + t % 4] >> 2 * (t / 4) & 3) << 4) - 32;
        g.super = sl_raw_half(b + 108);
        break;
    }
    case SL_Q4_K:
    case SL_Q5_K:
        b = sl_raw_block(row, k, 256, type == SL_Q4_K ? 144 : 176);
        sl_raw_k_scale(b + 4, s / 32, &g);
        g.super = sl_raw_half(b), g.supmin = sl_raw_half(b + 2);
        break;
    case SL_Q6_K:
        b = sl_raw_block(row, k, 256, 210);
        g.scale = (float)(int8_t)b[192 + t];
        g.super = sl_raw_half(b + 208);
        break;
    case SL_IQ4_XS: {
        int j = s / 32;
        b = sl_raw_block(row, k, 256, 136);
        g.scale =
            (float)((b[4 + j / 2] >> 4 * (j & 1) & 15) | ((b[2] | b[3] << 8) >> 2 * j & 3) << 4) -
            32;
        g.super = sl_raw_half(b);
        break;
    }
    default:
        break;
    }
    return g;
}

/* Entry i of a table of scales. `bytes`: E8M0 and E4M3 as the byte. */
static __device__ inline float sl_raw_scale(const void *scales, enum sl_dtype type, int64_t i,
                                            bool bytes)
{
    const uint8_t *b = (const uint8_t *)scales;
    switch (type) {
    case SL_F32:
        return ((const float *)scales)[i];
    case SL_F16:
        return sl_raw_half(b + 2 * i);
    case SL_BF16:
        return __int_as_float((int)((unsigned)(b[2 * i] | b[2 * i + 1] << 8) << 16));
    case SL_E8M0:
        return bytes ? (float)b[i] : sl_e8m0_value(b[i]);
    default:
        return bytes ? (float)(b[i] & 0x7f) : sl_e4m3_value(b[i]);
    }
}

#endif
