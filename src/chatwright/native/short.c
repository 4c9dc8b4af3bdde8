/* Attention of the tokens of short rows to each other, and its gradients, where the processor multiplies bfloat16.

   A task is one key-value head of a row with the query heads that share it, so that nothing depends on other rows or on
   the number of threads. Products are made for 6 queries (or keys) and up to 64 columns at once, in registers, and only
   as far as some of these queries see. What is left out would add zeros: it changes no bit. */

#define _GNU_SOURCE /* memrchr */

#include <omp.h>

#include "numbers.h"

#ifdef SIXTEEN
#define FAST 1
#define TILE 6 /* of 32 registers 6 x 4 hold sums, 4 the columns and one a number of the queries */
#define INLINE static inline __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 6")

typedef struct {
    int64_t rows, heads, kv_heads, length, width; /* B, H, K, T, E; E is a multiple of 16 */
    const uint8_t *mask; /* [B or 1, T, T], 1 where a query attends; 0 is causal */
    int64_t mask_row;    /* bytes from a row's mask to the next one's; 0 is one for all */
} Rows;

typedef struct { /* [B, heads, T, E]; the numbers of a head's token lie together */
    bfloat16 *data;
    int64_t row, head, token; /* strides, in numbers */
} Heads;

typedef uint32_t pair; /* two bfloat16 that are multiplied with two others and summed up */

/* sum += x[0] y[0] + x[1] y[1] of each pair. In assembly, because GCC reads y anew from memory each time otherwise. */
#define DOTS(sum, x, y) __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y))

static inline int64_t up_to(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

static inline __m512i widened(const bfloat16 *x) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x));
}

static inline __m512 numbers(const bfloat16 *x) { return _mm512_castsi512_ps(_mm512_slli_epi32(widened(x), 16)); }

static inline __m512i paired(__m512i even, __m512i odd) { return _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)); }

/* --- products ----------------------------------------------------------------------------------------------------- */

/* 6 rows of a product and 16 * `vectors` of its columns: sums over pairs of a[i][n * step] . b[n * line + column].
   They are put in `y`, rounded, or without it in `sums`, to whose numbers `more` adds them. */
INLINE void part(const pair *const *a, int64_t step, const pair *b, int64_t line, int64_t pairs, const int vectors,
                 int64_t rows, int more, float *sums, int64_t sums_row, bfloat16 *y, int64_t y_row) {
    __m512 sum[TILE][4];
    UNROLLED for (int i = 0; i < TILE; i++)
        UNROLLED for (int c = 0; c < vectors; c++)
            sum[i][c] = more && i < rows ? _mm512_loadu_ps(sums + i * sums_row + 16 * c) : _mm512_setzero_ps();
    for (int64_t n = 0; n < pairs; n++) {
        __m512i columns[4];
        UNROLLED for (int c = 0; c < vectors; c++) columns[c] = _mm512_loadu_si512(b + n * line + 16 * c);
        UNROLLED for (int i = 0; i < TILE; i++) {
            const __m512i x = _mm512_set1_epi32(a[i][n * step]);
            UNROLLED for (int c = 0; c < vectors; c++) DOTS(sum[i][c], x, columns[c]);
        }
    }
    UNROLLED for (int i = 0; i < TILE; i++)
        UNROLLED for (int c = 0; c < vectors; c++)
            if (i < rows && y)
                _mm256_storeu_si256((__m256i *)(y + i * y_row + 16 * c),
                                    rounded(sum[i][c]));
            else if (i < rows)
                _mm512_storeu_ps(sums + i * sums_row + 16 * c, sum[i][c]);
}

/* The same for any multiple of 16 columns. */
INLINE void product(const pair *const *a, int64_t step, const pair *b, int64_t line, int64_t pairs, int64_t columns,
                    int64_t rows, int more, float *sums, int64_t sums_row, bfloat16 *y, int64_t y_row) {
    int64_t c = 0;
#define PART(vectors) \
    part(a, step, b + c, line, pairs, vectors, rows, more, sums + c, sums_row, y ? y + c : 0, y_row)
    for (; c + 64 <= columns; c += 64) PART(4);
    switch ((columns - c) / 16) {
        case 3: PART(3); break;
        case 2: PART(2); break;
        case 1: PART(1);
    }
#undef PART
}

