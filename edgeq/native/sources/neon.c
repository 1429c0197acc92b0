/* The inner loops for 64-bit ARM processors, with dot products where the compiler may use them. */
#include "primitives.h"

#ifdef EQ_NEON

#include <arm_neon.h>
#include <string.h>

/* --- products of four bytes and four weights for each of four channels -------------------------------------------- */

#if defined(__ARM_FEATURE_MATMUL_INT8)

#define PIXELS 4 /* that are computed at once: sums stay in registers */
typedef int32x4_t partial;

static inline partial no_products(void) {
  return vdupq_n_s32(0);
}

static inline partial add_products(partial sums, uint8x16_t bytes, int8x16_t weights) {
  return vusdotq_s32(sums, bytes, weights);
}

static inline int32x4_t sums_of(partial sums, partial of_weights) {
  (void)of_weights;
  return sums;
}

#elif defined(__ARM_FEATURE_DOTPROD)

/* Both factors are signed: bytes are multiplied less 128, and 128 times the sum of the weights is added at the end. */
#define PIXELS 4
typedef int32x4_t partial;

static inline partial no_products(void) {
  return vdupq_n_s32(0);
}

static inline partial add_products(partial sums, uint8x16_t bytes, int8x16_t weights) {
  return vdotq_s32(sums, vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(128))), weights);
}

/* `of_weights` are the products with 129: as many times 1. */
static inline int32x4_t sums_of(partial sums, partial of_weights) {
  return vmlaq_n_s32(sums, of_weights, 128);
}

#else

/* A product of a byte and a weight fits 16 bits; sums of two are added to sums of 32 bits, two a channel. */
#define PIXELS 2
typedef int32x4x2_t partial;

static inline partial no_products(void) {
  partial none = {{vdupq_n_s32(0), vdupq_n_s32(0)}};
  return none;
}

static inline partial add_products(partial sums, uint8x16_t bytes, int8x16_t weights) {
  int16x8_t wide = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes)));
  sums.val[0] = vpadalq_s16(sums.val[0], vmulq_s16(wide, vmovl_s8(vget_low_s8(weights))));
  sums.val[1] = vpadalq_s16(sums.val[1], vmulq_s16(wide, vmovl_high_s8(weights)));
  return sums;
}

static inline int32x4_t sums_of(partial sums, partial of_weights) {
  (void)of_weights;
  return vpaddq_s32(sums.val[0], sums.val[1]);
}

#endif

static inline uint8x16_t four_bytes(const uint8_t *from) {
  uint32_t bytes;
  memcpy(&bytes, from, 4);
  return vreinterpretq_u8_u32(vdupq_n_u32(bytes));
}

/* --- sums to codes ------------------------------------------------------------------------------------------------ */

/* What sixteen channels' sums become codes or floats by. */
typedef struct {
  int32x4_t biases[4];
  float32x4_t multipliers[4], offsets[4];
} scales;

static scales scales_of(const int32_t *biases, const float *multipliers, const float *offsets, int32_t count) {
  int32_t whole[EQ_LANES] = {0};
  float factors[EQ_LANES] = {0}, added[EQ_LANES] = {0};
  scales made;
  int j;
  memcpy(whole, biases, sizeof *whole * (size_t)count);
  memcpy(factors, multipliers, sizeof *factors * (size_t)count);
  if (offsets) memcpy(added, offsets, sizeof *added * (size_t)count);
  for (j = 0; j < 4; j++) {
    made.biases[j] = vld1q_s32(whole + 4 * j);
    made.multipliers[j] = vld1q_f32(factors + 4 * j);
    made.offsets[j] = vld1q_f32(added + 4 * j);
  }
  return made;
}

static inline uint8x16_t load_bytes(const uint8_t *from, int32_t count) {
  uint8_t copy[16] = {0};
  if (count >= 16) return vld1q_u8(from);
  memcpy(copy, from, (size_t)count);
  return vld1q_u8(copy);
}

static inline void store_bytes(uint8_t *to, uint8x16_t bytes, int32_t count) {
  uint8_t copy[16];
  if (count >= 16) {
    vst1q_u8(to, bytes);
    return;
  }
  vst1q_u8(copy, bytes);
  memcpy(to, copy, (size_t)count);
}

/* Four vectors of whole numbers to bytes, beyond whose range they become the nearest. */
static inline uint8x16_t bytes_of(const int32x4_t *whole, int32_t zero) {
  int16x8_t moved = vdupq_n_s16((int16_t)zero);
  int16x8_t low = vqaddq_s16(vcombine_s16(vqmovn_s32(whole[0]), vqmovn_s32(whole[1])), moved);
  int16x8_t high = vqaddq_s16(vcombine_s16(vqmovn_s32(whole[2]), vqmovn_s32(whole[3])), moved);
  return vcombine_u8(vqmovun_s16(low), vqmovun_s16(high));
}

