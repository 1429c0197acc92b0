/* Steps in float: what no quantizer stands between. Values lie in the arena as codes do, maps with the channels last.
 *
 * A step says by sizes and strides which elements belong together, so one kernel serves every axis, every broadcast and
 * every order of dimensions. Sums are made in double: they are then right to the last bit or nearly so, in any order.
 */
#include "primitives.h"

#include <math.h>
#include <string.h>

#define OPERANDS 3 /* that have strides of their own, at most */

/* Loops over dimensions: the last one varies fastest. In the weights they are how many there are, their sizes, and for
 * each operand how many elements apart neighbours are. */
typedef struct {
  int32_t count;
  const int32_t *sizes, *strides[OPERANDS];
  int32_t operands;
  int32_t at[EQ_DIMENSIONS];
  ptrdiff_t places[OPERANDS]; /* of the element that the loops are at */
} loops;

static loops loops_of(const eq_context *context, int32_t where, int32_t operands) {
  const int32_t *about = (const int32_t *)(const void *)(context->weights + where);
  loops found;
  int32_t i;
  memset(&found, 0, sizeof found);
  found.count = about[0];
  found.sizes = about + 1;
  found.operands = operands;
  for (i = 0; i < operands; i++) found.strides[i] = found.sizes + (i + 1) * found.count;
  return found;
}

/* Go on to the next element of the first `count` loops; 0 behind the last one, when they are back at the start. */
static int next(loops *over, int32_t count) {
  int32_t d, i;
  for (d = count - 1; d >= 0; d--) {
    for (i = 0; i < over->operands; i++) over->places[i] += over->strides[i][d];
    if (++over->at[d] < over->sizes[d]) return 1;
    for (i = 0; i < over->operands; i++) over->places[i] -= (ptrdiff_t)over->strides[i][d] * over->sizes[d];
    over->at[d] = 0;
  }
  return 0;
}

static const float *floats_at(const eq_context *context, int32_t place) {
  return (const float *)(const void *)(context->weights + place);
}

static const float *from_of(const eq_context *context, const eq_step *step) {
  if (step->flags & EQ_FROM_CONSTANT) return floats_at(context, step->from);
  return (const float *)(const void *)(context->arena + step->from);
}

static const float *other_of(const eq_context *context, const eq_step *step) {
  if (step->flags & EQ_OTHER_CONSTANT) return floats_at(context, step->other);
  return (const float *)(const void *)(context->arena + step->other);
}

static float *to_of(const eq_context *context, const eq_step *step) {
  return (float *)(void *)(context->arena + step->to);
}

/* --- every value by itself ---------------------------------------------------------------------------------------- */

static float softplus(float x) { return x > 0.0f ? x + log1pf(expf(-x)) : log1pf(expf(x)); }

static float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

static float function_of(int32_t function, float x, float a, float b, float c) {
  switch (function) {
    case EQ_ABS: return fabsf(x);
    case EQ_ACOS: return acosf(x);
    case EQ_ACOSH: return acoshf(x);
    case EQ_ASIN: return asinf(x);
    case EQ_ASINH: return asinhf(x);
    case EQ_ATAN: return atanf(x);
    case EQ_ATANH: return atanhf(x);
    case EQ_CEIL: return ceilf(x);
    case EQ_CELU: return x > 0.0f ? x : a * expm1f(x / a);
    case EQ_CLIP: return x < a ? a : x > b ? b : x;
    case EQ_COS: return cosf(x);
    case EQ_COSH: return coshf(x);
    case EQ_ELU: return x > 0.0f ? b * x : b * a * expm1f(c * x);
    case EQ_ERF: return erff(x);
    case EQ_EXP: return expf(x);
    case EQ_EXP2: return exp2f(x);
    case EQ_EXPM1: return expm1f(x);
    case EQ_FLOOR: return floorf(x);
    case EQ_GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case EQ_GELU_TANH: return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    case EQ_HARDSHRINK: return fabsf(x) <= a ? 0.0f : x;
    case EQ_HARDSIGMOID: return eq_within(x / 6.0f + 0.5f, 0.0f, 1.0f);
    case EQ_HARDSWISH: return x * eq_within(x / 6.0f + 0.5f, 0.0f, 1.0f);
    case EQ_IS_INFINITE: return (float)(isinf(x) != 0);
    case EQ_IS_NAN: return (float)(isnan(x) != 0);
    case EQ_LEAKY_RELU: return x > 0.0f ? x : a * x;
    case EQ_LOG: return logf(x);
    case EQ_LOG10: return log10f(x);
    case EQ_LOG1P: return log1pf(x);
    case EQ_LOG2: return log2f(x);
    case EQ_MISH: return x * tanhf(softplus(x));
    case EQ_NOT: return (float)(x == 0.0f);
    case EQ_RECIPROCAL: return 1.0f / x;
    case EQ_REPLACE: return isnan(x) ? a : isinf(x) ? (x > 0.0f ? b : c) : x;
    case EQ_NEAREST: return rintf(x);
    case EQ_RSQRT: return 1.0f / sqrtf(x);
    case EQ_SIGMOID: return sigmoid(x);
    case EQ_SIGN: return (float)((x > 0.0f) - (x < 0.0f));
    case EQ_SIN: return sinf(x);
    case EQ_SINH: return sinhf(x);
    case EQ_SOFTPLUS: return softplus(x * a) / a;
    case EQ_SOFTSHRINK: return x > a ? x - a : x < -a ? x + a : 0.0f;
    case EQ_SQRT: return sqrtf(x);
    case EQ_SQUARE: return x * x;
    case EQ_TAN: return tanf(x);
    case EQ_TANH: return tanhf(x);
    case EQ_THRESHOLD: return x > a ? x : b;
    case EQ_TRUNC: return truncf(x);
  }
  return x;
}

