/* test_matmul_planar.c - every CPU row x every scheme of planar weights (base/matrix.h) against
 * sl_matrix_row in double precision: scales of every type and granularity, zero points, codebooks,
 * act-order, slices, factors, sizes that no group divides. Also the promise that a row's bits do
 * not depend on the others. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/sl_assert.h"
#include "matmul_lib.h"

#define ALL INT64_MAX /* one scale for all rows or columns */
enum { NO_ZEROS, ZEROS, ZEROS_8, ZEROS_128 };
enum { PLAIN = 0, ORDER = 1, SLICE = 2, FACTOR = 4, NO_SCALES = 8, WIDE = 16, NORMAL = 32 };

/* WIDE: no layout holds it, so it is packed as F32. NORMAL: codes are neither zero nor subnormal.
 */
static const struct scheme {
    const char *name;
    enum sl_dtype type, scale_type;
    int64_t scale_rows, scale_cols;
    int zeros, flags;
} schemes[] = {
    {"FP8 per tensor", SL_F8_E4M3, SL_F32, ALL, ALL, 0, PLAIN},
    {"FP8 per row", SL_F8_E4M3, SL_BF16, 1, ALL, 0, PLAIN},
    {"FP8 per 128x128", SL_F8_E4M3, SL_F32, 128, 128, 0, SLICE},
    {"FP8 per 128x128 of E8M0", SL_F8_E4M3, SL_E8M0, 128, 128, 0, PLAIN},
    {"FP8 per 128x128, normal", SL_F8_E4M3, SL_F32, 128, 128, 0, NORMAL},
    {"FP8 per 32", SL_F8_E4M3, SL_F16, 1, 32, 0, FACTOR},
    {"FP8 per 20", SL_F8_E4M3, SL_F32, 1, 20, 0, WIDE},
    {"FP8 alone", SL_F8_E4M3, SL_F32, 1, ALL, 0, NO_SCALES},
    {"FP8 act-order", SL_F8_E4M3, SL_F32, 1, ALL, 0, ORDER | WIDE},
    {"E5M2 per row", SL_F8_E5M2, SL_F32, 1, ALL, 0, PLAIN},
    {"E5M2 per row, normal", SL_F8_E5M2, SL_F32, 1, ALL, 0, NORMAL},
    {"E5M2 per 128x128", SL_F8_E5M2, SL_BF16, 128, 128, 0, FACTOR},
    {"MXFP4", SL_F4, SL_E8M0, 1, 32, 0, PLAIN},
    {"MXFP4 interleaved", SL_F4, SL_E8M0, 1, 32, 0, SLICE},
    {"NVFP4", SL_F4, SL_F8_E4M3, 1, 16, 0, FACTOR},
    {"NVFP4 act-order", SL_F4, SL_F8_E4M3, 1, 16, 0, FACTOR | ORDER},
    {"F4 per 64 of floats", SL_F4, SL_F32, 1, 64, 0, PLAIN},
    {"F4 per 16 of E8M0", SL_F4, SL_E8M0, 1, 16, 0, WIDE},
    {"AWQ 32", SL_U4, SL_F16, 1, 32, ZEROS, PLAIN},
    {"AWQ 64", SL_U4, SL_F16, 1, 64, ZEROS, SLICE},
    {"AWQ 128", SL_U4, SL_BF16, 1, 128, ZEROS, PLAIN},
    {"GPTQ 128 symmetric", SL_U4, SL_F16, 1, 128, ZEROS_8, PLAIN},
    {"GPTQ 32 act-order", SL_U4, SL_F16, 1, 32, ZEROS, ORDER},
    {"GPTQ 128 act-order", SL_U4, SL_F16, 1, 128, ZEROS_8, ORDER | SLICE},
    {"GPTQ whole row", SL_U4, SL_F16, 1, ALL, ZEROS, FACTOR},
    {"U4 per 48", SL_U4, SL_F16, 1, 48, ZEROS, WIDE},
    {"U4 without zeros", SL_U4, SL_F32, 1, 32, NO_ZEROS, PLAIN},
    {"GPTQ 8 bit", SL_U8, SL_F16, 1, 128, ZEROS, ORDER},
    {"GPTQ 8 bit symmetric", SL_U8, SL_F16, 1, 64, ZEROS_128, PLAIN},
    {"W8A8 per row", SL_I8, SL_F32, 1, ALL, 0, PLAIN},
    {"W8A8 per tensor", SL_I8, SL_BF16, ALL, ALL, 0, SLICE},
    {"I8 per 32", SL_I8, SL_BF16, 1, 32, 0, PLAIN},
    {"NF4", SL_CB4, SL_F32, 1, 64, 0, PLAIN},
    {"NF4 of halves, interleaved", SL_CB4, SL_F16, 1, 64, 0, SLICE | FACTOR},
    {"NF4 per row", SL_CB4, SL_F32, 1, ALL, 0, PLAIN},
};

