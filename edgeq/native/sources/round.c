/* Error-compensated rounding (edgeq/rounding/gptq.py) of some outputs of a layer, input by input. Every number is computed
 * as torch computes it there, by the same operations in the same order. */
#include "encode.h"
#include <math.h>
#include <string.h>

#define RADIX 224 /* edgeq/numerics/trellis.py */

/* The code of a layer: `levels` are those of all pairs of bytes, [pairs][per_byte]. Without them, a byte is a level by
 * itself, at most `highest`. The layer has `outputs`, `of_group` in a group, each of `inputs`. */
typedef struct {
  eq_encoding encoding;
  const int8_t *levels;
  int32_t per_byte, highest, outputs, of_group, inputs;
} eq_layer;

/* What is held of the outputs of a set, those that are encoded together. Behind the last output of the layer there is
 * room for others, which nothing depends on. */
typedef struct {
  int32_t first, count, width;
  float *values; /* [inputs][width]: weights that are left, or slopes */
  float *target, *importance, *level, *change;
  uint8_t *made, *before;
  void *memory;
} eq_set;

static int32_t width_of(const eq_layer *layer) { return layer->encoding.bytes * layer->per_byte; }

/* How many bytes of memory eq_gptq and eq_descend need. */
size_t eq_round_bytes(const eq_layer *layer) {
  const size_t width = (size_t)width_of(layer);
  return width * (layer->inputs + 5) * sizeof(float) + (layer->levels ? eq_encode_bytes(&layer->encoding) : 0);
}

/* A set, with its part of an array [outputs][inputs]. */
static eq_set opened(const eq_layer *layer, int32_t number, const float *array, float *memory) {
  const int32_t width = width_of(layer), inputs = layer->inputs;
  eq_set set = {number * width, layer->outputs - number * width, width, memory, 0, 0, 0, 0, 0, 0, 0};
  int32_t i, o;
  if (set.count > width) set.count = width;
  set.target = set.values + (ptrdiff_t)inputs * width;
  set.importance = set.target + width;
  set.level = set.importance + width;
  set.change = set.level + width;
  set.made = (uint8_t *)(set.change + width); /* a set has at most as many bytes as weights */
  set.before = set.made + layer->encoding.bytes;
  set.memory = set.change + 2 * (ptrdiff_t)width;
  memset(memory, 0, ((size_t)inputs + 5) * width * sizeof(float));
  for (o = 0; o < set.count; o++)
    for (i = 0; i < inputs; i++) set.values[(ptrdiff_t)i * width + o] = array[(ptrdiff_t)(set.first + o) * inputs + i];
  return set;
}

/* The row of the matrix of an output's group, [groups][inputs][inputs]. */
static const float *row_of(const eq_layer *layer, const float *matrix, int32_t output, int32_t row) {
  return matrix + ((ptrdiff_t)(output / layer->of_group) * layer->inputs + row) * layer->inputs;
}

/* The levels that bytes stand for. */
static void decode(const eq_layer *layer, const uint8_t *bytes, float *level) {
  const int32_t count = layer->encoding.bytes, per_byte = layer->per_byte;
  int32_t i, k, before = bytes[count - 1];
  for (i = 0; i < count; before = bytes[i++])
    for (k = 0; k < per_byte; k++)
      level[i * per_byte + k] =
          layer->levels ? layer->levels[(ptrdiff_t)(RADIX * before + bytes[i]) * per_byte + k] : (int8_t)bytes[i];
}

/* Bytes that are near the targets, and their levels. */
static void encode(const eq_layer *layer, eq_set *set) {
  int32_t o, exponent;
  float largest = 0.0f, factor;
  if (layer->levels) {
    for (o = 0; o < set->count; o++) largest = set->importance[o] > largest ? set->importance[o] : largest;
    frexpf(largest, &exponent);
    factor = ldexpf(1.0f, -exponent); /* up to 1, and as exact as before */
    for (o = 0; o < set->count; o++) set->importance[o] *= factor;
    eq_encode(&layer->encoding, 1, set->target, set->importance, set->memory, set->made);
  } else
    for (o = 0; o < set->count; o++) {
      float level = rintf(set->target[o]), highest = (float)layer->highest;
      set->made[o] = (uint8_t)(int8_t)(level < -highest ? -highest : level > highest ? highest : level);
    }
  decode(layer, set->made, set->level);
}

