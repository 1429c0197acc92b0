/* The inner loops in plain C99: the reference of all others. */
#include "integer.h"
#include "trellis.h"

/* Rows by K channels: the compiler makes a loop of its own for some K. */
static inline void decode_rows(const int32_t weights_a_byte, const eq_packed *packed, int32_t groups, int8_t *levels) {
  int32_t group, lane, i, j;
  for (group = 0; group < groups; group++, levels += packed->lanes * EQ_DEPTH) {
    const uint8_t *bytes = packed->bytes + (ptrdiff_t)group * packed->pitch;
    int32_t place = packed->place;
    for (lane = -packed->lead; lane < packed->channels; lane += weights_a_byte, bytes += EQ_DEPTH) {
      ptrdiff_t before = place > 0 ? -EQ_DEPTH : (ptrdiff_t)EQ_DEPTH * (packed->length - 1);
      for (i = 0; i < EQ_DEPTH; i++) {
        int8_t found[EQ_WEIGHTS];
        if (weights_a_byte == 1)
          found[0] = (int8_t)bytes[i];
        else
          eq_levels(packed->trellis, weights_a_byte, bytes[before + i], bytes[i], found);
        for (j = 0; j < weights_a_byte; j++)
          if (lane + j >= 0 && lane + j < packed->channels) levels[EQ_DEPTH * (lane + j) + i] = found[j];
      }
      if (++place == packed->length) place = 0;
    }
    for (i = EQ_DEPTH * packed->channels; i < EQ_DEPTH * packed->lanes; i++) levels[i] = 0;
  }
}

static void decode(const eq_packed *packed, int32_t groups, int8_t *levels) {
  switch (packed->weights_a_byte) {
    case 1: decode_rows(1, packed, groups, levels); break;
    case 2: decode_rows(2, packed, groups, levels); break;
    case 3: decode_rows(3, packed, groups, levels); break;
    case 4: decode_rows(4, packed, groups, levels); break;
    default: decode_rows(packed->weights_a_byte, packed, groups, levels); break;
  }
}

/* Channels from `from` on; `at` is the place of the pixel's first among the elements of `outputs`. */
static void write(const eq_unit *unit, const int32_t *sums, int32_t from, int32_t count, void *outputs, size_t at) {
  size_t i, channel = (size_t)from;
  for (i = 0; i < (size_t)count; i++, channel++) {
    int32_t sum = sums[i] + unit->biases[channel];
    float multiplier = unit->multipliers[channel];
    if (unit->offsets)
      ((float *)outputs)[at + channel] = (float)sum * multiplier + unit->offsets[channel];
    else if (unit->integer)
      ((uint8_t *)outputs)[at + channel] = eq_requantize_integer(sum, multiplier, unit->zero, unit->least, unit->most);
    else
      ((uint8_t *)outputs)[at + channel] = eq_requantize(sum, multiplier, unit->zero, unit->least, unit->most);
  }
}

#define PIXELS 4 /* that are computed with weights that were widened once */

/* Sixteen channels of pixels from `at` on. Factors of 16 bits and sums of 32 are what compilers make vectors of. */
static inline void tile(const int32_t pixels, const eq_unit *unit, int32_t first, int32_t at, const uint8_t *inputs,
                        size_t stride, void *outputs, size_t out_stride) {
  const int8_t *weights = unit->weights + first * EQ_DEPTH;
  int32_t sums[PIXELS][EQ_LANES] = {{0}}, next = eq_up_to(unit->channels, EQ_LANES) * EQ_DEPTH, k, j, m, i;
  for (k = 0; k < unit->depth; k += EQ_DEPTH, weights += next)
    for (j = 0; j < EQ_DEPTH; j++) {
      int16_t wide[EQ_LANES];
      for (i = 0; i < EQ_LANES; i++) wide[i] = weights[EQ_DEPTH * i + j];
      for (m = 0; m < pixels; m++) {
        int16_t byte = inputs[(size_t)(at + m) * stride + (size_t)(k + j)];
        for (i = 0; i < EQ_LANES; i++) sums[m][i] += byte * wide[i];
      }
    }
  for (m = 0; m < pixels; m++)
    write(unit, sums[m], first, eq_least(EQ_LANES, unit->channels - first), outputs, (size_t)(at + m) * out_stride);
}

static void multiply_rows(const eq_unit *unit, const uint8_t *inputs, size_t stride, int32_t count, void *outputs,
                          size_t out_stride) {
  int32_t first, at;
  for (first = 0; first < unit->channels; first += EQ_LANES) {
    for (at = 0; at + PIXELS <= count; at += PIXELS) tile(PIXELS, unit, first, at, inputs, stride, outputs, out_stride);
    for (; at < count; at++) tile(1, unit, first, at, inputs, stride, outputs, out_stride);
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
            const uint8_t *from = rows[ky * step->dilation_rows] + (size_t)from_x * (size_t)channels + first;
            for (i = 0; i < count; i++) sums[i] += (int16_t)from[i] * (int16_t)tap[i];
          }
        }
      for (i = 0; i < count; i++)
        outputs[first + i] =
            step->flags & EQ_INTEGER
                ? eq_requantize_integer(sums[i], multipliers[first + i], step->to_zero, step->least, step->most)
                : eq_requantize(sums[i], multipliers[first + i], step->to_zero, step->least, step->most);
    }
}

static void depthwise_rows(const eq_step *step, const uint8_t *const *rows, int32_t count, const int8_t *weights,
                           const int32_t *biases, const float *multipliers, uint8_t *outputs) {
  for (; count > 0; count--, rows += step->stride_rows, outputs += step->out_columns * step->channels)
    depthwise_row(step, rows, weights, biases, multipliers, outputs);
}

/* As ONNX Runtime adds: with two fused products and sums. In double, a product of floats is exact. */
static void add_bytes(const eq_step *step, const uint8_t *a, const uint8_t *b, uint8_t *sum, int32_t count) {
  float of_a = step->from_scale / step->to_scale, of_b = step->other_scale / step->to_scale;
  float moved = of_b * (float)step->other_zero;
  float fixed = (float)step->to_zero - (float)((double)of_a * step->from_zero + (double)moved);
  int32_t i;
  if (step->flags & EQ_INTEGER) {
    eq_add_integer(step, a, b, sum, count);
    return;
  }
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

const eq_primitives eq_portable = {"portable", multiply_rows, depthwise_rows, decode, add_bytes, quantize_pixels};
