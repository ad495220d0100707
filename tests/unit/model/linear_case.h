/* linear_case.h - a layer written into memory or a folder, opened, and held against the values it
 * was made of. */
#ifndef SL_TESTS_LINEAR_CASE_H
#define SL_TESTS_LINEAR_CASE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/linear.h"
#include "tests/lib/hf_writer.h"

#define STEM "model.layers.0.mlp.up_proj"

/* A file in the making, and the folder around it when config.json matters. */
struct linear_case {
    struct hf_writer file;
    char *dir; /* NULL: in memory */
    uint8_t *bytes;
    struct sl_weights *w;
    struct sl_linear l;
    struct sl_err err;
};

void case_init(struct linear_case *c);
/* Writes the folder with this config.json. */
void case_config(struct linear_case *c, const char *config);
void case_close(struct linear_case *c);

/* STEM + suffix. */
void case_tensor(struct linear_case *c, const char *suffix, const char *dtype, int rank,
                 const int64_t *shape, const void *data, size_t bytes);
#define case_2d(c, suffix, dtype, n, k, data, bytes)                                               \
    case_tensor(c, suffix, dtype, 2, (int64_t[]){n, k}, data, bytes)

/* Opens the layer; fails the test when that fails. */
void case_open(struct linear_case *c, int expert, int n_experts, int64_t rows, int64_t cols);
/* Opens, compares every element with want[rows*cols] exactly, closes. */
void case_expect(struct linear_case *c, int64_t rows, int64_t cols, const float *want);
void case_expect_expert(struct linear_case *c, int expert, int n_experts, int64_t rows,
                        int64_t cols, const float *want);
/* Opening fails with this code and a line that has `says` in it. */
void case_refused(struct linear_case *c, int expert, int n_experts, int64_t rows, int64_t cols,
                  int code, const char *says);

/* Chance with a memory of its own: 0..n-1. */
uint32_t case_chance(uint32_t n);
/* A small positive float that F16 and BF16 hold exactly, its bits in both. */
float case_scale(uint16_t *f16, uint16_t *bf16);

#endif
