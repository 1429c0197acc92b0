/* The inner loops for WebAssembly with vectors of 128 bits, and with relaxed ones where the compiler may use them. */
#include "trellis.h"

#ifdef EQ_SIMD128

#include <string.h>
#include <wasm_simd128.h>

#define INLINE static inline __attribute__((always_inline)) /* with constants that loops are unrolled by */

typedef v128_t vector;

#define PIXELS 4    /* whose sums stay in registers */
#define CHANNELS 64 /* of a unit, at most */

/* --- sums to codes ------------------------------------------------------------------------------------------------ */

#define ROUNDED 0x4b400000 /* EQ_ROUND as an int32: the last bits of what it is added to are a whole number */

/* What floats become codes by. */
typedef struct {
  vector low, high, moved;
} limits;

INLINE limits limits_of(int32_t zero, int32_t least, int32_t most) {
  limits found;
  found.low = wasm_f32x4_splat((float)(least - zero));
  found.high = wasm_f32x4_splat((float)(most - zero));
  found.moved = wasm_i32x4_splat(ROUNDED - zero);
  return found;
}

/* Four floats as codes: the larger of a bound and no number is the bound. */
INLINE vector codes_of(vector values, const limits *by) {
  values = wasm_f32x4_pmin(by->high, wasm_f32x4_pmax(by->low, values));
  return wasm_i32x4_sub(wasm_f32x4_add(values, wasm_f32x4_splat(EQ_ROUND)), by->moved);
}

INLINE vector bytes_of(const vector *codes) {
  return wasm_u8x16_narrow_i16x8(wasm_i16x8_narrow_i32x4(codes[0], codes[1]), wasm_i16x8_narrow_i32x4(codes[2], codes[3]));
}

INLINE vector scaled(vector sums, const float *multipliers) {
  return wasm_f32x4_mul(wasm_f32x4_convert_i32x4(sums), wasm_v128_load(multipliers));
}

/* Four channels of some pixels, from `channel` on; `at` is the place of the first pixel's first among the
 * elements of `outputs`. */
INLINE void write(const int32_t pixels, const eq_unit *unit, const limits *by, const vector *sums, int32_t channel,
                  void *outputs, size_t at, size_t out_stride) {
  const float *multipliers = unit->multipliers + channel;
  int32_t m, i;
  at += (size_t)channel;
  if (unit->channels - channel < 4) {
    for (m = 0; m < pixels; m++, at += out_stride) {
      int32_t whole[4];
      wasm_v128_store(whole, sums[m]);
      for (i = 0; i < unit->channels - channel; i++)
        if (unit->offsets)
          ((float *)outputs)[at + (size_t)i] = (float)whole[i] * multipliers[i] + unit->offsets[channel + i];
        else
          ((uint8_t *)outputs)[at + (size_t)i] = eq_requantize(whole[i], multipliers[i], unit->zero, unit->least, unit->most);
    }
  } else if (unit->offsets) {
    for (m = 0; m < pixels; m++, at += out_stride)
      wasm_v128_store((float *)outputs + at, wasm_f32x4_add(scaled(sums[m], multipliers), wasm_v128_load(unit->offsets + channel)));
  } else {
    vector codes[PIXELS], bytes;
    for (m = 0; m < PIXELS; m++) codes[m] = m < pixels ? codes_of(scaled(sums[m], multipliers), by) : codes[0];
    bytes = bytes_of(codes);
    wasm_v128_store32_lane((uint8_t *)outputs + at, bytes, 0);
    if (pixels == 1) return;
    wasm_v128_store32_lane((uint8_t *)outputs + at + out_stride, bytes, 1);
    wasm_v128_store32_lane((uint8_t *)outputs + at + 2 * out_stride, bytes, 2);
    wasm_v128_store32_lane((uint8_t *)outputs + at + 3 * out_stride, bytes, 3);
  }
}

/* --- rows of products --------------------------------------------------------------------------------------------- */

#define DEEPEST 4608 /* inputs that there is room for; more of them are rare */