static const float nf4[16] = {-1.0f,        -0.69619280f, -0.52507305f, -0.39491749f,
                              -0.28444138f, -0.18477343f, -0.09105004f, 0.0f,
                              0.07958029f,  0.16093020f,  0.24611230f,  0.33791524f,
                              0.44070983f,  0.56261700f,  0.72295684f,  1.0f};

/* ---- a random matrix of a scheme ------------------------------------------------------------- */

static uint8_t code(enum sl_dtype t)
{
    uint8_t c = (uint8_t)t_rnd();
    if (t == SL_F8_E4M3 && (c & 0x7f) == 0x7f) c ^= 1; /* NaN */
    if (t == SL_F8_E5M2 && (c & 0x7f) >= 0x7c) c &= 0xbf;
    return c;
}

static void put_scale(enum sl_dtype t, uint8_t *at)
{
    float f = 0.001f + 0.01f * fabsf(t_normal());
    uint16_t h = t == SL_F16 ? sl_float_to_half(f) : sl_float_to_bf16(f);
    if (t == SL_E8M0)
        *at = (uint8_t)(115 + t_rnd() % 10);
    else if (t == SL_F8_E4M3)
        *at = (uint8_t)(t_rnd() % 0x7f); /* zero and subnormals too */
    else if (t == SL_F32)
        memcpy(at, &f, sizeof f);
    else
        memcpy(at, &h, sizeof h);
}

static int32_t *make_order(int64_t cols)
{
    int32_t *order = t_grab((size_t)cols * sizeof *order);
    for (int64_t k = 0; k < cols; k++) order[k] = (int32_t)k;
    for (int64_t k = cols - 1; k > 0; k--) {
        int64_t other = t_rnd() % (uint32_t)(k + 1);
        int32_t o = order[k];
        order[k] = order[other];
        order[other] = o;
    }
    return order;
}

static struct sl_matrix make(const struct scheme *s, int64_t rows, int64_t cols)
{
    struct sl_matrix m = sl_matrix_plain(s->type, rows, cols, NULL);
    if (s->flags & SLICE) {
        m.row_first = 1;
        m.row_step = 3;
    }
    int64_t stored = m.row_first + rows * m.row_step;
    m.scale_type = s->scale_type;
    m.scale_rows = SL_MIN(s->scale_rows, stored);
    m.scale_cols = SL_MIN(s->scale_cols, cols);
    size_t bytes = (size_t)stored * sl_dtype_row_bytes(s->type, (uint64_t)cols);
    size_t n = (size_t)((stored + m.scale_rows - 1) / m.scale_rows * sl_matrix_scales_per_row(&m));
    size_t each = (size_t)sl_dtype_block_bytes(s->scale_type);
    uint8_t *data = t_grab(bytes), *scales = t_grab(n * each), *zeros = t_grab(n);
    for (size_t i = 0; i < bytes; i++)
        data[i] = s->flags & NORMAL ? (code(s->type) & 0x9f) | 0x20 : code(s->type);
    for (size_t i = 0; i < n; i++) {
        put_scale(s->scale_type, scales + i * each);
        zeros[i] = s->zeros == ZEROS_8     ? 8
                   : s->zeros == ZEROS_128 ? 128
                                           : (uint8_t)(t_rnd() % (s->type == SL_U4 ? 17 : 256));
    }
    m.data = data;
    m.scales = scales;
    m.zeros = zeros;
    if (s->flags & NO_SCALES) {
        free(scales);
        m.scales = NULL;
    }
    if (s->zeros == NO_ZEROS) {
        free(zeros);
        m.zeros = NULL;
    }
    if (s->type == SL_CB4) m.codebook = nf4;
    if (s->flags & ORDER) m.order = make_order(cols);
    if (s->flags & FACTOR) m.factor = 0.37f;
    return m;
}

