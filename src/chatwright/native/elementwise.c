/* What lies between the matrix products of a block. */

#include "elementwise.h"

#define SMALL(T, NAME, LOAD, STORE)                                                                                  \
    /* y = norm(x) * weight + bias: RMSNorm, or with `centred` LayerNorm; in `kept` [rows, 2], if it is not 0, each   \
       row's mean and scale. bias may be 0. */                                                                       \
    void norm_##NAME(int64_t rows, int64_t width, int64_t centred, float eps, const T *x, const float *weight,       \
                     const float *bias, T *y, float *kept) {                                                         \
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
            if (kept) kept[2 * r] = mean, kept[2 * r + 1] = scale;                                                   \
            if (bias)                                                                                                \
                for (int64_t i = 0; i < width; i++)                                                                  \
                    out[i] = STORE((LOAD(in[i]) - mean) * scale * weight[i] + bias[i]);                              \
            else                                                                                                     \
                for (int64_t i = 0; i < width; i++) out[i] = STORE((LOAD(in[i]) - mean) * scale * weight[i]);        \
        }                                                                                                            \
    }                                                                                                                \
                                                                                                                     \
    /* The gradients of LayerNorm in x, weight and bias from that in its result. Rows are summed up in blocks of 64,  \
       and these in order: the sums do not depend on the number of threads. */                                       \
    void norm_back_##NAME(int64_t rows, int64_t width, const T *x, const float *weight, const float *kept, const T *dy, \
                          T *dx, float *dweight, float *dbias) {                                                     \
        const int64_t blocks = (rows + 63) / 64;                                                                     \
        float *sums = calloc(blocks * 2 * width, sizeof(float));                                                     \
        _Pragma("omp parallel for schedule(static) if (rows * width > 32768)")                                       \
        for (int64_t r = 0; r < blocks * 64; r += 64) {                                                              \
            float *own_weight = sums + r / 64 * 2 * width, *own_bias = own_weight + width;                           \
            for (int64_t i = r; i < rows && i < r + 64; i++) {                                                       \
                const T *in = x + i * width, *d = dy + i * width;                                                    \
                T *out = dx + i * width;                                                                             \
                const float mean = kept[2 * i], scale = kept[2 * i + 1];                                             \
                float sum = 0, product = 0;                                                                          \
                for (int64_t j = 0; j < width; j++) {                                                                \
                    const float unit = (LOAD(in[j]) - mean) * scale, own = LOAD(d[j]), g = own * weight[j];          \
                    own_weight[j] += own * unit;                                                                     \
                    own_bias[j] += own;                                                                              \
                    sum += g;                                                                                        \
                    product += g * unit;                                                                             \
                }                                                                                                    \
                sum /= width;                                                                                        \
                product /= width;                                                                                    \
                for (int64_t j = 0; j < width; j++) {                                                                \
                    const float unit = (LOAD(in[j]) - mean) * scale;                                                 \
                    out[j] = STORE(scale * (LOAD(d[j]) * weight[j] - sum - unit * product));                         \
                }                                                                                                    \
            }                                                                                                        \
        }                                                                                                            \
        memset(dweight, 0, width * sizeof(float));                                                                   \
        memset(dbias, 0, width * sizeof(float));                                                                     \
        for (int64_t b = 0; b < blocks; b++)                                                                         \
            for (int64_t j = 0; j < width; j++) {                                                                    \
                dweight[j] += sums[b * 2 * width + j];                                                               \
                dbias[j] += sums[b * 2 * width + width + j];                                                         \
            }                                                                                                        \
        free(sums);                                                                                                  \
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
    }

SMALL(float, float, from_float, to_float)
SMALL(bfloat16, bfloat16, from_bfloat16, to_bfloat16)

#define ACTIVATION(T, NAME, LOAD, STORE)                                                                             \
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

ACTIVATION(float, float, from_float, to_float)

#ifdef SIXTEEN
/* 1 / (1 + e^-x) to 3e-6 of it. */
static inline __m512 sigmoid(__m512 x) {
    __m512 t = _mm512_mul_ps(x, _mm512_set1_ps(-1.44269504f)); /* 2^t = e^-x */
    t = _mm512_min_ps(_mm512_max_ps(t, _mm512_set1_ps(-126.0f)), _mm512_set1_ps(126.0f));
    const __m512 sum = _mm512_add_ps(power_of_2(t), _mm512_set1_ps(1.0f)), near = _mm512_rcp14_ps(sum);
    return _mm512_mul_ps(near, _mm512_fnmadd_ps(sum, near, _mm512_set1_ps(2.0f)));
}

/* sigmoid(2 u) of GELU's u = sqrt(2 / pi) (x + 0.044715 x^3): gelu(x) is x times that. */
static inline __m512 gelu_share(__m512 x, __m512 squares) {
    const __m512 inner = _mm512_fmadd_ps(squares, _mm512_set1_ps(0.0713548163f), _mm512_set1_ps(1.5957691216f));
    return sigmoid(_mm512_mul_ps(x, inner));
}

void activate_bfloat16(int64_t rows, int64_t width, int64_t gated, const bfloat16 *x, bfloat16 *y) {
    _Pragma("omp parallel for schedule(static) if (rows * width > 32768)")
    for (int64_t r = 0; r < rows; r++) {
        const bfloat16 *in = x + r * width * (gated ? 2 : 1);
        bfloat16 *out = y + r * width;
        for (int64_t i = 0; i < width; i += 16) {
            const __mmask16 here = first(width - i);
            const __m512 v = load_some(here, in + i);
            if (gated) store_some(here, out + i, _mm512_mul_ps(_mm512_mul_ps(v, sigmoid(v)), load_some(here, in + width + i)));
            else store_some(here, out + i, _mm512_mul_ps(v, gelu_share(v, _mm512_mul_ps(v, v))));
        }
    }
}

void activate_back_bfloat16(int64_t rows, int64_t width, int64_t gated, const bfloat16 *x, const bfloat16 *dy, bfloat16 *dx) {
    const __m512 one = _mm512_set1_ps(1.0f);
    _Pragma("omp parallel for schedule(static) if (rows * width > 32768)")
    for (int64_t r = 0; r < rows; r++) {
        const bfloat16 *in = x + r * width * (gated ? 2 : 1), *d = dy + r * width;
        bfloat16 *out = dx + r * width * (gated ? 2 : 1);
        for (int64_t i = 0; i < width; i += 16) {
            const __mmask16 here = first(width - i);
            const __m512 v = load_some(here, in + i), g = load_some(here, d + i);
            if (gated) {
                const __m512 s = sigmoid(v), gs = _mm512_mul_ps(g, s);
                const __m512 slope = _mm512_fmadd_ps(v, _mm512_sub_ps(one, s), one);
                store_some(here, out + i, _mm512_mul_ps(_mm512_mul_ps(gs, load_some(here, in + width + i)), slope));
                store_some(here, out + width + i, _mm512_mul_ps(gs, v));
            } else {
                const __m512 squares = _mm512_mul_ps(v, v), s = gelu_share(v, squares);
                const __m512 du = _mm512_fmadd_ps(squares, _mm512_set1_ps(0.2140644488f), _mm512_set1_ps(1.5957691216f));
                const __m512 slope = _mm512_fmadd_ps(_mm512_mul_ps(v, _mm512_sub_ps(one, s)), du, one);
                store_some(here, out + i, _mm512_mul_ps(_mm512_mul_ps(g, s), slope));
            }
        }
    }
}
#else
ACTIVATION(bfloat16, bfloat16, from_bfloat16, to_bfloat16)
#endif