static __attribute__((noinline)) void scores_of(const pair *const *a, const pair *b, int64_t line, int64_t pairs,
                                                int64_t columns, int64_t rows, float *sums, int64_t sums_row) {
    product(a, 1, b, line, pairs, columns, rows, 0, sums, sums_row, 0, 0);
}

static __attribute__((noinline)) void weighed(const pair *const *a, const pair *b, int64_t pairs, int64_t E,
                                              int64_t rows, bfloat16 *y, int64_t y_row) {
    product(a, 1, b, E, pairs, E, rows, 0, 0, 0, y, y_row);
}

/* --- layouts ------------------------------------------------------------------------------------------------------ */

/* 16 x 16 pairs, in place. */
static inline void transpose(__m512i x[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        x[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        const __m512i a = _mm512_shuffle_i32x4(x[i], x[4 + i], 0x88), b = _mm512_shuffle_i32x4(x[i], x[4 + i], 0xdd);
        const __m512i c = _mm512_shuffle_i32x4(x[8 + i], x[12 + i], 0x88),
                      d = _mm512_shuffle_i32x4(x[8 + i], x[12 + i], 0xdd);
        t[i] = _mm512_shuffle_i32x4(a, c, 0x88);
        t[8 + i] = _mm512_shuffle_i32x4(a, c, 0xdd);
        t[4 + i] = _mm512_shuffle_i32x4(b, d, 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
    memcpy(x, t, sizeof(t));
}

/* Pairs of a token's numbers below each other: [E / 2, S] from x [T, E], S a multiple of 16, 0 beyond T. */
static void across(const bfloat16 *x, int64_t token, int64_t T, int64_t E, int64_t S, pair *to) {
    for (int64_t s = 0; s < S; s += 16)
        for (int64_t e = 0; e < E / 2; e += 16) {
            __m512i block[16];
            for (int i = 0; i < 16; i++)
                block[i] = s + i < T ? _mm512_maskz_loadu_epi32(first(E / 2 - e), (const pair *)(x + (s + i) * token) + e)
                                     : _mm512_setzero_si512();
            transpose(block);
            for (int i = 0; i < 16 && e + i < E / 2; i++) _mm512_storeu_si512(to + (e + i) * S + s, block[i]);
        }
}

/* Pairs of the same number of two tokens: [pairs, E] from x [T, E], 0 beyond T. */
static void along(const bfloat16 *x, int64_t token, int64_t T, int64_t E, int64_t pairs, pair *to) {
    for (int64_t n = 0; n < pairs; n++)
        for (int64_t e = 0; e < E; e += 16) {
            const bfloat16 *even = x + 2 * n * token + e;
            const __m512i a = 2 * n < T ? widened(even) : _mm512_setzero_si512();
            const __m512i b = 2 * n + 1 < T ? widened(even + token) : _mm512_setzero_si512();
            _mm512_storeu_si512(to + n * E + e, paired(a, b));
        }
}

/* How many keys each query sees at most, counted to the last that it sees; all for one that sees none, which is NaN. */
static void find_reach(const uint8_t *mask, int64_t T, int64_t *reach) {
    for (int64_t t = 0; t < T; t++) {
        const uint8_t *row = mask + t * T, *last = mask ? memrchr(row, 1, T) : 0;
        reach[t] = !mask ? t + 1 : last ? last - row + 1 : T;
    }
}

static int64_t most_of(const int64_t *reach, int64_t rows) {
    int64_t most = 0;
    for (int64_t i = 0; i < rows; i++) most = reach[i] > most ? reach[i] : most;
    return most;
}

/* Up to 6 tokens of a head that will be read soon, or with `write` written. They lie too far apart for the processor to
   foresee them. */
INLINE void fetch(const Heads *x, int64_t b, int64_t h, int64_t t, int64_t rows, int64_t E, const int write) {
    const bfloat16 *from = x->data + b * x->row + h * x->head + t * x->token;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t e = 0; e < E; e += 32) __builtin_prefetch(from + i * x->token + e, write, 2);
}

/* The beginnings of up to 6 tokens' numbers; the first one's stand for those beyond. */
static void point(const bfloat16 *x, int64_t token, int64_t rows, const pair *a[TILE]) {
    for (int64_t i = 0; i < TILE; i++) a[i] = (const pair *)(x + (i < rows ? i : 0) * token);
}

/* --- forward ------------------------------------------------------------------------------------------------------ */

/* The softmax of a query's scaled scores, which are changed, over the keys that it sees; 0 up to `end`. */
static void soften(float *scores, int64_t seen, int64_t end, float scale, const uint8_t *visible, bfloat16 *p) {
    __mmask16 here[up_to(seen, 16) / 16];
    __m512 most = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
    for (int64_t c = 0; c < seen; c += 16) {
        __mmask16 seen_here = first(seen - c);
        if (visible) {
            const __m128i bytes = _mm_maskz_loadu_epi8(seen_here, visible + c);
            seen_here = _mm_test_epi8_mask(bytes, bytes);
        }
        here[c / 16] = seen_here;
        most = _mm512_mask_max_ps(most, seen_here, most, _mm512_loadu_ps(scores + c));
    }
    /* In powers of 2. The lowest comes first in a maximum, which is then NaN where the second is. */
    const __m512 scales = _mm512_set1_ps(scale * 1.44269504f), low = _mm512_set1_ps(-126.0f);
    const __m512 top = _mm512_mul_ps(_mm512_set1_ps(_mm512_reduce_max_ps(most)), scales);
    for (int64_t c = 0; c < seen; c += 16) {
        const __m512 x = _mm512_fmsub_ps(_mm512_loadu_ps(scores + c), scales, top);
        const __m512 y = _mm512_maskz_mov_ps(here[c / 16], power_of_2(_mm512_max_ps(low, x)));
        sum = _mm512_add_ps(sum, y);
        _mm512_storeu_ps(scores + c, y);
    }
    const __m512 inverse = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(sum));
    int64_t c = 0;
    for (; c < seen; c += 16)
        _mm256_storeu_si256((__m256i *)(p + c), rounded(_mm512_mul_ps(_mm512_loadu_ps(scores + c), inverse)));
    for (; c < end; c += 16) _mm256_storeu_si256((__m256i *)(p + c), _mm256_setzero_si256());
}

/* y, and in `kept` [B, H, T, S] (S is T rounded up to 16), if it is not 0, the probabilities, which the way back needs. */
void attend_short(const Rows *r, const Heads *q, const Heads *k, const Heads *v, bfloat16 *kept, const Heads *y) {
    const int64_t K = r->kv_heads, G = r->heads / K, T = r->length, E = r->width, S = up_to(T, 16), tasks = r->rows * K;
    const float scale = 1.0f / sqrtf((float)E);
    _Pragma("omp parallel")
    {
        pair *keys = aligned_alloc(64, up_to(S * E * sizeof(pair) + TILE * S * (4 + 2) + T * 8, 64));
        pair *values = keys + S * E / 2;
        float *scores = (float *)(values + S * E / 2);
        bfloat16 *scratch = (bfloat16 *)(scores + TILE * S);
        int64_t *reach = (int64_t *)(scratch + TILE * S);
        _Pragma("omp for schedule(dynamic)")
        for (int64_t task = 0; task < tasks; task++) {
            const int64_t b = task / K, kv = task % K, next = task + omp_get_num_threads();
            const uint8_t *mask = r->mask ? r->mask + b * r->mask_row : 0;
            find_reach(mask, T, reach);
            across(k->data + b * k->row + kv * k->head, k->token, T, E, S, keys);
            along(v->data + b * v->row + kv * v->head, v->token, T, E, S / 2, values);
            for (int64_t h = kv * G; h < (kv + 1) * G; h++)
                for (int64_t t = 0; t < T; t += TILE) {
                    const int64_t rows = T - t < TILE ? T - t : TILE, most = most_of(reach + t, rows);
                    bfloat16 *p = kept ? kept + ((b * r->heads + h) * T + t) * S : scratch;
                    const pair *a[TILE];
                    fetch(y, b, h, t, rows, E, 1);
                    if (h + 1 < (kv + 1) * G) {
                        fetch(q, b, h + 1, t, rows, E, 0);
                    } else if (next < tasks) {
                        fetch(q, next / K, next % K * G, t, rows, E, 0);
                        fetch(k, next / K, next % K, t, rows, E, 0);
                        fetch(v, next / K, next % K, t, rows, E, 0);
                    }
                    point(q->data + b * q->row + h * q->head + t * q->token, q->token, rows, a);
                    scores_of(a, keys, S, E / 2, up_to(most, 16), rows, scores, S);
                    for (int64_t i = 0; i < rows; i++)
                        soften(scores + i * S, reach[t + i], up_to(most, 16), scale, mask ? mask + (t + i) * T : 0,
                               p + i * S);
                    point(p, S, rows, a);
                    weighed(a, values, (most + 1) / 2, E, rows, y->data + b * y->row + h * y->head + t * y->token,
                            y->token);
                }
        }
        free(keys);
    }
}

/* --- backward ----------------------------------------------------------------------------------------------------- */

/* From two queries' probabilities p and the gradients dp in them those in their scores, ds [2, S], and pairs of both
   queries' p and ds, up to `end`; 0 from there on. */
static void harden(const bfloat16 *p, const float *dp, int64_t queries, int64_t end, int64_t S, float scale,
                   bfloat16 *ds, pair *p_pairs, pair *ds_pairs) {
    __m512 mean[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int64_t i = 0; i < queries; i++) {
        for (int64_t c = 0; c < end; c += 16)
            mean[i] = _mm512_fmadd_ps(numbers(p + i * S + c), _mm512_loadu_ps(dp + i * S + c), mean[i]);
        mean[i] = _mm512_set1_ps(_mm512_reduce_add_ps(mean[i]));
    }
    int64_t c = 0;
    for (; c < end; c += 16) {
        __m512i both[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()}, both_ds[2] = {both[0], both[0]};
        for (int64_t i = 0; i < queries; i++) {
            both[i] = widened(p + i * S + c);
            const __m512 weight = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(both[i], 16)), _mm512_set1_ps(scale));
            const __m256i found = rounded(_mm512_mul_ps(weight, _mm512_sub_ps(_mm512_loadu_ps(dp + i * S + c), mean[i])));
            _mm256_storeu_si256((__m256i *)(ds + i * S + c), found);
            both_ds[i] = _mm512_cvtepu16_epi32(found);
        }
        _mm512_storeu_si512(p_pairs + c, paired(both[0], both[1]));
        _mm512_storeu_si512(ds_pairs + c, paired(both_ds[0], both_ds[1]));
    }
    memset(p_pairs + c, 0, (S - c) * sizeof(pair));
    memset(ds_pairs + c, 0, (S - c) * sizeof(pair));
}

