/* matmul_pack.h - private to the files that make tiles: matmul_pack.c, matmul_codes.c,
 * matmul_scales.c, matmul_memory.c. */
#ifndef SL_KERNELS_CPU_MATMUL_PACK_H
#define SL_KERNELS_CPU_MATMUL_PACK_H

#include "kernels/cpu/matmul.h"

/* Zeroed, 64-byte aligned; NULL when memory is out. */
void *sl_mm_memory_get(size_t bytes);
void sl_mm_memory_put(void *p);

/* Row `row` of the view m as lane `lane` of a tile's codes at `tile`. */
void sl_mm_put_codes(const struct sl_matrix *m, int layout, int64_t row, int lane, uint8_t *tile);

/* The same for its scales, which begin at `at`. type and block: of kinds S and SZ, see
 * struct sl_mm_scale_head. */
void sl_mm_put_scales(const struct sl_matrix *m, int layout, enum sl_dtype type, int64_t block,
                      int64_t row, int lane, uint8_t *at);

/* Bytes of a tile's scales. */
size_t sl_mm_scale_bytes(enum sl_mm_scales s, int64_t cols, enum sl_dtype type, int64_t block);

#endif
