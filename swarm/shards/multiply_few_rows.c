/* A few rows of states times a matrix stored by columns, on one core.
 *
 * Every weight is read once from memory, in the order in which it lies there, and used for all rows while it is near.
 * BLAS libraries copy the matrix into another order first, which takes longer than the product of a few rows.
 * Each number of the result is a sum in the order of the states' columns: it does not depend on the other rows.
 */

#include <stddef.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#else
#define LANES 8
#endif
#define WIDTH (2 * LANES) /* columns of one tile */
#define TALL 6            /* rows of one tile: its sums fit into 16 registers */
#define DEEP 16           /* matrix rows that pass all tiles of rows while they are in the cache */
#define BROAD 2048        /* columns likewise */
#define AHEAD 64          /* numbers, in the same matrix row, that the first tile of rows asks for before it needs them */

typedef float vector __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float))));

#define UNROLL(times) _Pragma(#times)
#define EACH_ROW UNROLL(GCC unroll 8)
#define SOME_DEEP UNROLL(GCC unroll 4)

/* sums[ROWS][columns] += states[ROWS][DEEP] x weight[DEEP][columns]; columns is a multiple of WIDTH */
#define TILE(ROWS)                                                                                                     \
    static void tile_##ROWS(const float *states, size_t in, const float *weight, size_t stride, float *sums,           \
                            size_t out, size_t columns, size_t ahead) {                                                \
        for (size_t n = 0; n < columns; n += WIDTH) {                                                                  \
            vector left[ROWS], right[ROWS];                                                                            \
            EACH_ROW for (int r = 0; r < ROWS; r++) {                                                                  \
                left[r] = *(const vector *)(sums + r * out + n);                                                       \
                right[r] = *(const vector *)(sums + r * out + n + LANES);                                              \
            }                                                                                                          \
            SOME_DEEP for (int k = 0; k < DEEP; k++) {                                                                 \
                const float *line = weight + k * stride + n;                                                           \
                const vector a = *(const vector *)line, b = *(const vector *)(line + LANES);                           \
                __builtin_prefetch(line + ahead);                                                                      \
                EACH_ROW for (int r = 0; r < ROWS; r++) {                                                              \
                    const float state = states[r * in + k];                                                            \
                    left[r] += a * state;                                                                              \
                    right[r] += b * state;                                                                             \
                }                                                                                                      \
            }                                                                                                          \
            EACH_ROW for (int r = 0; r < ROWS; r++) {                                                                  \
                *(vector *)(sums + r * out + n) = left[r];                                                             \
                *(vector *)(sums + r * out + n + LANES) = right[r];                                                    \
            }                                                                                                          \
        }                                                                                                              \
    }

TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)

typedef void (*tile)(const float *, size_t, const float *, size_t, float *, size_t, size_t, size_t);
static const tile TILES[TALL + 1] = {0, tile_1, tile_2, tile_3, tile_4, tile_5, tile_6};

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* The same at the edges, where no tile fits: matrix rows [top, in) and columns [begin, end). */
static void edge(size_t rows, size_t in, size_t out, const float *states, const float *weight, size_t stride,
                 float *sums, size_t top, size_t begin, size_t end) {
    for (size_t r = 0; r < rows; r++)
        for (size_t k = top; k < in; k++)
            for (size_t n = begin; n < end; n++)
                sums[r * out + n] += states[r * in + k] * weight[k * stride + n];
}

/* found[rows][out] = states[rows][in] x weight[in][out], whose rows are `stride` numbers apart */
void multiply_few_rows(size_t rows, size_t in, size_t out, const float *states, const float *weight, size_t stride,
                       float *found) {
    const size_t groups = (rows + TALL - 1) / TALL, deep = in - in % DEEP, broad = out - out % WIDTH;
    memset(found, 0, rows * out * sizeof(float));
    for (size_t n = 0; n < broad; n += BROAD)
        for (size_t k = 0; k < deep; k += DEEP)
            for (size_t g = 0; g < groups; g++) {
                const size_t first = rows * g / groups, count = rows * (g + 1) / groups - first;
                const size_t ahead = g == 0 ? AHEAD : DEEP * stride; /* later tiles wait for nothing: memory is free */
                TILES[count](states + first * in + k, in, weight + k * stride + n, stride, found + first * out + n, out,
                             least(BROAD, broad - n), ahead);
            }
    edge(rows, in, out, states, weight, stride, found, deep, 0, broad);
    edge(rows, in, out, states, weight, stride, found, 0, broad, out);
}
