/* test_linear_bad.c - layers that must be refused: what each says, in one line that names the
 * tensor. */
#include "linear_case.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/gguf_writer.h"

#define N 16
#define K 64

/* A tensor of zeros, with one value put over its start. */
struct part {
    const char *suffix, *dtype;
    int rank;
    int64_t shape[4];
    uint32_t start; /* its first bytes, little-endian */
};

struct bad {
    const char *config; /* NULL: none */
    struct part parts[5];
    int code;
    const char *says;
};

#define F32_ONE 0x3f800000u
#define F32_NAN 0x7fc00000u
#define F32_INF 0x7f800000u
#define BF16_NAN 0x7fc0u
#define F16_INF 0x7c00u

static const struct bad bads[] = {
    /* what is missing, and wrong sizes */
    {NULL, {{".bias", "F32", 1, {N}, 0}}, SL_EINPUT, STEM ".weight is missing"},
    {NULL,
     {{".weight", "F32", 2, {K, N}, 0}},
     SL_EINPUT,
     "its shape is [64, 16] where [16, 64] is wanted"},
    {NULL, {{".weight", "F32", 1, {N * K}, 0}}, SL_EINPUT, "[1024] where [16, 64]"},
    {NULL, {{".weight", "F8_E4M3", 2, {N, K}, 0}}, SL_EINPUT, "without a scale"},
    {NULL,
     {{".weight", "F8_E4M3", 2, {N, K}, 0}, {".weight_scale", "F32", 2, {N, 3}, F32_ONE}},
     SL_EINPUT,
     "16 x 3 scales do not fit a matrix of 16 x 64"},
    {NULL,
     {{".weight", "F8_E4M3", 2, {N, K}, 0}, {".weight_scale_inv", "F32", 2, {2, 1}, F32_ONE}},
     SL_EINPUT,
     "2 x 1 scales do not fit"},
    {NULL,
     {{".weight", "F8_E4M3", 2, {N, K}, 0}, {".weight_scale", "F32", 3, {N, 1, 2}, F32_ONE}},
     SL_EINPUT,
     "3 dimensions of scales"},
    {NULL,
     {{".weight", "U8", 2, {N, K / 2}, 0},
      {".weight_scale", "F8_E4M3", 2, {N, K / 16}, 0x38383838}},
     SL_EINPUT,
     STEM ".weight_global_scale is missing"},
    {NULL,
     {{".weight", "U8", 2, {N, K / 2}, 0}, {".weight_scale_2", "F32", 0, {0}, F32_ONE}},
     SL_EINPUT,
     STEM ".weight_scale is missing"},
    {NULL, {{".weight_packed", "U8", 2, {N, K / 2}, 0}}, SL_EINPUT, "scale is missing"},
    {NULL,
     {{".weight", "U8", 2, {N, K / 2}, 0}},
     SL_EUNSUPPORTED,
     "U8 values without the scales of any scheme"},
    {NULL, {{".weight", "I32", 2, {N, K}, 0}}, SL_EUNSUPPORTED, "I32 values without the scales"},
    {NULL,
     {{".weight_packed", "I32", 2, {N, 7}, 0}, {".weight_scale", "F16", 2, {N, 2}, 0}},
     SL_EUNSUPPORTED,
     "neither 2, 4 nor 8 bits"},
    {NULL,
     {{".weight_packed", "I32", 2, {N, 8}, 0}, {".weight_scale", "F16", 2, {N, 3}, 0}},
     SL_EINPUT,
     "3 groups of scales do not fit 64 columns"},
    {NULL,
     {{".weight_packed", "I32", 2, {N, 8}, 0},
      {".weight_scale", "F16", 2, {N, 2}, 0},
      {".weight_shape", "I64", 1, {2}, 17}},
     SL_EINPUT,
     "it says [17, 0] where [16, 64]"},
    {NULL,
     {{".qweight", "I32", 2, {K / 8, N}, 0}, {".scales", "F16", 2, {2, N}, 0}},
     SL_EINPUT,
     STEM ".qzeros is missing"},
    {NULL,
     {{".qweight", "I32", 2, {K / 8, N}, 0}, {".qzeros", "I32", 2, {2, N / 8}, 0}},
     SL_EINPUT,
     STEM ".scales is missing"},
    {NULL,
     {{".qweight", "I32", 2, {K / 8, N}, 0},
      {".qzeros", "I32", 2, {1, N / 8}, 0},
      {".scales", "F16", 2, {2, N}, 0}},
     SL_EINPUT,
     "qzeros: its shape is [1, 2] where [2, 2]"},
    {NULL,
     {{".qweight", "I32", 2, {K / 8 + 1, N}, 0},
      {".qzeros", "I32", 2, {2, N / 8}, 0},
      {".scales", "F16", 2, {2, N}, 0},
      {".g_idx", "I32", 1, {K}, 0}},
     SL_EINPUT,
     "neither 2, 3, 4 nor 8 bits"},
    {NULL,
     {{".qweight", "I32", 2, {K, N / 8}, 0},
      {".qzeros", "I32", 2, {2, N / 8}, 0},
      {".scales", "F16", 2, {2, N + 8}, 0}},
     SL_EINPUT,
     "scales: its shape is [2, 24] where [2, 16]"},
    {NULL,
     {{".weight", "U8", 2, {N * K / 2, 1}, 0}, {".weight.absmax", "F32", 1, {N}, F32_ONE}},
     SL_EINPUT,
     "quant_map is missing"},
    {NULL,
     {{".weight", "U8", 2, {N * K / 2 - 1, 1}, 0}, {".weight.absmax", "F32", 1, {N}, F32_ONE}},
     SL_EINPUT,
     "511 bytes for 16 x 64 codes"},
    {NULL,
     {{".weight", "I8", 2, {N, K}, 0}, {".SCB", "F32", 1, {N - 1}, 0}},
     SL_EINPUT,
     "15 of F32 where 16"},
    /* numbers that cannot be */
    {NULL,
     {{".weight", "F8_E4M3", 2, {N, K}, 0}, {".weight_scale", "F32", 0, {0}, F32_NAN}},
     SL_EINPUT,
     STEM ".weight_scale: scale 0 is NaN"},
    {NULL,
     {{".weight", "F8_E4M3", 2, {N, K}, 0}, {".weight_scale", "BF16", 2, {N, 1}, BF16_NAN << 16}},
     SL_EINPUT,
     "scale 1 is NaN"},
    {NULL,
     {{".weight", "F8_E4M3", 2, {N, K}, 0}, {".weight_scale", "F16", 2, {N, 1}, F16_INF}},
     SL_EINPUT,
     "scale 0 is NaN, infinite"},
    {NULL,
     {{".weight", "F8_E4M3", 2, {N, K}, 0x7f0000}, {".weight_scale", "F32", 0, {0}, F32_ONE}},
     SL_EINPUT,
     STEM ".weight: element 2 is 0x7f"},
    {NULL,
     {{".weight", "F8_E4M3", 2, {N, K}, 0xff000000}, {".weight_scale", "F32", 0, {0}, F32_ONE}},
     SL_EINPUT,
     "element 3 is 0xff"},
    {NULL,
     {{".weight", "F8_E5M2", 2, {N, K}, 0x7c}, {".weight_scale", "F32", 0, {0}, F32_ONE}},
     SL_EINPUT,
     "element 0 is 0x7c, no finite F8_E5M2"},
    {NULL,
     {{".weight", "U8", 2, {N, K / 2}, 0},
      {".weight_scale", "F8_E4M3", 2, {N, K / 16}, 0x8000},
      {".weight_scale_2", "F32", 0, {0}, F32_ONE}},
     SL_EINPUT,
     "scale 1 is NaN, infinite or negative"},
    {NULL,
     {{".weight", "U8", 2, {N, K / 2}, 0},
      {".weight_scale", "F8_E4M3", 2, {N, K / 16}, 0x7f000000},
      {".weight_scale_2", "F32", 0, {0}, F32_ONE}},
     SL_EINPUT,
     "scale 3 is NaN"},
    {NULL,
     {{".weight", "U8", 2, {N, K / 2}, 0},
      {".weight_scale", "F8_E4M3", 2, {N, K / 16}, 0},
      {".weight_scale_2", "F32", 0, {0}, 0x47000000}},
     SL_EINPUT,
     "32768 cannot be: ModelOpt multiplies"},
    {NULL,
     {{".weight_packed", "U8", 2, {N, K / 2}, 0},
      {".weight_scale", "F8_E4M3", 2, {N, K / 16}, 0},
      {".weight_global_scale", "F32", 1, {1}, 0x38d1b717}},
     SL_EINPUT,
     "compressed-tensors divides"},
    {NULL,
     {{".weight_packed", "U8", 2, {N, K / 2}, 0},
      {".weight_scale", "F8_E4M3", 2, {N, K / 16}, 0},
      {".weight_global_scale", "F32", 1, {1}, F32_INF}},
     SL_EINPUT,
     "global_scale: scale 0 is NaN, infinite"},
    {NULL,
     {{".weight_packed", "U8", 2, {N, K / 2}, 0},
      {".weight_scale", "U8", 2, {N, K / 32}, 0xff0000}},
     SL_EINPUT,
     "scale 2 is NaN"},
    {NULL,
     {{".weight_packed", "I32", 2, {N, 8}, 0},
      {".weight_scale", "F16", 2, {N, 2}, 0},
      {".weight_g_idx", "I32", 1, {K}, 2}},
     SL_EINPUT,
     "column 0 is in group 2 of 2"},
    {NULL,
     {{".weight_packed", "I32", 2, {N, 8}, 0},
      {".weight_scale", "F16", 2, {N, 2}, 0},
      {".weight_g_idx", "I32", 1, {K}, 0xffffffff}},
     SL_EINPUT,
     "column 0 is in group -1"},
    {NULL,
     {{".weight_packed", "I32", 2, {N, 8}, 0},
      {".weight_scale", "F16", 2, {N, 2}, 0},
      {".weight_g_idx", "I32", 1, {K}, 1}},
     SL_EINPUT,
     "groups are not of 32 columns each"},
    {NULL,
     {{".weight_packed", "I32", 2, {N, 8}, 0},
      {".weight_scale", "F16", 2, {N, 2}, 0},
      {".weight_zero_point", "F16", 2, {N, 2}, 0}},
     SL_EUNSUPPORTED,
     "zero points of type F16"},
    {NULL,
     {{".weight_packed", "I32", 2, {N, 8}, 0},
      {".weight_scale", "F16", 2, {N, 2}, 0},
      {".weight_zero_point", "I8", 2, {N, 2}, 8}},
     SL_EINPUT,
     "zero point 0 does not fit 4 bits"},
    {NULL,
     {{".qweight", "I32", 2, {K / 8, N}, 0},
      {".qzeros", "I32", 2, {2, N / 8}, 0},
      {".scales", "F16", 2, {2, N}, F16_INF << 16}},
     SL_EINPUT,
     "scale 1 is NaN, infinite"},
    {NULL,
     {{".qweight", "I32", 2, {K / 8, N}, 0},
      {".qzeros", "I32", 2, {2, N / 8}, 0},
      {".scales", "F16", 2, {2, N}, 0},
      {".g_idx", "I32", 1, {K}, 99}},
     SL_EINPUT,
     STEM ".g_idx: column 0 is in group 99 of 2"},
    {NULL,
     {{".qweight", "I32", 2, {K, N / 8}, 0},
      {".qzeros", "I32", 2, {2, N / 8}, 0},
      {".scales", "F16", 2, {2, N}, 0x7e00}},
     SL_EINPUT,
     STEM ".scales: scale 0 is NaN"},
    /* types */
    {NULL,
     {{".weight", "F8_E4M3FNUZ", 2, {N, K}, 0}, {".weight_scale", "F32", 0, {0}, F32_ONE}},
     SL_EUNSUPPORTED,
     "its type F8_E4M3FNUZ is of AMD's MI300"},
    {NULL,
     {{".weight", "F6_E3M2", 2, {N, K}, 0}},
     SL_EUNSUPPORTED,
     "its type F6_E3M2 is not run here"},
    {NULL,
     {{".weight", "F8_E4M3", 2, {N, K}, 0}, {".weight_scale", "F64", 2, {N, 1}, 0}},
     SL_EUNSUPPORTED,
     "scales of type F64"},
    {NULL,
     {{".qweight", "I16", 2, {K, N / 4}, 0}, {".qzeros", "I16", 2, {2, N / 8}, 0}},
     SL_EUNSUPPORTED,
     "codes of type I16"},
    /* other schemes */
    {NULL,
     {{".q_weight", "I32", 2, {K, N}, 0}, {".q_scale", "I32", 2, {2, 2}, 0}},
     SL_EUNSUPPORTED,
     "EXL2"},
    {NULL, {{".trellis", "I16", 3, {4, 1, 64}, 0}}, SL_EUNSUPPORTED, "EXL3"},
    {NULL,
     {{".codebooks", "F16", 4, {1, 16, 1, 8}, 0}, {".codes", "I8", 1, {4}, 0}},
     SL_EUNSUPPORTED,
     "AQLM"},
    {NULL, {{".W_q", "U8", 2, {N, K}, 0}}, SL_EUNSUPPORTED, "HQQ"},
    {NULL,
     {{".weight_packed", "I32", 2, {N, 4}, 0}, {".meta", "I16", 2, {N, 4}, 0}},
     SL_EUNSUPPORTED,
     "Marlin 24"},
    {NULL,
     {{".B", "I32", 2, {4, N * 2}, 0}, {".s", "F16", 2, {1, N}, 0}},
     SL_EUNSUPPORTED,
     "Marlin"},
    {NULL,
     {{".weight", "U8", 2, {N, K / 2}, 0}, {".pre_quant_scale", "BF16", 1, {K}, 0}},
     SL_EUNSUPPORTED,
     "scale on the activations"},
    {"{\"quantization_config\":{\"quant_method\":\"gptq\",\"checkpoint_format\":\"marlin\"}}",
     {{".qweight", "I32", 2, {K / 8, N}, 0},
      {".qzeros", "I32", 2, {2, N / 8}, 0},
      {".scales", "F16", 2, {2, N}, 0}},
     SL_EUNSUPPORTED,
     "the layout marlin"},
};

