/* Vectors of a few numbers, and powers of e, for whatever is computed number by number. */

#ifndef SWARM_VECTORS
#define SWARM_VECTORS

#ifndef LANES
#define LANES 8 /* numbers of a vector */
#endif

typedef float vector __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float))));

static inline vector load(const float *at) { return *(const vector *)at; }

#if LANES == 8
static inline float total(vector v) { return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7])); }
#endif

/* e to the power of x is 2 to the power of WHOLE_TWOS(x), times SERIES(LEFT_OF(x, that)): for a number or a vector,
 * of at least -87 and at most 88. */
#define WHOLE_TWOS(x) (((x) * 1.44269504f + 12582912.0f) - 12582912.0f) /* 1.5 x 2^23 rounds to integers */
#define LEFT_OF(x, twos) (((x) - (twos) * 0.693145752f) - (twos) * 1.42860677e-6f)
#define SERIES(r) /* of Taylor */                                                                                      \
    ((((((((r) * (1.0f / 5040) + (1.0f / 720)) * (r) + (1.0f / 120)) * (r) + (1.0f / 24)) * (r) + (1.0f / 6)) * (r) +    \
       0.5f) * (r)) * (r) + (r) + 1.0f)

#endif
