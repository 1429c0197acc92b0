/* The start of a program on a Cortex-M board of QEMU (mps2-an385, mps2-an500): files and text are the host's. */
#include <stdint.h>
#include <stdlib.h>

extern uint8_t stack[]; /* see mps2.ld */
int main(void);
void initialise_monitor_handles(void);

static void reset(void) {
#ifdef __ARM_FP
  *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* the float unit is off at first */
#endif
  initialise_monitor_handles();
  exit(main());
}

__attribute__((section(".vectors"), used)) static const void *const vectors[2] = {stack, reset};

void _init(void) {}
void _fini(void) {}
