/* golden.c - see golden.h. */
#include "tests/lib/golden.h"

#include <math.h>

double golden_deviation(const float *x, size_t n)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i];
    for (size_t i = 0; i < n; i++)
        squares += ((double)x[i] - sum / (double)n) * ((double)x[i] - sum / (double)n);
    return sqrt(squares / (double)n);
}

int golden_best(const float *x, int n)
{
    int at = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[at]) at = i;
    return at;
}

double golden_difference(const float *want, const float *got, size_t n)
{
    double worst = 0, unit = golden_deviation(want, n);
    for (size_t i = 0; i < n; i++) {
        double off = fabs((double)want[i] - (double)got[i]) / unit;
        if (!(off <= worst)) worst = off;
    }
    return worst;
}

double golden_rms(const float *want, const float *got, size_t n)
{
    double sum = 0, unit = golden_deviation(want, n);
    for (size_t i = 0; i < n; i++) {
        double off = ((double)want[i] - (double)got[i]) / unit;
        sum += off * off;
    }
    return sqrt(sum / (double)n);
}

double golden_margin(const float *x, int n)
{
    int best = golden_best(x, n);
    double second = -INFINITY;
    for (int i = 0; i < n; i++)
        if (i != best && (double)x[i] > second) second = (double)x[i];
    return ((double)x[best] - second) / golden_deviation(x, (size_t)n);
}
