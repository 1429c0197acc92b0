/* The inner loops for x86 processors with AVX-512, VNNI and VBMI. */
#include "trellis.h"

#ifdef EQ_X86

#if defined(__cplusplus) && !defined(__clang__) /* of gcc's own header */
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>
#include <string.h>

#define FEATURES "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi"
#define HERE __attribute__((target(FEATURES)))
#define INLINE static inline __attribute__((always_inline, target(FEATURES)))

/* A vector is in a register at this point: without it, gcc moves sums to memory and back. */
#define STAY(vector) __asm__("" : "+v"(vector))

#define WIDTH 16 /* channels whose sums are in a vector */

typedef __m512i vector;

INLINE vector load(const void *from) {
  return _mm512_loadu_si512(from);
}

INLINE vector four_bytes(const uint8_t *from) {
  int32_t bytes;
  memcpy(&bytes, from, 4);
  return _mm512_set1_epi32(bytes);
}

/* The first `count` lanes, of bytes and of numbers. */
INLINE __mmask64 bytes_below(int32_t count) {
  return count >= 64 ? ~(__mmask64)0 : count <= 0 ? 0 : ((__mmask64)1 << count) - 1;
}

INLINE __mmask16 lanes_below(int32_t count) {
  return (__mmask16)(count >= 16 ? 0xffff : count <= 0 ? 0 : (1 << count) - 1);
}

/* --- sums to codes ------------------------------------------------------------------------------------------------ */

typedef struct {
  vector zero, least, most;
} range;

INLINE range range_of(int32_t zero, int32_t least, int32_t most) {
  range made;
  made.zero = _mm512_set1_epi16((int16_t)zero);
  made.least = _mm512_set1_epi8((char)least);
  made.most = _mm512_set1_epi8((char)most);
  return made;
}

/* Of multipliers below 1, whose products are integers of 32 bits. */
INLINE vector rounded(vector sums, __m512 multipliers) {
  return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(sums), multipliers));
}

/* Whether all of `count` multipliers are below 1: they are, where a layer's codes do not have finer steps than its
 * products. */
HERE static int below_one(const float *multipliers, int32_t count) {
  const __m512 one = _mm512_set1_ps(1);
  int32_t i;
  for (i = 0; i < count; i += WIDTH) {
    __mmask16 mask = lanes_below(count - i);
    if (_mm512_mask_cmp_ps_mask(mask, _mm512_maskz_loadu_ps(mask, multipliers + i), one, _CMP_NLT_UQ)) return 0;
  }
  return 1;
}

/* Four vectors to bytes: of each quarter of the vectors in turn. Whatever is too low or too high saturates. */
INLINE vector codes(const range *to, const vector *four) {
  vector low = _mm512_adds_epi16(_mm512_packs_epi32(four[0], four[1]), to->zero);
  vector high = _mm512_adds_epi16(_mm512_packs_epi32(four[2], four[3]), to->zero);
  return _mm512_min_epu8(_mm512_max_epu8(_mm512_packus_epi16(low, high), to->least), to->most);
}

/* The first `count` of the `parts` of a vector of bytes, `apart` bytes apart. */
INLINE void store_parts(const int parts, const int count, uint8_t *to, ptrdiff_t apart, __mmask64 mask, vector made) {
  if (parts == 1) _mm512_mask_storeu_epi8(to, mask, made);
  if (parts == 2) _mm256_mask_storeu_epi8(to, (__mmask32)mask, _mm512_castsi512_si256(made));
  if (parts == 2 && count > 1)
    _mm256_mask_storeu_epi8(to + apart, (__mmask32)mask, _mm512_extracti64x4_epi64(made, 1));
  if (parts < 4) return;
  _mm_mask_storeu_epi8(to, (__mmask16)mask, _mm512_castsi512_si128(made));
  if (count > 1) _mm_mask_storeu_epi8(to + apart, (__mmask16)mask, _mm512_extracti32x4_epi32(made, 1));
  if (count > 2) _mm_mask_storeu_epi8(to + 2 * apart, (__mmask16)mask, _mm512_extracti32x4_epi32(made, 2));
  if (count > 3) _mm_mask_storeu_epi8(to + 3 * apart, (__mmask16)mask, _mm512_extracti32x4_epi32(made, 3));
}

/* --- rows of products --------------------------------------------------------------------------------------------- */

#define PIXELS 7 /* pixels and vectors of channels that are computed at once, at most: sums stay in registers */
#define VECTORS 4

/* Which channels of a unit there are. */
typedef struct {
  __mmask16 of_vector[VECTORS];
  __mmask64 bytes;
} present;

