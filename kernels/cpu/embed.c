/* embed.c - token ids to rows of the embedding table, decoded from the file's own format.
 *
 * A row is a few hundred bytes and is used once, so the plain decoder is fast enough: for 512
 * tokens it takes less than one per cent of a prefill. */
#include "kernels/backend.h"

struct job {
    const struct sl_weight *w;
    const int32_t *ids;
    int n;
    float *out;
};

static void run(void *arg, int thread, int n_threads)
{
    const struct job *j = arg;
    const struct sl_weight *w = j->w;
    int64_t from, to;
    sl_pool_share(j->n, 1, thread, n_threads, &from, &to);
    for (int64_t i = from; i < to; i++) sl_matrix_row(&w->m, j->ids[i], j->out + i * w->cols);
}

void sl_cpu_embed(struct sl_backend *b, const struct sl_weight *w, const int32_t *ids, int n,
                  float *out)
{
    struct job j = {w, ids, n, out};
    sl_cpu_run(b, (int64_t)n * w->cols, run, &j);
}
