/* moe_forms_nibble.cu - experts of 4-bit integers: Q4_0, Q4_1, AWQ and GPTQ. */
#include "kernels/cuda/moe_forms.cuh"

extern const sl_moe_form sl_moe_forms_nibble[] = {
    SL_MOE_FORM(U4, F16),
    SL_MOE_FORM_MIN(U4, F16, F16),
    SL_MOE_FORM_MIN(U4, F16, ZERO_U8),
};
extern const int sl_moe_forms_nibble_count =
    sizeof sl_moe_forms_nibble / sizeof *sl_moe_forms_nibble;
