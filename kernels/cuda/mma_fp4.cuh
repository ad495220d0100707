/* mma_fp4.cuh - one warp's matrix multiply-accumulate on 4- and 8-bit floats with block scales, in
 * three bodies: the instruction of the card, a bit-exact emulation for cards without it, and plain
 * C for machines without any card.
 *
 * Blackwell workstation cards (sm_120a) multiply NVFP4 and MXFP4/MXFP8 codes with their scales in
 * one instruction (PTX ISA 8.7, "mma with block scaling"); Ada (sm_89) multiplies E4M3. Kernels are
 * written against sl_mma<kind>::step(): with the emulation in place of the instruction everything
 * else in them (loads, swizzles, scale addressing, pipeline, epilogue) runs unchanged on a Hopper
 * card, and the emulation itself is the C below, which tests/unit/kernels/test_mma_host.c compares
 * with dense products on any machine.
 *
 * Fragments (lane l = 4g + t), as PTX documents them. Row bytes: a k-step is 32 bytes of a row of A
 * (16 rows) and of B (8 columns), lower k first, lower nibble first: 64 E2M1 or 32 E4M3.
 *   a0: row g, bytes 4t..4t+3       a1: row g+8, the same bytes
 *   a2: row g, bytes 16+4t..        a3: row g+8, the same bytes
 *   b0: column g, bytes 4t..        b1: column g, bytes 16+4t..
 *   c0, c1: (row g, columns 2t, 2t+1)       c2, c3: (row g+8, the same columns)
 * E2M1 that meets E4M3 takes a byte each, code << 2.
 * Scales: every lane passes registers, few are read. Row m of A: the register of lane
 * 4 (m%8) + 2 tid_a + m/8; column n of B: of lane 4n + tid_b. Byte bid + j of it is the scale of
 * k-group j of this step. */
#ifndef SL_KERNELS_CUDA_MMA_FP4_CUH
#define SL_KERNELS_CUDA_MMA_FP4_CUH

#include <math.h>
#include <stdint.h>

enum sl_mma_kind {
    SL_MMA_NVFP4,    /* E2M1 x E2M1, UE4M3 per 16 */
    SL_MMA_MXFP4,    /* E2M1 x E2M1, E8M0 per 32 */
    SL_MMA_MXFP4_A8, /* E2M1 x E4M3, E8M0 per 32 */
    SL_MMA_MXFP8,    /* E4M3 x E4M3, E8M0 per 32 */
    SL_MMA_FP8,      /* E4M3 x E4M3, no scales */
    SL_MMA_KINDS
};

/* What a lane brings to one multiply-accumulate. */
struct sl_mma_lane {
    uint32_t a[4], b[2];
    uint32_t scale_a, scale_b;
};

#ifdef __CUDACC__
#define SL_MMA_HD __host__ __device__
#else
#define SL_MMA_HD
#endif

/* ---- the numbers ------------------------------------------------------------------------------
 */

/* OCP Microscaling Formats 1.0, section 5.3.3: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives. */
static inline SL_MMA_HD double sl_mma_e2m1(uint32_t code)
{
    uint32_t e = code >> 1 & 3, m = code & 1;
    double v = e ? (double)((2 + m) << e) / 4 : (double)m / 2;
    return code & 8 ? -v : v;
}

/* OCP 8-bit floating point 1.0, E4M3: no infinities, 0x7f and 0xff are NaN. */
static inline SL_MMA_HD double sl_mma_e4m3(uint32_t code)
{
    uint32_t e = code >> 3 & 15, m = code & 7;
    if ((code & 0x7f) == 0x7f) return (double)NAN;
    double v = e ? (double)((uint32_t)(8 + m) << e) / 1024 : (double)m / 512;
    return code & 0x80 ? -v : v;
}

/* 2^(code - 127), 255 is NaN. */
static inline SL_MMA_HD double sl_mma_e8m0(uint32_t code)
{
    return code == 255 ? (double)NAN : ldexp(1.0, (int)code - 127);
}

/* ---- the multiply-accumulate ------------------------------------------------------------------
 */

