/* matrix.c - the one definition of the planar formats: codes, scales and zero points that lie apart
 * (base/matrix.h).
 *
 * Element formats: OCP 8-bit floating point (E4M3 "FN", E5M2) and OCP microscaling formats (E2M1,
 * E8M0), both 2023; integers and codebooks as AWQ, GPTQ and bitsandbytes write them, brought to one
 * order by model/. Slow on purpose, as dequant.c is. */
#include <math.h>

#include "base/sl_assert.h"
#include "kernels/ref/formats.h"

/* Sign, exponent of `bits` with `bias`, and the mantissa below. */
static float small_float(int code, int exp_bits, int man_bits, int bias)
{
    int man = code & ((1 << man_bits) - 1), exp = code >> man_bits & ((1 << exp_bits) - 1);
    float m = (float)man / (float)(1 << man_bits);
    float v = exp ? ldexpf(1 + m, exp - bias) : ldexpf(m, 1 - bias);
    return code >> (exp_bits + man_bits) & 1 ? -v : v;
}

static float e4m3(uint8_t c)
{
    return (c & 0x7f) == 0x7f ? NAN : small_float(c, 4, 3, 7);
}

static float e5m2(uint8_t c)
{
    if ((c & 0x7f) > 0x7c) return NAN;
    if ((c & 0x7f) == 0x7c) return c & 0x80 ? -INFINITY : INFINITY;
    return small_float(c, 5, 2, 15);
}

float sl_matrix_scale(const struct sl_matrix *m, int64_t i)
{
    const uint8_t *bytes = m->scales;
    switch (m->scale_type) {
    case SL_F8_E4M3:
        return e4m3(bytes[i]);
    case SL_E8M0:
        return bytes[i] == 0xff ? NAN : ldexpf(1, bytes[i] - 127);
    default: {
        float f;
        sl_dequantize(m->scale_type, bytes + (size_t)i * sl_dtype_row_bytes(m->scale_type, 1), &f,
                      1);
        return f;
    }
    }
}

/* The value of stored element (row data, k), before zero point and scale. */
static float value_at(const struct sl_matrix *m, const uint8_t *row, int64_t k)
{
    int nibble = row[k / (m->type == SL_F4 || m->type == SL_U4 || m->type == SL_CB4 ? 2 : 1)] >>
                     (k & 1) * 4 &
                 15;
    switch (m->type) {
    case SL_F8_E4M3:
        return e4m3(row[k]);
    case SL_F8_E5M2:
        return e5m2(row[k]);
    case SL_F4:
        return small_float(nibble, 2, 1, 1);
    case SL_U4:
        return (float)nibble;
    case SL_U8:
        return (float)row[k];
    case SL_I8:
        return (float)(int8_t)row[k];
    case SL_CB4:
        return m->codebook[nibble];
    default:
        SL_ASSERT(!"a planar format");
    }
    return 0;
}

static void planar_row(const struct sl_matrix *m, int64_t row, float *out)
{
    const uint8_t *data = sl_matrix_row_data(m, row);
    int64_t at = sl_matrix_stored_row(m, row) / m->scale_rows * sl_matrix_scales_per_row(m);
    for (int64_t k = 0; k < m->cols; k++) {
        int64_t i = at + k / m->scale_cols;
        float v = value_at(m, data, k);
        if (m->zeros) v -= (float)m->zeros[i];
        if (m->scales) v *= sl_matrix_scale(m, i);
        out[m->order ? m->order[k] : k] = v * m->factor;
    }
}

void sl_matrix_row(const struct sl_matrix *m, int64_t row, float *out)
{
    SL_ASSERT(row >= 0 && row < m->rows);
    if (sl_dtype_kind(m->type) == SL_KIND_PLANAR) {
        planar_row(m, row, out);
        return;
    }
    sl_dequantize(m->type, sl_matrix_row_data(m, row), out, m->cols);
    if (m->factor != 1)
        for (int64_t k = 0; k < m->cols; k++) out[k] *= m->factor;
}
