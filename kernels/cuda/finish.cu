/* finish.cu - the passes around products of many rows: rows brought to one scale before, biases,
 * factors and gated units after. Each is one trip over its data; gemm.c chooses pieces small enough
 * that what a product left is still in the L2 cache. */
#include <cuda_bf16.h>

#include "base/sl_assert.h"
#include "kernels/cuda/act.cuh"
#include "kernels/cuda/gemm_steps.h"
#include "kernels/cuda/row.cuh"

namespace
{

constexpr int LEVEL_THREADS = 512;
constexpr int LEVEL_MAX = 4; /* weights of one call */
/* A row of a larger scale holds infinities or is about to: it becomes infinite, and other rows keep
 * their bits. */
constexpr float SCALE_MAX = 1 << 30;
constexpr int THREADS = 256;
constexpr int GRID_ROWS_MAX = 65535;

struct level_job {
    char *x;
    int64_t stride;
    int n, pieces;                                 /* of 8 halfs in a row */
    const float *row[LEVEL_MAX], *grid[LEVEL_MAX]; /* grid NULL: none */
    int rows[LEVEL_MAX], grids[LEVEL_MAX], count;
    struct sl_cuda_level *level;
};

/* The largest of f(i), i < n, in every thread. Loads go out eight at a time: a block is alone with
 * its latency here. */
template <typename F> static __device__ __forceinline__ float block_max(int n, float *part, F f)
{
    constexpr int BATCH = 8;
    float top = 0;
    for (int i = threadIdx.x; i < n; i += BATCH * blockDim.x) {
        float v[BATCH];
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            int at = i + b * blockDim.x;
            v[b] = f(at < n ? at : n - 1);
        }
#pragma unroll
        for (int b = 0; b < BATCH; b++) top = fmaxf(top, v[b]);
    }
#pragma unroll
    for (int s = 16; s; s >>= 1) top = fmaxf(top, __shfl_xor_sync(~0u, top, s));
    __syncthreads();
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = top;
    __syncthreads();
    for (int w = 0; w < LEVEL_THREADS / 32; w++) top = fmaxf(top, part[w]);
    return top;
}

/* Rows i, i + blocks, ...: those of another scale than `common` are brought to it. */
static __device__ __forceinline__ void level_own(const level_job &j, float common)
{
    for (int i = blockIdx.x; i < j.n; i += gridDim.x) {
        float *head = reinterpret_cast<float *>(j.x + i * j.stride);
        float own = *head;
        if (own == common) continue; /* the whole block: it alone changes this row, below */
        float by = own / common;
        uint4 *halfs = reinterpret_cast<uint4 *>(sl_row_halfs(head));
        for (int p = threadIdx.x; p < j.pieces; p += blockDim.x) {
            uint4 v = halfs[p];
            uint32_t *u = &v.x;
#pragma unroll
            for (int q = 0; q < 4; q++) {
                float2 f = __half22float2(*reinterpret_cast<__half2 *>(&u[q]));
                __half2 h = __floats2half2_rn(f.x * by, f.y * by);
                u[q] = *reinterpret_cast<uint32_t *>(&h);
            }
            halfs[p] = v;
        }
        __syncthreads(); /* all have read `own` */
        if (threadIdx.x == 0) *head = common;
    }
}

/* Every block looks for the largest scale by itself. Others may have raised rows meanwhile, but to
 * that same scale: the maximum stays what it was. */
__global__ void __launch_bounds__(LEVEL_THREADS) level_rows(level_job j)
{
    __shared__ float part[LEVEL_THREADS / 32];
    sl_next();
    float top = 1;
    if (blockIdx.x < j.count) {
        const float *row = j.row[blockIdx.x];
        top = block_max(j.rows[blockIdx.x], part, [&](int i) { return fabsf(row[i]); });
        const float *grid = j.grid[blockIdx.x];
        if (grid)
            top *= block_max(j.grids[blockIdx.x], part, [&](int i) { return fabsf(grid[i]); });
    }
    sl_wait();
    float common = block_max(j.n, part, [&](int i) {
        float scale = __ldcg(reinterpret_cast<const float *>(j.x + i * j.stride));
        return scale <= SCALE_MAX ? scale : 0; /* false for NaN too */
    });
    if (common == 0) common = 1;
    if (blockIdx.x < j.count && threadIdx.x == 0) {
        top = top > 0 ? top : 1;
        float alpha = top * common, glu = alpha * (1 / SL_CUDA_GLU_SCALE);
        j.level[blockIdx.x] = {common, top, alpha, glu, alpha * SL_NVFP4_STEP, glu * SL_NVFP4_STEP};
    }
    level_own(j, common);
}

