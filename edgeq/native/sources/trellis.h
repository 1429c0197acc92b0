/* Trellis codes, as edgeq/numerics/trellis.py has them. What the levels of bytes are is told by, one after the other,
 *
 *   uint8 [steps][256]: for each step of a byte, where the levels of each node start: of the 8 bits before it;
 *   int8 [entries][levels]: the levels, of which new bits of the byte choose one behind the start. */
#ifndef EDGEQ_TRELLIS_H
#define EDGEQ_TRELLIS_H

#include "primitives.h"

#define EQ_NODES 256

/* How the bytes of a width are cut into steps. */
typedef struct {
  int32_t steps, levels;   /* of a byte; levels that a step makes */
  int32_t bits[3], from[3]; /* new bits of each step, and the entry that its table starts at */
  int32_t entries;
} eq_steps;

static inline eq_steps eq_steps_of(int32_t weights_a_byte) {
  static const eq_steps found[] = {
      {2, 1, {4, 4, 0}, {0, 0, 0}, 255 + 15},
      {3, 1, {3, 3, 2}, {0, 0, 127 + 7}, 127 + 7 + 127 + 3},
      {2, 2, {4, 4, 0}, {0, 0, 0}, 255 + 15},
  };
  return found[weights_a_byte - 2];
}

static inline int32_t eq_trellis_bytes(int32_t weights_a_byte) {
  eq_steps by = eq_steps_of(weights_a_byte);
  return by.steps * EQ_NODES + by.entries * by.levels;
}

/* The levels of a byte behind another. */
static inline void eq_levels(const uint8_t *trellis, int32_t weights_a_byte, int32_t previous, int32_t byte,
                             int8_t *levels) {
  const eq_steps by = eq_steps_of(weights_a_byte);
  const int8_t *table = (const int8_t *)trellis + by.steps * EQ_NODES;
  int32_t left = 8, node = previous, i, j;
  for (i = 0; i < by.steps; i++) {
    int32_t bits = by.bits[i], fresh, entry;
    left -= bits;
    fresh = byte >> left & ((1 << bits) - 1);
    entry = by.from[i] + trellis[EQ_NODES * i + node] + fresh;
    for (j = 0; j < by.levels; j++) *levels++ = table[entry * by.levels + j];
    node = (node << bits | fresh) & (EQ_NODES - 1);
  }
}

/* Windows: for each step of a byte, the levels of all that the bits up to its own can be, with the 8 bits before them.
 * They take kilobytes, but one look-up a step, as what starts at a node need not be looked up first. */
static inline int32_t eq_windows_bytes(int32_t weights_a_byte) {
  eq_steps by = eq_steps_of(weights_a_byte);
  int32_t bytes = 0, i;
  for (i = 0; i < by.steps; i++) bytes += by.levels * EQ_NODES << by.bits[i];
  return bytes;
}

static inline void eq_make_windows(const uint8_t *trellis, int32_t weights_a_byte, int8_t *made) {
  eq_steps by = eq_steps_of(weights_a_byte);
  const int8_t *table = (const int8_t *)trellis + by.steps * EQ_NODES;
  int32_t i, node, j;
  for (i = 0; i < by.steps; i++)
    for (node = 0; node < EQ_NODES; node++) {
      const int8_t *from = table + (by.from[i] + trellis[EQ_NODES * i + node]) * by.levels;
      for (j = 0; j < by.levels << by.bits[i]; j++) *made++ = from[j];
    }
}

/* The sequences of rows: as `sequences` of trellis.py. */
static inline int32_t eq_sequence_rows(int32_t rows) {
  int32_t best = rows, least = 0, length;
  if (rows <= 31) return rows;
  for (length = 16; length <= 31; length++) {
    int32_t made = (rows + length - 1) / length * length;
    if (least && made >= least) continue;
    least = made;
    best = length;
  }
  return best;
}

/* Rows of bytes of a layer: at 8 bits one a channel. */
static inline int32_t eq_rows(int32_t channels, int32_t weights_a_byte) {
  int32_t rows = (channels + weights_a_byte - 1) / weights_a_byte;
  return weights_a_byte == 1 ? rows : eq_up_to(rows, eq_sequence_rows(rows));
}

#endif
