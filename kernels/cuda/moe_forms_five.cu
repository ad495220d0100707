/* moe_forms_five.cu - experts of 5-bit integers, Q5_0, Q5_1, Q5_K, and Q4_K. */
#include "kernels/cuda/moe_forms.cuh"

extern const sl_moe_form sl_moe_forms_five[] = {
    SL_MOE_FORM(U5, F16),
    SL_MOE_FORM_MIN(U5, F16, F16),
    SL_MOE_FORM_MIN(U5, SUB_U, SUB),
    SL_MOE_FORM_MIN(U4, SUB_U, SUB),
};
extern const int sl_moe_forms_five_count = sizeof sl_moe_forms_five / sizeof *sl_moe_forms_five;
