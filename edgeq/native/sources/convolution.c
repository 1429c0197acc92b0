/* Convolutions of any geometry, as products of patches with weights that are decoded a unit of channels at a time. */
#include "primitives.h"

#include <string.h>

/* A step's geometry, in what its loops are about. */
typedef struct {
  int32_t group_inputs, group_outputs; /* channels of a group */
  int32_t depth;                       /* weights of an output channel, rounded up */
  int32_t per_byte, unit;
  int32_t direct; /* whether patches are pixels as they lie in the map */
} shape;

static shape shape_of(const eq_step *step) {
  shape found;
  found.group_inputs = step->channels / step->groups;
  found.group_outputs = step->out_channels / step->groups;
  found.depth = eq_up_to(step->kernel_rows * step->kernel_columns * found.group_inputs, EQ_DEPTH);
  found.per_byte = eq_weights_a_byte(step->bits);
  found.unit = eq_unit_channels(found.per_byte);
  found.direct = step->groups == 1 && step->channels % EQ_DEPTH == 0 && step->kernel_rows == 1 && step->kernel_columns == 1 && step->stride_rows == 1 &&
                 step->stride_columns == 1 && step->above == 0 && step->left == 0 &&
                 step->columns == step->out_columns && step->rows == step->out_rows;
  return found;
}

/* A unit of a group: the channels `first` to `first + channels` of it, and the bytes that hold them. */
typedef struct {
  int32_t first, channels, lead, lanes;
  const uint8_t *bytes;
} place;

/* The places of all units follow each other; returns the next one's bytes. */
static const uint8_t *place_of(const shape *s, int32_t group, int32_t first, const uint8_t *bytes, place *found) {
  int32_t vectors;
  found->first = first;
  found->channels = eq_least(s->unit, s->group_outputs - first);
  found->lead = (group * s->group_outputs + first) % s->per_byte;
  found->lanes = eq_up_to(found->channels, EQ_LANES);
  found->bytes = bytes;
  vectors = (found->lead + found->channels + s->per_byte - 1) / s->per_byte;
  return bytes + (size_t)vectors * (size_t)s->depth;
}

/* As memcpy, which takes longer for a few bytes than they do. */
static void copy(uint8_t *to, const uint8_t *from, size_t count) {
  size_t i;
  if (count < 8 || count > 32) {
    memcpy(to, from, count);
    return;
  }
  for (i = 0; i + 8 < count; i += 8) memcpy(to + i, from + i, 8);
  memcpy(to + count - 8, from + count - 8, 8);
}

#define NARROW 32 /* bytes */

/* Patches of the pixels `begin` to before `end`, whose kernels are within the map and have short rows: of each, NARROW
 * bytes are copied, and what is too much is overwritten by what follows. Returns `end`, or `begin` if there are none. */
static int32_t narrow_patches(const eq_context *context, const eq_step *step, const shape *s, int32_t y, int32_t begin,
                              uint8_t *made) {
  const int32_t pixel = step->channels, run = pixel * step->kernel_columns, high = step->kernel_rows, depth = s->depth;
  const int32_t moved = step->stride_columns * pixel;
  int32_t from_y = y * step->stride_rows - step->above, end = step->out_columns, x, ky;
  const uint8_t *rows[NARROW];
  if (step->groups > 1 || step->dilation_columns > 1 || run + EQ_DEPTH > NARROW || high > NARROW || from_y < 0)
    return begin;
  for (ky = 0; ky < high; ky++, from_y += step->dilation_rows) {
    if (from_y >= step->rows) return begin;
    rows[ky] = eq_row_from(context, step, from_y, (size_t)(step->columns * pixel));
  }
  while (end > begin && ((end - 1) * moved - step->left * pixel + NARROW > step->columns * pixel ||
                         (end - 1) * depth + (high - 1) * run + NARROW > step->out_columns * depth))
    end--;
  for (x = begin; x < end; x++) {
    uint8_t *to = made + (ptrdiff_t)x * depth;
    for (ky = 0; ky < high; ky++, to += run) memcpy(to, rows[ky] + (x * moved - step->left * pixel), NARROW);
    memset(to, 0, EQ_DEPTH);
  }
  return end;
}

