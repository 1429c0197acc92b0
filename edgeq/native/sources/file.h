/* A network's file, see `edgeq/native/program.py`. */
#ifndef EDGEQ_FILE_H
#define EDGEQ_FILE_H

#include "edgeq.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  char magic[4];
  int32_t steps, inputs, outputs, arena, weights;
  int32_t codebooks[3];
} eq_header;

typedef struct {
  const eq_header *header;
  eq_network network;
  const uint8_t *weights;
} eq_program;

/* Read a file that lies in memory, at a multiple of 64; it stays there. Returns NULL, or what is wrong with it. */
const char *eq_open(const void *file, size_t bytes, eq_program *program);

/* Run it; `arena` is of `program->header->arena` bytes, at a multiple of 64. */
void eq_run_program(const eq_program *program, const void *const *inputs, void *const *outputs, void *arena);

#ifdef __cplusplus
}
#endif

#endif
