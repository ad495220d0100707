/* head_matmul.c - one product per head: the halves of kv_b in absorbed MLA. (DeepSeek-AI 2024)
 *
 * Heads lie apart in rows of other things, the matmul wants an input's rows side by side: the heads
 * of some rows are gathered, [head][row], and all of them are multiplied in one job that writes
 * straight to their places. Expected work: 16 to 128 heads of 128 x 512; decode of few rows is
 * bound by reading the weights once. */
#include <string.h>

#include "base/mem.h"
#include "base/sl_assert.h"
#include "kernels/backend.h"

#define ROWS_AT_ONCE 64 /* the matmul's chunk: the gathered rows stay in the caches */

struct job {
    const float *x;
    int64_t x_stride, x_head, cols;
    int n_heads, n;
    float *in; /* [head][row][cols] */
};

static void gather(void *arg, int thread, int n_threads)
{
    const struct job *j = arg;
    int64_t from, to;
    sl_pool_share((int64_t)j->n_heads * j->n, 1, thread, n_threads, &from, &to);
    for (int64_t i = from; i < to; i++)
        memcpy(j->in + i * j->cols, j->x + i % j->n * j->x_stride + i / j->n * j->x_head,
               sizeof(float) * (size_t)j->cols);
}

void sl_cpu_head_matmul(struct sl_backend *b, const struct sl_weight *w, int n_heads,
                        const float *x, int64_t x_stride, int64_t x_head, int n, float *out,
                        int64_t out_stride, int64_t out_head)
{
    if (n <= 0 || n_heads <= 0) return;
    struct job j = {x, x_stride, x_head, w->cols, n_heads, 0, NULL};
    size_t item_bytes = sizeof(struct sl_mm_item) * (size_t)n_heads;
    size_t in_at = (item_bytes + SL_MEM_ALIGN - 1) / SL_MEM_ALIGN * SL_MEM_ALIGN;
    size_t row_bytes = sizeof(float) * (size_t)n_heads * (size_t)w->cols;
    char *base =
        sl_scratch_get(&b->head_scratch, in_at + row_bytes * (size_t)SL_MIN(n, ROWS_AT_ONCE));
    SL_ASSERT(base);
    struct sl_mm_item *items = (struct sl_mm_item *)base;
    j.in = (float *)(base + in_at);
    for (; n > 0; n -= j.n, out += j.n * out_stride, j.x += j.n * x_stride) {
        j.n = SL_MIN(n, ROWS_AT_ONCE);
        for (int h = 0; h < n_heads; h++)
            items[h] = (struct sl_mm_item){
                .p = {.w = &w[h], .out = out + h * out_head},
                .row = h * j.n,
                .rows = j.n,
                .out_stride = out_stride,
            };
        sl_cpu_run(b, (int64_t)n_heads * j.n * j.cols, gather, &j);
        sl_cpu_multiply(b, j.in, n_heads * j.n, items, n_heads);
    }
}