static size_t bytes_of(const struct part *p)
{
    static const char *const wide[] = {"F32", "I32"}, *const half[] = {"F16", "BF16", "I16"},
                             *const twice[] = {"F64", "I64"};
    size_t n = 8;
    for (int i = 0; i < p->rank; i++) n *= (size_t)p->shape[i];
    for (int i = 0; i < 2; i++)
        if (strcmp(p->dtype, wide[i]) == 0) return n / 8 * 4;
    for (int i = 0; i < 3; i++)
        if (strcmp(p->dtype, half[i]) == 0) return n / 8 * 2;
    for (int i = 0; i < 2; i++)
        if (strcmp(p->dtype, twice[i]) == 0) return n;
    return strncmp(p->dtype, "F6", 2) == 0 ? n / 8 * 6 / 8 : n / 8;
}

static void each_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bads / sizeof bads[0]; i++) {
        struct linear_case c;
        case_init(&c);
        if (bads[i].config) case_config(&c, bads[i].config);
        for (const struct part *p = bads[i].parts; p < bads[i].parts + 5 && p->suffix; p++) {
            size_t n = bytes_of(p);
            uint8_t *data = calloc(1, n + 8);
            memcpy(data, &p->start, 4);
            case_tensor(&c, p->suffix, p->dtype, p->rank, p->shape, data, n);
            free(data);
        }
        case_refused(&c, -1, 0, N, K, bads[i].code, bads[i].says);
    }
}

