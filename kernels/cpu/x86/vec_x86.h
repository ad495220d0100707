/* vec_x86.h - the part of vec_math.h's vector that AVX2 and AVX-512 spell alike. The including file
 * defines INLINE, VEC, VEC_LANES and V(name), the intrinsic of that name for its vector. */
#ifndef SL_KERNELS_CPU_X86_VEC_X86_H
#define SL_KERNELS_CPU_X86_VEC_X86_H

#include <immintrin.h>

#define VEC_BINARY(name, intrinsic)                                                                \
    INLINE VEC name(VEC a, VEC b)                                                                  \
    {                                                                                              \
        return V(intrinsic)(a, b);                                                                 \
    }
VEC_BINARY(v_add, add_ps)
VEC_BINARY(v_sub, sub_ps)
VEC_BINARY(v_mul, mul_ps)
VEC_BINARY(v_min, min_ps)
VEC_BINARY(v_max, max_ps)

INLINE VEC v_set(float x)
{
    return V(set1_ps)(x);
}

INLINE VEC v_fma(VEC a, VEC b, VEC c)
{
    return V(fmadd_ps)(a, b, c);
}

INLINE VEC v_load(const float *p)
{
    return V(loadu_ps)(p);
}

INLINE void v_store(float *p, VEC x)
{
    V(storeu_ps)(p, x);
}

#endif
