/* test_linear_files.c - rows of the tiny golden models, one folder per scheme, against values that
 * an independent dequantization in float64 (PyTorch) gave.
 *
 * Of each row four elements and a weighted sum are kept: the sum sees every element and its place.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <math.h>

#include "kernels/kernels.h"
#include "model/linear.h"

#define MODELS SLUICE_SHARED "/data/models/"
#define SKIPPED 77
#define ROUNDING 2e-6 /* of float32 against the exact value: two products in a row */

struct row {
    const char *folder, *stem;
    int expert, n_experts, rows, cols, row;
    double at[4]; /* elements 0, 1, 31 and the last */
    double sum;   /* of (k + 1) times element k */
};

/* clang-format off */
static const struct row rows[] = {
    {"llama-awq-g128", "model.layers.0.self_attn.k_proj", -1, 0, 64, 128, 5, {-0.111328125, 0, -0.07421875, 0}, -0.111328125},
    {"llama-awq-g128", "model.layers.1.mlp.down_proj", -1, 0, 128, 384, 77, {0, 0.0530090332, 0, 0.0917816162}, -113.318039},
    {"llama-awq-g128", "model.layers.1.mlp.gate_proj", -1, 0, 384, 128, 300, {-0.132843018, 0.0442810059, 0.132843018, 0.0885620117}, 26.3914795},
    {"llama-awq-g64", "model.layers.0.self_attn.k_proj", -1, 0, 64, 128, 5, {-0.143188477, 0, -0.0715942383, 0}, -3.28424072},
    {"llama-awq-g64", "model.layers.1.mlp.down_proj", -1, 0, 128, 384, 77, {0, 0.0530090332, 0, 0.109024048}, -126.152893},
    {"llama-awq-g64", "model.layers.1.mlp.gate_proj", -1, 0, 384, 128, 300, {-0.117553711, 0.0391845703, 0.156738281, 0.0885620117}, 30.292511},
    {"llama-bnb-nf4", "model.layers.0.self_attn.k_proj", -1, 0, 64, 128, 5, {-0.141607007, -0.024555294, -0.0767110265, 0.022913623}, -4.88327242},
    {"llama-bnb-nf4", "model.layers.1.mlp.down_proj", -1, 0, 128, 384, 77, {0, 0.058203388, 0, 0.0956217932}, -105.958758},
    {"llama-bnb-nf4", "model.layers.1.mlp.gate_proj", -1, 0, 384, 128, 300, {-0.120304308, 0.0490244092, 0.134254098, 0.121438661}, 26.3153451},
    {"llama-fp8-block", "model.layers.0.self_attn.k_proj", -1, 0, 64, 128, 5, {-0.125976564, -0.0123726983, -0.0674874452, 0.0123726983}, -3.35310668},
    {"llama-fp8-block", "model.layers.1.mlp.down_proj", -1, 0, 128, 384, 77, {0.00444684725, 0.053362167, 0.00148228242, 0.102539062}, -135.128201},
    {"llama-fp8-block", "model.layers.1.mlp.gate_proj", -1, 0, 384, 128, 300, {-0.13148716, 0.0556291831, 0.141601557, 0.101143969}, 24.1080206},
    {"llama-fp8-channel-ct", "model.layers.0.self_attn.k_proj", -1, 0, 64, 128, 5, {-0.133300781, -0.0128173828, -0.0666503906, 0.0115356445}, -1.16764355},
    {"llama-fp8-channel-ct", "model.layers.1.mlp.down_proj", -1, 0, 128, 384, 77, {0.00466346741, 0.0547180176, 0.00155448914, 0.0994873047}, -146.141439},
    {"llama-fp8-channel-ct", "model.layers.1.mlp.gate_proj", -1, 0, 384, 128, 300, {-0.128173828, 0.0576782227, 0.140991211, 0.102539062}, 26.8135393},
    {"llama-fp8-tensor", "model.layers.0.self_attn.k_proj", -1, 0, 64, 128, 5, {-0.125976564, -0.0123726983, -0.0674874452, 0.0123726983}, -3.35310668},
    {"llama-fp8-tensor", "model.layers.1.mlp.down_proj", -1, 0, 128, 384, 77, {0.00457763672, 0.0549316406, 0.00148773193, 0.102539062}, -135.640612},
    {"llama-fp8-tensor", "model.layers.1.mlp.gate_proj", -1, 0, 384, 128, 300, {-0.13148716, 0.0556291831, 0.141601557, 0.101143969}, 24.1080206},
    {"llama-gptq-g32-actorder", "model.layers.0.self_attn.k_proj", -1, 0, 64, 128, 5, {-0.140625, -0.0242767334, -0.0728302002, 0}, 0.799880981},
    {"llama-gptq-g32-actorder", "model.layers.1.mlp.down_proj", -1, 0, 128, 384, 77, {0, 0.0459594727, 0, 0.090637207}, -167.364044},
    {"llama-gptq-g32-actorder", "model.layers.1.mlp.gate_proj", -1, 0, 384, 128, 300, {-0.151000977, 0.064453125, 0.128540039, 0.0966796875}, 31.3074646},
    {"llama-gptq-g64", "model.layers.0.self_attn.k_proj", -1, 0, 64, 128, 5, {-0.143798828, 0, -0.0718994141, 0}, 1.64440918},
    {"llama-gptq-g64", "model.layers.1.mlp.down_proj", -1, 0, 128, 384, 77, {0, 0.0630493164, 0, 0.112609863}, -182.112518},
    {"llama-gptq-g64", "model.layers.1.mlp.gate_proj", -1, 0, 384, 128, 300, {-0.121856689, 0.0406188965, 0.121856689, 0.0958251953}, 16.8056946},
    {"llama-mxfp4-ct", "model.layers.0.self_attn.k_proj", -1, 0, 64, 128, 5, {-0.125, -0.015625, -0.0625, 0}, -11.234375},
    {"llama-mxfp4-ct", "model.layers.1.mlp.down_proj", -1, 0, 128, 384, 77, {0, 0.046875, 0, 0.09375}, -132.71875},
    {"llama-mxfp4-ct", "model.layers.1.mlp.gate_proj", -1, 0, 384, 128, 300, {-0.125, 0.0625, 0.125, 0.09375}, 20.84375},
    {"llama-nvfp4-ct", "model.layers.0.self_attn.k_proj", -1, 0, 64, 128, 5, {-0.131975444, -0.0164969305, -0.0599888381, 0}, -6.13535842},
    {"llama-nvfp4-ct", "model.layers.1.mlp.down_proj", -1, 0, 128, 384, 77, {0, 0.0537109367, 0, 0.107421873}, -116.063231},
    {"llama-nvfp4-ct", "model.layers.1.mlp.gate_proj", -1, 0, 384, 128, 300, {-0.151715956, 0.0505719855, 0.148344491, 0.0910295739}, 45.8755338},
    {"llama-nvfp4-modelopt", "model.layers.0.self_attn.k_proj", -1, 0, 64, 128, 5, {-0.131975445, -0.0164969306, -0.0599888386, 0}, -6.13535847},
    {"llama-nvfp4-modelopt", "model.layers.1.mlp.down_proj", -1, 0, 128, 384, 77, {0, 0.0537109375, 0, 0.107421875}, -116.063232},
    {"llama-nvfp4-modelopt", "model.layers.1.mlp.gate_proj", -1, 0, 384, 128, 300, {-0.151715957, 0.0505719858, 0.148344492, 0.0910295744}, 45.875534},
    {"gpt_oss-mxfp4", "model.layers.0.mlp.experts.gate_up_proj", 3, 8, 128, 64, 17, {0.125, -0.125, -0.75, 0.125}, -159.375},
    {"gpt_oss", "model.layers.0.mlp.experts.gate_up_proj", 3, 8, 128, 64, 17, {0.125, -0.125, -0.75, 0.125}, -159.375},
    {"gpt_oss-mxfp4", "model.layers.1.mlp.experts.down_proj", 7, 8, 64, 64, 2, {-0.0625, 0, -0.015625, 0.046875}, 19.5546875},
    {"gpt_oss", "model.layers.1.mlp.experts.down_proj", 7, 8, 64, 64, 2, {-0.0625, 0, -0.015625, 0.046875}, 19.5546875},
};
/* clang-format on */