/* Experts: the number of them and the shape of each. */
static void wrong_experts(void **state)
{
    (void)state;
    struct linear_case c;
    case_init(&c);
    case_tensor(&c, "_blocks", "U8", 4, (int64_t[]){2, N, K / 32, 16}, NULL, 2 * N * K / 2);
    case_tensor(&c, "_scales", "U8", 3, (int64_t[]){2, N, K / 32}, NULL, 2 * N * K / 32);
    case_refused(&c, 0, 3, N, K, SL_EINPUT, "should be the 3 experts");
    case_init(&c);
    case_tensor(&c, "_blocks", "U8", 4, (int64_t[]){2, N, K / 32, 16}, NULL, 2 * N * K / 2);
    case_refused(&c, 0, 2, N, K, SL_EINPUT, STEM "_scales is missing");
    case_init(&c);
    case_tensor(&c, "_blocks", "U8", 4, (int64_t[]){2, N, 16, K / 32}, NULL, 2 * N * K / 2);
    case_refused(&c, 0, 2, N, K, SL_EINPUT, "it should be U8 [2, 16, 2, 16] and is not");
    case_init(&c);
    case_tensor(&c, "", "BF16", 3, (int64_t[]){2, K, N + 1}, NULL, 2 * K * (N + 1) * 2);
    case_refused(&c, 1, 2, N, K, SL_EINPUT, "[64, 17] where [64, 16]");
    case_init(&c);
    case_tensor(&c, "", "F8_E4M3", 3, (int64_t[]){2, K, N}, NULL, 2 * K * N);
    case_refused(&c, 1, 2, N, K, SL_EUNSUPPORTED, "experts of type F8_E4M3 in one tensor");
}

