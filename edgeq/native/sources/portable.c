/* The inner loops in plain C99: the reference of all others. */
#include "primitives.h"

static void decode(const uint8_t *bytes, const int8_t *codebook, int32_t weights_a_byte, int32_t lead, int32_t groups,
                   int32_t channels, int32_t lanes, int8_t *levels) {
  int32_t group, lane, i;
  for (group = 0; group < groups; group++, levels += lanes * EQ_DEPTH) {
    int32_t place = lead;
    for (lane = 0; lane < channels; lane++) {
      for (i = 0; i < EQ_DEPTH; i++)
        levels[EQ_DEPTH * lane + i] = weights_a_byte == 1 ? (int8_t)bytes[i] : codebook[bytes[i] * weights_a_byte + place];
      if (++place == weights_a_byte) {
        place = 0;
        bytes += EQ_DEPTH;
      }
    }
    if (place > 0) bytes += EQ_DEPTH;
    for (i = EQ_DEPTH * channels; i < EQ_DEPTH * lanes; i++) levels[i] = 0;
  }
}

static void write(const eq_unit *unit, const int32_t *sums, int32_t from, int32_t count, uint8_t *bytes, float *floats) {
  int32_t i;
  for (i = 0; i < count; i++) {
    int32_t sum = sums[i] + unit->biases[from + i];
    if (unit->offsets)
      floats[from + i] = (float)sum * unit->multipliers[from + i] + unit->offsets[from + i];
    else
      bytes[from + i] = eq_requantize(sum, unit->multipliers[from + i], unit->zero, unit->least, unit->most);
  }
}

static void multiply_rows(const eq_unit *unit, const uint8_t *inputs, size_t stride, int32_t count, void *outputs,
                          size_t out_stride) {
  int32_t lanes = eq_up_to(unit->channels, EQ_LANES), pixel, first, k, i;
  for (pixel = 0; pixel < count; pixel++, inputs += stride)
    for (first = 0; first < unit->channels; first += EQ_LANES) {
      const int8_t *weights = unit->weights + first * EQ_DEPTH;
      int32_t sums[EQ_LANES] = {0};
      for (k = 0; k < unit->depth; k += EQ_DEPTH, weights += lanes * EQ_DEPTH) {
        int32_t a = inputs[k], b = inputs[k + 1], c = inputs[k + 2], d = inputs[k + 3];
        for (i = 0; i < EQ_LANES; i++)
          sums[i] += a * weights[4 * i] + b * weights[4 * i + 1] + c * weights[4 * i + 2] + d * weights[4 * i + 3];
      }
      write(unit, sums, first, eq_least(EQ_LANES, unit->channels - first), (uint8_t *)outputs + (size_t)pixel * out_stride,
            (float *)outputs + (size_t)pixel * out_stride);
    }
}

static void depthwise_row(const eq_step *step, const uint8_t *const *rows, const int8_t *weights, const int32_t *biases,
                          const float *multipliers, uint8_t *outputs) {
  int32_t taps = step->kernel_rows * step->kernel_columns, channels = step->channels, x, first, ky, kx, i;
  for (x = 0; x < step->out_columns; x++, outputs += channels)
    for (first = 0; first < channels; first += EQ_LANES) {
      int32_t count = eq_least(EQ_LANES, channels - first), sums[EQ_LANES];
      const int8_t *tap = weights + (size_t)first * (size_t)taps;
      for (i = 0; i < count; i++) sums[i] = biases[first + i];
      for (ky = 0; ky < step->kernel_rows; ky++)
        for (kx = 0; kx < step->kernel_columns; kx++, tap += EQ_LANES) {
          int32_t from_x = x * step->stride_columns - step->left + kx * step->dilation_columns;
          if (from_x < 0 || from_x >= step->columns) {
            for (i = 0; i < count; i++) sums[i] += step->from_zero * tap[i];
          } else {
            const uint8_t *from = rows[ky] + (size_t)from_x * (size_t)channels + first;
            for (i = 0; i < count; i++) sums[i] += from[i] * tap[i];
          }
        }
      for (i = 0; i < count; i++) outputs[first + i] = eq_requantize(sums[i], multipliers[first + i], step->to_zero, step->least, step->most);
    }
}

/* As ONNX Runtime adds: with two fused products and sums. In double, a product of floats is exact. */
static void add_bytes(const eq_step *step, const uint8_t *a, const uint8_t *b, uint8_t *sum, int32_t count) {
  float of_a = step->from_scale / step->to_scale, of_b = step->other_scale / step->to_scale;
  float moved = of_b * (float)step->other_zero;
  float fixed = (float)step->to_zero - (float)((double)of_a * step->from_zero + (double)moved);
  int32_t i;
  for (i = 0; i < count; i++) {
    float second = (float)((double)of_b * b[i] + (double)fixed);
    float value = eq_within((float)((double)of_a * a[i] + (double)second), 0.0f, 255.0f);
    sum[i] = (uint8_t)(int32_t)((value + EQ_ROUND) - EQ_ROUND);
  }
}

static void quantize_pixels(const eq_step *step, const float *values, int32_t plane, int32_t begin, int32_t end,
                            uint8_t *codes) {
  int32_t c, i;
  for (c = 0; c < step->channels; c++, values += plane, codes++) {
    uint8_t *to = codes;
    for (i = begin; i < end; i++, to += step->channels) *to = eq_code(values[i], step->to_scale, step->to_zero);
  }
}

const eq_primitives eq_portable = {"portable", multiply_rows, depthwise_row, decode, add_bytes, quantize_pixels};