/* Bytes are widened to 16 bits, as products of pairs of those are added in one instruction. */
INLINE void widen(const uint8_t *from, int32_t count, int16_t *to) {
  int32_t i;
  for (i = 0; i + 8 <= count; i += 8) wasm_v128_store(to + i, wasm_u16x8_load8x8(from + i));
  if (i < count) wasm_v128_store64_lane(to + i, wasm_u16x8_extend_low_u8x16(wasm_v128_load32_zero(from + i)), 0);
}

/* Four channels of pixels that lie in `wide`. */
INLINE void tile(const int32_t pixels, const eq_unit *unit, const limits *by, int32_t channel, const int32_t *biases,
                 const int16_t *wide, void *outputs, size_t at, size_t out_stride) {
  const int8_t *weights = unit->weights + channel * EQ_DEPTH;
  int32_t next = eq_up_to(unit->channels, EQ_LANES) * EQ_DEPTH, depth = unit->depth, k, m;
  vector low[PIXELS], high[PIXELS];
  for (m = 0; m < pixels; m++) low[m] = high[m] = wasm_i32x4_splat(0);
  for (k = 0; k < depth; k += EQ_DEPTH, weights += next) {
    vector four = wasm_v128_load(weights), a = wasm_i16x8_extend_low_i8x16(four), b = wasm_i16x8_extend_high_i8x16(four);
    for (m = 0; m < pixels; m++) {
      vector bytes = wasm_v128_load64_splat(wide + m * depth + k);
      low[m] = wasm_i32x4_add(low[m], wasm_i32x4_dot_i16x8(bytes, a));
      high[m] = wasm_i32x4_add(high[m], wasm_i32x4_dot_i16x8(bytes, b));
    }
  }
  for (m = 0; m < pixels; m++)
    low[m] = wasm_i32x4_add(wasm_i32x4_add(wasm_i32x4_shuffle(low[m], high[m], 0, 2, 4, 6),
                                           wasm_i32x4_shuffle(low[m], high[m], 1, 3, 5, 7)),
                            wasm_v128_load(biases + channel));
  write(pixels, unit, by, low, channel, outputs, at, out_stride);
}

INLINE void multiply(const int32_t pixels, const eq_unit *unit, const limits *by, const int32_t *biases,
                     const uint8_t *inputs, size_t stride, void *outputs, size_t at, size_t out_stride) {
  int16_t wide[PIXELS * DEEPEST];
  int32_t m, c;
  for (m = 0; m < pixels; m++) widen(inputs + (size_t)m * stride, unit->depth, wide + m * unit->depth);
  for (c = 0; c < unit->channels; c += 4) tile(pixels, unit, by, c, biases, wide, outputs, at, out_stride);
}

#ifdef __wasm_relaxed_simd__

/* Products of signed bytes and of numbers within 0..127 are added by fours: of bytes less 128, and of weights plus 64.
 * A sum has then 64 times the bytes less 128 too much, and 128 times the weights too little. */
#define LESS 128
#define PLUS 64
#define SHALLOW 64 /* inputs, below which what is too much and too little takes longer than it saves */

INLINE vector by_fours(vector bytes) {
  return wasm_i32x4_extadd_pairwise_i16x8(wasm_i16x8_extadd_pairwise_i8x16(bytes));
}

/* Bytes less 128. Returns their sum. */
INLINE int32_t move_bytes(const uint8_t *from, int32_t count, int8_t *to) {
  vector sums = wasm_i32x4_splat(0);
  int32_t i;
  for (i = 0; i + 16 <= count; i += 16) {
    vector moved = wasm_v128_xor(wasm_v128_load(from + i), wasm_i8x16_splat(-LESS));
    wasm_v128_store(to + i, moved);
    sums = wasm_i32x4_add(sums, by_fours(moved));
  }
  for (; i < count; i += EQ_DEPTH) {
    vector moved = wasm_v128_xor(wasm_v128_load32_zero(from + i), wasm_u32x4_make(0x80808080u, 0, 0, 0));
    wasm_v128_store32_lane(to + i, moved, 0);
    sums = wasm_i32x4_add(sums, by_fours(moved));
  }
  return wasm_i32x4_extract_lane(sums, 0) + wasm_i32x4_extract_lane(sums, 1) + wasm_i32x4_extract_lane(sums, 2) +
         wasm_i32x4_extract_lane(sums, 3);
}