/* All channels of a unit, in `vectors`, of `pixels` pixels. */
INLINE void tile(const int pixels, const int vectors, const eq_unit *unit, const present *channels,
                 const uint8_t *inputs, size_t stride, void *outputs, size_t out_stride) {
  const __mmask16 *mask = channels->of_vector;
  const int8_t *weights = unit->weights;
  vector sums[PIXELS][VECTORS];
  int32_t k;
  int m, j;
  for (j = 0; j < vectors; j++) {
    sums[0][j] = _mm512_maskz_loadu_epi32(mask[j], unit->biases + WIDTH * j);
    for (m = 1; m < pixels; m++) sums[m][j] = sums[0][j];
  }
  for (k = 0; k < unit->depth; k += EQ_DEPTH, weights += 64 * vectors)
    for (m = 0; m < pixels; m++) {
      vector bytes = four_bytes(inputs + (size_t)m * stride + k);
      for (j = 0; j < vectors; j++) {
        sums[m][j] = _mm512_dpbusd_epi32(sums[m][j], bytes, load(weights + 64 * j));
        STAY(sums[m][j]);
      }
    }
  if (unit->offsets) {
    for (j = 0; j < vectors; j++) {
      __m512 multipliers = _mm512_maskz_loadu_ps(mask[j], unit->multipliers + WIDTH * j);
      __m512 offsets = _mm512_maskz_loadu_ps(mask[j], unit->offsets + WIDTH * j);
      for (m = 0; m < pixels; m++)
        _mm512_mask_storeu_ps((float *)outputs + (size_t)m * out_stride + WIDTH * j, mask[j],
                              _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sums[m][j]), multipliers), offsets));
    }
  } else {
    const vector order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const int parts = vectors == 1 ? 4 : vectors == 2 ? 2 : 1; /* pixels whose bytes make a vector */
    range to = range_of(unit->zero, unit->least, unit->most);
    for (j = 0; j < vectors; j++) {
      __m512 multipliers = _mm512_maskz_loadu_ps(mask[j], unit->multipliers + WIDTH * j);
      for (m = 0; m < pixels; m++) sums[m][j] = rounded(sums[m][j], multipliers);
    }
    for (m = 0; m < pixels; m += parts) {
      const int here = pixels - m < parts ? pixels - m : parts;
      vector four[4];
      for (j = 0; j < 4; j++) four[j] = j < here * vectors ? sums[m + j / vectors][j % vectors] : sums[m][0];
      store_parts(parts, here, (uint8_t *)outputs + (size_t)m * out_stride, (ptrdiff_t)out_stride, channels->bytes,
                  _mm512_permutexvar_epi32(order, codes(&to, four)));
    }
  }
}

/* All pixels, `pixels` at once; what remains is computed together with some before. */
INLINE void tiles_of(const int pixels, const int vectors, const eq_unit *unit, const present *channels,
                     const uint8_t *inputs, size_t stride, int32_t count, void *outputs, size_t out_stride) {
  size_t out_bytes = out_stride * (unit->offsets ? sizeof(float) : 1);
  int32_t at;
  for (at = 0; at < count; at += pixels) {
    at = eq_least(at, count - pixels);
    tile(pixels, vectors, unit, channels, inputs + (size_t)at * stride, stride,
         (uint8_t *)outputs + (size_t)at * out_bytes, out_stride);
  }
}

INLINE void tiles(const int vectors, const eq_unit *unit, const uint8_t *inputs, size_t stride, int32_t count,
                  void *outputs, size_t out_stride) {
  present channels;
  int j;
  for (j = 0; j < VECTORS; j++) channels.of_vector[j] = lanes_below(unit->channels - WIDTH * j);
  channels.bytes = bytes_below(unit->channels);
  if (count >= PIXELS)
    tiles_of(PIXELS, vectors, unit, &channels, inputs, stride, count, outputs, out_stride);
  else
    tiles_of(1, vectors, unit, &channels, inputs, stride, count, outputs, out_stride);
}

HERE static void multiply_rows(const eq_unit *unit, const uint8_t *inputs, size_t stride, int32_t count, void *outputs,
                               size_t out_stride) {
  if (!unit->offsets && !below_one(unit->multipliers, unit->channels)) {
    eq_avx2.multiply_rows(unit, inputs, stride, count, outputs, out_stride);
    return;
  }
  switch ((unit->channels + WIDTH - 1) / WIDTH) {
  case 1: tiles(1, unit, inputs, stride, count, outputs, out_stride); break;
  case 2: tiles(2, unit, inputs, stride, count, outputs, out_stride); break;
  case 3: tiles(3, unit, inputs, stride, count, outputs, out_stride); break;
  default: tiles(4, unit, inputs, stride, count, outputs, out_stride);
  }
}

