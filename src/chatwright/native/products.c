/* Products with weights of 8 or 4 bits.

   Activations are rounded to signed bytes, a unit for each row; with two digits what the first rounding left over goes
   into a second row, in units 254 times as small. */

#include "products.h"

static void to_bytes(int64_t rows, int64_t width, int64_t digits, const bfloat16 *x, int8_t *bytes, float *units) {
    for (int64_t r = 0; r < rows; r++) {
        const bfloat16 *values = x + r * width;
        int8_t *first = bytes + r * digits * width, *second = first + width;
        float most = 0;
        for (int64_t i = 0; i < width; i++) {
            const float size = fabsf(from_bfloat16(values[i]));
            most = size > most ? size : most;
        }
        const float inverse = most > 0 ? 127.0f / most : 0;
        units[r] = most / 127.0f;
        for (int64_t i = 0; i < width; i++) first[i] = (int8_t)(int32_t)rintf(from_bfloat16(values[i]) * inverse);
        if (digits == 2)
            for (int64_t i = 0; i < width; i++)
                second[i] = (int8_t)(int32_t)rintf((from_bfloat16(values[i]) * inverse - (float)first[i]) * 254.0f);
    }
}

#ifdef BYTES
#define AHEAD 4096 /* bytes of weights fetched before they are used; the hardware alone reaches half of the rate */

/* acc += sums of four products. In assembly, because GCC reads the weights anew from memory for each row otherwise. */
#define DPBUSD(acc, x, w) __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w))

/* The sums of 4 vectors' numbers. */
static inline __m128i sums_of(const __m512i v[4]) {
    __m128i part[4];
    for (int i = 0; i < 4; i++) {
        const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(v[i]), _mm512_extracti64x4_epi64(v[i], 1));
        part[i] = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    }
    return _mm_hadd_epi32(_mm_hadd_epi32(part[0], part[1]), _mm_hadd_epi32(part[2], part[3]));
}

/* Sums of products of 4 outputs' weights (signed; 64 of each output lie together) with up to 4 rows of activations
   (unsigned). width is a multiple of 64. The weights that come next are fetched where `first` says they are new. */
static inline __attribute__((always_inline)) void dots(const int8_t *w, const uint8_t *x, const int64_t rows,
                                                       int64_t width, const int first, __m128i found[4]) {
    __m512i acc[4][4];
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < 4; o++) acc[r][o] = _mm512_setzero_si512();
    for (int64_t i = 0; i < width; i += 64) {
        const int8_t *from = w + 4 * i;
        if (first)
            for (int o = 0; o < 4; o++) _mm_prefetch(from + AHEAD + 64 * o, _MM_HINT_T0);
        const __m512i a = _mm512_loadu_si512(from), b = _mm512_loadu_si512(from + 64),
                      c = _mm512_loadu_si512(from + 128), d = _mm512_loadu_si512(from + 192);
        for (int r = 0; r < rows; r++) {
            const __m512i v = _mm512_loadu_si512(x + r * width + i);
            DPBUSD(acc[r][0], v, a);
            DPBUSD(acc[r][1], v, b);
            DPBUSD(acc[r][2], v, c);
            DPBUSD(acc[r][3], v, d);
        }
    }
    for (int r = 0; r < rows; r++) found[r] = sums_of(acc[r]);
}

/* Add the residual, where there is one, to `few` of 4 numbers and write them. */
static inline void write4(__m128 value, const bfloat16 *residual, bfloat16 *y, int64_t few) {
    if (few == 4) {
        if (residual)
            value = _mm_add_ps(value, _mm_castsi128_ps(_mm_slli_epi32(
                                          _mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i *)residual)), 16)));
        __m128i bits = _mm_castps_si128(value);
        const __m128i odd = _mm_and_si128(_mm_srli_epi32(bits, 16), _mm_set1_epi32(1));
        bits = _mm_srli_epi32(_mm_add_epi32(bits, _mm_add_epi32(odd, _mm_set1_epi32(0x7fff))), 16);
        _mm_storel_epi64((__m128i *)y, _mm_packus_epi32(bits, bits));
    } else {
        float numbers[4];
        _mm_storeu_ps(numbers, value);
        for (int64_t i = 0; i < few; i++)
            y[i] = to_bfloat16(residual ? numbers[i] + from_bfloat16(residual[i]) : numbers[i]);
    }
}

