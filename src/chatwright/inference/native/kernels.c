/* Attention of single queries over keys and values in blocks, and rounding to 8 bits, for CPUs.

   Compiled on first use (see __init__.py). Numbers are float or bfloat16 in memory and float in between. Built into
   PyTorch's own OpenMP threads. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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

typedef struct {
    int64_t tokens;     /* N: to be stored */
    int64_t rows;       /* R <= N: the first tokens, each of which attends */
    int64_t heads, kv_heads, width; /* H, K, E */
    int64_t block;      /* tokens of a block */
    int64_t table;      /* J: blocks of a row in tables */
    int64_t q_head, q_token, k_head, k_token, v_head, v_token; /* strides, in numbers */
    int64_t stride;     /* of the sparse pattern; 0 is dense */
} Shape;

/* The body of an attention over numbers of one type. Scores of a head's queries lie in `scores` [G, S]. */
#define ATTENTION(NAME, T, LOAD, STORE)                                                                              \
    static inline __attribute__((always_inline)) void NAME##_head(                                                   \
        const Shape *s, int64_t E, const T *q, int64_t q_head, const T *keys, const T *values, const int32_t *table, \
        int64_t kv, int64_t length, float *scores, float *sums, T *y) {                                              \
        const int64_t G = s->heads / s->kv_heads, L = s->block;                                                      \
        const float scale = 1.0f / sqrtf((float)E);                                                                  \
        float query[E];                                                                                              \
        for (int64_t g = 0; g < G; g++) {                                                                            \
            for (int64_t e = 0; e < E; e++) query[e] = LOAD(q[g * q_head + e]) * scale;                              \
            float *row = scores + g * length, most = -INFINITY;                                                      \
            for (int64_t b = 0; b * L < length; b++) {                                                               \
                const T *k = keys + ((int64_t)table[b] * s->kv_heads + kv) * L * E;                                  \
                const int64_t end = length - b * L < L ? length - b * L : L;                                         \
                for (int64_t t = 0; t < end; t++) {                                                                  \
                    float dot = 0;                                                                                   \
                    for (int64_t e = 0; e < E; e++) dot += query[e] * LOAD(k[t * E + e]);                            \
                    row[b * L + t] = dot;                                                                            \
                }                                                                                                    \
            }                                                                                                        \
            if (s->stride)                                                                                           \
                for (int64_t t = 0; t < length; t++) {                                                               \
                    const int64_t far = length - 1 - t;                                                              \
                    if (far > s->stride && far % s->stride) row[t] = -1e30f;                                         \
                }                                                                                                    \
            for (int64_t t = 0; t < length; t++) most = row[t] > most ? row[t] : most;                               \
            float sum = 0;                                                                                           \
            for (int64_t t = 0; t < length; t++) {                                                                   \
                row[t] = expf(row[t] - most);                                                                        \
                sum += row[t];                                                                                       \
            }                                                                                                        \
            for (int64_t e = 0; e < E; e++) sums[g * E + e] = 0;                                                     \
            const float inverse = 1.0f / sum;                                                                        \
            for (int64_t t = 0; t < length; t++) row[t] *= inverse;                                                  \
        }                                                                                                            \
        for (int64_t b = 0; b * L < length; b++) {                                                                   \
            const T *v = values + ((int64_t)table[b] * s->kv_heads + kv) * L * E;                                    \
            const int64_t end = length - b * L < L ? length - b * L : L;                                             \
            for (int64_t g = 0; g < G; g++) {                                                                        \
                const float *row = scores + g * length + b * L;                                                      \
                float part[E];                                                                                       \
                for (int64_t e = 0; e < E; e++) part[e] = sums[g * E + e];                                           \
                for (int64_t t = 0; t < end; t++)                                                                    \
                    for (int64_t e = 0; e < E; e++) part[e] += row[t] * LOAD(v[t * E + e]);                          \
                for (int64_t e = 0; e < E; e++) sums[g * E + e] = part[e];                                           \
            }                                                                                                        \
        }                                                                                                            \
        for (int64_t i = 0; i < G * E; i++) y[i] = STORE(sums[i]);                                                   \
    }                                                                                                                \
                                                                                                                     \
    void NAME(const Shape *s, const T *q, const T *k, const T *v, T *keys, T *values, const int64_t *at,             \
              const int32_t *tables, const int32_t *lengths, T *y) {                                                 \
        const int64_t E = s->width, K = s->kv_heads, G = s->heads / K, L = s->block;                                 \
        _Pragma("omp parallel")                                                                                      \
        {                                                                                                            \
            _Pragma("omp for schedule(static)")                                                                      \
            for (int64_t n = 0; n < s->tokens; n++)                                                                  \
                for (int64_t kv = 0; kv < K; kv++) {                                                                 \
                    const int64_t place = ((at[n] / L * K + kv) * L + at[n] % L) * E;                                \
                    memcpy(keys + place, k + kv * s->k_head + n * s->k_token, E * sizeof(T));                        \
                    memcpy(values + place, v + kv * s->v_head + n * s->v_token, E * sizeof(T));                      \
                }                                                                                                    \
            float *own = 0;                                                                                          \
            int64_t room = 0;                                                                                        \
            _Pragma("omp for schedule(dynamic)")                                                                     \
            for (int64_t i = 0; i < s->rows * K; i++) {                                                              \
                const int64_t r = i / K, kv = i % K, length = lengths[r];                                            \
                const int64_t need = G * length + G * E;                                                             \
                if (need > room) {                                                                                   \
                    free(own);                                                                                       \
                    room = 2 * need;                                                                                 \
                    own = malloc(room * sizeof(float));                                                              \
                }                                                                                                    \
                const T *query = q + kv * G * s->q_head + r * s->q_token;                                            \
                T *out = y + (r * s->heads + kv * G) * E;                                                            \
                float *sums = own + G * length;                                                                      \
                const int32_t *table = tables + r * s->table;                                                        \
                if (E == 64)                                                                                         \
                    NAME##_head(s, 64, query, s->q_head, keys, values, table, kv, length, own, sums, out);           \
                else if (E == 128)                                                                                   \
                    NAME##_head(s, 128, query, s->q_head, keys, values, table, kv, length, own, sums, out);          \
                else                                                                                                 \
                    NAME##_head(s, E, query, s->q_head, keys, values, table, kv, length, own, sums, out);            \
            }                                                                                                        \
            free(own);                                                                                               \
        }                                                                                                            \
    }

