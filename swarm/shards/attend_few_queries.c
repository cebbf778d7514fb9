/* One query per head of one session, over its cached keys and values, on one core.
 *
 * Keys and values are read once, in the order in which they lie in memory, for all query heads that share them.
 * A block of keys at a time: weights are relative to the greatest score so far, and what was summed before is scaled
 * down when a greater one comes.
 */

#include "vectors.h"

#include <stddef.h>
#include <string.h>

#define BLOCK 16       /* keys that are weighed before their values are summed; they stay in the cache meanwhile */
#define MOST 8         /* query heads that share a pass over the keys */
#define WIDE 256       /* numbers of a head, at most */
#define LINE 16        /* numbers in a line of the cache */
#define NOTHING (-3.4e38f)
#define LEAST (-87.0f) /* e to this power is about the least number of full precision */

typedef int whole __attribute__((vector_size(LANES * sizeof(int)), aligned(sizeof(int))));

#define UNROLL(times) _Pragma(#times)
#define EACH UNROLL(GCC unroll 4)

/* The totals of four vectors, side by side. */
static void totals(const vector v[4], float *found) {
    const vector ab = __builtin_shufflevector(v[0], v[1], 0, 8, 2, 10, 4, 12, 6, 14) +
                      __builtin_shufflevector(v[0], v[1], 1, 9, 3, 11, 5, 13, 7, 15);
    const vector cd = __builtin_shufflevector(v[2], v[3], 0, 8, 2, 10, 4, 12, 6, 14) +
                      __builtin_shufflevector(v[2], v[3], 1, 9, 3, 11, 5, 13, 7, 15);
    const vector halves = __builtin_shufflevector(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13) +
                          __builtin_shufflevector(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15);
    EACH for (int i = 0; i < 4; i++) found[i] = halves[i] + halves[i + 4];
}

/* e to the power of numbers from LEAST to 0 */
static vector power(vector x) {
    const vector twos = WHOLE_TWOS(x), r = LEFT_OF(x, twos);
    const whole exponent = (__builtin_convertvector(twos, whole) + 127) << 23;
    return SERIES(r) * (vector)exponent;
}

/* scores[HEADS][count] = queries[HEADS][width] x keys[count][width] */
#define SCORE(HEADS)                                                                                                   \
    static void score_##HEADS(const float *queries, const float *keys, size_t stride, size_t width, size_t count,      \
                              float (*scores)[BLOCK], const float *next, size_t step) {                                \
        size_t s = 0;                                                                                                  \
        for (; s + 4 <= count; s += 4) {                                                                               \
            vector sums[HEADS][4] = {0};                                                                               \
            for (size_t n = 0; n < width; n += LANES) {                                                                \
                vector states[HEADS];                                                                                  \
                EACH for (int h = 0; h < HEADS; h++) states[h] = load(queries + h * width + n);                        \
                EACH for (int i = 0; i < 4; i++) {                                                                     \
                    const vector key = load(keys + (s + i) * stride + n);                                              \
                    EACH for (int h = 0; h < HEADS; h++) sums[h][i] += key * states[h];                                \
                }                                                                                                      \
            }                                                                                                          \
            EACH for (int h = 0; h < HEADS; h++) totals(sums[h], scores[h] + s);                                       \
            EACH for (int i = 0; i < 4; i++)                                                                           \
                for (size_t n = 0; n < width; n += LINE) __builtin_prefetch(next + (s + i) * step + n);                \
        }                                                                                                              \
        for (; s < count; s++)                                                                                         \
            for (int h = 0; h < HEADS; h++) {                                                                          \
                vector sum = {0};                                                                                      \
                for (size_t n = 0; n < width; n += LANES) sum += load(keys + s * stride + n) * load(queries + h * width + n); \
                scores[h][s] = total(sum);                                                                             \
            }                                                                                                          \
    }

/* found[HEADS][broad] += weights[HEADS][count] x values[count][broad], for COUNT vectors */
#define GATHER(HEADS, COUNT)                                                                                           \
    static void gather_##HEADS##_##COUNT(float (*weights)[BLOCK], const float *values, size_t stride, size_t count,    \
                                         float (*found)[WIDE], size_t n, const float *next, size_t step) {             \
        vector sums[HEADS][COUNT];                                                                                     \
        EACH for (int h = 0; h < HEADS; h++)                                                                           \
            EACH for (int i = 0; i < COUNT; i++) sums[h][i] = load(found[h] + n + i * LANES);                          \
        for (size_t s = 0; s < count; s++) {                                                                           \
            EACH for (int i = 0; i < COUNT; i++) {                                                                     \
                const vector value = load(values + s * stride + n + i * LANES);                                        \
                EACH for (int h = 0; h < HEADS; h++) sums[h][i] += value * weights[h][s];                              \
            }                                                                                                          \
            for (int i = 0; i < COUNT * LANES; i += LINE) __builtin_prefetch(next + s * step + n + i);                 \
        }                                                                                                              \
        EACH for (int h = 0; h < HEADS; h++)                                                                           \
            EACH for (int i = 0; i < COUNT; i++) *(vector *)(found[h] + n + i * LANES) = sums[h][i];                   \
    }

