/* edgeq: quantized convolutional networks as plain C99.
 *
 * A network is a list of steps (`eq_step`), the bytes of its weights, and an arena that holds every value while it runs.
 * Nothing here allocates memory, reads files or keeps state: a network, its weights and its arena are the caller's.
 *
 * Maps are stored row by row with the channels last: value (y, x, c) of a map is at (y * columns + x) * channels + c.
 * A value is uint8, a code that stands for (code - zero) * scale, or float.
 *
 * Results are those of ONNX Runtime, bit for bit, where it computes in integers: sums in int32, then one product in
 * float, rounded to the nearest, halves to even. So it matters that compilers do not fuse products and sums:
 * -ffp-contract=off.
 */
#ifndef EDGEQ_H
#define EDGEQ_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define EQ_ALIGNED __attribute__((aligned(64)))
#else
#define EQ_ALIGNED
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum {
  EQ_QUANTIZE = 1,   /* floats to uint8; of an input, with the channels first, to one with the channels last */
  EQ_DEQUANTIZE,     /* uint8 to floats; of an output, to one with the channels first */
  EQ_COPY,           /* an input or output as it is: uint8 pixels, or floats like above */
  EQ_CONVOLUTION,
  EQ_DEPTHWISE,      /* a convolution of each channel by itself */
  EQ_ADD,
  EQ_MULTIPLY,
  EQ_TABLE,          /* each byte by a table of 256: activations, other scales */
  EQ_MAX_POOL,
  EQ_AVERAGE_POOL,
  EQ_GLOBAL_AVERAGE,
  EQ_MOVE,           /* elements from some strides to others: slices, joins, transpositions, blocks of pixels */
  EQ_GATHER,         /* elements by a list of indices */
  EQ_FILL,           /* with one pixel: borders */
  EQ_POINTWISE,      /* in float from here on: each value by itself */
  EQ_COMBINE,        /* pairs of values */
  EQ_REDUCE,         /* rows of values to one each */
  EQ_NORMALIZE,      /* rows of values to rows of as many */
  EQ_ORDER,          /* the largest or smallest of rows */
  EQ_CONTRACT,       /* products of matrices */
  EQ_RESAMPLE,       /* along one dimension: other sizes of maps */
  EQ_POOL_FLOATS,
  EQ_PICK,           /* from or to places that are computed */
  EQ_SOFTMAX_CODES   /* of codes, by a table of their exponentials */
};

enum {
  EQ_TO_FLOAT = 1,   /* a convolution whose sums become floats */
  EQ_SMALL = 2,      /* all levels of the weights are within -63..63 */
  EQ_ROWS = 4,       /* one of several steps that are computed together, row by row */
  EQ_COUNT_PADDING = 8,
  EQ_FLOATS = 16,    /* elements are of 4 bytes, not one */
  EQ_FROM_CONSTANT = 32, /* `from` is in the weights */
  EQ_OTHER_CONSTANT = 64, /* and `other` */
  EQ_INTEGER = 128       /* sums are scaled in integers, see integer.c */
};

/* What a step in float computes: its `groups`. Of one value; parameters are the three scales in their order. */
enum {
  EQ_ABS = 1, EQ_ACOS, EQ_ACOSH, EQ_ASIN, EQ_ASINH, EQ_ATAN, EQ_ATANH, EQ_CEIL, EQ_CELU, EQ_CLIP, EQ_COS, EQ_COSH,
  EQ_ELU, EQ_ERF, EQ_EXP, EQ_EXP2, EQ_EXPM1, EQ_FLOOR, EQ_GELU, EQ_GELU_TANH, EQ_HARDSHRINK, EQ_HARDSIGMOID,
  EQ_HARDSWISH, EQ_IS_INFINITE, EQ_IS_NAN, EQ_LEAKY_RELU, EQ_LOG, EQ_LOG10, EQ_LOG1P, EQ_LOG2, EQ_MISH, EQ_NOT,
  EQ_RECIPROCAL, EQ_REPLACE, EQ_NEAREST, EQ_RSQRT, EQ_SIGMOID, EQ_SIGN, EQ_SIN, EQ_SINH, EQ_SOFTPLUS, EQ_SOFTSHRINK,
  EQ_SQRT, EQ_SQUARE, EQ_TAN, EQ_TANH, EQ_THRESHOLD, EQ_TRUNC
};

/* Of two values; the last three choose. */
enum {
  EQ_SUM = 1, EQ_DIFFERENCE, EQ_PRODUCT, EQ_QUOTIENT, EQ_LARGER, EQ_SMALLER, EQ_POWER, EQ_REMAINDER, EQ_EQUAL,
  EQ_UNEQUAL, EQ_LESS, EQ_LESS_EQUAL, EQ_AND, EQ_OR, EQ_XOR, EQ_WHERE, EQ_WHERE_NOT, EQ_PRELU
};

