/* Scaling without floats, for processors that have none: exact products, rounded to the nearest, halves to even.
 *
 * ONNX Runtime rounds products to float first, so one in about a hundred thousand comes out one step apart.
 */
#include "integer.h"

#include <string.h>

#define FAR ((int64_t)1 << 40) /* beyond all codes */
#define LONGEST 62             /* a shift, for which there is room */

/* A positive float as `mantissa * 2^-shift`. */
static int64_t parts(float value, int32_t *shift) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  *shift = 150 - (int32_t)(bits >> 23);
  return (int64_t)((bits & 0x7fffffu) | 0x800000u);
}

static int64_t rounded(int64_t value, int32_t shift) {
  if (shift < 1) return value < 0 ? -FAR : value > 0 ? FAR : 0;
  shift = shift < LONGEST ? shift : LONGEST;
  return (value + ((int64_t)1 << (shift - 1)) - 1 + ((value >> shift) & 1)) >> shift;
}

static uint8_t code(int64_t value, int32_t least, int32_t most) {
  return (uint8_t)(value < least ? least : value > most ? most : value);
}

uint8_t eq_requantize_integer(int32_t sum, float multiplier, int32_t zero, int32_t least, int32_t most) {
  int32_t shift;
  int64_t mantissa = parts(multiplier, &shift);
  return code(rounded(sum * mantissa, shift) + zero, least, most);
}

void eq_add_integer(const eq_step *step, const uint8_t *a, const uint8_t *b, uint8_t *sum, int32_t count) {
  int32_t shift_a, shift_b, shift, i;
  int64_t of_a = parts(step->from_scale / step->to_scale, &shift_a);
  int64_t of_b = parts(step->other_scale / step->to_scale, &shift_b);
  /* one shift for both: the finer one, unless the coarser one has no room for it */
  int32_t coarse = eq_least(shift_a, shift_b);
  shift = eq_least(shift_a + shift_b - coarse, coarse + 24);
  of_a = shift_a > shift ? of_a >> eq_least(shift_a - shift, LONGEST) : of_a << (shift - shift_a);
  of_b = shift_b > shift ? of_b >> eq_least(shift_b - shift, LONGEST) : of_b << (shift - shift_b);
  for (i = 0; i < count; i++) {
    int64_t value = (a[i] - step->from_zero) * of_a + (b[i] - step->other_zero) * of_b;
    sum[i] = code(rounded(value, shift) + step->to_zero, 0, 255);
  }
}