/* --- each channel by itself --------------------------------------------------------------------------------------- */

#define BLOCK 64   /* channels */
#define COLUMNS 64 /* of four rows, that are kept */

/* Four rows of BLOCK channels to vectors whose lanes have what the rows have of a channel. */
INLINE void columns_of(const vector *rows, vector *made) {
  vector low = _mm512_unpacklo_epi8(rows[0], rows[1]), high = _mm512_unpackhi_epi8(rows[0], rows[1]);
  vector low_too = _mm512_unpacklo_epi8(rows[2], rows[3]), high_too = _mm512_unpackhi_epi8(rows[2], rows[3]);
  made[0] = _mm512_unpacklo_epi16(low, low_too);
  made[1] = _mm512_unpackhi_epi16(low, low_too);
  made[2] = _mm512_unpacklo_epi16(high, high_too);
  made[3] = _mm512_unpackhi_epi16(high, high_too);
}

/* What a block of channels is multiplied with, in the order that `columns_of` makes. */
typedef struct {
  vector biases[4], multipliers[4], weights[COLUMNS][4];
} filter;

/* The numbers of `count` channels, in each of the `parts` of a block: a vector has four channels of every sixteen. */
INLINE void in_order(const int parts, const void *numbers, int32_t count, vector *made) {
  vector in[4], low, low_too, high, high_too;
  int j;
  for (j = 0; j < 4; j++) {
    int from = j % (4 / parts) * 16;
    in[j] = _mm512_maskz_loadu_epi32(lanes_below(count - from), (const int32_t *)numbers + from);
  }
  low = _mm512_shuffle_i32x4(in[0], in[1], 0x44);
  low_too = _mm512_shuffle_i32x4(in[2], in[3], 0x44);
  high = _mm512_shuffle_i32x4(in[0], in[1], 0xee);
  high_too = _mm512_shuffle_i32x4(in[2], in[3], 0xee);
  made[0] = _mm512_shuffle_i32x4(low, low_too, 0x88);
  made[1] = _mm512_shuffle_i32x4(low, low_too, 0xdd);
  made[2] = _mm512_shuffle_i32x4(high, high_too, 0x88);
  made[3] = _mm512_shuffle_i32x4(high, high_too, 0xdd);
}

INLINE __m128i sixteen(const int8_t *from) {
  return _mm_loadu_si128((const __m128i *)(const void *)from);
}

/* Of `count` channels, which are in each of the `parts` of a block. */
INLINE void filter_of(const int parts, const eq_step *step, const int8_t *weights, const int32_t *biases,
                      const float *multipliers, int32_t count, filter *made) {
  int32_t taps = step->kernel_rows * step->kernel_columns, at = 0, kx, row, i;
  const int8_t *sixteens[4];
  for (i = 0; i < 4; i++) { /* weights of channels that do not exist may be any */
    int32_t from = i % (4 / parts) * EQ_LANES;
    sixteens[i] = weights + (from < count ? from : 0) * taps;
  }
  in_order(parts, biases, count, made->biases);
  in_order(parts, multipliers, count, made->multipliers);
  for (kx = 0; kx < step->kernel_columns; kx++)
    for (row = 0; row < step->kernel_rows; row += 4, at++) {
      vector rows[4];
      for (i = 0; i < 4; i++) {
        int32_t place = EQ_LANES * ((row + i) * step->kernel_columns + kx);
        rows[i] = _mm512_setzero_si512();
        if (row + i < step->kernel_rows) {
          rows[i] = _mm512_castsi128_si512(sixteen(sixteens[0] + place));
          rows[i] = _mm512_inserti32x4(rows[i], sixteen(sixteens[1] + place), 1);
          rows[i] = _mm512_inserti32x4(rows[i], sixteen(sixteens[2] + place), 2);
          rows[i] = _mm512_inserti32x4(rows[i], sixteen(sixteens[3] + place), 3);
        }
      }
      columns_of(rows, made->weights[at]);
    }
}

INLINE vector codes_of(const range *to, const filter *by, const vector *sums) {
  vector made[4];
  int j;
  for (j = 0; j < 4; j++) made[j] = rounded(sums[j], _mm512_castsi512_ps(by->multipliers[j]));
  return codes(to, made);
}

