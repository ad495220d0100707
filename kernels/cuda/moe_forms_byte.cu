/* moe_forms_byte.cu - experts of halfs and of 8-bit codes: F16 and BF16 files, FP8 by row and by
 * block, Q8_0, int8 by row. */
#include "kernels/cuda/moe_forms.cuh"

extern const sl_moe_form sl_moe_forms_byte[] = {
    SL_MOE_FORM(F16, NONE), SL_MOE_FORM(E4M3, NONE), SL_MOE_FORM(E4M3, GRID),
    SL_MOE_FORM(I8, F16),   SL_MOE_FORM(I8, NONE),
};
extern const int sl_moe_forms_byte_count = sizeof sl_moe_forms_byte / sizeof *sl_moe_forms_byte;