#define BOTH(HEADS)                                                                                                    \
    SCORE(HEADS) GATHER(HEADS, 4) GATHER(HEADS, 1)                                                                     \
    static void gather_##HEADS(float (*weights)[BLOCK], const float *values, size_t stride, size_t width,              \
                               size_t count, float (*found)[WIDE], const float *next, size_t step) {                   \
        size_t n = 0;                                                                                                  \
        for (; n + 4 * LANES <= width; n += 4 * LANES)                                                                 \
            gather_##HEADS##_4(weights, values, stride, count, found, n, next, step);                                  \
        for (; n < width; n += LANES) gather_##HEADS##_1(weights, values, stride, count, found, n, next, step);        \
    }

BOTH(1) BOTH(2)

/* Turns scores into weights relative to `*greatest`, which may grow; returns what earlier sums have to be scaled by. */
static float weigh(float *scores, size_t count, float scale, float *greatest, float *weight) {
    float top = *greatest, odd = 0.0f; /* not a number if a score is not, or is infinite */
    for (size_t s = 0; s < count; s++) {
        scores[s] *= scale;
        odd += scores[s] * 0.0f;
        top = scores[s] > top ? scores[s] : top;
    }
    for (size_t s = 0; s < BLOCK; s++) {
        const float below = s < count ? scores[s] - top : LEAST;
        scores[s] = below > LEAST ? below : LEAST;
    }
    vector sum = {0};
    for (size_t s = 0; s < BLOCK; s += LANES) {
        const vector shares = power(load(scores + s));
        *(vector *)(scores + s) = shares;
        sum += shares;
    }
    vector fall = {*greatest - top > LEAST ? *greatest - top : LEAST};
    const float kept = *greatest > NOTHING ? power(fall)[0] : 0.0f;
    *weight = *weight * kept + total(sum) + odd;
    *greatest = top;
    return kept;
}

/* found[heads][value_width]: attention of `heads` queries that share `keys` keys and values */
static void attend(size_t heads, size_t keys, size_t width, size_t value_width, float scale, const float *queries,
                   const float *key, size_t key_stride, const float *value, size_t value_stride, float *found) {
    float scores[MOST][BLOCK], sums[MOST][WIDE], greatest[MOST], weight[MOST];
    for (size_t h = 0; h < heads; h++) {
        memset(sums[h], 0, value_width * sizeof(float));
        greatest[h] = NOTHING;
        weight[h] = 0.0f;
    }
    for (size_t begin = 0; begin < keys; begin += BLOCK) {
        const size_t count = keys - begin < BLOCK ? keys - begin : BLOCK;
        const float *some_keys = key + begin * key_stride, *some_values = value + begin * value_stride;
        for (size_t h = 0; h < heads; h += 2)
            (h + 1 < heads ? score_2 : score_1)(queries + h * width, some_keys, key_stride, width, count, scores + h, some_values, value_stride);
        for (size_t h = 0; h < heads; h++) {
            const float kept = weigh(scores[h], count, scale, greatest + h, weight + h);
            if (kept != 1.0f)
                for (size_t n = 0; n < value_width; n++) sums[h][n] *= kept;
        }
        for (size_t h = 0; h < heads; h += 2)
            (h + 1 < heads ? gather_2 : gather_1)(scores + h, some_values, value_stride, value_width, count, sums + h, some_keys + BLOCK * key_stride, key_stride);
    }
    for (size_t h = 0; h < heads; h++)
        for (size_t n = 0; n < value_width; n++) found[h * value_width + n] = sums[h][n] / weight[h];
}

/* The same for all key heads, `shared` query heads to each: queries[key_heads][shared][width]. Strides, in numbers,
 * lead from one key or value to the next, and from one head to the next. */
void attend_few_queries(size_t key_heads, size_t shared, size_t keys, size_t width, size_t value_width, float scale,
                        const float *queries, const float *key, size_t key_stride, size_t key_head_stride,
                        const float *value, size_t value_stride, size_t value_head_stride, float *found) {
    for (size_t k = 0; k < key_heads; k++)
        for (size_t first = 0; first < shared; first += MOST) {
            const size_t heads = shared - first < MOST ? shared - first : MOST, at = k * shared + first;
            attend(heads, keys, width, value_width, scale, queries + at * width, key + k * key_head_stride, key_stride,
                   value + k * value_head_stride, value_stride, found + at * value_width);
        }
}
