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
    struct sl_cuda_backend *cuda; /* an NVIDIA card; NULL on the host */
};

extern const struct sl_backend_ops sl_ref_ops; /* ref/ops.c */
extern const struct sl_backend_ops sl_cpu_ops; /* cpu/ops.c */

/* The mixture of experts of every backend, over its other operations. kernels/moe.c */
void sl_moe_run(struct sl_backend *b, const struct sl_moe *m, const void *x, int n, int dim,
                float *out);

/* The operations over rows of every backend whose product rows are float32. kernels/floats.c */
void sl_floats_to_rows(struct sl_backend *b, const float *x, int n, int cols, void *out);
size_t sl_floats_rows_bytes(int64_t n, int64_t cols);
void sl_floats_mix(struct sl_backend *b, const float *from, int64_t from_stride, float *to,
                   int64_t to_stride, int64_t n, int64_t cols, float scale, int add);
void sl_floats_weigh_rows(struct sl_backend *b, const float *gain, const void *x, int n, int dim,
                          void *y, int cols);
void sl_floats_pick(struct sl_backend *b, const float *x, const int32_t *picks, int n, int dim,
                    float *out);
void sl_floats_soften(struct sl_backend *b, float *x, int64_t count, float scale, float cap);

#endif
