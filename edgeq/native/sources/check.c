/* Whether the steps of a file stay within their memory: a file is not trusted, and kernels check nothing. */
#include "places.h"
#include "trellis.h"

/* --- layers ------------------------------------------------------------------------------------------------------- */

/* Bytes of a layer's weights, and of those of its levels that are decoded at once: all, or a unit's. */
static void weight_sizes(const eq_program *program, const eq_step *step, int64_t *stored, int64_t *decoded) {
  int32_t alone = step->kind == EQ_DEPTHWISE, groups = alone ? 1 : step->groups, each = step->out_channels / groups;
  int32_t per_byte = step->per_byte, unit = eq_unit_channels(per_byte), group, first;
  int64_t depth = times(step->kernel_rows, step->kernel_columns), largest = 0, all = 0;
  if (!alone) depth = up_to(times(depth, step->channels / groups), EQ_DEPTH);
  *stored = times(eq_rows(step->out_channels, per_byte), depth);
  *decoded = 0;
  if (*stored > program->header->weights) return;
  for (group = 0; group < groups; group++)
    for (first = 0; first < each; first += unit) {
      int64_t levels = times(eq_up_to(eq_least(unit, each - first), EQ_LANES), depth);
      all += levels;
      largest = levels > largest ? levels : largest;
    }
  *decoded = alone || step->flags & EQ_ROWS ? all : largest;
}

/* Scratch behind the levels: a row of zeros and a pointer to each row that is read, or a row of patches. */
static int64_t layer_scratch(const eq_step *step) {
  int64_t inputs = volume(step->kernel_rows, step->kernel_columns, step->channels / step->groups);
  int64_t read = times(step->out_rows - 1, step->stride_rows) + times(step->kernel_rows - 1, step->dilation_rows) + 1;
  if (step->kind == EQ_CONVOLUTION) return times(up_to(inputs, EQ_DEPTH), step->out_columns);
  return up_to(times(step->columns, step->channels), ALIGNED) + times((int64_t)sizeof(void *), read);
}

/* Whether what tells levels of bytes is there, and leads to none beyond its tables. */
static int is_trellis(const eq_program *program, const eq_step *step) {
  const uint8_t *starts;
  eq_steps by;
  int32_t i, node;
  if (!between(step->per_byte, 2, EQ_WEIGHTS)) return 0;
  by = eq_steps_of(step->per_byte);
  if (!by.steps || !in_weights(program, step->trellis, by.steps * EQ_NODES + by.bytes)) return 0;
  starts = program->weights + step->trellis;
  for (i = 0; i < by.steps; i++)
    for (node = 0; node < EQ_NODES; node++)
      if (starts[EQ_NODES * i + node] >= by.entries[i]) return 0;
  return 1;
}

static int is_layer(const eq_program *program, const eq_step *step, int64_t *scratch) {
  int64_t stored, decoded, numbers = 4 * (int64_t)step->out_channels;
  if (step->groups < 1 || step->channels % step->groups || step->out_channels % step->groups) return 0;
  if (step->stride_rows < 1 || step->stride_columns < 1) return 0;
  if (step->kind == EQ_DEPTHWISE && (step->channels != step->groups || step->out_channels != step->groups)) return 0;
  if (step->kind == EQ_DEPTHWISE && step->flags & EQ_TO_FLOAT) return 0;
  if (step->per_byte != 1 && !is_trellis(program, step)) return 0;
  weight_sizes(program, step, &stored, &decoded);
  *scratch = step->decoded + layer_scratch(step);
  return step->decoded % ALIGNED == 0 && decoded <= step->decoded && in_weights(program, step->weights, stored) &&
         in_weights(program, step->biases, numbers) && in_weights(program, step->multipliers, numbers) &&
         (!(step->flags & EQ_TO_FLOAT) || in_weights(program, step->offsets, numbers));
}

/* --- moves -------------------------------------------------------------------------------------------------------- */

/* Elements before and behind a place that the dimensions of a move reach; -1 if they are too many. */
static int64_t reach(const int32_t *sizes, const int32_t *strides, int32_t count, int64_t *before) {
  int64_t behind = 1;
  int32_t i;
  *before = 0;
  for (i = 0; i < count; i++) {
    int64_t length = times(sizes[i] - 1, strides[i] < 0 ? -(int64_t)strides[i] : strides[i]);
    if (strides[i] < 0)
      *before += length;
    else
      behind += length;
  }
  return behind;
}

