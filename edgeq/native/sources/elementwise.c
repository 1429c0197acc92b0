/* Steps that compute every value by itself, and the ways in and out. */
#include "primitives.h"

#include <string.h>

static size_t row_of(const eq_step *step) { return (size_t)step->out_columns * (size_t)step->out_channels; }

void eq_quantize(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  const float *values = (const float *)(const void *)eq_source(context, step->from);
  uint8_t *codes = context->arena + step->to + (size_t)begin * row_of(step);
  eq_here()->quantize_pixels(step, values, step->rows * step->columns, begin * step->columns, end * step->columns, codes);
}

void eq_dequantize(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  const uint8_t *codes = context->arena + step->from;
  float *values = (float *)(void *)eq_target(context, step->to);
  int32_t plane = step->rows * step->columns, c, i;
  for (c = 0; c < step->channels; c++)
    for (i = begin * step->columns; i < end * step->columns; i++)
      values[c * plane + i] = (float)(codes[i * step->channels + c] - step->from_zero) * step->from_scale;
}

/* To or from floats with the channels first, or bytes as they are. */
void eq_copy(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  int32_t plane = step->rows * step->columns, c, i;
  if (step->flags & EQ_FLOATS) {
    const float *from = (const float *)(const void *)eq_source(context, step->from);
    float *to = (float *)(void *)eq_target(context, step->to);
    for (c = 0; c < step->channels; c++)
      for (i = begin * step->columns; i < end * step->columns; i++) {
        int32_t first = c * plane + i, last = i * step->channels + c;
        if (step->from < 0)
          to[last] = from[first];
        else
          to[first] = from[last];
      }
  } else {
    size_t row = row_of(step);
    memcpy(eq_target(context, step->to) + (size_t)begin * row,
           eq_source(context, step->from) + (size_t)begin * row, (size_t)(end - begin) * row);
  }
}

/* A pixel of the second value, which may have one row, one column or one channel for all. */
static const uint8_t *other_pixel(const eq_context *context, const eq_step *step, int32_t y, int32_t x) {
  size_t row = eq_row(context, y, step->out_rows, step->other_kept, (size_t)step->stride_rows);
  return context->arena + step->other + row + (size_t)x * (size_t)step->stride_columns;
}

static int whole(const eq_step *step) {
  return step->groups == 1 && step->stride_columns == step->out_channels &&
         step->stride_rows == step->out_columns * step->out_channels;
}

/* The second values of a pixel, one a channel. */
static const uint8_t *spread(const eq_step *step, const uint8_t *pixel, uint8_t *copies) {
  if (step->groups) return pixel;
  memset(copies, *pixel, (size_t)step->out_channels);
  return copies;
}

void eq_add(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  int32_t y, x, channels = step->out_channels, columns = step->out_columns;
  for (y = begin; y < end; y++) {
    const uint8_t *a = eq_row_from(context, step, y, row_of(step));
    uint8_t *to = eq_row_to(context, step, y, row_of(step));
    if (whole(step)) {
      eq_set_of(step)->add_bytes(step, a, other_pixel(context, step, y, 0), to, columns * channels);
      continue;
    }
    for (x = 0; x < columns; x++, a += channels, to += channels) {
      const uint8_t *b = spread(step, other_pixel(context, step, y, x), eq_scratch(context, step));
      eq_set_of(step)->add_bytes(step, a, b, to, channels);
    }
  }
}

