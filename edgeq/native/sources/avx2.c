/* The inner loops for x86 processors with AVX2 and FMA; and, included by `avx_vnni.c`, for those with AVX-VNNI. */
#include "trellis.h"

#ifdef EQ_X86

#include <immintrin.h>
#include <string.h>

#ifdef EQ_AVX_VNNI
#define FEATURES "avx2,fma,avxvnni"
#define ANY_SIZE 1 /* all weights are computed as small ones are */
#else
#define FEATURES "avx2,fma"
#define ANY_SIZE 0
#endif

#define HERE __attribute__((target(FEATURES)))
#define INLINE static inline __attribute__((always_inline, target(FEATURES)))

#define WIDTH 8 /* channels whose sums are in a vector */

/* A vector is in a register at this point: without it, gcc moves sums to memory and back. */
#define STAY(vector) __asm__("" : "+x"(vector))

typedef __m256i vector;

INLINE vector load(const void *from) {
  return _mm256_loadu_si256((const vector *)from);
}

INLINE vector four_bytes(const uint8_t *from) {
  int32_t bytes;
  memcpy(&bytes, from, 4);
  return _mm256_set1_epi32(bytes);
}

/* Which of a vector's lanes are below `count`. */
INLINE vector below(int32_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* --- products of four bytes and four weights in each lane --------------------------------------------------------- */

/* Two products of a byte and a small weight fit 16 bits, two of any do not. Weights of any size, and what they are
 * multiplied with, are taken apart into bytes at even and at odd places. */
typedef struct {
  vector even, odd;
} parts;

INLINE parts bytes_parts(const int small, vector bytes) {
  parts made = {bytes, bytes};
  if (small) return made;
  made.even = _mm256_and_si256(bytes, _mm256_set1_epi16(255));
  made.odd = _mm256_srli_epi16(bytes, 8);
  return made;
}

INLINE parts weights_parts(const int small, vector weights) {
  parts made = {weights, weights};
  if (small) return made;
  made.even = _mm256_srai_epi16(_mm256_slli_epi16(weights, 8), 8);
  made.odd = _mm256_srai_epi16(weights, 8);
  return made;
}

INLINE vector add_products(const int small, vector sums, parts bytes, parts weights) {
#ifdef EQ_AVX_VNNI
  if (small) return _mm256_dpbusd_avx_epi32(sums, bytes.even, weights.even);
#endif
  if (small)
    return _mm256_add_epi32(sums,
                            _mm256_madd_epi16(_mm256_maddubs_epi16(bytes.even, weights.even), _mm256_set1_epi16(1)));
  sums = _mm256_add_epi32(sums, _mm256_madd_epi16(bytes.even, weights.even));
  return _mm256_add_epi32(sums, _mm256_madd_epi16(bytes.odd, weights.odd));
}

/* --- sums to codes ------------------------------------------------------------------------------------------------ */

typedef struct {
  __m256 highest; /* before the zero point is added */
  vector zero, least;
} range;

INLINE range range_of(int32_t zero, int32_t least, int32_t most) {
  range made;
  made.highest = _mm256_set1_ps((float)(most - zero));
  made.zero = _mm256_set1_epi16((int16_t)zero);
  made.least = _mm256_set1_epi8((char)least);
  return made;
}

/* What is too low for an integer becomes the lowest integer; what is too high must be caught before. */
INLINE vector rounded(const range *to, vector sums, __m256 multipliers) {
  return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(sums), multipliers), to->highest));
}

/* Four vectors to bytes: of each half of the vectors in turn. */
INLINE vector codes(const range *to, vector a, vector b, vector c, vector d) {
  vector low = _mm256_adds_epi16(_mm256_packs_epi32(a, b), to->zero);
  vector high = _mm256_adds_epi16(_mm256_packs_epi32(c, d), to->zero);
  return _mm256_max_epu8(_mm256_packus_epi16(low, high), to->least);
}

