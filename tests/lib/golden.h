/* golden.h - how far numbers lie from golden ones. */
#ifndef SL_TESTS_GOLDEN_H
#define SL_TESTS_GOLDEN_H

#include <stddef.h>

double golden_deviation(const float *x, size_t n); /* the standard one */
int golden_best(const float *x, int n); /* index of the largest, the first of equal ones */
/* The largest difference in standard deviations of `want`; NaN where either is. */
double golden_difference(const float *want, const float *got, size_t n);
/* The root mean square of the differences, in the same measure. */
double golden_rms(const float *want, const float *got, size_t n);
/* How far the largest lies above the second, in the same measure. */
double golden_margin(const float *x, int n);

#endif