/* As ONNX Runtime multiplies: one fused product and sum behind the exact product of the codes. */
void eq_multiply(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  float ratio = step->from_scale * step->other_scale / step->to_scale;
  int32_t y, x, c;
  for (y = begin; y < end; y++) {
    const uint8_t *a = eq_row_from(context, step, y, row_of(step));
    uint8_t *to = eq_row_to(context, step, y, row_of(step));
    for (x = 0; x < step->out_columns; x++, a += step->out_channels, to += step->out_channels) {
      const uint8_t *b = other_pixel(context, step, y, x);
      for (c = 0; c < step->out_channels; c++, b += step->groups) {
        int32_t product = (a[c] - step->from_zero) * (*b - step->other_zero);
        float value;
        if (step->flags & EQ_INTEGER) {
          to[c] = eq_requantize_integer(product, ratio, step->to_zero, 0, 255);
          continue;
        }
        value = eq_within((float)((double)ratio * product + step->to_zero), 0.0f, 255.0f);
        to[c] = (uint8_t)(int32_t)((value + EQ_ROUND) - EQ_ROUND);
      }
    }
  }
}

void eq_table(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  const uint8_t *codes = context->weights + step->weights;
  size_t i, row = row_of(step);
  int32_t y;
  for (y = begin; y < end; y++) {
    const uint8_t *from = eq_row_from(context, step, y, row);
    uint8_t *to = eq_row_to(context, step, y, row);
    for (i = 0; i < row; i++) to[i] = codes[from[i]];
  }
}

/* --- windows ------------------------------------------------------------------------------------------------------ */

void eq_max_pool(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  size_t pixel = (size_t)step->channels, row = (size_t)step->columns * pixel;
  int32_t y, x, ky, kx, c;
  for (y = begin; y < end; y++) {
    uint8_t *to = eq_row_to(context, step, y, row_of(step));
    for (x = 0; x < step->out_columns; x++, to += pixel) {
      memset(to, 0, pixel);
      for (ky = 0; ky < step->kernel_rows; ky++) {
        int32_t from_y = y * step->stride_rows - step->above + ky * step->dilation_rows;
        if (from_y < 0 || from_y >= step->rows) continue;
        for (kx = 0; kx < step->kernel_columns; kx++) {
          int32_t from_x = x * step->stride_columns - step->left + kx * step->dilation_columns;
          const uint8_t *from;
          if (from_x < 0 || from_x >= step->columns) continue;
          from = eq_row_from(context, step, from_y, row) + (size_t)from_x * pixel;
          for (c = 0; c < step->channels; c++) to[c] = to[c] > from[c] ? to[c] : from[c];
        }
      }
    }
  }
}

/* As ONNX Runtime pools: the sum, the mean and its quotient in float, and the zero added before it is rounded. */
void eq_average_pool(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  size_t pixel = (size_t)step->channels, row = (size_t)step->columns * pixel;
  float *sums = (float *)(void *)eq_scratch(context, step);
  int32_t y, x, ky, kx, c;
  for (y = begin; y < end; y++) {
    uint8_t *to = eq_row_to(context, step, y, row_of(step));
    for (x = 0; x < step->out_columns; x++, to += pixel) {
      int32_t count = 0;
      for (c = 0; c < step->channels; c++) sums[c] = 0.0f;
      for (ky = 0; ky < step->kernel_rows; ky++) {
        int32_t from_y = y * step->stride_rows - step->above + ky;
        if (from_y < 0 || from_y >= step->rows) continue;
        for (kx = 0; kx < step->kernel_columns; kx++) {
          int32_t from_x = x * step->stride_columns - step->left + kx;
          const uint8_t *from;
          if (from_x < 0 || from_x >= step->columns) continue;
          from = eq_row_from(context, step, from_y, row) + (size_t)from_x * pixel;
          for (c = 0; c < step->channels; c++) sums[c] += step->from_scale * (float)(from[c] - step->from_zero);
          count++;
        }
      }
      if (step->flags & EQ_COUNT_PADDING) count = step->kernel_rows * step->kernel_columns;
      for (c = 0; c < step->channels; c++) {
        float value = sums[c] / (float)count / step->to_scale + (float)step->to_zero;
        value = eq_within(value, (float)step->least, (float)step->most);
        to[c] = (uint8_t)(int32_t)((value + EQ_ROUND) - EQ_ROUND);
      }
    }
  }
}

