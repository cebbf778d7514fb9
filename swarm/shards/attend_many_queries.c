/* Attention of many new tokens of one session to its cached ones and to each other, on one core.
 *
 * Keys pass in blocks; a block meets all queries of its heads while it is near. Queries stand side by side in vectors:
 * what happens to the weights of a query happens in its lane. As in attend_few_queries.c, weights are relative to the
 * greatest score so far, and what was summed before is scaled down when a greater one comes.
 */

#if defined(__AVX512F__)
#define LANES 16
#define HIGH 8 /* rows of a tile, which is two vectors wide: its sums fit into the registers */
#else
#define LANES 8
#define HIGH 4
#endif
#include "vectors.h"

#include <stddef.h>
#include <string.h>

#define QUERIES (2 * LANES) /* that stand side by side: a group */
#define BLOCK 64            /* keys that are weighed before their values are summed; they stay in the cache meanwhile */
#define WIDE 256            /* numbers of a head, at most */
#define APART (WIDE + 16)   /* from one key of a block to the next: not all of them in the same lines of the cache */
#define LEAST (-87.0f)      /* e to this power is about the least number of full precision */
#define UNSEEN (-1e30f)     /* a score; the difference of two of them is a number */

typedef int whole __attribute__((vector_size(LANES * sizeof(int)), aligned(sizeof(int))));

#define UNROLL(times) _Pragma(#times)
#define EACH UNROLL(GCC unroll 8)
#define SOME UNROLL(GCC unroll 4)

/* Token t of a session's new ones sees the keys at (past + t - window, past + t]. A row is a query: that of head
 * `row % heads` of token `row / heads`, for the heads that share a key head. */
typedef struct {
    size_t heads, rows, past, end, window, width, broad;
} shape;

/* QUERIES queries: where the first and the last stand, where each does, its greatest score, the sum of its weights. */
typedef struct {
    size_t first, last;
    whole at[2];
    vector best[2], sum[2];
} group;

static inline void store(float *at, vector v) { *(vector *)at = v; }

static inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

static inline vector chosen(whole which, vector yes, vector no) {
    return (vector)(((whole)yes & which) | ((whole)no & ~which));
}

/* e to the power of numbers up to 0 */
static inline vector power(vector x) {
    const vector twos = WHOLE_TWOS(x), r = LEFT_OF(x, twos);
    const whole exponent = (__builtin_convertvector(twos, whole) + 127) << 23;
    return (vector)((whole)(SERIES(r) * (vector)exponent) & ~(x <= LEAST)); /* what is no number stays none */
}

/* scores[HIGH][QUERIES] = keys[HIGH][width] x queries[width][QUERIES] */
static inline void score(const float *keys, const float *queries, size_t width, float *scores) {
    vector sums[HIGH][2] = {0};
    SOME for (size_t d = 0; d < width; d++) {
        const vector a = load(queries + d * QUERIES), b = load(queries + d * QUERIES + LANES);
        EACH for (int i = 0; i < HIGH; i++) {
            sums[i][0] += a * keys[i * APART + d];
            sums[i][1] += b * keys[i * APART + d];
        }
    }
    EACH for (int i = 0; i < HIGH; i++) {
        store(scores + i * QUERIES, sums[i][0]);
        store(scores + i * QUERIES + LANES, sums[i][1]);
    }
}

/* Scores of the keys from `begin` on become weights; earlier sums are to be multiplied by `shrink`. */
static inline void weigh(group *own, float (*scores)[QUERIES], size_t begin, size_t window, float *shrink) {
    const int first = begin, seen_for = window;
    const int is_cut = own->first < begin + BLOCK - 1 || own->last >= begin + window;
    for (int v = 0; v < 2; v++) {
        vector best = own->best[v], sum = {0};
        for (int k = 0; k < BLOCK; k++) {
            float *const scores_of_key = scores[k] + v * LANES;
            if (is_cut) {
                const whole seen = (own->at[v] >= first + k) & (own->at[v] < first + k + seen_for);
                store(scores_of_key, chosen(seen, load(scores_of_key), (vector){0} + UNSEEN));
            }
            best = chosen(load(scores_of_key) > best, load(scores_of_key), best);
        }
        const vector less = power(own->best[v] - best);
        SOME for (int k = 0; k < BLOCK; k++) {
            const vector weight = power(load(scores[k] + v * LANES) - best);
            store(scores[k] + v * LANES, weight);
            sum += weight;
        }
        own->best[v] = best;
        own->sum[v] = own->sum[v] * less + sum;
        store(shrink + v * LANES, less);
    }
}

/* sums[HIGH][columns] = shrink[HIGH] * sums + weights[BLOCK][HIGH of QUERIES] x values[BLOCK][columns], for one or two
 * vectors of columns; rows of `sums` are `width` numbers apart, those of `values` `stride`. */
#define ADD(VECTORS)                                                                                                   \
    static inline void add_##VECTORS(const float *weights, const float *values, size_t stride, const float *shrink,    \
                                     float *sums, size_t width) {                                                      \
        vector sum[HIGH][VECTORS];                                                                                     \
        EACH for (int i = 0; i < HIGH; i++)                                                                            \
            EACH for (int v = 0; v < VECTORS; v++) sum[i][v] = load(sums + i * width + v * LANES) * shrink[i];         \
        SOME for (int k = 0; k < BLOCK; k++) {                                                                         \
            vector part[VECTORS];                                                                                      \
            EACH for (int v = 0; v < VECTORS; v++) part[v] = load(values + k * stride + v * LANES);                    \
            EACH for (int i = 0; i < HIGH; i++)                                                                        \
                EACH for (int v = 0; v < VECTORS; v++) sum[i][v] += part[v] * weights[k * QUERIES + i];                \
        }                                                                                                              \
        EACH for (int i = 0; i < HIGH; i++)                                                                            \
            EACH for (int v = 0; v < VECTORS; v++) store(sums + i * width + v * LANES, sum[i][v]);                     \
    }