static inline uint8x16_t codes_of(const int32x4_t *sums, const scales *by, int32_t zero, int32_t least, int32_t most) {
  int32x4_t whole[4];
  int j;
  for (j = 0; j < 4; j++) whole[j] = vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(sums[j]), by->multipliers[j]));
  return vminq_u8(vmaxq_u8(bytes_of(whole, zero), vdupq_n_u8((uint8_t)least)), vdupq_n_u8((uint8_t)most));
}

/* --- rows of products --------------------------------------------------------------------------------------------- */

/* Sixteen channels from `first` on, of `pixels` pixels. */
static inline void tile(const int pixels, const eq_unit *unit, const scales *by, int32_t first, const uint8_t *inputs,
                        size_t stride, void *outputs, size_t out_stride) {
  const int8_t *weights = unit->weights + first * EQ_DEPTH;
  size_t next = (size_t)eq_up_to(unit->channels, EQ_LANES) * EQ_DEPTH;
  int32_t count = eq_least(EQ_LANES, unit->channels - first), k;
  partial sums[PIXELS][4], of_weights[4];
  int m, j;
  for (j = 0; j < 4; j++) {
    of_weights[j] = no_products();
    for (m = 0; m < pixels; m++) sums[m][j] = no_products();
  }
  for (k = 0; k < unit->depth; k += EQ_DEPTH, weights += next) {
    uint8x16_t bytes[PIXELS];
    for (m = 0; m < pixels; m++) bytes[m] = four_bytes(inputs + (size_t)m * stride + k);
    for (j = 0; j < 4; j++) {
      int8x16_t four = vld1q_s8(weights + 16 * j);
      of_weights[j] = add_products(of_weights[j], vdupq_n_u8(129), four);
      for (m = 0; m < pixels; m++) sums[m][j] = add_products(sums[m][j], bytes[m], four);
    }
  }
  for (m = 0; m < pixels; m++) {
    int32x4_t whole[4];
    for (j = 0; j < 4; j++) whole[j] = vaddq_s32(sums_of(sums[m][j], of_weights[j]), by->biases[j]);
    if (unit->offsets) {
      float made[EQ_LANES];
      for (j = 0; j < 4; j++)
        vst1q_f32(made + 4 * j, vaddq_f32(vmulq_f32(vcvtq_f32_s32(whole[j]), by->multipliers[j]), by->offsets[j]));
      memcpy((float *)outputs + (size_t)m * out_stride + first, made, sizeof *made * (size_t)count);
    } else {
      store_bytes((uint8_t *)outputs + (size_t)m * out_stride + first,
                  codes_of(whole, by, unit->zero, unit->least, unit->most), count);
    }
  }
}

static void multiply_rows(const eq_unit *unit, const uint8_t *inputs, size_t stride, int32_t count, void *outputs,
                          size_t out_stride) {
  size_t out_bytes = out_stride * (unit->offsets ? sizeof(float) : 1);
  int32_t first, i;
  for (first = 0; first < unit->channels; first += EQ_LANES) {
    scales by = scales_of(unit->biases + first, unit->multipliers + first, unit->offsets ? unit->offsets + first : NULL,
                          eq_least(EQ_LANES, unit->channels - first));
    const uint8_t *from = inputs;
    uint8_t *to = (uint8_t *)outputs;
    for (i = 0; i + PIXELS <= count; i += PIXELS, from += PIXELS * stride, to += PIXELS * out_bytes)
      tile(PIXELS, unit, &by, first, from, stride, to, out_stride);
    for (; i < count; i++, from += stride, to += out_bytes) tile(1, unit, &by, first, from, stride, to, out_stride);
  }
}

/* --- each channel by itself --------------------------------------------------------------------------------------- */

