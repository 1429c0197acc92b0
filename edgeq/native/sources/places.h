/* Places in a program's memory, for the checks of its steps. */
#ifndef EDGEQ_PLACES_H
#define EDGEQ_PLACES_H

#include "file.h"
#include "primitives.h"

#define ALIGNED 64
#define LARGEST (1 << 30) /* of any size: positions that kernels compute in int32 do not overflow */
#define PIXELS (1 << 23)  /* whose bytes are summed up in int32 */

/* Bytes of the arena; none of an input or output, which are elsewhere. */
typedef struct {
  int64_t begin, end;
} range;

static inline int apart(range a, range b) {
  return a.begin == a.end || b.begin == b.end || a.end <= b.begin || b.end <= a.begin;
}

/* A product of sizes; more than LARGEST if one of them is. */
static inline int64_t times(int64_t a, int64_t b) { return a > LARGEST || b > LARGEST ? (int64_t)LARGEST + 1 : a * b; }

static inline int64_t volume(int64_t a, int64_t b, int64_t c) { return times(times(a, b), c); }

static inline int64_t up_to(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

static inline int between(int32_t value, int32_t low, int32_t high) { return low <= value && value <= high; }

static inline int in_arena(const eq_program *program, int32_t place, int64_t bytes, int32_t aligned, range *found) {
  found->begin = place;
  found->end = place + bytes;
  return place >= 0 && place % aligned == 0 && found->end <= program->header->arena;
}

static inline int in_weights(const eq_program *program, int32_t place, int64_t bytes) {
  return place >= 0 && place % ALIGNED == 0 && place + bytes <= program->header->weights;
}

/* Elements of 1 or 4 bytes in the arena, or in one of `count` inputs or outputs. */
static inline int in_end(const eq_program *program, const eq_end *ends, int32_t count, int32_t place, int64_t elements,
                  int32_t size, range *found) {
  int32_t number = -1 - place;
  if (place >= 0) return in_arena(program, place, times(elements, size), size, found);
  found->begin = found->end = 0;
  return number < count && ends[number].elements >= elements && (ends[number].floats ? 4 : 1) == size;
}

static inline int in_source(const eq_program *program, int32_t place, int64_t elements, int32_t size, range *found) {
  return in_end(program, program->ends, program->header->inputs, place, elements, size, found);
}

static inline int in_target(const eq_program *program, int32_t place, int64_t elements, int32_t size, range *found) {
  const eq_end *outputs = program->ends + program->header->inputs;
  return in_end(program, outputs, program->header->outputs, place, elements, size, found);
}

/* Whether a step in float stays within its memory, and the bytes of the arena that it reads and makes. */
int eq_floats_fit(const eq_program *program, const eq_step *step, range *from, range *other, range *to);

#endif