static void drop(struct sl_matrix *m)
{
    free((void *)m->data);
    free((void *)m->scales);
    free((void *)m->zeros);
    free((void *)m->order);
}

/* ---- checks ---------------------------------------------------------------------------------- */

/* A scale for the whole row fits a layout always. */
static int is_float(const struct scheme *s, int64_t cols)
{
    return (s->flags & WIDE && cols > s->scale_cols) || s->type == SL_F8_E4M3 ||
           s->type == SL_F8_E5M2 || s->type == SL_CB4;
}

/* The packed weights are about as large as the file's. */
static void check_size(const struct scheme *s, const struct sl_matrix *m, const struct sl_weight *w)
{
    int64_t padded = (m->rows + 15) / 16 * 16, cols = (m->cols + 31) / 32 * 32;
    uint64_t codes = sl_dtype_row_bytes(s->type, (uint64_t)cols) * (uint64_t)padded;
    uint64_t scales = (uint64_t)(sl_matrix_scales_per_row(m) * padded) * 5;
    if (!(s->flags & WIDE))
        assert_true(w->packed_bytes <=
                    codes + scales + (uint64_t)padded * 16 + 1024 + (uint64_t)cols * 4);
}

static void check_shape(const struct scheme *s, int64_t rows, int64_t cols, const int *ns, int n_ns)
{
    enum { CHECKED = 6 };
    int n_max = 0;
    for (int i = 0; i < n_ns; i++) n_max = SL_MAX(n_max, ns[i]);
    struct sl_matrix m = make(s, rows, cols);
    struct t_bound bound = {.is_float = is_float(s, cols),
                            .mixed = (s->flags & ORDER) != 0,
                            .loss = t_float_loss(s->type)};
    /* With zero points the kernel adds up scale * code and scale * zero: at most 256 of the largest
     * scale, about 0.05. */
    if (s->type == SL_U4 || s->type == SL_U8) bound.top_w = (s->type == SL_U4 ? 17 : 256) * 0.05;
    float *x = t_make_x(n_max, cols), *alone = t_grab((size_t)(n_max * rows) * sizeof *alone);
    float *wide = t_grab((size_t)(rows * cols) * sizeof *wide);
    for (int64_t r = 0; r < rows; r++) sl_matrix_row(&m, r, wide + r * cols);
    struct sl_weight w = {0};
    struct sl_err err = {0};
    if (t_row->load(&m, &w, &err) != 0) fail_msg("%s: %s", s->name, err.msg);
    assert_null(w.m.data);
    check_size(s, &m, &w);
    drop(&m); /* the packed copy must stand alone */
    for (int i = 0; i < n_max; i++) {
        struct sl_product p = {.w = &w, .out = alone + i * rows};
        t_multiply(1, x + i * cols, 1, &p, 1);
        if (i < CHECKED)
            t_check_row(s->name, rows, cols, wide, x + i * cols, alone + i * rows, &bound);
    }
    t_check_batches(s->name, &w, x, alone, ns, n_ns);
    t_row->unload(&w);
    free(x);
    free(alone);
    free(wide);
}

