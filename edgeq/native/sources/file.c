/* Runs a network from its file, which lies in memory as a whole: a header, the steps, the weights. */
#include "file.h"

#include <string.h>

static void perform(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  switch (step->kind) {
    case EQ_QUANTIZE: eq_quantize(context, step, begin, end); break;
    case EQ_DEQUANTIZE: eq_dequantize(context, step, begin, end); break;
    case EQ_COPY: eq_copy(context, step, begin, end); break;
    case EQ_CONVOLUTION: eq_convolution(context, step, begin, end); break;
    case EQ_DEPTHWISE: eq_depthwise(context, step, begin, end); break;
    case EQ_ADD: eq_add(context, step, begin, end); break;
    case EQ_MULTIPLY: eq_multiply(context, step, begin, end); break;
    case EQ_TABLE: eq_table(context, step, begin, end); break;
    case EQ_MAX_POOL: eq_max_pool(context, step, begin, end); break;
    case EQ_AVERAGE_POOL: eq_average_pool(context, step, begin, end); break;
    case EQ_GLOBAL_AVERAGE: eq_global_average(context, step, begin, end); break;
    case EQ_MOVE: eq_move(context, step, begin, end); break;
    case EQ_GATHER: eq_gather(context, step, begin, end); break;
    case EQ_FILL: eq_fill(context, step, begin, end); break;
#ifndef EQ_NO_FLOATS
    case EQ_POINTWISE: eq_pointwise(context, step, begin, end); break;
    case EQ_COMBINE: eq_combine(context, step, begin, end); break;
    case EQ_REDUCE: eq_reduce(context, step, begin, end); break;
    case EQ_NORMALIZE: eq_normalize(context, step, begin, end); break;
    case EQ_ORDER: eq_order(context, step, begin, end); break;
    case EQ_CONTRACT: eq_contract(context, step, begin, end); break;
    case EQ_RESAMPLE: eq_resample(context, step, begin, end); break;
    case EQ_POOL_FLOATS: eq_pool_floats(context, step, begin, end); break;
    case EQ_PICK: eq_pick(context, step, begin, end); break;
    case EQ_SOFTMAX_CODES: eq_softmax_codes(context, step, begin, end); break;
#endif
  }
}

static void prepare(const eq_context *context, const eq_step *step) {
  if (step->kind == EQ_CONVOLUTION) eq_decode_convolution(context, step);
  if (step->kind == EQ_DEPTHWISE) eq_decode_depthwise(context, step);
}

size_t eq_program_bytes(void) { return sizeof(eq_program); }

const char *eq_open(const void *file, size_t bytes, eq_program *program) {
  const uint8_t *start = (const uint8_t *)file;
  const eq_header *header = (const eq_header *)file;
  uint64_t ends, at;
  int32_t i;
  if (bytes < sizeof *header || memcmp(header->magic, "EQP3", 4) != 0) return "no program of edgeq's native engine";
  if (header->steps < 1 || header->inputs < 1 || header->outputs < 1 || header->arena < 0 || header->weights < 0)
    return "a damaged program: sizes below 1";
  program->header = header;
  ends = sizeof *header + (uint64_t)header->steps * sizeof(eq_step);
  at = ends + ((uint64_t)header->inputs + (uint64_t)header->outputs) * sizeof(eq_end);
  at = (at + 63) / 64 * 64;
  if (at > bytes || bytes - at != (uint64_t)header->weights) return "a damaged program: a part of it is missing";
  program->network.steps = (const eq_step *)(const void *)(start + sizeof *header);
  program->network.count = header->steps;
  program->ends = (const eq_end *)(const void *)(start + ends);
  program->weights = start + at;
  for (i = 0; i < 8; i++) program->network.windows[i] = NULL;
  return eq_check(program);
}

void eq_run_program(const eq_program *program, const void *const *inputs, void *const *outputs, void *arena,
                    const eq_team *team) {
  eq_run(&program->network, program->weights, inputs, outputs, arena, perform, prepare, team);
}
