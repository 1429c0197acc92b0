/* Trellis codes, as edgeq/numerics/trellis.py has them. What the levels of bytes are is told by, one after the other,
 *
 *   uint8 [steps][256]: for each step of a byte, where the levels of each node start: of the 8 bits before it;
 *   int8 [entries][levels], for each table: the levels, of which new bits of the byte choose one behind the start. */
#ifndef EDGEQ_TRELLIS_H
#define EDGEQ_TRELLIS_H

#include "primitives.h"

#define EQ_NODES 256

/* How the bytes of a width are cut into steps: the new bits of each, the levels that it makes, and of its table the
 * entries (those with which it starts follow them once more, so that new bits never wrap) and the byte it starts at. */
typedef struct {
  int32_t steps, bits[3], levels[3], entries[3], from[3];
  int32_t bytes; /* of all tables */
} eq_steps;

static inline eq_steps eq_steps_of(int32_t weights_a_byte) {
  static const eq_steps found[] = {
      {2, {4, 4, 0}, {1, 1, 0}, {255, 255, 0}, {0, 0, 0}, 270},
      {3, {3, 3, 2}, {1, 1, 1}, {127, 127, 127}, {0, 0, 134}, 134 + 130},
      {2, {4, 4, 0}, {2, 2, 0}, {255, 255, 0}, {0, 0, 0}, 2 * 270},
      {3, {3, 3, 2}, {2, 2, 1}, {255, 255, 127}, {0, 0, 2 * 262}, 2 * 262 + 130},
      {2, {4, 4, 0}, {3, 3, 0}, {255, 255, 0}, {0, 0, 0}, 3 * 270},
      {0, {0, 0, 0}, {0, 0, 0}, {0, 0, 0}, {0, 0, 0}, 0}, /* 7 weights are in no byte */
      {2, {4, 4, 0}, {4, 4, 0}, {255, 255, 0}, {0, 0, 0}, 4 * 270},
  };
  return found[weights_a_byte - 2];
}

/* The levels of a byte behind another. */
static inline void eq_levels(const uint8_t *trellis, int32_t weights_a_byte, int32_t previous, int32_t byte,
                             int8_t *levels) {
  const eq_steps by = eq_steps_of(weights_a_byte);
  const int8_t *tables = (const int8_t *)trellis + by.steps * EQ_NODES;
  int32_t left = 8, node = previous, i, j;
  for (i = 0; i < by.steps; i++) {
    int32_t bits = by.bits[i], fresh, entry;
    left -= bits;
    fresh = byte >> left & ((1 << bits) - 1);
    entry = trellis[EQ_NODES * i + node] + fresh;
    for (j = 0; j < by.levels[i]; j++) *levels++ = tables[by.from[i] + entry * by.levels[i] + j];
    node = (node << bits | fresh) & (EQ_NODES - 1);
  }
}

/* Windows: for each step of a byte, the levels of all that the bits up to its own can be, with the 8 bits before them.
 * They take kilobytes, but one look-up a step, as what starts at a node need not be looked up first. */
static inline int32_t eq_windows_bytes(int32_t weights_a_byte) {
  eq_steps by = eq_steps_of(weights_a_byte);
  int32_t bytes = 0, i;
  for (i = 0; i < by.steps; i++) bytes += by.levels[i] * EQ_NODES << by.bits[i];
  return bytes;
}

static inline void eq_make_windows(const uint8_t *trellis, int32_t weights_a_byte, int8_t *made) {
  eq_steps by = eq_steps_of(weights_a_byte);
  const int8_t *table = (const int8_t *)trellis + by.steps * EQ_NODES;
  int32_t i, node, j;
  for (i = 0; i < by.steps; i++)
    for (node = 0; node < EQ_NODES; node++) {
      const int8_t *from = table + by.from[i] + trellis[EQ_NODES * i + node] * by.levels[i];
      for (j = 0; j < by.levels[i] << by.bits[i]; j++) *made++ = from[j];
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
