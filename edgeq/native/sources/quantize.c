/* Fake quantization to uint8 (edgeq/quantization/native_quantizer.py), number by number as torch computes it: divide by
 * the scale, round half to even, add the zero point, saturate; and back. Networks run without it. */
#include "encode.h"
#include <math.h>

static float clamped(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

CLONES void eq_to_codes(ptrdiff_t count, const float *restrict x, float scale, int32_t zero, uint8_t *restrict codes) {
  ptrdiff_t i;
  for (i = 0; i < count; i++) codes[i] = (uint8_t)(int32_t)clamped(rintf(x[i] / scale) + (float)zero, 0.0f, 255.0f);
}

CLONES void eq_from_codes(ptrdiff_t count, const uint8_t *restrict codes, float scale, int32_t zero, float *restrict x) {
  ptrdiff_t i;
  for (i = 0; i < count; i++) x[i] = (float)((int32_t)codes[i] - zero) * scale;
}

CLONES void eq_round_to_codes(ptrdiff_t count, const float *restrict x, float scale, int32_t zero,
                              float *restrict rounded) {
  const float low = (float)-zero, high = (float)(255 - zero);
  ptrdiff_t i;
  for (i = 0; i < count; i++) rounded[i] = clamped(rintf(x[i] / scale), low, high) * scale;
}
