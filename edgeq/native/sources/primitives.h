/* The inner loops, of which there is one set for each instruction set. All of a kind compute the same. */
#ifndef EDGEQ_PRIMITIVES_H
#define EDGEQ_PRIMITIVES_H

#include "edgeq.h"

/* Sets for the instructions of x86 processors are compiled besides, and chosen while it runs. */
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__)) && !defined(EQ_PORTABLE)
#define EQ_X86
#endif
#if defined(EQ_X86) && !defined(__clang__) && __GNUC__ >= 12 /* clang cannot ask a processor for it */
#define EQ_X86_AVX_VNNI
#endif

/* ARM processors get what the compiler is told that they have. */
#if defined(__aarch64__) && defined(__ARM_NEON) && !defined(EQ_PORTABLE)
#define EQ_NEON
#endif

#if defined(__wasm_simd128__) && !defined(EQ_PORTABLE)
#define EQ_SIMD128
#endif

#define EQ_LANES 16 /* channels that are decoded and computed side by side */
#define EQ_DEPTH 4  /* inputs that are multiplied and added at once */
#define EQ_WEIGHTS 8 /* the most weights of a byte */

/* A number of output channels, whose sums become bytes by `multipliers`, or floats by `multipliers` and `offsets`. */
typedef struct {
  const int8_t *weights; /* [depth / EQ_DEPTH][channels, rounded up to EQ_LANES][EQ_DEPTH] */
  const int32_t *biases;
  const float *multipliers;
  const float *offsets; /* NULL for bytes */
  int32_t channels;
  int32_t depth; /* inputs, rounded up to EQ_DEPTH; those that do not exist are 0 */
  int32_t zero, least, most;
  int32_t small;   /* whether all weights are within -63..63 */
  int32_t integer; /* whether sums are scaled in integers */
} eq_unit;

/* `count` pixels: `inputs` has `depth` bytes for each of them, `stride` bytes apart; what is made of one goes to
 * `outputs`, `out_stride` elements apart. */
typedef void (*eq_multiply_rows)(const eq_unit *unit, const uint8_t *inputs, size_t stride, int32_t count,
                                 void *outputs, size_t out_stride);

/* `count` rows of a depthwise convolution: the kernel's row `ky` reads, for output row `y`, row
 * `rows[y * stride_rows + ky * dilation_rows]`, of `step->columns` pixels. `weights` are [tap][lanes] for each EQ_LANES
 * channels. */
typedef void (*eq_depthwise_rows)(const eq_step *step, const uint8_t *const *rows, int32_t count, const int8_t *weights,
                                  const int32_t *biases, const float *multipliers, uint8_t *outputs);

/* Packed weights of some output channels: EQ_DEPTH bytes for each row of channels, the rows of a group of inputs beside
 * each other; the next group is `pitch` bytes on. The first `lead` channels of the first row are left out. Below 8 bits,
 * rows are in sequences of `length`, and what a byte stands for depends on that of the row before it, or of the first in
 * a sequence, of its last row. */
typedef struct {
  const uint8_t *bytes, *trellis; /* trellis: what bytes stand for, see trellis.h; NULL at 8 bits */
  const int8_t *windows;          /* the same; NULL for none */
  int32_t weights_a_byte;
  int32_t pitch;
  int32_t length, place; /* place: of the first row in its sequence */
  int32_t lead;
  int32_t channels, lanes; /* lanes: channels, rounded up to EQ_LANES */
} eq_packed;

/* To levels [group][lanes][EQ_DEPTH] of so many groups of inputs; lanes beyond the channels are 0. */
typedef void (*eq_decode)(const eq_packed *packed, int32_t groups, int8_t *levels);

typedef void (*eq_add_bytes)(const eq_step *step, const uint8_t *a, const uint8_t *b, uint8_t *sum, int32_t count);

/* Floats with the channels first to bytes with the channels last: pixels `begin` to `end` of `plane`. */
typedef void (*eq_quantize_pixels)(const eq_step *step, const float *values, int32_t plane, int32_t begin, int32_t end,
                                   uint8_t *codes);

