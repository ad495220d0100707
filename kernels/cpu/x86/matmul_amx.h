/* matmul_amx.h - private: what the two files of the amx row share: the configuration of tile
 * registers and the kernels by name. */
#ifndef SL_KERNELS_CPU_X86_MATMUL_AMX_H
#define SL_KERNELS_CPU_X86_MATMUL_AMX_H

#include "kernels/cpu/matmul.h"

/* The operand of ldtilecfg. The instruction reads all 64 bytes, which compilers do not know: keep
 * it in memory that they cannot see through. */
struct sl_amx_config {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
_Static_assert(sizeof(struct sl_amx_config) == 64, "the layout of ldtilecfg");

void sl_mm_split_amx(const struct sl_mm_act *a, const float *x, int row, int64_t from, int64_t to);

/* sl_mm_tile_amx_SL_TILE_F32 and so on, one sl_mm_tile_fn per float layout. */
#define X(type, ...)                                                                               \
    void sl_mm_tile_amx_##type(const struct sl_mm_span *w, const struct sl_mm_act *a, int row,     \
                               int rows, float *acc);
SL_MM_FLOAT_FORMATS(X)
SL_MM_SMALL_FORMATS(X)
#undef X

#endif
