/* matmul_lib.h - what the matmul tests share: random input, the CPU row under test, the bound on
 * its error. */
#ifndef SL_TESTS_MATMUL_LIB_H
#define SL_TESTS_MATMUL_LIB_H

#include <stdint.h>

#include "kernels/cpu/cpu.h"

enum { T_GROUP = 32 /* k that share an activation scale */, T_N_MAX = 512 };

uint32_t t_rnd(void);
float t_normal(void); /* about; the sum of 4 uniforms */
void *t_grab(size_t bytes);

/* Row 1 has an outlier, row 2 is zero, row 3 tiny, row 4 has a zero group; the others are ordinary.
 */
float *t_make_x(int n, int64_t cols);

extern const struct sl_matmul_ops *t_row; /* set by t_each_row for each group of tests */
extern struct sl_scratch t_scratch;

void t_multiply(int threads, const float *x, int n, const struct sl_product *p, int count);

/* What the CPU row under test may lose of a product with a float weight: nothing, or on the amx
 * row, which holds an activation as two BF16 planes of 8 bits, 2^-16 of it; where weights take two
 * planes, also 2^-16 for their rounding (F16: none) and the product of both second planes. */
double t_float_loss(enum sl_dtype t);

/* One row of out against x (one row) and w [rows][cols] in double precision. The bound is derived,
 * not tuned: half a quantization step of each activation times |w| unless the layout takes floats,
 * `loss` of each product, plus a few fp32 roundings of terms no larger than the group's largest |w|
 * (and `top_w`: what the kernel adds up may be larger than the weights, where there are zero
 * points) times |x|. With `mixed`, groups are not neighbours (act-order): the row's largest |x|
 * stands for the group's. */
struct t_bound {
    int is_float, mixed;
    double top_w, loss;
};
void t_check_row(const char *name, int64_t rows, int64_t cols, const float *w, const float *x,
                 const float *out, const struct t_bound *b);

/* Every number of rows and threads must give the bits of one row alone. */
void t_check_batches(const char *name, const struct sl_weight *w, const float *x,
                     const float *alone, const int *ns, int n_ns);

/* Runs `tests` for every CPU row that this CPU has, or only for the row `only`; returns failures.
 */
struct CMUnitTest;
int t_each_row(const char *what, const char *only, const struct CMUnitTest *tests, size_t n);

/* Fails unless all vector rows give m the same bits for n rows of x; returns how many there are.
 * The amx row is left out for weights whose products it loses some of. */
int t_rows_agree(const char *name, const struct sl_matrix *m, const float *x, int n);

void t_close(void); /* at the end: threads and scratch */

#endif