/* Of rows: to one value, or to as many. */
enum {
  EQ_TOTAL = 1, EQ_LARGEST, EQ_SMALLEST, EQ_PLACE_OF_LARGEST, EQ_PLACE_OF_SMALLEST, EQ_L1, EQ_L2, EQ_EXPONENTIALS,
  EQ_VARIANCE, EQ_PRODUCT_OF_ALL, EQ_SOFTMAX, EQ_LOG_SOFTMAX, EQ_RUNNING_SUM, EQ_STANDARD, EQ_RMS
};

/* With places that are computed. */
enum { EQ_TAKE = 1, EQ_PUT, EQ_ACCUMULATE };

#define EQ_TOGETHER 8  /* steps that are computed together, at most */
#define EQ_DIMENSIONS 8 /* of what is moved, at most */
#define EQ_THREADS 256  /* that run a network together, at most */

/* One step. Every member has 32 bits. `from`, `other`, `to` and `scratch` are bytes from the start of the arena, or, if
 * negative, -1 - n for input or output n; `weights`, `trellis`, `multipliers`, `biases` and `offsets` are bytes from
 * the start of the weights. Of a sum or product, `stride_rows`, `stride_columns` and `groups` are how many elements of
 * `other` a row, a pixel and a channel are apart: 0 where it has one for all. */
typedef struct {
  int32_t kind, flags;
  int32_t from, other, to;
  int32_t rows, columns, channels;             /* of the map that is read */
  int32_t out_rows, out_columns, out_channels; /* and of the one that is made */
  int32_t kernel_rows, kernel_columns, stride_rows, stride_columns, dilation_rows, dilation_columns;
  int32_t above, left;                         /* padding; what is missing below and on the right follows */
  int32_t groups, per_byte;                    /* per_byte: weights in a byte */
  int32_t weights, trellis;                    /* trellis: what bytes below 8 bits stand for, see trellis.h */
  int32_t multipliers, biases, offsets;
  int32_t from_kept, other_kept, to_kept;      /* rows that are kept of each map: a ring, or all */
  int32_t from_zero, other_zero, to_zero;
  int32_t least, most;                         /* codes that are made, of a layer */
  float from_scale, other_scale, to_scale;
  int32_t scratch, scratch_bytes;              /* room for the step itself, of which each thread has its own */
  int32_t decoded;                             /* bytes of it that hold decoded weights */
  int32_t together;                            /* how many steps from here on are computed row by row; else 1 */
} eq_step;

typedef struct {
  const eq_step *steps;
  int32_t count;
  const int8_t *windows[8]; /* by weights a byte, less one: what bytes stand for, to look up fast, see trellis.h; or NULL */
} eq_network;

/* Threads that run a network together. Each of them runs it as another `part` of `parts`, of which there are as many as
 * the network has room for, or fewer; `wait` returns when all of them have called it. */
typedef struct {
  int32_t part, parts;
  void (*wait)(void *barrier);
  void *barrier;
} eq_team;

typedef struct {
  const uint8_t *weights;
  const int8_t *const *windows;
  uint8_t *arena;
  const void *const *inputs;
  void *const *outputs;
  int32_t part;        /* whose own memory is used: scratch, and rows that are kept of maps */
  int32_t unit, units; /* of a convolution's units, which each have 64 output channels, every `units`th from `unit` on */
} eq_context;

/* What computes rows `begin` to `end` of a step; `prepare` comes before all rows of a step with EQ_ROWS. */
typedef void (*eq_perform)(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
typedef void (*eq_prepare)(const eq_context *context, const eq_step *step);

/* Run a network, alone if `team` is NULL. `weights` and `arena` start at multiples of 64. */
void eq_run(const eq_network *network, const uint8_t *weights, const void *const *inputs, void *const *outputs,
            void *arena, eq_perform perform, eq_prepare prepare, const eq_team *team);

/* A barrier for a team whose threads have a CPU each: they spin. All members are 0 at first, but `parts`. */
typedef struct {
  int32_t parts, arrived, round;
} eq_barrier;

void eq_wait(void *barrier);

/* The kernels, one a kind; each computes rows `begin` to `end` of what its step makes. */
void eq_quantize(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
void eq_dequantize(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
void eq_copy(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
void eq_convolution(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
void eq_depthwise(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
void eq_add(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
void eq_multiply(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
void eq_table(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
void eq_max_pool(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
void eq_average_pool(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
void eq_global_average(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
void eq_move(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
void eq_gather(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
void eq_fill(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
void eq_pointwise(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
void eq_combine(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
void eq_reduce(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
void eq_normalize(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
void eq_order(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
void eq_contract(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
void eq_resample(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
void eq_pool_floats(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
void eq_pick(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);
void eq_softmax_codes(const eq_context *context, const eq_step *step, int32_t begin, int32_t end);

/* Decode all weights of a convolution to its scratch. */
void eq_decode_convolution(const eq_context *context, const eq_step *step);
void eq_decode_depthwise(const eq_context *context, const eq_step *step);

#ifdef __cplusplus
}
#endif

#endif