INLINE void store(uint8_t *to, vector bytes, int32_t count) {
  if (count >= 32) {
    _mm256_storeu_si256((vector *)(void *)to, bytes);
  } else if (count == 24) {
    _mm_storeu_si128((__m128i *)(void *)to, _mm256_castsi256_si128(bytes));
    _mm_storel_epi64((__m128i *)(void *)(to + 16), _mm256_extracti128_si256(bytes, 1));
  } else if (count == 16) {
    _mm_storeu_si128((__m128i *)(void *)to, _mm256_castsi256_si128(bytes));
  } else {
    uint8_t copy[32];
    _mm256_storeu_si256((vector *)(void *)copy, bytes);
    memcpy(to, copy, (size_t)count);
  }
}

/* --- rows of products --------------------------------------------------------------------------------------------- */

#define PIXELS 4 /* pixels and vectors of channels that are computed at once, at most: sums stay in registers */
#define VECTORS 3

/* `vectors` from channel `first` on, of `pixels` pixels. */
INLINE void tile(const int pixels, const int vectors, const int small, const eq_unit *unit, int32_t first,
                 const uint8_t *inputs, size_t stride, void *outputs, size_t out_stride) {
  const int8_t *weights = unit->weights + first * EQ_DEPTH;
  size_t next = (size_t)eq_up_to(unit->channels, EQ_LANES) * EQ_DEPTH;
  int32_t count = unit->channels - first, k;
  vector sums[PIXELS][VECTORS];
  int m, j;
  for (j = 0; j < vectors; j++) {
    sums[0][j] = _mm256_maskload_epi32(unit->biases + first + WIDTH * j, below(count - WIDTH * j));
    for (m = 1; m < pixels; m++) sums[m][j] = sums[0][j];
  }
  for (k = 0; k < unit->depth; k += EQ_DEPTH, weights += next)
    for (m = 0; m < pixels; m++) {
      parts bytes = bytes_parts(small, four_bytes(inputs + (size_t)m * stride + k));
      for (j = 0; j < vectors; j++) {
        sums[m][j] = add_products(small, sums[m][j], bytes, weights_parts(small, load(weights + 32 * j)));
        STAY(sums[m][j]);
      }
    }
  if (unit->offsets) {
    for (j = 0; j < vectors; j++) {
      vector mask = below(count - WIDTH * j);
      __m256 multipliers = _mm256_maskload_ps(unit->multipliers + first + WIDTH * j, mask);
      __m256 offsets = _mm256_maskload_ps(unit->offsets + first + WIDTH * j, mask);
      for (m = 0; m < pixels; m++)
        _mm256_maskstore_ps((float *)outputs + (size_t)m * out_stride + first + WIDTH * j, mask,
                            _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(sums[m][j]), multipliers), offsets));
    }
  } else {
    const vector order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    range to = range_of(unit->zero, unit->least, unit->most);
    for (j = 0; j < vectors; j++) {
      __m256 multipliers = _mm256_maskload_ps(unit->multipliers + first + WIDTH * j, below(count - WIDTH * j));
      for (m = 0; m < pixels; m++) sums[m][j] = rounded(&to, sums[m][j], multipliers);
    }
    for (m = 0; m < pixels; m++) {
      const vector *s = sums[m];
      vector bytes = codes(&to, s[0], s[vectors > 1], s[vectors > 2 ? 2 : 0], s[0]);
      store((uint8_t *)outputs + (size_t)m * out_stride + first, _mm256_permutevar8x32_epi32(bytes, order),
            eq_least(count, WIDTH * vectors));
    }
  }
}

/* Tiles of four pixels, behind as many of three as it takes to have no rest; a last tile repeats some pixels. */
INLINE void tiles(const int vectors, const int small, const eq_unit *unit, int32_t first, const uint8_t *inputs,
                  size_t stride, int32_t count, void *outputs, size_t out_stride) {
  size_t out_bytes = out_stride * (unit->offsets ? sizeof(float) : 1);
  int32_t threes = 3 * eq_least((4 - count % 4) % 4, count / 3), at = 0;
#define TILE(pixels)                                                                                                   \
  tile(pixels, vectors, small, unit, first, inputs + (size_t)at * stride, stride,                                      \
       (uint8_t *)outputs + (size_t)at * out_bytes, out_stride)
  for (; at < threes; at += 3) TILE(3);
  for (; at + 4 <= count; at += 4) TILE(4);
  if (at < count && count >= 3) {
    at = count - 3;
    TILE(3);
  }
  for (; count < 3 && at < count; at++) TILE(1);
#undef TILE
}

