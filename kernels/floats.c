/* floats.c - operations over rows for backends whose product rows are plain float32. They are a
 * small part of a step, so one thread does them. */
#include <math.h>
#include <string.h>

#include "kernels/backend.h"

void sl_floats_to_rows(struct sl_backend *b, const float *x, int n, int cols, void *out)
{
    (void)b;
    if (out != x) memcpy(out, x, sizeof(*x) * (size_t)n * (size_t)cols);
}

size_t sl_floats_rows_bytes(int64_t n, int64_t cols)
{
    return sizeof(float) * (size_t)n * (size_t)cols;
}

void sl_floats_mix(struct sl_backend *b, const float *from, int64_t from_stride, float *to,
                   int64_t to_stride, int64_t n, int64_t cols, float scale, int add)
{
    (void)b;
    for (int64_t i = 0; i < n; i++) {
        const float *f = from + i * from_stride;
        float *t = to + i * to_stride;
        if (scale == 0)
            memset(t, 0, add ? 0 : sizeof(*t) * (size_t)cols);
        else if (add)
            for (int64_t k = 0; k < cols; k++) t[k] += scale * f[k];
        else
            for (int64_t k = 0; k < cols; k++) t[k] = scale * f[k];
    }
}

void sl_floats_weigh_rows(struct sl_backend *b, const float *gain, const void *x, int n, int dim,
                          void *y, int cols)
{
    const float *in = x;
    float *out = y;
    (void)b;
    for (int64_t i = 0; i < n; i++) {
        double dot = 0;
        for (int e = 0; e < dim; e++) dot += (double)gain[e] * (double)in[i * dim + e];
        float w = (float)(1 / (1 + exp(-dot)));
        for (int e = 0; e < cols; e++) out[i * cols + e] *= w;
    }
}

void sl_floats_pick(struct sl_backend *b, const float *x, const int32_t *picks, int n, int dim,
                    float *out)
{
    (void)b;
    for (int i = 0; i < n; i++)
        memcpy(out + (int64_t)i * dim, x + (int64_t)picks[i] * dim, sizeof(*x) * (size_t)dim);
}

void sl_floats_soften(struct sl_backend *b, float *x, int64_t count, float scale, float cap)
{
    (void)b;
    if (scale != 1)
        for (int64_t i = 0; i < count; i++) x[i] *= scale;
    if (cap > 0)
        for (int64_t i = 0; i < count; i++) x[i] = cap * tanhf(x[i] / cap);
}
