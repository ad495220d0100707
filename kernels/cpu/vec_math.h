/* vec_math.h - activations as every row of vector kernels computes them, over the row's own vector.
 *
 * The including file defines, before: VEC, a vector of floats (or one float), and for it v_set(x),
 * v_add, v_sub, v_mul, v_fma(a, b, c) = a * b + c, v_div(a, b) for finite b != 0, v_min(a, b) and
 * v_max(a, b), which give b when it is NaN, v_abs(a), v_below(a, b, x, y) = a < b ? x : y,
 * v_sign(x, s) = |x| with the sign of s, v_load, v_store and their number of floats, VEC_LANES;
 * after, v_exp2(x) for x <= 127, 0 below -126, NaN kept, and glu_span, which knows about tails.
 * Relative errors are near 1e-6, NaN stays NaN. Private to kernels/cpu. */
#ifndef SL_KERNELS_CPU_VEC_MATH_H
#define SL_KERNELS_CPU_VEC_MATH_H

#include "kernels/kernels.h"

#define VEC_FN static inline __attribute__((always_inline))

VEC_FN VEC v_exp2(VEC x);

#define V_LOG2E 1.44269504f
#define V_EXP_MAX 125.5f /* of powers of two: beyond it e^x + 1 leaves the floats */

/* Polynomial of x with n coefficients, the lowest power first. */
VEC_FN VEC v_poly(VEC x, const float *c, int n)
{
    VEC p = v_set(c[n - 1]);
#pragma GCC unroll 16
    for (int i = n - 2; i >= 0; i--) p = v_fma(p, x, v_set(c[i]));
    return p;
}

/* 2^f for |f| <= 1/2; relative error below 2^-22. */
VEC_FN VEC v_exp2_part(VEC f)
{
    static const float c[] = {1.0f,           6.93147188e-1f, 2.40226508e-1f, 5.55035711e-2f,
                              9.61808256e-3f, 1.33908634e-3f, 1.54531629e-4f};
    return v_poly(f, c, 7);
}

/* x / (1 + 2^-y) */
VEC_FN VEC v_gate(VEC x, VEC y)
{
    VEC e = v_exp2(v_min(v_set(V_EXP_MAX), v_sub(v_set(0), y)));
    return v_div(x, v_add(v_set(1), e));
}

/* x P(X < x) of the normal distribution: with a = |x|, P(X < -a) is e^(-a^2 / 2) times a smooth
 * function of 1 / (1 + 0.35 a), fitted for relative error 3e-8. */
VEC_FN VEC v_gelu(VEC x)
{
    static const float c[] = {0.139621407f,  0.139861837f,   0.119833127f,
                              0.105506808f,  -0.0231066123f, 0.159168884f,
                              -0.255709112f, 0.14396894f,    -0.0291453116f};
    VEC a = v_min(v_set(20), v_abs(x)); /* there the tail is 0 */
    VEC t = v_div(v_set(1), v_fma(a, v_set(0.35f), v_set(1)));
    VEC tail = v_mul(v_exp2(v_mul(v_mul(a, a), v_set(-0.5f * V_LOG2E))), v_mul(t, v_poly(t, c, 9)));
    return v_sub(v_max(v_set(0), x), v_mul(a, tail));
}

/* x / (1 + e^-2u), u = sqrt(2/pi) (x + 0.044715 x^3): the same as with a tanh */
VEC_FN VEC v_gelu_tanh(VEC x)
{
    const float k = 2 * 0.797884561f * V_LOG2E;
    VEC y = v_fma(v_mul(x, x), v_set(k * 0.044715f), v_set(k));
    return v_gate(x, v_mul(x, y));
}

VEC_FN VEC v_swiglu_oai(VEC g, VEC u)
{
    g = v_min(v_set(7), g);
    u = v_max(v_set(-7), v_min(v_set(7), u));
    return v_mul(v_add(u, v_set(1)), v_gate(g, v_mul(g, v_set(1.702f * V_LOG2E))));
}

/* One vector of a gated linear unit. */
VEC_FN VEC v_glu(enum sl_act act, VEC g, VEC u)
{
    switch (act) {
    case SL_ACT_SILU:
        break;
    case SL_ACT_GELU:
        return v_mul(v_gelu(g), u);
    case SL_ACT_GELU_TANH:
        return v_mul(v_gelu_tanh(g), u);
    case SL_ACT_SWIGLU_OAI:
        return v_swiglu_oai(g, u);
    }
    return v_mul(v_gate(g, v_mul(g, v_set(V_LOG2E))), u);
}

/* tanh(x): an odd polynomial below 0.6 (fitted, relative error 1e-7), (1 - e^-2x) / (1 + e^-2x)
 * above. */
VEC_FN VEC v_tanh(VEC x)
{
    static const float c[] = {-0.333325982f, 0.133131146f, -0.0522117317f, 0.0156125082f};
    VEC a = v_abs(x), e = v_exp2(v_mul(a, v_set(-2 * V_LOG2E))), x2 = v_mul(x, x);
    VEC high = v_sign(v_div(v_sub(v_set(1), e), v_add(v_set(1), e)), x);
    VEC low = v_fma(v_mul(x, x2), v_poly(x2, c, 4), x);
    return v_below(a, v_set(0.6f), low, high);
}

static void softcap(float *s, float cap, int n)
{
    for (int i = 0; i < n; i += VEC_LANES)
        v_store(s + i, v_mul(v_tanh(v_mul(v_load(s + i), v_set(1.0f / cap))), v_set(cap)));
}

VEC_FN void glu_span(enum sl_act act, const float *gate, const float *up, int64_t n, float *out);

/* One loop for each activation. */
static void glu(enum sl_act act, const float *gate, const float *up, int64_t n, float *out)
{
    switch (act) {
    case SL_ACT_SILU:
        glu_span(SL_ACT_SILU, gate, up, n, out);
        break;
    case SL_ACT_GELU:
        glu_span(SL_ACT_GELU, gate, up, n, out);
        break;
    case SL_ACT_GELU_TANH:
        glu_span(SL_ACT_GELU_TANH, gate, up, n, out);
        break;
    case SL_ACT_SWIGLU_OAI:
        glu_span(SL_ACT_SWIGLU_OAI, gate, up, n, out);
    }
}

#endif
