/* One row of states times a matrix stored by columns, and a few rows times one stored by rows.
 *
 * Every weight is read once, in the order in which it lies in memory.
 */

#include "step_kernels.h"

#define LINES 8 /* matrix rows that are read side by side */
#define UNROLL(times) _Pragma(#times)
#define EACH_LINE UNROLL(GCC unroll 8)

/* found[out] = state[in] x weight[in][out], in the order of additions of multiply_few_rows */
void multiply_row(size_t in, size_t out, const float *state, const float *weight, size_t stride, float *found) {
    memset(found, 0, out * sizeof(float));
    size_t k = 0;
    for (; k + LINES <= in; k += LINES) {
        const float *line[LINES];
        float share[LINES]; /* read once: for all that the compiler knows, `found` may overlap `state` */
        EACH_LINE for (int i = 0; i < LINES; i++) {
            line[i] = weight + (k + i) * stride;
            share[i] = state[k + i];
        }
        size_t n = 0;
        for (; n + LANES <= out; n += LANES) {
            vector sum = load(found + n);
            EACH_LINE for (int i = 0; i < LINES; i++) sum += load(line[i] + n) * share[i];
            *(vector *)(found + n) = sum;
        }
        for (; n < out; n++)
            for (int i = 0; i < LINES; i++) found[n] += line[i][n] * share[i];
    }
    for (; k < in; k++)
        for (size_t n = 0; n < out; n++) found[n] += weight[k * stride + n] * state[k];
}

/* found[4] = state[in] x weight[4][in] */
static inline void four_products(size_t in, const float *state, const float *weight, size_t stride, float *found) {
    vector sums[4][2] = {{{0}}};
    size_t k = 0;
    for (; k + 2 * LANES <= in; k += 2 * LANES) {
        const vector left = load(state + k), right = load(state + k + LANES);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            sums[i][0] += load(weight + i * stride + k) * left;
            sums[i][1] += load(weight + i * stride + k + LANES) * right;
        }
    }
    for (int i = 0; i < 4; i++) {
        float sum = total(sums[i][0] + sums[i][1]);
        for (size_t j = k; j < in; j++) sum += weight[i * stride + j] * state[j];
        found[i] = sum;
    }
}

/* found[rows][out] = states[rows][in] x weight[out][in] */
void multiply_by_rows(size_t rows, size_t in, size_t out, const float *states, const float *weight, size_t stride,
                      float *found) {
    size_t n = 0;
    for (; n + 4 <= out; n += 4)
        for (size_t r = 0; r < rows; r++)
            four_products(in, states + r * in, weight + n * stride, stride, found + r * out + n);
    for (; n < out; n++)
        for (size_t r = 0; r < rows; r++) {
            float sum = 0.0f;
            for (size_t k = 0; k < in; k++) sum += weight[n * stride + k] * states[r * in + k];
            found[r * out + n] = sum;
        }
}