/* The function of the number `groups`, whose parameters are the three scales. */
void eq_pointwise(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  const float *from = from_of(context, step);
  float *to = to_of(context, step), a = step->from_scale, b = step->other_scale, c = step->to_scale;
  int32_t i;
  for (i = begin * step->out_columns; i < end * step->out_columns; i++)
    to[i] = function_of(step->groups, from[i], a, b, c);
}

static float combined(int32_t function, float a, float b) {
  switch (function) {
    case EQ_SUM: return a + b;
    case EQ_DIFFERENCE: return a - b;
    case EQ_PRODUCT: return a * b;
    case EQ_QUOTIENT: return a / b;
    case EQ_LARGER: return isnan(a) || a > b ? a : b;
    case EQ_SMALLER: return isnan(a) || a < b ? a : b;
    case EQ_POWER: return powf(a, b);
    case EQ_REMAINDER: return fmodf(a, b);
    case EQ_EQUAL: return (float)(a == b);
    case EQ_UNEQUAL: return (float)(a != b);
    case EQ_LESS: return (float)(a < b);
    case EQ_LESS_EQUAL: return (float)(a <= b);
    case EQ_AND: return (float)(a != 0.0f && b != 0.0f);
    case EQ_OR: return (float)(a != 0.0f || b != 0.0f);
    case EQ_XOR: return (float)((a != 0.0f) != (b != 0.0f));
    case EQ_WHERE: return a != 0.0f ? b : 0.0f;
    case EQ_WHERE_NOT: return a != 0.0f ? 0.0f : b;
    case EQ_PRELU: return a > 0.0f ? a : a * b;
  }
  return a;
}

/* The function of the number `groups`, of pairs of values; loops over `from`, `other` and `to`. */
void eq_combine(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  loops over = loops_of(context, step->weights, 3);
  const float *from = from_of(context, step), *other = other_of(context, step);
  float *to = to_of(context, step);
  int32_t last = over.count - 1, i;
  ptrdiff_t sa = over.strides[0][last], sb = over.strides[1][last], st = over.strides[2][last];
  (void)begin;
  (void)end;
  do {
    const float *a = from + over.places[0], *b = other + over.places[1];
    float *made = to + over.places[2];
    for (i = 0; i < over.sizes[last]; i++, a += sa, b += sb, made += st) *made = combined(step->groups, *a, *b);
  } while (next(&over, last));
}

/* --- over some dimensions ----------------------------------------------------------------------------------------- */

/* A sum over the inner loops of `from`, of what the function makes of every value. */
static double summed(loops *inner, const float *from, int32_t function, float centre) {
  double sum = 0.0;
  do {
    double x = (double)from[inner->places[0]] - (double)centre;
    sum += function == EQ_L1 ? fabs(x) : function == EQ_TOTAL ? x : function == EQ_EXPONENTIALS ? exp(x) : x * x;
  } while (next(inner, inner->count));
  return sum;
}

/* The largest value, or the smallest; and the number of the first one of these. */
static float extreme(loops *inner, const float *from, int largest, int32_t *place) {
  float best = from[inner->places[0]];
  int32_t i = 0;
  *place = 0;
  while (i++, next(inner, inner->count)) {
    float x = from[inner->places[0]];
    if (isnan(x) || (largest ? x > best : x < best)) {
      best = x;
      *place = i;
    }
  }
  return best;
}