/* The JSON of bitsandbytes, which is a file inside a tensor. */
static void bad_states(void **state)
{
    (void)state;
    static const struct {
        const char *json, *says;
    } states[] = {
        {"{", "not valid JSON"},
        {"[]", "it says [0, 0] where [16, 64]"},
        {"{\"shape\":[16,32],\"blocksize\":64}", "it says [16, 32]"},
        {"{\"shape\":[16,64],\"blocksize\":0}", "sizes of blocks cannot be"},
        {"{\"shape\":[16,64],\"blocksize\":63}", "sizes of blocks cannot be"},
        {"{\"shape\":[16,64],\"blocksize\":64,\"nested_blocksize\":0}",
         "sizes of blocks cannot be"},
        {"{\"shape\":[16,64],\"blocksize\":128}", "16 scales of F32 where 8"},
    };
    for (size_t i = 0; i < sizeof states / sizeof states[0]; i++) {
        struct linear_case c;
        case_init(&c);
        case_2d(&c, ".weight", "U8", N * K / 2, 1, NULL, N * K / 2);
        case_tensor(&c, ".weight.absmax", "F32", 1, (int64_t[]){N * K / 64}, NULL, N * K / 64 * 4);
        case_tensor(&c, ".weight.quant_map", "F32", 1, (int64_t[]){16}, NULL, 64);
        case_tensor(&c, ".weight.quant_state.bitsandbytes__nf4", "U8", 1,
                    (int64_t[]){(int64_t)strlen(states[i].json)}, states[i].json,
                    strlen(states[i].json));
        case_refused(&c, -1, 0, N, K, SL_EINPUT, states[i].says);
    }
}

