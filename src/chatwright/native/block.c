/* A linear map of any weights, and the parts of a block before and after attention. */

#include "elementwise.h"
#include "products.h"

int fast_products(int64_t bits) {
#ifdef HALVES
    if (bits == 16) return 1;
#endif
#ifdef BYTES
    if (bits < 16) return 1;
#endif
    return 0;
}

#ifdef BYTES
/* Weights of a linear map, as the function of its bits takes them. */
typedef struct {
    int64_t bits, digits, width, outputs;
    const void *weights, *second, *third;
    const float *bias;
} Linear;

/* Weights of a norm. */
typedef struct {
    int64_t centred;
    const float *weight, *bias;
    double eps;
} Norm;

void linear(const Linear *l, int64_t rows, const bfloat16 *x, const bfloat16 *residual, bfloat16 *y) {
#ifdef HALVES
    if (l->bits == 16) {
        linear_bfloat16(rows, l->width, l->outputs, x, l->weights, l->bias, residual, y);
        return;
    }
#endif
    if (l->bits == 8)
        linear_int8(rows, l->width, l->outputs, l->digits, x, l->weights, l->second, l->third, l->bias, residual, y);
    else
        linear_int4(rows, l->width, l->outputs, l->digits, x, l->weights, l->second, l->third, l->bias, residual, y);
}

/* The first part of a block, up to attention: y = norm(x) W^T, then queries and keys are turned. norm may be 0. */
void begin_block(int64_t rows, const Norm *norm, const Linear *qkv, int64_t heads, int64_t E, float eps,
                 const float *weights, const float *cos, const float *sin, const bfloat16 *x, bfloat16 *y) {
    bfloat16 *normed = malloc(rows * qkv->width * sizeof(bfloat16));
    if (norm)
        norm_bfloat16(rows, qkv->width, norm->centred, norm->eps, x, norm->weight, norm->bias, normed, 0);
    linear(qkv, rows, norm ? normed : x, 0, y);
    if (weights || cos) turn_bfloat16(rows, heads, E, qkv->outputs, eps, weights, cos, sin, y);
    free(normed);
}

/* The rest of a block: y = x + out(attended), then y + mlp(norm(y)); with `post`, norms come after the sums. */
void end_block(int64_t rows, int64_t post, int64_t gated, const Norm *first, const Norm *second, const Linear *out,
               const Linear *up, const Linear *down, const bfloat16 *attended, const bfloat16 *x, bfloat16 *y) {
    const int64_t D = out->outputs;
    bfloat16 *sum = malloc(rows * D * sizeof(bfloat16)), *normed = malloc(rows * D * sizeof(bfloat16)),
             *wide = malloc(rows * up->outputs * sizeof(bfloat16)), *active = malloc(rows * down->width * sizeof(bfloat16));
    linear(out, rows, attended, x, sum);
    const Norm *norm = post ? first : second;
    norm_bfloat16(rows, D, norm->centred, norm->eps, sum, norm->weight, norm->bias, normed, 0);
    linear(up, rows, normed, 0, wide);
    activate_bfloat16(rows, down->width, gated, wide, active);
    if (post) {
        linear(down, rows, active, normed, sum);
        norm_bfloat16(rows, D, second->centred, second->eps, sum, second->weight, second->bias, y, 0);
    } else {
        linear(down, rows, active, sum, y);
    }
    free(sum);
    free(normed);
    free(wide);
    free(active);
}
#endif
