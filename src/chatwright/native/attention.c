/* Attention of the tokens of a step to the keys and values of their own texts, which lie in blocks.

   Up to 4 tokens that follow each other in a text are computed together, with all query heads of a key's head: what is
   read of keys and values then serves all of them. */

#include "numbers.h"

typedef struct { /* of a step */
    int64_t tokens; /* N */
    int64_t groups; /* each of tokens that follow each other in a text */
    int64_t blocks; /* of each text in tables */
    const int64_t *at;      /* where each token's key and value belong: block times its size plus the place in it */
    const int32_t *tables;  /* the blocks of each text */
    const int32_t *firsts;  /* the first token of each group; its last ends before the next one's, or at tokens */
    const int32_t *texts;   /* of each group */
    const int32_t *lengths; /* how many tokens of its text a group's first one sees; each other sees one more */
} Step;

typedef struct { /* of a layer */
    int64_t heads, kv_heads, width; /* H, K, E */
    int64_t block;                  /* tokens of a block, a multiple of 16 */
    int64_t q_head, q_token, k_head, k_token, v_head, v_token; /* strides, in numbers */
    int64_t stride;                                            /* of the sparse pattern; 0 is dense */
} Layer;

#ifdef __AVX512F__
/* Element i is the sum of v[i]'s. */
static inline __m512 sums_of_16(const __m512 v[16]) {
    __m512 four[4];
    for (int i = 0; i < 4; i++) {
        const __m512 *x = v + 4 * i;
        const __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
        const __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
        const __m512d c = _mm512_castps_pd(a), d = _mm512_castps_pd(b);
        four[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(c, d)), _mm512_castpd_ps(_mm512_unpackhi_pd(c, d)));
    }
    const __m512 a = _mm512_add_ps(_mm512_shuffle_f32x4(four[0], four[1], 0x88),
                                   _mm512_shuffle_f32x4(four[0], four[1], 0xdd));
    const __m512 b = _mm512_add_ps(_mm512_shuffle_f32x4(four[2], four[3], 0x88),
                                   _mm512_shuffle_f32x4(four[2], four[3], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

static inline __m512 load_float(const float *x) { return _mm512_loadu_ps(x); }

static inline __m512 load_bfloat16(const bfloat16 *x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x)), 16));
}

#define AT_ONCE_float 16
static inline __m512 products_float(__m512 sum, const float *a, const float *b) {
    return _mm512_fmadd_ps(_mm512_loadu_ps(a), _mm512_loadu_ps(b), sum);
}

#ifdef __AVX512BF16__
#define AT_ONCE_bfloat16 32
static inline __m512 products_bfloat16(__m512 sum, const bfloat16 *a, const bfloat16 *b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(a), (__m512bh)_mm512_loadu_si512(b));
}
#else
#define AT_ONCE_bfloat16 16
static inline __m512 products_bfloat16(__m512 sum, const bfloat16 *a, const bfloat16 *b) {
    return _mm512_fmadd_ps(load_bfloat16(a), load_bfloat16(b), sum);
}
#endif
#endif

#define INLINE static inline __attribute__((always_inline))

/* scores[j][t] = q[j] . k[t] of `queries`, for the keys of a block; a row of scores is `row` long. */
#define SCORES_PLAIN(T, LOAD)                                                                                        \
    INLINE void scores_plain_##T(const T *const *q, int64_t queries, const T *k, int64_t keys, int64_t E, float *scores, \
                                 int64_t row) {                                                                      \
        for (int64_t j = 0; j < queries; j++)                                                                        \
            for (int64_t t = 0; t < keys; t++) {                                                                     \
                float dot = 0;                                                                                       \
                for (int64_t e = 0; e < E; e++) dot += LOAD(q[j][e]) * LOAD(k[t * E + e]);                           \
                scores[j * row + t] = dot;                                                                           \
            }                                                                                                        \
    }                                                                                                                \
                                                                                                                     \
    /* sums[j] += weights[j][t] v[t]. */                                                                             \
    INLINE void weigh_plain_##T(const float *weights, int64_t row, int64_t queries, const T *v, int64_t keys,        \
                                int64_t E, int64_t begin, float *sums) {                                             \
        for (int64_t j = 0; j < queries; j++)                                                                        \
            for (int64_t t = 0; t < keys; t++)                                                                       \
                for (int64_t e = begin; e < E; e++) sums[j * E + e] += weights[j * row + t] * LOAD(v[t * E + e]);    \
    }

SCORES_PLAIN(float, from_float)
SCORES_PLAIN(bfloat16, from_bfloat16)

