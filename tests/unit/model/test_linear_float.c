/* test_linear_float.c - layers of floating-point codes: plain, FP8, NVFP4, MXFP4, gpt-oss, GGUF.
 *
 * Every case is written from known codes by the layout of its format and must come back exactly. */
#include "linear_case.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/gguf_writer.h"

#define N 6
#define K 64
static const float e2m1[16] = {0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.f, -.5f, -1, -1.5f, -2, -3, -4, -6};

/* The value of an E4M3 or E5M2 byte, straight from the definition. */
static float f8(uint8_t c, int exp_bits)
{
    int man_bits = 7 - exp_bits, bias = (1 << (exp_bits - 1)) - 1;
    int e = c >> man_bits & ((1 << exp_bits) - 1), m = c & ((1 << man_bits) - 1);
    double v = e ? ldexp(1 + (double)m / (1 << man_bits), e - bias)
                 : ldexp((double)m / (1 << man_bits), 1 - bias);
    return (float)(c & 0x80 ? -v : v);
}

static uint8_t finite_e4m3(void)
{
    return (uint8_t)(case_chance(127) | case_chance(2) << 7);
}

/* ---- plain ----------------------------------------------------------------------------------- */

static void plain_types(void **state)
{
    (void)state;
    static const char *const names[] = {"F32", "F16", "BF16"};
    for (int type = 0; type < 3; type++) {
        float want[N * K];
        uint16_t f16[N * K], bf16[N * K];
        struct linear_case c;
        case_init(&c);
        for (int i = 0; i < N * K; i++) want[i] = case_scale(&f16[i], &bf16[i]);
        const void *data = type == 0 ? (void *)want : type == 1 ? f16 : bf16;
        case_2d(&c, ".weight", names[type], N, K, data, N * K * (type ? 2 : 4));
        case_expect(&c, N, K, want);
    }
}

/* Tensors at odd places are copied: the pointer divides by the element. */
static void plain_misaligned(void **state)
{
    (void)state;
    for (size_t pad = 0; pad < 8; pad++) {
        float want[N * K];
        struct linear_case c;
        case_init(&c);
        if (pad % 2) case_config(&c, "{}"); /* from a file as well */
        for (int i = 0; i < N * K; i++) want[i] = case_scale(NULL, NULL);
        c.file.pad = pad;
        case_2d(&c, ".weight", "F32", N, K, want, sizeof want);
        case_expect_expert(&c, -1, 0, N, K, want);
        assert_int_equal((uintptr_t)c.l.m.data % 4, 0);
        case_close(&c);
    }
}

/* ---- FP8 ------------------------------------------------------------------------------------- */

static void write_codes(struct linear_case *c, uint8_t *q, float *want, int64_t n, int64_t k)
{
    for (int64_t i = 0; i < n * k; i++) {
        q[i] = finite_e4m3();
        want[i] = f8(q[i], 4);
    }
    case_2d(c, ".weight", "F8_E4M3", n, k, q, (size_t)(n * k));
}

/* DeepSeek's blocks, ragged on both sides. */
static void fp8_blocks(void **state)
{
    (void)state;
    enum { ROWS = 192, COLS = 320, GN = 2, GK = 3 };
    static uint8_t q[ROWS * COLS];
    static float want[ROWS * COLS];
    static const char *const types[] = {"F32", "BF16", "F8_E8M0", "U8"};
    for (int type = 0; type < 4; type++) {
        struct linear_case c;
        float s[GN * GK];
        uint16_t s16[GN * GK];
        uint8_t s8[GN * GK];
        case_init(&c);
        write_codes(&c, q, want, ROWS, COLS);
        for (int i = 0; i < GN * GK; i++) {
            s8[i] = (uint8_t)(120 + case_chance(10));
            s[i] = type < 2 ? case_scale(NULL, &s16[i]) : ldexpf(1, s8[i] - 127);
        }
        for (int i = 0; i < ROWS * COLS; i++) want[i] *= s[i / COLS / 128 * GK + i % COLS / 128];
        const void *data = type == 0 ? (void *)s : type == 1 ? (void *)s16 : s8;
        case_2d(&c, ".weight_scale_inv", types[type], GN, GK, data,
                GN * GK *
                    (size_t)(type == 0   ? 4
                             : type == 1 ? 2
                                         : 1));
        case_expect(&c, ROWS, COLS, want);
    }
}