ADD(1) ADD(2)

/* The same for all queries of a group, and all columns. */
static inline void add(float (*weights)[QUERIES], const float *values, size_t stride, const float *shrink, float *sums,
                       size_t width) {
    for (int i = 0; i < QUERIES; i += HIGH) {
        float *own = sums + i * width;
        size_t d = 0;
        for (; d + 2 * LANES <= width; d += 2 * LANES)
            add_2(weights[0] + i, values + d, stride, shrink + i, own + d, width);
        if (d < width) add_1(weights[0] + i, values + d, stride, shrink + i, own + d, width);
    }
}

/* turned[groups][width][QUERIES]; queries that fill up the last group are 0. */
static void turn(const shape *s, const float *query, size_t query_token, size_t query_head, float scale,
                 float *turned) {
    for (size_t r = 0; r < s->rows; r += QUERIES, turned += s->width * QUERIES) {
        memset(turned, 0, s->width * QUERIES * sizeof(float));
        for (size_t i = 0; i < least(QUERIES, s->rows - r); i++) {
            const float *own = query + (r + i) / s->heads * query_token + (r + i) % s->heads * query_head;
            for (size_t d = 0; d < s->width; d++) turned[d * QUERIES + i] = own[d] * scale;
        }
    }
}

static void begin_groups(const shape *s, group *groups) {
    for (size_t r = 0; r < s->rows; r += QUERIES, groups++) {
        const size_t last = least(s->rows, r + QUERIES) - 1;
        *groups = (group){.first = s->past + r / s->heads, .last = s->past + last / s->heads};
        for (size_t i = 0; i < QUERIES; i++)
            groups->at[i / LANES][i % LANES] = s->past + least(r + i, last) / s->heads;
        groups->best[0] = groups->best[1] = (vector){0} + UNSEEN;
    }
}

/* All queries of one key head: sums[groups][QUERIES][broad], weighed but not yet divided by the sums of weights. */
static void attend(const shape *s, const float *turned, const float *key, size_t key_token, const float *value,
                   size_t value_token, group *groups, float *sums) {
    float keys[BLOCK * APART], last_values[BLOCK * WIDE], scores[BLOCK][QUERIES], shrink[QUERIES];
    for (size_t begin = s->past + 1 - least(s->past + 1, s->window); begin < s->end; begin += BLOCK) {
        const size_t count = least(BLOCK, s->end - begin);
        const float *values = value + begin * value_token;
        size_t stride = value_token;
        for (size_t k = 0; k < count; k++)
            memcpy(keys + k * APART, key + (begin + k) * key_token, s->width * sizeof(float));
        if (count < BLOCK) { /* what follows is not seen, but has to be numbers */
            memset(last_values, 0, sizeof last_values);
            for (size_t k = 0; k < count; k++)
                memcpy(last_values + k * s->broad, values + k * value_token, s->broad * sizeof(float));
            for (size_t k = count; k < BLOCK; k++) memset(keys + k * APART, 0, s->width * sizeof(float));
            values = last_values;
            stride = s->broad;
        }
        for (size_t g = 0; g * QUERIES < s->rows; g++) {
            if (groups[g].last < begin || groups[g].first >= begin + count - 1 + s->window) continue;
            for (int k = 0; k < BLOCK; k += HIGH)
                score(keys + k * APART, turned + g * s->width * QUERIES, s->width, scores[k]);
            weigh(groups + g, scores, begin, s->window, shrink);
            add(scores, values, stride, shrink, sums + g * QUERIES * s->broad, s->broad);
        }
    }
}

/* found[tokens][all heads][broad] for queries [tokens][all heads][width], keys [key_heads][past + tokens][width] and
 * values [key_heads][past + tokens][broad], whose tokens and heads are as far apart as told. `heads` query heads share
 * a key head. `window` is from 1 to 2^30, widths are up to WIDE, `broad` is a multiple of 16. `room` is for
 * (width + broad + 4) numbers times the queries of a key head, up to the next multiple of 32. */
void attend_many_queries(size_t key_heads, size_t heads, size_t tokens, size_t past, size_t window, size_t width,
                         size_t broad, float scale, const float *query, size_t query_token, size_t query_head,
                         const float *key, size_t key_token, size_t key_head, const float *value, size_t value_token,
                         size_t value_head, float *found, float *room) {
    const shape s = {heads, tokens * heads, past, past + tokens, window, width, broad};
    const size_t count = (s.rows + QUERIES - 1) / QUERIES;
    float *turned = room, *sums = turned + count * QUERIES * width;
    group *groups = (group *)(sums + count * QUERIES * broad);
    for (size_t h = 0; h < key_heads; h++) {
        turn(&s, query + h * heads * query_head, query_token, query_head, scale, turned);
        begin_groups(&s, groups);
        memset(sums, 0, count * QUERIES * broad * sizeof(float));
        attend(&s, turned, key + h * key_head, key_token, value + h * value_head, value_token, groups, sums);
        for (size_t r = 0; r < s.rows; r++) {
            const float part = 1 / groups[r / QUERIES].sum[r % QUERIES / LANES][r % LANES];
            float *to = found + ((r / heads * key_heads + h) * heads + r % heads) * broad;
            for (size_t d = 0; d < broad; d++) to[d] = sums[r * broad + d] * part;
        }
    }
}