static void depthwise_row(const eq_step *step, const uint8_t *const *rows, const int8_t *weights, const int32_t *biases,
                          const float *multipliers, uint8_t *outputs) {
  int32_t taps = step->kernel_rows * step->kernel_columns, pixel = step->channels, first, x, ky, kx;
  const uint8x16_t outside = vdupq_n_u8((uint8_t)step->from_zero);
  int j;
  for (first = 0; first < pixel; first += EQ_LANES, weights += EQ_LANES * taps) {
    int32_t count = eq_least(EQ_LANES, pixel - first);
    scales by = scales_of(biases + first, multipliers + first, NULL, count);
    for (x = 0; x < step->out_columns; x++) {
      const int8_t *tap = weights;
      int32x4_t sums[4];
      for (j = 0; j < 4; j++) sums[j] = by.biases[j];
      for (ky = 0; ky < step->kernel_rows; ky++)
        for (kx = 0; kx < step->kernel_columns; kx++, tap += EQ_LANES) {
          int32_t from_x = x * step->stride_columns - step->left + kx * step->dilation_columns;
          int32_t inside = from_x >= 0 && from_x < step->columns;
          uint8x16_t bytes = inside ? load_bytes(rows[ky * step->dilation_rows] + (ptrdiff_t)from_x * pixel + first, count) : outside;
          int8x16_t levels = vld1q_s8(tap);
          int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes))), by_low = vmovl_s8(vget_low_s8(levels));
          int16x8_t high = vreinterpretq_s16_u16(vmovl_high_u8(bytes)), by_high = vmovl_high_s8(levels);
          sums[0] = vmlal_s16(sums[0], vget_low_s16(low), vget_low_s16(by_low));
          sums[1] = vmlal_high_s16(sums[1], low, by_low);
          sums[2] = vmlal_s16(sums[2], vget_low_s16(high), vget_low_s16(by_high));
          sums[3] = vmlal_high_s16(sums[3], high, by_high);
        }
      store_bytes(outputs + (ptrdiff_t)x * pixel + first, codes_of(sums, &by, step->to_zero, step->least, step->most),
                  count);
    }
  }
}

static void depthwise_rows(const eq_step *step, const uint8_t *const *rows, int32_t count, const int8_t *weights,
                           const int32_t *biases, const float *multipliers, uint8_t *outputs) {
  for (; count > 0; count--, rows += step->stride_rows, outputs += step->out_columns * step->channels)
    depthwise_row(step, rows, weights, biases, multipliers, outputs);
}

static void decode(const eq_packed *packed, int32_t groups, int8_t *levels) {
  eq_portable.decode(packed, groups, levels);
}

/* --- values one by one -------------------------------------------------------------------------------------------- */

static inline void floats_of(const uint8_t *codes, float32x4_t *made) {
  uint8x16_t bytes = vld1q_u8(codes);
  uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
  made[0] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(low)));
  made[1] = vcvtq_f32_u32(vmovl_high_u16(low));
  made[2] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(high)));
  made[3] = vcvtq_f32_u32(vmovl_high_u16(high));
}

static void add_bytes(const eq_step *step, const uint8_t *a, const uint8_t *b, uint8_t *sum, int32_t count) {
  float ratio = step->from_scale / step->to_scale, other_ratio = step->other_scale / step->to_scale;
  float32x4_t of_a = vdupq_n_f32(ratio), of_b = vdupq_n_f32(other_ratio);
  float32x4_t moved =
      vfmaq_f32(vdupq_n_f32(other_ratio * (float)step->other_zero), of_a, vdupq_n_f32((float)step->from_zero));
  float32x4_t fixed = vsubq_f32(vdupq_n_f32((float)step->to_zero), moved);
  int32_t i;
  int j;
  for (i = 0; i + 16 <= count; i += 16) {
    float32x4_t first[4], second[4];
    int32x4_t whole[4];
    floats_of(a + i, first);
    floats_of(b + i, second);
    for (j = 0; j < 4; j++) whole[j] = vcvtnq_s32_f32(vfmaq_f32(vfmaq_f32(fixed, of_b, second[j]), of_a, first[j]));
    vst1q_u8(sum + i, bytes_of(whole, 0));
  }
  eq_portable.add_bytes(step, a + i, b + i, sum + i, count - i);
}

static void quantize_pixels(const eq_step *step, const float *values, int32_t plane, int32_t begin, int32_t end,
                            uint8_t *codes) {
  const float32x4_t scale = vdupq_n_f32(step->to_scale), lowest = vdupq_n_f32((float)-step->to_zero);
  int32_t i, c;
  int j;
  for (i = begin; i + 16 <= end; i += 16, codes += 16 * step->channels)
    for (c = 0; c < step->channels; c++) {
      const float *from = values + (size_t)c * (size_t)plane + i;
      uint8_t made[16], *to = codes + c;
      int32x4_t whole[4];
      /* the larger of something and no number is the number here */
      for (j = 0; j < 4; j++) whole[j] = vcvtnq_s32_f32(vmaxnmq_f32(vdivq_f32(vld1q_f32(from + 4 * j), scale), lowest));
      vst1q_u8(made, bytes_of(whole, step->to_zero));
      for (j = 0; j < 16; j++, to += step->channels) *to = made[j];
    }
  eq_portable.quantize_pixels(step, values, plane, i, end, codes);
}

const eq_primitives eq_neon = {"NEON", multiply_rows, depthwise_rows, decode, add_bytes, quantize_pixels};

#else

typedef int eq_no_neon; /* a file of C has something in it */

#endif
