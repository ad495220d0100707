/* test_wire.c - activations to the formats of the wire and back, against the reference's numbers.
 *
 * test_cuda_wire [bench] */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/matrix.h"
#include "kernels/cuda/wire.h"
#include "tests/gpu/gpu.h"

static struct sl_cuda *gpu;

static const struct {
    int n, cols;
} shapes[] = {{1, 4096},  {2, 576},    {7, 5},     {16, 8192},  {31, 77}, {64, 2048},
              {65, 1000}, {128, 4096}, {1000, 64}, {4096, 320}, {1, 1}};

static size_t bytes_of(enum sl_dtype type, size_t n, size_t cols)
{
    return type == SL_F32 ? 4 * n * cols : type == SL_BF16 ? 2 * n * cols : 4 * n + n * cols;
}

/* Rows of very unlike sizes, with zeros, a row of zeros, and one of tiny numbers. */
static float *rows_make(int n, int cols, uint64_t seed)
{
    float *x = malloc(sizeof *x * (size_t)n * (size_t)cols);
    for (int i = 0; i < n; i++) {
        float size = i == 3 ? 0 : i == 5 ? 1e-39f : exp2f(20 * gpu_uniform(&seed));
        for (int k = 0; k < cols; k++)
            x[(size_t)i * (size_t)cols + (size_t)k] = k % 17 == 3 ? 0 : size * gpu_normal(&seed);
    }
    return x;
}

static float e4m3(uint8_t code)
{
    float v;
    struct sl_matrix m = sl_matrix_plain(SL_F8_E4M3, 1, 1, &code);
    sl_matrix_row(&m, 0, &v);
    return v;
}

static void check_bf16(const float *x, const uint16_t *got, size_t n)
{
    for (size_t i = 0; i < n; i++) assert_int_equal(got[i], sl_float_to_bf16(x[i]));
}

/* The scale is what the document says, every code the nearest, ties to the even one. */
static void check_e4m3(const float *x, const uint8_t *got, int n, int cols)
{
    for (int i = 0; i < n; i++) {
        const float *row = x + (size_t)i * (size_t)cols;
        const uint8_t *codes = got + 4 * (size_t)n + (size_t)i * (size_t)cols;
        float top = 0, scale;
        for (int k = 0; k < cols; k++) top = fmaxf(top, fabsf(row[k]));
        memcpy(&scale, got + 4 * (size_t)i, sizeof scale);
        assert_true(scale == (top > 0 ? fmaxf(top / 448, 0x1p-126f) : 1));
        for (int k = 0; k < cols; k++) {
            float v = fabsf(row[k] / scale), mine = fabsf(e4m3(codes[k]));
            int code = codes[k] & 0x7f;
            assert_in_range(code, 0, 0x7e);
            assert_int_equal(codes[k] >> 7, signbit(row[k]) != 0);
            float below = code ? v - e4m3((uint8_t)(code - 1)) : INFINITY;
            float above = code < 0x7e ? e4m3((uint8_t)(code + 1)) - v : INFINITY;
            float off = fabsf(v - mine), other = fminf(fabsf(below), fabsf(above));
            assert_true(off < other || (off == other && code % 2 == 0));
        }
    }
}

static void check_back(enum sl_dtype type, const float *x, const uint8_t *packed, const float *back,
                       int n, int cols)
{
    for (int i = 0; i < n; i++)
        for (int k = 0; k < cols; k++) {
            size_t at = (size_t)i * (size_t)cols + (size_t)k;
            float want = x[at], scale;
            if (type == SL_BF16) want = sl_bf16_to_float(sl_float_to_bf16(x[at]));
            if (type == SL_F8_E4M3) {
                memcpy(&scale, packed + 4 * (size_t)i, sizeof scale);
                want = scale * e4m3(packed[4 * (size_t)n + at]);
            }
            assert_memory_equal(&back[at], &want, sizeof want);
        }
}

static void there_and_back(enum sl_dtype type)
{
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int n = shapes[s].n, cols = shapes[s].cols;
        size_t elements = (size_t)n * (size_t)cols, bytes = bytes_of(type, (size_t)n, (size_t)cols);
        float *x = rows_make(n, cols, 77 + s), *back = malloc(4 * elements);
        uint8_t *packed = malloc(bytes + 8);
        float *dx = gpu_copy(x, 4 * elements), *dback = gpu_alloc(4 * elements);
        uint8_t *dpacked = gpu_alloc(bytes + 8);
        cudaMemset(dpacked, 0xa5, bytes + 8);
        cudaMemset(dback, 0xff, 4 * elements); /* NaN */
        gpu_sync(gpu);
        sl_cuda_pack(gpu, type, dx, n, cols, dpacked);
        sl_cuda_unpack(gpu, type, dpacked, n, cols, dback);
        gpu_read(gpu, packed, dpacked, bytes + 8);
        gpu_read(gpu, back, dback, 4 * elements);
        if (type == SL_F32) assert_memory_equal(packed, x, bytes);
        if (type == SL_BF16) check_bf16(x, (uint16_t *)(void *)packed, elements);
        if (type == SL_F8_E4M3) check_e4m3(x, packed, n, cols);
        for (int i = 0; i < 8; i++) assert_int_equal(packed[bytes + (size_t)i], 0xa5);
        check_back(type, x, packed, back, n, cols);
        gpu_free(dx);
        gpu_free(dback);
        gpu_free(dpacked);
        free(x);
        free(back);
        free(packed);
    }
}

static void test_f32(void **state)
{
    (void)state;
    there_and_back(SL_F32);
}

static void test_bf16(void **state)
{
    (void)state;
    there_and_back(SL_BF16);
}

static void test_e4m3(void **state)
{
    (void)state;
    there_and_back(SL_F8_E4M3);
}

static void test_nothing(void **state)
{
    (void)state;
    sl_cuda_pack(gpu, SL_BF16, NULL, 0, 4096, NULL);
    sl_cuda_unpack(gpu, SL_F8_E4M3, NULL, 0, 4096, NULL);
    gpu_sync(gpu);
}

struct timed {
    enum sl_dtype type;
    int n, cols;
    float *x;
    void *out;
};

static void run_pack(void *arg, int call)
{
    struct timed *t = arg;
    (void)call;
    sl_cuda_pack(gpu, t->type, t->x, t->n, t->cols, t->out);
}

static void bench(void)
{
    static const enum sl_dtype types[] = {SL_F32, SL_BF16, SL_F8_E4M3};
    static const int rows[] = {1, 64, 512, 4096};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
            struct timed t = {types[k], rows[i], 8192, NULL, NULL};
            t.x = gpu_alloc(4 * (size_t)t.n * 8192);
            t.out = gpu_alloc(4 * (size_t)t.n * 8192);
            double s = gpu_time(gpu, 21, 50, run_pack, &t);
            printf("pack %4d x 8192 to %-7s %7.2f us\n", t.n, sl_dtype_name(t.type), s * 1e6);
            gpu_free(t.x);
            gpu_free(t.out);
        }
}

int main(int argc, char **argv)
{
    gpu = gpu_open(256, 64, 1, 1, 16);
    if (argc > 1 && strcmp(argv[1], "bench") == 0) bench();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_f32), cmocka_unit_test(test_bf16),
                                       cmocka_unit_test(test_e4m3), cmocka_unit_test(test_nothing)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    gpu_close(gpu);
    return failed;
}
