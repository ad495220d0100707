/* formats.h - what the planar formats' definition (matrix.c) shares with the packers of the fast
 * paths. Private to kernels/. */
#ifndef SL_KERNELS_REF_FORMATS_H
#define SL_KERNELS_REF_FORMATS_H

#include "kernels/kernels.h"

/* Entry i of m's table of scales, which m has. */
float sl_matrix_scale(const struct sl_matrix *m, int64_t i);

#endif