/* The columns `from` to `from + count` of the map, of which some may be outside. */
INLINE void keep(const eq_step *step, const uint8_t *const *rows, int32_t first, int32_t from, int32_t count,
                 vector (*kept)[4]) {
  int32_t groups = (step->kernel_rows + 3) / 4, pixel = step->channels, group, x, i;
  vector outside = _mm512_set1_epi8((char)step->from_zero);
  __mmask64 mask = bytes_below(pixel - first);
  for (group = 0; group < groups; group++) {
    vector(*to)[4] = kept + group;
    const uint8_t *four[4]; /* weights of rows beyond the kernel are 0, so these may be any */
    for (i = 0; i < 4; i++) four[i] = rows[eq_least(4 * group + i, step->kernel_rows - 1) * step->dilation_rows] + first;
    for (x = from; x < from + count; x++, to += groups) {
      vector of[4] = {outside, outside, outside, outside};
      if (x >= 0 && x < step->columns)
        for (i = 0; i < 4; i++) of[i] = _mm512_maskz_loadu_epi8(mask, four[i] + (ptrdiff_t)x * pixel);
      columns_of(of, *to);
    }
  }
}

/* `pixels` neighbours of a row: `kept` are the columns that the first of them reads. */
INLINE void filtered(const int pixels, const eq_step *step, const filter *by, const vector (*kept)[4], const range *to,
                     uint8_t *outputs, __mmask64 mask) {
  int32_t groups = (step->kernel_rows + 3) / 4, ahead = step->stride_columns * groups, kx, group, at = 0;
  vector sums[2][4];
  int m, j;
  for (m = 0; m < pixels; m++)
    for (j = 0; j < 4; j++) sums[m][j] = by->biases[j];
  for (kx = 0; kx < step->kernel_columns; kx++, kept += step->dilation_columns * groups)
    for (group = 0; group < groups; group++, at++)
      for (j = 0; j < 4; j++)
        for (m = 0; m < pixels; m++) {
          sums[m][j] = _mm512_dpbusd_epi32(sums[m][j], kept[group + m * ahead][j], by->weights[at][j]);
          STAY(sums[m][j]);
        }
  for (m = 0; m < pixels; m++)
    _mm512_mask_storeu_epi8(outputs + m * step->channels, mask, codes_of(to, by, sums[m]));
}

/* A kernel of any size. */
INLINE void filter_row(const eq_step *step, const filter *by, const uint8_t *const *rows, int32_t first, int32_t count,
                       const range *to, uint8_t *outputs) {
  int32_t groups = (step->kernel_rows + 3) / 4, extent = (step->kernel_columns - 1) * step->dilation_columns + 1;
  int32_t most = (COLUMNS / groups - extent) / step->stride_columns + 1; /* outputs that the kept columns suffice for */
  int32_t ahead = step->stride_columns * groups, x, i;
  __mmask64 mask = bytes_below(count);
  vector kept[COLUMNS][4];
  for (x = 0; x < step->out_columns; x += most) {
    int32_t pixels = eq_least(most, step->out_columns - x);
    uint8_t *made = outputs + (ptrdiff_t)x * step->channels;
    keep(step, rows, first, x * step->stride_columns - step->left, (pixels - 1) * step->stride_columns + extent, kept);
    for (i = 0; i + 2 <= pixels; i += 2, made += 2 * step->channels)
      filtered(2, step, by, (const vector(*)[4])kept + i * ahead, to, made, mask);
    if (i < pixels) filtered(1, step, by, (const vector(*)[4])kept + i * ahead, to, made, mask);
  }
}

/* Three rows of a block, and what is outside of them. */
typedef struct {
  const uint8_t *rows[3], *outside;
  int32_t columns, channels, apart; /* columns between the parts of a block */
  __mmask64 mask;
} three_rows;

/* Column `x` of them, and those that are the other parts of the block. */
INLINE void column(const int parts, const three_rows *in, int32_t x, vector *made) {
  vector of[4];
  int i, p;
  for (p = 0; p < parts; p++, x += in->apart) {
    int inside = x >= 0 && x < in->columns;
    ptrdiff_t at = (ptrdiff_t)x * in->channels;
    for (i = 0; i < 3; i++) {
      const uint8_t *from = inside ? in->rows[i] + at : in->outside;
      if (parts == 1) of[i] = _mm512_maskz_loadu_epi8(in->mask, from);
      if (parts == 2) {
        __m256i half = _mm256_maskz_loadu_epi8((__mmask32)in->mask, from);
        of[i] = p == 0 ? _mm512_castsi256_si512(half) : _mm512_inserti64x4(of[i], half, 1);
      }
      if (parts == 4) {
        __m128i quarter = _mm_maskz_loadu_epi8((__mmask16)in->mask, from);
        if (p == 0) of[i] = _mm512_castsi128_si512(quarter);
        if (p == 1) of[i] = _mm512_inserti32x4(of[i], quarter, 1);
        if (p == 2) of[i] = _mm512_inserti32x4(of[i], quarter, 2);
        if (p == 3) of[i] = _mm512_inserti32x4(of[i], quarter, 3);
      }
    }
  }
  of[3] = of[2]; /* its weights are 0 */
  columns_of(of, made);
}

