/* moe_forms_float.cu - experts of 4-bit floats: MXFP4, NVFP4. */
#include "kernels/cuda/moe_forms.cuh"

extern const sl_moe_form sl_moe_forms_float[] = {
    SL_MOE_FORM(E2M1, E8M0),
    SL_MOE_FORM_PAIR(E2M1, UE4M3, NONE),
};
extern const int sl_moe_forms_float_count = sizeof sl_moe_forms_float / sizeof *sl_moe_forms_float;
