/* Scaling without floats. */
#ifndef EDGEQ_INTEGER_H
#define EDGEQ_INTEGER_H

#include "primitives.h"

/* As `add_bytes` of a set. */
void eq_add_integer(const eq_step *step, const uint8_t *a, const uint8_t *b, uint8_t *sum, int32_t count);

#endif
