/* moe_cases.c - see moe_cases.h. */
#include "tests/gpu/moe_cases.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"

#define ONE_GROUP .n_groups = 1, .n_groups_used = 1
#define SAME(form) .router = "F32", .gate = form, .up = form, .down = form

/* Mixtral, Qwen 3, Qwen 2, gpt-oss, DeepSeek V2, V3, and the odd ones; every form of weights that
 * has kernels of its own, and some that have none. */
const struct moe_case moe_cases[] = {
    {"mixtral Q4_0", {8, 2, 288, SL_GATING_SOFTMAX, 1, ONE_GROUP, .scale = 1}, 352, SAME("Q4_0")},
    {"qwen3 MXFP4",
     {128, 8, 192, SL_GATING_SOFTMAX, 1, ONE_GROUP, .scale = 1},
     512,
     SAME("MXFP4 of GGUF")},
    {"qwen3 NVFP4, ties",
     {32, 8, 192, SL_GATING_SOFTMAX, 1, ONE_GROUP, .scale = 1},
     256,
     SAME("NVFP4"),
     .special = MOE_TIES},
    {"qwen2 BF16",
     {20, 4, 104, SL_GATING_SOFTMAX, 0, ONE_GROUP, .scale = 1},
     200,
     .router = "BF16",
     .gate = "BF16",
     .up = "BF16",
     .down = "BF16"},
    {"gpt-oss MXFP4",
     {32, 4, 288, SL_GATING_TOPK_SOFTMAX, 0, ONE_GROUP, .scale = 1, .act = SL_ACT_SWIGLU_OAI},
     288,
     .router = "BF16",
     .gate = "MXFP4",
     .up = "MXFP4",
     .down = "MXFP4",
     .router_bias = 1,
     .biases = 1},
    {"gpt-oss, a NaN",
     {32, 4, 96, SL_GATING_TOPK_SOFTMAX, 0, ONE_GROUP, .scale = 1, .act = SL_ACT_SWIGLU_OAI},
     96,
     SAME("MXFP4"),
     .biases = 1,
     .special = MOE_NAN},
    {"deepseek2 Q4_K, Q6_K",
     {24, 6, 256, SL_GATING_SOFTMAX, 0, 4, 2, .scale = 16},
     512,
     .router = "F32",
     .gate = "Q4_K",
     .up = "Q4_K",
     .down = "Q6_K"},
    {"deepseek3 FP8 blocks",
     {256, 8, 200, SL_GATING_SIGMOID, 1, 8, 4, .scale = 2.5f},
     384,
     SAME("E4M3, 128x128"),
     .correction = 1},
    {"deepseek3, a NaN",
     {64, 4, 96, SL_GATING_SIGMOID, 1, 8, 3, .scale = 1},
     160,
     SAME("Q8_0"),
     .correction = 1,
     .special = MOE_NAN},
    {"kimi Q8_0",
     {384, 8, 64, SL_GATING_SIGMOID, 1, ONE_GROUP, .scale = 2.8f},
     96,
     SAME("Q8_0"),
     .correction = 1},
    {"many experts",
     {1000, 12, 64, SL_GATING_SIGMOID, 0, 250, 40, .scale = 1, .act = SL_ACT_GELU},
     64,
     SAME("E4M3, rows BF16"),
     .correction = 1},
    {"all experts AWQ",
     {5, 5, 128, SL_GATING_SOFTMAX, 0, ONE_GROUP, .scale = 1, .act = SL_ACT_GELU_TANH},
     256,
     SAME("AWQ"),
     .router_bias = 1,
     .biases = 1},
    {"one expert Q5_K",
     {1, 1, 256, SL_GATING_SIGMOID, 1, ONE_GROUP, .scale = 1},
     256,
     SAME("Q5_K"),
     .biases = 1},
    {"sixty used",
     {64, 60, 64, SL_GATING_SIGMOID, 1, ONE_GROUP, .scale = 1},
     64,
     SAME("NF4"),
     .louder = 4},
    {"Q2_K, Q3_K",
     {8, 2, 256, SL_GATING_SOFTMAX, 1, ONE_GROUP, .scale = 1},
     256,
     .router = "Q8_0",
     .gate = "Q2_K",
     .up = "Q2_K",
     .down = "Q3_K"},
    {"Q5_0, Q5_1",
     {8, 2, 160, SL_GATING_SOFTMAX, 1, ONE_GROUP, .scale = 1},
     160,
     .router = "F16",
     .gate = "Q5_0",
     .up = "Q5_0",
     .down = "Q5_1"},
    {"Q4_1, int8",
     {8, 2, 160, SL_GATING_SOFTMAX, 1, ONE_GROUP, .scale = 1},
     160,
     .router = "F16",
     .gate = "Q4_1",
     .up = "Q4_1",
     .down = "I8, rows"},
    {"IQ4_NL, IQ4_XS",
     {8, 2, 256, SL_GATING_SOFTMAX, 1, ONE_GROUP, .scale = 1},
     256,
     .router = "F16",
     .gate = "IQ4_NL",
     .up = "IQ4_NL",
     .down = "IQ4_XS"},
    {"gate and up differ",
     {8, 2, 96, SL_GATING_SOFTMAX, 1, ONE_GROUP, .scale = 1},
     96,
     .router = "F16",
     .gate = "Q4_0",
     .up = "Q8_0",
     .down = "F16"},
    {"act-order, F32",
     {8, 2, 128, SL_GATING_SOFTMAX, 1, ONE_GROUP, .scale = 1},
     256,
     .router = "GPTQ act-order",
     .gate = "GPTQ act-order",
     .up = "GPTQ act-order",
     .down = "F32"},
};
const int moe_cases_n = sizeof moe_cases / sizeof *moe_cases;

