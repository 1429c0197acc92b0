/* The engine as a module of WebAssembly, which imports nothing: room in its memory, and a program that runs there. */
#include "file.h"
#include "trellis.h"

#ifdef __wasm__

#define EXPORTED(name) __attribute__((export_name(#name), visibility("default")))
#define PAGE 65536

extern unsigned char __heap_base;

/* Memory behind all that was given out so far, at a multiple of 64; 0 if there is no more. */
EXPORTED(reserve) size_t reserve(size_t bytes) {
  static size_t end;
  size_t start, have = (size_t)__builtin_wasm_memory_size(0) * PAGE;
  if (end == 0) end = (size_t)&__heap_base;
  start = (end + 63) / 64 * 64;
  end = start + bytes;
  if (end > have && __builtin_wasm_memory_grow(0, (end - have + PAGE - 1) / PAGE) == (size_t)-1) return 0;
  return start;
}

static eq_program program;

/* Read a program's file. Returns NULL, or a text that says what is wrong with it. */
EXPORTED(open_program) const char *open_program(const void *file, size_t bytes) {
  const char *wrong = eq_open(file, bytes, &program);
  int32_t i;
  if (wrong) return wrong;
  for (i = 0; i < program.network.count; i++) {
    const eq_step *step = program.network.steps + i;
    int32_t each = step->per_byte;
    int8_t *windows;
    if ((step->kind != EQ_CONVOLUTION && step->kind != EQ_DEPTHWISE) || each == 1 || each > 4) continue;
    if (program.network.windows[each - 1]) continue;
    windows = (int8_t *)reserve((size_t)eq_windows_bytes(each));
    if (windows) eq_make_windows(program.weights + step->trellis, each, windows);
    program.network.windows[each - 1] = windows;
  }
  return NULL;
}

EXPORTED(run_program) void run_program(const void *const *inputs, void *const *outputs, void *arena) {
  eq_run_program(&program, inputs, outputs, arena, NULL);
}

#endif
