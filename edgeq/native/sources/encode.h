/* The encoder of trellis codes: encode.c; round.c uses it. */
#ifndef EDGEQ_ENCODE_H
#define EDGEQ_ENCODE_H
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif

/* A step of a byte: `weights` levels for `bits` new bits. Its table is `values`, [weights][count]; from node n, new bits
 * x look up entry first[n] + x. */
typedef struct {
  int32_t bits, weights, count;
  const int32_t *first;
  const float *values;
} eq_trellis_step;

/* How sequences of `bytes` bytes are encoded: the steps of a byte, `count`, and as eq_encode says. */
typedef struct {
  const eq_trellis_step *steps;
  int32_t count, bytes, tries, reach, room;
} eq_encoding;

size_t eq_encode_bytes(const eq_encoding *code);
void eq_encode(const eq_encoding *code, int32_t sequences, const float *targets, const float *importances, void *memory,
               uint8_t *made);
#endif