static int32_t elements(const loops *over) {
  int32_t count = 1, d;
  for (d = 0; d < over->count; d++) count *= over->sizes[d];
  return count;
}

/* A row of values to one, by the function of the number `groups`. `from_scale` is what a variance or sum is multiplied
 * with. */
static float reduced(const eq_step *step, loops *inner, const float *from) {
  int32_t place, count = elements(inner);
  double product = 1.0;
  float mean;
  switch (step->groups) {
    case EQ_TOTAL: return (float)(summed(inner, from, EQ_TOTAL, 0.0f) * (double)step->from_scale);
    case EQ_LARGEST: return extreme(inner, from, 1, &place);
    case EQ_SMALLEST: return extreme(inner, from, 0, &place);
    case EQ_PLACE_OF_LARGEST: extreme(inner, from, 1, &place); return (float)place;
    case EQ_PLACE_OF_SMALLEST: extreme(inner, from, 0, &place); return (float)place;
    case EQ_L1: return (float)summed(inner, from, EQ_L1, 0.0f);
    case EQ_L2: return (float)sqrt(summed(inner, from, EQ_L2, 0.0f));
    case EQ_EXPONENTIALS:
      mean = extreme(inner, from, 1, &place);
      if (isinf(mean)) return mean;
      return (float)(log(summed(inner, from, EQ_EXPONENTIALS, mean)) + (double)mean);
    case EQ_VARIANCE:
      mean = (float)(summed(inner, from, EQ_TOTAL, 0.0f) / count);
      return (float)(summed(inner, from, EQ_L2, mean) * (double)step->from_scale);
    case EQ_PRODUCT_OF_ALL:
      do product *= (double)from[inner->places[0]];
      while (next(inner, inner->count));
      return (float)product;
  }
  return 0.0f;
}

/* Loops at `weights` over the values that are made, in `from` and in `to`; loops at `offsets` over those that each is
 * made of. */
void eq_reduce(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  loops outer = loops_of(context, step->weights, 2), inner = loops_of(context, step->offsets, 1);
  const float *from = from_of(context, step);
  float *to = to_of(context, step);
  (void)begin;
  (void)end;
  do to[outer.places[1]] = reduced(step, &inner, from + outer.places[0]);
  while (next(&outer, outer.count));
}

/* Make a row of values from a row: `x -> (x - centre) * factor`, times a weight and plus a bias if there are any. */
static void scaled(const eq_step *step, loops *inner, const float *from, float *to, const float *weight,
                   const float *bias, double centre, double factor) {
  do {
    double value = ((double)from[inner->places[0]] - centre) * factor;
    if (step->multipliers >= 0) value *= (double)weight[inner->places[2]];
    if (step->biases >= 0) value += (double)bias[inner->places[2]];
    to[inner->places[1]] = (float)value;
  } while (next(inner, inner->count));
}

static void softmax(loops *inner, const float *from, float *to, int logarithm) {
  int32_t place;
  float most = extreme(inner, from, 1, &place);
  double sum = summed(inner, from, EQ_EXPONENTIALS, most), shift = log(sum);
  do {
    double x = (double)from[inner->places[0]] - (double)most;
    to[inner->places[1]] = logarithm ? (float)(x - shift) : (float)(exp(x) / sum);
  } while (next(inner, inner->count));
}

/* Rows of values to rows of as many, by the function of the number `groups`. Loops at `weights` over the rows, and at
 * `offsets` along each, have strides in `from`, in `to`, and in the floats at `multipliers` and `biases`; these are -1
 * where there are none. `from_scale` is what is added to a variance. */
void eq_normalize(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  loops outer = loops_of(context, step->weights, 3), inner = loops_of(context, step->offsets, 3);
  int32_t count = elements(&inner);
  (void)begin;
  (void)end;
  do {
    const float *from = from_of(context, step) + outer.places[0];
    float *to = to_of(context, step) + outer.places[1];
    const float *weight = step->multipliers < 0 ? NULL : floats_at(context, step->multipliers) + outer.places[2];
    const float *bias = step->biases < 0 ? NULL : floats_at(context, step->biases) + outer.places[2];
    double mean = 0.0, spread, sum = 0.0;
    switch (step->groups) {
      case EQ_SOFTMAX: softmax(&inner, from, to, 0); break;
      case EQ_LOG_SOFTMAX: softmax(&inner, from, to, 1); break;
      case EQ_RUNNING_SUM:
        do to[inner.places[1]] = (float)(sum += (double)from[inner.places[0]]);
        while (next(&inner, inner.count));
        break;
      default: /* EQ_STANDARD, EQ_RMS */
        if (step->groups == EQ_STANDARD) mean = summed(&inner, from, EQ_TOTAL, 0.0f) / count;
        do {
          double x = (double)from[inner.places[0]] - mean;
          sum += x * x;
        } while (next(&inner, inner.count));
        spread = sum / count + (double)step->from_scale;
        scaled(step, &inner, from, to, weight, bias, mean, 1.0 / sqrt(spread));
    }
  } while (next(&outer, outer.count));
}

