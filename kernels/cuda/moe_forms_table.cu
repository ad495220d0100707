/* moe_forms_table.cu - experts of 4-bit codes with a table: NF4, IQ4_NL, IQ4_XS. */
#include "kernels/cuda/moe_forms.cuh"

extern const sl_moe_form sl_moe_forms_table[] = {
    SL_MOE_FORM(LUT4, F16),
    SL_MOE_FORM(LUT4, SUB_I),
};
extern const int sl_moe_forms_table_count = sizeof sl_moe_forms_table / sizeof *sl_moe_forms_table;