HERE static void multiply_rows(const eq_unit *unit, const uint8_t *inputs, size_t stride, int32_t count, void *outputs,
                               size_t out_stride) {
  int32_t left = (unit->channels + WIDTH - 1) / WIDTH, first = 0, small = unit->small || ANY_SIZE, vectors;
  for (; left > 0; left -= vectors, first += WIDTH * vectors) {
    vectors = eq_least(left, small && left != 4 ? VECTORS : 2); /* weights of any size take more registers */
    if (vectors == 3)
      tiles(3, 1, unit, first, inputs, stride, count, outputs, out_stride);
    else if (vectors == 2 && small)
      tiles(2, 1, unit, first, inputs, stride, count, outputs, out_stride);
    else if (vectors == 2)
      tiles(2, 0, unit, first, inputs, stride, count, outputs, out_stride);
    else if (small)
      tiles(1, 1, unit, first, inputs, stride, count, outputs, out_stride);
    else
      tiles(1, 0, unit, first, inputs, stride, count, outputs, out_stride);
  }
}

/* --- each channel by itself --------------------------------------------------------------------------------------- */

#define BLOCK 32   /* channels */
#define COLUMNS 64 /* of four rows, that are kept */

/* Four rows of BLOCK channels to vectors whose lanes have what the rows have of a channel. */
INLINE void columns_of(vector a, vector b, vector c, vector d, vector *made) {
  vector low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
  vector low_too = _mm256_unpacklo_epi8(c, d), high_too = _mm256_unpackhi_epi8(c, d);
  made[0] = _mm256_unpacklo_epi16(low, low_too);
  made[1] = _mm256_unpackhi_epi16(low, low_too);
  made[2] = _mm256_unpacklo_epi16(high, high_too);
  made[3] = _mm256_unpackhi_epi16(high, high_too);
}

/* What a block of channels is multiplied with, in the order that `columns_of` makes. */
typedef struct {
  vector biases[4];
  __m256 multipliers[4];
  vector even[COLUMNS][4], odd[COLUMNS][4]; /* parts of the weights */
} filter;

INLINE void filter_of(const int small, const eq_step *step, const int8_t *weights, const int32_t *biases,
                      const float *multipliers, int32_t count, filter *made) {
  int32_t taps = step->kernel_rows * step->kernel_columns, at = 0, kx, row, i, j;
  const int8_t *second = weights + (count > 16 ? 16 * taps : 0);
  for (j = 0; j < 4; j++) {
    __m128i mask = _mm_set1_epi32(-(4 * j < count)), mask_too = _mm_set1_epi32(-(4 * j + 16 < count));
    made->biases[j] =
        _mm256_set_m128i(_mm_maskload_epi32(biases + 4 * j + 16, mask_too), _mm_maskload_epi32(biases + 4 * j, mask));
    made->multipliers[j] = _mm256_set_m128(_mm_maskload_ps(multipliers + 4 * j + 16, mask_too),
                                           _mm_maskload_ps(multipliers + 4 * j, mask));
  }
  for (kx = 0; kx < step->kernel_columns; kx++)
    for (row = 0; row < step->kernel_rows; row += 4, at++) {
      vector four[4], columns[4];
      for (i = 0; i < 4; i++) {
        int32_t place = 16 * ((row + i) * step->kernel_columns + kx);
        four[i] = _mm256_setzero_si256();
        if (row + i < step->kernel_rows)
          four[i] = _mm256_loadu2_m128i((const __m128i *)(const void *)(second + place),
                                        (const __m128i *)(const void *)(weights + place));
      }
      columns_of(four[0], four[1], four[2], four[3], columns);
      for (j = 0; j < 4; j++) {
        parts weights_of = weights_parts(small, columns[j]);
        made->even[at][j] = weights_of.even;
        if (!small) made->odd[at][j] = weights_of.odd;
      }
    }
}