/* The patches that the pixels of an output row read: rows of the kernel, of those the columns, of those the channels. */
static void patches(const eq_context *context, const eq_step *step, const shape *s, int32_t group, int32_t y,
                    uint8_t *made) {
  size_t pixel = (size_t)step->channels, part = (size_t)s->group_inputs, row = (size_t)step->columns * pixel;
  size_t run = part * (size_t)step->kernel_columns, depth = (size_t)s->depth, whole = run * (size_t)step->kernel_rows;
  int32_t beside = part == pixel && step->dilation_columns == 1; /* whether columns of the kernel lie beside each other */
  int32_t begin = eq_least((step->left + step->stride_columns - 1) / step->stride_columns, step->out_columns);
  int32_t end = narrow_patches(context, step, s, y, begin, made), x, ky, kx;
  for (x = begin > 0 ? 0 : end; x < step->out_columns; x = x + 1 == begin ? end : x + 1)
    memset(made + (size_t)x * depth + whole, 0, depth - whole);
  for (ky = 0; ky < step->kernel_rows; ky++) {
    int32_t from_y = y * step->stride_rows - step->above + ky * step->dilation_rows;
    int32_t inside = from_y >= 0 && from_y < step->rows;
    const uint8_t *from = inside ? eq_row_from(context, step, from_y, row) + (size_t)group * part : NULL;
    for (x = begin > 0 ? 0 : end; x < step->out_columns; x = x + 1 == begin ? end : x + 1) {
      uint8_t *to = made + (size_t)x * depth + run * (size_t)ky;
      int32_t left = x * step->stride_columns - step->left;
      if (inside && beside && left >= 0 && left + step->kernel_columns <= step->columns) {
        copy(to, from + (size_t)left * pixel, run);
        continue;
      }
      for (kx = 0; kx < step->kernel_columns; kx++) {
        int32_t from_x = left + kx * step->dilation_columns;
        if (inside && from_x >= 0 && from_x < step->columns)
          copy(to + part * (size_t)kx, from + (size_t)from_x * pixel, part);
        else
          memset(to + part * (size_t)kx, step->from_zero, part);
      }
    }
  }
}

static eq_unit unit_of(const eq_context *context, const eq_step *step, const shape *s, int32_t group, const place *at,
                       const int8_t *levels) {
  int32_t channel = group * s->group_outputs + at->first;
  eq_unit unit;
  unit.weights = levels;
  unit.biases = (const int32_t *)(const void *)(context->weights + step->biases) + channel;
  unit.multipliers = (const float *)(const void *)(context->weights + step->multipliers) + channel;
  unit.offsets = NULL;
  if (step->flags & EQ_TO_FLOAT) unit.offsets = (const float *)(const void *)(context->weights + step->offsets) + channel;
  unit.channels = at->channels;
  unit.depth = s->depth;
  unit.zero = step->to_zero;
  unit.least = step->least;
  unit.most = step->most;
  unit.small = step->flags & EQ_SMALL;
  unit.integer = step->flags & EQ_INTEGER;
  return unit;
}

/* Rows from `y` on of the output channels of a unit, from patches or from pixels as they lie. */
static void unit_rows(const eq_context *context, const eq_step *step, const shape *s, const eq_unit *unit,
                      int32_t channel, int32_t y, int32_t rows, const uint8_t *from) {
  size_t size = step->flags & EQ_TO_FLOAT ? sizeof(float) : 1, pixel = (size_t)step->out_channels;
  uint8_t *to = eq_row_to(context, step, y, (size_t)step->out_columns * pixel * size);
  size_t stride = (size_t)(s->direct ? step->channels : s->depth);
  if (s->direct) from = eq_row_from(context, step, y, (size_t)step->columns * (size_t)step->channels);
  eq_set_of(step)->multiply_rows(unit, from, stride, rows * step->out_columns, to + (size_t)channel * size, pixel);
}

static void decode(const eq_context *context, const shape *s, const place *at, int8_t *levels) {
  eq_here()->decode(at->bytes, context->codebooks[s->per_byte - 1], s->per_byte, at->lead, s->depth / EQ_DEPTH,
                    at->channels, at->lanes, levels);
}

/* Levels that lie in the weights as they are decoded are used where they are. */
static const int8_t *decoded(const eq_context *context, const shape *s, const place *at, int8_t *levels) {
  if (s->per_byte == 1 && at->channels == at->lanes) return (const int8_t *)at->bytes;
  decode(context, s, at, levels);
  return levels;
}

void eq_decode_convolution(const eq_context *context, const eq_step *step) {
  shape s = shape_of(step);
  const uint8_t *bytes = context->weights + step->weights;
  int8_t *levels = (int8_t *)eq_scratch(context, step);
  int32_t group, first;
  place at;
  for (group = 0; group < step->groups; group++)
    for (first = 0; first < s.group_outputs; first += s.unit) {
      bytes = place_of(&s, group, first, bytes, &at);
      decode(context, &s, &at, levels);
      levels += (size_t)at.lanes * (size_t)s.depth;
    }
}

/* Weights are decoded by units, and every unit is used for all rows; or all have been decoded before, and every row is
 * made as a whole. */