/* A kernel of three rows and columns: what its columns read stays in registers from one output to the next. Where
 * channels fill a half or a quarter of a block, it computes that many parts of the row at once. */
INLINE void slide(const int parts, const int stride, const eq_step *step, const filter *by, const uint8_t *const *rows,
                  int32_t first, int32_t count, const range *to, uint8_t *outputs) {
  const int32_t apart = step->out_columns / parts, width = step->out_columns - (parts - 1) * apart, left = step->left;
  const range within = *to;
  vector columns[3][4], outside = _mm512_set1_epi8((char)step->from_zero);
  three_rows in;
  int32_t x;
  int i, j;
  for (i = 0; i < 3; i++) in.rows[i] = rows[i * step->dilation_rows] + first;
  in.outside = (const uint8_t *)&outside;
  in.columns = step->columns;
  in.channels = step->channels;
  in.apart = apart * stride;
  in.mask = bytes_below(count);
  for (i = 0; i < 3 - stride; i++) column(parts, &in, i - left, columns[i]);
  for (x = 0; x < width; x++, outputs += in.channels) {
    vector sums[4];
    for (i = 3 - stride; i < 3; i++) column(parts, &in, x * stride + i - left, columns[i]);
    for (j = 0; j < 4; j++) {
      sums[j] = by->biases[j];
      for (i = 0; i < 3; i++) sums[j] = _mm512_dpbusd_epi32(sums[j], columns[i][j], by->weights[i][j]);
    }
    store_parts(parts, parts, outputs, (ptrdiff_t)apart * in.channels, in.mask, codes_of(&within, by, sums));
    for (i = 0; i < 3 - stride; i++)
      for (j = 0; j < 4; j++) columns[i][j] = columns[i + stride][j];
  }
}

/* A row of a block of channels. */
INLINE void block_row(const int parts, const int three, const eq_step *step, const filter *by,
                      const uint8_t *const *rows, int32_t first, int32_t count, const range *to, uint8_t *outputs) {
  if (!three)
    filter_row(step, by, rows, first, count, to, outputs);
  else if (step->stride_columns == 1)
    slide(parts, 1, step, by, rows, first, count, to, outputs);
  else
    slide(parts, 2, step, by, rows, first, count, to, outputs);
}

INLINE void block_rows(const int parts, const int three, const eq_step *step, const uint8_t *const *rows,
                       int32_t count, const int8_t *weights, const int32_t *biases, const float *multipliers,
                       int32_t first, uint8_t *outputs) {
  int32_t taps = step->kernel_rows * step->kernel_columns, channels = eq_least(BLOCK, step->channels - first), y;
  range to = range_of(step->to_zero, step->least, step->most);
  filter by;
  filter_of(parts, step, weights + (size_t)first * (size_t)taps, biases + first, multipliers + first, channels, &by);
  for (y = 0; y < count; y++, rows += step->stride_rows, outputs += step->out_columns * step->channels)
    block_row(parts, three, step, &by, rows, first, channels, &to, outputs + first);
}

HERE static void depthwise_rows(const eq_step *step, const uint8_t *const *rows, int32_t count, const int8_t *weights,
                                const int32_t *biases, const float *multipliers, uint8_t *outputs) {
  int32_t groups = (step->kernel_rows + 3) / 4, extent = (step->kernel_columns - 1) * step->dilation_columns + 1, first;
  int three = step->kernel_rows == 3 && step->kernel_columns == 3 && extent == 3 && step->stride_columns <= 2;
  if (extent > COLUMNS / groups || !below_one(multipliers, step->channels)) {
    eq_portable.depthwise_rows(step, rows, count, weights, biases, multipliers, outputs);
    return;
  }
  for (first = 0; first < step->channels; first += BLOCK) {
    int32_t left = step->channels - first;
    if (!three)
      block_rows(1, 0, step, rows, count, weights, biases, multipliers, first, outputs);
    else if (left <= BLOCK / 4 && step->out_columns >= 4)
      block_rows(4, 1, step, rows, count, weights, biases, multipliers, first, outputs);
    else if (left <= BLOCK / 2 && step->out_columns >= 2)
      block_rows(2, 1, step, rows, count, weights, biases, multipliers, first, outputs);
    else
      block_rows(1, 1, step, rows, count, weights, biases, multipliers, first, outputs);
  }
}