static inline __m512 load16(__mmask16 here, const bfloat16 *x) {
    const __m256i bits = _mm256_maskz_loadu_epi16(here, x);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

/* The same for weights of 4 bits, of one output: 64 weights lie in 32 bytes, the first 32 in the low halves. A weight
   is a level times its group's scale plus its offset; `sums` are the groups' sums of each row. */
static inline __attribute__((always_inline)) void dots4(const uint8_t *w, const bfloat16 *scales,
                                                        const bfloat16 *offsets, const int8_t *x, const float *sums,
                                                        const int64_t rows, int64_t width, float *found) {
    __m512 acc[4];
    for (int r = 0; r < rows; r++) acc[r] = _mm512_setzero_ps();
    const __m512i low = _mm512_set1_epi8(15);
    const int64_t groups = width / 32;
    for (int64_t g = 0; g < groups; g += 16) {
        const int64_t few = groups - g < 16 ? groups - g : 16;
        const __mmask16 here = (__mmask16)((1 << few) - 1);
        const __m512 scale = load16(here, scales + g), offset = load16(here, offsets + g);
        for (int r = 0; r < rows; r++)
            acc[r] = _mm512_fmadd_ps(offset, _mm512_maskz_loadu_ps(here, sums + r * groups + g), acc[r]);
        __m512i pair = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi32(1), 1); /* of groups */
        for (int64_t i = 32 * g; i < 32 * (g + few); i += 64) {
            _mm_prefetch(w + i / 2 + AHEAD, _MM_HINT_T0);
            const __m256i packed = _mm256_loadu_si256((const __m256i *)(w + i / 2));
            const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(packed), _mm256_srli_epi16(packed, 4), 1);
            const __m512i levels = _mm512_and_si512(both, low);
            const __m512 own = _mm512_permutexvar_ps(pair, scale);
            pair = _mm512_add_epi32(pair, _mm512_set1_epi32(2));
            for (int r = 0; r < rows; r++) {
                const __m512i v = _mm512_loadu_si512(x + r * width + i);
                const __m512i sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), levels, v);
                acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), own, acc[r]);
            }
        }
    }
    for (int r = 0; r < rows; r++) found[r] = _mm512_reduce_add_ps(acc[r]);
}

/* y = x w^T * scale + bias + residual. w: int8 [outputs / 4 rounded up, width / 64, 4, 64]; sums of the outputs'
   weights, scale and bias have as many places. bias and residual may be 0. digits is 1 or 2. */