/* The columns `from` to `from + count` of the map, of which some may be outside. */
INLINE void keep(const eq_step *step, const uint8_t *const *rows, int32_t first, int32_t from, int32_t count,
                 vector (*kept)[4]) {
  int32_t groups = (step->kernel_rows + 3) / 4, pixel = step->channels, group, x, i;
  vector mask = below((pixel - first) / 4), outside = _mm256_set1_epi8((char)step->from_zero);
  for (group = 0; group < groups; group++) {
    vector(*to)[4] = kept + group;
    const uint8_t *four[4]; /* weights of rows beyond the kernel are 0, so these may be any */
    for (i = 0; i < 4; i++) four[i] = rows[eq_least(4 * group + i, step->kernel_rows - 1) * step->dilation_rows] + first;
    for (x = from; x < from + count; x++, to += groups) {
      vector of[4] = {outside, outside, outside, outside};
      if (x >= 0 && x < step->columns)
        for (i = 0; i < 4; i++)
          of[i] = _mm256_maskload_epi32((const int *)(const void *)(four[i] + (ptrdiff_t)x * pixel), mask);
      columns_of(of[0], of[1], of[2], of[3], *to);
    }
  }
}

/* `pixels` neighbours of a row: `kept` are the columns that the first of them reads. */
INLINE void filtered(const int pixels, const int small, const eq_step *step, const filter *by, const vector (*kept)[4],
                     const range *to, uint8_t *outputs, int32_t count) {
  int32_t groups = (step->kernel_rows + 3) / 4, ahead = step->stride_columns * groups, kx, group, at = 0;
  vector sums[2][4];
  int m, j;
  for (m = 0; m < pixels; m++)
    for (j = 0; j < 4; j++) sums[m][j] = by->biases[j];
  for (kx = 0; kx < step->kernel_columns; kx++, kept += step->dilation_columns * groups)
    for (group = 0; group < groups; group++, at++)
      for (j = 0; j < 4; j++) {
        parts weights = {by->even[at][j], by->odd[at][j]};
        for (m = 0; m < pixels; m++) {
          sums[m][j] = add_products(small, sums[m][j], bytes_parts(small, kept[group + m * ahead][j]), weights);
          STAY(sums[m][j]);
        }
      }
  for (m = 0; m < pixels; m++) {
    for (j = 0; j < 4; j++) sums[m][j] = rounded(to, sums[m][j], by->multipliers[j]);
    store(outputs + m * step->channels, codes(to, sums[m][0], sums[m][1], sums[m][2], sums[m][3]), count);
  }
}

INLINE void filtered_row(const int small, const eq_step *step, const filter *by, const uint8_t *const *rows,
                         int32_t first, int32_t count, const range *to, uint8_t *outputs) {
  int32_t groups = (step->kernel_rows + 3) / 4, extent = (step->kernel_columns - 1) * step->dilation_columns + 1;
  int32_t most = (COLUMNS / groups - extent) / step->stride_columns + 1; /* outputs that the kept columns suffice for */
  int32_t ahead = step->stride_columns * groups, x, i;
  vector kept[COLUMNS][4];
  for (x = 0; x < step->out_columns; x += most) {
    int32_t pixels = eq_least(most, step->out_columns - x);
    uint8_t *made = outputs + (ptrdiff_t)x * step->channels + first;
    keep(step, rows, first, x * step->stride_columns - step->left, (pixels - 1) * step->stride_columns + extent, kept);
    for (i = 0; i + 2 <= pixels; i += 2, made += 2 * step->channels)
      filtered(2, small, step, by, (const vector(*)[4])kept + i * ahead, to, made, count);
    if (i < pixels) filtered(1, small, step, by, (const vector(*)[4])kept + i * ahead, to, made, count);
  }
}