static int is_move(const eq_program *program, const eq_step *step, range *from, range *to) {
  int32_t size = step->flags & EQ_FLOATS ? 4 : 1, count, i;
  const int32_t *about;
  int64_t elements = 1, before_from, before_to, from_behind, to_behind;
  if (!in_weights(program, step->weights, 4)) return 0;
  about = (const int32_t *)(const void *)(program->weights + step->weights);
  count = about[0];
  if (!between(count, 1, EQ_DIMENSIONS) || !in_weights(program, step->weights, 4 + 12 * (int64_t)count)) return 0;
  for (i = 1; i <= count; i++) {
    if (about[i] < 1) return 0;
    elements = times(elements, about[i]);
  }
  from_behind = reach(about + 1, about + 1 + count, count, &before_from);
  to_behind = reach(about + 1, about + 1 + 2 * count, count, &before_to);
  if (!in_source(program, step->from, from_behind, size, from)) return 0;
  if (!in_arena(program, step->to, times(to_behind, size), size, to)) return 0;
  from->begin -= before_from * size;
  to->begin -= before_to * size;
  /* no element is made twice: more of them than the arena holds would take forever */
  return from->begin >= 0 && to->begin >= 0 && elements <= program->header->arena;
}

static int is_gather(const eq_program *program, const eq_step *step) {
  const int32_t *indices;
  int32_t i;
  if (!in_weights(program, step->weights, 4 * (int64_t)step->out_channels)) return 0;
  indices = (const int32_t *)(const void *)(program->weights + step->weights);
  for (i = 0; i < step->out_channels; i++)
    if (!between(indices[i], 0, step->channels - 1)) return 0;
  return 1;
}

/* --- steps -------------------------------------------------------------------------------------------------------- */

static int by_rows(const eq_step *step) {
  return step->kind == EQ_CONVOLUTION || step->kind == EQ_DEPTHWISE || step->kind == EQ_ADD ||
         step->kind == EQ_MULTIPLY || step->kind == EQ_TABLE;
}

/* Sizes of a step along rows or along columns. */
static int along(int32_t size, int32_t made, int32_t kernel, int32_t stride, int32_t dilation, int32_t before) {
  return size >= 1 && made >= 1 && kernel >= 1 && stride >= 0 && dilation >= 1 && between(before, 0, LARGEST) &&
         (int64_t)made * stride <= LARGEST && (int64_t)kernel * dilation <= LARGEST;
}

static int is_usual(const eq_step *s) {
  return along(s->rows, s->out_rows, s->kernel_rows, s->stride_rows, s->dilation_rows, s->above) &&
         along(s->columns, s->out_columns, s->kernel_columns, s->stride_columns, s->dilation_columns, s->left) &&
         s->channels >= 1 && s->out_channels >= 1 && volume(s->rows, s->columns, s->channels) <= LARGEST &&
         volume(s->out_rows, s->out_columns, s->out_channels) <= LARGEST && between(s->from_zero, 0, 255) &&
         between(s->other_zero, 0, 255) && between(s->to_zero, 0, 255) && between(s->most, 0, 255) &&
         between(s->least, 0, s->most) && s->from_kept >= 1 && s->other_kept >= 1 && s->to_kept >= 1 && s->decoded >= 0;
}

/* Bytes of a map of which `kept` of `rows` rows are kept: if these are not all, by every thread. */
static int64_t kept_bytes(const eq_program *program, int32_t rows, int32_t kept, int64_t row) {
  if (kept >= rows) return times(rows, row);
  return times(program->header->threads, up_to(times(kept, row), ALIGNED));
}

static int is_same_map(const eq_step *step) {
  return step->rows == step->out_rows && step->columns == step->out_columns && step->channels == step->out_channels;
}

/* Bytes of the second value of a sum or product. */
static int64_t other_bytes(const eq_program *program, const eq_step *step) {
  int64_t row = times(step->out_columns - 1, step->stride_columns) + times(step->out_channels - 1, step->groups) + 1;
  int64_t rows = times(eq_least(step->other_kept, step->out_rows) - 1, step->stride_rows) + row;
  if (step->other_kept >= step->out_rows) return rows;
  return times(program->header->threads - 1, up_to(times(step->other_kept, step->stride_rows), ALIGNED)) + rows;
}

/* Whether a step that is not computed together with others reads and makes maps as a whole. */
static int is_whole(const eq_step *step) {
  int32_t two = step->kind == EQ_ADD || step->kind == EQ_MULTIPLY;
  if (step->flags & EQ_ROWS) return 1;
  if (!by_rows(step) && step->kind != EQ_MAX_POOL && step->kind != EQ_AVERAGE_POOL) return 1;
  return step->from_kept >= step->rows && step->to_kept >= step->out_rows &&
         (!two || step->other_kept >= step->out_rows || step->stride_rows == 0);
}

