/* Runs the steps of a network in order; some of them together, row by row; each by all threads of a team. */
#include "primitives.h"

/* Whether rows of what a step makes can be made by themselves. */
static int is_by_rows(const eq_step *step) {
  switch (step->kind) {
    case EQ_QUANTIZE:
    case EQ_DEQUANTIZE:
    case EQ_COPY:
    case EQ_CONVOLUTION:
    case EQ_DEPTHWISE:
    case EQ_ADD:
    case EQ_MULTIPLY:
    case EQ_TABLE:
    case EQ_MAX_POOL:
    case EQ_AVERAGE_POOL:
    case EQ_POINTWISE:
    case EQ_RESAMPLE:
    case EQ_POOL_FLOATS: return 1;
    default: return 0;
  }
}

/* The first of `count` that is a part's; those up to the next part's first are. */
static int32_t share(int32_t count, int32_t part, int32_t parts) {
  return count / parts * part + eq_least(part, count % parts);
}

/* How much of `count` equal pieces of work the thread that has most of them does, of 1. */
static float slowest(int32_t count, int32_t parts) { return (float)((count + parts - 1) / parts) / (float)count; }

static int32_t units_of(const eq_step *step) {
  int32_t unit = eq_unit_channels(step->per_byte);
  return step->groups * ((step->out_channels / step->groups + unit - 1) / unit);
}

/* A convolution is shared by its units or by its rows, whichever is more even. */
static void run_step(eq_context *context, const eq_step *step, eq_perform perform, int32_t parts) {
  int32_t rows = step->out_rows, begin = 0, end = context->part == 0 ? rows : 0;
  if (parts > 1 && step->kind == EQ_CONVOLUTION && slowest(units_of(step), parts) < slowest(rows, parts)) {
    context->unit = context->part;
    context->units = parts;
    end = rows;
  } else if (is_by_rows(step)) {
    begin = share(rows, context->part, parts);
    end = share(rows, context->part + 1, parts);
  }
  if (begin < end) perform(context, step, begin, end);
  context->unit = 0;
  context->units = 1;
}

/* The rows of what a step reads that its output row `y` needs: from the first to before the last. */
static int32_t first_needed(const eq_step *step, int32_t y) {
  int32_t first = y;
  if (step->kind == EQ_CONVOLUTION || step->kind == EQ_DEPTHWISE) first = y * step->stride_rows - step->above;
  return first < 0 ? 0 : first < step->rows ? first : step->rows - 1;
}

static int32_t last_needed(const eq_step *step, int32_t y) {
  int32_t last = y + 1;
  if (step->kind == EQ_CONVOLUTION || step->kind == EQ_DEPTHWISE)
    last = y * step->stride_rows - step->above + (step->kernel_rows - 1) * step->dilation_rows + 1;
  return last < 1 ? 1 : last < step->rows ? last : step->rows;
}

/* Each step makes a row as soon as the rows that it reads are there, and only when the next one needs it: maps between
 * them are never there as a whole. Rows at the borders of threads are made by both. */
static void run_together(const eq_context *context, const eq_step *steps, eq_perform perform, eq_prepare prepare,
                         int32_t parts) {
  int32_t made[EQ_TOGETHER], last = steps->together - 1, end = share(steps[last].out_rows, context->part + 1, parts), i;
  made[last] = share(steps[last].out_rows, context->part, parts);
  if (made[last] == end) return;
  for (i = last; i > 0; i--) made[i - 1] = first_needed(steps + i, made[i]);
  for (i = 0; i <= last; i++) prepare(context, steps + i);
  while (made[last] < end) {
    for (i = last; i > 0 && made[i - 1] < last_needed(steps + i, made[i]);) i--;
    perform(context, steps + i, made[i], made[i] + 1);
    made[i]++;
  }
}

/* Whether threads have rows of their own of all maps between steps. */
static int is_apart(const eq_step *steps) {
  int32_t i;
  for (i = 0; i < steps->together - 1; i++)
    if (steps[i].to_kept >= steps[i].out_rows) return 0;
  return 1;
}

void eq_run(const eq_network *network, const uint8_t *weights, const void *const *inputs, void *const *outputs,
            void *arena, eq_perform perform, eq_prepare prepare, const eq_team *team) {
  int32_t parts = team ? team->parts : 1, i;
  eq_context context;
  context.weights = weights;
  context.windows = network->windows;
  context.arena = (uint8_t *)arena;
  context.inputs = inputs;
  context.outputs = outputs;
  context.part = team ? team->part : 0;
  context.unit = 0;
  context.units = 1;
  for (i = 0; i < network->count; i += network->steps[i].together) {
    const eq_step *step = network->steps + i;
    if (step->together == 1)
      run_step(&context, step, perform, parts);
    else if (is_apart(step))
      run_together(&context, step, perform, prepare, parts);
    else if (context.part == 0)
      run_together(&context, step, perform, prepare, 1);
    if (parts > 1) team->wait(team->barrier);
  }
}
