/* Runs the steps of a network in order; some of them together, row by row. */
#include "edgeq.h"

/* How many rows of what a step reads it needs for its output row `y`. */
static int32_t rows_needed(const eq_step *step, int32_t y) {
  int32_t needed = y + 1;
  if (step->kind == EQ_CONVOLUTION || step->kind == EQ_DEPTHWISE)
    needed = y * step->stride_rows - step->above + (step->kernel_rows - 1) * step->dilation_rows + 1;
  return needed < 1 ? 1 : needed < step->rows ? needed : step->rows;
}

/* Each step makes a row as soon as the rows that it reads are there, and only when the next one needs it: maps between
 * them are never there as a whole. */
static void run_together(const eq_context *context, const eq_step *steps, eq_perform perform, eq_prepare prepare) {
  int32_t made[EQ_TOGETHER], last = steps->together - 1, i;
  for (i = 0; i <= last; i++) {
    made[i] = 0;
    prepare(context, steps + i);
  }
  while (made[last] < steps[last].out_rows) {
    for (i = last; i > 0 && made[i - 1] < rows_needed(steps + i, made[i]);) i--;
    perform(context, steps + i, made[i], made[i] + 1);
    made[i]++;
  }
}

void eq_run(const eq_network *network, const uint8_t *weights, const void *const *inputs, void *const *outputs,
            void *arena, eq_perform perform, eq_prepare prepare) {
  eq_context context;
  int32_t i;
  context.weights = weights;
  context.trellises = network->trellises;
  context.arena = (uint8_t *)arena;
  context.inputs = inputs;
  context.outputs = outputs;
  for (i = 0; i < network->count; i += network->steps[i].together) {
    const eq_step *step = network->steps + i;
    if (step->together > 1)
      run_together(&context, step, perform, prepare);
    else
      perform(&context, step, 0, step->out_rows);
  }
}