/* A block size of config.json that is not the usual one. */
static void fp8_blocks_of_config(void **state)
{
    (void)state;
    static const char *const configs[] = {
        "{\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[4,32]}}",
        "{\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"config_groups\":"
        "{\"g\":{\"weights\":{\"strategy\":\"block\",\"block_structure\":[4,32]}}}}}"};
    for (int i = 0; i < 2; i++) {
        struct linear_case c;
        uint8_t q[N * K];
        float want[N * K], s[4];
        case_init(&c);
        case_config(&c, configs[i]);
        write_codes(&c, q, want, N, K);
        for (int g = 0; g < 4; g++) s[g] = case_scale(NULL, NULL);
        for (int e = 0; e < N * K; e++) want[e] *= s[e / K / 4 * 2 + e % K / 32];
        case_2d(&c, i ? ".weight_scale" : ".weight_scale_inv", "F32", 2, 2, s, sizeof s);
        case_expect(&c, N, K, want);
    }
}

/* One scale, one per row, several per row; in the shapes that makers write. */
static void fp8_grains(void **state)
{
    (void)state;
    static const struct {
        const char *suffix;
        int rank;
        int64_t shape[2];
        int rows, cols; /* that share a scale */
    } grains[] = {
        {".weight_scale", 0, {0}, N, K},
        {".weight_scale", 1, {1}, N, K},
        {".weight_scale_inv", 2, {1, 1}, N, K},
        {".weight_scale_inv", 0, {0}, N, K},
        {".weight_scale", 2, {N, 1}, 1, K},
        {".weight_scale", 1, {N}, 1, K},
        {".weight_scale", 2, {N, 4}, 1, K / 4},
        {".qscale_weight", 0, {0}, N, K},
        {".scale", 1, {1}, N, K},
    };
    for (size_t i = 0; i < sizeof grains / sizeof grains[0]; i++) {
        struct linear_case c;
        uint8_t q[N * K];
        float want[N * K], s[N * 4];
        case_init(&c);
        write_codes(&c, q, want, N, K);
        for (int g = 0; g < N * 4; g++) s[g] = case_scale(NULL, NULL);
        int per_row = K / grains[i].cols, n = N / grains[i].rows * per_row;
        for (int e = 0; e < N * K; e++)
            want[e] *= s[e / K / grains[i].rows * per_row + e % K / grains[i].cols];
        case_tensor(&c, grains[i].suffix, "F32", grains[i].rank, grains[i].shape, s,
                    (size_t)n * sizeof *s);
        case_tensor(&c, ".input_scale", "F32", 0, NULL, (float[]){NAN}, 4); /* not ours to read */
        case_expect(&c, N, K, want);
    }
}

static void fp8_e5m2(void **state)
{
    (void)state;
    struct linear_case c;
    uint8_t q[N * K];
    float want[N * K], s = 0.375f;
    case_init(&c);
    for (int i = 0; i < N * K; i++) {
        q[i] = (uint8_t)(case_chance(0x7c) | case_chance(2) << 7);
        want[i] = f8(q[i], 5) * s;
    }
    case_2d(&c, ".weight", "F8_E5M2", N, K, q, sizeof q);
    case_tensor(&c, ".weight_scale", "F32", 1, (int64_t[]){1}, &s, 4);
    case_expect(&c, N, K, want);
}

/* ---- FP4 ------------------------------------------------------------------------------------- */

/* Codes of n rows, packed two to a byte, and their values. */
static void fp4_codes(uint8_t *packed, float *want, int n)
{
    for (int i = 0; i < n * K; i++) {
        uint8_t code = (uint8_t)case_chance(16);
        if (i % 2 == 0) packed[i / 2] = 0;
        packed[i / 2] |= (uint8_t)(code << 4 * (i % 2));
        want[i] = e2m1[code];
    }
}