static inline SL_MMA_HD int sl_mma_k(enum sl_mma_kind kind) /* elements of k in a step */
{
    return kind == SL_MMA_NVFP4 || kind == SL_MMA_MXFP4 ? 64 : 32;
}

static inline SL_MMA_HD int sl_mma_group(enum sl_mma_kind kind) /* elements that share a scale */
{
    return kind == SL_MMA_NVFP4 ? 16 : 32;
}

/* A's element (row, k): the lane that holds it, its register, its place there. */
static inline SL_MMA_HD double sl_mma_a(enum sl_mma_kind kind, const struct sl_mma_lane *lanes,
                                        int row, int k)
{
    int byte = sl_mma_k(kind) == 64 ? k / 2 : k;
    uint32_t word = lanes[4 * (row % 8) + byte % 16 / 4].a[row / 8 + 2 * (byte / 16)];
    uint32_t code = word >> 8 * (byte % 4) & 0xff;
    if (kind == SL_MMA_MXFP4_A8) return sl_mma_e2m1(code >> 2);
    return sl_mma_k(kind) == 64 ? sl_mma_e2m1(code >> 4 * (k % 2)) : sl_mma_e4m3(code);
}

static inline SL_MMA_HD double sl_mma_b(enum sl_mma_kind kind, const struct sl_mma_lane *lanes,
                                        int col, int k)
{
    int byte = sl_mma_k(kind) == 64 ? k / 2 : k;
    uint32_t word = lanes[4 * col + byte % 16 / 4].b[byte / 16];
    uint32_t code = word >> 8 * (byte % 4) & 0xff;
    return sl_mma_k(kind) == 64 ? sl_mma_e2m1(code >> 4 * (k % 2)) : sl_mma_e4m3(code);
}

/* The product of the scales of k-group `group`; the bits beyond a byte's seven are no part of
 * UE4M3. */
static inline SL_MMA_HD double sl_mma_scale(enum sl_mma_kind kind, const struct sl_mma_lane *lanes,
                                            int bid, int tid_a, int tid_b, int row, int col,
                                            int group)
{
    if (kind == SL_MMA_FP8) return 1;
    uint32_t a = lanes[4 * (row % 8) + 2 * tid_a + row / 8].scale_a >> 8 * (bid + group) & 0xff;
    uint32_t b = lanes[4 * col + tid_b].scale_b >> 8 * (bid + group) & 0xff;
    if (kind == SL_MMA_NVFP4) return sl_mma_e4m3(a & 0x7f) * sl_mma_e4m3(b & 0x7f);
    return sl_mma_e8m0(a) * sl_mma_e8m0(b);
}

/* Output (row, col) of a step added to c. Sums in double, in order of k: products and the sums of a
 * group are exact, so that device and host give the same bits. */
static
#ifdef __CUDACC__
    __host__ __device__ __noinline__
#else
    inline
#endif
    float
    sl_mma_output(enum sl_mma_kind kind, const struct sl_mma_lane *lanes, int bid, int tid_a,
                  int tid_b, int row, int col, float c)
{
    int per = sl_mma_group(kind);
    double sum = 0;
    for (int group = 0; group * per < sl_mma_k(kind); group++) {
        double dot = 0;
        for (int k = group * per; k < (group + 1) * per; k++)
            dot += sl_mma_a(kind, lanes, row, k) * sl_mma_b(kind, lanes, col, k);
        sum += dot * sl_mma_scale(kind, lanes, bid, tid_a, tid_b, row, col, group);
    }
    return (float)((double)c + sum);
}

/* The whole warp on the host: c[lane][4] in place. */
static inline void sl_mma_host(enum sl_mma_kind kind, const struct sl_mma_lane lanes[32], int bid,
                               int tid_a, int tid_b, float c[32][4])
{
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++)
            c[lane][i] = sl_mma_output(kind, lanes, bid, tid_a, tid_b, lane / 4 + 8 * (i / 2),
                                       2 * (lane % 4) + i % 2, c[lane][i]);
}

#ifdef __CUDACC__

/* ---- on the device ----------------------------------------------------------------------------
 */

