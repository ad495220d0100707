/* moe_router.cu - the router's logits. The choice of experts hangs on small differences, so nothing
 * is rounded on the way: product rows are exact in float32, sums are float32, and where tensor
 * cores are used (many rows) both factors are: a half is a TF32 number, and a weight is the sum of
 * two up to 2^-22 of itself.
 *
 * Decode: one block for an expert and up to 8 rows; threads share the columns and their sums are
 * added in an order that does not depend on the number of rows. */
#include <cuda_fp16.h>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/moe_plan.cuh"
#include "kernels/cuda/row.cuh"

#define THREADS 128
#define WARPS (THREADS / 32)
#define ROWS 8 /* of a block in decode */

/* Elements [k, k + 8) of row e, without its row factor for the fast kinds (returned at the end). */
enum form { FORM_F32, FORM_F16, FORM_ANY };

template <form F>
static __device__ __forceinline__ void weights8(const sl_cuda_weight &w, int e, int k, float *out)
{
    const char *row = (const char *)w.code + e * w.code_stride;
    if constexpr (F == FORM_F32) {
        float4 a = __ldg((const float4 *)(row + 4 * k)),
               b = __ldg((const float4 *)(row + 4 * k) + 1);
        out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
        out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
    } else if constexpr (F == FORM_F16) {
        uint4 a = __ldg((const uint4 *)(row + 2 * k));
        const __half2 *h = (const __half2 *)&a;
        for (int i = 0; i < 4; i++) {
            float2 f = __half22float2(h[i]);
            out[2 * i] = f.x, out[2 * i + 1] = f.y;
        }
    } else {
        for (int i = 0; i < 8; i++) out[i] = k + i < w.cols ? sl_cuda_element(w, e, k + i) : 0;
    }
}

/* What the fast kinds leave out. */
template <form F> static __device__ float row_factor(const sl_cuda_weight &w, int e)
{
    return F == FORM_ANY || !w.row ? 1 : w.row[e];
}

static __device__ __forceinline__ float half_at(const __half *x, const sl_cuda_weight &w, int k)
{
    return k < w.cols ? __half2float(x[w.order[k]]) : 0;
}

/* ---- decode ---------------------------------------------------------------------------------- */

/* Adds w8 . x[i][k..] to the sums of the rows. */
static __device__ __forceinline__ void add_rows(const void *x, const sl_cuda_weight &w, int first,
                                                int rows, int k, const float *w8, float *sum)
{
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        if (i >= rows) break;
        const __half *half = sl_row_halfs(sl_row_head(x, first + i, w.cols));
        if (w.order) {
            for (int j = 0; j < 8; j++) sum[i] += w8[j] * half_at(half, w, k + j);
            continue;
        }
        uint4 v = *(const uint4 *)(half + k);
        const __half2 *h = (const __half2 *)&v;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float2 f = __half22float2(h[j]);
            sum[i] += w8[2 * j] * f.x;
            sum[i] += w8[2 * j + 1] * f.y;
        }
    }
}

template <form F>
static __global__ void router_small(sl_cuda_weight w, const float *bias, const void *x, int n,
                                    float *logits)
{
    __shared__ float part[WARPS][ROWS];
    int e = blockIdx.x, first = blockIdx.y * ROWS, rows = min(ROWS, n - first);
    int k = threadIdx.x * 8, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float sum[ROWS] = {}, w8[8];
    if (k < w.cols_padded) weights8<F>(w, e, k, w8); /* weights do not wait for anybody */
    sl_next();
    sl_wait();
    while (k < w.cols_padded) {
        add_rows(x, w, first, rows, k, w8, sum);
        k += THREADS * 8;
        if (k < w.cols_padded) weights8<F>(w, e, k, w8);
    }
#pragma unroll
    for (int i = 0; i < ROWS; i++)
        for (int d = 16; d; d /= 2) sum[i] += __shfl_xor_sync(~0u, sum[i], d);
#pragma unroll
    for (int i = 0; i < ROWS; i++)
        if (lane == i) part[warp][i] = sum[i];
    __syncthreads();
    int i = threadIdx.x;
    if (i >= rows) return;
    float all = 0;
    for (int v = 0; v < WARPS; v++) all += part[v][i];
    all *= row_factor<F>(w, e) * *sl_row_head(x, first + i, w.cols);
    logits[(int64_t)(first + i) * w.rows + e] = all + (bias ? bias[e] : 0);
}

/* ---- many rows ------------------------------------------------------------------------------- */

#define TILE_ROWS 64    /* 16 for each pair of warps */
#define TILE_EXPERTS 64 /* 32 for each warp of a pair */
#define TILE_THREADS 256
#define TILE_K 32
#define PAD_X 8 /* halfs and floats behind a row: no bank conflicts */
#define PAD_W 4

static __device__ __forceinline__ uint32_t tf32(float v)
{
    uint32_t r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(v));
    return r;
}