INLINE void filtered_rows(const int small, const eq_step *step, const uint8_t *const *rows, int32_t count,
                          const int8_t *weights, const int32_t *biases, const float *multipliers, uint8_t *outputs) {
  int32_t taps = step->kernel_rows * step->kernel_columns, first, y;
  range to = range_of(step->to_zero, step->least, step->most);
  filter by;
  for (first = 0; first < step->channels; first += BLOCK) {
    int32_t channels = eq_least(BLOCK, step->channels - first);
    filter_of(small, step, weights + (size_t)first * (size_t)taps, biases + first, multipliers + first, channels, &by);
    for (y = 0; y < count; y++)
      filtered_row(small, step, &by, rows + y * step->stride_rows, first, channels, &to,
                   outputs + (ptrdiff_t)y * step->out_columns * step->channels);
  }
}

HERE static void depthwise_rows(const eq_step *step, const uint8_t *const *rows, int32_t count, const int8_t *weights,
                                const int32_t *biases, const float *multipliers, uint8_t *outputs) {
  int32_t groups = (step->kernel_rows + 3) / 4, extent = (step->kernel_columns - 1) * step->dilation_columns + 1;
  if (step->channels % 4 != 0 || extent > COLUMNS / groups) /* masks are of four bytes */
    eq_portable.depthwise_rows(step, rows, count, weights, biases, multipliers, outputs);
  else if (step->flags & EQ_SMALL || ANY_SIZE)
    filtered_rows(1, step, rows, count, weights, biases, multipliers, outputs);
  else
    filtered_rows(0, step, rows, count, weights, biases, multipliers, outputs);
}

/* --- decoding ----------------------------------------------------------------------------------------------------- */

#define EIGHT 8 /* rows of EQ_DEPTH bytes in a vector */

/* Bytes of a table of 256: of each sixteen, those whose place begins with their number. */
INLINE vector looked_up(const uint8_t *bytes, vector places) {
  vector found = _mm256_setzero_si256();
  int k;
  for (k = 0; k < 16; k++) {
    vector here = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(bytes + 16 * k)));
    vector place = _mm256_adds_epu8(_mm256_xor_si256(places, _mm256_set1_epi8((char)(16 * k))), _mm256_set1_epi8(0x70));
    found = _mm256_or_si256(found, _mm256_shuffle_epi8(here, place));
  }
  return found;
}

/* Where entries are that follow each other in a circle of 255. */
INLINE vector further(vector start, vector by) {
  vector sum = _mm256_add_epi8(start, by), within = _mm256_cmpeq_epi8(_mm256_max_epu8(sum, by), sum);
  return _mm256_add_epi8(sum, _mm256_add_epi8(within, _mm256_set1_epi8(1)));
}

/* Where the levels of nodes of a step start: the sum of what their upper and their lower bits come to; of the last two
 * nodes it is `wrapped` less, where the first remainder starts again (trellis.py). */
typedef struct {
  vector upper, lower, wrapped;
} nodes;

INLINE nodes nodes_of(const uint8_t *starts) {
  uint8_t upper[16];
  nodes found;
  int i;
  for (i = 0; i < 16; i++) upper[i] = starts[16 * i];
  found.upper = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)upper));
  found.lower = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)starts));
  found.wrapped = _mm256_set1_epi8((char)((starts[0xf0] + starts[0x0e]) % 255 - starts[0xfe]));
  return found;
}

INLINE vector start_of(const nodes *of, vector upper, vector lower) {
  vector sum = further(_mm256_shuffle_epi8(of->upper, upper), _mm256_shuffle_epi8(of->lower, lower));
  vector last = _mm256_and_si256(_mm256_cmpeq_epi8(upper, _mm256_set1_epi8(15)),
                                 _mm256_cmpgt_epi8(lower, _mm256_set1_epi8(13)));
  return _mm256_sub_epi8(sum, _mm256_and_si256(last, of->wrapped));
}

