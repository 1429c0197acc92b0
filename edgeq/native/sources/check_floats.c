/* Whether steps in float stay within their memory. */
#include "places.h"

/* What loops at a place in the weights reach: for each operand, how many elements its last one is behind the first. */
typedef struct {
  int64_t turns, reach[3];
} span;

/* Add the loops at a place to what others reach. */
static int add_span(const eq_program *program, int32_t where, int32_t operands, span *found) {
  const int32_t *about = (const int32_t *)(const void *)(program->weights + where);
  int32_t count, i, d;
  if (!in_weights(program, where, 4)) return 0;
  count = about[0];
  if (!between(count, 1, EQ_DIMENSIONS) || !in_weights(program, where, 4 + 4 * (int64_t)count * (operands + 1))) return 0;
  for (d = 0; d < count; d++) {
    if (about[1 + d] < 1) return 0;
    found->turns = times(found->turns, about[1 + d]);
    for (i = 0; i < operands; i++) {
      int32_t stride = about[1 + (i + 1) * count + d];
      if (stride < 0) return 0;
      found->reach[i] += times(about[1 + d] - 1, stride);
    }
  }
  return found->turns <= LARGEST;
}

static int floats_in(const eq_program *program, int32_t constant, int32_t place, int64_t last, range *found) {
  int64_t bytes = times(last + 1, 4);
  return constant ? in_weights(program, place, bytes) : in_arena(program, place, bytes, 4, found);
}

/* Places of a list in the weights, all of which exist. */
static int are_places(const eq_program *program, int32_t where, int64_t count, int32_t most) {
  const int32_t *list = (const int32_t *)(const void *)(program->weights + where);
  int64_t i;
  if (!in_weights(program, where, times(count, 4))) return 0;
  for (i = 0; i < count; i++)
    if (!between(list[i], 0, most - 1)) return 0;
  return 1;
}

static int is_resampling(const eq_program *program, const eq_step *s, range *from, range *to) {
  int64_t taps = times(s->out_columns, s->kernel_columns);
  return are_places(program, s->offsets, taps, s->columns) && in_weights(program, s->multipliers, times(taps, 4)) &&
         floats_in(program, s->flags & EQ_FROM_CONSTANT, s->from, volume(s->out_rows, s->columns, s->channels) - 1, from) &&
         floats_in(program, 0, s->to, volume(s->out_rows, s->out_columns, s->channels) - 1, to);
}

static int is_pool(const eq_program *program, const eq_step *s, range *from, range *to) {
  return s->rows >= 1 && between(s->above, 0, LARGEST) && between(s->left, 0, LARGEST) && s->stride_rows >= 1 &&
         s->stride_columns >= 1 && s->dilation_rows >= 1 && s->dilation_columns >= 1 &&
         times(s->out_rows, s->stride_rows) + times(s->kernel_rows, s->dilation_rows) <= LARGEST &&
         times(s->out_columns, s->stride_columns) + times(s->kernel_columns, s->dilation_columns) <= LARGEST &&
         (int64_t)s->rows + s->above <= LARGEST && (int64_t)s->columns + s->left <= LARGEST &&
         floats_in(program, s->flags & EQ_FROM_CONSTANT, s->from, volume(s->rows, s->columns, s->channels) - 1, from) &&
         floats_in(program, 0, s->to, volume(s->out_rows, s->out_columns, s->channels) - 1, to);
}

/* Shares of codes: bytes, by a table of 256 floats. */
static int is_softmax(const eq_program *program, const eq_step *s, range *from, range *to) {
  span over = {1, {0, 0, 0}};
  return add_span(program, s->weights, 2, &over) && add_span(program, s->offsets, 2, &over) &&
         in_weights(program, s->multipliers, 1024) && in_arena(program, s->from, over.reach[0] + 1, 1, from) &&
         in_arena(program, s->to, over.reach[1] + 1, 1, to) && between(s->to_zero, 0, 255);
}

int eq_floats_fit(const eq_program *program, const eq_step *s, range *from, range *other, range *to) {
  int32_t held = s->flags & EQ_FROM_CONSTANT, other_held = s->flags & EQ_OTHER_CONSTANT;
  span over = {1, {0, 0, 0}};
  if (s->channels < 1 || s->columns < 1 || s->out_rows < 1 || s->out_columns < 1 || s->out_channels < 1) return 0;
  if (s->kernel_rows < 1 || s->kernel_columns < 1 || s->stride_rows < 0 || s->stride_columns < 0) return 0;
  switch (s->kind) {
    case EQ_POINTWISE:
      over.reach[0] = times(s->out_rows, s->out_columns) - 1;
      return floats_in(program, held, s->from, over.reach[0], from) && floats_in(program, 0, s->to, over.reach[0], to);
    case EQ_COMBINE:
      return add_span(program, s->weights, 3, &over) && floats_in(program, held, s->from, over.reach[0], from) &&
             floats_in(program, other_held, s->other, over.reach[1], other) &&
             floats_in(program, 0, s->to, over.reach[2], to);
    case EQ_REDUCE:
    case EQ_ORDER:
      if (!add_span(program, s->weights, 2, &over) || !add_span(program, s->offsets, 1, &over)) return 0;
      if (s->kind == EQ_ORDER) over.reach[1] += times(s->out_channels - 1, s->stride_rows);
      return floats_in(program, held, s->from, over.reach[0], from) && floats_in(program, 0, s->to, over.reach[1], to);
    case EQ_NORMALIZE:
      return add_span(program, s->weights, 3, &over) && add_span(program, s->offsets, 3, &over) &&
             (s->multipliers < 0 || in_weights(program, s->multipliers, times(over.reach[2] + 1, 4))) &&
             (s->biases < 0 || in_weights(program, s->biases, times(over.reach[2] + 1, 4))) &&
             floats_in(program, held, s->from, over.reach[0], from) && floats_in(program, 0, s->to, over.reach[1], to);
    case EQ_SOFTMAX_CODES: return is_softmax(program, s, from, to);
    case EQ_CONTRACT:
      return add_span(program, s->weights, 3, &over) &&
             floats_in(program, held, s->from, over.reach[0] + times(s->channels - 1, s->stride_rows), from) &&
             floats_in(program, other_held, s->other, over.reach[1] + times(s->channels - 1, s->stride_columns), other) &&
             floats_in(program, 0, s->to, over.reach[2], to);
    case EQ_RESAMPLE: return is_resampling(program, s, from, to);
    case EQ_POOL_FLOATS: return is_pool(program, s, from, to);
    case EQ_PICK:
      if (!add_span(program, s->weights, 3, &over)) return 0;
      over.reach[s->groups == EQ_TAKE ? 0 : 2] += times(s->channels - 1, s->stride_rows);
      return floats_in(program, held, s->from, over.reach[0], from) &&
             floats_in(program, other_held, s->other, over.reach[1], other) &&
             floats_in(program, 0, s->to, over.reach[2], to);
  }
  return 0;
}
