/* kv.cu - new rows of the caches: keys and values of heads, and latents. A thread stores one
 * element; neighbours store neighbours. Rows of position -1 store nothing. */
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_mma.cuh"

#define THREADS 256

struct job {
    const int32_t *pos, *slot, *tables;
    int max_blocks;
    struct kv_blocks blocks;
    int n_heads, dim; /* a row of the input is n_heads * dim */
    int64_t count;    /* elements of the input */
};

/* Element of the cache for element i of the input; -1: none. */
static __device__ __forceinline__ int64_t place(const struct job &j, int64_t i)
{
    int width = j.n_heads * j.dim, row = (int)(i / width), e = (int)(i % width);
    int pos = j.pos[row];
    if (pos < 0) return -1;
    const int32_t *table = j.tables + (int64_t)j.slot[row] * j.max_blocks;
    return (int64_t)kv_row(table, j.blocks, j.n_heads, e / j.dim, pos) * j.dim + e % j.dim;
}

/* b, b_cache: NULL for latents */
template <typename KV>
static __global__ void __launch_bounds__(THREADS)
    store(const struct job j, const float *a, void *a_cache, const float *b, void *b_cache)
{
    typedef typename KV::type T;
    sl_next();
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    int64_t at = i < j.count ? place(j, i) : -1;
    sl_wait();
    if (at < 0) return;
    ((T *)a_cache)[at] = KV::from(a[i]);
    if (b) ((T *)b_cache)[at] = KV::from(b[i]);
}

static void write(struct sl_cuda *c, enum sl_dtype type, int block_tokens, int n_heads, int dim,
                  const float *a, void *a_cache, const float *b, void *b_cache)
{
    const struct sl_cuda_step *s = &c->step;
    struct job j = {s->pos,
                    s->slot,
                    s->tables,
                    s->max_blocks,
                    kv_blocks_of(block_tokens),
                    n_heads,
                    dim,
                    (int64_t)s->n_rows * n_heads * dim};
    if (j.count <= 0) return;
    dim3 grid((unsigned)((j.count + THREADS - 1) / THREADS));
    with_kv_type(type, [&](auto t) {
        sl_launch(c, store<decltype(t)>, grid, THREADS, 0, j, a, a_cache, b, b_cache);
    });
}

extern "C" void sl_cuda_kv_write(struct sl_cuda *c, const struct sl_kv_view *kv, const float *k,
                                 const float *v)
{
    write(c, kv->type, kv->block_tokens, kv->n_kv_heads, kv->head_dim, k, kv->k, v, kv->v);
}

extern "C" void sl_cuda_latent_write(struct sl_cuda *c, const struct sl_latent_view *kv,
                                     const float *x)
{
    write(c, kv->type, kv->block_tokens, 1, kv->dim, x, kv->rows, nullptr, nullptr);
}
