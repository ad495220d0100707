/* matmul.cu - products of up to SL_DECODE_ROWS_MAX rows: which weights share a launch, inputs in
 * the order of an act-order weight, gated units whose halves have different forms. */
#include <string.h>

#include "base/sl_assert.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/matmul_job.h"
#include "kernels/cuda/rows.h"

namespace
{

constexpr int THREADS = 256;

/* Copies product rows with their elements in the order of a weight's stored columns. */
__global__ void reorder(const char *x, int64_t stride, int cols, const int32_t *order, char *out)
{
    sl_next();
    int k = blockIdx.x * THREADS + threadIdx.x;
    int from = k < cols ? order[k] : 0; /* a weight: nobody writes it */
    sl_wait();
    const char *row = x + blockIdx.y * stride;
    char *to = out + blockIdx.y * stride;
    if (k < sl_cuda_pad(cols))
        ((uint16_t *)(to + SL_CUDA_ROW_HEAD))[k] =
            k < cols ? ((const uint16_t *)(row + SL_CUDA_ROW_HEAD))[from] : 0;
    if (k == 0) *(float *)to = *(const float *)row;
}

size_t align_up(size_t n)
{
    return (n + 255) / 256 * 256;
}

size_t rows_room(int64_t cols)
{
    return align_up((size_t)(SL_DECODE_ROWS_MAX * sl_cuda_row_stride(cols)));
}

size_t floats_room(int64_t cols)
{
    return align_up((size_t)SL_DECODE_ROWS_MAX * (size_t)cols * sizeof(float));
}

const struct sl_cuda_weight &packed(const struct sl_weight *w)
{
    return *static_cast<const struct sl_cuda_weight *>(w->packed);
}

/* One launch can take both: one instance, one table, one offset. */
bool same_form(const struct sl_cuda_weight &a, const struct sl_cuda_weight &b)
{
    return a.code_kind == b.code_kind && a.scale_kind == b.scale_kind && a.min_kind == b.min_kind &&
           a.cols == b.cols && (a.group == 16) == (b.group == 16) && a.offset == b.offset &&
           memcmp(a.lut, b.lut, sizeof a.lut) == 0;
}

void launch(const struct sl_cuda *c, struct sl_stream_job *job)
{
    int done = sl_stream_floats(c, job) || sl_stream_fp4(c, job) || sl_stream_tables(c, job) ||
               sl_stream_integers(c, job) || sl_stream_blocks(c, job) || sl_stream_plain(c, job);
    SL_ASSERT(done); /* sl_pack_form makes no other form */
}

/* The input of w: x, or a copy in its order at `room`. */
const char *input(struct sl_cuda *c, const void *x, int n, const struct sl_cuda_weight &w,
                  void *room)
{
    if (!w.order) return (const char *)x;
    SL_ASSERT((char *)room + rows_room(w.cols) <= (char *)c->scratch + c->scratch_bytes);
    sl_launch(c, reorder, dim3((unsigned)((w.cols_padded + THREADS - 1) / THREADS), (unsigned)n),
              dim3(THREADS), 0, (const char *)x, sl_cuda_row_stride(w.cols), (int)w.cols, w.order,
              (char *)room);
    return (const char *)room;
}

} // namespace

size_t sl_cuda_stream_scratch(int sms, int64_t max_cols)
{
    (void)sms;
    return SL_STREAM_PARTS * rows_room(max_cols) + 2 * floats_room(max_cols);
}

void sl_cuda_stream_matmul(struct sl_cuda *c, const void *x, int n, const struct sl_product *p,
                           int n_products)
{
    SL_ASSERT(n >= 0 && n <= SL_DECODE_ROWS_MAX && n_products <= SL_STREAM_PARTS);
    if (n == 0 || n_products == 0) return;
    struct sl_stream_part part[SL_STREAM_PARTS];
    bool done[SL_STREAM_PARTS] = {};
    for (int i = 0; i < n_products; i++) {
        const struct sl_cuda_weight &w = packed(p[i].w);
        char *room = (char *)c->scratch + i * rows_room(w.cols);
        part[i] = {w, input(c, x, n, w, room), p[i].out, p[i].bias, p[i].flags, 0};
    }
    for (int i = 0; i < n_products; i++) {
        if (done[i]) continue;
        struct sl_stream_job job = {};
        job.n = n;
        job.x_stride = sl_cuda_row_stride(part[i].w.cols);
        for (int j = i; j < n_products; j++)
            if (!done[j] && same_form(part[i].w, part[j].w)) {
                job.part[job.n_parts++] = part[j];
                done[j] = true;
            }
        launch(c, &job);
    }
}

void sl_cuda_stream_gate_up(struct sl_cuda *c, enum sl_act act, const void *x, int n,
                            const struct sl_weight *gate, const float *gate_bias,
                            const struct sl_weight *up, const float *up_bias, void *out)
{
    SL_ASSERT(n >= 0 && n <= SL_DECODE_ROWS_MAX);
    if (n == 0) return;
    const struct sl_cuda_weight &g = packed(gate), &u = packed(up);
    if (!same_form(g, u) || g.code_kind == SL_CUDA_F32 || g.order || u.order) {
        /* in floats, one after the other */
        char *at = (char *)c->scratch + SL_STREAM_PARTS * rows_room(g.cols);
        float *a = (float *)at, *b = (float *)(at + floats_room(g.rows));
        SL_ASSERT(at + 2 * floats_room(g.rows) <= (char *)c->scratch + c->scratch_bytes);
        struct sl_product p[2] = {{gate, gate_bias, a, 0}, {up, up_bias, b, 0}};
        sl_cuda_stream_matmul(c, x, n, p, 2);
        sl_cuda_glu(c, act, a, b, n, g.rows, out);
        return;
    }
    struct sl_stream_job job = {};
    job.part[0] = {g, (const char *)x, nullptr, gate_bias, 0, 0};
    job.part[1] = {u, (const char *)x, nullptr, up_bias, 0, 0};
    job.n_parts = 2;
    job.n = n;
    job.x_stride = sl_cuda_row_stride(g.cols);
    job.act = act;
    job.rows = out;
    launch(c, &job);
}
