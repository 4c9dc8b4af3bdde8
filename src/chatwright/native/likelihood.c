/* The softmax over a vocabulary, of logits that are bfloat16, in one visit to each row. */

#include "numbers.h"

#ifdef SIXTEEN
#define FAST 1

/* Of softmax(logits * scale), rows of `width`: the logarithm of each target's probability, the entropies, and the
   probabilities, from those of the targets of which `less` is taken off. entropies and p may be 0; p may be logits. */
void likelihood(int64_t rows, int64_t width, float scale, float less, const bfloat16 *logits, const int64_t *targets,
                float *logprobs, float *entropies, bfloat16 *p) {
    /* In powers of 2. The lowest comes first in a maximum, which is then NaN where the second is. */
    const __m512 scales = _mm512_set1_ps(scale * 1.44269504f), low = _mm512_set1_ps(-126.0f);
    _Pragma("omp parallel")
    {
        float *powers = aligned_alloc(64, (width + 15) / 16 * 64);
        _Pragma("omp for schedule(static)")
        for (int64_t r = 0; r < rows; r++) {
            const bfloat16 *in = logits + r * width;
            const float target = from_bfloat16(in[targets[r]]);
            __m512 most = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps(), products = _mm512_setzero_ps();
            for (int64_t i = 0; i < width; i += 16) {
                const __mmask16 here = first(width - i);
                most = _mm512_mask_max_ps(most, here, most, load_some(here, in + i));
            }
            const float highest = _mm512_reduce_max_ps(most);
            most = _mm512_mul_ps(_mm512_set1_ps(highest), scales);
            for (int64_t i = 0; i < width; i += 16) {
                const __mmask16 here = first(width - i);
                const __m512 t = _mm512_fmsub_ps(load_some(here, in + i), scales, most);
                const __m512 y = _mm512_maskz_mov_ps(here, power_of_2(_mm512_max_ps(low, t)));
                sum = _mm512_add_ps(sum, y);
                products = _mm512_mask3_fmadd_ps(y, t, products, _mm512_cmp_ps_mask(t, low, _CMP_GT_OQ));
                _mm512_store_ps(powers + i, y);
            }
            const float whole = _mm512_reduce_add_ps(sum), log_whole = logf(whole);
            logprobs[r] = (target - highest) * scale - log_whole;
            if (entropies) entropies[r] = log_whole - _mm512_reduce_add_ps(products) * 0.693147181f / whole;
            if (!p) continue;
            bfloat16 *out = p + r * width;
            const __m512 inverse = _mm512_set1_ps(1.0f / whole);
            for (int64_t i = 0; i < width; i += 16)
                store_some(first(width - i), out + i, _mm512_mul_ps(_mm512_load_ps(powers + i), inverse));
            if (less != 0) out[targets[r]] = to_bfloat16(powers[targets[r]] / whole - less);
        }
        free(powers);
    }
}

/* The gradients in the logits, dy * scale * (onehot(target) - p), from those in the logarithms, dy. */
void likelihood_back(int64_t rows, int64_t width, float scale, const bfloat16 *p, const int64_t *targets,
                     const float *dy, bfloat16 *dlogits) {
    _Pragma("omp parallel for schedule(static)")
    for (int64_t r = 0; r < rows; r++) {
        const float change = dy[r] * scale;
        const bfloat16 *in = p + r * width;
        bfloat16 *out = dlogits + r * width;
        for (int64_t i = 0; i < width; i += 16) {
            const __mmask16 here = first(width - i);
            store_some(here, out + i, _mm512_mul_ps(load_some(here, in + i), _mm512_set1_ps(-change)));
        }
        out[targets[r]] = to_bfloat16(change * (1.0f - from_bfloat16(in[targets[r]])));
    }
}
#else
#define FAST 0
#endif

int fast_likelihood(void) { return FAST; }
