/* What translated layers are made of, besides the loops that the translation writes out (swarm/shards/translation.py).
 *
 * Every function does the same for each row of states, whatever other rows there are.
 */

#include "vectors.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* One session's cache of one layer: memory of `keys[heads][..][width]`, and where the new token stands in it. */
struct row {
    float *keys, *values;
    size_t key_head, value_head; /* numbers from one head to the next */
    size_t length;               /* tokens before the new one */
};

/* What a layer is called with besides the hidden states: the same tensor of all rows, `step` numbers apart. */
struct extra {
    const float *first;
    size_t step;
};

struct layer {
    size_t kind;
    const float *const *weights;
};

struct kernels {
    void (*multiply_few_rows)(size_t rows, size_t in, size_t out, const float *states, const float *weight,
                              size_t stride, float *found);
    void (*attend_few_queries)(size_t key_heads, size_t shared, size_t keys, size_t width, size_t value_width,
                               float scale, const float *queries, const float *key, size_t key_stride,
                               size_t key_head_stride, const float *value, size_t value_stride,
                               size_t value_head_stride, float *found);
};

/* Some layers for one token of each row. */
struct job {
    const struct kernels *kernels;
    size_t layers;
    const struct layer *layer;
    size_t rows;
    const struct row *row;     /* layer by layer, for all rows */
    const struct extra *extra; /* layer by layer */
    float *work;
};

void multiply_by_rows(size_t rows, size_t in, size_t out, const float *states, const float *weight, size_t stride,
                      float *found);
void multiply_row(size_t in, size_t out, const float *state, const float *weight, size_t stride, float *found);

static inline float sum_of(const float *x, size_t count) {
    vector sums[4] = {0};
    size_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES)
        for (int k = 0; k < 4; k++) sums[k] += load(x + i + k * LANES);
    float sum = total((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; i < count; i++) sum += x[i];
    return sum;
}

/* e to the power of x; of numbers too large or too small for one, that of the last ones that are not */
static inline float exponential(float x) {
    x = x > 88.0f ? 88.0f : x;
    x = x < -87.0f ? -87.0f : x;
    const float twos = WHOLE_TWOS(x), r = LEFT_OF(x, twos);
    union {
        int32_t bits;
        float number;
    } power = {.bits = ((int32_t)twos + 127) << 23};
    return SERIES(r) * power.number;
}

static inline float logistic(float x) { return 1.0f / (1.0f + exponential(-x)); }

static inline float tangent(float x) { return 1.0f - 2.0f / (exponential(2.0f * x) + 1.0f); }

static inline void normalize(const float *x, size_t count, const float *weight, const float *bias, float least,
                             float *found) {
    const float mean = sum_of(x, count) / count;
    for (size_t i = 0; i < count; i++) found[i] = (x[i] - mean) * (x[i] - mean);
    const float scale = 1.0f / sqrtf(sum_of(found, count) / count + least);
    for (size_t i = 0; i < count; i++) found[i] = (x[i] - mean) * scale;
    if (weight)
        for (size_t i = 0; i < count; i++) found[i] *= weight[i];
    if (bias)
        for (size_t i = 0; i < count; i++) found[i] += bias[i];
}

static inline void multiply_by_columns(const struct kernels *kernels, size_t rows, size_t in, size_t out,
                                       const float *states, const float *weight, size_t stride, float *found) {
    if (rows == 1)
        multiply_row(in, out, states, weight, stride, found);
    else
        kernels->multiply_few_rows(rows, in, out, states, weight, stride, found);
}