/* The sums over all pixels of `channels` neighbours. */
static inline void sums_of(const int32_t channels, const uint8_t *from, int32_t pixels, int32_t pixel, int32_t *sums) {
  int32_t i, c;
  for (i = 0; i < pixels; i++, from += pixel)
    for (c = 0; c < channels; c++) sums[c] += from[c];
}

/* One pixel of a whole map. */
void eq_global_average(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  const uint8_t *from = context->arena + step->from;
  int32_t pixels = step->rows * step->columns, first, c;
  float multiplier = step->from_scale / (step->to_scale * (float)pixels);
  (void)begin;
  (void)end;
  for (first = 0; first < step->channels; first += EQ_LANES) {
    int32_t count = eq_least(EQ_LANES, step->channels - first), sums[EQ_LANES];
    for (c = 0; c < EQ_LANES; c++) sums[c] = -step->from_zero * pixels;
    if (count == EQ_LANES)
      sums_of(EQ_LANES, from + first, pixels, step->channels, sums);
    else
      sums_of(count, from + first, pixels, step->channels, sums);
    for (c = 0; c < count; c++)
      context->arena[step->to + first + c] = eq_requantize(sums[c], multiplier, step->to_zero, step->least, step->most);
  }
}

/* --- moves -------------------------------------------------------------------------------------------------------- */

/* At `weights`: how many dimensions, their sizes, and how many elements apart neighbours are, where they come from and
 * where they go. The elements of the last dimension lie beside each other if both are 1. */
void eq_move(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  const int32_t *about = (const int32_t *)(const void *)(context->weights + step->weights);
  int32_t count = about[0], last = count - 1, size = step->flags & EQ_FLOATS ? 4 : 1, at[EQ_DIMENSIONS] = {0}, i, d;
  const int32_t *sizes = about + 1, *from_strides = sizes + count, *to_strides = from_strides + count;
  const uint8_t *from = eq_source(context, step->from);
  uint8_t *to = context->arena + step->to;
  (void)begin;
  (void)end;
  for (;;) {
    if (from_strides[last] == 1 && to_strides[last] == 1)
      memcpy(to, from, (size_t)(sizes[last] * size));
    else
      for (i = 0; i < sizes[last]; i++)
        memcpy(to + (ptrdiff_t)i * to_strides[last] * size, from + (ptrdiff_t)i * from_strides[last] * size, (size_t)size);
    for (d = last - 1; d >= 0; d--) {
      from += (ptrdiff_t)from_strides[d] * size;
      to += (ptrdiff_t)to_strides[d] * size;
      if (++at[d] < sizes[d]) break;
      from -= (ptrdiff_t)from_strides[d] * sizes[d] * size;
      to -= (ptrdiff_t)to_strides[d] * sizes[d] * size;
      at[d] = 0;
    }
    if (d < 0) return;
  }
}

/* Blocks of `columns` bytes, each of which is the one of `from` that the list at `weights` says; for each of `rows`. */
void eq_gather(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  const int32_t *indices = (const int32_t *)(const void *)(context->weights + step->weights);
  size_t block = (size_t)step->columns;
  int32_t y, i;
  for (y = begin; y < end; y++)
    for (i = 0; i < step->out_channels; i++)
      memcpy(context->arena + step->to + ((size_t)y * (size_t)step->out_channels + (size_t)i) * block,
             context->arena + step->from + ((size_t)y * (size_t)step->channels + (size_t)indices[i]) * block, block);
}

/* Every pixel with the `channels` bytes at `weights`. */
void eq_fill(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  uint8_t *to = context->arena + step->to + (size_t)begin * row_of(step);
  int32_t i;
  for (i = 0; i < (end - begin) * step->out_columns; i++, to += step->out_channels)
    memcpy(to, context->weights + step->weights, (size_t)step->out_channels);
}
