/* backend.h - what a backend is made of. Private to kernels/.
 *
 * `ref` uses only the pool; `cpu` joins a row of vector operations with a row of matmul of the same
 * CPU. */
#ifndef SL_KERNELS_BACKEND_H
#define SL_KERNELS_BACKEND_H

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/ops.h"

struct sl_backend {
    const struct sl_backend_ops *ops;
    const char *row; /* "ref", "portable", ... */
    enum sl_dtype kv_type;
    struct sl_pool *pool;
    const struct sl_matmul_ops *matmul; /* NULL in ref */
    const struct sl_op_row *vec;        /* NULL in ref */
    struct sl_scratch matmul_scratch;
    struct sl_scratch attention_scratch;
    struct sl_scratch moe_scratch;
    struct sl_scratch head_scratch;
    struct sl_rope_table rope[SL_ROPE_TABLES];
    uint64_t rope_uses;
};

extern const struct sl_backend_ops sl_ref_ops; /* ref/ops.c */
extern const struct sl_backend_ops sl_cpu_ops; /* cpu/ops.c */

/* The mixture of experts of every backend, over its other operations. kernels/moe.c */
void sl_moe_run(struct sl_backend *b, const struct sl_moe *m, const float *x, int n, int dim,
                float *out);

#endif