typedef struct {
  const char *name;
  eq_multiply_rows multiply_rows;
  eq_depthwise_rows depthwise_rows;
  eq_decode decode;
  eq_add_bytes add_bytes;
  eq_quantize_pixels quantize_pixels;
} eq_primitives;

/* The sets that this processor has, the fastest first; NULL behind the last. */
const eq_primitives *eq_set(int32_t place);

/* The fastest one. */
const eq_primitives *eq_here(void);

extern const eq_primitives eq_portable;
#ifdef EQ_X86
extern const eq_primitives eq_avx2, eq_vnni;
#endif
#ifdef EQ_X86_AVX_VNNI
extern const eq_primitives eq_avx_vnni;
#endif
#ifdef EQ_NEON
extern const eq_primitives eq_neon;
#endif
#ifdef EQ_SIMD128
extern const eq_primitives eq_simd128;
#endif

/* Adding and subtracting it rounds a float to a whole number, halves to even, up to 2^22. */
#define EQ_ROUND 12582912.0f

static inline float eq_within(float value, float low, float high) {
  value = value > low ? value : low;
  return value < high ? value : high;
}

/* A sum as the code of an output, within `least..most`. */
static inline uint8_t eq_requantize(int32_t sum, float multiplier, int32_t zero, int32_t least, int32_t most) {
  float value = eq_within((float)sum * multiplier, (float)(least - zero), (float)(most - zero));
  value = (value + EQ_ROUND) - EQ_ROUND;
  return (uint8_t)((int32_t)value + zero);
}

/* The same in integers: the exact product with the multiplier's 24 bits. */
uint8_t eq_requantize_integer(int32_t sum, float multiplier, int32_t zero, int32_t least, int32_t most);

/* The inner loops for a step: in integers there are only the portable ones. */
static inline const eq_primitives *eq_set_of(const eq_step *step) {
  return step->flags & EQ_INTEGER ? &eq_portable : eq_here();
}

/* The code of a float: divided, rounded, moved. */
static inline uint8_t eq_code(float value, float scale, int32_t zero) {
  value = eq_within(value / scale, (float)-zero, (float)(255 - zero));
  value = (value + EQ_ROUND) - EQ_ROUND;
  return (uint8_t)((int32_t)value + zero);
}

static inline int32_t eq_up_to(int32_t value, int32_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

static inline int32_t eq_least(int32_t a, int32_t b) { return a < b ? a : b; }

/* Where a value is that may be an input of the network. */
static inline const uint8_t *eq_source(const eq_context *context, int32_t value) {
  return value < 0 ? (const uint8_t *)context->inputs[-1 - value] : context->arena + value;
}

/* Where a value is that may be an output of the network. */
static inline uint8_t *eq_target(const eq_context *context, int32_t value) {
  return value < 0 ? (uint8_t *)context->outputs[-1 - value] : context->arena + value;
}

/* Row `y` of a map of which `kept` of `rows` rows are kept, of `bytes` each: bytes from its start. If these are not all,
 * every thread has its own. */
static inline size_t eq_row(const eq_context *context, int32_t y, int32_t rows, int32_t kept, size_t bytes) {
  size_t own = kept < rows ? ((size_t)kept * bytes + 63) / 64 * 64 * (size_t)context->part : 0;
  return own + (size_t)(y % kept) * bytes;
}

/* Row `y` of what a step reads and makes. */
static inline const uint8_t *eq_row_from(const eq_context *context, const eq_step *step, int32_t y, size_t bytes) {
  return eq_source(context, step->from) + eq_row(context, y, step->rows, step->from_kept, bytes);
}

static inline uint8_t *eq_row_to(const eq_context *context, const eq_step *step, int32_t y, size_t bytes) {
  return context->arena + step->to + eq_row(context, y, step->out_rows, step->to_kept, bytes);
}

static inline uint8_t *eq_scratch(const eq_context *context, const eq_step *step) {
  return context->arena + step->scratch + (size_t)context->part * (size_t)step->scratch_bytes;
}

/* How many output channels are decoded together, a unit: as many as whole bytes hold, or else 64. */
static inline int32_t eq_unit_channels(int32_t weights_a_byte) { return weights_a_byte % 3 ? 64 : 48; }

#endif