#ifdef __AVX512F__
#define FAST(T)                                                                                                      \
    INLINE void scores_##T(const T *const *q, int64_t queries, const T *k, int64_t keys, int64_t E, float *scores,   \
                           int64_t row) {                                                                            \
        if (E % AT_ONCE_##T) {                                                                                       \
            scores_plain_##T(q, queries, k, keys, E, scores, row);                                                   \
            return;                                                                                                  \
        }                                                                                                            \
        int64_t j = 0;                                                                                               \
        for (; j + 4 <= queries; j += 4)                                                                             \
            for (int64_t t = 0; t < keys; t += 4) {                                                                  \
                __m512 dots[16];                                                                                     \
                for (int i = 0; i < 16; i++) dots[i] = _mm512_setzero_ps();                                          \
                for (int64_t e = 0; e < E; e += AT_ONCE_##T)                                                         \
                    for (int i = 0; i < 16; i++)                                                                     \
                        dots[i] = products_##T(dots[i], q[j + i / 4] + e, k + (t + i % 4) * E + e);                  \
                const __m512 found = sums_of_16(dots);                                                               \
                float *to = scores + j * row + t;                                                                    \
                _mm_storeu_ps(to, _mm512_castps512_ps128(found));                                                    \
                _mm_storeu_ps(to + row, _mm512_extractf32x4_ps(found, 1));                                           \
                _mm_storeu_ps(to + 2 * row, _mm512_extractf32x4_ps(found, 2));                                       \
                _mm_storeu_ps(to + 3 * row, _mm512_extractf32x4_ps(found, 3));                                       \
            }                                                                                                        \
        for (; j < queries; j++)                                                                                     \
            for (int64_t t = 0; t < keys; t += 16) {                                                                 \
                __m512 dots[16];                                                                                     \
                for (int i = 0; i < 16; i++) dots[i] = _mm512_setzero_ps();                                          \
                for (int64_t e = 0; e < E; e += AT_ONCE_##T)                                                         \
                    for (int i = 0; i < 16; i++) dots[i] = products_##T(dots[i], q[j] + e, k + (t + i) * E + e);     \
                _mm512_storeu_ps(scores + j * row + t, sums_of_16(dots));                                            \
            }                                                                                                        \
    }                                                                                                                \
                                                                                                                     \
    INLINE void weigh_few_##T(const float *weights, int64_t row, const int queries, const T *v, int64_t keys,        \
                              int64_t E, const int vectors, float *sums) {                                           \
        __m512 part[4][4];                                                                                           \
        for (int j = 0; j < queries; j++)                                                                            \
            for (int c = 0; c < vectors; c++) part[j][c] = _mm512_loadu_ps(sums + j * E + 16 * c);                   \
        for (int64_t t = 0; t < keys; t++) {                                                                         \
            __m512 value[4];                                                                                         \
            for (int c = 0; c < vectors; c++) value[c] = load_##T(v + t * E + 16 * c);                               \
            for (int j = 0; j < queries; j++) {                                                                      \
                const __m512 weight = _mm512_set1_ps(weights[j * row + t]);                                          \
                for (int c = 0; c < vectors; c++) part[j][c] = _mm512_fmadd_ps(weight, value[c], part[j][c]);        \
            }                                                                                                        \
        }                                                                                                            \
        for (int j = 0; j < queries; j++)                                                                            \
            for (int c = 0; c < vectors; c++) _mm512_storeu_ps(sums + j * E + 16 * c, part[j][c]);                   \
    }                                                                                                                \
                                                                                                                     \
    INLINE void weigh_##T(const float *weights, int64_t row, int64_t queries, const T *v, int64_t keys, int64_t E,   \
                          float *sums) {                                                                             \
        int64_t e = 0;                                                                                               \
        for (; e + 64 <= E; e += 64) {                                                                               \
            int64_t j = 0;                                                                                           \
            for (; j + 4 <= queries; j += 4)                                                                         \
                weigh_few_##T(weights + j * row, row, 4, v + e, keys, E, 4, sums + j * E + e);                       \
            for (; j < queries; j++)                                                                                 \
                weigh_few_##T(weights + j * row, row, 1, v + e, keys, E, 4, sums + j * E + e);                       \
        }                                                                                                            \
        for (; e + 16 <= E; e += 16)                                                                                 \
            for (int64_t j = 0; j < queries; j++)                                                                    \
                weigh_few_##T(weights + j * row, row, 1, v + e, keys, E, 1, sums + j * E + e);                       \
        weigh_plain_##T(weights, row, queries, v, keys, E, e, sums);                                                 \
    }
#else
#define FAST(T)                                                                                                      \
    INLINE void scores_##T(const T *const *q, int64_t queries, const T *k, int64_t keys, int64_t E, float *scores,   \
                           int64_t row) {                                                                            \
        scores_plain_##T(q, queries, k, keys, E, scores, row);                                                       \
    }                                                                                                                \
    INLINE void weigh_##T(const float *weights, int64_t row, int64_t queries, const T *v, int64_t keys, int64_t E,   \
                          float *sums) {                                                                             \
        weigh_plain_##T(weights, row, queries, v, keys, E, 0, sums);                                                 \
    }
#endif

FAST(float)
FAST(bfloat16)

