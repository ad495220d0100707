/* encode.h - floats into the small formats, one value or one group at a time.
 *
 * All round to nearest, ties to even, and saturate: what is too large becomes the largest finite
 * number (OCP OFP8 and Microscaling specifications 2023, sections on conversion). Pure functions;
 * inputs must not be NaN where a comment says so. The codes mean what kernels/ref decodes. */
#ifndef SL_MODEL_ENCODE_H
#define SL_MODEL_ENCODE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SL_E4M3_MAX 448.0f
#define SL_E2M1_MAX 6.0f

uint16_t sl_encode_bf16(float x); /* NaN stays NaN, overflow becomes infinity */
uint16_t sl_encode_f16(float x);  /* the same */
uint8_t sl_encode_e4m3(float x);  /* +-448 at most; NaN is 0x7f */
uint8_t sl_encode_e2m1(float x);  /* 4 bits, +-6 at most; NaN is +6 */
float sl_decode_f16(uint16_t h);
float sl_decode_e4m3(uint8_t c);
float sl_decode_e2m1(uint8_t c);

/* Groups: n finite values in, codes and the scale out. Codes of two to a byte have the even value
 * low; n is even. */

/* E4M3 codes of a row; the scale multiplies. */
void sl_encode_row_e4m3(const float *x, int64_t n, uint8_t *codes, float *scale);
/* NVFP4: 16 values to 8 bytes and an E4M3 scale; `global` is 448 * 6 / amax of the matrix. */
void sl_encode_group_nvfp4(const float x[16], float global, uint8_t codes[8], uint8_t *scale);
/* MXFP4: 32 values to 16 bytes and an E8M0 scale: of the two that come into question (elements that
 * saturate, or that never do) the one with the smaller error. */
void sl_encode_group_mxfp4(const float x[32], uint8_t codes[16], uint8_t *scale);
/* Integers of 8 or 4 bits with 2^(bits-1) added, a scale in F16; n <= 64. */
void sl_encode_group_int(const float *x, int n, int bits, uint8_t *codes, uint16_t *scale);

#ifdef __cplusplus
}
#endif
#endif