/* A gradient in keys or values: of each, over all queries that may see it, the sum of weights [pairs, S] times b
   [pairs, E]. Heads that share the keys add up in `sums` [T, E]; the last one writes y. */
static void totals(const int64_t *reach, int64_t T, const pair *weights, int64_t S, const pair *b, int64_t E, int more,
                   float *sums, bfloat16 *y, int64_t y_row) {
    const int64_t pairs = up_to(T, TILE) / 2;
    int64_t begin = 0; /* the first 6 queries of which some see this key or a later one */
    for (int64_t s = 0; s < T; s += TILE) {
        const int64_t rows = T - s < TILE ? T - s : TILE;
        while (begin + TILE < T && most_of(reach + begin, TILE) <= s) begin += TILE;
        const pair *a[TILE];
        for (int64_t i = 0; i < TILE; i++) a[i] = weights + begin / 2 * S + s + (i < rows ? i : 0);
        const pair *from = b + begin / 2 * E;
        if (y) product(a, S, from, E, pairs - begin / 2, E, rows, more, sums + s * E, E, y + s * y_row, y_row);
        else product(a, S, from, E, pairs - begin / 2, E, rows, more, sums + s * E, E, 0, 0);
    }
}

/* The gradients in q, k and v from that in y, dy, and the probabilities that `attend_short` kept. */
void attend_short_back(const Rows *r, const Heads *q, const Heads *k, const Heads *v, const bfloat16 *kept,
                       const Heads *dy, const Heads *dq, const Heads *dk, const Heads *dv) {
    const int64_t K = r->kv_heads, G = r->heads / K, T = r->length, E = r->width, S = up_to(T, 16), tasks = r->rows * K;
    const int64_t pairs = up_to(T, TILE) / 2;
    const float scale = 1.0f / sqrtf((float)E);
    _Pragma("omp parallel")
    {
        const int64_t sizes = S * E + 2 * pairs * E + 2 * pairs * S + TILE * S + TILE * S / 2 + (G > 1 ? 2 * S * E : 0);
        pair *values = aligned_alloc(64, up_to(sizes * sizeof(pair) + T * 8, 64));
        pair *keys = values + S * E / 2, *queries = keys + S * E / 2, *changes = queries + pairs * E;
        pair *p_pairs = changes + pairs * E, *ds_pairs = p_pairs + pairs * S;
        float *dp = (float *)(ds_pairs + pairs * S);
        float *dk_sums = dp + TILE * S, *dv_sums = dk_sums + (G > 1 ? S * E : 0);
        bfloat16 *ds = (bfloat16 *)(dv_sums + (G > 1 ? S * E : 0));
        int64_t *reach = (int64_t *)(ds + TILE * S);
        _Pragma("omp for schedule(dynamic)")
        for (int64_t task = 0; task < tasks; task++) {
            const int64_t b = task / K, kv = task % K, next = task + omp_get_num_threads();
            find_reach(r->mask ? r->mask + b * r->mask_row : 0, T, reach);
            across(v->data + b * v->row + kv * v->head, v->token, T, E, S, values);
            along(k->data + b * k->row + kv * k->head, k->token, T, E, S / 2, keys);
            for (int64_t g = 0; g < G; g++) {
                const int64_t h = kv * G + g;
                const bfloat16 *change = dy->data + b * dy->row + h * dy->head;
                along(change, dy->token, T, E, pairs, changes);
                along(q->data + b * q->row + h * q->head, q->token, T, E, pairs, queries);
                for (int64_t t = 0; t < T; t += TILE) {
                    const int64_t rows = T - t < TILE ? T - t : TILE, most = most_of(reach + t, rows);
                    const bfloat16 *p = kept + ((b * r->heads + h) * T + t) * S;
                    const pair *a[TILE];
                    fetch(dq, b, h, t, rows, E, 1);
                    if (g + 1 < G) {
                        fetch(q, b, h + 1, t, rows, E, 0);
                        fetch(dy, b, h + 1, t, rows, E, 0);
                    } else {
                        fetch(dk, b, kv, t, rows, E, 1);
                        fetch(dv, b, kv, t, rows, E, 1);
                        if (next < tasks) {
                            fetch(q, next / K, next % K * G, t, rows, E, 0);
                            fetch(dy, next / K, next % K * G, t, rows, E, 0);
                            fetch(k, next / K, next % K, t, rows, E, 0);
                            fetch(v, next / K, next % K, t, rows, E, 0);
                        }
                    }
                    point(change + t * dy->token, dy->token, rows, a);
                    scores_of(a, values, S, E / 2, up_to(most, 16), rows, dp, S);
                    for (int64_t i = 0; i < TILE; i += 2) {
                        const int64_t n = (t + i) / 2 * S, left = rows - i;
                        harden(p + i * S, dp + i * S, left < 0 ? 0 : left < 2 ? left : 2, up_to(most, 16), S, scale, ds + i * S,
                               p_pairs + n, ds_pairs + n);
                    }
                    point(ds, S, rows, a);
                    weighed(a, keys, (most + 1) / 2, E, rows, dq->data + b * dq->row + h * dq->head + t * dq->token,
                            dq->token);
                }
                const int more = g > 0, last = g + 1 == G;
                totals(reach, T, p_pairs, S, changes, E, more, dv_sums, last ? dv->data + b * dv->row + kv * dv->head : 0,
                       dv->token);
                totals(reach, T, ds_pairs, S, queries, E, more, dk_sums, last ? dk->data + b * dk->row + kv * dk->head : 0,
                       dk->token);
            }
        }
        free(values);
    }
}
#else
#define FAST 0
#endif

int fast_short(void) { return FAST; }