/* The two conventions of the scale for the matrix, and the spellings of the codes. */
static void nvfp4(void **state)
{
    (void)state;
    for (int variant = 0; variant < 4; variant++) {
        struct linear_case c;
        uint8_t q[N * K / 2], s[N * K / 16];
        float want[N * K], global = variant < 2 ? 0x1.8p-10f : 1024;
        case_init(&c);
        fp4_codes(q, want, N);
        for (int i = 0; i < N * K / 16; i++) s[i] = (uint8_t)case_chance(0x7f);
        float factor = variant < 2 ? global : 1 / global;
        for (int i = 0; i < N * K; i++) want[i] = want[i] * f8(s[i / 16], 4) * factor;
        if (variant == 1) /* F4 counts elements */
            case_2d(&c, ".weight", "F4", N, K, q, sizeof q);
        else
            case_2d(&c, variant ? ".weight_packed" : ".weight", "U8", N, K / 2, q, sizeof q);
        case_2d(&c, ".weight_scale", variant == 3 ? "U8" : "F8_E4M3", N, K / 16, s, sizeof s);
        case_tensor(&c, variant < 2 ? ".weight_scale_2" : ".weight_global_scale", "F32",
                    variant < 2 ? 0 : 1, (int64_t[]){1}, &global, 4);
        case_expect(&c, N, K, want);
    }
}

/* Experts in one tensor, with a scale for each or one for all. */
static void nvfp4_experts(void **state)
{
    (void)state;
    enum { E = 3 };
    for (int shared = 0; shared < 2; shared++) {
        struct linear_case c;
        uint8_t q[E * N * K / 2], s[E * N * K / 16];
        float want[E * N * K], global[E] = {0.25f, 0.5f, 0.125f};
        case_init(&c);
        fp4_codes(q, want, E * N);
        for (int i = 0; i < E * N * K / 16; i++) s[i] = (uint8_t)case_chance(0x7f);
        for (int i = 0; i < E * N * K; i++)
            want[i] *= f8(s[i / 16], 4) * global[shared ? 0 : i / (N * K)];
        case_tensor(&c, ".weight", "U8", 3, (int64_t[]){E, N, K / 2}, q, sizeof q);
        case_tensor(&c, ".weight_scale", "F8_E4M3", 3, (int64_t[]){E, N, K / 16}, s, sizeof s);
        case_tensor(&c, ".weight_scale_2", "F32", shared ? 0 : 1, (int64_t[]){E}, global,
                    shared ? 4 : sizeof global);
        for (int e = 0; e < E; e++) case_expect_expert(&c, e, E, N, K, want + e * N * K);
        case_close(&c);
    }
}

static void mxfp4(void **state)
{
    (void)state;
    static const struct {
        const char *codes, *codes_type, *scale, *scale_type;
    } names[] = {
        {".weight_packed", "U8", ".weight_scale", "U8"},
        {".weight_packed", "U8", ".weight_scale", "F8_E8M0"},
        {".weight", "I8", ".scale", "F8_E8M0"}, /* DeepSeek V4's experts */
        {".weight", "U8", ".weight_scale", "U8"},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct linear_case c;
        uint8_t q[N * K / 2], s[N * K / 32];
        float want[N * K];
        case_init(&c);
        fp4_codes(q, want, N);
        for (int g = 0; g < N * K / 32; g++) s[g] = (uint8_t)(110 + case_chance(30));
        for (int e = 0; e < N * K; e++) want[e] = ldexpf(want[e], s[e / 32] - 127);
        case_2d(&c, names[i].codes, names[i].codes_type, N, K / 2, q, sizeof q);
        case_2d(&c, names[i].scale, names[i].scale_type, N, K / 32, s, sizeof s);
        case_expect(&c, N, K, want);
    }
}

/* gpt-oss: blocks and scales of all experts; gate and up are every second row. */
static void gpt_oss_blocks(void **state)
{
    (void)state;
    enum { E = 3 };
    struct linear_case c;
    uint8_t q[E * N * K / 2], s[E * N * K / 32];
    float want[E * N * K];
    case_init(&c);
    fp4_codes(q, want, E * N);
    for (int g = 0; g < E * N * K / 32; g++) s[g] = (uint8_t)(110 + case_chance(30));
    for (int i = 0; i < E * N * K; i++) want[i] = ldexpf(want[i], s[i / 32] - 127);
    case_tensor(&c, "_blocks", "U8", 4, (int64_t[]){E, N, K / 32, 16}, q, sizeof q);
    case_tensor(&c, "_scales", "U8", 3, (int64_t[]){E, N, K / 32}, s, sizeof s);
    for (int e = 0; e < E; e++) case_expect_expert(&c, e, E, N, K, want + e * N * K);
    assert_int_equal(c.l.bytes, sizeof q / E + sizeof s / E);
    case_close(&c);
}

