/* Compares the sets of inner loops that a processor has with the portable one, on random numbers: what
 * `test_kernels.py` does, for processors that an emulator runs. With -DSET=eq_..., that set alone, whatever the
 * processor has. */
#include "trellis.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 40000

static uint32_t state = 1;
static uint8_t bytes[MOST], starts[MOST];
static int8_t levels[MOST], windows[MOST];
static float numbers[MOST];
static int32_t biases[256];
static float multipliers[256], offsets[256];
static union {
  float floats[MOST];
  uint8_t codes[4 * MOST];
  int8_t levels[4 * MOST];
} expected, made;

static int32_t below(int32_t count) {
  state ^= state << 13;
  state ^= state >> 17;
  state ^= state << 5;
  return (int32_t)(state % (uint32_t)count);
}

static void draw(int32_t small) {
  int32_t i, most = small ? 63 : 127, large = below(4) == 0; /* multipliers, for which some sets have no fast way */
  for (i = 0; i < MOST; i++) {
    bytes[i] = (uint8_t)(below(5) ? below(256) : 255);
    levels[i] = (int8_t)(below(5) ? below(2 * most + 1) - most : most);
    numbers[i] = (float)(below(1201) - 600) / 2.0f;
  }
  for (i = 0; i < 256; i++) {
    biases[i] = below(20000) - 10000;
    multipliers[i] = !large || below(10) ? (float)(1 + below(1000)) / 100000.0f : 1e6f;
    offsets[i] = (float)below(1000) / 100.0f;
  }
}

static void reset(void) {
  memset(&expected, 0xaa, sizeof expected);
  memset(&made, 0xaa, sizeof made);
}

static void compare(const eq_primitives *set, const char *what) {
  if (memcmp(&expected, &made, sizeof made) == 0) return;
  printf("%s: %s differs\n", set->name, what);
  exit(1);
}

static void rows(const eq_primitives *set, int32_t small) {
  eq_unit unit;
  int32_t count = 1 + below(20);
  size_t stride, out_stride;
  memset(&unit, 0, sizeof unit);
  unit.weights = levels;
  unit.biases = biases;
  unit.multipliers = multipliers;
  unit.offsets = below(4) ? NULL : offsets;
  unit.channels = 1 + below(64);
  unit.depth = EQ_DEPTH * (1 + below(60));
  unit.zero = below(256);
  unit.least = below(50);
  unit.most = 255 - below(50);
  unit.small = small;
  stride = (size_t)(unit.depth + below(9));
  out_stride = (size_t)(unit.channels + below(9));
  reset();
  eq_portable.multiply_rows(&unit, bytes, stride, count, &expected, out_stride);
  set->multiply_rows(&unit, bytes, stride, count, &made, out_stride);
  compare(set, "a product of rows");
}

static void depthwise(const eq_primitives *set, int32_t small) {
  eq_step step;
  const uint8_t *pointers[20];
  int32_t count = 1 + below(3), i, read, extent;
  memset(&step, 0, sizeof step);
  step.flags = small ? EQ_SMALL : 0;
  step.channels = 1 + below(140);
  step.kernel_rows = 1 + below(6);
  step.kernel_columns = 1 + below(7);
  if (below(2)) step.kernel_rows = step.kernel_columns = 3; /* for which some sets have loops of their own */
  step.stride_rows = 1 + below(3);
  step.dilation_rows = 1 + below(2);
  step.stride_columns = 1 + below(3);
  step.dilation_columns = 1 + below(3);
  step.left = below(7);
  step.columns = 1 + below(60);
  extent = (step.kernel_columns - 1) * step.dilation_columns + 1;
  step.out_columns = (step.columns + 2 * step.left - extent) / step.stride_columns + 1;
  if (step.out_columns < 1) step.out_columns = 1;
  step.from_zero = below(256);
  step.to_zero = below(256);
  step.least = below(50);
  step.most = 255 - below(50);
  read = (count - 1) * step.stride_rows + (step.kernel_rows - 1) * step.dilation_rows + 1;
  for (i = 0; i < read; i++) pointers[i] = bytes + below(MOST - step.columns * step.channels);
  reset();
  eq_portable.depthwise_rows(&step, pointers, count, levels, biases, multipliers, expected.codes);
  set->depthwise_rows(&step, pointers, count, levels, biases, multipliers, made.codes);
  compare(set, "rows of channels by themselves");
}

static void decoded(const eq_primitives *set) {
  eq_packed packed;
  int32_t groups = 1 + below(40), i;
  do packed.weights_a_byte = 1 + below(EQ_WEIGHTS);
  while (packed.weights_a_byte == 7);
  packed.bytes = bytes + 4000; /* sequences go on before and behind */
  packed.trellis = starts;
  for (i = 0; i < MOST; i++) starts[i] = (uint8_t)below(255);
  packed.windows = NULL;
  if (packed.weights_a_byte > 1 && below(2)) {
    eq_make_windows(starts, packed.weights_a_byte, windows);
    packed.windows = windows;
  }
  packed.channels = below(2) ? 16 * (1 + below(3)) : 1 + below(48);
  packed.lanes = eq_up_to(packed.channels, EQ_LANES);
  packed.lead = below(2) ? 0 : below(packed.weights_a_byte);
  packed.length = 16 + below(16);
  packed.place = below(packed.length);
  packed.pitch = EQ_DEPTH * (64 + below(100));
  reset();
  eq_portable.decode(&packed, groups, expected.levels);
  set->decode(&packed, groups, made.levels);
  compare(set, "decoding");
}

static void one_by_one(const eq_primitives *set) {
  eq_step step;
  int32_t begin = below(20), end = begin + 1 + below(70);
  memset(&step, 0, sizeof step);
  step.from_zero = below(256);
  step.other_zero = below(256);
  step.to_zero = below(256);
  step.from_scale = (float)(1 + below(100)) / 10.0f;
  step.other_scale = (float)(1 + below(100)) / 10.0f;
  step.to_scale = (float)(1 + below(100)) / 10.0f;
  reset();
  eq_portable.add_bytes(&step, bytes, bytes + 5000, expected.codes, end);
  set->add_bytes(&step, bytes, bytes + 5000, made.codes, end);
  compare(set, "a sum");
  step.channels = 1 + below(5);
  reset();
  eq_portable.quantize_pixels(&step, numbers, end + 1, begin, end, expected.codes);
  set->quantize_pixels(&step, numbers, end + 1, begin, end, made.codes);
  compare(set, "quantizing");
}

static void compared(const eq_primitives *set) {
  int32_t i, small;
  for (small = 0; small < 2; small++)
    for (i = 0; i < 200; i++) {
      if (i % 20 == 0) draw(small);
      rows(set, small);
      depthwise(set, small);
      decoded(set);
      one_by_one(set);
    }
  printf("%s: as portable\n", set->name);
}

int main(void) {
#ifdef SET
  compared(&SET);
#else
  int32_t i;
  for (i = 0; eq_set(i) != &eq_portable; i++) compared(eq_set(i));
#endif
  return 0;
}