/* Levels of 4 and 2 bits, of rows by eights; `planes` are tables of 256 levels, one for each level of a step. */
INLINE void decode_eights(const int weights_a_byte, const eq_packed *packed, int32_t groups, const uint8_t *planes,
                          int8_t *levels) {
  const vector low = _mm256_set1_epi8(15);
  const nodes first = nodes_of(packed->trellis), second = nodes_of(packed->trellis + EQ_NODES);
  int32_t rows = packed->channels / weights_a_byte, from, group, i;
  for (from = 0; from < rows; from += EIGHT) {
    const uint8_t *bytes = packed->bytes + EQ_DEPTH * from;
    int8_t *to = levels + weights_a_byte * EQ_DEPTH * from;
    int32_t begins[EIGHT];
    vector begin;
    for (i = 0; i < EIGHT; i++) begins[i] = (packed->place + from + i) % packed->length == 0 ? -1 : 0;
    begin = _mm256_loadu_si256((const vector *)(const void *)begins);
    for (group = 0; group < groups; group++, bytes += packed->pitch, to += packed->lanes * EQ_DEPTH) {
      vector in = _mm256_loadu_si256((const vector *)(const void *)bytes);
      vector before = _mm256_maskload_epi32((const int *)(const void *)(bytes - EQ_DEPTH),
                                            _mm256_xor_si256(begin, _mm256_set1_epi32(-1)));
      vector end = _mm256_maskload_epi32((const int *)(const void *)(bytes + EQ_DEPTH * (packed->length - 1)), begin);
      vector upper = _mm256_and_si256(_mm256_srli_epi16(in, 4), low), one, two, kept;
      before = _mm256_or_si256(before, end);
      kept = _mm256_and_si256(before, low);
      one = further(start_of(&first, _mm256_and_si256(_mm256_srli_epi16(before, 4), low), kept), upper);
      two = further(start_of(&second, kept, upper), _mm256_and_si256(in, low));
      if (weights_a_byte == 2) {
        vector a = looked_up(planes, one), b = looked_up(planes, two);
        vector even = _mm256_unpacklo_epi32(a, b), odd = _mm256_unpackhi_epi32(a, b);
        _mm256_storeu_si256((vector *)(void *)to, _mm256_permute2x128_si256(even, odd, 0x20));
        _mm256_storeu_si256((vector *)(void *)(to + 32), _mm256_permute2x128_si256(even, odd, 0x31));
      } else {
        vector a = looked_up(planes, one), b = looked_up(planes + 256, one);
        vector c = looked_up(planes, two), d = looked_up(planes + 256, two);
        vector ab = _mm256_unpacklo_epi32(a, b), cd = _mm256_unpacklo_epi32(c, d);
        vector ab_too = _mm256_unpackhi_epi32(a, b), cd_too = _mm256_unpackhi_epi32(c, d);
        vector made[4];
        made[0] = _mm256_unpacklo_epi64(ab, cd);
        made[1] = _mm256_unpackhi_epi64(ab, cd);
        made[2] = _mm256_unpacklo_epi64(ab_too, cd_too);
        made[3] = _mm256_unpackhi_epi64(ab_too, cd_too);
        for (i = 0; i < 2; i++) {
          _mm256_storeu_si256((vector *)(void *)(to + 32 * i), _mm256_permute2x128_si256(made[2 * i], made[2 * i + 1], 0x20));
          _mm256_storeu_si256((vector *)(void *)(to + 64 + 32 * i),
                              _mm256_permute2x128_si256(made[2 * i], made[2 * i + 1], 0x31));
        }
      }
    }
  }
}

HERE static void decode_twos(const eq_packed *packed, int32_t groups, int8_t *levels) {
  decode_eights(2, packed, groups, packed->trellis + 2 * EQ_NODES, levels);
}

HERE static void decode_fours(const eq_packed *packed, int32_t groups, int8_t *levels) {
  const uint8_t *pairs = packed->trellis + 2 * EQ_NODES;
  uint8_t planes[2 * 256];
  int i;
  for (i = 0; i < 256; i++) {
    planes[i] = pairs[2 * i];
    planes[256 + i] = pairs[2 * i + 1];
  }
  decode_eights(4, packed, groups, planes, levels);
}

