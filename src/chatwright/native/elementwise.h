/* What block.c needs of elementwise.c. */

#pragma once

#include "numbers.h"

void norm_bfloat16(int64_t rows, int64_t width, int64_t centred, float eps, const bfloat16 *x, const float *weight,
                   const float *bias, bfloat16 *y, float *kept);
void turn_bfloat16(int64_t tokens, int64_t heads, int64_t E, int64_t row, float eps, const float *weights,
                   const float *cos, const float *sin, bfloat16 *qk);
void activate_bfloat16(int64_t rows, int64_t width, int64_t gated, const bfloat16 *x, bfloat16 *y);
