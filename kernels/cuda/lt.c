/* lt.c - see lt.h. Descriptors live on the stack for the length of a call; the algorithm that
 * cuBLASLt's heuristic proposes is asked for once per shape, numbers of rows in buckets, so that in
 * the steady state a product is one launch and no search. Alpha and beta are read from device
 * memory: factors that only the device knows cost nothing. */
#include "kernels/cuda/lt.h"

#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/gemm.h"

#define ALGOS 1024 /* shapes remembered; the oldest of a slot is forgotten */
#define WAYS 4
#define ALIGN 16       /* bytes: what pointers of a product are aligned to at least */
#define FACTS_MAX 2048 /* bytes */

struct shape {
    int64_t kind, sums, add;
    int64_t m, n, k, a_stride, b_stride, d_stride;
};

struct algo {
    struct shape shape;
    uint64_t used; /* 0: empty */
    int refused;
    cublasLtMatmulAlgo_t algo;
};

struct sl_cuda_lt {
    cublasLtHandle_t handle;
    void *workspace;
    float *constants; /* device: 0, 1, 1/SL_CUDA_GLU_SCALE */
    int can[SL_LT_KINDS][SL_LT_SUMS];
    char facts[FACTS_MAX];
    uint64_t uses;
    struct algo algos[ALGOS];
};

enum { ZERO, ONE, GLU, CONSTANTS };

/* What one product is to cuBLASLt. */
struct call {
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t a, b, d;
};

static const struct {
    cudaDataType_t type;
    int32_t a_mode, b_mode; /* -1: no scales */
    int align;              /* m and k are multiples of it */
} KINDS[SL_LT_KINDS] = {
    [SL_LT_HALF] = {CUDA_R_16F, -1, -1, 8},
    [SL_LT_FP8] = {CUDA_R_8F_E4M3, -1, -1, 16},
    [SL_LT_FP8_OUTER] = {CUDA_R_8F_E4M3, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F,
                         CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F, 16},
    [SL_LT_FP8_BLOCK] = {CUDA_R_8F_E4M3, CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F,
                         CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F, 16},
    [SL_LT_MXFP8] = {CUDA_R_8F_E4M3, CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0,
                     CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0, 32},
    [SL_LT_NVFP4] = {CUDA_R_4F_E2M1, CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3,
                     CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3, 32},
};

static const cudaDataType_t SUMS[SL_LT_SUMS] = {
    [SL_LT_F32] = CUDA_R_32F, [SL_LT_F16] = CUDA_R_16F, [SL_LT_BF16] = CUDA_R_16BF};

int sl_lt_can(const struct sl_cuda_lt *lt, enum sl_lt_kind kind, enum sl_lt_sums sums)
{
    return lt && lt->can[kind][sums];
}

const float *sl_lt_glu_alpha(const struct sl_cuda_lt *lt)
{
    return lt->constants + GLU;
}

const char *sl_cuda_lt_facts(const struct sl_cuda *c)
{
    return c->lt ? c->lt->facts : "";
}

int sl_lt_fits(const struct sl_lt_gemm *g)
{
    int align = KINDS[g->kind].align;
    int64_t d_bytes = g->d_stride * (g->sums == SL_LT_F32 ? 4 : 2);
    uintptr_t all = (uintptr_t)g->a | (uintptr_t)g->b | (uintptr_t)g->d | (uintptr_t)d_bytes;
    if (g->m % align || g->k % align || g->a_stride % align || g->b_stride % align) return 0;
    return all % ALIGN == 0 && (g->kind != SL_LT_FP8_BLOCK || g->n % 8 == 0);
}

static int set(struct call *l, cublasLtMatmulDescAttributes_t name, const void *value, size_t n)
{
    return cublasLtMatmulDescSetAttribute(&l->desc, name, value, n) != CUBLAS_STATUS_SUCCESS;
}

/* Non-zero when this cuBLASLt does not know an attribute. */
static int describe(struct call *l, const struct sl_lt_gemm *g)
{
    cublasOperation_t turned = CUBLAS_OP_T;
    int32_t device = CUBLASLT_POINTER_MODE_DEVICE, a = KINDS[g->kind].a_mode,
            b = KINDS[g->kind].b_mode;
    cudaDataType_t type = KINDS[g->kind].type, d_type = SUMS[g->sums];
    int bad = cublasLtMatmulDescInit(&l->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) != 0;
    bad |= set(l, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned);
    bad |= set(l, CUBLASLT_MATMUL_DESC_POINTER_MODE, &device, sizeof device);
    if (a >= 0) {
        bad |= set(l, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &a, sizeof a);
        bad |= set(l, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &b, sizeof b);
        bad |= set(l, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &g->a_scale, sizeof g->a_scale);
        bad |= set(l, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &g->b_scale, sizeof g->b_scale);
    }
    uint64_t m = (uint64_t)g->m, n = (uint64_t)g->n, k = (uint64_t)g->k;
    bad |= cublasLtMatrixLayoutInit(&l->a, type, k, m, g->a_stride) != 0;
    bad |= cublasLtMatrixLayoutInit(&l->b, type, k, n, g->b_stride) != 0;
    bad |= cublasLtMatrixLayoutInit(&l->d, d_type, m, n, g->d_stride) != 0;
    return bad;
}

static uint64_t hash_of(const struct shape *s)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a over the words */
    const int64_t words[] = {s->kind * 8 + s->sums * 2 + s->add,
                             s->m,
                             s->n,
                             s->k,
                             s->a_stride,
                             s->b_stride,
                             s->d_stride};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        h = (h ^ (uint64_t)words[i]) * 0x100000001b3u;
    return h ^ h >> 29;
}

