/* A target of libFuzzer: opens a file as a program of the native engine and, if it is taken for one, runs it with the
 * inner loops of every instruction set that the processor has.
 *
 * Every buffer is of exactly the size that the file asks for, so that the address sanitizer sees the first byte beyond.
 */
#include <stdlib.h>
#include <string.h>

/* The set is chosen here; what the engine would choose has another name. */
#define eq_here eq_fastest
#include "here.c"
#undef eq_here
#include "places.h"

#define MEMORY (1 << 22) /* programs that take more are only opened: they would run for long */
#define WORK (1 << 24)   /* and so are those with more products or values that are read */

static int32_t set;

const eq_primitives *eq_here(void) { return eq_set(set); }

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);

static void *room(size_t bytes) {
  void *found;
  if (posix_memalign(&found, 64, bytes ? bytes : 1)) abort();
  return found;
}

/* How often loops at a place in the weights turn. */
static int64_t turns(const eq_program *program, int32_t place) {
  const int32_t *about = (const int32_t *)(const void *)(program->weights + place);
  int64_t found = 1;
  int32_t i;
  for (i = 0; i < about[0]; i++) found = times(found, about[1 + i]);
  return found;
}

/* About how many values a step reads. */
static int64_t work_of(const eq_program *program, const eq_step *step) {
  int64_t taps = times(step->kernel_rows, step->kernel_columns), found;
  switch (step->kind) {
    case EQ_COMBINE:
    case EQ_CONTRACT:
    case EQ_PICK: return times(turns(program, step->weights), step->channels);
    case EQ_REDUCE:
    case EQ_NORMALIZE:
    case EQ_ORDER:
    case EQ_SOFTMAX_CODES:
      found = times(turns(program, step->weights), turns(program, step->offsets));
      return times(found, step->out_channels);
    case EQ_CONVOLUTION: taps = times(taps, step->channels / step->groups); break;
  }
  return times(taps, volume(step->out_rows, step->out_columns, step->out_channels));
}

static int is_small(const eq_program *program) {
  const eq_header *header = program->header;
  int64_t work = 0;
  int32_t i;
  if (header->arena > MEMORY || header->weights > MEMORY) return 0;
  for (i = 0; i < header->inputs + header->outputs; i++)
    if (program->ends[i].elements > MEMORY) return 0;
  for (i = 0; i < header->steps; i++) work += work_of(program, program->network.steps + i);
  return work <= WORK;
}

static void run(const eq_program *program) {
  int32_t inputs = program->header->inputs, count = inputs + program->header->outputs, i;
  uint8_t *arena = (uint8_t *)room((size_t)program->header->arena);
  void **ends = (void **)room((size_t)count * sizeof(void *));
  memset(arena, 0, (size_t)program->header->arena);
  for (i = 0; i < count; i++) {
    size_t bytes = (size_t)program->ends[i].elements * (program->ends[i].floats ? 4 : 1);
    ends[i] = room(bytes);
    memset(ends[i], 0x41, bytes);
  }
  eq_run_program(program, (const void *const *)ends, ends + inputs, arena);
  for (i = 0; i < count; i++) free(ends[i]);
  free(ends);
  free(arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  uint8_t *file = (uint8_t *)room(size);
  eq_program program;
  memcpy(file, data, size);
  if (!eq_open(file, size, &program) && is_small(&program))
    for (set = 0; eq_set(set); set++) run(&program);
  free(file);
  return 0;
}

/* Mostly words of the head and the steps in place: files of other sizes are refused at once. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed) {
  static const int32_t values[] = {0,  1,  -1,  2,   3,    8,       16,      48,       63,
                                   64, 255, 256, 4096, 1 << 20, 1 << 30, INT32_MAX, INT32_MIN};
  size_t words = size / 4, head, at;
  int32_t value, steps;
  unsigned changes;
  if (words < 10 || seed % 16 == 0) return LLVMFuzzerMutate(data, size, most);
  srand(seed);
  memcpy(&steps, data + 4, 4);
  head = 9 + (steps > 0 ? (size_t)steps * (sizeof(eq_step) / 4) : 0) + 8;
  for (changes = 1 + (unsigned)rand() % 3; changes; changes--) {
    at = (size_t)rand() % (rand() % 8 && head < words ? head : words);
    memcpy(&value, data + 4 * at, 4);
    switch (rand() % 5) {
      case 0: value = values[(size_t)rand() % (sizeof values / sizeof *values)]; break;
      case 1: value += rand() % 17 - 8; break;
      case 2: value = (int32_t)((uint32_t)value << (rand() % 4)); break;
      case 3: value /= 2; break;
      default: memcpy(&value, data + 4 * ((size_t)rand() % words), 4);
    }
    memcpy(data + 4 * at, &value, 4);
  }
  return size;
}
