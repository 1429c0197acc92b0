/* Where the native engine's time goes, in JSON: the time of each step of a program, the median of so many runs, and how
 * many products a second this processor's dot-product instruction makes at most. See native_limit.py. */
#define _POSIX_C_SOURCE 199309L

#include "file.c" /* for what performs a step */
#include "primitives.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define STEPS 4000

static const eq_step *first;
static double spent[STEPS];

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec * 1e6 + (double)time.tv_nsec * 1e-3;
}

static void timed_perform(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {
  double began = now();
  perform(context, step, begin, end);
  spent[step - first] += now() - began;
}

static void timed_prepare(const eq_context *context, const eq_step *step) {
  double began = now();
  prepare(context, step);
  spent[step - first] += now() - began;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *values, int count) {
  qsort(values, (size_t)count, sizeof *values, ascending);
  return values[count / 2];
}

/* Products of bytes in a nanosecond; 0 if this processor has no instruction for sums of them. */
static double most_products(void) {
#if defined(__x86_64__)
  double best = 0;
  int i;
  if (!__builtin_cpu_supports("avx512vnni")) return 0;
  for (i = 0; i < 20; i++) {
    long rounds = 100000;
    double began = now(), found;
    __asm__ volatile(
        "1:\n"
        "vpdpbusd %%zmm30, %%zmm31, %%zmm0\n vpdpbusd %%zmm30, %%zmm31, %%zmm1\n"
        "vpdpbusd %%zmm30, %%zmm31, %%zmm2\n vpdpbusd %%zmm30, %%zmm31, %%zmm3\n"
        "vpdpbusd %%zmm30, %%zmm31, %%zmm4\n vpdpbusd %%zmm30, %%zmm31, %%zmm5\n"
        "vpdpbusd %%zmm30, %%zmm31, %%zmm6\n vpdpbusd %%zmm30, %%zmm31, %%zmm7\n"
        "vpdpbusd %%zmm30, %%zmm31, %%zmm8\n vpdpbusd %%zmm30, %%zmm31, %%zmm9\n"
        "dec %0\n jnz 1b"
        : "+r"(rounds)
        :
        : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9");
    found = 100000.0 * 10 * 64 / ((now() - began) * 1e3);
    if (found > best) best = found;
  }
  return best;
#else
  return 0;
#endif
}

static void *aligned(size_t bytes) {
  char *room = (char *)calloc(bytes + 64, 1);
  return room + 64 - (size_t)room % 64;
}

int main(int count, char **arguments) {
  int runs = count > 2 ? atoi(arguments[2]) : 200, i, run;
  FILE *file = fopen(arguments[1], "rb");
  void *content, *arena, *ends[16];
  double *samples, *whole, empty;
  eq_program program;
  const char *problem;
  long bytes;
  if (!file) return 1;
  fseek(file, 0, SEEK_END);
  bytes = ftell(file);
  rewind(file);
  content = aligned((size_t)bytes);
  if (fread(content, 1, (size_t)bytes, file) != (size_t)bytes) return 1;
  problem = eq_open(content, (size_t)bytes, &program);
  if (problem || program.network.count > STEPS || program.header->inputs + program.header->outputs > 16) {
    fprintf(stderr, "%s\n", problem ? problem : "too many steps, inputs or outputs");
    return 1;
  }
  first = program.network.steps;
  arena = aligned((size_t)program.header->arena);
  for (i = 0; i < program.header->inputs + program.header->outputs; i++)
    ends[i] = aligned(4 * (size_t)program.ends[i].elements);
  samples = (double *)calloc((size_t)(runs * program.network.count), sizeof *samples);
  whole = (double *)calloc((size_t)runs, sizeof *whole);
  empty = now();
  for (i = 0; i < 1000; i++) now();
  empty = (now() - empty) / 1000;
  for (run = -5; run < runs; run++) {
    double began = now();
    eq_run_program(&program, (const void *const *)ends, ends + program.header->inputs, arena, NULL);
    if (run >= 0) whole[run] = now() - began;
    for (i = 0; i < program.network.count; i++) spent[i] = 0;
    eq_run(&program.network, program.weights, (const void *const *)ends, ends + program.header->inputs, arena,
           timed_perform, timed_prepare, NULL);
    for (i = 0; run >= 0 && i < program.network.count; i++) samples[i * runs + run] = spent[i];
  }
  printf("{\"kernels\": \"%s\", \"products_a_ns\": %.1f, \"clock_us\": %.4f, \"whole_us\": %.1f, \"steps_us\": [",
         eq_here()->name, most_products(), empty, median(whole, runs));
  for (i = 0; i < program.network.count; i++)
    printf("%s%.2f", i ? ", " : "", median(samples + i * runs, runs));
  puts("]}");
  return 0;
}