/* Shares of rows of codes, as ONNX Runtime computes them but for one code in a million. At `multipliers` are 256
 * exponentials, the last of which a row's largest code gets; `to_scale` is how many steps a share of 1 has. Loops as of
 * `eq_normalize`, without weights. */
void eq_softmax_codes(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  loops outer = loops_of(context, step->weights, 2), inner = loops_of(context, step->offsets, 2);
  const float *table = floats_at(context, step->multipliers);
  (void)begin;
  (void)end;
  do {
    const uint8_t *from = context->arena + step->from + outer.places[0];
    uint8_t *to = context->arena + step->to + outer.places[1];
    const float *powers;
    int32_t most = 0;
    float sum = 0.0f;
    do most = from[inner.places[0]] > most ? from[inner.places[0]] : most;
    while (next(&inner, inner.count));
    powers = table + 255 - most;
    do sum += powers[from[inner.places[0]]];
    while (next(&inner, inner.count));
    do {
      float share = eq_within(powers[from[inner.places[0]]] / sum * step->to_scale, 0.0f, 255.0f);
      int32_t code = (int32_t)((share + EQ_ROUND) - EQ_ROUND) + step->to_zero;
      to[inner.places[1]] = (uint8_t)eq_least(code, 255);
    } while (next(&inner, inner.count));
  } while (next(&outer, outer.count));
}

/* The `out_channels` largest values of each row in their order, or the smallest, or their places, by the number
 * `groups`. Loops as of `eq_reduce`; those that are made of a row are `stride_rows` elements apart. Equal ones stay in
 * their order. */
void eq_order(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  loops outer = loops_of(context, step->weights, 2), inner = loops_of(context, step->offsets, 1);
  int largest = step->groups == EQ_LARGEST || step->groups == EQ_PLACE_OF_LARGEST;
  int wants_values = step->groups == EQ_LARGEST || step->groups == EQ_SMALLEST;
  int32_t size = inner.sizes[0], stride = inner.strides[0][0], k, i;
  (void)begin;
  (void)end;
  do {
    const float *from = from_of(context, step) + outer.places[0];
    float *to = to_of(context, step) + outer.places[1];
    int32_t last = -1;
    for (k = 0; k < step->out_channels; k++) {
      int32_t best = -1;
      for (i = 0; i < size; i++) { /* the best of those that come behind the last one */
        float x = from[(ptrdiff_t)i * stride], was = last < 0 ? 0.0f : from[(ptrdiff_t)last * stride];
        if (last >= 0 && !(x == was ? i > last : largest ? x < was : x > was)) continue;
        if (best < 0 || (largest ? x > from[(ptrdiff_t)best * stride] : x < from[(ptrdiff_t)best * stride])) best = i;
      }
      if (best < 0) break; /* what is no number has no order */
      to[(ptrdiff_t)k * step->stride_rows] = wants_values ? from[(ptrdiff_t)best * stride] : (float)best;
      last = best;
    }
  } while (next(&outer, outer.count));
}

/* --- products of matrices ----------------------------------------------------------------------------------------- */

/* Loops at `weights` over the values that are made, in `from`, `other` and `to`; each is a sum of `channels` products
 * of values that are `stride_rows` elements apart in `from` and `stride_columns` in `other`. */
void eq_contract(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  loops over = loops_of(context, step->weights, 3);
  int32_t last = over.count - 1, size = over.sizes[last], i, k;
  ptrdiff_t sa = over.strides[0][last], sb = over.strides[1][last], st = over.strides[2][last];
  (void)begin;
  (void)end;
  do {
    const float *a = from_of(context, step) + over.places[0], *b = other_of(context, step) + over.places[1];
    float *to = to_of(context, step) + over.places[2];
    if (sa == 0 && sb == 1 && st == 1) { /* rows of a matrix, side by side */
      for (i = 0; i < size; i++) to[i] = 0.0f;
      for (k = 0; k < step->channels; k++, a += step->stride_rows, b += step->stride_columns)
        for (i = 0; i < size; i++) to[i] += *a * b[i];
      continue;
    }
    for (i = 0; i < size; i++, a += sa, b += sb, to += st) {
      const float *x = a, *y = b;
      float sum = 0.0f;
      for (k = 0; k < step->channels; k++, x += step->stride_rows, y += step->stride_columns) sum += *x * *y;
      *to = sum;
    }
  } while (next(&over, last));
}

