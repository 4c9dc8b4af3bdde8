/* Numbers in memory are float or bfloat16, and float in between. */

#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

typedef uint16_t bfloat16;

static inline float from_bfloat16(bfloat16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}

static inline bfloat16 to_bfloat16(float x) { /* to the nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &x, 4);
    bits += 0x7fff + ((bits >> 16) & 1);
    return (bfloat16)(bits >> 16);
}

static inline float from_float(float x) { return x; }
static inline float to_float(float x) { return x; }

/* e^x to 3e-7 of it, between e^-87 and e^88; the compiler computes many at once, which it cannot with expf. */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    const float n = rintf(x * 1.44269504f), r = fmaf(n, -0.693147181f, x);
    const float series = 1.0f + r * (1.0f + r * (0.5f + r * (1.0f / 6 + r * (1.0f / 24 + r * (1.0f / 120 + r / 720)))));
    const uint32_t bits = (uint32_t)((int32_t)n + 127) << 23; /* 2^n */
    float power;
    memcpy(&power, &bits, 4);
    return series * power;
}

/* Sixteen numbers at a time, rounded to bfloat16 by the processor itself. */
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define SIXTEEN 1
static inline __mmask16 first(int64_t count) { return count < 16 ? (__mmask16)((1 << count) - 1) : 0xffff; }

static inline __m512 load_some(__mmask16 here, const bfloat16 *x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(here, x)), 16));
}

static inline __m256i rounded(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

/* 2^t to 3e-6 of it, for t from -126 to 127. */
static inline __m512 power_of_2(__m512 t) {
    const __m512 n = _mm512_roundscale_ps(t, 8), r = _mm512_sub_ps(t, n);
    __m512 series = _mm512_fmadd_ps(r, _mm512_set1_ps(0.00133336f), _mm512_set1_ps(0.00961813f));
    series = _mm512_fmadd_ps(r, series, _mm512_set1_ps(0.05550411f));
    series = _mm512_fmadd_ps(r, series, _mm512_set1_ps(0.24022651f));
    series = _mm512_fmadd_ps(r, series, _mm512_set1_ps(0.69314718f));
    return _mm512_scalef_ps(_mm512_fmadd_ps(r, series, _mm512_set1_ps(1.0f)), n);
}

static inline void store_some(__mmask16 here, bfloat16 *y, __m512 x) { _mm256_mask_storeu_epi16(y, here, rounded(x)); }
#endif
