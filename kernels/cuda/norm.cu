/* norm.cu - RMS norm (Zhang & Sennrich 2019) into float32 or into product rows, and the plain copy
 * into product rows.
 *
 * One block per row. The row stays in registers between the sum and the product (PER pieces a
 * thread); rows too wide for that are read twice. One reduction serves both the norm and the row's
 * scale: the largest |x * gain| is known at the same time as the sum of squares, and the common
 * factor 1/rms is applied to it afterwards. Gains are weights and are loaded before the wait. */
#include "kernels/cuda/row.cuh"
#include "kernels/cuda/rows.h"

namespace
{

enum kind { TO_FLOAT, TO_ROWS, COPY };

struct job {
    const float *x, *gain;
    float eps;
    int dim;
    void *out;
};

template <int V, int PER, int KIND> struct row {
    static constexpr int KEPT = PER ? PER : 1;
    sl_piece<V> x[KEPT], gain[KEPT];

    /* Calls f(piece of x, piece of gain, first element) for every piece of this thread. */
    template <typename F> __device__ __forceinline__ void each(const job &j, const float *from, F f)
    {
        int pieces = j.dim / V;
        if constexpr (PER) {
#pragma unroll
            for (int p = 0; p < PER; p++) {
                int i = (int)threadIdx.x + p * (int)blockDim.x;
                if (i < pieces) f(x[p], gain[p], i * V);
            }
        } else {
            for (int i = (int)threadIdx.x; i < pieces; i += (int)blockDim.x) {
                x[0] = sl_piece_load<V>(from + (int64_t)i * V);
                if (KIND != COPY) gain[0] = sl_piece_load<V>(j.gain + (int64_t)i * V);
                f(x[0], gain[0], i * V);
            }
        }
    }

    __device__ __forceinline__ void load_gain(const job &j)
    {
        if constexpr (PER && KIND != COPY)
            each(j, nullptr, [&](auto &, auto &g, int at) { g = sl_piece_load<V>(j.gain + at); });
    }

    __device__ __forceinline__ void load(const job &j, const float *from)
    {
        if constexpr (PER)
            each(j, from, [&](auto &v, auto &, int at) { v = sl_piece_load<V>(from + at); });
    }
};

template <int V, int PER, int KIND> __global__ void norm(job j)
{
    sl_next();
    row<V, PER, KIND> r;
    r.load_gain(j);
    sl_wait();
    const float *from = j.x + (int64_t)blockIdx.x * j.dim;
    r.load(j, from);
    sl_sum_max all = {0, 0};
    r.each(j, from, [&](auto &x, auto &gain, int) {
#pragma unroll
        for (int e = 0; e < V; e++) {
            all.sum += x.v[e] * x.v[e];
            all.max = fmaxf(all.max, fabsf(KIND == COPY ? x.v[e] : x.v[e] * gain.v[e]));
        }
    });
    all = sl_block_sum_max(all);
    float factor = KIND == COPY ? 1 : 1 / sqrtf(all.sum / (float)j.dim + j.eps);
    if (KIND == TO_FLOAT) {
        float *to = (float *)j.out + (int64_t)blockIdx.x * j.dim;
        r.each(j, from, [&](auto &x, auto &gain, int at) {
            sl_piece<V> y;
#pragma unroll
            for (int e = 0; e < V; e++) y.v[e] = x.v[e] * factor * gain.v[e];
            sl_piece_store<V>(to + at, y);
        });
        return;
    }
    sl_row_scale scale = sl_row_scale_of(all.max * factor);
    float *head = sl_row_head(j.out, blockIdx.x, j.dim);
    __half *to = sl_row_halfs(head);
    if (threadIdx.x == 0) *head = scale.scale;
    r.each(j, from, [&](auto &x, auto &gain, int at) {
        sl_piece<V> y;
#pragma unroll
        for (int e = 0; e < V; e++)
            y.v[e] = (KIND == COPY ? x.v[e] : x.v[e] * factor * gain.v[e]) * scale.inverse;
        sl_piece_store_half<V>(to + at, y);
    });
    int padded = (int)sl_cuda_pad(j.dim);
    for (int i = j.dim + (int)threadIdx.x; i < padded; i += (int)blockDim.x) to[i] = __half();
}

/* ---- launch ---------------------------------------------------------------------------------- */

constexpr int THREADS_MAX = 1024;
/* A single row is latency: as many threads as it has pieces. Many rows are bandwidth: several loads
 * in flight per thread, several rows per multiprocessor. The choice looks at n only past the decode
 * rows, whose bits must not depend on each other. */
constexpr int PIECES_OF_MANY = 4;

template <int V, int PER, int KIND> void start(struct sl_cuda *c, const job &j, int n)
{
    int pieces = j.dim / V, per = PER ? PER : 1;
    int threads = ((pieces + per - 1) / per + 31) / 32 * 32;
    threads = threads < 32 ? 32 : threads > THREADS_MAX ? THREADS_MAX : threads;
    sl_launch(c, norm<V, PER, KIND>, dim3((unsigned)n), dim3((unsigned)threads), 0, j);
}

template <int V, int KIND> void choose(struct sl_cuda *c, const job &j, int n)
{
    int least = n > SL_DECODE_ROWS_MAX ? PIECES_OF_MANY : 1;
    int per = (j.dim / V + THREADS_MAX - 1) / THREADS_MAX;
    per = per > least ? per : least;
    if (per == 1)
        start<V, 1, KIND>(c, j, n);
    else if (per == 2)
        start<V, 2, KIND>(c, j, n);
    else if (per <= 4)
        start<V, 4, KIND>(c, j, n);
    else
        start<V, 0, KIND>(c, j, n);
}

template <int KIND> void run(struct sl_cuda *c, const job &j, int n)
{
    if (n <= 0) return;
    if (sl_in_pieces(4, j.dim, j.x, j.gain, j.out))
        choose<4, KIND>(c, j, n);
    else
        choose<1, KIND>(c, j, n);
}

} // namespace

void sl_cuda_rmsnorm(struct sl_cuda *c, const float *x, const float *gain, float eps, int n,
                     int dim, float *out)
{
    run<TO_FLOAT>(c, {x, gain, eps, dim, out}, n);
}

void sl_cuda_norm_rows(struct sl_cuda *c, const float *x, const float *gain, float eps, int n,
                       int dim, void *out)
{
    run<TO_ROWS>(c, {x, gain, eps, dim, out}, n);
}

void sl_cuda_to_rows(struct sl_cuda *c, const float *x, int n, int cols, void *out)
{
    run<COPY>(c, {x, nullptr, 0, cols, out}, n);
}