static __device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                                uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* A piece of both operands on its way: 8 halfs of x, 8 weights in every thread. */
template <form F> struct piece {
    uint4 x;
    float w[8];

    __device__ __forceinline__ void load(const sl_cuda_weight &wt, const void *rows, int row, int n,
                                         int e, int k)
    {
        const __half *half = sl_row_halfs(sl_row_head(rows, min(row, n - 1), wt.cols));
        if (wt.order) {
            __half2 h[4];
            for (int i = 0; i < 4; i++)
                h[i] = __floats2half2_rn(half_at(half, wt, k + 2 * i),
                                         half_at(half, wt, k + 2 * i + 1));
            x = *(const uint4 *)h;
        } else {
            x = *(const uint4 *)(half + k);
        }
        weights8<F>(wt, min(e, wt.rows - 1), k, w);
    }
};

/* Halfs are TF32 numbers as they are: F16 weights have no second part. */
template <form F> struct tiles {
    __half x[TILE_ROWS][TILE_K + PAD_X];
    uint32_t high[TILE_EXPERTS][TILE_K + PAD_W];
    uint32_t low[F == FORM_F16 ? 1 : TILE_EXPERTS][TILE_K + PAD_W];

    __device__ __forceinline__ void store(const piece<F> &p)
    {
        int row = threadIdx.x / 4, k = threadIdx.x % 4 * 8;
        *(uint4 *)&x[row][k] = p.x;
        uint32_t h[8], l[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            h[i] = tf32(p.w[i]);
            l[i] = tf32(p.w[i] - __uint_as_float(h[i]));
        }
        *(uint4 *)&high[row][k] = *(const uint4 *)h;
        *(uint4 *)&high[row][k + 4] = *(const uint4 *)(h + 4);
        if constexpr (F != FORM_F16) {
            *(uint4 *)&low[row][k] = *(const uint4 *)l;
            *(uint4 *)&low[row][k + 4] = *(const uint4 *)(l + 4);
        }
    }

    /* The warp's 16 rows by its 32 experts. */
    __device__ __forceinline__ void add(float (&sum)[4][4]) const
    {
        int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, warp = threadIdx.x / 32;
        int row = warp / 2 * 16 + g, expert = warp % 2 * 32 + g;
#pragma unroll
        for (int k = t; k < TILE_K; k += 8) {
            uint32_t a[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                a[i] = __float_as_uint(__half2float(x[row + i % 2 * 8][k + i / 2 * 4]));
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int e = expert + 8 * j;
                if constexpr (F != FORM_F16) multiply(sum[j], a, low[e][k], low[e][k + 4]);
                multiply(sum[j], a, high[e][k], high[e][k + 4]);
            }
        }
    }
};

template <form F>
static __global__ void __launch_bounds__(TILE_THREADS)
    router_large(sl_cuda_weight w, const float *bias, const void *x, int n, float *logits)
{
    __shared__ __align__(16) tiles<F> s;
    int first_row = blockIdx.x * TILE_ROWS, first_expert = blockIdx.y * TILE_EXPERTS;
    int row = first_row + threadIdx.x / 4, expert = first_expert + threadIdx.x / 4;
    int part = threadIdx.x % 4 * 8;
    float sum[4][4] = {};
    piece<F> p;
    sl_next();
    sl_wait();
    p.load(w, x, row, n, expert, part);
    for (int k = 0; k < w.cols_padded; k += TILE_K) {
        __syncthreads();
        s.store(p);
        __syncthreads();
        if (k + TILE_K < w.cols_padded) p.load(w, x, row, n, expert, k + TILE_K + part);
        s.add(sum);
    }
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, warp = threadIdx.x / 32;
#pragma unroll
    for (int j = 0; j < 4; j++)
        for (int i = 0; i < 4; i++) {
            int r = first_row + warp / 2 * 16 + g + i / 2 * 8;
            int e = first_expert + warp % 2 * 32 + 8 * j + 2 * t + i % 2;
            if (r >= n || e >= w.rows) continue;
            float v = sum[j][i] * row_factor<F>(w, e) * *sl_row_head(x, r, w.cols);
            logits[(int64_t)r * w.rows + e] = v + (bias ? bias[e] : 0);
        }
}

template <form F>
static void start(struct sl_cuda *c, const sl_cuda_weight &w, const float *bias, const void *x,
                  int n, float *logits)
{
    if (n <= SL_DECODE_ROWS_MAX) {
        dim3 grid(w.rows, (n + ROWS - 1) / ROWS);
        sl_launch(c, router_small<F>, grid, THREADS, 0, w, bias, x, n, logits);
        return;
    }
    dim3 grid((n + TILE_ROWS - 1) / TILE_ROWS, (w.rows + TILE_EXPERTS - 1) / TILE_EXPERTS);
    sl_launch(c, router_large<F>, grid, TILE_THREADS, 0, w, bias, x, n, logits);
}

void sl_moe_router(struct sl_cuda *c, const struct sl_moe *m, const void *x, int n, float *logits)
{
    const struct sl_cuda_weight *w = (const struct sl_cuda_weight *)m->router->packed;
    if (w->code_kind == SL_CUDA_F32)
        start<FORM_F32>(c, *w, m->router_bias, x, n, logits);
    else if (w->code_kind == SL_CUDA_F16 && w->scale_kind == SL_CUDA_SCALE_NONE &&
             w->min_kind == SL_CUDA_MIN_NONE)
        start<FORM_F16>(c, *w, m->router_bias, x, n, logits);
    else
        start<FORM_ANY>(c, *w, m->router_bias, x, n, logits);
}
