/* lt_probe.c - what this card's cuBLASLt really does. Support differs between cards and releases,
 * and scale arrays in another layout than expected are accepted and give wrong numbers, so every
 * kind of product is tried once on numbers whose result is known. Sizes are chosen to tell layouts
 * apart: two blocks of 128 rows, and 5 of columns, which is no multiple of 4. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "kernels/cuda/lt.h"

enum { M = 256, N = 72, K = 640 };
#define WRONG                                                                                      \
    2e-3 /* relative error (rms) above which a kind is not used; layouts err by 0.1 and up */
#define CODES_MAX (M * K * 2)
#define SCALES_MAX 16384 /* bytes; the largest are those of A for NVFP4: 256 x 40 */

static const char *const NAMES[SL_LT_KINDS] = {
    [SL_LT_HALF] = "f16",
    [SL_LT_FP8] = "fp8 without scales",
    [SL_LT_FP8_OUTER] = "fp8 with scales per row",
    [SL_LT_FP8_BLOCK] = "fp8 with scales per 128x128",
    [SL_LT_MXFP8] = "mxfp8",
    [SL_LT_NVFP4] = "nvfp4",
};

/* One operand: codes and scales as cuBLASLt gets them, and what they mean. */
struct operand {
    int rows;
    uint8_t codes[CODES_MAX], scales[SCALES_MAX];
    double *value; /* [rows][K] */
};

struct probe {
    struct operand a, b;
    double *expected; /* [N][M] */
    void *memory;     /* device: codes and scales of both, D */
};

static double e4m3(int code)
{
    int e = code >> 3 & 15, m = code & 7;
    double v = e ? ldexp(8 + m, e - 10) : ldexp(m, -9);
    return code & 0x80 ? -v : v;
}

