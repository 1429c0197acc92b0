/* The inner loops for WebAssembly with vectors of 128 bits. */
#include "primitives.h"

#ifdef EQ_SIMD128

#include <wasm_simd128.h>

#define PIXELS 4 /* whose sums stay in registers */

/* Four channels of some pixels, from `first` on: bytes and weights are widened to 16 bits, as products of pairs of those
 * are added in one instruction. */
static inline void tile(const int32_t pixels, const eq_unit *unit, int32_t first, const uint8_t *inputs, size_t stride,
                        void *outputs, size_t out_stride, size_t size) {
  const int8_t *weights = unit->weights + first * EQ_DEPTH;
  int32_t next = eq_up_to(unit->channels, EQ_LANES) * EQ_DEPTH, k, m, i;
  v128_t low[PIXELS], high[PIXELS];
  for (m = 0; m < pixels; m++) low[m] = high[m] = wasm_i32x4_splat(0);
  for (k = 0; k < unit->depth; k += EQ_DEPTH, weights += next) {
    v128_t four = wasm_v128_load(weights), a = wasm_i16x8_extend_low_i8x16(four), b = wasm_i16x8_extend_high_i8x16(four);
    for (m = 0; m < pixels; m++) {
      v128_t bytes = wasm_u16x8_extend_low_u8x16(wasm_v128_load32_splat(inputs + (size_t)m * stride + k));
      low[m] = wasm_i32x4_add(low[m], wasm_i32x4_dot_i16x8(bytes, a));
      high[m] = wasm_i32x4_add(high[m], wasm_i32x4_dot_i16x8(bytes, b));
    }
  }
  for (m = 0; m < pixels; m++) {
    int32_t sums[4];
    wasm_v128_store(sums, wasm_i32x4_add(wasm_i32x4_shuffle(low[m], high[m], 0, 2, 4, 6),
                                         wasm_i32x4_shuffle(low[m], high[m], 1, 3, 5, 7)));
    for (i = 0; i < eq_least(4, unit->channels - first); i++) {
      int32_t channel = first + i, sum = sums[i] + unit->biases[channel];
      size_t at = (size_t)m * out_stride + (size_t)channel;
      if (size > 1)
        ((float *)outputs)[at] = (float)sum * unit->multipliers[channel] + unit->offsets[channel];
      else
        ((uint8_t *)outputs)[at] = eq_requantize(sum, unit->multipliers[channel], unit->zero, unit->least, unit->most);
    }
  }
}

static void multiply_rows(const eq_unit *unit, const uint8_t *inputs, size_t stride, int32_t count, void *outputs,
                          size_t out_stride) {
  size_t size = unit->offsets ? sizeof(float) : 1;
  int32_t first, at;
  for (first = 0; first < unit->channels; first += 4) {
    const uint8_t *from = inputs;
    uint8_t *to = (uint8_t *)outputs;
    for (at = 0; at + PIXELS <= count; at += PIXELS, from += PIXELS * stride, to += PIXELS * out_stride * size)
      tile(PIXELS, unit, first, from, stride, to, out_stride, size);
    for (; at < count; at++, from += stride, to += out_stride * size)
      tile(1, unit, first, from, stride, to, out_stride, size);
  }
}

static void decode(const eq_packed *packed, int32_t groups, int8_t *levels) {
  eq_portable.decode(packed, groups, levels);
}

static void depthwise_rows(const eq_step *step, const uint8_t *const *rows, int32_t count, const int8_t *weights,
                           const int32_t *biases, const float *multipliers, uint8_t *outputs) {
  eq_portable.depthwise_rows(step, rows, count, weights, biases, multipliers, outputs);
}

static void add_bytes(const eq_step *step, const uint8_t *a, const uint8_t *b, uint8_t *sum, int32_t count) {
  eq_portable.add_bytes(step, a, b, sum, count);
}

static void quantize_pixels(const eq_step *step, const float *values, int32_t plane, int32_t begin, int32_t end,
                            uint8_t *codes) {
  eq_portable.quantize_pixels(step, values, plane, begin, end, codes);
}

const eq_primitives eq_simd128 = {"simd128", multiply_rows, depthwise_rows, decode, add_bytes, quantize_pixels};

#endif
