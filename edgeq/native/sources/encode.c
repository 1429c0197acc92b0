/* The encoder of trellis codes (edgeq/numerics/trellis.py): Viterbi's algorithm over 256 nodes, for closed sequences.
 * Costs are only ever added and compared, so every processor finds the same bytes. Networks run without it. */
#include "encode.h"
#include <string.h>

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

/* For all `i` of 16 numbers, 0 or 1, where one is 1: they are few. */
#if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define EACH_OF(ones, i)                                                                                               \
  for (uint64_t part = 0, left; part < 16; part += 8)                                                                  \
    for (memcpy(&left, ones + part, 8); left && (i = (int32_t)part + __builtin_ctzll(left) / 8, 1); left &= left - 1)
#else
#define EACH_OF(ones, i)                                                                                               \
  for (i = 0; i < 16; i++)                                                                                             \
    if (ones[i])
#endif

#define NODES 256
#define FAR 1e30f         /* more than any path costs */
#define ROUNDING 1.00002f /* by which costs may differ that are summed in another order */
#define LENIENT 1.05f     /* a first limit, by what a path is guessed to cost */
#define RISE 1.3f         /* the next limit, if all paths cost more */
#define RISES 4           /* after so many, there is no limit */

/* Nodes that paths reach, and the least costs up to there. */
typedef struct {
  int32_t count;
  uint8_t node[NODES];
  float cost[NODES];
} eq_reached;

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

/* The least costs of all nodes behind a step: node n comes from those whose lower bits are its upper ones. Four of them
 * are compared at a time, or all two. */