/* A scale inside a GGUF block that is no number. */
static void bad_blocks(void **state)
{
    (void)state;
    static const struct {
        uint32_t type;
        int block, bytes, at; /* of the F16 that is infinite */
    } formats[] = {
        {2, 32, 18, 0},    {3, 32, 20, 2},      {6, 32, 22, 0},      {7, 32, 24, 2},
        {8, 32, 34, 0},    {10, 256, 84, 82},   {11, 256, 110, 108}, {12, 256, 144, 2},
        {13, 256, 176, 0}, {14, 256, 210, 208}, {20, 32, 18, 0},     {23, 256, 136, 0},
    };
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        int64_t k = formats[i].block, bytes = 3 * formats[i].bytes;
        uint8_t data[3 * 256] = {0};
        struct gguf_writer g;
        struct sl_weights *w;
        struct sl_linear l;
        struct sl_err err;
        size_t n;
        gguf_init(&g);
        gguf_tensor(&g, "good.weight", 2, (int64_t[]){k, 3}, formats[i].type, data, (size_t)bytes);
        data[2 * formats[i].bytes + formats[i].at + 1] = 0xfc; /* minus infinity in block 2 */
        gguf_tensor(&g, "bad.weight", 2, (int64_t[]){k, 3}, formats[i].type, data, (size_t)bytes);
        uint8_t *file = gguf_build(&g, &n, NULL, NULL);
        gguf_close(&g);
        assert_int_equal(sl_weights_open_memory("x.gguf", file, n, &w, &err), 0);
        assert_int_equal(sl_linear_open(w, "good", -1, 0, 3, k, &l, &err), 0);
        sl_linear_close(w, &l);
        assert_int_equal(sl_linear_open(w, "bad", -1, 0, 3, k, &l, &err), SL_EINPUT);
        assert_non_null(strstr(err.msg, "tensor bad.weight: block 2 has a scale that is NaN"));
        sl_weights_close(w);
        free(file);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_is_refused),
        cmocka_unit_test(wrong_experts),
        cmocka_unit_test(bad_states),
        cmocka_unit_test(bad_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