static void search(struct sl_cuda_lt *lt, const struct call *l, struct algo *to)
{
    static const cublasLtMatmulPreferenceAttributes_t ALIGNMENTS[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    cublasLtMatmulPreferenceOpaque_t preference;
    cublasLtMatmulHeuristicResult_t found;
    size_t workspace = SL_CUDA_LT_WORKSPACE;
    uint32_t align = ALIGN;
    int n = 0;
    cublasLtMatmulPreferenceInit(&preference);
    cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &workspace, sizeof workspace);
    for (int i = 0; i < 4; i++)
        cublasLtMatmulPreferenceSetAttribute(&preference, ALIGNMENTS[i], &align, sizeof align);
    cublasStatus_t s =
        cublasLtMatmulAlgoGetHeuristic(lt->handle, (void *)&l->desc, (void *)&l->a, (void *)&l->b,
                                       (void *)&l->d, (void *)&l->d, &preference, 1, &found, &n);
    to->refused = s != CUBLAS_STATUS_SUCCESS || n == 0;
    if (!to->refused) to->algo = found.algo;
}

/* The algorithm for this shape, from memory or searched for; NULL when there is none. */
static struct algo *algo_for(struct sl_cuda_lt *lt, const struct sl_lt_gemm *g)
{
    struct shape s = {.kind = g->kind,
                      .sums = g->sums,
                      .add = g->add != 0,
                      .m = g->m,
                      .n = g->n,
                      .k = g->k,
                      .a_stride = g->a_stride,
                      .b_stride = g->b_stride,
                      .d_stride = g->d_stride};
    struct algo *slot = &lt->algos[hash_of(&s) % (ALGOS / WAYS) * WAYS], *oldest = slot;
    for (int i = 0; i < WAYS; i++) {
        if (slot[i].used && memcmp(&slot[i].shape, &s, sizeof s) == 0) {
            slot[i].used = ++lt->uses;
            return slot[i].refused ? NULL : &slot[i];
        }
        if (slot[i].used < oldest->used) oldest = &slot[i];
    }
    struct call l;
    oldest->shape = s;
    oldest->used = ++lt->uses;
    oldest->refused = describe(&l, g);
    if (!oldest->refused) search(lt, &l, oldest);
    return oldest->refused ? NULL : oldest;
}

/* Numbers of rows that share an algorithm, by the largest of them: searching depends on the shape
 * alone, never on what was multiplied before. */
static int64_t bucket_of(int64_t n)
{
    int64_t step = n <= 512 ? 64 : n <= 4096 ? 256 : 1024;
    return (n + step - 1) / step * step;
}

static int run(struct sl_cuda *c, const struct sl_lt_gemm *g, int64_t n)
{
    struct sl_cuda_lt *lt = c->lt;
    struct sl_lt_gemm searched = *g;
    struct call l;
    searched.n = n;
    struct algo *algo = algo_for(lt, &searched);
    if (!algo || describe(&l, g)) return SL_EUNSUPPORTED;
    const float *alpha = g->alpha ? g->alpha : lt->constants + ONE;
    const float *beta = lt->constants + (g->add ? ONE : ZERO);
    cublasStatus_t s =
        cublasLtMatmul(lt->handle, &l.desc, alpha, g->a, &l.a, g->b, &l.b, beta, g->d, &l.d, g->d,
                       &l.d, &algo->algo, lt->workspace, SL_CUDA_LT_WORKSPACE, c->stream);
    return s == CUBLAS_STATUS_SUCCESS ? 0 : SL_EUNSUPPORTED;
}

int sl_lt_run(struct sl_cuda *c, const struct sl_lt_gemm *g)
{
    int64_t bucket = bucket_of(g->n);
    if (!sl_lt_fits(g)) return SL_EUNSUPPORTED;
    if (run(c, g, bucket) == 0) return 0;
    return bucket == g->n ? SL_EUNSUPPORTED : run(c, g, g->n);
}

int sl_cuda_lt_create(struct sl_cuda *c, struct sl_err *err)
{
    const float constants[CONSTANTS] = {[ZERO] = 0, [ONE] = 1, [GLU] = 1 / SL_CUDA_GLU_SCALE};
    c->lt = calloc(1, sizeof *c->lt);
    if (!c->lt) return sl_err_set(err, SL_ENOMEM, "no memory for cuBLASLt's tables");
    if (cublasLtCreate(&c->lt->handle) != CUBLAS_STATUS_SUCCESS) {
        sl_cuda_lt_destroy(c);
        return sl_err_set(err, SL_ESYS,
                          "cuBLASLt cannot start on CUDA device %d; does its version fit the "
                          "driver's (nvidia-smi)?",
                          c->device);
    }
    cudaError_t e = cudaMalloc(&c->lt->workspace, SL_CUDA_LT_WORKSPACE);
    if (!e) e = cudaMalloc((void **)&c->lt->constants, sizeof constants);
    if (!e) e = cudaMemcpy(c->lt->constants, constants, sizeof constants, cudaMemcpyHostToDevice);
    if (e) {
        sl_cuda_lt_destroy(c);
        return sl_err_set(err, SL_ENOMEM, "CUDA device %d: no %u MiB for cuBLASLt: %s", c->device,
                          SL_CUDA_LT_WORKSPACE >> 20, cudaGetErrorString(e));
    }
    int r = sl_lt_probe(c, c->lt->can, c->lt->facts, sizeof c->lt->facts, err);
    if (r) sl_cuda_lt_destroy(c);
    return r;
}

void sl_cuda_lt_destroy(struct sl_cuda *c)
{
    struct sl_cuda_lt *lt = c->lt;
    c->lt = NULL;
    if (!lt) return;
    if (lt->workspace) cudaFree(lt->workspace);
    if (lt->constants) cudaFree(lt->constants);
    if (lt->handle) cublasLtDestroy(lt->handle);
    free(lt);
}
