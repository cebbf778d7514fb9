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
#define TALL 16 /* rows of one tile: its sums fit into the registers */
#else
#define LANES 8
#define TALL 6
#endif
#define WIDTH (2 * LANES) /* columns that all tiles divide */
#define DEEP 16           /* matrix rows that pass all tiles of rows while they are in the cache */
#define BROAD 2048        /* columns likewise */
#define AHEAD 64          /* numbers, in the same matrix row, that the first tile of rows asks for before it needs them */

typedef float vector __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float))));

#define UNROLL(times) _Pragma(#times)
#define EACH_ROW UNROLL(GCC unroll 16)
#define EACH_VECTOR UNROLL(GCC unroll 2)
#define SOME_DEEP UNROLL(GCC unroll 4)

/* Tiles of many rows are one vector wide, others two, so that their sums stay in registers.
 * sums[ROWS][columns] += states[DEEP][ROWS] x weight[DEEP][columns]; columns is a multiple of WIDTH */
#define TILE(ROWS, VECTORS)                                                                                            \
    static void tile_##ROWS(const float *states, const float *weight, size_t stride, float *sums, size_t out,          \
                            size_t columns, size_t ahead) {                                                            \
        for (size_t n = 0; n < columns; n += VECTORS * LANES) {                                                        \
            vector sum[ROWS][VECTORS];                                                                                 \
            EACH_ROW for (int r = 0; r < ROWS; r++)                                                                    \
                EACH_VECTOR for (int v = 0; v < VECTORS; v++)                                                          \
                    sum[r][v] = *(const vector *)(sums + r * out + n + v * LANES);                                     \
            SOME_DEEP for (int k = 0; k < DEEP; k++) {                                                                 \
                const float *line = weight + k * stride + n;                                                           \
                __builtin_prefetch(line + ahead);                                                                      \
                vector part[VECTORS];                                                                                  \
                EACH_VECTOR for (int v = 0; v < VECTORS; v++) part[v] = *(const vector *)(line + v * LANES);           \
                EACH_ROW for (int r = 0; r < ROWS; r++)                                                                \
                    EACH_VECTOR for (int v = 0; v < VECTORS; v++) sum[r][v] += part[v] * states[k * ROWS + r];         \
            }                                                                                                          \
            EACH_ROW for (int r = 0; r < ROWS; r++)                                                                    \
                EACH_VECTOR for (int v = 0; v < VECTORS; v++)                                                          \
                    *(vector *)(sums + r * out + n + v * LANES) = sum[r][v];                                           \
        }                                                                                                              \
    }

TILE(1, 2) TILE(2, 2) TILE(3, 2) TILE(4, 2) TILE(5, 2) TILE(6, 2)
#if TALL == 16
TILE(7, 1) TILE(8, 1) TILE(9, 1) TILE(10, 1) TILE(11, 1) TILE(12, 1) TILE(13, 1) TILE(14, 1) TILE(15, 1) TILE(16, 1)
#endif

typedef void (*tile)(const float *, const float *, size_t, float *, size_t, size_t, size_t);
static const tile TILES[TALL + 1] = {
    0,      tile_1, tile_2,  tile_3,  tile_4,  tile_5,  tile_6,
#if TALL == 16
    tile_7, tile_8, tile_9,  tile_10, tile_11, tile_12, tile_13, tile_14, tile_15, tile_16,
#endif
};

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
                float turned[DEEP * TALL]; /* [DEEP][count]: in the order in which a tile reads them */
                for (size_t r = 0; r < count; r++)
                    for (size_t i = 0; i < DEEP; i++) turned[i * count + r] = states[(first + r) * in + k + i];
                TILES[count](turned, weight + k * stride + n, stride, found + first * out + n, out,
                             least(BROAD, broad - n), ahead);
            }
    edge(rows, in, out, states, weight, stride, found, deep, 0, broad);
    edge(rows, in, out, states, weight, stride, found, 0, broad, out);
}
