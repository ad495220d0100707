/* rmsnorm.c - RMSNorm over rows, each row whole on one thread. */
#include "kernels/backend.h"

struct job {
    const struct sl_op_row *vec;
    const float *x, *gain;
    float eps;
    int n, dim;
    float *out;
};

static void run(void *arg, int thread, int n_threads)
{
    const struct job *j = arg;
    int64_t from, to;
    sl_pool_share(j->n, 1, thread, n_threads, &from, &to);
    for (int64_t i = from; i < to; i++)
        j->vec->rmsnorm(j->x + i * j->dim, j->gain, j->eps, j->dim, j->out + i * j->dim);
}

void sl_cpu_rmsnorm(struct sl_backend *b, const float *x, const float *gain, float eps, int n,
                    int dim, float *out)
{
    struct job j = {b->vec, x, gain, eps, n, dim, out};
    sl_cpu_run(b, (int64_t)n * dim, run, &j);
}