/* gpt-oss in BF16: [experts, in, out]. A square one is turned as well. */
static void gpt_oss_floats(void **state)
{
    (void)state;
    enum { E = 2 };
    for (int64_t rows = 40; rows <= K; rows += K - 40) {
        static float want[E * K * K];
        static uint16_t file[E * K * K];
        struct linear_case c;
        case_init(&c);
        for (int64_t e = 0; e < E; e++)
            for (int64_t k = 0; k < K; k++)
                for (int64_t n = 0; n < rows; n++)
                    want[(e * rows + n) * K + k] = case_scale(NULL, &file[(e * K + k) * rows + n]);
        case_tensor(&c, "", "BF16", 3, (int64_t[]){E, K, rows}, file,
                    (size_t)(E * K * rows) * sizeof *file);
        for (int e = 0; e < E; e++) case_expect_expert(&c, e, E, rows, K, want + e * rows * K);
        case_close(&c);
    }
}

/* ---- GGUF ------------------------------------------------------------------------------------ */

/* The scale for the matrix in a tensor of its own, and experts in three dimensions. */
static void gguf_experts_and_scale(void **state)
{
    (void)state;
    enum { E = 2 };
    struct gguf_writer g;
    struct sl_weights *w;
    struct sl_linear l;
    struct sl_err err;
    float data[E * N * K];
    size_t n;
    for (int i = 0; i < E * N * K; i++) data[i] = case_scale(NULL, NULL);
    gguf_init(&g);
    gguf_tensor(&g, "blk.0.up_exps.weight", 3, (int64_t[]){K, N, E}, 0, data, sizeof data);
    gguf_tensor(&g, "blk.0.up_exps.scale", 1, (int64_t[]){E}, 0, (float[]){2, 0.5f}, 8);
    gguf_tensor(&g, "blk.0.up.weight", 2, (int64_t[]){K, N}, 0, data, sizeof data / E);
    gguf_tensor(&g, "blk.0.up.scale", 1, (int64_t[]){1}, 0, (float[]){0.25f}, 4);
    uint8_t *file = gguf_build(&g, &n, NULL, NULL);
    gguf_close(&g);
    assert_int_equal(sl_weights_open_memory("x.gguf", file, n, &w, &err), 0);
    assert_string_equal(sl_linear_scheme(w), "none");
    for (int e = 0; e < E; e++) {
        assert_int_equal(sl_linear_open(w, "blk.0.up_exps", e, E, N, K, &l, &err), 0);
        assert_ptr_equal(l.m.data, file + sl_weights_find(w, "blk.0.up_exps.weight")->offset +
                                       (size_t)e * N * K * 4);
        assert_true(l.m.factor == (e ? 0.5f : 2.0f));
        sl_linear_close(w, &l);
    }
    assert_int_equal(sl_linear_open(w, "blk.0.up", -1, 0, N, K, &l, &err), 0);
    assert_true(l.m.factor == 0.25f);
    sl_linear_close(w, &l);
    assert_int_equal(sl_linear_open(w, "blk.0.up_exps", 0, 3, N, K, &l, &err), SL_EINPUT);
    assert_non_null(strstr(err.msg, "[2, 6, 64]"));
    sl_weights_close(w);
    free(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_types),    cmocka_unit_test(plain_misaligned),
        cmocka_unit_test(fp8_blocks),     cmocka_unit_test(fp8_blocks_of_config),
        cmocka_unit_test(fp8_grains),     cmocka_unit_test(fp8_e5m2),
        cmocka_unit_test(nvfp4),          cmocka_unit_test(nvfp4_experts),
        cmocka_unit_test(mxfp4),          cmocka_unit_test(gpt_oss_blocks),
        cmocka_unit_test(gpt_oss_floats), cmocka_unit_test(gguf_experts_and_scale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