template <int V>
__global__ void add_bias(const float *bias, int n, int64_t rows, float *out, int add)
{
    sl_next();
    int64_t at = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V;
    if (at >= rows) {
        sl_wait();
        return;
    }
    sl_piece<V> b = sl_piece_load<V>(bias + at);
    sl_wait();
    for (int i = blockIdx.y; i < n; i += gridDim.y) {
        sl_piece<V> y = b;
        if (add) {
            sl_piece<V> o = sl_piece_load<V>(out + i * rows + at);
#pragma unroll
            for (int e = 0; e < V; e++) y.v[e] += o.v[e];
        }
        sl_piece_store<V>(out + i * rows + at, y);
    }
}

static __device__ __forceinline__ float2 two_of(uint32_t u, __half)
{
    float2 f = __half22float2(*reinterpret_cast<__half2 *>(&u));
    return make_float2(f.x * SL_CUDA_GLU_SCALE, f.y * SL_CUDA_GLU_SCALE);
}

static __device__ __forceinline__ float2 two_of(uint32_t u, __nv_bfloat16)
{
    return make_float2(__uint_as_float(u << 16), __uint_as_float(u & 0xffff0000u));
}

/* Elements p + at, ... of sums of type T; halfs are divided by SL_CUDA_GLU_SCALE. */
template <int V, typename T>
static __device__ __forceinline__ sl_piece<V> load_sums(const void *p, int64_t at)
{
    const T *from = static_cast<const T *>(p) + at;
    if constexpr (sizeof(T) == 4) {
        return sl_piece_load<V>(from);
    } else {
        sl_piece<V> r;
        if constexpr (V == 8) {
            uint4 q = *reinterpret_cast<const uint4 *>(from);
            const uint32_t u[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float2 f = two_of(u[i], T());
                r.v[2 * i] = f.x, r.v[2 * i + 1] = f.y;
            }
        } else {
            static_assert(V == 1, "eight at once, or one");
            r.v[0] = two_of(*reinterpret_cast<const uint16_t *>(from), T()).x;
        }
        return r;
    }
}

/* A thread takes two rows at once, so that twice as many loads are on their way. */
template <int V, typename T> __global__ void finish(const struct sl_cuda_finish f)
{
    sl_next();
    int64_t at = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V;
    sl_wait();
    if (at >= f.m) return;
    for (int i = blockIdx.y * 2; i < f.n; i += gridDim.y * 2) {
        sl_piece<V> d[2], o[2] = {};
        float *to = f.out + i * f.out_stride + f.first + at;
        bool both = i + 1 < f.n;
        d[0] = load_sums<V, T>(f.d, i * f.d_stride + at);
        d[1] = load_sums<V, T>(f.d, (i + both) * f.d_stride + at);
        if (f.add) {
            o[0] = sl_piece_load<V>(to);
            o[1] = sl_piece_load<V>(to + both * f.out_stride);
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float scale = f.scale ? f.scale[i + (r && both)] : 1;
#pragma unroll
            for (int e = 0; e < V; e++) {
                float by = f.row ? f.row[f.first + at + e] * scale : scale;
                o[r].v[e] += d[r].v[e] * by + (f.bias ? f.bias[f.first + at + e] : 0);
            }
        }
        sl_piece_store<V>(to, o[0]);
        if (both) sl_piece_store<V>(to + f.out_stride, o[1]);
    }
}

/* Factors and biases of the eight columns of a thread, where a unit has any. */
struct glu_columns {
    float by[2][8], bias[2][8];
};

static __device__ __forceinline__ void load_columns(const struct sl_cuda_glu_piece &g, int column,
                                                    glu_columns &f)
{
    for (int w = 0; w < 2; w++) {
        float top = g.row[w] ? g.level[w]->top : 1;
#pragma unroll
        for (int e = 0; e < 8; e++) {
            bool inside = column + e < g.cols;
            f.by[w][e] = !inside ? 0 : g.row[w] ? g.row[w][column + e] / top : 1;
            f.bias[w][e] = inside && g.bias[w] ? g.bias[w][column + e] : 0;
        }
    }
}

