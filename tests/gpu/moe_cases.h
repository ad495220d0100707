/* moe_cases.h - mixtures of experts with random weights, on the host for the reference and on the
 * device; and tables of their speed. */
#ifndef SL_TESTS_GPU_MOE_CASES_H
#define SL_TESTS_GPU_MOE_CASES_H

#include "kernels/cuda/moe.h"
#include "tests/gpu/matmul_cases.h"

enum { MOE_TIES = 1, MOE_NAN = 2 }; /* experts come in equal pairs; expert 1's logit is NaN */

struct moe_case {
    const char *name;
    struct sl_moe m; /* without pointers */
    int dim;
    const char *router, *gate, *up, *down; /* forms of matmul_cases */
    int router_bias, correction, biases, special;
    int louder; /* inputs times 2^louder, where weights are so small that hidden values would be,
                   too */
};

extern const struct moe_case moe_cases[];
extern const int moe_cases_n;

struct moe {
    const struct moe_case *k;
    struct matmul_weight router, *gate, *up, *down; /* [n_experts] */
    struct sl_weight host_router, *host[3];         /* of the reference: gate, up, down */
    float *bias[5], *device_bias[5];                /* router, correction, gate, up, down */
    struct sl_moe host_m, device_m;
    struct sl_cuda_experts experts;
    void *descriptors[3];
};

void moe_make(struct sl_cuda *c, const struct moe_case *k, struct moe *x);
void moe_free(struct moe *x);

/* Tables of speeds: decode and prefill of known models' shapes. */
void moe_bench(struct sl_cuda *c);

#endif