void eq_convolution(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  shape s = shape_of(step);
  const uint8_t *bytes = context->weights + step->weights;
  int8_t *levels = (int8_t *)eq_scratch(context, step);
  uint8_t *patch = eq_scratch(context, step) + step->decoded;
  int32_t group, first, y, number = 0;
  place at;
  eq_unit unit;
  for (group = 0; group < step->groups; group++)
    for (first = 0; first < s.group_outputs; first += s.unit) {
      bytes = place_of(&s, group, first, bytes, &at);
      if (number++ % context->units != context->unit) continue;
      unit = unit_of(context, step, &s, group, &at,
                     step->flags & EQ_ROWS ? levels : decoded(context, &s, &at, levels));
      if (s.direct && !(step->flags & EQ_ROWS)) {
        unit_rows(context, step, &s, &unit, first, begin, end - begin, NULL);
        continue;
      }
      for (y = begin; y < end; y++) {
        /* in rows, the patches of the first unit are those of all units of a group */
        if (!s.direct && (first == 0 || !(step->flags & EQ_ROWS))) patches(context, step, &s, group, y, patch);
        unit_rows(context, step, &s, &unit, group * s.group_outputs + first, y, 1, patch);
      }
      if (step->flags & EQ_ROWS) levels += (size_t)at.lanes * (size_t)s.depth;
    }
}

/* --- each channel by itself ------------------------------------------------------------------------------------- */

/* Taps of a unit: levels of the channels beside each other, which are then parted into blocks of EQ_LANES. Behind all
 * of them is a row of zeros. */
void eq_decode_depthwise(const eq_context *context, const eq_step *step) {
  int32_t per_byte = eq_weights_a_byte(step->bits), unit = eq_unit_channels(per_byte), first, j, tap, i;
  int32_t taps = step->kernel_rows * step->kernel_columns;
  const int8_t *codebook = context->codebooks[per_byte - 1];
  const uint8_t *bytes = context->weights + step->weights;
  int8_t *levels = (int8_t *)eq_scratch(context, step);
  for (first = 0; first < step->channels; first += unit) {
    int32_t channels = eq_least(unit, step->channels - first), lanes = eq_up_to(channels, EQ_LANES);
    for (tap = 0; tap < taps; tap++) {
      int8_t line[64 + 3] = {0}; /* EQ_LANES of every block, and what a last byte holds beyond the channels */
      int32_t size = (channels + per_byte - 1) / per_byte;
      if (per_byte == 1) memcpy(line, bytes, (size_t)size);
      if (per_byte == 2)
        for (j = 0; j < size; j++) memcpy(line + 2 * j, codebook + 2 * bytes[j], 2);
      if (per_byte > 2)
        for (j = 0; j < size; j++)
          for (i = 0; i < per_byte; i++) line[per_byte * j + i] = codebook[per_byte * bytes[j] + i];
      bytes += size;
      for (j = channels; j < lanes; j++) line[j] = 0;
      for (j = 0; j < lanes; j += EQ_LANES) memcpy(levels + j * taps + tap * EQ_LANES, line + j, EQ_LANES);
    }
    levels += lanes * taps;
  }
  memset(eq_scratch(context, step) + step->decoded, step->from_zero, (size_t)(step->columns * step->channels));
}

/* The rows of the map that output rows from `begin` on read; those outside are of zeros. */
static void rows_read(const eq_context *context, const eq_step *step, int32_t begin, int32_t count, size_t bytes,
                      const uint8_t *outside, const uint8_t **rows) {
  int32_t y = begin * step->stride_rows - step->above, i;
  for (i = 0; i < count; i++, y++)
    rows[i] = y >= 0 && y < step->rows ? eq_row_from(context, step, y, bytes) : outside;
}

void eq_depthwise(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  size_t row = (size_t)step->columns * (size_t)step->channels, out_row = (size_t)step->out_columns * (size_t)step->channels;
  uint8_t *scratch = eq_scratch(context, step), *outside = scratch + step->decoded;
  const uint8_t **rows = (const uint8_t **)(void *)(outside + eq_up_to((int32_t)row, 64));
  int32_t extent = (step->kernel_rows - 1) * step->dilation_rows + 1;
  if (!(step->flags & EQ_ROWS)) eq_decode_depthwise(context, step);
  rows_read(context, step, begin, (end - begin - 1) * step->stride_rows + extent, row, outside, rows);
  eq_set_of(step)->depthwise_rows(step, rows, end - begin, (const int8_t *)scratch,
                                  (const int32_t *)(const void *)(context->weights + step->biases),
                                  (const float *)(const void *)(context->weights + step->multipliers),
                                  eq_row_to(context, step, begin, out_row));
}
