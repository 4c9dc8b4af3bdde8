/* Products with weights of 16, 8 or 4 bits, where the processor multiplies such numbers: y = x w^T + bias + residual,
   of which bias and residual may be 0. */

#pragma once

#include "numbers.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define BYTES 1
void linear_int8(int64_t rows, int64_t width, int64_t outputs, int64_t digits, const bfloat16 *x, const int8_t *w,
                 const int32_t *sums, const float *scale, const float *bias, const bfloat16 *residual, bfloat16 *y);
void linear_int4(int64_t rows, int64_t width, int64_t outputs, int64_t digits, const bfloat16 *x, const uint8_t *w,
                 const bfloat16 *scales, const bfloat16 *offsets, const float *bias, const bfloat16 *residual, bfloat16 *y);
#endif

/* Where there are tiles (AMX), oneDNN, which knows them, is several times as fast with many rows. */
#if defined(BYTES) && defined(SIXTEEN) && !defined(__AMX_BF16__)
#define HALVES 1
void linear_bfloat16(int64_t rows, int64_t width, int64_t outputs, const bfloat16 *x, const bfloat16 *w, const float *bias,
                     const bfloat16 *residual, bfloat16 *y);
#endif