/* --- maps --------------------------------------------------------------------------------------------------------- */

/* Along one dimension, of `columns` places before and `out_columns` behind, for each of `out_rows`: every place gets
 * the largest, or a sum with weights, of `kernel_columns` others. At `offsets` are their numbers, at `multipliers` the
 * weights, place by place. A place is `channels` floats. */
void eq_resample(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  const int32_t *taps = (const int32_t *)(const void *)(context->weights + step->offsets);
  const float *weights = floats_at(context, step->multipliers);
  size_t size = (size_t)step->channels;
  int32_t y, x, t, c;
  for (y = begin; y < end; y++) {
    const float *from = from_of(context, step) + (size_t)y * (size_t)step->columns * size;
    float *to = to_of(context, step) + (size_t)y * (size_t)step->out_columns * size;
    for (x = 0; x < step->out_columns; x++, to += size)
      for (t = 0; t < step->kernel_columns; t++) {
        const float *tap = from + (size_t)taps[x * step->kernel_columns + t] * size;
        float weight = weights[x * step->kernel_columns + t];
        if (step->groups == EQ_LARGEST)
          for (c = 0; c < step->channels; c++) to[c] = t == 0 || tap[c] > to[c] ? tap[c] : to[c];
        else
          for (c = 0; c < step->channels; c++) to[c] = (t == 0 ? 0.0f : to[c]) + weight * tap[c];
      }
  }
}

/* The largest or the mean of each window, by the number `groups`. Padding counts with EQ_COUNT_PADDING, but not what is
 * beyond it. */
void eq_pool_floats(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  const float *from = from_of(context, step);
  int32_t channels = step->channels, y, x, ky, kx, c;
  for (y = begin; y < end; y++) {
    float *to = to_of(context, step) + (size_t)y * (size_t)step->out_columns * (size_t)channels;
    for (x = 0; x < step->out_columns; x++, to += channels) {
      int32_t top = y * step->stride_rows - step->above, left = x * step->stride_columns - step->left, count = 0;
      int32_t bottom = eq_least(top + step->kernel_rows, step->rows + step->above);
      int32_t right = eq_least(left + step->kernel_columns, step->columns + step->left);
      for (c = 0; c < channels; c++) to[c] = step->groups == EQ_LARGEST ? -INFINITY : 0.0f;
      for (ky = 0; ky < step->kernel_rows; ky++) {
        int32_t from_y = top + ky * step->dilation_rows;
        if (from_y < 0 || from_y >= step->rows) continue;
        for (kx = 0; kx < step->kernel_columns; kx++) {
          int32_t from_x = left + kx * step->dilation_columns;
          const float *pixel = from + ((size_t)from_y * (size_t)step->columns + (size_t)from_x) * (size_t)channels;
          if (from_x < 0 || from_x >= step->columns) continue;
          count++;
          if (step->groups == EQ_LARGEST)
            for (c = 0; c < channels; c++) to[c] = pixel[c] > to[c] ? pixel[c] : to[c];
          else
            for (c = 0; c < channels; c++) to[c] += pixel[c];
        }
      }
      if (step->groups == EQ_LARGEST) continue;
      if (step->flags & EQ_COUNT_PADDING) count = (bottom - top) * (right - left);
      for (c = 0; c < channels; c++) to[c] /= (float)count;
    }
  }
}

/* --- other places ------------------------------------------------------------------------------------------------- */

/* Loops over places that are computed, at `other`, over `from` and over `to`. The place, of `channels`, is counted in
 * `stride_rows` elements: of `from`, where values are taken; of `to`, where they are put or added. What is beyond the
 * last place is at the last. */
void eq_pick(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  loops over = loops_of(context, step->weights, 3);
  const float *from = from_of(context, step), *places = other_of(context, step);
  float *to = to_of(context, step);
  (void)begin;
  (void)end;
  do {
    float place = places[over.places[1]];
    float last = (float)step->channels - 1.0f;
    int32_t at = (int32_t)eq_within(place < 0.0f ? place + last + 1.0f : place, 0.0f, last);
    ptrdiff_t moved = (ptrdiff_t)at * step->stride_rows;
    if (step->groups == EQ_TAKE)
      to[over.places[2]] = from[over.places[0] + moved];
    else if (step->groups == EQ_PUT)
      to[over.places[2] + moved] = from[over.places[0]];
    else
      to[over.places[2] + moved] += from[over.places[0]];
  } while (next(&over, over.count));
}