/* Levels of 8 bits are copied; what is not made of whole vectors is left to the portable loop. */
HERE static void decode(const eq_packed *packed, int32_t groups, int8_t *levels) {
  int32_t size = packed->channels * EQ_DEPTH, room = packed->lanes * EQ_DEPTH, group;
  int whole = packed->lead == 0 && packed->channels == packed->lanes;
  if (packed->weights_a_byte == 1)
    for (group = 0; group < groups; group++, levels += room) {
      memcpy(levels, packed->bytes + (size_t)group * (size_t)packed->pitch, (size_t)size);
      memset(levels + size, 0, (size_t)(room - size));
    }
  else if (packed->weights_a_byte == 2 && whole)
    decode_twos(packed, groups, levels);
  else if (packed->weights_a_byte == 4 && whole && packed->channels % (4 * EIGHT) == 0)
    decode_fours(packed, groups, levels);
  else
    eq_portable.decode(packed, groups, levels);
}

/* --- values one by one -------------------------------------------------------------------------------------------- */

INLINE __m256 floats_of(const uint8_t *codes) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)codes)));
}

/* Sixteen integers to bytes. */
INLINE void store_sixteen(uint8_t *to, vector a, vector b) {
  vector both = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
  _mm_storeu_si128((__m128i *)(void *)to,
                   _mm_packus_epi16(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)));
}

HERE static void add_bytes(const eq_step *step, const uint8_t *a, const uint8_t *b, uint8_t *sum, int32_t count) {
  float ratio = step->from_scale / step->to_scale, other_ratio = step->other_scale / step->to_scale;
  __m256 of_a = _mm256_set1_ps(ratio), of_b = _mm256_set1_ps(other_ratio);
  __m256 moved = _mm256_fmadd_ps(of_a, _mm256_set1_ps((float)step->from_zero),
                                 _mm256_set1_ps(other_ratio * (float)step->other_zero));
  __m256 fixed = _mm256_sub_ps(_mm256_set1_ps((float)step->to_zero), moved), highest = _mm256_set1_ps(255.0f);
  int32_t i;
  int j;
  for (i = 0; i + 16 <= count; i += 16) {
    vector two[2];
    for (j = 0; j < 2; j++) {
      __m256 second = _mm256_fmadd_ps(of_b, floats_of(b + i + 8 * j), fixed);
      two[j] = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_fmadd_ps(of_a, floats_of(a + i + 8 * j), second), highest));
    }
    store_sixteen(sum + i, two[0], two[1]);
  }
  eq_portable.add_bytes(step, a + i, b + i, sum + i, count - i);
}

HERE static void quantize_pixels(const eq_step *step, const float *values, int32_t plane, int32_t begin, int32_t end,
                                 uint8_t *codes) {
  __m256 scale = _mm256_set1_ps(step->to_scale), highest = _mm256_set1_ps((float)(255 - step->to_zero));
  __m256 lowest = _mm256_set1_ps((float)-step->to_zero); /* of what is no number, too */
  vector zero = _mm256_set1_epi32(step->to_zero);
  int32_t i, c;
  int j;
  for (i = begin; i + 16 <= end; i += 16, codes += 16 * step->channels)
    for (c = 0; c < step->channels; c++) {
      const float *from = values + (size_t)c * (size_t)plane + i;
      uint8_t made[16], *to = codes + c;
      vector two[2];
      for (j = 0; j < 2; j++) {
        __m256 divided = _mm256_max_ps(_mm256_div_ps(_mm256_loadu_ps(from + 8 * j), scale), lowest);
        two[j] = _mm256_add_epi32(_mm256_cvtps_epi32(_mm256_min_ps(divided, highest)), zero);
      }
      store_sixteen(made, two[0], two[1]);
      for (j = 0; j < 16; j++, to += step->channels) *to = made[j];
    }
  eq_portable.quantize_pixels(step, values, plane, i, end, codes);
}

#ifdef EQ_AVX_VNNI
const eq_primitives eq_avx_vnni = {"AVX-VNNI", multiply_rows, depthwise_rows, decode, add_bytes, quantize_pixels};
#else
const eq_primitives eq_avx2 = {"AVX2", multiply_rows, depthwise_rows, decode, add_bytes, quantize_pixels};
#endif

#else

typedef int eq_no_avx2; /* a file of C has something in it */

#endif