ATTENTION(attend_float, float, from_float, to_float)
ATTENTION(attend_bfloat16, bfloat16, from_bfloat16, to_bfloat16)

/* Rows of numbers as unsigned bytes around 128, and the size of a unit. With two digits the rest of the first rounding
   goes into `rows` further rows, in units 254 times as small. */
#define ROUNDING(NAME, T, LOAD)                                                                                      \
    void NAME(int64_t rows, int64_t width, int64_t row, int64_t digits, const T *x, uint8_t *bytes, float *units) {  \
        _Pragma("omp parallel for schedule(static) if (rows * width > 65536)")                                       \
        for (int64_t r = 0; r < rows; r++) {                                                                         \
            const T *values = x + r * row;                                                                           \
            uint8_t *first = bytes + r * width, *second = bytes + (rows + r) * width;                                \
            float most = 0;                                                                                          \
            for (int64_t i = 0; i < width; i++) {                                                                    \
                const float size = fabsf(LOAD(values[i]));                                                           \
                most = size > most ? size : most;                                                                    \
            }                                                                                                        \
            const float unit = most / 127.0f, inverse = most > 0 ? 127.0f / most : 0;                                \
            units[r] = unit;                                                                                         \
            if (digits == 1) {                                                                                       \
                for (int64_t i = 0; i < width; i++)                                                                  \
                    first[i] = (uint8_t)(int32_t)(LOAD(values[i]) * inverse + 128.5f);                               \
            } else {                                                                                                 \
                for (int64_t i = 0; i < width; i++) {                                                                \
                    const float value = LOAD(values[i]) * inverse;                                                   \
                    const int32_t whole = (int32_t)(value + 128.5f);                                                 \
                    first[i] = (uint8_t)whole;                                                                       \
                    second[i] = (uint8_t)(int32_t)((value - (float)(whole - 128)) * 254.0f + 128.5f);                \
                }                                                                                                    \
            }                                                                                                        \
        }                                                                                                            \
    }

ROUNDING(round_float, float, from_float)
ROUNDING(round_bfloat16, bfloat16, from_bfloat16)