/* --- decoding ----------------------------------------------------------------------------------------------------- */

/* A table of 256 bytes, in registers. */
typedef struct {
  vector quarters[4];
} table;

INLINE table table_of(const void *bytes) {
  table made;
  int q;
  for (q = 0; q < 4; q++) made.quarters[q] = load((const int8_t *)bytes + 64 * q);
  return made;
}

/* Bytes `place`, `place + 2`, ... */
INLINE table every_second(const int8_t *bytes, int place) {
  table made;
  int q;
  for (q = 0; q < 4; q++) {
    __m256i low = _mm512_cvtepi16_epi8(_mm512_srl_epi16(load(bytes + 128 * q), _mm_cvtsi32_si128(8 * place)));
    __m256i high = _mm512_cvtepi16_epi8(_mm512_srl_epi16(load(bytes + 128 * q + 64), _mm_cvtsi32_si128(8 * place)));
    made.quarters[q] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
  return made;
}

INLINE vector looked_up(const table *in, vector bytes) {
  vector low = _mm512_permutex2var_epi8(in->quarters[0], bytes, in->quarters[1]);
  vector high = _mm512_permutex2var_epi8(in->quarters[2], bytes, in->quarters[3]);
  return _mm512_mask_blend_epi8(_mm512_movepi8_mask(bytes), low, high);
}

/* Where entries are that follow each other in a circle of 255. */
INLINE vector further(vector start, vector by) {
  vector sum = _mm512_add_epi8(start, by);
  return _mm512_mask_add_epi8(sum, _mm512_cmplt_epu8_mask(sum, by), sum, _mm512_set1_epi8(1));
}

INLINE void store(int8_t *to, vector levels, int32_t left) {
  _mm512_mask_storeu_epi8(to, bytes_below(left), levels);
}

/* The entries of both steps of bytes of 4 or 2 bits, of four inputs of up to 16 rows. */
typedef struct {
  vector first, second;
} entries;

INLINE entries entries_of(const eq_packed *packed, const uint8_t *bytes, __mmask16 rows, __mmask16 begin,
                          const table *starts) {
  const vector low = _mm512_set1_epi8(15);
  vector in = _mm512_maskz_loadu_epi32(rows, bytes), upper = _mm512_and_si512(_mm512_srli_epi16(in, 4), low);
  vector before = _mm512_maskz_loadu_epi32(rows & (__mmask16)~begin, bytes - EQ_DEPTH), node;
  entries found;
  before = _mm512_mask_loadu_epi32(before, begin, bytes + EQ_DEPTH * (packed->length - 1));
  node = _mm512_or_si512(_mm512_andnot_si512(low, _mm512_slli_epi16(before, 4)), upper);
  found.first = further(looked_up(starts, before), upper);
  found.second = further(looked_up(starts + 1, node), _mm512_and_si512(in, low));
  return found;
}

/* Which of up to 16 rows begin a sequence. */
INLINE __mmask16 beginning(const eq_packed *packed, int32_t from, __mmask16 rows) {
  int32_t place = (packed->place + from) % packed->length, row = place ? packed->length - place : 0;
  __mmask16 found = 0;
  for (; row < 16; row += packed->length) found = (__mmask16)(found | 1 << row);
  return found & rows;
}

#define SIXTEEN 16 /* rows of EQ_DEPTH bytes in a vector */

HERE static void decode_twos(const eq_packed *packed, int32_t groups, int8_t *levels) {
  const vector first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const vector second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  const table starts[2] = {table_of(packed->trellis), table_of(packed->trellis + EQ_NODES)};
  const table made = table_of(packed->trellis + 2 * EQ_NODES);
  int32_t rows = packed->channels / 2, from, group;
  for (from = 0; from < rows; from += SIXTEEN) {
    const uint8_t *bytes = packed->bytes + EQ_DEPTH * from;
    int8_t *to = levels + 2 * EQ_DEPTH * from;
    int32_t size = 2 * EQ_DEPTH * eq_least(SIXTEEN, rows - from);
    __mmask16 here = (__mmask16)((1u << eq_least(SIXTEEN, rows - from)) - 1), begin = beginning(packed, from, here);
    for (group = 0; group < groups; group++, bytes += packed->pitch, to += packed->lanes * EQ_DEPTH) {
      entries at = entries_of(packed, bytes, here, begin, starts);
      vector a = looked_up(&made, at.first), b = looked_up(&made, at.second);
      store(to, _mm512_permutex2var_epi32(a, first, b), size);
      store(to + 64, _mm512_permutex2var_epi32(a, second, b), size - 64);
    }
  }
}

HERE static void decode_fours(const eq_packed *packed, int32_t groups, int8_t *levels) {
  const vector first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const vector second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  const vector low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), high = _mm512_add_epi64(low, _mm512_set1_epi64(4));
  const int8_t *pairs = (const int8_t *)packed->trellis + 2 * EQ_NODES;
  const table starts[2] = {table_of(packed->trellis), table_of(packed->trellis + EQ_NODES)};
  const table even = every_second(pairs, 0), odd = every_second(pairs, 1);
  int32_t rows = packed->channels / 4, group;
  int32_t size = 4 * EQ_DEPTH * rows;
  __mmask16 here = (__mmask16)((1u << rows) - 1), begin = beginning(packed, 0, here);
  const uint8_t *bytes = packed->bytes;
  for (group = 0; group < groups; group++, bytes += packed->pitch, levels += packed->lanes * EQ_DEPTH) {
    entries at = entries_of(packed, bytes, here, begin, starts);
    vector a = looked_up(&even, at.first), b = looked_up(&odd, at.first);
    vector c = looked_up(&even, at.second), d = looked_up(&odd, at.second);
    vector one = _mm512_permutex2var_epi32(a, first, b), two = _mm512_permutex2var_epi32(c, first, d);
    store(levels, _mm512_permutex2var_epi64(one, low, two), size);
    store(levels + 64, _mm512_permutex2var_epi64(one, high, two), size - 64);
    one = _mm512_permutex2var_epi32(a, second, b);
    two = _mm512_permutex2var_epi32(c, second, d);
    store(levels + 128, _mm512_permutex2var_epi64(one, low, two), size - 128);
    store(levels + 192, _mm512_permutex2var_epi64(one, high, two), size - 192);
  }
}

