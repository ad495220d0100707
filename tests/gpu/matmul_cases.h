/* matmul_cases.h - random matrices as files have them, one of every scheme that is loaded, for
 * tests of packing and of products. */
#ifndef SL_TESTS_GPU_MATMUL_CASES_H
#define SL_TESTS_GPU_MATMUL_CASES_H

#include "tests/gpu/gpu.h"

struct matmul_case {
    const char *name;
    enum sl_dtype type, scale_type; /* scale_type F32 and scale_cols 0: no scales */
    int64_t scale_rows, scale_cols; /* -1: the whole matrix */
    int zeros, order;
    float factor;
};

extern const struct matmul_case matmul_cases[];
extern const int matmul_cases_n;

/* Memory of a matrix on the host, and of its copy and packed form on the device. */
struct matmul_weight {
    struct sl_matrix m;
    struct sl_cuda_weight packed;
    struct sl_weight handle; /* packed: &packed */
    uint64_t bytes;          /* of the packed form */
    void *host[5], *device[6];
};

/* Makes and packs one; exits when it cannot be packed. */
void matmul_weight_make(struct sl_cuda *c, const struct matmul_case *k, int64_t rows, int64_t cols,
                        uint64_t *seed, struct matmul_weight *w);
void matmul_weight_free(struct matmul_weight *w);

/* Tables of speeds (matmul_bench.c), of the named formats or of all. */
void matmul_bench(struct sl_cuda *c, char **only, int n_only);

#endif