void linear_int8(int64_t rows, int64_t width, int64_t outputs, int64_t digits, const bfloat16 *x, const int8_t *w,
                 const int32_t *sums, const float *scale, const float *bias, const bfloat16 *residual, bfloat16 *y) {
    const int64_t lines = rows * digits;
    uint8_t *bytes = aligned_alloc(64, (lines + 1) * width);
    float *units = malloc(rows * sizeof(float));
    const int64_t share = rows > 8 ? 1 : rows;
    _Pragma("omp parallel")
    {
        _Pragma("omp for schedule(static)")
        for (int64_t r = 0; r < rows; r += share) {
            uint8_t *own = bytes + r * digits * width;
            to_bytes(share, width, digits, x + r * width, (int8_t *)own, units + r);
            for (int64_t i = 0; i < share * digits * width; i++) own[i] ^= 0x80; /* unsigned, around 128 */
        }
        /* A block of outputs stays in the first cache while all lines pass by, four at a time. */
        const int64_t block = 4 * (width < 6144 ? 6144 / width : 1);
        _Pragma("omp for schedule(static)")
        for (int64_t begin = 0; begin < outputs; begin += block)
            for (int64_t l = 0; l < lines; l += 4)
                for (int64_t o = begin; o < begin + block && o < outputs; o += 4) {
                    const int64_t few = outputs - o < 4 ? outputs - o : 4, n = lines - l < 4 ? lines - l : 4;
                    const __m128i offset = _mm_slli_epi32(_mm_loadu_si128((const __m128i *)(sums + o)), 7); /* 128 x */
                    const __m128 scales = _mm_loadu_ps(scale + o);
                    const int8_t *from = w + o * width;
                    const uint8_t *line = bytes + l * width;
                    __m128i found[4];
                    if (n == 4 && l > 0) dots(from, line, 4, width, 0, found);
                    else if (n == 4) dots(from, line, 4, width, 1, found);
                    else if (n == 3) dots(from, line, 3, width, 1, found);
                    else dots(from, line, 2, width, 1, found); /* for one, a second for nothing: it costs no time */
                    for (int64_t i = 0; i < n; i += digits) {
                        const int64_t r = (l + i) / digits;
                        __m128 value = _mm_cvtepi32_ps(_mm_sub_epi32(found[i], offset));
                        if (digits == 2)
                            value = _mm_fmadd_ps(_mm_cvtepi32_ps(_mm_sub_epi32(found[i + 1], offset)),
                                                 _mm_set1_ps(1.0f / 254.0f), value);
                        value = _mm_mul_ps(value, _mm_mul_ps(scales, _mm_set1_ps(units[r])));
                        if (bias) value = _mm_add_ps(value, _mm_loadu_ps(bias + o));
                        write4(value, residual ? residual + r * outputs + o : 0, y + r * outputs + o, few);
                    }
                }
    }
    free(bytes);
    free(units);
}

/* The same for weights of 4 bits in groups of 32: levels [outputs, width / 2], scales and offsets bfloat16 [outputs,
   width / 32]; a weight is level * scale + offset. */
void linear_int4(int64_t rows, int64_t width, int64_t outputs, int64_t digits, const bfloat16 *x, const uint8_t *w,
                 const bfloat16 *scales, const bfloat16 *offsets, const float *bias, const bfloat16 *residual, bfloat16 *y) {
    const int64_t lines = rows * digits, groups = width / 32;
    int8_t *bytes = aligned_alloc(64, lines * width);
    float *units = malloc(rows * sizeof(float)), *sums = malloc(lines * groups * sizeof(float));
    const int64_t share = rows > 8 ? 1 : rows;
    _Pragma("omp parallel")
    {
        _Pragma("omp for schedule(static)")
        for (int64_t r = 0; r < rows; r += share) {
            to_bytes(share, width, digits, x + r * width, bytes + r * digits * width, units + r);
            for (int64_t g = 0; g < share * digits * groups; g++) {
                const int8_t *group = bytes + r * digits * width + g * 32;
                int32_t sum = 0;
                for (int i = 0; i < 32; i++) sum += group[i];
                sums[r * digits * groups + g] = (float)sum;
            }
        }
        _Pragma("omp for schedule(static)")
        for (int64_t o = 0; o < outputs; o++) {
            float found[4];
            for (int64_t l = 0; l < lines; l += 4) {
                const int64_t n = lines - l < 4 ? lines - l : 4;
                const int8_t *from = bytes + l * width;
                const uint8_t *levels = w + o * width / 2;
                const bfloat16 *scale = scales + o * groups, *offset = offsets + o * groups;
                const float *sum = sums + l * groups;
                switch (n) {
                    case 1: dots4(levels, scale, offset, from, sum, 1, width, found); break;
                    case 2: dots4(levels, scale, offset, from, sum, 2, width, found); break;
                    case 3: dots4(levels, scale, offset, from, sum, 3, width, found); break;
                    default: dots4(levels, scale, offset, from, sum, 4, width, found);
                }
                for (int64_t i = 0; i < n; i += digits) {
                    const int64_t r = (l + i) / digits;
                    float value = found[i];
                    if (digits == 2) value += found[i + 1] * (1.0f / 254.0f);
                    value *= units[r];
                    if (bias) value += bias[o];
                    if (residual) value += from_bfloat16(residual[r * outputs + o]);
                    y[r * outputs + o] = to_bfloat16(value);
                }
            }
        }
    }
    free(bytes);
    free(units);
    free(sums);
}
#endif
