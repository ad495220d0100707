/* linear_case.c - see linear_case.h. */
#include "linear_case.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

void case_init(struct linear_case *c)
{
    *c = (struct linear_case){.dir = NULL};
    hf_init(&c->file);
}

void case_config(struct linear_case *c, const char *config)
{
    c->dir = hf_folder();
    hf_text(c->dir, "config.json", config);
}

void case_close(struct linear_case *c)
{
    if (c->w) {
        sl_linear_close(c->w, &c->l);
        sl_weights_close(c->w);
    }
    if (c->dir) hf_folder_remove(c->dir);
    free(c->dir);
    free(c->bytes);
    hf_close(&c->file);
}

void case_tensor(struct linear_case *c, const char *suffix, const char *dtype, int rank,
                 const int64_t *shape, const void *data, size_t bytes)
{
    char name[256];
    snprintf(name, sizeof name, "%s%s", STEM, suffix);
    hf_tensor(&c->file, name, dtype, rank, shape, data, bytes);
}

static void open_file(struct linear_case *c)
{
    size_t n;
    int r;
    if (c->w) return;
    if (c->dir) {
        assert_int_equal(hf_save(&c->file, c->dir, "model.safetensors"), 0);
        r = sl_weights_open(c->dir, &c->w, &c->err);
    } else {
        c->bytes = hf_build(&c->file, &n);
        r = sl_weights_open_memory("case.safetensors", c->bytes, n, &c->w, &c->err);
    }
    if (r) fail_msg("%s", c->err.msg);
}

void case_open(struct linear_case *c, int expert, int n_experts, int64_t rows, int64_t cols)
{
    open_file(c);
    sl_linear_close(c->w, &c->l);
    assert_true(sl_linear_exists(c->w, STEM));
    int r = sl_linear_open(c->w, STEM, expert, n_experts, rows, cols, &c->l, &c->err);
    if (r) fail_msg("%d %s", r, c->err.msg);
    assert_true(c->l.bytes > 0);
}

void case_expect_expert(struct linear_case *c, int expert, int n_experts, int64_t rows,
                        int64_t cols, const float *want)
{
    float *row = malloc((size_t)cols * sizeof *row);
    case_open(c, expert, n_experts, rows, cols);
    assert_int_equal(c->l.m.rows, rows);
    assert_int_equal(c->l.m.cols, cols);
    for (int64_t n = 0; n < rows; n++) {
        sl_matrix_row(&c->l.m, n, row);
        for (int64_t k = 0; k < cols; k++)
            if (row[k] != want[n * cols + k])
                fail_msg("element [%d, %d] is %.9g, not %.9g", (int)n, (int)k, (double)row[k],
                         (double)want[n * cols + k]);
    }
    free(row);
}

void case_expect(struct linear_case *c, int64_t rows, int64_t cols, const float *want)
{
    case_expect_expert(c, -1, 0, rows, cols, want);
    case_close(c);
}

void case_refused(struct linear_case *c, int expert, int n_experts, int64_t rows, int64_t cols,
                  int code, const char *says)
{
    struct sl_linear l;
    open_file(c);
    c->err = (struct sl_err){0};
    int r = sl_linear_open(c->w, STEM, expert, n_experts, rows, cols, &l, &c->err);
    if (r != code || c->err.code != code || !strstr(c->err.msg, says))
        fail_msg("wanted %d \"%s\", got %d \"%s\"", code, says, r, r ? c->err.msg : "");
    assert_null(strchr(c->err.msg, '\n'));
    case_close(c);
}

uint32_t case_chance(uint32_t n)
{
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

float case_scale(uint16_t *f16, uint16_t *bf16)
{
    /* (1 + m/128) * 2^-e: seven bits of fraction are what BF16 holds */
    uint32_t m = case_chance(128), e = 1 + case_chance(8);
    if (f16) *f16 = (uint16_t)((15 - e) << 10 | m << 3);
    if (bf16) *bf16 = (uint16_t)((127 - e) << 7 | m);
    return (1 + (float)m / 128) / (float)(1 << e);
}