#define CIRCLE 127 /* entries of each table of 3 bits */

/* Levels of 3 bits: entries in a circle, of which a vector of tables has all. */
INLINE vector in_circle(const int8_t *table, vector start, vector by) {
  vector at = _mm512_add_epi8(start, by);
  at = _mm512_min_epu8(at, _mm512_sub_epi8(at, _mm512_set1_epi8(CIRCLE)));
  return _mm512_permutex2var_epi8(load(table), at, load(table + 64));
}

HERE static void decode_threes(const eq_packed *packed, int32_t groups, int8_t *levels) {
  const table starts[3] = {table_of(packed->trellis), table_of(packed->trellis + EQ_NODES),
                           table_of(packed->trellis + 2 * EQ_NODES)};
  const int8_t *wide = (const int8_t *)packed->trellis + 3 * EQ_NODES, *narrow = wide + CIRCLE + 7;
  const vector high = _mm512_set1_epi8((char)0xf8), three = _mm512_set1_epi8(7), two = _mm512_set1_epi8(3);
  int32_t order[3][16], size = EQ_DEPTH * packed->channels, rows = (packed->channels + 2) / 3, group, i, k;
  __mmask16 here = (__mmask16)((1u << rows) - 1), begin = beginning(packed, 0, here), last[3] = {0, 0, 0};
  const uint8_t *bytes = packed->bytes;
  for (i = 0; i < 48; i++) { /* level `i % 3` of row `i / 3` */
    order[i / 16][i % 16] = i / 3 + (i % 3 == 1 ? 16 : 0);
    if (i % 3 == 2) last[i / 16] = (__mmask16)(last[i / 16] | 1 << i % 16);
  }
  for (group = 0; group < groups; group++, bytes += packed->pitch, levels += packed->lanes * EQ_DEPTH) {
    vector in = _mm512_maskz_loadu_epi32(here, bytes), node, a, b, c;
    vector first = _mm512_and_si512(_mm512_srli_epi16(in, 5), three);
    vector second = _mm512_and_si512(_mm512_srli_epi16(in, 2), three), third = _mm512_and_si512(in, two);
    node = _mm512_maskz_loadu_epi32(here & (__mmask16)~begin, bytes - EQ_DEPTH);
    node = _mm512_mask_loadu_epi32(node, begin, bytes + EQ_DEPTH * (packed->length - 1));
    a = in_circle(wide, looked_up(starts, node), first);
    node = _mm512_or_si512(_mm512_and_si512(_mm512_slli_epi16(node, 3), high), first);
    b = in_circle(wide, looked_up(starts + 1, node), second);
    node = _mm512_or_si512(_mm512_and_si512(_mm512_slli_epi16(node, 3), high), second);
    c = in_circle(narrow, looked_up(starts + 2, node), third);
    for (k = 0; k < 3; k++) {
      vector at = load(order[k]), made = _mm512_permutex2var_epi32(a, at, b);
      store(levels + 64 * k, _mm512_mask_permutexvar_epi32(made, last[k], at, c), size - 64 * k);
    }
  }
}