/* A thread makes eight neighbours of several rows. PLAIN: whole columns without factors. */
template <int ACT, bool PLAIN> __global__ void glu_piece(const struct sl_cuda_glu_piece g)
{
    sl_next();
    sl_wait();
    int at = (blockIdx.x * THREADS + threadIdx.x) * 8, column = g.first + at;
    int end = g.first + g.m == g.cols ? (int)sl_cuda_pad(g.cols) : g.first + g.m;
    if (column >= end) return;
    glu_columns f;
    if (!PLAIN) load_columns(g, column, f);
    for (int i = blockIdx.y; i < g.n; i += gridDim.y) {
        float *head = sl_row_head(g.out, i, g.cols);
        sl_piece<8> y = {};
        if (at < g.m) {
            sl_piece<8> a = load_sums<8, __half>(g.sums[0], i * g.d_stride + at);
            sl_piece<8> b = load_sums<8, __half>(g.sums[1], i * g.d_stride + at);
#pragma unroll
            for (int e = 0; e < 8; e++) {
                if (!PLAIN) {
                    if (column + e >= g.cols) continue; /* sums there may be anything */
                    a.v[e] = a.v[e] * f.by[0][e] + f.bias[0][e];
                    b.v[e] = b.v[e] * f.by[1][e] + f.bias[1][e];
                }
                y.v[e] = sl_glu_half_range(sl_gated((enum sl_act)ACT, a.v[e], b.v[e]));
            }
        }
        sl_piece_store_half<8>(sl_row_halfs(head) + column, y);
        if (column == 0) *head = SL_CUDA_GLU_SCALE;
    }
}

typedef void glu_kernel(struct sl_cuda_glu_piece);

template <int ACT> glu_kernel *glu_of(bool plain)
{
    return plain ? glu_piece<ACT, true> : glu_piece<ACT, false>;
}

dim3 grid_of(int64_t pieces, int n)
{
    return dim3((unsigned)((pieces + THREADS - 1) / THREADS),
                (unsigned)(n < GRID_ROWS_MAX ? n : GRID_ROWS_MAX));
}

} // namespace

extern "C" void sl_cuda_level(struct sl_cuda *c, void *x, int n, int64_t cols,
                              const struct sl_cuda_weight *const *w, int count,
                              struct sl_cuda_level *level)
{
    if (n <= 0) return;
    SL_ASSERT(count <= LEVEL_MAX);
    level_job j = {};
    j.x = static_cast<char *>(x);
    j.stride = sl_cuda_row_stride(cols);
    j.n = n;
    j.pieces = (int)(sl_cuda_pad(cols) / 8);
    j.count = count;
    j.level = level;
    for (int i = 0; i < count; i++) {
        j.row[i] = w[i]->row, j.rows[i] = w[i]->rows;
        if (w[i]->scale_kind != SL_CUDA_SCALE_GRID) continue;
        j.grid[i] = static_cast<const float *>(w[i]->scale);
        j.grids[i] = ((w[i]->rows - 1) / w[i]->grid_rows + 1) * w[i]->grid_stride;
    }
    int blocks = n < c->sms ? n : c->sms;
    sl_launch(c, level_rows, blocks < count ? count : blocks, LEVEL_THREADS, 0, j);
}

extern "C" void sl_cuda_bias(struct sl_cuda *c, const float *bias, int n, int64_t rows, float *out,
                             int add)
{
    if (n <= 0) return;
    if (sl_in_pieces(4, rows, bias, out))
        sl_launch(c, add_bias<4>, grid_of(rows / 4, n), THREADS, 0, bias, n, rows, out, add);
    else
        sl_launch(c, add_bias<1>, grid_of(rows, n), THREADS, 0, bias, n, rows, out, add);
}

extern "C" void sl_cuda_finish(struct sl_cuda *c, const struct sl_cuda_finish *f)
{
    if (f->n <= 0) return;
    bool eight = sl_in_pieces(8, f->out_stride | f->d_stride | f->m | f->first, f->d, f->out);
    auto kernel = f->sums == SL_LT_BF16
                      ? eight ? finish<8, __nv_bfloat16> : finish<1, __nv_bfloat16>
                  : eight ? finish<8, float>
                          : finish<1, float>;
    sl_launch(c, kernel, grid_of(eight ? f->m / 8 : f->m, (f->n + 1) / 2), THREADS, 0, *f);
}

extern "C" void sl_cuda_glu_piece(struct sl_cuda *c, const struct sl_cuda_glu_piece *g)
{
    constexpr int ROWS_EACH = 4; /* of a thread with factors, which it loads once */
    if (g->n <= 0) return;
    int64_t end = g->first + g->m == g->cols ? sl_cuda_pad(g->cols) : g->first + g->m;
    bool plain = !g->row[0] && !g->row[1] && !g->bias[0] && !g->bias[1] && g->m % 8 == 0;
    glu_kernel *kernel = g->act == SL_ACT_SILU        ? glu_of<SL_ACT_SILU>(plain)
                         : g->act == SL_ACT_GELU      ? glu_of<SL_ACT_GELU>(plain)
                         : g->act == SL_ACT_GELU_TANH ? glu_of<SL_ACT_GELU_TANH>(plain)
                                                      : glu_of<SL_ACT_SWIGLU_OAI>(plain);
    int rows = plain ? g->n : (g->n + ROWS_EACH - 1) / ROWS_EACH;
    sl_launch(c, kernel, grid_of((end - g->first + 7) / 8, rows), THREADS, 0, *g);
}