static int fits(const eq_program *program, const eq_step *step) {
  int32_t size = step->flags & EQ_FLOATS ? 4 : 1;
  int64_t map, made, scratch = 0;
  range from = {0, 0}, other = {0, 0}, to = {0, 0}, own = {0, 0};
  int ok = 0;
  if (step->kind >= EQ_POINTWISE)
#ifdef EQ_NO_FLOATS
    return 0;
#else
    return eq_floats_fit(program, step, &from, &other, &to) && apart(from, to) && apart(other, to);
#endif
  if (!is_usual(step) || !is_whole(step)) return 0;
  map = volume(step->rows, step->columns, step->channels);
  made = volume(step->out_rows, step->out_columns, step->out_channels);
  if (step->flags & EQ_ROWS) {
    map = kept_bytes(program, step->rows, step->from_kept, times(step->columns, step->channels));
    made = kept_bytes(program, step->out_rows, step->to_kept, times(step->out_columns, step->out_channels));
  }
  switch (step->kind) {
    case EQ_QUANTIZE:
      ok = is_same_map(step) && in_source(program, step->from, map, 4, &from) &&
           in_arena(program, step->to, made, 1, &to);
      break;
    case EQ_DEQUANTIZE:
      ok = is_same_map(step) && in_arena(program, step->from, map, 1, &from) &&
           in_target(program, step->to, made, 4, &to);
      break;
    case EQ_COPY:
      ok = is_same_map(step) && in_source(program, step->from, map, size, &from) &&
           in_target(program, step->to, made, size, &to);
      break;
    case EQ_CONVOLUTION:
    case EQ_DEPTHWISE:
      size = step->flags & EQ_TO_FLOAT ? 4 : 1;
      ok = is_layer(program, step, &scratch) && in_source(program, step->from, map, 1, &from) &&
           in_arena(program, step->to, times(made, size), size, &to);
      break;
    case EQ_ADD:
    case EQ_MULTIPLY:
      scratch = step->out_channels;
      ok = is_same_map(step) && between(step->groups, 0, 1) && in_source(program, step->from, map, 1, &from) &&
           in_arena(program, step->other, other_bytes(program, step), 1, &other) && in_arena(program, step->to, made, 1, &to);
      break;
    case EQ_TABLE:
      ok = is_same_map(step) && in_weights(program, step->weights, 256) &&
           in_source(program, step->from, map, 1, &from) && in_arena(program, step->to, made, 1, &to);
      break;
    case EQ_MAX_POOL:
    case EQ_AVERAGE_POOL:
      scratch = step->kind == EQ_AVERAGE_POOL ? 4 * (int64_t)step->channels : 0;
      ok = step->channels == step->out_channels && times(step->kernel_rows, step->kernel_columns) <= PIXELS &&
           in_source(program, step->from, map, 1, &from) && in_arena(program, step->to, made, 1, &to);
      break;
    case EQ_GLOBAL_AVERAGE:
      ok = step->channels == step->out_channels && times(step->rows, step->columns) <= PIXELS &&
           in_arena(program, step->from, map, 1, &from) && in_arena(program, step->to, made, 1, &to);
      break;
    case EQ_MOVE:
      ok = is_move(program, step, &from, &to);
      break;
    case EQ_GATHER:
      ok = is_gather(program, step) &&
           in_arena(program, step->from, volume(step->out_rows, step->channels, step->columns), 1, &from) &&
           in_arena(program, step->to, volume(step->out_rows, step->out_channels, step->columns), 1, &to);
      break;
    case EQ_FILL:
      ok = in_weights(program, step->weights, step->out_channels) && in_arena(program, step->to, made, 1, &to);
      break;
  }
  if (!ok || scratch > step->scratch_bytes || step->scratch_bytes % ALIGNED) return 0;
  if (scratch && !in_arena(program, step->scratch, times(program->header->threads, step->scratch_bytes), ALIGNED, &own))
    return 0;
  return apart(from, to) && apart(other, to) && apart(own, from) && apart(own, other) && apart(own, to);
}

/* Whether `count` steps can be computed row by row: each needs the rows that the one before makes. */
static int is_group(const eq_step *steps, int32_t count) {
  int32_t i;
  if (count == 1) return !(steps->flags & EQ_ROWS);
  for (i = 0; i < count; i++)
    if (!by_rows(steps + i) || !(steps[i].flags & EQ_ROWS) || (i && steps[i].rows != steps[i - 1].out_rows)) return 0;
  return 1;
}

const char *eq_check(const eq_program *program) {
  const eq_header *header = program->header;
  const eq_step *step = program->network.steps, *last = step + header->steps;
  const eq_end *end = program->ends, *last_end = end + header->inputs + header->outputs;
  int32_t i, count;
  if (!between(header->threads, 1, EQ_THREADS)) return "a damaged program: no room for one thread, or too many";
  if (header->arena > LARGEST || header->weights > LARGEST) return "a damaged program: more memory than 1 GB";
  for (; end < last_end; end++)
    if (!between(end->floats, 0, 1) || !between(end->elements, 1, LARGEST))
      return "a damaged program: an input or output without a type or a size";
  for (; step < last; step += count) {
    count = step->together;
    if (!between(count, 1, EQ_TOGETHER) || count > last - step || !is_group(step, count))
      return "a damaged program: steps that cannot be computed together";
    for (i = 0; i < count; i++)
      if (!fits(program, step + i)) return "a damaged program: a step beyond its memory";
  }
  return NULL;
}