/* Scores of a query to weights: the softmax of the first `seen` of `row`, scaled; the others become 0. */
static inline void softmax(float *scores, int64_t seen, int64_t row, float scale, int64_t stride) {
    if (stride)
        for (int64_t t = 0; t < seen; t++) {
            const int64_t far = seen - 1 - t;
            if (far > stride && far % stride) scores[t] = -1e30f;
        }
    float most = -INFINITY, sum = 0;
    for (int64_t t = 0; t < seen; t++) most = scores[t] > most ? scores[t] : most;
    for (int64_t t = 0; t < seen; t++) {
        scores[t] = exponential((scores[t] - most) * scale);
        sum += scores[t];
    }
    const float inverse = 1.0f / sum;
    for (int64_t t = 0; t < seen; t++) scores[t] *= inverse;
    for (int64_t t = seen; t < row; t++) scores[t] = 0;
}

/* A group's queries of a key's head: their scores lie in rows, then what they attend to is summed up. */
#define ATTENTION(T, STORE)                                                                                          \
    INLINE void head_##T(const Layer *l, int64_t E, const T *q, int64_t tokens, const T *keys, const T *values,      \
                         const int32_t *table, int64_t length, float *scores, float *sums, T *y) {                   \
        const int64_t G = l->heads / l->kv_heads, L = l->block, step = l->kv_heads * L * E, queries = tokens * G;    \
        const int64_t blocks = (length + tokens - 1 + L - 1) / L, row = blocks * L;                                  \
        const T *query[4 * G];                                                                                       \
        for (int64_t j = 0; j < queries; j++) query[j] = q + j / G * l->q_token + j % G * l->q_head;                 \
        for (int64_t b = 0; b < blocks; b++) {                                                                       \
            if (b + 1 < blocks)                                                                                      \
                for (int64_t i = 0; i < L * E; i += 64 / sizeof(T)) __builtin_prefetch(keys + table[b + 1] * step + i); \
            scores_##T(query, queries, keys + table[b] * step, L, E, scores + b * L, row);                           \
        }                                                                                                            \
        for (int64_t j = 0; j < queries; j++)                                                                        \
            softmax(scores + j * row, length + j / G, row, 1.0f / sqrtf((float)E), l->stride);                       \
        memset(sums, 0, queries * E * sizeof(float));                                                                \
        for (int64_t b = 0; b < blocks; b++) {                                                                       \
            const int64_t left = length + tokens - 1 - b * L;                                                        \
            if (b + 1 < blocks)                                                                                      \
                for (int64_t i = 0; i < L * E; i += 64 / sizeof(T)) __builtin_prefetch(values + table[b + 1] * step + i); \
            weigh_##T(scores + b * L, row, queries, values + table[b] * step, left < L ? left : L, E, sums);         \
        }                                                                                                            \
        for (int64_t j = 0; j < queries; j++)                                                                        \
            for (int64_t e = 0; e < E; e++) y[(j / G * l->heads + j % G) * E + e] = STORE(sums[j * E + e]);          \
    }                                                                                                                \
                                                                                                                     \
    /* Store the tokens' keys and values, then y [N, H, E]. */                                                       \
    void attend_##T(const Step *s, const Layer *l, const T *q, const T *k, const T *v, T *keys, T *values, T *y) {   \
        const int64_t E = l->width, K = l->kv_heads, G = l->heads / K, L = l->block, most = s->blocks * L;           \
        _Pragma("omp parallel")                                                                                      \
        {                                                                                                            \
            _Pragma("omp for schedule(static)")                                                                      \
            for (int64_t n = 0; n < s->tokens; n++)                                                                  \
                for (int64_t kv = 0; kv < K; kv++) {                                                                 \
                    const int64_t place = ((s->at[n] / L * K + kv) * L + s->at[n] % L) * E;                          \
                    memcpy(keys + place, k + kv * l->k_head + n * l->k_token, E * sizeof(T));                        \
                    memcpy(values + place, v + kv * l->v_head + n * l->v_token, E * sizeof(T));                      \
                }                                                                                                    \
            float *scores = malloc(4 * G * (most + E) * sizeof(float)), *sums = scores + 4 * G * most;               \
            _Pragma("omp for schedule(dynamic)")                                                                     \
            for (int64_t i = 0; i < s->groups * K; i++) {                                                            \
                const int64_t g = i / K, kv = i % K, first = s->firsts[g];                                           \
                const int64_t tokens = (g + 1 < s->groups ? s->firsts[g + 1] : s->tokens) - first;                   \
                const int32_t *table = s->tables + s->texts[g] * s->blocks;                                          \
                const T *query = q + kv * G * l->q_head + first * l->q_token;                                        \
                const T *own_keys = keys + kv * L * E, *own_values = values + kv * L * E;                            \
                T *out = y + (first * l->heads + kv * G) * E;                                                        \
                if (E == 64)                                                                                         \
                    head_##T(l, 64, query, tokens, own_keys, own_values, table, s->lengths[g], scores, sums, out);   \
                else if (E == 128)                                                                                   \
                    head_##T(l, 128, query, tokens, own_keys, own_values, table, s->lengths[g], scores, sums, out);  \
                else                                                                                                 \
                    head_##T(l, E, query, tokens, own_keys, own_values, table, s->lengths[g], scores, sums, out);    \
            }                                                                                                        \
            free(scores);                                                                                            \
        }                                                                                                            \
    }

ATTENTION(float, to_float)
ATTENTION(bfloat16, to_bfloat16)
