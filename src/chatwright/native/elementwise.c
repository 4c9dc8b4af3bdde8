/* What lies between the matrix products of a block. */

#include "elementwise.h"

#define SMALL(T, NAME, LOAD, STORE)                                                                                  \
    /* y = norm(x) * weight + bias: RMSNorm, or with `centred` LayerNorm. bias may be 0. */                          \
    void norm_##NAME(int64_t rows, int64_t width, int64_t centred, float eps, const T *x, const float *weight,       \
                     const float *bias, T *y) {                                                                      \
        _Pragma("omp parallel for schedule(static) if (rows * width > 32768)")                                       \
        for (int64_t r = 0; r < rows; r++) {                                                                         \
            const T *in = x + r * width;                                                                             \
            T *out = y + r * width;                                                                                  \
            float sum = 0, squares = 0;                                                                              \
            if (centred)                                                                                             \
                for (int64_t i = 0; i < width; i++) sum += LOAD(in[i]);                                              \
            const float mean = sum / width;                                                                          \
            for (int64_t i = 0; i < width; i++) {                                                                    \
                const float d = LOAD(in[i]) - mean;                                                                  \
                squares += d * d;                                                                                    \
            }                                                                                                        \
            const float scale = 1.0f / sqrtf(squares / width + eps);                                                 \
            if (bias)                                                                                                \
                for (int64_t i = 0; i < width; i++)                                                                  \
                    out[i] = STORE((LOAD(in[i]) - mean) * scale * weight[i] + bias[i]);                              \
            else                                                                                                     \
                for (int64_t i = 0; i < width; i++) out[i] = STORE((LOAD(in[i]) - mean) * scale * weight[i]);        \
        }                                                                                                            \
    }                                                                                                                \
                                                                                                                     \
    /* Queries and keys of each token, in place: each head normed by its row of weights [heads, E], where there are  \
       any, then turned by the token's angles [tokens, E], where there are any. */                                   \
    void turn_##NAME(int64_t tokens, int64_t heads, int64_t E, int64_t row, float eps, const float *weights,         \
                     const float *cos, const float *sin, T *qk) {                                                    \
        const int64_t half = E / 2;                                                                                  \
        float head[E];                                                                                               \
        for (int64_t n = 0; n < tokens; n++)                                                                         \
            for (int64_t h = 0; h < heads; h++) {                                                                    \
                T *x = qk + n * row + h * E;                                                                         \
                for (int64_t e = 0; e < E; e++) head[e] = LOAD(x[e]);                                                \
                if (weights) {                                                                                       \
                    float squares = 0;                                                                               \
                    for (int64_t e = 0; e < E; e++) squares += head[e] * head[e];                                    \
                    const float scale = 1.0f / sqrtf(squares / E + eps);                                             \
                    for (int64_t e = 0; e < E; e++) head[e] *= scale * weights[h * E + e];                           \
                }                                                                                                    \
                if (cos)                                                                                             \
                    for (int64_t e = 0; e < half; e++) {                                                             \
                        const float *c = cos + n * E, *s = sin + n * E;                                              \
                        const float a = head[e], b = head[e + half];                                                 \
                        head[e] = a * c[e] - b * s[e];                                                               \
                        head[e + half] = b * c[e + half] + a * s[e + half];                                          \
                    }                                                                                                \
                for (int64_t e = 0; e < E; e++) x[e] = STORE(head[e]);                                               \
            }                                                                                                        \
    }                                                                                                                \
                                                                                                                     \
    /* y = silu(gate) * up where x holds both side by side, else gelu(x) in its tanh form. */                        \
    void activate_##NAME(int64_t rows, int64_t width, int64_t gated, const T *x, T *y) {                             \
        _Pragma("omp parallel for schedule(static) if (rows * width > 32768)")                                       \
        for (int64_t r = 0; r < rows; r++) {                                                                         \
            const T *in = x + r * width * (gated ? 2 : 1);                                                           \
            T *out = y + r * width;                                                                                  \
            if (gated)                                                                                               \
                for (int64_t i = 0; i < width; i++) {                                                                \
                    const float gate = LOAD(in[i]);                                                                  \
                    out[i] = STORE(gate / (1.0f + exponential(-gate)) * LOAD(in[width + i]));                               \
                }                                                                                                    \
            else                                                                                                     \
                for (int64_t i = 0; i < width; i++) {                                                                \
                    const float v = LOAD(in[i]), u = 0.7978845608028654f * (v + 0.044715f * v * v * v);              \
                    out[i] = STORE(v / (1.0f + exponential(-2.0f * u)));                                                    \
                }                                                                                                    \
        }                                                                                                            \
    }                                                                                                                \
                                                                                                                     \
    /* dx from dy, the gradient of what `activate` made of x. */                                                     \
    void activate_back_##NAME(int64_t rows, int64_t width, int64_t gated, const T *x, const T *dy, T *dx) {          \
        _Pragma("omp parallel for schedule(static) if (rows * width > 32768)")                                       \
        for (int64_t r = 0; r < rows; r++) {                                                                         \
            const T *in = x + r * width * (gated ? 2 : 1), *d = dy + r * width;                                      \
            T *out = dx + r * width * (gated ? 2 : 1);                                                               \
            if (gated)                                                                                               \
                for (int64_t i = 0; i < width; i++) {                                                                \
                    const float gate = LOAD(in[i]), g = LOAD(d[i]), s = 1.0f / (1.0f + exponential(-gate));          \
                    out[i] = STORE(g * LOAD(in[width + i]) * s * (1.0f + gate * (1.0f - s)));                        \
                    out[width + i] = STORE(g * gate * s);                                                            \
                }                                                                                                    \
            else                                                                                                     \
                for (int64_t i = 0; i < width; i++) {                                                                \
                    const float v = LOAD(in[i]), u = 0.7978845608028654f * (v + 0.044715f * v * v * v);              \
                    const float s = 1.0f / (1.0f + exponential(-2.0f * u));                                          \
                    const float du = 0.7978845608028654f * (1.0f + 0.134145f * v * v);                               \
                    out[i] = STORE(LOAD(d[i]) * s * (1.0f + 2.0f * v * (1.0f - s) * du));                            \
                }                                                                                                    \
        }                                                                                                            \
    }

SMALL(float, float, from_float, to_float)
SMALL(bfloat16, bfloat16, from_bfloat16, to_bfloat16)