INLINE vector weights_plus(const int8_t *weights) {
  return wasm_i8x16_add(wasm_v128_load(weights), wasm_i8x16_splat(PLUS));
}

/* Eight channels of PIXELS pixels that lie in `moved`, whose sums are `totals`. */
INLINE void relaxed_tile(const eq_unit *unit, const limits *by, int32_t channel, const int32_t *biases,
                         const int8_t *moved, const int32_t *totals, void *outputs, size_t at, size_t out_stride) {
  const int8_t *weights = unit->weights + channel * EQ_DEPTH;
  int32_t next = eq_up_to(unit->channels, EQ_LANES) * EQ_DEPTH, depth = unit->depth, k, m, i;
  vector sums[2][PIXELS];
  for (m = 0; m < PIXELS; m++)
    for (i = 0; i < 2; i++)
      sums[i][m] = wasm_i32x4_sub(wasm_v128_load(biases + channel + 4 * i), wasm_i32x4_splat(PLUS * totals[m]));
  for (k = 0; k < depth; k += EQ_DEPTH, weights += next) {
    vector a = weights_plus(weights), b = weights_plus(weights + 16);
    for (m = 0; m < PIXELS; m++) {
      vector bytes = wasm_v128_load32_splat(moved + m * depth + k);
      sums[0][m] = wasm_i32x4_relaxed_dot_i8x16_i7x16_add(bytes, a, sums[0][m]);
      sums[1][m] = wasm_i32x4_relaxed_dot_i8x16_i7x16_add(bytes, b, sums[1][m]);
    }
  }
  write(PIXELS, unit, by, sums[0], channel, outputs, at, out_stride);
  if (unit->channels - channel > 4) write(PIXELS, unit, by, sums[1], channel + 4, outputs, at, out_stride);
}

/* Biases with what sums have too little. */
static void relaxed_biases(const eq_unit *unit, const int32_t *biases, int32_t *made) {
  int32_t lanes = eq_up_to(unit->channels, EQ_LANES), c, k;
  for (c = 0; c < lanes; c += 4) {
    vector sums = wasm_i32x4_splat(0);
    for (k = 0; k < unit->depth; k += EQ_DEPTH)
      sums = wasm_i32x4_add(sums, by_fours(wasm_v128_load(unit->weights + k * lanes + c * EQ_DEPTH)));
    wasm_v128_store(made + c, wasm_i32x4_add(wasm_v128_load(biases + c), wasm_i32x4_mul(sums, wasm_i32x4_splat(LESS))));
  }
}

/* All pixels but the last few, of which there is no block. Returns how many. */
static int32_t relaxed_rows(const eq_unit *unit, const limits *by, const int32_t *biases, const uint8_t *inputs,
                            size_t stride, int32_t count, void *outputs, size_t out_stride) {
  int8_t moved[PIXELS * DEEPEST];
  int32_t own[CHANNELS], totals[PIXELS], at, m, c;
  if (!unit->small || unit->depth < SHALLOW || count < PIXELS) return 0;
  relaxed_biases(unit, biases, own);
  for (at = 0; at + PIXELS <= count; at += PIXELS, inputs += PIXELS * stride) {
    for (m = 0; m < PIXELS; m++)
      totals[m] = move_bytes(inputs + (size_t)m * stride, unit->depth, moved + m * unit->depth);
    for (c = 0; c < unit->channels; c += 8)
      relaxed_tile(unit, by, c, own, moved, totals, outputs, (size_t)at * out_stride, out_stride);
  }
  return at;
}

#endif

