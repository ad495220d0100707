/* rope.cuh - rotary positions of one head by one warp: used alone (rope.cu) and behind the norms of
 * q and k (heads.cu). (Su et al. 2021) */
#ifndef SL_KERNELS_CUDA_ROPE_CUH
#define SL_KERNELS_CUDA_ROPE_CUH

#include "kernels/cuda/launch.cuh"

/* Cosine and sine of position * frequency. The product is kept exactly in two floats and brought
 * into [-pi, pi] in three steps (Cody & Waite 1980): float alone would lose the angle of long
 * contexts, double is slow on most cards. Positions below 2^24. */
static __device__ __forceinline__ void turn_of(int pos, float inv_freq, float scale, float *c,
                                               float *s)
{
    float p = (float)pos, high = p * inv_freq, low = fmaf(p, inv_freq, -high);
    float k = rintf(high * 0.15915494f);
    float r = fmaf(-k, 6.28318548f, high); /* 2 pi = 6.28318548 - 1.74845553e-7 - 2.5e-15 */
    r = fmaf(k, 1.74845553e-7f, r) + low;
    *c = __cosf(r) * scale;
    *s = __sinf(r) * scale;
}

/* The pair of elements of a head that turns together. */
static __device__ __forceinline__ int pair_first(int neox, int i)
{
    return neox ? i : 2 * i;
}

static __device__ __forceinline__ int pair_second(int neox, int dims, int i)
{
    return neox ? i + dims / 2 : 2 * i + 1;
}

#endif
