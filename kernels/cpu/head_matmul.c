/* head_matmul.c - one product per head: the halves of kv_b in absorbed MLA. (DeepSeek-AI 2024)
 *
 * Heads lie apart in rows of other things, the matmul wants rows side by side: one head's input is
 * gathered, multiplied and spread again. */
#include <string.h>

#include "base/sl_assert.h"
#include "kernels/backend.h"

void sl_cpu_head_matmul(struct sl_backend *b, const struct sl_weight *w, int n_heads,
                        const float *x, int64_t x_stride, int64_t x_head, int n, float *out,
                        int64_t out_stride, int64_t out_head)
{
    if (n <= 0 || n_heads <= 0) return;
    size_t in_row = sizeof(float) * (size_t)w->cols, out_row = sizeof(float) * (size_t)w->rows;
    size_t in_bytes = (in_row * (size_t)n + 63) / 64 * 64;
    char *in = sl_scratch_get(&b->head_scratch, in_bytes + out_row * (size_t)n);
    SL_ASSERT(in);
    char *y = in + in_bytes;
    for (int h = 0; h < n_heads; h++) {
        for (int i = 0; i < n; i++)
            memcpy(in + (size_t)i * in_row, x + i * x_stride + h * x_head, in_row);
        const struct sl_product p = {.w = &w[h], .out = (float *)y};
        b->ops->matmul(b, (const float *)in, n, &p, 1);
        for (int i = 0; i < n; i++)
            memcpy(out + i * out_stride + h * out_head, y + (size_t)i * out_row, out_row);
    }
}
