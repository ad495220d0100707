/* glu.c - gated linear units, element by element. (Shazeer 2020) */
#include "kernels/backend.h"

#define GRAIN 64 /* elements: whole cache lines per thread */

struct job {
    const struct sl_op_row *vec;
    enum sl_act act;
    const float *gate, *up;
    int64_t count;
    float *out;
};

static void run(void *arg, int thread, int n_threads)
{
    const struct job *j = arg;
    int64_t from, to;
    sl_pool_share(j->count, GRAIN, thread, n_threads, &from, &to);
    if (from < to) j->vec->glu(j->act, j->gate + from, j->up + from, to - from, j->out + from);
}

void sl_cpu_glu(struct sl_backend *b, enum sl_act act, const float *gate, const float *up,
                int64_t n, int64_t cols, void *out)
{
    struct job j = {b->vec, act, gate, up, n * cols, out};
    sl_cpu_run(b, j.count, run, &j);
}