static void test_shapes(void **ctx)
{
    (void)ctx;
    static const int64_t rows[] = {1, 2, 15, 16, 17, 33, 150};
    static const int64_t cols[] = {16, 32, 40, 48, 80, 96, 128, 144, 272, 576};
    static const int many[] = {0, 1, 2, 3, 7, 8, 16, 17, 31, 33, 64, 65}, few[] = {1, 5, 33};
    for (size_t s = 0; s < SL_ARRAY_LEN(schemes); s++)
        for (size_t r = 0; r < SL_ARRAY_LEN(rows); r++)
            for (size_t c = 0; c < SL_ARRAY_LEN(cols); c++) {
                if (schemes[s].scale_type == SL_F8_E4M3 && cols[c] % 16 != 0) continue;
                if (rows[r] == 17 || rows[r] * cols[c] < 600)
                    check_shape(&schemes[s], rows[r], cols[c], many, SL_ARRAY_LEN(many));
                else
                    check_shape(&schemes[s], rows[r], cols[c], few, SL_ARRAY_LEN(few));
            }
}

/* Formats of whole bytes take any number of columns. */
static void test_odd_columns(void **ctx)
{
    (void)ctx;
    static const int64_t cols[] = {1, 3, 5, 7, 31, 33, 129, 257};
    static const int ns[] = {1, 2, 5, 9, 17};
    for (size_t s = 0; s < SL_ARRAY_LEN(schemes); s++)
        for (size_t c = 0; c < SL_ARRAY_LEN(cols) && sl_dtype_block(schemes[s].type) == 1; c++)
            check_shape(&schemes[s], 19, cols[c], ns, SL_ARRAY_LEN(ns));
}

/* One call with an act-order matrix between others, which see the input as it is. */
static void test_orders_in_one_call(void **ctx)
{
    (void)ctx;
    enum { COLS = 160, ROWS = 24, N = 19, P = 4 };
    static const char *const names[P] = {"AWQ 32", "GPTQ 32 act-order", "FP8 per row",
                                         "GPTQ 128 act-order"};
    struct sl_weight w[P];
    struct sl_product p[P];
    float *x = t_make_x(N, COLS), *alone = t_grab(N * ROWS * sizeof *alone);
    for (int i = 0; i < P; i++) {
        const struct scheme *s = schemes;
        while (strcmp(s->name, names[i]) != 0) s++;
        struct sl_matrix m = make(s, ROWS, COLS);
        assert_int_equal(t_row->load(&m, &w[i], NULL), 0);
        drop(&m);
        p[i] = (struct sl_product){.w = &w[i], .out = t_grab(N * ROWS * sizeof(float))};
    }
    t_multiply(2, x, N, p, P);
    for (int i = 0; i < P; i++) {
        struct sl_product one = {.w = &w[i], .out = alone};
        t_multiply(1, x, N, &one, 1);
        assert_memory_equal(alone, p[i].out, N * ROWS * sizeof *alone);
        t_row->unload(&w[i]);
        free(p[i].out);
    }
    free(x);
    free(alone);
}

/* Each finite code of FP8, met by a single one among zeros, comes out as its value; what is not
 * finite does not come out finite, where the reference says so. */
static void test_every_code(void **ctx)
{
    (void)ctx;
    enum { CODES = 256 };
    static const enum sl_dtype types[] = {SL_F8_E4M3, SL_F8_E5M2};
    uint8_t data[CODES];
    float *x = t_grab(CODES * CODES * sizeof *x), wide[CODES], out[CODES];
    for (int i = 0; i < CODES * CODES; i++) x[i] = i % (CODES + 1) == 0;
    for (size_t t = 0; t < SL_ARRAY_LEN(types); t++)
        for (int infinite = 0; infinite < 2; infinite++) {
            int top = types[t] == SL_F8_E4M3 ? 0x7f : 0x7c; /* what is not finite begins here */
            if (infinite && types[t] == SL_F8_E4M3) continue;
            for (int i = 0; i < CODES; i++)
                data[i] = (uint8_t)(((i & 0x7f) < top) == !infinite ? i : infinite ? 0x7c : 0);
            struct sl_matrix m = sl_matrix_plain(types[t], 1, CODES, data);
            struct sl_weight w = {0};
            struct sl_product p = {.w = &w, .out = out};
            sl_matrix_row(&m, 0, wide);
            assert_int_equal(t_row->load(&m, &w, NULL), 0);
            t_multiply(2, x, CODES, &p, 1);
            for (int i = 0; i < CODES; i++) {
                if (infinite)
                    assert_false(isfinite(out[i]));
                else if (out[i] != wide[i])
                    fail_msg("code %02x of %s is %g, should be %g", i, sl_dtype_name(types[t]),
                             (double)out[i], (double)wide[i]);
            }
            t_row->unload(&w);
        }
    free(x);
}

