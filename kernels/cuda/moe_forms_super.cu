/* moe_forms_super.cu - experts of k-quants with groups of 16: Q2_K, Q3_K, Q6_K. */
#include "kernels/cuda/moe_forms.cuh"

extern const sl_moe_form sl_moe_forms_super[] = {
    SL_MOE_FORM_PAIR(U2, SUB_U, SUB),
    SL_MOE_FORM_PAIR(U3, SUB_I, NONE),
    SL_MOE_FORM_PAIR(U6, SUB_I, NONE),
};
extern const int sl_moe_forms_super_count = sizeof sl_moe_forms_super / sizeof *sl_moe_forms_super;