INLINE void forward(const int32_t ways, const int32_t *restrict first, const float *restrict metric,
                    const float *restrict cost, float *restrict next) {
  const int32_t apart = NODES / ways, pair = ways > 2 ? 2 * apart : 0;
  int32_t start, low, x;
  for (start = 0; start < NODES; start += 2 * apart + pair)
    for (low = 0; low < apart; low++) {
      const int32_t a = start + low, b = a + apart, c = a + pair, d = b + pair;
      const float *of_a = metric + first[a], *of_b = metric + first[b], *of_c = metric + first[c], *of_d = metric + first[d];
      float *to = next + low * ways, to_a = cost[a], to_b = cost[b], to_c = cost[c], to_d = cost[d];
      if (start == 0)
        AS_VECTORS for (x = 0; x < ways; x++)
          to[x] = least(least(to_a + of_a[x], to_b + of_b[x]), least(to_c + of_c[x], to_d + of_d[x]));
      else
        AS_VECTORS for (x = 0; x < ways; x++)
          to[x] = least(least(least(to_a + of_a[x], to_b + of_b[x]), least(to_c + of_c[x], to_d + of_d[x])), to[x]);
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

/* From some nodes through a step, to those from which the end is within a limit: `ahead` is what that costs at least. */
INLINE void follow(const int32_t ways, const int32_t *restrict first, const float *restrict metric,
                   const eq_reached *restrict from, const float *restrict ahead, float limit,
                   eq_reached *restrict to) {
  const int32_t apart = NODES / ways;
  uint8_t known[NODES / 2] = {0}, lows[NODES / 2];
  float cost[NODES];
  int32_t i, n, x, blocks = 0, count = 0;
  for (i = 0; i < from->count; i++) {
    const int32_t low = from->node[i] & (apart - 1);
    const float *added = metric + first[from->node[i]], so_far = from->cost[i];
    float *behind = cost + low * ways;
    if (known[low]) {
      AS_VECTORS for (x = 0; x < ways; x++) behind[x] = least(so_far + added[x], behind[x]);
    } else {
      AS_VECTORS for (x = 0; x < ways; x++) behind[x] = so_far + added[x];
      known[low] = 1;
      lows[blocks++] = (uint8_t)low;
    }
  }
  for (i = 0; i < blocks; i++) {
    uint8_t near[16] = {0};
    n = lows[i] * ways;
    AS_VECTORS for (x = 0; x < ways; x++) near[x] = cost[n + x] + ahead[n + x] <= limit;
    EACH_OF(near, x) {
      to->node[count] = (uint8_t)(n + x);
      to->cost[count++] = cost[n + x];
    }
  }
  to->count = count;
}

/* The least cost of a path from a node to itself, or more than the limit if all cost more. */
INLINE float closed(const eq_trellis_step *steps, int32_t count, int32_t length, const float *metric, int32_t room,
                    const float *ahead, int32_t node, float limit, eq_reached *reached) {
  int32_t at, i;
  reached->count = 1;
  reached->node[0] = (uint8_t)node;
  reached->cost[0] = 0.0f;
  for (at = 0; at < length; at++, metric += room, reached++) {
    const eq_trellis_step *step = steps + at % count;
    ahead += NODES;
    ANY_WAYS(follow, step->bits, step->first, metric, reached, ahead, limit, reached + 1)
  }
  for (i = 0; i < reached->count; i++)
    if (reached->node[i] == node) return reached->cost[i];
  return FAR;
}

/* The bytes of the least path that ends at a node. */
INLINE void trace(const eq_trellis_step *steps, int32_t count, int32_t bytes, const float *metric, int32_t room,
                  const eq_reached *reached, int32_t node, uint8_t *made) {
  int32_t at = bytes * count, i, k, q;
  for (i = bytes - 1; i >= 0; i--) {
    int32_t left = 0, byte = 0;
    for (q = count - 1; q >= 0; q--) {
      const eq_trellis_step *step = steps + q;
      const eq_reached *before = reached + --at;
      const float *added = metric + (ptrdiff_t)at * room;
      const int32_t x = node & ((1 << step->bits) - 1), low = node >> step->bits;
      float best = FAR;
      for (k = 0; k < before->count; k++) {
        const int32_t from = before->node[k];
        const float cost = before->cost[k] + added[step->first[from] + x];
        if ((from & ((NODES >> step->bits) - 1)) != low) continue;
        if (cost < best || (cost == best && from < node)) {
          best = cost;
          node = from;
        }
      }
      byte |= x << left;
      left += step->bits;
    }
    made[i] = (uint8_t)byte;
  }
}

/* The node with the least cost, the first of several. */
INLINE int32_t nearest(const float *costs) {
  float lanes[16];
  int32_t n, x;
  for (x = 0; x < 16; x++) lanes[x] = costs[x];
  for (n = 16; n < NODES; n += 16)
    AS_VECTORS for (x = 0; x < 16; x++) lanes[x] = least(costs[n + x], lanes[x]);
  halve(8, lanes);
  halve(4, lanes);
  halve(2, lanes);
  halve(1, lanes);
  for (n = 0; costs[n] > lanes[0]; n++) {}
  return n;
}

/* How many bytes of memory `eq_encode` needs. */
size_t eq_encode_bytes(const eq_encoding *code) {
  const size_t length = (size_t)(code->bytes * code->count);
  return (length * code->room + (length + 4) * NODES) * sizeof(float) + (length + 1) * sizeof(eq_reached);
}

/* Encode sequences: `targets` and `importances` are [sequences][bytes][weights of a byte]; `made` is [sequences][bytes].
 * Costs without a start, `reach` bytes before the seam and all behind it, say which nodes a path is likely to start and
 * end at. At most `tries` of these are tried, and unless all are, none that is likely to cost more than what has been
 * found. The costs behind also say which paths are not worth following, and these are nearly all. `room` is the largest
 * count of a step. */
CLONES void eq_encode(const eq_encoding *code, int32_t sequences, const float *targets, const float *importances,
                      void *memory, uint8_t *made) {
  const eq_trellis_step *steps = code->steps;
  const int32_t count = code->count, bytes = code->bytes, room = code->room, length = bytes * count;
  float *metric = memory, *ahead = metric + (ptrdiff_t)length * room, *end = ahead + (ptrdiff_t)length * NODES;
  float *seam = end + NODES, *one = seam + NODES, *two = one + NODES, *swap;
  eq_reached *reached = (eq_reached *)(two + NODES);
  int32_t at, i, k, n;
  for (; sequences > 0; sequences--, made += bytes) {
    float best = FAR, free = FAR;
    for (at = 0; at < length; at++) {
      const eq_trellis_step *step = steps + at % count;
      measure(step, targets, importances, metric + (ptrdiff_t)at * room);
      targets += step->weights;
      importances += step->weights;
    }
    for (n = 0; n < NODES; n++) one[n] = end[n] = 0.0f;
    for (at = (bytes - code->reach) * count; at < length; at++) {
      const eq_trellis_step *step = steps + at % count;
      ANY_WAYS(forward, step->bits, step->first, metric + (ptrdiff_t)at * room, one, two)
      swap = one, one = two, two = swap;
    }
    for (at = length - 1; at >= 0; at--) {
      const eq_trellis_step *step = steps + at % count;
      float *before = ahead + (ptrdiff_t)at * NODES;
      ANY_WAYS(backward, step->bits, step->first, metric + (ptrdiff_t)at * room, before + NODES, before)
    }
    for (n = 0; n < NODES; n++) {
      seam[n] = one[n] + ahead[n];
      free = least(one[n], free);
    }
    for (k = 0; k < code->tries; k++) {
      const int32_t node = nearest(seam);
      const float guess = seam[node] - free;
      float cost = FAR, limit = LENIENT * guess;
      if (code->tries < NODES && guess > best) break;
      seam[node] = 2 * FAR;
      for (i = 0; i <= RISES; i++, limit *= RISE) {
        float within = i < RISES ? least(limit, best) : best;
        cost = closed(steps, count, length, metric, room, ahead, node, ROUNDING * within, reached);
        if (cost <= ROUNDING * within || within == best) break;
      }
      if (cost < best) {
        best = cost;
        trace(steps, count, bytes, metric, room, reached, node, made);
      }
    }
  }
}