#define SL_MMA_WARPS_MAX 8 /* of a block that emulates */

/* Which instructions this pass of the compiler may use. "a" targets name one card each. */
#if defined(__CUDA_ARCH_FEAT_SM120_ALL) || defined(__CUDA_ARCH_FEAT_SM121_ALL)
#define SL_MMA_BLOCK_SCALE 1
#else
#define SL_MMA_BLOCK_SCALE 0
#endif

/* Whether sl_mma_card of a kind is an instruction in this pass; elsewhere it traps and kernels are
 * compiled empty. E4M3 without scales: sm_89 and sm_120 have it; sm_90 and sm_100 take it apart
 * into half-precision ones (slower than BF16: good for tests only). */
template <enum sl_mma_kind KIND> struct sl_mma_has {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    static constexpr bool value = KIND == SL_MMA_FP8 || SL_MMA_BLOCK_SCALE;
#else
    static constexpr bool value = false;
#endif
};

#define SL_MMA_BLOCK(kind_shape, types)                                                            \
    asm volatile("mma.sync.aligned." kind_shape ".row.col.f32." types " "                          \
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3}, "                          \
                 "{%10}, {%12,%13}, {%11}, {%12,%14};"                                             \
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(scale_a), \
                   "r"(scale_b), "n"(BID), "n"(TID_A), "n"(TID_B))

/* The card's own instruction. BID, TID_A and TID_B are parts of it: 4X wants BID 0, 2X 0 or 2. */
struct sl_mma_card {
    template <enum sl_mma_kind KIND> using has = sl_mma_has<KIND>;

    template <enum sl_mma_kind KIND, int BID, int TID_A, int TID_B>
    static __device__ __forceinline__ void step(float *c, const uint32_t *a, const uint32_t *b,
                                                uint32_t scale_a, uint32_t scale_b)
    {
        if constexpr (!sl_mma_has<KIND>::value) {
            __trap();
        } else if constexpr (KIND == SL_MMA_FP8) {
            asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 "
                         "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                         : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
        } else if constexpr (KIND == SL_MMA_NVFP4) {
            SL_MMA_BLOCK("kind::mxf4nvf4.block_scale.scale_vec::4X.m16n8k64",
                         "e2m1.e2m1.f32.ue4m3");
        } else if constexpr (KIND == SL_MMA_MXFP4) {
            SL_MMA_BLOCK("kind::mxf4.block_scale.scale_vec::2X.m16n8k64", "e2m1.e2m1.f32.ue8m0");
        } else if constexpr (KIND == SL_MMA_MXFP4_A8) {
            SL_MMA_BLOCK("kind::mxf8f6f4.block_scale.scale_vec::1X.m16n8k32",
                         "e2m1.e4m3.f32.ue8m0");
        } else {
            SL_MMA_BLOCK("kind::mxf8f6f4.block_scale.scale_vec::1X.m16n8k32",
                         "e4m3.e4m3.f32.ue8m0");
        }
    }
};

/* The emulation: each lane lays its registers into shared memory and reads those of its rows and
 * columns. Slow; for tests. */
struct sl_mma_emulated {
    template <enum sl_mma_kind> struct has {
        static constexpr bool value = true;
    };

    static __device__ __forceinline__ struct sl_mma_lane *lanes()
    {
        __shared__ struct sl_mma_lane box[SL_MMA_WARPS_MAX][32];
        return box[threadIdx.x / 32];
    }

    template <enum sl_mma_kind KIND, int BID, int TID_A, int TID_B>
    static __device__ __forceinline__ void step(float *c, const uint32_t *a, const uint32_t *b,
                                                uint32_t scale_a, uint32_t scale_b)
    {
        struct sl_mma_lane *all = lanes();
        int lane = (int)threadIdx.x % 32;
        all[lane] = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, scale_a, scale_b};
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 4; i++)
            c[i] = sl_mma_output(KIND, all, BID, TID_A, TID_B, lane / 4 + 8 * (i / 2),
                                 2 * (lane % 4) + i % 2, c[i]);
        __syncwarp();
    }
};

#endif
#endif