static void multiply_rows(const eq_unit *unit, const uint8_t *inputs, size_t stride, int32_t count, void *outputs,
                          size_t out_stride) {
  const limits by = limits_of(unit->zero, unit->least, unit->most);
  int32_t biases[CHANNELS] = {0}, at = 0;
  if (unit->depth > DEEPEST) {
    eq_portable.multiply_rows(unit, inputs, stride, count, outputs, out_stride);
    return;
  }
  memcpy(biases, unit->biases, (size_t)unit->channels * sizeof *biases);
#ifdef __wasm_relaxed_simd__
  at = relaxed_rows(unit, &by, biases, inputs, stride, count, outputs, out_stride);
#endif
  for (; at + PIXELS <= count; at += PIXELS)
    multiply(PIXELS, unit, &by, biases, inputs + (size_t)at * stride, stride, outputs, (size_t)at * out_stride, out_stride);
  for (; at < count; at++)
    multiply(1, unit, &by, biases, inputs + (size_t)at * stride, stride, outputs, (size_t)at * out_stride, out_stride);
}

/* --- packed weights ----------------------------------------------------------------------------------------------- */

/* Levels by windows, in loops of their own for each K. */
INLINE void decode_rows(const int32_t weights_a_byte, const eq_packed *packed, int32_t groups, int8_t *levels) {
  const eq_steps by = eq_steps_of(weights_a_byte);
  int32_t lanes = packed->lanes, group, lane, i, j, k;
  for (group = 0; group < groups; group++, levels += lanes * EQ_DEPTH) {
    const uint8_t *bytes = packed->bytes + (ptrdiff_t)group * packed->pitch;
    int32_t place = packed->place;
    for (lane = 0; lane < packed->channels; lane += weights_a_byte, bytes += EQ_DEPTH) {
      const uint8_t *before = place > 0 ? bytes - EQ_DEPTH : bytes + EQ_DEPTH * (packed->length - 1);
      if (++place == packed->length) place = 0;
      for (i = 0; i < EQ_DEPTH; i++) {
        const int8_t *windows = packed->windows;
        int32_t both = before[i] << 8 | bytes[i], left = 8;
        int8_t *to = levels + lane * EQ_DEPTH + i;
        for (j = 0; j < by.steps; j++) {
          int32_t values = EQ_NODES << by.bits[j];
          left -= by.bits[j];
          for (k = 0; k < by.levels[j]; k++, to += EQ_DEPTH)
            *to = windows[(both >> left & (values - 1)) * by.levels[j] + k];
          windows += values * by.levels[j];
        }
      }
    }
    for (i = EQ_DEPTH * packed->channels; i < EQ_DEPTH * lanes; i++) levels[i] = 0;
  }
}

static void decode(const eq_packed *packed, int32_t groups, int8_t *levels) {
  int32_t size = packed->channels * EQ_DEPTH, room = packed->lanes * EQ_DEPTH, group;
  int whole = packed->windows && packed->lead == 0 && packed->channels % packed->weights_a_byte == 0;
  if (packed->weights_a_byte == 1)
    for (group = 0; group < groups; group++, levels += room) {
      memcpy(levels, packed->bytes + (ptrdiff_t)group * packed->pitch, (size_t)size);
      memset(levels + size, 0, (size_t)(room - size));
    }
  else if (!whole)
    eq_portable.decode(packed, groups, levels);
  else if (packed->weights_a_byte == 2)
    decode_rows(2, packed, groups, levels);
  else if (packed->weights_a_byte == 3)
    decode_rows(3, packed, groups, levels);
  else
    decode_rows(4, packed, groups, levels);
}

/* --- each channel by itself --------------------------------------------------------------------------------------- */

#define TAPS 64 /* of a kernel; larger ones are rare */