/* Whole units of packed bytes, as most are; others as AVX2 does. */
HERE static void decode(const eq_packed *packed, int32_t groups, int8_t *levels) {
  int whole = packed->lead == 0 && packed->channels == packed->lanes;
  if (whole && packed->weights_a_byte == 2)
    decode_twos(packed, groups, levels);
  else if (whole && packed->weights_a_byte == 3)
    decode_threes(packed, groups, levels);
  else if (whole && packed->weights_a_byte == 4)
    decode_fours(packed, groups, levels);
  else
    eq_avx2.decode(packed, groups, levels);
}

/* --- values one by one -------------------------------------------------------------------------------------------- */

INLINE __m512 floats_of(const uint8_t *codes) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)codes)));
}

HERE static void add_bytes(const eq_step *step, const uint8_t *a, const uint8_t *b, uint8_t *sum, int32_t count) {
  float ratio = step->from_scale / step->to_scale, other_ratio = step->other_scale / step->to_scale;
  __m512 of_a = _mm512_set1_ps(ratio), of_b = _mm512_set1_ps(other_ratio), lowest = _mm512_setzero_ps();
  __m512 moved = _mm512_fmadd_ps(of_a, _mm512_set1_ps((float)step->from_zero),
                                 _mm512_set1_ps(other_ratio * (float)step->other_zero));
  __m512 fixed = _mm512_sub_ps(_mm512_set1_ps((float)step->to_zero), moved), highest = _mm512_set1_ps(255.0f);
  int32_t i;
  for (i = 0; i + 16 <= count; i += 16) {
    __m512 second = _mm512_fmadd_ps(of_b, floats_of(b + i), fixed);
    __m512 both = _mm512_min_ps(_mm512_max_ps(_mm512_fmadd_ps(of_a, floats_of(a + i), second), lowest), highest);
    _mm_storeu_si128((__m128i *)(void *)(sum + i), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(both)));
  }
  eq_portable.add_bytes(step, a + i, b + i, sum + i, count - i);
}

/* Sixteen pixels of a few channels at once. */
HERE static void quantize_pixels(const eq_step *step, const float *values, int32_t plane, int32_t begin, int32_t end,
                                 uint8_t *codes_of_pixels) {
  __m512 scale = _mm512_set1_ps(step->to_scale), highest = _mm512_set1_ps((float)(255 - step->to_zero));
  __m512 lowest = _mm512_set1_ps((float)-step->to_zero); /* of what is no number, too */
  vector zero = _mm512_set1_epi32(step->to_zero);
  __m128i of[4];
  uint8_t order[64] = {0};
  int32_t channels = step->channels, i, c;
  if (channels > 4) {
    eq_avx2.quantize_pixels(step, values, plane, begin, end, codes_of_pixels);
    return;
  }
  for (i = 0; i < 16 * channels; i++) order[i] = (uint8_t)(i % channels * 16 + i / channels);
  for (c = 0; c < 4; c++) of[c] = _mm_setzero_si128();
  for (i = begin; i + 16 <= end; i += 16, codes_of_pixels += 16 * channels) {
    vector made;
    for (c = 0; c < channels; c++) {
      __m512 divided = _mm512_div_ps(_mm512_loadu_ps(values + (size_t)c * (size_t)plane + i), scale);
      __m512 within = _mm512_min_ps(_mm512_max_ps(divided, lowest), highest);
      of[c] = _mm512_cvtepi32_epi8(_mm512_add_epi32(_mm512_cvtps_epi32(within), zero));
    }
    made = _mm512_inserti32x4(_mm512_castsi128_si512(of[0]), of[1], 1);
    made = _mm512_inserti32x4(_mm512_inserti32x4(made, of[2], 2), of[3], 3);
    _mm512_mask_storeu_epi8(codes_of_pixels, bytes_below(16 * channels), _mm512_permutexvar_epi8(load(order), made));
  }
  eq_portable.quantize_pixels(step, values, plane, i, end, codes_of_pixels);
}

const eq_primitives eq_vnni = {"AVX-512 VNNI", multiply_rows, depthwise_rows, decode, add_bytes, quantize_pixels};

#else

typedef int eq_no_vnni; /* a file of C has something in it */

#endif