static double e2m1(int code)
{
    static const double LEVELS[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    return code & 8 ? -LEVELS[code & 7] : LEVELS[code & 7];
}

static void put_float(struct operand *o, int64_t at, double v)
{
    float f = (float)v;
    memcpy(o->scales + 4 * at, &f, sizeof f);
}

/* Sets the scale that (row, k) belongs to, and returns it. `h` is a hash of what shares it. */
static double scale_at(enum sl_lt_kind kind, struct operand *o, int is_a, int row, int k)
{
    int block = row / 128;
    switch (kind) {
    case SL_LT_FP8_OUTER: {
        double s = 0.5 + row % 7 * 0.25;
        put_float(o, row, s);
        return s;
    }
    case SL_LT_FP8_BLOCK: {
        double s = 0.5 + ((is_a ? block : row) * 5 + k / 128) % 11 * 0.125;
        put_float(o, is_a ? block * 8 + k / 128 : k / 128 * o->rows + row, s);
        return s;
    }
    case SL_LT_MXFP8: {
        int e = 125 + (row * 3 + k / 32) % 5;
        o->scales[sl_lt_scale_at(row, k / 32, K / 32)] = (uint8_t)e;
        return ldexp(1, e - 127);
    }
    case SL_LT_NVFP4: {
        int code = 0x30 + (row * 3 + k / 16) % 13;
        o->scales[sl_lt_scale_at(row, k / 16, K / 16)] = (uint8_t)code;
        return e4m3(code);
    }
    default:
        return 1;
    }
}

static void make(enum sl_lt_kind kind, struct operand *o, int is_a, uint64_t seed)
{
    memset(o->codes, 0, sizeof o->codes);
    memset(o->scales, 0, sizeof o->scales);
    for (int r = 0; r < o->rows; r++)
        for (int k = 0; k < K; k++) {
            int64_t i = (int64_t)r * K + k;
            int code = (int)(sl_mix64(seed + (uint64_t)i) >> 40 & 0xff);
            double v;
            if (kind == SL_LT_HALF) {
                v = (code - 127.5) / 64;
                uint16_t h = sl_float_to_half((float)v);
                memcpy(o->codes + 2 * i, &h, 2);
            } else if (kind == SL_LT_NVFP4) {
                v = e2m1(code & 15);
                o->codes[i / 2] |= (uint8_t)((code & 15) << i % 2 * 4);
            } else {
                code &= 0xbf; /* below 2: no NaN, and sums that floats hold */
                v = e4m3(code);
                o->codes[i] = (uint8_t)code;
            }
            o->value[i] = v * scale_at(kind, o, is_a, r, k);
        }
}

static void multiply(struct probe *p)
{
    for (int j = 0; j < N; j++)
        for (int i = 0; i < M; i++) {
            double s = 0;
            const double *a = p->a.value + i * K, *b = p->b.value + j * K;
            for (int k = 0; k < K; k++) s += a[k] * b[k];
            p->expected[j * M + i] = s;
        }
}

static double error_of(const struct probe *p, const void *d, enum sl_lt_sums sums)
{
    double e = 0, s = 0;
    for (int i = 0; i < M * N; i++) {
        float got;
        if (sums == SL_LT_F32)
            got = ((const float *)d)[i];
        else if (sums == SL_LT_F16)
            got = sl_half_to_float(((const uint16_t *)d)[i]);
        else
            got = sl_bf16_to_float(((const uint16_t *)d)[i]);
        e += (got - p->expected[i]) * (got - p->expected[i]);
        s += p->expected[i] * p->expected[i];
    }
    return sqrt(e / s);
}

enum { REFUSED = -1, FAILED = -2 };

/* The relative error of one kind, REFUSED by cuBLASLt, or FAILED by the device. */
static double try_kind(struct sl_cuda *c, struct probe *p, enum sl_lt_kind kind,
                       enum sl_lt_sums sums)
{
    static float d[M * N];
    char *codes = p->memory, *scales = codes + 2 * CODES_MAX, *made = scales + 2 * SCALES_MAX;
    struct sl_lt_gemm g = {.kind = kind,
                           .m = M,
                           .n = N,
                           .k = K,
                           .a = codes,
                           .b = codes + CODES_MAX,
                           .a_stride = K,
                           .b_stride = K,
                           .a_scale = scales,
                           .b_scale = scales + SCALES_MAX,
                           .d = made,
                           .d_stride = M,
                           .sums = sums};
    cudaError_t e = cudaMemcpy(codes, p->a.codes, CODES_MAX, cudaMemcpyHostToDevice);
    if (!e) e = cudaMemcpy(codes + CODES_MAX, p->b.codes, CODES_MAX, cudaMemcpyHostToDevice);
    if (!e) e = cudaMemcpy(scales, p->a.scales, SCALES_MAX, cudaMemcpyHostToDevice);
    if (!e) e = cudaMemcpy(scales + SCALES_MAX, p->b.scales, SCALES_MAX, cudaMemcpyHostToDevice);
    if (!e) e = cudaMemset(made, 0xff, sizeof d); /* NaN: what is not written is seen */
    if (!e) e = cudaDeviceSynchronize();
    if (e) return FAILED;
    if (sl_lt_run(c, &g)) return REFUSED;
    e = cudaStreamSynchronize(c->stream);
    if (!e) e = cudaMemcpy(d, made, sizeof d, cudaMemcpyDeviceToHost);
    return e ? FAILED : error_of(p, d, sums);
}

static void note(char *facts, size_t max, enum sl_lt_kind kind, int sums, double e)
{
    size_t at = strlen(facts);
    static const char *const TYPES[SL_LT_SUMS] = {"f32", "f16", "bf16"};
    const char *d = TYPES[sums];
    if (e == REFUSED)
        snprintf(facts + at, max - at, "%s to %s: refused by cuBLASLt on this card\n", NAMES[kind],
                 d);
    else if (e < WRONG)
        snprintf(facts + at, max - at, "%s to %s: works (relative error %.1e)\n", NAMES[kind], d,
                 e);
    else
        snprintf(facts + at, max - at, "%s to %s: not used, gives wrong numbers (%.1e)\n",
                 NAMES[kind], d, e);
}

static int try_all(struct sl_cuda *c, struct probe *p, int can[SL_LT_KINDS][SL_LT_SUMS],
                   char *facts, size_t facts_max)
{
    facts[0] = 0;
    for (int k = 0; k < SL_LT_KINDS; k++) {
        make(k, &p->a, 1, 1);
        make(k, &p->b, 0, 2);
        multiply(p);
        for (int sums = 0; sums < SL_LT_SUMS; sums++) {
            double e = try_kind(c, p, k, sums);
            if (e == FAILED) return SL_ESYS;
            can[k][sums] = e >= 0 && e < WRONG;
            note(facts, facts_max, k, sums, e);
        }
    }
    return 0;
}

int sl_lt_probe(struct sl_cuda *c, int can[SL_LT_KINDS][SL_LT_SUMS], char *facts, size_t facts_max,
                struct sl_err *err)
{
    struct probe *p = calloc(1, sizeof *p);
    int r = SL_ENOMEM;
    if (p) {
        p->a.rows = M, p->b.rows = N;
        p->a.value = malloc(sizeof(double) * M * K);
        p->b.value = malloc(sizeof(double) * N * K);
        p->expected = malloc(sizeof(double) * M * N);
        size_t bytes = 2 * (CODES_MAX + SCALES_MAX) + sizeof(float) * M * N;
        if (p->a.value && p->b.value && p->expected && !cudaMalloc(&p->memory, bytes))
            r = try_all(c, p, can, facts, facts_max);
        if (p->memory) cudaFree(p->memory);
        free(p->a.value);
        free(p->b.value);
        free(p->expected);
        free(p);
    }
    if (r == SL_ENOMEM) return sl_err_set(err, r, "no memory to try cuBLASLt's products");
    if (r)
        return sl_err_set(err, r, "CUDA device %d failed in a product of cuBLASLt: %s", c->device,
                          cudaGetErrorString(cudaGetLastError()));
    return 0;
}
