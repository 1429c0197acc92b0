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
  int32_t threads; /* that there is room for */
} eq_header;

/* An input or output: floats or bytes. */
typedef struct {
  int32_t floats, elements;
} eq_end;

typedef struct {
  const eq_header *header;
  eq_network network;
  const eq_end *ends; /* inputs, then outputs */
  const uint8_t *weights;
} eq_program;

/* Read a file that lies in memory, at a multiple of 64; it stays there. Returns NULL, or what is wrong with it. The
 * file is not trusted: what is opened can be run on any values. */
const char *eq_open(const void *file, size_t bytes, eq_program *program);

/* The size of what `eq_open` fills, for callers without this header. */
size_t eq_program_bytes(void);

/* NULL, or what would go wrong if it ran: the part of `eq_open` that looks at steps. */
const char *eq_check(const eq_program *program);

/* Run it, alone if `team` is NULL; `arena` is of `program->header->arena` bytes, at a multiple of 64. */
void eq_run_program(const eq_program *program, const void *const *inputs, void *const *outputs, void *arena,
                    const eq_team *team);

#ifdef __cplusplus
}
#endif

#endif
