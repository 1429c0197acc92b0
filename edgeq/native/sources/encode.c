/* The encoder of trellis codes (edgeq/numerics/trellis.py): Viterbi's algorithm over 256 nodes, for closed sequences.
 * Costs are only ever added and compared, so every processor finds the same bytes. Networks run without it. */
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif
#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

/* Short loops are to become vectors, not lines. */
#if defined(__GNUC__) && !defined(__clang__)
#define AS_VECTORS _Pragma("GCC unroll 1")
#else
#define AS_VECTORS
#endif

#define NODES 256
#define FAR 1e30f /* the cost of a node that no path may come from */

/* A step of a byte: `weights` levels for `bits` new bits. Its table is `values`, [weights][count]; from node n, new bits
 * x look up entry first[n] + x. */
typedef struct {
  int32_t bits, weights, count;
  const int32_t *first;
  const float *values;
} eq_trellis_step;

INLINE float least(float a, float b) { return a < b ? a : b; }

/* The cost of each entry of a table for some weights. */
INLINE void measure(const eq_trellis_step *step, const float *target, const float *importance, float *metric) {
  int32_t i, w;
  for (i = 0; i < step->count; i++) {
    float off = target[0] - step->values[i];
    metric[i] = importance[0] * (off * off);
  }
  for (w = 1; w < step->weights; w++) {
    const float *values = step->values + (ptrdiff_t)w * step->count;
    for (i = 0; i < step->count; i++) {
      float off = target[w] - values[i];
      metric[i] += importance[w] * (off * off);
    }
  }
}

/* The least costs of all nodes behind a step: node n comes from those whose lower bits are its upper ones. */
INLINE void forward(const int32_t ways, const int32_t *restrict first, const float *restrict metric,
                    const float *restrict cost, float *restrict next) {
  const int32_t apart = NODES / ways;
  int32_t low, high, x;
  for (x = 0; x < NODES; x++) next[x] = 4 * FAR;
  for (high = 0; high < NODES; high += apart)
    for (low = 0; low < apart; low++) {
      const float *added = metric + first[high + low];
      float so_far = cost[high + low], *to = next + low * ways;
      AS_VECTORS for (x = 0; x < ways; x++) to[x] = least(so_far + added[x], to[x]);
    }
}

INLINE void halve(const int32_t count, float *values) {
  int32_t i;
  AS_VECTORS for (i = 0; i < count; i++) values[i] = least(values[i + count], values[i]);
}

/* The least costs from all nodes before a step to the end. */
INLINE void backward(const int32_t ways, const int32_t *restrict first, const float *restrict metric,
                     const float *restrict cost, float *restrict before) {
  const int32_t apart = NODES / ways;
  int32_t low, high, x;
  for (low = 0; low < apart; low++, cost += ways)
    for (high = low; high < NODES; high += apart) {
      const float *added = metric + first[high];
      float ends[16];
      AS_VECTORS for (x = 0; x < ways; x++) ends[x] = cost[x] + added[x];
      if (ways > 8) halve(8, ends);
      if (ways > 4) halve(4, ends);
      if (ways > 2) halve(2, ends);
      before[high] = least(ends[1], ends[0]);
    }
}

#define ANY_WAYS(function, bits, ...)                                                                                  \
  switch (bits) {                                                                                                      \
    case 1: function(2, __VA_ARGS__); break;                                                                           \
    case 2: function(4, __VA_ARGS__); break;                                                                           \
    case 3: function(8, __VA_ARGS__); break;                                                                           \
    default: function(16, __VA_ARGS__); break;                                                                         \
  }

/* The bytes of the path that ends at a node, from the costs of all nodes before each step. */
INLINE void trace(const eq_trellis_step *steps, int32_t count, int32_t bytes, const float *metric, int32_t room,
                  const float *costs, int32_t node, uint8_t *made) {
  int32_t i, q;
  for (i = bytes - 1; i >= 0; i--) {
    int32_t left = 0, byte = 0;
    for (q = count - 1; q >= 0; q--) {
      const eq_trellis_step *step = steps + q;
      const float *added = metric + (ptrdiff_t)(i * count + q) * room, *before = costs + (ptrdiff_t)(i * count + q) * NODES;
      int32_t ways = 1 << step->bits, x = node & (ways - 1), from = node >> step->bits, found = from;
      float best = before[from] + added[step->first[from] + x];
      for (from += NODES / ways; from < NODES; from += NODES / ways) {
        float cost = before[from] + added[step->first[from] + x];
        if (cost < best) {
          best = cost;
          found = from;
        }
      }
      byte |= x << left;
      left += step->bits;
      node = found;
    }
    made[i] = (uint8_t)byte;
  }
}

/* Sequences of `bytes` bytes. `targets` and `importances` are [sequences][bytes][weights of a byte]; `made` is
 * [sequences][bytes]. Costs without a start, `reach` bytes before the seam and behind it, say which nodes a path is
 * likely to start and end at; the `tries` likeliest are tried. `room` is at least the largest count. `memory` has
 * (bytes * count) * room + (bytes * count + 4) * 256 floats. */
CLONES void eq_encode(const eq_trellis_step *steps, int32_t count, int32_t sequences, int32_t bytes, int32_t tries,
                      int32_t reach, int32_t room, const float *targets, const float *importances, float *memory,
                      uint8_t *made) {
  float *metric = memory, *costs = metric + (ptrdiff_t)(bytes * count) * room;
  float *seam = costs + (ptrdiff_t)(bytes * count + 1) * NODES, *one = seam + NODES, *two = one + NODES, *swap;
  int32_t i, q, k, n;
  for (; sequences > 0; sequences--, made += bytes) {
    float best = 4 * FAR;
    for (i = 0; i < bytes; i++)
      for (q = 0; q < count; q++) {
        measure(steps + q, targets, importances, metric + (ptrdiff_t)(i * count + q) * room);
        targets += steps[q].weights;
        importances += steps[q].weights;
      }
    for (n = 0; n < NODES; n++) one[n] = 0.0f;
    for (i = bytes - reach; i < bytes; i++)
      for (q = 0; q < count; q++) {
        ANY_WAYS(forward, steps[q].bits, steps[q].first, metric + (ptrdiff_t)(i * count + q) * room, one, two)
        swap = one, one = two, two = swap;
      }
    for (n = 0; n < NODES; n++) seam[n] = one[n];
    for (n = 0; n < NODES; n++) one[n] = 0.0f;
    for (i = reach - 1; i >= 0; i--)
      for (q = count - 1; q >= 0; q--) {
        ANY_WAYS(backward, steps[q].bits, steps[q].first, metric + (ptrdiff_t)(i * count + q) * room, one, two)
        swap = one, one = two, two = swap;
      }
    for (n = 0; n < NODES; n++) seam[n] += one[n];
    for (k = 0; k < tries; k++) {
      int32_t start = 0;
      float cost;
      for (n = 1; n < NODES; n++)
        if (seam[n] < seam[start]) start = n;
      seam[start] = 4 * FAR;
      for (n = 0; n < NODES; n++) costs[n] = n == start ? 0.0f : FAR;
      for (i = 0; i < bytes; i++)
        for (q = 0; q < count; q++) {
          float *before = costs + (ptrdiff_t)(i * count + q) * NODES;
          ANY_WAYS(forward, steps[q].bits, steps[q].first, metric + (ptrdiff_t)(i * count + q) * room, before,
                   before + NODES)
        }
      cost = costs[(ptrdiff_t)(bytes * count) * NODES + start];
      if (cost < best) {
        best = cost;
        trace(steps, count, bytes, metric, room, costs, start, made);
      }
    }
  }
}
