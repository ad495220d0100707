/* kernels_lib.h - what the kernel tests share: backends of one vector row, random numbers,
 * comparison. */
#ifndef SL_TESTS_KERNELS_LIB_H
#define SL_TESTS_KERNELS_LIB_H

#include <stdint.h>

#include "kernels/backend.h"

/* Vector rows that this CPU can run. */
#define T_ROWS_MAX 8
int t_rows(const struct sl_op_row *out[T_ROWS_MAX]);

/* A CPU backend of one vector row without a matmul, and the reference. Destroyed by
 * sl_backend_destroy. */
struct sl_backend *t_backend(const struct sl_op_row *row, int n_threads);
struct sl_backend *t_reference(void);

/* n floats in [-scale, scale], a function of seed alone; aligned; freed by the caller. */
float *t_floats(uint64_t seed, int64_t n, float scale);

/* Fails unless |a - b| <= abs + rel * |b| for all n; says where and in which row. */
void t_near(const char *what, const float *a, const float *b, int64_t n, float abs, float rel);
/* Fails unless the bits are equal. */
void t_same(const char *what, const void *a, const void *b, size_t bytes);

#endif