static const struct matmul_case *form(const char *name)
{
    for (int i = 0; i < matmul_cases_n; i++)
        if (!strcmp(matmul_cases[i].name, name)) return &matmul_cases[i];
    printf("no form %s\n", name);
    exit(1);
}

static void experts_make(struct sl_cuda *c, const char *name, int n, int64_t rows, int64_t cols,
                         uint64_t *seed, struct matmul_weight **w, struct sl_weight **host,
                         void **descriptors)
{
    struct sl_cuda_weight *packed = calloc((size_t)n, sizeof *packed);
    *w = calloc((size_t)n, sizeof **w);
    *host = calloc((size_t)n, sizeof **host);
    for (int e = 0; e < n; e++) {
        matmul_weight_make(c, form(name), rows, cols, seed, *w + e);
        (*host)[e] = (struct sl_weight){.rows = rows, .cols = cols, .m = (*w)[e].m};
        packed[e] = (*w)[e].packed;
    }
    *descriptors = gpu_copy(packed, (size_t)n * sizeof *packed);
    free(packed);
}

/* The router's rows, as the case wants them. */
static void special_router(struct sl_cuda *c, struct moe *x, uint64_t *seed)
{
    struct matmul_weight *w = &x->router;
    int experts = x->k->m.n_experts, dim = x->k->dim;
    float *rows = w->host[0];
    SL_ASSERT(w->m.type == SL_F32);
    (void)seed;
    for (int e = 1; e < experts; e += 2)
        if (x->k->special & MOE_TIES) memcpy(rows + e * dim, rows + (e - 1) * dim, (size_t)dim * 4);
    if (x->k->special & MOE_NAN) rows[dim + dim / 2] = NAN;
    /* F32 codes are the file's floats; a row's factor is 1 */
    gpu_sync(c);
    for (int e = 0; e < experts; e++)
        gpu_write((char *)(uintptr_t)w->packed.code + e * w->packed.code_stride, rows + e * dim,
                  (size_t)dim * 4);
}

void moe_make(struct sl_cuda *c, const struct moe_case *k, struct moe *x)
{
    uint64_t seed = 17;
    const struct sl_moe *m = &k->m;
    int experts = m->n_experts, ff = m->n_ff, dim = k->dim;
    *x = (struct moe){.k = k};
    matmul_weight_make(c, form(k->router), experts, dim, &seed, &x->router);
    if (k->special) special_router(c, x, &seed);
    x->host_router = (struct sl_weight){.rows = experts, .cols = dim, .m = x->router.m};
    experts_make(c, k->gate, experts, ff, dim, &seed, &x->gate, &x->host[0], &x->descriptors[0]);
    experts_make(c, k->up, experts, ff, dim, &seed, &x->up, &x->host[1], &x->descriptors[1]);
    experts_make(c, k->down, experts, dim, ff, &seed, &x->down, &x->host[2], &x->descriptors[2]);
    int sizes[5] = {experts, experts, experts * ff, experts * ff, experts * dim};
    int wanted[5] = {k->router_bias, k->correction, k->biases, k->biases, k->biases};
    for (int i = 0; i < 5; i++) {
        if (!wanted[i]) continue;
        x->bias[i] = malloc((size_t)sizes[i] * 4);
        for (int j = 0; j < sizes[i]; j++) x->bias[i][j] = 0.3f * gpu_normal(&seed);
        x->device_bias[i] = gpu_copy(x->bias[i], (size_t)sizes[i] * 4);
    }
    x->host_m = x->device_m = *m;
    x->host_m.router = &x->host_router;
    x->host_m.gate = x->host[0], x->host_m.up = x->host[1], x->host_m.down = x->host[2];
    x->host_m.router_bias = x->bias[0], x->host_m.correction = x->bias[1];
    x->host_m.gate_bias = x->bias[2], x->host_m.up_bias = x->bias[3];
    x->host_m.down_bias = x->bias[4];
    x->device_m.router = &x->router.handle;
    x->device_m.router_bias = x->device_bias[0], x->device_m.correction = x->device_bias[1];
    x->device_m.gate_bias = x->device_bias[2], x->device_m.up_bias = x->device_bias[3];
    x->device_m.down_bias = x->device_bias[4];
    x->experts = (struct sl_cuda_experts){
        .gate = x->descriptors[0],
        .up = x->descriptors[1],
        .down = x->descriptors[2],
        .gate_form = x->gate[0].packed,
        .up_form = x->up[0].packed,
        .down_form = x->down[0].packed,
    };
}

void moe_free(struct moe *x)
{
    struct matmul_weight *all[3] = {x->gate, x->up, x->down};
    matmul_weight_free(&x->router);
    for (int i = 0; i < 3; i++) {
        for (int e = 0; e < x->k->m.n_experts; e++) matmul_weight_free(all[i] + e);
        free(all[i]);
        free(x->host[i]);
        gpu_free(x->descriptors[i]);
    }
    for (int i = 0; i < 5; i++) {
        free(x->bias[i]);
        if (x->device_bias[i]) gpu_free(x->device_bias[i]);
    }
}