/* What a change of an input does to those behind it. */
static void pass_on(const eq_layer *layer, const eq_set *set, const float *matrix, int32_t input) {
  int32_t start = 0, end, i, o;
  for (; start < set->count; start = end) {
    const float *row = row_of(layer, matrix, set->first + start, input);
    end = start + layer->of_group - (set->first + start) % layer->of_group;
    if (end > set->count) end = set->count;
    for (i = input + 1; i < layer->inputs; i++) {
      float *values = set->values + (ptrdiff_t)i * set->width, by = row[i];
      for (o = start; o < end; o++) values[o] -= set->change[o] * by;
    }
  }
}

static void store(const eq_layer *layer, const eq_set *set, int32_t number, int32_t input, uint8_t *made) {
  const int32_t bytes = layer->encoding.bytes;
  int32_t i, rows = layer->levels ? bytes : set->count;
  for (i = 0; i < rows; i++) made[((ptrdiff_t)number * bytes + i) * layer->inputs + input] = set->made[i];
}

/* GPTQ of `sets` sets: `weight` is [outputs][inputs], `factor` [groups][inputs][inputs], `made` [rows][inputs]. */
CLONES void eq_gptq(const eq_layer *layer, int32_t start, int32_t sets, const float *weight, const float *factor,
                    const float *scale, void *memory, uint8_t *made) {
  int32_t number, i, o;
  for (number = start; number < start + sets; number++) {
    eq_set set = opened(layer, number, weight, memory);
    for (i = 0; i < layer->inputs; i++) {
      const float *left = set.values + (ptrdiff_t)i * set.width, *scales = scale + set.first;
      for (o = 0; o < set.count; o++) {
        const float relative = scales[o] / row_of(layer, factor, set.first + o, i)[i];
        set.target[o] = left[o] / scales[o];
        set.importance[o] = relative * relative;
      }
      encode(layer, &set);
      for (o = 0; o < set.count; o++)
        set.change[o] = (left[o] - set.level[o] * scales[o]) / row_of(layer, factor, set.first + o, i)[i];
      pass_on(layer, &set, factor, i);
      store(layer, &set, number, i, made);
    }
  }
}

/* A pass of coordinate descent over `sets` sets: `slope` is [outputs][inputs], `hessian` [groups][inputs][inputs], `made`
 * [rows][inputs], which is changed. */
CLONES void eq_descend(const eq_layer *layer, int32_t start, int32_t sets, const float *slope, const float *hessian,
                       const float *scale, void *memory, uint8_t *made) {
  const int32_t bytes = layer->encoding.bytes, together = layer->levels ? width_of(layer) : 1;
  int32_t number, i, o, from;
  for (number = start; number < start + sets; number++) {
    eq_set set = opened(layer, number, slope, memory);
    for (i = 0; i < layer->inputs; i++) {
      const float *slopes = set.values + (ptrdiff_t)i * set.width, *scales = scale + set.first;
      const int32_t rows = layer->levels ? bytes : set.count;
      for (o = 0; o < rows; o++) set.before[o] = made[((ptrdiff_t)number * bytes + o) * layer->inputs + i];
      decode(layer, set.before, set.change);
      for (o = 0; o < set.count; o++) {
        const float curvature = row_of(layer, hessian, set.first + o, i)[i];
        set.importance[o] = scales[o] * scales[o] * curvature;
        set.target[o] = set.change[o] + slopes[o] / (curvature * scales[o]);
      }
      encode(layer, &set);
      for (from = 0; from < set.count; from += together) { /* the path that was found may be worse: it is nearly the best */
        const int32_t end = from + together < set.count ? from + together : set.count;
        double worse = 0.0;
        for (o = from; o < end; o++) {
          const float now = set.target[o] - set.level[o], then = set.target[o] - set.change[o];
          worse += set.importance[o] * (now * now - then * then);
        }
        if (worse < 0.0) {
          for (o = from; o < end; o++) set.change[o] = (set.level[o] - set.change[o]) * scales[o];
        } else {
          memset(set.change + from, 0, (size_t)(end - from) * sizeof(float));
          memcpy(set.made + from / layer->per_byte, set.before + from / layer->per_byte, together == 1 ? 1 : bytes);
        }
      }
      pass_on(layer, &set, hessian, i);
      store(layer, &set, number, i, made);
    }
  }
}
