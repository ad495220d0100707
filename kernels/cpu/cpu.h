/* cpu.h - inside the CPU backend: its thread pool, its scratch and the seam between operations and
 * matmul.
 *
 * Private to kernels/. */
#ifndef SL_KERNELS_CPU_CPU_H
#define SL_KERNELS_CPU_CPU_H

#include "kernels/kernels.h"

/* ---- threads --------------------------------------------------------------------------------- */

struct sl_pool;

/* n_threads workers, the caller being number 0; cpus[i] pins thread i (NULL: unpinned). Workers
 * spin for a short while after a job (SL_POOL_SPIN_NS) and then sleep on a futex, so an idle stage
 * costs nothing. */
#define SL_POOL_SPIN_NS 50000
int sl_pool_create(const int *cpus, int n_threads, struct sl_pool **out, struct sl_err *err);
void sl_pool_destroy(struct sl_pool *p);
int sl_pool_size(const struct sl_pool *p);
void sl_pool_enter(struct sl_pool *p); /* pins the calling thread as thread 0 */

/* Runs fn(arg, thread, n_threads) on every thread and returns when all are done. */
typedef void (*sl_pool_fn)(void *arg, int thread, int n_threads);
void sl_pool_run(struct sl_pool *p, sl_pool_fn fn, void *arg);
/* Inside a job: waits until all threads have arrived (for phases of one job, cheaper than two
 * runs). */
void sl_pool_barrier(struct sl_pool *p, int thread);

/* The part [*from, *to) of n items for a thread, in units of `grain` items (the last unit may be
 * short). */
void sl_pool_share(int64_t n, int64_t grain, int thread, int n_threads, int64_t *from, int64_t *to);

/* ---- scratch --------------------------------------------------------------------------------- */

/* 64-byte aligned memory that grows to the largest size asked for and is never shrunk. NULL when
 * memory is out. */
struct sl_scratch {
    void *ptr;
    size_t cap;
};
void *sl_scratch_get(struct sl_scratch *s, size_t bytes);
void sl_scratch_close(struct sl_scratch *s);

/* ---- matmul: one table per CPU row ----------------------------------------------------------- */

struct sl_mm_kernels; /* kernels/cpu/matmul.h */

struct sl_matmul_ops {
    const char *row; /* "portable", "avx2", "avx512", "amx" */
    uint32_t caps;   /* enum sl_cpu_cap bits this row needs */
    /* Packs; same contract as sl_backend_ops.load with SL_USE_MATMUL. */
    int (*load)(const struct sl_matrix *m, struct sl_weight *w, struct sl_err *err);
    void (*unload)(struct sl_weight *w);
    const struct sl_mm_kernels *kernels;
};

/* A product of rows [row, row + rows) of an input; row i of them goes to p.out + i * out_stride. */
struct sl_mm_item {
    struct sl_product p;
    int row, rows;
    int64_t out_stride; /* floats */
};

/* The driver of every row: all items over one input x [n][cols] in one job. Prepares the input,
 * shares tiles among the threads, adds bias and old output. kernels/cpu/matmul.c */
void sl_mm_run_items(const struct sl_mm_kernels *k, struct sl_pool *pool,
                     struct sl_scratch *scratch, const float *x, int n,
                     const struct sl_mm_item *items, int n_items);
/* The same contract as sl_backend_ops.matmul. */
void sl_mm_run(const struct sl_mm_kernels *k, struct sl_pool *pool, struct sl_scratch *scratch,
               const float *x, int n, const struct sl_product *p, int n_products);

/* Worst first: the portable row, then what else was compiled for this architecture. *n entries.
 * kernels/cpu/matmul.c */
const struct sl_matmul_ops *const *sl_matmul_rows(int *n);

#endif