static void check(const struct row *r)
{
    char path[512];
    struct sl_weights *w;
    struct sl_linear l;
    struct sl_err err;
    float *v = malloc((size_t)r->cols * sizeof *v);
    double sum = 0, size = 0;
    snprintf(path, sizeof path, MODELS "%s", r->folder);
    if (sl_weights_open(path, &w, &err)) fail_msg("%s", err.msg);
    if (sl_linear_open(w, r->stem, r->expert, r->n_experts, r->rows, r->cols, &l, &err))
        fail_msg("%s", err.msg);
    if (r->expert < 0) {
        int64_t rows_found, cols_found;
        assert_int_equal(sl_linear_shape(w, r->stem, &rows_found, &cols_found, &err), 0);
        assert_int_equal(rows_found, r->rows);
        assert_int_equal(cols_found, r->cols);
    }
    sl_matrix_row(&l.m, r->row, v);
    const int at[4] = {0, 1, 31, r->cols - 1};
    for (int i = 0; i < 4; i++)
        if (fabs((double)v[at[i]] - r->at[i]) > ROUNDING * fabs(r->at[i]))
            fail_msg("%s %s[%d][%d]: %.9g, not %.9g", r->folder, r->stem, r->row, at[i],
                     (double)v[at[i]], r->at[i]);
    for (int k = 0; k < r->cols; k++) {
        sum += (double)v[k] * (k + 1);
        size += fabs((double)v[k]) * (k + 1);
    }
    if (fabs(sum - r->sum) > ROUNDING * size)
        fail_msg("%s %s[%d]: sum %.9g, not %.9g", r->folder, r->stem, r->row, sum, r->sum);
    sl_linear_close(w, &l);
    sl_weights_close(w);
    free(v);
}

static void rows_of_models(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) check(&rows[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_of_models)};
    if (access(MODELS "llama-bnb-nf4", R_OK) != 0) return SKIPPED;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