/* Sixteen channels of one pixel: products of pairs of taps are added in one instruction. */
INLINE void depthwise_pixel(const uint8_t *const *taps, ptrdiff_t moved, int32_t pairs, const int16_t *weights,
                                   vector *sums) {
  int32_t t, j;
  for (t = 0; t < pairs; t++, taps += 2, weights += 32) {
    vector a = wasm_v128_load(taps[0] + moved), b = wasm_v128_load(taps[1] + moved), both[4];
    vector low = wasm_i8x16_shuffle(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    vector high = wasm_i8x16_shuffle(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    both[0] = wasm_u16x8_extend_low_u8x16(low);
    both[1] = wasm_u16x8_extend_high_u8x16(low);
    both[2] = wasm_u16x8_extend_low_u8x16(high);
    both[3] = wasm_u16x8_extend_high_u8x16(high);
    for (j = 0; j < 4; j++)
      sums[j] = wasm_i32x4_add(sums[j], wasm_i32x4_dot_i16x8(both[j], wasm_v128_load(weights + 8 * j)));
  }
}

/* Weights of the sixteen channels from `first` on, of [block][tap][lane], as pairs of taps: [pair][lane][2]. */
static void pair_taps(const int8_t *weights, int32_t first, int32_t taps, int16_t *pairs) {
  int32_t t, i;
  for (i = 0; i < EQ_LANES; i++) {
    const int8_t *own = weights + (first + i) / EQ_LANES * EQ_LANES * taps + (first + i) % EQ_LANES;
    for (t = 0; t < taps; t++) pairs[t / 2 * 32 + 2 * i + t % 2] = own[t * EQ_LANES];
    if (taps % 2) pairs[taps / 2 * 32 + 2 * i + 1] = 0;
  }
}

/* Where the taps of output column `x` are. */
static void taps_of(const eq_step *step, const uint8_t *const *rows, int32_t x, int32_t first, const uint8_t *outside,
                    const uint8_t **taps) {
  int32_t left = x * step->stride_columns - step->left, ky, kx;
  for (ky = 0; ky < step->kernel_rows; ky++)
    for (kx = 0; kx < step->kernel_columns; kx++) {
      int32_t at = left + kx * step->dilation_columns;
      *taps++ = at < 0 || at >= step->columns ? outside : rows[ky * step->dilation_rows] + (ptrdiff_t)at * step->channels + first;
    }
  *taps = taps[-1]; /* which makes the last pair whole, and has no weight */
}

/* The first columns whose kernels are within the map from left to right, and the first behind them. */
static void inside(const eq_step *step, int32_t *begin, int32_t *end) {
  int32_t last = step->columns + step->left - (step->kernel_columns - 1) * step->dilation_columns - 1;
  *begin = eq_least((step->left + step->stride_columns - 1) / step->stride_columns, step->out_columns);
  *end = last < 0 ? *begin : eq_least(last / step->stride_columns + 1, step->out_columns);
  if (*end < *begin) *end = *begin;
}

static void depthwise_block(const eq_step *step, const uint8_t *const *rows, int32_t count, int32_t first,
                            const int16_t *weights, const int32_t *biases, const float *multipliers, uint8_t *outputs) {
  const int32_t pairs = (step->kernel_rows * step->kernel_columns + 1) / 2, pixel = step->channels;
  const ptrdiff_t moved = (ptrdiff_t)step->stride_columns * pixel;
  const limits by = limits_of(step->to_zero, step->least, step->most);
  const uint8_t *taps[TAPS + 1];
  uint8_t outside[EQ_LANES];
  int32_t begin, end, x, j;
  memset(outside, step->from_zero, sizeof outside);
  inside(step, &begin, &end);
  for (; count > 0; count--, rows += step->stride_rows, outputs += step->out_columns * pixel)
    for (x = 0; x < step->out_columns; x++) {
      int32_t further = x > begin && x < end; /* than the column whose taps were found last */
      vector sums[4];
      for (j = 0; j < 4; j++) sums[j] = wasm_v128_load(biases + first + 4 * j);
      if (!further) taps_of(step, rows, x, first, outside, taps);
      depthwise_pixel(taps, further ? (x - begin) * moved : 0, pairs, weights, sums);
      for (j = 0; j < 4; j++) sums[j] = codes_of(scaled(sums[j], multipliers + first + 4 * j), &by);
      wasm_v128_store(outputs + (ptrdiff_t)x * pixel + first, bytes_of(sums));
    }
}

/* The last block has the last sixteen channels, some of which the one before may have made. */
static void depthwise_rows(const eq_step *step, const uint8_t *const *rows, int32_t count, const int8_t *weights,
                           const int32_t *biases, const float *multipliers, uint8_t *outputs) {
  int32_t taps = step->kernel_rows * step->kernel_columns, first;
  int16_t pairs[TAPS * EQ_LANES];
  if (step->channels < EQ_LANES || taps > TAPS) {
    eq_portable.depthwise_rows(step, rows, count, weights, biases, multipliers, outputs);
    return;
  }
  for (first = 0; first < step->channels; first += EQ_LANES) {
    int32_t from = eq_least(first, step->channels - EQ_LANES);
    pair_taps(weights, from, taps, pairs);
    depthwise_block(step, rows, count, from, pairs, biases, multipliers, outputs);
  }
}

/* --- values one by one -------------------------------------------------------------------------------------------- */

/* As the portable loop: products of floats are exact in double. Two values of four. */
INLINE vector fused(vector codes, vector ratio, vector added) {
  return wasm_f32x4_demote_f64x2_zero(wasm_f64x2_add(wasm_f64x2_mul(ratio, wasm_f64x2_convert_low_i32x4(codes)), added));
}

INLINE vector added(vector a, vector b, vector of_a, vector of_b, vector fixed) {
  return fused(a, of_a, wasm_f64x2_promote_low_f32x4(fused(b, of_b, fixed)));
}

static void add_bytes(const eq_step *step, const uint8_t *a, const uint8_t *b, uint8_t *sum, int32_t count) {
  float ratio = step->from_scale / step->to_scale, other_ratio = step->other_scale / step->to_scale;
  float moved = other_ratio * (float)step->other_zero;
  float fixed = (float)step->to_zero - (float)((double)ratio * step->from_zero + (double)moved);
  const vector of_a = wasm_f64x2_splat(ratio), of_b = wasm_f64x2_splat(other_ratio), start = wasm_f64x2_splat(fixed);
  const limits by = limits_of(0, 0, 255);
  int32_t i = 0, j;
  for (; i + 16 <= count; i += 16) {
    vector codes[4];
    for (j = 0; j < 4; j++) {
      vector x = wasm_u32x4_extend_low_u16x8(wasm_u16x8_extend_low_u8x16(wasm_v128_load32_zero(a + i + 4 * j)));
      vector y = wasm_u32x4_extend_low_u16x8(wasm_u16x8_extend_low_u8x16(wasm_v128_load32_zero(b + i + 4 * j)));
      vector low = added(x, y, of_a, of_b, start);
      vector high = added(wasm_i32x4_shuffle(x, x, 2, 3, 2, 3), wasm_i32x4_shuffle(y, y, 2, 3, 2, 3), of_a, of_b, start);
      codes[j] = codes_of(wasm_i32x4_shuffle(low, high, 0, 1, 4, 5), &by);
    }
    wasm_v128_store(sum + i, bytes_of(codes));
  }
  eq_portable.add_bytes(step, a + i, b + i, sum + i, count - i);
}

static void quantize_pixels(const eq_step *step, const float *values, int32_t plane, int32_t begin, int32_t end,
                            uint8_t *codes) {
  const vector scale = wasm_f32x4_splat(step->to_scale);
  const limits by = limits_of(step->to_zero, 0, 255);
  int32_t i = begin, c, j;
  for (; i + 16 <= end; i += 16, codes += 16 * step->channels)
    for (c = 0; c < step->channels; c++) {
      const float *from = values + (size_t)c * (size_t)plane + i;
      uint8_t made[16], *to = codes + c;
      vector found[4];
      for (j = 0; j < 4; j++) found[j] = codes_of(wasm_f32x4_div(wasm_v128_load(from + 4 * j), scale), &by);
      wasm_v128_store(made, bytes_of(found));
      for (j = 0; j < 16; j++, to += step->channels) *to = made[j];
    }
  eq_portable.quantize_pixels(step, values, plane, i, end, codes);
}

const eq_primitives eq_simd128 = {"simd128", multiply_rows, depthwise_rows, decode, add_bytes, quantize_pixels};

#endif