static void refused(struct sl_matrix m, int code_wanted, const char *says)
{
    struct sl_weight w = {0};
    struct sl_err err = {0};
    assert_int_equal(t_row->load(&m, &w, &err), code_wanted);
    if (!strstr(err.msg, says)) fail_msg("\"%s\" does not say \"%s\"", err.msg, says);
    assert_null(w.packed);
}

static void test_refused(void **ctx)
{
    (void)ctx;
    uint8_t data[4096] = {0};
    static const int32_t order[32] = {[5] = 32};
    struct sl_matrix m = sl_matrix_plain(SL_F4, 4, 40, data);
    m.scales = data;
    m.scale_type = SL_F8_E4M3;
    m.scale_cols = 16;
    refused(m, SL_EINPUT, "NVFP4");
    refused(sl_matrix_plain(SL_U4, 4, 33, data), SL_EINPUT, "multiple of 2");
    refused(sl_matrix_plain(SL_F8_E4M3, 0, 32, data), SL_EINPUT, "F8_E4M3");
    refused(sl_matrix_plain(SL_I32, 4, 32, data), SL_EUNSUPPORTED, "I32");
    m = sl_matrix_plain(SL_U4, 4, 32, data);
    m.scale_cols = 0;
    refused(m, SL_EINPUT, "U4");
    m.scale_cols = 32;
    m.order = order;
    refused(m, SL_EINPUT, "input 32");
}

/* Scales and codes that are not numbers may give anything but a crash. */
static void test_garbage(void **ctx)
{
    (void)ctx;
    enum { COLS = 144, ROWS = 20, N = 18 };
    float *x = t_make_x(N, COLS), *out = t_grab(N * ROWS * sizeof *out);
    for (size_t s = 0; s < SL_ARRAY_LEN(schemes); s++) {
        struct sl_matrix m = make(&schemes[s], ROWS, COLS);
        memset((void *)m.data, 0xff, 64);
        if (m.scales) memset((void *)m.scales, 0xff, 4);
        struct sl_weight w = {0};
        assert_int_equal(t_row->load(&m, &w, NULL), 0);
        struct sl_product p = {.w = &w, .out = out};
        t_multiply(1, x, N, &p, 1);
        t_row->unload(&w);
        drop(&m);
    }
    free(x);
    free(out);
}

/* As in test_matmul.c: AVX2 and AVX-512 give the same bits, and AMX where it multiplies integers.
 */
static void test_rows_agree(void **ctx)
{
    (void)ctx;
    enum { COLS = 272, ROWS = 40, N = 21 };
    float *x = t_make_x(N, COLS);
    int rows = 0;
    for (size_t s = 0; s < SL_ARRAY_LEN(schemes); s++) {
        struct sl_matrix m = make(&schemes[s], ROWS, COLS);
        rows = t_rows_agree(schemes[s].name, &m, x, N);
        drop(&m);
    }
    free(x);
    if (rows < 2) skip();
}

/* With an argument, only that CPU row. */
int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_odd_columns),
        cmocka_unit_test(test_orders_in_one_call),
        cmocka_unit_test(test_every_code),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_garbage),
    };
    static const struct CMUnitTest across[] = {cmocka_unit_test(test_rows_agree)};
    int failed = t_each_row("planar", argc > 1 ? argv[1] : NULL, tests, SL_ARRAY_LEN(tests));
    failed += cmocka_run_group_tests(across, NULL, NULL);
    t_close();
    return failed != 0;
}
